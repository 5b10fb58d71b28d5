//! The bound of one device's clock as it stands, from what was heard so far.
//!
//! Owns a recursion of a few numbers: the interval of the offset at the newest device time, carried forward by the drift and met
//! with each new fact. It is the causal half of the cone of `bounds`, so it holds wherever that does, and what is published
//! later, from both sides, is never wider. No estimate: a live view has no use for one. It is told what the log takes, and
//! forgets all when the hub is restarted: the next seconds tell it again.

use super::evidence::{COUNTERS_HZ, Row, STAMP_LIMIT_NS, Side, is_on_grid};
use super::interval::{Drift, Interval};

/// What is known of a clock while it is being recorded. Nothing is claimed before some stamps have shown how finely it counts.
#[derive(Clone, Debug, Default)]
pub struct LiveClock {
    /// Which life of the device's clock, and which of the hub's.
    of: Option<([u8; 16], u64)>,
    /// Hub time minus device time at `dev_ns`.
    interval: Option<Interval>,
    dev_ns: i64,
    /// Hub time of the newest evidence.
    heard_ns: i64,
    step: Step,
    standstills: u32,
    last_step_ns: i64,
    /// Middle of the interval that the facts since the last standstill contradict.
    before_step: Option<i64>,
}

/// How finely a clock counts, as its stamps betray it.
#[derive(Clone, Copy, Debug)]
struct Step {
    first_ns: Option<i64>,
    newest_ns: i64,
    divisor_ns: u64,
    /// Which counters of 2^k Hz could have given all stamps so far: bit k.
    counters: u32,
    stamps: u32,
}

impl Default for Step {
    fn default() -> Self {
        Self {
            first_ns: None,
            newest_ns: i64::MIN,
            divisor_ns: 0,
            counters: u32::MAX,
            stamps: 0,
        }
    }
}

/// A clock at a moment of hub time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LiveBound {
    /// Half of the interval that holds the offset now; none where no bound can be given.
    pub half_width_ns: Option<u64>,
    /// How long ago the newest evidence came.
    pub silent_ns: u64,
    /// The step that the clock counts in, if it is coarser than 100 us.
    pub coarse_step_ns: Option<u64>,
    /// How often it stood still or jumped since this life of it began.
    pub standstills: u32,
    /// By how much at the last time, roughly: positive where it stood still.
    pub last_step_ns: i64,
}

/// Stamps of a clock may be off by as much without contradicting each other.
const RESOLUTION_NS: i64 = 1_000;
/// With fewer stamps a common step may be chance.
const STAMPS_LEAST: u32 = 8;
const COARSE_NS: u64 = 100_000;

impl LiveClock {
    /// Takes in evidence of the life `key` of the clock. Rows come about in the order in which they arose.
    pub fn hear(&mut self, key: [u8; 16], row: &Row, max_drift_ppm: f64) {
        let drift = Drift::from_ppm(max_drift_ppm);
        let hub_epoch = row.hub_epoch();
        if self.of != Some((key, hub_epoch)) {
            *self = Self {
                of: Some((key, hub_epoch)),
                ..Self::default()
            };
        }
        match *row {
            Row::Exchange {
                dev_send,
                hub_recv,
                hub_send,
                dev_recv,
                ..
            } => {
                // Together, so that it bounds both sides even where it contradicts all that was known.
                let Some(up) = self.fact(Side::Up, dev_send, hub_recv) else {
                    return;
                };
                let Some(down) = self.fact(Side::Down, dev_recv, hub_send) else {
                    return;
                };
                let apart = drift.spread(dev_send.abs_diff(dev_recv));
                let both = match dev_send >= dev_recv {
                    true => up.meet(down.widen(apart)),
                    false => up.widen(apart).meet(down),
                };
                // A round trip that took less than no time: the clock stood still within it, and the next one tells.
                if !both.is_empty() {
                    self.take(dev_send.max(dev_recv), hub_recv.max(hub_send), both, drift);
                }
            }
            Row::Up {
                dev_send, hub_recv, ..
            } => {
                if let Some(fact) = self.fact(Side::Up, dev_send, hub_recv) {
                    self.take(dev_send, hub_recv, fact, drift);
                }
            }
            Row::Down {
                hub_send, dev_recv, ..
            } => {
                if let Some(fact) = self.fact(Side::Down, dev_recv, hub_send) {
                    self.take(dev_recv, hub_send, fact, drift);
                }
            }
            Row::Told { .. } => {}
        }
    }

