//! What stands in a folder of backups: names and JSON of format-spec's `backup.md`.
//!
//! Everything here comes from outside when it is read: names, paths, counts and lengths are checked in this one place.

use super::BackupError;
use marey_engine::compact::{HashFact, rfc3339};
use marey_engine::disk::{self, Disk};
use marey_format::SessionId;
use serde::{Deserialize, Serialize};
use std::path::{Component, Path, PathBuf};

/// Version of all that a backup writes.
pub(super) const VERSION: u32 = 1;

/// Whose backups these are.
pub(super) const STORE_FILE: &str = "backup.json";
pub(super) const SNAPSHOTS: &str = "snapshots";
pub(super) const OBJECTS: &str = "objects";
/// What is being written.
pub(super) const ASIDE: &str = "tmp";
/// One who writes at a time.
pub(super) const LOCK: &str = "LOCK";
/// The identity store, as lines of JSON, among the files of the hub's part.
pub(super) const IDENTITY: &str = "identity.jsonl";

const MANIFEST_BYTES_MAX: u64 = 1 << 30;
/// Longest catalogue, in bytes.
pub(super) const CATALOGUE_BYTES_MAX: u64 = 1 << 30;
/// Longest path of a file in a catalogue, in bytes.
const PATH_BYTES_MAX: usize = 1024;
/// Snapshots that one folder may hold.
const SNAPSHOTS_MAX: usize = 100_000;

/// `backup.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoreFile {
    pub v: u32,
    /// The hub's id, hexadecimal.
    pub hub: String,
}

/// What of a hub a manifest is about: what is encrypted, kept and erased together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Configuration, identity, audit, certificates: all that belongs to no study.
    Hub,
    /// The sessions of one study.
    Study(String),
}

impl Part {
    /// A study's part.
    ///
    /// # Errors
    /// A name that is none.
    pub fn study(name: &str) -> Result<Self, BackupError> {
        match SessionId::new(name) {
            Ok(_) => Ok(Self::Study(name.to_owned())),
            Err(why) => Err(BackupError::Refused(format!(
                "{name:?} is no name of a study: {why}"
            ))),
        }
    }

    /// Of the name of a manifest, without its `.json`.
    fn of_name(name: &str) -> Option<Self> {
        match name.strip_prefix("study=") {
            Some(study) => Self::study(study).ok(),
            None => (name == "hub").then_some(Self::Hub),
        }
    }

    pub(super) fn file(&self) -> String {
        format!("{self}.json")
    }
}

impl std::fmt::Display for Part {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Hub => to.write_str("hub"),
            Self::Study(study) => write!(to, "study={study}"),
        }
    }
}

impl Serialize for Part {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Part {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        Self::of_name(&text)
            .ok_or_else(|| serde::de::Error::custom(format_args!("{text:?} is no part of a hub")))
    }
}

/// One part of one snapshot: which objects it is made of. In the clear, so that it can be checked and pruned without any
/// key; what the objects hold, by path, is in the catalogue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub v: u32,
    pub marey: String,
    pub hub: String,
    pub snapshot: String,
    pub part: Part,
    /// Every frame acknowledged by then is in it. UTC.
    #[serde(with = "number")]
    pub began_utc_ns: i64,
    /// age recipients; none for what is in the clear.
    pub encrypted_to: Vec<String>,
    pub sessions: u64,
    pub files: u64,
    /// Of the files as they are, before encryption.
    #[serde(with = "number")]
    pub bytes: u64,
    /// The object that holds the catalogue.
    pub catalogue: String,
    /// Every object, the catalogue as well, each once, sorted by name.
    pub objects: Vec<ObjectFact>,
}

/// One object as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ObjectFact {
    pub name: String,
    #[serde(with = "number")]
    pub bytes: u64,
    /// Of what is stored, so of what was encrypted where it was.
    pub blake3: String,
}

/// Which file of the hub each object is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Catalogue {
    pub v: u32,
    pub part: Part,
    pub files: Vec<FileFact>,
}

/// One file of the hub.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileFact {
    /// From the hub's folder.
    pub path: String,
    #[serde(with = "number")]
    pub bytes: u64,
    pub blake3: String,
    pub object: String,
}

