//! SIGKILL at random moments: a hub as a process under live TLS load, killed again and again, while it starts, while it
//! records, while it seals. Acknowledged frames lost: 0. Samples twice: 0. All that was captured stands in Parquet.
//!
//! Owns: when it is killed. The [`rig`] is what is killed and what feeds it; the devices' process writes down each ack,
//! and its own account of what it captured, outside of the hub. A seed repeats a run's choices; the moments themselves
//! are the system's.

pub mod judge;
pub mod rig;

use super::{Run, Tally, rounds};
use crate::process::HubProcess;
use marey_engine::disk::memory::Dice;
use rig::Rig;
use std::time::Duration;

/// Kills `run.count` times, a new hub for each hundred.
pub fn run(run: &Run) -> Tally {
    if run.planted.is_some() {
        let mut tally = Tally::new("kills");
        let why = "nothing can be planted in the hub's own binary; try power-cuts or file-systems";
        tally.skipped.push(why.to_owned());
        return tally;
    }
    let most = run.count.div_ceil(run.threads as u64).clamp(1, KILLS_PER_HUB_MAX);
    rounds::all(run, "kills", &rounds::shares(run.count, most), |count, seed| {
        round(*count, seed)
    })
}

fn round(count: u64, seed: u64) -> Tally {
    let mut tally = Tally::new("kills");
    let mut dice = Dice(seed);
    // Every other hub writes its logs and rolling parts all the time.
    let settings: &[&str] = match seed % 2 {
        0 => &[],
        _ => &["--set", "session.live_interval_ms=300"],
    };
    let mut rig = Rig::start(None, seed, settings);
    // A part of the kills is kept for the time after the stop.
    let late = count / 6;
    let mut done = 0;
    while done < count - late {
        if !dice.roll().is_multiple_of(4) {
            rig.wait_for_acks();
        }
        pause(dice.below(300_000));
        kill(rig.take_hub(), "while it records", &mut tally);
        done += 1;
        while done < count - late && dice.roll().is_multiple_of(3) {
            let hub = rig.spawn();
            pause(dice.below(120_000));
            kill(hub, "while it starts", &mut tally);
            done += 1;
        }
        rig.up();
    }
    rig.wait_for_acks();
    rig.stop_session();
    for _ in 0..late {
        pause(dice.below(500_000));
        let what = match rig.session_state().as_str() {
            "stopping" => "after the stop",
            "sealed" => "after the seal",
            other => panic!("the session is {other}"),
        };
        kill(rig.take_hub(), what, &mut tally);
        rig.up();
    }
    rig.finish(seed, &mut tally);
    tally
}

fn kill(mut hub: HubProcess, what: &'static str, tally: &mut Tally) {
    assert!(
        hub.is_running(),
        "the hub ended by itself {what}: {}",
        hub.stderr()
    );
    hub.kill();
    tally.fault(what, 1);
    tally.done += 1;
}

fn pause(us: u64) {
    std::thread::sleep(Duration::from_micros(us));
}

/// A log that grows for ever would make each start slower than the one before.
const KILLS_PER_HUB_MAX: u64 = 100;
