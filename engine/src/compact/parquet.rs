//! Parquet files: the parts of a stream, and the tables beside the streams.
//!
//! One encoder for each file, fed in one order, in batches and row groups cut by the rows alone: whatever else goes on
//! at the time, the bytes are the same.

use super::CompactError;
use super::columns::{BatchBuilder, Rows};
use super::encode::{FileWriter, Scratch};
use super::encodings::{self, Encodings};
use super::files::{HashedFile, Hashes};
use super::metadata::stream_schema;
use super::overview::Overview;
use super::runs::RowMerge;
use super::source::{FrameSource, Piece};
use super::survey::{DeviceSurvey, StreamPlan};
use super::timeline::{Placing, Timeline};
use crate::disk::{Disk, File};
use crate::error::StorageError;
use crate::options::Options;
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Float32Type, SchemaRef, TimestampMicrosecondType};
use marey_format::payload::StreamKey;
use marey_format::types::rfc3339;
use marey_format::{DeviceId, SessionId};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows of a batch.
pub const BATCH_ROWS: usize = 16 << 10;

/// Bytes of values of a batch, beyond which it is cut short.
pub const BATCH_BYTES: usize = 8 << 20;

/// Row groups of a part.
const PART_ROW_GROUPS: usize = 64;

/// Places of a log that a sample is taken from.
const SAMPLE_PIECES: usize = 8;

/// One stream of one device, to be written.
#[derive(Debug)]
pub struct StreamJob<'a> {
    pub disk: &'a dyn Disk,
    pub session: &'a SessionId,
    pub survey: &'a DeviceSurvey,
    pub plan: Arc<StreamPlan>,
    pub timeline: Arc<Timeline>,
    pub options: &'a Options,
    /// Session time after which captures count as after the stop.
    pub stop_us: Option<i64>,
    /// The folder that stands for `streams/`.
    pub streams_dir: &'a Path,
    pub generation: u32,
    /// Streams that are written meanwhile, this one included.
    pub beside: usize,
}

/// What a stream came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WrittenStream {
    pub parts: Vec<WrittenPart>,
    pub rows: u64,
    /// Of those, captured after the session was stopped.
    pub after_stop: u64,
    /// The widest bound; infinite if one is.
    pub err_us_max: f32,
    pub overview: Overview,
}

/// One file of it.
#[derive(Clone, Debug, PartialEq)]
pub struct WrittenPart {
    /// Below `streams/`.
    pub path: PathBuf,
    pub hashes: Hashes,
    pub rows: u64,
    /// RFC 3339.
    pub first_time: String,
    pub last_time: String,
}

/// A file that is written and not synced.
#[derive(Debug)]
pub struct Unsynced {
    path: PathBuf,
    file: Arc<dyn File>,
}

impl Unsynced {
    /// Makes its content durable.
    pub fn sync(&self, disk: &dyn Disk) -> Result<(), StorageError> {
        let io = |error| StorageError::io("syncing", disk.describe(&self.path), error);
        self.file.sync().map_err(io)
    }
}

/// The folder of a stream of a device, below `streams/`.
pub fn stream_dir(key: &StreamKey, device: &DeviceId) -> PathBuf {
    Path::new(&format!("stream={key}")).join(format!("device={device}"))
}

/// The name of a part.
pub fn part_name(generation: u32, number: u32) -> String {
    format!("part-g{generation:04}-{number:06}.parquet")
}

