//! What was published, held against its logs made again; the audit log, held against the receipts.

use super::crowd::{crowd, crowd_at};
use super::*;
use crate::audit::{Actor, AuditEvent};
use crate::salvage::{Fault, FaultKind, verify_audit};
use serde_json::Value as Json;

fn edit(disk: &MemoryDisk, name: &str, change: impl FnOnce(&mut Json)) {
    disk.damage(&Session::dir(&session()).join(name), |bytes| {
        let mut json: Json = serde_json::from_slice(bytes).unwrap();
        change(&mut json);
        *bytes = serde_json::to_vec(&json).unwrap();
    })
    .unwrap();
}

/// What verify finds where Parquet is made again, and how many files it compared; and what it notes.
fn rebuilt(disk: &MemoryDisk) -> (Vec<Fault>, u64, Vec<String>) {
    let options = VerifyOptions {
        rebuild: Some(Arc::new(MemoryDisk::new())),
        options: options(),
        ..VerifyOptions::default()
    };
    let report = verify(&source(disk), &options, &|_| {}).unwrap();
    let of_rebuild = report.faults.into_iter();
    let faults = of_rebuild.filter(|fault| fault.kind == FaultKind::Rebuild);
    (faults.collect(), report.checked.rebuilt_files, report.notes)
}

/// The one part of a stream of a device.
fn part(disk: &MemoryDisk, device: &str, stream: &str) -> PathBuf {
    let parts = content(disk).into_keys().filter(|path| {
        let text = path.to_string_lossy();
        text.contains(&format!("stream={stream}")) && text.contains(device) && text.ends_with(".parquet")
    });
    let parts: Vec<PathBuf> = parts.collect();
    assert_eq!(parts.len(), 1, "{parts:?}");
    parts[0].clone()
}

#[test]
fn what_another_version_published_is_held_against_the_logs_by_its_rows() {
    let disk = crowd(End::Sealed);
    let (faults, files, _) = rebuilt(&disk);
    assert_eq!((faults, files > 3), (vec![], true));

    let older = disk.snapshot();
    edit(&older, "manifest.json", |manifest| {
        manifest["marey"] = "0.0.9".into()
    });
    let (faults, files, notes) = rebuilt(&older);
    assert_eq!((faults, files), (vec![], 3));
    let says = notes
        .iter()
        .filter(|note| note.contains("rows are compared, not bytes"));
    assert_eq!(says.count(), 1, "{notes:?}");

    // Rows of another stream, which has the same columns.
    let other = older.snapshot();
    let watch = disk::read_all(&disk, &part(&disk, "watch", "skin"), u64::MAX).unwrap();
    let phone = part(&disk, "phone", "skin");
    other.damage(&phone, |bytes| *bytes = watch).unwrap();
    let (faults, _, _) = rebuilt(&other);
    let causes: Vec<&str> = faults.iter().map(|fault| fault.cause.as_str()).collect();
    assert_eq!(
        causes,
        ["11 rows, its log gives 3, and they are not the same"],
        "{faults:?}"
    );
    assert!(faults[0].file.ends_with(phone.file_name().unwrap()), "{faults:?}");

    // A file that is none.
    let broken = older.snapshot();
    broken.damage(&phone, |bytes| bytes.truncate(40)).unwrap();
    let (faults, _, _) = rebuilt(&broken);
    assert_eq!(faults.len(), 1, "{faults:?}");
}

#[test]
fn another_alignment_may_place_the_same_rows_elsewhere_in_time() {
    let disk = crowd(End::Sealed);
    let later = crowd_at(End::Sealed, 1_700_000_001_000_000_000);
    // The same rows, a second later.
    for (device, stream) in [("phone", "imu"), ("phone", "skin"), ("watch", "skin")] {
        let (from, to) = (part(&later, device, stream), part(&disk, device, stream));
        let moved = disk::read_all(&later, &from, u64::MAX).unwrap();
        disk.damage(&to, |bytes| *bytes = moved).unwrap();
    }
    edit(&disk, "manifest.json", |manifest| {
        manifest["marey"] = "0.0.9".into()
    });
    let (faults, files, _) = rebuilt(&disk);
    assert_eq!((faults.len(), files), (3, 3), "{faults:?}");
    edit(&disk, "manifest.json", |manifest| {
        manifest["alignment"] = 0.into()
    });
    let (faults, files, _) = rebuilt(&disk);
    assert_eq!((faults, files), (vec![], 3));
}

