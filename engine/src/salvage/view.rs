//! A disk seen as a hub's folder, read-only, wherever its parts stand.
//!
//! A session's folder that was copied alone, or one log, is mounted at the place that it would have in a hub, so that
//! the same readers serve. What is not mounted belongs to the scratch disk, if there is one: each path is on one side
//! only, and writes never reach the mounted side. What the disk can't read is given as zeros and remembered: one bad
//! sector must not hide the rest of a log.

use super::progress::Progress;
use crate::disk::{DirEntry, Disk, File, LockGuard, OpenMode, Space, Stat};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Bytes that are given up together where the disk can't read.
const PIECE_BYTES: u64 = 4096;

/// A read-only view of a disk.
#[derive(Clone, Debug)]
pub struct View {
    base: Arc<dyn Disk>,
    /// Where in the hub's folder a file or folder of the base is seen.
    mounts: BTreeMap<PathBuf, PathBuf>,
    hidden: BTreeSet<PathBuf>,
    scratch: Option<Arc<dyn Disk>>,
    unreadable: Arc<Mutex<Vec<Unreadable>>>,
    progress: Progress,
}

/// A range of a file that the disk could not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    pub path: PathBuf,
    pub offset: u64,
    pub bytes: u64,
    pub why: String,
}

impl View {
    /// A view of `base` with one mount: `real` of the base is seen at `seen`.
    pub fn new(base: Arc<dyn Disk>, seen: impl Into<PathBuf>, real: impl Into<PathBuf>) -> Self {
        let mounts = BTreeMap::from([(plain(&seen.into()), plain(&real.into()))]);
        Self {
            base,
            mounts,
            hidden: BTreeSet::new(),
            scratch: None,
            unreadable: Arc::default(),
            progress: Progress::default(),
        }
    }

    /// The same, counting what it reads with others.
    pub fn counted_by(mut self, progress: &Progress) -> Self {
        self.progress = progress.clone();
        self
    }

    /// What counts its reads.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// The same, with one more mount; it is seen even where something was hidden.
    pub fn mount(mut self, seen: impl Into<PathBuf>, real: impl Into<PathBuf>) -> Self {
        let seen = plain(&seen.into());
        self.hidden.remove(&seen);
        self.mounts.insert(seen, plain(&real.into()));
        self
    }

    /// The same, without what is seen at `seen`.
    pub fn hide(mut self, seen: impl Into<PathBuf>) -> Self {
        self.hidden.insert(plain(&seen.into()));
        self
    }

    /// The same, with a disk for all that is not mounted.
    pub fn with_scratch(mut self, scratch: Arc<dyn Disk>) -> Self {
        self.scratch = Some(scratch);
        self
    }

    /// Where in the base a path is; none where it is not mounted.
    pub fn real(&self, path: &Path) -> Option<PathBuf> {
        let path = plain(path);
        if self.hidden.contains(&path) {
            return None;
        }
        path.ancestors().find_map(|above| {
            let real = self.mounts.get(above)?;
            let below = path.strip_prefix(above).expect("it is one of its ancestors");
            Some(if below.as_os_str().is_empty() {
                real.clone()
            } else {
                real.join(below)
            })
        })
    }

    /// What the disk could not read so far, each range once.
    pub fn unreadable(&self) -> Vec<Unreadable> {
        let mut found = self
            .unreadable
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .clone();
        found.sort_by(|a, b| (&a.path, a.offset).cmp(&(&b.path, b.offset)));
        found.dedup();
        found.dedup_by(|next, before| {
            let adjoins = next.path == before.path && next.offset <= before.offset + before.bytes;
            if adjoins {
                before.bytes = before.bytes.max(next.offset + next.bytes - before.offset);
            }
            adjoins
        });
        found
    }

    /// Whether a mount stands below the path.
    fn is_above_a_mount(&self, path: &Path) -> bool {
        self.mounts
            .keys()
            .any(|seen| seen != path && seen.starts_with(path))
    }

    /// The scratch disk, for a path that no mount holds.
    fn to_write(&self, path: &Path) -> io::Result<&dyn Disk> {
        match (&self.scratch, self.real(path)) {
            (Some(scratch), None) => Ok(&**scratch),
            _ => Err(refused()),
        }
    }

    fn read_only(&self, real: &Path) -> io::Result<Arc<dyn File>> {
        let file = self.base.open(real, OpenMode::Read)?;
        let (path, unreadable) = (self.base.describe(real), self.unreadable.clone());
        let progress = self.progress.clone();
        Ok(Arc::new(ReadOnly {
            file,
            path,
            unreadable,
            progress,
        }))
    }
}

/// Without `.`, `..` and what else is no name.
fn plain(path: &Path) -> PathBuf {
    path.components()
        .filter(|part| matches!(part, Component::Normal(_)))
        .collect()
}

fn refused() -> io::Error {
    io::Error::new(
        io::ErrorKind::PermissionDenied,
        "what is looked into is not changed",
    )
}

