//! Making frames: what a device does once per frame, and the hub for frames of its own.

use super::{FrameError, HEADER_BYTES, Header, Kind, padded};
use crate::checksum::Seed;
use crate::limits;
use crate::types::{Declaration, Field, FieldType, Period};

/// Completes `payload` to a frame: header, padding, checksum. `header.length`, `padding` and `crc` are set here.
pub fn encode(mut header: Header, payload: &[u8], seed: Seed) -> Result<Vec<u8>, FrameError> {
    let length = HEADER_BYTES + padded(payload.len());
    if length > limits::FRAME_BYTES_MAX {
        return Err(FrameError::Length {
            found: u32::try_from(length).unwrap_or(u32::MAX),
        });
    }
    header.length = length as u32;
    header.padding = (length - HEADER_BYTES - payload.len()) as u8;
    let mut bytes = Vec::with_capacity(length);
    bytes.extend_from_slice(&header.to_bytes());
    bytes.extend_from_slice(payload);
    bytes.resize(length, 0);
    let crc = seed.checksum(&bytes[8..]);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    Ok(bytes)
}

/// A frame of no samples: a declaration, an event, probes, a hub frame.
#[allow(
    clippy::too_many_arguments,
    reason = "the fields of a header, each of its own meaning"
)]
pub fn control_frame(
    kind: Kind,
    lane: super::Lane,
    stream: u32,
    sequence: u64,
    time_ns: i64,
    count: u32,
    payload: &[u8],
    seed: Seed,
) -> Result<Vec<u8>, FrameError> {
    let header = Header {
        crc: 0,
        length: 0,
        kind,
        flags: super::Flags::default(),
        lane,
        padding: 0,
        stream,
        count,
        sequence,
        first_index: 0,
        first_time_ns: time_ns,
    };
    encode(header, payload, seed)
}

/// One value of one field.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    I64(i64),
    U64(u64),
    F32(f32),
    F64(f64),
    Bool(bool),
    Text(String),
    Bytes(Vec<u8>),
    /// A fixed-size list.
    List(Vec<Value>),
}

/// Collects samples of one stream, column by column, into one data frame.
#[derive(Debug)]
pub struct DataBuilder {
    columns: Vec<Building>,
    times_ns: Vec<i64>,
}

#[derive(Debug)]
struct Building {
    field: Field,
    data: Vec<u8>,
    offsets: Vec<u32>,
}

/// Why a sample can't be taken.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ValueError {
    #[error("{found} values for {expected} fields")]
    Fields { expected: usize, found: usize },
    #[error("field {field}: {value} does not fit {kind:?}")]
    Value {
        field: String,
        kind: FieldType,
        value: String,
    },
    #[error("field {field}: a list of {found} elements, declared with {expected}")]
    List {
        field: String,
        expected: u32,
        found: usize,
    },
    #[error("device time {found} ns after {before} ns: times of a stream never decrease")]
    TimeBackward { before: i64, found: i64 },
}

impl DataBuilder {
    pub fn new(declaration: &Declaration) -> Self {
        let building = |field: &Field| Building {
            field: field.clone(),
            data: Vec::new(),
            offsets: vec![0],
        };
        Self {
            columns: declaration.fields.iter().map(building).collect(),
            times_ns: Vec::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.times_ns.len()
    }

    pub fn is_empty(&self) -> bool {
        self.times_ns.is_empty()
    }

    /// Bytes that the frame would take now.
    pub fn frame_bytes(&self) -> usize {
        let column = |c: &Building| match c.field.kind.width() {
            Some(_) => padded(c.data.len()),
            None => padded(4 * c.offsets.len()) + padded(c.data.len()),
        };
        HEADER_BYTES + 8 * self.times_ns.len() + self.columns.iter().map(column).sum::<usize>()
    }

    /// Takes one sample; on an error nothing of it is taken.
    pub fn push(&mut self, time_ns: i64, values: &[Value]) -> Result<(), ValueError> {
        if values.len() != self.columns.len() {
            return Err(ValueError::Fields {
                expected: self.columns.len(),
                found: values.len(),
            });
        }
        if let Some(&before) = self.times_ns.last()
            && time_ns < before
        {
            return Err(ValueError::TimeBackward {
                before,
                found: time_ns,
            });
        }
        let pushed = self
            .columns
            .iter_mut()
            .zip(values)
            .try_for_each(|(column, value)| column.push(value));
        if let Err(error) = pushed {
            let rows = self.times_ns.len();
            self.columns.iter_mut().for_each(|column| column.cut(rows));
            return Err(error);
        }
        self.times_ns.push(time_ns);
        Ok(())
    }

    /// The samples so far as a frame with a time column; the builder is empty afterwards.
    pub fn finish(
        &mut self,
        stream: u32,
        sequence: u64,
        first_index: u64,
        seed: Seed,
    ) -> Result<Vec<u8>, FrameError> {
        let times = std::mem::take(&mut self.times_ns);
        let mut payload = Vec::with_capacity(8 * times.len());
        times
            .iter()
            .for_each(|t| payload.extend_from_slice(&t.to_le_bytes()));
        self.end(
            super::Flags::default(),
            &times,
            payload,
            stream,
            sequence,
            first_index,
            seed,
        )
    }

    /// The samples so far as a regular frame: the first time and a period. The pushed times but the first are dropped.
    pub fn finish_regular(
        &mut self,
        period: Period,
        stream: u32,
        sequence: u64,
        first_index: u64,
        seed: Seed,
    ) -> Result<Vec<u8>, FrameError> {
        let times = std::mem::take(&mut self.times_ns);
        let mut payload = period.numerator.to_le_bytes().to_vec();
        payload.extend_from_slice(&period.denominator.to_le_bytes());
        self.end(
            super::Flags::REGULAR,
            &times,
            payload,
            stream,
            sequence,
            first_index,
            seed,
        )
    }

    #[allow(
        clippy::too_many_arguments,
        reason = "the fields of a header, each of its own meaning"
    )]
    fn end(
        &mut self,
        flags: super::Flags,
        times: &[i64],
        mut payload: Vec<u8>,
        stream: u32,
        sequence: u64,
        first_index: u64,
        seed: Seed,
    ) -> Result<Vec<u8>, FrameError> {
        let Some(&first_time_ns) = times.first() else {
            return Err(FrameError::Empty);
        };
        for column in &mut self.columns {
            column.take(&mut payload);
        }
        let header = Header {
            crc: 0,
            length: 0,
            kind: Kind::DATA,
            flags,
            lane: super::Lane::Data,
            padding: 0,
            stream,
            count: u32::try_from(times.len()).map_err(|_| FrameError::Count { found: u32::MAX })?,
            sequence,
            first_index,
            first_time_ns,
        };
        encode(header, &payload, seed)
    }
}

