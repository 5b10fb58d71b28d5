//! Files that are made here with the library that others write them with.

use super::super::xdf::tests::hub;
use super::*;
use crate::rows::values;
use ::mcap::records::MessageHeader;
use ::mcap::{WriteOptions, Writer};
use arrow::array::AsArray;
use arrow::datatypes::TimestampMicrosecondType;
use marey_engine::disk::OsDisk;
use marey_engine::read::{Reader, streams};
use marey_engine::{Options, Session};
use std::io::Cursor;
use tempfile::TempDir;

const UTC_NS: u64 = 1_795_248_000_000_000_000;

/// Topic, encoding, and messages with their times in milliseconds after 08:00.
type Topic<'a> = (&'a str, &'a str, &'a [(u64, &'a str)]);

fn file(topics: &[Topic<'_>]) -> Vec<u8> {
    file_with(
        topics,
        WriteOptions::new().chunk_size(Some(200)).compression_threads(0),
    )
}

fn file_with(topics: &[Topic<'_>], options: WriteOptions) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    let mut to: Writer<_> = options.create(&mut bytes).expect("a file");
    for (topic, encoding, messages) in topics {
        let channel_id = to
            .add_channel(0, topic, encoding, &BTreeMap::new())
            .expect("a channel");
        for (sequence, (ms, json)) in (0..).zip(*messages) {
            let time_ns = UTC_NS + ms * 1_000_000;
            let header = MessageHeader {
                channel_id,
                sequence,
                log_time: time_ns,
                publish_time: time_ns,
            };
            to.write_to_known_channel(&header, json.as_bytes())
                .expect("written");
        }
    }
    to.finish().expect("finished");
    drop(to);
    bytes.into_inner()
}

fn mcap(dir: &TempDir, bytes: &[u8]) -> Mcap {
    let file = dir.path().join("run 7.mcap");
    std::fs::write(&file, bytes).expect("written");
    Mcap {
        file,
        session: None,
        topic: Vec::new(),
        start: None,
        time_error: None,
        skip_bad_messages: false,
    }
}

fn run(dir: &TempDir, arguments: &Mcap) -> Result<Imported> {
    import(arguments, Some(dir.path().to_owned()), &Output::new(true))
}

/// Of each stream: `DEVICE/STREAM`, its channels, and its rows as text.
fn all(dir: &TempDir, imported: &Imported) -> BTreeMap<String, (Vec<String>, Vec<String>)> {
    let disk = OsDisk::new(dir.path());
    let session = Session::read(&disk, &Session::dir(&imported.session)).expect("it was published");
    let options = Options::default();
    let mut found = BTreeMap::new();
    for (stream, device) in streams(&disk, &session, &options).expect("it has streams") {
        let reader = Reader::open(&disk, &session, &stream, &device, &options).expect("it opens");
        let names = reader
            .schema()
            .fields()
            .iter()
            .skip(5)
            .map(|field| field.name().clone())
            .collect();
        let mut rows = Vec::new();
        for batch in reader {
            let batch = batch.expect("it is whole");
            for row in 0..batch.num_rows() {
                let time_us = batch
                    .column(0)
                    .as_primitive::<TimestampMicrosecondType>()
                    .value(row);
                let after_ms = (time_us - (UTC_NS / 1_000) as i64) / 1_000;
                rows.push(format!("{after_ms} {:?}", values(&batch, row).expect("values")));
            }
        }
        found.insert(format!("{device}/{stream}"), (names, rows));
    }
    found
}

#[test]
fn messages_become_streams_of_what_they_are() {
    let dir = hub();
    let imu: Vec<(u64, String)> = (0..40)
        .map(|at| {
            (
                10 * at,
                format!(
                    "{{\"acc\":{{\"x\":{at}.5,\"y\":{at}}},\"list\":[1,{at}],\"ok\":{}}}",
                    at % 2 == 0
                ),
            )
        })
        .collect();
    let imu: Vec<(u64, &str)> = imu.iter().map(|(ms, json)| (*ms, json.as_str())).collect();
    let bytes = file(&[
        ("/robot/arm/imu", "json", &imu),
        // Not in order of time, and other fields in each.
        (
            "/robot/arm/state",
            "json",
            &[
                (300, r#"{"mode":"b","n":1}"#),
                (20, r#"{"mode":"a","big":18446744073709551615,"mixed":1}"#),
                (310, r#"{"n":2.5,"mixed":"x"}"#),
            ],
        ),
        ("level", "json", &[(5, "7"), (6, "8")]),
        (
            "late",
            "json",
            &[
                (5, r#"{"n":null,"t":null,"b":null}"#),
                (6, r#"{"n":8,"t":"x","b":true}"#),
            ],
        ),
        ("/camera", "protobuf", &[(1, "\u{1}")]),
        ("/silent", "json", &[]),
    ]);
    let imported = run(&dir, &mcap(&dir, &bytes)).expect("it comes in");
    assert_eq!(imported.session.as_str(), "run_7");
    assert!(
        imported
            .left_out
            .iter()
            .any(|what| what.contains("/camera") && what.contains("protobuf")),
        "{:?}",
        imported.left_out
    );
    assert!(
        imported.left_out.iter().any(|what| what.contains("/silent")),
        "{:?}",
        imported.left_out
    );
    let found = all(&dir, &imported);
    let names: Vec<&String> = found.keys().collect();
    assert_eq!(
        names,
        [
            "robot_arm/imu@1",
            "robot_arm/state@1",
            "run_7/late@1",
            "run_7/level@1"
        ]
    );
    let (names, rows) = &found["robot_arm/imu@1"];
    assert_eq!(names, &["acc_x", "acc_y", "list", "ok"]);
    assert_eq!(rows.len(), 40);
    assert_eq!(
        rows[3],
        "30 [F64(3.5), I64(3), List([F64(1.0), F64(3.0)]), Bool(false)]"
    );
    let (names, rows) = &found["robot_arm/state@1"];
    assert_eq!(names, &["big", "mixed", "mode", "n"]);
    assert_eq!(
        rows[0],
        "20 [F64(1.8446744073709552e19), Text(\"1\"), Text(\"a\"), F64(NaN)]"
    );
    assert_eq!(rows[1], "300 [F64(NaN), Text(\"null\"), Text(\"b\"), F64(1.0)]");
    assert_eq!(
        rows[2],
        "310 [F64(NaN), Text(\"\\\"x\\\"\"), Text(\"\"), F64(2.5)]"
    );
    assert_eq!(found["run_7/level@1"].1, ["5 [I64(7)]", "6 [I64(8)]"]);
    let late = [
        "5 [Text(\"null\"), F64(NaN), Text(\"\")]",
        "6 [Text(\"true\"), F64(8.0), Text(\"x\")]",
    ];
    assert_eq!(found["run_7/late@1"].1, late);
}

#[test]
fn bad_messages_are_named_and_keep_all_of_it_out_unless_they_are_left_out() {
    let dir = hub();
    let deep = format!("{}1{}", "{\"a\":".repeat(20), "}".repeat(20));
    let bytes = file(&[(
        "/a/b",
        "json",
        &[
            (1, "{\"v\":1}"),
            (2, "{\"v\":"),
            (3, deep.as_str()),
            (4, "{\"v\":2}"),
            // In the year 2122.
            (3_000_000_000_000, "{\"v\":3}"),
        ],
    )]);
    let refused = run(&dir, &mcap(&dir, &bytes))
        .expect_err("there are bad ones")
        .to_string();
    assert!(
        refused.contains("3 of 5 messages are bad") && refused.contains("--skip-bad-messages"),
        "{refused}"
    );
    assert!(!dir.path().join("sessions/session=run_7").exists());
    let imported = run(
        &dir,
        &Mcap {
            skip_bad_messages: true,
            ..mcap(&dir, &bytes)
        },
    )
    .expect("the good ones");
    assert_eq!(
        (
            imported.bad_messages,
            imported.bad[0].message,
            imported.bad[0].topic.as_str()
        ),
        (3, 2, "/a/b")
    );
    assert_eq!(imported.bad[2].why, "its time is none that can be");
    assert_eq!(all(&dir, &imported)["a/b@1"].1, ["1 [I64(1)]", "4 [I64(2)]"]);
}

/// Beyond 2^63 an index would leave the range of the column, and of what counts on.
#[test]
fn an_index_that_can_not_be_is_bad() {
    let declared = Declaration::from_json(br#"{"name":"imu","fields":[{"name":"x","type":"i64"}]}"#);
    let mut fields = Fields::new(Some(declared.expect("it is one")));
    for (seq, is_good) in [
        ("0", true),
        ("9223372036854775807", true),
        ("9223372036854775808", false),
        ("-1", false),
        ("1.5", false),
        ("\"7\"", false),
    ] {
        let json = format!("{{\"x\":1,\"seq\":{seq}}}");
        let message = Message::parse(json.as_bytes()).expect("it is JSON");
        let taken = fields.take(&message);
        assert_eq!(taken.is_ok(), is_good, "{seq}: {taken:?}");
        assert_eq!(fields.index(&message).is_some(), is_good, "{seq}");
        assert_eq!(
            fields.values(&message).is_ok(),
            is_good,
            "{seq}: both passes judge alike"
        );
    }
}

#[test]
fn what_is_no_file_of_messages_is_said_in_one_sentence() {
    let dir = hub();
    let good = file(&[("/a/b", "json", &[(1, "{\"v\":1}"), (2, "{\"v\":2}")])]);
    let refused = |bytes: &[u8], what: &str| {
        let said = run(&dir, &mcap(&dir, bytes)).expect_err(what).to_string();
        assert!(
            !said.contains('\n') && said.len() < 500 && said.contains(what),
            "{what}: {said}"
        );
        assert!(!dir.path().join("sessions/session=run_7").exists());
    };
    refused(b"", "no whole MCAP file");
    refused(b"time,v\n1,2\n", "no whole MCAP file");
    refused(&good[..good.len() / 2], "no whole MCAP file");
    let unindexed = file_with(
        &[("/a/b", "json", &[(1, "{}")])],
        WriteOptions::new().use_chunks(false),
    );
    refused(&unindexed, "no index of its messages");
    refused(&file(&[("/a/b", "cdr", &[(1, "x")])]), "no topic of JSON");
    let arguments = Mcap {
        topic: vec!["/c".to_owned()],
        ..mcap(&dir, &good)
    };
    let said = run(&dir, &arguments).expect_err("no such topic").to_string();
    assert!(said.contains("no topic \"/c\"; it has /a/b"), "{said}");
    let arguments = Mcap {
        time_error: Some(-1.0),
        ..mcap(&dir, &good)
    };
    assert!(
        run(&dir, &arguments)
            .expect_err("no error")
            .to_string()
            .contains("--time-error -1")
    );
    // A byte that is wrong, wherever it is: it comes in as it was, or not at all.
    let whole = hub();
    let expected = all(&whole, &run(&whole, &mcap(&whole, &good)).expect("it comes in"));
    for at in (8..good.len()).step_by(7) {
        let mut bytes = good.clone();
        bytes[at] ^= 0x10;
        let dir = hub();
        match run(&dir, &mcap(&dir, &bytes)) {
            Err(failure) => assert!(!failure.to_string().contains('\n'), "{failure}"),
            Ok(imported) => assert_eq!(all(&dir, &imported).len(), expected.len(), "byte {at}"),
        }
    }
}

/// Chunks that are not compressed hide no change of theirs: the checksum alone tells.
#[test]
fn a_changed_byte_of_a_message_is_found_by_its_chunk() {
    let dir = hub();
    let mut bytes = Cursor::new(Vec::new());
    let options = WriteOptions::new().compression(None);
    let mut to: Writer<_> = options.create(&mut bytes).expect("a file");
    let channel_id = to
        .add_channel(0, "/a/b", "json", &BTreeMap::new())
        .expect("a channel");
    let header = MessageHeader {
        channel_id,
        sequence: 0,
        log_time: UTC_NS,
        publish_time: UTC_NS,
    };
    to.write_to_known_channel(&header, br#"{"x": 42}"#)
        .expect("written");
    to.finish().expect("finished");
    drop(to);
    let mut bytes = bytes.into_inner();
    let at = bytes
        .windows(2)
        .position(|two| two == b"42")
        .expect("it stands there");
    bytes[at..at + 2].copy_from_slice(b"99");
    let refused = run(&dir, &mcap(&dir, &bytes))
        .expect_err("it is damaged")
        .to_string();
    assert!(
        refused.contains("is damaged, so nothing was imported"),
        "{refused}"
    );
    bytes[at..at + 2].copy_from_slice(b"42");
    run(&dir, &mcap(&dir, &bytes)).expect("it is whole");
}