    /// What a packet proves; none if its stamps can't be.
    fn fact(&mut self, side: Side, dev_ns: i64, hub_ns: i64) -> Option<Interval> {
        let sane = |stamp: i64| stamp.unsigned_abs() <= STAMP_LIMIT_NS.unsigned_abs();
        if !sane(dev_ns) || !sane(hub_ns) {
            return None;
        }
        self.step.stamp(dev_ns);
        // Before it is known how finely the clock counts, a fact would claim too much.
        let step_ns = self.step.known_ns()?;
        let offset_ns = hub_ns - dev_ns;
        let fact = match side {
            Side::Up => Interval::at_most(offset_ns),
            Side::Down => Interval::at_least(offset_ns),
            Side::Told => Interval::ALL,
        };
        Some(fact.widen(step_ns.max(RESOLUTION_NS)))
    }

    fn take(&mut self, dev_ns: i64, hub_ns: i64, fact: Interval, drift: Drift) {
        self.heard_ns = self.heard_ns.max(hub_ns);
        let Some(known) = self.interval else {
            (self.interval, self.dev_ns) = (Some(fact), dev_ns);
            return;
        };
        // Whichever is older is carried to the other's time.
        let apart = drift.spread(dev_ns.abs_diff(self.dev_ns));
        let (known, fact) = match dev_ns >= self.dev_ns {
            true => (known.widen(apart), fact),
            false => (known, fact.widen(apart)),
        };
        let is_late = dev_ns < self.dev_ns;
        self.dev_ns = self.dev_ns.max(dev_ns);
        let mut both = known.meet(fact);
        if both.is_empty() {
            if is_late {
                // Of before a standstill that newer evidence has shown already.
                return;
            }
            self.standstills = self.standstills.saturating_add(1);
            self.before_step = self.before_step.or(Some(known.centre()));
            both = fact;
        }
        self.interval = Some(both);
        if both.is_bounded()
            && let Some(before) = self.before_step.take()
        {
            self.last_step_ns = both.centre().saturating_sub(before);
        }
    }

    /// The clock at a moment of hub time; none if nothing was heard of it in this life of the hub's clock.
    pub fn at(&self, hub_epoch: u64, hub_ns: i64, max_drift_ppm: f64) -> Option<LiveBound> {
        let interval = self
            .interval
            .filter(|_| self.of.is_some_and(|of| of.1 == hub_epoch))?;
        let silent_ns = u64::try_from(hub_ns.saturating_sub(self.heard_ns)).unwrap_or(0);
        // How far the device's clock has run since, at most: evidence may have been long on its way.
        let drift = Drift::from_ppm(max_drift_ppm);
        let since_ns = hub_ns.saturating_sub(self.dev_ns.saturating_add(interval.lo));
        let since_ns = u64::try_from(since_ns).unwrap_or(0);
        let since_ns = since_ns.saturating_add(drift.spread(since_ns).unsigned_abs());
        let now = interval.widen(drift.spread(since_ns));
        let half_width_ns = now.is_bounded().then(|| now.hi.abs_diff(now.lo).div_ceil(2));
        Some(LiveBound {
            half_width_ns,
            silent_ns,
            coarse_step_ns: self
                .step
                .known_ns()
                .and_then(|step_ns| u64::try_from(step_ns).ok())
                .filter(|&step_ns| step_ns > COARSE_NS),
            standstills: self.standstills,
            last_step_ns: self.last_step_ns,
        })
    }
}

