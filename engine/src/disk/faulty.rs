//! A disk that fails on purpose: the power goes at a chosen operation, a chosen operation returns an error, syncs lie.
//!
//! Every operation that changes something is counted, in the order in which it comes, so that a test can first count a
//! run and then fail at each of its operations. The faults that truly happened are counted too.

use super::memory::MemoryDisk;
use super::{DirEntry, Disk, File, LockGuard, OpenMode, Space, Stat};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// What goes wrong, and when.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plan {
    /// From this operation on nothing reaches the disk, and every call fails.
    pub cut_at: Option<u64>,
    /// This operation fails with this error, once or from then on.
    pub fail_at: Option<(u64, io::ErrorKind, Duration)>,
    /// Planted bug: syncs of files say yes and do nothing.
    pub skip_file_syncs: bool,
    /// Planted bug: syncs of folders say yes and do nothing.
    pub skip_dir_syncs: bool,
    /// The planted bugs begin at this operation.
    pub planted_from: u64,
}

/// How long a fault lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duration {
    Once,
    ForEver,
}

/// A memory disk with a plan.
#[derive(Clone, Debug)]
pub struct FaultyDisk {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    disk: MemoryDisk,
    plan: Mutex<Plan>,
    operations: AtomicU64,
    faults: AtomicU64,
}

/// What an operation is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Write,
    Sync,
    Name,
}

impl FaultyDisk {
    pub fn new(disk: MemoryDisk, plan: Plan) -> Self {
        let shared = Shared {
            disk,
            plan: Mutex::new(plan),
            operations: AtomicU64::new(0),
            faults: AtomicU64::new(0),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Operations so far that change something.
    pub fn operations(&self) -> u64 {
        self.shared.operations.load(Ordering::SeqCst)
    }

    /// Faults that truly happened.
    pub fn faults(&self) -> u64 {
        self.shared.faults.load(Ordering::SeqCst)
    }

    /// Another plan from now on.
    pub fn set_plan(&self, plan: Plan) {
        *self
            .shared
            .plan
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner()) = plan;
    }

    /// The disk beneath, as it is.
    pub fn disk(&self) -> &MemoryDisk {
        &self.shared.disk
    }
}

impl Shared {
    /// Counts an operation. `Ok(false)`: it is to be skipped, and to say yes.
    fn pass(&self, kind: Kind, is_dir: bool, node: Option<u64>) -> io::Result<bool> {
        let plan = *self.plan.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let at = self.operations.fetch_add(1, Ordering::SeqCst);
        if plan.cut_at.is_some_and(|cut| at >= cut) {
            self.faults.fetch_add(1, Ordering::SeqCst);
            return Err(io::Error::other("the power is off"));
        }
        if let Some((fail_at, error, duration)) = plan.fail_at
            && (at == fail_at || (at > fail_at && duration == Duration::ForEver))
        {
            self.faults.fetch_add(1, Ordering::SeqCst);
            if let (Kind::Sync, Some(node)) = (kind, node) {
                self.disk.forget_unsynced(node);
            }
            return Err(error.into());
        }
        if at >= plan.planted_from
            && kind == Kind::Sync
            && ((is_dir && plan.skip_dir_syncs) || (!is_dir && plan.skip_file_syncs))
        {
            self.faults.fetch_add(1, Ordering::SeqCst);
            return Ok(false);
        }
        Ok(true)
    }
}

impl Disk for FaultyDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        if mode == OpenMode::CreateNew {
            self.shared.pass(Kind::Name, true, None)?;
        }
        let node = self.shared.disk.open_node(path, mode)?;
        let file = self.shared.disk.open(path, OpenMode::ReadWrite)?;
        Ok(Arc::new(FaultyFile {
            shared: self.shared.clone(),
            file,
            node,
        }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.shared.disk.list(dir)
    }

    fn stat(&self, path: &Path) -> io::Result<Option<Stat>> {
        self.shared.disk.stat(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.shared.pass(Kind::Name, true, None)?;
        self.shared.disk.create_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.shared.pass(Kind::Name, true, None)?;
        self.shared.disk.rename(from, to)
    }

    fn exchange(&self, a: &Path, b: &Path) -> io::Result<()> {
        self.shared.pass(Kind::Name, true, None)?;
        self.shared.disk.exchange(a, b)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.shared.pass(Kind::Name, true, None)?;
        self.shared.disk.hard_link(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.shared.pass(Kind::Name, true, None)?;
        self.shared.disk.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.shared.pass(Kind::Name, true, None)?;
        self.shared.disk.remove_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        match self.shared.pass(Kind::Sync, true, None)? {
            true => self.shared.disk.sync_dir(path),
            false => Ok(()),
        }
    }

    fn space(&self) -> io::Result<Space> {
        self.shared.disk.space()
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn LockGuard>>> {
        self.shared.disk.lock(path)
    }

    fn describe(&self, path: &Path) -> PathBuf {
        self.shared.disk.describe(path)
    }
}

#[derive(Debug)]
struct FaultyFile {
    shared: Arc<Shared>,
    file: Arc<dyn File>,
    node: u64,
}

impl File for FaultyFile {
    fn read_at(&self, offset: u64, to: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(offset, to)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.shared.pass(Kind::Write, false, Some(self.node))?;
        self.file.write_at(offset, bytes)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.shared.pass(Kind::Write, false, Some(self.node))?;
        self.file.set_len(bytes)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn sync(&self) -> io::Result<()> {
        match self.shared.pass(Kind::Sync, false, Some(self.node))? {
            true => self.file.sync(),
            false => Ok(()),
        }
    }
}
