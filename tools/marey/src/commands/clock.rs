//! `marey clock fit DIR`: aligns a device's clock from evidence that was gathered anywhere, and says how well where the
//! truth is known. `marey clock plot SESSION` is `clock::plot`, `marey clock check --tap SESSION` is `clock::check`,
//! `marey clock simulate DIR` is `clock::simulate`.
//!
//! Owns: the verbs, and the score. The model is the engine's; `clock::evidence` reads the files.

mod channels;
mod check;
mod evidence;
mod lags;
mod onsets;
mod plot;
mod simulate;

use crate::output::{Failure, Output, Result};
use crate::written;
use evidence::{Evidence, Moment};
use marey_engine::clock::{Alignment, Options, align};
use serde::Serialize;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The device that a folder of evidence speaks of has no name there.
const DEVICE: &str = "device";

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Aligns a device's clock from a folder of stamps, and scores it where the truth is known.
    ///
    /// The folder holds exchanges.csv (hub send, device receive, device send, hub receive, boot), and may hold
    /// frames_up.csv (device send, hub receive, boot) and acks_down.csv (hub send, device receive, boot): whole
    /// nanoseconds, a line of names first, packed by gzip or not. What another recorder made of exchanges that it did not
    /// keep goes into offsets.csv (device time, hub time less device time, boot), beside them or alone: it helps the
    /// estimate, and bounds nothing.
    Fit(Fit),
    /// Draws the clocks of a session: how they wandered, the delays that show it, and the bound.
    Plot(plot::Plot),
    /// Measures how well a session is aligned, by events that several sensors felt, such as taps.
    ///
    /// Finds them in what was published, and holds the times at which two streams have the same event against the bounds
    /// that those times claim. Exit 0 if every difference is explained by both bounds and half of each stream's spacing of
    /// samples, 1 if one is not or nothing could be measured. Lay all devices on one table and tap it at least three times,
    /// half a second apart, at the start and the end of a recording.
    Check(check::Check),
    /// Simulates a clock and a path whose truth is known, and writes a folder that `marey clock fit` reads and scores.
    ///
    /// Beside the evidence and truth.csv.gz it holds labrecorder_offsets.csv.gz, what LSL's recorder would have kept of the
    /// same clock over the same path. The boots named are the simulator's own knowledge: the device that sleeps silently
    /// in `suspend` would not tell of it, so fit that with --no-boot-id.
    Simulate(simulate::Simulate),
}

#[derive(Debug, clap::Args)]
struct Fit {
    /// The folder.
    evidence: PathBuf,
    /// Device times to place, in the first column of a CSV; with the true hub time in the second, they are scored, and a
    /// third names the boot. Else the device times of the exchanges.
    #[arg(long, value_name = "FILE")]
    at: Option<PathBuf>,
    /// Where the placed times go, as CSV: device_time,hub_time,err_ns,epoch,segment. Else standard output, unless there
    /// is a score to print.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The estimate of the forward filter, as a live view has it. How much the clock wanders, the least delays and the bounds
    /// are still those of all evidence.
    #[arg(long)]
    live: bool,
    /// As if no device named its boots: resets must be found like standstills.
    #[arg(long)]
    no_boot_id: bool,
    /// Widens each bound by what a standstill could hide in.
    #[arg(long)]
    guard_steps: bool,
    /// How old an offset of offsets.csv was when it was written down, on average. For LabRecorder's it is 1.256 s: liblsl
    /// renews its offset every 2 s, from a burst that lasts half a second.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 0.0,
        allow_negative_numbers = true
    )]
    offset_age: f64,
    /// The most that the device's clock may be fast or slow, in parts per million.
    #[arg(
        long,
        value_name = "PPM",
        default_value_t = 100.0,
        allow_negative_numbers = true
    )]
    max_drift_ppm: f64,
}

