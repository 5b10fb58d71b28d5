//! How long writes and syncs take, and whether names can be changed as a hub changes them.
//!
//! Owns a folder of its own below the one that is tested, and removes it whatever happens. What was written is not read
//! back: it would come from memory, and prove nothing.

use super::surroundings::Surroundings;
use crate::output::{Failure, Result};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Measured {
    pub timings: Vec<Timing>,
    /// What a hub does with names, and what came of it: none where it works.
    pub names: Vec<(&'static str, Option<String>)>,
}

/// One thing that was done many times.
#[derive(Debug, Serialize)]
pub struct Timing {
    pub what: What,
    pub bytes: usize,
    pub synced: bool,
    pub count: usize,
    pub median_us: f64,
    pub p99_us: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// Over bytes that are there, as the journal is written.
    InPlace,
    /// At the end of a file, as device logs are written.
    Appended,
    /// A file that is written aside, renamed, and whose folder is synced.
    NewName,
}

/// A commit of few frames, and a write to a device log.
pub const SMALL_BYTES: usize = 4 << 10;
pub const LARGE_BYTES: usize = 256 << 10;

/// Length of the file that is written over.
const FILE_BYTES: u64 = 16 << 20;
/// Room without which nothing is begun.
const ROOM_BYTES: u64 = 128 << 20;
/// Bytes that are appended before it begins anew.
const APPENDED_BYTES_MAX: u64 = 16 << 20;
/// However slow the disk, and however fast.
const COUNT_MIN: usize = 20;
const COUNT_MAX: usize = 20_000;

/// Measures for about so many seconds.
pub fn measure(
    folder: &Path,
    surroundings: &Surroundings,
    seconds: f64,
    tell: &dyn Fn(&str),
) -> Result<Measured> {
    if surroundings.free_bytes < ROOM_BYTES {
        return Err(Failure::fault(format!(
            "{} bytes are free in {}, and measuring takes {ROOM_BYTES}; make room first",
            surroundings.free_bytes,
            folder.display()
        )));
    }
    let own = OwnFolder::make(folder)?;
    let fault = |what: &'static str| {
        move |error: io::Error| {
            Failure::fault(format!(
                "{what} in {}: {error}; do not record here",
                folder.display()
            ))
        }
    };
    let each = Duration::from_secs_f64(seconds / 6.0);
    let file = filled(&own.path("written")).map_err(fault("writing"))?;
    let mut timings = Vec::new();
    for bytes in [SMALL_BYTES, LARGE_BYTES] {
        for synced in [false, true] {
            tell(match synced {
                false => "writes",
                true => "writes with a sync each",
            });
            let block = pattern(bytes);
            let mut at = 0;
            timings.push(
                timed(What::InPlace, bytes, synced, each, || {
                    file.write_all_at(&block, at)?;
                    at = (at + bytes as u64) % FILE_BYTES;
                    if synced { file.sync_data() } else { Ok(()) }
                })
                .map_err(fault("writing and syncing"))?,
            );
            // What was left dirty is not the next one's to pay for.
            file.sync_data().map_err(fault("syncing"))?;
        }
    }
    tell("appends with a sync each");
    let log = create(&own.path("appended")).map_err(fault("writing"))?;
    let block = pattern(SMALL_BYTES);
    let mut at = 0;
    let appended = timed(What::Appended, SMALL_BYTES, true, each, || {
        if at >= APPENDED_BYTES_MAX {
            log.set_len(0)?;
            at = 0;
        }
        log.write_all_at(&block, at)?;
        at += SMALL_BYTES as u64;
        log.sync_data()
    });
    timings.push(appended.map_err(fault("appending and syncing"))?);
    tell("new names");
    let renamed = timed(What::NewName, SMALL_BYTES, true, each, || {
        replace(&own, "named", &block).map(drop)
    });
    timings.push(renamed.map_err(fault("renaming and syncing the folder"))?);
    Ok(Measured {
        timings,
        names: names(&own),
    })
}

