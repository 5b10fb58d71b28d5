//! The files of one session as they stand at one moment, while it may be sealed, rolled and published beside us.
//!
//! What lists are is read before what they name, so that a file which comes meanwhile is in no list that has it too early.
//! What is published is read first and the segments that are at rest last, so that what Parquet was made of is among them.
//! `session.json` is read before the manifest: an opened hub makes up for a session that is behind what is published, and
//! not for the contrary.

use super::BackupError;
use super::layout::known;
use super::objects::{Content, content_of};
use marey_engine::compact::Manifest;
use marey_engine::disk::{self, Disk};
use marey_engine::media::{MEDIA, MediaFact};
use marey_engine::{Session, Store};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// One file that belongs to a snapshot.
#[derive(Debug)]
pub(super) struct Found {
    /// From the hub's folder.
    pub path: String,
    pub from: From,
    /// What it is, where something says so that does not have to be read.
    pub content: Option<Content>,
    /// Nobody writes it any more, whatever becomes of the session.
    pub at_rest: bool,
}

/// The files of a session.
#[derive(Debug)]
pub(super) struct Gathered {
    pub files: Vec<Found>,
    /// Why nobody can say which published files belong together; all that there are are among the files then.
    pub unnamed: Option<String>,
}

/// Where a file's bytes are.
#[derive(Debug)]
pub(super) enum From {
    Disk(PathBuf),
    /// Small ones that are replaced as a whole.
    Memory(Vec<u8>),
}

/// Longest of those, in bytes.
const SMALL_BYTES_MAX: u64 = 256 << 20;
/// Folders below each other in a session's folder.
const DEPTH_MAX: usize = 16;

/// Lists what belongs to a session now. None while a publication is under way: again a moment later.
pub(super) fn gather(store: &Store, session: &Session) -> Result<Option<Gathered>, BackupError> {
    let disk = &**store.disk();
    let dir = Session::dir(&session.id);
    if exists(disk, &dir.join("publish.json"))? {
        return Ok(None);
    }
    let mut files = Vec::new();
    files.push(small(disk, &dir.join("session.json"))?);
    let manifest = match exists(disk, &dir.join("manifest.json"))? {
        true => Some(small(disk, &dir.join("manifest.json"))?),
        false => None,
    };
    let parsed = match manifest.as_ref().map(|found| &found.from) {
        Some(From::Memory(bytes)) => serde_json::from_slice::<Manifest>(bytes).map_err(|why| why.to_string()),
        _ => Err("it is gone".to_owned()),
    };
    let facts = parsed.as_ref().map(Facts::of).unwrap_or_default();
    // Before the first seal there is none.
    let is_due = manifest.is_some() || session.generation > 0;
    let unnamed = parsed.err().filter(|_| is_due).map(|why| {
        format!(
            "{}: {why}; nobody can say which files of streams/ belong to the session, and all of them are in the backup as \
             they are; see `marey verify`",
            disk.describe(&dir.join("manifest.json")).display()
        )
    });
    files.extend(manifest);
    let media = match exists(disk, &dir.join(MEDIA))? {
        true => Some(small(disk, &dir.join(MEDIA))?),
        false => None,
    };
    let mut rest = Vec::new();
    walk(disk, &dir, &mut rest, 0)?;
    // What is in the list and not in the folder is looked for again, and then told.
    let missing = named(media.as_ref()).map(|name| dir.join("media").join(name));
    let missing: Vec<PathBuf> = missing.filter(|path| !rest.contains(path)).collect();
    rest.extend(missing);
    files.extend(media);
    for path in rest {
        let Some(name) = below(&dir, &path) else { continue };
        let is_named = facts.published.contains_key(&name);
        let is_part = name.starts_with("streams/");
        // A part that the manifest does not name belongs to the generation after it, or to nothing.
        if name == "session.json"
            || name == "manifest.json"
            || name == MEDIA
            || (is_part && !is_named && unnamed.is_none())
        {
            continue;
        }
        files.push(Found {
            content: facts.published.get(&name).cloned(),
            at_rest: is_part && is_named,
            path: text(&path)?,
            from: From::Disk(path),
        });
    }
    for name in facts.published.keys() {
        if !exists(disk, &dir.join(name))? {
            return Ok(None);
        }
    }
    for at_rest in store.segments_at_rest(&session.id)? {
        let content = below(&dir, &at_rest.path).and_then(|name| facts.segments.get(&name).cloned());
        files.push(Found {
            content: content.filter(|content| content.bytes == at_rest.bytes),
            at_rest: true,
            path: text(&at_rest.path)?,
            from: From::Disk(at_rest.path),
        });
    }
    Ok(Some(Gathered { files, unnamed }))
}

