//! Pass 1: what one device's log holds, read once from front to back through the one apply function.
//!
//! Owns the list of data frames of every stream (56 bytes a frame, by place, so that pass 2 reads each one again where
//! it stands), the evidence of the device's clocks, events, notes, ends of streams, and what is damaged. It places
//! nothing in time and writes nothing.
//!
//! Invariants: a sequence is in a list once; within an epoch the frames of a stream are in order of sequence, their
//! indices rise and their times never decrease; whatever is kept out is named.

use super::CompactError;
use super::evidence::{Evidence, EvidenceKind};
use super::frames::{FrameEntry, KeptOut, LostEntry, Place, settle};
use super::left_out::{self, Unreadable};
use super::manifest::TakenFact;
use super::unreadable::Tolerant;
use crate::clock::Row;
use crate::disk::{Disk, File, OpenMode};
use crate::error::StorageError;
use crate::log::{Fault, FaultKind, Replay, segment_name, sync_footer};
use crate::session::Session;
use crate::state::{LogState, Meaning, Violation};
use marey_format::clock::ProbeRow;
use marey_format::frame::{Frame, Kind, Lane};
use marey_format::log::SEGMENT_HEADER_BYTES;
use marey_format::payload::{Arrival, EndOfStream, Event, Lost, MarkReceived, StreamKey, WallReading};
use marey_format::wire::Holes;
use marey_format::{BootId, Declaration, DeviceId, EpochId, HubEpoch, SessionId};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

/// What one device's log holds.
#[derive(Debug)]
pub struct DeviceSurvey {
    pub device: DeviceId,
    /// By ordinal. Epochs of which damage took the opening are not among them.
    pub epochs: BTreeMap<u32, Epoch>,
    pub streams: BTreeMap<StreamKey, Arc<StreamPlan>>,
    pub events: Vec<EventEntry>,
    pub notes: Vec<NoteEntry>,
    pub evidence: Vec<Evidence>,
    /// Readings of the wall clock, in the log's order.
    pub walls: Vec<WallReading>,
    /// Lives of the hub's clock, in the log's order, each once.
    pub hub_epochs: Vec<HubEpoch>,
    pub segments: Vec<SegmentFact>,
    /// What is damaged; not what can't be read, or can't be told from that.
    pub faults: Vec<Fault>,
    /// What can't be read.
    pub unreadable: Vec<Unreadable>,
    /// Frames that fit no stream, or break a rule that the hub holds devices to.
    pub misfits: Vec<Misfit>,
    /// Device frames that were taken, by lane.
    pub frames: [u64; 2],
    /// Frames, by kind, of which something stands in no table: kinds that this version does not know, and events with
    /// keys that it does not.
    pub untold: BTreeMap<u8, u64>,
    /// End of the last frame that was delivered.
    pub end: Place,
    /// Which device frames were taken.
    pub taken: Vec<TakenFact>,
}

/// One life of the device's clock and counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch {
    pub id: EpochId,
    pub boot: BootId,
}

/// One stream of one device.
#[derive(Debug)]
pub struct StreamPlan {
    pub key: StreamKey,
    /// The first one that the device made.
    pub declaration: Arc<Declaration>,
    /// In order of epoch and sequence.
    pub frames: Vec<FrameEntry>,
    pub kept_out: Vec<KeptOut>,
    /// What the device said of samples that it will not send, in order of epoch.
    pub lost: Vec<LostEntry>,
    /// By epoch: what the device said at the end, if it did.
    pub ends: BTreeMap<u32, Option<EndOfStream>>,
}

/// An event or a state that a device sent.
#[derive(Clone, Debug)]
pub struct EventEntry {
    pub epoch: u32,
    pub sequence: u64,
    pub device_ns: i64,
    pub stream: Option<StreamKey>,
    pub event: Event,
}

