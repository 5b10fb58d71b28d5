//! What a table of samples holds: its columns and their types, and which of its rows can't be samples.
//!
//! A column is of numbers, truths or texts as its first value is; what does not fit it is bad. Numbers are whole as long as all are.

use super::super::bad::Bad;
use super::super::making::{TIME_MAX_NS, open_file, unreadable, utc_ns};
use super::super::sender::{Sender, Sink};
use crate::output::{Failure, Result};
use marey_device::replay::TimeUnit;
use marey_device::replay::columns::{Heading, find_time_column, fit_name, unit_code};
use marey_device::replay::csv::{Record, RecordError, Records};
use marey_device::replay::stamp::nanoseconds;
use marey_format::frame::Value;
use marey_format::types::plain;
use marey_format::{FieldType, StreamName, limits};
use serde::Serialize;
use std::cell::Cell;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use std::rc::Rc;

/// A file, and what somebody says of its columns.
pub struct Table<'a> {
    pub path: &'a Path,
    pub time: Option<&'a str>,
    pub unit: Option<TimeUnit>,
    pub text: &'a [String],
}

/// What the first pass finds.
#[derive(Debug)]
pub struct Survey {
    headings: usize,
    time_column: usize,
    times: Option<Times>,
    pub columns: Vec<Column>,
    /// Good ones.
    pub rows: u64,
    pub bad: Bad<BadRow>,
    pub first_ns: i64,
    pub last_ns: i64,
}

/// How times are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Times {
    Iso,
    Number(TimeUnit),
}

/// A column of samples.
#[derive(Clone, Debug)]
pub struct Column {
    at: usize,
    pub heading: String,
    pub name: StreamName,
    pub unit: Option<String>,
    holds: Holds,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    /// Nobody looked yet.
    Nothing,
    /// Empty cells alone.
    Empty,
    Whole {
        signed: bool,
        large: bool,
    },
    Float,
    Truth,
    Text,
}

/// A row that can't be a sample, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BadRow {
    pub line: u64,
    /// Counted from 1, with its heading; none where it is not one column's fault.
    pub column: Option<(usize, String)>,
    pub why: String,
}

impl std::fmt::Display for BadRow {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "line {}", self.line)?;
        if let Some((number, heading)) = &self.column {
            write!(to, ", column {number} ({})", plain(heading))?;
        }
        write!(to, ": {}", self.why)
    }
}

impl Column {
    pub fn kind(&self) -> FieldType {
        match self.holds {
            Holds::Whole { large: false, .. } => FieldType::I64,
            Holds::Whole { signed: false, .. } => FieldType::U64,
            Holds::Truth => FieldType::Bool,
            Holds::Text => FieldType::Utf8,
            // Of a column without any value nobody knows.
            Holds::Nothing | Holds::Empty | Holds::Float | Holds::Whole { .. } => FieldType::F64,
        }
    }

    /// What a cell makes of the column.
    fn with(&self, cell: &str) -> std::result::Result<Holds, String> {
        let trimmed = cell.trim();
        let expected = |what: &str| Err(format!("expected {what}, found `{}`", shown(cell)));
        let is_truth = |cell: &str| cell.eq_ignore_ascii_case("true") || cell.eq_ignore_ascii_case("false");
        let whole = match (trimmed.parse::<i64>(), trimmed.parse::<u64>()) {
            (Ok(value), _) => Some((value < 0, false)),
            (_, Ok(_)) => Some((false, true)),
            _ => None,
        };
        let number = trimmed.parse::<f64>();
        match self.holds {
            Holds::Text if cell.len() > limits::FRAME_BYTES_MAX / 4 => {
                Err(format!("a text of {} bytes is too long", cell.len()))
            }
            Holds::Text => Ok(Holds::Text),
            Holds::Nothing | Holds::Empty if trimmed.is_empty() => Ok(Holds::Empty),
            // What was empty is NaN, or a text.
            Holds::Empty if number.is_ok() => Ok(Holds::Float),
            Holds::Empty => Ok(Holds::Text),
            // A number that is missing is NaN, which a whole number can't be.
            Holds::Whole { .. } | Holds::Float if trimmed.is_empty() => Ok(Holds::Float),
            Holds::Truth if is_truth(trimmed) => Ok(Holds::Truth),
            Holds::Truth => expected("true or false"),
            Holds::Float => number.map_or_else(|_| expected("a number"), |_| Ok(Holds::Float)),
            Holds::Whole { signed, large } => match (whole, number) {
                (Some((is_negative, is_large)), _) => {
                    Ok(whole_or_float(signed || is_negative, large || is_large))
                }
                (None, Ok(_)) => Ok(Holds::Float),
                _ => expected("a number"),
            },
            Holds::Nothing => match (whole, number) {
                (Some((signed, large)), _) => Ok(whole_or_float(signed, large)),
                (None, Ok(_)) => Ok(Holds::Float),
                _ if is_truth(trimmed) => Ok(Holds::Truth),
                _ => Self {
                    holds: Holds::Text,
                    ..self.clone()
                }
                .with(cell),
            },
        }
    }

