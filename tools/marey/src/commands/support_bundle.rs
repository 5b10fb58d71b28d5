//! `marey support-bundle`: one archive with what somebody needs who is to help.
//!
//! Owns: what goes in, and that nothing goes in that must not: every text passes `redact`, metadata of sessions (people's
//! names stand there) is left out, as are details of audit records, and no file of a recording, of `pki` or of the registry is opened at all.
//!
//! Bounds: of the log the youngest bytes up to a limit, and lines of the time that was asked for.

mod audited;
mod logs;
mod redact;

use crate::commands::doctor::{self, running::Running};
use crate::commands::{config, device};
use crate::hubdir;
use crate::output::{Failure, Output, Result};
use crate::when::duration;
use crate::written;
use flate2::Compression;
use flate2::write::GzEncoder;
use marey_server::HubConfig;
use marey_server::control::{Request, Response};
use serde::Serialize;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// How far back the log and the audit log go: 90s, 30m, 1h, 2d.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration)]
    since: Duration,
    /// The archive to make; else marey-support-NUMBER.tar.gz here.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// What was made.
#[derive(Serialize)]
struct Made {
    bundle: PathBuf,
    bytes: u64,
    files: Vec<String>,
    /// What could not be had, and why.
    missing: Vec<String>,
}

/// The texts of a bundle.
#[derive(Default)]
struct Pages {
    pages: Vec<(&'static str, String)>,
    missing: Vec<String>,
}

impl Pages {
    fn add(&mut self, name: &'static str, text: impl Into<String>) {
        self.pages.push((name, redact::clean(&text.into())));
    }

    fn add_json<T: Serialize>(&mut self, name: &'static str, value: &T) {
        match serde_json::to_string_pretty(value) {
            Ok(text) => self.add(name, text + "\n"),
            Err(error) => self.lack(name, error),
        }
    }

