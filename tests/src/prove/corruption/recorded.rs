//! A small hub with one device's log in it, and what the device knows of it: the oracle of every harm.
//!
//! Two epochs, three streams, hub frames of every kind, and payloads that hold whole frames of the very log that they
//! are in. The first segment can be made to have exactly the length that a proof wants.

use super::frozen::Frozen;
use marey_engine::disk::Disk;
use marey_engine::disk::memory::MemoryDisk;
use marey_engine::time::simulated::SimulatedKernel;
use marey_engine::{Batch, LogHandle, NewSession, Options, Outcome, Stamp, Store};
use marey_format::frame::{DataBuilder, Kind, Lane, Value, control_frame};
use marey_format::payload::EndOfStream;
use marey_format::wire::{Acked, Open};
use marey_format::{BootId, Declaration, DeviceId, DigestChain, EpochId, Seed, SessionId};
use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

/// Epoch's ordinal, lane, sequence.
pub type Key = (u32, u8, u64);

/// How a recording ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Every segment sealed, Parquet published, the hub closed.
    Published,
    /// Every segment sealed, and nothing published: no hash stands anywhere.
    Closed,
    /// The process died: the newest segment is not sealed, the newest frames are in the journal alone.
    Killed,
}

/// What to record.
#[derive(Clone, Copy, Debug)]
pub struct Script {
    pub end: End,
    /// Data frames of `imu` in each epoch before its blob; two more follow it.
    pub rounds: u64,
    /// Samples in each of them.
    pub samples: u64,
    /// Frames between two writes to the log.
    pub flush: u64,
    /// Where a segment is rolled, in bytes.
    pub segment_bytes: u64,
    /// How long the first segment's file is to be, in bytes: a blob late in the second epoch fills it up, and must be what
    /// takes it beyond `segment_bytes`.
    pub first_bytes: Option<u64>,
}

/// One frame that was acknowledged.
#[derive(Clone, Debug)]
pub struct Sent {
    pub bytes: Vec<u8>,
    /// Stream, first sample index, samples; of data frames.
    pub samples: Option<(u32, u64, u64)>,
}

/// A hub as it was, and every frame that the device has an ack for.
#[derive(Clone, Debug)]
pub struct Recorded {
    pub hub: Frozen,
    pub sent: BTreeMap<Key, Sent>,
    pub epochs: Vec<EpochId>,
    /// Declarations by epoch and stream number.
    pub streams: BTreeMap<(u32, u32), Declaration>,
}

pub fn session() -> SessionId {
    SessionId::new("walk").expect("it is a name")
}

pub fn device() -> DeviceId {
    DeviceId::new("phone").expect("it is a name")
}

/// The file of a segment.
pub fn segment_path(segment: u32) -> PathBuf {
    marey_engine::Session::log_dir(&session(), &device()).join(marey_engine::log::segment_name(segment))
}

/// How the engine is set up, for the recording and for whoever looks at it.
pub fn options(segment_bytes: u64) -> Options {
    Options {
        journal_block_bytes: 32 << 10,
        journal_blocks: 2,
        segment_bytes_first: segment_bytes,
        segment_bytes_max: segment_bytes,
        disk_floor_bytes: Some(0),
        compaction_threads: 1,
        syncs_at_once: 1,
        ..Options::default()
    }
}

/// Records what the script says, by a device of the given name and in a session of the given name.
pub fn record(script: &Script) -> Result<Recorded, Box<dyn Error>> {
    let Some(wanted) = script.first_bytes else {
        return record_with(script, 0);
    };
    let first_bytes = |recorded: &Recorded| {
        let content = recorded.hub.content(&segment_path(1));
        content.map_or(0, |bytes| bytes.len() as u64)
    };
    // The blob's length shows one to one in the segment's.
    let least = 4 << 10;
    let bare = first_bytes(&record_with(script, least)?);
    let blob = least
        + wanted
            .checked_sub(bare)
            .ok_or("the script is longer than it may be")?;
    let recorded = record_with(script, blob)?;
    match first_bytes(&recorded) {
        found if found == wanted => Ok(recorded),
        found => Err(format!("the first segment has {found} bytes, wanted are {wanted}").into()),
    }
}

