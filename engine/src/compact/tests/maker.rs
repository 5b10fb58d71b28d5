//! Makes logs by hand, frame by frame, for the tests of compaction and of reading.

use crate::disk::{Disk, OpenMode, create_dirs};
use crate::log::segment_name;
use crate::session::{Moment, NewSession, Session, SessionState};
use marey_format::clock::{ProbeKind, ProbeRow};
use marey_format::frame::{DataBuilder, Frame, Kind, Lane, Value, control_frame};
use marey_format::log::{Footer, IndexEntry, Predecessor, SegmentHeader};
use marey_format::payload::{Arrival, Assign, EndOfStream, EpochMark, Event, WallReading};
use marey_format::{BootId, Declaration, DeviceId, DigestChain, EpochId, HubEpoch, Seed, SessionId};
use std::collections::HashMap;

pub const HUB: HubEpoch = HubEpoch(0xABCD);
pub const SECOND_NS: i64 = 1_000_000_000;

/// The wall reading at hub time 0.
pub const ANCHOR: WallReading = WallReading {
    hub_epoch: HUB,
    hub_ns: 0,
    utc_ns: 1_795_248_000 * SECOND_NS,
    error_ns: 5_000_000,
    synchronised: true,
};

/// One log under construction: one segment.
#[derive(Debug)]
pub struct LogMaker {
    pub session: SessionId,
    pub device: DeviceId,
    segment: u32,
    bytes: Vec<u8>,
    pub entries: Vec<IndexEntry>,
    hub_sequence: u64,
    epoch: Option<(EpochId, u32)>,
    sequences: HashMap<(u32, u8), u64>,
    declarations: HashMap<(u32, u32), Declaration>,
    chains: HashMap<(u32, u32), (DigestChain, u64)>,
}

/// A recording session, in its folder.
pub fn session(disk: &dyn Disk, id: &str) -> Session {
    let mut session = Session::new(NewSession::open_to_all(SessionId::new(id).unwrap()));
    session.state = SessionState::Recording;
    session.anchor = Some(ANCHOR);
    session.started = Some(Moment {
        hub_epoch: HUB,
        hub_ns: 0,
    });
    create_dirs(disk, &Session::dir(&session.id)).unwrap();
    session.write(disk).unwrap();
    session
}

impl LogMaker {
    pub fn new(session: &Session, device: &str) -> Self {
        let device = DeviceId::new(device).unwrap();
        let mut maker = Self {
            session: session.id.clone(),
            device,
            segment: 1,
            bytes: Vec::new(),
            entries: Vec::new(),
            hub_sequence: 0,
            epoch: None,
            sequences: HashMap::new(),
            declarations: HashMap::new(),
            chains: HashMap::new(),
        };
        maker.header(Predecessor::None, 0);
        maker
    }

    fn header(&mut self, predecessor: Predecessor, predecessor_end: u64) {
        let header = SegmentHeader {
            hub: [7; 16],
            session: self.session.clone(),
            device: self.device.clone(),
            segment: self.segment,
            predecessor,
            predecessor_end,
            superseded: 0,
            epoch: self.epoch,
            hub_sequence: self.hub_sequence,
            hub_epoch: HUB,
            created_hub_ns: 0,
        };
        self.bytes = header.to_bytes().to_vec();
        self.entries.clear();
    }

    fn seed(&self, lane: Lane) -> Seed {
        let epoch = if lane == Lane::Hub {
            EpochId::HUB
        } else {
            self.epoch.unwrap().0
        };
        Seed::new(&self.device, &self.session, &epoch)
    }

    fn put(&mut self, frame: &[u8], last_time_ns: Option<i64>) {
        let offset = self.bytes.len() as u32;
        let parsed = Frame::parse(frame).unwrap();
        let last = last_time_ns.unwrap_or(parsed.header().first_time_ns);
        let epoch = self.epoch.map(|(_, ordinal)| ordinal);
        self.entries.push(IndexEntry::of(&parsed, offset, epoch, last));
        self.bytes.extend_from_slice(frame);
    }

