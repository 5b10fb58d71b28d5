//! One log, taken stock of: every whole frame by its place, what it rests on, and what is broken.
//!
//! Reads the log as every reader does, then looks once more at places where a frame is known to begin, by an index or
//! by a checkpoint, and where none was delivered: a frame whose epoch was named only later in the log is whole all the
//! same, and so is one whose epoch nothing names any more (`seeds`). No other place is searched: a payload may hold
//! anything.
//!
//! Invariants: a frame is in the list once, by (epoch, lane, sequence), the first that the log has; its checksum holds
//! under its epoch's seed.

use super::seeds;
use super::view::View;
use crate::disk::{Disk, File, OpenMode};
use crate::error::StorageError;
use crate::log::{Fault, FaultKind, JournalFrames, LogReader, segment_name};
use crate::session::Session;
use crate::time::HubInstant;
use marey_format::frame::{Frame, Kind, Lane};
use marey_format::log::IndexEntry;
use marey_format::payload::{Arrival, Assign, Checkpoint, EndOfStream, EpochMark, WallReading};
use marey_format::{BootId, Declaration, DeviceId, EpochId, HubEpoch, Seed, SessionId, limits};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Segment, then offset; frames of the journal come after all segments.
pub(super) type Position = (u32, u64);

/// Stands for a segment where frames of the journal are meant; their offset is that in [`Inventory::journal`].
pub(super) const JOURNAL: u32 = u32::MAX;

/// One whole frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item {
    pub at: Position,
    pub length: u32,
    pub crc: u32,
    pub kind: Kind,
    pub lane: Lane,
    /// The epoch's ordinal; none for frames of the hub.
    pub epoch: Option<u32>,
    pub sequence: u64,
    pub stream: u32,
    pub count: u32,
    pub first_index: u64,
}

const _: () = assert!(size_of::<Item>() <= 80, "a long log has many frames");

impl Item {
    fn of(at: Position, epoch: Option<u32>, frame: &Frame<'_>) -> Self {
        let header = frame.header();
        Self {
            at,
            length: header.length,
            crc: header.crc,
            kind: header.kind,
            lane: header.lane,
            epoch,
            sequence: header.sequence,
            stream: header.stream,
            count: header.count,
            first_index: header.first_index,
        }
    }

    /// What names it within its log.
    pub fn key(&self) -> Key {
        (self.epoch.unwrap_or(u32::MAX), self.lane, self.sequence)
    }
}

/// Epoch (`u32::MAX` for the hub's), lane, sequence.
pub(super) type Key = (u32, Lane, u64);

/// All that is whole in one log.
#[derive(Debug)]
pub(super) struct Inventory {
    pub session: SessionId,
    pub device: DeviceId,
    /// In the order of the log.
    pub items: Vec<Item>,
    /// What opened each epoch, by ordinal.
    pub marks: BTreeMap<u32, EpochMark>,
    /// Where each epoch's first epoch frame stands.
    pub opened: BTreeMap<u32, Position>,
    /// Which epoch each epoch frame goes to.
    pub entered: BTreeMap<Position, u32>,
    /// Epochs whose id is lost, with what stands in for it.
    pub stand_ins: Vec<(u32, EpochId)>,
    /// By epoch and stream number.
    pub assigns: BTreeMap<(u32, u32), Assign>,
    pub declarations: BTreeMap<(u32, u32), Declaration>,
    pub ends: BTreeMap<(u32, u32), EndOfStream>,
    /// Sequences that the hub wrote down as arrived, by epoch and lane: first and last.
    pub arrived: BTreeMap<(u32, Lane), Vec<(u64, u64)>>,
    /// The first reading of the wall clock.
    pub wall: Option<WallReading>,
    /// When and in which life of the hub's clock each segment was begun.
    pub begun: BTreeMap<u32, HubInstant>,
    /// Of the first segment whose header is whole.
    pub hub: Option<[u8; 16]>,
    pub segments: BTreeMap<u32, SegmentFound>,
    pub faults: Vec<Fault>,
    /// Those of them that only the journal proves to be damage.
    pub by_journal: Vec<Fault>,
    /// Rows of whole indices whose frame is gone.
    pub gone: Vec<(u32, IndexEntry)>,
    /// Whole frames of the device that bear the name of an item, and say something else.
    pub others: Vec<Item>,
    /// Bytes of the journal's frames, one behind the other.
    pub journal: Vec<u8>,
    pub from_journal: u64,
}

