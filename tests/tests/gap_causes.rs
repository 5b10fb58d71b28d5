//! Gaps by their causes: each is planted with an exact count, and found under its name in `gaps.parquet` and in the receipt,
//! and nothing else is.

#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside of the hub, and waits in real time"
)]

use marey_device::{BufferOptions, Declaration, Device, Options, Retain, Value, WhenFull};
use marey_engine::compact::{Receipt, read_receipt};
use marey_engine::disk::memory::MemoryDisk;
use marey_engine::disk::{Disk, OsDisk};
use marey_engine::log::Replay;
use marey_engine::read::gaps;
use marey_engine::{OpenError, Session, Store};
use marey_format::SessionId;
use marey_format::frame::Kind;
use marey_format::payload::{Lost, LostCause};
use marey_tests::hub::raw::{Log, RawDevice};
use marey_tests::hub::{Lab, PATIENCE, clock, config, device, session};
use marey_tests::process::{self, until};
use marey_tests::python;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Device, cause, first and last index.
type Found = (String, String, i64, i64);

/// What `gaps.parquet` says; the receipt must say the same.
fn found(disk: &dyn Disk, id: &SessionId) -> (Vec<Found>, Receipt) {
    let rows = gaps(disk, id, 0, 1_000).expect("readable").expect("published");
    let mut found: Vec<Found> = Vec::new();
    let mut counted: BTreeMap<(String, String), (usize, u64)> = BTreeMap::new();
    for row in &rows {
        assert_eq!(row.samples, row.last_seq - row.first_seq + 1, "{row:?}");
        found.push((row.device.clone(), row.cause.clone(), row.first_seq, row.last_seq));
        let count = counted
            .entry((row.device.clone(), row.cause.clone()))
            .or_default();
        *count = (count.0 + 1, count.1 + row.samples as u64);
    }
    let dir = Session::dir(id);
    let generation = Session::read(disk, &dir).expect("readable").generation;
    let receipt = read_receipt(disk, &dir, generation)
        .expect("readable")
        .expect("there");
    let told = receipt.streams.iter().flat_map(|stream| {
        let of = stream.device.to_string();
        let causes = stream.causes.iter();
        causes.map(move |fact| ((of.clone(), fact.cause.clone()), (fact.gaps, fact.samples)))
    });
    assert_eq!(told.collect::<BTreeMap<_, _>>(), counted);
    (found, receipt)
}

/// `info` says of what is published the same as of the logs that it was made of.
fn info_agrees(folder: &Path) {
    let folder = folder.to_str().expect("a path");
    let [published, mut logs] = [
        &["info", folder, "--json"][..],
        &["info", folder, "--json", "--logs"],
    ]
    .map(|arguments| process::run(arguments).well().json());
    // What each stream takes of the logs stands nowhere else.
    for device in logs["devices"].as_array_mut().expect("devices") {
        for stream in device["streams"].as_array_mut().expect("streams") {
            assert!(
                stream["bytes"].as_u64().is_some_and(|bytes| bytes > 0),
                "{stream}"
            );
            stream["bytes"] = serde_json::Value::Null;
        }
    }
    assert_eq!(published, logs);
}

fn gap(device: &str, cause: &str, first: i64, last: i64) -> Found {
    (device.to_owned(), cause.to_owned(), first, last)
}

