//! MCAP: a channel of JSON messages for each stream of each device, with a JSON schema that has the units; `/events` and
//! `/gaps`; the session's facts as metadata.
//!
//! The messages of a stream stand together, in chunks of their own: a viewer that wants one stream reads nothing else, and all
//! are found by time through the index. JSON because every reader of MCAP has it without code of its own.

use super::Written;
use super::cells::{Style, put, text};
use super::place::{Made, Place};
use super::recording::{OWN_COLUMNS, Own, Recording, Stream, moment_us};
use crate::output::{Failure, Result};
use crate::rows::time_text;
use ::mcap::records::{MessageHeader, Metadata};
use ::mcap::{McapError, WriteOptions, Writer};
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::TimestampMicrosecondType;
use marey_format::{Field, FieldType};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Name of the metadata record that has the session's facts, and of what a channel says of its stream.
pub const FACTS: &str = "marey.session";
/// A stream's declaration, in a channel's metadata.
pub const DECLARATION: &str = "marey.declaration";

type To = Writer<Made>;

pub fn write(recording: &Recording<'_>, place: &mut Place) -> Result<Vec<Written>> {
    let disk = recording.source.disk();
    let options = WriteOptions::new()
        .profile("")
        .library(format!("marey {}", env!("CARGO_PKG_VERSION")))
        .chunk_size(Some(chunk_bytes(recording.streams.len())))
        .compression_threads(0);
    let mut to = options.create(place.file("")?).map_err(failed)?;
    let facts = Metadata {
        name: FACTS.to_owned(),
        metadata: recording.facts(),
    };
    to.write_metadata(&facts).map_err(failed)?;
    let mut written = Vec::new();
    for stream in &recording.streams {
        let topic = topic(stream);
        let channel = stream_channel(&mut to, stream, &topic)?;
        let mut rows = recording.rows(stream, &*disk)?;
        let (mut count, mut message) = (0, String::new());
        while let Some(batch) = rows.next()? {
            count += batch.num_rows() as u64;
            put_rows(&mut to, channel, batch, &mut message)?;
            place.goes_on()?;
        }
        // The next stream has chunks of its own.
        to.flush().map_err(failed)?;
        written.push(Written::of(stream, count, topic));
    }
    for table in ["events", "gaps"] {
        put_table(&mut to, recording, table)?;
    }
    to.finish().map_err(failed)?;
    place.bytes += to.into_inner().finish()?;
    Ok(written)
}

/// Bytes of messages after which a chunk is cut. Who reads by time has a chunk of each stream in memory.
fn chunk_bytes(streams: usize) -> u64 {
    ((64 << 20) / streams.max(1) as u64).clamp(32 << 10, 768 << 10)
}

fn failed(error: McapError) -> Failure {
    match error {
        // Its own words hide what the disk said, which names the file.
        McapError::Io(error) => Failure::fault(error),
        error => Failure::fault(format!("the file can't be written: {error}")),
    }
}

/// `/DEVICE/STREAM`, and `/DEVICE/STREAM/vN` from the second version on.
fn topic(stream: &Stream) -> String {
    match stream.key.version {
        1 => format!("/{}/{}", stream.device, stream.key.name),
        version => format!("/{}/{}/v{version}", stream.device, stream.key.name),
    }
}

fn stream_channel(to: &mut To, stream: &Stream, topic: &str) -> Result<u16> {
    let schema = to
        .add_schema(
            &format!("marey.{}", stream.key.name),
            "jsonschema",
            &schema(stream),
        )
        .map_err(failed)?;
    let declaration = String::from_utf8(stream.declaration.to_json()).map_err(Failure::fault)?;
    let facts = BTreeMap::from([
        ("device".to_owned(), stream.device.clone()),
        ("stream".to_owned(), stream.key.to_string()),
        (DECLARATION.to_owned(), declaration),
    ]);
    to.add_channel(schema, topic, "json", &facts).map_err(failed)
}

fn schema(stream: &Stream) -> Vec<u8> {
    let mut properties = serde_json::Map::new();
    properties.insert(
        "time_err_us".to_owned(),
        described("number", "the sample's time is right within so many microseconds"),
    );
    properties.insert(
        "device_time_ns".to_owned(),
        described("integer", "the device's own stamp"),
    );
    properties.insert(
        "epoch".to_owned(),
        described("integer", "which life of the device's clock"),
    );
    properties.insert("seq".to_owned(), described("integer", "index of the sample"));
    for field in &stream.declaration.fields {
        properties.insert(field.name.to_string(), property(field));
    }
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": format!("marey.{}", stream.key.name),
        "type": "object",
        "properties": properties,
    });
    schema.to_string().into_bytes()
}

fn described(kind: &str, description: &str) -> Value {
    json!({"type": kind, "description": description})
}

