//! What a stream of a device adds up to: count, rate, and of each channel the least, the greatest and the mean.
//!
//! Made from what Parquet there is (the newest generation, else the rolling parts): times and bounds from the ends of its files,
//! channels from the buckets of the overview, so that a day of samples costs no more than a minute; what neither says is read.
//! What only the logs have is not in it. A tag says of which bytes it was made: whoever keeps a result asks [`parts`] whether
//! it still holds.

use super::overview::{self, Bucket, Found};
use super::parquet_scan::{Ends, ParquetScan};
use super::snapshot::Snapshot;
use super::{OWN_COLUMNS, ReadError, no_stream, projected};
use crate::compact::{OVERVIEW, TableFact};
use crate::disk::Disk;
use crate::session::Session;
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{
    DataType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use marey_format::DeviceId;
use marey_format::payload::StreamKey;
use std::path::PathBuf;

/// The Parquet that there is of a stream of a device.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamParts {
    /// Of which generation; none for the rolling parts of a session that is being recorded.
    pub generation: Option<u32>,
    pub rows: u64,
    /// Names the bytes: other parts have another tag.
    pub tag: String,
    pub(super) paths: Vec<PathBuf>,
    stream: StreamKey,
    device: DeviceId,
    /// What its samples come to, and the folder where that stands.
    overview: Option<TableFact>,
    dir: PathBuf,
}

/// What a stream of a device adds up to.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamStatistics {
    pub rows: u64,
    /// Session time in microseconds UTC.
    pub first_time_us: Option<i64>,
    pub last_time_us: Option<i64>,
    /// Samples a second between the first and the last.
    pub rate_hz: Option<f64>,
    /// The widest bound; infinite where one has none.
    pub time_err_us_max: Option<f32>,
    pub channels: Vec<ChannelStatistics>,
}

/// What one channel adds up to. Lists count by their elements.
#[derive(Clone, Debug, PartialEq)]
pub struct ChannelStatistics {
    pub channel: String,
    /// UCUM code, as declared.
    pub unit: Option<String>,
    /// Values, as stored: scale and offset are not applied.
    pub values: u64,
    /// Of them those that are not a number.
    pub nan: u64,
    /// None where the values are no numbers, or there are none.
    pub min: Option<f64>,
    pub max: Option<f64>,
    pub mean: Option<f64>,
}

/// The Parquet of a stream of a device.
///
/// # Errors
/// [`ReadError::NoStream`] where there is none.
pub fn parts(
    disk: &dyn Disk,
    session: &Session,
    stream: &StreamKey,
    device: &DeviceId,
) -> Result<StreamParts, ReadError> {
    let snapshot = Snapshot::take(disk, &session.id)?;
    let is_live = snapshot.dir.ends_with("live");
    let facts = snapshot
        .manifest
        .as_ref()
        .map_or(&[][..], |manifest| manifest.parts(stream, device));
    if facts.is_empty() {
        return Err(no_stream(session, stream, device));
    }
    let mut hash = blake3::Hasher::new();
    for fact in facts {
        hash.update(fact.hashes.blake3.as_bytes());
        hash.update(b" ");
    }
    Ok(StreamParts {
        generation: snapshot
            .manifest
            .as_ref()
            .map(|manifest| manifest.generation)
            .filter(|_| !is_live),
        rows: facts.iter().map(|fact| fact.rows).sum(),
        tag: hash.finalize().to_hex().to_string(),
        paths: facts.iter().map(|fact| snapshot.dir.join(&fact.path)).collect(),
        stream: stream.clone(),
        device: device.clone(),
        overview: snapshot
            .manifest
            .as_ref()
            .and_then(|manifest| manifest.table(OVERVIEW).cloned()),
        dir: snapshot.dir,
    })
}

