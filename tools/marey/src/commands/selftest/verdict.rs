//! What measurements and surroundings say about a disk, as far as they can: faults, doubts, and what to keep in mind.
//!
//! Pure. A time can raise a doubt and never prove anything: a cache with a battery answers as fast as one that forgets.
//!
//! Where the bounds come from. A platter: at 15,000 turns a minute, the fastest that were sold, a turn takes 60 s /
//! 15,000 = 4 ms, and a synced write beside the last one waits for most of a turn. Flash: programming a page takes some
//! hundred microseconds (tPROG in the data sheets of NAND chips), so that a faster sync was answered by a memory in
//! front of the flash. Any device: a command crosses the bus and comes back in about ten microseconds at best.

use super::measure::{LARGE_BYTES, Measured, SMALL_BYTES, Timing, What};
use super::surroundings::{Kind, Surroundings};
use crate::output::table;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// What is said of a disk.
#[derive(Debug, Serialize)]
pub struct Report {
    pub folder: PathBuf,
    pub verdict: Level,
    pub findings: Vec<Finding>,
    pub surroundings: Surroundings,
    pub measured: Measured,
}

#[derive(Debug, Serialize, PartialEq)]
pub struct Finding {
    pub level: Level,
    pub what: String,
    /// How one comes to think so.
    pub why: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Nothing speaks against it.
    Well,
    /// Can be so or so; only pulling the plug tells.
    Doubt,
    /// Acknowledged data would be lost, or a hub could not work here.
    Fault,
}

/// Below this, a turn of a platter can't have been waited for.
const PLATTER_US: f64 = 1_000.0;
/// Below this, a page of flash can't have been programmed.
const FLASH_US: f64 = 100.0;
/// Below this, no device was asked.
const DEVICE_US: f64 = 10.0;
/// A sync that costs less than so many unsynced writes did next to nothing.
const SYNC_COSTS: f64 = 3.0;
/// Free bytes below which a hub soon comes to its floor.
const ROOM_BYTES: u64 = 4 << 30;

impl Report {
    pub fn faults(&self) -> usize {
        let faults = self.findings.iter();
        faults.filter(|finding| finding.level == Level::Fault).count()
    }
}

pub fn judge(folder: &Path, surroundings: Surroundings, measured: Measured) -> Report {
    let mut findings = file_system(&surroundings);
    findings.extend(latency(&surroundings, &measured.timings));
    findings.extend(measured.names.iter().filter_map(|(what, error)| {
        Some(Finding {
            level: Level::Fault,
            what: format!("this file system can't {what}: {}", error.as_ref()?),
            why: "a hub publishes its files that way".to_owned(),
        })
    }));
    if surroundings.free_bytes < ROOM_BYTES {
        findings.push(Finding {
            level: Level::Doubt,
            what: format!("only {} MiB are free", surroundings.free_bytes >> 20),
            why: "a hub takes nothing in below its floor, which is 2 % of the disk and 512 MiB at least"
                .to_owned(),
        });
    }
    let verdict = findings.iter().map(|finding| finding.level).max();
    Report {
        folder: folder.to_owned(),
        verdict: verdict.unwrap_or(Level::Well),
        findings,
        surroundings,
        measured,
    }
}

pub fn file_system(surroundings: &Surroundings) -> Vec<Finding> {
    let of = &surroundings.file_system;
    let mut findings = Vec::new();
    let mut find = |level, what: String, why: &str| {
        findings.push(Finding {
            level,
            what,
            why: why.to_owned(),
        });
    };
    match of.kind {
        Kind::Memory => find(
            Level::Fault,
            format!("{} is memory", of.name),
            "everything here is gone with the power",
        ),
        Kind::Layer => find(
            Level::Doubt,
            format!("{} is a layer of a container", of.name),
            "it may be gone with the container; record into a volume",
        ),
        Kind::Remote => find(
            Level::Doubt,
            format!("{} hands everything to another machine or program", of.name),
            "that one decides what a sync means; a hub belongs on a disk of its own machine",
        ),
        Kind::Plain => find(
            Level::Doubt,
            format!("{} keeps no journal", of.name),
            "a power cut can harm the file system itself, and names are not changed in one step; prefer ext4, xfs or btrfs",
        ),
        Kind::Unknown => find(
            Level::Doubt,
            format!("{} is none that is known here", of.name),
            "nothing can be said of what it makes of a sync",
        ),
        Kind::Journaled => {}
    }
    let is_off = |option: &&String| matches!(option.as_str(), "nobarrier" | "barrier=0" | "sync=disabled");
    if let Some(option) = of.options.iter().find(is_off) {
        find(
            Level::Fault,
            format!("it is mounted with {option}"),
            "the disk is never told to flush; mount it without",
        );
    }
    if of.name.starts_with("ext") && of.options.iter().any(|option| option == "data=writeback") {
        find(
            Level::Doubt,
            "it is mounted with data=writeback".to_owned(),
            "after a power cut a file may hold bytes that were never written to it; the default is safer",
        );
    }
    if surroundings
        .device
        .as_ref()
        .is_some_and(|device| device.is_memory)
    {
        find(
            Level::Fault,
            "the device is a piece of memory".to_owned(),
            "everything here is gone with the power, unless it is a persistent one",
        );
    }
    findings
}