/// A segment that is there.
#[derive(Debug)]
pub(super) struct SegmentFound {
    pub path: PathBuf,
    pub file_bytes: u64,
    /// The index is whole: it names every frame.
    pub indexed: bool,
    /// Where the data end, as far as footer or successor say.
    pub data_bytes: Option<u64>,
    /// Offset and length of what is broken of header and footer.
    pub troubles: Vec<(u64, u64)>,
    /// Without an index: ranges for which a checkpoint lists where frames begin, and those that are gone.
    pub covered: Vec<(u64, u64)>,
    pub listed_gone: Vec<u64>,
}

impl Inventory {
    /// Takes stock of a log and of what the journal has for it.
    pub fn take(
        view: &View,
        session: &SessionId,
        device: &DeviceId,
        journal: Vec<JournalFrames>,
    ) -> Result<Self, StorageError> {
        let mut taking = Taking::new(session, device);
        let mut reader = LogReader::open(view, session, device)?;
        for summary in reader.segments() {
            taking.segment(view, summary);
        }
        while let Some(found) = reader.next()? {
            taking.take((found.segment, found.offset), found.epoch, &found.frame);
        }
        let indices: Vec<(u32, Vec<IndexEntry>)> = reader
            .segments()
            .iter()
            .filter_map(|s| {
                let end = s.cut_at.or(s.sealed_bytes).unwrap_or(u64::MAX);
                let rows = s.index.as_ref()?.entries();
                let rows = rows.filter(|row| u64::from(row.offset) < end);
                Some((s.segment, rows.collect()))
            })
            .collect();
        taking.inventory.faults.extend(reader.into_faults());
        // The journal may name epochs that the log does not name any more.
        let journal = taking.journal_frames(&journal, &view.describe(Path::new("journal")));
        let mut again = Again {
            view,
            files: BTreeMap::new(),
            buffer: Vec::new(),
        };
        taking.prove_by_journal(view);
        let torn = taking.look_behind_torn(&mut again)?;
        taking.look_again(&mut again, indices)?;
        taking.look_where_listed(&mut again)?;
        taking.judge_torn(torn);
        for (at, length, epoch) in journal {
            let bytes = std::mem::take(&mut taking.inventory.journal);
            if let Ok(frame) = Frame::parse(&bytes[at..at + length]) {
                let taken = taking.take((JOURNAL, at as u64), epoch, &frame);
                taking.inventory.from_journal += u64::from(taken);
            }
            taking.inventory.journal = bytes;
        }
        let mut inventory = taking.inventory;
        inventory.items.sort_unstable_by_key(|item| item.at);
        inventory
            .faults
            .sort_by_key(|fault| (fault.segment, fault.offset));
        Ok(inventory)
    }

    /// The faults that may have held frames: not those of a header or a footer, and no torn tails.
    pub fn losses(&self) -> impl Iterator<Item = &Fault> {
        self.faults.iter().filter(|fault| {
            let Some(segment) = self.segments.get(&fault.segment) else {
                return fault.kind == FaultKind::Damage;
            };
            let of_form = segment.troubles.contains(&(fault.offset, fault.bytes));
            let footer = segment.data_bytes.is_some_and(|end| fault.offset >= end);
            fault.kind == FaultKind::Damage && !of_form && !footer
        })
    }
}

