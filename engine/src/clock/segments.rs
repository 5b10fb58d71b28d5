//! Where a clock stood still or jumped: cuts found by contradiction.
//!
//! Owns the search for cuts in a row of one-way facts. It knows neither hub epochs nor estimates: it sees facts as
//! intervals of an offset that changes by no more than the declared drift, and reports where that cannot be.
//!
//! Two facts contradict each other if no offset that drifts as declared meets both; then the clock's offset must
//! have jumped somewhere between them. The forward pass carries the feasible interval along and finds, for each
//! cut, the *first* fact that contradicts what came before. That is not yet where the cut is: facts between the
//! cut and that one may by chance have fitted the old clock. The backward pass carries the new clock's interval
//! back to find the *last* fact that contradicts the new clock. The cut lies strictly between the two. What lies
//! between fits either clock, so it is evidence for neither, and a sample there gets a bound that covers both.

use std::ops::Range;

use super::interval::{Drift, Interval};

/// Splits facts `0..count` into ranges that surely belong to one segment each, in order. Between two neighbours
/// lies the cut, with the facts that are left out. `fact(i)` gives device time (never decreasing) and interval.
///
/// Invariants: no range is empty, and none contains a contradiction.
pub(super) fn find_cuts(
    count: usize,
    fact: impl Fn(usize) -> (i64, Interval),
    drift: Drift,
) -> Vec<Range<usize>> {
    if count == 0 {
        return Vec::new();
    }
    let starts = first_contradictions(count, &fact, drift);
    // From the last segment to the first, so that a segment's own ambiguous tail is known before it judges others.
    let mut certain = Vec::with_capacity(starts.len());
    let mut end = count;
    for (segment, &start) in starts.iter().enumerate().rev() {
        certain.push(start..end);
        if segment > 0 {
            end = 1 + last_contradiction(starts[segment - 1], start..end, &fact, drift);
        }
    }
    certain.reverse();
    certain
}

/// The first fact of each segment: fact 0, and each one that contradicts what was carried to it.
fn first_contradictions(count: usize, fact: &impl Fn(usize) -> (i64, Interval), drift: Drift) -> Vec<usize> {
    let mut starts = vec![0];
    let (mut at, mut carried) = fact(0);
    for i in 1..count {
        let (dev_ns, interval) = fact(i);
        carried = carried.widen(drift.spread(dev_ns.abs_diff(at))).meet(interval);
        if carried.is_empty() {
            starts.push(i);
            carried = interval;
        }
        at = dev_ns;
    }
    starts
}

/// The last fact in `old_start..new.start` that contradicts the facts `new` carried back.
fn last_contradiction(
    old_start: usize,
    new: Range<usize>,
    fact: &impl Fn(usize) -> (i64, Interval),
    drift: Drift,
) -> usize {
    let (mut at, mut carried) = fact(new.end - 1);
    for i in new.clone().rev().skip(1) {
        let (dev_ns, interval) = fact(i);
        carried = carried.widen(drift.spread(dev_ns.abs_diff(at))).meet(interval);
        at = dev_ns;
    }
    (old_start..new.start)
        .rev()
        .find(|&i| {
            let (dev_ns, interval) = fact(i);
            carried
                .widen(drift.spread(dev_ns.abs_diff(at)))
                .meet(interval)
                .is_empty()
        })
        // The forward pass found a contradiction with one of them, and rounding only made it lenient.
        .unwrap_or(old_start)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: i64 = 1_000_000;

    fn cuts(facts: &[(i64, Interval)]) -> Vec<Range<usize>> {
        find_cuts(facts.len(), |i| facts[i], Drift::from_ppm(100.0))
    }

    /// Offsets around `offset`, with facts of both sides `ms` apart, `slack` away.
    fn around(from_ms: i64, count: i64, offset: i64, slack: i64) -> Vec<(i64, Interval)> {
        (0..count)
            .map(|i| {
                let side = if i % 2 == 0 {
                    Interval::at_most(offset + slack)
                } else {
                    Interval::at_least(offset - slack)
                };
                ((from_ms + i) * MS, side)
            })
            .collect()
    }

    #[test]
    fn a_steady_clock_has_no_cut() {
        assert_eq!(cuts(&around(0, 100, 5, MS)), vec![0..100]);
        assert_eq!(cuts(&[]), Vec::<Range<usize>>::new());
    }

    #[test]
    fn a_standstill_is_cut_between_its_two_witnesses() {
        let mut facts = around(0, 10, 0, MS);
        facts.extend(around(20, 10, 5 * MS, MS));
        // Fact 8 is the last upper bound before, fact 10 an upper bound after (contradicts nothing), fact 11 the
        // first lower bound after. Fact 9, a lower bound, and fact 10 fit both clocks.
        assert_eq!(cuts(&facts), vec![0..9, 11..20]);
    }

    #[test]
    fn two_cuts_leave_a_middle() {
        let mut facts = around(0, 10, 0, MS);
        facts.extend(around(20, 10, 5 * MS, MS));
        facts.extend(around(40, 10, 0, MS));
        let found = cuts(&facts);
        assert_eq!(found.len(), 3);
        assert!(found[1].start >= 10 && found[1].end <= 20);
        assert!(found[2].start >= 20);
    }

    #[test]
    fn a_jump_smaller_than_the_evidence_shows_is_not_invented() {
        let mut facts = around(0, 10, 0, MS);
        facts.extend(around(20, 10, MS, MS));
        assert_eq!(cuts(&facts), vec![0..20]);
    }
}
