//! A disk in memory that knows what was synced: for tests of what a crash leaves.
//!
//! Two kinds of crash. After the *death of the process* everything that was written is still there to be read, but no
//! more durable than before. After a *power cut* each write since the last sync is there, not there, or torn at a
//! sector, and of the changes of names in each folder since its last sync some first ones are there. A sync that fails
//! leaves its pages readable and clean: a later sync does not bring them to the disk (the fsync lesson).

use super::{DirEntry, Disk, File, LockGuard, OpenMode, Space, Stat};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// Bytes that a disk writes as a whole or not at all.
const SECTOR_BYTES: usize = 512;

/// A disk in memory. Clones are the same disk.
#[derive(Clone, Debug)]
pub struct MemoryDisk {
    tree: Arc<Mutex<Tree>>,
}

#[derive(Debug)]
struct Tree {
    nodes: BTreeMap<u64, Node>,
    next: u64,
    locks: BTreeSet<PathBuf>,
    space: Space,
}

#[derive(Debug)]
enum Node {
    Dir {
        now: BTreeMap<String, u64>,
        durable: BTreeMap<String, u64>,
        changes: Vec<NameChange>,
    },
    File {
        now: Vec<u8>,
        durable: Vec<u8>,
        changes: Vec<Change>,
    },
}

#[derive(Clone, Debug)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Length(usize),
}

/// What a folder's names became: each name in it, and none for one that went.
type NameChange = Vec<(String, Option<u64>)>;

/// Random numbers from a seed (splitmix64): a crash that is found can be repeated.
#[derive(Clone, Debug)]
pub struct Dice(pub u64);

impl Dice {
    /// The next number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.roll() % end
    }
}

const ROOT: u64 = 0;

impl Default for MemoryDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryDisk {
    /// An empty disk of a terabyte.
    pub fn new() -> Self {
        let root = Node::Dir {
            now: BTreeMap::new(),
            durable: BTreeMap::new(),
            changes: Vec::new(),
        };
        let space = Space {
            free_bytes: 1 << 40,
            total_bytes: 1 << 40,
        };
        let tree = Tree {
            nodes: BTreeMap::from([(ROOT, root)]),
            next: 1,
            locks: BTreeSet::new(),
            space,
        };
        Self {
            tree: Arc::new(Mutex::new(tree)),
        }
    }

    /// What [`Disk::space`] says from now on.
    pub fn set_free_bytes(&self, free_bytes: u64) {
        self.tree().space.free_bytes = free_bytes;
    }

    /// The power is cut: what was not synced is there, not there, or torn, as the dice fall. With no dice, all of it is
    /// lost.
    pub fn power_cut(&self, mut dice: Option<&mut Dice>) {
        let mut tree = self.tree();
        tree.locks.clear();
        for node in tree.nodes.values_mut() {
            match node {
                Node::File {
                    now,
                    durable,
                    changes,
                } => {
                    for change in changes.drain(..) {
                        apply_maybe(durable, &change, dice.as_deref_mut());
                    }
                    now.clone_from(durable);
                }
                Node::Dir {
                    now,
                    durable,
                    changes,
                } => {
                    let kept = dice
                        .as_deref_mut()
                        .map_or(0, |dice| dice.below(changes.len() as u64 + 1));
                    for change in changes.drain(..).take(kept as usize) {
                        change
                            .into_iter()
                            .for_each(|(name, node)| set_name(durable, name, node));
                    }
                    now.clone_from(durable);
                }
            }
        }
        tree.drop_unreachable();
    }

    /// A copy of the disk as it is, with all that is and is not durable.
    pub fn snapshot(&self) -> Self {
        let tree = self.tree();
        let nodes = tree
            .nodes
            .iter()
            .map(|(&id, node)| {
                let copy = match node {
                    Node::Dir {
                        now,
                        durable,
                        changes,
                    } => Node::Dir {
                        now: now.clone(),
                        durable: durable.clone(),
                        changes: changes.clone(),
                    },
                    Node::File {
                        now,
                        durable,
                        changes,
                    } => Node::File {
                        now: now.clone(),
                        durable: durable.clone(),
                        changes: changes.clone(),
                    },
                };
                (id, copy)
            })
            .collect();
        let copy = Tree {
            nodes,
            next: tree.next,
            locks: BTreeSet::new(),
            space: tree.space,
        };
        Self {
            tree: Arc::new(Mutex::new(copy)),
        }
    }

