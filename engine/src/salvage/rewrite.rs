//! Writing a log anew from what is whole of it.
//!
//! Frames of devices go over byte for byte. What the hub wrote is numbered anew, since other frames are lost between:
//! epochs are opened where they are first needed, with all their streams, so that a frame can be read whose own opening
//! or declaration was lost; arrivals, readings of the wall clock and notes keep their words and their time. Within a
//! lane frames stand in order of their sequence: what once filled a hole stands where the hole was.

use super::SalvageError;
use super::inventory::{Inventory, Item, JOURNAL, Position, UNKNOWN_MOMENT, open_segment};
use super::view::View;
use crate::disk::{Disk, File};
use crate::error::StorageError;
use crate::log::{Before, FlushError, Log, Seal, read_frame, segment_name};
use crate::options::Options;
use crate::session::Session;
use crate::state::StreamVersions;
use crate::time::HubInstant;
use marey_format::frame::{Frame, Kind, Lane, control_frame};
use marey_format::payload::Assign;
use marey_format::{EpochId, Seed};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What was written of one log.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// Frames of the device, in the order in which they were written.
    pub items: Vec<Item>,
    /// Frames of the hub that went over.
    pub hub_frames: u64,
    /// Whole frames that nothing can be made of, and why.
    pub refused: Vec<(Item, String)>,
    /// The streams, by epoch and number, those included whose assignment by the hub was lost.
    pub assigns: BTreeMap<(u32, u32), Assign>,
}

/// Writes the log to the same place on another disk.
pub(super) fn rewrite(
    view: &View,
    out: &dyn Disk,
    inventory: &Inventory,
    versions: &mut StreamVersions,
    hub: [u8; 16],
    options: &Options,
) -> Result<Written, SalvageError> {
    let ids = (&inventory.device, &inventory.session, hub);
    let sizes = (options.segment_bytes_first, options.segment_bytes_max);
    let log = Log::new(ids, Default::default(), 1, Before::NONE, sizes);
    let mut writer = Writer {
        out,
        inventory,
        hub_seed: Seed::new(&inventory.device, &inventory.session, &EpochId::HUB),
        log,
        opened: BTreeSet::new(),
        stated: (0, None),
        now: inventory.begun.values().next().copied().unwrap_or(UNKNOWN_MOMENT),
        write_bytes: (options.segment_bytes_max / 16).max(1) as usize,
        written: Written {
            assigns: assigns(inventory, versions),
            ..Written::default()
        },
    };
    let mut source = Reading {
        view,
        inventory,
        files: BTreeMap::new(),
        buffer: Vec::new(),
    };
    for item in in_order(&inventory.items) {
        if let Some(&begun) = inventory.begun.get(&item.at.0) {
            writer.now = begun;
        }
        writer.item(&item, source.frame(&item)?)?;
    }
    writer.flush(Seal::Now)?;
    Ok(writer.written)
}

/// Items in the order of the log; those that stand behind later ones of their lane are taken up before these.
fn in_order(items: &[Item]) -> Vec<Item> {
    let mut backwards: Vec<&Item> = items.iter().collect();
    backwards.sort_unstable_by_key(|item| std::cmp::Reverse(item.key()));
    let mut placed: Vec<(Position, Item)> = Vec::with_capacity(items.len());
    for item in backwards {
        let mut at = item.at;
        if item.epoch.is_some()
            && let Some((next_at, next)) = placed.last()
            && (next.epoch, next.lane) == (item.epoch, item.lane)
        {
            at = at.min(*next_at);
        }
        placed.push((at, *item));
    }
    placed.sort_unstable_by_key(|(at, item)| (*at, item.key(), item.at));
    placed.into_iter().map(|(_, item)| item).collect()
}

/// The streams of each epoch; where the hub's assignment is lost, the declaration has the version that it gives.
fn assigns(inventory: &Inventory, versions: &mut StreamVersions) -> BTreeMap<(u32, u32), Assign> {
    let mut all = inventory.assigns.clone();
    for (&(epoch, stream), declaration) in &inventory.declarations {
        if all.contains_key(&(epoch, stream)) {
            continue;
        }
        if let Some(version) = versions.assign(declaration) {
            let declaration = declaration.clone();
            all.insert(
                (epoch, stream),
                Assign {
                    epoch,
                    stream,
                    version,
                    declaration,
                },
            );
        }
    }
    all
}

/// Reads items where they stand.
struct Reading<'a> {
    view: &'a View,
    inventory: &'a Inventory,
    files: BTreeMap<u32, Arc<dyn File>>,
    buffer: Vec<u8>,
}

impl Reading<'_> {
    fn frame(&mut self, item: &Item) -> Result<Frame<'_>, StorageError> {
        let (session, device) = (&self.inventory.session, &self.inventory.device);
        let (segment, offset) = item.at;
        let read = if segment == JOURNAL {
            Frame::parse(&self.inventory.journal[offset as usize..]).map_err(std::io::Error::other)
        } else {
            open_segment(self.view, &mut self.files, session, device, segment)
                .and_then(|file| read_frame(&*file, offset, item.length, item.crc, &mut self.buffer))
        };
        read.map_err(|error| {
            let path = Session::log_dir(session, device).join(segment_name(segment));
            StorageError::io("reading", self.view.describe(&path), error)
        })
    }
}

