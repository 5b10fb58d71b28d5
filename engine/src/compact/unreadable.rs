//! Reading logs on a disk that has begun to fail: what can be read is read, the rest is kept apart and named.
//!
//! [`Tolerant`] stands before a disk for as long as one reading of a session takes. Where the disk fails to read a
//! block of a log segment, zeros stand for it (no frame begins with zeros, and one that ends in them passes its checksum
//! only where they are its own), and the block is remembered with what the disk said. Everything else passes through:
//! writes, names, every other file, and errors that are none of the medium's.
//!
//! Nothing is decided here for good. The segment stays as it is, nothing of it is moved or written again, and the next
//! reading asks the disk anew.
//!
//! Invariants: within one reading a block that failed once is not asked for again, so that all passes see the same; a
//! segment costs at most [`BLOCKS_MAX`] failed reads, since a dying disk takes seconds for each.

use crate::disk::{DirEntry, Disk, File, LockGuard, OpenMode, Space, Stat};
use crate::log::segment_number;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// What a disk gives or fails to give at once.
const BLOCK_BYTES: u64 = 4096;

/// Blocks of a segment that are tried in vain before all that follows counts as unreadable.
const BLOCKS_MAX: usize = 16;

/// A disk that is read as far as it can be.
#[derive(Debug)]
pub struct Tolerant<'d> {
    disk: &'d dyn Disk,
    failed: Arc<Mutex<Failed>>,
}

/// A range of a segment that the disk fails to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hole {
    pub offset: u64,
    pub bytes: u64,
    /// What the disk said.
    pub why: String,
}

/// Blocks that failed, by file.
#[derive(Debug, Default)]
struct Failed {
    files: BTreeMap<PathBuf, Blocks>,
    count: u64,
}

#[derive(Debug, Default)]
struct Blocks {
    /// Length of the file.
    file_bytes: u64,
    /// By number.
    blocks: BTreeMap<u64, String>,
    /// From this one on all of them.
    from: Option<(u64, String)>,
}

impl<'d> Tolerant<'d> {
    pub fn new(disk: &'d dyn Disk) -> Self {
        Self {
            disk,
            failed: Arc::default(),
        }
    }

    /// How many failures there were so far. Where it has grown, something that was read before may be readable no more.
    pub fn count(&self) -> u64 {
        lock(&self.failed).count
    }

    /// Whether zeros stand for some of these bytes of a segment.
    pub fn stands_in(&self, path: &Path, bytes: Range<u64>) -> bool {
        lock(&self.failed).touches(path, bytes.start, bytes.end)
    }

    /// What of a segment could not be read so far, in order.
    pub fn holes(&self, path: &Path) -> Vec<Hole> {
        lock(&self.failed)
            .files
            .get(path)
            .map_or_else(Vec::new, Blocks::holes)
    }
}

fn lock(failed: &Mutex<Failed>) -> MutexGuard<'_, Failed> {
    failed.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Failed {
    fn note(&mut self, path: &Path, file_bytes: u64, block: u64, why: &io::Error) {
        let file = self.files.entry(path.to_owned()).or_default();
        file.file_bytes = file_bytes;
        file.blocks.insert(block, why.to_string());
        if file.blocks.len() >= BLOCKS_MAX && file.from.is_none() {
            file.from = Some((
                block + 1,
                format!("{BLOCKS_MAX} blocks before it could not be read ({why})"),
            ));
        }
        self.count += 1;
    }

    fn note_all(&mut self, path: &Path, file_bytes: u64, why: &io::Error) {
        let file = self.files.entry(path.to_owned()).or_default();
        file.file_bytes = file_bytes;
        file.from = Some((0, why.to_string()));
        self.count += 1;
    }

    fn holds(&self, path: &Path, block: u64) -> bool {
        self.files.get(path).is_some_and(|file| {
            file.blocks.contains_key(&block) || file.from.as_ref().is_some_and(|(from, _)| block >= *from)
        })
    }

    fn touches(&self, path: &Path, offset: u64, end: u64) -> bool {
        self.files.contains_key(path)
            && (offset / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES)).any(|block| self.holds(path, block))
    }
}

