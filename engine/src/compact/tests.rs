//! Compaction of logs made by hand, on a disk in memory.

pub(crate) mod maker;

mod annotated;
mod crash;
mod retired;
mod unreadable;
mod whole;
