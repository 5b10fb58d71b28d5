//! What stands in redb: the catalog, which is an index and can be deleted, and identity, which can't.
//!
//! Both go through the disk seam (`backend`), so that crash tests tear them as well. One commit per change of a session
//! or of an identity, never per sample.

mod backend;
mod identity;
mod index;

pub use identity::Identity;
pub(crate) use index::Catalog;

use crate::disk::{Disk, OpenMode};
use crate::error::StorageError;
use backend::DiskBackend;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Opens a database on the disk, made if `create` says so.
fn open(
    disk: &Arc<dyn Disk>,
    path: &Path,
    cache_bytes: usize,
    create: bool,
) -> Result<redb::Database, StorageError> {
    let shown = disk.describe(path);
    let mode = if create {
        OpenMode::CreateNew
    } else {
        OpenMode::ReadWrite
    };
    let file = disk
        .open(path, mode)
        .map_err(|error| StorageError::io("opening", &shown, error))?;
    if create {
        let dir = path.parent().unwrap_or(Path::new(""));
        disk.sync_dir(dir)
            .map_err(|error| StorageError::io("syncing", disk.describe(dir), error))?;
    }
    redb::Builder::new()
        .set_cache_size(cache_bytes)
        .create_with_backend(DiskBackend::new(file))
        .map_err(|error| StorageError::damaged(shown, error))
}

/// A redb error, with the file that it concerns.
fn failed(path: &PathBuf) -> impl Fn(redb::Error) -> StorageError + '_ {
    move |error| match error {
        redb::Error::Io(error) => StorageError::io("using", path, error),
        other => StorageError::damaged(path, other),
    }
}
