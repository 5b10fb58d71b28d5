//! Holding a session's files against its manifest, and its Parquet against its logs.
//!
//! Reads everything and changes nothing. A sample that is in a log and not in Parquet, or there twice, is a fault; so is
//! a file whose bytes are not those of the manifest, and one that nobody named.

use super::chain::Judge;
use super::files::FileChunks;
use super::frames::FrameEntry;
use super::manifest::{LogFact, MANIFEST, Manifest, SegmentFact, StreamFact};
use super::publish::files_below;
use super::retired::Retired;
use super::survey::{CutFact, DeviceSurvey, StreamPlan, hash_beginning, hash_file};
use super::{CompactError, Receipt, read_receipt, survey_all};
use crate::disk::Disk;
use crate::error::StorageError;
use crate::log::Fault;
use crate::options::Options;
use crate::session::Session;
use ::parquet::arrow::ProjectionMask;
use ::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use arrow::array::AsArray;
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use marey_format::SessionId;
use marey_format::frame::Lane;
use marey_format::types::is_path_below;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckFault {
    pub file: PathBuf,
    /// Where in it, as far as that can be said.
    pub offset: Option<u64>,
    pub cause: String,
}

impl std::fmt::Display for CheckFault {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "{}: ", self.file.display())?;
        if let Some(offset) = self.offset {
            write!(to, "offset {offset}: ")?;
        }
        to.write_str(&self.cause)
    }
}

/// What a check found.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    pub faults: Vec<CheckFault>,
    /// What is wrong with the logs.
    pub log_faults: Vec<Fault>,
    /// Of the newest generation; 0 if there is none.
    pub generation: u32,
    pub samples_in_logs: u64,
    pub samples_in_parquet: u64,
    /// In logs, and come after the newest generation.
    pub samples_later: u64,
    /// Samples of logs that were retired: Parquet has each of them, and is all that can be checked.
    pub samples_retired: Option<u64>,
}

/// Checks a session; that its receipts were signed by whom they name is taken for given.
///
/// # Errors
/// As [`check_session_by`].
pub fn check_session(
    disk: &dyn Disk,
    session: &SessionId,
    options: &Options,
) -> Result<Checked, CompactError> {
    check_session_by(disk, session, options, &mut |_| Ok(()))
}

/// Checks a session; signatures of its receipts by `judge`.
///
/// # Errors
/// Only where nothing can be said, such as when the disk fails: what is broken is in the result.
pub fn check_session_by(
    disk: &dyn Disk,
    session: &SessionId,
    options: &Options,
    judge: &mut Judge<'_>,
) -> Result<Checked, CompactError> {
    let dir = Session::dir(session);
    let surveys = survey_all(disk, session, options, &|_| {})?;
    let mut check = Check {
        disk,
        dir: &dir,
        checked: Checked::default(),
    };
    for survey in &surveys {
        check.checked.log_faults.extend(survey.faults.iter().cloned());
        let frames = survey.streams.values().flat_map(|plan| &plan.frames);
        check.checked.samples_in_logs += frames.map(|frame| u64::from(frame.count)).sum::<u64>();
    }
    let manifest = match Manifest::read(disk, &dir) {
        Ok(manifest) => manifest,
        Err(StorageError::Damaged { path, what }) => {
            check.checked.faults.push(CheckFault {
                file: path,
                offset: None,
                cause: what,
            });
            return Ok(check.checked);
        }
        Err(error) => return Err(error.into()),
    };
    let retired = match Retired::read(disk, &dir) {
        Ok(retired) => retired,
        Err(StorageError::Damaged { path, what }) => {
            let (file, cause) = (path, what);
            check.checked.faults.push(CheckFault {
                file,
                offset: None,
                cause,
            });
            None
        }
        Err(error) => return Err(error.into()),
    };
    match (manifest, retired) {
        (Some(manifest), Some(retired)) => check.retired(&manifest, &retired, judge)?,
        (Some(manifest), None) => check.generation(&manifest, &surveys, judge)?,
        (None, Some(_)) => check.fault(MANIFEST, "missing, and the logs were retired"),
        (None, None) => check.unpublished()?,
    }
    Ok(check.checked)
}

