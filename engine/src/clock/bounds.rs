//! The cone: hard bounds on a clock's offset at any device time, from one-way facts and the declared drift.
//!
//! Owns the envelope `U(x) = min(u_i + rho |x - x_i|)`, `L(x) = max(l_i - rho |x - x_i|)` of the facts that belong
//! to one segment, and the sweep that says how large a jump these facts would fail to show.
//!
//! Invariants: only facts that bind somewhere are kept, so that the nearest kept fact on either side decides; and
//! whatever is dropped, the bound that remains is that of a true fact.

use super::interval::{Drift, Interval};

/// The hard bounds of one segment.
#[derive(Clone, Debug, Default)]
pub(super) struct Envelope {
    upper: Vec<Point>,
    lower: Vec<Point>,
}

/// A binding fact: the offset at `dev_ns` is at most (or at least) `offset_ns`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    pub dev_ns: i64,
    pub offset_ns: i64,
}

/// Where a reader of an envelope stands, so that reading on costs nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    upper: usize,
    lower: usize,
}

/// The binding facts before and after a device time, above the offset and below it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Around {
    pub above: (Point, Point),
    pub below: (Point, Point),
}

impl Envelope {
    /// From facts sorted by device time; open ends are skipped.
    pub fn build(facts: impl Iterator<Item = (i64, Interval)>, drift: Drift) -> Self {
        let (mut upper, mut lower) = (Vec::new(), Vec::new());
        for (dev_ns, interval) in facts {
            if interval.hi != i64::MAX {
                keep_binding(
                    &mut upper,
                    Point {
                        dev_ns,
                        offset_ns: interval.hi,
                    },
                    drift,
                    i64::saturating_add,
                );
            }
            if interval.lo != i64::MIN {
                keep_binding(
                    &mut lower,
                    Point {
                        dev_ns,
                        offset_ns: interval.lo,
                    },
                    drift,
                    i64::saturating_sub,
                );
            }
        }
        upper.shrink_to_fit();
        lower.shrink_to_fit();
        Self { upper, lower }
    }

    /// The hard interval of the offset at `dev_ns`.
    pub fn at(&self, dev_ns: i64, drift: Drift) -> Interval {
        self.between(self.place(dev_ns), dev_ns, drift)
    }

    /// Where a reader that begins at `dev_ns` stands.
    pub fn place(&self, dev_ns: i64) -> Place {
        let after = |points: &[Point]| points.partition_point(|point| point.dev_ns <= dev_ns);
        Place {
            upper: after(&self.upper),
            lower: after(&self.lower),
        }
    }

    /// As `at`, from a place that an earlier, smaller device time left behind.
    pub fn read_on(&self, place: &mut Place, dev_ns: i64, drift: Drift) -> Interval {
        place.upper = advance(&self.upper, place.upper, dev_ns);
        place.lower = advance(&self.lower, place.lower, dev_ns);
        self.between(*place, dev_ns, drift)
    }

    /// The facts next to a place; none where one of the four is missing.
    pub fn around(&self, place: Place) -> Option<Around> {
        let pair = |points, after| match around(points, after) {
            [before, after] => Some((*before, *after)),
            _ => None,
        };
        Some(Around {
            above: pair(&self.upper, place.upper)?,
            below: pair(&self.lower, place.lower)?,
        })
    }

    /// The binding facts of the upper and of the lower side.
    pub fn points(&self) -> (&[Point], &[Point]) {
        (&self.upper, &self.lower)
    }

    /// The device times in `from..=until` at which the interval is widest: between two binding facts of a side.
    pub fn crests(&self, from: i64, until: i64, drift: Drift, visit: &mut impl FnMut(i64)) {
        for (points, sign) in [(&self.upper, 1), (&self.lower, -1)] {
            let first = points
                .partition_point(|point| point.dev_ns < from)
                .saturating_sub(1);
            for pair in points[first..].windows(2) {
                if pair[0].dev_ns > until {
                    break;
                }
                let crest = crest(pair[0], pair[1], sign, drift);
                for dev_ns in [crest.saturating_sub(1), crest, crest.saturating_add(1)] {
                    if (from..=until).contains(&dev_ns) {
                        visit(dev_ns);
                    }
                }
            }
        }
    }

