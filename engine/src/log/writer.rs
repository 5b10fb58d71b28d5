//! The log of one device in one session, open for frames: takes them in, in memory, and hands out what is to be written.
//!
//! A frame that is taken gets its place in the segment at once; the bytes wait in memory, since the journal has them,
//! until [`Log::begin_flush`] hands them to whoever writes. Between flushes a log holds no file open.

use super::flushing::{Flushing, Seal};
use super::landmark::Landmark;
use super::pending::{Incoming, Pending};
use super::segment::{Before, Segment, Unchecked};
use crate::batch::Item;
use crate::clock::{LiveClock, Row};
use crate::session::Session;
use crate::state::{EpochState, Judged, LogState, Meaning, StreamVersions, Violation};
use crate::time::HubInstant;
use marey_format::clock::ProbeRow;
use marey_format::frame::{Frame, Kind, Lane, control_frame};
use marey_format::log::{
    Footer, IndexEntry, Predecessor, SEGMENT_HEADER_BYTES, SegmentHeader, TRAILER_BYTES, Trailer,
};
use marey_format::payload::{Arrival, Assign, Checkpoint, EpochMark, Event, WallReading};
use marey_format::registry::FrameName;
use marey_format::{Declaration, DeviceId, EpochId, HubEpoch, Refusal, RefusalCode, Seed, SessionId};
use std::collections::HashMap;

/// Frames that one checkpoint lists at most: its own frame must stay under the limit of frames.
const CHECKPOINT_FRAMES_MAX: usize = 1 << 16;

/// An open log.
#[derive(Debug)]
pub(crate) struct Log {
    pub device: DeviceId,
    pub session: SessionId,
    pub state: LogState,
    hub_id: [u8; 16],
    hub_seed: Seed,
    segment: Segment,
    segment_bytes: u64,
    segment_bytes_max: u64,
    arrivals: Vec<Arrival>,
    /// The bound of its clock while it is recorded.
    pub clock: LiveClock,
    /// Of the session.
    pub max_drift_ppm: f64,
    /// Opening found damage: every opening is to find it again, so that nothing may spare it the look.
    pub is_damaged: bool,
    writes: u64,
    /// Hub time of the call under way, for the frames that the hub writes.
    now: HubInstant,
    /// A flush took bytes away and has not come back.
    flushing: bool,
    /// By epoch and lane, a sequence that was refused: those behind it are not taken before it comes again, or the
    /// cumulative ack would pass over it and the device would discard it.
    held: HashMap<(u32, Lane), u64>,
}

/// Why a frame was not taken.
#[derive(Debug)]
pub(crate) enum TakeError {
    /// It was taken before, with the same content.
    Duplicate,
    /// Its sequence was passed in an earlier segment, which must be looked into.
    Passed,
    Refused(Refusal),
    /// It waits behind one that was refused.
    Held,
}

impl Log {
    /// A log that goes on after `predecessor`, in segment `number`, which is not made yet.
    pub fn new(
        ids: (&DeviceId, &SessionId, [u8; 16]),
        state: LogState,
        number: u32,
        predecessor: Before,
        segment_bytes: (u64, u64),
    ) -> Self {
        let (device, session, hub_id) = ids;
        // The n-th segment is twice as long as the one before, so a log that goes on starts where it was.
        let grown = segment_bytes
            .0
            .checked_shl(number.saturating_sub(1).min(32))
            .unwrap_or(u64::MAX);
        Self {
            hub_seed: Seed::new(device, session, &EpochId::HUB),
            device: device.clone(),
            session: session.clone(),
            state,
            hub_id,
            segment: Segment::new(number, predecessor),
            segment_bytes: grown.clamp(segment_bytes.0, segment_bytes.1),
            segment_bytes_max: segment_bytes.1,
            arrivals: Vec::new(),
            clock: LiveClock::default(),
            max_drift_ppm: 100.0,
            is_damaged: false,
            writes: 0,
            now: HubInstant {
                epoch: HubEpoch(0),
                ns: 0,
            },
            flushing: false,
            held: HashMap::new(),
        }
    }

