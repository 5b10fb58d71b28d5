//! The power goes, operations fail and disks lie at the operations of scripted recordings: the short forms of
//! `prove power-cuts` and `prove io-errors`. With a planted bug they fail.

use marey_engine::disk::memory::{Dice, MemoryDisk};
use marey_engine::disk::{Disk, OpenMode, read_all};
use marey_engine::log::{Fault, FaultKind, LogReader};
use marey_engine::time::HubClock;
use marey_engine::time::simulated::SimulatedKernel;
use marey_engine::{Options, Session, Store};
use marey_tests::prove::{Planted, Run, Tally, io_errors, power_cuts};
use marey_tests::recording::{Sender, prepare, session, small_options};
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[track_caller]
fn well(tally: &Tally, at_least: u64) {
    println!("{tally}");
    assert!(tally.is_well(), "{tally}");
    assert!(tally.done >= at_least, "{tally}");
}

#[track_caller]
fn found(tally: &Tally) {
    let failure = tally.failures.first().expect("the planted bug is found");
    println!("found, as it must be: {failure}");
    assert!(failure.contains("LOST"), "{failure}");
}

#[test]
fn no_acknowledged_sample_is_lost_at_any_operation() {
    let tally = power_cuts::run(&Run::short(20_000));
    well(&tally, 20_000);
    for kind in [
        "power cuts",
        "deaths of the process",
        "crashes while recovering",
        "writes lost",
        "writes kept",
        "writes torn",
        "writes as zeros",
        "names lost",
        "names kept",
        "recorded on to the end",
    ] {
        assert!(tally.faults[kind] > 100, "hardly any {kind}: {tally}");
    }
}

#[test]
fn nor_by_errors_and_lies_of_the_disk() {
    let tally = io_errors::run(&Run::short(1_500));
    well(&tally, 1_400);
    for kind in [
        "failed writes",
        "failed syncs",
        "failed names",
        "failed reads",
        "misdirected writes",
        "flipped bits",
    ] {
        assert!(tally.faults[kind] > 10, "hardly any {kind}: {tally}");
    }
}

/// Found by 1,006,754 states: where the tail was torn between the declaration of a stream and the hub's answer to it, the
/// device was welcomed with its declaration taken, and all that it sent then was kept out of Parquet.
#[test]
fn a_recording_goes_on_wherever_its_log_is_torn() {
    let kernel = SimulatedKernel::new(1, 1_700_000_000_000_000_000);
    let clock: Arc<dyn HubClock> = kernel.hub_clock();
    let memory = MemoryDisk::new();
    let as_disk: Arc<dyn Disk> = Arc::new(memory.clone());
    let store = prepare(&as_disk, &clock).unwrap();
    let mut sender = Sender::new("phone", 1);
    let handle = sender.join(&store).unwrap();
    (0..5).for_each(|_| drop(sender.capture()));
    sender.send(&store, handle, 5).unwrap();
    store.flush().unwrap();
    drop(store);
    let log = Session::log_dir(&session(), &sender.device).join("000001.mlog");
    let whole = memory.stat(&log).unwrap().expect("it was written").bytes;
    for end in (0..=whole).step_by(8) {
        let torn = memory.snapshot();
        torn.open(&log, OpenMode::ReadWrite)
            .unwrap()
            .set_len(end)
            .unwrap();
        // Nothing was acknowledged, so nothing of it need be in the journal.
        torn.remove_dir_all(Path::new("journal")).unwrap();
        let as_disk: Arc<dyn Disk> = Arc::new(torn);
        let store = prepare(&as_disk, &clock).unwrap();
        let mut again = sender.at(5, [0; 2]);
        let handle = again.join(&store).unwrap();
        while again.acked[0] < 5 {
            again.send(&store, handle, 2).unwrap();
        }
        store.stop_session(&session()).unwrap();
        let sealed = store.seal_session(&session(), &|_| {}).unwrap();
        assert_eq!(
            sealed.compacted.rows(),
            50,
            "torn at {end}: {:?}",
            sealed.compacted.receipt
        );
    }
}

