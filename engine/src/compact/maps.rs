//! Published clock maps and their evidence, read back: to see what a realignment changed, and to draw it.

use super::CompactError;
use super::files::FileChunks;
use super::manifest::{Manifest, TableFact};
use super::survey::hash_file;
use super::tables::{CLOCK_MAP, CLOCK_PROBES};
use crate::disk::Disk;
use crate::error::StorageError;
use ::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use ::parquet::errors::ParquetError;
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, Int32Type, Int64Type};
use std::path::Path;

pub use super::tables::earlier_map;

/// Rows read at a time.
const BATCH_ROWS: usize = 64 << 10;

/// The published map of one clock of a device.
#[derive(Clone, Debug, PartialEq)]
pub struct PublishedMap {
    pub device: String,
    /// The boot id, or the id of the one epoch.
    pub clock: String,
    /// Ordinals of the epochs on it, as ranges.
    pub epochs: String,
    /// In order of device time.
    pub rows: Vec<crate::clock::MapRow>,
}

impl PublishedMap {
    /// Whether an epoch is on this clock.
    pub fn has_epoch(&self, epoch: i32) -> bool {
        self.epochs.split(',').any(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let ends = first.parse::<i32>().ok().zip(last.parse::<i32>().ok());
            ends.is_some_and(|(first, last)| (first..=last).contains(&epoch))
        })
    }

    /// Session time of a device time, in nanoseconds: by the last row that begins no later, or the first.
    pub fn at(&self, dev_ns: i64) -> Option<i64> {
        let after = self.rows.partition_point(|row| row.device_time_ns <= dev_ns);
        let row = self.rows.get(after.saturating_sub(1))?;
        let since_ns = dev_ns.saturating_sub(row.device_time_ns) as f64 * row.rate;
        Some(row.session_ns.saturating_add(since_ns.round() as i64))
    }
}

/// One piece of published clock evidence. Stamps are nanoseconds; 0 where the kind has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedProbe {
    pub device: String,
    pub epoch: i32,
    pub kind: String,
    pub hub_epoch: String,
    pub dev_send_ns: i64,
    pub hub_recv_ns: i64,
    pub hub_send_ns: i64,
    pub dev_recv_ns: i64,
}

/// The clock maps of a session, one for each clock, in the order of the file. `name`: `clock_map.parquet`, or what
/// [`earlier_map`] says. None if the file is not there.
///
/// # Errors
/// If it can't be read, or is no clock map.
pub fn read_map(
    disk: &dyn Disk,
    session_dir: &Path,
    name: Option<&str>,
) -> Result<Option<Vec<PublishedMap>>, CompactError> {
    let mut maps: Vec<PublishedMap> = Vec::new();
    let found = each_batch(disk, &session_dir.join(name.unwrap_or(CLOCK_MAP)), |batch| {
        let (device, clock, epochs) = (
            text(batch, "device")?,
            text(batch, "clock")?,
            text(batch, "epochs")?,
        );
        let segment = of_type::<Int32Type>(batch, "segment")?;
        let device_time_ns = of_type::<Int64Type>(batch, "device_time_ns")?;
        let session_ns = of_type::<Int64Type>(batch, "session_time_ns")?;
        let rate = of_type::<Float64Type>(batch, "rate")?;
        let err_us = of_type::<Float64Type>(batch, "err_us")?;
        let detectable_us = of_type::<Float64Type>(batch, "detectable_us")?;
        for at in 0..batch.num_rows() {
            let row = crate::clock::MapRow {
                device_time_ns: device_time_ns[at],
                session_ns: session_ns[at],
                rate: rate[at],
                err_ns: err_us[at] * 1e3,
                detectable_ns: detectable_us[at] * 1e3,
                segment: segment[at].cast_unsigned(),
            };
            match maps.last_mut() {
                Some(map) if map.device == device[at] && map.clock == clock[at] => map.rows.push(row),
                _ => maps.push(PublishedMap {
                    device: device[at].to_owned(),
                    clock: clock[at].to_owned(),
                    epochs: epochs[at].to_owned(),
                    rows: vec![row],
                }),
            }
        }
        Ok(())
    })?;
    Ok(found.then_some(maps))
}

