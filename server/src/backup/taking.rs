//! The content of a snapshot, while it is being taken: each file of each session and of the hub becomes an object, once.
//!
//! Owns what is stored and what is known of it. Does not own the folder, nor when the snapshot appears.

use super::BackupError;
use super::crypt::Recipients;
use super::gather::{Found, From, Gathered, exists, gather, small};
use super::layout::{Catalogue, FileFact, IDENTITY, IdentityLine, Manifest, ObjectFact, Part, VERSION};
use super::objects::{Content, In, Objects, content_of, hash};
use super::take::{PartTaken, Taken};
use crate::keeping::{self, study_of};
use marey_engine::disk::{Disk, OsDisk};
use marey_engine::{Session, Store};
use marey_format::SessionId;
use marey_format::types::hex;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

/// The room that is kept for recording, where the backups stand on the hub's own disk.
pub(super) struct Room<'s> {
    store: &'s Store,
    kept_bytes: Option<u64>,
    /// Whether files can have a second name there.
    shared: bool,
}

impl<'s> Room<'s> {
    pub fn of(store: &'s Store, hub_dir: &Path, to: &Path) -> Result<Self, BackupError> {
        let device = |path: &Path| {
            let stat = rustix::fs::stat(path);
            stat.map(|stat| stat.st_dev)
                .map_err(|error| BackupError::file("looking at", path, &error.into()))
        };
        let shared = device(hub_dir)? == device(to)?;
        let space = store.space()?;
        let kept_bytes = store.options().floor_bytes(space.total_bytes).saturating_mul(2);
        let room = Self {
            store,
            kept_bytes: shared.then_some(kept_bytes),
            shared,
        };
        room.take(0)?;
        Ok(room)
    }

    pub fn take(&self, needed_bytes: u64) -> Result<(), BackupError> {
        let Some(kept_bytes) = self.kept_bytes else {
            return Ok(());
        };
        let free_bytes = self.store.space()?.free_bytes;
        match free_bytes < kept_bytes.saturating_add(needed_bytes) {
            true => Err(BackupError::NoRoom {
                needed_bytes,
                kept_bytes,
                free_bytes,
            }),
            false => Ok(()),
        }
    }
}

/// A part of the snapshot that is being taken.
pub(super) struct Growing {
    part: Part,
    recipients: Recipients,
    sessions: u64,
    files: Vec<FileFact>,
    objects: BTreeMap<String, ObjectFact>,
}

impl Growing {
    pub fn new(part: Part, recipients: Recipients) -> Self {
        Self {
            part,
            recipients,
            sessions: 0,
            files: Vec::new(),
            objects: BTreeMap::new(),
        }
    }
}

pub(super) struct Taking<'a> {
    pub store: &'a Store,
    pub hub_dir: &'a Path,
    /// Keys and certificates are files of the system in any case.
    pub own: OsDisk,
    pub objects: Objects<'a>,
    pub room: Room<'a>,
    pub name_key: [u8; 32],
    pub full: bool,
    pub prior: BTreeMap<String, ObjectFact>,
    /// Stored objects that were read in this run.
    pub checked: BTreeSet<String>,
    /// Sessions that are not in it, or not as their manifests say.
    pub without: Vec<SessionId>,
    pub taken: Taken,
}

/// What became of a file.
enum Outcome {
    Stored(FileFact, ObjectFact),
    /// Its bytes are not what something says of them.
    Other,
    Gone,
}

