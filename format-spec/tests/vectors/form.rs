//! The form of what a vector's JSON says of frames and samples: one rendering for the generator and for every reader.
//!
//! The keys are those that `reference/read_log.py` prints, so that its lines can be compared as they are. Floats are in
//! the hexadecimal of C and Python, binary is hexadecimal: nothing is rounded on the way.

#![allow(dead_code, reason = "shared by path; not everybody uses all of it")]

use marey_format::Declaration;
use marey_format::frame::{Column, Columns, Frame};
use marey_format::types::{Field, FieldType, hex};
use serde_json::{Value, json};

/// A frame of a log.
pub fn frame(segment: u32, offset: u64, epoch: Option<u32>, frame: &Frame<'_>) -> Value {
    let header = frame.header();
    json!({
        "segment": segment, "offset": offset, "length": header.length, "kind": header.kind.0,
        "lane": header.lane as u8, "epoch": epoch, "stream": header.stream, "count": header.count,
        "sequence": header.sequence, "first_index": header.first_index, "first_time_ns": header.first_time_ns,
        "crc": header.crc,
    })
}

/// One sample of a log.
pub fn sample(stream: &str, epoch: u32, seq: u64, device_time_ns: i64, values: Vec<Value>) -> Value {
    json!({"stream": stream, "epoch": epoch, "seq": seq, "device_time_ns": device_time_ns, "values": values})
}

/// A fault of a log; without `offset` and `bytes` where the specification leaves them open.
pub fn fault(fault: &str, segment: u32, offset: Option<u64>, bytes: Option<u64>) -> Value {
    let mut json = json!({"fault": fault, "segment": segment});
    for (key, value) in [("offset", offset), ("bytes", bytes)] {
        if let Some(value) = value {
            json[key] = json!(value);
        }
    }
    json
}

/// The rows of a data frame, as the codec reads them: device times and values.
pub fn rows(frame: &Frame<'_>, declaration: &Declaration) -> Vec<(i64, Vec<Value>)> {
    let columns =
        Columns::parse(frame, declaration).expect("only frames that fit their declaration are asked for");
    let value = |row: usize, at: usize| cell(&columns.fields[at], &declaration.fields[at], row);
    let row = |(row, time): (usize, i64)| {
        (
            time,
            (0..declaration.fields.len()).map(|at| value(row, at)).collect(),
        )
    };
    columns.times.iter().enumerate().map(row).collect()
}

fn cell(column: &Column<'_>, field: &Field, row: usize) -> Value {
    let bytes = match (column, field.kind.width()) {
        (Column::Fixed(bytes), Some(width)) => {
            let wide = width * field.length.unwrap_or(1) as usize;
            let elements = bytes[wide * row..wide * (row + 1)].chunks_exact(width);
            let mut elements: Vec<Value> = elements.map(|bytes| element(field.kind, bytes)).collect();
            return if field.length.is_some() {
                Value::Array(elements)
            } else {
                elements.remove(0)
            };
        }
        _ => column.cell(row).expect("a column without a width has cells"),
    };
    match field.kind {
        FieldType::Utf8 => json!(std::str::from_utf8(bytes).expect("the codec checked it")),
        _ => json!(hex(bytes)),
    }
}

fn element(kind: FieldType, bytes: &[u8]) -> Value {
    macro_rules! le {
        ($type:ty) => {
            <$type>::from_le_bytes(bytes.try_into().expect("chunks of the type's width"))
        };
    }
    match kind {
        FieldType::I8 => json!(le!(i8)),
        FieldType::I16 => json!(le!(i16)),
        FieldType::I32 => json!(le!(i32)),
        FieldType::I64 => json!(le!(i64)),
        FieldType::U8 => json!(le!(u8)),
        FieldType::U16 => json!(le!(u16)),
        FieldType::U32 => json!(le!(u32)),
        FieldType::U64 => json!(le!(u64)),
        FieldType::F32 => json!(hex_float(f64::from(le!(f32)))),
        FieldType::F64 => json!(hex_float(le!(f64))),
        FieldType::Bool => json!(bytes[0] == 1),
        FieldType::Utf8 | FieldType::Binary => unreachable!("they have no width"),
    }
}

/// A float as Python's `float.hex` writes it.
pub fn hex_float(value: f64) -> String {
    let sign = if value.is_sign_negative() && !value.is_nan() {
        "-"
    } else {
        ""
    };
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.is_infinite() {
        return format!("{sign}inf");
    }
    let bits = value.to_bits();
    let (exponent, fraction) = ((bits >> 52 & 0x7FF) as i32, bits & ((1 << 52) - 1));
    match (exponent, fraction) {
        (0, 0) => format!("{sign}0x0.0p+0"),
        (0, _) => format!("{sign}0x0.{fraction:013x}p-1022"),
        _ => format!("{sign}0x1.{fraction:013x}p{:+}", exponent - 1023),
    }
}