    pub fn hub(&mut self, kind: Kind, count: u32, hub_ns: i64, payload: &[u8]) -> &mut Self {
        let seed = self.seed(Lane::Hub);
        let frame = control_frame(
            kind,
            Lane::Hub,
            0,
            self.hub_sequence,
            hub_ns,
            count,
            payload,
            seed,
        )
        .unwrap();
        self.hub_sequence += 1;
        self.put(&frame, None);
        self
    }

    pub fn live(&mut self, kind: Kind, stream: u32, device_ns: i64, count: u32, payload: &[u8]) -> &mut Self {
        let sequence = self.next(Lane::Live);
        let seed = self.seed(Lane::Live);
        let frame = control_frame(
            kind,
            Lane::Live,
            stream,
            sequence,
            device_ns,
            count,
            payload,
            seed,
        )
        .unwrap();
        self.put(&frame, None);
        self
    }

    fn next(&mut self, lane: Lane) -> u64 {
        let ordinal = self.epoch.unwrap().1;
        let next = self.sequences.entry((ordinal, lane as u8)).or_insert(0);
        *next += 1;
        *next - 1
    }

    /// Frames of the data lane from here on have this sequence on.
    pub fn jump(&mut self, sequence: u64) -> &mut Self {
        self.sequences.insert((self.epoch.unwrap().1, 0), sequence);
        self
    }

    pub fn epoch(&mut self, ordinal: u32, boot: Option<u8>, refill: bool) -> &mut Self {
        let id = EpochId([ordinal as u8 + 1; 16]);
        let boot = boot.map_or(BootId::UNKNOWN, |boot| BootId([boot; 16]));
        let mark = EpochMark {
            epoch: id,
            boot,
            ordinal,
            refill,
        };
        self.hub(Kind::EPOCH, 0, 0, &mark.to_bytes());
        self.epoch = Some((id, ordinal));
        self
    }

    pub fn wall(&mut self, reading: &WallReading) -> &mut Self {
        self.hub(
            Kind::HUB_EPOCH,
            0,
            reading.hub_ns,
            &serde_json::to_vec(reading).unwrap(),
        )
    }

    pub fn note(&mut self, hub_ns: i64, kind: &str) -> &mut Self {
        let note = Event {
            kind: kind.to_owned(),
            text: None,
            duration_ns: None,
        };
        self.hub(Kind::NOTE, 0, hub_ns, &serde_json::to_vec(&note).unwrap())
    }

    pub fn declare(&mut self, stream: u32, json: &str, version: u32) -> &mut Self {
        let declaration = Declaration::from_json(json.as_bytes()).unwrap();
        self.live(Kind::DECLARE, stream, 0, 0, &declaration.to_json());
        let epoch = self.epoch.unwrap().1;
        self.declarations.insert((epoch, stream), declaration);
        self.assign(stream, json, version)
    }

    pub fn assign(&mut self, stream: u32, json: &str, version: u32) -> &mut Self {
        let assign = Assign {
            epoch: self.epoch.unwrap().1,
            stream,
            version,
            declaration: Declaration::from_json(json.as_bytes()).unwrap(),
        };
        self.hub(Kind::ASSIGN, 0, 0, &serde_json::to_vec(&assign).unwrap())
    }

    pub fn data(&mut self, stream: u32, first_index: u64, rows: &[(i64, Vec<Value>)]) -> &mut Self {
        let epoch = self.epoch.unwrap().1;
        let mut builder = DataBuilder::new(&self.declarations[&(epoch, stream)]);
        rows.iter()
            .for_each(|(time, values)| builder.push(*time, values).unwrap());
        let sequence = self.next(Lane::Data);
        let frame = builder
            .finish(stream, sequence, first_index, self.seed(Lane::Data))
            .unwrap();
        let (chain, frames) = self.chains.entry((epoch, stream)).or_default();
        chain.push(Frame::parse(&frame).unwrap().header().crc, sequence);
        *frames += 1;
        self.put(&frame, rows.last().map(|row| row.0));
        self
    }

