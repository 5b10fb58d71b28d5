//! What compaction gives: rows, order, gaps, receipts, the same bytes.

use super::maker::{ANCHOR, HUB, LogMaker, SECOND_NS, session};
use crate::compact::publish::files_below;
use crate::compact::{
    Compacted, Generation, Manifest, check_session, compact_session, earlier_map, read_map, read_probes, roll,
};
use crate::disk::memory::MemoryDisk;
use crate::disk::{Disk, OpenMode, read_all};
use crate::log::segment_name;
use crate::options::Options;
use crate::read::{Reader, streams};
use crate::session::{Moment, Session, SessionState};
use arrow::array::{AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::*;
use marey_format::DeviceId;
use marey_format::frame::Value;
use std::collections::BTreeMap;
use std::path::Path;

pub const MIXED: &str = r#"{"name":"mixed","rate_hz":100,"sensor":"made up","fields":[
    {"name":"x","type":"f32","unit":"m/s2"},{"name":"adc","type":"i16","unit":"mV","scale":0.5},
    {"name":"spectrum","type":"f64","length":3},{"name":"label","type":"utf8"},
    {"name":"on","type":"bool"},{"name":"raw","type":"binary"},{"name":"big","type":"u64"}]}"#;
pub const PLAIN: &str = r#"{"name":"plain","fields":[{"name":"v","type":"i64"}]}"#;

pub fn mixed_row(i: i64) -> Vec<Value> {
    let f = |x: f64| Value::F64(x);
    vec![
        Value::F32(if i % 7 == 0 {
            f32::NAN
        } else {
            i as f32 * 0.1 - 0.0
        }),
        Value::I64(i % 1000 - 500),
        Value::List(vec![f(i as f64), f(-0.0), f(1.0 / (i + 1) as f64)]),
        Value::Text(format!("é{i}")),
        Value::Bool(i % 3 == 0),
        Value::Bytes(vec![i as u8; (i % 5) as usize]),
        Value::U64(u64::MAX - i as u64),
    ]
}

pub fn options() -> Options {
    Options {
        row_group_rows: 700,
        compaction_threads: 1,
        syncs_at_once: 1,
        ..Options::default()
    }
}

pub fn quiet(_: crate::compact::Progress) {}

pub fn compact(disk: &dyn Disk, session: &Session) -> Compacted {
    compact_session(disk, session, &options(), Generation::IfNew, &quiet).unwrap()
}

/// Two devices, two streams, several frames.
pub fn record(disk: &dyn Disk) -> Session {
    let session = session(disk, "walk");
    for (device, ahead) in [("phone", 5 * SECOND_NS), ("watch", -3 * SECOND_NS)] {
        let mut log = LogMaker::new(&session, device);
        log.wall(&ANCHOR)
            .epoch(0, Some(9), false)
            .declare(1, MIXED, 1)
            .declare(2, PLAIN, 1);
        for second in 0..20i64 {
            let at = 10 * SECOND_NS + second * SECOND_NS;
            log.probe(at, ahead);
            let rows: Vec<_> = (0..100)
                .map(|i| (at + i * SECOND_NS / 100, mixed_row(100 * second + i)))
                .collect();
            log.data(1, 100 * second as u64, &rows);
            let rows: Vec<_> = (0..10)
                .map(|i| (at + i * SECOND_NS / 10, vec![Value::I64(i)]))
                .collect();
            log.data(2, 10 * second as u64, &rows);
            log.arrival(
                0,
                at + ahead + SECOND_NS,
                Some(at + SECOND_NS - 1_000_000),
                2 * second as u64 + 1,
            );
        }
        log.event(1, 15 * SECOND_NS, "label", "walk")
            .note(20 * SECOND_NS, "joined");
        log.end(1, 2000, 2000).end(2, 200, 200).seal(disk);
    }
    session
}

