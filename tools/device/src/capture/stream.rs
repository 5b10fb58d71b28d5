//! One stream of an epoch: the samples that are not a frame yet, and its counters.

use std::time::Instant;

use marey_format::frame::{DataBuilder, HEADER_BYTES, Value};
use marey_format::payload::EndOfStream;
use marey_format::types::Period;
use marey_format::{Declaration, FrameError, Seed, limits};

use super::counters::StreamCounters;
use super::{FrameOptions, PushError, StreamCount};

/// Where a stream's sample times come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timing {
    /// Every sample has a stamp of its own.
    Stamped,
    /// Samples follow each other by a period; only a frame's first time is stored. A sample that is not where the
    /// period puts it begins a new frame.
    Regular(Period),
}

#[derive(Debug)]
pub(super) struct Stream {
    counters: StreamCounters,
    timing: Timing,
    builder: DataBuilder,
    first_time_ns: i64,
    building_since: Option<Instant>,
    unreported_loss: u64,
}

impl Stream {
    pub(super) fn new(declaration: Declaration, timing: Timing) -> Self {
        let mut stream = Self::restored(StreamCounters::new(declaration));
        stream.timing = timing;
        stream
    }

    pub(super) fn restored(counters: StreamCounters) -> Self {
        Self {
            timing: Timing::Stamped,
            builder: DataBuilder::new(&counters.declaration),
            first_time_ns: 0,
            building_since: None,
            unreported_loss: 0,
            counters,
        }
    }

    /// The stream in a new epoch: counters from zero, the index going on, the unfinished frame taken along.
    pub(super) fn begin_again(&mut self) -> Self {
        let mut counters = StreamCounters::new(self.counters.declaration.clone());
        counters.next_index = self.counters.next_index;
        counters.ended = self.counters.ended;
        counters.last_time_ns = self.counters.last_time_ns;
        let builder = std::mem::replace(&mut self.builder, DataBuilder::new(&self.counters.declaration));
        Self {
            counters,
            timing: self.timing,
            builder,
            first_time_ns: self.first_time_ns,
            building_since: self.building_since.take(),
            unreported_loss: std::mem::take(&mut self.unreported_loss),
        }
    }

    pub(super) fn declaration(&self) -> &Declaration {
        &self.counters.declaration
    }

    pub(super) fn counters(&self) -> &StreamCounters {
        &self.counters
    }

