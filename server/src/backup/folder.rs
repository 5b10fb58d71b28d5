//! What a folder of backups has, and whether all of it is as it was written. Needs no hub, and no key but to look inside of
//! what is encrypted.

use super::BackupError;
use super::crypt::Identities;
use super::layout::{CATALOGUE_BYTES_MAX, Catalogue, Manifest, Part, hub_of, snapshots};
use super::objects::{Content, In, Objects, copy};
use marey_engine::disk::{Disk, OsDisk};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, BufReader, Read};
use std::path::Path;

/// One snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SnapshotShown {
    pub snapshot: String,
    pub parts: Vec<PartShown>,
}

/// One part of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PartShown {
    pub part: String,
    pub encrypted_to: Vec<String>,
    pub sessions: u64,
    pub files: u64,
    pub bytes: u64,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Checked {
    pub snapshots: u64,
    pub parts: u64,
    pub objects: u64,
    pub bytes: u64,
    /// Parts that were looked into as well: every content of every file.
    pub opened: u64,
    pub faults: Vec<String>,
}

/// The folder of backups at a path.
pub(super) fn open(folder: &Path) -> Result<(OsDisk, String), BackupError> {
    let disk = OsDisk::new(folder);
    match hub_of(&disk)? {
        Some(hub) => Ok((disk, hub)),
        None => Err(BackupError::Refused(format!(
            "{} holds no backups",
            folder.display()
        ))),
    }
}

/// The snapshots of a folder, oldest first.
///
/// # Errors
/// [`BackupError`], also of a manifest that can't be read.
pub fn list(folder: &Path) -> Result<Vec<SnapshotShown>, BackupError> {
    let (disk, _) = open(folder)?;
    let mut shown = Vec::new();
    for (snapshot, parts) in snapshots(&disk)? {
        let of_part = |part: &Part| {
            let manifest = Manifest::read(&disk, &snapshot, part)?;
            Ok(PartShown {
                part: part.to_string(),
                encrypted_to: manifest.encrypted_to,
                sessions: manifest.sessions,
                files: manifest.files,
                bytes: manifest.bytes,
            })
        };
        let parts = parts.iter().map(of_part).collect::<Result<_, BackupError>>()?;
        shown.push(SnapshotShown { snapshot, parts });
    }
    Ok(shown)
}

/// Reads every object of every snapshot, or of one, and holds it against the manifests; what is in the clear, and what the
/// keys open, file by file as well.
///
/// # Errors
/// Only where nothing can be said: what is broken is in the result.
pub fn check(
    folder: &Path,
    only: Option<&str>,
    identities: &Identities,
    progress: &mut dyn FnMut(String),
) -> Result<Checked, BackupError> {
    let (disk, hub) = open(folder)?;
    let mut checking = Checking {
        disk: &disk,
        objects: Objects::new(&disk),
        identities,
        seen: BTreeMap::new(),
        checked: Checked::default(),
    };
    for (snapshot, parts) in snapshots(&disk)? {
        if only.is_some_and(|only| only != snapshot) {
            continue;
        }
        progress(format!("snapshot {snapshot}"));
        checking.checked.snapshots += 1;
        for part in &parts {
            checking.part(&snapshot, part, &hub)?;
        }
    }
    match (only, checking.checked.snapshots) {
        (Some(only), 0) => Err(no_snapshot(folder, only)),
        _ => Ok(checking.checked),
    }
}

pub(super) fn no_snapshot(folder: &Path, snapshot: &str) -> BackupError {
    let shown: String = snapshot.chars().filter(|c| !c.is_control()).take(80).collect();
    BackupError::Refused(format!(
        "{} has no snapshot {shown:?}; `marey backup list` shows those that there are",
        folder.display()
    ))
}

struct Checking<'a> {
    disk: &'a dyn Disk,
    objects: Objects<'a>,
    identities: &'a Identities,
    /// Objects that were read: whether they are what was stored.
    seen: BTreeMap<String, bool>,
    checked: Checked,
}

