//! Corruption: every single bit of a sealed segment of 64 KiB flipped, and every length that it can be cut to.
//!
//! The hub is small: the segment, one more behind it, no manifest, no hash anywhere: what is found is found by the log
//! itself. What a harm must do is known beforehand and held against what `verify` and `recover` make of it: the frame that
//! it touches is lost and listed, every other one comes through. What stands around the segment, and larger harm, is the
//! business of [`kinds`].

pub mod frozen;
pub mod judge;
pub mod kinds;
pub mod recorded;

use super::{Run, Tally};
use judge::{Expected, Truth};
use marey_engine::disk::memory::Dice;
use recorded::{End, Script, record, segment_path};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

/// The segment's length.
pub const SEGMENT_BYTES: u64 = 64 << 10;
/// Bits to flip.
pub const BITS: u64 = SEGMENT_BYTES * 8;
/// All harms: each bit, then each length.
pub const HARMS: u64 = BITS + SEGMENT_BYTES;

/// Where the writer rolls it: short enough for the footer.
const ROLL_BYTES: u64 = 50 << 10;

/// All harms, or as many of them as are asked for, drawn without putting back; where all are asked for, the other kinds
/// as well.
pub fn run(run: &Run) -> Tally {
    let mut tally = Tally::new("harms to a sealed segment");
    let truth = match truth() {
        Ok(truth) => truth,
        Err(why) => {
            tally.fail(why);
            return tally;
        }
    };
    let harms = draw(run.count, run.seed);
    let next = AtomicU64::new(0);
    let step = (harms.len() as u64 / 100).max(1);
    let worker = || {
        let mut tally = Tally::new("harms to a sealed segment");
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(&harm) = harms.get(at as usize) else {
                return tally;
            };
            if run.progress && at.is_multiple_of(step) {
                eprint!("\r{at} of {}", harms.len());
            }
            one(&truth, Harm::numbered(u64::from(harm)), &mut tally);
            if tally.failures.len() >= Tally::MOST {
                return tally;
            }
        }
    };
    let tallies: Vec<Tally> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..run.threads.max(1)).map(|_| scope.spawn(worker)).collect();
        workers
            .into_iter()
            .filter_map(|worker| worker.join().ok())
            .collect()
    });
    if run.progress {
        eprintln!("\r{} of {}", harms.len(), harms.len());
    }
    if tallies.len() < run.threads.max(1) {
        tally.fail("a worker panicked outside of a harm");
    }
    tallies.into_iter().for_each(|other| tally.add(other));
    if run.count >= HARMS {
        tally.add(kinds::run(run, 1));
    }
    tally
}

/// One harm.
#[derive(Clone, Copy, Debug)]
enum Harm {
    Bit { byte: u64, bit: u8 },
    Length { bytes: u64 },
}

impl Harm {
    fn numbered(number: u64) -> Self {
        match number.checked_sub(BITS) {
            None => Self::Bit {
                byte: number / 8,
                bit: (number % 8) as u8,
            },
            Some(bytes) => Self::Length { bytes },
        }
    }
}

impl std::fmt::Display for Harm {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bit { byte, bit } => write!(to, "bit {bit} of byte {byte} flipped"),
            Self::Length { bytes } => write!(to, "cut to {bytes} bytes"),
        }
    }
}

pub fn truth() -> Result<Truth, String> {
    let script = Script {
        end: End::Closed,
        rounds: 8,
        samples: 150,
        flush: 6,
        segment_bytes: ROLL_BYTES,
        first_bytes: Some(SEGMENT_BYTES),
    };
    let recorded = record(&script).map_err(|error| error.to_string())?;
    Truth::of(recorded)
}

/// The numbers of `count` harms, each at most once.
fn draw(count: u64, seed: u64) -> Vec<u32> {
    let mut harms: Vec<u32> = (0..HARMS as u32).collect();
    if count >= HARMS {
        return harms;
    }
    let mut dice = Dice(seed);
    for at in 0..count {
        let from = at + dice.below(HARMS - at);
        harms.swap(at as usize, from as usize);
    }
    harms.truncate(count as usize);
    harms
}

fn one(truth: &Truth, harm: Harm, tally: &mut Tally) {
    let path = segment_path(1);
    let hub = &truth.recorded.hub;
    let (harmed, from, bytes, kind) = match harm {
        Harm::Bit { byte, bit } => {
            let harmed = hub.change(&path, |bytes| bytes[byte as usize] ^= 1 << bit);
            (harmed, byte, 1, "bits flipped")
        }
        Harm::Length { bytes } => {
            let harmed = hub.change(&path, |content| content.truncate(bytes as usize));
            (harmed, bytes, SEGMENT_BYTES - bytes, "lengths cut")
        }
    };
    tally.done += 1;
    tally.fault(kind, 1);
    let touched: BTreeSet<_> = truth.touched(&path, from, bytes);
    let verdict = match truth.judge(&harmed, ROLL_BYTES, &Expected::Lost(touched)) {
        Ok(verdict) => verdict,
        Err(why) => return tally.fail(format!("{harm}: {why}")),
    };
    let named = verdict
        .verified
        .iter()
        .flat_map(|report| &report.faults)
        .any(|fault| {
            let offset = fault.offset.unwrap_or(0);
            let behind = fault.bytes.map_or(u64::MAX, |bytes| offset + bytes.max(1));
            fault.file == path && offset <= from && from < behind
        });
    if !verdict.found {
        tally.fail(format!("{harm}: verify found nothing"));
    } else if !named && matches!(harm, Harm::Bit { .. }) {
        tally.fail(format!(
            "{harm}: verify does not name the place: {:#?}",
            verdict.verified
        ));
    }
    let mut figure = |name, value: u64| *tally.figures.entry(name).or_default() += value as f64;
    figure("detected", u64::from(verdict.found));
    figure("frames recovered", verdict.recovered);
    figure("frames lost and listed", verdict.lost);
}
