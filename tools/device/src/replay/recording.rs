//! A recording in a CSV file: what it holds, and its rows in order.
//!
//! Owns: the scan that finds out what the columns are, and reading the rows at those types. Does not own: sending
//! (`replay::play`).
//!
//! Invariants: memory does not grow with the file (it is read twice instead). A channel is f32 only if every
//! value's text means exactly an f32, so no digit of the file is lost; else f64. A row that can't be read is an
//! error that names file, line and column, never a row that is left out.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use super::columns::{self, Heading};
use super::csv::{Record, RecordError, Records};
use super::stamp::{TimeUnit, nanoseconds};

/// How to read a recording. The default finds everything out by itself.
#[derive(Debug, Clone, Default)]
pub struct RecordingOptions {
    /// The heading of the column with the stamps.
    pub time_column: Option<String>,
    pub time_unit: Option<TimeUnit>,
    /// What the stream is called; `imu` or `recording` by default.
    pub stream: Option<String>,
    /// The device; by default the file's name without its ending.
    pub device: Option<String>,
}

/// Why a recording can't be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{}: {source}", path.display())]
    Record { path: PathBuf, source: RecordError },
    #[error("{}: no header line", path.display())]
    Empty { path: PathBuf },
    #[error("{}: a header and no row", path.display())]
    NoRows { path: PathBuf },
    #[error("{}: no time column (looked for `timestamp`, `time` and the like) among: {headings}; name it", path.display())]
    NoTimeColumn { path: PathBuf, headings: String },
    #[error("{}: no column besides the time", path.display())]
    NoChannels { path: PathBuf },
    #[error("{}, line {line}, column {column} ({heading}): {fault}", path.display())]
    Field {
        path: PathBuf,
        line: u64,
        column: usize,
        heading: String,
        fault: FieldFault,
    },
    #[error("{}, line {line}: {found} fields where the header has {expected}", path.display())]
    FieldCount {
        path: PathBuf,
        line: u64,
        expected: usize,
        found: usize,
    },
    #[error("{}: changed while it was read: at line {line}", path.display())]
    Changed { path: PathBuf, line: u64 },
}

/// What is wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FieldFault {
    #[error("expected a number, found `{found}`")]
    NotANumber { found: String },
    #[error("expected a time as a plain number, found `{found}`")]
    NotATime { found: String },
    #[error("time goes back from {from_ns} ns to {to_ns} ns")]
    TimeGoesBack { from_ns: i64, to_ns: i64 },
    #[error("a text of {found} bytes, over the limit of {limit}")]
    TextTooLong { found: usize, limit: usize },
}

/// The type of a numeric channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelType {
    F32,
    F64,
}

/// A numeric column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel {
    /// The heading as it stands in the file.
    pub heading: String,
    pub name: String,
    /// A UCUM code.
    pub unit: Option<String>,
    pub kind: ChannelType,
    column: usize,
}

/// A column of text: an event each time that it changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelColumn {
    pub heading: String,
    pub name: String,
    column: usize,
}

/// One row.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Row {
    pub line: u64,
    /// The stamp in the file, in nanoseconds of the file's own clock.
    pub time_ns: i64,
    /// A value a channel. Those of f32 channels are f32 values. NaN where the field is empty.
    pub values: Vec<f64>,
    /// The texts that differ from the row before (in the first row all): index into the labels, and the text.
    pub changed_labels: Vec<(usize, String)>,
}

/// A recording that was scanned from end to end and found to be readable.
#[derive(Debug, Clone)]
pub struct Recording {
    path: PathBuf,
    device: String,
    stream: String,
    time_column: usize,
    time_unit: TimeUnit,
    headings: Vec<String>,
    channels: Vec<Channel>,
    labels: Vec<LabelColumn>,
    rows: u64,
    first_ns: i64,
    last_ns: i64,
}

impl Recording {
    /// Scans a file. Every row is checked, so that a fault is found before anything is sent.
    pub fn open(path: &Path, options: &RecordingOptions) -> Result<Self, RecordingError> {
        let mut scan = Scan::begin(path, options)?;
        let mut record = Record::default();
        while scan.reader.next(&mut record)? {
            scan.row(&record)?;
        }
        scan.end(options)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The device that the recording is replayed as.
    pub fn device(&self) -> &str {
        &self.device
    }

    pub fn stream(&self) -> &str {
        &self.stream
    }

    pub fn channels(&self) -> &[Channel] {
        &self.channels
    }

    pub fn labels(&self) -> &[LabelColumn] {
        &self.labels
    }

    pub fn row_count(&self) -> u64 {
        self.rows
    }

    /// The first stamp of the file, in nanoseconds.
    pub fn first_ns(&self) -> i64 {
        self.first_ns
    }

    /// The last stamp of the file, in nanoseconds.
    pub fn last_ns(&self) -> i64 {
        self.last_ns
    }

    /// The mean rate, in samples a second, if time passes at all.
    #[allow(clippy::cast_precision_loss)]
    pub fn mean_rate_hz(&self) -> Option<f64> {
        let span_s = (self.last_ns - self.first_ns) as f64 / 1e9;
        (span_s > 0.0).then(|| (self.rows - 1) as f64 / span_s)
    }

    /// The rows from the beginning.
    pub fn rows(&self) -> Result<Rows<'_>, RecordingError> {
        let mut reader = Reader::open(&self.path)?;
        let mut record = Record::default();
        if !reader.next(&mut record)? || !record.fields().eq(self.headings.iter()) {
            return Err(RecordingError::Changed {
                path: self.path.clone(),
                line: record.line(),
            });
        }
        Ok(Rows {
            recording: self,
            reader,
            record,
            previous_labels: vec![None; self.labels.len()],
            read: 0,
        })
    }
}

