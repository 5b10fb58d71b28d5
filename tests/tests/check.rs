//! Go or no-go, end to end: a protocol file, judged before and while its session is recorded, from the command line; a
//! breach begins, stands in the record, and ends.

#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside of the hub, and waits in real time"
)]

use marey_format::wire::{self, MessageType};
use marey_server::control::{CheckView, Request, Response, SessionView};
use marey_server::judge::rules::{Phase, Rule, Verdict};
use marey_tests::hub::published::events;
use marey_tests::hub::raw::{Log, RawDevice};
use marey_tests::hub::{Lab, PATIENCE, device, session};
use marey_tests::process::{Ran, run, until};
use serde_json::json;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const PROTOCOL: &str = r#"
v = 1
title = "A count, and nothing else"
window_s = 2
[hub]
disk_free_mib_min = 1
[devices]
required = ["phone"]
battery_percent_min = 30
storage_minutes_min = 10
storage_mb_per_minute = 2
[[stream]]
stream = "count"
rate_hz_min = 95
rate_hz_max = 105
gap_s_max = 60
"#;

fn check(lab: &Lab) -> CheckView {
    let request = Request::SessionCheck {
        session: session("walk"),
    };
    match lab.ask(request).expect("judged") {
        Response::Checked(view) => view,
        other => panic!("{other:?}"),
    }
}

fn verdict(view: &CheckView, rule: Rule) -> Option<Verdict> {
    let finding = view.rules.iter().find(|finding| finding.rule == rule);
    finding.map(|finding| finding.verdict)
}

fn marey(lab: &Lab, arguments: &[&str]) -> Ran {
    let dir = lab.dir();
    let dir = dir.to_str().expect("plain");
    run([arguments, &["--dir", dir]].concat())
}

fn heartbeat(battery: u64) -> Vec<u8> {
    let beat = json!({"v": 1, "type": "heartbeat", "timestamp_ns": 1, "device_id": "phone",
        "device_info": {"battery": battery, "available_storage_mb": 512, "is_recording": true}});
    wire::message(MessageType::Heartbeat, 0, beat.to_string().as_bytes())
}

#[test]
fn a_recording_is_held_against_its_protocol_from_before_its_start_to_its_end() {
    let lab = Lab::new();
    let walk = session("walk");
    let file = lab.beside("walk.toml");
    let path = file.to_str().expect("plain");
    std::fs::write(&file, "v = 1\n[devices]\nbatery = 3\n").expect("written");
    let wrong = marey(&lab, &["session", "create", "walk", "--protocol", path]);
    assert!(wrong.sentence(2).contains("line 3: unknown field `batery`"));
    std::fs::write(&file, PROTOCOL).expect("written");
    let unknown = marey(&lab, &["session", "create", "walk", "--protocol", path]);
    assert!(unknown.sentence(1).contains("no device phone is enrolled"));
    let bundle = lab.enroll_raw("phone");
    marey(&lab, &["session", "create", "walk", "--protocol", path]).well();
    let kept = lab.hub().store().session(&walk).expect("it is there");
    assert_eq!(
        kept.protocol.as_deref(),
        Some(PROTOCOL),
        "it is part of the record"
    );

    // Nobody is there.
    let missing = marey(&lab, &["session", "check", "walk", "--json"]);
    assert_eq!(missing.code, Some(1));
    let view: CheckView = serde_json::from_value(missing.json()).expect("its form");
    assert_eq!((view.phase, view.go), (Phase::Before, false));
    assert_eq!(verdict(&view, Rule::Device), Some(Verdict::NoGo));
    assert_eq!(verdict(&view, Rule::Battery), Some(Verdict::Later));
    assert_eq!(view.title.as_deref(), Some("A count, and nothing else"));

    let mut log = Log::new(&device("phone"), &walk, 1);
    let mut phone = RawDevice::attach(&bundle, lab.address());
    phone.send(&heartbeat(80));
    until("go", PATIENCE, || check(&lab).go.then_some(()));
    let go = marey(&lab, &["session", "check", "walk"]);
    assert_eq!(go.code, Some(0), "{go:?}");

    lab.ask(Request::SessionStart {
        session: walk.clone(),
        create: None,
    })
    .expect("started");
    phone.open(1, &log);
    let declare = log.declare();
    phone.send(&declare);
    let (over, battery) = (AtomicBool::new(false), AtomicU64::new(80));
    let sent = std::thread::scope(|scope| {
        let recording = scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                let frame = log.data();
                phone.send(&[heartbeat(battery.load(Ordering::SeqCst)), frame].concat());
                std::thread::sleep(Duration::from_millis(250));
            }
            phone.acked([log.frames, 1]);
            let end = log.end();
            phone.send(&end);
            phone.acked([log.frames, 2]);
            log.frames
        });
        // A machine that stalls breaks the rate now and then, and mends it: what is asked for is the battery's breach.
        let view = until("a rate that holds", PATIENCE, || {
            let view = check(&lab);
            (verdict(&view, Rule::Rate) == Some(Verdict::Go) && view.breaches.is_empty()).then_some(view)
        });
        assert!(view.go && view.phase == Phase::During, "{view:?}");

        battery.store(12, Ordering::SeqCst);
        let of_battery = |view: &SessionView| {
            let mut findings = view.breaches.iter().map(|breach| breach.finding.clone());
            findings.find(|finding| finding.rule == Rule::Battery)
        };
        let breach = until("a breach", PATIENCE, || of_battery(&lab.show(&walk)));
        assert_eq!(breach.is, "12 %");
        assert!(
            !lab.hub()
                .metrics_text()
                .contains("marey_session_breaches{session=\"walk\"} 0\n")
        );
        let no_go = marey(&lab, &["session", "check", "walk"]);
        assert_eq!(no_go.code, Some(1), "{no_go:?}");

        battery.store(90, Ordering::SeqCst);
        until("its end", PATIENCE, || {
            of_battery(&lab.show(&walk)).is_none().then_some(())
        });
        over.store(true, Ordering::SeqCst);
        recording.join().expect("recorded")
    });
    assert!(sent > 0);
    lab.stop_session(&walk);
    let events = events(&lab.session_dir(&walk));
    let breaches: Vec<_> = events
        .iter()
        .filter(|event| event.kind.starts_with("breach") && event.text.starts_with("battery"))
        .map(|event| (event.device.as_str(), event.kind.as_str(), event.text.as_str()))
        .collect();
    assert_eq!(
        breaches,
        [
            ("phone", "breach", "battery phone: asked at least 30 %, is 12 %"),
            (
                "phone",
                "breach_end",
                "battery phone: asked at least 30 %, is 90 %"
            ),
        ]
    );
    let over = marey(&lab, &["session", "check", "walk"]);
    assert!(over.sentence(1).contains("is sealed"));
}
