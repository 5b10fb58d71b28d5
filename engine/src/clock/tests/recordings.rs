//! Tests of the whole model on scenarios whose truth is known, and which come with the scores of other estimators.
//!
//! They lie in `$MAREY_RECORDINGS/clock`, or `../shared/data/clock` beside the workspace; without them these tests
//! say so and pass. They are gzipped CSV, read through `gzip -dcf`, since the model itself opens no files.

use std::process::Command;
use std::time::Duration;

use super::super::*;

/// Scores of one scenario. Errors in microseconds.
#[derive(Debug)]
struct Score {
    rms: f64,
    p99: f64,
    max: f64,
    points: usize,
    outside: usize,
    /// Around the estimate, as published.
    mean_half_width: f64,
    /// Of the hard interval itself.
    mean_half_interval: f64,
    half_min_rtt: f64,
    reference_rms: f64,
    reference_half_width: f64,
    segments: Vec<u32>,
    took: Duration,
    rows: usize,
}

struct Scenario {
    evidence: SessionEvidence,
    /// Device time, true hub time, epoch.
    truth: Vec<(i64, i64, u32)>,
    reference: serde_json::Value,
}

const SCENARIOS: [&str; 16] = [
    "wired_600",
    "calm_tcxo_600",
    "good_wifi_600",
    "good_wifi_3600",
    "psm_phone_600",
    "thermal_600",
    "thermal_busy_3600",
    "hot_wander_600",
    "outage_600",
    "reset_600",
    "busy_wifi_600",
    "busy_wifi_3600",
    "busy_hol_600",
    "suspend_600",
    "suspend_3600",
    "asym_4g_600",
];

#[test]
fn the_scenarios_with_known_truth_hold() {
    for with_frames in [false, true] {
        println!(
            "\n{}",
            if with_frames {
                "exchanges, frames and acks"
            } else {
                "exchanges alone"
            }
        );
        println!(
            "{:18} {:>7} {:>7} {:>7} {:>8} {:>10} {:>9} {:>9} {:>7} {:>7} {:>7}  {:>8}",
            "scenario",
            "rms",
            "p99",
            "max",
            "ref rms",
            "outside",
            "time_err",
            "interval",
            "/ RTT/2",
            "ref",
            "segm.",
            "rows/s"
        );
        for name in SCENARIOS {
            let Some(scenario) = load(name, with_frames) else {
                println!(
                    "SKIPPED: no scenario {name} here; set MAREY_RECORDINGS to the folder that holds clock/"
                );
                return;
            };
            let score = score(&scenario, with_frames);
            println!(
                "{name:18} {:7.2} {:7.2} {:7.2} {:8.2} {:4}/{:<5} {:9.1} {:9.1} {:7.3} {:7.3} {:>7} {:9.0}",
                score.rms,
                score.p99,
                score.max,
                score.reference_rms,
                score.outside,
                score.points,
                score.mean_half_width,
                score.mean_half_interval,
                score.mean_half_interval / score.half_min_rtt,
                score.reference_half_width / score.half_min_rtt,
                format!("{:?}", score.segments),
                score.rows as f64 / score.took.as_secs_f64(),
            );
            judge(name, with_frames, &score);
        }
    }
}

