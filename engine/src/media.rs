//! Whole files beside a session's streams: video, sound, pictures. They come in pieces, wait in quarantine until they are
//! whole and known, and then stand in the session's folder, named in `media.json` with their hash.
//!
//! ```text
//! uploads/ID/upload.json   what it is to become, and up to where its bytes were synced     } quarantine: nobody
//! uploads/ID/data          the bytes so far                                                } reads it
//! sessions/session=S/media/NAME    the whole file
//! sessions/session=S/media.json    what each is, and where on the session's time it begins
//! ```
//!
//! Does not own who may, or what content is taken. Layout: format-spec's `session-files.md`.
//!
//! Invariants: an offset that was told is synced; a file in `media.json` is whole, synced, and hashed as it came; room is
//! reserved before the first byte, and what the intake needs is never taken; after a sync that failed the upload is given up.

#[cfg(test)]
mod tests;

use crate::disk::{self, Disk, File, OpenMode};
use crate::error::StorageError;
use crate::options::Options;
use crate::session::Session;
use marey_format::types::hex;
use marey_format::{DeviceId, SessionId};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Name of the list in a session's folder.
pub const MEDIA: &str = "media.json";

/// Most media of one session.
pub const MEDIA_MAX: usize = 10_000;

/// An upload, as `upload.json` has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UploadFacts {
    pub v: u32,
    /// 32 hexadecimal digits.
    pub upload: String,
    pub session: SessionId,
    /// Name of the file that it becomes.
    pub name: String,
    /// All that it will have.
    pub bytes: u64,
    /// Up to where they were synced.
    pub synced_bytes: u64,
    /// What the content must hash to, if whoever sends it said so.
    pub sha256: Option<String>,
    #[serde(flatten)]
    pub place: MediaPlace,
    pub by: String,
    /// Nanoseconds UTC by the hub's wall clock, as text.
    #[serde(with = "marey_format::json::int")]
    pub touched_utc_ns: i64,
}

/// Where on a session's time a file begins, as whoever handed it in knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MediaPlace {
    /// The device that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceId>,
    /// The stream that has its frames' numbers and times, `NAME@N`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// The device's own stamp of its first frame or sample, nanoseconds, as text.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "optional")]
    pub device_time_ns: Option<i64>,
    /// Session time of it, nanoseconds UTC, as text.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "optional")]
    pub time_ns: Option<i64>,
}

/// A file, as `media.json` has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MediaFact {
    pub name: String,
    /// Below the session's folder.
    pub path: String,
    /// Media type, by the content.
    #[serde(rename = "type")]
    pub kind: String,
    pub bytes: u64,
    pub sha256: String,
    #[serde(flatten)]
    pub place: MediaPlace,
    pub by: String,
    #[serde(with = "marey_format::json::int")]
    pub stored_utc_ns: i64,
}

#[derive(Default, Serialize, Deserialize)]
struct MediaList {
    v: u32,
    media: Vec<MediaFact>,
}

/// Why an upload does not go on.
#[derive(Debug, thiserror::Error)]
pub enum MediaError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("session {session} has a file {name} already; choose another name")]
    Exists { session: SessionId, name: String },
    #[error("the content hashes to {found}, not to {expected}; it was damaged on the way: send it again")]
    Hash { expected: String, found: String },
    #[error("it has {bytes} bytes; {more} more at offset {offset} are too many")]
    TooLong { bytes: u64, offset: u64, more: u64 },
    #[error("{offset} of {bytes} bytes have come")]
    Short { bytes: u64, offset: u64 },
    #[error("session {session} has {MEDIA_MAX} files, and takes no more")]
    Full { session: SessionId },
}

/// An upload that is under way.
#[derive(Debug)]
pub struct Upload {
    disk: Arc<dyn Disk>,
    facts: UploadFacts,
    file: Arc<dyn File>,
    offset: u64,
    looked: u64,
    floor_bytes: u64,
    sha256: Sha256,
    lost: bool,
}

