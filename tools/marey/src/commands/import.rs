//! `marey import xdf FILE`, `marey import csv FILE`, `marey import mcap FILE`: takes a recording that was made with something else into a session of its own.
//!
//! The session is made beside the others in a folder of its own, as a hub of one session whose clock is the recorder's; it is
//! published there, and becomes one of the hub's by one rename (`making`). An import that is cut short leaves nothing but that
//! folder, which the next one of that session removes.

mod bad;
mod chunks;
mod csv;
mod header;
mod lives;
mod making;
mod mcap;
mod sender;
mod xdf;

pub use header::Format as XdfFormat;

use crate::output::{Output, Result};
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// A file of LabRecorder's: its streams, markers, units and clock offsets.
    ///
    /// Each stream becomes a device, named as the stream is, since each has a clock of its own; its samples become a stream
    /// named by their type. Samples of one text are markers, and become events as well. Clocks are aligned by the file's
    /// offsets, each of which was about 1.256 s old when LabRecorder wrote it down; an offset that is told again is left out.
    /// XDF keeps no round trips, so times have no bound unless --offset-error says how far off an offset may be. What is
    /// damaged in the file is named, and what is whole around it comes in: then the exit is 1.
    Xdf(xdf::Xdf),
    /// A table: a row for each sample, a column of its times, headings in the first line.
    ///
    /// Times are ISO 8601, or numbers of seconds, milliseconds, microseconds or nanoseconds since 1970 or since the recording
    /// began. Units stand in the headings, in brackets: `ax [m/s2]`. Columns hold whole numbers, numbers, truths or texts, as
    /// their first value does; a missing number is NaN. Every row is looked at before anything is imported: bad ones are named
    /// by line and column, and nothing comes in unless --skip-bad-rows leaves them out.
    Csv(csv::Csv),
    /// An MCAP file of JSON messages: each topic becomes a stream of the device that its name begins with.
    ///
    /// What `marey export` wrote comes in as it was: devices, streams, types, units, events, indices of samples; of devices' own
    /// stamps and epochs the times alone. Of other files the fields are what all messages of a topic say, objects within
    /// objects flattened. The file must have an index.
    Mcap(mcap::Mcap),
}

pub fn run(arguments: Arguments, dir: Option<PathBuf>, output: &Output) -> Result {
    match arguments.verb {
        Verb::Xdf(xdf) => xdf::run(&xdf, dir, output),
        Verb::Mcap(mcap) => mcap::run(&mcap, dir, output),
        Verb::Csv(csv) => csv::run(&csv, dir, output),
    }
}
