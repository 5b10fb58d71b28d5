//! What the codecs refuse, and what they show: the other side of the tests that stand beside them.

use crate::checksum::crc32;
use crate::clock::{Direction, PACKET_BYTES, PacketKey, ProbeKind, ProbeRow, StampKey, TimePacket};
use crate::frame::{DataBuilder, Kind, Value, ValueError, control_frame};
use crate::journal::{Record, RecordBuilder, RecordError};
use crate::log::{
    Footer, INDEX_MAGIC, SEGMENT_HEADER_BYTES, SegmentError, SegmentHeader, TRAILER_BYTES, Trailer,
};
use crate::types::{DeclarationError, KeyId};
use crate::wire::{Acked, Hello, MessageHeader, MessageType, json_message, message, parse_json};
use crate::{
    BootId, Declaration, DeviceId, EpochId, FrameError, HubEpoch, Lane, RefusalCode, Seed, SessionId,
    StreamName, limits,
};

#[test]
fn messages_are_made_and_read() {
    let hello = Hello {
        v: 1,
        device: None,
        agent: None,
        commands: false,
    };
    let bytes = json_message(MessageType::Hello, 0, &hello);
    let (head, body) = bytes.split_first_chunk().unwrap();
    let header = MessageHeader::parse(*head).unwrap();
    assert_eq!(
        (header.kind, header.length as usize),
        (MessageType::Hello, body.len())
    );
    assert_eq!(parse_json::<Hello>(header.kind, body).unwrap(), hello);
    let refusal = parse_json::<Hello>(MessageType::Hello, b"{}").unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Malformed);
    assert!(refusal.message.contains("Hello"), "{refusal}");
    assert_eq!(message(MessageType::Bye, 7, b"")[2], 7);
    let most = |kind: MessageType| kind.body_bytes_max();
    assert_eq!(most(MessageType::Frame), limits::FRAME_BYTES_MAX);
    assert_eq!((most(MessageType::Sent), most(MessageType::Ack)), (24, 64));
    assert_eq!(
        (most(MessageType::Probe), most(MessageType::ProbeReply)),
        (PACKET_BYTES, PACKET_BYTES)
    );
    assert_eq!(most(MessageType::Open), limits::CONTROL_BYTES_MAX);
}