pub(super) struct Check<'a> {
    pub disk: &'a dyn Disk,
    pub dir: &'a Path,
    pub checked: Checked,
}

impl Check<'_> {
    pub(super) fn fault(&mut self, path: impl AsRef<Path>, cause: impl Into<String>) {
        let file = self.disk.describe(&self.dir.join(path));
        self.checked.faults.push(CheckFault {
            file,
            offset: None,
            cause: cause.into(),
        });
    }

    pub(super) fn io(&self, error: std::io::Error) -> CompactError {
        StorageError::io("checking", self.disk.describe(self.dir), error).into()
    }

    /// Without a manifest there may be no streams.
    fn unpublished(&mut self) -> Result<(), CompactError> {
        if self
            .disk
            .stat(&self.dir.join("streams"))
            .map_err(|error| self.io(error))?
            .is_some()
        {
            self.fault(MANIFEST, "missing, where streams/ is there");
        }
        Ok(())
    }

    fn generation(
        &mut self,
        manifest: &Manifest,
        surveys: &[DeviceSurvey],
        judge: &mut Judge<'_>,
    ) -> Result<(), CompactError> {
        self.checked.generation = manifest.generation;
        self.receipt(manifest, judge)?;
        for table in manifest.beside() {
            self.file(&table.path, table.hashes.bytes, &table.hashes.blake3)?;
        }
        self.annotations(manifest)?;
        for segment in manifest.logs.iter().flat_map(|log| &log.segments) {
            self.segment(segment)?;
        }
        self.strays(manifest)?;
        for stream in &manifest.streams {
            let mut whole = true;
            for part in &stream.parts {
                whole &= self.file(&part.path, part.hashes.bytes, &part.hashes.blake3)?;
            }
            let plan = stream.key().and_then(|key| {
                let survey = surveys.iter().find(|survey| survey.device == stream.device)?;
                survey.streams.get(&key).map(|plan| (survey, plan))
            });
            match plan {
                Some((_, plan)) if whole => self.stream(manifest, stream, plan)?,
                Some(_) => {}
                None => self.fault(
                    format!("logs/{}", stream.device),
                    format!("no frame of {}", stream.stream),
                ),
            }
        }
        self.left_out(manifest, surveys);
        Ok(())
    }

    /// Without logs: every file as the manifest says, every row in order and once, and as many as the logs held.
    fn retired(
        &mut self,
        manifest: &Manifest,
        retired: &Retired,
        judge: &mut Judge<'_>,
    ) -> Result<(), CompactError> {
        self.checked.generation = manifest.generation;
        self.checked.samples_retired = Some(retired.samples);
        self.receipt(manifest, judge)?;
        if hash_file(self.disk, &self.dir.join(MANIFEST))? != retired.manifest_blake3 {
            self.fault(
                MANIFEST,
                "it is not the one that the logs were checked against when they were retired",
            );
        }
        for table in manifest.beside() {
            self.file(&table.path, table.hashes.bytes, &table.hashes.blake3)?;
        }
        self.annotations(manifest)?;
        self.strays(manifest)?;
        for stream in &manifest.streams {
            let (mut found, mut before) = (Ranges::default(), i64::MIN);
            for part in &stream.parts {
                if !self.file(&part.path, part.hashes.bytes, &part.hashes.blake3)? {
                    continue;
                }
                let rows = self.part(&part.path, &mut found, &mut before)?;
                self.checked.samples_in_parquet += rows.unwrap_or(0);
                if let Some(rows) = rows.filter(|&rows| rows != part.rows) {
                    self.fault(
                        &part.path,
                        format!("{rows} rows, the manifest says {}", part.rows),
                    );
                }
            }
            if found.twice > 0 {
                let what = format!("{} samples of {} stand in it twice", found.twice, stream.stream);
                self.fault("streams", what);
            }
        }
        let (parquet, logs) = (self.checked.samples_in_parquet, retired.samples);
        if parquet != logs && self.checked.faults.is_empty() {
            self.fault(
                "streams",
                format!("{parquet} samples, the retired logs held {logs}"),
            );
        }
        Ok(())
    }

    fn receipt(&mut self, manifest: &Manifest, judge: &mut Judge<'_>) -> Result<(), CompactError> {
        let name = Receipt::name(manifest.generation);
        match read_receipt(self.disk, self.dir, manifest.generation) {
            Ok(Some(receipt)) => {
                let (bytes, blake3) = (receipt.manifest.bytes, receipt.manifest.blake3);
                self.file(MANIFEST, bytes, &blake3)?;
            }
            Ok(None) => self.fault(name, "missing"),
            Err(StorageError::Damaged { what, .. }) => self.fault(name, what),
            Err(error) => return Err(error.into()),
        }
        self.chain(manifest.generation, judge, &mut Vec::new())?;
        Ok(())
    }

    /// Whether a segment was held against what the manifest says of it.
    pub(super) fn segment(&mut self, segment: &SegmentFact) -> Result<bool, CompactError> {
        match (&segment.blake3, &segment.cut) {
            (Some(blake3), _) => self.file(&segment.path, segment.bytes, blake3)?,
            (None, Some(cut)) => self.beginning(&segment.path, cut)?,
            (None, None) => return Ok(false),
        };
        Ok(true)
    }

    /// Whether a file is there with these bytes.
    pub(super) fn file(&mut self, path: &str, bytes: u64, blake3: &str) -> Result<bool, CompactError> {
        let Some(there) = self.there(path)? else {
            return Ok(false);
        };
        if there != bytes {
            self.fault(path, format!("{there} bytes, the manifest says {bytes}"));
            return Ok(false);
        }
        let found = hash_file(self.disk, &self.dir.join(path))?;
        if found != blake3 {
            self.fault(
                path,
                format!("its bytes are not those of the manifest: BLAKE3 {found}, written {blake3}"),
            );
            return Ok(false);
        }
        Ok(true)
    }

    /// Whether a file begins with what counts of it.
    fn beginning(&mut self, path: &str, cut: &CutFact) -> Result<bool, CompactError> {
        let Some(there) = self.there(path)? else {
            return Ok(false);
        };
        let CutFact { bytes, blake3 } = cut;
        if there < *bytes {
            self.fault(
                path,
                format!("{there} bytes, of which the manifest counts {bytes}"),
            );
            return Ok(false);
        }
        let (_, found) = hash_beginning(self.disk, &self.dir.join(path), *bytes)?;
        if found != *blake3 {
            self.fault(
                path,
                format!(
                    "its first {bytes} bytes are not those of the manifest: BLAKE3 {found}, written {blake3}"
                ),
            );
        }
        Ok(found == *blake3)
    }

    /// The length of a file that the manifest names; none where it can't be one, or is gone.
    fn there(&mut self, path: &str) -> Result<Option<u64>, CompactError> {
        if !is_path_below(path) {
            self.fault(
                MANIFEST,
                format!("it names {path:?}, which is no path below this folder"),
            );
            return Ok(None);
        }
        let stat = self.disk.stat(&self.dir.join(path));
        let stat = stat.map_err(|error| self.io(error))?;
        let there = stat.filter(|stat| !stat.is_dir).map(|stat| stat.bytes);
        if there.is_none() {
            self.fault(path, "missing");
        }
        Ok(there)
    }

    pub(super) fn strays(&mut self, manifest: &Manifest) -> Result<(), CompactError> {
        let streams = self.dir.join("streams");
        if self
            .disk
            .stat(&streams)
            .map_err(|error| self.io(error))?
            .is_none()
        {
            return Ok(());
        }
        let known: BTreeSet<&str> = manifest
            .streams
            .iter()
            .flat_map(|s| &s.parts)
            .map(|part| part.path.as_str())
            .collect();
        for found in files_below(self.disk, &streams).map_err(|error| self.io(error))? {
            let path = format!("streams/{found}");
            if !known.contains(path.as_str()) {
                self.fault(path, "the manifest does not name it");
            }
        }
        Ok(())
    }

    /// Every sample of the log exactly once, in order of time.
    fn stream(
        &mut self,
        manifest: &Manifest,
        stream: &StreamFact,
        plan: &StreamPlan,
    ) -> Result<(), CompactError> {
        let Some(log) = manifest.log(&stream.device) else {
            self.fault(MANIFEST, format!("names no log of {}", stream.device));
            return Ok(());
        };
        let mut expected = Ranges::default();
        for frame in &plan.frames {
            if !lacks(log, frame) {
                expected.add(frame.epoch, frame.first_index, u64::from(frame.count));
            } else {
                self.checked.samples_later += u64::from(frame.count);
            }
        }
        let mut found = Ranges::default();
        let mut before = i64::MIN;
        for part in &stream.parts {
            let rows = self.part(&part.path, &mut found, &mut before)?;
            self.checked.samples_in_parquet += rows.unwrap_or(0);
            if let Some(rows) = rows.filter(|&rows| rows != part.rows) {
                self.fault(
                    &part.path,
                    format!("{rows} rows, the manifest says {}", part.rows),
                );
            }
        }
        let first = stream
            .parts
            .first()
            .map_or("streams", |part| part.path.as_str())
            .to_owned();
        if found.twice > 0 {
            self.fault(
                &first,
                format!("{} samples of {} stand in it twice", found.twice, stream.stream),
            );
        }
        for (epoch, from, to) in expected.without(&found) {
            if !log.left_out.is_empty() {
                // The manifest says that the disk could not read all of this log; now it can.
                self.checked.samples_later += to - from;
                continue;
            }
            let what = format!(
                "samples {from} to {} of epoch {epoch} are in the log and not in Parquet",
                to - 1
            );
            self.fault(&first, what);
        }
        for (epoch, from, to) in found.without(&expected) {
            let what = format!(
                "samples {from} to {} of epoch {epoch} are in Parquet and not in the log",
                to - 1
            );
            self.fault(&first, what);
        }
        Ok(())
    }

    /// Reads the identities of a part's rows; none if it can't be read.
    fn part(
        &mut self,
        path: &str,
        found: &mut Ranges,
        before: &mut i64,
    ) -> Result<Option<u64>, CompactError> {
        let full = self.dir.join(path);
        let chunks = FileChunks::open(self.disk, &full).map_err(|error| self.io(error))?;
        let read = || -> Result<(u64, bool), ::parquet::errors::ParquetError> {
            let builder = ParquetRecordBatchReaderBuilder::try_new(chunks)?;
            let mask = ProjectionMask::columns(builder.parquet_schema(), ["time", "epoch", "seq"]);
            let (mut rows, mut sorted) = (0, true);
            for batch in builder.with_projection(mask).build()? {
                let batch = batch?;
                rows += batch.num_rows() as u64;
                let times = batch
                    .column(0)
                    .as_primitive::<TimestampMicrosecondType>()
                    .values();
                let epochs = batch.column(1).as_primitive::<Int32Type>().values();
                let seqs = batch.column(2).as_primitive::<Int64Type>().values();
                for ((&time, &epoch), &seq) in times.iter().zip(epochs).zip(seqs) {
                    sorted &= *before <= time;
                    *before = time;
                    found.add(epoch.cast_unsigned(), seq.cast_unsigned(), 1);
                }
            }
            Ok((rows, sorted))
        };
        match read() {
            Ok((rows, sorted)) => {
                if !sorted {
                    self.fault(path, "times go back");
                }
                Ok(Some(rows))
            }
            Err(error) => {
                self.fault(path, error.to_string());
                Ok(None)
            }
        }
    }

    /// Streams that a log has and the manifest does not.
    fn left_out(&mut self, manifest: &Manifest, surveys: &[DeviceSurvey]) {
        for survey in surveys {
            // Where the disk could not read all of a log, nothing of it is known to be published.
            let log = manifest.log(&survey.device).filter(|log| log.left_out.is_empty());
            let is_later = |frame: &&FrameEntry| log.is_none_or(|log| lacks(log, frame));
            for plan in survey.streams.values() {
                let name = plan.key.to_string();
                if manifest
                    .streams
                    .iter()
                    .any(|s| s.stream == name && s.device == survey.device)
                {
                    continue;
                }
                let samples = |frames: &mut dyn Iterator<Item = &FrameEntry>| -> u64 {
                    frames.map(|frame| u64::from(frame.count)).sum()
                };
                let missing = samples(&mut plan.frames.iter().filter(|frame| !is_later(frame)));
                self.checked.samples_later += samples(&mut plan.frames.iter().filter(is_later));
                if missing > 0 {
                    let what = format!("{missing} samples of {name} of {} are in no part", survey.device);
                    self.fault("streams", what);
                }
            }
        }
    }
}

