//! What one seed has in store: how many devices, what they are like, and what goes wrong when.
//!
//! Drawn once, before anything runs, so that a fault does not depend on what came of the one before it.

use crate::prove::Planted;
use marey_device::{BufferOptions, Retain, WhenFull};
use marey_engine::disk::memory::Dice;

pub const MS: u64 = 1_000_000;
pub const SECOND: u64 = 1_000 * MS;

/// One seed's story.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub devices: Vec<DeviceScenario>,
    /// When the operator stops the session.
    pub stop_at_ns: u64,
    /// Whether it is stopped and sealed; else only its logs are judged.
    pub seals: bool,
    /// Whether rolling parts are written while it records.
    pub rolls: bool,
    /// When faults end and everything is to come to rest.
    pub calm_at_ns: u64,
    pub hub_faults: Vec<(u64, HubFault)>,
    pub device_faults: Vec<(u64, usize, DeviceFault)>,
    /// While a generation may be published, the hub dies so many operations on; true with the machine.
    pub deaths_while_sealing: Vec<(u64, bool)>,
    /// The same for generations after the first.
    pub deaths_while_sealing_again: Vec<(u64, bool)>,
    /// Least and most that bytes take from one side to the other.
    pub delay_ns: (u64, u64),
    /// Least and most that a commit takes.
    pub commit_ns: (u64, u64),
    /// In how many of a hundred writes the bytes come in pieces.
    pub pieces_percent: u64,
    /// Acks that are looked into, by their number since the beginning.
    pub looked_into: Vec<u64>,
    /// At the very end the power is cut once more.
    pub last_cut: bool,
}