    fn between(&self, place: Place, dev_ns: i64, drift: Drift) -> Interval {
        let reach = |point: &Point| drift.spread(point.dev_ns.abs_diff(dev_ns));
        let mut interval = Interval::ALL;
        for point in around(&self.upper, place.upper) {
            interval.hi = interval.hi.min(point.offset_ns.saturating_add(reach(point)));
        }
        for point in around(&self.lower, place.lower) {
            interval.lo = interval.lo.max(point.offset_ns.saturating_sub(reach(point)));
        }
        interval
    }
}

/// The points before and at a place.
fn around(points: &[Point], after: usize) -> &[Point] {
    let end = (after + 1).min(points.len());
    &points[after.saturating_sub(1).min(end)..end]
}

/// For each stretch between two neighbours of `marks` (sorted): how wide an interval the facts up to a place leave
/// it at most, in nanoseconds; `u64::MAX` where there are none on one side. Facts are sorted by device time.
///
/// With its mirror image this gives the largest jump that could hide in the stretch. A jump at `x` moves all later
/// facts against all earlier ones. The earlier ones alone leave the offset an interval at `x`, and so do the later
/// ones alone; neither width is changed by the jump. A bound that a hidden jump makes false is off by no more than
/// the larger of the two, whatever the jump: past it, the facts contradict each other.
pub(super) fn widths_from_before(
    facts: impl Iterator<Item = (i64, Interval)>,
    marks: &[i64],
    drift: Drift,
) -> Vec<u64> {
    let mut widths = vec![0u64; marks.len().saturating_sub(1)];
    sweep(facts, marks.iter().skip(1).copied(), drift, |stretch, width| {
        widths[stretch] = widths[stretch].max(width);
    });
    widths
}

/// As `widths_from_before`, for the facts from a place on. In mirrored time these come first.
pub(super) fn widths_from_after(
    facts: impl DoubleEndedIterator<Item = (i64, Interval)>,
    marks: &[i64],
    drift: Drift,
) -> Vec<u64> {
    let mirrored = facts
        .rev()
        .map(|(dev_ns, interval)| (dev_ns.saturating_neg(), interval));
    let ends: Vec<i64> = marks.iter().rev().map(|mark| mark.saturating_neg()).collect();
    let mut widths = widths_from_before(mirrored, &ends, drift);
    widths.reverse();
    widths
}

/// Carries the facts' interval along and reports how wide it grew: before each fact, and at each stretch's end.
fn sweep(
    facts: impl Iterator<Item = (i64, Interval)>,
    ends: impl Iterator<Item = i64>,
    drift: Drift,
    mut report: impl FnMut(usize, u64),
) {
    let mut facts = facts.peekable();
    let mut at = facts.peek().map_or(0, |&(dev_ns, _)| dev_ns);
    let mut carried = Interval::ALL;
    for (stretch, end) in ends.enumerate() {
        while let Some((dev_ns, interval)) = facts.next_if(|&(dev_ns, _)| dev_ns <= end) {
            carried = carried.widen(drift.spread(dev_ns.abs_diff(at)));
            report(stretch, carried.width());
            carried = carried.meet(interval);
            at = dev_ns;
        }
        let grown = if end > at {
            drift.spread(end.abs_diff(at))
        } else {
            0
        };
        report(stretch, carried.widen(grown).width());
    }
}

/// Appends `point` if it binds, and removes what it makes idle. `outward` moves a bound away from the truth.
fn keep_binding(points: &mut Vec<Point>, point: Point, drift: Drift, outward: fn(i64, i64) -> i64) {
    // Is `of`, carried to `to`, at least as tight as `to` itself? Tighter is the side away from `outward`.
    let covers = |of: &Point, to: &Point| {
        let carried = outward(of.offset_ns, drift.spread(of.dev_ns.abs_diff(to.dev_ns)));
        if outward(0, 1) > 0 {
            carried <= to.offset_ns
        } else {
            carried >= to.offset_ns
        }
    };
    if points.last().is_some_and(|last| covers(last, &point)) {
        return;
    }
    while points.last().is_some_and(|last| covers(&point, last)) {
        points.pop();
    }
    points.push(point);
}

