#![doc = include_str!("../log.md")]

use crate::checksum::crc32;
use crate::frame::{Frame, Kind, Lane};
use crate::layout::{Fields, Put, name, put_name};
use crate::limits;
use crate::types::{DeviceId, EpochId, HubEpoch, SessionId};
use crate::version;
use std::sync::Arc;

/// What a segment begins with.
pub const SEGMENT_MAGIC: [u8; 8] = *b"MAREYLOG";

/// What a sealed segment's index begins with.
pub const INDEX_MAGIC: [u8; 8] = *b"MAREYIDX";

/// What a sealed segment ends with.
pub const END_MAGIC: [u8; 8] = *b"MAREYEND";

/// Bytes of a segment's header.
pub const SEGMENT_HEADER_BYTES: usize = 256;

/// Bytes of a sealed segment's trailer.
pub const TRAILER_BYTES: usize = 64;

/// The header of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    pub hub: [u8; 16],
    pub session: SessionId,
    pub device: DeviceId,
    /// 1, 2 ... within the log.
    pub segment: u32,
    /// Why the segment before this one ended.
    pub predecessor: Predecessor,
    /// Up to where the segment before this one counts: its data's length if sealed, else where it was cut.
    pub predecessor_end: u64,
    /// So many segments between the predecessor and this one do not count: copies that a recovery did not finish.
    pub superseded: u32,
    /// The epoch that device frames belong to until an epoch frame says otherwise.
    pub epoch: Option<(EpochId, u32)>,
    /// Sequence of the first hub frame.
    pub hub_sequence: u64,
    pub hub_epoch: HubEpoch,
    pub created_hub_ns: i64,
}

/// Why the segment before ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Predecessor {
    /// There is none.
    None = 0,
    /// It was sealed in good order.
    Sealed = 1,
    /// It was found unsealed: it counts up to `predecessor_end`, and nothing that counts came after.
    Cut = 2,
    /// It counts up to `predecessor_end` once this segment is sealed, which is a copy of what came after.
    Copied = 3,
}

/// Why bytes are not a segment's header or footer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    #[error("{found} bytes, where {what} takes {expected}")]
    Short {
        what: &'static str,
        expected: u64,
        found: u64,
    },
    #[error("{what} does not begin with its mark")]
    Magic { what: &'static str },
    #[error("{what}: checksum {expected:08x} written, {found:08x} over the bytes")]
    Crc {
        what: &'static str,
        expected: u32,
        found: u32,
    },
    #[error(
        "written by a later version: reading takes {found}, this is {}",
        version::LOG_READ
    )]
    Version { found: u16 },
    #[error("{what} holds a value out of range")]
    Value { what: &'static str },
}

impl SegmentHeader {
    pub fn to_bytes(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut to = Vec::with_capacity(SEGMENT_HEADER_BYTES);
        to.put(&SEGMENT_MAGIC)
            .u16(version::LOG_READ)
            .u16(version::LOG_WRITE)
            .u32(SEGMENT_HEADER_BYTES as u32);
        to.put(&self.hub);
        put_name(&mut to, self.session.as_str(), limits::SESSION_NAME_BYTES_MAX);
        put_name(&mut to, self.device.as_str(), limits::DEVICE_NAME_BYTES_MAX);
        let (epoch, ordinal) = self.epoch.unwrap_or((EpochId::HUB, u32::MAX));
        to.u32(self.segment)
            .u32(self.predecessor as u32)
            .u64(self.predecessor_end);
        to.put(&epoch.0).u32(ordinal).u32(self.superseded);
        to.u64(self.hub_sequence)
            .u64(self.hub_epoch.0)
            .i64(self.created_hub_ns);
        to.resize(SEGMENT_HEADER_BYTES - 4, 0);
        let crc = crc32(&to);
        to.u32(crc);
        to.try_into().expect("the fields add up to SEGMENT_HEADER_BYTES")
    }