/// What the hub wrote into the log.
#[derive(Clone, Debug)]
pub struct NoteEntry {
    pub hub_epoch: HubEpoch,
    pub hub_ns: i64,
    pub sequence: u64,
    pub note: Event,
}

/// A segment of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentFact {
    pub segment: u32,
    pub bytes: u64,
    /// Where its footer begins, if it has one.
    pub data_bytes: Option<u64>,
    /// Of the whole file; none while it may still grow, and where its successor cut it.
    pub blake3: Option<String>,
    pub cut: Option<CutFact>,
}

/// What counts of a segment that was cut. What stands behind it was perhaps never synced: a power cut may take it yet, and
/// nothing is lost with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutFact {
    #[serde(with = "super::manifest::text")]
    pub bytes: u64,
    /// Of these bytes from the beginning of the file.
    pub blake3: String,
}

/// A data frame that is in the log and can't be given to a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    pub place: Place,
    pub epoch: Option<u32>,
    pub samples: u32,
    pub why: String,
}

/// Reads a log.
pub fn survey(disk: &dyn Disk, session: &SessionId, device: &DeviceId) -> Result<DeviceSurvey, CompactError> {
    read(disk, None, session, device)
}

/// Reads of a log what can be read.
pub fn survey_readable(
    disk: &Tolerant<'_>,
    session: &SessionId,
    device: &DeviceId,
) -> Result<DeviceSurvey, CompactError> {
    loop {
        let failures = disk.count();
        let survey = read(disk, Some(disk), session, device)?;
        // A block may fail after frames were read from it. Each further reading needs a new failure, of which a segment
        // can't have many.
        if disk.count() == failures || !survey.rests_on_what_failed() {
            return Ok(survey);
        }
    }
}

fn read(
    disk: &dyn Disk,
    tolerant: Option<&Tolerant<'_>>,
    session: &SessionId,
    device: &DeviceId,
) -> Result<DeviceSurvey, CompactError> {
    let mut replay = Replay::open(disk, session, device)?.with_stand_ins();
    let mut taking = Taking::default();
    let summaries: Vec<_> = replay
        .reader()
        .segments()
        .iter()
        .map(|s| {
            (
                s.segment,
                s.path.clone(),
                s.file_bytes,
                s.sealed_bytes.is_some() || s.cut_at.is_some(),
                s.cut_at.filter(|_| s.is_cut),
                s.sealed_bytes,
            )
        })
        .collect();
    for summary in replay.reader().segments() {
        if let Some(header) = &summary.header {
            taking.headers.insert(summary.segment, header.hub_epoch);
        }
    }
    let mut whole_anyway = HashSet::new();
    while let Some(replayed) = replay.next()? {
        let place = Place {
            segment: replayed.at.segment,
            offset: replayed.at.offset,
        };
        taking.end = Place {
            offset: place.offset + replayed.at.frame.bytes().len() as u64,
            ..place
        };
        if let Some(tolerant) = tolerant
            && tolerant.count() > 0
            && let Some((_, path, ..)) = summaries.iter().find(|(segment, ..)| *segment == place.segment)
            && tolerant.stands_in(path, place.offset..taking.end.offset)
        {
            whole_anyway.insert(place);
        }
        match replayed.judged {
            Ok(judged) => taking.take(
                place,
                replayed.at.epoch,
                &replayed.at.frame,
                &judged.entry,
                judged.meaning,
            ),
            Err(violation) => taking.refuse(place, replayed.at.epoch, &replayed.at.frame, &violation),
        }
    }
    let (state, mut faults) = replay.into_state();
    let mut segments = Vec::with_capacity(summaries.len());
    let mut unreadable = Vec::new();
    for (segment, path, bytes, fixed, cut, data_bytes) in summaries {
        let mut cut = match cut {
            // A header with no frame behind it need not have been synced either.
            Some(end) if end <= SEGMENT_HEADER_BYTES as u64 => Some(0),
            cut => cut,
        }
        .map(|end| hash_beginning(disk, &path, end).map(|(bytes, blake3)| CutFact { bytes, blake3 }))
        .transpose()?;
        let mut blake3 = match fixed && cut.is_none() {
            true => Some(hash_file(disk, &path)?),
            false => None,
        };
        if let Some(tolerant) = tolerant
            && !tolerant.holes(&path).is_empty()
        {
            // Zeros were hashed for what can't be read.
            (blake3, cut) = (None, None);
            let (file, log) = ((segment, &*path, bytes), (device, session));
            unreadable.extend(left_out::of_segment(
                tolerant,
                file,
                log,
                &whole_anyway,
                &mut faults,
            )?);
        }
        segments.push(SegmentFact {
            segment,
            bytes,
            data_bytes,
            blake3,
            cut,
        });
    }
    let mut survey = taking.finish(device.clone(), &state, faults, segments);
    survey.unreadable = unreadable;
    Ok(survey)
}

