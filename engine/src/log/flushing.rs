//! What a flush of a log writes, and in which order: the frames, and behind them the footer of a segment that is sealed.
//!
//! `writer` decides what goes; here it goes to the disk, with no lock held.

use crate::disk::{self, Disk, OpenMode};
use crate::error::StorageError;
use std::path::PathBuf;

/// Whether a flush seals the segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seal {
    Now,
    /// If it is long enough.
    WhenDue,
    /// The next flush may: nobody is to wait for the syncs of a seal now.
    Later,
}

/// What a flush has to write.
#[derive(Debug)]
pub(crate) struct Flushing {
    pub path: PathBuf,
    pub(super) dir: PathBuf,
    pub(super) fresh: bool,
    pub(super) offset: u64,
    pub(super) bytes: Vec<u8>,
    /// Header and frames of a segment that is sealed by this flush.
    pub(super) seal: Option<u64>,
    /// Of a segment that is sealed: so many of the bytes are synced before the footer is written, which then proves them,
    /// and in one that recovery makes, that what its predecessor had is safe here.
    pub(super) data_first: Option<usize>,
    /// False where nobody counts on it: a seal and a new name are synced all the same.
    pub(super) sync: bool,
}

impl Flushing {
    /// The same without a sync of what is not sealed.
    pub fn unsynced(self) -> Self {
        Self { sync: false, ..self }
    }

    /// The buffer, to be used again.
    pub fn into_buffer(mut self) -> Vec<u8> {
        self.bytes.clear();
        self.bytes
    }

    /// Writes and syncs. A file that is new gets its name synced as well.
    ///
    /// # Errors
    /// After an error of the write the same call may be tried again; after an error of the sync nothing is known.
    pub fn write(&self, disk: &dyn Disk) -> Result<(), FlushError> {
        let io = |action| move |error| StorageError::io(action, disk.describe(&self.path), error);
        let file = if self.fresh {
            disk::create_dirs(disk, &self.dir)
                .map_err(io("making the folder of"))
                .map_err(FlushError::Write)?;
            // A try that failed before may have left the file behind.
            match disk.open(&self.path, OpenMode::CreateNew) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                    disk.open(&self.path, OpenMode::ReadWrite)
                }
                opened => opened,
            }
        } else {
            disk.open(&self.path, OpenMode::ReadWrite)
        };
        let file = file.map_err(io("opening")).map_err(FlushError::Write)?;
        let first = self.data_first.unwrap_or(self.bytes.len());
        file.write_at(self.offset, &self.bytes[..first])
            .map_err(io("writing"))
            .map_err(FlushError::Write)?;
        if self.data_first.is_some() {
            file.sync().map_err(io("syncing")).map_err(FlushError::Sync)?;
            file.write_at(self.offset + first as u64, &self.bytes[first..])
                .map_err(io("sealing"))
                .map_err(FlushError::Write)?;
        }
        if self.seal.is_some() {
            let end = self.offset + self.bytes.len() as u64;
            file.set_len(end)
                .map_err(io("cutting"))
                .map_err(FlushError::Write)?;
        }
        if self.sync || self.seal.is_some() {
            file.sync().map_err(io("syncing")).map_err(FlushError::Sync)?;
        }
        if self.fresh {
            disk.sync_dir(&self.dir)
                .map_err(io("syncing the folder of"))
                .map_err(FlushError::Sync)?;
        }
        Ok(())
    }
}

/// Which part of a flush failed.
#[derive(Debug)]
pub(crate) enum FlushError {
    Write(StorageError),
    Sync(StorageError),
}