/// The rows of a recording in the order of the file.
#[derive(Debug)]
pub struct Rows<'a> {
    recording: &'a Recording,
    reader: Reader,
    record: Record,
    previous_labels: Vec<Option<String>>,
    read: u64,
}

impl Rows<'_> {
    /// Reads the next row into `row`; false at the end.
    pub fn next(&mut self, row: &mut Row) -> Result<bool, RecordingError> {
        let recording = self.recording;
        let changed = |line| RecordingError::Changed {
            path: recording.path.clone(),
            line,
        };
        if !self.reader.next(&mut self.record)? {
            return if self.read == recording.rows {
                Ok(false)
            } else {
                Err(changed(self.record.line()))
            };
        }
        let record = &self.record;
        let line = record.line();
        if self.read == recording.rows || record.len() != recording.headings.len() {
            return Err(changed(line));
        }
        self.read += 1;
        row.line = line;
        row.time_ns =
            nanoseconds(record.field(recording.time_column), recording.time_unit).ok_or(changed(line))?;
        row.values.clear();
        for channel in &recording.channels {
            let value = number(record.field(channel.column)).ok_or_else(|| changed(line))?;
            if channel.kind == ChannelType::F32 && !is_f32(value) {
                return Err(changed(line));
            }
            row.values.push(value);
        }
        row.changed_labels.clear();
        for (at, label) in recording.labels.iter().enumerate() {
            let text = record.field(label.column);
            if self.previous_labels[at].as_deref() != Some(text) {
                self.previous_labels[at] = Some(text.to_owned());
                row.changed_labels.push((at, text.to_owned()));
            }
        }
        Ok(true)
    }
}

/// Records with the path in their errors.
#[derive(Debug)]
struct Reader {
    path: PathBuf,
    records: Records<BufReader<File>>,
}

impl Reader {
    fn open(path: &Path) -> Result<Self, RecordingError> {
        let file = File::open(path).map_err(|source| RecordingError::Io {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            path: path.to_owned(),
            records: Records::new(BufReader::with_capacity(1 << 16, file)),
        })
    }

    fn next(&mut self, record: &mut Record) -> Result<bool, RecordingError> {
        self.records.next(record).map_err(|source| match source {
            RecordError::Io(source) => RecordingError::Io {
                path: self.path.clone(),
                source,
            },
            source => RecordingError::Record {
                path: self.path.clone(),
                source,
            },
        })
    }
}

/// The first pass.
struct Scan {
    reader: Reader,
    headings: Vec<String>,
    time_column: usize,
    time_unit: Option<TimeUnit>,
    columns: Vec<ColumnGuess>,
    rows: u64,
    first_ns: i64,
    last_ns: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ColumnGuess {
    Unseen,
    Number(ChannelType),
    Text,
}

impl Scan {
    fn begin(path: &Path, options: &RecordingOptions) -> Result<Self, RecordingError> {
        let mut reader = Reader::open(path)?;
        let mut header = Record::default();
        if !reader.next(&mut header)? {
            return Err(RecordingError::Empty {
                path: path.to_owned(),
            });
        }
        let headings: Vec<String> = header.fields().map(str::to_owned).collect();
        let found = match &options.time_column {
            Some(name) => headings
                .iter()
                .position(|heading| {
                    heading == name || Heading::parse(heading).name.eq_ignore_ascii_case(name)
                })
                .map(|at| {
                    (
                        at,
                        columns::find_time_column(std::iter::once(headings[at].as_str())).and_then(|it| it.1),
                    )
                }),
            None => columns::find_time_column(headings.iter().map(String::as_str)),
        };
        let Some((time_column, stated_unit)) = found else {
            return Err(RecordingError::NoTimeColumn {
                path: path.to_owned(),
                headings: headings.join(", "),
            });
        };
        if headings.len() < 2 {
            return Err(RecordingError::NoChannels {
                path: path.to_owned(),
            });
        }
        let columns = vec![ColumnGuess::Unseen; headings.len()];
        let time_unit = options.time_unit.or(stated_unit);
        Ok(Self {
            reader,
            headings,
            time_column,
            time_unit,
            columns,
            rows: 0,
            first_ns: 0,
            last_ns: 0,
        })
    }

