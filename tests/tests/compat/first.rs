//! What is in the hub of the first version, and how it was made: everything follows from numbers that stand here.

use bytes::Bytes;
use marey_engine::disk::{Disk, OsDisk};
use marey_engine::time::simulated::SimulatedKernel;
use marey_engine::{Batch, LogHandle, NewSession, Options, Outcome, Stamp, Store};
use marey_format::clock::{ProbeKind, ProbeRow, StampKey};
use marey_format::frame::{DataBuilder, Kind, Lane, Value, control_frame};
use marey_format::payload::EndOfStream;
use marey_format::wire::{Acked, Open};
use marey_format::{BootId, Declaration, DeviceId, DigestChain, EpochId, Seed, SessionId};
use marey_server::pki::{DeviceRecord, Registry};
use std::path::Path;
use std::sync::Arc;

pub const SESSION_SEALED: &str = "walk-01";
pub const SESSION_OPEN: &str = "walk-02";
pub const UTC_NS: i64 = 1_780_000_000_000_000_000;

const HUB_ID: [u8; 16] = [0x4D; 16];
const SECOND: i64 = 1_000_000_000;
const SAMPLES_PER_FRAME: u64 = 20;

/// Small blocks and segments, so that the hub is small and its logs have several.
pub fn options() -> Options {
    Options {
        journal_block_bytes: 16 << 10,
        journal_blocks: 2,
        segment_bytes_first: 8 << 10,
        segment_bytes_max: 16 << 10,
        disk_floor_bytes: Some(0),
        compaction_threads: 1,
        syncs_at_once: 1,
        ..Options::default()
    }
}

/// One epoch of a device, with one stream.
#[derive(Debug)]
pub struct Device {
    pub id: DeviceId,
    session: SessionId,
    epoch: EpochId,
    boot: BootId,
    declaration: Declaration,
    /// Device time is true time times (1 + ppm) plus this.
    offset_ns: i64,
    ppm: i64,
    next: [u64; 2],
    index: u64,
    captured: u64,
    digest: DigestChain,
}

impl Device {
    fn new(name: &str, session: &str, epoch: u8, boot: u8, declaration: &str, clock: (i64, i64)) -> Self {
        Self {
            id: DeviceId::new(name).expect("it is a name"),
            session: SessionId::new(session).expect("it is a name"),
            epoch: EpochId([epoch; 16]),
            boot: BootId([boot; 16]),
            declaration: Declaration::from_json(declaration.as_bytes()).expect("it is a declaration"),
            offset_ns: clock.0,
            ppm: clock.1,
            next: [0; 2],
            index: 0,
            captured: 0,
            digest: DigestChain::default(),
        }
    }

