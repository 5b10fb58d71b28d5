//! `marey plot SESSION`: each channel of a session over time, as a picture: the least and the largest value of every column of
//! pixels, what is missing as shades, events as dashed lines.
//!
//! Reads what is published, once, a batch at a time: memory is that of the picture. All of a long session is drawn from the buckets of
//! its overview, where a column of pixels is as wide as one.

use super::export::Choice;
use super::export::cells::{Number, number};
use super::export::disguise::Disguise;
use super::export::recording::{GAPS, OWN_COLUMNS, Own, Recording, Stream};
use crate::output::{Failure, Output, Result};
use crate::rows::time_text;
use crate::svg::{self, Panel, page};
use crate::written;
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{TimestampMicrosecondType, UInt64Type};
use marey_engine::read::Level;
use marey_format::{Field, FieldType};
use serde::Serialize;
use std::path::PathBuf;

/// Columns of a panel: pixels of its width.
const COLUMNS: usize = 890;

/// Panels of a page; more would be seen by nobody.
const PANELS_MAX: usize = 64;

/// Events that are drawn.
const EVENTS_MAX: usize = 200;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    choice: Choice,
    /// The picture, in SVG; an earlier one is replaced.
    #[arg(long, value_name = "FILE", default_value = "session.svg")]
    out: PathBuf,
}

#[derive(Debug, Serialize)]
struct Drawn {
    session: String,
    out: PathBuf,
    from: String,
    seconds: f64,
    channels: Vec<Channel>,
    /// Texts, bytes and lists: nothing to draw.
    left_out: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Channel {
    device: String,
    stream: String,
    channel: String,
    samples: u64,
    gaps: usize,
}

pub fn run(arguments: Arguments, dir: Option<PathBuf>, output: &Output) -> Result {
    let recording = Recording::open_tables(&arguments.choice, dir, Disguise::default(), output)?;
    let axis = Axis::of(&recording)?;
    let channels: usize = recording
        .streams
        .iter()
        .map(|stream| drawable(stream).count())
        .sum();
    if channels == 0 || channels > PANELS_MAX {
        let what = match channels {
            0 => "none of its channels is a number".to_owned(),
            _ => format!(
                "it has {channels} channels, and {PANELS_MAX} can be drawn at most; choose some with --stream and --device"
            ),
        };
        return Err(Failure::fault(format!("session {}: {what}", recording.name())));
    }
    let (mut panels, mut drawn, mut left_out) = (Vec::new(), Vec::new(), Vec::new());
    let events = marks(&recording, &axis)?;
    for stream in &recording.streams {
        let shades = shades(&recording, stream, &axis)?;
        let lines = match recording.overview(stream, axis.column_us())?.filter(is_finite) {
            Some(level) => draw_buckets(&level, stream, &axis, &shades),
            None => draw(&recording, stream, &axis)?,
        };
        for (line, (_, field)) in lines.into_iter().zip(drawable(stream)) {
            drawn.push(Channel {
                device: stream.device.clone(),
                stream: stream.name.clone(),
                channel: field.name.to_string(),
                samples: line.samples,
                gaps: shades.len(),
            });
            panels.push(line.panel(stream, field, &axis, &shades, &events));
        }
        let others = stream
            .declaration
            .fields
            .iter()
            .filter(|field| !is_drawable(field));
        left_out
            .extend(others.map(|field| format!("{} of {} of {}", field.name, stream.name, stream.device)));
    }
    recording.done();
    recording.is_still_it()?;
    let title = format!(
        "Session {}, generation {}, from {}",
        recording.name(),
        recording.generation(),
        time_text(axis.from_us)
    );
    written::write(&arguments.out, page(&title, &panels).as_bytes(), svg::BEGINS)?;
    let drawn = Drawn {
        session: recording.name(),
        from: time_text(axis.from_us),
        seconds: axis.seconds(),
        channels: drawn,
        left_out,
        out: arguments.out,
    };
    output.result(&drawn, |drawn| {
        let left_out = match drawn.left_out.is_empty() {
            true => String::new(),
            false => format!("\nnot drawn: {}", drawn.left_out.join(", ")),
        };
        let (out, channels, seconds) = (drawn.out.display(), drawn.channels.len(), drawn.seconds);
        format!(
            "{out}: {channels} channels, {seconds:.1} s from {}{left_out}",
            drawn.from
        )
    })
}

fn is_drawable(field: &Field) -> bool {
    let is_number = !matches!(field.kind, FieldType::Utf8 | FieldType::Binary);
    is_number && field.length.is_none()
}

/// Fields with their places.
fn drawable(stream: &Stream) -> impl Iterator<Item = (usize, &Field)> {
    let fields = stream.declaration.fields.iter().enumerate();
    fields.filter(|(_, field)| is_drawable(field))
}

/// The time that is drawn.
struct Axis {
    from_us: i64,
    until_us: i64,
}

impl Axis {
    fn of(recording: &Recording<'_>) -> Result<Self> {
        recording.has_samples()?;
        let none = || Failure::fault(format!("session {} has no sample there", recording.name()));
        let (from_us, until_us) = recording.extent_us().ok_or_else(none)?;
        Ok(Self {
            from_us,
            // One moment is as wide as any.
            until_us: until_us.max(from_us + 1_000),
        })
    }

