//! A small recording into an engine, without a server: a few devices, a few streams, every value known.
//!
//! The [`Oracle`] holds what was acknowledged, outside of the engine, and judges what a crash left.

use bytes::Bytes;
use marey_engine::disk::Disk;
use marey_engine::log::Replay;
use marey_engine::state::Meaning;
use marey_engine::time::HubClock;
use marey_engine::{Batch, LogHandle, NewSession, Options, Outcome, Stamp, StorageError, Store};
use marey_format::frame::{DataBuilder, Kind, Lane, Value, control_frame};
use marey_format::wire::{Acked, Open};
use marey_format::{BootId, Declaration, DeviceId, EpochId, Seed, SessionId};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Small blocks and segments, so that a short recording rolls and recycles them.
pub fn small_options() -> Options {
    Options {
        journal_block_bytes: 8 << 10,
        journal_blocks: 2,
        segment_bytes_first: 4 << 10,
        segment_bytes_max: 16 << 10,
        disk_floor_bytes: Some(0),
        compaction_threads: 1,
        syncs_at_once: 1,
        ..Options::default()
    }
}

/// The session that every test here records.
pub fn session() -> SessionId {
    SessionId::new("walk").unwrap()
}

/// The declaration of the one stream.
pub fn declaration() -> Declaration {
    let json =
        br#"{"name":"imu","fields":[{"name":"ax","type":"f32","unit":"m/s2"},{"name":"n","type":"i32"}],
        "rate_hz":100}"#;
    Declaration::from_json(json).unwrap()
}

/// A device that makes frames and remembers what was acknowledged.
#[derive(Clone, Debug)]
pub struct Sender {
    pub device: DeviceId,
    pub epoch: EpochId,
    /// Every data frame made, by sequence.
    pub frames: Vec<Bytes>,
    /// For data and live lane: the highest ack.
    pub acked: [u64; 2],
    declared: bool,
}

impl Sender {
    pub fn new(name: &str, epoch: u8) -> Self {
        Self {
            device: DeviceId::new(name).unwrap(),
            epoch: EpochId([epoch; 16]),
            frames: Vec::new(),
            acked: [0; 2],
            declared: false,
        }
    }

    /// The same device as it was when it had captured so many frames and was told so many acks: after a crash of the hub
    /// it has nothing else to go by.
    pub fn at(&self, frames: usize, acked: [u64; 2]) -> Self {
        Self {
            frames: self.frames[..frames].to_vec(),
            acked,
            declared: false,
            ..self.clone()
        }
    }

    fn seed(&self) -> Seed {
        Seed::new(&self.device, &session(), &self.epoch)
    }

    pub fn open(&self) -> Open {
        Open {
            session: session(),
            epoch: self.epoch,
            boot: BootId([9; 16]),
            highest_ack: Acked {
                data: self.acked[0],
                live: self.acked[1],
            },
        }
    }

    pub fn declare(&self) -> Bytes {
        let json = declaration().to_json();
        control_frame(Kind::DECLARE, Lane::Live, 1, 0, 0, 0, &json, self.seed())
            .unwrap()
            .into()
    }

    /// The end of the stream, as the second live frame.
    pub fn end(&self) -> Bytes {
        let mut chain = marey_format::DigestChain::default();
        for (sequence, frame) in self.frames.iter().enumerate() {
            chain.push(
                u32::from_le_bytes(frame[4..8].try_into().unwrap()),
                sequence as u64,
            );
        }
        let end = marey_format::payload::EndOfStream {
            stream: 1,
            captured: 10 * self.frames.len() as u64,
            next_index: 10 * self.frames.len() as u64,
            frames: self.frames.len() as u64,
            digest: chain.to_hex(),
        };
        let json = serde_json::to_vec(&end).unwrap();
        control_frame(Kind::END, Lane::Live, 1, 1, 0, 0, &json, self.seed())
            .unwrap()
            .into()
    }

    /// Captures the next ten samples.
    pub fn capture(&mut self) -> Bytes {
        let sequence = self.frames.len() as u64;
        let mut builder = DataBuilder::new(&declaration());
        for i in 10 * sequence..10 * sequence + 10 {
            let values = [Value::F32((i as f32).sin()), Value::I64(i as i64)];
            builder
                .push(1_000_000_000 + 10_000_000 * i as i64, &values)
                .unwrap();
        }
        let frame: Bytes = builder
            .finish(1, sequence, 10 * sequence, self.seed())
            .unwrap()
            .into();
        self.frames.push(frame.clone());
        frame
    }

    /// Sends what is not acknowledged yet, up to `limit` frames, in one commit.
    pub fn send(&mut self, store: &Store, handle: LogHandle, limit: usize) -> Result<(), StorageError> {
        let mut batch = Batch::new();
        let stamp = Stamp {
            hub: store.clock().now(),
            dev_send_ns: None,
        };
        if !self.declared || self.acked[1] == 0 {
            batch.push(handle, self.declare(), stamp).unwrap();
        }
        for frame in self.frames.iter().skip(self.acked[0] as usize).take(limit) {
            batch.push(handle, frame.clone(), stamp).unwrap();
        }
        self.commit(store, &batch)
    }

    /// Sends the end of the stream.
    pub fn send_end(&mut self, store: &Store, handle: LogHandle) -> Result<(), StorageError> {
        let mut batch = Batch::new();
        batch
            .push(
                handle,
                self.end(),
                Stamp {
                    hub: store.clock().now(),
                    dev_send_ns: None,
                },
            )
            .unwrap();
        self.commit(store, &batch)
    }

