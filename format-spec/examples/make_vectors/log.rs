//! Builds device logs, byte by byte, and keeps account of what a reader must find in them.

use crate::Vector;
use crate::form;
use marey_format::frame::{DataBuilder, Frame, Kind, Lane, Value as Sample, control_frame};
use marey_format::log::{Footer, IndexEntry, Predecessor, SegmentHeader};
use marey_format::payload::{Assign, Checkpoint, EpochMark};
use marey_format::types::Period;
use marey_format::{BootId, Declaration, DeviceId, EpochId, HubEpoch, Seed, SessionId};
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub const DEVICE: &str = "phone";
pub const SESSION: &str = "walk";
pub const HUB: [u8; 16] = [0x11; 16];

/// A log under construction.
pub struct LogBuilder {
    pub device: DeviceId,
    pub session: SessionId,
    pub segments: Vec<Segment>,
    /// Every frame that a reader must find, and its samples.
    pub frames: Vec<Placed>,
    pub faults: Vec<Value>,
    /// Frames that are stored and kept out of Parquet.
    pub quarantined: Vec<(u32, u64)>,
    epochs: Vec<EpochId>,
    current: Option<u32>,
    next: BTreeMap<(u32, u8), u64>,
    next_index: BTreeMap<(u32, u32), u64>,
    declared: BTreeMap<(u32, u32), Declaration>,
    hub_next: u64,
    writes: u64,
    clock_ns: i64,
}

/// One segment's file.
pub struct Segment {
    pub number: u32,
    pub bytes: Vec<u8>,
    entries: Vec<IndexEntry>,
    /// Frames since the newest checkpoint, and where they began.
    write: (u64, Vec<u64>),
}

/// A frame of the log.
#[derive(Clone)]
pub struct Placed {
    pub segment: u32,
    pub offset: u64,
    pub length: u64,
    pub kind: Kind,
    /// Of hub frames none.
    pub epoch: Option<u32>,
    pub sequence: u64,
    json: Value,
    samples: Vec<Value>,
}

impl Placed {
    /// What a reader must find in it.
    pub fn samples(&self) -> Vec<Value> {
        self.samples.clone()
    }

    pub fn end(&self) -> u64 {
        self.offset + self.length
    }
}

impl LogBuilder {
    /// A log with its first segment begun.
    pub fn new() -> Self {
        let mut log = Self::bare();
        log.segment(Predecessor::None, 0);
        log
    }

    /// A log without any segment.
    pub fn bare() -> Self {
        Self {
            device: DeviceId::new(DEVICE).expect("it is a name"),
            session: SessionId::new(SESSION).expect("it is a name"),
            segments: Vec::new(),
            frames: Vec::new(),
            faults: Vec::new(),
            quarantined: Vec::new(),
            epochs: Vec::new(),
            current: None,
            next: BTreeMap::new(),
            next_index: BTreeMap::new(),
            declared: BTreeMap::new(),
            hub_next: 0,
            writes: 0,
            clock_ns: 1_000_000_000,
        }
    }

    /// Begins the next segment.
    pub fn segment(&mut self, predecessor: Predecessor, predecessor_end: u64) {
        self.segment_after(predecessor, predecessor_end, 0);
    }

    /// The same, where that many of the segments before it do not count.
    pub fn segment_after(&mut self, predecessor: Predecessor, predecessor_end: u64, superseded: u32) {
        let number = self.segments.last().map_or(1, |last| last.number + 1);
        let header = SegmentHeader {
            hub: HUB,
            session: self.session.clone(),
            device: self.device.clone(),
            segment: number,
            predecessor,
            predecessor_end,
            superseded,
            epoch: self
                .current
                .map(|ordinal| (self.epochs[ordinal as usize], ordinal)),
            hub_sequence: self.hub_next,
            hub_epoch: HubEpoch(0x0102_0304_0506_0708),
            created_hub_ns: self.clock_ns,
        };
        let bytes = header.to_bytes().to_vec();
        let write = (bytes.len() as u64, Vec::new());
        self.segments.push(Segment {
            number,
            bytes,
            entries: Vec::new(),
            write,
        });
    }

    /// Seals the last segment and begins the next one.
    pub fn roll(&mut self) {
        let end = self.seal();
        self.segment(Predecessor::Sealed, end);
        self.assign_all();
    }

    /// Gives the last segment its footer; where its data end.
    pub fn seal(&mut self) -> u64 {
        let segment = self.last();
        let data_bytes = segment.bytes.len() as u64;
        let footer = Footer {
            data_bytes,
            entries: segment.entries.clone(),
        };
        segment.bytes.extend(footer.to_bytes());
        data_bytes
    }

