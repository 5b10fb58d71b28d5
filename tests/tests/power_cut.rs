//! The power goes at every operation of one recording of two devices, also after a kill, a reopening and a welcome:
//! nothing that was acknowledged is lost. With a planted bug the same test fails.

use marey_engine::disk::Disk;
use marey_engine::disk::faulty::{FaultyDisk, Plan};
use marey_engine::disk::memory::{Dice, MemoryDisk};
use marey_engine::time::HubClock;
use marey_engine::time::simulated::SimulatedKernel;
use marey_tests::recording::{Sender, judge, open, prepare, session};
use std::sync::Arc;

type Failure = Box<dyn std::error::Error>;

/// The recording: two devices, reconnects, flushes, rolled segments, a stop, a seal. Goes on where it was.
fn record(disk: &Arc<dyn Disk>, kernel: &SimulatedKernel, senders: &mut [Sender; 2]) -> Result<(), Failure> {
    let clock: Arc<dyn HubClock> = kernel.hub_clock();
    let store = prepare(disk, &clock)?;
    let mut handles = [senders[0].join(&store)?, senders[1].join(&store)?];
    for round in 0..12 {
        kernel.advance(50_000_000);
        for (sender, handle) in senders.iter_mut().zip(handles) {
            if sender.frames.len() < 36 {
                sender.capture();
                sender.capture();
                sender.capture();
            }
            sender.send(&store, handle, 4)?;
        }
        match round {
            3 => handles[0] = senders[0].join(&store)?,
            5 => store.flush()?,
            7 => store.maintain()?,
            _ => {}
        }
    }
    for (sender, handle) in senders.iter_mut().zip(handles) {
        while sender.acked[0] < sender.frames.len() as u64 {
            sender.send(&store, handle, 100)?;
        }
        sender.send_end(&store, handle)?;
    }
    store.stop_session(&session())?;
    store.seal_session(&session(), &|_| {})?;
    store.close()?;
    Ok(())
}

fn senders() -> [Sender; 2] {
    [Sender::new("phone", 1), Sender::new("watch", 2)]
}

/// How many operations an undisturbed run takes.
fn operations() -> u64 {
    let disk = FaultyDisk::new(MemoryDisk::new(), Plan::default());
    let mut senders = senders();
    let as_disk: Arc<dyn Disk> = Arc::new(disk.clone());
    record(&as_disk, &SimulatedKernel::new(1, 0), &mut senders).expect("nothing fails");
    senders.iter().for_each(|sender| {
        assert_eq!(judge(&*as_disk, sender), Ok(36));
    });
    disk.operations()
}

/// One crash at `cut`, under a plan; what the engine lost, if anything.
fn crash_at(cut: u64, plan: Plan, dice: Option<Dice>, kill_first: bool) -> Result<(), String> {
    let disk = MemoryDisk::new();
    let faulty = FaultyDisk::new(
        disk.clone(),
        Plan {
            cut_at: Some(cut),
            ..plan
        },
    );
    let kernel = SimulatedKernel::new(1, 0);
    let mut senders = senders();
    let as_disk: Arc<dyn Disk> = Arc::new(faulty.clone());
    let first = record(&as_disk, &kernel, &mut senders);
    reported(&first)?;
    if kill_first && disk.stat("hub.json".as_ref()).is_ok_and(|stat| stat.is_some()) {
        // The process died, the machine did not: what it wrote can be read, and is no more durable for that.
        faulty.set_plan(plan);
        let clock: Arc<dyn HubClock> = kernel.hub_clock();
        if let Ok(store) = open(as_disk.clone(), &clock) {
            for sender in &mut senders {
                match sender.join(&store) {
                    Err(error) if error.to_string().contains("LOST") => return Err(error.to_string()),
                    _ => {}
                }
            }
        }
    }
    let mut dice = dice;
    disk.power_cut(dice.as_mut());
    // Back on a disk without faults: what was acknowledged is there, and the recording can be finished.
    let after: Arc<dyn Disk> = Arc::new(disk.clone());
    let finish = (|| -> Result<(), Failure> {
        let clock: Arc<dyn HubClock> = kernel.hub_clock();
        let store = prepare(&after, &clock)?;
        for sender in &mut senders {
            if sender.acked != [0, 0]
                || store.session(&session())?.state == marey_engine::SessionState::Recording
            {
                sender.join(&store)?;
            }
        }
        store.close()?;
        Ok(())
    })();
    finish.map_err(|error| format!("after the cut: {error}"))?;
    senders
        .iter()
        .try_for_each(|sender| judge(&disk, sender).map(|_| ()))
}

fn reported(result: &Result<(), Failure>) -> Result<(), String> {
    match result {
        Err(error) if error.to_string().contains("LOST") => Err(error.to_string()),
        _ => Ok(()),
    }
}

fn sweep(plan: Plan, subsets: u64, kill_first: bool) -> Result<u64, String> {
    let mut states = 0;
    for cut in 0..operations() {
        for subset in 0..subsets {
            let dice = (subset > 0).then(|| Dice(cut * 1000 + subset));
            crash_at(cut, plan, dice, kill_first).map_err(|lost| {
                format!("cut at operation {cut}, subset {subset}, kill first {kill_first}: {lost}")
            })?;
            states += 1;
        }
    }
    Ok(states)
}

#[test]
fn no_acknowledged_sample_is_lost_at_any_operation() {
    let states = sweep(Plan::default(), 8, false).unwrap();
    println!("{states} power cuts, 0 acknowledged frames lost");
}

#[test]
fn nor_after_a_kill_a_reopening_and_a_welcome() {
    let states = sweep(Plan::default(), 8, true).unwrap();
    println!("{states} kills followed by power cuts, 0 acknowledged frames lost");
}

#[test]
fn the_test_finds_acks_before_the_sync() {
    let planted = Plan {
        skip_file_syncs: true,
        planted_from: recording_begins(),
        ..Plan::default()
    };
    let lost = sweep(planted, 1, false).unwrap_err();
    println!("found, as it must be: {lost}");
    assert!(lost.contains("LOST"), "{lost}");
}

#[test]
fn the_test_finds_names_that_were_not_synced() {
    let planted = Plan {
        skip_dir_syncs: true,
        planted_from: recording_begins(),
        ..Plan::default()
    };
    let lost = sweep(planted, 1, false).unwrap_err();
    println!("found, as it must be: {lost}");
    assert!(lost.contains("LOST"), "{lost}");
}

/// Operations that making the hub and the session takes: a planted bug there would be found for another reason.
fn recording_begins() -> u64 {
    let disk = FaultyDisk::new(MemoryDisk::new(), Plan::default());
    let clock: Arc<dyn HubClock> = SimulatedKernel::new(1, 0).hub_clock();
    let as_disk: Arc<dyn Disk> = Arc::new(disk.clone());
    drop(prepare(&as_disk, &clock).expect("nothing fails"));
    disk.operations()
}
