//! redb's storage backend over the disk seam.

use crate::disk::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Debug)]
pub(super) struct DiskBackend {
    file: Arc<dyn File>,
    ended: Ended,
}

/// Once it is set, nothing is read or written any more.
#[derive(Clone, Debug, Default)]
pub(super) struct Ended(Arc<AtomicBool>);

impl Ended {
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }
}

impl DiskBackend {
    pub fn new(file: Arc<dyn File>, ended: Ended) -> Self {
        Self { file, ended }
    }

    fn file(&self) -> io::Result<&dyn File> {
        match self.ended.0.load(Ordering::Acquire) {
            false => Ok(&*self.file),
            true => Err(io::Error::other("the database is being closed")),
        }
    }
}

impl redb::StorageBackend for DiskBackend {
    fn len(&self) -> io::Result<u64> {
        self.file()?.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        match self.file()?.read_at(offset, out)? {
            read if read == out.len() => Ok(()),
            read => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("{read} of {} bytes at offset {offset}", out.len()),
            )),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file()?.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file()?.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file()?.write_at(offset, data)
    }
}
