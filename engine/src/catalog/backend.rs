//! redb's storage backend over the disk seam.

use crate::disk::File;
use std::io;
use std::sync::Arc;

#[derive(Debug)]
pub(super) struct DiskBackend {
    file: Arc<dyn File>,
}

impl DiskBackend {
    pub fn new(file: Arc<dyn File>) -> Self {
        Self { file }
    }
}

impl redb::StorageBackend for DiskBackend {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        match self.file.read_at(offset, out)? {
            read if read == out.len() => Ok(()),
            read => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("{read} of {} bytes at offset {offset}", out.len()),
            )),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, data)
    }
}
