//! `tests/clock-table`, which puts alignment beside LSL + pyxdf, on scenarios that it simulates itself; and what stands in
//! for pyxdf there, on offsets whose line is known.

#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside of the hub, and waits in real time"
)]

use marey_tests::process::{PATIENCE, Ran, finish, marey, workspace};
use marey_tests::python::system_python;
use std::process::Command;

fn python(arguments: &[&str]) -> Ran {
    let mut command = Command::new(system_python());
    command
        .arg("-B")
        .args(arguments)
        .current_dir(workspace().join("tests"));
    finish(&mut command, PATIENCE)
}

#[test]
fn the_table_simulates_every_scenario_and_the_bound_holds_in_each() {
    let marey = marey().to_string_lossy();
    let ran = python(&[
        "clock-table",
        "--simulate",
        "--hours",
        "0.1",
        "--runs",
        "2",
        "--marey",
        &marey,
    ]);
    assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);
    let lines: Vec<Vec<&str>> = ran
        .stdout
        .lines()
        .skip(1)
        .take_while(|line| !line.is_empty())
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(lines.len(), 11, "{}", ran.stdout);
    for line in lines {
        assert_eq!(line.len(), 10, "{line:?}");
        assert_eq!((line[4], line[5]), ("100.000%", "100.000%"), "{line:?}");
        let times: f64 = line[3].parse().expect("a number");
        // Nobody sees how much longer one way takes than the other.
        assert!(times > if line[0] == "asym-4g" { 0.5 } else { 2.0 }, "{line:?}");
    }
}

#[test]
fn what_stands_in_for_pyxdf_cuts_at_a_reset_and_is_moved_little_by_a_few_wrong_offsets() {
    let ran = python(&["-c", LINES]);
    assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);
}

/// Two lives of a clock, 20 ppm slow and then 30 ppm fast, with three offsets that are off by 50 ms.
const LINES: &str = r#"
from lsl_clock import aligned_here, pieces_between_resets

def offset(life, time):
    return 7_000_000_000_000 + time // 50_000 if life == 0 else 9_000_000_000_000 - time * 3 // 100_000

lives = [[begin + 5_000_000_000 * nth for nth in range(120)] for begin in (2_000_000_000_000, 3_000_000_000)]
pairs = [(time, offset(life, time)) for life, times in enumerate(lives) for time in times]
for wrong in (7, 60, 200):
    pairs[wrong] = (pairs[wrong][0], pairs[wrong][1] + 50_000_000)
assert [len(piece) for piece in pieces_between_resets(pairs)] == [120, 120]
stamps = [(life, time + 1_234_567) for life, times in enumerate(lives) for time in times[:-1]]
placed = aligned_here(pairs, [time for _, time in stamps])
worst = max(abs(time + offset(life, time) - hub) for (life, time), hub in zip(stamps, placed))
# Least squares would be off by 400 us and more.
assert worst < 20_000, worst
assert aligned_here(pairs[:1], [5]) == [5 + pairs[0][1]]
"#;
