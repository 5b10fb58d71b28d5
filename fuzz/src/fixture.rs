//! What the bodies that need a hub share: its names, a hub with a session that is being recorded, one that is sealed.

use marey_engine::disk::memory::MemoryDisk;
use marey_engine::disk::{Disk, OpenMode};
use marey_engine::time::simulated::SimulatedKernel;
use marey_engine::{Batch, LogHandle, NewSession, Options, Outcome, Stamp, Store};
use marey_format::frame::{DataBuilder, Kind, Lane, Value, control_frame};
use marey_format::payload::EndOfStream;
use marey_format::wire::{Acked, Open};
use marey_format::{BootId, Declaration, DeviceId, DigestChain, EpochId, Seed, SessionId};
use std::path::Path;
use std::sync::{Arc, OnceLock};

pub const HUB: [u8; 16] = [0x11; 16];
pub const EPOCH: EpochId = EpochId([0xA0; 16]);
pub const JOURNAL_BLOCK_BYTES: usize = 8 << 10;

/// The wall clock's reading at the start, in nanoseconds of POSIX time.
pub const UTC_NS: i64 = 1_780_000_000_000_000_000;

pub fn device() -> DeviceId {
    DeviceId::new("phone").expect("it is a name")
}

pub fn session() -> SessionId {
    SessionId::new("walk").expect("it is a name")
}

/// The seed of the phone's frames.
pub fn phone(epoch: EpochId) -> Seed {
    Seed::new(&device(), &session(), &epoch)
}

/// Small blocks and segments, so that little fills them.
pub fn options() -> Options {
    Options {
        journal_block_bytes: JOURNAL_BLOCK_BYTES as u64,
        journal_blocks: 2,
        segment_bytes_first: 1 << 10,
        segment_bytes_max: 4 << 10,
        disk_floor_bytes: Some(0),
        catalog_cache_bytes: 64 << 10,
        compaction_threads: 1,
        syncs_at_once: 1,
        ..Options::default()
    }
}

/// A declaration with fields `f0`, `f1` ... of these kinds.
pub fn declared(kinds: &[&str]) -> Declaration {
    let fields: Vec<_> = kinds
        .iter()
        .enumerate()
        .map(|(i, kind)| format!(r#"{{"name":"f{i}",{kind}}}"#))
        .collect();
    let json = format!(r#"{{"name":"s","fields":[{}]}}"#, fields.join(","));
    Declaration::from_json(json.as_bytes()).expect("it is a declaration")
}

/// A hub with a session that is being recorded.
pub fn hub() -> &'static MemoryDisk {
    static HUB_DISK: OnceLock<MemoryDisk> = OnceLock::new();
    HUB_DISK.get_or_init(|| {
        let disk = MemoryDisk::new();
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        Store::init(&shared, HUB, &options()).expect("an empty disk takes a hub");
        let store = open(&disk);
        store
            .create_session(NewSession::open_to_all(session()))
            .expect("it is the first");
        store.start_session(&session()).expect("it was just made");
        store.close().expect("the disk does not fail");
        drop(store);
        disk
    })
}

/// The same with a recording of one stream, sealed. One more frame waits in the journal.
pub fn sealed_hub() -> &'static MemoryDisk {
    static HUB_DISK: OnceLock<MemoryDisk> = OnceLock::new();
    HUB_DISK.get_or_init(|| {
        let disk = hub().snapshot();
        let store = open(&disk);
        let log = open_log(&store);
        let mut frames = recording(6);
        let late = frames.pop().expect("there are some");
        frames.into_iter().for_each(|frame| commit(&store, log, frame));
        store.stop_session(&session()).expect("it is being recorded");
        store
            .seal_session(&session(), &|_| {})
            .expect("the disk does not fail");
        commit(&store, log, late);
        disk.snapshot()
    })
}

/// A journal block with real frames in it, as a kill would leave it.
pub fn recorded_block() -> Vec<u8> {
    let disk = hub().snapshot();
    let store = open(&disk);
    let log = open_log(&store);
    recording(3)
        .into_iter()
        .for_each(|frame| commit(&store, log, frame));
    let paths = ["journal/000000.mjb", "journal/000001.mjb"].map(Path::new);
    let blocks = paths.map(|path| read(&disk, path));
    // The one that is being filled; cut after what was written, so that changes find something.
    let end = |block: &Vec<u8>| block.iter().rposition(|&byte| byte != 0).unwrap_or(0);
    let mut block = blocks.into_iter().max_by_key(end).expect("there are two");
    block.truncate(end(&block).next_multiple_of(8));
    block
}

/// A declaration, `count` frames of one sample each, the end of the stream.
fn recording(count: u64) -> Vec<Vec<u8>> {
    let declaration = declared(&[r#""type":"f32""#, r#""type":"i32""#]);
    let live = |kind, sequence, json: &[u8]| {
        control_frame(kind, Lane::Live, 1, sequence, 0, 0, json, phone(EPOCH)).expect("it is short")
    };
    let mut frames = vec![live(Kind::DECLARE, 0, &declaration.to_json())];
    let (mut samples, mut chain) = (DataBuilder::new(&declaration), DigestChain::default());
    for sequence in 0..count {
        let row = [Value::F32(0.5), Value::I64(sequence as i64)];
        samples
            .push(1_000_000_000 + sequence as i64, &row)
            .expect("the row fits");
        let frame = samples
            .finish(1, sequence, sequence, phone(EPOCH))
            .expect("it is short");
        let crc = frame[4..8].try_into().expect("four bytes");
        chain.push(u32::from_le_bytes(crc), sequence);
        frames.push(frame);
    }
    let end = EndOfStream {
        stream: 1,
        captured: count,
        next_index: count,
        frames: count,
        digest: chain.to_hex(),
    };
    let json = serde_json::to_vec(&end).expect("plain fields");
    frames.push(live(Kind::END, 1, &json));
    frames
}

fn open(disk: &MemoryDisk) -> Store {
    let kernel = SimulatedKernel::new(1, UTC_NS);
    Store::open(Arc::new(disk.clone()), kernel.hub_clock(), options())
        .expect("it was closed in order")
        .0
}

fn open_log(store: &Store) -> LogHandle {
    let open = Open {
        session: session(),
        epoch: EPOCH,
        boot: BootId::UNKNOWN,
        highest_ack: Acked::default(),
    };
    store
        .open_log(&device(), &open)
        .expect("the session is open to all")
        .handle
}

fn commit(store: &Store, log: LogHandle, frame: Vec<u8>) {
    let stamp = Stamp {
        hub: store.clock().now(),
        dev_send_ns: None,
    };
    let mut batch = Batch::new();
    batch.push(log, frame.into(), stamp).expect("the frame is whole");
    let committed = store.commit(&batch).expect("the disk does not fail");
    assert_eq!(committed.outcomes, [Outcome::Durable]);
}

/// A whole file.
pub fn read(disk: &dyn Disk, path: &Path) -> Vec<u8> {
    marey_engine::disk::read_all(disk, path, 1 << 30).expect("the disk does not fail")
}

/// Puts bytes at the beginning of a file, which is made if it is not there.
pub fn write(disk: &dyn Disk, path: &Path, bytes: &[u8]) {
    let mode = match disk.stat(path).expect("the disk does not fail") {
        Some(_) => OpenMode::ReadWrite,
        None => OpenMode::CreateNew,
    };
    disk.open(path, mode)
        .and_then(|file| file.write_at(0, bytes))
        .expect("the disk does not fail");
}