/// One device.
#[derive(Clone, Debug)]
pub struct DeviceScenario {
    pub name: String,
    pub first_reading_ns: i64,
    pub rate_ppb: i64,
    pub starts_at_ns: u64,
    pub period_ns: u64,
    pub streams: usize,
    pub frame_bytes: usize,
    pub frame_age_ms: u64,
    pub is_durable: bool,
    pub buffer: BufferOptions,
    pub probe_interval_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HubFault {
    /// The process dies now; what it wrote can be read.
    Death,
    /// The machine goes off now.
    PowerCut,
    /// The process dies at the operation of the disk that comes so many later.
    DeathAt(u64),
    /// The machine goes off at that operation.
    PowerCutAt(u64),
    /// The operation that comes so many later fails, once.
    FailAt(u64),
    /// It goes down in good order and comes back.
    Restart,
    /// Commits take so much longer for a while.
    SlowDisk { by_ns: u64, for_ns: u64 },
    /// The disk is below its floor for a while.
    BelowFloor { for_ns: u64 },
    /// From the operation that comes so many later on the disk takes nothing, for a while.
    NoSpaceAt { operations: u64, for_ns: u64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceFault {
    /// The connection breaks; bytes that are under way arrive up to some one of them.
    Cut,
    /// Nothing arrives any more, and nobody is told.
    Vanish,
    /// The hub takes nothing that it is sent for a while, or the device does not.
    Stall { for_ns: u64 },
    /// The process dies and comes back after a while.
    Crash { off_ns: u64 },
    /// The device reboots: another boot, a clock near zero.
    Reboot { off_ns: u64 },
    /// The device sleeps and its clock with it, and nobody is told.
    Sleep { for_ns: u64 },
    /// The clock jumps forward.
    Jump { by_ns: u64 },
    /// The clock runs at another rate.
    Drift { rate_ppb: i64 },
}

impl Scenario {
    pub fn draw(seed: u64, planted: Option<Planted>) -> Self {
        let is_planted = planted.is_some();
        let dice = &mut Dice(seed ^ 0x5CE7_A210);
        let stop_at_ns = 1_500 * MS + dice.below(2_500) * MS;
        let calm_at_ns = stop_at_ns + 500 * MS + dice.below(2_500) * MS;
        let names = ["watch", "phone", "belt", "ring", "camera", "shoe"];
        let count = 2 + dice.below(3) as usize + dice.below(3) as usize;
        let devices: Vec<_> = names[..count].iter().map(|name| device(name, dice)).collect();
        // A clock that stands still while the hub reboots is outside of what a bound assumes: one or the other.
        let clocks_lie = dice.below(4) == 0;
        let hub_faults = (0..dice.below(4)).map(|_| {
            let at_ns = 200 * MS + dice.below(calm_at_ns - 200 * MS);
            (at_ns, hub_fault(dice, clocks_lie, is_planted))
        });
        let hub_faults: Vec<_> = hub_faults.collect();
        let device_faults = (0..1 + dice.below(2 * count as u64)).map(|_| {
            let at_ns = 200 * MS + dice.below(calm_at_ns - 200 * MS);
            (
                at_ns,
                dice.below(count as u64) as usize,
                device_fault(dice, clocks_lie),
            )
        });
        let mut device_faults: Vec<_> = device_faults.collect();
        let mut devices = devices;
        let mut deaths = |one_in, most| match dice.below(one_in) {
            0 => vec![(dice.below(most), !clocks_lie && dice.below(2) == 0)],
            _ => Vec::new(),
        };
        let (deaths_while_sealing, mut deaths_while_sealing_again) = (deaths(3, 120), deaths(2, 120));
        if planted == Some(Planted::DeleteBeforePublish) {
            // What replaces something is a second generation: a device comes back when the first is sealed.
            devices[0].is_durable = true;
            let off_ns = 3 * SECOND + dice.below(1_000) * MS;
            device_faults = vec![(stop_at_ns - 100 * MS, 0, DeviceFault::Crash { off_ns })];
            deaths_while_sealing_again = (0..4).map(|_| (dice.below(120), true)).collect();
        }
        Self {
            device_faults,
            deaths_while_sealing,
            deaths_while_sealing_again,
            hub_faults,
            stop_at_ns,
            seals: is_planted || dice.below(SEALED_ONE_IN) == 0,
            rolls: dice.below(16) == 0,
            calm_at_ns: match planted {
                Some(Planted::DeleteBeforePublish) => stop_at_ns + 8 * SECOND,
                _ => calm_at_ns,
            },
            delay_ns: match dice.below(3) {
                0 => (100_000, 500_000),
                1 => (MS, 20 * MS),
                _ => (5 * MS, 200 * MS),
            },
            commit_ns: match dice.below(4) {
                0 => (20 * MS, 300 * MS),
                _ => (200_000, 5 * MS),
            },
            pieces_percent: dice.below(60),
            looked_into: (0..1 + dice.below(2)).map(|_| dice.below(80)).collect(),
            last_cut: dice.below(2) == 0,
            devices,
        }
    }
}

fn device(name: &str, dice: &mut Dice) -> DeviceScenario {
    let is_tight = dice.below(6) == 0;
    DeviceScenario {
        name: name.to_owned(),
        first_reading_ns: dice.below(1 << 50) as i64,
        rate_ppb: dice.below(160_001) as i64 - 80_000,
        starts_at_ns: match dice.below(3) {
            0 => dice.below(1_500) * MS,
            _ => dice.below(50) * MS,
        },
        period_ns: 20 * MS + dice.below(60) * MS,
        streams: 1 + dice.below(2) as usize,
        frame_bytes: 128 << dice.below(5),
        frame_age_ms: 40 + dice.below(200),
        is_durable: dice.below(2) == 0,
        buffer: BufferOptions {
            bytes_max: if is_tight {
                2_000 + dice.below(2_000)
            } else {
                1 << 20
            },
            when_full: if dice.below(2) == 0 {
                WhenFull::DropOldest
            } else {
                WhenFull::RefuseNew
            },
            retain: if dice.below(4) == 0 {
                Retain::UntilSafe
            } else {
                Retain::UntilDurable
            },
            folder: None,
            sync_interval: None,
        },
        probe_interval_ms: 100 + dice.below(400),
    }
}

fn hub_fault(dice: &mut Dice, clocks_lie: bool, is_planted: bool) -> HubFault {
    let operations = dice.below(60);
    let for_ns = 200 * MS + dice.below(2_500) * MS;
    match dice.below(if is_planted { 4 } else { 12 }) {
        0 if !clocks_lie => HubFault::PowerCut,
        1 | 2 if !clocks_lie => HubFault::PowerCutAt(operations),
        0..=2 => HubFault::DeathAt(operations),
        3 => HubFault::DeathAt(operations),
        4 => HubFault::Death,
        5 | 6 => HubFault::FailAt(operations),
        7 => HubFault::Restart,
        8 | 9 => HubFault::SlowDisk {
            by_ns: 50 * MS + dice.below(1_500) * MS,
            for_ns,
        },
        10 => HubFault::BelowFloor { for_ns },
        _ => HubFault::NoSpaceAt { operations, for_ns },
    }
}

fn device_fault(dice: &mut Dice, clocks_lie: bool) -> DeviceFault {
    let off_ns = 50 * MS + dice.below(1_500) * MS;
    match dice.below(if clocks_lie { 18 } else { 14 }) {
        0..=5 => DeviceFault::Cut,
        6 => DeviceFault::Vanish,
        7 => DeviceFault::Stall { for_ns: off_ns },
        8..=10 => DeviceFault::Crash { off_ns },
        11 | 12 => DeviceFault::Reboot { off_ns },
        13 => DeviceFault::Drift {
            rate_ppb: dice.below(160_001) as i64 - 80_000,
        },
        14 | 15 => DeviceFault::Sleep { for_ns: off_ns },
        _ => DeviceFault::Jump {
            by_ns: 10 * MS + dice.below(4_000) * MS,
        },
    }
}

/// Parquet costs more than all the rest of a seed: one in so many is sealed.
pub const SEALED_ONE_IN: u64 = 2;
