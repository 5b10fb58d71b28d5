//! Tests of the clock model as a whole, through its public face.
//!
//! `world` makes evidence of which the truth is known; `properties` and `reboots` hold the model against it,
//! `cases` has the plain examples, `recordings` the scenarios that come with scores.

mod cases;
mod properties;
mod reboots;
mod recordings;
mod world;
