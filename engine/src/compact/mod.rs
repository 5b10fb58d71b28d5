//! Compaction: logs in, Parquet out, with a manifest and a receipt.
//!
//! ```text
//! unreadable what the disk fails to read is kept apart, and named
//! survey    one pass over each log: frames by place, clock evidence, events, ends   -> frames
//! timeline  all clocks of the session on one time                                   -> evidence
//! runs      the rows of one stream in order of (time, epoch, seq)                   -> source, columns
//! parquet   one encoder for each file                                               -> encodings, metadata, files
//! overview  what streams come to in buckets of time
//! annotations   what people said by then
//! tables    events, gaps, channels, clock evidence, clock maps                      -> gaps
//! maps      reads the last two back
//! taken_over   what of the generation before stays, where only annotations are new
//! manifest, receipt, signature, publish
//! why       one sample, back to row, frame, map and evidence                         -> survey, timeline
//! check, chain     what is published, held against itself and the logs                -> runs
//! ```
//!
//! The same logs, read by the same version, give the same bytes: whatever the number of threads, whenever it ran, and
//! however often it was killed on the way. Nothing here reads a clock. What it writes it first writes aside; nothing
//! that was published goes before its successor is durable under its name.

mod annotations;
mod chain;
mod check;
mod columns;
mod encode;
mod encodings;
mod evidence;
mod files;
mod frames;
mod gaps;
mod generation;
mod left_out;
mod live;
mod manifest;
mod maps;
mod metadata;
mod overview;
mod parquet;
mod publish;
mod receipt;
mod retired;
mod runs;
mod signature;
mod source;
mod survey;
mod tables;
mod taken_over;
mod timeline;
mod unreadable;
mod why;

#[cfg(test)]
pub(crate) mod tests;

pub use chain::{Judge, ReceiptChecked, SignedReceipt, check_receipt};
pub use check::{CheckFault, Checked, check_session, check_session_by};
pub use frames::Place;
pub use gaps::{Gap, NO_ROOM, gaps};
pub use live::roll;
pub use manifest::{
    ALIGNMENT_VERSION, AnnotationsFact, HashFact, HubEpochFact, LeftOutFact, LogFact, Manifest, PartFact,
    SegmentFact, StreamFact, TableFact, TakenFact,
};
pub use maps::{PublishedMap, PublishedProbe, check_clock_tables, earlier_map, read_map, read_probes};
pub use overview::OVERVIEW;
pub use receipt::{
    AuditFact, CauseFact, DamageFact, GapFact, KeptOutFact, LostFrame, NoteFact, Receipt, StreamReceipt,
    TimeFact, UnreadableFact,
};

pub use signature::{
    PreviousFact, ReceiptSigner, SignerFact, SigningKey, Witness, certificate_name, number_of,
    numbers as receipt_numbers, signature_name,
};

pub use retired::{RetireError, Retired, RetiredLog, check_retirement, recover_retirement, retire};

pub use survey::CutFact;

pub use why::{BindingFact, BoundFact, FramePlace, PieceFact, RowPlace, SampleFact, Why, why};

pub use marey_format::types::rfc3339;

pub(crate) use columns::BatchBuilder;
pub(crate) use files::FileChunks;
pub(crate) use frames::FrameEntry;
pub(crate) use manifest::segment_path;
pub(crate) use metadata::stream_schema;
pub(crate) use runs::RowMerge;
pub(crate) use source::FrameSource;
pub(crate) use survey::{DeviceSurvey, hash_file};
pub(crate) use timeline::Timeline;
pub(crate) use unreadable::Tolerant;

use crate::annotation::ANNOTATIONS;
use crate::disk::Disk;
use crate::error::StorageError;
use crate::options::Options;
use crate::parallel;
use crate::session::Session;
use ::parquet::errors::ParquetError;
use annotations::Said;
use marey_format::frame::FrameError;
use marey_format::payload::WallReading;
use marey_format::{DeviceId, SessionId};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Whether a generation is written where the logs hold nothing that the newest one lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// Only if device frames or annotations came since.
    IfNew,
    /// In any case: the clocks are aligned anew, and what was published is made again, also where its manifest can't be read
    /// any more.
    Always,
}

/// How far compaction has come: `done` of `of` in a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub phase: Phase,
    pub done: usize,
    pub of: usize,
}

/// What compaction is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Reading logs; counts devices.
    Reading,
    /// Writing Parquet; counts streams of devices.
    Writing,
    /// Putting the generation in place; one step.
    Publishing,
}

/// The newest generation of a session.
#[derive(Clone, Debug)]
pub struct Compacted {
    pub generation: u32,
    /// Whether this call made it.
    pub new: bool,
    pub manifest: Manifest,
    pub receipt: Receipt,
}