/// Makes the footers of last segments durable that are listed with them. A run of the hub may have died between a footer and
/// its sync, or its sync failed, and no successor says yet that the segment ended before it.
pub(super) fn sync_ends(
    disk: &dyn Disk,
    session: &SessionId,
    surveys: &[DeviceSurvey],
) -> Result<(), StorageError> {
    for survey in surveys {
        if let Some(last) = survey.segments.last()
            && last.blake3.is_some()
            && let Some(data_bytes) = last.data_bytes
        {
            let path = Session::log_dir(session, &survey.device).join(segment_name(last.segment));
            sync_footer(disk, &path, data_bytes)?;
        }
    }
    Ok(())
}

/// BLAKE3 of a file, in large reads.
pub fn hash_file(disk: &dyn Disk, path: &Path) -> Result<String, StorageError> {
    hash_beginning(disk, path, u64::MAX).map(|(_, blake3)| blake3)
}

/// Length and BLAKE3 of a file up to `end`, or of all of it where it ends before.
pub(super) fn hash_beginning(disk: &dyn Disk, path: &Path, end: u64) -> Result<(u64, String), StorageError> {
    const READ_BYTES: usize = 1 << 20;
    let io = |error| StorageError::io("reading", disk.describe(path), error);
    let file: Arc<dyn File> = disk.open(path, OpenMode::Read).map_err(io)?;
    let (mut hasher, mut buffer, mut offset) = (blake3::Hasher::new(), vec![0; READ_BYTES], 0);
    loop {
        let wanted = (end - offset).min(READ_BYTES as u64) as usize;
        let read = file.read_at(offset, &mut buffer[..wanted]).map_err(io)?;
        hasher.update(&buffer[..read]);
        offset += read as u64;
        if read < READ_BYTES {
            return Ok((offset, hasher.finalize().to_hex().to_string()));
        }
    }
}

#[derive(Debug, Default)]
struct Taking {
    headers: BTreeMap<u32, HubEpoch>,
    hub_epoch: Option<HubEpoch>,
    hub_epochs: Vec<HubEpoch>,
    /// Data frames by epoch and stream number.
    data: BTreeMap<(u32, u32), Data>,
    events: Vec<(u32, EventEntry)>,
    /// By the number of the stream.
    lost: Vec<(u32, LostEntry)>,
    notes: Vec<NoteEntry>,
    evidence: Vec<Evidence>,
    /// Arrivals of data without a time of sending.
    undated: Vec<Arrival>,
    walls: Vec<WallReading>,
    misfits: Vec<Misfit>,
    frames: [u64; 2],
    untold: BTreeMap<u8, u64>,
    end: Place,
}

#[derive(Debug, Default)]
struct Data {
    frames: Vec<FrameEntry>,
    kept_out: Vec<KeptOut>,
}

