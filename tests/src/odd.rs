//! A published session with what formats stumble over: several devices and clocks, an epoch that begins anew, gaps, a stream of
//! which nothing came, every type of value, numbers at the ends of their ranges, texts with quotes and line ends, units and labels
//! of any kind, events, annotations.
//!
//! Owns: the recording. What becomes of it elsewhere is held against its Parquet.

#![allow(clippy::disallowed_methods, reason = "a test stands outside of the hub")]

use bytes::Bytes;
use marey_engine::annotation::{self, NewAnnotation};
use marey_engine::disk::{Disk, OsDisk};
use marey_engine::time::simulated::SimulatedKernel;
use marey_engine::{Batch, LogHandle, NewSession, Options, Outcome, Stamp, Store};
use marey_format::clock::{ProbeKind, ProbeRow};
use marey_format::frame::{DataBuilder, Kind, Lane, Value, control_frame};
use marey_format::payload::EndOfStream;
use marey_format::wire::{Acked, Open};
use marey_format::{BootId, Declaration, DeviceId, DigestChain, EpochId, HubEpoch, Seed, SessionId};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

pub const SESSION: &str = "odd-1";
/// When it began.
pub const START_S: i64 = 1_795_248_000;

const IMU: &str = r#"{"name":"imu","rate_hz":100,"sensor":"BMI-270, \"left\"","latency_us":1500.5,"fields":[
    {"name":"acc_x","type":"f32","unit":"m/s2","description":"towards the thumb"},{"name":"acc_y","type":"f64","unit":"m/s2"},
    {"name":"n","type":"i64"},{"name":"big","type":"u64"},{"name":"ok","type":"bool"},{"name":"spectrum","type":"u16","length":4}]}"#;
const GSR: &str = r#"{"name":"gsr","rate_hz":4,"fields":[{"name":"raw","type":"i16","unit":"uS","scale":0.001,"offset":1.5},
    {"name":"tiny","type":"i8"},{"name":"latency","type":"u8"},{"name":"odd_unit","type":"f32","unit":"<k&m>/\"h\", [µ]"}]}"#;
const NOTES: &str =
    r#"{"name":"notes","fields":[{"name":"said","type":"utf8"},{"name":"blob","type":"binary"}]}"#;

/// Of which nothing comes, though it was captured.
const SILENT: &str = r#"{"name":"silent","fields":[{"name":"word","type":"utf8"}]}"#;
const SILENT_CAPTURED: u64 = 5;

/// Texts of its notes, in turn.
pub const TEXTS: [&str; 9] = [
    "plain",
    "comma, \"quoted\"",
    "two\nlines\r\nand\ttab",
    "",
    "NA",
    "µ ☃ 𝄞",
    "=1+1",
    "  spaces  ",
    "nul\0, bell\u{7}, next\u{85}line",
];

