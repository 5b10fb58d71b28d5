//! The engine of Marey: a store for recordings of many devices, durable before it says so.

#![deny(unsafe_code)]

pub mod disk;
pub mod error;
pub mod options;
pub mod time;

mod batch;
mod hub_file;
pub mod session;
pub mod store;

mod catalog;
mod journal;
pub mod log;
pub mod state;

pub mod clock;
pub mod compact;
pub mod read;
pub mod salvage;

pub use batch::{Batch, Committed, LogHandle, Outcome, Stamp};
pub use catalog::Identity;
pub use error::{LogOpenError, OpenError, SessionError, StorageError};
pub use options::{Durability, Options};
pub use session::{Moment, NewSession, Session, SessionState};
pub use store::{Health, LogStatus, OpenedLog, RecoveryReport, SealError, Sealed, Store, StreamStatus};