impl Taking {
    fn take(
        &mut self,
        place: Place,
        epoch: Option<u32>,
        frame: &Frame<'_>,
        entry: &marey_format::log::IndexEntry,
        meaning: Meaning,
    ) {
        let header = frame.header();
        if let Some(&hub_epoch) = self
            .headers
            .get(&place.segment)
            .filter(|_| self.hub_epoch.is_none())
        {
            self.enter_hub_epoch(hub_epoch);
        }
        if header.lane != Lane::Hub {
            self.frames[header.lane as usize] += 1;
        }
        match meaning {
            Meaning::Data(quarantine) => {
                let Some(epoch) = epoch else { return };
                let data = self.data.entry((epoch, header.stream)).or_default();
                let entry = FrameEntry::of(place, entry, epoch);
                match quarantine {
                    None => data.frames.push(entry),
                    Some(why) => data.kept_out.push(KeptOut::of(&entry, why.as_str())),
                }
            }
            Meaning::Event(event) => self.event(epoch, frame, event),
            Meaning::Wall(wall) => {
                self.enter_hub_epoch(wall.hub_epoch);
                self.walls.push(wall);
            }
            Meaning::Arrival(_) => self.arrivals(frame),
            Meaning::Other => self.other(epoch, frame),
            Meaning::Declare(_) | Meaning::End(_) | Meaning::Epoch(_) | Meaning::Assign(_) => {}
        }
    }

    fn event(&mut self, epoch: Option<u32>, frame: &Frame<'_>, mut event: Event) {
        let header = frame.header();
        let Some(epoch) = epoch else { return };
        if header.kind == Kind::EVENT && says_more(frame, &event) {
            self.untold(header.kind);
        }
        let (sequence, device_ns) = (header.sequence, header.first_time_ns);
        // One whose words this version does not know stays an event.
        if event.kind == Lost::KIND
            && let Ok(lost) = frame.json::<Lost>("event")
            && lost.first <= lost.last
        {
            let entry = LostEntry {
                epoch,
                from: lost.first,
                to: lost.last.saturating_add(1),
                cause: lost.cause,
            };
            self.lost.push((header.stream, entry));
            let words = || format!("{}: samples {} to {}", lost.cause.as_str(), lost.first, lost.last);
            event.text.get_or_insert_with(words);
        }
        self.events.push((
            header.stream,
            EventEntry {
                epoch,
                sequence,
                device_ns,
                stream: None,
                event,
            },
        ));
    }

    fn other(&mut self, epoch: Option<u32>, frame: &Frame<'_>) {
        let header = frame.header();
        match (header.kind, epoch) {
            (Kind::PROBES, Some(epoch)) => {
                let rows = ProbeRow::rows(frame.payload()).into_iter().flatten();
                self.evidence
                    .extend(rows.map(|row| Evidence::of_probe(epoch, &row)));
            }
            (Kind::STATE, Some(_)) => {
                let text = Some(String::from_utf8_lossy(frame.payload()).into_owned());
                self.event(
                    epoch,
                    frame,
                    Event {
                        kind: "state".to_owned(),
                        text,
                        duration_ns: None,
                    },
                );
            }
            (Kind::NOTE, _) => {
                // A note that is no JSON is none of this version's.
                let Ok(note) = frame.json::<Event>("note") else {
                    return;
                };
                let hub_epoch = self.hub_epoch.unwrap_or_default();
                let (hub_ns, sequence) = (header.first_time_ns, header.sequence);
                self.notes.push(NoteEntry {
                    hub_epoch,
                    hub_ns,
                    sequence,
                    note,
                });
            }
            (Kind::CHECKPOINT, _) => {}
            (kind, _) => self.untold(kind),
        }
    }

    fn untold(&mut self, kind: Kind) {
        *self.untold.entry(kind.0).or_default() += 1;
    }

