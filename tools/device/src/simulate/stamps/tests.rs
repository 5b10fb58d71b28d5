//! Stamps against the truth that they were made from.

use super::*;

const S: i64 = 1_000_000_000;

fn made(scenario: Scenario, seconds: i64) -> (Plan, Stamps) {
    let plan = scenario.plan(7, seconds * S);
    let stamps = gather(&plan).unwrap();
    (plan, stamps)
}

/// Hub time minus device time at the truth's row that is nearest to a hub time, and how far the nearest one is.
fn offset_near(stamps: &Stamps, hub_ns: i64) -> i64 {
    let nearest = stamps
        .truth
        .iter()
        .min_by_key(|truth| truth.hub_ns.abs_diff(hub_ns))
        .unwrap();
    nearest.hub_ns - nearest.dev_ns
}

/// Between two rows of the truth no clock moves by more than this: 100 ppm of half a second, and what is left out around cuts.
const MOVES_NS: i64 = 500_000;

#[test]
fn no_packet_arrives_before_it_was_sent() {
    for (name, scenario) in Scenario::ALL {
        let (plan, stamps) = made(scenario, 300);
        let (least_up_ns, least_down_ns) = (ns(plan.up.least_us * 1e3), ns(plan.down.least_us * 1e3));
        for frame in &stamps.frames_up {
            let delay_ns = frame.received_ns - (frame.sent_ns + offset_near(&stamps, frame.received_ns));
            assert!(
                delay_ns > least_up_ns - MOVES_NS,
                "{name}: {frame:?} took {delay_ns} ns"
            );
        }
        for ack in &stamps.acks_down {
            let delay_ns = ack.received_ns + offset_near(&stamps, ack.sent_ns) - ack.sent_ns;
            assert!(
                delay_ns > least_down_ns - MOVES_NS,
                "{name}: {ack:?} took {delay_ns} ns"
            );
        }
        for exchange in &stamps.exchanges {
            let at_device_ns = exchange.dev_send_ns - exchange.dev_recv_ns;
            assert_eq!(at_device_ns < 0, plan.dozes, "{name}: {exchange:?}");
            let trip_ns = exchange.hub_recv_ns - exchange.hub_send_ns - at_device_ns;
            assert!(trip_ns > least_up_ns + least_down_ns, "{name}: {exchange:?}");
        }
        let half_ns = stamps.half_least_round_trip_ns().unwrap();
        assert!(
            half_ns < (least_up_ns + least_down_ns) * 13 / 20,
            "{name}: {half_ns}"
        );
    }
}

#[test]
fn the_rhythm_is_that_of_a_recording() {
    for (name, scenario) in Scenario::ALL {
        let (plan, stamps) = made(scenario, 600);
        let away_ns: i64 = plan.gaps.iter().map(|gap| gap.span().1).sum();
        let there = usize::try_from((600 * S - away_ns) / S).unwrap();
        for (what, found, expected) in [
            ("exchanges", stamps.exchanges.len(), there),
            ("frames", stamps.frames_up.len(), 10 * there),
            ("acks", stamps.acks_down.len(), 2 * there),
        ] {
            assert!(
                (expected * 99 / 100 - 2..=expected).contains(&found),
                "{name}: {found} {what} of {expected}"
            );
        }
        assert!(
            (110..=120).contains(&stamps.peer.len()),
            "{name}: {}",
            stamps.peer.len()
        );
        let rose = |times: &mut dyn Iterator<Item = i64>| times.collect::<Vec<_>>().is_sorted();
        assert!(
            rose(&mut stamps.frames_up.iter().map(|frame| frame.received_ns)),
            "{name}"
        );
        assert!(
            rose(&mut stamps.acks_down.iter().map(|ack| ack.sent_ns)),
            "{name}"
        );
    }
}

#[test]
fn the_same_seed_gives_the_same_and_another_another() {
    let of = |seed| gather(&Scenario::BusyQueues.plan(seed, 60 * S)).unwrap();
    let (one, again, other) = (of(1), of(1), of(2));
    assert_eq!(
        (&one.exchanges, &one.frames_up, &one.peer),
        (&again.exchanges, &again.frames_up, &again.peer)
    );
    assert_ne!(one.exchanges, other.exchanges);
    assert_ne!(one.truth[0].dev_ns, other.truth[0].dev_ns);
}

