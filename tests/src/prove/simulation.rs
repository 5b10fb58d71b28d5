//! The whole hub and its devices in simulated time, driven by one seed.
//!
//! What runs is what ships: the server's protocol, connections, queue, committer and keeper of sessions without sockets
//! (`marey_server::stepped`), the client's captures, buffers, conversation and prober without a thread
//! (`marey_device::client::stepped`), and the engine on a disk in memory that forgets what was not synced. An event queue
//! takes the place of network, scheduler and clocks.
//!
//! What goes wrong is drawn from the seed: connections cut at any byte, pieces, bytes of an old connection after the new
//! one, vanished peers; crashes and reboots of devices; clocks that drift, stand still and jump; deaths of the hub and
//! power cuts at any operation of the disk, while recovering too; failed operations, slow disks and full ones.
//!
//! What is held against the devices' own books, at each event or at the end: an ack is durable when it is said (the power
//! is cut right behind some), each acknowledged frame is there once, whole and in order, nothing is invented, every value
//! in Parquet is what was captured, the truth lies within every bound, the receipt says what is so, and when faults end all
//! comes to rest. A seed replayed gives the same hash over all that was sent and happened.

mod actor;
mod clock;
mod hub;
mod logs;
mod network;
mod oracle;
mod scenario;
mod sealed;
mod trace;
mod world;

use super::{Planted, Run, Tally};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use world::World;

/// So many seeds from the first find each planted bug: a proof that finds nothing there proves nothing anywhere. The first
/// that does is the canary; which one it is moves with every operation that the engine does more or less.
pub const CANARY_SEEDS: u64 = 400;

/// What came of one seed.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The hash of all that happened.
    pub trace: [u8; 32],
    pub tally: Tally,
    /// The promise that was broken.
    pub failure: Option<String>,
}

/// Runs `count` seeds from `seed` on; one in [`REPLAYED_ONE_IN`] twice.
pub fn run(run: &Run) -> Tally {
    let next = AtomicU64::new(0);
    let whole = Mutex::new(Tally::new("seeds"));
    std::thread::scope(|scope| {
        for _ in 0..run.threads.max(1) {
            scope.spawn(|| {
                let mut mine = Tally::new("seeds");
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= run.count || mine.failures.len() >= Tally::MOST {
                        break;
                    }
                    one(run, run.seed.wrapping_add(at), at, &mut mine);
                    if run.progress && at % 1_000 == 999 {
                        eprintln!("{} of {} seeds", at + 1, run.count);
                    }
                }
                whole
                    .lock()
                    .unwrap_or_else(|poisoned| poisoned.into_inner())
                    .add(mine);
            });
        }
    });
    whole
        .into_inner()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn one(run: &Run, seed: u64, at: u64, tally: &mut Tally) {
    let outcome = simulate(seed, run.planted);
    if let Some(failure) = &outcome.failure {
        tally.fail(format!("seed {seed}: {failure}"));
    }
    if at.is_multiple_of(REPLAYED_ONE_IN) {
        let again = simulate(seed, run.planted);
        *tally.figures.entry("seeds replayed").or_default() += 1.0;
        if again.trace != outcome.trace {
            tally.fail(format!("seed {seed} gives another trace when it is replayed"));
        }
    }
    tally.add(outcome.tally);
    tally.done += 1;
}

/// One seed from its beginning to its end, with a bug.
pub fn simulate(seed: u64, bug: Option<Planted>) -> Outcome {
    live(seed, bug, bug)
}

/// The very world in which a bug is hunted, without it: nothing may be found.
pub fn without_the_bug(seed: u64, hunts: Planted) -> Outcome {
    live(seed, Some(hunts), None)
}

fn live(seed: u64, hunts: Option<Planted>, bug: Option<Planted>) -> Outcome {
    let lived = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(seed, hunts, bug);
        world.live();
        if world.failure.is_none()
            && let Err(why) = judge(&mut world)
        {
            world.fail(why);
        }
        let failure = world.failure.take();
        world.note("over", 0, failure.as_deref().unwrap_or_default().as_bytes());
        let mut tally = std::mem::take(&mut world.tally);
        tally.faults.retain(|_, times| *times > 0);
        *tally.figures.entry("events").or_default() += world.trace.events() as f64;
        Outcome {
            trace: world.trace.clone().finish(),
            tally,
            failure,
        }
    }));
    lived.unwrap_or_else(|panic| Outcome {
        trace: [0; 32],
        tally: Tally::new("seeds"),
        failure: Some(format!("PANIC: {}", said(&*panic))),
    })
}

/// Everything is at rest: what is there is held against what the devices know.
fn judge(world: &mut World) -> Result<(), String> {
    world.close_hub()?;
    let disk = world.station.disk.clone();
    let logs = world.actors.iter().map(|actor| logs::missing(&disk, actor));
    let logs = logs.collect::<Result<Vec<_>, _>>()?;
    let mut figure = |name: &'static str, value: f64| *world.tally.figures.entry(name).or_default() += value;
    let frames: usize = logs.iter().map(|held| held.frames.len()).sum();
    figure("frames held against the devices' lists", frames as f64);
    if world.scenario.seals {
        let looked = sealed::judge(world, &logs)?;
        let mut figure =
            |name: &'static str, value: f64| *world.tally.figures.entry(name).or_default() += value;
        figure("sessions sealed", 1.0);
        figure("of them complete", f64::from(u8::from(looked.complete)));
        figure(
            "later generations",
            f64::from(looked.generations.saturating_sub(1)),
        );
        figure("rows held against the samples", looked.rows as f64);
        figure("bounds held against the truth", looked.bounded as f64);
        figure(
            "rows of clocks that broke the rules",
            looked.of_broken_clocks as f64,
        );
        figure("of them outside of their bound", looked.broken_bounds as f64);
    }
    Ok(())
}

fn said(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_default()
}

/// One seed in so many is run twice and must give the same trace.
pub const REPLAYED_ONE_IN: u64 = 20;