pub(super) struct Taking {
    pub(super) inventory: Inventory,
    /// Of each item its checksum.
    keys: HashMap<Key, u32>,
    hub_seed: Seed,
    seeds: BTreeMap<u32, Seed>,
    /// Places of checkpoints in segments without an index.
    pub(super) checkpoints: Vec<(u32, u64, Checkpoint)>,
    /// Where the journal's frames belong: what is not there is not lost.
    pub(super) homes: BTreeSet<Position>,
}

impl Taking {
    fn new(session: &SessionId, device: &DeviceId) -> Self {
        let inventory = Inventory {
            session: session.clone(),
            device: device.clone(),
            items: Vec::new(),
            marks: BTreeMap::new(),
            opened: BTreeMap::new(),
            entered: BTreeMap::new(),
            stand_ins: Vec::new(),
            assigns: BTreeMap::new(),
            declarations: BTreeMap::new(),
            ends: BTreeMap::new(),
            arrived: BTreeMap::new(),
            wall: None,
            begun: BTreeMap::new(),
            hub: None,
            segments: BTreeMap::new(),
            faults: Vec::new(),
            by_journal: Vec::new(),
            gone: Vec::new(),
            others: Vec::new(),
            journal: Vec::new(),
            from_journal: 0,
        };
        Self {
            inventory,
            keys: HashMap::new(),
            hub_seed: Seed::new(device, session, &EpochId::HUB),
            seeds: BTreeMap::new(),
            checkpoints: Vec::new(),
            homes: BTreeSet::new(),
        }
    }

    fn segment(&mut self, view: &View, summary: &crate::log::SegmentSummary) {
        let found = SegmentFound {
            path: view.describe(&summary.path),
            file_bytes: summary.file_bytes,
            indexed: summary.index.is_some(),
            data_bytes: summary.cut_at.or(summary.sealed_bytes),
            troubles: summary
                .troubles
                .iter()
                .map(|(offset, bytes, _)| (*offset, *bytes))
                .collect(),
            covered: Vec::new(),
            listed_gone: Vec::new(),
        };
        self.inventory.segments.insert(summary.segment, found);
        let Some(header) = &summary.header else { return };
        self.inventory.hub.get_or_insert(header.hub);
        let begun = HubInstant {
            epoch: header.hub_epoch,
            ns: header.created_hub_ns,
        };
        self.inventory.begun.insert(summary.segment, begun);
        if let Some((epoch, ordinal)) = header.epoch {
            self.mark(EpochMark {
                epoch,
                boot: BootId::UNKNOWN,
                ordinal,
                refill: false,
            });
        }
    }

    fn mark(&mut self, mark: EpochMark) {
        if mark.ordinal >= limits::EPOCHS_PER_LOG_MAX {
            return;
        }
        let seed = Seed::new(&self.inventory.device, &self.inventory.session, &mark.epoch);
        self.seeds.entry(mark.ordinal).or_insert(seed);
        let known = self.inventory.marks.entry(mark.ordinal).or_insert(mark);
        // A header names the epoch and not the boot.
        if known.epoch == mark.epoch && !known.boot.is_known() {
            known.boot = mark.boot;
        }
    }

    /// Takes a frame whose checksum holds; false if one of its name was taken before.
    fn take(&mut self, at: Position, epoch: Option<u32>, frame: &Frame<'_>) -> bool {
        let item = Item::of(at, epoch, frame);
        match self.keys.entry(item.key()) {
            Entry::Occupied(taken) => {
                // A frame may be copied and stays what it is. What the hub says again is its own affair.
                if item.epoch.is_some() && *taken.get() != item.crc {
                    self.inventory.others.push(item);
                }
                return false;
            }
            Entry::Vacant(free) => free.insert(item.crc),
        };
        self.inventory.items.push(item);
        self.learn(&item, frame);
        true
    }

