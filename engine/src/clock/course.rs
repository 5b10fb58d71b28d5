//! The course of one segment: the estimate as straight pieces that never leave the hard interval.
//!
//! Owns the step from an estimator's knots to a map. It trusts the knots for nothing: they are moved into the
//! interval and kept from rising or falling faster than the declared drift allows.
//!
//! Why that makes a course that stays inside: between two neighbouring binding facts the upper bound is concave and
//! the lower one convex, so a straight piece that is inside at both ends is inside all along, provided no binding
//! fact lies between. So every binding fact that a piece would pass on the wrong side becomes a knot.

use super::bounds::{Envelope, Place};
use super::estimate::Knot;
use super::interval::Drift;

/// Device time to offset: straight pieces.
#[derive(Clone, Debug, Default)]
pub(super) struct Course {
    /// Rising in device time; offsets differ by no more than the drift allows.
    corners: Vec<Corner>,
    /// Slopes of what lies before the first and after the last corner.
    ends: (f64, f64),
}

/// Where two pieces meet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Corner {
    pub dev_ns: i64,
    pub offset_ns: i64,
    /// Of the piece that begins here.
    pub slope: f64,
}

impl Corner {
    /// The offset at a device time on its piece.
    #[inline]
    pub fn offset_at(&self, dev_ns: i64) -> i64 {
        let along = dev_ns.saturating_sub(self.dev_ns) as f64;
        self.offset_ns.saturating_add(floor(self.slope * along + 0.5))
    }
}

impl Course {
    /// From knots with rising device times. `marks` become corners as well.
    pub fn build(knots: &[Knot], marks: &[i64], envelope: &Envelope, drift: Drift) -> Self {
        let mut wanted: Vec<(i64, i64)> = knots.iter().map(|knot| (knot.dev_ns, knot.offset_ns)).collect();
        if wanted.is_empty() {
            let dev_ns = marks.first().copied().unwrap_or(0);
            wanted.push((dev_ns, envelope.at(dev_ns, drift).centre()));
        }
        let ends = (
            knots.first().map_or(0.0, |knot| gentle(knot.slope, drift)),
            knots.last().map_or(0.0, |knot| gentle(knot.slope, drift)),
        );
        let mut course = Self::through(&wanted, ends, envelope, drift);
        let added: Vec<(i64, i64)> = marks.iter().map(|&dev_ns| (dev_ns, course.at(dev_ns))).collect();
        insert(&mut wanted, added);
        for pass in 0..PASSES {
            course = Self::through(&wanted, ends, envelope, drift);
            let passed = course.passed_on_the_wrong_side(envelope, pass + 1 == PASSES);
            if passed.is_empty() {
                break;
            }
            insert(&mut wanted, passed);
        }
        Self::through(&wanted, ends, envelope, drift)
    }

    /// The offset at `dev_ns`.
    pub fn at(&self, dev_ns: i64) -> i64 {
        self.on_piece(
            self.corners.partition_point(|corner| corner.dev_ns <= dev_ns),
            dev_ns,
        )
    }

    /// As `at`, from the place that an earlier, smaller device time left behind.
    pub fn read_on(&self, after: &mut usize, dev_ns: i64) -> i64 {
        while self
            .corners
            .get(*after)
            .is_some_and(|corner| corner.dev_ns <= dev_ns)
        {
            *after += 1;
        }
        self.on_piece(*after, dev_ns)
    }

    /// The piece that a place is on, and where it ends; none before the first corner.
    pub fn piece(&self, after: usize) -> Option<(Corner, i64)> {
        let corner = self.corners.get(after.checked_sub(1)?)?;
        Some((
            *corner,
            self.corners.get(after).map_or(i64::MAX, |next| next.dev_ns),
        ))
    }

    pub fn corners(&self) -> &[Corner] {
        &self.corners
    }

    fn on_piece(&self, after: usize, dev_ns: i64) -> i64 {
        let corner = match after.checked_sub(1).and_then(|before| self.corners.get(before)) {
            Some(corner) => *corner,
            None => match self.corners.first() {
                Some(corner) => Corner {
                    slope: self.ends.0,
                    ..*corner
                },
                None => return 0,
            },
        };
        corner.offset_at(dev_ns)
    }