fn record_with(script: &Script, blob_bytes: u64) -> Result<Recorded, Box<dyn Error>> {
    let disk = MemoryDisk::new();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let kernel = SimulatedKernel::new(1, 1_700_000_000_000_000_000);
    let options = options(script.segment_bytes);
    Store::init(&shared, [7; 16], &options)?;
    let (store, _) = Store::open(shared, kernel.hub_clock(), options)?;
    store.create_session(NewSession::open_to_all(session()))?;
    store.start_session(&session())?;
    let mut recording = Recording {
        store: &store,
        kernel: &kernel,
        flush: script.flush,
        since_flush: 0,
        recorded: Recorded {
            hub: Frozen::of(&disk)?,
            sent: BTreeMap::new(),
            epochs: Vec::new(),
            streams: BTreeMap::new(),
        },
    };
    for _ in 0..2 {
        recording.epoch(script, blob_bytes)?;
    }
    let mut recorded = recording.recorded;
    match script.end {
        End::Published => {
            store.stop_session(&session())?;
            store.seal_session(&session(), &|_| {})?;
            store.close()?;
        }
        End::Closed => store.close()?,
        End::Killed => {}
    }
    drop(store);
    recorded.hub = Frozen::of(&disk)?;
    Ok(recorded)
}

struct Recording<'a> {
    store: &'a Store,
    kernel: &'a SimulatedKernel,
    flush: u64,
    since_flush: u64,
    recorded: Recorded,
}

/// One epoch under way.
struct Life {
    ordinal: u32,
    handle: LogHandle,
    seed: Seed,
    /// Next sequence by lane.
    next: [u64; 2],
    chain: DigestChain,
}

/// Sequence of the frames that stand in payloads and nowhere else.
pub const LIE_SEQUENCE: u64 = 1_000;

/// Data frames behind the blob.
const AFTER: u64 = 2;

const IMU: u32 = 1;
const BLOB: u32 = 2;

