//! A snapshot becomes a hub again.
//!
//! ```text
//! DIR/.restoring/     every file, its hash checked as it is written, synced
//!                     journal, identity, hub.json; opened once, which rebuilds the catalog and recovers what there is
//!                     verified: every frame, every sample, every published file
//! DIR/.restored/      the same, renamed: it is whole, and what came of it stands in it
//! DIR/                renamed up, hub.json last: a folder with hub.json is a whole hub
//! ```
//!
//! Nobody can start what was not verified. A restore that was cut short leaves `.restoring`, which the next one removes, or
//! `.restored`, which the next one puts in place.

use super::crypt::Identities;
use super::folder::{catalogue, no_snapshot, open, read_object};
use super::layout::{
    Catalogue, FileFact, IDENTITY, IdentityLine, Manifest, Part, checked_path, snapshot_name, snapshots,
};
use super::objects::{Objects, Out};
use super::{BackupError, made_folder, place_of, real, sync_all};
use marey_engine::disk::{self, Disk, OpenMode, OsDisk};
use marey_engine::salvage::{Source, VerifyOptions, verify};
use marey_engine::time::HubClock;
use marey_engine::{Actor, AuditEvent, IdentityEntry, Options, Store};
use marey_format::types::unhex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What is to be restored, and to where.
#[derive(Clone, Debug, Default)]
pub struct RestoreSpec {
    /// The folder of backups.
    pub from: PathBuf,
    /// None for the newest.
    pub snapshot: Option<String>,
    /// The folder to make: empty, or not there.
    pub to: PathBuf,
    pub identities: Identities,
    /// Leave out studies that no key opens.
    pub without_keys: bool,
    /// Give the hub out although something in it is not as it should be.
    pub with_faults: bool,
}

/// A hub that was restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    pub snapshot: String,
    pub dir: PathBuf,
    pub parts: Vec<String>,
    /// Studies that no key opened.
    pub left_out: Vec<String>,
    pub files: u64,
    pub bytes: u64,
    pub sessions: u64,
    pub samples: u64,
    /// What verification found; empty unless faults were accepted.
    pub faults: Vec<String>,
    pub notes: Vec<String>,
    /// Whether the authority's keys are there: without them the hub does not start.
    pub has_ca: bool,
}

/// Where it is made.
const STAGE: &str = ".restoring";
/// What is verified, and has only to be put in place.
const VERIFIED: &str = ".restored";
/// What came of it, beside it.
const RESULT: &str = "restored.json";
const RESULT_BYTES_MAX: u64 = 256 << 20;
/// Last of all.
const HUB_FILE: &str = "hub.json";
const IDENTITY_BYTES_MAX: u64 = 1 << 30;

