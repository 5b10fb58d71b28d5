//! The bodies of the fuzz targets: each takes any bytes, and panics where a promise is broken.
//!
//! They stand here and not in the targets, so that the workspace's `tests/tests/fuzz_smoke.rs`, which includes this file
//! by its path, runs the very same ones over the vectors without cargo-fuzz.
//!
//! What a checksum guards is out of reach for random bytes, so bodies with checksums run twice: on the bytes as they
//! are, and on a copy whose checksums were mended, which is what an enemy would send.

#![forbid(unsafe_code)]
#![allow(
    clippy::disallowed_methods,
    reason = "no hub is near; a recording is read from a file"
)]

use marey_device::replay::{Recording, RecordingOptions};
use marey_engine::clock::{self, ClockEvidence, DeviceEvidence, Row, SessionEvidence, WallReading};
use marey_engine::disk::memory::MemoryDisk;
use marey_engine::disk::{self, Disk, OpenMode};
use marey_engine::log::{LogReader, Replay};
use marey_engine::time::simulated::SimulatedKernel;
use marey_engine::{Batch, Options, Stamp, Store};
use marey_format::clock::{PacketKey, ProbeRow, StampKey};
use marey_format::frame::{
    Columns, DataBuilder, Frame, HEADER_BYTES, Header, Kind, Lane, Value, control_frame, encode,
};
use marey_format::journal::{RECORD_HEADER_BYTES, Record, record_seed};
use marey_format::log::{SEGMENT_HEADER_BYTES, TRAILER_BYTES};
use marey_format::payload::{Arrival, Assign, Checkpoint, EndOfStream, EpochMark, Event};
use marey_format::wire::{Acked, Holes, Open, Opened};
use marey_format::{BootId, Declaration, DeviceId, EpochId, HubEpoch, Seed, SessionId, checksum, limits};
use marey_server::protocol::{Action, Protocol, Settings};
use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// A frame's form, its columns under several declarations, and every payload: nothing panics, and what was read is
/// written again as it was.
pub fn wire_frame(bytes: &[u8]) {
    let _ = EpochMark::parse(bytes);
    let _ = Checkpoint::parse(bytes);
    for row in Arrival::rows(bytes).into_iter().flatten() {
        let mut again = Vec::new();
        row.put(&mut again);
        assert_eq!(Arrival::rows(&again).expect("one row").next(), Some(row));
    }
    for row in ProbeRow::rows(bytes).into_iter().flatten() {
        let mut again = Vec::new();
        row.put(&mut again);
        assert_eq!(ProbeRow::rows(&again).expect("one row").next(), Some(row));
    }
    let Ok(frame) = Frame::parse(bytes) else { return };
    assert!(frame.bytes().len() <= limits::FRAME_BYTES_MAX && frame.bytes().len().is_multiple_of(8));
    let (seed, header) = (phone(EPOCH), *frame.header());
    let again = encode(header, frame.payload(), seed).expect("it was within the limit");
    let again = Frame::checked(&again, seed).expect("it was just made");
    assert_eq!(again.payload(), frame.payload());
    assert_eq!(
        Header {
            crc: header.crc,
            ..*again.header()
        },
        header
    );
    let _ = (
        frame.json::<Assign>("assign"),
        frame.json::<EndOfStream>("end"),
        frame.json::<Event>("event"),
    );
    for declaration in declarations() {
        let Ok(columns) = Columns::parse(&frame, declaration) else {
            continue;
        };
        assert_eq!(columns.times.len(), header.count as usize);
        assert!(columns.times.iter().is_sorted());
        for column in &columns.fields {
            // A column of variable width gives a cell for every row.
            let cells = (0..columns.times.len())
                .filter(|&row| column.cell(row).is_some())
                .count();
            assert!(cells == 0 || cells == columns.times.len());
        }
    }
}

/// A segment of any bytes, read as a log: what is delivered is whole, in its place, and once.
pub fn log_scan(bytes: &[u8]) {
    scan(bytes);
    scan(&with_frames_mended(bytes));
}

