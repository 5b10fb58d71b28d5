//! BIDS: a dataset of one subject and one session. Streams of movement become `motion`, all others `physio`; events and gaps one
//! table of events.
//!
//! BIDS takes samples for equidistant. Ours are not, and gaps are left open: so each table has the `latency` of every row, seconds
//! from the session's start, which is the `acq_time` of all files. Values are in their units: scale and offset are applied.

mod names;
mod sidecar;

use super::Written;
use super::cells::{Number, Style, number, put, text};
use super::place::{Made, Place};
use super::recording::{GAPS, OWN_COLUMNS, Own, Recording, Stream, moment_us};
use crate::output::Result;
use crate::rows::time_text;
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float64Type, TimestampMicrosecondType};
use flate2::Compression;
use flate2::write::GzEncoder;
use names::{Kind, Names};
use serde_json::json;
use sidecar::{Measured, channels_table, motion, physio};
use std::fmt::Write as _;
use std::io::Write as _;

/// Version of the standard that the dataset follows.
const BIDS: &str = "1.10.0";

pub fn write(recording: &Recording<'_>, place: &mut Place) -> Result<Vec<Written>> {
    let disk = recording.source.disk();
    let mut names = Names::new(&recording.name(), &recording.metadata());
    let mut written = Vec::new();
    let mut scans = String::from("filename\tacq_time\n");
    let start = time_text(recording.start_us());
    for stream in &recording.streams {
        let kind = Kind::of(&stream.declaration);
        let base = names.of_stream(kind, stream);
        let path = names.path(kind.folder(), &format!("{base}_{}", kind.ending()));
        let mut rows = recording.rows(stream, &*disk)?;
        // Without a sample there is neither a rate nor a start, and BIDS asks for both.
        let Some(first) = rows.next()? else {
            written.push(Written::of(stream, 0, "left out: no samples".to_owned()));
            continue;
        };
        let mut to = To::new(kind, place.file(&path)?);
        let mut measured = Measured::default();
        put_rows(&mut to, first, recording, stream, &mut measured)?;
        while let Some(batch) = rows.next()? {
            put_rows(&mut to, batch, recording, stream, &mut measured)?;
            place.goes_on()?;
        }
        place.bytes += to.finish()?;
        let beside = |ending: &str| names.path(kind.folder(), &format!("{base}_{ending}"));
        match kind {
            Kind::Motion => {
                put_file(
                    place,
                    &beside("motion.json"),
                    &pretty(&motion(stream, &measured, &names))?,
                )?;
                put_file(place, &beside("channels.tsv"), &channels_table(stream)?)?;
            }
            Kind::Physio => put_file(
                place,
                &beside("physio.json"),
                &pretty(&physio(stream, &measured))?,
            )?,
        }
        scans += &format!(
            "{}\t{start}\n",
            names.in_session(kind.folder(), &format!("{base}_{}", kind.ending()))
        );
        written.push(Written::of(stream, measured.rows, path));
    }
    events(recording, place, &names)?;
    put_file(place, &names.scans(), &scans)?;
    dataset(recording, place, &names)?;
    Ok(written)
}

fn put_file(place: &mut Place, path: &str, content: &str) -> Result {
    let mut to = place.file(path)?;
    to.put(content.as_bytes())?;
    place.bytes += to.finish()?;
    Ok(())
}

fn pretty(value: &serde_json::Value) -> Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

/// A table of samples: as BIDS wants it, packed for `physio` and plain for `motion`.
enum To {
    Packed(Box<GzEncoder<Made>>),
    Plain(Made),
}

impl To {
    fn new(kind: Kind, made: Made) -> Self {
        match kind {
            Kind::Motion => Self::Plain(made),
            Kind::Physio => Self::Packed(Box::new(GzEncoder::new(made, Compression::default()))),
        }
    }

    fn put(&mut self, bytes: &[u8]) -> Result {
        match self {
            Self::Packed(to) => Ok(to.write_all(bytes)?),
            Self::Plain(to) => to.put(bytes),
        }
    }

    fn finish(self) -> Result<u64> {
        match self {
            Self::Packed(to) => to.finish()?.finish(),
            Self::Plain(to) => to.finish(),
        }
    }
}

fn put_rows(
    to: &mut To,
    batch: &RecordBatch,
    recording: &Recording<'_>,
    stream: &Stream,
    measured: &mut Measured,
) -> Result {
    let own = Own::of(batch);
    let (start_us, mut line) = (recording.start_us(), String::new());
    for (row, &time_us) in own.time_us.iter().enumerate() {
        line.clear();
        seconds(time_us - start_us, &mut line);
        line.push('\t');
        put(batch.column(3).as_ref(), row, Style::Tsv, &mut line)?;
        write!(line, "\t{}", own.seq[row])?;
        for (field, column) in stream
            .declaration
            .fields
            .iter()
            .zip(&batch.columns()[OWN_COLUMNS..])
        {
            let scale = (field.scale.unwrap_or(1.0), field.offset.unwrap_or(0.0));
            let is_scaled = field.scale.is_some() || field.offset.is_some();
            put_cells(column.as_ref(), row, is_scaled.then_some(scale), &mut line)?;
        }
        line.push('\n');
        to.put(line.as_bytes())?;
        measured.take(time_us - start_us);
    }
    Ok(())
}

