//! `marey import csv FILE`: two passes over a table, and a session of one stream that is published as a whole.
//!
//! The first pass finds out what the columns are and judges every row, the second sends them: memory is that of one row and of a
//! frame. Owns the order of things and the report; `csv::survey` what a row is, `making` how a session comes of it.

mod survey;

use super::header::{device_name, label};
use super::making::{Origin, Target, beginning, hash, open_file, session_name};
use super::sender::{Sender, Sink, steady};
use crate::hubdir;
use crate::output::{Failure, Output, Result, plain, table};
use marey_device::replay::TimeUnit;
use marey_device::replay::columns::stream_name;
use marey_format::types::{Field, hex, rfc3339};
use marey_format::{Declaration, DeviceId, SessionId, StreamName};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use survey::{BadRow, Survey, Table};

#[derive(Debug, clap::Args)]
pub struct Csv {
    file: PathBuf,
    /// Name of the session; else that of the file.
    #[arg(long)]
    session: Option<SessionId>,
    /// What the stream is called; else `imu`, or `recording`.
    #[arg(long, value_name = "NAME")]
    stream: Option<StreamName>,
    /// The device; else the file's name.
    #[arg(long, value_name = "NAME")]
    device: Option<DeviceId>,
    /// The column of the times, by its heading; else the one that is called `time`, `timestamp` and the like.
    #[arg(long, value_name = "COLUMN")]
    time: Option<String>,
    /// Unit of times that are numbers: s, ms, us or ns; else what the heading says, or by their size.
    #[arg(long, value_name = "UNIT", value_parser = unit)]
    time_unit: Option<TimeUnit>,
    /// When the recording began, such as 2026-11-21T08:00:00Z, for times that count from its beginning.
    #[arg(long, value_name = "TIME")]
    start: Option<String>,
    /// The most that any time of the file may be off, in milliseconds. Times then have a bound that holds if this does.
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    time_error: Option<f64>,
    /// Nominal rate in samples a second, if there is one.
    #[arg(long, value_name = "HZ", allow_negative_numbers = true)]
    rate: Option<f64>,
    /// A column that is text whatever stands in it; may be given several times.
    #[arg(long, value_name = "COLUMN")]
    text: Vec<String>,
    /// Imports the good rows where there are bad ones, which are named; else nothing is imported.
    #[arg(long)]
    skip_bad_rows: bool,
}

fn unit(text: &str) -> std::result::Result<TimeUnit, String> {
    TimeUnit::from_name(text).ok_or_else(|| format!("{text:?} is none of s, ms, us, ns"))
}

/// What came in.
#[derive(Debug, Serialize)]
struct Imported {
    session: SessionId,
    generation: u32,
    /// Of the file.
    sha256: String,
    start: String,
    device: DeviceId,
    stream: String,
    columns: Vec<Column>,
    samples: u64,
    /// Rows that were left out.
    bad_rows: u64,
    /// The first of them.
    bad: Vec<BadRow>,
}

#[derive(Debug, Serialize)]
struct Column {
    heading: String,
    name: String,
    #[serde(rename = "type")]
    kind: marey_format::FieldType,
    unit: Option<String>,
}

pub fn run(arguments: &Csv, dir: Option<PathBuf>, output: &Output) -> Result {
    output.result(&import(arguments, dir, output)?, show)
}

fn import(arguments: &Csv, dir: Option<PathBuf>, output: &Output) -> Result<Imported> {
    check(arguments)?;
    let path = &arguments.file;
    open_file(path)?;
    let session = session_name(arguments.session.as_ref(), path)?;
    let file = Table {
        path,
        time: arguments.time.as_deref(),
        unit: arguments.time_unit,
        text: &arguments.text,
    };
    let survey = file.survey(&|percent| say(output, "looking", percent))?;
    survey
        .bad
        .judge(path, "rows", survey.rows, arguments.skip_bad_rows, output)?;
    let target = Target::open(&hubdir::find(dir)?, session.clone())?;
    let sha256 = hash(path)?;
    let (recorder_ns, utc_ns) = beginning(survey.first_ns, arguments.start.as_deref(), output)?;
    let origin = Origin {
        file: path,
        sha256,
        recorder_ns,
        utc_ns,
        max_drift_ppm: 0.0,
        metadata: BTreeMap::new(),
    };
    let device = device(arguments);
    let declaration = declaration(arguments, &survey)?;
    let stream = declaration.name.to_string();
    let mut sender = Sender::new(device.clone(), vec![declaration], &sha256, 1);
    let feed = |to: &mut Sink<'_>| {
        let life = arguments
            .time_error
            .map(|_| steady(survey.first_ns, survey.last_ns));
        sender.begin(to, 0, life.as_ref(), error_ns(arguments))?;
        file.send(&survey, &mut sender, to, &|percent| {
            say(output, "reading", percent)
        })?;
        sender.end(to)?;
        Ok(((), Some(survey.last_ns)))
    };
    let ((), sealed) = target.make(&origin, output, feed)?;
    Ok(Imported {
        session,
        generation: sealed.session.generation,
        sha256: hex(&sha256),
        start: rfc3339(utc_ns.div_euclid(1_000)),
        device,
        stream,
        columns: columns(&survey),
        samples: survey.rows,
        bad_rows: survey.bad.count,
        bad: survey.bad.named,
    })
}