    fn seconds(&self) -> f64 {
        (self.until_us - self.from_us) as f64 / 1e6
    }

    /// How long a column of pixels lasts.
    fn column_us(&self) -> i64 {
        (self.until_us - self.from_us) / COLUMNS as i64
    }

    fn second(&self, time_us: i64) -> f64 {
        (time_us - self.from_us) as f64 / 1e6
    }

    fn column(&self, time_us: i64) -> usize {
        let share = (time_us - self.from_us) as f64 / (self.until_us - self.from_us) as f64;
        ((share * COLUMNS as f64) as usize).min(COLUMNS - 1)
    }
}

/// A channel as it is drawn.
struct Line {
    columns: Vec<Option<Column>>,
    samples: u64,
    lowest: f64,
    highest: f64,
}

/// What falls into one column of pixels.
#[derive(Clone, Copy)]
struct Column {
    first: f64,
    last: f64,
    least: f64,
    most: f64,
    /// The sample before its first is missing, or no number.
    begins: bool,
}

impl Line {
    fn new() -> Self {
        Self {
            columns: vec![None; COLUMNS],
            samples: 0,
            lowest: f64::INFINITY,
            highest: f64::NEG_INFINITY,
        }
    }

    fn take(&mut self, column: usize, value: f64, begins: bool) {
        self.take_many(column, 1, (value, value, value), begins);
    }

    /// So many values, by the least, one in between, and the greatest.
    fn take_many(&mut self, column: usize, count: u64, (least, value, most): (f64, f64, f64), begins: bool) {
        self.samples += count;
        self.lowest = self.lowest.min(least);
        self.highest = self.highest.max(most);
        match &mut self.columns[column] {
            Some(column) => {
                column.last = value;
                column.least = column.least.min(least);
                column.most = column.most.max(most);
            }
            empty => {
                *empty = Some(Column {
                    first: value,
                    last: value,
                    least,
                    most,
                    begins,
                });
            }
        }
    }

    /// Up and down within each column, and on to the next unless a sample between them is missing.
    fn pieces(&self, axis: &Axis) -> Vec<Vec<(f64, f64)>> {
        let mut pieces: Vec<Vec<(f64, f64)>> = Vec::new();
        for (at, column) in self.columns.iter().enumerate() {
            let Some(column) = column else { continue };
            if column.begins || pieces.is_empty() {
                pieces.push(Vec::new());
            }
            let second = (at as f64 + 0.5) / COLUMNS as f64 * axis.seconds();
            let values = [column.first, column.least, column.most, column.last];
            if let Some(piece) = pieces.last_mut() {
                piece.extend(values.map(|value| (second, value)));
            }
        }
        pieces
    }