    pub fn parse(bytes: &[u8]) -> Result<Self, SegmentError> {
        const WHAT: &str = "the segment header";
        let Some(bytes) = bytes.first_chunk::<SEGMENT_HEADER_BYTES>() else {
            let found = bytes.len() as u64;
            return Err(SegmentError::Short {
                what: WHAT,
                expected: SEGMENT_HEADER_BYTES as u64,
                found,
            });
        };
        if bytes[..8] != SEGMENT_MAGIC {
            return Err(SegmentError::Magic { what: WHAT });
        }
        check_crc(WHAT, bytes)?;
        let read = u16::from_le_bytes([bytes[8], bytes[9]]);
        if read > version::LOG_READ {
            return Err(SegmentError::Version { found: read });
        }
        Self::fields(&bytes[..]).ok_or(SegmentError::Value { what: WHAT })
    }

    fn fields(bytes: &[u8]) -> Option<Self> {
        let mut from = Fields(&bytes[16..]);
        let hub = from.array()?;
        let session = SessionId::new(name(from.bytes(limits::SESSION_NAME_BYTES_MAX)?)?).ok()?;
        let device = DeviceId::new(name(from.bytes(limits::DEVICE_NAME_BYTES_MAX)?)?).ok()?;
        let segment = from
            .u32()
            .filter(|number| *number <= limits::SEGMENT_NUMBER_MAX)?;
        let predecessor = match from.u32()? {
            0 => Predecessor::None,
            1 => Predecessor::Sealed,
            2 => Predecessor::Cut,
            3 => Predecessor::Copied,
            _ => return None,
        };
        let predecessor_end = from.u64()?;
        let epoch = (EpochId(from.array()?), from.u32()?);
        let superseded = from.u32()?;
        Some(Self {
            hub,
            session,
            device,
            segment,
            predecessor,
            predecessor_end,
            superseded,
            epoch: (epoch.1 != u32::MAX).then_some(epoch),
            hub_sequence: from.u64()?,
            hub_epoch: HubEpoch(from.u64()?),
            created_hub_ns: from.i64()?,
        })
    }
}

fn check_crc(what: &'static str, bytes: &[u8]) -> Result<(), SegmentError> {
    let (body, crc) = bytes.split_at(bytes.len() - 4);
    let expected = u32::from_le_bytes(crc.try_into().expect("four bytes were split off"));
    let found = crc32(body);
    if expected == found {
        Ok(())
    } else {
        Err(SegmentError::Crc {
            what,
            expected,
            found,
        })
    }
}

/// One row of a sealed segment's index: one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// Where in the segment the frame begins.
    pub offset: u32,
    pub length: u32,
    pub crc: u32,
    pub stream: u32,
    pub count: u32,
    /// Ordinal of the frame's epoch; `u32::MAX` for hub frames.
    pub epoch: u32,
    pub sequence: u64,
    pub first_index: u64,
    pub first_time_ns: i64,
    /// Device time of the last sample; the first time where the frame has no samples.
    pub last_time_ns: i64,
    pub kind: Kind,
    pub lane: Lane,
}

impl IndexEntry {
    pub const BYTES: usize = 64;

    /// The entry of `frame`, which stands at `offset`, belongs to the epoch of this ordinal and whose last sample has
    /// this device time.
    pub fn of(frame: &Frame<'_>, offset: u32, epoch: Option<u32>, last_time_ns: i64) -> Self {
        let header = frame.header();
        let epoch = if header.lane == Lane::Hub { None } else { epoch };
        Self {
            offset,
            length: header.length,
            crc: header.crc,
            stream: header.stream,
            count: header.count,
            epoch: epoch.unwrap_or(u32::MAX),
            sequence: header.sequence,
            first_index: header.first_index,
            first_time_ns: header.first_time_ns,
            last_time_ns,
            kind: header.kind,
            lane: header.lane,
        }
    }

    fn put(&self, to: &mut Vec<u8>) {
        to.u32(self.offset)
            .u32(self.length)
            .u32(self.crc)
            .u32(self.stream)
            .u32(self.count)
            .u32(self.epoch);
        to.u64(self.sequence)
            .u64(self.first_index)
            .i64(self.first_time_ns)
            .i64(self.last_time_ns);
        to.u8(self.kind.0).u8(self.lane as u8).u16(0).u32(0);
    }

