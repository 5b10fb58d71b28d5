//! What each stream of each device is, as `channels.parquet` has it.

use super::{ReadError, Table};
use crate::disk::Disk;
use arrow::array::{Array, AsArray, RecordBatch, StringArray};
use arrow::datatypes::{Float64Type, Int32Type};
use marey_format::payload::StreamKey;
use marey_format::{Declaration, Field, FieldType, SessionId, StreamName};
use std::collections::BTreeMap;

/// The declarations of a published session's streams, by device and `NAME@N`.
///
/// # Errors
/// If nothing is published, or the table is not of its form.
pub fn declarations(
    disk: &dyn Disk,
    session: &SessionId,
) -> Result<BTreeMap<(String, String), Declaration>, ReadError> {
    let mut found = BTreeMap::new();
    for batch in Table::published(disk, session, "channels.parquet")? {
        let broken = || ReadError::Rows {
            what: format!("channels.parquet of session {session} is not of its form"),
        };
        take(&batch?, &mut found).ok_or_else(broken)?;
    }
    Ok(found)
}

fn take(batch: &RecordBatch, to: &mut BTreeMap<(String, String), Declaration>) -> Option<()> {
    let column = |name| batch.column_by_name(name);
    let text = |name| column(name)?.as_string_opt::<i32>();
    let number = |name| column(name)?.as_primitive_opt::<Float64Type>();
    let (devices, streams, names, kinds) =
        (text("device")?, text("stream")?, text("channel")?, text("type")?);
    let lengths = column("length")?.as_primitive_opt::<Int32Type>()?;
    let (units, sensors, descriptions) = (text("unit")?, text("sensor")?, text("description")?);
    let (scales, offsets, rates) = (number("scale")?, number("offset")?, number("rate_hz")?);
    let (latencies, tolerances) = (number("latency_us")?, number("latency_tolerance_us")?);
    let said = |of: &StringArray, row: usize| of.is_valid(row).then(|| of.value(row).to_owned());
    for row in 0..batch.num_rows() {
        let finite = |value: f64| Some(value).filter(|value| value.is_finite());
        let key: StreamKey = streams.value(row).parse().ok()?;
        let kind = serde_json::Value::String(kinds.value(row).to_owned());
        let field = Field {
            name: StreamName::new(names.value(row)).ok()?,
            kind: serde_json::from_value::<FieldType>(kind).ok()?,
            length: u32::try_from(lengths.value(row))
                .ok()
                .filter(|length| *length > 0),
            unit: said(units, row),
            scale: finite(scales.value(row)).filter(|scale| *scale != 1.0),
            offset: finite(offsets.value(row)).filter(|offset| *offset != 0.0),
            description: said(descriptions, row),
        };
        let at = (devices.value(row).to_owned(), streams.value(row).to_owned());
        let declaration = to.entry(at).or_insert_with(|| Declaration {
            name: key.name,
            fields: Vec::new(),
            rate_hz: finite(rates.value(row)),
            sensor: said(sensors, row),
            latency_us: finite(latencies.value(row)),
            latency_tolerance_us: finite(tolerances.value(row)),
            description: None,
        });
        declaration.fields.push(field);
    }
    Some(())
}