/// Every file of the session that compaction writes, with its bytes.
pub fn files(disk: &dyn Disk, session: &Session) -> BTreeMap<String, Vec<u8>> {
    let dir = Session::dir(&session.id);
    let names = files_below(disk, &dir).unwrap().into_iter();
    names
        .filter(|name| !name.starts_with("logs/") && !name.starts_with(".old") && name != "session.json")
        .map(|name| (name.clone(), read_all(disk, &dir.join(&name), 1 << 30).unwrap()))
        .collect()
}

pub fn read(disk: &dyn Disk, session: &Session, stream: &str, device: &str) -> RecordBatch {
    let key = stream.parse().unwrap();
    let reader = Reader::open(disk, session, &key, &DeviceId::new(device).unwrap(), &options()).unwrap();
    let schema = reader.schema();
    let batches: Vec<RecordBatch> = reader.map(Result::unwrap).collect();
    concat_batches(&schema, &batches).unwrap()
}

/// time, epoch, seq of every row.
pub fn keys(batch: &RecordBatch) -> Vec<(i64, i32, i64)> {
    let times = batch
        .column(0)
        .as_primitive::<TimestampMicrosecondType>()
        .values();
    let epochs = batch.column(2).as_primitive::<Int32Type>().values();
    let seqs = batch.column(4).as_primitive::<Int64Type>().values();
    times
        .iter()
        .zip(epochs)
        .zip(seqs)
        .map(|((&time, &epoch), &seq)| (time, epoch, seq))
        .collect()
}

#[test]
fn every_value_comes_through_bit_for_bit() {
    let disk = MemoryDisk::new();
    let session = record(&disk);
    let compacted = compact(&disk, &session);
    assert_eq!(
        (compacted.generation, compacted.new, compacted.rows()),
        (1, true, 4400)
    );
    let batch = read(&disk, &session, "mixed@1", "watch");
    assert_eq!(batch.num_rows(), 2000);
    assert!(keys(&batch).is_sorted());
    for row in 0..2000usize {
        let expected = mixed_row(row as i64);
        let found = vec![
            Value::F32(batch.column(5).as_primitive::<Float32Type>().value(row)),
            Value::I64(batch.column(6).as_primitive::<Int16Type>().value(row).into()),
            {
                let list = batch.column(7).as_fixed_size_list().value(row);
                Value::List(
                    list.as_primitive::<Float64Type>()
                        .values()
                        .iter()
                        .map(|&x| Value::F64(x))
                        .collect(),
                )
            },
            Value::Text(batch.column(8).as_string::<i32>().value(row).to_owned()),
            Value::Bool(batch.column(9).as_boolean().value(row)),
            Value::Bytes(batch.column(10).as_binary::<i32>().value(row).to_owned()),
            Value::U64(batch.column(11).as_primitive::<UInt64Type>().value(row)),
        ];
        // As text: NaN is equal to NaN there, and -0.0 differs from 0.0.
        assert_eq!(format!("{found:?}"), format!("{expected:?}"), "row {row}");
        assert_eq!(batch.column(4).as_primitive::<Int64Type>().value(row), row as i64);
        let device_ns = 10 * SECOND_NS + row as i64 * SECOND_NS / 100;
        assert_eq!(batch.column(1).as_primitive::<Int64Type>().value(row), device_ns);
        // The hub's clock is 3 s behind the watch's.
        let truth_us = (ANCHOR.utc_ns + device_ns - 3 * SECOND_NS) / 1000;
        let time = batch
            .column(0)
            .as_primitive::<TimestampMicrosecondType>()
            .value(row);
        let err = batch.column(3).as_primitive::<Float32Type>().value(row);
        assert!(
            (time - truth_us).abs() as f32 <= err && err < 1300.0,
            "{time} {truth_us} {err}"
        );
    }
}

