//! A recording with more in it than one stream of one device: two devices, streams beside each other, events, evidence of
//! clocks, remarks, frames that were never sent, ends that were never stated.

use super::*;
use crate::annotation::{self, NewAnnotation};
use crate::store::Note;
use crate::time::simulated::SimulatedKernel;
use marey_format::HubEpoch;
use marey_format::clock::{ProbeKind, ProbeRow};
use marey_format::payload::Event;

const UTC_NS: i64 = 1_700_000_000_000_000_000;

/// A stream as one device numbers it.
struct Stream {
    number: u32,
    declaration: Declaration,
    index: u64,
    frames: u64,
    chain: marey_format::DigestChain,
}

/// An epoch of a device that sends.
struct Player<'a> {
    store: &'a Store,
    device: DeviceId,
    epoch: EpochId,
    handle: LogHandle,
    data: u64,
    live: u64,
}

impl<'a> Player<'a> {
    fn open(store: &'a Store, device: &str, epoch: u8, boot: BootId) -> Self {
        let (device, epoch) = (DeviceId::new(device).unwrap(), EpochId([epoch; 16]));
        let open = Open {
            session: session(),
            epoch,
            boot,
            highest_ack: Acked { data: 0, live: 0 },
        };
        let handle = store.open_log(&device, &open).unwrap().handle;
        Self {
            store,
            device,
            epoch,
            handle,
            data: 0,
            live: 0,
        }
    }

    fn seed(&self) -> Seed {
        Seed::new(&self.device, &session(), &self.epoch)
    }

    fn commit(&self, frame: Vec<u8>) {
        let mut batch = Batch::new();
        let hub = self.store.clock().now();
        let stamp = Stamp {
            hub,
            dev_send_ns: self.live.is_multiple_of(2).then_some(hub.ns + 7_000),
        };
        batch.push(self.handle, frame.into(), stamp).unwrap();
        assert_eq!(self.store.commit(&batch).unwrap().outcomes, [Outcome::Durable]);
    }

    fn control(&mut self, kind: Kind, stream: u32, device_ns: i64, count: u32, payload: &[u8]) {
        let seed = self.seed();
        let frame = control_frame(
            kind,
            Lane::Live,
            stream,
            self.live,
            device_ns,
            count,
            payload,
            seed,
        );
        self.live += 1;
        self.commit(frame.unwrap());
    }

    fn declare(&mut self, number: u32, json: &str) -> Stream {
        let declaration = Declaration::from_json(json.as_bytes()).unwrap();
        self.control(Kind::DECLARE, number, 0, 0, &declaration.to_json());
        Stream {
            number,
            declaration,
            index: 0,
            frames: 0,
            chain: Default::default(),
        }
    }

    fn samples(&mut self, stream: &mut Stream, count: u64) {
        let mut builder = DataBuilder::new(&stream.declaration);
        for i in stream.index..stream.index + count {
            let values: Vec<Value> = (0..stream.declaration.fields.len())
                .map(|field| Value::F32(i as f32 + field as f32))
                .collect();
            builder
                .push(1_000_000_000 + 10_000_000 * i as i64, &values)
                .unwrap();
        }
        let frame = builder
            .finish(stream.number, self.data, stream.index, self.seed())
            .unwrap();
        stream
            .chain
            .push(u32::from_le_bytes(frame[4..8].try_into().unwrap()), self.data);
        stream.frames += 1;
        stream.index += count;
        self.data += 1;
        self.commit(frame);
    }

    fn event(&mut self, stream: u32, device_ns: i64, kind: &str) {
        let event = Event {
            kind: kind.to_owned(),
            text: Some("left".to_owned()),
            duration_ns: Some(1_500_000_000),
        };
        self.control(
            Kind::EVENT,
            stream,
            device_ns,
            0,
            &serde_json::to_vec(&event).unwrap(),
        );
    }

    /// An exchange over a path of a millisecond each way, of a clock that runs 50 ppm fast and began with the hub's.
    fn probe(&mut self) {
        let now = self.store.clock().now();
        self.exchange(now.ns + now.ns / 20_000);
    }

    fn exchange(&mut self, device_ns: i64) {
        let now = self.store.clock().now();
        let row = ProbeRow {
            kind: ProbeKind::Udp,
            hub_epoch: HubEpoch(now.epoch.0),
            nonce: self.live,
            dev_send_ns: device_ns,
            hub_recv_ns: now.ns + 1_000_000,
            hub_send_ns: now.ns + 1_010_000,
            dev_recv_ns: device_ns + 2_010_000,
            tag: [0; 8],
        };
        let mut payload = Vec::new();
        row.put(&mut payload);
        self.control(Kind::PROBES, 0, device_ns, 1, &payload);
    }

