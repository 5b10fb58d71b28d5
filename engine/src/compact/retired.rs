//! Retired logs: what a closed session's device logs held stands in Parquet, was checked sample by sample, and the logs are
//! gone. `retired.json` says so, and is what makes their absence no fault.
//!
//! ```text
//! check     every sample of the logs once in Parquet, every file as the manifest says; nothing that the logs alone have
//! retired.json   written aside, synced, renamed, folder synced: the receipt of what goes
//! logs -> .retired-logs   one rename, synced: from here on the logs are retired
//! .retired-logs removed
//! ```
//!
//! Nothing is deleted before `retired.json` is durable. A crash before the rename leaves a session with its logs, which
//! count as before; one behind it leaves rubbish, which the next opening removes. Where `logs/` stands beside
//! `retired.json`, the logs are there and are checked like any: somebody may have put them back.

use super::annotations::Said;
use super::check::check_session;
use super::manifest::{Manifest, SegmentFact, json, segment_path, text};
use super::survey::hash_file;
use super::{CompactError, covers, read_receipt, survey_all};
use crate::disk::{self, Disk};
use crate::error::StorageError;
use crate::log::FaultKind;
use crate::options::Options;
use crate::session::{Session, SessionState};
use marey_format::frame::Kind;
use marey_format::payload::WallReading;
use marey_format::{DeviceId, SessionId, version};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Name of the file that says that logs were retired.
pub const RETIRED: &str = "retired.json";

/// What retired logs are called until they are removed.
const GOING: &str = ".retired-logs";

/// Longest `retired.json`, in bytes.
const RETIRED_BYTES_MAX: u64 = 256 << 20;

/// What was retired, when, and by which rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Retired {
    pub v: u32,
    pub session: SessionId,
    /// The generation whose Parquet the logs were checked against.
    pub generation: u32,
    /// BLAKE3 of its manifest.
    pub manifest_blake3: String,
    /// When, by the hub's wall clock.
    pub at: WallReading,
    /// Why, for people.
    pub rule: String,
    /// Samples that the logs held, each of which stood in Parquet.
    #[serde(with = "text")]
    pub samples: u64,
    /// Bytes of all segments.
    #[serde(with = "text")]
    pub bytes: u64,
    pub logs: Vec<RetiredLog>,
}

/// One device's log that was retired.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RetiredLog {
    pub device: DeviceId,
    pub segments: Vec<SegmentFact>,
}

