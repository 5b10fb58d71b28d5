//! The main job, whole: `marey demo`, and what people open its result with. Then the same with real recordings.
//!
//! The contract of the demo's JSON is checked here; values are, in `python/`, by pandas, pyarrow, polars and DuckDB against
//! each other and the device logs.

#![allow(clippy::disallowed_methods, reason = "a test stands outside of the hub")]

use marey_tests::process::{self, workspace};
use marey_tests::python;
use serde_json::Value;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Instant;

/// A demo, made once for the tests of this file: what it printed, and the folder of its hub.
fn demo() -> &'static (Value, PathBuf) {
    static DEMO: OnceLock<(Value, PathBuf)> = OnceLock::new();
    DEMO.get_or_init(|| {
        let dir = fresh("demo");
        let begin = Instant::now();
        let ran = process::run([
            "demo",
            "--json",
            "--seconds",
            "4",
            "--dir",
            &dir.to_string_lossy(),
        ])
        .well();
        // Said, not asserted: machines differ, and the binary may have been built on the way.
        println!("the demo took {:?}", begin.elapsed());
        assert!(
            ran.stderr.contains("recording"),
            "progress goes to standard error: {}",
            ran.stderr
        );
        (ran.json(), dir)
    })
}

/// A folder that is not there yet, in cargo's own place for it; no other run of these tests uses it meanwhile.
fn fresh(name: &str) -> PathBuf {
    static ONE_RUN: OnceLock<File> = OnceLock::new();
    let place = Path::new(env!("CARGO_TARGET_TMPDIR"));
    ONE_RUN.get_or_init(|| {
        let lock = File::create(place.join("readers.lock")).expect("a lock");
        lock.lock().expect("the other run ends");
        lock
    });
    let dir = place.join(format!("readers-{name}"));
    if dir.exists() {
        std::fs::remove_dir_all(&dir).expect("removed");
    }
    dir
}

fn streams(shown: &Value) -> &[Value] {
    let streams = shown["streams"].as_array().expect("a list");
    assert!(!streams.is_empty(), "{shown}");
    streams
}

#[test]
fn the_demo_keeps_its_contract() {
    let (shown, dir) = demo();
    assert!(shown["session"].is_string(), "{shown}");
    let path = Path::new(shown["path"].as_str().expect("a path"));
    assert!(
        path.starts_with(dir) && path.join("manifest.json").is_file(),
        "{shown}"
    );
    let devices: std::collections::HashSet<_> =
        streams(shown).iter().map(|s| s["device"].to_string()).collect();
    assert_eq!(devices.len(), 3, "three devices by default");
    let mut bounds = Vec::new();
    for stream in streams(shown) {
        let (captured, acked, parquet) = (&stream["captured"], &stream["acked"], &stream["parquet"]);
        assert!(captured.as_u64().is_some_and(|captured| captured > 0), "{stream}");
        assert!(
            captured == acked && captured == parquet && stream["missing"] == 0,
            "{stream}"
        );
        assert!(
            stream["bound_held"] == true && stream["digest_ok"] == true,
            "{stream}"
        );
        let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("a number in {stream}"));
        let truth = &stream["true_error_us"];
        let (rms, p99, max) = (
            number(&truth["rms"]),
            number(&truth["p99"]),
            number(&truth["max"]),
        );
        let (bound, widest) = (
            number(&stream["time_err_us_median"]),
            number(&stream["time_err_us_max"]),
        );
        assert!(
            rms <= max && p99 <= max && max <= widest && bound <= widest,
            "{stream}"
        );
        let half_round_trip = number(&stream["half_round_trip_us"]);
        println!(
            "{} {}: {captured} captured, bound {bound:.0} us (half round trip {half_round_trip:.0}), rms {rms:.0}, \
             worst {max:.0}",
            stream["device"], stream["stream"]
        );
        // A bound that is wide enough to be always true proves nothing.
        assert!(
            half_round_trip > 1_000.0 && bound <= 1.5 * half_round_trip,
            "{stream}"
        );
        bounds.push(bound);
    }
    assert!(bounds.iter().all(|bound| *bound > 0.0), "{bounds:?}");
    let verify = process::run([Path::new("verify"), Path::new("--dir"), dir]);
    assert_eq!(verify.code, Some(0), "{verify:?}");
}

