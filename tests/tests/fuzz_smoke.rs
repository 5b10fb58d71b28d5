//! The fuzz targets' bodies over the vectors, and over copies of them with a few bytes changed. The seed is fixed: what
//! fails here fails again. `MAREY_FUZZ_MUTATIONS` sets how many copies of each vector.
//!
//! This is a smoke test; the search is cargo-fuzz's (see `fuzz/README.md`).

#![allow(clippy::disallowed_methods, reason = "reads the vectors; no hub is near")]

#[path = "../../fuzz/src/lib.rs"]
mod bodies;

use marey_engine::disk::memory::Dice;
use std::path::{Path, PathBuf};

#[test]
fn wire_frame() {
    smoke(&["frame"], 60, bodies::wire_frame);
}

#[test]
fn log_scan() {
    smoke(&["log", "damaged"], 12, bodies::log_scan);
}

#[test]
fn journal() {
    let mut seeds = vectors(&["journal"], "bin");
    // Cut after what was written, so that changes find something.
    let mut recorded = bodies::recorded_journal();
    recorded.truncate(
        recorded
            .iter()
            .rposition(|&byte| byte != 0)
            .expect("it holds frames")
            .next_multiple_of(8),
    );
    let holds_frames = recorded
        .windows(4)
        .filter(|bytes| *bytes == marey_format::frame::MARK)
        .count();
    assert!(holds_frames >= 4, "only {holds_frames} frames in the block");
    seeds.push(recorded);
    mutate(&seeds, 12, bodies::journal);
}

#[test]
fn hello() {
    smoke(&["wire"], 200, |bytes| {
        bodies::hello(bytes);
        // Whole, in pieces of two sizes.
        bodies::hello(&[&[255], bytes].concat());
        bodies::hello(&[&[6], bytes].concat());
    });
}

#[test]
fn declaration() {
    let json: Vec<Vec<u8>> = vectors(&["frame"], "json")
        .iter()
        .filter_map(|bytes| {
            serde_json::from_slice::<serde_json::Value>(bytes)
                .ok()?
                .get("declaration")
                .cloned()
        })
        .map(|declaration| declaration.to_string().into_bytes())
        .collect();
    assert!(!json.is_empty());
    mutate(&json, 100, bodies::declaration);
}

#[test]
fn clock_evidence() {
    // Exchanges half a second apart on a clock that is 20 ppm fast, in the form that the body reads.
    let mut bytes = Vec::new();
    for i in 0..40i64 {
        let hub = 500_000_000 * i;
        let device = hub + hub / 50_000 + 7_000_000_000;
        bytes.push((i % 3) as u8);
        for stamp in [device, hub + 3_000_000, hub + 3_100_000, device + 6_000_000] {
            bytes.extend(stamp.to_le_bytes());
        }
    }
    mutate(&[bytes], 300, bodies::clock_evidence);
}

#[test]
fn replay_csv() {
    let files = [
        "timestamp,ax,ay,label\n1,0.5,-1e3,stairs\n2,,2,stairs\n2,nan,3,\"a \"\"b\"\"\"\n",
        "\u{feff}# from a watch\r\ntime [ms];acc_x (m/s^2);hr\r\n1000;1,5;60\r\n1010;2;61\r\n",
        "time_ns\tx\n-5\t1\n-4\t2\n",
    ];
    let files: Vec<_> = files.iter().map(|text| text.as_bytes().to_vec()).collect();
    mutate(&files, 300, bodies::replay_csv);
}

fn smoke(folders: &[&str], copies: u64, body: impl Fn(&[u8])) {
    let seeds = vectors(folders, "bin");
    assert!(seeds.len() >= 5, "only {} vectors in {folders:?}", seeds.len());
    mutate(&seeds, copies, body);
}

/// Runs the body on each seed, and on copies of it with something changed.
fn mutate(seeds: &[Vec<u8>], copies: u64, body: impl Fn(&[u8])) {
    let copies = std::env::var("MAREY_FUZZ_MUTATIONS")
        .ok()
        .map_or(copies, |n| n.parse().expect("a number of copies"));
    body(&[]);
    for (at, seed) in seeds.iter().enumerate() {
        body(seed);
        for copy in 0..copies {
            let mut dice = Dice(at as u64 * 1_000_003 + copy);
            let mut bytes = seed.clone();
            for _ in 0..=dice.below(3) {
                change(&mut bytes, seeds, &mut dice);
            }
            let what = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| body(&bytes)));
            assert!(
                what.is_ok(),
                "seed {at}, copy {copy}: {}",
                marey_format::types::hex(&bytes)
            );
        }
    }
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

fn vectors(folders: &[&str], ending: &str) -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests stands in the workspace");
    let mut paths: Vec<PathBuf> = Vec::new();
    for folder in folders {
        let entries = std::fs::read_dir(root.join("format-spec/vectors").join(folder)).unwrap();
        paths.extend(entries.map(|entry| entry.unwrap().path()));
    }
    paths.retain(|path| path.extension().is_some_and(|extension| extension == ending));
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}