    fn value(&self, cell: &str) -> Option<Value> {
        let trimmed = cell.trim();
        Some(match self.kind() {
            FieldType::I64 => Value::I64(trimmed.parse().ok()?),
            FieldType::U64 => Value::U64(trimmed.parse().ok()?),
            FieldType::Bool => Value::Bool(trimmed.eq_ignore_ascii_case("true")),
            FieldType::Utf8 => Value::Text(cell.to_owned()),
            _ if trimmed.is_empty() => Value::F64(f64::NAN),
            _ => Value::F64(trimmed.parse().ok()?),
        })
    }
}

/// No type has numbers below 0 and beyond 2^63.
fn whole_or_float(signed: bool, large: bool) -> Holds {
    match signed && large {
        true => Holds::Float,
        false => Holds::Whole { signed, large },
    }
}

impl Table<'_> {
    /// The first pass.
    pub fn survey(&self, say: &dyn Fn(u64)) -> Result<Survey> {
        let mut file = Lines::open(self.path, say)?;
        let mut record = Record::default();
        let path = self.path.display();
        match file.records.next(&mut record) {
            Ok(true) => {}
            Ok(false) => {
                return Err(Failure::fault(format!(
                    "{path} is empty: it needs a line of headings first"
                )));
            }
            Err(error) => return Err(Failure::fault(format!("{path}: {error}"))),
        }
        let mut survey = self.begin(&record)?;
        loop {
            match file.records.next(&mut record) {
                Ok(true) => survey.row(&record),
                Ok(false) => break,
                Err(RecordError::Io(error)) => {
                    return Err(unreadable(self.path, &error));
                }
                // What follows can't be told apart any more, or is of the same kind.
                Err(error) => return Err(Failure::fault(format!("{path}: {error}"))),
            }
            file.progress();
        }
        Ok(survey)
    }

    fn begin(&self, header: &Record) -> Result<Survey> {
        let path = self.path.display();
        let headings: Vec<String> = header.fields().map(str::to_owned).collect();
        let place = |wanted: &str| {
            let is_it = |heading: &&String| {
                *heading == wanted || Heading::parse(heading).name.eq_ignore_ascii_case(wanted)
            };
            headings.iter().position(|heading| is_it(&heading))
        };
        let known = || plain(&headings.join(", "));
        let (time_column, stated) = match self.time {
            Some(wanted) => {
                let at = place(wanted).ok_or_else(|| {
                    Failure::fault(format!(
                        "{path} has no column {wanted:?} for --time; it has {}",
                        known()
                    ))
                })?;
                (
                    at,
                    find_time_column(std::iter::once(headings[at].as_str())).and_then(|found| found.1),
                )
            }
            None => find_time_column(headings.iter().map(String::as_str)).ok_or_else(|| {
                Failure::fault(format!(
                    "{path}: no column is called time or the like; name it with --time: {}",
                    known()
                ))
            })?,
        };
        let mut texts = Vec::new();
        for wanted in self.text {
            texts.push(place(wanted).ok_or_else(|| {
                Failure::fault(format!(
                    "{path} has no column {wanted:?} for --text; it has {}",
                    known()
                ))
            })?);
        }
        let mut names: Vec<String> = Vec::new();
        let mut columns = Vec::new();
        for (at, text) in headings.iter().enumerate().filter(|(at, _)| *at != time_column) {
            let heading = Heading::parse(text);
            let name = fit_name(heading.name, &names);
            names.push(name.clone());
            columns.push(Column {
                at,
                name: StreamName::new(name).map_err(Failure::fault)?,
                unit: unit_code(&heading),
                holds: if texts.contains(&at) {
                    Holds::Text
                } else {
                    Holds::Nothing
                },
                heading: text.clone(),
            });
        }
        if columns.is_empty() {
            return Err(Failure::fault(format!("{path} has no column beside its times")));
        }
        Ok(Survey {
            headings: headings.len(),
            time_column,
            times: self.unit.or(stated).map(Times::Number),
            columns,
            rows: 0,
            bad: Bad::default(),
            first_ns: 0,
            last_ns: 0,
        })
    }

    /// The second pass: sends the good rows. A row is judged as before, so that the file must be what it was.
    pub fn send(&self, survey: &Survey, sender: &mut Sender, to: &mut Sink<'_>, say: &dyn Fn(u64)) -> Result {
        let changed = || Failure::fault(format!("{} was changed while it was read", self.path.display()));
        let mut file = Lines::open(self.path, say)?;
        let mut record = Record::default();
        file.records.next(&mut record).map_err(|_| changed())?;
        let mut judge = self.begin(&record)?;
        let mut sent = 0;
        while file.records.next(&mut record).map_err(|_| changed())? {
            let Ok((time_ns, holds)) = judge.judged(&record) else {
                continue;
            };
            judge.take(time_ns, holds);
            let values = survey
                .columns
                .iter()
                .map(|column| column.value(record.field(column.at)));
            let values: Option<Vec<Value>> = values.collect();
            sender.sample(to, 0, time_ns, &values.ok_or_else(changed)?)?;
            sent += 1;
            file.progress();
        }
        match sent == survey.rows && judge.last_ns == survey.last_ns {
            true => Ok(()),
            false => Err(changed()),
        }
    }
}

