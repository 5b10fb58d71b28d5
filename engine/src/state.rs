//! What the frames of one log mean: the one apply function that live intake, replay and compaction share.
//!
//! [`LogState::inspect`] judges a frame against what was taken before it and changes nothing; [`LogState::take`] takes
//! what was judged. Frames of a sealed segment are taken from its index alone, through the same function: an index
//! entry holds all that a data frame changes.

mod kept;
mod versions;

pub(crate) use kept::KeptState;
pub use versions::StreamVersions;

use marey_format::frame::{Columns, Frame, FrameError, Kind, Lane};
use marey_format::log::IndexEntry;
use marey_format::payload::{
    Arrival, Assign, Checkpoint, EndOfStream, EpochMark, Event, StreamKey, WallReading,
};
use marey_format::types::DeclarationError;
use marey_format::{BootId, Declaration, EpochId, Refusal, RefusalCode, limits};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// All that a log's frames add up to.
#[derive(Clone, Debug, Default)]
pub struct LogState {
    epochs: Vec<EpochState>,
    by_id: HashMap<EpochId, u32>,
    current: Option<u32>,
    hub_next: u64,
    /// Frames of devices that were taken.
    pub frames: u64,
    /// Samples in them.
    pub samples: u64,
    /// The newest reading of the wall clock in the log.
    pub wall: Option<WallReading>,
    /// Newest arrival, in hub time.
    pub last_arrival_ns: Option<i64>,
}

/// One life of the device's clock and counters.
#[derive(Clone, Debug)]
pub struct EpochState {
    pub id: EpochId,
    pub boot: BootId,
    pub ordinal: u32,
    /// For the data and the live lane, the sequence after the highest taken.
    pub next: [u64; 2],
    /// For each lane, half-open ranges that damage took, and that the device may send again.
    pub holes: [Vec<(u64, u64)>; 2],
    /// By the stream's number.
    pub streams: BTreeMap<u32, StreamState>,
}

/// One stream of one epoch.
#[derive(Clone, Debug)]
pub struct StreamState {
    pub declaration: Arc<Declaration>,
    /// `NAME@N`; none until the hub assigned it.
    pub key: Option<StreamKey>,
    /// Sample index after the last one taken.
    pub next_index: u64,
    /// Device time of the last sample taken.
    pub last_time_ns: i64,
    pub frames: u64,
    pub samples: u64,
    /// What the device said at its end.
    pub end: Option<EndOfStream>,
}

/// What a frame means, once it was judged.
#[derive(Clone, Debug)]
pub enum Meaning {
    /// Samples; kept out of Parquet if a rule of the stream is broken.
    Data(Option<Quarantine>),
    Declare(Declaration),
    Event(Event),
    End(EndOfStream),
    Epoch(EpochMark),
    Assign(Assign),
    Wall(WallReading),
    /// Newest hub time of the rows.
    Arrival(Option<i64>),
    /// Nothing that changes the state: probes, device state, checkpoints, notes, kinds of later versions.
    Other,
}

/// Why the samples of a stored frame are kept out of Parquet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Quarantine {
    /// The frame's first device time lies before the last one of the stream and epoch.
    TimeBackward,
    /// The frame's first sample index lies below the next one of the stream and epoch.
    IndexBackward,
}

impl Quarantine {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TimeBackward => "device time goes back",
            Self::IndexBackward => "sample index goes back",
        }
    }
}

/// Why a frame is not taken.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Violation {
    /// Below the next sequence of its lane, and not in a hole: the same frame again, or another one with its number.
    #[error("sequence {found} of the {lane:?} lane was passed, the next one is {next}")]
    Below { lane: Lane, found: u64, next: u64 },
    #[error("a device frame before any epoch")]
    NoEpoch,
    #[error("stream {stream} was not declared in this epoch; send its declaration first")]
    Undeclared { stream: u32 },
    #[error("stream {stream} was declared otherwise in this epoch; begin a new epoch to change it")]
    Redeclared { stream: u32 },
    #[error("the declaration of stream {stream}: {error}")]
    Declaration { stream: u32, error: DeclarationError },
    #[error("the frame does not fit the declaration of stream {stream}: {error}")]
    Columns { stream: u32, error: FrameError },
    #[error("{what} {found}, over the limit of {most}")]
    TooMany {
        what: &'static str,
        found: u64,
        most: u64,
    },
    #[error("the {what} is not of its form: {why}")]
    Payload { what: &'static str, why: String },
}