/// Found by one of 3,233 misdirected writes: the beginning of a segment was synced 4 KiB further on, the journal let go of its
/// frames, and at the next opening it looked like a write that a power cut tore before anybody was told of it.
#[test]
fn a_segment_whose_beginning_went_elsewhere_is_damage() {
    let kernel = SimulatedKernel::new(1, 1_700_000_000_000_000_000);
    let clock: Arc<dyn HubClock> = kernel.hub_clock();
    let memory = MemoryDisk::new();
    let as_disk: Arc<dyn Disk> = Arc::new(memory.clone());
    let (mut phone, mut watch) = (Sender::new("phone", 1), Sender::new("watch", 2));
    let send = |sender: &mut Sender, store: &Store, frames: usize| {
        let handle = sender.join(store).unwrap();
        (0..frames).for_each(|_| drop(sender.capture()));
        while (sender.acked[0] as usize) < sender.frames.len() {
            sender.send(store, handle, 2).unwrap();
        }
    };
    let store = prepare(&as_disk, &clock).unwrap();
    send(&mut phone, &store, 5);
    store.close().unwrap();
    drop(store);
    let store = prepare(&as_disk, &clock).unwrap();
    send(&mut phone, &store, 5);
    store.flush().unwrap();
    // A record after it says that the journal has let go of what was flushed.
    send(&mut watch, &store, 1);
    drop(store);

    let log = Session::log_dir(&session(), &phone.device).join("000002.mlog");
    let misdirect = |bytes: &mut Vec<u8>| bytes.splice(..0, vec![0; 4096]).for_each(drop);
    memory.damage(&log, misdirect).unwrap();
    let (store, report) = Store::open(as_disk.clone(), clock.clone(), small_options()).unwrap();
    let named = |fault: &Fault| fault.segment == 2 && fault.offset == 0 && fault.kind == FaultKind::Damage;
    assert!(report.faults.iter().any(named), "{report:?}");
    // It stays named, and the device goes on.
    let mut again = phone.at(10, [0; 2]);
    let handle = again.join(&store).unwrap();
    while again.acked[0] < 10 {
        again.send(&store, handle, 2).unwrap();
    }
    store.close().unwrap();
    drop(store);
    let (store, report) = Store::open(as_disk.clone(), clock, small_options()).unwrap();
    assert!(report.faults.iter().any(named), "{report:?}");
    drop(store);
    let mut reader = LogReader::open(&*as_disk, &session(), &phone.device).unwrap();
    while reader.next().unwrap().is_some() {}
    assert!(reader.faults().iter().any(named), "{:?}", reader.faults());
}

#[test]
fn acks_before_the_sync_are_found() {
    found(&power_cuts::run(&Run::short(1).planted(Planted::AckBeforeSync)));
}

#[test]
fn names_that_were_not_synced_are_found() {
    found(&power_cuts::run(&Run::short(1).planted(Planted::NoDirectorySync)));
}

#[test]
fn deleting_before_publishing_is_found() {
    found(&power_cuts::run(
        &Run::short(1).planted(Planted::DeleteBeforePublish),
    ));
}

/// A hub of many devices (two threads' worth) waits for the syncs of several logs at a time when it is opened: what it makes of each is the same.
#[test]
fn a_crowd_that_was_cut_off_opens_the_same_in_turn_and_at_once() {
    let disk = MemoryDisk::new();
    let as_disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let clock: Arc<dyn HubClock> = SimulatedKernel::new(1, 0).hub_clock();
    let store = prepare(&as_disk, &clock).expect("a store");
    let mut senders: Vec<Sender> = (1..=70)
        .map(|n| Sender::new(&format!("watch-{n:02}"), n))
        .collect();
    for sender in &mut senders {
        let handle = sender.join(&store).expect("it is welcome");
        (0..4).for_each(|_| drop(sender.capture()));
        sender.send(&store, handle, 4).expect("the disk takes it");
    }
    // In the logs, unsealed, are the frames so far; in the journal alone those behind.
    store.flush().expect("the disk takes it");
    for sender in &mut senders {
        let handle = sender.join(&store).expect("it is welcome");
        drop(sender.capture());
        sender.send(&store, handle, 1).expect("the disk takes it");
    }
    drop(store);
    disk.power_cut(Some(&mut Dice(7)));
    for name in ["watch-11", "watch-23"] {
        let log = Session::log_dir(&session(), &name.parse().expect("a name")).join("000001.mlog");
        disk.damage(&log, |bytes| bytes[600] ^= 1).expect("it is there");
    }
    let opened = [1, 8].map(|syncs_at_once| {
        let disk = disk.snapshot();
        let options = Options {
            syncs_at_once,
            ..small_options()
        };
        let clock: Arc<dyn HubClock> = SimulatedKernel::new(2, 0).hub_clock();
        let (store, report) = Store::open(Arc::new(disk.clone()), clock, options).expect("a store");
        drop(store);
        let mut files = Vec::new();
        contents(&disk, Path::new("sessions"), &mut files);
        (format!("{report:#?}"), files)
    });
    let [(in_turn, files), (at_once, as_many)] = opened;
    assert_eq!(in_turn, at_once);
    assert!(
        in_turn.contains("watch-11") && in_turn.contains("watch-23"),
        "{in_turn}"
    );
    assert!(
        files.len() >= 140,
        "each log has a fresh segment beside the first: {}",
        files.len()
    );
    for (one, other) in files.iter().zip(&as_many) {
        assert_eq!(one.0, other.0);
        assert!(one.1 == other.1, "{}", one.0.display());
    }
    assert_eq!(files.len(), as_many.len());
}

/// Every file below a folder, with what it holds.
fn contents(disk: &MemoryDisk, dir: &Path, files: &mut Vec<(PathBuf, Vec<u8>)>) {
    for entry in disk.list(dir).expect("it can be listed") {
        let path = dir.join(&entry.name);
        match entry.stat.is_dir {
            true => contents(disk, &path, files),
            false => {
                let bytes = read_all(disk, &path, 1 << 20).expect("it can be read");
                files.push((path, bytes));
            }
        }
    }
}
