//! Salvage of logs that are broken in every way: what is whole comes through, all else is named, nothing is made up.

mod book;
mod crowd;
mod cuts;
mod every_byte;
mod forged;
mod held;
mod hubs;
mod landmarks;
mod lies;
mod looks;
mod random;
mod refills;
mod reports;
mod segments;
mod starts;

use super::inventory::{Inventory, Key};
use super::{RecoverReport, Source, VerifyOptions, VerifyReport, recover, verify};
use crate::disk::memory::MemoryDisk;
use crate::disk::{self, Disk};
use crate::session::{NewSession, Session};
use crate::time::simulated::SimulatedKernel;
use crate::{Batch, LogHandle, Options, Outcome, Stamp, Store};
use marey_format::frame::{DataBuilder, Kind, Lane, Value, control_frame};
use marey_format::log::{Footer, TRAILER_BYTES, Trailer};
use marey_format::payload::EndOfStream;
use marey_format::wire::{Acked, Open};
use marey_format::{BootId, Declaration, DeviceId, EpochId, Seed, SessionId};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Small blocks and segments, so that a short recording has several.
fn options() -> Options {
    Options {
        journal_block_bytes: 8 << 10,
        journal_blocks: 2,
        segment_bytes_first: 1 << 10,
        segment_bytes_max: 1 << 11,
        disk_floor_bytes: Some(0),
        compaction_threads: 1,
        syncs_at_once: 1,
        ..Options::default()
    }
}

fn session() -> SessionId {
    SessionId::new("walk").unwrap()
}

fn device() -> DeviceId {
    DeviceId::new("phone").unwrap()
}

fn log_dir() -> PathBuf {
    Session::log_dir(&session(), &device())
}

fn segment(number: u32) -> PathBuf {
    log_dir().join(crate::log::segment_name(number))
}

/// How a recording ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// In good order: every segment sealed, Parquet published.
    Sealed,
    /// In good order, and nothing published.
    Closed,
    /// The process died: the newest frames are in the journal alone.
    Killed,
}

/// One device, two epochs, a stream, ends stated; `rounds` frames in each epoch.
fn record(end: End, rounds: u64) -> MemoryDisk {
    let disk = MemoryDisk::new();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let kernel = SimulatedKernel::new(1, 1_700_000_000_000_000_000);
    Store::init(&shared, [7; 16], &options()).unwrap();
    let (store, _) = Store::open(shared, kernel.hub_clock(), options()).unwrap();
    store.create_session(NewSession::open_to_all(session())).unwrap();
    store.start_session(&session()).unwrap();
    for epoch in 1..=2 {
        let mut sender = Sender {
            store: &store,
            epoch: EpochId([epoch; 16]),
            live: 0,
            data: 0,
            chain: Default::default(),
        };
        let handle = sender.open();
        sender.declare(handle);
        for round in 0..rounds {
            kernel.advance(20_000_000);
            sender.samples(handle);
            if round % 4 == 3 && (epoch, end) != (2, End::Killed) {
                store.flush().unwrap();
            }
        }
        sender.end(handle);
    }
    come_to(end, store);
    disk
}

fn come_to(end: End, store: Store) {
    match end {
        End::Sealed => {
            store.stop_session(&session()).unwrap();
            store.seal_session(&session(), &|_| {}).unwrap();
            store.close().unwrap();
        }
        End::Closed => store.close().unwrap(),
        End::Killed => {}
    }
}

/// A hub on a disk of its own that records the session, and has heard of nobody yet.
fn recording(options: Options) -> Store {
    recording_on(&MemoryDisk::new(), options)
}

fn recording_on(disk: &(impl Disk + Clone + 'static), options: Options) -> Store {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let kernel = SimulatedKernel::new(1, 1_700_000_000_000_000_000);
    Store::init(&shared, [7; 16], &options).unwrap();
    let (store, _) = Store::open(shared, kernel.hub_clock(), options).unwrap();
    store.create_session(NewSession::open_to_all(session())).unwrap();
    store.start_session(&session()).unwrap();
    store
}

/// The hub, opened again later; none where the disk does not let it.
fn reopened(disk: Arc<dyn Disk>) -> Option<(Store, crate::RecoveryReport)> {
    let kernel = SimulatedKernel::new(1, 1_700_000_100_000_000_000);
    Store::open(disk, kernel.hub_clock(), options()).ok()
}

/// The device's first epoch, of which nothing is sent yet.
fn sender(store: &Store) -> Sender<'_> {
    Sender {
        store,
        epoch: EpochId([1; 16]),
        live: 0,
        data: 0,
        chain: Default::default(),
    }
}

