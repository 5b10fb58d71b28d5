//! `marey audit show|verify`: who did what to a hub. Reads the log's files, whether or not a hub runs, and changes nothing.

use crate::hubdir;
use crate::output::{Failure, Output, Result};
use crate::when;
use clap::builder::NonEmptyStringValueParser;
use marey_engine::audit::{self, AuditChecked, AuditFault, AuditFaultKind};
use marey_engine::disk::OsDisk;
use marey_engine::salvage::verify_audit;
use marey_engine::{AuditFilter, AuditRecord, Store};
use marey_server::config::CONFIG_FILE;
use marey_server::control::ControlClient;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// The records, the oldest first; with --json one object a line.
    Show {
        /// Not before: 1h, 2d, or the beginning of a time in UTC, such as 2026-11-21.
        #[arg(long, value_name = "TIME", value_parser = when::since)]
        since: Option<String>,
        /// Of whom: `user:ada`, with her API keys; `device:phone`, whatever its certificate; `uid:1000`.
        #[arg(long, value_parser = NonEmptyStringValueParser::new())]
        actor: Option<String>,
        /// What: `device.revoke`, or `device` for all that was done to devices.
        #[arg(long, value_parser = NonEmptyStringValueParser::new())]
        action: Option<String>,
    },
    /// Reads the whole log, and holds it against itself and against every receipt; exit 1 if a byte is not as it was written.
    Verify,
}

pub fn run(arguments: Arguments, dir: Option<PathBuf>, output: &Output) -> Result {
    let dir = hubdir::find(dir)?;
    match arguments.verb {
        Verb::Show { since, actor, action } => {
            let filter = AuditFilter {
                from: since,
                actor,
                action,
            };
            show(&dir, &filter, output)
        }
        Verb::Verify => verify(&dir, output),
    }
}

fn show(dir: &Path, filter: &AuditFilter, output: &Output) -> Result {
    let mut printed = Ok(());
    audit::read(&OsDisk::new(dir), 1, &mut |record| {
        if filter.takes(&record) {
            printed = line(&record, output).and_then(|line| output.line(&line));
        }
        match printed {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    })?;
    printed
}

fn line(record: &AuditRecord, output: &Output) -> Result<String> {
    if output.is_json() {
        return Ok(serde_json::to_string(record)?);
    }
    let details = match record.details.is_empty() {
        true => String::new(),
        false => format!("  {}", serde_json::to_string(&record.details)?),
    };
    Ok(format!(
        "{:>6}  {}  {:<7}  {}  {}  {}{details}",
        record.seq,
        record.utc,
        record.outcome,
        record.actor,
        record.action,
        record.object.as_deref().unwrap_or("-"),
    ))
}

fn verify(dir: &Path, output: &Output) -> Result {
    let disk = OsDisk::new(dir);
    let live = ControlClient::connect(dir).is_ok();
    let mut checked = verify_audit(&disk, Some(Store::read_hub_id(&disk)?), live)?;
    // A hub that was made for people has a first user, and with her the log's first record.
    if checked.records == 0 && checked.faults.is_empty() && dir.join(CONFIG_FILE).is_file() {
        checked.faults.push(AuditFault {
            kind: AuditFaultKind::Head,
            file: dir.join("audit"),
            line: None,
            offset: None,
            bytes: None,
            cause: "no record is here, and a hub's log begins when the hub is made".to_owned(),
        });
    }
    output.result(&checked, checked_text)?;
    match checked.faults.len() {
        0 => Ok(()),
        1 => Err(Failure::fault(WHAT_NOW)),
        faults => Err(Failure::fault(format!(
            "{faults} faults; the first counts: {WHAT_NOW}"
        ))),
    }
}

fn checked_text(checked: &AuditChecked) -> String {
    let mut lines: Vec<String> = checked.faults.iter().map(ToString::to_string).collect();
    lines.extend(checked.notes.iter().map(|note| format!("note: {note}")));
    lines.push(format!(
        "{} records in {} files ({} bytes), held against {} receipts",
        checked.records, checked.files, checked.bytes, checked.heads_held
    ));
    if let Some(head) = &checked.head {
        lines.push(format!(
            "the newest: {} {}; keep it elsewhere: what is cut after the newest receipt shows by it alone",
            head.seq,
            marey_format::types::hex(&head.hash)
        ));
    }
    if checked.faults.is_empty() {
        lines.push("nothing is wrong".to_owned());
    }
    lines.join("\n")
}

const WHAT_NOW: &str = "the audit log is not as it was written; copy `audit/` and the receipts away before anything else, and \
                        compare with the newest backup";
