//! A stream seen from afar: of each channel of numbers the least, the greatest, the mean and the count in buckets of time, at
//! several widths, so that hours of it are drawn, and added up, without reading them. `overview.parquet`, format-spec's
//! `parquet.md`.
//!
//! A bucket is as wide as a power of four in microseconds and begins at a multiple of it; only those that hold samples are
//! there. The narrowest ones hold some hundreds of samples each, each further level is four times as wide.
//!
//! Invariants: the same batches give the same bits, whatever the threads; memory is bounded by buckets, never by samples.

use super::CompactError;
use super::metadata::{table_schema, time_type};
use super::parquet::TableWriter;
use super::tables::WrittenTable;
use crate::disk::Disk;
use crate::options::Options;
use arrow::array::{
    ArrayRef, AsArray, Float64Builder, Int64Builder, RecordBatch, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow::datatypes::{
    DataType, Field, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, SchemaRef,
    TimestampMicrosecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use std::path::PathBuf;
use std::sync::Arc;

/// Name of the table.
pub const OVERVIEW: &str = "overview.parquet";

/// Samples of a bucket of the narrowest level, on the average, or more.
const SAMPLES_MIN: usize = 512;

/// Buckets of one level at most: a screen is a few thousand wide.
const BUCKETS_MAX: usize = 65_536;

/// Buckets that a stream has in any case, however many it shares the memory with.
const BUCKETS_MIN: usize = 64;

/// Cells (a bucket of a channel) of the streams that are written at the same time.
const CELLS_MAX: usize = 1 << 20;

/// The widest level has so many buckets or fewer.
const TOP_BUCKETS: usize = 16;

/// No bucket is wider than 4 to this many microseconds, 146,000 years: there are four of them at most.
const LEVEL_MAX: u32 = 31;

/// Columns that every stream has, before its channels.
const OWN_COLUMNS: usize = 5;

/// Rows of a batch of the table.
const BATCH_ROWS: usize = 16 << 10;

/// The buckets of one stream, under way or done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overview {
    /// The narrowest buckets are 4 to this many microseconds wide; none before the first sample.
    level: Option<u32>,
    buckets_max: usize,
    rows: usize,
    /// Their numbers: time shifted by twice the level; in order.
    buckets: Vec<i64>,
    channels: Vec<Channel>,
    /// What of a batch falls into which bucket.
    runs: Vec<Run>,
}

#[derive(Clone, Debug, PartialEq)]
struct Channel {
    name: String,
    /// Its column in a batch.
    column: usize,
    /// One for each bucket.
    cells: Vec<Cell>,
}

/// A bucket of a channel.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Cell {
    /// Values that are numbers.
    count: u64,
    min: f64,
    max: f64,
    sum: f64,
}

/// Rows of a batch that fall into one bucket.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Run {
    from: usize,
    to: usize,
    bucket: usize,
}

/// Whether a channel of this type has buckets.
fn is_number(kind: &DataType) -> bool {
    kind.is_numeric() || *kind == DataType::Boolean
}

impl Overview {
    /// For a stream that is written beside so many others.
    pub fn new(schema: &SchemaRef, beside: usize) -> Self {
        let fields = schema.fields().iter().enumerate().skip(OWN_COLUMNS);
        let channels: Vec<Channel> = fields
            .filter(|(_, field)| is_number(field.data_type()))
            .map(|(column, field)| Channel {
                name: field.name().clone(),
                column,
                cells: Vec::new(),
            })
            .collect();
        let share = CELLS_MAX / beside.max(1) / channels.len().max(1);
        Self {
            buckets_max: share.clamp(BUCKETS_MIN, BUCKETS_MAX),
            channels,
            ..Self::default()
        }
    }

