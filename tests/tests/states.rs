//! Devices that come, fall silent and go, and moments that somebody marks: what the hub says of them, and what stands in the
//! record.

#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside of the hub, and waits in real time"
)]

use marey_device::{BufferOptions, Device, Options};
use marey_format::types::Label;
use marey_format::wire::{self, Command, Done, MessageType};
use marey_format::{RefusalCode, SessionId};
use marey_server::control::{DeviceState, DeviceView, MarkAnswer, MarkView, Request, Response};
use marey_tests::hub::published::{PublishedEvent, events};
use marey_tests::hub::raw::{Down, Log, RawDevice};
use marey_tests::hub::{Lab, PATIENCE, config, device, session};
use marey_tests::process::until;
use serde_json::json;
use std::time::Duration;

/// A hub that misses a device soon: after 1.2 seconds, which is longer than from one look at devices to the next.
fn impatient() -> Lab {
    let mut config = config();
    config.limits.heartbeat_ms = 400;
    Lab::with(config)
}

fn view(lab: &Lab, name: &str) -> DeviceView {
    let Response::Devices(devices) = lab.ask(Request::DeviceList).expect("a list") else {
        panic!("another answer")
    };
    let mut devices = devices.into_iter();
    devices
        .find(|view| view.record.name == name)
        .expect("it is enrolled")
}

#[track_caller]
fn becomes(lab: &Lab, name: &str, wanted: DeviceState) {
    until(&format!("{name} {wanted}"), PATIENCE, || {
        (view(lab, name).state == wanted).then_some(())
    });
}

/// Waits until the hub has told of at least so many changes to a state: a machine that stalls makes more of them.
#[track_caller]
fn told_of(lab: &Lab, (state, times): (&str, u64), mut meanwhile: impl FnMut()) {
    let counter = format!("marey_device_changes_total{{to=\"{state}\"}} ");
    until(&counter, PATIENCE, || {
        meanwhile();
        let metrics = lab.hub().metrics_text();
        let mut counts = metrics.lines().filter_map(|line| line.strip_prefix(&counter));
        counts
            .any(|count| count.parse::<u64>().is_ok_and(|count| count >= times))
            .then_some(())
    });
}

fn mark(lab: &Lab, id: &SessionId, label: &str) -> MarkView {
    let request = Request::SessionMark {
        session: id.clone(),
        label: Label::new(label).expect("a label"),
    };
    match lab.ask(request).expect("marked") {
        Response::Marked(view) => view,
        other => panic!("{other:?}"),
    }
}

fn of_kind<'a>(events: &'a [PublishedEvent], kind: &str) -> Vec<&'a PublishedEvent> {
    events.iter().filter(|event| event.kind == kind).collect()
}

fn heartbeat(name: &str, battery: f64) -> Vec<u8> {
    let beat = json!({"v": 1, "type": "heartbeat", "timestamp_ns": 1, "device_id": name,
        "device_info": {"battery": battery, "available_storage_mb": 512, "is_recording": true}});
    wire::message(MessageType::Heartbeat, 0, beat.to_string().as_bytes())
}

