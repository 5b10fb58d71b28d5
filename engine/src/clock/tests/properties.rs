//! What holds for every clock that keeps the assumptions, and what holds for any rows at all.

use proptest::prelude::*;

use super::super::straight::Straight;
use super::super::*;
use super::world::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_truth_is_inside_whatever_the_delays(seed in any::<u64>()) {
        let (mut dice, hub) = (Dice(seed), steady_hub());
        let until = dice.range(20, 240) * SECOND;
        let mut clock = random_clock(&mut dice, until, &[]);
        clock.step_ns = [1, 1, 1_000, 30_517, MS][dice.range(0, 5) as usize];
        let options = Options { resolution_ns: clock.step_ns.max(1_000), ..Options::default() };
        let talk = Talk::random(&mut dice);
        let rows = rows(&mut dice, &hub, &clock, &talk, 10 * SECOND, until);
        let alignment = align(&evidence_of_one(&hub, rows), &options);
        let map = alignment.map("phone", 0).expect("the device has one epoch");
        prop_assert_eq!(map.segment_count(), 1);
        // Before the first and after the last evidence too.
        sample(&mut dice, &clock, map, 0, until + 30 * SECOND, |dev_ns, truth_ns, _| assert_inside(map, dev_ns, truth_ns));
    }

    #[test]
    fn standstills_are_found_and_the_truth_is_inside_around_them(seed in any::<u64>()) {
        let (mut dice, hub) = (Dice(seed), steady_hub());
        let until = 300 * SECOND;
        let asleep: Vec<(i64, i64)> = (1..=dice.range(1, 4))
            .map(|nth| {
                let from = nth * 70 * SECOND + dice.range(0, 20 * SECOND);
                // Long enough to contradict: beyond the interval's width and the drift over the evidence's gaps.
                (from, from + dice.range(60 * MS, 20 * SECOND))
            })
            .collect();
        let clock = random_clock(&mut dice, until, &asleep);
        let talk = Talk { probe_every_ns: 500 * MS, ..Talk::random(&mut dice) };
        let rows = rows(&mut dice, &hub, &clock, &talk, 0, until);
        let alignment = align(&evidence_of_one(&hub, rows), &Options::default());
        let map = alignment.map("phone", 0).expect("the device has one epoch");
        prop_assert_eq!(map.segment_count() as usize, 1 + asleep.len());
        let told = alignment.warnings().iter().filter(|warning| matches!(warning, Warning::Discontinuity { .. }));
        prop_assert_eq!(told.count(), asleep.len());
        sample(&mut dice, &clock, map, 0, until, |dev_ns, truth_ns, _| assert_inside(map, dev_ns, truth_ns));
    }

    #[test]
    fn guarded_bounds_hold_through_standstills_of_any_size(seed in any::<u64>()) {
        let (mut dice, hub) = (Dice(seed), steady_hub());
        let until = 200 * SECOND;
        let mut at = 0;
        let mut asleep = Vec::new();
        while at < until {
            at += dice.range(5 * SECOND, 80 * SECOND);
            // From far too small to be seen to just large enough.
            asleep.push((at, at + dice.range(1_000, 12 * MS)));
        }
        let clock = random_clock(&mut dice, until, &asleep);
        let talk = Talk::random(&mut dice);
        let rows = rows(&mut dice, &hub, &clock, &talk, 0, until);
        let options = Options { guard_steps: true, ..Options::default() };
        let alignment = align(&evidence_of_one(&hub, rows), &options);
        let map = alignment.map("phone", 0).expect("the device has one epoch");
        let mut finite = 0;
        sample(&mut dice, &clock, map, 10 * SECOND, until - 10 * SECOND, |dev_ns, truth_ns, placed| {
            finite += u32::from(placed.half_width_ns.is_finite());
            assert_inside(map, dev_ns, truth_ns);
        });
        // Sparse evidence and many cuts leave few, but never none.
        prop_assert!(finite > 0);
    }

    #[test]
    fn the_rows_of_the_map_are_the_map(seed in any::<u64>()) {
        let (mut dice, hub) = (Dice(seed), steady_hub());
        let until = 150 * SECOND;
        let asleep = [(60 * SECOND, 60 * SECOND + dice.range(60 * MS, 5 * SECOND))];
        let clock = random_clock(&mut dice, until, &asleep);
        let talk = Talk { probe_every_ns: 400 * MS, ..Talk::random(&mut dice) };
        let rows = rows(&mut dice, &hub, &clock, &talk, 0, until);
        let alignment = align(&evidence_of_one(&hub, rows), &Options::default());
        let map = alignment.map("phone", 0).expect("the device has one epoch");
        let rows = map.rows();
        prop_assert!(rows.windows(2).all(|pair| pair[0].device_time_ns < pair[1].device_time_ns));
        let (first, last) = (rows[0].device_time_ns, rows[rows.len() - 1].device_time_ns);
        let mut stamps: Vec<i64> = (0..2_000).map(|_| dice.range(first, last)).collect();
        stamps.sort_unstable();
        let mut cursor = map.cursor();
        let mut previous: Option<(i64, Placed)> = None;
        for dev_ns in stamps {
            let placed = cursor.at(dev_ns);
            prop_assert_eq!(placed, map.at(dev_ns));
            let row = rows[rows.partition_point(|row| row.device_time_ns <= dev_ns) - 1];
            let by_row = row.session_ns + ((dev_ns - row.device_time_ns) as f64 * (row.rate - 1.0)).round() as i64
                + (dev_ns - row.device_time_ns);
            prop_assert!(by_row.abs_diff(placed.session_ns) <= 2, "{} {:?} {:?}", by_row, placed, row);
            prop_assert!(placed.half_width_ns <= row.err_ns, "{:?} {:?}", placed, row);
            prop_assert_eq!(placed.segment, row.segment);
            if let Some((before_ns, before)) = previous.filter(|(_, before)| before.segment == placed.segment) {
                prop_assert!(dev_ns - before_ns < 2 || before.session_ns < placed.session_ns);
            }
            previous = Some((dev_ns, placed));
        }
    }

    #[test]
    fn clocks_may_be_aligned_in_any_order(seed in any::<u64>()) {
        let (mut dice, hub) = (Dice(seed), steady_hub());
        let devices = ["belt", "phone", "watch"].map(|device| {
            let clock = random_clock(&mut dice, 30 * SECOND, &[(10 * SECOND, 12 * SECOND)]);
            let talk = Talk::random(&mut dice);
            (device, rows(&mut dice, &hub, &clock, &talk, 0, 30 * SECOND))
        });
        let evidence = evidence(&hub, devices.into());
        let options = Options::default();
        let backwards = align_by(&evidence, &options, |clocks, course| {
            let mut courses: Vec<ClockCourse> = (0..clocks).rev().map(course).collect();
            courses.reverse();
            courses
        });
        let rows = |alignment: &Alignment| {
            ["belt", "phone", "watch"].map(|device| alignment.map(device, 0).map(ClockMap::rows))
        };
        prop_assert!(rows(&backwards).iter().all(Option::is_some));
        prop_assert_eq!(rows(&align(&evidence, &options)), rows(&backwards));
    }

    #[test]
    fn stamps_that_are_placed_at_once_are_placed_as_each_alone(seed in any::<u64>(), guard_steps in any::<bool>(),
        resolution_ns in 1..2 * MS) {
        let (mut dice, hub) = (Dice(seed), steady_hub());
        let until = 90 * SECOND;
        let asleep = [(40 * SECOND, 40 * SECOND + dice.range(60 * MS, 5 * SECOND))];
        let clock = random_clock(&mut dice, until, &asleep);
        let talk = Talk::random(&mut dice);
        let rows = rows(&mut dice, &hub, &clock, &talk, 0, until);
        let options = Options { guard_steps: guard_steps && dice.range(0, 4) == 0, resolution_ns, ..Options::default() };
        let alignment = align(&evidence_of_one(&hub, rows), &options);
        let map = alignment.map("phone", 0).expect("the device has one epoch");
        let rows = map.rows();
        let ends = (rows[0].device_time_ns - 2 * SECOND, rows[rows.len() - 1].device_time_ns + 2 * SECOND);
        let step = dice.range(1, 20 * MS);
        let mut stamps: Vec<i64> = (0..5_000).map(|at| ends.0 + at * step).collect();
        stamps.extend((0..500).map(|_| dice.range(ends.0, ends.1)));
        // Where pieces meet, and on either side of it.
        stamps.extend(rows.iter().flat_map(|row| [-1, 0, 1].map(|by| row.device_time_ns + by)));
        let segments = &map.segments;
        let points = segments.iter().flat_map(|segment| {
            let (above, below) = segment.envelope.points();
            let facts = above.iter().chain(below).map(|point| point.dev_ns);
            facts.chain([segment.begins_ns, segment.certain.0, segment.certain.1]).collect::<Vec<_>>()
        });
        stamps.extend(points.flat_map(|at| [-1, 0, 1].map(|by| at.saturating_add(by))));
        prop_assert_eq!(published_at_once(map, &stamps), published_alone(map, &stamps));
        stamps.sort_unstable();
        prop_assert_eq!(published_at_once(map, &stamps), published_alone(map, &stamps));
        for part in stamps.chunks(dice.range(1, 200) as usize) {
            prop_assert_eq!(published_at_once(map, part), published_alone(map, part));
        }
    }

    #[test]
    fn the_order_of_the_rows_does_not_matter(seed in any::<u64>()) {
        let (mut dice, hub) = (Dice(seed), steady_hub());
        let clock = random_clock(&mut dice, 60 * SECOND, &[(30 * SECOND, 31 * SECOND)]);
        let talk = Talk::random(&mut dice);
        let mut rows = rows(&mut dice, &hub, &clock, &talk, 0, 60 * SECOND);
        let one = align(&evidence_of_one(&hub, rows.clone()), &Options::default());
        for i in (1..rows.len()).rev() {
            rows.swap(i, dice.range(0, i as i64 + 1) as usize);
        }
        let other = align(&evidence_of_one(&hub, rows), &Options::default());
        let maps = |alignment: &Alignment| alignment.map("phone", 0).map(ClockMap::rows);
        prop_assert_eq!(maps(&one), maps(&other));
    }

    #[test]
    fn any_rows_at_all_give_a_map(rows in prop::collection::vec(any_row(), 0..60), ppm in any::<f64>(),
        resolution_ns in any::<i64>(), guard_steps in any::<bool>(), live in any::<bool>(), walls in prop::collection::vec(any_wall(), 0..5),
        anchor in any_wall(), stamps in prop::collection::vec(any_stamp(), 1..40)) {
        let evidence = SessionEvidence {
            anchor,
            hub_epochs: vec![2, 1],
            walls,
            devices: vec![DeviceEvidence {
                device: "phone".to_owned(),
                clocks: vec![
                    ClockEvidence { key: [1; 16], epochs: vec![0, 1], rows: rows.clone() },
                    ClockEvidence { key: [2; 16], epochs: vec![1], rows },
                ],
            }],
        };
        let alignment = align(&evidence, &Options { max_drift_ppm: ppm, guard_steps, live, resolution_ns });
        let map = alignment.map("phone", 1).expect("the epoch is listed");
        let mut cursor = map.cursor();
        for &dev_ns in &stamps {
            let placed = cursor.at(dev_ns);
            prop_assert!(placed.half_width_ns >= 0.0);
            prop_assert_eq!(placed, map.at(dev_ns));
            prop_assert!(cursor.published(dev_ns).err_us >= 0.0);
        }
        for stamps in [sorted(&stamps), stamps] {
            prop_assert_eq!(published_at_once(map, &stamps), published_alone(map, &stamps));
        }
        for row in map.rows() {
            prop_assert!(row.err_ns >= 0.0 && row.rate >= 0.5 && row.detectable_ns >= 0.0, "{:?}", row);
        }
        for warning in alignment.warnings() {
            prop_assert!(!warning.to_string().is_empty());
        }
    }
}