pub fn run(arguments: Arguments, dir: Option<PathBuf>, output: &Output) -> Result {
    match arguments.verb {
        Verb::Fit(fit) => run_fit(&fit, output),
        Verb::Plot(plot) => plot::run(plot, dir, output),
        Verb::Check(check) => check::run(check, dir, output),
        Verb::Simulate(simulate) => simulate::run(simulate, output),
    }
}

/// A device time, placed.
struct Row {
    moment: Moment,
    hub_ns: i64,
    err_ns: f64,
    /// Half of the interval that holds the truth.
    half_width_ns: f64,
    epoch: u32,
    segment: u32,
}

#[derive(Debug, Serialize)]
struct Report {
    /// Stretches on which the clock ran without a stop or a jump.
    epochs: u32,
    /// Of those, lives of the clock that the evidence names.
    boots: usize,
    observations: usize,
    points: usize,
    /// Of the alignment alone.
    seconds: f64,
    /// Half the width of the interval that holds the truth, where it has two ends.
    mean_half_width_us: Option<f64>,
    p99_half_width_us: Option<f64>,
    /// From the estimate to the farther end of it, which is what `err_ns` says.
    mean_err_us: Option<f64>,
    p99_err_us: Option<f64>,
    /// Points that have no bound.
    unbounded: usize,
    score: Option<Score>,
    warnings: Vec<String>,
}

/// Against the truth.
#[derive(Debug, Serialize)]
struct Score {
    rms_us: f64,
    p99_us: f64,
    max_us: f64,
    /// Mean of estimate minus truth.
    bias_us: f64,
    /// Share of points whose bound holds the truth.
    coverage: f64,
}

fn run_fit(fit: &Fit, output: &Output) -> Result {
    let (rows, report) = aligned(fit)?;
    match &fit.out {
        Some(path) => {
            let mut table = Vec::new();
            write(&mut table, &rows)?;
            written::write(path, &table, PLACED.as_bytes())?;
        }
        None if report.score.is_none() && !output.is_json() => {
            return match write(std::io::stdout().lock(), &rows) {
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
                done => Ok(done?),
            };
        }
        None => {}
    }
    output.result(&report, show)
}

fn aligned(fit: &Fit) -> Result<(Vec<Row>, Report)> {
    if !(0.0..=100_000.0).contains(&fit.max_drift_ppm) {
        let what = format!(
            "--max-drift-ppm {}: it must lie between 0 and 100000",
            fit.max_drift_ppm
        );
        return Err(Failure::Usage(what));
    }
    if !(0.0..=3_600.0).contains(&fit.offset_age) {
        let what = format!(
            "--offset-age {}: it must lie between 0 and 3600 seconds",
            fit.offset_age
        );
        return Err(Failure::Usage(what));
    }
    let offset_age_ns = (fit.offset_age * 1e9) as i64;
    let evidence = Evidence::read(&fit.evidence, fit.no_boot_id, offset_age_ns)?;
    let moments = match &fit.at {
        Some(path) => evidence::moments(path, fit.no_boot_id)?,
        None => evidence.moments(),
    };
    let options = Options {
        max_drift_ppm: fit.max_drift_ppm,
        guard_steps: fit.guard_steps,
        live: fit.live,
        ..Options::default()
    };
    let began = Instant::now();
    let alignment = align(&evidence.of_device(DEVICE), &options);
    let seconds = began.elapsed().as_secs_f64();
    let rows = placed(&alignment, &evidence, moments)?;
    let report = report(&alignment, &evidence, &rows, seconds);
    Ok((rows, report))
}

