//! What is missing: holes in the sample indices of a stream, each with its cause.

use super::frames::Place;
use super::survey::{DeviceSurvey, StreamPlan};
use marey_format::payload::EndOfStream;

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
    /// The device lost them before it could send them: its index or its sequence jumps.
    DeviceBuffer,
    /// They were in the log, and the log is damaged there.
    Damage,
    /// They are in the log, and the disk can't read them there.
    Unreadable,
    /// They are in the log, and were kept out because they break the stream's order.
    KeptOut,
    /// The device counted them at its end, and has not sent them.
    NotReceived,
}

impl Cause {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DeviceBuffer => "lost in the device's buffer",
            Self::Damage => "damage",
            Self::Unreadable => "unreadable",
            Self::KeptOut => "kept out",
            Self::NotReceived => "not received",
        }
    }
}

/// The gaps of a stream, in order of epoch and index.
pub fn gaps(survey: &DeviceSurvey, plan: &StreamPlan) -> Vec<Gap> {
    let mut gaps = Vec::new();
    // Indices go on across epochs where the device can: the next one to expect.
    let mut next = 0;
    let mut frames = &plan.frames[..];
    for (&epoch, end) in &plan.ends {
        let skip = frames.partition_point(|frame| frame.epoch < epoch);
        let length = frames[skip..].partition_point(|frame| frame.epoch == epoch);
        let here = &frames[skip..skip + length];
        frames = &frames[skip + length..];
        next = in_epoch(
            &Scope { survey, plan, epoch },
            here,
            end.as_ref(),
            next,
            &mut gaps,
        );
    }
    gaps
}

struct Scope<'a> {
    survey: &'a DeviceSurvey,
    plan: &'a StreamPlan,
    epoch: u32,
}

fn in_epoch(
    scope: &Scope<'_>,
    frames: &[super::frames::FrameEntry],
    end: Option<&EndOfStream>,
    carried: u64,
    gaps: &mut Vec<Gap>,
) -> u64 {
    let first = frames.first().map(|frame| frame.first_index);
    let begin = match end {
        // The device says how many it captured, and where the last of them stands.
        Some(end) => end.next_index.saturating_sub(end.captured),
        None => match first {
            Some(first) if first >= carried => carried,
            Some(_) => 0,
            None => return carried,
        },
    };
    let mut expected = begin.min(first.unwrap_or(begin));
    let mut before: Option<&super::frames::FrameEntry> = None;
    for frame in frames {
        if frame.first_index > expected {
            let from = before.map_or(Place::default(), |before| before.place());
            let cause = scope.cause(
                expected,
                frame.first_index,
                from,
                frame.place(),
                Cause::DeviceBuffer,
            );
            gaps.push(Gap {
                epoch: scope.epoch,
                from: expected,
                to: frame.first_index,
                cause,
                before_ns: before.map(|before| before.last_time_ns),
                after_ns: Some(frame.first_time_ns),
            });
        }
        expected = frame.end_index();
        before = Some(frame);
    }
    if let Some(end) = end
        && end.next_index > expected
    {
        let from = before.map_or(Place::default(), |before| before.place());
        // A device that says it made fewer frames than came has nothing more to send.
        let all_came = frames.len() as u64 + scope.kept_out() >= end.frames;
        let otherwise = if all_came {
            Cause::DeviceBuffer
        } else {
            Cause::NotReceived
        };
        let last = Place {
            segment: u32::MAX,
            offset: u64::MAX,
        };
        let cause = scope.cause(expected, end.next_index, from, last, otherwise);
        gaps.push(Gap {
            epoch: scope.epoch,
            from: expected,
            to: end.next_index,
            cause,
            before_ns: before.map(|before| before.last_time_ns),
            after_ns: None,
        });
        expected = end.next_index;
    }
    expected
}

impl Scope<'_> {
    fn kept_out(&self) -> u64 {
        self.plan
            .kept_out
            .iter()
            .filter(|kept| kept.epoch == self.epoch)
            .count() as u64
    }

    fn cause(&self, from: u64, to: u64, before: Place, after: Place, otherwise: Cause) -> Cause {
        let overlaps = |kept: &&super::frames::KeptOut| {
            let end = kept.first_index.saturating_add(u64::from(kept.samples));
            kept.epoch == self.epoch && kept.first_index < to && end > from
        };
        if self.plan.kept_out.iter().find(overlaps).is_some() {
            Cause::KeptOut
        } else if self.survey.unreadable_between(before, after) {
            Cause::Unreadable
        } else if self.survey.damaged_between(before, after) {
            Cause::Damage
        } else {
            otherwise
        }
    }
}