    fn phone(session: &str, epoch: u8) -> Self {
        let imu = r#"{"name":"imu","rate_hz":20,"sensor":"BMI160","latency_us":1500,"latency_tolerance_us":500,"fields":[
            {"name":"ax","type":"f32","unit":"m/s2"},{"name":"ay","type":"f32","unit":"m/s2"},
            {"name":"steps","type":"i32","description":"counted by the sensor"}]}"#;
        Self::new("phone", session, epoch, 0xB1, imu, (5_000 * SECOND, 23))
    }

    fn watch(epoch: u8, boot: u8, offset_ns: i64) -> Self {
        let gsr = r#"{"name":"gsr","fields":[{"name":"conductance","type":"f64","unit":"uS"},
            {"name":"code","type":"u16","unit":"mV","scale":0.25,"offset":-10},{"name":"ppg","type":"u16","length":3},
            {"name":"worn","type":"bool"},{"name":"mark","type":"utf8"}]}"#;
        Self::new("watch", SESSION_SEALED, epoch, boot, gsr, (offset_ns, -31))
    }

    /// The device of the open session as it was when the hub was killed: it knows what it sent.
    pub fn phone_again() -> Self {
        let mut phone = Self::phone(SESSION_OPEN, 0xA3);
        phone.declare();
        (0..OPEN_SECONDS).for_each(|second| drop(phone.data(true_ns_open(second))));
        phone
    }

    pub fn sent_before(&self) -> u64 {
        OPEN_SECONDS as u64
    }

    pub fn samples(&self) -> u64 {
        self.captured
    }

    /// Two more seconds, and the end.
    pub fn record_on(&mut self, store: &Store, log: LogHandle) {
        let mut frames: Vec<Bytes> = (OPEN_SECONDS..OPEN_SECONDS + 2)
            .map(|second| self.data(true_ns_open(second)))
            .collect();
        frames.push(self.end());
        commit(store, log, frames);
    }

    pub fn open(&self, session: &SessionId) -> Open {
        Open {
            session: session.clone(),
            epoch: self.epoch,
            boot: self.boot,
            highest_ack: Acked::default(),
        }
    }

    fn device_ns(&self, true_ns: i64) -> i64 {
        self.offset_ns + true_ns + true_ns / 1_000_000 * self.ppm
    }

    fn seed(&self) -> Seed {
        Seed::new(&self.id, &self.session, &self.epoch)
    }

    fn live(&mut self, kind: Kind, stream: u32, true_ns: i64, count: u32, payload: &[u8]) -> Bytes {
        let (sequence, time) = (self.next[1], self.device_ns(true_ns));
        self.next[1] += 1;
        let frame = control_frame(
            kind,
            Lane::Live,
            stream,
            sequence,
            time,
            count,
            payload,
            self.seed(),
        );
        frame.expect("it is short").into()
    }

    fn declare(&mut self) -> Bytes {
        let json = self.declaration.to_json();
        self.live(Kind::DECLARE, 1, 0, 0, &json)
    }

    fn event(&mut self, true_ns: i64, text: &str) -> Bytes {
        let json = format!(r#"{{"kind":"label","text":"{text}","duration_ns":1500000000}}"#);
        self.live(Kind::EVENT, 0, true_ns, 0, json.as_bytes())
    }

    /// An exchange over UDP that took 5 ms, two there and three back.
    fn probe(&mut self, true_ns: i64, hub: marey_engine::time::HubInstant) -> Bytes {
        let (dev_send_ns, dev_recv_ns) = (self.device_ns(true_ns - 5_100_000), self.device_ns(true_ns));
        let (hub_recv_ns, hub_send_ns) = (hub.ns - 3_100_000, hub.ns - 3_000_000);
        let nonce = true_ns as u64;
        let tag = StampKey([0x57; 32]).tag(&self.id, hub.epoch, nonce, dev_send_ns, hub_recv_ns, hub_send_ns);
        let kind = ProbeKind::Udp;
        let row = ProbeRow {
            kind,
            hub_epoch: hub.epoch,
            nonce,
            dev_send_ns,
            hub_recv_ns,
            hub_send_ns,
            dev_recv_ns,
            tag,
        };
        let mut payload = Vec::new();
        row.put(&mut payload);
        self.live(Kind::PROBES, 0, true_ns, 1, &payload)
    }

    /// A second of samples, the last of them now.
    fn data(&mut self, true_ns: i64) -> Bytes {
        let mut builder = DataBuilder::new(&self.declaration);
        for i in 0..SAMPLES_PER_FRAME {
            let n = self.index + i;
            let before = (SAMPLES_PER_FRAME - 1 - i) as i64 * (SECOND / SAMPLES_PER_FRAME as i64);
            let row = match self.id.as_str() {
                "phone" => vec![
                    Value::F32(n as f32 / 16.0),
                    Value::F32(-(n as f32) / 64.0),
                    Value::I64(n as i64 / 2),
                ],
                _ => vec![
                    Value::F64(4.0 + n as f64 / 1024.0),
                    Value::I64(n as i64 * 7 % 65_536),
                    Value::List((0..3).map(|c| Value::I64((n as i64 * 3 + c) % 4096)).collect()),
                    Value::Bool(!n.is_multiple_of(9)),
                    Value::Text(if n.is_multiple_of(10) {
                        format!("lap {}", n / 10)
                    } else {
                        String::new()
                    }),
                ],
            };
            builder
                .push(self.device_ns(true_ns - before), &row)
                .expect("the row fits the declaration");
        }
        let bytes = builder
            .finish(1, self.next[0], self.index, self.seed())
            .expect("it is short");
        self.digest.push(
            u32::from_le_bytes(bytes[4..8].try_into().expect("four bytes were cut")),
            self.next[0],
        );
        self.next[0] += 1;
        self.index += SAMPLES_PER_FRAME;
        self.captured += SAMPLES_PER_FRAME;
        bytes.into()
    }

    /// The device captures samples that it has no room for.
    fn lose(&mut self, samples: u64) {
        self.index += samples;
        self.captured += samples;
    }

    fn end(&mut self) -> Bytes {
        let end = EndOfStream {
            stream: 1,
            captured: self.captured,
            next_index: self.index,
            frames: self.next[0],
            digest: self.digest.to_hex(),
        };
        let json = serde_json::to_vec(&end).expect("it has string keys");
        self.live(Kind::END, 1, 0, 0, &json)
    }
}

