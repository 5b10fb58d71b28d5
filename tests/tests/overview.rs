//! `overview.parquet`: every bucket of it made again of the samples by numpy, and what the Python package draws and adds up.

#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside of the hub, and waits in real time"
)]

use marey_device::{Declaration, Device, Options, Value};
use marey_tests::hub::{Lab, PATIENCE, session};
use marey_tests::process;
use marey_tests::python;

const SAMPLES: i64 = 40_000;

#[test]
fn numpy_makes_the_same_buckets_of_the_samples() {
    let lab = Lab::new();
    let walk = session("walk");
    let device = Device::start(lab.enroll("phone"), Options::default()).expect("a device");
    lab.start_session(&walk, None);
    assert_eq!(device.wait_for_join(PATIENCE).expect("asked to join"), walk);
    let declared = |json: &str| {
        let declaration = Declaration::from_json(json.as_bytes()).expect("a declaration");
        device.stream(&declaration).expect("declared")
    };
    let many = declared(
        r#"{"name":"many","fields":[{"name":"x","type":"f32"},{"name":"y","type":"f64"},{"name":"adc","type":"i16"},
            {"name":"big","type":"u64"},{"name":"deep","type":"i64"},{"name":"on","type":"bool"},
            {"name":"never","type":"f32"},{"name":"label","type":"utf8"},
            {"name":"spectrum","type":"f32","length":3}]}"#,
    );
    let rare = declared(r#"{"name":"rare","fields":[{"name":"n","type":"i32"}]}"#);
    let words = declared(r#"{"name":"words","fields":[{"name":"word","type":"utf8"}]}"#);

    // By the device's clock it ends now: dense for half a minute, then a hole, then sparse.
    let now_ns = device.now_ns();
    for i in 0..SAMPLES {
        let before_ns = match i {
            ..30_000 => 90_000_000_000 - i * 1_000_000,
            _ => (SAMPLES - i) * 3_000_000,
        };
        let noise = f64::from((i as u32).wrapping_mul(2_654_435_761) % 1_000_003) / 1e6;
        let x = if i % 7 == 0 || (5_000..9_000).contains(&i) {
            f32::NAN
        } else {
            noise as f32
        };
        let row = [
            Value::F32(x),
            // What is large cancels, what is small stays.
            Value::F64(if i % 2 == 0 { 1e9 + noise } else { noise - 1e9 }),
            Value::I64(i % 3_001 - 1_500),
            Value::U64(u64::MAX - i as u64),
            Value::I64(i64::MIN + i),
            Value::Bool(i % 3 == 0),
            Value::F32(f32::NAN),
            Value::Text(format!("s{i}")),
            Value::List(vec![Value::F32(noise as f32); 3]),
        ];
        let at = now_ns - before_ns;
        many.push(at, &row).expect("taken");
        if i % 4_000 == 0 {
            rare.push(at, &[Value::I64(i)]).expect("taken");
            words.push(at, &[Value::Text("so".to_owned())]).expect("taken");
            device.wait_for_acks(PATIENCE).expect("acknowledged");
        }
    }
    device.finish(6 * PATIENCE).expect("finished");
    lab.stop_session(&walk);
    let dir = lab.session_dir(&walk);
    assert_eq!(
        lab.manifest(&walk).streams.iter().map(|stream| stream.rows).max(),
        Some(SAMPLES as u64)
    );
    assert!(
        lab.manifest(&walk)
            .tables
            .iter()
            .any(|table| table.path == "overview.parquet" && table.rows > 400)
    );
    let ran = python::run(
        &python::script("check_overview.py"),
        [dir.to_str().expect("a path"), "400"],
    );
    print!("{}", ran.stdout);

    // A changed byte of it is found like that of any other file.
    let path = dir.join("overview.parquet");
    let whole = std::fs::read(&path).expect("there");
    let mut changed = whole.clone();
    changed[whole.len() / 2] ^= 1;
    std::fs::write(&path, changed).expect("written");
    let receipt = dir.join("receipt-0001.json");
    let arguments = ["verify", "--receipt", receipt.to_str().expect("a path")];
    let said = process::run(arguments);
    assert!(
        said.code == Some(1) && format!("{}{}", said.stdout, said.stderr).contains("overview.parquet"),
        "{said:?}"
    );
    std::fs::write(&path, whole).expect("written");
    process::run(arguments).well();
}

/// A quarter of an hour at 500 Hz: a column of pixels is as wide as a bucket, and the samples are not read.
#[test]
fn a_long_session_is_drawn_from_its_overview_with_every_spike() {
    let folder = tempfile::tempdir().expect("a folder");
    let hub = folder.path().join("hub");
    process::init(&hub);
    let csv = folder.path().join("long.csv");
    let mut text = String::from("time,v\n");
    for i in 0..ROWS {
        let value = match i {
            123_456 => 1_000,
            234_567 => -1_000_i64,
            _ => (i % 100).cast_signed(),
        };
        text.push_str(&format!(
            "{}.{:03},{value}\n",
            1_800_000_000 + i / 500,
            i % 500 * 2
        ));
    }
    std::fs::write(&csv, text).expect("written");
    let hub_text = hub.to_str().expect("text");
    process::run([
        "import",
        "csv",
        csv.to_str().expect("text"),
        "--session",
        "long",
        "--dir",
        hub_text,
    ])
    .well();
    let out = folder.path().join("long.svg");
    let plot = |more: &[&str]| {
        let call = [
            "plot",
            "long",
            "--json",
            "--dir",
            hub_text,
            "--out",
            out.to_str().expect("text"),
        ];
        process::run(call.iter().chain(more))
    };
    // The line's heights: the spikes are the least and the greatest of them, and nothing else comes near.
    let heights = || {
        let svg = std::fs::read_to_string(&out).expect("a picture");
        let points = svg
            .split("points=\"")
            .nth(1)
            .and_then(|rest| rest.split('"').next())
            .expect("a line");
        let heights = points
            .split(' ')
            .filter_map(|point| point.split_once(',')?.1.parse().ok());
        let mut heights: Vec<f64> = heights.collect();
        heights.sort_by(f64::total_cmp);
        heights
    };
    let shown = plot(&[]).well().json();
    assert_eq!(shown["channels"][0]["samples"], ROWS, "{shown}");
    let of_buckets = heights();
    // From one moment on: the samples are read, and the ends of the picture are the same.
    let shown = plot(&["--from", "0"]).well().json();
    assert_eq!(shown["channels"][0]["samples"], ROWS, "{shown}");
    let of_samples = heights();
    for heights in [&of_buckets, &of_samples] {
        let (first, last) = (heights[0], heights[heights.len() - 1]);
        let rest = &heights[1..heights.len() - 1];
        assert!(
            rest.iter()
                .all(|height| (first + 10.0..last - 10.0).contains(height))
        );
    }
    assert_eq!(
        (of_buckets[0], of_buckets.last()),
        (of_samples[0], of_samples.last())
    );

    let part = std::fs::read_dir(hub.join("sessions/session=long/streams/stream=recording@1/device=long"))
        .expect("its parts")
        .map(|part| part.expect("a part").path())
        .next()
        .expect("one part");
    let mut bytes = std::fs::read(&part).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&part, bytes).expect("written");
    plot(&[]).well();
    let refused = plot(&["--from", "10", "--to", "20"]);
    assert!(
        refused.sentence(1).contains("not as it was published"),
        "{refused:?}"
    );
}

const ROWS: u64 = 475_000;
