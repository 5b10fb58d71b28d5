//! Frame columns to Arrow arrays by copying memory and nothing more, into buffers that are used again.
//!
//! [`Rows`] is one decoded frame: stamps placed in session time, and its columns where they stand in the frame's
//! bytes. [`BatchBuilder`] collects stretches of rows and gives a record batch. On big-endian machines elements are
//! turned round on the way.

use super::timeline::Placing;
use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, FixedSizeListArray, Float32Array, Int32Array, Int64Array,
    PrimitiveArray, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::buffer::{BooleanBuffer, Buffer, MutableBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, FieldRef, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, SchemaRef, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::error::ArrowError;
use bytes::Bytes;
use marey_format::frame::{Column, Columns, Frame, FrameError};
use marey_format::{Declaration, FieldType};
use std::ops::Range;
use std::sync::Arc;

/// Columns that stand before the declared ones: time, device_time_ns, epoch, time_err_us, seq.
pub const LEADING_COLUMNS: usize = 5;

/// Bytes of the leading columns in one row.
const LEADING_BYTES: usize = 8 + 8 + 4 + 4 + 8;

/// One data frame, decoded.
#[derive(Debug, Default)]
pub struct Rows {
    pub epoch: u32,
    pub first_index: u64,
    pub device_ns: Vec<i64>,
    pub time_us: Vec<i64>,
    pub err_us: Vec<f32>,
    fields: Vec<FieldBytes>,
}

#[derive(Debug)]
enum FieldBytes {
    Fixed(Bytes),
    Variable { offsets: Bytes, data: Bytes },
}

impl Rows {
    /// Decodes the frame whose bytes these are. Buffers of an earlier frame are used again.
    pub fn read(
        &mut self,
        bytes: &Bytes,
        epoch: u32,
        declaration: &Declaration,
        placing: &mut Placing<'_>,
    ) -> Result<(), FrameError> {
        let frame = Frame::parse(bytes)?;
        let columns = Columns::parse(&frame, declaration)?;
        self.epoch = epoch;
        self.first_index = frame.header().first_index;
        self.device_ns.clear();
        self.time_us.clear();
        self.err_us.clear();
        self.fields.clear();
        self.device_ns.extend(columns.times.iter());
        let rows = self.device_ns.len();
        self.time_us.reserve(rows);
        self.err_us.reserve(rows);
        placing.publish(&self.device_ns, |time_us, err_us| {
            self.time_us.push(time_us);
            self.err_us.push(err_us);
        });
        self.fields
            .extend(columns.fields.iter().map(|column| match *column {
                Column::Fixed(data) => FieldBytes::Fixed(bytes.slice_ref(data)),
                Column::Variable { offsets, data } => FieldBytes::Variable {
                    offsets: bytes.slice_ref(offsets),
                    data: bytes.slice_ref(data),
                },
            }));
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.time_us.len()
    }

    /// Sample index of a row.
    pub fn index(&self, row: usize) -> u64 {
        self.first_index + row as u64
    }
}

/// Collects rows for one record batch.
#[derive(Debug)]
pub struct BatchBuilder {
    schema: SchemaRef,
    time: MutableBuffer,
    device_time: MutableBuffer,
    epoch: MutableBuffer,
    err: MutableBuffer,
    seq: MutableBuffer,
    fields: Vec<Building>,
    rows: usize,
    bytes: usize,
    row_bytes: usize,
    /// Buffers of the last batch, to be used again when it is gone.
    lent: Vec<Buffer>,
}

/// One declared column.
#[derive(Debug)]
struct Building {
    kind: FieldType,
    /// The list's element field and length, for lists.
    list: Option<(FieldRef, i32)>,
    data: MutableBuffer,
    /// Of utf8 and binary: i32, one more than rows.
    offsets: MutableBuffer,
}

impl BatchBuilder {
    /// A builder of batches of `schema`, which must be that of `declaration`.
    pub fn new(schema: SchemaRef, declaration: &Declaration) -> Self {
        let building = |(at, field): (usize, &marey_format::Field)| {
            let list = match schema.field(LEADING_COLUMNS + at).data_type() {
                DataType::FixedSizeList(element, length) => Some((element.clone(), *length)),
                _ => None,
            };
            let mut offsets = MutableBuffer::new(0);
            offsets.push(0i32);
            Building {
                kind: field.kind,
                list,
                data: MutableBuffer::new(0),
                offsets,
            }
        };
        let fields: Vec<Building> = declaration.fields.iter().enumerate().map(building).collect();
        let row_bytes = LEADING_BYTES + fields.iter().map(Building::row_bytes).sum::<usize>();
        let empty = || MutableBuffer::new(0);
        Self {
            schema,
            time: empty(),
            device_time: empty(),
            epoch: empty(),
            err: empty(),
            seq: empty(),
            fields,
            rows: 0,
            bytes: 0,
            row_bytes,
            lent: Vec::new(),
        }
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes of the values so far.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many rows may be added before `bytes` are passed; at least one. Variable values count by their offsets.
    pub fn room(&self, bytes: usize) -> usize {
        (bytes.saturating_sub(self.bytes) / self.row_bytes).max(1)
    }

    /// Adds rows of a frame.
    pub fn append(&mut self, rows: &Rows, range: Range<usize>) {
        let count = range.len();
        self.time.extend_from_slice(&rows.time_us[range.clone()]);
        self.device_time.extend_from_slice(&rows.device_ns[range.clone()]);
        self.err.extend_from_slice(&rows.err_us[range.clone()]);
        self.epoch
            .repeat_slice_n_times(&[rows.epoch.cast_signed()], count);
        self.seq.resize(self.seq.len() + 8 * count, 0);
        let seq = &mut self.seq.typed_data_mut::<i64>()[self.rows..];
        for (seq, row) in seq.iter_mut().zip(range.clone()) {
            *seq = rows.index(row).cast_signed();
        }
        self.bytes += count * self.row_bytes;
        for (building, bytes) in self.fields.iter_mut().zip(&rows.fields) {
            self.bytes += building.append(bytes, range.clone());
        }
        self.rows += count;
    }

    /// The batch of all rows so far; the builder is empty afterwards.
    pub fn finish(&mut self) -> Result<RecordBatch, ArrowError> {
        let rows = self.rows;
        let mut lent = std::mem::take(&mut self.lent);
        lent.clear();
        let mut lend = |buffer: &mut MutableBuffer| {
            let buffer: Buffer = std::mem::take(buffer).into();
            lent.push(buffer.clone());
            buffer
        };
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.schema.fields().len());
        let time = ScalarBuffer::new(lend(&mut self.time), 0, rows);
        columns.push(Arc::new(
            TimestampMicrosecondArray::new(time, None).with_timezone("UTC"),
        ));
        columns.push(Arc::new(Int64Array::new(
            ScalarBuffer::new(lend(&mut self.device_time), 0, rows),
            None,
        )));
        columns.push(Arc::new(Int32Array::new(
            ScalarBuffer::new(lend(&mut self.epoch), 0, rows),
            None,
        )));
        columns.push(Arc::new(Float32Array::new(
            ScalarBuffer::new(lend(&mut self.err), 0, rows),
            None,
        )));
        columns.push(Arc::new(Int64Array::new(
            ScalarBuffer::new(lend(&mut self.seq), 0, rows),
            None,
        )));
        for building in &mut self.fields {
            columns.push(building.finish(rows, &mut lend)?);
        }
        self.lent = lent;
        (self.rows, self.bytes) = (0, 0);
        RecordBatch::try_new(self.schema.clone(), columns)
    }

    /// Takes the buffers of the last batch back, if nothing holds them any more.
    pub fn reclaim(&mut self) {
        let mut lent = std::mem::take(&mut self.lent).into_iter();
        let mut take = |to: &mut MutableBuffer| {
            if let Some(Ok(mut buffer)) = lent.next().map(Buffer::into_mutable)
                && to.is_empty()
            {
                buffer.clear();
                *to = buffer;
            }
        };
        take(&mut self.time);
        take(&mut self.device_time);
        take(&mut self.epoch);
        take(&mut self.err);
        take(&mut self.seq);
        for building in &mut self.fields {
            take(&mut building.data);
        }
    }
}

impl Building {
    fn length(&self) -> usize {
        self.list.as_ref().map_or(1, |(_, length)| *length as usize)
    }

    /// Bytes of one row that are there whatever its value.
    fn row_bytes(&self) -> usize {
        self.kind.width().map_or(4, |width| width * self.length())
    }

    /// Adds rows; returns the bytes of variable values among them.
    fn append(&mut self, bytes: &FieldBytes, range: Range<usize>) -> usize {
        match bytes {
            FieldBytes::Fixed(data) => {
                let (width, row) = (self.kind.width().unwrap_or(1), self.row_bytes());
                extend_elements(&mut self.data, &data[range.start * row..range.end * row], width);
                0
            }
            FieldBytes::Variable { offsets, data } => {
                let offset = |row: usize| {
                    let at = offsets[4 * row..4 * row + 4]
                        .try_into()
                        .expect("the frame's columns were checked");
                    u32::from_le_bytes(at) as usize
                };
                let (from, to) = (offset(range.start), offset(range.end));
                let base = self.data.len();
                for row in range {
                    // Batches are cut far below 2 GiB.
                    self.offsets.push((base + offset(row + 1) - from) as i32);
                }
                self.data.extend_from_slice(&data[from..to]);
                to - from
            }
        }
    }

    fn finish(
        &mut self,
        rows: usize,
        lend: &mut impl FnMut(&mut MutableBuffer) -> Buffer,
    ) -> Result<ArrayRef, ArrowError> {
        let list = self.list.clone();
        let elements = rows * self.length();
        let flat: ArrayRef = match self.kind {
            FieldType::I8 => primitive::<Int8Type>(lend(&mut self.data), elements),
            FieldType::I16 => primitive::<Int16Type>(lend(&mut self.data), elements),
            FieldType::I32 => primitive::<Int32Type>(lend(&mut self.data), elements),
            FieldType::I64 => primitive::<Int64Type>(lend(&mut self.data), elements),
            FieldType::U8 => primitive::<UInt8Type>(lend(&mut self.data), elements),
            FieldType::U16 => primitive::<UInt16Type>(lend(&mut self.data), elements),
            FieldType::U32 => primitive::<UInt32Type>(lend(&mut self.data), elements),
            FieldType::U64 => primitive::<UInt64Type>(lend(&mut self.data), elements),
            FieldType::F32 => primitive::<Float32Type>(lend(&mut self.data), elements),
            FieldType::F64 => primitive::<Float64Type>(lend(&mut self.data), elements),
            FieldType::Bool => {
                let data = lend(&mut self.data);
                Arc::new(BooleanArray::new(
                    BooleanBuffer::collect_bool(rows, |row| data[row] != 0),
                    None,
                ))
            }
            FieldType::Utf8 | FieldType::Binary => {
                let data = lend(&mut self.data);
                let offsets: Buffer = std::mem::take(&mut self.offsets).into();
                self.offsets.push(0i32);
                let offsets = OffsetBuffer::new(ScalarBuffer::new(offsets, 0, rows + 1));
                match self.kind {
                    FieldType::Utf8 => Arc::new(StringArray::try_new(offsets, data, None)?),
                    _ => Arc::new(BinaryArray::try_new(offsets, data, None)?),
                }
            }
        };
        Ok(match list {
            Some((element, length)) => Arc::new(FixedSizeListArray::try_new(element, length, flat, None)?),
            None => flat,
        })
    }
}

fn primitive<T: ArrowPrimitiveType>(data: Buffer, elements: usize) -> ArrayRef {
    Arc::new(PrimitiveArray::<T>::new(
        ScalarBuffer::new(data, 0, elements),
        None,
    ))
}

/// Copies little-endian elements.
fn extend_elements(to: &mut MutableBuffer, bytes: &[u8], width: usize) {
    let from = to.len();
    to.extend_from_slice(bytes);
    if cfg!(target_endian = "big") && width > 1 {
        to.as_slice_mut()[from..]
            .chunks_exact_mut(width)
            .for_each(<[u8]>::reverse);
    }
}