impl Violation {
    /// What the device is told.
    pub fn refusal(&self) -> Refusal {
        let code = match self {
            Self::Below { .. } => RefusalCode::SequenceBackward,
            Self::NoEpoch => RefusalCode::Unexpected,
            Self::Undeclared { .. } => RefusalCode::UndeclaredStream,
            Self::Redeclared { .. } | Self::Declaration { .. } | Self::Columns { .. } => {
                RefusalCode::SchemaMismatch
            }
            Self::TooMany { .. } => RefusalCode::TooMany,
            Self::Payload { .. } => RefusalCode::Malformed,
        };
        Refusal::new(code, self.to_string())
    }
}

/// A judged frame: its row of the segment's index, and what it means.
#[derive(Clone, Debug)]
pub struct Judged {
    pub entry: IndexEntry,
    pub meaning: Meaning,
}

impl LogState {
    pub fn new() -> Self {
        Self::default()
    }

    /// The epochs, by ordinal.
    pub fn epochs(&self) -> &[EpochState] {
        &self.epochs
    }

    /// Ordinal of an epoch.
    pub fn ordinal(&self, epoch: &EpochId) -> Option<u32> {
        self.by_id.get(epoch).copied()
    }

    /// The epoch that device frames belong to at this point of the log.
    pub fn current(&self) -> Option<u32> {
        self.current
    }

    /// Sequence of the next hub frame.
    pub fn hub_next(&self) -> u64 {
        self.hub_next
    }

    /// The stream that a data frame belongs to.
    pub fn stream(&self, epoch: u32, stream: u32) -> Option<&StreamState> {
        self.epochs.get(epoch as usize)?.streams.get(&stream)
    }

    /// [`LogState::inspect`] and [`LogState::take`] in one.
    pub fn apply(&mut self, frame: &Frame<'_>, epoch: Option<u32>, offset: u32) -> Result<Judged, Violation> {
        let judged = self.inspect(frame, epoch, offset)?;
        self.take(&judged);
        Ok(judged)
    }

    /// Judges a whole frame whose checksum holds.
    ///
    /// # Errors
    /// A violation for what may not be taken. A data frame that merely breaks the order of times or indices is taken,
    /// and quarantined.
    pub fn inspect(&self, frame: &Frame<'_>, epoch: Option<u32>, offset: u32) -> Result<Judged, Violation> {
        let header = frame.header();
        if header.sequence == u64::MAX {
            // None comes after it, so that it could be taken again and again.
            return Err(Violation::TooMany {
                what: "sequence",
                found: header.sequence,
                most: u64::MAX - 1,
            });
        }
        if header.lane == Lane::Hub {
            if header.sequence < self.hub_next {
                let next = self.hub_next;
                return Err(Violation::Below {
                    lane: Lane::Hub,
                    found: header.sequence,
                    next,
                });
            }
            let meaning = self.hub_meaning(frame)?;
            return Ok(Judged {
                entry: IndexEntry::of(frame, offset, None, header.first_time_ns),
                meaning,
            });
        }
        let ordinal = epoch.ok_or(Violation::NoEpoch)?;
        let state = self.epochs.get(ordinal as usize).ok_or(Violation::NoEpoch)?;
        let lane = header.lane as usize;
        let (found, next) = (header.sequence, state.next[lane]);
        if found < next
            && !state.holes[lane]
                .iter()
                .any(|hole| (hole.0..hole.1).contains(&found))
        {
            return Err(Violation::Below {
                lane: header.lane,
                found,
                next,
            });
        }
        let (mut meaning, last_time_ns) = state.meaning(frame)?;
        if found < next && matches!(meaning, Meaning::Data(_)) {
            // It fills a hole: what came after it was judged without it, so it can't break their order.
            meaning = Meaning::Data(None);
        }
        Ok(Judged {
            entry: IndexEntry::of(frame, offset, epoch, last_time_ns),
            meaning,
        })
    }

    /// Judges a row of a sealed segment's index: enough for a data frame, none for what must be read.
    pub fn judge_entry(&self, entry: &IndexEntry) -> Option<Judged> {
        if entry.kind != Kind::DATA {
            return None;
        }
        let stream = self.stream(entry.epoch, entry.stream)?;
        let next = self.epochs.get(entry.epoch as usize)?.next[Lane::Data as usize];
        let quarantine = match entry.sequence < next {
            true => None,
            false => stream.quarantine(entry.first_time_ns, entry.first_index),
        };
        Some(Judged {
            entry: *entry,
            meaning: Meaning::Data(quarantine),
        })
    }