    /// Takes a checked frame of a device. Its bytes are shared if the log is flushed at once, and copied if they may wait.
    ///
    /// # Errors
    /// Where the state does not allow it; the log is as it was.
    pub fn take(
        &mut self,
        item: &Item,
        shared: bool,
        versions: &mut StreamVersions,
        now: HubInstant,
    ) -> Result<(), TakeError> {
        let frame = Frame::parse(&item.frame).expect("batches hold checked frames");
        let epoch = item.handle.epoch;
        let (lane, sequence) = (frame.header().lane, frame.header().sequence);
        if !self.held.is_empty() {
            if self.held.get(&(epoch, lane)).is_some_and(|held| sequence > *held) {
                return Err(TakeError::Held);
            }
            self.held.remove(&(epoch, lane));
        }
        let judged = match self.state.inspect(&frame, Some(epoch), 0) {
            Ok(judged) => judged,
            Err(Violation::Below { .. }) => return Err(self.below(&frame, epoch)),
            Err(violation) => {
                self.hold(item);
                return Err(TakeError::Refused(named(violation.refusal(), &frame)));
            }
        };
        let declared = match &judged.meaning {
            Meaning::Declare(declaration) => Some(declaration.clone()),
            // A crash can have come between a declaration and the hub's answer, and the declaration does not come again.
            _ => self.unanswered(epoch, frame.header().stream),
        };
        let assign = match declared {
            Some(declaration) => {
                let Some(version) = versions.assign(&declaration) else {
                    self.hold(item);
                    let message = format!(
                        "stream {} has too many versions in this session",
                        declaration.name
                    );
                    return Err(TakeError::Refused(named(
                        Refusal::new(RefusalCode::TooMany, message),
                        &frame,
                    )));
                };
                Some(Assign {
                    epoch,
                    stream: frame.header().stream,
                    version,
                    declaration,
                })
            }
            None => None,
        };
        self.begin_segment(now, true);
        let header = frame.header();
        let refill = header.sequence < self.state.epochs()[epoch as usize].next[header.lane as usize];
        if self.state.current() != Some(epoch) || refill {
            self.mark_epoch(epoch, refill);
        }
        // What was written in the meantime says again what the state knows: the judgement holds.
        let is_declaration = matches!(judged.meaning, Meaning::Declare(_));
        if let Some(assign) = assign.as_ref().filter(|_| !is_declaration) {
            self.assign(assign);
        }
        let incoming = match shared {
            true => Incoming::Shared(&item.frame),
            false => Incoming::Copied(&item.frame),
        };
        self.put(incoming, judged);
        if let Some(assign) = assign.as_ref().filter(|_| is_declaration) {
            self.assign(assign);
        }
        if header.kind == Kind::PROBES {
            let rows = ProbeRow::rows(frame.payload()).into_iter().flatten();
            rows.for_each(|row| self.heard(epoch, &Row::of_probe(&row)));
        }
        self.arrived(item, header.lane, header.sequence);
        Ok(())
    }

    /// Evidence of an epoch's clock came.
    fn heard(&mut self, epoch: u32, row: &Row) {
        let key = |epoch: &EpochState| match epoch.boot.is_known() {
            true => epoch.boot.0,
            false => epoch.id.0,
        };
        if row.hub_epoch() != self.now.epoch.0 {
            return;
        }
        let epochs = self.state.epochs();
        let (of, newest) = (epochs.get(epoch as usize).map(key), epochs.last().map(key));
        // What is of an earlier life, of the device's clock or the hub's, says nothing of now.
        if let Some(key) = of.filter(|_| of == newest) {
            self.clock.hear(key, row, self.max_drift_ppm);
        }
    }

    /// What a stream was declared as that was never given a version.
    fn unanswered(&self, epoch: u32, stream: u32) -> Option<Declaration> {
        let known = self.state.stream(epoch, stream)?;
        known.key.is_none().then(|| (*known.declaration).clone())
    }

