//! What the commit journal holds, read without changing it.

use super::source::Source;
use super::view::View;
use crate::disk::{self, Disk};
use crate::error::StorageError;
use crate::journal::{Journal, Replayed};
use crate::log::{Fault, FaultKind};
use crate::options::Options;
use marey_format::journal::{RECORD_HEADER_BYTES, RECORD_MARK, Record};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Reads the journal of a hub, as an opening hub does; none where there is no block of it. Its faults also name what an
/// opening hub can't see.
pub(super) fn read(source: &Source, hub: [u8; 16]) -> Result<Option<Replayed>, StorageError> {
    let dir = Path::new("journal");
    let io = |error| StorageError::io("reading", source.view.describe(dir), error);
    if source.view.stat(dir).map_err(io)?.is_none() {
        return Ok(None);
    }
    let mut blocks: Vec<PathBuf> = Vec::new();
    for entry in source.view.list(dir).map_err(io)? {
        if entry.name.ends_with(".mjb") && !entry.stat.is_dir {
            blocks.extend(source.view.real(&dir.join(entry.name)));
        }
    }
    let (Some(first), Some(last)) = (blocks.first(), blocks.last()) else {
        return Ok(None);
    };
    // A journal that is opened makes the blocks that it lacks. With two there are none to make, so one that stands
    // alone is shown twice, and read twice to the same end.
    let mut view = View::new(source.base.clone(), dir.join("000000.mjb"), first.clone());
    for (number, block) in blocks.iter().enumerate().skip(1) {
        view = view.mount(dir.join(format!("{number:06}.mjb")), block.clone());
    }
    if blocks.len() == 1 {
        view = view.mount(dir.join("000001.mjb"), last.clone());
    }
    let view = Arc::new(view);
    let options = Options {
        journal_block_bytes: 0,
        journal_blocks: 0,
        ..Options::default()
    };
    let (_, mut replayed) = Journal::open(view.clone(), hub, &options)?;
    for number in 0..blocks.len() {
        let path = dir.join(format!("{number:06}.mjb"));
        let bytes = disk::read_all(&*view, &path, BLOCK_BYTES_MAX).map_err(io)?;
        if let Some((offset, bytes, why)) = unfinished(&bytes, &hub, replayed.newest) {
            let (kind, path, offset, bytes) = (
                FaultKind::TornTail,
                view.describe(&path),
                offset as u64,
                bytes as u64,
            );
            replayed.faults.push(Fault {
                kind,
                path,
                segment: 0,
                offset,
                bytes,
                why,
            });
        }
        if let Some((offset, commit)) = beyond(&bytes, &hub, replayed.newest) {
            let why = format!("its first record is damaged, and commit {commit} stands behind it");
            let (kind, path) = (FaultKind::Damage, view.describe(&path));
            replayed.faults.push(Fault {
                kind,
                path,
                segment: 0,
                offset: 0,
                bytes: offset as u64,
                why,
            });
        }
    }
    replayed.faults.extend(cut_blocks(&view, blocks.len())?);
    // Nobody needs it, but it was not written so.
    replayed.faults.append(&mut replayed.stale);
    let key = |fault: &Fault| (fault.path.clone(), fault.offset, fault.bytes, fault.why.clone());
    replayed.faults.sort_by_key(key);
    replayed.faults.dedup();
    Ok(Some(replayed))
}

/// Blocks are made of whole pages: one that is not was cut.
fn cut_blocks(view: &View, blocks: usize) -> Result<Vec<Fault>, StorageError> {
    let mut faults = Vec::new();
    for number in 0..blocks {
        let path = Path::new("journal").join(format!("{number:06}.mjb"));
        let io = |error| StorageError::io("looking at", view.describe(&path), error);
        let bytes = view.stat(&path).map_err(io)?.map_or(0, |stat| stat.bytes);
        if bytes % PAGE_BYTES == 0 && bytes > 0 {
            continue;
        }
        let (kind, path) = (FaultKind::Damage, view.describe(&path));
        let why = "the block is cut, and what stood behind is lost".to_owned();
        faults.push(Fault {
            kind,
            path,
            segment: 0,
            offset: bytes,
            bytes: 0,
            why,
        });
    }
    Ok(faults)
}

/// A whole number of these is in every block.
const PAGE_BYTES: u64 = 4096;

/// A record behind the newest one that does not hold, with its place and length: an opening hub takes it for a commit
/// that was under way. Mark, generation and commit number must agree but for one, so that one that is damaged is seen, and
/// what an older filling left is not.
fn unfinished(bytes: &[u8], hub: &[u8; 16], newest: u64) -> Option<(usize, usize, String)> {
    let (mut at, mut generation, mut last) = (0, None, None);
    while let Some(record) = bytes
        .get(at..)
        .and_then(|here| Record::parse(here, hub, generation).ok())
        .filter(|record| last.is_none_or(|last| record.header.commit > last))
    {
        (generation, last) = (Some(record.header.generation), Some(record.header.commit));
        at += record.header.length as usize;
    }
    let next = newest.saturating_add(1);
    if last.is_some_and(|last| last != newest) {
        return None;
    }
    let here = bytes.get(at..)?;
    let u64_at = |at: usize| {
        here.get(at..at + 8)
            .map(|b| u64::from_le_bytes(b.try_into().expect("eight")))
    };
    let (of, commit) = (u64_at(8)?, u64_at(16)?);
    let agree = [
        here.starts_with(&RECORD_MARK),
        of == generation.unwrap_or(next),
        commit == next,
    ];
    if agree.iter().filter(|agrees| **agrees).count() < 2 {
        return None;
    }
    let left = here.len();
    let length = u64_at(32).map_or(left, |length| {
        (length as usize).clamp(RECORD_HEADER_BYTES.min(left), left)
    });
    let why = format!(
        "commit {next} does not hold: it was under way when the end came, and nobody has an ack for it, or it is damaged"
    );
    Some((at, length, why))
}

/// Longest block that is looked at, in bytes.
const BLOCK_BYTES_MAX: u64 = 1 << 30;

/// In a block whose first record does not hold: a whole record that is newer than all that were found elsewhere. Those
/// of the block's last filling are older.
fn beyond(bytes: &[u8], hub: &[u8; 16], newest: u64) -> Option<(usize, u64)> {
    if Record::parse(bytes, hub, None).is_ok() {
        return None;
    }
    (8..bytes.len().saturating_sub(RECORD_HEADER_BYTES))
        .step_by(8)
        .find_map(|at| {
            let here = &bytes[at..];
            if !here.starts_with(&RECORD_MARK) {
                return None;
            }
            let generation = u64::from_le_bytes(here[8..16].try_into().ok()?);
            let record = Record::parse(here, hub, Some(generation)).ok()?;
            (record.header.commit > newest).then_some((at, record.header.commit))
        })
}
