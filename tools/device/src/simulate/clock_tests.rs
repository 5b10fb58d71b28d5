//! Readings against the truth that they were made from.

use super::super::true_time::SimulatedTrueTime;
use super::*;

const S: i64 = 1_000_000_000;

fn clock(plan: &ClockPlan) -> (LyingClock, Arc<SimulatedTrueTime>) {
    let truth = Arc::new(SimulatedTrueTime::starting_at(500 * S));
    (LyingClock::new(plan, truth.clone()).unwrap(), truth)
}

fn plan(events: Vec<ClockEvent>) -> ClockPlan {
    ClockPlan {
        seed: 3,
        first_reading_ns: 7 * S,
        skew_ppb: 40_000,
        wander_ppb: 5_000,
        walk: Walk::Drawn,
        warmth: Vec::new(),
        events,
    }
}

#[test]
fn offset_and_skew_are_as_told() {
    let plan = ClockPlan {
        wander_ppb: 0,
        ..plan(Vec::new())
    };
    let (clock, truth) = clock(&plan);
    assert_eq!(clock.now_ns(), 7 * S);
    truth.advance(100 * S);
    assert_eq!(clock.now_ns(), 107 * S + 100 * 40_000);
}

#[test]
fn temperature_moves_the_rate_as_planned_and_never_beyond_the_limit() {
    let warm = |skew_ppb, warmth: Vec<Warmth>| {
        let plan = ClockPlan {
            skew_ppb,
            wander_ppb: 0,
            warmth,
            ..plan(Vec::new())
        };
        let (clock, truth) = clock(&plan);
        truth.advance(1_000 * S);
        let shown = move |second: i64| clock.reading_at((500 + second) * S).unwrap().0;
        move |second: i64| shown(second + 1) - shown(second) - S
    };
    let step = Warmth::Step {
        after_ns: 100 * S,
        by_ppb: -3_000,
        within_ns: 60 * S,
    };
    let swing = Warmth::Swing {
        by_ppb: 2_000,
        period_ns: 400 * S,
        begun_ns: 100 * S,
    };
    let gains_ns = warm(10_000, vec![step, swing]);
    assert_eq!(gains_ns(0), 12_000);
    assert!((gains_ns(99) - 10_000).abs() < 100, "{}", gains_ns(99));
    // A minute after the step it has come 1 - 1/e of the way; the swing is at 0.4 of its turn then, from its crest.
    let swings_ppb = 2_000.0 * (TAU * 0.4).cos();
    let expected_ns = 10_000.0 - 3_000.0 * (1.0 - (-1.0f64).exp()) + swings_ppb;
    assert!(
        (gains_ns(160) as f64 - expected_ns).abs() < 60.0,
        "{} {expected_ns}",
        gains_ns(160)
    );
    let hot = Warmth::Step {
        after_ns: 0,
        by_ppb: 50_000,
        within_ns: 1,
    };
    assert_eq!(warm(60_000, vec![hot])(500), 95_000);
}

#[test]
fn a_free_walk_spreads_with_the_root_of_time_and_a_drawn_one_comes_to_rest() {
    let spread_ppb = |walk| {
        let ends = (0..1_000).map(|seed| {
            let plan = ClockPlan {
                seed,
                skew_ppb: 0,
                wander_ppb: 50_000,
                walk,
                ..plan(Vec::new())
            };
            let (clock, truth) = clock(&plan);
            truth.advance(7_201 * S);
            let shown = |second: i64| clock.reading_at((500 + second) * S).unwrap().0;
            (shown(7_201) - shown(7_200) - S) as f64
        });
        (ends.map(|end| end * end).sum::<f64>() / 1_000.0).sqrt()
    };
    // 12.9 ppb a second, for two hours: 0.1 ppm times the root of 120 minutes.
    let free = spread_ppb(Walk::Free { step_ppt: 12_900 });
    assert!((1_060.0..1_200.0).contains(&free), "{free}");
    // Steps of 1,000 ppb that are drawn back by a thousandth: 1,000 times the root of 500, and a little less for the bound.
    let drawn = spread_ppb(Walk::Drawn);
    assert!((19_500.0..22_400.0).contains(&drawn), "{drawn}");
}

