//! Where an export comes to stand: a file or a folder that is made aside, synced, and gets its name in one step.
//!
//! Invariants: what stands there already is never replaced; of an export that fails or is interrupted nothing is left; on the
//! disk of the recording an export stops before it takes the room that the intake needs; nothing is made within a recording.

use crate::output::{Failure, Result};
use crate::written;
use marey_engine::Options;
use marey_engine::disk::{Disk, OsDisk};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tempfile::TempDir;

/// A folder beside the place, in which all is made.
#[derive(Debug)]
pub struct Place {
    to: PathBuf,
    parent: OsDisk,
    aside: TempDir,
    /// Free bytes that must be left; 0 on a disk of its own.
    least_bytes: u64,
    /// Whether somebody wants it to end.
    interrupted: Arc<AtomicBool>,
    /// What was made, for the report.
    pub bytes: u64,
}

impl Place {
    /// A place for what `to` is to name. Nothing may stand there. `interrupted` is set when it is to end.
    pub fn new(to: &Path, recording: &Path, options: &Options, interrupted: Arc<AtomicBool>) -> Result<Self> {
        written::outside("--out", to)?;
        let to = std::path::absolute(to)?;
        let (Some(parent), Some(name)) = (to.parent(), to.file_name()) else {
            return Err(Failure::Usage(format!("--out {} names no file", to.display())));
        };
        if to.symlink_metadata().is_ok() {
            return Err(Self::is_taken(&to));
        }
        let failed = |error| Failure::fault(format!("{} can't be written to: {error}", parent.display()));
        let device = parent.metadata().map_err(failed)?.dev();
        if parent.canonicalize()?.starts_with(recording.canonicalize()?) {
            return Err(Failure::Usage(format!(
                "--out {} lies within the recording, which holds nothing but its own; name a place outside of it",
                to.display()
            )));
        }
        let disk = OsDisk::new(parent);
        let is_same = recording
            .metadata()
            .is_ok_and(|recording| recording.dev() == device);
        let least_bytes = match is_same {
            true => options.floor_bytes(disk.space()?.total_bytes).saturating_mul(2),
            false => 0,
        };
        let prefix = format!(".{}-", name.to_string_lossy());
        let aside = tempfile::Builder::new()
            .prefix(&prefix)
            .suffix(".tmp")
            .tempdir_in(parent);
        let place = Self {
            aside: aside.map_err(failed)?,
            parent: disk,
            to,
            least_bytes,
            interrupted,
            bytes: 0,
        };
        place.goes_on()?;
        Ok(place)
    }

    fn is_taken(to: &Path) -> Failure {
        let to = to.display();
        Failure::fault(format!(
            "{to} is there already, and an export replaces nothing; name another with --out"
        ))
    }

    /// Fails where somebody ended it, or the disk has no more room for an export. To be asked at every batch.
    pub fn goes_on(&self) -> Result {
        if self.interrupted.load(Ordering::Relaxed) {
            let to = self.to.display();
            return Err(Failure::fault(format!("interrupted, so {to} was not made")));
        }
        let free = self.parent.space()?.free_bytes;
        match free < self.least_bytes || free == 0 {
            false => Ok(()),
            true => Err(Failure::fault(format!(
                "{} has {free} bytes free, and an export leaves {} for recording; export to another disk, or make room",
                self.parent.root().display(),
                self.least_bytes
            ))),
        }
    }

    /// A file of the export: the one that it is, if `below` is empty, else below the folder that it is.
    pub fn file(&self, below: &str) -> Result<Made> {
        let within = |at: &Path| match below.is_empty() {
            true => at.to_owned(),
            false => at.join(below),
        };
        let (path, shown) = (within(&self.made()), within(&self.to));
        let made = || -> io::Result<File> {
            std::fs::create_dir_all(path.parent().unwrap_or(&path))?;
            File::create_new(&path)
        };
        match made() {
            Ok(file) => Ok(Made {
                file: BufWriter::with_capacity(256 << 10, file),
                shown,
            }),
            Err(error) => Err(Failure::fault(format!(
                "{} can't be made: {error}",
                shown.display()
            ))),
        }
    }

