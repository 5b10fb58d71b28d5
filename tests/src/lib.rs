//! What the tests across crates share: a recording made by hand, and the list of what was acknowledged.

pub mod hub;
pub mod load;
pub mod odd;
pub mod process;
pub mod prove;
pub mod python;
pub mod recording;
pub mod siege;
pub mod standstills;
pub mod web;
