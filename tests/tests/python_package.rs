//! The Python package in `tools/python`: its own tests, its device against a hub that is killed under it, its reader on what
//! that hub published, and the example that draws a picture.

#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside of the hub, and waits in real time"
)]

use marey_tests::process::{self, HubProcess, PATIENCE, Running, workspace};
use marey_tests::python::{python_of_spark, run, run_with, script, system_python};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

#[test]
fn its_own_tests_pass_and_its_types_hold() {
    run(&script("check_package.py"), ["own"]);
}

/// Ten minutes of two sensors, in seconds; three kills.
#[test]
fn a_python_device_records_across_kills_exactly_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let (dir, bundles) = (folder.path().join("hub"), folder.path().join("bundles"));
    std::fs::create_dir(&bundles).expect("a folder");
    process::init(&dir);
    let mut hub = HubProcess::start(&dir, &[]);
    let ports = hub.ports();
    let bundle = hub.enroll(&bundles, "board");
    let mut command = Command::new(system_python());
    command
        .arg("-B")
        .arg(workspace().join("tools/python/examples/record.py"))
        .arg(&bundle)
        .arg("--buffer")
        .arg(folder.path().join("board.buffer"))
        .args(["--minutes", "10", "--speed", "60"]);
    let device = Running::start(process::clean(&mut command));
    hub.ask(&["session", "start", "walk"]).well();
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(1_500));
        hub.kill();
        std::thread::sleep(Duration::from_millis(300));
        hub = HubProcess::start_again(&dir, ports, &[]);
    }
    let said = device.wait(2 * PATIENCE).well();
    let said = said
        .stdout
        .lines()
        .last()
        .expect("what it says at the end")
        .to_owned();
    let known: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(
        (&known["seconds"], &known["durable"], &known["acknowledged"]),
        (&600.into(), &true.into(), &(600 * 300).into()),
        "{said}"
    );
    hub.ask(&["session", "stop", "walk", "--wait"]).well();
    hub.stop();
    let dir_arg = dir.to_str().expect("a path");
    run(&script("check_package.py"), ["recorded", dir_arg, said.as_str()]);

    let picture = folder.path().join("two.png");
    let example = workspace().join("tools/python/examples/two_streams.py");
    let drawn = run(
        &example,
        [
            dir_arg,
            "heart",
            "motion",
            "--out",
            picture.to_str().expect("a path"),
        ],
    );
    assert!(
        drawn.stdout.contains("walk, generation 1: complete"),
        "{}",
        drawn.stdout
    );
    assert!(drawn.stdout.contains("0 problems"), "{}", drawn.stdout);
    let png = std::fs::read(&picture).expect("a picture");
    assert!(
        png.starts_with(b"\x89PNG") && png.len() > 20_000,
        "{} bytes",
        png.len()
    );
}

#[test]
fn the_first_ten_minutes_are_as_they_are_told() {
    let folder = tempfile::tempdir().expect("a folder");
    run(
        &script("check_package.py"),
        [Path::new("minutes"), process::marey(), folder.path()],
    );
}

#[test]
fn every_recipe_runs_on_a_fresh_demo() {
    let folder = tempfile::tempdir().expect("a folder");
    let demo = folder.path().join("marey-demo");
    process::run([Path::new("demo"), Path::new("--dir"), &demo]).well();
    run(&script("check_package.py"), [Path::new("recipes"), folder.path()]);
}

#[test]
fn the_recipe_for_spark_runs() {
    let folder = tempfile::tempdir().expect("a folder");
    let demo = folder.path().join("marey-demo");
    process::run([Path::new("demo"), Path::new("--dir"), &demo]).well();
    run_with(python_of_spark(), &script("check_spark.py"), [folder.path()]);
}
