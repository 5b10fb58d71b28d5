//! What LSL's recorder would have kept of the same clock over the same path.
//!
//! Owns: the probes of liblsl and the pairs of LabRecorder. Does not own: what pyxdf makes of these.
//!
//! As their sources read: every 2 s liblsl sends 8 datagrams, 64 ms apart, and of those that come back it takes the
//! offset of the one with the least round trip; with fewer than 6 it keeps the offset of before. LabRecorder asks for
//! that offset every 5 s and stores it with the time, by the device's clock, at which it asked: up to 2.6 s after.

use super::super::random;
use super::path::Path;
use super::{DEVICE_STAMP_NS, HUB_STAMP_NS, PeerOffset, World, ns};

/// All pairs of a recording.
pub(super) fn offsets(world: &World<'_>, up: &mut Path, down: &mut Path) -> Vec<PeerOffset> {
    let mut pairs = Vec::new();
    let mut kept: Option<i64> = None;
    let (mut round, begin_ns) = (0, ns(ROUND_EVERY_NS as f64 * random::uniform(world.plan.seed, 0)));
    let mut at_ns = STORED_EVERY_NS;
    while at_ns <= world.plan.lasting_ns {
        loop {
            let from_ns = begin_ns + round * ROUND_EVERY_NS;
            if from_ns + ROUND_TAKES_NS > at_ns {
                break;
            }
            kept = least_of_round(world, up, down, from_ns).or(kept);
            round += 1;
        }
        pairs.extend(kept.map(|offset_ns| PeerOffset {
            time_ns: at_ns - offset_ns,
            offset_ns,
        }));
        at_ns += STORED_EVERY_NS;
    }
    pairs
}

/// Hub time minus device time by the quickest probe of a round.
fn least_of_round(world: &World<'_>, up: &mut Path, down: &mut Path, from_ns: i64) -> Option<i64> {
    let probes = (0..PROBES).filter_map(|nth| probe(world, up, down, from_ns + nth * PROBE_EVERY_NS));
    let answered: Vec<(i64, i64)> = probes.collect();
    let enough = answered.len() >= PROBES_LEAST;
    answered
        .into_iter()
        .min()
        .filter(|_| enough)
        .map(|(_, offset_ns)| offset_ns)
}

/// Round trip and offset of a probe, if it comes back in time.
fn probe(world: &World<'_>, up: &mut Path, down: &mut Path, at_ns: i64) -> Option<(i64, i64)> {
    let seed = random::branch(world.plan.seed, "peer");
    let late = |mean_ns: f64, nth: u64| ns(mean_ns * random::exponential(seed ^ nth, at_ns.cast_unsigned()));
    let beacon_ns = if world.plan.dozes {
        world.beacon(at_ns.cast_unsigned())
    } else {
        0
    };
    let reached_ns = world.awake(down.datagram(at_ns + late(HUB_STAMP_NS, 1) + beacon_ns)?);
    let received_ns = reached_ns + late(DEVICE_STAMP_NS, 2);
    let answered_ns = world.awake(received_ns + ANSWERS_NS);
    let back_ns = up.datagram(answered_ns + late(DEVICE_STAMP_NS, 3))? + late(HUB_STAMP_NS, 4);
    if world.is_lost(at_ns, back_ns) || back_ns - at_ns > ANSWERED_WITHIN_NS {
        return None;
    }
    let ((dev_recv_ns, _), (dev_send_ns, _)) = (world.reading(received_ns)?, world.reading(answered_ns)?);
    let round_trip_ns = (back_ns - at_ns) - (dev_send_ns - dev_recv_ns);
    let offset_ns = ((at_ns - dev_recv_ns) + (back_ns - dev_send_ns)) / 2;
    Some((round_trip_ns, offset_ns))
}

const ROUND_EVERY_NS: i64 = 2_000_000_000;
const PROBES: i64 = 8;
const PROBES_LEAST: usize = 6;
const PROBE_EVERY_NS: i64 = 64_000_000;
const ANSWERED_WITHIN_NS: i64 = 128_000_000;
const ROUND_TAKES_NS: i64 = PROBES * PROBE_EVERY_NS + ANSWERED_WITHIN_NS;
const STORED_EVERY_NS: i64 = 5_000_000_000;
const ANSWERS_NS: i64 = 20_000;
