//! What is valid, what is damage, and what is torn tail: the reading rules of format-spec's `log.md`, over one segment.
//!
//! The scanner delivers frames whose checksum holds and whose sequence fits, and faults for all else. It does not know
//! what frames mean, but for epoch frames (whose frames carry another seed) and checkpoints (which prove what had been
//! on disk, and say where frames begin).

use super::window::Window;
use crate::state::LogState;
use marey_format::frame::{Frame, FrameError, HEADER_BYTES, Kind, Lane, MARK};
use marey_format::log::{INDEX_MAGIC, Index, SEGMENT_HEADER_BYTES};
use marey_format::payload::{Checkpoint, EpochMark};
use marey_format::{DeviceId, EpochId, Seed, SessionId, limits};
use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

/// A range of a log's bytes that is not delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub kind: FaultKind,
    pub path: PathBuf,
    pub segment: u32,
    pub offset: u64,
    pub bytes: u64,
    pub why: String,
}

/// Whether anything that was acknowledged may be in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// Below a point that was proven to be on disk: a loss.
    Damage,
    /// Above it: a write that was under way when the end came, never acknowledged.
    TornTail,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self.kind {
            FaultKind::Damage => "damage",
            FaultKind::TornTail => "torn tail",
        };
        write!(
            to,
            "{}: {kind} at offset {}, {} bytes: {}",
            self.path.display(),
            self.offset,
            self.bytes,
            self.why
        )
    }
}

/// What goes on from segment to segment: epochs and sequences.
#[derive(Clone, Debug)]
pub(crate) struct Continuity {
    device: DeviceId,
    session: SessionId,
    hub_seed: Seed,
    epochs: Vec<Option<Seed>>,
    current: Option<u32>,
    /// Next sequence of either lane, by epoch.
    lanes: Vec<[u64; 2]>,
    hub_next: u64,
    refill: bool,
}

impl Continuity {
    pub fn new(device: &DeviceId, session: &SessionId) -> Self {
        Self {
            hub_seed: Seed::new(device, session, &EpochId::HUB),
            device: device.clone(),
            session: session.clone(),
            epochs: Vec::new(),
            current: None,
            lanes: Vec::new(),
            hub_next: 0,
            refill: false,
        }
    }

    /// Where a log stands whose frames add up to `state`.
    pub fn of(device: &DeviceId, session: &SessionId, state: &LogState) -> Self {
        let mut so_far = Self::new(device, session);
        for epoch in state.epochs() {
            so_far.enter(&epoch.id, epoch.ordinal, false);
            if let Some(lanes) = so_far.lanes.get_mut(epoch.ordinal as usize) {
                *lanes = epoch.next;
            }
        }
        so_far.current = state.current();
        so_far.hub_next = state.hub_next();
        so_far
    }

    /// Device frames belong to this epoch from here on.
    pub fn enter(&mut self, epoch: &EpochId, ordinal: u32, refill: bool) {
        if ordinal >= limits::EPOCHS_PER_LOG_MAX {
            return;
        }
        if self.epochs.len() <= ordinal as usize {
            self.epochs.resize(ordinal as usize + 1, None);
            self.lanes.resize(ordinal as usize + 1, [0; 2]);
        }
        self.epochs[ordinal as usize] = Some(Seed::new(&self.device, &self.session, epoch));
        self.current = Some(ordinal);
        self.refill = refill;
    }

    /// A segment's header says which epoch goes on; a refill of that epoch goes on with it.
    pub fn go_on(&mut self, epoch: &EpochId, ordinal: u32) {
        let refill = self.refill && self.current == Some(ordinal);
        self.enter(epoch, ordinal, refill);
    }

