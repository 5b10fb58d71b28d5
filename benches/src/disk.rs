//! The system's disk without its waits: a sync does nothing. What is measured on it is what the engine itself takes.

use marey_engine::disk::{DirEntry, Disk, File, LockGuard, OpenMode, OsDisk, Space, Stat};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A folder whose syncs are free, and worth as much.
#[derive(Clone, Debug)]
pub struct UnsyncedDisk(pub OsDisk);

#[derive(Debug)]
struct UnsyncedFile(Arc<dyn File>);

impl Disk for UnsyncedDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(UnsyncedFile(self.0.open(path, mode)?)))
    }

    fn sync_dir(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.0.list(dir)
    }

    fn stat(&self, path: &Path) -> io::Result<Option<Stat>> {
        self.0.stat(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.0.create_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn exchange(&self, a: &Path, b: &Path) -> io::Result<()> {
        self.0.exchange(a, b)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.hard_link(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.0.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.0.remove_dir_all(path)
    }

    fn space(&self) -> io::Result<Space> {
        self.0.space()
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn LockGuard>>> {
        self.0.lock(path)
    }

    fn describe(&self, path: &Path) -> PathBuf {
        self.0.describe(path)
    }
}

impl File for UnsyncedFile {
    fn read_at(&self, offset: u64, to: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(offset, to)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, bytes)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
