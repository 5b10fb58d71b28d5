//! The map of one clock: device time to session time, with the hard bound, and the rows that publish it.
//!
//! Owns reading of a finished alignment; `align` makes it. Invariants: within a segment session time never
//! decreases with device time, and rises over any two nanoseconds; the placed time lies inside the hard interval;
//! `half_width_ns` reaches from the placed time to the farther end of it.

use super::bounds::{Envelope, Place};
use super::course::Course;
use super::interval::{Drift, Interval, float_up};
use super::straight::Straight;

/// Where one device stamp lies in session time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Placed {
    /// POSIX nanoseconds, by the session's anchor.
    pub session_ns: i64,
    /// The truth lies within this much of `session_ns`; infinite with evidence on one side only.
    pub half_width_ns: f64,
    /// Counts the clock's segments from 0.
    pub segment: u32,
}

/// As written to Parquet: rounded, with a bound that covers the rounding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Published {
    /// POSIX microseconds.
    pub time_us: i64,
    /// The truth lies within this much of `time_us`; rounded up to two significant digits.
    pub err_us: f32,
    pub segment: u32,
}

/// One straight piece of the map, as a row of clock_map.parquet. It holds up to the next row of the same clock; a
/// last row holds on with a bound that grows by the declared drift, and so does the first one backwards.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MapRow {
    pub device_time_ns: i64,
    pub session_ns: i64,
    /// Session seconds per device second.
    pub rate: f64,
    /// The largest half-width on the piece; on an open end, the one at its closed end.
    pub err_ns: f64,
    /// The largest jump of the clock on this piece that the evidence might not show.
    pub detectable_ns: f64,
    pub segment: u32,
}

/// The map of one clock.
#[derive(Clone, Debug)]
pub struct ClockMap {
    pub(super) key: [u8; 16],
    pub(super) epochs: Vec<u32>,
    pub(super) resolution_ns: i64,
    pub(super) drift: Drift,
    pub(super) guard_steps: bool,
    /// In order of device time; one at least.
    pub(super) segments: Vec<Segment>,
}

/// A stretch of the clock without a cut.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    /// The stretch for whose stamps this segment's course is the estimate begins here.
    pub begins_ns: i64,
    /// The first and the last device time that surely belong to this segment. Stamps outside of these, on a side
    /// where another segment follows, may belong to either, and their bound covers both.
    pub certain: (i64, i64),
    pub envelope: Envelope,
    pub course: Course,
    /// Per piece of the course: largest jump that might not show. The first and last are the open ends.
    pub detectable: Vec<f64>,
}

impl ClockMap {
    /// The boot id, or the epoch id where the device names no boot.
    pub fn key(&self) -> [u8; 16] {
        self.key
    }

    /// The ordinals of the device's epochs that live on this clock.
    pub fn epochs(&self) -> &[u32] {
        &self.epochs
    }

    /// The step of the device's clock that the bounds allow for, in nanoseconds.
    pub fn resolution_ns(&self) -> i64 {
        self.resolution_ns
    }

    /// How many segments the clock falls into.
    pub fn segment_count(&self) -> u32 {
        self.segments.len() as u32
    }

    /// Places a device stamp. For many, in rising order, take a `cursor`.
    pub fn at(&self, dev_ns: i64) -> Placed {
        self.cursor().at(dev_ns)
    }

    /// Places a device stamp, rounded for publication.
    pub fn published(&self, dev_ns: i64) -> Published {
        self.cursor().published(dev_ns)
    }

    /// The hard interval of session time itself, in nanoseconds; `i64::MIN` or `i64::MAX` where an end is open. The
    /// estimate lies inside, not in the middle, so that half of this is at most the half-width.
    pub fn interval(&self, dev_ns: i64) -> (i64, i64) {
        let (_, interval) = self.cursor().locate(dev_ns);
        (interval.lo, interval.hi)
    }

