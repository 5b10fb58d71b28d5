//! SIGKILL of a hub under load: the short form of `prove kills`, and what was found by it.
//!
//! `MAREY_KILLS` sets how often (50), `MAREY_SEED` repeats a run's choices; the moments themselves are the system's.

use marey_engine::compact::check_session;
use marey_engine::disk::Disk;
use marey_engine::disk::memory::MemoryDisk;
use marey_engine::time::HubClock;
use marey_engine::time::simulated::SimulatedKernel;
use marey_tests::prove::{Run, kills};
use marey_tests::recording::{Sender, open, prepare, session, small_options};
use std::sync::Arc;

#[test]
fn a_hub_that_is_killed_loses_nothing_and_takes_nothing_twice() {
    let count = from_environment("MAREY_KILLS").unwrap_or(50);
    let seed = from_environment("MAREY_SEED").unwrap_or(1);
    let tally = kills::run(&Run {
        seed,
        ..Run::short(count)
    });
    tally.show();
    assert!(tally.is_well(), "seed {seed}: {tally}");
    assert_eq!(tally.done, count, "every kill hit a running hub");
}

/// What was found by the test above: the journal still held the frames of segments that a generation was made of, so the
/// recovery after a kill carried them over, and the manifest pointed to places that no longer counted.
#[test]
fn a_kill_right_after_the_seal_moves_nothing_that_was_published() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    let clock: Arc<dyn HubClock> = SimulatedKernel::new(1, 1_700_000_000_000_000_000).hub_clock();
    let store = prepare(&disk, &clock).expect("a store");
    let mut sender = Sender::new("phone", 1);
    let handle = sender.join(&store).expect("opened");
    (0..5).for_each(|_| drop(sender.capture()));
    sender.send(&store, handle, 100).expect("durable");
    sender.send_end(&store, handle).expect("durable");
    store.stop_session(&session()).expect("stopped");
    store.seal_session(&session(), &|_| {}).expect("sealed");
    // As a kill: nothing is closed.
    drop(store);
    for life in 1..4 {
        let store = open(disk.clone(), &clock).expect("a store");
        let checked = check_session(&*disk, &session(), &small_options()).expect("readable");
        assert!(checked.faults.is_empty(), "life {life}: {:?}", checked.faults);
        assert_eq!(
            (checked.samples_in_parquet, checked.samples_later),
            (50, 0),
            "life {life}"
        );
        assert!(
            !store.has_late_frames(&session()),
            "life {life}: nothing came since"
        );
        assert!(store.owing(&session()).expect("known").is_empty());
    }
}

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is not a number")),
    )
}
