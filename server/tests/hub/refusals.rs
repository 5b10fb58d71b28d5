//! What the hub refuses, and that an ack never passes over it.

use std::time::Duration;

use marey_format::wire::{self, MessageType};
use marey_format::{RefusalCode, SessionId};
use marey_server::control::{Request, Response};

use crate::device::{Device, Down, Log, open_message};
use crate::lab::{Lab, config, http, name, walk};

#[test]
fn what_is_refused_is_never_passed_over_by_an_ack() {
    let lab = Lab::new();
    let bundle = lab.enroll("phone");
    lab.start_session(&walk());
    let (mut device, _) = Device::attach(&bundle, lab.address());
    device.join();
    let mut log = Log::new(&device.name, &walk(), 1);
    device.open(1, &log);
    let declare = log.declare();
    let frames: Vec<Vec<u8>> = (0..4).map(|_| log.data()).collect();
    device.send(&frames[..2].concat());
    let refusal = device.refused();
    assert_eq!(refusal.code, RefusalCode::UndeclaredStream);
    assert_eq!(refusal.frame.map(|f| (f.lane, f.sequence)), Some((0, 0)));
    device.send(&frames[2]);
    device.send(&declare);
    let mut highest = [0, 0];
    while highest != [0, 1] {
        let Some(Down::Ack(1, ack)) = device.next() else {
            panic!("something else than an ack")
        };
        assert_eq!(ack.durable[0], 0, "nothing of the data lane is durable");
        highest = ack.durable;
    }
    device.send(&frames.concat());
    device.acked(1, [4, 1]);

    let mut broken = log.data();
    let last = broken.len() - 1;
    broken[last] ^= 1;
    device.send(&broken);
    assert_eq!(device.refused().code, RefusalCode::BadCrc);
    let unknown = Log::new(&device.name, &SessionId::new("run").expect("a name"), 2);
    device.send(&open_message(2, &unknown));
    let refusal = device.refused();
    assert_eq!(
        (refusal.code, refusal.channel),
        (RefusalCode::UnknownSession, Some(2))
    );
    device.send(&[0x10, 0, 1, 0, 0, 0, 0x20, 0]);
    assert_eq!(device.refused().code, RefusalCode::FrameTooLarge);
    assert_eq!(device.last_words(), None, "and that ends the connection");
    lab.hub.shutdown().expect("a good end");
}

#[test]
fn a_frame_behind_a_refused_one_waits_for_it() {
    let lab = Lab::new();
    let bundle = lab.enroll("phone");
    lab.start_session(&walk());
    let (mut device, mut log) = lab.recording(&bundle);
    device.acked(1, [0, 1]);
    // In one write: a frame of a stream that was never declared, and a good one behind it.
    let undeclared = log.data_of_stream(2);
    let good = log.data();
    device.send(&[undeclared, good].concat());
    let refusal = device.refused();
    assert_eq!(refusal.code, RefusalCode::UndeclaredStream);
    let Some(Down::Ack(1, ack)) = device.next() else {
        panic!("something else than an ack")
    };
    assert_eq!(ack.durable[0], 0, "the ack does not pass over what was refused");
    lab.hub.shutdown().expect("a good end");
}

#[test]
fn a_revoked_device_is_cut_off_and_stays_out() {
    let lab = Lab::new();
    let (phone, watch) = (lab.enroll("phone"), lab.enroll("watch"));
    let (mut device, _) = Device::attach(&phone, lab.address());
    let (mut other, _) = Device::attach(&watch, lab.address());
    device.send(&wire::message(
        MessageType::Heartbeat,
        0,
        br#"{"timestamp_ms":1,"device_info":{"battery":80}}"#,
    ));
    device.send(&wire::message(
        MessageType::Heartbeat,
        0,
        br#"{"timestamp_ms":2,"device_info":{"battery":79}}"#,
    ));
    let mut battery = None;
    for _ in 0..100 {
        let Response::Devices(devices) = lab.ask(Request::DeviceList).expect("a list") else {
            panic!()
        };
        assert_eq!(devices.len(), 2);
        assert!(devices[0].attached && devices[0].agent.as_deref() == Some("test"));
        battery = devices[0]
            .device_info
            .as_ref()
            .and_then(|i| i["battery"].as_i64());
        if battery == Some(79) {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(battery, Some(79));

    lab.ask(Request::DeviceRevoke {
        device: name("phone"),
    })
    .expect("revoked");
    match device.last_words() {
        Some(Down::Closed(0, closed)) => assert_eq!(closed.reason, RefusalCode::Revoked),
        other => panic!("{other:?}"),
    }
    let refused = Device::dial(&phone, lab.address()).and_then(|mut device| {
        device.try_send(&wire::message(MessageType::Hello, 0, br#"{"v":1}"#))?;
        Ok(device.next().is_none())
    });
    assert!(matches!(refused, Ok(true) | Err(_)), "{refused:?}");
    let again = lab.enroll("phone");
    drop(Device::attach(&again, lab.address()));
    other.send(&wire::message(MessageType::Bye, 0, b"{}"));
    assert_eq!(other.last_words(), None, "nobody else is concerned");
    let error = lab
        .ask(Request::DeviceRevoke {
            device: name("nobody"),
        })
        .expect_err("not enrolled")
        .to_string();
    assert!(error.contains("no device nobody is enrolled"), "{error}");
    let error = lab.ask(Request::DeviceEnroll {
        device: name("Phone"),
        addresses: Vec::new(),
    });
    assert!(
        error
            .expect_err("case alone")
            .to_string()
            .contains("in case alone")
    );
    lab.hub.shutdown().expect("a good end");
}

#[test]
fn below_the_disk_floor_devices_keep_their_data_and_lose_nothing() {
    let mut config = config();
    (config.disk.floor_min_mib, config.disk.floor_max_mib) = (1 << 40, 1 << 40);
    let lab = Lab::with(config);
    let bundle = lab.enroll("phone");
    lab.start_session(&walk());
    let (mut device, mut log) = lab.recording(&bundle);
    let refusal = device.refused();
    assert_eq!(
        (refusal.code, refusal.frame.map(|f| (f.lane, f.sequence))),
        (RefusalCode::DiskFloor, Some((1, 0)))
    );
    assert!(refusal.retry_after_ms.is_some_and(|ms| ms > 0));
    let ready = http(lab.hub.bound().health, "/ready");
    assert!(
        ready.starts_with("HTTP/1.1 503") && ready.contains("below the floor"),
        "{ready}"
    );
    assert!(
        http(lab.hub.bound().health, "/health").starts_with("HTTP/1.1 200"),
        "it lives all the same"
    );

    let lab = lab.again(self::config());
    let (mut device, _) = {
        drop(device);
        Device::attach(&bundle, lab.address())
    };
    assert_eq!(device.join(), walk(), "the session goes on after a restart");
    assert_eq!(device.open(1, &log).next.lanes(), [0, 0]);
    let mut all = Log::new(&device.name, &walk(), 1).declare();
    all.extend(log.data());
    device.send(&all);
    device.acked(1, [1, 1]);
    let lab = lab.again(self::config());
    let (mut device, _) = Device::attach(&bundle, lab.address());
    device.join();
    assert_eq!(
        device.open(1, &log).next.lanes(),
        [1, 1],
        "what was acknowledged is there after a restart"
    );
    lab.hub.shutdown().expect("a good end");
}