    /// Adds the next rows of the stream, which come in order of time.
    pub fn add(&mut self, batch: &RecordBatch) {
        let times = batch
            .column(0)
            .as_primitive::<TimestampMicrosecondType>()
            .values();
        if self.channels.is_empty() || times.is_empty() {
            return;
        }
        let level = *self.level.get_or_insert_with(|| first_level(times));
        let number = |time: i64| time >> (2 * level);
        self.runs.clear();
        let mut from = 0;
        while from < times.len() {
            let bucket = number(times[from]);
            let to = from + times[from..].partition_point(|&time| number(time) == bucket);
            if self.buckets.last() != Some(&bucket) {
                self.buckets.push(bucket);
            }
            let bucket = self.buckets.len() - 1;
            self.runs.push(Run { from, to, bucket });
            from = to;
        }
        for channel in &mut self.channels {
            channel.cells.resize(self.buckets.len(), Cell::EMPTY);
            channel.add(batch.column(channel.column), &self.runs);
        }
        self.rows += times.len();
        while self.buckets.len() > self.buckets_max {
            self.widen();
        }
    }

    /// All rows were added: no more buckets than there are samples for.
    pub fn finish(&mut self) {
        self.runs = Vec::new();
        while self.buckets.len() > self.rows.div_ceil(SAMPLES_MIN) + 1 && self.level < Some(LEVEL_MAX) {
            self.widen();
        }
    }

    /// The next level in place of this one: four buckets become one.
    fn widen(&mut self) {
        let Some(level) = &mut self.level else { return };
        *level += 1;
        let mut kept = 0;
        for at in 0..self.buckets.len() {
            let bucket = self.buckets[at] >> 2;
            let is_same = kept > 0 && self.buckets[kept - 1] == bucket;
            if !is_same {
                self.buckets[kept] = bucket;
                kept += 1;
            }
            for channel in &mut self.channels {
                let cell = channel.cells[at];
                match is_same {
                    true => channel.cells[kept - 1].merge(&cell),
                    false => channel.cells[kept - 1] = cell,
                }
            }
        }
        self.buckets.truncate(kept);
        for channel in &mut self.channels {
            channel.cells.truncate(kept);
        }
    }

    /// Whether there is a wider level worth its rows.
    fn is_top(&self) -> bool {
        self.buckets.len() <= TOP_BUCKETS || self.level.is_none_or(|level| level >= LEVEL_MAX)
    }
}

/// The narrowest level at which a bucket holds enough samples, if the others come as those do.
fn first_level(times: &[i64]) -> u32 {
    let span_us = times[times.len() - 1].abs_diff(times[0]);
    let between = times.len().saturating_sub(1).max(1) as u64;
    let width_us = (span_us / between).saturating_mul(SAMPLES_MIN as u64).max(1);
    width_us.ilog2().div_ceil(2).min(LEVEL_MAX)
}

impl Channel {
    fn add(&mut self, column: &ArrayRef, runs: &[Run]) {
        macro_rules! numbers {
            ($type:ty) => {
                self.add_runs(runs, column.as_primitive::<$type>().values())
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
                let bits = column.as_boolean().values();
                let values: Vec<u8> = bits.iter().map(u8::from).collect();
                self.add_runs(runs, &values);
            }
            _ => {}
        }
    }

    fn add_runs<T: Number>(&mut self, runs: &[Run], values: &[T]) {
        for run in runs {
            self.cells[run.bucket].merge(&Cell::of(&values[run.from..run.to]));
        }
    }
}

/// A number as it stands in a column.
trait Number: Copy {
    fn wide(self) -> f64;
}

macro_rules! number {
    ($($type:ty),*) => {
        $(impl Number for $type {
            #[inline]
            #[allow(clippy::cast_lossless, reason = "one line for all types of numbers")]
            fn wide(self) -> f64 {
                self as f64
            }
        })*
    };
}

number!(i8, i16, i32, i64, u8, u16, u32, u64, f32, f64);

/// Values that are taken at once, so that the processor adds several at a time.
const LANES: usize = 8;

impl Cell {
    const EMPTY: Self = Self {
        count: 0,
        min: f64::INFINITY,
        max: f64::NEG_INFINITY,
        sum: 0.0,
    };

