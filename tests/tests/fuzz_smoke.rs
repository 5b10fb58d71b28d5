//! The fuzz targets' bodies over their seeds, and over copies of them with a few bytes changed. The dice are fixed: what
//! fails here fails again. Each test says how many inputs it ran; `MAREY_FUZZ_EXECUTIONS` sets another number.
//!
//! This is a smoke test; the search is cargo-fuzz's (see `fuzz/README.md`), for which `write_seeds` writes the corpora.

#![allow(clippy::disallowed_methods, reason = "reads the vectors; no hub is near")]

#[path = "../../fuzz/src/lib.rs"]
mod bodies;

use bodies::{TARGETS, Target};
use marey_engine::disk::memory::Dice;
use std::collections::BTreeSet;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

macro_rules! smoke {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            smoke(stringify!($name));
        })*

        const TESTED: &[&str] = &[$(stringify!($name)),*];
    };
}

smoke! {
    wire_frame declaration names
    wire_message control_request http_head hello
    segment_parts log_scan recover
    journal_record journal
    time_packet clock_evidence
    csv_records replay_csv device_buffer device_bundle enrolment
    documents config protocol_file hub_folder
    upload_metadata api_cursor http_range file_path json_body
    store_ops
}

/// The table, the tests, the files and the manifest name the same targets.
#[test]
fn every_target_is_there() {
    let named: BTreeSet<&str> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(named.len(), TARGETS.len());
    assert_eq!(named, TESTED.iter().copied().collect());
    let fuzz = root().join("fuzz");
    let manifest = std::fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    let files = std::fs::read_dir(fuzz.join("fuzz_targets")).unwrap();
    let files: BTreeSet<String> = files
        .map(|file| {
            file.unwrap()
                .path()
                .file_stem()
                .unwrap()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    assert_eq!(named, files.iter().map(String::as_str).collect());
    for name in named {
        let listed = manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\""));
        assert!(listed, "fuzz/Cargo.toml lacks {name}");
    }
}

/// Writes the seeds of every target where cargo-fuzz looks for them.
#[test]
#[ignore = "writes fuzz/corpus, which only cargo-fuzz needs"]
fn write_seeds() {
    for target in TARGETS {
        let folder = root().join("fuzz/corpus").join(target.name);
        std::fs::create_dir_all(&folder).unwrap();
        let seeds = (target.seeds)();
        for (at, seed) in seeds.iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{at:03}")), seed).unwrap();
        }
        say(&format!("{}: {} seeds", folder.display(), seeds.len()));
    }
}

fn smoke(name: &str) {
    let target = TARGETS
        .iter()
        .find(|target| target.name == name)
        .expect("it is in the table");
    let executions = std::env::var("MAREY_FUZZ_EXECUTIONS")
        .ok()
        .map_or(target.smoke, |count| count.parse().expect("a number of inputs"));
    let seeds = (target.seeds)();
    assert!(!seeds.is_empty());
    let done = run(target, &seeds, executions);
    say(&format!(
        "fuzz {name}: {done} executions, 0 crashes ({} seeds)",
        seeds.len()
    ));
    assert!(done >= executions);
}

/// Runs the body on nothing, on each seed, and on changed copies in turn; how many that were.
fn run(target: &Target, seeds: &[Vec<u8>], executions: u64) -> u64 {
    try_one(target, &[], "nothing");
    for (at, seed) in seeds.iter().enumerate() {
        try_one(target, seed, &format!("seed {at}"));
    }
    let mut done = 1 + seeds.len() as u64;
    for copy in 0.. {
        for (at, seed) in seeds.iter().enumerate() {
            if done >= executions {
                return done;
            }
            let mut dice = Dice(at as u64 * 1_000_003 + copy);
            let mut bytes = seed.clone();
            for _ in 0..=dice.below(3) {
                change(&mut bytes, seeds, &mut dice);
            }
            try_one(target, &bytes, &format!("seed {at}, copy {copy}"));
            done += 1;
        }
    }
    done
}

fn try_one(target: &Target, bytes: &[u8], what: &str) {
    let result = catch_unwind(AssertUnwindSafe(|| (target.body)(bytes)));
    assert!(
        result.is_ok(),
        "{}, {what}: {}",
        target.name,
        marey_format::types::hex(bytes)
    );
}

fn change(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], dice: &mut Dice) {
    const NUMBERS: [u64; 8] = [0, 1, 7, 0x7F, 0xFFFF, 0x8000_0000, u64::MAX, 1 << 63];
    if bytes.is_empty() {
        bytes.push(dice.roll() as u8);
        return;
    }
    let place = dice.below(bytes.len() as u64) as usize;
    match dice.below(7) {
        0 => bytes[place] ^= 1 << dice.below(8),
        1 => bytes[place] = dice.roll() as u8,
        2 => bytes.truncate(place),
        3 => {
            // An integer where one may stand.
            let (place, width) = (place & !3, 4 << dice.below(2));
            let number = NUMBERS[dice.below(NUMBERS.len() as u64) as usize].to_le_bytes();
            let end = (place + width).min(bytes.len());
            bytes[place..end].copy_from_slice(&number[..end - place]);
        }
        4 => {
            let end = (place + dice.below(600) as usize).min(bytes.len());
            bytes[place..end].fill(0);
        }
        5 => {
            // A piece of it once more.
            let end = (place + 8 * dice.below(40) as usize).min(bytes.len());
            let piece = bytes[place..end].to_vec();
            let to = dice.below(bytes.len() as u64) as usize;
            bytes.splice(to..to, piece);
        }
        _ => {
            let other = &seeds[dice.below(seeds.len() as u64) as usize];
            let from = dice.below(other.len() as u64 + 1) as usize;
            bytes.truncate(place);
            bytes.extend_from_slice(&other[from..]);
        }
    }
}

/// Past the capture of the tests' output: a count that nobody sees proves nothing.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests stands in the workspace")
        .to_owned()
}