    /// Changes a file behind everybody's back, on the disk itself: bit rot, zeroed blocks, a cut.
    pub fn damage(&self, path: &Path, harm: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let mut tree = self.tree();
        let id = tree.find(path)?;
        let Some(Node::File {
            now,
            durable,
            changes,
        }) = tree.nodes.get_mut(&id)
        else {
            return Err(is_a_folder());
        };
        harm(now);
        durable.clone_from(now);
        changes.clear();
        Ok(())
    }

    /// The pages of a file count as written, though they were not: what a sync that failed leaves behind.
    pub(super) fn forget_unsynced(&self, node: u64) {
        let mut tree = self.tree();
        if let Some(Node::File { changes, .. }) = tree.nodes.get_mut(&node) {
            changes.clear();
        }
    }

    fn tree(&self) -> MutexGuard<'_, Tree> {
        self.tree.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(super) fn open_node(&self, path: &Path, mode: OpenMode) -> io::Result<u64> {
        let mut tree = self.tree();
        match (tree.find(path), mode) {
            (Ok(_), OpenMode::CreateNew) => Err(io::ErrorKind::AlreadyExists.into()),
            (Ok(id), _) => match tree.nodes.get(&id) {
                Some(Node::File { .. }) => Ok(id),
                _ => Err(is_a_folder()),
            },
            (Err(_), OpenMode::CreateNew) => {
                let file = Node::File {
                    now: Vec::new(),
                    durable: Vec::new(),
                    changes: Vec::new(),
                };
                let id = tree.add(file);
                tree.rename_in(path, Some(id))?;
                Ok(id)
            }
            (Err(error), _) => Err(error),
        }
    }
}

fn apply_maybe(durable: &mut Vec<u8>, change: &Change, dice: Option<&mut Dice>) {
    let Some(dice) = dice else { return };
    match (dice.below(4), change) {
        (0, _) => {}
        (1, Change::Write { offset, bytes }) => {
            // Torn: each sector by itself.
            let mut at = 0;
            while at < bytes.len() {
                let sector_end = (offset + at + 1).next_multiple_of(SECTOR_BYTES) - offset;
                let end = sector_end.min(bytes.len());
                if dice.below(2) == 0 {
                    write(durable, offset + at, &bytes[at..end]);
                }
                at = end;
            }
        }
        (_, change) => apply(durable, change),
    }
}

fn apply(content: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write { offset, bytes } => write(content, *offset, bytes),
        Change::Length(length) => content.resize(*length, 0),
    }
}

fn write(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if content.len() < offset + bytes.len() {
        content.resize(offset + bytes.len(), 0);
    }
    content[offset..offset + bytes.len()].copy_from_slice(bytes);
}

fn set_name(names: &mut BTreeMap<String, u64>, name: String, node: Option<u64>) {
    match node {
        Some(node) => {
            names.insert(name, node);
        }
        None => {
            names.remove(&name);
        }
    }
}

fn is_a_folder() -> io::Error {
    io::ErrorKind::IsADirectory.into()
}

impl Tree {
    fn find(&self, path: &Path) -> io::Result<u64> {
        let mut at = ROOT;
        for part in path.components() {
            let Component::Normal(name) = part else { continue };
            let Some(Node::Dir { now, .. }) = self.nodes.get(&at) else {
                return Err(io::ErrorKind::NotADirectory.into());
            };
            at = *now.get(text(name)?).ok_or(io::ErrorKind::NotFound)?;
        }
        Ok(at)
    }

    fn add(&mut self, node: Node) -> u64 {
        let id = self.next;
        self.next += 1;
        self.nodes.insert(id, node);
        id
    }

    /// One name of one folder changes.
    fn rename_in(&mut self, path: &Path, node: Option<u64>) -> io::Result<()> {
        let (dir, name) = self.split(path)?;
        self.change(dir, vec![(name, node)])
    }

