//! Reading: one ordered Arrow stream of a stream of a device, over what is in Parquet and what is still in the log.
//!
//! `snapshot` finds the newest Parquet there is, `plan` says what it lacks, `parquet_scan` and `log_scan` give rows in
//! order, `merge` makes one stream of them; `follow` gives what comes while it is recorded. The schema is that of the Parquet
//! files. `published`, `overview`, `channels`, `statistics` and `gaps` look at what is published alone.
//!
//! Rows of the log are placed in time by the clocks as they are known now; those in Parquet by the clocks as they were
//! known then. Nothing is written.

mod channels;
mod follow;
mod gaps;
mod log_scan;
mod merge;
mod overview;
mod parquet_scan;
mod plan;
mod published;
mod snapshot;
mod statistics;
mod strip;

#[cfg(test)]
mod tests;

pub use channels::declarations;
pub use follow::{Came, Follow};
pub use gaps::{GapRow, gaps};
pub use overview::{Bucket, Level, overview};
pub use published::{Span, Table, check_published, published_manifest};
pub use statistics::{ChannelStatistics, StreamParts, StreamStatistics, parts, statistics};
pub use strip::{Stretch, span, strip};

use crate::compact::CompactError;
use crate::disk::Disk;
use crate::error::StorageError;
use crate::options::Options;
use crate::session::Session;
use arrow::array::RecordBatch;
use arrow::datatypes::{Field, SchemaRef};
use marey_format::payload::StreamKey;
use marey_format::{DeviceId, SessionId};
use std::path::PathBuf;

/// Rows of a batch, at most.
const BATCH_ROWS: usize = 16 << 10;

/// Bytes of values of a batch, at most, but for one row that is longer.
const BATCH_BYTES: usize = 8 << 20;

/// The rows of one stream of one device, in order of (time, epoch, seq): an iterator of record batches.
pub struct Reader<'d> {
    schema: SchemaRef,
    rows: Box<dyn Iterator<Item = Result<RecordBatch, ReadError>> + 'd>,
    failed: bool,
}

impl std::fmt::Debug for Reader<'_> {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("Reader")
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}

/// Why rows can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The logs can't be read.
    #[error(transparent)]
    Log(#[from] CompactError),
    #[error("session {session} has no stream {stream} of {device}; `marey info` lists those that there are")]
    NoStream {
        session: SessionId,
        stream: StreamKey,
        device: DeviceId,
    },
    #[error("session {session} has nothing published yet; `marey compact {session}` publishes it")]
    NotPublished { session: SessionId },
    #[error("{path}: {what}")]
    Parquet { path: PathBuf, what: String },
    #[error(
        "{path} is not as it was published; `marey verify` says what else is wrong, `marey compact {session} --again` makes it anew from the log"
    )]
    Changed { session: SessionId, path: PathBuf },
    #[error("rows can't be put together: {what}")]
    Rows { what: String },
}

impl<'d> Reader<'d> {
    /// Opens a stream of a device. What waits for its log in a store's memory is not seen: flush it first.
    pub fn open(
        disk: &'d dyn Disk,
        session: &Session,
        stream: &StreamKey,
        device: &DeviceId,
        options: &Options,
    ) -> Result<Self, ReadError> {
        Self::open_channels(disk, session, stream, device, options, &|_| true)
    }

    /// The same, of the channels only those that are wanted: the rest is not read from Parquet. The five columns before the
    /// channels are always there.
    pub fn open_channels(
        disk: &'d dyn Disk,
        session: &Session,
        stream: &StreamKey,
        device: &DeviceId,
        options: &Options,
        wanted: &dyn Fn(&Field) -> bool,
    ) -> Result<Self, ReadError> {
        let snapshot = snapshot::Snapshot::take(disk, &session.id)?;
        let plan = plan::plan(disk, session, &snapshot, stream, device, options)?;
        let published = parquet_scan::ParquetScan::new(disk, plan.parts);
        let (schema, rows): (SchemaRef, Box<dyn Iterator<Item = _> + 'd>) = match plan.later {
            None => match published.schema()? {
                Some(whole) => {
                    let columns = columns(&whole, wanted);
                    let schema = projected(&whole, &columns)?;
                    (schema.clone(), Box::new(published.with_columns(schema, columns)))
                }
                None => return Err(no_stream(session, stream, device)),
            },
            Some(later) => {
                let later = log_scan::LogScan::new(disk, &session.id, later)?;
                let whole = later.schema();
                let columns = columns(&whole, wanted);
                let schema = projected(&whole, &columns)?;
                let published = published.with_columns(schema.clone(), columns.clone());
                // A log is read by whole frames.
                let later = later.map(move |batch| {
                    batch?.project(&columns).map_err(|error| ReadError::Rows {
                        what: error.to_string(),
                    })
                });
                let sources: Vec<Box<dyn Iterator<Item = _> + 'd>> =
                    vec![Box::new(published), Box::new(later)];
                (schema, Box::new(merge::Merge::new(sources, BATCH_ROWS)))
            }
        };
        Ok(Self {
            schema,
            rows,
            failed: false,
        })
    }

    /// The schema of every batch.
    pub fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
}

/// Columns before the channels.
const OWN_COLUMNS: usize = 5;

fn columns(whole: &SchemaRef, wanted: &dyn Fn(&Field) -> bool) -> Vec<usize> {
    let fields = whole.fields().iter().enumerate();
    let kept = fields.filter(|(at, field)| *at < OWN_COLUMNS || wanted(field));
    kept.map(|(at, _)| at).collect()
}

fn projected(whole: &SchemaRef, columns: &[usize]) -> Result<SchemaRef, ReadError> {
    let schema = whole.project(columns).map_err(|error| ReadError::Rows {
        what: error.to_string(),
    })?;
    Ok(schema.into())
}

fn no_stream(session: &Session, stream: &StreamKey, device: &DeviceId) -> ReadError {
    ReadError::NoStream {
        session: session.id.clone(),
        stream: stream.clone(),
        device: device.clone(),
    }
}

impl Iterator for Reader<'_> {
    type Item = Result<RecordBatch, ReadError>;

    /// The next batch; nothing follows an error.
    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.rows.next();
        self.failed = matches!(next, Some(Err(_)));
        next
    }
}

/// Every stream of every device of a session, from Parquet and logs, in order of stream and device.
pub fn streams(
    disk: &dyn Disk,
    session: &Session,
    options: &Options,
) -> Result<Vec<(StreamKey, DeviceId)>, ReadError> {
    plan::streams(
        disk,
        session,
        &snapshot::Snapshot::take(disk, &session.id)?,
        options,
    )
}
