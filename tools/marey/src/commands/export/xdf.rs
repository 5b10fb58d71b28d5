//! XDF, as LabRecorder writes it: a stream for each stream of each device, one of its stamps and bounds, one of events, one of
//! gaps.
//!
//! All values of an XDF stream have one format, so that a stream of mixed types becomes several: `layout` says which. Times are
//! seconds from the session's start, on one clock already: the clock offsets are 0. The bound of a sample's time has no place
//! in XDF; it stands in a stream of whole numbers beside, with the device's own stamps.

mod layout;

use super::Written;
use super::cells::{Style, put};
use super::place::{Made, Place};
use super::recording::{GAPS, Own, Recording, Stream, moment_us};
use crate::commands::import::XdfFormat;
use crate::output::Result;
use crate::rows::time_text;
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, TimestampMicrosecondType};
use layout::{Group, groups, put_value};
use sha2::{Digest, Sha256};

/// Tags of chunks.
const FILE_HEADER: u16 = 1;
const STREAM_HEADER: u16 = 2;
const SAMPLES: u16 = 3;
const CLOCK_OFFSET: u16 = 4;
const STREAM_FOOTER: u16 = 6;

/// Bytes of samples after which a chunk is cut.
const CHUNK_BYTES: usize = 256 << 10;

/// What is known only to a device and to Marey.
const CLOCK_LABELS: [(&str, &str); 4] = [
    ("device_time_ns", "ns"),
    ("epoch", ""),
    ("seq", ""),
    ("time_err_ns", "ns"),
];

pub fn write(recording: &Recording<'_>, place: &mut Place) -> Result<Vec<Written>> {
    let mut file = File {
        to: place.file("")?,
        start_us: recording.start_us(),
        last_id: 0,
    };
    file.to.put(b"XDF:")?;
    file.header(recording)?;
    let disk = recording.source.disk();
    let mut written = Vec::new();
    for stream in &recording.streams {
        let mut parts = Vec::new();
        for group in groups(&stream.declaration) {
            parts.push((file.stream(recording, stream, &group)?, Some(group)));
        }
        parts.push((file.clock(recording, stream)?, None));
        let mut rows = recording.rows(stream, &*disk)?;
        let mut count = 0;
        while let Some(batch) = rows.next()? {
            count += batch.num_rows() as u64;
            for (part, group) in &mut parts {
                match group {
                    Some(group) => file.samples(part, "", batch, |row, to| group.put(batch, row, to))?,
                    None => {
                        let own = Own::of(batch);
                        file.samples(part, "", batch, |row, to| put_clock(&own, row, to))?;
                    }
                }
            }
            place.goes_on()?;
        }
        let ids: Vec<String> = parts.iter().map(|(part, _)| part.id.to_string()).collect();
        parts.into_iter().try_for_each(|(part, _)| file.end(part))?;
        written.push(Written::of(stream, count, ids.join(", ")));
    }
    file.table(recording, "events", "Markers")?;
    file.table(recording, GAPS, "Gaps")?;
    place.bytes += file.to.finish()?;
    Ok(written)
}

/// The file as it is written.
struct File {
    to: Made,
    start_us: i64,
    last_id: u32,
}

/// An XDF stream as it is written.
struct Part {
    id: u32,
    chunk: Vec<u8>,
    /// Samples in the chunk.
    waiting: u64,
    samples: u64,
    first_us: Option<i64>,
    last_us: i64,
}

/// What a stream's header says.
struct Head<'a> {
    name: String,
    content: &'a str,
    source: String,
    rate_hz: f64,
    format: XdfFormat,
    channels: Vec<Channel>,
    sensor: Option<&'a str>,
}

/// What it says of a channel.
#[derive(Default)]
struct Channel {
    label: String,
    unit: String,
    description: String,
    scale: Option<f64>,
    offset: Option<f64>,
}

impl File {
    fn chunk(&mut self, tag: u16, parts: &[&[u8]]) -> Result {
        let length = 2 + parts.iter().map(|part| part.len()).sum::<usize>();
        let mut head = Vec::with_capacity(11);
        put_length(length as u64, &mut head);
        head.extend(tag.to_le_bytes());
        self.to.put(&head)?;
        parts.iter().try_for_each(|part| self.to.put(part))
    }

    /// The earliest moment of the file is the one that the file names, so that it can be imported again as it was.
    fn header(&mut self, recording: &Recording<'_>) -> Result {
        let disk = recording.source.disk();
        let mut first_us: Option<i64> = None;
        let mut take = |table: &str, batch: &RecordBatch| {
            let times = times(batch)
                .iter()
                .map(|&time_us| moment_us(table, time_us, self.start_us));
            first_us = first_us.into_iter().chain(times.min()).min();
        };
        for stream in &recording.streams {
            if let Some(batch) = recording.peek(stream, &*disk)? {
                take("", &batch);
            }
        }
        for table in ["events", GAPS] {
            recording.table(table, &*disk, |batch| {
                take(table, batch);
                Ok(())
            })?;
        }
        let mut xml = format!(
            "<?xml version=\"1.0\"?><info><version>1.0</version><datetime>{}</datetime><marey>",
            time_text(first_us.unwrap_or(self.start_us))
        );
        for (name, value) in recording.facts() {
            let (name, value) = (escaped(&name), escaped(&value));
            xml += &format!("<fact><name>{name}</name><value>{value}</value></fact>");
        }
        xml += "</marey></info>";
        self.chunk(FILE_HEADER, &[xml.as_bytes()])
    }

