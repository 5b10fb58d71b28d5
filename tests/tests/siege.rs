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
        rounds: 1,
    };
    let report = besiege(asked, &folder.path().join("hub"));
    println!("{}", report.table());
    assert_eq!(report.faults(asked), [""; 0]);
    let attacks: Vec<u64> = report.phases.chunks(2).map(|pair| pair[1].attacks).collect();
    assert_eq!(attacks[5], 61, "every place was taken");
    assert!(attacks.iter().all(|attacks| *attacks > 0));
}