    fn end(&mut self, stream: &Stream, never_taken: u64) {
        let end = EndOfStream {
            stream: stream.number,
            captured: stream.index - never_taken,
            next_index: stream.index,
            frames: stream.frames,
            digest: stream.chain.to_hex(),
        };
        self.control(Kind::END, stream.number, 0, 0, &serde_json::to_vec(&end).unwrap());
    }
}

const IMU: &str = r#"{"name":"imu","fields":[{"name":"ax","type":"f32","unit":"m/s2"},{"name":"ay","type":"f32"}],"rate_hz":100}"#;
const SKIN: &str = r#"{"name":"skin","fields":[{"name":"us","type":"f32","unit":"uS"}]}"#;

/// Of which nothing is ever sent.
const IDLE: &str = r#"{"name":"idle","fields":[{"name":"us","type":"f32"}]}"#;

/// The recording; 0.1 ms are asked for, and times are not known to that.
pub(super) fn crowd(end: End) -> MemoryDisk {
    crowd_at(end, UTC_NS)
}

/// The same at another hour.
pub(super) fn crowd_at(end: End, utc_ns: i64) -> MemoryDisk {
    let disk = MemoryDisk::new();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let kernel = SimulatedKernel::new(1, utc_ns);
    Store::init(&shared, [7; 16], &options()).unwrap();
    let (store, _) = Store::open(shared, kernel.hub_clock(), options()).unwrap();
    let new = NewSession {
        max_time_error_us: Some(100.0),
        ..NewSession::open_to_all(session())
    };
    store.create_session(new).unwrap();
    store.start_session(&session()).unwrap();
    let note = |kind: &str, device: Option<DeviceId>| {
        let event = Event {
            kind: kind.to_owned(),
            text: None,
            duration_ns: None,
        };
        store.note(&session(), &[Note { device, event }]).unwrap();
    };

    let mut phone = Player::open(&store, "phone", 1, BootId([9; 16]));
    let (mut imu, mut skin) = (phone.declare(1, IMU), phone.declare(2, SKIN));
    let mut watch = Player::open(&store, "watch", 2, BootId::UNKNOWN);
    let mut pulse = watch.declare(7, SKIN);
    for round in 0..6 {
        kernel.advance(300_000_000);
        phone.samples(&mut imu, 3);
        phone.probe();
        if round % 2 == 0 {
            phone.samples(&mut skin, 1);
            watch.samples(&mut pulse, 2);
        }
        if round == 2 {
            // A number of the lane that is never used, with three samples in it; and three that were never taken.
            phone.data += 1;
            imu.index += 6;
            phone.event(1, 1_030_000_000, "step");
            note("pause", Some(device()));
        }
        if round == 4 {
            watch.event(0, 900_000_000, "tap");
            store.flush().unwrap();
        }
    }
    phone.end(&imu, 3);
    phone.end(&skin, 0);
    // The phone starts anew, the watch stays on; neither ends what it sends.
    let mut phone = Player::open(&store, "phone", 3, BootId([8; 16]));
    let mut imu = phone.declare(1, IMU);
    let _ = phone.declare(3, IDLE);
    for round in 0..5 {
        kernel.advance(500_000_000);
        phone.samples(&mut imu, 2);
        watch.probe();
        watch.samples(&mut pulse, 1);
        if round == 1 && end != End::Killed {
            store.flush().unwrap();
        }
    }
    note("resume", None);
    let remark = |by: &str, corrects: Option<u64>, withdrawn: bool| NewAnnotation {
        time_ns: utc_ns + 1_200_000_000,
        duration_s: Some(0.25),
        kind: "remark".to_owned(),
        text: "the strap slipped".to_owned(),
        device: Some(device()),
        stream: Some("imu@1".to_owned()),
        by: by.to_owned(),
        said_utc_ns: utc_ns,
        corrects,
        withdrawn,
    };
    let first = annotation::append(&disk, &session(), remark("one", None, false)).unwrap();
    annotation::append(&disk, &session(), remark("two", Some(first.number()), false)).unwrap();
    let third = annotation::append(&disk, &session(), remark("three", None, false)).unwrap();
    annotation::append(&disk, &session(), remark("three", Some(third.number()), true)).unwrap();
    come_to(end, store);
    disk
}

