//! Frames that the hub has not acknowledged yet.
//!
//! Owns: which frames are held, which of them are to be sent next, what was lost for want of room. Does not own:
//! sequences and counters (`capture`), sockets (`client`).
//!
//! Invariants:
//! 1. A frame leaves only because the hub acknowledged it, or because the buffer was full and was told to let the
//!    oldest go; the second is counted and told to whoever pushed.
//! 2. Within a lane sequences rise.
//! 3. On disk, a frame stands in the file before it can be sent, so that a restart never finds the hub ahead.
//! 4. Held bytes stay within the limits, whatever the network does.

mod file;
mod lane;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use marey_format::frame::{Frame, Header};
use marey_format::wire::{Acked, Holes};
use marey_format::{FrameError, Lane};

pub(crate) use file::{BufferFile, Identity, Restored, Step, restore_all};
use lane::LaneBuffer;

/// How much is kept, where, and what happens when it is full.
#[derive(Debug, Clone)]
pub struct BufferOptions {
    /// Most bytes of unacknowledged data frames. Events, declarations and probes have an eighth of it, at least
    /// 256 KiB, for themselves.
    pub bytes_max: u64,
    pub when_full: WhenFull,
    pub retain: Retain,
    /// A folder for one file an epoch, so that what is unacknowledged survives the program. Used by one program at
    /// a time.
    pub folder: Option<PathBuf>,
    /// How often the file is synced. None leaves it to the system: the death of the program then costs nothing,
    /// that of the device what the system had not written yet. Either way a new boot begins a new epoch.
    pub sync_interval: Option<Duration>,
}

impl Default for BufferOptions {
    fn default() -> Self {
        Self {
            bytes_max: 64 << 20,
            when_full: WhenFull::RefuseNew,
            retain: Retain::UntilDurable,
            folder: None,
            sync_interval: None,
        }
    }
}

/// What a full buffer gives up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// The new frame: what is held stays.
    RefuseNew,
    /// The oldest data frames: the present is worth more than the past.
    DropOldest,
}

/// Until which mark frames are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retain {
    /// Until synced on the hub's disk.
    UntilDurable,
    /// Until sealed, verified and, where configured, copied to a second place. Frames that are durable go first
    /// when room is needed.
    UntilSafe,
}

/// Why a frame can't be kept.
#[derive(Debug, thiserror::Error)]
pub enum BufferError {
    #[error("{held_bytes} bytes wait for the hub, and a frame of {frame_bytes} more would pass {bytes_max}")]
    Full {
        held_bytes: u64,
        frame_bytes: u64,
        bytes_max: u64,
    },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: damaged at byte {offset}: {detail}", path.display())]
    Damaged {
        path: PathBuf,
        offset: u64,
        detail: String,
    },
}

/// A data frame that had to go to make room: its stream's number and its samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dropped {
    pub(crate) stream: u32,
    pub(crate) samples: u64,
}

/// A frame that is held, and where.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) header: Header,
    place: Place,
}

#[derive(Debug, Clone)]
enum Place {
    Memory(Box<[u8]>),
    File { offset: u64 },
}

impl Held {
    fn bytes(&self) -> u64 {
        u64::from(self.header.length)
    }
}

/// The unacknowledged frames of one epoch in one session.
#[derive(Debug)]
pub(crate) struct FrameBuffer {
    bytes_max: u64,
    when_full: WhenFull,
    retain: Retain,
    lanes: [LaneBuffer; 2],
    file: Option<BufferFile>,
}

impl FrameBuffer {
    pub(crate) fn in_memory(options: &BufferOptions) -> Self {
        Self::with(options, [LaneBuffer::default(), LaneBuffer::default()], None)
    }

    /// With a new file for the epoch.
    pub(crate) fn on_disk(options: &BufferOptions, file: BufferFile) -> Self {
        Self::with(
            options,
            [LaneBuffer::default(), LaneBuffer::default()],
            Some(file),
        )
    }

    /// With the file of an earlier life of the program.
    pub(crate) fn restored(options: &BufferOptions, restored: &mut Restored, file: BufferFile) -> Self {
        let mut buffer = Self::with(options, std::mem::take(&mut restored.lanes), Some(file));
        buffer.discard_acknowledged();
        buffer
    }

