//! `marey cat`: samples, events or raw frames as lines of JSON or CSV. Works on folders, without a running hub.

mod follow;
mod raw;

use crate::hubdir;
use crate::output::{Failure, Output, Result};
use crate::rows;
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Float32Type, Int32Type, Int64Type, TimestampMicrosecondType};
use marey_engine::compact::StreamFact;
use marey_engine::read::{ReadError, Reader, check_published, streams};
use marey_engine::salvage::{Source, What, events};
use marey_engine::{Options, Session};
use marey_format::DeviceId;
use marey_format::payload::StreamKey;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The folder of a session or a log, a .mlog file, or a session's name.
    path: PathBuf,
    /// One stream, as NAME or NAME@N; else all.
    #[arg(long, value_name = "STREAM")]
    stream: Option<String>,
    /// One device; else all.
    #[arg(long, value_name = "NAME")]
    device: Option<DeviceId>,
    /// Events instead of samples.
    #[arg(long, conflicts_with_all = ["frames", "samples", "stream"])]
    events: bool,
    /// The frames of the logs as they stand, and what is wrong between them; exit 1 if anything is damaged.
    #[arg(long, conflicts_with_all = ["samples", "stream", "format"])]
    frames: bool,
    /// The samples of the logs as the devices stamped them, floats in hexadecimal.
    #[arg(long, conflicts_with_all = ["stream", "format"])]
    samples: bool,
    /// Samples that come from now on, as the hub writes them, until the session is sealed.
    #[arg(long, short = 'f', conflicts_with_all = ["events", "frames", "samples"])]
    follow: bool,
    /// Stop after so many lines.
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// json or csv; csv takes one stream.
    #[arg(long, default_value = "json", value_parser = ["json", "csv"])]
    format: String,
}

/// Counts lines down to the limit.
struct Lines<'o> {
    output: &'o Output,
    left: u64,
}

impl Lines<'_> {
    /// Prints a line; false if it was the last one.
    fn print(&mut self, line: &str) -> Result<bool> {
        if self.left == 0 {
            return Ok(false);
        }
        self.left -= 1;
        self.output.line(line)?;
        Ok(self.left > 0)
    }
}

pub fn run(arguments: Arguments, dir: Option<PathBuf>, output: &Output) -> Result {
    let source = hubdir::source(Some(&arguments.path), dir.clone())?;
    let mut lines = Lines {
        output,
        left: arguments.limit.unwrap_or(u64::MAX),
    };
    if arguments.frames || arguments.samples {
        return raw::cat(&source, &arguments, &mut lines);
    }
    let What::Session { session } = source.what().clone() else {
        let path = source.path().display();
        let how = "give a session, or add --frames or --samples for a log";
        return Err(Failure::Usage(format!("{path} is no session; {how}")));
    };
    let (found, _) = source.sessions()?;
    let known = found
        .into_iter()
        .find(|found| found.id == session)
        .and_then(|found| found.session);
    let known = known.ok_or_else(|| Failure::fault(format!("session {session} can't be read")))??;
    match (arguments.events, arguments.follow) {
        (true, _) => cat_events(&source, &known, &arguments, &mut lines),
        (_, true) => {
            let mut samples = Samples::new(&arguments, &mut lines);
            follow::cat(&source, known, (&arguments, dir), &mut samples)
        }
        _ => cat_samples(&source, &known, &arguments, &mut lines),
    }
}

const EVENT_COLUMNS: [&str; 10] = [
    "time",
    "time_err_us",
    "device",
    "source",
    "stream",
    "kind",
    "text",
    "duration_ns",
    "author",
    "version",
];

fn cat_events(source: &Source, session: &Session, arguments: &Arguments, lines: &mut Lines<'_>) -> Result {
    let events = events(source, session, &Options::default())?;
    if let Some(wanted) = &arguments.device {
        // Logs may be retired, and what people said of a device stays.
        let known = source.devices(&session.id)?;
        let is_named = events.iter().any(|event| event.device.as_ref() == Some(wanted));
        if !is_named && !known.is_empty() && !known.contains(wanted) {
            let known: Vec<&str> = known.iter().map(DeviceId::as_str).collect();
            let (id, known) = (&session.id, known.join(", "));
            return Err(Failure::fault(format!(
                "session {id} has no log of {wanted}, but of {known}"
            )));
        }
    }
    let mut has_head = false;
    for event in events {
        if arguments
            .device
            .as_ref()
            .is_some_and(|device| event.device.as_ref() != Some(device))
        {
            continue;
        }
        let line = match arguments.format.as_str() {
            "csv" => {
                let Value::Object(mut fields) = serde_json::to_value(&event)? else {
                    continue;
                };
                if !std::mem::replace(&mut has_head, true) {
                    lines.output.line(&EVENT_COLUMNS.join(","))?;
                }
                let cells = EVENT_COLUMNS.map(|name| match fields.remove(name) {
                    None | Some(Value::Null) => String::new(),
                    Some(value) => csv_cell(&value),
                });
                cells.join(",")
            }
            _ => serde_json::to_string(&event)?,
        };
        if !lines.print(&line)? {
            break;
        }
    }
    Ok(())
}

