//! Schemas of the Parquet files, and what stands in their metadata for the readers that people use.
//!
//! `pandas` makes `pd.read_parquet` give a DatetimeIndex called `time`, `PANDAS_ATTRS` gives `df.attrs`. Both stand in
//! the Arrow schema's metadata and in the file's key-values: readers look into one or the other.

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use marey_format::{Declaration, FieldType};
use parquet::file::metadata::KeyValue;
use std::collections::HashMap;
use std::sync::Arc;

/// Name of a list's element, as the Parquet format has it.
pub const ELEMENT: &str = "element";

/// The Arrow type of a column of UTC microseconds.
pub fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// The schema of a stream's files.
pub fn stream_schema(declaration: &Declaration) -> SchemaRef {
    let mut fields = vec![
        Field::new("time", time_type(), false),
        Field::new("device_time_ns", DataType::Int64, false),
        Field::new("epoch", DataType::Int32, false),
        Field::new("time_err_us", DataType::Float32, false),
        Field::new("seq", DataType::Int64, false),
    ];
    fields.extend(declaration.fields.iter().map(|field| channel(field, declaration)));
    // Units alone, the same for every device of a stream: attrs that differ vanish when frames are joined.
    let mut units = serde_json::Map::new();
    for field in &declaration.fields {
        if let Some(unit) = &field.unit {
            units.insert(field.name.to_string(), unit.as_str().into());
        }
    }
    with_metadata(fields, true, units)
}

/// The schema of a table beside the streams, with or without `time` as its index.
pub fn table_schema(fields: Vec<Field>, indexed: bool) -> SchemaRef {
    with_metadata(fields, indexed, serde_json::Map::new())
}

fn with_metadata(
    fields: Vec<Field>,
    indexed: bool,
    units: serde_json::Map<String, serde_json::Value>,
) -> SchemaRef {
    let attrs = if units.is_empty() {
        serde_json::json!({})
    } else {
        serde_json::json!({ "units": units })
    };
    let mut metadata = HashMap::from([("PANDAS_ATTRS".to_owned(), attrs.to_string())]);
    if indexed {
        metadata.insert("pandas".to_owned(), pandas());
    }
    Arc::new(Schema::new_with_metadata(Fields::from(fields), metadata))
}

/// The schema's metadata as key-values of the file, sorted.
pub fn key_values(schema: &Schema) -> Vec<KeyValue> {
    let mut pairs: Vec<_> = schema.metadata().iter().collect();
    pairs.sort();
    pairs
        .into_iter()
        .map(|(key, value)| KeyValue::new(key.clone(), value.clone()))
        .collect()
}

fn channel(field: &marey_format::Field, declaration: &Declaration) -> Field {
    let element = arrow_type(field.kind);
    let kind = match field.length {
        Some(length) => {
            let element = Arc::new(Field::new(ELEMENT, element, false));
            DataType::FixedSizeList(element, length.cast_signed())
        }
        None => element,
    };
    let mut metadata = HashMap::new();
    let mut put = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            metadata.insert(key.to_owned(), value);
        }
    };
    let number = |value: Option<f64>| value.map(|value| value.to_string());
    put("unit", field.unit.clone());
    put("scale", number(field.scale));
    put("offset", number(field.offset));
    put("description", field.description.clone());
    put("sensor", declaration.sensor.clone());
    put("latency_us", number(declaration.latency_us));
    put("latency_tolerance_us", number(declaration.latency_tolerance_us));
    Field::new(field.name.as_str(), kind, false).with_metadata(metadata)
}

fn arrow_type(kind: FieldType) -> DataType {
    match kind {
        FieldType::I8 => DataType::Int8,
        FieldType::I16 => DataType::Int16,
        FieldType::I32 => DataType::Int32,
        FieldType::I64 => DataType::Int64,
        FieldType::U8 => DataType::UInt8,
        FieldType::U16 => DataType::UInt16,
        FieldType::U32 => DataType::UInt32,
        FieldType::U64 => DataType::UInt64,
        FieldType::F32 => DataType::Float32,
        FieldType::F64 => DataType::Float64,
        FieldType::Bool => DataType::Boolean,
        FieldType::Utf8 => DataType::Utf8,
        FieldType::Binary => DataType::Binary,
    }
}

/// What pandas looks for. An empty `columns` list makes it raise, so the index column is described.
fn pandas() -> String {
    let time = serde_json::json!({
        "name": "time",
        "field_name": "time",
        "pandas_type": "datetimetz",
        "numpy_type": "datetime64[us]",
        "metadata": { "timezone": "UTC" },
    });
    serde_json::json!({
        "index_columns": ["time"],
        "column_indexes": [],
        "columns": [time],
        "pandas_version": "2.0.0",
        "creator": { "library": "marey", "version": env!("CARGO_PKG_VERSION") },
    })
    .to_string()
}
