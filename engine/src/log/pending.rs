//! What a log took and has not handed out: its own bytes, and between them frames that stand where they came.

use bytes::Bytes;
use std::io::IoSlice;

/// Shorter frames are copied: a piece of its own in a write costs more.
const SHARED_BYTES_MIN: usize = 512;

/// A frame on its way into a log.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Incoming<'a> {
    /// It is copied: it may wait for long, and what it stands in is often larger than itself.
    Copied(&'a [u8]),
    /// It stays where it is, for it is written at once; where that fails it stays there until it is tried again.
    Shared(&'a Bytes),
}

impl Incoming<'_> {
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Copied(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }
}

/// Bytes in the order of the log.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    parts: Vec<Bytes>,
    /// Bytes of `parts`.
    parts_bytes: usize,
    /// Behind them.
    last: Vec<u8>,
}

impl Pending {
    /// Empty; `buffer` is memory to use again.
    pub fn with_buffer(mut buffer: Vec<u8>) -> Self {
        buffer.clear();
        Self {
            last: buffer,
            ..Self::default()
        }
    }

    /// The buffer, to be used again.
    pub fn into_buffer(self) -> Vec<u8> {
        self.last
    }

    pub fn len(&self) -> usize {
        self.parts_bytes + self.last.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn push(&mut self, incoming: Incoming<'_>) {
        match incoming {
            Incoming::Shared(frame) if frame.len() >= SHARED_BYTES_MIN => {
                if !self.last.is_empty() {
                    let copied = Bytes::copy_from_slice(&self.last);
                    self.last.clear();
                    self.end_part(copied);
                }
                self.end_part(frame.clone());
            }
            other => self.last.extend_from_slice(other.bytes()),
        }
    }

    fn end_part(&mut self, part: Bytes) {
        self.parts_bytes += part.len();
        self.parts.push(part);
    }

    /// The pieces from the `from`-th byte on.
    pub fn since(&self, from: usize) -> impl Iterator<Item = &[u8]> {
        let mut skipped = from;
        let pieces = self.parts.iter().map(|part| &part[..]).chain([&self.last[..]]);
        pieces.filter_map(move |piece| {
            let skip = skipped.min(piece.len());
            skipped -= skip;
            Some(&piece[skip..]).filter(|rest| !rest.is_empty())
        })
    }

    /// What was copied behind the last shared frame, from the `from`-th byte of all on.
    pub fn copied_since(&self, from: usize) -> &[u8] {
        debug_assert!(from >= self.parts_bytes, "what stands there is shared");
        let from = from.saturating_sub(self.parts_bytes);
        &self.last[from.min(self.last.len())..]
    }

    /// Checksum of all from the `from`-th byte on.
    pub fn crc_since(&self, from: usize) -> u32 {
        let mut crc = crc32fast::Hasher::new();
        self.since(from).for_each(|piece| crc.update(piece));
        crc.finalize()
    }

    pub fn slices(&self) -> Vec<IoSlice<'_>> {
        self.since(0).map(IoSlice::new).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_as_they_went_in_from_any_place_on() {
        let long = |byte: u8| Bytes::from(vec![byte; SHARED_BYTES_MIN]);
        let short = Bytes::from_static(&[7; SHARED_BYTES_MIN - 1]);
        let (first, second) = (long(1), long(2));
        let incoming = [
            Incoming::Copied(b"header"),
            Incoming::Shared(&first),
            Incoming::Shared(&second),
            Incoming::Shared(&short),
            Incoming::Copied(b"checkpoint"),
        ];
        let mut pending = Pending::default();
        let mut plain = Vec::new();
        for incoming in incoming {
            pending.push(incoming);
            plain.extend_from_slice(incoming.bytes());
            assert_eq!(pending.len(), plain.len());
        }
        for from in 0..=plain.len() + 1 {
            let out: Vec<u8> = pending.since(from).flatten().copied().collect();
            assert_eq!(out, plain.get(from..).unwrap_or_default(), "from {from}");
        }
        // Not copied: header, both frames, and what was copied behind them.
        assert_eq!(pending.slices().len(), 4);
        assert_eq!(pending.slices()[1].as_ptr(), first.as_ptr());
    }

    #[test]
    fn what_the_hub_says_behind_a_shared_frame_is_handed_out_alone() {
        let frame = Bytes::from(vec![1; 2 * SHARED_BYTES_MIN]);
        let mut pending = Pending::default();
        pending.push(Incoming::Shared(&frame));
        let before = pending.len();
        pending.push(Incoming::Copied(b"a note"));
        assert_eq!(pending.copied_since(before), b"a note");
        assert_eq!(pending.copied_since(before + 2), b"note");
        assert_eq!(pending.copied_since(pending.len()), b"");
    }

    #[test]
    fn a_buffer_is_used_again_and_empty() {
        let mut pending = Pending::with_buffer(vec![9; 100]);
        assert!(pending.is_empty());
        pending.push(Incoming::Copied(&[1, 2, 3]));
        assert_eq!(pending.copied_since(1), [2, 3]);
        assert!(pending.into_buffer().capacity() >= 100);
    }
}
