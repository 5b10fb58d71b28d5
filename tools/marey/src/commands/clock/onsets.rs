//! Onsets: when a sensor felt something sudden, and how that looked.
//!
//! Owns: one number a moment made of a stream's channels, what is usual of it, and the events that stand out of that. Does
//! not own: files, or what another sensor felt (`lags`).
//!
//! Invariants: rows pass once and are not kept, but for those around events, whose number is bounded; a hole in time or
//! another epoch begins anew and is never an event; a value that is no number is as if its row were not there; what comes
//! later does not move the onset of an event, because what is usual is known before it.
//!
//! The level of a moment is how far its channels are, as a vector, from the median of each over the second before it. That
//! takes gravity and slow movement away whichever way the device lies, and a knock from any side counts alike. An event
//! begins where the level passes `median + K * 1.4826 * MAD` of the whole stream; its onset is where the level, between
//! samples as on a straight line, passes half of the peak that follows.

use std::collections::VecDeque;

/// A row of a stream. Times are in microseconds, from wherever the caller counts.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    pub at_us: f64,
    pub err_us: f32,
    pub epoch: i32,
    /// One for each channel.
    pub values: &'a [f64],
}

/// How far a stream is from where it just was.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    pub at_us: f64,
    pub err_us: f32,
    pub level: f32,
}

/// What comes of a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Step {
    /// Nothing connects what follows with what was.
    Break,
    Point(Point),
}

/// Rows as levels.
#[derive(Debug)]
pub struct Levels {
    channels: Vec<Middle>,
    /// When the values of `channels` were taken, in the same order.
    taken_us: VecDeque<f64>,
    epoch: Option<i32>,
    began_us: f64,
    /// Steps between rows, without holes.
    steps_us: Middle,
    pending: Pending,
    pub rows: u64,
    /// Holes in time and changes of epoch.
    pub breaks: u64,
}

/// Rows that count as one moment.
#[derive(Debug, Default)]
struct Pending {
    count: u32,
    first_us: f64,
    sum_us: f64,
    sum: f64,
    err_us: f32,
}

impl Levels {
    pub fn new(channels: usize) -> Self {
        Self {
            channels: (0..channels).map(|_| Middle::default()).collect(),
            taken_us: VecDeque::new(),
            epoch: None,
            began_us: 0.0,
            steps_us: Middle::default(),
            pending: Pending::default(),
            rows: 0,
            breaks: 0,
        }
    }

    /// The usual step between moments; none before there are some.
    pub fn period_us(&self) -> Option<f64> {
        self.steps_us.at_share(1, 2)
    }

    /// Takes the next row; rows come in order of time.
    pub fn take(&mut self, row: &Row<'_>, to: &mut impl FnMut(Step)) {
        if !row.values.iter().all(|value| value.is_finite()) {
            return;
        }
        self.rows += 1;
        let step_us = row.at_us - self.pending.first_us;
        let is_same_moment = self.pending.count > 0 && step_us < FINEST_US && self.epoch == Some(row.epoch);
        if !is_same_moment {
            self.put_pending(to);
            match self.epoch {
                Some(epoch) if epoch == row.epoch => {
                    if self.is_hole(step_us) {
                        self.begin_anew(row, to);
                    }
                    self.steps_us.push(step_us, HISTORY);
                }
                Some(_) => {
                    self.steps_us = Middle::default();
                    self.begin_anew(row, to);
                }
                None => self.began_us = row.at_us,
            }
            self.epoch = Some(row.epoch);
            self.pending = Pending {
                first_us: row.at_us,
                ..Pending::default()
            };
        }
        let level = self.level(row.values);
        self.pending.count += 1;
        self.pending.sum_us += row.at_us;
        self.pending.sum += level;
        self.pending.err_us = self.pending.err_us.max(row.err_us);
        self.remember(row);
    }

    /// After the last row.
    pub fn finish(&mut self, to: &mut impl FnMut(Step)) {
        self.put_pending(to);
    }

    /// Samples that come in bursts, or some of which are often lost, usually have long steps too. They are no holes, unless so
    /// long that anything may have happened meanwhile.
    fn is_hole(&self, step_us: f64) -> bool {
        let exceeds = |usual_us: Option<f64>| usual_us.is_some_and(|usual_us| step_us > HOLE * usual_us);
        let usual_us = self.steps_us.at_share(1, 2);
        self.steps_us.len() >= STEPS_MIN
            && (exceeds(self.steps_us.at_share(19, 20)) || (step_us > LONG_US && exceeds(usual_us)))
    }