#[test]
fn each_cause_that_a_device_tells_or_shows_is_named_with_its_count() {
    let lab = Lab::new();
    let walk = session("walk");
    let bundles = ["board", "phone", "watch"].map(|name| lab.enroll_raw(name));
    lab.start_session(&walk, None);

    let mut log = Log::new(&device("phone"), &walk, 1);
    let mut phone = RawDevice::record(&bundles[1], lab.address(), &log);
    let mut sent = [log.declare(), log.data()].concat();
    let lost = |cause, first, last| Lost::new(cause, first, last);
    sent.extend(log.lost(&lost(LostCause::NeverCaptured, 50, 59)));
    log.never(10);
    sent.extend(log.data()); // 60..110
    log.let_go(); // 110..160
    sent.extend(log.data()); // 160..210
    sent.extend(log.lost(&lost(LostCause::Network, 210, 229)));
    sent.extend(log.lost(&lost(LostCause::NoRoom, 230, 233)));
    sent.extend(log.lost(&lost(LostCause::Off, 234, 236)));
    log.skip(30); // 210..240: of 237..240 nothing is said
    sent.extend(log.data()); // 240..290
    sent.extend(log.data_back_in_time()); // 290..340
    sent.extend(log.data()); // 340..390
    phone.send(&sent);
    phone.acked([7, 5]);
    let unsent = log.data(); // 390..440: counted, never sent
    phone.send(&log.end());
    phone.acked([7, 6]);
    assert!(!unsent.is_empty());

    // Another boot goes on with the index, and the first never stated its end.
    let name = device("board");
    let mut first = Log::new(&name, &walk, 1).with_boot(1);
    let mut board = RawDevice::record(&bundles[0], lab.address(), &first);
    board.send(&[first.declare(), first.data()].concat());
    board.acked([1, 1]);
    let mut second = first.rebooted(&name, 2, 2, 7);
    drop(board);
    let mut board = RawDevice::record(&bundles[0], lab.address(), &second);
    board.send(&[second.declare(), second.data(), second.end()].concat());
    board.acked([1, 2]);

    // One that numbered more than it says it captured, and does not say which.
    let mut log = Log::new(&device("watch"), &walk, 1);
    let mut watch = RawDevice::record(&bundles[2], lab.address(), &log);
    let mut sent = [log.declare(), log.data()].concat();
    log.never(5);
    sent.extend([log.data(), log.end()].concat());
    watch.send(&sent);
    watch.acked([2, 2]);

    lab.stop_session(&walk);
    let disk = OsDisk::new(lab.dir());
    let (found, receipt) = found(&disk, &walk);
    assert_eq!(
        found,
        [
            gap("board", "device off", 50, 56),
            gap("phone", "never captured", 50, 59),
            gap("phone", "lost in the device's buffer", 110, 159),
            gap("phone", "network given up", 210, 229),
            gap("phone", "hub refused for lack of room", 230, 233),
            gap("phone", "device off", 234, 236),
            gap("phone", "lost in the device's buffer", 237, 239),
            gap("phone", "kept out", 290, 339),
            gap("phone", "not received", 390, 439),
            gap("watch", "unknown", 50, 54),
        ]
    );
    let of = |name: &str| {
        receipt
            .streams
            .iter()
            .find(|it| it.device.as_str() == name)
            .expect("there")
    };
    // Never captured is not captured; kept out is durable, and not in Parquet.
    let phone = of("phone");
    assert_eq!(
        (phone.captured, phone.durable, phone.parquet),
        (Some(430), 300, 250)
    );
    assert_eq!(phone.missing, Some(180));
    assert_eq!(of("board").captured, None, "its first epoch never stated a total");
    assert_eq!((of("watch").captured, of("watch").missing), (Some(100), Some(0)));
    assert!(!receipt.complete);
    info_agrees(&lab.session_dir(&walk));
}

#[test]
fn what_a_device_lost_while_the_hub_had_no_room_is_laid_at_the_hubs_door() {
    let disk = MemoryDisk::new();
    let mut config = config();
    (config.disk.floor_min_mib, config.disk.floor_max_mib) = (64, 64);
    let lab = Lab::on(Arc::new(disk.clone()), clock(), config);
    let walk = session("walk");
    let bundle = lab.enroll("phone");
    lab.start_session(&walk, None);
    let options = Options {
        reconnect_max: Duration::from_millis(200),
        buffer: BufferOptions {
            bytes_max: 40_000,
            when_full: WhenFull::RefuseNew,
            retain: Retain::UntilDurable,
            ..BufferOptions::default()
        },
        ..Options::default()
    };
    let phone = Device::start(bundle, options).expect("a device");
    phone.wait_for_join(PATIENCE).expect("asked to join");
    let json = br#"{"name":"count","fields":[{"name":"n","type":"i64"},{"name":"blob","type":"binary"}]}"#;
    let stream = phone
        .stream(&Declaration::from_json(json).expect("a declaration"))
        .expect("declared");
    let mut pushed = 0u64;
    let mut push = || {
        let values = [Value::I64(pushed as i64), Value::Bytes(vec![1; 9_000])];
        stream.push(phone.now_ns(), &values).expect("taken");
        stream.flush().expect("a frame");
        pushed += 1;
    };
    push();
    phone.wait_for_acks(PATIENCE).expect("acknowledged");
    // The clock's bound is finite once packets went both ways.
    until("a bound", PATIENCE, || {
        let logs = lab.hub().store().log_status();
        logs.iter().any(|log| log.clock.is_some()).then_some(())
    });
    disk.set_free_bytes(63 << 20);
    until("a hub below its floor", PATIENCE, || {
        lab.hub().store().health().below_floor.then_some(())
    });
    // More than the buffer holds: what finds no place is lost, and the device knows how much.
    (0..20).for_each(|_| push());
    let lost = until("losses", PATIENCE, || {
        let status = phone.status().session?;
        let lost: u64 = status.streams.iter().map(|stream| stream.lost).sum();
        (lost > 0).then_some(lost)
    });
    // It looks every half second.
    std::thread::sleep(Duration::from_secs(3));
    disk.set_free_bytes(1 << 40);
    phone.wait_for_acks(3 * PATIENCE).expect("acknowledged");
    until("a hub that notes it", PATIENCE, || {
        lab.hub().store().flush_session_logs(&walk).expect("flushed");
        is_noted(&disk, &walk).then_some(())
    });
    push();
    phone.wait_for_acks(PATIENCE).expect("acknowledged");
    phone.finish(3 * PATIENCE).expect("finished");
    lab.stop_session(&walk);
    let (found, receipt) = found(&disk, &walk);
    assert!(
        !found.is_empty()
            && found
                .iter()
                .all(|(_, cause, ..)| cause == "hub refused for lack of room"),
        "{found:?}; {:?}",
        receipt.notes
    );
    let missing: i64 = found.iter().map(|(.., first, last)| last - first + 1).sum();
    assert_eq!(missing as u64, lost);
    assert_eq!(receipt.streams[0].missing, Some(lost));
    assert!(receipt.notes.iter().any(|note| note.kind == "no_room"));
}

