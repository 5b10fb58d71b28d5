//! `manifest.json`: what a generation is made of and what it was made from, with hashes of all of it.
//!
//! Holds no wall clock and no path outside of the session's folder: the same log read by the same version gives the
//! same bytes. Counters and stamps of 64 bits are strings, so that no JSON parser loses digits.

use super::files::Hashes;
use super::frames::Place;
use super::survey::{CutFact, DeviceSurvey};
use crate::disk::{self, Disk};
use crate::error::StorageError;
use marey_format::frame::Lane;
use marey_format::payload::{StreamKey, WallReading};
use marey_format::wire::Holes;
use marey_format::{DeviceId, HubEpoch, SessionId, version};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Version of the alignment: changes whenever the same evidence may give other times.
pub const ALIGNMENT_VERSION: u32 = 1;

/// Name of the manifest.
pub const MANIFEST: &str = "manifest.json";

/// Longest manifest, in bytes.
const MANIFEST_BYTES_MAX: u64 = 256 << 20;

/// A generation of a session's Parquet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub v: u32,
    /// Version of Marey that wrote it.
    pub marey: String,
    pub alignment: u32,
    pub session: SessionId,
    pub generation: u32,
    pub open: Vec<String>,
    pub anchor: WallReading,
    pub hub_epochs: Vec<HubEpochFact>,
    pub streams: Vec<StreamFact>,
    pub tables: Vec<TableFact>,
    /// The clock maps of generations before, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier_maps: Vec<TableFact>,
    /// What people had said of the session by then; absent where nobody had said anything, and in manifests that were written
    /// before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<AnnotationsFact>,
    pub logs: Vec<LogFact>,
}

/// How a life of the hub's clock was put on session time: session time = hub time + offset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HubEpochFact {
    pub hub_epoch: HubEpoch,
    #[serde(with = "text")]
    pub offset_ns: i64,
    /// Null where nothing bounds it.
    pub half_width_ns: Option<f64>,
    pub tied_by: String,
    /// False where a wall clock's word is part of it.
    pub hard: bool,
}

impl Manifest {
    /// Every file beside the streams, but for the receipt.
    pub fn beside(&self) -> impl Iterator<Item = &TableFact> {
        self.tables.iter().chain(&self.earlier_maps)
    }
}

/// One stream of one device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StreamFact {
    pub stream: String,
    pub device: DeviceId,
    #[serde(with = "text")]
    pub rows: u64,
    pub parts: Vec<PartFact>,
}

impl StreamFact {
    /// The stream's key; none where the text is none.
    pub fn key(&self) -> Option<StreamKey> {
        self.stream.parse().ok()
    }
}

/// One Parquet file of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartFact {
    /// Below the session's folder.
    pub path: String,
    #[serde(with = "text")]
    pub rows: u64,
    pub first_time: String,
    pub last_time: String,
    #[serde(flatten)]
    pub hashes: HashFact,
}

/// One table beside the streams.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TableFact {
    pub path: String,
    #[serde(with = "text")]
    pub rows: u64,
    #[serde(flatten)]
    pub hashes: HashFact,
}

/// The lines of `annotations.jsonl` that went in. Later ones stand behind them, in the same file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnnotationsFact {
    #[serde(with = "text")]
    pub lines: u64,
    #[serde(flatten)]
    pub hashes: HashFact,
}

/// Length and hashes of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HashFact {
    #[serde(with = "text")]
    pub bytes: u64,
    pub blake3: String,
    pub sha256: String,
}

impl From<&Hashes> for HashFact {
    fn from(hashes: &Hashes) -> Self {
        Self {
            bytes: hashes.bytes,
            blake3: hashes.blake3.clone(),
            sha256: hashes.sha256.clone(),
        }
    }
}

impl From<&HashFact> for Hashes {
    fn from(fact: &HashFact) -> Self {
        Self {
            bytes: fact.bytes,
            blake3: fact.blake3.clone(),
            sha256: fact.sha256.clone(),
        }
    }
}

/// One device's log, as far as it went into this generation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogFact {
    pub device: DeviceId,
    pub segments: Vec<SegmentFact>,
    /// End of the last frame that went in.
    pub compacted: Place,
    /// Which frames went in, by the device's own counters: a recovery may move frames in the log. Empty in manifests that
    /// were written before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taken: Vec<TakenFact>,
    /// Device frames that went in, by lane.
    #[serde(with = "text")]
    pub data_frames: u64,
    #[serde(with = "text")]
    pub live_frames: u64,
    /// What did not go in because the disk could not read it; it goes into the next generation for which it can.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOutFact>,
}

/// Which frames of an epoch went in: all below these sequences, except for what damage took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenFact {
    pub epoch: u32,
    #[serde(with = "text")]
    pub data_next: u64,
    #[serde(with = "text")]
    pub live_next: u64,
    #[serde(default, skip_serializing_if = "Holes::is_empty")]
    pub holes: Holes,
}

