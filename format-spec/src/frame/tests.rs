use super::*;
use crate::types::{Declaration, DeviceId, EpochId, Period, SessionId};
use proptest::prelude::*;

fn seed(device: &str) -> Seed {
    Seed::new(
        &DeviceId::new(device).unwrap(),
        &SessionId::new("s").unwrap(),
        &EpochId([1; 16]),
    )
}

fn mixed() -> Declaration {
    Declaration::from_json(
        br#"{"name":"mixed","fields":[{"name":"a","type":"i16"},{"name":"b","type":"f64","length":2},
        {"name":"c","type":"utf8"},{"name":"d","type":"bool"},{"name":"e","type":"binary"}]}"#,
    )
    .unwrap()
}

fn row(i: i64) -> Vec<Value> {
    vec![
        Value::I64(i),
        Value::List(vec![Value::F64(i as f64), Value::F64(-0.0)]),
        Value::Text(format!("é{i}")),
        Value::Bool(i % 2 == 0),
        Value::Bytes(vec![0xF5; i as usize]),
    ]
}

fn sample_frame() -> Vec<u8> {
    let mut builder = DataBuilder::new(&mixed());
    for i in 0..3 {
        builder.push(10 * i, &row(i)).unwrap();
    }
    let expected = builder.frame_bytes();
    let frame = builder.finish(1, 5, 100, seed("d")).unwrap();
    assert_eq!(frame.len(), expected);
    frame
}

#[test]
fn a_frame_gives_back_what_was_put_in() {
    let bytes = sample_frame();
    let frame = Frame::checked(&bytes, seed("d")).unwrap();
    assert_eq!(frame.header().count, 3);
    assert_eq!((frame.header().sequence, frame.header().first_index), (5, 100));
    let columns = Columns::parse(&frame, &mixed()).unwrap();
    assert_eq!(columns.times.iter().collect::<Vec<_>>(), [0, 10, 20]);
    assert_eq!(columns.fields[0], Column::Fixed(&[0, 0, 1, 0, 2, 0]));
    assert_eq!(columns.fields[2].cell(2), Some("é2".as_bytes()));
    assert_eq!(columns.fields[4].cell(0), Some(&[][..]));
}

#[test]
fn a_frame_of_another_log_does_not_pass() {
    assert!(matches!(
        Frame::checked(&sample_frame(), seed("other")),
        Err(FrameError::Crc { .. })
    ));
}

#[test]
fn every_changed_bit_is_found() {
    let bytes = sample_frame();
    for bit in 0..bytes.len() * 8 {
        let mut broken = bytes.clone();
        broken[bit / 8] ^= 1 << (bit % 8);
        assert!(Frame::checked(&broken, seed("d")).is_err(), "bit {bit}");
    }
}

#[test]
fn every_truncation_is_found() {
    let bytes = sample_frame();
    for length in 0..bytes.len() {
        assert!(
            matches!(Frame::parse(&bytes[..length]), Err(FrameError::Short { .. })),
            "{length}"
        );
    }
}

#[test]
fn a_refused_sample_leaves_nothing_behind() {
    let mut builder = DataBuilder::new(&mixed());
    builder.push(5, &row(1)).unwrap();
    let before = builder.frame_bytes();
    let mut bad = row(2);
    bad[4] = Value::I64(1);
    assert!(builder.push(6, &bad).is_err());
    bad[0] = Value::I64(40_000);
    assert!(builder.push(6, &bad).is_err());
    assert!(builder.push(4, &row(2)).is_err());
    assert_eq!(builder.frame_bytes(), before);
}

#[test]
fn regular_frames_carry_their_period() {
    let mut builder = DataBuilder::new(&mixed());
    (0..3).for_each(|i| builder.push(i, &row(i)).unwrap());
    let period = Period {
        numerator: 10_000_000,
        denominator: 3,
    };
    let bytes = builder.finish_regular(period, 1, 0, 0, seed("d")).unwrap();
    let frame = Frame::checked(&bytes, seed("d")).unwrap();
    let columns = Columns::parse(&frame, &mixed()).unwrap();
    assert_eq!(
        columns.times.iter().collect::<Vec<_>>(),
        [0, 3_333_333, 6_666_666]
    );
}

#[test]
fn columns_that_lie_are_refused() {
    let build = |payload: &[u8], count, flags| {
        let header = Header {
            crc: 0,
            length: 0,
            kind: Kind::DATA,
            flags,
            lane: Lane::Data,
            padding: 0,
            stream: 1,
            count,
            sequence: 0,
            first_index: 0,
            first_time_ns: 7,
        };
        encode(header, payload, seed("d")).unwrap()
    };
    let parse = |bytes: &[u8], fields: &str| {
        let declaration = Declaration::from_json(
            format!("{{\"name\":\"x\",\"fields\":[{{\"name\":\"a\",\"type\":\"{fields}\"}}]}}").as_bytes(),
        )
        .unwrap();
        Columns::parse(&Frame::parse(bytes).unwrap(), &declaration)
            .map(|_| ())
            .unwrap_err()
    };
    let times = |ts: &[i64]| ts.iter().flat_map(|t| t.to_le_bytes()).collect::<Vec<u8>>();
    let none = Flags::default();
    assert_eq!(parse(&build(&[], 0, none), "i8"), FrameError::Empty);
    assert!(matches!(
        parse(&build(&times(&[8]), 1, none), "i8"),
        FrameError::FirstTime { .. }
    ));
    assert!(matches!(
        parse(&build(&times(&[7, 6]), 2, none), "i8"),
        FrameError::TimeBackward { sample: 1 }
    ));
    assert!(matches!(
        parse(&build(&times(&[7, 8, 8, 9, 8, 7]), 6, none), "i8"),
        FrameError::TimeBackward { sample: 4 }
    ));
    assert!(matches!(
        parse(&build(&times(&[7]), 1, none), "i8"),
        FrameError::Payload { .. }
    ));
    assert!(matches!(
        parse(&build(&times(&[7]), u32::MAX, none), "i8"),
        FrameError::Count { .. }
    ));
    assert!(matches!(
        parse(&build(&times(&[7]), 1, Flags::ENCRYPTED), "i8"),
        FrameError::Flags { .. }
    ));
    let with = |tail: &[u8]| [times(&[7]), tail.to_vec()].concat();
    assert!(matches!(
        parse(&build(&with(&[2]), 1, none), "bool"),
        FrameError::Bool { found: 2, .. }
    ));
    assert!(matches!(
        parse(&build(&with(&[1, 0, 0, 0, 0, 0, 0, 0]), 1, none), "utf8"),
        FrameError::Offsets { .. }
    ));
    let text = [0u32.to_le_bytes(), 1u32.to_le_bytes()].concat();
    assert!(matches!(
        parse(&build(&with(&[text, vec![0xFF]].concat()), 1, none), "utf8"),
        FrameError::Utf8 { row: 0, .. }
    ));
    assert_eq!(
        parse(&build(&[0; 24], 2, Flags::REGULAR), "i64"),
        FrameError::Period
    );
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        let mut framed = MARK.to_vec();
        framed.extend(&bytes);
        if framed.len() > 12 {
            let length = (framed.len() / 8 * 8) as u32;
            framed[8..12].copy_from_slice(&length.to_le_bytes());
        }
        if let Ok(frame) = Frame::parse(&framed) {
            let _ = Columns::parse(&frame, &mixed());
        }
    }
}
