//! Making one log writable again after a crash: steps 4 to 6 of format-spec's `recovery.md`.
//!
//! Sealed segments are taken from their indices, those before a landmark from that. The unsealed one counts up to the point that is proven to have been
//! synced; what is valid beyond it, and what the journal holds, goes into a fresh segment that is sealed at once.

use super::flushing::{FlushError, Seal};
use super::landmark;
use super::read::{LogReader, SegmentSummary, finished};
use super::replay::Applier;
use super::scan::{Continuity, Extent, Fault, FaultKind, Scanner, Step};
use super::segment::Before;
use super::window::Window;
use super::writer::Log;
use crate::disk::{Disk, OpenMode};
use crate::error::StorageError;
use crate::options::Options;
use crate::session::Session;
use crate::state::{LogState, Meaning};
use crate::time::HubInstant;
use marey_format::frame::{Frame, Kind};
use marey_format::log::{Index, Predecessor, SEGMENT_HEADER_BYTES};
use marey_format::payload::Checkpoint;
use marey_format::{DeviceId, EpochId, Seed, SessionId};

/// Frames that the journal holds for a log.
#[derive(Debug)]
pub(crate) struct JournalFrames {
    pub segment: u32,
    pub offset: u64,
    pub bytes: Vec<u8>,
}

/// A log that can be written again, and what was found on the way.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub log: Log,
    pub faults: Vec<Fault>,
    /// Frames that were copied into a fresh segment.
    pub carried: u64,
}

/// Where the frames that the journal holds of a segment begin.
fn first_in(journal: &[JournalFrames], segment: u32) -> Option<u64> {
    let offsets = journal
        .iter()
        .filter(|frames| frames.segment == segment)
        .map(|frames| frames.offset);
    offsets.min()
}

impl SegmentSummary {
    /// Whether a recovery began it, and not a hub that went on from a sealed one.
    fn is_of_a_recovery(&self) -> bool {
        let why = self.header.as_ref().map(|header| header.predecessor);
        matches!(why, Some(Predecessor::Cut | Predecessor::Copied))
    }

    /// Up to where a segment with a broken header was synced all the same; `None` where its first write may have been torn
    /// before it was synced: then the journal has its frames, or nobody was told that they are durable.
    fn synced_before_it_broke(&self, in_journal: Option<u64>, found: JournalFound) -> Option<u64> {
        let first = SEGMENT_HEADER_BYTES as u64;
        if self.header.is_some() || self.sealed_bytes.is_some() {
            return None;
        }
        match in_journal {
            // The journal let go of what stood before.
            Some(offset) => Some(offset).filter(|&offset| found.whole && offset > first),
            None => self.misplaced.map(|_| self.file_bytes.max(first + 1)),
        }
    }
}

/// What the journal was like when the hub was opened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct JournalFound {
    /// No record is missing, so that the first frame it has for a log proves all before.
    pub whole: bool,
    /// It had records, so the hub did not close in good order: what was written last need not be durable.
    pub crashed: bool,
}

