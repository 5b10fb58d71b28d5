//! Pass 2's view of a log: frames by their place, read ahead in pieces, each checked again under its epoch's seed.

use super::CompactError;
use super::frames::FrameEntry;
use super::survey::Epoch;
use crate::disk::{Disk, File, OpenMode};
use crate::error::StorageError;
use crate::log;
use crate::session::Session;
use bytes::{Bytes, BytesMut};
use marey_format::frame::Frame;
use marey_format::{DeviceId, Seed, SessionId};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// Bytes read ahead at a time.
const AHEAD_BYTES: u64 = 256 << 10;

/// Segments kept open at once.
const OPEN_SEGMENTS: usize = 4;

/// The frames of one log.
#[derive(Debug)]
pub struct FrameSource<'d> {
    disk: &'d dyn Disk,
    dir: PathBuf,
    seeds: BTreeMap<u32, Seed>,
    open: Vec<(u32, Arc<dyn File>)>,
}

/// A piece of a segment that was read, for one reader that moves forward.
#[derive(Debug, Default)]
pub struct Piece {
    segment: u32,
    offset: u64,
    bytes: Bytes,
}

impl<'d> FrameSource<'d> {
    pub fn new(
        disk: &'d dyn Disk,
        session: &SessionId,
        device: &DeviceId,
        epochs: &BTreeMap<u32, Epoch>,
    ) -> Self {
        let seeds = epochs
            .iter()
            .map(|(&ordinal, epoch)| (ordinal, Seed::new(device, session, &epoch.id)));
        Self {
            disk,
            dir: Session::log_dir(session, device),
            seeds: seeds.collect(),
            open: Vec::new(),
        }
    }

    /// The bytes of `frames[at]`; what follows it there is read along with it.
    ///
    /// # Errors
    /// If the disk fails, or if other bytes stand there than when the log was surveyed.
    pub fn read(
        &mut self,
        frames: &[FrameEntry],
        at: usize,
        piece: &mut Piece,
    ) -> Result<Bytes, CompactError> {
        let frame = &frames[at];
        if !piece.holds(frame) {
            self.fill(frames, at, piece)?;
        }
        let from = (u64::from(frame.offset) - piece.offset) as usize;
        let end = from + frame.length as usize;
        if piece.segment != frame.segment || end > piece.bytes.len() {
            return Err(self.changed(frame, "the file ends before it"));
        }
        let bytes = piece.bytes.slice(from..end);
        let checked = match self.seeds.get(&frame.epoch) {
            Some(&seed) => Frame::checked(&bytes, seed),
            None => Frame::parse(&bytes),
        };
        match checked {
            Ok(read) if read.header().crc == frame.crc => Ok(bytes),
            Ok(_) => Err(self.changed(frame, "another frame stands there")),
            Err(error) => Err(self.changed(frame, &error.to_string())),
        }
    }

    fn fill(&mut self, frames: &[FrameEntry], at: usize, piece: &mut Piece) -> Result<(), CompactError> {
        let first = &frames[at];
        let start = u64::from(first.offset);
        let (mut end, mut wanted) = (first.end_offset(), u64::from(first.length));
        for frame in &frames[at + 1..] {
            let goes_on = frame.segment == first.segment && u64::from(frame.offset) >= end;
            if !goes_on || frame.end_offset() - start > AHEAD_BYTES {
                break;
            }
            wanted += u64::from(frame.length);
            // Where other streams' frames fill most of the log, reading them along costs more than it saves.
            if frame.end_offset() - start > 4 * wanted {
                break;
            }
            end = frame.end_offset();
        }
        let path = self.dir.join(log::segment_name(first.segment));
        let io = |error| StorageError::io("reading", self.disk.describe(&path), error);
        let file = match self.open.iter().find(|(segment, _)| *segment == first.segment) {
            Some((_, file)) => file.clone(),
            None => {
                let file = self.disk.open(&path, OpenMode::Read).map_err(io)?;
                if self.open.len() == OPEN_SEGMENTS {
                    self.open.remove(0);
                }
                self.open.push((first.segment, file.clone()));
                file
            }
        };
        let old = std::mem::take(&mut piece.bytes);
        let mut bytes = old.try_into_mut().unwrap_or_else(|_| BytesMut::new());
        bytes.resize((end - start) as usize, 0);
        let read = file.read_at(start, &mut bytes).map_err(io)?;
        bytes.truncate(read);
        *piece = Piece {
            segment: first.segment,
            offset: start,
            bytes: bytes.freeze(),
        };
        Ok(())
    }

    fn changed(&self, frame: &FrameEntry, what: &str) -> CompactError {
        let path = self.dir.join(log::segment_name(frame.segment));
        let what = format!(
            "at offset {}, where a frame was read a moment ago: {what}",
            frame.offset
        );
        StorageError::damaged(self.disk.describe(&path), what).into()
    }
}

impl Piece {
    fn holds(&self, frame: &FrameEntry) -> bool {
        self.segment == frame.segment
            && self.offset <= u64::from(frame.offset)
            && frame.end_offset() <= self.offset + self.bytes.len() as u64
    }
}