/// Makes a hub of a snapshot.
///
/// # Errors
/// [`BackupError`]: no hub was made.
pub fn restore(
    spec: &RestoreSpec,
    clock: Arc<dyn HubClock>,
    progress: &mut dyn FnMut(String),
) -> Result<Restored, BackupError> {
    check_place(spec)?;
    if let Some(restored) = finish_earlier(spec)? {
        progress("an earlier restore was verified and cut off; it is put in place".into());
        return Ok(restored);
    }
    let (from, _) = open(&spec.from)?;
    let (snapshot, parts) = choose(&from, spec, clock.wall().utc_ns)?;
    let objects = Objects::new(&from);
    let mut chosen = Vec::new();
    let mut restored = Restored {
        snapshot: snapshot.clone(),
        dir: spec.to.clone(),
        parts: Vec::new(),
        left_out: Vec::new(),
        files: 0,
        bytes: 0,
        sessions: 0,
        samples: 0,
        faults: Vec::new(),
        notes: Vec::new(),
        has_ca: false,
    };
    for part in &parts {
        let read = Manifest::read(&from, &snapshot, part);
        let opened = read.and_then(|manifest| {
            let catalogue = catalogue(&objects, &manifest, &spec.identities)?;
            Ok((manifest, catalogue))
        });
        let (manifest, catalogue) = match opened {
            Ok(opened) => opened,
            Err(error) if spec.with_faults && *part != Part::Hub => {
                restored.faults.push(format!(
                    "{part}: nothing of it is restored, since what lists its files can't be read: {error}"
                ));
                continue;
            }
            Err(error) => return Err(error),
        };
        match catalogue {
            Some(catalogue) => {
                restored.parts.push(part.to_string());
                chosen.push((manifest, catalogue));
            }
            None if spec.without_keys && *part != Part::Hub => restored.left_out.push(part.to_string()),
            None => {
                let to = manifest.encrypted_to.join(", ");
                return Err(BackupError::Refused(format!(
                    "no key that was given opens {part}, which is encrypted to {to}; give one with --identity FILE{}",
                    if *part == Part::Hub {
                        ""
                    } else {
                        ", or leave such studies out with --without-keys"
                    }
                )));
            }
        }
    }
    let stage = prepare(spec, &chosen)?;
    for (manifest, catalogue) in &chosen {
        progress(format!("{}: {} files", manifest.part, catalogue.files.len()));
        for file in &catalogue.files {
            let put = put(&stage, &objects, manifest, file, &spec.identities)?;
            restored.files += u64::from(put.bytes.is_some());
            restored.bytes += put.bytes.unwrap_or_default();
            match put.fault {
                None => {}
                // Without what it says of itself no part of it is a hub.
                Some(fault) if spec.with_faults && manifest.part != Part::Hub => {
                    restored.faults.push(format!("{}: {fault}", file.path));
                }
                Some(fault) => {
                    return Err(BackupError::damaged(
                        stage.describe(Path::new(&file.path)),
                        format!(
                            "{fault}; `marey backup verify` says what else is damaged; restore another snapshot{}",
                            match manifest.part {
                                Part::Hub => "",
                                Part::Study(_) => ", or --with-faults for what there is",
                            }
                        ),
                    ));
                }
            }
        }
    }
    sync_all(&stage)?;
    // There is one: `choose` sees to it.
    let hub = chosen
        .iter()
        .find(|(manifest, _)| manifest.part == Part::Hub)
        .map(|(manifest, _)| &manifest.hub);
    let hub_id = hub
        .and_then(|hub| unhex(hub))
        .ok_or_else(|| BackupError::damaged(&spec.from, "no hub's id"))?;
    let identity = identity(&stage)?;
    let disk: Arc<dyn Disk> = Arc::new(OsDisk::new(spec.to.join(STAGE)));
    let options = Options {
        disk_floor_bytes: Some(0),
        ..Options::default()
    };
    Store::init_around(&disk, hub_id, &identity, &options)?;
    progress("opening it".into());
    let (store, report) = Store::open(disk.clone(), clock, options.clone())?;
    restored.sessions = store.sessions().len() as u64;
    let found = report
        .faults
        .iter()
        .map(ToString::to_string)
        .chain(report.unreadable);
    restored.faults.extend(found);
    let actor = Actor::Offline(rustix::process::geteuid().as_raw());
    let event = AuditEvent::new(actor, "hub.restore").on(&restored.snapshot);
    store.audit(&event.with("left_out", restored.left_out.clone()))?;
    store.close()?;
    drop(store);
    judge(spec, &options, &mut restored, progress)?;
    restored.has_ca = crate::pki::Authorities::open(&spec.to.join(STAGE), None).is_ok();
    hand_over(&spec.to, &restored)?;
    give_out(&spec.to)?;
    Ok(restored)
}

/// The hub stands apart from its backups: whoever copies or removes these must not meet it.
fn check_place(spec: &RestoreSpec) -> Result<(), BackupError> {
    let to = place_of(&spec.to)?;
    // Where it is not there, whoever opens it says so.
    match real(&spec.from) {
        Ok(from) if to.starts_with(&from) || from.starts_with(&to) => Err(BackupError::Refused(format!(
            "{} and the folder of backups {} lie inside of each other; name another",
            to.display(),
            from.display()
        ))),
        _ => Ok(()),
    }
}

