//! Compaction that is killed, or whose power is cut, at every operation.

use super::maker::{ANCHOR, LogMaker, SECOND_NS, session};
use super::whole::{PLAIN, files, options, quiet};
use crate::compact::{
    CompactError, Compacted, Generation, ReceiptSigner, SigningKey, Witness, check_session,
    compact_witnessed, recover_publish,
};
use crate::disk::Disk;
use crate::disk::faulty::{Duration, FaultyDisk, Plan};
use crate::disk::memory::{Dice, MemoryDisk};
use crate::session::Session;
use marey_format::frame::Value;
use std::collections::BTreeMap;
use std::io;

/// Signs the same bytes in the same way each time, which is all that these tests need of a key.
#[derive(Debug)]
struct Stamper;

impl ReceiptSigner for Stamper {
    fn open(&self) -> Result<SigningKey, String> {
        Ok(SigningKey {
            key_sha256: "00".repeat(32),
            certificates_pem: "none".to_owned(),
            sign: Box::new(|bytes| Ok(blake3::hash(bytes).as_bytes().to_vec())),
        })
    }
}

fn compact_on(disk: &dyn Disk, session: &Session) -> Result<Compacted, CompactError> {
    let witness = Witness {
        audited: None,
        signer: Some(&Stamper),
    };
    compact_witnessed(disk, session, &witness, &options(), Generation::IfNew, &quiet)
}

fn compact(disk: &dyn Disk, session: &Session) -> Compacted {
    compact_on(disk, session).unwrap()
}

/// Two generations' worth of logs; the second device comes late.
fn record(disk: &MemoryDisk, devices: &[&str], session: &Session) {
    for device in devices {
        let mut log = LogMaker::new(session, device);
        log.wall(&ANCHOR)
            .epoch(0, Some(1), false)
            .declare(1, PLAIN, 1)
            .probe(0, 0)
            .probe(SECOND_NS, 0);
        let rows: Vec<_> = (0..50)
            .map(|i| (i * SECOND_NS / 50, vec![Value::I64(i)]))
            .collect();
        log.data(1, 0, &rows).end(1, 50, 50).seal(disk);
    }
}

/// What a run that nothing disturbs leaves after each generation.
fn undisturbed() -> [BTreeMap<String, Vec<u8>>; 2] {
    let disk = MemoryDisk::new();
    let session = session(&disk, "s");
    record(&disk, &["a"], &session);
    compact(&disk, &session);
    let first = files(&disk, &session);
    record(&disk, &["b"], &session);
    compact(&disk, &session);
    [first, files(&disk, &session)]
}

/// What the second generation is where the map of the first could not be kept.
fn without_map() -> BTreeMap<String, Vec<u8>> {
    let disk = MemoryDisk::new();
    let session = session(&disk, "s");
    record(&disk, &["a"], &session);
    compact(&disk, &session);
    record(&disk, &["b"], &session);
    disk.remove_file(&Session::dir(&session.id).join("clock_map.parquet"))
        .unwrap();
    compact(&disk, &session);
    files(&disk, &session)
}

/// Runs both generations with a fault at each operation of the second, and looks at what a restart makes of it. Where the disk
/// lives on, it may have failed to link the map of the first.
fn disturbed(lives_on: bool, fault: impl Fn(u64) -> Plan, then: impl Fn(&MemoryDisk, u64)) {
    let [first, second] = undisturbed();
    for name in [
        "receipt-0002.json",
        "receipt-0002.json.sig",
        "receipt-0002.json.crt",
    ] {
        assert!(second.contains_key(name) && !first.contains_key(name), "{name}");
    }
    let without_map = without_map();
    let is_second = |found: &BTreeMap<String, Vec<u8>>| *found == second || lives_on && *found == without_map;
    let mut met = 0;
    for operation in 0.. {
        let disk = MemoryDisk::new();
        let session = session(&disk, "s");
        record(&disk, &["a"], &session);
        compact(&disk, &session);
        record(&disk, &["b"], &session);
        let faulty = FaultyDisk::new(disk.clone(), fault(operation));
        let result = compact_on(&faulty, &session);
        if faulty.faults() == 0 {
            assert!(result.is_ok());
            break;
        }
        met += 1;
        then(&disk, operation);
        recover_publish(&disk, &session).unwrap();
        let found = files(&disk, &session);
        assert!(
            found == first || is_second(&found),
            "operation {operation}: neither the old generation nor the new: {:?}",
            found.keys().collect::<Vec<_>>()
        );
        assert_eq!(
            check_session(&disk, &session.id, &options()).unwrap().faults,
            [],
            "operation {operation}"
        );
        let compacted = compact(&disk, &session);
        assert_eq!(compacted.generation, 2);
        assert!(is_second(&files(&disk, &session)), "operation {operation}");
        assert_eq!(check_session(&disk, &session.id, &options()).unwrap().faults, []);
    }
    assert!(met > 20, "only {met} faults");
}

#[test]
fn killed_at_any_operation_it_starts_over_to_the_same_bytes() {
    disturbed(
        false,
        |at| Plan {
            cut_at: Some(at),
            ..Plan::default()
        },
        |_, _| {},
    );
}

#[test]
fn a_power_cut_at_any_operation_leaves_one_generation_or_the_other() {
    disturbed(
        false,
        |at| Plan {
            cut_at: Some(at),
            ..Plan::default()
        },
        |disk, _| _ = disk.power_cut(None),
    );
    for seed in 0..3 {
        disturbed(
            false,
            |at| Plan {
                cut_at: Some(at),
                ..Plan::default()
            },
            |disk, at| _ = disk.power_cut(Some(&mut Dice(1000 * seed + at))),
        );
    }
}

#[test]
fn an_error_at_any_operation_harms_nothing() {
    disturbed(
        true,
        |at| Plan {
            fail_at: Some((at, io::ErrorKind::StorageFull, Duration::Once)),
            ..Plan::default()
        },
        |_, _| {},
    );
}

#[test]
fn without_room_nothing_is_begun() {
    let disk = MemoryDisk::new();
    let session = session(&disk, "s");
    record(&disk, &["a"], &session);
    disk.set_free_bytes(1 << 20);
    let error = compact_on(&disk, &session).unwrap_err();
    assert!(matches!(error, CompactError::NoRoom { .. }), "{error}");
    assert!(
        disk.stat(&Session::dir(&session.id).join("streams"))
            .unwrap()
            .is_none()
    );
}

/// If this passed with a disk that does not make names durable, the tests above would prove nothing.
#[test]
fn a_disk_that_lies_about_names_is_seen_through() {
    let [_, second] = undisturbed();
    let disk = MemoryDisk::new();
    let session = session(&disk, "s");
    record(&disk, &["a"], &session);
    compact(&disk, &session);
    record(&disk, &["b"], &session);
    let lying = FaultyDisk::new(
        disk.clone(),
        Plan {
            skip_dir_syncs: true,
            ..Plan::default()
        },
    );
    compact_on(&lying, &session).unwrap();
    disk.power_cut(None);
    assert_ne!(files(&disk, &session), second);
}