    fn panel(
        &self,
        stream: &Stream,
        field: &Field,
        axis: &Axis,
        shades: &[(f64, f64)],
        events: &[f64],
    ) -> Panel {
        let range = match self.highest - self.lowest {
            wide if wide.is_finite() && wide > 0.0 => (self.lowest - 0.05 * wide, self.highest + 0.05 * wide),
            _ if self.lowest.is_finite() => {
                // As wide as its digits can tell.
                let margin = (self.lowest.abs() * 1e-6).max(1.0);
                (self.lowest - margin, self.highest + margin)
            }
            _ => (-1.0, 1.0),
        };
        Panel {
            title: format!("{} of {} of {}", field.name, stream.name, stream.device),
            unit: field.unit.clone().unwrap_or_default(),
            seconds: axis.seconds(),
            range: Some(range),
            lines: self.pieces(axis),
            shades: shades.to_vec(),
            cuts: events.to_vec(),
            ..Panel::default()
        }
    }
}

/// Samples that are no finite numbers are left out of a picture, and a bucket does not tell how many there are.
fn is_finite(level: &Level) -> bool {
    let mut buckets = level.channels.iter().flat_map(|(_, buckets)| buckets);
    buckets.all(|bucket| bucket.count == 0 || (bucket.min.is_finite() && bucket.max.is_finite()))
}

/// The same picture of buckets that are no wider than a column; a line breaks at a hole that is wider.
fn draw_buckets(level: &Level, stream: &Stream, axis: &Axis, shades: &[(f64, f64)]) -> Vec<Line> {
    let column_s = axis.seconds() / COLUMNS as f64;
    let holes = || {
        let wide = shades.iter().filter(|(from, until)| until - from > column_s);
        wide.map(|(from, until)| f64::midpoint(*from, *until))
    };
    let line_of = |(_, field): (usize, &Field)| {
        let mut line = Line::new();
        let known = level
            .channels
            .iter()
            .find(|(name, _)| name == field.name.as_str());
        let mut before_s = None;
        for bucket in known.iter().flat_map(|(_, buckets)| buckets) {
            if bucket.count == 0 {
                before_s = None;
                continue;
            }
            let (from_s, until_s) = (
                axis.second(bucket.time_us),
                axis.second(bucket.time_us + level.width_us),
            );
            let begins =
                before_s.is_none_or(|before_s| holes().any(|hole| before_s < hole && hole < until_s));
            before_s = Some(from_s);
            let (one, other) = (in_unit(bucket.min, field), in_unit(bucket.max, field));
            let values = (one.min(other), in_unit(bucket.mean, field), one.max(other));
            line.take_many(
                axis.column(bucket.time_us + level.width_us / 2),
                bucket.count,
                values,
                begins,
            );
        }
        line
    };
    drawable(stream).map(line_of).collect()
}

fn draw(recording: &Recording<'_>, stream: &Stream, axis: &Axis) -> Result<Vec<Line>> {
    recording.check(|read| (&read.id, &read.name) == (&stream.id, &stream.name))?;
    let disk = recording.source.disk();
    let fields: Vec<(usize, &Field)> = drawable(stream).collect();
    let mut lines: Vec<Line> = fields.iter().map(|_| Line::new()).collect();
    // Of each channel, whether its last sample was a number.
    let mut was_number = vec![false; fields.len()];
    let mut before: Option<(i32, i64)> = None;
    let mut rows = recording.rows(stream, &*disk)?;
    while let Some(batch) = rows.next()? {
        let own = Own::of(batch);
        for row in 0..batch.num_rows() {
            let at = (own.epoch[row], own.seq[row]);
            let follows =
                before.is_some_and(|before| before.0 == at.0 && before.1.checked_add(1) == Some(at.1));
            before = Some(at);
            let column = axis.column(own.time_us[row]);
            for ((line, (place, field)), was_number) in lines.iter_mut().zip(&fields).zip(&mut was_number) {
                let value = scaled(batch, OWN_COLUMNS + place, row, field)?;
                let begins = !(follows && *was_number);
                *was_number = value.is_finite();
                if value.is_finite() {
                    line.take(column, value, begins);
                }
            }
        }
    }
    Ok(lines)
}

fn scaled(batch: &RecordBatch, column: usize, row: usize, field: &Field) -> Result<f64> {
    let column = batch.column(column).as_ref();
    let stored = match column.as_primitive_opt::<UInt64Type>() {
        Some(column) => column.value(row) as f64,
        None => match number(column, row)? {
            Number::Whole(stored) => stored as f64,
            Number::Float(stored) => stored,
        },
    };
    Ok(in_unit(stored, field))
}

/// A value in its unit. The few numbers that are too large for a picture's arithmetic lie at its edge.
fn in_unit(stored: f64, field: &Field) -> f64 {
    const LARGEST: f64 = 1e300;
    let value = stored * field.scale.unwrap_or(1.0) + field.offset.unwrap_or(0.0);
    match value.is_finite() {
        true => value.clamp(-LARGEST, LARGEST),
        false => value,
    }
}

/// From when to when samples of a stream are missing.
fn shades(recording: &Recording<'_>, stream: &Stream, axis: &Axis) -> Result<Vec<(f64, f64)>> {
    let disk = recording.source.disk();
    let mut shades = Vec::new();
    recording.table(GAPS, &*disk, |batch| {
        let text = |name| {
            batch
                .column_by_name(name)
                .and_then(|column| column.as_string_opt::<i32>())
        };
        let (Some(devices), Some(streams)) = (text("device"), text("stream")) else {
            return Ok(());
        };
        let (from, until) = (times(batch, "time"), times(batch, "until"));
        for row in 0..batch.num_rows() {
            let is_of = devices.value(row) == stream.device && streams.value(row) == stream.name;
            // One of no time is of a stream of which nothing came.
            if is_of && from[row] > 0 {
                let clamp = |time_us: i64| axis.second(time_us.clamp(axis.from_us, axis.until_us));
                shades.push((clamp(from[row]), clamp(until[row])));
            }
        }
        Ok(())
    })?;
    Ok(joined(shades, axis.seconds() / COLUMNS as f64))
}

/// Shades that lie within a pixel of each other are one.
fn joined(mut shades: Vec<(f64, f64)>, pixel_s: f64) -> Vec<(f64, f64)> {
    shades.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut joined: Vec<(f64, f64)> = Vec::new();
    for (from, until) in shades {
        match joined.last_mut() {
            Some(last) if from <= last.1 + pixel_s => last.1 = last.1.max(until),
            _ => joined.push((from, until)),
        }
    }
    joined
}

fn marks(recording: &Recording<'_>, axis: &Axis) -> Result<Vec<f64>> {
    let disk = recording.source.disk();
    let mut marks = Vec::new();
    recording.table("events", &*disk, |batch| {
        let sources = batch
            .column_by_name("source")
            .and_then(|column| column.as_string_opt::<i32>());
        for (row, &time_us) in times(batch, "time").iter().enumerate() {
            let is_of_hub = sources.is_some_and(|sources| sources.value(row) == "hub");
            if !is_of_hub && (axis.from_us..=axis.until_us).contains(&time_us) && marks.len() < EVENTS_MAX {
                marks.push(axis.second(time_us));
            }
        }
        Ok(())
    })?;
    Ok(marks)
}

fn times<'b>(batch: &'b RecordBatch, name: &str) -> &'b [i64] {
    let column = batch.column_by_name(name);
    let times = column.and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>());
    times.map_or(&[], |times| times.values())
}