    /// Takes what was judged against this very state.
    pub fn take(&mut self, judged: &Judged) {
        let entry = &judged.entry;
        if entry.lane == Lane::Hub {
            self.hub_next = entry.sequence.saturating_add(1);
        } else if let Some(epoch) = self.epochs.get_mut(entry.epoch as usize) {
            let lane = entry.lane as usize;
            epoch.next[lane] = epoch.next[lane].max(entry.sequence.saturating_add(1));
            cut_hole(&mut epoch.holes[lane], entry.sequence);
            self.frames += 1;
        }
        let epoch = self.epochs.get_mut(entry.epoch as usize);
        match &judged.meaning {
            Meaning::Data(quarantine) => {
                self.samples += u64::from(entry.count);
                let Some(stream) = epoch.and_then(|epoch| epoch.streams.get_mut(&entry.stream)) else {
                    return;
                };
                stream.frames += 1;
                stream.samples += u64::from(entry.count);
                if quarantine.is_none() {
                    let next_index = entry.first_index.saturating_add(u64::from(entry.count));
                    stream.next_index = stream.next_index.max(next_index);
                    stream.last_time_ns = stream.last_time_ns.max(entry.last_time_ns);
                }
            }
            Meaning::Declare(declaration) => {
                let Some(epoch) = epoch else { return };
                epoch
                    .streams
                    .entry(entry.stream)
                    .or_insert_with(|| StreamState::new(declaration.clone()));
            }
            Meaning::End(end) => {
                if let Some(stream) = epoch.and_then(|epoch| epoch.streams.get_mut(&end.stream)) {
                    stream.end = Some(end.clone());
                }
            }
            Meaning::Epoch(mark) => self.enter(mark),
            Meaning::Assign(assign) => {
                let Some(epoch) = self.epochs.get_mut(assign.epoch as usize) else {
                    return;
                };
                let key = assign.stream_key();
                let new = || StreamState::new(assign.declaration.clone());
                epoch.streams.entry(assign.stream).or_insert_with(new).key = Some(key);
            }
            Meaning::Wall(reading) => self.wall = Some(*reading),
            Meaning::Arrival(newest) => self.last_arrival_ns = self.last_arrival_ns.max(*newest),
            Meaning::Event(_) | Meaning::Other => {}
        }
    }

    /// Damage took frames: for each epoch and lane, sequences between what was taken before it and after it are lost.
    pub(crate) fn add_hole(&mut self, epoch: u32, lane: Lane, hole: (u64, u64)) {
        if let Some(epoch) = self.epochs.get_mut(epoch as usize)
            && lane != Lane::Hub
            && hole.0 < hole.1
            && epoch.holes[lane as usize].len() < limits::HOLES_MAX
        {
            epoch.holes[lane as usize].push(hole);
        }
    }

    /// Enters an epoch whose frame is not known, by its name alone. Does nothing where the epoch is known.
    pub(crate) fn stand_in(&mut self, epoch: EpochId, ordinal: u32) {
        let known = self.epochs.get(ordinal as usize);
        if ordinal < limits::EPOCHS_PER_LOG_MAX && known.is_none_or(|known| known.id == EpochId::HUB) {
            self.enter(&EpochMark {
                epoch,
                boot: BootId::UNKNOWN,
                ordinal,
                refill: false,
            });
        }
    }

    fn enter(&mut self, mark: &EpochMark) {
        // Damage may have taken epoch frames: those between stay unknown, and empty.
        while self.epochs.len() <= mark.ordinal as usize {
            let ordinal = self.epochs.len() as u32;
            self.epochs
                .push(EpochState::new(EpochId::HUB, BootId::UNKNOWN, ordinal));
        }
        let epoch = &mut self.epochs[mark.ordinal as usize];
        (epoch.id, epoch.boot) = (mark.epoch, mark.boot);
        self.by_id.insert(mark.epoch, mark.ordinal);
        self.current = Some(mark.ordinal);
    }

