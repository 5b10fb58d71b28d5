//! What is exported: streams of the newest generation within a span, the tables beside them, and facts of the session.
//!
//! Owns: which streams are meant, what is read, how far it is. Does not own: any format.
//!
//! Invariants: nothing but what is published is read; whoever takes rows has one batch at a time, which the loan of
//! [`Rows::next`] holds to; what a pseudonymous export hides is hidden here, before any format sees it.

use super::Choice;
use super::disguise::{Changes, Disguise};
use crate::hubdir;
use crate::output::{Failure, Output, Result};
use crate::rows::time_text;
use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::compute::kernels::cast_utils::string_to_timestamp_nanos;
use arrow::datatypes::{Float32Type, Int32Type, Int64Type, TimestampMicrosecondType};
use marey_engine::compact::{Manifest, StreamFact};
use marey_engine::disk::Disk;
use marey_engine::read::{
    Level, Reader, Span, Table, check_published, declarations, overview, published_manifest,
};
use marey_engine::salvage::{Source, What};
use marey_engine::{Options, Session};
use marey_format::payload::StreamKey;
use marey_format::{Declaration, DeviceId, SessionId};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Tables beside the streams that are read.
const TABLES: [&str; 4] = [
    "channels.parquet",
    "clock_map.parquet",
    "events.parquet",
    "gaps.parquet",
];

/// Columns before the channels.
pub const OWN_COLUMNS: usize = 5;

/// A published session, and what of it is wanted.
pub struct Recording<'o> {
    pub source: Source,
    session: Session,
    manifest: Manifest,
    span: Span,
    pub streams: Vec<Stream>,
    pub disguise: Disguise,
    output: &'o Output,
    progress: Progress,
}

/// One stream of one device.
#[derive(Debug)]
pub struct Stream {
    pub id: DeviceId,
    pub key: StreamKey,
    /// `NAME@N`
    pub name: String,
    /// The device, as the export calls it.
    pub device: String,
    pub declaration: Declaration,
    /// What it said of itself that is not exported.
    pub hidden: Vec<String>,
    /// Published in all, whatever the span.
    pub rows: u64,
}

#[derive(Debug, Default)]
struct Progress {
    rows: u64,
    done: Cell<u64>,
    percent: Cell<u64>,
    batches: Cell<u64>,
    batch_bytes_max: Cell<usize>,
}

impl<'o> Recording<'o> {
    /// Opens the session that is meant, and chooses of it. Its streams are held against their hashes: a changed byte would be
    /// another value, and nobody would know.
    pub fn open(
        choice: &Choice,
        dir: Option<PathBuf>,
        disguise: Disguise,
        output: &'o Output,
    ) -> Result<Self> {
        let recording = Self::open_tables(choice, dir, disguise, output)?;
        recording.check(|_| true)?;
        Ok(recording)
    }

    /// The same for who may not need all samples: the tables beside the streams were checked, [`Recording::check`] is still to
    /// come for the streams that are read.
    pub fn open_tables(
        choice: &Choice,
        dir: Option<PathBuf>,
        disguise: Disguise,
        output: &'o Output,
    ) -> Result<Self> {
        let source = hubdir::source(Some(&choice.session), dir)?;
        let What::Session { session } = source.what().clone() else {
            let path = source.path().display();
            return Err(Failure::Usage(format!(
                "{path} is no session; one session is exported at a time"
            )));
        };
        let found = source.sessions()?.0.into_iter().find(|found| found.id == session);
        let known = found.and_then(|found| found.session);
        let known = known.ok_or_else(|| Failure::fault(format!("session {session} can't be read")))??;
        let (_, manifest) = published_manifest(&*source.disk(), &session)?;
        let start_us = manifest.anchor.utc_ns.div_euclid(1_000);
        let edge_us =
            |edge: Option<crate::window::Edge>, open| edge.map_or(open, |edge| edge.utc_us(start_us));
        let span = Span {
            from_us: edge_us(choice.from, i64::MIN),
            until_us: edge_us(choice.to, i64::MAX),
        };
        if span.from_us >= span.until_us {
            let what = "--from and --to leave nothing between them";
            return Err(Failure::Usage(what.to_owned()));
        }
        let mut streams = streams(&source, &manifest, &session, choice, &disguise)?;
        disguise.check(&known, &streams)?;
        check_published(&*source.disk(), &session, |_| false, &TABLES)?;
        streams.iter_mut().for_each(|stream| disguise.hide(stream));
        let rows = streams.iter().map(|stream| stream.rows).sum();
        Ok(Self {
            source,
            session: known,
            manifest,
            span,
            streams,
            disguise,
            output,
            progress: Progress {
                rows,
                ..Progress::default()
            },
        })
    }

