//! Clocks that stand still unseen: the short form of `cargo run --release -p marey-tests --bin standstills`.

use marey_device::simulate::stamps::Scenario;
use marey_tests::standstills::{Asked, Evidence, MS, SECOND, Summary, stretches, summarize};

const RUNS: u64 = 24;

fn summary(evidence: Evidence, standstill_ns: i64) -> Summary {
    let asked = Asked {
        scenario: Scenario::GoodWifi,
        seed: 11,
        standstill_ns,
        evidence,
    };
    let of = summarize(&asked, RUNS, 2);
    assert_eq!(of.runs as u64, RUNS);
    of
}

#[test]
fn the_guard_holds_whatever_is_hidden_and_without_it_the_bound_fails_by_no_more_than_is_published() {
    for evidence in [Evidence::Probes, Evidence::All] {
        for standstill_ns in [0, MS / 2, 16 * MS / 10, 19 * MS / 10, 25 * MS / 10] {
            let of = summary(evidence, standstill_ns);
            assert_eq!((of.guarded_is_false, of.beyond_detectable), (0, 0), "{of:?}");
            assert_eq!((of.found_is_false, of.cut_wrongly), (0, 0), "{of:?}");
            // A guard that adds nothing, or all that there is, proves nothing.
            assert!(
                of.guarded_bound_ns > 2.0 * of.bound_ns && of.guarded_bound_ns < 5e6,
                "{of:?}"
            );
            match standstill_ns {
                0 => assert_eq!((of.is_false, of.found), (0, 0), "{of:?}"),
                // What the guard is for: hidden, and larger than the bound.
                1_600_000 => assert_eq!((of.is_false as u64, of.found), (RUNS, 0), "{of:?}"),
                _ => {}
            }
        }
    }
}

#[test]
fn what_stands_still_for_longer_is_found_within_two_exchanges() {
    for evidence in [Evidence::Probes, Evidence::All] {
        for standstill_ns in [5 * MS, 20 * MS, SECOND, 120 * SECOND] {
            let of = summary(evidence, standstill_ns);
            assert_eq!(of.found, of.runs, "{of:?}");
            assert!(of.exchanges_most <= 2, "{of:?}");
            assert_eq!(
                (of.is_false, of.guarded_is_false, of.cut_wrongly),
                (0, 0, 0),
                "{of:?}"
            );
        }
    }
}

#[test]
fn a_clock_that_never_stood_still_is_not_cut() {
    for scenario in [Scenario::BusyWifi, Scenario::BusyQueues, Scenario::Hot] {
        assert_eq!(stretches(scenario, 2, 1_800 * SECOND), 1, "{scenario:?}");
    }
}
