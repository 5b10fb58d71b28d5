//! The rows of one stream in order of (time, epoch, seq).
//!
//! Frames of one epoch are in order already, as long as one clock segment holds: such a stretch is a *run*. Runs that
//! do not overlap in time are put one after the other; where they do (two epochs of a device whose clocks are known
//! only so well, or two segments of one clock) their rows are merged. Memory: one frame, and what is read ahead, for
//! each run that overlaps at a time.

use super::CompactError;
use super::columns::Rows;
use super::frames::FrameEntry;
use super::source::{FrameSource, Piece};
use super::survey::StreamPlan;
use super::timeline::Timeline;
use marey_format::DeviceId;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;
use std::sync::Arc;

/// The order of rows.
pub type Key = (i64, u32, u64);

/// A stretch of frames of one epoch whose rows are in order.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Run {
    /// Places in the plan's list of frames.
    frames: Range<usize>,
    /// Rows of the first frame that belong to the run before.
    skip: usize,
    /// Rows of the last frame that belong to this run, `skip` included; none for all of them.
    stop: Option<usize>,
    first: Key,
}

/// Reads a stream's rows in order, a stretch at a time.
#[derive(Debug)]
pub struct RowMerge<'d> {
    source: FrameSource<'d>,
    plan: Arc<StreamPlan>,
    /// The frames to read, where they are not all of the plan's.
    some: Option<Vec<FrameEntry>>,
    timeline: Arc<Timeline>,
    device: DeviceId,
    /// In order of their first rows.
    runs: std::vec::IntoIter<Run>,
    heap: BinaryHeap<Reverse<(Key, usize)>>,
    open: Vec<Option<Open>>,
    /// Where the last stretch came from.
    last: Option<usize>,
}

/// A run that is being read.
#[derive(Debug)]
struct Open {
    run: Run,
    /// Place of the frame after the decoded one.
    next: usize,
    piece: Piece,
    rows: Rows,
    /// Rows of the decoded frame that are still to come.
    left: Range<usize>,
}

impl<'d> RowMerge<'d> {
    /// All rows of a stream.
    pub fn new(
        source: FrameSource<'d>,
        plan: Arc<StreamPlan>,
        device: DeviceId,
        timeline: Arc<Timeline>,
    ) -> Result<Self, CompactError> {
        Self::begin(source, plan, None, device, timeline)
    }

    /// The rows of some of its frames, which must be in the plan's order.
    pub fn of_frames(
        source: FrameSource<'d>,
        plan: Arc<StreamPlan>,
        frames: Vec<FrameEntry>,
        device: DeviceId,
        timeline: Arc<Timeline>,
    ) -> Result<Self, CompactError> {
        Self::begin(source, plan, Some(frames), device, timeline)
    }

    fn begin(
        mut source: FrameSource<'d>,
        plan: Arc<StreamPlan>,
        some: Option<Vec<FrameEntry>>,
        device: DeviceId,
        timeline: Arc<Timeline>,
    ) -> Result<Self, CompactError> {
        let frames = some.as_deref().unwrap_or(&plan.frames);
        let mut runs = find_runs(&mut source, &plan, frames, &device, &timeline)?;
        runs.sort_by_key(|run| run.first);
        let runs = runs.into_iter();
        let (heap, open) = (BinaryHeap::new(), Vec::new());
        Ok(Self {
            source,
            plan,
            some,
            timeline,
            device,
            runs,
            heap,
            open,
            last: None,
        })
    }

    /// The next stretch of at most `most` rows of one frame; none at the end.
    pub fn next(&mut self, most: usize) -> Result<Option<(&Rows, Range<usize>)>, CompactError> {
        if let Some(slot) = self.last.take() {
            self.requeue(slot)?;
        }
        self.admit()?;
        let Some(Reverse((_, slot))) = self.heap.pop() else {
            return Ok(None);
        };
        let limit = [
            self.heap.peek().map(|Reverse((key, _))| *key),
            self.runs.as_slice().first().map(|run| run.first),
        ];
        let limit = limit.into_iter().flatten().min();
        let open = self.open[slot].as_mut().expect("only open runs are in the heap");
        let from = open.left.start;
        let until = match limit {
            Some(limit) => from + open.before(limit),
            None => open.left.end,
        };
        // The first row is the least of all, so that there is one row at least.
        let until = until
            .clamp(from + 1, open.left.end)
            .min(from.saturating_add(most.max(1)));
        open.left.start = until;
        self.last = Some(slot);
        let open = self.open[slot].as_ref().expect("it was just used");
        Ok(Some((&open.rows, from..until)))
    }