#[test]
fn a_check_finds_nothing_wrong_and_the_receipt_is_complete() {
    let disk = MemoryDisk::new();
    let mut session = record(&disk);
    session.stopped = Some(Moment {
        hub_epoch: HUB,
        hub_ns: 20 * SECOND_NS,
    });
    let compacted = compact(&disk, &session);
    assert!(compacted.complete(), "{:?}", compacted.receipt.reasons);
    let phone = &compacted.receipt.streams[0];
    assert_eq!(
        (phone.stream.as_str(), phone.device.as_str()),
        ("mixed@1", "phone")
    );
    assert_eq!(
        (phone.captured, phone.durable, phone.parquet, phone.missing),
        (Some(2000), 2000, 2000, Some(0))
    );
    assert_eq!(phone.digest_ok, Some(true));
    // The phone's second 15 of its own is hub time 20 s, the stop.
    assert!((1499..=1501).contains(&phone.after_stop), "{}", phone.after_stop);
    let checked = check_session(&disk, &session.id, &options()).unwrap();
    assert_eq!(checked.faults, []);
    assert_eq!(
        (
            checked.samples_in_logs,
            checked.samples_in_parquet,
            checked.samples_later
        ),
        (4400, 4400, 0)
    );
    let found = streams(&disk, &session, &options()).unwrap();
    let found: Vec<String> = found
        .iter()
        .map(|(key, device)| format!("{key} {device}"))
        .collect();
    assert_eq!(
        found,
        ["mixed@1 phone", "mixed@1 watch", "plain@1 phone", "plain@1 watch"]
    );
}

#[test]
fn what_was_published_and_is_damaged_is_made_again() {
    let disk = MemoryDisk::new();
    let session = record(&disk);
    let first = compact(&disk, &session);
    let dir = Session::dir(&session.id);
    let part = dir.join(&first.manifest.streams[0].parts[0].path);
    for (generation, path) in [
        (2, &part),
        (3, &dir.join("manifest.json")),
        (4, &dir.join("events.parquet")),
    ] {
        disk.damage(path, |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        })
        .unwrap();
        assert_ne!(check_session(&disk, &session.id, &options()).unwrap().faults, []);
        let mut known = session.clone();
        known.generation = generation - 1;
        let again = compact_session(&disk, &known, &options(), Generation::Always, &quiet).unwrap();
        assert_eq!(
            (again.generation, again.new, again.rows()),
            (generation, true, first.rows())
        );
        assert_eq!(check_session(&disk, &session.id, &options()).unwrap().faults, []);
        if generation == 2 {
            // Names of the later generation stand for the damaged ones.
            assert_ne!(
                again.manifest.streams[0].parts[0].path,
                first.manifest.streams[0].parts[0].path
            );
        }
    }
}

#[test]
fn the_clock_maps_of_earlier_generations_stay() {
    let disk = MemoryDisk::new();
    let session = record(&disk);
    let dir = Session::dir(&session.id);
    let first = compact(&disk, &session);
    assert_eq!(first.manifest.earlier_maps, []);
    let map = read_map(&disk, &dir, None).unwrap().expect("it was published");
    assert_eq!(map.len(), 2, "a clock for each device: {map:?}");
    let mut probes = 0;
    assert!(read_probes(&disk, &dir, |_| probes += 1).unwrap());
    assert!(probes > 0);

    let always = || {
        let mut known = session.clone();
        known.generation = Manifest::read(&disk, &dir).unwrap().unwrap().generation;
        compact_session(&disk, &known, &options(), Generation::Always, &quiet).unwrap()
    };
    let names = |compacted: &Compacted| -> Vec<String> {
        let maps = compacted.manifest.earlier_maps.iter();
        maps.map(|map| map.path.clone()).collect()
    };
    assert_eq!(names(&always()), [earlier_map(1)]);
    let third = always();
    assert_eq!(names(&third), [earlier_map(1), earlier_map(2)]);
    for name in names(&third) {
        assert_eq!(
            read_map(&disk, &dir, Some(&name)).unwrap().as_ref(),
            Some(&map),
            "{name}"
        );
    }
    assert_eq!(check_session(&disk, &session.id, &options()).unwrap().faults, []);

    // One that was damaged is found, and is no record any more once it has been.
    disk.damage(&dir.join(earlier_map(1)), |bytes| bytes[10] ^= 1)
        .unwrap();
    let faults = check_session(&disk, &session.id, &options()).unwrap().faults;
    assert!(
        faults.iter().any(|fault| fault.file.ends_with(earlier_map(1))),
        "{faults:?}"
    );
    assert_eq!(names(&always()), [earlier_map(2), earlier_map(3)]);
    assert_eq!(check_session(&disk, &session.id, &options()).unwrap().faults, []);
    // Nor does one that is gone keep anything from being published.
    disk.remove_file(&dir.join(earlier_map(2))).unwrap();
    disk.remove_file(&dir.join("clock_map.parquet")).unwrap();
    assert_eq!(names(&always()), [earlier_map(3)]);
    assert_eq!(check_session(&disk, &session.id, &options()).unwrap().faults, []);
    let no_map = read_map(&disk, &dir, Some("events.parquet"))
        .unwrap_err()
        .to_string();
    assert!(
        no_map.contains("events.parquet") && no_map.contains("it has no column clock"),
        "{no_map}"
    );
    assert_eq!(read_map(&disk, &dir, Some(&earlier_map(9))).unwrap(), None);
}