    fn lack(&mut self, name: &str, why: impl std::fmt::Display) {
        self.missing.push(redact::clean(&format!("{name}: {why}")));
    }
}

/// A session, without what people wrote about it.
#[derive(Serialize)]
struct SessionLine {
    session: String,
    state: String,
    generation: u32,
    devices: Option<usize>,
}

pub fn run(arguments: Arguments, dir: Option<PathBuf>, output: &Output) -> Result {
    let dir = hubdir::find(dir)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let out = arguments
        .out
        .unwrap_or_else(|| PathBuf::from(format!("marey-support-{}.tar.gz", now.as_secs())));
    written::outside("--out", &out)?;
    let pages = gather(&dir, arguments.since, now, output);
    output.progress_done();
    pack(&out, &pages, now)?;
    let made = Made {
        bytes: std::fs::metadata(&out)?.len(),
        bundle: std::path::absolute(&out)?,
        files: pages.pages.iter().map(|(name, _)| (*name).to_owned()).collect(),
        missing: pages.missing,
    };
    output.result(&made, |made| {
        let mut text = format!(
            "{} holds {} ({} KiB); secrets are masked and samples left out, but look through it before you send it",
            made.bundle.display(),
            made.files.join(", "),
            made.bytes.div_ceil(1024)
        );
        for missing in &made.missing {
            text.push_str(&format!("\nmissing: {missing}"));
        }
        text
    })
}

fn gather(dir: &Path, since: Duration, now: Duration, output: &Output) -> Pages {
    let mut pages = Pages::default();
    pages.add_json("versions.json", &versions());
    match config::shown(dir, &hubdir::overrides()) {
        Ok(shown) => pages.add_json("config.json", &shown),
        Err(error) => pages.lack("config.json", error),
    }
    output.progress("looking at everything that doctor looks at");
    let running = Running::look(dir);
    // Where no hub runs nothing is measured: the bundle is to show the disk as it was met.
    pages.add_json("doctor.json", &doctor::examine(dir, false, &|_| {}));
    match &running {
        Some(hub) => {
            pages.add_json("status.json", &hub.status);
            match &hub.metrics {
                Some(text) => pages.add("metrics.txt", text.clone()),
                None => pages.lack("metrics.txt", "the hub's page can't be read"),
            }
            match &hub.health {
                Some(text) => pages.add("health.json", text.clone()),
                None => pages.lack("health.json", "the hub's page can't be read"),
            }
        }
        None => pages.lack("status.json, metrics.txt, health.json", "no hub runs"),
    }
    match device::ask(dir, &Request::SessionList, output) {
        Ok(Response::Sessions(sessions)) => {
            let lines: Vec<_> = sessions
                .into_iter()
                .map(|session| SessionLine {
                    session: session.id.to_string(),
                    state: session.state.to_string(),
                    generation: session.generation,
                    devices: session.roster.map(|roster| roster.len()),
                })
                .collect();
            pages.add_json("sessions.json", &lines);
        }
        Ok(_) => pages.lack("sessions.json", device::other_answer()),
        Err(error) => pages.lack("sessions.json", error),
    }
    output.progress("reading the log");
    let from = now.saturating_sub(since);
    let settings = HubConfig::load(dir, &hubdir::overrides()).unwrap_or_default().log;
    match logs::of_file(&settings, dir, from) {
        Ok(Some(text)) => pages.add("hub.log", text),
        Ok(None) => {}
        Err(error) => pages.lack("hub.log", error),
    }
    match logs::of_journal(from) {
        Ok(text) => pages.add("journal.log", text),
        Err(error) => pages.lack("journal.log", error),
    }
    match audited::since(dir, from) {
        Ok(text) => pages.add("audit.jsonl", text),
        Err(error) => pages.lack("audit.jsonl", error),
    }
    let missing = pages.missing.join("\n");
    if !missing.is_empty() {
        pages.add("missing.txt", missing + "\n");
    }
    pages
}

fn versions() -> serde_json::Value {
    let read = |path: &str| {
        let text = std::fs::read_to_string(path).ok()?;
        Some(text.trim().to_owned())
    };
    let release = read("/etc/os-release").unwrap_or_default();
    let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    serde_json::json!({
        "marey": env!("CARGO_PKG_VERSION"),
        "system": name.map(|name| name.trim_matches('"')),
        "kernel": read("/proc/sys/kernel/osrelease"),
        "architecture": std::env::consts::ARCH,
        "processors": std::thread::available_parallelism().map(usize::from).ok(),
    })
}

/// Writes the archive, which nobody else may read, and never over a file that is there.
fn pack(out: &Path, pages: &Pages, now: Duration) -> Result {
    let at = |error: std::io::Error| Failure::fault(format!("{}: {error}", out.display()));
    if out.exists() {
        let there = out.display();
        return Err(Failure::Usage(format!(
            "{there} is there already; name a new one"
        )));
    }
    // Aside, so that a full disk leaves none that looks like one; a temporary file is its owner's alone.
    let folder = out.parent().filter(|folder| *folder != Path::new(""));
    let aside = tempfile::Builder::new()
        .prefix(".marey-")
        .suffix(".tmp")
        .tempfile_in(folder.unwrap_or(Path::new(".")));
    let mut aside = aside.map_err(at)?;
    let mut archive = tar::Builder::new(GzEncoder::new(aside.as_file_mut(), Compression::default()));
    for (name, text) in &pages.pages {
        let mut head = tar::Header::new_gnu();
        head.set_size(text.len() as u64);
        head.set_mode(0o600);
        head.set_mtime(now.as_secs());
        archive
            .append_data(&mut head, format!("marey-support/{name}"), text.as_bytes())
            .map_err(at)?;
    }
    let file = archive.into_inner().and_then(GzEncoder::finish).map_err(at)?;
    file.flush().map_err(at)?;
    file.sync_all().map_err(at)?;
    aside
        .persist_noclobber(out)
        .map(drop)
        .map_err(|error| at(error.error))
}