#[test]
fn a_silent_sleep_moves_the_offset_by_itself_and_a_reboot_begins_anew() {
    let (_, slept) = made(Scenario::Suspend, 600);
    assert!(slept.truth.iter().is_sorted_by_key(|truth| truth.dev_ns));
    let of_boot = |stamps: &Stamps, boot| {
        stamps
            .truth
            .iter()
            .filter(|truth| truth.boot == boot)
            .copied()
            .collect::<Vec<_>>()
    };
    let (before, after) = (of_boot(&slept, 0), of_boot(&slept, 1));
    let (before, after) = (before[before.len() - 1], after[0]);
    let stood_ns = (after.hub_ns - before.hub_ns) - (after.dev_ns - before.dev_ns);
    assert!((stood_ns - 120 * S).abs() < 1_000_000, "{stood_ns}");
    assert!(after.hub_ns - before.hub_ns > 126 * S);

    let (_, rebooted) = made(Scenario::Reboot, 600);
    let second = of_boot(&rebooted, 1);
    assert!(!second.is_empty() && second.iter().all(|truth| truth.dev_ns < 600 * S));
    assert!(rebooted.exchanges.iter().any(|exchange| exchange.boot == 1));
    assert!(
        rebooted
            .frames_up
            .iter()
            .all(|frame| (frame.boot == 1) == (frame.sent_ns < 600 * S))
    );
}

#[test]
fn a_planted_standstill_is_in_every_stamp_and_named_by_none() {
    let plain = Scenario::Wired.plan(3, 120 * S);
    let planted = Plan {
        standstills: vec![(60 * S + 1, 20_000_000)],
        ..plain.clone()
    };
    let (plain, planted) = (gather(&plain).unwrap(), gather(&planted).unwrap());
    let moved = |at: usize| planted.truth[at].dev_ns - plain.truth[at].dev_ns;
    assert_eq!(planted.truth.len(), plain.truth.len());
    assert_eq!(moved(119), 0);
    assert!((moved(130) + 20_000_000).abs() < 2_000, "{}", moved(130));
    assert!(
        planted
            .frames_up
            .iter()
            .chain(&planted.acks_down)
            .all(|packet| packet.boot == 0)
    );
    // The frame that was due meanwhile is sent with the stamp at which the clock stood.
    let meanwhile = Plan {
        standstills: vec![(60 * S + 45_000_000, 20_000_000)],
        ..Scenario::Wired.plan(3, 120 * S)
    };
    let meanwhile = gather(&meanwhile).unwrap();
    let late = meanwhile
        .frames_up
        .iter()
        .find(|frame| frame.received_ns > 60 * S + 40_000_000)
        .unwrap();
    assert!((late.received_ns - 60 * S - 65_000_000) < 2_000_000, "{late:?}");
}

#[test]
fn the_peer_keeps_an_old_offset_through_an_outage() {
    let (plan, stamps) = made(Scenario::Outage, 600);
    let (after_ns, for_ns) = plan.gaps[0].span();
    let meanwhile: Vec<PeerOffset> = stamps
        .peer
        .iter()
        .filter(|pair| (after_ns + 5 * S..after_ns + for_ns).contains(&(pair.time_ns + pair.offset_ns)))
        .copied()
        .collect();
    assert!(meanwhile.len() >= 10);
    assert!(
        meanwhile
            .windows(2)
            .all(|pair| pair[0].offset_ns == pair[1].offset_ns)
    );
    for pair in &stamps.peer {
        let error_ns = pair.offset_ns - offset_near(&stamps, pair.time_ns + pair.offset_ns);
        // A minute of 60 ppm.
        assert!(error_ns.abs() < 4_000_000, "{pair:?}: {error_ns}");
    }
}

#[test]
fn plans_that_can_not_be_are_refused() {
    let plan = |standstills| Plan {
        standstills,
        ..Scenario::Outage.plan(1, 600 * S)
    };
    let refused = |plan: &Plan| gather(plan).expect_err("refused");
    let overlap = PlanError::Overlap {
        after_ns: 181 * S,
        for_ns: S,
    };
    assert_eq!(refused(&plan(vec![(181 * S, S)])), overlap);
    assert!(matches!(
        refused(&plan(vec![(10 * S, 590 * S)])),
        PlanError::Overlap { .. }
    ));
    assert!(matches!(refused(&plan(vec![(-1, 5)])), PlanError::Overlap { .. }));
    let endless = Scenario::Wired.plan(1, i64::MAX);
    assert_eq!(refused(&endless), PlanError::Lasting { lasting_ns: i64::MAX });
}
