//! The tables beside the streams: events, gaps, channels, clock evidence, clock maps.
//!
//! No integer in them is ever null: what is not there is 0, -1 or NaN, as the columns say below. Tables that tell of
//! moments have `time` as their index, as the streams do.

use super::CompactError;
use super::annotations::Said;
use super::evidence::key_text;
use super::files::Hashes;
use super::gaps::Gap;
use super::manifest::TableFact;
use super::metadata::{table_schema, time_type};
use super::parquet::write_table;
use super::survey::DeviceSurvey;
use super::timeline::Timeline;
use crate::clock::Row;
use crate::disk::Disk;
use crate::options::Options;
use arrow::array::{
    ArrayRef, Float32Array, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field};
use marey_format::payload::StreamKey;
use marey_format::{DeviceId, HubEpoch};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows of one batch of a long table.
const BATCH_ROWS: usize = 64 << 10;

/// A table that was written.
#[derive(Clone, Debug, PartialEq)]
pub struct WrittenTable {
    pub name: &'static str,
    pub rows: u64,
    pub hashes: Hashes,
}

impl WrittenTable {
    /// What the manifest says of it.
    pub fn fact(&self) -> TableFact {
        TableFact {
            path: self.name.to_owned(),
            rows: self.rows,
            hashes: (&self.hashes).into(),
        }
    }
}

/// The gaps of one stream of one device.
#[derive(Debug)]
pub struct StreamGaps<'a> {
    pub survey: &'a DeviceSurvey,
    pub key: &'a StreamKey,
    pub gaps: &'a [Gap],
}

/// What happened, and what people said.
pub const EVENTS: &str = "events.parquet";

/// The clock maps of all devices.
pub const CLOCK_MAP: &str = "clock_map.parquet";

/// The evidence that they were made from.
pub const CLOCK_PROBES: &str = "clock_probes.parquet";

/// What a generation's clock map is called once there is a later one.
pub fn earlier_map(generation: u32) -> String {
    format!("clock_map-{generation:04}.parquet")
}

/// Names of the tables, in the order in which they are written.
pub const TABLES: [&str; 5] = [
    EVENTS,
    "gaps.parquet",
    "channels.parquet",
    CLOCK_PROBES,
    CLOCK_MAP,
];

/// What tables are made of.
#[derive(Debug)]
pub struct Tables<'a> {
    pub disk: &'a dyn Disk,
    pub surveys: &'a [DeviceSurvey],
    pub timeline: &'a Timeline,
    pub said: &'a Said,
    pub options: &'a Options,
}

impl Tables<'_> {
    /// Writes all of them, each where `place` says, durably but for their names.
    pub fn write(
        &self,
        place: &dyn Fn(&str) -> PathBuf,
        gaps: &[StreamGaps<'_>],
    ) -> Result<Vec<WrittenTable>, CompactError> {
        let tables = [
            events(self.surveys, self.timeline, self.said),
            gap_rows(gaps, self.timeline),
            channels(self.surveys),
            clock_probes(self.surveys),
            clock_map(self.timeline),
        ];
        let written = TABLES.into_iter().zip(tables);
        written
            .map(|(name, table)| self.write_one(name, &place(name), table))
            .collect()
    }

    /// Writes the events alone.
    pub fn write_events(&self, path: &Path) -> Result<WrittenTable, CompactError> {
        self.write_one(EVENTS, path, events(self.surveys, self.timeline, self.said))
    }

    fn write_one(&self, name: &'static str, path: &Path, table: Table) -> Result<WrittenTable, CompactError> {
        let batch = table
            .batch()
            .map_err(|error| CompactError::encoding(name.to_owned(), &error))?;
        let rows = batch.num_rows();
        let pieces: Vec<RecordBatch> = (0..rows)
            .step_by(BATCH_ROWS)
            .map(|from| batch.slice(from, BATCH_ROWS.min(rows - from)))
            .collect();
        let hashes = write_table(self.disk, path, &batch.schema(), &pieces, self.options)?;
        Ok(WrittenTable {
            name,
            rows: rows as u64,
            hashes,
        })
    }
}

/// Columns under construction.
struct Table {
    indexed: bool,
    columns: Vec<(Field, ArrayRef)>,
}

impl Table {
    fn new(indexed: bool) -> Self {
        Self {
            indexed,
            columns: Vec::new(),
        }
    }

    fn add(mut self, name: &str, kind: DataType, nullable: bool, values: ArrayRef) -> Self {
        self.columns.push((Field::new(name, kind, nullable), values));
        self
    }

    fn time(self, name: &str, values: impl Iterator<Item = i64>) -> Self {
        let values = TimestampMicrosecondArray::from_iter_values(values).with_timezone("UTC");
        self.add(name, time_type(), false, Arc::new(values))
    }

