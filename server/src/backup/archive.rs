//! One session as one file: a tar of its folder, encrypted to its study's key where that has one.
//!
//! The files are of one moment, as in a backup. Any tar and any age tool opens it, on a machine that has no Marey.

use super::crypt::Recipients;
use super::gather::{From, gather};
use super::objects::{Content, In, Out, copy};
use super::{BackupError, made_folder};
use crate::keeping::{study_of, study_recipients};
use marey_engine::disk::{Disk, OpenMode};
use marey_engine::{Session, SessionState, Store};
use marey_format::SessionId;
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What is to be archived, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveSpec {
    pub session: SessionId,
    /// The file to make; it must not be there. Absolute.
    pub to: PathBuf,
    /// To whom it is encrypted where its study has no key; none: it is in the clear.
    #[serde(default)]
    pub encrypt_to: Vec<String>,
}

/// An archive that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Archived {
    pub session: SessionId,
    pub to: PathBuf,
    pub encrypted_to: Vec<String>,
    pub files: u64,
    /// Of the file, and its BLAKE3.
    pub bytes: u64,
    pub blake3: String,
}

const BLOCK: usize = 512;

/// Writes a session that is sealed or closed into one file.
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
    let (Some(parent), Some(name), true) = (spec.to.parent(), spec.to.file_name(), spec.to.is_absolute())
    else {
        return Err(BackupError::Refused(format!(
            "{} is no absolute path of a file",
            spec.to.display()
        )));
    };
    let (folder, name) = (made_folder(parent)?, Path::new(name));
    let failed = |error: io::Error| BackupError::file("writing", &spec.to, &error);
    if folder.stat(name).map_err(failed)?.is_some() {
        return Err(BackupError::Refused(format!(
            "{} is there already; name another",
            spec.to.display()
        )));
    }
    let mut aside = name.as_os_str().to_owned();
    aside.push(".part");
    let aside = PathBuf::from(aside);
    for _ in 0..TRIES {
        if folder.stat(&aside).map_err(failed)?.is_some() {
            folder.remove_file(&aside).map_err(failed)?;
        }
        let mut to = Out::new(folder.open(&aside, OpenMode::CreateNew).map_err(failed)?);
        let packed = match recipients.is_empty() {
            true => pack(store, &session, &mut to)?,
            false => {
                let mut sealing = recipients.wrap(&mut to)?;
                let packed = pack(store, &session, &mut sealing)?;
                sealing.finish().map_err(failed)?;
                packed
            }
        };
        let (file, bytes, blake3) = to.finish().map_err(failed)?;
        let Some(files) = packed else {
            std::thread::sleep(PAUSE);
            continue;
        };
        file.sync().map_err(failed)?;
        folder.rename(&aside, name).map_err(failed)?;
        folder.sync_dir(Path::new("")).map_err(failed)?;
        return Ok(Archived {
            session: session.id,
            to: spec.to.clone(),
            encrypted_to: recipients.names().to_vec(),
            files,
            bytes,
            blake3,
        });
    }
    folder.remove_file(&aside).map_err(failed)?;
    Err(BackupError::Refused(format!(
        "session {} is not what its manifest says, or is published again and again; see `marey verify`",
        session.id
    )))
}

/// Writes the tar. None where a file was not what it was said to be: it was published anew meanwhile, or is damaged.
fn pack(store: &Store, session: &Session, to: &mut dyn Write) -> Result<Option<u64>, BackupError> {
    let Some(files) = gather(store, session)? else {
        return Ok(None);
    };
    let disk = &**store.disk();
    let failed =
        |error: io::Error| BackupError::file("archiving", disk.describe(&Session::dir(&session.id)), &error);
    let mut count = 0;
    for found in &files {
        let name = found.path.strip_prefix("sessions/").unwrap_or(&found.path);
        let content = match &found.from {
            From::Memory(bytes) => {
                entry(name, bytes.len() as u64, to).map_err(failed)?;
                copy(&mut &bytes[..], to).map_err(failed)?
            }
            From::Disk(path) => {
                let mut from = match In::open(disk, path) {
                    Ok(from) => from,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                    Err(error) => return Err(BackupError::file("reading", disk.describe(path), &error)),
                };
                let bytes = from.length();
                entry(name, bytes, to).map_err(failed)?;
                let content = copy(&mut (&mut from).take(bytes), to).map_err(failed)?;
                if content.bytes != bytes {
                    return Ok(None);
                }
                content
            }
        };
        if found.content.as_ref().is_some_and(|said| *said != content) {
            return Ok(None);
        }
        pad(&content, to).map_err(failed)?;
        count += 1;
    }
    to.write_all(&[0; 2 * BLOCK]).map_err(failed)?;
    Ok(Some(count))
}

/// The header of a file, as POSIX ustar has it; a name or a length that does not fit goes before it in a pax record.
fn entry(name: &str, bytes: u64, to: &mut dyn Write) -> io::Result<()> {
    let mut records = String::new();
    if name.len() > 100 {
        records += &record("path", name);
    }
    if bytes >= 1 << 33 {
        records += &record("size", &bytes.to_string());
    }
    if !records.is_empty() {
        to.write_all(&header("pax", records.len() as u64, b'x'))?;
        to.write_all(records.as_bytes())?;
        to.write_all(&vec![0; records.len().next_multiple_of(BLOCK) - records.len()])?;
    }
    to.write_all(&header(name, bytes, b'0'))
}

/// `LENGTH KEY=VALUE\n`, whose length counts itself.
fn record(key: &str, value: &str) -> String {
    let rest = key.len() + value.len() + 3;
    let mut length = rest;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    format!("{length} {key}={value}\n")
}

fn header(name: &str, bytes: u64, kind: u8) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    let mut put = |at: usize, field: &[u8]| header[at..at + field.len()].copy_from_slice(field);
    put(0, &name.as_bytes()[..name.len().min(100)]);
    put(100, b"0000600\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{:011o}\0", bytes & 0o777_7777_7777).as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|&b| u32::from(b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

fn pad(content: &Content, to: &mut dyn Write) -> io::Result<()> {
    let beyond = (content.bytes % BLOCK as u64) as usize;
    match beyond {
        0 => Ok(()),
        _ => to.write_all(&[0; BLOCK][beyond..]),
    }
}

const TRIES: usize = 5;
const PAUSE: Duration = Duration::from_millis(200);