#[test]
fn integers_come_as_numbers_or_as_text() {
    let acked = |json: &str| serde_json::from_str::<Acked>(json);
    let wanted = Acked { data: 5, live: 7 };
    assert_eq!(acked(r#"{"data":5,"live":"7"}"#).unwrap(), wanted);
    assert!(acked(r#"{"data":-5}"#).is_err());
    assert!(acked(r#"{"data":"x"}"#).is_err());
    assert!(acked(r#"{"data":"18446744073709551616"}"#).is_err());
    assert!(acked(r#"{"data":1.5}"#).is_err());
}

#[test]
fn keys_are_never_shown() {
    assert_eq!(format!("{:?}", PacketKey([7; 32])), "PacketKey(..)");
    assert_eq!(format!("{:?}", StampKey([7; 32])), "StampKey(..)");
}

#[test]
fn packets_and_rows_of_unknown_kinds_are_none() {
    let packet = TimePacket {
        direction: Direction::Reply,
        key_id: 1,
        nonce: 2,
        dev_send_ns: 3,
        hub_epoch: HubEpoch(4),
        hub_recv_ns: 5,
        hub_send_ns: 6,
        tag: [7; 8],
    };
    let key = PacketKey([9; 32]);
    let bytes = packet.to_bytes(&key);
    assert_eq!(TimePacket::parse(&bytes, &key), Some(packet));
    assert_eq!(TimePacket::key_id(&bytes[..40]), None);
    assert_eq!(TimePacket::key_id(&[0; PACKET_BYTES]), None);
    assert!(ProbeRow::rows(&[0; 63]).is_none());
    for (kind, byte) in [(ProbeKind::InBand, 2), (ProbeKind::Ack, 3), (ProbeKind::Told, 4)] {
        let mut row = [0; ProbeRow::BYTES];
        row[0] = byte;
        assert_eq!(ProbeRow::rows(&row).unwrap().next().unwrap().kind, kind);
        row[0] = 9;
        assert_eq!(ProbeRow::rows(&row).unwrap().count(), 0);
    }
}

#[test]
fn a_row_that_does_not_fit_its_declaration_is_refused_and_leaves_nothing() {
    let json = br#"{"name":"m","fields":[{"name":"a","type":"i8"},{"name":"b","type":"f32","length":2},
        {"name":"c","type":"utf8"},{"name":"d","type":"bool"},{"name":"e","type":"binary"},{"name":"f","type":"f64"},
        {"name":"g","type":"u64"},{"name":"h","type":"u8"},{"name":"i","type":"u16"},{"name":"j","type":"u32"},
        {"name":"k","type":"i64"}]}"#;
    let declaration = Declaration::from_json(json).unwrap();
    let good = || {
        vec![
            Value::I64(-128),
            Value::List(vec![Value::F32(1.0), Value::F32(2.0)]),
            Value::Text("x".to_owned()),
            Value::Bool(true),
            Value::Bytes(vec![1]),
            Value::F64(0.5),
            Value::U64(u64::MAX),
            Value::U64(255),
            Value::I64(65_535),
            Value::U64(u64::from(u32::MAX)),
            Value::I64(i64::MIN),
        ]
    };
    let mut builder = DataBuilder::new(&declaration);
    assert!(builder.is_empty());
    builder.push(10, &good()).unwrap();
    let bytes = builder.frame_bytes();
    let misfits = [
        (0, Value::I64(128)),
        (1, Value::F32(1.0)),
        (1, Value::List(vec![Value::F32(1.0)])),
        (1, Value::List(vec![Value::F32(1.0), Value::F64(1.0)])),
        (2, Value::Bytes(vec![])),
        (3, Value::I64(1)),
        (4, Value::Text(String::new())),
        (5, Value::F32(0.5)),
        (6, Value::I64(-1)),
        (7, Value::U64(256)),
        (8, Value::I64(-1)),
        (9, Value::F64(1.0)),
        (10, Value::U64(u64::MAX)),
    ];
    for (at, value) in misfits {
        let mut row = good();
        row[at] = value;
        let error = builder.push(10, &row).unwrap_err();
        assert!(
            matches!(error, ValueError::Value { .. } | ValueError::List { .. }),
            "{error}"
        );
    }
    assert!(matches!(
        builder.push(10, &[]),
        Err(ValueError::Fields {
            expected: 11,
            found: 0
        })
    ));
    assert!(builder.push(9, &good()).is_err(), "device time goes back");
    assert_eq!((builder.len(), builder.frame_bytes()), (1, bytes));
    let seed = Seed(0);
    builder.finish(1, 0, 0, seed).unwrap();
    assert_eq!(builder.finish(1, 1, 1, seed), Err(FrameError::Empty));
    let long = control_frame(
        Kind::STATE,
        Lane::Live,
        0,
        0,
        0,
        0,
        &vec![0; limits::FRAME_BYTES_MAX],
        seed,
    );
    assert!(matches!(long, Err(FrameError::Length { .. })));
}

#[test]
fn kinds_are_shown_by_their_names() {
    let names: Vec<String> = (0x00..=0xFF)
        .map(|byte| Kind(byte).name().to_owned())
        .filter(|name| name != "unknown")
        .collect();
    let known = [
        "data",
        "declare",
        "event",
        "state",
        "probes",
        "end",
        "epoch",
        "arrival",
        "assign",
        "hub_epoch",
        "checkpoint",
        "note",
    ];
    for name in known {
        assert!(names.iter().any(|found| found == name), "{name} of {names:?}");
    }
    assert_eq!(format!("{:?}", Kind::END), "Kind(0x06 end)");
    assert_eq!(
        format!("{:?}", EpochId([1; 16])),
        format!("EpochId({})", "01".repeat(16))
    );
    assert_eq!(KeyId(1).to_string(), "0000000000000001");
    assert!(!BootId::UNKNOWN.is_known());
}

#[test]
fn segments_that_are_short_or_lie_are_refused() {
    assert!(matches!(
        SegmentHeader::parse(&[0; 8]),
        Err(SegmentError::Short { .. })
    ));
    assert!(matches!(
        SegmentHeader::parse(&[0; SEGMENT_HEADER_BYTES]),
        Err(SegmentError::Magic { .. })
    ));
    assert!(matches!(
        Trailer::parse(&[0; 8], 8),
        Err(SegmentError::Short { .. })
    ));
    assert!(matches!(
        Trailer::parse(&[0; TRAILER_BYTES], 64),
        Err(SegmentError::Magic { .. })
    ));
    let footer = Footer {
        data_bytes: 256,
        entries: Vec::new(),
    };
    let bytes = footer.to_bytes();
    let (index, end) = bytes.split_at(bytes.len() - TRAILER_BYTES);
    let file_bytes = 256 + bytes.len() as u64;
    let trailer = Trailer::parse(end, file_bytes).unwrap();
    assert_eq!(Footer::parse(&trailer, index).unwrap(), footer);
    assert!(matches!(
        Trailer::parse(end, file_bytes + 1),
        Err(SegmentError::Value { .. })
    ));
    assert!(matches!(
        Footer::parse(&trailer, &index[1..]),
        Err(SegmentError::Short { .. })
    ));
    assert!(matches!(
        Footer::parse(&trailer, &[0; 8]),
        Err(SegmentError::Magic { .. })
    ));
    // An index with a lane that there is not, under a checksum that fits.
    let index = [&INDEX_MAGIC[..], &[9; 64]].concat();
    let lying = Trailer {
        frames: 1,
        index_crc: crc32(&index),
        ..trailer
    };
    assert!(matches!(
        Footer::parse(&lying, &index),
        Err(SegmentError::Value { .. })
    ));
}

#[test]
fn records_that_lie_are_refused() {
    let hub = [5; 16];
    let mut builder = RecordBuilder::default();
    builder.start();
    assert!(builder.is_empty());
    builder.frames(1, 1, 256, &[0; 8]);
    let record = builder.finish(&hub, 1, 1, 1).to_vec();
    assert_eq!(
        Record::parse(&record[..8], &hub, None).unwrap_err(),
        RecordError::Short {
            expected: 64,
            found: 8
        }
    );
    let mended = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut record = record.clone();
        change(&mut record);
        let crc = Seed(crate::journal::record_seed(&hub, 1)).checksum(&record[8..]);
        record[4..8].copy_from_slice(&crc.to_le_bytes());
        record
    };
    let odd = mended(&|record| record[32] = 60);
    assert!(matches!(
        Record::parse(&odd, &hub, None),
        Err(RecordError::Length { found: 60 })
    ));
    // Fewer entries than there are, more, and one of a kind that there is not.
    for (at, value) in [(40, 0), (40, 2), (64, 9)] {
        let lying = mended(&|record| record[at] = value);
        let lying = Record::parse(&lying, &hub, None).unwrap();
        assert!(
            matches!(lying.entries(), Err(RecordError::Entry { .. })),
            "byte {at}"
        );
    }
}

#[test]
fn declarations_beyond_the_limits_are_refused() {
    let refused = |json: String| Declaration::from_json(json.as_bytes()).unwrap_err();
    let long = " ".repeat(limits::DECLARATION_BYTES_MAX + 1);
    assert!(matches!(refused(long), DeclarationError::TooLong { .. }));
    assert!(matches!(
        refused(r#"{"name":"s","fields":[]}"#.to_owned()),
        DeclarationError::Fields { fields: 0 }
    ));
    let mut declaration =
        Declaration::from_json(br#"{"name":"s","fields":[{"name":"a","type":"f32"}]}"#).unwrap();
    declaration.fields[0].scale = Some(f64::INFINITY);
    assert!(matches!(
        declaration.check(),
        Err(DeclarationError::Number { what: "scale", .. })
    ));
    declaration.fields[0].scale = None;
    declaration.latency_us = Some(f64::NAN);
    assert!(matches!(
        declaration.check(),
        Err(DeclarationError::Number {
            what: "latency_us",
            ..
        })
    ));
}

#[test]
fn names_are_text_both_ways() {
    let name: SessionId = "walk".parse().unwrap();
    assert_eq!((name.to_string().as_str(), name.as_str()), ("walk", "walk"));
    assert_eq!(format!("{name:>6}"), "  walk");
    assert_eq!(serde_json::to_string(&name).unwrap(), r#""walk""#);
    assert!(serde_json::from_str::<DeviceId>(r#""1""#).is_err());
    let error = "Time".parse::<StreamName>().unwrap_err().to_string();
    assert!(error.contains("try"), "{error}");
}

#[test]
fn codes_say_whether_to_try_again() {
    assert!(RefusalCode::SlowDown.is_passing() && !RefusalCode::Unknown.is_passing());
    assert_eq!(RefusalCode::Unknown.as_str(), "unknown");
}
