//! A log of everything that a block device was asked to write (dm-log-writes' format, as qemu's blklogwrites writes it),
//! and the device as a power cut at any place of that log leaves it.
//!
//! Owns: reading the log, what a cut keeps. Layout, all little-endian: a super block of magic u64, version u64, number of
//! entries u64, sector size u32; then entries, each in a sector of its own (sector u64, sectors u64, flags u64, length
//! u64), with its data behind it, but for discards.
//!
//! Invariants: what a flush covers is kept; of what came after the last flush a cut keeps all, or any part, in any order,
//! torn at any sector, but always what was written through.

#![allow(clippy::disallowed_methods, reason = "a proof looks at the disk from outside")]

use marey_engine::disk::memory::Dice;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Where the number of entries stands in the log.
pub const ENTRIES_AT: u64 = 16;

const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
const WRITTEN_THROUGH: u64 = 2;
const DISCARD: u64 = 4;

/// A log, open.
#[derive(Debug)]
pub struct BlockLog {
    file: File,
    sector_bytes: usize,
    entries: Vec<Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Where on the device, in bytes.
    to: u64,
    bytes: usize,
    flags: u64,
    /// Where its data stands in the log.
    from: u64,
}

/// What a cut did to the writes that no flush covers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Harm {
    pub unflushed: u64,
    pub lost: u64,
    pub torn: u64,
}

impl BlockLog {
    pub fn read(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let mut start = [0; 32];
        file.read_exact_at(&mut start, 0)?;
        let [magic, version, count, _] = words(&start);
        let sector_bytes = u32::from_le_bytes([start[24], start[25], start[26], start[27]]) as usize;
        if magic != MAGIC || version != 1 || sector_bytes < 32 {
            let what = format!("{}: not a block log of version 1", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        let sector = sector_bytes as u64;
        let mut entries = Vec::new();
        let mut at = sector;
        for _ in 0..count {
            let mut header = [0; 32];
            file.read_exact_at(&mut header, at)?;
            let [first, sectors, flags, _] = words(&header);
            at += sector;
            entries.push(Entry {
                to: first * sector,
                bytes: (sectors * sector) as usize,
                flags,
                from: at,
            });
            if flags & DISCARD == 0 {
                at += sectors * sector;
            }
        }
        Ok(Self {
            file,
            sector_bytes,
            entries,
        })
    }

    /// How many entries there are: a cut may come before any of them, or after the last.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn flushes(&self) -> usize {
        self.entries
            .iter()
            .filter(|entry| entry.flags & FLUSH != 0)
            .count()
    }

    /// How many of the first `cut` entries a flush covers, the flush counted in.
    pub fn flushed(&self, cut: usize) -> usize {
        let last = self.entries[..cut]
            .iter()
            .rposition(|entry| entry.flags & FLUSH != 0);
        last.map_or(0, |last| last + 1)
    }

    fn apply(&self, image: &mut [u8], entry: &Entry, bytes: usize) -> io::Result<()> {
        let to = entry.to as usize;
        let Some(to) = image.get_mut(to..to + bytes) else {
            let what = format!("a write of {bytes} bytes at {to}, behind the end of the device");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        };
        match entry.flags & DISCARD {
            0 => self.file.read_exact_at(to, entry.from),
            _ => {
                to.fill(0);
                Ok(())
            }
        }
    }
}

/// The device as cuts at rising places of a log leave it.
#[derive(Debug)]
pub struct Replay<'a> {
    log: &'a BlockLog,
    /// Everything up to and with the last flush.
    flushed: Vec<u8>,
    done: usize,
}

impl<'a> Replay<'a> {
    pub fn new(log: &'a BlockLog, device_bytes: usize) -> Self {
        Self {
            log,
            flushed: vec![0; device_bytes],
            done: 0,
        }
    }