impl Building {
    fn push(&mut self, value: &Value) -> Result<(), ValueError> {
        match (self.field.length, value) {
            (None, value) => self.element(value)?,
            (Some(length), Value::List(items)) if items.len() == length as usize => {
                items.iter().try_for_each(|item| self.element(item))?;
            }
            (Some(expected), value) => {
                let found = if let Value::List(items) = value {
                    items.len()
                } else {
                    1
                };
                return Err(ValueError::List {
                    field: self.field.name.to_string(),
                    expected,
                    found,
                });
            }
        }
        if self.field.kind.width().is_none() {
            self.offsets.push(self.data.len() as u32);
        }
        Ok(())
    }

    fn element(&mut self, value: &Value) -> Result<(), ValueError> {
        let kind = self.field.kind;
        let wide = match value {
            Value::I64(n) => Some(i128::from(*n)),
            Value::U64(n) => Some(i128::from(*n)),
            _ => None,
        };
        let misfit = || ValueError::Value {
            field: self.field.name.to_string(),
            kind,
            value: format!("{value:?}"),
        };
        let data = &mut self.data;
        macro_rules! integer {
            ($type:ty) => {
                data.extend_from_slice(
                    &wide
                        .and_then(|n| <$type>::try_from(n).ok())
                        .ok_or_else(misfit)?
                        .to_le_bytes(),
                )
            };
        }
        match kind {
            FieldType::I8 => integer!(i8),
            FieldType::I16 => integer!(i16),
            FieldType::I32 => integer!(i32),
            FieldType::I64 => integer!(i64),
            FieldType::U8 => integer!(u8),
            FieldType::U16 => integer!(u16),
            FieldType::U32 => integer!(u32),
            FieldType::U64 => integer!(u64),
            FieldType::F32 => match value {
                Value::F32(x) => data.extend_from_slice(&x.to_le_bytes()),
                _ => return Err(misfit()),
            },
            FieldType::F64 => match value {
                Value::F64(x) => data.extend_from_slice(&x.to_le_bytes()),
                _ => return Err(misfit()),
            },
            FieldType::Bool => match value {
                Value::Bool(b) => data.push(u8::from(*b)),
                _ => return Err(misfit()),
            },
            FieldType::Utf8 => match value {
                Value::Text(text) => data.extend_from_slice(text.as_bytes()),
                _ => return Err(misfit()),
            },
            FieldType::Binary => match value {
                Value::Bytes(bytes) => data.extend_from_slice(bytes),
                _ => return Err(misfit()),
            },
        }
        Ok(())
    }

    /// Back to `rows` whole rows.
    fn cut(&mut self, rows: usize) {
        match self.field.kind.width() {
            Some(width) => self
                .data
                .truncate(rows * width * self.field.length.unwrap_or(1) as usize),
            None => {
                self.offsets.truncate(rows + 1);
                self.data.truncate(self.offsets[rows] as usize);
            }
        }
    }

    fn take(&mut self, payload: &mut Vec<u8>) {
        if self.field.kind.width().is_none() {
            self.offsets
                .iter()
                .for_each(|offset| payload.extend_from_slice(&offset.to_le_bytes()));
            payload.resize(padded(payload.len()), 0);
            self.offsets.truncate(1);
        }
        payload.extend_from_slice(&self.data);
        payload.resize(padded(payload.len()), 0);
        self.data.clear();
    }
}
