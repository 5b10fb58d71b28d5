//! The version numbers of what is written to disk and to the wire. `versions.md` says what may change under them.

/// Version of the wire protocol, the `v` of hello and welcome.
pub const WIRE: u32 = 1;

/// A reader that knows this number can read what is written today.
pub const LOG_READ: u16 = 1;

/// A writer that knows this number may write beside what is written today.
pub const LOG_WRITE: u16 = 1;

/// Version of the journal's records.
pub const JOURNAL: u32 = 1;

/// Version of `session.json`, of the manifest and of the receipt.
pub const SESSION: u32 = 1;

/// Version of the audit log's records.
pub const AUDIT: u32 = 1;
