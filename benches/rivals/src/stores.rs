//! Rivals that take frames, each set as its own documents say that it is fast, and synced as they say that it is durable.

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use mcap::records::MessageHeader;
use okaywal::{LogVoid, WriteAheadLog};
use redb::{Durability, ReadableDatabase, TableDefinition};
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

pub fn fault(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// What takes frames of several logs.
pub trait Rival: Sized + Sync {
    /// Makes one in an empty folder. `durable`: a commit is on the disk when it returns; else it is with the kernel, or, of redb, in memory.
    fn create(dir: &Path, durable: bool) -> Result<Self, String>;

    /// Frames of one log, in one go.
    fn commit(&self, log: usize, frames: &[Bytes]) -> Result<(), String>;

    /// Frames that can be read back, to see that all came; none where it can't be told.
    fn count(&self) -> Result<Option<u64>, String>;
}

/// Keys that rise within a log, big-endian, so that they sort.
#[derive(Default)]
struct Keys(AtomicU64);

impl Keys {
    fn next(&self, log: usize) -> [u8; 10] {
        let number = self.0.fetch_add(1, Ordering::Relaxed);
        let mut key = [0; 10];
        key[..2].copy_from_slice(&(log as u16).to_be_bytes());
        key[2..].copy_from_slice(&number.to_be_bytes());
        key
    }
}

const FRAMES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("frames");

/// A copy-on-write B-tree; one transaction at a time.
pub struct Redb {
    database: redb::Database,
    keys: Keys,
    durability: Durability,
}

impl Rival for Redb {
    fn create(dir: &Path, durable: bool) -> Result<Self, String> {
        let durability = match durable {
            true => Durability::Immediate,
            false => Durability::None,
        };
        Ok(Self {
            database: redb::Database::create(dir.join("redb")).map_err(fault)?,
            keys: Keys::default(),
            durability,
        })
    }

    fn commit(&self, log: usize, frames: &[Bytes]) -> Result<(), String> {
        let mut transaction = self.database.begin_write().map_err(fault)?;
        transaction.set_durability(self.durability).map_err(fault)?;
        {
            let mut table = transaction.open_table(FRAMES).map_err(fault)?;
            for frame in frames {
                let key = self.keys.next(log);
                table.insert(key.as_slice(), &frame[..]).map_err(fault)?;
            }
        }
        transaction.commit().map_err(fault)
    }

    fn count(&self) -> Result<Option<u64>, String> {
        use redb::ReadableTableMetadata;
        let transaction = self.database.begin_read().map_err(fault)?;
        let table = transaction.open_table(FRAMES).map_err(fault)?;
        table.len().map(Some).map_err(fault)
    }
}

/// SQLite with a write-ahead log, a blob a frame; writers share a connection, as only one can write at a time.
pub struct Sqlite(Mutex<rusqlite::Connection>);

impl Rival for Sqlite {
    fn create(dir: &Path, durable: bool) -> Result<Self, String> {
        let connection = rusqlite::Connection::open(dir.join("sqlite")).map_err(fault)?;
        let synchronous = if durable { "FULL" } else { "OFF" };
        connection
            .execute_batch(&format!(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = {synchronous};
                 CREATE TABLE frames (number INTEGER PRIMARY KEY, log INTEGER, frame BLOB);"
            ))
            .map_err(fault)?;
        Ok(Self(Mutex::new(connection)))
    }

    fn commit(&self, log: usize, frames: &[Bytes]) -> Result<(), String> {
        let mut connection = self.0.lock().expect("no writer panics");
        let transaction = connection.transaction().map_err(fault)?;
        {
            let mut insert = transaction
                .prepare_cached("INSERT INTO frames (log, frame) VALUES (?1, ?2)")
                .map_err(fault)?;
            for frame in frames {
                insert.execute((log as i64, &frame[..])).map_err(fault)?;
            }
        }
        transaction.commit().map_err(fault)
    }

    fn count(&self) -> Result<Option<u64>, String> {
        let connection = self.0.lock().expect("no writer panics");
        let count = connection.query_row("SELECT count(*) FROM frames", (), |row| row.get::<_, i64>(0));
        count.map(|count| Some(count as u64)).map_err(fault)
    }
}

/// A log-structured merge tree; its journal is written by one at a time, and synced by each.
pub struct Fjall {
    database: Database,
    frames: Keyspace,
    keys: Keys,
    mode: PersistMode,
}

impl Rival for Fjall {
    fn create(dir: &Path, durable: bool) -> Result<Self, String> {
        let database = Database::builder(dir.join("fjall")).open().map_err(fault)?;
        let frames = database
            .keyspace("frames", KeyspaceCreateOptions::default)
            .map_err(fault)?;
        let mode = match durable {
            true => PersistMode::SyncData,
            false => PersistMode::Buffer,
        };
        Ok(Self {
            database,
            frames,
            keys: Keys::default(),
            mode,
        })
    }

    fn commit(&self, log: usize, frames: &[Bytes]) -> Result<(), String> {
        let mut batch = self.database.batch().durability(Some(self.mode));
        for frame in frames {
            batch.insert(&self.frames, self.keys.next(log), &frame[..]);
        }
        batch.commit().map_err(fault)
    }

    fn count(&self) -> Result<Option<u64>, String> {
        self.frames.len().map(|count| Some(count as u64)).map_err(fault)
    }
}

/// A recording format's writer: no chunks, no compression; one file, a channel a log.
pub struct Mcap {
    writer: Mutex<(mcap::Writer<BufWriter<File>>, u32)>,
    /// The same file, to sync.
    file: File,
    durable: bool,
}

/// More logs than any figure has.
const CHANNELS: u16 = 64;

impl Rival for Mcap {
    fn create(dir: &Path, durable: bool) -> Result<Self, String> {
        let file = File::create_new(dir.join("mcap")).map_err(fault)?;
        let buffered = BufWriter::with_capacity(1 << 20, file.try_clone().map_err(fault)?);
        let mut writer = mcap::WriteOptions::new()
            .compression(None)
            .use_chunks(false)
            .create(buffered)
            .map_err(fault)?;
        for channel in 0..CHANNELS {
            writer
                .add_channel_with_id(channel, 0, &format!("/{channel}"), "", &Default::default())
                .map_err(fault)?;
        }
        Ok(Self {
            writer: Mutex::new((writer, 0)),
            file,
            durable,
        })
    }

    fn commit(&self, log: usize, frames: &[Bytes]) -> Result<(), String> {
        let mut writer = self.writer.lock().expect("no writer panics");
        for frame in frames {
            writer.1 += 1;
            let header = MessageHeader {
                channel_id: log as u16,
                sequence: writer.1,
                log_time: u64::from(writer.1),
                publish_time: u64::from(writer.1),
            };
            writer.0.write_to_known_channel(&header, frame).map_err(fault)?;
        }
        writer.0.flush().map_err(fault)?;
        match self.durable {
            true => self.file.sync_data().map_err(fault),
            false => Ok(()),
        }
    }

    fn count(&self) -> Result<Option<u64>, String> {
        Ok(Some(u64::from(self.writer.lock().expect("no writer panics").1)))
    }
}

/// A write-ahead log with preallocated segments that are used again, and group commit. It always syncs.
pub struct Okaywal(WriteAheadLog);

impl Rival for Okaywal {
    fn create(dir: &Path, _durable: bool) -> Result<Self, String> {
        let log = okaywal::Configuration::default_for(dir.join("okaywal")).open(LogVoid);
        log.map(Self).map_err(fault)
    }

    fn commit(&self, _log: usize, frames: &[Bytes]) -> Result<(), String> {
        let mut entry = self.0.begin_entry().map_err(fault)?;
        for frame in frames {
            entry.write_chunk(frame).map_err(fault)?;
        }
        entry.commit().map(drop).map_err(fault)
    }

    fn count(&self) -> Result<Option<u64>, String> {
        Ok(None)
    }
}
