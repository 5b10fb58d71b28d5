//! What the logs hold of the devices' frames: each acknowledged one once and whole, none invented, in order.

use super::actor::Actor;
use super::oracle::FrameKey;
use super::world::session;
use marey_engine::disk::Disk;
use marey_engine::log::{Replay, devices};
use marey_engine::state::Meaning;
use marey_format::frame::Kind;
use marey_format::{BootId, DeviceId, EpochId};
use std::collections::BTreeMap;

/// The frames of one device, by name, with their bytes and kind.
#[derive(Debug, Default)]
pub struct Held {
    /// The epochs in order of their ordinals, each with the boot that it belongs to.
    pub epochs: Vec<(EpochId, BootId)>,
    pub frames: BTreeMap<FrameKey, (Kind, Vec<u8>)>,
    /// For each epoch and stream number that was declared: whether its end was stated.
    pub ended: BTreeMap<(EpochId, u32), bool>,
    /// Samples by epoch and stream number.
    pub samples: BTreeMap<(EpochId, u32), u64>,
}

/// Reads a device's log.
pub fn held(disk: &dyn Disk, device: &DeviceId) -> Result<Held, String> {
    let mut held = Held::default();
    let known = devices(disk, &session()).map_err(|error| error.to_string())?;
    if !known.contains(device) {
        return Ok(held);
    }
    let mut replay = Replay::open(disk, &session(), device).map_err(|error| error.to_string())?;
    let mut last: BTreeMap<(EpochId, u8), u64> = BTreeMap::new();
    while let Some(replayed) = replay.next().map_err(|error| error.to_string())? {
        let Ok(judged) = &replayed.judged else { continue };
        if let Meaning::Epoch(mark) = &judged.meaning {
            if held.epochs.iter().all(|(known, _)| *known != mark.epoch) {
                held.epochs.push((mark.epoch, mark.boot));
            }
            continue;
        }
        let header = *replayed.at.frame.header();
        let epoch = replayed.at.epoch.and_then(|at| held.epochs.get(at as usize));
        let Some(&(epoch, _)) = epoch else {
            continue;
        };
        if header.kind.is_hubs() {
            continue;
        }
        let key = (epoch, header.lane as u8, header.sequence);
        match &judged.meaning {
            Meaning::Data(Some(why)) => return Err(format!("{device}: frame {key:?} is kept out: {why:?}")),
            Meaning::Data(None) => {
                *held.samples.entry((epoch, header.stream)).or_default() += u64::from(header.count);
            }
            Meaning::Declare(_) => {
                held.ended.entry((epoch, header.stream)).or_default();
            }
            Meaning::End(end) => {
                held.ended.insert((epoch, end.stream), true);
            }
            _ => {}
        }
        let bytes = replayed.at.frame.bytes().to_vec();
        if held.frames.insert(key, (header.kind, bytes)).is_some() {
            return Err(format!("{device}: frame {key:?} is there twice"));
        }
        let before = last.insert((epoch, key.1), header.sequence);
        if before.is_some_and(|before| before > header.sequence) {
            return Err(format!("{device}: frame {key:?} stands behind {before:?}"));
        }
    }
    Ok(held)
}

/// What the log of a device lacks or has too much; its frames, if nothing.
pub fn missing(disk: &dyn Disk, actor: &Actor) -> Result<Held, String> {
    let device = &actor.book.device;
    let held = held(disk, device)?;
    for (key, (_, bytes)) in &held.frames {
        if actor.book.made.get(key) != Some(bytes) {
            return Err(format!("{device}: frame {key:?} is not what was sent"));
        }
    }
    for key in &actor.book.acked {
        if !held.frames.contains_key(key) {
            return Err(format!("{device}: LOST frame {key:?}, which was acknowledged"));
        }
    }
    for (epoch, told) in &actor.told {
        for (lane, told) in (0u8..).zip(*told) {
            let below = actor.book.made.range((*epoch, lane, 0)..(*epoch, lane, told));
            let mut lost = below
                .filter(|(key, _)| !held.frames.contains_key(key))
                .map(|(key, _)| key);
            // A buffer without room lets frames go that were sent and never acknowledged.
            if !(actor.is_tight && lane == 0)
                && let Some(key) = lost.next()
            {
                return Err(format!(
                    "{device}: LOST frame {key:?}, below {told}, which was acknowledged"
                ));
            }
        }
    }
    Ok(held)
}
