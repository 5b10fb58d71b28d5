//! Lags: by how much the times differ at which two streams saw the same event, and whether their bounds explain it.
//!
//! Owns: which events are common, the lag of each, what is explained by what. Does not own: files, or what an event is
//! (`onsets`).
//!
//! Invariants: an event is common to two streams once at most; where two might be meant, none is taken, and that is counted;
//! the lag of (a, b) is positive where b's time is the later one.
//!
//! A lag is where the pieces of both around the event, as straight lines between samples on one fine grid, correlate best; the
//! place between two points of the grid is that of a parabola through the best and its neighbours. Where the pieces do not
//! look alike (a flash and a knock), it is the difference of the onsets.

use super::onsets::{Event, Point};
use serde::Serialize;

/// Events of two streams, by their places in both.
#[derive(Debug, Default, PartialEq)]
pub struct Matched {
    pub common: Vec<(usize, usize)>,
    /// Events of the first that could be one of several of the second, or the other way round.
    pub ambiguous: usize,
    /// Events of each in the time that both know.
    pub of_each: [usize; 2],
}

/// What a stream was found to have: its events, and from when to when it could have had some.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    pub events: &'a [Event],
    pub from_us: f64,
    pub to_us: f64,
}

/// Finds the events that both saw: no farther apart than `within_us` and both bounds, where these have an end.
pub fn matched(a: Seen<'_>, b: Seen<'_>, within_us: f64) -> Matched {
    let reach_us = |a: &Event, b: &Event| within_us + finite(a.err_us) + finite(b.err_us);
    let (from_us, to_us) = (a.from_us.max(b.from_us), a.to_us.min(b.to_us));
    let of_both = |event: &&Event| (from_us..=to_us).contains(&event.onset_us);
    let widest_us = [a, b].map(|seen| {
        seen.events
            .iter()
            .map(|event| finite(event.err_us))
            .fold(0.0, f64::max)
    });
    let widest_us = within_us + widest_us[0] + widest_us[1];
    let near = |event: &Event, others: &[Event]| -> Vec<usize> {
        let first = others.partition_point(|other| other.onset_us < event.onset_us - widest_us);
        let until = others.partition_point(|other| other.onset_us <= event.onset_us + widest_us);
        let is_near =
            |at: &usize| (others[*at].onset_us - event.onset_us).abs() <= reach_us(event, &others[*at]);
        (first..until).filter(is_near).collect()
    };
    let mut found = Matched {
        of_each: [a, b].map(|seen| seen.events.iter().filter(of_both).count()),
        ..Matched::default()
    };
    for (at, event) in a.events.iter().enumerate() {
        match near(event, b.events)[..] {
            [] => {}
            [other] if near(&b.events[other], a.events).len() == 1 => found.common.push((at, other)),
            _ => found.ambiguous += 1,
        }
    }
    found
}

/// How far apart two streams saw one event.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lag {
    pub us: f64,
    /// The correlation of what they saw, -1 to 1.
    pub likeness: f64,
    /// Whether the lag is that of the best correlation; else of the onsets.
    pub by_shape: bool,
}

/// The lag of b behind a.
pub fn lag(a: &Event, b: &Event) -> Lag {
    let of_onsets_us = b.onset_us - a.onset_us;
    let (finer, coarser) = (a.spacing_us.min(b.spacing_us), a.spacing_us.max(b.spacing_us));
    let before_us = LEAST_BEFORE_US.max(3.0 * coarser);
    let after_us = LEAST_AFTER_US.max(4.0 * coarser);
    let grid_us = (finer / 4.0).max((before_us + after_us) / GRID_MAX);
    let points = ((before_us + after_us) / grid_us) as usize + 1;
    let farthest = (LEAST_SEARCH_US.max(2.5 * coarser) / grid_us).ceil() as usize;
    let first_us = a.onset_us - before_us;
    let smooth = (SMOOTH * coarser / grid_us).round() as usize;
    let of_a = on_grid(&a.piece, first_us, grid_us, points, smooth);
    let of_b = on_grid(
        &b.piece,
        first_us + of_onsets_us - farthest as f64 * grid_us,
        grid_us,
        points + 2 * farthest,
        smooth,
    );
    let likeness: Vec<f64> = of_b
        .windows(points)
        .map(|of_b| correlation(&of_a, of_b))
        .collect();
    let best = (0..likeness.len()).max_by(|a, b| likeness[*a].total_cmp(&likeness[*b]));
    let best = best.unwrap_or(farthest);
    let highest = likeness.get(best).copied().unwrap_or(NOT_KNOWN);
    let neighbours = best
        .checked_sub(1)
        .and_then(|below| Some((likeness[below], *likeness.get(best + 1)?)));
    let Some((below, above)) =
        neighbours.filter(|(below, above)| highest >= ALIKE && *below > NOT_KNOWN && *above > NOT_KNOWN)
    else {
        return Lag {
            us: of_onsets_us,
            likeness: highest.max(-1.0),
            by_shape: false,
        };
    };
    let bend = below - 2.0 * highest + above;
    let between = if bend < 0.0 {
        ((below - above) / (2.0 * bend)).clamp(-0.5, 0.5)
    } else {
        0.0
    };
    Lag {
        us: of_onsets_us + (best as f64 - farthest as f64 + between) * grid_us,
        likeness: highest,
        by_shape: true,
    }
}

