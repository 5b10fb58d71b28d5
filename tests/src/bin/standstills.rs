//! How often a hidden standstill makes a bound false: `cargo run --release -p marey-tests --bin standstills`.
//!
//! Prints the two tables of docs/time.md and the long recordings without a standstill; exit 1 where the guarded bound
//! failed, a bound failed by more than `detectable_us`, or a standstill that must be found was not.

use clap::Parser;
use marey_device::simulate::stamps::Scenario;
use marey_tests::standstills::{
    Asked, Evidence, LARGE_NS, MS, SECOND, SMALL_NS, Summary, all, stretches, summarize,
};
use std::process::ExitCode;

/// Simulate clocks that stand still unseen, and count what becomes of the bounds.
#[derive(Debug, Parser)]
#[command(name = "standstills")]
struct Arguments {
    /// How many recordings of each size and evidence.
    #[arg(long, default_value_t = 300)]
    count: u64,
    /// The same seed repeats the same runs.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How long the recordings without a standstill are, each on a busy Wi-Fi.
    #[arg(long, default_value_t = 8.0)]
    hours: f64,
    /// How many of these.
    #[arg(long, default_value_t = 4)]
    long: u64,
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut failures = Vec::new();
    let summary = |evidence, standstill_ns| {
        let asked = Asked {
            scenario: Scenario::GoodWifi,
            seed: arguments.seed,
            standstill_ns,
            evidence,
        };
        summarize(&asked, arguments.count, arguments.threads)
    };
    println!(
        "good Wi-Fi, {} recordings a line, of two minutes each\n",
        arguments.count
    );
    println!(
        "{:>10} {:>9} {:>11} {:>7} {:>11} {:>13} {:>13} {:>9} {:>12}",
        "evidence",
        "stood, ms",
        "bound false",
        "found",
        "by, us",
        "detectable us",
        "guarded false",
        "bound us",
        "guarded us"
    );
    for evidence in [Evidence::Probes, Evidence::All] {
        for standstill_ns in SMALL_NS {
            let of = summary(evidence, standstill_ns);
            println!(
                "{:>10} {:>9} {:>11} {:>7} {:>11.0} {:>13} {:>13} {:>9.0} {:>12.0}",
                name(evidence),
                standstill_ns as f64 / MS as f64,
                of.is_false,
                of.found,
                of.beyond_most_ns / 1e3,
                told_us(of.detectable_ns),
                of.guarded_is_false,
                of.bound_ns / 1e3,
                of.guarded_bound_ns / 1e3
            );
            failures.extend(broken(&of));
        }
    }
    println!(
        "\n{:>10} {:>9} {:>7} {:>16} {:>10} {:>11}",
        "evidence", "stood, ms", "found", "within exchanges", "within ms", "bound false"
    );
    for evidence in [Evidence::Probes, Evidence::All] {
        for standstill_ns in LARGE_NS {
            let of = summary(evidence, standstill_ns);
            println!(
                "{:>10} {:>9} {:>7} {:>16} {:>10} {:>11}",
                name(evidence),
                standstill_ns as f64 / MS as f64,
                of.found,
                of.exchanges_most,
                of.after_most_ns / MS,
                of.is_false
            );
            failures.extend(broken(&of));
            failures.extend(missed(&of));
        }
    }
    let lasting_ns = (arguments.hours * 3_600.0 * SECOND as f64) as i64;
    let found = all(arguments.long, arguments.threads, |nth| {
        stretches(Scenario::BusyWifi, arguments.seed.wrapping_add(nth), lasting_ns)
    });
    let cut = found.iter().filter(|stretches| **stretches != 1).count();
    println!(
        "\n{} h of busy Wi-Fi without a standstill, {} times: cut wrongly {cut}",
        arguments.hours,
        found.len()
    );
    if cut > 0 {
        failures.push(format!("{cut} clocks that never stood still were cut"));
    }
    for failure in &failures {
        eprintln!("FAILED: {failure}");
    }
    if failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn name(evidence: Evidence) -> &'static str {
    match evidence {
        Evidence::Probes => "probes",
        Evidence::All => "all",
    }
}

fn told_us(ns: f64) -> String {
    if ns.is_nan() {
        "-".to_owned()
    } else {
        format!("{:.0}", ns / 1e3)
    }
}

/// Which promises a line breaks.
fn broken(of: &Summary) -> Vec<String> {
    let which = format!(
        "{} ms, {}",
        of.standstill_ns as f64 / MS as f64,
        name(of.evidence)
    );
    let mut broken = Vec::new();
    for (times, what) in [
        (of.guarded_is_false, "guarded bounds were false"),
        (of.beyond_detectable, "bounds failed by more than detectable_us"),
        (
            of.found_is_false,
            "bounds were false although the standstill was found",
        ),
        (of.cut_wrongly, "clocks were cut elsewhere, or twice"),
    ] {
        if times > 0 {
            broken.push(format!("{which}: {times} {what}"));
        }
    }
    if of.standstill_ns == 0 && of.is_false > 0 {
        broken.push(format!(
            "{which}: {} bounds were false of clocks that never stood still",
            of.is_false
        ));
    }
    broken
}

/// What must be found and was not, or not within two exchanges.
fn missed(of: &Summary) -> Option<String> {
    let late = of.exchanges_most > 2;
    (of.found < of.runs || late).then(|| {
        format!(
            "{} ms, {}: {} of {} were found, within {} exchanges",
            of.standstill_ns as f64 / MS as f64,
            name(of.evidence),
            of.found,
            of.runs,
            of.exchanges_most
        )
    })
}