    pub fn last(&mut self) -> &mut Segment {
        self.segments.last_mut().expect("a segment was begun")
    }

    /// The bytes of a segment, to do harm to.
    pub fn bytes(&mut self, segment: u32) -> &mut Vec<u8> {
        let found = self.segments.iter_mut().find(|s| s.number == segment);
        &mut found.expect("the segment is there").bytes
    }

    // --- frames ---

    /// The seed of the current epoch.
    pub fn seed(&self) -> Seed {
        let ordinal = self.current.expect("an epoch was opened");
        Seed::new(&self.device, &self.session, &self.epochs[ordinal as usize])
    }

    pub fn hub_seed(&self) -> Seed {
        Seed::new(&self.device, &self.session, &EpochId::HUB)
    }

    /// An epoch frame; an epoch that the log had before is gone back to.
    pub fn epoch(&mut self, id: u8, refill: bool) {
        let epoch = EpochId([id; 16]);
        let ordinal = match self.epochs.iter().position(|known| *known == epoch) {
            Some(at) => at as u32,
            None => {
                self.epochs.push(epoch);
                self.epochs.len() as u32 - 1
            }
        };
        let mark = EpochMark {
            epoch,
            boot: BootId([0xB0; 16]),
            ordinal,
            refill,
        };
        self.hub(Kind::EPOCH, 0, 0, &mark.to_bytes());
        self.current = Some(ordinal);
        self.assign_all();
    }

    /// The assign frames of the current epoch's streams.
    fn assign_all(&mut self) {
        let Some(epoch) = self.current else { return };
        let declared: Vec<_> = self
            .declared
            .range((epoch, 0)..(epoch + 1, 0))
            .map(|(k, d)| (k.1, d.clone()))
            .collect();
        for (stream, declaration) in declared {
            self.assign(stream, declaration);
        }
    }

    fn assign(&mut self, stream: u32, declaration: Declaration) {
        let epoch = self.current.expect("an epoch was opened");
        let assign = Assign {
            epoch,
            stream,
            version: 1,
            declaration,
        };
        let json = serde_json::to_vec(&assign).expect("an assign frame has string keys");
        self.hub(Kind::ASSIGN, stream, 0, &json);
    }

    /// A declare frame, and the hub's answer to it.
    pub fn declare(&mut self, stream: u32, declaration: &Declaration) {
        self.live(Kind::DECLARE, stream, 0, &declaration.to_json());
        self.declared.insert(
            (self.current.expect("an epoch was opened"), stream),
            declaration.clone(),
        );
        self.assign(stream, declaration.clone());
    }

    /// A frame of the live lane.
    pub fn live(&mut self, kind: Kind, stream: u32, count: u32, payload: &[u8]) {
        let sequence = self.take_sequence(Lane::Live);
        let seed = self.seed();
        let frame = control_frame(
            kind,
            Lane::Live,
            stream,
            sequence,
            self.clock_ns,
            count,
            payload,
            seed,
        );
        self.put(&frame.expect("it is short"), Vec::new());
    }

    /// A frame of the hub.
    pub fn hub(&mut self, kind: Kind, stream: u32, count: u32, payload: &[u8]) {
        let (sequence, seed) = (self.hub_next, self.hub_seed());
        self.hub_next += 1;
        let frame = control_frame(
            kind,
            Lane::Hub,
            stream,
            sequence,
            self.clock_ns,
            count,
            payload,
            seed,
        );
        self.put(&frame.expect("it is short"), Vec::new());
    }

    /// A data frame of these rows, ten milliseconds apart.
    pub fn data(&mut self, stream: u32, rows: Vec<Vec<Sample>>) {
        let (bytes, samples) = self.make_data(stream, rows);
        self.put(&bytes, samples);
    }

    /// The next data frame of these rows, and what a reader must find in it, without putting it into the log.
    pub fn make_data(&mut self, stream: u32, rows: Vec<Vec<Sample>>) -> (Vec<u8>, Vec<Value>) {
        let times: Vec<i64> = rows.iter().map(|_| self.tick()).collect();
        self.make(stream, &times, rows, None)
    }

    /// A data frame with a period instead of a time column.
    pub fn regular(&mut self, stream: u32, period: Period, rows: Vec<Vec<Sample>>) {
        let first = self.tick();
        let time = |i: usize| first + (i as u64 * period.numerator / period.denominator) as i64;
        let times: Vec<i64> = (0..rows.len()).map(time).collect();
        self.clock_ns = *times.last().expect("it has rows");
        let (bytes, samples) = self.make(stream, &times, rows, Some(period));
        self.put(&bytes, samples);
    }

