//! What is missing: holes in the sample indices of a stream, each with its cause.
//!
//! A cause is a fact of the log: what the device said of the range, frames that stand there and were kept out, a place that
//! is damaged or can't be read, an index or a sequence that jumps, another boot, a time in which the hub took nothing. Where
//! the facts leave it open, the cause is *unknown*. A hole of which they say different things is cut into pieces.

use super::frames::{FrameEntry, Place};
use super::survey::{DeviceSurvey, StreamPlan};
use super::timeline::Timeline;
use marey_format::BootId;
use marey_format::payload::{EndOfStream, LostCause};

/// A range of sample indices of one epoch that is not in Parquet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    pub epoch: u32,
    /// The first missing index, and the one after the last.
    pub from: u64,
    pub to: u64,
    pub cause: Cause,
    /// Device times of the samples beside it, where there are.
    pub before_ns: Option<i64>,
    pub after_ns: Option<i64>,
}

impl Gap {
    pub fn samples(&self) -> u64 {
        self.to - self.from
    }
}

/// Why samples are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The sensor never gave them, says the device.
    NeverCaptured,
    /// The device lost them before it could send them: its index or its sequence jumps, or it says so.
    DeviceBuffer,
    /// The device gave up on the network, it says.
    Network,
    /// The device was off: another boot goes on with the index, or it says so.
    DeviceOff,
    /// They were lost while the hub took nothing, having no room.
    NoRoom,
    /// They were in the log, and the log is damaged there.
    Damage,
    /// They are in the log, and the disk can't read them there.
    Unreadable,
    /// They are in the log, and were kept out because they break the stream's order.
    KeptOut,
    /// The device counted them at its end, and has not sent them.
    NotReceived,
    /// The device captured fewer than it numbered, and does not say which.
    Unknown,
}

impl Cause {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NeverCaptured => "never captured",
            Self::DeviceBuffer => "lost in the device's buffer",
            Self::Network => "network given up",
            Self::DeviceOff => "device off",
            Self::NoRoom => "hub refused for lack of room",
            Self::Damage => "damage",
            Self::Unreadable => "unreadable",
            Self::KeptOut => "kept out",
            Self::NotReceived => "not received",
            Self::Unknown => "unknown",
        }
    }

    fn said(cause: LostCause) -> Self {
        match cause {
            LostCause::NeverCaptured => Self::NeverCaptured,
            LostCause::Buffer => Self::DeviceBuffer,
            LostCause::Network => Self::Network,
            LostCause::Off => Self::DeviceOff,
            LostCause::NoRoom => Self::NoRoom,
        }
    }
}

/// The gaps of a stream, in order of epoch and index. Without a timeline nobody knows when the hub had no room.
pub fn gaps(survey: &DeviceSurvey, plan: &StreamPlan, timeline: Option<&Timeline>) -> Vec<Gap> {
    let without_room = timeline.map_or_else(Vec::new, |timeline| without_room(survey, timeline));
    let mut gaps = Vec::new();
    // Indices go on across epochs where the device can: the next one to expect.
    let mut next = 0;
    let (mut boot_before, mut is_ended) = (None, true);
    let mut frames = &plan.frames[..];
    for (&epoch, end) in &plan.ends {
        let skip = frames.partition_point(|frame| frame.epoch < epoch);
        let length = frames[skip..].partition_point(|frame| frame.epoch == epoch);
        let here = &frames[skip..skip + length];
        frames = &frames[skip + length..];
        let boot = survey.epochs.get(&epoch).map(|epoch| epoch.boot);
        let mut scope = Scope {
            survey,
            plan,
            timeline,
            epoch,
            told: told(plan, epoch),
            without_room: &without_room,
            is_rebooted: is_another(boot_before, boot),
            goes_on: !is_ended,
        };
        next = scope.gaps(here, end.as_ref(), next, &mut gaps);
        boot_before = boot.or(boot_before);
        is_ended = end.is_some();
    }
    gaps
}

/// Whether two boots are known, and two.
fn is_another(before: Option<BootId>, now: Option<BootId>) -> bool {
    let known = |boot: Option<BootId>| boot.filter(BootId::is_known);
    known(before)
        .zip(known(now))
        .is_some_and(|(before, now)| before != now)
}

