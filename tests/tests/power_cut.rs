//! The power goes, operations fail and disks lie at the operations of scripted recordings: the short forms of
//! `prove power-cuts` and `prove io-errors`. With a planted bug they fail.

use marey_tests::prove::{Planted, Run, Tally, io_errors, power_cuts};

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
