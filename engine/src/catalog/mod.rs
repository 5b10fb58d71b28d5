//! What stands in redb: the catalog, which is an index and can be deleted, and identity, which can't.
//!
//! Both go through the disk seam (`backend`), so that crash tests tear them as well. One commit per change of a session
//! or of an identity, never per sample.

mod backend;
mod identity;
mod index;

pub use identity::{Entries, Identity, IdentityEntry};
pub(crate) use index::Catalog;

use crate::disk::{Disk, OpenMode};
use crate::error::StorageError;
use backend::{DiskBackend, Ended};
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
    let ended = Ended::default();
    guarded(&shown, || {
        redb::Builder::new()
            .set_cache_size(cache_bytes)
            .create_with_backend(DiskBackend::new(file, ended.clone()))
            .map(|database| Base {
                database: Some(database),
                ended,
            })
            .map_err(|error| StorageError::damaged(&shown, error))
    })
}

/// A database that is open. What was committed is on the disk, and every commit says how to go on from it without a repair, so
/// that closing has nothing to write. redb would: and where a page is not what it wrote it panics there while it holds what its
/// own destructors need, which ends the process.
#[derive(Debug)]
struct Base {
    database: Option<redb::Database>,
    ended: Ended,
}

impl std::ops::Deref for Base {
    type Target = redb::Database;

    fn deref(&self) -> &redb::Database {
        self.database.as_ref().expect("it goes when this is dropped")
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        self.ended.set();
        let database = self.database.take();
        let _ = catch_unwind(AssertUnwindSafe(|| {
            if let Some(mut database) = database {
                // It reads first of all, and remembers that it could not: then it closes without a write.
                let _ = database.check_integrity();
            }
        }));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::faulty::{FaultyDisk, Plan};
    use crate::disk::memory::MemoryDisk;
    use redb::{ReadableDatabase, TableDefinition};

    const TABLE: TableDefinition<'_, u64, u64> = TableDefinition::new("t");
    const FILE: &str = "x.redb";

    fn put(base: &Base, key: u64) {
        let mut write = base.begin_write().expect("it takes writes");
        write.set_quick_repair(true);
        write
            .open_table(TABLE)
            .expect("a table")
            .insert(key, key)
            .expect("put");
        write.commit().expect("committed");
    }

    #[test]
    fn closing_writes_nothing_and_loses_nothing() {
        let faulty = Arc::new(FaultyDisk::new(MemoryDisk::new(), Plan::default()));
        let disk: Arc<dyn Disk> = faulty.clone();
        for turn in 0..20 {
            let base = open(&disk, Path::new(FILE), 1 << 20, turn == 0).expect("it opens");
            put(&base, turn);
            let before = faulty.operations();
            drop(base);
            assert_eq!(faulty.operations(), before, "turn {turn}");
        }
        let bytes = disk.stat(Path::new(FILE)).expect("asked").expect("there").bytes;
        assert!(bytes < 4 << 20, "{bytes} bytes for twenty rows");
        let base = open(&disk, Path::new(FILE), 1 << 20, false).expect("it opens");
        let read = base.begin_read().expect("it takes reads");
        let table = read.open_table(TABLE).expect("a table");
        for key in 0..20 {
            assert_eq!(
                table.get(key).expect("read").map(|value| value.value()),
                Some(key)
            );
        }
    }
}
