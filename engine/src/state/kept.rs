//! A log's state in a form that can be written down and taken up again.

use super::{EpochState, LogState, StreamState};
use marey_format::payload::{EndOfStream, StreamKey, WallReading};
use marey_format::{BootId, Declaration, EpochId, limits};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;

/// All of a [`LogState`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct KeptState {
    epochs: Vec<KeptEpoch>,
    current: Option<u32>,
    hub_next: u64,
    frames: u64,
    samples: u64,
    wall: Option<WallReading>,
    last_arrival_ns: Option<i64>,
}

/// An epoch; its ordinal is its place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct KeptEpoch {
    id: EpochId,
    boot: BootId,
    next: [u64; 2],
    holes: [Vec<(u64, u64)>; 2],
    streams: Vec<KeptStream>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct KeptStream {
    stream: u32,
    declaration: Declaration,
    /// Name and version, by which the hub knows it.
    key: Option<(marey_format::StreamName, u32)>,
    next_index: u64,
    last_time_ns: i64,
    frames: u64,
    samples: u64,
    end: Option<EndOfStream>,
}

impl LogState {
    pub(crate) fn keep(&self) -> KeptState {
        let stream = |(&stream, state): (&u32, &StreamState)| KeptStream {
            stream,
            declaration: (*state.declaration).clone(),
            key: state.key.clone().map(|key| (key.name, key.version)),
            next_index: state.next_index,
            last_time_ns: state.last_time_ns,
            frames: state.frames,
            samples: state.samples,
            end: state.end.clone(),
        };
        let epoch = |epoch: &EpochState| KeptEpoch {
            id: epoch.id,
            boot: epoch.boot,
            next: epoch.next,
            holes: epoch.holes.clone(),
            streams: epoch.streams.iter().map(stream).collect(),
        };
        KeptState {
            epochs: self.epochs.iter().map(epoch).collect(),
            current: self.current,
            hub_next: self.hub_next,
            frames: self.frames,
            samples: self.samples,
            wall: self.wall,
            last_arrival_ns: self.last_arrival_ns,
        }
    }
}

impl KeptState {
    /// The state again; none where it could not have been one.
    pub(crate) fn into_state(self) -> Option<LogState> {
        let kept = self;
        let has = |ordinal: u32| (ordinal as usize) < kept.epochs.len();
        if kept.epochs.len() > limits::EPOCHS_PER_LOG_MAX as usize || kept.current.is_some_and(|it| !has(it))
        {
            return None;
        }
        let stream = |kept: KeptStream| {
            let key = kept.key.map(|(name, version)| StreamKey { name, version });
            let state = StreamState {
                declaration: Arc::new(kept.declaration),
                key,
                next_index: kept.next_index,
                last_time_ns: kept.last_time_ns,
                frames: kept.frames,
                samples: kept.samples,
                end: kept.end,
            };
            (kept.stream, state)
        };
        let epochs: Vec<EpochState> = (0..)
            .zip(kept.epochs)
            .map(|(ordinal, epoch)| EpochState {
                id: epoch.id,
                boot: epoch.boot,
                ordinal,
                next: epoch.next,
                holes: epoch.holes,
                streams: epoch.streams.into_iter().map(stream).collect(),
            })
            .collect();
        // Not those that only stand in for what damage took.
        let known = epochs.iter().filter(|epoch| epoch.id != EpochId::HUB);
        let by_id: HashMap<EpochId, u32> = known.map(|epoch| (epoch.id, epoch.ordinal)).collect();
        Some(LogState {
            by_id,
            epochs,
            current: kept.current,
            hub_next: kept.hub_next,
            frames: kept.frames,
            samples: kept.samples,
            wall: kept.wall,
            last_arrival_ns: kept.last_arrival_ns,
        })
    }
}
