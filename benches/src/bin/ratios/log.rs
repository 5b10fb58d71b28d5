//! The log against plain writes: appending, durable appending, group commit, reading back.

use marey_benches::measure::{Measured, pairs};
use marey_benches::{DEVICES, Recording, Source, against, folder, session};
use marey_engine::Session;
use marey_engine::disk::OsDisk;
use marey_engine::log::LogReader;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Condvar, Mutex};
use std::time::Instant;

/// Bytes of the file that durable limits write into again and again: a journal block's.
const BLOCK_BYTES: u64 = 16 << 20;

/// Frames of each device that are read back: 256 MiB in all.
const FRAMES_TO_READ: usize = 4096;

fn fault(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Frames into sixteen logs without a sync, against checksum, copy and write of the same bytes in 1 MiB.
pub fn append(rounds: usize) -> Result<Measured, String> {
    let dir = folder();
    let mut plain = PlainLogs::create(&dir.path().join("plain"))?;
    against::append(rounds, &dir, |log, frames| {
        frames.iter().try_for_each(|frame| plain.append(log, frame))
    })
}

/// Sixteen files that are appended to in writes of 1 MiB.
struct PlainLogs(Vec<(File, Vec<u8>, u64)>);

impl PlainLogs {
    fn create(dir: &Path) -> Result<Self, String> {
        std::fs::create_dir(dir).map_err(fault)?;
        let file = |at| {
            File::create_new(dir.join(format!("{at}"))).map(|file| (file, Vec::with_capacity(2 << 20), 0))
        };
        let files: Result<Vec<_>, _> = (0..DEVICES).map(file).collect();
        Ok(Self(files.map_err(fault)?))
    }

    fn append(&mut self, at: usize, frame: &[u8]) -> Result<(), String> {
        let (file, buffer, offset) = &mut self.0[at];
        std::hint::black_box(crc32fast::hash(frame));
        buffer.extend_from_slice(frame);
        if buffer.len() >= 1 << 20 {
            file.write_all_at(buffer, *offset).map_err(fault)?;
            *offset += buffer.len() as u64;
            buffer.clear();
        }
        Ok(())
    }
}

/// One writer, one frame a commit, against write and fdatasync of a file that is there and filled with zeros.
pub fn durable_one(rounds: usize) -> Result<Measured, String> {
    let dir = folder();
    let block = Block::create(&dir.path().join("plain"))?;
    let block = Mutex::new(block);
    against::commits(rounds, &dir, 1, 1_000, |_, frame| {
        block.lock().expect("no writer panics").write(frame)
    })
}

/// Sixteen writers that each wait for their own frame, against as many at a leader-and-follower commit.
pub fn group_commit_16(rounds: usize) -> Result<Measured, String> {
    group_commit(rounds, 16, 300)
}

/// The same with sixty-four.
pub fn group_commit_64(rounds: usize) -> Result<Measured, String> {
    group_commit(rounds, 64, 150)
}

fn group_commit(rounds: usize, writers: usize, commits: usize) -> Result<Measured, String> {
    let dir = folder();
    let group = GroupCommit::new(Block::create(&dir.path().join("plain"))?);
    against::commits(rounds, &dir, writers, commits, |_, frame| group.commit(frame))
}

/// A file of fixed size, filled with zeros, that is written from the front again and again.
pub struct Block {
    file: File,
    position: u64,
}

impl Block {
    pub fn create(path: &Path) -> Result<Self, String> {
        let file = File::create_new(path).map_err(fault)?;
        file.write_all_at(&vec![0; BLOCK_BYTES as usize], 0)
            .map_err(fault)?;
        file.sync_all().map_err(fault)?;
        Ok(Self { file, position: 0 })
    }

    /// Writes and syncs.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        if self.position + bytes.len() as u64 > BLOCK_BYTES {
            self.position = 0;
        }
        self.file.write_all_at(bytes, self.position).map_err(fault)?;
        self.position += bytes.len() as u64;
        self.file.sync_data().map_err(fault)
    }
}