#[test]
fn the_same_log_gives_the_same_bytes() {
    let disk = MemoryDisk::new();
    let session = record(&disk);
    compact(&disk, &session);
    let once = files(&disk, &session);
    assert_eq!(once.keys().filter(|name| name.ends_with(".parquet")).count(), 10);
    for threads in [1, 2, 5] {
        let disk = MemoryDisk::new();
        let session = record(&disk);
        let options = Options {
            compaction_threads: threads,
            ..options()
        };
        let rolled = roll(&disk, &session, &options, &quiet).unwrap().unwrap();
        assert_eq!(rolled.streams.len(), 4);
        assert!(
            disk.stat(Path::new("sessions/session=walk/live"))
                .unwrap()
                .is_some()
        );
        roll(&disk, &session, &options, &quiet).unwrap();
        let read_live = read(&disk, &session, "plain@1", "phone");
        compact_session(&disk, &session, &options, Generation::IfNew, &quiet).unwrap();
        assert_eq!(files(&disk, &session), once, "{threads} threads");
        assert_eq!(read(&disk, &session, "plain@1", "phone"), read_live);
    }
    let again = compact(&disk, &session);
    assert!(!again.new);
    assert_eq!(files(&disk, &session), once);
}

#[test]
fn late_frames_make_a_generation_and_unchanged_parts_are_taken_on() {
    let disk = MemoryDisk::new();
    let mut session = record(&disk);
    let mut log = LogMaker::new(&session, "late");
    log.wall(&ANCHOR)
        .epoch(0, Some(3), false)
        .declare(1, PLAIN, 1)
        .probe(0, 0);
    log.data(1, 0, &[(1, vec![Value::I64(1)])]).seal(&disk);
    let first = compact(&disk, &session);
    assert_eq!(
        first.owing().iter().map(DeviceId::as_str).collect::<Vec<_>>(),
        ["late"]
    );
    assert!(!first.complete());
    (session.generation, session.state) = (1, SessionState::Sealed);

    log.probe(SECOND_NS, 0)
        .data(1, 1, &[(SECOND_NS, vec![Value::I64(2)])])
        .end(1, 2, 2)
        .write(&disk);
    // What is not compacted yet is read from the log, in order behind what is.
    assert_eq!(keys(&read(&disk, &session, "plain@1", "late")).len(), 2);
    log.seal(&disk);
    let second = compact(&disk, &session);
    assert_eq!(
        (second.generation, second.new, second.complete()),
        (2, true, true)
    );
    let names: Vec<&str> = second.parts().map(|part| part.path.as_str()).collect();
    assert!(
        names.contains(&"streams/stream=plain@1/device=late/part-g0002-000000.parquet"),
        "{names:?}"
    );
    assert!(
        names.contains(&"streams/stream=plain@1/device=phone/part-g0001-000000.parquet"),
        "{names:?}"
    );
    assert_eq!(check_session(&disk, &session.id, &options()).unwrap().faults, []);
    let left = files_below(&disk, &Session::dir(&session.id)).unwrap();
    assert!(
        left.iter().any(|name| name.starts_with(".old-g0001-streams/")),
        "{left:?}"
    );
    assert!(
        !left
            .iter()
            .any(|name| name.starts_with(".tmp") || name == "publish.json"),
        "{left:?}"
    );
    assert!(left.contains(&"receipt-0001.json".to_owned()) && left.contains(&"receipt-0002.json".to_owned()));
}

