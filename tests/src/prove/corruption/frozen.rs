//! A hub's files as they were, with some of them harmed: a disk that shares what is whole and refuses every write.
//!
//! Harming it copies nothing but the harmed file. A write is refused and remembered, so that "the source is as it was"
//! is a fact and no comparison.

use marey_engine::disk::{DirEntry, Disk, File, LockGuard, OpenMode, Space, Stat};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

type Bytes = Arc<[u8]>;

/// A folder that nobody can write to. Clones share what is whole.
#[derive(Clone, Debug)]
pub struct Frozen {
    files: Arc<BTreeMap<PathBuf, Bytes>>,
    dirs: Arc<BTreeSet<PathBuf>>,
    /// Files that are not what they were; none where one is gone.
    harmed: BTreeMap<PathBuf, Option<Bytes>>,
    written: Arc<AtomicBool>,
}

impl Frozen {
    /// Everything that a disk holds.
    pub fn of(disk: &dyn Disk) -> io::Result<Self> {
        let (mut files, mut dirs) = (BTreeMap::new(), BTreeSet::new());
        walk(disk, Path::new(""), &mut files, &mut dirs)?;
        Ok(Self {
            files: Arc::new(files),
            dirs: Arc::new(dirs),
            harmed: BTreeMap::new(),
            written: Arc::default(),
        })
    }

    /// The files that are there, in order of their names.
    pub fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        let harmed = self
            .harmed
            .iter()
            .filter(|(_, now)| now.is_some())
            .map(|(path, _)| path);
        let whole = self.files.keys().filter(|path| !self.harmed.contains_key(*path));
        let all: BTreeSet<&PathBuf> = whole.chain(harmed).collect();
        all.into_iter()
    }

    /// What stands in a file.
    pub fn content(&self, path: &Path) -> Option<Bytes> {
        match self.harmed.get(path) {
            Some(now) => now.clone(),
            None => self.files.get(path).cloned(),
        }
    }

    /// The same, with other bytes in a file, or without it.
    pub fn with(&self, path: &Path, content: Option<Vec<u8>>) -> Self {
        let mut harmed = self.clone();
        harmed.harmed.insert(path.to_owned(), content.map(Arc::from));
        harmed.written = Arc::default();
        harmed
    }

    /// The same, with a file changed.
    pub fn change(&self, path: &Path, harm: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut bytes = self.content(path).map(|bytes| bytes.to_vec()).unwrap_or_default();
        harm(&mut bytes);
        self.with(path, Some(bytes))
    }

    /// Whether any file is another one than it was.
    pub fn is_harmed(&self) -> bool {
        self.harmed
            .iter()
            .any(|(path, now)| now.as_deref() != self.files.get(path).map(|bytes| &**bytes))
    }

    /// Whether somebody tried to write.
    pub fn was_written(&self) -> bool {
        self.written.load(Ordering::Relaxed)
    }

    /// The same files on a disk that takes writes.
    pub fn thaw(&self) -> io::Result<marey_engine::disk::memory::MemoryDisk> {
        let disk = marey_engine::disk::memory::MemoryDisk::new();
        for dir in &*self.dirs {
            marey_engine::disk::create_dirs(&disk, dir)?;
        }
        for path in self.paths() {
            let file = disk.open(path, OpenMode::CreateNew)?;
            file.write_at(0, &self.content(path).unwrap_or_default())?;
            file.sync()?;
            disk.sync_dir(path.parent().unwrap_or(Path::new("")))?;
        }
        Ok(disk)
    }

    fn refuse<T>(&self) -> io::Result<T> {
        self.written.store(true, Ordering::Relaxed);
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn is_dir(&self, path: &Path) -> bool {
        path.as_os_str().is_empty() || self.dirs.contains(path)
    }
}

fn walk(
    disk: &dyn Disk,
    dir: &Path,
    files: &mut BTreeMap<PathBuf, Bytes>,
    dirs: &mut BTreeSet<PathBuf>,
) -> io::Result<()> {
    for entry in disk.list(dir)? {
        let path = dir.join(entry.name);
        match entry.stat.is_dir {
            true => {
                walk(disk, &path, files, dirs)?;
                dirs.insert(path);
            }
            false => {
                let bytes = marey_engine::disk::read_all(disk, &path, u64::MAX)?;
                files.insert(path, bytes.into());
            }
        }
    }
    Ok(())
}

impl Disk for Frozen {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        if mode != OpenMode::Read {
            return self.refuse();
        }
        match self.content(path) {
            Some(bytes) => Ok(Arc::new(FrozenFile {
                bytes,
                written: self.written.clone(),
            })),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        if !self.is_dir(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let dirs = self.dirs.iter().map(|path| (path, true));
        let files = self.paths().map(|path| (path, false));
        let mut entries = Vec::new();
        for (path, is_dir) in dirs.chain(files).filter(|(path, _)| path.parent() == Some(dir)) {
            let name = path.file_name().and_then(|name| name.to_str());
            let bytes = if is_dir {
                0
            } else {
                self.content(path).map_or(0, |bytes| bytes.len() as u64)
            };
            entries.extend(name.map(|name| DirEntry {
                name: name.to_owned(),
                stat: Stat { is_dir, bytes },
            }));
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn stat(&self, path: &Path) -> io::Result<Option<Stat>> {
        if self.is_dir(path) {
            let is_dir = true;
            return Ok(Some(Stat { is_dir, bytes: 0 }));
        }
        Ok(self.content(path).map(|bytes| Stat {
            is_dir: false,
            bytes: bytes.len() as u64,
        }))
    }

    fn create_dir(&self, _: &Path) -> io::Result<()> {
        self.refuse()
    }

    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        self.refuse()
    }

    fn exchange(&self, _: &Path, _: &Path) -> io::Result<()> {
        self.refuse()
    }

    fn hard_link(&self, _: &Path, _: &Path) -> io::Result<()> {
        self.refuse()
    }

    fn remove_file(&self, _: &Path) -> io::Result<()> {
        self.refuse()
    }

    fn remove_dir_all(&self, _: &Path) -> io::Result<()> {
        self.refuse()
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        self.refuse()
    }

    fn space(&self) -> io::Result<Space> {
        Ok(Space {
            free_bytes: 0,
            total_bytes: 1 << 40,
        })
    }

    fn lock(&self, _: &Path) -> io::Result<Option<Box<dyn LockGuard>>> {
        self.refuse()
    }

    fn describe(&self, path: &Path) -> PathBuf {
        path.to_owned()
    }
}

#[derive(Debug)]
struct FrozenFile {
    bytes: Bytes,
    written: Arc<AtomicBool>,
}

impl FrozenFile {
    fn refuse(&self) -> io::Result<()> {
        self.written.store(true, Ordering::Relaxed);
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
}

impl File for FrozenFile {
    fn read_at(&self, offset: u64, to: &mut [u8]) -> io::Result<usize> {
        let from = self.bytes.get(offset as usize..).unwrap_or_default();
        let length = from.len().min(to.len());
        to[..length].copy_from_slice(&from[..length]);
        Ok(length)
    }

    fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
        self.refuse()
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        self.refuse()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.len() as u64)
    }

    fn sync(&self) -> io::Result<()> {
        self.refuse()
    }
}