/// Whoever finds nobody writing writes what all have staged; the others wait for it.
pub struct GroupCommit {
    staged: Mutex<Staged>,
    block: Mutex<Block>,
    done: Condvar,
}

#[derive(Default)]
struct Staged {
    bytes: Vec<u8>,
    /// Number of the window that is being staged, and of the last one that is durable.
    window: u64,
    durable: u64,
    is_writing: bool,
}

impl GroupCommit {
    pub fn new(block: Block) -> Self {
        let staged = Staged {
            window: 1,
            ..Staged::default()
        };
        Self {
            staged: Mutex::new(staged),
            block: Mutex::new(block),
            done: Condvar::new(),
        }
    }

    /// Returns when the bytes are durable.
    pub fn commit(&self, bytes: &[u8]) -> Result<(), String> {
        let mut staged = self.staged.lock().expect("no writer panics");
        staged.bytes.extend_from_slice(bytes);
        let window = staged.window;
        while staged.durable < window {
            if staged.is_writing {
                staged = self.done.wait(staged).expect("no writer panics");
                continue;
            }
            staged.is_writing = true;
            staged.window += 1;
            let (number, bytes) = (staged.window - 1, std::mem::take(&mut staged.bytes));
            drop(staged);
            let written = self.block.lock().expect("no writer panics").write(&bytes);
            staged = self.staged.lock().expect("no writer panics");
            (staged.durable, staged.is_writing) = (number, false);
            self.done.notify_all();
            written?;
        }
        Ok(())
    }
}

/// Sixteen sealed logs read back with their checksums, against a scan of the same files with a buffer that is used again.
pub fn replay(rounds: usize) -> Result<Measured, String> {
    read_back(rounds, FRAMES_TO_READ, |_| Ok(()))
}

/// The same from the disk itself.
pub fn replay_cold(rounds: usize) -> Result<Measured, String> {
    read_back(rounds.min(10), FRAMES_TO_READ, |file| {
        rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed).map_err(fault)
    })
}

fn read_back(
    rounds: usize,
    frames: usize,
    forget: impl Fn(&File) -> Result<(), String>,
) -> Result<Measured, String> {
    let dir = folder();
    Recording::on_disk(&dir).record(frames);
    let disk = OsDisk::new(dir.path());
    let sources = Source::all();
    let mut files: Vec<File> = Vec::new();
    for source in &sources {
        let logs = dir.path().join(Session::log_dir(&session(), &source.device));
        for entry in std::fs::read_dir(logs).map_err(fault)? {
            files.push(File::open(entry.map_err(fault)?.path()).map_err(fault)?);
        }
    }
    let lengths: Result<Vec<u64>, _> = files
        .iter()
        .map(|file| file.metadata().map(|data| data.len()))
        .collect();
    let bytes: u64 = lengths.map_err(fault)?.iter().sum();
    let mut buffer = vec![0; 256 << 10];
    pairs(
        rounds,
        || {
            files.iter().try_for_each(&forget)?;
            let began = Instant::now();
            for source in &sources {
                let mut reader = LogReader::open(&disk, &session(), &source.device).map_err(fault)?;
                let mut found = 0;
                while reader.next().map_err(fault)?.is_some() {
                    found += 1;
                }
                if found < frames || !reader.faults().is_empty() {
                    return Err(format!("{}: {found} frames of {frames}", source.device));
                }
            }
            Ok(bytes as f64 / began.elapsed().as_secs_f64() / 1e6)
        },
        || {
            files.iter().try_for_each(&forget)?;
            let began = Instant::now();
            for file in &files {
                let (mut at, mut hasher) = (0, crc32fast::Hasher::new());
                loop {
                    let read = file.read_at(&mut buffer, at).map_err(fault)?;
                    if read == 0 {
                        break;
                    }
                    hasher.update(&buffer[..read]);
                    at += read as u64;
                }
                std::hint::black_box(hasher.finalize());
            }
            Ok(bytes as f64 / began.elapsed().as_secs_f64() / 1e6)
        },
    )
}