struct Writer<'a> {
    out: &'a dyn Disk,
    inventory: &'a Inventory,
    hub_seed: Seed,
    log: Log,
    opened: BTreeSet<u32>,
    /// Segment and epoch whose streams stand in the segment.
    stated: (u32, Option<u32>),
    now: HubInstant,
    write_bytes: usize,
    written: Written,
}

impl Writer<'_> {
    fn item(&mut self, item: &Item, frame: Frame<'_>) -> Result<(), SalvageError> {
        match item.epoch {
            Some(epoch) => self.of_device(item, frame, epoch),
            None => self.of_hub(item, frame),
        }
        if self.log.pending_bytes() >= self.write_bytes {
            self.flush(Seal::WhenDue)?;
        }
        Ok(())
    }

    fn of_device(&mut self, item: &Item, frame: Frame<'_>, epoch: u32) {
        self.open(epoch);
        self.restate(epoch);
        match self.log.adopt(frame.bytes(), Some(epoch), self.now) {
            Ok(true) => self.written.items.push(*item),
            Ok(false) => self
                .written
                .refused
                .push((*item, "its sequence was passed".to_owned())),
            Err(violation) => self.written.refused.push((*item, violation.to_string())),
        }
    }

    fn of_hub(&mut self, item: &Item, frame: Frame<'_>) {
        match item.kind {
            // Their places and their order are others here.
            Kind::CHECKPOINT | Kind::ASSIGN => {}
            Kind::EPOCH => {
                let mark = marey_format::payload::EpochMark::parse(frame.payload());
                if let Some(mark) = mark.filter(|mark| self.inventory.marks.contains_key(&mark.ordinal)) {
                    self.open(mark.ordinal);
                }
            }
            kind => {
                if let Some(epoch) = self.log.state.current() {
                    self.restate(epoch);
                }
                let header = frame.header();
                match self.hub_frame(kind, header.first_time_ns, header.count, frame.payload()) {
                    Ok(()) => self.written.hub_frames += 1,
                    Err(why) => self.written.refused.push((*item, why)),
                }
            }
        }
    }

    /// Opens an epoch where that was not done, and says all its streams.
    fn open(&mut self, epoch: u32) {
        let Some(&mark) = self.inventory.marks.get(&epoch) else {
            return;
        };
        if !self.opened.insert(epoch) {
            return;
        }
        self.log.open_epoch(
            marey_format::payload::EpochMark {
                refill: false,
                ..mark
            },
            self.now,
        );
        self.state(epoch);
    }

    /// Says the streams of the epoch at hand again in a segment that does not have them, so that it can be read alone.
    fn restate(&mut self, epoch: u32) {
        if self.log.state.current() != Some(epoch) {
            // Going back to an epoch says them.
            self.stated = (self.log.end().0, Some(epoch));
        } else if self.stated != (self.log.end().0, Some(epoch)) {
            self.state(epoch);
        }
    }

    fn state(&mut self, epoch: u32) {
        let assigns = self.written.assigns.range((epoch, 0)..=(epoch, u32::MAX));
        let assigns: Vec<Assign> = assigns.map(|(_, assign)| assign.clone()).collect();
        for assign in assigns {
            let json =
                serde_json::to_vec(&assign).expect("an assignment has string keys and finite numbers only");
            // What the hub refuses of its own words, it never wrote: the frame was damaged and its checksum holds.
            if let Err(why) = self.hub_frame(Kind::ASSIGN, self.now.ns, 0, &json) {
                tracing::warn!(
                    epoch,
                    stream = assign.stream,
                    "an assignment can't be taken: {why}"
                );
            }
        }
        self.stated = (self.log.end().0, Some(epoch));
    }

    fn hub_frame(&mut self, kind: Kind, time_ns: i64, count: u32, payload: &[u8]) -> Result<(), String> {
        let sequence = self.log.state.hub_next();
        let frame = control_frame(
            kind,
            Lane::Hub,
            0,
            sequence,
            time_ns,
            count,
            payload,
            self.hub_seed,
        );
        let frame = frame.map_err(|error| error.to_string())?;
        self.log
            .adopt(&frame, None, self.now)
            .map(|_| ())
            .map_err(|violation| violation.to_string())
    }

    fn flush(&mut self, seal: Seal) -> Result<(), StorageError> {
        let Some(flushing) = self.log.begin_flush(seal, self.now, Vec::new) else {
            return Ok(());
        };
        flushing
            .write(self.out)
            .map_err(|(FlushError::Write(error) | FlushError::Sync(error))| error)?;
        self.log.end_flush(&flushing);
        Ok(())
    }
}
