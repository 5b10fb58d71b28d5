//! Names and files in memory: as they are now, as they are durably, and the changes between.
//!
//! Owns: the bookkeeping. Does not own: locking (`memory`), what a power cut leaves (`cut`).

use super::content::Content;
use crate::disk::{Space, Stat};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

const ROOT: u64 = 0;

#[derive(Clone, Debug)]
pub(super) struct Tree {
    pub(super) nodes: BTreeMap<u64, Node>,
    next: u64,
    pub(super) locks: BTreeSet<PathBuf>,
    pub(super) space: Space,
}

#[derive(Clone, Debug)]
pub(super) enum Node {
    Dir(Dir),
    File(Content, Durable),
}

/// Names in a folder.
#[derive(Clone, Debug, Default)]
pub(super) struct Dir {
    pub(super) now: BTreeMap<String, u64>,
    pub(super) durable: BTreeMap<String, u64>,
    /// Since the last sync of the folder.
    pub(super) changes: Vec<NameChange>,
}

/// What of a file is on the disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Durable {
    pub(super) content: Content,
    /// Since the last sync of the file.
    pub(super) changes: Vec<Change>,
}

#[derive(Clone, Debug)]
pub(super) enum Change {
    Write { offset: usize, bytes: Arc<[u8]> },
    Length(usize),
}

/// What a folder's names became, in one step: each name, and none for one that went.
pub(super) type NameChange = Vec<(String, Option<u64>)>;

impl Change {
    pub(super) fn apply(&self, content: &mut Content) {
        match self {
            Self::Write { offset, bytes } => content.write(*offset, bytes),
            Self::Length(bytes) => content.resize(*bytes),
        }
    }
}

impl Tree {
    /// An empty disk.
    pub(super) fn new(space: Space) -> Self {
        Self {
            nodes: BTreeMap::from([(ROOT, Node::Dir(Dir::default()))]),
            next: 1,
            locks: BTreeSet::new(),
            space,
        }
    }

    pub(super) fn find(&self, path: &Path) -> io::Result<u64> {
        let mut at = ROOT;
        for part in path.components() {
            let Component::Normal(name) = part else { continue };
            let Some(Node::Dir(dir)) = self.nodes.get(&at) else {
                return Err(io::ErrorKind::NotADirectory.into());
            };
            at = *dir.now.get(text(name)?).ok_or(io::ErrorKind::NotFound)?;
        }
        Ok(at)
    }

    pub(super) fn dir(&mut self, path: &Path) -> io::Result<&mut Dir> {
        let id = self.find(path)?;
        match self.nodes.get_mut(&id) {
            Some(Node::Dir(dir)) => Ok(dir),
            _ => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    pub(super) fn file(&mut self, id: u64) -> io::Result<(&mut Content, &mut Durable)> {
        match self.nodes.get_mut(&id) {
            Some(Node::File(now, durable)) => Ok((now, durable)),
            Some(Node::Dir(_)) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::Error::other("the file went with a power cut")),
        }
    }

    pub(super) fn stat(&self, id: u64) -> Stat {
        match self.nodes.get(&id) {
            Some(Node::File(now, _)) => Stat {
                is_dir: false,
                bytes: now.len() as u64,
            },
            _ => Stat {
                is_dir: true,
                bytes: 0,
            },
        }
    }

    pub(super) fn add(&mut self, node: Node) -> u64 {
        let id = self.next;
        self.next += 1;
        self.nodes.insert(id, node);
        id
    }

    /// One name of one folder changes.
    pub(super) fn rename_in(&mut self, path: &Path, node: Option<u64>) -> io::Result<()> {
        let (dir, name) = self.split(path)?;
        self.change(dir, vec![(name, node)])
    }

    /// Names that change together: in one step where the folder is the same, the new name first where it is not.
    pub(super) fn change_both(&mut self, a: (&Path, Option<u64>), b: (&Path, Option<u64>)) -> io::Result<()> {
        let (a_dir, a_name) = self.split(a.0)?;
        let (b_dir, b_name) = self.split(b.0)?;
        if a_dir == b_dir {
            return self.change(a_dir, vec![(a_name, a.1), (b_name, b.1)]);
        }
        self.change(a_dir, vec![(a_name, a.1)])?;
        self.change(b_dir, vec![(b_name, b.1)])
    }

    pub(super) fn drop_unreachable(&mut self) {
        let mut reached = BTreeSet::from([ROOT]);
        let mut open = vec![ROOT];
        while let Some(id) = open.pop() {
            if let Some(Node::Dir(dir)) = self.nodes.get(&id) {
                for &child in dir.now.values().chain(dir.durable.values()) {
                    if reached.insert(child) {
                        open.push(child);
                    }
                }
            }
        }
        self.nodes.retain(|id, _| reached.contains(id));
    }

    fn split(&self, path: &Path) -> io::Result<(u64, String)> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        Ok((
            self.find(path.parent().unwrap_or(Path::new("")))?,
            text(name)?.to_owned(),
        ))
    }

    fn change(&mut self, dir: u64, change: NameChange) -> io::Result<()> {
        let Some(Node::Dir(dir)) = self.nodes.get_mut(&dir) else {
            return Err(io::ErrorKind::NotADirectory.into());
        };
        set_names(&mut dir.now, &change);
        dir.changes.push(change);
        Ok(())
    }
}

/// Carries out a change of names.
pub(super) fn set_names(names: &mut BTreeMap<String, u64>, change: &NameChange) {
    for (name, node) in change {
        match node {
            Some(node) => names.insert(name.clone(), *node),
            None => names.remove(name),
        };
    }
}

fn text(name: &OsStr) -> io::Result<&str> {
    name.to_str().ok_or_else(|| io::ErrorKind::InvalidInput.into())
}
