//! Looking changes nothing, says how far it has come, and what it could not read, each range once.

use super::hubs::BadSector;
use super::*;
use crate::disk::OpenMode;
use crate::salvage::view::View;
use crate::salvage::{FaultKind, Progress, SalvageError, What};
use std::io;

#[test]
fn a_view_refuses_every_change_of_what_it_looks_into() {
    let disk = record(End::Sealed, 2);
    let before = content(&disk);
    let view = View::new(Arc::new(disk.clone()), "", "");
    let [a, b] = [segment(1), Session::dir(&session()).join("session.json")];
    let refused =
        |result: io::Result<()>| assert_eq!(result.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    refused(view.rename(&a, &b));
    refused(view.exchange(&a, &b));
    refused(view.hard_link(&a, Path::new("new")));
    refused(view.remove_file(&a));
    refused(view.remove_dir_all(&log_dir()));
    refused(view.create_dir(Path::new("new")));
    refused(view.open(Path::new("new"), OpenMode::CreateNew).map(drop));
    refused(view.lock(Path::new("lock")).map(drop));
    for mode in [OpenMode::Read, OpenMode::ReadWrite] {
        let file = view.open(&a, mode).unwrap();
        refused(file.write_at(0, b"new"));
        refused(file.set_len(0));
    }
    assert_eq!(content(&disk), before);
}

#[test]
fn a_view_shows_its_mounts_and_hides_what_is_hidden() {
    let disk = record(End::Sealed, 2);
    let scratch = MemoryDisk::new();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let view = View::new(shared, "logs/phone", log_dir()).with_scratch(Arc::new(scratch.clone()));
    let names = |dir: &str| -> Vec<String> {
        view.list(Path::new(dir))
            .unwrap()
            .into_iter()
            .map(|entry| entry.name)
            .collect()
    };
    assert_eq!(names(""), ["logs"]);
    assert_eq!(names("logs"), ["phone"]);
    assert!(names("logs/phone").contains(&"000001.mlog".to_owned()));
    assert!(
        view.stat(Path::new("logs"))
            .unwrap()
            .is_some_and(|stat| stat.is_dir)
    );
    // A name below a file is nothing, as everywhere.
    assert_eq!(
        view.stat(Path::new("logs/phone/000001.mlog/below")).unwrap(),
        None
    );
    assert_eq!(
        view.list(Path::new("elsewhere")).unwrap_err().kind(),
        io::ErrorKind::NotFound
    );
    // What is not mounted goes to the scratch disk.
    view.create_dir(Path::new("made")).unwrap();
    let file = view.open(Path::new("made/file"), OpenMode::CreateNew).unwrap();
    file.write_at(0, b"text").unwrap();
    view.hard_link(Path::new("made/file"), Path::new("made/other"))
        .unwrap();
    view.rename(Path::new("made/other"), Path::new("made/third"))
        .unwrap();
    assert_eq!(names("made"), ["file", "third"]);
    let other = view.open(Path::new("made/other"), OpenMode::CreateNew).unwrap();
    other.write_at(0, b"words").unwrap();
    view.exchange(Path::new("made/other"), Path::new("made/file"))
        .unwrap();
    assert_eq!(view.stat(Path::new("made/file")).unwrap().unwrap().bytes, 5);
    view.remove_file(Path::new("made/third")).unwrap();
    assert_eq!(names("made"), ["file", "other"]);
    assert!(scratch.stat(Path::new("made/file")).unwrap().is_some());
    view.remove_dir_all(Path::new("made")).unwrap();
    assert!(scratch.stat(Path::new("made")).unwrap().is_none());
    let hidden = View::new(Arc::new(disk), "", "").hide(segment(1));
    assert_eq!(hidden.stat(&segment(1)).unwrap(), None);
    assert!(
        hidden
            .list(&log_dir())
            .unwrap()
            .iter()
            .all(|entry| entry.name != "000001.mlog")
    );
}

#[test]
fn what_the_disk_refused_is_told_once_and_in_one_piece() {
    let disk = MemoryDisk::new();
    let path = PathBuf::from("file");
    let bytes: Vec<u8> = (0..16_384_u32).map(|at| (at % 251) as u8 + 1).collect();
    disk.open(&path, OpenMode::CreateNew)
        .unwrap()
        .write_at(0, &bytes)
        .unwrap();
    let bad: Arc<dyn Disk> = Arc::new(BadSector {
        disk,
        path: path.clone(),
        bytes: 5000..9000,
    });
    let view = View::new(bad, "", "");
    let file = view.open(&path, OpenMode::Read).unwrap();
    // The disk is asked again for each 4 KiB of what it refused.
    for (from, length) in [(0, 16_384), (4096, 8192), (6000, 3000), (0, 16_384)] {
        let mut read = vec![1; length];
        assert_eq!(file.read_at(from as u64, &mut read).unwrap(), length);
        for (at, byte) in (from..).zip(read) {
            let expected = if (4096..12_288).contains(&at) {
                0
            } else {
                bytes[at]
            };
            assert_eq!(byte, expected, "byte {at} of {length} from {from}");
        }
    }
    let found = view.unreadable();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(
        (found[0].path.clone(), found[0].offset, found[0].bytes),
        (path, 4096, 8192)
    );
}

#[test]
fn progress_counts_the_bytes_of_each_phase() {
    let progress = Progress::default();
    assert_eq!(
        (
            progress.now().what.as_str(),
            progress.now().done_bytes,
            progress.now().bytes
        ),
        ("", 0, 0)
    );
    progress.count(7);
    assert_eq!(progress.now().done_bytes, 7);
    progress.begin("reading", 100);
    assert_eq!((progress.now().done_bytes, progress.now().bytes), (0, 100));
    progress.clone().count(40);
    assert_eq!(
        (progress.now().what.as_str(), progress.now().done_bytes),
        ("reading", 40)
    );
    progress.count(400);
    assert_eq!(progress.now().done_bytes, 100, "never more than all of it");

    // Verify and recover tell their phases, with the bytes that they read.
    let disk = record(End::Sealed, 60);
    let logs: u64 = log_files(&disk).iter().map(|(_, bytes)| bytes.len() as u64).sum();
    let source = source(&disk);
    let (seen, steps) = (source.progress(), std::cell::RefCell::new(Vec::new()));
    let options = VerifyOptions {
        options: options(),
        ..VerifyOptions::default()
    };
    verify(&source, &options, &|what| {
        let step = seen.now();
        assert_eq!((step.what.as_str(), step.done_bytes), (what, 0));
        steps.borrow_mut().push((step.what, step.bytes));
    })
    .unwrap();
    let steps = steps.into_inner();
    assert!(
        steps.contains(&("walk: the log of phone".into(), logs)),
        "{steps:?} of {logs}"
    );
    let published = steps.iter().find(|step| step.0 == "walk: what is published");
    assert!(published.is_some_and(|step| step.1 > 0), "{steps:?}");
    let again = super::source(&disk);
    recover(&again, Arc::new(MemoryDisk::new()), &super::options(), &|_, _| {}).unwrap();
    let end = again.progress().now();
    assert!(!end.what.is_empty() && end.done_bytes > 0, "{end:?}");
}

#[test]
fn the_kinds_of_faults_have_the_names_that_people_read() {
    let names = [
        (FaultKind::Damage, "damage"),
        (FaultKind::TornTail, "torn tail"),
        (FaultKind::Meaning, "no meaning"),
        (FaultKind::Index, "index"),
        (FaultKind::Journal, "journal"),
        (FaultKind::Published, "published"),
        (FaultKind::Rebuild, "rebuild"),
        (FaultKind::Session, "session"),
        (FaultKind::Hub, "hub"),
        (FaultKind::Audit, "audit"),
        (FaultKind::Added, "added"),
        (FaultKind::Unreadable, "unreadable"),
    ];
    for (kind, name) in names {
        assert_eq!(kind.as_str(), name);
    }
}

#[test]
fn a_fault_reads_as_file_place_and_cause() {
    let fault = |kind, offset, bytes| crate::salvage::Fault {
        kind,
        session: None,
        device: None,
        file: "a/file".into(),
        offset,
        bytes,
        cause: "why".into(),
    };
    let reads = |kind, offset, bytes| fault(kind, offset, bytes).to_string();
    assert_eq!(
        reads(FaultKind::Damage, Some(8), Some(4)),
        "a/file: offset 8: 4 bytes: damage: why"
    );
    assert_eq!(
        reads(FaultKind::TornTail, Some(0), Some(0)),
        "a/file: offset 0: torn tail: why"
    );
    assert_eq!(reads(FaultKind::Published, None, Some(1)), "a/file: 1 bytes: why");
    assert_eq!(reads(FaultKind::Hub, None, None), "a/file: why");
    let of_log = crate::log::Fault {
        kind: crate::log::FaultKind::TornTail,
        path: "a/file".into(),
        segment: 1,
        offset: 8,
        bytes: 4,
        why: "why".into(),
    };
    assert_eq!(of_log.to_string(), "a/file: torn tail at offset 8, 4 bytes: why");
}

#[test]
fn a_hub_takes_up_what_reads_as_a_session_of_its_folder() {
    let disk = record(End::Closed, 3);
    let open = |disk: &MemoryDisk| {
        let kernel = SimulatedKernel::new(1, 1_700_000_100_000_000_000);
        let (store, report) = Store::open(Arc::new(disk.clone()), kernel.hub_clock(), options()).unwrap();
        let found: Vec<String> = store
            .sessions()
            .into_iter()
            .map(|session| session.id.to_string())
            .collect();
        (found, report.unreadable)
    };
    assert_eq!(open(&disk), (vec!["walk".to_owned()], vec![]));
    // A session that was being made when the end came has a folder and nothing in it.
    let cut = disk.snapshot();
    disk::create_dirs(&cut, Path::new("sessions/session=other")).unwrap();
    disk::create_dirs(&cut, Path::new("sessions/notes")).unwrap();
    assert_eq!(open(&cut), (vec!["walk".to_owned()], vec![]));
    // A copy under another name is not that session.
    let copied = disk.snapshot();
    copied
        .rename(&Session::dir(&session()), Path::new("sessions/session=other"))
        .unwrap();
    let (found, unreadable) = open(&copied);
    assert_eq!((found.len(), unreadable.len()), (0, 1), "{unreadable:?}");
    assert!(unreadable[0].ends_with("holds session walk"), "{unreadable:?}");
    let torn = disk.snapshot();
    torn.damage(&Session::dir(&session()).join("session.json"), |bytes| {
        bytes.truncate(9)
    })
    .unwrap();
    assert_eq!((open(&torn).0.len(), open(&torn).1.len()), (0, 1));
}

#[test]
fn only_who_may_record_opens_a_log() {
    use marey_format::registry::RefusalCode;
    let disk = MemoryDisk::new();
    let shared: Arc<dyn Disk> = Arc::new(disk);
    let kernel = SimulatedKernel::new(1, 1_700_000_000_000_000_000);
    Store::init(&shared, [7; 16], &options()).unwrap();
    assert_eq!(Store::read_hub_id(&*shared).unwrap(), [7; 16]);
    let (store, _) = Store::open(shared, kernel.hub_clock(), options()).unwrap();
    let other = SessionId::new("other").unwrap();
    let open = |session: &SessionId, epoch| {
        let open = Open {
            session: session.clone(),
            epoch: EpochId([epoch; 16]),
            boot: BootId([9; 16]),
            highest_ack: Acked { data: 0, live: 0 },
        };
        match store.open_log(&device(), &open) {
            Ok(_) => None,
            Err(crate::LogOpenError::Refused(refusal)) => Some(refusal.code),
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(open(&session(), 1), Some(RefusalCode::UnknownSession));
    store.create_session(NewSession::open_to_all(session())).unwrap();
    assert_eq!(open(&session(), 1), Some(RefusalCode::NotStarted));
    store.start_session(&session()).unwrap();
    assert_eq!(open(&session(), 1), None);
    // In one session at a time; the one that ended takes what is late.
    store
        .create_session(NewSession::open_to_all(other.clone()))
        .unwrap();
    store.start_session(&other).unwrap();
    assert_eq!(open(&other, 2), Some(RefusalCode::RecordedElsewhere));
    assert_eq!(open(&session(), 3), None);
    store.stop_session(&session()).unwrap();
    assert_eq!(open(&other, 2), None);
    assert_eq!(open(&session(), 3), None);
    store.seal_session(&session(), &|_| {}).unwrap();
    assert_eq!(open(&session(), 4), None);
    store.close_session(&session()).unwrap();
    assert_eq!(open(&session(), 3), Some(RefusalCode::SessionClosed));
}

#[test]
fn blocks_of_the_journal_come_free_when_logs_are_flushed() {
    let options = Options {
        journal_blocks: 4,
        ..options()
    };
    let store = recording(options);
    let free = || store.health().journal_blocks_free;
    // The hub begins a block when it opens.
    assert_eq!(free(), 3);
    let mut sender = sender(&store);
    let handle = sender.open();
    sender.declare(handle);
    let mut seen = vec![free()];
    for _ in 0..50 {
        sender.samples(handle);
        if seen.last() != Some(&free()) {
            seen.push(free());
        }
    }
    assert_eq!(seen, [3, 2, 1]);
    store.flush().unwrap();
    // All but the one at hand.
    assert_eq!(free(), 3);
    store.close().unwrap();
}

#[test]
fn verify_counts_every_session_and_knows_what_was_never_made() {
    let disk = record(End::Sealed, 3);
    let dir = Session::dir(&session());
    // A copy under another name: its session.json says whose it is.
    let two = disk.snapshot();
    let other = Path::new("sessions/session=other");
    for (path, bytes) in content(&disk)
        .into_iter()
        .filter(|(path, _)| path.starts_with(&dir))
    {
        let to = other.join(path.strip_prefix(&dir).unwrap());
        disk::create_dirs(&two, to.parent().unwrap()).unwrap();
        two.open(&to, OpenMode::CreateNew)
            .unwrap()
            .write_at(0, &bytes)
            .unwrap();
    }
    assert_eq!(
        (verified(&disk).checked.sessions, verified(&two).checked.sessions),
        (1, 2)
    );
    // A folder in which nothing stands yet is a note; one that has logs and no session.json is a fault.
    let empty = disk.snapshot();
    disk::create_dirs(&empty, other).unwrap();
    let report = verified(&empty);
    assert_eq!(
        (report.faults.len(), report.checked.sessions, report.notes.len()),
        (0, 1, 1),
        "{report:#?}"
    );
    assert!(report.notes[0].contains("never made whole"), "{report:#?}");
    let headless = disk.snapshot();
    headless.remove_file(&dir.join("session.json")).unwrap();
    let report = verified(&headless);
    assert!(
        report.faults.iter().any(|fault| fault.kind == FaultKind::Session),
        "{report:#?}"
    );
    assert!(report.notes.is_empty(), "{report:#?}");
    // Sealed, and the manifest is gone: a fault, and a warning of info. Not so of a copy that salvage made.
    let gone = disk.snapshot();
    gone.remove_file(&dir.join("manifest.json")).unwrap();
    let cause = "generation 1 was sealed, and its manifest is gone";
    assert!(verified(&gone).faults.iter().any(|fault| fault.cause == cause));
    let (copy, _) = recovered(&gone);
    assert_eq!(verified(&copy).faults, []);
    let warned = |disk: &MemoryDisk| {
        let read = Session::read(disk, &dir).unwrap();
        let told = crate::salvage::contents(&source(disk), &session(), Some(&read), &options()).unwrap();
        told.warnings
            .iter()
            .any(|warning| warning.starts_with("generation 1 was sealed"))
    };
    assert_eq!(
        (warned(&disk), warned(&gone), warned(&copy)),
        (false, true, false)
    );
    // Without logs nothing is said of the session without a look at what says so.
    let bare = disk.snapshot();
    bare.remove_dir_all(&dir.join("logs")).unwrap();
    let read = Session::read(&bare, &dir).unwrap();
    assert!(
        crate::salvage::published_contents(&source(&bare), &read)
            .unwrap()
            .is_none()
    );
}

#[test]
fn a_session_alone_is_known_by_any_of_its_files() {
    let disk = record(End::Sealed, 3);
    let dir = Session::dir(&session());
    for name in ["session.json", "manifest.json", "logs"] {
        let alone = MemoryDisk::new();
        for (path, bytes) in content(&disk)
            .into_iter()
            .filter(|(path, _)| path.starts_with(dir.join(name)))
        {
            disk::create_dirs(&alone, path.parent().unwrap()).unwrap();
            alone
                .open(&path, OpenMode::CreateNew)
                .unwrap()
                .write_at(0, &bytes)
                .unwrap();
        }
        let source = Source::on(Arc::new(alone), &dir).unwrap();
        assert_eq!(*source.what(), What::Session { session: session() }, "{name}");
    }
    // A file among the folders of sessions is none of them.
    let file = disk
        .open(Path::new("sessions/session=file"), OpenMode::CreateNew)
        .unwrap();
    file.write_at(0, b"text").unwrap();
    let (found, _) = source(&disk).sessions().unwrap();
    assert_eq!(found.len(), 1);
    // A log whose headers are all gone is whose its folders say.
    let headless = disk.snapshot();
    for (path, _) in log_files(&disk) {
        headless.damage(&path, |bytes| bytes[..64].fill(0)).unwrap();
    }
    let source = Source::on(Arc::new(headless), &log_dir()).unwrap();
    assert_eq!(
        *source.what(),
        What::Log {
            session: session(),
            device: device()
        }
    );
}

#[test]
fn an_index_that_lies_is_found() {
    let disk = record(End::Sealed, 9);
    let forged = |change: &dyn Fn(&mut Footer)| {
        let damaged = disk.snapshot();
        relist(&damaged, 2, change);
        let faults = verified(&damaged).faults.into_iter();
        faults
            .filter(|fault| fault.kind == FaultKind::Index)
            .map(|fault| (fault.offset.unwrap(), fault.cause))
            .collect::<Vec<_>>()
    };
    assert_eq!(forged(&|_| {}), []);
    let says = |found: Vec<(u64, String)>, cause: &str| {
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].1.contains(cause), "{found:?}");
        found[0].0
    };
    let row = |footer: &Footer| {
        footer
            .entries
            .iter()
            .position(|row| row.kind == Kind::DATA)
            .unwrap()
    };
    let at = std::cell::Cell::new(0);
    let other = forged(&|footer| {
        let row = row(footer);
        footer.entries[row].first_index += 1;
        at.set(u64::from(footer.entries[row].offset));
    });
    assert_eq!(says(other, "says otherwise"), at.get());
    let missing = forged(&|footer| {
        let row = row(footer);
        footer.entries.remove(row);
    });
    assert_eq!(says(missing, "does not list"), at.get());
    let more = forged(&|footer| {
        let mut row = footer.entries[row(footer)];
        row.offset += 8;
        row.sequence += 1000;
        footer.entries.push(row);
    });
    assert_eq!(says(more, "and none was read"), at.get() + 8);
}

#[test]
fn a_segment_alone_is_known_by_its_header_or_by_its_folder() {
    let disk = record(End::Sealed, 9);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let of = |path: &Path| Source::on(shared.clone(), path).map(|source| source.what().clone());
    let expected = |segment| What::Segment {
        session: session(),
        device: device(),
        segment,
    };
    assert_eq!(of(&segment(2)).unwrap(), expected(2));
    // Its neighbours say whose it is, and its name which.
    disk.damage(&segment(2), |bytes| bytes[20] ^= 1).unwrap();
    assert_eq!(of(&segment(2)).unwrap(), expected(2));
    assert!(matches!(
        of(&segment(2).join("below")),
        Err(SalvageError::Missing { .. })
    ));
}
