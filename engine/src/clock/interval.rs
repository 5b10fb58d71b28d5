//! Intervals of nanoseconds, and how far a drifting clock may carry one.
//!
//! Owns the integer arithmetic that every hard bound is made of. Nothing here knows of evidence or of devices.
//!
//! Invariant: **every rounding and every saturation widens**. `i64::MIN` as a lower end and `i64::MAX` as an
//! upper end mean "unbounded"; sums that leave the range end there, so that an absurd stamp can make a bound
//! useless, but never false.

/// A closed interval of nanoseconds; empty where `lo > hi`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interval {
    pub lo: i64,
    pub hi: i64,
}

impl Interval {
    pub const ALL: Self = Self {
        lo: i64::MIN,
        hi: i64::MAX,
    };

    pub fn exactly(value: i64) -> Self {
        Self { lo: value, hi: value }
    }

    pub fn at_most(hi: i64) -> Self {
        Self { lo: i64::MIN, hi }
    }

    pub fn at_least(lo: i64) -> Self {
        Self { lo, hi: i64::MAX }
    }

    pub fn is_empty(self) -> bool {
        self.lo > self.hi
    }

    /// True where both ends are known.
    pub fn is_bounded(self) -> bool {
        self.lo != i64::MIN && self.hi != i64::MAX
    }

    pub fn is_unknown(self) -> bool {
        self == Self::ALL
    }

    pub fn widen(self, by: i64) -> Self {
        Self {
            lo: lower(self.lo, by.saturating_neg()),
            hi: upper(self.hi, by),
        }
    }

    pub fn shift(self, by: i64) -> Self {
        Self {
            lo: lower(self.lo, by),
            hi: upper(self.hi, by),
        }
    }

    /// All sums of a value of each.
    pub fn plus(self, other: Self) -> Self {
        Self {
            lo: if other.lo == i64::MIN {
                i64::MIN
            } else {
                lower(self.lo, other.lo)
            },
            hi: if other.hi == i64::MAX {
                i64::MAX
            } else {
                upper(self.hi, other.hi)
            },
        }
    }

    pub fn negated(self) -> Self {
        Self {
            lo: if self.hi == i64::MAX {
                i64::MIN
            } else {
                self.hi.saturating_neg()
            },
            hi: if self.lo == i64::MIN {
                i64::MAX
            } else {
                self.lo.saturating_neg()
            },
        }
    }

    pub fn meet(self, other: Self) -> Self {
        Self {
            lo: self.lo.max(other.lo),
            hi: self.hi.min(other.hi),
        }
    }

    pub fn hull(self, other: Self) -> Self {
        Self {
            lo: self.lo.min(other.lo),
            hi: self.hi.max(other.hi),
        }
    }

    /// The value of the interval that is nearest to `value`.
    pub fn clamp(self, value: i64) -> i64 {
        value.max(self.lo).min(self.hi)
    }

    /// Full width in nanoseconds; `u64::MAX` where an end is open.
    pub fn width(self) -> u64 {
        match (self.is_bounded(), self.is_empty()) {
            (false, _) => u64::MAX,
            (true, true) => 0,
            (true, false) => self.hi.abs_diff(self.lo),
        }
    }

    /// The middle, or the known end, or zero where nothing is known.
    pub fn centre(self) -> i64 {
        match (self.lo, self.hi) {
            (i64::MIN, i64::MAX) => 0,
            (i64::MIN, hi) => hi,
            (lo, i64::MAX) => lo,
            (lo, hi) => i64::midpoint(lo, hi),
        }
    }

    /// The largest distance from `value` to a point of the interval; `None` where an end is open.
    pub fn reach_from(self, value: i64) -> Option<u64> {
        if !self.is_bounded() {
            return None;
        }
        let up = if self.hi > value {
            self.hi.abs_diff(value)
        } else {
            0
        };
        let down = if self.lo < value {
            self.lo.abs_diff(value)
        } else {
            0
        };
        Some(up.max(down))
    }
}

