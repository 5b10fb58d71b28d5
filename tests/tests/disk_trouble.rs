//! A hub whose disk fails under it: places that can't be read, syncs that fail, no room. What was acknowledged is there
//! in the end, the hub says what is wrong and what to do, and it goes on where it can.
//!
//! The store stands on a disk in memory that is troubled while the hub runs; devices, TLS and health page are real.

#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside of the hub, and waits in real time"
)]

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use marey_device::{Declaration, Device, Options, StreamHandle, Value};
use marey_engine::Store;
use marey_engine::compact::check_session;
use marey_engine::disk::Disk;
use marey_engine::disk::memory::MemoryDisk;
use marey_engine::disk::troubled::{TroubledDisk, Troubles};
use marey_engine::read::Reader;
use marey_engine::salvage::{Source, recover};
use marey_engine::time::{HubClock, HubInstant};
use marey_format::payload::WallReading;
use marey_format::{RefusalCode, SessionId};
use marey_server::HubConfig;
use marey_server::control::{Request, Response};
use marey_tests::hub::raw::{Down, Log, RawDevice, SAMPLES_PER_FRAME};
use marey_tests::hub::{self, Lab, PATIENCE, config, device, session};
use marey_tests::process::until;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

#[test]
fn a_place_that_cannot_be_read_does_not_stop_a_hub() {
    let (disk, clock) = (TroubledDisk::new(MemoryDisk::new()), Arc::new(Ahead::default()));
    let lab = Lab::on(Arc::new(disk.clone()), clock.clone(), config());
    let (walk, run) = (session("walk"), session("run"));
    let (phone, watch) = (lab.enroll("phone"), lab.enroll("watch"));
    lab.start_session(&walk, Some(&["phone"]));
    let mut phone = Counting::join(phone, 200);
    for _ in 0..200 {
        phone.push();
    }
    phone.acked();
    lab.start_session(&run, Some(&["watch"]));
    let mut watch = Counting::join(watch, 10);
    watch.push();
    watch.acked();

    disk.set(Troubles {
        scratches: vec![("phone/000001.mlog".to_owned(), 20_000..20_001)],
        ..Troubles::default()
    });
    phone.finish();
    lab.stop_session(&walk);
    assert!(disk.faults("reads") > 0);

    // Sealed without what could not be read, which is named with file and offset.
    let receipt = lab.receipt(&walk, 1);
    let [place] = &receipt.unreadable[..] else {
        panic!("{:?}", receipt.unreadable);
    };
    assert_eq!(
        (place.file.as_str(), place.offset, place.bytes),
        ("logs/phone/000001.mlog", 16_384, 4_096)
    );
    let missing = place.samples.expect("its footer can be read");
    let stream = &receipt.streams[0];
    assert_eq!(stream.parquet + missing, phone.pushed);
    assert_eq!((stream.missing, receipt.complete), (Some(missing), false));
    assert!(
        stream.gaps.iter().all(|gap| gap.cause == "unreadable"),
        "{:?}",
        stream.gaps
    );
    assert_eq!(
        lab.manifest(&walk)
            .left_out()
            .next()
            .map(|left| left.offset <= 16_384),
        Some(true)
    );

    // The hub says so, and records on.
    until("a word of it", PATIENCE, || {
        let health = get(&lab, "/health");
        let named = health.contains("logs/phone/000001.mlog can't be read at offset 16384");
        (named && health.contains("\"degraded\"")).then_some(())
    });
    assert!(get(&lab, "/ready").contains(" 200 "));
    assert!(lab.hub().metrics_text().contains("marey_unreadable_places 1\n"));
    watch.push();
    watch.acked();
    let asked = lab.ask(Request::Compact {
        session: walk.clone(),
        again: false,
    });
    match asked.expect("nothing new is no error") {
        Response::Sealed {
            generation: 1,
            unreadable,
        } => assert!(unreadable[0].contains("at offset 16384"), "{unreadable:?}"),
        other => panic!("{other:?}"),
    }

    // It is tried again by itself, and is whole once the disk can be read.
    disk.heal();
    clock.jump(Duration::from_secs(3_600));
    lab.wait_for_generation(&walk, 2);
    let receipt = lab.receipt(&walk, 2);
    assert!(
        receipt.unreadable.is_empty() && receipt.complete,
        "{:?}",
        receipt.reasons
    );
    assert_eq!(receipt.streams[0].parquet, phone.pushed);
    until("no more word of it", PATIENCE, || {
        get(&lab, "/health").contains("\"healthy\"").then_some(())
    });
    watch.push();
    watch.acked();
    assert_eq!(
        indices(&disk, &lab, &walk, "phone"),
        (0..phone.pushed as i64).collect::<Vec<_>>()
    );
}

