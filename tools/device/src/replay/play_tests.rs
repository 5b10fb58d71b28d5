//! A recording through the client into a hub in this process, to the last bit.

use std::path::Path;

use super::super::recording::RecordingOptions;
use super::*;
use crate::client::fake_hub::{Behaviour, FakeHub};

fn replay(csv: &Path, pace: Pace) -> (RunReport, FakeHub, Recording) {
    let recording = Recording::open(csv, &RecordingOptions::default()).unwrap();
    let hub = FakeHub::start(
        recording.device(),
        Behaviour {
            session: Some("walk".into()),
            ..Behaviour::default()
        },
    );
    let shift_ns = shift_ns(std::slice::from_ref(&recording), pace, Duration::from_millis(300));
    let device = ReplayedDevice::start(
        hub.bundle(),
        recording.clone(),
        pace,
        shift_ns,
        Options::default(),
    )
    .unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    while !device.is_played() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(10));
    }
    hub.behave(|it| it.stopped = true);
    let report = device.wait(Duration::from_secs(20)).expect("a report").unwrap();
    assert!(report.all_acknowledged, "{report:?}");
    (report, hub, recording)
}

/// The digest of the file, made without this crate's reader.
fn expected(csv: &Path, recording: &Recording) -> (u64, [u8; 32]) {
    let mut digest = crate::record::SampleDigest::new(&declaration(recording).unwrap().unwrap());
    let text = std::fs::read_to_string(csv).unwrap();
    let header: Vec<&str> = text.lines().next().unwrap().split(',').collect();
    let time = header.iter().position(|name| *name == "timestamp").unwrap();
    for (index, line) in text.lines().skip(1).enumerate() {
        let fields: Vec<&str> = line.split(',').collect();
        let values: Vec<_> = header
            .iter()
            .zip(&fields)
            .filter(|(name, _)| !["timestamp", "label"].contains(*name))
            .map(|(_, text)| marey_format::frame::Value::F32(text.parse::<f64>().unwrap() as f32))
            .collect();
        digest.sample(
            index as u64,
            fields[time].parse::<i64>().unwrap() * 1_000_000,
            &values,
        );
    }
    (digest.count(), digest.finish())
}

fn check(csv: &Path, pace: Pace) -> RunReport {
    let (report, hub, recording) = replay(csv, pace);
    let stored = hub.samples("walk", "imu");
    let expected = expected(csv, &recording);
    assert_eq!(stored.values().copied().collect::<Vec<_>>(), [expected]);
    assert_eq!(
        (
            report.streams[0].record.captured(),
            report.streams[0].acknowledged
        ),
        (expected.0, expected.0)
    );
    report
}

#[test]
fn a_recording_arrives_as_it_stands_in_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let csv = folder.path().join("belt.csv");
    let mut text = "x_acc,y_gyro,timestamp,label\n".to_owned();
    for row in 0..200 {
        let stamp = 1_657_533_977_813u64 + row / 3 * 7;
        text += &format!(
            "{},-0.25,{stamp},{}\n",
            row as f64 / 8.0,
            if row < 100 { "SEATED" } else { "WALKING" }
        );
    }
    std::fs::write(&csv, text).unwrap();
    for pace in [Pace::Live, Pace::Backfill] {
        let report = check(&csv, pace);
        assert_eq!((report.device.as_str(), report.events), ("belt", 2));
    }
}

/// The real phone is not part of the repository; without it this test says so and passes.
#[test]
fn a_real_phone_arrives_as_it_stands_in_its_file() {
    let folder = std::env::var_os("MAREY_RECORDINGS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"),
        PathBuf::from,
    );
    let csv = folder.join("geotec-phone-watch/s01_01_sp.csv");
    if !csv.exists() {
        eprintln!("skipped: no {}", csv.display());
        return;
    }
    assert_eq!(check(&csv, Pace::Backfill).streams[0].record.captured(), 1_351);
}
