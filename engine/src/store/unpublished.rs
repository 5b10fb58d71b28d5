//! What a hub that was just opened finds in a session and not in its newest generation: it ended before it made the next one.

use super::Store;
use crate::annotation::ANNOTATIONS;
use crate::compact::{Manifest, Place, Retired};
use crate::error::StorageError;
use crate::log::{SegmentSummary, devices, segments};
use crate::session::Session;
use marey_format::SessionId;
use marey_format::frame::Lane;
use marey_format::log::IndexEntry;

impl Store {
    /// Whether the logs of a sealed session hold frames of devices that its newest generation was not made of: they came
    /// late, and the hub ended before it made the next one.
    pub(super) fn has_unpublished(
        &self,
        id: &SessionId,
        manifest: Option<&Manifest>,
    ) -> Result<bool, StorageError> {
        for device in devices(&*self.disk, id)? {
            let log = manifest.and_then(|manifest| manifest.log(&device));
            let from = log.map_or(0, |log| log.compacted.segment);
            for (number, path, bytes) in segments(&*self.disk, &Session::log_dir(id, &device))? {
                if number < from {
                    continue;
                }
                let summary = match SegmentSummary::read(&*self.disk, number, &path, bytes, (&device, id)) {
                    Ok(summary) => summary,
                    Err(StorageError::Damaged { .. }) => continue,
                    Err(error) => return Err(error),
                };
                let is_late = |entry: &IndexEntry| {
                    let place = Place {
                        segment: number,
                        offset: u64::from(entry.offset),
                    };
                    log.is_none_or(|log| log.lacks(place, entry.epoch, entry.lane, entry.sequence))
                };
                // Where there is no index only compaction can tell; it makes nothing of what is not new.
                let late = summary.index.is_none_or(|index| {
                    index
                        .entries()
                        .any(|entry| entry.lane != Lane::Hub && is_late(&entry))
                });
                if late {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Whether somebody said something that the newest generation was not made of. Of a session whose logs were retired no
    /// generation can be made.
    pub(super) fn has_unpublished_annotations(
        &self,
        id: &SessionId,
        manifest: Option<&Manifest>,
    ) -> Result<bool, StorageError> {
        let path = Session::dir(id).join(ANNOTATIONS);
        let io = |error| StorageError::io("looking for", self.disk.describe(&path), error);
        let Some(stat) = self.disk.stat(&path).map_err(io)? else {
            return Ok(false);
        };
        let published = manifest.and_then(|manifest| manifest.annotations.as_ref());
        let published = published.map_or(0, |fact| fact.hashes.bytes);
        if stat.bytes <= published {
            return Ok(false);
        }
        match Retired::read(&*self.disk, &Session::dir(id)) {
            Ok(retired) => Ok(retired.is_none()),
            // One session's damage keeps no hub from starting; `verify` names it.
            Err(StorageError::Damaged { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