    fn i64(self, name: &str, values: impl Iterator<Item = i64>) -> Self {
        self.add(
            name,
            DataType::Int64,
            false,
            Arc::new(Int64Array::from_iter_values(values)),
        )
    }

    fn i32(self, name: &str, values: impl Iterator<Item = i32>) -> Self {
        self.add(
            name,
            DataType::Int32,
            false,
            Arc::new(Int32Array::from_iter_values(values)),
        )
    }

    fn f32(self, name: &str, values: impl Iterator<Item = f32>) -> Self {
        self.add(
            name,
            DataType::Float32,
            false,
            Arc::new(Float32Array::from_iter_values(values)),
        )
    }

    fn f64(self, name: &str, values: impl Iterator<Item = f64>) -> Self {
        self.add(
            name,
            DataType::Float64,
            false,
            Arc::new(Float64Array::from_iter_values(values)),
        )
    }

    fn text<T: AsRef<str>>(self, name: &str, values: impl Iterator<Item = T>) -> Self {
        self.add(
            name,
            DataType::Utf8,
            false,
            Arc::new(StringArray::from_iter_values(values)),
        )
    }

    fn batch(self) -> Result<RecordBatch, arrow::error::ArrowError> {
        let (fields, columns): (Vec<Field>, Vec<ArrayRef>) = self.columns.into_iter().unzip();
        RecordBatch::try_new(table_schema(fields, self.indexed), columns)
    }
}

/// Columns: `source` says whose event it is: the device's, the hub's, or that of a person who annotated. `stamp_ns` is the
/// device's own stamp, of a note the hub's, of an annotation the session time that was said; `epoch` is -1 for all but the
/// devices', `stream` empty for events of no stream, `duration_s` NaN for moments. `author` and `version` are an annotation's,
/// and `seq` is its number; else they are empty and 0. Of what a person said nobody knows a bound: NaN.
fn events(surveys: &[DeviceSurvey], timeline: &Timeline, said: &Said) -> Table {
    struct Event<'a> {
        key: (i64, &'a str, i32, u64),
        err_us: f32,
        source: &'static str,
        stamp_ns: i64,
        stream: String,
        kind: &'a str,
        text: Option<&'a str>,
        duration_s: f64,
        author: &'a str,
        version: i32,
    }
    let seconds = |ns: Option<i64>| ns.map_or(f64::NAN, |ns| ns as f64 / 1e9);
    let mut rows = Vec::new();
    for survey in surveys {
        let device = survey.device.as_str();
        for entry in &survey.events {
            let published = timeline
                .placing(&survey.device, entry.epoch)
                .published(entry.device_ns);
            let epoch = entry.epoch.cast_signed();
            rows.push(Event {
                key: (published.time_us, device, epoch, entry.sequence),
                err_us: published.err_us,
                source: "device",
                stamp_ns: entry.device_ns,
                stream: entry
                    .stream
                    .as_ref()
                    .map(StreamKey::to_string)
                    .unwrap_or_default(),
                kind: &entry.event.kind,
                text: entry.event.text.as_deref(),
                duration_s: seconds(entry.event.duration_ns),
                author: "",
                version: 0,
            });
        }
        for entry in &survey.notes {
            let (time_us, err_us) = timeline.of_hub(entry.hub_epoch, entry.hub_ns);
            rows.push(Event {
                key: (time_us, device, -1, entry.sequence),
                err_us,
                source: "hub",
                stamp_ns: entry.hub_ns,
                stream: String::new(),
                kind: &entry.note.kind,
                text: entry.note.text.as_deref(),
                duration_s: seconds(entry.note.duration_ns),
                author: "",
                version: 0,
            });
        }
    }
    for annotation in said.standing() {
        let device = annotation.device.as_ref().map_or("", DeviceId::as_str);
        let time_us = annotation.time_ns.div_euclid(1_000);
        rows.push(Event {
            key: (time_us, device, -1, annotation.number()),
            err_us: f32::NAN,
            source: "person",
            stamp_ns: annotation.time_ns,
            stream: annotation.stream.clone().unwrap_or_default(),
            kind: &annotation.kind,
            text: Some(&annotation.text),
            duration_s: annotation.duration_s.unwrap_or(f64::NAN),
            author: &annotation.by,
            version: annotation.version.cast_signed(),
        });
    }
    rows.sort_by(|a, b| a.key.cmp(&b.key));
    let texts: StringArray = rows.iter().map(|row| row.text).collect();
    Table::new(true)
        .time("time", rows.iter().map(|row| row.key.0))
        .f32("time_err_us", rows.iter().map(|row| row.err_us))
        .text("device", rows.iter().map(|row| row.key.1))
        .text("source", rows.iter().map(|row| row.source))
        .i32("epoch", rows.iter().map(|row| row.key.2))
        .i64("seq", rows.iter().map(|row| clamp(row.key.3)))
        .i64("stamp_ns", rows.iter().map(|row| row.stamp_ns))
        .text("stream", rows.iter().map(|row| &row.stream))
        .text("kind", rows.iter().map(|row| row.kind))
        .add("text", DataType::Utf8, true, Arc::new(texts))
        .f64("duration_s", rows.iter().map(|row| row.duration_s))
        .text("author", rows.iter().map(|row| row.author))
        .i32("version", rows.iter().map(|row| row.version))
}