/// What an earlier run of the hub could not read is known to the next one from the manifest.
#[test]
fn a_restart_remembers_what_could_not_be_read() {
    let (disk, clock) = (TroubledDisk::new(MemoryDisk::new()), Arc::new(Ahead::default()));
    let mut lab = Lab::on(Arc::new(disk.clone()), clock, config());
    let walk = session("walk");
    let bundle = lab.enroll("phone");
    lab.start_session(&walk, None);
    let mut phone = Counting::join(bundle, 200);
    for _ in 0..100 {
        phone.push();
    }
    phone.finish();
    let scratch = Troubles {
        scratches: vec![("phone/000001.mlog".to_owned(), 20_000..20_001)],
        ..Troubles::default()
    };
    disk.set(scratch);
    lab.stop_session(&walk);
    assert_eq!(lab.receipt(&walk, 1).unreadable.len(), 1);
    lab.end();
    disk.heal();
    lab.start();
    // Tried at once: the disk may have been changed while the hub was down.
    lab.wait_for_generation(&walk, 2);
    assert!(lab.receipt(&walk, 2).complete);
}

/// A hub does not acknowledge on top of what it does not know: where the log that it must go on with can't be read, it
/// names the file and does not start. What can be read is salvaged meanwhile; once the disk can be read, nothing is
/// missing. What stands in the middle of a sealed segment it need not read to go on.
#[test]
fn a_hub_does_not_start_on_a_log_that_it_cannot_read() {
    let disk = TroubledDisk::new(MemoryDisk::new());
    let mut lab = Lab::on(Arc::new(disk.clone()), hub::clock(), config());
    let walk = session("walk");
    let bundle = lab.enroll("phone");
    lab.start_session(&walk, None);
    let mut phone = Counting::join(bundle, 200);
    for _ in 0..100 {
        phone.push();
    }
    phone.acked();
    lab.hub().store().flush().expect("flushed");
    // A crash now, with the log as it is, not sealed; and a good end.
    let crashed = TroubledDisk::new(disk.disk().snapshot());
    phone.device.kill();
    lab.end();
    let scratch = Troubles {
        scratches: vec![("phone/000001.mlog".to_owned(), 20_000..20_001)],
        ..Troubles::default()
    };
    crashed.set(scratch.clone());
    disk.set(scratch);
    let open = |disk: &TroubledDisk| {
        let opened = Store::open(
            Arc::new(disk.clone()),
            hub::clock(),
            marey_engine::Options::default(),
        );
        opened.map(|(store, _)| store.log_status().iter().map(|log| log.samples).sum::<u64>())
    };
    let said = open(&crashed).expect_err("it does not open").to_string();
    assert!(
        said.contains("phone/000001.mlog") && said.contains("os error 5"),
        "{said}"
    );
    assert_eq!(open(&disk).expect("its footer says what is in it"), phone.pushed);

    let source = Source::on(Arc::new(crashed.clone()), Path::new("")).expect("a hub");
    let out: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    let report = recover(&source, out, &marey_engine::Options::default(), &|_, _| ()).expect("salvaged");
    let saved: u64 = report.logs.iter().map(|log| log.samples).sum();
    println!(
        "{saved} of {} samples salvaged around a block that can't be read",
        phone.pushed
    );
    assert!(saved > phone.pushed / 2, "{saved} of {}", phone.pushed);
    // The journal may have the rest: then nothing is lost, and nothing else may be said.
    assert_eq!(
        report.lost.is_nothing(),
        saved == phone.pushed,
        "what is lost is listed"
    );

    crashed.set(Troubles {
        scratches: vec![("journal/000000.mjb".to_owned(), 0..1)],
        ..Troubles::default()
    });
    let said = open(&crashed).expect_err("it does not open").to_string();
    assert!(said.contains("journal/000000.mjb"), "{said}");

    crashed.heal();
    assert_eq!(open(&crashed).expect("it opens"), phone.pushed);
}