    fn arrivals(&mut self, frame: &Frame<'_>) {
        for row in Arrival::rows(frame.payload()).into_iter().flatten() {
            self.enter_hub_epoch(row.hub_epoch);
            match row.dev_send_ns {
                Some(dev_send) => {
                    let row_ = Row::Up {
                        hub_epoch: row.hub_epoch.0,
                        dev_send,
                        hub_recv: row.hub_recv_ns,
                    };
                    self.evidence.push(Evidence {
                        epoch: row.epoch,
                        kind: EvidenceKind::Arrival,
                        row: row_,
                    });
                }
                None if row.lane == Lane::Data as u8 => self.undated.push(row),
                None => {}
            }
        }
    }

    fn refuse(&mut self, place: Place, epoch: Option<u32>, frame: &Frame<'_>, violation: &Violation) {
        // A sequence that was passed is a copy that the log holds twice, as a recovery may leave it.
        if matches!(violation, Violation::Below { .. }) || frame.header().kind != Kind::DATA {
            return;
        }
        let (samples, why) = (frame.header().count, violation.to_string());
        self.misfits.push(Misfit {
            place,
            epoch,
            samples,
            why,
        });
    }

    fn enter_hub_epoch(&mut self, hub_epoch: HubEpoch) {
        self.hub_epoch = Some(hub_epoch);
        if !self.hub_epochs.contains(&hub_epoch) {
            self.hub_epochs.push(hub_epoch);
        }
    }

    fn finish(
        mut self,
        device: DeviceId,
        state: &LogState,
        faults: Vec<Fault>,
        segments: Vec<SegmentFact>,
    ) -> DeviceSurvey {
        let known = state.epochs().iter().filter(|epoch| epoch.id != EpochId::HUB);
        let taken = known.clone().map(|epoch| {
            let [data, live] = epoch.holes.clone();
            TakenFact {
                epoch: epoch.ordinal,
                data_next: epoch.next[0],
                live_next: epoch.next[1],
                holes: Holes { data, live },
            }
        });
        let taken = taken.collect();
        let epochs = known
            .map(|e| {
                (
                    e.ordinal,
                    Epoch {
                        id: e.id,
                        boot: e.boot,
                    },
                )
            })
            .collect();
        let mut streams: BTreeMap<StreamKey, StreamPlan> = BTreeMap::new();
        for epoch in state.epochs() {
            for (number, stream) in &epoch.streams {
                let data = self.data.remove(&(epoch.ordinal, *number)).unwrap_or_default();
                let Some(key) = &stream.key else {
                    let why = format!("stream {number} was never given a version");
                    self.misfits
                        .extend(data.frames.iter().map(|frame| misfit(frame, &why)));
                    continue;
                };
                let plan = streams.entry(key.clone()).or_insert_with(|| StreamPlan {
                    key: key.clone(),
                    declaration: stream.declaration.clone(),
                    lost: Vec::new(),
                    frames: Vec::new(),
                    kept_out: Vec::new(),
                    ends: BTreeMap::new(),
                });
                plan.frames.extend(data.frames);
                plan.kept_out.extend(data.kept_out);
                plan.ends.insert(epoch.ordinal, stream.end.clone());
            }
        }
        streams
            .values_mut()
            .for_each(|plan| settle(&mut plan.frames, &mut plan.kept_out));
        for (number, entry) in std::mem::take(&mut self.lost) {
            let stream = state.stream(entry.epoch, number);
            if let Some(plan) = stream.and_then(|stream| streams.get_mut(stream.key.as_ref()?)) {
                plan.lost.push(entry);
            }
        }
        streams
            .values_mut()
            .for_each(|plan| plan.lost.sort_by_key(|lost| lost.epoch));
        self.date_arrivals(&streams);
        let events = self.events.into_iter().map(|(number, entry)| {
            let stream = state
                .stream(entry.epoch, number)
                .and_then(|stream| stream.key.clone());
            EventEntry { stream, ..entry }
        });
        DeviceSurvey {
            device,
            epochs,
            events: events.collect(),
            streams: streams
                .into_iter()
                .map(|(key, plan)| (key, Arc::new(plan)))
                .collect(),
            notes: self.notes,
            evidence: self.evidence,
            walls: self.walls,
            hub_epochs: self.hub_epochs,
            segments,
            faults,
            unreadable: Vec::new(),
            misfits: self.misfits,
            frames: self.frames,
            untold: self.untold,
            end: self.end,
            taken,
        }
    }

