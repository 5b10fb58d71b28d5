//! Cuts of a file system under the hub's own binary, with devices that record over TLS meanwhile.
//!
//! After the cut the hub goes on running on a disk that fails every call: it must say so at `/ready` and acknowledge
//! nothing more. Then it is killed, the disk comes back, and the hub is started again.

use super::volume::{Cut, Kind, Volume};
use crate::prove::Tally;
use crate::prove::kills::rig::Rig;
use marey_engine::disk::memory::Dice;
use std::time::Duration;

pub(super) fn round(kind: Kind, count: u64, seed: u64) -> Tally {
    let mut tally = Tally::new(super::CUTS);
    if let Err(why) = cuts(kind, count, seed, &mut tally) {
        tally.fail(format!("seed {seed}, the whole hub on {}: {why}", kind.name()));
    }
    tally
}

fn cuts(kind: Kind, count: u64, seed: u64, tally: &mut Tally) -> Result<(), String> {
    let mut dice = Dice(seed);
    let mut volume = Volume::make(kind, VOLUME_BYTES, "")?;
    volume.mount()?;
    let mut rig = Rig::start(Some(&volume.point().join("hub")), seed, &SETTINGS);
    for _ in 0..count {
        rig.wait_for_acks();
        pause(dice.below(300_000));
        if dice.below(3) == 0 {
            // What was written before the kill can be read after it, and is no more durable for that.
            rig.take_hub().kill();
            rig.up();
            pause(dice.below(200_000));
        }
        volume.cut(Cut::Hard)?;
        let why = rig.wait_until_it_refuses();
        if !why.contains("Input/output error") {
            return Err(format!("it does not name the disk's error: {why}"));
        }
        if !rig.hub().is_running() {
            return Err(format!("the hub ended by itself: {}", rig.hub().stderr()));
        }
        rig.take_hub().kill();
        volume.come_back()?;
        rig.up();
        tally.done += 1;
        tally.fault("under the hub's binary", 1);
        tally.fault(kind.name(), 1);
    }
    rig.wait_for_acks();
    rig.finish(seed, tally);
    volume.unmount()
}

fn pause(us: u64) {
    std::thread::sleep(Duration::from_micros(us));
}

const VOLUME_BYTES: u64 = 512 << 20;

/// No room is kept free on a disk this small; logs and rolling parts are written all the time.
const SETTINGS: [&str; 8] = [
    "--set",
    "disk.floor_percent=0",
    "--set",
    "disk.floor_min_mib=0",
    "--set",
    "disk.floor_max_mib=0",
    "--set",
    "session.live_interval_ms=300",
];