    fn of<T: Number>(values: &[T]) -> Self {
        // Each in an array of its own: so the processor takes several lanes at once.
        let (mut count, mut sum) = ([0; LANES], [0.0; LANES]);
        let (mut min, mut max) = ([f64::INFINITY; LANES], [f64::NEG_INFINITY; LANES]);
        let (chunks, rest) = values.as_chunks::<LANES>();
        for chunk in chunks {
            for at in 0..LANES {
                let value = chunk[at].wide();
                // No comparison holds of what is not a number.
                count[at] += u64::from(!value.is_nan());
                sum[at] += if value.is_nan() { 0.0 } else { value };
                min[at] = if value < min[at] { value } else { min[at] };
                max[at] = if value > max[at] { value } else { max[at] };
            }
        }
        let mut whole = Self::EMPTY;
        for at in 0..LANES {
            whole.merge(&Self {
                count: count[at],
                min: min[at],
                max: max[at],
                sum: sum[at],
            });
        }
        for value in rest
            .iter()
            .map(|value| value.wide())
            .filter(|value| !value.is_nan())
        {
            whole.merge(&Self {
                count: 1,
                min: value,
                max: value,
                sum: value,
            });
        }
        whole
    }

    /// Of two that are equal the first stays, so that zeros keep their sign everywhere.
    fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.sum += other.sum;
        self.min = if other.min < self.min { other.min } else { self.min };
        self.max = if other.max > self.max { other.max } else { self.max };
    }

    /// Least, greatest, mean; NaN where no value is a number.
    fn told(&self) -> [f64; 3] {
        match self.count {
            0 => [f64::NAN; 3],
            count => [self.min, self.max, self.sum / count as f64],
        }
    }
}

/// The table of all streams, under way.
pub struct OverviewTable<'a> {
    disk: &'a dyn Disk,
    path: PathBuf,
    options: &'a Options,
    columns: Columns,
    writer: Option<TableWriter<'a>>,
    rows: u64,
}

#[derive(Debug, Default)]
struct Columns {
    time: TimestampMicrosecondBuilder,
    device: StringBuilder,
    stream: StringBuilder,
    channel: StringBuilder,
    width_us: Int64Builder,
    count: Int64Builder,
    told: [Float64Builder; 3],
}

impl<'a> OverviewTable<'a> {
    pub fn new(disk: &'a dyn Disk, path: PathBuf, options: &'a Options) -> Self {
        Self {
            disk,
            path,
            options,
            columns: Columns::default(),
            writer: None,
            rows: 0,
        }
    }

    /// Appends a stream: its levels from the narrowest to the widest, each channel by channel.
    pub fn put(&mut self, device: &str, stream: &str, mut overview: Overview) -> Result<(), CompactError> {
        while let Some(level) = overview.level.filter(|_| !overview.buckets.is_empty()) {
            for channel in &overview.channels {
                for (bucket, cell) in overview.buckets.iter().zip(&channel.cells) {
                    let of = (device, stream, channel.name.as_str());
                    self.columns.push(of, level, *bucket, cell);
                    if self.columns.rows() == BATCH_ROWS {
                        self.write()?;
                    }
                }
            }
            if overview.is_top() {
                break;
            }
            overview.widen();
        }
        Ok(())
    }

    /// Writes what is left; durable but for its name.
    pub fn finish(mut self) -> Result<WrittenTable, CompactError> {
        if self.columns.rows() > 0 || self.writer.is_none() {
            self.write()?;
        }
        let writer = self.writer.expect("a batch was written, if an empty one");
        Ok(WrittenTable {
            name: OVERVIEW,
            rows: self.rows,
            hashes: writer.finish()?,
        })
    }

    fn write(&mut self) -> Result<(), CompactError> {
        let batch = self.columns.batch()?;
        self.rows += batch.num_rows() as u64;
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => {
                let head = |rows: usize| batch.slice(0, rows.min(batch.num_rows()));
                let writer = TableWriter::create(self.disk, &self.path, &batch.schema(), head, self.options)?;
                self.writer.insert(writer)
            }
        };
        writer.write(&batch)
    }
}