/// Writes all parts of a stream. Nothing is durable before the last one, which is returned, is synced, and their folder is,
/// and those above it.
pub fn write_stream(job: &StreamJob<'_>) -> Result<(WrittenStream, Option<Unsynced>), CompactError> {
    let plan = &job.plan;
    let source = || FrameSource::new(job.disk, job.session, &job.survey.device, &job.survey.epochs);
    if plan.frames.is_empty() {
        return Ok(Default::default());
    }
    let schema = stream_schema(&plan.declaration);
    let mut sampled = source();
    let refused = |error| CompactError::encoding(plan.key.to_string(), &error);
    let encodings = Encodings::choose(&schema, |rows| sample(&mut sampled, job, &schema, rows), refused)?;
    let mut scratch = Some(encodings::scratch().map_err(refused)?);
    let dir = stream_dir(&plan.key, &job.survey.device);
    let mut above = job.streams_dir.to_owned();
    for name in &dir {
        above.push(name);
        let io = |error| StorageError::io("making", job.disk.describe(&above), error);
        job.disk.create_dir(&above).map_err(io)?;
    }

    let mut merge = RowMerge::new(
        source(),
        plan.clone(),
        job.survey.device.clone(),
        job.timeline.clone(),
    )?;
    let mut builder = BatchBuilder::new(schema.clone(), &plan.declaration);
    let mut written = WrittenStream {
        overview: Overview::new(&schema, job.beside),
        ..WrittenStream::default()
    };
    let mut part: Option<Part<'_>> = None;
    let mut unsynced = None;
    loop {
        let group_left = part
            .as_ref()
            .map_or(job.options.row_group_rows, |part| part.group_room(job.options));
        let most = BATCH_ROWS.min(group_left.max(1)).saturating_sub(builder.rows());
        let stretch = match most {
            0 => None,
            most => merge.next(most.min(builder.room(BATCH_BYTES)))?,
        };
        let ended = stretch.is_none() && most > 0;
        if let Some((rows, range)) = stretch {
            builder.append(rows, range);
            if builder.rows() < BATCH_ROWS.min(group_left) && builder.bytes() < BATCH_BYTES {
                continue;
            }
        }
        if builder.rows() > 0 {
            let current = match &mut part {
                Some(part) => part,
                None => {
                    let number = written.parts.len() as u32;
                    let path = dir.join(part_name(job.generation, number));
                    let scratch = scratch
                        .take()
                        .map_or_else(encodings::scratch, Ok)
                        .map_err(refused)?;
                    part.insert(Part::create(job, path, &schema, &encodings, scratch)?)
                }
            };
            let bytes = builder.bytes();
            let batch = builder
                .finish()
                .map_err(|error| CompactError::encoding(plan.key.to_string(), &error))?;
            count(&batch, job.stop_us, &mut written);
            written.overview.add(&batch);
            current.write(&batch, bytes, job.options)?;
            drop(batch);
            builder.reclaim();
        }
        let is_full = |part: &Part<'_>| part.groups == PART_ROW_GROUPS;
        if (ended || part.as_ref().is_some_and(is_full))
            && let Some(part) = part.take()
        {
            let (of_part, file, buffers) = part.finish()?;
            written.parts.push(of_part);
            // One that is full is large, and there may be any number of them: only the last one waits for the others.
            match ended {
                true => unsynced = Some(file),
                false => file.sync(job.disk)?,
            }
            scratch = Some(buffers);
        }
        if ended {
            break;
        }
    }
    written.overview.finish();
    Ok((written, unsynced))
}

/// A part that is being written.
struct Part<'a> {
    disk: &'a dyn Disk,
    path: PathBuf,
    full_path: PathBuf,
    writer: FileWriter<HashedFile<'a>>,
    rows: u64,
    group_rows: usize,
    group_bytes: usize,
    groups: usize,
    first_us: i64,
    last_us: i64,
}

impl<'a> Part<'a> {
    fn create(
        job: &StreamJob<'a>,
        path: PathBuf,
        schema: &SchemaRef,
        encodings: &Encodings,
        scratch: Scratch,
    ) -> Result<Self, CompactError> {
        let full_path = job.streams_dir.join(&path);
        let io = |error| StorageError::io("making", job.disk.describe(&full_path), error);
        let file = HashedFile::create(job.disk, &full_path, job.options).map_err(io)?;
        let writer = encodings
            .writer(file, schema, scratch)
            .map_err(|error| CompactError::parquet(job.disk, &full_path, error))?;
        Ok(Self {
            disk: job.disk,
            path,
            full_path,
            writer,
            rows: 0,
            group_rows: 0,
            group_bytes: 0,
            groups: 0,
            first_us: 0,
            last_us: 0,
        })
    }

    /// Rows that the row group still takes.
    fn group_room(&self, options: &Options) -> usize {
        options.row_group_rows.saturating_sub(self.group_rows)
    }

    fn write(&mut self, batch: &RecordBatch, bytes: usize, options: &Options) -> Result<(), CompactError> {
        let times = batch
            .column(0)
            .as_primitive::<TimestampMicrosecondType>()
            .values();
        if self.rows == 0 {
            self.first_us = times.first().copied().unwrap_or(0);
        }
        self.last_us = times.last().copied().unwrap_or(self.last_us);
        let parquet = |error| CompactError::parquet(self.disk, &self.full_path, error);
        self.writer.write(batch).map_err(parquet)?;
        self.rows += batch.num_rows() as u64;
        self.group_rows += batch.num_rows();
        self.group_bytes += bytes;
        if self.group_rows >= options.row_group_rows || self.group_bytes >= options.row_group_bytes {
            self.writer.end_group().map_err(parquet)?;
            (self.group_rows, self.group_bytes) = (0, 0);
            self.groups += 1;
        }
        Ok(())
    }

    fn finish(self) -> Result<(WrittenPart, Unsynced, Scratch), CompactError> {
        let (hashes, file, scratch) = finish(self.disk, &self.full_path, self.writer)?;
        let part = WrittenPart {
            path: self.path,
            hashes,
            rows: self.rows,
            first_time: rfc3339(self.first_us),
            last_time: rfc3339(self.last_us),
        };
        Ok((part, file, scratch))
    }
}

