//! The sections of `hub.toml`: their keys, what each means, its default and its range.
//!
//! A new section is a struct here with `Default` and `check`, and a field of [`HubConfig`](super::HubConfig).

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::ConfigError;

/// Addresses; port 0 takes any free one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// TLS: devices (`marey/1`) and HTTP (`http/1.1`).
    pub devices: SocketAddr,
    /// UDP time service.
    pub time: SocketAddr,
    /// Plain HTTP for `/health`, `/ready` and `/metrics`, and nothing else.
    pub health: SocketAddr,
    /// TLS: transfer of whole files (`http/1.1`).
    pub files: SocketAddr,
}

/// Limits on connections and what they may hold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Connections in all.
    pub connections_max: u32,
    /// So many of those for whom there is no place are told so at once, after a handshake; more are closed without a word.
    pub refusals_told_max: u32,
    /// Connections of one address (IPv6: of one /64), counted before TLS.
    pub connections_per_address_max: u32,
    /// Connections that have not finished their handshake.
    pub half_open_max: u32,
    /// The same for one address.
    pub half_open_per_address_max: u32,
    /// Time for the TLS handshake.
    pub handshake_timeout_ms: u64,
    /// Time from the handshake to a complete hello.
    pub hello_timeout_ms: u64,
    /// A device that has nothing else to send is asked for a sign of life so often.
    pub heartbeat_ms: u64,
    /// A connection that sends nothing for so long is closed.
    pub idle_timeout_ms: u64,
    /// A peer that takes nothing of what it is sent for so long is closed.
    pub send_timeout_ms: u64,
    /// Bytes of frames that one connection may have sent and not yet had acknowledged.
    pub credit_bytes: u32,
    /// Bytes of frames of all connections that may wait for the disk. When it is reached, sockets are not read.
    pub commit_queue_bytes_max: u64,
    /// Requests that may be under way on the control socket.
    pub control_connections_max: u32,
}

/// Group commit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Commit {
    /// What an ack means: `synced`, that a power cut can't take the frames; `written`, that the death of the hub can't.
    pub ack: Ack,
    /// Frames that arrive while a sync is under way join the next one; a batch holds at most so many bytes.
    pub batch_bytes_max: u32,
    /// Staged bytes go to the device logs at least so often.
    pub flush_interval_ms: u64,
}

/// What an ack means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ack {
    /// The frames were synced.
    #[default]
    Synced,
    /// The frames were handed to the operating system: a power cut may take what was acknowledged.
    Written,
}

/// Disk floor: the larger of the minimum and the share, but never above the maximum.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Disk {
    /// Share of the disk that stays free, percent.
    pub floor_percent: f64,
    /// The floor is at least this.
    pub floor_min_mib: u64,
    /// The floor is at most this.
    pub floor_max_mib: u64,
}

/// Sessions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Session {
    /// How long `stop` waits for the ends of streams before it seals.
    pub stop_grace_ms: u64,
    /// Rolling parts of a session that is being recorded are written so often; 0 for never.
    pub live_interval_ms: u64,
    /// Late frames of a sealed session make a new generation when nothing more came for so long.
    pub late_quiet_ms: u64,
}

/// Certificates of devices, and what they are issued with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Certificates {
    /// Life of a device's certificate.
    pub device_days: u32,
    /// A device is asked to renew it so long before its end.
    pub renew_before_days: u32,
    /// How long an invitation is good.
    pub invitation_minutes: u32,
    /// A file (0600) whose first line the authority's key is kept under; empty for a key that is under nothing, or one
    /// that stays locked.
    pub ca_passphrase_file: String,
}

/// What the hub writes of itself while it runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// How much: `error`, `warn`, `info`, `debug`, or a filter such as `info,marey_server=debug`.
    pub level: String,
    /// Lines for people, or one JSON object a line.
    pub format: LogFormat,
    /// A file besides standard error, from the hub's folder; empty for none.
    pub file: String,
    /// When the file has so much it is put aside, and a new one begun.
    pub file_max_mib: u64,
    /// How many that were put aside are kept.
    pub files_max: u64,
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Human,
    /// For programs.
    Json,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            devices: SocketAddr::from(([0, 0, 0, 0], 8443)),
            time: SocketAddr::from(([0, 0, 0, 0], 8765)),
            health: SocketAddr::from(([127, 0, 0, 1], 8080)),
            files: SocketAddr::from(([0, 0, 0, 0], 9001)),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 12_000,
            refusals_told_max: 16,
            connections_per_address_max: 11_000,
            half_open_max: 1_024,
            half_open_per_address_max: 512,
            handshake_timeout_ms: 10_000,
            hello_timeout_ms: 10_000,
            heartbeat_ms: 3_000,
            idle_timeout_ms: 60_000,
            send_timeout_ms: 30_000,
            credit_bytes: 4 << 20,
            commit_queue_bytes_max: 64 << 20,
            control_connections_max: 32,
        }
    }
}