fn cat_samples(source: &Source, session: &Session, arguments: &Arguments, lines: &mut Lines<'_>) -> Result {
    let disk = source.disk();
    let options = Options::default();
    let wanted: Vec<_> = streams(&*disk, session, &options)?
        .into_iter()
        .filter(|(stream, device)| arguments.wants(stream, device))
        .collect();
    if wanted.is_empty() {
        let what = "no such stream or device in this session; `marey info` lists them";
        return Err(Failure::fault(what));
    }
    let mut samples = Samples::new(arguments, lines);
    for (stream, _) in &wanted {
        samples.takes(stream)?;
    }
    // A changed byte would be another value, and nobody would know.
    let is_wanted = |fact: &StreamFact| {
        let key = fact.key();
        wanted
            .iter()
            .any(|(stream, device)| Some(stream) == key.as_ref() && *device == fact.device)
    };
    match check_published(&*disk, &session.id, is_wanted, &[]) {
        Ok(()) | Err(ReadError::NotPublished { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    for (stream, device) in &wanted {
        for batch in Reader::open(&*disk, session, stream, device, &options)? {
            if !samples.print(&batch?, stream, device)? {
                return Ok(());
            }
        }
    }
    Ok(())
}

impl Arguments {
    fn wants(&self, stream: &StreamKey, device: &DeviceId) -> bool {
        let is_named = |wanted: &String| *wanted == stream.to_string() || wanted == stream.name.as_str();
        self.stream.as_ref().is_none_or(is_named)
            && self.device.as_ref().is_none_or(|wanted| wanted == device)
    }
}

/// Prints rows.
struct Samples<'a, 'o> {
    lines: &'a mut Lines<'o>,
    csv: bool,
    has_head: bool,
    /// The one that CSV is of.
    stream: Option<StreamKey>,
}

impl<'a, 'o> Samples<'a, 'o> {
    fn new(arguments: &Arguments, lines: &'a mut Lines<'o>) -> Self {
        Self {
            lines,
            csv: arguments.format == "csv",
            has_head: false,
            stream: None,
        }
    }

    /// Rows of this stream come as well.
    fn takes(&mut self, stream: &StreamKey) -> Result {
        let known = self.stream.get_or_insert_with(|| stream.clone());
        match self.csv && *known != *stream {
            true => Err(Failure::Usage(
                "--format csv takes one stream; name it with --stream".to_owned(),
            )),
            false => Ok(()),
        }
    }

    /// False if no more lines are wanted.
    fn print(&mut self, batch: &RecordBatch, stream: &StreamKey, device: &DeviceId) -> Result<bool> {
        for row in 0..batch.num_rows() {
            let cells = cells(batch, row, stream, device)?;
            if self.csv && !std::mem::replace(&mut self.has_head, true) {
                let names: Vec<&str> = cells.iter().map(|(name, _)| name.as_str()).collect();
                self.lines.output.line(&names.join(","))?;
            }
            let line = match self.csv {
                true => cells
                    .iter()
                    .map(|(_, value)| csv_cell(value))
                    .collect::<Vec<_>>()
                    .join(","),
                false => serde_json::to_string(&Row(&cells))?,
            };
            if !self.lines.print(&line)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// A row as a JSON object, its keys in the order of the columns.
struct Row<'a>(&'a [(String, Value)]);

impl Serialize for Row<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

/// One row: names and values of its columns, in their order.
fn cells(
    batch: &RecordBatch,
    row: usize,
    stream: &StreamKey,
    device: &DeviceId,
) -> Result<Vec<(String, Value)>> {
    let column = |at: usize| -> &dyn Array { batch.column(at).as_ref() };
    let bound = f64::from(column(3).as_primitive::<Float32Type>().value(row));
    let time_us = column(0).as_primitive::<TimestampMicrosecondType>().value(row);
    let mut cells = Vec::with_capacity(batch.num_columns() + 2);
    let mut put = |name: &str, value: Value| cells.push((name.to_owned(), value));
    put("time", rows::time_text(time_us).into());
    put("device", device.to_string().into());
    put("stream", stream.to_string().into());
    put(
        "device_time_ns",
        column(1).as_primitive::<Int64Type>().value(row).into(),
    );
    put("epoch", column(2).as_primitive::<Int32Type>().value(row).into());
    put(
        "time_err_us",
        if bound.is_finite() {
            json!(bound)
        } else {
            json!("inf")
        },
    );
    put("seq", column(4).as_primitive::<Int64Type>().value(row).into());
    let schema = batch.schema();
    for (field, value) in schema.fields()[5..].iter().zip(rows::values(batch, row)?) {
        put(field.name(), rows::json(&value));
    }
    Ok(cells)
}

/// A cell as RFC 4180 wants it.
fn csv_cell(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match text.contains(['"', ',', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text,
    }
}