#[test]
fn streams_and_parts_that_the_manifest_leaves_out_are_named() {
    let disk = crowd(End::Sealed);
    let imu = |manifest: &Json| {
        let streams = manifest["streams"].as_array().unwrap().iter();
        let found = streams.enumerate().find(|(_, it)| it["stream"] == "imu@1");
        found.unwrap().0
    };
    let without_parts = disk.snapshot();
    edit(&without_parts, "manifest.json", |manifest| {
        let imu = imu(manifest);
        manifest["streams"][imu]["parts"] = Json::Array(Vec::new());
    });
    let (faults, _, _) = rebuilt(&without_parts);
    assert!(
        faults
            .iter()
            .any(|fault| fault.cause == "0 parts, its log gives 1"),
        "{faults:?}"
    );
    let without_stream = disk.snapshot();
    edit(&without_stream, "manifest.json", |manifest| {
        let imu = imu(manifest);
        manifest["streams"].as_array_mut().unwrap().remove(imu);
    });
    let (faults, _, _) = rebuilt(&without_stream);
    assert!(
        faults
            .iter()
            .any(|fault| fault.cause.ends_with("gives imu@1 as well")),
        "{faults:?}"
    );
}

#[test]
fn what_came_after_the_generation_can_not_be_compared() {
    let disk = crowd(End::Sealed);
    let kernel = SimulatedKernel::new(1, 1_700_000_100_000_000_000);
    let (store, _) = Store::open(Arc::new(disk.clone()), kernel.hub_clock(), options()).unwrap();
    let sender = Sender {
        epoch: EpochId([9; 16]),
        ..sender(&store)
    };
    let handle = sender.open();
    // Of the live lane alone.
    let text = br#"{"kind":"late"}"#;
    let event = control_frame(Kind::EVENT, Lane::Live, 0, 0, 5, 0, text, sender.seed()).unwrap();
    sender.commit(handle, event);
    store.close().unwrap();
    drop(store);
    let (faults, files, notes) = rebuilt(&disk);
    assert_eq!((faults, files), (vec![], 0));
    let says = notes
        .iter()
        .filter(|note| note.contains("more came since generation 1"));
    assert_eq!(says.count(), 1, "{notes:?}");
}

#[test]
fn the_audit_log_is_held_against_the_receipts_of_its_hub() {
    let disk = MemoryDisk::new();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let kernel = SimulatedKernel::new(1, 1_700_000_000_000_000_000);
    Store::init(&shared, [7; 16], &options()).unwrap();
    let (store, _) = Store::open(shared, kernel.hub_clock(), options()).unwrap();
    let checked = |disk: &MemoryDisk, hub| {
        let checked = verify_audit(disk, hub, false).unwrap();
        (checked.heads_held, checked.faults, checked.notes)
    };
    // Before anything is published there is nothing that names a record.
    assert_eq!(checked(&disk, Some([7; 16])), (0, vec![], vec![]));
    for action in ["session.create", "session.start"] {
        store.audit(&AuditEvent::new(Actor::Uid(0), action)).unwrap();
    }
    store.create_session(NewSession::open_to_all(session())).unwrap();
    store.start_session(&session()).unwrap();
    let mut sender = sender(&store);
    let handle = sender.open();
    sender.declare(handle);
    sender.samples(handle);
    store.stop_session(&session()).unwrap();
    store.seal_session(&session(), &|_| {}).unwrap();
    store.close().unwrap();
    drop(store);
    assert_eq!(checked(&disk, Some([7; 16])), (1, vec![], vec![]));
    // Whoever does not know whose folder it is takes every receipt for the hub's.
    assert_eq!(checked(&disk, None), (1, vec![], vec![]));
    // A session that was brought from another hub names that hub's records.
    assert_eq!(checked(&disk.snapshot(), Some([8; 16])).0, 0);

    // Files beside receipts, and folders beside sessions, are none.
    let dir = Session::dir(&session());
    let receipt = disk::read_all(&disk, &dir.join("receipt-0001.json"), u64::MAX).unwrap();
    let beside = disk.snapshot();
    for path in [
        dir.join("receipt-0002.txt"),
        dir.join("a-receipt-0002.json"),
        PathBuf::from("sessions/walk/receipt-0001.json"),
    ] {
        disk::create_dirs(&beside, path.parent().unwrap()).unwrap();
        let file = beside.open(&path, crate::disk::OpenMode::CreateNew).unwrap();
        file.write_at(0, &receipt).unwrap();
    }
    let stray = beside
        .open(
            Path::new("sessions/session=none"),
            crate::disk::OpenMode::CreateNew,
        )
        .unwrap();
    stray.write_at(0, b"no folder").unwrap();
    assert_eq!(checked(&beside, Some([7; 16])), (1, vec![], vec![]));

    // A receipt that can't be read says so, and is not taken for one without a record.
    let broken = disk.snapshot();
    broken
        .damage(&dir.join("receipt-0001.json"), |bytes| bytes.truncate(9))
        .unwrap();
    let (heads, faults, notes) = checked(&broken, Some([7; 16]));
    assert_eq!((heads, faults.len(), notes.len()), (0, 0, 1), "{notes:?}");
    assert!(notes[0].contains("receipt-0001.json: not held against the audit log"));

    // A log whose end was cut off is found by the receipt.
    let cut = disk.snapshot();
    let log = content(&cut)
        .into_keys()
        .find(|path| path.starts_with("audit"))
        .unwrap();
    cut.damage(&log, |bytes| {
        let last = bytes[..bytes.len() - 1]
            .iter()
            .rposition(|byte| *byte == b'\n')
            .unwrap();
        bytes.truncate(last + 1);
    })
    .unwrap();
    let (heads, faults, _) = checked(&cut, Some([7; 16]));
    assert_eq!((heads, faults.len()), (1, 1), "{faults:?}");
}