impl Blocks {
    fn holes(&self) -> Vec<Hole> {
        let mut holes: Vec<Hole> = Vec::new();
        let last = self.from.as_ref().map_or(u64::MAX, |(from, _)| *from);
        let mut add = |offset: u64, end: u64, why: &String| {
            let end = end.min(self.file_bytes);
            match holes.last_mut() {
                Some(hole) if hole.offset + hole.bytes == offset && hole.why == *why => {
                    hole.bytes = end - hole.offset;
                }
                _ if end > offset => holes.push(Hole {
                    offset,
                    bytes: end - offset,
                    why: why.clone(),
                }),
                _ => {}
            }
        };
        for (block, why) in self.blocks.range(..last) {
            add(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES, why);
        }
        if let Some((from, why)) = &self.from {
            add(from * BLOCK_BYTES, self.file_bytes, why);
        }
        holes
    }
}

/// Whether the medium failed, and not the request, or the system around it.
fn is_of_the_medium(error: &io::Error) -> bool {
    match error.raw_os_error() {
        Some(code) => [
            Errno::IO,
            Errno::UCLEAN,
            Errno::BADMSG,
            Errno::REMOTEIO,
            Errno::NODATA,
            Errno::ILSEQ,
            Errno::TIMEDOUT,
        ]
        .iter()
        .any(|errno| errno.raw_os_error() == code),
        None => error.kind() == io::ErrorKind::Other,
    }
}

fn is_segment(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| segment_number(name).is_some())
}

/// A segment that is read as far as it can be.
#[derive(Debug)]
struct TolerantFile {
    path: PathBuf,
    /// None where it can't even be opened.
    file: Option<Arc<dyn File>>,
    bytes: u64,
    failed: Arc<Mutex<Failed>>,
}

impl TolerantFile {
    fn block_by_block(&self, offset: u64, to: &mut [u8]) -> io::Result<usize> {
        let end = self.bytes.min(offset.saturating_add(to.len() as u64));
        let mut at = offset;
        while at < end {
            let block = at / BLOCK_BYTES;
            let until = end.min((block + 1) * BLOCK_BYTES);
            let piece = &mut to[(at - offset) as usize..(until - offset) as usize];
            let known = lock(&self.failed).holds(&self.path, block);
            match &self.file {
                Some(file) if !known => match file.read_at(at, piece) {
                    Ok(read) if read < piece.len() => return Ok((at - offset) as usize + read),
                    Ok(_) => {}
                    Err(error) if is_of_the_medium(&error) => {
                        lock(&self.failed).note(&self.path, self.bytes, block, &error);
                        piece.fill(0);
                    }
                    Err(error) => return Err(error),
                },
                _ => piece.fill(0),
            }
            at = until;
        }
        Ok(end.saturating_sub(offset) as usize)
    }
}

impl File for TolerantFile {
    fn read_at(&self, offset: u64, to: &mut [u8]) -> io::Result<usize> {
        let end = offset.saturating_add(to.len() as u64).min(self.bytes);
        let Some(file) = &self.file else {
            return self.block_by_block(offset, to);
        };
        if lock(&self.failed).touches(&self.path, offset, end) {
            return self.block_by_block(offset, to);
        }
        match file.read_at(offset, to) {
            Err(error) if is_of_the_medium(&error) => self.block_by_block(offset, to),
            done => done,
        }
    }

    fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes)
    }

    fn sync(&self) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
}