impl Compacted {
    /// Every Parquet file below `streams/`.
    pub fn parts(&self) -> impl Iterator<Item = &PartFact> {
        self.manifest.streams.iter().flat_map(|stream| &stream.parts)
    }

    /// Up to where each device's log went in.
    pub fn positions(&self) -> impl Iterator<Item = (&DeviceId, Place)> {
        self.manifest.logs.iter().map(|log| (&log.device, log.compacted))
    }

    /// Whether every number is known and nothing is missing.
    pub fn complete(&self) -> bool {
        self.receipt.complete
    }

    /// Devices that have not stated their totals.
    pub fn owing(&self) -> &[DeviceId] {
        &self.receipt.owing
    }

    /// Places of the logs that the disk could not read. What stands there is not in Parquet; the next compaction tries
    /// again.
    pub fn unreadable(&self) -> &[UnreadableFact] {
        &self.receipt.unreadable
    }

    /// Rows in Parquet, of all streams.
    pub fn rows(&self) -> u64 {
        self.manifest.streams.iter().map(|stream| stream.rows).sum()
    }
}

/// Why a session was not compacted. What was published before is as it was.
#[derive(Debug, thiserror::Error)]
pub enum CompactError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("session {0} was never started, so nothing ties its times to UTC; start it first")]
    NotStarted(SessionId),
    #[error(
        "the logs of session {0} were retired, so nothing can be made of them again; a backup from before has them \
         (`marey restore`)"
    )]
    Retired(SessionId),
    #[error(
        "the log of {device} holds {found} device frames, generation {generation} was made of {expected}; \
         what was published stays; run `marey verify` to see what is damaged"
    )]
    LogShrank {
        device: DeviceId,
        generation: u32,
        expected: u64,
        found: u64,
    },
    #[error(
        "{path} can't be read at offset {offset} ({why}), and generation {generation}, which was made when it could, has \
         more of {device} than can be read now; it stays; compact again when the disk can be read"
    )]
    Unreadable {
        path: PathBuf,
        offset: u64,
        why: String,
        device: DeviceId,
        generation: u32,
    },
    #[error(
        "{path} does not begin any more with the {lines} annotations that generation {generation} was made of; what was \
         published stays; run `marey verify` to see what is damaged"
    )]
    AnnotationsChanged {
        path: PathBuf,
        lines: u64,
        generation: u32,
    },
    #[error(
        "Parquet would take up to {needed_bytes} bytes and {floor_bytes} are kept for the intake, of {free_bytes} \
         that are free; make room and compact again"
    )]
    NoRoom {
        needed_bytes: u64,
        free_bytes: u64,
        floor_bytes: u64,
    },
    #[error("{path}: {what}")]
    Parquet { path: PathBuf, what: String },
    #[error("{of}: {what}")]
    Encoding { of: String, what: String },
    #[error("a frame that was read before can't be decoded any more: {0}")]
    Frame(#[from] FrameError),
}

impl CompactError {
    fn parquet(disk: &dyn Disk, path: &Path, error: ParquetError) -> Self {
        let path = disk.describe(path);
        match error {
            ParquetError::External(source) => match source.downcast::<io::Error>() {
                Ok(error) => StorageError::io("writing", path, *error).into(),
                Err(source) => Self::Parquet {
                    path,
                    what: source.to_string(),
                },
            },
            error => Self::Parquet {
                path,
                what: error.to_string(),
            },
        }
    }

    fn encoding(of: String, error: &dyn std::error::Error) -> Self {
        Self::Encoding {
            of,
            what: error.to_string(),
        }
    }
}

/// Writes and publishes a generation of a session's Parquet, manifest and receipt. Its logs should be sealed; frames that
/// come meanwhile are for the generation after.
///
/// Where the disk fails to read a place of a log, the frames there are left out, and manifest and receipt name the place;
/// everything else is published. A later call that can read it makes the next generation.
///
/// # Errors
/// Whatever is published is whole: after an error, or a kill, it is what it was, or the new generation.
pub fn compact_session(
    disk: &dyn Disk,
    session: &Session,
    options: &Options,
    how: Generation,
    progress: &dyn Fn(Progress),
) -> Result<Compacted, CompactError> {
    compact_witnessed(disk, session, &Witness::default(), options, how, progress)
}