#[test]
fn most_stamps_go_the_short_way() {
    let (mut dice, hub) = (Dice(7), steady_hub());
    let until = 60 * SECOND;
    let clock = random_clock(&mut dice, until, &[]);
    let talk = Talk {
        probe_every_ns: 400 * MS,
        ..Talk::random(&mut dice)
    };
    let rows = rows(&mut dice, &hub, &clock, &talk, 0, until);
    let alignment = align(&evidence_of_one(&hub, rows), &Options::default());
    let map = alignment.map("phone", 0).expect("the device has one epoch");
    let rows = map.rows();
    let (first, last) = (rows[0].device_time_ns, rows[rows.len() - 1].device_time_ns);
    let mut cursor = map.cursor();
    let (mut straight, mut short, mut all) = (None::<Straight>, 0, 0);
    for dev_ns in (first..last).step_by(10 * MS as usize) {
        let placed = straight.filter(|straight| straight.holds(dev_ns));
        match placed.and_then(|straight| straight.placed(dev_ns)) {
            Some(_) => short += 1,
            None => {
                cursor.published(dev_ns);
                straight = cursor.straight();
            }
        }
        all += 1;
    }
    assert!(short > all * 9 / 10, "{short} of {all}");
}

fn sorted(stamps: &[i64]) -> Vec<i64> {
    let mut sorted = stamps.to_vec();
    sorted.sort_unstable();
    sorted
}

