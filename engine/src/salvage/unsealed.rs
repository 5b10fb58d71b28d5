//! The end of a log that was not sealed: where reading alone says "torn tail", and more is known.
//!
//! Two witnesses. The journal: frames that it has for a place were staged when all before was synced or is in the journal
//! as well, so a log that ends below the first such place is damaged, not torn. And a checkpoint that stands whole behind
//! the fault: it lists where the frames of its write begin, so those that are whole are saved. Whether that write was ever
//! acknowledged nothing tells; what of it is gone is listed as a loss.

use super::inventory::{Again, JOURNAL, Position, Taking};
use super::view::View;
use crate::disk::Disk;
use crate::error::StorageError;
use crate::log::{Fault, FaultKind, segment_name};
use crate::session::Session;
use marey_format::frame::{Frame, HEADER_BYTES, Kind, MARK};
use marey_format::log::SEGMENT_HEADER_BYTES;
use marey_format::payload::Checkpoint;

impl Taking {
    /// Logs that end below where the journal proves them to have been synced.
    pub(super) fn prove_by_journal(&mut self, view: &View) {
        let mut first: Vec<Position> = Vec::new();
        for &(segment, offset) in self.homes.iter().filter(|home| home.0 != JOURNAL) {
            if first.last().is_none_or(|last| last.0 != segment) {
                first.push((segment, offset));
            }
        }
        let last = self
            .inventory
            .segments
            .last_key_value()
            .map_or(0, |(last, _)| *last);
        for (segment, proven) in first {
            let proof = format!("the journal proves that it was synced up to offset {proven}");
            let fault = match self.inventory.segments.get(&segment) {
                Some(found) if found.data_bytes.is_none() => {
                    let (path, file_bytes) = (found.path.clone(), found.file_bytes);
                    let mut faults = self.inventory.faults.iter_mut();
                    let torn = faults.find(|fault| {
                        (fault.segment, fault.kind) == (segment, FaultKind::TornTail)
                            && fault.offset >= SEGMENT_HEADER_BYTES as u64
                    });
                    match torn {
                        Some(torn) if torn.offset < proven => {
                            torn.kind = FaultKind::Damage;
                            torn.why = format!("{}; {proof}", torn.why);
                            Some(torn.clone())
                        }
                        None if file_bytes < proven => {
                            let why = format!("the file ends here; {proof}");
                            Some(damage(path, segment, (file_bytes, proven - file_bytes), why))
                        }
                        _ => None,
                    }
                }
                None if segment > last && proven > SEGMENT_HEADER_BYTES as u64 => {
                    let (session, device) = (&self.inventory.session, &self.inventory.device);
                    let path = Session::log_dir(session, device).join(segment_name(segment));
                    let why = format!("the segment is missing; {proof}");
                    Some(damage(view.describe(&path), segment, (0, 0), why))
                }
                _ => None,
            };
            if let Some(fault) = fault {
                if !self.inventory.faults.contains(&fault) {
                    self.inventory.faults.push(fault.clone());
                }
                self.inventory.by_journal.push(fault);
            }
        }
    }

    /// Checkpoints behind a torn tail; where that is.
    pub(super) fn look_behind_torn(
        &mut self,
        again: &mut Again<'_>,
    ) -> Result<Option<Position>, StorageError> {
        let last = self.inventory.segments.last_key_value();
        // Where footer or successor say how far it goes, reading has looked behind every fault.
        let Some((&segment, found)) = last.filter(|(_, found)| found.data_bytes.is_none()) else {
            return Ok(None);
        };
        let file_bytes = found.file_bytes;
        let mut faults = self.inventory.faults.iter();
        let torn = faults.find(|fault| {
            fault.segment == segment
                && fault.offset >= SEGMENT_HEADER_BYTES as u64
                && fault.offset + fault.bytes >= file_bytes
        });
        let Some(torn) = torn.map(|fault| (segment, fault.offset)) else {
            return Ok(None);
        };
        let bytes = again.read(self, torn, file_bytes.saturating_sub(torn.1) as usize)?;
        let mut points: Vec<(u64, Checkpoint)> = Vec::new();
        for at in (0..bytes.len().saturating_sub(HEADER_BYTES)).step_by(8) {
            if !bytes[at..].starts_with(&MARK) {
                continue;
            }
            let Ok(frame) = Frame::parse(&bytes[at..]) else {
                continue;
            };
            let here = torn.1 + at as u64;
            if frame.header().kind == Kind::CHECKPOINT
                && self.owner(&frame, None) == Some(None)
                && let Some(point) = Checkpoint::parse(frame.payload())
                && point.offset.checked_add(point.length) == Some(here)
            {
                // One that lies inside the write of a later one is part of somebody's payload.
                points.retain(|(inner, _)| *inner < point.offset);
                points.push((here, point));
            }
        }
        let points = points.into_iter().map(|(at, point)| (segment, at, point));
        self.checkpoints.extend(points);
        Ok(Some(torn))
    }

    /// A torn tail behind which frames are listed that are gone is a loss, as far as anybody can tell.
    pub(super) fn judge_torn(&mut self, torn: Option<Position>) {
        let Some((segment, offset)) = torn else { return };
        let is_gone = self
            .inventory
            .segments
            .get(&segment)
            .is_some_and(|found| found.listed_gone.iter().any(|&gone| gone >= offset));
        let mut faults = self.inventory.faults.iter_mut();
        if let Some(fault) = faults.find(|fault| (fault.segment, fault.offset) == (segment, offset))
            && fault.kind == FaultKind::TornTail
            && is_gone
        {
            fault.kind = FaultKind::Damage;
            fault.why = format!(
                "{}; it can't be told whether the write was ever acknowledged",
                fault.why
            );
        }
    }
}

fn damage(path: std::path::PathBuf, segment: u32, (offset, bytes): (u64, u64), why: String) -> Fault {
    let kind = FaultKind::Damage;
    Fault {
        kind,
        path,
        segment,
        offset,
        bytes,
        why,
    }
}
