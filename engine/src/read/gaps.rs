//! The gaps of a session's newest generation, a page at a time.

use super::ReadError;
use crate::compact::FileChunks;
use crate::disk::Disk;
use crate::error::StorageError;
use crate::session::Session;
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Float32Type, Int32Type, Int64Type, TimestampMicrosecondType};
use marey_format::SessionId;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

/// A range of sample indices that is missing, as `gaps.parquet` has it.
#[derive(Clone, Debug, PartialEq)]
pub struct GapRow {
    pub device: String,
    pub stream: String,
    pub epoch: i32,
    pub first_seq: i64,
    pub last_seq: i64,
    pub samples: i64,
    pub cause: String,
    /// Session time in microseconds UTC.
    pub time_us: i64,
    pub until_us: i64,
    pub time_err_us: f32,
}

const GAPS: &str = "gaps.parquet";

/// At most `limit` gaps behind the first `skip`, in the order of the file. None if nothing is published yet.
///
/// # Errors
/// If the file can't be read, or is not of its form.
pub fn gaps(
    disk: &dyn Disk,
    session: &SessionId,
    skip: usize,
    limit: usize,
) -> Result<Option<Vec<GapRow>>, ReadError> {
    let path = Session::dir(session).join(GAPS);
    let io = |error| StorageError::io("reading", disk.describe(&path), error);
    if disk.stat(&path).map_err(io)?.is_none() {
        return Ok(None);
    }
    let broken = |what: String| ReadError::Parquet {
        path: disk.describe(&path),
        what,
    };
    let chunks = FileChunks::open(disk, &path).map_err(io)?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(chunks).map_err(|e| broken(e.to_string()))?;
    let reader = builder.with_offset(skip).with_limit(limit).build();
    let mut found = Vec::new();
    for batch in reader.map_err(|e| broken(e.to_string()))? {
        let batch = batch.map_err(|e| broken(e.to_string()))?;
        rows(&batch, &mut found).ok_or_else(|| broken("it has not the columns of a table of gaps".into()))?;
    }
    Ok(Some(found))
}

fn rows(batch: &RecordBatch, to: &mut Vec<GapRow>) -> Option<()> {
    let column = |name| {
        batch
            .column_by_name(name)
            .filter(|column| column.null_count() == 0)
    };
    let text = |name| column(name)?.as_string_opt::<i32>();
    let (device, stream, cause) = (text("device")?, text("stream")?, text("cause")?);
    let long = |name| column(name)?.as_primitive_opt::<Int64Type>();
    let (first, last, samples) = (long("first_seq")?, long("last_seq")?, long("samples")?);
    let epoch = column("epoch")?.as_primitive_opt::<Int32Type>()?;
    let time = |name| column(name)?.as_primitive_opt::<TimestampMicrosecondType>();
    let (from, until) = (time("time")?, time("until")?);
    let error = column("time_err_us")?.as_primitive_opt::<Float32Type>()?;
    for at in 0..batch.num_rows() {
        to.push(GapRow {
            device: device.value(at).to_owned(),
            stream: stream.value(at).to_owned(),
            epoch: epoch.value(at),
            first_seq: first.value(at),
            last_seq: last.value(at),
            samples: samples.value(at),
            cause: cause.value(at).to_owned(),
            time_us: from.value(at),
            until_us: until.value(at),
            time_err_us: error.value(at),
        });
    }
    Some(())
}
