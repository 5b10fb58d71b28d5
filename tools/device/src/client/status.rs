//! What a device says about itself.

use marey_format::{DeviceId, EpochId, Refusal, SessionId};

use crate::capture::StreamCount;

/// How a device stands at one moment.
#[derive(Debug, Clone)]
pub struct Status {
    pub device: DeviceId,
    /// Welcomed by the hub, and not disconnected since.
    pub is_connected: bool,
    /// Connections that were welcomed.
    pub connections: u64,
    /// Certificates that were renewed, and are stored.
    pub renewals: u64,
    /// Why the last attempt failed or the last connection broke.
    pub last_error: Option<String>,
    /// The hub wants nothing more of this client, and it stopped trying.
    pub halted: Option<Refusal>,
    /// The newest refusals, oldest first, at most 32.
    pub refusals: Vec<Refusal>,
    pub session: Option<SessionStatus>,
    /// Frames of earlier epochs that still wait for the hub.
    pub backlog_frames: u64,
    /// Files that could not be read at the start, and captures that the hub refuses: their data is kept.
    pub set_aside: Vec<String>,
    pub probes: ProbeCounts,
}

/// How the capture for the session of the moment stands.
#[derive(Debug, Clone)]
pub struct SessionStatus {
    pub session: SessionId,
    pub epoch: EpochId,
    /// The hub has opened the epoch on the connection that is up.
    pub is_open: bool,
    /// The hub asked to stop, or takes late frames alone: capture no more and call `finish`.
    pub stop_requested: bool,
    /// The ends of all streams are written.
    pub has_ended: bool,
    pub streams: Vec<StreamCount>,
    pub unacknowledged_frames: u64,
    pub held_bytes: u64,
}

/// What became of the probes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProbeCounts {
    pub sent: u64,
    pub answered: u64,
    pub answered_in_band: u64,
    /// Least round trip seen, less the hub's own time, in nanoseconds of the device's clock.
    pub least_round_trip_ns: Option<i64>,
}

/// How a capture ended.
#[derive(Debug, Clone)]
pub struct FinishReport {
    pub session: SessionId,
    pub streams: Vec<StreamCount>,
    /// Everything that was captured and kept is durable on the hub.
    pub all_acknowledged: bool,
    /// Frames that still wait: they are sent as long as the device runs, and with a buffer on disk after it too.
    pub unacknowledged_frames: u64,
}
