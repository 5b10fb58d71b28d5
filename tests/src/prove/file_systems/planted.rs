//! A real disk with one durability bug built in: a proof that does not find it proves nothing.
//!
//! The bug begins when the recording does: a hub that could not even be made would be found for another reason.

use crate::prove::Planted;
use marey_engine::disk::{DirEntry, Disk, File, LockGuard, OpenMode, OsDisk, Space, Stat};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The system's disk, and what is wrong with it.
#[derive(Debug)]
pub struct PlantedDisk {
    disk: OsDisk,
    planted: Planted,
    begun: Arc<AtomicBool>,
}

impl PlantedDisk {
    /// The bug is there as soon as `begun` is set.
    pub fn new(disk: OsDisk, planted: Planted, begun: Arc<AtomicBool>) -> Self {
        Self { disk, planted, begun }
    }

    fn has(&self, planted: Planted) -> bool {
        self.planted == planted && self.begun.load(Ordering::SeqCst)
    }
}

impl Disk for PlantedDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let file = self.disk.open(path, mode)?;
        Ok(match self.planted {
            Planted::AckBeforeSync => Arc::new(NeverSynced {
                file,
                begun: self.begun.clone(),
            }),
            _ => file,
        })
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        match self.has(Planted::NoDirectorySync) {
            true => Ok(()),
            false => self.disk.sync_dir(path),
        }
    }

    fn exchange(&self, a: &Path, b: &Path) -> io::Result<()> {
        match self.has(Planted::DeleteBeforePublish) {
            // What is replaced is gone, durably, before its successor has its name.
            true => {
                match self.disk.stat(b)?.is_some_and(|stat| stat.is_dir) {
                    true => self.disk.remove_dir_all(b)?,
                    false => self.disk.remove_file(b)?,
                }
                self.disk.sync_dir(b.parent().unwrap_or(Path::new("")))?;
                self.disk.rename(a, b)?;
                self.disk.create_dir(a)
            }
            false => self.disk.exchange(a, b),
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.disk.list(dir)
    }

    fn stat(&self, path: &Path) -> io::Result<Option<Stat>> {
        self.disk.stat(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.hard_link(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_dir_all(path)
    }

    fn space(&self) -> io::Result<Space> {
        self.disk.space()
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn LockGuard>>> {
        self.disk.lock(path)
    }

    fn describe(&self, path: &Path) -> PathBuf {
        self.disk.describe(path)
    }
}

#[derive(Debug)]
struct NeverSynced {
    file: Arc<dyn File>,
    begun: Arc<AtomicBool>,
}

impl File for NeverSynced {
    fn read_at(&self, offset: u64, to: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(offset, to)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, bytes)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn sync(&self) -> io::Result<()> {
        match self.begun.load(Ordering::SeqCst) {
            true => Ok(()),
            false => self.file.sync(),
        }
    }
}