impl Taking<'_> {
    pub fn sessions(
        &mut self,
        recipients: &Recipients,
        progress: &mut dyn FnMut(String),
    ) -> Result<BTreeMap<Part, Growing>, BackupError> {
        let mut parts: BTreeMap<Part, Growing> = BTreeMap::new();
        let sessions = self.store.sessions();
        for (at, session) in sessions.iter().enumerate() {
            progress(format!(
                "{}: session {} of {}",
                session.id,
                at + 1,
                sessions.len()
            ));
            let study = study_of(session);
            let part = Part::study(&study)?;
            if !parts.contains_key(&part) {
                let own = keeping::study_recipients(self.hub_dir, &study)?;
                // A study's own key alone: who else could read it would make its destruction worth nothing.
                let to = if own.is_empty() { recipients.clone() } else { own };
                parts.insert(part.clone(), Growing::new(part.clone(), to));
            }
            let growing = parts.get_mut(&part).expect("it was just put in");
            self.session(growing, session)?;
        }
        self.unread(&sessions)?;
        Ok(parts)
    }

    /// Sessions whose folder nobody can read belong to no study, and so to nobody's key.
    fn unread(&mut self, known: &[Session]) -> Result<(), BackupError> {
        let disk = self.store.disk();
        let dir = Path::new("sessions");
        let entries = disk
            .list(dir)
            .map_err(|error| BackupError::file("listing", disk.describe(dir), &error))?;
        for entry in entries {
            let id = entry.name.strip_prefix("session=").unwrap_or(&entry.name);
            if entry.stat.is_dir && !entry.name.starts_with('.') && !known.iter().any(|s| s.id.as_str() == id)
            {
                let path = disk.describe(&dir.join(&entry.name));
                self.taken.problems.push(format!(
                    "{}: not backed up: its session.json can't be read, so nobody knows whose it is; see `marey verify`",
                    path.display()
                ));
            }
        }
        Ok(())
    }

    /// All files of one session, of one moment: what is published while we read makes us begin again.
    fn session(&mut self, growing: &mut Growing, session: &Session) -> Result<(), BackupError> {
        let mut last_try = Vec::new();
        for _ in 0..TRIES {
            let Some(Gathered { files, unnamed }) = gather(self.store, session)? else {
                std::thread::sleep(PAUSE);
                continue;
            };
            let mut stored = Vec::new();
            let mut others = Vec::new();
            for found in &files {
                match self.store_file(&growing.recipients, found, false)? {
                    Outcome::Stored(fact, object) => stored.push((fact, object)),
                    Outcome::Other | Outcome::Gone => others.push(found.path.clone()),
                }
            }
            if others.is_empty() {
                if let Some(why) = unnamed {
                    self.without.push(session.id.clone());
                    self.taken.problems.push(why);
                }
                return self.add(growing, stored);
            }
            if others == last_try {
                // Twice the same, so it is no publication that we met: it is damage, and worth more than nothing.
                self.without.push(session.id.clone());
                self.taken.problems.extend(unnamed);
                return self.damaged(growing, &files, &others);
            }
            last_try = others;
            std::thread::sleep(PAUSE);
        }
        self.without.push(session.id.clone());
        self.taken.problems.push(format!(
            "session {}: not backed up: it was published again and again while it was read; back up again",
            session.id
        ));
        Ok(())
    }

    fn add(&mut self, growing: &mut Growing, stored: Vec<(FileFact, ObjectFact)>) -> Result<(), BackupError> {
        growing.sessions += 1;
        for (fact, object) in stored {
            growing.files.push(fact);
            growing.objects.insert(object.name.clone(), object);
        }
        Ok(())
    }

    fn damaged(
        &mut self,
        growing: &mut Growing,
        files: &[Found],
        others: &[String],
    ) -> Result<(), BackupError> {
        let mut stored = Vec::new();
        for found in files {
            let is_other = others.contains(&found.path);
            match self.store_file(&growing.recipients, found, is_other)? {
                Outcome::Stored(fact, object) => stored.push((fact, object)),
                Outcome::Other | Outcome::Gone => {}
            }
            if is_other {
                let path = self.store.disk().describe(Path::new(&found.path));
                self.taken.problems.push(format!(
                    "{}: its bytes are not those that the manifest names, or it is gone; it is in the backup as it is; see \
                     `marey verify`",
                    path.display()
                ));
            }
        }
        self.add(growing, stored)
    }

    /// A file of the hub's own.
    pub fn file(&mut self, growing: &mut Growing, found: &Found) -> Result<(), BackupError> {
        match self.store_file(&growing.recipients, found, false)? {
            Outcome::Stored(fact, object) => {
                growing.files.push(fact);
                growing.objects.insert(object.name.clone(), object);
            }
            Outcome::Other | Outcome::Gone => {
                self.taken.problems.push(format!(
                    "{}: it changed while it was read; back up again",
                    found.path
                ));
            }
        }
        Ok(())
    }

    /// Makes sure that a file's content is among the objects.
    fn store_file(
        &mut self,
        recipients: &Recipients,
        found: &Found,
        as_it_is: bool,
    ) -> Result<Outcome, BackupError> {
        let disk = &**self.store.disk();
        let said = found.content.clone().filter(|_| !as_it_is);
        let content = match (&found.from, said) {
            (From::Memory(bytes), _) => content_of(bytes),
            (From::Disk(path), Some(content)) => {
                // Its length is asked for in any case; its bytes where they are not stored yet, or all are to be read.
                match disk
                    .stat(path)
                    .map_err(|error| BackupError::file("looking at", disk.describe(path), &error))?
                {
                    None => return Ok(Outcome::Gone),
                    Some(stat) if stat.bytes != content.bytes => return Ok(Outcome::Other),
                    Some(_) if self.full && hash(disk, path)? != content => return Ok(Outcome::Other),
                    Some(_) => content,
                }
            }
            (From::Disk(path), None) => match exists(disk, path)? {
                false => return Ok(Outcome::Gone),
                true => hash(disk, path)?,
            },
        };
        let name = self.name(&content, recipients);
        let fact = FileFact {
            path: found.path.clone(),
            bytes: content.bytes,
            blake3: content.blake3.clone(),
            object: name.clone(),
        };
        if let Some(object) = self.known(&name)? {
            return Ok(Outcome::Stored(fact, object));
        }
        if recipients.is_empty()
            && found.at_rest
            && self.room.shared
            && let From::Disk(path) = &found.from
            && let Some(object) = self.link(&name, path, &content)?
        {
            return Ok(Outcome::Stored(fact, object));
        }
        self.room.take(content.bytes)?;
        let stored = match &found.from {
            From::Memory(bytes) => self.objects.put(&name, &mut &bytes[..], &content, recipients)?,
            From::Disk(path) => {
                let opened = In::open(disk, path);
                let mut from = match opened {
                    Ok(from) => from,
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Outcome::Gone),
                    Err(error) => return Err(BackupError::file("reading", disk.describe(path), &error)),
                };
                self.objects.put(&name, &mut from, &content, recipients)?
            }
        };
        Ok(match stored {
            None => Outcome::Other,
            Some(object) => {
                self.taken.new_objects += 1;
                self.taken.new_bytes += object.bytes;
                self.prior.insert(name, object.clone());
                Outcome::Stored(fact, object)
            }
        })
    }

    /// An object that is there, if it is.
    fn known(&mut self, name: &str) -> Result<Option<ObjectFact>, BackupError> {
        let Some(bytes) = self.objects.stat(name)? else {
            return Ok(None);
        };
        if let Some(object) = self.prior.get(name)
            && object.bytes == bytes
            && (!self.full || self.checked.contains(name))
        {
            return Ok(Some(object.clone()));
        }
        // Left by a backup that was interrupted, or all is to be read.
        let object = self.objects.adopt(name)?;
        let is_plain = !name.ends_with(".age");
        let is_whole = match self.prior.get(name) {
            Some(before) => *before == object,
            None => !is_plain || object.blake3 == name,
        };
        if !is_whole {
            // What is stored is damaged: it is stored again in its place.
            self.taken.problems.push(format!(
                "object {name} of an earlier backup was damaged; it was stored again"
            ));
            return Ok(None);
        }
        self.checked.insert(name.to_owned());
        self.prior.insert(name.to_owned(), object.clone());
        Ok(Some(object))
    }

    fn link(
        &mut self,
        name: &str,
        path: &Path,
        content: &Content,
    ) -> Result<Option<ObjectFact>, BackupError> {
        let disk = self.store.disk();
        let absolute = std::path::absolute(disk.describe(path)).unwrap_or_default();
        // What the manifest says of it is believed where it is copied, too, only when it was read.
        if !absolute.is_absolute()
            || hash(&**disk, path)? != *content
            || !self.objects.link(name, &absolute)?
        {
            return Ok(None);
        }
        let object = ObjectFact {
            name: name.to_owned(),
            bytes: content.bytes,
            blake3: content.blake3.clone(),
        };
        self.taken.new_objects += 1;
        self.taken.linked += 1;
        self.prior.insert(name.to_owned(), object.clone());
        Ok(Some(object))
    }

    /// Under which name a content is stored.
    fn name(&self, content: &Content, recipients: &Recipients) -> String {
        if recipients.is_empty() {
            return content.blake3.clone();
        }
        let mut hasher = blake3::Hasher::new_keyed(&self.name_key);
        hasher
            .update(b"marey object 1\n")
            .update(content.blake3.as_bytes());
        for recipient in recipients.names() {
            hasher.update(b"\n").update(recipient.as_bytes());
        }
        format!("{}.age", hasher.finalize().to_hex())
    }

    /// What belongs to no session.
    pub fn hub_files(&mut self, with_ca: bool) -> Result<Vec<Found>, BackupError> {
        let disk = &**self.store.disk();
        let mut found = Vec::new();
        if exists(disk, Path::new("hub.toml"))? {
            found.push(small(disk, Path::new("hub.toml"))?);
        }
        // After the sessions, so that what their receipts name of the audit log is in it.
        let mut audit = files_in(disk, "audit", |_| true)?;
        if let Some(newest) = audit.last_mut() {
            without_half_a_line(newest);
        }
        found.extend(audit);
        found.extend(files_in(&self.own, "keys", |name| {
            name != keeping::NAME_KEY_FILE
        })?);
        found.extend(files_in(&self.own, "pki", |name| with_ca || is_public(name))?);
        let mut lines = Vec::new();
        for entry in self.store.identity().dump()? {
            let line = IdentityLine {
                kind: entry.kind,
                key: entry.key,
                value: hex(&entry.value),
            };
            serde_json::to_writer(&mut lines, &line).expect("three strings");
            lines.push(b'\n');
        }
        found.push(Found {
            path: IDENTITY.to_owned(),
            content: Some(content_of(&lines)),
            from: From::Memory(lines),
            at_rest: false,
        });
        Ok(found)
    }

    /// Stores a part's catalogue, and gives its manifest.
    pub fn finish(
        &mut self,
        mut growing: Growing,
        hub: &str,
        began_utc_ns: i64,
    ) -> Result<Manifest, BackupError> {
        growing.files.sort_by(|a, b| a.path.cmp(&b.path));
        let (files, bytes) = (
            growing.files.len() as u64,
            growing.files.iter().map(|file| file.bytes).sum(),
        );
        let catalogue = Catalogue {
            v: VERSION,
            part: growing.part.clone(),
            files: growing.files,
        };
        let json = serde_json::to_vec(&catalogue).expect("plain fields and string keys");
        let content = content_of(&json);
        let name = self.name(&content, &growing.recipients);
        let object = match self.known(&name)? {
            Some(object) => object,
            None => {
                self.room.take(content.bytes)?;
                let stored = self
                    .objects
                    .put(&name, &mut &json[..], &content, &growing.recipients)?;
                stored.expect("what is in memory is what it was")
            }
        };
        growing.objects.insert(name.clone(), object);
        self.taken.parts.push(PartTaken {
            part: growing.part.to_string(),
            encrypted: !growing.recipients.is_empty(),
            sessions: growing.sessions,
            files,
            bytes,
        });
        Ok(Manifest {
            v: VERSION,
            marey: env!("CARGO_PKG_VERSION").to_owned(),
            hub: hub.to_owned(),
            snapshot: self.taken.snapshot.clone(),
            part: growing.part,
            began_utc_ns,
            encrypted_to: growing.recipients.names().to_vec(),
            sessions: growing.sessions,
            files,
            bytes,
            catalogue: name,
            objects: growing.objects.into_values().collect(),
        })
    }
}