#[test]
fn every_reading_leads_back_to_its_moment() {
    let events = vec![
        ClockEvent::Sleep {
            after_ns: 20 * S + 17,
            for_ns: 3 * S,
        },
        ClockEvent::Reboot {
            after_ns: 40 * S + 5,
            down_ns: 2 * S,
        },
        ClockEvent::Sleep {
            after_ns: 60 * S,
            for_ns: S,
        },
    ];
    for skew_ppb in [-40_000, 0, 40_000] {
        let (clock, truth) = clock(&ClockPlan {
            skew_ppb,
            ..plan(events.clone())
        });
        let mut last = clock.read();
        for step in 0..4_000u64 {
            truth.advance(20_000_000 + i64::try_from(random::hash(9, step) % 1_000).unwrap());
            let (reading_ns, boot_id) = clock.read();
            let true_ns = clock.true_ns(reading_ns, boot_id).unwrap();
            let now_ns = truth.true_ns();
            assert!((now_ns - true_ns).abs() <= 1, "{now_ns} {true_ns} at step {step}");
            assert!(boot_id != last.1 || reading_ns >= last.0);
            if boot_id == last.1 {
                let rate = (reading_ns - last.0) - 20_000_000;
                assert!(rate < 1_000 + 2_000, "{rate}");
            }
            last = (reading_ns, boot_id);
        }
        assert_eq!(clock.lives().len(), 2);
        let second = clock.lives()[1];
        assert!((2 * S..4 * S).contains(&second.first_reading_ns));
        assert_eq!(clock.reading_at(second.from_true_ns - 1), None);
        assert_eq!(clock.reading_at(0), None);
    }
}

#[test]
fn sleep_stands_still_and_blocks_who_reads() {
    let events = vec![ClockEvent::Sleep {
        after_ns: 10 * S,
        for_ns: 5 * S,
    }];
    let (clock, truth) = clock(&ClockPlan {
        skew_ppb: 0,
        wander_ppb: 0,
        ..plan(events)
    });
    truth.advance(12 * S);
    assert_eq!(clock.now_ns(), 17 * S);
    assert_eq!(truth.true_ns(), 515 * S);
    assert_eq!(clock.true_ns(17 * S, clock.boot_id()), Some(515 * S));
    assert_eq!(clock.true_ns(17 * S - 1, clock.boot_id()), Some(510 * S - 1));
    assert_eq!(clock.true_ns(18 * S, clock.boot_id()), None);
}

#[test]
fn disturbing_twice_queues() {
    let (clock, truth) = clock(&ClockPlan {
        skew_ppb: 0,
        wander_ppb: 0,
        ..plan(Vec::new())
    });
    truth.advance(S);
    clock.sleep(2 * S);
    clock.reboot(S);
    let (_, boot_id) = clock.read();
    assert_eq!(truth.true_ns(), 504 * S);
    assert_eq!(boot_id, clock.lives()[1].boot_id);
}

#[test]
fn wander_stays_within_its_bound_and_is_the_same_for_all_readers() {
    let (often, truth_often) = clock(&plan(Vec::new()));
    let (seldom, truth_seldom) = clock(&plan(Vec::new()));
    let mut last_ns = often.now_ns();
    let mut rates = Vec::new();
    for _ in 0..600 {
        truth_often.advance(S);
        let now_ns = often.now_ns();
        rates.push(now_ns - last_ns - S);
        last_ns = now_ns;
    }
    truth_seldom.advance(600 * S);
    assert_eq!(seldom.now_ns(), last_ns);
    assert!(rates.iter().all(|rate| (34_999..=45_001).contains(rate)));
    assert!(rates.iter().max().unwrap() - rates.iter().min().unwrap() > 500);
}

#[test]
fn a_clock_nobody_can_follow_is_refused() {
    let (_, truth) = clock(&plan(Vec::new()));
    let fast = ClockPlan {
        skew_ppb: -94_000,
        ..plan(Vec::new())
    };
    assert!(matches!(
        LyingClock::new(&fast, truth),
        Err(ClockPlanError::TooFast {
            found_ppb: 99_000,
            ..
        })
    ));
}
