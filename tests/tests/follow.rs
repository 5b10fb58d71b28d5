//! `marey cat --follow`: samples as they come, each once, until the session is sealed.

#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside of the hub, and waits in real time"
)]

use marey_device::{Declaration, Device, Options, StreamHandle, Value as Sample};
use marey_tests::hub::{Lab, PATIENCE, session};
use marey_tests::process::{self, Running};
use serde_json::Value;
use std::time::Duration;

const BATCH: i64 = 25;

fn push(device: &Device, stream: &StreamHandle, next: &mut i64) {
    for _ in 0..BATCH {
        stream
            .push(device.now_ns(), &[Sample::I64(*next)])
            .expect("taken");
        *next += 1;
    }
    stream.flush().expect("a frame");
    device.wait_for_acks(PATIENCE).expect("acknowledged");
}

#[test]
fn what_comes_is_printed_once_and_it_ends_with_the_session() {
    let lab = Lab::new();
    let walk = session("walk");
    let device = Device::start(lab.enroll("phone"), Options::default()).expect("a device");
    lab.start_session(&walk, None);
    assert_eq!(device.wait_for_join(PATIENCE).expect("asked to join"), walk);
    let declared = |name: &str| {
        let json = format!(r#"{{"name":"{name}","fields":[{{"name":"n","type":"i32"}}]}}"#);
        let declaration = Declaration::from_json(json.as_bytes()).expect("a declaration");
        device.stream(&declaration).expect("declared")
    };
    let (count, other) = (declared("count"), declared("other"));
    let (mut next, mut others) = (0, 0);
    push(&device, &count, &mut next);
    let dir = lab.dir();
    let dir = dir.to_str().expect("a path");
    let following = |more: &[&str]| {
        let mut arguments = vec!["--dir", dir, "cat", "walk", "--follow"];
        arguments.extend(more);
        Running::start(&mut process::command(arguments))
    };
    let whole = following(&["--stream", "count"]);
    let mut first = following(&[
        "--stream", "count@1", "--device", "phone", "--format", "csv", "--limit", "30",
    ]);
    // While it is recorded lines come.
    for _ in 0..200 {
        push(&device, &count, &mut next);
        push(&device, &other, &mut others);
        if !first.is_running() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let first = first.wait(PATIENCE).well();
    let mut rows = first.stdout.lines();
    assert_eq!(
        rows.next(),
        Some("time,device,stream,device_time_ns,epoch,time_err_us,seq,n")
    );
    let rows: Vec<&str> = rows.collect();
    assert_eq!(rows.len(), 30, "{rows:?}");
    assert!(rows.iter().all(|row| row.contains(",phone,count@1,")), "{rows:?}");

    push(&device, &count, &mut next);
    device.finish(PATIENCE).expect("finished");
    lab.stop_session(&walk);
    let whole = whole.wait(PATIENCE).well();
    let numbers: Vec<i64> = whole
        .stdout
        .lines()
        .map(|line| {
            let row: Value = serde_json::from_str(line).expect("JSON");
            assert_eq!((&row["stream"], &row["seq"]), (&"count@1".into(), &row["n"]));
            row["n"].as_i64().expect("a number")
        })
        .collect();
    // From where it began on, all of it, each once and in order.
    let begin = numbers.first().copied().expect("lines came");
    assert_eq!(numbers, (begin..next).collect::<Vec<_>>());
    assert!(begin < next - BATCH, "it began before the end: {begin} of {next}");
}
