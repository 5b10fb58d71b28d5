//! `marey clock check --tap` on recordings whose knocks are known: simulated devices with lying clocks are explained by their
//! bounds, a sensor that is late is not, and whoever asks for what is not there is told what to do.

#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside of the hub, and waits in real time"
)]

use marey_device::{Declaration, Device, Options, StreamHandle, Value as Sample};
use marey_tests::hub::{Lab, PATIENCE, session};
use marey_tests::process::{self, HubProcess, Ran, Running};
use serde_json::Value;
use std::time::{Duration, Instant};

fn list<'a>(of: &'a Value, key: &str) -> &'a [Value] {
    of[key]
        .as_array()
        .unwrap_or_else(|| panic!("a list {key} in {of}"))
}

fn number(of: &Value, key: &str) -> f64 {
    of[key]
        .as_f64()
        .unwrap_or_else(|| panic!("a number {key} in {of}"))
}

#[test]
fn simulated_devices_see_the_same_knocks_within_their_bounds() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().join("hub");
    process::init(&dir);
    let hub = HubProcess::start(&dir, &[]);
    let bundles = ["phone", "watch"].map(|name| hub.enroll(folder.path(), name));
    let mut simulate = process::command(["simulate", "--json", "--taps", "0.7", "--seconds", "10"]);
    simulate
        .args(["--delay-ms", "1", "--jitter-ms", "0.5"])
        .args(&bundles);
    hub.ask(&["session", "start", "walk", "--devices", "phone,watch"])
        .well();
    Running::start(&mut simulate).wait(process::PATIENCE).well();
    hub.ask(&["session", "stop", "walk", "--wait"]).well();
    let out = folder.path().join("events.csv");
    let out = out.to_string_lossy();
    let report = hub
        .ask(&["clock", "check", "--tap", "walk", "--out", &out])
        .well()
        .json();
    hub.stop();

    assert_eq!(
        (&report["explained"], &report["unexplained"]),
        (&Value::from(true), &Value::from(0)),
        "{report}"
    );
    let streams: Vec<_> = list(&report, "streams")
        .iter()
        .map(|stream| &stream["stream"])
        .collect();
    assert_eq!(streams, ["phone/imu@1:acc", "watch/imu@1:acc"], "{report}");
    let left_out = list(&report, "left_out");
    assert_eq!(
        left_out.len(),
        4,
        "gsr and activity of both say nothing of taps: {report}"
    );
    let [pair] = list(&report, "pairs") else {
        panic!("one pair in {report}");
    };
    let events = list(pair, "events");
    // Ten seconds hold fourteen knocks or so, a few more where the machine stood still before the end; the first and the last may
    // lie where nothing can be known.
    assert!((5..=20).contains(&events.len()), "{report}");
    assert_eq!(pair["common"], events.len());
    for event in events {
        let claimed_us = number(event, "bound_us") + number(event, "resolution_us");
        assert!(number(event, "residual_us").abs() <= claimed_us, "{event}");
        assert!(number(event, "resolution_us") < 12_000.0, "of 100 Hz: {event}");
        assert!(
            event["verdict"] == "bounds" || event["verdict"] == "resolution",
            "{event}"
        );
    }
    // Far better than what a single sample could show, as the clocks are.
    println!(
        "median {} us, spread {} us, worst {} us, bound {} us, resolution {} us",
        pair["median_us"], pair["spread_us"], pair["worst_us"], pair["bound_us"], pair["resolution_us"]
    );
    assert!(
        number(pair, "median_us").abs() < number(pair, "bound_us") + 2_000.0,
        "{pair}"
    );
    let csv = std::fs::read_to_string(&*out).expect("the events");
    assert_eq!(csv.lines().count(), 1 + events.len(), "{csv}");
    assert!(csv.starts_with("a,b,time,residual_us,"), "{csv}");
}

/// A device of this test: a sensor of 1 kHz that feels knocks at whole multiples of 0.6 s of the machine's clock, so late.
struct Knocked {
    device: Device,
    stream: StreamHandle,
    late_ns: i64,
    next_ns: i64,
}

const EVERY_NS: i64 = 600_000_000;
const PERIOD_NS: i64 = 1_000_000;

impl Knocked {
    fn join(lab: &Lab, name: &str, late_ns: i64) -> Self {
        let options = Options {
            reconnect_max: Duration::from_millis(500),
            ..Options::default()
        };
        let device = Device::start(lab.enroll(name), options).expect("a device");
        device.wait_for_join(PATIENCE).expect("asked to join");
        let declared = br#"{"name":"knock","fields":[{"name":"accel","type":"f32","unit":"m/s2"},
            {"name":"note","type":"utf8"},{"name":"warmth","type":"f32","unit":"Cel"}]}"#;
        let stream = device
            .stream(&Declaration::from_json(declared).expect("a declaration"))
            .expect("declared");
        let next_ns = device.now_ns();
        Self {
            device,
            stream,
            late_ns,
            next_ns,
        }
    }

    /// All samples up to now.
    fn push(&mut self) {
        let now_ns = self.device.now_ns();
        while self.next_ns <= now_ns {
            let since_s = (self.next_ns - self.late_ns).rem_euclid(EVERY_NS) as f64 / 1e9;
            let risen = since_s / 0.004;
            let noise = 0.02 * (self.next_ns as f64 / 7.3e6).sin();
            let felt = 30.0 * (risen * (1.0 - risen).exp()).powi(2) + noise;
            let values = [
                Sample::F32(felt as f32),
                Sample::Text("n".to_owned()),
                Sample::F32(36.6),
            ];
            self.stream.push(self.next_ns, &values).expect("taken");
            self.next_ns += PERIOD_NS;
        }
        self.stream.flush().expect("a frame");
    }
}

