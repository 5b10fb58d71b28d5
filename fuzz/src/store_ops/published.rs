//! What a hub says and holds, read back and held against the model: logs, receipt, rows.

use super::super::fixture::session;
use super::content;
use super::model::{Model, Place};
use super::world::World;
use arrow::array::{Array, AsArray};
use arrow::datatypes::{Int32Type, Int64Type};
use marey_engine::disk::Disk;
use marey_engine::disk::memory::MemoryDisk;
use marey_engine::log::{FaultKind, Replay};
use marey_engine::read::{self, Reader};
use marey_engine::salvage::{self, Source, VerifyOptions};
use marey_engine::{Sealed, SessionState};
use marey_format::EpochId;
use marey_format::frame::Lane;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// The logs: all that was acknowledged, once, whole, in order; what is there besides was under way.
pub fn read_back(world: &mut World) {
    let state = world
        .store()
        .session(&session())
        .expect("it was made durable")
        .state;
    let may_be = [Some(world.state), world.maybe_state.take()];
    assert!(
        may_be.contains(&Some(state)),
        "the session is {state}, not one of {may_be:?}"
    );
    (world.state, world.model.closed) = (state, state == SessionState::Closed);
    let known = world.model.versions.clone();
    let mut versions: BTreeMap<u32, u8> = BTreeMap::new();
    for device in 0..2 {
        read_log(world, device, &mut versions);
    }
    // What was acknowledged keeps its number for ever; what was not may have found another order.
    for (version, declared) in (1..).zip(&known) {
        assert_eq!(
            versions.get(&version),
            Some(declared),
            "version {version} of the stream"
        );
    }
    assert!(
        versions.keys().copied().eq(1..=versions.len() as u32),
        "{versions:?}"
    );
    world.model.versions = versions.into_values().collect();
    world.maybe.clear();
    let epochs = world.model.epochs.values_mut();
    // Who was refused is forgotten with the process.
    epochs
        .flat_map(|epoch| &mut epoch.lanes)
        .for_each(|lane| lane.held = None);
}

fn read_log(world: &mut World, device: u8, versions: &mut BTreeMap<u32, u8>) {
    let disk = world.faulty.clone();
    let name = content::device(device);
    let mut replay = Replay::open(&disk, &session(), &name).expect("the disk does not fail");
    let mut found: BTreeMap<(Place, u8), u64> = BTreeMap::new();
    let mut count: BTreeMap<(Place, u8), usize> = BTreeMap::new();
    while let Some(replayed) = replay.next().expect("the disk does not fail") {
        let Ok(judged) = &replayed.judged else { continue };
        let entry = judged.entry;
        if entry.lane == Lane::Hub {
            continue;
        }
        let bytes = replayed.at.frame.bytes().to_vec();
        let place = place_of(&replay.state().epochs()[entry.epoch as usize].id);
        let (lane, sequence) = (entry.lane as u8, entry.sequence);
        let last = found.insert((place, lane), sequence);
        assert!(
            last.is_none_or(|last| last < sequence),
            "{place:?} frame {sequence} of lane {lane} after {last:?}"
        );
        *count.entry((place, lane)).or_default() += 1;
        let taken = world
            .model
            .epochs
            .get(&place)
            .and_then(|epoch| epoch.lanes[usize::from(lane)].taken.get(&sequence));
        match taken {
            Some(taken) => assert_eq!(
                bytes, *taken,
                "{place:?} frame {sequence} of lane {lane} is another one"
            ),
            None => {
                let under_way = world
                    .maybe
                    .iter()
                    .find(|(at, of, made)| (*at, *of) == (place, lane) && made.bytes == bytes)
                    .unwrap_or_else(|| panic!("INVENTED: {place:?} frame {sequence} of lane {lane}"))
                    .2
                    .clone();
                world.model.take(place, lane, &under_way);
            }
        }
    }
    for (place, epoch) in world.model.epochs.iter().filter(|(place, _)| place.0 == device) {
        for (lane, of) in (0u8..).zip(&epoch.lanes) {
            let held = count.get(&(*place, lane)).copied().unwrap_or(0);
            assert_eq!(
                held,
                of.taken.len(),
                "LOST acknowledged frames of {place:?}, lane {lane}"
            );
        }
    }
    let (state, faults) = replay.into_state();
    for fault in &faults {
        assert_ne!(fault.kind, FaultKind::Damage, "a cut is no damage: {fault:?}");
    }
    for epoch in state.epochs() {
        let declared = world
            .model
            .epochs
            .get(&place_of(&epoch.id))
            .and_then(|epoch| epoch.declared);
        let version = epoch
            .streams
            .get(&1)
            .and_then(|stream| stream.key.as_ref())
            .map(|key| key.version);
        assert_eq!(
            declared.is_some(),
            version.is_some(),
            "the stream of {:?}",
            epoch.id
        );
        if let (Some(declared), Some(version)) = (declared, version) {
            assert_eq!(
                *versions.entry(version).or_insert(declared),
                declared,
                "one number, two declarations"
            );
        }
    }
}

