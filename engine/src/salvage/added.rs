//! What people add beside the streams of a session, remarks and media files: held against what is said of it, and copied by
//! a recovery as it stands.
//!
//! Nothing is mended here: a remark whose chain does not hold, and a file that hashes to something else, are copied too, and
//! named.

use super::report::{Fault, FaultKind};
use crate::annotation::{self, ANNOTATIONS};
use crate::disk::{self, Disk, OpenMode};
use crate::error::StorageError;
use crate::media::{self, MediaFact};
use crate::session::Session;
use marey_format::SessionId;
use marey_format::types::hex;
use sha2::{Digest, Sha256};
use std::io;
use std::path::{Component, Path, PathBuf};

/// What was found, and what is wrong with it.
#[derive(Debug, Default)]
pub(super) struct Added {
    pub annotations: u64,
    pub media_files: u64,
    pub faults: Vec<Fault>,
}

impl Added {
    /// Reads all of it.
    pub(super) fn check(disk: &dyn Disk, session: &SessionId) -> Self {
        let mut found = Self::default();
        match annotation::read(disk, session) {
            Ok(read) => found.annotations = read.annotations.len() as u64,
            Err(error) => found.fault(session, disk.describe(&path(session, ANNOTATIONS)), cause(error)),
        }
        match media::list(disk, session) {
            Ok(facts) => {
                for fact in &facts {
                    found.media_files += 1;
                    let file = path(session, &fact.path);
                    if let Err(why) = is_whole(disk, &file, fact) {
                        found.fault(session, disk.describe(&file), why);
                    }
                }
            }
            Err(error) => found.fault(session, disk.describe(&path(session, media::MEDIA)), cause(error)),
        }
        found
    }

    fn fault(&mut self, session: &SessionId, file: PathBuf, why: impl ToString) {
        self.faults
            .push(Fault::of_file(FaultKind::Added, file, why).in_session(session));
    }
}

/// The fault's own words: it names the file already.
fn cause(error: StorageError) -> String {
    match error {
        StorageError::Io { action, source, .. } => format!("{action}: {source}"),
        StorageError::Damaged { what, .. } => what,
        other => other.to_string(),
    }
}

/// Copies what there is, byte for byte; says what could not be copied.
///
/// # Errors
/// If the copy can't be written.
pub(super) fn copy(from: &dyn Disk, to: &dyn Disk, session: &SessionId) -> Result<Vec<Fault>, StorageError> {
    let mut faults = Vec::new();
    let mut names = vec![ANNOTATIONS.to_owned(), media::MEDIA.to_owned()];
    names.extend(
        media::list(from, session)
            .unwrap_or_default()
            .into_iter()
            .map(|fact| fact.path),
    );
    for name in names {
        let file = path(session, &name);
        if !is_inside(&name) || !from.stat(&file).is_ok_and(|stat| stat.is_some()) {
            // What should be there and is not is the check's to tell.
            continue;
        }
        let writing = |error| StorageError::io("writing", to.describe(&file), error);
        disk::create_dirs(to, file.parent().unwrap_or(Path::new(""))).map_err(writing)?;
        let target = to.open(&file, OpenMode::CreateNew).map_err(writing)?;
        let mut written = 0;
        let read = pieces(from, &file, &mut |bytes| {
            target.write_at(written, bytes).map_err(writing)?;
            written += bytes.len() as u64;
            Ok(())
        })?;
        target.sync().map_err(writing)?;
        if let Err(error) = read {
            let fault = Fault::of_file(FaultKind::Added, from.describe(&file), error).in_session(session);
            faults.push(fault.at(written, 0));
        }
        to.sync_dir(file.parent().unwrap_or(Path::new("")))
            .map_err(writing)?;
    }
    Ok(faults)
}

fn path(session: &SessionId, name: &str) -> PathBuf {
    Session::dir(session).join(name)
}

/// Whether a name of the list leads to a file below the session's folder.
fn is_inside(name: &str) -> bool {
    Path::new(name)
        .components()
        .all(|part| matches!(part, Component::Normal(_)))
}

fn is_whole(disk: &dyn Disk, file: &Path, fact: &MediaFact) -> Result<(), String> {
    if !is_inside(&fact.path) {
        return Err(format!(
            "the list leads out of the session's folder, to {:?}",
            fact.path
        ));
    }
    match disk.stat(file) {
        Ok(Some(stat)) if stat.bytes == fact.bytes => {}
        Ok(Some(stat)) => return Err(format!("it has {} bytes, and had {}", stat.bytes, fact.bytes)),
        Ok(None) => return Err("it is gone".to_owned()),
        Err(error) => return Err(error.to_string()),
    }
    let mut sha256 = Sha256::new();
    let read = pieces(disk, file, &mut |bytes| {
        sha256.update(bytes);
        Ok(())
    });
    match read {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(error.to_string()),
        Err(error) => return Err(error.to_string()),
    }
    match hex(&sha256.finalize()) == fact.sha256 {
        true => Ok(()),
        false => Err("its content is not what was handed in: it hashes to something else".to_owned()),
    }
}

