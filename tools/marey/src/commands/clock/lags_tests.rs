//! Two sensors that feel the same knocks, with clocks that are placed well and wrongly.

use super::super::onsets::tests::{Sensor, found};
use super::*;
use marey_device::simulate::random::{normal, uniform};

const KNOCKS_US: [f64; 6] = [
    1_003_210.0,
    1_557_777.0,
    2_100_000.0,
    4_000_123.0,
    4_600_001.0,
    5_200_456.0,
];

fn seen(events: &[Event]) -> Seen<'_> {
    Seen {
        events,
        from_us: 0.0,
        to_us: 6e6,
    }
}

/// All residuals of a's and b's events.
fn residuals(a: &Sensor, b: &Sensor) -> Vec<Residual> {
    let (a, b) = (a.found().events, b.found().events);
    let matched = matched(seen(&a), seen(&b), 100_000.0);
    assert_eq!(matched.ambiguous, 0);
    matched
        .common
        .iter()
        .map(|&(of_a, of_b)| judge(&a[of_a], &b[of_b]))
        .collect()
}

/// At good signal to noise (40 to 0.05), at all phases of sampling, with a knock that rises smoothly and within a sample and a
/// half of the slower stream or more: each lag within a tenth of that sample.
#[test]
fn lags_are_found_within_a_tenth_of_a_sample() {
    let pairs = [
        (100.0, 100.0, 15_000.0),
        (100.0, 250.0, 15_000.0),
        (50.0, 104.0, 30_000.0),
        (32.0, 100.0, 47_000.0),
        (250.0, 1_000.0, 10_000.0),
        (1_000.0, 1_000.0, 5_000.0),
    ];
    for (rate_a, rate_b, rise_us) in pairs {
        let sample_us = 1e6 / f64::min(rate_a, rate_b);
        let (mut worst, mut sum, mut count) = (0.0f64, 0.0, 0.0);
        for step in 0..40 {
            let share = f64::from(step) / 40.0 * 4.0 - 2.0;
            let shift_us = share * sample_us;
            let sensor = |rate_hz, seed| Sensor {
                rise_us,
                seed,
                first_us: uniform(seed, 1) * sample_us,
                ..Sensor::new(rate_hz, &KNOCKS_US)
            };
            let (a, mut b) = (
                sensor(rate_a, 2 * step as u64),
                sensor(rate_b, 2 * step as u64 + 1),
            );
            b.shift_us = shift_us;
            let residuals = residuals(&a, &b);
            assert_eq!(residuals.len(), KNOCKS_US.len());
            for residual in residuals {
                assert!(residual.lag.by_shape, "{:?}", residual.lag);
                let off = (residual.lag.us - shift_us).abs() / sample_us;
                worst = worst.max(off);
                sum += off * off;
                count += 1.0;
            }
        }
        let rms = f64::sqrt(sum / count);
        println!("{rate_a} and {rate_b} Hz: worst {worst:.4} of a sample, RMS {rms:.4}");
        assert!(worst <= 0.1, "{rate_a} and {rate_b} Hz: {worst} of a sample");
    }
}

/// A knock that is over within a sample or so is only known to half of each: what `resolution_us` says.
#[test]
fn sharp_knocks_stay_within_what_the_samples_resolve() {
    for seed in 0..60 {
        let rate_hz = [50.0, 100.0, 400.0][seed as usize % 3];
        let sensor = |seed| Sensor {
            rise_us: 0.2e6 / rate_hz,
            seed,
            first_us: uniform(seed, 1) * 1e6 / rate_hz,
            err_us: 0.0,
            ..Sensor::new(rate_hz, &KNOCKS_US)
        };
        for residual in residuals(&sensor(2 * seed), &sensor(2 * seed + 1)) {
            assert_eq!(
                residual.verdict,
                Verdict::Resolution,
                "{rate_hz} Hz, seed {seed}: {residual:?}"
            );
        }
    }
}