#[test]
fn gaps_have_their_causes() {
    let disk = MemoryDisk::new();
    let session = session(&disk, "s");
    let mut log = LogMaker::new(&session, "d");
    let row = |at: i64| vec![(at, vec![Value::I64(at)])];
    log.wall(&ANCHOR)
        .epoch(0, Some(1), false)
        .declare(1, PLAIN, 1)
        .probe(0, 0);
    log.data(1, 2, &row(10)).data(1, 3, &row(20));
    log.data(1, 7, &row(30));
    // Time goes back: kept out.
    log.data(1, 8, &row(5)).data(1, 9, &row(40));
    log.end(1, 20, 20);
    log.epoch(1, Some(1), false).declare(1, PLAIN, 1);
    // The index goes on where the last epoch ended.
    log.data(1, 25, &row(50)).seal(&disk);
    let compacted = compact(&disk, &session);
    let stream = &compacted.receipt.streams[0];
    let gaps: Vec<_> = stream
        .gaps
        .iter()
        .map(|gap| (gap.epoch, gap.first_seq, gap.last_seq, gap.cause.as_str()))
        .collect();
    let lost = "lost in the device's buffer";
    assert_eq!(
        gaps,
        [
            (0, 0, 1, lost),
            (0, 4, 6, lost),
            (0, 8, 8, "kept out"),
            (0, 10, 19, lost),
            (1, 20, 24, lost)
        ]
    );
    assert_eq!(
        (stream.captured, stream.missing, stream.durable, stream.parquet),
        (None, None, 6, 5)
    );
    assert_eq!(compacted.receipt.kept_out[0].why, "device time goes back");
    assert_eq!(compacted.owing().len(), 1);
    assert_eq!(check_session(&disk, &session.id, &options()).unwrap().faults, []);
}

#[test]
fn epochs_that_overlap_are_merged() {
    let disk = MemoryDisk::new();
    let session = session(&disk, "s");
    let mut log = LogMaker::new(&session, "d");
    log.wall(&ANCHOR);
    // Three clocks of no boot, their times interleaved on the hub.
    for (ordinal, ahead) in [(0u32, 0i64), (1, 1_000 * SECOND_NS), (2, -500 * SECOND_NS)] {
        log.epoch(ordinal, None, false).declare(1, PLAIN, 1);
        for second in 0..10 {
            let hub = 20 * SECOND_NS + second * SECOND_NS + 137_000_000 * i64::from(ordinal);
            log.probe(hub - ahead, ahead);
            let rows: Vec<_> = (0..5)
                .map(|i| (hub - ahead + i * SECOND_NS / 5, vec![Value::I64(5 * second + i)]))
                .collect();
            log.data(1, 5 * second as u64, &rows);
        }
    }
    log.seal(&disk);
    let unsealed = keys(&read(&disk, &session, "plain@1", "d"));
    compact(&disk, &session);
    let found = keys(&read(&disk, &session, "plain@1", "d"));
    assert_eq!(found, unsealed);
    assert_eq!(found.len(), 150);
    assert!(found.is_sorted());
    assert!(
        found.windows(2).filter(|pair| pair[0].1 != pair[1].1).count() > 50,
        "they interleave"
    );
    assert_eq!(check_session(&disk, &session.id, &options()).unwrap().faults, []);
}