fn choose(from: &OsDisk, spec: &RestoreSpec, now_utc_ns: i64) -> Result<(String, Vec<Part>), BackupError> {
    let mut all = snapshots(from)?;
    if spec.snapshot.is_none() {
        check_newest(&all, now_utc_ns)?;
    }
    let chosen = match &spec.snapshot {
        Some(wanted) => all
            .into_iter()
            .find(|(name, _)| name == wanted)
            .ok_or_else(|| no_snapshot(&spec.from, wanted))?,
        None => all
            .pop()
            .ok_or_else(|| BackupError::Refused(format!("{} has no snapshot", spec.from.display())))?,
    };
    match chosen.1.contains(&Part::Hub) {
        true => Ok(chosen),
        false => Err(BackupError::damaged(
            spec.from.join(super::layout::SNAPSHOTS).join(&chosen.0),
            "the part of the hub is gone; restore another snapshot",
        )),
    }
}

/// Where a clock was wrong, once or now, the last name is not the last backup: a person says which one is meant.
fn check_newest(all: &[(String, Vec<Part>)], now_utc_ns: i64) -> Result<(), BackupError> {
    let latest = snapshot_name(now_utc_ns.saturating_add(CLOCKS_DIFFER_NS));
    match all.last() {
        Some((last, _)) if *last > latest => {
            let newest = all.iter().rev().take(CANDIDATES_SHOWN);
            let newest: Vec<&str> = newest.map(|(name, _)| name.as_str()).collect();
            Err(BackupError::Refused(format!(
                "the snapshot {last} is of a time that is still to come, so that nobody knows which one is the newest; name it \
                 with --snapshot; the last by name: {}",
                newest.join(", ")
            )))
        }
        _ => Ok(()),
    }
}

/// How far two machines' clocks may be apart.
const CLOCKS_DIFFER_NS: i64 = 3_600_000_000_000;
const CANDIDATES_SHOWN: usize = 5;

/// An empty folder to make it in, with room enough.
fn prepare(spec: &RestoreSpec, chosen: &[(Manifest, Catalogue)]) -> Result<OsDisk, BackupError> {
    let out = made_folder(&spec.to)?;
    let failed =
        |action: &'static str| move |error: std::io::Error| BackupError::file(action, &spec.to, &error);
    let entries = out.list(Path::new("")).map_err(failed("listing"))?;
    if let Some(entry) = entries
        .iter()
        .find(|entry| entry.name != STAGE && entry.name != "lost+found")
    {
        let (to, name) = (spec.to.display(), &entry.name);
        return Err(BackupError::Refused(format!(
            "{to} holds {name:?}; a hub is restored into an empty folder"
        )));
    }
    if entries.iter().any(|entry| entry.name == STAGE) {
        out.remove_dir_all(Path::new(STAGE))
            .map_err(failed("removing an interrupted restore from"))?;
    }
    let bytes: u64 = chosen.iter().map(|(manifest, _)| manifest.bytes).sum();
    let space = out.space().map_err(failed("asking for the room of"))?;
    if space.free_bytes < bytes.saturating_add(ROOM_BESIDE_BYTES) {
        let (to, free) = (spec.to.display(), space.free_bytes);
        return Err(BackupError::Refused(format!(
            "{to} has {free} bytes free, and the hub takes {bytes} and {ROOM_BESIDE_BYTES} for its journal"
        )));
    }
    out.create_dir(Path::new(STAGE))
        .map_err(failed("making a folder in"))?;
    out.sync_dir(Path::new("")).map_err(failed("syncing"))?;
    Ok(OsDisk::new(spec.to.join(STAGE)))
}

/// Room for journal and databases.
const ROOM_BESIDE_BYTES: u64 = 128 << 20;

/// What became of one file.
struct Put {
    /// That stand there; none where nothing of it could be read.
    bytes: Option<u64>,
    /// How its object is not what was backed up.
    fault: Option<String>,
}

