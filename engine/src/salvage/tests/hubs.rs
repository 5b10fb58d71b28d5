//! What stands around the logs: journal, session.json, hub.json, Parquet, folders that stand alone, bad sectors.

use super::*;
use crate::disk::{DirEntry, File, LockGuard, OpenMode, Space, Stat};
use crate::salvage::{FaultKind, SalvageError, What};
use std::io;

fn kinds(report: &VerifyReport) -> Vec<FaultKind> {
    report.faults.iter().map(|fault| fault.kind).collect()
}

#[test]
fn what_only_the_journal_has_is_salvaged() {
    let disk = record(End::Killed, 9);
    let truth = frames_of(&disk);
    let in_journal = truth.values().filter(|known| known.segment == u32::MAX).count();
    assert!(in_journal > 0);
    let (_, report) = recovered(&disk);
    assert!(report.logs[0].from_journal as usize >= in_journal);
    assert_eq!(judge(&disk, &truth, "killed"), 0);
    assert_eq!(
        verified(&disk).checked.journal_frames,
        report.logs[0].from_journal
    );
}

#[test]
fn damage_to_the_journal_is_named() {
    let disk = record(End::Killed, 9);
    let blocks: Vec<PathBuf> = content(&disk)
        .into_keys()
        .filter(|path| path.starts_with("journal"))
        .collect();
    let used = |path: &PathBuf| content(&disk)[path].starts_with(b"MJR1");
    let block = blocks.iter().find(|path| used(path)).unwrap();
    let damaged = disk.snapshot();
    damaged.damage(block, |bytes| bytes[100] ^= 1).unwrap();
    let report = verified(&damaged);
    assert!(kinds(&report).contains(&FaultKind::Journal), "{report:#?}");
    assert!(!recovered(&damaged).1.lost.bytes.is_empty());
    let damaged = disk.snapshot();
    damaged.remove_dir_all(Path::new("journal")).unwrap();
    assert!(kinds(&verified(&damaged)).contains(&FaultKind::Journal));
    assert!(!recovered(&damaged).1.lost.bytes.is_empty());
}

#[test]
fn a_newest_commit_that_does_not_hold_is_named() {
    let disk = record(End::Killed, 9);
    let truth = frames_of(&disk);
    let files = content(&disk);
    let blocks = files.iter().filter(|(path, _)| path.starts_with("journal"));
    let mut named = 0;
    for (path, bytes) in blocks {
        let used = bytes
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(0, |last| last + 1);
        for at in (0..used).step_by(7) {
            let damaged = disk.snapshot();
            damaged.damage(path, |bytes| bytes[at] ^= 0x10).unwrap();
            let came = frames_of(&recovered(&damaged).0);
            if came.len() == truth.len() {
                continue;
            }
            let (_, report) = recovered(&damaged);
            let in_bytes = report
                .lost
                .bytes
                .iter()
                .any(|lost| lost.file.starts_with("journal"));
            let torn = report.torn_tails.iter().any(|torn| torn.file == *path);
            assert!(in_bytes || torn, "{} byte {at}: {report:#?}", path.display());
            assert!(kinds(&verified(&damaged)).contains(&FaultKind::Journal));
            named += 1;
        }
    }
    assert!(named > 0);
}

#[test]
fn a_log_that_ends_below_what_the_journal_proves_is_damaged() {
    let disk = record(End::Killed, 9);
    let truth = frames_of(&disk);
    let (path, bytes) = log_files(&disk).pop().unwrap();
    for length in (0..bytes.len()).step_by(3) {
        let damaged = disk.snapshot();
        damaged.damage(&path, |bytes| bytes.truncate(length)).unwrap();
        judge_found(
            &disk,
            &damaged,
            &truth,
            &format!("{} cut to {length}", path.display()),
        );
    }
    for at in (0..bytes.len()).step_by(3) {
        let damaged = disk.snapshot();
        damaged.damage(&path, |bytes| bytes[at] ^= 0x10).unwrap();
        let lost = judge_found(&disk, &damaged, &truth, &format!("{} byte {at}", path.display()));
        assert!(lost <= 1, "{} byte {at}", path.display());
    }
    let damaged = disk.snapshot();
    damaged.remove_file(&path).unwrap();
    judge_found(&disk, &damaged, &truth, &format!("{} removed", path.display()));
}

