//! The payloads of frames other than data: what devices say about themselves, and what the hub writes into a log.
//!
//! Layouts are in `frame.md` (device) and `log.md` (hub). JSON is read with unknown keys ignored.

use crate::layout::{Fields, Put};
use crate::types::{BootId, CommandId, Declaration, EpochId, HubEpoch, Label, StreamName};
use serde::{Deserialize, Serialize};

/// What an event says: the payload of an event frame (device) and the body of a note (hub).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// What happened, as a short word: `label`, `mark`, `tap` ...
    pub kind: String,
    /// Its value or text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// How long it lasted, in nanoseconds of the device's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ns: Option<i64>,
}

/// The event by which a device says that a mark of the hub's people reached it: an [`Event`] with the command's id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkReceived {
    /// [`MarkReceived::KIND`]
    pub kind: String,
    /// What was marked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<Label>,
    /// Which command it was.
    pub command: CommandId,
}

impl MarkReceived {
    pub const KIND: &str = "mark_received";
}

/// The event by which a device says why sample indices of a stream are missing: an [`Event`] with a range and a cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// [`Lost::KIND`]
    pub kind: String,
    pub cause: LostCause,
    /// The first and the last index.
    #[serde(with = "crate::json::int")]
    pub first: u64,
    #[serde(with = "crate::json::int")]
    pub last: u64,
}

/// What a device may say of samples that it will not send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LostCause {
    /// The sensor never gave them: they were numbered, and are not among the captured ones.
    NeverCaptured,
    /// They had to make room, or found none.
    Buffer,
    /// The hub could not be reached, and the device gave up.
    Network,
    /// The device was off, or was going off.
    Off,
    /// The hub took none, having no room.
    NoRoom,
}

impl LostCause {
    /// As JSON has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NeverCaptured => "never_captured",
            Self::Buffer => "buffer",
            Self::Network => "network",
            Self::Off => "off",
            Self::NoRoom => "no_room",
        }
    }
}

impl Lost {
    pub const KIND: &str = "lost";

    pub fn new(cause: LostCause, first: u64, last: u64) -> Self {
        Self {
            kind: Self::KIND.to_owned(),
            cause,
            first,
            last,
        }
    }
}

/// How a stream ended, as the device counted: the payload of an end frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndOfStream {
    /// The stream's number within the epoch.
    pub stream: u32,
    /// Samples that the device captured in this epoch, whether or not it could send them.
    #[serde(with = "crate::json::int")]
    pub captured: u64,
    /// Sample index after the last one captured.
    #[serde(with = "crate::json::int")]
    pub next_index: u64,
    /// Data frames that it made.
    #[serde(with = "crate::json::int")]
    pub frames: u64,
    /// [`crate::DigestChain`] over those frames, in hexadecimal.
    pub digest: String,
}

/// The payload of an epoch frame: from here on, device frames in the log belong to this epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochMark {
    pub epoch: EpochId,
    pub boot: BootId,
    /// 0 for the first epoch of the log, then 1, 2 ...
    pub ordinal: u32,
    /// What follows may fill holes: sequences may lie below those before.
    pub refill: bool,
}

impl EpochMark {
    pub const BYTES: usize = 40;

    pub fn to_bytes(self) -> Vec<u8> {
        let mut to = Vec::with_capacity(Self::BYTES);
        to.put(&self.epoch.0)
            .put(&self.boot.0)
            .u32(self.ordinal)
            .u32(u32::from(self.refill));
        to
    }

    pub fn parse(payload: &[u8]) -> Option<Self> {
        let mut from = Fields(payload);
        let (epoch, boot) = (EpochId(from.array()?), BootId(from.array()?));
        let mark = Self {
            epoch,
            boot,
            ordinal: from.u32()?,
            refill: from.u32()? & 1 != 0,
        };
        from.0.is_empty().then_some(mark)
    }
}

/// One row of an arrival frame: one read of the socket, stamped before decryption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Ordinal of the epoch whose frames came.
    pub epoch: u32,
    /// Lane of those frames: 0 data, 1 live.
    pub lane: u8,
    pub hub_epoch: HubEpoch,
    pub hub_recv_ns: i64,
    /// Device time right before the write, where the device said so.
    pub dev_send_ns: Option<i64>,
    /// Sequences that came: first and last.
    pub sequences: (u64, u64),
}

impl Arrival {
    pub const BYTES: usize = 48;

    pub fn put(&self, to: &mut Vec<u8>) {
        to.u32(self.epoch)
            .u8(self.lane)
            .put(&[0; 3])
            .u64(self.hub_epoch.0)
            .i64(self.hub_recv_ns);
        to.i64(self.dev_send_ns.unwrap_or(i64::MIN))
            .u64(self.sequences.0)
            .u64(self.sequences.1);
    }

    /// The rows of a payload; none if it does not divide into rows.
    pub fn rows(payload: &[u8]) -> Option<impl Iterator<Item = Self> + '_> {
        payload
            .len()
            .is_multiple_of(Self::BYTES)
            .then(|| payload.chunks_exact(Self::BYTES).filter_map(Self::row))
    }

    fn row(row: &[u8]) -> Option<Self> {
        let mut from = Fields(row);
        let (epoch, lane) = (from.u32()?, from.u8()?);
        from.bytes(3)?;
        let (hub_epoch, hub_recv_ns, dev_send_ns) = (HubEpoch(from.u64()?), from.i64()?, from.i64()?);
        let dev_send_ns = (dev_send_ns != i64::MIN).then_some(dev_send_ns);
        Some(Self {
            epoch,
            lane,
            hub_epoch,
            hub_recv_ns,
            dev_send_ns,
            sequences: (from.u64()?, from.u64()?),
        })
    }
}

