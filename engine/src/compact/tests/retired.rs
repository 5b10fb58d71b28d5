//! Logs that are retired: when they may go, what is left, and what a crash at any operation leaves.

use super::maker::ANCHOR;
use super::whole::{compact, files, keys, options, quiet, read, record};
use crate::compact::{
    CompactError, Generation, RetireError, Retired, check_session, compact_session, recover_retirement,
    retire,
};
use crate::disk::faulty::{Duration, FaultyDisk, Plan};
use crate::disk::memory::{Dice, MemoryDisk};
use crate::disk::{Disk, OpenMode};
use crate::session::{Session, SessionState};
use marey_format::frame::Kind;
use std::io;

const WHY: &str = "a test";

/// A session that was published and closed, and what was published.
fn closed(disk: &MemoryDisk) -> Session {
    let mut session = record(disk);
    compact(disk, &session);
    session.state = SessionState::Closed;
    session.generation = 1;
    session.write(disk).unwrap();
    session
}

fn samples_left(disk: &dyn Disk, session: &Session) -> (u64, u64) {
    let checked = check_session(disk, &session.id, &options()).unwrap();
    assert_eq!(checked.faults, []);
    (checked.samples_in_logs, checked.samples_in_parquet)
}

#[test]
fn what_is_left_is_whole_and_says_what_went() {
    let disk = MemoryDisk::new();
    let session = closed(&disk);
    let (logs, parquet) = samples_left(&disk, &session);
    let (before, rows) = (
        files(&disk, &session),
        keys(&read(&disk, &session, "mixed@1", "phone")),
    );
    let retired = retire(&disk, &session, &options(), (ANCHOR, WHY)).unwrap();
    assert_eq!(
        (retired.samples, retired.segments(), retired.logs.len()),
        (logs, 2, 2)
    );
    let dir = Session::dir(&session.id);
    for gone in ["logs", ".retired-logs"] {
        assert_eq!(disk.stat(&dir.join(gone)).unwrap(), None, "{gone}");
    }
    assert_eq!(samples_left(&disk, &session), (0, parquet));
    assert_eq!(
        check_session(&disk, &session.id, &options())
            .unwrap()
            .samples_retired,
        Some(logs)
    );
    let mut after = files(&disk, &session);
    assert!(after.remove("retired.json").is_some());
    assert_eq!(after, before, "nothing that was published is touched");
    assert_eq!(keys(&read(&disk, &session, "mixed@1", "phone")), rows);
    // Again is no error and no second retirement; nothing can be made of logs that are gone.
    assert_eq!(
        retire(&disk, &session, &options(), (ANCHOR, "another")).unwrap(),
        retired
    );
    let made = compact_session(&disk, &session, &options(), Generation::Always, &quiet);
    assert!(matches!(made, Err(CompactError::Retired(_))), "{made:?}");
}

#[test]
fn a_flipped_byte_of_what_is_published_keeps_the_logs_and_is_found_without_them() {
    let disk = MemoryDisk::new();
    let session = closed(&disk);
    let dir = Session::dir(&session.id);
    let part = dir.join("streams/stream=plain@1/device=watch/part-g0001-000000.parquet");
    let flip = |disk: &MemoryDisk| {
        let file = disk.open(&part, OpenMode::ReadWrite).unwrap();
        let mut byte = [0];
        file.read_at(100, &mut byte).unwrap();
        file.write_at(100, &[byte[0] ^ 4]).unwrap();
    };
    flip(&disk);
    let kept = retire(&disk, &session, &options(), (ANCHOR, WHY)).unwrap_err();
    assert!(
        matches!(&kept, RetireError::Kept { why, .. } if why.contains("part-g0001")),
        "{kept}"
    );
    assert!(disk.stat(&dir.join("logs")).unwrap().is_some());
    assert_eq!(Retired::read(&disk, &dir).unwrap(), None);
    flip(&disk);
    retire(&disk, &session, &options(), (ANCHOR, WHY)).unwrap();
    flip(&disk);
    let checked = check_session(&disk, &session.id, &options()).unwrap();
    assert!(
        checked
            .faults
            .iter()
            .any(|fault| fault.cause.contains("not those of the manifest")),
        "{checked:?}"
    );
}

#[test]
fn only_what_is_closed_and_all_published_goes() {
    let disk = MemoryDisk::new();
    let mut session = record(&disk);
    let why = (ANCHOR, WHY);
    for state in [
        SessionState::Recording,
        SessionState::Stopping,
        SessionState::Sealed,
    ] {
        session.state = state;
        let kept = retire(&disk, &session, &options(), why).unwrap_err();
        assert!(matches!(kept, RetireError::NotClosed { .. }), "{kept}");
    }
    session.state = SessionState::Closed;
    let kept = retire(&disk, &session, &options(), why).unwrap_err();
    assert!(matches!(kept, RetireError::Unpublished(_)), "{kept}");
    compact(&disk, &session);
    // A log that came since.
    let mut late = super::maker::LogMaker::new(&session, "late");
    let rows: Vec<_> = (0..5)
        .map(|i| (i, vec![marey_format::frame::Value::I64(i)]))
        .collect();
    late.wall(&ANCHOR)
        .epoch(0, Some(3), false)
        .declare(1, super::whole::PLAIN, 1);
    late.data(1, 0, &rows).end(1, 5, 5).seal(&disk);
    let kept = retire(&disk, &session, &options(), why).unwrap_err();
    assert!(
        matches!(&kept, RetireError::Kept { why, .. } if why.contains("came since")),
        "{kept}"
    );
    assert!(
        disk.stat(&Session::dir(&session.id).join("logs/late"))
            .unwrap()
            .is_some()
    );
}

