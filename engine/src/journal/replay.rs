//! Reading the journal after a crash: the records that count, in order, and what is wrong with it.

use crate::disk::{Disk, OpenMode};
use crate::error::StorageError;
use crate::log::{Fault, FaultKind, JournalFrames};
use marey_format::journal::{Entry, RECORD_HEADER_BYTES, RECORD_MARK, Record, RecordError};
use marey_format::{DeviceId, SessionId, limits};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What the journal holds.
#[derive(Debug, Default)]
pub(crate) struct Replayed {
    /// By log, the frames of the records that count, in the order of their commits.
    pub logs: BTreeMap<(SessionId, DeviceId), Vec<JournalFrames>>,
    /// Records that count and hold frames.
    pub records: u64,
    /// The newest commit; 0 if there is none.
    pub newest: u64,
    /// Damage: commits that were synced and can't be read.
    pub faults: Vec<Fault>,
    /// What does not hold and no longer counts: its frames are in synced logs.
    pub stale: Vec<Fault>,
}

/// One record, by place.
struct Found {
    block: usize,
    offset: usize,
    length: usize,
    generation: u64,
    oldest: u64,
}

/// What does not hold, and the commit of the record behind it.
struct Broken {
    fault: Fault,
    before: u64,
}

pub(super) fn read(disk: &dyn Disk, hub: &[u8; 16], paths: &[PathBuf]) -> Result<Replayed, StorageError> {
    let mut replayed = Replayed::default();
    let mut found: BTreeMap<u64, Found> = BTreeMap::new();
    // One buffer for all blocks: memory that is touched for the first time costs more than what is read into it.
    let (mut bytes, mut held, mut broken) = (Vec::new(), None, Vec::new());
    for (block, path) in paths.iter().enumerate() {
        read_block(disk, path, &mut bytes)?;
        held = Some(block);
        scan_block(disk, path, block, &bytes, hub, &mut found, &mut broken);
    }
    let Some((&newest, last)) = found.last_key_value() else {
        return Ok(replayed);
    };
    replayed.newest = newest;
    let mut expected = last.oldest.max(1);
    // What stood before the oldest record that counts is in synced logs. It need not have been on the disk itself: a
    // recovery may have read it from the cache, where a sync had failed, and have put it there.
    for broken in broken {
        match broken.before > last.oldest {
            true => replayed.faults.push(broken.fault),
            false => replayed.stale.push(broken.fault),
        }
    }
    for (&commit, record) in found.range(last.oldest..) {
        if commit != expected {
            let why = format!("commits {expected} to {} are missing", commit - 1);
            replayed
                .faults
                .push(fault(disk, &paths[record.block], record.offset, 0, why));
        }
        expected = commit.saturating_add(1);
        if held != Some(record.block) {
            read_block(disk, &paths[record.block], &mut bytes)?;
            held = Some(record.block);
        }
        // What changed since it was scanned does not hold any more.
        let from = bytes.get(record.offset..).unwrap_or_default();
        let entries = Record::parse(from, hub, Some(record.generation)).and_then(|record| record.entries());
        let holds_frames = entries.as_ref().is_ok_and(|entries| !entries.is_empty());
        match entries {
            Ok(entries) => take(entries, &mut replayed.logs),
            Err(error) => {
                replayed.faults.push(fault(
                    disk,
                    &paths[record.block],
                    record.offset,
                    record.length,
                    error.to_string(),
                ));
            }
        }
        replayed.records += u64::from(holds_frames);
    }
    Ok(replayed)
}

/// Reads a whole block in place of what `bytes` held.
fn read_block(disk: &dyn Disk, path: &Path, bytes: &mut Vec<u8>) -> Result<(), StorageError> {
    let io = |error| StorageError::io("reading", disk.describe(path), error);
    let file = disk.open(path, OpenMode::Read).map_err(io)?;
    bytes.resize(
        file.len().map_err(io)?.min(4 * limits::RECORD_BYTES_MAX) as usize,
        0,
    );
    let read = file.read_at(0, bytes).map_err(io)?;
    bytes.truncate(read);
    Ok(())
}

/// The records of one filling of a block. Behind a record that does not hold, a later one of the same filling proves
/// that there was damage: what was synced later was written later.
fn scan_block(
    disk: &dyn Disk,
    path: &Path,
    block: usize,
    bytes: &[u8],
    hub: &[u8; 16],
    found: &mut BTreeMap<u64, Found>,
    all_broken: &mut Vec<Broken>,
) {
    let (mut at, mut generation, mut next) = (0, None, None);
    let mut broken: Option<(usize, RecordError)> = None;
    while at + RECORD_HEADER_BYTES <= bytes.len() {
        // Most of a block is what it was filled with before: where no record begins is seen at once.
        if broken.is_some() && !bytes[at..].starts_with(&RECORD_MARK) {
            at += 8;
            continue;
        }
        let record = Record::parse(&bytes[at..], hub, generation);
        match record {
            // Commits count from 1, and never come near the end of the numbers.
            Ok(record)
                if next.is_none_or(|next| record.header.commit >= next)
                    && (1..u64::MAX / 2).contains(&record.header.commit) =>
            {
                if let Some((from, why)) = broken.take() {
                    all_broken.push(Broken {
                        fault: fault(disk, path, from, at - from, why.to_string()),
                        before: record.header.commit,
                    });
                }
                let header = record.header;
                generation = Some(header.generation);
                next = Some(header.commit.saturating_add(1));
                let length = header.length as usize;
                let (offset, oldest) = (at, header.oldest);
                let record = Found {
                    block,
                    offset,
                    length,
                    generation: header.generation,
                    oldest,
                };
                // The closing record of a block has the number of the one that the next block begins with.
                if header.generation == header.commit || !found.contains_key(&header.commit) {
                    found.insert(header.commit, record);
                }
                at += length;
            }
            // The first record of a block names the filling: without it none of the block can be told apart.
            Err(error) if generation.is_some() => {
                broken.get_or_insert((at, error));
                at += 8;
            }
            _ if generation.is_some() => at += 8,
            _ => break,
        }
    }
}

fn take(entries: Vec<Entry<'_>>, logs: &mut BTreeMap<(SessionId, DeviceId), Vec<JournalFrames>>) {
    let mut names = BTreeMap::new();
    for entry in entries {
        match entry {
            Entry::Name { log, session, device } => {
                names.insert(log, (session, device));
            }
            Entry::Frames {
                log,
                segment,
                offset,
                bytes,
            } => {
                if let Some(name) = names.get(&log) {
                    let frames = JournalFrames {
                        segment,
                        offset,
                        bytes: bytes.to_vec(),
                    };
                    logs.entry(name.clone()).or_default().push(frames);
                }
            }
        }
    }
}

fn fault(disk: &dyn Disk, path: &Path, offset: usize, bytes: usize, why: String) -> Fault {
    let path = disk.describe(path);
    Fault {
        kind: FaultKind::Damage,
        path,
        segment: 0,
        offset: offset as u64,
        bytes: bytes as u64,
        why,
    }
}
