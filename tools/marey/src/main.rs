//! `marey`: the one binary. Each verb is a file under `commands`; what they print goes through `output`.

#![forbid(unsafe_code)]
#![allow(
    clippy::disallowed_methods,
    reason = "the command line stands outside of the hub's seams"
)]

mod bar;
mod commands;
mod hubdir;
mod output;
mod rows;

use clap::{Parser, Subcommand};
use output::Output;
use std::path::PathBuf;
use std::process::ExitCode;

/// Records phones, watches and sensor boards onto one clock, loses nothing, and gives you Parquet.
#[derive(Debug, Parser)]
#[command(
    name = "marey",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
    /// The hub's folder; else MAREY_DIR, else the nearest folder above that holds a hub.
    #[arg(long, global = true, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// One JSON object on standard output instead of text for people.
    #[arg(long, global = true)]
    json: bool,
    /// More of what happens, on standard error; twice for everything.
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Shows it all on this machine: a hub, lying clocks, a bad network, and the Parquet that comes of it.
    Demo(commands::demo::Arguments),
    /// Makes a hub in a folder.
    Init(commands::init::Arguments),
    /// Runs the hub.
    Hub(commands::hub::Arguments),
    /// Devices: who may connect.
    Device(commands::device::Arguments),
    /// Sessions: what is recorded.
    Session(commands::session::Arguments),
    /// Simulated devices against a running hub.
    Simulate(commands::simulate::Arguments),
    /// What a hub, a session or a file holds.
    Info(commands::info::Arguments),
    /// Samples, events or raw frames as text.
    Cat(commands::cat::Arguments),
    /// Reads everything and says what is wrong; exit 1 if anything is.
    Verify(commands::verify::Arguments),
    /// Salvages what is whole into another folder, and lists what is lost.
    Recover(commands::recover::Arguments),
    /// Publishes what came since the last seal.
    Compact(commands::compact::Arguments),
    /// Aligns the clocks of a session anew from its logs, and says how far its times moved.
    Realign(commands::realign::Arguments),
    /// Takes a recording that was made with something else into a session of its own.
    Import(commands::import::Arguments),
    /// Aligns clocks from evidence that was gathered elsewhere; draws those of a session, and checks them by taps.
    Clock(commands::clock::Arguments),
    /// Whether a disk is one to record on.
    Selftest(commands::selftest::Arguments),
    /// Completions for your shell.
    Completions(commands::completions::Arguments),
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are answers, all else is a mistake of usage.
            let code = if error.use_stderr() { 2 } else { 0 };
            error.print().ok();
            return ExitCode::from(code);
        }
    };
    // A file-size limit is an error of a write, not the end of the process.
    signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Default::default()).ok();
    output::start_log(arguments.verbose);
    let output = Output::new(arguments.json);
    let dir = arguments.dir;
    let result = match arguments.verb {
        Verb::Demo(verb) => commands::demo::run(verb, dir, &output),
        Verb::Init(verb) => commands::init::run(verb, dir, &output),
        Verb::Hub(verb) => commands::hub::run(verb, dir, &output),
        Verb::Device(verb) => commands::device::run(verb, dir, &output),
        Verb::Session(verb) => commands::session::run(verb, dir, &output),
        Verb::Simulate(verb) => commands::simulate::run(verb, &output),
        Verb::Info(verb) => commands::info::run(verb, dir, &output),
        Verb::Cat(verb) => commands::cat::run(verb, dir, &output),
        Verb::Verify(verb) => commands::verify::run(verb, dir, &output),
        Verb::Recover(verb) => commands::recover::run(verb, dir, &output),
        Verb::Compact(verb) => commands::compact::run(verb, dir, &output),
        Verb::Realign(verb) => commands::realign::run(verb, dir, &output),
        Verb::Import(verb) => commands::import::run(verb, dir, &output),
        Verb::Clock(verb) => commands::clock::run(verb, dir, &output),
        Verb::Selftest(verb) => commands::selftest::run(verb, &output),
        Verb::Completions(verb) => commands::completions::run(verb, &output),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output.failure(&failure);
            ExitCode::from(failure.code())
        }
    }
}

/// The command line's own definition, for completions.
fn command() -> clap::Command {
    <Arguments as clap::CommandFactory>::command()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_consistent() {
        super::command().debug_assert();
    }
}