impl Disk for Tolerant<'_> {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        if mode != OpenMode::Read || !is_segment(path) {
            return self.disk.open(path, mode);
        }
        let opened = self.disk.open(path, mode).and_then(|file| {
            let bytes = file.len()?;
            Ok((Some(file), bytes))
        });
        let (file, bytes) = match opened {
            Err(error) if is_of_the_medium(&error) => {
                let bytes = self.disk.stat(path)?.map_or(0, |stat| stat.bytes);
                lock(&self.failed).note_all(path, bytes, &error);
                (None, bytes)
            }
            opened => opened?,
        };
        Ok(Arc::new(TolerantFile {
            path: path.to_owned(),
            file,
            bytes,
            failed: self.failed.clone(),
        }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.disk.list(dir)
    }

    fn stat(&self, path: &Path) -> io::Result<Option<Stat>> {
        self.disk.stat(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn exchange(&self, a: &Path, b: &Path) -> io::Result<()> {
        self.disk.exchange(a, b)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.hard_link(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.sync_dir(path)
    }

    fn space(&self) -> io::Result<Space> {
        self.disk.space()
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn LockGuard>>> {
        self.disk.lock(path)
    }

    fn describe(&self, path: &Path) -> PathBuf {
        self.disk.describe(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::memory::MemoryDisk;

    /// Reads that touch a range fail, of one file.
    #[derive(Debug)]
    struct Scratched(Arc<dyn File>, std::ops::Range<u64>);

    impl File for Scratched {
        fn read_at(&self, offset: u64, to: &mut [u8]) -> io::Result<usize> {
            if offset < self.1.end && offset + to.len() as u64 > self.1.start {
                return Err(io::Error::from_raw_os_error(5));
            }
            self.0.read_at(offset, to)
        }

        fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
            self.0.write_at(offset, bytes)
        }

        fn set_len(&self, bytes: u64) -> io::Result<()> {
            self.0.set_len(bytes)
        }

        fn len(&self) -> io::Result<u64> {
            self.0.len()
        }

        fn sync(&self) -> io::Result<()> {
            self.0.sync()
        }
    }

    fn scratched(bytes: u64, scratch: std::ops::Range<u64>) -> TolerantFile {
        let disk = MemoryDisk::new();
        let file = disk.open(Path::new("000001.mlog"), OpenMode::CreateNew).unwrap();
        file.write_at(0, &vec![7; bytes as usize]).unwrap();
        TolerantFile {
            path: "000001.mlog".into(),
            file: Some(Arc::new(Scratched(file, scratch))),
            bytes,
            failed: Arc::default(),
        }
    }

    #[test]
    fn a_block_that_fails_reads_as_zeros_and_the_rest_as_it_is() {
        let file = scratched(20_000, 5_000..5_001);
        let mut bytes = vec![1; 20_000];
        assert_eq!(file.read_at(0, &mut bytes).unwrap(), 20_000);
        let zeros: Vec<usize> = (0..20_000).filter(|&at| bytes[at] == 0).collect();
        assert_eq!(zeros, (4_096..8_192).collect::<Vec<_>>());
        assert!(bytes.iter().all(|&byte| byte == 0 || byte == 7));
        // The block is not asked for again, and what is read beyond the end is the end.
        assert_eq!(file.read_at(4_500, &mut bytes).unwrap(), 15_500);
        assert_eq!(bytes[0], 0);
        assert_eq!(lock(&file.failed).count, 1);
        let holes = lock(&file.failed).files[&file.path].holes();
        assert_eq!((holes.len(), holes[0].offset, holes[0].bytes), (1, 4_096, 4_096));
        assert!(holes[0].why.contains("os error 5"), "{}", holes[0].why);
    }

    #[test]
    fn a_segment_that_fails_everywhere_is_given_up_soon() {
        let bytes = 1 << 20;
        let file = scratched(bytes, 8_192..bytes);
        let mut to = vec![0; bytes as usize];
        assert_eq!(file.read_at(0, &mut to).unwrap(), bytes as usize);
        assert_eq!(lock(&file.failed).count, BLOCKS_MAX as u64);
        let holes = lock(&file.failed).files[&file.path].holes();
        let covered: u64 = holes.iter().map(|hole| hole.bytes).sum();
        assert_eq!((holes[0].offset, covered), (8_192, bytes - 8_192));
        assert!(to[..8_192].iter().all(|&byte| byte == 7));
    }

    #[test]
    fn errors_of_others_pass_through() {
        assert!(is_of_the_medium(&io::Error::from_raw_os_error(5)));
        for code in [2, 13, 23, 24, 12] {
            assert!(!is_of_the_medium(&io::Error::from_raw_os_error(code)), "{code}");
        }
        assert!(!is_of_the_medium(&io::ErrorKind::NotFound.into()));
    }
}
