//! What becomes of frames at the edges: sent again, out of turn, behind a refused one; and of a journal whose sessions can't
//! be read, or are gone.

use super::*;
use crate::salvage::{Fault, FaultKind};
use marey_format::registry::RefusalCode;

fn opened(disk: &MemoryDisk) -> (Store, crate::RecoveryReport) {
    reopened(Arc::new(disk.clone())).expect("the disk does not fail")
}

fn frame(sequence: u64, seed: Seed) -> Vec<u8> {
    shifted(sequence, 0, seed)
}

/// A frame of two samples; another `shift` is another frame under the same sequence.
fn shifted(sequence: u64, shift: i64, seed: Seed) -> Vec<u8> {
    let mut builder = DataBuilder::new(&declaration());
    for i in 2 * sequence as i64..2 * sequence as i64 + 2 {
        let values = [Value::F32(0.5), Value::I64(i + shift)];
        builder.push(1_000_000_000 + 10_000_000 * i, &values).unwrap();
    }
    builder.finish(1, sequence, 2 * sequence, seed).unwrap()
}

fn outcomes(store: &Store, handle: LogHandle, frames: Vec<Vec<u8>>) -> Vec<String> {
    let mut batch = Batch::new();
    for frame in frames {
        let stamp = Stamp {
            hub: store.clock().now(),
            dev_send_ns: None,
        };
        batch.push(handle, frame.into(), stamp).unwrap();
    }
    let outcomes = store.commit(&batch).unwrap().outcomes.into_iter();
    let name = |outcome| match outcome {
        Outcome::Durable => "durable".to_owned(),
        Outcome::Duplicate => "duplicate".to_owned(),
        Outcome::Held => "held".to_owned(),
        Outcome::Refused(refusal) => format!("{:?}", refusal.code),
    };
    outcomes.map(name).collect()
}

#[test]
fn a_frame_is_taken_once_and_in_its_turn() {
    let store = recording(options());
    let mut sender = sender(&store);
    let (handle, seed) = (sender.open(), sender.seed());
    // Before the stream is declared its frames are refused, and those behind them wait, whatever they are.
    let refused = format!("{:?}", RefusalCode::UndeclaredStream);
    let sent = outcomes(&store, handle, vec![frame(0, seed), frame(1, seed)]);
    assert_eq!(sent, [refused.clone(), "held".to_owned()]);
    sender.declare(handle);
    assert_eq!(outcomes(&store, handle, vec![frame(1, seed)]), ["held"]);
    // The one that was refused comes again, and those behind it.
    let sent = outcomes(
        &store,
        handle,
        vec![frame(0, seed), frame(1, seed), frame(2, seed)],
    );
    assert_eq!(sent, ["durable"; 3]);
    // Sent again it is the same; another frame of that number is refused.
    let reused = format!("{:?}", RefusalCode::SequenceReused);
    assert_eq!(outcomes(&store, handle, vec![frame(1, seed)]), ["duplicate"]);
    assert_eq!(outcomes(&store, handle, vec![shifted(1, 5, seed)]), [reused]);
    // Neither keeps those behind it waiting: what was passed can't be passed over.
    assert_eq!(outcomes(&store, handle, vec![frame(3, seed)]), ["durable"]);

    // Whoever opens the epoch anew sends from where it was told.
    let undeclared = {
        let mut builder = DataBuilder::new(&declaration());
        builder.push(9, &[Value::F32(0.0), Value::I64(0)]).unwrap();
        builder.finish(2, 4, 0, seed).unwrap()
    };
    assert_eq!(
        outcomes(&store, handle, vec![undeclared, frame(5, seed)]),
        [refused, "held".to_owned()]
    );
    assert_eq!(outcomes(&store, handle, vec![frame(5, seed)]), ["held"]);
    let again = sender.open();
    assert_eq!(outcomes(&store, again, vec![frame(5, seed)]), ["durable"]);
    let status = store.log_status().remove(0);
    assert_eq!((status.epochs, status.samples), (1, 10));
    assert_eq!(status.streams["imu@1"].samples, 10);
    store.close().unwrap();
}

