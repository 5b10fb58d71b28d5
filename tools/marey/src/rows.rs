//! Rows of Arrow batches as values: what stands in Parquet, in the terms of the device side.

use crate::output::{Failure, Result};
use arrow::array::{Array, AsArray, BinaryArray, BooleanArray, FixedSizeListArray, RecordBatch, StringArray};
use arrow::datatypes::{
    DataType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use marey_device::Value;

/// The channels of one row, as the device captured them.
pub fn values(batch: &RecordBatch, row: usize) -> Result<Vec<Value>> {
    batch.columns()[5..]
        .iter()
        .map(|column| value(column.as_ref(), row))
        .collect()
}

fn value(column: &dyn Array, row: usize) -> Result<Value> {
    Ok(match column.data_type() {
        DataType::Int8 => Value::I64(column.as_primitive::<Int8Type>().value(row).into()),
        DataType::Int16 => Value::I64(column.as_primitive::<Int16Type>().value(row).into()),
        DataType::Int32 => Value::I64(column.as_primitive::<Int32Type>().value(row).into()),
        DataType::Int64 => Value::I64(column.as_primitive::<Int64Type>().value(row)),
        DataType::UInt8 => Value::U64(column.as_primitive::<UInt8Type>().value(row).into()),
        DataType::UInt16 => Value::U64(column.as_primitive::<UInt16Type>().value(row).into()),
        DataType::UInt32 => Value::U64(column.as_primitive::<UInt32Type>().value(row).into()),
        DataType::UInt64 => Value::U64(column.as_primitive::<UInt64Type>().value(row)),
        DataType::Float32 => Value::F32(column.as_primitive::<Float32Type>().value(row)),
        DataType::Float64 => Value::F64(column.as_primitive::<Float64Type>().value(row)),
        DataType::Boolean => Value::Bool(typed::<BooleanArray>(column)?.value(row)),
        DataType::Utf8 => Value::Text(typed::<StringArray>(column)?.value(row).to_owned()),
        DataType::Binary => Value::Bytes(typed::<BinaryArray>(column)?.value(row).to_vec()),
        DataType::FixedSizeList(..) => {
            let list = typed::<FixedSizeListArray>(column)?.value(row);
            let items: Result<Vec<_>> = (0..list.len()).map(|at| value(list.as_ref(), at)).collect();
            Value::List(items?)
        }
        other => {
            return Err(Failure::fault(format!(
                "a column of type {other} is none that Marey writes"
            )));
        }
    })
}

fn typed<T: 'static>(column: &dyn Array) -> Result<&T> {
    let other = || Failure::fault("a column's array is not of its type");
    column.as_any().downcast_ref::<T>().ok_or_else(other)
}

/// A value as JSON; what JSON has no number for becomes text.
pub fn json(value: &Value) -> serde_json::Value {
    let float = |x: f64| match serde_json::Number::from_f64(x) {
        Some(number) => serde_json::Value::Number(number),
        None => x.to_string().into(),
    };
    match value {
        Value::I64(n) => (*n).into(),
        Value::U64(n) => (*n).into(),
        Value::F32(x) => match x.is_finite() {
            // By way of its own shortest digits: widened, 0.1 would become 0.10000000149011612.
            true => x.to_string().parse().map_or_else(|_| float(f64::from(*x)), float),
            false => float(f64::from(*x)),
        },
        Value::F64(x) => float(*x),
        Value::Bool(b) => (*b).into(),
        Value::Text(text) => text.as_str().into(),
        Value::Bytes(bytes) => marey_format::types::hex(bytes).into(),
        Value::List(items) => items.iter().map(json).collect(),
    }
}

/// Microseconds of POSIX time as `2026-11-21T09:30:00.875966Z`.
pub fn time_text(time_us: i64) -> String {
    let (days, us) = (
        time_us.div_euclid(86_400_000_000),
        time_us.rem_euclid(86_400_000_000),
    );
    // Days to a date of the Gregorian calendar, counted from 1 March of the year 0 (Hinnant, "chrono-compatible
    // low-level date algorithms").
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let of_era = z.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let second = us / 1_000_000;
    let (hour, minute, second, fraction) = (second / 3600, second / 60 % 60, second % 60, us % 1_000_000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{fraction:06}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(time_text(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(time_text(1_709_210_096_000_001), "2024-02-29T12:34:56.000001Z");
        assert_eq!(time_text(-1), "1969-12-31T23:59:59.999999Z");
    }

    #[test]
    fn floats_keep_their_own_digits() {
        assert_eq!(json(&Value::F32(0.1)).to_string(), "0.1");
        assert_eq!(json(&Value::F64(f64::NAN)).to_string(), "\"NaN\"");
    }
}
