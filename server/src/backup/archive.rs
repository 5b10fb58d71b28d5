//! One session as a tar, a zip or a folder that lasts: its files, the specification and a reference reader, and metadata as an
//! RO-Crate has them. Encrypted to its study's key where that has one.
//!
//! The files are of one moment, as in a backup. Any tar, zip and age tool opens it, on a machine that has no Marey.

mod pack;
mod ro_crate;

use super::crypt::Recipients;
use super::gather::{Found, From, Gathered, gather};
use super::objects::{In, Out};
use super::taking::Room;
use super::{BackupError, made_folder, sync_all};
use crate::keeping::{study_of, study_recipients};
use marey_engine::compact::Manifest;
use marey_engine::disk::{Disk, OpenMode, OsDisk};
use marey_engine::read::{declarations, published_manifest};
use marey_engine::{Session, SessionState, Store};
use marey_format::SessionId;
use marey_format::documents::DOCUMENTS;
use marey_format::types::hex;
use pack::{Hashing, Pack};
use ro_crate::{Entry, METADATA};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// What is to be archived, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveSpec {
    pub session: SessionId,
    /// The file or folder to make; it must not be there. Absolute.
    pub to: PathBuf,
    #[serde(default)]
    pub form: ArchiveForm,
    /// To whom it is encrypted where its study has no key; none: it is in the clear. A folder can't be encrypted.
    #[serde(default)]
    pub encrypt_to: Vec<String>,
}

/// What the files of an archive stand in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ArchiveForm {
    /// One file; all that is in it is below a folder of the session's name.
    #[default]
    Tar,
    /// One file, uncompressed, whose root is that of the RO-Crate.
    Zip,
    /// The folder itself is the RO-Crate.
    Folder,
}

/// An archive that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Archived {
    pub session: SessionId,
    pub to: PathBuf,
    pub form: ArchiveForm,
    pub encrypted_to: Vec<String>,
    /// In it, those that describe it included.
    pub files: u64,
    /// Of the archive as it stands on the disk.
    pub bytes: u64,
    /// Of the file; none of a folder.
    pub blake3: Option<String>,
    /// SHA-256 of its file `SHA256SUMS`, which binds every other file.
    pub sums_sha256: String,
}

/// Writes a session that is sealed or closed.
pub(crate) fn archive(store: &Store, hub_dir: &Path, spec: &ArchiveSpec) -> Result<Archived, BackupError> {
    let session = store
        .session(&spec.session)
        .map_err(|error| BackupError::Refused(error.to_string()))?;
    if !matches!(session.state, SessionState::Sealed | SessionState::Closed) {
        return Err(BackupError::Refused(format!(
            "session {} is {}; what is sealed or closed can be archived",
            session.id, session.state
        )));
    }
    let study = study_recipients(hub_dir, &study_of(&session))?;
    let recipients = match study.is_empty() {
        true => Recipients::parse(&spec.encrypt_to)?,
        // Its own key alone, or its destruction would not erase this copy.
        false => study,
    };
    if spec.form == ArchiveForm::Folder && !recipients.is_empty() {
        return Err(BackupError::Refused(format!(
            "a folder can't be encrypted, and session {} is to be encrypted to {}; make a tar or a zip of it",
            session.id,
            recipients.names().join(", ")
        )));
    }
    if recipients.is_empty() && spec.to.extension().is_some_and(|ending| ending == "age") {
        return Err(BackupError::Refused(format!(
            "{} ends in .age, and nobody was named to encrypt it to; name them with --encrypt-to, give the study a key with \
             `marey key set`, or leave the .age away",
            spec.to.display()
        )));
    }
    let (Some(parent), Some(name), true) = (spec.to.parent(), spec.to.file_name(), spec.to.is_absolute())
    else {
        return Err(BackupError::Refused(format!(
            "{} is no absolute path of a file",
            spec.to.display()
        )));
    };
    // One after the other: two that make the same would take each other's place.
    let _alone = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (folder, name) = (made_folder(parent)?, Path::new(name));
    let failed = |error: io::Error| BackupError::file("writing", &spec.to, &error);
    if folder.stat(name).map_err(failed)?.is_some() {
        return Err(BackupError::Refused(format!(
            "{} is there already; name another",
            spec.to.display()
        )));
    }
    // A name that nobody else gives: what stands there was left by one that was cut off.
    let mut aside = std::ffi::OsString::from(".");
    aside.push(name);
    aside.push(".marey-part");
    let at = At {
        aside: PathBuf::from(aside),
        room: Room::of(store, hub_dir, parent).map_err(no_room)?,
        to: &spec.to,
        folder,
    };
    for _ in 0..TRIES {
        at.clear()?;
        let packed = match spec.form {
            ArchiveForm::Folder => in_folder(store, &session, &at),
            _ => in_file(store, &session, &at, spec.form, &recipients),
        };
        let Some((packed, bytes, blake3)) = packed.inspect_err(|_| _ = at.clear())? else {
            std::thread::sleep(PAUSE);
            continue;
        };
        let renamed = at.folder.rename(&at.aside, name).map_err(failed);
        renamed.inspect_err(|_| _ = at.clear())?;
        at.folder.sync_dir(Path::new("")).map_err(failed)?;
        return Ok(Archived {
            session: session.id,
            to: spec.to.clone(),
            form: spec.form,
            encrypted_to: recipients.names().to_vec(),
            files: packed.files,
            bytes,
            blake3,
            sums_sha256: packed.sums_sha256,
        });
    }
    at.clear()?;
    Err(BackupError::Refused(format!(
        "session {} is not what its manifest says, or is published again and again; see `marey verify`",
        session.id
    )))
}

