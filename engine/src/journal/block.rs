//! Journal blocks: files of fixed size, filled with zeros once and used again and again.

use super::replay::{self, Replayed};
use crate::disk::{Disk, File, OpenMode};
use crate::error::StorageError;
use crate::options::Options;
use marey_format::journal::{RECORD_HEADER_BYTES, RecordBuilder};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The journal, open for appending. Used by one writer at a time.
#[derive(Debug)]
pub(crate) struct Journal {
    disk: Arc<dyn Disk>,
    hub: [u8; 16],
    block_bytes: u64,
    blocks: Vec<Block>,
    /// The block that records go into, where the next one goes, and the block's generation.
    current: Option<(usize, u64, u64)>,
}

#[derive(Debug)]
struct Block {
    path: PathBuf,
    file: Arc<dyn File>,
    /// The newest commit in it; 0 while it is free.
    newest: u64,
}

/// Why a record was not appended.
#[derive(Debug)]
pub(crate) enum AppendError {
    /// Every block holds records that device logs do not have yet.
    NoRoom,
    /// The record is longer than a block.
    TooLong { bytes: usize },
    /// A write or sync failed: nothing is known of the record.
    Failed(StorageError),
}

pub(super) const DIR: &str = "journal";

/// A record without entries, for which every block keeps room at its end.
const CLOSING_BYTES: u64 = RECORD_HEADER_BYTES as u64;

impl Journal {
    /// Makes the blocks of a new journal.
    pub fn create(disk: &Arc<dyn Disk>, options: &Options) -> Result<(), StorageError> {
        let dir = Path::new(DIR);
        crate::disk::create_dirs(&**disk, dir)
            .map_err(|e| StorageError::io("making", disk.describe(dir), e))?;
        for number in 0..options.journal_blocks.max(2) {
            make_block(&**disk, &block_path(number), options.journal_block_bytes)?;
        }
        disk.sync_dir(dir)
            .map_err(|e| StorageError::io("syncing", disk.describe(dir), e))
    }

    /// Opens the journal and reads what it holds. Blocks that are missing are made.
    pub fn open(
        disk: Arc<dyn Disk>,
        hub: [u8; 16],
        options: &Options,
    ) -> Result<(Self, Replayed), StorageError> {
        let dir = Path::new(DIR);
        let io = |error| StorageError::io("reading", disk.describe(dir), error);
        crate::disk::create_dirs(&*disk, dir).map_err(io)?;
        let mut paths: Vec<PathBuf> = disk
            .list(dir)
            .map_err(io)?
            .into_iter()
            .filter(|entry| entry.name.ends_with(".mjb"))
            .map(|entry| dir.join(entry.name))
            .collect();
        let replayed = replay::read(&*disk, &hub, &paths)?;
        let mut number = 0;
        while paths.len() < options.journal_blocks.max(2) {
            let path = block_path(number);
            number += 1;
            if !paths.contains(&path) {
                make_block(&*disk, &path, options.journal_block_bytes)?;
                paths.push(path);
            }
        }
        disk.sync_dir(dir).map_err(io)?;
        let mut blocks = Vec::new();
        for path in paths {
            let file = disk.open(&path, OpenMode::ReadWrite).map_err(io)?;
            if file.len().map_err(io)? < options.journal_block_bytes {
                fill(&*file, options.journal_block_bytes).map_err(io)?;
            }
            blocks.push(Block {
                path,
                file,
                newest: 0,
            });
        }
        let journal = Self {
            disk,
            hub,
            block_bytes: options.journal_block_bytes,
            blocks,
            // Not behind what was found: that can be read, and need not be durable.
            current: None,
        };
        Ok((journal, replayed))
    }

    /// Writes and syncs one record. `oldest`: all commits below are in device logs that were synced.
    pub fn append(
        &mut self,
        record: &mut RecordBuilder,
        commit: u64,
        oldest: u64,
    ) -> Result<(), AppendError> {
        let bytes = record.len() as u64;
        if bytes > self.block_bytes {
            return Err(AppendError::TooLong { bytes: record.len() });
        }
        let (at, position, generation) = match self.current {
            Some((at, position, generation)) if position + bytes + CLOSING_BYTES <= self.block_bytes => {
                (at, position, generation)
            }
            _ => {
                self.release(oldest);
                let in_use = self.current.map(|current| current.0);
                let free =
                    (0..self.blocks.len()).find(|&at| Some(at) != in_use && self.blocks[at].newest == 0);
                let free = free.ok_or(AppendError::NoRoom)?;
                self.end_block(commit, oldest)?;
                (free, 0, commit)
            }
        };
        self.write(at, position, record.finish(&self.hub, generation, commit, oldest))?;
        self.blocks[at].newest = commit;
        self.current = Some((at, position + bytes, generation));
        Ok(())
    }

    /// Says in the block at hand that the one which is used next is not needed any more, before its first record is
    /// overwritten: one that is torn would else look like commits that are missing.
    fn end_block(&self, commit: u64, oldest: u64) -> Result<(), AppendError> {
        match self.current {
            Some((at, position, generation)) if position + CLOSING_BYTES <= self.block_bytes => {
                let mut closing = RecordBuilder::default();
                closing.start();
                self.write(
                    at,
                    position,
                    closing.finish(&self.hub, generation, commit, oldest),
                )
            }
            _ => Ok(()),
        }
    }

