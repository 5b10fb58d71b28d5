//! `marey import xdf FILE`: two passes over a file, and a session that is published as a whole.
//!
//! The first pass reads heads, clock offsets and footers, the second the samples: memory is that of the offsets and of one
//! chunk. Owns the order of things and the report.

mod incoming;
mod survey;

use super::chunks::{Chunks, Damage, Next, Tag, stream_id};
use super::making::{Origin, Target, given_start, hash, open_file, session_name, unreadable, utc_ns};
use super::sender::{Sink, age_error_ns};
use crate::hubdir;
use crate::output::{Failure, Output, Result, plain, table};
use incoming::Importing;
use marey_format::types::{hex, rfc3339};
use marey_format::{DeviceId, SessionId};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use survey::{Survey, survey};

#[derive(Debug, clap::Args)]
pub struct Xdf {
    file: PathBuf,
    /// Name of the session; else that of the file.
    #[arg(long)]
    session: Option<SessionId>,
    /// When the recording began, such as 2026-11-21T08:00:00Z; else what the file says of it.
    #[arg(long, value_name = "TIME")]
    start: Option<String>,
    /// The most that any clock offset of the file may be off, in milliseconds: half of the longest round trip behind it. Times
    /// then have a bound that holds if this does.
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    offset_error: Option<f64>,
    /// The most that a device's clock may be fast or slow, in parts per million.
    #[arg(
        long,
        value_name = "PPM",
        default_value_t = 100.0,
        allow_negative_numbers = true
    )]
    max_drift_ppm: f64,
}

/// What came in and what did not.
#[derive(Debug, Serialize)]
struct Imported {
    session: SessionId,
    generation: u32,
    /// Of the file.
    sha256: String,
    /// The session's first moment.
    start: String,
    /// Who says so.
    start_from: StartFrom,
    streams: Vec<ImportedStream>,
    /// Streams that could not be had.
    streams_left_out: usize,
    /// What of the file is no recording.
    damage: Vec<Damage>,
    warnings: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum StartFrom {
    Given,
    File,
    /// Times count from 1970 as the recorder's clock did from its own beginning.
    Nobody,
}

#[derive(Debug, Serialize)]
struct ImportedStream {
    id: u32,
    name: String,
    #[serde(rename = "type")]
    content: String,
    device: DeviceId,
    stream: String,
    samples: u64,
    /// Whether its samples became events too.
    events: bool,
    /// What the file's footer counts.
    footer: Option<u64>,
    /// Lives of its clock.
    clocks: u32,
    epochs: u32,
    offsets: u64,
    stale_offsets: u64,
    stray_offsets: u64,
    /// Samples without a time, or too large for a frame: left out.
    left_out: u64,
    /// Samples of a time of its clock that no offset tells of.
    untold: u64,
}

pub fn run(arguments: &Xdf, dir: Option<PathBuf>, output: &Output) -> Result {
    let imported = import(arguments, &hubdir::find(dir)?, output)?;
    imported.warnings.iter().for_each(|warning| output.warn(warning));
    output.result(&imported, show)?;
    match imported.is_whole() {
        true => Ok(()),
        false => Err(Failure::fault(format!(
            "{} is not whole; what of it is came into session {}",
            arguments.file.display(),
            imported.session
        ))),
    }
}

/// Makes the session of a file one of the hub's.
fn import(arguments: &Xdf, dir: &Path, output: &Output) -> Result<Imported> {
    check(arguments)?;
    let path = &arguments.file;
    // Before its name is judged: what is no file needs no name.
    let mut chunks = open(path)?;
    let session = session_name(arguments.session.as_ref(), path)?;
    let target = Target::open(dir, session.clone())?;
    let sha256 = hash(path)?;
    let survey = survey(&mut chunks).map_err(|error| unreadable(path, &error))?;
    if survey.streams.is_empty() {
        let damage = survey
            .first_damage
            .iter()
            .map(|it| format!("at byte {}: {}", it.offset, it.cause));
        let more: String = survey
            .warnings
            .iter()
            .cloned()
            .chain(damage)
            .map(|warning| format!("; {warning}"))
            .collect();
        return Err(Failure::fault(format!(
            "{}: it has no stream that could be read, so nothing was imported{more}",
            path.display()
        )));
    }
    let recorder_ns = survey.first_recorder_ns();
    let (utc_ns, start_from) = start(arguments, &survey, recorder_ns)?;
    let origin = Origin {
        file: path,
        sha256,
        recorder_ns,
        utc_ns,
        max_drift_ppm: arguments.max_drift_ppm,
        metadata: BTreeMap::new(),
    };
    let feed = |to: &mut Sink<'_>| feed(arguments, (&mut chunks, &survey, &sha256), to, output);
    let ((streams, damage), sealed) = target.make(&origin, output, feed)?;
    let mut warnings = survey.warnings.clone();
    if start_from == StartFrom::Nobody {
        warnings.push(
            "the file does not say when it was recorded: times count from 1970 as the recorder's clock did; --start says when it began"
                .to_owned(),
        );
    }
    warnings.extend(streams.values().flat_map(|stream| stream.warnings()));
    Ok(Imported {
        session,
        generation: sealed.session.generation,
        sha256: hex(&sha256),
        start: rfc3339(utc_ns.div_euclid(1_000)),
        start_from,
        streams: streams.into_values().map(Importing::told).collect(),
        streams_left_out: survey.left_out.len(),
        damage,
        warnings,
    })
}

fn check(arguments: &Xdf) -> Result {
    if !(0.0..=100_000.0).contains(&arguments.max_drift_ppm) {
        let what = format!(
            "--max-drift-ppm {}: it must lie between 0 and 100000",
            arguments.max_drift_ppm
        );
        return Err(Failure::Usage(what));
    }
    match arguments.offset_error {
        Some(error_ms) if !(error_ms > 0.0 && error_ms <= 1e6) => Err(Failure::Usage(format!(
            "--offset-error {error_ms}: it must lie above 0 and be at most 1000000 ms"
        ))),
        _ => Ok(()),
    }
}

fn open(path: &Path) -> Result<Chunks<BufReader<File>>> {
    let file = open_file(path)?;
    Chunks::open(BufReader::with_capacity(1 << 20, file)).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => Failure::fault(format!("{}: {error}", path.display())),
        _ => unreadable(path, &error),
    })
}

