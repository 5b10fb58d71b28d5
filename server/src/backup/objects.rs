//! A store by hash on a disk: each content stands there once, under a name that comes of it, whole or not at all.
//!
//! What is in the clear is named by its BLAKE3. What is encrypted is named by a keyed hash of the content's BLAKE3 and of the
//! recipients: without the hub's key nobody can tell from a name what was encrypted, and content that is to be readable by
//! others than before gets another name. An object is written aside, synced and renamed; a folder's names are made durable by
//! [`Objects::sync`], before any manifest names them.

use super::BackupError;
use super::crypt::Recipients;
use super::layout::{ASIDE, OBJECTS, ObjectFact};
use marey_engine::disk::{self, Disk, File, OpenMode};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes that are read or written at once.
const CHUNK_BYTES: usize = 1 << 20;

/// Length and hash of a content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Content {
    pub bytes: u64,
    pub blake3: String,
}

/// The objects of a folder of backups.
pub(super) struct Objects<'d> {
    disk: &'d dyn Disk,
    /// Folders whose names are not durable yet.
    unsynced: RefCell<BTreeSet<PathBuf>>,
    aside: Cell<u64>,
}

impl<'d> Objects<'d> {
    pub fn new(disk: &'d dyn Disk) -> Self {
        Self {
            disk,
            unsynced: RefCell::default(),
            aside: Cell::new(0),
        }
    }

    pub fn path(name: &str) -> PathBuf {
        Path::new(OBJECTS).join(&name[..2]).join(name)
    }

    /// Bytes of an object that is there.
    pub fn stat(&self, name: &str) -> Result<Option<u64>, BackupError> {
        let path = Self::path(name);
        let stat = self
            .disk
            .stat(&path)
            .map_err(|error| self.failed("looking for", &path, &error))?;
        Ok(stat.filter(|stat| !stat.is_dir).map(|stat| stat.bytes))
    }

    /// What is stored under a name, read and hashed.
    pub fn measure(&self, name: &str) -> Result<ObjectFact, BackupError> {
        let content = hash(self.disk, &Self::path(name))?;
        Ok(ObjectFact {
            name: name.to_owned(),
            bytes: content.bytes,
            blake3: content.blake3,
        })
    }

    /// Takes on an object that no manifest is known to name: what is stored, read and hashed. That its name can be read does
    /// not make it durable: a backup that was killed may have put it there.
    pub fn adopt(&self, name: &str) -> Result<ObjectFact, BackupError> {
        let path = Self::path(name);
        let dir = path.parent().unwrap_or(Path::new(OBJECTS));
        disk::create_dirs(self.disk, dir).map_err(|error| self.failed("syncing", &path, &error))?;
        self.unsynced.borrow_mut().insert(dir.to_owned());
        self.measure(name)
    }

    /// Stores what `from` gives under a name, encrypted if there are recipients. The content must be what it was said to be.
    ///
    /// # Errors
    /// `Ok(None)` where it was something else: nothing was stored.
    pub fn put(
        &self,
        name: &str,
        from: &mut dyn Read,
        expected: &Content,
        recipients: &Recipients,
    ) -> Result<Option<ObjectFact>, BackupError> {
        let number = self.aside.replace(self.aside.get() + 1);
        let aside = Path::new(ASIDE).join(format!("{number}.part"));
        disk::create_dirs(self.disk, Path::new(ASIDE))
            .map_err(|error| self.failed("making", &aside, &error))?;
        let opened = self.disk.open(&aside, OpenMode::CreateNew);
        let mut to = Out::new(opened.map_err(|error| self.failed("making", &aside, &error))?);
        let written = |error: io::Error| self.failed("writing", &aside, &error);
        let content = match recipients.is_empty() {
            true => copy(from, &mut to).map_err(written)?,
            false => {
                let mut sealing = recipients.wrap(&mut to)?;
                let content = copy(from, &mut sealing).map_err(written)?;
                sealing.finish().map_err(written)?;
                content
            }
        };
        let (file, bytes, blake3) = to.finish().map_err(written)?;
        if content != *expected {
            self.disk.remove_file(&aside).map_err(written)?;
            return Ok(None);
        }
        file.sync()
            .map_err(|error| self.failed("syncing", &aside, &error))?;
        self.place(name, |path| self.disk.rename(&aside, path))?;
        Ok(Some(ObjectFact {
            name: name.to_owned(),
            bytes,
            blake3,
        }))
    }

