//! What of a stream comes from Parquet, and what from the log.

use super::ReadError;
use super::snapshot::Snapshot;
use crate::compact::{DeviceSurvey, Manifest, Timeline, survey_all};
use crate::disk::Disk;
use crate::error::StorageError;
use crate::log;
use crate::options::Options;
use crate::session::Session;
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
    /// Frames from here on are not in a part.
    pub from: crate::compact::Place,
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
    if let Some(manifest) = manifest
        && all_in(disk, &session.id, manifest, device)?
    {
        return Ok(ReadPlan { parts, later: None });
    }
    let Some(anchor) = session.anchor else {
        return Ok(ReadPlan { parts, later: None });
    };
    // All devices take part in the alignment: a hub that was restarted is tied together by all of them.
    let surveys = survey_all(disk, &session.id, options, &|_| {})?;
    let timeline = Arc::new(Timeline::new(&anchor, &surveys, session.max_drift_ppm));
    let survey = surveys.into_iter().find(|survey| survey.device == *device);
    let from = manifest
        .and_then(|manifest| manifest.log(device))
        .map(|log| log.compacted)
        .unwrap_or_default();
    let later = survey
        .filter(|survey| survey.streams.contains_key(key))
        .map(|survey| Later {
            survey,
            key: key.clone(),
            timeline,
            from,
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
        for survey in survey_all(disk, &session.id, options, &|_| {})? {
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
