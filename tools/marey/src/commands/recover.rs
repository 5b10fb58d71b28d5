//! `marey recover [PATH] --out DIR`: salvages every whole frame into a new folder, and lists what is lost; exit 1 if
//! anything is. The source is only read.

use crate::bar::watch;
use crate::hubdir;
use crate::output::{Failure, Output, Result};
use crate::written;
use marey_engine::Options;
use marey_engine::disk::OsDisk;
use marey_engine::salvage::{RecoverReport, recover};
use marey_format::{DeviceId, SessionId};
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The folder of a hub, a session or a log, a .mlog file, or a session's name; else the hub.
    path: Option<PathBuf>,
    /// The folder to make; it must be empty or not there.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
}

pub fn run(arguments: Arguments, dir: Option<PathBuf>, output: &Output) -> Result {
    let source = hubdir::source(arguments.path.as_deref(), dir)?;
    let out = &arguments.out;
    written::outside("--out", out)?;
    let from = std::fs::canonicalize(source.path())?;
    if written::standing(&std::path::absolute(out)?).is_some_and(|to| to.starts_with(&from)) {
        let path = out.display();
        return Err(Failure::Usage(format!(
            "{path} lies inside of what is to be salvaged; name a folder elsewhere"
        )));
    }
    std::fs::create_dir_all(out)
        .map_err(|error| Failure::fault(format!("making {}: {error}", out.display())))?;
    // Where nobody watches, a line says what is being saved.
    let tell = |session: &SessionId, device: &DeviceId| {
        if !output.is_watched() {
            output.progress(format!("salvaging {session}, {device}"));
        }
    };
    let to = Arc::new(OsDisk::new(out));
    let report = watch(output, &source.progress(), || {
        recover(&source, to, &Options::default(), &tell)
    })?;
    output.result(&report, show)?;
    match report.lost.is_nothing() {
        true => Ok(()),
        false => Err(Failure::fault(format!(
            "not everything could be saved; what is whole is in {}",
            out.display()
        ))),
    }
}

fn show(report: &RecoverReport) -> String {
    let mut lines: Vec<String> = report
        .logs
        .iter()
        .map(|log| {
            format!(
                "saved: {}, {}: {} frames with {} samples ({} from the journal), {} segments",
                log.session, log.device, log.frames, log.samples, log.from_journal, log.segments
            )
        })
        .collect();
    let range = |first: u64, last: Option<u64>| match last {
        Some(last) if last == first => first.to_string(),
        Some(last) => format!("{first} to {last}"),
        None => format!("{first} and maybe more"),
    };
    let sure = |certain| if certain { "lost" } else { "maybe lost" };
    lines.extend(report.lost.frames.iter().map(|lost| {
        let epoch = lost
            .epoch
            .map_or(String::new(), |epoch| format!(" epoch {epoch},"));
        format!(
            "{}: {}, {},{epoch} {} frames {}: {}, offset {}: {}",
            sure(lost.certain),
            lost.session,
            lost.device,
            lost.lane,
            range(lost.first, lost.last),
            lost.file.display(),
            lost.offset,
            lost.cause
        )
    }));
    lines.extend(report.lost.samples.iter().map(|lost| {
        format!(
            "{}: {}, {}, {} epoch {}, samples {}: {}, offset {}: {}",
            sure(lost.certain),
            lost.session,
            lost.device,
            lost.stream,
            lost.epoch,
            range(lost.first, lost.last),
            lost.file.display(),
            lost.offset,
            lost.cause
        )
    }));
    lines.extend(report.lost.bytes.iter().map(|lost| {
        format!(
            "lost: {}, offset {}, {} bytes: {}",
            lost.file.display(),
            lost.offset,
            lost.bytes,
            lost.cause
        )
    }));
    lines.extend(
        report
            .torn_tails
            .iter()
            .map(|fault| format!("never acknowledged: {fault}")),
    );
    lines.extend(report.notes.iter().map(|note| format!("note: {note}")));
    if report.lost.is_nothing() {
        lines.push("nothing is lost".to_owned());
    }
    lines.join("\n")
}