/// Whether the hub noted in the phone's log that it had no room.
fn is_noted(disk: &dyn Disk, id: &SessionId) -> bool {
    let mut replay = Replay::open(disk, id, &device("phone")).expect("a log");
    while let Some(found) = replay.next().expect("readable") {
        let (kind, payload) = (found.at.frame.header().kind, found.at.frame.payload());
        if kind == Kind::NOTE && String::from_utf8_lossy(payload).contains("no_room") {
            return true;
        }
    }
    false
}

#[test]
fn what_the_client_says_was_never_captured_is_no_loss() {
    let lab = Lab::new();
    let walk = session("walk");
    let bundle = lab.enroll("phone");
    lab.start_session(&walk, None);
    let phone = Device::start(bundle, Options::default()).expect("a device");
    phone.wait_for_join(PATIENCE).expect("asked to join");
    let json = br#"{"name":"count","fields":[{"name":"n","type":"i64"}]}"#;
    let stream = phone
        .stream(&Declaration::from_json(json).expect("a declaration"))
        .expect("declared");
    for n in 0..30 {
        if n == 20 {
            stream.missed(phone.now_ns(), 4).expect("said");
        }
        stream.push(phone.now_ns(), &[Value::I64(n)]).expect("taken");
    }
    phone.finish(PATIENCE).expect("finished");
    lab.stop_session(&walk);
    let (found, receipt) = found(&OsDisk::new(lab.dir()), &walk);
    assert_eq!(found, [gap("phone", "never captured", 20, 23)]);
    let stream = &receipt.streams[0];
    assert_eq!(
        (stream.captured, stream.parquet, stream.missing),
        (Some(30), 30, Some(0))
    );
    assert_eq!(stream.digest_ok, Some(true));
    info_agrees(&lab.session_dir(&walk));
}