    /// Where the device did not say when it sent, the last sample of what came was at least captured before it came.
    fn date_arrivals(&mut self, streams: &BTreeMap<StreamKey, StreamPlan>) {
        if self.undated.is_empty() {
            return;
        }
        let mut lasts: HashMap<u32, Vec<(u64, i64)>> = HashMap::new();
        for frame in streams.values().flat_map(|plan| &plan.frames) {
            lasts
                .entry(frame.epoch)
                .or_default()
                .push((frame.sequence, frame.last_time_ns));
        }
        lasts.values_mut().for_each(|list| list.sort_unstable());
        for arrival in std::mem::take(&mut self.undated) {
            let Some(list) = lasts.get(&arrival.epoch) else {
                continue;
            };
            let from = list.partition_point(|(sequence, _)| *sequence < arrival.sequences.0);
            let came = list[from..]
                .iter()
                .take_while(|(sequence, _)| *sequence <= arrival.sequences.1);
            let Some(dev_send) = came.map(|&(_, time)| time).max() else {
                continue;
            };
            let row = Row::Up {
                hub_epoch: arrival.hub_epoch.0,
                dev_send,
                hub_recv: arrival.hub_recv_ns,
            };
            self.evidence.push(Evidence {
                epoch: arrival.epoch,
                kind: EvidenceKind::Samples,
                row,
            });
        }
    }
}

fn misfit(frame: &FrameEntry, why: &str) -> Misfit {
    Misfit {
        place: frame.place(),
        epoch: Some(frame.epoch),
        samples: frame.count,
        why: why.to_owned(),
    }
}

impl DeviceSurvey {
    /// Whether damage took bytes of the log between two places.
    pub fn damaged_between(&self, from: Place, to: Place) -> bool {
        let damaged = |fault: &&Fault| fault.kind == FaultKind::Damage;
        let mut places = self.faults.iter().filter(damaged).map(|fault| Place {
            segment: fault.segment,
            offset: fault.offset,
        });
        places.any(|place| between(from, to, place))
    }

    /// Whether something between two places can't be read.
    pub fn unreadable_between(&self, from: Place, to: Place) -> bool {
        let mut places = self.unreadable.iter().map(|place| Place {
            segment: place.segment,
            offset: place.hole.offset,
        });
        places.any(|place| between(from, to, place))
    }

    /// Whether a frame was delivered from where the disk failed to read later.
    fn rests_on_what_failed(&self) -> bool {
        let frames = self.streams.values().flat_map(|plan| &plan.frames);
        frames.into_iter().any(|frame| {
            self.unreadable.iter().any(|place| {
                let hole = &place.hole;
                place.segment == frame.segment
                    && u64::from(frame.offset) < hole.offset + hole.bytes
                    && frame.end_offset() > hole.offset
            })
        })
    }
}

/// Whether an event has keys that no table has a column for. The command's id in a `mark_received` only says which
/// order was answered, and no more of the session.
fn says_more(frame: &Frame<'_>, event: &Event) -> bool {
    let keys: BTreeMap<String, IgnoredAny> = frame.json("event").unwrap_or_default();
    keys.keys().any(|key| match key.as_str() {
        "kind" | "text" | "duration_ns" => false,
        "command" => event.kind != MarkReceived::KIND,
        // Their text says it where the device gave none.
        "cause" | "first" | "last" => event.kind != Lost::KIND || event.text.is_some(),
        _ => true,
    })
}

fn between(from: Place, to: Place, place: Place) -> bool {
    from.min(to) <= place && place <= from.max(to)
}
