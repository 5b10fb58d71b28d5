//! JSON and values as Python's standard library writes them: `json.dumps`, `float.hex`, `bytes.hex`.

use crate::output::Result;
use marey_format::frame::Column;
use marey_format::types::hex;
use marey_format::{Field, FieldType};
use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{CharEscape, Formatter, Serializer};
use std::io::{self, Write};

/// A line of JSON, byte for byte that of `json.dumps`: a blank behind commas and colons, ASCII alone.
pub fn json<T: Serialize>(value: &T) -> Result<String> {
    let mut bytes = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut bytes, Spaced))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + Write>(&mut self, to: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { to.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, to: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { to.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        to.write_all(b": ")
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, to: &mut W, fragment: &str) -> io::Result<()> {
        for c in fragment.chars() {
            match c {
                ' '..='~' => to.write_all(&[c as u8])?,
                c => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        write!(to, "\\u{unit:04x}")?;
                    }
                }
            }
        }
        Ok(())
    }

    fn write_char_escape<W: ?Sized + Write>(&mut self, to: &mut W, escape: CharEscape) -> io::Result<()> {
        let short: &[u8] = match escape {
            CharEscape::Quote => b"\\\"",
            CharEscape::ReverseSolidus => b"\\\\",
            CharEscape::Solidus => b"/",
            CharEscape::Backspace => b"\\b",
            CharEscape::FormFeed => b"\\f",
            CharEscape::LineFeed => b"\\n",
            CharEscape::CarriageReturn => b"\\r",
            CharEscape::Tab => b"\\t",
            CharEscape::AsciiControl(byte) => return write!(to, "\\u{byte:04x}"),
        };
        to.write_all(short)
    }
}

/// One value: integers as they are, floats and binary in hexadecimal.
pub fn cell(column: &Column<'_>, field: &Field, row: usize) -> Value {
    let Column::Fixed(bytes) = column else {
        let cell = column.cell(row).unwrap_or_default();
        return match field.kind {
            FieldType::Utf8 => String::from_utf8_lossy(cell).into_owned().into(),
            _ => hex(cell).into(),
        };
    };
    let width = field.kind.width().unwrap_or(1);
    let element = |at: usize| element(&bytes[at * width..(at + 1) * width], field.kind);
    match field.length {
        None => element(row),
        Some(length) => (row * length as usize..(row + 1) * length as usize)
            .map(element)
            .collect(),
    }
}

fn element(bytes: &[u8], kind: FieldType) -> Value {
    let mut wide = [0; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    let unsigned = u64::from_le_bytes(wide);
    let unused = 64 - 8 * bytes.len() as u32;
    let signed = (unsigned << unused).cast_signed() >> unused;
    match kind {
        FieldType::I8 | FieldType::I16 | FieldType::I32 | FieldType::I64 => signed.into(),
        FieldType::F32 => hex_float(f64::from(f32::from_bits(unsigned as u32))).into(),
        FieldType::F64 => hex_float(f64::from_bits(unsigned)).into(),
        FieldType::Bool => (unsigned != 0).into(),
        _ => unsigned.into(),
    }
}

/// A float as C's `%a` and Python's `float.hex` write it: every bit, and readable.
fn hex_float(x: f64) -> String {
    let sign = if x.is_sign_negative() { "-" } else { "" };
    if x.is_nan() {
        return "nan".to_owned();
    }
    if x.is_infinite() {
        return format!("{sign}inf");
    }
    let bits = x.to_bits();
    let (exponent, fraction) = ((bits >> 52 & 0x7FF) as i64, bits & ((1 << 52) - 1));
    match (exponent, fraction) {
        (0, 0) => format!("{sign}0x0.0p+0"),
        (0, _) => format!("{sign}0x0.{fraction:013x}p-1022"),
        _ => format!("{sign}0x1.{fraction:013x}p{:+}", exponent - 1023),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_python_writes_them() {
        for (x, text) in [
            (1.5, "0x1.8000000000000p+0"),
            (-0.0, "-0x0.0p+0"),
            (0.1, "0x1.999999999999ap-4"),
            (5e-324, "0x0.0000000000001p-1022"),
            (f64::NEG_INFINITY, "-inf"),
            (f64::NAN, "nan"),
        ] {
            assert_eq!(hex_float(x), text);
        }
    }

    #[test]
    fn json_is_written_as_python_writes_it() {
        let value = serde_json::json!({"a": [1, null, "x/\u{e9}\u{1F600}\u{7f}\n\u{1}\""], "b": {}});
        let text = r#"{"a": [1, null, "x/\u00e9\ud83d\ude00\u007f\n\u0001\""], "b": {}}"#;
        assert_eq!(json(&value).unwrap(), text);
    }
}
