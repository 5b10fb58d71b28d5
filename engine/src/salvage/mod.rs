//! Looking into what a disk holds without opening a hub, and saving what is whole.
//!
//! ```text
//! source     what a path is: hub, session, log, segment             -> view
//! verify     reads everything, names every fault                    -> journal, rebuild
//! recover    copies every whole frame into a new folder             -> inventory, unsealed, rewrite, finding
//! contents   what a session holds, in numbers                      -> published, where that is all
//! audit      the audit log, and the receipts that name its heads
//! ```
//!
//! Owns the offline verbs. Nothing here writes to what it looks at: every source is seen through a `view` that refuses
//! writes, and what is made (a copy, a rebuilt Parquet) goes to another disk. It has no way of its own of reading logs,
//! journal or Parquet: those are `log`, `journal`, `compact`.

mod added;
mod audit;
mod contents;
mod finding;
mod inventory;
mod journal;
mod lost;
mod progress;
mod published;
mod rebuild;
mod recover;
mod report;
mod rewrite;
mod seeds;
mod short;
mod source;
mod unsealed;
mod verify;
mod view;

#[cfg(test)]
mod tests;

pub use audit::verify_audit;
pub use contents::{
    ClockContents, DeviceContents, EventContents, RetiredContents, RetiredStream, SessionContents,
    StreamContents, contents, events,
};
pub use lost::{Lost, LostBytes, LostFrames, LostSamples};
pub use progress::{Progress, Step};
pub use published::published_contents;
pub use recover::{RecoverReport, SalvagedLog, recover};
pub use report::{Checked, Fault, FaultKind, VerifyReport};
pub use source::{SessionFound, Source, What};
pub use verify::{Signatures, VerifyOptions, verify, verify_hub};

use crate::error::{OpenError, StorageError};
use std::path::PathBuf;

/// Why nothing can be said, or nothing was saved.
#[derive(Debug, thiserror::Error)]
pub enum SalvageError {
    #[error("{path} is not there")]
    Missing { path: PathBuf },
    #[error("{path} {what}; give the folder of a hub, of a session or of a device's log, or one .mlog file")]
    NotOurs { path: PathBuf, what: String },
    #[error(
        "nothing says which {what} {path} is of: no segment header can be read, and the folder's name does not say; \
         put it under sessions/session=NAME/logs/DEVICE/"
    )]
    Nameless { path: PathBuf, what: &'static str },
    #[error("{path} is not empty; what is salvaged goes into a new folder")]
    OutNotEmpty { path: PathBuf },
    /// The copy is not what was written: the disk that it went to is not to be trusted.
    #[error("{path}: {what}; the copy is not to be used, try another disk")]
    NotReadBack { path: PathBuf, what: String },
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Open(#[from] OpenError),
}
