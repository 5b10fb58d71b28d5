//! The hub's own clock: reboots, bridged by devices, by wall clocks, or by nothing.

use proptest::prelude::*;

use super::super::*;
use super::world::*;

/// Reboots at 100 s and 200 s of true time, each time away for 20 s, with clocks that begin anywhere.
fn rebooting_hub() -> Hub {
    Hub {
        boots: vec![(-500 * SECOND, 0), (100 * SECOND, 3 * SECOND), (200 * SECOND, 7)],
        away_ns: 20 * SECOND,
    }
}

fn quick() -> Talk {
    let delay = Delay {
        least_ns: MS,
        usual_ns: 300_000,
        lost: 0.01,
    };
    Talk {
        up: delay,
        down: delay,
        probe_every_ns: 500 * MS,
        frame_every_ns: 100 * MS,
        ack_every_ns: 500 * MS,
    }
}

fn holds(alignment: &Alignment, hub: &Hub) {
    for epoch in alignment.hub_epochs() {
        let truth_ns = TRUE_ZERO_UTC_NS + hub.offset(epoch.hub_epoch);
        let off = epoch.offset_ns.abs_diff(truth_ns) as f64;
        assert!(off <= epoch.half_width_ns, "{epoch:?} is off by {off} ns");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn devices_that_live_through_tie_the_epochs(seed in any::<u64>()) {
        let (mut dice, hub) = (Dice(seed), rebooting_hub());
        let mut devices = Vec::new();
        // One that saw all of it, one that saw the first reboot only, one that saw the second only.
        for (name, from, until) in [("all", 0, 300), ("early", 10, 170), ("late", 120, 290)] {
            if name == "all" && dice.chance(0.5) {
                continue;
            }
            let base_ns = dice.range(0, 1_000_000) * SECOND;
            let clock = DeviceClock::new(&mut dice, base_ns, 99.99, 400 * SECOND, &[]);
            let talk = Talk::random(&mut dice);
            let rows = rows(&mut dice, &hub, &clock, &talk, from * SECOND, until * SECOND);
            devices.push((name, clock, rows, from * SECOND, until * SECOND));
        }
        let told = devices.iter().map(|device| (device.0, device.2.clone())).collect();
        let alignment = align(&evidence(&hub, told), &Options::default());
        holds(&alignment, &hub);
        for epoch in alignment.hub_epochs() {
            prop_assert!(epoch.hard && epoch.half_width_ns < 40e6, "{:?}", epoch);
        }
        for (name, clock, _, from, until) in &devices {
            let map = alignment.map(name, 0).expect("the device has one epoch");
            prop_assert_eq!(map.segment_count(), 1);
            sample(&mut dice, clock, map, *from, *until, |dev_ns, truth_ns, placed| {
                assert!(placed.half_width_ns.is_finite());
                assert_inside(map, dev_ns, truth_ns);
            });
        }
    }

    #[test]
    fn a_sleeper_is_outvoted_and_cut(seed in any::<u64>()) {
        let (mut dice, hub) = (Dice(seed), rebooting_hub());
        let mut devices = Vec::new();
        for name in ["one", "two", "sleeper"] {
            let asleep: &[(i64, i64)] = if name == "sleeper" { &[(85 * SECOND, 95 * SECOND)] } else { &[] };
            let clock = DeviceClock::new(&mut dice, 50 * SECOND, 50.0, 400 * SECOND, asleep);
            let rows = rows(&mut dice, &hub, &clock, &quick(), 0, 180 * SECOND);
            devices.push((name, clock, rows));
        }
        let told = devices.iter().map(|device| (device.0, device.2.clone())).collect();
        let alignment = align(&evidence(&hub, told), &Options::default());
        for epoch in &alignment.hub_epochs()[..2] {
            let truth_ns = TRUE_ZERO_UTC_NS + hub.offset(epoch.hub_epoch);
            prop_assert!(epoch.offset_ns.abs_diff(truth_ns) as f64 <= epoch.half_width_ns && !epoch.disputed);
        }
        for (name, clock, _) in &devices {
            let map = alignment.map(name, 0).expect("the device has one epoch");
            prop_assert_eq!(map.segment_count(), if *name == "sleeper" { 2 } else { 1 });
            sample(&mut dice, clock, map, 0, 180 * SECOND, |dev_ns, truth_ns, _| assert_inside(map, dev_ns, truth_ns));
        }
    }

    #[test]
    fn two_that_contradict_each_other_are_both_covered(seed in any::<u64>()) {
        let (mut dice, hub) = (Dice(seed), rebooting_hub());
        let mut devices = Vec::new();
        for name in ["honest", "sleeper"] {
            let asleep: &[(i64, i64)] = if name == "sleeper" { &[(85 * SECOND, 95 * SECOND)] } else { &[] };
            let clock = DeviceClock::new(&mut dice, 50 * SECOND, 50.0, 400 * SECOND, asleep);
            let rows = rows(&mut dice, &hub, &clock, &quick(), 0, 180 * SECOND);
            devices.push((name, clock, rows));
        }
        let told = devices.iter().map(|device| (device.0, device.2.clone())).collect();
        let alignment = align(&evidence(&hub, told), &Options::default());
        holds(&alignment, &hub);
        prop_assert!(alignment.hub_epochs()[1].disputed);
        let told = alignment.warnings().iter().any(|warning| matches!(warning, Warning::HubEpochDisputed { .. }));
        prop_assert!(told);
        let (_, clock, _) = &devices[0];
        let map = alignment.map("honest", 0).expect("the device has one epoch");
        sample(&mut dice, clock, map, 0, 180 * SECOND, |dev_ns, truth_ns, _| assert_inside(map, dev_ns, truth_ns));
    }
}

/// A device per hub epoch: none lives through.
fn unbridged(dice: &mut Dice, hub: &Hub) -> (SessionEvidence, Vec<(&'static str, DeviceClock, i64, i64)>) {
    let mut devices = Vec::new();
    let mut told = Vec::new();
    for (name, from, until) in [("first", 0, 75), ("second", 105, 175), ("third", 205, 290)] {
        let clock = DeviceClock::new(dice, 50 * SECOND, 50.0, 400 * SECOND, &[]);
        told.push((
            name,
            rows(dice, hub, &clock, &quick(), from * SECOND, until * SECOND),
        ));
        devices.push((name, clock, from * SECOND, until * SECOND));
    }
    (evidence(hub, told), devices)
}

#[test]
fn wall_readings_tie_what_no_device_does_and_a_stepped_wall_clock_is_covered() {
    let (mut dice, hub) = (Dice(1), rebooting_hub());
    let (mut evidence, devices) = unbridged(&mut dice, &hub);
    let wall = |true_ns: i64, wrong_ns: i64, error_ns: i64| {
        let (hub_epoch, hub_ns) = hub.read(true_ns).expect("the hub is up");
        WallReading {
            hub_epoch,
            hub_ns,
            utc_ns: TRUE_ZERO_UTC_NS + true_ns + wrong_ns,
            error_ns,
        }
    };
    evidence.walls = vec![
        wall(60 * SECOND, 2 * MS, 5 * MS),
        // 3 s wrong after the reboot, though it claims 10 ms; then stepped.
        wall(101 * SECOND, 3 * SECOND, 10 * MS),
        wall(130 * SECOND, -MS, 5 * MS),
        wall(230 * SECOND, MS, 5 * MS),
    ];
    let alignment = align(&evidence, &Options::default());
    holds(&alignment, &hub);
    let [first, second, third] = alignment.hub_epochs() else {
        panic!("three epochs")
    };
    assert_eq!((first.tied_by, first.hard), (TiedBy::Anchor, true));
    for epoch in [second, third] {
        assert_eq!((epoch.tied_by, epoch.hard), (TiedBy::Wall, false));
    }
    assert!((1.4e9..3.2e9).contains(&second.half_width_ns), "{second:?}");
    assert!(third.half_width_ns < 50e6, "{third:?}");
    let told = |hub_epoch| {
        alignment
            .warnings()
            .iter()
            .any(|warning| matches!(warning, Warning::HubEpochByWall { hub_epoch: told, .. } if *told == hub_epoch))
    };
    assert!(!told(1) && told(2) && told(3));
    for (name, clock, from, until) in &devices {
        let map = alignment.map(name, 0).expect("the device has one epoch");
        sample(
            &mut dice,
            clock,
            map,
            *from,
            *until,
            |dev_ns, truth_ns, placed| {
                assert!(placed.half_width_ns.is_finite());
                assert_inside(map, dev_ns, truth_ns);
            },
        );
    }
}

#[test]
fn an_epoch_that_nothing_ties_has_no_bound_but_an_order() {
    let (mut dice, hub) = (Dice(2), rebooting_hub());
    let (evidence, devices) = unbridged(&mut dice, &hub);
    let alignment = align(&evidence, &Options::default());
    let tied: Vec<TiedBy> = alignment.hub_epochs().iter().map(|epoch| epoch.tied_by).collect();
    assert_eq!(tied, [TiedBy::Anchor, TiedBy::Nothing, TiedBy::Nothing]);
    let mut last_ns = i64::MIN;
    for (name, clock, from, until) in &devices {
        let map = alignment.map(name, 0).expect("the device has one epoch");
        let (begin, end) = (
            map.at(clock.read(*from + SECOND)),
            map.at(clock.read(*until - SECOND)),
        );
        assert_eq!(begin.half_width_ns.is_infinite(), *name != "first");
        assert!(last_ns < begin.session_ns && begin.session_ns < end.session_ns);
        last_ns = end.session_ns;
    }
}

#[test]
fn a_bridged_epoch_is_estimated_far_better_than_it_is_bounded() {
    let (mut dice, hub) = (Dice(3), rebooting_hub());
    let clock = DeviceClock::new(&mut dice, 50 * SECOND, 0.5, 400 * SECOND, &[]);
    let rows = rows(&mut dice, &hub, &clock, &quick(), 0, 290 * SECOND);
    let alignment = align(&evidence_of_one(&hub, rows), &Options::default());
    holds(&alignment, &hub);
    for epoch in alignment.hub_epochs() {
        let truth_ns = TRUE_ZERO_UTC_NS + hub.offset(epoch.hub_epoch);
        assert!(epoch.offset_ns.abs_diff(truth_ns) < 100_000, "{epoch:?}");
    }
}

#[test]
fn frames_that_waited_out_a_reboot_do_no_harm() {
    let (mut dice, hub) = (Dice(4), rebooting_hub());
    let clock = DeviceClock::new(&mut dice, 50 * SECOND, 50.0, 400 * SECOND, &[]);
    let mut rows = rows(&mut dice, &hub, &clock, &quick(), 0, 180 * SECOND);
    // Back-fill: samples of before the reboot, heard of after it.
    let (hub_epoch, hub_recv) = hub.read(110 * SECOND).expect("the hub is up");
    rows.extend((0..500).map(|i| Row::Up {
        hub_epoch,
        dev_send: clock.read(i * 200 * MS),
        hub_recv,
    }));
    let alignment = align(&evidence_of_one(&hub, rows), &Options::default());
    holds(&alignment, &hub);
    assert!(alignment.hub_epochs()[1].half_width_ns < 6e6);
    let map = alignment.map("phone", 0).expect("the device has one epoch");
    assert_eq!(map.segment_count(), 1);
    sample(
        &mut dice,
        &clock,
        map,
        0,
        180 * SECOND,
        |dev_ns, truth_ns, placed| {
            assert!(placed.half_width_ns < 8e6);
            assert_inside(map, dev_ns, truth_ns);
        },
    );
}
