//! Frames that lie: a binary payload that holds whole valid frames, of this very log and of others, and a damaged frame
//! around it. No inner frame may ever be delivered.

use crate::Vector;
use crate::damaged::FOLDER;
use crate::log::{LogBuilder, Placed, blob, imu, rows};
use crate::logs::started;
use marey_format::frame::{DataBuilder, Kind, Lane, Value, control_frame};
use marey_format::log::INDEX_MAGIC;
use marey_format::payload::{Checkpoint, EpochMark};
use marey_format::{BootId, DeviceId, EpochId, Seed};

pub fn vectors() -> Vec<Vector> {
    vec![
        whole_around(),
        mark_lost("inner-frames-indexed", true),
        mark_lost("inner-frames-listed", false),
        shortened(),
        zeroed(),
        torn(),
        old_checkpoint(),
        forged_checkpoint(),
        false_end(),
    ]
}

/// A log up to the lying frame: streams imu and blob, two data frames of imu.
fn before() -> LogBuilder {
    let mut log = started();
    log.declare(2, &blob());
    log.data(1, rows(0));
    log.data(1, rows(1));
    log.checkpoint(256);
    log
}

/// What the lying payload holds: the log's own frames once more, ones that would go on from where it stands, and one of
/// another log. All begin at multiples of 8 of the file.
fn inner(log: &mut LogBuilder) -> Vec<u8> {
    let mut inner = Vec::new();
    let old = log.data_frame(0, 1);
    inner.extend_from_slice(&log.bytes(1)[old.offset as usize..old.end() as usize]);
    let seed = log.seed();
    for (sequence, first_index) in [(2, 6), (3, 6), (3, 1000)] {
        inner.extend(forged(sequence, first_index, seed));
    }
    let hub = |kind, payload: &[u8]| {
        control_frame(kind, Lane::Hub, 0, 1 << 20, 0, 0, payload, log.hub_seed()).expect("it is short")
    };
    inner.extend(hub(Kind::NOTE, br#"{"kind":"forged"}"#));
    let mark = EpochMark {
        epoch: EpochId([0xEE; 16]),
        boot: BootId([0; 16]),
        ordinal: 9,
        refill: true,
    };
    inner.extend(hub(Kind::EPOCH, &mark.to_bytes()));
    let watch = DeviceId::new("watch").expect("it is a name");
    inner.extend(forged(
        3,
        6,
        Seed::new(&watch, &log.session, &EpochId([0xA0; 16])),
    ));
    inner
}

fn forged(sequence: u64, first_index: u64, seed: Seed) -> Vec<u8> {
    let mut builder = DataBuilder::new(&imu());
    let time = 1_100_000_000;
    builder
        .push(time, &[Value::F32(666.0), Value::I64(-666)])
        .expect("the row fits the declaration");
    builder
        .finish(1, sequence, first_index, seed)
        .expect("it is short")
}

/// Puts the lying frame, and behind it frames whose sequences leave room for what it holds.
fn put_lying(log: &mut LogBuilder, payload: Vec<u8>) -> Placed {
    log.data(2, vec![vec![Value::Bytes(payload)]]);
    let outer = log.frames.last().expect("a frame was just put").clone();
    log.skip(1, 2, 6);
    log.data(1, rows(4));
    log.checkpoint(256);
    outer
}

fn proven(log: &mut LogBuilder) {
    let synced = log.last().bytes.len() as u64;
    log.data(1, rows(5));
    log.checkpoint(synced);
}

fn lying() -> (LogBuilder, Placed) {
    let mut log = before();
    let payload = inner(&mut log);
    let outer = put_lying(&mut log, payload);
    proven(&mut log);
    (log, outer)
}

fn whole_around() -> Vector {
    let (mut log, _) = lying();
    log.seal();
    log.vector(
        "log",
        "inner-frames",
        "A payload that holds whole valid frames. The frame around it is whole too.",
    )
}

fn mark_lost(name: &str, sealed: bool) -> Vector {
    let (mut log, outer) = lying();
    if sealed {
        log.seal();
    }
    log.damage(&outer, |bytes| bytes[1] ^= 0x20);
    let about = match sealed {
        true => "The outer frame's mark is damaged: the footer's index says where frames begin.",
        false => {
            "The outer frame's mark is damaged, in an unsealed segment: the checkpoint says where frames begin."
        }
    };
    log.vector(FOLDER, name, about)
}

fn shortened() -> Vector {
    let (mut log, outer) = lying();
    // As if the frame ended right where the first inner one begins.
    log.damage(&outer, |bytes| bytes[8..12].copy_from_slice(&64u32.to_le_bytes()));
    let about = "The outer frame's length says that it ends where the first inner frame begins.";
    log.vector(FOLDER, "inner-frames-shortened", about)
}

fn zeroed() -> Vector {
    let (mut log, outer) = lying();
    log.damage(&outer, |bytes| bytes[..64].fill(0));
    log.vector(
        FOLDER,
        "inner-frames-zeroed",
        "All of the outer frame is zeros, up to the first inner frame.",
    )
}

fn torn() -> Vector {
    let mut log = before();
    let payload = inner(&mut log);
    let outer = put_lying(&mut log, payload);
    let file_bytes = log.last().bytes.len() as u64;
    log.bytes(1)[outer.offset as usize + 1] ^= 0x20;
    log.lose(1, outer.offset..file_bytes);
    log.fault("torn", 1, outer.offset, file_bytes - outer.offset);
    log.vector(
        FOLDER,
        "inner-frames-torn",
        "The outer frame is in the torn tail: all from there on is dropped.",
    )
}

fn old_checkpoint() -> Vector {
    let mut log = before();
    let checkpoint = log
        .frames
        .iter()
        .rfind(|f| f.kind == Kind::CHECKPOINT)
        .expect("there is one")
        .clone();
    let mut payload = log.bytes(1)[checkpoint.offset as usize..checkpoint.end() as usize].to_vec();
    payload.extend(inner(&mut log));
    let outer = put_lying(&mut log, payload);
    proven(&mut log);
    log.damage(&outer, |bytes| bytes[1] ^= 0x20);
    let about = "Among the inner frames is a checkpoint of this log: it does not stand where it says, and counts for nothing.";
    log.vector(FOLDER, "inner-checkpoint-old", about)
}

/// Who knows where a payload will stand can make a checkpoint that is right about its place.
fn forged_checkpoint() -> Vector {
    let mut log = before();
    let at = log.last().bytes.len() as u64 + 64;
    let mut payload = forged(3, 6, log.seed());
    let point = Checkpoint {
        number: 1,
        offset: at,
        length: payload.len() as u64,
        crc: marey_format::checksum::crc32(&payload),
        synced_through: at,
        frames: vec![0],
    };
    let frame = control_frame(
        Kind::CHECKPOINT,
        Lane::Hub,
        0,
        1 << 20,
        0,
        1,
        &point.to_bytes(),
        log.hub_seed(),
    );
    payload.extend(frame.expect("it is short"));
    let outer = put_lying(&mut log, payload);
    proven(&mut log);
    log.damage(&outer, |bytes| bytes[1] ^= 0x20);
    let about = "Among the inner frames is a checkpoint that is right about its place and lists an inner frame. The true \
                 one, further on, covers it and does not list it.";
    log.vector(FOLDER, "inner-checkpoint-forged", about)
}

fn false_end() -> Vector {
    let mut log = before();
    let mut payload = INDEX_MAGIC.to_vec();
    payload.extend(inner(&mut log));
    let outer = put_lying(&mut log, payload);
    proven(&mut log);
    log.damage(&outer, |bytes| bytes[8..12].copy_from_slice(&64u32.to_le_bytes()));
    let about =
        "The payload begins with the mark of an index, and the outer frame's length says that it ends there.";
    log.vector(FOLDER, "inner-index", about)
}