    fn is_well_formed(bytes: &[u8; Self::BYTES]) -> bool {
        Lane::from_byte(bytes[57]).is_some()
    }

    fn read(bytes: &[u8; Self::BYTES]) -> Self {
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        Self {
            offset: u32_at(0),
            length: u32_at(4),
            crc: u32_at(8),
            stream: u32_at(12),
            count: u32_at(16),
            epoch: u32_at(20),
            sequence: u64_at(24),
            first_index: u64_at(32),
            first_time_ns: u64_at(40).cast_signed(),
            last_time_ns: u64_at(48).cast_signed(),
            kind: Kind(bytes[56]),
            lane: Lane::from_byte(bytes[57]).unwrap_or(Lane::Hub),
        }
    }
}

/// What a sealed segment ends with: its index and its trailer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footer {
    /// Length of header and frames: where the index begins.
    pub data_bytes: u64,
    pub entries: Vec<IndexEntry>,
}

/// The last 64 bytes of a sealed segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    pub data_bytes: u64,
    pub frames: u64,
    pub samples: u64,
    pub index_crc: u32,
}

impl Footer {
    /// Index and trailer, to be appended at `data_bytes`.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut to = Vec::with_capacity(8 + self.entries.len() * IndexEntry::BYTES + TRAILER_BYTES);
        to.put(&INDEX_MAGIC);
        self.entries.iter().for_each(|entry| entry.put(&mut to));
        let index_crc = crc32(&to);
        let trailer_at = to.len();
        let samples = self
            .entries
            .iter()
            .filter(|e| e.kind == Kind::DATA)
            .map(|e| u64::from(e.count))
            .sum();
        to.put(&END_MAGIC)
            .u64(self.data_bytes)
            .u64(self.entries.len() as u64)
            .u64(samples)
            .u32(index_crc);
        to.resize(trailer_at + TRAILER_BYTES - 4, 0);
        let crc = crc32(&to[trailer_at..]);
        to.u32(crc);
        to
    }

    /// The footer whose trailer points at the bytes of this index.
    pub fn parse(trailer: &Trailer, index: &[u8]) -> Result<Self, SegmentError> {
        let index = Index::parse(trailer, index.to_vec())?;
        Ok(Self {
            data_bytes: trailer.data_bytes,
            entries: index.entries().collect(),
        })
    }
}

/// The index of a segment as it stands in the file, checked. A reader needs entries only where something is damaged or looked for:
/// until then they stay bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index(Arc<Vec<u8>>);

impl Index {
    /// The index that `trailer` points at, from its bytes, mark included.
    ///
    /// # Errors
    /// If it is not as long as the trailer says, its mark or checksum does not hold, or an entry says what no frame can.
    pub fn parse(trailer: &Trailer, index: Vec<u8>) -> Result<Self, SegmentError> {
        const WHAT: &str = "the segment index";
        let expected = trailer.index_bytes();
        if index.len() as u64 != expected {
            return Err(SegmentError::Short {
                what: WHAT,
                expected,
                found: index.len() as u64,
            });
        }
        if !index.starts_with(&INDEX_MAGIC) {
            return Err(SegmentError::Magic { what: WHAT });
        }
        let found = crc32(&index);
        if found != trailer.index_crc {
            return Err(SegmentError::Crc {
                what: WHAT,
                expected: trailer.index_crc,
                found,
            });
        }
        let index = Self(Arc::new(index));
        match index.rows().iter().all(IndexEntry::is_well_formed) {
            true => Ok(index),
            false => Err(SegmentError::Value { what: WHAT }),
        }
    }

    /// What it lists, in its order.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = IndexEntry> + '_ {
        self.rows().iter().map(IndexEntry::read)
    }

    fn rows(&self) -> &[[u8; IndexEntry::BYTES]] {
        self.0[INDEX_MAGIC.len()..].as_chunks().0
    }
}