#[cfg(test)]
mod tests {
    use super::*;
    use marey_engine::read::Bucket;

    #[test]
    fn a_line_breaks_where_a_sample_is_missing_and_keeps_every_extreme() {
        let axis = Axis {
            from_us: 0,
            until_us: 890_000,
        };
        let mut line = Line::new();
        for (at, value) in [(0, 1.0), (0, 9.0), (0, -3.0), (0, 2.0)] {
            line.take(at, value, at == 0 && value == 1.0);
        }
        line.take(1, 2.5, false);
        line.take(7, 4.0, true);
        let pieces = line.pieces(&axis);
        let values = |piece: &[(f64, f64)]| piece.iter().map(|point| point.1).collect::<Vec<_>>();
        assert_eq!(pieces.len(), 2);
        assert_eq!(values(&pieces[0]), [1.0, -3.0, 9.0, 2.0, 2.5, 2.5, 2.5, 2.5]);
        assert_eq!(values(&pieces[1]), [4.0; 4]);
        assert_eq!((line.lowest, line.highest, line.samples), (-3.0, 9.0, 6));
        assert_eq!(
            (
                axis.column(-5),
                axis.column(0),
                axis.column(1_500),
                axis.column(890_000)
            ),
            (0, 0, 1, 889)
        );
    }

