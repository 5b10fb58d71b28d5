//! `marey`: the one binary. Each verb is a file under `commands`; what they print goes through `output`.

#![forbid(unsafe_code)]
#![allow(
    clippy::disallowed_methods,
    reason = "the command line stands outside of the hub's seams"
)]

mod bar;
mod commands;
mod hubdir;
mod log;
mod output;
mod plain_http;
mod remote;
mod rows;
mod secret;
mod svg;
mod when;
mod window;
mod written;

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
    /// The configuration: whether it is well, and what a hub would run with.
    Config(commands::config::Arguments),
    /// Whether this machine and this hub are fit to record, and what to do where they are not; exit 1 on a fault.
    Doctor(commands::doctor::Arguments),
    /// Packs what somebody needs who is to help: log, configuration, doctor, metrics. No secrets, no samples.
    SupportBundle(commands::support_bundle::Arguments),
    /// Rules for a firewall that let devices in, and nobody else.
    Firewall(commands::firewall::Arguments),
    /// The hub's certificate authority.
    Ca(commands::ca::Arguments),
    /// Devices: who may connect.
    Device(commands::device::Arguments),
    /// Users: who may log in to the HTTP API.
    User(commands::user::Arguments),
    /// Tokens: who is logged in.
    Token(commands::token::Arguments),
    /// API keys: what scripts show instead of a password.
    Apikey(commands::apikey::Arguments),
    /// Studies: which sessions belong together, and who may see them.
    Study(commands::study::Arguments),
    /// The audit log: who did what to the hub, and whether anybody changed that.
    Audit(commands::audit::Arguments),
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
    /// What a session's receipt says: captured, durable, in Parquet, missing and why, and what it proves.
    Receipt(commands::receipt::Arguments),
    /// Of one sample: where it stands, what placed it in time, and what its bound rests on.
    Why(commands::why::Arguments),
    /// Salvages what is whole into another folder, and lists what is lost.
    Recover(commands::recover::Arguments),
    /// Copies of a hub that goes on recording; and lists, checks and prunes them.
    Backup(commands::backup::Arguments),
    /// Makes a hub of a backup, and checks it before it says yes.
    Restore(commands::restore::Arguments),
    /// One session as one file, encrypted to its study.
    Archive(commands::archive::Arguments),
    /// How long logs and backups are kept.
    Retention(commands::retention::Arguments),
    /// Sessions of which nothing may be removed.
    Hold(commands::hold::Arguments),
    /// To whom a study is encrypted away from the hub.
    Key(commands::key::Arguments),
    /// What goes on in the background of the running hub, and how far it has come.
    Jobs(commands::jobs::Arguments),
    /// Publishes what came since the last seal.
    Compact(commands::compact::Arguments),
    /// Aligns the clocks of a session anew from its logs, and says how far its times moved.
    Realign(commands::realign::Arguments),
    /// Writes what is published of a session in a format that other programs open.
    Export(commands::export::Arguments),
    /// Draws what is published of a session: each channel over time, its gaps and events.
    Plot(commands::plot::Arguments),
    /// Takes a recording that was made with something else into a session of its own.
    Import(commands::import::Arguments),
    /// Aligns clocks from evidence that was gathered elsewhere; draws those of a session, and checks them by taps.
    Clock(commands::clock::Arguments),
    /// Whether a disk is one to record on, and whether a hub that was installed holds what it must.
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
    // A hub's log is as its hub.toml has it.
    if !matches!(&arguments.verb, Verb::Hub(hub) if hub.serves()) {
        log::start(arguments.verbose);
    }
    let output = Output::new(arguments.json);
    let dir = arguments.dir;
    let result = match arguments.verb {
        Verb::Demo(verb) => commands::demo::run(verb, dir, &output),
        Verb::Init(verb) => commands::init::run(verb, dir, &output),
        Verb::Hub(verb) => commands::hub::run(verb, dir, arguments.verbose, &output),
        Verb::Config(verb) => commands::config::run(verb, dir, &output),
        Verb::Doctor(verb) => commands::doctor::run(verb, dir, &output),
        Verb::SupportBundle(verb) => commands::support_bundle::run(verb, dir, &output),
        Verb::Firewall(verb) => commands::firewall::run(verb, dir, &output),
        Verb::Ca(verb) => commands::ca::run(verb, dir, &output),
        Verb::Device(verb) => commands::device::run(verb, dir, &output),
        Verb::User(verb) => commands::user::run(verb, dir, &output),
        Verb::Token(verb) => commands::token::run(verb, dir, &output),
        Verb::Apikey(verb) => commands::apikey::run(verb, dir, &output),
        Verb::Study(verb) => commands::study::run(verb, dir, &output),
        Verb::Audit(verb) => commands::audit::run(verb, dir, &output),
        Verb::Session(verb) => commands::session::run(verb, dir, &output),
        Verb::Simulate(verb) => commands::simulate::run(verb, &output),
        Verb::Info(verb) => commands::info::run(verb, dir, &output),
        Verb::Cat(verb) => commands::cat::run(verb, dir, &output),
        Verb::Verify(verb) => commands::verify::run(verb, dir, &output),
        Verb::Receipt(verb) => commands::receipt::run(verb, dir, &output),
        Verb::Why(verb) => commands::why::run(verb, dir, &output),
        Verb::Recover(verb) => commands::recover::run(verb, dir, &output),
        Verb::Backup(verb) => commands::backup::run(verb, dir, &output),
        Verb::Restore(verb) => commands::restore::run(verb, &output),
        Verb::Archive(verb) => commands::archive::run(verb, dir, &output),
        Verb::Retention(verb) => commands::retention::run(verb, dir, &output),
        Verb::Hold(verb) => commands::hold::run(verb, dir, &output),
        Verb::Key(verb) => commands::key::run(verb, dir, &output),
        Verb::Jobs(verb) => commands::jobs::run(verb, dir, &output),
        Verb::Compact(verb) => commands::compact::run(verb, dir, &output),
        Verb::Realign(verb) => commands::realign::run(verb, dir, &output),
        Verb::Export(verb) => commands::export::run(verb, dir, &output),
        Verb::Plot(verb) => commands::plot::run(verb, dir, &output),
        Verb::Import(verb) => commands::import::run(verb, dir, &output),
        Verb::Clock(verb) => commands::clock::run(verb, dir, &output),
        Verb::Selftest(verb) => commands::selftest::run(verb, dir, &output),
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

    /// What the operations book says to type can be typed.
    #[test]
    fn the_commands_of_the_book_are_commands() {
        let book = include_str!("../../../docs/operations.md");
        let mut tried = 0;
        for (at, is_prose, line) in commands(book) {
            // What stands between quotes is one word.
            let pieces = line.split('"').enumerate();
            let whole: String = pieces
                .map(|(at, piece)| match at % 2 {
                    0 => piece.to_owned(),
                    _ => piece.replace(' ', "_"),
                })
                .collect();
            let words: Vec<&str> = whole.split_whitespace().collect();
            if let Err(error) = super::command().try_get_matches_from(words)
                // A verb that is named in a sentence may go without what it takes.
                && !(is_prose
                    && matches!(
                        error.kind(),
                        clap::error::ErrorKind::MissingRequiredArgument
                            | clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                            | clap::error::ErrorKind::InvalidValue
                    ))
            {
                panic!("docs/operations.md, line {at}: {line}\n{error}");
            }
            tried += 1;
        }
        assert!(
            tried > 30,
            "only {tried} were found: the reader of the book is broken"
        );
        for unit in [
            include_str!("../../../deploy/systemd/marey.service"),
            include_str!("../../../deploy/systemd/marey-backup.service"),
        ] {
            let calls: Vec<_> = unit
                .lines()
                .filter_map(|line| line.strip_prefix("ExecStart="))
                .collect();
            assert!(!calls.is_empty());
            for call in calls {
                let words: Vec<&str> = call.split_whitespace().collect();
                if let Err(error) = super::command().try_get_matches_from(words) {
                    panic!("{call}\n{error}");
                }
            }
        }
        let wrong: Vec<_> = commands("```sh\nmarey no-such-verb\n```\n").collect();
        assert!(
            wrong.len() == 1
                && super::command()
                    .try_get_matches_from(["marey", "no-such-verb"])
                    .is_err()
        );
    }

    /// Calls of `marey` in the shell blocks of a text, and whole ones between backticks in its prose.
    fn commands(text: &str) -> impl Iterator<Item = (usize, bool, String)> {
        let mut inside = false;
        text.lines().enumerate().flat_map(move |(at, line)| {
            let line = line.trim();
            if let Some(kind) = line.strip_prefix("```") {
                inside = kind == "sh";
                return Vec::new();
            }
            let calls: Vec<&str> = match inside {
                true => vec![line],
                false => line.split('`').skip(1).step_by(2).collect(),
            };
            let calls = calls.into_iter().filter_map(|call| {
                let call = call.strip_prefix("sudo -u marey ").unwrap_or(call);
                let call = call.split(['#', '|', '>', '&']).next().unwrap_or_default().trim();
                call.starts_with("marey ")
                    .then(|| (at + 1, !inside, call.to_owned()))
            });
            calls.collect()
        })
    }
}
