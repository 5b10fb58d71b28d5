//! The reference programs of the specification, in the standard library of Python, against the real thing: `send.py`
//! records into a hub that is killed under it, `read_log.py` reads a fresh recording as the Rust reader does.

#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside of the hub, and waits in real time"
)]

use marey_format::{DeviceId, SessionId};
use marey_tests::hub::published;
use marey_tests::process::{self, HubProcess, PATIENCE, Ran, Running, until, workspace};
use marey_tests::python::system_python;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

fn reference(script: &str) -> Command {
    let mut command = Command::new(system_python());
    command
        .arg("-B")
        .arg(workspace().join("format-spec/reference").join(script));
    command
}

/// Of twenty seconds, so that it still captures when it is killed for the last time.
const SAMPLES: u64 = 10_000;
const RATE_HZ: u64 = 500;

#[test]
fn the_reference_sender_records_across_kills_exactly_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let (dir, bundles) = (folder.path().join("hub"), folder.path().join("bundles"));
    let (state, acked) = (folder.path().join("state"), folder.path().join("acked"));
    std::fs::create_dir(&bundles).expect("a folder");
    process::init(&dir);
    let hub = HubProcess::start(&dir, &[]);
    let ports = hub.ports();
    let bundle = hub.enroll(&bundles, "board");
    let send = || {
        let mut command = reference("send.py");
        command
            .arg(&bundle)
            .args(["--stream", "level", "--samples", &SAMPLES.to_string()]);
        command
            .args(["--rate", &RATE_HZ.to_string(), "--state"])
            .arg(&state)
            .arg("--acked")
            .arg(&acked);
        Running::start(process::clean(&mut command))
    };
    // It attaches before there is a session, and is asked to join.
    let sender = send();
    std::thread::sleep(Duration::from_millis(300));
    hub.ask(&["session", "start", "walk"]).well();
    let lines = || {
        std::fs::read_to_string(&acked)
            .unwrap_or_default()
            .lines()
            .count()
    };
    let go_on = |what: &str| {
        let before = lines();
        until(what, PATIENCE, || (lines() > before + 5).then_some(()));
    };
    go_on("the first acks");
    hub.kill();
    std::thread::sleep(Duration::from_millis(400));
    let hub = HubProcess::start_again(&dir, ports, &[]);
    go_on("acks after the hub was killed");
    drop(sender);
    let sender = send();
    go_on("acks after the sender was killed");
    hub.kill();
    let hub = HubProcess::start_again(&dir, ports, &[]);
    let said = sender.wait(PATIENCE).well();
    let said: Value = serde_json::from_str(said.stdout.lines().last().unwrap_or("")).expect("its summary");
    assert_eq!(
        (said["captured"].as_u64(), &said["ended"]),
        (Some(SAMPLES), &Value::Bool(true)),
        "{said}"
    );
    hub.ask(&["session", "stop", "walk", "--wait"]).well();
    hub.stop();

    let session_dir = dir.join("sessions/session=walk");
    let found = published::stream(&session_dir, "level", "board");
    assert_eq!(
        (found.rows, found.twice, found.epochs.len()),
        (SAMPLES, 0, 1),
        "one epoch, each sample once"
    );
    let began_ns = said["began_ns"].as_i64().expect("a stamp");
    assert_eq!(
        found.epochs[&0].1,
        digest(began_ns),
        "every value as its function says"
    );
    let receipt = std::fs::read(session_dir.join("receipt-0001.json")).expect("a receipt");
    let receipt: Value = serde_json::from_slice(&receipt).expect("JSON");
    assert!(
        receipt["complete"] == true && receipt["streams"][0]["digest_ok"] == true,
        "{receipt}"
    );
    let log = published::log(
        &dir,
        &SessionId::new("walk").expect("a name"),
        &DeviceId::new("board").expect("a name"),
    );
    assert_eq!((log.samples, log.twice), (SAMPLES, 0));
    // Whatever it was told at any time is there.
    let told = std::fs::read_to_string(&acked).expect("its record");
    let most = told
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["acknowledged"].as_u64());
    assert!(
        most.flatten().max().is_some_and(|most| most <= log.samples),
        "more acknowledged than there is"
    );
    println!(
        "{SAMPLES} samples across 2 kills of the hub and 1 of the sender, {} acks",
        lines()
    );
}