impl Default for Commit {
    fn default() -> Self {
        Self {
            ack: Ack::default(),
            batch_bytes_max: 4 << 20,
            flush_interval_ms: 1_000,
        }
    }
}

impl Default for Disk {
    fn default() -> Self {
        Self {
            floor_percent: 2.0,
            floor_min_mib: 512,
            floor_max_mib: 10_240,
        }
    }
}

impl Default for Session {
    fn default() -> Self {
        Self {
            stop_grace_ms: 10_000,
            live_interval_ms: 60_000,
            late_quiet_ms: 5_000,
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: "info".into(),
            format: LogFormat::default(),
            file: String::new(),
            file_max_mib: 10,
            files_max: 10,
        }
    }
}

impl Log {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        range(
            "log.file_max_mib",
            (1..=4_096).contains(&self.file_max_mib),
            self.file_max_mib,
            "between 1 and 4096",
        )?;
        range(
            "log.files_max",
            self.files_max <= 1_000,
            self.files_max,
            "at most 1000",
        )?;
        range(
            "log.file",
            self.file.chars().all(|c| !c.is_control()),
            self.file.escape_debug(),
            "a path without control characters",
        )
    }
}

impl Limits {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let at_least_one = [
            ("limits.connections_max", u64::from(self.connections_max)),
            ("limits.half_open_max", u64::from(self.half_open_max)),
            (
                "limits.connections_per_address_max",
                u64::from(self.connections_per_address_max),
            ),
            (
                "limits.half_open_per_address_max",
                u64::from(self.half_open_per_address_max),
            ),
            ("limits.handshake_timeout_ms", self.handshake_timeout_ms),
            ("limits.hello_timeout_ms", self.hello_timeout_ms),
            ("limits.heartbeat_ms", self.heartbeat_ms),
            ("limits.idle_timeout_ms", self.idle_timeout_ms),
            ("limits.send_timeout_ms", self.send_timeout_ms),
        ];
        for (key, value) in at_least_one {
            range(key, value > 0, value, "at least 1")?;
        }
        range(
            "limits.credit_bytes",
            self.credit_bytes >= CREDIT_BYTES_MIN,
            self.credit_bytes,
            "at least 2097152, so that a frame of the largest size always fits",
        )?;
        range(
            "limits.commit_queue_bytes_max",
            self.commit_queue_bytes_max >= u64::from(CREDIT_BYTES_MIN),
            self.commit_queue_bytes_max,
            "at least 2097152",
        )?;
        range(
            "limits.idle_timeout_ms",
            self.idle_timeout_ms > self.heartbeat_ms,
            self.idle_timeout_ms,
            "longer than limits.heartbeat_ms",
        )
    }
}

impl Default for Certificates {
    fn default() -> Self {
        Self {
            device_days: 375,
            renew_before_days: 30,
            invitation_minutes: 10,
            ca_passphrase_file: String::new(),
        }
    }
}

impl Certificates {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        range(
            "certificates.device_days",
            (1..=DEVICE_DAYS_MAX).contains(&self.device_days),
            self.device_days,
            "between 1 and 825",
        )?;
        range(
            "certificates.renew_before_days",
            self.renew_before_days < self.device_days,
            self.renew_before_days,
            "less than certificates.device_days",
        )?;
        range(
            "certificates.invitation_minutes",
            (1..=1440).contains(&self.invitation_minutes),
            self.invitation_minutes,
            "between 1 and 1440",
        )
    }
}

impl Commit {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        range(
            "commit.batch_bytes_max",
            self.batch_bytes_max >= CREDIT_BYTES_MIN,
            self.batch_bytes_max,
            "at least 2097152",
        )
    }
}

impl Disk {
    /// The floor of a disk of `total_bytes`, in bytes.
    pub fn floor_bytes(&self, total_bytes: u64) -> u64 {
        // A disk floor needs no digits beyond those of f64.
        let share = (total_bytes as f64 * self.floor_percent / 100.0) as u64;
        let bytes = |mib: u64| mib.saturating_mul(1 << 20);
        share.clamp(bytes(self.floor_min_mib), bytes(self.floor_max_mib))
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        range(
            "disk.floor_percent",
            (0.0..=50.0).contains(&self.floor_percent),
            self.floor_percent,
            "between 0 and 50",
        )?;
        range(
            "disk.floor_max_mib",
            self.floor_max_mib >= self.floor_min_mib,
            self.floor_max_mib,
            "at least disk.floor_min_mib",
        )
    }
}

/// Says that `key` is out of its range, unless it is `ok`.
pub(super) fn range(
    key: &'static str,
    ok: bool,
    value: impl ToString,
    must: &'static str,
) -> Result<(), ConfigError> {
    if ok {
        return Ok(());
    }
    Err(ConfigError::Range {
        key,
        value: value.to_string(),
        must,
    })
}

/// Several systems refuse certificates that live longer.
const DEVICE_DAYS_MAX: u32 = 825;
/// Twice the largest frame.
const CREDIT_BYTES_MIN: u32 = 2 << 20;
