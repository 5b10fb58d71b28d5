//! The plain examples: signs, one-sided evidence, none at all.

use super::super::*;
use super::world::{MS, SECOND};

/// A hub whose clock is `ahead_ns` ahead of the device's, heard of in both directions or one, 1 ms each way.
fn heard(ahead_ns: i64, up: bool, down: bool) -> SessionEvidence {
    let mut rows = Vec::new();
    for i in 0..30i64 {
        // Off any grid, so that no coarse clock is seen in them.
        let dev_ns = 100 * SECOND + i * SECOND + (i * i * 7_919) % 1_000_003;
        if up {
            rows.push(Row::Up {
                hub_epoch: 1,
                dev_send: dev_ns,
                hub_recv: dev_ns + ahead_ns + MS,
            });
        }
        if down {
            let dev_recv = dev_ns + 300 * MS;
            rows.push(Row::Down {
                hub_epoch: 1,
                hub_send: dev_recv + ahead_ns - MS,
                dev_recv,
            });
        }
    }
    SessionEvidence {
        anchor: WallReading {
            hub_epoch: 1,
            ..WallReading::default()
        },
        hub_epochs: vec![1],
        walls: Vec::new(),
        devices: vec![DeviceEvidence {
            device: "phone".to_owned(),
            clocks: vec![ClockEvidence {
                key: [0; 16],
                epochs: vec![3],
                rows,
            }],
        }],
    }
}

#[test]
fn the_sign_is_right_both_ways() {
    for ahead_ns in [SECOND, -SECOND] {
        let alignment = align(&heard(ahead_ns, true, true), &Options::default());
        let map = alignment.map("phone", 3).expect("the epoch is listed");
        let dev_ns = 110 * SECOND;
        let placed = map.at(dev_ns);
        assert!(
            placed.session_ns.abs_diff(dev_ns + ahead_ns) < 1_000,
            "{placed:?}"
        );
        // 1 ms each way, and at most a second's drift.
        assert!((1e6..1.11e6).contains(&placed.half_width_ns), "{placed:?}");
    }
}

#[test]
fn evidence_of_one_direction_bounds_one_side() {
    for (up, down) in [(true, false), (false, true)] {
        let alignment = align(&heard(SECOND, up, down), &Options::default());
        let map = alignment.map("phone", 3).expect("the epoch is listed");
        let dev_ns = 110 * SECOND;
        let placed = map.at(dev_ns);
        assert_eq!(placed.half_width_ns, f64::INFINITY);
        assert_eq!(map.published(dev_ns).err_us, f32::INFINITY);
        // As if the quickest packet had taken no time.
        assert!(
            placed.session_ns.abs_diff(dev_ns + SECOND) < 2 * MS as u64,
            "{placed:?}"
        );
        let (lo, hi) = map.interval(dev_ns);
        assert_eq!((lo == i64::MIN, hi == i64::MAX), (up, down));
        assert!(matches!(
            alignment.warnings(),
            [Warning::OneSided { segment: 0, .. }]
        ));
    }
}

#[test]
fn a_clock_nobody_heard_of_is_read_as_the_hubs_own_without_bound() {
    let alignment = align(&heard(SECOND, false, false), &Options::default());
    let map = alignment.map("phone", 3).expect("the epoch is listed");
    let placed = map.at(42);
    assert_eq!(
        (placed.session_ns, placed.half_width_ns, placed.segment),
        (42, f64::INFINITY, 0)
    );
    assert!(matches!(alignment.warnings(), [Warning::NoEvidence { .. }]));
    assert!(alignment.map("phone", 4).is_none() && alignment.map("watch", 3).is_none());
}

