//! Many samples of a stream at once, column by column: what a sensor's own buffer gives.
//!
//! Owns: checking a batch against the declaration, cutting it into frames that fit, laying the columns out without
//! a value in between. Invariant: a batch is refused as a whole or taken as a whole.

use std::ops::Range;

use marey_format::frame::{Flags, HEADER_BYTES, Header, Value, encode};
use marey_format::types::Period;
use marey_format::{Declaration, FieldType, FrameError, Kind, Lane, Seed, limits};

use super::PushError;

/// Samples of one stream: their times, and a column for each declared field, in order.
#[derive(Debug, Clone)]
pub struct Batch<'a> {
    pub times: BatchTimes<'a>,
    pub columns: Vec<ColumnSlice<'a>>,
}

/// When the samples of a batch were taken, in nanoseconds of the device's clock.
#[derive(Debug, Clone, Copy)]
pub enum BatchTimes<'a> {
    /// One stamp a sample; they never decrease.
    Stamps(&'a [i64]),
    /// Sample `i` was taken at `first_ns + floor(i x period)`.
    Regular {
        first_ns: i64,
        period: Period,
        count: usize,
    },
}

/// The values of one field: one a sample, or `length` a sample for a field that is a list.
#[derive(Debug, Clone, Copy)]
pub enum ColumnSlice<'a> {
    I8(&'a [i8]),
    I16(&'a [i16]),
    I32(&'a [i32]),
    I64(&'a [i64]),
    U8(&'a [u8]),
    U16(&'a [u16]),
    U32(&'a [u32]),
    U64(&'a [u64]),
    F32(&'a [f32]),
    F64(&'a [f64]),
    Bool(&'a [bool]),
    Utf8(&'a [&'a str]),
    Binary(&'a [&'a [u8]]),
}

impl Batch<'_> {
    /// Samples in the batch.
    pub fn len(&self) -> usize {
        match self.times {
            BatchTimes::Stamps(stamps) => stamps.len(),
            BatchTimes::Regular { count, .. } => count,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Device time of sample `row`, for `row` below the length of a batch that was taken.
    pub fn time_ns(&self, row: usize) -> i64 {
        match self.times {
            BatchTimes::Stamps(stamps) => stamps[row],
            BatchTimes::Regular { first_ns, period, .. } => period
                .time_ns(first_ns, row as u64)
                .expect("the last time of a batch is checked before it is taken"),
        }
    }

    /// The values of sample `row` of plain columns.
    pub fn row(&self, row: usize) -> Vec<Value> {
        self.columns.iter().map(|column| column.value(row)).collect()
    }

    /// Checks the whole batch and cuts it into what fits a frame. No pieces: there is a column of variable width
    /// (and therefore no list), and the samples are to be pushed one by one.
    pub(super) fn pieces(
        &self,
        declaration: &Declaration,
        last_time_ns: Option<i64>,
    ) -> Result<Vec<Range<usize>>, PushError> {
        let count = self.len();
        if count == 0 {
            return Err(PushError::Batch("has no samples"));
        }
        if self.columns.len() != declaration.fields.len() {
            return Err(PushError::Fields {
                expected: declaration.fields.len(),
                found: self.columns.len(),
            });
        }
        let (mut row_bytes, mut is_variable) = (0, false);
        for (column, field) in self.columns.iter().zip(&declaration.fields) {
            let per_sample = field.length.unwrap_or(1) as usize;
            let (kind, length) = column.shape();
            if kind != field.kind {
                let text = format!(
                    "field {}: a column of {kind:?} does not fit {:?}",
                    field.name, field.kind
                );
                return Err(PushError::Value(text));
            }
            if length != count * per_sample {
                return Err(PushError::Batch("has columns of different lengths"));
            }
            match kind.width() {
                Some(width) => row_bytes += width * per_sample,
                None => is_variable = true,
            }
        }
        self.check_times(last_time_ns)?;
        if is_variable {
            if declaration.fields.iter().any(|field| field.length.is_some()) {
                return Err(PushError::Batch(
                    "mixes lists with utf8 or binary; push its samples one by one",
                ));
            }
            for row in 0..count {
                let bytes: usize = self.columns.iter().map(|column| column.value_bytes(row)).sum();
                if bytes > limits::FRAME_BYTES_MAX / 2 {
                    return Err(PushError::TooLarge { bytes });
                }
            }
            return Ok(Vec::new());
        }
        self.cut(row_bytes, declaration.fields.len())
    }

    fn check_times(&self, last_time_ns: Option<i64>) -> Result<(), PushError> {
        let first_ns = match self.times {
            BatchTimes::Stamps(stamps) => {
                if let Some(pair) = stamps.windows(2).find(|pair| pair[1] < pair[0]) {
                    return Err(PushError::TimeBackward {
                        before: pair[0],
                        found: pair[1],
                    });
                }
                stamps[0]
            }
            BatchTimes::Regular {
                first_ns,
                period,
                count,
            } => {
                period
                    .time_ns(first_ns, count as u64 - 1)
                    .ok_or(PushError::Batch("leaves the range of times"))?;
                first_ns
            }
        };
        match last_time_ns {
            Some(before) if first_ns < before => Err(PushError::TimeBackward {
                before,
                found: first_ns,
            }),
            _ => Ok(()),
        }
    }

    fn cut(&self, row_bytes: usize, fields: usize) -> Result<Vec<Range<usize>>, PushError> {
        let room = limits::FRAME_BYTES_MAX - HEADER_BYTES - 16 - 8 * (fields + 1);
        let rows = (room / (row_bytes + 8)).min(limits::SAMPLES_PER_FRAME_MAX as usize);
        if rows == 0 {
            return Err(PushError::TooLarge { bytes: row_bytes });
        }
        let count = self.len();
        let rows = match self.times {
            // A piece must begin where the period's remainder is zero, or its times would differ by a nanosecond.
            BatchTimes::Regular { period, .. } if count > rows => {
                let grid = usize::try_from(period.denominator).unwrap_or(usize::MAX);
                match rows / grid.max(1) * grid {
                    0 => {
                        return Err(PushError::Batch(
                            "is too long for a period of so large a denominator",
                        ));
                    }
                    rows => rows,
                }
            }
            _ => rows,
        };
        Ok((0..count)
            .step_by(rows)
            .map(|begin| begin..(begin + rows).min(count))
            .collect())
    }

    /// One piece as a frame.
    pub(super) fn frame(
        &self,
        piece: &Range<usize>,
        stream: u32,
        sequence: u64,
        first_index: u64,
        seed: Seed,
    ) -> Result<Vec<u8>, FrameError> {
        let mut payload = Vec::new();
        let flags = match self.times {
            BatchTimes::Stamps(stamps) => {
                stamps[piece.clone()]
                    .iter()
                    .for_each(|stamp| payload.extend_from_slice(&stamp.to_le_bytes()));
                Flags::default()
            }
            BatchTimes::Regular { period, .. } => {
                payload.extend_from_slice(&period.numerator.to_le_bytes());
                payload.extend_from_slice(&period.denominator.to_le_bytes());
                Flags::REGULAR
            }
        };
        let count = self.len();
        for column in &self.columns {
            column.put(piece, count, &mut payload);
            payload.resize(payload.len().next_multiple_of(8), 0);
        }
        let header = Header {
            crc: 0,
            length: 0,
            kind: Kind::DATA,
            flags,
            lane: Lane::Data,
            padding: 0,
            stream,
            count: u32::try_from(piece.len()).map_err(|_| FrameError::Count { found: u32::MAX })?,
            sequence,
            first_index,
            first_time_ns: self.time_ns(piece.start),
        };
        encode(header, &payload, seed)
    }
}

macro_rules! each_fixed {
    ($column:expr, $values:ident => $body:expr, $bools:ident => $bool_body:expr, $other:expr) => {
        match $column {
            ColumnSlice::I8($values) => $body,
            ColumnSlice::I16($values) => $body,
            ColumnSlice::I32($values) => $body,
            ColumnSlice::I64($values) => $body,
            ColumnSlice::U8($values) => $body,
            ColumnSlice::U16($values) => $body,
            ColumnSlice::U32($values) => $body,
            ColumnSlice::U64($values) => $body,
            ColumnSlice::F32($values) => $body,
            ColumnSlice::F64($values) => $body,
            ColumnSlice::Bool($bools) => $bool_body,
            ColumnSlice::Utf8(_) | ColumnSlice::Binary(_) => $other,
        }
    };
}

impl ColumnSlice<'_> {
    fn shape(&self) -> (FieldType, usize) {
        match self {
            Self::I8(values) => (FieldType::I8, values.len()),
            Self::I16(values) => (FieldType::I16, values.len()),
            Self::I32(values) => (FieldType::I32, values.len()),
            Self::I64(values) => (FieldType::I64, values.len()),
            Self::U8(values) => (FieldType::U8, values.len()),
            Self::U16(values) => (FieldType::U16, values.len()),
            Self::U32(values) => (FieldType::U32, values.len()),
            Self::U64(values) => (FieldType::U64, values.len()),
            Self::F32(values) => (FieldType::F32, values.len()),
            Self::F64(values) => (FieldType::F64, values.len()),
            Self::Bool(values) => (FieldType::Bool, values.len()),
            Self::Utf8(values) => (FieldType::Utf8, values.len()),
            Self::Binary(values) => (FieldType::Binary, values.len()),
        }
    }

    fn put(&self, piece: &Range<usize>, count: usize, to: &mut Vec<u8>) {
        let elements = |length: usize| {
            let per_sample = length / count;
            piece.start * per_sample..piece.end * per_sample
        };
        each_fixed!(
            self,
            values => values[elements(values.len())].iter().for_each(|value| to.extend_from_slice(&value.to_le_bytes())),
            bools => to.extend(bools[elements(bools.len())].iter().map(|value| u8::from(*value))),
            unreachable!("pieces are of columns of fixed width")
        );
    }

    fn value(&self, row: usize) -> Value {
        match self {
            Self::I8(values) => Value::I64(values[row].into()),
            Self::I16(values) => Value::I64(values[row].into()),
            Self::I32(values) => Value::I64(values[row].into()),
            Self::I64(values) => Value::I64(values[row]),
            Self::U8(values) => Value::U64(values[row].into()),
            Self::U16(values) => Value::U64(values[row].into()),
            Self::U32(values) => Value::U64(values[row].into()),
            Self::U64(values) => Value::U64(values[row]),
            Self::F32(values) => Value::F32(values[row]),
            Self::F64(values) => Value::F64(values[row]),
            Self::Bool(values) => Value::Bool(values[row]),
            Self::Utf8(values) => Value::Text(values[row].to_owned()),
            Self::Binary(values) => Value::Bytes(values[row].to_owned()),
        }
    }

    fn value_bytes(&self, row: usize) -> usize {
        match self {
            Self::Utf8(values) => values[row].len(),
            Self::Binary(values) => values[row].len(),
            _ => 8,
        }
    }
}