/// The authorities' certificates, which of them counts, and what was revoked. Everything else in `pki/` is a key, may be one, or is of no use without
/// one.
fn is_public(name: &str) -> bool {
    let authority = name.starts_with("ca") && name.ends_with(".cert.pem");
    !name.contains("key")
        && (authority || name.ends_with(".crl") || name.ends_with("crl.pem") || name == "authorities.json")
}

/// A line that was being written when the file was read is none yet.
fn without_half_a_line(found: &mut Found) {
    if let From::Memory(bytes) = &mut found.from {
        bytes.truncate(bytes.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1));
        found.content = Some(content_of(bytes));
    }
}

/// The files of a folder of the hub, read at once.
fn files_in(disk: &dyn Disk, dir: &str, wanted: impl Fn(&str) -> bool) -> Result<Vec<Found>, BackupError> {
    let folder = Path::new(dir);
    if !exists(disk, folder)? {
        return Ok(Vec::new());
    }
    let entries = disk
        .list(folder)
        .map_err(|error| BackupError::file("listing", disk.describe(folder), &error))?;
    let names = entries
        .into_iter()
        .filter(|entry| !entry.stat.is_dir && !entry.name.ends_with(".tmp"));
    let names = names.filter(|entry| !entry.name.starts_with('.') && wanted(&entry.name));
    names
        .map(|entry| small(disk, &folder.join(&entry.name)))
        .collect()
}

/// How often a session that is published meanwhile is begun again.
const TRIES: usize = 50;
const PAUSE: Duration = Duration::from_millis(100);
