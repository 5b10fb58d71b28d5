//! Every figure against its limit, measured in pairs within one run: what a machine or its neighbours do to one of a pair
//! they do to the other.

#![allow(
    clippy::disallowed_methods,
    reason = "it measures with the clock of the machine, and its limits are plain programs"
)]

mod compaction;
mod floor;
mod log;
mod scale;
mod tls;

use clap::Parser;
use marey_benches::measure::{Figure, Selection};
use std::path::PathBuf;
use std::process::ExitCode;

/// Measures Marey against the limits of this machine.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    selection: Selection,
    /// A hub in a process of its own.
    #[arg(long, hide = true)]
    hub: Option<PathBuf>,
    /// A floor with that hub's certificates, in a process of its own.
    #[arg(long, hide = true)]
    floor: Option<PathBuf>,
}

/// All figures: what each measures, its bar, and whether it is among the short ones.
const FIGURES: &[Figure] = &[
    Figure::rate("append", "MB/s", 0.85, log::append),
    Figure::rate("durable_one", "commits/s", 0.95, log::durable_one),
    Figure::rate("group_commit_16", "commits/s", 1.2, log::group_commit_16),
    Figure::rate("group_commit_64", "commits/s", 1.2, log::group_commit_64),
    Figure::rate("replay", "MB/s", 0.9, log::replay),
    Figure::rate("tls_durable", "samples/s", 1.5, tls::durable),
    Figure::rate("tls_written", "samples/s", 1.7, tls::written),
    Figure::cost("tls_written_cpu", "CPU s/GB", 0.4, tls::written_cpu),
    Figure::rate("compact", "MB/s", 1.0, compaction::compact),
    Figure::rate("compact_threads", "times", 1.8, compaction::threads),
    Figure::cost("row_bytes", "bytes a row", 1.0, compaction::row_bytes),
    Figure::cost(
        "idle_connection_bytes",
        "bytes",
        8000.0,
        scale::idle_connection_bytes,
    )
    .long(),
    Figure::cost("open_growth", "times", 1.5, scale::open_growth).long(),
    Figure::cost("reconnect_10000", "s", 1.2, scale::reconnect_10000).long(),
    Figure::cost("open_unsealed_10000", "s", 5.0, scale::open_unsealed_10000).long(),
    Figure::cost("ack_p50", "ms", 1.15, tls::ack_p50).long(),
    Figure::cost("ack_p99", "ms", 1.15, tls::ack_p99).long(),
    Figure::rate("replay_cold", "MB/s", 0.9, log::replay_cold).long(),
];

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match (arguments.hub, arguments.floor) {
        (Some(dir), _) => marey_benches::apart::serve(&dir),
        (None, Some(hub)) => floor::serve_apart(&hub),
        (None, None) => arguments.selection.measure(FIGURES),
    }
}
