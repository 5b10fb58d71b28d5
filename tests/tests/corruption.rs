//! Corruption, in short: a sample of all bits and lengths of a sealed segment, and the other kinds of harm.

use marey_engine::salvage::RecoverReport;
use marey_tests::prove::Run;
use marey_tests::prove::corruption;
use marey_tests::prove::corruption::judge::{Copy, Expected, look};
use marey_tests::prove::corruption::recorded::segment_path;

#[test]
fn bits_and_lengths_of_a_sealed_segment() {
    let tally = corruption::run(&Run::short(20_000));
    println!("{tally}");
    assert!(tally.is_well(), "{tally}");
    assert_eq!(tally.done, 20_000);
}

#[test]
fn other_kinds_of_harm() {
    let tally = corruption::kinds::run(&Run::short(u64::MAX), 41);
    println!("{tally}");
    assert!(tally.is_well(), "{tally}");
    assert!(tally.done > 2_000);
}

/// The judge itself: it must see a frame that is gone without a word, one that is another, and one that was made up.
#[test]
fn the_judge_can_be_angry() {
    let truth = corruption::truth().unwrap();
    let path = segment_path(1);
    let (&key, place) = truth
        .places
        .iter()
        .find(|(key, place)| key.1 == 0 && place.file == path)
        .unwrap();
    let harmed = truth
        .recorded
        .hub
        .change(&path, |bytes| bytes[place.offset as usize + 60] ^= 1);
    let (_, report, out) = look(&harmed, 50 << 10).unwrap();
    let copy = Copy::read(&out).unwrap();
    let expected = Expected::Lost([key].into());
    truth.compare(&copy, &report, &expected).unwrap();
    let angry = |copy: &Copy, report: &RecoverReport, expected: &Expected| {
        truth.compare(copy, report, expected).unwrap_err()
    };
    let mut silent = report.clone();
    silent.lost.frames.clear();
    assert!(angry(&copy, &silent, &expected).contains("not listed"));
    silent = report.clone();
    silent.lost.samples.clear();
    assert!(angry(&copy, &silent, &expected).contains("sample"));
    assert!(angry(&copy, &report, &Expected::Lost([].into())).contains("are lost"));
    let other = *copy.frames.keys().next_back().unwrap();
    let mut changed = copy.clone();
    changed.frames.get_mut(&other).unwrap()[50] ^= 1;
    assert!(angry(&changed, &report, &expected).contains("other bytes"));
    let mut made_up = copy.clone();
    made_up.frames.insert((0, 1, 1_000), vec![0; 64]);
    assert!(angry(&made_up, &report, &expected).contains("made up"));
    let mut twice = copy.clone();
    twice.frames.insert(key, truth.recorded.sent[&key].bytes.clone());
    assert!(angry(&twice, &report, &Expected::Lost([].into())).contains("listed as lost"));
    let mut elsewhere = copy.clone();
    elsewhere
        .streams
        .values_mut()
        .for_each(|(name, _)| *name = Some("imu@2".to_owned()));
    assert!(angry(&elsewhere, &report, &expected).contains("stream"));
}

/// What scripts read of `--json`: keys are added, never taken away or renamed.
#[test]
fn the_keys_of_the_reports_are_those_of_the_specification() {
    let truth = corruption::truth().unwrap();
    let (path, hub) = (segment_path(1), &truth.recorded.hub);
    let harmed = hub
        .change(&path, |bytes| bytes.truncate(30_000))
        .change(&segment_path(2), |bytes| bytes[300] ^= 1);
    let (verified, report, _) = look(&harmed, 50 << 10).unwrap();
    let verified = serde_json::to_value(&verified).unwrap();
    assert_eq!(keys(&verified), ["checked", "faults", "live", "notes", "path"]);
    let checked = [
        "annotations",
        "audit_records",
        "frames",
        "journal_frames",
        "journal_records",
        "log_bytes",
        "logs",
        "media_files",
        "parquet_files",
        "parquet_rows",
        "rebuilt_files",
        "samples",
        "sealed_segments",
        "segments",
        "sessions",
    ];
    assert_eq!(keys(&verified["checked"]), checked);
    let fault = ["bytes", "cause", "device", "file", "kind", "offset", "session"];
    assert_eq!(keys(&verified["faults"][0]), fault);
    assert_eq!(verified["faults"][0]["kind"], "damage");
    let report = serde_json::to_value(&report).unwrap();
    assert_eq!(
        keys(&report),
        ["logs", "lost", "notes", "out", "source", "torn_tails"]
    );
    let log = [
        "bytes",
        "device",
        "frames",
        "from_journal",
        "hub_frames",
        "samples",
        "segments",
        "session",
    ];
    assert_eq!(keys(&report["logs"][0]), log);
    assert_eq!(keys(&report["lost"]), ["bytes", "frames", "samples"]);
    let frames = [
        "cause", "certain", "device", "epoch", "epoch_id", "file", "first", "lane", "last", "offset",
        "session",
    ];
    assert_eq!(keys(&report["lost"]["frames"][0]), frames);
    let samples = [
        "cause", "certain", "device", "epoch", "file", "first", "last", "offset", "session", "stream",
    ];
    assert_eq!(keys(&report["lost"]["samples"][0]), samples);
    assert_eq!(
        keys(&report["lost"]["bytes"][0]),
        ["bytes", "cause", "file", "offset"]
    );
}

fn keys(value: &serde_json::Value) -> Vec<&str> {
    let object = value
        .as_object()
        .unwrap_or_else(|| panic!("{value} is no object"));
    let mut keys: Vec<&str> = object.keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}