/// Does something for a while; how long each took.
fn timed(
    what: What,
    bytes: usize,
    synced: bool,
    at_most: Duration,
    mut work: impl FnMut() -> io::Result<()>,
) -> io::Result<Timing> {
    let mut took_us = Vec::new();
    let begin = Instant::now();
    while took_us.len() < COUNT_MIN || (begin.elapsed() < at_most && took_us.len() < COUNT_MAX) {
        let from = Instant::now();
        work()?;
        took_us.push(from.elapsed().as_secs_f64() * 1e6);
    }
    took_us.sort_by(f64::total_cmp);
    let at = |share: f64| took_us[((took_us.len() - 1) as f64 * share).round() as usize];
    Ok(Timing {
        what,
        bytes,
        synced,
        count: took_us.len(),
        median_us: at(0.5),
        p99_us: at(0.99),
    })
}

/// Whether names can be changed in the ways that a hub needs.
fn names(own: &OwnFolder) -> Vec<(&'static str, Option<String>)> {
    let (a, b, link) = (own.path("name-a"), own.path("name-b"), own.path("link"));
    let made = || -> io::Result<()> {
        create(&a)?.write_all_at(b"a", 0)?;
        create(&b)?.write_all_at(b"b", 0)
    };
    let holds = |path: &Path, content: &str, what: &str| match std::fs::read_to_string(path)? {
        found if found == content => Ok(()),
        found => Err(io::Error::other(format!(
            "{what} left {found:?} where {content:?} belongs"
        ))),
    };
    let replaced = || {
        replace(own, "name-c", b"old")?;
        holds(&replace(own, "name-c", b"new")?, "new", "the rename")
    };
    let exchanged = || {
        renameat_with(CWD, &a, CWD, &b, RenameFlags::EXCHANGE)?;
        holds(&a, "b", "the exchange")?;
        own.sync()
    };
    let linked = || {
        std::fs::hard_link(&a, &link)?;
        holds(&link, "b", "the link")?;
        own.sync()
    };
    let exclusive = || match create(&a) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::other("a file that was there was made again")),
    };
    let said = |done: io::Result<()>| done.err().map(|error| error.to_string());
    vec![
        ("make files", said(made())),
        ("refuse to make a file that is there", said(exclusive())),
        (
            "replace a file by a rename, and sync its folder",
            said(replaced()),
        ),
        ("exchange two names in one step", said(exchanged())),
        ("give a file a second name", said(linked())),
    ]
}

/// Writes a file aside, gives it its name, and makes the name durable.
fn replace(own: &OwnFolder, name: &str, bytes: &[u8]) -> io::Result<PathBuf> {
    let (aside, path) = (own.path("aside"), own.path(name));
    let file = create(&aside)?;
    file.write_all_at(bytes, 0)?;
    file.sync_data()?;
    std::fs::rename(&aside, &path)?;
    own.sync()?;
    Ok(path)
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

fn filled(path: &Path) -> io::Result<File> {
    let file = create(path)?;
    let zeros = vec![0; 1 << 20];
    for at in (0..FILE_BYTES).step_by(zeros.len()) {
        file.write_all_at(&zeros, at)?;
    }
    file.sync_all()?;
    Ok(file)
}

/// Bytes that no disk can make smaller.
fn pattern(bytes: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..bytes / 8).flat_map(|_| next()).collect()
}

/// A folder that nobody else has, gone when it is dropped.
#[derive(Debug)]
struct OwnFolder(PathBuf);

impl OwnFolder {
    fn make(below: &Path) -> Result<Self> {
        let path = below.join(format!(".marey-selftest-{}", std::process::id()));
        std::fs::create_dir(&path).map_err(|error| Failure::fault(format!("{}: {error}", path.display())))?;
        Ok(Self(path))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }
}

impl Drop for OwnFolder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}
