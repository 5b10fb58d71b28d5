//! From evidence to maps: the order in which the parts of the model are put together.
//!
//! Owns the result type, the warnings, and the sequence: facts, lives, ties, hub epochs, segments, courses. The
//! mathematics is in the modules that it calls. Invariants: it always gives a result, and equal evidence with equal
//! options gives an equal one, bit for bit.

use std::collections::BTreeMap;
use std::ops::Range;

use super::bounds::{Envelope, widths_from_after, widths_from_before};
use super::course::Course;
use super::estimate::{SegmentEvidence, Sighting, estimate};
use super::evidence::{Fact, Facts, SessionEvidence, number_hub_epochs, reduce};
use super::hub_epochs::{HubEpoch, Surroundings, Tie, resolve};
use super::interval::{Drift, Interval, float_up};
use super::lives::{Life, drop_facts_from_before_a_reboot, find_lives, ties};
use super::map::{ClockMap, Segment};
use super::segments::find_cuts;
use super::warnings::{Warning, warn_of_clock, warn_of_hub_epochs};

/// What the model assumes of every device clock.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// A device clock's rate lies within this of the hub's, in parts per million. The first assumption.
    pub max_drift_ppm: f64,
    /// Widens every bound by the largest jump that the evidence might not show: then the second assumption, that
    /// no clock stops or jumps unseen, is not needed.
    pub guard_steps: bool,
    /// The states of the forward filter, as a live view has them. How much the clock wanders, the least delays, the cuts and
    /// the bounds are still those of all evidence.
    pub live: bool,
    /// The least step that a device's clock is assumed to have, in nanoseconds. A coarser one is found.
    pub resolution_ns: i64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_drift_ppm: 100.0,
            guard_steps: false,
            live: false,
            resolution_ns: 1_000,
        }
    }
}

/// The clocks of a session on one time.
#[derive(Clone, Debug)]
pub struct Alignment {
    clocks: Vec<(String, ClockMap)>,
    by_epoch: BTreeMap<String, BTreeMap<u32, usize>>,
    hub_epochs: Vec<HubEpoch>,
    warnings: Vec<Warning>,
}

impl Alignment {
    /// The map of the clock on which this epoch of the device lives.
    pub fn map(&self, device: &str, epoch: u32) -> Option<&ClockMap> {
        self.by_epoch
            .get(device)?
            .get(&epoch)
            .map(|&place| &self.clocks[place].1)
    }

    /// All clocks with their devices, in the order of the evidence.
    pub fn clocks(&self) -> impl Iterator<Item = (&str, &ClockMap)> {
        self.clocks.iter().map(|(device, map)| (device.as_str(), map))
    }

    /// The hub's epochs in order of time, each with its place in session time.
    pub fn hub_epochs(&self) -> &[HubEpoch] {
        &self.hub_epochs
    }

    /// What an operator should know.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }
}

/// What was found of one clock.
#[derive(Debug)]
pub struct ClockCourse(Vec<Segment>);

/// Aligns all clocks of a session. O(n log n) in the rows; memory in proportion to them.
pub fn align(evidence: &SessionEvidence, options: &Options) -> Alignment {
    align_by(evidence, options, |clocks, course| {
        (0..clocks).map(course).collect()
    })
}

