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

/// A log of more streams or epochs is read from its indices: a landmark is made anew with every segment.
const STREAMS_MAX: usize = 1 << 10;
const EPOCHS_MAX: usize = 1 << 10;

/// Bytes of a landmark at most.
const BYTES_MAX: usize = 4 << 20;

/// Of fewer segments the indices are read as fast.
const SEGMENT_FIRST: u32 = 3;

/// The last digit rises with every change to what is kept, or to what the state makes of a frame.
const MAGIC: &[u8; 8] = b"MAREYLM1";

/// A log's state at the end of a sealed segment.
#[derive(Debug)]
pub(crate) struct Landmark {
    at: At,
    state: LogState,
}

/// Which segment that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct At {
    segment: u32,
    data_bytes: u64,
    /// Checksum of its index.
    index_crc: u32,
}

const NAMES: [&str; 2] = ["landmark.0", "landmark.1"];

/// Whether that is the name of a landmark.
pub(crate) fn is_landmark(name: &str) -> bool {
    NAMES.contains(&name)
}

/// What stands in the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    at: At,
    files: Files,
    state: KeptState,
}

/// The files of a log's segments, up to one of them: where one of them is gone or of another length, opening is to see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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
        let streams = state.epochs().iter().map(|epoch| epoch.streams.len());
        let is_worth_it = segment >= SEGMENT_FIRST
            && state.epochs().len() <= EPOCHS_MAX
            && streams.sum::<usize>() <= STREAMS_MAX;
        is_worth_it.then(|| Self {
            at: At {
                segment,
                data_bytes,
                index_crc,
            },
            state: state.clone(),
        })
    }

    /// Writes it over the one before the last.
    pub fn write(&self, disk: &dyn Disk, dir: &Path) -> io::Result<()> {
        let written = Written {
            at: self.at,
            files: Files::until(self.at.segment, disk, dir).map_err(io::Error::other)?,
            state: self.state.keep(),
        };
        let json = serde_json::to_vec(&written)?;
        if json.len() > BYTES_MAX || !written.is_complete() {
            return Ok(());
        }
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&crc32(&json).to_le_bytes());
        bytes.extend_from_slice(&json);
        let path = dir.join(NAMES[self.at.segment as usize % NAMES.len()]);
        let file = match disk.open(&path, OpenMode::ReadWrite) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => disk.open(&path, OpenMode::CreateNew)?,
            opened => opened?,
        };
        file.write_at(0, &bytes)?;
        file.set_len(bytes.len() as u64)
    }
}

impl Written {
    fn read(disk: &dyn Disk, path: &Path) -> Option<Self> {
        let bytes = disk::read_all(disk, path, (BYTES_MAX + MAGIC.len() + 4) as u64).ok()?;
        let (crc, json) = bytes.strip_prefix(MAGIC)?.split_first_chunk()?;
        (crc32(json) == u32::from_le_bytes(*crc)).then(|| serde_json::from_slice(json).ok())?
    }

    /// Whether every segment up to its own was there.
    fn is_complete(&self) -> bool {
        self.files.count == u64::from(self.at.segment)
    }

    /// Whether this segment is the one that it was made at.
    fn is_of(&self, summary: &SegmentSummary) -> bool {
        let (Some(data_bytes), Some(index_crc)) = (summary.sealed_bytes, summary.index_crc) else {
            return false;
        };
        let found = At {
            segment: summary.segment,
            data_bytes,
            index_crc,
        };
        found == self.at && summary.header.is_some() && summary.cut_at.is_none_or(|cut| cut == data_bytes)
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
    let found = NAMES.map(|name| Written::read(disk, &dir.join(name)));
    let mut found: Vec<Written> = found.into_iter().flatten().collect();
    found.sort_by_key(|found| std::cmp::Reverse(found.at.segment));
    for found in found {
        if !found.is_complete() || Files::until(found.at.segment, disk, &dir)? != found.files {
            continue;
        }
        let reader = LogReader::open_from(disk, session, device, found.at.segment)?;
        let segments = reader.segments();
        if finished(segments) >= 2
            && found.is_of(&segments[0])
            && let Some(state) = found.state.into_state()
        {
            return Ok(Some((reader, state)));
        }
    }
    Ok(None)
}
