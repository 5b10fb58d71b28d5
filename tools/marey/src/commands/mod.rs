//! One file for each verb.

pub mod cat;
pub mod clock;
pub mod compact;
pub mod completions;
pub mod demo;
pub mod device;
pub mod hub;
pub mod import;
pub mod info;
pub mod init;
pub mod realign;
pub mod recover;
pub mod selftest;
pub mod session;
pub mod simulate;
pub mod verify;