#[test]
fn a_late_sensor_is_caught_and_mistakes_are_told() {
    const LATE_US: f64 = 40_000.0;
    let lab = Lab::new();
    let walk = session("walk");
    lab.start_session(&walk, None);
    let late = |name| if name == "late" { 1_000 * LATE_US as i64 } else { 0 };
    let mut devices = ["one", "other", "late"].map(|name| Knocked::join(&lab, name, late(name)));
    let dir = lab.dir();
    let dir = dir.to_string_lossy();
    let check = |arguments: &[&str]| -> Ran {
        let all = ["clock", "check", "--json", "--dir", &dir];
        process::run(all.iter().chain(arguments))
    };
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        devices.iter_mut().for_each(Knocked::push);
        std::thread::sleep(Duration::from_millis(50));
    }
    let early = check(&["--tap", "walk"]);
    let said = early.sentence(1);
    assert!(
        said.contains("no published samples") && said.contains("session stop walk"),
        "{said}"
    );
    std::thread::scope(|scope| {
        let stop = scope.spawn(|| lab.stop_session(&walk));
        for knocked in &devices {
            knocked.device.wait_for_stop(PATIENCE).expect("asked to stop");
            assert!(
                knocked
                    .device
                    .finish(PATIENCE)
                    .expect("finished")
                    .all_acknowledged
            );
        }
        stop.join().expect("no panic");
    });

    let whole = check(&["--tap", "walk"]);
    let said = whole.sentence(1);
    assert!(
        said.contains("residuals are larger than bounds") && said.contains("latency"),
        "{said}"
    );
    let report = whole.json();
    assert_eq!(report["explained"], false);
    assert_eq!(list(&report, "pairs").len(), 3);
    let mut unexplained = 0;
    for pair in list(&report, "pairs") {
        let (a, b) = (pair["a"].to_string(), pair["b"].to_string());
        let truly_us = f64::from(u8::from(b.contains("late"))) - f64::from(u8::from(a.contains("late")));
        let truly_us = LATE_US * truly_us;
        let claimed_us = number(pair, "bound_us") + number(pair, "resolution_us");
        println!(
            "{a} {b}: median {} us of {truly_us}, spread {} us, bound {} us, resolution {} us",
            pair["median_us"], pair["spread_us"], pair["bound_us"], pair["resolution_us"]
        );
        assert!(claimed_us < LATE_US / 2.0, "too wide to catch anything: {pair}");
        assert!(
            (number(pair, "median_us") - truly_us).abs() <= claimed_us,
            "{pair}"
        );
        assert!(number(pair, "common") >= 5.0, "{pair}");
        let expected = if truly_us == 0.0 { "bounds" } else { "unexplained" };
        assert_eq!(pair["verdict"], expected, "{pair}");
        unexplained += pair["unexplained"].as_u64().expect("a count");
    }
    assert_eq!(report["unexplained"], unexplained);
    // For people: the same words.
    let text = process::run(["clock", "check", "--tap", "walk", "--dir", &dir]);
    assert!(
        text.stdout.contains("NOTHING (") && text.stdout.contains("not explained: "),
        "{text:?}"
    );

    let well = check(&[
        "--tap",
        "walk",
        "--stream",
        "one/knock",
        "--stream",
        "other/knock@1:accel",
    ]);
    assert_eq!(well.well().json()["explained"], true);

    // The late one is compared with nobody where no event is near enough.
    let missed = check(&[
        "--tap",
        "walk",
        "--stream",
        "one/knock",
        "--stream",
        "late/knock",
        "--within",
        "10",
    ]);
    let said = missed.sentence(1);
    assert!(
        said.contains("nothing was measured") && said.contains("--within"),
        "{said}"
    );

    let streams = ["--stream", "one/knock", "--stream", "other/knock"];
    let with = |more: &[&'static str]| check(&[&["--tap", "walk"], &streams[..], more].concat());
    let few = with(&["--window", "1.0..1.9"]);
    assert!(few.sentence(1).contains("tap again"), "{few:?}");
    let still = check(&[
        "--tap",
        "walk",
        "--stream",
        "one/knock:warmth",
        "--stream",
        "other/knock:accel",
    ]);
    assert!(still.sentence(1).contains("0 events"), "{still:?}");
    for (mistake, code, words) in [
        (check(&["--tap", "nobody"]), 1, "no session nobody"),
        (with(&["--stream", "late/nothing"]), 2, "one/knock@1"),
        (with(&["--stream", "late/knock:mag"]), 2, "accel, warmth"),
        (with(&["--stream", "late/knock:note"]), 2, "no channel note"),
        (with(&["--stream", "one/knock"]), 2, "twice"),
        (with(&["--window", "4000..5000"]), 2, "its samples lie from"),
        (with(&["--window", "5..3"]), 2, "--window is empty"),
        (with(&["--within", "-3"]), 2, "between 1 and 60000"),
        (with(&["--threshold", "nan"]), 2, "--threshold"),
        (check(&["--tap", "walk", "--stream", "one/knock"]), 2, "alone"),
        (
            with(&["--out", "/no/such/folder/events.csv"]),
            1,
            "can't be written",
        ),
        (with(&["--out", "/dev/null"]), 2, "there already"),
    ] {
        assert!(mistake.sentence(code).contains(words), "{words}: {mistake:?}");
    }
    for mistake in [
        check(&["walk"]),
        with(&["--window", "soon"]),
        with(&["--stream", "knock"]),
    ] {
        assert_eq!(mistake.code, Some(2), "{mistake:?}");
        assert!(!mistake.stderr.contains("panicked"), "{mistake:?}");
    }
}
