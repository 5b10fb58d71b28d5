//! What of a stream comes from Parquet, and what from the log.

use super::ReadError;
use super::snapshot::Snapshot;
use crate::compact::{
    DeviceSurvey, FrameEntry, LogFact, Manifest, Timeline, Tolerant, segment_path, survey_all,
    survey_readable,
};
use crate::disk::Disk;
use crate::error::StorageError;
use crate::log;
use crate::options::Options;
use crate::session::Session;
use marey_format::frame::Lane;
use marey_format::payload::StreamKey;
use marey_format::{DeviceId, SessionId};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

/// A reading of one stream of one device.
#[derive(Debug)]
pub struct ReadPlan {
    /// In order of time.
    pub parts: Vec<PathBuf>,
    /// Frames that no part holds; none where there is none.
    pub later: Option<Later>,
}

/// What the log has beyond the parts.
#[derive(Debug)]
pub struct Later {
    pub survey: DeviceSurvey,
    pub key: StreamKey,
    pub timeline: Arc<Timeline>,
    /// What went into parts; nothing where there are none.
    log: Option<LogFact>,
    /// Nor did those in these ranges, by segment: the disk could not read them.
    left_out: Vec<(u32, u64, u64)>,
}

impl Later {
    /// Whether a frame is in no part.
    pub fn lacks(&self, frame: &FrameEntry) -> bool {
        let is_in = |&(segment, from, to): &(u32, u64, u64)| {
            segment == frame.segment && u64::from(frame.offset) < to && frame.end_offset() > from
        };
        let Some(log) = &self.log else { return true };
        log.lacks(frame.place(), frame.epoch, Lane::Data, frame.sequence) || self.left_out.iter().any(is_in)
    }
}

/// Plans a reading.
pub fn plan(
    disk: &dyn Disk,
    session: &Session,
    snapshot: &Snapshot,
    key: &StreamKey,
    device: &DeviceId,
    options: &Options,
) -> Result<ReadPlan, ReadError> {
    let manifest = snapshot.manifest.as_ref();
    let parts = manifest.map_or(&[][..], |manifest| manifest.parts(key, device));
    let parts: Vec<PathBuf> = parts.iter().map(|part| snapshot.dir.join(&part.path)).collect();
    // A stream that was declared and never sampled has no part: its columns are in the log.
    if let Some(manifest) = manifest
        && !parts.is_empty()
        && all_in(disk, &session.id, manifest, device)?
    {
        return Ok(ReadPlan { parts, later: None });
    }
    let Some(anchor) = session.anchor else {
        return Ok(ReadPlan { parts, later: None });
    };
    // All devices take part in the alignment: a hub that was restarted is tied together by all of them.
    let surveys = surveys(disk, &session.id, manifest, options)?;
    let timeline = Arc::new(Timeline::new(&anchor, &surveys, session.max_drift_ppm));
    let survey = surveys.into_iter().find(|survey| survey.device == *device);
    let log = manifest.and_then(|manifest| manifest.log(device));
    let left_out = log.into_iter().flat_map(|log| &log.left_out).filter_map(|place| {
        let segment = log::segment_number(place.path.rsplit('/').next()?)?;
        Some((segment, place.offset, place.offset.saturating_add(place.bytes)))
    });
    let left_out: Vec<_> = left_out.collect();
    let later = survey
        .filter(|survey| survey.streams.contains_key(key))
        .map(|survey| Later {
            survey,
            key: key.clone(),
            timeline,
            log: log.cloned(),
            left_out,
        });
    Ok(ReadPlan { parts, later })
}

/// Every stream of every device.
pub fn streams(
    disk: &dyn Disk,
    session: &Session,
    snapshot: &Snapshot,
    options: &Options,
) -> Result<Vec<(StreamKey, DeviceId)>, ReadError> {
    let mut streams = BTreeSet::new();
    let mut whole = snapshot.manifest.is_some();
    if let Some(manifest) = &snapshot.manifest {
        streams.extend(
            manifest
                .streams
                .iter()
                .filter_map(|stream| Some((stream.key()?, stream.device.clone()))),
        );
        for device in log::devices(disk, &session.id)? {
            whole &= all_in(disk, &session.id, manifest, &device)?;
        }
    }
    if !whole {
        for survey in surveys(disk, &session.id, snapshot.manifest.as_ref(), options)? {
            streams.extend(
                survey
                    .streams
                    .keys()
                    .map(|key| (key.clone(), survey.device.clone())),
            );
        }
    }
    Ok(streams.into_iter().collect())
}

/// Surveys of all logs. What the manifest names as unreadable is taken as soon as it can be read, and until then it is
/// missing here as it is in the parts; anything else that can't be read is an error.
fn surveys(
    disk: &dyn Disk,
    session: &SessionId,
    manifest: Option<&Manifest>,
    options: &Options,
) -> Result<Vec<DeviceSurvey>, ReadError> {
    let Some(manifest) = manifest.filter(|manifest| manifest.left_out().next().is_some()) else {
        return Ok(survey_all(disk, session, options, &|_| {})?);
    };
    let surveys = survey_readable(&Tolerant::new(disk), session, options, &|_| {})?;
    for survey in &surveys {
        for place in &survey.unreadable {
            let (path, hole) = (segment_path(&survey.device, place.segment), &place.hole);
            let is_named = manifest.left_out().any(|named| {
                named.path == path
                    && named.offset <= hole.offset
                    && hole.offset + hole.bytes <= named.offset.saturating_add(named.bytes)
            });
            if !is_named {
                let path = disk.describe(&Session::dir(session).join(path));
                let what = format!(
                    "at offset {}: {}; see `marey info {session}`",
                    hole.offset, hole.why
                );
                return Err(StorageError::io("reading", path, std::io::Error::other(what)).into());
            }
        }
    }
    Ok(surveys)
}

/// Whether the log holds nothing that the manifest does not tell of: its segments are those, at those lengths.
fn all_in(
    disk: &dyn Disk,
    session: &SessionId,
    manifest: &Manifest,
    device: &DeviceId,
) -> Result<bool, StorageError> {
    let found = log::segments(disk, &Session::log_dir(session, device))?;
    let Some(log) = manifest.log(device) else {
        return Ok(found.is_empty());
    };
    if !log.left_out.is_empty() {
        return Ok(false);
    }
    let named = |(_, path, bytes): &(u32, PathBuf, u64)| {
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        log.segments
            .iter()
            .any(|segment| segment.path.ends_with(&name) && segment.bytes == *bytes)
    };
    Ok(found.len() == log.segments.len() && found.iter().all(named))
}
