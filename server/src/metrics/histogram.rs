//! How often a duration fell below each bound, and what follows of it: buckets for Prometheus, and quantiles.
//!
//! Counts stand once for each bucket and are added up when they are shown, so that the count of a histogram is always the
//! sum of its buckets, whatever is counted meanwhile. Quantiles are those of the last minutes: of what was counted since the
//! oldest of a few copies of the counts, one of which is made each half minute. Counting itself knows nothing of that.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::text::Text;
use super::{Counter, QUANTILES};

/// Durations by size. The bounds are microseconds, in rising order.
#[derive(Debug)]
pub struct Histogram {
    bounds_us: &'static [u64],
    /// One more than there are bounds: the last is for what is longer than all of them.
    counts: Vec<Counter>,
    sum_ns: Counter,
    /// The counts as they were at the last turns, the oldest first.
    before: Mutex<VecDeque<Vec<u64>>>,
}

/// From a good disk's sync to a very bad one's.
pub const DISK_BOUNDS_US: &[u64] = &[
    100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000,
    2_000_000,
];
/// From an answer out of memory to one that nobody waits for.
pub const ANSWER_BOUNDS_US: &[u64] = &[
    500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 2_000_000,
    5_000_000, 10_000_000,
];

impl Histogram {
    /// An empty one.
    pub fn new(bounds_us: &'static [u64]) -> Self {
        Self {
            bounds_us,
            counts: (0..=bounds_us.len()).map(|_| Counter::default()).collect(),
            sum_ns: Counter::default(),
            before: Mutex::default(),
        }
    }

    /// Half a minute has passed: what was counted [`TURNS_KEPT`] turns ago is no longer of late.
    pub(super) fn turn(&self) {
        let counts = self.counts();
        let mut before = self.before();
        if before.len() >= TURNS_KEPT {
            before.pop_front();
        }
        before.push_back(counts);
    }

    fn counts(&self) -> Vec<u64> {
        self.counts.iter().map(Counter::get).collect()
    }

    /// What was counted of late; all of it as long as all of it is.
    fn recent(&self) -> Vec<u64> {
        let mut counts = self.counts();
        let before = self.before();
        if let Some(oldest) = before.front().filter(|_| before.len() >= TURNS_KEPT) {
            for (count, gone) in counts.iter_mut().zip(oldest) {
                *count = count.saturating_sub(*gone);
            }
        }
        counts
    }

    fn before(&self) -> MutexGuard<'_, VecDeque<Vec<u64>>> {
        self.before.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something took so long; a negative duration counts as none.
    pub fn took(&self, ns: i64) {
        let ns = u64::try_from(ns).unwrap_or(0);
        let at = self.bounds_us.partition_point(|bound_us| ns > bound_us * 1_000);
        self.counts[at].add(1);
        self.sum_ns.add(ns);
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().map(Counter::get).sum()
    }

    /// The duration that a share of all of late stays below, in seconds: straight between the bounds of a bucket, as
    /// Prometheus reckons it, and the last bound for what lies beyond. None where there was nothing of late.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let counts = self.recent();
        let all: u64 = counts.iter().sum();
        let rank = share * all as f64;
        let (mut below, mut lower_us) = (0, 0);
        for (count, bound_us) in counts.iter().zip(self.bounds_us) {
            if all > 0 && *count > 0 && (below + count) as f64 >= rank {
                let within = (rank - below as f64) / *count as f64;
                let width_us = (bound_us - lower_us) as f64;
                return Some((lower_us as f64 + width_us * within.clamp(0.0, 1.0)) / 1e6);
            }
            below += count;
            lower_us = *bound_us;
        }
        (all > 0).then_some(lower_us as f64 / 1e6)
    }

    /// The buckets, the sum and the count of a family that was announced; `label` is one that all of them carry.
    pub(super) fn show(&self, text: &mut Text, name: &str, label: Option<(&str, &str)>) {
        let mut below = 0;
        let bounds = self
            .bounds_us
            .iter()
            .map(|bound_us| (*bound_us as f64 / 1e6).to_string());
        for (bound, count) in bounds.chain(["+Inf".to_owned()]).zip(&self.counts) {
            below += count.get();
            let labels: Vec<_> = label.into_iter().chain([("le", bound.as_str())]).collect();
            text.line(&format!("{name}_bucket"), &labels, below);
        }
        let labels: Vec<_> = label.into_iter().collect();
        text.line(&format!("{name}_sum"), &labels, self.sum_ns.get() as f64 / 1e9);
        text.line(&format!("{name}_count"), &labels, below);
    }

    /// Its quantiles of late, and the sum and the count since the start, for a summary that was announced.
    pub(super) fn show_summary(&self, text: &mut Text, name: &str, label: Option<(&str, &str)>) {
        for share in QUANTILES {
            if let Some(seconds) = self.quantile(share) {
                let share = share.to_string();
                let labels: Vec<_> = label.into_iter().chain([("quantile", share.as_str())]).collect();
                text.line(name, &labels, seconds);
            }
        }
        let labels: Vec<_> = label.into_iter().collect();
        text.line(&format!("{name}_sum"), &labels, self.sum_ns.get() as f64 / 1e9);
        text.line(&format!("{name}_count"), &labels, self.count());
    }
}

/// Copies of the counts that are kept, one each half minute: quantiles are over five minutes, or half a minute more.
const TURNS_KEPT: usize = 11;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_where_the_counts_are() {
        let of = Histogram::new(&[100, 200, 400]);
        assert_eq!(of.quantile(0.5), None);
        // A hundred within (100, 200] microseconds.
        (0..100).for_each(|_| of.took(150_000));
        let close = |found: Option<f64>, want: f64| {
            let found = found.expect("there are some");
            assert!((found - want).abs() < 1e-9, "{found} is not {want}");
        };
        close(of.quantile(0.5), 150e-6);
        close(of.quantile(0.99), 199e-6);
        // As many beyond every bound: nothing is known of them but that they are longer.
        (0..100).for_each(|_| of.took(9_000_000_000));
        close(of.quantile(0.5), 200e-6);
        close(of.quantile(0.95), 400e-6);
        assert_eq!(of.count(), 200);
    }

    #[test]
    fn quantiles_are_those_of_the_last_minutes() {
        let of = Histogram::new(&[100, 200, 400]);
        // What is counted within the first turns stays until so many have passed.
        of.took(150_000);
        (1..TURNS_KEPT).for_each(|_| of.turn());
        assert!(of.quantile(0.5).is_some());
        of.turn();
        assert_eq!(of.quantile(0.5), None, "that was long ago");
        of.took(350_000);
        assert!(of.quantile(0.5).is_some_and(|found| found > 200e-6));
        assert_eq!(of.count(), 2, "the count is since the start");
        (0..3 * TURNS_KEPT).for_each(|_| of.turn());
        assert_eq!(of.quantile(0.99), None);
        assert_eq!(of.before().len(), TURNS_KEPT);
    }

    #[test]
    fn a_bound_belongs_to_the_bucket_below_it() {
        let of = Histogram::new(&[100, 200]);
        for ns in [-5, 0, 100_000, 100_001, 200_001] {
            of.took(ns);
        }
        let counts: Vec<u64> = of.counts.iter().map(Counter::get).collect();
        assert_eq!(counts, [3, 1, 1]);
    }
}
