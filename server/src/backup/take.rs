//! Taking a snapshot of a hub, which may be recording.
//!
//! ```text
//! logs sealed        all that was acknowledged is in files that nobody writes any more
//! each session       what is published, then its segments at rest      -> gather
//! each content       once: linked, copied or encrypted                  -> objects
//! the hub's own      configuration, identity, audit, public certificates
//! all of it synced, names included
//! manifests          into a folder aside, synced, renamed: the snapshot is there
//! ```
//!
//! An interrupted one leaves objects, which the next one finds and uses, and nothing else that lasts.

use super::crypt::Recipients;
use super::gather::exists;
use super::layout::{
    ASIDE, LOCK, Manifest, ObjectFact, Part, SNAPSHOTS, STORE_FILE, StoreFile, VERSION, hub_of,
    snapshot_name, snapshots,
};
use super::objects::Objects;
use super::taking::{Growing, Room, Taking};
use super::{BackupError, made_folder, make_private, place_of, real};
use crate::keeping;
use marey_engine::Store;
use marey_engine::disk::{self, Disk, OsDisk};
use marey_format::types::hex;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What is to be backed up, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupSpec {
    /// The folder of backups; made if it is not there. Absolute.
    pub to: PathBuf,
    /// To whom all is encrypted that no study's own key covers; none: it is in the clear.
    #[serde(default)]
    pub encrypt_to: Vec<String>,
    /// Read every file again, also those that the folder has already.
    #[serde(default)]
    pub full: bool,
    /// The authority's keys as well. Only where the hub's part is encrypted.
    #[serde(default)]
    pub with_ca: bool,
}

/// A snapshot that was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    pub snapshot: String,
    pub to: PathBuf,
    pub parts: Vec<PartTaken>,
    /// Objects that were not there before, and the bytes that they take.
    pub new_objects: u64,
    pub new_bytes: u64,
    /// Of the new ones, those that are second names of the hub's files and take no room.
    pub linked: u64,
    /// What is not in it, or not as it should be.
    pub problems: Vec<String>,
}

/// One part of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartTaken {
    pub part: String,
    pub encrypted: bool,
    pub sessions: u64,
    pub files: u64,
    pub bytes: u64,
}

/// Takes a snapshot of the hub whose configuration and keys stand in `hub_dir`.
pub(crate) fn take(
    store: &Store,
    hub_dir: &Path,
    spec: &BackupSpec,
    progress: &mut dyn FnMut(String),
) -> Result<Taken, BackupError> {
    let recipients = Recipients::parse(&spec.encrypt_to)?;
    if spec.with_ca && recipients.is_empty() {
        return Err(BackupError::Refused(
            "the authority's keys are never backed up in the clear; add --encrypt-to, or use `marey backup ca`".into(),
        ));
    }
    let began_utc_ns = store.clock().wall().utc_ns;
    let disk = prepare(store, hub_dir, &spec.to)?;
    let lock = disk
        .lock(Path::new(LOCK))
        .map_err(|error| BackupError::file("locking", &spec.to, &error))?;
    let Some(_lock) = lock else {
        let to = spec.to.display();
        return Err(BackupError::Refused(format!(
            "somebody else backs up to {to}, or prunes it; wait for that one"
        )));
    };
    let hub = claim(store, &disk, &spec.to)?;
    // Not before it is known to be one of backups: a folder of somebody else's is nobody's to close.
    make_private(&spec.to)?;
    tidy(&disk)?;
    progress("sealing logs".into());
    store.seal_logs()?;
    let snapshot = new_name(&disk, began_utc_ns)?;
    let mut taking = Taking {
        store,
        hub_dir,
        own: OsDisk::new(hub_dir),
        objects: Objects::new(&disk),
        room: Room::of(store, hub_dir, &spec.to)?,
        name_key: keeping::name_key(hub_dir)?,
        full: spec.full,
        prior: prior(&disk)?,
        checked: BTreeSet::new(),
        without: Vec::new(),
        taken: Taken {
            snapshot: snapshot.clone(),
            to: spec.to.clone(),
            parts: Vec::new(),
            new_objects: 0,
            new_bytes: 0,
            linked: 0,
            problems: Vec::new(),
        },
    };
    let mut parts = taking.sessions(&recipients, progress)?;
    progress("the hub's own files".into());
    let own = taking.hub_files(spec.with_ca)?;
    let mut part = Growing::new(Part::Hub, recipients);
    for found in &own {
        taking.file(&mut part, found)?;
    }
    parts.insert(Part::Hub, part);
    let mut manifests = Vec::new();
    for (_, part) in parts {
        manifests.push(taking.finish(part, &hub, began_utc_ns)?);
    }
    taking.objects.sync()?;
    publish(&disk, &snapshot, &manifests)?;
    keeping::note_backup(store, &spec.to, &snapshot, began_utc_ns, taking.without)?;
    Ok(taking.taken)
}

