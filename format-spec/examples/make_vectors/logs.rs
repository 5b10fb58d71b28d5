//! Logs without damage: what every reader must make of them, to the last value.

use crate::Vector;
use crate::log::{LogBuilder, blob, declaration, imu, rows};
use marey_format::HubEpoch;
use marey_format::clock::{ProbeKind, ProbeRow};
use marey_format::frame::{Kind, Value};
use marey_format::log::Predecessor;
use marey_format::payload::Arrival;
use marey_format::types::Period;
use serde_json::json;

const FOLDER: &str = "log";

pub fn vectors() -> Vec<Vector> {
    vec![
        empty(),
        one_stream(),
        all_types(),
        live_frames(),
        unknown_kinds(),
        two_segments(),
        open_end(),
        epochs_there_and_back(),
        jumps(),
        quarantined(),
        cut_and_carried(),
        copy_unfinished(),
        copy_made_again(),
        twice(),
    ]
}

/// A log with a wall reading, an epoch and the imu stream.
pub fn started() -> LogBuilder {
    let mut log = LogBuilder::new();
    let wall = json!({"hub_epoch": "0102030405060708", "hub_ns": "1000000000", "utc_ns": "1780000000000000000",
        "error_ns": "1000000", "synchronised": true});
    log.hub(Kind::HUB_EPOCH, 0, 0, wall.to_string().as_bytes());
    log.epoch(0xA0, false);
    log.declare(1, &imu());
    log
}

fn arrival(log: &mut LogBuilder, first: u64, last: u64) {
    let hub_recv_ns = log.tick();
    let (hub_epoch, dev_send_ns) = (HubEpoch(0x0102_0304_0506_0708), Some(hub_recv_ns - 2_000_000));
    let row = Arrival {
        epoch: 0,
        lane: 0,
        hub_epoch,
        hub_recv_ns,
        dev_send_ns,
        sequences: (first, last),
    };
    let mut payload = Vec::new();
    row.put(&mut payload);
    log.hub(Kind::ARRIVAL, 0, 1, &payload);
}

fn empty() -> Vector {
    LogBuilder::new().vector(FOLDER, "empty", "A segment that was begun, and nothing in it.")
}

fn one_stream() -> Vector {
    let mut log = started();
    (0..3).for_each(|i| log.data(1, rows(i)));
    arrival(&mut log, 0, 2);
    log.live(
        Kind::END,
        1,
        0,
        br#"{"stream":1,"captured":"9","next_index":"9","frames":"3","digest":"00"}"#,
    );
    log.checkpoint(256);
    log.seal();
    log.vector(
        FOLDER,
        "one-stream",
        "One epoch, one stream, three data frames, an end; one sealed segment.",
    )
}

fn all_types() -> Vector {
    let fields: Vec<_> = [
        "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64", "f32", "f64", "bool", "utf8", "binary",
    ]
    .iter()
    .map(|kind| json!({"name": format!("a_{kind}"), "type": kind}))
    .chain([
        json!({"name": "list", "type": "f32", "length": 3}),
        json!({"name": "codes", "type": "u8", "length": 5}),
    ])
    .collect();
    let all = declaration(&json!({"name": "all", "fields": fields}).to_string());
    let row = |low: bool, text: &str, bytes: &[u8]| {
        let pick = |a: i64, b: i64| Value::I64(if low { a } else { b });
        let list = |items: [f32; 3]| Value::List(items.into_iter().map(Value::F32).collect());
        vec![
            pick(-128, 127),
            pick(-32768, 32767),
            pick(i64::from(i32::MIN), i64::from(i32::MAX)),
            pick(i64::MIN, i64::MAX),
            pick(0, 255),
            pick(0, 65535),
            pick(0, i64::from(u32::MAX)),
            Value::U64(if low { 0 } else { u64::MAX }),
            Value::F32(if low { f32::NAN } else { f32::MIN_POSITIVE / 2.0 }),
            Value::F64(if low { f64::NEG_INFINITY } else { -0.0 }),
            Value::Bool(!low),
            Value::Text(text.to_owned()),
            Value::Bytes(bytes.to_vec()),
            list(if low {
                [0.5, -0.5, f32::MAX]
            } else {
                [1.0e-3, 7.0, -0.0]
            }),
            Value::List((0..5).map(Value::I64).collect()),
        ]
    };
    let mut log = started();
    log.declare(2, &all);
    log.data(
        2,
        vec![
            row(true, "", &[]),
            row(false, "Marey, chronophotographe à Beaune", &[0, 255]),
            row(true, "ECG", b"\0"),
        ],
    );
    let period = Period {
        numerator: 1_000_000_000,
        denominator: 3,
    };
    log.regular(1, period, [rows(0), rows(1)].concat());
    log.regular(
        2,
        Period {
            numerator: 0,
            denominator: 1,
        },
        vec![row(false, "one", b"row")],
    );
    log.checkpoint(256);
    log.seal();
    log.vector(
        FOLDER,
        "all-types",
        "Every type, lists, extreme values, empty texts, and frames with a period.",
    )
}