    /// A reader for stamps in rising order: amortised constant time each. Other orders work, more slowly.
    pub fn cursor(&self) -> Cursor<'_> {
        Cursor {
            map: self,
            segment: 0,
            corner: 0,
            place: Place::default(),
            last_ns: i64::MIN,
            fresh: true,
            rounding: Rounding::default(),
        }
    }

    /// The pieces of the map, in order of device time.
    pub fn rows(&self) -> Vec<MapRow> {
        let mut rows = Vec::new();
        let mut cursor = self.cursor();
        for (number, segment) in self.segments.iter().enumerate() {
            let corners = segment.course.corners();
            let ends_ns = self.segments.get(number + 1).map(|next| next.begins_ns);
            for (i, corner) in corners.iter().enumerate() {
                if corner.dev_ns < segment.begins_ns || ends_ns.is_some_and(|end| corner.dev_ns >= end) {
                    continue;
                }
                let next = corners.get(i + 1).map(|next| next.dev_ns);
                let end = next.into_iter().chain(ends_ns).min();
                let until = end.map_or(corner.dev_ns, |end| end.saturating_sub(1));
                let err_ns = self.worst_on(number, corner.dev_ns, until, &mut cursor);
                rows.push(MapRow {
                    device_time_ns: corner.dev_ns,
                    session_ns: corner.dev_ns.saturating_add(corner.offset_ns),
                    rate: 1.0 + corner.slope,
                    err_ns,
                    detectable_ns: segment.detectable.get(i + 1).copied().unwrap_or(f64::INFINITY),
                    segment: number as u32,
                });
            }
        }
        rows
    }

    /// The largest half-width in `from..=until`, which is one piece of segment `number`.
    fn worst_on(&self, number: usize, from: i64, until: i64, cursor: &mut Cursor<'_>) -> f64 {
        let segment = &self.segments[number];
        let mut worst = 0.0f64;
        let mut probes = vec![from, until];
        segment
            .envelope
            .crests(from, until, self.drift, &mut |dev_ns| probes.push(dev_ns));
        probes.sort_unstable();
        for dev_ns in probes {
            worst = worst.max(cursor.at(dev_ns).half_width_ns);
        }
        // The pieces are straight in real numbers; placing rounds to a nanosecond.
        worst + 2.0
    }
}

/// Reads a map in rising order of device time.
#[derive(Clone, Debug)]
pub struct Cursor<'a> {
    map: &'a ClockMap,
    segment: usize,
    corner: usize,
    place: Place,
    last_ns: i64,
    fresh: bool,
    rounding: Rounding,
}

impl Cursor<'_> {
    /// As `ClockMap::at`.
    pub fn at(&mut self, dev_ns: i64) -> Placed {
        let (session_ns, interval) = self.locate(dev_ns);
        let half_width_ns = interval.reach_from(session_ns).map_or(f64::INFINITY, float_up);
        Placed {
            session_ns,
            half_width_ns: half_width_ns + self.guard(),
            segment: self.segment as u32,
        }
    }

    /// As `ClockMap::published`.
    pub fn published(&mut self, dev_ns: i64) -> Published {
        let (session_ns, interval) = self.locate(dev_ns);
        let time_us = session_ns.saturating_add(500).div_euclid(1_000);
        let half_width_ns = interval
            .reach_from(time_us.saturating_mul(1_000))
            .map_or(f64::INFINITY, float_up);
        let guard_ns = self.guard();
        Published {
            time_us,
            err_us: self.rounding.two_digits_up(half_width_ns + guard_ns),
            segment: self.segment as u32,
        }
    }

    /// As `published` of each stamp in turn: microseconds, and bounds in microseconds. Quick where stamps rise.
    pub fn publish(&mut self, stamps: &[i64], mut put: impl FnMut(i64, f32)) {
        let mut left = stamps.iter();
        while let Some(&first_ns) = left.next() {
            let first = self.published(first_ns);
            put(first.time_us, first.err_us);
            let Some(straight) = self.straight() else { continue };
            while let Some(&dev_ns) = left.as_slice().first() {
                if dev_ns < self.last_ns || !straight.holds(dev_ns) {
                    break;
                }
                let Some((time_us, reach_ns)) = straight.placed(dev_ns) else {
                    break;
                };
                put(time_us, self.rounding.whole_up(reach_ns));
                self.last_ns = dev_ns;
                left.next();
            }
        }
    }

    /// The short way from where the cursor stands.
    pub(super) fn straight(&self) -> Option<Straight> {
        let map = self.map;
        let segment = map.segments.get(self.segment)?;
        let may_be_earlier = self.segment > 0 && self.last_ns <= segment.certain.0;
        if map.guard_steps || may_be_earlier {
            return None;
        }
        let next = map.segments.get(self.segment + 1);
        let ends_ns = next.map_or(i64::MAX, |next| next.begins_ns.min(segment.certain.1));
        let (corner, turns_ns) = segment.course.piece(self.corner)?;
        let around = segment.envelope.around(self.place)?;
        Straight::from(self.last_ns, ends_ns.min(turns_ns), around, corner, map.drift)
    }

    /// The estimate and the hard interval of session time.
    fn locate(&mut self, dev_ns: i64) -> (i64, Interval) {
        self.seek(dev_ns);
        let (segments, drift) = (&self.map.segments, self.map.drift);
        let segment = &segments[self.segment];
        let own = segment.envelope.read_on(&mut self.place, dev_ns, drift);
        let offset_ns = own.clamp(segment.course.read_on(&mut self.corner, dev_ns));
        let mut covered = own;
        if dev_ns >= segment.certain.1
            && let Some(next) = segments.get(self.segment + 1)
        {
            covered = covered.hull(next.envelope.at(dev_ns, drift));
        }
        if dev_ns <= segment.certain.0
            && let Some(before) = self.segment.checked_sub(1).map(|i| &segments[i])
        {
            covered = covered.hull(before.envelope.at(dev_ns, drift));
        }
        (dev_ns.saturating_add(offset_ns), covered.shift(dev_ns))
    }

    fn seek(&mut self, dev_ns: i64) {
        let segments = &self.map.segments;
        let begins_later = |i: usize| segments.get(i).is_some_and(|segment| segment.begins_ns <= dev_ns);
        if self.fresh || dev_ns < self.last_ns || begins_later(self.segment + 1) {
            let after = segments.partition_point(|segment| segment.begins_ns <= dev_ns);
            self.segment = after.saturating_sub(1);
            let segment = &segments[self.segment];
            self.corner = segment
                .course
                .corners()
                .partition_point(|corner| corner.dev_ns <= dev_ns);
            self.place = segment.envelope.place(dev_ns);
            self.fresh = false;
        }
        self.last_ns = dev_ns;
    }

    /// What `guard_steps` adds where the cursor stands.
    fn guard(&self) -> f64 {
        if !self.map.guard_steps {
            return 0.0;
        }
        self.map.segments[self.segment]
            .detectable
            .get(self.corner)
            .copied()
            .unwrap_or(f64::INFINITY)
    }
}

