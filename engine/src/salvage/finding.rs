//! Finding out what of a log is gone, as exactly as what is left tells.
//!
//! Three kinds of knowledge, from sure to vague. An index lists each frame, with its samples: what it lists and nobody
//! can read is lost for *certain*. Sequences of a lane that are missing on both sides of damage were lost there, unless
//! the device itself skipped them. And bytes for which neither accounts are listed as bytes.

use super::inventory::{Inventory, Item, Key, Position};
use super::lost::{Lost, LostBytes, LostFrames, LostSamples};
use super::rewrite::Written;
use crate::log::Fault;
use marey_format::frame::{Kind, Lane};
use marey_format::payload::Assign;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What of a log is lost in its copy. `short`: files that end before where a manifest says that they did.
pub(super) fn find(inventory: &Inventory, written: &Written, short: &[Fault]) -> Lost {
    let mut losses: Vec<Loss<'_>> = inventory
        .losses()
        .map(|fault| Loss::new(inventory, fault))
        .collect();
    losses.extend(short.iter().map(|fault| Loss {
        is_short: true,
        ..Loss::new(inventory, fault)
    }));
    losses.extend(headers(inventory));
    losses.sort_by_key(|loss| loss.from);
    let mut finding = Finding {
        inventory,
        assigns: &written.assigns,
        losses,
        lanes: lanes(inventory),
        lost: Lost::default(),
    };
    let certain = finding.certain(&written.refused);
    let missing = finding.missing(&certain);
    finding.open_ends(&missing);
    finding.samples(&certain, &missing);
    finding.bytes();
    finding.lost
}

/// A fault that may have held frames.
struct Loss<'a> {
    fault: &'a Fault,
    from: Position,
    /// Frames that are known to be gone here, where all that stood here are known.
    listed: Option<u64>,
    /// Sequences that are missing from the lanes here.
    missing: u64,
    indexed: bool,
    /// No frame stands in a header; but what destroyed it may have moved frames over those behind it.
    is_header: bool,
    /// A manifest knows of more frames than there are, wherever they stood.
    is_short: bool,
}

/// Headers that can't be read.
fn headers(inventory: &Inventory) -> impl Iterator<Item = Loss<'_>> {
    let broken = inventory.faults.iter().filter(|fault| {
        let segment = inventory.segments.get(&fault.segment);
        fault.offset == 0 && segment.is_some_and(|segment| segment.troubles.contains(&(0, fault.bytes)))
    });
    broken.map(|fault| Loss {
        is_header: true,
        ..Loss::new(inventory, fault)
    })
}

impl<'a> Loss<'a> {
    fn new(inventory: &Inventory, fault: &'a Fault) -> Self {
        let segment = inventory.segments.get(&fault.segment);
        let (from, to) = (fault.offset, fault.offset + fault.bytes);
        let listed = segment.filter(|_| fault.bytes > 0).and_then(|segment| {
            // Checkpoints that cover the range without a gap.
            let mut reached = from;
            let mut covered = segment.covered.clone();
            covered.sort_unstable();
            for (begin, end) in covered {
                if begin <= reached && end > reached {
                    reached = end;
                }
            }
            let gone = segment
                .listed_gone
                .iter()
                .filter(|&&offset| (from..to).contains(&offset));
            (reached >= to).then(|| gone.count() as u64)
        });
        let indexed = segment.is_some_and(|segment| segment.indexed && segment.file_bytes >= to);
        Self {
            fault,
            from: (fault.segment, from),
            listed,
            missing: 0,
            indexed,
            is_header: false,
            is_short: false,
        }
    }

    /// Whether all that stood here is named.
    fn is_explained(&self) -> bool {
        self.is_header || self.indexed || self.listed.is_some_and(|listed| listed == self.missing)
    }
}

/// Frames of one lane of one epoch, in order of sequence.
type Lanes = BTreeMap<(u32, Lane), Vec<Item>>;

fn lanes(inventory: &Inventory) -> Lanes {
    let mut lanes = Lanes::new();
    for item in &inventory.items {
        let (epoch, lane, _) = item.key();
        lanes.entry((epoch, lane)).or_default().push(*item);
    }
    for &(epoch, lane) in inventory.arrived.keys() {
        lanes.entry((epoch, lane)).or_default();
    }
    lanes
        .values_mut()
        .for_each(|items| items.sort_unstable_by_key(|item| item.sequence));
    lanes
}

/// A frame that an index lists, or that was refused.
struct Gone {
    key: Key,
    samples: Option<(u32, u64, u32)>,
    file: PathBuf,
    offset: u64,
    cause: String,
}

