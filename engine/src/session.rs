//! What a session is, and its state: the content of `session.json`, which is replaced as a whole at each change.

use crate::disk::{self, Disk};
use crate::error::{SessionError, StorageError};
use crate::time::HubInstant;
use marey_format::payload::WallReading;
use marey_format::{DeviceId, HubEpoch, SessionId, version};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionState {
    /// It is there, with its metadata and roster.
    Created,
    /// Devices are recorded.
    Recording,
    /// No new captures; unacknowledged frames still come in.
    Stopping,
    /// Parquet is published. Late frames are taken and make the next generation.
    Sealed,
    /// Nothing is taken any more.
    Closed,
}

impl SessionState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Recording => "recording",
            Self::Stopping => "stopping",
            Self::Sealed => "sealed",
            Self::Closed => "closed",
        }
    }

    /// Whether frames that come now are for the generation after the one that is published, or about to be.
    pub fn takes_late_frames(self) -> bool {
        matches!(self, Self::Stopping | Self::Sealed)
    }
}

impl std::fmt::Display for SessionState {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.pad(self.as_str())
    }
}

/// What a new session is made of.
#[derive(Clone, Debug)]
pub struct NewSession {
    pub id: SessionId,
    /// Which devices may take part; none for any that is enrolled.
    pub roster: Option<Vec<DeviceId>>,
    /// For people: participant, place, protocol ...
    pub metadata: BTreeMap<String, String>,
    /// Declared maximum of any device clock's rate error, in parts per million.
    pub max_drift_ppm: f64,
    /// A bound wider than this, in microseconds, is warned of. It changes no time.
    pub max_time_error_us: Option<f64>,
    /// What the recording is held against, as it was handed in. The engine keeps it and does not read it.
    pub protocol: Option<String>,
}

impl NewSession {
    /// A session that any enrolled device may join, with the default drift of 100 ppm.
    pub fn open_to_all(id: SessionId) -> Self {
        Self {
            id,
            roster: None,
            metadata: BTreeMap::new(),
            max_drift_ppm: 100.0,
            max_time_error_us: None,
            protocol: None,
        }
    }
}

/// A session, as `session.json` has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Session {
    v: u32,
    #[serde(rename = "session")]
    pub id: SessionId,
    pub state: SessionState,
    pub roster: Option<Vec<DeviceId>>,
    /// Ties hub time to UTC; none before the start.
    pub anchor: Option<WallReading>,
    pub started: Option<Moment>,
    pub stopped: Option<Moment>,
    /// When it was closed, by the hub's wall clock. None while it is not, and where an earlier version closed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<WallReading>,
    pub max_drift_ppm: f64,
    /// The widest bound that was asked for, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_time_error_us: Option<f64>,
    /// The text of its protocol file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Of the newest seal; 0 before the first.
    pub generation: u32,
    pub metadata: BTreeMap<String, String>,
}

/// A moment of hub time, as it stands in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    pub hub_epoch: HubEpoch,
    #[serde(with = "moment_ns")]
    pub hub_ns: i64,
}

/// Nanoseconds as a string, so that no JSON parser loses digits.
mod moment_ns {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(ns: &i64, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(ns)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<i64, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

impl From<HubInstant> for Moment {
    fn from(at: HubInstant) -> Self {
        Self {
            hub_epoch: at.epoch,
            hub_ns: at.ns,
        }
    }
}

/// Longest `session.json`, in bytes.
const SESSION_JSON_BYTES_MAX: u64 = 16 << 20;

impl Session {
    pub(crate) fn new(new: NewSession) -> Self {
        Self {
            v: version::SESSION,
            id: new.id,
            state: SessionState::Created,
            roster: new.roster,
            anchor: None,
            started: None,
            stopped: None,
            closed: None,
            max_drift_ppm: new.max_drift_ppm,
            max_time_error_us: new.max_time_error_us,
            protocol: new.protocol,
            generation: 0,
            metadata: new.metadata,
        }
    }

    /// Whether the roster lets a device take part.
    pub fn admits(&self, device: &DeviceId) -> bool {
        self.roster.as_ref().is_none_or(|roster| roster.contains(device))
    }

    /// What to say of a device's stream whose widest published bound is `err_us_max` (none: infinite), if that is more than
    /// was asked for.
    pub(crate) fn wider_than_asked(
        &self,
        device: &DeviceId,
        stream: &str,
        err_us_max: Option<f32>,
    ) -> Option<String> {
        let asked_us = self.max_time_error_us?;
        let is = match err_us_max {
            Some(err_us) if f64::from(err_us) <= asked_us => return None,
            Some(err_us) => format!("a bound of up to {:.3} ms", err_us / 1e3),
            None => "times without bound".to_owned(),
        };
        Some(format!(
            "{device}: {stream} has {is}; the session asks for {:.3} ms",
            asked_us / 1e3
        ))
    }

    /// The error for a verb that this state does not take.
    pub(crate) fn state_error(&self, verb: &'static str, takes: &'static str) -> SessionError {
        SessionError::State {
            session: self.id.clone(),
            state: self.state.as_str(),
            verb,
            takes,
        }
    }

    /// The session's folder, relative to the hub's.
    pub fn dir(id: &SessionId) -> PathBuf {
        Path::new("sessions").join(format!("session={id}"))
    }

    /// The folder of one device's log.
    pub fn log_dir(id: &SessionId, device: &DeviceId) -> PathBuf {
        Self::dir(id).join("logs").join(device.as_str())
    }

    /// Reads the session in a folder.
    pub fn read(disk: &dyn Disk, dir: &Path) -> Result<Self, StorageError> {
        let path = dir.join("session.json");
        let bytes = disk::read_all(disk, &path, SESSION_JSON_BYTES_MAX)
            .map_err(|error| StorageError::io("reading", disk.describe(&path), error))?;
        let session: Self = serde_json::from_slice(&bytes)
            .map_err(|error| StorageError::damaged(disk.describe(&path), error))?;
        if session.v != version::SESSION {
            let what = format!(
                "written by a later version ({}); this one knows {}",
                session.v,
                version::SESSION
            );
            return Err(StorageError::damaged(disk.describe(&path), what));
        }
        Ok(session)
    }

    /// Writes the session, durably.
    pub(crate) fn write(&self, disk: &dyn Disk) -> Result<(), StorageError> {
        let path = Self::dir(&self.id).join("session.json");
        let mut bytes =
            serde_json::to_vec_pretty(self).expect("a session has string keys and finite numbers only");
        bytes.push(b'\n');
        disk::replace(disk, &path, &bytes)
            .map_err(|error| StorageError::io("writing", disk.describe(&path), error))
    }
}