#[test]
fn nothing_is_acknowledged_after_a_sync_that_failed() {
    for failing in ["journal/", ".mlog"] {
        let disk = TroubledDisk::new(MemoryDisk::new());
        let mut lab = Lab::on(Arc::new(disk.clone()), hub::clock(), config());
        let walk = session("walk");
        let bundle = lab.enroll_raw("board");
        lab.start_session(&walk, None);
        let mut log = Log::new(&device("board"), &walk, 1);
        let mut board = RawDevice::record(&bundle, lab.address(), &log);
        board.send(&log.declare());
        for _ in 0..20 {
            board.send(&log.data());
        }
        board.acked([log.frames, log.live()]);
        let acknowledged = log.frames;
        assert!(get(&lab, "/ready").contains(" 200 "));

        disk.set(Troubles {
            failing_syncs: Some(failing.to_owned()),
            ..Troubles::default()
        });
        if failing == ".mlog" {
            // The journal's syncs are well; a device log's fails when the session is sealed.
            lab.ask(Request::SessionStop {
                session: walk.clone(),
                wait: false,
            })
            .expect("stopped");
            until("a sync that fails", PATIENCE, || {
                (disk.faults("syncs") > 0).then_some(())
            });
        }
        board.send(&log.data());
        let refusal = refused_without_ack(&mut board, acknowledged);
        assert_eq!(refusal, RefusalCode::StorageFailed, "{failing}");
        assert_eq!(
            disk.faults("syncs"),
            1,
            "{failing}: a sync that failed is not tried again"
        );

        // The disk says yes again, as disks do after that; the hub does not believe it.
        disk.heal();
        let ready = get(&lab, "/ready");
        assert!(ready.contains(" 503 "), "{failing}: {ready}");
        for word in ["syncing", failing, "restart the hub"] {
            assert!(ready.contains(word), "{failing}: {word:?} is not in {ready}");
        }
        assert!(lab.hub().metrics_text().contains("marey_storage_works 0\n"));
        let error = lab
            .ask(Request::SessionClose {
                session: walk.clone(),
            })
            .unwrap_err();
        assert!(!error.to_string().is_empty());
        board.send(&log.open(2));
        board.send(&log.data_frame_again(log.frames - 1));
        assert_eq!(
            refused_without_ack(&mut board, acknowledged),
            RefusalCode::StorageFailed
        );
        drop(board);
        assert!(lab.try_end().is_err(), "{failing}: it must not claim a good end");

        // And the power goes, so that the cache can't help.
        disk.disk().power_cut(None);
        lab.start();
        assert!(get(&lab, "/ready").contains(" 200 "), "{failing}");
        let mut board = RawDevice::attach(&bundle, lab.address());
        let opened = board.open(1, &log);
        assert_eq!(
            opened.next.data, acknowledged,
            "{failing}: the hub has what it acknowledged, and asks for the next"
        );
        board.send(&log.data_frame_again(acknowledged));
        board.send(&log.end());
        board.acked([log.frames, log.live()]);
        if failing == "journal/" {
            lab.ask(Request::SessionStop {
                session: walk.clone(),
                wait: false,
            })
            .expect("stopped");
        }
        lab.wait_for_generation(&walk, 1);
        let receipt = lab.receipt(&walk, 1);
        assert!(receipt.complete, "{failing}: {:?}", receipt.reasons);
        assert_eq!(
            indices(&disk, &lab, &walk, "board"),
            (0..log.samples as i64).collect::<Vec<_>>(),
            "{failing}"
        );
        assert_eq!(log.samples, (acknowledged + 1) * SAMPLES_PER_FRAME);
    }
}

