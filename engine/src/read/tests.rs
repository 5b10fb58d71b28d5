//! The order of merged rows, against a sort of all of them.

use super::merge::Merge;
use crate::compact::tests::maker::{ANCHOR, LogMaker, session};
use crate::compact::{Generation, compact_session};
use crate::disk::memory::MemoryDisk;
use crate::options::Options;
use arrow::array::{
    ArrayRef, AsArray, Float32Array, Int32Array, Int64Array, RecordBatch, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema, TimeUnit, TimestampMicrosecondType};
use marey_format::frame::Value;
use marey_format::{DeviceId, SessionId};
use proptest::prelude::*;
use std::sync::Arc;

type Row = (i64, i32, i64);

fn batch(rows: &[Row]) -> RecordBatch {
    let schema = Schema::new(vec![
        Field::new("time", DataType::Timestamp(TimeUnit::Microsecond, None), false),
        Field::new("device_time_ns", DataType::Int64, false),
        Field::new("epoch", DataType::Int32, false),
        Field::new("time_err_us", DataType::Float32, false),
        Field::new("seq", DataType::Int64, false),
    ]);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(TimestampMicrosecondArray::from_iter_values(
            rows.iter().map(|row| row.0),
        )),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.0 * 1000))),
        Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| row.1))),
        Arc::new(Float32Array::from_iter_values(rows.iter().map(|_| 1.0))),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.2))),
    ];
    RecordBatch::try_new(Arc::new(schema), columns).unwrap()
}

fn rows(batch: &RecordBatch) -> Vec<Row> {
    let times = batch
        .column(0)
        .as_primitive::<TimestampMicrosecondType>()
        .values();
    let epochs = batch.column(2).as_primitive::<Int32Type>().values();
    let seqs = batch.column(4).as_primitive::<Int64Type>().values();
    (0..batch.num_rows())
        .map(|row| (times[row], epochs[row], seqs[row]))
        .collect()
}

