//! How a generation appears: written aside, made durable, planned, and then put in place by renames.
//!
//! ```text
//! .tmp-g0002-streams/       the new streams/                   } all of it synced,
//! .tmp-g0002-NAME           each table, receipt, manifest      } names included
//! publish.json              the plan: from here on the generation exists
//! .tmp-g0002-streams <-> streams                               the whole directory at once
//! .tmp-g0002-streams  -> .old-g0001-streams                    aside, for those who still read it
//! .tmp-g0002-NAME     -> NAME                                  manifest last
//! live/, publish.json removed
//! ```
//!
//! Every rename stays within the session's folder, so that one sync of one folder covers it and nothing is ever in
//! neither place.
//!
//! Without the plan, whatever is aside is rubbish and goes. With it, the steps are done again from the top: each one
//! sees whether it was done. So a crash at any point leaves the old generation or the new one.

use super::CompactError;
use super::manifest::{MANIFEST, Manifest, json};
use crate::disk::{self, Disk};
use crate::error::StorageError;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Name of the plan.
const PLAN: &str = "publish.json";

/// What a plan is called while it is being written.
const HALF_A_PLAN: &str = "publish.json.tmp";

/// Longest plan, in bytes.
const PLAN_BYTES_MAX: u64 = 256 << 20;

/// What is to be put in place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub generation: u32,
    /// Every file below the new `streams/`, sorted.
    pub parts: Vec<String>,
    /// Every other file, manifest last.
    pub files: Vec<String>,
}

/// Where a generation is written before it is published.
#[derive(Clone, Debug)]
pub struct Aside {
    session_dir: PathBuf,
    generation: u32,
}

impl Aside {
    pub fn new(session_dir: &Path, generation: u32) -> Self {
        Self {
            session_dir: session_dir.to_owned(),
            generation,
        }
    }

    /// What becomes `streams/`.
    pub fn streams(&self) -> PathBuf {
        self.file("streams")
    }

    /// What becomes the session's file of that name.
    pub fn file(&self, name: &str) -> PathBuf {
        self.session_dir
            .join(format!(".tmp-g{:04}-{name}", self.generation))
    }

    /// Makes the folder for the streams.
    pub fn create(&self, disk: &dyn Disk) -> Result<(), StorageError> {
        let dir = self.streams();
        disk::create_dirs(disk, &dir).map_err(|error| StorageError::io("making", disk.describe(&dir), error))
    }
}

/// Publishes what stands aside, whose every file is synced. Returns when it is durable under its names.
pub fn publish(disk: &dyn Disk, session_dir: &Path, plan: &Plan) -> Result<(), CompactError> {
    let streams = Aside::new(session_dir, plan.generation).streams();
    let io = |path: &Path| {
        let path = disk.describe(path);
        move |error| StorageError::io("publishing", path, error)
    };
    disk.sync_dir(&streams).map_err(io(&streams))?;
    disk.sync_dir(session_dir).map_err(io(session_dir))?;
    let path = session_dir.join(PLAN);
    disk::replace(disk, &path, &json(plan)).map_err(io(&path))?;
    Ok(put_in_place(disk, session_dir, plan)?)
}

/// Finishes a publication that a crash cut short, and removes what one left behind that never came to a plan.
pub fn recover(disk: &dyn Disk, session_dir: &Path) -> Result<(), StorageError> {
    if let Some(plan) = planned(disk, session_dir)? {
        put_in_place(disk, session_dir, &plan)?;
    }
    discard(disk, session_dir)
}

/// Whether [`recover`] could finish what was planned, if anything is. Changes nothing.
pub fn check_plan(disk: &dyn Disk, session_dir: &Path) -> Result<(), StorageError> {
    match planned(disk, session_dir)? {
        Some(plan) => is_in_place(disk, session_dir, &plan).map(drop),
        None => Ok(()),
    }
}

fn planned(disk: &dyn Disk, session_dir: &Path) -> Result<Option<Plan>, StorageError> {
    let path = session_dir.join(PLAN);
    let io = |error| StorageError::io("reading", disk.describe(&path), error);
    if disk.stat(&path).map_err(io)?.is_none() {
        return Ok(None);
    }
    let bytes = disk::read_all(disk, &path, PLAN_BYTES_MAX).map_err(io)?;
    serde_json::from_slice(&bytes).map(Some).map_err(|error| {
        let what = format!(
            "what a publication that was cut off has to finish can't be read ({error}); \
             move this file away, and the session is published anew from its logs"
        );
        StorageError::damaged(disk.describe(&path), what)
    })
}

/// Removes what was written aside and never planned.
pub fn discard(disk: &dyn Disk, session_dir: &Path) -> Result<(), StorageError> {
    let half = session_dir.join(HALF_A_PLAN);
    let io = |error| StorageError::io("tidying", disk.describe(&half), error);
    if disk.stat(&half).map_err(io)?.is_some() {
        disk.remove_file(&half).map_err(io)?;
    }
    remove(disk, session_dir, ".tmp-")
}

