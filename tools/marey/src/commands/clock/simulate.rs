//! `marey clock simulate DIR`: a folder of evidence as `marey clock fit` reads it, from a simulated clock and path whose truth
//! is known.
//!
//! Owns: the verb and the files. The clock and the path are the device crate's (`simulate::stamps`).

use crate::output::{Failure, Output, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use marey_device::simulate::stamps::{Plan, Scenario, Stamps, gather};
use serde::Serialize;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub struct Simulate {
    /// The folder; it is made if it is not there. What is in it already stays, and is never written over.
    folder: PathBuf,
    /// Which clock and which path.
    #[arg(long, value_name = "NAME", value_parser = scenarios())]
    scenario: String,
    /// For how long, of simulated time.
    #[arg(long, default_value_t = 10.0, value_name = "M")]
    minutes: f64,
    /// The same seed gives the same bytes.
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// The clock stands still, and nothing tells of it: after so many seconds, for so many milliseconds (`300,1.5`). May be
    /// given more than once.
    #[arg(long, value_name = "AFTER,MS", value_parser = crate::commands::simulate::pair)]
    standstill: Vec<(f64, f64)>,
}

fn scenarios() -> clap::builder::PossibleValuesParser {
    Scenario::ALL.map(|(name, _)| name).into()
}

#[derive(Debug, Serialize)]
struct Made {
    folder: PathBuf,
    scenario: String,
    seed: u64,
    exchanges: usize,
    frames_up: usize,
    acks_down: usize,
    truth: usize,
    labrecorder_offsets: usize,
    /// Half of the least round trip: what a bound is measured by.
    half_least_round_trip_us: Option<f64>,
}

pub fn run(simulate: Simulate, output: &Output) -> Result {
    let plan = plan(&simulate)?;
    let stamps = gather(&plan).map_err(|error| Failure::Usage(error.to_string()))?;
    write(&simulate.folder, &stamps)?;
    let half_ns = stamps.half_least_round_trip_ns();
    let made = Made {
        exchanges: stamps.exchanges.len(),
        frames_up: stamps.frames_up.len(),
        acks_down: stamps.acks_down.len(),
        truth: stamps.truth.len(),
        labrecorder_offsets: stamps.peer.len(),
        half_least_round_trip_us: half_ns.map(|half_ns| half_ns as f64 / 1e3),
        folder: simulate.folder,
        scenario: simulate.scenario,
        seed: simulate.seed,
    };
    output.result(&made, |made| {
        format!(
            "{}: {} exchanges, {} frames up, {} acks down, the truth of {} moments; score it by\n  \
             marey clock fit {0} --at {}",
            made.folder.display(),
            made.exchanges,
            made.frames_up,
            made.acks_down,
            made.truth,
            made.folder.join(TRUTH).display()
        )
    })
}

fn plan(simulate: &Simulate) -> Result<Plan> {
    let scenario = Scenario::named(&simulate.scenario)
        .ok_or_else(|| Failure::Usage(format!("no scenario is named {}", simulate.scenario)))?;
    let mut plan = scenario.plan(simulate.seed, whole_ns(simulate.minutes * 60e9));
    let standstills = simulate.standstill.iter();
    plan.standstills = standstills
        .map(|&(after_s, for_ms)| (whole_ns(after_s * 1e9), whole_ns(for_ms * 1e6)))
        .collect();
    plan.standstills.sort_unstable();
    Ok(plan)
}

/// What is no number becomes none that is taken for a time.
fn whole_ns(ns: f64) -> i64 {
    if ns.is_nan() { -1 } else { ns as i64 }
}

const EXCHANGES: &str = "exchanges.csv.gz";
const FRAMES_UP: &str = "frames_up.csv.gz";
const ACKS_DOWN: &str = "acks_down.csv.gz";
const TRUTH: &str = "truth.csv.gz";
const OFFSETS: &str = "labrecorder_offsets.csv.gz";

fn write(folder: &Path, stamps: &Stamps) -> Result {
    std::fs::create_dir_all(folder)
        .map_err(|error| Failure::fault(format!("{} can't be made: {error}", folder.display())))?;
    for name in [EXCHANGES, FRAMES_UP, ACKS_DOWN, TRUTH, OFFSETS] {
        if folder.join(name).exists() {
            let what = format!(
                "{} is there already; name another folder, or remove it",
                folder.join(name).display()
            );
            return Err(Failure::fault(what));
        }
    }
    let exchanges = stamps.exchanges.iter().map(|of| {
        let boot = i64::from(of.boot);
        [
            of.hub_send_ns,
            of.dev_recv_ns,
            of.dev_send_ns,
            of.hub_recv_ns,
            boot,
        ]
    });
    let names = "t1_hub_send,t2_dev_recv,t3_dev_send,t4_hub_recv,boot_epoch";
    put(&folder.join(EXCHANGES), names, exchanges)?;
    for (name, names, packets) in [
        (FRAMES_UP, "dev_send,hub_recv,boot_epoch", &stamps.frames_up),
        (ACKS_DOWN, "hub_send,dev_recv,boot_epoch", &stamps.acks_down),
    ] {
        let rows = packets
            .iter()
            .map(|packet| [packet.sent_ns, packet.received_ns, i64::from(packet.boot)]);
        put(&folder.join(name), names, rows)?;
    }
    let truth = stamps.truth.iter();
    let truth = truth.map(|of| [of.dev_ns, of.hub_ns, i64::from(of.boot)]);
    put(&folder.join(TRUTH), "dev_time,true_hub_time,boot_epoch", truth)?;
    let offsets = stamps.peer.iter().map(|pair| [pair.time_ns, pair.offset_ns]);
    put(&folder.join(OFFSETS), "clock_time,clock_value", offsets)
}

fn put<const COLUMNS: usize>(path: &Path, names: &str, rows: impl Iterator<Item = [i64; COLUMNS]>) -> Result {
    let written = || -> std::io::Result<()> {
        let file = BufWriter::new(std::fs::File::create_new(path)?);
        let mut packed = GzEncoder::new(file, Compression::default());
        writeln!(packed, "{names}")?;
        let mut line = String::new();
        for row in rows {
            line.clear();
            for (nth, number) in row.iter().enumerate() {
                if nth > 0 {
                    line.push(',');
                }
                line.push_str(&number.to_string());
            }
            line.push('\n');
            packed.write_all(line.as_bytes())?;
        }
        packed.finish()?.flush()
    };
    written().map_err(|error| Failure::fault(format!("{} can't be written: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::super::{Fit, aligned};
    use super::*;

    fn simulate(folder: &Path, scenario: &str, seed: u64) -> Simulate {
        Simulate {
            folder: folder.to_owned(),
            scenario: scenario.to_owned(),
            minutes: 3.0,
            seed,
            standstill: Vec::new(),
        }
    }

    fn written(simulate: &Simulate) -> Result {
        let plan = plan(simulate)?;
        let stamps = gather(&plan).map_err(|error| Failure::Usage(error.to_string()))?;
        write(&simulate.folder, &stamps)
    }

    fn fit(folder: &Path, guard_steps: bool) -> Fit {
        Fit {
            evidence: folder.to_owned(),
            at: Some(folder.join(TRUTH)),
            out: None,
            live: false,
            no_boot_id: true,
            guard_steps,
            offset_age: 0.0,
            max_drift_ppm: 100.0,
        }
    }

    #[test]
    fn what_it_writes_is_fitted_and_scored() {
        for (name, _) in Scenario::ALL {
            let folder = tempfile::tempdir().expect("a folder");
            written(&simulate(folder.path(), name, 3)).unwrap_or_else(|failure| panic!("{name}: {failure}"));
            let (rows, report) =
                aligned(&fit(folder.path(), false)).unwrap_or_else(|failure| panic!("{name}: {failure}"));
            let score = report.score.expect("the truth is known");
            assert_eq!(score.coverage, 1.0, "{name}: {score:?}");
            assert!(rows.len() > 250, "{name}");
            // Of what is between the ways' least delays nobody knows.
            let most_us = if name == "asym-4g" { 5_000.0 } else { 100.0 };
            assert!(score.rms_us < most_us, "{name}: {score:?}");
            let cut = matches!(name, "reboot" | "suspend");
            assert_eq!(report.epochs, if cut { 2 } else { 1 }, "{name}");
        }
    }

    #[test]
    fn the_same_seed_writes_the_same_bytes_and_nothing_is_written_over() {
        let (one, other) = (
            tempfile::tempdir().expect("a folder"),
            tempfile::tempdir().expect("a folder"),
        );
        for folder in [&one, &other] {
            written(&simulate(folder.path(), "busy-queues", 5)).unwrap_or_else(|failure| panic!("{failure}"));
        }
        for name in [EXCHANGES, FRAMES_UP, ACKS_DOWN, TRUTH, OFFSETS] {
            let bytes = |folder: &tempfile::TempDir| std::fs::read(folder.path().join(name)).expect("a file");
            assert!(bytes(&one) == bytes(&other), "{name}");
        }
        let failure = written(&simulate(one.path(), "wired", 5)).expect_err("it is there");
        assert!(failure.to_string().contains("is there already"), "{failure}");
    }

    #[test]
    fn a_standstill_is_planted_where_it_was_asked_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let planted = Simulate {
            standstill: vec![(120.0, 8.0), (60.0, 20.0)],
            ..simulate(folder.path(), "good-wifi", 4)
        };
        written(&planted).unwrap_or_else(|failure| panic!("{failure}"));
        let (_, report) = aligned(&fit(folder.path(), true)).unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!(report.epochs, 3, "{report:?}");
        assert_eq!(report.score.map(|score| score.coverage), Some(1.0));
        for wrong in [(60.0, -1.0), (f64::NAN, 1.0), (179.99, 20.0)] {
            let elsewhere = tempfile::tempdir().expect("a folder");
            let wrong = Simulate {
                standstill: vec![wrong],
                ..simulate(elsewhere.path(), "good-wifi", 4)
            };
            assert!(matches!(written(&wrong), Err(Failure::Usage(_))), "{wrong:?}");
        }
    }
}
