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