#[test]
fn pandas_pyarrow_polars_and_duckdb_open_it() {
    let (shown, dir) = demo();
    let session = shown["path"].as_str().expect("a path");
    let ran = python::run(
        &python::script("check_readers.py"),
        [session, "--hub", &dir.to_string_lossy()],
    );
    print!("{}", ran.stdout);
    let digests = python::run(&python::script("check_readers.py"), [session, "--digest"]).json();
    assert_eq!(digests.as_array().map(Vec::len), Some(streams(shown).len()));
    for digest in digests.as_array().expect("a list") {
        let stream = streams(shown)
            .iter()
            .find(|s| s["device"] == digest["device"] && s["stream"] == digest["stream"]);
        assert_eq!(
            stream.map(|stream| &stream["parquet"]),
            Some(&digest["rows"]),
            "{digest}"
        );
    }
}

#[test]
fn a_realigned_session_opens_and_keeps_the_map_before() {
    let dir = fresh("realign");
    let folder = dir.to_string_lossy();
    process::run(["demo", "--json", "--seconds", "4", "--dir", &folder]).well();
    let shown = process::run(["realign", "demo", "--json", "--dir", &folder])
        .well()
        .json();
    assert_eq!(
        (&shown["generation"], &shown["kept"]),
        (&Value::from(2), &Value::from("clock_map-0001.parquet")),
        "{shown}"
    );
    let clocks = shown["clocks"].as_array().expect("a list");
    assert_eq!(clocks.len(), 3, "{shown}");
    for clock in clocks {
        // The same logs and the same version: the same times.
        assert_eq!(clock["most_us"].as_f64(), Some(0.0), "{shown}");
    }
    let session = dir.join("sessions/session=demo");
    python::run(&python::script("check_readers.py"), [&session]);
    let verify = process::run(["verify", "--rebuild", "--dir", &folder]);
    assert_eq!(verify.code, Some(0), "{verify:?}");
    let picture = dir.join("clock.svg");
    let out = picture.to_string_lossy();
    let drawn = process::run(["clock", "plot", "demo", "--json", "--dir", &folder, "--out", &out])
        .well()
        .json();
    assert_eq!(drawn["clocks"], 3, "{drawn}");
    assert!(drawn["delays"].as_u64() > Some(100), "{drawn}");
    let svg = std::fs::read_to_string(&picture).expect("a picture");
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    assert_eq!(svg.matches("<g ").count(), 6, "two panels for each clock");
    assert_eq!(svg.matches("<polyline ").count(), 3);
    let unknown = process::run(["realign", "nobody", "--dir", &folder]);
    assert!(unknown.sentence(1).contains("no session nobody"), "{unknown:?}");
}

#[test]
fn real_recordings_stand_in_parquet_bit_for_bit() {
    let data = std::env::var_os("MAREY_RECORDINGS").map_or(workspace().join("../shared/data"), PathBuf::from);
    let files = ["s01_01_sp.csv", "s01_01_sw.csv"].map(|name| data.join("geotec-phone-watch").join(name));
    if let Some(missing) = files.iter().find(|file| !file.is_file()) {
        eprintln!(
            "SKIPPED: no recordings at {} (set MAREY_RECORDINGS)",
            missing.display()
        );
        return;
    }
    let dir = fresh("replay");
    let mut command = process::command(["demo", "--json", "--dir"]);
    command.arg(&dir);
    for file in &files {
        command.arg("--replay").arg(file);
    }
    let shown = process::finish(&mut command, process::PATIENCE).well().json();
    assert_eq!(streams(&shown).len(), 2, "{shown}");
    for (stream, file) in streams(&shown).iter().zip(&files) {
        assert_eq!(
            stream["device"].as_str(),
            file.file_stem().and_then(|stem| stem.to_str())
        );
        let rows = std::fs::read_to_string(file)
            .expect("a recording")
            .lines()
            .count() as u64
            - 1;
        let (captured, parquet) = (stream["captured"].as_u64(), stream["parquet"].as_u64());
        assert_eq!((captured, parquet), (Some(rows), Some(rows)), "{stream}");
        assert!(stream["missing"] == 0 && stream["digest_ok"] == true, "{stream}");
        assert!(
            stream["true_error_us"].is_null() && stream["bound_held"].is_null(),
            "nobody knows the truth: {stream}"
        );
    }
    let session = PathBuf::from(shown["path"].as_str().expect("a path"));
    let mut arguments = vec![session.clone()];
    arguments.extend(files);
    print!(
        "{}",
        python::run(&python::script("check_replay.py"), &arguments).stdout
    );
    print!(
        "{}",
        python::run(&python::script("check_readers.py"), [&session]).stdout
    );
}
