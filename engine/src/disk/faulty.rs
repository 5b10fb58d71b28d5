//! A disk that fails on purpose: the power goes at a chosen operation, a chosen operation returns an error, writes go
//! astray, reads fail, syncs lie.
//!
//! Every operation that changes something is counted, in the order in which it comes, so that a test can first count a
//! run and then fail at each of its operations; reads are counted apart. So are the faults that truly happened: a plan
//! whose fault never came proves nothing.

use super::memory::MemoryDisk;
use super::{DirEntry, Disk, File, LockGuard, OpenMode, Space, Stat};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// What goes wrong, and when.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plan {
    /// From this operation on nothing reaches the disk, and every call fails.
    pub cut_at: Option<u64>,
    /// This operation fails with this error, once or from then on. A sync that fails leaves its pages clean.
    pub fail_at: Option<(u64, io::ErrorKind, Duration)>,
    /// A write that fails has written its first half.
    pub short_writes: bool,
    /// Reads that fail.
    pub fail_reads: Option<ReadFault>,
    /// This operation, if it is a write, lands so many bytes further on in its file, and says yes.
    pub misdirect_at: Option<(u64, u64)>,
    /// Planted bug: syncs of files say yes and do nothing.
    pub skip_file_syncs: bool,
    /// Planted bug: syncs of folders say yes and do nothing.
    pub skip_dir_syncs: bool,
    /// Planted bug: what an exchange of names puts aside is deleted before its successor has its name.
    pub delete_before_publish: bool,
    /// The planted bugs begin at this operation.
    pub planted_from: u64,
}

/// How long a fault lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duration {
    Once,
    ForEver,
}

/// Reads that fail with EIO.
#[derive(Clone, Copy, Debug)]
pub struct ReadFault {
    /// Of files whose path ends so; empty: of all.
    pub path: &'static str,
    /// From this read of them on, counted from 0 since the plan was set.
    pub at: u64,
    pub duration: Duration,
}

/// A memory disk with a plan.
#[derive(Clone, Debug)]
pub struct FaultyDisk {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    disk: MemoryDisk,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    plan: Plan,
    operations: u64,
    reads: u64,
    faults: BTreeMap<&'static str, u64>,
    /// The disk as it was before each operation.
    states: Option<Vec<MemoryDisk>>,
}

/// What an operation is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Write,
    FileSync,
    DirSync,
    Name,
}

/// What becomes of it.
enum Verdict {
    Go,
    /// Say yes, and do nothing.
    Pretend,
    /// Write so many bytes further on.
    Astray(u64),
    Fail(io::Error),
}

impl FaultyDisk {
    pub fn new(disk: MemoryDisk, plan: Plan) -> Self {
        let state = State {
            plan,
            ..State::default()
        };
        Self {
            shared: Arc::new(Shared {
                disk,
                state: Mutex::new(state),
            }),
        }
    }

    /// Operations so far that change something.
    pub fn operations(&self) -> u64 {
        self.shared.state().operations
    }

    /// Reads so far, since the plan was set, of the files that it names.
    pub fn reads(&self) -> u64 {
        self.shared.state().reads
    }

    /// Faults that truly happened.
    pub fn faults(&self) -> u64 {
        self.shared.state().faults.values().sum()
    }

