//! Who may connect: devices and what they may do. Bytes by kind and key; what they mean is the caller's business.

use super::{Base, failed, guarded, open};
use crate::disk::Disk;
use crate::error::{OpenError, StorageError};
use redb::{Database, ReadableDatabase, TableDefinition};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

const ENTRIES: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("entries");

/// `identity.redb`: each change is durable when the call returns.
#[derive(Debug)]
pub struct Identity {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    cache_bytes: usize,
    /// None since a failure: it is opened again by the next call. redb itself takes nothing after one, not even reads.
    database: RwLock<Option<Base>>,
}

const FILE: &str = "identity.redb";

impl Identity {
    pub(crate) fn create(disk: &Arc<dyn Disk>, cache_bytes: usize) -> Result<Self, StorageError> {
        let identity = Self::with(disk, cache_bytes, true)?;
        identity.write(|_| Ok(()))?;
        Ok(identity)
    }

    /// # Errors
    /// [`OpenError::IdentityMissing`] where there is none: it can't be made again from anything.
    pub(crate) fn open(disk: &Arc<dyn Disk>, cache_bytes: usize) -> Result<Self, OpenError> {
        let path = disk.describe(Path::new(FILE));
        let there = disk
            .stat(Path::new(FILE))
            .map_err(|error| StorageError::io("looking for", &path, error))?;
        if there.is_none_or(|stat| stat.bytes == 0) {
            return Err(OpenError::IdentityMissing { path });
        }
        Ok(Self::with(disk, cache_bytes, false)?)
    }

    fn with(disk: &Arc<dyn Disk>, cache_bytes: usize, create: bool) -> Result<Self, StorageError> {
        let database = open(disk, Path::new(FILE), cache_bytes, create)?;
        Ok(Self {
            path: disk.describe(Path::new(FILE)),
            disk: disk.clone(),
            cache_bytes,
            database: RwLock::new(Some(database)),
        })
    }

    /// The value of a key.
    pub fn get(&self, kind: &str, key: &str) -> Result<Option<Vec<u8>>, StorageError> {
        let failed = failed(&self.path);
        self.using(|database| {
            let read = database.begin_read().map_err(|e| failed(e.into()))?;
            let table = read.open_table(ENTRIES).map_err(|e| failed(e.into()))?;
            let value = table.get((kind, key)).map_err(|e| failed(e.into()))?;
            Ok(value.map(|value| value.value().to_vec()))
        })
    }

    /// Sets the value of a key.
    pub fn put(&self, kind: &str, key: &str, value: &[u8]) -> Result<(), StorageError> {
        self.write(|table| table.insert((kind, key), value).map(|_| ()))
    }

    /// Removes a key; whether it was there.
    pub fn remove(&self, kind: &str, key: &str) -> Result<bool, StorageError> {
        let mut was_there = false;
        self.write(|table| table.remove((kind, key)).map(|value| was_there = value.is_some()))?;
        Ok(was_there)
    }

    /// All keys of a kind with their values, in order.
    pub fn list(&self, kind: &str) -> Result<Vec<(String, Vec<u8>)>, StorageError> {
        let failed = failed(&self.path);
        self.using(|database| {
            let read = database.begin_read().map_err(|e| failed(e.into()))?;
            let table = read.open_table(ENTRIES).map_err(|e| failed(e.into()))?;
            let mut found = Vec::new();
            for entry in table.range((kind, "")..).map_err(|e| failed(e.into()))? {
                let (key, value) = entry.map_err(|e| failed(e.into()))?;
                if key.value().0 != kind {
                    break;
                }
                found.push((key.value().1.to_owned(), value.value().to_vec()));
            }
            Ok(found)
        })
    }

    /// Does something with the database, which after a failure is opened anew: what a full disk refused today is taken
    /// when there is room.
    fn using<T>(&self, act: impl FnOnce(&Database) -> Result<T, StorageError>) -> Result<T, StorageError> {
        let known = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let result = match &*known {
            Some(database) => guarded(&self.path, || act(database)),
            None => {
                drop(known);
                let mut known = self.database.write().unwrap_or_else(PoisonError::into_inner);
                let database = match known.take() {
                    Some(database) => database,
                    None => open(&self.disk, Path::new(FILE), self.cache_bytes, false)?,
                };
                let result = guarded(&self.path, || act(&database));
                *known = result.is_ok().then_some(database);
                return result;
            }
        };
        drop(known);
        result.inspect_err(|_| *self.database.write().unwrap_or_else(PoisonError::into_inner) = None)
    }

    fn write(
        &self,
        change: impl FnOnce(
            &mut redb::Table<'_, (&'static str, &'static str), &'static [u8]>,
        ) -> Result<(), redb::StorageError>,
    ) -> Result<(), StorageError> {
        let failed = failed(&self.path);
        self.using(|database| {
            let mut write = database.begin_write().map_err(|e| failed(e.into()))?;
            write.set_quick_repair(true);
            {
                let mut table = write.open_table(ENTRIES).map_err(|e| failed(e.into()))?;
                change(&mut table).map_err(|e| failed(e.into()))?;
            }
            write.commit().map_err(|e| failed(e.into()))
        })
    }
}