/// The names of the files below `media/` that a list of media has.
fn named(list: Option<&Found>) -> impl Iterator<Item = String> + use<> {
    #[derive(serde::Deserialize)]
    struct Listed {
        media: Vec<MediaFact>,
    }
    let listed = match list.map(|found| &found.from) {
        Some(From::Memory(bytes)) => serde_json::from_slice::<Listed>(bytes).ok(),
        _ => None,
    };
    let media = listed.map(|listed| listed.media).unwrap_or_default();
    let names = media.into_iter().map(|media| media.name);
    names.filter(|name| crate::text::file_name(name).is_ok())
}

/// What a session's manifest says of files, by their path below the session's folder.
#[derive(Debug, Default)]
struct Facts {
    published: BTreeMap<String, Content>,
    segments: BTreeMap<String, Content>,
}

impl Facts {
    fn of(manifest: &Manifest) -> Self {
        let content = |(bytes, blake3)| Content { bytes, blake3 };
        let parts = manifest.streams.iter().flat_map(|stream| &stream.parts);
        let parts = parts.map(|part| (part.path.clone(), content(known(&part.hashes))));
        let tables = manifest
            .beside()
            .map(|table| (table.path.clone(), content(known(&table.hashes))));
        let segments = manifest.logs.iter().flat_map(|log| &log.segments);
        let segments = segments.filter_map(|segment| {
            let blake3 = segment.blake3.clone()?;
            Some((segment.path.clone(), content((segment.bytes, blake3))))
        });
        Self {
            published: parts.chain(tables).collect(),
            segments: segments.collect(),
        }
    }
}

/// Every file of a session but its logs, what is made anew anyway, and what is being written.
fn walk(disk: &dyn Disk, dir: &Path, found: &mut Vec<PathBuf>, depth: usize) -> Result<(), BackupError> {
    let entries = match disk.list(dir) {
        Ok(entries) => entries,
        // It went while we looked: whoever needs it finds that it is not there.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(BackupError::file("listing", disk.describe(dir), &error)),
    };
    for entry in entries {
        let unfinished = entry.name.ends_with(".tmp") || entry.name.ends_with(".part");
        // Media files have the names that people gave them, and come there whole.
        let passing = entry.name.starts_with('.') || (unfinished && !dir.ends_with("media"));
        let again = depth == 0 && ["logs", "live", "publish.json"].contains(&entry.name.as_str());
        if passing || again {
            continue;
        }
        let path = dir.join(&entry.name);
        match entry.stat.is_dir {
            true if depth < DEPTH_MAX => walk(disk, &path, found, depth + 1)?,
            true => {
                return Err(BackupError::damaged(
                    disk.describe(&path),
                    "folders that deep are none of a session's",
                ));
            }
            false => found.push(path),
        }
    }
    Ok(())
}

/// A file that is replaced as a whole, read at once.
pub(super) fn small(disk: &dyn Disk, path: &Path) -> Result<Found, BackupError> {
    let bytes = disk::read_all(disk, path, SMALL_BYTES_MAX)
        .map_err(|error| BackupError::file("reading", disk.describe(path), &error))?;
    Ok(Found {
        path: text(path)?,
        content: Some(content_of(&bytes)),
        from: From::Memory(bytes),
        at_rest: false,
    })
}

pub(super) fn exists(disk: &dyn Disk, path: &Path) -> Result<bool, BackupError> {
    let stat = disk
        .stat(path)
        .map_err(|error| BackupError::file("looking for", disk.describe(path), &error))?;
    Ok(stat.is_some())
}

fn below(dir: &Path, path: &Path) -> Option<String> {
    Some(path.strip_prefix(dir).ok()?.to_str()?.to_owned())
}

fn text(path: &Path) -> Result<String, BackupError> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| BackupError::damaged(path, "a name that is not UTF-8"))
}
