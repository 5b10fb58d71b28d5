#![doc = include_str!("../journal.md")]

use crate::layout::{Fields, Put, name, put_name};
use crate::limits;
use crate::types::{DeviceId, SessionId};

/// What a record begins with.
pub const RECORD_MARK: [u8; 4] = *b"MJR1";

/// Bytes of a record's header.
pub const RECORD_HEADER_BYTES: usize = 64;

/// Bytes of an entry's header.
pub const ENTRY_HEADER_BYTES: usize = 24;

/// The header of a record: one commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    pub crc: u32,
    /// Which filling of its block the record belongs to: the number of the first commit in it.
    pub generation: u64,
    /// Counts the commits of the hub, from 1.
    pub commit: u64,
    /// Records below this one are in device logs that were synced.
    pub oldest: u64,
    /// The whole record, header included; a multiple of 8.
    pub length: u64,
    pub entries: u32,
}

/// One entry of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    /// In this record, `log` stands for this log.
    Name {
        log: u32,
        session: SessionId,
        device: DeviceId,
    },
    /// Frames, as they go into `segment` of the log at `offset`.
    Frames {
        log: u32,
        segment: u32,
        offset: u64,
        bytes: &'a [u8],
    },
}

/// Why bytes are not a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("no record mark")]
    Mark,
    #[error("{found} bytes left, where the record takes {expected}")]
    Short { expected: u64, found: u64 },
    #[error("a record of {found} bytes")]
    Length { found: u64 },
    #[error("a record of generation {found} in a block of generation {expected}")]
    Generation { expected: u64, found: u64 },
    #[error("checksum {expected:08x} written, {found:08x} over the bytes")]
    Crc { expected: u32, found: u32 },
    #[error("entry {entry} is not of its form")]
    Entry { entry: u32 },
}

/// The CRC-32 that a record's checksum goes on from: that of the hub's id and the generation.
pub fn record_seed(hub: &[u8; 16], generation: u64) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(hub);
    crc.update(&generation.to_le_bytes());
    crc.finalize()
}

/// Builds one record in a buffer that is used again for the next.
#[derive(Debug, Default)]
pub struct RecordBuilder {
    bytes: Vec<u8>,
    entries: u32,
}

impl RecordBuilder {
    /// Begins a record; what the buffer held is dropped.
    pub fn start(&mut self) {
        self.bytes.clear();
        self.bytes.resize(RECORD_HEADER_BYTES, 0);
        self.entries = 0;
    }

    pub fn name(&mut self, log: u32, session: &SessionId, device: &DeviceId) {
        self.entry(1, log, 96, 0, 0);
        put_name(&mut self.bytes, session.as_str(), limits::SESSION_NAME_BYTES_MAX);
        put_name(&mut self.bytes, device.as_str(), limits::DEVICE_NAME_BYTES_MAX);
    }

    pub fn frames(&mut self, log: u32, segment: u32, offset: u64, bytes: &[u8]) {
        debug_assert!(bytes.len().is_multiple_of(8), "frames are padded to eight bytes");
        self.entry(2, log, bytes.len() as u32, segment, offset);
        self.bytes.extend_from_slice(bytes);
    }

    fn entry(&mut self, kind: u32, log: u32, length: u32, segment: u32, offset: u64) {
        self.bytes.u32(kind).u32(log).u32(length).u32(segment).u64(offset);
        self.entries += 1;
    }

    /// Bytes of the record as it stands.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// The whole record.
    pub fn finish(&mut self, hub: &[u8; 16], generation: u64, commit: u64, oldest: u64) -> &[u8] {
        let mut head = Vec::with_capacity(RECORD_HEADER_BYTES);
        head.put(&RECORD_MARK)
            .u32(0)
            .u64(generation)
            .u64(commit)
            .u64(oldest);
        head.u64(self.bytes.len() as u64).u32(self.entries);
        head.resize(RECORD_HEADER_BYTES, 0);
        self.bytes[..RECORD_HEADER_BYTES].copy_from_slice(&head);
        let mut crc = crc32fast::Hasher::new_with_initial(record_seed(hub, generation));
        crc.update(&self.bytes[8..]);
        self.bytes[4..8].copy_from_slice(&crc.finalize().to_le_bytes());
        &self.bytes
    }
}

/// A whole record whose checksum holds.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    pub header: RecordHeader,
    body: &'a [u8],
}

