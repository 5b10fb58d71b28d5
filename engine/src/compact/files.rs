//! The disk seam's files as what the Parquet library takes: a writer that hashes what passes, a reader of ranges.

use crate::disk::{Disk, File, OpenMode};
use crate::options::Options;
use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};
use sha2::{Digest, Sha256};
use std::io::{self, IoSlice, Read, Write};
use std::path::Path;
use std::sync::Arc;

/// Bytes gathered before they are written.
const WRITE_BYTES: usize = 1 << 20;

/// Bytes written between two looks at the room that is left.
const LOOK_BYTES: u64 = 16 << 20;

/// What a file came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Hashes {
    pub bytes: u64,
    /// In hexadecimal.
    pub blake3: String,
    pub sha256: String,
}

impl Hashes {
    /// Of bytes that are at hand.
    pub fn of(bytes: &[u8]) -> Self {
        Self {
            bytes: bytes.len() as u64,
            blake3: blake3::hash(bytes).to_hex().to_string(),
            sha256: marey_format::types::hex(&Sha256::digest(bytes)),
        }
    }
}

/// Writes a new file and hashes it. Stops where it would take the room that intake needs.
#[derive(Debug)]
pub struct HashedFile<'d> {
    disk: &'d dyn Disk,
    file: Arc<dyn File>,
    buffer: Vec<u8>,
    written: u64,
    looked: u64,
    floor_bytes: u64,
    blake3: blake3::Hasher,
    sha256: Sha256,
}

impl<'d> HashedFile<'d> {
    pub fn create(disk: &'d dyn Disk, path: &Path, options: &Options) -> io::Result<Self> {
        let file = disk.open(path, OpenMode::CreateNew)?;
        let floor_bytes = floor(disk, options)?;
        Ok(Self {
            disk,
            file,
            buffer: Vec::with_capacity(WRITE_BYTES),
            written: 0,
            looked: 0,
            floor_bytes,
            blake3: blake3::Hasher::new(),
            sha256: Sha256::new(),
        })
    }

    /// Writes what is left, and says what the content is. To sync it is the caller's business, as its name is.
    pub fn finish(&mut self) -> io::Result<Hashes> {
        self.put()?;
        let sha256 = marey_format::types::hex(&std::mem::take(&mut self.sha256).finalize());
        let blake3 = self.blake3.finalize().to_hex().to_string();
        Ok(Hashes {
            bytes: self.written,
            blake3,
            sha256,
        })
    }

    /// The file itself.
    pub fn file(&self) -> Arc<dyn File> {
        self.file.clone()
    }

    fn put(&mut self) -> io::Result<()> {
        if self.written - self.looked >= LOOK_BYTES {
            self.looked = self.written;
            if self.disk.space()?.free_bytes < self.floor_bytes {
                return Err(io::Error::new(
                    io::ErrorKind::StorageFull,
                    "what is left is kept for the intake",
                ));
            }
        }
        self.file
            .write_slices_at(self.written, &mut [IoSlice::new(&self.buffer)])?;
        self.blake3.update(&self.buffer);
        self.sha256.update(&self.buffer);
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

/// Free bytes at which compaction stops: twice the floor of the intake.
pub fn floor(disk: &dyn Disk, options: &Options) -> io::Result<u64> {
    Ok(options.floor_bytes(disk.space()?.total_bytes).saturating_mul(2))
}

impl Write for HashedFile<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() + bytes.len() > WRITE_BYTES {
            self.put()?;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        // The Parquet writer flushes after each row group; what counts is `finish`.
        Ok(())
    }
}

/// A file as the Parquet reader takes it.
#[derive(Clone, Debug)]
pub struct FileChunks {
    file: Arc<dyn File>,
    bytes: u64,
}

impl FileChunks {
    pub fn open(disk: &dyn Disk, path: &Path) -> io::Result<Self> {
        let file = disk.open(path, OpenMode::Read)?;
        let bytes = file.len()?;
        Ok(Self { file, bytes })
    }
}

impl Length for FileChunks {
    fn len(&self) -> u64 {
        self.bytes
    }
}

impl ChunkReader for FileChunks {
    type T = FileFrom;

    fn get_read(&self, start: u64) -> Result<FileFrom, ParquetError> {
        Ok(FileFrom {
            file: self.file.clone(),
            offset: start,
        })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        if start
            .checked_add(length as u64)
            .is_none_or(|end| end > self.bytes)
        {
            let what = format!("{length} bytes at offset {start} of a file of {}", self.bytes);
            return Err(ParquetError::EOF(what));
        }
        let mut bytes = vec![0; length];
        let read = self.file.read_at(start, &mut bytes)?;
        if read < length {
            return Err(ParquetError::EOF(format!(
                "{read} of {length} bytes at offset {start}"
            )));
        }
        Ok(bytes.into())
    }
}

/// Reads a file from an offset on.
#[derive(Debug)]
pub struct FileFrom {
    file: Arc<dyn File>,
    offset: u64,
}

impl Read for FileFrom {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(self.offset, to)?;
        self.offset += read as u64;
        Ok(read)
    }
}
