//! Where an export comes to stand: a file or a folder that is made aside, synced, and gets its name in one step.
//!
//! Invariants: what stands there already is never replaced; of an export that fails nothing is left; on the disk of the
//! recording an export stops before it takes the room that the intake needs.

use crate::output::{Failure, Result};
use marey_engine::Options;
use marey_engine::disk::{Disk, OsDisk};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A folder beside the place, in which all is made.
#[derive(Debug)]
pub struct Place {
    to: PathBuf,
    parent: OsDisk,
    aside: TempDir,
    /// Free bytes that must be left; 0 on a disk of its own.
    least_bytes: u64,
    /// What was made, for the report.
    pub bytes: u64,
}

impl Place {
    /// A place for what `to` is to name. Nothing may stand there.
    pub fn new(to: &Path, recording: &Path, options: &Options) -> Result<Self> {
        let to = std::path::absolute(to)?;
        let (Some(parent), Some(name)) = (to.parent(), to.file_name()) else {
            return Err(Failure::Usage(format!("--out {} names no file", to.display())));
        };
        if to.symlink_metadata().is_ok() {
            return Err(Self::is_taken(&to));
        }
        let failed = |error| Failure::fault(format!("{} can't be written to: {error}", parent.display()));
        let device = parent.metadata().map_err(failed)?.dev();
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
            bytes: 0,
        };
        place.room()?;
        Ok(place)
    }

    fn is_taken(to: &Path) -> Failure {
        let to = to.display();
        Failure::fault(format!(
            "{to} is there already, and an export replaces nothing; name another with --out"
        ))
    }

    /// Fails where the disk has no more room for an export.
    pub fn room(&self) -> Result {
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
        let path = match below.is_empty() {
            true => self.aside.path().join(SINGLE),
            false => self.aside.path().join(below),
        };
        let shown = if below.is_empty() {
            self.to.clone()
        } else {
            self.to.join(below)
        };
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
    pub fn publish(self, is_folder: bool) -> Result {
        let made = match is_folder {
            true => self.aside.path().to_owned(),
            false => self.aside.path().join(SINGLE),
        };
        sync_folders(self.aside.path())?;
        renameat_with(CWD, &made, CWD, &self.to, RenameFlags::NOREPLACE).map_err(|error| match error {
            rustix::io::Errno::EXIST => Self::is_taken(&self.to),
            error => Failure::fault(format!("{} can't be given its name: {error}", self.to.display())),
        })?;
        self.parent.sync_dir(Path::new(""))?;
        if is_folder {
            // It has its name, and is nobody's to remove.
            let _its_old_name = self.aside.keep();
        }
        Ok(())
    }
}

/// Name of an export that is one file, while it is made.
const SINGLE: &str = "export";

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

impl Write for Made {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for Made {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
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

    fn failed(&self, error: &dyn std::fmt::Display) -> Failure {
        Failure::fault(format!("{} can't be written: {error}", self.shown.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_there_is_not_replaced_and_of_a_failure_nothing_is_left() {
        let folder = tempfile::tempdir().expect("a folder");
        let to = folder.path().join("out");
        let place = || {
            Place::new(
                &to,
                folder.path(),
                &Options {
                    disk_floor_bytes: Some(0),
                    ..Options::default()
                },
            )
        };
        let names = || std::fs::read_dir(folder.path()).expect("a folder").count();
        let first = place().expect("a place");
        first.file("").expect("a file").finish().expect("written");
        drop(first);
        assert_eq!(names(), 0, "what was not published is gone");
        let (first, second) = (place().expect("a place"), place().expect("a place"));
        let mut made = first.file("").expect("a file");
        made.put(b"first").expect("written");
        made.finish().expect("synced");
        first.publish(false).expect("published");
        second.file("a/b").expect("a file").finish().expect("synced");
        let error = second.publish(true).expect_err("it is taken");
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
        let error = Place::new(&folder.path().join("other"), folder.path(), &full).expect_err("no room");
        assert!(error.to_string().contains("for recording"), "{error}");
    }
}