pub fn latency(surroundings: &Surroundings, timings: &[Timing]) -> Vec<Finding> {
    if surroundings.file_system.kind == Kind::Memory {
        return Vec::new();
    }
    let find = |bytes, synced| {
        timings
            .iter()
            .find(|timing| timing.what == What::InPlace && timing.bytes == bytes && timing.synced == synced)
    };
    let (Some(plain), Some(synced)) = (find(SMALL_BYTES, false), find(SMALL_BYTES, true)) else {
        return Vec::new();
    };
    let (plain_us, synced_us) = (plain.median_us, synced.median_us);
    let device = surroundings.device.as_ref();
    let mut findings = Vec::new();
    let mut doubt = |what: String, why: String| {
        findings.push(Finding {
            level: Level::Doubt,
            what,
            why,
        });
    };
    let said = format!("a synced write of 4 KiB takes {synced_us:.0} us");
    if synced_us < DEVICE_US || synced_us < SYNC_COSTS * plain_us {
        doubt(
            format!("{said}, one without a sync {plain_us:.0} us: too good to be true"),
            "a sync that asked a device takes many times as long as a write into memory; something on the way says yes \
             without doing it"
                .to_owned(),
        );
    } else if device.is_some_and(|device| device.rotational == Some(true) && !device.is_virtual) {
        if synced_us < PLATTER_US {
            doubt(
                format!("{said}, and the device says that it has platters"),
                "at 15,000 turns a minute a turn takes 4,000 us, and such a write waits for most of one; so a cache \
                 answered, which is well if it has a battery, and loses data if not"
                    .to_owned(),
            );
        }
    } else if synced_us < FLASH_US {
        doubt(
            format!("{said}: faster than flash is written"),
            "programming a page of flash takes some hundred microseconds; so a memory answered, which is well if the \
             drive guards it against power loss (its data sheet says so), and loses data if not"
                .to_owned(),
        );
    }
    if let Some(device) = device {
        if device.write_cache.as_deref() == Some("write through") {
            doubt(
                format!("{} says that it needs no flushes (write through)", device.name),
                "the kernel sends it none; right where it has no cache or guards it, wrong where a controller, a virtual \
                 machine or somebody's setting hides one"
                    .to_owned(),
            );
        }
        if device.is_virtual {
            doubt(
                format!("{} is a virtual device", device.name),
                "whether a sync reaches a disk is decided beneath, where it can't be seen from here"
                    .to_owned(),
            );
        }
    }
    findings
}

pub fn show(report: &Report) -> String {
    let around = &report.surroundings;
    let device = around.device.as_ref().map_or("no device".to_owned(), |device| {
        let turns = match device.rotational {
            Some(true) => ", with platters",
            Some(false) => ", without platters",
            None => "",
        };
        let model = device
            .model
            .as_ref()
            .map_or(String::new(), |model| format!(" ({model})"));
        let cache = device
            .write_cache
            .as_ref()
            .map_or(String::new(), |cache| format!(", {cache}"));
        format!("{}{model}{turns}{cache}", device.name)
    });
    let mut text = format!(
        "{} on {}, {device}; {} of {} MiB free\n\n",
        report.folder.display(),
        around.file_system.name,
        around.free_bytes >> 20,
        around.total_bytes >> 20
    );
    let rows: Vec<Vec<String>> = report.measured.timings.iter().map(row).collect();
    text.push_str(&table(&["", "median us", "p99 us", "times"], &rows));
    text.push_str("\n\n");
    for finding in &report.findings {
        let level = match finding.level {
            Level::Fault => "FAULT",
            Level::Doubt => "doubt",
            Level::Well => "note",
        };
        text.push_str(&format!("{level}: {}\n       {}\n", finding.what, finding.why));
    }
    text.push_str(match report.verdict {
        Level::Well => {
            "Nothing speaks against this disk. That is no proof: `--pull-the-plug` is the nearest to one that there is."
        }
        Level::Doubt => {
            "There are doubts, and no measurement can settle them: `--pull-the-plug` writes until you cut the power, and \
             `--check` says whether anything is missing."
        }
        Level::Fault => "Do not record here.",
    });
    text
}

fn row(timing: &Timing) -> Vec<String> {
    let size = match timing.bytes {
        LARGE_BYTES => "256 KiB",
        _ => "4 KiB",
    };
    let what = match (timing.what, timing.synced) {
        (What::InPlace, false) => format!("{size} written over"),
        (What::InPlace, true) => format!("{size} written over, synced"),
        (What::Appended, _) => format!("{size} appended, synced"),
        (What::NewName, _) => format!("{size} under a new name, all synced"),
    };
    // No number first: a table puts those to the right.
    vec![
        format!("a {what}"),
        format!("{:.1}", timing.median_us),
        format!("{:.1}", timing.p99_us),
        timing.count.to_string(),
    ]
}

#[cfg(test)]
mod tests;
