//! Which fields of a stream go into one XDF stream, in which format: values keep all of what they are.

use super::super::cells::{Number, Style, number, put};
use super::super::recording::OWN_COLUMNS;
use super::put_text;
use crate::commands::import::XdfFormat;
use crate::output::Result;
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::DataType;
use marey_format::{Declaration, FieldType};

/// Fields of one format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub format: XdfFormat,
    /// Their places in the declaration.
    pub fields: Vec<usize>,
    is_first: bool,
}

/// Numbers together in the narrowest format that holds all of each, whole numbers of 64 bits apart from fractions, and what no
/// number of XDF holds as texts.
pub fn groups(declaration: &Declaration) -> Vec<Group> {
    let fields = || declaration.fields.iter().enumerate();
    let is_text = |kind| matches!(kind, FieldType::Utf8 | FieldType::Binary | FieldType::U64);
    let is_float = |kind| matches!(kind, FieldType::F32 | FieldType::F64);
    let has_floats = fields().any(|(_, field)| is_float(field.kind));
    let is_apart = |kind| has_floats && kind == FieldType::I64;
    let chosen = |is_in: &dyn Fn(FieldType) -> bool| -> Vec<usize> {
        fields()
            .filter(|(_, field)| is_in(field.kind))
            .map(|(at, _)| at)
            .collect()
    };
    let numbers = chosen(&|kind| !is_text(kind) && !is_apart(kind));
    let format = numbers
        .iter()
        .map(|&at| needs(declaration.fields[at].kind, has_floats))
        .max_by_key(|format| rank(*format))
        .unwrap_or(XdfFormat::I8);
    let groups = [
        (format, numbers),
        (XdfFormat::I64, chosen(&is_apart)),
        (XdfFormat::Text, chosen(&is_text)),
    ];
    let some = groups.into_iter().filter(|(_, fields)| !fields.is_empty());
    some.enumerate()
        .map(|(number, (format, fields))| Group {
            format,
            fields,
            is_first: number == 0,
        })
        .collect()
}

/// The narrowest format that holds all of a type, beside fractions or not.
fn needs(kind: FieldType, with_floats: bool) -> XdfFormat {
    match (kind, with_floats) {
        (FieldType::F64, _) | (FieldType::I32 | FieldType::U32, true) => XdfFormat::F64,
        (FieldType::F32, _)
        | (FieldType::I8 | FieldType::U8 | FieldType::I16 | FieldType::U16 | FieldType::Bool, true) => {
            XdfFormat::F32
        }
        (FieldType::I8 | FieldType::Bool, false) => XdfFormat::I8,
        (FieldType::U8 | FieldType::I16, false) => XdfFormat::I16,
        (FieldType::U16 | FieldType::I32, false) => XdfFormat::I32,
        _ => XdfFormat::I64,
    }
}

fn rank(format: XdfFormat) -> (bool, Option<usize>) {
    (matches!(format, XdfFormat::F32 | XdfFormat::F64), format.width())
}

impl Group {
    /// What tells it from the others of its stream.
    pub fn suffix(&self) -> &'static str {
        match (self.is_first, self.format) {
            (true, _) => "",
            (false, XdfFormat::Text) => " text",
            (false, _) => " whole",
        }
    }

    /// Puts its values of a row.
    pub fn put(&self, batch: &RecordBatch, row: usize, to: &mut Vec<u8>) -> Result {
        for &field in &self.fields {
            put_value(batch.column(OWN_COLUMNS + field).as_ref(), row, self.format, to)?;
        }
        Ok(())
    }
}

/// Puts a value, or those of a list.
pub fn put_value(column: &dyn Array, row: usize, format: XdfFormat, to: &mut Vec<u8>) -> Result {
    if let DataType::FixedSizeList(..) = column.data_type() {
        let lists = column.as_fixed_size_list();
        let (from, length) = (lists.value_offset_at(row), usize::try_from(lists.value_length())?);
        for at in from..from + length {
            put_value(lists.values().as_ref(), at, format, to)?;
        }
        return Ok(());
    }
    if format == XdfFormat::Text {
        match column.data_type() {
            DataType::Utf8 if column.is_valid(row) => put_text(column.as_string::<i32>().value(row), to),
            _ => {
                let mut text = String::new();
                put(column, row, Style::Csv, &mut text)?;
                put_text(&text, to);
            }
        }
        return Ok(());
    }
    let number = number(column, row)?;
    macro_rules! put_as {
        ($type:ty) => {
            match number {
                Number::Whole(value) => to.extend((value as $type).to_le_bytes()),
                Number::Float(value) => to.extend((value as $type).to_le_bytes()),
            }
        };
    }
    match format {
        XdfFormat::I8 => put_as!(i8),
        XdfFormat::I16 => put_as!(i16),
        XdfFormat::I32 => put_as!(i32),
        XdfFormat::I64 => put_as!(i64),
        XdfFormat::F32 => put_as!(f32),
        XdfFormat::F64 => put_as!(f64),
        XdfFormat::Text => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn laid(kinds: &[&str]) -> Vec<(&'static str, Vec<usize>, &'static str)> {
        let fields: Vec<String> = (0..)
            .zip(kinds)
            .map(|(at, kind)| format!("{{\"name\":\"f{at}\",\"type\":\"{kind}\"}}"))
            .collect();
        let json = format!("{{\"name\":\"x\",\"fields\":[{}]}}", fields.join(","));
        let declaration = Declaration::from_json(json.as_bytes()).expect("it is one");
        let of = |group: Group| (group.format.name(), group.fields.clone(), group.suffix());
        groups(&declaration).into_iter().map(of).collect()
    }

    #[test]
    fn each_format_holds_all_of_its_values() {
        assert_eq!(laid(&["f32", "i16", "bool"]), [("float32", vec![0, 1, 2], "")]);
        assert_eq!(laid(&["f32", "i32"]), [("double64", vec![0, 1], "")]);
        assert_eq!(laid(&["i8", "u8"]), [("int16", vec![0, 1], "")]);
        assert_eq!(laid(&["u32", "bool"]), [("int64", vec![0, 1], "")]);
        assert_eq!(laid(&["i64", "i8"]), [("int64", vec![0, 1], "")]);
        assert_eq!(
            laid(&["i64", "f32", "utf8", "u64", "f64"]),
            [
                ("double64", vec![1, 4], ""),
                ("int64", vec![0], " whole"),
                ("string", vec![2, 3], " text")
            ]
        );
        assert_eq!(laid(&["binary"]), [("string", vec![0], "")]);
    }
}
