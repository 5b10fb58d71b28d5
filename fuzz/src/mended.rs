//! Copies of bytes whose checksums fit: what an enemy would send, and what random changes never reach.

use super::fixture::{EPOCH, HUB, device, phone};
use marey_format::frame::{HEADER_BYTES, Header, Lane};
use marey_format::journal::{RECORD_HEADER_BYTES, record_seed};
use marey_format::log::{SEGMENT_HEADER_BYTES, TRAILER_BYTES};
use marey_format::payload::EpochMark;
use marey_format::wire::{MESSAGE_HEADER_BYTES, MessageHeader, MessageType, Open, parse_json};
use marey_format::{EpochId, Seed, checksum};
use std::collections::BTreeMap;

/// A segment whose header, frames and footer have the checksums that fit their bytes.
pub fn segment(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    header(&mut bytes);
    let (mut at, mut epoch) = (SEGMENT_HEADER_BYTES, EPOCH);
    while let Some(rest) = bytes.get_mut(at..) {
        let Ok(header) = Header::parse(rest) else { break };
        let length = header.length as usize;
        let Some(frame) = rest.get_mut(..length) else {
            break;
        };
        let seed = if header.lane == Lane::Hub {
            phone(EpochId::HUB)
        } else {
            phone(epoch)
        };
        let crc = seed.checksum(&frame[8..]);
        frame[4..8].copy_from_slice(&crc.to_le_bytes());
        if let Some(mark) = EpochMark::parse(&frame[HEADER_BYTES..]).filter(|_| header.kind.0 == 0x80) {
            epoch = mark.epoch;
        }
        at += length;
    }
    footer(&mut bytes, at);
    bytes
}

/// Mends a segment's header.
pub fn header(bytes: &mut [u8]) {
    let crc_at = SEGMENT_HEADER_BYTES - 4;
    if bytes.len() >= SEGMENT_HEADER_BYTES {
        let crc = checksum::crc32(&bytes[..crc_at]);
        bytes[crc_at..SEGMENT_HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    }
}

/// Mends the index that begins at `at`, and the trailer behind it.
pub fn footer(bytes: &mut [u8], at: usize) {
    if let Some(end) = bytes.len().checked_sub(TRAILER_BYTES).filter(|&end| end >= at) {
        let index = checksum::crc32(&bytes[at..end]);
        bytes[end + 32..end + 36].copy_from_slice(&index.to_le_bytes());
        let crc = checksum::crc32(&bytes[end..end + TRAILER_BYTES - 4]);
        bytes[end + TRAILER_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
    }
}

/// A block whose records have the checksums that fit their bytes.
pub fn block(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let mut at = 0;
    while bytes.len() >= at + RECORD_HEADER_BYTES {
        let word = |from: usize| {
            u64::from_le_bytes(bytes[at + from..at + from + 8].try_into().expect("eight bytes"))
        };
        let (generation, length) = (word(8), word(32) as usize);
        let Some(end) = at
            .checked_add(length)
            .filter(|&end| end <= bytes.len() && length >= RECORD_HEADER_BYTES)
        else {
            break;
        };
        let crc = Seed(record_seed(&HUB, generation)).checksum(&bytes[at + 8..end]);
        bytes[at + 4..at + 8].copy_from_slice(&crc.to_le_bytes());
        at = end;
    }
    bytes
}

/// What a device sends, with frames whose checksums fit the epoch that their channel was opened for.
pub fn conversation(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let (mut at, mut seeds) = (0, BTreeMap::new());
    while let Some(head) = bytes
        .get(at..)
        .and_then(<[u8]>::first_chunk::<MESSAGE_HEADER_BYTES>)
    {
        let Ok(header) = MessageHeader::parse(*head) else {
            break;
        };
        let begin = at + MESSAGE_HEADER_BYTES;
        at = begin + header.length as usize;
        let Some(body) = bytes.get_mut(begin..at) else {
            break;
        };
        match header.kind {
            MessageType::Open => {
                if let Ok(open) = parse_json::<Open>(header.kind, body) {
                    seeds.insert(header.channel, Seed::new(&device(), &open.session, &open.epoch));
                }
            }
            MessageType::Frame if body.len() >= HEADER_BYTES => {
                if let Some(seed) = seeds.get(&header.channel) {
                    let crc = seed.checksum(&body[8..]);
                    body[4..8].copy_from_slice(&crc.to_le_bytes());
                }
            }
            _ => {}
        }
    }
    bytes
}