#[test]
fn frames_of_a_session_that_cannot_be_read_wait_for_it_in_its_log() {
    let disk = record(End::Killed, 9);
    let truth = frames_of(&disk);
    let in_journal = truth.values().filter(|known| known.segment == u32::MAX).count();
    let path = Session::dir(&session()).join("session.json");
    let whole = disk::read_all(&disk, &path, u64::MAX).unwrap();
    disk.damage(&path, |bytes| bytes.truncate(9)).unwrap();
    let (store, report) = opened(&disk);
    assert!(store.sessions().is_empty());
    assert_eq!(
        (report.unreadable.len(), report.logs, report.orphans.len()),
        (1, 1, 0),
        "{report:?}"
    );
    assert!(report.found_damage());
    // The hub's own frames were carried over as well.
    assert!(
        report.frames_carried as usize >= in_journal && in_journal > 0,
        "{report:?}"
    );
    assert!(report.journal_records > 0);
    store.close().unwrap();
    drop(store);
    // Nothing is in the journal any more, and everything in the log.
    disk.damage(&path, |bytes| *bytes = whole).unwrap();
    let (store, report) = opened(&disk);
    assert_eq!(
        (report.journal_records, report.found_damage()),
        (0, false),
        "{report:?}"
    );
    assert_eq!(store.log_status()[0].samples, 36);
    drop(store);
    assert_eq!(frames_of(&disk).len(), truth.len());
}

#[test]
fn a_publication_that_cannot_be_finished_is_named_and_the_rest_of_the_hub_opens() {
    let of_nothing_that_is_there =
        br#"{"generation": 7, "parts": ["imu/device=a/part-0.parquet"], "files": []}"#;
    for plan in [&b""[..], b"{\"generation\":", of_nothing_that_is_there] {
        let disk = record(End::Killed, 9);
        let path = Session::dir(&session()).join("publish.json");
        disk::replace(&disk, &path, plan).unwrap();
        let faults = verified(&disk).faults;
        let of_plan = |fault: &Fault| fault.kind == FaultKind::Published && fault.session == Some(session());
        assert_eq!(
            faults.iter().filter(|fault| of_plan(fault)).count(),
            1,
            "{faults:?}"
        );
        let (store, report) = opened(&disk);
        assert_eq!(report.unreadable.len(), 1, "{report:?}");
        assert!(report.unreadable[0].contains("session=walk"), "{report:?}");
        assert!(report.found_damage());
        assert_eq!(store.log_status()[0].samples, 36);
        // Nothing is published over it, however often it is tried.
        store.stop_session(&session()).unwrap();
        for _ in 0..2 {
            let error = store.seal_session(&session(), &|_| ()).unwrap_err().to_string();
            assert!(error.contains("session=walk"), "{error}");
        }
        disk.remove_file(&path).unwrap();
        let sealed = store.seal_session(&session(), &|_| ()).unwrap();
        let streams = &sealed.compacted.manifest.streams;
        assert_eq!(streams.iter().map(|stream| stream.rows).sum::<u64>(), 36);
        store.close().unwrap();
    }
}

#[test]
fn frames_of_a_session_that_is_gone_are_named() {
    let disk = record(End::Killed, 9);
    disk.remove_dir_all(&Session::dir(&session())).unwrap();
    let (store, report) = opened(&disk);
    assert_eq!(report.orphans, [(session(), device())]);
    assert_eq!((report.logs, report.frames_carried), (0, 0), "{report:?}");
    assert!(report.unreadable.is_empty() && store.sessions().is_empty());
}

#[test]
fn a_sealed_session_is_read_only_where_something_is_left_to_do() {
    let disk = record(End::Sealed, 9);
    let (store, report) = opened(&disk);
    assert_eq!(
        (
            report.logs,
            report.found_damage(),
            store.has_late_frames(&session())
        ),
        (0, false, false)
    );
    drop(store);
    // A segment without its footer: the end came while it was sealed.
    let (path, _) = log_files(&disk).pop().unwrap();
    let unsealed = disk.snapshot();
    unsealed
        .damage(&path, |bytes| bytes.truncate(bytes.len() - 70))
        .unwrap();
    let (store, report) = opened(&unsealed);
    assert_eq!(report.logs, 1, "{report:?}");
    drop(store);
    // Frames that came after the seal are late, also for the hub that finds them.
    let (store, _) = opened(&disk);
    let open = Open {
        session: session(),
        epoch: EpochId([3; 16]),
        boot: BootId([9; 16]),
        highest_ack: Acked { data: 0, live: 0 },
    };
    let handle = store.open_log(&device(), &open).unwrap().handle;
    let seed = Seed::new(&device(), &session(), &EpochId([3; 16]));
    let declare = control_frame(
        Kind::DECLARE,
        Lane::Live,
        1,
        0,
        0,
        0,
        &declaration().to_json(),
        seed,
    )
    .unwrap();
    assert_eq!(
        outcomes(&store, handle, vec![declare, frame(0, seed)]),
        ["durable"; 2]
    );
    assert!(store.has_late_frames(&session()));
    for is_flushed in [false, true] {
        if is_flushed {
            store.flush().unwrap();
        }
        let killed = disk.snapshot();
        let (again, report) = opened(&killed);
        assert_eq!((report.logs, report.found_damage()), (1, false), "{report:?}");
        assert!(again.has_late_frames(&session()), "flushed: {is_flushed}");
        let sealed = again.seal_session(&session(), &|_| {}).unwrap();
        assert_eq!(
            (sealed.compacted.generation, again.has_late_frames(&session())),
            (2, false)
        );
        again.close().unwrap();
        drop(again);
        assert!(!opened(&killed).0.has_late_frames(&session()));
    }
}

