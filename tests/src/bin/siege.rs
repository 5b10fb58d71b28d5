//! What attacks do to the acks of those who record: `cargo run --release -p marey-tests --bin siege`.
//!
//! Prints, for each attack, the acks' median and 99th percentile, the ratio to the quiet before it (median and range of the
//! rounds), and what the hub took of memory and descriptors; exit 1 where a frame was not acknowledged, the one too many was not
//! told, memory was not bounded, or the median of the ratios passed two.

use clap::Parser;
use marey_tests::siege::{Asked, besiege, median};
use std::process::ExitCode;
use std::time::Duration;

/// Besiege a hub on loopback, and measure the acks of those who do nothing wrong.
#[derive(Debug, Parser)]
#[command(name = "siege")]
struct Arguments {
    /// Devices that record.
    #[arg(long, default_value_t = 8)]
    devices: usize,
    /// Frames a second of each.
    #[arg(long, default_value_t = 20)]
    frames_per_s: u32,
    /// Connections that are held at the end, those that record beside them.
    #[arg(long, default_value_t = 1000)]
    held: usize,
    /// Sockets that stand in their handshake at once.
    #[arg(long, default_value_t = 400)]
    half_open: usize,
    /// Connects without a certificate.
    #[arg(long, default_value_t = 10_000)]
    strangers: usize,
    /// Packets a second to the time service.
    #[arg(long, default_value_t = 10_000)]
    packets_per_s: u32,
    /// Seconds that each attack lasts, and the quiet before it.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// How often it is all done; the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How many times the quiet 99th percentile is too much.
    #[arg(long, default_value_t = 2.0)]
    ratio_max: f64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let folder = tempfile::tempdir().expect("a folder");
    let asked = Asked {
        devices: arguments.devices.max(1),
        frames_per_s: arguments.frames_per_s.max(1),
        held: arguments.held,
        half_open: arguments.half_open,
        strangers: arguments.strangers.max(1),
        packets_per_s: arguments.packets_per_s,
        lasting: Duration::from_secs(arguments.seconds.max(1)),
        rounds: arguments.rounds.max(1),
    };
    let report = besiege(asked, &folder.path().join("hub"));
    let mut failures = report.faults(asked);
    println!("{}", report.table());
    for (attack, ratios) in report.ratios() {
        let ratio = median(&ratios);
        if ratio > arguments.ratio_max {
            failures.push(format!(
                "{attack}: 99 % of the acks took {ratio:.2} times what they take in quiet"
            ));
        }
    }
    for failure in &failures {
        eprintln!("FAILED: {failure}");
    }
    match failures.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
