//! `marey selftest`: whether the ground is firm that a hub is to stand on.
//!
//! `disk DIR` measures what a sync costs and looks at what the folder stands on; with `--pull-the-plug` it writes, syncs
//! and reports to a `witness` until somebody cuts the power, and with `--check` it looks afterwards whether everything
//! that was reported is there. Only the last one can prove a disk wrong; nothing can prove one right.
//! `--url` tries a hub that was installed (`url`).
//!
//! Owns: the command, and where it may write. Does not own: measuring (`measure`), judging (`verdict`), records and
//! their check (`records`, `plug`, `check`), the witness.

mod check;
pub mod measure;
mod plug;
mod records;
pub mod surroundings;
mod url;
pub mod verdict;
mod witness;

use crate::output::{Failure, Output, Result};
use marey_server::control::ControlClient;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
pub struct Arguments {
    #[command(flatten)]
    url: url::UrlArguments,
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Whether a disk keeps what it was told to keep: measured, or proven by pulling the plug.
    Disk(DiskArguments),
    /// Notes, on another machine, what a pull-the-plug test has synced.
    Witness(WitnessArguments),
}

#[derive(Debug, clap::Args)]
struct DiskArguments {
    /// A folder on the disk. What is written there is removed again.
    folder: PathBuf,
    /// How long to measure, or to write.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    seconds: Option<f64>,
    /// Write synced records until the power goes, and report each to a witness.
    #[arg(long, requires = "witness", conflicts_with = "check")]
    pull_the_plug: bool,
    /// Where the witness listens: HOST:PORT.
    #[arg(long, value_name = "HOST:PORT", requires = "pull_the_plug")]
    witness: Option<String>,
    /// After the restart: the witness's file, or HOST:PORT where it still listens.
    #[arg(long, value_name = "FILE_OR_WITNESS", conflicts_with = "seconds")]
    check: Option<String>,
}

#[derive(Debug, clap::Args)]
struct WitnessArguments {
    /// Where to listen; use it in a network that you trust, it takes numbers from anybody.
    #[arg(long, value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Where to note what was reported; not on the disk that is tested.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub fn run(arguments: Arguments, dir: Option<PathBuf>, output: &Output) -> Result {
    match (arguments.what, &arguments.url.url) {
        (Some(What::Disk(arguments)), _) => disk(&arguments, output),
        (Some(What::Witness(arguments)), _) => witness::serve(arguments.listen, &arguments.out, output),
        (None, Some(url)) => url::run(&arguments.url, url, dir, output),
        (None, None) => Err(Failure::Usage(
            "say what to test: `disk FOLDER`, or a hub with --url https://HOST:PORT".to_owned(),
        )),
    }
}

fn disk(arguments: &DiskArguments, output: &Output) -> Result {
    let folder = std::fs::canonicalize(&arguments.folder)
        .map_err(|error| Failure::fault(format!("{}: {error}", arguments.folder.display())))?;
    if !folder.is_dir() {
        return Err(Failure::Usage(format!("{} is no folder", folder.display())));
    }
    if let Some(reported) = &arguments.check {
        return check::run(&folder, reported, output);
    }
    let hub = hub_above(&folder);
    if let (true, Some(witness)) = (arguments.pull_the_plug, &arguments.witness) {
        if let Some(hub) = hub {
            return Err(Failure::Usage(format!(
                "{} holds a hub, and no plug is pulled on that; name another folder on the same disk",
                hub.display()
            )));
        }
        return plug::run(&folder, witness, arguments.seconds, output);
    }
    if let Some(hub) = hub {
        if hub != folder {
            return Err(Failure::Usage(format!(
                "{} is part of the hub in {}; name the hub's own folder, or another one on the same disk",
                folder.display(),
                hub.display()
            )));
        }
        if ControlClient::connect(&hub).is_ok() {
            return Err(Failure::Usage(format!(
                "a hub runs in {}, and each would slow the other down; stop it first, or name another folder on the \
                 same disk",
                hub.display()
            )));
        }
    }
    let surroundings = surroundings::look(&folder)?;
    let measured = measure::measure(
        &folder,
        &surroundings,
        arguments.seconds.unwrap_or(SECONDS),
        &|what| {
            output.progress(format!("measuring: {what}"));
        },
    )?;
    output.progress_done();
    let report = verdict::judge(&folder, surroundings, measured);
    output.result(&report, verdict::show)?;
    match report.faults() {
        0 => Ok(()),
        1 => Err(Failure::fault("1 fault: do not record here")),
        faults => Err(Failure::fault(format!("{faults} faults: do not record here"))),
    }
}

/// The hub that a folder is, or is a part of.
fn hub_above(folder: &Path) -> Option<PathBuf> {
    let above = folder.ancestors();
    above
        .into_iter()
        .find(|folder| folder.join("hub.json").is_file())
        .map(Path::to_owned)
}

fn seconds(text: &str) -> std::result::Result<f64, String> {
    let seconds = text.parse().ok();
    seconds
        .filter(|seconds| (0.1..=86_400.0).contains(seconds))
        .ok_or_else(|| format!("from 0.1 to 86400 seconds, not {text:?}"))
}

/// How long to measure.
const SECONDS: f64 = 6.0;