    pub(crate) fn hub_meaning(&self, frame: &Frame<'_>) -> Result<Meaning, Violation> {
        let form = |what, why: &str| Violation::Payload {
            what,
            why: why.to_owned(),
        };
        let json = |error: FrameError| Violation::Payload {
            what: "hub frame",
            why: error.to_string(),
        };
        Ok(match frame.header().kind {
            Kind::EPOCH => {
                let mark =
                    EpochMark::parse(frame.payload()).ok_or_else(|| form("epoch frame", "not its length"))?;
                if mark.ordinal >= limits::EPOCHS_PER_LOG_MAX {
                    let (found, most) = (u64::from(mark.ordinal), u64::from(limits::EPOCHS_PER_LOG_MAX));
                    return Err(Violation::TooMany {
                        what: "epoch",
                        found,
                        most,
                    });
                }
                Meaning::Epoch(mark)
            }
            Kind::ASSIGN => Meaning::Assign(frame.json("the assign frame").map_err(json)?),
            Kind::HUB_EPOCH => Meaning::Wall(frame.json("the hub-epoch frame").map_err(json)?),
            Kind::ARRIVAL => {
                let rows =
                    Arrival::rows(frame.payload()).ok_or_else(|| form("arrival frame", "not whole rows"))?;
                Meaning::Arrival(rows.map(|row| row.hub_recv_ns).max())
            }
            Kind::CHECKPOINT => {
                Checkpoint::parse(frame.payload())
                    .ok_or_else(|| form("checkpoint frame", "not its length"))?;
                Meaning::Other
            }
            _ => Meaning::Other,
        })
    }
}

impl EpochState {
    fn new(id: EpochId, boot: BootId, ordinal: u32) -> Self {
        Self {
            id,
            boot,
            ordinal,
            next: [0; 2],
            holes: Default::default(),
            streams: BTreeMap::new(),
        }
    }

    fn meaning(&self, frame: &Frame<'_>) -> Result<(Meaning, i64), Violation> {
        let header = frame.header();
        let stream = header.stream;
        let form = |what, why: String| Violation::Payload { what, why };
        let meaning = match header.kind {
            Kind::DATA => {
                let state = self
                    .streams
                    .get(&stream)
                    .ok_or(Violation::Undeclared { stream })?;
                let end = header.first_index.checked_add(u64::from(header.count));
                if end.is_none_or(|end| i64::try_from(end).is_err()) {
                    let (found, most) = (header.first_index, i64::MAX as u64);
                    return Err(Violation::TooMany {
                        what: "sample index",
                        found,
                        most,
                    });
                }
                let columns = Columns::parse(frame, &state.declaration)
                    .map_err(|error| Violation::Columns { stream, error })?;
                let quarantine = state.quarantine(header.first_time_ns, header.first_index);
                return Ok((Meaning::Data(quarantine), columns.times.last()));
            }
            Kind::DECLARE => {
                let most = limits::STREAMS_PER_EPOCH_MAX;
                if !(1..=most).contains(&stream) {
                    let (found, most) = (u64::from(stream), u64::from(most));
                    return Err(Violation::TooMany {
                        what: "stream number",
                        found,
                        most,
                    });
                }
                let declaration = Declaration::from_json(frame.payload())
                    .map_err(|error| Violation::Declaration { stream, error })?;
                match self.streams.get(&stream) {
                    Some(known) if *known.declaration != declaration => {
                        return Err(Violation::Redeclared { stream });
                    }
                    _ => Meaning::Declare(declaration),
                }
            }
            Kind::EVENT => Meaning::Event(frame.json("event").map_err(|e| form("event", e.to_string()))?),
            Kind::END => Meaning::End(
                frame
                    .json("end")
                    .map_err(|e| form("end of stream", e.to_string()))?,
            ),
            Kind::PROBES => {
                let rows = marey_format::clock::ProbeRow::rows(frame.payload());
                rows.map(|_| Meaning::Other)
                    .ok_or_else(|| form("probes frame", "not whole rows".to_owned()))?
            }
            _ => Meaning::Other,
        };
        Ok((meaning, header.first_time_ns))
    }
}

impl StreamState {
    fn new(declaration: Declaration) -> Self {
        Self {
            declaration: Arc::new(declaration),
            key: None,
            next_index: 0,
            last_time_ns: i64::MIN,
            frames: 0,
            samples: 0,
            end: None,
        }
    }

    fn quarantine(&self, first_time_ns: i64, first_index: u64) -> Option<Quarantine> {
        if first_index < self.next_index {
            Some(Quarantine::IndexBackward)
        } else if first_time_ns < self.last_time_ns {
            Some(Quarantine::TimeBackward)
        } else {
            None
        }
    }
}

/// Takes one sequence out of a list of half-open ranges.
fn cut_hole(holes: &mut Vec<(u64, u64)>, sequence: u64) {
    if let Some(at) = holes.iter().position(|hole| (hole.0..hole.1).contains(&sequence)) {
        let (from, to) = holes.remove(at);
        let parts = [(from, sequence), (sequence + 1, to)];
        holes.extend(parts.into_iter().filter(|part| part.0 < part.1));
        holes.sort_unstable();
    }
}

#[cfg(test)]
mod tests;