#[test]
fn a_hub_that_opens_goes_on_by_no_frame_that_has_rotted() {
    let disk = record(End::Closed, 9);
    for (path, bytes) in log_files(&disk) {
        for at in (0..bytes.len()).step_by(3) {
            let damaged = disk.snapshot();
            damaged.damage(&path, |bytes| bytes[at] ^= 0x10).unwrap();
            let kernel = SimulatedKernel::new(1, 1_700_000_100_000_000_000);
            let shared: Arc<dyn Disk> = Arc::new(damaged);
            let (store, _) = Store::open(shared, kernel.hub_clock(), options()).unwrap();
            for log in store.log_status() {
                let named = log.streams.keys().all(|stream| stream == "imu@1");
                assert!(named && log.epochs <= 2, "{} byte {at}: {log:?}", path.display());
            }
        }
    }
}

#[test]
fn a_journal_with_one_block_left_is_read() {
    let disk = record(End::Killed, 3);
    let truth = frames_of(&disk);
    let blocks: Vec<PathBuf> = content(&disk)
        .into_keys()
        .filter(|path| path.starts_with("journal"))
        .collect();
    let unused = blocks
        .iter()
        .find(|path| !content(&disk)[*path].starts_with(b"MJR1"))
        .unwrap();
    disk.remove_file(unused).unwrap();
    assert_eq!(judge(&disk, &truth, "one block"), 0);
}

#[test]
fn a_session_whose_description_is_lost_is_salvaged_under_its_name() {
    let disk = record(End::Sealed, 9);
    let truth = frames_of(&disk);
    let path = Session::dir(&session()).join("session.json");
    for harm in [
        |bytes: &mut Vec<u8>| bytes.truncate(20),
        |bytes: &mut Vec<u8>| bytes.clear(),
    ] {
        let damaged = disk.snapshot();
        damaged.damage(&path, harm).unwrap();
        assert_eq!(kinds(&verified(&damaged)), [FaultKind::Session]);
        assert_eq!(judge(&damaged, &truth, "session.json"), 0);
        let (out, report) = recovered(&damaged);
        assert_eq!(report.lost.bytes[0].file, path);
        let copy = Session::read(&out, &Session::dir(&session())).unwrap();
        assert_eq!(
            copy.anchor,
            Session::read(&disk, &Session::dir(&session())).unwrap().anchor
        );
    }
    let damaged = disk.snapshot();
    damaged.remove_file(&path).unwrap();
    damaged
        .remove_file(&Session::dir(&session()).join("manifest.json"))
        .unwrap();
    let (out, _) = recovered(&damaged);
    let copy = Session::read(&out, &Session::dir(&session())).unwrap();
    assert!(
        copy.anchor.is_some(),
        "the log's own reading of the wall clock serves"
    );
}

#[test]
fn a_hub_without_its_own_description_is_salvaged() {
    let disk = record(End::Killed, 9);
    let truth = frames_of(&disk);
    disk.damage(Path::new("hub.json"), |bytes| bytes.clear()).unwrap();
    disk.remove_file(Path::new("identity.redb")).unwrap();
    assert_eq!(kinds(&verified(&disk)), [FaultKind::Hub, FaultKind::Hub]);
    assert_eq!(judge(&disk, &truth, "hub.json"), 0);
}

#[test]
fn what_is_published_is_held_against_the_manifest() {
    let disk = record(End::Sealed, 9);
    let dir = Session::dir(&session());
    let parquet: Vec<PathBuf> = content(&disk)
        .into_keys()
        .filter(|path| path.extension().is_some_and(|e| e == "parquet"))
        .collect();
    assert_eq!(parquet.len(), 7);
    for path in &parquet {
        let damaged = disk.snapshot();
        damaged.damage(path, |bytes| bytes[10] ^= 4).unwrap();
        let report = verified(&damaged);
        assert_eq!(
            kinds(&report),
            [FaultKind::Published],
            "{}: {report:#?}",
            path.display()
        );
        assert_eq!(report.faults[0].file, *path);
        damaged.damage(path, Vec::clear).unwrap();
        assert_eq!(kinds(&verified(&damaged)), [FaultKind::Published]);
        damaged.remove_file(path).unwrap();
        assert!(kinds(&verified(&damaged)).contains(&FaultKind::Published));
    }
    for name in ["manifest.json", "receipt-0001.json"] {
        for harm in [
            |bytes: &mut Vec<u8>| bytes.clear(),
            |bytes: &mut Vec<u8>| bytes[0] ^= 1,
        ] {
            let damaged = disk.snapshot();
            damaged.damage(&dir.join(name), harm).unwrap();
            assert!(
                kinds(&verified(&damaged)).contains(&FaultKind::Published),
                "{name}"
            );
        }
        let damaged = disk.snapshot();
        damaged.remove_file(&dir.join(name)).unwrap();
        assert!(
            kinds(&verified(&damaged)).contains(&FaultKind::Published),
            "{name}"
        );
    }
}

