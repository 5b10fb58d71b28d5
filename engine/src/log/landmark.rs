//! What a log's sealed segments add up to, in files of its own beside them, so that opening need not read every index.
//!
//! A landmark is a help and no truth: it counts only if its checksum holds and if the segment at whose end it was made is the
//! one that stands there, by the checksum of its index. It may be torn, old or gone at any time; then the indices are read. So
//! it is written without a sync. Two files take turns: the newest segment is not always proven, the one before it is.

use super::read::{LogReader, SegmentSummary, finished};
use crate::disk::{self, Disk, OpenMode};
use crate::error::StorageError;
use crate::session::Session;
use crate::state::{KeptState, LogState};
use marey_format::checksum::crc32;
use marey_format::{DeviceId, SessionId};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;

/// Bytes of a landmark at most: a log of very many streams is read from its indices.
const BYTES_MAX: usize = 4 << 20;

/// Of fewer segments the indices are read as fast.
const SEGMENT_FIRST: u32 = 3;

const MAGIC: &[u8; 8] = b"MAREYLMK";

/// A log's state at the end of a sealed segment.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Landmark {
    segment: u32,
    data_bytes: u64,
    /// Checksum of the segment's index.
    index_crc: u32,
    state: KeptState,
}

const NAMES: [&str; 2] = ["landmark.0", "landmark.1"];

/// Whether that is the name of a landmark.
pub(crate) fn is_landmark(name: &str) -> bool {
    NAMES.contains(&name)
}

/// A landmark, and what it was written beside.
#[derive(Debug, Serialize, Deserialize)]
struct Beside<L> {
    files: Files,
    landmark: L,
}

/// The files of a log's segments, up to one of them: where one of them is gone or of another length, opening is to see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Files {
    count: u64,
    bytes: u64,
}

impl Files {
    fn until(segment: u32, disk: &dyn Disk, dir: &Path) -> Result<Self, StorageError> {
        let all = super::segments(disk, dir)?.into_iter();
        let until = all.filter(|(number, ..)| *number <= segment);
        Ok(until.fold(Self::default(), |sum, (.., bytes)| Self {
            count: sum.count + 1,
            bytes: sum.bytes + bytes,
        }))
    }
}

impl Landmark {
    /// Of a segment that is about to be sealed; none where it is not worth it.
    pub fn of(segment: u32, data_bytes: u64, index_crc: u32, state: &LogState) -> Option<Self> {
        (segment >= SEGMENT_FIRST).then(|| Self {
            segment,
            data_bytes,
            index_crc,
            state: state.keep(),
        })
    }

    /// Writes it over the one before the last.
    pub fn write(&self, disk: &dyn Disk, dir: &Path) -> io::Result<()> {
        let beside = Beside {
            files: Files::until(self.segment, disk, dir).map_err(io::Error::other)?,
            landmark: self,
        };
        let json = serde_json::to_vec(&beside)?;
        if json.len() > BYTES_MAX {
            return Ok(());
        }
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&crc32(&json).to_le_bytes());
        bytes.extend_from_slice(&json);
        let path = dir.join(NAMES[self.segment as usize % NAMES.len()]);
        let file = match disk.open(&path, OpenMode::ReadWrite) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => disk.open(&path, OpenMode::CreateNew)?,
            opened => opened?,
        };
        file.write_at(0, &bytes)?;
        file.set_len(bytes.len() as u64)
    }

    fn read(disk: &dyn Disk, path: &Path) -> Option<Beside<Self>> {
        let bytes = disk::read_all(disk, path, (BYTES_MAX + MAGIC.len() + 4) as u64).ok()?;
        let (crc, json) = bytes.strip_prefix(MAGIC)?.split_first_chunk()?;
        (crc32(json) == u32::from_le_bytes(*crc)).then(|| serde_json::from_slice(json).ok())?
    }

    /// Whether this segment is the one that it was made at.
    fn is_of(&self, summary: &SegmentSummary) -> bool {
        (summary.segment, summary.sealed_bytes, summary.index_crc)
            == (self.segment, Some(self.data_bytes), Some(self.index_crc))
            && summary.header.is_some()
            && summary.cut_at.is_none_or(|cut| cut == self.data_bytes)
    }
}

/// A log from its newest landmark on that has a finished segment behind it: a reader whose first segment is that of the
/// landmark, and the state at its end. None where every segment must be read.
pub(crate) fn open_behind<'d>(
    disk: &'d dyn Disk,
    session: &SessionId,
    device: &DeviceId,
) -> Result<Option<(LogReader<'d>, LogState)>, StorageError> {
    let dir = Session::log_dir(session, device);
    let found = NAMES.map(|name| Landmark::read(disk, &dir.join(name)));
    let mut found: Vec<Beside<Landmark>> = found.into_iter().flatten().collect();
    found.sort_by_key(|found| std::cmp::Reverse(found.landmark.segment));
    for Beside { files, landmark } in found {
        if Files::until(landmark.segment, disk, &dir)? != files {
            continue;
        }
        let reader = LogReader::open_from(disk, session, device, landmark.segment)?;
        let segments = reader.segments();
        if finished(segments) >= 2
            && landmark.is_of(&segments[0])
            && let Some(state) = landmark.state.into_state()
        {
            return Ok(Some((reader, state)));
        }
    }
    Ok(None)
}