    /// Gives it its name.
    pub fn publish(self) -> Result {
        sync_folders(self.aside.path())?;
        self.goes_on()?;
        rename(&self.made(), &self.to).map_err(|error| match error {
            Errno::EXIST => Self::is_taken(&self.to),
            error => Failure::fault(format!("{} can't be given its name: {error}", self.to.display())),
        })?;
        Ok(self.parent.sync_dir(Path::new(""))?)
    }

    /// The file or folder while it is made. The folder aside is for its owner alone; what is in it has the rights of any that the
    /// person makes.
    fn made(&self) -> PathBuf {
        self.aside.path().join("export")
    }
}

/// Replaces nothing.
fn rename(made: &Path, to: &Path) -> rustix::io::Result<()> {
    match renameat_with(CWD, made, CWD, to, RenameFlags::NOREPLACE) {
        // Disks over a network may not know of it: there a look must do.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => match to.symlink_metadata() {
            Ok(_) => Err(Errno::EXIST),
            Err(_) => rustix::fs::rename(made, to),
        },
        done => done,
    }
}

fn sync_folders(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_folders(&entry.path())?;
        }
    }
    File::open(folder)?.sync_all()
}

/// A file that is being made.
#[derive(Debug)]
pub struct Made {
    file: BufWriter<File>,
    shown: PathBuf,
}

/// For writers of others, whose errors say nothing of the file.
impl Write for Made {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes).map_err(|error| self.named(&error))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush().map_err(|error| self.named(&error))
    }
}

impl Seek for Made {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to).map_err(|error| self.named(&error))
    }
}

impl Made {
    pub fn put(&mut self, bytes: &[u8]) -> Result {
        self.file.write_all(bytes).map_err(|error| self.failed(&error))
    }

    /// Makes it durable but for its name, and says how long it is.
    pub fn finish(mut self) -> Result<u64> {
        let done = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        done.map_err(|error| self.failed(&error))?;
        let length = self.file.get_ref().metadata().map(|metadata| metadata.len());
        length.map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &io::Error) -> Failure {
        Failure::fault(self.named(error))
    }

    fn named(&self, error: &io::Error) -> io::Error {
        let what = format!("{} can't be written: {error}", self.shown.display());
        io::Error::new(error.kind(), what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_there_is_not_replaced_and_of_a_failure_nothing_is_left() {
        let [folder, recording] = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
        let to = folder.path().join("out");
        let any = Options {
            disk_floor_bytes: Some(0),
            ..Options::default()
        };
        let place = || Place::new(&to, recording.path(), &any, Arc::default());
        let names = || std::fs::read_dir(folder.path()).expect("a folder").count();
        let first = place().expect("a place");
        first.file("").expect("a file").finish().expect("written");
        drop(first);
        assert_eq!(names(), 0, "what was not published is gone");
        let (first, second) = (place().expect("a place"), place().expect("a place"));
        let mut made = first.file("").expect("a file");
        made.put(b"first").expect("written");
        made.finish().expect("synced");
        first.publish().expect("published");
        second.file("a/b").expect("a file").finish().expect("synced");
        let error = second.publish().expect_err("it is taken");
        assert!(error.to_string().contains("there already"), "{error}");
        assert_eq!(
            (std::fs::read(&to).expect("it stands"), names()),
            (b"first".to_vec(), 1)
        );
        assert!(place().is_err());
        let full = Options {
            disk_floor_bytes: Some(u64::MAX / 4),
            ..Options::default()
        };
        let refused = |to: PathBuf, options| {
            let refused = Place::new(&to, recording.path(), options, Arc::default());
            refused.expect_err("no place").to_string()
        };
        let other = folder.path().join("other");
        assert!(refused(other.clone(), &full).contains("for recording"));
        assert!(refused(recording.path().join("other"), &any).contains("within the recording"));
        assert!(refused(folder.path().join("no/such"), &any).contains("can't be written to"));
        let interrupted: Arc<AtomicBool> = Arc::default();
        let place = Place::new(&other, recording.path(), &any, interrupted.clone()).expect("a place");
        place.file("a/b").expect("a file").finish().expect("synced");
        interrupted.store(true, Ordering::Relaxed);
        assert!(place.goes_on().is_err());
        let error = place.publish().expect_err("somebody ended it");
        assert!(error.to_string().contains("interrupted"), "{error}");
        assert_eq!(names(), 1);
    }
}