    pub(super) fn set_timing(&mut self, timing: Timing) {
        if self.builder.is_empty() {
            self.timing = timing;
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.counters.ended
    }

    pub(super) fn set_ended(&mut self) {
        self.counters.ended = true;
    }

    pub(super) fn building_since(&self) -> Option<Instant> {
        self.building_since
    }

    pub(super) fn last_time_ns(&self) -> Option<i64> {
        self.counters.last_time_ns
    }

    pub(super) fn note_last_time(&mut self, time_ns: i64) {
        self.counters.last_time_ns = Some(time_ns);
    }

    /// The index that the next sample gets.
    pub(super) fn index_after(&self) -> u64 {
        self.counters.next_index + self.builder.len() as u64
    }

    /// Bytes that a sample adds to a frame at most.
    pub(super) fn room_for(&self, values: &[Value]) -> Result<usize, PushError> {
        let fields = self.counters.declaration.fields.len();
        if values.len() != fields {
            return Err(PushError::Fields {
                expected: fields,
                found: values.len(),
            });
        }
        let bytes = 8 + values.iter().map(value_bytes).sum::<usize>();
        let fixed = HEADER_BYTES + 16 * (fields + 1);
        if fixed + bytes > limits::FRAME_BYTES_MAX {
            return Err(PushError::TooLarge { bytes });
        }
        Ok(fixed + bytes)
    }

    /// Whether a sample does not belong into the frame that is being built.
    pub(super) fn must_cut_before(&self, time_ns: i64, need_bytes: usize) -> bool {
        if self.builder.is_empty() {
            return false;
        }
        let is_off_grid = match self.timing {
            Timing::Stamped => false,
            Timing::Regular(period) => {
                period.time_ns(self.first_time_ns, self.builder.len() as u64) != Some(time_ns)
            }
        };
        is_off_grid
            || self.builder.frame_bytes() + need_bytes > limits::FRAME_BYTES_MAX
            || self.builder.len() >= limits::SAMPLES_PER_FRAME_MAX as usize
    }

    pub(super) fn push(&mut self, time_ns: i64, values: &[Value], now: Instant) -> Result<u64, PushError> {
        if let Some(before) = self.counters.last_time_ns
            && time_ns < before
        {
            return Err(PushError::TimeBackward {
                before,
                found: time_ns,
            });
        }
        let index = self.index_after();
        self.builder
            .push(time_ns, values)
            .map_err(|error| PushError::Value(error.to_string()))?;
        if self.builder.len() == 1 {
            self.first_time_ns = time_ns;
            self.building_since = Some(now);
        }
        self.counters.last_time_ns = Some(time_ns);
        Ok(index)
    }

    pub(super) fn is_due(&self, now: Instant, options: FrameOptions) -> bool {
        self.building_since
            .is_some_and(|since| now.saturating_duration_since(since) >= options.age_max)
            || (!self.builder.is_empty() && self.builder.frame_bytes() >= options.bytes_target)
    }

    /// What is being built as a frame with its samples; None if nothing is.
    pub(super) fn finish(
        &mut self,
        number: u32,
        sequence: u64,
        seed: Seed,
    ) -> Option<(Result<Vec<u8>, FrameError>, u64)> {
        let samples = self.builder.len() as u64;
        if samples == 0 {
            return None;
        }
        self.building_since = None;
        let first_index = self.counters.next_index;
        let frame = match self.timing {
            Timing::Stamped => self.builder.finish(number, sequence, first_index, seed),
            Timing::Regular(period) => {
                self.builder
                    .finish_regular(period, number, sequence, first_index, seed)
            }
        };
        Some((frame, samples))
    }

    pub(super) fn count_frame(&mut self, crc: u32, sequence: u64, samples: u64) {
        self.counters.count_frame(crc, sequence, samples);
    }

    pub(super) fn count_lost(&mut self, samples: u64) {
        self.counters.captured += samples;
        self.counters.next_index += samples;
        self.count_dropped(samples);
    }

    /// Indices that no sample gets.
    pub(super) fn skip(&mut self, samples: u64) {
        self.counters.next_index = self.counters.next_index.saturating_add(samples);
    }

    pub(super) fn count_dropped(&mut self, samples: u64) {
        self.counters.lost += samples;
        self.unreported_loss += samples;
    }

    pub(super) fn take_unreported_loss(&mut self) -> u64 {
        std::mem::take(&mut self.unreported_loss)
    }

    pub(super) fn end(&self, number: u32) -> EndOfStream {
        EndOfStream {
            stream: number,
            captured: self.counters.captured,
            next_index: self.counters.next_index,
            frames: self.counters.frames,
            digest: self.counters.digest.to_hex(),
        }
    }

    pub(super) fn count(&self, waiting: u64) -> StreamCount {
        let counters = &self.counters;
        StreamCount {
            name: counters.declaration.name.to_string(),
            captured: counters.captured + self.builder.len() as u64,
            lost: counters.lost,
            acknowledged: counters
                .captured
                .saturating_sub(counters.lost)
                .saturating_sub(waiting),
            building: self.builder.len() as u64,
        }
    }
}

fn value_bytes(value: &Value) -> usize {
    match value {
        Value::I64(_) | Value::U64(_) | Value::F64(_) => 8,
        Value::F32(_) => 4,
        Value::Bool(_) => 1,
        Value::Text(text) => 4 + text.len(),
        Value::Bytes(bytes) => 4 + bytes.len(),
        Value::List(items) => items.iter().map(value_bytes).sum(),
    }
}