    /// Faults that truly happened, by kind.
    pub fn faults_by_kind(&self) -> BTreeMap<&'static str, u64> {
        self.shared.state().faults.clone()
    }

    /// Another plan from now on.
    pub fn set_plan(&self, plan: Plan) {
        let mut state = self.shared.state();
        state.plan = plan;
        state.reads = 0;
    }

    /// Keeps the disk as it is before each operation from now on.
    pub fn keep_states(&self) {
        self.shared.state().states.get_or_insert_default();
    }

    /// The disk as it was before each operation since [`Self::keep_states`]; the last one as it is now.
    pub fn into_states(self) -> Vec<MemoryDisk> {
        let mut states = self.shared.state().states.take().unwrap_or_default();
        states.push(self.shared.disk.snapshot());
        states
    }

    /// The disk beneath, as it is.
    pub fn disk(&self) -> &MemoryDisk {
        &self.shared.disk
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Counts an operation that changes something, and judges it.
    fn judge(&self, kind: Kind) -> Verdict {
        let mut state = self.state();
        if let Some(states) = &mut state.states {
            states.push(self.disk.snapshot());
        }
        let at = state.operations;
        state.operations += 1;
        let (plan, faults) = (state.plan, &mut state.faults);
        let mut count = |fault| *faults.entry(fault).or_default() += 1;
        if plan.cut_at.is_some_and(|cut| at >= cut) {
            count("after the cut");
            return Verdict::Fail(io::Error::other("the power is off"));
        }
        if let Some((fail_at, error, duration)) = plan.fail_at
            && (at == fail_at || (at > fail_at && duration == Duration::ForEver))
        {
            count(match kind {
                Kind::Write => "failed writes",
                Kind::FileSync | Kind::DirSync => "failed syncs",
                Kind::Name => "failed names",
            });
            return Verdict::Fail(error.into());
        }
        if let Some((misdirect_at, by)) = plan.misdirect_at
            && at == misdirect_at
            && kind == Kind::Write
        {
            count("misdirected writes");
            return Verdict::Astray(by);
        }
        let skipped = match kind {
            Kind::FileSync => plan.skip_file_syncs,
            Kind::DirSync => plan.skip_dir_syncs,
            Kind::Write | Kind::Name => false,
        };
        if skipped && at >= plan.planted_from {
            count("skipped syncs");
            return Verdict::Pretend;
        }
        Verdict::Go
    }

    /// The same for what can't go astray. `Ok(false)`: say yes, and do nothing.
    fn pass(&self, kind: Kind) -> io::Result<bool> {
        match self.judge(kind) {
            Verdict::Go | Verdict::Astray(_) => Ok(true),
            Verdict::Pretend => Ok(false),
            Verdict::Fail(error) => Err(error),
        }
    }

    fn pass_read(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        let Some(fault) = state.plan.fail_reads else {
            state.reads += 1;
            return Ok(());
        };
        if !path.to_string_lossy().ends_with(fault.path) {
            return Ok(());
        }
        let at = state.reads;
        state.reads += 1;
        if at == fault.at || (at > fault.at && fault.duration == Duration::ForEver) {
            *state.faults.entry("failed reads").or_default() += 1;
            // EIO has no name among the kinds of errors.
            return Err(io::Error::from_raw_os_error(5));
        }
        Ok(())
    }
}

impl Disk for FaultyDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        if mode == OpenMode::CreateNew {
            self.shared.pass(Kind::Name)?;
        }
        let node = self.shared.disk.open_node(path, mode)?;
        let file = self.shared.disk.open(path, OpenMode::ReadWrite)?;
        Ok(Arc::new(FaultyFile {
            shared: self.shared.clone(),
            path: path.to_owned(),
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
        self.shared.pass(Kind::Name)?;
        self.shared.disk.create_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.shared.pass(Kind::Name)?;
        self.shared.disk.rename(from, to)
    }

    fn exchange(&self, a: &Path, b: &Path) -> io::Result<()> {
        let planted = {
            let state = self.shared.state();
            state.plan.delete_before_publish && state.operations >= state.plan.planted_from
        };
        if planted {
            *self.shared.state().faults.entry("early deletions").or_default() += 1;
            self.remove_dir_all(b)?;
            self.sync_dir(b.parent().unwrap_or(Path::new("")))?;
            return self.rename(a, b);
        }
        self.shared.pass(Kind::Name)?;
        self.shared.disk.exchange(a, b)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.shared.pass(Kind::Name)?;
        self.shared.disk.hard_link(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.shared.pass(Kind::Name)?;
        self.shared.disk.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.shared.pass(Kind::Name)?;
        self.shared.disk.remove_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        match self.shared.pass(Kind::DirSync)? {
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
    path: PathBuf,
    file: Arc<dyn File>,
    node: u64,
}

impl File for FaultyFile {
    fn read_at(&self, offset: u64, to: &mut [u8]) -> io::Result<usize> {
        self.shared.pass_read(&self.path)?;
        self.file.read_at(offset, to)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        match self.shared.judge(Kind::Write) {
            Verdict::Go => self.file.write_at(offset, bytes),
            Verdict::Astray(by) => self.file.write_at(offset + by, bytes),
            Verdict::Pretend => Ok(()),
            Verdict::Fail(error) => {
                let (short, is_off) = {
                    let plan = self.shared.state().plan;
                    (plan.short_writes, plan.cut_at.is_some())
                };
                if short && !is_off {
                    self.file.write_at(offset, &bytes[..bytes.len() / 2])?;
                }
                Err(error)
            }
        }
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.shared.pass(Kind::Write)?;
        self.file.set_len(bytes)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn sync(&self) -> io::Result<()> {
        match self.shared.judge(Kind::FileSync) {
            Verdict::Go | Verdict::Astray(_) => self.file.sync(),
            Verdict::Pretend => Ok(()),
            Verdict::Fail(error) => {
                if self.shared.state().plan.cut_at.is_none() {
                    self.shared.disk.forget_unsynced(self.node, 0);
                }
                Err(error)
            }
        }
    }
}
