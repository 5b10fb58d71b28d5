//! The estimate: the likeliest course of one segment's offset, from all of its one-way facts.
//!
//! This is the seam of the estimator: `estimate` takes the facts of one segment and gives knots. Nothing that it
//! returns can make a bound false, since whoever calls it clamps the course into the hard interval; it only has to
//! be good. What it does not own: cuts, bounds, hub epochs, and the course between knots.
//!
//! The idea: a packet's delay is a least delay plus a queue that is mostly short and sometimes very long, and that
//! holds for each direction on its own. So the facts of one direction lie on a curve, the offset moved by the least
//! delay, with scatter to one side. The curve is smoothed through the *mode* of each direction's scatter, trusting
//! packets on the quick side of it and distrusting late ones by how late they are. Where the middle lies between
//! the two curves nobody can see; the least delays are taken to be equal both ways.
//!
//! Offsets that were told (`Row::Told`) are what another program made of exchanges that are gone. They have no quick side:
//! the curve runs through them, with less trust in one the farther it lies from it.

use super::bounds::{Envelope, Place};
use super::delays::{
    Point, best_of_one_side, best_per_stretch, level, medians_of_told, middles, scatters, thin,
};
use super::evidence::{Fact, Side};
use super::interval::Drift;
use super::smoother::{Observation, Smoother, State, foretold};

/// A fact as the estimator sees it: all offsets in one frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sighting {
    pub dev_ns: i64,
    pub offset_ns: i64,
    pub side: Side,
    pub probe: bool,
}

impl Sighting {
    /// The fact with its hub epoch's offset added.
    pub fn of(fact: &Fact, hub_offset_ns: i64) -> Self {
        Self {
            dev_ns: fact.dev_ns,
            offset_ns: fact.offset_ns.saturating_add(hub_offset_ns),
            side: fact.side,
            probe: fact.probe,
        }
    }
}

/// What there is to go by in one segment: its facts, sorted by device time, and the bounds they make.
#[derive(Debug)]
pub(super) struct SegmentEvidence<'a> {
    pub sightings: &'a [Sighting],
    pub envelope: &'a Envelope,
    pub drift: Drift,
    /// Nothing is told of a moment by what came after it, but for the knot that it stands before.
    pub live: bool,
}

/// The estimated offset at `dev_ns`, and its slope there (hub seconds per device second, less one).
#[derive(Clone, Copy, Debug)]
pub(super) struct Knot {
    pub dev_ns: i64,
    pub offset_ns: i64,
    pub slope: f64,
}

/// Knots with rising device times, a second apart or more; none only if there are no facts.
pub(super) fn estimate(evidence: &SegmentEvidence<'_>) -> Vec<Knot> {
    let Some(first) = evidence.sightings.first() else {
        return Vec::new();
    };
    let origin = Origin {
        dev_ns: first.dev_ns,
        offset_ns: evidence.envelope.at(first.dev_ns, evidence.drift).centre(),
    };
    let points = near_the_envelope(evidence, origin);
    let mut fit = Fit::begin(&points);
    let mut kept = thin(&points, |point| fit.at(point.at_s));
    for round in 0..ROUNDS {
        fit.round(&kept);
        if round == 1 {
            // By now the fit is better than the one that chose.
            kept = thin(&points, |point| fit.at(point.at_s));
        }
    }
    if evidence.live {
        fit.forget_what_came_later();
    }
    let lift_us = level(&points, &fit.delays(&points));
    fit.knots(lift_us, origin)
}

const ROUNDS: usize = 10;

/// Floats begin here: everything is counted from the segment's first stamp.
#[derive(Clone, Copy, Debug)]
struct Origin {
    dev_ns: i64,
    offset_ns: i64,
}

/// Facts that are looser than the bound by more than this are old samples and resends: they say nothing of delay.
const LATE_NS: i64 = 200_000_000;