fn scan(bytes: &[u8]) {
    let (disk, dir) = (MemoryDisk::new(), Path::new("sessions/session=walk/logs/phone"));
    disk::create_dirs(&disk, dir).expect("an empty disk takes folders");
    write(&disk, &dir.join("000001.mlog"), bytes);
    let (session, device) = (session(), device());
    let mut reader = LogReader::open(&disk, &session, &device).expect("the disk does not fail");
    let mut end = 0;
    while let Some(found) = reader.next().expect("the disk does not fail") {
        assert!(found.offset >= end, "frames do not overlap");
        end = found.offset + found.frame.bytes().len() as u64;
        let place = found.offset as usize..end as usize;
        assert_eq!(
            bytes.get(place),
            Some(found.frame.bytes()),
            "a frame is the bytes of its place"
        );
    }
    let mut faults: Vec<_> = reader
        .faults()
        .iter()
        .map(|fault| (fault.offset, fault.bytes))
        .collect();
    faults.sort_unstable();
    assert!(faults.iter().all(|fault| fault.0 <= bytes.len() as u64));

    let mut replay = Replay::open(&disk, &session, &device).expect("the disk does not fail");
    let mut taken = HashSet::new();
    while let Some(replayed) = replay.next().expect("the disk does not fail") {
        if let Ok(judged) = &replayed.judged
            && judged.entry.lane != Lane::Hub
        {
            let name = (judged.entry.epoch, judged.entry.lane, judged.entry.sequence);
            assert!(taken.insert(name), "{name:?} was taken twice");
        }
    }
}

/// A journal block of any bytes: read by the codec, and by a hub that opens.
pub fn journal(bytes: &[u8]) {
    for block in [bytes.to_vec(), with_records_mended(bytes)] {
        walk_records(&block);
        let disk = hub().snapshot();
        write(
            &disk,
            Path::new("journal/000000.mjb"),
            &block[..block.len().min(JOURNAL_BLOCK_BYTES)],
        );
        let kernel = SimulatedKernel::new(2, 0);
        // It opens or says why not; what it holds then can be read, and opens again.
        if let Ok((store, _)) = Store::open(Arc::new(disk.clone()), kernel.hub_clock(), options()) {
            store.close().expect("the disk does not fail");
            drop(store);
            Store::open(Arc::new(disk), kernel.hub_clock(), options())
                .expect("what was closed in order opens");
        }
    }
}

fn walk_records(block: &[u8]) {
    let (mut at, mut generation) = (0, None);
    while let Ok(record) = Record::parse(&block[at..], &HUB, generation) {
        generation = Some(record.header.generation);
        at += record.header.length as usize;
        assert!(at <= block.len());
        let _ = record.entries();
    }
}

/// A block with real frames in it, as a kill would leave it: a seed for [`journal`].
pub fn recorded_journal() -> Vec<u8> {
    let disk = hub().snapshot();
    let kernel = SimulatedKernel::new(1, 0);
    let (store, _) =
        Store::open(Arc::new(disk.clone()), kernel.hub_clock(), options()).expect("it was closed in order");
    let open = Open {
        session: session(),
        epoch: EPOCH,
        boot: BootId::UNKNOWN,
        highest_ack: Acked::default(),
    };
    let log = store
        .open_log(&device(), &open)
        .expect("the session is open to all")
        .handle;
    let stamp = Stamp {
        hub: store.clock().now(),
        dev_send_ns: None,
    };
    let declaration = &declarations()[0];
    let (json, seed) = (declaration.to_json(), phone(EPOCH));
    let declare = control_frame(Kind::DECLARE, Lane::Live, 1, 0, 0, 0, &json, seed).expect("it is short");
    let mut frames = vec![declare];
    let mut samples = DataBuilder::new(declaration);
    for sequence in 0..3 {
        let row = [Value::F32(0.5), Value::I64(sequence)];
        samples.push(sequence, &row).expect("the row fits");
        let frame = samples
            .finish(1, sequence as u64, sequence as u64, seed)
            .expect("it is short");
        frames.push(frame);
    }
    for frame in frames {
        let mut batch = Batch::new();
        batch.push(log, frame.into(), stamp).expect("the frame is whole");
        store.commit(&batch).expect("the disk does not fail");
    }
    let paths = ["journal/000000.mjb", "journal/000001.mjb"].map(Path::new);
    let blocks = paths.map(|path| disk::read_all(&disk, path, 1 << 20).expect("the disk does not fail"));
    // The one that is being filled.
    let begun = |block: &Vec<u8>| block.iter().rposition(|&byte| byte != 0);
    blocks.into_iter().max_by_key(begun).expect("there are two")
}

