//! The audit log held against itself and against every receipt of the hub.
//!
//! Owns which files name a head. How the log is read is `audit`'s business.

use super::report::{Fault, FaultKind};
use crate::audit::{self, AuditChecked, Named};
use crate::compact::AuditFact;
use crate::disk::{self, Disk};
use crate::error::StorageError;
use marey_format::types::hex;
use serde::Deserialize;
use std::path::Path;

/// Longest receipt that is looked into, in bytes.
const RECEIPT_BYTES_MAX: u64 = 256 << 20;

/// Checks the audit log of the hub in a folder. With `live` a hub may be writing there.
///
/// # Errors
/// Where nothing can be said at all.
pub fn verify_audit(
    disk: &dyn Disk,
    hub_id: Option<[u8; 16]>,
    live: bool,
) -> Result<AuditChecked, StorageError> {
    // First, so that a running hub's log is at least as new.
    let mut unread = Vec::new();
    let named = receipts(disk, hub_id, &mut unread)?;
    let mut checked = audit::check(disk, hub_id, &named, live)?;
    checked.notes.extend(unread);
    Ok(checked)
}

impl Fault {
    /// A fault of the audit log.
    pub(super) fn of_audit(fault: audit::AuditFault) -> Self {
        Self {
            offset: fault.offset,
            bytes: fault.bytes,
            ..Self::of_file(FaultKind::Audit, fault.file, fault.cause)
        }
    }
}

/// What the receipts below `sessions/` name. Those that can't be read are `verify`'s to report; they are noted.
fn receipts(
    disk: &dyn Disk,
    hub_id: Option<[u8; 16]>,
    unread: &mut Vec<String>,
) -> Result<Vec<Named>, StorageError> {
    let hub = hub_id.map(|id| hex(&id));
    #[derive(Deserialize)]
    struct Audited {
        audit: Option<AuditFact>,
    }
    let dir = Path::new("sessions");
    let io = |error| StorageError::io("listing", disk.describe(dir), error);
    let mut named = Vec::new();
    if disk.stat(dir).map_err(io)?.is_none() {
        return Ok(named);
    }
    for session in disk.list(dir).map_err(io)? {
        let folder = dir.join(&session.name);
        if !session.stat.is_dir || !session.name.starts_with("session=") {
            continue;
        }
        for entry in disk.list(&folder).map_err(io)? {
            if !(entry.name.starts_with("receipt-") && entry.name.ends_with(".json")) {
                continue;
            }
            let path = folder.join(&entry.name);
            let by = disk.describe(&path);
            let read = disk::read_all(disk, &path, RECEIPT_BYTES_MAX)
                .map_err(|error| error.to_string())
                .and_then(|bytes| {
                    serde_json::from_slice::<Audited>(&bytes).map_err(|error| error.to_string())
                });
            match read {
                Ok(Audited { audit: Some(fact) }) if hub.as_ref().is_none_or(|hub| *hub == fact.hub) => {
                    named.push(Named { by, head: fact.head });
                }
                Ok(_) => {}
                Err(why) => unread.push(format!("{}: not held against the audit log: {why}", by.display())),
            }
        }
    }
    Ok(named)
}