/// Sixteen sleeps of 5 ms, one at a time, in a recording that has none: each is found, by the evidence of the next
/// two exchanges, and the truth stays inside.
#[test]
fn a_sleep_of_five_milliseconds_is_found() {
    let Some(scenario) = load("good_wifi_600", true) else {
        println!(
            "SKIPPED: no scenario good_wifi_600 here; set MAREY_RECORDINGS to the folder that holds clock/"
        );
        return;
    };
    let begin_ns = scenario.truth[0].0;
    let slept_ns = 5_000_000;
    let mut longest_ns = 0;
    for nth in 1..=16i64 {
        let at_ns = begin_ns + nth * 35_123_456_789;
        let later = |dev_ns: i64, hub_ns: i64| if dev_ns > at_ns { hub_ns + slept_ns } else { hub_ns };
        let mut evidence = scenario.evidence.clone();
        for row in &mut evidence.devices[0].clocks[0].rows {
            match row {
                Row::Exchange {
                    dev_send,
                    hub_recv,
                    hub_send,
                    dev_recv,
                    ..
                } => {
                    *hub_recv = later(*dev_send, *hub_recv);
                    *hub_send = later(*dev_recv, *hub_send);
                }
                Row::Up {
                    dev_send, hub_recv, ..
                } => *hub_recv = later(*dev_send, *hub_recv),
                Row::Down {
                    hub_send, dev_recv, ..
                } => *hub_send = later(*dev_recv, *hub_send),
                Row::Told { dev_ns, hub_ns, .. } => *hub_ns = later(*dev_ns, *hub_ns),
            }
        }
        let alignment = align(&evidence, &Options::default());
        let map = alignment.map("phone", 0).expect("the device has one epoch");
        let [
            Warning::Discontinuity {
                after_ns,
                before_ns,
                step_ns,
                ..
            },
        ] = alignment.warnings()
        else {
            panic!("sleep {nth}: {:?}", alignment.warnings());
        };
        assert!(
            (after_ns..=before_ns).contains(&&at_ns),
            "sleep {nth}: {after_ns} {before_ns}"
        );
        assert!(step_ns.abs_diff(slept_ns) < 500_000, "sleep {nth}: {step_ns}");
        longest_ns = longest_ns.max(before_ns - after_ns);
        for &(dev_ns, hub_ns, _) in &scenario.truth {
            let (placed, truth_ns) = (map.at(dev_ns), later(dev_ns, hub_ns));
            assert!(
                placed.session_ns.abs_diff(truth_ns) as f64 <= placed.half_width_ns,
                "sleep {nth}: {placed:?}"
            );
        }
    }
    println!(
        "16 of 16 sleeps of 5 ms found, the longest doubt {} ms",
        longest_ns / 1_000_000
    );
    assert!(longest_ns < 2_500_000_000);
}

fn judge(name: &str, with_frames: bool, score: &Score) {
    assert_eq!(
        score.outside, 0,
        "{name}: the truth lies outside of the hard interval"
    );
    let expected: &[u32] = match name {
        "reset_600" => &[1, 1],
        "suspend_600" | "suspend_3600" => &[2],
        _ => &[1],
    };
    assert_eq!(score.segments, expected, "{name}: cuts found");
    let most = if name.starts_with("good") { 1.15 } else { 1.35 };
    if with_frames
        && ["wired", "good", "busy_wifi"]
            .iter()
            .any(|known| name.starts_with(known))
    {
        let ratio = score.mean_half_interval / score.half_min_rtt;
        assert!(
            ratio <= most,
            "{name}: the bound is {ratio} times half the least round trip"
        );
    }
    let ratio = score.rms / score.reference_rms;
    assert!(
        ratio <= 2.0,
        "{name}: RMS {} us is {ratio} times the reference's",
        score.rms
    );
}

fn score(scenario: &Scenario, with_frames: bool) -> Score {
    let rows = scenario.evidence.devices[0]
        .clocks
        .iter()
        .map(|clock| clock.rows.len())
        .sum();
    #[allow(
        clippy::disallowed_methods,
        reason = "a test that measures; the model has no clock"
    )]
    let began = std::time::Instant::now();
    let alignment = align(&scenario.evidence, &Options::default());
    let took = began.elapsed();
    let (mut errors, mut outside, mut widths, mut intervals) = (Vec::new(), 0, 0.0, 0.0);
    for &(dev_ns, hub_ns, epoch) in &scenario.truth {
        let map = alignment
            .map("phone", epoch)
            .expect("every epoch of the truth has evidence");
        let placed = map.at(dev_ns);
        let error_ns = placed.session_ns.abs_diff(hub_ns) as f64;
        outside += usize::from(error_ns > placed.half_width_ns);
        let published = map.published(dev_ns);
        let error_us = (published.time_us as f64 - hub_ns as f64 / 1e3).abs();
        outside += usize::from(error_us > f64::from(published.err_us));
        errors.push(error_ns / 1e3);
        widths += placed.half_width_ns / 1e3;
        let (lo, hi) = map.interval(dev_ns);
        outside += usize::from(hub_ns < lo || hub_ns > hi);
        intervals += hi.abs_diff(lo) as f64 / 2e3;
    }
    errors.sort_by(f64::total_cmp);
    let points = errors.len();
    let reference = &scenario.reference;
    let (estimator, cone) = if with_frames {
        ("f3_frames_thin", "cone_f")
    } else {
        ("f_owr", "cone")
    };
    let number = |value: &serde_json::Value| value.as_f64().expect("the reference holds numbers");
    Score {
        rms: (errors.iter().map(|error| error * error).sum::<f64>() / points as f64).sqrt(),
        p99: errors[points * 99 / 100],
        max: errors[points - 1],
        points,
        outside,
        mean_half_width: widths / points as f64,
        mean_half_interval: intervals / points as f64,
        half_min_rtt: number(&reference["min_rtt_us"]) / 2.0,
        reference_rms: number(&reference["reference_errors_us"][estimator]["rms"]),
        reference_half_width: number(&reference["bound_half_width_us"][cone]["mean"]),
        segments: alignment.clocks().map(|(_, map)| map.segment_count()).collect(),
        took,
        rows,
    }
}

