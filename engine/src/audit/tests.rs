//! The audit log against changed bytes, cuts, power cuts and failing disks.

use super::*;
use crate::disk::faulty::{Duration, FaultyDisk, Plan, ReadFault};
use crate::disk::memory::{Dice, MemoryDisk};
use crate::disk::{self, Disk};
use crate::time::simulated::SimulatedKernel;
use std::io;
use std::sync::Arc;

const HUB: [u8; 16] = [7; 16];

fn log(disk: &Arc<dyn Disk>) -> Audit {
    let kernel = SimulatedKernel::new(1, 1_795_248_000_000_000_000);
    Audit::new(disk.clone(), kernel.hub_clock(), HUB)
}

fn event(n: usize) -> AuditEvent {
    let actor = Actor::Device {
        device: "phone".to_owned(),
        serial: Some("0a1b".to_owned()),
    };
    AuditEvent::new(actor, "device.refused")
        .on(format!("walk-{n:02}"))
        .outcome(Outcome::Denied)
        .with("why", "\u{1b}[31mred\n")
        .with("n", n)
}

fn checked(disk: &dyn Disk, named: &[Named]) -> AuditChecked {
    check(disk, Some(HUB), named, false).expect("the folder can be listed")
}

fn objects(disk: &dyn Disk) -> Vec<String> {
    let mut objects = Vec::new();
    read(disk, 0, &mut |record| {
        objects.extend(record.object);
        std::ops::ControlFlow::Continue(())
    })
    .expect("it can be read");
    objects
}

fn filled(events: usize) -> (MemoryDisk, AuditHead) {
    let memory = MemoryDisk::new();
    let disk: Arc<dyn Disk> = Arc::new(memory.clone());
    let log = log(&disk);
    let mut head = None;
    for n in 0..events {
        head = Some(log.append(&event(n)).expect("appended"));
    }
    (memory, head.expect("at least one"))
}

/// As a receipt would name it.
fn named(head: AuditHead) -> [Named; 1] {
    [Named {
        by: PathBuf::from("receipt-0001.json"),
        head,
    }]
}

#[test]
fn every_changed_byte_and_every_cut_is_found() {
    let (memory, head) = filled(5);
    let whole = checked(&memory, &named(head));
    assert!(whole.faults.is_empty() && whole.notes.is_empty(), "{whole:?}");
    assert_eq!((whole.records, whole.head, whole.heads_held), (5, Some(head), 1));

    let file = path(1);
    let bytes = disk::read_all(&memory, &file, 1 << 20).expect("it is there");
    let lines: Vec<usize> = (0..bytes.len())
        .filter(|&at| bytes[at] == b'\n')
        .map(|at| at + 1)
        .collect();
    for at in 0..bytes.len() {
        for flip in [1, 0x20, 0x80, 0xff] {
            let disk = memory.snapshot();
            disk.damage(&file, |bytes| bytes[at] ^= flip)
                .expect("it is there");
            // The newest record as well, without a receipt.
            let found = checked(&disk, &[]);
            assert_eq!(found.faults.len().min(1), 1, "byte {at} ^ {flip:#x}");
            let fault = &found.faults[0];
            let (offset, length) = (fault.offset.expect("where"), fault.bytes.expect("how long"));
            assert!(
                offset as usize <= at && at < (offset + length) as usize,
                "byte {at} ^ {flip:#x} is named: {fault:?}"
            );
            // As it is counted in the file as it is now: a newline that is gone is no end of a line.
            let found = disk::read_all(&disk, Path::new(&file), 1 << 20).expect("read");
            let before = found[..offset as usize].iter().filter(|&&b| b == b'\n');
            assert_eq!(fault.line, Some(before.count() as u64 + 1), "{fault:?}");
        }
    }
    for length in 0..bytes.len() {
        let disk = memory.snapshot();
        disk.damage(&file, |bytes| bytes.truncate(length))
            .expect("it is there");
        let bare = checked(&disk, &[]);
        let between = length == 0 || lines.contains(&length);
        assert_eq!(bare.faults.is_empty(), between, "cut at {length}: {bare:?}");
        // What a chain alone can't show, a receipt does.
        let held = checked(&disk, &named(head));
        assert!(
            held.faults.iter().any(|fault| fault.kind == AuditFaultKind::Head),
            "cut at {length}: {held:?}"
        );
    }
}