/// A range of indices of which something is told, and what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Told {
    from: u64,
    to: u64,
    cause: Cause,
}

/// What frames that were kept out and the device's own words tell of an epoch: rising, none over another.
fn told(plan: &StreamPlan, epoch: u32) -> Vec<Told> {
    let kept_out = of_epoch(&plan.kept_out, epoch, |kept| kept.epoch).iter();
    let kept_out = kept_out.map(|kept| Told {
        from: kept.first_index,
        to: kept.first_index.saturating_add(u64::from(kept.samples)),
        cause: Cause::KeptOut,
    });
    let said = of_epoch(&plan.lost, epoch, |lost| lost.epoch).iter();
    let said = said.map(|lost| Told {
        from: lost.from,
        to: lost.to,
        cause: Cause::said(lost.cause),
    });
    // Of two that begin together what stands in the log goes first: the sort is stable.
    let mut told: Vec<Told> = kept_out.chain(said).collect();
    told.sort_by_key(|range| range.from);
    let mut end = 0;
    told.retain_mut(|range| {
        range.from = range.from.max(end);
        end = end.max(range.to);
        range.from < range.to
    });
    told
}

/// Those of one epoch, of a list that is in order of epochs.
fn of_epoch<T>(list: &[T], epoch: u32, of: impl Fn(&T) -> u32) -> &[T] {
    let from = list.partition_point(|entry| of(entry) < epoch);
    let length = list[from..].partition_point(|entry| of(entry) == epoch);
    &list[from..from + length]
}

/// When the hub took nothing for want of room, in session time.
fn without_room(survey: &DeviceSurvey, timeline: &Timeline) -> Vec<(i64, i64)> {
    let notes = survey.notes.iter().filter(|entry| entry.note.kind == NO_ROOM);
    let spans = notes.filter_map(|entry| {
        let since_ns = entry.hub_ns.saturating_sub(entry.note.duration_ns?);
        let at = |hub_ns| timeline.of_hub(entry.hub_epoch, hub_ns).0;
        Some((at(since_ns), at(entry.hub_ns)))
    });
    spans.collect()
}

/// The hub's note that it took nothing for want of room, for as long as it says, and takes again.
pub const NO_ROOM: &str = "no_room";

/// One epoch of a stream.
struct Scope<'a> {
    survey: &'a DeviceSurvey,
    plan: &'a StreamPlan,
    timeline: Option<&'a Timeline>,
    epoch: u32,
    /// Those that end before the hole at hand are dropped: holes rise.
    told: Vec<Told>,
    without_room: &'a [(i64, i64)],
    /// Another boot than the epoch before it.
    is_rebooted: bool,
    /// The epoch before it never stated its end: what the index jumps was numbered there.
    goes_on: bool,
}

/// Missing indices between two frames.
struct Hole<'a> {
    from: u64,
    to: u64,
    before: Option<&'a FrameEntry>,
    after: Option<&'a FrameEntry>,
    /// Why, where nothing else is known.
    otherwise: Cause,
}