    /// The epoch under whose seed the frame's checksum holds: `Some(None)` for hub frames.
    #[inline]
    fn owner(&self, frame: &Frame<'_>, all_epochs: bool) -> Option<Option<u32>> {
        if frame.header().lane == Lane::Hub {
            return frame.verify(self.hub_seed).is_ok().then_some(None);
        }
        let found = frame.header().crc;
        let tried = |ordinal: u32| {
            let seed = self.epochs.get(ordinal as usize).copied().flatten()?;
            (seed.checksum(&frame.bytes()[8..]) == found).then_some(ordinal)
        };
        self.current
            .and_then(tried)
            .or_else(|| {
                if all_epochs {
                    (0..self.epochs.len() as u32).rev().find_map(tried)
                } else {
                    None
                }
            })
            .map(Some)
    }

    /// The epoch of a frame that was found outside of its log, such as in the journal.
    pub fn owner_of(&self, frame: &Frame<'_>) -> Option<Option<u32>> {
        self.owner(frame, true)
    }

    /// Enters the epoch that the frame opens, if it opens one.
    pub fn note_epoch(&mut self, frame: &Frame<'_>) {
        if frame.header().kind == Kind::EPOCH
            && let Some(mark) = EpochMark::parse(frame.payload())
        {
            self.enter(&mark.epoch, mark.ordinal, mark.refill);
        }
    }

    fn next(&self, lane: Lane, epoch: Option<u32>) -> u64 {
        match epoch {
            None => self.hub_next,
            Some(epoch) => self
                .lanes
                .get(epoch as usize)
                .and_then(|lanes| lanes.get(lane as usize))
                .copied()
                .unwrap_or(0),
        }
    }

    fn take(&mut self, found: &Found) {
        let next = found.sequence.saturating_add(1);
        match found.epoch {
            None => self.hub_next = next,
            Some(epoch) => {
                let lanes = self.lanes.get_mut(epoch as usize);
                if let Some(lane) = lanes.and_then(|lanes| lanes.get_mut(found.lane as usize)) {
                    *lane = next.max(*lane);
                }
            }
        }
    }
}

/// How far a segment counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Nothing from here on is looked at.
    pub limit: u64,
    /// All below was synced at some time.
    pub proven: u64,
}

/// One step of a scan.
#[derive(Debug)]
pub(crate) enum Step {
    /// A frame to deliver, of this length; its bytes are in the scanner's window.
    Frame {
        offset: u64,
        length: usize,
        epoch: Option<u32>,
    },
    Fault {
        kind: FaultKind,
        offset: u64,
        bytes: u64,
        why: String,
    },
}

/// Scans one segment.
#[derive(Debug)]
pub(crate) struct Scanner {
    window: Window,
    position: u64,
    extent: Extent,
    index: Option<Index>,
    /// Where frames begin, by the footer's index, in order; made when first needed.
    starts: Option<Vec<u64>>,
    /// After damage, until an epoch frame: any epoch's seed may fit.
    after_damage: bool,
    /// Consistent checkpoints of the segment, found when first needed.
    checkpoints: Option<Vec<Covered>>,
    done: bool,
}

/// What a checkpoint says of the write before it.
#[derive(Debug)]
struct Covered {
    at: u64,
    from: u64,
    starts: BTreeSet<u64>,
    synced_through: u64,
}

impl Scanner {
    pub fn new(window: Window, extent: Extent, index: Option<&Index>) -> Self {
        Self {
            window,
            position: SEGMENT_HEADER_BYTES as u64,
            extent,
            index: index.cloned(),
            starts: None,
            after_damage: false,
            checkpoints: None,
            done: false,
        }
    }

    /// The bytes of the frame that the last step delivered.
    pub fn bytes(&self, offset: u64, length: usize) -> &[u8] {
        self.window.held(offset, length)
    }

    /// The buffer, for the next scanner.
    pub fn into_buffer(self) -> Vec<u8> {
        self.window.into_buffer()
    }

