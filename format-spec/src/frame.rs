#![doc = include_str!("../frame.md")]

mod build;
mod columns;

pub use build::{DataBuilder, Value, ValueError, control_frame, encode};
pub use columns::{Column, Columns, Times};

use crate::checksum::Seed;
use crate::limits;

/// The resync mark that every frame begins with.
pub const MARK: [u8; 4] = [0xF5, b'M', b'F', b'1'];

/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 48;

/// What a frame holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Kind(pub u8);

impl Kind {
    pub const DATA: Self = Self(0x01);
    pub const DECLARE: Self = Self(0x02);
    pub const EVENT: Self = Self(0x03);
    pub const STATE: Self = Self(0x04);
    pub const PROBES: Self = Self(0x05);
    pub const END: Self = Self(0x06);
    pub const EPOCH: Self = Self(0x80);
    pub const ARRIVAL: Self = Self(0x81);
    pub const ASSIGN: Self = Self(0x82);
    pub const HUB_EPOCH: Self = Self(0x83);
    pub const CHECKPOINT: Self = Self(0x84);
    pub const NOTE: Self = Self(0x85);

    /// Kinds from 0x80 are written by the hub alone.
    pub fn is_hubs(self) -> bool {
        self.0 >= 0x80
    }

    /// The name in the table of `frame.md`, for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::DATA => "data",
            Self::DECLARE => "declare",
            Self::EVENT => "event",
            Self::STATE => "state",
            Self::PROBES => "probes",
            Self::END => "end",
            Self::EPOCH => "epoch",
            Self::ARRIVAL => "arrival",
            Self::ASSIGN => "assign",
            Self::HUB_EPOCH => "hub_epoch",
            Self::CHECKPOINT => "checkpoint",
            Self::NOTE => "note",
            _ => "unknown",
        }
    }
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "Kind({:#04x} {})", self.0, self.name())
    }
}

/// A frame's flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Flags(pub u8);

impl Flags {
    /// A data frame with a period instead of a time column.
    pub const REGULAR: Self = Self(0x01);
    /// Reserved: the payload is encrypted with a key of the session.
    pub const ENCRYPTED: Self = Self(0x80);
    /// All that this version knows how to read.
    pub const KNOWN: Self = Self(0x01);

    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Which of the three sequences a frame is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Lane {
    /// Samples.
    Data = 0,
    /// Declarations, probes, device state, events, ends: goes first on the wire.
    Live = 1,
    /// What the hub writes.
    Hub = 2,
}

impl Lane {
    /// The lanes that a device fills, in the order of their numbers.
    pub const DEVICES: [Self; 2] = [Self::Data, Self::Live];

    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Data),
            1 => Some(Self::Live),
            2 => Some(Self::Hub),
            _ => None,
        }
    }
}

/// The header of a frame, as it stands in its first 48 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub crc: u32,
    /// The whole frame in bytes: header, payload, padding; a multiple of 8.
    pub length: u32,
    pub kind: Kind,
    pub flags: Flags,
    pub lane: Lane,
    /// Zero bytes after the payload, 0 to 7.
    pub padding: u8,
    /// The stream's number within its epoch; 0 for frames of no stream.
    pub stream: u32,
    /// Samples of a data frame, rows of a probes or arrival frame, else 0.
    pub count: u32,
    /// Position in the lane of the epoch (hub frames: in the log's hub lane).
    pub sequence: u64,
    /// Sample index of the first sample, else 0.
    pub first_index: u64,
    /// Device time of the first sample, or of the frame's making; hub frames: hub time.
    pub first_time_ns: i64,
}

/// Why bytes are not a frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("{found} bytes, where a frame takes at least {expected}")]
    Short { expected: usize, found: usize },
    #[error("no frame mark, found {}", crate::types::hex(found))]
    Mark { found: [u8; 4] },
    #[error(
        "length {found} is not a multiple of 8 from {HEADER_BYTES} to {}",
        limits::FRAME_BYTES_MAX
    )]
    Length { found: u32 },
    #[error("checksum {expected:08x} in the header, {found:08x} over the bytes")]
    Crc { expected: u32, found: u32 },
    #[error("lane {found} is none of 0, 1, 2")]
    Lane { found: u8 },
    #[error("padding of {found} bytes")]
    Padding { found: u8 },
    #[error("payload of {found} bytes, where {what} takes {expected}")]
    Payload {
        what: &'static str,
        expected: usize,
        found: usize,
    },
    #[error("{found} samples, over the limit of {}", limits::SAMPLES_PER_FRAME_MAX)]
    Count { found: u32 },
    #[error("a data frame without samples")]
    Empty,
    #[error("flags {found:#04x} have bits that this version can't read")]
    Flags { found: u8 },
    #[error("device time goes back at sample {sample}")]
    TimeBackward { sample: u32 },
    #[error("first time of the header is {header}, of the time column {column}")]
    FirstTime { header: i64, column: i64 },
    #[error("a period that leaves the range of times")]
    Period,
    #[error("column {column}: offsets fall or leave the data")]
    Offsets { column: usize },
    #[error("column {column}: not UTF-8 in row {row}")]
    Utf8 { column: usize, row: u32 },
    #[error("column {column}: a bool of {found} in row {row}")]
    Bool { column: usize, row: u32, found: u8 },
    #[error("not JSON of the form that {what} takes: {error}")]
    Json { what: &'static str, error: String },
}