/// Nanoseconds as a float that is never below the integer.
pub(super) fn float_up(ns: u64) -> f64 {
    let float = ns as f64;
    if (float as u64) < ns {
        float * (1.0 + f64::EPSILON)
    } else {
        float
    }
}

/// How far two clocks may part: the declared drift as a fixed-point fraction.
///
/// A device whose rate against the hub lies in `1 +- rho` has an offset `g` (hub minus device) whose slope over
/// *device* time lies in `+- rho / (1 - rho)`; that is the fraction kept here, rounded up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drift {
    /// Multiples of 2^-40.
    fraction_q40: u64,
}

impl Drift {
    /// Anything that is not a sensible drift (NaN, negative, above a tenth) is read as the nearest one that is.
    pub fn from_ppm(max_drift_ppm: f64) -> Self {
        let ppm = if max_drift_ppm.is_nan() {
            100.0
        } else {
            max_drift_ppm.clamp(0.0, 100_000.0)
        };
        let rho = ppm * 1e-6;
        let fraction = rho / (1.0 - rho);
        Self {
            fraction_q40: libm::ceil(fraction * 1_099_511_627_776.0) as u64 + 1,
        }
    }

    /// The fraction in multiples of 2^-40.
    pub fn q40(self) -> u64 {
        self.fraction_q40
    }

    pub fn fraction(self) -> f64 {
        self.fraction_q40 as f64 / 1_099_511_627_776.0
    }

    /// The most that an offset may have changed over `ns` of device time, rounded up.
    pub fn spread(self, ns: u64) -> i64 {
        if ns == 0 {
            return 0;
        }
        let spread = ((u128::from(ns) * u128::from(self.fraction_q40)) >> 40) + 1;
        i64::try_from(spread).unwrap_or(i64::MAX)
    }
}

fn lower(lo: i64, by: i64) -> i64 {
    if lo == i64::MIN {
        i64::MIN
    } else {
        lo.saturating_add(by)
    }
}

fn upper(hi: i64, by: i64) -> i64 {
    if hi == i64::MAX {
        i64::MAX
    } else {
        hi.saturating_add(by)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_end_stays_open() {
        assert_eq!(Interval::ALL.widen(5).shift(-7), Interval::ALL);
        assert_eq!(
            Interval::at_most(3).plus(Interval::exactly(4)),
            Interval::at_most(7)
        );
        assert_eq!(Interval::at_most(3).negated(), Interval::at_least(-3));
        assert_eq!(Interval::at_least(i64::MAX - 1).widen(10).lo, i64::MAX - 11);
        assert_eq!(Interval::at_most(i64::MAX - 1).widen(10), Interval::ALL);
    }

    #[test]
    fn the_spread_is_rounded_up_and_covers_both_readings_of_the_drift() {
        let drift = Drift::from_ppm(100.0);
        assert_eq!(drift.spread(0), 0);
        // One second of a clock that runs at 1 - 100 ppm is 1.00010001 s of the hub's.
        assert!(drift.spread(1_000_000_000) >= 100_011);
        assert!(drift.spread(1_000_000_000) <= 100_013);
        assert!(Drift::from_ppm(1e9).spread(u64::MAX) >= (u64::MAX / 9) as i64);
        assert!(Drift::from_ppm(f64::NAN).spread(1_000_000_000) >= 100_000);
    }

    #[test]
    fn a_reach_is_the_larger_side() {
        let interval = Interval { lo: -3, hi: 10 };
        assert_eq!(interval.reach_from(0), Some(10));
        assert_eq!(interval.reach_from(9), Some(12));
        assert_eq!(interval.reach_from(12), Some(15));
        assert_eq!(Interval::at_least(0).reach_from(0), None);
        assert!(float_up((1 << 60) + 1) >= ((1u64 << 60) + 1) as f64);
    }
}
