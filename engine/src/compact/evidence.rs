//! What the clock model is told: one row of evidence, and those of all devices of a session, gathered from their surveys.

use super::survey::DeviceSurvey;
use crate::clock::{self, Row};
use marey_format::clock::{ProbeKind, ProbeRow};
use marey_format::payload::WallReading;
use marey_format::{EpochId, HubEpoch};
use std::collections::{BTreeMap, BTreeSet};

/// One row of clock evidence. What a kind has no stamp for is 0.
#[derive(Clone, Copy, Debug)]
pub struct Evidence {
    pub epoch: u32,
    pub kind: EvidenceKind,
    pub row: Row,
}

/// Where evidence comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvidenceKind {
    Udp,
    InBand,
    Ack,
    /// An offset that another recorder kept.
    Told,
    /// Frames came, and the device had said when it sent them.
    Arrival,
    /// Frames came; the last sample in them stands for the time of sending.
    Samples,
}

impl EvidenceKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::InBand => "in_band",
            Self::Ack => "ack",
            Self::Told => "told",
            Self::Arrival => "arrival",
            Self::Samples => "samples",
        }
    }
}

impl Evidence {
    /// What a row of a log's probes says.
    pub fn of_probe(epoch: u32, row: &ProbeRow) -> Self {
        let kind = match row.kind {
            ProbeKind::Udp => EvidenceKind::Udp,
            ProbeKind::InBand => EvidenceKind::InBand,
            ProbeKind::Ack => EvidenceKind::Ack,
            ProbeKind::Told => EvidenceKind::Told,
        };
        let row = Row::of_probe(row);
        Self { epoch, kind, row }
    }
}

/// The evidence of a session that is anchored at `anchor`.
pub fn gather(anchor: &WallReading, devices: &[DeviceSurvey]) -> clock::SessionEvidence {
    let mut walls: Vec<WallReading> = devices.iter().flat_map(|device| &device.walls).copied().collect();
    let order = order_of_hub_epochs(anchor.hub_epoch, devices, &walls);
    // Every log has its own copy of a reading.
    walls.sort_unstable_by_key(|wall| {
        let place = order.iter().position(|&hub| hub == wall.hub_epoch);
        (place, wall.hub_epoch, wall.hub_ns, wall.utc_ns, wall.error_ns)
    });
    walls.dedup();
    clock::SessionEvidence {
        anchor: wall(anchor),
        hub_epochs: order.iter().map(|hub| hub.0).collect(),
        walls: walls.iter().map(wall).collect(),
        devices: devices.iter().map(of_device).collect(),
    }
}

fn wall(reading: &WallReading) -> clock::WallReading {
    clock::WallReading {
        hub_epoch: reading.hub_epoch.0,
        hub_ns: reading.hub_ns,
        utc_ns: reading.utc_ns,
        error_ns: reading.error_ns,
    }
}

/// Epochs of one boot live on one clock; where the device names no boot, each epoch has its own.
fn of_device(survey: &DeviceSurvey) -> clock::DeviceEvidence {
    let mut clocks: Vec<clock::ClockEvidence> = Vec::new();
    let mut by_key: BTreeMap<[u8; 16], usize> = BTreeMap::new();
    let mut by_epoch: BTreeMap<u32, usize> = BTreeMap::new();
    for (&ordinal, epoch) in &survey.epochs {
        let key = if epoch.boot.is_known() {
            epoch.boot.0
        } else {
            epoch.id.0
        };
        let place = *by_key.entry(key).or_insert_with(|| {
            clocks.push(clock::ClockEvidence {
                key,
                ..Default::default()
            });
            clocks.len() - 1
        });
        clocks[place].epochs.push(ordinal);
        by_epoch.insert(ordinal, place);
    }
    for evidence in &survey.evidence {
        if let Some(&place) = by_epoch.get(&evidence.epoch) {
            clocks[place].rows.push(evidence.row);
        }
    }
    clock::DeviceEvidence {
        device: survey.device.to_string(),
        clocks,
    }
}

/// The lives of the hub's clock in order of time: each log met them in that order, and where no log says which of two
/// came first, the wall clock does.
fn order_of_hub_epochs(anchor: HubEpoch, devices: &[DeviceSurvey], walls: &[WallReading]) -> Vec<HubEpoch> {
    let mut left: BTreeSet<HubEpoch> = devices
        .iter()
        .flat_map(|device| &device.hub_epochs)
        .copied()
        .collect();
    let mut order = vec![anchor];
    left.remove(&anchor);
    let first_utc = |hub: &HubEpoch| {
        walls
            .iter()
            .filter(|wall| wall.hub_epoch == *hub)
            .map(|wall| wall.utc_ns)
            .min()
            .unwrap_or(i64::MAX)
    };
    while !left.is_empty() {
        let free = |hub: &&HubEpoch| {
            devices.iter().all(|device| {
                let before = device.hub_epochs.iter().take_while(|met| met != hub);
                !device.hub_epochs.contains(hub) || before.into_iter().all(|met| !left.contains(met))
            })
        };
        // Logs that contradict each other leave nothing free; then the wall clock decides alone.
        let by_wall = |hub: &&HubEpoch| (first_utc(hub), **hub);
        let next = left
            .iter()
            .filter(free)
            .min_by_key(by_wall)
            .or_else(|| left.iter().min_by_key(by_wall));
        let next = *next.expect("the loop runs while something is left");
        left.remove(&next);
        order.push(next);
    }
    order
}

/// The key under which an epoch's clock stands in clock_map.parquet.
pub fn key_text(key: [u8; 16]) -> String {
    EpochId(key).to_string()
}