    fn learn(&mut self, item: &Item, frame: &Frame<'_>) {
        let inventory = &mut self.inventory;
        match (item.kind, item.epoch) {
            (Kind::EPOCH, None) => {
                if let Some(mark) = EpochMark::parse(frame.payload()) {
                    inventory.opened.entry(mark.ordinal).or_insert(item.at);
                    inventory.entered.insert(item.at, mark.ordinal);
                    self.mark(mark);
                }
            }
            (Kind::ASSIGN, None) => {
                if let Ok(assign) = frame.json::<Assign>("assign") {
                    inventory
                        .assigns
                        .entry((assign.epoch, assign.stream))
                        .or_insert(assign);
                }
            }
            (Kind::ARRIVAL, None) => {
                for row in Arrival::rows(frame.payload()).into_iter().flatten() {
                    let Some(lane) = Lane::from_byte(row.lane).filter(|lane| *lane != Lane::Hub) else {
                        continue;
                    };
                    inventory
                        .arrived
                        .entry((row.epoch, lane))
                        .or_default()
                        .push(row.sequences);
                }
            }
            (Kind::HUB_EPOCH, None) => {
                let reading = frame.json::<WallReading>("reading").ok();
                inventory.wall = inventory.wall.or(reading);
            }
            (Kind::CHECKPOINT, None) => {
                let indexed = inventory
                    .segments
                    .get(&item.at.0)
                    .is_none_or(|segment| segment.indexed);
                if let Some(point) = Checkpoint::parse(frame.payload()).filter(|_| !indexed)
                    && point.offset.checked_add(point.length) == Some(item.at.1)
                {
                    self.checkpoints.push((item.at.0, item.at.1, point));
                }
            }
            (Kind::DECLARE, Some(epoch)) => {
                if let Ok(declaration) = Declaration::from_json(frame.payload()) {
                    inventory
                        .declarations
                        .entry((epoch, item.stream))
                        .or_insert(declaration);
                }
            }
            (Kind::END, Some(epoch)) => {
                if let Ok(end) = frame.json::<EndOfStream>("end") {
                    inventory.ends.insert((epoch, end.stream), end);
                }
            }
            _ => {}
        }
    }

    /// The epoch under whose seed the frame is whole: `Some(None)` for frames of the hub.
    pub(super) fn owner(&self, frame: &Frame<'_>, epoch: Option<u32>) -> Option<Option<u32>> {
        if frame.header().lane == Lane::Hub {
            return frame.verify(self.hub_seed).is_ok().then_some(None);
        }
        let holds = |seed: &Seed| frame.verify(*seed).is_ok();
        match epoch {
            Some(epoch) => self.seeds.get(&epoch).is_some_and(holds).then_some(Some(epoch)),
            None => self
                .seeds
                .iter()
                .rev()
                .find(|(_, seed)| holds(seed))
                .map(|(&ordinal, _)| Some(ordinal)),
        }
    }

    /// The journal's frames: where each one stands in the joined bytes, its length, its epoch.
    fn journal_frames(&mut self, pieces: &[JournalFrames], path: &Path) -> Vec<(usize, usize, Option<u32>)> {
        let mut frames = Vec::new();
        for piece in pieces {
            let start = self.inventory.journal.len();
            self.inventory.journal.extend_from_slice(&piece.bytes);
            let mut at = 0;
            while at < piece.bytes.len() {
                let frame = match Frame::parse(&piece.bytes[at..]) {
                    Ok(frame) => frame,
                    Err(error) => {
                        self.journal_fault(path, piece, at, piece.bytes.len() - at, error.to_string());
                        break;
                    }
                };
                let length = frame.bytes().len();
                match self.owner(&frame, None) {
                    Some(epoch) => {
                        if let (Kind::EPOCH, Some(mark)) =
                            (frame.header().kind, EpochMark::parse(frame.payload()))
                        {
                            self.mark(mark);
                        }
                        frames.push((start + at, length, epoch));
                        self.homes
                            .insert((piece.segment, piece.offset.saturating_add(at as u64)));
                    }
                    None => self.journal_fault(
                        path,
                        piece,
                        at,
                        length,
                        "a frame of no epoch that is known".to_owned(),
                    ),
                }
                at += length;
            }
        }
        frames
    }