/// Columns: `time` is that of the last sample before the gap (of the first after it, if there is none before), `until`
/// that of the first after it (or `time`). Indices run from `first_seq` to `last_seq`.
fn gap_rows(gaps: &[StreamGaps<'_>], timeline: &Timeline) -> Table {
    struct GapRow<'a> {
        of: &'a StreamGaps<'a>,
        gap: &'a Gap,
        times: (i64, i64),
        err_us: f32,
    }
    let mut rows: Vec<GapRow<'_>> = Vec::new();
    for of in gaps {
        for gap in of.gaps {
            let mut placing = timeline.placing(&of.survey.device, gap.epoch);
            let neighbours = gap.before_ns.or(gap.after_ns).zip(gap.after_ns.or(gap.before_ns));
            let (times, err_us) = match neighbours {
                Some((before, after)) => {
                    let (from, until) = (placing.published(before), placing.published(after));
                    ((from.time_us, until.time_us), from.err_us.max(until.err_us))
                }
                // A stream of which nothing came at all has no neighbour to tell its time: 0 of its clock is none.
                None => ((0, 0), f32::INFINITY),
            };
            rows.push(GapRow {
                of,
                gap,
                times,
                err_us,
            });
        }
    }
    Table::new(false)
        .text("device", rows.iter().map(|row| row.of.survey.device.as_str()))
        .text("stream", rows.iter().map(|row| row.of.key.to_string()))
        .i32("epoch", rows.iter().map(|row| row.gap.epoch.cast_signed()))
        .i64("first_seq", rows.iter().map(|row| clamp(row.gap.from)))
        .i64("last_seq", rows.iter().map(|row| clamp(row.gap.to - 1)))
        .i64("samples", rows.iter().map(|row| clamp(row.gap.samples())))
        .text("cause", rows.iter().map(|row| row.gap.cause.as_str()))
        .time("time", rows.iter().map(|row| row.times.0))
        .time("until", rows.iter().map(|row| row.times.1))
        .f32("time_err_us", rows.iter().map(|row| row.err_us))
}

/// Columns: `length` is 0 where a field is no list, `scale` 1 and `offset` 0 where none was declared; rates and
/// latencies are NaN where the device did not tell.
fn channels(surveys: &[DeviceSurvey]) -> Table {
    let mut rows = Vec::new();
    for survey in surveys {
        for plan in survey.streams.values() {
            for (position, field) in plan.declaration.fields.iter().enumerate() {
                rows.push((survey, plan, position, field));
            }
        }
    }
    let number = |value: Option<f64>| value.unwrap_or(f64::NAN);
    let text = |name: &str, table: Table, values: Vec<Option<&str>>| {
        table.add(name, DataType::Utf8, true, Arc::new(StringArray::from(values)))
    };
    let mut table = Table::new(false)
        .text("device", rows.iter().map(|(survey, ..)| survey.device.as_str()))
        .text("stream", rows.iter().map(|(_, plan, ..)| plan.key.to_string()))
        .i32(
            "position",
            rows.iter().map(|(_, _, position, _)| *position as i32),
        )
        .text("channel", rows.iter().map(|(.., field)| field.name.as_str()))
        .text("type", rows.iter().map(|(.., field)| type_name(field)))
        .i32(
            "length",
            rows.iter()
                .map(|(.., field)| field.length.unwrap_or(0).cast_signed()),
        );
    table = text(
        "unit",
        table,
        rows.iter().map(|(.., field)| field.unit.as_deref()).collect(),
    );
    table = table
        .f64("scale", rows.iter().map(|(.., field)| field.scale.unwrap_or(1.0)))
        .f64(
            "offset",
            rows.iter().map(|(.., field)| field.offset.unwrap_or(0.0)),
        )
        .f64(
            "rate_hz",
            rows.iter().map(|(_, plan, ..)| number(plan.declaration.rate_hz)),
        )
        .f64(
            "latency_us",
            rows.iter()
                .map(|(_, plan, ..)| number(plan.declaration.latency_us)),
        )
        .f64(
            "latency_tolerance_us",
            rows.iter()
                .map(|(_, plan, ..)| number(plan.declaration.latency_tolerance_us)),
        );
    table = text(
        "sensor",
        table,
        rows.iter()
            .map(|(_, plan, ..)| plan.declaration.sensor.as_deref())
            .collect(),
    );
    text(
        "description",
        table,
        rows.iter()
            .map(|(.., field)| field.description.as_deref())
            .collect(),
    )
}