struct Sender<'a> {
    store: &'a Store,
    epoch: EpochId,
    live: u64,
    data: u64,
    chain: marey_format::DigestChain,
}

/// Samples of one frame.
const SAMPLES: u64 = 2;

impl Sender<'_> {
    fn seed(&self) -> Seed {
        Seed::new(&device(), &session(), &self.epoch)
    }

    fn open(&self) -> LogHandle {
        let open = Open {
            session: session(),
            epoch: self.epoch,
            boot: BootId([9; 16]),
            highest_ack: Acked { data: 0, live: 0 },
        };
        self.store.open_log(&device(), &open).unwrap().handle
    }

    fn commit(&self, handle: LogHandle, frame: Vec<u8>) {
        let mut batch = Batch::new();
        let stamp = Stamp {
            hub: self.store.clock().now(),
            dev_send_ns: Some(5_000_000_000 + self.data as i64),
        };
        batch.push(handle, frame.into(), stamp).unwrap();
        assert_eq!(self.store.commit(&batch).unwrap().outcomes, [Outcome::Durable]);
    }

    fn declare(&mut self, handle: LogHandle) {
        let json = declaration().to_json();
        self.commit(
            handle,
            control_frame(Kind::DECLARE, Lane::Live, 1, self.live, 0, 0, &json, self.seed()).unwrap(),
        );
        self.live += 1;
    }

    fn samples(&mut self, handle: LogHandle) {
        let mut builder = DataBuilder::new(&declaration());
        let first = SAMPLES * self.data;
        for i in first..first + SAMPLES {
            let values = [Value::F32((i as f32).sin()), Value::I64(i as i64)];
            builder
                .push(1_000_000_000 + 10_000_000 * i as i64, &values)
                .unwrap();
        }
        let frame = builder.finish(1, self.data, first, self.seed()).unwrap();
        self.chain
            .push(u32::from_le_bytes(frame[4..8].try_into().unwrap()), self.data);
        self.commit(handle, frame);
        self.data += 1;
    }

    fn end(&mut self, handle: LogHandle) {
        let captured = SAMPLES * self.data;
        let digest = self.chain.to_hex();
        let end = EndOfStream {
            stream: 1,
            captured,
            next_index: captured,
            frames: self.data,
            digest,
        };
        let json = serde_json::to_vec(&end).unwrap();
        self.commit(
            handle,
            control_frame(Kind::END, Lane::Live, 1, self.live, 0, 0, &json, self.seed()).unwrap(),
        );
        self.live += 1;
    }
}

fn declaration() -> Declaration {
    let json =
        br#"{"name":"imu","fields":[{"name":"ax","type":"f32","unit":"m/s2"},{"name":"n","type":"i32"}],
        "rate_hz":100}"#;
    Declaration::from_json(json).unwrap()
}

/// A frame as it was, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    crc: u32,
    segment: u32,
    offset: u64,
    length: u32,
}

/// The device's frames of the one log, by their names.
fn frames_of(disk: &MemoryDisk) -> BTreeMap<(u32, u8, u64), Known> {
    let source = source(disk);
    let hub = source.hub_id().unwrap();
    let mut replayed = super::journal::read(&source, hub).unwrap().unwrap();
    let journal = replayed.logs.remove(&(session(), device())).unwrap_or_default();
    let inventory = Inventory::take(&source.view, &session(), &device(), journal).unwrap();
    let of_device = inventory.items.iter().filter(|item| item.epoch.is_some());
    of_device
        .map(|item| {
            let (epoch, lane, sequence): Key = item.key();
            let known = Known {
                crc: item.crc,
                segment: item.at.0,
                offset: item.at.1,
                length: item.length,
            };
            ((epoch, lane as u8, sequence), known)
        })
        .collect()
}

fn source(disk: &MemoryDisk) -> Source {
    Source::on(Arc::new(disk.clone()), Path::new("")).unwrap()
}