impl Step {
    fn stamp(&mut self, dev_ns: i64) {
        let Some(first_ns) = self.first_ns else {
            (self.first_ns, self.newest_ns) = (Some(dev_ns), dev_ns);
            return;
        };
        // A stamp that is told twice says no more than once.
        self.stamps = self.stamps.saturating_add(u32::from(dev_ns > self.newest_ns));
        self.newest_ns = self.newest_ns.max(dev_ns);
        let apart_ns = dev_ns.abs_diff(first_ns);
        let (mut a, mut b) = (self.divisor_ns, apart_ns);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        self.divisor_ns = a;
        for power in COUNTERS_HZ {
            if self.counters & (1 << power) != 0 && !is_on_grid(apart_ns, 1 << power) {
                self.counters &= !(1 << power);
            }
        }
    }

    /// The step that all stamps so far fit, at least a nanosecond; none before there are enough of them. It never grows.
    fn known_ns(self) -> Option<i64> {
        if self.stamps < STAMPS_LEAST {
            return None;
        }
        let decimal = i64::try_from(self.divisor_ns)
            .unwrap_or(i64::MAX)
            .min(COARSEST_NS);
        let counter = COUNTERS_HZ
            .into_iter()
            .find(|power| self.counters & (1 << power) != 0)
            .map_or(1, |power| COARSEST_NS / (1 << power) + 2);
        Some(decimal.max(counter).max(1))
    }
}