/// Where an archive is made.
struct At<'a> {
    folder: OsDisk,
    /// Its name until it is whole.
    aside: PathBuf,
    /// Its name then.
    to: &'a Path,
    room: Room<'a>,
}

impl At<'_> {
    fn failed(&self, error: &io::Error) -> BackupError {
        BackupError::file("writing", self.to, error)
    }

    /// Takes away what is not whole.
    fn clear(&self) -> Result<(), BackupError> {
        let gone = match self.folder.stat(&self.aside) {
            Ok(Some(stat)) if stat.is_dir => self.folder.remove_dir_all(&self.aside),
            Ok(Some(_)) => self.folder.remove_file(&self.aside),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        gone.map_err(|error| self.failed(&error))
    }
}

/// What is packed, the archive's bytes, and the BLAKE3 of a file. None where a file was not what it was said to be.
type Made = Option<(Packed, u64, Option<String>)>;

fn in_file(
    store: &Store,
    session: &Session,
    at: &At<'_>,
    form: ArchiveForm,
    recipients: &Recipients,
) -> Result<Made, BackupError> {
    let failed = |error: io::Error| at.failed(&error);
    let opened = at.folder.open(&at.aside, OpenMode::CreateNew);
    let mut to = Out::new(opened.map_err(failed)?);
    let pack_into = |to: &mut dyn io::Write| match form {
        ArchiveForm::Zip => fill(store, session, at, Pack::zip(to)),
        _ => fill(store, session, at, Pack::tar(to, session.id.as_str())),
    };
    let packed = match recipients.is_empty() {
        true => pack_into(&mut to)?,
        false => {
            let mut sealing = recipients.wrap(&mut to)?;
            let packed = pack_into(&mut sealing)?;
            sealing.finish().map_err(failed)?;
            packed
        }
    };
    let (file, bytes, blake3) = to.finish().map_err(failed)?;
    file.sync().map_err(failed)?;
    Ok(packed.map(|packed| (packed, bytes, Some(blake3))))
}

fn in_folder(store: &Store, session: &Session, at: &At<'_>) -> Result<Made, BackupError> {
    let failed = |error: io::Error| at.failed(&error);
    at.folder.create_dir(&at.aside).map_err(failed)?;
    let folder = OsDisk::new(at.folder.describe(&at.aside));
    let packed = fill(store, session, at, Pack::folder(&folder))?;
    sync_all(&folder)?;
    Ok(packed.map(|packed| {
        let bytes = packed.bytes;
        (packed, bytes, None)
    }))
}

/// What went into an archive.
struct Packed {
    files: u64,
    bytes: u64,
    sums_sha256: String,
}