    /// Opens all runs that begin before the least row that is known.
    fn admit(&mut self) -> Result<(), CompactError> {
        while let Some(run) = self.runs.as_slice().first() {
            if self.heap.peek().is_some_and(|Reverse((key, _))| *key < run.first) {
                break;
            }
            let run = self.runs.next().expect("it was just looked at");
            let next = run.frames.start;
            let open = Open {
                run,
                next,
                piece: Piece::default(),
                rows: Rows::default(),
                left: 0..0,
            };
            let slot = match self.open.iter().position(Option::is_none) {
                Some(slot) => slot,
                None => {
                    self.open.push(None);
                    self.open.len() - 1
                }
            };
            self.open[slot] = Some(open);
            self.requeue(slot)?;
        }
        Ok(())
    }

    /// Puts a run back with its next row, or closes it.
    fn requeue(&mut self, slot: usize) -> Result<(), CompactError> {
        let open = self.open[slot].as_mut().expect("only open runs are put back");
        while open.left.is_empty() {
            if open.next == open.run.frames.end {
                self.open[slot] = None;
                return Ok(());
            }
            let at = open.next;
            let frames = self.some.as_deref().unwrap_or(&self.plan.frames);
            let bytes = self.source.read(frames, at, &mut open.piece)?;
            let epoch = frames[at].epoch;
            let mut placing = self.timeline.placing(&self.device, epoch);
            open.rows
                .read(&bytes, epoch, &self.plan.declaration, &mut placing)?;
            open.next += 1;
            let skip = if at == open.run.frames.start {
                open.run.skip
            } else {
                0
            };
            let stop = open
                .run
                .stop
                .filter(|_| open.next == open.run.frames.end)
                .unwrap_or(open.rows.len());
            open.left = skip..stop;
        }
        self.heap.push(Reverse((open.rows.key(open.left.start), slot)));
        Ok(())
    }
}

impl Open {
    /// How many of the rows to come stand before `limit`.
    fn before(&self, limit: Key) -> usize {
        let (mut low, mut high) = (0, self.left.len());
        while low < high {
            let middle = low.midpoint(high);
            if self.rows.key(self.left.start + middle) < limit {
                low = middle + 1
            } else {
                high = middle
            }
        }
        low
    }
}

impl Rows {
    fn key(&self, row: usize) -> Key {
        (self.time_us[row], self.epoch, self.index(row))
    }
}

/// Cuts the frames of a plan where an epoch ends, and where a clock segment does.
fn find_runs(
    source: &mut FrameSource<'_>,
    plan: &StreamPlan,
    frames: &[FrameEntry],
    device: &DeviceId,
    timeline: &Timeline,
) -> Result<Vec<Run>, CompactError> {
    let mut runs: Vec<Run> = Vec::new();
    let (mut piece, mut rows) = (Piece::default(), Rows::default());
    for group in frames.chunk_by(|a, b| a.epoch == b.epoch) {
        let epoch = group[0].epoch;
        let base = runs.last().map_or(0, |run| run.frames.end);
        let mut placing = timeline.placing(device, epoch);
        let mut current = None;
        for (at, frame) in group.iter().enumerate().map(|(at, frame)| (base + at, frame)) {
            let first = placing.published(frame.first_time_ns);
            let last = placing.published(frame.last_time_ns);
            if current != Some(first.segment) {
                let first = (first.time_us, epoch, frame.first_index);
                runs.push(Run {
                    frames: at..at,
                    skip: 0,
                    stop: None,
                    first,
                });
            }
            current = Some(last.segment);
            runs.last_mut()
                .expect("a run was just begun, or earlier")
                .frames
                .end = at + 1;
            if first.segment == last.segment {
                continue;
            }
            // A segment ends within the frame.
            let bytes = source.read(frames, at, &mut piece)?;
            rows.read(
                &bytes,
                epoch,
                &plan.declaration,
                &mut timeline.placing(device, epoch),
            )?;
            let mut placing = timeline.placing(device, epoch);
            let mut segment = first.segment;
            for row in 0..rows.len() {
                let here = placing.published(rows.device_ns[row]).segment;
                if here != segment {
                    segment = here;
                    runs.last_mut().expect("the frame's run").stop = Some(row);
                    runs.push(Run {
                        frames: at..at + 1,
                        skip: row,
                        stop: None,
                        first: rows.key(row),
                    });
                }
            }
        }
    }
    Ok(runs)
}
