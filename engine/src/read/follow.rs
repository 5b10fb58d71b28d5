//! What comes into a session's logs while somebody looks on: the rows of frames that came since the last look.
//!
//! Owns which frames were given already. Each look goes through the logs once, as every reading of a session that is being
//! recorded does, and gives what is new in them, placed in time by the clocks as they are known by then. What waits
//! for its log in a hub's memory is not seen: flush it first.
//!
//! Invariants: a frame is given once. Rows of one look and stream are in order; frames that come late give earlier times in a
//! later look.

use super::log_scan::LogScan;
use super::{ReadError, Reader};
use crate::compact::{LogFact, Timeline, survey_all};
use crate::disk::Disk;
use crate::options::Options;
use crate::session::Session;
use marey_format::frame::Lane;
use marey_format::payload::StreamKey;
use marey_format::{DeviceId, SessionId};
use std::sync::Arc;

/// Somebody who looks on.
#[derive(Debug)]
pub struct Follow {
    /// What was given, of each log.
    given: Vec<LogFact>,
}

/// The rows of a stream of a device that came since the last look.
#[derive(Debug)]
pub struct Came<'d> {
    pub stream: StreamKey,
    pub device: DeviceId,
    pub rows: Reader<'d>,
}

impl Follow {
    /// Begins here: what the logs hold by now is not given.
    ///
    /// # Errors
    /// If they can't be read.
    pub fn begin(disk: &dyn Disk, session: &SessionId, options: &Options) -> Result<Self, ReadError> {
        let surveys = survey_all(disk, session, options, &|_| {})?;
        let given = surveys.iter().map(LogFact::of).collect();
        Ok(Self { given })
    }

    /// What came since, of the streams that are wanted. Nothing before the session's start, which its times rest on.
    ///
    /// # Errors
    /// If the logs can't be read; the next look gives what this one did not.
    pub fn look<'d>(
        &mut self,
        disk: &'d dyn Disk,
        session: &Session,
        options: &Options,
        wanted: &dyn Fn(&StreamKey, &DeviceId) -> bool,
    ) -> Result<Vec<Came<'d>>, ReadError> {
        let Some(anchor) = session.anchor else {
            return Ok(Vec::new());
        };
        let surveys = survey_all(disk, &session.id, options, &|_| {})?;
        let timeline = Arc::new(Timeline::new(&anchor, &surveys, session.max_drift_ppm));
        let mut came = Vec::new();
        for survey in &surveys {
            let given = self.given.iter().find(|log| log.device == survey.device);
            for (key, plan) in &survey.streams {
                if !wanted(key, &survey.device) {
                    continue;
                }
                let is_new = |frame: &crate::compact::FrameEntry| {
                    given.is_none_or(|log| log.lacks(frame.place(), frame.epoch, Lane::Data, frame.sequence))
                };
                if !plan.frames.iter().any(is_new) {
                    continue;
                }
                let rows = LogScan::of(disk, &session.id, (survey, key), &is_new, timeline.clone())?;
                came.push(Came {
                    stream: key.clone(),
                    device: survey.device.clone(),
                    rows: Reader {
                        schema: rows.schema(),
                        rows: Box::new(rows),
                        failed: false,
                    },
                });
            }
        }
        self.given = surveys.iter().map(LogFact::of).collect();
        Ok(came)
    }
}
