//! A stream over time in so many equal stretches: how many samples, and the widest bound. For pictures.

use super::parquet_scan::{ERROR, Ends, ParquetScan, TIME};
use super::statistics::StreamParts;
use super::{ReadError, projected};
use crate::disk::Disk;
use arrow::array::AsArray;
use arrow::datatypes::{Float32Type, TimestampMicrosecondType};

/// One of them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stretch {
    pub samples: u64,
    /// Infinite where a sample has no bound; none where there is no sample.
    pub err_us_max: Option<f32>,
}

/// The stretches of a span of session time, in microseconds, both ends in it. Long: it reads two columns of all parts.
///
/// # Errors
/// If they can't be read; a generation that was published meanwhile may have taken their place.
pub fn strip(
    disk: &dyn Disk,
    parts: &StreamParts,
    (from_us, until_us): (i64, i64),
    stretches: usize,
) -> Result<Vec<Stretch>, ReadError> {
    let mut strip = vec![Stretch::default(); stretches];
    let scan = ParquetScan::new(disk, parts.paths.clone());
    let Some(whole) = scan.schema()? else {
        return Ok(strip);
    };
    let columns = vec![TIME, ERROR];
    let schema = projected(&whole, &columns)?;
    let span = u128::from(until_us.abs_diff(from_us)) + 1;
    for batch in scan.with_columns(schema, columns) {
        let batch = batch?;
        let times = batch.column(0).as_primitive_opt::<TimestampMicrosecondType>();
        let errors = batch.column(1).as_primitive_opt::<Float32Type>();
        let Some((times, errors)) = times.zip(errors) else {
            continue;
        };
        for (&time_us, &err_us) in times.values().iter().zip(errors.values().iter()) {
            if !(from_us..=until_us).contains(&time_us) {
                continue;
            }
            let at = u128::from(time_us.abs_diff(from_us)) * stretches as u128 / span;
            let Some(stretch) = usize::try_from(at).ok().and_then(|at| strip.get_mut(at)) else {
                continue;
            };
            stretch.samples += 1;
            stretch.err_us_max = stretch.err_us_max.into_iter().chain([err_us]).reduce(f32::max);
        }
    }
    Ok(strip)
}

/// The first and the last moment of a stream, in microseconds; none where it has no sample. Reads the ends of its files.
///
/// # Errors
/// As [`strip`].
pub fn span(disk: &dyn Disk, parts: &StreamParts) -> Result<Option<(i64, i64)>, ReadError> {
    Ok(Ends::of(disk, &parts.paths)?.times_us)
}