    fn row(&mut self, record: &Record) -> Result<(), RecordingError> {
        if record.len() != self.headings.len() {
            return Err(RecordingError::FieldCount {
                path: self.reader.path.clone(),
                line: record.line(),
                expected: self.headings.len(),
                found: record.len(),
            });
        }
        for column in 0..record.len() {
            let text = record.field(column);
            let read = if column == self.time_column {
                self.time(text)
            } else {
                self.field(column, text)
            };
            read.map_err(|fault| RecordingError::Field {
                path: self.reader.path.clone(),
                line: record.line(),
                column: column + 1,
                heading: self.headings[column].clone(),
                fault,
            })?;
        }
        self.rows += 1;
        Ok(())
    }

    fn time(&mut self, text: &str) -> Result<(), FieldFault> {
        let fault = || FieldFault::NotATime { found: shown(text) };
        let unit = match self.time_unit {
            Some(unit) => unit,
            None => TimeUnit::from_magnitude(text.trim().parse().map_err(|_| fault())?),
        };
        let time_ns = nanoseconds(text, unit).ok_or_else(fault)?;
        self.time_unit = Some(unit);
        if self.rows == 0 {
            self.first_ns = time_ns;
        } else if time_ns < self.last_ns {
            return Err(FieldFault::TimeGoesBack {
                from_ns: self.last_ns,
                to_ns: time_ns,
            });
        }
        self.last_ns = time_ns;
        Ok(())
    }

    /// The first field that is not empty decides whether a column holds numbers or text.
    fn field(&mut self, column: usize, text: &str) -> Result<(), FieldFault> {
        let guess = &mut self.columns[column];
        match (*guess, number(text)) {
            (ColumnGuess::Unseen, _) if text.trim().is_empty() => {}
            (ColumnGuess::Unseen, Some(value)) => *guess = ColumnGuess::Number(narrowest(value)),
            (ColumnGuess::Number(ChannelType::F32), Some(value)) => {
                *guess = ColumnGuess::Number(narrowest(value))
            }
            (ColumnGuess::Number(ChannelType::F64), Some(_)) => {}
            (ColumnGuess::Number(_), None) => return Err(FieldFault::NotANumber { found: shown(text) }),
            (ColumnGuess::Unseen, None) => *guess = ColumnGuess::Text,
            (ColumnGuess::Text, _) => {}
        }
        if *guess == ColumnGuess::Text && text.len() > TEXT_BYTES_MAX {
            return Err(FieldFault::TextTooLong {
                found: text.len(),
                limit: TEXT_BYTES_MAX,
            });
        }
        Ok(())
    }

    fn end(self, options: &RecordingOptions) -> Result<Recording, RecordingError> {
        let path = self.reader.path;
        if self.rows == 0 {
            return Err(RecordingError::NoRows { path });
        }
        let (mut channels, mut labels, mut names) = (Vec::new(), Vec::new(), Vec::new());
        for (column, guess) in self
            .columns
            .iter()
            .enumerate()
            .filter(|(column, _)| *column != self.time_column)
        {
            let text = &self.headings[column];
            let heading = Heading::parse(text);
            let name = columns::fit_name(heading.name, &names);
            names.push(name.clone());
            let kind = match guess {
                ColumnGuess::Text => {
                    labels.push(LabelColumn {
                        heading: text.clone(),
                        name,
                        column,
                    });
                    continue;
                }
                ColumnGuess::Number(kind) => *kind,
                ColumnGuess::Unseen => ChannelType::F32,
            };
            channels.push(Channel {
                heading: text.clone(),
                name,
                unit: columns::unit_code(&heading),
                kind,
                column,
            });
        }
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let device = options
            .device
            .clone()
            .unwrap_or_else(|| columns::fit_device_name(&stem));
        let default_stream = columns::stream_name(&names);
        Ok(Recording {
            device,
            stream: options
                .stream
                .clone()
                .unwrap_or_else(|| default_stream.to_owned()),
            time_column: self.time_column,
            time_unit: self.time_unit.expect("the first row settled the unit"),
            headings: self.headings,
            channels,
            labels,
            rows: self.rows,
            first_ns: self.first_ns,
            last_ns: self.last_ns,
            path,
        })
    }
}

fn number(text: &str) -> Option<f64> {
    let text = text.trim();
    if text.is_empty() {
        Some(f64::NAN)
    } else {
        text.parse().ok()
    }
}

fn narrowest(value: f64) -> ChannelType {
    if is_f32(value) {
        ChannelType::F32
    } else {
        ChannelType::F64
    }
}

#[allow(clippy::cast_possible_truncation, clippy::float_cmp)]
fn is_f32(value: f64) -> bool {
    value.is_nan() || f64::from(value as f32) == value
}

/// At most the first 40 characters of a text, for a message.
fn shown(text: &str) -> String {
    text.chars().take(40).collect()
}

/// A label becomes the text of an event.
const TEXT_BYTES_MAX: usize = marey_format::limits::LABEL_BYTES_MAX;

#[cfg(test)]
#[path = "recording_tests.rs"]
mod tests;
