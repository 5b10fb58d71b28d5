//! One epoch of a device in one session: counters, streams, and the frames made of them.
//!
//! Owns: sequences, sample indices, digests, cutting samples into frames, handing frames to the buffer. Does not
//! own: the clock, the network, when a frame is due.
//!
//! Invariants: an index counts every captured sample, also one that was lost for want of room, so that a hole in
//! it is a loss that the device saw; a sequence is used once; device times of a stream never decrease; what is in
//! the buffer and what the counters say is restored from the same file, so that they can't disagree.

mod batch;
mod counters;
mod reopen;
mod stream;

use std::time::{Duration, Instant};

use marey_format::frame::{Frame, control_frame};
use marey_format::payload::{Lost, LostCause};
use marey_format::types::DeclarationError;
use marey_format::{BootId, Declaration, DeviceId, EpochId, FrameError, Kind, Lane, Seed, SessionId, limits};

pub use batch::{Batch, BatchTimes, ColumnSlice};
pub use marey_format::frame::Value;
pub use reopen::{Reopened, reopen};
pub use stream::Timing;

use crate::buffer::{
    BufferError, BufferFile, BufferOptions, FrameBuffer, Identity, KeepError, Restored, Step,
};
use counters::Counters;
use stream::Stream;

/// When samples become frames.
#[derive(Debug, Clone, Copy)]
pub struct FrameOptions {
    /// A frame is cut when it has this many bytes.
    pub bytes_target: usize,
    /// And when its first sample was pushed this long ago.
    pub age_max: Duration,
}

impl Default for FrameOptions {
    fn default() -> Self {
        Self {
            bytes_target: 16 << 10,
            age_max: Duration::from_millis(100),
        }
    }
}

/// A sample that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pushed {
    /// Index of the sample (of a batch: of its first).
    pub index: u64,
    /// Samples of the stream that were lost for want of room since the last push: the caller is told once.
    pub lost: u64,
}

/// Why samples are not taken. None of them has taken anything.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    #[error("{found} values for {expected} fields")]
    Fields { expected: usize, found: usize },
    #[error("{0}")]
    Value(String),
    #[error("device time {found} ns after {before} ns: times of a stream never decrease")]
    TimeBackward { before: i64, found: i64 },
    #[error("a sample of {bytes} bytes does not fit a frame")]
    TooLarge { bytes: usize },
    #[error("the batch: {0}")]
    Batch(&'static str),
    #[error("the capture is over; declare the stream again in the session that is recorded now")]
    Over,
}

