//! What lies, breaks the rules or has no right to be there, over real TLS: each gets its refusal, nothing is lost, and
//! nobody else notices. Then ends in good order, and a hub without its identity.

#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside of the hub, and waits in real time"
)]

use marey_device::client::ProbeOptions;
use marey_device::{Declaration, Device, Options, Value};
use marey_format::clock::{ProbeKind, ProbeRow};
use marey_format::frame::{Kind, Lane, control_frame};
use marey_format::wire::{self, MessageType};
use marey_format::{DeviceId, HubEpoch, RefusalCode, SessionId};
use marey_server::control::Request;
use marey_tests::hub::published::{self, Acknowledged};
use marey_tests::hub::raw::{Down, Log, RawDevice, SAMPLES_PER_FRAME, declaration};
use marey_tests::hub::{Lab, PATIENCE, device, session};
use marey_tests::process::{self, HubProcess, Running, until};
use rustix::process::Signal;
use std::net::UdpSocket;
use std::path::Path;
use std::time::{Duration, Instant};

/// One way to break the rules, on an open connection whose log has one frame of data and its declaration.
struct Lie {
    what: &'static str,
    code: RefusalCode,
    /// Whether the hub ends the connection.
    ends: bool,
    bytes: fn(&Log) -> Vec<u8>,
}

fn frame(bytes: &[u8]) -> Vec<u8> {
    wire::message(MessageType::Frame, 1, bytes)
}

fn live(log: &Log, kind: Kind, lane: Lane, count: u32, payload: &[u8]) -> Vec<u8> {
    frame(&control_frame(kind, lane, 1, log.live(), 0, count, payload, log.seed).expect("it fits"))
}

