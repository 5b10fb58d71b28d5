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