/// A connection that is sent anything: bounded memory, and silence after its end.
pub fn hello(bytes: &[u8]) {
    let settings = Settings {
        hub: "11".repeat(16),
        device: device(),
        credit_bytes: 4 << 20,
        heartbeat_ms: 3_000,
        idle_ms: 10_000,
        hello_timeout_ms: 5_000,
        hub_epoch: HubEpoch(1),
        time: None,
        packet_key: PacketKey([1; 32]),
        stamp_key: Arc::new(StampKey([2; 32])),
    };
    let (mut protocol, mut over) = (Protocol::new(settings, 0), false);
    // The first byte cuts the rest into pieces, as a socket would.
    let (piece, rest) = bytes
        .split_first()
        .map_or((1, bytes), |(first, rest)| (usize::from(*first) + 1, rest));
    for (now_ns, piece) in (1..).zip(rest.chunks(piece)) {
        let mut actions = Vec::new();
        protocol.receive(now_ns, piece, &mut actions);
        protocol.end_read(&mut actions);
        assert!(!over || actions.is_empty(), "nothing comes after the end");
        let mut more = Vec::new();
        for action in actions {
            match action {
                Action::Open { channel, open } => {
                    let opened = Opened {
                        session: open.session,
                        next: Acked::default(),
                        holes: Holes::default(),
                        recording: true,
                    };
                    protocol.opened(channel, &opened, &mut more);
                }
                Action::Frames(run) => {
                    let bytes: usize = run.frames.iter().map(|head| run.frame_bytes(head).len()).sum();
                    protocol.resolved(bytes as u64);
                }
                Action::Close(_) => over = true,
                _ => {}
            }
        }
        assert!(
            protocol.held_bytes() <= limits::FRAME_BYTES_MAX + (8 << 20),
            "{} bytes held",
            protocol.held_bytes()
        );
        assert!(protocol.channels() <= limits::CHANNELS_PER_CONNECTION_MAX);
    }
}

/// A declaration that is taken is written and read again as the same.
pub fn declaration(bytes: &[u8]) {
    if let Ok(declaration) = Declaration::from_json(bytes) {
        let again = declaration.to_json();
        // What is written may be longer than what was read (`1e300`), and then over the limit.
        if again.len() <= limits::DECLARATION_BYTES_MAX {
            assert_eq!(
                Declaration::from_json(&again).expect("it was just written"),
                declaration
            );
        }
    }
}

/// Evidence of any stamps: the model always gives a result, and time never runs backwards within a segment.
pub fn clock_evidence(bytes: &[u8]) {
    let evidence = evidence(bytes);
    let alignment = clock::align(&evidence, &clock::Options::default());
    for (_, map) in alignment.clocks() {
        for pair in map.rows().windows(2) {
            if pair[0].segment == pair[1].segment && pair[0].device_time_ns <= pair[1].device_time_ns {
                assert!(pair[0].session_ns <= pair[1].session_ns, "{pair:?}");
            }
        }
        for dev_ns in [0, 1, -1, i64::MAX / 4, i64::MIN / 4] {
            let (low, high) = map.interval(dev_ns);
            assert!(low <= high, "an empty interval at {dev_ns}");
            assert!(!map.at(dev_ns).half_width_ns.is_nan());
        }
    }
}