#[test]
fn what_was_published_and_not_yet_written_down_is_taken_up() {
    let disk = record(End::Sealed, 9);
    let path = Session::dir(&session()).join("session.json");
    let edit = |from: &str, to: &str| {
        let edited = disk.snapshot();
        let mut found = false;
        edited
            .damage(&path, |bytes| {
                let text = String::from_utf8_lossy(bytes).into_owned();
                found = text.contains(from);
                *bytes = text.replace(from, to).into_bytes();
            })
            .unwrap();
        assert!(found, "session.json has no {from}");
        edited
    };
    let before = edit("\"generation\": 1", "\"generation\": 0");
    let (store, _) = opened(&before);
    let found = store.session(&session()).unwrap();
    assert_eq!((found.generation, found.state), (1, crate::SessionState::Sealed));
}

#[test]
fn what_was_taken_in_an_earlier_life_of_the_hub_is_looked_up_in_its_log() {
    let disk = record(End::Closed, 9);
    let frames = frames_of(&disk);
    let last = log_files(&disk).len() as u32;
    let unsealed = disk.snapshot();
    // In the last segment there is nothing to look it up in but the frames.
    unsealed
        .damage(&segment(last), |bytes| {
            bytes.truncate(bytes.len() - TRAILER_BYTES)
        })
        .unwrap();
    for disk in [disk, unsealed] {
        let (store, report) = opened(&disk);
        assert!(!report.found_damage(), "{report:?}");
        for (ordinal, epoch) in [(1, 2), (0, 1)] {
            let open = Open {
                session: session(),
                epoch: EpochId([epoch; 16]),
                boot: BootId([9; 16]),
                highest_ack: Acked { data: 0, live: 0 },
            };
            let handle = store.open_log(&device(), &open).unwrap().handle;
            let seed = Seed::new(&device(), &session(), &EpochId([epoch; 16]));
            for sequence in 0..9 {
                let known = frames[&(ordinal, Lane::Data as u8, sequence)];
                let sent = outcomes(&store, handle, vec![refills::bytes_of(&disk, &known)]);
                assert_eq!(sent, ["duplicate"], "{ordinal}/{sequence}");
                let other = outcomes(&store, handle, vec![shifted(sequence, 7, seed)]);
                assert_eq!(
                    other,
                    [format!("{:?}", RefusalCode::SequenceReused)],
                    "{ordinal}/{sequence}"
                );
            }
            let declared = refills::bytes_of(&disk, &frames[&(ordinal, Lane::Live as u8, 0)]);
            assert_eq!(outcomes(&store, handle, vec![declared]), ["duplicate"]);
        }
        store.close().unwrap();
    }
}

#[test]
fn a_version_that_was_given_is_given_to_nothing_else() {
    for end in [End::Closed, End::Killed] {
        let disk = record(end, 5);
        let (store, _) = opened(&disk);
        let sender = Sender {
            epoch: EpochId([5; 16]),
            ..sender(&store)
        };
        let handle = sender.open();
        let other = declaration().to_json();
        let other = String::from_utf8(other).unwrap().replace("m/s2", "g");
        let declare = control_frame(
            Kind::DECLARE,
            Lane::Live,
            1,
            0,
            0,
            0,
            other.as_bytes(),
            sender.seed(),
        );
        sender.commit(handle, declare.unwrap());
        let streams = || {
            store
                .log_status()
                .remove(0)
                .streams
                .into_keys()
                .collect::<Vec<_>>()
        };
        assert_eq!(streams(), ["imu@1", "imu@2"], "{end:?}");
        // And what it was before is that again.
        let mut sender = Sender {
            epoch: EpochId([6; 16]),
            ..self::sender(&store)
        };
        let handle = sender.open();
        sender.declare(handle);
        assert_eq!(streams(), ["imu@1", "imu@2"], "{end:?}");
    }
}