#[test]
fn damage_is_named_and_logs_that_retention_removed_count_as_retired() {
    let mut lab = Lab::new();
    let walk = session("walk");
    let bundle = lab.enroll_raw("phone");
    lab.start_session(&walk, None);
    let mut log = Log::new(&device("phone"), &walk, 1);
    let mut phone = RawDevice::record(&bundle, lab.address(), &log);
    phone.send(&[log.declare(), log.data(), log.data(), log.data(), log.end()].concat());
    phone.acked([3, 2]);
    drop(phone);
    lab.end();
    // The second frame rots before anything is published.
    let frame = log.data_frame_again(1)[8..].to_vec();
    let path = lab.session_dir(&walk).join("logs/phone/000001.mlog");
    let mut bytes = std::fs::read(&path).expect("a log");
    let at = bytes
        .windows(frame.len())
        .position(|window| window == frame)
        .expect("it stands there");
    bytes[at + frame.len() - 9] ^= 1;
    std::fs::write(&path, bytes).expect("written");
    lab.start();
    lab.stop_session(&walk);
    let disk = OsDisk::new(lab.dir());
    let (damaged, receipt) = found(&disk, &walk);
    assert_eq!(damaged, [gap("phone", "damage", 50, 99)]);
    assert_eq!(
        (receipt.streams[0].captured, receipt.streams[0].missing),
        (Some(150), Some(50))
    );
    info_agrees(&lab.session_dir(&walk));
    let view = process::run([
        "receipt",
        "--json",
        lab.session_dir(&walk).to_str().expect("a path"),
    ])
    .well()
    .json();
    assert_eq!(
        view["streams"][0]["received"],
        serde_json::Value::Null,
        "damage may have taken more"
    );

    // A whole session whose logs went counts as retired, not as lost.
    let run = session("run");
    lab.start_session(&run, None);
    let mut log = Log::new(&device("phone"), &run, 2);
    let mut phone = RawDevice::record(&bundle, lab.address(), &log);
    phone.send(&[log.declare(), log.data(), log.end()].concat());
    phone.acked([1, 2]);
    drop(phone);
    lab.stop_session(&run);
    lab.end();
    let (store, _) = until("a hub that is gone", PATIENCE, || {
        match Store::open(Arc::new(OsDisk::new(lab.dir())), clock(), options()) {
            Err(OpenError::AlreadyOpen { .. }) => None,
            opened => Some(opened.expect("it opens")),
        }
    });
    store.close_session(&run).expect("closed");
    store.retire_logs(&run, "a rule of this test").expect("retired");
    store.close().expect("closed");
    let (found, _) = found(&disk, &run);
    assert_eq!(found, []);
    let folder = lab.session_dir(&run);
    let view = process::run(["receipt", "--json", folder.to_str().expect("a path")])
        .well()
        .json();
    assert_eq!(
        (&view["streams"][0]["retired"], &view["retired"]["samples"]),
        (&50.into(), &50.into())
    );
    assert_eq!(view["streams"][0]["missing"], 0);
    process::run(["verify", "--receipt", folder.to_str().expect("a path")]).well();
}

/// Device time in nanoseconds, values.
type Rows = Vec<(i64, Vec<f64>)>;

/// Six channels of a real recording, of a phone or a watch, and its file.
fn recorded(name: &str) -> Option<(PathBuf, Rows)> {
    let data = std::env::var_os("MAREY_RECORDINGS")
        .map_or(process::workspace().join("../shared/data"), PathBuf::from);
    let path = data.join("geotec-phone-watch").join(name);
    let Ok(text) = std::fs::read_to_string(&path) else {
        eprintln!(
            "SKIPPED: no recording at {} (set MAREY_RECORDINGS)",
            path.display()
        );
        return None;
    };
    let rows = text.lines().skip(1).map(|line| {
        let cells: Vec<&str> = line.split(',').collect();
        let stamp_ms: i64 = cells[6].parse().expect("a stamp");
        let values = cells[..6].iter().map(|cell| cell.parse().expect("a number"));
        (stamp_ms * 1_000_000, values.collect())
    });
    let rows = rows.collect();
    Some((path, rows))
}