    /// The device after a cut before entry `cut`. Without dice all that was written is there; with them, what no flush
    /// covers is lost, reordered and torn. Cuts must not go back.
    pub fn cut(&mut self, cut: usize, dice: Option<&mut Dice>) -> io::Result<(Vec<u8>, Harm)> {
        let flushed = self.log.flushed(cut);
        for entry in self.log.entries.get(self.done..flushed).unwrap_or_default() {
            self.log.apply(&mut self.flushed, entry, entry.bytes)?;
        }
        self.done = self.done.max(flushed);
        let mut image = self.flushed.clone();
        let mut rest: Vec<&Entry> = self.log.entries[flushed..cut].iter().collect();
        let mut harm = Harm {
            unflushed: rest.len() as u64,
            ..Harm::default()
        };
        if let Some(dice) = &dice {
            // Any order, as a cache writes back.
            let mut dice = Dice(dice.0);
            for at in (1..rest.len()).rev() {
                rest.swap(at, dice.below(at as u64 + 1) as usize);
            }
        }
        let mut dice = dice;
        for entry in rest {
            let mut bytes = entry.bytes;
            if let Some(dice) = dice.as_deref_mut()
                && entry.flags & WRITTEN_THROUGH == 0
            {
                match dice.below(8) {
                    0..4 => {
                        harm.lost += 1;
                        continue;
                    }
                    4 if bytes > self.log.sector_bytes => {
                        let sectors = (bytes / self.log.sector_bytes) as u64;
                        bytes = dice.below(sectors) as usize * self.log.sector_bytes;
                        harm.torn += 1;
                    }
                    _ => {}
                }
            }
            self.log.apply(&mut image, entry, bytes)?;
        }
        Ok((image, harm))
    }
}

/// Writes an image to a file, holes where it is zero.
pub fn write_sparse(path: &Path, image: &[u8]) -> io::Result<()> {
    let file = File::create(path)?;
    file.set_len(image.len() as u64)?;
    for (number, piece) in image.chunks(PIECE_BYTES).enumerate() {
        if piece.iter().any(|&byte| byte != 0) {
            file.write_all_at(piece, (number * PIECE_BYTES) as u64)?;
        }
    }
    Ok(())
}

fn words(bytes: &[u8; 32]) -> [u64; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
    }
    words
}

const PIECE_BYTES: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// Three writes of one sector each, a flush before the third, and one that was written through.
    fn log() -> (tempfile::NamedTempFile, BlockLog) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let mut bytes = Vec::new();
        let entries: [(u64, u64, u64, u8); 5] = [
            (0, 1, 0, 1),
            (1, 1, 0, 2),
            (0, 0, FLUSH, 0),
            (2, 1, 0, 3),
            (3, 1, WRITTEN_THROUGH, 4),
        ];
        for word in [MAGIC, 1, entries.len() as u64, 512] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.resize(512, 0);
        for (sector, sectors, flags, fill) in entries {
            let start = bytes.len();
            for word in [sector, sectors, flags, 0] {
                bytes.extend(word.to_le_bytes());
            }
            bytes.resize(start + 512, 0);
            bytes.resize(start + 512 + 512 * sectors as usize, fill);
        }
        file.write_all(&bytes).unwrap();
        let log = BlockLog::read(file.path()).unwrap();
        (file, log)
    }

    fn sectors(image: &[u8]) -> Vec<u8> {
        image.chunks(512).map(|sector| sector[0]).collect()
    }

    #[test]
    fn a_cut_keeps_what_came_before_it() {
        let (_file, log) = log();
        assert_eq!((log.len(), log.flushes()), (5, 1));
        let mut replay = Replay::new(&log, 4 * 512);
        for (cut, left) in [
            (0, [0, 0, 0, 0]),
            (1, [1, 0, 0, 0]),
            (3, [1, 2, 0, 0]),
            (5, [1, 2, 3, 4]),
        ] {
            assert_eq!(sectors(&replay.cut(cut, None).unwrap().0), left, "cut at {cut}");
        }
    }

    #[test]
    fn with_dice_only_what_was_flushed_or_written_through_is_sure() {
        let (_file, log) = log();
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..40 {
            let mut replay = Replay::new(&log, 4 * 512);
            seen.insert(sectors(&replay.cut(5, Some(&mut Dice(seed))).unwrap().0));
        }
        assert_eq!(
            seen.into_iter().collect::<Vec<_>>(),
            [vec![1, 2, 0, 4], vec![1, 2, 3, 4]]
        );
    }
}