/// Calls `take` with every piece of clock evidence of a session. False if the file is not there.
///
/// # Errors
/// If it can't be read, or holds something else.
pub fn read_probes(
    disk: &dyn Disk,
    session_dir: &Path,
    mut take: impl FnMut(PublishedProbe),
) -> Result<bool, CompactError> {
    each_batch(disk, &session_dir.join(CLOCK_PROBES), |batch| {
        let (device, kind) = (text(batch, "device")?, text(batch, "kind")?);
        let (epoch, hub_epoch) = (of_type::<Int32Type>(batch, "epoch")?, text(batch, "hub_epoch")?);
        let dev_send_ns = of_type::<Int64Type>(batch, "dev_send_ns")?;
        let hub_recv_ns = of_type::<Int64Type>(batch, "hub_recv_ns")?;
        let hub_send_ns = of_type::<Int64Type>(batch, "hub_send_ns")?;
        let dev_recv_ns = of_type::<Int64Type>(batch, "dev_recv_ns")?;
        for at in 0..batch.num_rows() {
            take(PublishedProbe {
                device: device[at].to_owned(),
                epoch: epoch[at],
                kind: kind[at].to_owned(),
                hub_epoch: hub_epoch[at].to_owned(),
                dev_send_ns: dev_send_ns[at],
                hub_recv_ns: hub_recv_ns[at],
                hub_send_ns: hub_send_ns[at],
                dev_recv_ns: dev_recv_ns[at],
            });
        }
        Ok(())
    })
}

/// Holds clock map and evidence against the manifest: Parquet that was damaged is not to be decoded.
///
/// # Errors
/// If one of them can't be read, or is not what the manifest names.
pub fn check_clock_tables(
    disk: &dyn Disk,
    session_dir: &Path,
    manifest: &Manifest,
) -> Result<(), StorageError> {
    let named = |table: &&TableFact| [CLOCK_MAP, CLOCK_PROBES].contains(&table.path.as_str());
    for table in manifest.tables.iter().filter(named) {
        let path = session_dir.join(&table.path);
        let io = |error| StorageError::io("looking at", disk.describe(&path), error);
        let why = match disk.stat(&path).map_err(io)?.filter(|stat| !stat.is_dir) {
            None => "it is missing",
            Some(_) if hash_file(disk, &path)? != table.hashes.blake3 => {
                "its bytes are not those of the manifest"
            }
            Some(_) => continue,
        };
        let what = format!(
            "{why}; `marey compact {} --again` makes it again",
            manifest.session
        );
        return Err(StorageError::damaged(disk.describe(&path), what));
    }
    Ok(())
}

/// What is wrong with a column.
type Lacks = String;

/// Calls `take` with every batch of a Parquet file; false if there is none.
fn each_batch(
    disk: &dyn Disk,
    path: &Path,
    mut take: impl FnMut(&RecordBatch) -> Result<(), Lacks>,
) -> Result<bool, CompactError> {
    let io = |error| StorageError::io("reading", disk.describe(path), error);
    if disk.stat(path).map_err(io)?.is_none() {
        return Ok(false);
    }
    let chunks = FileChunks::open(disk, path).map_err(io)?;
    let parquet = |error: ParquetError| match error {
        ParquetError::External(source) if source.is::<std::io::Error>() => {
            io(*source.downcast().expect("it was just looked at")).into()
        }
        error => CompactError::parquet(disk, path, error),
    };
    let builder = ParquetRecordBatchReaderBuilder::try_new(chunks).map_err(parquet)?;
    for batch in builder.with_batch_size(BATCH_ROWS).build().map_err(parquet)? {
        let batch = batch.map_err(|error| parquet(error.into()))?;
        take(&batch).map_err(|what| StorageError::damaged(disk.describe(path), what))?;
    }
    Ok(true)
}

fn column<'b>(batch: &'b RecordBatch, name: &str) -> Result<&'b dyn Array, Lacks> {
    let column = batch.column_by_name(name);
    let column = column.ok_or_else(|| format!("it has no column {name}"))?;
    match column.null_count() {
        0 => Ok(column),
        _ => Err(format!("column {name} has nulls")),
    }
}

fn of_type<'b, T: arrow::datatypes::ArrowPrimitiveType>(
    batch: &'b RecordBatch,
    name: &str,
) -> Result<&'b [T::Native], Lacks> {
    let array = column(batch, name)?.as_primitive_opt::<T>();
    let array = array.ok_or_else(|| format!("column {name} is not {}", T::DATA_TYPE))?;
    Ok(array.values())
}

fn text<'b>(batch: &'b RecordBatch, name: &str) -> Result<Vec<&'b str>, Lacks> {
    let array = column(batch, name)?.as_string_opt::<i32>();
    let array = array.ok_or_else(|| format!("column {name} is not text"))?;
    Ok(array.iter().flatten().collect())
}
