//! `catalog.redb`: sessions and their logs, for whoever asks without wanting to read folders. Nothing in it is the only
//! place where it stands: it is made again whenever it is missing or can't be read.

use super::{Base, failed, guarded, open};
use crate::disk::Disk;
use crate::error::StorageError;
use crate::session::Session;
use redb::{ReadableDatabase, ReadableTable, TableDefinition};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

const SESSIONS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("sessions");

const FILE: &str = "catalog.redb";

/// Names and contents of sessions, in order.
type Rows = Vec<(String, Vec<u8>)>;

#[derive(Debug)]
pub(crate) struct Catalog {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    cache_bytes: usize,
    /// None since a failure: it is opened again for the next change. redb itself takes nothing after one.
    open: Mutex<Option<Opened>>,
}

/// The database, and what its errors are told with.
#[derive(Debug)]
struct Opened {
    database: Base,
    path: PathBuf,
}

impl Catalog {
    /// Opens the catalog and makes it say what the session folders say; makes a new one where it can't be read.
    pub fn open(
        disk: &Arc<dyn Disk>,
        cache_bytes: usize,
        sessions: &[Session],
    ) -> Result<Self, StorageError> {
        let catalog = Self {
            path: disk.describe(Path::new(FILE)),
            disk: disk.clone(),
            cache_bytes,
            open: Mutex::new(None),
        };
        let opened = catalog.open_anew(sessions)?;
        *catalog.lock() = Some(opened);
        Ok(catalog)
    }

    /// Puts one session in; `all` gives the others as well. What can't be written is made up for at the next change or
    /// opening: the session's own folder has said it already, and is what counts.
    pub fn put(&self, session: &Session, all: impl FnOnce() -> Vec<Session>) {
        let mut open = self.lock();
        let done = match &*open {
            Some(opened) => opened.write(|table| {
                table.insert(session.id.as_str(), json(session).as_slice())?;
                Ok(())
            }),
            None => self.open_anew(&all()).map(|opened| *open = Some(opened)),
        };
        if let Err(error) = done {
            tracing::warn!(%error, "the catalog lags behind; it is made again at the next change");
            *open = None;
        }
    }

    fn open_anew(&self, sessions: &[Session]) -> Result<Opened, StorageError> {
        let disk = &self.disk;
        let there = disk
            .stat(Path::new(FILE))
            .map_err(|error| StorageError::io("looking for", &self.path, error))?;
        if there.is_some() {
            match self
                .open_as(false)
                .and_then(|opened| opened.agree(sessions).map(|()| opened))
            {
                Ok(opened) => return Ok(opened),
                Err(error) => tracing::warn!(%error, "the catalog can't be read; making it again"),
            }
            disk.remove_file(Path::new(FILE))
                .map_err(|error| StorageError::io("removing", &self.path, error))?;
        }
        let opened = self.open_as(true)?;
        opened.agree(sessions)?;
        Ok(opened)
    }

    fn open_as(&self, create: bool) -> Result<Opened, StorageError> {
        Ok(Opened {
            database: open(&self.disk, Path::new(FILE), self.cache_bytes, create)?,
            path: self.path.clone(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Opened>> {
        self.open.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Opened {
    /// Makes the table hold these sessions and no others; writes nothing where it does.
    fn agree(&self, sessions: &[Session]) -> Result<(), StorageError> {
        let wanted: Rows = sessions.iter().map(|s| (s.id.to_string(), json(s))).collect();
        if self.rows()?.as_ref() == Some(&wanted) {
            return Ok(());
        }
        self.write(|table| {
            table.retain(|_, _| false)?;
            for (id, session) in &wanted {
                table.insert(id.as_str(), session.as_slice())?;
            }
            Ok(())
        })
    }

    fn rows(&self) -> Result<Option<Rows>, StorageError> {
        let failed = failed(&self.path);
        guarded(&self.path, || {
            let read = self.database.begin_read().map_err(|e| failed(e.into()))?;
            let table = match read.open_table(SESSIONS) {
                Ok(table) => table,
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
                Err(error) => return Err(failed(error.into())),
            };
            let mut rows = Vec::new();
            for entry in table.iter().map_err(|e| failed(e.into()))? {
                let (key, value) = entry.map_err(|e| failed(e.into()))?;
                rows.push((key.value().to_owned(), value.value().to_vec()));
            }
            Ok(Some(rows))
        })
    }

    fn write(
        &self,
        change: impl FnOnce(&mut redb::Table<'_, &'static str, &'static [u8]>) -> Result<(), redb::StorageError>,
    ) -> Result<(), StorageError> {
        let failed = failed(&self.path);
        guarded(&self.path, || {
            let mut write = self.database.begin_write().map_err(|e| failed(e.into()))?;
            write.set_quick_repair(true);
            {
                let mut table = write.open_table(SESSIONS).map_err(|e| failed(e.into()))?;
                change(&mut table).map_err(|e| failed(e.into()))?;
            }
            write.commit().map_err(|e| failed(e.into()))
        })
    }
}

fn json(session: &Session) -> Vec<u8> {
    serde_json::to_vec(session).expect("a session has string keys and finite numbers only")
}