/// A cell for each number of a field, each behind a tab.
fn put_cells(column: &dyn Array, row: usize, scale: Option<(f64, f64)>, line: &mut String) -> Result {
    if let DataType::FixedSizeList(..) = column.data_type() {
        let lists = column.as_fixed_size_list();
        let (from, length) = (lists.value_offset_at(row), usize::try_from(lists.value_length())?);
        return (from..from + length).try_for_each(|at| put_cells(lists.values().as_ref(), at, scale, line));
    }
    line.push('\t');
    let Some((scale, offset)) = scale else {
        return put(column, row, Style::Tsv, line);
    };
    let stored = match number(column, row)? {
        Number::Whole(stored) => stored as f64,
        Number::Float(stored) => stored,
    };
    let value = stored * scale + offset;
    match value.is_finite() {
        true => write!(line, "{value:?}")?,
        false => line.push_str("n/a"),
    }
    Ok(())
}

/// Microseconds as seconds.
fn seconds(us: i64, to: &mut String) {
    let sign = if us < 0 { "-" } else { "" };
    let us = us.unsigned_abs();
    to.push_str(&format!("{sign}{}.{:06}", us / 1_000_000, us % 1_000_000));
}

fn events(recording: &Recording<'_>, place: &mut Place, names: &Names) -> Result {
    let disk = recording.source.disk();
    let mut to = place.file(&names.path("beh", &format!("{}_events.tsv", names.base())))?;
    to.put(b"onset\tduration\ttrial_type\tvalue\tdevice\tstream\ttime_err_us\n")?;
    for table in ["events", GAPS] {
        recording.table(table, &*disk, |batch| {
            let mut lines = String::new();
            for row in 0..batch.num_rows() {
                put_event(table, batch, row, recording.start_us(), &mut lines)?;
            }
            to.put(lines.as_bytes())
        })?;
    }
    place.bytes += to.finish()?;
    let sidecar = sidecar::events();
    put_file(
        place,
        &names.path("beh", &format!("{}_events.json", names.base())),
        &pretty(&sidecar)?,
    )
}

fn put_event(table: &str, batch: &RecordBatch, row: usize, start_us: i64, line: &mut String) -> Result {
    let time = |name| {
        let column = batch.column_by_name(name)?;
        Some(column.as_primitive_opt::<TimestampMicrosecondType>()?.value(row))
    };
    let begins_us = moment_us(table, time("time").unwrap_or(start_us), start_us);
    seconds(begins_us - start_us, line);
    line.push('\t');
    let lasted = batch
        .column_by_name("duration_s")
        .and_then(|column| column.as_primitive_opt::<Float64Type>());
    match (time("until"), lasted.map(|lasted| lasted.value(row))) {
        (Some(until_us), _) => seconds(until_us.max(begins_us) - begins_us, line),
        (None, Some(lasted)) if lasted.is_finite() => write!(line, "{lasted:?}")?,
        _ => line.push_str("n/a"),
    }
    line.push('\t');
    let mut cell = |name: &str, otherwise: &str| -> Result {
        match batch.column_by_name(name) {
            Some(column) => put(column.as_ref(), row, Style::Tsv, line)?,
            None => text(otherwise, Style::Tsv, line)?,
        }
        Ok(())
    };
    cell("kind", "gap")?;
    let names = [
        if table == GAPS { "cause" } else { "text" },
        "device",
        "stream",
        "time_err_us",
    ];
    for name in names {
        line.push('\t');
        match batch.column_by_name(name) {
            Some(column) => put(column.as_ref(), row, Style::Tsv, line)?,
            None => line.push_str("n/a"),
        }
    }
    line.push('\n');
    Ok(())
}

fn dataset(recording: &Recording<'_>, place: &mut Place, names: &Names) -> Result {
    let description = json!({
        "Name": recording.name(),
        "BIDSVersion": BIDS,
        "DatasetType": "raw",
        "GeneratedBy": [{"Name": "marey", "Version": env!("CARGO_PKG_VERSION")}],
    });
    put_file(place, "dataset_description.json", &pretty(&description)?)?;
    put_file(
        place,
        "participants.tsv",
        &format!("participant_id\n{}\n", names.subject()),
    )?;
    let mut readme = format!("Session {} of a recording made with Marey.\n\n", recording.name());
    for (name, value) in recording.facts() {
        readme += &format!("{name}: {value}\n");
    }
    readme += "\nEvery row of samples has its latency: seconds from acq_time, and time_err_us, within which that is right.\n";
    put_file(place, "README", &readme)
}