/// The same where `each` calls its function once with each number below its first argument, on any threads, and gives the results
/// in order: nearly all of the work is in there.
pub fn align_by(
    evidence: &SessionEvidence,
    options: &Options,
    each: impl FnOnce(usize, &(dyn Fn(usize) -> ClockCourse + Sync)) -> Vec<ClockCourse>,
) -> Alignment {
    let drift = Drift::from_ppm(options.max_drift_ppm);
    let (hubs, index) = number_hub_epochs(evidence);
    let mut seen = vec![None; hubs.len()];
    let mut all_ties: Vec<Tie> = Vec::new();
    let mut clocks: Vec<(Facts, Vec<Life>)> = Vec::new();
    for clock in evidence.devices.iter().flat_map(|device| &device.clocks) {
        let mut facts = reduce(&clock.rows, &index, drift, options.resolution_ns);
        drop_facts_from_before_a_reboot(&mut facts.facts);
        note_seen(&mut seen, &facts.facts);
        let lives = find_lives(&facts, drift);
        let number = clocks.len() as u32;
        all_ties.extend(lives.iter().flat_map(|life| ties(life, &facts, number, drift)));
        clocks.push((facts, lives));
    }
    let around = Surroundings {
        hub_epochs: &hubs,
        anchor: evidence.anchor,
        walls: &evidence.walls,
        seen: &seen,
        drift,
    };
    let hub_epochs = resolve(&around, &all_ties);

    let mut alignment = Alignment {
        clocks: Vec::new(),
        by_epoch: BTreeMap::new(),
        hub_epochs: Vec::new(),
        warnings: Vec::new(),
    };
    warn_of_hub_epochs(&hub_epochs, &mut alignment.warnings);
    let course = |number: usize| {
        let (facts, lives): &(Facts, Vec<Life>) = &clocks[number];
        ClockCourse(segments(facts, lives, &hub_epochs, (drift, options.live)))
    };
    let courses = each(clocks.len(), &course);
    debug_assert_eq!(courses.len(), clocks.len(), "one for each clock");
    let mut solved = clocks.iter().zip(courses);
    for device in &evidence.devices {
        for (clock, ((facts, _), course)) in device.clocks.iter().zip(solved.by_ref()) {
            let place = alignment.clocks.len();
            let map = ClockMap {
                key: clock.key,
                epochs: clock.epochs.clone(),
                resolution_ns: facts.resolution_ns,
                drift,
                guard_steps: options.guard_steps,
                segments: course.0,
            };
            warn_of_clock(&device.device, &map, facts.dropped, &mut alignment.warnings);
            let epochs = alignment.by_epoch.entry(device.device.clone()).or_default();
            for &epoch in &clock.epochs {
                if *epochs.entry(epoch).or_insert(place) != place {
                    let device = device.device.clone();
                    alignment
                        .warnings
                        .push(Warning::EpochOnTwoClocks { device, epoch });
                }
            }
            alignment.clocks.push((device.device.clone(), map));
        }
    }
    alignment.hub_epochs = hub_epochs;
    alignment
}

fn note_seen(seen: &mut [Option<(i64, i64)>], facts: &[Fact]) {
    for fact in facts {
        let hub_ns = fact.dev_ns.saturating_add(fact.offset_ns);
        let range = seen[fact.hub as usize].get_or_insert((hub_ns, hub_ns));
        *range = (range.0.min(hub_ns), range.1.max(hub_ns));
    }
}

/// One clock's facts in session time.
struct InSession<'a> {
    facts: &'a [Fact],
    resolution_ns: i64,
    hub_epochs: &'a [HubEpoch],
    drift: Drift,
    live: bool,
}

impl InSession<'_> {
    /// A fact as a hard interval; what rests on a later hub epoch is as uncertain as that epoch's place.
    fn bound(&self, i: usize) -> (i64, Interval) {
        let fact = &self.facts[i];
        let hub = self.hub_epochs[fact.hub as usize].interval;
        (fact.dev_ns, fact.interval(self.resolution_ns).plus(hub))
    }

    fn bounds(&self, range: &Range<usize>) -> impl DoubleEndedIterator<Item = (i64, Interval)> {
        range.clone().map(|i| self.bound(i))
    }

    fn sighting(&self, i: usize) -> Sighting {
        let fact = &self.facts[i];
        Sighting::of(fact, self.hub_epochs[fact.hub as usize].offset_ns)
    }
}

/// The segments of one clock: its lives, cut once more where a life can't have gone on across a hub reboot.
fn segments(
    clock: &Facts,
    lives: &[Life],
    hub_epochs: &[HubEpoch],
    (drift, live): (Drift, bool),
) -> Vec<Segment> {
    let session = InSession {
        facts: &clock.facts,
        resolution_ns: clock.resolution_ns,
        hub_epochs,
        drift,
        live,
    };
    let mut certain: Vec<Range<usize>> = Vec::new();
    for life in lives {
        let facts = life.facts();
        let cuts = find_cuts(facts.len(), |i| session.bound(facts.start + i), drift);
        certain.extend(
            cuts.into_iter()
                .map(|cut| facts.start + cut.start..facts.start + cut.end),
        );
    }
    if certain.is_empty() {
        return vec![without_evidence(hub_epochs)];
    }
    let begins: Vec<i64> = (0..certain.len())
        .map(|i| {
            if i == 0 {
                i64::MIN
            } else {
                likely_cut(&session, &certain[i - 1], &certain[i])
            }
        })
        .collect();
    (0..certain.len())
        .map(|i| segment(&session, &certain, &begins, i))
        .collect()
}