impl Trailer {
    /// Reads the last [`TRAILER_BYTES`] of a segment of `file_bytes`.
    pub fn parse(bytes: &[u8], file_bytes: u64) -> Result<Self, SegmentError> {
        const WHAT: &str = "the segment trailer";
        if bytes.len() != TRAILER_BYTES {
            let found = bytes.len() as u64;
            return Err(SegmentError::Short {
                what: WHAT,
                expected: TRAILER_BYTES as u64,
                found,
            });
        }
        if bytes[..8] != END_MAGIC {
            return Err(SegmentError::Magic { what: WHAT });
        }
        check_crc(WHAT, bytes)?;
        let mut from = Fields(&bytes[8..]);
        let fields = (|| Some((from.u64()?, from.u64()?, from.u64()?, from.u32()?)))();
        let (data_bytes, frames, samples, index_crc) = fields.ok_or(SegmentError::Value { what: WHAT })?;
        let trailer = Self {
            data_bytes,
            frames,
            samples,
            index_crc,
        };
        let adds_up = frames.checked_mul(IndexEntry::BYTES as u64).and_then(|bytes| {
            bytes
                .checked_add(8 + TRAILER_BYTES as u64)?
                .checked_add(data_bytes)
        });
        if adds_up != Some(file_bytes) || data_bytes < SEGMENT_HEADER_BYTES as u64 {
            return Err(SegmentError::Value { what: WHAT });
        }
        Ok(trailer)
    }

    /// Bytes of the index, mark included.
    pub fn index_bytes(&self) -> u64 {
        8 + self.frames * IndexEntry::BYTES as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SegmentHeader {
        SegmentHeader {
            hub: [1; 16],
            session: SessionId::new("walk-01").unwrap(),
            device: DeviceId::new("phone").unwrap(),
            segment: 2,
            predecessor: Predecessor::Cut,
            predecessor_end: 4096,
            superseded: 1,
            epoch: Some((EpochId([2; 16]), 0)),
            hub_sequence: 9,
            hub_epoch: HubEpoch(3),
            created_hub_ns: -1,
        }
    }

    #[test]
    fn a_header_survives_and_every_changed_bit_is_found() {
        let bytes = header().to_bytes();
        assert_eq!(SegmentHeader::parse(&bytes).unwrap(), header());
        for bit in 0..bytes.len() * 8 {
            let mut broken = bytes;
            broken[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::parse(&broken).is_err(), "bit {bit}");
        }
        assert_eq!(
            SegmentHeader::parse(
                &SegmentHeader {
                    epoch: None,
                    ..header()
                }
                .to_bytes()
            )
            .unwrap()
            .epoch,
            None
        );
    }

    #[test]
    fn a_later_version_is_named() {
        let mut bytes = header().to_bytes();
        bytes[8] = 2;
        let crc = crc32(&bytes[..SEGMENT_HEADER_BYTES - 4]);
        bytes[SEGMENT_HEADER_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(
            SegmentHeader::parse(&bytes),
            Err(SegmentError::Version { found: 2 })
        );
    }

    #[test]
    fn a_footer_survives_and_every_changed_bit_is_found() {
        let entry = IndexEntry {
            offset: 256,
            length: 64,
            crc: 1,
            stream: 2,
            count: 3,
            epoch: 4,
            sequence: 5,
            first_index: 6,
            first_time_ns: -7,
            last_time_ns: 8,
            kind: Kind::DATA,
            lane: Lane::Data,
        };
        let footer = Footer {
            data_bytes: 320,
            entries: vec![entry; 3],
        };
        let bytes = footer.to_bytes();
        let read = |bytes: &[u8]| {
            let (index, trailer) = bytes.split_at(bytes.len() - TRAILER_BYTES);
            Trailer::parse(trailer, 320 + bytes.len() as u64)
                .and_then(|trailer| Footer::parse(&trailer, index))
        };
        assert_eq!(read(&bytes).unwrap(), footer);
        for bit in 0..bytes.len() * 8 {
            let mut broken = bytes.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&broken).is_err(), "bit {bit}");
        }
    }
}
