//! `catalog.redb`: sessions and their logs, for whoever asks without wanting to read folders. Nothing in it is the only
//! place where it stands: it is made again whenever it is missing or can't be read.

use super::{failed, open};
use crate::disk::Disk;
use crate::error::StorageError;
use crate::session::Session;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

const SESSIONS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("sessions");

const FILE: &str = "catalog.redb";

/// Names and contents of sessions, in order.
type Rows = Vec<(String, Vec<u8>)>;

#[derive(Debug)]
pub(crate) struct Catalog {
    database: Mutex<Database>,
    path: PathBuf,
}

impl Catalog {
    /// Opens the catalog and makes it say what the session folders say; makes a new one where it can't be read.
    pub fn open(
        disk: &Arc<dyn Disk>,
        cache_bytes: usize,
        sessions: &[Session],
    ) -> Result<Self, StorageError> {
        let path = disk.describe(Path::new(FILE));
        let there = disk
            .stat(Path::new(FILE))
            .map_err(|error| StorageError::io("looking for", &path, error))?;
        if there.is_some() {
            match open(disk, Path::new(FILE), cache_bytes, false) {
                Ok(database) => {
                    let catalog = Self {
                        database: Mutex::new(database),
                        path: path.clone(),
                    };
                    match catalog.agree(sessions) {
                        Ok(()) => return Ok(catalog),
                        Err(error) => tracing::warn!(%error, "the catalog can't be read; making it again"),
                    }
                }
                Err(error) => tracing::warn!(%error, "the catalog can't be opened; making it again"),
            }
            disk.remove_file(Path::new(FILE))
                .map_err(|error| StorageError::io("removing", &path, error))?;
        }
        let database = open(disk, Path::new(FILE), cache_bytes, true)?;
        let catalog = Self {
            database: Mutex::new(database),
            path,
        };
        catalog.agree(sessions)?;
        Ok(catalog)
    }

    /// Puts one session in.
    pub fn put(&self, session: &Session) -> Result<(), StorageError> {
        self.write(|table| {
            table.insert(session.id.as_str(), json(session).as_slice())?;
            Ok(())
        })
    }

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
        let database = self
            .database
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let read = database.begin_read().map_err(|e| failed(e.into()))?;
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
    }

    fn write(
        &self,
        change: impl FnOnce(&mut redb::Table<'_, &'static str, &'static [u8]>) -> Result<(), redb::StorageError>,
    ) -> Result<(), StorageError> {
        let failed = failed(&self.path);
        let database = self
            .database
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut write = database.begin_write().map_err(|e| failed(e.into()))?;
        write.set_quick_repair(true);
        {
            let mut table = write.open_table(SESSIONS).map_err(|e| failed(e.into()))?;
            change(&mut table).map_err(|e| failed(e.into()))?;
        }
        write.commit().map_err(|e| failed(e.into()))
    }
}

fn json(session: &Session) -> Vec<u8> {
    serde_json::to_vec(session).expect("a session has string keys and finite numbers only")
}
