//! What the delays of one segment's packets say: which to keep, how they scatter, where their least ones lie.
//!
//! Owns the statistics of one-way delays under a given course of the offset. It has no opinion on the course.
//!
//! Why a mode: delays have a sharp quick edge and a long slow tail; their mean wanders with the traffic, their
//! minimum with the number of packets, and the mode does neither.

use super::evidence::Side;
use super::smoother::Observation;

/// A fact in seconds and microseconds from the origin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    pub at_s: f64,
    pub offset_us: f64,
    pub side: Side,
    pub probe: bool,
}

impl Point {
    /// How late the packet was, if the offset was `offset_us`; how far off what was told is.
    pub fn delay(&self, offset_us: f64) -> f64 {
        match self.side {
            Side::Up | Side::Told => self.offset_us - offset_us,
            Side::Down => offset_us - self.offset_us,
        }
    }

    /// The classes whose delays are alike: direction, and probe or not.
    pub fn class(&self) -> usize {
        self.side as usize * 2 + usize::from(self.probe)
    }
}

pub(super) const CLASSES: usize = 6;
const TOLD: usize = Side::Told as usize * 2;

/// The best few per second, direction and kind: the rest add cost, not knowledge.
pub(super) fn thin(points: &[Point], offset_at: impl Fn(&Point) -> f64) -> Vec<Point> {
    let mut kept = Vec::with_capacity(points.len().min(1 << 20));
    let mut rank: [Vec<(f64, usize)>; CLASSES] = Default::default();
    let flush = |rank: &mut [Vec<(f64, usize)>; CLASSES], kept: &mut Vec<Point>| {
        let mut chosen: Vec<usize> = Vec::new();
        for (class, delays) in rank.iter_mut().enumerate() {
            delays.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            let most = if class % 2 == 1 {
                PROBES_PER_S
            } else {
                FRAMES_PER_S
            };
            chosen.extend(delays.iter().take(most).map(|delay| delay.1));
            delays.clear();
        }
        chosen.sort_unstable();
        kept.extend(chosen.into_iter().map(|i| points[i]));
    };
    let mut second = f64::NEG_INFINITY;
    for (i, point) in points.iter().enumerate() {
        if libm::floor(point.at_s) > second {
            second = libm::floor(point.at_s);
            flush(&mut rank, &mut kept);
        }
        let delay = point.delay(offset_at(point));
        let rank_by = if point.side == Side::Told {
            delay.abs()
        } else {
            delay
        };
        rank[point.class()].push((rank_by, i));
    }
    flush(&mut rank, &mut kept);
    kept
}

const FRAMES_PER_S: usize = 2;
const PROBES_PER_S: usize = 4;

/// Middles between the best packet up and the best down of each stretch, with a variance from their distance: the
/// wider a pair is apart compared with the good ones, the less it says.
pub(super) fn middles(points: &[Point], stretch_s: f64) -> Vec<Observation> {
    let mut pairs: Vec<(Point, Point)> = Vec::new();
    for stretch in stretches(points, stretch_s) {
        if let (Some(up), Some(down)) = (best(stretch, Side::Up), best(stretch, Side::Down)) {
            pairs.push((up, down));
        }
    }
    let mut trips: Vec<f64> = pairs
        .iter()
        .map(|(up, down)| up.offset_us - down.offset_us)
        .collect();
    trips.sort_unstable_by(f64::total_cmp);
    let least = trips.get(trips.len() / 50).copied().unwrap_or(0.0);
    pairs
        .iter()
        .map(|(up, down)| {
            let excess = (up.offset_us - down.offset_us - least) / 2.0;
            Observation {
                at_s: (up.at_s + down.at_s) / 2.0,
                offset_us: (up.offset_us + down.offset_us) / 2.0,
                variance: LEAST_SPREAD_US * LEAST_SPREAD_US + excess * excess / 3.0,
            }
        })
        .collect()
}