    fn make(
        &mut self,
        stream: u32,
        times: &[i64],
        rows: Vec<Vec<Sample>>,
        period: Option<Period>,
    ) -> (Vec<u8>, Vec<Value>) {
        let epoch = self.current.expect("an epoch was opened");
        let declaration = self.declared[&(epoch, stream)].clone();
        let label = format!("{}@1", declaration.name);
        let first_index = *self.next_index.get(&(epoch, stream)).unwrap_or(&0);
        self.next_index
            .insert((epoch, stream), first_index + rows.len() as u64);
        let mut builder = DataBuilder::new(&declaration);
        let mut samples = Vec::new();
        for ((seq, row), &time) in (first_index..).zip(rows).zip(times) {
            builder.push(time, &row).expect("the rows fit the declaration");
            samples.push(form::sample(
                &label,
                epoch,
                seq,
                time,
                row.iter().map(value).collect(),
            ));
        }
        let (sequence, seed) = (self.take_sequence(Lane::Data), self.seed());
        let bytes = match period {
            None => builder.finish(stream, sequence, first_index, seed),
            Some(period) => builder.finish_regular(period, stream, sequence, first_index, seed),
        };
        (bytes.expect("it is short"), samples)
    }

    /// The device loses frames that it had numbered, and their samples.
    pub fn skip(&mut self, stream: u32, frames: u64, samples: u64) {
        let epoch = self.current.expect("an epoch was opened");
        *self.next.entry((epoch, Lane::Data as u8)).or_default() += frames;
        *self.next_index.entry((epoch, stream)).or_default() += samples;
    }

    /// The next sequence, index and time of the current epoch are those before the last `frames` frames of `rows` rows.
    pub fn rewind(&mut self, stream: u32, frames: u64, rows: u64) {
        let epoch = self.current.expect("an epoch was opened");
        *self.next.entry((epoch, Lane::Data as u8)).or_default() -= frames;
        *self.next_index.entry((epoch, stream)).or_default() -= frames * rows;
        self.clock_ns -= 10_000_000 * (frames * rows) as i64;
    }

    /// Appends a frame to the last segment, to be found.
    pub fn put(&mut self, bytes: &[u8], samples: Vec<Value>) {
        let epoch = self.current;
        let segment = self.last();
        let offset = segment.bytes.len() as u64;
        let frame = Frame::parse(bytes).expect("it was just made");
        let header = *frame.header();
        let epoch = if header.lane == Lane::Hub { None } else { epoch };
        segment.entries.push(IndexEntry::of(
            &frame,
            offset as u32,
            epoch,
            last_time(&samples, header.first_time_ns),
        ));
        segment.write.1.push(offset);
        segment.bytes.extend_from_slice(bytes);
        let placed = Placed {
            segment: segment.number,
            offset,
            length: bytes.len() as u64,
            kind: header.kind,
            epoch,
            sequence: header.sequence,
            json: form::frame(segment.number, offset, epoch, &frame),
            samples,
        };
        self.frames.push(placed);
    }

    /// A checkpoint over the frames since the last one.
    pub fn checkpoint(&mut self, synced_through: u64) {
        let number = self.writes;
        self.writes += 1;
        let segment = self.last();
        let (begin, frames) = std::mem::take(&mut segment.write);
        let end = segment.bytes.len() as u64;
        let checkpoint = Checkpoint {
            number,
            offset: begin,
            length: end - begin,
            crc: marey_format::checksum::crc32(&segment.bytes[begin as usize..]),
            synced_through,
            frames: frames.iter().map(|at| ((at - begin) / 8) as u32).collect(),
        };
        self.hub(Kind::CHECKPOINT, 0, frames.len() as u32, &checkpoint.to_bytes());
        let segment = self.last();
        segment.write = (segment.bytes.len() as u64, Vec::new());
    }

    fn take_sequence(&mut self, lane: Lane) -> u64 {
        let epoch = self.current.expect("an epoch was opened");
        let next = self.next.entry((epoch, lane as u8)).or_default();
        *next += 1;
        *next - 1
    }

    /// Ten milliseconds go by on the device's clock.
    pub fn tick(&mut self) -> i64 {
        self.clock_ns += 10_000_000;
        self.clock_ns
    }

    // --- what a reader must find ---

    /// The frame at a place in the order of all frames.
    pub fn placed(&self, at: usize) -> Placed {
        self.frames[at].clone()
    }

