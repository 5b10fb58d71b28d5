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

use crate::disk::{self, Disk, File, OpenMode};
use crate::error::StorageError;
use crate::options::Options;
use crate::session::Session;
use marey_format::types::hex;
use marey_format::{DeviceId, SessionId};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
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

    /// Makes durable what came, and that it came. After an error the upload is to be discarded.
    ///
    /// # Errors
    /// The disk.
    pub fn settle(&mut self, now_utc_ns: i64) -> Result<(), StorageError> {
        if self.facts.synced_bytes == self.offset {
            return Ok(());
        }
        let path = dir_of(&self.facts.upload).join(DATA);
        self.file
            .sync()
            .map_err(|error| StorageError::io("syncing", self.disk.describe(&path), error))?;
        (self.facts.synced_bytes, self.facts.touched_utc_ns) = (self.offset, now_utc_ns);
        self.write_facts()
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

    /// Puts the whole file into its session's folder. One at a time: that is the caller's business.
    ///
    /// # Errors
    /// [`MediaError`]; after [`MediaError::Hash`] it is to be discarded.
    pub fn finish(mut self, kind: &str, now_utc_ns: i64) -> Result<MediaFact, MediaError> {
        if !self.is_whole() {
            return Err(MediaError::Short {
                bytes: self.facts.bytes,
                offset: self.offset,
            });
        }
        self.settle(now_utc_ns)?;
        let found = hex(&self.sha256.finalize_reset());
        if let Some(expected) = self.facts.sha256.clone().filter(|expected| *expected != found) {
            return Err(MediaError::Hash { expected, found });
        }
        let (disk, facts) = (&*self.disk, &self.facts);
        let session = Session::dir(&facts.session);
        let mut media = list(disk, &facts.session)?;
        if media.iter().any(|media| media.name == facts.name) {
            return Err(exists(facts));
        }
        if media.len() >= MEDIA_MAX {
            return Err(MediaError::Full {
                session: facts.session.clone(),
            });
        }
        let path = format!("media/{}", facts.name);
        let target = session.join(&path);
        let io = |error| StorageError::io("storing", disk.describe(&target), error);
        let folder = session.join("media");
        disk::create_dirs(disk, &folder).map_err(io)?;
        // From a try that a crash cut short: no list names it.
        if disk.stat(&target).map_err(io)?.is_some() {
            disk.remove_file(&target).map_err(io)?;
        }
        disk.hard_link(&dir_of(&facts.upload).join(DATA), &target)
            .map_err(io)?;
        disk.sync_dir(&folder).map_err(io)?;
        let fact = MediaFact {
            name: facts.name.clone(),
            path,
            kind: kind.to_owned(),
            bytes: facts.bytes,
            sha256: found,
            place: facts.place.clone(),
            by: facts.by.clone(),
            stored_utc_ns: now_utc_ns,
        };
        media.push(fact.clone());
        let mut text = serde_json::to_vec_pretty(&MediaList { v: 1, media })
            .expect("a list of media has string keys and no floats");
        text.push(b'\n');
        disk::replace(disk, &session.join(MEDIA), &text).map_err(io)?;
        discard(disk, &facts.upload)?;
        Ok(fact)
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

fn facts(disk: &dyn Disk, id: &str) -> Result<Option<UploadFacts>, StorageError> {
    let path = dir_of(id).join(FACTS);
    let io = |error| StorageError::io("reading", disk.describe(&path), error);
    if disk.stat(&path).map_err(io)?.is_none() {
        return Ok(None);
    }
    let bytes = disk::read_all(disk, &path, FACTS_BYTES_MAX).map_err(io)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::faulty::{Duration, FaultyDisk, Plan};
    use crate::disk::memory::MemoryDisk;
    use std::io;

    fn walk() -> SessionId {
        SessionId::new("walk").expect("a name")
    }

    fn memory() -> MemoryDisk {
        let disk = MemoryDisk::new();
        disk::create_dirs(&disk, &Session::dir(&walk())).expect("a folder");
        disk
    }

    fn new(bytes: u64) -> UploadFacts {
        UploadFacts {
            v: 1,
            upload: "00112233445566778899aabbccddeeff".into(),
            session: walk(),
            name: "walk.mp4".into(),
            bytes,
            synced_bytes: 0,
            sha256: None,
            place: MediaPlace {
                device_time_ns: Some(i64::MAX),
                ..MediaPlace::default()
            },
            by: "ada".into(),
            touched_utc_ns: 1,
        }
    }

    fn options() -> Options {
        Options {
            disk_floor_bytes: Some(0),
            ..Options::default()
        }
    }

    #[test]
    fn what_came_in_pieces_over_a_restart_is_one_file_with_its_hash() {
        let disk: Arc<dyn Disk> = Arc::new(memory());
        let content: Vec<u8> = (0..10_000u32).map(|n| (n % 251) as u8).collect();
        let mut upload = Upload::begin(&disk, &options(), new(10_000)).expect("begun");
        upload.append(&content[..4_000]).expect("taken");
        upload.settle(2).expect("synced");
        upload.append(&content[4_000..5_000]).expect("taken, not synced");
        drop(upload);
        assert!(
            list(&*disk, &walk()).expect("a list").is_empty(),
            "it is in quarantine"
        );

        let mut upload = Upload::resume(&disk, &options(), &new(0).upload)
            .expect("read")
            .expect("there");
        assert_eq!(upload.offset(), 4_000, "what was not synced was never told");
        upload.append(&content[4_000..]).expect("taken");
        let fact = upload.finish("video/mp4", 3).expect("whole");
        assert_eq!(fact.sha256, hex(&Sha256::digest(&content)));
        assert_eq!(list(&*disk, &walk()).expect("a list"), [fact]);
        let stored = disk::read_all(&*disk, &Session::dir(&walk()).join("media/walk.mp4"), 1 << 20);
        assert_eq!(stored.expect("there"), content);
        assert!(uploads(&*disk).expect("a list").is_empty());
        let again = Upload::begin(&disk, &options(), new(1)).expect_err("the name is taken");
        assert!(matches!(again, MediaError::Exists { .. }), "{again}");
    }

    #[test]
    fn what_does_not_fit_what_was_said_is_refused() {
        let disk: Arc<dyn Disk> = Arc::new(memory());
        let mut facts = new(3);
        facts.sha256 = Some("00".repeat(32));
        let mut upload = Upload::begin(&disk, &options(), facts).expect("begun");
        assert!(matches!(upload.append(b"abcd"), Err(MediaError::TooLong { .. })));
        upload.append(b"abc").expect("taken");
        assert!(matches!(
            upload.finish("video/mp4", 2),
            Err(MediaError::Hash { .. })
        ));
        assert!(list(&*disk, &walk()).expect("a list").is_empty());
    }

    #[test]
    fn the_room_of_the_intake_is_not_taken() {
        let memory = memory();
        memory.set_free_bytes(10_000);
        let disk: Arc<dyn Disk> = Arc::new(memory);
        let mut options = options();
        options.disk_floor_bytes = Some(4_000);
        assert!(Upload::begin(&disk, &options, new(1_000)).is_ok());
        let mut large = new(3_000);
        large.upload = "ff".repeat(16);
        let error = Upload::begin(&disk, &options, large).expect_err("too much");
        assert!(
            matches!(error, MediaError::Storage(StorageError::Floor { .. })),
            "{error}"
        );
    }

    #[test]
    fn wherever_the_disk_fails_and_the_power_goes_a_listed_file_is_whole() {
        let content = b"0123456789";
        for fail_at in 0..60 {
            let memory = memory();
            let fault = (fail_at, io::ErrorKind::StorageFull, Duration::ForEver);
            let plan = Plan {
                fail_at: Some(fault),
                ..Plan::default()
            };
            let disk: Arc<dyn Disk> = Arc::new(FaultyDisk::new(memory.clone(), plan));
            let done = Upload::begin(&disk, &options(), new(10)).and_then(|mut upload| {
                upload.append(content)?;
                upload.finish("video/mp4", 2)
            });
            memory.power_cut(None);
            let listed = list(&memory, &walk()).expect("the old list or the new one");
            assert!(listed.len() >= usize::from(done.is_ok()), "operation {fail_at}");
            for media in listed {
                let stored = disk::read_all(&memory, &Session::dir(&walk()).join(&media.path), 1 << 20);
                assert_eq!(stored.expect("it is there"), content, "operation {fail_at}");
            }
        }
    }
}