impl Checking<'_> {
    fn part(&mut self, snapshot: &str, part: &Part, hub: &str) -> Result<(), BackupError> {
        self.checked.parts += 1;
        let manifest = match Manifest::read(self.disk, snapshot, part) {
            Ok(manifest) if manifest.hub == *hub => manifest,
            Ok(manifest) => {
                self.checked.faults.push(format!(
                    "{snapshot}, {part}: it is of another hub ({})",
                    manifest.hub
                ));
                return Ok(());
            }
            Err(error @ (BackupError::Damaged { .. } | BackupError::File { .. })) => {
                self.checked.faults.push(error.to_string());
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let mut whole = true;
        for object in &manifest.objects {
            let is_whole = match self.seen.get(&object.name) {
                Some(&known) => known,
                None => {
                    let found = self.objects.measure(&object.name);
                    let is_whole = found.as_ref().is_ok_and(|found| found == object);
                    if !is_whole {
                        let why = found
                            .err()
                            .map_or("its bytes are not those that were stored".into(), |e| {
                                e.to_string()
                            });
                        let name = &object.name;
                        self.checked
                            .faults
                            .push(format!("object {name}, of {snapshot}, {part}: {why}"));
                    }
                    self.checked.objects += 1;
                    self.checked.bytes += object.bytes;
                    self.seen.insert(object.name.clone(), is_whole);
                    is_whole
                }
            };
            whole &= is_whole;
        }
        if !whole {
            return Ok(());
        }
        match catalogue(&self.objects, &manifest, self.identities) {
            Ok(None) => Ok(()),
            Ok(Some(catalogue)) => {
                self.checked.opened += 1;
                self.contents(&manifest, &catalogue)
            }
            Err(error) => {
                self.checked
                    .faults
                    .push(format!("{snapshot}, {part}: the catalogue: {error}"));
                Ok(())
            }
        }
    }

    fn contents(&mut self, manifest: &Manifest, catalogue: &Catalogue) -> Result<(), BackupError> {
        let (snapshot, part) = (&manifest.snapshot, &manifest.part);
        for file in &catalogue.files {
            let said = Content {
                bytes: file.bytes,
                blake3: file.blake3.clone(),
            };
            let why = match manifest.object(&file.object) {
                None => Some("the manifest does not name its object".to_owned()),
                // What is in the clear was read already.
                Some(object) if !file.object.ends_with(".age") => (object.bytes != said.bytes
                    || object.blake3 != said.blake3)
                    .then(|| "another content".to_owned()),
                Some(_) => {
                    let copied = read_object(&self.objects, &file.object, self.identities, &mut io::sink());
                    match copied {
                        Ok(Some(content)) if content == said => None,
                        Ok(Some(_)) => Some("another content".to_owned()),
                        Ok(None) => Some("the key of its catalogue does not open it".to_owned()),
                        Err(error) => Some(error.to_string()),
                    }
                }
            };
            if let Some(why) = why {
                self.checked
                    .faults
                    .push(format!("{snapshot}, {part}, {}: {why}", file.path));
            }
        }
        Ok(())
    }
}

/// The catalogue of a part; none where no key opens it.
pub(super) fn catalogue(
    objects: &Objects<'_>,
    manifest: &Manifest,
    identities: &Identities,
) -> Result<Option<Catalogue>, BackupError> {
    // It may be JSON still, and name other files, where a bit of it has rotted.
    let stored = objects.measure(&manifest.catalogue)?;
    if manifest.object(&manifest.catalogue) != Some(&stored) {
        let what = format!(
            "{} bytes with BLAKE3 {}, which is not what was stored",
            stored.bytes, stored.blake3
        );
        return Err(BackupError::damaged(Objects::path(&manifest.catalogue), what));
    }
    let Some(mut reader) = reader(objects, &manifest.catalogue, identities)? else {
        return Ok(None);
    };
    let mut bytes = Vec::new();
    let limited = reader
        .as_mut()
        .take(CATALOGUE_BYTES_MAX + 1)
        .read_to_end(&mut bytes);
    let path = Objects::path(&manifest.catalogue);
    limited.map_err(|error| BackupError::file("reading", &path, &error))?;
    if bytes.len() as u64 > CATALOGUE_BYTES_MAX {
        return Err(BackupError::damaged(path, "longer than any catalogue"));
    }
    let parsed = Catalogue::parse(&bytes, &manifest.part);
    parsed.map(Some).map_err(|what| BackupError::damaged(path, what))
}

/// Copies the content of an object; none where no key opens it.
pub(super) fn read_object(
    objects: &Objects<'_>,
    name: &str,
    identities: &Identities,
    to: &mut dyn io::Write,
) -> Result<Option<Content>, BackupError> {
    let Some(mut reader) = reader(objects, name, identities)? else {
        return Ok(None);
    };
    let copied = copy(reader.as_mut(), to);
    copied
        .map(Some)
        .map_err(|error| BackupError::file("copying", Objects::path(name), &error))
}

fn reader(
    objects: &Objects<'_>,
    name: &str,
    identities: &Identities,
) -> Result<Option<Box<dyn Read>>, BackupError> {
    let from: In = objects.open(name)?;
    match name.ends_with(".age") {
        false => Ok(Some(Box::new(from))),
        true => identities.unwrap(BufReader::with_capacity(256 << 10, from)),
    }
}