/// One entry of the identity store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct IdentityLine {
    pub kind: String,
    pub key: String,
    /// Hexadecimal.
    pub value: String,
}

/// 64 bits as text, so that no JSON parser loses digits.
mod number {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<T: std::fmt::Display, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub fn deserialize<'de, T: std::str::FromStr, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
        let text = String::deserialize(from)?;
        text.parse()
            .map_err(|_| D::Error::custom(format_args!("{text:?} is no number")))
    }
}

/// Whether a name is one of an object: 64 hexadecimal digits, with `.age` behind them where it is encrypted.
pub(super) fn is_object(name: &str) -> bool {
    is_hash(name.strip_suffix(".age").unwrap_or(name))
}

pub(super) fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The name of a snapshot that was begun then: `2026-11-22T062942Z`.
pub(super) fn snapshot_name(utc_ns: i64) -> String {
    let text = rfc3339(utc_ns / 1000);
    let seconds = text.split_once('.').map_or(text.as_str(), |(seconds, _)| seconds);
    format!("{}Z", seconds.replace(':', ""))
}

/// Whether a name is one of a snapshot: as [`snapshot_name`] gives it, with `-2` and so on behind it where a clock went back.
pub(super) fn is_snapshot(name: &str) -> bool {
    let Some((time, again)) = name.split_once('Z') else {
        return false;
    };
    let form = time
        .bytes()
        .zip("dddd-dd-ddTdddddd".bytes())
        .all(|(found, wanted)| match wanted {
            b'd' => found.is_ascii_digit(),
            other => found == other,
        });
    let digits = again.strip_prefix('-').unwrap_or("1");
    let is_number = (1..=6).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    time.len() == 17 && form && is_number && (again.is_empty() || again.starts_with('-'))
}

/// The path of a file of a catalogue, if it is one that may stand in that part of a hub.
pub(super) fn checked_path(part: &Part, path: &str) -> Option<PathBuf> {
    let plain = !path.is_empty()
        && path.len() <= PATH_BYTES_MAX
        && !path.chars().any(|c| c.is_control() || c == '\\');
    let parts: Option<Vec<&str>> = Path::new(path)
        .components()
        .map(|component| match component {
            Component::Normal(name) => name.to_str(),
            _ => None,
        })
        .collect();
    let parts = parts.filter(|parts| plain && parts.join("/") == path)?;
    let allowed = match (part, &parts[..]) {
        (Part::Hub, [file]) => *file == "hub.toml" || *file == IDENTITY,
        (Part::Hub, ["audit" | "keys" | "pki", _, ..]) => true,
        (Part::Study(_), ["sessions", session, _, ..]) => session
            .strip_prefix("session=")
            .is_some_and(|id| SessionId::new(id).is_ok()),
        _ => false,
    };
    allowed.then(|| PathBuf::from(path))
}

impl Manifest {
    fn path(snapshot: &str, part: &Part) -> PathBuf {
        Path::new(SNAPSHOTS).join(snapshot).join(part.file())
    }

    /// JSON on one line, and its BLAKE3 on the next.
    pub fn to_bytes(&self) -> Vec<u8> {
        let json = serde_json::to_vec(self).expect("plain fields and string keys");
        let sum = blake3::hash(&json).to_hex();
        [&json[..], b"\nblake3 ", sum.as_bytes(), b"\n"].concat()
    }

    /// Reads the manifest of a part of a snapshot.
    pub fn read(disk: &dyn Disk, snapshot: &str, part: &Part) -> Result<Self, BackupError> {
        let path = Self::path(snapshot, part);
        let shown = disk.describe(&path);
        let bytes = disk::read_all(disk, &path, MANIFEST_BYTES_MAX)
            .map_err(|error| BackupError::file("reading", &shown, &error))?;
        let damaged = |what: String| BackupError::damaged(&shown, what);
        let (json, sum) = split(&bytes).ok_or_else(|| damaged("it does not end with its checksum".into()))?;
        if blake3::hash(json).to_hex().as_str() != sum {
            return Err(damaged("its bytes do not fit its checksum".into()));
        }
        let manifest: Self = serde_json::from_slice(json).map_err(|error| damaged(error.to_string()))?;
        if manifest.v != VERSION {
            let found = manifest.v;
            return Err(damaged(format!(
                "written by another version ({found}); this one knows {VERSION}"
            )));
        }
        let names = manifest.objects.iter().map(|object| object.name.as_str());
        if manifest.snapshot != snapshot
            || manifest.part != *part
            || !names.clone().all(is_object)
            || !names.clone().is_sorted_by(|a, b| a < b)
            || !names.clone().any(|name| name == manifest.catalogue)
        {
            return Err(damaged(
                "it contradicts itself, or stands in another's place".into(),
            ));
        }
        Ok(manifest)
    }