/// Writes one file, and checks what it wrote. An error is of the folder that is made; what is wrong with an object is a fault.
fn put(
    stage: &OsDisk,
    objects: &Objects<'_>,
    manifest: &Manifest,
    file: &FileFact,
    identities: &Identities,
) -> Result<Put, BackupError> {
    let Some(path) = checked_path(&manifest.part, &file.path) else {
        return Ok(Put {
            bytes: None,
            fault: Some("no path of a file of a hub; it is left out".to_owned()),
        });
    };
    let failed = |action: &'static str| {
        let path = &path;
        move |error: std::io::Error| BackupError::file(action, stage.describe(path), &error)
    };
    let dir = path.parent().unwrap_or(Path::new(""));
    make_dirs(stage, dir)?;
    let opened = stage.open(&path, OpenMode::CreateNew).map_err(failed("making"))?;
    let mut to = Told {
        to: Out::new(opened),
        failed: None,
    };
    let read = read_object(objects, &file.object, identities, &mut to);
    if let Some(error) = to.failed {
        return Err(failed("writing")(error));
    }
    let (written, bytes, blake3) = to.to.finish().map_err(failed("writing"))?;
    written.sync().map_err(failed("syncing"))?;
    let object = &file.object;
    let why = match read {
        Ok(Some(_)) if bytes == file.bytes && blake3 == file.blake3 => {
            return Ok(Put {
                bytes: Some(bytes),
                fault: None,
            });
        }
        Ok(Some(_)) => format!(
            "object {object} gives {bytes} bytes with BLAKE3 {blake3}, and {} bytes with {} were backed up",
            file.bytes, file.blake3
        ),
        Ok(None) => format!("object {object} is not opened by the key of {}", manifest.part),
        Err(error) => format!("object {object} can't be read: {error}"),
    };
    // Frames of a log are known by their own checksums, so that the beginning of one is worth something.
    if bytes > 0 {
        return Ok(Put {
            bytes: Some(bytes),
            fault: Some(why),
        });
    }
    drop(written);
    stage.remove_file(&path).map_err(failed("removing"))?;
    Ok(Put {
        bytes: None,
        fault: Some(format!("{why}; it is left out")),
    })
}

/// Remembers what failed in writing, which is no fault of what is read.
struct Told {
    to: Out,
    failed: Option<std::io::Error>,
}