/// Packs the session, then what describes it. None where a file was not what it was said to be: it was published anew
/// meanwhile, or is damaged.
fn fill(
    store: &Store,
    session: &Session,
    at: &At<'_>,
    mut pack: Pack<'_>,
) -> Result<Option<Packed>, BackupError> {
    let Some(Gathered { files, .. }) = gather(store, session)? else {
        return Ok(None);
    };
    let disk = &**store.disk();
    let Some(manifest) = manifest(&files) else {
        return Ok(None);
    };
    let declared = declarations(disk, &session.id);
    let newest = published_manifest(disk, &session.id).map(|(_, newest)| newest.generation);
    // It was published anew since.
    if newest.ok() != Some(manifest.generation) {
        return Ok(None);
    }
    let declared = declared.map_err(|error| BackupError::Refused(error.to_string()))?;
    let mut entries = Vec::new();
    for found in &files {
        match add(disk, found, at, &mut pack)? {
            Some(entry) => entries.push(entry),
            None => return Ok(None),
        }
    }
    let archived_us = store.clock().wall().utc_ns.div_euclid(1_000);
    let described = ro_crate::described(session, &manifest, &declared, &entries, archived_us);
    let documents = DOCUMENTS
        .iter()
        .map(|(path, text)| (format!("{SPECIFICATION}/{path}"), text.as_bytes()));
    let beside: Vec<(String, Vec<u8>)> = documents
        .map(|(name, text)| (name, text.to_vec()))
        .chain([
            (README.to_owned(), ro_crate::readme(session).into_bytes()),
            (METADATA.to_owned(), described),
        ])
        .collect();
    for (name, text) in beside {
        entries.push(put(&mut pack, name, &text).map_err(|error| at.failed(&error))?);
    }
    let mut sums = String::new();
    for entry in &entries {
        // Into a string nothing fails.
        _ = writeln!(sums, "{}  {}", entry.sha256, entry.name);
    }
    entries.push(put(&mut pack, SUMS.to_owned(), sums.as_bytes()).map_err(|error| at.failed(&error))?);
    pack.finish().map_err(|error| at.failed(&error))?;
    Ok(Some(Packed {
        files: entries.len() as u64,
        bytes: entries.iter().map(|entry| entry.bytes).sum(),
        sums_sha256: hex(&Sha256::digest(sums.as_bytes())),
    }))
}

/// What is published, as it is packed.
fn manifest(files: &[Found]) -> Option<Manifest> {
    let is_it = |found: &&Found| found.path.ends_with("/manifest.json");
    match &files.iter().find(is_it)?.from {
        From::Memory(bytes) => serde_json::from_slice(bytes).ok(),
        From::Disk(_) => None,
    }
}

/// Adds one file of the session. None where it is not what it was said to be.
fn add(
    disk: &dyn Disk,
    found: &Found,
    at: &At<'_>,
    pack: &mut Pack<'_>,
) -> Result<Option<Entry>, BackupError> {
    let name = found.path.strip_prefix("sessions/").unwrap_or(&found.path);
    let (mut from, bytes): (Box<dyn Read>, u64) = match &found.from {
        From::Memory(bytes) => (Box::new(&bytes[..]), bytes.len() as u64),
        From::Disk(path) => match In::open(disk, path) {
            Ok(from) => {
                let bytes = from.length();
                (Box::new(from.take(bytes)), bytes)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(BackupError::file("reading", disk.describe(path), &error)),
        },
    };
    at.room.take(bytes).map_err(no_room)?;
    let mut from = BufReader::with_capacity(CHUNK_BYTES, Hashing::new(&mut from));
    pack.add(name, bytes, &mut from)
        .map_err(|error| BackupError::file("archiving", disk.describe(Path::new(&found.path)), &error))?;
    let (content, sha256) = from.into_inner().finish();
    let is_it = content.bytes == bytes && found.content.as_ref().is_none_or(|said| *said == content);
    Ok(is_it.then(|| Entry {
        name: name.to_owned(),
        bytes,
        sha256,
    }))
}

fn put(pack: &mut Pack<'_>, name: String, text: &[u8]) -> io::Result<Entry> {
    pack.add(&name, text.len() as u64, &mut &text[..])?;
    Ok(Entry {
        bytes: text.len() as u64,
        sha256: hex(&Sha256::digest(text)),
        name,
    })
}

/// What a backup says of the room does not hold for an archive: nothing of it is used next time.
fn no_room(error: BackupError) -> BackupError {
    match error {
        BackupError::NoRoom {
            needed_bytes,
            kept_bytes,
            free_bytes,
        } => BackupError::Refused(format!(
            "{needed_bytes} bytes more would leave less than {kept_bytes} free on the hub's disk, which are kept for recording \
             (twice the floor); {free_bytes} are free; archive to another disk, or make room"
        )),
        error => error,
    }
}

/// Beside the session's folder.
const README: &str = "README.md";
const SUMS: &str = "SHA256SUMS";
const SPECIFICATION: &str = "specification";

/// Bytes that are read and hashed at once.
const CHUNK_BYTES: usize = 1 << 20;
/// Held while one is made.
static ONE: Mutex<()> = Mutex::new(());
const TRIES: usize = 5;
const PAUSE: Duration = Duration::from_millis(200);