    fn begin_anew(&mut self, row: &Row<'_>, to: &mut impl FnMut(Step)) {
        self.channels
            .iter_mut()
            .for_each(|channel| *channel = Middle::default());
        self.taken_us.clear();
        self.began_us = row.at_us;
        self.breaks += 1;
        to(Step::Break);
    }

    fn level(&self, values: &[f64]) -> f64 {
        let channels = self.channels.iter().zip(values);
        let off = channels.map(|(channel, value)| value - channel.at_share(1, 2).unwrap_or(*value));
        off.fold(0.0, f64::hypot)
    }

    /// A second of values at most; of a fast stream not each of them, of a slow one some more.
    fn remember(&mut self, row: &Row<'_>) {
        let since_us = |taken: Option<&f64>| taken.map_or(f64::INFINITY, |taken_us| row.at_us - taken_us);
        if since_us(self.taken_us.back()) < MEMORY_US / HISTORY as f64 {
            return;
        }
        let is_old = |taken_us: &VecDeque<f64>| {
            let (count, first) = (taken_us.len(), taken_us.front());
            count >= HISTORY || (count >= HISTORY_MIN && since_us(first) > MEMORY_US)
        };
        while is_old(&self.taken_us) {
            self.taken_us.pop_front();
        }
        self.taken_us.push_back(row.at_us);
        for (channel, value) in self.channels.iter_mut().zip(row.values) {
            channel.push(*value, self.taken_us.len());
        }
    }

    fn put_pending(&mut self, to: &mut impl FnMut(Step)) {
        let pending = std::mem::take(&mut self.pending);
        let (at_us, count) = (pending.first_us, f64::from(pending.count));
        let is_settled = at_us - self.began_us >= SETTLE_US
            && self.taken_us.len() >= HISTORY_MIN
            && self.steps_us.len() >= STEPS_MIN;
        self.pending.first_us = at_us;
        if pending.count == 0 || !is_settled {
            return;
        }
        #[allow(
            clippy::cast_possible_truncation,
            reason = "a level needs no more than 24 bits"
        )]
        let level = (pending.sum / count).min(f64::from(f32::MAX)) as f32;
        to(Step::Point(Point {
            at_us: pending.sum_us / count,
            err_us: pending.err_us,
            level,
        }));
    }
}

/// The last values, in order of time and of size.
#[derive(Debug, Default)]
struct Middle {
    in_time: VecDeque<f64>,
    in_size: Vec<f64>,
}

impl Middle {
    fn len(&self) -> usize {
        self.in_size.len()
    }

    /// Takes a value and lets go of the oldest beyond so many.
    fn push(&mut self, value: f64, most: usize) {
        while self.in_time.len() >= most.max(1) {
            let Some(oldest) = self.in_time.pop_front() else {
                break;
            };
            let at = self
                .in_size
                .partition_point(|other| other.total_cmp(&oldest).is_lt());
            self.in_size.remove(at);
        }
        let at = self
            .in_size
            .partition_point(|other| other.total_cmp(&value).is_lt());
        self.in_size.insert(at, value);
        self.in_time.push_back(value);
    }

    /// The value below which this share of all lies.
    fn at_share(&self, part: usize, of: usize) -> Option<f64> {
        let last = self.in_size.len().checked_sub(1)?;
        Some(self.in_size[last * part / of])
    }
}

/// What is usual of a stream's levels: counts of them, to within a hundredth of each.
#[derive(Debug)]
pub struct Usual {
    /// By the upper half of the level's bits: positive floats are in order of their bits.
    counts: Vec<u64>,
    highest: f32,
}

/// Where events begin.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Threshold {
    pub median: f64,
    pub level: f64,
}

impl Usual {
    pub fn new() -> Self {
        Self {
            counts: vec![0; 1 << 15],
            highest: 0.0,
        }
    }

    pub fn take(&mut self, level: f32) {
        self.counts[(level.abs().to_bits() >> 16) as usize] += 1;
        self.highest = self.highest.max(level);
    }