/// Recovers one log. `journal` is empty after a close in good order.
pub(crate) fn recover(
    disk: &dyn Disk,
    ids: (&DeviceId, &SessionId, [u8; 16]),
    journal: &[JournalFrames],
    found: JournalFound,
    options: &Options,
    now: HubInstant,
) -> Result<Recovered, StorageError> {
    let (device, session, _) = ids;
    let dir = Session::log_dir(session, device);
    let io = |error| StorageError::io("syncing", disk.describe(&dir), error);
    if disk.stat(&dir).map_err(io)?.is_some() {
        // The names that can be read need not be durable.
        disk.sync_dir(&dir).map_err(io)?;
    }
    let mut applier = Applier::default();
    // A landmark says what the segments up to its own add up to, so that only those behind it are read.
    let (reader, mut is_known) = match landmark::open_behind(disk, session, device)? {
        Some((reader, state)) => {
            applier.state = state;
            (reader, true)
        }
        None => (LogReader::open(disk, session, device)?, false),
    };
    let segments = reader.segments().to_vec();
    let mut faults = reader.into_faults();
    let highest = super::segments(disk, &dir)?.last().map_or(0, |last| last.0);
    let mut carry = Vec::new();
    let mut predecessor = Before::NONE;
    let mut tail = finished(&segments).saturating_sub(1);
    let mut proven_though_broken = None;
    if let Some(next) = segments.get(finished(&segments))
        && let Some(proven) = next.synced_before_it_broke(first_in(journal, next.segment), found)
    {
        tail = finished(&segments);
        proven_though_broken = Some(proven);
    }
    for (at, summary) in segments.iter().enumerate() {
        // The last one that was finished, and behind it copies of its end that were not.
        let (is_tail, is_copy) = (at >= tail, at > tail);
        let broken = proven_though_broken.filter(|_| at == tail);
        let in_journal = first_in(journal, summary.segment);
        let is_sealed = summary.index.is_some();
        // While the journal has frames of this segment or of an earlier one, this one need not be synced, whatever it
        // looks like: it may have been sealed by a write whose sync was never done, in a run of the hub, or in a recovery
        // that put the journal's frames into it.
        let not_released = journal.iter().any(|f| f.segment <= summary.segment);
        let is_proven = is_sealed && found.whole && !not_released;
        let unproven = is_copy || (is_tail && summary.cut_at.is_none() && !is_proven);
        faults.extend(summary.faults(disk)?.into_iter().map(|mut fault| {
            if unproven && fault.offset > 0 {
                fault.kind = FaultKind::TornTail;
            } else if broken.is_some() {
                fault.kind = FaultKind::Damage;
            }
            fault
        }));
        let counts_whole = summary.cut_at.is_none_or(|cut| Some(cut) == summary.sealed_bytes);
        if let (Some(_), Some(data_bytes)) = (&summary.index, summary.sealed_bytes)
            && !unproven
            && counts_whole
            && (std::mem::take(&mut is_known)
                || take_index(disk, summary, (device, session), &mut applier.state)?)
        {
            predecessor = match is_tail && (found.crashed || summary.is_of_a_recovery()) {
                // The footer proves the frames and not itself: the crash may have come between its write and its sync. A
                // recovery that was cut off there leaves nothing in the journal if it found nothing in it.
                true => Before::cut(data_bytes),
                false => Before::sealed_by_another_run(data_bytes),
            };
            continue;
        }
        let mut scan = Scan {
            disk,
            summary,
            ids: (device, session),
            faults: &mut faults,
        };
        if is_copy {
            scan.copy(&mut applier, &mut carry)?;
            predecessor.superseded += 1;
            continue;
        }
        let end = match unproven {
            true => scan.tail(
                &mut applier,
                broken.or(in_journal.filter(|_| found.whole)).unwrap_or(0),
                &mut carry,
            )?,
            false => scan.whole(&mut applier)?,
        };
        predecessor = Before::cut(end);
    }
    if let Some(last) = segments.last()
        && tail < segments.len()
    {
        // Files that are no segments of this log may stand behind it.
        predecessor.superseded += highest - last.segment;
        if predecessor.superseded > 0 {
            predecessor.why = Predecessor::Cut;
        }
    }
    let segment_bytes = (options.segment_bytes_first, options.segment_bytes_max);
    let mut log = Log::new(ids, applier.state, highest + 1, predecessor, segment_bytes);
    log.is_damaged = faults.iter().any(|fault| fault.kind == FaultKind::Damage);
    let carried = adopt(
        disk,
        &mut log,
        carry,
        journal,
        (device, session),
        now,
        &mut faults,
    )?;
    if let Some(flushing) = log.begin_flush(Seal::Now, now, Vec::new) {
        flushing
            .write(disk)
            .map_err(|(FlushError::Write(error) | FlushError::Sync(error))| error)?;
        log.end_flush(&flushing);
    }
    Ok(Recovered { log, faults, carried })
}

