//! What is published of a session, and nothing else: the rows of a stream within a span of time, and the tables beside.

use super::parquet_scan::ParquetScan;
use super::snapshot::Snapshot;
use super::{ReadError, Reader, no_stream};
use crate::compact::{Manifest, StreamFact, hash_file};
use crate::disk::Disk;
use crate::error::StorageError;
use crate::options::Options;
use crate::session::Session;
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{SchemaRef, TimestampMicrosecondType};
use marey_format::payload::StreamKey;
use marey_format::{DeviceId, SessionId};
use std::path::PathBuf;

/// A span of session time, in microseconds UTC; its end is not in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub from_us: i64,
    pub until_us: i64,
}

impl Span {
    pub const ALL: Self = Self {
        from_us: i64::MIN,
        until_us: i64::MAX,
    };
}

/// The manifest of the newest generation, and the folder that its paths start from.
///
/// # Errors
/// [`ReadError::NotPublished`] where there is none.
pub fn published_manifest(disk: &dyn Disk, session: &SessionId) -> Result<(PathBuf, Manifest), ReadError> {
    let snapshot = Snapshot::take(disk, session)?;
    let is_live = snapshot.dir != Session::dir(session);
    match snapshot.manifest.filter(|_| !is_live) {
        Some(manifest) => Ok((snapshot.dir, manifest)),
        None => Err(ReadError::NotPublished {
            session: session.clone(),
        }),
    }
}

/// Fails where a file of what is published is not as it was written: those of the streams that are wanted, and of the tables that are
/// named. Parquet has no checksum of its values, and would give others without a word.
///
/// # Errors
/// [`ReadError::Changed`] names the first.
pub fn check_published(
    disk: &dyn Disk,
    session: &SessionId,
    is_wanted: impl Fn(&StreamFact) -> bool,
    tables: &[&str],
) -> Result<(), ReadError> {
    let (dir, manifest) = published_manifest(disk, session)?;
    let streams = manifest.streams.iter().filter(|stream| is_wanted(stream));
    let parts = streams
        .flat_map(|stream| &stream.parts)
        .map(|part| (&part.path, &part.hashes));
    let tables = manifest
        .tables
        .iter()
        .filter(|table| tables.contains(&table.path.as_str()))
        .map(|table| (&table.path, &table.hashes));
    for (path, hashes) in tables.chain(parts) {
        let path = dir.join(path);
        if hash_file(disk, &path)? != hashes.blake3 {
            let (session, path) = (session.clone(), disk.describe(&path));
            return Err(ReadError::Changed { session, path });
        }
    }
    Ok(())
}

impl<'d> Reader<'d> {
    /// Opens what is published of a stream of a device, within a span. Frames that came later are not in it.
    pub fn published(
        disk: &'d dyn Disk,
        session: &Session,
        stream: &StreamKey,
        device: &DeviceId,
        options: &Options,
        span: Span,
    ) -> Result<Self, ReadError> {
        let (dir, manifest) = published_manifest(disk, &session.id)?;
        let is_it = |fact: &&StreamFact| fact.device == *device && fact.key().as_ref() == Some(stream);
        if !manifest.streams.iter().any(|fact| is_it(&fact)) {
            return Err(no_stream(session, stream, device));
        }
        let parts = manifest.parts(stream, device);
        let parts: Vec<PathBuf> = parts.iter().map(|part| dir.join(&part.path)).collect();
        let scan = ParquetScan::new(disk, parts).within(span);
        let Some(schema) = scan.schema()? else {
            // Never sampled: its columns are in the log, and what came since is not published.
            let schema = Self::open(disk, session, stream, device, options)?.schema();
            return Ok(Self {
                schema,
                rows: Box::new(std::iter::empty()),
                failed: false,
            });
        };
        let columns = (0..schema.fields().len()).collect();
        let rows = scan.with_columns(schema.clone(), columns);
        Ok(Self {
            schema,
            rows: Box::new(rows.filter_map(move |batch| {
                let cut = batch.map(|batch| cut(&batch, span));
                cut.map(|batch| (batch.num_rows() > 0).then_some(batch))
                    .transpose()
            })),
            failed: false,
        })
    }
}

/// The rows of a batch that lie in a span.
fn cut(batch: &RecordBatch, span: Span) -> RecordBatch {
    let times = batch
        .column(0)
        .as_primitive::<TimestampMicrosecondType>()
        .values();
    let from = times.partition_point(|time| *time < span.from_us);
    let until = times.partition_point(|time| *time < span.until_us);
    batch.slice(from, until.saturating_sub(from))
}

/// A table beside the streams, such as `gaps.parquet`, batch by batch.
pub struct Table<'d> {
    schema: SchemaRef,
    rows: Box<dyn Iterator<Item = Result<RecordBatch, ReadError>> + 'd>,
}

impl std::fmt::Debug for Table<'_> {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("Table")
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}

impl<'d> Table<'d> {
    /// Opens one of the newest generation's.
    ///
    /// # Errors
    /// If nothing is published, or not that table.
    pub fn published(disk: &'d dyn Disk, session: &SessionId, name: &str) -> Result<Self, ReadError> {
        let (dir, manifest) = published_manifest(disk, session)?;
        let path = dir.join(name);
        if manifest.table(name).is_none() {
            let error = std::io::Error::from(std::io::ErrorKind::NotFound);
            return Err(StorageError::io("reading", disk.describe(&path), error).into());
        }
        let scan = ParquetScan::new(disk, vec![path.clone()]);
        let schema = scan.schema()?.ok_or_else(|| ReadError::Parquet {
            path: disk.describe(&path),
            what: "it has no columns".to_owned(),
        })?;
        let columns = (0..schema.fields().len()).collect();
        Ok(Self {
            rows: Box::new(scan.with_columns(schema.clone(), columns)),
            schema,
        })
    }

    /// The schema of every batch.
    pub fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
}

impl Iterator for Table<'_> {
    type Item = Result<RecordBatch, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.rows.next()
    }
}