fn near_the_envelope(evidence: &SegmentEvidence<'_>, origin: Origin) -> Vec<Point> {
    let mut place = Place::default();
    let mut points = Vec::with_capacity(evidence.sightings.len());
    for sighting in evidence.sightings {
        let bound = evidence
            .envelope
            .read_on(&mut place, sighting.dev_ns, evidence.drift);
        let late = match sighting.side {
            Side::Up => bound.hi != i64::MAX && sighting.offset_ns.saturating_sub(bound.hi) > LATE_NS,
            Side::Down => bound.lo != i64::MIN && bound.lo.saturating_sub(sighting.offset_ns) > LATE_NS,
            Side::Told => false,
        };
        if !late {
            points.push(Point {
                at_s: sighting.dev_ns.saturating_sub(origin.dev_ns) as f64 * 1e-9,
                offset_us: sighting.offset_ns.saturating_sub(origin.offset_ns) as f64 * 1e-3,
                side: sighting.side,
                probe: sighting.probe,
            });
        }
    }
    points
}

/// The course as it stands, and what the next round needs.
#[derive(Debug)]
struct Fit {
    smoother: Smoother,
    /// Times and states of the last smoothing.
    times: Vec<f64>,
    states: Vec<State>,
    q_ppm: f64,
    observations: Vec<Observation>,
}

impl Fit {
    /// Smooths the middles between the best packet up and the best down, over ever longer stretches until there
    /// are some; without pairs, what was told, and with one direction only, its best packets.
    fn begin(points: &[Point]) -> Self {
        let mut observations = Vec::new();
        for stretch_s in [1.0, 10.0, 100.0, f64::INFINITY] {
            observations = middles(points, stretch_s);
            if observations.len() >= 8 || (observations.len() >= 2 && stretch_s > 50.0) {
                break;
            }
        }
        if observations.is_empty() {
            observations = medians_of_told(points);
        }
        if observations.is_empty() {
            observations = best_of_one_side(points);
        }
        let mut fit = Self {
            smoother: Smoother::default(),
            times: Vec::new(),
            states: Vec::new(),
            q_ppm: USUAL_Q_PPM,
            observations,
        };
        fit.smooth();
        fit
    }

    /// Weighs the facts anew by how late they are under the course as it stands, and smooths again.
    fn round(&mut self, kept: &[Point]) {
        let delays: Vec<f64> = self.delays(kept);
        let scatters = scatters(kept, &delays);
        self.observations.clear();
        for (point, &delay) in kept.iter().zip(&delays) {
            let scatter = scatters[point.class()];
            let late = match point.side {
                Side::Up | Side::Down => delay - scatter.mode,
                // Who told it may have erred either way.
                Side::Told => delay.abs(),
            };
            let spread = scatter.spread * scatter.spread;
            let variance = if late <= 0.0 {
                spread
            } else {
                let far = late / (1.5 * scatter.spread);
                let base = 1.0 + far * far;
                spread * base * libm::sqrt(base)
            };
            let offset_us = match point.side {
                Side::Up => point.offset_us - scatter.mode,
                Side::Down => point.offset_us + scatter.mode,
                Side::Told => point.offset_us,
            };
            self.observations.push(Observation {
                at_s: point.at_s,
                offset_us,
                variance,
            });
        }
        self.q_ppm = likeliest_walk(&best_per_stretch(&self.observations));
        self.smooth();
    }

    fn smooth(&mut self) {
        self.smoother
            .smooth(&self.observations, self.q_ppm, &mut self.states);
        self.times.clear();
        self.times
            .extend(self.observations.iter().map(|observation| observation.at_s));
    }

    /// The states as the filter had them, and before it found the line, as the line says that it first found.
    fn forget_what_came_later(&mut self) {
        self.smoother.filtered(&mut self.states);
        let Some(&first_s) = self.times.first() else {
            return;
        };
        let found = self.times.partition_point(|&at_s| at_s < first_s + LINE_S);
        let found = found.min(self.times.len() - 1);
        let (line_s, line) = (self.times[found], self.states[found]);
        for (&at_s, state) in self.times.iter().zip(&mut self.states[..found]) {
            state.offset_us = line.offset_us - line.slope_ppm * (line_s - at_s);
            state.slope_ppm = line.slope_ppm;
        }
    }

    /// The delays of `points` (sorted) under the course as it stands.
    fn delays(&self, points: &[Point]) -> Vec<f64> {
        let mut after = 0;
        points
            .iter()
            .map(|point| {
                while self.times.get(after).is_some_and(|&at_s| at_s <= point.at_s) {
                    after += 1;
                }
                point.delay(self.between(after, point.at_s))
            })
            .collect()
    }