impl Header {
    /// Reads the header's form; says nothing of the checksum.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<Self, FrameError> {
        let b = Self::well_formed(bytes)?;
        Ok(Self::read(b))
    }

    /// The header's bytes, if their form is a header's.
    #[inline]
    fn well_formed(bytes: &[u8]) -> Result<&[u8; HEADER_BYTES], FrameError> {
        let Some(b) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(FrameError::Short {
                expected: HEADER_BYTES,
                found: bytes.len(),
            });
        };
        if b[..4] != MARK {
            return Err(FrameError::Mark {
                found: [b[0], b[1], b[2], b[3]],
            });
        }
        let length = u32_at(b, 8);
        if !length.is_multiple_of(8) || !(HEADER_BYTES..=limits::FRAME_BYTES_MAX).contains(&(length as usize))
        {
            return Err(FrameError::Length { found: length });
        }
        if Lane::from_byte(b[14]).is_none() {
            return Err(FrameError::Lane { found: b[14] });
        }
        let padding = b[15];
        if padding > 7 || usize::from(padding) > length as usize - HEADER_BYTES {
            return Err(FrameError::Padding { found: padding });
        }
        Ok(b)
    }

    /// Apart from the judgement, so that a header is never a part of a `Result`: the copies out of one wait for each other,
    /// and of four of them a reader of logs had as much to do as of checksums.
    #[inline]
    fn read(b: &[u8; HEADER_BYTES]) -> Self {
        let u64_at = |at: usize| u64::from(u32_at(b, at)) | u64::from(u32_at(b, at + 4)) << 32;
        Self {
            crc: u32_at(b, 4),
            length: u32_at(b, 8),
            kind: Kind(b[12]),
            flags: Flags(b[13]),
            lane: Lane::from_byte(b[14]).unwrap_or(Lane::Hub),
            padding: b[15],
            stream: u32_at(b, 16),
            count: u32_at(b, 20),
            sequence: u64_at(24),
            first_index: u64_at(32),
            first_time_ns: u64_at(40).cast_signed(),
        }
    }

    fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut b = [0; HEADER_BYTES];
        b[..4].copy_from_slice(&MARK);
        b[4..8].copy_from_slice(&self.crc.to_le_bytes());
        b[8..12].copy_from_slice(&self.length.to_le_bytes());
        b[12] = self.kind.0;
        b[13] = self.flags.0;
        b[14] = self.lane as u8;
        b[15] = self.padding;
        b[16..20].copy_from_slice(&self.stream.to_le_bytes());
        b[20..24].copy_from_slice(&self.count.to_le_bytes());
        b[24..32].copy_from_slice(&self.sequence.to_le_bytes());
        b[32..40].copy_from_slice(&self.first_index.to_le_bytes());
        b[40..48].copy_from_slice(&self.first_time_ns.to_le_bytes());
        b
    }
}

/// One whole frame, borrowed: the bytes as they came, and the header read from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    header: Header,
    bytes: &'a [u8],
}

#[inline]
fn u32_at(b: &[u8; HEADER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

impl<'a> Frame<'a> {
    /// Reads the form of the frame at the start of `bytes`, which may be longer. The checksum is not looked at.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, FrameError> {
        let length = Self::length(bytes)?;
        match length <= bytes.len() {
            true => Ok(Self::again(bytes)),
            false => Err(FrameError::Short {
                expected: length,
                found: bytes.len(),
            }),
        }
    }

    /// How many bytes the frame has whose header stands at the start of `bytes`, which may end before it.
    ///
    /// # Errors
    /// What of the header's form is wrong.
    #[inline]
    pub fn length(bytes: &[u8]) -> Result<usize, FrameError> {
        Header::well_formed(bytes).map(|header| u32_at(header, 8) as usize)
    }

    /// The frame at the start of bytes that hold all of its [length](Frame::length), without judging its form again.
    ///
    /// # Panics
    /// Where they end before it.
    #[inline]
    pub fn again(bytes: &'a [u8]) -> Self {
        let header = Header::read(bytes.first_chunk().expect("a header is there"));
        Self {
            header,
            bytes: &bytes[..header.length as usize],
        }
    }

    /// [`Frame::parse`], and the checksum under `seed`.
    pub fn checked(bytes: &'a [u8], seed: Seed) -> Result<Self, FrameError> {
        let frame = Self::parse(bytes)?;
        frame.verify(seed)?;
        Ok(frame)
    }

    /// Whether the checksum fits the bytes under `seed`.
    #[inline]
    pub fn verify(&self, seed: Seed) -> Result<(), FrameError> {
        let found = seed.checksum(&self.bytes[8..]);
        if found == self.header.crc {
            Ok(())
        } else {
            Err(FrameError::Crc {
                expected: self.header.crc,
                found,
            })
        }
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Every byte of the frame, as it is sent, committed and logged.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The payload without its padding.
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[HEADER_BYTES..self.bytes.len() - usize::from(self.header.padding)]
    }

    /// The payload as JSON of type `T`; `what` names the frame in the error.
    pub fn json<T: serde::de::DeserializeOwned>(&self, what: &'static str) -> Result<T, FrameError> {
        serde_json::from_slice(self.payload()).map_err(|error| FrameError::Json {
            what,
            error: error.to_string(),
        })
    }
}

/// `length` rounded up to a multiple of 8.
pub(crate) fn padded(length: usize) -> usize {
    length.next_multiple_of(8)
}

const _: () = assert!(HEADER_BYTES.is_multiple_of(8) && limits::FRAME_BYTES_MAX.is_multiple_of(8));

#[cfg(test)]
mod tests;
