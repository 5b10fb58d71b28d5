//! The disk seam: the only place in the engine that opens a file.
//!
//! A [`Disk`] is rooted in a hub's folder; paths are relative to it. Kinds: the operating system's
//! ([`OsDisk`]), one in memory, and two that fail on purpose; all but the first come with the feature `testing`.
//! What is assumed of a disk stands in format-spec's `recovery.md`; [`Disk::sync_dir`] is what makes a name durable.

mod os;

#[cfg(any(test, feature = "testing"))]
pub mod faulty;
#[cfg(any(test, feature = "testing"))]
pub mod memory;
#[cfg(any(test, feature = "testing"))]
pub mod troubled;

pub use os::OsDisk;

use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A folder on a disk.
pub trait Disk: Send + Sync + Debug {
    /// Opens a file.
    ///
    /// # Errors
    /// `NotFound`, `AlreadyExists` (for [`OpenMode::CreateNew`]), and whatever the system says.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>>;

    /// What stands in a folder, sorted by name.
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>>;

    /// What stands at a path; none if nothing does.
    fn stat(&self, path: &Path) -> io::Result<Option<Stat>>;

    /// Makes one folder; its parent must be there. It is no error if the folder is there.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// Gives a file or folder another name, replacing a file of that name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Exchanges two names in one step.
    fn exchange(&self, a: &Path, b: &Path) -> io::Result<()>;

    /// A second name for a file.
    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()>;

    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Removes a folder and all below it.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a folder durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Room on the disk.
    fn space(&self) -> io::Result<Space>;

    /// Takes the lock of that name for as long as the guard lives; none if another holds it.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn LockGuard>>>;

    /// Where this is, for people.
    fn describe(&self, path: &Path) -> PathBuf;
}

/// An open file. Calls are independent of each other: there is no position.
#[allow(
    clippy::len_without_is_empty,
    reason = "the length of a file is asked for and may fail; nobody asks more"
)]
pub trait File: Send + Sync + Debug {
    /// Reads up to `to.len()` bytes; fewer only at the end of the file.
    fn read_at(&self, offset: u64, to: &mut [u8]) -> io::Result<usize>;

    /// Writes all of `bytes`.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Writes all of `slices`, one behind the other. What they are afterwards is not said.
    fn write_slices_at(&self, mut offset: u64, slices: &mut [IoSlice<'_>]) -> io::Result<()> {
        for slice in slices {
            self.write_at(offset, slice)?;
            offset += slice.len() as u64;
        }
        Ok(())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()>;

    fn len(&self) -> io::Result<u64>;

    /// Makes content and length durable. After an error nothing is known of any byte written since the last success.
    fn sync(&self) -> io::Result<()>;
}

/// Held for as long as a hub is open.
pub trait LockGuard: Send + Sync + Debug {}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    Read,
    ReadWrite,
    /// Read and write; the file must not be there.
    CreateNew,
}

/// One name in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    pub name: String,
    pub stat: Stat,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    pub is_dir: bool,
    /// Length of a file in bytes.
    pub bytes: u64,
}

/// Room on a disk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    pub free_bytes: u64,
    pub total_bytes: u64,
}

/// Reads a whole file of at most `most` bytes.
pub fn read_all(disk: &dyn Disk, path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let file = disk.open(path, OpenMode::Read)?;
    let length = file.len()?;
    if length > most {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("{length} bytes, at most {most} are expected"),
        ));
    }
    let mut bytes = vec![0; length as usize];
    let read = file.read_at(0, &mut bytes)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Replaces a file as a whole: written aside, synced, renamed, folder synced. A crash leaves the old one or the new.
pub fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".tmp");
    let aside = PathBuf::from(aside);
    if disk.stat(&aside)?.is_some() {
        disk.remove_file(&aside)?;
    }
    let file = disk.open(&aside, OpenMode::CreateNew)?;
    file.write_at(0, bytes)?;
    file.sync()?;
    disk.rename(&aside, path)?;
    disk.sync_dir(path.parent().unwrap_or(Path::new("")))
}

/// Makes a folder and those above it, and makes their names durable.
pub fn create_dirs(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    let Some(parent) = path.parent() else {
        return Ok(());
    };
    if disk.stat(path)?.is_none_or(|stat| !stat.is_dir) {
        create_dirs(disk, parent)?;
        disk.create_dir(path)?;
    }
    // Of one that is there as well: a try before may have made it, and failed to sync its name.
    disk.sync_dir(parent)
}

#[cfg(test)]
mod tests {
    use super::faulty::{Duration, FaultyDisk, Plan};
    use super::memory::MemoryDisk;
    use super::*;

    #[test]
    fn folders_made_at_the_second_try_are_durable() {
        for fail_at in 0..6 {
            let memory = MemoryDisk::new();
            let fault = (fail_at, io::ErrorKind::StorageFull, Duration::Once);
            let faulty = FaultyDisk::new(
                memory.clone(),
                Plan {
                    fail_at: Some(fault),
                    ..Plan::default()
                },
            );
            let path = Path::new("a/b/c");
            assert!(create_dirs(&faulty, path).is_err());
            create_dirs(&faulty, path).unwrap();
            memory.power_cut(None);
            assert!(memory.stat(path).unwrap().is_some(), "operation {fail_at} failed");
        }
    }
}