fn live_frames() -> Vector {
    let mut log = started();
    log.live(Kind::STATE, 0, 0, br#"{"battery":0.5,"later":[1,2,{}]}"#);
    log.live(
        Kind::EVENT,
        0,
        0,
        "{\"kind\":\"label\",\"text\":\"stairs \u{2191}\",\"duration_ns\":5}".as_bytes(),
    );
    log.live(Kind::EVENT, 1, 0, br#"{"kind":"tap"}"#);
    let probe = |kind, nonce| ProbeRow {
        kind,
        hub_epoch: HubEpoch(1),
        nonce,
        dev_send_ns: 1,
        hub_recv_ns: 2,
        hub_send_ns: 3,
        dev_recv_ns: 4,
        tag: [5; 8],
    };
    let mut payload = Vec::new();
    probe(ProbeKind::Udp, 7).put(&mut payload);
    probe(ProbeKind::InBand, 8).put(&mut payload);
    probe(ProbeKind::Ack, 0).put(&mut payload);
    log.live(Kind::PROBES, 0, 3, &payload);
    log.hub(
        Kind::NOTE,
        0,
        0,
        br#"{"kind":"restart","text":"the hub came back"}"#,
    );
    log.data(1, rows(0));
    log.checkpoint(256);
    log.seal();
    log.vector(
        FOLDER,
        "live-frames",
        "State, events, probes and a note beside the samples.",
    )
}

fn unknown_kinds() -> Vector {
    let mut log = started();
    log.data(1, rows(0));
    log.live(Kind(0x42), 9, 3, b"of a later version");
    log.live(Kind(0x70), 0, 0, b"");
    log.hub(Kind(0xC3), 0, 0, b"of a later hub");
    log.data(1, rows(1));
    log.checkpoint(256);
    log.seal();
    log.vector(
        FOLDER,
        "unknown-kinds",
        "Kinds of later versions and private ones: delivered, and passed over.",
    )
}

fn two_segments() -> Vector {
    let mut log = started();
    log.data(1, rows(0));
    log.data(1, rows(1));
    log.checkpoint(256);
    log.roll();
    log.data(1, rows(2));
    log.checkpoint(256);
    log.roll();
    log.data(1, rows(3));
    log.checkpoint(256);
    log.seal();
    log.vector(
        FOLDER,
        "three-segments",
        "Sequences and indices go on from segment to segment.",
    )
}

fn open_end() -> Vector {
    let mut log = started();
    log.data(1, rows(0));
    log.checkpoint(256);
    log.roll();
    log.data(1, rows(1));
    log.checkpoint(256);
    log.data(1, rows(2));
    log.vector(
        FOLDER,
        "unsealed",
        "The last segment is not sealed, and ends with a whole frame.",
    )
}

fn epochs_there_and_back() -> Vector {
    let mut log = started();
    log.data(1, rows(0));
    log.epoch(0xA1, false);
    log.declare(1, &blob());
    log.data(1, vec![vec![Value::Bytes(b"second epoch".to_vec())]]);
    log.epoch(0xA0, false);
    log.data(1, rows(1));
    log.checkpoint(256);
    log.roll();
    log.data(1, rows(2));
    log.epoch(0xA1, false);
    log.data(1, vec![vec![Value::Bytes(vec![1, 2, 3])]]);
    log.checkpoint(256);
    log.seal();
    log.vector(
        FOLDER,
        "epochs",
        "Two epochs of one device, gone into and back to, with counters of their own.",
    )
}

fn jumps() -> Vector {
    let mut log = started();
    log.data(1, rows(0));
    log.skip(1, 4, 12);
    log.data(1, rows(1));
    log.skip(1, 0, 7);
    log.data(1, rows(2));
    log.checkpoint(256);
    log.seal();
    log.vector(
        FOLDER,
        "jumps",
        "The device lost four frames that it had numbered, and later seven samples. No damage.",
    )
}

fn quarantined() -> Vector {
    let mut log = started();
    log.data(1, rows(0));
    log.data(1, rows(1));
    // The clock and the indices go back; the sequence does not.
    log.rewind(1, 1, 3);
    log.skip(1, 1, 0);
    log.data(1, rows(2));
    log.data(1, rows(3));
    let data: Vec<_> = log
        .frames
        .iter()
        .filter(|f| f.kind == Kind::DATA)
        .map(|f| f.sequence)
        .collect();
    assert_eq!(data, [0, 1, 2, 3]);
    log.quarantined.push((0, 2));
    log.checkpoint(256);
    log.seal();
    log.vector(
        FOLDER,
        "quarantined",
        "Indices and device times of the third data frame go back: stored, kept out.",
    )
}

fn cut_and_carried() -> Vector {
    let mut log = started();
    log.data(1, rows(0));
    log.checkpoint(256);
    let (cut, carried) = (log.last().bytes.len() as u64, log.frames.len());
    log.data(1, rows(1));
    let bytes = log.last().bytes[cut as usize..].to_vec();
    let frame = log.frames.remove(carried);
    log.last().bytes.extend(b"half a frame that was under way");
    log.segment(Predecessor::Cut, cut);
    log.put(&bytes, frame.samples());
    log.data(1, rows(2));
    log.checkpoint(256);
    log.seal();
    let about = "The first segment was found unsealed: it counts up to where its successor says, which carries the rest on.";
    log.vector(FOLDER, "cut-and-carried", about)
}

/// Two frames on from a checkpoint, and where they begin.
fn unproven() -> (LogBuilder, u64, Vec<u8>) {
    let mut log = started();
    log.data(1, rows(0));
    log.checkpoint(256);
    let cut = log.last().bytes.len() as u64;
    log.data(1, rows(1));
    log.data(1, rows(2));
    let bytes = log.last().bytes[cut as usize..].to_vec();
    (log, cut, bytes)
}

fn copy_unfinished() -> Vector {
    let (mut log, cut, bytes) = unproven();
    log.segment(Predecessor::Copied, cut);
    let half = bytes.len() / 4;
    log.last().bytes.extend(&bytes[..half]);
    log.fault("torn", 2, 256, half as u64);
    let about = "The second segment copies what the first can't prove, and was not finished: the first counts to its end.";
    log.vector(FOLDER, "copy-unfinished", about)
}

fn copy_made_again() -> Vector {
    let (mut log, cut, bytes) = unproven();
    log.segment(Predecessor::Copied, cut);
    let half = bytes.len() / 4;
    log.last().bytes.truncate(100);
    log.last().bytes.extend(vec![0; half]);
    log.segment_after(Predecessor::Copied, cut, 1);
    let last = log.frames.len() - 2;
    let frames: Vec<_> = log.frames.drain(last..).collect();
    for (frame, bytes) in frames.iter().zip([&bytes[..half * 2], &bytes[half * 2..]]) {
        log.put(bytes, frame.samples());
    }
    log.data(1, rows(3));
    log.checkpoint(256);
    log.seal();
    let about = "The second segment was a copy that was not finished; the third is the copy made again, and supersedes it.";
    log.vector(FOLDER, "copy-made-again", about)
}

fn twice() -> Vector {
    let mut log = started();
    log.data(1, rows(0));
    log.data(1, rows(1));
    let again = log.data_frame(0, 1);
    log.checkpoint(256);
    log.roll();
    let bytes = log.bytes(1)[again.offset as usize..again.end() as usize].to_vec();
    let at = log.frames.len();
    log.put(&bytes, Vec::new());
    log.frames.remove(at);
    log.data(1, rows(2));
    log.checkpoint(256);
    log.seal();
    log.vector(
        FOLDER,
        "twice",
        "The second segment begins with a frame that the first has too: the first counts.",
    )
}