/// The payload of an assign frame: the hub's version of a declared stream, with the declaration itself, so that each
/// segment can be read on its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Assign {
    /// Ordinal of the epoch that declared the stream.
    pub epoch: u32,
    /// The stream's number within the epoch.
    pub stream: u32,
    /// N of `NAME@N`.
    pub version: u32,
    pub declaration: Declaration,
}

impl Assign {
    /// `NAME@N`.
    pub fn stream_key(&self) -> StreamKey {
        StreamKey {
            name: self.declaration.name.clone(),
            version: self.version,
        }
    }
}

/// A stream's name and version within a session.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamKey {
    pub name: StreamName,
    pub version: u32,
}

impl std::fmt::Display for StreamKey {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.pad(&format!("{}@{}", self.name, self.version))
    }
}

impl std::str::FromStr for StreamKey {
    type Err = crate::types::NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, version) = text.split_once('@').unwrap_or((text, "1"));
        let name = StreamName::new(name)?;
        match version.parse() {
            Ok(version) => Ok(Self { name, version }),
            Err(_) => Err(crate::types::NameError::Pattern {
                what: "stream",
                found: text.chars().take(64).collect(),
                pattern: "NAME@N",
                proposed: Some(format!("{name}@1")),
            }),
        }
    }
}

/// The payload of a hub-epoch frame: which life of the hub's clock the stamps that follow belong to, and what the wall
/// clock said. The first of a session is its anchor; later ones are evidence and never applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WallReading {
    pub hub_epoch: HubEpoch,
    #[serde(with = "crate::json::int")]
    pub hub_ns: i64,
    /// POSIX time in nanoseconds.
    #[serde(with = "crate::json::int")]
    pub utc_ns: i64,
    /// What the kernel says its error is, or a stated guess.
    #[serde(with = "crate::json::int")]
    pub error_ns: i64,
    /// Whether the kernel says that its clock is synchronised.
    pub synchronised: bool,
}

/// The payload of a checkpoint frame: what one write to the log covered, and how much of the segment was known to be
/// on the disk before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Counts the writes to this log.
    pub number: u64,
    /// Where in this segment the write began.
    pub offset: u64,
    /// Its bytes, without this frame.
    pub length: u64,
    /// Plain CRC-32 of those bytes.
    pub crc: u32,
    /// All bytes of this segment below were synced before.
    pub synced_through: u64,
    /// Where each frame of the write begins, from `offset`, in units of 8 bytes.
    pub frames: Vec<u32>,
}

impl Checkpoint {
    /// Bytes before the list of frames.
    pub const HEAD_BYTES: usize = 40;

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut to = Vec::with_capacity(Self::HEAD_BYTES + 4 * self.frames.len());
        to.u64(self.number)
            .u64(self.offset)
            .u64(self.length)
            .u32(self.crc)
            .u32(0)
            .u64(self.synced_through);
        self.frames.iter().for_each(|&frame| {
            to.u32(frame);
        });
        to
    }

    pub fn parse(payload: &[u8]) -> Option<Self> {
        let mut from = Fields(payload);
        let (number, offset, length, crc) = (from.u64()?, from.u64()?, from.u64()?, from.u32()?);
        from.u32()?;
        let synced_through = from.u64()?;
        let mut frames = Vec::with_capacity(from.0.len() / 4);
        while !from.0.is_empty() {
            frames.push(from.u32()?);
        }
        Some(Self {
            number,
            offset,
            length,
            crc,
            synced_through,
            frames,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_survive() {
        let mark = EpochMark {
            epoch: EpochId([1; 16]),
            boot: BootId([2; 16]),
            ordinal: 3,
            refill: true,
        };
        assert_eq!(mark.to_bytes().len(), EpochMark::BYTES);
        assert_eq!(EpochMark::parse(&mark.to_bytes()), Some(mark));
        let point = Checkpoint {
            number: 1,
            offset: 256,
            length: 64,
            crc: 9,
            synced_through: 200,
            frames: vec![0, 8],
        };
        assert_eq!(point.to_bytes().len(), Checkpoint::HEAD_BYTES + 8);
        assert_eq!(Checkpoint::parse(&point.to_bytes()), Some(point));
        let arrival = Arrival {
            epoch: 1,
            lane: 0,
            hub_epoch: HubEpoch(7),
            hub_recv_ns: -5,
            dev_send_ns: None,
            sequences: (3, 9),
        };
        let mut bytes = Vec::new();
        arrival.put(&mut bytes);
        assert_eq!(bytes.len(), Arrival::BYTES);
        assert_eq!(Arrival::rows(&bytes).unwrap().collect::<Vec<_>>(), [arrival]);
        assert!(Arrival::rows(&bytes[1..]).is_none());
    }

    #[test]
    fn stream_keys_survive() {
        let key: StreamKey = "imu@2".parse().unwrap();
        assert_eq!(key.to_string(), "imu@2");
        assert!("imu@x".parse::<StreamKey>().is_err());
    }
}