/// [`compact_session`], with a receipt that a hub adds to, and signs.
pub fn compact_witnessed(
    disk: &dyn Disk,
    session: &Session,
    witness: &Witness<'_>,
    options: &Options,
    how: Generation,
    progress: &dyn Fn(Progress),
) -> Result<Compacted, CompactError> {
    let dir = Session::dir(&session.id);
    publish::recover(disk, &dir)?;
    if Retired::read(disk, &dir)?.is_some() {
        return Err(CompactError::Retired(session.id.clone()));
    }
    let anchor = session
        .anchor
        .ok_or_else(|| CompactError::NotStarted(session.id.clone()))?;
    let said = Said::read(disk, &session.id)?;
    let tolerant = Tolerant::new(disk);
    let mut tries = 1;
    loop {
        let surveys = survey_readable(&tolerant, &session.id, options, progress)?;
        let failures = tolerant.count();
        survey::sync_ends(disk, &session.id, &surveys)?;
        let task = Task {
            disk: &tolerant,
            session,
            witness,
            anchor: &anchor,
            surveys: &surveys,
            said: &said,
            options,
            dir: &dir,
        };
        match task.compact(how, progress) {
            // What the survey read can be read no more: without that, once again.
            Err(_) if tolerant.count() > failures && tries < READINGS_MAX => tries += 1,
            done => return done,
        }
    }
}

/// Readings of a session whose disk fails more while it is read.
const READINGS_MAX: u32 = 4;

/// A session whose logs were surveyed.
struct Task<'a> {
    disk: &'a dyn Disk,
    session: &'a Session,
    witness: &'a Witness<'a>,
    anchor: &'a WallReading,
    surveys: &'a [DeviceSurvey],
    said: &'a Said,
    options: &'a Options,
    dir: &'a Path,
}

impl Task<'_> {
    fn compact(&self, how: Generation, progress: &dyn Fn(Progress)) -> Result<Compacted, CompactError> {
        let Self {
            disk,
            session,
            witness,
            anchor,
            surveys,
            said,
            options,
            dir,
        } = *self;
        let before = match Manifest::read(disk, dir) {
            Err(StorageError::Damaged { .. }) if how == Generation::Always => None,
            read => read?,
        };
        if let Some(manifest) = &before {
            held_by(disk, manifest, session, surveys)?;
            self.still_said(manifest)?;
            if how == Generation::IfNew
                && covers(manifest, surveys, said)
                && let Some(receipt) = read_receipt(disk, dir, manifest.generation)?
            {
                let generation = manifest.generation;
                return Ok(Compacted {
                    generation,
                    new: false,
                    manifest: manifest.clone(),
                    receipt,
                });
            }
        }
        reserve_room(disk, surveys, options)?;
        let (threads, max_drift_ppm) = (options.compaction_threads, session.max_drift_ppm);
        let timeline = Arc::new(Timeline::on_threads(threads, anchor, surveys, max_drift_ppm));
        // A receipt that stands is never written again, also where manifest and session fell behind it.
        let receipts = signature::numbers(disk, dir)?;
        let number = before
            .as_ref()
            .map_or(0, |manifest| manifest.generation)
            .max(session.generation)
            .max(receipts.last().copied().unwrap_or(0))
            + 1;
        let aside = publish::Aside::new(dir, number);
        aside.create(disk)?;
        let job = generation::Job {
            disk,
            session,
            witness,
            anchor,
            surveys,
            said,
            timeline: &timeline,
            options,
            generation: number,
            before: before.as_ref(),
            same_frames: how == Generation::IfNew
                && before
                    .as_ref()
                    .is_some_and(|manifest| covers_frames(manifest, surveys)),
        };
        let written = job.write(dir, &aside, progress);
        if written.is_err() {
            // It takes room that others may need. If it can't go now, it goes before the next one is begun.
            publish::discard(disk, dir).ok();
        }
        let (manifest, receipt, plan) = written?;
        progress(Progress {
            phase: Phase::Publishing,
            done: 0,
            of: 1,
        });
        publish::publish(disk, dir, &plan)?;
        progress(Progress {
            phase: Phase::Publishing,
            done: 1,
            of: 1,
        });
        Ok(Compacted {
            generation: number,
            new: true,
            manifest,
            receipt,
        })
    }

    /// Annotations are only ever added: what was published with some is not replaced by less.
    fn still_said(&self, manifest: &Manifest) -> Result<(), CompactError> {
        match &manifest.annotations {
            Some(fact) if !self.said.begins_with(fact) => Err(CompactError::AnnotationsChanged {
                path: self.disk.describe(&self.dir.join(ANNOTATIONS)),
                lines: fact.lines,
                generation: manifest.generation,
            }),
            _ => Ok(()),
        }
    }
}

/// Finishes or undoes a publication that a crash cut short.
pub fn recover_publish(disk: &dyn Disk, session: &Session) -> Result<(), StorageError> {
    publish::recover(disk, &Session::dir(&session.id))
}

/// An error where what a publication that was cut off has to finish can't be finished. Changes nothing.
pub fn check_plan(disk: &dyn Disk, session: &SessionId) -> Result<(), StorageError> {
    publish::check_plan(disk, &Session::dir(session))
}

/// Removes the directories of earlier generations, which stay aside for those who still read them.
pub fn remove_old(disk: &dyn Disk, session: &SessionId) -> Result<(), StorageError> {
    publish::remove_old(disk, &Session::dir(session))
}

