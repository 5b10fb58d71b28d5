//! What a backup needs of a hub that goes on recording: all that was acknowledged in files that are never touched again,
//! and a hub made around what a backup gave back.
//!
//! Copying is the caller's business.

use super::Store;
use crate::catalog::{Identity, IdentityEntry};
use crate::disk::{self, Disk};
use crate::error::{OpenError, StorageError};
use crate::hub_file::{self, HUB_FILE};
use crate::journal::Journal;
use crate::log::{devices, segments};
use crate::options::Options;
use crate::session::Session;
use marey_format::{DeviceId, SessionId};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A segment that nobody writes to any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AtRest {
    pub device: DeviceId,
    /// Below the hub's folder.
    pub path: PathBuf,
    pub bytes: u64,
}

impl Store {
    /// Puts every frame that was acknowledged so far into segments that are sealed and synced: those that
    /// [`Store::segments_at_rest`] names from now on hold all of them. Recording goes on in fresh ones.
    pub fn seal_logs(&self) -> Result<(), StorageError> {
        let inner = self.inner();
        let commit = self.last_staged(&inner);
        self.drive(inner, commit)?;
        self.flush_all(true)?;
        // What the journal no longer has is proven to stand where it stands: a recovery after a crash leaves it there.
        self.write_barrier()
    }

    /// The segments of a session that nobody writes to any more. Ask for what is published first: what that was made of is
    /// among them.
    pub fn segments_at_rest(&self, id: &SessionId) -> Result<Vec<AtRest>, StorageError> {
        // While it is held nobody writes a log, so that what was handed out is written.
        let _serial = self.flush.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let (open, unwritten) = {
            let inner = self.inner();
            inner.check()?;
            let logs = inner.logs.iter().filter(|log| log.session == *id);
            let open: BTreeMap<DeviceId, u32> = logs.map(|log| (log.device.clone(), log.end().0)).collect();
            let unwritten: BTreeSet<PathBuf> = inner
                .unwritten
                .iter()
                .map(|(_, flushing)| flushing.path.clone())
                .collect();
            (open, unwritten)
        };
        let mut found = Vec::new();
        for device in devices(&*self.disk, id)? {
            let below = open.get(&device).copied().unwrap_or(u32::MAX);
            for (number, path, bytes) in segments(&*self.disk, &Session::log_dir(id, &device))? {
                if number < below && !unwritten.contains(&path) {
                    found.push(AtRest {
                        device: device.clone(),
                        path,
                        bytes,
                    });
                }
            }
        }
        Ok(found)
    }

    /// Makes a hub around the sessions that stand in a folder, as a backup gave them back: an empty journal, the identity
    /// that was dumped, and at last `hub.json`. What is to be durable of the rest must be so already.
    ///
    /// # Errors
    /// [`OpenError::Exists`] where there is a hub.
    pub fn init_around(
        disk: &Arc<dyn Disk>,
        hub_id: [u8; 16],
        identity: &[IdentityEntry],
        options: &Options,
    ) -> Result<(), OpenError> {
        let io = |error| StorageError::io("making", disk.describe(Path::new("")), error);
        for taken in [HUB_FILE, "journal", "identity.redb"].map(Path::new) {
            if disk.stat(taken).map_err(io)?.is_some() {
                let path = disk.describe(taken);
                return Err(OpenError::Exists { path });
            }
        }
        Journal::create(disk, options)?;
        disk::create_dirs(&**disk, Path::new("sessions")).map_err(io)?;
        let made = Identity::create(disk, options.catalog_cache_bytes)?;
        made.fill(identity)?;
        drop(made);
        hub_file::write(&**disk, hub_id).map_err(io)?;
        Ok(())
    }
}
