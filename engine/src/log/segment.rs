//! The segment that a log's frames go into, until it is sealed.

use super::pending::Pending;
use marey_format::log::{IndexEntry, Predecessor, SEGMENT_HEADER_BYTES};

/// What a segment's header says of those before it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Before {
    pub why: Predecessor,
    /// Up to where the predecessor counts.
    pub end: u64,
    /// Unfinished copies behind the predecessor.
    pub superseded: u32,
    /// Another run of the hub sealed the predecessor. It may have died between the footer and its sync.
    pub by_another_run: bool,
}

impl Before {
    pub const NONE: Self = Self {
        why: Predecessor::None,
        end: 0,
        superseded: 0,
        by_another_run: false,
    };

    pub fn sealed(end: u64) -> Self {
        Self {
            why: Predecessor::Sealed,
            end,
            superseded: 0,
            by_another_run: false,
        }
    }

    pub fn sealed_by_another_run(end: u64) -> Self {
        Self {
            by_another_run: true,
            ..Self::sealed(end)
        }
    }

    pub fn cut(end: u64) -> Self {
        Self {
            why: Predecessor::Cut,
            end,
            superseded: 0,
            by_another_run: false,
        }
    }
}

/// The segment that frames go into.
#[derive(Debug)]
pub(super) struct Segment {
    pub number: u32,
    pub predecessor: Before,
    /// Not made yet: the header goes with the first write.
    pub fresh: bool,
    pub index: Vec<IndexEntry>,
    /// Bytes that were handed out to be written.
    pub written: u64,
    /// Bytes that a sync covered.
    pub synced: u64,
    /// Taken and not yet handed out; stands at `written`.
    pub pending: Pending,
    pub unchecked: Unchecked,
}

/// Frames that no checkpoint covers yet.
#[derive(Debug)]
pub(super) struct Unchecked {
    /// Where they begin, in the segment and in the index.
    pub offset: u64,
    pub first: usize,
    /// Of their bytes, taken while each was at hand: when the checkpoint is due they have left the caches, and whoever flushes
    /// holds up all that commit.
    pub crc: crc32fast::Hasher,
}

impl Unchecked {
    pub fn from(offset: u64, first: usize) -> Self {
        Self {
            offset,
            first,
            crc: crc32fast::Hasher::new(),
        }
    }
}

impl Segment {
    pub fn new(number: u32, predecessor: Before) -> Self {
        Self {
            number,
            predecessor,
            fresh: true,
            index: Vec::new(),
            written: 0,
            synced: 0,
            pending: Pending::default(),
            unchecked: Unchecked::from(SEGMENT_HEADER_BYTES as u64, 0),
        }
    }

    pub fn end(&self) -> u64 {
        self.written + self.pending.len() as u64
    }
}