    /// This frame was not taken: those behind it in its lane wait until it comes again. What was passed already can't be
    /// passed over.
    pub fn hold(&mut self, item: &Item) {
        let frame = Frame::parse(&item.frame).expect("batches hold checked frames");
        let (lane, sequence) = (frame.header().lane, frame.header().sequence);
        let epoch = item.handle.epoch;
        let next = self
            .state
            .epochs()
            .get(epoch as usize)
            .map_or(0, |e| e.next[lane as usize]);
        if sequence >= next {
            let held = self.held.entry((epoch, lane)).or_insert(sequence);
            *held = (*held).min(sequence);
        }
    }

    /// The device opens the epoch anew, and is told where to go on.
    pub fn release(&mut self, epoch: u32) {
        self.held.retain(|(held, _), _| *held != epoch);
    }

    /// What became of a frame whose sequence was passed, as far as the segment at hand knows.
    fn below(&self, frame: &Frame<'_>, epoch: u32) -> TakeError {
        let header = frame.header();
        let same = |entry: &&IndexEntry| {
            (entry.epoch, entry.lane, entry.sequence) == (epoch, header.lane, header.sequence)
        };
        match self.segment.index.iter().rev().find(same) {
            Some(entry) if entry.crc == header.crc => TakeError::Duplicate,
            Some(entry) => TakeError::Refused(reused(frame, entry.crc)),
            None => TakeError::Passed,
        }
    }

    /// Takes a frame that recovery found, the hub's own ones included, as it is. Those that were taken before are
    /// left out; so is what rests on something that was lost, with the reason.
    pub fn adopt(&mut self, bytes: &[u8], epoch: Option<u32>, now: HubInstant) -> Result<bool, Violation> {
        let frame = Frame::parse(bytes).expect("recovery hands on frames whose checksums hold");
        match self.state.inspect(&frame, epoch, 0) {
            Ok(_) => {
                self.begin_copy(now);
                if let Some(epoch) = epoch
                    && self.state.current() != Some(epoch)
                {
                    self.mark_epoch(epoch, false);
                }
                self.append(bytes, epoch);
                Ok(true)
            }
            Err(Violation::Below { lane, .. }) => {
                if lane == Lane::Hub {
                    self.say_again(&frame, now);
                }
                Ok(false)
            }
            Err(violation) => Err(violation),
        }
    }

    /// Begins the segment that frames are carried over into, if it is not begun: until it is whole, its predecessor counts.
    fn begin_copy(&mut self, now: HubInstant) {
        if self.segment.predecessor.why == Predecessor::Cut {
            self.segment.predecessor.why = Predecessor::Copied;
        }
        self.begin_segment(now, false);
    }

    /// A frame of the hub's own whose number was passed. A recovery that came to nothing may have used it for another one,
    /// so what it says can be new all the same: device frames may rest on it.
    fn say_again(&mut self, frame: &Frame<'_>, now: HubInstant) {
        match self.state.hub_meaning(frame) {
            Ok(Meaning::Epoch(mark)) => {
                let known = self.state.epochs().get(mark.ordinal as usize);
                if known.is_none_or(|known| known.id == EpochId::HUB) {
                    self.begin_copy(now);
                    self.hub_frame(Kind::EPOCH, 0, &mark.to_bytes());
                }
            }
            Ok(Meaning::Assign(assign)) if self.unanswered(assign.epoch, assign.stream).is_some() => {
                self.begin_copy(now);
                self.assign(&assign);
            }
            _ => {}
        }
    }

    /// Opens an epoch of the device, or goes back to it.
    pub fn open_epoch(&mut self, mark: EpochMark, now: HubInstant) {
        self.begin_segment(now, true);
        self.hub_frame(Kind::EPOCH, 0, &mark.to_bytes());
    }

    /// Writes down a reading of the wall clock.
    pub fn wall(&mut self, reading: &WallReading, now: HubInstant) {
        self.begin_segment(now, true);
        let json = serde_json::to_vec(reading).expect("a reading has string keys and integers only");
        self.hub_frame(Kind::HUB_EPOCH, 0, &json);
    }