    fn at(&self, at_s: f64) -> f64 {
        self.between(self.times.partition_point(|&time| time <= at_s), at_s)
    }

    /// The course at `at_s`, which lies before the observation numbered `after` and not before the one ahead of it.
    fn between(&self, after: usize, at_s: f64) -> f64 {
        let state = |i: usize| self.times.get(i).zip(self.states.get(i));
        match (after.checked_sub(1).and_then(state), state(after)) {
            (Some((&t0, left)), Some((&t1, right))) => hermite(t0, left, t1, right, at_s),
            (Some((&t0, left)), None) => left.offset_us + left.slope_ppm * (at_s - t0),
            (None, Some((&t1, right))) => right.offset_us + right.slope_ppm * (at_s - t1),
            (None, None) => 0.0,
        }
    }

    /// Knots about a second apart where there are observations, and a few on the curve across each gap.
    fn knots(&self, lift_us: f64, origin: Origin) -> Vec<Knot> {
        let mut knots: Vec<Knot> = Vec::new();
        let mut add = |at_s: f64, offset_us: f64, slope_ppm: f64| {
            let knot = Knot {
                dev_ns: origin.dev_ns.saturating_add(libm::round(at_s * 1e9) as i64),
                offset_ns: origin
                    .offset_ns
                    .saturating_add(libm::round((offset_us + lift_us) * 1e3) as i64),
                slope: slope_ppm * 1e-6,
            };
            if knots.last().is_none_or(|last| last.dev_ns < knot.dev_ns) {
                knots.push(knot);
            }
        };
        let mut last: Option<(f64, &State)> = None;
        let count = self.times.len();
        for (i, (&at_s, state)) in self.times.iter().zip(&self.states).enumerate() {
            if let Some((from_s, from)) = last {
                if at_s - from_s < KNOT_EVERY_S && i + 1 < count {
                    continue;
                }
                // Between the knots the course is straight; a long bend needs more of them.
                let pieces = libm::ceil((at_s - from_s) / GAP_S).min(GAP_PIECES);
                let mut piece = 1.0;
                while piece < pieces {
                    let at = from_s + (at_s - from_s) * piece / pieces;
                    let slope = from.slope_ppm + (state.slope_ppm - from.slope_ppm) * piece / pieces;
                    add(at, hermite(from_s, from, at_s, state, at), slope);
                    piece += 1.0;
                }
            }
            add(at_s, state.offset_us, state.slope_ppm);
            last = Some((at_s, state));
        }
        knots
    }
}

/// What the filter knows before so much was seen is chance.
const LINE_S: f64 = 8.0;

const KNOT_EVERY_S: f64 = 1.0;
const GAP_S: f64 = 4.0;
const GAP_PIECES: f64 = 16.0;

/// The random walk that best foretells the observations, with a preference for the usual.
fn likeliest_walk(observations: &[Observation]) -> f64 {
    let mut best = (f64::NEG_INFINITY, USUAL_Q_PPM);
    for q_ppm in Q_GRID_PPM {
        let unusual = libm::log(q_ppm / USUAL_Q_PPM) / Q_PRIOR_SPREAD;
        let score = foretold(observations, q_ppm) - 0.5 * unusual * unusual;
        if score > best.0 {
            best = (score, q_ppm);
        }
    }
    best.1
}

const Q_GRID_PPM: [f64; 7] = [0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0];
const USUAL_Q_PPM: f64 = 0.1;
/// Of the logarithm: a walk ten times the usual is a matter of a sigma and a half.
const Q_PRIOR_SPREAD: f64 = 1.5;

/// The cubic through two states.
fn hermite(t0: f64, left: &State, t1: f64, right: &State, at_s: f64) -> f64 {
    let span = t1 - t0;
    if span <= 0.0 {
        return left.offset_us;
    }
    let s = (at_s - t0) / span;
    let (h00, h10) = ((1.0 + 2.0 * s) * (1.0 - s) * (1.0 - s), s * (1.0 - s) * (1.0 - s));
    let (h01, h11) = (s * s * (3.0 - 2.0 * s), s * s * (s - 1.0));
    h00 * left.offset_us + h01 * right.offset_us + span * (h10 * left.slope_ppm + h11 * right.slope_ppm)
}