/// At its floor, and full to the last byte: intake waits, says so, and goes on by itself.
#[test]
fn a_full_disk_stops_intake_until_there_is_room() {
    for at_floor in [true, false] {
        let what = if at_floor {
            "at the floor"
        } else {
            "to the last byte"
        };
        let disk = TroubledDisk::new(MemoryDisk::new());
        let config = with_floor(if at_floor { 64 } else { 0 });
        let lab = Lab::on(Arc::new(disk.clone()), hub::clock(), config);
        let walk = session("walk");
        let bundle = lab.enroll("phone");
        lab.start_session(&walk, None);
        let mut phone = Counting::join(bundle, LARGE_BYTES);
        phone.push();
        phone.acked();
        let before = phone.pushed;

        match at_floor {
            true => disk.disk().set_free_bytes(63 << 20),
            false => disk.set(Troubles {
                is_full: true,
                ..Troubles::default()
            }),
        }
        // The journal's own blocks are there: a full disk is met when they have gone round.
        let mut sent = 0;
        let ready = until("a hub that is not ready", 3 * PATIENCE, || {
            if sent < LARGE_MAX {
                phone.push();
                sent += 1;
            }
            let ready = get(&lab, "/ready");
            ready.contains(" 503 ").then_some(ready)
        });
        assert!(
            ready.contains("make") && ready.contains("intake goes on"),
            "{what}: {ready}"
        );
        if at_floor {
            assert!(ready.contains("below the floor"), "{what}: {ready}");
        } else {
            assert!(
                ready.contains("No space left") && ready.contains("walk/logs/phone"),
                "{what}: {ready}"
            );
            assert!(disk.faults("writes") > 0);
        }
        phone.push();
        assert!(
            phone.device.wait_for_acks(Duration::from_millis(300)).is_err(),
            "{what}: nothing is acknowledged meanwhile"
        );
        assert!(get(&lab, "/health").contains("degraded"), "{what}");
        // If the power went now: what was acknowledged is there.
        let status = phone.device.status().session.expect("it records");
        let acknowledged = phone.pushed - status.unacknowledged_frames;
        assert!(acknowledged >= before, "{what}");
        let copy = disk.disk().snapshot();
        copy.power_cut(None);
        copy.set_free_bytes(1 << 40);
        let (store, report) =
            Store::open(Arc::new(copy), hub::clock(), marey_engine::Options::default()).expect("it opens");
        assert_eq!(report.faults, [], "{what}");
        let held: u64 = store.log_status().iter().map(|log| log.samples).sum();
        assert!(held >= acknowledged, "{what}: {held} of {acknowledged}");
        println!("{what}: {acknowledged} samples acknowledged, {held} there after a power cut");

        match at_floor {
            true => disk.disk().set_free_bytes(1 << 40),
            false => disk.heal(),
        }
        phone.acked();
        until("a hub that is ready again", PATIENCE, || {
            get(&lab, "/ready").contains(" 200 ").then_some(())
        });
        phone.push();
        phone.finish();
        lab.stop_session(&walk);
        let receipt = lab.receipt(&walk, 1);
        assert!(receipt.complete, "{what}: {:?}", receipt.reasons);
        assert_eq!(receipt.streams[0].parquet, phone.pushed, "{what}");
        assert_eq!(
            indices(&disk, &lab, &walk, "phone"),
            (0..phone.pushed as i64).collect::<Vec<_>>(),
            "{what}"
        );
    }
}

/// Room comes back when no device is there any more that could find out.
#[test]
fn a_hub_notices_by_itself_that_there_is_room() {
    let disk = TroubledDisk::new(MemoryDisk::new());
    let lab = Lab::on(Arc::new(disk.clone()), hub::clock(), with_floor(0));
    let walk = session("walk");
    let bundle = lab.enroll("phone");
    lab.start_session(&walk, None);
    let mut phone = Counting::join(bundle, LARGE_BYTES);
    disk.set(Troubles {
        is_full: true,
        ..Troubles::default()
    });
    let mut sent = 0;
    until("a hub that is not ready", 3 * PATIENCE, || {
        if sent < LARGE_MAX {
            phone.push();
            sent += 1;
        }
        get(&lab, "/ready").contains(" 503 ").then_some(())
    });
    phone.device.kill();
    until("a device that is gone", PATIENCE, || {
        get(&lab, "/health")
            .contains("\"devices_attached\":0")
            .then_some(())
    });
    assert!(get(&lab, "/ready").contains(" 503 "));
    disk.heal();
    until("a hub that is ready again", PATIENCE, || {
        get(&lab, "/ready").contains(" 200 ").then_some(())
    });
}

/// Bytes of a sample of which few fill a journal.
const LARGE_BYTES: usize = 900_000;
/// Such samples that a journal does not hold.
const LARGE_MAX: u32 = 120;

fn with_floor(mib: u64) -> HubConfig {
    let mut config = config();
    (
        config.disk.floor_percent,
        config.disk.floor_min_mib,
        config.disk.floor_max_mib,
    ) = (0.0, mib, mib);
    config.commit.flush_interval_ms = 100;
    config
}