/// The digest of what send.py captures, made of its function (`sample_values`) and its stamps.
fn digest(began_ns: i64) -> String {
    let mut hash = Sha256::new();
    for index in 0..SAMPLES {
        let time_ns = began_ns + (index * 1_000_000_000 / RATE_HZ) as i64;
        let level = (index * 7919 % 65536) as f32 / 256.0 - 128.0;
        let code = ((index * 2_654_435_761 + 12_345) % (1 << 32)) as i64 - (1 << 31);
        hash.update(index.to_le_bytes());
        hash.update(time_ns.to_le_bytes());
        hash.update(level.to_le_bytes());
        hash.update((code as i32).to_le_bytes());
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_reference_reader_reads_a_fresh_recording_as_rust_does() {
    let folder = tempfile::tempdir().expect("a folder");
    let (dir, bundles) = (folder.path().join("hub"), folder.path().join("bundles"));
    std::fs::create_dir(&bundles).expect("a folder");
    process::init(&dir);
    let hub = HubProcess::start(&dir, &[]);
    let ports = hub.ports();
    let mut command = process::command(["simulate", "--json", "--at-most", "120", "--seconds", "4"]);
    command.args(["phone", "watch"].map(|name| hub.enroll(&bundles, name)));
    let devices = Running::start(&mut command);
    hub.ask(&["session", "start", "walk"]).well();
    // A log that was killed and goes on has more than one segment, of which one was cut.
    std::thread::sleep(Duration::from_secs(2));
    hub.kill();
    let hub = HubProcess::start_again(&dir, ports, &[]);
    devices.wait(PATIENCE).well();
    hub.ask(&["session", "stop", "walk", "--wait"]).well();
    hub.stop();

    let session = dir.join("sessions/session=walk");
    for what in ["--frames", "--samples"] {
        let mut python = reference("read_log.py");
        let python = process::finish(process::clean(python.arg(&session).arg(what)), PATIENCE);
        let rust = process::finish(process::command(["cat", "--json", what]).arg(&session), PATIENCE);
        let (python, rust) = (lines(&python), lines(&rust));
        assert!(python.len() > 50, "{what}: {} lines", python.len());
        assert_eq!(
            python.keys().collect::<Vec<_>>(),
            rust.keys().collect::<Vec<_>>(),
            "{what}: other {what}"
        );
        for (name, line) in &python {
            assert_eq!(line, &rust[name], "{what}: {name:?}");
        }
        println!(
            "{what}: {} lines, the same in read_log.py and marey cat",
            python.len()
        );
    }
}

/// Lines of JSON by what they are of, without the torn tails, which only say what was never acknowledged.
fn lines(ran: &Ran) -> BTreeMap<Vec<String>, Map<String, Value>> {
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let objects = ran.stdout.lines().map(|line| match serde_json::from_str(line) {
        Ok(Value::Object(object)) => object,
        other => panic!("{other:?} in {line:?}"),
    });
    let mut found = BTreeMap::new();
    for object in objects.filter(|object| !object.contains_key("fault")) {
        let name = [
            "device", "stream", "epoch", "lane", "kind", "sequence", "seq", "segment", "offset",
        ]
        .map(|key| object.get(key).map_or(String::new(), Value::to_string));
        assert!(found.insert(name.to_vec(), object).is_none(), "a line twice");
    }
    found
}

/// What the scripts promise of themselves.
#[test]
fn the_reference_programs_need_nothing_but_python() {
    for (script, lines_max) in [("read_log.py", 250), ("send.py", 200)] {
        let path: PathBuf = workspace().join("format-spec/reference").join(script);
        let text = std::fs::read_to_string(&path).expect("a script");
        assert!(
            text.lines().count() <= lines_max,
            "{script} has {} lines",
            text.lines().count()
        );
        let ran = process::finish(
            reference(script).arg("--help").env("PYTHONNOUSERSITE", "1"),
            PATIENCE,
        );
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let modules = text.lines().flat_map(|line| match line.strip_prefix("from ") {
            Some(rest) => rest.split([' ', '.']).take(1).collect(),
            None => line
                .strip_prefix("import ")
                .map_or(Vec::new(), |rest| rest.split(", ").collect()),
        });
        let list = modules.collect::<Vec<_>>().join("','");
        let check = format!("import sys; sys.exit(not {{'{list}'}} <= set(sys.stdlib_module_names))");
        let ran = process::finish(Command::new(system_python()).args(["-c", &check]), PATIENCE);
        assert_eq!(
            ran.code,
            Some(0),
            "{script} imports something else than the standard library: {list}"
        );
    }
    assert!(Path::new(workspace()).join("format-spec/sender.md").is_file());
}
