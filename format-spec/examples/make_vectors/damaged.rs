//! Logs with damage and torn tails: every frame that is whole and in its place is found, and every fault is named.

use crate::Vector;
use crate::log::{LogBuilder, blob, rows};
use crate::logs::started;
use marey_format::checksum::crc32;
use marey_format::frame::{Kind, Value};
use marey_format::log::{Predecessor, SEGMENT_HEADER_BYTES, TRAILER_BYTES};

pub const FOLDER: &str = "damaged";

pub fn vectors() -> Vec<Vector> {
    vec![
        torn_tail(),
        zeros_at_the_end(),
        valid_after_torn(),
        unproven_flip(),
        flipped_bit(),
        zeros_in_the_middle(),
        proven_by_a_checkpoint(),
        truncated_sealed(),
        header_damaged(),
        index_damaged(),
        trailer_damaged(),
        wrong_version(),
        duplicate_segment(),
        missing_segment(),
        way_back_lost(),
        new_epoch_lost(),
        refill(),
    ]
}

/// A sealed segment with six data frames, and a second one with one.
fn two_segments() -> LogBuilder {
    let mut log = started();
    (0..3).for_each(|i| log.data(1, rows(i)));
    log.checkpoint(256);
    (3..6).for_each(|i| log.data(1, rows(i)));
    let synced = log.last().bytes.len() as u64;
    log.checkpoint(synced - 8);
    log.roll();
    log.data(1, rows(6));
    log.checkpoint(256);
    log
}

fn flip(frame: &mut [u8], byte: usize) {
    frame[byte] ^= 0x10;
}

// --- torn tails: never acknowledged ---

fn torn_tail() -> Vector {
    let mut log = two_segments();
    log.data(1, rows(7));
    let last = log.frames.pop().expect("a frame was just put");
    let half = last.length / 2;
    log.last().bytes.truncate((last.offset + half) as usize);
    log.fault("torn", 2, last.offset, half);
    log.vector(
        FOLDER,
        "torn-tail",
        "The last frame of the last segment is cut in its middle.",
    )
}

fn zeros_at_the_end() -> Vector {
    let mut log = two_segments();
    let end = log.last().bytes.len() as u64;
    log.last().bytes.extend([0; 512]);
    log.fault("torn", 2, end, 512);
    log.vector(
        FOLDER,
        "zeros-at-the-end",
        "The file grew, its bytes did not come.",
    )
}

fn valid_after_torn() -> Vector {
    let mut log = two_segments();
    (7..10).for_each(|i| log.data(1, rows(i)));
    let [torn, next] = [7, 8].map(|sequence| log.data_frame(0, sequence));
    let file_bytes = log.last().bytes.len() as u64;
    log.bytes(2)[torn.offset as usize..next.offset as usize].fill(0);
    log.lose(2, torn.offset..file_bytes);
    log.fault("torn", 2, torn.offset, file_bytes - torn.offset);
    log.vector(
        FOLDER,
        "valid-after-torn",
        "After the torn frame whole ones follow: they were never acknowledged either.",
    )
}

fn unproven_flip() -> Vector {
    let mut log = two_segments();
    log.data(1, rows(7));
    log.checkpoint(256);
    let torn = log.data_frame(0, 7);
    let file_bytes = log.last().bytes.len() as u64;
    flip(&mut log.bytes(2)[torn.offset as usize..], 60);
    log.lose(2, torn.offset..file_bytes);
    log.fault("torn", 2, torn.offset, file_bytes - torn.offset);
    let about = "A checkpoint proves what it says was synced, not the write before it: this is a torn tail.";
    log.vector(FOLDER, "unproven-flip", about)
}

// --- damage: what was proven to be on disk ---

fn flipped_bit() -> Vector {
    let mut log = two_segments();
    let frame = log.data_frame(0, 2);
    log.damage(&frame, |bytes| flip(bytes, 77));
    log.vector(FOLDER, "flipped-bit", "One bit of a payload in a sealed segment.")
}

