//! A disk that is troubled while something runs on it: places that can't be read, no room left, syncs that fail.
//!
//! [`super::faulty`] goes by *when*: the operation with a number. This one goes by *what*: a place of a file, writes that
//! need room, syncs of files with a name. It is for whoever can't count operations, such as a hub with threads.
//!
//! A full disk is one as file systems are: what overwrites bytes that are there succeeds, and so do syncs; what makes a
//! file or folder or lengthens a file fails. A sync that fails leaves its pages readable and clean, so that the next one
//! succeeds and brings nothing to the disk.

use super::memory::MemoryDisk;
use super::{DirEntry, Disk, File, LockGuard, OpenMode, Space, Stat};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// What goes wrong from now on.
#[derive(Clone, Debug, Default)]
pub struct Troubles {
    /// Reads that touch one of these bytes fail with EIO: end of the path, and range.
    pub scratches: Vec<(String, Range<u64>)>,
    /// There is no room.
    pub is_full: bool,
    /// Syncs of files whose path holds this fail with EIO.
    pub failing_syncs: Option<String>,
}

/// A memory disk with troubles.
#[derive(Clone, Debug)]
pub struct TroubledDisk {
    disk: MemoryDisk,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    troubles: Troubles,
    faults: BTreeMap<&'static str, u64>,
}

impl TroubledDisk {
    pub fn new(disk: MemoryDisk) -> Self {
        Self {
            disk,
            shared: Arc::default(),
        }
    }

    /// Other troubles from now on.
    pub fn set(&self, troubles: Troubles) {
        self.shared().troubles = troubles;
    }

    /// None from now on.
    pub fn heal(&self) {
        self.set(Troubles::default());
    }

    /// Faults that truly happened, by kind: `reads`, `writes`, `syncs`.
    pub fn faults(&self, kind: &str) -> u64 {
        self.shared().faults.get(kind).copied().unwrap_or(0)
    }

    /// The disk beneath.
    pub fn disk(&self) -> &MemoryDisk {
        &self.disk
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn needs_room(&self) -> io::Result<()> {
        let mut shared = self.shared();
        match shared.troubles.is_full {
            true => Err(shared.fault("writes", 28)),
            false => Ok(()),
        }
    }
}

impl Shared {
    /// Counts a fault; the error as the system has it, since EIO has no name among the kinds of errors.
    fn fault(&mut self, kind: &'static str, code: i32) -> io::Error {
        *self.faults.entry(kind).or_default() += 1;
        io::Error::from_raw_os_error(code)
    }
}

impl Disk for TroubledDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        if mode == OpenMode::CreateNew && self.disk.stat(path)?.is_none() {
            self.needs_room()?;
        }
        let node = self.disk.open_node(path, mode)?;
        Ok(Arc::new(TroubledFile {
            disk: self.clone(),
            path: path.to_string_lossy().into_owned(),
            file: self.disk.open(path, OpenMode::ReadWrite)?,
            node,
        }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.disk.list(dir)
    }

    fn stat(&self, path: &Path) -> io::Result<Option<Stat>> {
        self.disk.stat(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        if self.disk.stat(path)?.is_none() {
            self.needs_room()?;
        }
        self.disk.create_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn exchange(&self, a: &Path, b: &Path) -> io::Result<()> {
        self.disk.exchange(a, b)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.needs_room()?;
        self.disk.hard_link(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.sync_dir(path)
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
struct TroubledFile {
    disk: TroubledDisk,
    path: String,
    file: Arc<dyn File>,
    node: u64,
}

impl File for TroubledFile {
    fn read_at(&self, offset: u64, to: &mut [u8]) -> io::Result<usize> {
        let end = offset.saturating_add(to.len() as u64);
        let mut shared = self.disk.shared();
        let is_scratched = shared.troubles.scratches.iter().any(|(path, range)| {
            self.path.ends_with(path.as_str()) && offset < range.end && end > range.start
        });
        if is_scratched {
            return Err(shared.fault("reads", 5));
        }
        drop(shared);
        self.file.read_at(offset, to)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if offset + bytes.len() as u64 > self.file.len()? {
            self.disk.needs_room()?;
        }
        self.file.write_at(offset, bytes)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        if bytes > self.file.len()? {
            self.disk.needs_room()?;
        }
        self.file.set_len(bytes)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn sync(&self) -> io::Result<()> {
        let mut shared = self.disk.shared();
        let failing = shared.troubles.failing_syncs.as_ref();
        if failing.is_some_and(|name| self.path.contains(name.as_str())) {
            let error = shared.fault("syncs", 5);
            drop(shared);
            self.disk.disk.forget_unsynced(self.node, 0);
            return Err(error);
        }
        drop(shared);
        self.file.sync()
    }
}