/// A piece as straight lines between its samples, on a grid, blurred over so many points to each side; NaN beyond its ends.
fn on_grid(piece: &[Point], first_us: f64, grid_us: f64, points: usize, blur: usize) -> Vec<f64> {
    let first_us = first_us - blur as f64 * grid_us;
    let mut next = 0;
    let mut level = |at: usize| {
        let at_us = first_us + at as f64 * grid_us;
        while piece.get(next).is_some_and(|point| point.at_us < at_us) {
            next += 1;
        }
        let after = piece.get(next)?;
        if after.at_us == at_us {
            return Some(f64::from(after.level));
        }
        let before = piece.get(next.checked_sub(1)?)?;
        let share = (at_us - before.at_us) / (after.at_us - before.at_us);
        Some(f64::from(before.level) + share * (f64::from(after.level) - f64::from(before.level)))
    };
    let sharp: Vec<f64> = (0..points + 2 * blur)
        .map(|at| level(at).unwrap_or(f64::NAN))
        .collect();
    let weight = |at: usize| (1 + blur - at.abs_diff(blur)) as f64;
    let blurred = |sharp: &[f64]| {
        sharp
            .iter()
            .enumerate()
            .map(|(at, level)| weight(at) * level)
            .sum::<f64>()
    };
    sharp.windows(2 * blur + 1).map(blurred).collect()
}

/// Pearson's, over what both know; less than -1 where that is too little.
fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let known = || a.iter().zip(b).filter(|(a, b)| a.is_finite() && b.is_finite());
    let count = known().count();
    if count < 8 || 5 * count < 3 * a.len() {
        return NOT_KNOWN;
    }
    let (sum_a, sum_b) = known().fold((0.0, 0.0), |(x, y), (a, b)| (x + a, y + b));
    let (mean_a, mean_b) = (sum_a / count as f64, sum_b / count as f64);
    let (mut aa, mut bb, mut ab) = (0.0, 0.0, 0.0);
    for (a, b) in known() {
        let (a, b) = (a - mean_a, b - mean_b);
        aa += a * a;
        bb += b * b;
        ab += a * b;
    }
    match aa > 0.0 && bb > 0.0 {
        true => ab / (aa.sqrt() * bb.sqrt()),
        false => NOT_KNOWN,
    }
}

/// What explains the lag of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The claimed bounds alone.
    Bounds,
    /// The bounds, and that nobody sees between samples.
    Resolution,
    /// Nothing that was claimed.
    Unexplained,
    /// No bound was claimed that it could contradict.
    Unbounded,
}

/// A common event of two streams.
#[derive(Debug, Clone, PartialEq)]
pub struct Residual {
    pub at_us: f64,
    pub lag: Lag,
    /// The sum of both claimed bounds.
    pub bound_us: f64,
    /// Half of each stream's spacing of samples.
    pub resolution_us: f64,
    pub verdict: Verdict,
}

/// Holds an event's lag against what its two times claim.
pub fn judge(a: &Event, b: &Event) -> Residual {
    let lag = lag(a, b);
    let bound_us = a.err_us + b.err_us;
    let resolution_us = (a.spacing_us + b.spacing_us) / 2.0;
    let off_us = lag.us.abs();
    let verdict = match () {
        () if !bound_us.is_finite() => Verdict::Unbounded,
        () if off_us <= bound_us => Verdict::Bounds,
        () if off_us <= bound_us + resolution_us => Verdict::Resolution,
        () => Verdict::Unexplained,
    };
    Residual {
        at_us: a.onset_us,
        lag,
        bound_us,
        resolution_us,
        verdict,
    }
}

/// The middle of some values, and 1.4826 times the median distance from it; none of none.
pub fn middle_and_spread(values: &[f64]) -> Option<(f64, f64)> {
    let middle = median(values.to_vec())?;
    let off = values.iter().map(|value| (value - middle).abs()).collect();
    Some((middle, 1.4826 * median(off)?))
}

/// Between the two in the middle where there are two.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.len().checked_sub(1)? / 2, values.len() / 2);
    Some(f64::midpoint(values[low], values[high]))
}

fn finite(err_us: f64) -> f64 {
    if err_us.is_finite() { err_us } else { 0.0 }
}

/// Of an event, what is compared before and after its onset, at least, and how far from the onsets the best lag is looked
/// for.
const LEAST_BEFORE_US: f64 = 30_000.0;
const LEAST_AFTER_US: f64 = 80_000.0;
const LEAST_SEARCH_US: f64 = 15_000.0;
/// Points that a piece is compared at.
const GRID_MAX: f64 = 2048.0;
/// From this correlation on two pieces show the same.
const ALIKE: f64 = 0.7;
const NOT_KNOWN: f64 = -2.0;
/// Samples of the coarser stream that both are blurred over, to each side: what a sample shows of faster movement depends on
/// when it is taken.
const SMOOTH: f64 = 1.0;

#[cfg(test)]
#[path = "lags_tests.rs"]
mod tests;
