//! The audit log: who did what to the hub, as a chain of hashes that nobody can edit unseen.
//!
//! ```text
//! scan      what a file of it holds: records, faults, a torn tail     (pure)
//! read      the files in order, each record once; the check of all    -> scan
//! writer    takes events; many that wait share one sync               -> read
//! ```
//!
//! Owns the folder `audit/`, whose layout is format-spec's `audit.md`. Does not own what is audited, or who is an actor:
//! those who call say. It is apart from the journal: a log that can't be written stops no recording, and a hub whose journal
//! failed can still say so here.
//!
//! Invariants: an event is durable when [`Audit::append`] returned its head. A byte that was written is never written again:
//! files are continued by their whole copies, torn tails stay where they are, hashed by the record that tells of them.

mod read;
mod scan;
mod writer;

#[cfg(test)]
mod tests;

pub use marey_format::audit::{AuditHead, AuditRecord, Outcome};
pub use read::{AuditChecked, AuditFault, AuditFaultKind, Named, check, read};
pub use writer::Audit;

use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The folder.
pub const DIR: &str = "audit";

/// Longest file that is taken for one of the log, in bytes: what is longer was not written by a hub.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Who did something.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Actor {
    /// The hub of itself: timers, recovery.
    Hub,
    /// A user of the machine who asked a running hub, by the peer of the control socket.
    Uid(u32),
    /// A user of the machine who worked on the hub's folder while no hub ran.
    Offline(u32),
    /// A person, by the name of the hub's user.
    User(String),
    /// A script with an API key of a user.
    Key { user: String, key: String },
    /// A device, and the serial of the certificate that it showed.
    Device { device: String, serial: Option<String> },
    /// Somebody who is not known, by address.
    Peer(String),
}

impl std::fmt::Display for Actor {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Hub => to.write_str("hub"),
            Self::Uid(uid) => write!(to, "uid:{uid}"),
            Self::Offline(uid) => write!(to, "uid:{uid}/offline"),
            Self::User(name) => write!(to, "user:{name}"),
            Self::Key { user, key } => write!(to, "user:{user}/key:{key}"),
            Self::Device { device, serial: None } => write!(to, "device:{device}"),
            Self::Device {
                device,
                serial: Some(serial),
            } => write!(to, "device:{device}/{serial}"),
            Self::Peer(address) => write!(to, "peer:{address}"),
        }
    }
}

/// Something that happened, and that the log is to hold.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditEvent {
    pub actor: Actor,
    /// A noun and a verb, like `device.revoke`.
    pub action: String,
    /// What it was done to.
    pub object: Option<String>,
    pub outcome: Outcome,
    /// Small, and without secrets: what is long is cut, what is much left out.
    pub details: BTreeMap<String, Value>,
}

impl AuditEvent {
    /// Something that was done.
    pub fn new(actor: Actor, action: impl Into<String>) -> Self {
        Self {
            actor,
            action: action.into(),
            object: None,
            outcome: Outcome::Allowed,
            details: BTreeMap::new(),
        }
    }

    /// To what it was done.
    #[must_use]
    pub fn on(mut self, object: impl ToString) -> Self {
        self.object = Some(object.to_string());
        self
    }

    /// How it went, if it was not done.
    #[must_use]
    pub fn outcome(mut self, outcome: Outcome) -> Self {
        self.outcome = outcome;
        self
    }

    /// One detail more.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.details.insert(key.into(), value.into());
        self
    }
}

/// Which records are wanted. Empty: all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// At or after this moment: an RFC 3339 time in UTC or its beginning, such as `2026-11-21`.
    pub from: Option<String>,
    /// Whole, or up to a `/`: `device:phone` is every certificate of it.
    pub actor: Option<String>,
    /// Whole, or up to a `.`: `device` is everything done to devices.
    pub action: Option<String>,
}

impl AuditFilter {
    /// Whether a record is wanted.
    pub fn takes(&self, record: &AuditRecord) -> bool {
        let begins = |text: &str, wanted: &Option<String>, end: char| {
            wanted.as_deref().is_none_or(|wanted| {
                text.strip_prefix(wanted)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with(end))
            })
        };
        // `..:00Z` is the second's beginning, and stands behind `..:00.5Z` as text.
        let from = self.from.as_deref().map(|from| from.trim_end_matches('Z'));
        from.is_none_or(|from| record.utc.as_str() >= from)
            && begins(&record.actor, &self.actor, '/')
            && begins(&record.action, &self.action, '.')
    }
}

/// Where the file of that number stands.
fn path(number: u32) -> PathBuf {
    Path::new(DIR).join(format!("{number:06}.jsonl"))
}

/// The number of a file of that name; none if it is none of the log's.
fn number(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".jsonl")?;
    let number = digits.parse().ok()?;
    (number > 0 && path(number).file_name()?.to_str() == Some(name)).then_some(number)
}