impl Survey {
    fn row(&mut self, record: &Record) {
        match self.judged(record) {
            Ok((time_ns, holds)) => self.take(time_ns, holds),
            Err(bad) => self.bad.take(bad),
        }
    }

    /// A row's time, and what its cells make of the columns.
    fn judged(&mut self, record: &Record) -> std::result::Result<(i64, Vec<Holds>), BadRow> {
        let bad = |column: Option<(usize, String)>, why: String| BadRow {
            line: record.line(),
            column,
            why,
        };
        if record.len() != self.headings {
            let why = format!(
                "{} cells where there are {} headings",
                record.len(),
                self.headings
            );
            return Err(bad(None, why));
        }
        let time = self.time(record.field(self.time_column));
        let time_ns = time.map_err(|why| bad(Some((self.time_column + 1, "time".to_owned())), why))?;
        let mut holds = Vec::with_capacity(self.columns.len());
        for column in &self.columns {
            let with = column.with(record.field(column.at));
            holds.push(with.map_err(|why| bad(Some((column.at + 1, column.heading.clone())), why))?);
        }
        Ok((time_ns, holds))
    }

    fn time(&mut self, cell: &str) -> std::result::Result<i64, String> {
        let none = || format!("expected a time, found `{}`", shown(cell));
        let times = match self.times {
            Some(times) => times,
            None if iso_ns(cell).is_some() => Times::Iso,
            None => Times::Number(TimeUnit::from_magnitude(cell.trim().parse().map_err(|_| none())?)),
        };
        let time_ns = match times {
            Times::Iso => iso_ns(cell),
            Times::Number(unit) => nanoseconds(cell, unit),
        };
        let time_ns = time_ns.ok_or_else(none)?;
        let is_possible = (-TIME_MAX_NS..=TIME_MAX_NS).contains(&time_ns);
        if !is_possible {
            return Err(format!("`{}` is no time that can be", shown(cell)));
        }
        if self.rows > 0 && time_ns < self.last_ns {
            let back_s = (self.last_ns - time_ns) as f64 / 1e9;
            return Err(format!("time goes back by {back_s} s"));
        }
        self.times = Some(times);
        Ok(time_ns)
    }

    /// Counts a good row.
    fn take(&mut self, time_ns: i64, holds: Vec<Holds>) {
        for (column, holds) in self.columns.iter_mut().zip(holds) {
            column.holds = holds;
        }
        if self.rows == 0 {
            self.first_ns = time_ns;
        }
        self.rows += 1;
        self.last_ns = time_ns;
    }
}

/// A time of day; without a zone it is UTC.
fn iso_ns(cell: &str) -> Option<i64> {
    let cell = cell.trim();
    // A bare date, or a number with a dash, is none.
    let is_long = cell.len() >= 19 && cell.as_bytes().get(4) == Some(&b'-');
    if !is_long {
        return None;
    }
    utc_ns(cell).or_else(|| arrow::compute::kernels::cast_utils::string_to_timestamp_nanos(cell).ok())
}

/// The first characters of a cell.
fn shown(cell: &str) -> String {
    plain(&cell.chars().take(40).collect::<String>())
}

/// A file's records, and how far they are.
struct Lines<'s> {
    records: Records<BufReader<Counted>>,
    read: Rc<Cell<u64>>,
    bytes: u64,
    percent: u64,
    say: &'s dyn Fn(u64),
}

impl<'s> Lines<'s> {
    fn open(path: &Path, say: &'s dyn Fn(u64)) -> Result<Self> {
        let file = open_file(path)?;
        let read = Rc::new(Cell::new(0));
        Ok(Self {
            bytes: file.metadata().map_or(0, |metadata| metadata.len()),
            records: Records::new(BufReader::with_capacity(
                1 << 16,
                Counted {
                    file,
                    read: read.clone(),
                },
            )),
            read,
            percent: 0,
            say,
        })
    }

    fn progress(&mut self) {
        let percent = self.read.get() * 100 / self.bytes.max(1);
        if percent > self.percent {
            self.percent = percent;
            (self.say)(percent);
        }
    }
}

/// A file that counts what was read of it.
#[derive(Debug)]
struct Counted {
    file: File,
    read: Rc<Cell<u64>>,
}

impl Read for Counted {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read(to)?;
        self.read.set(self.read.get() + read as u64);
        Ok(read)
    }
}