    fn split(&self, path: &Path) -> io::Result<(u64, String)> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        Ok((
            self.find(path.parent().unwrap_or(Path::new("")))?,
            text(name)?.to_owned(),
        ))
    }

    fn change(&mut self, dir: u64, change: NameChange) -> io::Result<()> {
        let Some(Node::Dir { now, changes, .. }) = self.nodes.get_mut(&dir) else {
            return Err(io::ErrorKind::NotADirectory.into());
        };
        change
            .iter()
            .cloned()
            .for_each(|(name, node)| set_name(now, name, node));
        changes.push(change);
        Ok(())
    }

    /// Names that change together: in one step where the folder is the same, the new name first where it is not.
    fn change_both(&mut self, a: (&Path, Option<u64>), b: (&Path, Option<u64>)) -> io::Result<()> {
        let (a_dir, a_name) = self.split(a.0)?;
        let (b_dir, b_name) = self.split(b.0)?;
        if a_dir == b_dir {
            return self.change(a_dir, vec![(a_name, a.1), (b_name, b.1)]);
        }
        self.change(a_dir, vec![(a_name, a.1)])?;
        self.change(b_dir, vec![(b_name, b.1)])
    }

    fn drop_unreachable(&mut self) {
        let mut reached = BTreeSet::from([ROOT]);
        let mut open = vec![ROOT];
        while let Some(id) = open.pop() {
            if let Some(Node::Dir { now, durable, .. }) = self.nodes.get(&id) {
                for &child in now.values().chain(durable.values()) {
                    if reached.insert(child) {
                        open.push(child);
                    }
                }
            }
        }
        self.nodes.retain(|id, _| reached.contains(id));
    }
}

