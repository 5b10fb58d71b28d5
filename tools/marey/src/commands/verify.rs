//! `marey verify [PATH]`: reads everything, changes nothing, names every fault; exit 1 if there is one.

use super::receipt;
use crate::bar::watch;
use crate::hubdir;
use crate::output::{Failure, Output, Result};
use marey_engine::Options;
use marey_engine::disk::{Disk, OsDisk};
use marey_engine::salvage::{FaultKind, Signatures, Source, VerifyOptions, VerifyReport, verify};
use marey_server::control::ControlClient;
use marey_server::pki::ReceiptTrust;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The folder of a hub, a session or a log, a .mlog file, or a session's name; else the hub.
    path: Option<PathBuf>,
    /// Make the Parquet again from the logs, and compare.
    #[arg(long)]
    rebuild: bool,
    /// Checks one receipt instead: its signature, the receipts before it, and every file that it leads to. A receipt, or a
    /// session of which the newest is meant.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["path", "rebuild"])]
    receipt: Option<PathBuf>,
    /// With --receipt: the certificate of the authority that is trusted, PEM; else those of the hub that the session stands in.
    #[arg(long, value_name = "PEM", requires = "receipt")]
    ca: Option<PathBuf>,
}

pub fn run(arguments: Arguments, dir: Option<PathBuf>, output: &Output) -> Result {
    if let Some(path) = &arguments.receipt {
        return receipt::check::run(path, arguments.ca.as_deref(), dir, output);
    }
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
        options: options_of(source.path()),
        signatures: signatures(source.path()),
    };
    // Where nobody watches, a line says what is being read.
    let tell = |what: &str| {
        if !output.is_watched() {
            output.progress(what);
        }
    };
    let report = watch(output, &source.progress(), || verify(&source, &options, &tell))?;
    output.result(&report, show)?;
    let faults = match report.faults.len() {
        0 => return Ok(()),
        1 => "1 fault".to_owned(),
        faults => format!("{faults} faults"),
    };
    Err(Failure::fault(format!("{faults}; {}", what_helps(&report))))
}

/// A receipt that was changed is one whose signature does not hold, whoever is trusted to sign.
fn signatures(path: &Path) -> Signatures {
    let trust = hub_of(path).and_then(|hub| ReceiptTrust::of_hub(hub).ok());
    let trust = trust.unwrap_or_default();
    Signatures::judged_by(move |signed| trust.judge(signed).map(drop))
}

/// As the hub has them that a folder belongs to; a mistake in its configuration is not what is looked at here.
fn options_of(path: &Path) -> Options {
    hubdir::store_options(hub_of(path).unwrap_or(path)).unwrap_or_default()
}

/// Logs that are whole give everything else again.
fn what_helps(report: &VerifyReport) -> String {
    let sessions: BTreeSet<_> = report
        .faults
        .iter()
        .filter_map(|fault| fault.session.as_ref())
        .collect();
    let is_published = report
        .faults
        .iter()
        .all(|fault| fault.kind == FaultKind::Published);
    match sessions.first().filter(|_| is_published && sessions.len() == 1) {
        Some(session) => format!("the logs are whole: `marey compact {session} --again` publishes them anew"),
        None if is_published => {
            "the logs are whole: `marey compact SESSION --again` publishes them anew".to_owned()
        }
        None => "`marey recover --out DIR` salvages what is whole".to_owned(),
    }
}

/// Whether a hub runs on what is looked at, or on what it is a part of.
fn is_live(source: &Source) -> bool {
    hub_of(source.path()).is_some_and(|folder| ControlClient::connect(folder).is_ok())
}

fn hub_of(path: &Path) -> Option<&Path> {
    path.ancestors().find(|folder| folder.join("hub.json").is_file())
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

#[cfg(test)]
mod tests {
    use super::*;
    use marey_engine::salvage::{Checked, Fault};
    use marey_format::SessionId;

    fn report(faults: &[(FaultKind, &str)]) -> VerifyReport {
        let fault = |&(kind, session): &(FaultKind, &str)| Fault {
            kind,
            session: Some(SessionId::new(session).expect("a name")),
            device: None,
            file: PathBuf::from("manifest.json"),
            offset: None,
            bytes: None,
            cause: "its bytes are others".to_owned(),
        };
        VerifyReport {
            path: PathBuf::new(),
            live: false,
            checked: Checked::default(),
            faults: faults.iter().map(fault).collect(),
            notes: Vec::new(),
        }
    }

    #[test]
    fn what_is_published_is_made_again_and_logs_are_salvaged() {
        let published = (FaultKind::Published, "walk");
        let one = what_helps(&report(&[published, published]));
        assert!(one.contains("`marey compact walk --again`"), "{one}");
        let more = what_helps(&report(&[published, (FaultKind::Published, "run")]));
        assert!(more.contains("`marey compact SESSION --again`"), "{more}");
        for kind in [FaultKind::Damage, FaultKind::Journal] {
            let mixed = what_helps(&report(&[published, (kind, "walk")]));
            assert!(mixed.contains("`marey recover --out DIR`"), "{mixed}");
        }
    }
}