/// Why a stream can't be declared.
#[derive(Debug, thiserror::Error)]
pub enum DeclareError {
    #[error("no session to capture for; wait for the hub to ask for one")]
    NoSession,
    #[error(transparent)]
    Declaration(#[from] DeclarationError),
    #[error("stream {name} is declared otherwise in this epoch")]
    Different { name: String },
    #[error("more than {} streams", limits::STREAMS_PER_EPOCH_MAX)]
    TooMany,
    #[error(transparent)]
    Buffer(#[from] BufferError),
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// What one stream counted in this epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamCount {
    pub name: String,
    /// Samples that were pushed, lost ones included.
    pub captured: u64,
    /// Samples that found no room, or had to make room.
    pub lost: u64,
    /// Samples that the hub has made durable.
    pub acknowledged: u64,
    /// Samples that wait to be made a frame.
    pub building: u64,
}

#[derive(Debug)]
pub(crate) struct Capture {
    identity: Identity,
    seed: Seed,
    frame_options: FrameOptions,
    next_sequence: [u64; 2],
    streams: Vec<Stream>,
    /// Ends are written; nothing more is captured.
    ended: bool,
    pub(crate) buffer: FrameBuffer,
    frames_since_counters: u32,
}

impl Capture {
    pub(crate) fn begin(
        identity: Identity,
        buffer_options: &BufferOptions,
        frame_options: FrameOptions,
    ) -> Result<Self, BufferError> {
        let buffer = match &buffer_options.folder {
            Some(folder) => FrameBuffer::on_disk(buffer_options, BufferFile::create(folder, &identity)?),
            None => FrameBuffer::in_memory(buffer_options),
        };
        Ok(Self::with(identity, frame_options, Counters::default(), buffer))
    }

    /// Reads what an earlier life of the program left in a file. True with it if its counters are proven.
    pub(crate) fn restore(
        path: &std::path::Path,
        buffer_options: &BufferOptions,
        frame_options: FrameOptions,
    ) -> Result<(Self, bool), BufferError> {
        let mut counters = Counters::default();
        let (mut file, mut restored): (BufferFile, Restored) =
            BufferFile::restore(path, |step| match step {
                Step::Counters(json) => counters = Counters::from_json(json).unwrap_or_default(),
                Step::Frame(frame) => counters.take_in(&frame),
            })?;
        let proven = !restored.damaged && !counters.is_inconsistent();
        if restored.damaged {
            file.set_damage_aside(&counters.to_json(), &mut restored)?;
        }
        let identity = restored.identity.clone();
        let buffer = FrameBuffer::restored(buffer_options, &mut restored, file);
        Ok((Self::with(identity, frame_options, counters, buffer), proven))
    }

    fn with(
        identity: Identity,
        frame_options: FrameOptions,
        counters: Counters,
        buffer: FrameBuffer,
    ) -> Self {
        let seed = Seed::new(&identity.device, &identity.session, &identity.epoch);
        let streams = counters.streams.into_iter().map(Stream::restored).collect();
        Self {
            identity,
            seed,
            frame_options,
            next_sequence: counters.next_sequence,
            streams,
            ended: counters.ended,
            buffer,
            frames_since_counters: 0,
        }
    }

    /// A new epoch of the same session: the streams are declared again under their numbers and go on with their
    /// indices, and what was pushed and is not yet a frame goes along.
    pub(crate) fn begin_again(
        &mut self,
        epoch: EpochId,
        buffer_options: &BufferOptions,
        now_ns: i64,
    ) -> Result<Self, KeepError> {
        let identity = Identity {
            epoch,
            ..self.identity.clone()
        };
        let mut next = Self::begin(identity, buffer_options, self.frame_options)?;
        for stream in &mut self.streams {
            next.streams.push(stream.begin_again());
        }
        for at in 0..next.streams.len() {
            next.write_declaration(at, now_ns)?;
        }
        next.write_counters()?;
        Ok(next)
    }

    pub(crate) fn session(&self) -> &SessionId {
        &self.identity.session
    }

    pub(crate) fn device(&self) -> &DeviceId {
        &self.identity.device
    }

    pub(crate) fn epoch(&self) -> EpochId {
        self.identity.epoch
    }

    pub(crate) fn boot(&self) -> BootId {
        self.identity.boot
    }

    pub(crate) fn next_sequence(&self, lane: Lane) -> u64 {
        self.next_sequence[lane as usize]
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether nothing is left to send or to wait for.
    pub(crate) fn is_settled(&self) -> bool {
        self.buffer.is_settled()
    }

    /// Declares a stream; the same declaration again gives the same number.
    pub(crate) fn declare(
        &mut self,
        declaration: &Declaration,
        timing: Timing,
        now_ns: i64,
    ) -> Result<u32, DeclareError> {
        declaration.check()?;
        if let Some(at) = self
            .streams
            .iter()
            .position(|it| it.declaration().name == declaration.name)
        {
            let known = &mut self.streams[at];
            if known.declaration() != declaration {
                return Err(DeclareError::Different {
                    name: declaration.name.to_string(),
                });
            }
            known.set_timing(timing);
            return Ok(number(at));
        }
        if self.streams.len() >= limits::STREAMS_PER_EPOCH_MAX as usize {
            return Err(DeclareError::TooMany);
        }
        let at = self.streams.len();
        self.streams.push(Stream::new(declaration.clone(), timing));
        if let Err(error) = self.write_declaration(at, now_ns) {
            self.streams.pop();
            return Err(match error {
                KeepError::Buffer(error) => error.into(),
                KeepError::Frame(error) => error.into(),
            });
        }
        Ok(number(at))
    }

    /// Takes one sample.
    pub(crate) fn push(
        &mut self,
        stream: u32,
        time_ns: i64,
        values: &[Value],
        now: Instant,
    ) -> Result<Pushed, PushError> {
        let at = self.open_stream(stream)?;
        let need = self.streams[at].room_for(values)?;
        if self.streams[at].must_cut_before(time_ns, need) {
            self.cut(at);
        }
        let index = self.streams[at].push(time_ns, values, now)?;
        if self.streams[at].is_due(now, self.frame_options) {
            self.cut(at);
        }
        Ok(Pushed {
            index,
            lost: self.streams[at].take_unreported_loss(),
        })
    }

    /// Takes many samples of a stream at once, as frames of their own.
    pub(crate) fn push_batch(
        &mut self,
        stream: u32,
        batch: &Batch<'_>,
        now: Instant,
    ) -> Result<Pushed, PushError> {
        let at = self.open_stream(stream)?;
        let pieces = batch.pieces(self.streams[at].declaration(), self.streams[at].last_time_ns())?;
        if pieces.is_empty() {
            for row in 0..batch.len() {
                let values = batch.row(row);
                let need = self.streams[at].room_for(&values)?;
                let time_ns = batch.time_ns(row);
                if self.streams[at].must_cut_before(time_ns, need) {
                    self.cut(at);
                }
                self.streams[at].push(time_ns, &values, now)?;
            }
            let index = self.streams[at].index_after() - batch.len() as u64;
            self.cut(at);
            return Ok(Pushed {
                index,
                lost: self.streams[at].take_unreported_loss(),
            });
        }
        self.cut(at);
        let index = self.streams[at].index_after();
        for piece in pieces {
            let (first_index, sequence) = (self.streams[at].index_after(), self.next_sequence[0]);
            let frame = batch.frame(&piece, number(at), sequence, first_index, self.seed);
            self.streams[at].note_last_time(batch.time_ns(piece.end - 1));
            self.keep_data(at, frame, piece.len() as u64);
        }
        Ok(Pushed {
            index,
            lost: self.streams[at].take_unreported_loss(),
        })
    }

    /// Makes a frame of what a stream has.
    pub(crate) fn flush(&mut self, stream: u32) -> Result<(), PushError> {
        let at = self.open_stream(stream)?;
        self.cut(at);
        Ok(())
    }

    pub(crate) fn flush_all(&mut self) {
        (0..self.streams.len()).for_each(|at| self.cut(at));
    }

    /// Makes frames of what is old enough; returns when the next will be.
    pub(crate) fn flush_due(&mut self, now: Instant) -> Option<Instant> {
        for at in 0..self.streams.len() {
            if self.streams[at].is_due(now, self.frame_options) {
                self.cut(at);
            }
        }
        self.streams
            .iter()
            .filter_map(Stream::building_since)
            .min()
            .map(|since| since + self.frame_options.age_max)
    }

    /// Writes a frame of the live lane other than declarations and ends.
    pub(crate) fn write_live(
        &mut self,
        kind: Kind,
        stream: u32,
        time_ns: i64,
        count: u32,
        payload: &[u8],
    ) -> Result<(), KeepError> {
        let sequence = self.next_sequence[Lane::Live as usize];
        let frame = control_frame(
            kind,
            Lane::Live,
            stream,
            sequence,
            time_ns,
            count,
            payload,
            self.seed,
        )?;
        self.buffer.push(frame)?;
        self.next_sequence[Lane::Live as usize] += 1;
        self.count_towards_counters();
        Ok(())
    }

    /// The sensor owed so many samples and gave none: they are numbered, and the hub is told that nobody captured them.
    pub(crate) fn missed(&mut self, stream: u32, time_ns: i64, samples: u64) -> Result<(), KeepError> {
        let at = (stream as usize).wrapping_sub(1);
        if samples == 0 || at >= self.streams.len() {
            return Ok(());
        }
        self.cut(at);
        let first = self.streams[at].index_after();
        let lost = Lost::new(LostCause::NeverCaptured, first, first.saturating_add(samples - 1));
        let json = serde_json::to_vec(&lost).expect("plain fields");
        self.write_live(Kind::EVENT, stream, time_ns, 0, &json)?;
        self.streams[at].skip(samples);
        Ok(())
    }

    /// Ends every stream: what is left becomes frames, then the totals are stated.
    pub(crate) fn end(&mut self, now_ns: i64) -> Result<(), KeepError> {
        self.flush_all();
        for at in 0..self.streams.len() {
            if self.streams[at].has_ended() {
                continue;
            }
            let end = serde_json::to_vec(&self.streams[at].end(number(at))).expect("an end is plain JSON");
            self.write_live(Kind::END, number(at), now_ns, 0, &end)?;
            self.streams[at].set_ended();
        }
        self.ended = true;
        self.write_counters()?;
        Ok(())
    }

    pub(crate) fn counts(&self) -> Vec<StreamCount> {
        let mut waiting = vec![0; self.streams.len() + 1];
        for header in self
            .buffer
            .unacknowledged()
            .filter(|header| header.kind == Kind::DATA)
        {
            if let Some(waiting) = waiting.get_mut(header.stream as usize) {
                *waiting += u64::from(header.count);
            }
        }
        self.streams
            .iter()
            .enumerate()
            .map(|(at, stream)| stream.count(waiting[at + 1]))
            .collect()
    }

    /// Housekeeping after acks: the file may have become mostly air.
    pub(crate) fn compact(&mut self) -> Result<(), BufferError> {
        let counters = Counters::of(self.next_sequence, &self.streams, self.ended);
        self.buffer.compact(|| counters.to_json())
    }

    fn open_stream(&self, stream: u32) -> Result<usize, PushError> {
        let at = (stream as usize).wrapping_sub(1);
        let is_open = !self.ended && self.streams.get(at).is_some_and(|stream| !stream.has_ended());
        is_open.then_some(at).ok_or(PushError::Over)
    }

    fn write_declaration(&mut self, at: usize, now_ns: i64) -> Result<(), KeepError> {
        let json = self.streams[at].declaration().to_json();
        self.write_live(Kind::DECLARE, number(at), now_ns, 0, &json)
    }

    /// Makes a frame of what a stream is building, if anything.
    fn cut(&mut self, at: usize) {
        let sequence = self.next_sequence[Lane::Data as usize];
        if let Some((frame, samples)) = self.streams[at].finish(number(at), sequence, self.seed) {
            self.keep_data(at, frame, samples);
        }
    }

    /// Counts a data frame and hands it to the buffer. If it finds no room its sequence stays unused, and the jump
    /// tells the hub that something was lost here.
    fn keep_data(&mut self, at: usize, frame: Result<Vec<u8>, FrameError>, samples: u64) {
        let sequence = self.next_sequence[Lane::Data as usize];
        self.next_sequence[Lane::Data as usize] += 1;
        let kept = frame.map_err(KeepError::from).and_then(|frame| {
            let crc = Frame::parse(&frame)?.header().crc;
            let dropped = self.buffer.push(frame)?;
            Ok((crc, dropped))
        });
        match kept {
            Ok((crc, dropped)) => {
                self.streams[at].count_frame(crc, sequence, samples);
                for dropped in dropped {
                    if let Some(stream) = self.streams.get_mut((dropped.stream as usize).wrapping_sub(1)) {
                        stream.count_dropped(dropped.samples);
                    }
                }
                self.count_towards_counters();
            }
            Err(error) => {
                tracing::warn!(stream = %self.streams[at].declaration().name, samples, %error, "samples lost");
                self.streams[at].count_lost(samples);
                // The counters have moved without a frame: a restart must know.
                if let Err(error) = self.write_counters() {
                    tracing::warn!(%error, "counters not written: a restart will begin a new epoch");
                }
            }
        }
    }

    fn count_towards_counters(&mut self) {
        self.frames_since_counters += 1;
        if self.frames_since_counters >= COUNTERS_EVERY_FRAMES
            && let Err(error) = self.write_counters()
        {
            tracing::warn!(%error, "counters not written");
        }
    }

    fn write_counters(&mut self) -> Result<(), BufferError> {
        self.frames_since_counters = 0;
        let counters = Counters::of(self.next_sequence, &self.streams, self.ended);
        self.buffer.write_counters(&counters.to_json())
    }
}

fn number(at: usize) -> u32 {
    u32::try_from(at + 1).expect("streams are at most 256")
}

/// So that a restart reads at most so many frames after the last counters. They follow from the frames anyway.
const COUNTERS_EVERY_FRAMES: u32 = 4096;

#[cfg(test)]
mod tests;