#[test]
fn info_of_what_is_published_warns_once_of_each_bound_that_is_wider_than_asked() {
    let disk = crowd(End::Sealed);
    let described = Session::read(&disk, &Session::dir(&session())).unwrap();
    let source = source(&disk);
    let of_logs = crate::salvage::contents(&source, &session(), Some(&described), &options()).unwrap();
    let published = crate::salvage::published_contents(&source, &described).unwrap();
    assert_eq!(published.unwrap().warnings, of_logs.warnings);
    let asks = of_logs
        .warnings
        .iter()
        .filter(|it| it.contains("the session asks for"));
    assert_eq!(asks.count(), 3, "{:?}", of_logs.warnings);
}

#[test]
fn events_keep_how_long_they_took_and_their_order() {
    let disk = crowd(End::Closed);
    let described = Session::read(&disk, &Session::dir(&session())).unwrap();
    let events = crate::salvage::events(&source(&disk), &described, &options()).unwrap();
    let told: Vec<_> = events
        .iter()
        .map(|it| {
            (
                it.source,
                it.event.kind.as_str(),
                it.event.duration_ns,
                it.version,
            )
        })
        .collect();
    let expected = [
        ("device", "tap", Some(1_500_000_000), None),
        ("device", "step", Some(1_500_000_000), None),
        ("hub", "pause", None, None),
        ("person", "remark", Some(250_000_000), Some(2)),
        ("hub", "resume", None, None),
    ];
    assert_eq!(told, expected);
    assert!(events.is_sorted_by_key(|it| it.time_us));
}

#[test]
fn a_device_that_comes_after_the_seal_has_late_frames_and_one_that_sends_nothing_has_none() {
    let disk = crowd(End::Sealed);
    let described = Session::read(&disk, &Session::dir(&session())).unwrap();
    let is_late = |disk: &MemoryDisk| {
        let found = crate::salvage::contents(&source(disk), &session(), Some(&described), &options());
        found.unwrap().late_frames
    };
    assert!(!is_late(&disk));
    let kernel = SimulatedKernel::new(1, UTC_NS + 100_000_000_000);
    let (store, _) = Store::open(Arc::new(disk.clone()), kernel.hub_clock(), options()).unwrap();
    let mut tablet = Player::open(&store, "tablet", 4, BootId([7; 16]));
    store.flush().unwrap();
    assert!(!is_late(&disk.snapshot()));
    tablet.event(0, 5, "tap");
    store.close().unwrap();
    drop(store);
    assert!(is_late(&disk));
}

#[test]
fn remarks_are_counted() {
    assert_eq!(verified(&crowd(End::Sealed)).checked.annotations, 4);
}

#[test]
fn the_clock_of_a_device_is_known_once_it_was_heard_enough() {
    let disk = MemoryDisk::new();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let kernel = SimulatedKernel::new(1, UTC_NS);
    Store::init(&shared, [7; 16], &options()).unwrap();
    let (store, _) = Store::open(shared, kernel.hub_clock(), options()).unwrap();
    store.create_session(NewSession::open_to_all(session())).unwrap();
    store.start_session(&session()).unwrap();
    kernel.advance(5_000_000_000);
    let bound = |store: &Store| {
        let clock = store.log_status().remove(0).clock;
        clock.and_then(|clock| clock.half_width_ns)
    };
    let mut players = Vec::new();
    for (epoch, boot) in [(1, BootId([9; 16])), (2, BootId::UNKNOWN)] {
        let mut phone = Player::open(&store, "phone", epoch, boot);
        // Until it is known how finely it counts, a stamp proves nothing.
        for step in 0..40 {
            kernel.advance(100_000_000 + 1_001 * step);
            phone.probe();
        }
        let found = bound(&store).expect("exchanges bound it");
        assert!((400_000..1_200_000).contains(&found), "{found}");
        players.push(phone);
    }
    // What still comes of the clock's earlier life says nothing of now.
    let found = bound(&store);
    players[0].exchange(77_000_000_000);
    assert_eq!(bound(&store), found);
    players[1].exchange(77_000_000_000);
    assert_ne!(bound(&store), found);
    store.flush().unwrap();
    drop(store);
    // A hub that comes back has heard nothing yet.
    let (store, _) = Store::open(Arc::new(disk), kernel.hub_clock(), options()).unwrap();
    assert_eq!(bound(&store), None);
}