fn property(field: &Field) -> Value {
    let mut property = match field.kind {
        FieldType::F32 | FieldType::F64 => json!({"type": "number"}),
        FieldType::Bool => json!({"type": "boolean"}),
        FieldType::Utf8 => json!({"type": "string"}),
        FieldType::Binary => json!({"type": "string", "contentEncoding": "base64"}),
        _ => json!({"type": "integer"}),
    };
    if let Some(length) = field.length {
        property = json!({"type": "array", "items": property, "minItems": length, "maxItems": length});
    }
    let unit = field.unit.as_ref().map(|unit| format!("[{unit}]"));
    let said: Vec<String> = field.description.clone().into_iter().chain(unit).collect();
    if !said.is_empty() {
        property["description"] = said.join(" ").into();
    }
    for (key, value) in [("scale", field.scale), ("offset", field.offset)] {
        if let Some(value) = value {
            property[key] = value.into();
        }
    }
    if let Some(unit) = &field.unit {
        property["unit"] = unit.as_str().into();
    }
    property
}

fn put_rows(to: &mut To, channel: u16, batch: &RecordBatch, message: &mut String) -> Result {
    let own = Own::of(batch);
    let schema = batch.schema();
    let names: Vec<String> = schema
        .fields()
        .iter()
        .map(|field| format!(",\"{}\":", field.name()))
        .collect();
    for row in 0..batch.num_rows() {
        message.clear();
        message.push_str("{\"time_err_us\":");
        put(batch.column(3).as_ref(), row, Style::Json, message)?;
        let (stamp, epoch, seq) = (own.device_time_ns[row], own.epoch[row], own.seq[row]);
        write!(
            message,
            ",\"device_time_ns\":{stamp},\"epoch\":{epoch},\"seq\":{seq}"
        )?;
        for (column, name) in batch.columns().iter().zip(&names).skip(OWN_COLUMNS) {
            message.push_str(name);
            put(column.as_ref(), row, Style::Json, message)?;
        }
        message.push('}');
        send(to, channel, own.seq[row], own.time_us[row], message)?;
    }
    Ok(())
}

fn send(to: &mut To, channel_id: u16, seq: i64, time_us: i64, message: &str) -> Result {
    let time_ns = u64::try_from(time_us)
        .ok()
        .and_then(|time_us| time_us.checked_mul(1_000));
    let time_ns = time_ns.ok_or_else(|| {
        let at = time_text(time_us);
        Failure::fault(format!(
            "MCAP has no place for {at}: its times begin in 1970; choose another format, span or shift"
        ))
    })?;
    let header = MessageHeader {
        channel_id,
        // Its lower half: the format has no more room, and the message has all of it.
        sequence: (seq & i64::from(u32::MAX)) as u32,
        log_time: time_ns,
        publish_time: time_ns,
    };
    to.write_to_known_channel(&header, message.as_bytes())
        .map_err(failed)
}

/// A table beside the streams, a message for each row, at its time.
fn put_table(to: &mut To, recording: &Recording<'_>, name: &str) -> Result {
    let disk = recording.source.disk();
    let (mut channel, mut number, mut message) = (None, 0, String::new());
    recording.table(name, &*disk, |batch| {
        let channel = match channel {
            Some(channel) => channel,
            None => *channel.insert(table_channel(to, name, batch)?),
        };
        let times = batch
            .column_by_name("time")
            .and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>());
        let schema = batch.schema();
        for row in 0..batch.num_rows() {
            message.clear();
            for (field, column) in schema.fields().iter().zip(batch.columns()) {
                message.push(if message.is_empty() { '{' } else { ',' });
                text(field.name(), Style::Json, &mut message)?;
                message.push(':');
                put(column.as_ref(), row, Style::Json, &mut message)?;
            }
            message.push('}');
            let time_us = times.map_or(0, |times| times.value(row));
            let time_us = moment_us(name, time_us, recording.start_us());
            send(to, channel, number, time_us, &message)?;
            number += 1;
        }
        Ok(())
    })?;
    Ok(())
}

fn table_channel(to: &mut To, name: &str, batch: &RecordBatch) -> Result<u16> {
    let property = |field: &arrow::datatypes::FieldRef| {
        let kind = match field.data_type() {
            kind if kind.is_integer() => "integer",
            kind if kind.is_floating() => "number",
            _ => "string",
        };
        (field.name().clone(), json!({"type": kind}))
    };
    let properties: serde_json::Map<String, Value> = batch.schema().fields().iter().map(property).collect();
    let schema = json!({"title": format!("marey.{name}"), "type": "object", "properties": properties});
    let schema = to
        .add_schema(
            &format!("marey.{name}"),
            "jsonschema",
            schema.to_string().as_bytes(),
        )
        .map_err(failed)?;
    to.add_channel(schema, &format!("/{name}"), "json", &BTreeMap::new())
        .map_err(failed)
}