/// The receipt: as many samples as the model has, and as many rows.
pub fn agrees(model: &Model, sealed: &Sealed) {
    let receipt = &sealed.compacted.receipt;
    let declared = || model.epochs.values().filter(|epoch| epoch.declared.is_some());
    let durable: u64 = receipt.streams.iter().map(|stream| stream.durable).sum();
    assert_eq!(
        durable,
        declared().map(|epoch| epoch.samples).sum::<u64>(),
        "samples in the receipt"
    );
    let parquet: u64 = receipt.streams.iter().map(|stream| stream.parquet).sum();
    assert_eq!(
        parquet,
        declared().map(|epoch| epoch.rows.len() as u64).sum::<u64>(),
        "rows in the receipt"
    );
    assert!(receipt.damage.is_empty(), "{:?}", receipt.damage);
}

/// Parquet: every row that the model has, once, with its time and value, and no other.
pub fn rows_agree(world: &World) {
    let disk: &dyn Disk = world.faulty.disk();
    let session = world.store().session(&session()).expect("it is there");
    let options = World::options();
    let mut expected = world.model.rows();
    expected.retain(|_, rows| !rows.is_empty());
    let ordinals: Vec<BTreeMap<i32, u8>> = (0..2).map(|device| ordinals(disk, device)).collect();
    let mut found: BTreeMap<(u32, u8), BTreeSet<_>> = BTreeMap::new();
    for (stream, name) in read::streams(disk, &session, &options).expect("the disk does not fail") {
        let device = u8::from(name != content::device(0));
        let rows = found.entry((stream.version, device)).or_default();
        let reader = Reader::open(disk, &session, &stream, &name, &options)
            .unwrap_or_else(|error| panic!("{stream} of {name}: {error}"));
        for batch in reader {
            let batch = batch.expect("the disk does not fail");
            let of = |name: &str| {
                batch
                    .column_by_name(name)
                    .unwrap_or_else(|| panic!("no column {name}"))
                    .clone()
            };
            let (epoch, index, time, value) = (of("epoch"), of("seq"), of("device_time_ns"), of("f1"));
            for row in 0..batch.num_rows() {
                assert!(!value.is_null(row));
                let epoch = ordinals[usize::from(device)][&epoch.as_primitive::<Int32Type>().value(row)];
                let index = index.as_primitive::<Int64Type>().value(row) as u64;
                let sample = (
                    time.as_primitive::<Int64Type>().value(row),
                    value.as_primitive::<Int32Type>().value(row),
                );
                assert!(
                    rows.insert((epoch, index, sample)),
                    "DOUBLED: sample {index} of epoch {epoch} of {name}"
                );
            }
        }
    }
    found.retain(|_, rows| !rows.is_empty());
    assert_eq!(found, expected, "rows");
}

/// Which epoch is which in a device's log.
fn ordinals(disk: &dyn Disk, device: u8) -> BTreeMap<i32, u8> {
    let mut replay =
        Replay::open(disk, &session(), &content::device(device)).expect("the disk does not fail");
    while replay.next().expect("the disk does not fail").is_some() {}
    let epochs = replay.state().epochs();
    epochs
        .iter()
        .map(|epoch| (epoch.ordinal as i32, place_of(&epoch.id).1))
        .collect()
}

/// A hub that went down in good order holds nothing that is damaged.
pub fn has_no_fault(disk: &MemoryDisk) {
    let source = Source::on(Arc::new(disk.clone()), Path::new("")).expect("it is a hub's folder");
    let options = VerifyOptions {
        options: World::options(),
        ..VerifyOptions::default()
    };
    let report = salvage::verify(&source, &options, &|_| {}).expect("it can be read");
    let mut faults = report.faults;
    // What a cut tore and recovery left behind is still told of.
    faults.retain(|fault| fault.kind != salvage::FaultKind::TornTail);
    assert!(faults.is_empty(), "{faults:?}");
}

fn place_of(id: &EpochId) -> Place {
    (id.0[0] - 1, id.0[1])
}