/// Takes a sealed segment from its index: data frames by their rows, all else by reading it. False, with the state as
/// it was, if rows and frames do not fit, or if a frame that is read is not what it was.
fn take_index(
    disk: &dyn Disk,
    summary: &SegmentSummary,
    (device, session): (&DeviceId, &SessionId),
    state: &mut LogState,
) -> Result<bool, StorageError> {
    let io = |error| StorageError::io("reading", disk.describe(&summary.path), error);
    let file = disk.open(&summary.path, OpenMode::Read).map_err(io)?;
    let mut after = state.clone();
    let mut buffer = Vec::new();
    for row in summary.index.iter().flat_map(Index::entries) {
        if row.kind == Kind::CHECKPOINT || row.kind == Kind::ARRIVAL {
            let meaning = Meaning::Arrival((row.kind == Kind::ARRIVAL).then_some(row.first_time_ns));
            after.take(&crate::state::Judged { entry: row, meaning });
            continue;
        }
        let judged = match after.judge_entry(&row) {
            Some(judged) => Some(judged),
            None => {
                let epoch = (row.epoch != u32::MAX).then_some(row.epoch);
                // The hub goes on by what these frames say, so their bytes are held against their checksums.
                let id = match epoch {
                    Some(epoch) => after.epochs().get(epoch as usize).map(|epoch| epoch.id),
                    None => Some(EpochId::HUB),
                };
                match super::read_frame(&*file, u64::from(row.offset), row.length, row.crc, &mut buffer) {
                    Ok(frame)
                        if id.is_some_and(|id| frame.verify(Seed::new(device, session, &id)).is_ok()) =>
                    {
                        after.inspect(&frame, epoch, row.offset).ok()
                    }
                    _ => None,
                }
            }
        };
        let Some(judged) = judged else { return Ok(false) };
        after.take(&judged);
    }
    *state = after;
    Ok(true)
}

/// What stands in a segment: frames by offset with their epochs, and where faults are.
struct Found {
    frames: Vec<(u64, Option<u32>, Vec<u8>)>,
    damage: Vec<u64>,
}

struct Scan<'a> {
    disk: &'a dyn Disk,
    summary: &'a SegmentSummary,
    ids: (&'a DeviceId, &'a SessionId),
    faults: &'a mut Vec<Fault>,
}

impl Scan<'_> {
    /// A segment whose end is known: every valid frame counts.
    fn whole(&mut self, applier: &mut Applier) -> Result<u64, StorageError> {
        let extent = self.summary.extent();
        self.run(extent, applier, |applier, offset, epoch, frame| {
            // What was taken before, or rests on something lost, changes nothing here; readers report it.
            let _ = applier.apply(&frame, epoch, offset as u32);
        })?;
        Ok(extent.limit)
    }

    /// The segment that may not be on the disk to its end: frames below the proven point count, those beyond are to be
    /// carried over.
    fn tail(
        &mut self,
        applier: &mut Applier,
        proven: u64,
        carry: &mut Vec<(Option<u32>, Vec<u8>)>,
    ) -> Result<u64, StorageError> {
        let proven = proven.max(SEGMENT_HEADER_BYTES as u64);
        let (found, synced_through) = self.found(applier, proven)?;
        let point = proven.max(synced_through);
        let mut damage = found.damage.into_iter().peekable();
        for (offset, epoch, bytes) in found.frames {
            if damage.next_if(|&at| at < offset).is_some() {
                applier.damaged();
            }
            if offset >= point {
                carry.push((epoch, bytes));
                continue;
            }
            let frame = Frame::parse(&bytes).expect("the scanner parsed it");
            let _ = applier.apply(&frame, epoch, offset as u32);
        }
        Ok(point)
    }

    /// A copy that was not finished: all of it is to be carried over, behind what it is a copy of.
    fn copy(
        &mut self,
        applier: &mut Applier,
        carry: &mut Vec<(Option<u32>, Vec<u8>)>,
    ) -> Result<(), StorageError> {
        let (found, _) = self.found(applier, SEGMENT_HEADER_BYTES as u64)?;
        carry.extend(found.frames.into_iter().map(|(_, epoch, bytes)| (epoch, bytes)));
        Ok(())
    }

    /// Every valid frame of a segment that may not be on the disk to its end, and up to where its checkpoints say that
    /// it had been synced.
    fn found(&mut self, applier: &mut Applier, proven: u64) -> Result<(Found, u64), StorageError> {
        let extent = Extent {
            // A file that ends before what the journal proves has lost its end.
            limit: self
                .summary
                .sealed_bytes
                .unwrap_or(self.summary.file_bytes)
                .max(proven),
            proven,
        };
        let mut synced_through = 0;
        let mut frames = Vec::new();
        let faults_before = self.faults.len();
        self.run(extent, applier, |_, offset, epoch, frame| {
            if frame.header().kind == Kind::CHECKPOINT
                && let Some(checkpoint) = Checkpoint::parse(frame.payload())
                && checkpoint.synced_through <= offset
            {
                synced_through = synced_through.max(checkpoint.synced_through);
            }
            frames.push((offset, epoch, frame.bytes().to_vec()));
        })?;
        let damage = self.faults[faults_before..]
            .iter()
            .map(|fault| fault.offset)
            .collect();
        Ok((Found { frames, damage }, synced_through))
    }

    fn run(
        &mut self,
        extent: Extent,
        applier: &mut Applier,
        mut take: impl FnMut(&mut Applier, u64, Option<u32>, Frame<'_>),
    ) -> Result<(), StorageError> {
        let path = &self.summary.path;
        let io = |error| StorageError::io("reading", self.disk.describe(path), error);
        let file = self.disk.open(path, OpenMode::Read).map_err(io)?;
        let mut so_far = Continuity::of(self.ids.0, self.ids.1, &applier.state);
        if let Some((epoch, ordinal)) = self.summary.header.as_ref().and_then(|header| header.epoch) {
            so_far.go_on(&epoch, ordinal);
        }
        let mut scanner = Scanner::new(Window::new(file), extent, self.summary.index.as_ref());
        while let Some(step) = scanner.step(&mut so_far).map_err(io)? {
            match step {
                Step::Frame {
                    offset,
                    length,
                    epoch,
                } => {
                    let frame = Frame::parse(scanner.bytes(offset, length)).expect("the scanner parsed it");
                    take(applier, offset, epoch, frame);
                }
                Step::Fault {
                    kind,
                    offset,
                    bytes,
                    why,
                } => {
                    applier.damaged();
                    let path = self.disk.describe(path);
                    self.faults.push(Fault {
                        kind,
                        path,
                        segment: self.summary.segment,
                        offset,
                        bytes,
                        why,
                    });
                }
            }
        }
        Ok(())
    }
}