fn say(output: &Output, what: &str, percent: u64) {
    if output.is_watched() {
        output.progress(format!("{what}: {percent} % of the file"));
    }
}

fn check(arguments: &Csv) -> Result {
    match (arguments.rate, arguments.time_error) {
        (Some(rate), _) if !(rate > 0.0 && rate <= 1e9) => Err(Failure::Usage(format!(
            "--rate {rate}: it must lie above 0 and be at most 1000000000"
        ))),
        (_, Some(error_ms)) if !(error_ms > 0.0 && error_ms <= 1e6) => Err(Failure::Usage(format!(
            "--time-error {error_ms}: it must lie above 0 and be at most 1000000 ms"
        ))),
        _ => Ok(()),
    }
}

fn device(arguments: &Csv) -> DeviceId {
    let stem = arguments.file.file_stem().unwrap_or_default().to_string_lossy();
    arguments
        .device
        .clone()
        .unwrap_or_else(|| device_name(&stem, &[]))
}

fn declaration(arguments: &Csv, survey: &Survey) -> Result<Declaration> {
    let names: Vec<String> = survey
        .columns
        .iter()
        .map(|column| column.name.to_string())
        .collect();
    let name = match &arguments.stream {
        Some(name) => name.clone(),
        None => StreamName::new(stream_name(&names)).expect("it is a name"),
    };
    let field = |column: &survey::Column| Field {
        name: column.name.clone(),
        kind: column.kind(),
        length: None,
        unit: column.unit.clone(),
        scale: None,
        offset: None,
        description: label(&column.heading).filter(|label| label != column.name.as_str()),
    };
    let file = arguments.file.file_name().unwrap_or_default().to_string_lossy();
    let declaration = Declaration {
        name,
        fields: survey.columns.iter().map(field).collect(),
        rate_hz: arguments.rate,
        sensor: None,
        latency_us: None,
        latency_tolerance_us: None,
        description: label(&format!("CSV file {file}")),
    };
    let wrong = |what: String| Failure::fault(format!("{}: {what}", arguments.file.display()));
    declaration.check().map_err(|error| wrong(error.to_string()))?;
    match declaration.to_json().len() <= marey_format::limits::DECLARATION_BYTES_MAX {
        true => Ok(declaration),
        false => Err(wrong("its headings are more than a stream can say".to_owned())),
    }
}

fn error_ns(arguments: &Csv) -> Option<u64> {
    arguments
        .time_error
        .map(|error_ms| (error_ms * 1e6).ceil() as u64)
}

fn columns(survey: &Survey) -> Vec<Column> {
    let columns = survey.columns.iter().map(|column| Column {
        heading: column.heading.clone(),
        name: column.name.to_string(),
        kind: column.kind(),
        unit: column.unit.clone(),
    });
    columns.collect()
}

fn show(imported: &Imported) -> String {
    let head = ["column", "as", "type", "unit"];
    let rows = imported.columns.iter().map(|column| {
        let kind = serde_json::to_value(column.kind)
            .ok()
            .and_then(|kind| kind.as_str().map(str::to_owned));
        vec![
            plain(&column.heading),
            column.name.clone(),
            kind.unwrap_or_default(),
            column.unit.clone().unwrap_or_default(),
        ]
    });
    let left_out = match imported.bad_rows {
        0 => String::new(),
        rows => format!(", {rows} rows left out"),
    };
    format!(
        "session {}: generation {} stands, from {}; {} samples of {} of {}{left_out}\n\n{}",
        imported.session,
        imported.generation,
        imported.start,
        imported.samples,
        imported.stream,
        imported.device,
        table(&head, &rows.collect::<Vec<_>>())
    )
}

#[cfg(test)]
mod tests;