#[test]
fn a_clock_that_stood_still_keeps_the_order() {
    let disk = MemoryDisk::new();
    let session = session(&disk, "s");
    let mut log = LogMaker::new(&session, "d");
    log.wall(&ANCHOR).epoch(0, Some(1), false).declare(1, PLAIN, 1);
    for second in 0..40i64 {
        // After 20 s the device's clock goes on as if the minute it slept had not been.
        let ahead = if second < 20 { 0 } else { 60 * SECOND_NS };
        let rows: Vec<_> = (0..10)
            .map(|i| {
                (
                    second * SECOND_NS + i * SECOND_NS / 10,
                    vec![Value::I64(10 * second + i)],
                )
            })
            .collect();
        log.probe(second * SECOND_NS, ahead)
            .data(1, 10 * second as u64, &rows);
    }
    log.end(1, 400, 400).seal(&disk);
    let compacted = compact(&disk, &session);
    assert!(compacted.complete());
    let found = keys(&read(&disk, &session, "plain@1", "d"));
    assert!(found.is_sorted());
    assert_eq!(
        found.iter().map(|key| key.2).collect::<Vec<_>>(),
        (0..400).collect::<Vec<_>>()
    );
    assert!(found[399].0 - found[0].0 > 99_000_000, "the minute is there");
}

#[test]
fn damage_is_named_and_what_fills_it_is_sorted_in() {
    let disk = MemoryDisk::new();
    let session = session(&disk, "s");
    let mut log = LogMaker::new(&session, "d");
    let rows = |from: i64| {
        (0..10)
            .map(|i| (from + i, vec![Value::I64(from + i)]))
            .collect::<Vec<_>>()
    };
    log.wall(&ANCHOR)
        .epoch(0, Some(1), false)
        .declare(1, PLAIN, 1)
        .probe(0, 0);
    for frame in 0..5 {
        log.data(1, 10 * frame, &rows(10 * frame as i64));
    }
    let lost = log.entries[log.entries.len() - 3];
    log.end(1, 50, 50).seal(&disk);
    let path = Session::log_dir(&session.id, &log.device).join("000001.mlog");
    disk.damage(&path, |bytes| bytes[lost.offset as usize + 60] ^= 1)
        .unwrap();
    let compacted = compact(&disk, &session);
    let stream = &compacted.receipt.streams[0];
    assert_eq!(
        (stream.captured, stream.missing, stream.digest_ok),
        (Some(50), Some(10), None)
    );
    assert_eq!(
        (stream.gaps[0].first_seq, stream.gaps[0].cause.as_str()),
        (20, "damage")
    );
    let damage = &compacted.receipt.damage[0];
    assert_eq!(
        (damage.file.as_str(), damage.offset),
        ("logs/d/000001.mlog", u64::from(lost.offset))
    );
    // The device sends it again.
    log.epoch(0, Some(1), true)
        .jump(2)
        .data(1, 20, &rows(20))
        .seal(&disk);
    let compacted = compact(&disk, &session);
    assert_eq!(
        (compacted.generation, compacted.receipt.streams[0].missing),
        (2, Some(0))
    );
    let found = keys(&read(&disk, &session, "plain@1", "d"));
    assert_eq!(
        found.iter().map(|key| key.2).collect::<Vec<_>>(),
        (0..50).collect::<Vec<_>>()
    );
    assert_eq!(compacted.receipt.streams[0].digest_ok, Some(true));
}

#[test]
fn a_check_names_what_was_changed() {
    let disk = MemoryDisk::new();
    let session = record(&disk);
    let compacted = compact(&disk, &session);
    let dir = Session::dir(&session.id);
    let part = dir.join(&compacted.parts().next().unwrap().path);
    disk.damage(&part, |bytes| bytes[100] ^= 1).unwrap();
    disk.damage(&dir.join("gaps.parquet"), |bytes| bytes.truncate(10))
        .unwrap();
    let faults = check_session(&disk, &session.id, &options()).unwrap().faults;
    let named: Vec<_> = faults
        .iter()
        .map(|fault| fault.file.to_string_lossy().into_owned())
        .collect();
    assert_eq!(named.len(), 2, "{faults:?}");
    assert!(
        named[0].ends_with("gaps.parquet") && named[1].ends_with("part-g0001-000000.parquet"),
        "{named:?}"
    );
}