    fn journal_fault(&mut self, path: &Path, piece: &JournalFrames, at: usize, bytes: usize, why: String) {
        let why = format!(
            "for segment {} at offset {}: {why}",
            piece.segment,
            piece.offset + at as u64
        );
        let (kind, path, bytes) = (FaultKind::Damage, path.to_owned(), bytes as u64);
        self.inventory.faults.push(Fault {
            kind,
            path,
            segment: JOURNAL,
            offset: at as u64,
            bytes,
            why,
        });
    }

    /// Every row of a whole index whose frame was not delivered.
    fn look_again(
        &mut self,
        again: &mut Again<'_>,
        indices: Vec<(u32, Vec<IndexEntry>)>,
    ) -> Result<(), StorageError> {
        self.find_seeds(again, &indices)?;
        for (segment, rows) in indices {
            for row in rows {
                let (at, epoch) = (
                    (segment, u64::from(row.offset)),
                    (row.epoch != u32::MAX).then_some(row.epoch),
                );
                // By name, not by place: a write that went astray may have put another whole frame here.
                if self.keys.contains_key(&(row.epoch, row.lane, row.sequence)) {
                    continue;
                }
                let bytes = again.read(self, at, row.length as usize)?;
                let whole = Frame::parse(&bytes).ok().filter(|frame| {
                    let header = frame.header();
                    let same =
                        (header.crc, header.lane, header.sequence) == (row.crc, row.lane, row.sequence);
                    same && self.owner(frame, epoch) == Some(epoch)
                });
                match whole {
                    Some(frame) => {
                        self.take(at, epoch, &frame);
                    }
                    None => self.inventory.gone.push((segment, row)),
                }
            }
        }
        Ok(())
    }

    /// The seeds of epochs that nothing names any more, from frames that indices list.
    fn find_seeds(
        &mut self,
        again: &mut Again<'_>,
        indices: &[(u32, Vec<IndexEntry>)],
    ) -> Result<(), StorageError> {
        let mut found: BTreeMap<u32, BTreeMap<u32, u64>> = BTreeMap::new();
        let rows = indices
            .iter()
            .flat_map(|(segment, rows)| rows.iter().map(move |row| (*segment, row)));
        for (segment, row) in rows {
            if row.epoch >= limits::EPOCHS_PER_LOG_MAX || self.seeds.contains_key(&row.epoch) {
                continue;
            }
            let bytes = again.read(self, (segment, u64::from(row.offset)), row.length as usize)?;
            let Ok(frame) = Frame::parse(&bytes) else { continue };
            let header = frame.header();
            if (header.crc, header.lane, header.sequence) == (row.crc, row.lane, row.sequence) {
                let seed = seeds::seed_of(&frame.bytes()[8..], header.crc);
                *found.entry(row.epoch).or_default().entry(seed.0).or_default() += 1;
            }
        }
        for (ordinal, agreeing) in found {
            let most = agreeing.into_iter().max_by_key(|(_, frames)| *frames);
            if let Some((seed, _)) = most.filter(|(_, frames)| *frames >= 2) {
                let (device, session) = (&self.inventory.device, &self.inventory.session);
                let epoch = seeds::stand_in(device, session, ordinal, Seed(seed));
                self.inventory.stand_ins.push((ordinal, epoch));
                self.mark(EpochMark {
                    epoch,
                    boot: BootId::UNKNOWN,
                    ordinal,
                    refill: false,
                });
            }
        }
        Ok(())
    }