#[test]
fn a_device_that_falls_silent_comes_back_and_goes_is_told_of_and_stands_in_the_record() {
    let lab = impatient();
    let walk = session("walk");
    let bundle = lab.enroll_raw("phone");
    assert_eq!(view(&lab, "phone").state, DeviceState::Offline, "never seen");
    lab.start_session(&walk, None);
    let mut log = Log::new(&device("phone"), &walk, 1);
    let mut phone = RawDevice::record(&bundle, lab.address(), &log);
    phone.send(&[log.declare(), log.data()].concat());
    phone.acked([1, 1]);
    told_of(&lab, ("online", 1), || {
        phone.send(&heartbeat("phone", 41.5));
    });
    assert_eq!(view(&lab, "phone").state, DeviceState::Online);
    let seen = until("the heartbeat", PATIENCE, || {
        let seen = view(&lab, "phone");
        seen.battery_percent
            .map(|battery| (battery, seen.available_storage_mb))
    });
    assert_eq!(seen, (41.5, Some(512.0)));
    // Three heartbeats are missed.
    told_of(&lab, ("late", 1), || ());
    // Samples are a sign of life too.
    told_of(&lab, ("online", 2), || {
        phone.send(&log.data());
    });
    drop(phone);
    told_of(&lab, ("offline", 1), || ());
    becomes(&lab, "phone", DeviceState::Offline);
    lab.stop_session(&walk);
    let events = events(&lab.session_dir(&walk));
    let states = of_kind(&events, "device_state");
    let said: Vec<_> = states
        .iter()
        .map(|event| {
            assert_eq!((event.device.as_str(), event.source.as_str()), ("phone", "hub"));
            event.text.split(':').next().unwrap_or_default()
        })
        .collect();
    // It may have been late once more on its way out; the first is missing where the log was not open yet.
    let said: Vec<_> = said.into_iter().skip_while(|state| *state == "online").collect();
    assert_eq!(said[..2], ["late", "online"], "{events:?}");
    assert_eq!(said.last(), Some(&"offline"), "{events:?}");
    let receipt = lab.receipt(&walk, 1);
    assert!(receipt.notes.iter().any(|note| note.kind == "device_state"));
}

#[test]
fn a_heartbeat_that_leaves_its_schema_is_refused_and_the_recording_goes_on() {
    let lab = Lab::new();
    let walk = session("walk");
    let bundle = lab.enroll_raw("phone");
    lab.start_session(&walk, None);
    let mut log = Log::new(&device("phone"), &walk, 1);
    let mut phone = RawDevice::record(&bundle, lab.address(), &log);
    phone.send(&heartbeat("phone", 100.5));
    let refusal = phone.refused();
    assert_eq!(refusal.code, RefusalCode::BadHeartbeat);
    assert!(refusal.message.contains("device_info.battery"), "{refusal}");
    phone.send(&[log.declare(), log.data()].concat());
    phone.acked([1, 1]);
    // One that names another device is a lie, and ends it.
    phone.send(&heartbeat("watch", 50.0));
    let (_, refusals) = phone.last_words();
    assert_eq!(refusals[0].code, RefusalCode::WrongDevice);
}

