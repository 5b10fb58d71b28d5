//! `marey verify [PATH]`: reads everything, changes nothing, names every fault; exit 1 if there is one.

use crate::bar::watch;
use crate::hubdir;
use crate::output::{Failure, Output, Result};
use marey_engine::disk::{Disk, OsDisk};
use marey_engine::salvage::{Source, VerifyOptions, VerifyReport, verify};
use marey_server::control::ControlClient;
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The folder of a hub, a session or a log, a .mlog file, or a session's name; else the hub.
    path: Option<PathBuf>,
    /// Make the Parquet again from the logs, and compare.
    #[arg(long)]
    rebuild: bool,
}

pub fn run(arguments: Arguments, dir: Option<PathBuf>, output: &Output) -> Result {
    let source = hubdir::source(arguments.path.as_deref(), dir)?;
    let live = is_live(&source);
    let scratch = arguments
        .rebuild
        .then(|| tempfile::Builder::new().prefix("marey-rebuild").tempdir())
        .transpose()?;
    let rebuild = scratch
        .as_ref()
        .map(|folder| Arc::new(OsDisk::new(folder.path())) as Arc<dyn Disk>);
    let options = VerifyOptions {
        live,
        rebuild,
        ..VerifyOptions::default()
    };
    // Where nobody watches, a line says what is being read.
    let tell = |what: &str| {
        if !output.is_watched() {
            output.progress(what);
        }
    };
    let report = watch(output, &source.progress(), || verify(&source, &options, &tell))?;
    output.result(&report, show)?;
    match report.faults.len() {
        0 => Ok(()),
        1 => Err(Failure::fault(
            "1 fault; `marey recover --out DIR` salvages what is whole",
        )),
        faults => Err(Failure::fault(format!(
            "{faults} faults; `marey recover --out DIR` salvages what is whole"
        ))),
    }
}

/// Whether a hub runs on what is looked at, or on what it is a part of.
fn is_live(source: &Source) -> bool {
    let hub = source
        .path()
        .ancestors()
        .find(|folder| folder.join("hub.json").is_file());
    hub.is_some_and(|folder| ControlClient::connect(folder).is_ok())
}

fn show(report: &VerifyReport) -> String {
    let checked = &report.checked;
    let mut lines: Vec<String> = report.faults.iter().map(ToString::to_string).collect();
    lines.extend(report.notes.iter().map(|note| format!("note: {note}")));
    if report.live {
        lines.push("note: a hub runs here; the end of its logs may have been seen half written".to_owned());
    }
    lines.push(format!(
        "{} sessions, {} logs, {} segments ({} sealed), {} frames, {} samples; {} Parquet files with {} rows",
        checked.sessions,
        checked.logs,
        checked.segments,
        checked.sealed_segments,
        checked.frames,
        checked.samples,
        checked.parquet_files,
        checked.parquet_rows
    ));
    if checked.rebuilt_files > 0 {
        lines.push(format!(
            "{} files were made again and compared",
            checked.rebuilt_files
        ));
    }
    if report.faults.is_empty() {
        lines.push("nothing is wrong".to_owned());
    }
    lines.join("\n")
}