fn placed(alignment: &Alignment, evidence: &Evidence, moments: Vec<Moment>) -> Result<Vec<Row>> {
    let mut rows = Vec::with_capacity(moments.len());
    for moment in moments {
        let epoch = match moment.epoch {
            Some(named) => evidence.epoch_named(named).ok_or_else(|| {
                Failure::fault(format!(
                    "{}: boot {named} has no evidence in this folder",
                    moment.place
                ))
            })?,
            None => evidence.epoch_of(moment.dev_ns).map_err(|boots| {
                Failure::fault(format!(
                    "{}: the device's clock showed {} in {boots} of its lives; a third column must say which",
                    moment.place, moment.dev_ns
                ))
            })?,
        };
        let (placed, (low, high)) = match alignment.map(DEVICE, epoch) {
            Some(map) => (map.at(moment.dev_ns), map.interval(moment.dev_ns)),
            None => {
                return Err(Failure::fault(format!(
                    "{}: no evidence of its epoch",
                    moment.place
                )));
            }
        };
        rows.push(Row {
            hub_ns: placed.session_ns,
            err_ns: placed.half_width_ns,
            half_width_ns: match (low, high) {
                (i64::MIN, _) | (_, i64::MAX) => f64::INFINITY,
                (low, high) => high.saturating_sub(low) as f64 / 2.0,
            },
            epoch,
            segment: placed.segment,
            moment,
        });
    }
    Ok(rows)
}

fn report(alignment: &Alignment, evidence: &Evidence, rows: &[Row], seconds: f64) -> Report {
    let finite_us = |of: fn(&Row) -> f64| -> Vec<f64> {
        let mut values: Vec<f64> = rows.iter().map(|row| of(row) / 1e3).collect();
        values.retain(|value| value.is_finite());
        values.sort_by(f64::total_cmp);
        values
    };
    let (widths, errs) = (finite_us(|row| row.half_width_ns), finite_us(|row| row.err_ns));
    let scored: Vec<(f64, bool)> = rows
        .iter()
        .filter_map(|row| {
            let truth_ns = row.moment.truth_ns?;
            let error_ns = i128::from(row.hub_ns) - i128::from(truth_ns);
            Some((
                error_ns as f64 / 1e3,
                error_ns.unsigned_abs() as f64 <= row.err_ns,
            ))
        })
        .collect();
    let mut errors: Vec<f64> = scored.iter().map(|(error, _)| error.abs()).collect();
    errors.sort_by(f64::total_cmp);
    let mean = |values: &mut dyn Iterator<Item = f64>, of: usize| values.sum::<f64>() / of as f64;
    let score = percentile(&errors).map(|p99_us| Score {
        rms_us: mean(&mut errors.iter().map(|error| error * error), errors.len()).sqrt(),
        p99_us,
        max_us: errors.last().copied().unwrap_or(0.0),
        bias_us: mean(&mut scored.iter().map(|(error, _)| *error), scored.len()),
        coverage: scored.iter().filter(|(_, holds)| *holds).count() as f64 / scored.len() as f64,
    });
    Report {
        epochs: alignment.clocks().map(|(_, map)| map.segment_count()).sum(),
        boots: evidence.epochs(),
        observations: evidence.observations(),
        points: rows.len(),
        seconds,
        mean_half_width_us: mean_of(&widths),
        p99_half_width_us: percentile(&widths),
        mean_err_us: mean_of(&errs),
        p99_err_us: percentile(&errs),
        unbounded: rows.len() - errs.len(),
        score,
        warnings: alignment.warnings().iter().map(ToString::to_string).collect(),
    }
}