/// Adds up these parts. Long where there is no overview of them: it reads all of them then.
///
/// # Errors
/// If they can't be read; a generation that was published meanwhile may have taken their place.
pub fn statistics(disk: &dyn Disk, parts: &StreamParts) -> Result<StreamStatistics, ReadError> {
    let scan = ParquetScan::new(disk, parts.paths.clone());
    let (ends, whole) = (Ends::of(disk, &parts.paths)?, scan.schema()?);
    let fields = whole
        .iter()
        .flat_map(|schema| schema.fields().iter().skip(OWN_COLUMNS));
    let mut channels: Vec<Sum> = fields
        .map(|field| Sum {
            channel: field.name().clone(),
            unit: field.metadata().get("unit").cloned(),
            ..Sum::default()
        })
        .collect();
    if let Some(whole) = whole {
        let seen = seen(disk, parts)?;
        let mut columns = Vec::new();
        for (sum, column) in channels.iter_mut().zip(OWN_COLUMNS..) {
            let buckets = seen.iter().find(|(channel, _)| *channel == sum.channel);
            match (buckets, whole.field(column).data_type()) {
                (Some((_, buckets)), _) => sum.add_buckets(buckets, parts.rows),
                (None, DataType::Utf8 | DataType::Binary) => sum.values = parts.rows,
                (None, _) => columns.push(column),
            }
        }
        if !columns.is_empty() {
            for batch in scan.with_columns(projected(&whole, &columns)?, columns.clone()) {
                for (column, values) in columns.iter().zip(batch?.columns()) {
                    channels[column - OWN_COLUMNS].add(values);
                }
            }
        }
    }
    let lasted_s = ends.times_us.map(|(first, last)| (last - first) as f64 / 1e6);
    let rate_hz = lasted_s
        .filter(|lasted_s| *lasted_s > 0.0 && parts.rows > 1)
        .map(|lasted_s| (parts.rows - 1) as f64 / lasted_s);
    Ok(StreamStatistics {
        rows: parts.rows,
        first_time_us: ends.times_us.map(|times| times.0),
        last_time_us: ends.times_us.map(|times| times.1),
        rate_hz,
        time_err_us_max: ends.err_us,
        channels: channels.into_iter().map(Sum::finish).collect(),
    })
}

/// The buckets of its channels, if an overview that holds has them.
fn seen(disk: &dyn Disk, parts: &StreamParts) -> Result<Vec<(String, Vec<Bucket>)>, ReadError> {
    let Some(table) = &parts.overview else {
        return Ok(Vec::new());
    };
    // The widest will do: of buckets of any width the sums are the same.
    let found = overview::level(disk, &parts.dir, table, (&parts.stream, &parts.device), i64::MAX)?;
    Ok(match found {
        Found::Level(Some(level)) => level.channels,
        // The samples themselves are there.
        Found::Level(None) | Found::Changed => Vec::new(),
    })
}

#[derive(Default)]
struct Sum {
    channel: String,
    unit: Option<String>,
    values: u64,
    nan: u64,
    numbers: u64,
    sum: f64,
    range: Option<(f64, f64)>,
}

impl Sum {
    fn add_buckets(&mut self, buckets: &[Bucket], rows: u64) {
        self.values = rows;
        for bucket in buckets.iter().filter(|bucket| bucket.count > 0) {
            self.numbers += bucket.count;
            self.sum += bucket.mean * bucket.count as f64;
            let (least, most) = self.range.unwrap_or((bucket.min, bucket.max));
            self.range = Some((least.min(bucket.min), most.max(bucket.max)));
        }
        self.nan = rows.saturating_sub(self.numbers);
    }

    fn add(&mut self, column: &ArrayRef) {
        macro_rules! numbers {
            ($type:ty) => {
                if let Some(array) = column.as_primitive_opt::<$type>() {
                    #[allow(clippy::cast_lossless, reason = "one arm for all types of numbers")]
                    self.add_numbers(array.values().iter().map(|value| *value as f64));
                }
            };
        }
        match column.data_type() {
            DataType::Int8 => numbers!(Int8Type),
            DataType::Int16 => numbers!(Int16Type),
            DataType::Int32 => numbers!(Int32Type),
            DataType::Int64 => numbers!(Int64Type),
            DataType::UInt8 => numbers!(UInt8Type),
            DataType::UInt16 => numbers!(UInt16Type),
            DataType::UInt32 => numbers!(UInt32Type),
            DataType::UInt64 => numbers!(UInt64Type),
            DataType::Float32 => numbers!(Float32Type),
            DataType::Float64 => numbers!(Float64Type),
            DataType::Boolean => {
                let truths = column.as_boolean().iter().flatten();
                self.add_numbers(truths.map(|truth| f64::from(u8::from(truth))));
            }
            DataType::FixedSizeList(_, length) => {
                let lists = column.as_fixed_size_list();
                let length = usize::try_from(*length).unwrap_or(0);
                // A batch may be a window of its array.
                let elements = lists
                    .values()
                    .slice(lists.offset() * length, lists.len() * length);
                self.add(&elements);
            }
            _ => self.values += column.len() as u64,
        }
    }

    fn add_numbers(&mut self, numbers: impl Iterator<Item = f64>) {
        // A sum for each batch, so that a long stream loses no digits to a large total.
        let mut sum = 0.0;
        for number in numbers {
            self.values += 1;
            if number.is_nan() {
                self.nan += 1;
                continue;
            }
            self.numbers += 1;
            sum += number;
            let (least, most) = self.range.unwrap_or((number, number));
            self.range = Some((least.min(number), most.max(number)));
        }
        self.sum += sum;
    }

    fn finish(self) -> ChannelStatistics {
        ChannelStatistics {
            channel: self.channel,
            unit: self.unit,
            values: self.values,
            nan: self.nan,
            min: self.range.map(|range| range.0),
            max: self.range.map(|range| range.1),
            mean: self.range.map(|_| self.sum / self.numbers as f64),
        }
    }
}