    fn stream(&mut self, recording: &Recording<'_>, stream: &Stream, group: &Group) -> Result<Part> {
        let fields = group.fields.iter().map(|&at| &stream.declaration.fields[at]);
        let channels = fields.flat_map(|field| {
            let channel = move |label: String| Channel {
                label,
                unit: field.unit.clone().unwrap_or_default(),
                description: field.description.clone().unwrap_or_default(),
                scale: field.scale,
                offset: field.offset,
            };
            (0..field.length.unwrap_or(1)).map(move |element| match field.length {
                Some(_) => channel(format!("{}[{element}]", field.name)),
                None => channel(field.name.to_string()),
            })
        });
        self.begin(Head {
            name: format!("{}/{}{}", stream.device, stream.name, group.suffix()),
            content: stream.key.name.as_str(),
            source: format!(
                "{}/{}/{}{}",
                recording.name(),
                stream.device,
                stream.name,
                group.suffix()
            ),
            rate_hz: stream.declaration.rate_hz.unwrap_or(0.0),
            format: group.format,
            channels: channels.collect(),
            sensor: stream.declaration.sensor.as_deref(),
        })
    }

    fn clock(&mut self, recording: &Recording<'_>, stream: &Stream) -> Result<Part> {
        let channels = CLOCK_LABELS.map(|(label, unit)| Channel {
            label: label.to_owned(),
            unit: unit.to_owned(),
            ..Channel::default()
        });
        self.begin(Head {
            name: format!("{}/{} clock", stream.device, stream.name),
            content: "Clock",
            source: format!("{}/{}/{} clock", recording.name(), stream.device, stream.name),
            rate_hz: stream.declaration.rate_hz.unwrap_or(0.0),
            format: XdfFormat::I64,
            channels: channels.into(),
            sensor: None,
        })
    }

    fn begin(&mut self, head: Head<'_>) -> Result<Part> {
        self.last_id += 1;
        let id = self.last_id;
        self.chunk(STREAM_HEADER, &[&id.to_le_bytes(), head.xml().as_bytes()])?;
        Ok(Part {
            id,
            chunk: Vec::new(),
            waiting: 0,
            samples: 0,
            first_us: None,
            last_us: self.start_us,
        })
    }

    /// Puts rows of a stream, or of a table that is named.
    fn samples(
        &mut self,
        part: &mut Part,
        table: &str,
        batch: &RecordBatch,
        mut values: impl FnMut(usize, &mut Vec<u8>) -> Result,
    ) -> Result {
        for (row, &time_us) in times(batch).iter().enumerate() {
            let time_us = moment_us(table, time_us, self.start_us);
            part.chunk.push(8);
            part.chunk.extend(self.seconds(time_us).to_le_bytes());
            values(row, &mut part.chunk)?;
            part.waiting += 1;
            part.last_us = time_us;
            if part.first_us.is_none() {
                part.first_us = Some(time_us);
                self.offset(part.id, time_us)?;
            }
            if part.chunk.len() >= CHUNK_BYTES {
                self.cut(part)?;
            }
        }
        Ok(())
    }

    fn cut(&mut self, part: &mut Part) -> Result {
        if part.waiting == 0 {
            return Ok(());
        }
        let mut count = Vec::with_capacity(9);
        put_length(part.waiting, &mut count);
        self.chunk(SAMPLES, &[&part.id.to_le_bytes(), &count, &part.chunk])?;
        part.samples += std::mem::take(&mut part.waiting);
        part.chunk.clear();
        Ok(())
    }

    /// Its clock is the session's at that moment.
    fn offset(&mut self, id: u32, time_us: i64) -> Result {
        let seconds = self.seconds(time_us).to_le_bytes();
        self.chunk(CLOCK_OFFSET, &[&id.to_le_bytes(), &seconds, &0f64.to_le_bytes()])
    }

    fn seconds(&self, time_us: i64) -> f64 {
        (time_us - self.start_us) as f64 / 1e6
    }

    fn end(&mut self, mut part: Part) -> Result {
        self.cut(&mut part)?;
        let mut xml = "<?xml version=\"1.0\"?><info>".to_owned();
        if let Some(first_us) = part.first_us {
            // Two of one moment are none that a line goes through.
            if part.last_us > first_us {
                self.offset(part.id, part.last_us)?;
            }
            let (first, last) = (self.seconds(first_us), self.seconds(part.last_us));
            xml +=
                &format!("<first_timestamp>{first}</first_timestamp><last_timestamp>{last}</last_timestamp>");
        }
        xml += &format!("<sample_count>{}</sample_count></info>", part.samples);
        self.chunk(STREAM_FOOTER, &[&part.id.to_le_bytes(), xml.as_bytes()])
    }

