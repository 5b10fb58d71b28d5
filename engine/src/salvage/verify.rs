//! Reads everything and changes nothing: journal, logs, what was published, all held against each other.
//!
//! A running hub's folder may be looked at as well. What it was writing at that moment is then no fault.

use super::added::Added;
use super::journal;
use super::rebuild::rebuild;
use super::report::{Checked, Fault, FaultKind, VerifyReport};
use super::source::{SessionFound, Source, What};
use super::verify_audit;
use super::{SalvageError, inventory};
use crate::compact::{self, CompactError, SignedReceipt, check_session_by};
use crate::disk::{Disk, OpenMode};
use crate::error::StorageError;
use crate::log::{self, Replay, segments};
use crate::options::Options;
use crate::session::Session;
use crate::state::Violation;
use marey_format::checksum::crc32;
use marey_format::frame::Kind;
use marey_format::log::{IndexEntry, Predecessor};
use marey_format::payload::Checkpoint;
use marey_format::{DeviceId, SessionId};
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

/// How far a check goes.
#[derive(Clone, Debug, Default)]
pub struct VerifyOptions {
    /// A hub is running on it.
    pub live: bool,
    /// Make the Parquet again, on this disk, and compare. What was made is left there.
    pub rebuild: Option<Arc<dyn Disk>>,
    /// As the hub has them: row groups are cut by them.
    pub options: Options,
    pub signatures: Signatures,
}

/// What judges the signatures of receipts: keys are known outside of the engine. Without one they are taken for good.
#[derive(Clone, Default)]
pub struct Signatures(Option<Arc<JudgeOf>>);

type JudgeOf = dyn Fn(&SignedReceipt) -> Result<(), String> + Send + Sync;

impl Signatures {
    pub fn judged_by(judge: impl Fn(&SignedReceipt) -> Result<(), String> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(judge)))
    }
}

impl std::fmt::Debug for Signatures {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_tuple("Signatures").field(&self.0.is_some()).finish()
    }
}

/// Checks the hub in a folder.
pub fn verify_hub(dir: &Path) -> Result<VerifyReport, SalvageError> {
    verify(&Source::at(dir)?, &VerifyOptions::default(), &|_| {})
}

/// Checks what a source holds. `progress` is told what is being read.
///
/// # Errors
/// Only where nothing can be said at all: what is broken is in the report.
pub fn verify(
    source: &Source,
    options: &VerifyOptions,
    progress: &dyn Fn(&str),
) -> Result<VerifyReport, SalvageError> {
    let report = VerifyReport {
        path: source.path().to_owned(),
        live: options.live,
        checked: Checked::default(),
        faults: Vec::new(),
        notes: Vec::new(),
    };
    let mut verifying = Verifying {
        source,
        disk: &*source.view,
        options,
        progress,
        report,
    };
    verifying.run()?;
    Ok(verifying.report)
}

struct Verifying<'a> {
    source: &'a Source,
    disk: &'a dyn Disk,
    options: &'a VerifyOptions,
    progress: &'a dyn Fn(&str),
    report: VerifyReport,
}