#[test]
fn a_rebuild_gives_the_same_bytes_and_sees_what_does_not() {
    let disk = record(End::Sealed, 9);
    let rebuild = |disk: &MemoryDisk| {
        let scratch: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
        let options = VerifyOptions {
            rebuild: Some(scratch),
            options: options(),
            ..VerifyOptions::default()
        };
        verify(&source(disk), &options, &|_| {}).unwrap()
    };
    let before = content(&disk);
    let report = rebuild(&disk);
    assert_eq!(report.faults, []);
    assert_eq!(report.checked.rebuilt_files, 7);
    assert_eq!(content(&disk), before);
    // Made by another version: rows count, not bytes.
    let manifest = Session::dir(&session()).join("manifest.json");
    for (from, to) in [
        ("\"marey\": \"0.1.0\"", "\"marey\": \"0.0.9\""),
        ("\"alignment\": 1", "\"alignment\": 0"),
    ] {
        let other = disk.snapshot();
        let edit =
            |bytes: &mut Vec<u8>| *bytes = String::from_utf8_lossy(bytes).replace(from, to).into_bytes();
        other.damage(&manifest, edit).unwrap();
        let report = rebuild(&other);
        assert!(
            report.faults.iter().all(|fault| fault.kind != FaultKind::Rebuild),
            "{report:#?}"
        );
        assert_eq!(report.checked.rebuilt_files, 1);
        assert_eq!(report.notes.len(), 1);
    }
    // A part of another recording, with a manifest that says so: hashes fit, the log gives other bytes.
    let other = record(End::Sealed, 10);
    let swapped = disk.snapshot();
    for (path, bytes) in content(&other)
        .into_iter()
        .filter(|(path, _)| !path.starts_with(log_dir()))
    {
        if path.starts_with("sessions") {
            swapped.damage(&path, |content| *content = bytes).unwrap();
        }
    }
    assert!(kinds(&rebuild(&swapped)).contains(&FaultKind::Rebuild));
}

#[test]
fn folders_that_stand_alone_are_what_they_are() {
    let disk = record(End::Sealed, 9);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let alone = |path: &Path| {
        let source = Source::on(shared.clone(), path).unwrap();
        let options = VerifyOptions {
            options: options(),
            ..VerifyOptions::default()
        };
        let report = verify(&source, &options, &|_| {}).unwrap();
        assert_eq!(report.faults, [], "{}", path.display());
        let out = MemoryDisk::new();
        let saved = recover(&source, Arc::new(out), &super::options(), &|_, _| {}).unwrap();
        assert!(saved.lost.is_nothing(), "{}: {:#?}", path.display(), saved.lost);
        (source.what().clone(), report.checked.frames)
    };
    let of_hub = alone(Path::new(""));
    let (session, device) = (session(), device());
    assert_eq!(of_hub.0, What::Hub);
    assert_eq!(
        alone(&Session::dir(&session)),
        (
            What::Session {
                session: session.clone()
            },
            of_hub.1
        )
    );
    assert_eq!(
        alone(&log_dir()),
        (
            What::Log {
                session: session.clone(),
                device: device.clone()
            },
            of_hub.1
        )
    );
    // A session's folder keeps its name inside.
    disk.rename(&Session::dir(&session), Path::new("copied")).unwrap();
    assert_eq!(alone(Path::new("copied")), (What::Session { session }, of_hub.1));
}

#[test]
fn one_segment_alone_is_read() {
    let disk = record(End::Sealed, 9);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    disk.rename(&segment(2), Path::new("copy.mlog")).unwrap();
    let source = Source::on(shared, Path::new("copy.mlog")).unwrap();
    assert_eq!(
        *source.what(),
        What::Segment {
            session: session(),
            device: device(),
            segment: 2
        }
    );
    let report = verify(&source, &VerifyOptions::default(), &|_| {}).unwrap();
    assert!(
        report.faults.iter().all(|fault| fault.kind == FaultKind::Meaning),
        "{report:#?}"
    );
    assert!(report.checked.frames > 0);
}