const LIES: &[Lie] = &[
    Lie {
        what: "the same sequence with other content",
        code: RefusalCode::SequenceReused,
        ends: false,
        bytes: |log| frame(&log.data_frame(1, 0, 1)),
    },
    Lie {
        what: "a wrong checksum",
        code: RefusalCode::BadCrc,
        ends: false,
        bytes: |log| {
            let mut bytes = log.data_frame(1, 1, 0);
            bytes[60] ^= 1;
            frame(&bytes)
        },
    },
    Lie {
        what: "a frame of another device",
        code: RefusalCode::BadCrc,
        ends: false,
        bytes: |log| {
            let mut other = Log::new(&device("good"), &log.session, 7);
            other.declare();
            frame(&other.data_frame(1, 1, 0))
        },
    },
    Lie {
        what: "a stream that was not declared",
        code: RefusalCode::UndeclaredStream,
        ends: false,
        bytes: |log| frame(&log.data_frame(2, 1, 0)),
    },
    Lie {
        what: "another declaration of the same stream",
        code: RefusalCode::SchemaMismatch,
        ends: false,
        bytes: |log| {
            live(
                log,
                Kind::DECLARE,
                Lane::Live,
                0,
                br#"{"name":"count","fields":[{"name":"n","type":"f64"}]}"#,
            )
        },
    },
    Lie {
        what: "a frame that only the hub writes",
        code: RefusalCode::NotForDevices,
        ends: false,
        bytes: |log| live(log, Kind::EPOCH, Lane::Live, 0, &[0; 40]),
    },
    Lie {
        what: "the hub's lane",
        code: RefusalCode::NotForDevices,
        ends: false,
        bytes: |log| live(log, Kind::EVENT, Lane::Hub, 0, br#"{"kind":"label"}"#),
    },
    Lie {
        what: "stamps that the hub never gave",
        code: RefusalCode::BadProbe,
        ends: false,
        bytes: |log| {
            let row = ProbeRow {
                kind: ProbeKind::Udp,
                hub_epoch: HubEpoch(1),
                nonce: 1,
                dev_send_ns: 1,
                hub_recv_ns: 2,
                hub_send_ns: 3,
                dev_recv_ns: 4,
                tag: [9; 8],
            };
            let mut rows = Vec::new();
            row.put(&mut rows);
            live(log, Kind::PROBES, Lane::Live, 1, &rows)
        },
    },
    Lie {
        what: "a frame over the limit",
        code: RefusalCode::FrameTooLarge,
        ends: true,
        bytes: |_| vec![0x10, 0, 1, 0, 8, 0, 0x10, 0],
    },
    Lie {
        what: "a control message over the limit",
        code: RefusalCode::MessageTooLarge,
        ends: true,
        bytes: |_| vec![0x03, 0, 0, 0, 1, 0, 1, 0],
    },
    Lie {
        what: "a message of no known type",
        code: RefusalCode::Malformed,
        ends: true,
        bytes: |_| vec![0x7E, 0, 0, 0, 0, 0, 0, 0],
    },
    Lie {
        what: "a message that only the hub sends",
        code: RefusalCode::Unexpected,
        ends: true,
        bytes: |_| wire::message(MessageType::Ack, 1, &[0; 64]),
    },
    Lie {
        what: "a heartbeat that is no JSON",
        code: RefusalCode::Malformed,
        ends: true,
        bytes: |_| wire::message(MessageType::Heartbeat, 0, b"{beat"),
    },
    Lie {
        what: "a frame on a channel that is not open",
        code: RefusalCode::Unexpected,
        ends: false,
        bytes: |log| wire::message(MessageType::Frame, 2, &log.data_frame(1, 1, 0)),
    },
];

#[test]
fn every_lie_is_refused_by_its_name_and_nothing_is_lost() {
    let lab = Lab::new();
    let walk = session("walk");
    let good_bundle = lab.enroll_raw("good");
    lab.start_session(&walk, None);
    let mut good_log = Log::new(&device("good"), &walk, 1);
    let mut good = RawDevice::record(&good_bundle, lab.address(), &good_log);
    good.send(&good_log.declare());

    for (n, lie) in LIES.iter().enumerate() {
        let what = lie.what;
        let name = format!("liar_{n}");
        let bundle = lab.enroll_raw(&name);
        let mut log = Log::new(&device(&name), &walk, 7);
        let mut liar = RawDevice::record(&bundle, lab.address(), &log);
        let first = [log.declare(), log.data()].concat();
        liar.send(&first);
        liar.acked([1, 1]);

        liar.send(&(lie.bytes)(&log));
        let refusal = if lie.ends {
            let (_, refusals) = liar.last_words();
            assert_eq!(refusals.len(), 1, "{what}: {refusals:?}");
            liar = RawDevice::record(&bundle, lab.address(), &log);
            refusals[0].clone()
        } else {
            liar.refused()
        };
        assert_eq!(refusal.code, lie.code, "{what}: {refusal}");
        assert!(
            refusal.message.len() > 10 && !refusal.message.contains('\n'),
            "{what}: {refusal}"
        );

        // The good device is not concerned, and the liar itself can still do better.
        good.send(&good_log.data());
        good.acked([good_log.frames, 1]);
        let next = log.data();
        liar.send(&next);
        liar.acked([2, 1]);
        // A true repeat is no lie.
        liar.send(&[first, next].concat());
        liar.send(&log.data());
        liar.acked([3, 1]);
        liar.send(&log.end());
        liar.acked([3, 2]);
    }
    good.send(&good_log.end());
    good.acked([LIES.len() as u64, 2]);
    println!("{} lies refused", LIES.len());

    lab.stop_session(&walk);
    let receipt = lab.receipt(&walk, 1);
    assert!(receipt.complete, "{:?}", receipt.reasons);
    assert_eq!(receipt.streams.len(), LIES.len() + 1);
    for stream in &receipt.streams {
        assert_eq!(
            (stream.missing, stream.digest_ok),
            (Some(0), Some(true)),
            "{stream:?}"
        );
        // Every value is the first that was acknowledged.
        let name = stream.device.as_str();
        let found = published::stream(&lab.session_dir(&walk), "count", name);
        let frames = if name == "good" { LIES.len() as u64 } else { 3 };
        assert_eq!(
            (found.rows, found.twice),
            (frames * SAMPLES_PER_FRAME, 0),
            "{name}"
        );
        assert_eq!(found.epochs[&0].1, digest_of_counting(found.rows), "{name}");
    }
}

/// The digest of what a [`Log`] captures.
fn digest_of_counting(samples: u64) -> String {
    let mut digest = marey_device::record::SampleDigest::new(&declaration());
    for index in 0..samples as i64 {
        digest.sample(
            index as u64,
            1_000_000_000 + index * 10_000_000,
            &[Value::I64(index)],
        );
    }
    digest.finish().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_hello_that_is_wrong_ends_the_connection() {
    let lab = Lab::new();
    let bundle = lab.enroll_raw("phone");
    lab.enroll_raw("watch");
    let hellos: [(&[u8], RefusalCode); 4] = [
        (br#"{"v":2}"#, RefusalCode::Version),
        (br#"{"v":1,"device":"watch"}"#, RefusalCode::WrongDevice),
        (br#"{"device":"phone"}"#, RefusalCode::Malformed),
        (b"hello", RefusalCode::Malformed),
    ];
    for (hello, code) in hellos {
        let mut device = RawDevice::dial(&bundle, lab.address()).expect("connected");
        device.hello(hello);
        let (_, refusals) = device.last_words();
        assert_eq!(
            refusals.iter().map(|refusal| refusal.code).collect::<Vec<_>>(),
            [code]
        );
    }
    let mut early = RawDevice::dial(&bundle, lab.address()).expect("connected");
    early.send(&wire::message(
        MessageType::Heartbeat,
        0,
        br#"{"timestamp_ms":1}"#,
    ));
    assert_eq!(early.last_words().1[0].code, RefusalCode::Unexpected);
    drop(RawDevice::attach(&bundle, lab.address()));
}

#[test]
fn whoever_shows_a_certificate_that_is_not_theirs_gets_no_word() {
    let (lab, elsewhere) = (Lab::new(), Lab::new());
    let (phone, mut of_another_hub) = (lab.enroll_raw("phone"), elsewhere.enroll_raw("phone"));
    // It trusts this hub; this hub does not trust it.
    of_another_hub.authority_pem = phone.authority_pem.clone();
    of_another_hub.hub.hub_name = phone.hub.hub_name.clone();
    let old = lab.enroll_raw("watch");
    let new = lab.enroll_raw("watch");
    for (what, bundle) in [
        ("of another authority", &of_another_hub),
        ("superseded by a later one", &old),
    ] {
        let said = RawDevice::dial(bundle, lab.address()).and_then(|mut device| {
            device.try_send(&wire::message(MessageType::Hello, 0, br#"{"v":1}"#))?;
            Ok(device.next())
        });
        assert!(matches!(said, Err(_) | Ok(None)), "{what}: {said:?}");
    }
    // A hub that is not the device's own gets no word either.
    let mut lost = phone.clone();
    lost.authority_pem = elsewhere.enroll_raw("other").authority_pem;
    assert!(
        RawDevice::dial(&lost, lab.address()).is_err(),
        "another authority's hub"
    );
    // The certificate of one device with the log of another: the checksum does not fit the name in the certificate.
    let walk = session("walk");
    lab.start_session(&walk, None);
    let mut log = Log::new(&device("watch"), &walk, 1);
    let mut thief = RawDevice::record(&phone, lab.address(), &log);
    let stolen = log.declare();
    thief.send(&stolen);
    assert_eq!(thief.refused().code, RefusalCode::BadCrc);
    let mut owner = RawDevice::record(&new, lab.address(), &log);
    owner.send(&[stolen, log.data()].concat());
    owner.acked([1, 1]);
    assert_eq!(lab.samples(&walk, &device("phone")), 0);
}

#[test]
fn a_revoked_device_is_off_at_once_and_keeps_its_data() {
    let lab = Lab::new();
    let walk = session("walk");
    let start = |bundle| {
        let options = Options {
            reconnect_max: Duration::from_millis(300),
            ..Options::default()
        };
        Device::start(bundle, options).expect("a device")
    };
    let devices = [start(lab.enroll("bad")), start(lab.enroll("good"))];
    lab.start_session(&walk, None);
    let count =
        Declaration::from_json(br#"{"name":"count","fields":[{"name":"n","type":"i32"}]}"#).expect("valid");
    let streams = devices.each_ref().map(|device| {
        device.wait_for_join(PATIENCE).expect("asked to join");
        let stream = device.stream(&count).expect("declared");
        stream.push(device.now_ns(), &[Value::I64(0)]).expect("taken");
        device.wait_for_acks(PATIENCE).expect("acknowledged");
        stream
    });
    let [bad, good] = &devices;
    let begin = Instant::now();
    lab.ask(Request::DeviceRevoke {
        device: device("bad"),
    })
    .expect("revoked");
    until("the end of its connection", PATIENCE, || {
        (!bad.status().is_connected).then_some(())
    });
    println!("off after {:?}", begin.elapsed());
    for (device, stream) in devices.iter().zip(&streams) {
        stream.push(device.now_ns(), &[Value::I64(1)]).expect("taken");
    }
    good.wait_for_acks(PATIENCE).expect("nobody else is concerned");
    assert!(bad.wait_for_acks(Duration::from_secs(1)).is_err(), "it stays out");
    assert!(
        bad.status()
            .session
            .is_some_and(|session| session.unacknowledged_frames > 0),
        "{:?}",
        bad.status()
    );
    assert_eq!(
        [
            lab.samples(&walk, &device("bad")),
            lab.samples(&walk, &device("good"))
        ],
        [1, 2]
    );
}

#[test]
fn where_udp_is_blocked_the_time_is_asked_for_in_band() {
    let lab = Lab::new();
    let walk = session("walk");
    let black_hole = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let probes = ProbeOptions {
        interval: Duration::from_millis(50),
        burst_interval: Duration::from_millis(20),
        answer_max: Duration::from_millis(100),
        ..ProbeOptions::default()
    };
    let time_address = Some(black_hole.local_addr().expect("an address"));
    let options = Options {
        probes,
        time_address,
        ..Options::default()
    };
    let phone = Device::start(lab.enroll("phone"), options).expect("a device");
    lab.start_session(&walk, None);
    phone.wait_for_join(PATIENCE).expect("asked to join");
    let count =
        Declaration::from_json(br#"{"name":"count","fields":[{"name":"n","type":"i32"}]}"#).expect("valid");
    let stream = phone.stream(&count).expect("declared");
    let mut pushed = 0;
    until("answers in-band", PATIENCE, || {
        stream.push(phone.now_ns(), &[Value::I64(pushed)]).expect("taken");
        pushed += 1;
        (phone.status().probes.answered_in_band >= 10).then_some(())
    });
    let counts = phone.status().probes;
    assert_eq!(
        counts.answered, counts.answered_in_band,
        "nothing came over UDP: {counts:?}"
    );
    assert!(phone.finish(PATIENCE).expect("finished").all_acknowledged);
    lab.stop_session(&walk);
    let receipt = lab.receipt(&walk, 1);
    let bound = receipt.streams[0].time_err_us_max.expect("a bound on both sides");
    println!("bound from in-band probes: {bound} us");
    assert!(bound < 1_000_000.0, "{bound} us");
    assert_eq!(receipt.streams[0].parquet, pushed as u64);
}

#[test]
fn sigterm_and_sigint_lose_no_ack_and_seal_the_segments() {
    let folder = tempfile::tempdir().expect("a folder");
    let (dir, bundles) = (folder.path().join("hub"), folder.path().join("bundles"));
    std::fs::create_dir(&bundles).expect("a folder");
    process::init(&dir);
    let mut hub = HubProcess::start(&dir, &[]);
    let ports = hub.ports();
    let acknowledged = folder.path().join("acknowledged");
    let mut command = process::command(["simulate", "--json", "--at-most", "120", "--acknowledged"]);
    command.arg(&acknowledged).arg(hub.enroll(&bundles, "phone"));
    let devices = Running::start(&mut command);
    hub.ask(&["session", "start", "walk"]).well();
    let bytes = || std::fs::metadata(&acknowledged).map_or(0, |metadata| metadata.len());
    let (walk, phone) = (
        SessionId::new("walk").expect("a name"),
        DeviceId::new("phone").expect("a name"),
    );
    for signal in [Signal::TERM, Signal::INT] {
        let before = bytes();
        until("acks", PATIENCE, || (bytes() > before + 2_000).then_some(()));
        let status = hub.end(signal);
        assert!(status.success(), "{signal:?}: {status}");
        assert!(
            !dir.join("control.sock").exists(),
            "{signal:?}: the control socket stays"
        );
        let logs = dir.join("sessions/session=walk/logs/phone");
        let segments = std::fs::read_dir(&logs)
            .expect("a log")
            .map(|entry| entry.expect("an entry").path());
        let mut sealed = 0;
        for segment in segments {
            assert!(
                is_sealed(&segment),
                "{signal:?}: {} is not sealed",
                segment.display()
            );
            sealed += 1;
        }
        // The device may have been told later than it wrote it down, never earlier.
        let acked = Acknowledged::read(&acknowledged);
        let lost = acked.lost(&published::log(&dir, &walk, &phone).crcs);
        println!(
            "{signal:?}: {sealed} segments sealed, {} frames acknowledged, {} lost",
            acked.frames.len(),
            lost.len()
        );
        assert!(lost.is_empty() && sealed > 0, "{signal:?}: {lost:?}");
        hub = HubProcess::start_again(&dir, ports, &[]);
    }
    hub.ask(&["session", "stop", "walk", "--wait"]).well();
    let account = devices.wait(PATIENCE).well().json();
    for stream in account[0]["streams"].as_array().expect("streams") {
        assert_eq!(stream["captured"], stream["acked"], "{stream}");
    }
    hub.stop();
}

/// Whether a segment ends with a trailer.
fn is_sealed(segment: &Path) -> bool {
    let bytes = std::fs::read(segment).expect("readable");
    bytes.len() >= 320 && bytes[bytes.len() - 64..].starts_with(b"MAREYEND")
}

#[test]
fn without_its_identity_a_hub_does_not_start_and_says_why() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().join("hub");
    process::init(&dir);
    for (name, word) in [
        ("identity.redb", "identity.redb is missing"),
        ("pki/ca.key.pem", "identity is missing"),
    ] {
        let (path, aside) = (dir.join(name), folder.path().join("aside"));
        std::fs::rename(&path, &aside).expect("moved");
        let mut command = process::hub_command(&dir, process::Ports::free(), &[]);
        let ran = process::finish(&mut command, process::PATIENCE);
        let said = ran.sentence(1).to_owned();
        assert!(said.contains(word) && said.contains("backup"), "{said}");
        assert!(!path.exists(), "nothing was made in its place");
        std::fs::rename(&aside, &path).expect("moved");
    }
    HubProcess::start(&dir, &[]).stop();
}

#[test]
fn an_unasked_open_of_an_unknown_session_is_refused() {
    let lab = Lab::new();
    let mut phone = RawDevice::attach(&lab.enroll_raw("phone"), lab.address());
    let log = Log::new(&device("phone"), &session("nowhere"), 1);
    phone.send(&log.open(1));
    let refusal = phone.refused();
    assert_eq!(
        (refusal.code, refusal.channel),
        (RefusalCode::UnknownSession, Some(1))
    );
    phone.send(&wire::message(MessageType::Bye, 0, b"{}"));
    assert!(!matches!(phone.next(), Some(Down::Refused(_))));
}
