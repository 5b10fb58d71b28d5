//! The power goes on real file systems: ext4 and xfs by their shutdown ioctl, and at any write of a block device.
//!
//! Owns: how many cuts of which kind, and what this machine lacks for them, which is said and counted. Below: [`volume`]
//! is a file system whose power can be cut, [`writer`] the engine that is cut off, in a process of its own, [`oracle`]
//! what it was told, in this one; [`cuts`] and [`whole_hub`] say when the power goes, [`block_log`] where.
//!
//! What this does not show: a drive that loses what it said that it had flushed.

pub mod volume;
pub mod writer;

mod block_log;
mod blocks;
mod cuts;
mod device;
mod oracle;
mod planted;
mod whole_hub;

use super::{Run, Tally, rounds};
use crate::process;
use volume::Kind;

/// Cuts of ext4 and xfs. One in ten is of the hub's own binary under live load, the others of an engine that commits as
/// fast as it can.
pub fn run(run: &Run) -> Tally {
    let mut lacking = Vec::new();
    let kinds: Vec<Kind> = Kind::ALL
        .into_iter()
        .filter(|&kind| match volume::lacks(kind) {
            Ok(()) => true,
            Err(why) => {
                lacking.push(why);
                false
            }
        })
        .collect();
    let mut tally = Tally::new(CUTS);
    if !kinds.is_empty() {
        // Made now, so that no round waits for it.
        process::marey();
        let whole = if run.planted.is_some() { 0 } else { run.count / 10 };
        let mut work = Vec::new();
        for (hub, count, most) in [
            (true, whole, CUTS_OF_HUB_MAX),
            (false, run.count - whole, CUTS_OF_ENGINE_MAX),
        ] {
            let shares = rounds::shares(count, most);
            let kinds = kinds.iter().cycle();
            work.extend(
                shares
                    .into_iter()
                    .zip(kinds)
                    .map(|(count, kind)| (hub, *kind, count)),
            );
        }
        tally = rounds::all(run, CUTS, &work, |&(hub, kind, count), seed| match hub {
            true => whole_hub::round(kind, count, seed),
            false => cuts::round(kind, count, seed, run.planted),
        });
    }
    say_skipped(&mut tally, lacking);
    tally
}

/// Cuts at any write of a block device under ext4, half of them with unflushed writes lost, reordered and torn.
pub fn run_block_log(run: &Run) -> Tally {
    let lacks = volume::lacks(Kind::Ext4).and_then(|()| device::lacks());
    if let Err(why) = lacks {
        let mut tally = Tally::new(BLOCK_LOG_CUTS);
        say_skipped(&mut tally, vec![why]);
        return tally;
    }
    let shares = rounds::shares(run.count, CUTS_OF_BLOCK_LOG_MAX);
    rounds::all(run, BLOCK_LOG_CUTS, &shares, |count, seed| {
        block_log::round(*count, seed, run.planted)
    })
}

fn say_skipped(tally: &mut Tally, lacking: Vec<String>) {
    tally.skipped.extend(lacking);
}

const CUTS: &str = "cuts of ext4 and xfs";
const BLOCK_LOG_CUTS: &str = "cuts of a block log";
/// In one life of a file system: logs grow with each, and with them the time to read them.
const CUTS_OF_ENGINE_MAX: u64 = 8;
const CUTS_OF_HUB_MAX: u64 = 4;
/// Of one recording.
const CUTS_OF_BLOCK_LOG_MAX: u64 = 50;
