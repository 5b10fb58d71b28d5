#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod limits;
pub mod version;

pub mod types;

pub mod checksum;
pub mod frame;
pub mod payload;

pub mod clock;
pub mod wire;

pub mod journal;
pub mod log;

pub mod audit;
pub mod documents;

pub mod json;
mod layout;
mod overview;
pub mod registry;

pub use checksum::{DigestChain, Seed};
pub use frame::{Flags, Frame, FrameError, Kind, Lane};
pub use registry::{Refusal, RefusalCode};
pub use types::{
    BootId, Declaration, DeviceId, EpochId, Field, FieldType, HubEpoch, KeyName, SessionId, StreamName,
    StudyId, UserId,
};

#[cfg(test)]
mod tests;
