//! Every operation of the scripted recordings fails, once and for ever, and every read; and the disk lies.
//!
//! Errors (EIO, no room, a write that stops half way): whatever the run said until then is held against the disk after
//! a restart that reads the cached pages, and after a power cut behind that: a sync that failed and then says yes may
//! not be believed. Lies (a write that lands elsewhere, a bit that flips): nothing can promise that all is there, so
//! what must hold is that no wrong value is delivered, and that `verify` names what is gone.

use super::script::{Failure, SCRIPTS, Stage, broken, steps};
use super::{Run, Tally};
use marey_engine::disk::Disk;
use marey_engine::disk::faulty::{Duration, FaultyDisk, Plan, ReadFault};
use marey_engine::disk::memory::{Dice, MemoryDisk};
use marey_engine::salvage::{Source, VerifyOptions, verify};
use marey_engine::time::simulated::SimulatedKernel;
use marey_engine::{OpenError, StorageError};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What goes wrong at one place of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Trouble {
    Operation {
        kind: io::ErrorKind,
        short: bool,
        duration: Duration,
    },
    Read(Duration),
    Misdirected(u64),
    BitRot,
}

const TROUBLES: [Trouble; 10] = [
    Trouble::Operation {
        kind: io::ErrorKind::Other,
        short: false,
        duration: Duration::Once,
    },
    Trouble::Operation {
        kind: io::ErrorKind::Other,
        short: false,
        duration: Duration::ForEver,
    },
    Trouble::Operation {
        kind: io::ErrorKind::StorageFull,
        short: false,
        duration: Duration::Once,
    },
    Trouble::Operation {
        kind: io::ErrorKind::StorageFull,
        short: false,
        duration: Duration::ForEver,
    },
    Trouble::Operation {
        kind: io::ErrorKind::StorageFull,
        short: true,
        duration: Duration::Once,
    },
    Trouble::Operation {
        kind: io::ErrorKind::StorageFull,
        short: true,
        duration: Duration::ForEver,
    },
    Trouble::Read(Duration::Once),
    Trouble::Read(Duration::ForEver),
    Trouble::Misdirected(4096),
    Trouble::BitRot,
];

