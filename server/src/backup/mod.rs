//! Backups of a hub that goes on recording, and hubs made of them again.
//!
//! ```text
//! layout    what stands in a folder of backups: snapshots, parts, catalogues         format-spec/backup.md
//! crypt     age: recipients, identities, passphrases
//! objects   a store by hash: each content once, whole or not there
//! gather    the files of one session, of one moment
//! take      a snapshot: from sealed logs to the rename that makes it be there
//! taking    its content: sessions by study, and the hub's own files
//! folder    what a folder of backups has, and whether it is whole
//! prune     which parts of which snapshots go
//! restore   a snapshot becomes a hub, checked before anybody may start it
//! archive   one session as one file or folder, with the specification and what describes it
//! ca        the authority's keys, apart from everything else
//! ```
//!
//! # What holds
//! A snapshot appears as a whole, by one rename, when all that it names is durable. Every frame that was acknowledged
//! before it was begun is in it. Content is shared between snapshots, and goes when the last one that names it is gone.
//! Nothing here writes into the hub's folder, but for a word in `identity.redb` that a backup was taken.

mod archive;
mod ca;
mod crypt;
mod folder;
mod gather;
mod layout;
mod objects;
mod prune;
mod restore;
mod take;
mod taking;

#[cfg(test)]
mod tests;

pub use archive::{ArchiveForm, ArchiveSpec, Archived};
pub use ca::{Lock, put_back_ca, save_ca};
pub use crypt::{Identities, Recipients, new_identity};
pub use folder::{Checked, PartShown, SnapshotShown, check, list};
pub use layout::Part;
pub use prune::{Keep, Pruned, prune};
pub use restore::{RestoreSpec, Restored, restore};
pub use take::{BackupSpec, PartTaken, Taken};

pub(crate) use archive::archive;
pub(crate) use take::take;

use marey_engine::disk::{self, Disk, OpenMode, OsDisk};
use marey_engine::{OpenError, StorageError};
use std::io;
use std::path::{Component, Path, PathBuf};

/// Why nothing was backed up, pruned or restored: one sentence that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A file of the hub or of the folder of backups.
    #[error("{action} {}: {detail}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        detail: String,
    },
    /// Something that a backup wrote is not as it was written.
    #[error("{}: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// It would take the room that is kept for recording.
    #[error(
        "{needed_bytes} bytes more would leave less than {kept_bytes} free on the hub's disk, which are kept for recording \
         (twice the floor); {free_bytes} are free; back up to another disk, or make room; what was copied is used next time"
    )]
    NoRoom {
        /// What the next file takes.
        needed_bytes: u64,
        /// Twice the floor.
        kept_bytes: u64,
        /// What there is.
        free_bytes: u64,
    },
    /// The call itself.
    #[error("{0}")]
    Refused(String),
    /// Encryption or decryption.
    #[error("{0}")]
    Crypt(String),
    /// The store of the hub.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The hub that was made can't be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
}

impl BackupError {
    fn file(action: &'static str, path: impl AsRef<Path>, error: &io::Error) -> Self {
        Self::File {
            action,
            path: path.as_ref().to_owned(),
            detail: error.to_string(),
        }
    }

    fn damaged(path: impl AsRef<Path>, what: impl ToString) -> Self {
        Self::Damaged {
            path: path.as_ref().to_owned(),
            what: what.to_string(),
        }
    }
}

/// Where a folder stands, or will when it is made. Nothing is made yet: a folder that should not be there would be a fault of
/// whatever it stands in from then on.
fn place_of(folder: &Path) -> Result<PathBuf, BackupError> {
    let there = folder.ancestors().find(|path| path.exists()).unwrap_or(folder);
    let made = folder.strip_prefix(there).unwrap_or(Path::new(""));
    if made.components().any(|part| part == Component::ParentDir) {
        let (shown, there) = (folder.display(), there.display());
        return Err(BackupError::Refused(format!(
            "{shown} goes back by `..` from what is not there, below {there}; name the folder itself"
        )));
    }
    if there.is_file() {
        let (shown, there) = (folder.display(), there.display());
        return Err(BackupError::Refused(format!(
            "{shown} can be no folder, since {there} is a file; name another"
        )));
    }
    Ok(real(there)?.join(made))
}

fn real(path: &Path) -> Result<PathBuf, BackupError> {
    path.canonicalize()
        .map_err(|error| BackupError::file("looking at", path, &error))
}

/// A folder of the system that is made if it is not there, with those above it.
fn made_folder(path: &Path) -> Result<OsDisk, BackupError> {
    #[allow(
        clippy::disallowed_methods,
        reason = "a folder given by a person is the root of a disk"
    )]
    std::fs::create_dir_all(path).map_err(|error| BackupError::file("making", path, &error))?;
    Ok(OsDisk::new(path))
}

/// Nobody but the owner may look into it.
fn make_private(path: &Path) -> Result<(), BackupError> {
    rustix::fs::chmod(path, rustix::fs::Mode::RWXU)
        .map_err(|error| BackupError::file("closing to others", path, &error.into()))
}

/// Writes a file that must not be there yet, readable by its owner alone, durably.
fn write_new(path: &Path, bytes: &[u8]) -> Result<(), BackupError> {
    let failed = |error: io::Error| BackupError::file("writing", path, &error);
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(BackupError::Refused(format!(
            "{} is no path of a file",
            path.display()
        )));
    };
    let parent = if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        parent
    };
    let folder = OsDisk::new(parent);
    let file = folder
        .open(Path::new(name), OpenMode::CreateNew)
        .map_err(failed)?;
    file.write_at(0, bytes).map_err(failed)?;
    file.sync().map_err(failed)?;
    folder.sync_dir(Path::new("")).map_err(failed)
}

/// Reads a file that a person named, of at most so many bytes.
fn read_file(path: &Path, most: u64) -> Result<Vec<u8>, BackupError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let name = path.file_name().map(Path::new).unwrap_or(path);
    disk::read_all(&OsDisk::new(parent.unwrap_or(Path::new("."))), name, most)
        .map_err(|error| BackupError::file("reading", path, &error))
}

/// Makes every name below a folder durable.
fn sync_all(stage: &OsDisk) -> Result<(), BackupError> {
    let mut waiting = vec![PathBuf::new()];
    while let Some(dir) = waiting.pop() {
        let failed = |error: std::io::Error| BackupError::file("syncing", stage.describe(&dir), &error);
        stage.sync_dir(&dir).map_err(failed)?;
        let entries = stage.list(&dir).map_err(failed)?;
        waiting.extend(
            entries
                .into_iter()
                .filter(|entry| entry.stat.is_dir)
                .map(|entry| dir.join(entry.name)),
        );
    }
    Ok(())
}
