//! A disk in memory that knows what was synced: for tests of what a crash leaves.
//!
//! Two kinds of crash. After the *death of the process* everything that was written is still there to be read, but no
//! more durable than before. After a *power cut* each write since the last sync is there, not there, or torn at a
//! sector, and so are the changes of names in each folder since its last sync. A sync that fails leaves its pages
//! readable and clean: a later sync does not bring them to the disk (the fsync lesson).
//!
//! Copies are cheap: a test keeps the disk as it was before each operation.

mod content;
mod cut;
mod tree;

use super::{DirEntry, Disk, File, LockGuard, OpenMode, Space, Stat};
use content::Content;
pub use cut::Cut;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use tree::{Change, Dir, Durable, Node, Tree, set_names};

/// What a reader may ask of any file at once: whoever asks for more, and for more than there is, took the number from
/// damaged bytes, and memory with it.
const ASKED_BYTES_MAX: usize = 8 << 20;

/// A disk in memory. Clones are the same disk.
#[derive(Clone, Debug)]
pub struct MemoryDisk {
    tree: Arc<Mutex<Tree>>,
}

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

impl Default for MemoryDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryDisk {
    /// An empty disk of a terabyte.
    pub fn new() -> Self {
        let space = Space {
            free_bytes: 1 << 40,
            total_bytes: 1 << 40,
        };
        Self {
            tree: Arc::new(Mutex::new(Tree::new(space))),
        }
    }

    /// What [`Disk::space`] says from now on.
    pub fn set_free_bytes(&self, free_bytes: u64) {
        self.tree().space.free_bytes = free_bytes;
    }

    /// The power is cut: what was not synced is there, not there, or torn, as the dice fall. With no dice, all of it is
    /// lost.
    pub fn power_cut(&self, dice: Option<&mut Dice>) -> Cut {
        cut::cut(&mut self.tree(), dice)
    }

    /// A copy of the disk as it is, with all that is and is not durable.
    pub fn snapshot(&self) -> Self {
        let mut copy = self.tree().clone();
        copy.locks.clear();
        Self {
            tree: Arc::new(Mutex::new(copy)),
        }
    }

    /// Changes a file behind everybody's back, on the disk itself: bit rot, zeroed blocks, a cut.
    pub fn damage(&self, path: &Path, harm: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let mut tree = self.tree();
        let id = tree.find(path)?;
        let (now, durable) = tree.file(id)?;
        let mut bytes = now.to_vec();
        harm(&mut bytes);
        *now = Content::from(&bytes[..]);
        durable.content.clone_from(now);
        durable.changes.clear();
        Ok(())
    }

    /// The pages of a file count as written, though they were not, or only the first ones: what a sync that failed
    /// leaves behind.
    pub(super) fn forget_unsynced(&self, node: u64, reached: usize) {
        if let Ok((_, durable)) = self.tree().file(node) {
            for change in durable.changes.drain(..).take(reached) {
                change.apply(&mut durable.content);
            }
        }
    }

    fn tree(&self) -> MutexGuard<'_, Tree> {
        self.tree.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(super) fn open_node(&self, path: &Path, mode: OpenMode) -> io::Result<u64> {
        let mut tree = self.tree();
        match (tree.find(path), mode) {
            (Ok(_), OpenMode::CreateNew) => Err(io::ErrorKind::AlreadyExists.into()),
            (Ok(id), _) => tree.file(id).map(|_| id),
            (Err(_), OpenMode::CreateNew) => {
                let id = tree.add(Node::File(Content::default(), Durable::default()));
                tree.rename_in(path, Some(id))?;
                Ok(id)
            }
            (Err(error), _) => Err(error),
        }
    }
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
        let mut tree = self.tree();
        let names = tree.dir(dir)?.now.clone();
        let entry = |(name, id)| DirEntry {
            name,
            stat: tree.stat(id),
        };
        Ok(names.into_iter().map(entry).collect())
    }

    fn stat(&self, path: &Path) -> io::Result<Option<Stat>> {
        let tree = self.tree();
        match tree.find(path) {
            Ok(id) => Ok(Some(tree.stat(id))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut tree = self.tree();
        if tree.find(path).is_ok() {
            return Ok(());
        }
        let dir = tree.add(Node::Dir(Dir::default()));
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
        let dir = tree.dir(path)?;
        for change in dir.changes.drain(..) {
            set_names(&mut dir.durable, &change);
        }
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

#[derive(Debug)]
struct MemoryFile {
    disk: MemoryDisk,
    node: u64,
}

impl MemoryFile {
    fn change(&self, change: Change) -> io::Result<()> {
        let mut tree = self.disk.tree();
        let (now, durable) = tree.file(self.node)?;
        change.apply(now);
        durable.changes.push(change);
        Ok(())
    }
}

impl File for MemoryFile {
    fn read_at(&self, offset: u64, to: &mut [u8]) -> io::Result<usize> {
        let mut tree = self.disk.tree();
        let (content, _) = tree.file(self.node)?;
        let asked = to.len();
        assert!(
            asked <= content.len().max(ASKED_BYTES_MAX),
            "a read of {asked} bytes in a file of {}: somebody believed a number",
            content.len()
        );
        Ok(content.read(offset as usize, to))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.change(Change::Write {
            offset: offset as usize,
            bytes: bytes.into(),
        })
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.change(Change::Length(bytes as usize))
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.tree().file(self.node)?.0.len() as u64)
    }

    fn sync(&self) -> io::Result<()> {
        // What a failed sync dropped from the changes stays dropped: only the listed ones reach the disk.
        let mut tree = self.disk.tree();
        let (_, durable) = tree.file(self.node)?;
        for change in durable.changes.drain(..) {
            change.apply(&mut durable.content);
        }
        Ok(())
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
    use std::collections::BTreeSet;

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
        disk.forget_unsynced(node, 0);
        file.sync().unwrap();
        assert_eq!(content(&disk, "a").unwrap(), b"lost");
        disk.power_cut(None);
        assert_eq!(content(&disk, "a").unwrap(), b"");
    }

    #[test]
    fn torn_writes_tear_at_sectors() {
        let mut seen = BTreeSet::new();
        for seed in 0..1000 {
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
