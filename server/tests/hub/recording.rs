//! Sessions, reconnects and ends: nothing acknowledged is lost, nothing is taken twice.

use std::time::Duration;

use marey_engine::SessionState;
use marey_format::RefusalCode;
use marey_format::wire::{self, MessageType};
use marey_server::control::{ControlClient, Request, Response};

use crate::device::{Device, Down, Log, SAMPLES_PER_FRAME};
use crate::lab::{Lab, config, name, walk};

#[test]
fn a_session_from_start_to_seal() {
    let lab = Lab::new();
    let bundle = lab.enroll("phone");
    let (mut device, _) = Device::attach(&bundle, lab.address());
    lab.start_session(&walk());
    assert_eq!(
        device.join(),
        walk(),
        "an attached device is asked when the session starts"
    );
    let mut log = Log::new(&device.name, &walk(), 1);
    let opened = device.open(1, &log);
    assert_eq!((opened.next.lanes(), opened.recording), ([0, 0], true));

    let mut bytes = log.declare();
    (0..20).for_each(|_| bytes.extend(log.data()));
    bytes.extend(log.event());
    device.send(&bytes);
    let ack = device.acked(1, [20, 2]);
    assert!(ack.credit > 4 << 20, "credit moves on with what is durable");
    assert_eq!(ack.safe, [0, 0]);

    let stop = Request::SessionStop {
        session: walk(),
        wait: true,
    };
    let dir = lab.dir.path().to_owned();
    let asking = std::thread::spawn(move || {
        let mut told = Vec::new();
        let mut client = ControlClient::connect(&dir).expect("a hub");
        let response = client
            .call(&stop, |text| told.push(text.to_owned()))
            .expect("stopped");
        (response, told)
    });
    device.until(|m| match m {
        Down::Stop(stop) => (stop.session == walk() && stop.grace_ms == 5_000).then_some(()),
        _ => None,
    });
    device.send(&log.end());
    device.acked(1, [20, 3]);
    let (response, told) = asking.join().expect("no panic");
    let Response::Session(session) = response else {
        panic!("{response:?}")
    };
    assert_eq!((session.state, session.generation), (SessionState::Sealed, 1));
    assert!(
        told.iter().any(|t| t.contains("phone") || t == "sealing"),
        "{told:?}"
    );
    let safe = device.until(|m| match m {
        Down::Ack(1, ack) if ack.safe != [0, 0] => Some(ack.safe),
        _ => None,
    });
    assert_eq!(safe, [20, 3], "what is sealed is safe");

    let late = log.data();
    device.send(&late);
    device.acked(1, [21, 3]);
    let deadline = std::time::Duration::from_secs(10);
    let mut waited = Duration::ZERO;
    let generation = loop {
        let Response::SessionShown(shown) = lab.ask(Request::SessionShow { session: walk() }).expect("shown")
        else {
            panic!("not shown")
        };
        assert_eq!(shown.logs.len(), 1);
        assert_eq!(shown.logs[0].samples, 21 * SAMPLES_PER_FRAME);
        if shown.session.generation == 2 || waited > deadline {
            break shown.session.generation;
        }
        std::thread::sleep(Duration::from_millis(50));
        waited += Duration::from_millis(50);
    };
    assert_eq!(generation, 2, "late frames make another generation");

    lab.ask(Request::SessionClose { session: walk() })
        .expect("closed");
    let reason = device.until(|m| match m {
        Down::Closed(1, closed) => Some(closed.reason),
        _ => None,
    });
    assert_eq!(reason, RefusalCode::SessionClosed);
    device.send(&wire::message(MessageType::Bye, 0, b"{}"));
    assert_eq!(device.last_words(), None);
    lab.hub.shutdown().expect("a good end");
}

#[test]
fn a_newer_connection_takes_the_place_of_the_older() {
    let lab = Lab::new();
    let bundle = lab.enroll("phone");
    lab.start_session(&walk());
    let (mut first, mut log) = lab.recording(&bundle);
    let mut bytes = Vec::new();
    (0..5).for_each(|_| bytes.extend(log.data()));
    first.send(&bytes);
    first.acked(1, [5, 1]);

    let (mut second, _) = Device::attach(&bundle, lab.address());
    match first.last_words() {
        Some(Down::Closed(0, closed)) => assert_eq!(closed.reason, RefusalCode::Replaced),
        other => panic!("{other:?}"),
    }
    let opened = second.open(1, &log);
    assert_eq!(
        opened.next.lanes(),
        [5, 1],
        "what the first had acknowledged is there"
    );
    second.send(&bytes);
    second.send(&log.data());
    second.acked(1, [6, 1]);
    let metrics = lab.hub.metrics_text();
    assert!(metrics.contains("marey_duplicate_frames_total 5"), "{metrics}");
    assert!(metrics.contains("marey_devices_attached 1"), "{metrics}");
    lab.hub.shutdown().expect("a good end");
}

#[test]
fn a_hub_that_goes_down_acknowledges_what_it_has() {
    let lab = Lab::new();
    let bundle = lab.enroll("phone");
    lab.start_session(&walk());
    let (mut device, mut log) = lab.recording(&bundle);
    let sent = 300;
    let mut bytes = Vec::new();
    (0..sent).for_each(|_| bytes.extend(log.data()));
    device.send(&bytes);
    // Some of it has been read by now, the rest lies in sockets.
    let mut highest = device.until(|m| match m {
        Down::Ack(1, ack) if ack.durable[0] > 0 => Some(ack.durable[0]),
        _ => None,
    });
    let store = lab.hub.store().clone();
    let ending = std::thread::spawn(move || lab.hub.shutdown());
    let mut last = None;
    while let Some(message) = device.next() {
        if let Down::Ack(1, ack) = &message {
            assert!(ack.durable[0] >= highest);
            highest = ack.durable[0];
        }
        last = Some(message);
    }
    assert!(
        matches!(last, Some(Down::Closed(0, ref c)) if c.reason == RefusalCode::ShuttingDown),
        "{last:?}"
    );
    ending.join().expect("no panic").expect("a good end");
    let status = store.log_status();
    let in_store = status
        .iter()
        .find(|s| s.device == name("phone"))
        .expect("a log")
        .samples;
    assert_eq!(
        in_store,
        highest * SAMPLES_PER_FRAME,
        "acknowledged is what is there, and all of it"
    );
}

#[test]
fn a_device_that_ignores_its_credit_is_slowed_and_loses_nothing() {
    let mut config = config();
    config.limits.credit_bytes = 2 << 20;
    config.limits.commit_queue_bytes_max = 2 << 20;
    let lab = Lab::with(config);
    let bundle = lab.enroll("phone");
    lab.start_session(&walk());
    let (mut device, mut log) = lab.recording(&bundle);
    let frames = 6_000;
    // Half of it without reading a single ack; it fits into the buffers between us only because the hub takes it in.
    for _ in 0..frames / 50 {
        let mut bytes = Vec::new();
        (0..50).for_each(|_| bytes.extend(log.data()));
        device.send(&bytes);
    }
    let ack = device.acked(1, [frames, 1]);
    assert!(ack.credit > 2 << 20);
    lab.hub.shutdown().expect("a good end");
}