/// Reads a file piece by piece. The outer error is the taker's, the inner one the reader's.
fn pieces(
    disk: &dyn Disk,
    path: &Path,
    take: &mut dyn FnMut(&[u8]) -> Result<(), StorageError>,
) -> Result<io::Result<()>, StorageError> {
    let file = match disk.open(path, OpenMode::Read) {
        Ok(file) => file,
        Err(error) => return Ok(Err(error)),
    };
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        match file.read_at(at, &mut buffer) {
            Ok(0) => return Ok(Ok(())),
            Ok(read) => {
                take(&buffer[..read])?;
                at += read as u64;
            }
            Err(error) => return Ok(Err(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::annotation::NewAnnotation;
    use crate::disk::memory::MemoryDisk;
    use crate::media::{MediaPlace, Upload, UploadFacts};
    use crate::{NewSession, Options};
    use std::sync::Arc;

    fn walk() -> SessionId {
        SessionId::new("walk").expect("a name")
    }

    /// Two remarks and a film.
    fn session() -> MemoryDisk {
        let memory = MemoryDisk::new();
        let disk: Arc<dyn Disk> = Arc::new(memory.clone());
        disk::create_dirs(&*disk, &Session::dir(&walk())).expect("a folder");
        Session::new(NewSession::open_to_all(walk()))
            .write(&*disk)
            .expect("written");
        for text in ["he stumbled", "the strap was loose"] {
            let new = NewAnnotation {
                time_ns: 5,
                duration_s: None,
                kind: "note".into(),
                text: text.into(),
                device: None,
                stream: None,
                by: "ada".into(),
                said_utc_ns: 6,
                corrects: None,
                withdrawn: false,
            };
            annotation::append(&*disk, &walk(), new).expect("written");
        }
        disk::create_dirs(&*disk, Path::new("uploads")).expect("a folder");
        let options = Options {
            disk_floor_bytes: Some(0),
            ..Options::default()
        };
        let facts = UploadFacts {
            v: 1,
            upload: "ab".repeat(16),
            session: walk(),
            name: "walk.mp4".into(),
            bytes: 3,
            synced_bytes: 0,
            sha256: None,
            place: MediaPlace::default(),
            by: "ada".into(),
            touched_utc_ns: 1,
        };
        let mut upload = Upload::begin(&disk, &options, facts).expect("begun");
        upload.append(b"abc").expect("taken");
        upload.finish("video/mp4", 2).expect("whole");
        memory
    }

    #[test]
    fn every_changed_byte_of_it_is_named() {
        let disk = session();
        let found = Added::check(&disk, &walk());
        assert_eq!((found.annotations, found.media_files), (2, 1));
        assert_eq!(found.faults, []);
        for name in ["media/walk.mp4", ANNOTATIONS] {
            let file = path(&walk(), name);
            let whole = disk::read_all(&disk, &file, 1 << 20).expect("there");
            // The last remark has no successor that would name its hash.
            let last = whole.trim_ascii_end().iter().rposition(|byte| *byte == b'\n');
            for at in 0..last.unwrap_or(whole.len()) {
                disk.damage(&file, |bytes| bytes[at] ^= 1).expect("there");
                let faults = Added::check(&disk, &walk()).faults;
                assert!(
                    faults.iter().any(|fault| fault.file == disk.describe(&file)),
                    "{name}, byte {at}: {faults:?}"
                );
                disk.damage(&file, |bytes| bytes[at] ^= 1).expect("there");
            }
        }
        disk.remove_file(&path(&walk(), "media/walk.mp4"))
            .expect("removed");
        assert_eq!(Added::check(&disk, &walk()).faults[0].cause, "it is gone");
    }

    #[test]
    fn a_list_that_leads_elsewhere_is_not_followed() {
        let disk = session();
        let list = path(&walk(), media::MEDIA);
        let text = disk::read_all(&disk, &list, 1 << 20).expect("there");
        let text = String::from_utf8(text)
            .expect("text")
            .replace("media/walk.mp4", "../../hub.json");
        disk::replace(&disk, &list, text.as_bytes()).expect("written");
        let faults = Added::check(&disk, &walk()).faults;
        assert!(faults[0].cause.contains("leads out of"), "{faults:?}");
        let to = MemoryDisk::new();
        assert_eq!(copy(&disk, &to, &walk()).expect("copied"), []);
        assert!(to.stat(Path::new("hub.json")).expect("asked").is_none());
    }

    #[test]
    fn a_recovery_copies_all_of_it_as_it_stands() {
        let (disk, to) = (session(), MemoryDisk::new());
        disk.damage(&path(&walk(), "media/walk.mp4"), |bytes| bytes[0] ^= 1)
            .expect("there");
        assert_eq!(copy(&disk, &to, &walk()).expect("copied"), []);
        for name in ["media/walk.mp4", ANNOTATIONS, media::MEDIA] {
            let file = path(&walk(), name);
            let read = |disk: &MemoryDisk| disk::read_all(disk, &file, 1 << 20).expect("there");
            assert_eq!(read(&disk), read(&to), "{name}");
        }
    }
}