    /// Fails where a file of these streams is not as it was published.
    pub fn check(&self, is_read: impl Fn(&Stream) -> bool) -> Result {
        let is_wanted = |fact: &StreamFact| {
            let is_it = |stream: &&Stream| stream.id == fact.device && stream.name == fact.stream;
            self.streams.iter().find(is_it).is_some_and(&is_read)
        };
        check_published(&*self.source.disk(), &self.session.id, is_wanted, &[])?;
        Ok(())
    }

    /// The buckets of a stream, if they are no wider than that, and nothing but all of it is wanted.
    pub fn overview(&self, stream: &Stream, width_max_us: i64) -> Result<Option<Level>> {
        if self.span != Span::ALL || stream.rows == 0 {
            return Ok(None);
        }
        let disk = self.source.disk();
        Ok(overview(
            &*disk,
            &self.session.id,
            &stream.key,
            &stream.id,
            width_max_us,
        )?)
    }

    /// The session, as the export calls it.
    pub fn name(&self) -> String {
        self.disguise.session(&self.session.id)
    }

    pub fn generation(&self) -> u32 {
        self.manifest.generation
    }

    /// The session's first moment, as the export has it, in microseconds of POSIX time.
    pub fn start_us(&self) -> i64 {
        self.disguise
            .time_us(self.manifest.anchor.utc_ns.div_euclid(1_000))
    }

    /// Fails where the span leaves nothing of what was sampled: seconds that were meant otherwise, most likely.
    pub fn has_samples(&self) -> Result {
        if self.span == Span::ALL || self.extent_us().is_some() {
            return Ok(());
        }
        let of_session = self.times_us().map_or_else(String::new, |(from_us, until_us)| {
            let [from, until] = [from_us, until_us].map(|time_us| time_text(self.disguise.time_us(time_us)));
            format!("; it has some from {from} to {until}")
        });
        Err(Failure::fault(format!(
            "session {} has no sample there{of_session}",
            self.name()
        )))
    }

    /// First and last time of what is published of its streams, within the span; none if there is nothing.
    pub fn extent_us(&self) -> Option<(i64, i64)> {
        let (first_us, last_us) = self.times_us()?;
        let (from_us, until_us) = (first_us.max(self.span.from_us), last_us.min(self.span.until_us));
        (from_us <= until_us).then(|| (self.disguise.time_us(from_us), self.disguise.time_us(until_us)))
    }

    /// The same whatever the span, and as it was recorded.
    fn times_us(&self) -> Option<(i64, i64)> {
        let is_chosen = |fact: &&StreamFact| {
            let is_it = |stream: &Stream| stream.id == fact.device && stream.name == fact.stream;
            self.streams.iter().any(is_it)
        };
        let parts = self
            .manifest
            .streams
            .iter()
            .filter(is_chosen)
            .flat_map(|fact| &fact.parts);
        let time_us = |text: &str| Some(string_to_timestamp_nanos(text).ok()?.div_euclid(1_000));
        let times: Option<Vec<_>> = parts
            .map(|part| Some((time_us(&part.first_time)?, time_us(&part.last_time)?)))
            .collect();
        let times = times?;
        Some((
            times.iter().map(|time| time.0).min()?,
            times.iter().map(|time| time.1).max()?,
        ))
    }