    fn with(options: &BufferOptions, lanes: [LaneBuffer; 2], file: Option<BufferFile>) -> Self {
        Self {
            bytes_max: options.bytes_max,
            when_full: options.when_full,
            retain: options.retain,
            lanes,
            file,
        }
    }

    /// Takes a frame in. On an error nothing has changed.
    pub(crate) fn push(&mut self, frame: Vec<u8>) -> Result<Vec<Dropped>, BufferError> {
        let header = *Frame::parse(&frame)
            .expect("the buffer takes frames that this program encoded")
            .header();
        let lane = header.lane as usize;
        debug_assert!(
            self.lanes[lane]
                .last_sequence()
                .is_none_or(|last| last < header.sequence)
        );
        let dropped = self.make_room(header.lane, u64::from(header.length))?;
        let place = match &mut self.file {
            Some(file) => Place::File {
                offset: file.append_frame(&frame)?,
            },
            None => Place::Memory(frame.into_boxed_slice()),
        };
        self.lanes[lane].push(Held { header, place });
        Ok(dropped)
    }

    /// The next frame of a lane that is to be sent, if there is one: first what the hub asked for again, then from
    /// the oldest unacknowledged one on.
    pub(crate) fn next(&self, lane: Lane) -> Option<&Held> {
        self.lanes[lane as usize].next()
    }

    /// The bytes of a held frame, appended to `to`.
    pub(crate) fn load(&self, held: &Held, to: &mut Vec<u8>) -> Result<(), BufferError> {
        match (&held.place, &self.file) {
            (Place::Memory(bytes), _) => to.extend_from_slice(bytes),
            (Place::File { offset }, Some(file)) => file.load(*offset, &held.header, to)?,
            (Place::File { .. }, None) => unreachable!("frames lie in a file only where there is one"),
        }
        Ok(())
    }

    /// Notes that a frame was sent on the connection that is up.
    pub(crate) fn sent(&mut self, lane: Lane, sequence: u64) {
        self.lanes[lane as usize].sent(sequence);
    }

    /// Sends again from `sequence` on.
    pub(crate) fn rewind(&mut self, lane: Lane, sequence: u64) {
        self.lanes[lane as usize].rewind(sequence);
    }

    /// The hub refused a frame for now: sends again from there on.
    pub(crate) fn refused(&mut self, lane: Lane, sequence: u64) {
        self.lanes[lane as usize].refused(sequence);
    }

    /// Whether the hub waits for a frame that had to go to make room: only opening the epoch anew helps.
    pub(crate) fn is_stuck(&self) -> bool {
        self.lanes.iter().any(LaneBuffer::is_stuck)
    }

    /// Nothing that is unacknowledged counts as sent any more.
    pub(crate) fn disconnected(&mut self) {
        self.lanes.iter_mut().for_each(LaneBuffer::start_over);
    }

    /// Takes in an ack; returns the frames that it made durable.
    pub(crate) fn acknowledged(
        &mut self,
        durable: [u64; 2],
        safe: [u64; 2],
    ) -> Result<Vec<Header>, BufferError> {
        let mut fresh = Vec::new();
        let mut moved = false;
        for (lane, (durable, safe)) in self.lanes.iter_mut().zip(durable.into_iter().zip(safe)) {
            moved |= lane.acknowledge(durable, safe, &mut fresh);
        }
        if moved {
            self.discard_acknowledged();
            self.write_marks()?;
        }
        Ok(fresh)
    }

    /// Takes in where the hub stands after an open; returns the frames that turn out to be durable.
    pub(crate) fn opened(&mut self, next: Acked, holes: &Holes) -> Result<Vec<Header>, BufferError> {
        let mut fresh = Vec::new();
        for ((lane, next), holes) in self
            .lanes
            .iter_mut()
            .zip(next.lanes())
            .zip([&holes.data, &holes.live])
        {
            lane.opened(next, holes.clone(), &mut fresh);
        }
        self.discard_acknowledged();
        self.write_marks()?;
        Ok(fresh)
    }

    /// Lets go of one frame that the hub does not want and that holds no sample.
    pub(crate) fn forget(&mut self, lane: Lane, sequence: u64) -> Result<(), BufferError> {
        if self.lanes[lane as usize].remove(sequence).is_some()
            && let Some(file) = &mut self.file
        {
            file.append_dropped(lane, sequence)?;
        }
        Ok(())
    }