/// Takes what lies beyond the proven point, then what the journal holds, each sequence once.
fn adopt(
    disk: &dyn Disk,
    log: &mut Log,
    carry: Vec<(Option<u32>, Vec<u8>)>,
    journal: &[JournalFrames],
    ids: (&DeviceId, &SessionId),
    now: HubInstant,
    faults: &mut Vec<Fault>,
) -> Result<u64, StorageError> {
    let mut carried = 0;
    let mut take = |log: &mut Log, bytes: &[u8], epoch: Option<u32>, place: (u32, u64)| match log
        .adopt(bytes, epoch, now)
    {
        Ok(taken) => carried += u64::from(taken),
        Err(violation) => {
            let (path, bytes) = (disk.describe("journal".as_ref()), bytes.len() as u64);
            let (segment, offset, why) = (place.0, place.1, violation.to_string());
            faults.push(Fault {
                kind: FaultKind::Damage,
                path,
                segment,
                offset,
                bytes,
                why,
            });
        }
    };
    for (epoch, bytes) in carry {
        // A checkpoint speaks of places in the segment that it stood in.
        if Frame::parse(&bytes).is_ok_and(|frame| frame.header().kind != Kind::CHECKPOINT) {
            take(log, &bytes, epoch, (0, 0));
        }
    }
    // The journal's frames go on from where the log's own ended, in the order of their commits.
    let mut so_far = Continuity::of(ids.0, ids.1, &log.state);
    for piece in journal {
        let mut at = 0;
        while at < piece.bytes.len() {
            let Ok(frame) = Frame::parse(&piece.bytes[at..]) else {
                break;
            };
            if let Some(epoch) = so_far.owner_of(&frame) {
                take(
                    log,
                    frame.bytes(),
                    epoch,
                    (piece.segment, piece.offset.saturating_add(at as u64)),
                );
                so_far.note_epoch(&frame);
            }
            at += frame.bytes().len();
        }
    }
    Ok(carried)
}