    /// Moves each wanted point into the interval, and near enough to the one before.
    fn through(wanted: &[(i64, i64)], ends: (f64, f64), envelope: &Envelope, drift: Drift) -> Self {
        let mut corners: Vec<Corner> = Vec::with_capacity(wanted.len());
        let mut place = Place::default();
        for &(dev_ns, offset_ns) in wanted {
            let mut offset_ns = envelope.read_on(&mut place, dev_ns, drift).clamp(offset_ns);
            if let Some(last) = corners.last_mut() {
                let step = dev_ns.abs_diff(last.dev_ns);
                // Rounded up as the bounds are, but between stamps a nanosecond apart that would stop time.
                let most = drift.spread(step).min((step / 2) as i64);
                let near = (
                    last.offset_ns.saturating_sub(most),
                    last.offset_ns.saturating_add(most),
                );
                offset_ns = offset_ns.clamp(near.0, near.1);
                last.slope = offset_ns.saturating_sub(last.offset_ns) as f64 / step as f64;
            }
            corners.push(Corner {
                dev_ns,
                offset_ns,
                slope: ends.1,
            });
        }
        Self { corners, ends }
    }

    /// The binding facts that the course passes outside; or all of them.
    fn passed_on_the_wrong_side(&self, envelope: &Envelope, all: bool) -> Vec<(i64, i64)> {
        let (upper, lower) = envelope.points();
        let (mut passed, mut after) = (Vec::new(), 0);
        for point in upper {
            let offset_ns = self.read_on(&mut after, point.dev_ns);
            if all || offset_ns > point.offset_ns {
                passed.push((point.dev_ns, offset_ns));
            }
        }
        after = 0;
        for point in lower {
            let offset_ns = self.read_on(&mut after, point.dev_ns);
            if all || offset_ns < point.offset_ns {
                passed.push((point.dev_ns, offset_ns));
            }
        }
        passed.sort_unstable();
        passed
    }
}

/// The whole number at or below: what a conversion cuts off decides it, with no call where a machine has no instruction.
fn floor(value: f64) -> i64 {
    let cut = value as i64;
    cut.saturating_sub(i64::from(cut as f64 > value))
}

/// After this many passes every binding fact becomes a corner, which settles it.
const PASSES: usize = 6;

/// A slope within what the drift allows; NaN is none.
fn gentle(slope: f64, drift: Drift) -> f64 {
    if slope.is_nan() {
        0.0
    } else {
        slope.clamp(-drift.fraction(), drift.fraction())
    }
}

/// Merges points into `wanted`, which stays sorted with one point per device time, the one that was there first.
fn insert(wanted: &mut Vec<(i64, i64)>, mut added: Vec<(i64, i64)>) {
    added.retain(|point| wanted.binary_search_by_key(&point.0, |wanted| wanted.0).is_err());
    wanted.extend(added);
    wanted.sort_by_key(|point| point.0);
    wanted.dedup_by_key(|point| point.0);
}

#[cfg(test)]
mod tests {
    use super::super::interval::Interval;
    use super::*;

    #[test]
    fn the_course_never_leaves_the_interval_whatever_the_knots() {
        let drift = Drift::from_ppm(100.0);
        let facts: Vec<(i64, Interval)> = (0..400i64)
            .map(|i| {
                let half = 20_000 + (i * i * 7_919) % 60_000;
                (
                    i * 50_000_000,
                    Interval {
                        lo: -half,
                        hi: half + (i * 31) % 5_000,
                    },
                )
            })
            .collect();
        let envelope = Envelope::build(facts.iter().copied(), drift);
        let knots: Vec<Knot> = (0..20i64)
            .map(|i| Knot {
                dev_ns: i * 1_000_000_000,
                offset_ns: (i * 104_729) % 300_000 - 150_000,
                slope: if i == 3 { f64::NAN } else { 1.0 },
            })
            .collect();
        let course = Course::build(&knots, &[7, 1_500_000_000], &envelope, drift);
        let mut after = 0;
        let mut last = i64::MIN;
        for dev_ns in (0..20_000_000_000i64).step_by(333_331) {
            let offset = course.at(dev_ns);
            assert_eq!(offset, course.read_on(&mut after, dev_ns));
            let bound = envelope.at(dev_ns, drift).widen(2);
            assert!(
                bound.lo <= offset && offset <= bound.hi,
                "{dev_ns}: {offset} {bound:?}"
            );
            assert!(dev_ns + offset > last);
            last = dev_ns + offset;
        }
    }
}
