//! Journal blocks: files of fixed size, filled with zeros once and used again and again.

use super::replay::{self, Replayed};
use crate::disk::{Disk, File, OpenMode};
use crate::error::StorageError;
use crate::options::Options;
use marey_format::journal::RecordBuilder;
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
            Some((at, position, generation)) if position + bytes <= self.block_bytes => {
                (at, position, generation)
            }
            _ => {
                self.release(oldest);
                let in_use = self.current.map(|current| current.0);
                let free =
                    (0..self.blocks.len()).find(|&at| Some(at) != in_use && self.blocks[at].newest == 0);
                (free.ok_or(AppendError::NoRoom)?, 0, commit)
            }
        };
        let record = record.finish(&self.hub, generation, commit, oldest);
        let block = &mut self.blocks[at];
        let io = |action| {
            let path = self.disk.describe(&block.path);
            move |error| AppendError::Failed(StorageError::io(action, path, error))
        };
        block.file.write_at(position, record).map_err(io("writing"))?;
        block.file.sync().map_err(io("syncing"))?;
        block.newest = commit;
        self.current = Some((at, position + bytes, generation));
        Ok(())
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

/// Fills a file with zeros: a sync of what is written there later needs no commit of the file system.
fn make_block(disk: &dyn Disk, path: &Path, bytes: u64) -> Result<(), StorageError> {
    let io = |error| StorageError::io("making", disk.describe(path), error);
    let file = disk.open(path, OpenMode::CreateNew).map_err(io)?;
    fill(&*file, bytes).map_err(io)
}

fn fill(file: &dyn File, bytes: u64) -> std::io::Result<()> {
    let zeros = vec![0; (1 << 20).min(bytes as usize)];
    let mut at = file.len()?;
    while at < bytes {
        let length = zeros.len().min((bytes - at) as usize);
        file.write_at(at, &zeros[..length])?;
        at += length as u64;
    }
    file.sync()
}