/// Rows of 33 bytes: what kind, and four stamps; the kind's upper bits choose device, hub epoch and how near the stamps
/// lie to each other.
fn evidence(bytes: &[u8]) -> SessionEvidence {
    let mut devices = vec![DeviceEvidence::default(); 2];
    for (at, device) in devices.iter_mut().enumerate() {
        device.device = format!("device-{at}");
        device.clocks = vec![ClockEvidence {
            key: [at as u8; 16],
            epochs: vec![0],
            rows: Vec::new(),
        }];
    }
    for row in bytes.chunks_exact(33) {
        let kind = row[0];
        let near = if kind & 0x10 != 0 { 24 } else { 0 };
        let stamp = |i: usize| {
            let raw = i64::from_le_bytes(
                row[1 + 8 * i..9 + 8 * i]
                    .try_into()
                    .expect("eight bytes were cut"),
            );
            raw >> near
        };
        let hub_epoch = u64::from(kind >> 6);
        let (dev_send, hub_recv, hub_send, dev_recv) = (stamp(0), stamp(1), stamp(2), stamp(3));
        devices[usize::from(kind >> 5 & 1)].clocks[0]
            .rows
            .push(match kind % 3 {
                0 => Row::Exchange {
                    hub_epoch,
                    dev_send,
                    hub_recv,
                    hub_send,
                    dev_recv,
                },
                1 => Row::Up {
                    hub_epoch,
                    dev_send,
                    hub_recv,
                },
                _ => Row::Down {
                    hub_epoch,
                    hub_send,
                    dev_recv,
                },
            });
    }
    let anchor = WallReading {
        hub_epoch: 0,
        hub_ns: 0,
        utc_ns: 1_780_000_000_000_000_000,
        error_ns: 1_000_000,
    };
    SessionEvidence {
        anchor,
        hub_epochs: vec![0],
        walls: Vec::new(),
        devices,
    }
}

/// A file of any bytes as a recording: read whole, or refused with a place.
pub fn replay_csv(bytes: &[u8]) {
    let path = std::env::temp_dir().join(format!("marey-fuzz-{}.csv", std::process::id()));
    std::fs::write(&path, bytes).expect("the folder for temporary files takes one");
    if let Ok(recording) = Recording::open(&path, &RecordingOptions::default()) {
        let mut rows = recording.rows().expect("it was just read");
        let (mut row, mut count, mut before) = (Default::default(), 0, i64::MIN);
        while rows
            .next(&mut row)
            .expect("it was read before, and did not change")
        {
            assert!(row.time_ns >= before, "time goes back in line {}", row.line);
            assert_eq!(row.values.len(), recording.channels().len());
            (before, count) = (row.time_ns, count + 1);
        }
        assert_eq!(count, recording.row_count());
    }
    let _ = std::fs::remove_file(&path);
}

// --- a hub to read in ---

const HUB: [u8; 16] = [0x11; 16];
const EPOCH: EpochId = EpochId([0xA0; 16]);
const JOURNAL_BLOCK_BYTES: usize = 8 << 10;

fn device() -> DeviceId {
    DeviceId::new("phone").expect("it is a name")
}

fn session() -> SessionId {
    SessionId::new("walk").expect("it is a name")
}

fn phone(epoch: EpochId) -> Seed {
    Seed::new(&device(), &session(), &epoch)
}

fn options() -> Options {
    Options {
        journal_block_bytes: JOURNAL_BLOCK_BYTES as u64,
        journal_blocks: 2,
        disk_floor_bytes: Some(0),
        catalog_cache_bytes: 64 << 10,
        compaction_threads: 1,
        ..Options::default()
    }
}

/// A hub with a session that is being recorded.
fn hub() -> &'static MemoryDisk {
    static HUB_DISK: OnceLock<MemoryDisk> = OnceLock::new();
    HUB_DISK.get_or_init(|| {
        let disk = MemoryDisk::new();
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        Store::init(&shared, HUB, &options()).expect("an empty disk takes a hub");
        let kernel = SimulatedKernel::new(1, 0);
        let (store, _) = Store::open(shared, kernel.hub_clock(), options()).expect("it was just made");
        store
            .create_session(marey_engine::NewSession::open_to_all(session()))
            .expect("it is the first");
        store.start_session(&session()).expect("it was just made");
        store.close().expect("the disk does not fail");
        disk
    })
}

