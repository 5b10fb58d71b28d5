//! The lives of one clock: stretches without a cut, which may reach across reboots of the hub.
//!
//! Owns the first pass over a clock's facts, in which nothing is known yet of how the hub's epochs lie to each
//! other: cuts are sought within each hub epoch, and a life that reaches from one hub epoch into the next ties the
//! two together. It does not settle what many ties say together; `hub_epochs` does.
//!
//! Invariants: the runs of a life lie one behind the other in device time, each in one hub epoch and each in a
//! later one than the run before.

use std::ops::Range;

use super::bounds::Envelope;
use super::estimate::{SegmentEvidence, Sighting, estimate};
use super::evidence::{Fact, Facts};
use super::hub_epochs::Tie;
use super::interval::Drift;
use super::segments::find_cuts;

/// A stretch of one clock's facts in which no cut was found within any hub epoch.
#[derive(Debug)]
pub(super) struct Life {
    pub runs: Vec<Run>,
}

/// The facts of a life that fall into one hub epoch.
#[derive(Debug)]
pub(super) struct Run {
    pub hub: u32,
    pub facts: Range<usize>,
}

impl Life {
    /// The facts of the whole life; its runs lie side by side.
    pub fn facts(&self) -> Range<usize> {
        let start = self.runs.first().map_or(0, |run| run.facts.start);
        start..self.runs.last().map_or(start, |run| run.facts.end)
    }
}

/// Leaves out facts that were long under way: stamped before a hub epoch was over, and heard of in a later one.
///
/// They are true (an old sample did precede its arrival), but they bound nothing that matters, and they would
/// interleave the hub's epochs.
pub(super) fn drop_facts_from_before_a_reboot(facts: &mut Vec<Fact>) {
    let hubs = facts.iter().map(|fact| fact.hub as usize + 1).max().unwrap_or(0);
    // The latest device time heard of in each hub epoch, then in any epoch before.
    let mut until = vec![i64::MIN; hubs];
    for fact in facts.iter() {
        let last = &mut until[fact.hub as usize];
        *last = fact.dev_ns.max(*last);
    }
    let mut before = i64::MIN;
    for last in &mut until {
        let own = *last;
        *last = before;
        before = before.max(own);
    }
    facts.retain(|fact| fact.dev_ns >= until[fact.hub as usize]);
    facts.sort_by_key(|fact| (fact.hub, fact.dev_ns));
}

/// Finds the lives of a clock whose facts are sorted by hub epoch and device time.
pub(super) fn find_lives(clock: &Facts, drift: Drift) -> Vec<Life> {
    let mut lives: Vec<Life> = Vec::new();
    let mut start = 0;
    while start < clock.facts.len() {
        let hub = clock.facts[start].hub;
        let end = start + clock.facts[start..].partition_point(|fact| fact.hub == hub);
        let run = &clock.facts[start..end];
        let cuts = find_cuts(
            run.len(),
            |i| (run[i].dev_ns, run[i].interval(clock.resolution_ns)),
            drift,
        );
        for (nth, piece) in cuts.into_iter().enumerate() {
            let run = Run {
                hub,
                facts: start + piece.start..start + piece.end,
            };
            match lives.last_mut() {
                // The clock's life may go on across the hub's reboot; it is split there later if it can't have.
                Some(life) if nth == 0 => life.runs.push(run),
                _ => lives.push(Life { runs: vec![run] }),
            }
        }
        start = end;
    }
    lives
}

/// What the life says of the hub epochs that it saw.
pub(super) fn ties(life: &Life, clock: &Facts, number: u32, drift: Drift) -> Vec<Tie> {
    if life.runs.len() < 2 {
        return Vec::new();
    }
    let ends: Vec<RunEnds> = life
        .runs
        .iter()
        .map(|run| RunEnds::of(run, clock, drift))
        .collect();
    let mut ties = Vec::new();
    for (i, from) in ends.iter().enumerate() {
        for to in ends.iter().skip(i + 1).take(REACH) {
            let gap = drift.spread(to.first.dev_ns.abs_diff(from.last.dev_ns));
            // H_from + g_from = g = H_to + g_to, with g drifting over the gap between.
            let difference = from.last.bound.plus(to.first.bound.negated()).widen(gap);
            let slope = (from.last.slope + to.first.slope) / 2.0;
            let between = to.first.dev_ns.saturating_sub(from.last.dev_ns) as f64;
            let estimate_ns = from
                .last
                .estimate_ns
                .saturating_sub(to.first.estimate_ns)
                .saturating_add(libm::round(slope * between) as i64);
            if !difference.is_unknown() {
                ties.push(Tie {
                    clock: number,
                    from: from.hub,
                    to: to.hub,
                    difference,
                    estimate_ns,
                });
            }
        }
    }
    ties
}

/// Each hub epoch is tied to at most this many later ones directly; the rest follow along the chain.
const REACH: usize = 8;

/// What is known of a run at its first and last fact, in its own hub epoch's frame.
struct RunEnds {
    hub: u32,
    first: End,
    last: End,
}

struct End {
    dev_ns: i64,
    bound: super::interval::Interval,
    estimate_ns: i64,
    slope: f64,
}

impl RunEnds {
    fn of(run: &Run, clock: &Facts, drift: Drift) -> Self {
        let facts = &clock.facts[run.facts.clone()];
        let envelope = Envelope::build(
            facts
                .iter()
                .map(|fact| (fact.dev_ns, fact.interval(clock.resolution_ns))),
            drift,
        );
        let seen = facts.iter().filter(|fact| !fact.bounds_only);
        let sightings: Vec<Sighting> = seen.map(|fact| Sighting::of(fact, 0)).collect();
        let knots = estimate(&SegmentEvidence {
            sightings: &sightings,
            envelope: &envelope,
            drift,
            live: false,
        });
        let end = |fact: Option<&Fact>, knot: Option<&super::estimate::Knot>| {
            let dev_ns = fact.map_or(0, |fact| fact.dev_ns);
            let bound = envelope.at(dev_ns, drift);
            let (estimate_ns, slope) = knot.map_or((bound.centre(), 0.0), |knot| {
                let along = libm::round(knot.slope * (dev_ns.saturating_sub(knot.dev_ns) as f64)) as i64;
                (knot.offset_ns.saturating_add(along), knot.slope)
            });
            End {
                dev_ns,
                bound,
                estimate_ns: bound.clamp(estimate_ns),
                slope,
            }
        };
        Self {
            hub: run.hub,
            first: end(facts.first(), knots.first()),
            last: end(facts.last(), knots.last()),
        }
    }
}
