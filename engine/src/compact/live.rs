//! Rolling parts: Parquet of a session that is still being recorded, under `live/`, in the same layout: the streams, and
//! the events so far.
//!
//! They are for looking at, and for readers that would otherwise read the whole log. They are written anew each time,
//! with the clocks as they are known by then, and are gone once the session is sealed; nothing of the sealed Parquet
//! comes from them.

use super::annotations::Said;
use super::manifest::{MANIFEST, Manifest};
use super::timeline::Timeline;
use super::{CompactError, Progress, Tolerant, Witness, generation, survey_readable};
use crate::disk::{self, Disk};
use crate::error::StorageError;
use crate::options::Options;
use crate::session::{Session, SessionState};
use std::path::Path;
use std::sync::Arc;

/// Where they stand, below the session's folder.
pub const LIVE: &str = "live";

const ASIDE: &str = ".tmp-live";

/// Writes the rolling parts anew from what is in the logs by now. Does nothing before the start and after the seal.
pub fn roll(
    disk: &dyn Disk,
    session: &Session,
    options: &Options,
    progress: &dyn Fn(Progress),
) -> Result<Option<Manifest>, CompactError> {
    let Some(anchor) = session.anchor else {
        return Ok(None);
    };
    if !matches!(session.state, SessionState::Recording | SessionState::Stopping) {
        return Ok(None);
    }
    let dir = Session::dir(&session.id);
    let (aside, live) = (dir.join(ASIDE), dir.join(LIVE));
    let io = |error| StorageError::io("rolling", disk.describe(&live), error);
    remove(disk, &aside).map_err(io)?;
    disk::create_dirs(disk, &aside.join("streams")).map_err(io)?;

    let tolerant = Tolerant::new(disk);
    let surveys = survey_readable(&tolerant, &session.id, options, progress)?;
    super::reserve_room(disk, &surveys, options)?;
    let timeline = Arc::new(Timeline::new(&anchor, &surveys, session.max_drift_ppm));
    let job = generation::Job {
        disk: &tolerant,
        session,
        witness: &Witness::default(),
        anchor: &anchor,
        surveys: &surveys,
        said: &Said::read(disk, &session.id)?,
        timeline: &timeline,
        options,
        generation: 0,
        before: None,
        same_frames: false,
    };
    let manifest = job.write_live(&aside, progress)?;
    disk::replace(disk, &aside.join(MANIFEST), &manifest.to_bytes()).map_err(io)?;
    if disk.stat(&live).map_err(io)?.is_some() {
        disk.exchange(&aside, &live).map_err(io)?;
        disk.sync_dir(&dir).map_err(io)?;
        remove(disk, &aside).map_err(io)?;
    } else {
        disk.rename(&aside, &live).map_err(io)?;
    }
    disk.sync_dir(&dir).map_err(io)?;
    Ok(Some(manifest))
}

fn remove(disk: &dyn Disk, dir: &Path) -> std::io::Result<()> {
    if disk.stat(dir)?.is_some() {
        disk.remove_dir_all(dir)
    } else {
        Ok(())
    }
}