/// Losses of every cause, planted into what a real phone and a real watch recorded at once: each is found with its rows, nothing
/// else is, and every other row is in Parquet to the bit.
#[test]
fn what_is_planted_into_real_recordings_is_found_and_nothing_else() {
    let Some((phone_csv, phone_rows)) = recorded("s01_01_sp.csv") else {
        return;
    };
    let (watch_csv, watch_rows) = recorded("s01_01_sw.csv").expect("it stands beside the other");
    let fields: Vec<String> = ["x_acc", "y_acc", "z_acc", "x_gyro", "y_gyro", "z_gyro"]
        .map(|name| format!(r#"{{"name":"{name}","type":"f64"}}"#))
        .to_vec();
    let json = format!(r#"{{"name":"imu","fields":[{}]}}"#, fields.join(","));
    let imu = Declaration::from_json(json.as_bytes()).expect("a declaration");
    let mut lab = Lab::new();
    let walk = session("walk");
    let [phone_bundle, watch_bundle] = ["phone", "watch"].map(|name| lab.enroll_raw(name));
    lab.start_session(&walk, None);

    let lost = |cause, first: u64, last: u64| Lost::new(cause, first, last);
    let mut log = Log::new(&device("phone"), &walk, 1);
    let mut phone = RawDevice::record(&phone_bundle, lab.address(), &log);
    let mut sent = log.declare_as(&imu);
    let (mut rotten, mut frames) = (Vec::new(), 0);
    let last = (phone_rows.len() - 1) / 50;
    for (n, rows) in phone_rows.chunks(50).enumerate() {
        let first = log.samples;
        let end = first + rows.len() as u64 - 1;
        match n {
            2 => {
                sent.extend(log.lost(&lost(LostCause::NeverCaptured, first, first + 9)));
                log.never(10);
                sent.extend(log.rows(&imu, &rows[10..]));
            }
            5 => {
                log.let_go();
                continue;
            }
            8 | 11 | 14 => {
                let cause = [LostCause::Network, LostCause::NoRoom, LostCause::Off][n / 3 - 2];
                sent.extend(log.lost(&lost(cause, first, end)));
                log.skip(50);
                continue;
            }
            17 => {
                let back =
                    |(time_ns, values): &(i64, Vec<f64>)| (time_ns - 3_600_000_000_000, values.clone());
                sent.extend(log.rows(&imu, &rows.iter().map(back).collect::<Vec<_>>()));
            }
            20 => {
                rotten = log.rows(&imu, rows);
                sent.extend(&rotten);
            }
            // Counted, and never sent.
            n if n == last => {
                log.rows(&imu, rows);
                continue;
            }
            _ => sent.extend(log.rows(&imu, rows)),
        }
        frames += 1;
    }
    phone.send(&sent);
    phone.acked([frames + 1, log.live()]);
    phone.send(&log.end());
    phone.acked([frames + 1, log.live()]);

    // Another boot goes on with the index; the first never stated its end.
    let name = device("watch");
    let mut first = Log::new(&name, &walk, 1).with_boot(1);
    let mut watch = RawDevice::record(&watch_bundle, lab.address(), &first);
    let mut sent = first.declare_as(&imu);
    for rows in watch_rows[..500].chunks(50) {
        sent.extend(first.rows(&imu, rows));
    }
    watch.send(&sent);
    watch.acked([10, 1]);
    let mut second = first.rebooted(&name, 2, 2, 7);
    drop(watch);
    let mut watch = RawDevice::record(&watch_bundle, lab.address(), &second);
    let mut sent = second.declare_as(&imu);
    for rows in watch_rows[507..].chunks(50) {
        sent.extend(second.rows(&imu, rows));
    }
    sent.extend(second.end());
    watch.send(&sent);
    watch.acked([second.frames, 2]);

    // One of the phone's frames rots before anything is published.
    drop((phone, watch));
    lab.end();
    let path = lab.session_dir(&walk).join("logs/phone/000001.mlog");
    let mut bytes = std::fs::read(&path).expect("a log");
    let frame = &rotten[8..];
    let at = bytes.windows(frame.len()).position(|window| window == frame);
    bytes[at.expect("it stands there") + frame.len() - 9] ^= 1;
    std::fs::write(&path, bytes).expect("written");
    lab.start();
    lab.stop_session(&walk);

    let end = phone_rows.len() as i64 - 1;
    let (found, receipt) = found(&OsDisk::new(lab.dir()), &walk);
    let planted = [
        gap("phone", "never captured", 100, 109),
        gap("phone", "lost in the device's buffer", 250, 299),
        gap("phone", "network given up", 400, 449),
        gap("phone", "hub refused for lack of room", 550, 599),
        gap("phone", "device off", 700, 749),
        gap("phone", "kept out", 850, 899),
        gap("phone", "damage", 1000, 1049),
        gap("phone", "not received", last as i64 * 50, end),
        gap("watch", "device off", 500, 506),
    ];
    assert_eq!(found, planted);
    info_agrees(&lab.session_dir(&walk));
    let parquet = |name: &str| {
        let of = receipt.streams.iter().find(|it| it.device.as_str() == name);
        of.expect("there").parquet
    };
    for (name, csv, rows) in [
        ("phone", phone_csv, phone_rows.len()),
        ("watch", watch_csv, watch_rows.len()),
    ] {
        let gaps = planted.iter().filter(|(of, ..)| of == name);
        let gaps: Vec<_> = gaps.map(|(.., first, last)| (first, last)).collect();
        let missing: i64 = gaps.iter().map(|(first, last)| *last - *first + 1).sum();
        assert_eq!(parquet(name), (rows as i64 - missing) as u64, "{name}");
        let gaps = serde_json::to_string(&gaps).expect("JSON");
        let of = lab
            .session_dir(&walk)
            .join("streams/stream=imu@1")
            .join(format!("device={name}"));
        let [csv, of] = [&csv, &of].map(|path| path.to_str().expect("UTF-8"));
        python::run(&python::script("check_planted.py"), [csv, of, &gaps]);
    }
}

fn options() -> marey_engine::Options {
    marey_engine::Options {
        disk_floor_bytes: Some(0),
        ..marey_engine::Options::default()
    }
}
