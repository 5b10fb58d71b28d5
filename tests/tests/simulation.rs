//! The whole hub and its devices in simulated time: 500 seeds here, 100,000 by command, and each planted bug is found.
//!
//! `cargo run --release -p marey-tests --bin prove -- simulation`

use marey_tests::prove::simulation::{CANARY_SEEDS, REPLAYED_ONE_IN, run, simulate, without_the_bug};
use marey_tests::prove::{Planted, Run};

#[test]
fn no_promise_is_broken_in_500_worlds() {
    let tally = run(&Run::short(500));
    println!("{tally}");
    assert!(tally.is_well(), "{tally}");
    assert_eq!(tally.done, 500);
    assert_eq!(tally.figures["seeds replayed"], (500 / REPLAYED_ONE_IN) as f64);
    // A fault that never came proves nothing.
    for kind in [
        "connections cut",
        "connections that vanish",
        "pieces of an old connection after the new one",
        "frames that came twice",
        "crashes of devices",
        "reboots of devices",
        "clocks that changed their rate",
        "clocks that jumped",
        "clocks that stood still",
        "deaths of the hub",
        "deaths while recovering",
        "power cuts",
        "stores that stopped after a failure",
        "slow commits",
        "full disks",
        "acks with the power cut right behind them",
    ] {
        assert!(
            tally.faults.get(kind).is_some_and(|times| *times > 0),
            "no {kind}: {tally}"
        );
    }
    for figure in [
        "later generations",
        "of them complete",
        "bounds held against the truth",
    ] {
        assert!(
            tally.figures.get(figure).is_some_and(|value| *value > 0.0),
            "no {figure}: {tally}"
        );
    }
}

#[test]
fn a_seed_gives_the_same_trace_again_and_another_seed_another() {
    let (one, again, other) = (simulate(7, None), simulate(7, None), simulate(8, None));
    assert_eq!(one.trace, again.trace);
    assert_ne!(one.trace, other.trace);
}

#[test]
fn each_planted_bug_is_found_by_its_canary() {
    use Planted::{AckBeforeSync, DeleteBeforePublish, NoDirectorySync};
    for planted in [AckBeforeSync, NoDirectorySync, DeleteBeforePublish] {
        let canary = (1..=CANARY_SEEDS).find_map(|seed| Some((seed, simulate(seed, Some(planted)).failure?)));
        let Some((seed, found)) = canary else {
            panic!("{planted:?} was not found by any seed up to {CANARY_SEEDS}");
        };
        println!("{planted:?}: found by seed {seed}, as it must be: {found}");
        assert_eq!(
            without_the_bug(seed, planted).failure,
            None,
            "{planted:?}: seed {seed} without it"
        );
        assert_eq!(
            simulate(seed, Some(planted)).failure,
            Some(found),
            "seed {seed} does not replay"
        );
    }
}