impl Scope<'_> {
    /// The gaps of the epoch; the index after its last sample.
    fn gaps(
        &mut self,
        frames: &[FrameEntry],
        end: Option<&EndOfStream>,
        carried: u64,
        gaps: &mut Vec<Gap>,
    ) -> u64 {
        let first = frames.first().map(|frame| frame.first_index);
        let begin = match end {
            // The device says how many it captured, and where the last of them stands.
            Some(end) => end
                .next_index
                .saturating_sub(end.captured)
                .saturating_sub(self.never_captured()),
            None => match first {
                Some(first) if first >= carried => carried,
                Some(_) => 0,
                None => return carried,
            },
        };
        // It numbered more than it captured and told of.
        let is_open = end.is_some() && first.is_some_and(|first| begin > first);
        let lost = if is_open {
            Cause::Unknown
        } else {
            Cause::DeviceBuffer
        };
        let mut expected = begin.min(first.unwrap_or(begin));
        let elsewhere = match self.is_rebooted {
            true => Cause::DeviceOff,
            false => Cause::DeviceBuffer,
        };
        if let Some(after) = frames
            .first()
            .filter(|_| self.goes_on && carried > 0 && carried < expected)
        {
            let hole = Hole {
                from: carried,
                to: expected,
                before: None,
                after: Some(after),
                otherwise: elsewhere,
            };
            self.explain(&hole, gaps);
        }
        let mut before: Option<&FrameEntry> = None;
        for frame in frames {
            if frame.first_index > expected {
                // Without a word of its own, what it jumps at its beginning was numbered in the epoch before.
                let is_carried = before.is_none() && end.is_none() && carried > 0 && expected == carried;
                let hole = Hole {
                    from: expected,
                    to: frame.first_index,
                    before,
                    after: Some(frame),
                    otherwise: if is_carried { elsewhere } else { lost },
                };
                self.explain(&hole, gaps);
            }
            expected = frame.end_index();
            before = Some(frame);
        }
        let Some(end) = end.filter(|end| end.next_index > expected) else {
            return expected;
        };
        // A device that says it made fewer frames than came has nothing more to send.
        let all_came = frames.len() as u64 + self.kept_out() >= end.frames;
        let hole = Hole {
            from: expected,
            to: end.next_index,
            before,
            after: None,
            otherwise: if all_came { lost } else { Cause::NotReceived },
        };
        self.explain(&hole, gaps);
        end.next_index
    }

    /// Samples that the device says were never captured.
    fn never_captured(&self) -> u64 {
        let never = self
            .told
            .iter()
            .filter(|range| range.cause == Cause::NeverCaptured);
        never.fold(0, |sum: u64, range| sum.saturating_add(range.to - range.from))
    }

    fn kept_out(&self) -> u64 {
        of_epoch(&self.plan.kept_out, self.epoch, |kept| kept.epoch).len() as u64
    }

    /// Cuts a hole where something is told of a part of it.
    fn explain(&mut self, hole: &Hole<'_>, gaps: &mut Vec<Gap>) {
        let passed = self.told.partition_point(|range| range.to <= hole.from);
        self.told.drain(..passed);
        let gap = |from, to, cause| Gap {
            epoch: self.epoch,
            from,
            to,
            cause,
            before_ns: hole.before.map(|before| before.last_time_ns),
            after_ns: hole.after.map(|after| after.first_time_ns),
        };
        let (mut at, mut rest) = (hole.from, None);
        for range in self.told.iter().take_while(|range| range.from < hole.to) {
            let (from, to) = (range.from.max(at), range.to.min(hole.to));
            if from > at {
                gaps.push(gap(at, from, *rest.get_or_insert_with(|| self.rest(hole))));
            }
            gaps.push(gap(from, to, range.cause));
            at = to;
        }
        if at < hole.to {
            gaps.push(gap(at, hole.to, rest.unwrap_or_else(|| self.rest(hole))));
        }
    }

    /// Why that is missing of which nothing is told by its indices.
    fn rest(&self, hole: &Hole<'_>) -> Cause {
        let last = Place {
            segment: u32::MAX,
            offset: u64::MAX,
        };
        let before = hole.before.map_or(Place::default(), FrameEntry::place);
        let after = hole.after.map_or(last, FrameEntry::place);
        if self.survey.unreadable_between(before, after) {
            Cause::Unreadable
        } else if self.survey.damaged_between(before, after) {
            Cause::Damage
        } else if hole.otherwise == Cause::DeviceBuffer && self.is_without_room(hole) {
            Cause::NoRoom
        } else {
            hole.otherwise
        }
    }

    /// Whether the hub took nothing for want of room between the samples beside a hole.
    fn is_without_room(&self, hole: &Hole<'_>) -> bool {
        let Some(timeline) = self.timeline.filter(|_| !self.without_room.is_empty()) else {
            return false;
        };
        let mut placing = timeline.placing(&self.survey.device, self.epoch);
        let mut at = |ns: i64| Some(placing.published(ns)).filter(|at| at.err_us.is_finite());
        let from = hole.before.and_then(|before| at(before.last_time_ns));
        let until = hole.after.and_then(|after| at(after.first_time_ns));
        let (Some(from), Some(until)) = (from.or(until), until.or(from)) else {
            return false;
        };
        let mut spans = self.without_room.iter();
        spans.any(|&(since, to)| since <= until.time_us && from.time_us <= to)
    }
}