/// Sequences from `first` up to `end`, that one, between two places of the log.
#[derive(Clone, Copy)]
struct Missing {
    epoch: u32,
    lane: Lane,
    first: u64,
    /// None where nothing says how far it goes.
    end: Option<u64>,
    loss: usize,
}

struct Finding<'a> {
    inventory: &'a Inventory,
    /// The streams as the copy has them.
    assigns: &'a BTreeMap<(u32, u32), Assign>,
    losses: Vec<Loss<'a>>,
    lanes: Lanes,
    lost: Lost,
}

const LOG_END: Position = (u32::MAX, u64::MAX);

impl Finding<'_> {
    /// What indices list and nobody can read, and what nothing can be made of.
    fn certain(&mut self, refused: &[(Item, String)]) -> Vec<Gone> {
        let samples = |kind, stream, first, count| (kind == Kind::DATA).then_some((stream, first, count));
        let mut gone: Vec<Gone> = Vec::new();
        for (segment, row) in &self.inventory.gone {
            if row.kind == Kind::CHECKPOINT {
                continue;
            }
            let (offset, end) = (
                u64::from(row.offset),
                u64::from(row.offset) + u64::from(row.length),
            );
            let within = |fault: &&Fault| {
                fault.segment == *segment && fault.offset < end && fault.offset + fault.bytes > offset
            };
            let cause = self
                .inventory
                .faults
                .iter()
                .find(within)
                .map(|fault| fault.why.clone());
            gone.push(Gone {
                key: (row.epoch, row.lane, row.sequence),
                samples: samples(row.kind, row.stream, row.first_index, row.count),
                file: self.file(*segment),
                offset,
                cause: cause
                    .unwrap_or_else(|| "the frame that the index lists does not stand there".to_owned()),
            });
        }
        let twice = "another frame has its name and stands before it";
        let others = self.inventory.others.iter().map(|item| (item, twice));
        let refused = refused.iter().map(|(item, why)| (item, why.as_str()));
        for (item, why) in refused.chain(others) {
            gone.push(Gone {
                key: item.key(),
                samples: samples(item.kind, item.stream, item.first_index, item.count),
                file: self.file(item.at.0),
                offset: item.at.1,
                cause: format!("the frame is whole, and nothing can be made of it: {why}"),
            });
        }
        gone.sort_by_key(|gone| gone.key);
        let mut at = 0;
        while at < gone.len() {
            let (epoch, lane, first) = gone[at].key;
            let run = gone[at..]
                .iter()
                .zip(0..)
                .take_while(|(next, ahead)| {
                    (next.key.0, next.key.1) == (epoch, lane)
                        && next.key.2.checked_sub(first) == Some(*ahead)
                        && next.file == gone[at].file
                        && next.cause == gone[at].cause
                })
                .count();
            let of = &gone[at];
            let place = (of.file.clone(), of.offset, of.cause.clone());
            self.push(
                (epoch, lane),
                (first, Some(first + (run as u64 - 1))),
                true,
                place,
            );
            at += run;
        }
        gone
    }

    /// Sequences that are missing across damage and that no index lists.
    fn missing(&mut self, certain: &[Gone]) -> Vec<Missing> {
        let mut found = Vec::new();
        for (&(epoch, lane), items) in &self.lanes {
            let of_lane = |gone: &Gone| (gone.key.0, gone.key.1);
            let begin = certain.partition_point(|gone| of_lane(gone) < (epoch, lane));
            let known = certain[begin..]
                .iter()
                .take_while(|gone| of_lane(gone) == (epoch, lane));
            let known: Vec<u64> = known.map(|gone| gone.key.2).collect();
            let opened = self.inventory.opened.get(&epoch).copied().unwrap_or((0, 0));
            let (mut next, mut before) = (0, opened);
            for item in items {
                for (first, end) in without(next, item.sequence, &known) {
                    found.push((epoch, lane, first, end, before.min(item.at), before.max(item.at)));
                }
                (next, before) = (item.sequence.saturating_add(1), item.at);
            }
            let arrived = self.inventory.arrived.get(&(epoch, lane)).into_iter().flatten();
            let arrived = arrived.map(|(_, last)| last.saturating_add(1)).max().unwrap_or(0);
            for (first, end) in without(next, arrived, &known) {
                found.push((epoch, lane, first, end, before, LOG_END));
            }
        }
        let mut missing = Vec::new();
        for (epoch, lane, first, end, from, to) in found {
            let loss = self
                .losses
                .iter()
                .position(|loss| from <= loss.from && loss.from <= to)
                .or_else(|| self.losses.iter().position(|loss| loss.is_short));
            match loss {
                Some(loss) => {
                    let loss_of = &mut self.losses[loss];
                    loss_of.missing = loss_of.missing.saturating_add(end - first);
                    missing.push(Missing {
                        epoch,
                        lane,
                        first,
                        end: Some(end),
                        loss,
                    });
                    self.push((epoch, lane), (first, Some(end - 1)), false, self.place(loss));
                }
                // The device skipped them, or the hub wrote that they came and then they were cut off.
                None if to == LOG_END => {
                    let segment = self.inventory.segments.last_key_value();
                    let (file, offset) =
                        segment.map_or_else(Default::default, |(_, s)| (s.path.clone(), s.file_bytes));
                    let cause = "the hub wrote down that they came; the log ends before them".to_owned();
                    self.push(
                        (epoch, lane),
                        (first, Some(end - 1)),
                        false,
                        (file, offset, cause),
                    );
                }
                None => {}
            }
        }
        missing
    }

    /// Damage behind which nothing more of a lane comes may have held any number of its frames.
    fn open_ends(&mut self, missing: &[Missing]) {
        let mut open: BTreeMap<(u32, Lane), usize> = BTreeMap::new();
        for (at, loss) in self
            .losses
            .iter()
            .enumerate()
            .filter(|(_, loss)| !loss.is_explained())
        {
            let Some(epoch) = self.epoch_at(loss.from) else {
                continue;
            };
            for lane in Lane::DEVICES {
                let items = self.lanes.get(&(epoch, lane)).map_or(&[][..], |items| items);
                let goes_on = items.last().is_some_and(|last| last.at > loss.from)
                    || missing
                        .iter()
                        .any(|m| (m.epoch, m.lane) == (epoch, lane) && m.loss >= at);
                if !goes_on {
                    open.entry((epoch, lane)).or_insert(at);
                }
            }
        }
        for ((epoch, lane), loss) in open {
            let next = self
                .lanes
                .get(&(epoch, lane))
                .and_then(|items| items.last())
                .map_or(0, |last| last.sequence.saturating_add(1));
            self.push((epoch, lane), (next, None), false, self.place(loss));
        }
    }

    /// The epoch that device frames at a place belonged to.
    fn epoch_at(&self, at: Position) -> Option<u32> {
        let items = &self.inventory.items[..self.inventory.items.partition_point(|item| item.at < at)];
        let of_item = |item: &Item| {
            item.epoch
                .or_else(|| self.inventory.entered.get(&item.at).copied())
        };
        let steers = |item: &&Item| item.epoch.is_some() || item.kind == Kind::EPOCH;
        items.iter().rev().find(steers).and_then(of_item)
    }

    fn samples(&mut self, certain: &[Gone], missing: &[Missing]) {
        for gone in certain {
            let Some((stream, first, count)) = gone.samples.filter(|samples| samples.2 > 0) else {
                continue;
            };
            let (epoch, last) = (gone.key.0, first.saturating_add(u64::from(count) - 1));
            let place = (gone.file.clone(), gone.offset, gone.cause.clone());
            self.push_samples((epoch, stream), (first, Some(last)), true, place);
        }
        let open = self
            .lost
            .frames
            .iter()
            .filter(|lost| lost.last.is_none() && lost.lane == "data");
        let open: Vec<Missing> = open
            .filter_map(|lost| {
                let loss = self
                    .losses
                    .iter()
                    .position(|loss| (loss.fault.offset, &loss.fault.path) == (lost.offset, &lost.file))?;
                Some(Missing {
                    epoch: lost.epoch?,
                    lane: Lane::Data,
                    first: lost.first,
                    end: None,
                    loss,
                })
            })
            .collect();
        let data = missing
            .iter()
            .chain(&open)
            .filter(|missing| missing.lane == Lane::Data);
        let mut found = Vec::new();
        for gap in data {
            for stream in self.streams(gap.epoch) {
                if let Some(range) = self.samples_in(gap, stream, certain) {
                    found.push(((gap.epoch, stream), range, self.place(gap.loss)));
                }
            }
        }
        for (of, range, place) in found {
            self.push_samples(of, range, false, place);
        }
    }

    /// Numbers of the streams of an epoch, as far as anything names them.
    fn streams(&self, epoch: u32) -> Vec<u32> {
        let data = self
            .lanes
            .get(&(epoch, Lane::Data))
            .into_iter()
            .flatten()
            .map(|item| item.stream);
        let assigned = self
            .inventory
            .assigns
            .keys()
            .chain(self.inventory.declarations.keys())
            .filter(|(of, _)| *of == epoch)
            .map(|(_, stream)| *stream);
        let mut streams: Vec<u32> = data.chain(assigned).collect();
        streams.sort_unstable();
        streams.dedup();
        streams
    }

    /// Indices of a stream that are missing beside a gap in the sequences.
    fn samples_in(&self, gap: &Missing, stream: u32, certain: &[Gone]) -> Option<(u64, Option<u64>)> {
        let items = self
            .lanes
            .get(&(gap.epoch, Lane::Data))
            .map_or(&[][..], |items| items);
        let of_stream = |item: &&Item| item.stream == stream;
        let before = items
            .iter()
            .rev()
            .filter(of_stream)
            .find(|item| item.sequence < gap.first);
        let after = gap
            .end
            .and_then(|end| items.iter().filter(of_stream).find(|item| item.sequence >= end));
        let end = self.inventory.ends.get(&(gap.epoch, stream));
        let ends_at = |first: u64, count: u32| first.saturating_add(u64::from(count));
        let mut from = match (before, end) {
            (Some(before), _) => ends_at(before.first_index, before.count),
            (None, Some(end)) => end.next_index.saturating_sub(end.captured),
            (None, None) => 0,
        };
        let to = after
            .map(|after| after.first_index)
            .or(end.map(|end| end.next_index));
        // What an index lists is told apart.
        let listed = certain
            .iter()
            .filter(|gone| gone.key.0 == gap.epoch && gone.key.2 < gap.first);
        for (of, first, count) in listed.filter_map(|gone| gone.samples) {
            if of == stream && to.is_none_or(|to| first < to) {
                from = from.max(ends_at(first, count));
            }
        }
        match to {
            Some(to) => (from < to).then(|| (from, Some(to - 1))),
            None => Some((from, None)),
        }
    }

    /// Bytes that nothing accounts for.
    fn bytes(&mut self) {
        for loss in self.losses.iter().filter(|loss| !loss.is_explained()) {
            let (file, offset, cause) = (loss.fault.path.clone(), loss.fault.offset, loss.fault.why.clone());
            self.lost.bytes.push(LostBytes {
                file,
                offset,
                bytes: loss.fault.bytes,
                cause,
            });
        }
    }

    fn file(&self, segment: u32) -> PathBuf {
        let known = self.inventory.segments.get(&segment);
        known.map_or_else(|| PathBuf::from("journal"), |segment| segment.path.clone())
    }

    fn place(&self, loss: usize) -> (PathBuf, u64, String) {
        let fault = self.losses[loss].fault;
        (fault.path.clone(), fault.offset, fault.why.clone())
    }

    fn push(
        &mut self,
        of: (u32, Lane),
        range: (u64, Option<u64>),
        certain: bool,
        place: (PathBuf, u64, String),
    ) {
        let (file, offset, cause) = place;
        let epoch = (of.1 != Lane::Hub).then_some(of.0);
        self.lost.frames.push(LostFrames {
            session: self.inventory.session.clone(),
            device: self.inventory.device.clone(),
            epoch,
            epoch_id: epoch
                .and_then(|epoch| self.inventory.marks.get(&epoch))
                .map(|mark| mark.epoch),
            lane: match of.1 {
                Lane::Data => "data",
                Lane::Live => "live",
                Lane::Hub => "hub",
            },
            first: range.0,
            last: range.1,
            certain,
            file,
            offset,
            cause,
        });
    }

    fn push_samples(
        &mut self,
        of: (u32, u32),
        range: (u64, Option<u64>),
        certain: bool,
        place: (PathBuf, u64, String),
    ) {
        let named = self
            .assigns
            .get(&of)
            .map(|assign| assign.stream_key().to_string());
        let stream = named.unwrap_or_else(|| format!("#{}", of.1));
        let (file, offset, cause) = place;
        // What adjoins is one range.
        if let Some(last) = self.lost.samples.last_mut()
            && (&last.stream, last.epoch, last.certain) == (&stream, of.0, certain)
            && (&last.file, &last.cause) == (&file, &cause)
            && last.last.is_some_and(|last| last.saturating_add(1) == range.0)
        {
            last.last = range.1;
            return;
        }
        self.lost.samples.push(LostSamples {
            session: self.inventory.session.clone(),
            device: self.inventory.device.clone(),
            stream,
            epoch: of.0,
            first: range.0,
            last: range.1,
            certain,
            file,
            offset,
            cause,
        });
    }
}

/// The parts of `first..end` without the sequences that are known, which are sorted.
fn without(first: u64, end: u64, known: &[u64]) -> Vec<(u64, u64)> {
    let mut left = Vec::new();
    let mut from = first;
    let begin = known.partition_point(|&sequence| sequence < first);
    for &sequence in known[begin..].iter().take_while(|&&sequence| sequence < end) {
        if from < sequence {
            left.push((from, sequence));
        }
        from = sequence.saturating_add(1);
    }
    if from < end {
        left.push((from, end));
    }
    left
}