fn mean_of(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The value below which 99 of 100 lie; `sorted` is in rising order.
fn percentile(sorted: &[f64]) -> Option<f64> {
    sorted
        .get((sorted.len() * 99 / 100).min(sorted.len().saturating_sub(1)))
        .copied()
}

/// Columns of the placed times.
const PLACED: &str = "device_time,hub_time,err_ns,epoch,segment";

fn write(mut to: impl Write, rows: &[Row]) -> std::io::Result<()> {
    writeln!(to, "{PLACED}")?;
    for row in rows {
        // Rounded up, so that it still holds; `inf` where nothing is known.
        let err_ns = row.err_ns.ceil();
        let Row {
            moment,
            hub_ns,
            epoch,
            segment,
            ..
        } = row;
        writeln!(to, "{},{hub_ns},{err_ns},{epoch},{segment}", moment.dev_ns)?;
    }
    to.flush()
}

fn show(report: &Report) -> String {
    let mut lines = Vec::new();
    if let Some(score) = &report.score {
        lines.push(format!(
            "error: rms {:.2} us, p99 {:.2}, max {:.2}, bias {:.2}; the bound holds the truth in {:.3} %",
            score.rms_us,
            score.p99_us,
            score.max_us,
            score.bias_us,
            100.0 * score.coverage
        ));
    }
    match (report.mean_err_us, report.p99_err_us) {
        (Some(mean), Some(p99)) => {
            let half = report.mean_half_width_us.unwrap_or(f64::INFINITY);
            lines.push(format!(
                "bound: mean {mean:.1} us, p99 {p99:.1}; half of the interval that holds the truth: mean {half:.1} us"
            ));
        }
        _ => lines.push("no time has a bound: there is evidence of one direction only, or none".to_owned()),
    }
    if report.unbounded > 0 {
        lines.push(format!(
            "{} of {} points have no bound",
            report.unbounded, report.points
        ));
    }
    let stretches = if report.epochs == 1 { "epoch" } else { "epochs" };
    lines.push(format!(
        "{} {stretches}, {} points, {} observations in {:.3} s",
        report.epochs, report.points, report.observations, report.seconds
    ));
    lines.extend(report.warnings.iter().map(|warning| format!("note: {warning}")));
    lines.join("\n")
}

/// Where a file stands, for messages.
fn at(path: &Path, line: usize) -> String {
    format!("{}:{line}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;

    /// What stands in the files of a folder of evidence.
    struct Made {
        dir: tempfile::TempDir,
        truth: Vec<(i64, i64)>,
    }

    /// A device whose clock is 20 ppm fast and behind the hub's by a second, over a path of 1 ms and a little more each way,
    /// an exchange a second. Its clock begins at `begins` and goes on from each device time, after so many seconds.
    fn make(seconds: i64, begins: &[(i64, i64)]) -> Made {
        let dir = tempfile::tempdir().expect("a folder");
        let mut exchanges = "t1_hub_send,t2_dev_recv,t3_dev_send,t4_hub_recv\n".to_owned();
        let mut truth = Vec::new();
        let mut dice = 1u64;
        let mut late = || {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            1_000_000 + ((dice >> 33) % 300_000).cast_signed()
        };
        for second in 0..seconds {
            let hub_ns = 5_000_000_000 + second * 1_000_000_000;
            let (since, base) = begins
                .iter()
                .rev()
                .find(|(since, _)| *since <= second)
                .expect("the first begins at 0");
            let ran_ns = |hub: i64| hub - 5_000_000_000 - since * 1_000_000_000;
            let device = |hub: i64| base + ran_ns(hub) + ran_ns(hub) / 50_000;
            let (down, up) = (late(), late());
            let there = hub_ns + down;
            writeln!(
                exchanges,
                "{hub_ns},{},{},{}",
                device(there),
                device(there + 100_000),
                there + 100_000 + up
            )
            .expect("a string takes all");
            truth.push((device(hub_ns + 500_000_000), hub_ns + 500_000_000));
        }
        std::fs::write(dir.path().join("exchanges.csv"), exchanges).expect("written");
        let lines: String = truth.iter().map(|(dev, hub)| format!("{dev},{hub}\n")).collect();
        std::fs::write(
            dir.path().join("truth.csv"),
            format!("dev_time,true_hub_time\n{lines}"),
        )
        .expect("written");
        Made { dir, truth }
    }

    fn fit(made: &Made) -> Fit {
        Fit {
            evidence: made.dir.path().to_owned(),
            at: Some(made.dir.path().join("truth.csv")),
            out: None,
            live: false,
            no_boot_id: false,
            guard_steps: false,
            offset_age: 0.0,
            max_drift_ppm: 100.0,
        }
    }

    fn score(fit: &Fit) -> (Report, Score) {
        let (_, mut report) = aligned(fit).unwrap_or_else(|failure| panic!("{failure}"));
        let score = report.score.take().expect("the truth is known");
        (report, score)
    }

    #[test]
    fn a_clock_is_placed_within_its_bound() {
        let made = make(300, &[(0, 4_000_000_000)]);
        for live in [false, true] {
            let (report, score) = score(&Fit { live, ..fit(&made) });
            assert_eq!((report.epochs, report.boots, report.points), (1, 1, 300));
            assert_eq!(score.coverage, 1.0);
            assert!(score.rms_us < 100.0, "{score:?}");
            assert!(
                report
                    .mean_half_width_us
                    .is_some_and(|width| (900.0..1_400.0).contains(&width))
            );
        }
        let (rows, _) = aligned(&fit(&made)).unwrap_or_else(|failure| panic!("{failure}"));
        let mut csv = Vec::new();
        write(&mut csv, &rows).expect("a vector takes all");
        let csv = String::from_utf8(csv).expect("text");
        assert!(csv.starts_with("device_time,hub_time,err_ns,epoch,segment\n"));
        let first: Vec<i64> = csv
            .lines()
            .nth(1)
            .expect("rows")
            .split(',')
            .map(|field| field.parse().expect("whole numbers"))
            .collect();
        let (dev, hub) = made.truth[0];
        assert_eq!(first[0], dev);
        assert!(
            first[1].abs_diff(hub).cast_signed() <= first[2],
            "{first:?}, truly {hub}"
        );
    }

    #[test]
    fn a_reset_and_a_standstill_are_found_without_a_boot_id() {
        // After 100 s it starts over near 0; after 200 s it has stood still for 20 ms.
        let made = make(
            300,
            &[
                (0, 4_000_000_000_000),
                (100, 3_000_000_000),
                (200, 102_982_000_000),
            ],
        );
        let (report, score) = score(&Fit {
            no_boot_id: true,
            ..fit(&made)
        });
        assert_eq!((report.boots, report.epochs), (2, 3), "{report:?}");
        assert_eq!(score.coverage, 1.0, "{score:?}");
        // Between the exchanges around the standstill nobody knows when it was, and the bound says so.
        assert!(score.p99_us < 150.0, "{score:?}");
    }

    #[test]
    fn lives_that_showed_the_same_times_are_told_apart() {
        let made = make(300, &[(0, 1_000_000_000), (100, 1_000_000_000)]);
        let of_exchanges = Fit {
            at: None,
            no_boot_id: true,
            ..fit(&made)
        };
        let (rows, _) = aligned(&of_exchanges).unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!((rows[0].epoch, rows[299].epoch), (0, 1));
        assert!(
            rows[150].hub_ns.abs_diff(155_000_000_000) < 5_000_000,
            "{}",
            rows[150].hub_ns
        );
        let without_a_column = Fit {
            no_boot_id: true,
            ..fit(&made)
        };
        let failure = aligned(&without_a_column)
            .map(|_| ())
            .expect_err("nothing says which");
        assert!(failure.to_string().contains("in 2 of its lives"), "{failure}");
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said() {
        let made = make(20, &[(0, 0)]);
        let path = made.dir.path().join("exchanges.csv");
        let said = |content: &str| {
            std::fs::write(&path, content).expect("written");
            match aligned(&fit(&made)) {
                Err(failure) => failure.to_string(),
                Ok((_, report)) => panic!("{report:?}"),
            }
        };
        let file = path.display().to_string();
        assert_eq!(
            said("a,b,c,d\n1,2,3,4\n1,2,nan,4\n"),
            format!("{file}:3: column 3: \"nan\" is no whole number of nanoseconds that fits 64 bits")
        );
        assert_eq!(
            said("a,b,c\n1,2,3\n"),
            format!("{file}:2: 3 columns, 4 are needed")
        );
        assert_eq!(
            said("1,2,3,4\n"),
            format!("{file}:1: the first line must name the columns")
        );
        assert!(said("a,b,c,d\n9223372036854775808,2,3,4\n").contains("column 1"));
        assert!(said(&format!("a\n{}\n", "1".repeat(10_000))).ends_with("a line of 4096 bytes or more"));
        assert!(said("").contains("no file there has a row"));
        std::fs::write(&path, "a,b,c,d\n1,2,3,4\n\n").expect("written");
        std::fs::write(made.dir.path().join("truth.csv"), "dev_time\n").expect("written");
        let failure = aligned(&fit(&made))
            .map(|_| ())
            .expect_err("no times")
            .to_string();
        assert!(failure.contains("truth.csv: no row"), "{failure}");
        let of_a_file = Fit {
            evidence: path.clone(),
            ..fit(&made)
        };
        let failure = aligned(&of_a_file)
            .map(|_| ())
            .expect_err("no folder")
            .to_string();
        assert!(
            failure.ends_with("is a file; name the folder that holds exchanges.csv or offsets.csv"),
            "{failure}"
        );
        std::fs::remove_file(&path).expect("removed");
        let failure = aligned(&fit(&made))
            .map(|_| ())
            .expect_err("no exchanges")
            .to_string();
        assert!(failure.contains("is no folder of evidence"), "{failure}");
    }

    #[test]
    fn offsets_that_another_recorder_kept_place_a_clock_without_bound() {
        let made = make(1_200, &[(0, 4_000_000_000)]);
        std::fs::remove_file(made.dir.path().join("exchanges.csv")).expect("removed");
        // Every 5 s what was true 1.2 s before, to within 40 us; each third is the one before it, told again.
        let mut offsets = "time,offset\n".to_owned();
        let mut told = 0;
        for (nth, (device, hub)) in (0i64..).zip(made.truth.iter().step_by(5)) {
            if nth % 3 != 2 {
                told = hub - device + (nth * 7_919) % 80_001 - 40_000 + 1_200_000_000 / 50_000;
            }
            // Off any grid, so that no coarse clock is seen.
            writeln!(offsets, "{},{told}", device + (nth * nth * 7_919) % 100_003)
                .expect("a string takes all");
        }
        std::fs::write(made.dir.path().join("offsets.csv"), offsets).expect("written");
        let scored = |offset_age| {
            let (report, score) = score(&Fit {
                offset_age,
                ..fit(&made)
            });
            assert_eq!((report.unbounded, report.points), (1_200, 1_200));
            assert_eq!(report.observations, 160);
            assert!(
                report.warnings[0].contains("do not say how far off"),
                "{report:?}"
            );
            score
        };
        let (as_stamped, by_age) = (scored(0.0), scored(1.2));
        // 1.2 s at 20 ppm.
        assert!((as_stamped.bias_us.abs() - 24.0).abs() < 6.0, "{as_stamped:?}");
        assert!(by_age.rms_us < 12.0, "{by_age:?}");
    }

    #[test]
    fn stamps_that_can_not_be_give_no_false_bound() {
        let made = make(5, &[(0, 0)]);
        let path = made.dir.path().join("exchanges.csv");
        for rows in [
            "",
            "5000000000,0,1,5001000000\n",
            "9223372036854775807,-9223372036854775808,9223372036854775807,-9223372036854775808\n",
            "5002000000,0,1,5001000000\n",
        ] {
            std::fs::write(&path, format!("a,b,c,d\n{rows}")).expect("written");
            let (rows, _) = match aligned(&fit(&made)) {
                Ok(aligned) => aligned,
                Err(failure) => {
                    assert!(
                        rows.is_empty() && failure.to_string().contains("no file there has a row"),
                        "{failure}"
                    );
                    continue;
                }
            };
            for row in rows {
                let error = row.hub_ns.abs_diff(row.moment.truth_ns.expect("known"));
                assert!(
                    error as f64 <= row.err_ns,
                    "{} {} {}",
                    row.hub_ns,
                    error,
                    row.err_ns
                );
            }
        }
    }
}