    /// The highest acks ever received: what a hello states.
    pub(crate) fn highest_ack(&self) -> Acked {
        Acked {
            data: self.lanes[0].highest_ack(),
            live: self.lanes[1].highest_ack(),
        }
    }

    /// Frames that wait for an acknowledgement, in both lanes.
    pub(crate) fn unacknowledged(&self) -> impl Iterator<Item = &Header> {
        self.unacknowledged_of(&Lane::DEVICES).map(|held| &held.header)
    }

    /// The frames of some lanes that the hub is not known to have, with where they lie.
    pub(crate) fn unacknowledged_of(&self, lanes: &'static [Lane]) -> impl Iterator<Item = &Held> {
        lanes
            .iter()
            .flat_map(|lane| self.lanes[*lane as usize].unacknowledged())
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.unacknowledged().next().is_none()
    }

    /// Bytes held, durable ones that are kept until safe included.
    pub(crate) fn held_bytes(&self) -> u64 {
        self.lanes.iter().map(LaneBuffer::bytes).sum()
    }

    /// Writes counters that no frame implies. They follow from the frames otherwise.
    pub(crate) fn write_counters(&mut self, counters: &[u8]) -> Result<(), BufferError> {
        self.file
            .as_mut()
            .map_or(Ok(()), |file| file.append_counters(counters))
    }

    /// Rewrites the file without what was discarded, if that is worth it. `counters` are those of now.
    pub(crate) fn compact(&mut self, counters: impl FnOnce() -> Vec<u8>) -> Result<(), BufferError> {
        let live: u64 = self.held_bytes();
        match &mut self.file {
            Some(file) if file.is_worth_compacting(live) => file.compact(&counters(), &mut self.lanes),
            _ => Ok(()),
        }
    }

    pub(crate) fn sync(&mut self) -> Result<(), BufferError> {
        self.file.as_mut().map_or(Ok(()), BufferFile::sync)
    }

    /// Deletes the file of an epoch of which nothing is needed any more.
    pub(crate) fn delete(self) -> Result<(), BufferError> {
        self.file.map_or(Ok(()), BufferFile::delete)
    }

    fn make_room(&mut self, lane: Lane, frame_bytes: u64) -> Result<Vec<Dropped>, BufferError> {
        let bytes_max = match lane {
            Lane::Live => (self.bytes_max / 8).max(LIVE_BYTES_MIN),
            Lane::Data | Lane::Hub => self.bytes_max,
        };
        let buffer = &mut self.lanes[lane as usize];
        while buffer.bytes() + frame_bytes > bytes_max && buffer.pop_durable() {}
        let mut dropped = Vec::new();
        if lane == Lane::Data && self.when_full == WhenFull::DropOldest && frame_bytes <= bytes_max {
            while buffer.bytes() + frame_bytes > bytes_max {
                let Some(oldest) = buffer.pop_oldest() else { break };
                dropped.push(Dropped {
                    stream: oldest.header.stream,
                    samples: u64::from(oldest.header.count),
                });
                if let Some(file) = &mut self.file {
                    file.append_dropped(lane, oldest.header.sequence)?;
                }
            }
        }
        let held_bytes = buffer.bytes();
        if held_bytes + frame_bytes > bytes_max {
            return Err(BufferError::Full {
                held_bytes,
                frame_bytes,
                bytes_max,
            });
        }
        Ok(dropped)
    }

    fn discard_acknowledged(&mut self) {
        let retain = self.retain;
        self.lanes.iter_mut().for_each(|lane| lane.discard(retain));
    }

    fn write_marks(&mut self) -> Result<(), BufferError> {
        match &mut self.file {
            Some(file) => file.append_marks(&self.lanes),
            None => Ok(()),
        }
    }
}

/// Why a frame of this program can't be encoded is told with the buffer's own errors.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeepError {
    #[error(transparent)]
    Buffer(#[from] BufferError),
    #[error(transparent)]
    Frame(#[from] FrameError),
}

const LIVE_BYTES_MIN: u64 = 256 << 10;

#[cfg(test)]
mod tests;