    /// Gives a file of the same file system, which nobody writes any more, a second name in here. False where that can't be.
    pub fn link(&self, name: &str, absolute: &Path) -> Result<bool, BackupError> {
        // What stands there already was found to be damaged, or somebody's who can't be linked to: it is replaced.
        Ok(self.stat(name)?.is_none()
            && self
                .place(name, |path| self.disk.hard_link(absolute, path))
                .is_ok())
    }

    fn place(&self, name: &str, put: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), BackupError> {
        let path = Self::path(name);
        let dir = path.parent().unwrap_or(Path::new(OBJECTS));
        disk::create_dirs(self.disk, dir)
            .and_then(|()| put(&path))
            .map_err(|error| self.failed("storing", &path, &error))?;
        self.unsynced.borrow_mut().insert(dir.to_owned());
        Ok(())
    }

    /// Makes the names of all that was stored durable.
    pub fn sync(&self) -> Result<(), BackupError> {
        for dir in self.unsynced.take() {
            self.disk
                .sync_dir(&dir)
                .map_err(|error| self.failed("syncing", &dir, &error))?;
        }
        Ok(())
    }

    /// The stored bytes of an object.
    pub fn open(&self, name: &str) -> Result<In, BackupError> {
        let path = Self::path(name);
        In::open(self.disk, &path).map_err(|error| self.failed("opening", &path, &error))
    }

    fn failed(&self, action: &'static str, path: &Path, error: &io::Error) -> BackupError {
        BackupError::file(action, self.disk.describe(path), error)
    }
}

/// Hashes a file.
pub(super) fn hash(disk: &dyn Disk, path: &Path) -> Result<Content, BackupError> {
    let read = In::open(disk, path).and_then(|mut from| copy(&mut from, &mut io::sink()));
    read.map_err(|error| BackupError::file("reading", disk.describe(path), &error))
}

/// Hashes bytes.
pub(super) fn content_of(bytes: &[u8]) -> Content {
    Content {
        bytes: bytes.len() as u64,
        blake3: blake3::hash(bytes).to_hex().to_string(),
    }
}

/// Copies everything, and says what it was.
pub(super) fn copy(from: &mut dyn Read, to: &mut dyn Write) -> io::Result<Content> {
    let (mut hasher, mut bytes, mut chunk) = (blake3::Hasher::new(), 0, vec![0; CHUNK_BYTES]);
    loop {
        let read = match from.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(&chunk[..read]);
        to.write_all(&chunk[..read])?;
        bytes += read as u64;
    }
    Ok(Content {
        bytes,
        blake3: hasher.finalize().to_hex().to_string(),
    })
}

/// A file of a disk, from its beginning to where it ended when it was opened.
#[derive(Debug)]
pub(super) struct In {
    file: Arc<dyn File>,
    at: u64,
    end: u64,
}

impl In {
    pub fn open(disk: &dyn Disk, path: &Path) -> io::Result<Self> {
        let file = disk.open(path, OpenMode::Read)?;
        let end = file.len()?;
        Ok(Self { file, at: 0, end })
    }

    /// In bytes, from the beginning.
    pub fn length(&self) -> u64 {
        self.end
    }
}

impl Read for In {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let most = to.len().min(left);
        let read = self.file.read_at(self.at, &mut to[..most])?;
        self.at += read as u64;
        Ok(read)
    }
}

/// A new file of a disk, written in large pieces, and hashed.
#[derive(Debug)]
pub(super) struct Out {
    file: Arc<dyn File>,
    at: u64,
    waiting: Vec<u8>,
    hasher: blake3::Hasher,
}

impl Out {
    pub fn new(file: Arc<dyn File>) -> Self {
        Self {
            file,
            at: 0,
            waiting: Vec::with_capacity(CHUNK_BYTES),
            hasher: blake3::Hasher::new(),
        }
    }

    fn put(&mut self) -> io::Result<()> {
        self.file.write_at(self.at, &self.waiting)?;
        self.hasher.update(&self.waiting);
        self.at += self.waiting.len() as u64;
        self.waiting.clear();
        Ok(())
    }

    /// The file, which is not synced, its length, and its BLAKE3.
    pub fn finish(mut self) -> io::Result<(Arc<dyn File>, u64, String)> {
        self.put()?;
        Ok((self.file, self.at, self.hasher.finalize().to_hex().to_string()))
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.waiting.extend_from_slice(bytes);
        if self.waiting.len() >= CHUNK_BYTES {
            self.put()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