/// Frames of the open session; the last three stand in the journal alone.
const OPEN_SECONDS: i64 = 8;

fn true_ns_open(second: i64) -> i64 {
    (100 + second) * SECOND
}

fn commit(store: &Store, log: LogHandle, frames: Vec<Bytes>) {
    let hub = store.clock().now();
    let mut batch = Batch::new();
    for frame in frames {
        batch
            .push(
                log,
                frame,
                Stamp {
                    hub,
                    dev_send_ns: None,
                },
            )
            .expect("the frame is whole");
    }
    let committed = store.commit(&batch).expect("the disk takes it");
    assert!(
        committed
            .outcomes
            .iter()
            .all(|outcome| *outcome == Outcome::Durable),
        "{committed:?}"
    );
}

/// Makes the hub; session, stream, device and rows of what was put into it.
pub fn make(dir: &Path) -> Vec<(&'static str, &'static str, &'static str, u64)> {
    std::fs::create_dir_all(dir).expect("the folder can be made");
    let disk: Arc<dyn Disk> = Arc::new(OsDisk::new(dir));
    Store::init(&disk, HUB_ID, &options()).expect("the folder is empty");
    std::fs::write(dir.join("hub.toml"), marey_server::HubConfig::template())
        .expect("the folder takes files");
    let kernel = SimulatedKernel::new(0x4D61_7265_7900_0001, UTC_NS);
    let (store, _) = Store::open(disk.clone(), kernel.hub_clock(), options()).expect("it was just made");
    let store = Arc::new(store);
    let registry = marey_server::StoredRegistry::new(store.clone());
    for name in ["phone", "watch"] {
        let record = DeviceRecord {
            name: name.to_owned(),
            fingerprint_sha256_hex: "0f".repeat(32),
            serial_hex: "0102030405060708".to_owned(),
            enrolled_utc_ns: UTC_NS,
            revoked: name == "watch",
            certificate: None,
            renewed: None,
            unshown: Vec::new(),
            renewal_asked: false,
        };
        registry.put_device(&record).expect("the disk takes it");
    }
    drop(registry);
    // The database gives pages back in steps, as it is written: until it is small, as a vector should be.
    for n in 0..40 {
        let identity = store.identity();
        identity
            .put("hold", "walk-01", format!("{n}").as_bytes())
            .expect("the disk takes it");
    }
    let watch_rows = record_sealed(&store, &kernel);
    record_open(&store, &kernel);
    // As a kill leaves it: nothing is closed in order. The lock is a file that says nothing.
    drop(store);
    std::fs::remove_file(dir.join("LOCK")).expect("it was made");
    let phone_rows = SECONDS as u64 * SAMPLES_PER_FRAME;
    vec![
        (SESSION_SEALED, "imu@1", "phone", phone_rows),
        (SESSION_SEALED, "gsr@1", "watch", watch_rows),
        (
            SESSION_OPEN,
            "imu@1",
            "phone",
            OPEN_SECONDS as u64 * SAMPLES_PER_FRAME,
        ),
    ]
}