fn text(name: &OsStr) -> io::Result<&str> {
    name.to_str().ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

impl Disk for MemoryDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let node = self.open_node(path, mode)?;
        Ok(Arc::new(MemoryFile {
            disk: self.clone(),
            node,
        }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let tree = self.tree();
        let Some(Node::Dir { now, .. }) = tree.nodes.get(&tree.find(dir)?) else {
            return Err(io::ErrorKind::NotADirectory.into());
        };
        Ok(now
            .iter()
            .map(|(name, id)| DirEntry {
                name: name.clone(),
                stat: tree.stat_of(*id),
            })
            .collect())
    }

    fn stat(&self, path: &Path) -> io::Result<Option<Stat>> {
        let tree = self.tree();
        match tree.find(path) {
            Ok(id) => Ok(Some(tree.stat_of(id))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut tree = self.tree();
        if tree.find(path).is_ok() {
            return Ok(());
        }
        let dir = tree.add(Node::Dir {
            now: BTreeMap::new(),
            durable: BTreeMap::new(),
            changes: Vec::new(),
        });
        tree.rename_in(path, Some(dir))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut tree = self.tree();
        let id = tree.find(from)?;
        tree.change_both((to, Some(id)), (from, None))
    }

    fn exchange(&self, a: &Path, b: &Path) -> io::Result<()> {
        let mut tree = self.tree();
        let (at_a, at_b) = (tree.find(a)?, tree.find(b)?);
        tree.change_both((a, Some(at_b)), (b, Some(at_a)))
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut tree = self.tree();
        let id = tree.find(from)?;
        if tree.find(to).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        tree.rename_in(to, Some(id))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut tree = self.tree();
        tree.find(path)?;
        tree.rename_in(path, None)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.remove_file(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut tree = self.tree();
        let id = tree.find(path)?;
        let Some(Node::Dir {
            now,
            durable,
            changes,
        }) = tree.nodes.get_mut(&id)
        else {
            return Err(io::ErrorKind::NotADirectory.into());
        };
        durable.clone_from(now);
        changes.clear();
        Ok(())
    }

    fn space(&self) -> io::Result<Space> {
        Ok(self.tree().space)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn LockGuard>>> {
        if !self.tree().locks.insert(path.to_owned()) {
            return Ok(None);
        }
        Ok(Some(Box::new(MemoryLock {
            disk: self.clone(),
            path: path.to_owned(),
        })))
    }

    fn describe(&self, path: &Path) -> PathBuf {
        path.to_owned()
    }
}

impl Tree {
    fn stat_of(&self, id: u64) -> Stat {
        match self.nodes.get(&id) {
            Some(Node::File { now, .. }) => Stat {
                is_dir: false,
                bytes: now.len() as u64,
            },
            _ => Stat {
                is_dir: true,
                bytes: 0,
            },
        }
    }
}

#[derive(Debug)]
struct MemoryFile {
    disk: MemoryDisk,
    node: u64,
}

impl MemoryFile {
    fn with<T>(&self, act: impl FnOnce(&mut Vec<u8>, &mut Vec<u8>, &mut Vec<Change>) -> T) -> io::Result<T> {
        match self.disk.tree().nodes.get_mut(&self.node) {
            Some(Node::File {
                now,
                durable,
                changes,
            }) => Ok(act(now, durable, changes)),
            _ => Err(io::Error::other("the file went with a power cut")),
        }
    }
}

impl File for MemoryFile {
    fn read_at(&self, offset: u64, to: &mut [u8]) -> io::Result<usize> {
        self.with(|now, _, _| {
            let from = now.get(offset as usize..).unwrap_or_default();
            let length = from.len().min(to.len());
            to[..length].copy_from_slice(&from[..length]);
            length
        })
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.with(|now, _, changes| {
            let change = Change::Write {
                offset: offset as usize,
                bytes: bytes.to_vec(),
            };
            apply(now, &change);
            changes.push(change);
        })
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.with(|now, _, changes| {
            let change = Change::Length(bytes as usize);
            apply(now, &change);
            changes.push(change);
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|now, _, _| now.len() as u64)
    }

    fn sync(&self) -> io::Result<()> {
        // What a failed sync dropped from `changes` stays dropped: only the listed changes reach the disk.
        self.with(|_, durable, changes| changes.drain(..).for_each(|change| apply(durable, &change)))
    }
}

#[derive(Debug)]
struct MemoryLock {
    disk: MemoryDisk,
    path: PathBuf,
}

impl LockGuard for MemoryLock {}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        self.disk.tree().locks.remove(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(disk: &MemoryDisk, path: &str) -> Option<Vec<u8>> {
        super::super::read_all(disk, Path::new(path), 1 << 20).ok()
    }

    #[test]
    fn a_power_cut_takes_what_was_not_synced() {
        let disk = MemoryDisk::new();
        let file = disk.open(Path::new("a"), OpenMode::CreateNew).unwrap();
        disk.sync_dir(Path::new("")).unwrap();
        file.write_at(0, b"one").unwrap();
        file.sync().unwrap();
        file.write_at(3, b"two").unwrap();
        assert_eq!(content(&disk, "a").unwrap(), b"onetwo");
        disk.power_cut(None);
        assert_eq!(content(&disk, "a").unwrap(), b"one");
    }

    #[test]
    fn a_name_is_durable_when_its_folder_was_synced() {
        let disk = MemoryDisk::new();
        disk.open(Path::new("a"), OpenMode::CreateNew)
            .unwrap()
            .sync()
            .unwrap();
        disk.power_cut(None);
        assert_eq!(content(&disk, "a"), None);
    }

    #[test]
    fn what_a_failed_sync_dropped_stays_lost() {
        let disk = MemoryDisk::new();
        let file = disk.open(Path::new("a"), OpenMode::CreateNew).unwrap();
        disk.sync_dir(Path::new("")).unwrap();
        file.write_at(0, b"lost").unwrap();
        let node = disk.open_node(Path::new("a"), OpenMode::Read).unwrap();
        disk.forget_unsynced(node);
        file.sync().unwrap();
        assert_eq!(content(&disk, "a").unwrap(), b"lost");
        disk.power_cut(None);
        assert_eq!(content(&disk, "a").unwrap(), b"");
    }

    #[test]
    fn torn_writes_tear_at_sectors() {
        let mut seen = BTreeSet::new();
        for seed in 0..64 {
            let disk = MemoryDisk::new();
            let file = disk.open(Path::new("a"), OpenMode::CreateNew).unwrap();
            disk.sync_dir(Path::new("")).unwrap();
            file.write_at(100, &[1; 1000]).unwrap();
            disk.power_cut(Some(&mut Dice(seed)));
            let left = content(&disk, "a").unwrap();
            seen.insert(left.iter().filter(|&&b| b == 1).count());
        }
        assert!(
            seen.contains(&0) && seen.contains(&1000) && seen.contains(&412) && seen.contains(&512),
            "{seen:?}"
        );
    }
}
