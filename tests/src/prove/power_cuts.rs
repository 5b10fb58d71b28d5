//! The power goes at every operation of scripted recordings, for many subsets of what was not synced, and again while
//! recovering.
//!
//! A script runs once, and the disk is kept as it was before each of its operations. From each of these a crash begins:
//! death of the process or a power cut, by the dice; then the hub opens again, and may crash again while it does, up to
//! three times in all. At the end it opens on a disk without faults and is held against the [`script::Promise`]; one state in
//! eight also records on to its end, is sealed and compacted, and its Parquet is counted.

use super::script::{self, Failure, SCRIPTS, Stage, broken, check_published, judge_published, steps};
use super::{Planted, Run, Tally};
use marey_engine::disk::Disk;
use marey_engine::disk::faulty::{FaultyDisk, Plan};
use marey_engine::disk::memory::{Cut, Dice, MemoryDisk};
use marey_engine::time::simulated::SimulatedKernel;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Crashes of a state beyond the first, at most.
const DEEPER: u64 = 2;

/// Operations within which a recovery is cut; most take fewer, and then come through.
const RECOVERY_OPERATIONS: u64 = 48;

/// At least `count` states: every operation of every script, as often as it takes.
pub fn run(run: &Run) -> Tally {
    let mut tally = Tally::new("states after power cuts");
    let recorded: Vec<Recorded> = (0..SCRIPTS)
        .map(|number| Recorded::new(number, run.planted))
        .collect();
    let operations: u64 = recorded.iter().map(|script| script.states.len() as u64).sum();
    tally.figures.insert("operations", operations as f64);
    tally.figures.insert("scripts", SCRIPTS as f64);
    for script in &recorded {
        if let Some(failure) = &script.failure {
            tally.fail(format!("script {}, undisturbed: {failure}", script.number));
        }
    }
    let subsets = run.count.div_ceil(operations).max(1);
    // Neighbouring operations go to one thread, so that threads don't share pages of the same disk.
    let next = AtomicU64::new(0);
    let work = || {
        let mut tally = Tally::new("states after power cuts");
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= operations || tally.failures.len() >= Tally::MOST {
                return tally;
            }
            let (script, operation) = place(&recorded, at);
            for subset in 0..subsets {
                if run
                    .only
                    .is_some_and(|only| only != [script.number, operation, subset])
                {
                    continue;
                }
                let seed = run.seed ^ (at << 24) ^ subset;
                let done = catch_unwind(AssertUnwindSafe(|| {
                    script.crash(operation, subset, seed, &mut tally)
                }));
                if let Err(failure) = done.unwrap_or_else(|_| Err("a panic".into())) {
                    tally.fail(format!(
                        "--seed {} --only {},{operation},{subset}: {failure}",
                        run.seed, script.number
                    ));
                }
                tally.done += 1;
            }
            if run.progress && at.is_multiple_of(256) {
                eprint!("\r{at} of {operations} operations, {subsets} states each   ");
            }
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..run.threads).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            match thread.join() {
                Ok(part) => tally.add(part),
                Err(panic) => tally.fail(format!("a panic: {:?}", panic.downcast_ref::<String>())),
            }
        }
    });
    if run.progress {
        eprintln!();
    }
    tally
}

fn place(recorded: &[Recorded], mut at: u64) -> (&Recorded, u64) {
    for script in recorded {
        let here = script.states.len() as u64;
        if at < here {
            return (script, at);
        }
        at -= here;
    }
    unreachable!("below the sum of all")
}

/// A script that ran to its end, and the disk as it was on the way.
struct Recorded {
    number: u64,
    stage: Stage,
    /// Before each operation, and after the last.
    states: Vec<MemoryDisk>,
    failure: Option<String>,
}

impl Recorded {
    fn new(number: u64, planted: Option<Planted>) -> Self {
        let disk = FaultyDisk::new(MemoryDisk::new(), Plan::default());
        let kernel = SimulatedKernel::new(1, 0);
        // Bugs begin with the recording: making a hub would trip over them for another reason.
        if planted.is_some() {
            disk.set_plan(plan(planted, script::begins()));
        }
        disk.keep_states();
        let mut stage = Stage::default();
        let failure = stage.play(&steps(number), &disk, &kernel).err();
        Self {
            number,
            stage,
            states: disk.into_states(),
            failure: failure.map(|error| error.to_string()),
        }
    }

    /// One state: crashes by the dice, a recovery that comes through, judgement.
    fn crash(&self, operation: u64, subset: u64, seed: u64, tally: &mut Tally) -> Result<(), Failure> {
        let mut dice = Dice(seed);
        let disk = self.states[operation as usize].snapshot();
        let mut promise = self.stage.promise(operation);
        // The first subset of each operation is the plainest: all that was not synced is gone.
        let plain = subset == 0;
        let deeper = if plain {
            0
        } else {
            dice.below(2) * (1 + dice.below(DEEPER))
        };
        for depth in 0..deeper {
            harm(&disk, &mut dice, tally);
            judge_published(&disk, promise.generation)?;
            let cut_at = Some(dice.below(RECOVERY_OPERATIONS));
            let faulty = FaultyDisk::new(
                disk.clone(),
                Plan {
                    cut_at,
                    ..Plan::default()
                },
            );
            let as_disk: Arc<dyn Disk> = Arc::new(faulty.clone());
            // Whether it comes through or not: what a welcome said until then is promised.
            let reopened = promise.reopen(&as_disk, &booted(depth)).map(drop);
            if let Some(failure) = broken(&reopened) {
                return Err(failure.into());
            }
            tally.fault("crashes while recovering", u64::from(faulty.faults() > 0));
        }
        let cut = disk.power_cut((!plain).then_some(&mut dice));
        count(&cut, tally);
        judge_published(&disk, promise.generation)?;
        let as_disk: Arc<dyn Disk> = Arc::new(disk.clone());
        let store = promise.reopen(&as_disk, &booted(deeper))?;
        promise.judge(&disk)?;
        match dice.below(8) {
            0 => {
                promise.finish(&store)?;
                promise.judge(&disk)?;
                tally.fault("recorded on to the end", 1);
            }
            1 => check_published(&disk)?,
            _ => {}
        }
        Ok(())
    }
}

/// Death of the process, after which everything that was written can be read, or a power cut.
fn harm(disk: &MemoryDisk, dice: &mut Dice, tally: &mut Tally) {
    match dice.below(2) {
        0 => count(&disk.power_cut(Some(dice)), tally),
        _ => tally.fault("deaths of the process", 1),
    }
}

fn count(cut: &Cut, tally: &mut Tally) {
    for (kind, times) in [
        ("power cuts", 1),
        ("writes lost", cut.writes_lost),
        ("writes kept", cut.writes_kept),
        ("writes torn", cut.writes_torn),
        ("writes as zeros", cut.writes_zeroed),
        ("names lost", cut.names_lost),
        ("names kept", cut.names_kept),
    ] {
        tally.fault(kind, times);
    }
}

/// A kernel that was booted after the crash.
fn booted(depth: u64) -> SimulatedKernel {
    SimulatedKernel::new(2 + depth, 60_000_000_000 * (1 + depth as i64))
}

/// A disk with the planted bug from this operation on.
pub(super) fn plan(planted: Option<Planted>, planted_from: u64) -> Plan {
    Plan {
        skip_file_syncs: planted == Some(Planted::AckBeforeSync),
        skip_dir_syncs: planted == Some(Planted::NoDirectorySync),
        delete_before_publish: planted == Some(Planted::DeleteBeforePublish),
        planted_from,
        ..Plan::default()
    }
}