/// A range of a segment's bytes that did not go in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOutFact {
    pub path: String,
    #[serde(with = "text")]
    pub offset: u64,
    #[serde(with = "text")]
    pub bytes: u64,
    /// What the disk said.
    pub why: String,
}

/// One segment of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SegmentFact {
    pub path: String,
    #[serde(with = "text")]
    pub bytes: u64,
    /// Null while it may still grow, where its successor cut it, and where the disk could not read it whole.
    pub blake3: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<CutFact>,
}

impl std::fmt::Display for LeftOutFact {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            path,
            offset,
            bytes,
            why,
        } = self;
        write!(
            to,
            "{path}: {bytes} bytes at offset {offset} could not be read ({why})"
        )
    }
}

impl LogFact {
    /// Whether a device's frame is not among those that went in.
    pub fn lacks(&self, place: Place, epoch: u32, lane: Lane, sequence: u64) -> bool {
        if self.taken.is_empty() {
            return place >= self.compacted;
        }
        let Some(taken) = self.taken.iter().find(|taken| taken.epoch == epoch) else {
            return true;
        };
        let (next, holes) = match lane {
            Lane::Data => (taken.data_next, &taken.holes.data),
            Lane::Live => (taken.live_next, &taken.holes.live),
            Lane::Hub => return false,
        };
        sequence >= next || holes.iter().any(|&(from, to)| (from..to).contains(&sequence))
    }

    pub fn of(survey: &DeviceSurvey) -> Self {
        let segment = |fact: &super::survey::SegmentFact| SegmentFact {
            path: segment_path(&survey.device, fact.segment),
            bytes: fact.bytes,
            blake3: fact.blake3.clone(),
            cut: fact.cut.clone(),
        };
        Self {
            device: survey.device.clone(),
            segments: survey.segments.iter().map(segment).collect(),
            compacted: survey.end,
            taken: survey.taken.clone(),
            data_frames: survey.frames[0],
            live_frames: survey.frames[1],
            left_out: survey
                .unreadable
                .iter()
                .flat_map(|place| place.left_out.iter().map(move |range| (place, range)))
                .map(|(place, &(from, to))| LeftOutFact {
                    path: segment_path(&survey.device, place.segment),
                    offset: from,
                    bytes: to - from,
                    why: place.hole.why.clone(),
                })
                .collect(),
        }
    }
}

/// Where a segment stands below the session's folder.
pub fn segment_path(device: &DeviceId, segment: u32) -> String {
    format!("logs/{device}/{}", crate::log::segment_name(segment))
}

impl Manifest {
    /// Reads the manifest in a folder; none if there is none.
    pub fn read(disk: &dyn Disk, dir: &Path) -> Result<Option<Self>, StorageError> {
        let path = dir.join(MANIFEST);
        let io = |error| StorageError::io("reading", disk.describe(&path), error);
        if disk.stat(&path).map_err(io)?.is_none() {
            return Ok(None);
        }
        let bytes = disk::read_all(disk, &path, MANIFEST_BYTES_MAX).map_err(io)?;
        let manifest: Self = serde_json::from_slice(&bytes)
            .map_err(|error| StorageError::damaged(disk.describe(&path), error))?;
        if manifest.v != version::SESSION {
            let what = format!(
                "written by a later version ({}); this one knows {}",
                manifest.v,
                version::SESSION
            );
            return Err(StorageError::damaged(disk.describe(&path), what));
        }
        Ok(Some(manifest))
    }

    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        json(self)
    }

    /// What did not go in because the disk could not read it, of all logs.
    pub fn left_out(&self) -> impl Iterator<Item = &LeftOutFact> {
        self.logs.iter().flat_map(|log| &log.left_out)
    }

    /// The log of a device.
    pub fn log(&self, device: &DeviceId) -> Option<&LogFact> {
        self.logs.iter().find(|log| log.device == *device)
    }

    /// A table beside the streams, by its file's name.
    pub fn table(&self, name: &str) -> Option<&TableFact> {
        self.tables.iter().find(|table| table.path == name)
    }

    /// The parts of a stream of a device, in order of time.
    pub fn parts(&self, key: &StreamKey, device: &DeviceId) -> &[PartFact] {
        let name = key.to_string();
        let stream = self
            .streams
            .iter()
            .find(|stream| stream.stream == name && stream.device == *device);
        stream.map_or(&[], |stream| &stream.parts)
    }
}

/// JSON for people: indented, in the order of the type's fields, with a newline at the end.
pub fn json<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes =
        serde_json::to_vec_pretty(value).expect("these types have string keys and finite numbers only");
    bytes.push(b'\n');
    bytes
}

/// Integers as strings.
pub mod text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use std::fmt::Display;
    use std::str::FromStr;

    pub fn serialize<T: Display, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub fn deserialize<'de, T: FromStr, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
        let text = String::deserialize(from)?;
        text.parse()
            .map_err(|_| D::Error::custom(format_args!("not an integer in range: {text:?}")))
    }
}