    /// `median + deviations * 1.4826 * MAD`; none where nothing ever changed.
    pub fn threshold(&self, deviations: f64) -> Option<Threshold> {
        let level = |at: usize| f64::from(f32::from_bits((at as u32) << 16));
        let counts = || self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        let median = middle(counts().map(|(at, count)| (level(at), *count)).collect())?;
        let off = counts().map(|(at, count)| ((level(at) - median).abs(), *count));
        let deviation = 1.4826 * middle(off.collect())?;
        // Where most levels are equal, such as those of a button, any other is an event.
        let above = match deviation > 0.0 {
            true => median + deviations * deviation,
            false => median + FLAT * (f64::from(self.highest) - median),
        };
        (f64::from(self.highest) > median).then_some(Threshold { median, level: above })
    }
}

/// The median of values that came so often.
fn middle(mut counted: Vec<(f64, u64)>) -> Option<f64> {
    counted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let half = counted.iter().map(|(_, count)| count).sum::<u64>().div_ceil(2);
    let mut seen = 0;
    let at = counted.iter().find(|(_, count)| {
        seen += count;
        seen >= half
    });
    at.map(|(value, _)| *value)
}

/// Something sudden.
#[derive(Debug, Clone)]
pub struct Event {
    pub onset_us: f64,
    /// The claimed bound of the samples around the onset.
    pub err_us: f64,
    /// Between the samples around the onset, or as is not rare here, whichever is longer.
    pub spacing_us: f64,
    pub peak: f32,
    /// What was before and after, in order of time.
    pub piece: Vec<Point>,
}

/// All that stood out.
#[derive(Debug, Default)]
pub struct Found {
    /// In order of time.
    pub events: Vec<Event>,
    /// Left out: too weak beside the strong ones.
    pub faint: u64,
    /// Left out: a hole in time, or the end, came too soon after their beginning.
    pub cut: u64,
    /// There were more than could be kept; the rest was not looked for.
    pub overfull: bool,
}

/// Finds events among levels, with the threshold known.
#[derive(Debug)]
pub struct Detector {
    threshold: Threshold,
    before: VecDeque<Point>,
    open: Option<Open>,
    /// Since when, and for how many moments, the level has been below the threshold.
    quiet: Option<(f64, u32)>,
    is_armed: bool,
    kept: usize,
    kept_max: usize,
    found: Found,
}

#[derive(Debug)]
struct Open {
    piece: Vec<Point>,
    /// Which of them passed the threshold.
    began: usize,
}

impl Detector {
    /// Keeps so many moments at most, over all events.
    pub fn new(threshold: Threshold, kept_max: usize) -> Self {
        Self {
            threshold,
            before: VecDeque::new(),
            open: None,
            quiet: None,
            is_armed: false,
            kept: 0,
            kept_max,
            found: Found::default(),
        }
    }

    pub fn take(&mut self, step: Step) {
        match step {
            Step::Break => {
                self.found.cut += u64::from(self.open.take().is_some());
                self.before.clear();
                self.quiet = None;
                self.is_armed = false;
            }
            Step::Point(_) if self.found.overfull => {}
            Step::Point(point) => self.point(point),
        }
    }

    pub fn finish(mut self) -> Found {
        self.found.cut += u64::from(self.open.take().is_some());
        self.leave_out_the_faint();
        self.found
    }

    fn point(&mut self, point: Point) {
        let is_above = f64::from(point.level) >= self.threshold.level;
        if let Some(open) = &mut self.open {
            open.piece.push(point);
            let since_us = point.at_us - open.piece[open.began].at_us;
            if since_us >= AFTER_US && open.piece.len() - open.began > AFTER_POINTS {
                self.close();
            }
        } else if is_above && self.is_armed {
            let mut piece: Vec<Point> = self.before.iter().copied().collect();
            let began = piece.len();
            piece.push(point);
            self.open = Some(Open { piece, began });
        }
        self.quiet = match (is_above, self.quiet) {
            (true, _) => None,
            (false, None) => Some((point.at_us, 1)),
            (false, Some((since_us, count))) => Some((since_us, count.saturating_add(1))),
        };
        let is_quiet = |(since_us, count): (f64, u32)| point.at_us - since_us >= QUIET_US && count >= 3;
        self.is_armed = self.open.is_none() && self.quiet.is_some_and(is_quiet);
        self.before.push_back(point);
        let is_old = |first: Option<&Point>| first.is_some_and(|first| point.at_us - first.at_us > BEFORE_US);
        while self.before.len() > BEFORE_POINTS && is_old(self.before.front()) {
            self.before.pop_front();
        }
    }