#[test]
fn what_is_none_of_ours_is_said_in_a_sentence() {
    let disk = MemoryDisk::new();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let at = |path: &str| Source::on(shared.clone(), Path::new(path)).unwrap_err();
    assert!(matches!(at("nothing"), SalvageError::Missing { .. }));
    assert!(matches!(at(""), SalvageError::NotOurs { .. }));
    let file = shared.open(Path::new("notes.txt"), OpenMode::CreateNew).unwrap();
    assert!(matches!(at("notes.txt"), SalvageError::NotOurs { .. }));
    file.write_at(0, b"text").unwrap();
    assert!(matches!(at("notes.txt"), SalvageError::NotOurs { .. }));
    assert!(matches!(at(""), SalvageError::NotOurs { .. }));
    shared
        .open(Path::new("000001.mlog"), OpenMode::CreateNew)
        .unwrap();
    assert!(matches!(at("000001.mlog"), SalvageError::Nameless { .. }));
    assert!(matches!(at(""), SalvageError::Nameless { .. }));
    let full = record(End::Closed, 1);
    let out: Arc<dyn Disk> = Arc::new(disk.clone());
    let refused = recover(&source(&full), out, &options(), &|_, _| {});
    assert!(matches!(refused, Err(SalvageError::OutNotEmpty { .. })));
}

/// A disk that can't read some bytes of one file.
#[derive(Debug)]
pub(super) struct BadSector {
    pub disk: MemoryDisk,
    pub path: PathBuf,
    pub bytes: std::ops::Range<u64>,
}

#[derive(Debug)]
struct BadFile(Arc<dyn File>, std::ops::Range<u64>);

impl File for BadFile {
    fn read_at(&self, offset: u64, to: &mut [u8]) -> io::Result<usize> {
        match offset < self.1.end && offset + to.len() as u64 > self.1.start {
            true => Err(io::Error::other("input/output error")),
            false => self.0.read_at(offset, to),
        }
    }

    fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
        unreachable!("nothing writes to what is salvaged")
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        unreachable!("nothing writes to what is salvaged")
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

macro_rules! unused {
    ($($name:ident($($argument:ty),*) -> $result:ty;)*) => {
        $(fn $name(&self, $(_: $argument),*) -> $result {
            unreachable!("nothing writes to what is salvaged")
        })*
    };
}

impl Disk for BadSector {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        assert_eq!(mode, OpenMode::Read);
        let bytes = if path == self.path {
            self.bytes.clone()
        } else {
            0..0
        };
        Ok(Arc::new(BadFile(self.disk.open(path, mode)?, bytes)))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.disk.list(dir)
    }

    fn stat(&self, path: &Path) -> io::Result<Option<Stat>> {
        self.disk.stat(path)
    }

    fn space(&self) -> io::Result<Space> {
        self.disk.space()
    }

    fn describe(&self, path: &Path) -> PathBuf {
        path.to_owned()
    }

    unused! {
        create_dir(&Path) -> io::Result<()>;
        rename(&Path, &Path) -> io::Result<()>;
        exchange(&Path, &Path) -> io::Result<()>;
        hard_link(&Path, &Path) -> io::Result<()>;
        remove_file(&Path) -> io::Result<()>;
        remove_dir_all(&Path) -> io::Result<()>;
        sync_dir(&Path) -> io::Result<()>;
        lock(&Path) -> io::Result<Option<Box<dyn LockGuard>>>;
    }
}

#[test]
fn a_bad_sector_costs_its_frames_and_no_others() {
    let disk = record(End::Sealed, 200);
    let truth = frames_of(&disk);
    let long = content(&disk)
        .into_iter()
        .filter(|(path, _)| path.starts_with(log_dir()))
        .max_by_key(|f| f.1.len());
    let (path, bytes) = long.unwrap();
    let middle = (bytes.len() as u64 / 2 / 512) * 512;
    let bad: Arc<dyn Disk> = Arc::new(BadSector {
        disk,
        path: path.clone(),
        bytes: middle..middle + 512,
    });
    let source = Source::on(bad, Path::new("")).unwrap();
    let report = verify(&source, &VerifyOptions::default(), &|_| {}).unwrap();
    let found = report
        .faults
        .iter()
        .any(|fault| fault.kind == FaultKind::Unreadable && fault.file == path);
    assert!(found, "{report:#?}");
    let out = MemoryDisk::new();
    let saved = recover(&source, Arc::new(out.clone()), &options(), &|_, _| {}).unwrap();
    let came = frames_of(&out);
    let lost = truth.len() - came.len();
    let listed: u64 = saved
        .lost
        .frames
        .iter()
        .filter(|l| l.lane != "hub")
        .map(|l| l.last.unwrap() - l.first + 1)
        .sum();
    assert!(lost > 0 && lost < 60, "{lost}");
    assert_eq!(listed, lost as u64, "{:#?}", saved.lost);
    assert!(
        saved
            .notes
            .iter()
            .any(|note| note.contains("the disk can't read")),
        "{:?}",
        saved.notes
    );
}
