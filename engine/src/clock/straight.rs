//! Stamps between two facts: what places them is looked up once, and the same for all of them.
//!
//! Owns the short way of `Cursor::published`, for those whose neighbours are known: a binding fact on either side, above and
//! below, one piece of the course, one segment, and no number near the ends of its type. Everything else takes the long way.
//!
//! Invariants: the same bits as the long way, which `tests` hold it against.

use super::bounds::{Around, Point};
use super::course::Corner;
use super::interval::{Drift, Interval};

/// Device times and offsets beyond this take the long way, so that no sum of a few leaves the range.
const FAR_NS: u64 = 1 << 61;

/// Bounds of which each nanosecond is a float of its own.
const EXACT_NS: u64 = 1 << 53;

/// What places the stamps up to `until_ns`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Straight {
    above: (Point, Point),
    below: (Point, Point),
    corner: Corner,
    /// Multiples of 2^-40.
    fraction_q40: u64,
    /// The first stamp that it does not hold for.
    until_ns: i64,
}

impl Straight {
    /// From a stamp on, up to `until_ns` or what comes first of the facts around; none where the long way is to be taken.
    pub fn from(from_ns: i64, until_ns: i64, around: Around, corner: Corner, drift: Drift) -> Option<Self> {
        let Around { above, below } = around;
        let until_ns = until_ns.min(above.1.dev_ns).min(below.1.dev_ns);
        let points = [above.0, above.1, below.0, below.1];
        let times = points.map(|point| point.dev_ns);
        let offsets = points.map(|point| point.offset_ns);
        let numbers = times.iter().chain(&offsets);
        let is_near = |ns: &i64| ns.unsigned_abs() < FAR_NS;
        let reach_ns = numbers.clone().all(is_near).then(|| {
            let reach = |point: Point| {
                point
                    .dev_ns
                    .abs_diff(from_ns)
                    .max(point.dev_ns.abs_diff(until_ns))
            };
            points.map(reach).into_iter().max().unwrap_or(u64::MAX)
        })?;
        let ends = [from_ns, until_ns, corner.dev_ns, corner.offset_ns];
        let fraction_q40 = drift.q40();
        (ends.iter().all(is_near) && reach_ns.checked_mul(fraction_q40).is_some()).then_some(Self {
            above,
            below,
            corner,
            fraction_q40,
            until_ns,
        })
    }

    /// Whether it holds for a stamp that is no earlier than the one that it began with.
    pub fn holds(&self, dev_ns: i64) -> bool {
        dev_ns < self.until_ns
    }

    /// Session time in microseconds, and how far the truth may be from it in nanoseconds; none where that is no exact float.
    pub fn placed(&self, dev_ns: i64) -> Option<(i64, u64)> {
        let spread = |from_ns: i64, to_ns: i64| {
            let ns = (to_ns - from_ns) as u64;
            ((ns * self.fraction_q40) >> 40) as i64 + i64::from(ns > 0)
        };
        let widened =
            |(before, after): (Point, Point)| (spread(before.dev_ns, dev_ns), spread(dev_ns, after.dev_ns));
        let (since, until) = widened(self.above);
        let hi = (self.above.0.offset_ns + since).min(self.above.1.offset_ns + until);
        let (since, until) = widened(self.below);
        let lo = (self.below.0.offset_ns - since).max(self.below.1.offset_ns - until);
        let offset_ns = Interval { lo, hi }.clamp(self.corner.offset_at(dev_ns));
        let time_us = (dev_ns + offset_ns + 500).div_euclid(1_000);
        let of_session = time_us * 1_000 - dev_ns;
        let reach_ns = (hi - of_session).max(of_session - lo).max(0) as u64;
        (reach_ns < EXACT_NS).then_some((time_us, reach_ns))
    }
}