fn finish(
    disk: &dyn Disk,
    path: &Path,
    writer: FileWriter<HashedFile<'_>>,
) -> Result<(Hashes, Unsynced, Scratch), CompactError> {
    let (mut file, scratch) = writer
        .finish()
        .map_err(|error| CompactError::parquet(disk, path, error))?;
    let io = |error| CompactError::from(StorageError::io("writing", disk.describe(path), error));
    let hashes = file.finish().map_err(io)?;
    let unsynced = Unsynced {
        path: path.to_owned(),
        file: file.file(),
    };
    Ok((hashes, unsynced, scratch))
}

fn count(batch: &RecordBatch, stop_us: Option<i64>, written: &mut WrittenStream) {
    let times = batch
        .column(0)
        .as_primitive::<TimestampMicrosecondType>()
        .values();
    let errs = batch.column(3).as_primitive::<Float32Type>().values();
    written.rows += batch.num_rows() as u64;
    if let Some(stop_us) = stop_us {
        written.after_stop += (times.len() - times.partition_point(|&time| time <= stop_us)) as u64;
    }
    // None is negative or NaN, and the bits of such floats are in their order.
    let most = errs.iter().fold(0, |most, err| err.to_bits().max(most));
    written.err_us_max = written.err_us_max.max(f32::from_bits(most));
}

/// Rows from pieces spread over the log, so many or what there is: what encodings are chosen on. Their times do not matter.
fn sample(
    source: &mut FrameSource<'_>,
    job: &StreamJob<'_>,
    schema: &SchemaRef,
    rows: usize,
) -> Result<RecordBatch, CompactError> {
    let (frames, of) = (&job.plan.frames, rows);
    let mut builder = BatchBuilder::new(schema.clone(), &job.plan.declaration);
    let (mut rows, mut piece, mut nowhere) = (Rows::default(), Piece::default(), Placing::nowhere());
    let mut at = 0;
    for number in 0..SAMPLE_PIECES {
        at = at.max(number * frames.len() / SAMPLE_PIECES);
        let enough = (number + 1) * of / SAMPLE_PIECES;
        while at < frames.len() && builder.rows() < enough && builder.bytes() < BATCH_BYTES {
            let bytes = source.read(frames, at, &mut piece)?;
            rows.read(&bytes, frames[at].epoch, &job.plan.declaration, &mut nowhere)?;
            let most = rows
                .len()
                .min(enough - builder.rows())
                .min(builder.room(BATCH_BYTES));
            builder.append(&rows, 0..most);
            at += 1;
        }
    }
    builder
        .finish()
        .map_err(|error| CompactError::encoding(job.plan.key.to_string(), &error))
}

/// A table beside the streams, under way.
pub struct TableWriter<'a> {
    disk: &'a dyn Disk,
    path: PathBuf,
    writer: FileWriter<HashedFile<'a>>,
    group_rows: usize,
    group_rows_max: usize,
}

impl<'a> TableWriter<'a> {
    /// `head` gives so many of the first rows, or what there is: what encodings are chosen on.
    pub fn create(
        disk: &'a dyn Disk,
        path: &Path,
        schema: &SchemaRef,
        head: impl Fn(usize) -> RecordBatch,
        options: &Options,
    ) -> Result<Self, CompactError> {
        let io = |error| CompactError::from(StorageError::io("making", disk.describe(path), error));
        let parquet = |error| CompactError::parquet(disk, path, error);
        let encodings = Encodings::choose(schema, |rows| Ok(head(rows)), parquet)?;
        let file = HashedFile::create(disk, path, options).map_err(io)?;
        let writer = encodings
            .writer(file, schema, encodings::scratch().map_err(parquet)?)
            .map_err(parquet)?;
        Ok(Self {
            disk,
            path: path.to_owned(),
            writer,
            group_rows: 0,
            group_rows_max: options.row_group_rows,
        })
    }

    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), CompactError> {
        let parquet = |error| CompactError::parquet(self.disk, &self.path, error);
        self.writer.write(batch).map_err(parquet)?;
        self.group_rows += batch.num_rows();
        if self.group_rows >= self.group_rows_max {
            self.writer.end_group().map_err(parquet)?;
            self.group_rows = 0;
        }
        Ok(())
    }

    /// Makes it durable; its name is the caller's to sync.
    pub fn finish(self) -> Result<Hashes, CompactError> {
        let (hashes, file, _) = finish(self.disk, &self.path, self.writer)?;
        file.sync(self.disk)?;
        Ok(hashes)
    }
}

/// Writes a table beside the streams that is at hand as a whole.
pub fn write_table(
    disk: &dyn Disk,
    path: &Path,
    schema: &SchemaRef,
    batches: &[RecordBatch],
    options: &Options,
) -> Result<Hashes, CompactError> {
    let head = |rows: usize| match batches.first() {
        Some(batch) => batch.slice(0, rows.min(batch.num_rows())),
        None => RecordBatch::new_empty(schema.clone()),
    };
    let mut writer = TableWriter::create(disk, path, schema, head, options)?;
    for batch in batches {
        writer.write(batch)?;
    }
    writer.finish()
}