    /// Writes down something that the hub has to say.
    pub fn note(&mut self, event: &Event, now: HubInstant) {
        self.begin_segment(now, true);
        let json = serde_json::to_vec(event).expect("an event has string keys and integers only");
        self.hub_frame(Kind::NOTE, 0, &json);
    }

    /// Ends the staging of one commit: the arrivals of its frames follow them.
    pub fn end_staging(&mut self) {
        if self.arrivals.is_empty() {
            return;
        }
        for rows in std::mem::take(&mut self.arrivals).chunks(1 << 14) {
            let mut payload = Vec::with_capacity(rows.len() * Arrival::BYTES);
            rows.iter().for_each(|row| row.put(&mut payload));
            self.hub_frame(Kind::ARRIVAL, rows.len() as u32, &payload);
        }
    }

    /// Segment and logical end: where the next frame goes.
    pub fn end(&self) -> (u32, u64) {
        (self.segment.number, self.segment.end())
    }

    /// Segment, offset and bytes of what was taken since the log's end was `from`; no flush may have begun since, and no
    /// frame been shared since.
    pub fn taken_since(&self, from: (u32, u64)) -> (u32, u64, &[u8]) {
        // The header of a new segment is no frame: recovery makes its own.
        let start = from.1.max(SEGMENT_HEADER_BYTES as u64);
        let at = (start - self.segment.written) as usize;
        (self.segment.number, start, self.segment.pending.copied_since(at))
    }

    /// The segment is long enough to be sealed.
    pub fn seal_is_due(&self) -> bool {
        self.segment.end() >= self.segment_bytes
    }

    /// Frames of the segment, which its index lists.
    pub fn index_entries(&self) -> usize {
        self.segment.index.len()
    }

    /// Bytes that wait to be written.
    pub fn pending_bytes(&self) -> usize {
        self.segment.pending.len()
    }

    /// Hands out what is to be written, with a checkpoint behind it; sealed as well if that is asked or due. None if there
    /// is nothing to do. `spare` gives an empty buffer to go on with: memory that was touched before.
    pub fn begin_flush(
        &mut self,
        seal: Seal,
        now: HubInstant,
        spare: impl FnOnce() -> Vec<u8>,
    ) -> Option<Flushing> {
        let due_at = match seal {
            Seal::Now => 0,
            Seal::WhenDue => self.segment_bytes,
            // Not for ever: offsets have their limit.
            Seal::Later => 2 * self.segment_bytes_max,
        };
        let seal = self.segment.end() >= due_at;
        if self.segment.pending.is_empty() {
            // Of a log that rests nothing is kept.
            self.segment.pending = Pending::default();
        }
        if self.flushing || self.segment.index.is_empty() || (self.segment.pending.is_empty() && !seal) {
            return None;
        }
        self.flushing = true;
        self.now = now;
        self.checkpoint();
        let dir = Session::log_dir(&self.session, &self.device);
        let path = dir.join(super::segment_name(self.segment.number));
        let bytes = std::mem::replace(&mut self.segment.pending, Pending::with_buffer(spare()));
        let offset = self.segment.written;
        let (fresh, before) = (self.segment.fresh, self.segment.predecessor);
        let unsynced_before = (fresh && before.why == Predecessor::Sealed && before.by_another_run)
            .then(|| (dir.join(super::segment_name(self.segment.number - 1)), before.end));
        self.segment.written += bytes.len() as u64;
        self.segment.fresh = false;
        let data_bytes = self.segment.written;
        let mut landmark = None;
        let footer = seal.then(|| {
            let entries = std::mem::take(&mut self.segment.index);
            let footer = Footer { data_bytes, entries }.to_bytes();
            let end = data_bytes + footer.len() as u64;
            if let Ok(trailer) = Trailer::parse(&footer[footer.len() - TRAILER_BYTES..], end)
                && !self.is_damaged
            {
                landmark = Landmark::of(self.segment.number, data_bytes, trailer.index_crc, &self.state);
            }
            let pending = std::mem::take(&mut self.segment.pending);
            self.segment = Segment::new(self.segment.number + 1, Before::sealed(data_bytes));
            self.segment.pending = pending;
            self.segment_bytes = (self.segment_bytes * 2).min(self.segment_bytes_max);
            footer
        });
        Some(Flushing {
            path,
            dir,
            fresh,
            unsynced_before,
            offset,
            bytes,
            footer,
            landmark,
            sync: true,
        })
    }