impl Upload {
    /// Begins one. Its room must be there, beyond what the intake needs.
    ///
    /// # Errors
    /// [`MediaError::Exists`], [`StorageError::Floor`], the disk.
    pub fn begin(disk: &Arc<dyn Disk>, options: &Options, facts: UploadFacts) -> Result<Self, MediaError> {
        if list(&**disk, &facts.session)?
            .iter()
            .any(|media| media.name == facts.name)
        {
            return Err(exists(&facts));
        }
        let dir = dir_of(&facts.upload);
        let io = |error| StorageError::io("making", disk.describe(&dir), error);
        let space = disk.space().map_err(io)?;
        let floor_bytes = options.floor_bytes(space.total_bytes).saturating_mul(2);
        if space.free_bytes.saturating_sub(facts.bytes) < floor_bytes {
            return Err(floor(space.free_bytes, floor_bytes.saturating_add(facts.bytes)).into());
        }
        disk::create_dirs(&**disk, &dir).map_err(io)?;
        let file = disk.open(&dir.join(DATA), OpenMode::CreateNew).map_err(io)?;
        disk.sync_dir(&dir).map_err(io)?;
        let upload = Self {
            disk: disk.clone(),
            facts,
            file,
            offset: 0,
            looked: 0,
            floor_bytes,
            sha256: Sha256::new(),
            lost: false,
        };
        upload.write_facts()?;
        Ok(upload)
    }

    /// Goes on with one from before: what was not synced is cut off, the rest is hashed again. None if there is none.
    ///
    /// # Errors
    /// The disk.
    pub fn resume(disk: &Arc<dyn Disk>, options: &Options, id: &str) -> Result<Option<Self>, StorageError> {
        let Some(facts) = facts(&**disk, id)? else {
            return Ok(None);
        };
        let path = dir_of(id).join(DATA);
        let io = |error| StorageError::io("reading", disk.describe(&path), error);
        let file = disk.open(&path, OpenMode::ReadWrite).map_err(io)?;
        let there = file.len().map_err(io)?;
        if there < facts.synced_bytes {
            let what = format!("{there} bytes of {} that were synced", facts.synced_bytes);
            return Err(StorageError::damaged(disk.describe(&path), what));
        }
        // What was never told to have come. Only ever cut: a file that is made longer has zeros where bytes are lost.
        file.set_len(facts.synced_bytes).map_err(io)?;
        let total_bytes = disk.space().map_err(io)?.total_bytes;
        let (mut sha256, mut offset) = (Sha256::new(), 0);
        let mut buffer = vec![0; READ_BYTES];
        while offset < facts.synced_bytes {
            let read = file.read_at(offset, &mut buffer).map_err(io)?;
            if read == 0 {
                let what = format!("{offset} bytes of {} that were synced", facts.synced_bytes);
                return Err(StorageError::damaged(disk.describe(&path), what));
            }
            sha256.update(&buffer[..read]);
            offset += read as u64;
        }
        Ok(Some(Self {
            disk: disk.clone(),
            facts,
            file,
            offset,
            looked: offset,
            floor_bytes: options.floor_bytes(total_bytes).saturating_mul(2),
            sha256,
            lost: false,
        }))
    }

    pub fn facts(&self) -> &UploadFacts {
        &self.facts
    }