/// With one direction only: the best packet of every second, all trusted alike.
pub(super) fn best_of_one_side(points: &[Point]) -> Vec<Observation> {
    stretches(points, 1.0)
        .filter_map(|stretch| best(stretch, stretch.first()?.side))
        .map(|point| Observation {
            at_s: point.at_s,
            offset_us: point.offset_us,
            variance: 1e4,
        })
        .collect()
}

/// Medians of three neighbours of what was told, so that one that is far off does not lead the first fit astray.
pub(super) fn medians_of_told(points: &[Point]) -> Vec<Observation> {
    let told: Vec<&Point> = points.iter().filter(|point| point.side == Side::Told).collect();
    let median = |at: usize| {
        let mut around: Vec<f64> = told[at.saturating_sub(1)..(at + 2).min(told.len())]
            .iter()
            .map(|point| point.offset_us)
            .collect();
        around.sort_unstable_by(f64::total_cmp);
        match *around {
            [low, _, high] | [low, high] if around.len() == 2 => (low + high) / 2.0,
            _ => around[around.len() / 2],
        }
    };
    (0..told.len())
        .map(|at| Observation {
            at_s: told[at].at_s,
            offset_us: median(at),
            variance: 1e4,
        })
        .collect()
}

/// The most trusted observation of every few seconds.
pub(super) fn best_per_stretch(observations: &[Observation]) -> Vec<Observation> {
    let mut best: Vec<Observation> = Vec::new();
    let mut until = f64::NEG_INFINITY;
    for observation in observations {
        match best.last_mut() {
            Some(last) if observation.at_s < until => {
                if observation.variance < last.variance {
                    *last = *observation;
                }
            }
            _ => {
                best.push(*observation);
                until = observation.at_s + FORETELL_EVERY_S;
            }
        }
    }
    best
}

const FORETELL_EVERY_S: f64 = 4.0;

/// Where the delays of a class are densest, and how they scatter on the quick side of that.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scatter {
    pub mode: f64,
    pub spread: f64,
}

/// Per class; a class with few packets borrows its direction's.
pub(super) fn scatters(points: &[Point], delays: &[f64]) -> [Scatter; CLASSES] {
    let mut own: [Vec<f64>; CLASSES] = Default::default();
    for (point, &delay) in points.iter().zip(delays) {
        own[point.class()].push(delay);
    }
    let mut scatters = [Scatter {
        mode: 0.0,
        spread: LEAST_SPREAD_US,
    }; CLASSES];
    for (class, scatter) in scatters.iter_mut().enumerate() {
        let mut delays = match own[class].len() >= ENOUGH {
            true => own[class].clone(),
            false => own[class & !1..=class | 1].concat(),
        };
        delays.sort_unstable_by(f64::total_cmp);
        if !delays.is_empty() {
            *scatter = if class < TOLD {
                scatter_of(&delays)
            } else {
                scatter_both_ways(&delays)
            };
        }
    }
    scatters
}

const ENOUGH: usize = 32;
/// No network and no clock is steadier than this.
const LEAST_SPREAD_US: f64 = 5.0;

fn scatter_of(sorted: &[f64]) -> Scatter {
    let mode = half_sample_mode(sorted);
    let quick = &sorted[..sorted.partition_point(|&delay| delay < mode)];
    let mean = quick.iter().map(|delay| mode - delay).sum::<f64>() / (quick.len().max(1) as f64);
    Scatter {
        mode,
        spread: (1.25 * mean).max(LEAST_SPREAD_US),
    }
}

/// Around nothing, and on both sides: the median of how far off they are, as a standard deviation.
fn scatter_both_ways(delays: &[f64]) -> Scatter {
    let mut off: Vec<f64> = delays.iter().map(|delay| delay.abs()).collect();
    off.sort_unstable_by(f64::total_cmp);
    Scatter {
        mode: 0.0,
        spread: (1.4826 * off[off.len() / 2]).max(LEAST_SPREAD_US),
    }
}

