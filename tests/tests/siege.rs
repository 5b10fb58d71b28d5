//! A hub under attack: the short form of `cargo run --release -p marey-tests --bin siege`. Times are printed, not judged.

use marey_tests::siege::{Asked, besiege};
use std::time::Duration;

#[test]
fn whoever_records_is_acknowledged_whatever_others_do_and_nothing_grows_without_bound() {
    let folder = tempfile::tempdir().expect("a folder");
    let asked = Asked {
        devices: 4,
        frames_per_s: 20,
        held: 60,
        half_open: 50,
        strangers: 300,
        packets_per_s: 2_000,
        lasting: Duration::from_millis(1_500),
    };
    let report = besiege(asked, &folder.path().join("hub"));
    println!("{}", report.table());
    assert_eq!(report.faults(asked), [""; 0]);
    assert_eq!(report.phases[6].attacks, 61, "every place was taken");
    assert!(report.phases[1..].iter().all(|phase| phase.attacks > 0));
}