/// The receipt of a generation; none if there is none.
pub fn read_receipt(
    disk: &dyn Disk,
    session_dir: &Path,
    generation: u32,
) -> Result<Option<Receipt>, StorageError> {
    let path = session_dir.join(Receipt::name(generation));
    let io = |error| StorageError::io("reading", disk.describe(&path), error);
    if disk.stat(&path).map_err(io)?.is_none() {
        return Ok(None);
    }
    let bytes = signature::read(disk, &path)?;
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| StorageError::damaged(disk.describe(&path), error))
}

/// Surveys of all logs of a session, in order of the devices' names.
///
/// # Errors
/// Also where a single block can't be read.
pub(crate) fn survey_all(
    disk: &dyn Disk,
    session: &SessionId,
    options: &Options,
    progress: &dyn Fn(Progress),
) -> Result<Vec<DeviceSurvey>, CompactError> {
    each_log(disk, session, options, progress, |device| {
        survey::survey(disk, session, device)
    })
}

/// The same, of what can be read: each survey names what can't.
pub(crate) fn survey_readable(
    disk: &Tolerant<'_>,
    session: &SessionId,
    options: &Options,
    progress: &dyn Fn(Progress),
) -> Result<Vec<DeviceSurvey>, CompactError> {
    each_log(disk, session, options, progress, |device| {
        survey::survey_readable(disk, session, device)
    })
}

fn each_log(
    disk: &dyn Disk,
    session: &SessionId,
    options: &Options,
    progress: &dyn Fn(Progress),
    survey: impl Fn(&DeviceId) -> Result<DeviceSurvey, CompactError> + Sync,
) -> Result<Vec<DeviceSurvey>, CompactError> {
    let devices = crate::log::devices(disk, session)?;
    let of = devices.len();
    let done = |done| {
        progress(Progress {
            phase: Phase::Reading,
            done,
            of,
        })
    };
    parallel::map(options.compaction_threads, &devices, survey, done)
}

/// Whether a generation was made of all device frames that there are, of all that can be read, and of all that was said.
fn covers(manifest: &Manifest, surveys: &[DeviceSurvey], said: &Said) -> bool {
    manifest.annotations == said.fact && covers_frames(manifest, surveys)
}

fn covers_frames(manifest: &Manifest, surveys: &[DeviceSurvey]) -> bool {
    surveys.iter().all(|survey| match manifest.log(&survey.device) {
        Some(log) => {
            let left_out = LogFact::of(survey).left_out;
            [log.data_frames, log.live_frames] == survey.frames
                && log.left_out.iter().all(|place| left_out.contains(place))
        }
        None => survey.frames == [0, 0],
    })
}

/// Logs only grow. One that shrank is damaged, or can't be read, and nothing that was published may be replaced by less.
fn held_by(
    disk: &dyn Disk,
    manifest: &Manifest,
    session: &Session,
    surveys: &[DeviceSurvey],
) -> Result<(), CompactError> {
    for log in &manifest.logs {
        let survey = surveys.iter().find(|survey| survey.device == log.device);
        let found = survey.map_or(0, |survey| survey.frames.iter().sum());
        let expected = log.data_frames + log.live_frames;
        if found >= expected {
            continue;
        }
        let (device, generation) = (log.device.clone(), manifest.generation);
        return Err(match survey.and_then(|survey| survey.unreadable.first()) {
            Some(place) => {
                let name = crate::log::segment_name(place.segment);
                CompactError::Unreadable {
                    path: disk.describe(&Session::log_dir(&session.id, &device).join(name)),
                    offset: place.hole.offset,
                    why: place.hole.why.clone(),
                    device,
                    generation,
                }
            }
            None => CompactError::LogShrank {
                device,
                generation,
                expected,
                found,
            },
        });
    }
    Ok(())
}

/// Values take about their bytes in the log before they are encoded, and less after.
fn reserve_room(disk: &dyn Disk, surveys: &[DeviceSurvey], options: &Options) -> Result<(), CompactError> {
    let io = |error| StorageError::io("asking for the room of", disk.describe(Path::new("")), error);
    let floor_bytes = files::floor(disk, options).map_err(io)?;
    let free_bytes = disk.space().map_err(io)?.free_bytes;
    let frames = surveys
        .iter()
        .flat_map(|survey| survey.streams.values())
        .flat_map(|plan| &plan.frames);
    let needed_bytes = frames.map(|frame| u64::from(frame.length)).sum::<u64>();
    if free_bytes < floor_bytes.saturating_add(needed_bytes) {
        return Err(CompactError::NoRoom {
            needed_bytes,
            free_bytes,
            floor_bytes,
        });
    }
    Ok(())
}