/// Why logs were not retired. Nothing was removed.
#[derive(Debug, thiserror::Error)]
pub enum RetireError {
    #[error(
        "session {session} is {state}; only the logs of a closed one can be retired (`marey session close {session}`)"
    )]
    NotClosed { session: SessionId, state: &'static str },
    #[error("session {0} has nothing published; its logs are all there is")]
    Unpublished(SessionId),
    #[error("the logs of session {session} stay: {why}")]
    Kept { session: SessionId, why: String },
    #[error(transparent)]
    Compact(#[from] CompactError),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl Retired {
    /// What says that the logs of a session were retired; none where they are there, or never were retired.
    pub fn read(disk: &dyn Disk, dir: &Path) -> Result<Option<Self>, StorageError> {
        let io = |error| StorageError::io("looking for", disk.describe(&dir.join(RETIRED)), error);
        if disk.stat(&dir.join("logs")).map_err(io)?.is_some() {
            return Ok(None);
        }
        Self::read_file(disk, dir)
    }

    fn read_file(disk: &dyn Disk, dir: &Path) -> Result<Option<Self>, StorageError> {
        let path = dir.join(RETIRED);
        let io = |error| StorageError::io("reading", disk.describe(&path), error);
        if disk.stat(&path).map_err(io)?.is_none() {
            return Ok(None);
        }
        let bytes = disk::read_all(disk, &path, RETIRED_BYTES_MAX).map_err(io)?;
        let retired: Self = serde_json::from_slice(&bytes)
            .map_err(|error| StorageError::damaged(disk.describe(&path), error))?;
        if retired.v != version::SESSION {
            let (found, known) = (retired.v, version::SESSION);
            let what = format!("written by a later version ({found}); this one knows {known}");
            return Err(StorageError::damaged(disk.describe(&path), what));
        }
        Ok(Some(retired))
    }

    /// Segments of all logs.
    pub fn segments(&self) -> usize {
        self.logs.iter().map(|log| log.segments.len()).sum()
    }
}

/// What retiring the logs of a session would remove, after all that it would check. Changes nothing.
pub fn check_retirement(
    disk: &dyn Disk,
    session: &Session,
    options: &Options,
    (at, rule): (WallReading, &str),
) -> Result<Retired, RetireError> {
    let kept = |why: String| RetireError::Kept {
        session: session.id.clone(),
        why,
    };
    if session.state != SessionState::Closed {
        return Err(RetireError::NotClosed {
            session: session.id.clone(),
            state: session.state.as_str(),
        });
    }
    let dir = Session::dir(&session.id);
    let checked = check_session(disk, &session.id, options)?;
    if let Some(fault) = checked.faults.first() {
        return Err(kept(format!("what is published is not whole: {fault}")));
    }
    if let Some(fault) = checked
        .log_faults
        .iter()
        .find(|fault| fault.kind == FaultKind::Damage)
    {
        return Err(kept(format!(
            "they are damaged: {fault}; `marey recover` may get more out of them"
        )));
    }
    let Some(manifest) = Manifest::read(disk, &dir)? else {
        return Err(RetireError::Unpublished(session.id.clone()));
    };
    only_in_logs(disk, session, options, &manifest, &dir)?.map_or(Ok(()), |why| Err(kept(why)))?;
    if checked.samples_later > 0 || checked.samples_in_logs != checked.samples_in_parquet {
        let (logs, parquet) = (checked.samples_in_logs, checked.samples_in_parquet);
        return Err(kept(format!("they hold {logs} samples and Parquet {parquet}")));
    }
    let mut retired = Retired {
        v: version::SESSION,
        session: session.id.clone(),
        generation: manifest.generation,
        manifest_blake3: hash_file(disk, &dir.join(super::manifest::MANIFEST))?,
        at,
        rule: rule.to_owned(),
        samples: checked.samples_in_logs,
        bytes: 0,
        logs: Vec::new(),
    };
    for device in crate::log::devices(disk, &session.id)? {
        let mut segments = Vec::new();
        for (number, path, bytes) in crate::log::segments(disk, &Session::log_dir(&session.id, &device))? {
            retired.bytes += bytes;
            segments.push(SegmentFact {
                path: segment_path(&device, number),
                bytes,
                blake3: Some(hash_file(disk, &path)?),
                cut: None,
            });
        }
        retired.logs.push(RetiredLog { device, segments });
    }
    Ok(retired)
}

/// What of the logs stands nowhere else, if anything does.
fn only_in_logs(
    disk: &dyn Disk,
    session: &Session,
    options: &Options,
    manifest: &Manifest,
    dir: &Path,
) -> Result<Option<String>, RetireError> {
    if let Some(place) = manifest.left_out().next() {
        return Ok(Some(format!("a place of them is not published: {place}")));
    }
    let Some(receipt) = read_receipt(disk, dir, manifest.generation)? else {
        return Ok(Some("the receipt is gone".to_owned()));
    };
    let kept_out: u64 = receipt.kept_out.iter().map(|fact| u64::from(fact.samples)).sum();
    if let Some(first) = receipt.kept_out.first() {
        let (frames, file, why) = (receipt.kept_out.len(), &first.file, &first.why);
        return Ok(Some(format!(
            "{frames} frames with {kept_out} samples stand in them alone, the first in {file}: {why}"
        )));
    }
    let surveys = survey_all(disk, &session.id, options, &|_| {})?;
    for survey in &surveys {
        if let Some((kind, frames)) = survey.untold.first_key_value() {
            let what = match Kind(*kind) {
                Kind::EVENT => "events with keys that no table has".to_owned(),
                _ => format!("frames of the kind {kind:#04x}, which this version does not know,"),
            };
            let device = &survey.device;
            return Ok(Some(format!(
                "{frames} {what} stand in them alone, from {device}"
            )));
        }
    }
    let all = covers(manifest, &surveys, &Said::read(disk, &session.id)?);
    let lacks = "frames or annotations came since the newest generation; `marey compact` first";
    Ok((!all).then(|| lacks.to_owned()))
}

/// Checks a closed session's Parquet against its logs, and removes the logs. Long: it reads all of both. Returns what was
/// removed; of logs that were retired before, what was said then.
///
/// # Errors
/// [`RetireError`]: whatever stands between is the reason, and nothing was removed.
pub fn retire(
    disk: &dyn Disk,
    session: &Session,
    options: &Options,
    why: (WallReading, &str),
) -> Result<Retired, RetireError> {
    let dir = Session::dir(&session.id);
    recover_retirement(disk, &session.id)?;
    if let Some(retired) = Retired::read(disk, &dir)? {
        return Ok(retired);
    }
    let retired = check_retirement(disk, session, options, why)?;
    let path = dir.join(RETIRED);
    let io = |error| StorageError::io("writing", disk.describe(&path), error);
    disk::replace(disk, &path, &json(&retired)).map_err(io)?;
    // From here on it is for good. With `logs/` beside it, what was just written says nothing.
    if hash_file(disk, &dir.join(super::manifest::MANIFEST))? != retired.manifest_blake3 {
        return Err(RetireError::Kept {
            session: session.id.clone(),
            why: "another generation was published meanwhile; try again".to_owned(),
        });
    }
    let logs = dir.join("logs");
    let io = |error| StorageError::io("retiring", disk.describe(&logs), error);
    disk.rename(&logs, &dir.join(GOING)).map_err(io)?;
    disk.sync_dir(&dir).map_err(io)?;
    recover_retirement(disk, &session.id)?;
    Ok(retired)
}

/// Removes what a retirement that was cut short left to be removed. Logs that were put aside without a word that says what
/// they were get their name back.
pub fn recover_retirement(disk: &dyn Disk, session: &SessionId) -> Result<(), StorageError> {
    let dir = Session::dir(session);
    let going = dir.join(GOING);
    let io = |error| StorageError::io("tidying", disk.describe(&going), error);
    if disk.stat(&going).map_err(io)?.is_none() {
        return Ok(());
    }
    // A rename that can be seen need not be durable: what is removed must be gone from its old name for good.
    disk.sync_dir(&dir).map_err(io)?;
    let is_told = matches!(Retired::read_file(disk, &dir), Ok(Some(retired)) if retired.session == *session);
    let logs = dir.join("logs");
    match is_told {
        true => disk.remove_dir_all(&going).map_err(io)?,
        false if disk.stat(&logs).map_err(io)?.is_none() => disk.rename(&going, &logs).map_err(io)?,
        false => {
            let what = "logs that were put aside stand beside others, and nothing says what they are; move them away";
            return Err(StorageError::damaged(disk.describe(&going), what));
        }
    }
    disk.sync_dir(&dir).map_err(io)
}
