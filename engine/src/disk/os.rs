//! The operating system's disk: plain blocking calls, positioned reads and writes.

#![allow(
    clippy::disallowed_methods,
    reason = "this is the seam that everything else goes through"
)]

use super::{DirEntry, Disk, File, LockGuard, OpenMode, Space, Stat};
use std::fs;
use std::io::{self, IoSlice, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Pieces of one write at most: `IOV_MAX` of Linux.
const SLICES_MAX: usize = 1024;

/// From so many bytes on, a write to the end of a file gets its room first: a file system that is asked for it page by page,
/// as ext4 is when it allocates late, takes over half as long again (5.9 against 9.4 GB/s in writes of 1 MiB). Below
/// 64 KiB asking costs more than it saves.
const RESERVED_BYTES_MIN: usize = 128 << 10;

/// A folder of the file system.
#[derive(Clone, Debug)]
pub struct OsDisk {
    root: PathBuf,
}

impl OsDisk {
    /// The disk rooted at `root`, which should be there.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where it is rooted.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn at(&self, path: &Path) -> PathBuf {
        self.root.join(path)
    }
}

impl Disk for OsDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut options = fs::OpenOptions::new();
        options.read(true).mode(0o600);
        match mode {
            OpenMode::Read => {}
            OpenMode::ReadWrite => {
                options.write(true);
            }
            OpenMode::CreateNew => {
                options.write(true).create_new(true);
            }
        }
        Ok(Arc::new(OsFile(options.open(self.at(path))?)))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(self.at(dir))? {
            let entry = entry?;
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            // A name that is not UTF-8 is none of ours.
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            entries.push(DirEntry {
                name,
                stat: Stat {
                    is_dir: metadata.is_dir(),
                    bytes: metadata.len(),
                },
            });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn stat(&self, path: &Path) -> io::Result<Option<Stat>> {
        match fs::metadata(self.at(path)) {
            Ok(metadata) => Ok(Some(Stat {
                is_dir: metadata.is_dir(),
                bytes: metadata.len(),
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        match fs::create_dir(self.at(path)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && self.at(path).is_dir() => Ok(()),
            done => done,
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(self.at(from), self.at(to))
    }

    fn exchange(&self, a: &Path, b: &Path) -> io::Result<()> {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        Ok(renameat_with(
            CWD,
            self.at(a),
            CWD,
            self.at(b),
            RenameFlags::EXCHANGE,
        )?)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(self.at(from), self.at(to))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(self.at(path))
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(self.at(path))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let dir = fs::File::open(self.at(path))?;
        dir.sync_all()?;
        still_there(&dir)
    }

    fn space(&self) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(&self.root)?;
        Ok(Space {
            free_bytes: stat.f_bavail * stat.f_frsize,
            total_bytes: stat.f_blocks * stat.f_frsize,
        })
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn LockGuard>>> {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.at(path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Ok(None),
            Err(fs::TryLockError::Error(error)) => return Err(error),
        }
        let mut lock = OsLock(file);
        let file = &mut lock.0;
        // The process id is for people; what counts is the lock.
        let mut before = String::new();
        file.read_to_string(&mut before).ok();
        file.set_len(0)?;
        file.write_all_at(format!("{}\n", std::process::id()).as_bytes(), 0)?;
        file.flush()?;
        Ok(Some(Box::new(lock)))
    }

    fn describe(&self, path: &Path) -> PathBuf {
        self.at(path)
    }
}

#[derive(Debug)]
struct OsFile(fs::File);

impl File for OsFile {
    fn read_at(&self, offset: u64, to: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < to.len() {
            match self.0.read_at(&mut to[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn write_slices_at(&self, mut offset: u64, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
        IoSlice::advance_slices(&mut slices, 0); // Empty ones before the first byte.
        let bytes: usize = slices.iter().map(|slice| slice.len()).sum();
        if bytes >= RESERVED_BYTES_MIN {
            reserve(&self.0, offset, bytes as u64);
        }
        while !slices.is_empty() {
            let some = &slices[..slices.len().min(SLICES_MAX)];
            let written = match rustix::io::pwritev(&self.0, some, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => written,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            offset += written as u64;
            IoSlice::advance_slices(&mut slices, written);
        }
        Ok(())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()?;
        still_there(&self.0)
    }
}

/// Sets room aside, without a word where that can't be done: the write that follows says what is wrong. The file's length
/// stays, so that what was not written does not read as zeros.
#[cfg(target_os = "linux")]
fn reserve(file: &fs::File, offset: u64, bytes: u64) {
    use rustix::fs::{FallocateFlags, fallocate};
    fallocate(file, FallocateFlags::KEEP_SIZE, offset, bytes).ok();
}

#[cfg(not(target_os = "linux"))]
fn reserve(_: &fs::File, _: u64, _: u64) {}

/// Whether the file system still runs, after a sync that said yes: xfs says yes of what it dropped because it shuts down.
/// Once it does, it answers no question about a file any more. This one is not about times: Linux gives a file whose times
/// were looked at a new one with the next write, and where ext4 has no journal each sync then writes the inode as well,
/// which took a fifth of the rate.
#[cfg(target_os = "linux")]
fn still_there(file: &fs::File) -> io::Result<()> {
    use rustix::fs::{AtFlags, StatxFlags, statx};
    match statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::INO) {
        Ok(_) => Ok(()),
        // An old kernel, or a container that forbids it.
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => file.metadata().map(drop),
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(target_os = "linux"))]
fn still_there(file: &fs::File) -> io::Result<()> {
    file.metadata().map(drop)
}

#[derive(Debug)]
struct OsLock(fs::File);

impl LockGuard for OsLock {}

impl Drop for OsLock {
    /// Closing alone would leave it with a process that another thread is just starting: until that runs its own program
    /// it has every file that is open here.
    fn drop(&mut self) {
        self.0.unlock().ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_stand_behind_one_another_though_there_are_many_and_some_are_empty() {
        let dir = tempfile::tempdir().expect("a folder");
        let disk = OsDisk::new(dir.path());
        let file = disk.open(Path::new("file"), OpenMode::CreateNew).expect("made");
        let pieces: Vec<Vec<u8>> = (0..3 * SLICES_MAX).map(|at| vec![at as u8; at % 97]).collect();
        assert!(pieces.concat().len() >= RESERVED_BYTES_MIN);
        let mut slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        file.write_slices_at(5, &mut slices).expect("written");
        file.write_slices_at(0, &mut []).expect("nothing to write");
        let mut expected = vec![0; 5];
        expected.extend(pieces.concat());
        assert_eq!(fs::read(dir.path().join("file")).expect("there"), expected);
    }

    #[test]
    fn a_lock_goes_with_its_guard_though_a_child_still_has_the_file() {
        let dir = tempfile::tempdir().expect("a folder");
        let disk = OsDisk::new(dir.path());
        let file = fs::File::create(dir.path().join("LOCK")).expect("made");
        let child_has = file.try_clone().expect("the same open file");
        file.try_lock().expect("nobody has it");
        let guard = OsLock(file);
        assert!(disk.lock(Path::new("LOCK")).expect("answered").is_none());
        drop(guard);
        assert!(disk.lock(Path::new("LOCK")).expect("answered").is_some());
        drop(child_has);
    }
}