#[test]
fn records_taken_out_put_in_or_written_anew_are_found() {
    let (memory, head) = filled(5);
    let file = path(1);
    let bytes = disk::read_all(&memory, &file, 1 << 20).expect("it is there");
    let lines: Vec<Vec<u8>> = bytes
        .split_inclusive(|&b| b == b'\n')
        .map(<[u8]>::to_vec)
        .collect();
    let mut changes: Vec<Vec<Vec<u8>>> = Vec::new();
    for at in 0..lines.len() - 1 {
        let mut without = lines.clone();
        without.remove(at);
        let mut twice = lines.clone();
        twice.insert(at, lines[at].clone());
        let mut swapped = lines.clone();
        swapped.swap(at, at + 1);
        changes.extend([without, twice, swapped]);
    }
    for change in changes {
        let disk = memory.snapshot();
        disk.damage(&file, |bytes| *bytes = change.concat())
            .expect("it is there");
        assert!(!checked(&disk, &[]).faults.is_empty());
    }
    // A whole other log, of as many records: the receipt knows better.
    let other = MemoryDisk::new();
    let shared: Arc<dyn Disk> = Arc::new(other.clone());
    let log = log(&shared);
    for n in 10..15 {
        log.append(&event(n)).expect("appended");
    }
    assert!(checked(&other, &[]).faults.is_empty());
    assert_eq!(checked(&other, &named(head)).faults[0].kind, AuditFaultKind::Head);
    // One of another hub does not pass for this one's.
    let elsewhere = check(&other, Some([8; 16]), &[], false).expect("checked");
    assert_eq!(elsewhere.faults[0].kind, AuditFaultKind::Changed);
}

#[test]
fn files_are_rolled_and_a_missing_one_is_found() {
    let memory = MemoryDisk::new();
    let disk: Arc<dyn Disk> = Arc::new(memory.clone());
    let log = log(&disk);
    let long = "x".repeat(900);
    let mut n = 0;
    while memory.stat(&path(3)).expect("asked").is_none() {
        let event = (0..12).fold(event(n), |event, key| event.with(format!("{key}"), long.clone()));
        log.append(&event).expect("appended");
        n += 1;
        assert!(n < 1000, "it is rolled at some time");
    }
    let whole = checked(&memory, &[]);
    assert_eq!((whole.faults.len(), whole.files, whole.records), (0, 3, n as u64));
    let mut seen = Vec::new();
    read(&memory, n as u64 - 1, &mut |record| {
        seen.push(record.seq);
        std::ops::ControlFlow::Continue(())
    })
    .expect("read");
    assert_eq!(seen, [n as u64 - 1, n as u64]);
    for number in [1, 2] {
        let without = memory.snapshot();
        without.remove_file(&path(number)).expect("it was there");
        assert!(!checked(&without, &[]).faults.is_empty(), "file {number}");
    }
}