impl<'a> Record<'a> {
    /// Reads the record at the front of `bytes`. `generation` is that of the block's first record, none for that one.
    pub fn parse(bytes: &'a [u8], hub: &[u8; 16], generation: Option<u64>) -> Result<Self, RecordError> {
        let mut from = Fields(bytes);
        if from.array() != Some(RECORD_MARK) {
            return Err(RecordError::Mark);
        }
        let short = || RecordError::Short {
            expected: RECORD_HEADER_BYTES as u64,
            found: bytes.len() as u64,
        };
        let header = (|| {
            Some(RecordHeader {
                crc: from.u32()?,
                generation: from.u64()?,
                commit: from.u64()?,
                oldest: from.u64()?,
                length: from.u64()?,
                entries: from.u32()?,
            })
        })()
        .ok_or_else(short)?;
        let expected = generation.unwrap_or(header.commit);
        if header.generation != expected {
            return Err(RecordError::Generation {
                expected,
                found: header.generation,
            });
        }
        let least = RECORD_HEADER_BYTES as u64;
        if !(least..=limits::RECORD_BYTES_MAX).contains(&header.length) || !header.length.is_multiple_of(8) {
            return Err(RecordError::Length { found: header.length });
        }
        let Some(whole) = bytes.get(..header.length as usize) else {
            return Err(RecordError::Short {
                expected: header.length,
                found: bytes.len() as u64,
            });
        };
        let mut crc = crc32fast::Hasher::new_with_initial(record_seed(hub, header.generation));
        crc.update(&whole[8..]);
        let found = crc.finalize();
        if found != header.crc {
            return Err(RecordError::Crc {
                expected: header.crc,
                found,
            });
        }
        Ok(Self {
            header,
            body: &whole[RECORD_HEADER_BYTES..],
        })
    }

    /// The entries, in order.
    pub fn entries(&self) -> Result<Vec<Entry<'a>>, RecordError> {
        let mut from = Fields(self.body);
        let entries: Result<Vec<_>, _> = (0..self.header.entries)
            .map(|entry| Self::entry(&mut from).ok_or(RecordError::Entry { entry }))
            .collect();
        if from.0.is_empty() {
            entries
        } else {
            Err(RecordError::Entry {
                entry: self.header.entries,
            })
        }
    }

    fn entry(from: &mut Fields<'a>) -> Option<Entry<'a>> {
        let (kind, log, length, segment, offset) =
            (from.u32()?, from.u32()?, from.u32()?, from.u32()?, from.u64()?);
        let bytes = from.bytes(length as usize)?;
        match kind {
            1 => {
                let mut from = Fields(bytes);
                let session = SessionId::new(name(from.bytes(limits::SESSION_NAME_BYTES_MAX)?)?).ok()?;
                let device = DeviceId::new(name(from.bytes(limits::DEVICE_NAME_BYTES_MAX)?)?).ok()?;
                Some(Entry::Name { log, session, device })
            }
            2 => Some(Entry::Frames {
                log,
                segment,
                offset,
                bytes,
            }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_and_every_changed_bit_is_found() {
        let (hub, session, device) = ([5; 16], SessionId::new("s").unwrap(), DeviceId::new("d").unwrap());
        let mut builder = RecordBuilder::default();
        builder.start();
        builder.name(1, &session, &device);
        builder.frames(1, 3, 256, &[9; 16]);
        let bytes = builder.finish(&hub, 7, 7, 4).to_vec();
        let record = Record::parse(&bytes, &hub, None).unwrap();
        assert_eq!((record.header.commit, record.header.oldest), (7, 4));
        let frames = Entry::Frames {
            log: 1,
            segment: 3,
            offset: 256,
            bytes: &[9; 16],
        };
        assert_eq!(
            record.entries().unwrap(),
            [
                Entry::Name {
                    log: 1,
                    session,
                    device
                },
                frames
            ]
        );
        for bit in 0..bytes.len() * 8 {
            let mut broken = bytes.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            assert!(Record::parse(&broken, &hub, Some(7)).is_err(), "bit {bit}");
        }
        assert!(matches!(
            Record::parse(&bytes, &hub, Some(8)),
            Err(RecordError::Generation { .. })
        ));
        assert!(matches!(
            Record::parse(&bytes, &[6; 16], None),
            Err(RecordError::Crc { .. })
        ));
        assert!(matches!(
            Record::parse(&bytes[..80], &hub, None),
            Err(RecordError::Short { .. })
        ));
        assert!(matches!(
            Record::parse(&[0; 128], &hub, None),
            Err(RecordError::Mark)
        ));
    }
}