/// Rounds bounds up. From stamp to stamp they hardly change, so what the last was rounded to is asked first.
#[derive(Clone, Copy, Debug, Default)]
struct Rounding {
    /// Nanoseconds above the first, up to the second, have these two digits.
    above: u64,
    until: u64,
    us: f32,
}

impl Rounding {
    /// Nanoseconds as microseconds, rounded up to two significant digits, and never below even as a float.
    fn two_digits_up(&mut self, ns: f64) -> f32 {
        if ns.is_nan() || ns >= 1e18 {
            return f32::INFINITY;
        }
        let below = ns.max(0.0) as u64;
        self.whole_up(below + u64::from((below as f64) < ns))
    }

    /// The same of whole nanoseconds, fewer than 10^18.
    fn whole_up(&mut self, ns: u64) -> f32 {
        if self.above < ns && ns <= self.until {
            return self.us;
        }
        let mut unit = 1;
        while ns > 100 * unit {
            unit *= 10;
        }
        let digits = ns.div_ceil(unit);
        let us_of = |digits: u64| ((digits * unit) as f64 / 1_000.0) as f32;
        let us = us_of(digits);
        // All of these have this unit: above 10 of it, no smaller one would do, and of a unit above 1 there are more than 10 here.
        // Those that the float does not cover are not among them.
        *self = Self {
            above: digits.saturating_sub(1) * unit,
            until: (digits * unit).min((f64::from(us) * 1_000.0) as u64),
            us,
        };
        let covers = |us: &f32| f64::from(*us) * 1_000.0 >= ns as f64;
        // A float may lie a little below.
        (digits..).map(us_of).find(covers).unwrap_or(f32::INFINITY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_published_bound_has_two_digits_and_covers() {
        let two_digits_up = |ns| Rounding::default().two_digits_up(ns);
        assert_eq!(two_digits_up(0.0), 0.0);
        assert_eq!(two_digits_up(f64::INFINITY), f32::INFINITY);
        assert_eq!(two_digits_up(123_456.0), 130.0);
        assert_eq!(two_digits_up(120_000.1), 130.0);
        assert_eq!(two_digits_up(99_500.0), 100.0);
        for ns in (1..5_000_000u64).step_by(997) {
            let us = two_digits_up(ns as f64);
            assert!(f64::from(us) * 1_000.0 >= ns as f64);
            // At most a tenth more, and a step for what a float cannot hold.
            assert!(f64::from(us) * 1_000.0 <= ns as f64 * 1.2 + 1.0, "{ns} {us}");
        }
    }

    #[test]
    fn what_was_rounded_before_changes_nothing() {
        // Up, down and across the ends of digits and units, with what each left behind.
        let marks = (0..18u32).flat_map(|power| (10..=100u64).map(move |n| n * 10u64.pow(power) / 10));
        let mut all: Vec<u64> = marks
            .flat_map(|ns| [ns.saturating_sub(1), ns, ns + 1, ns + ns / 200])
            .filter(|&ns| ns < 1_000_000_000_000_000_000)
            .collect();
        all.sort_unstable();
        for step in [1, 2, 3, 7] {
            let (mut up, mut down) = (Rounding::default(), Rounding::default());
            for &ns in all.iter().step_by(step) {
                let alone = Rounding::default().two_digits_up(ns as f64);
                assert_eq!(up.two_digits_up(ns as f64), alone, "{ns}");
            }
            for &ns in all.iter().rev().step_by(step) {
                let alone = Rounding::default().two_digits_up(ns as f64);
                assert_eq!(down.two_digits_up(ns as f64), alone, "{ns}");
            }
        }
    }
}