proptest! {
    #[test]
    fn merged_rows_are_all_rows_in_order(
        sources in prop::collection::vec(prop::collection::vec((0i64..50, 0i32..3, 0i64..20), 0..60), 0..5),
        batch_rows in 1usize..20,
        most_rows in 1usize..30,
    ) {
        let mut expected: Vec<Row> = sources.iter().flatten().copied().collect();
        expected.sort();
        let streams = sources.into_iter().map(|mut rows| {
            rows.sort();
            let batches: Vec<_> = rows.chunks(batch_rows).map(|rows| Ok(batch(rows))).collect();
            Box::new(batches.into_iter()) as Box<dyn Iterator<Item = _>>
        });
        let merged: Vec<RecordBatch> = Merge::new(streams.collect(), most_rows).map(Result::unwrap).collect();
        prop_assert!(merged.iter().all(|batch| (1..=most_rows).contains(&batch.num_rows())));
        prop_assert_eq!(merged.iter().flat_map(rows).collect::<Vec<_>>(), expected);
    }

    /// Epochs of clocks of their own, however they lie in time: what compaction writes is what a sort gives, and what
    /// the log alone gives.
    #[test]
    fn compaction_sorts_epochs_as_they_come(
        epochs in prop::collection::vec((-5i64..5, prop::collection::vec(0i64..300_000_000, 1..30)), 1..5),
        row_group_rows in 1usize..40,
    ) {
        let disk = MemoryDisk::new();
        let session = session(&disk, "s");
        let mut log = LogMaker::new(&session, "d");
        log.wall(&ANCHOR);
        let mut samples = 0;
        for (ordinal, (ahead, steps)) in epochs.iter().enumerate() {
            let ahead = ahead * 700_000_000;
            log.epoch(ordinal as u32, None, false);
            log.declare(1, r#"{"name":"x","fields":[{"name":"v","type":"i64"}]}"#, 1).probe(0, ahead);
            let mut at = 0;
            for (index, frame) in steps.chunks(4).enumerate() {
                let rows: Vec<_> = frame.iter().map(|step| {
                    at += step;
                    (at, vec![Value::I64(at)])
                }).collect();
                log.data(1, 4 * index as u64, &rows).probe(at, ahead);
                samples += frame.len();
            }
        }
        log.seal(&disk);
        let options = Options { row_group_rows, ..Options::default() };
        let read = || {
            let (key, device) = ("x@1".parse().unwrap(), DeviceId::new("d").unwrap());
            let reader = super::Reader::open(&disk, &session, &key, &device, &options).unwrap();
            reader.flat_map(|batch| rows(&batch.unwrap())).collect::<Vec<_>>()
        };
        let from_log = read();
        compact_session(&disk, &session, &options, Generation::IfNew, &|_| {}).unwrap();
        let from_parquet = read();
        prop_assert_eq!(&from_log, &from_parquet);
        prop_assert!(from_parquet.is_sorted());
        prop_assert_eq!(from_parquet.len(), samples);
    }
}

/// The same rows from the log, from Parquet, and from both: of the channels only what was asked for.
#[test]
fn channels_that_nobody_wants_are_not_there() {
    let disk = MemoryDisk::new();
    let session = session(&disk, "s");
    let mut log = LogMaker::new(&session, "d");
    log.wall(&ANCHOR).epoch(0, None, false);
    let fields = r#"{"name":"a","type":"i64"},{"name":"t","type":"utf8"},{"name":"v","type":"i64"}"#;
    log.declare(1, &format!(r#"{{"name":"x","fields":[{fields}]}}"#), 1)
        .probe(0, 0);
    let row = |n: i64| {
        let values = vec![
            Value::I64(-n),
            Value::Text("never read".to_owned()),
            Value::I64(7 * n),
        ];
        (n * 1_000_000, values)
    };
    let options = Options::default();
    let read = || {
        let (key, device) = ("x@1".parse().unwrap(), DeviceId::new("d").unwrap());
        let wanted = |field: &Field| field.name() == "v";
        let reader = super::Reader::open_channels(&disk, &session, &key, &device, &options, &wanted).unwrap();
        let schema = reader.schema();
        let mut found = Vec::new();
        for batch in reader {
            let batch = batch.unwrap();
            assert_eq!(batch.schema(), schema);
            assert_eq!((schema.fields().len(), schema.field(5).name().as_str()), (6, "v"));
            let values = batch.column(5).as_primitive::<Int64Type>().values();
            found.extend(rows(&batch).into_iter().zip(values.iter().copied()));
        }
        found
    };
    log.data(1, 0, &[row(0), row(1), row(2)])
        .probe(2_000_000, 0)
        .seal(&disk);
    let from_log = read();
    assert_eq!(from_log.iter().map(|row| row.1).collect::<Vec<_>>(), [0, 7, 14]);
    compact_session(&disk, &session, &options, Generation::IfNew, &|_| {}).unwrap();
    assert_eq!(read(), from_log);
    log.data(1, 3, &[row(3), row(4)]).seal(&disk);
    let from_both = read();
    assert_eq!(
        from_both.iter().map(|row| row.1).collect::<Vec<_>>(),
        [0, 7, 14, 21, 28]
    );
    assert_eq!(from_both[..3], from_log);
}

#[test]
fn a_stream_that_is_not_there_is_named() {
    let disk = MemoryDisk::new();
    let session = session(&disk, "s");
    let (key, device) = ("x@1".parse().unwrap(), DeviceId::new("d").unwrap());
    let error = super::Reader::open(&disk, &session, &key, &device, &Options::default()).unwrap_err();
    assert!(
        matches!(&error, super::ReadError::NoStream { session, .. } if *session == SessionId::new("s").unwrap())
    );
    assert!(error.to_string().contains("x@1"), "{error}");
}

#[test]
fn a_stream_that_was_never_sampled_has_columns_and_no_rows() {
    let disk = MemoryDisk::new();
    let session = session(&disk, "s");
    let mut log = LogMaker::new(&session, "d");
    log.wall(&ANCHOR).epoch(0, None, false);
    log.declare(1, r#"{"name":"x","fields":[{"name":"v","type":"i64"}]}"#, 1)
        .probe(0, 0);
    log.seal(&disk);
    let options = Options::default();
    let look = || {
        let (key, device) = super::streams(&disk, &session, &options)
            .unwrap()
            .pop()
            .expect("it is listed");
        let reader = super::Reader::open(&disk, &session, &key, &device, &options).unwrap();
        let schema = reader.schema();
        (
            schema,
            reader.map(|batch| batch.unwrap().num_rows()).sum::<usize>(),
        )
    };
    let (from_log, rows) = look();
    assert_eq!((from_log.index_of("v").is_ok(), rows), (true, 0));
    compact_session(&disk, &session, &options, Generation::IfNew, &|_| {}).unwrap();
    assert_eq!(look(), (from_log, 0));
}

/// Of any kind of channel; whatever happens to the overview, the samples say the same.
#[test]
fn an_overview_adds_up_to_what_its_samples_do() {
    let disk = MemoryDisk::new();
    let session = session(&disk, "s");
    let mut log = LogMaker::new(&session, "d");
    log.wall(&ANCHOR).epoch(0, None, false);
    let numbers = r#"{"name":"f","type":"f32","unit":"m/s2"},{"name":"i","type":"i64"},{"name":"on","type":"bool"},{"name":"never","type":"f64"}"#;
    let others = r#"{"name":"text","type":"utf8"},{"name":"pair","type":"f32","length":2}"#;
    log.declare(1, &format!(r#"{{"name":"x","fields":[{numbers},{others}]}}"#), 1);
    log.declare(2, &format!(r#"{{"name":"y","fields":[{numbers}]}}"#), 1)
        .probe(0, 0);
    let number = |n: i64| {
        vec![
            Value::F32(if n % 5 == 0 {
                f32::NAN
            } else {
                (n % 97) as f32 - 40.0
            }),
            Value::I64(n % 1_000 - 300),
            Value::Bool(n % 3 == 0),
            Value::F64(f64::NAN),
        ]
    };
    for first in (0_i64..4_000).step_by(500) {
        let row = |n: i64| (n * 1_000_000, number(n));
        log.data(
            2,
            first.cast_unsigned(),
            &(first..first + 500).map(row).collect::<Vec<_>>(),
        );
        let row = |n: i64| {
            let mut values = number(n);
            values.extend([
                Value::Text(format!("t{n}")),
                Value::List(vec![Value::F32(n as f32), Value::F32(-1.0)]),
            ]);
            (n * 1_000_000, values)
        };
        log.data(
            1,
            first.cast_unsigned(),
            &(first..first + 500).map(row).collect::<Vec<_>>(),
        );
    }
    log.probe(4_000_000_000, 0).seal(&disk);
    compact_session(&disk, &session, &Options::default(), Generation::IfNew, &|_| {}).unwrap();

    let device = DeviceId::new("d").unwrap();
    let of = |disk: &MemoryDisk, key: &str| {
        let parts = super::parts(disk, &session, &key.parse().unwrap(), &device).unwrap();
        (super::statistics(disk, &parts).unwrap(), parts)
    };
    let close = |a: Option<f64>, b: Option<f64>| match (a, b) {
        (Some(a), Some(b)) => (a - b).abs() <= 1e-12 * a.abs(),
        (a, b) => a == b,
    };
    let overview = crate::session::Session::dir(&session.id).join("overview.parquet");
    for key in ["x@1", "y@1"] {
        let (by_overview, parts) = of(&disk, key);
        let damaged = disk.snapshot();
        let harm = |bytes: &mut Vec<u8>| bytes[20] ^= 1;
        damaged.damage(&overview, harm).unwrap();
        let (by_samples, _) = of(&damaged, key);
        assert_eq!(by_samples.rows, 4_000);
        assert_eq!(by_samples.channels[0].nan, 800);
        assert_eq!(by_samples.channels[0].unit.as_deref(), Some("m/s2"));
        assert_eq!(by_samples.channels[1].mean, Some(199.5));
        assert_eq!(
            (by_samples.channels[2].min, by_samples.channels[2].max),
            (Some(0.0), Some(1.0))
        );
        assert_eq!(
            (by_samples.channels[3].nan, by_samples.channels[3].mean),
            (4_000, None)
        );
        if key == "x@1" {
            assert_eq!(
                (by_samples.channels[4].values, by_samples.channels[4].nan),
                (4_000, 0)
            );
            assert_eq!(
                (by_samples.channels[5].values, by_samples.channels[5].max),
                (8_000, Some(3_999.0))
            );
        }
        assert!(by_overview.time_err_us_max.is_some_and(|err_us| err_us > 0.0));
        let mut like = by_samples.clone();
        for (ours, theirs) in like.channels.iter_mut().zip(&by_overview.channels) {
            assert!(close(ours.mean, theirs.mean), "{ours:?} {theirs:?}");
            ours.mean = theirs.mean;
        }
        assert_eq!(like, by_overview);
        // A stream of numbers is not read at all.
        if key == "y@1" {
            let unread = disk.snapshot();
            let harm = |bytes: &mut Vec<u8>| {
                let footer = u32::from_le_bytes(bytes[bytes.len() - 8..][..4].try_into().unwrap()) as usize;
                let end = bytes.len() - 8 - footer;
                bytes[4..end].fill(0xA5);
            };
            unread.damage(&parts.paths[0], harm).unwrap();
            assert_eq!(of(&unread, key).0, by_overview);
        }
    }
}

/// The widest buckets that are no wider than asked, each channel's in order of time, and none where there are none.
#[test]
fn a_level_of_the_overview_is_the_widest_that_fits() {
    let disk = MemoryDisk::new();
    let session = session(&disk, "s");
    for device in ["d", "e"] {
        let mut log = LogMaker::new(&session, device);
        log.wall(&ANCHOR).epoch(0, None, false);
        log.declare(
            1,
            r#"{"name":"x","fields":[{"name":"v","type":"i64"},{"name":"w","type":"i32"}]}"#,
            1,
        )
        .probe(0, 0);
        for first in (0_i64..40_000).step_by(500) {
            let row = |n: i64| (n * 1_000_000, vec![Value::I64(n), Value::I64(-n)]);
            log.data(
                1,
                first.cast_unsigned(),
                &(first..first + 500).map(row).collect::<Vec<_>>(),
            );
        }
        log.probe(40_000_000_000, 0).seal(&disk);
    }
    compact_session(&disk, &session, &Options::default(), Generation::IfNew, &|_| {}).unwrap();
    let (key, device) = ("x@1".parse().unwrap(), DeviceId::new("e").unwrap());
    let level = |width_us| super::overview(&disk, &session.id, &key, &device, width_us).unwrap();
    let widest = level(i64::MAX).unwrap();
    let widths: Vec<i64> =
        std::iter::successors(Some(widest.width_us), |width| Some(level(width - 1)?.width_us)).collect();
    assert!(widths.len() >= 2, "{widths:?}");
    assert!(
        widths.is_sorted_by(|wide, narrow| *narrow == wide / 4),
        "{widths:?}"
    );
    assert_eq!(level(widths[widths.len() - 1] - 1), None);
    for width in widths {
        let level = level(width).unwrap();
        assert_eq!(
            level,
            super::overview(&disk, &session.id, &key, &device, 4 * width - 1)
                .unwrap()
                .unwrap()
        );
        let names: Vec<&str> = level.channels.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["v", "w"]);
        for (_, buckets) in &level.channels {
            assert_eq!(buckets.iter().map(|bucket| bucket.count).sum::<u64>(), 40_000);
            assert!(buckets.is_sorted_by(|a, b| a.time_us + level.width_us <= b.time_us));
        }
        assert_eq!(level.channels[0].1.first().map(|bucket| bucket.min), Some(0.0));
        assert_eq!(
            level.channels[1].1.last().map(|bucket| bucket.min),
            Some(-39_999.0)
        );
    }
    let nobody = DeviceId::new("f").unwrap();
    assert_eq!(
        super::overview(&disk, &session.id, &key, &nobody, i64::MAX).unwrap(),
        None
    );
    let path = crate::session::Session::dir(&session.id).join("overview.parquet");
    disk.damage(&path, |bytes| bytes[30] ^= 1).unwrap();
    let refused = super::overview(&disk, &session.id, &key, &device, i64::MAX);
    assert!(
        matches!(refused, Err(super::ReadError::Changed { .. })),
        "{refused:?}"
    );
}