fn zeros_in_the_middle() -> Vector {
    let mut log = started();
    log.declare(2, &blob());
    for i in 0..14u8 {
        log.data(
            2,
            vec![vec![Value::Bytes((0..500).map(|at| (at as u8) ^ i).collect())]],
        );
    }
    log.data(1, rows(0));
    log.checkpoint(256);
    log.seal();
    let (from, to) = (
        log.data_frame(0, 2).offset + 104,
        log.data_frame(0, 2).offset + 104 + 4096,
    );
    log.bytes(1)[from as usize..to as usize].fill(0);
    let touched: Vec<_> = log
        .frames
        .iter()
        .filter(|f| f.end() > from && f.offset < to)
        .cloned()
        .collect();
    let (begin, end) = (touched[0].offset, touched[touched.len() - 1].end());
    log.lose(1, from..to);
    log.fault("damage", 1, begin, end - begin);
    log.vector(
        FOLDER,
        "zeros-in-the-middle",
        "4 KiB of zeros in a sealed segment do not mean its end.",
    )
}

fn proven_by_a_checkpoint() -> Vector {
    let mut log = two_segments();
    (7..9).for_each(|i| log.data(1, rows(i)));
    let synced = log.last().bytes.len() as u64;
    log.checkpoint(256);
    log.data(1, rows(9));
    log.checkpoint(synced);
    let frame = log.data_frame(0, 7);
    log.damage(&frame, |bytes| flip(bytes, 9));
    let about = "A fault in an unsealed segment, below what a later checkpoint says was synced: damage, stepped over.";
    log.vector(FOLDER, "proven-by-a-checkpoint", about)
}

fn truncated_sealed() -> Vector {
    let mut log = two_segments();
    let frame = log.data_frame(0, 4);
    let data_end = log
        .frames
        .iter()
        .filter(|f| f.segment == 1)
        .map(|f| f.end())
        .max()
        .expect("it has frames");
    log.bytes(1).truncate(frame.offset as usize + 40);
    log.lose(1, frame.offset..data_end);
    log.fault("damage", 1, frame.offset, data_end - frame.offset);
    let about =
        "A sealed segment lost its end: its successor says how far it counted. The bytes run to there.";
    log.vector(FOLDER, "truncated-sealed", about)
}

fn header_damaged() -> Vector {
    let mut log = two_segments();
    log.seal();
    log.bytes(2)[40] ^= 1;
    log.fault("damage", 2, 0, SEGMENT_HEADER_BYTES as u64);
    log.vector(
        FOLDER,
        "header-damaged",
        "A bit of the second segment's header; its frames are read all the same.",
    )
}

fn index_damaged() -> Vector {
    let mut log = two_segments();
    let end = log.seal();
    log.bytes(2)[end as usize + 20] ^= 1;
    log.fault("damage", 2, end, None);
    log.vector(
        FOLDER,
        "index-damaged",
        "A bit of a footer's index; no frame is lost.",
    )
}

fn trailer_damaged() -> Vector {
    let mut log = two_segments();
    let at = log.bytes(1).len() - TRAILER_BYTES + 9;
    log.bytes(1)[at] ^= 1;
    log.fault("damage", 1, None, None);
    let about = "A bit of a footer's trailer: its successor says how far it counts, and no frame is lost.";
    log.vector(FOLDER, "trailer-damaged", about)
}