    /// What a person wants to know of the session, in a few words each.
    pub fn facts(&self) -> BTreeMap<String, String> {
        let mut facts = BTreeMap::from([
            ("session".to_owned(), self.name()),
            ("start".to_owned(), time_text(self.start_us())),
            ("generation".to_owned(), self.generation().to_string()),
            ("alignment".to_owned(), self.manifest.alignment.to_string()),
            ("marey".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ]);
        let cut = |at_us: i64| time_text(self.disguise.time_us(at_us));
        if self.span.from_us != i64::MIN {
            facts.insert("from".to_owned(), cut(self.span.from_us));
        }
        if self.span.until_us != i64::MAX {
            facts.insert("to".to_owned(), cut(self.span.until_us));
        }
        for (key, value) in self.metadata() {
            facts.insert(format!("metadata.{key}"), value);
        }
        facts
    }

    /// What was changed by pseudonyms, if there are any.
    pub fn changes(&self) -> Option<Changes> {
        self.disguise.changes(&self.session, &self.streams)
    }

    /// What its people wrote down of it.
    pub fn metadata(&self) -> BTreeMap<String, String> {
        self.disguise.metadata(&self.session.metadata)
    }

    /// The rows of a stream, a batch at a time.
    pub fn rows<'r>(&'r self, stream: &'r Stream, disk: &'r dyn Disk) -> Result<Rows<'r>> {
        Ok(Rows {
            recording: self,
            stream,
            reader: self.reader(stream, disk)?,
            current: None,
        })
    }

    /// The first rows of a stream, apart from what is counted.
    pub fn peek(&self, stream: &Stream, disk: &dyn Disk) -> Result<Option<RecordBatch>> {
        let mut reader = self.reader(stream, disk)?;
        let first = reader.as_mut().and_then(Iterator::next).transpose()?;
        first.map(|batch| self.disguise.rows(&batch)).transpose()
    }

    /// None for a stream that was never sampled: its columns are in the log alone, and the folder may have none any more.
    fn reader<'r>(&self, stream: &Stream, disk: &'r dyn Disk) -> Result<Option<Reader<'r>>> {
        if stream.rows == 0 {
            return Ok(None);
        }
        let options = Options::default();
        let reader = Reader::published(disk, &self.session, &stream.key, &stream.id, &options, self.span)?;
        Ok(Some(reader))
    }

    /// The rows of a table beside the streams that are of what is exported, a batch at a time; the first is an empty one. `name`
    /// is the table's without its ending.
    pub fn table(&self, name: &str, disk: &dyn Disk, mut take: impl FnMut(&RecordBatch) -> Result) -> Result {
        let table = Table::published(disk, &self.session.id, &format!("{name}.parquet"))?;
        take(&RecordBatch::new_empty(table.schema()))?;
        for batch in table {
            let batch = batch?;
            let batch = filter_record_batch(&batch, &self.wanted(&batch)).map_err(Failure::fault)?;
            take(&self.disguise.table(name, &batch)?)?;
        }
        Ok(())
    }

    /// Which rows of a table are of a stream, a device and a time that is exported.
    fn wanted(&self, batch: &RecordBatch) -> BooleanArray {
        let text = |name| {
            batch
                .column_by_name(name)
                .and_then(|column| column.as_string_opt::<i32>())
        };
        let time = |name| {
            let column = batch.column_by_name(name)?;
            column.as_primitive_opt::<TimestampMicrosecondType>()
        };
        let (devices, streams) = (text("device"), text("stream"));
        let (times, untils) = (time("time"), time("until"));
        let wanted = |row: usize| {
            let (device, stream) = (devices.map(|it| it.value(row)), streams.map(|it| it.value(row)));
            let is_of = |it: &Stream| {
                // What people say of all of a session is of no device.
                device.is_none_or(|device| device.is_empty() || device == it.id.as_str())
                    && stream.is_none_or(|stream| stream.is_empty() || stream == it.name)
            };
            let begins = times.is_none_or(|times| times.value(row) < self.span.until_us);
            let ends = untils
                .or(times)
                .is_none_or(|ends| ends.value(row) >= self.span.from_us);
            begins && ends && self.streams.iter().any(is_of)
        };
        (0..batch.num_rows()).map(|row| Some(wanted(row))).collect()
    }

    /// Nothing was published meanwhile: all that was read is of one generation.
    pub fn is_still_it(&self) -> Result {
        let (_, now) = published_manifest(&*self.source.disk(), &self.session.id)?;
        match now == self.manifest {
            true => Ok(()),
            false => Err(Failure::fault(format!(
                "session {} was published anew meanwhile; export it again",
                self.session.id
            ))),
        }
    }

    /// Says for the log how much was in memory at a time.
    pub fn done(&self) {
        let progress = &self.progress;
        if self.output.is_watched() {
            self.output.progress_done();
        }
        tracing::debug!(
            rows = progress.done.get(),
            batches = progress.batches.get(),
            batch_bytes_max = progress.batch_bytes_max.get(),
            "exported"
        );
    }

    fn count(&self, stream: &Stream, batch: &RecordBatch) {
        let progress = &self.progress;
        progress.done.set(progress.done.get() + batch.num_rows() as u64);
        progress.batches.set(progress.batches.get() + 1);
        let bytes = batch.get_array_memory_size();
        progress
            .batch_bytes_max
            .set(progress.batch_bytes_max.get().max(bytes));
        let percent = progress.done.get() * 100 / progress.rows.max(1);
        if self.output.is_watched() && percent > progress.percent.replace(percent) {
            let (device, key) = (&stream.device, &stream.key);
            self.output.progress(format!("{percent} %  {key} of {device}"));
        }
    }
}