    fn write(&self, at: usize, position: u64, record: &[u8]) -> Result<(), AppendError> {
        let Block { path, file, .. } = &self.blocks[at];
        let io = |action| {
            let path = self.disk.describe(path);
            move |error| AppendError::Failed(StorageError::io(action, path, error))
        };
        file.write_at(position, record).map_err(io("writing"))?;
        file.sync().map_err(io("syncing"))
    }

    /// Frees the blocks whose commits are all below `oldest`.
    pub fn release(&mut self, oldest: u64) {
        let in_use = self.current.map(|current| current.0);
        for (at, block) in self.blocks.iter_mut().enumerate() {
            if Some(at) != in_use && block.newest < oldest {
                block.newest = 0;
            }
        }
    }

    /// Blocks that a record may begin.
    pub fn free_blocks(&self) -> usize {
        let in_use = self.current.map(|current| current.0);
        self.blocks
            .iter()
            .enumerate()
            .filter(|(at, block)| Some(*at) != in_use && block.newest == 0)
            .count()
    }
}

fn block_path(number: usize) -> PathBuf {
    Path::new(DIR).join(format!("{number:06}.mjb"))
}

/// Bytes of one write of zeros. Linux keeps what one write brought in one piece, and each later write and sync of a part
/// walks through all blocks of its piece: with 1 MiB that is a tenth of what a small commit takes.
const FILL_BYTES: usize = 64 << 10;

/// Fills a file with zeros: a sync of what is written there later needs no commit of the file system.
fn make_block(disk: &dyn Disk, path: &Path, bytes: u64) -> Result<(), StorageError> {
    let io = |error| StorageError::io("making", disk.describe(path), error);
    let file = disk.open(path, OpenMode::CreateNew).map_err(io)?;
    fill(&*file, bytes).map_err(io)
}

