//! What becomes of frames at the edges: sent again, out of turn, behind a refused one; and of a journal whose sessions can't
//! be read, or are gone.

use super::*;
use marey_format::registry::RefusalCode;

fn opened(disk: &MemoryDisk) -> (Store, crate::RecoveryReport) {
    let kernel = SimulatedKernel::new(1, 1_700_000_100_000_000_000);
    Store::open(Arc::new(disk.clone()), kernel.hub_clock(), options()).unwrap()
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
