//! What a hole in a segment takes with it: the frames that reach into it, and what can't be told without it.
//!
//! Owns the list of what is missing because the disk can't read it. `unreadable` finds the holes; `survey` reads around
//! them.
//!
//! Invariants: a byte that is not delivered is in the list of a hole, or in a fault; none is in both.

use super::frames::Place;
use super::unreadable::{Hole, Tolerant};
use crate::error::StorageError;
use crate::log::{Fault, SegmentSummary};
use marey_format::log::{Index, IndexEntry};
use marey_format::{DeviceId, SessionId};
use std::collections::HashSet;
use std::path::Path;

/// A place of a log that the disk can't read, and what is not delivered because of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    pub segment: u32,
    pub hole: Hole,
    /// Bytes that can't be vouched for, from and to: the hole, and frames that can't be told without it.
    pub left_out: Vec<(u64, u64)>,
    /// The frames that stand there, by the segment's footer; none where that can't be read either.
    pub lost: Option<Vec<IndexEntry>>,
}

/// What of a segment can't be read, and what that takes with it. Faults behind the first hole are no longer faults of
/// their own: without what stands in the hole nobody can tell whether they are any. `whole_anyway` are the frames that
/// were delivered although they reach into a hole: what they have there is zeros, as their checksums prove.
pub fn of_segment(
    disk: &Tolerant<'_>,
    (segment, path, bytes): (u32, &Path, u64),
    log: (&DeviceId, &SessionId),
    whole_anyway: &HashSet<Place>,
    faults: &mut Vec<Fault>,
) -> Result<Vec<Unreadable>, StorageError> {
    let found = SegmentSummary::read(disk, segment, path, bytes, log);
    let index = match found {
        Ok(found) => found.index,
        Err(StorageError::Damaged { .. }) => None,
        Err(error) => return Err(error),
    };
    let holes = disk.holes(path);
    let first = holes.first().map_or(u64::MAX, |hole| hole.offset);
    let mut places: Vec<Unreadable> = holes
        .into_iter()
        .map(|hole| Unreadable {
            segment,
            left_out: vec![(hole.offset, hole.offset + hole.bytes)],
            hole,
            lost: index.as_ref().map(|_| Vec::new()),
        })
        .collect();
    faults.retain(|fault| {
        let end = fault.offset + fault.bytes;
        if fault.segment != segment || end <= first {
            return true;
        }
        // It belongs to the last hole that begins before its end.
        if let Some(place) = places.iter_mut().rfind(|place| place.hole.offset < end) {
            place.left_out.push((fault.offset, end));
        }
        false
    });
    for entry in index.iter().flat_map(Index::entries) {
        if whole_anyway.contains(&Place {
            segment,
            offset: u64::from(entry.offset),
        }) {
            continue;
        }
        let (from, to) = (
            u64::from(entry.offset),
            u64::from(entry.offset) + u64::from(entry.length),
        );
        let holder = places.iter_mut().find(|place| {
            place
                .left_out
                .iter()
                .any(|&(start, end)| from < end && to > start)
        });
        if let Some(lost) = holder.and_then(|place| place.lost.as_mut()) {
            lost.push(entry);
        }
    }
    Ok(places)
}