fn fill(file: &dyn File, bytes: u64) -> std::io::Result<()> {
    let zeros = vec![0; FILL_BYTES.min(bytes as usize)];
    let mut at = file.len()?;
    while at < bytes {
        let length = zeros.len().min((bytes - at) as usize);
        file.write_at(at, &zeros[..length])?;
        at += length as u64;
    }
    file.sync()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::memory::MemoryDisk;

    const HUB: [u8; 16] = [3; 16];

    fn options() -> Options {
        Options {
            journal_blocks: 2,
            journal_block_bytes: 4096,
            ..Options::default()
        }
    }

    fn record(bytes: usize, commit: u64) -> RecordBuilder {
        let mut record = RecordBuilder::default();
        record.start();
        record.name(0, &"s".parse().unwrap(), &"d".parse().unwrap());
        record.frames(0, 1, 256, &vec![commit as u8; bytes]);
        record
    }

    /// Found by the simulation: a recovery read a record from the cache, where its sync had failed, put its frames into their
    /// logs, and wrote that behind it; then the power went, and the record itself was never on the disk.
    #[test]
    fn what_no_longer_counts_need_not_hold() {
        for (oldest, faults) in [(1, 1), (2, 1), (3, 0)] {
            let memory = MemoryDisk::new();
            let disk: Arc<dyn Disk> = Arc::new(memory.clone());
            Journal::create(&disk, &options()).unwrap();
            let (mut journal, _) = Journal::open(disk.clone(), HUB, &options()).unwrap();
            for (commit, oldest) in [(1, 1), (2, 1), (3, oldest)] {
                journal.append(&mut record(400, commit), commit, oldest).unwrap();
            }
            // In the second of three records.
            let damage = |content: &mut Vec<u8>| content[1_000] ^= 1;
            memory.damage(&block_path(0), damage).unwrap();
            let (_, replayed) = Journal::open(disk, HUB, &options()).unwrap();
            let damaged = replayed.faults.iter().filter(|fault| fault.bytes > 0);
            assert_eq!(damaged.count(), faults, "{oldest}: {:?}", replayed.faults);
            assert_eq!(replayed.newest, 3);
        }
    }

    /// The first record of a block that is used again, torn in every way that sectors can tear.
    #[test]
    fn a_torn_first_record_of_a_used_block_is_no_damage() {
        for kept in 0..16_u32 {
            let memory = MemoryDisk::new();
            let disk: Arc<dyn Disk> = Arc::new(memory.clone());
            Journal::create(&disk, &options()).unwrap();
            let (mut journal, _) = Journal::open(disk.clone(), HUB, &options()).unwrap();
            let mut commit = 0;
            let mut append = |journal: &mut Journal, oldest| {
                let appended = journal.append(&mut record(1600, commit + 1), commit + 1, oldest);
                commit += u64::from(appended.is_ok());
                appended.map(|()| commit)
            };
            // Two to a block.
            for _ in 0..4 {
                append(&mut journal, 1).unwrap();
            }
            let path = block_path(0);
            let before = crate::disk::read_all(&*disk, &path, 1 << 20).unwrap();
            assert!(matches!(append(&mut journal, 1), Err(AppendError::NoRoom)));
            let torn = append(&mut journal, 5).unwrap();
            memory
                .damage(&path, |content| {
                    for sector in (0..4).filter(|sector| kept & (1 << sector) == 0) {
                        let range = 512 * sector..512 * (sector + 1);
                        content[range.clone()].copy_from_slice(&before[range]);
                    }
                })
                .unwrap();
            let (_, replayed) = Journal::open(disk, HUB, &options()).unwrap();
            assert!(replayed.faults.is_empty(), "{kept:04b}: {:?}", replayed.faults);
            assert_eq!(replayed.newest, torn);
            assert_eq!(replayed.records, u64::from(kept == 15), "{kept:04b}");
        }
    }

    /// A record of so many bytes.
    fn record_of(length: u64, commit: u64) -> RecordBuilder {
        let around = record(8, commit).len() - 8;
        let record = record(length as usize - around, commit);
        assert_eq!(record.len() as u64, length);
        record
    }

    #[test]
    fn blocks_that_are_not_there_are_made() {
        let memory = MemoryDisk::new();
        let disk: Arc<dyn Disk> = Arc::new(memory.clone());
        let (journal, replayed) = Journal::open(disk, HUB, &options()).unwrap();
        assert_eq!((journal.free_blocks(), replayed.newest), (2, 0));
        for number in 0..2 {
            let bytes = crate::disk::read_all(&memory, &block_path(number), u64::MAX).unwrap();
            assert_eq!(bytes, [0; 4096]);
        }
        assert!(memory.stat(&block_path(2)).unwrap().is_none());
    }

    #[test]
    fn a_record_may_fill_a_block_and_no_block_grows() {
        let memory = MemoryDisk::new();
        let disk: Arc<dyn Disk> = Arc::new(memory.clone());
        let (mut journal, _) = Journal::open(disk.clone(), HUB, &options()).unwrap();
        let longer = journal.append(&mut record_of(4104, 1), 1, 1);
        assert!(
            matches!(longer, Err(AppendError::TooLong { bytes: 4104 })),
            "{longer:?}"
        );
        for commit in 1..=2 {
            journal.append(&mut record_of(4096, commit), commit, 1).unwrap();
        }
        // Both are in use as long as their newest commits count, each to the last.
        for oldest in [0, 1] {
            let full = journal.append(&mut record_of(4096, 3), 3, oldest);
            assert!(matches!(full, Err(AppendError::NoRoom)), "{full:?}");
        }
        journal.append(&mut record_of(4096, 3), 3, 2).unwrap();
        for number in 0..2 {
            assert_eq!(memory.stat(&block_path(number)).unwrap().unwrap().bytes, 4096);
        }
        let (_, replayed) = Journal::open(disk, HUB, &options()).unwrap();
        assert_eq!((replayed.newest, replayed.records), (3, 2));
        assert!(replayed.faults.is_empty(), "{:?}", replayed.faults);
    }

    /// A block whose records have these commits, one after the other; the first names the filling.
    fn block_of(commits: &[u64]) -> MemoryDisk {
        let memory = MemoryDisk::new();
        let disk: Arc<dyn Disk> = Arc::new(memory.clone());
        Journal::create(&disk, &options()).unwrap();
        let mut at = 0;
        for &commit in commits {
            let mut builder = record(8, commit);
            let bytes = builder.finish(&HUB, commits[0], commit, 1).to_vec();
            memory
                .damage(&block_path(0), |content| {
                    content[at..at + bytes.len()].copy_from_slice(&bytes)
                })
                .unwrap();
            at += bytes.len();
        }
        memory
    }

    fn replayed(memory: &MemoryDisk) -> Replayed {
        Journal::open(Arc::new(memory.clone()), HUB, &options())
            .unwrap()
            .1
    }

    #[test]
    fn commits_of_a_filling_go_up() {
        // No hub writes the same filling backwards: such a record is none, and those behind it are found.
        let found = replayed(&block_of(&[4, 2, 5]));
        let frames: Vec<_> = found
            .logs
            .values()
            .flatten()
            .map(|frames| frames.bytes[0])
            .collect();
        assert_eq!((found.newest, frames), (5, vec![4, 5]));
        // Nor one that could have no successor, or that says it is none.
        let found = replayed(&block_of(&[4, u64::MAX / 2, 5]));
        assert_eq!((found.newest, found.records), (5, 2));
        for first in [0, u64::MAX / 2] {
            let found = replayed(&block_of(&[first, 5]));
            assert_eq!((found.newest, found.records), (0, 0), "{first}");
        }
    }

    #[test]
    fn a_filling_whose_first_record_is_gone_can_t_be_told_from_the_one_before() {
        let memory = block_of(&[4, 5, 6]);
        memory.damage(&block_path(0), |content| content[70] ^= 1).unwrap();
        let found = replayed(&memory);
        assert_eq!((found.newest, found.records), (0, 0));
        assert!(found.faults.is_empty() && found.stale.is_empty(), "{found:?}");
    }
}