    /// Bytes that came.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    pub fn is_whole(&self) -> bool {
        self.offset == self.facts.bytes
    }

    /// Bytes that came and are not synced.
    pub fn unsettled_bytes(&self) -> u64 {
        self.offset - self.facts.synced_bytes
    }

    /// Whether a sync failed: nobody knows what of it is on the disk, and it is to be discarded.
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// Takes the next bytes; they are safe after [`Upload::settle`].
    ///
    /// # Errors
    /// [`MediaError::TooLong`], [`StorageError::Floor`], the disk.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), MediaError> {
        let more = bytes.len() as u64;
        if self.facts.bytes - self.offset < more {
            return Err(MediaError::TooLong {
                bytes: self.facts.bytes,
                offset: self.offset,
                more,
            });
        }
        let path = dir_of(&self.facts.upload).join(DATA);
        let io = |error| StorageError::io("writing", self.disk.describe(&path), error);
        if self.offset - self.looked >= LOOK_BYTES {
            self.looked = self.offset;
            let free_bytes = self.disk.space().map_err(io)?.free_bytes;
            if free_bytes < self.floor_bytes {
                return Err(floor(free_bytes, self.floor_bytes).into());
            }
        }
        self.file.write_at(self.offset, bytes).map_err(io)?;
        self.sha256.update(bytes);
        self.offset += more;
        Ok(())
    }

    /// Makes durable what came, and that it came. After an error, see [`Upload::is_lost`].
    ///
    /// # Errors
    /// The disk.
    pub fn settle(&mut self, now_utc_ns: i64) -> Result<(), StorageError> {
        if self.unsettled_bytes() == 0 {
            return Ok(());
        }
        if let Err(error) = self.file.sync() {
            self.lost = true;
            let path = dir_of(&self.facts.upload).join(DATA);
            return Err(StorageError::io("syncing", self.disk.describe(&path), error));
        }
        let before = (self.facts.synced_bytes, self.facts.touched_utc_ns);
        (self.facts.synced_bytes, self.facts.touched_utc_ns) = (self.offset, now_utc_ns);
        self.write_facts()
            .inspect_err(|_| (self.facts.synced_bytes, self.facts.touched_utc_ns) = before)
    }

    /// The first bytes, by which the content is known.
    ///
    /// # Errors
    /// The disk.
    pub fn head(&self) -> Result<Vec<u8>, StorageError> {
        let mut head = vec![0; HEAD_BYTES];
        let path = dir_of(&self.facts.upload).join(DATA);
        let read = self
            .file
            .read_at(0, &mut head)
            .map_err(|error| StorageError::io("reading", self.disk.describe(&path), error))?;
        head.truncate(read.min(usize::try_from(self.offset).unwrap_or(usize::MAX)));
        Ok(head)
    }

    /// Puts the whole file into its session's folder; then the upload is gone. One at a time: that is the caller's business.
    ///
    /// # Errors
    /// [`MediaError`]; after [`MediaError::Hash`] and [`MediaError::Exists`] it is to be discarded, after another it can be
    /// finished again.
    pub fn finish(&mut self, kind: &str, now_utc_ns: i64) -> Result<MediaFact, MediaError> {
        if !self.is_whole() {
            return Err(MediaError::Short {
                bytes: self.facts.bytes,
                offset: self.offset,
            });
        }
        self.settle(now_utc_ns)?;
        let found = hex(&self.sha256.clone().finalize());
        if let Some(expected) = self.facts.sha256.clone().filter(|expected| *expected != found) {
            return Err(MediaError::Hash { expected, found });
        }
        let (disk, facts) = (&*self.disk, &self.facts);
        let mut media = list(disk, &facts.session)?;
        let fact = match media.iter().find(|media| media.name == facts.name) {
            // From a try whose end nobody saw. The list is written once more, for nobody knows that it was synced.
            Some(known) if known.sha256 == found => known.clone(),
            Some(_) => return Err(exists(facts)),
            None if media.len() >= MEDIA_MAX => {
                return Err(MediaError::Full {
                    session: facts.session.clone(),
                });
            }
            None => {
                let path = format!("media/{}", facts.name);
                self.link(&path)?;
                media.push(MediaFact {
                    name: facts.name.clone(),
                    path,
                    kind: kind.to_owned(),
                    bytes: facts.bytes,
                    sha256: found,
                    place: facts.place.clone(),
                    by: facts.by.clone(),
                    stored_utc_ns: now_utc_ns,
                });
                media[media.len() - 1].clone()
            }
        };
        let mut text = serde_json::to_vec_pretty(&MediaList { v: 1, media })
            .expect("a list of media has string keys and no floats");
        text.push(b'\n');
        let path = Session::dir(&facts.session).join(MEDIA);
        disk::replace(disk, &path, &text)
            .map_err(|error| StorageError::io("storing", disk.describe(&path), error))?;
        // It is stored whatever comes now: what can't be removed was left alone, and goes with the others that were.
        let _left = discard(disk, &facts.upload);
        Ok(fact)
    }

    /// Gives the data their name in the session's folder, durably.
    fn link(&self, path: &str) -> Result<(), StorageError> {
        let (disk, session) = (&*self.disk, Session::dir(&self.facts.session));
        let (folder, target) = (session.join("media"), session.join(path));
        let io = |error| StorageError::io("storing", disk.describe(&target), error);
        disk::create_dirs(disk, &folder).map_err(io)?;
        // From a try that a crash cut short: no list names it.
        if disk.stat(&target).map_err(io)?.is_some() {
            disk.remove_file(&target).map_err(io)?;
        }
        disk.hard_link(&dir_of(&self.facts.upload).join(DATA), &target)
            .map_err(io)?;
        disk.sync_dir(&folder).map_err(io)
    }

    fn write_facts(&self) -> Result<(), StorageError> {
        let path = dir_of(&self.facts.upload).join(FACTS);
        let bytes = serde_json::to_vec_pretty(&self.facts).expect("an upload has string keys and no floats");
        disk::replace(&*self.disk, &path, &bytes)
            .map_err(|error| StorageError::io("writing", self.disk.describe(&path), error))
    }
}

