//! `marey import xdf FILE`: takes a recording that was made with something else into a session of its own.
//!
//! The session is made beside the others in a folder of its own, as a hub of one session whose clock is the recorder's; it is
//! published there, and becomes one of the hub's by one rename. An import that is cut short leaves nothing but that folder,
//! which the next one of that session removes.

mod chunks;
mod header;
mod lives;
mod sender;
mod xdf;

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
}

pub fn run(arguments: Arguments, dir: Option<PathBuf>, output: &Output) -> Result {
    match arguments.verb {
        Verb::Xdf(xdf) => xdf::run(&xdf, dir, output),
    }
}
