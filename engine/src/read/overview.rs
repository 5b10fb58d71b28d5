//! What `overview.parquet` says of a stream of a device: its channels in buckets of time, at one width.
//!
//! Whoever draws or adds up hours of samples reads this instead of them. The table is held against its hash first: what it
//! says is what was published.

use super::parquet_scan::ParquetScan;
use super::snapshot::Snapshot;
use super::{ReadError, projected};
use crate::compact::{OVERVIEW, TableFact, hash_file};
use crate::disk::Disk;
use crate::session::Session;
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, Int64Type, TimestampMicrosecondType};
use marey_format::payload::StreamKey;
use marey_format::{DeviceId, SessionId};
use std::path::Path;

/// A stream in buckets of one width; the channels that are numbers, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Level {
    pub width_us: i64,
    pub channels: Vec<(String, Vec<Bucket>)>,
}

/// What the samples of a channel within a stretch of time come to, as stored: scale and offset are not applied.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    /// Where it begins, session time in microseconds UTC.
    pub time_us: i64,
    /// Values that are numbers; the others are NaN where there are none.
    pub count: u64,
    pub min: f64,
    pub max: f64,
    pub mean: f64,
}

/// The widest level of a published stream whose buckets are no wider than that; none where there is none, as for streams
/// without numbers, and in generations that were made before there was an overview.
///
/// # Errors
/// [`ReadError::Changed`] where the table is not as it was published.
pub fn overview(
    disk: &dyn Disk,
    session: &SessionId,
    stream: &StreamKey,
    device: &DeviceId,
    width_max_us: i64,
) -> Result<Option<Level>, ReadError> {
    let snapshot = Snapshot::take(disk, session)?;
    let manifest = snapshot
        .manifest
        .filter(|_| snapshot.dir == Session::dir(session));
    let table = manifest.and_then(|manifest| manifest.table(OVERVIEW).cloned());
    let Some(table) = table else {
        return Ok(None);
    };
    match level(disk, &snapshot.dir, &table, (stream, device), width_max_us)? {
        Found::Changed => Err(ReadError::Changed {
            session: session.clone(),
            path: disk.describe(&snapshot.dir.join(OVERVIEW)),
        }),
        Found::Level(level) => Ok(level),
    }
}

pub(super) enum Found {
    /// It is not the table that the manifest names: damaged, or published anew meanwhile.
    Changed,
    Level(Option<Level>),
}

/// The same of a table in a folder.
pub(super) fn level(
    disk: &dyn Disk,
    dir: &Path,
    table: &TableFact,
    (stream, device): (&StreamKey, &DeviceId),
    width_max_us: i64,
) -> Result<Found, ReadError> {
    let path = dir.join(&table.path);
    if hash_file(disk, &path)? != table.hashes.blake3 {
        return Ok(Found::Changed);
    }
    let scan = ParquetScan::new(disk, vec![path.clone()]);
    let Some(schema) = scan.schema()? else {
        return Ok(Found::Level(None));
    };
    let columns: Vec<usize> = (0..schema.fields().len()).collect();
    let schema = projected(&schema, &columns)?;
    let (stream, device) = (stream.to_string(), device.as_str());
    let mut level = None;
    for batch in scan.with_columns(schema, columns) {
        take(&batch?, (&stream, device), width_max_us, &mut level).ok_or_else(|| ReadError::Parquet {
            path: disk.describe(&path),
            what: "it has not the columns of an overview".to_owned(),
        })?;
    }
    Ok(Found::Level(level))
}

/// The rows of the stream; they come from the narrowest level to the widest.
fn take(
    batch: &RecordBatch,
    (stream, device): (&str, &str),
    width_max_us: i64,
    level: &mut Option<Level>,
) -> Option<()> {
    let text = |name| batch.column_by_name(name)?.as_string_opt::<i32>();
    let whole = |name| batch.column_by_name(name)?.as_primitive_opt::<Int64Type>();
    let real = |name| batch.column_by_name(name)?.as_primitive_opt::<Float64Type>();
    let (devices, streams, channels) = (text("device")?, text("stream")?, text("channel")?);
    let times = batch
        .column_by_name("time")?
        .as_primitive_opt::<TimestampMicrosecondType>()?;
    let (widths, counts) = (whole("width_us")?, whole("count")?);
    let (mins, maxs, means) = (real("min")?, real("max")?, real("mean")?);
    for row in 0..batch.num_rows() {
        let width_us = widths.value(row);
        if width_us > width_max_us || streams.value(row) != stream || devices.value(row) != device {
            continue;
        }
        if level.as_ref().is_none_or(|level| level.width_us != width_us) {
            *level = Some(Level {
                width_us,
                channels: Vec::new(),
            });
        }
        let Level { channels: known, .. } = level.as_mut()?;
        let channel = channels.value(row);
        if known.last().is_none_or(|(name, _)| name != channel) {
            known.push((channel.to_owned(), Vec::new()));
        }
        known.last_mut()?.1.push(Bucket {
            time_us: times.value(row),
            count: counts.value(row).max(0).cast_unsigned(),
            min: mins.value(row),
            max: maxs.value(row),
            mean: means.value(row),
        });
    }
    Some(())
}