/// The half-sample mode (Robertson and Cryer 1974): the densest half of the densest half, and so on.
fn half_sample_mode(sorted: &[f64]) -> f64 {
    let mut sample = sorted;
    while sample.len() > 3 {
        let half = sample.len().div_ceil(2);
        let mut densest = 0;
        for start in 1..=sample.len() - half {
            let width = |from: usize| sample[from + half - 1] - sample[from];
            if width(start) < width(densest) {
                densest = start;
            }
        }
        sample = &sample[densest..densest + half];
    }
    match *sample {
        [] => 0.0,
        [one] => one,
        [a, b] => (a + b) / 2.0,
        [a, b, c] if b - a < c - b => (a + b) / 2.0,
        [a, b, c] if b - a > c - b => (b + c) / 2.0,
        [_, b, ..] => b,
    }
}

/// How far the course must be lifted so that the least delays of both directions are equal; with one direction
/// only, so that its least delay is zero, unless something was told.
pub(super) fn level(points: &[Point], delays: &[f64]) -> f64 {
    let least = |side: Side| {
        let mut sorted: Vec<f64> = points
            .iter()
            .zip(delays)
            .filter(|(point, _)| point.side == side)
            .map(|(_, &delay)| delay)
            .collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let lowest = &sorted[sorted.len() / 1_000..];
        let count = (sorted.len() / 50)
            .clamp(1, lowest.len().max(1))
            .min(lowest.len());
        (count > 0).then(|| lowest[..count].iter().sum::<f64>() / count as f64)
    };
    match (least(Side::Up), least(Side::Down)) {
        (Some(up), Some(down)) => (up - down) / 2.0,
        _ if points.iter().any(|point| point.side == Side::Told) => 0.0,
        (Some(up), None) => up,
        (None, Some(down)) => -down,
        (None, None) => 0.0,
    }
}

fn best(stretch: &[Point], side: Side) -> Option<Point> {
    stretch
        .iter()
        .filter(|point| point.side == side)
        .min_by(|a, b| a.delay(0.0).total_cmp(&b.delay(0.0)))
        .copied()
}

/// Cuts points (sorted) where a multiple of `stretch_s` is passed.
fn stretches(points: &[Point], stretch_s: f64) -> impl Iterator<Item = &[Point]> {
    let number = move |point: &Point| {
        if stretch_s.is_finite() {
            libm::floor(point.at_s / stretch_s)
        } else {
            0.0
        }
    };
    points.chunk_by(move |a, b| number(a) == number(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mode_ignores_the_tail() {
        let mut delays: Vec<f64> = (0..300).map(|i| 100.0 + f64::from(i % 17) * 0.5).collect();
        delays.extend((0..200).map(|i| 110.0 + f64::from(i) * 7.0));
        delays.sort_unstable_by(f64::total_cmp);
        let mode = half_sample_mode(&delays);
        assert!((100.0..109.0).contains(&mode), "{mode}");
        assert_eq!(half_sample_mode(&[]), 0.0);
        assert_eq!(half_sample_mode(&[3.0]), 3.0);
        assert_eq!(half_sample_mode(&[1.0, 2.0, 9.0]), 1.5);
    }

    #[test]
    fn the_level_balances_the_least_delays() {
        let point = |side, offset_us| Point {
            at_s: 0.0,
            offset_us,
            side,
            probe: false,
        };
        let points = [point(Side::Up, 30.0), point(Side::Down, -10.0)];
        let delays: Vec<f64> = points.iter().map(|point| point.delay(0.0)).collect();
        assert_eq!(level(&points, &delays), 10.0);
        assert_eq!(level(&points[..1], &delays[..1]), 30.0);
        assert_eq!(level(&points[1..], &delays[1..]), -10.0);
        assert_eq!(level(&[], &[]), 0.0);
    }
}
