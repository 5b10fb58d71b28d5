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