impl Disk for View {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        match (self.real(path), &self.scratch, mode) {
            (Some(real), _, OpenMode::Read | OpenMode::ReadWrite) => self.read_only(&real),
            (Some(_), _, OpenMode::CreateNew) => Err(refused()),
            (None, Some(scratch), _) => scratch.open(path, mode),
            (None, None, _) => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let dir = plain(dir);
        let mut entries: BTreeMap<String, Stat> = BTreeMap::new();
        let mut found = self.is_above_a_mount(&dir);
        if let Some(real) = self.real(&dir) {
            entries.extend(
                self.base
                    .list(&real)?
                    .into_iter()
                    .map(|entry| (entry.name, entry.stat)),
            );
            found = true;
        } else if let Some(scratch) = &self.scratch
            && scratch.stat(&dir)?.is_some()
        {
            entries.extend(
                scratch
                    .list(&dir)?
                    .into_iter()
                    .map(|entry| (entry.name, entry.stat)),
            );
            found = true;
        }
        for seen in self.mounts.keys().filter(|seen| **seen != dir) {
            let Ok(below) = seen.strip_prefix(&dir) else {
                continue;
            };
            let Some(name) = below.iter().next().and_then(|name| name.to_str()) else {
                continue;
            };
            if let Some(stat) = self.stat(&dir.join(name))? {
                entries.insert(name.to_owned(), stat);
            }
        }
        entries.retain(|name, _| !self.hidden.contains(&dir.join(name)));
        match found {
            true => Ok(entries
                .into_iter()
                .map(|(name, stat)| DirEntry { name, stat })
                .collect()),
            false => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn stat(&self, path: &Path) -> io::Result<Option<Stat>> {
        let path = plain(path);
        let stat = match (self.real(&path), &self.scratch) {
            (Some(real), _) => self.base.stat(&real),
            (None, Some(scratch)) if !self.hidden.contains(&path) => scratch.stat(&path),
            (None, _) => Ok(None),
        };
        let stat = match stat {
            // Something in the path is a file: nothing is there.
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => None,
            other => other?,
        };
        let above = || {
            self.is_above_a_mount(&path).then_some(Stat {
                is_dir: true,
                bytes: 0,
            })
        };
        Ok(stat.or_else(above))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.to_write(path)?.create_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.to_write(to)?;
        self.to_write(from)?.rename(from, to)
    }

    fn exchange(&self, a: &Path, b: &Path) -> io::Result<()> {
        self.to_write(a)?;
        self.to_write(b)?.exchange(a, b)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.to_write(from)?;
        self.to_write(to)?.hard_link(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.to_write(path)?.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.to_write(path)?.remove_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        // Nothing was changed on the mounted side, so nothing is left to sync there.
        self.to_write(path)
            .map_or(Ok(()), |scratch| scratch.sync_dir(path))
    }

    fn space(&self) -> io::Result<Space> {
        self.scratch.as_ref().unwrap_or(&self.base).space()
    }

    fn lock(&self, _: &Path) -> io::Result<Option<Box<dyn LockGuard>>> {
        Err(refused())
    }

    fn describe(&self, path: &Path) -> PathBuf {
        match (self.real(path), &self.scratch) {
            (Some(real), _) => self.base.describe(&real),
            (None, Some(scratch)) => scratch.describe(path),
            (None, None) => path.to_owned(),
        }
    }
}

/// A file of the base.
#[derive(Debug)]
struct ReadOnly {
    file: Arc<dyn File>,
    path: PathBuf,
    unreadable: Arc<Mutex<Vec<Unreadable>>>,
    progress: Progress,
}

impl ReadOnly {
    /// Reads what can be read, piece by piece; what can't is zeros.
    fn read_around(&self, offset: u64, to: &mut [u8]) -> io::Result<usize> {
        let end = self.file.len()?.min(offset + to.len() as u64);
        let mut at = offset;
        while at < end {
            let until = ((at / PIECE_BYTES + 1) * PIECE_BYTES).min(end);
            let piece = &mut to[(at - offset) as usize..(until - offset) as usize];
            match self.file.read_at(at, piece) {
                Ok(read) => piece[read..].fill(0),
                Err(error) => {
                    piece.fill(0);
                    let (path, why) = (self.path.clone(), error.to_string());
                    let unreadable = Unreadable {
                        path,
                        offset: at,
                        bytes: until - at,
                        why,
                    };
                    self.unreadable
                        .lock()
                        .unwrap_or_else(|poisoned| poisoned.into_inner())
                        .push(unreadable);
                }
            }
            at = until;
        }
        Ok(end.saturating_sub(offset) as usize)
    }
}

impl File for ReadOnly {
    fn read_at(&self, offset: u64, to: &mut [u8]) -> io::Result<usize> {
        let read = match self.file.read_at(offset, to) {
            Err(error) if error.kind() != io::ErrorKind::IsADirectory => self.read_around(offset, to)?,
            read => read?,
        };
        self.progress.count(read as u64);
        Ok(read)
    }

    fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
        Err(refused())
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(refused())
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