fn type_name(field: &marey_format::Field) -> String {
    // The name in declarations is the one of its JSON.
    serde_json::to_value(field.kind)
        .ok()
        .and_then(|v| v.as_str().map(str::to_owned))
        .unwrap_or_default()
}

/// Columns: the four stamps in nanoseconds, 0 where a kind has no such stamp.
fn clock_probes(surveys: &[DeviceSurvey]) -> Table {
    let rows: Vec<_> = surveys
        .iter()
        .flat_map(|survey| survey.evidence.iter().map(move |row| (survey, row)))
        .collect();
    let stamps = |row: &Row| match *row {
        Row::Exchange {
            hub_epoch,
            dev_send,
            hub_recv,
            hub_send,
            dev_recv,
        } => (hub_epoch, [dev_send, hub_recv, hub_send, dev_recv]),
        Row::Up {
            hub_epoch,
            dev_send,
            hub_recv,
        } => (hub_epoch, [dev_send, hub_recv, 0, 0]),
        Row::Down {
            hub_epoch,
            hub_send,
            dev_recv,
        } => (hub_epoch, [0, 0, hub_send, dev_recv]),
        // What it may be off is in the log: the published bound has it.
        Row::Told {
            hub_epoch,
            dev_ns,
            hub_ns,
            ..
        } => (hub_epoch, [dev_ns, hub_ns, 0, 0]),
    };
    let mut table = Table::new(false)
        .text("device", rows.iter().map(|(survey, _)| survey.device.as_str()))
        .i32("epoch", rows.iter().map(|(_, row)| row.epoch.cast_signed()))
        .text("kind", rows.iter().map(|(_, row)| row.kind.as_str()))
        .text(
            "hub_epoch",
            rows.iter()
                .map(|(_, row)| HubEpoch(stamps(&row.row).0).to_string()),
        );
    for (at, name) in ["dev_send_ns", "hub_recv_ns", "hub_send_ns", "dev_recv_ns"]
        .into_iter()
        .enumerate()
    {
        table = table.i64(name, rows.iter().map(|(_, row)| stamps(&row.row).1[at]));
    }
    table
}

/// Columns: `clock` is the boot id, or the id of the one epoch; `epochs` lists the ordinals of the epochs on it, as
/// ranges; each row holds from `device_time_ns` on, up to the next row of the clock:
/// `session_time_ns + (device time - device_time_ns) x rate`.
fn clock_map(timeline: &Timeline) -> Table {
    let mut rows = Vec::new();
    for (device, map) in timeline.alignment().clocks() {
        let (clock, epochs) = (key_text(map.key()), ranges(map.epochs()));
        rows.extend(
            map.rows()
                .into_iter()
                .map(|row| (device, clock.clone(), epochs.clone(), row)),
        );
    }
    Table::new(false)
        .text("device", rows.iter().map(|(device, ..)| device))
        .text("clock", rows.iter().map(|(_, clock, ..)| clock))
        .text("epochs", rows.iter().map(|(_, _, epochs, _)| epochs))
        .i32("segment", rows.iter().map(|(.., row)| row.segment.cast_signed()))
        .i64("device_time_ns", rows.iter().map(|(.., row)| row.device_time_ns))
        .i64("session_time_ns", rows.iter().map(|(.., row)| row.session_ns))
        .f64("rate", rows.iter().map(|(.., row)| row.rate))
        .f64("err_us", rows.iter().map(|(.., row)| row.err_ns / 1e3))
        .f64(
            "detectable_us",
            rows.iter().map(|(.., row)| row.detectable_ns / 1e3),
        )
}

/// `0-3,7` for 0, 1, 2, 3, 7.
fn ranges(ordinals: &[u32]) -> String {
    let runs = ordinals.chunk_by(|a, b| a.checked_add(1) == Some(*b));
    let text = runs.map(|run| match run {
        [one] => one.to_string(),
        run => format!("{}-{}", run[0], run[run.len() - 1]),
    });
    text.collect::<Vec<_>>().join(",")
}

/// Counters beyond the range of the column stand at its end.
fn clamp(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinals_are_listed_as_ranges() {
        assert_eq!(ranges(&[0, 1, 2, 3, 7]), "0-3,7");
        assert_eq!(ranges(&[]), "");
        assert_eq!(ranges(&[5]), "5");
    }
}