/// Makes a hub with the session in a folder: `seconds` of it, sealed.
pub fn record(dir: &Path, seconds: u64) {
    std::fs::create_dir_all(dir).expect("a folder");
    let disk: Arc<dyn Disk> = Arc::new(OsDisk::new(dir));
    let options = Options {
        disk_floor_bytes: Some(0),
        row_group_rows: 10_000,
        ..Options::default()
    };
    let kernel = SimulatedKernel::new(7, START_S * 1_000_000_000);
    Store::init(&disk, [3; 16], &options).expect("a hub");
    let (store, _) = Store::open(disk, kernel.hub_clock(), options).expect("it opens");
    let id = SessionId::new(SESSION).expect("a name");
    let metadata = [
        ("participant", "P-07 Ö"),
        ("task", "walk"),
        ("place", "room \"4\", <left>"),
    ];
    let session = NewSession {
        metadata: BTreeMap::from(metadata.map(|(key, value)| (key.to_owned(), value.to_owned()))),
        ..NewSession::open_to_all(id.clone())
    };
    store.create_session(session).expect("created");
    store.start_session(&id).expect("started");
    // Everything is sent afterwards: no arrival bounds a clock.
    kernel.advance((2 * seconds as i64 + 10) * 1_000_000_000);
    let rows = 100 * seconds;
    let mut phone = Device::open(&store, "phone_1", 1, 5_000_000_000_000, 0);
    phone.probes(seconds);
    phone.imu(0, 0..rows / 4);
    // What its buffer lost.
    phone.imu(0, rows / 4 + 100..rows / 2);
    phone.event(1_000_000_000, r#"{"kind":"label","text":"stand, then \"walk\""}"#);
    phone.event(2_000_000_000, r#"{"kind":"tap","duration_ns":250000000}"#);
    phone.commit();
    let mut phone = Device::open(
        &store,
        "phone_1",
        2,
        3_000_000_000,
        seconds as i64 / 2 * 1_000_000_000,
    );
    phone.probes(seconds);
    phone.imu(rows / 2, rows / 2..rows);
    phone.commit();
    let mut watch = Device::open(&store, "Watch-2", 3, 77_000_000_000, 0);
    watch.probes(seconds);
    watch.gsr(4 * seconds);
    watch.notes(9.max(seconds / 4));
    watch.silent();
    watch.commit();
    annotate(&OsDisk::new(dir), &id);
    store.stop_session(&id).expect("stopped");
    store.seal_session(&id, &|_| {}).expect("sealed");
    store.close().expect("closed");
}

/// What people said: of all of the session, and of a stream.
fn annotate(disk: &dyn Disk, session: &SessionId) {
    let said = NewAnnotation {
        time_ns: (START_S + 7) * 1_000_000_000,
        duration_s: None,
        kind: "note".to_owned(),
        text: "she stands, \"well\"".to_owned(),
        device: None,
        stream: None,
        by: "Dr. Weiss".to_owned(),
        said_utc_ns: (START_S + 9) * 1_000_000_000,
        corrects: None,
        withdrawn: false,
    };
    let of_stream = NewAnnotation {
        time_ns: (START_S + 2) * 1_000_000_000,
        duration_s: Some(0.5),
        kind: "artefact".to_owned(),
        device: Some(DeviceId::new("phone_1").expect("a name")),
        stream: Some("imu@1".to_owned()),
        ..said.clone()
    };
    for said in [said, of_stream] {
        annotation::append(disk, session, said).expect("said");
    }
}

/// A device in one epoch.
struct Device<'s> {
    store: &'s Store,
    handle: LogHandle,
    seed: Seed,
    /// Its clock at the session's start.
    ahead_ns: i64,
    /// Seconds of the session that its epoch begins after.
    sequences: [u64; 2],
    declared: BTreeMap<u32, Declaration>,
    batch: Batch,
    begins_ns: i64,
}

impl<'s> Device<'s> {
    fn open(store: &'s Store, name: &str, epoch: u8, ahead_ns: i64, begins_ns: i64) -> Self {
        let device = DeviceId::new(name).expect("a name");
        let open = Open {
            session: SessionId::new(SESSION).expect("a name"),
            epoch: EpochId([epoch; 16]),
            boot: BootId([epoch; 16]),
            highest_ack: Acked::default(),
        };
        Self {
            handle: store.open_log(&device, &open).expect("opened").handle,
            seed: Seed::new(&device, &open.session, &open.epoch),
            store,
            ahead_ns,
            sequences: [0; 2],
            declared: BTreeMap::new(),
            batch: Batch::new(),
            begins_ns,
        }
    }

    fn push(&mut self, lane: Lane, frame: Vec<u8>) {
        let stamp = Stamp {
            hub: self.store.clock().now(),
            dev_send_ns: None,
        };
        self.batch
            .push(self.handle, Bytes::from(frame), stamp)
            .expect("taken");
        self.sequences[lane as usize] += 1;
        if self.batch.frame_bytes() > 1 << 20 {
            self.commit();
        }
    }

    fn commit(&mut self) {
        let committed = self
            .store
            .commit(&std::mem::take(&mut self.batch))
            .expect("committed");
        assert!(
            committed
                .outcomes
                .iter()
                .all(|outcome| *outcome == Outcome::Durable),
            "{committed:?}"
        );
    }

    fn live(&mut self, kind: Kind, stream: u32, device_ns: i64, count: u32, payload: &[u8]) {
        let sequence = self.sequences[Lane::Live as usize];
        let frame = control_frame(
            kind,
            Lane::Live,
            stream,
            sequence,
            device_ns,
            count,
            payload,
            self.seed,
        );
        self.push(Lane::Live, frame.expect("a frame"));
    }

    /// Its own time of a moment of the session.
    fn device_ns(&self, session_ns: i64) -> i64 {
        self.ahead_ns + session_ns - self.begins_ns
    }

    fn probes(&mut self, seconds: u64) {
        for second in (0..seconds as i64).step_by(5) {
            let session_ns = self.begins_ns + second * 1_000_000_000;
            let (device_ns, hub_ns) = (self.device_ns(session_ns), session_ns + 1_000_000_000);
            let row = ProbeRow {
                kind: ProbeKind::Udp,
                hub_epoch: HubEpoch(7),
                nonce: 1,
                dev_send_ns: device_ns,
                hub_recv_ns: hub_ns + 800_000,
                hub_send_ns: hub_ns + 810_000,
                dev_recv_ns: device_ns + 1_700_000,
                tag: [0; 8],
            };
            let mut payload = Vec::new();
            row.put(&mut payload);
            self.live(Kind::PROBES, 0, device_ns, 1, &payload);
        }
    }

    fn event(&mut self, session_ns: i64, json: &str) {
        self.live(Kind::EVENT, 1, self.device_ns(session_ns), 0, json.as_bytes());
    }

    /// Sends samples of a stream from an index on, in frames of at most 250.
    fn send(&mut self, stream: u32, declaration: &str, first_index: u64, rows: Vec<(i64, Vec<Value>)>) {
        if !self.declared.contains_key(&stream) {
            let parsed = Declaration::from_json(declaration.as_bytes()).expect("a declaration");
            self.live(Kind::DECLARE, stream, 0, 0, &parsed.to_json());
            self.declared.insert(stream, parsed);
        }
        for (number, rows) in (0..).zip(rows.chunks(250)) {
            let mut builder = DataBuilder::new(&self.declared[&stream]);
            for (time_ns, values) in rows {
                builder.push(*time_ns, values).expect("it fits");
            }
            let sequence = self.sequences[Lane::Data as usize];
            let index = first_index + 250 * number;
            let frame = builder
                .finish(stream, sequence, index, self.seed)
                .expect("a frame");
            self.push(Lane::Data, frame);
        }
    }

    fn imu(&mut self, epoch_begins_at: u64, rows: std::ops::Range<u64>) {
        let first = rows.start;
        let row = |i: u64| {
            let x = i as f64;
            let float = match i % 97 {
                3 => f32::NAN,
                5 => f32::INFINITY,
                7 => f32::MIN_POSITIVE,
                11 => -0.0,
                _ => (x * 0.037).sin() as f32 * 9.81,
            };
            let double = match i % 89 {
                3 => f64::NAN,
                5 => f64::NEG_INFINITY,
                7 => 5e-324,
                _ => (x * 0.011).cos() / 3.0,
            };
            let wide = match i % 50 {
                0 => i64::MIN,
                1 => i64::MAX,
                _ => i as i64 - 1_000,
            };
            let big = if i % 50 == 2 { u64::MAX } else { i * 3 };
            let list = (0..4).map(|at| Value::U64((i * 7 + at) % 65_536)).collect();
            // Jitter, and now and then two samples of one stamp.
            let jitter_ns = (i as i64 * 7_919) % 2_000_000;
            let time_ns = self.device_ns(i as i64 * 10_000_000 + if i % 10 == 9 { 0 } else { jitter_ns });
            let values = vec![
                Value::F32(float),
                Value::F64(double),
                Value::I64(wide),
                Value::U64(big),
                Value::Bool(i.is_multiple_of(3)),
                Value::List(list),
            ];
            (time_ns, values)
        };
        let rows: Vec<_> = rows.map(row).collect();
        self.send(1, IMU, first - epoch_begins_at, rows);
    }

    fn gsr(&mut self, rows: u64) {
        let row = |i: u64| {
            let raw = match i % 40 {
                0 => i64::from(i16::MIN),
                1 => i64::from(i16::MAX),
                _ => i as i64 % 1_000,
            };
            let values = vec![
                Value::I64(raw),
                Value::I64(i as i64 % 256 - 128),
                Value::U64(i % 256),
                Value::F32(i as f32 / 7.0),
            ];
            (self.device_ns(i as i64 * 250_000_000), values)
        };
        let rows: Vec<_> = (0..rows).map(row).collect();
        let later = rows.len() / 2;
        self.send(2, GSR, 0, rows[..later].to_vec());
        self.send(2, GSR, later as u64 + 7, rows[later + 7..].to_vec());
    }

    fn silent(&mut self) {
        self.send(4, SILENT, 0, Vec::new());
        let end = EndOfStream {
            stream: 4,
            captured: SILENT_CAPTURED,
            next_index: SILENT_CAPTURED,
            frames: 1,
            digest: DigestChain::default().to_hex(),
        };
        let json = serde_json::to_vec(&end).expect("it is JSON");
        self.live(Kind::END, 4, self.ahead_ns, 0, &json);
    }

    fn notes(&mut self, rows: u64) {
        let row = |i: u64| {
            let text = TEXTS[i as usize % TEXTS.len()];
            let blob: Vec<u8> = (0..i % 5).map(|at| (i * 31 + at * 127) as u8).collect();
            let values = vec![Value::Text(text.to_owned()), Value::Bytes(blob)];
            (self.device_ns(i as i64 * 1_370_000_000 + 500_000), values)
        };
        let rows: Vec<_> = (0..rows).map(row).collect();
        self.send(3, NOTES, 0, rows);
    }
}
