//! Errors by what the caller can do about them. They carry evidence: which file, what was tried, what was found.

use marey_format::{DeviceId, Refusal, RefusalCode, SessionId};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The disk, or what stands on it, did not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StorageError {
    /// The operating system refused or failed.
    #[error("{action} {path}: {source}")]
    Io {
        action: &'static str,
        path: PathBuf,
        source: Arc<io::Error>,
    },
    /// Below the disk floor: nothing on disk is harmed, intake goes on by itself when there is room.
    #[error(
        "the disk has {free_bytes} bytes left, below the floor of {floor_bytes}; make room and intake goes on"
    )]
    Floor { free_bytes: u64, floor_bytes: u64 },
    /// An earlier write or sync failed: what it covered may be lost, and trying again on the same file proves nothing.
    #[error(
        "storage stopped after an earlier failure ({first}); restart the hub, it recovers what was acknowledged"
    )]
    Poisoned { first: String },
    /// A file that is not what its place says.
    #[error("{path}: {what}")]
    Damaged { path: PathBuf, what: String },
}

impl StorageError {
    /// Wraps an error of the disk seam.
    pub fn io(action: &'static str, path: impl AsRef<Path>, source: io::Error) -> Self {
        Self::Io {
            action,
            path: path.as_ref().to_owned(),
            source: Arc::new(source),
        }
    }

    pub fn damaged(path: impl AsRef<Path>, what: impl ToString) -> Self {
        Self::Damaged {
            path: path.as_ref().to_owned(),
            what: what.to_string(),
        }
    }

    /// Whether the disk was full.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Floor { .. } => true,
            Self::Io { source, .. } => {
                matches!(
                    source.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
                )
            }
            _ => false,
        }
    }

    /// The refusal that a device gets while this lasts.
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::Floor { .. } => Refusal::new(RefusalCode::DiskFloor, self.to_string()),
            _ => Refusal::new(
                RefusalCode::StorageFailed,
                "the hub's disk failed; keep your data and try again later",
            ),
        }
    }
}

/// A hub's folder can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("no hub in {path}: hub.json is missing; run `marey init DIR` to make one")]
    NotAHub { path: PathBuf },
    #[error("the hub in {path} is already open{}; stop that one first, or talk to it with the same --dir", holder(.pid))]
    AlreadyOpen { path: PathBuf, pid: Option<u32> },
    #[error(
        "{path} is missing, and with it who may connect; restore it from a backup (the recordings need none of it)"
    )]
    IdentityMissing { path: PathBuf },
    #[error("{path} is there already; a hub is made in an empty folder")]
    Exists { path: PathBuf },
    #[error(transparent)]
    Storage(#[from] StorageError),
}

fn holder(pid: &Option<u32>) -> String {
    pid.map(|pid| format!(" by process {pid}")).unwrap_or_default()
}

/// Something was asked of a session that it can't do.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error("no session {0}; `marey session list` shows those that there are")]
    Unknown(SessionId),
    #[error("session {0} is there already; choose another name")]
    Exists(SessionId),
    #[error("session {wanted} differs from {found} in case alone; some file systems can't hold both")]
    CaseAlone { wanted: SessionId, found: SessionId },
    #[error("session {session} is {state}; {verb} takes one that is {takes}")]
    State {
        session: SessionId,
        state: &'static str,
        verb: &'static str,
        takes: &'static str,
    },
    #[error("{device} is being recorded in session {other}; stop that one first")]
    RecordedElsewhere { device: DeviceId, other: SessionId },
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A log can't be opened for a device: what to tell it.
#[derive(Debug, thiserror::Error)]
pub enum LogOpenError {
    #[error("{0}")]
    Refused(Refusal),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl LogOpenError {
    /// What the device is told.
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::Refused(refusal) => refusal.clone(),
            Self::Storage(error) => error.refusal(),
        }
    }
}
