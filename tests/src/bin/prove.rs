//! Runs one of the long proofs of durability: `cargo run --release -p marey-tests --bin prove -- NAME`.
//!
//! Prints what was tried and found; exit 1 where a promise was broken, 2 where it was not asked well. With `--planted` a
//! broken promise is what must be found.

#![allow(
    clippy::disallowed_methods,
    reason = "a proof stands outside of the hub, and its rate is real time"
)]

use clap::{Parser, ValueEnum};
use marey_tests::prove::file_systems::writer;
use marey_tests::prove::{self, Planted, Run, Tally};
use std::process::ExitCode;
use std::time::Instant;

/// Prove that no acknowledged sample is lost. See docs/durability.md for what each of these shows.
#[derive(Debug, Parser)]
#[command(name = "prove")]
struct Arguments {
    #[arg(value_enum)]
    proof: Proof,
    /// How many states, seeds, harms, kills or cuts; bounded by default.
    #[arg(long)]
    count: Option<u64>,
    /// The same seed repeats the same run.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Build this bug in: the proof must find it, and the exit is 0 if it does. A fiftieth of what is usual is done.
    #[arg(long, value_parser = planted)]
    planted: Option<Planted>,
    /// Only one state of power-cuts, as a failure named it: SCRIPT,OPERATION,SUBSET.
    #[arg(long, value_parser = only)]
    only: Option<[u64; 3]>,
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// One JSON object on standard output.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Proof {
    /// The power goes at every operation, for many subsets of what was not synced, also while recovering.
    PowerCuts,
    /// Every operation fails, once and for ever.
    IoErrors,
    /// The whole hub and its devices in simulated time.
    Simulation,
    /// Bits flipped and lengths cut in a sealed segment.
    Corruption,
    /// SIGKILL of a hub under TLS load.
    Kills,
    /// Power cuts of ext4 and xfs.
    FileSystems,
    /// Power cuts at any write of a block device.
    BlockLog,
}

impl Proof {
    /// The proof, and how much of it is done where nobody says.
    fn body(self) -> (fn(&Run) -> Tally, u64) {
        match self {
            Self::PowerCuts => (prove::power_cuts::run, 1_000_000),
            Self::IoErrors => (prove::io_errors::run, u64::MAX),
            Self::Simulation => (prove::simulation::run, 100_000),
            Self::Corruption => (prove::corruption::run, u64::MAX),
            Self::Kills => (prove::kills::run, 2_000),
            Self::FileSystems => (prove::file_systems::run, 1_000),
            Self::BlockLog => (prove::file_systems::run_block_log, 500),
        }
    }
}

fn only(text: &str) -> Result<[u64; 3], String> {
    let numbers: Result<Vec<u64>, _> = text.split(',').map(str::parse).collect();
    let numbers = numbers.map_err(|error| error.to_string())?;
    numbers
        .try_into()
        .map_err(|_| "three numbers with commas between them are expected".to_owned())
}

fn planted(name: &str) -> Result<Planted, String> {
    let found = Planted::ALL.iter().find(|(known, _)| *known == name);
    found.map(|(_, planted)| *planted).ok_or_else(|| {
        let known: Vec<&str> = Planted::ALL.iter().map(|(known, _)| *known).collect();
        format!("known are {}", known.join(", "))
    })
}

fn main() -> ExitCode {
    // The process that a proof cuts off is this program too.
    if std::env::args().nth(1).as_deref() == Some(writer::ARGUMENT) {
        return writer::main(std::env::args().nth(2).as_deref());
    }
    let arguments = Arguments::parse();
    let (body, usual) = arguments.proof.body();
    // A planted bug shows soon or not at all.
    let usual = match arguments.planted {
        Some(_) => usual.min(1_000_000) / 50,
        None => usual,
    };
    let run = Run {
        count: arguments.count.unwrap_or(usual),
        seed: arguments.seed,
        planted: arguments.planted,
        only: arguments.only,
        threads: arguments.threads.max(1),
        progress: true,
    };
    let start = Instant::now();
    let mut tally = body(&run);
    let seconds = start.elapsed().as_secs_f64();
    tally.figures.insert("seconds", (seconds * 10.0).round() / 10.0);
    tally
        .figures
        .insert("a second", (tally.done as f64 / seconds).round());
    match arguments.json {
        true => println!("{}", tally.to_json()),
        false => println!("{tally}"),
    }
    match (arguments.planted.is_some(), tally.is_well()) {
        (false, true) => ExitCode::SUCCESS,
        (true, false) => ExitCode::SUCCESS,
        (true, true) => {
            eprintln!("the planted bug was not found");
            ExitCode::FAILURE
        }
        (false, false) => ExitCode::FAILURE,
    }
}