#[test]
fn what_was_told_survives_a_power_cut_at_every_operation() {
    let run = |disk: &Arc<dyn Disk>| {
        let log = log(disk);
        let mut told = 0;
        for n in 0..6 {
            match log.append(&event(n)) {
                Ok(head) => told = head.seq,
                Err(_) => return told,
            }
        }
        told
    };
    let counting = Arc::new(FaultyDisk::new(MemoryDisk::new(), Plan::default()));
    let shared: Arc<dyn Disk> = counting.clone();
    assert_eq!(run(&shared), 6);
    let (mut cuts, mut mended) = (0, 0);
    for cut in 0..counting.operations() {
        for seed in 0..40 {
            let memory = MemoryDisk::new();
            let plan = Plan {
                cut_at: Some(cut),
                ..Plan::default()
            };
            let faulty: Arc<dyn Disk> = Arc::new(FaultyDisk::new(memory.clone(), plan));
            let told = run(&faulty);
            memory.power_cut((seed > 0).then_some(&mut Dice(seed)));
            cuts += 1;
            // The next life of the hub: it goes on, and all that was told stands.
            let shared: Arc<dyn Disk> = Arc::new(memory.clone());
            let next = log(&shared);
            let head = next.append(&event(99)).expect("the disk works again");
            let after = checked(&memory, &named(head));
            assert!(after.faults.is_empty(), "cut {cut}, seed {seed}: {after:?}");
            mended += u64::from(!after.notes.is_empty());
            let objects = objects(&memory);
            for n in 0..told {
                assert!(
                    objects.contains(&format!("walk-{n:02}")),
                    "cut {cut}, seed {seed}: {n} of {told}"
                );
            }
            assert_eq!(objects.last().map(String::as_str), Some("walk-99"));
        }
    }
    assert!(cuts > 300 && mended > 10, "{cuts} cuts, {mended} torn tails");
}

#[test]
fn what_a_killed_process_left_is_durable_before_a_receipt_names_it() {
    let (memory, _) = filled(3);
    // Written, and never synced: the process died between the two.
    let file = memory
        .open(&path(1), disk::OpenMode::ReadWrite)
        .expect("it is there");
    let (memory_full, head) = filled(4);
    let bytes = disk::read_all(&memory_full, &path(1), 1 << 20).expect("it is there");
    let known = disk::read_all(&memory, &path(1), 1 << 20).expect("it is there");
    assert_eq!(bytes[..known.len()], known[..], "the same clock, the same log");
    file.write_at(known.len() as u64, &bytes[known.len()..])
        .expect("written");

    let next: Arc<dyn Disk> = Arc::new(memory.clone());
    let named_head = log(&next).head().expect("read").expect("there is one");
    assert_eq!(named_head, head);
    memory.power_cut(None);
    assert!(checked(&memory, &named(named_head)).faults.is_empty());
}

#[test]
fn every_failing_operation_is_an_error_and_the_log_goes_on() {
    let clean = Arc::new(FaultyDisk::new(MemoryDisk::new(), Plan::default()));
    let shared: Arc<dyn Disk> = clean.clone();
    let all = log(&shared);
    for n in 0..5 {
        all.append(&event(n)).expect("appended");
    }
    let mut failures = 0;
    for short_writes in [false, true] {
        for at in 0..clean.operations() {
            for kind in [io::ErrorKind::StorageFull, io::ErrorKind::Other] {
                let memory = MemoryDisk::new();
                let plan = Plan {
                    fail_at: Some((at, kind, Duration::Once)),
                    short_writes,
                    ..Plan::default()
                };
                let faulty: Arc<dyn Disk> = Arc::new(FaultyDisk::new(memory.clone(), plan));
                let log = log(&faulty);
                let mut told = Vec::new();
                for n in 0..5 {
                    match log.append(&event(n)) {
                        Ok(_) => {
                            assert_eq!(log.failed(), None);
                            told.push(format!("walk-{n:02}"));
                        }
                        Err(error) => {
                            failures += 1;
                            assert_eq!(log.failed(), Some(error.to_string()));
                        }
                    }
                }
                assert!(
                    told.len() >= 4,
                    "one operation failed, {} events did not",
                    5 - told.len()
                );
                // Durable, not only readable.
                memory.power_cut(None);
                let after = checked(&memory, &[]);
                assert!(after.faults.is_empty(), "operation {at}, {kind:?}: {after:?}");
                let objects = objects(&memory);
                assert!(
                    told.iter().all(|told| objects.contains(told)),
                    "{told:?} in {objects:?}"
                );
            }
        }
    }
    assert!(failures > 20, "{failures} failures");
}