    /// A frame that was taken stands here once more, where a frame of its own stood: a write that went astray. Which of
    /// the two places it was meant for nothing tells.
    fn stands_twice(&mut self, again: &Item) {
        let taken = self.inventory.items.iter().find(|item| item.key() == again.key());
        let places: Vec<Position> = taken
            .map(|taken| taken.at)
            .into_iter()
            .chain([again.at])
            .collect();
        for (segment, offset) in places {
            let Some(found) = self.inventory.segments.get(&segment) else {
                continue;
            };
            let why = format!(
                "frame {} of lane {:?} stands here and elsewhere: a write that went astray",
                again.sequence, again.lane
            );
            self.inventory.faults.push(Fault {
                kind: FaultKind::Damage,
                path: found.path.clone(),
                segment,
                offset,
                bytes: u64::from(again.length),
                why,
            });
        }
    }

    /// Every place that a checkpoint lists in a segment without an index, and where no frame was delivered.
    fn look_where_listed(&mut self, again: &mut Again<'_>) -> Result<(), StorageError> {
        let delivered: BTreeSet<Position> = self.inventory.items.iter().map(|item| item.at).collect();
        for (segment, end, point) in std::mem::take(&mut self.checkpoints) {
            let mut gone = Vec::new();
            for offset in point
                .frames
                .iter()
                .map(|&frame| point.offset + 8 * u64::from(frame))
            {
                let at = (segment, offset);
                // A place inside of a frame that was delivered is none.
                let before = delivered.range(..=at).next_back().copied();
                if offset >= end || before == Some(at) {
                    continue;
                }
                let bytes = again.read(self, at, (end - offset) as usize)?;
                let whole = Frame::parse(&bytes)
                    .ok()
                    .and_then(|frame| Some((self.owner(&frame, None)?, frame)));
                match whole {
                    Some((epoch, frame)) => {
                        if !self.take(at, epoch, &frame) {
                            let item = Item::of(at, epoch, &frame);
                            self.stands_twice(&item);
                            gone.push(offset);
                        }
                    }
                    // The journal has it, or what stands here is one that was taken elsewhere.
                    None if self.homes.contains(&at) => {}
                    None => gone.push(offset),
                }
            }
            if let Some(found) = self.inventory.segments.get_mut(&segment) {
                found.covered.push((point.offset, end));
                found.listed_gone.extend(gone);
            }
        }
        Ok(())
    }
}

/// Reads single frames, one segment after the other.
pub(super) struct Again<'v> {
    view: &'v View,
    files: BTreeMap<u32, Arc<dyn File>>,
    buffer: Vec<u8>,
}

impl Again<'_> {
    pub(super) fn read(
        &mut self,
        taking: &Taking,
        at: Position,
        length: usize,
    ) -> Result<Vec<u8>, StorageError> {
        let (session, device) = (&taking.inventory.session, &taking.inventory.device);
        // An index that was forged may say any number.
        let length = length.min(limits::FRAME_BYTES_MAX);
        let read = |this: &mut Self| -> io::Result<usize> {
            let file = open_segment(this.view, &mut this.files, session, device, at.0)?;
            this.buffer.resize(length, 0);
            file.read_at(at.1, &mut this.buffer)
        };
        let read = read(self).map_err(|error| {
            let path = Session::log_dir(session, device).join(segment_name(at.0));
            StorageError::io("reading", self.view.describe(&path), error)
        })?;
        Ok(self.buffer[..read].to_vec())
    }
}

/// A segment's file, of which one is kept open.
pub(super) fn open_segment(
    view: &View,
    files: &mut BTreeMap<u32, Arc<dyn File>>,
    session: &SessionId,
    device: &DeviceId,
    segment: u32,
) -> io::Result<Arc<dyn File>> {
    if let Some(file) = files.get(&segment) {
        return Ok(file.clone());
    }
    files.clear();
    let file = view.open(
        &Session::log_dir(session, device).join(segment_name(segment)),
        OpenMode::Read,
    )?;
    files.insert(segment, file.clone());
    Ok(file)
}

/// The moment that stands for a segment whose header can't be read.
pub(super) const UNKNOWN_MOMENT: HubInstant = HubInstant {
    epoch: HubEpoch(0),
    ns: 0,
};