#[test]
fn what_follows_a_rotted_epoch_mark_is_in_the_log_for_verify_and_info_too() {
    let disk = record(End::Closed, 9);
    let mut mark = None;
    let mut reader = crate::log::LogReader::open(&disk, &session(), &device()).unwrap();
    while let Some(found) = reader.next().unwrap() {
        if found.frame.header().kind == Kind::EPOCH {
            mark.get_or_insert((found.segment, found.offset as usize));
        }
    }
    let (number, offset) = mark.unwrap();
    disk.damage(&segment(number), |bytes| bytes[offset + 50] ^= 1)
        .unwrap();
    // Published by a hub that found it so: the segments that follow have the epoch's name in their headers.
    let kernel = SimulatedKernel::new(1, 1_700_000_100_000_000_000);
    let (store, _) = Store::open(Arc::new(disk.clone()), kernel.hub_clock(), options()).unwrap();
    store.stop_session(&session()).unwrap();
    let sealed = store.seal_session(&session(), &|_| {}).unwrap();
    store.close().unwrap();
    drop(store);
    let published: u64 = sealed
        .compacted
        .receipt
        .streams
        .iter()
        .map(|stream| stream.parquet)
        .sum();
    assert_eq!(published, 28);
    let report = verified(&disk);
    let kinds: Vec<_> = report.faults.iter().map(|fault| fault.kind).collect();
    assert!(kinds.contains(&FaultKind::Damage), "{report:#?}");
    for kind in [FaultKind::Published, FaultKind::Meaning] {
        assert!(!kinds.contains(&kind), "{report:#?}");
    }
    assert_eq!(report.checked.samples, published);
    let described = Session::read(&disk, &Session::dir(&session())).unwrap();
    let found = crate::salvage::contents(&source(&disk), &session(), Some(&described), &options()).unwrap();
    assert_eq!(found.devices[0].streams[0].samples, published);
}

#[test]
fn a_segment_alone_answers_for_itself() {
    let disk = record(End::Closed, 9);
    let last = log_files(&disk).len() as u32;
    assert!(last >= 3);
    for damaged in 1..=last {
        let harmed = disk.snapshot();
        harmed.damage(&segment(damaged), |bytes| bytes[700] ^= 4).unwrap();
        for asked in 1..=last {
            let source = Source::on(Arc::new(harmed.clone()), &segment(asked)).unwrap();
            let report = verify(&source, &VerifyOptions::default(), &|_| {}).unwrap();
            let of_log = report
                .faults
                .iter()
                .filter(|fault| fault.kind == FaultKind::Damage);
            let files: Vec<_> = of_log.map(|fault| fault.file.clone()).collect();
            match asked == damaged {
                true => assert!(
                    !files.is_empty() && files.iter().all(|file| *file == segment(asked)),
                    "{files:?}"
                ),
                false => assert_eq!(files, Vec::<PathBuf>::new(), "{asked} of {damaged}"),
            }
        }
    }
}

#[test]
fn what_the_disk_refuses_to_read_is_named_with_its_own_words() {
    use crate::disk::faulty::{Duration, FaultyDisk, Plan, ReadFault};
    let disk = crowd(End::Sealed);
    for path in [
        "annotations.jsonl",
        "manifest.json",
        "session.json",
        "receipt-0001.json",
    ] {
        let plan = Plan {
            fail_reads: Some(ReadFault {
                path,
                at: 0,
                duration: Duration::ForEver,
            }),
            ..Plan::default()
        };
        let faulty = FaultyDisk::new(disk.snapshot(), plan);
        let source = Source::on(Arc::new(faulty), Path::new("")).unwrap();
        let report = verify(&source, &VerifyOptions::default(), &|_| {}).unwrap();
        let of_disk = report
            .faults
            .iter()
            .filter(|fault| fault.kind == FaultKind::Unreadable);
        let files: Vec<_> = of_disk.map(|fault| fault.file.file_name().unwrap()).collect();
        assert_eq!(files, [path], "{:#?}", report.faults);
        // And what it means where the file was looked into.
        let others = report
            .faults
            .iter()
            .filter(|fault| fault.kind != FaultKind::Unreadable);
        assert!(others.count() > 0, "{path}: {:#?}", report.faults);
    }
}