#[test]
fn a_full_disk_makes_no_heap_of_files() {
    let memory = MemoryDisk::new();
    let faulty = Arc::new(FaultyDisk::new(memory.clone(), Plan::default()));
    let shared: Arc<dyn Disk> = faulty.clone();
    let log = log(&shared);
    log.append(&event(0)).expect("appended");
    faulty.set_plan(Plan {
        fail_at: Some((faulty.operations(), io::ErrorKind::StorageFull, Duration::ForEver)),
        ..Plan::default()
    });
    for n in 1..50 {
        assert!(log.append(&event(n)).expect_err("it is full").is_full());
    }
    faulty.set_plan(Plan::default());
    log.append(&event(50)).expect("there is room again");
    assert_eq!(checked(&memory, &[]).faults, []);
    assert_eq!(objects(&memory), ["walk-00", "walk-50"]);
    assert!(memory.list(Path::new(DIR)).expect("listed").len() <= 2);
}

#[test]
fn damage_is_told_by_every_check_and_stops_nothing() {
    let (memory, _) = filled(5);
    memory
        .damage(&path(1), |bytes| bytes[20] ^= 1)
        .expect("it is there");
    let shared: Arc<dyn Disk> = Arc::new(memory.clone());
    let next = log(&shared);
    next.append(&event(50)).expect("it goes on");
    next.append(&event(51)).expect("it goes on");
    let found = checked(&memory, &[]);
    assert_eq!(found.faults.len(), 1, "{found:?}");
    assert_eq!(
        (found.faults[0].kind, found.faults[0].offset),
        (AuditFaultKind::Changed, Some(0))
    );
    let mut actions = Vec::new();
    read(&memory, 6, &mut |record| {
        actions.push(record.action);
        std::ops::ControlFlow::Continue(())
    })
    .expect("read");
    assert_eq!(actions, ["audit.damaged", "device.refused", "device.refused"]);

    // Bytes of a torn tail that was told of are held as well.
    let (torn, _) = filled(2);
    torn.damage(&path(1), |bytes| bytes.truncate(bytes.len() - 10))
        .expect("it is there");
    let shared: Arc<dyn Disk> = Arc::new(torn.clone());
    log(&shared).append(&event(3)).expect("it goes on");
    let mended = checked(&torn, &[]);
    assert_eq!((mended.faults.len(), mended.notes.len()), (0, 1), "{mended:?}");
    let bytes = torn.stat(&path(1)).expect("asked").expect("there").bytes as usize;
    for at in 0..bytes {
        let again = torn.snapshot();
        again
            .damage(&path(1), |bytes| bytes[at] ^= 4)
            .expect("it is there");
        assert!(!checked(&again, &[]).faults.is_empty(), "byte {at}");
        let again = torn.snapshot();
        again
            .damage(&path(1), |bytes| bytes.truncate(at))
            .expect("it is there");
        assert!(!checked(&again, &[]).faults.is_empty(), "cut at {at}");
    }
}

#[test]
fn a_read_that_fails_is_an_error_and_loses_nothing() {
    let (memory, head) = filled(3);
    let faulty = Arc::new(FaultyDisk::new(memory.clone(), Plan::default()));
    faulty.set_plan(Plan {
        fail_reads: Some(ReadFault {
            path: ".jsonl",
            at: 0,
            duration: Duration::Once,
        }),
        ..Plan::default()
    });
    let shared: Arc<dyn Disk> = faulty.clone();
    let next = log(&shared);
    next.append(&event(9)).expect_err("the disk can't read");
    assert_eq!(faulty.faults(), 1);
    assert_eq!(
        next.append(&event(10)).expect("the second time").seq,
        head.seq + 1
    );
    assert_eq!(checked(&memory, &[]).faults, []);
}