    /// The next frame or fault; none at the end.
    #[inline(always)]
    pub fn step(&mut self, so_far: &mut Continuity) -> io::Result<Option<Step>> {
        while !self.done && self.position < self.extent.limit {
            let offset = self.position;
            match self.judge(offset, so_far)? {
                Ok(found) => {
                    self.position = offset + found.length as u64;
                    if found.taken {
                        self.note(&found, offset, so_far);
                        let Found { length, epoch, .. } = found;
                        return Ok(Some(Step::Frame {
                            offset,
                            length,
                            epoch,
                        }));
                    }
                }
                Err(why) => return self.fault(offset, why.to_string(), so_far).map(Some),
            }
        }
        Ok(None)
    }

    /// [`Scanner::judge`] for where it is seldom asked.
    #[inline(never)]
    fn frame_at(&mut self, offset: u64, so_far: &Continuity) -> io::Result<Result<Found, NotHere>> {
        self.judge(offset, so_far)
    }

    /// The frame at an offset, judged by checksum and sequence. Inlined, with all that it asks: what is handed from call
    /// to call is written and read again, and of several such copies a frame took as long as of its checksum.
    #[inline(always)]
    fn judge(&mut self, offset: u64, so_far: &Continuity) -> io::Result<Result<Found, NotHere>> {
        let left = self.extent.limit - offset;
        let head = self.window.at(offset, HEADER_BYTES.min(left as usize))?;
        let length = match Frame::length(head) {
            Ok(length) => length,
            Err(_) if head.starts_with(&INDEX_MAGIC) => return Ok(Err(NotHere::Index)),
            Err(error) => return Ok(Err(NotHere::Frame(error))),
        };
        let short = |found| {
            let expected = length;
            Ok(Err(NotHere::Frame(FrameError::Short { expected, found })))
        };
        if length as u64 > left {
            return short(left as usize);
        }
        let bytes = self.window.at(offset, length)?;
        if bytes.len() < length {
            return short(bytes.len());
        }
        let frame = Frame::again(bytes);
        let (kind, lane, sequence) = (frame.header().kind, frame.header().lane, frame.header().sequence);
        let Some(epoch) = so_far.owner(&frame, self.after_damage) else {
            return Ok(Err(NotHere::Crc));
        };
        // Of two frames with one sequence the first counts; a refill may fill holes below, which `state` sorts out.
        let taken = sequence >= so_far.next(lane, epoch) || (so_far.refill && epoch.is_some());
        Ok(Ok(Found {
            kind,
            lane,
            sequence,
            length,
            epoch,
            taken,
        }))
    }

    fn note(&mut self, found: &Found, offset: u64, so_far: &mut Continuity) {
        so_far.take(found);
        if found.kind == Kind::EPOCH
            && let Ok(frame) = Frame::parse(self.window.held(offset, found.length))
        {
            so_far.note_epoch(&frame);
            self.after_damage = false;
        }
    }

    fn fault(&mut self, offset: u64, why: String, so_far: &mut Continuity) -> io::Result<Step> {
        let checkpoints = match self.checkpoints.take() {
            Some(checkpoints) => checkpoints,
            None => self.find_checkpoints(offset, so_far)?,
        };
        let proven = checkpoints
            .iter()
            .map(|c| c.synced_through)
            .fold(self.extent.proven, u64::max);
        self.extent.proven = proven;
        if offset >= proven {
            self.done = true;
            let bytes = self.extent.limit - offset;
            return Ok(Step::Fault {
                kind: FaultKind::TornTail,
                offset,
                bytes,
                why,
            });
        }
        self.after_damage = true;
        if let Some(index) = self.index.take() {
            let mut starts: Vec<u64> = index.entries().map(|entry| u64::from(entry.offset)).collect();
            starts.sort_unstable();
            self.starts = Some(starts);
        }
        let inside = self.believed_end(offset, so_far)?;
        let mut at = offset + 8;
        while at < self.extent.limit {
            let mut start = self.start(at, &checkpoints);
            if start == Start::Unknown && at < inside {
                start = Start::Inside;
            }
            if start != Start::Inside
                && let Ok(found) = self.frame_at(at, so_far)?
                && (found.taken || start == Start::Listed)
            {
                break;
            }
            at += 8;
        }
        self.checkpoints = Some(checkpoints);
        self.position = at.min(self.extent.limit);
        Ok(Step::Fault {
            kind: FaultKind::Damage,
            offset,
            bytes: self.position - offset,
            why,
        })
    }