#[test]
fn a_fast_clock_and_a_coarse_one_are_told_of() {
    let mut evidence = heard(0, false, false);
    evidence.devices[0].clocks[0].rows = (0..200i64)
        .flat_map(|i| {
            let dev_ns = (i * SECOND + (i * i * 7_919_000) % (400 * MS)).div_euclid(MS) * MS;
            // The device's clock is slow by 80 ppm.
            let hub_ns = dev_ns + dev_ns / 12_500;
            [
                Row::Up {
                    hub_epoch: 1,
                    dev_send: dev_ns,
                    hub_recv: hub_ns + 3 * MS,
                },
                Row::Down {
                    hub_epoch: 1,
                    hub_send: hub_ns - 2 * MS,
                    dev_recv: dev_ns,
                },
            ]
        })
        .collect();
    let alignment = align(&evidence, &Options::default());
    let [
        Warning::CoarseClock { resolution_ns, .. },
        Warning::DriftNearLimit { slope_ppm, .. },
    ] = alignment.warnings()
    else {
        panic!("{:?}", alignment.warnings());
    };
    assert_eq!(*resolution_ns, MS);
    assert!((slope_ppm - 80.0).abs() < 1.0, "{slope_ppm}");
    let map = alignment.map("phone", 3).expect("the epoch is listed");
    assert!(map.at(50 * SECOND).half_width_ns > 3e6);
}

/// A clock that runs 30 ppm fast and wanders by a slow wave of half a millisecond, of which another recorder told the offset
/// every 5 s, off by up to 60 us and sometimes by a second.
fn told(error_ns: Option<i64>) -> (SessionEvidence, impl Fn(i64) -> i64) {
    let truth = |dev_ns: i64| {
        let seconds = dev_ns as f64 / 1e9;
        dev_ns + SECOND - (seconds * 30_000.0) as i64 + (5e5 * libm::sin(seconds / 300.0)) as i64
    };
    let mut evidence = heard(0, false, false);
    evidence.devices[0].clocks[0].rows = (0..240i64)
        .map(|i| {
            let dev_ns = i * 5 * SECOND + (i * i * 7_919) % 1_000_003;
            let scatter_ns = (i * i * 104_729) % 120_001 - 60_000;
            let garbage_ns = if i % 53 == 0 { SECOND } else { 0 };
            Row::Told {
                hub_epoch: 1,
                dev_ns,
                hub_ns: truth(dev_ns) + scatter_ns + garbage_ns,
                error_ns: error_ns.map(|error_ns| error_ns + garbage_ns),
            }
        })
        .collect();
    (evidence, truth)
}

#[test]
fn told_offsets_are_followed_and_bound_nothing() {
    let (evidence, truth) = told(None);
    let alignment = align(&evidence, &Options::default());
    let map = alignment.map("phone", 3).expect("the epoch is listed");
    let mut squares = 0.0;
    for i in 0..1_190i64 {
        let placed = map.at(i * SECOND);
        assert_eq!(placed.half_width_ns, f64::INFINITY);
        let off_ns = placed.session_ns.abs_diff(truth(i * SECOND)) as f64;
        assert!(off_ns < 6e4, "at {i} s off by {off_ns} ns");
        squares += off_ns * off_ns;
    }
    // What was told scatters by 35 us RMS.
    assert!(libm::sqrt(squares / 1_190.0) < 15_000.0, "{squares}");
    assert!(matches!(
        alignment.warnings(),
        [Warning::ToldWithoutBound { segment: 0, .. }]
    ));
}

#[test]
fn told_offsets_with_a_bound_bound() {
    let (evidence, truth) = told(Some(100_000));
    let alignment = align(&evidence, &Options::default());
    assert!(alignment.warnings().is_empty(), "{:?}", alignment.warnings());
    let map = alignment.map("phone", 3).expect("the epoch is listed");
    for i in 0..1_190i64 {
        super::world::assert_inside(map, i * SECOND, truth(i * SECOND));
        // A tenth of a millisecond told, and up to 5 s of drift where the nearest was garbage.
        assert!(map.at(i * SECOND).half_width_ns < 8e5, "{:?}", map.at(i * SECOND));
    }
    let (mut evidence, _) = told(None);
    evidence.devices[0].clocks[0].rows = vec![
        Row::Told {
            hub_epoch: 1,
            dev_ns: i64::MAX,
            hub_ns: 0,
            error_ns: None,
        },
        Row::Told {
            hub_epoch: 1,
            dev_ns: 0,
            hub_ns: 0,
            error_ns: Some(-1),
        },
    ];
    let alignment = align(&evidence, &Options::default());
    assert!(matches!(
        alignment.warnings(),
        [Warning::RowsDropped { rows: 2, .. }, ..]
    ));
}
