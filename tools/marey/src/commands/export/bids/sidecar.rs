//! What stands beside the tables of a BIDS dataset: their columns, units, rates.

use super::super::cells::{Style, text};
use super::super::recording::Stream;
use super::names::{Names, component, motion_type};
use crate::output::Result;
use marey_format::Field;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// What the rows of a table came to.
#[derive(Debug, Default)]
pub struct Measured {
    pub rows: u64,
    first_us: Option<i64>,
    last_us: i64,
}

impl Measured {
    pub fn take(&mut self, latency_us: i64) {
        self.rows += 1;
        self.first_us.get_or_insert(latency_us);
        self.last_us = latency_us;
    }

    fn start_s(&self) -> f64 {
        self.first_us.unwrap_or(0) as f64 / 1e6
    }

    fn lasted_s(&self) -> f64 {
        (self.last_us - self.first_us.unwrap_or(0)) as f64 / 1e6
    }

    /// Samples a second as they came; 0 of a single one.
    fn rate_hz(&self) -> f64 {
        match self.lasted_s() {
            lasted_s if lasted_s > 0.0 => (self.rows - 1) as f64 / lasted_s,
            _ => 0.0,
        }
    }
}

/// Columns before the channels, their units and what they are.
const OWN: [(&str, &str, &str); 3] = [
    (
        "latency",
        "s",
        "seconds from the session's start, which is acq_time in scans.tsv",
    ),
    (
        "time_err_us",
        "us",
        "half-width of the interval around the latency that holds the truth; n/a: not known",
    ),
    (
        "seq",
        "n/a",
        "index of the sample; what is missing in it was lost",
    ),
];

/// A column for each number of each field. No two have one name: a field may be called `latency`, or `a_0` beside a list `a`.
fn columns(stream: &Stream) -> Vec<(String, &Field)> {
    let mut taken: BTreeSet<String> = OWN.iter().map(|(name, ..)| (*name).to_owned()).collect();
    let mut columns = Vec::new();
    for field in &stream.declaration.fields {
        for at in 0..field.length.unwrap_or(1) {
            let mut name = match field.length {
                Some(_) => format!("{}_{at}", field.name),
                None => field.name.to_string(),
            };
            while !taken.insert(name.clone()) {
                name.push('_');
            }
            columns.push((name, field));
        }
    }
    columns
}

fn facts(stream: &Stream, measured: &Measured) -> Map<String, Value> {
    let rate_hz = stream.declaration.rate_hz.unwrap_or_else(|| measured.rate_hz());
    let mut facts = Map::new();
    facts.insert("SamplingFrequency".to_owned(), rate_hz.into());
    facts.insert("MareyDevice".to_owned(), stream.device.as_str().into());
    facts.insert("MareyStream".to_owned(), stream.name.as_str().into());
    if let Some(sensor) = &stream.declaration.sensor {
        facts.insert("ManufacturersModelName".to_owned(), sensor.as_str().into());
    }
    facts
}

/// The sidecar of `physio.tsv.gz`, which has no line of names.
pub fn physio(stream: &Stream, measured: &Measured) -> Value {
    let mut facts = facts(stream, measured);
    facts.insert("StartTime".to_owned(), measured.start_s().into());
    let own = OWN.iter().map(|(name, ..)| (*name).to_owned());
    let of_fields = columns(stream);
    let all: Vec<String> = own
        .chain(of_fields.iter().map(|(name, _)| name.clone()))
        .collect();
    facts.insert("Columns".to_owned(), all.into());
    for (name, unit, what) in OWN {
        facts.insert(name.to_owned(), json!({"Description": what, "Units": unit}));
    }
    for (column, field) in of_fields {
        let mut said = Map::new();
        if let Some(what) = &field.description {
            said.insert("Description".to_owned(), what.as_str().into());
        }
        said.insert("Units".to_owned(), unit(field).into());
        facts.insert(column, said.into());
    }
    facts.into()
}

/// The sidecar of `motion.tsv`.
pub fn motion(stream: &Stream, measured: &Measured, names: &Names) -> Value {
    let mut facts = facts(stream, measured);
    facts.insert("TaskName".to_owned(), names.task.as_str().into());
    facts.insert("SamplingFrequencyEffective".to_owned(), measured.rate_hz().into());
    facts.insert("RecordingDuration".to_owned(), measured.lasted_s().into());
    facts.insert("TrackedPointsCount".to_owned(), 1.into());
    let of_fields = columns(stream);
    let types = || {
        let of_fields = of_fields.iter().map(|(_, field)| motion_type(field));
        ["LATENCY", "MISC", "MISC"].into_iter().chain(of_fields)
    };
    for (kind, key) in [
        ("ACCEL", "ACCELChannelCount"),
        ("GYRO", "GYROChannelCount"),
        ("LATENCY", "LATENCYChannelCount"),
        ("MAGN", "MAGNChannelCount"),
        ("MISC", "MISCChannelCount"),
    ] {
        facts.insert(
            key.to_owned(),
            types().filter(|known| *known == kind).count().into(),
        );
    }
    facts.insert("MotionChannelCount".to_owned(), types().count().into());
    facts.into()
}

/// `channels.tsv` of `motion.tsv`, a row for each of its columns, which has no line of names.
pub fn channels_table(stream: &Stream) -> Result<String> {
    let mut table = String::from("name\tcomponent\ttype\ttracked_point\tunits\tdescription\n");
    let mut row = |cells: [&str; 6]| -> Result {
        for (at, cell) in cells.into_iter().enumerate() {
            if at > 0 {
                table.push('\t');
            }
            text(cell, Style::Tsv, &mut table)?;
        }
        table.push('\n');
        Ok(())
    };
    for (name, unit, what) in OWN {
        let kind = if name == "latency" { "LATENCY" } else { "MISC" };
        row([name, "n/a", kind, "n/a", unit, what])?;
    }
    for (column, field) in columns(stream) {
        let what = field.description.as_deref().unwrap_or_default();
        row([
            &column,
            component(field),
            motion_type(field),
            &stream.device,
            unit(field),
            what,
        ])?;
    }
    Ok(table)
}

fn unit(field: &Field) -> &str {
    field.unit.as_deref().unwrap_or("n/a")
}

/// The sidecar of `events.tsv`.
pub fn events() -> Value {
    json!({
        "onset": {"Description": "from the session's start, which is acq_time in scans.tsv", "Units": "s"},
        "duration": {"Description": "how long it lasted, if anybody knows", "Units": "s"},
        "trial_type": {"Description": "what happened; gap: samples are missing"},
        "value": {"Description": "its text; of a gap, why the samples are missing"},
        "device": {"Description": "whose event it is"},
        "stream": {"Description": "of which stream, if of one"},
        "time_err_us": {"Description": "half-width of the interval around the onset that holds the truth", "Units": "us"},
    })
}