/// Reads on until the hub refuses something; it must not acknowledge any more data.
fn refused_without_ack(board: &mut RawDevice, acknowledged: u64) -> RefusalCode {
    board.until(|message| match message {
        Down::Ack(_, ack) if ack.durable[0] > acknowledged => panic!("{ack:?} after a sync that failed"),
        Down::Refused(refusal) => Some(refusal.code),
        _ => None,
    })
}

/// Sample indices of a device in a session, over Parquet and log, in order.
fn indices(disk: &TroubledDisk, lab: &Lab, id: &SessionId, name: &str) -> Vec<i64> {
    let store = lab.hub().store();
    store.flush_session_logs(id).ok();
    let session = store.session(id).expect("it is there");
    let key = "count@1".parse().expect("a key");
    let reader = Reader::open(disk, &session, &key, &device(name), store.options()).expect("rows");
    let mut found = Vec::new();
    for batch in reader {
        let batch = batch.expect("rows");
        found.extend(batch.column(4).as_primitive::<Int64Type>().values().iter());
    }
    assert_eq!(
        check_session(disk, id, store.options()).expect("checked").faults,
        [],
        "{id}"
    );
    found
}

/// A device whose samples count from 0, each with bytes to fill disks with.
struct Counting {
    device: Device,
    stream: StreamHandle,
    bytes: usize,
    pushed: u64,
}

/// Samples that are pushed at once, where they are small.
const BATCH: u64 = 4;

impl Counting {
    fn join(bundle: marey_device::Bundle, bytes: usize) -> Self {
        let options = Options {
            reconnect_max: Duration::from_millis(200),
            ..Options::default()
        };
        let device = Device::start(bundle, options).expect("a device");
        device.wait_for_join(PATIENCE).expect("asked to join");
        let json =
            br#"{"name":"count","fields":[{"name":"n","type":"i64"},{"name":"blob","type":"binary"}]}"#;
        let declaration = Declaration::from_json(json).expect("a declaration");
        Self {
            stream: device.stream(&declaration).expect("declared"),
            device,
            bytes,
            pushed: 0,
        }
    }

    fn push(&mut self) {
        for _ in 0..if self.bytes > 10_000 { 1 } else { BATCH } {
            let values = [
                Value::I64(self.pushed as i64),
                Value::Bytes(vec![self.pushed as u8; self.bytes]),
            ];
            self.stream.push(self.device.now_ns(), &values).expect("taken");
            self.pushed += 1;
        }
        self.stream.flush().expect("a frame");
    }

    #[track_caller]
    fn acked(&self) {
        self.device.wait_for_acks(3 * PATIENCE).expect("acknowledged");
    }

    #[track_caller]
    fn finish(&self) {
        let report = self.device.finish(3 * PATIENCE).expect("finished");
        assert!(report.all_acknowledged, "{report:?}");
    }
}

/// This machine's clock, with what a test adds to it.
#[derive(Debug)]
struct Ahead {
    clock: Arc<dyn HubClock>,
    ahead_ns: AtomicI64,
}

impl Default for Ahead {
    fn default() -> Self {
        Self {
            clock: hub::clock(),
            ahead_ns: AtomicI64::new(0),
        }
    }
}

impl Ahead {
    fn jump(&self, by: Duration) {
        self.ahead_ns.fetch_add(by.as_nanos() as i64, Ordering::SeqCst);
    }
}

impl HubClock for Ahead {
    fn now(&self) -> HubInstant {
        let now = self.clock.now();
        HubInstant {
            ns: now.ns + self.ahead_ns.load(Ordering::SeqCst),
            ..now
        }
    }

    fn wall(&self) -> WallReading {
        let wall = self.clock.wall();
        WallReading {
            hub_ns: wall.hub_ns + self.ahead_ns.load(Ordering::SeqCst),
            ..wall
        }
    }
}

fn get(lab: &Lab, path: &str) -> String {
    let mut socket = TcpStream::connect(lab.hub().bound().health).expect("connected");
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
    write!(socket, "GET {path} HTTP/1.1\r\nHost: hub\r\n\r\n").expect("sent");
    let mut text = String::new();
    socket.read_to_string(&mut text).expect("received");
    text
}
