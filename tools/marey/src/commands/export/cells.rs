//! One value of a column as text: a cell of CSV or TSV, or JSON. Numbers have all their digits, and no more.

use crate::output::{Failure, Result};
use crate::rows::time_text;
use arrow::array::{Array, AsArray};
use arrow::datatypes::{
    DataType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, TimestampMicrosecondType,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use marey_format::types::hex;
use std::fmt::Write;

/// How a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// RFC 4180: quotes where they are needed. Bytes in hexadecimal, lists as JSON, `NaN`, `inf`, `-inf`.
    Csv,
    /// Tab-separated as BIDS has it: no quotes, so that tabs, line ends and their like become spaces; `n/a` for what is no number.
    Tsv,
    /// Bytes in base 64; what JSON has no number for as protobuf's JSON has it: "NaN", "Infinity", "-Infinity".
    Json,
}

/// Puts a value.
pub fn put(column: &dyn Array, row: usize, style: Style, to: &mut String) -> Result {
    if column.is_null(row) {
        to.push_str(match style {
            Style::Csv => "",
            Style::Tsv => "n/a",
            Style::Json => "null",
        });
        return Ok(());
    }
    macro_rules! number {
        ($type:ty) => {
            write!(to, "{}", column.as_primitive::<$type>().value(row)).map_err(Failure::fault)?
        };
    }
    match column.data_type() {
        DataType::Int8 => number!(Int8Type),
        DataType::Int16 => number!(Int16Type),
        DataType::Int32 => number!(Int32Type),
        DataType::Int64 => number!(Int64Type),
        DataType::UInt8 => number!(UInt8Type),
        DataType::UInt16 => number!(UInt16Type),
        DataType::UInt32 => number!(UInt32Type),
        DataType::UInt64 => number!(UInt64Type),
        DataType::Float32 => {
            let value = column.as_primitive::<Float32Type>().value(row);
            // By its own shortest digits: widened, 0.1 would become 0.10000000149011612.
            float(f64::from(value), format_args!("{value:?}"), style, to)?;
        }
        DataType::Float64 => {
            let value = column.as_primitive::<Float64Type>().value(row);
            float(value, format_args!("{value:?}"), style, to)?;
        }
        DataType::Boolean => to.push_str(match (column.as_boolean().value(row), style) {
            (true, Style::Tsv) => "1",
            (false, Style::Tsv) => "0",
            (true, _) => "true",
            (false, _) => "false",
        }),
        DataType::Utf8 => text(column.as_string::<i32>().value(row), style, to)?,
        DataType::Binary => {
            let bytes = column.as_binary::<i32>().value(row);
            match style {
                Style::Json => write!(to, "\"{}\"", STANDARD.encode(bytes)).map_err(Failure::fault)?,
                Style::Csv | Style::Tsv => to.push_str(&hex(bytes)),
            }
        }
        DataType::Timestamp(..) => {
            let time = time_text(column.as_primitive::<TimestampMicrosecondType>().value(row));
            text(&time, style, to)?;
        }
        DataType::FixedSizeList(..) => list(column, row, style, to)?,
        other => {
            let what = format!("a column of type {other} is none that Marey writes");
            return Err(Failure::fault(what));
        }
    }
    Ok(())
}

fn list(column: &dyn Array, row: usize, style: Style, to: &mut String) -> Result {
    let lists = column.as_fixed_size_list();
    let (from, length) = (lists.value_offset_at(row), usize::try_from(lists.value_length())?);
    let quote = style == Style::Csv && length > 1;
    if quote {
        to.push('"');
    }
    to.push('[');
    for at in from..from + length {
        if at > from {
            to.push(',');
        }
        // A quoted cell has no quotes in it: NaN stands as it does in Python's JSON.
        let style = if style == Style::Json {
            Style::Json
        } else {
            Style::Csv
        };
        put(lists.values().as_ref(), at, style, to)?;
    }
    to.push(']');
    if quote {
        to.push('"');
    }
    Ok(())
}

fn float(value: f64, digits: std::fmt::Arguments<'_>, style: Style, to: &mut String) -> Result {
    match (style, value.is_finite()) {
        (_, true) | (Style::Csv, false) => to.write_fmt(digits).map_err(Failure::fault)?,
        (Style::Tsv, false) => to.push_str("n/a"),
        (Style::Json, false) => to.push_str(match value {
            f64::INFINITY => "\"Infinity\"",
            f64::NEG_INFINITY => "\"-Infinity\"",
            _ => "\"NaN\"",
        }),
    }
    Ok(())
}