/// The folder of backups, which must not be a part of the hub.
fn prepare(store: &Store, hub_dir: &Path, to: &Path) -> Result<OsDisk, BackupError> {
    if !to.is_absolute() {
        let shown = to.display();
        return Err(BackupError::Refused(format!(
            "{shown} is no absolute path; the hub may stand elsewhere than you do"
        )));
    }
    let (at, hub) = (place_of(to)?, real(hub_dir)?);
    if at.starts_with(&hub) || hub.starts_with(&at) {
        let (at, hub) = (at.display(), store.disk().describe(Path::new("")));
        let hub = hub.display();
        return Err(BackupError::Refused(format!(
            "{at} and the hub's folder {hub} lie inside of each other; name another"
        )));
    }
    let disk = made_folder(to)?;
    if hub_of(&disk)?.is_none() {
        check_empty(&disk, to)?;
    }
    Ok(disk)
}

/// A folder that is to hold backups and holds none yet must hold nothing else.
fn check_empty(disk: &dyn Disk, to: &Path) -> Result<(), BackupError> {
    let entries = disk
        .list(Path::new(""))
        .map_err(|error| BackupError::file("listing", to, &error))?;
    let strange = entries
        .iter()
        .find(|entry| entry.name != LOCK && !entry.name.ends_with(".tmp"));
    match strange {
        None => Ok(()),
        Some(entry) => {
            let (to, name) = (to.display(), &entry.name);
            Err(BackupError::Refused(format!(
                "{to} holds {name:?} and no backups; name an empty folder, or one that is not there"
            )))
        }
    }
}

/// Whose backups these are: one hub's, for ever.
fn claim(store: &Store, disk: &dyn Disk, to: &Path) -> Result<String, BackupError> {
    let hub = hex(&store.hub_id());
    match hub_of(disk)? {
        Some(other) if other != hub => {
            let to = to.display();
            return Err(BackupError::Refused(format!(
                "{to} holds the backups of another hub ({other}); name another folder"
            )));
        }
        Some(_) => {}
        None => {
            check_empty(disk, to)?;
            let json = serde_json::to_vec(&StoreFile {
                v: VERSION,
                hub: hub.clone(),
            })
            .expect("two plain fields");
            disk::replace(disk, Path::new(STORE_FILE), &json)
                .map_err(|error| BackupError::file("writing", to.join(STORE_FILE), &error))?;
        }
    }
    Ok(hub)
}

/// Removes what an interrupted backup was writing.
pub(super) fn tidy(disk: &dyn Disk) -> Result<(), BackupError> {
    let failed = |error: std::io::Error| BackupError::file("tidying", disk.describe(Path::new("")), &error);
    if exists(disk, Path::new(ASIDE))? {
        disk.remove_dir_all(Path::new(ASIDE)).map_err(failed)?;
    }
    if exists(disk, Path::new(SNAPSHOTS))? {
        for entry in disk.list(Path::new(SNAPSHOTS)).map_err(failed)? {
            if entry.name.starts_with(".tmp-") && entry.stat.is_dir {
                disk.remove_dir_all(&Path::new(SNAPSHOTS).join(&entry.name))
                    .map_err(failed)?;
            }
        }
    }
    Ok(())
}

fn new_name(disk: &dyn Disk, utc_ns: i64) -> Result<String, BackupError> {
    let name = snapshot_name(utc_ns);
    let mut tried = name.clone();
    for again in 2.. {
        if !exists(disk, &Path::new(SNAPSHOTS).join(&tried))? {
            break;
        }
        tried = format!("{name}-{again}");
    }
    Ok(tried)
}

/// What the newest snapshot of each part has, by name: what is known of those objects need not be read again.
fn prior(disk: &dyn Disk) -> Result<BTreeMap<String, ObjectFact>, BackupError> {
    let mut newest: BTreeMap<Part, String> = BTreeMap::new();
    for (snapshot, parts) in snapshots(disk)? {
        newest.extend(parts.into_iter().map(|part| (part, snapshot.clone())));
    }
    let mut known = BTreeMap::new();
    for (part, snapshot) in newest {
        // One that is damaged makes no backup impossible: its objects are read again.
        if let Ok(manifest) = Manifest::read(disk, &snapshot, &part) {
            known.extend(
                manifest
                    .objects
                    .into_iter()
                    .map(|object| (object.name.clone(), object)),
            );
        }
    }
    Ok(known)
}

/// Puts the manifests of a snapshot in place, all at once.
pub(super) fn publish(disk: &dyn Disk, snapshot: &str, manifests: &[Manifest]) -> Result<(), BackupError> {
    let dir = Path::new(SNAPSHOTS);
    let (aside, place) = (dir.join(format!(".tmp-{snapshot}")), dir.join(snapshot));
    let write = || -> std::io::Result<()> {
        // The folder of objects and those in it have names as well.
        disk.sync_dir(Path::new(super::layout::OBJECTS))?;
        disk::create_dirs(disk, &aside)?;
        for manifest in manifests {
            disk::replace(disk, &aside.join(manifest.part.file()), &manifest.to_bytes())?;
        }
        disk.rename(&aside, &place)?;
        disk.sync_dir(dir)?;
        disk.sync_dir(Path::new(""))
    };
    write().map_err(|error| BackupError::file("publishing", disk.describe(&place), &error))
}