impl Recording<'_> {
    fn epoch(&mut self, script: &Script, blob_bytes: u64) -> Result<(), Box<dyn Error>> {
        let ordinal = self.recorded.epochs.len() as u32;
        let epoch = EpochId([ordinal as u8 + 1; 16]);
        let highest_ack = Acked { data: 0, live: 0 };
        let boot = BootId([9; 16]);
        let session = session();
        let open = Open {
            session,
            epoch,
            boot,
            highest_ack,
        };
        let handle = self.store.open_log(&device(), &open)?.handle;
        self.recorded.epochs.push(epoch);
        let mut life = Life {
            ordinal,
            handle,
            seed: Seed::new(&device(), &open.session, &epoch),
            next: [0; 2],
            chain: DigestChain::default(),
        };
        for (stream, declaration) in [(IMU, imu()?), (BLOB, blob()?)] {
            self.live(&mut life, Kind::DECLARE, stream, &declaration.to_json())?;
            self.recorded.streams.insert((ordinal, stream), declaration);
        }
        for round in 0..script.rounds {
            self.kernel.advance(20_000_000);
            self.imu(&mut life, script.samples, round)?;
            if round % 5 == 2 {
                let event = format!(r#"{{"kind":"mark","text":"round {round} of life {ordinal}"}}"#);
                self.live(&mut life, Kind::EVENT, 0, event.as_bytes())?;
            }
        }
        let lie = self.lie(&life)?;
        let mut content = vec![lie];
        if ordinal == 1 && blob_bytes > 0 {
            let noise = (0..blob_bytes).map(|i| (i.wrapping_mul(0x9E37_79B9) >> 13) as u8);
            content.push(noise.collect());
        }
        self.blobs(&mut life, content)?;
        if script.first_bytes.is_some() {
            self.store.flush()?;
            self.since_flush = 0;
        }
        for round in script.rounds..script.rounds + AFTER {
            self.kernel.advance(20_000_000);
            self.imu(&mut life, script.samples, round)?;
        }
        self.end(&mut life, script)
    }

    fn imu(&mut self, life: &mut Life, samples: u64, round: u64) -> Result<(), Box<dyn Error>> {
        let declaration = imu()?;
        let mut builder = DataBuilder::new(&declaration);
        let first = samples * round;
        for i in first..first + samples {
            let values = [Value::F32((i as f32).sin()), Value::I64(i as i64)];
            // Not quite regular, so that the times are a column.
            let time_ns = 1_000_000_000 + 10_000_000 * i as i64 + (i % 7) as i64;
            builder.push(time_ns, &values)?;
        }
        let frame = builder.finish(IMU, life.next[0], first, life.seed)?;
        life.chain
            .push(u32::from_le_bytes(frame[4..8].try_into()?), life.next[0]);
        self.commit(life, Lane::Data, frame, Some((IMU, first, samples)))
    }

    /// A whole frame of this log that never came by itself: it only ever stands in somebody's payload.
    fn lie(&self, life: &Life) -> Result<Vec<u8>, Box<dyn Error>> {
        let text = br#"{"kind":"lie"}"#;
        Ok(control_frame(
            Kind::EVENT,
            Lane::Live,
            0,
            LIE_SEQUENCE,
            1,
            0,
            text,
            life.seed,
        )?)
    }

    fn blobs(&mut self, life: &mut Life, contents: Vec<Vec<u8>>) -> Result<(), Box<dyn Error>> {
        let declaration = blob()?;
        let mut builder = DataBuilder::new(&declaration);
        let count = contents.len() as u64;
        for (i, content) in contents.into_iter().enumerate() {
            builder.push(1_000 * i as i64, &[Value::Bytes(content)])?;
        }
        let frame = builder.finish(BLOB, life.next[0], 0, life.seed)?;
        self.commit(life, Lane::Data, frame, Some((BLOB, 0, count)))
    }

    fn end(&mut self, life: &mut Life, script: &Script) -> Result<(), Box<dyn Error>> {
        let end = EndOfStream {
            stream: IMU,
            captured: (script.rounds + AFTER) * script.samples,
            next_index: (script.rounds + AFTER) * script.samples,
            frames: script.rounds + AFTER,
            digest: life.chain.to_hex(),
        };
        self.live(life, Kind::END, IMU, &serde_json::to_vec(&end)?)
    }

    fn live(
        &mut self,
        life: &mut Life,
        kind: Kind,
        stream: u32,
        payload: &[u8],
    ) -> Result<(), Box<dyn Error>> {
        let time_ns = if kind == Kind::EVENT { 1_500_000_000 } else { 0 };
        let frame = control_frame(
            kind,
            Lane::Live,
            stream,
            life.next[1],
            time_ns,
            0,
            payload,
            life.seed,
        )?;
        self.commit(life, Lane::Live, frame, None)
    }

    fn commit(
        &mut self,
        life: &mut Life,
        lane: Lane,
        bytes: Vec<u8>,
        samples: Option<(u32, u64, u64)>,
    ) -> Result<(), Box<dyn Error>> {
        let mut batch = Batch::new();
        let stamp = Stamp {
            hub: self.store.clock().now(),
            dev_send_ns: Some(5_000_000_000 + life.next[0] as i64),
        };
        batch
            .push(life.handle, bytes.clone().into(), stamp)
            .map_err(|refusal| format!("{refusal:?}"))?;
        let outcomes = self.store.commit(&batch)?.outcomes;
        if outcomes != [Outcome::Durable] {
            return Err(format!("{outcomes:?}").into());
        }
        let key = (life.ordinal, lane as u8, life.next[lane as usize]);
        self.recorded.sent.insert(key, Sent { bytes, samples });
        life.next[lane as usize] += 1;
        self.since_flush += 1;
        if self.since_flush >= self.flush {
            self.store.flush()?;
            self.since_flush = 0;
        }
        Ok(())
    }
}

fn imu() -> Result<Declaration, Box<dyn Error>> {
    let json =
        br#"{"name":"imu","fields":[{"name":"ax","type":"f32","unit":"m/s2"},{"name":"n","type":"i32"}]}"#;
    Ok(Declaration::from_json(json)?)
}

fn blob() -> Result<Declaration, Box<dyn Error>> {
    Ok(Declaration::from_json(
        br#"{"name":"blob","fields":[{"name":"bytes","type":"binary"}]}"#,
    )?)
}