/// Sets of sample indices by epoch, as half-open ranges.
#[derive(Debug, Default)]
struct Ranges {
    by_epoch: BTreeMap<u32, BTreeMap<u64, u64>>,
    /// Indices that were added more than once.
    twice: u64,
}

impl Ranges {
    fn add(&mut self, epoch: u32, from: u64, count: u64) {
        let ranges = self.by_epoch.entry(epoch).or_default();
        let (mut from, mut to) = (from, from.saturating_add(count));
        // The ranges that this one touches become one with it.
        while let Some((&start, &end)) = ranges.range(..=to).next_back() {
            if end < from {
                break;
            }
            self.twice += end.min(to).saturating_sub(start.max(from));
            ranges.remove(&start);
            (from, to) = (from.min(start), to.max(end));
        }
        ranges.insert(from, to);
    }

    /// What is here and not there.
    fn without(&self, other: &Self) -> Vec<(u32, u64, u64)> {
        let mut left = Vec::new();
        for (&epoch, ranges) in &self.by_epoch {
            let none = BTreeMap::new();
            let theirs = other.by_epoch.get(&epoch).unwrap_or(&none);
            for (&start, &end) in ranges {
                let mut from = start;
                let before = theirs.range(..=start).next_back().map(|(&s, &e)| (s, e));
                for (s, e) in before
                    .into_iter()
                    .chain(theirs.range(start + 1..end).map(|(&s, &e)| (s, e)))
                {
                    if s > from {
                        left.push((epoch, from, s));
                    }
                    from = from.max(e);
                }
                if from < end {
                    left.push((epoch, from, end));
                }
            }
        }
        left
    }
}

/// Whether a data frame is not among those that went into a generation.
fn lacks(log: &LogFact, frame: &FrameEntry) -> bool {
    log.lacks(frame.place(), frame.epoch, Lane::Data, frame.sequence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_join_and_differ() {
        let mut a = Ranges::default();
        for i in [0, 1, 2, 7, 8, 3, 20] {
            a.add(0, i, 1);
        }
        assert_eq!(a.by_epoch[&0], BTreeMap::from([(0, 4), (7, 9), (20, 21)]));
        assert_eq!(a.twice, 0);
        a.add(0, 2, 6);
        assert_eq!(a.twice, 3);
        let mut b = Ranges::default();
        b.add(0, 1, 2);
        b.add(0, 5, 30);
        assert_eq!(a.without(&b), [(0, 0, 1), (0, 3, 5)]);
        assert_eq!(b.without(&a), [(0, 9, 20), (0, 21, 35)]);
        b.add(1, 0, 1);
        assert_eq!(a.without(&Ranges::default()).len(), 2);
        assert_eq!(b.without(&a).last(), Some(&(1, 0, 1)));
    }
}
