//! What devices, the command line and people over the API say of a session, as pandas finds it in `events.parquet`: while it is
//! recorded, when it is sealed, and after the fact, with a receipt for each generation that it made.

#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside of the hub, and waits in real time"
)]

use marey_device::{Device, Event, Options, Value as Sample};
use marey_engine::annotation::{self, NewAnnotation};
use marey_engine::compact::{check_receipt, receipt_numbers};
use marey_engine::disk::OsDisk;
use marey_server::control::Request;
use marey_server::pki::ReceiptTrust;
use marey_tests::hub::{Lab, PATIENCE, config, session};
use marey_tests::process::{self, until};
use marey_tests::python;
use marey_tests::web::{PEOPLE, RIA, connected, well};
use serde_json::{Value, json};
use std::path::Path;

/// A hub that writes rolling parts at once.
fn lab() -> Lab {
    let mut config = config();
    config.session.live_interval_ms = 100;
    Lab::with_people(config, PEOPLE)
}

/// Says it as somebody at the hub's machine does; what was written down.
fn say(lab: &Lab, text: &str, more: &[&str]) -> Value {
    let dir = lab.dir();
    let mut arguments = vec!["--json", "--dir", dir.to_str().expect("a path")];
    arguments.extend(["session", "annotate", "walk", text]);
    arguments.extend(more);
    process::run(arguments).well().json()
}

/// Ninety days before now.
fn long_ago() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now_ns = now.expect("after 1970").as_nanos();
    (now_ns - 90 * 86_400 * 1_000_000_000).to_string()
}

/// What pandas, pyarrow and the Python package find, held against what was answered when it was said.
fn found(dir: &Path, events: &Path, wanted: &[&Value], others: &[[&str; 3]]) {
    let wanted = json!({"annotations": wanted, "others": others}).to_string();
    let paths = [dir, events].map(|path| path.to_str().expect("a path").to_owned());
    python::run(
        &python::script("check_annotations.py"),
        [&paths[0], &paths[1], &wanted],
    );
}

/// A session `walk` that is being recorded, a device in it, and what it said.
fn recording(lab: &Lab) -> Device {
    let walk = session("walk");
    let options = Options::default();
    let device = Device::start(lab.enroll("phone"), options).expect("a device");
    lab.start_session(&walk, None);
    assert_eq!(device.wait_for_join(PATIENCE).expect("asked to join"), walk);
    let declaration = br#"{"name":"count","fields":[{"name":"n","type":"i32"}]}"#;
    let declaration = marey_device::Declaration::from_json(declaration).expect("a declaration");
    let stream = device.stream(&declaration).expect("declared");
    for n in 0..40 {
        stream.push(device.now_ns(), &[Sample::I64(n)]).expect("taken");
    }
    let button = Event {
        kind: "button".to_owned(),
        text: Some("by hand".to_owned()),
        duration_ns: None,
    };
    device.event(device.now_ns(), &button).expect("taken");
    stream.flush().expect("a frame");
    device.wait_for_acks(PATIENCE).expect("acknowledged");
    device
}

