//! `marey doctor`: whether this machine and this hub are fit to record, one line each, with what to do.
//!
//! Owns: the list of checks, and how they are shown. Each file below owns what it looks at. Nothing is changed; what is
//! measured is written into a folder that is removed again, and only where no hub runs.
//!
//! Levels: `ok`; `warn`, recording works and something could be better or can't be known; `fail`, recording does not work or
//! what was recorded is in danger. Exit 1 on any `fail`.

mod certificates;
mod encryption;
mod folder;
mod ground;
mod machine;
mod ports;
pub mod running;

use crate::commands::config;
use crate::hubdir;
use crate::output::{Failure, Output, Result, plain};
use marey_server::HubConfig;
use running::Running;
use serde::Serialize;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Leaves out how long a sync takes, which is measured for a second where no hub runs.
    #[arg(long)]
    no_measure: bool,
}

/// All that was looked at.
#[derive(Debug, Serialize)]
pub struct Report {
    pub dir: PathBuf,
    pub version: &'static str,
    pub verdict: Level,
    pub checks: Vec<Check>,
}

/// One line.
#[derive(Debug, Serialize)]
pub struct Check {
    /// What was looked at, one word: `disk`, `clock`, `ports` ...
    pub area: &'static str,
    pub level: Level,
    pub what: String,
    /// What to do; none where nothing is to be done.
    #[serde(rename = "do")]
    pub remedy: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Ok,
    Warn,
    Fail,
}

impl Check {
    pub fn ok(area: &'static str, what: impl Into<String>) -> Self {
        Self {
            area,
            level: Level::Ok,
            what: what.into(),
            remedy: None,
        }
    }

    pub fn warn(area: &'static str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            area,
            level: Level::Warn,
            what: what.into(),
            remedy: Some(remedy.into()),
        }
    }

    pub fn fail(area: &'static str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            level: Level::Fail,
            ..Self::warn(area, what, remedy)
        }
    }
}

pub fn run(arguments: Arguments, dir: Option<PathBuf>, output: &Output) -> Result {
    let dir = hubdir::find(dir)?;
    let report = examine(&dir, !arguments.no_measure, &|what| {
        output.progress(format!("looking at {what}"));
    });
    output.progress_done();
    output.result(&report, show)?;
    let fails = report.checks.iter().filter(|check| check.level == Level::Fail);
    match fails.count() {
        0 => Ok(()),
        1 => Err(Failure::fault("1 fault")),
        count => Err(Failure::fault(format!("{count} faults"))),
    }
}

/// Looks at everything.
pub fn examine(dir: &Path, measures: bool, tell: &dyn Fn(&str)) -> Report {
    let mut checks = Vec::new();
    tell("the configuration");
    let config = match HubConfig::load(dir, &hubdir::overrides()) {
        Ok(config) => {
            let checked = config::check(dir);
            checks.extend(
                checked
                    .warnings
                    .into_iter()
                    .map(|what| Check::warn("config", what, "see `marey config check`")),
            );
            checks.extend(
                checked
                    .faults
                    .iter()
                    .map(|what| Check::fail("config", what, "mend it; `marey config check` looks again")),
            );
            if checked.faults.is_empty() {
                checks.push(Check::ok("config", "hub.toml is well"));
            }
            config
        }
        Err(error) => {
            let what = error.to_string();
            checks.push(Check::fail(
                "config",
                what,
                "mend it; the rest is judged by the defaults",
            ));
            HubConfig::default()
        }
    };
    tell("the hub");
    let running = Running::look(dir);
    checks.extend(running::judge(running.as_ref()));
    tell("permissions");
    checks.extend(folder::judge(dir));
    tell("the disk");
    checks.extend(ground::judge(dir, &config, running.as_ref(), measures));
    tell("the clock");
    checks.push(machine::clock());
    checks.push(machine::descriptors(&config, running.as_ref()));
    tell("certificates");
    checks.extend(certificates::judge(dir, running.is_some()));
    tell("ports");
    checks.extend(ports::judge(&config.listen, running.as_ref()));
    let verdict = checks.iter().map(|check| check.level).max();
    Report {
        dir: dir.to_owned(),
        version: env!("CARGO_PKG_VERSION"),
        verdict: verdict.unwrap_or(Level::Ok),
        checks,
    }
}

/// For people.
pub fn show(report: &Report) -> String {
    let width = report
        .checks
        .iter()
        .map(|check| check.area.len())
        .max()
        .unwrap_or(0);
    let mut lines = Vec::new();
    for check in &report.checks {
        let level = match check.level {
            Level::Ok => "ok  ",
            Level::Warn => "warn",
            Level::Fail => "FAIL",
        };
        lines.push(format!("{level}  {:<width$}  {}", check.area, plain(&check.what)));
        if let Some(remedy) = &check.remedy {
            lines.push(format!("      {:<width$}  -> {}", "", plain(remedy)));
        }
    }
    lines.join("\n")
}