/// Throws an upload away.
///
/// # Errors
/// The disk.
pub fn discard(disk: &dyn Disk, id: &str) -> Result<(), StorageError> {
    let dir = dir_of(id);
    let io = |error| StorageError::io("removing", disk.describe(&dir), error);
    if disk.stat(&dir).map_err(io)?.is_some() {
        disk.remove_dir_all(&dir).map_err(io)?;
        disk.sync_dir(Path::new(UPLOADS)).map_err(io)?;
    }
    Ok(())
}

/// Every upload that is under way, in order of their ids. What was never begun in full has no facts and is removed.
///
/// # Errors
/// The disk.
pub fn uploads(disk: &dyn Disk) -> Result<Vec<UploadFacts>, StorageError> {
    let dir = Path::new(UPLOADS);
    let io = |error| StorageError::io("listing", disk.describe(dir), error);
    if disk.stat(dir).map_err(io)?.is_none() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in disk.list(dir).map_err(io)? {
        match facts(disk, &entry.name)? {
            Some(facts) => found.push(facts),
            None => discard(disk, &entry.name)?,
        }
    }
    Ok(found)
}

/// The media of a session, in the order in which they came.
///
/// # Errors
/// If the list can't be read.
pub fn list(disk: &dyn Disk, session: &SessionId) -> Result<Vec<MediaFact>, StorageError> {
    let path = Session::dir(session).join(MEDIA);
    let io = |error| StorageError::io("reading", disk.describe(&path), error);
    if disk.stat(&path).map_err(io)?.is_none() {
        return Ok(Vec::new());
    }
    let bytes = disk::read_all(disk, &path, LIST_BYTES_MAX).map_err(io)?;
    let list: MediaList =
        serde_json::from_slice(&bytes).map_err(|error| StorageError::damaged(disk.describe(&path), error))?;
    Ok(list.media)
}

/// What is known of an upload that is under way; none if there is none.
///
/// # Errors
/// The disk.
pub fn facts(disk: &dyn Disk, id: &str) -> Result<Option<UploadFacts>, StorageError> {
    let path = dir_of(id).join(FACTS);
    let bytes = match disk::read_all(disk, &path, FACTS_BYTES_MAX) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        read => read.map_err(|error| StorageError::io("reading", disk.describe(&path), error))?,
    };
    let facts =
        serde_json::from_slice(&bytes).map_err(|error| StorageError::damaged(disk.describe(&path), error))?;
    Ok(Some(facts))
}

fn dir_of(id: &str) -> PathBuf {
    Path::new(UPLOADS).join(id)
}

fn exists(facts: &UploadFacts) -> MediaError {
    MediaError::Exists {
        session: facts.session.clone(),
        name: facts.name.clone(),
    }
}

fn floor(free_bytes: u64, floor_bytes: u64) -> StorageError {
    StorageError::Floor {
        free_bytes,
        floor_bytes,
    }
}

/// Integers of 64 bits as text, or nothing.
mod optional {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(value: &Option<i64>, to: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => to.collect_str(value),
            None => to.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<i64>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| text.parse().map_err(D::Error::custom))
            .transpose()
    }
}

const UPLOADS: &str = "uploads";
const DATA: &str = "data";
const FACTS: &str = "upload.json";
const FACTS_BYTES_MAX: u64 = 64 << 10;
const LIST_BYTES_MAX: u64 = 64 << 20;
const READ_BYTES: usize = 1 << 20;
/// Bytes written between two looks at the room that is left.
const LOOK_BYTES: u64 = 16 << 20;
/// What is looked at to know the content.
const HEAD_BYTES: usize = 8 << 10;
