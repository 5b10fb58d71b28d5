//! The disk: room, what kind of file system, what a sync costs, and whether it is encrypted.

use super::running::Running;
use super::{Check, encryption};
use crate::commands::selftest::measure::{self, SMALL_BYTES, What};
use crate::commands::selftest::surroundings::{self, Surroundings};
use crate::commands::selftest::verdict::{self, Finding, Level};
use marey_server::HubConfig;
use std::path::Path;

const AREA: &str = "disk";
const SYNC: &str = "sync";
/// More than this in use, and it is time to think of another disk.
const USED_PERCENT_MAX: f64 = 80.0;
/// One sync in a hundred that takes longer makes devices wait that have little memory.
const SYNC_P99_MAX_MS: f64 = 100.0;
/// How long is measured where no hub runs.
const SECONDS: f64 = 1.0;

/// Looks at what the hub's folder stands on.
pub fn judge(dir: &Path, config: &HubConfig, running: Option<&Running>, measures: bool) -> Vec<Check> {
    let folder = match std::fs::canonicalize(dir) {
        Ok(folder) => folder,
        Err(error) => {
            return vec![Check::fail(
                AREA,
                format!("{}: {error}", dir.display()),
                "look at the mount",
            )];
        }
    };
    let around = match surroundings::look(&folder) {
        Ok(around) => around,
        Err(error) => return vec![Check::fail(AREA, error.to_string(), "look at the mount")],
    };
    let mut checks = vec![room(config, &around)];
    let findings = verdict::file_system(&around);
    if findings.is_empty() {
        checks.push(Check::ok(
            AREA,
            format!("{} is fit to record on", around.file_system.name),
        ));
    }
    checks.extend(findings.into_iter().map(|finding| of_finding(AREA, finding)));
    checks.extend(sync(&folder, &around, running, measures));
    checks.push(encryption::judge(&folder, &around));
    checks
}

fn room(config: &HubConfig, around: &Surroundings) -> Check {
    let (free, total) = (around.free_bytes, around.total_bytes);
    let floor = config.disk.floor_bytes(total);
    let used_percent = 100.0 * (total.saturating_sub(free)) as f64 / total.max(1) as f64;
    let what = format!(
        "{} MiB are free of {} ({used_percent:.0} % in use); the floor is {} MiB",
        free >> 20,
        total >> 20,
        floor >> 20
    );
    const REMEDY: &str = "make room: see `marey retention run --dry-run`, or move to a larger disk";
    if free < floor {
        Check::fail(AREA, format!("{what}: nothing is taken in"), REMEDY)
    } else if free < floor.saturating_mul(2) {
        Check::warn(
            AREA,
            format!("{what}: sealing and backups stop at twice the floor"),
            REMEDY,
        )
    } else if used_percent > USED_PERCENT_MAX {
        Check::warn(AREA, what, REMEDY)
    } else {
        Check::ok(AREA, what)
    }
}

/// How long a sync takes: what the hub has seen, or else measured now.
fn sync(folder: &Path, around: &Surroundings, running: Option<&Running>, measures: bool) -> Vec<Check> {
    if let Some(hub) = running {
        let of = |share| hub.metric(&format!("marey_commit_recent_seconds{{quantile=\"{share}\"}}"));
        return match of("0.5").zip(of("0.99")) {
            Some((median, p99)) => vec![latency(
                "commits of the last minutes took",
                median * 1e3,
                p99 * 1e3,
            )],
            None => vec![Check::ok(SYNC, "the hub that runs has committed nothing of late")],
        };
    }
    if !measures {
        return Vec::new();
    }
    let measured = match measure::measure(folder, around, SECONDS, &|_| {}) {
        Ok(measured) => measured,
        Err(error) => {
            return vec![Check::fail(
                SYNC,
                error.to_string(),
                "a hub could not write here either",
            )];
        }
    };
    let small = measured
        .timings
        .iter()
        .find(|timing| timing.what == What::InPlace && timing.synced && timing.bytes == SMALL_BYTES);
    let mut checks = Vec::new();
    if let Some(timing) = small {
        checks.push(latency(
            "a synced write of 4 KiB takes",
            timing.median_us / 1e3,
            timing.p99_us / 1e3,
        ));
    }
    let findings = verdict::latency(around, &measured.timings).into_iter();
    checks.extend(findings.map(|finding| of_finding(SYNC, finding)));
    checks.extend(measured.names.iter().filter_map(|(what, error)| {
        let what = format!("this file system can't {what}: {}", error.as_ref()?);
        Some(Check::fail(
            AREA,
            what,
            "a hub publishes its files that way; use another one",
        ))
    }));
    checks
}

fn latency(what: &str, median_ms: f64, p99_ms: f64) -> Check {
    let what = format!("{what} {median_ms:.2} ms in the middle, {p99_ms:.2} ms at the 99th percentile");
    match p99_ms > SYNC_P99_MAX_MS {
        true => Check::warn(
            SYNC,
            what,
            "acks wait for it: give the hub a disk of its own, or one that is faster",
        ),
        false => Check::ok(SYNC, what),
    }
}

fn of_finding(area: &'static str, finding: Finding) -> Check {
    let Finding { level, what, why } = finding;
    match level {
        Level::Well => Check::ok(area, what),
        Level::Doubt => Check::warn(area, what, why),
        Level::Fault => Check::fail(area, what, why),
    }
}