    pub fn object(&self, name: &str) -> Option<&ObjectFact> {
        let at = self
            .objects
            .binary_search_by(|object| object.name.as_str().cmp(name))
            .ok()?;
        self.objects.get(at)
    }
}

/// JSON and its checksum.
fn split(bytes: &[u8]) -> Option<(&[u8], &str)> {
    let rest = bytes.strip_suffix(b"\n")?;
    let at = rest.iter().rposition(|&b| b == b'\n')?;
    let sum = std::str::from_utf8(&rest[at + 1..])
        .ok()?
        .strip_prefix("blake3 ")?;
    Some((&rest[..at], sum))
}

impl Catalogue {
    /// Reads one of bytes that were decrypted, and checks every name in it.
    pub fn parse(bytes: &[u8], part: &Part) -> Result<Self, String> {
        let catalogue: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if catalogue.v != VERSION || catalogue.part != *part {
            return Err(format!(
                "it is of version {} and of {}",
                catalogue.v, catalogue.part
            ));
        }
        let mut seen = std::collections::BTreeSet::new();
        for file in &catalogue.files {
            let ok =
                checked_path(part, &file.path).is_some() && is_object(&file.object) && is_hash(&file.blake3);
            if !ok || !seen.insert(&file.path) {
                let shown: String = file
                    .path
                    .chars()
                    .map(|c| if c.is_control() { '\u{FFFD}' } else { c })
                    .collect();
                return Err(format!("{shown:?} can't stand in it, or stands in it twice"));
            }
        }
        Ok(catalogue)
    }
}

/// The snapshots of a folder, oldest first, each with its parts.
pub(super) fn snapshots(disk: &dyn Disk) -> Result<Vec<(String, Vec<Part>)>, BackupError> {
    let dir = Path::new(SNAPSHOTS);
    let failed = |error: std::io::Error| BackupError::file("listing", disk.describe(dir), &error);
    if disk.stat(dir).map_err(failed)?.is_none() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in disk.list(dir).map_err(failed)? {
        if !entry.stat.is_dir || !is_snapshot(&entry.name) {
            continue;
        }
        let files = disk.list(&dir.join(&entry.name)).map_err(failed)?;
        let parts = files
            .iter()
            .filter_map(|file| Part::of_name(file.name.strip_suffix(".json")?));
        found.push((entry.name.clone(), parts.collect()));
        if found.len() > SNAPSHOTS_MAX {
            return Err(BackupError::damaged(
                disk.describe(dir),
                "more snapshots than anybody keeps",
            ));
        }
    }
    Ok(found)
}

/// Whose backups a folder holds; none where it holds none yet.
pub(super) fn hub_of(disk: &dyn Disk) -> Result<Option<String>, BackupError> {
    let path = Path::new(STORE_FILE);
    let shown = disk.describe(path);
    let failed = |error: std::io::Error| BackupError::file("reading", &shown, &error);
    if disk.stat(path).map_err(failed)?.is_none() {
        return Ok(None);
    }
    let bytes = disk::read_all(disk, path, 4096).map_err(failed)?;
    let store: StoreFile =
        serde_json::from_slice(&bytes).map_err(|error| BackupError::damaged(&shown, error.to_string()))?;
    match store.v {
        VERSION => Ok(Some(store.hub)),
        other => Err(BackupError::damaged(
            &shown,
            format!("written by another version ({other}); this one knows {VERSION}"),
        )),
    }
}

/// The BLAKE3 that a session's manifest has of a file.
pub(super) fn known(hashes: &HashFact) -> (u64, String) {
    (hashes.bytes, hashes.blake3.clone())
}