/// Every place of every script with every trouble, or `count` of them spread evenly.
pub fn run(run: &Run) -> Tally {
    let mut tally = Tally::new("runs with a fault at one place");
    let scripts: Vec<(u64, [u64; 2])> = (0..SCRIPTS).map(|number| (number, undisturbed(number))).collect();
    let places: Vec<(u64, Trouble, u64)> = scripts
        .iter()
        .flat_map(|&(number, [operations, reads])| {
            TROUBLES.iter().flat_map(move |&trouble| {
                let places = match trouble {
                    Trouble::Read(_) => reads,
                    _ => operations,
                };
                (0..places).map(move |place| (number, trouble, place))
            })
        })
        .collect();
    tally.figures.insert("places", places.len() as f64);
    let stride = (places.len() as u64).div_ceil(run.count).max(1);
    let next = AtomicU64::new(run.seed % stride);
    let work = || {
        let mut tally = Tally::new("runs with a fault at one place");
        loop {
            let at = next.fetch_add(stride, Ordering::Relaxed);
            let Some(&(number, trouble, place)) = places.get(at as usize) else {
                return tally;
            };
            let which = TROUBLES
                .iter()
                .position(|known| *known == trouble)
                .unwrap_or_default() as u64;
            if run.only.is_some_and(|only| only != [number, which, place]) {
                continue;
            }
            if tally.failures.len() >= Tally::MOST {
                return tally;
            }
            let done = catch_unwind(AssertUnwindSafe(|| {
                one(number, trouble, place, run.seed, &mut tally)
            }));
            if let Err(failure) = done.unwrap_or_else(|_| Err("a panic".into())) {
                tally.fail(format!(
                    "--seed {} --only {number},{which},{place} ({trouble:?}): {failure}",
                    run.seed
                ));
            }
            tally.done += 1;
            if run.progress && (at / stride).is_multiple_of(256) {
                eprint!("\r{at} of {} places   ", places.len());
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

/// Operations and reads of a script that nothing disturbs.
fn undisturbed(number: u64) -> [u64; 2] {
    let disk = FaultyDisk::new(MemoryDisk::new(), Plan::default());
    let kernel = SimulatedKernel::new(1, 0);
    Stage::default()
        .play(&steps(number), &disk, &kernel)
        .expect("nothing fails");
    [disk.operations(), disk.reads()]
}

fn one(number: u64, trouble: Trouble, place: u64, seed: u64, tally: &mut Tally) -> Result<(), Failure> {
    let disk = MemoryDisk::new();
    let faulty = FaultyDisk::new(disk.clone(), plan(trouble, place));
    let mut stage = Stage::default();
    let played = stage.play(&steps(number), &faulty, &SimulatedKernel::new(1, 0));
    for (kind, times) in faulty.faults_by_kind() {
        tally.fault(kind, times);
    }
    if played.is_ok() {
        tally.fault("runs that came through", 1);
    }
    let mut dice = Dice(seed ^ (number << 40) ^ place);
    match trouble {
        Trouble::Misdirected(_) => lied(&stage, &faulty, tally),
        Trouble::BitRot => {
            let rotted = rot(&disk, &mut dice)?;
            tally.fault("flipped bits", u64::from(rotted));
            lied(&stage, &faulty, tally)
        }
        Trouble::Operation { .. } | Trouble::Read(_) => {
            if let Some(failure) = broken(&played) {
                return Err(failure.into());
            }
            failed(&stage, &faulty, &disk, &mut dice)
        }
    }
}

fn plan(trouble: Trouble, place: u64) -> Plan {
    match trouble {
        Trouble::Operation {
            kind,
            short,
            duration,
        } => Plan {
            fail_at: Some((place, kind, duration)),
            short_writes: short,
            ..Plan::default()
        },
        Trouble::Read(duration) => Plan {
            fail_reads: Some(ReadFault {
                path: "",
                at: place,
                duration,
            }),
            ..Plan::default()
        },
        Trouble::Misdirected(by) => Plan {
            misdirect_at: Some((place, by)),
            ..Plan::default()
        },
        Trouble::BitRot => Plan {
            cut_at: Some(place),
            ..Plan::default()
        },
    }
}

/// After an error: nothing that was acknowledged is lost, by a restart or by a power cut behind it.
fn failed(stage: &Stage, faulty: &FaultyDisk, disk: &MemoryDisk, dice: &mut Dice) -> Result<(), Failure> {
    let mut promise = stage.promise(faulty.operations());
    faulty.set_plan(Plan::default());
    let as_disk: Arc<dyn Disk> = Arc::new(faulty.clone());
    let kernel = SimulatedKernel::new(1, 0);
    kernel.advance(60_000_000_000);
    drop(promise.reopen(&as_disk, &kernel)?);
    promise.judge(disk)?;
    disk.power_cut((dice.below(4) > 0).then_some(dice));
    let as_disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let store = promise.reopen(&as_disk, &SimulatedKernel::new(2, 120_000_000_000))?;
    promise.judge(disk)?;
    if dice.below(4) == 0 {
        promise.finish(&store)?;
        promise.judge(disk)?;
    }
    Ok(())
}

/// After a lie: what can't be delivered is named, by opening or by verifying; a wrong value never comes.
fn lied(stage: &Stage, faulty: &FaultyDisk, tally: &mut Tally) -> Result<(), Failure> {
    let disk = faulty.disk();
    let promise = stage.promise(faulty.operations());
    match promise.judge(disk) {
        Ok(_) => Ok(()),
        Err(failure) if failure.contains("twice") || failure.contains("not what was sent") => {
            Err(failure.into())
        }
        Err(missing) => {
            let base: Arc<dyn Disk> = Arc::new(disk.clone());
            let named = match Source::on(base, Path::new("")) {
                Ok(source) => !verify(&source, &VerifyOptions::default(), &|_| {})?
                    .faults
                    .is_empty(),
                // It says that this is no hub any more, which names it.
                Err(_) => true,
            };
            // What is only in the journal is not in the logs until a hub opens.
            let as_disk: Arc<dyn Disk> = Arc::new(disk.snapshot());
            let mut promise = promise.clone();
            let reopened = promise
                .reopen(&as_disk, &SimulatedKernel::new(2, 120_000_000_000))
                .map(drop);
            let complete = reopened.is_ok() && promise.judge(&*as_disk).is_ok();
            // A journal record that is gone, and that none came after, leaves no trace: but the device knows what it was
            // told, so its next welcome says what is lost, and the log keeps a note of it.
            let welcomed = broken(&reopened).is_some();
            // A hub that does not open says which file is damaged; what the journal has waits there.
            let refused = reopened.as_ref().is_err_and(|failure| {
                let failure = failure.downcast_ref::<OpenError>();
                matches!(failure, Some(OpenError::Storage(StorageError::Damaged { .. })))
            });
            // What an opening on the way has named and mended stands in nothing that is left. It told of what was gone
            // then: a frame that went later has to be named by something else.
            let told = promise
                .lost(&*as_disk)
                .is_ok_and(|lost| lost.is_subset(&stage.told));
            tally.fault(
                "losses that an opening on the way named",
                u64::from(told && !named && !complete),
            );
            tally.fault("damaged files that opening named", u64::from(refused && !named));
            tally.fault("losses that verify named", u64::from(named && !complete));
            tally.fault("losses that the welcome named", u64::from(welcomed && !named));
            match named || complete || welcomed || refused || told {
                true => Ok(()),
                false => Err(format!("nothing names it: {missing}").into()),
            }
        }
    }
}

/// A bit flips in one of the files of the recording.
fn rot(disk: &MemoryDisk, dice: &mut Dice) -> io::Result<bool> {
    let mut files = Vec::new();
    collect(disk, Path::new(""), &mut files)?;
    files.retain(|(path, bytes)| *bytes > 0 && !path.to_string_lossy().ends_with(".redb"));
    if files.is_empty() {
        return Ok(false);
    }
    let (path, bytes) = &files[dice.below(files.len() as u64) as usize];
    let bit = dice.below(8 * bytes);
    disk.damage(path, |content| content[(bit / 8) as usize] ^= 1 << (bit % 8))?;
    Ok(true)
}

fn collect(disk: &MemoryDisk, dir: &Path, files: &mut Vec<(std::path::PathBuf, u64)>) -> io::Result<()> {
    for entry in disk.list(dir)? {
        let path = dir.join(&entry.name);
        match entry.stat.is_dir {
            true => collect(disk, &path, files)?,
            false => files.push((path, entry.stat.bytes)),
        }
    }
    Ok(())
}
