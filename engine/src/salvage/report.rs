//! What `verify` found: counts of what was read, and every fault with its place.

use crate::log;
use marey_format::{DeviceId, SessionId};
use serde::{Serialize, Serializer};
use std::path::{Path, PathBuf};

/// What was looked at, and what is wrong with it.
#[derive(Clone, Debug, Serialize)]
pub struct VerifyReport {
    #[serde(serialize_with = "path")]
    pub path: PathBuf,
    /// A hub was running on it: what it was writing may have been seen half.
    pub live: bool,
    pub checked: Checked,
    pub faults: Vec<Fault>,
    /// What a person should know and that is no fault.
    pub notes: Vec<String>,
}

/// What was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Checked {
    pub sessions: u64,
    pub logs: u64,
    pub segments: u64,
    pub sealed_segments: u64,
    pub log_bytes: u64,
    /// Whole frames, those of the hub included.
    pub frames: u64,
    pub samples: u64,
    pub journal_records: u64,
    pub journal_frames: u64,
    pub parquet_files: u64,
    pub parquet_rows: u64,
    /// Files that were made again and compared.
    pub rebuilt_files: u64,
    pub audit_records: u64,
    /// Remarks on sessions.
    pub annotations: u64,
    pub media_files: u64,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    pub kind: FaultKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceId>,
    #[serde(serialize_with = "path")]
    pub file: PathBuf,
    /// Where in it, as far as that can be said.
    pub offset: Option<u64>,
    pub bytes: Option<u64>,
    pub cause: String,
}

/// What is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// Bytes that were on the disk once and can't be read any more.
    Damage,
    /// A write that was under way when the end came; never acknowledged.
    TornTail,
    /// Whole frames that nothing can be made of, since what they rest on is lost.
    Meaning,
    /// A sealed segment's index and its frames do not fit.
    Index,
    /// The commit journal.
    Journal,
    /// Parquet, manifest or receipt.
    Published,
    /// What was made again from the log differs.
    Rebuild,
    /// session.json, or a folder that is no session's.
    Session,
    /// hub.json, identity.redb.
    Hub,
    /// The audit log, or a receipt that names a record that it does not have.
    Audit,
    /// What people added: remarks, media files.
    Added,
    /// The disk refuses to read.
    Unreadable,
}

impl FaultKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Damage => "damage",
            Self::TornTail => "torn tail",
            Self::Meaning => "no meaning",
            Self::Index => "index",
            Self::Journal => "journal",
            Self::Published => "published",
            Self::Rebuild => "rebuild",
            Self::Session => "session",
            Self::Hub => "hub",
            Self::Audit => "audit",
            Self::Added => "added",
            Self::Unreadable => "unreadable",
        }
    }
}

impl Fault {
    /// A fault of a whole file.
    pub(super) fn of_file(kind: FaultKind, file: PathBuf, cause: impl ToString) -> Self {
        let cause = cause.to_string();
        Self {
            kind,
            session: None,
            device: None,
            file,
            offset: None,
            bytes: None,
            cause,
        }
    }

    /// A fault that reading a log gave.
    pub(super) fn of_log(fault: &log::Fault, session: &SessionId, device: &DeviceId) -> Self {
        let kind = match fault.kind {
            log::FaultKind::Damage => FaultKind::Damage,
            log::FaultKind::TornTail => FaultKind::TornTail,
        };
        Self {
            kind,
            session: Some(session.clone()),
            device: Some(device.clone()),
            file: fault.path.clone(),
            offset: Some(fault.offset),
            bytes: Some(fault.bytes),
            cause: fault.why.clone(),
        }
    }

    pub(super) fn in_session(mut self, session: &SessionId) -> Self {
        self.session = Some(session.clone());
        self
    }

    pub(super) fn of_device(mut self, device: &DeviceId) -> Self {
        self.device = Some(device.clone());
        self
    }

    pub(super) fn at(mut self, offset: u64, bytes: u64) -> Self {
        (self.offset, self.bytes) = (Some(offset), Some(bytes));
        self
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "{}: ", self.file.display())?;
        if let Some(offset) = self.offset {
            write!(to, "offset {offset}: ")?;
        }
        if let Some(bytes) = self.bytes.filter(|&bytes| bytes > 0) {
            write!(to, "{bytes} bytes: ")?;
        }
        match self.kind {
            FaultKind::Damage | FaultKind::TornTail => write!(to, "{}: {}", self.kind.as_str(), self.cause),
            _ => to.write_str(&self.cause),
        }
    }
}

/// A path as text, whatever its bytes are.
pub(super) fn path<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&path.display())
}
