//! `marey export SESSION`: what is published of a session, in formats that other programs open.
//!
//! Owns: the verb and its report. `recording` is what is read, `place` where it comes to stand, `cells` a value as text; each
//! format is a file of its own. `docs/formats.md` says what each keeps and loses.

mod bids;
pub mod cells;
mod csv;
pub mod disguise;
mod mcap;
mod place;
pub mod recording;
mod xdf;

pub use self::mcap::{DECLARATION, FACTS};

use crate::hubdir;
use crate::output::{Output, Result, table};
use crate::window::Edge;
use disguise::{Changes, Disguise};
use marey_engine::Options;
use marey_format::DeviceId;
use place::Place;
use recording::{Recording, Stream};
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    choice: Choice,
    /// What to write.
    #[arg(long, value_enum)]
    format: Format,
    /// The folder to make (csv, bids), or the file (mcap, xdf); nothing may stand there.
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    /// Other names and times instead of the session's own, by a file of pseudonyms; what was changed is said.
    #[arg(long, value_name = "FILE")]
    pseudonyms: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Format {
    /// A folder: a file for each stream of each device, with times in ISO 8601, and the tables beside the streams.
    Csv,
    /// One file that Foxglove and the mcap tools open: a channel of JSON messages for each stream of each device.
    Mcap,
    /// One file that pyxdf, EEGLAB and MNE open: streams of one format each, with the stamps and bounds in a stream beside.
    Xdf,
    /// A BIDS dataset: motion and physio tables with their sidecars, events, one subject and session.
    Bids,
}

/// A session, and what of it is wanted.
#[derive(Debug, clap::Args)]
pub struct Choice {
    /// A session's name, or its folder.
    session: PathBuf,
    /// One stream, as NAME or NAME@N; may be given several times. Else all.
    #[arg(long, value_name = "STREAM")]
    stream: Vec<String>,
    /// One device; may be given several times. Else all.
    #[arg(long, value_name = "NAME")]
    device: Vec<DeviceId>,
    /// From then on: seconds from the session's start, or a UTC time such as 2026-11-21T09:30:00Z.
    #[arg(long, value_name = "T", allow_hyphen_values = true)]
    from: Option<Edge>,
    /// Until then, and nothing of that moment itself.
    #[arg(long, value_name = "T", allow_hyphen_values = true)]
    to: Option<Edge>,
}

/// What was written.
#[derive(Debug, Serialize)]
struct Exported {
    session: String,
    generation: u32,
    format: Format,
    out: PathBuf,
    bytes: u64,
    streams: Vec<Written>,
    /// What a file of pseudonyms changed: no part of the export.
    #[serde(skip_serializing_if = "Option::is_none")]
    changes: Option<Changes>,
}

/// One stream of it.
#[derive(Debug, Serialize)]
struct Written {
    device: String,
    stream: String,
    rows: u64,
    /// Its file, channel or number in the export.
    at: String,
}

impl Written {
    fn of(stream: &Stream, rows: u64, at: String) -> Self {
        Self {
            device: stream.device.clone(),
            stream: stream.key.to_string(),
            rows,
            at,
        }
    }
}

pub fn run(arguments: Arguments, dir: Option<PathBuf>, output: &Output) -> Result {
    // A session's folder may stand anywhere; a hub has settings for its disk.
    let options = match hubdir::find(dir.clone()) {
        Ok(hub) => hubdir::store_options(&hub)?,
        Err(_) => Options::default(),
    };
    let disguise = match &arguments.pseudonyms {
        Some(path) => Disguise::read(path)?,
        None => Disguise::default(),
    };
    let recording = Recording::open(&arguments.choice, dir, disguise, output)?;
    recording.has_samples()?;
    let mut place = Place::new(&arguments.out, recording.source.path(), &options, interrupted()?)?;
    let streams = match arguments.format {
        Format::Csv => csv::write(&recording, &mut place),
        Format::Mcap => mcap::write(&recording, &mut place),
        Format::Bids => bids::write(&recording, &mut place),
        Format::Xdf => xdf::write(&recording, &mut place),
    };
    recording.done();
    // Also where it failed: its files go with a generation.
    recording.is_still_it()?;
    let streams = streams?;
    let exported = Exported {
        session: recording.name(),
        generation: recording.generation(),
        format: arguments.format,
        bytes: place.bytes,
        streams,
        changes: recording.changes(),
        out: arguments.out,
    };
    place.publish()?;
    output.result(&exported, show)
}

/// Set by the first signal that ends a process; the second ends it at once, and leaves what was made aside.
fn interrupted() -> Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register_conditional_shutdown(signal, 1, interrupted.clone())?;
        signal_hook::flag::register(signal, interrupted.clone())?;
    }
    Ok(interrupted)
}

/// A name for a stream of a device that is one for a file too: neither name has a dot.
fn file_name(stream: &Stream) -> String {
    format!("{}.{}", stream.key, stream.device)
}

fn show(exported: &Exported) -> String {
    let rows = exported.streams.iter().map(|stream| {
        let at = stream.at.clone();
        vec![
            stream.device.clone(),
            stream.stream.clone(),
            stream.rows.to_string(),
            at,
        ]
    });
    let changes = exported.changes.as_ref();
    let changes = changes.map_or_else(String::new, |changes| format!("\n\n{changes}"));
    format!(
        "{}: session {}, generation {}, {} bytes\n\n{}{changes}",
        exported.out.display(),
        exported.session,
        exported.generation,
        exported.bytes,
        table(&["device", "stream", "rows", "as"], &rows.collect::<Vec<_>>())
    )
}
