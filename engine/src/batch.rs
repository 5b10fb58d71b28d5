//! A batch: checked frames of many logs, on their way to one commit.

use bytes::Bytes;
use marey_format::frame::{Flags, Frame, FrameError, Kind, Lane};
use marey_format::registry::FrameName;
use marey_format::{Refusal, RefusalCode, Seed};

/// An open log and epoch: what [`crate::Store::open_log`] gives, and what frames are pushed with. Copy it freely.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LogHandle {
    /// The log, by number, for as long as the store is open.
    pub(crate) log: u32,
    /// The epoch's ordinal in the log.
    pub(crate) epoch: u32,
    /// Seed of the epoch's frames.
    pub(crate) seed: Seed,
}

/// When frames came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Hub time of the read of the socket, taken before decryption.
    pub hub: crate::time::HubInstant,
    /// Device time right before the write, where a *sent* message said so.
    pub dev_send_ns: Option<i64>,
}

/// Checked frames, in the order in which they came.
#[derive(Debug, Default)]
pub struct Batch {
    pub(crate) items: Vec<Item>,
    frame_bytes: usize,
}

#[derive(Debug)]
pub(crate) struct Item {
    pub handle: LogHandle,
    pub frame: Bytes,
    /// None if nobody knows when it came.
    pub stamp: Option<Stamp>,
}

impl Batch {
    pub fn new() -> Self {
        Self::default()
    }

    /// Checks one frame and takes it. The bytes are not copied.
    ///
    /// # Errors
    /// A refusal for what is no frame of this device, session and epoch; the batch is as it was.
    pub fn push(&mut self, handle: LogHandle, frame: Bytes, stamp: Stamp) -> Result<(), Refusal> {
        self.take(handle, frame, Some(stamp))
    }

    /// [`Batch::push`] for a frame made of somebody else's recording: nobody knows when it came, so its arrival says nothing
    /// of its device's clock.
    ///
    /// # Errors
    /// As [`Batch::push`].
    pub fn push_imported(&mut self, handle: LogHandle, frame: Bytes) -> Result<(), Refusal> {
        self.take(handle, frame, None)
    }

    fn take(&mut self, handle: LogHandle, frame: Bytes, stamp: Option<Stamp>) -> Result<(), Refusal> {
        check(handle, &frame)?;
        self.frame_bytes += frame.len();
        self.items.push(Item { handle, frame, stamp });
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.items.len()
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Bytes of the frames in it.
    pub fn frame_bytes(&self) -> usize {
        self.frame_bytes
    }
}

fn check(handle: LogHandle, bytes: &[u8]) -> Result<(), Refusal> {
    let frame =
        Frame::parse(bytes).map_err(|error| Refusal::new(RefusalCode::Malformed, error.to_string()))?;
    let header = frame.header();
    let refuse = |code, message: String| {
        let mut refusal = Refusal::new(code, message);
        refusal.frame = Some(FrameName {
            lane: header.lane as u8,
            sequence: header.sequence,
        });
        refusal
    };
    if frame.bytes().len() != bytes.len() {
        let message = format!("{} bytes hold a frame of {}", bytes.len(), frame.bytes().len());
        return Err(refuse(RefusalCode::Malformed, message));
    }
    if header.kind.is_hubs() || header.lane == Lane::Hub {
        let message = format!("{:?} in lane {:?} is the hub's alone", header.kind, header.lane);
        return Err(refuse(RefusalCode::NotForDevices, message));
    }
    let lane = if header.kind == Kind::DATA {
        Lane::Data
    } else {
        Lane::Live
    };
    if header.lane != lane {
        let message = format!(
            "{:?} belongs into lane {lane:?}, not {:?}",
            header.kind, header.lane
        );
        return Err(refuse(RefusalCode::NotForDevices, message));
    }
    if header.flags.0 & !Flags::KNOWN.0 != 0 {
        let message = format!("flags {:#04x} have bits that this hub can't read", header.flags.0);
        return Err(refuse(RefusalCode::NotForDevices, message));
    }
    frame.verify(handle.seed).map_err(|error| match error {
        FrameError::Crc { .. } => refuse(RefusalCode::BadCrc, format!("{error}; send the frame again")),
        other => refuse(RefusalCode::Malformed, other.to_string()),
    })
}

/// What became of one frame of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was taken, and is as safe as [`crate::Durability`] says.
    Durable,
    /// It was taken before: the same frame, sent again.
    Duplicate,
    /// It was not taken, because one before it in its lane was refused; the device sends on from that one.
    Held,
    /// It was not taken; nothing of it is kept.
    Refused(Refusal),
}

/// A committed batch: everything in it that was taken is as safe as [`crate::Durability`] says. That is what *durable*
/// means here.
#[derive(Clone, Debug, Default)]
pub struct Committed {
    /// The record of the journal that covers the batch; 0 if there is none, as always with [`crate::Durability::Written`].
    pub commit: u64,
    /// One for each frame, in the batch's order.
    pub outcomes: Vec<Outcome>,
    /// For each log and epoch in the batch, the first sequence of either lane that is not durable.
    pub durable: Vec<(LogHandle, [u64; 2])>,
}