/// Puts a text.
pub fn text(text: &str, style: Style, to: &mut String) -> Result {
    match style {
        Style::Json => to.push_str(&serde_json::to_string(text)?),
        Style::Csv => match text.contains(['"', ',', '\n', '\r']) {
            true => {
                to.push('"');
                to.push_str(&text.replace('"', "\"\""));
                to.push('"');
            }
            false => to.push_str(text),
        },
        Style::Tsv => match text.is_empty() {
            true => to.push_str("n/a"),
            false => to.extend(text.chars().map(|c| if c.is_control() { ' ' } else { c })),
        },
    }
    Ok(())
}

/// A number of either kind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    Whole(i64),
    Float(f64),
}

/// A value that is a number, or a truth: 0 or 1. Whole numbers of 64 bits without a sign are none.
pub fn number(column: &dyn Array, row: usize) -> Result<Number> {
    macro_rules! whole {
        ($type:ty) => {
            Number::Whole(i64::from(column.as_primitive::<$type>().value(row)))
        };
    }
    Ok(match column.data_type() {
        DataType::Int8 => whole!(Int8Type),
        DataType::Int16 => whole!(Int16Type),
        DataType::Int32 => whole!(Int32Type),
        DataType::Int64 => whole!(Int64Type),
        DataType::UInt8 => whole!(UInt8Type),
        DataType::UInt16 => whole!(UInt16Type),
        DataType::UInt32 => whole!(UInt32Type),
        DataType::Boolean => Number::Whole(i64::from(column.as_boolean().value(row))),
        DataType::Float32 => Number::Float(column.as_primitive::<Float32Type>().value(row).into()),
        DataType::Float64 => Number::Float(column.as_primitive::<Float64Type>().value(row)),
        other => return Err(Failure::fault(format!("a column of type {other} is no number"))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{BinaryArray, FixedSizeListArray, Float32Array, Float64Array, StringArray};

    fn said(column: &dyn Array, style: Style) -> Vec<String> {
        let cell = |row| {
            let mut cell = String::new();
            put(column, row, style, &mut cell).expect("it can be written");
            cell
        };
        (0..column.len()).map(cell).collect()
    }

    #[test]
    fn floats_have_all_their_digits_and_json_has_words_for_what_is_no_number() {
        let floats = Float32Array::from(vec![0.1, 1e38, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0]);
        assert_eq!(
            said(&floats, Style::Csv),
            ["0.1", "1e38", "NaN", "inf", "-inf", "-0.0"]
        );
        assert_eq!(
            said(&floats, Style::Json),
            ["0.1", "1e38", "\"NaN\"", "\"Infinity\"", "\"-Infinity\"", "-0.0"]
        );
        assert_eq!(said(&floats, Style::Tsv)[2..5], ["n/a", "n/a", "n/a"]);
        let doubles = Float64Array::from(vec![0.1 + 0.2, 5e-324]);
        assert_eq!(said(&doubles, Style::Csv), ["0.30000000000000004", "5e-324"]);
    }

    #[test]
    fn texts_are_quoted_where_a_reader_would_be_misled() {
        let texts = StringArray::from(vec![Some("a, \"b\"\nc"), Some("tab\there"), Some(""), None]);
        assert_eq!(
            said(&texts, Style::Csv),
            ["\"a, \"\"b\"\"\nc\"", "tab\there", "", ""]
        );
        assert_eq!(said(&texts, Style::Tsv), ["a, \"b\" c", "tab here", "n/a", "n/a"]);
        assert_eq!(
            said(&texts, Style::Json),
            ["\"a, \\\"b\\\"\\nc\"", "\"tab\\there\"", "\"\"", "null"]
        );
        let bytes = BinaryArray::from(vec![&[0u8, 255][..]]);
        assert_eq!(
            (said(&bytes, Style::Csv), said(&bytes, Style::Json)),
            (vec!["00ff".to_owned()], vec!["\"AP8=\"".to_owned()])
        );
    }

    #[test]
    fn lists_are_json_whatever_window_of_an_array_they_are() {
        let lists = [[1.5f32, f32::NAN], [2.0, 3.0]].map(|list| Some(list.map(Some)));
        let lists = FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(lists, 2);
        assert_eq!(said(&lists, Style::Csv), ["\"[1.5,NaN]\"", "\"[2.0,3.0]\""]);
        assert_eq!(said(&lists.slice(1, 1), Style::Json), ["[2.0,3.0]"]);
        assert_eq!(said(&lists, Style::Json)[0], "[1.5,\"NaN\"]");
    }
}