impl Write for Told {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.to.write(bytes).map_err(|error| {
            let kind = error.kind();
            self.failed = Some(error);
            kind.into()
        })
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Folders; those of keys are nobody else's business.
fn make_dirs(stage: &OsDisk, dir: &Path) -> Result<(), BackupError> {
    let mut made = PathBuf::new();
    for name in dir.components() {
        made.push(name);
        let failed = |error: std::io::Error| BackupError::file("making", stage.describe(&made), &error);
        if stage.stat(&made).map_err(failed)?.is_some() {
            continue;
        }
        stage.create_dir(&made).map_err(failed)?;
        if made == Path::new("pki") || made == Path::new("keys") {
            super::make_private(&stage.describe(&made))?;
        }
    }
    Ok(())
}

/// The identity store as it was dumped; its file goes.
fn identity(stage: &OsDisk) -> Result<Vec<IdentityEntry>, BackupError> {
    let path = Path::new(IDENTITY);
    let shown = stage.describe(path);
    let failed = |error: std::io::Error| BackupError::file("reading", &shown, &error);
    let bytes = disk::read_all(stage, path, IDENTITY_BYTES_MAX).map_err(failed)?;
    let damaged = |what: String| BackupError::damaged(&shown, what);
    let mut entries = Vec::new();
    for line in bytes.split(|&b| b == b'\n').filter(|line| !line.is_empty()) {
        let line: IdentityLine = serde_json::from_slice(line).map_err(|error| damaged(error.to_string()))?;
        let value = bytes_of(&line.value)
            .ok_or_else(|| damaged(format!("{} {}: no hexadecimal", line.kind, line.key)))?;
        // Whoever was logged in then need not be somebody who is let in now.
        if line.kind == crate::people::TOKEN {
            continue;
        }
        entries.push(IdentityEntry {
            kind: line.kind,
            key: line.key,
            value,
        });
    }
    stage.remove_file(path).map_err(failed)?;
    Ok(entries)
}

pub(super) fn bytes_of(hex: &str) -> Option<Vec<u8>> {
    let pairs = hex.as_bytes().chunks(2);
    pairs
        .map(|pair| match pair {
            [_, _] => u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok(),
            _ => None,
        })
        .collect()
}

/// Reads all of it once more, as `marey verify` does.
fn judge(
    spec: &RestoreSpec,
    options: &Options,
    restored: &mut Restored,
    progress: &mut dyn FnMut(String),
) -> Result<(), BackupError> {
    let failed =
        |error: marey_engine::salvage::SalvageError| BackupError::Refused(format!("verifying: {error}"));
    let source = Source::at(&spec.to.join(STAGE)).map_err(failed)?;
    let verifying = VerifyOptions {
        options: options.clone(),
        ..VerifyOptions::default()
    };
    let told = std::cell::RefCell::new(progress);
    let report = verify(&source, &verifying, &|what| {
        (told.borrow_mut())(format!("verifying: {what}"))
    })
    .map_err(failed)?;
    restored.samples = report.checked.samples;
    let known: BTreeSet<String> = restored.faults.iter().cloned().collect();
    let found = report
        .faults
        .iter()
        .map(ToString::to_string)
        .filter(|fault| !known.contains(fault));
    restored.faults.extend(found.collect::<Vec<_>>());
    restored.notes = report.notes;
    match restored.faults.first() {
        Some(first) if !spec.with_faults => Err(BackupError::Refused(format!(
            "what was restored is not as it should be: {first}{}; it stays in {} and is no hub yet; take another snapshot, \
             or --with-faults for what there is",
            match restored.faults.len() {
                1 => String::new(),
                more => format!(" (and {} more)", more - 1),
            },
            spec.to.join(STAGE).display()
        ))),
        _ => Ok(()),
    }
}

/// From here on it is put in place, also by another run.
fn hand_over(to: &Path, restored: &Restored) -> Result<(), BackupError> {
    let out = OsDisk::new(to);
    let failed = |error: std::io::Error| BackupError::file("putting in place", to, &error);
    let (stage, verified) = (Path::new(STAGE), Path::new(VERIFIED));
    let json = serde_json::to_vec(restored).expect("plain fields");
    disk::replace(&out, &stage.join(RESULT), &json).map_err(failed)?;
    out.rename(stage, verified).map_err(failed)?;
    out.sync_dir(Path::new("")).map_err(failed)
}

/// Goes on with what an earlier run had verified; what came of that, if there is one.
fn finish_earlier(spec: &RestoreSpec) -> Result<Option<Restored>, BackupError> {
    let out = OsDisk::new(&spec.to);
    let result = Path::new(VERIFIED).join(RESULT);
    let failed = |error: std::io::Error| BackupError::file("reading", out.describe(&result), &error);
    if out.stat(&result).map_err(failed)?.is_none() {
        return Ok(None);
    }
    let bytes = disk::read_all(&out, &result, RESULT_BYTES_MAX).map_err(failed)?;
    let earlier: Restored = serde_json::from_slice(&bytes)
        .map_err(|error| BackupError::damaged(out.describe(&result), error.to_string()))?;
    if spec
        .snapshot
        .as_ref()
        .is_some_and(|asked| *asked != earlier.snapshot)
    {
        let (to, snapshot) = (spec.to.display(), &earlier.snapshot);
        return Err(BackupError::Refused(format!(
            "{to} holds a restore of {snapshot} that was cut off; finish it with --snapshot {snapshot}, or name another folder"
        )));
    }
    give_out(&spec.to)?;
    Ok(Some(earlier))
}

/// Puts all of it where it belongs. May be cut off anywhere, and begun again.
fn give_out(to: &Path) -> Result<(), BackupError> {
    let out = OsDisk::new(to);
    let failed = |error: std::io::Error| BackupError::file("putting in place", to, &error);
    let verified = Path::new(VERIFIED);
    let entries = out.list(verified).map_err(failed)?;
    let (last, first): (Vec<_>, Vec<_>) = entries
        .into_iter()
        .map(|entry| entry.name)
        .filter(|name| name != RESULT && name != "LOCK")
        .partition(|name| name == HUB_FILE);
    for names in [first, last] {
        for name in &names {
            out.rename(&verified.join(name), Path::new(name))
                .map_err(failed)?;
        }
        out.sync_dir(Path::new("")).map_err(failed)?;
    }
    out.remove_dir_all(verified).map_err(failed)?;
    out.sync_dir(Path::new("")).map_err(failed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "tests look at files from outside")]

