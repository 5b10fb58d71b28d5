//! A log's state in a form that can be written down and taken up again.

use super::{EpochState, LogState, StreamState};
use marey_format::payload::{EndOfStream, StreamKey, WallReading};
use marey_format::{BootId, Declaration, EpochId, limits};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// All of a [`LogState`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeptState {
    epochs: Vec<KeptEpoch>,
    /// Which of them an id names, sorted: not those that only stand in for what damage took.
    by_id: Vec<(EpochId, u32)>,
    current: Option<u32>,
    hub_next: u64,
    frames: u64,
    samples: u64,
    wall: Option<WallReading>,
    last_arrival_ns: Option<i64>,
}

/// An epoch; its ordinal is its place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptEpoch {
    id: EpochId,
    boot: BootId,
    next: [u64; 2],
    holes: [Vec<(u64, u64)>; 2],
    streams: Vec<KeptStream>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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
        let mut by_id: Vec<(EpochId, u32)> = self.by_id.iter().map(|(&id, &ordinal)| (id, ordinal)).collect();
        by_id.sort_unstable_by_key(|&(id, ordinal)| (id.0, ordinal));
        KeptState {
            by_id,
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
        let mut named = kept.by_id.iter().map(|(_, ordinal)| *ordinal).chain(kept.current);
        if kept.epochs.len() > limits::EPOCHS_PER_LOG_MAX as usize || !named.all(has) {
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
        Some(LogState {
            by_id: kept.by_id.into_iter().collect(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Meaning;
    use marey_format::frame::Lane;
    use marey_format::payload::{Assign, EpochMark};

    #[test]
    fn all_of_a_state_comes_back() {
        let mut state = LogState::new();
        // Two epochs that damage took, one that a header names, and one with holes and a stream.
        state.stand_in(EpochId([3; 16]), 2);
        state.enter(&EpochMark {
            epoch: EpochId([4; 16]),
            boot: BootId([5; 16]),
            ordinal: 3,
            refill: false,
        });
        state.add_hole(3, Lane::Data, (5, u64::MAX - 1));
        state.add_hole(3, Lane::Live, (1, 2));
        let json = br#"{"name":"imu","fields":[{"name":"ax","type":"f32","unit":"m/s2"}],"rate_hz":33.333333333333336}"#;
        let assign = Assign {
            epoch: 3,
            stream: 9,
            version: 2,
            declaration: Declaration::from_json(json).expect("a declaration"),
        };
        let frame = marey_format::frame::control_frame(
            marey_format::frame::Kind::ASSIGN,
            Lane::Hub,
            0,
            0,
            0,
            0,
            &serde_json::to_vec(&assign).expect("JSON"),
            marey_format::Seed(0),
        )
        .expect("a frame");
        let frame = marey_format::frame::Frame::parse(&frame).expect("whole");
        let judged = state.apply(&frame, None, 0).expect("taken");
        assert!(matches!(judged.meaning, Meaning::Assign(_)));
        state.epochs[3].next = [u64::MAX, 7];
        let stream = state.epochs[3].streams.get_mut(&9).expect("assigned");
        (stream.next_index, stream.last_time_ns) = (u64::MAX, i64::MIN);
        stream.end = Some(EndOfStream {
            stream: 9,
            captured: u64::MAX,
            next_index: 1,
            frames: 2,
            digest: "00".repeat(32),
        });
        (state.frames, state.samples) = (u64::MAX, 1);
        state.last_arrival_ns = Some(i64::MIN);

        let kept = state.keep();
        let json = serde_json::to_vec(&kept).expect("JSON");
        let read: KeptState = serde_json::from_slice(&json).expect("read");
        assert_eq!(read, kept);
        let again = read.into_state().expect("a state");
        assert_eq!(format!("{:?}", again.epochs), format!("{:?}", state.epochs));
        assert_eq!(again.by_id, state.by_id);
        assert_eq!(again.keep(), kept);
    }

    #[test]
    fn what_no_state_can_be_is_none() {
        let mut state = LogState::new();
        state.stand_in(EpochId([3; 16]), 2);
        for change in [
            |kept: &mut KeptState| kept.current = Some(3),
            |kept: &mut KeptState| kept.by_id[0].1 = 3,
        ] {
            let mut kept = state.keep();
            change(&mut kept);
            assert!(kept.into_state().is_none());
        }
    }
}