#[test]
fn many_that_wait_share_a_sync_and_each_has_its_own_record() {
    let faulty = Arc::new(FaultyDisk::new(MemoryDisk::new(), Plan::default()));
    let shared: Arc<dyn Disk> = faulty.clone();
    let log = Arc::new(log(&shared));
    let threads: Vec<_> = (0..16)
        .map(|thread| {
            let log = log.clone();
            std::thread::spawn(move || {
                let heads = (0..20).map(|n| log.append(&event(thread * 20 + n)).expect("appended").seq);
                heads.collect::<Vec<_>>()
            })
        })
        .collect();
    let mut seqs = Vec::new();
    for thread in threads {
        let own = thread.join().expect("no panic");
        assert!(own.is_sorted(), "what one thread says stands in its order");
        seqs.extend(own);
    }
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=320).collect::<Vec<_>>());
    let found = checked(&*faulty, &[]);
    assert_eq!((found.faults.len(), found.records), (0, 320));
}

#[test]
fn a_page_is_found_without_reading_all_before_it() {
    let (memory, _) = filled(128);
    let whole = disk::read_all(&memory, &path(1), 1 << 20).expect("it is there");
    let lines: Vec<&[u8]> = whole.split_inclusive(|&b| b == b'\n').collect();
    for (number, pair) in (1..).zip(lines.chunks(2)) {
        disk::replace(&memory, &path(number), &pair.concat()).expect("written");
    }
    assert!(memory.stat(&path(64)).expect("asked").is_some());
    let faulty = FaultyDisk::new(memory.clone(), Plan::default());
    let from = |seq, most| {
        let mut found = Vec::new();
        read(&faulty, seq, &mut |record| {
            found.push(record.seq);
            match found.len() == most {
                true => std::ops::ControlFlow::Break(()),
                false => std::ops::ControlFlow::Continue(()),
            }
        })
        .expect("it can be read");
        found
    };
    for seq in 0..=130 {
        assert_eq!(
            from(seq, usize::MAX),
            (seq.max(1)..=128).collect::<Vec<_>>(),
            "from {seq}"
        );
    }
    faulty.set_plan(Plan::default());
    assert_eq!(from(65, 1), [65]);
    assert!(faulty.reads() < 32, "{} reads for one record", faulty.reads());
    // Files that have no record any more, where the search looks first.
    for number in [32, 33, 64] {
        memory.damage(&path(number), Vec::clear).expect("it is there");
    }
    let left = |seq| (1..=126).filter(move |n| *n >= seq && !(63..=66).contains(n));
    for seq in 1..=130 {
        assert_eq!(
            from(seq, usize::MAX),
            left(seq).collect::<Vec<u64>>(),
            "from {seq}"
        );
    }
}

#[test]
fn filters_take_whole_words() {
    let record = |actor: &str, action: &str| AuditRecord {
        v: 1,
        seq: 1,
        synced: 0,
        utc: "2026-11-21T08:00:00.000000Z".to_owned(),
        hub_epoch: marey_format::HubEpoch(1),
        hub_ns: 0,
        actor: actor.to_owned(),
        action: action.to_owned(),
        object: None,
        outcome: Outcome::Allowed,
        details: BTreeMap::new(),
        prev: String::new(),
    };
    let filter = AuditFilter {
        from: Some("2026-11-21".to_owned()),
        actor: Some("device:phone".to_owned()),
        action: Some("device".to_owned()),
    };
    assert!(filter.takes(&record("device:phone/0a1b", "device.refused")));
    assert!(filter.takes(&record("device:phone", "device")));
    assert!(!filter.takes(&record("device:phone2", "device.refused")));
    assert!(!filter.takes(&record("device:phone", "devices.refused")));
    let later = AuditFilter {
        from: Some("2026-11-22".to_owned()),
        ..AuditFilter::default()
    };
    assert!(!later.takes(&record("hub", "hub.start")));
    for (from, taken) in [
        ("2026-11-21T08:00:00Z", true),
        ("2026-11-21T08:00:00.000000Z", true),
        ("2026-11-21T08:00:00.000001Z", false),
        ("2026-11-21T08:00:01Z", false),
    ] {
        let filter = AuditFilter {
            from: Some(from.to_owned()),
            ..AuditFilter::default()
        };
        assert_eq!(filter.takes(&record("hub", "hub.start")), taken, "{from}");
    }
}