    /// The piece of the open event is whole.
    fn close(&mut self) {
        let Some(Open { piece, began }) = self.open.take() else {
            return;
        };
        if self.kept + piece.len() > self.kept_max {
            self.found.overfull = true;
            return;
        }
        self.kept += piece.len();
        match self.event(piece, began) {
            Some(event) => self.found.events.push(event),
            None => self.found.faint += 1,
        }
    }

    /// None where it does not rise from what was before.
    fn event(&self, piece: Vec<Point>, began: usize) -> Option<Event> {
        let until_us = piece[began].at_us + PEAK_US;
        let near = |(at, point): &(usize, &Point)| point.at_us <= until_us || *at < began + 3;
        let of_peak = piece.iter().enumerate().skip(began).take_while(near);
        let peak = of_peak.map(|(_, point)| point.level).fold(0.0, f32::max);
        let target = self.threshold.median + RISE * (f64::from(peak) - self.threshold.median);
        let is_risen = |at: usize| f64::from(piece[at].level) >= target;
        // The first sample that has risen so far: some before the threshold, where that is high, or after.
        let mut at = began;
        while at > 0 && is_risen(at) && is_risen(at - 1) {
            at -= 1;
        }
        while at < piece.len() && !is_risen(at) {
            at += 1;
        }
        let (low, high) = (piece.get(at.checked_sub(1)?)?, piece.get(at)?);
        let (from, to) = (f64::from(low.level), f64::from(high.level));
        let share = if to > from {
            ((target - from) / (to - from)).clamp(0.0, 1.0)
        } else {
            1.0
        };
        let mut steps: Vec<f64> = piece.windows(2).map(|two| two[1].at_us - two[0].at_us).collect();
        steps.sort_by(f64::total_cmp);
        // Of samples that come in bursts the long steps count: nobody knows where in one they were taken.
        let usual_us = steps.get(steps.len() * 19 / 20).copied().unwrap_or(0.0);
        Some(Event {
            onset_us: low.at_us + share * (high.at_us - low.at_us),
            err_us: f64::from(low.err_us.max(high.err_us)),
            spacing_us: usual_us.max(high.at_us - low.at_us),
            peak,
            piece,
        })
    }

    /// Three taps are asked for; what is a tenth of them is something else.
    fn leave_out_the_faint(&mut self) {
        let events = &mut self.found.events;
        let mut peaks: Vec<f32> = events.iter().map(|event| event.peak).collect();
        peaks.sort_by(|a, b| b.total_cmp(a));
        let Some(third) = peaks.get(2) else { return };
        let count = events.len();
        events.retain(|event| event.peak >= FAINT * third);
        self.found.faint += (count - events.len()) as u64;
    }
}

/// Rows that are closer than this are one moment, which takes the mean of them.
pub const FINEST_US: f64 = 100.0;
/// Over how long it is known where a channel just was, in how many values at most and at least.
const MEMORY_US: f64 = 1e6;
const HISTORY: usize = 64;
const HISTORY_MIN: usize = 9;
/// Steps between rows that must be known, and how many times the usual long step is a hole.
const STEPS_MIN: usize = 8;
const HOLE: f64 = 3.0;
const LONG_US: f64 = 200_000.0;
/// Nothing is believed for so long after a beginning.
const SETTLE_US: f64 = 250_000.0;
/// What is kept of an event, before and after it passed the threshold; nothing else begins meanwhile.
const BEFORE_US: f64 = 150_000.0;
const BEFORE_POINTS: usize = 8;
const AFTER_US: f64 = 150_000.0;
const AFTER_POINTS: usize = 6;
/// So long must it be quiet before the next.
const QUIET_US: f64 = 50_000.0;
/// Where the peak is looked for, from the threshold on.
const PEAK_US: f64 = 60_000.0;
/// The onset is where this share of the peak is passed. Half of it: a jump between two samples is then placed in their middle,
/// and is at most half of their spacing away.
const RISE: f64 = 0.5;
/// Weaker than this share of the third strongest is faint.
const FAINT: f32 = 0.1;
/// Share of the highest level that counts as an event where the usual levels are all equal.
const FLAT: f64 = 0.2;

#[cfg(test)]
#[path = "onsets_tests.rs"]
pub mod tests;
