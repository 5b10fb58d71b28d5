//! A hub as a map: what was acknowledged, and the rules by which frames are taken.
//!
//! It is written from `wire.md` and `log.md`, not from the engine, and knows neither journal nor segments.

use super::content::{Made, Meaning, Row};
use bytes::Bytes;
use marey_engine::Outcome;
use marey_format::RefusalCode;
use std::collections::{BTreeMap, BTreeSet};

/// Device and epoch.
pub type Place = (u8, u8);

/// Rows in Parquet of one stream: epoch, sample index, value.
pub type Rows = BTreeSet<(u8, u64, Row)>;

/// All that a hub holds.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub epochs: BTreeMap<Place, Epoch>,
    /// The declarations that were seen, in that order: the version of a stream is its place.
    pub versions: Vec<u8>,
    /// Nothing is taken any more.
    pub closed: bool,
}

/// One life of a device's counters.
#[derive(Clone, Debug, Default)]
pub struct Epoch {
    pub lanes: [Lane; 2],
    pub declared: Option<u8>,
    next_index: u64,
    last_time_ns: i64,
    /// By sample index: the samples that nothing is wrong with.
    pub rows: BTreeMap<u64, Row>,
    /// Samples of all frames that were taken.
    pub samples: u64,
}

/// One lane of an epoch.
#[derive(Clone, Debug, Default)]
pub struct Lane {
    pub taken: BTreeMap<u64, Bytes>,
    pub next: u64,
    /// A frame that was refused: none behind it is taken before it, or an earlier one, comes again.
    pub held: Option<u64>,
}

/// What the hub must say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    Durable,
    Duplicate,
    Held,
    Refused(RefusalCode),
}

impl Expected {
    pub fn is(self, outcome: &Outcome) -> bool {
        match outcome {
            Outcome::Durable => self == Self::Durable,
            Outcome::Duplicate => self == Self::Duplicate,
            Outcome::Held => self == Self::Held,
            Outcome::Refused(refusal) => self == Self::Refused(refusal.code),
        }
    }
}

impl Model {
    /// A frame comes.
    pub fn push(&mut self, place: Place, lane: u8, made: &Made) -> Expected {
        if self.closed {
            return Expected::Refused(RefusalCode::SessionClosed);
        }
        let epoch = self.epochs.entry(place).or_default();
        let at = &mut epoch.lanes[usize::from(lane)];
        match at.held {
            Some(held) if made.sequence > held => return Expected::Held,
            // It comes again, or an earlier one, from which the device goes on.
            _ => at.held = None,
        }
        if made.sequence < at.next {
            return match at.taken.get(&made.sequence) {
                Some(bytes) if *bytes == made.bytes => Expected::Duplicate,
                Some(_) => Expected::Refused(RefusalCode::SequenceReused),
                None => Expected::Refused(RefusalCode::SequenceBackward),
            };
        }
        let refused = match &made.meaning {
            Meaning::Samples { .. } if epoch.declared.is_none() => Some(RefusalCode::UndeclaredStream),
            Meaning::Declare(which) if epoch.declared.is_some_and(|known| known != *which) => {
                Some(RefusalCode::SchemaMismatch)
            }
            _ => None,
        };
        if let Some(code) = refused {
            epoch.hold(lane, made.sequence);
            return Expected::Refused(code);
        }
        self.take(place, lane, made);
        Expected::Durable
    }

    /// A frame is durable.
    pub fn take(&mut self, place: Place, lane: u8, made: &Made) {
        let epoch = self.epochs.entry(place).or_default();
        let at = &mut epoch.lanes[usize::from(lane)];
        at.next = made.sequence + 1;
        at.taken.insert(made.sequence, made.bytes.clone());
        match &made.meaning {
            Meaning::Declare(which) => {
                epoch.declared = Some(*which);
                if !self.versions.contains(which) {
                    self.versions.push(*which);
                }
            }
            Meaning::Samples { first_index, rows } => {
                epoch.samples += rows.len() as u64;
                let (first, last) = (rows[0], rows[rows.len() - 1]);
                if *first_index < epoch.next_index || first.0 < epoch.last_time_ns {
                    // Stored, and kept out of Parquet.
                    return;
                }
                epoch.next_index = first_index + rows.len() as u64;
                epoch.last_time_ns = last.0;
                epoch.rows.extend((*first_index..).zip(rows.iter().copied()));
            }
            Meaning::Other => {}
        }
    }

    /// A batch did not come through as a whole, and must come again.
    pub fn hold(&mut self, place: Place, lane: u8, sequence: u64) {
        self.epochs.entry(place).or_default().hold(lane, sequence);
    }

    /// The version of a stream that an epoch declared, from 1.
    pub fn version(&self, declared: u8) -> Option<u32> {
        let at = self.versions.iter().position(|which| *which == declared)?;
        Some(at as u32 + 1)
    }

    /// The first sequences that are not durable.
    pub fn next(&self, place: Place) -> [u64; 2] {
        self.epochs
            .get(&place)
            .map_or([0; 2], |epoch| [epoch.lanes[0].next, epoch.lanes[1].next])
    }

    /// Every row in Parquet, by version of the stream and device: epoch, sample index, value.
    pub fn rows(&self) -> BTreeMap<(u32, u8), Rows> {
        let mut all: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for ((device, number), epoch) in &self.epochs {
            let Some(version) = epoch.declared.and_then(|which| self.version(which)) else {
                continue;
            };
            let rows = epoch.rows.iter().map(|(index, row)| (*number, *index, *row));
            all.entry((version, *device)).or_default().extend(rows);
        }
        all
    }
}

impl Epoch {
    fn hold(&mut self, lane: u8, sequence: u64) {
        let at = &mut self.lanes[usize::from(lane)];
        if sequence >= at.next {
            at.held = Some(at.held.map_or(sequence, |held| held.min(sequence)));
        }
    }
}
