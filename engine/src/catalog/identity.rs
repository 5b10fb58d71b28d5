//! Who may connect: devices and what they may do. Bytes by kind and key; what they mean is the caller's business.

use super::{Base, failed, guarded, open};
use crate::disk::Disk;
use crate::error::{OpenError, StorageError};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, TableHandle};
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

/// One entry of a dump.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityEntry {
    pub kind: String,
    pub key: String,
    pub value: Vec<u8>,
}

/// The entries within [`Identity::transact`].
pub struct Entries<'a, 't> {
    table: redb::Table<'t, (&'static str, &'static str), &'static [u8]>,
    path: &'a PathBuf,
    /// The database failed: what follows is of no use.
    has_failed: bool,
}

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
        self.each(kind, |key, value| (key.to_owned(), value.to_vec()))
    }

    /// All keys of a kind, in order.
    pub fn keys(&self, kind: &str) -> Result<Vec<String>, StorageError> {
        self.each(kind, |key, _| key.to_owned())
    }

    fn each<T>(&self, kind: &str, take: impl Fn(&str, &[u8]) -> T) -> Result<Vec<T>, StorageError> {
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
                found.push(take(key.value().1, value.value()));
            }
            Ok(found)
        })
    }

    /// Everything, as it stood at one moment: kind, key, value. For backups.
    ///
    /// # Errors
    /// Also where there is a table that this version does not know: what it holds would be left out.
    pub fn dump(&self) -> Result<Vec<IdentityEntry>, StorageError> {
        let failed = failed(&self.path);
        self.using(|database| {
            let read = database.begin_read().map_err(|e| failed(e.into()))?;
            if let Some(other) = read
                .list_tables()
                .map_err(|e| failed(e.into()))?
                .find(|table| table.name() != ENTRIES.name())
            {
                let what = format!(
                    "it has a table {:?} that this version does not know",
                    other.name()
                );
                return Err(StorageError::damaged(&self.path, what));
            }
            let table = read.open_table(ENTRIES).map_err(|e| failed(e.into()))?;
            let mut found = Vec::new();
            for entry in table.iter().map_err(|e| failed(e.into()))? {
                let (key, value) = entry.map_err(|e| failed(e.into()))?;
                let (kind, key) = key.value();
                found.push(IdentityEntry {
                    kind: kind.to_owned(),
                    key: key.to_owned(),
                    value: value.value().to_vec(),
                });
            }
            Ok(found)
        })
    }

    /// Puts in what a dump gave, all of it or nothing.
    pub(crate) fn fill(&self, entries: &[IdentityEntry]) -> Result<(), StorageError> {
        self.write(|table| {
            for entry in entries {
                table.insert((entry.kind.as_str(), entry.key.as_str()), entry.value.as_slice())?;
            }
            Ok(())
        })
    }

    /// Reads and changes several keys as one: when it returns Ok all of it is durable; an error of `act` undoes what it
    /// did. One at a time: what `act` reads nobody else changes before it is done. It must not use this [`Identity`].
    ///
    /// # Errors
    /// What `act` says, or the storage.
    pub fn transact<T, E: From<StorageError>>(
        &self,
        act: impl FnOnce(&mut Entries<'_, '_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let failed = failed(&self.path);
        let mut refused = None;
        let done = self.using(|database| {
            let mut write = database.begin_write().map_err(|e| failed(e.into()))?;
            write.set_quick_repair(true);
            let (outcome, has_failed) = {
                let table = write.open_table(ENTRIES).map_err(|e| failed(e.into()))?;
                let mut entries = Entries {
                    table,
                    path: &self.path,
                    has_failed: false,
                };
                let outcome = act(&mut entries);
                (outcome, entries.has_failed)
            };
            match outcome {
                Ok(value) if !has_failed => {
                    write.commit().map_err(|e| failed(e.into()))?;
                    Ok(Some(value))
                }
                outcome => {
                    refused = outcome.err();
                    write.abort().map_err(|e| failed(e.into()))?;
                    if has_failed {
                        return Err(StorageError::damaged(&self.path, "a change failed half-way"));
                    }
                    Ok(None)
                }
            }
        });
        match (refused, done) {
            (Some(refused), _) => Err(refused),
            (None, Ok(Some(value))) => Ok(value),
            (None, Ok(None)) => unreachable!("a change is done, refused or failed"),
            (None, Err(error)) => Err(error.into()),
        }
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

impl Entries<'_, '_> {
    /// The value of a key.
    pub fn get(&mut self, kind: &str, key: &str) -> Result<Option<Vec<u8>>, StorageError> {
        let value = self.table.get((kind, key));
        let value = value.map(|value| value.map(|value| value.value().to_vec()));
        self.noting(value)
    }

    /// Sets the value of a key.
    pub fn put(&mut self, kind: &str, key: &str, value: &[u8]) -> Result<(), StorageError> {
        let put = self.table.insert((kind, key), value).map(|_| ());
        self.noting(put)
    }

    /// Removes a key; whether it was there.
    pub fn remove(&mut self, kind: &str, key: &str) -> Result<bool, StorageError> {
        let removed = self.table.remove((kind, key)).map(|value| value.is_some());
        self.noting(removed)
    }

    /// All keys of a kind with their values, in order.
    pub fn list(&mut self, kind: &str) -> Result<Vec<(String, Vec<u8>)>, StorageError> {
        let list = || {
            let mut found = Vec::new();
            for entry in self.table.range((kind, "")..)? {
                let (key, value) = entry?;
                if key.value().0 != kind {
                    break;
                }
                found.push((key.value().1.to_owned(), value.value().to_vec()));
            }
            Ok(found)
        };
        let found = list();
        self.noting(found)
    }

    fn noting<T>(&mut self, result: Result<T, redb::StorageError>) -> Result<T, StorageError> {
        result.map_err(|error| {
            self.has_failed = true;
            failed(self.path)(error.into())
        })
    }
}

impl std::fmt::Debug for Entries<'_, '_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entries")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::memory::MemoryDisk;

    fn identity() -> (Arc<dyn Disk>, Identity) {
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
        let identity = Identity::create(&disk, 1 << 20).expect("it is made");
        (disk, identity)
    }

    #[test]
    fn a_transaction_is_all_or_nothing() {
        let (disk, identity) = identity();
        identity.put("invite", "phone", b"hash").expect("put");
        let done: Result<bool, StorageError> = identity.transact(|entries| {
            entries.put("device", "phone", b"certificate")?;
            assert_eq!(
                entries.get("device", "phone")?.as_deref(),
                Some(&b"certificate"[..])
            );
            assert_eq!(entries.list("device")?.len(), 1);
            entries.remove("invite", "phone")
        });
        assert!(done.expect("done"));
        #[derive(Debug, PartialEq)]
        enum No {
            Spent,
            Storage(String),
        }
        impl From<StorageError> for No {
            fn from(error: StorageError) -> Self {
                Self::Storage(error.to_string())
            }
        }
        let refused: Result<(), No> = identity.transact(|entries| {
            entries.put("device", "phone", b"another")?;
            match entries.remove("invite", "phone")? {
                true => Ok(()),
                false => Err(No::Spent),
            }
        });
        assert_eq!(refused, Err(No::Spent));
        drop(identity);
        let identity = Identity::open(&disk, 1 << 20).expect("it opens");
        assert_eq!(
            identity.get("device", "phone").expect("read").as_deref(),
            Some(&b"certificate"[..])
        );
        assert_eq!(identity.get("invite", "phone").expect("read"), None);
    }

    #[test]
    fn the_keys_of_a_kind_are_its_own_in_order() {
        let (_, identity) = identity();
        for (kind, key) in [
            ("device", "watch"),
            ("devices", "a"),
            ("device", "Phone"),
            ("devic", "z"),
        ] {
            identity.put(kind, key, b"record").expect("put");
        }
        assert_eq!(identity.keys("device").expect("read"), ["Phone", "watch"]);
        let listed = identity.list("device").expect("read");
        assert_eq!(listed[0], ("Phone".to_owned(), b"record".to_vec()));
        assert_eq!(identity.keys("nothing").expect("read"), [""; 0]);
    }

    #[test]
    fn transactions_come_one_after_the_other() {
        let (_, identity) = identity();
        let count = |entries: &mut Entries<'_, '_>| -> Result<(), StorageError> {
            let before = entries.get("pki", "n")?.map_or(0, |bytes| bytes[0]);
            std::thread::yield_now();
            entries.put("pki", "n", &[before + 1])
        };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10).for_each(|_| identity.transact(count).expect("counted")));
            }
        });
        assert_eq!(identity.get("pki", "n").expect("read"), Some(vec![40]));
    }
}