const SECONDS: i64 = 14;

/// The sealed session; the rows of the watch.
fn record_sealed(store: &Store, kernel: &SimulatedKernel) -> u64 {
    let id = SessionId::new(SESSION_SEALED).expect("it is a name");
    let mut phone = Device::phone(SESSION_SEALED, 0xA0);
    let mut watch = [
        Device::watch(0xA1, 0xB2, -77 * SECOND),
        Device::watch(0xA2, 0xB3, 3 * SECOND),
    ];
    let mut new = NewSession::open_to_all(id.clone());
    new.roster = Some(vec![phone.id.clone(), watch[0].id.clone()]);
    new.metadata.insert("participant".to_owned(), "P-07".to_owned());
    store.create_session(new).expect("it is the first");
    store.start_session(&id).expect("it was just made");
    let phone_log = store
        .open_log(&phone.id, &phone.open(&id))
        .expect("the roster names it")
        .handle;
    let mut watch_log = store
        .open_log(&watch[0].id, &watch[0].open(&id))
        .expect("the roster names it")
        .handle;
    commit(store, phone_log, vec![phone.declare()]);
    commit(store, watch_log, vec![watch[0].declare()]);
    let (mut late, mut rows) = (Vec::new(), 0);
    for second in 1..=SECONDS {
        kernel.advance(SECOND);
        let (now, true_ns) = (store.clock().now(), second * SECOND);
        if second == 6 {
            // Its buffer was full for a while: a hole in the indices, of which the device itself tells.
            phone.lose(5);
        }
        let mut frames = vec![phone.probe(true_ns, now), phone.data(true_ns)];
        if second % 5 == 0 {
            frames.push(phone.event(true_ns, ["stairs", "rest"][second as usize / 5 % 2]));
        }
        commit(store, phone_log, frames);
        let life = usize::from(second > 9);
        if second == 10 {
            // The watch restarted: another boot, another epoch.
            let end = watch[0].end();
            commit(store, watch_log, vec![end]);
            watch_log = store
                .open_log(&watch[1].id, &watch[1].open(&id))
                .expect("the roster names it")
                .handle;
            commit(store, watch_log, vec![watch[1].declare()]);
        }
        let mut frames = vec![watch[life].probe(true_ns, now), watch[life].data(true_ns)];
        rows += SAMPLES_PER_FRAME;
        if second > SECONDS - 2 {
            // It walks out of reach, and hands this in after the seal.
            late.append(&mut frames);
        } else {
            commit(store, watch_log, frames);
        }
        if second % 4 == 0 {
            store.flush().expect("the disk takes it");
        }
    }
    let end = phone.end();
    commit(store, phone_log, vec![end]);
    store.stop_session(&id).expect("it is being recorded");
    kernel.advance(SECOND);
    store.seal_session(&id, &|_| {}).expect("the logs are whole");
    kernel.advance(30 * SECOND);
    late.push(watch[1].end());
    commit(store, watch_log, late);
    let sealed = store.seal_session(&id, &|_| {}).expect("the logs are whole");
    assert_eq!(sealed.compacted.generation, 2);
    assert!(sealed.compacted.owing().is_empty());
    rows
}

fn record_open(store: &Store, kernel: &SimulatedKernel) {
    let id = SessionId::new(SESSION_OPEN).expect("it is a name");
    store
        .create_session(NewSession::open_to_all(id.clone()))
        .expect("no other has its name");
    store.start_session(&id).expect("it was just made");
    let mut phone = Device::phone(SESSION_OPEN, 0xA3);
    let log = store
        .open_log(&phone.id, &phone.open(&id))
        .expect("the session is open to all")
        .handle;
    commit(store, log, vec![phone.declare()]);
    for second in 0..OPEN_SECONDS {
        kernel.advance(SECOND);
        commit(store, log, vec![phone.data(true_ns_open(second))]);
        if second == OPEN_SECONDS - 4 {
            store.flush().expect("the disk takes it");
        }
    }
}