    /// A flush came back. On failure the bytes are put back, for another try at the same place; a sealed segment's
    /// stay with the caller.
    pub fn end_flush(&mut self, flushed: &Flushing) {
        self.flushing = false;
        if flushed.footer.is_none() && flushed.sync {
            self.segment.synced = flushed.offset + flushed.bytes.len() as u64;
        }
    }

    fn begin_segment(&mut self, now: HubInstant, restate: bool) {
        self.now = now;
        if !self.segment.index.is_empty() || !self.segment.pending.is_empty() {
            return;
        }
        let epoch = self
            .state
            .current()
            .map(|ordinal| (self.state.epochs()[ordinal as usize].id, ordinal));
        let header = SegmentHeader {
            hub: self.hub_id,
            session: self.session.clone(),
            device: self.device.clone(),
            segment: self.segment.number,
            predecessor: self.segment.predecessor.why,
            predecessor_end: self.segment.predecessor.end,
            superseded: self.segment.predecessor.superseded,
            epoch,
            hub_sequence: self.state.hub_next(),
            hub_epoch: now.epoch,
            created_hub_ns: now.ns,
        };
        self.segment.pending.push(Incoming::Copied(&header.to_bytes()));
        self.segment.unchecked = Unchecked::from(SEGMENT_HEADER_BYTES as u64, 0);
        if let Some((_, ordinal)) = epoch
            && restate
        {
            self.restate(ordinal);
        }
    }

    /// Says again what the epoch at hand declared, so that the segment can be read on its own.
    fn restate(&mut self, epoch: u32) {
        let known: Vec<Assign> = self.state.epochs()[epoch as usize]
            .streams
            .iter()
            .filter_map(|(&stream, state)| {
                let version = state.key.as_ref()?.version;
                Some(Assign {
                    epoch,
                    stream,
                    version,
                    declaration: (*state.declaration).clone(),
                })
            })
            .collect();
        known.iter().for_each(|assign| self.assign(assign));
    }

    fn mark_epoch(&mut self, epoch: u32, refill: bool) {
        let state = &self.state.epochs()[epoch as usize];
        let mark = EpochMark {
            epoch: state.id,
            boot: state.boot,
            ordinal: epoch,
            refill,
        };
        self.hub_frame(Kind::EPOCH, 0, &mark.to_bytes());
        self.restate(epoch);
    }

    fn assign(&mut self, assign: &Assign) {
        let json = serde_json::to_vec(assign).expect("an assignment has string keys and finite numbers only");
        self.hub_frame(Kind::ASSIGN, 0, &json);
    }

    fn hub_frame(&mut self, kind: Kind, count: u32, payload: &[u8]) {
        let sequence = self.state.hub_next();
        let frame = control_frame(
            kind,
            Lane::Hub,
            0,
            sequence,
            self.now.ns,
            count,
            payload,
            self.hub_seed,
        )
        .expect("what the hub writes is far below the limit of frames");
        self.append(&frame, None);
    }

    /// Puts a judged frame at the end and takes its meaning, through the function that replay goes through.
    fn append(&mut self, bytes: &[u8], epoch: Option<u32>) {
        let frame = Frame::parse(bytes).expect("the frame was parsed, or made here");
        let judged = self.state.inspect(&frame, epoch, 0);
        let judged = judged.expect("the frame was judged against this state");
        self.put(Incoming::Copied(bytes), judged);
    }

    fn put(&mut self, incoming: Incoming<'_>, mut judged: Judged) {
        judged.entry.offset =
            u32::try_from(self.segment.end()).expect("segments are sealed long before four gigabytes");
        self.state.take(&judged);
        self.segment.index.push(judged.entry);
        self.segment.unchecked.crc.update(incoming.bytes());
        self.segment.pending.push(incoming);
        if self.segment.index.len() - self.segment.unchecked.first >= CHECKPOINT_FRAMES_MAX {
            self.checkpoint();
        }
    }

