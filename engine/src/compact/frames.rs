//! One data frame by its place in the log, and the order in which the frames of a stream stand.

use marey_format::log::IndexEntry;
use marey_format::payload::LostCause;

/// A place in a log.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct Place {
    pub segment: u32,
    pub offset: u64,
}

/// All that is kept of a data frame between the passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameEntry {
    pub segment: u32,
    pub offset: u32,
    pub length: u32,
    pub crc: u32,
    pub epoch: u32,
    /// Samples.
    pub count: u32,
    pub sequence: u64,
    pub first_index: u64,
    pub first_time_ns: i64,
    pub last_time_ns: i64,
}

const _: () = assert!(size_of::<FrameEntry>() <= 64, "a long session has many frames");

impl FrameEntry {
    pub fn of(place: Place, entry: &IndexEntry, epoch: u32) -> Self {
        Self {
            segment: place.segment,
            offset: entry.offset,
            length: entry.length,
            crc: entry.crc,
            epoch,
            count: entry.count,
            sequence: entry.sequence,
            first_index: entry.first_index,
            first_time_ns: entry.first_time_ns,
            last_time_ns: entry.last_time_ns,
        }
    }

    pub fn place(&self) -> Place {
        Place {
            segment: self.segment,
            offset: u64::from(self.offset),
        }
    }

    /// Sample index after the last one.
    pub fn end_index(&self) -> u64 {
        self.first_index.saturating_add(u64::from(self.count))
    }

    /// Offset after its last byte.
    pub fn end_offset(&self) -> u64 {
        u64::from(self.offset) + u64::from(self.length)
    }
}

/// A data frame that is stored, and stays out of Parquet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptOut {
    pub place: Place,
    pub epoch: u32,
    pub sequence: u64,
    pub first_index: u64,
    pub samples: u32,
    pub why: &'static str,
}

impl KeptOut {
    pub fn of(frame: &FrameEntry, why: &'static str) -> Self {
        Self {
            place: frame.place(),
            epoch: frame.epoch,
            sequence: frame.sequence,
            first_index: frame.first_index,
            samples: frame.count,
            why,
        }
    }
}

/// A range of sample indices that a device said are missing, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostEntry {
    pub epoch: u32,
    /// The first index, and the one after the last.
    pub from: u64,
    pub to: u64,
    pub cause: LostCause,
}

/// Puts the frames of a stream in order of epoch and sequence, each sequence once, and keeps out what breaks the order
/// of times or indices there. Frames that filled a hole stand late in the log: only here do they meet their neighbours.
pub fn settle(frames: &mut Vec<FrameEntry>, kept_out: &mut Vec<KeptOut>) {
    frames.sort_unstable_by_key(|frame| (frame.epoch, frame.sequence, frame.place()));
    frames.dedup_by_key(|frame| (frame.epoch, frame.sequence));
    let mut before: Option<FrameEntry> = None;
    frames.retain(|frame| {
        let same_epoch = before.filter(|before| before.epoch == frame.epoch);
        let why = if same_epoch.is_some_and(|before| frame.first_index < before.end_index()) {
            Some("sample index goes back")
        } else if same_epoch.is_some_and(|before| frame.first_time_ns < before.last_time_ns) {
            Some("device time goes back")
        } else if frame.first_index > (i64::MAX as u64) - u64::from(frame.count) {
            Some("sample index beyond 2^63")
        } else {
            None
        };
        match why {
            Some(why) => kept_out.push(KeptOut::of(frame, why)),
            None => before = Some(*frame),
        }
        why.is_none()
    });
    frames.shrink_to_fit();
    kept_out.sort_unstable_by_key(|kept| (kept.epoch, kept.sequence, kept.place));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(epoch: u32, sequence: u64, first_index: u64, times: (i64, i64)) -> FrameEntry {
        FrameEntry {
            segment: 1,
            offset: 256 + 8 * sequence as u32,
            length: 64,
            crc: 0,
            epoch,
            count: 10,
            sequence,
            first_index,
            first_time_ns: times.0,
            last_time_ns: times.1,
        }
    }

    #[test]
    fn frames_are_put_in_order_each_once() {
        let (a, b, c) = (
            frame(0, 0, 0, (0, 9)),
            frame(0, 1, 10, (10, 19)),
            frame(1, 0, 0, (0, 9)),
        );
        let again = FrameEntry { segment: 2, ..b };
        let (mut frames, mut kept_out) = (vec![a, c, again, b], Vec::new());
        settle(&mut frames, &mut kept_out);
        assert_eq!(frames, [a, b, c]);
        assert!(kept_out.is_empty());
    }

    #[test]
    fn what_goes_back_is_kept_out_and_named() {
        let first = frame(0, 0, 0, (0, 9));
        let late = frame(0, 1, 5, (10, 19));
        let early = frame(0, 2, 10, (8, 19));
        let good = frame(0, 3, 20, (9, 12));
        let far = frame(0, 4, u64::MAX - 3, (20, 21));
        let (mut frames, mut kept_out) = (vec![first, late, early, good, far], Vec::new());
        settle(&mut frames, &mut kept_out);
        assert_eq!(frames, [first, good]);
        let whys: Vec<_> = kept_out.iter().map(|kept| (kept.sequence, kept.why)).collect();
        assert_eq!(
            whys,
            [
                (1, "sample index goes back"),
                (2, "device time goes back"),
                (4, "sample index beyond 2^63")
            ]
        );
    }
}