fn segment(session: &InSession<'_>, all: &[Range<usize>], begins: &[i64], i: usize) -> Segment {
    let (range, drift, slack) = (&all[i], session.drift, session.resolution_ns);
    let envelope = Envelope::build(session.bounds(range), drift);
    let seen = range.clone().filter(|&i| !session.facts[i].bounds_only);
    let sightings: Vec<Sighting> = seen.map(|i| session.sighting(i)).collect();
    let knots = estimate(&SegmentEvidence {
        sightings: &sightings,
        envelope: &envelope,
        drift,
        live: session.live,
    });
    let stamp = |i: usize| session.facts[i].dev_ns;
    let certain = (
        stamp(range.start).saturating_add(slack),
        stamp(range.end - 1).saturating_sub(slack),
    );
    let (before, next) = (i.checked_sub(1).map(|i| &all[i]), all.get(i + 1));
    // Where the bound begins or ends to cover another segment, rows of the published map must not smear it.
    let mut marks = Vec::new();
    if before.is_some() {
        marks.extend([begins[i], certain.0.saturating_add(1)]);
    }
    if let Some(&end) = begins.get(i + 1) {
        marks.extend([certain.1, end]);
    }
    let course = Course::build(&knots, &marks, &envelope, drift);

    let corners: Vec<i64> = course.corners().iter().map(|corner| corner.dev_ns).collect();
    let mut earlier = widths_from_before(session.bounds(range), &corners, drift);
    let mut later = widths_from_after(session.bounds(range), &corners, drift);
    // Around a cut that was found, it is the other segment's evidence that would show a second one.
    if let Some(before) = before {
        let theirs = widths_from_before(session.bounds(before), &corners, drift);
        take_where(&mut earlier, &theirs, |stretch| {
            corners[stretch + 1] <= certain.0.saturating_add(1)
        });
    }
    if let Some(next) = next {
        let theirs = widths_from_after(session.bounds(next), &corners, drift);
        take_where(&mut later, &theirs, |stretch| corners[stretch] >= certain.1);
    }
    let mut detectable = vec![f64::INFINITY];
    detectable.extend(
        earlier
            .iter()
            .zip(&later)
            .map(|(&earlier, &later)| match earlier.max(later) {
                u64::MAX => f64::INFINITY,
                width => float_up(width),
            }),
    );
    detectable.push(f64::INFINITY);
    Segment {
        begins_ns: begins[i],
        certain,
        envelope,
        course,
        detectable,
    }
}

fn take_where(own: &mut [u64], theirs: &[u64], wanted: impl Fn(usize) -> bool) {
    for (stretch, (own, &theirs)) in own.iter_mut().zip(theirs).enumerate() {
        if wanted(stretch) {
            *own = theirs;
        }
    }
}

/// The device time between two segments at which the offset most likely jumped: where neighbouring facts differ
/// most in the direction of the jump. Only the estimate rests on it.
fn likely_cut(session: &InSession<'_>, old: &Range<usize>, new: &Range<usize>) -> i64 {
    let middle = |range: &Range<usize>, dev_ns: i64| {
        Envelope::build(session.bounds(range), session.drift)
            .at(dev_ns, session.drift)
            .centre()
    };
    let (last, first) = (old.end - 1, new.start);
    let (from, until) = (session.facts[last].dev_ns, session.facts[first].dev_ns);
    let rises = middle(new, until) >= middle(old, from);
    let step = |i: usize| {
        let step = session
            .sighting(i + 1)
            .offset_ns
            .saturating_sub(session.sighting(i).offset_ns);
        if rises { step } else { step.saturating_neg() }
    };
    let widest = (last..first)
        .max_by_key(|&i| (step(i), std::cmp::Reverse(i)))
        .unwrap_or(last);
    let (left, right) = (session.facts[widest].dev_ns, session.facts[widest + 1].dev_ns);
    // Never at the old segment's last stamp, if there is room.
    i64::midpoint(left, right).saturating_add(1).min(until)
}

/// A clock that nobody heard of in time: its stamps are read as if it were the hub's own clock, and the bound is
/// infinite. Any device stamp that precedes an arrival would do better; see `Row::Up`.
fn without_evidence(hub_epochs: &[HubEpoch]) -> Segment {
    let offset_ns = hub_epochs.first().map_or(0, |hub| hub.offset_ns);
    let envelope = Envelope::default();
    let knots = [super::estimate::Knot {
        dev_ns: 0,
        offset_ns,
        slope: 0.0,
    }];
    let course = Course::build(&knots, &[], &envelope, Drift::from_ppm(0.0));
    Segment {
        begins_ns: i64::MIN,
        certain: (i64::MIN, i64::MAX),
        envelope,
        course,
        detectable: vec![f64::INFINITY; 2],
    }
}