    /// Of buckets as wide as a column: a hole breaks the line, values are in their unit, and a bucket without numbers is one.
    #[test]
    fn a_line_of_buckets_breaks_at_a_hole() {
        let declaration = marey_format::Declaration::from_json(
            br#"{"name":"x","fields":[{"name":"t","type":"utf8"},{"name":"v","type":"i16","scale":-2.0,"offset":1.0}]}"#,
        );
        let stream = Stream {
            id: "d".parse().expect("a name"),
            key: "x@1".parse().expect("a key"),
            name: "x@1".to_owned(),
            device: "d".to_owned(),
            declaration: declaration.expect("a declaration"),
            hidden: Vec::new(),
            rows: 60,
        };
        let bucket = |second: i64, count, (min, mean, max)| Bucket {
            time_us: second * 1_000_000,
            count,
            min,
            max,
            mean,
        };
        let buckets = vec![
            bucket(0, 10, (1.0, 2.0, 3.0)),
            bucket(1, 10, (1.0, 2.0, 5.0)),
            // Three seconds are missing.
            bucket(5, 10, (0.0, 0.0, 0.0)),
            bucket(6, 0, (f64::NAN, f64::NAN, f64::NAN)),
            bucket(7, 10, (4.0, 4.0, 4.0)),
            bucket(8, 10, (4.0, 4.0, 4.0)),
        ];
        let mut level = Level {
            width_us: 1_000_000,
            channels: vec![("v".to_owned(), buckets)],
        };
        let axis = Axis {
            from_us: 0,
            until_us: 890_000_000,
        };
        let lines = draw_buckets(&level, &stream, &axis, &[(1.9, 5.1)]);
        let [line] = lines.as_slice() else {
            panic!("one channel is a number")
        };
        assert_eq!((line.lowest, line.highest, line.samples), (-9.0, 1.0, 50));
        let pieces = line.pieces(&axis);
        assert_eq!(pieces.iter().map(Vec::len).collect::<Vec<_>>(), [8, 4, 8]);
        assert_eq!(pieces[0][5..7], [(1.5, -9.0), (1.5, -1.0)]);
        assert!(is_finite(&level));
        level.channels[0].1[0].max = f64::INFINITY;
        assert!(!is_finite(&level));
    }

    #[test]
    fn shades_that_touch_are_one() {
        let shades = vec![(5.0, 6.0), (0.0, 1.0), (1.05, 2.0)];
        assert_eq!(joined(shades, 0.1), [(0.0, 2.0), (5.0, 6.0)]);
    }
}