impl Columns {
    fn rows(&self) -> usize {
        self.width_us.values_slice().len()
    }

    fn push(&mut self, (device, stream, channel): (&str, &str, &str), level: u32, bucket: i64, cell: &Cell) {
        self.time.append_value(bucket << (2 * level));
        self.device.append_value(device);
        self.stream.append_value(stream);
        self.channel.append_value(channel);
        self.width_us.append_value(1 << (2 * level));
        self.count.append_value(cell.count.cast_signed());
        for (column, value) in self.told.iter_mut().zip(cell.told()) {
            column.append_value(value);
        }
    }

    /// All rows so far, as a batch.
    fn batch(&mut self) -> Result<RecordBatch, CompactError> {
        let field = |name: &str, kind| Field::new(name, kind, false);
        let [min, max, mean] = &mut self.told;
        let columns: Vec<(Field, ArrayRef)> = vec![
            (
                field("time", time_type()),
                Arc::new(self.time.finish().with_timezone("UTC")),
            ),
            (field("device", DataType::Utf8), Arc::new(self.device.finish())),
            (field("stream", DataType::Utf8), Arc::new(self.stream.finish())),
            (field("channel", DataType::Utf8), Arc::new(self.channel.finish())),
            (
                field("width_us", DataType::Int64),
                Arc::new(self.width_us.finish()),
            ),
            (field("count", DataType::Int64), Arc::new(self.count.finish())),
            (field("min", DataType::Float64), Arc::new(min.finish())),
            (field("max", DataType::Float64), Arc::new(max.finish())),
            (field("mean", DataType::Float64), Arc::new(mean.finish())),
        ];
        let (fields, columns): (Vec<Field>, Vec<ArrayRef>) = columns.into_iter().unzip();
        RecordBatch::try_new(table_schema(fields, true), columns)
            .map_err(|error| CompactError::encoding(OVERVIEW.to_owned(), &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{
        BooleanArray, Float32Array, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray,
    };
    use arrow::datatypes::Schema;

    /// Times with a channel of each kind: float with holes, integer, bool, text.
    fn batch(times: &[i64], from: usize) -> RecordBatch {
        let own = |name: &str| Field::new(name, DataType::Int32, false);
        let fields = vec![
            Field::new("time", time_type(), false),
            own("a"),
            own("b"),
            own("c"),
            own("d"),
            Field::new("x", DataType::Float32, false),
            Field::new("n", DataType::Int64, false),
            Field::new("on", DataType::Boolean, false),
            Field::new("word", DataType::Utf8, false),
        ];
        let rows = || from..from + times.len();
        let zeros: ArrayRef = Arc::new(Int32Array::from(vec![0; times.len()]));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(TimestampMicrosecondArray::from(times.to_vec()).with_timezone("UTC")),
            zeros.clone(),
            zeros.clone(),
            zeros.clone(),
            zeros,
            Arc::new(Float32Array::from_iter_values(rows().map(x))),
            Arc::new(Int64Array::from_iter_values(rows().map(n))),
            Arc::new(rows().map(|i| Some(i % 3 == 0)).collect::<BooleanArray>()),
            Arc::new(StringArray::from_iter_values(rows().map(|i| i.to_string()))),
        ];
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("columns of one length")
    }

    fn x(i: usize) -> f32 {
        match i.is_multiple_of(5) || (3_000..6_000).contains(&i) {
            true => f32::NAN,
            false => (i as f32 * 0.7).sin() * 100.0,
        }
    }

    fn n(i: usize) -> i64 {
        (i as i64 * 7_919) % 1_009 - 500
    }

    fn seen(times: &[i64], batch_rows: usize, beside: usize) -> Overview {
        let mut overview = Overview::new(&batch(&[], 0).schema(), beside);
        for (number, times) in times.chunks(batch_rows).enumerate() {
            overview.add(&batch(times, number * batch_rows));
        }
        overview.finish();
        overview
    }

    /// Every bucket of every level, held against all samples.
    fn hold(mut overview: Overview, times: &[i64]) -> usize {
        let mut levels = 0;
        loop {
            let level = overview.level.expect("there are samples");
            levels += 1;
            let mut found = 0;
            for (at, &bucket) in overview.buckets.iter().enumerate() {
                let inside = |i: &usize| times[*i] >> (2 * level) == bucket;
                let rows: Vec<usize> = (0..times.len()).filter(inside).collect();
                found += rows.len();
                let xs: Vec<f64> = rows
                    .iter()
                    .map(|&i| f64::from(x(i)))
                    .filter(|x| !x.is_nan())
                    .collect();
                let ns: Vec<f64> = rows.iter().map(|&i| n(i) as f64).collect();
                let ons: Vec<f64> = rows.iter().map(|&i| f64::from(u8::from(i % 3 == 0))).collect();
                for (channel, values) in overview.channels.iter().zip([xs, ns, ons]) {
                    let cell = &channel.cells[at];
                    assert_eq!(
                        cell.count,
                        values.len() as u64,
                        "{} {level} {bucket}",
                        channel.name
                    );
                    let [min, max, mean] = cell.told();
                    let Some(least) = values.iter().copied().reduce(f64::min) else {
                        assert!(min.is_nan() && max.is_nan() && mean.is_nan());
                        continue;
                    };
                    let most = values.iter().copied().reduce(f64::max).expect("there is one");
                    assert_eq!((min, max), (least, most));
                    assert!((mean - values.iter().sum::<f64>() / values.len() as f64).abs() < 1e-9);
                }
            }
            assert_eq!(found, times.len());
            if overview.is_top() {
                return levels;
            }
            overview.widen();
        }
    }

    #[test]
    fn every_bucket_of_every_level_is_that_of_its_samples() {
        let base = 1_795_248_000_000_000;
        let regular: Vec<i64> = (0..20_000).map(|i| base + i * 10_000).collect();
        let overview = seen(&regular, 1_000, 1);
        assert_eq!(overview.channels.len(), 3, "texts have no buckets");
        // 10 ms apart: 512 of them take 5.12 s, and the next power of four is 16.8 s.
        assert_eq!(overview.level, Some(12));
        assert!(hold(overview, &regular) >= 1);
        let before_1970: Vec<i64> = (0..3_000).map(|i| i * 999 - 1_500_000).collect();
        hold(seen(&before_1970, 700, 1), &before_1970);
        // Dense, then sparse, with equal times among them.
        let odd: Vec<i64> = (0..9_000)
            .map(|i| base + i / 2 * 100)
            .chain((0..3_000).map(|i| base + 10_000_000 + i * 500_000))
            .collect();
        hold(seen(&odd, 512, 1), &odd);
        let one = [base];
        assert_eq!(hold(seen(&one, 1, 1), &one), 1);
    }

    #[test]
    fn buckets_are_bounded_whatever_comes() {
        // A burst sets a narrow width; then every sample lies in a bucket of its own.
        let times: Vec<i64> = (0..4_096)
            .chain((0..100_000).map(|i| 10_000 + i * 1_000_000_000))
            .collect();
        let narrow = seen(&times, 4_096, 4_000_000);
        assert!(narrow.buckets.len() <= BUCKETS_MIN, "{}", narrow.buckets.len());
        let wide = seen(&times, 4_096, 1);
        assert!(
            wide.buckets.len() <= times.len() / SAMPLES_MIN + 2,
            "{}",
            wide.buckets.len()
        );
        assert!(
            wide.channels
                .iter()
                .all(|channel| channel.cells.len() == wide.buckets.len())
        );
        // Times at both ends of what there is.
        let ends = [i64::MIN, i64::MIN + 1, i64::MAX - 1, i64::MAX];
        hold(seen(&ends, 2, 1), &ends);
    }
}