/// When the recording began in POSIX nanoseconds, and who says so.
fn start(arguments: &Xdf, survey: &Survey, recorder_ns: i64) -> Result<(i64, StartFrom)> {
    if let Some(given) = &arguments.start {
        return Ok((given_start(given)?, StartFrom::Given));
    }
    match survey.datetime.as_deref().and_then(utc_ns) {
        Some(utc_ns) => Ok((utc_ns, StartFrom::File)),
        None => Ok((recorder_ns, StartFrom::Nobody)),
    }
}

/// What came of the file, by stream, and its damage.
type Fed<'s> = (BTreeMap<u32, Importing<'s>>, Vec<Damage>);

/// The second pass: sends what the file holds.
fn feed<'s>(
    arguments: &Xdf,
    (chunks, survey, sha256): (&mut Chunks<BufReader<File>>, &'s Survey, &[u8; 32]),
    to: &mut Sink<'_>,
    output: &Output,
) -> Result<(Fed<'s>, Option<i64>)> {
    let error_ns = arguments
        .offset_error
        .map(|error_ms| (error_ms * 1e6 + age_error_ns(arguments.max_drift_ppm)).ceil() as u64);
    let mut streams = Importing::all(survey, sha256);
    let mut damage = Vec::new();
    take_all(
        survey,
        chunks,
        &mut streams,
        (&mut *to, error_ns),
        &mut damage,
        output,
    )?;
    for stream in streams.values_mut() {
        stream.finish(to, error_ns)?;
    }
    let ends = streams
        .values()
        .filter_map(|stream| stream.until_recorder_ns)
        .max();
    Ok(((streams, damage), ends))
}

fn take_all(
    survey: &Survey,
    chunks: &mut Chunks<BufReader<File>>,
    streams: &mut BTreeMap<u32, Importing<'_>>,
    (to, error_ns): (&mut Sink<'_>, Option<u64>),
    damage: &mut Vec<Damage>,
    output: &Output,
) -> Result {
    chunks.rewind();
    let mut percent = 0;
    while let Some(next) = chunks.next()? {
        let (done, of) = chunks.progress();
        if output.is_watched() && done * 100 / of > percent {
            percent = done * 100 / of;
            output.progress(format!("{percent} % of the file"));
        }
        let (at, tag) = match next {
            Next::Chunk { at, tag } => (at, tag),
            Next::Damage(found) => {
                damage.push(found);
                continue;
            }
        };
        let content = chunks.content();
        if let (Tag::Samples, Some((id, body))) = (tag, stream_id(content))
            && let Some(stream) = streams.get_mut(&id)
        {
            stream.take(body, (&mut *to, error_ns))?;
        }
        let wrong = survey.wrong(tag, content);
        if let Some(cause) = wrong {
            chunks.look_for_boundary_in(at);
            damage.push(Damage {
                offset: at,
                bytes: chunks.progress().0 - at,
                cause,
            });
        }
    }
    Ok(())
}

impl Imported {
    fn is_whole(&self) -> bool {
        let counted = |stream: &ImportedStream| {
            stream.left_out == 0
                && stream.untold == 0
                && stream.footer.is_none_or(|footer| footer == stream.samples)
        };
        self.damage.is_empty() && self.streams_left_out == 0 && self.streams.iter().all(counted)
    }
}

fn show(imported: &Imported) -> String {
    let head = [
        "stream", "type", "device", "as", "samples", "clocks", "offsets", "stale",
    ];
    let row = |stream: &ImportedStream| {
        vec![
            plain(&stream.name),
            plain(&stream.content),
            stream.device.to_string(),
            match stream.events {
                true => format!("{}, events", stream.stream),
                false => stream.stream.clone(),
            },
            stream.samples.to_string(),
            stream.clocks.to_string(),
            stream.offsets.to_string(),
            stream.stale_offsets.to_string(),
        ]
    };
    let rows: Vec<Vec<String>> = imported.streams.iter().map(row).collect();
    let mut text = format!(
        "session {}: generation {} stands, from {}\n\n{}",
        imported.session,
        imported.generation,
        imported.start,
        table(&head, &rows)
    );
    for damage in &imported.damage {
        text += &format!(
            "\nlost: offset {}, {} bytes: {}",
            damage.offset, damage.bytes, damage.cause
        );
    }
    text
}

#[cfg(test)]
pub mod tests;
