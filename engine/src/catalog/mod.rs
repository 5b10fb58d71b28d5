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
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Opens a database on the disk, made if `create` says so.
fn open(disk: &Arc<dyn Disk>, path: &Path, cache_bytes: usize, create: bool) -> Result<Base, StorageError> {
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
    guarded(&shown, || {
        redb::Builder::new()
            .set_cache_size(cache_bytes)
            .create_with_backend(DiskBackend::new(file))
            .map(|database| Base(Some(database)))
            .map_err(|error| StorageError::damaged(&shown, error))
    })
}

/// A database that is open. redb writes while it closes, and panics there as well where its pages are damaged: what was
/// committed is on the disk before, so that closing has nothing to say.
#[derive(Debug)]
struct Base(Option<redb::Database>);

impl std::ops::Deref for Base {
    type Target = redb::Database;

    fn deref(&self) -> &redb::Database {
        self.0.as_ref().expect("it goes when this is dropped")
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        let database = self.0.take();
        let _ = catch_unwind(AssertUnwindSafe(|| drop(database)));
    }
}

/// redb trusts its own pages and panics where one is not what it wrote: here that is damage like any other.
fn guarded<T>(path: &Path, act: impl FnOnce() -> Result<T, StorageError>) -> Result<T, StorageError> {
    catch_unwind(AssertUnwindSafe(act)).unwrap_or_else(|panic| {
        let said = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no reason given");
        Err(StorageError::damaged(
            path,
            format!("its pages are damaged: {said}"),
        ))
    })
}

/// A redb error, with the file that it concerns.
fn failed(path: &PathBuf) -> impl Fn(redb::Error) -> StorageError + '_ {
    move |error| match error {
        redb::Error::Io(error) => StorageError::io("using", path, error),
        other => StorageError::damaged(path, other),
    }
}