fn verified(disk: &MemoryDisk) -> VerifyReport {
    let options = VerifyOptions {
        options: options(),
        ..VerifyOptions::default()
    };
    verify(&source(disk), &options, &|_| {}).unwrap()
}

fn recovered(disk: &MemoryDisk) -> (MemoryDisk, RecoverReport) {
    let out = MemoryDisk::new();
    let report = recover(&source(disk), Arc::new(out.clone()), &options(), &|_, _| {}).unwrap();
    (out, report)
}

/// Every file with its bytes.
fn content(disk: &MemoryDisk) -> BTreeMap<PathBuf, Vec<u8>> {
    fn walk(disk: &MemoryDisk, dir: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in disk.list(dir).unwrap() {
            let path = dir.join(entry.name);
            match entry.stat.is_dir {
                true => walk(disk, &path, found),
                false => {
                    found.insert(path.clone(), disk::read_all(disk, &path, u64::MAX).unwrap());
                }
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(disk, Path::new(""), &mut found);
    found
}

/// The segments of the log, in order.
fn log_files(disk: &MemoryDisk) -> Vec<(PathBuf, Vec<u8>)> {
    content(disk)
        .into_iter()
        .filter(|(path, _)| path.starts_with(log_dir()) && path.extension().is_some_and(|it| it == "mlog"))
        .collect()
}

/// Puts another index at the end of a sealed segment, with checksums that fit.
fn relist(disk: &MemoryDisk, number: u32, change: impl FnOnce(&mut Footer)) {
    let harm = |bytes: &mut Vec<u8>| {
        let at = bytes.len() - TRAILER_BYTES;
        let trailer = Trailer::parse(&bytes[at..], bytes.len() as u64).unwrap();
        let index = trailer.data_bytes as usize..trailer.data_bytes as usize + trailer.index_bytes() as usize;
        let mut footer = Footer::parse(&trailer, &bytes[index]).unwrap();
        bytes.truncate(footer.data_bytes as usize);
        change(&mut footer);
        bytes.extend(footer.to_bytes());
    };
    disk.damage(&segment(number), harm).unwrap();
}

/// Salvages a damaged disk and judges: each frame that was there came through as it was, or is listed as lost; nothing
/// else came; the source is as it was. Returns how many are lost.
fn judge(damaged: &MemoryDisk, truth: &BTreeMap<(u32, u8, u64), Known>, what: &str) -> usize {
    let before = content(damaged);
    let (out, report) = recovered(damaged);
    assert_eq!(content(damaged), before, "{what}: the source was changed");
    let came = match source(&out).devices(&session()).unwrap().is_empty() {
        true => BTreeMap::new(),
        false => frames_of(&out),
    };
    for (name, frame) in &came {
        let known = truth
            .get(name)
            .unwrap_or_else(|| panic!("{what}: {name:?} was made up"));
        assert_eq!(frame.crc, known.crc, "{what}: {name:?} is another frame");
    }
    let mut lost = 0;
    for (name, known) in truth.iter().filter(|(name, _)| !came.contains_key(name)) {
        lost += 1;
        let lane = ["data", "live"][usize::from(name.1)];
        let listed = report.lost.frames.iter().any(|lost| {
            let reaches = lost.last.is_none_or(|last| name.2 <= last);
            (lost.epoch, lost.lane) == (Some(name.0), lane) && lost.first <= name.2 && reaches
        });
        let (from, to) = (known.offset, known.offset + u64::from(known.length));
        let in_bytes = report.lost.bytes.iter().any(|lost| {
            let file = lost.file == segment(known.segment);
            file && (lost.bytes == 0 || (lost.offset < to && lost.offset + lost.bytes > from))
        });
        assert!(
            listed || in_bytes,
            "{what}: {name:?} at {known:?} is gone and not listed: {:#?}",
            report.lost
        );
    }
    assert!(lost == 0 || !report.lost.is_nothing(), "{what}");
    lost
}

/// [`judge`], and `verify` must find a fault where the logs are not what they were.
fn judge_found(
    whole: &MemoryDisk,
    damaged: &MemoryDisk,
    truth: &BTreeMap<(u32, u8, u64), Known>,
    what: &str,
) -> usize {
    let lost = judge(damaged, truth, what);
    let found = !verified(damaged).faults.is_empty();
    assert!(
        found || log_files(whole) == log_files(damaged),
        "{what}: verify found nothing"
    );
    lost
}