    /// A table beside the streams, as texts. Of events the first channel is the one that programs take for the marker.
    fn table(&mut self, recording: &Recording<'_>, name: &str, content: &str) -> Result {
        let disk = recording.source.disk();
        let is_of_events = name == "events";
        let mut part = None;
        recording.table(name, &*disk, |batch| {
            let part = match &mut part {
                Some(part) => part,
                None => {
                    let marker = is_of_events.then(|| "marker".to_owned());
                    let schema = batch.schema();
                    let names = schema.fields().iter().map(|field| field.name().clone());
                    let labels = marker.into_iter().chain(names.filter(|name| name != "time"));
                    let head = Head {
                        name: name.to_owned(),
                        content,
                        source: format!("{}/{name}", recording.name()),
                        rate_hz: 0.0,
                        format: XdfFormat::Text,
                        channels: labels
                            .map(|label| Channel {
                                label,
                                ..Channel::default()
                            })
                            .collect(),
                        sensor: None,
                    };
                    part.insert(self.begin(head)?)
                }
            };
            self.samples(part, name, batch, |row, to| {
                put_texts(batch, row, is_of_events, to)
            })
        })?;
        part.map_or(Ok(()), |part| self.end(part))
    }
}

impl Head<'_> {
    fn xml(&self) -> String {
        let hash = Sha256::digest(self.source.as_bytes());
        let mut xml = format!(
            "<?xml version=\"1.0\"?><info><name>{}</name><type>{}</type><channel_count>{}</channel_count>\
             <nominal_srate>{}</nominal_srate><channel_format>{}</channel_format><source_id>{}</source_id>\
             <version>1.1</version><created_at>0</created_at><uid>{}</uid><hostname>marey</hostname><desc>",
            escaped(&self.name),
            escaped(self.content),
            self.channels.len(),
            self.rate_hz,
            self.format.name(),
            escaped(&self.source),
            marey_format::types::hex(&hash[..16]),
        );
        if let Some(sensor) = self.sensor {
            xml += &format!("<acquisition><model>{}</model></acquisition>", escaped(sensor));
        }
        xml += "<channels>";
        for channel in &self.channels {
            xml += &format!("<channel><label>{}</label>", escaped(&channel.label));
            let number = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
            let said = [
                ("unit", channel.unit.clone()),
                ("description", channel.description.clone()),
                ("scale", number(channel.scale)),
                ("offset", number(channel.offset)),
            ];
            for (name, value) in said.iter().filter(|(_, value)| !value.is_empty()) {
                xml += &format!("<{name}>{}</{name}>", escaped(value));
            }
            xml += "</channel>";
        }
        xml + "</channels></desc></info>"
    }
}

fn put_clock(own: &Own<'_>, row: usize, to: &mut Vec<u8>) -> Result {
    // Up, so that the bound stays one; -1 where there is none.
    let err_ns = (f64::from(own.err_us[row]) * 1e3).ceil();
    let err_ns = if err_ns.is_finite() { err_ns as i64 } else { -1 };
    for value in [
        own.device_time_ns[row],
        i64::from(own.epoch[row]),
        own.seq[row],
        err_ns,
    ] {
        to.extend(value.to_le_bytes());
    }
    Ok(())
}

fn put_texts(batch: &RecordBatch, row: usize, is_of_events: bool, to: &mut Vec<u8>) -> Result {
    let schema = batch.schema();
    if is_of_events {
        let said = |name| batch.column_by_name(name).filter(|column| column.is_valid(row));
        if let Some(marker) = said("text").or_else(|| said("kind")) {
            put_value(marker.as_ref(), row, XdfFormat::Text, to)?;
        }
    }
    for (field, column) in schema.fields().iter().zip(batch.columns()) {
        match field.data_type() {
            _ if field.name() == "time" => {}
            DataType::Timestamp(..) => {
                let mut time = String::new();
                put(column.as_ref(), row, Style::Csv, &mut time)?;
                put_text(&time, to);
            }
            _ => put_value(column.as_ref(), row, XdfFormat::Text, to)?,
        }
    }
    Ok(())
}

/// Session time of each row of a batch that has it.
fn times(batch: &RecordBatch) -> &[i64] {
    let column = batch.column_by_name("time");
    let times = column.and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>());
    times.map_or(&[], |times| times.values())
}

/// A length as XDF has it: in one byte, four or eight.
fn put_length(length: u64, to: &mut Vec<u8>) {
    match (u8::try_from(length), u32::try_from(length)) {
        (Ok(length), _) => to.extend([1, length]),
        (_, Ok(length)) => {
            to.push(4);
            to.extend(length.to_le_bytes());
        }
        _ => {
            to.push(8);
            to.extend(length.to_le_bytes());
        }
    }
}

fn put_text(text: &str, to: &mut Vec<u8>) {
    put_length(text.len() as u64, to);
    to.extend(text.as_bytes());
}

/// Text that XML holds: what it has no character for is left out.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\t' | '\n' => escaped.push(c),
            '\u{fffe}' | '\u{ffff}' => {}
            c if c.is_control() => {}
            c => escaped.push(c),
        }
    }
    escaped
}