/// When a row of a table was: a gap of a stream of which nothing came has no time of its own, and lies at the session's start.
pub fn moment_us(table: &str, time_us: i64, start_us: i64) -> i64 {
    match (table, time_us) {
        (GAPS, 0) => start_us,
        _ => time_us,
    }
}

/// The table of what is missing.
pub const GAPS: &str = "gaps";

/// The rows of a stream in order of time, epoch and index.
pub struct Rows<'r> {
    recording: &'r Recording<'r>,
    stream: &'r Stream,
    reader: Option<Reader<'r>>,
    current: Option<RecordBatch>,
}

impl Rows<'_> {
    /// The next batch, on loan: it is gone before the one after it is read.
    pub fn next(&mut self) -> Result<Option<&RecordBatch>> {
        self.current = None;
        let Some(batch) = self.reader.as_mut().and_then(Iterator::next).transpose()? else {
            return Ok(None);
        };
        self.recording.count(self.stream, &batch);
        self.current = Some(self.recording.disguise.rows(&batch)?);
        Ok(self.current.as_ref())
    }
}

/// The five columns that every stream has.
pub struct Own<'b> {
    pub time_us: &'b [i64],
    pub device_time_ns: &'b [i64],
    pub epoch: &'b [i32],
    pub err_us: &'b [f32],
    pub seq: &'b [i64],
}

impl<'b> Own<'b> {
    pub fn of(batch: &'b RecordBatch) -> Self {
        Self {
            time_us: batch
                .column(0)
                .as_primitive::<TimestampMicrosecondType>()
                .values(),
            device_time_ns: batch.column(1).as_primitive::<Int64Type>().values(),
            epoch: batch.column(2).as_primitive::<Int32Type>().values(),
            err_us: batch.column(3).as_primitive::<Float32Type>().values(),
            seq: batch.column(4).as_primitive::<Int64Type>().values(),
        }
    }
}

fn streams(
    source: &Source,
    manifest: &Manifest,
    session: &SessionId,
    choice: &Choice,
    disguise: &Disguise,
) -> Result<Vec<Stream>> {
    let mut declarations = declarations(&*source.disk(), session)?;
    let is_named = |key: &StreamKey| {
        let is_it = |wanted: &String| *wanted == key.to_string() || wanted == key.name.as_str();
        choice.stream.is_empty() || choice.stream.iter().any(is_it)
    };
    let mut chosen = Vec::new();
    let mut known = BTreeSet::new();
    for fact in &manifest.streams {
        let Some(key) = fact.key() else { continue };
        known.insert((key.to_string(), key.name.to_string(), fact.device.clone()));
        let is_of = choice.device.is_empty() || choice.device.contains(&fact.device);
        if !is_of || !is_named(&key) {
            continue;
        }
        let missing = || {
            let (device, again) = (
                &fact.device,
                format!("`marey compact {session} --again` makes it"),
            );
            Failure::fault(format!(
                "channels.parquet says nothing of {key} of {device}; {again}"
            ))
        };
        let at = (fact.device.to_string(), key.to_string());
        chosen.push(Stream {
            declaration: declarations.remove(&at).ok_or_else(missing)?,
            device: disguise.device(&fact.device),
            id: fact.device.clone(),
            hidden: Vec::new(),
            rows: fact.rows,
            name: key.to_string(),
            key,
        });
    }
    for wanted in &choice.stream {
        if !known.iter().any(|(key, name, _)| wanted == key || wanted == name) {
            return Err(nobody(session, "stream", wanted));
        }
    }
    for wanted in &choice.device {
        if !known.iter().any(|(.., device)| wanted == device) {
            return Err(nobody(session, "device", wanted.as_str()));
        }
    }
    match chosen.is_empty() {
        false => Ok(chosen),
        true => Err(Failure::fault(format!(
            "session {session} has no stream of that kind of that device; `marey info {session}` lists them"
        ))),
    }
}

fn nobody(session: &SessionId, what: &str, wanted: &str) -> Failure {
    Failure::fault(format!(
        "session {session} has no {what} {wanted}; `marey info {session}` lists them"
    ))
}