#[test]
fn a_header_that_landed_elsewhere_is_found_at_any_sector() {
    use marey_format::log::SegmentHeader;
    let disk = record(End::Closed, 9);
    let last = log_files(&disk).len() as u32;
    let (_, bytes) = log_files(&disk).pop().unwrap();
    let header = SegmentHeader::parse(&bytes).unwrap();
    for sector in [1, 8, 127, 128, 300] {
        for (number, is_ours) in [(last + 1, true), (last + 2, false)] {
            let moved = disk.snapshot();
            let header = SegmentHeader {
                segment: number,
                ..header.clone()
            };
            let file = moved
                .open(&segment(last + 1), crate::disk::OpenMode::CreateNew)
                .unwrap();
            file.write_at(512 * sector, &header.to_bytes()).unwrap();
            let (_, report) = opened(&moved);
            let named = report
                .faults
                .iter()
                .filter(|fault| fault.why.contains("the disk wrote the header"));
            let places: Vec<_> = named.map(|fault| (fault.kind, fault.why.clone())).collect();
            assert_eq!(report.found_damage(), is_ours, "{sector}: {report:?}");
            match is_ours {
                true => {
                    assert_eq!(places.len(), 1, "{report:?}");
                    assert_eq!(places[0].0, crate::log::FaultKind::Damage);
                    assert!(
                        places[0].1.ends_with(&format!("to byte {}", 512 * sector)),
                        "{places:?}"
                    );
                }
                false => assert_eq!(places, []),
            }
        }
    }
}

#[test]
fn a_session_that_the_disk_refuses_to_read_is_named() {
    use crate::disk::faulty::{Duration, FaultyDisk, Plan, ReadFault};
    let disk = record(End::Closed, 3);
    // One whose making was cut off is none yet.
    crate::disk::create_dirs(&disk, Path::new("sessions/session=cut")).unwrap();
    assert_eq!(opened(&disk.snapshot()).1.unreadable, Vec::<String>::new());
    let plan = Plan {
        fail_reads: Some(ReadFault {
            path: "session.json",
            at: 0,
            duration: Duration::ForEver,
        }),
        ..Plan::default()
    };
    let faulty: Arc<dyn Disk> = Arc::new(FaultyDisk::new(disk, plan));
    let kernel = SimulatedKernel::new(1, 1_700_000_100_000_000_000);
    let (store, report) = Store::open(faulty, kernel.hub_clock(), options()).unwrap();
    assert_eq!(report.unreadable.len(), 1, "{report:?}");
    assert!(store.sessions().is_empty());
}

#[test]
fn a_segment_that_is_long_enough_is_sealed_by_the_next_maintenance() {
    let disk = MemoryDisk::new();
    let many = Options {
        journal_blocks: 64,
        ..options()
    };
    let store = recording_on(&disk, many);
    let mut sender = sender(&store);
    let handle = sender.open();
    sender.declare(handle);
    let sealed = || {
        let logs = crate::log::LogReader::open(&disk, &session(), &device()).unwrap();
        logs.segments()
            .iter()
            .filter(|segment| segment.sealed_bytes.is_some())
            .count()
    };
    store.maintain().unwrap();
    assert_eq!(sealed(), 0);
    for _ in 0..12 {
        sender.samples(handle);
    }
    store.maintain().unwrap();
    assert_eq!(sealed(), 1);
}

#[test]
fn when_a_device_was_heard_last_is_known_after_a_restart() {
    let disk = MemoryDisk::new();
    let store = recording_on(&disk, options());
    let mut sender = sender(&store);
    let handle = sender.open();
    sender.declare(handle);
    sender.samples(handle);
    let heard = store.log_status().remove(0).last_arrival_ns;
    assert_eq!(heard, Some(store.clock().now().ns));
    store.close().unwrap();
    drop(store);
    // The same life of the machine, a minute later.
    let kernel = SimulatedKernel::new(1, 1_700_000_000_000_000_000);
    kernel.advance(60_000_000_000);
    let (store, _) = Store::open(Arc::new(disk), kernel.hub_clock(), options()).unwrap();
    assert_ne!(heard, Some(store.clock().now().ns));
    assert_eq!(store.log_status().remove(0).last_arrival_ns, heard);
}

#[test]
fn names_like_those_of_segments_and_blocks_are_none() {
    for name in ["12.mlog", "abcdef.mlog", "00001x.mlog", "000001.log", "000001"] {
        assert_eq!(crate::log::segment_number(name), None, "{name}");
    }
    assert_eq!(crate::log::segment_number("000012.mlog"), Some(12));
    assert_eq!(crate::log::segment_number("1234567.mlog"), Some(1_234_567));
    let disk = record(End::Killed, 4);
    let before = verified(&disk).faults;
    crate::disk::create_dirs(&disk, Path::new("journal/000009.mjb")).unwrap();
    assert_eq!(verified(&disk).faults, before);
    assert!(recovered(&disk).1.lost.is_nothing());
}