#[test]
fn what_no_table_has_keeps_the_logs() {
    let cases: [(Kind, &[u8], &str); 4] = [
        (Kind(0x70), b"our own", "1 frames of the kind 0x70"),
        (Kind(0x07), b"of a later version", "1 frames of the kind 0x07"),
        (
            Kind::EVENT,
            br#"{"kind":"label","text":"walk","sure":0.9}"#,
            "1 events with keys",
        ),
        (
            Kind::EVENT,
            br#"{"kind":"label","command":"7"}"#,
            "1 events with keys",
        ),
    ];
    let told: [&[u8]; 3] = [
        br#"{"kind":"label"}"#,
        br#"{"kind":"label","text":"walk","duration_ns":null}"#,
        br#"{"kind":"mark_received","text":"stood up","command":"00112233445566778899aabbccddeeff"}"#,
    ];
    for (kind, payload, why) in cases {
        let disk = MemoryDisk::new();
        let mut session = record(&disk);
        let mut log = super::maker::LogMaker::new(&session, "app");
        log.wall(&ANCHOR).epoch(0, Some(3), false);
        for event in told {
            log.live(Kind::EVENT, 0, 0, 0, event);
        }
        log.live(kind, 0, 0, 0, payload).seal(&disk);
        compact(&disk, &session);
        session.state = SessionState::Closed;
        let kept = retire(&disk, &session, &options(), (ANCHOR, WHY)).unwrap_err();
        assert!(
            matches!(&kept, RetireError::Kept { why: found, .. } if found.contains(why) && found.ends_with("from app")),
            "{kept}"
        );
        assert!(
            disk.stat(&Session::dir(&session.id).join("logs/app"))
                .unwrap()
                .is_some()
        );
    }
}

/// After a fault at any operation the session has all its logs, or they are retired; and a second try retires them.
fn disturbed(fault: impl Fn(u64) -> Plan, then: impl Fn(&MemoryDisk, u64)) {
    let mut met = 0;
    for operation in 0.. {
        let disk = MemoryDisk::new();
        let session = closed(&disk);
        let (logs, parquet) = samples_left(&disk, &session);
        disk.power_cut(None);
        let faulty = FaultyDisk::new(disk.clone(), fault(operation));
        let result = retire(&faulty, &session, &options(), (ANCHOR, WHY));
        if faulty.faults() == 0 {
            result.unwrap();
            break;
        }
        met += 1;
        then(&disk, operation);
        recover_retirement(&disk, &session.id).unwrap();
        let dir = Session::dir(&session.id);
        assert_eq!(
            disk.stat(&dir.join(".retired-logs")).unwrap(),
            None,
            "operation {operation}"
        );
        match Retired::read(&disk, &dir).unwrap() {
            Some(retired) => {
                assert_eq!(retired.samples, logs);
                assert_eq!(
                    samples_left(&disk, &session),
                    (0, parquet),
                    "operation {operation}"
                );
            }
            None => assert_eq!(
                samples_left(&disk, &session),
                (logs, parquet),
                "operation {operation}"
            ),
        }
        retire(&disk, &session, &options(), (ANCHOR, WHY)).unwrap();
        assert_eq!(samples_left(&disk, &session), (0, parquet));
    }
    assert!(met > 5, "only {met} faults");
}

#[test]
fn killed_at_any_operation_it_can_be_done_again() {
    let cut = |at| Plan {
        cut_at: Some(at),
        ..Plan::default()
    };
    disturbed(cut, |_, _| {});
}

#[test]
fn a_power_cut_at_any_operation_leaves_all_logs_or_a_word_of_what_went() {
    let cut = |at| Plan {
        cut_at: Some(at),
        ..Plan::default()
    };
    disturbed(cut, |disk, _| _ = disk.power_cut(None));
    for seed in 0..3 {
        disturbed(cut, |disk, at| {
            _ = disk.power_cut(Some(&mut Dice(seed * 1000 + at)))
        });
    }
}

#[test]
fn an_error_at_any_operation_leaves_all_logs_or_a_word_of_what_went() {
    let fail = |at| Plan {
        fail_at: Some((at, io::ErrorKind::StorageFull, Duration::Once)),
        ..Plan::default()
    };
    disturbed(fail, |_, _| {});
}

/// The checker finds a fault that was planted: a folder whose sync does nothing can lose the word.
#[test]
fn syncs_that_do_nothing_are_noticed() {
    let mut lost = 0;
    for seed in 0..40 {
        let disk = MemoryDisk::new();
        let session = closed(&disk);
        disk.power_cut(None);
        let lying = Plan {
            skip_dir_syncs: true,
            skip_file_syncs: true,
            ..Plan::default()
        };
        retire(
            &FaultyDisk::new(disk.clone(), lying),
            &session,
            &options(),
            (ANCHOR, WHY),
        )
        .unwrap();
        disk.power_cut(Some(&mut Dice(seed)));
        let dir = Session::dir(&session.id);
        let logs = disk.stat(&dir.join("logs")).unwrap().is_some();
        lost += u32::from(!logs && !matches!(Retired::read(&disk, &dir), Ok(Some(_))));
    }
    assert!(
        lost > 0,
        "forty cuts, and not one lost the word: these tests can't fail"
    );
}