/// A footer that a hub wrote, and could not sync: the hub after it began a new segment, and a power cut took the footer.
#[test]
fn what_stands_behind_a_cut_may_go() {
    let disk = MemoryDisk::new();
    let session = session(&disk, "walk");
    let mut log = LogMaker::new(&session, "phone");
    log.wall(&ANCHOR).epoch(0, Some(9), false).declare(1, PLAIN, 1);
    let rows = |from: i64| -> Vec<_> {
        (from..from + 10)
            .map(|i| (SECOND_NS + i * SECOND_NS / 10, vec![Value::I64(i)]))
            .collect()
    };
    log.probe(SECOND_NS, 0).data(1, 0, &rows(0)).cut(&disk);
    log.epoch(0, Some(9), false)
        .data(1, 10, &rows(10))
        .end(1, 20, 20)
        .seal(&disk);
    let compacted = compact(&disk, &session);
    assert_eq!(
        compacted.receipt.streams[0].missing,
        Some(0),
        "{:?}",
        compacted.receipt
    );

    let manifest = Manifest::read(&disk, &Session::dir(&session.id))
        .unwrap()
        .unwrap();
    let [first, second] = &manifest.logs[0].segments[..] else {
        panic!("{:?}", manifest.logs);
    };
    let cut = first.cut.as_ref().expect("the second segment cut it");
    assert_eq!(
        (first.blake3.is_none(), second.blake3.is_some(), &second.cut),
        (true, true, &None)
    );
    assert!(0 < cut.bytes && cut.bytes < first.bytes, "{first:?}");

    let path = Session::dir(&session.id).join(&first.path);
    let faults = || check_session(&disk, &session.id, &options()).unwrap().faults;
    assert_eq!(faults(), []);
    disk.damage(&path, |bytes| bytes.truncate(cut.bytes as usize))
        .unwrap();
    assert_eq!(faults(), []);

    let whole = read_all(&disk, &path, 1 << 20).unwrap();
    disk.damage(&path, |bytes| bytes[300] ^= 1).unwrap();
    let said = format!("{:?}", faults());
    assert!(
        said.contains(&format!(
            "its first {} bytes are not those of the manifest",
            cut.bytes
        )),
        "{said}"
    );
    disk.damage(&path, |bytes| {
        bytes.copy_from_slice(&whole);
        bytes.truncate(cut.bytes as usize - 1);
    })
    .unwrap();
    let said = format!("{:?}", faults());
    assert!(
        said.contains(&format!("of which the manifest counts {}", cut.bytes)),
        "{said}"
    );
    disk.remove_file(&path).unwrap();
    let said = format!("{:?}", faults());
    assert!(said.contains("missing"), "{said}");
}

/// A footer that a hub wrote before it died, and that nobody synced: the session is sealed, and a power cut comes.
#[test]
fn the_end_of_a_log_is_synced_before_it_is_listed() {
    let disk = MemoryDisk::new();
    let session = session(&disk, "walk");
    let mut log = LogMaker::new(&session, "phone");
    log.wall(&ANCHOR).epoch(0, Some(9), false).declare(1, PLAIN, 1);
    let rows: Vec<_> = (0..10)
        .map(|i| (SECOND_NS + i * SECOND_NS / 10, vec![Value::I64(i)]))
        .collect();
    log.probe(SECOND_NS, 0)
        .data(1, 0, &rows)
        .end(1, 10, 10)
        .write(&disk);
    let path = Session::log_dir(&session.id, &DeviceId::new("phone").unwrap()).join(segment_name(1));
    let unsealed = read_all(&disk, &path, 1 << 20).unwrap();
    log.seal(&disk);
    let sealed = read_all(&disk, &path, 1 << 20).unwrap();
    disk.damage(&path, |bytes| bytes.truncate(unsealed.len()))
        .unwrap();
    let file = disk.open(&path, OpenMode::ReadWrite).unwrap();
    file.write_at(unsealed.len() as u64, &sealed[unsealed.len()..])
        .unwrap();

    compact(&disk, &session);
    let faults = || check_session(&disk, &session.id, &options()).unwrap().faults;
    assert_eq!(faults(), []);
    disk.power_cut(None);
    assert_eq!(faults(), []);
    assert_eq!(read_all(&disk, &path, 1 << 20).unwrap(), sealed);
}