#[test]
fn a_wrong_alignment_is_caught_and_a_right_one_is_not() {
    let well = Sensor {
        err_us: 1_000.0,
        ..Sensor::new(1_000.0, &KNOCKS_US)
    };
    let bounds_us = 2.0 * 1_000.0;
    for (shift_us, expected) in [
        (0.0, Verdict::Bounds),
        (0.9 * bounds_us, Verdict::Bounds),
        (-bounds_us - 500.0, Verdict::Resolution),
        (bounds_us + 5_000.0, Verdict::Unexplained),
        (-bounds_us - 5_000.0, Verdict::Unexplained),
        (40_000.0, Verdict::Unexplained),
    ] {
        let other = Sensor {
            shift_us,
            seed: 9,
            first_us: 333.0,
            ..well.clone()
        };
        let residuals = residuals(&well, &other);
        assert_eq!(residuals.len(), KNOCKS_US.len());
        for residual in &residuals {
            assert_eq!(residual.verdict, expected, "{shift_us}: {residual:?}");
            assert_eq!(residual.bound_us, bounds_us);
            assert!((residual.resolution_us - 1_000.0).abs() < 2.0);
        }
        let lags: Vec<f64> = residuals.iter().map(|residual| residual.lag.us).collect();
        let (middle_us, spread_us) = middle_and_spread(&lags).expect("six of them");
        assert!(
            (middle_us - shift_us).abs() < 50.0 && spread_us < 50.0,
            "{middle_us} {spread_us}"
        );
    }
    let boundless = Sensor {
        err_us: f32::INFINITY,
        shift_us: 30_000.0,
        ..well.clone()
    };
    let residuals = residuals(&well, &boundless);
    assert_eq!(residuals.len(), KNOCKS_US.len());
    assert!(
        residuals
            .iter()
            .all(|residual| residual.verdict == Verdict::Unbounded)
    );
}

#[test]
fn what_looks_different_is_timed_by_its_onsets() {
    const SOME_US: [f64; 3] = [KNOCKS_US[0], KNOCKS_US[2], KNOCKS_US[4]];
    let knocked = Sensor {
        rise_us: 2_000.0,
        ..Sensor::new(250.0, &SOME_US)
    };
    let knocked = knocked.found().events;
    // A lamp that goes on with each knock and stays so for 0.3 s, in a room that flickers.
    let lamp: Vec<_> = (0..600)
        .map(|index| {
            let at_us = f64::from(index) * 1e4;
            let is_on = SOME_US.iter().any(|knock| (0.0..3e5).contains(&(at_us - knock)));
            let flicker = 30.0 * normal(8, index as u64);
            (at_us, 0, vec![if is_on { 900.0 } else { 100.0 } + flicker])
        })
        .collect();
    let lit = found(&lamp, 100.0).events;
    assert!(lit.len() >= 3, "{}", lit.len());
    let matched = matched(seen(&knocked), seen(&lit), 100_000.0);
    assert_eq!(matched.common.len(), 3);
    for (a, b) in matched.common {
        let residual = judge(&knocked[a], &lit[b]);
        assert!(
            !residual.lag.by_shape && residual.lag.likeness < 0.7,
            "{residual:?}"
        );
        assert!(residual.lag.us.abs() <= residual.resolution_us, "{residual:?}");
    }
}

#[test]
fn each_event_is_one_of_the_other_or_left_out() {
    let event = |at_ms: f64, err_us: f64| Event {
        onset_us: at_ms * 1e3,
        err_us,
        spacing_us: 1e4,
        peak: 1.0,
        piece: Vec::new(),
    };
    let events = |all: &[(f64, f64)]| all.iter().map(|&(at, err)| event(at, err)).collect::<Vec<_>>();
    let a = events(&[
        (100.0, 1e3),
        (1_000.0, 1e3),
        (2_000.0, 1e3),
        (3_000.0, 1e3),
        (4_000.0, 1e3),
    ]);
    let b = events(&[
        (190.0, 1e3),
        (1_950.0, 1e3),
        (2_060.0, 1e3),
        (3_120.0, 30e3),
        (4_130.0, 1e3),
        (9e3, 1.0),
    ]);
    let found = matched(seen(&a), seen(&b), 100_000.0);
    // 1000: nothing near; 2000: two; 3000: only by the bound of the other; 4130: too far.
    assert_eq!(found.common, [(0, 0), (3, 3)]);
    assert_eq!((found.ambiguous, found.of_each), (1, [5, 5]));
    // Two of the first for one of the second.
    let found = matched(seen(&b), seen(&a), 100_000.0);
    assert_eq!(found.common, [(0, 0), (3, 3)]);
    assert_eq!(found.ambiguous, 2);
    // A bound without an end is no reason to take anything for the same.
    let boundless = events(&[(1_300.0, f64::INFINITY)]);
    assert_eq!(matched(seen(&a), seen(&boundless), 100_000.0).common, []);
    assert_eq!(
        matched(seen(&[]), seen(&a), 100_000.0),
        Matched {
            of_each: [0, 5],
            ..Matched::default()
        }
    );
    // Pieces that show nothing are no reason to panic.
    let empty = lag(&a[0], &b[0]);
    assert_eq!((empty.us, empty.by_shape), (90_000.0, false));
    assert!(empty.likeness.is_finite());
}

#[test]
fn middles() {
    assert_eq!(median(vec![]), None);
    assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
    assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
    assert_eq!(middle_and_spread(&[1.0, 2.0, 4.0]), Some((2.0, 1.4826)));
}