fn advance(points: &[Point], mut after: usize, dev_ns: i64) -> usize {
    while points.get(after).is_some_and(|point| point.dev_ns <= dev_ns) {
        after += 1;
    }
    after
}

/// Where the cones of two neighbours on one side meet: the bound is loosest there.
fn crest(left: Point, right: Point, sign: i64, drift: Drift) -> i64 {
    let gap = right.dev_ns.abs_diff(left.dev_ns) as f64;
    let rise = (right.offset_ns.saturating_sub(left.offset_ns) as f64) * sign as f64;
    let fraction = drift.fraction();
    let along = if fraction > 0.0 {
        gap / 2.0 + rise / (2.0 * fraction)
    } else {
        gap / 2.0
    };
    left.dev_ns
        .saturating_add(along.clamp(0.0, gap) as i64)
        .min(right.dev_ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drift() -> Drift {
        Drift::from_ppm(100.0)
    }

    #[test]
    fn only_binding_facts_are_kept_and_they_decide() {
        let facts: Vec<(i64, Interval)> = (0..1_000)
            .map(|i: i64| {
                let late = (i * i * 7_919) % 40_011;
                let dev_ns = i * 100_000_000;
                let interval = Interval::at_most(5_000 + late);
                (
                    dev_ns,
                    if i % 3 == 0 {
                        Interval {
                            lo: -5_000 - late,
                            ..interval
                        }
                    } else {
                        interval
                    },
                )
            })
            .collect();
        let envelope = Envelope::build(facts.iter().copied(), drift());
        let (upper, lower) = envelope.points();
        assert!(
            upper.len() < 900 && lower.len() < 330,
            "{} {}",
            upper.len(),
            lower.len()
        );
        let mut place = Place::default();
        for dev_ns in (-1_000_000_000..101_000_000_000).step_by(37_000_011) {
            let all = facts.iter().fold(Interval::ALL, |all, &(at, interval)| {
                all.meet(interval.widen(drift().spread(at.abs_diff(dev_ns))))
            });
            let fast = envelope.at(dev_ns, drift());
            assert!(
                fast.lo.abs_diff(all.lo) <= 2 && fast.hi.abs_diff(all.hi) <= 2,
                "{fast:?} {all:?}"
            );
            assert_eq!(fast, envelope.read_on(&mut place, dev_ns, drift()));
        }
    }

    #[test]
    fn the_crest_is_where_the_interval_is_widest() {
        let facts = [
            (0, Interval::at_most(0)),
            (1_000_000_000, Interval::at_most(20_000)),
        ];
        let envelope = Envelope::build(facts.into_iter(), drift());
        let mut widest = i64::MIN;
        envelope.crests(0, 1_000_000_000, drift(), &mut |at| {
            widest = widest.max(envelope.at(at, drift()).hi)
        });
        let sampled = (0..=1_000_000_000)
            .step_by(10_007)
            .map(|at| envelope.at(at, drift()).hi)
            .max();
        assert!(Some(widest) >= sampled && widest <= sampled.unwrap_or(0) + 3);
    }

    #[test]
    fn the_detectable_jump_is_the_width_that_one_side_leaves() {
        let second = 1_000_000_000;
        let facts: Vec<(i64, Interval)> = (0..10)
            .map(|i| {
                (
                    i * second,
                    Interval {
                        lo: -1_000_000,
                        hi: 1_000_000,
                    },
                )
            })
            .collect();
        let marks = [-second, 0, 3 * second, 4 * second, 9 * second, 10 * second];
        let before = widths_from_before(facts.iter().copied(), &marks, drift());
        let after = widths_from_after(facts.iter().copied(), &marks, drift());
        let found: Vec<u64> = before
            .into_iter()
            .zip(after)
            .map(|(before, after)| before.max(after))
            .collect();
        assert!(found[0] == u64::MAX && found[4] == u64::MAX);
        // 2 ms between the bounds, and 200 ppm of a second without evidence.
        for width in [found[1], found[2], found[3]] {
            assert!((2_200_000..2_200_100).contains(&width), "{width}");
        }
    }
}