    /// Says where the frames since the last checkpoint stand, and what had been synced before.
    fn checkpoint(&mut self) {
        let Unchecked { offset, first, .. } = self.segment.unchecked;
        if first == self.segment.index.len() {
            return;
        }
        self.writes += 1;
        let length = self.segment.end() - offset;
        let crc = std::mem::take(&mut self.segment.unchecked.crc).finalize();
        let from = (offset - self.segment.written) as usize;
        debug_assert_eq!(
            crc,
            self.segment.pending.crc_since(from),
            "every frame was summed up"
        );
        let starts = self.segment.index[first..]
            .iter()
            .map(|e| ((u64::from(e.offset) - offset) / 8) as u32);
        let frames: Vec<u32> = starts.collect();
        let synced_through = self.segment.synced.min(offset);
        let count = frames.len() as u32;
        let point = Checkpoint {
            number: self.writes,
            offset,
            length,
            crc,
            synced_through,
            frames,
        };
        // Not through `append`, which would count it towards the next checkpoint.
        let sequence = self.state.hub_next();
        let bytes = control_frame(
            Kind::CHECKPOINT,
            Lane::Hub,
            0,
            sequence,
            self.now.ns,
            count,
            &point.to_bytes(),
            self.hub_seed,
        )
        .expect("a checkpoint lists few enough frames");
        let frame = Frame::parse(&bytes).expect("it was just made");
        let at = u32::try_from(self.segment.end()).expect("segments are sealed long before four gigabytes");
        let judged = self
            .state
            .apply(&frame, None, at)
            .expect("its sequence is the next one");
        self.segment.index.push(judged.entry);
        self.segment.pending.push(Incoming::Copied(&bytes));
        self.segment.unchecked = Unchecked::from(self.segment.end(), self.segment.index.len());
    }

    fn arrived(&mut self, item: &Item, lane: Lane, sequence: u64) {
        let Some(stamp) = item.stamp else { return };
        if let Some(last) = self.arrivals.last_mut()
            && (last.epoch, last.lane) == (item.handle.epoch, lane as u8)
            && (last.hub_epoch, last.hub_recv_ns, last.dev_send_ns)
                == (stamp.hub.epoch, stamp.hub.ns, stamp.dev_send_ns)
            && sequence > last.sequences.1
        {
            last.sequences.1 = sequence;
            return;
        }
        if let Some(dev_send) = stamp.dev_send_ns {
            let row = Row::Up {
                hub_epoch: stamp.hub.epoch.0,
                dev_send,
                hub_recv: stamp.hub.ns,
            };
            self.heard(item.handle.epoch, &row);
        }
        self.arrivals.push(Arrival {
            epoch: item.handle.epoch,
            lane: lane as u8,
            hub_epoch: stamp.hub.epoch,
            hub_recv_ns: stamp.hub.ns,
            dev_send_ns: stamp.dev_send_ns,
            sequences: (sequence, sequence),
        });
    }
}

fn named(mut refusal: Refusal, frame: &Frame<'_>) -> Refusal {
    refusal.frame = Some(FrameName {
        lane: frame.header().lane as u8,
        sequence: frame.header().sequence,
    });
    refusal
}

/// The refusal of a sequence that was taken with other content.
pub(crate) fn reused(frame: &Frame<'_>, taken_crc: u32) -> Refusal {
    let header = frame.header();
    let message = format!(
        "sequence {} of the {:?} lane was taken with checksum {taken_crc:08x}, this frame has {:08x}; \
         begin a new epoch",
        header.sequence, header.lane, header.crc
    );
    named(Refusal::new(RefusalCode::SequenceReused, message), frame)
}

/// The refusal of a sequence that was passed and never taken.
pub(crate) fn backward(frame: &Frame<'_>) -> Refusal {
    let header = frame.header();
    let message = format!(
        "sequence {} of the {:?} lane was skipped and is below what was taken since; begin a new epoch",
        header.sequence, header.lane
    );
    named(Refusal::new(RefusalCode::SequenceBackward, message), frame)
}