    pub fn event(&mut self, stream: u32, device_ns: i64, kind: &str, text: &str) -> &mut Self {
        let event = Event {
            kind: kind.to_owned(),
            text: Some(text.to_owned()),
            duration_ns: Some(SECOND_NS / 2),
        };
        self.live(
            Kind::EVENT,
            stream,
            device_ns,
            0,
            &serde_json::to_vec(&event).unwrap(),
        )
    }

    pub fn end(&mut self, stream: u32, captured: u64, next_index: u64) -> &mut Self {
        let epoch = self.epoch.unwrap().1;
        let (chain, frames) = self.chains.get(&(epoch, stream)).copied().unwrap_or_default();
        let end = EndOfStream {
            stream,
            captured,
            next_index,
            frames,
            digest: chain.to_hex(),
        };
        self.live(Kind::END, stream, 0, 0, &serde_json::to_vec(&end).unwrap())
    }

    /// An exchange over a path of 1 ms each way, with a clock that the hub's is ahead of by `ahead_ns`.
    pub fn probe(&mut self, device_ns: i64, ahead_ns: i64) -> &mut Self {
        let row = ProbeRow {
            kind: ProbeKind::Udp,
            hub_epoch: HUB,
            nonce: 1,
            dev_send_ns: device_ns,
            hub_recv_ns: device_ns + ahead_ns + 1_000_000,
            hub_send_ns: device_ns + ahead_ns + 1_010_000,
            dev_recv_ns: device_ns + 2_010_000,
            tag: [0; 8],
        };
        let mut payload = Vec::new();
        row.put(&mut payload);
        self.live(Kind::PROBES, 0, device_ns, 1, &payload)
    }

    pub fn arrival(&mut self, epoch: u32, hub_ns: i64, dev_send: Option<i64>, last: u64) -> &mut Self {
        let row = Arrival {
            epoch,
            lane: 0,
            hub_epoch: HUB,
            hub_recv_ns: hub_ns,
            dev_send_ns: dev_send,
            sequences: (0, last),
        };
        let mut payload = Vec::new();
        row.put(&mut payload);
        self.hub(Kind::ARRIVAL, 1, hub_ns, &payload)
    }

    /// Seals the segment, writes it, and begins the next.
    pub fn seal(&mut self, disk: &dyn Disk) -> &mut Self {
        self.seal_and(disk, Predecessor::Sealed)
    }

    /// Seals the segment, writes it, and begins one that says that it ended before the footer.
    pub fn cut(&mut self, disk: &dyn Disk) -> &mut Self {
        self.seal_and(disk, Predecessor::Cut)
    }

    fn seal_and(&mut self, disk: &dyn Disk, predecessor: Predecessor) -> &mut Self {
        let data_bytes = self.bytes.len() as u64;
        let footer = Footer {
            data_bytes,
            entries: self.entries.clone(),
        };
        self.bytes.extend(footer.to_bytes());
        self.write(disk);
        self.segment += 1;
        self.header(predecessor, data_bytes);
        self
    }

    /// Writes the segment as it is, unsealed.
    pub fn write(&mut self, disk: &dyn Disk) -> &mut Self {
        let dir = Session::log_dir(&self.session, &self.device);
        create_dirs(disk, &dir).unwrap();
        let path = dir.join(segment_name(self.segment));
        if disk.stat(&path).unwrap().is_some() {
            disk.remove_file(&path).unwrap();
        }
        let file = disk.open(&path, OpenMode::CreateNew).unwrap();
        file.write_at(0, &self.bytes).unwrap();
        file.sync().unwrap();
        disk.sync_dir(&dir).unwrap();
        self
    }
}