const COARSEST_NS: i64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    const MS: i64 = 1_000_000;
    const SECOND: i64 = 1_000_000_000;

    /// An exchange at a device time, 1 ms each way, where the hub is ahead by `ahead_ns`.
    fn exchange(dev_ns: i64, ahead_ns: i64) -> Row {
        Row::Exchange {
            hub_epoch: 1,
            dev_send: dev_ns,
            hub_recv: dev_ns + ahead_ns + MS,
            hub_send: dev_ns + ahead_ns + MS,
            dev_recv: dev_ns + 2 * MS,
        }
    }

    fn hear(clock: &mut LiveClock, row: &Row) {
        clock.hear([7; 16], row, 100.0);
    }

    #[test]
    fn the_bound_is_that_of_the_best_exchange_and_grows_in_silence() {
        let mut clock = LiveClock::default();
        assert_eq!(clock.at(1, 0, 100.0), None);
        for second in 0..30i64 {
            hear(
                &mut clock,
                &exchange(second * SECOND + second * second * 7_919, 5 * SECOND),
            );
        }
        let now = 29 * SECOND + 29 * 29 * 7_919 + 5 * SECOND;
        let half_ns = |hub_ns| clock.at(1, hub_ns, 100.0).and_then(|bound| bound.half_width_ns);
        let at_once = half_ns(now + MS).expect("both directions were heard");
        assert!((1_000_000..1_010_000).contains(&at_once), "{at_once}");
        // 100 ppm of 60 s, either way.
        let later = half_ns(now + 60 * SECOND).expect("as before");
        assert!((7_000_000..7_020_000).contains(&later), "{later}");
        assert_eq!(clock.at(2, now, 100.0), None);
        let bound = clock.at(1, now, 100.0).expect("it was heard");
        assert_eq!((bound.standstills, bound.coarse_step_ns), (0, None));
        // Another life of the clock.
        clock.hear(
            [8; 16],
            &Row::Up {
                hub_epoch: 1,
                dev_send: 3,
                hub_recv: 4,
            },
            100.0,
        );
        assert_eq!(clock.at(1, 4, 100.0).and_then(|bound| bound.half_width_ns), None);
    }

    #[test]
    fn a_standstill_and_a_jump_ahead_are_counted_once_each_with_their_size() {
        let mut clock = LiveClock::default();
        for second in 0..60i64 {
            let ahead_ns = match second {
                0..20 => SECOND,
                20..40 => SECOND + 50 * MS,
                _ => SECOND - 300 * MS,
            };
            hear(
                &mut clock,
                &exchange(second * SECOND + second * second * 7_919, ahead_ns),
            );
            let bound = clock.at(1, (second + 1) * SECOND, 100.0);
            let Some(bound) = bound else {
                assert!(second < 8, "nothing is known of it after {second} s");
                continue;
            };
            assert_eq!(bound.standstills, (second / 20) as u32, "at {second} s");
            let step_ns = [0, 50 * MS, -350 * MS][(second / 20) as usize];
            assert!((bound.last_step_ns - step_ns).abs() < 2 * MS, "{bound:?}");
        }
    }

    #[test]
    fn the_truth_is_inside_whatever_the_delays_and_a_late_frame_does_no_harm() {
        let mut clock = LiveClock::default();
        let mut dice = 1u64;
        let mut roll = |most: i64| {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (dice >> 33).cast_signed() % most
        };
        // 80 ppm slow: the hub gains on it.
        let ahead = |dev_ns: i64| SECOND + dev_ns / 12_500;
        for turn in 0..5_000i64 {
            let dev_ns = turn * 100 * MS + roll(MS);
            let (up, down) = (roll(20 * MS), roll(5 * MS));
            let row = match turn % 3 {
                0 => Row::Up {
                    hub_epoch: 1,
                    dev_send: dev_ns,
                    hub_recv: dev_ns + ahead(dev_ns) + up,
                },
                1 => Row::Down {
                    hub_epoch: 1,
                    hub_send: dev_ns + ahead(dev_ns) - down,
                    dev_recv: dev_ns,
                },
                // Heard of long after it was stamped.
                _ => {
                    let then = dev_ns - roll(30 * SECOND);
                    Row::Up {
                        hub_epoch: 1,
                        dev_send: then,
                        hub_recv: dev_ns + ahead(dev_ns) + up,
                    }
                }
            };
            hear(&mut clock, &row);
            let Some(interval) = clock.interval else {
                assert!(turn < 30, "nothing is known of it at {turn}");
                continue;
            };
            let truth = ahead(clock.dev_ns);
            assert!(
                interval.lo <= truth && truth <= interval.hi,
                "{turn}: {interval:?} {truth}"
            );
            assert_eq!(clock.standstills, 0);
        }
        assert!(
            clock
                .at(1, 501 * SECOND, 100.0)
                .and_then(|it| it.half_width_ns)
                .is_some_and(|half| half < 3 * MS as u64)
        );
    }

    #[test]
    fn a_coarse_clock_is_told_of_and_its_steps_are_no_standstills() {
        let mut clock = LiveClock::default();
        for second in 0..60i64 {
            let dev_ns = second * SECOND + (second * second * 7_919) % MS;
            let shown = dev_ns.div_euclid(10 * MS) * 10 * MS;
            hear(
                &mut clock,
                &Row::Exchange {
                    hub_epoch: 1,
                    dev_send: shown,
                    hub_recv: dev_ns + 100_000,
                    hub_send: dev_ns + 100_000,
                    dev_recv: (dev_ns + 200_000).div_euclid(10 * MS) * 10 * MS,
                },
            );
        }
        let bound = clock.at(1, 60 * SECOND, 100.0).expect("it was heard");
        assert!(
            bound.coarse_step_ns.is_some_and(|step| step >= 10 * MS as u64),
            "{bound:?}"
        );
        for nonsense in [i64::MIN, i64::MAX] {
            hear(
                &mut clock,
                &Row::Up {
                    hub_epoch: 1,
                    dev_send: nonsense,
                    hub_recv: 0,
                },
            );
            hear(
                &mut clock,
                &Row::Down {
                    hub_epoch: 1,
                    hub_send: nonsense,
                    dev_recv: 0,
                },
            );
        }
        assert!(clock.at(1, i64::MAX, 100.0).is_some());
    }

    /// A clock that shows `shown`, at the hub's own rate, `way_ns` each way: the truth is an offset of 0 up to a step.
    fn coarse(shown: impl Fn(i64) -> i64, way_ns: i64, step_ns: i64) -> LiveBound {
        let mut clock = LiveClock::default();
        for second in 0..60i64 {
            let dev_ns = second * SECOND + (second * second * 7_919_123) % (500 * MS);
            let row = Row::Exchange {
                hub_epoch: 1,
                dev_send: shown(dev_ns),
                hub_recv: dev_ns + way_ns,
                hub_send: dev_ns + way_ns,
                dev_recv: shown(dev_ns + 2 * way_ns),
            };
            hear(&mut clock, &row);
            if let Some(interval) = clock.interval {
                assert!(
                    interval.lo <= 0 && interval.hi >= 0,
                    "{second}: {interval:?} beside steps of {step_ns}"
                );
            }
        }
        clock.at(1, 60 * SECOND, 100.0).expect("it was heard")
    }

    #[test]
    fn steps_of_any_clock_are_no_standstills() {
        for way_ns in [100_000, MS, 2 * MS] {
            let bound = coarse(|ns| ns.div_euclid(10 * MS) * 10 * MS, way_ns, 10 * MS);
            assert_eq!(
                (bound.standstills, bound.coarse_step_ns.is_some()),
                (0, true),
                "{way_ns}"
            );
        }
        for hertz in [1_024, 32_768] {
            let counts = |ns: i64| {
                let ticks = i128::from(ns) * i128::from(hertz) / 1_000_000_000;
                (ticks * 1_000_000_000 / i128::from(hertz)) as i64
            };
            let bound = coarse(counts, 100_000, SECOND / hertz);
            assert_eq!(
                (bound.standstills, bound.coarse_step_ns.is_some()),
                (0, hertz < 10_000),
                "{hertz}"
            );
        }
        // One stamp many times is none.
        let mut clock = LiveClock::default();
        let up = |dev_send| Row::Up {
            hub_epoch: 1,
            dev_send,
            hub_recv: 9 * SECOND,
        };
        hear(&mut clock, &up(123));
        (0..20).for_each(|_| hear(&mut clock, &up(456_789_124)));
        assert_eq!(clock.at(1, 10 * SECOND, 100.0), None);
    }

    #[test]
    fn the_bound_of_now_holds_after_evidence_that_was_long_on_its_way() {
        let mut clock = LiveClock::default();
        // 80 ppm slow: the hub gains on it.
        let ahead = |dev_ns: i64| dev_ns / 12_500;
        for second in 0..20i64 {
            let dev_ns = second * SECOND + second * second * 7_919;
            hear(&mut clock, &exchange(dev_ns, ahead(dev_ns)));
        }
        let held = Row::Up {
            hub_epoch: 1,
            dev_send: 20 * SECOND + 13,
            hub_recv: 80 * SECOND,
        };
        hear(&mut clock, &held);
        let bound = clock.at(1, 80 * SECOND, 100.0).expect("it was heard");
        let (interval, truth) = (clock.interval.expect("heard"), ahead(80 * SECOND));
        let off = truth.abs_diff(interval.centre());
        assert!(
            bound.half_width_ns.is_some_and(|half| off <= half),
            "{bound:?} {interval:?} {truth}"
        );
        // Exchanges that can't be say nothing, and do not break the silence.
        for second in 20..3_600i64 {
            let dev_ns = second * SECOND + second * 7_919;
            let impossible = Row::Exchange {
                hub_epoch: 1,
                dev_send: dev_ns,
                hub_recv: dev_ns,
                hub_send: dev_ns + 10_000,
                dev_recv: dev_ns + 3,
            };
            hear(&mut clock, &impossible);
        }
        let bound = clock.at(1, 3_600 * SECOND, 100.0).expect("it was heard");
        assert!(
            bound.half_width_ns.is_some_and(|half| half > 300 * MS as u64),
            "{bound:?}"
        );
    }

    #[test]
    fn evidence_of_before_a_standstill_that_comes_after_it_is_left_out() {
        let mut clock = LiveClock::default();
        let at = |second: i64| second * SECOND + second * second * 7_919;
        (0..20).for_each(|second| hear(&mut clock, &exchange(at(second), SECOND)));
        (21..24).for_each(|second| hear(&mut clock, &exchange(at(second), SECOND + 50 * MS)));
        hear(&mut clock, &exchange(at(20), SECOND));
        let interval = clock.interval.expect("heard");
        assert!(
            interval.lo <= SECOND + 50 * MS && SECOND + 50 * MS <= interval.hi,
            "{interval:?}"
        );
        assert_eq!(clock.standstills, 1);
    }
}
