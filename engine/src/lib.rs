//! The engine of Marey: a store for recordings of many devices, durable before it says so.

#![deny(unsafe_code)]

pub mod disk;
pub mod error;
pub mod options;
mod parallel;
pub mod time;

pub mod annotation;
mod batch;
mod hub_file;
pub mod media;
pub mod session;
pub mod store;

pub mod audit;

mod catalog;
mod journal;
pub mod log;
pub mod state;

pub mod clock;
pub mod compact;
pub mod read;
pub mod salvage;

pub use audit::{Actor, AuditEvent, AuditFilter, AuditHead, AuditRecord, Outcome as AuditOutcome};
pub use batch::{Batch, Committed, LogHandle, Outcome, Stamp};
pub use catalog::{Entries, Identity, IdentityEntry};
pub use error::{LogOpenError, OpenError, SessionError, StorageError};
pub use options::{Durability, Options};
pub use session::{Moment, NewSession, Session, SessionState};
pub use store::{
    AtRest, Health, LogStatus, Note, NoteError, OpenedLog, RecoveryReport, RetireLogsError, SealError,
    Sealed, Store, StreamStatus,
};
