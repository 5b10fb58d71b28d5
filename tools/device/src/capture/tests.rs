//! A capture from the first sample to the end frame, and across a restart.

use std::path::Path;

use marey_format::FieldType;
use marey_format::frame::{Column, Columns};
use marey_format::payload::EndOfStream;
use marey_format::types::Period;
use marey_format::wire::{Acked, Holes};
use marey_format::{DigestChain, Kind};

use super::*;
use crate::buffer::restore_all;

fn identity() -> Identity {
    Identity {
        device: DeviceId::new("belt").unwrap(),
        session: SessionId::new("walk").unwrap(),
        epoch: EpochId([5; 16]),
        boot: BootId([6; 16]),
    }
}

fn declaration(name: &str, fields: &str) -> Declaration {
    Declaration::from_json(format!(r#"{{"name":"{name}","fields":[{fields}]}}"#).as_bytes()).unwrap()
}

fn capture(options: &BufferOptions) -> Capture {
    Capture::begin(identity(), options, FrameOptions::default()).unwrap()
}

/// All frames that wait, as bytes, oldest first.
fn frames(capture: &mut Capture, lane: Lane) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while let Some(held) = capture.buffer.next(lane).cloned() {
        let mut bytes = Vec::new();
        capture.buffer.load(&held, &mut bytes).unwrap();
        capture.buffer.sent(lane, held.header.sequence);
        frames.push(bytes);
    }
    capture.buffer.rewind(lane, 0);
    frames
}

fn seed() -> Seed {
    Seed::new(&identity().device, &identity().session, &identity().epoch)
}

#[test]
fn samples_become_frames_with_rising_indices_and_an_end_that_adds_up() {
    let mut capture = capture(&BufferOptions::default());
    let declaration = declaration(
        "gsr",
        r#"{"name":"us","type":"f32"},{"name":"note","type":"utf8"}"#,
    );
    let stream = capture.declare(&declaration, Timing::Stamped, 10).unwrap();
    assert_eq!(
        capture.declare(&declaration, Timing::Stamped, 10).unwrap(),
        stream
    );
    let now = Instant::now();
    for i in 0..5_000i64 {
        let values = [Value::F32(i as f32), Value::Text("x".repeat((i % 7) as usize))];
        assert_eq!(
            capture.push(stream, i / 2, &values, now).unwrap(),
            Pushed {
                index: i as u64,
                lost: 0
            }
        );
    }
    let backward = capture.push(stream, 0, &[Value::F32(0.0), Value::Text(String::new())], now);
    assert!(matches!(
        backward,
        Err(PushError::TimeBackward {
            before: 2499,
            found: 0
        })
    ));
    assert!(matches!(
        capture.push(stream, 9999, &[Value::F32(0.0)], now),
        Err(PushError::Fields { .. })
    ));
    let huge = [Value::F32(0.0), Value::Text("x".repeat(1 << 20))];
    assert!(matches!(
        capture.push(stream, 9999, &huge, now),
        Err(PushError::TooLarge { .. })
    ));
    capture.end(77).unwrap();
    assert!(matches!(capture.flush(stream), Err(PushError::Over)));
    let data = frames(&mut capture, Lane::Data);
    assert!(data.len() > 5);
    let (mut index, mut digest) = (0, DigestChain::default());
    for bytes in &data {
        let frame = Frame::checked(bytes, seed()).unwrap();
        assert_eq!(frame.header().first_index, index);
        let columns = Columns::parse(&frame, &declaration).unwrap();
        assert_eq!(columns.times.at(0), index as i64 / 2);
        assert_eq!(columns.fields[1].cell(1).unwrap().len() as u64, (index + 1) % 7);
        index += u64::from(frame.header().count);
        digest.push(frame.header().crc, frame.header().sequence);
    }
    let live = frames(&mut capture, Lane::Live);
    let last = Frame::checked(live.last().unwrap(), seed()).unwrap();
    assert_eq!(
        (live.len(), last.header().kind, last.header().first_time_ns),
        (2, Kind::END, 77)
    );
    let end: EndOfStream = last.json("an end").unwrap();
    assert_eq!(
        (end.captured, end.next_index, end.frames),
        (5_000, 5_000, data.len() as u64)
    );
    assert_eq!(end.digest, digest.to_hex());
}

#[test]
fn a_regular_stream_stores_a_period_and_breaks_where_the_samples_do() {
    let mut capture = capture(&BufferOptions::default());
    let declaration = declaration("ecg", r#"{"name":"mv","type":"i16"}"#);
    let period = Period {
        numerator: 1_000_000_000,
        denominator: 3,
    };
    let stream = capture.declare(&declaration, Timing::Regular(period), 0).unwrap();
    let now = Instant::now();
    for time_ns in [
        0,
        333_333_333,
        666_666_666,
        1_000_000_000,
        1_500_000_000,
        1_833_333_333,
    ] {
        capture.push(stream, time_ns, &[Value::I64(1)], now).unwrap();
    }
    capture.flush_all();
    let counts: Vec<u32> = frames(&mut capture, Lane::Data)
        .iter()
        .map(|bytes| {
            let frame = Frame::checked(bytes, seed()).unwrap();
            assert!(frame.header().flags.contains(marey_format::Flags::REGULAR));
            frame.header().count
        })
        .collect();
    assert_eq!(counts, [4, 2]);
}

#[test]
fn a_batch_is_the_same_as_its_samples() {
    let fields =
        r#"{"name":"a","type":"i16"},{"name":"b","type":"f64","length":2},{"name":"c","type":"bool"}"#;
    let declaration = declaration("mix", fields);
    let mut capture = capture(&BufferOptions::default());
    let stream = capture.declare(&declaration, Timing::Stamped, 0).unwrap();
    let stamps: Vec<i64> = (0..40_000).collect();
    let shorts: Vec<i16> = (0..40_000).map(|i| (i % 30_000) as i16).collect();
    let doubles: Vec<f64> = (0..80_000).map(f64::from).collect();
    let bools: Vec<bool> = (0..40_000).map(|i| i % 3 == 0).collect();
    let batch = Batch {
        times: BatchTimes::Stamps(&stamps),
        columns: vec![
            ColumnSlice::I16(&shorts),
            ColumnSlice::F64(&doubles),
            ColumnSlice::Bool(&bools),
        ],
    };
    assert_eq!(
        capture.push_batch(stream, &batch, Instant::now()).unwrap().index,
        0
    );
    assert!(matches!(
        capture.push_batch(stream, &batch, Instant::now()),
        Err(PushError::TimeBackward { .. })
    ));
    let data = frames(&mut capture, Lane::Data);
    assert_eq!(data.len(), 2);
    let mut row = 0usize;
    for bytes in &data {
        let frame = Frame::checked(bytes, seed()).unwrap();
        let columns = Columns::parse(&frame, &declaration).unwrap();
        let Column::Fixed(doubles) = columns.fields[1] else {
            panic!()
        };
        assert_eq!(doubles[8..16], f64::from(row as u32 * 2 + 1).to_le_bytes());
        let Column::Fixed(bools) = columns.fields[2] else {
            panic!()
        };
        assert_eq!(bools[0], u8::from(row.is_multiple_of(3)));
        row += frame.header().count as usize;
    }
    assert_eq!(row, 40_000);
    let short = Batch {
        times: BatchTimes::Stamps(&stamps[..2]),
        columns: batch.columns.clone(),
    };
    assert!(matches!(
        capture.push_batch(stream, &short, Instant::now()),
        Err(PushError::Batch(_))
    ));
}

#[test]
fn text_goes_in_batches_too() {
    let declaration = declaration(
        "doing",
        r#"{"name":"label","type":"utf8"},{"name":"sure","type":"f32"}"#,
    );
    assert_eq!(declaration.fields[0].kind, FieldType::Utf8);
    let mut capture = capture(&BufferOptions::default());
    let stream = capture.declare(&declaration, Timing::Stamped, 0).unwrap();
    let batch = Batch {
        times: BatchTimes::Stamps(&[4, 4, 9]),
        columns: vec![
            ColumnSlice::Utf8(&["a", "", "étude"]),
            ColumnSlice::F32(&[0.5, 1.0, 0.25]),
        ],
    };
    assert_eq!(
        capture.push_batch(stream, &batch, Instant::now()).unwrap().index,
        0
    );
    let data = frames(&mut capture, Lane::Data);
    let frame = Frame::checked(&data[0], seed()).unwrap();
    assert_eq!(
        Columns::parse(&frame, &declaration).unwrap().fields[0].cell(2),
        Some("étude".as_bytes())
    );
}

#[test]
fn what_finds_no_room_leaves_a_hole_in_index_and_sequence() {
    let options = BufferOptions {
        bytes_max: 4_000,
        ..BufferOptions::default()
    };
    let mut capture = capture(&options);
    let stream = capture
        .declare(
            &declaration("s", r#"{"name":"v","type":"f64"}"#),
            Timing::Stamped,
            0,
        )
        .unwrap();
    let now = Instant::now();
    let mut told = 0;
    for i in 0..600 {
        told += capture.push(stream, i, &[Value::F64(0.0)], now).unwrap().lost;
        if i % 100 == 99 {
            capture.flush(stream).unwrap();
        }
    }
    capture.buffer.acknowledged([2, 1], [0, 0]).unwrap();
    told += capture.push(stream, 600, &[Value::F64(0.0)], now).unwrap().lost;
    capture.flush(stream).unwrap();
    assert_eq!(told, 400);
    let count = &capture.counts()[0];
    assert_eq!((count.captured, count.lost, count.acknowledged), (601, 400, 200));
    let data = frames(&mut capture, Lane::Data);
    let header = *Frame::checked(&data[0], seed()).unwrap().header();
    assert_eq!((data.len(), header.sequence, header.first_index), (1, 6, 600));
}

#[test]
fn a_program_that_dies_goes_on_where_it_stood() {
    let folder = tempfile::tempdir().unwrap();
    let options = BufferOptions {
        folder: Some(folder.path().to_owned()),
        ..BufferOptions::default()
    };
    let restore = |folder: &Path| {
        let paths = restore_all(folder).unwrap();
        assert_eq!(paths.len(), 1);
        Capture::restore(&paths[0], &options, FrameOptions::default()).unwrap()
    };
    let declaration = declaration("s", r#"{"name":"v","type":"i32"}"#);
    let mut capture = capture(&options);
    let stream = capture.declare(&declaration, Timing::Stamped, 0).unwrap();
    let now = Instant::now();
    for i in 0..500 {
        capture.push(stream, i, &[Value::I64(i)], now).unwrap();
        if i % 50 == 49 {
            capture.flush(stream).unwrap();
        }
        if i == 220 {
            capture.buffer.sent(Lane::Data, 2);
            capture
                .buffer
                .opened(Acked { data: 2, live: 1 }, &Holes::default())
                .unwrap();
            capture.compact().unwrap();
            capture.write_counters().unwrap();
        }
    }
    let before = (capture.next_sequence, capture.counts(), capture.streams[0].end(1));
    drop(capture);
    let (mut capture, proven) = restore(folder.path());
    assert!(proven && !capture.has_ended());
    assert_eq!(
        (capture.next_sequence, capture.counts(), capture.streams[0].end(1)),
        before
    );
    assert_eq!(capture.buffer.highest_ack(), Acked { data: 2, live: 1 });
    assert_eq!(capture.declare(&declaration, Timing::Stamped, 0).unwrap(), stream);
    assert!(matches!(
        capture.push(stream, 498, &[Value::I64(0)], now),
        Err(PushError::TimeBackward { .. })
    ));
    assert_eq!(
        capture.push(stream, 499, &[Value::I64(0)], now).unwrap().index,
        500
    );
    capture.end(1).unwrap();
    let waiting = frames(&mut capture, Lane::Data);
    assert_eq!(waiting.len(), 9);
    drop(capture);
    let (mut capture, proven) = restore(folder.path());
    assert!(proven && capture.has_ended());
    assert_eq!(frames(&mut capture, Lane::Data), waiting);
}

#[test]
fn a_new_epoch_takes_the_streams_along() {
    let mut old = capture(&BufferOptions::default());
    let declaration = declaration("s", r#"{"name":"v","type":"i32"}"#);
    let stream = old.declare(&declaration, Timing::Stamped, 0).unwrap();
    let now = Instant::now();
    old.push(stream, 1, &[Value::I64(1)], now).unwrap();
    old.flush(stream).unwrap();
    old.push(stream, 2, &[Value::I64(2)], now).unwrap();
    let mut new = old
        .begin_again(EpochId([9; 16]), &BufferOptions::default(), 3)
        .unwrap();
    assert_eq!(new.push(stream, 3, &[Value::I64(3)], now).unwrap().index, 2);
    new.end(4).unwrap();
    let data = frames(&mut new, Lane::Data);
    let new_seed = Seed::new(&identity().device, &identity().session, &EpochId([9; 16]));
    let header = *Frame::checked(&data[0], new_seed).unwrap().header();
    assert_eq!((header.sequence, header.first_index, header.count), (0, 1, 2));
    assert_eq!(frames(&mut new, Lane::Live).len(), 2);
    assert_eq!(frames(&mut old, Lane::Data).len(), 1);
}