    fn commit(&mut self, store: &Store, batch: &Batch) -> Result<(), StorageError> {
        let committed = store.commit(batch)?;
        for outcome in &committed.outcomes {
            if let Outcome::Refused(refusal) = outcome {
                let what = format!("LOST: a frame of {} was refused: {refusal}", self.device);
                return Err(StorageError::damaged("", what));
            }
        }
        self.declared = true;
        for (_, durable) in committed.durable {
            self.acked = [self.acked[0].max(durable[0]), self.acked[1].max(durable[1])];
        }
        Ok(())
    }

    /// Opens the log, as after a reconnect: what the welcome counts is discarded, so it counts as acknowledged.
    pub fn join(&mut self, store: &Store) -> Result<LogHandle, Box<dyn std::error::Error>> {
        let opened = store.open_log(&self.device, &self.open())?;
        if opened.proven_loss != [0, 0] {
            return Err(format!(
                "LOST: {} had acks for {:?} more frames",
                self.device, opened.proven_loss
            )
            .into());
        }
        self.acked = [
            self.acked[0].max(opened.next.data),
            self.acked[1].max(opened.next.live),
        ];
        Ok(opened.handle)
    }
}

/// What a log holds of a sender's frames, read back: each acknowledged frame once and whole, none invented.
pub fn judge(disk: &dyn Disk, sender: &Sender) -> Result<u64, String> {
    judge_device(disk, &[sender])
}

/// The same for a device that started over: one sender for each of its epochs.
pub fn judge_device(disk: &dyn Disk, senders: &[&Sender]) -> Result<u64, String> {
    let held = held(disk, senders)?;
    for (sender, held) in senders.iter().zip(&held) {
        let missing = missing(sender, held);
        if !missing.is_empty() {
            return Err(format!(
                "{}: LOST acknowledged frames {missing:?} of {}",
                sender.device, sender.acked[0]
            ));
        }
    }
    Ok(held.iter().map(|held| held.len() as u64).sum())
}

/// The acknowledged frames that the log does not have, for each sender.
pub fn lost(disk: &dyn Disk, senders: &[&Sender]) -> Result<Vec<Vec<u64>>, String> {
    let held = held(disk, senders)?;
    Ok(senders
        .iter()
        .zip(&held)
        .map(|(sender, held)| missing(sender, held))
        .collect())
}

fn missing(sender: &Sender, held: &BTreeSet<u64>) -> Vec<u64> {
    (0..sender.acked[0])
        .filter(|sequence| !held.contains(sequence))
        .collect()
}

/// The frames that a log holds, for each sender of its device; each whole, once, in order, and none invented.
fn held(disk: &dyn Disk, senders: &[&Sender]) -> Result<Vec<BTreeSet<u64>>, String> {
    let Some(first) = senders.first() else {
        return Ok(Vec::new());
    };
    let device = &first.device;
    let mut held: Vec<BTreeSet<u64>> = vec![BTreeSet::new(); senders.len()];
    let mut replay = Replay::open(disk, &session(), device).map_err(|error| error.to_string())?;
    let mut epochs: Vec<EpochId> = Vec::new();
    loop {
        epochs.extend(
            replay.state().epochs()[epochs.len()..]
                .iter()
                .map(|epoch| epoch.id),
        );
        let Some(replayed) = replay.next().map_err(|error| error.to_string())? else {
            break;
        };
        let Ok(judged) = &replayed.judged else { continue };
        let Meaning::Data(quarantine) = &judged.meaning else {
            continue;
        };
        let sequence = judged.entry.sequence;
        if quarantine.is_some() {
            return Err(format!("{device}: frame {sequence} is quarantined"));
        }
        let epoch = epochs.get(judged.entry.epoch as usize);
        let Some(of) = senders.iter().position(|sender| Some(&sender.epoch) == epoch) else {
            return Err(format!(
                "{device}: frame {sequence} of an epoch that nobody began"
            ));
        };
        let bytes = replayed.at.frame.bytes();
        if senders[of]
            .frames
            .get(sequence as usize)
            .is_none_or(|frame| frame != bytes)
        {
            return Err(format!("{device}: frame {sequence} is not what was sent"));
        }
        if held[of].last().is_some_and(|last| *last > sequence) {
            return Err(format!("{device}: frame {sequence} is out of order"));
        }
        if !held[of].insert(sequence) {
            return Err(format!("{device}: frame {sequence} is there twice"));
        }
    }
    Ok(held)
}

/// Opens a store with the small options.
pub fn open(disk: Arc<dyn Disk>, clock: &Arc<dyn HubClock>) -> Result<Store, Box<dyn std::error::Error>> {
    Ok(Store::open(disk, clock.clone(), small_options())?.0)
}

/// Makes a hub with the session recording, if they are not there yet.
pub fn prepare(disk: &Arc<dyn Disk>, clock: &Arc<dyn HubClock>) -> Result<Store, Box<dyn std::error::Error>> {
    if disk.stat("hub.json".as_ref())?.is_none() {
        for name in disk.list("".as_ref())? {
            // What an init that was cut off left behind; a person would take an empty folder.
            match name.stat.is_dir {
                true => disk.remove_dir_all(name.name.as_ref())?,
                false => disk.remove_file(name.name.as_ref())?,
            }
        }
        Store::init(disk, [1; 16], &small_options())?;
    }
    let store = open(disk.clone(), clock)?;
    if store.session(&session()).is_err() {
        store.create_session(NewSession::open_to_all(session()))?;
    }
    if store.session(&session())?.state == marey_engine::SessionState::Created {
        store.start_session(&session())?;
    }
    Ok(store)
}