#[test]
fn a_mark_is_in_the_record_and_told_again_until_it_is_answered() {
    let lab = Lab::new();
    let walk = session("walk");
    let bundle = lab.enroll_raw("phone");
    let nobody = Request::SessionMark {
        session: walk.clone(),
        label: Label::new("too early").expect("a label"),
    };
    assert!(lab.ask(nobody.clone()).is_err(), "there is no such session");
    lab.start_session(&walk, None);
    let error = lab.ask(nobody).expect_err("there is no log to mark").to_string();
    assert!(error.contains("no device has a log"), "{error}");

    let mut log = Log::new(&device("phone"), &walk, 1);
    let attach = |log: &Log| {
        let mut phone = RawDevice::dial(&bundle, lab.address()).expect("connected");
        phone.hello(br#"{"v":1,"commands":true}"#);
        phone.open(1, log);
        phone
    };
    let command = |phone: &mut RawDevice| -> Command {
        phone.until(|message| match message {
            Down::Command(command) => Some(command.clone()),
            _ => None,
        })
    };
    let mut phone = attach(&log);
    phone.send(&[log.declare(), log.data()].concat());
    phone.acked([1, 1]);
    let marked = std::thread::scope(|scope| {
        let asked = scope.spawn(|| mark(&lab, &walk, "stood up"));
        let first = command(&mut phone);
        assert_eq!((first.what.as_str(), &first.session), (Command::MARK, &walk));
        assert_eq!(first.label.as_ref().map(Label::as_str), Some("stood up"));
        // Nothing is answered: whoever asked is told so.
        (asked.join().expect("answered"), first)
    });
    assert_eq!(marked.0.at.hub_ns, marked.1.hub_ns);
    assert_eq!(marked.0.devices[0].answer, MarkAnswer::Waiting);
    // Another connection gets it again, the same one.
    let mut phone = attach(&log);
    assert_eq!(command(&mut phone), marked.1);
    let done = Done {
        id: marked.1.id,
        ok: true,
        why: None,
    };
    phone.send(&wire::json_message(MessageType::Done, 0, &done));
    // The next connection ends this one, whatever was not read of it.
    phone.send(&log.data());
    phone.acked([2, 1]);
    // What is answered does not come again: the next command is the first thing that comes.
    let mut phone = attach(&log);
    let second = std::thread::scope(|scope| {
        let asked = scope.spawn(|| mark(&lab, &walk, "sat down"));
        let second = command(&mut phone);
        let no = Done {
            id: second.id,
            ok: false,
            why: Some("no room".to_owned()),
        };
        phone.send(&wire::json_message(MessageType::Done, 0, &no));
        let marked = asked.join().expect("answered");
        assert_eq!(marked.devices[0].answer, MarkAnswer::Refused);
        assert_eq!(marked.devices[0].why.as_deref(), Some("no room"));
        second
    });
    assert_ne!(second.id, marked.1.id);
    phone.send(&log.end());
    phone.acked([2, 2]);
    lab.stop_session(&walk);
    assert!(
        lab.ask(Request::SessionMark {
            session: walk.clone(),
            label: Label::new("too late").expect("a label"),
        })
        .is_err()
    );
    let events = events(&lab.session_dir(&walk));
    let marks: Vec<_> = of_kind(&events, "mark")
        .into_iter()
        .map(|event| (event.source.as_str(), event.text.as_str()))
        .collect();
    assert_eq!(marks, [("hub", "stood up"), ("hub", "sat down")]);
}

#[test]
fn the_client_library_carries_a_mark_out_once_whatever_happens_to_its_connection() {
    let lab = Lab::new();
    let walk = session("walk");
    let bundle = lab.enroll("phone");
    let buffer = BufferOptions {
        folder: Some(lab.beside("buffer")),
        ..BufferOptions::default()
    };
    let options = Options {
        buffer,
        reconnect_max: Duration::from_millis(200),
        ..Options::default()
    };
    let start = || Device::start(bundle.clone(), options.clone()).expect("a device");
    lab.start_session(&walk, None);
    let phone = start();
    phone.wait_for_join(PATIENCE).expect("asked to join");
    until("a log", PATIENCE, || {
        (!lab.show(&walk).logs.is_empty()).then_some(())
    });
    let marked = mark(&lab, &walk, "one");
    assert_eq!(marked.devices[0].answer, MarkAnswer::Done, "{marked:?}");
    let seen = phone.wait_for_mark(PATIENCE).expect("it was told");
    assert_eq!(seen.label.as_ref().map(Label::as_str), Some("one"));
    assert!(phone.wait_for_mark(Duration::ZERO).is_none(), "once");
    // It dies, and is marked meanwhile.
    phone.wait_for_acks(PATIENCE).expect("acknowledged");
    phone.kill();
    becomes(&lab, "phone", DeviceState::Offline);
    assert_eq!(mark(&lab, &walk, "two").devices[0].answer, MarkAnswer::Waiting);
    let phone = start();
    phone.begin(&walk).expect("it goes on");
    let seen = phone.wait_for_mark(PATIENCE).expect("it was told again");
    assert_eq!(seen.label.as_ref().map(Label::as_str), Some("two"));
    phone.wait_for_acks(PATIENCE).expect("acknowledged");
    phone.finish(PATIENCE).expect("finished");
    lab.stop_session(&walk);
    let events = events(&lab.session_dir(&walk));
    let received: Vec<_> = of_kind(&events, "mark_received")
        .into_iter()
        .map(|event| (event.source.as_str(), event.text.as_str()))
        .collect();
    assert_eq!(received, [("device", "one"), ("device", "two")]);
    assert_eq!(of_kind(&events, "mark").len(), 2);
}