/// Loads a scenario. A silent sleep is loaded as what a device would tell: one epoch.
fn load(name: &str, with_frames: bool) -> Option<Scenario> {
    let silent = name.starts_with("suspend");
    let epoch = |row: &[i64], place: usize| if silent { 0 } else { row[place] as u32 };
    let mut clocks: Vec<ClockEvidence> = Vec::new();
    let mut add = |epoch: u32, row: Row| {
        while clocks.len() <= epoch as usize {
            let number = clocks.len() as u32;
            clocks.push(ClockEvidence {
                key: [number as u8; 16],
                epochs: vec![number],
                rows: Vec::new(),
            });
        }
        clocks[epoch as usize].rows.push(row);
    };
    let hub_epoch = 1;
    for row in csv(name, "exchanges.csv.gz")? {
        let (hub_send, dev_recv, dev_send, hub_recv) = (row[0], row[1], row[2], row[3]);
        add(
            epoch(&row, 4),
            Row::Exchange {
                hub_epoch,
                dev_send,
                hub_recv,
                hub_send,
                dev_recv,
            },
        );
    }
    if with_frames {
        for row in csv(name, "frames_up.csv.gz")? {
            add(
                epoch(&row, 2),
                Row::Up {
                    hub_epoch,
                    dev_send: row[0],
                    hub_recv: row[1],
                },
            );
        }
        for row in csv(name, "acks_down.csv.gz")? {
            add(
                epoch(&row, 2),
                Row::Down {
                    hub_epoch,
                    hub_send: row[0],
                    dev_recv: row[1],
                },
            );
        }
    }
    let truth = csv(name, "truth.csv.gz")?
        .iter()
        .map(|row| (row[0], row[1], epoch(row, 2)))
        .collect();
    let reference =
        serde_json::from_slice(&unpacked(name, "reference.json")?).expect("the reference is JSON");
    let evidence = SessionEvidence {
        anchor: WallReading {
            hub_epoch,
            ..WallReading::default()
        },
        hub_epochs: vec![hub_epoch],
        walls: Vec::new(),
        devices: vec![DeviceEvidence {
            device: "phone".to_owned(),
            clocks,
        }],
    };
    Some(Scenario {
        evidence,
        truth,
        reference,
    })
}

fn csv(name: &str, file: &str) -> Option<Vec<Vec<i64>>> {
    let text = String::from_utf8(unpacked(name, file)?).expect("CSV is text");
    let number = |field: &str| field.trim().parse().expect("CSV of whole numbers");
    Some(
        text.lines()
            .skip(1)
            .map(|line| line.split(',').map(number).collect())
            .collect(),
    )
}

fn unpacked(name: &str, file: &str) -> Option<Vec<u8>> {
    let root = std::env::var("MAREY_RECORDINGS")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data").to_owned());
    let path = format!("{root}/clock/{name}/{file}");
    let output = Command::new("gzip").arg("-dcf").arg(path).output().ok()?;
    output.status.success().then_some(output.stdout)
}