    /// Up to where the broken frame at an offset reaches by its own length, as far as that can be believed: what stands
    /// inside of it is its payload's, whatever it looks like. Behind a whole mark the length counts; without one if the
    /// next frame stands at its end, or if that is where the data end.
    fn believed_end(&mut self, offset: u64, so_far: &Continuity) -> io::Result<u64> {
        let left = self.extent.limit - offset;
        let head = self.window.at(offset, HEADER_BYTES.min(left as usize))?;
        let Some(length) = head.get(8..12).and_then(|length| length.try_into().ok()) else {
            return Ok(offset);
        };
        let (length, has_mark) = (u32::from_le_bytes(length), head.starts_with(&MARK));
        let end = offset + u64::from(length);
        let is_one = length.is_multiple_of(8)
            && (HEADER_BYTES..=limits::FRAME_BYTES_MAX).contains(&(length as usize))
            && end <= self.extent.limit;
        let believed =
            is_one && (has_mark || end == self.extent.limit || self.frame_at(end, so_far)?.is_ok());
        Ok(if believed { end } else { offset })
    }

    /// Whether a frame is known to begin here, as far as an index or a checkpoint says.
    fn start(&self, at: u64, checkpoints: &[Covered]) -> Start {
        let listed = |is_listed| if is_listed { Start::Listed } else { Start::Inside };
        if let Some(starts) = &self.starts {
            return listed(starts.binary_search(&at).is_ok());
        }
        match checkpoints.iter().find(|c| (c.from..=c.at).contains(&at)) {
            Some(covered) => listed(covered.at == at || covered.starts.contains(&at)),
            None => Start::Unknown,
        }
    }

    /// The checkpoints from `offset` on that stand where they say they do.
    fn find_checkpoints(&mut self, offset: u64, so_far: &Continuity) -> io::Result<Vec<Covered>> {
        let mut found = Vec::new();
        let mut at = offset.next_multiple_of(8);
        while at + HEADER_BYTES as u64 <= self.extent.limit {
            let here = match self.frame_at(at, so_far)? {
                Ok(Found { kind, length, .. }) if kind == Kind::CHECKPOINT => {
                    let frame = Frame::parse(self.window.held(at, length)).ok();
                    frame.and_then(|frame| Checkpoint::parse(frame.payload()))
                }
                _ => None,
            };
            if let Some(point) = here
                && point.offset.checked_add(point.length) == Some(at)
                && point.synced_through <= point.offset
            {
                let starts = point
                    .frames
                    .iter()
                    .map(|&f| point.offset + 8 * u64::from(f))
                    .collect();
                // One that lies inside the write of a later one is part of somebody's payload.
                found.retain(|inner: &Covered| inner.at < point.offset);
                found.push(Covered {
                    at,
                    from: point.offset,
                    starts,
                    synced_through: point.synced_through,
                });
            }
            at += 8;
        }
        Ok(found)
    }
}

/// What is known of an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// A frame begins here.
    Listed,
    /// None begins here: it is inside of one.
    Inside,
    Unknown,
}

#[derive(Debug)]
struct Found {
    kind: Kind,
    lane: Lane,
    sequence: u64,
    length: usize,
    epoch: Option<u32>,
    taken: bool,
}

#[derive(Debug)]
enum NotHere {
    Index,
    Frame(FrameError),
    Crc,
}

impl std::fmt::Display for NotHere {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Index => to.write_str("a footer's index before the end of the data"),
            Self::Frame(FrameError::Mark { found: [0, 0, 0, 0] }) => {
                to.write_str("zeros where a frame should begin")
            }
            Self::Frame(error) => error.fmt(to),
            Self::Crc => to.write_str("the frame's checksum does not fit its bytes"),
        }
    }
}