fn wrong_version() -> Vector {
    let mut log = two_segments();
    let bytes = log.bytes(2);
    bytes[8] = 2;
    let crc = crc32(&bytes[..SEGMENT_HEADER_BYTES - 4]);
    bytes[SEGMENT_HEADER_BYTES - 4..SEGMENT_HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    let length = bytes.len() as u64;
    log.lose(2, 0..length);
    log.fault("damage", 2, 0, length);
    log.vector(
        FOLDER,
        "wrong-version",
        "The second segment asks for a read version that nobody knows: none of it is read.",
    )
}

fn duplicate_segment() -> Vector {
    let mut log = two_segments();
    log.seal();
    *log.bytes(2) = log.bytes(1).clone();
    let length = log.bytes(2).len() as u64;
    log.lose(2, 0..length);
    log.fault("damage", 2, 0, None);
    let about = "In the second segment's place stands the first one again: nothing is delivered twice.";
    log.vector(FOLDER, "duplicate-segment", about)
}

fn missing_segment() -> Vector {
    let mut log = two_segments();
    log.roll();
    log.data(1, rows(7));
    log.checkpoint(256);
    log.seal();
    log.lose(2, 0..u64::MAX);
    log.segments.remove(1);
    log.fault("damage", 2, 0, 0);
    log.vector(FOLDER, "missing-segment", "The second of three segments is gone.")
}

// --- epochs ---

fn way_back_lost() -> Vector {
    let mut log = started();
    log.data(1, rows(0));
    log.epoch(0xA1, false);
    log.declare(1, &blob());
    log.data(1, vec![vec![Value::Bytes(b"second epoch".to_vec())]]);
    let at = log.frames.len();
    log.epoch(0xA0, false);
    log.data(1, rows(1));
    log.checkpoint(256);
    log.seal();
    let frame = log.placed(at);
    assert_eq!(frame.kind, Kind::EPOCH);
    log.damage(&frame, |bytes| flip(bytes, 50));
    let about =
        "The epoch frame that went back to the first epoch is lost: its frames pass under that epoch's seed.";
    log.vector(FOLDER, "epoch-frame-lost", about)
}

fn new_epoch_lost() -> Vector {
    let mut log = started();
    log.data(1, rows(0));
    let at = log.frames.len();
    log.epoch(0xA1, false);
    log.declare(1, &blob());
    let declare = log.frames.len() - 2;
    log.data(
        1,
        vec![vec![Value::Bytes(b"nobody knows the seed of this".to_vec())]],
    );
    let data = log.frames.len() - 1;
    log.epoch(0xA0, false);
    log.data(1, rows(1));
    log.checkpoint(256);
    log.seal();
    let [epoch, declare, data] = [at, declare, data].map(|at| log.placed(at));
    assert_eq!(
        (epoch.kind, declare.kind, data.kind),
        (Kind::EPOCH, Kind::DECLARE, Kind::DATA)
    );
    // Epoch and declare frame stand side by side: one fault. Between declare and data stands the hub's assign frame.
    log.damage(&epoch, |bytes| flip(bytes, 50));
    log.faults.clear();
    log.lose(1, declare.offset..declare.end());
    log.lose(1, data.offset..data.end());
    log.fault("damage", 1, epoch.offset, declare.end() - epoch.offset);
    log.fault("damage", 1, data.offset, data.length);
    let about =
        "The epoch frame of an epoch that is named nowhere else is lost, and with it the seed of its frames.";
    log.vector(FOLDER, "new-epoch-lost", about)
}

fn refill() -> Vector {
    let mut log = started();
    let mut sent = Vec::new();
    for i in 0..6 {
        let made = log.make_data(1, rows(i));
        log.put(&made.0, made.1.clone());
        sent.push(made);
    }
    log.checkpoint(256);
    let end = log.seal();
    let (first, last) = (log.data_frame(0, 2), log.data_frame(0, 3));
    log.bytes(1)[first.offset as usize + 30..last.end() as usize - 30].fill(0xAA);
    log.lose(1, first.offset..last.end());
    log.fault("damage", 1, first.offset, last.end() - first.offset);
    log.segment(Predecessor::Sealed, end);
    log.epoch(0xA0, true);
    for (bytes, samples) in &sent[2..4] {
        log.put(bytes, samples.clone());
    }
    // Sent again although it was never lost: the first of its sequence counts.
    let at = log.frames.len();
    log.put(&sent[1].0, Vec::new());
    log.frames.remove(at);
    log.epoch(0xA0, false);
    log.data(1, rows(6));
    log.checkpoint(256);
    log.seal();
    let about =
        "Damage took two frames; the device had them still, and they stand in a refill in the next segment.";
    log.vector(FOLDER, "refill", about)
}