fn write(disk: &dyn Disk, path: &Path, bytes: &[u8]) {
    let mode = match disk.stat(path).expect("the disk does not fail") {
        Some(_) => OpenMode::ReadWrite,
        None => OpenMode::CreateNew,
    };
    disk.open(path, mode)
        .and_then(|file| file.write_at(0, bytes))
        .expect("the disk does not fail");
}

fn declarations() -> &'static [Declaration] {
    static ALL: OnceLock<Vec<Declaration>> = OnceLock::new();
    ALL.get_or_init(|| {
        let fields = |kinds: &[&str]| {
            let fields: Vec<_> = kinds
                .iter()
                .enumerate()
                .map(|(i, kind)| format!(r#"{{"name":"f{i}",{kind}}}"#))
                .collect();
            let json = format!(r#"{{"name":"s","fields":[{}]}}"#, fields.join(","));
            Declaration::from_json(json.as_bytes()).expect("it is a declaration")
        };
        vec![
            fields(&[r#""type":"f32""#, r#""type":"i32""#]),
            fields(&[r#""type":"binary""#]),
            fields(&[r#""type":"utf8""#, r#""type":"bool""#]),
            fields(&[r#""type":"i16","length":3"#, r#""type":"bool""#]),
        ]
    })
}

// --- mending checksums ---

/// A segment whose header, frames and footer have the checksums that fit their bytes.
fn with_frames_mended(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let crc_at = SEGMENT_HEADER_BYTES - 4;
    if bytes.len() >= SEGMENT_HEADER_BYTES {
        let crc = checksum::crc32(&bytes[..crc_at]);
        bytes[crc_at..SEGMENT_HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    }
    let (mut at, mut epoch) = (SEGMENT_HEADER_BYTES, EPOCH);
    while let Some(rest) = bytes.get_mut(at..) {
        let Ok(header) = Header::parse(rest) else { break };
        let length = header.length as usize;
        let Some(frame) = rest.get_mut(..length) else {
            break;
        };
        let seed = if header.lane == Lane::Hub {
            phone(EpochId::HUB)
        } else {
            phone(epoch)
        };
        let crc = seed.checksum(&frame[8..]);
        frame[4..8].copy_from_slice(&crc.to_le_bytes());
        if let Some(mark) = EpochMark::parse(&frame[HEADER_BYTES..]).filter(|_| header.kind.0 == 0x80) {
            epoch = mark.epoch;
        }
        at += length;
    }
    if let Some(end) = bytes.len().checked_sub(TRAILER_BYTES).filter(|&end| end >= at) {
        let index = checksum::crc32(&bytes[at..end]);
        bytes[end + 32..end + 36].copy_from_slice(&index.to_le_bytes());
        let crc = checksum::crc32(&bytes[end..end + TRAILER_BYTES - 4]);
        bytes[end + TRAILER_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
    }
    bytes
}

/// A block whose records have the checksums that fit their bytes.
fn with_records_mended(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let mut at = 0;
    while bytes.len() >= at + RECORD_HEADER_BYTES {
        let word = |from: usize| {
            u64::from_le_bytes(bytes[at + from..at + from + 8].try_into().expect("eight bytes"))
        };
        let (generation, length) = (word(8), word(32) as usize);
        let Some(end) = at
            .checked_add(length)
            .filter(|&end| end <= bytes.len() && length >= RECORD_HEADER_BYTES)
        else {
            break;
        };
        let crc = continued(record_seed(&HUB, generation), &bytes[at + 8..end]);
        bytes[at + 4..at + 8].copy_from_slice(&crc.to_le_bytes());
        at = end;
    }
    bytes
}

/// CRC-32 of `bytes`, going on from another's.
fn continued(crc: u32, bytes: &[u8]) -> u32 {
    Seed(crc).checksum(bytes)
}