    use super::*;

    fn restored(dir: &Path) -> Restored {
        Restored {
            snapshot: "2026-11-22T070000Z".into(),
            dir: dir.to_owned(),
            parts: vec!["hub".into()],
            left_out: Vec::new(),
            files: 3,
            bytes: 9,
            sessions: 1,
            samples: 5,
            faults: Vec::new(),
            notes: Vec::new(),
            has_ca: true,
        }
    }

    #[test]
    fn what_is_cut_off_while_it_is_put_in_place_is_finished_by_the_next() {
        let names = ["audit", "hub.toml", "pki", "sessions", HUB_FILE];
        for moved in 0..=names.len() {
            let folder = tempfile::tempdir().expect("a folder");
            let to = folder.path().join("hub");
            for name in names {
                std::fs::create_dir_all(to.join(STAGE).join(name)).expect("made");
            }
            std::fs::write(to.join(STAGE).join("LOCK"), "").expect("written");
            let spec = RestoreSpec {
                to: to.clone(),
                ..RestoreSpec::default()
            };
            assert_eq!(
                finish_earlier(&spec).expect("looked at"),
                None,
                "it is not verified"
            );
            hand_over(&to, &restored(&to)).expect("handed over");
            for name in &names[..moved] {
                std::fs::rename(to.join(VERIFIED).join(name), to.join(name)).expect("moved");
            }
            let other = RestoreSpec {
                snapshot: Some("2026-11-21T070000Z".into()),
                ..spec.clone()
            };
            let refused = finish_earlier(&other).expect_err("another one").to_string();
            assert!(refused.contains("2026-11-22T070000Z"), "{refused}");
            assert_eq!(finish_earlier(&spec).expect("finished"), Some(restored(&to)));
            let found = std::fs::read_dir(&to).expect("read");
            let found: BTreeSet<_> = found.map(|entry| entry.expect("an entry").file_name()).collect();
            let whole: BTreeSet<_> = names.map(std::ffi::OsString::from).into();
            assert_eq!(found, whole, "{moved} were moved");
            assert_eq!(finish_earlier(&spec).expect("looked at"), None);
        }
    }

    #[test]
    fn the_last_name_is_not_believed_where_a_clock_was_wrong() {
        let named = |names: &[&str]| -> Vec<_> {
            names
                .iter()
                .map(|name| ((*name).to_owned(), vec![Part::Hub]))
                .collect()
        };
        // 2026-11-22T07:00:00Z
        let now_utc_ns = 1_795_330_800 * 1_000_000_000;
        let good = named(&["2026-11-21T070000Z", "2026-11-22T073000Z"]);
        check_newest(&good, now_utc_ns).expect("clocks differ a little");
        check_newest(&[], now_utc_ns).expect("there is none");
        let wrong = named(&["2026-11-21T070000Z", "2099-01-01T000000Z"]);
        let refused = check_newest(&wrong, now_utc_ns).expect_err("of 2099").to_string();
        assert!(
            refused.contains("2099-01-01T000000Z, 2026-11-21T070000Z") && refused.contains("--snapshot"),
            "{refused}"
        );
    }
}
