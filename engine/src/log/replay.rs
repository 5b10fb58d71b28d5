//! A log read through the one apply function: frames with their meaning, and what damage took.

use super::read::{LogFrame, LogReader};
use crate::disk::Disk;
use crate::error::StorageError;
use crate::session::Session;
use crate::state::{Judged, LogState, Violation};
use marey_format::frame::{Frame, Lane};
use marey_format::{DeviceId, EpochId, SessionId};
use std::collections::{BTreeMap, HashSet};
use std::path::Path;

/// Reads a log from its beginning and applies every frame to a [`LogState`].
#[derive(Debug)]
pub struct Replay<'d> {
    reader: LogReader<'d>,
    applier: Applier,
    faults_seen: usize,
    /// Epochs that segments begin in, by their headers, where those are to stand in for epoch frames that can't be read.
    stand_ins: BTreeMap<u32, (EpochId, u32)>,
}

/// A state, and which lanes damage may have cut.
#[derive(Debug, Default)]
pub(crate) struct Applier {
    pub state: LogState,
    /// Lanes in which a frame came after the newest damage.
    settled: Option<HashSet<(u32, Lane)>>,
}

impl Applier {
    /// Something was lost here.
    pub fn damaged(&mut self) {
        self.settled = Some(HashSet::new());
    }

    pub fn apply(&mut self, frame: &Frame<'_>, epoch: Option<u32>, offset: u32) -> Result<Judged, Violation> {
        let header = frame.header();
        if let (Some(settled), Some(epoch)) = (&mut self.settled, epoch)
            && settled.insert((epoch, header.lane))
            && let Some(known) = self.state.epochs().get(epoch as usize)
            && header.lane != Lane::Hub
        {
            // The first frame of its lane after damage: what lies between is lost, and may be sent again.
            let hole = (known.next[header.lane as usize], header.sequence);
            self.state.add_hole(epoch, header.lane, hole);
        }
        self.state.apply(frame, epoch, offset)
    }
}

/// One frame, and what became of it.
#[derive(Debug)]
pub struct Replayed<'a> {
    pub at: LogFrame<'a>,
    /// What it means; a violation where it can't be taken: it was taken before, or what it rests on is lost.
    pub judged: Result<Judged, Violation>,
}

impl<'d> Replay<'d> {
    pub fn open(disk: &'d dyn Disk, session: &SessionId, device: &DeviceId) -> Result<Self, StorageError> {
        Self::open_dir(disk, &Session::log_dir(session, device), session, device)
    }

    /// The log that stands in a folder.
    pub fn open_dir(
        disk: &'d dyn Disk,
        dir: &Path,
        session: &SessionId,
        device: &DeviceId,
    ) -> Result<Self, StorageError> {
        let reader = LogReader::open_dir(disk, dir, session, device)?;
        Ok(Self {
            reader,
            applier: Applier::default(),
            faults_seen: 0,
            stand_ins: BTreeMap::new(),
        })
    }

    /// The same, where an epoch's frame may be unreadable, for now or for ever: the headers of later segments stand in for it,
    /// but for the boot, which they do not know.
    pub(crate) fn with_stand_ins(mut self) -> Self {
        let segments = self.reader.segments().iter();
        self.stand_ins = segments
            .filter_map(|segment| Some((segment.segment, segment.header.as_ref()?.epoch?)))
            .collect();
        self
    }

    /// What the frames so far add up to.
    pub fn state(&self) -> &LogState {
        &self.applier.state
    }

    /// The reader beneath: its segments and faults.
    pub fn reader(&self) -> &LogReader<'d> {
        &self.reader
    }

    /// The next frame.
    #[allow(
        clippy::should_implement_trait,
        reason = "the frame borrows the reader's buffer"
    )]
    pub fn next(&mut self) -> Result<Option<Replayed<'_>>, StorageError> {
        let Some(at) = self.reader.next()? else {
            return Ok(None);
        };
        if at.faults_before > self.faults_seen {
            self.faults_seen = at.faults_before;
            self.applier.damaged();
        }
        if let Some((epoch, ordinal)) = self.stand_ins.remove(&at.segment) {
            self.applier.state.stand_in(epoch, ordinal);
        }
        let judged = self.applier.apply(&at.frame, at.epoch, at.offset as u32);
        Ok(Some(Replayed { at, judged }))
    }

    /// The state, once all was read.
    pub fn into_state(self) -> (LogState, Vec<super::Fault>) {
        (self.applier.state, self.reader.into_faults())
    }
}