fn published_alone(map: &ClockMap, stamps: &[i64]) -> Vec<(i64, u32)> {
    let published = stamps.iter().map(|&dev_ns| map.published(dev_ns));
    published
        .map(|placed| (placed.time_us, placed.err_us.to_bits()))
        .collect()
}

fn published_at_once(map: &ClockMap, stamps: &[i64]) -> Vec<(i64, u32)> {
    let mut published = Vec::new();
    map.cursor().publish(stamps, |time_us, err_us| {
        published.push((time_us, err_us.to_bits()))
    });
    published
}

fn steady_hub() -> Hub {
    Hub {
        boots: vec![(-1_000 * SECOND, 0)],
        away_ns: 0,
    }
}

fn random_clock(dice: &mut Dice, until: i64, asleep: &[(i64, i64)]) -> DeviceClock {
    let base_ns = dice.range(0, 1_000_000) * SECOND;
    DeviceClock::new(dice, base_ns, 99.99, until + 60 * SECOND, asleep)
}

fn any_stamp() -> impl Strategy<Value = i64> {
    prop_oneof![
        any::<i64>(),
        -10 * SECOND..10 * SECOND,
        Just(i64::MIN),
        Just(i64::MAX),
        Just(0),
        Just((1 << 62) - 1),
        Just(1 - (1 << 62)),
    ]
}

fn any_row() -> impl Strategy<Value = Row> {
    let hub = || 1u64..5;
    prop_oneof![
        (hub(), any_stamp(), any_stamp(), any_stamp(), any_stamp()).prop_map(
            |(hub_epoch, dev_send, hub_recv, hub_send, dev_recv)| Row::Exchange {
                hub_epoch,
                dev_send,
                hub_recv,
                hub_send,
                dev_recv
            }
        ),
        (hub(), any_stamp(), any_stamp()).prop_map(|(hub_epoch, dev_send, hub_recv)| Row::Up {
            hub_epoch,
            dev_send,
            hub_recv
        }),
        (hub(), any_stamp(), any_stamp()).prop_map(|(hub_epoch, hub_send, dev_recv)| Row::Down {
            hub_epoch,
            hub_send,
            dev_recv
        }),
    ]
}

fn any_wall() -> impl Strategy<Value = WallReading> {
    (1u64..5, any_stamp(), any_stamp(), any_stamp()).prop_map(|(hub_epoch, hub_ns, utc_ns, error_ns)| {
        WallReading {
            hub_epoch,
            hub_ns,
            utc_ns,
            error_ns,
        }
    })
}