#[test]
fn pandas_sees_what_everybody_said_live_and_after_the_fact() {
    let mut lab = lab();
    let walk = session("walk");
    let device = recording(&lab);
    let dir = lab.session_dir(&walk);
    let dir_arg = dir.to_str().expect("a path").to_owned();
    // Connected anew each time: the hub hangs up on who says nothing for a while, as this does while pandas reads.
    let post = |lab: &Lab, body: &Value| {
        well(connected(&lab.web()).post("/api/v1/sessions/walk/annotations", RIA, body)).json()
    };

    // While it is recorded.
    let live_by_hand = say(
        &lab,
        "walks to the door",
        &["--kind", "mark", "--duration-s", "1.5"],
    );
    let body = json!({"text": "höher, \"said\" he", "device": "phone", "stream": "count@1"});
    let live_over_api = post(&lab, &body);
    let live = dir.join("live/events.parquet");
    let both = [&live_by_hand, &live_over_api];
    let label = [["device", "button", "by hand"]];
    // What is rolling may be exchanged while it is read: a copy is not.
    let copy = lab.beside("copy");
    let copied = copy.join("live/events.parquet");
    std::fs::create_dir_all(copy.join("live")).expect("a folder");
    std::fs::copy(dir.join("session.json"), copy.join("session.json")).expect("copied");
    until("rolling parts with what was said", PATIENCE, || {
        let manifest = std::fs::read(dir.join("live/manifest.json")).ok()?;
        let manifest: Value = serde_json::from_slice(&manifest).ok()?;
        let said = manifest["annotations"]["lines"] == "2";
        said.then(|| std::fs::copy(&live, &copied).ok()).flatten()
    });
    found(&copy, &copied, &both, &label);

    // When it is sealed.
    device.finish(PATIENCE).expect("finished");
    assert_eq!(lab.stop_session(&walk).generation, 1);
    let events = dir.join("events.parquet");
    found(&dir, &events, &both, &label);

    // After the fact: one by hand at a time of long ago, one correction over the API; the hub makes the next generation when
    // nothing more is said for a while.
    let later = say(
        &lab,
        "had slept badly",
        &["--time-ns", &long_ago(), "--device", "phone"],
    );
    let corrected = json!({"text": "lower, \"said\" he", "corrects": live_over_api["n"]});
    let corrected = post(&lab, &corrected);
    assert_eq!(
        (&corrected["version"], &corrected["corrects"]),
        (&json!(2), &json!(2))
    );
    assert_eq!(corrected["time_ns"], live_over_api["time_ns"]);
    let all = [&live_by_hand, &corrected, &later];
    until("what was said later", PATIENCE, || {
        (lab.manifest(&walk).annotations?.lines == 4).then_some(())
    });
    let newest = lab.manifest(&walk).generation;
    assert!((2..=3).contains(&newest), "{newest}");
    lab.wait_for_generation(&walk, newest);
    found(&dir, &events, &all, &label);

    // A closed session takes no samples, and words still.
    lab.ask(Request::SessionClose {
        session: walk.clone(),
    })
    .expect("closed");
    let withdrawn = say(&lab, "it was another day", &["--corrects", "3", "--withdraw"]);
    assert_eq!(
        (&withdrawn["version"], &withdrawn["withdrawn"]),
        (&json!(2), &json!(true))
    );
    lab.wait_for_generation(&walk, newest + 1);
    found(&dir, &events, &all[..2], &label);

    // Receipts: one for each generation, each naming the one before, all good; and the same logs and words give the same bytes.
    let trust = ReceiptTrust::of_hub(&lab.dir()).expect("read");
    let hub = lab.dir();
    lab.end();
    let disk = OsDisk::new(&dir);
    let numbers = receipt_numbers(&disk, Path::new("")).expect("listed");
    assert_eq!(numbers, (1..=newest + 1).collect::<Vec<_>>());
    let mut judge = |signed: &_| trust.judge(signed).map(|_| ());
    let checked = check_receipt(&disk, Path::new(""), newest + 1, &mut judge).expect("checked");
    assert_eq!((checked.faults, checked.receipts), (vec![], numbers.len()));
    let hub_arg = hub.to_str().expect("a path");
    process::run(["verify", "--rebuild", "--dir", hub_arg]).well();
    process::run(["receipt", &dir_arg]).well();

    // Without a hub it is published by the one who says it.
    let alone = say(&lab, "coughs", &["--time-ns", &long_ago()]);
    let alone_too = [all[0], all[1], &alone];
    found(&dir, &events, &alone_too, &label);
    process::run(["verify", "--rebuild", "--dir", hub_arg]).well();
    // What does not follow is refused in one sentence.
    let wrong = |more: &[&str]| {
        let mut arguments = vec!["--dir", hub_arg, "session", "annotate", "walk", "?"];
        arguments.extend(more);
        process::run(arguments)
    };
    let none = wrong(&["--corrects", "9"]);
    assert!(
        none.code != Some(0) && none.stderr.contains("no annotation 9"),
        "{none:?}"
    );
    assert_eq!(wrong(&["--withdraw"]).code, Some(2));
}

#[test]
fn what_was_said_before_a_kill_is_published_after_it() {
    let mut lab = Lab::new();
    let walk = session("walk");
    let device = recording(&lab);
    device.finish(PATIENCE).expect("finished");
    lab.stop_session(&walk);
    lab.end();
    // The hub died between the annotation and its generation.
    let new = NewAnnotation {
        time_ns: 1_795_248_000_123_456_789,
        duration_s: None,
        kind: "note".into(),
        text: "said just before".into(),
        device: None,
        stream: None,
        by: "ada".into(),
        said_utc_ns: 5,
        corrects: None,
        withdrawn: false,
    };
    let said = annotation::append(&OsDisk::new(lab.dir()), &walk, new).expect("written");
    lab.start();
    lab.wait_for_generation(&walk, 2);
    let said = serde_json::to_value(&said).expect("JSON");
    let dir = lab.session_dir(&walk);
    found(
        &dir,
        &dir.join("events.parquet"),
        &[&said],
        &[["device", "button", "by hand"]],
    );
    assert_eq!(
        lab.receipt(&walk, 2).previous.expect("named").receipt,
        "receipt-0001.json"
    );
}
