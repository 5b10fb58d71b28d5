//! What a flush of a log writes, and in which order: the frames, and behind them the footer of a segment that is sealed.
//!
//! `writer` decides what goes; here it goes to the disk, with no lock held.

use super::landmark::Landmark;
use super::pending::Pending;
use crate::disk::{self, Disk, OpenMode};
use crate::error::StorageError;
use std::path::{Path, PathBuf};

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
    /// The predecessor of a fresh segment, whose header says that it was sealed, where nobody in this run synced that.
    pub(super) unsynced_before: Option<(PathBuf, u64)>,
    pub(super) offset: u64,
    /// Header and frames.
    pub(super) bytes: Pending,
    /// Of a segment that is sealed by this flush. A footer that can be read proves that what stands before it was synced: the
    /// journal need not have these frames, since a flush that makes room in it writes what it was to take next as well. And in
    /// a segment that recovery makes it proves that what its predecessor had is safe here. So the frames are synced first.
    pub(super) footer: Option<Vec<u8>>,
    /// What the log adds up to at the end of the segment that is sealed.
    pub(super) landmark: Option<Landmark>,
    /// False where nobody counts on it: a seal and a new name are synced all the same.
    pub(super) sync: bool,
}

impl Flushing {
    /// The same without a sync of what is not sealed.
    pub fn unsynced(self) -> Self {
        Self { sync: false, ..self }
    }

    /// The buffer, to be used again.
    pub fn into_buffer(self) -> Vec<u8> {
        self.bytes.into_buffer()
    }

    /// Writes and syncs. A file that is new gets its name synced as well.
    ///
    /// # Errors
    /// After an error of the write the same call may be tried again; after an error of the sync nothing is known.
    pub fn write(&self, disk: &dyn Disk) -> Result<(), FlushError> {
        let io = |action| move |error| StorageError::io(action, disk.describe(&self.path), error);
        if let Some((path, data_bytes)) = &self.unsynced_before {
            sync_footer(disk, path, *data_bytes).map_err(FlushError::Write)?;
        }
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
        file.write_slices_at(self.offset, &mut self.bytes.slices())
            .map_err(io("writing"))
            .map_err(FlushError::Write)?;
        if let Some(footer) = &self.footer {
            file.sync().map_err(io("syncing")).map_err(FlushError::Sync)?;
            let data_bytes = self.offset + self.bytes.len() as u64;
            file.write_at(data_bytes, footer)
                .map_err(io("sealing"))
                .map_err(FlushError::Write)?;
            file.set_len(data_bytes + footer.len() as u64)
                .map_err(io("cutting"))
                .map_err(FlushError::Write)?;
        }
        if self.sync || self.footer.is_some() {
            file.sync().map_err(io("syncing")).map_err(FlushError::Sync)?;
        }
        if self.fresh {
            disk.sync_dir(&self.dir)
                .map_err(io("syncing the folder of"))
                .map_err(FlushError::Sync)?;
        }
        if let Some(Err(error)) = self.landmark.as_ref().map(|mark| mark.write(disk, &self.dir)) {
            tracing::debug!(log = %disk.describe(&self.dir).display(), %error, "no landmark; opening takes longer");
        }
        Ok(())
    }
}

/// Makes a footer durable that an earlier run of the hub wrote, and that can be read. That run may have died before its sync: so
/// it is synced. Or the sync failed, and the system takes for written what it holds only in memory: so it is written again, as
/// it stands there, if it can still be read. The data before it were synced before it was written. On a disk that takes no writes
/// nothing waits for a sync.
pub(crate) fn sync_footer(disk: &dyn Disk, path: &Path, data_bytes: u64) -> Result<(), StorageError> {
    use std::io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    let write = || {
        let file = disk.open(path, OpenMode::ReadWrite)?;
        let mut footer = vec![0; file.len()?.saturating_sub(data_bytes) as usize];
        if let Ok(read) = file.read_at(data_bytes, &mut footer) {
            file.write_at(data_bytes, &footer[..read])?;
        }
        file.sync()
    };
    match write() {
        Err(error) if [PermissionDenied, ReadOnlyFilesystem].contains(&error.kind()) => Ok(()),
        done => done.map_err(|error| StorageError::io("syncing the footer of", disk.describe(path), error)),
    }
}

/// Which part of a flush failed.
#[derive(Debug)]
pub(crate) enum FlushError {
    Write(StorageError),
    Sync(StorageError),
}