impl Verifying<'_> {
    fn run(&mut self) -> Result<(), SalvageError> {
        let (sessions, others) = self.source.sessions()?;
        for other in others {
            let file = self.disk.describe(&Path::new("sessions").join(other));
            self.fault(Fault::of_file(
                FaultKind::Session,
                file,
                "this is no session's folder",
            ));
        }
        if *self.source.what() == What::Hub {
            self.hub(&sessions)?;
        }
        for found in sessions {
            self.session(found)?;
        }
        for unreadable in self.source.view.unreadable() {
            let cause = format!("the disk can't read it: {}", unreadable.why);
            let fault = Fault::of_file(FaultKind::Unreadable, unreadable.path, cause);
            self.fault(fault.at(unreadable.offset, unreadable.bytes));
        }
        Ok(())
    }

    /// A phase begins that reads about `bytes` bytes.
    fn begin(&self, what: &str, bytes: u64) {
        self.source.progress().begin(what, bytes);
        (self.progress)(what);
    }

    fn fault(&mut self, fault: Fault) {
        self.report.faults.push(fault);
    }

    /// An error as a fault of the file that it names.
    fn failed(&mut self, kind: FaultKind, error: StorageError) -> Fault {
        let (file, cause) = match error {
            StorageError::Io { action, path, source } => (path, format!("{action}: {source}")),
            StorageError::Damaged { path, what } => (path, what),
            other => (self.source.path().to_owned(), other.to_string()),
        };
        Fault::of_file(kind, file, cause)
    }

    fn hub(&mut self, sessions: &[SessionFound]) -> Result<(), SalvageError> {
        let identity = Path::new("identity.redb");
        let there = self
            .disk
            .stat(identity)
            .is_ok_and(|stat| stat.is_some_and(|stat| stat.bytes > 0));
        if !there {
            let cause = "missing, and with it who may connect; the hub does not start without it";
            self.fault(Fault::of_file(
                FaultKind::Hub,
                self.disk.describe(identity),
                cause,
            ));
        }
        let hub = match self.source.hub_id() {
            Ok(hub) => hub,
            Err(error) => {
                let fault = self.failed(FaultKind::Hub, error);
                self.fault(fault);
                return Ok(());
            }
        };
        self.begin("the audit log", 0);
        match verify_audit(self.disk, Some(hub), self.options.live) {
            Ok(checked) => {
                self.report.checked.audit_records = checked.records;
                self.report.notes.extend(checked.notes);
                self.report
                    .faults
                    .extend(checked.faults.into_iter().map(Fault::of_audit));
            }
            Err(error) => {
                let fault = self.failed(FaultKind::Audit, error);
                self.fault(fault);
            }
        }
        if self.options.live {
            self.report
                .notes
                .push("a hub is running: what waits in its journal was not read".to_owned());
            return Ok(());
        }
        self.begin("the commit journal", 0);
        let replayed = match journal::read(self.source, hub) {
            Ok(Some(replayed)) => replayed,
            Ok(None) => {
                let path = self.disk.describe(Path::new("journal"));
                self.fault(Fault::of_file(
                    FaultKind::Journal,
                    path,
                    "the commit journal is missing",
                ));
                return Ok(());
            }
            Err(error) => {
                let fault = self.failed(FaultKind::Journal, error);
                self.fault(fault);
                return Ok(());
            }
        };
        self.report.checked.journal_records = replayed.records;
        for fault in &replayed.faults {
            let of_file = Fault::of_file(FaultKind::Journal, fault.path.clone(), &fault.why);
            self.fault(of_file.at(fault.offset, fault.bytes));
        }
        for ((session, device), frames) in replayed.logs {
            if !sessions.iter().any(|found| found.id == session) {
                let what =
                    format!("the journal has frames of {device} for session {session}, whose folder is gone");
                self.report.notes.push(what);
                continue;
            }
            self.journal_of(&session, &device, frames)?;
        }
        Ok(())
    }

    /// What the journal has for a log can be read with what the log says.
    fn journal_of(
        &mut self,
        session: &SessionId,
        device: &DeviceId,
        frames: Vec<log::JournalFrames>,
    ) -> Result<(), SalvageError> {
        match inventory::Inventory::take(&self.source.view, session, device, frames) {
            Ok(inventory) => {
                self.report.checked.journal_frames += inventory.from_journal;
                for fault in inventory
                    .faults
                    .iter()
                    .filter(|fault| fault.segment == inventory::JOURNAL)
                {
                    let of_file = Fault::of_file(FaultKind::Journal, fault.path.clone(), &fault.why);
                    self.fault(of_file.in_session(session).of_device(device));
                }
                for fault in &inventory.by_journal {
                    self.fault(Fault::of_log(fault, session, device));
                }
            }
            Err(error) => {
                let fault = self.failed(FaultKind::Journal, error);
                self.fault(fault.in_session(session).of_device(device));
            }
        }
        Ok(())
    }

    fn session(&mut self, found: SessionFound) -> Result<(), SalvageError> {
        let id = &found.id;
        let devices = match self.source.devices(id) {
            Ok(devices) => devices,
            Err(error) => {
                let fault = self.failed(FaultKind::Session, error);
                self.fault(fault.in_session(id));
                return Ok(());
            }
        };
        let session = match found.session {
            // One whose making was cut off has a folder and nothing in it.
            Some(Err(StorageError::Io { source, .. }))
                if source.kind() == ErrorKind::NotFound && devices.is_empty() =>
            {
                self.report.notes.push(format!(
                    "session {id} was never made whole: its folder holds no session.json"
                ));
                return Ok(());
            }
            Some(Err(error)) => {
                let fault = self.failed(FaultKind::Session, error);
                self.fault(fault.in_session(id));
                None
            }
            Some(Ok(session)) => Some(session),
            None => None,
        };
        self.report.checked.sessions += 1;
        for device in &devices {
            let bytes = log_bytes(self.disk, id, device);
            self.begin(&format!("{id}: the log of {device}"), bytes);
            if let Err(error) = self.log(id, device) {
                let fault = self.failed(FaultKind::Damage, error);
                self.fault(fault.in_session(id).of_device(device));
            }
        }
        if matches!(self.source.what(), What::Hub | What::Session { .. }) {
            // Logs are read and hashed, and so is what was made of them.
            let files = compact::Manifest::read(self.disk, &Session::dir(id))
                .ok()
                .flatten();
            let bytes = files.map_or(0, |manifest| 2 * manifest_bytes(&manifest));
            self.begin(&format!("{id}: what is published"), bytes);
            self.published(id, session.as_ref());
            self.begin(&format!("{id}: remarks and media"), 0);
            let added = Added::check(self.disk, id);
            self.report.checked.annotations += added.annotations;
            self.report.checked.media_files += added.media_files;
            self.report.faults.extend(added.faults);
        }
        Ok(())
    }

    fn log(&mut self, session: &SessionId, device: &DeviceId) -> Result<(), StorageError> {
        let checked = &mut self.report.checked;
        checked.logs += 1;
        for (_, _, bytes) in segments(self.disk, &Session::log_dir(session, device))? {
            checked.segments += 1;
            checked.log_bytes += bytes;
        }
        let mut replay = Replay::open(self.disk, session, device)?.with_stand_ins();
        let mut indices = Indices::of(replay.reader().segments());
        let mut meanings = Meanings::default();
        // Where no index vouches for what stands in a segment, the checkpoints' sums do.
        let indexed: BTreeSet<u32> = replay
            .reader()
            .segments()
            .iter()
            .filter(|segment| segment.index.is_some())
            .map(|segment| segment.segment)
            .collect();
        let mut covered: Vec<(u32, Checkpoint)> = Vec::new();
        while let Some(found) = replay.next()? {
            let (segment, offset) = (found.at.segment, found.at.offset);
            self.report.checked.frames += 1;
            if found.at.frame.header().kind == Kind::CHECKPOINT && !indexed.contains(&segment) {
                let point = Checkpoint::parse(found.at.frame.payload());
                covered.extend(point.map(|point| {
                    (
                        segment,
                        Checkpoint {
                            frames: Vec::new(),
                            ..point
                        },
                    )
                }));
            }
            match &found.judged {
                Ok(judged) => {
                    if judged.entry.kind == Kind::DATA {
                        self.report.checked.samples += u64::from(judged.entry.count);
                    }
                    indices.meet(segment, &judged.entry);
                }
                Err(Violation::Below { .. }) => indices.pass(segment, offset),
                Err(violation) => {
                    indices.pass(segment, offset);
                    let bytes = found.at.frame.bytes().len() as u64;
                    meanings.meet(segment, offset, bytes, violation);
                }
            }
        }
        let last = replay.reader().segments().last().map(|segment| segment.segment);
        let sealed = replay
            .reader()
            .segments()
            .iter()
            .filter(|segment| segment.sealed_bytes.is_some());
        self.report.checked.sealed_segments += sealed.count() as u64;
        let path = |segment| {
            let dir = Session::log_dir(session, device);
            self.disk.describe(&dir.join(log::segment_name(segment)))
        };
        let mut faults: Vec<Fault> = Vec::new();
        for fault in replay.reader().faults() {
            let of_log = Fault::of_log(fault, session, device);
            if self.options.live && Some(fault.segment) == last && of_log.kind == FaultKind::TornTail {
                let what = format!("{} offset {}", of_log.file.display(), fault.offset);
                self.report
                    .notes
                    .push(format!("{what}: the hub may be writing here"));
                continue;
            }
            if matches!(self.source.what(), What::Segment { segment, .. } if *segment != fault.segment) {
                // The others were not asked for.
                continue;
            }
            // What the journal proves to be damage was said.
            let is_said = |said: &Fault| {
                (said.kind, &said.file, said.offset) == (FaultKind::Damage, &of_log.file, of_log.offset)
            };
            if !self.report.faults.iter().any(is_said) {
                faults.push(of_log);
            }
        }
        for (before, next) in replay
            .reader()
            .segments()
            .iter()
            .zip(replay.reader().segments().iter().skip(1))
        {
            let Some(header) = &next.header else { continue };
            let follows = header.predecessor == Predecessor::Sealed && before.segment + 1 == next.segment;
            let end = header.predecessor_end;
            // A longer file is damaged there, and reading says so.
            if follows && before.index.is_none() && before.file_bytes == end {
                let fault = Fault::of_file(FaultKind::Damage, path(before.segment), "the footer is gone");
                faults.push(fault.at(end, 0).in_session(session).of_device(device));
            }
        }
        for (segment, point) in covered {
            let (offset, bytes) = (point.offset, point.length);
            let is_said = replay.reader().faults().iter().any(|fault| {
                fault.segment == segment
                    && fault.offset < offset + bytes
                    && offset < fault.offset + fault.bytes
            });
            let name = Session::log_dir(session, device).join(log::segment_name(segment));
            if !is_said && self.sum(&name, offset, bytes)? != Some(point.crc) {
                let cause = "what stands here is not what was written, as the checkpoint behind it says";
                let fault = Fault::of_file(FaultKind::Damage, path(segment), cause).at(offset, bytes);
                faults.push(fault.in_session(session).of_device(device));
            }
        }
        for run in meanings.runs {
            let cause = match run.frames {
                1 => format!("a whole frame that nothing can be made of: {}", run.why),
                frames => format!("{frames} whole frames that nothing can be made of: {}", run.why),
            };
            let fault =
                Fault::of_file(FaultKind::Meaning, path(run.segment), cause).at(run.offset, run.bytes);
            faults.push(fault.in_session(session).of_device(device));
        }
        for (segment, offset, cause) in indices.finish(replay.reader().faults()) {
            let fault = Fault::of_file(FaultKind::Index, path(segment), cause).at(offset, 0);
            faults.push(fault.in_session(session).of_device(device));
        }
        self.report.faults.extend(faults);
        Ok(())
    }

    /// The checksum of a range of a file; none where it ends before.
    fn sum(&self, path: &Path, offset: u64, bytes: u64) -> Result<Option<u32>, StorageError> {
        let io = |error| StorageError::io("reading", self.disk.describe(path), error);
        let file = self.disk.open(path, OpenMode::Read).map_err(io)?;
        if file.len().map_err(io)? < offset.saturating_add(bytes) {
            return Ok(None);
        }
        let mut range = vec![0; bytes as usize];
        let read = file.read_at(offset, &mut range).map_err(io)?;
        Ok((read as u64 == bytes).then(|| crc32(&range)))
    }

    /// Parquet, manifest, receipt, and the hashes of the segments that they were made from.
    fn published(&mut self, id: &SessionId, session: Option<&Session>) {
        if let Err(error) = compact::check_plan(self.disk, id) {
            let fault = self.failed(FaultKind::Published, error);
            self.fault(fault.in_session(id));
        }
        match self.is_unpublished(id) {
            Ok(true) => {}
            Ok(false) => self.published_files(id),
            Err(error) => {
                let fault = self.failed(FaultKind::Published, error);
                return self.fault(fault.in_session(id));
            }
        }
        let manifest = compact::Manifest::read(self.disk, &Session::dir(id))
            .ok()
            .flatten();
        if let Some(session) = session
            && manifest.as_ref().map_or(0, |manifest| manifest.generation) < session.generation
            && !self.is_salvaged(session, manifest.is_some())
        {
            let file = self.disk.describe(&Session::dir(id).join("manifest.json"));
            let cause = format!(
                "generation {} was sealed, and its manifest is gone",
                session.generation
            );
            self.fault(Fault::of_file(FaultKind::Published, file, cause).in_session(id));
        }
        let Some(manifest) = manifest else { return };
        let parts = manifest
            .streams
            .iter()
            .map(|stream| stream.parts.len())
            .sum::<usize>();
        self.report.checked.parquet_files += (parts + manifest.beside().count()) as u64;
        if let Ok(Some(retired)) = compact::Retired::read(self.disk, &Session::dir(id)) {
            let (segments, bytes) = (retired.segments(), retired.bytes);
            let samples = retired.samples;
            self.report.notes.push(format!(
                "{id}: its logs were retired ({segments} segments, {bytes} bytes, {samples} samples, all of them in \
                 Parquet); what is published was checked by itself"
            ));
            return;
        }
        let (Some(scratch), Some(session)) = (&self.options.rebuild, session) else {
            return;
        };
        self.begin(&format!("{id}: making Parquet again"), 0);
        match rebuild(self.source, scratch, session, &manifest, &self.options.options) {
            Ok(rebuilt) => {
                self.report.checked.rebuilt_files += rebuilt.files;
                self.report.notes.extend(rebuilt.notes);
                let faults = rebuilt.faults.into_iter().map(|fault| fault.in_session(id));
                self.report.faults.extend(faults);
            }
            Err(error) => {
                let file = self.disk.describe(&Session::dir(id));
                let cause = format!("Parquet can't be made again: {error}");
                self.fault(Fault::of_file(FaultKind::Rebuild, file, cause).in_session(id));
            }
        }
    }

    /// Whether there is nothing to hold against the logs: they need not be read once more for that.
    fn is_unpublished(&self, id: &SessionId) -> Result<bool, StorageError> {
        let dir = Session::dir(id);
        for name in ["manifest.json", "streams"] {
            let path = dir.join(name);
            let io = |error| StorageError::io("looking at", self.disk.describe(&path), error);
            if self.disk.stat(&path).map_err(io)?.is_some() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Each published file against the manifest, each sample against the log.
    fn published_files(&mut self, id: &SessionId) {
        let signatures = &self.options.signatures;
        let mut judge = |signed: &SignedReceipt| signatures.0.as_ref().map_or(Ok(()), |judge| judge(signed));
        let checked = match check_session_by(self.disk, id, &self.options.options, &mut judge) {
            Ok(checked) => checked,
            Err(CompactError::Storage(error)) => {
                let fault = self.failed(FaultKind::Published, error);
                return self.fault(fault.in_session(id));
            }
            Err(error) => {
                let file = self.disk.describe(&Session::dir(id));
                return self.fault(Fault::of_file(FaultKind::Published, file, error).in_session(id));
            }
        };
        self.report.checked.parquet_rows += checked.samples_in_parquet;
        for fault in checked.faults {
            let of_file = Fault::of_file(FaultKind::Published, fault.file, fault.cause);
            self.fault(
                Fault {
                    offset: fault.offset,
                    ..of_file
                }
                .in_session(id),
            );
        }
    }

    /// A session that salvage made goes on counting generations from where they were, and has none of them.
    fn is_salvaged(&self, session: &Session, has_manifest: bool) -> bool {
        !has_manifest && session.state == crate::session::SessionState::Stopping
    }
}

/// Bytes of a log's segments, as far as they can be counted.
pub(super) fn log_bytes(disk: &dyn Disk, session: &SessionId, device: &DeviceId) -> u64 {
    let found = segments(disk, &Session::log_dir(session, device));
    found.map_or(0, |found| found.iter().map(|(_, _, bytes)| bytes).sum())
}

/// Bytes of the files that a manifest names.
fn manifest_bytes(manifest: &compact::Manifest) -> u64 {
    let logs = manifest.logs.iter().flat_map(|log| &log.segments);
    let parts = manifest.streams.iter().flat_map(|stream| &stream.parts);
    let tables = manifest.beside().map(|table| table.hashes.bytes);
    logs.map(|segment| segment.bytes)
        .chain(parts.map(|part| part.hashes.bytes))
        .chain(tables)
        .sum()
}

/// Frames without a meaning, those that follow each other for the same reason as one.
#[derive(Default)]
struct Meanings {
    runs: Vec<Run>,
}

struct Run {
    segment: u32,
    offset: u64,
    bytes: u64,
    frames: u64,
    why: String,
}

impl Meanings {
    fn meet(&mut self, segment: u32, offset: u64, bytes: u64, violation: &Violation) {
        let why = violation.to_string();
        match self.runs.last_mut() {
            Some(run) if run.segment == segment && run.why == why => {
                run.frames += 1;
                run.bytes = offset + bytes - run.offset;
            }
            _ => self.runs.push(Run {
                segment,
                offset,
                bytes,
                frames: 1,
                why,
            }),
        }
    }
}

/// The rows of sealed segments' indices, ticked off as their frames are met.
struct Indices {
    rows: BTreeMap<u32, BTreeMap<u64, IndexEntry>>,
    found: Vec<(u32, u64, String)>,
}

impl Indices {
    fn of(segments: &[log::SegmentSummary]) -> Self {
        let rows = segments.iter().filter_map(|segment| {
            let end = segment.cut_at.or(segment.sealed_bytes)?;
            let rows = segment
                .index
                .as_ref()?
                .entries()
                .map(|row| (u64::from(row.offset), row));
            Some((
                segment.segment,
                rows.filter(|(offset, _)| *offset < end).collect(),
            ))
        });
        Self {
            rows: rows.collect(),
            found: Vec::new(),
        }
    }

    fn meet(&mut self, segment: u32, entry: &IndexEntry) {
        let Some(rows) = self.rows.get_mut(&segment) else {
            return;
        };
        let offset = u64::from(entry.offset);
        match rows.remove(&offset) {
            Some(row) if row == *entry => {}
            Some(_) => self.found.push((
                segment,
                offset,
                "the index says otherwise of the frame here".to_owned(),
            )),
            None => self.found.push((
                segment,
                offset,
                "the index does not list the frame here".to_owned(),
            )),
        }
    }

    /// A frame that is there and was not taken.
    fn pass(&mut self, segment: u32, offset: u64) {
        if let Some(rows) = self.rows.get_mut(&segment) {
            rows.remove(&offset);
        }
    }

    /// What is wrong, with the rows that are left and that no fault explains.
    fn finish(mut self, faults: &[log::Fault]) -> Vec<(u32, u64, String)> {
        for (segment, rows) in self.rows {
            for (offset, row) in rows {
                let end = offset + u64::from(row.length);
                let explained = faults.iter().any(|fault| {
                    fault.segment == segment && fault.offset < end && fault.offset + fault.bytes > offset
                });
                if !explained {
                    let cause = format!(
                        "the index lists frame {} of lane {:?} here",
                        row.sequence, row.lane
                    );
                    self.found
                        .push((segment, offset, format!("{cause}, and none was read")));
                }
            }
        }
        self.found
    }
}