    /// The data frame of a sequence.
    pub fn data_frame(&self, epoch: u32, sequence: u64) -> Placed {
        let is = |f: &&Placed| f.kind == Kind::DATA && (f.epoch, f.sequence) == (Some(epoch), sequence);
        self.frames.iter().find(is).expect("the frame is there").clone()
    }

    /// Frames of a segment that touch a range are not found any more.
    pub fn lose(&mut self, segment: u32, range: std::ops::Range<u64>) {
        self.frames
            .retain(|f| f.segment != segment || f.end() <= range.start || f.offset >= range.end);
    }

    /// A fault that a reader must report.
    pub fn fault(
        &mut self,
        fault: &str,
        segment: u32,
        offset: impl Into<Option<u64>>,
        bytes: impl Into<Option<u64>>,
    ) {
        self.faults
            .push(form::fault(fault, segment, offset.into(), bytes.into()));
    }

    /// Harm to a whole frame, below what is proven: it is lost, and reported from where it begins to where it ends.
    pub fn damage(&mut self, frame: &Placed, harm: impl FnOnce(&mut [u8])) {
        let range = frame.offset as usize..frame.end() as usize;
        harm(&mut self.bytes(frame.segment)[range]);
        self.lose(frame.segment, frame.offset..frame.end());
        self.fault("damage", frame.segment, frame.offset, frame.length);
    }

    /// The vector of this log.
    pub fn vector(self, folder: &str, name: &str, about: &str) -> Vector {
        let file = |segment: &Segment| format!(".{:06}", segment.number);
        let mut samples: Vec<(u32, u64, Value)> = Vec::new();
        for frame in &self.frames {
            let Some(epoch) = frame.epoch else { continue };
            if !self.quarantined.contains(&(epoch, frame.sequence)) {
                samples.extend(
                    frame
                        .samples
                        .iter()
                        .map(|sample| (epoch, frame.sequence, sample.clone())),
                );
            }
        }
        samples.sort_by_key(|(epoch, sequence, _)| (*epoch, *sequence));
        let json = json!({
            "about": about,
            "device": self.device,
            "session": self.session,
            "segments": self.segments.iter()
                .map(|s| json!({"number": s.number, "file": format!("{name}{}.bin", file(s))})).collect::<Vec<_>>(),
            "frames": self.frames.iter().map(|f| f.json.clone()).collect::<Vec<_>>(),
            "samples": samples.into_iter().map(|(_, _, sample)| sample).collect::<Vec<_>>(),
            "quarantined": self.quarantined.iter()
                .map(|(epoch, sequence)| json!({"epoch": epoch, "sequence": sequence})).collect::<Vec<_>>(),
            "faults": self.faults,
        });
        let files = self.segments.iter().map(|s| (file(s), s.bytes.clone())).collect();
        Vector {
            name: format!("{folder}/{name}"),
            files,
            json,
        }
    }
}

fn last_time(samples: &[Value], otherwise: i64) -> i64 {
    samples
        .last()
        .and_then(|sample| sample["device_time_ns"].as_i64())
        .unwrap_or(otherwise)
}

/// What a reader must find of a value that was put in.
pub fn value(value: &Sample) -> Value {
    match value {
        Sample::I64(n) => json!(n),
        Sample::U64(n) => json!(n),
        Sample::F32(x) => json!(form::hex_float(f64::from(*x))),
        Sample::F64(x) => json!(form::hex_float(*x)),
        Sample::Bool(b) => json!(b),
        Sample::Text(text) => json!(text),
        Sample::Bytes(bytes) => json!(marey_format::types::hex(bytes)),
        Sample::List(items) => items.iter().map(self::value).collect(),
    }
}

/// The declaration of accelerations and a counter.
pub fn imu() -> Declaration {
    declaration(
        r#"{"name":"imu","fields":[{"name":"ax","type":"f32","unit":"m/s2"},{"name":"n","type":"i32"}],
        "rate_hz":100}"#,
    )
}

/// The declaration of bytes.
pub fn blob() -> Declaration {
    declaration(r#"{"name":"blob","fields":[{"name":"bytes","type":"binary"}]}"#)
}

pub fn declaration(json: &str) -> Declaration {
    Declaration::from_json(json.as_bytes()).expect("it is a declaration")
}

/// Three rows of the imu stream, by a number that makes them differ.
pub fn rows(of: i64) -> Vec<Vec<Sample>> {
    (0..3)
        .map(|i| {
            vec![
                Sample::F32((of * 3 + i) as f32 / 8.0 - 1.0),
                Sample::I64(of * 3 + i),
            ]
        })
        .collect()
}