/// Removes directories of earlier generations that were kept for those who still read them.
pub fn remove_old(disk: &dyn Disk, session_dir: &Path) -> Result<(), StorageError> {
    remove(disk, session_dir, ".old-")
}

fn remove(disk: &dyn Disk, session_dir: &Path, prefix: &str) -> Result<(), StorageError> {
    let io = |error| StorageError::io("tidying", disk.describe(session_dir), error);
    let mut removed = false;
    for entry in disk.list(session_dir).map_err(io)? {
        if !entry.name.starts_with(prefix) {
            continue;
        }
        let path = session_dir.join(&entry.name);
        if entry.stat.is_dir {
            disk.remove_dir_all(&path)
        } else {
            disk.remove_file(&path)
        }
        .map_err(io)?;
        removed = true;
    }
    if removed {
        disk.sync_dir(session_dir).map_err(io)
    } else {
        Ok(())
    }
}

fn put_in_place(disk: &dyn Disk, session_dir: &Path, plan: &Plan) -> Result<(), StorageError> {
    let aside = Aside::new(session_dir, plan.generation);
    let new_streams = aside.streams();
    let io = |error| StorageError::io("publishing", disk.describe(session_dir), error);
    let streams = session_dir.join("streams");
    if !is_in_place(disk, session_dir, plan)? {
        if disk.stat(&streams).map_err(io)?.is_some() {
            disk.exchange(&new_streams, &streams).map_err(io)?;
        } else {
            disk.rename(&new_streams, &streams).map_err(io)?;
        }
    }
    // Also where a run before this one did it: that its names can be read does not make them durable.
    disk.sync_dir(session_dir).map_err(io)?;
    if disk.stat(&new_streams).map_err(io)?.is_some() {
        let old = session_dir.join(format!(".old-g{:04}-streams", plan.generation.saturating_sub(1)));
        if disk.stat(&old).map_err(io)?.is_some() {
            disk.remove_dir_all(&old).map_err(io)?;
        }
        disk.rename(&new_streams, &old).map_err(io)?;
        disk.sync_dir(session_dir).map_err(io)?;
    }
    for name in &plan.files {
        let from = aside.file(name);
        if disk.stat(&from).map_err(io)?.is_some() {
            disk.rename(&from, &session_dir.join(name)).map_err(io)?;
        }
    }
    disk.sync_dir(session_dir).map_err(io)?;
    match Manifest::read(disk, session_dir)? {
        Some(manifest) if manifest.generation == plan.generation => {}
        found => {
            let what = format!(
                "generation {} was planned, the manifest has {}",
                plan.generation,
                found.map_or("none".to_owned(), |manifest| manifest.generation.to_string())
            );
            return Err(StorageError::damaged(
                disk.describe(&session_dir.join(MANIFEST)),
                what,
            ));
        }
    }
    // Rolling parts have served.
    let live = session_dir.join("live");
    if disk.stat(&live).map_err(io)?.is_some() {
        disk.remove_dir_all(&live).map_err(io)?;
    }
    disk.sync_dir(session_dir).map_err(io)?;
    disk.remove_file(&session_dir.join(PLAN)).map_err(io)?;
    disk.sync_dir(session_dir).map_err(io)
}

/// Whether `streams/` is the planned one already; an error where it is neither there nor aside.
fn is_in_place(disk: &dyn Disk, session_dir: &Path, plan: &Plan) -> Result<bool, StorageError> {
    let aside = Aside::new(session_dir, plan.generation).streams();
    let io = |error| StorageError::io("publishing", disk.describe(session_dir), error);
    if holds(disk, &session_dir.join("streams"), &plan.parts).map_err(io)? {
        return Ok(true);
    }
    if holds(disk, &aside, &plan.parts).map_err(io)? {
        return Ok(false);
    }
    let what = format!(
        "neither this nor streams/ holds generation {}, which was planned",
        plan.generation
    );
    Err(StorageError::damaged(disk.describe(&aside), what))
}

/// Whether a folder is there and holds exactly these files.
fn holds(disk: &dyn Disk, dir: &Path, parts: &[String]) -> std::io::Result<bool> {
    if disk.stat(dir)?.is_none() {
        return Ok(false);
    }
    Ok(files_below(disk, dir)? == parts)
}

/// Every file below a folder, by its path from there, sorted.
pub fn files_below(disk: &dyn Disk, dir: &Path) -> std::io::Result<Vec<String>> {
    fn walk(disk: &dyn Disk, dir: &Path, prefix: &str, found: &mut Vec<String>) -> std::io::Result<()> {
        for entry in disk.list(dir)? {
            let path = if prefix.is_empty() {
                entry.name.clone()
            } else {
                format!("{prefix}/{}", entry.name)
            };
            if entry.stat.is_dir {
                walk(disk, &dir.join(&entry.name), &path, found)?;
            } else {
                found.push(path);
            }
        }
        Ok(())
    }
    let mut found = Vec::new();
    walk(disk, dir, "", &mut found)?;
    found.sort();
    Ok(found)
}
