//! A disk that fails to read a place of a log: the place is named, the rest is published, and once it can be read again
//! the next compaction is what it would have been.

use super::maker::{ANCHOR, LogMaker, SECOND_NS, session};
use super::whole::{PLAIN, compact, files, keys, options, quiet, read};
use crate::compact::{CompactError, Compacted, Generation, check_session, compact_session, roll};
use crate::disk::Disk;
use crate::disk::memory::MemoryDisk;
use crate::disk::troubled::{TroubledDisk, Troubles};
use crate::log::segment_name;
use crate::read::{Reader, streams};
use crate::salvage::{Source, contents};
use crate::session::{Session, SessionState};
use marey_format::DeviceId;
use marey_format::frame::Value;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// Seconds, and so frames of data, of a segment.
const SECONDS: i64 = 200;
/// Rows of a frame.
const ROWS: i64 = 50;

/// Two devices with three sealed segments each, of several blocks each.
fn record(disk: &dyn Disk) -> Session {
    let session = session(disk, "s");
    for device in ["a", "b"] {
        let mut log = LogMaker::new(&session, device);
        log.wall(&ANCHOR)
            .epoch(0, Some(1), false)
            .declare(1, PLAIN, 1)
            .probe(0, 0);
        for segment in 0..3 {
            if segment > 0 {
                // As the hub does, so that a segment can be read on its own.
                log.assign(1, PLAIN, 1);
            }
            fill(&mut log, segment);
            if segment == 2 {
                let all = (3 * SECONDS * ROWS) as u64;
                log.end(1, all, all);
            }
            log.seal(disk);
        }
    }
    session
}

fn fill(log: &mut LogMaker, segment: i64) {
    for second in segment * SECONDS..(segment + 1) * SECONDS {
        let rows: Vec<_> = (0..ROWS)
            .map(|row| {
                let at = second * SECOND_NS + row * SECOND_NS / ROWS;
                (at, vec![Value::I64(second * ROWS + row)])
            })
            .collect();
        log.data(1, (second * ROWS) as u64, &rows);
    }
}

fn scratched(device: &str, segment: u32, range: Range<u64>) -> Troubles {
    let path = format!("{device}/{}", segment_name(segment));
    Troubles {
        scratches: vec![(path, range)],
        ..Troubles::default()
    }
}

fn bytes_of(disk: &dyn Disk, session: &Session, device: &str, segment: u32) -> u64 {
    let device = DeviceId::new(device).unwrap();
    let path = Session::log_dir(&session.id, &device).join(segment_name(segment));
    disk.stat(&path).unwrap().unwrap().bytes
}

/// Rows of a device that the generation holds, by its parts and by reading them.
fn rows(disk: &dyn Disk, session: &Session, compacted: &Compacted, device: &str) -> Vec<i64> {
    let found: Vec<i64> = keys(&read(disk, session, "plain@1", device))
        .into_iter()
        .map(|(_, _, seq)| seq)
        .collect();
    let stream = compacted
        .manifest
        .streams
        .iter()
        .find(|stream| stream.device.as_str() == device);
    assert_eq!(stream.map_or(0, |stream| stream.rows), found.len() as u64);
    found
}

fn all_rows() -> Vec<i64> {
    (0..3 * SECONDS * ROWS).collect()
}

#[test]
fn a_place_that_cannot_be_read_is_named_and_the_rest_is_published() {
    let disk = TroubledDisk::new(MemoryDisk::new());
    let session = record(&disk);
    let length = bytes_of(&disk, &session, "a", 2);
    assert!(length > 40_000, "{length} bytes are too few for this test");
    disk.set(scratched("a", 2, 20_000..20_100));
    let compacted = compact(&disk, &session);
    assert!(disk.faults("reads") > 0);

    // The place, in the receipt and in the manifest, with what the disk said.
    let [place] = compacted.unreadable() else {
        panic!("{:?}", compacted.unreadable());
    };
    assert_eq!(place.file, "logs/a/000002.mlog");
    assert_eq!((place.offset, place.bytes), (16_384, 4_096));
    assert!(place.why.contains("os error 5"), "{place}");
    let log = &compacted.manifest.logs[0];
    assert_eq!(log.left_out[0].offset, 16_384);
    assert_eq!(
        (log.segments[0].blake3.is_some(), log.segments[1].blake3.is_some()),
        (true, false)
    );
    assert_eq!(compacted.receipt.damage, []);

    // What is missing is said frame by frame, and is exactly what is not there.
    let found = rows(&disk, &session, &compacted, "a");
    let missing: Vec<i64> = all_rows()
        .into_iter()
        .filter(|row| !found.contains(row))
        .collect();
    let (frames, samples) = (place.frames.unwrap(), place.samples.unwrap());
    assert_eq!((samples, frames * ROWS as u64), (missing.len() as u64, samples));
    assert!((5..30).contains(&frames), "{frames} frames in 4 KiB");
    assert_eq!(place.first_frames.len() as u64, frames);
    assert_eq!(
        place.first_frames[0].sequence as i64,
        missing[0] / ROWS,
        "{place:?}"
    );
    let stream = &compacted.receipt.streams[0];
    let gap = &stream.gaps[0];
    assert_eq!(
        (gap.first_seq as i64, gap.last_seq as i64, gap.cause.as_str()),
        (missing[0], missing[missing.len() - 1], "unreadable")
    );
    assert_eq!((stream.gap_count, stream.missing), (1, Some(samples)));
    assert!(!compacted.complete());
    assert!(
        compacted
            .receipt
            .reasons
            .contains(&"1 places in the logs can't be read".to_owned()),
        "{:?}",
        compacted.receipt.reasons
    );
    // The other device has lost nothing.
    assert_eq!(rows(&disk, &session, &compacted, "b"), all_rows());

    // While the disk stays as it is, nothing new is published.
    let again = compact(&disk, &session);
    assert_eq!((again.generation, again.new), (1, false));
}

/// Found under load, by a device whose frames end in zeros: where such an end alone lies in the block that can't be read,
/// the frame is whole with the zeros that stand for it, and was delivered and counted as missing.
#[test]
fn a_frame_that_is_whole_without_the_block_is_not_missing() {
    const FRAMES: i64 = 400;
    const ROWS: i64 = 3;
    let memory = MemoryDisk::new();
    let session = session(&memory, "s");
    let mut log = LogMaker::new(&session, "a");
    log.wall(&ANCHOR)
        .epoch(0, Some(1), false)
        .declare(1, PLAIN, 1)
        .probe(0, 0);
    for second in 0..FRAMES {
        let row = |row| (second * SECOND_NS + row, vec![Value::I64(0)]);
        log.data(1, (second * ROWS) as u64, &(0..ROWS).map(row).collect::<Vec<_>>());
    }
    let all = (FRAMES * ROWS) as u64;
    log.end(1, all, all);
    log.seal(&memory);
    for block in 1..8 {
        let disk = TroubledDisk::new(memory.snapshot());
        disk.set(scratched("a", 1, block * 4096 + 2000..block * 4096 + 2001));
        let compacted = compact(&disk, &session);
        let [place] = compacted.unreadable() else {
            panic!("{:?}", compacted.unreadable());
        };
        let missing = all - compacted.rows();
        assert_eq!(place.samples, Some(missing), "block {block}: {place}");
        assert_eq!(
            compacted.receipt.streams[0].missing,
            Some(missing),
            "block {block}"
        );
    }
}

#[test]
fn the_next_compaction_heals_it() {
    let undisturbed = MemoryDisk::new();
    let session = record(&undisturbed);
    compact(&undisturbed, &session);
    let wanted = |name: &str| name.ends_with(".parquet") && !name.contains("clock_map-");
    let expected: Vec<Vec<u8>> = files(&undisturbed, &session)
        .into_iter()
        .filter(|(name, _)| wanted(name))
        .map(|(_, bytes)| bytes)
        .collect();

    // In the header, among frames, across two blocks, in the footer, and all of it.
    let length = |segment| bytes_of(&undisturbed, &session, "a", segment);
    for (segment, range) in [
        (1, 0..1),
        (1, 5_000..5_001),
        (2, 12_000..13_000),
        (1, length(1) - 30..length(1) - 20),
        (3, length(3) - 30..length(3) - 20),
        (2, 0..length(2)),
        (1, 0..length(1)),
        (3, 0..length(3)),
    ] {
        let what = format!("segment {segment}, {range:?}");
        let disk = TroubledDisk::new(MemoryDisk::new());
        let mut session = record(&disk);
        disk.set(scratched("a", segment, range.clone()));
        let first = compact(&disk, &session);
        assert!(!first.unreadable().is_empty(), "{what}");
        assert!(
            first
                .unreadable()
                .iter()
                .all(|place| place.file.ends_with(&segment_name(segment))),
            "{what}: {:?}",
            first.unreadable()
        );
        let before = rows(&disk, &session, &first, "a");
        assert!(
            before.iter().all(|row| all_rows().contains(row)),
            "{what}: invented"
        );
        assert!(
            before.is_sorted_by(|a, b| a < b),
            "{what}: doubled, or out of order"
        );
        (session.generation, session.state) = (1, SessionState::Sealed);

        disk.heal();
        // What could not be read is later to a check, no fault, and the reader has it already where it can tell.
        let checked = check_session(&disk, &session.id, &options()).unwrap();
        assert_eq!(checked.faults, [], "{what}");
        let second = compact(&disk, &session);
        assert_eq!((second.generation, second.new), (2, true), "{what}");
        assert_eq!(second.unreadable(), [], "{what}");
        assert!(second.complete(), "{what}: {:?}", second.receipt.reasons);
        assert_eq!(rows(&disk, &session, &second, "a"), all_rows(), "{what}");
        let found: Vec<Vec<u8>> = files(&disk, &session)
            .into_iter()
            .filter(|(name, _)| wanted(name))
            .map(|(_, bytes)| bytes)
            .collect();
        assert_eq!(found.len(), expected.len(), "{what}");
        assert!(
            found == expected,
            "{what}: other bytes than on a disk that never failed"
        );
        assert_eq!(check_session(&disk, &session.id, &options()).unwrap().faults, []);
    }
}

#[test]
fn a_segment_that_cannot_be_read_at_all_takes_no_other_with_it() {
    let disk = TroubledDisk::new(MemoryDisk::new());
    let session = record(&disk);
    let length = bytes_of(&disk, &session, "a", 2);
    disk.set(scratched("a", 2, 0..length));
    let compacted = compact(&disk, &session);
    let found = rows(&disk, &session, &compacted, "a");
    let third = SECONDS * ROWS;
    let expected: Vec<i64> = (0..third).chain(2 * third..3 * third).collect();
    assert_eq!(found, expected);
    // Its list of frames is gone too: how many is unknown, and the gap says what.
    assert!(compacted.unreadable().iter().all(|place| place.frames.is_none()));
    let gap = &compacted.receipt.streams[0].gaps[0];
    assert_eq!(
        (gap.first_seq as i64, gap.last_seq as i64, gap.cause.as_str()),
        (third, 2 * third - 1, "unreadable")
    );
    // A dying disk is not asked for each of its blocks.
    assert!(disk.faults("reads") < 60, "{} reads failed", disk.faults("reads"));
}

#[test]
fn what_was_published_is_not_replaced_by_less() {
    let disk = TroubledDisk::new(MemoryDisk::new());
    let mut session = record(&disk);
    compact(&disk, &session);
    (session.generation, session.state) = (1, SessionState::Sealed);
    let before = files(&disk, &session);
    disk.set(scratched("a", 2, 20_000..20_100));
    // Late frames of another device want a generation.
    let mut late = LogMaker::new(&session, "late");
    late.wall(&ANCHOR)
        .epoch(0, Some(1), false)
        .declare(1, PLAIN, 1)
        .data(1, 0, &[(1, vec![Value::I64(1)])])
        .end(1, 1, 1)
        .seal(&disk);
    let error = compact_session(&disk, &session, &options(), Generation::IfNew, &quiet).unwrap_err();
    let CompactError::Unreadable {
        offset, generation, ..
    } = &error
    else {
        panic!("{error}");
    };
    assert_eq!((*offset, *generation), (16_384, 1));
    let said = error.to_string();
    assert!(
        said.contains("a/000002.mlog") && said.contains("compact again"),
        "{said}"
    );
    assert_eq!(files(&disk, &session), before);
    disk.heal();
    assert!(compact(&disk, &session).complete());
}

/// A read that fails once and then works is no hole: the same is read again in smaller pieces.
#[test]
fn a_read_that_fails_once_costs_nothing() {
    use crate::disk::faulty::{Duration, FaultyDisk, Plan, ReadFault};
    let undisturbed = MemoryDisk::new();
    let session = record(&undisturbed);
    let mut met = 0;
    for at in 0..200 {
        let disk = MemoryDisk::new();
        record(&disk);
        let plan = Plan {
            fail_reads: Some(ReadFault {
                path: ".mlog",
                at,
                duration: Duration::Once,
            }),
            ..Plan::default()
        };
        let faulty = FaultyDisk::new(disk, plan);
        let compacted = compact(&faulty, &session);
        if faulty.faults() == 0 {
            break;
        }
        met += 1;
        // A header or a trailer lies in one block, and one failure of a block is believed.
        let found = rows(&faulty, &session, &compacted, "a");
        match compacted.unreadable().is_empty() {
            true => assert_eq!(found, all_rows(), "read {at}"),
            false => assert!(!compacted.complete(), "read {at}"),
        }
        faulty.set_plan(Plan::default());
        let healed = compact(&faulty, &session);
        assert!(healed.complete(), "read {at}: {:?}", healed.receipt.reasons);
        assert_eq!(rows(&faulty, &session, &healed, "a"), all_rows(), "read {at}");
    }
    println!("{met} reads failed once each");
    assert!(met > 20, "only {met} reads failed");
}

/// A disk that fails more and more while it is read: from a read on, every one of a segment fails.
#[test]
fn a_disk_that_dies_while_it_is_read() {
    use crate::disk::faulty::{Duration, FaultyDisk, Plan, ReadFault};
    let mut met = 0;
    for at in 0..200 {
        let disk = MemoryDisk::new();
        let session = record(&disk);
        let plan = Plan {
            fail_reads: Some(ReadFault {
                path: "b/000002.mlog",
                at,
                duration: Duration::ForEver,
            }),
            ..Plan::default()
        };
        let faulty = FaultyDisk::new(disk, plan);
        let compacted = compact(&faulty, &session);
        if faulty.faults() == 0 {
            break;
        }
        met += 1;
        let third = SECONDS * ROWS;
        assert_eq!(compacted.manifest.streams[0].rows, 3 * third as u64, "read {at}");
        assert!(
            compacted.manifest.streams[1].rows >= 2 * third as u64,
            "read {at}: {} rows",
            compacted.manifest.streams[1].rows
        );
        assert!(!compacted.complete(), "read {at}");
        faulty.set_plan(Plan::default());
        let healed = compact(&faulty, &session);
        assert_eq!(rows(&faulty, &session, &healed, "b"), all_rows(), "read {at}");
    }
    println!("{met} places to die at");
    assert!(met >= 5, "only {met} reads");
}

#[test]
fn rolling_parts_and_info_name_it_too() {
    let disk = TroubledDisk::new(MemoryDisk::new());
    let session = record(&disk);
    disk.set(scratched("a", 2, 20_000..20_100));
    let live = roll(&disk, &session, &options(), &quiet).unwrap().unwrap();
    assert_eq!(live.left_out().next().unwrap().path, "logs/a/000002.mlog");
    compact(&disk, &session);
    let source = Source::on(Arc::new(disk.clone()), Path::new("sessions/session=s")).unwrap();
    let told = contents(&source, &session.id, Some(&session), &options()).unwrap();
    let [now] = &told.unreadable[..] else {
        panic!("{:?}", told.unreadable);
    };
    assert!(
        now.contains("000002.mlog: 4096 bytes at offset 16384 can't be read"),
        "{now}"
    );
    assert!(
        told.left_out[0].starts_with("logs/a/000002.mlog: 4")
            && told.left_out[0].contains("could not be read"),
        "{:?}",
        told.left_out
    );
    assert_eq!(told.complete, Some(false));
}

#[test]
fn readers_have_it_back_before_the_next_compaction() {
    let disk = TroubledDisk::new(MemoryDisk::new());
    let session = record(&disk);
    disk.set(scratched("a", 2, 20_000..20_100));
    let compacted = compact(&disk, &session);
    let missing = compacted.unreadable()[0].samples.unwrap();
    let all = all_rows().len() as u64;
    assert_eq!(
        read(&disk, &session, "plain@1", "a").num_rows() as u64,
        all - missing
    );
    // Another place that fails is in no manifest: the reader says so instead of leaving it out.
    disk.set(scratched("a", 2, 30_000..30_100));
    let key = "plain@1".parse().unwrap();
    let device = DeviceId::new("a").unwrap();
    let error = Reader::open(&disk, &session, &key, &device, &options())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("000002.mlog") && error.contains("offset 28672"),
        "{error}"
    );
    disk.heal();
    let batch = read(&disk, &session, "plain@1", "a");
    let found: Vec<i64> = keys(&batch).into_iter().map(|(_, _, seq)| seq).collect();
    assert_eq!(found, all_rows());
    assert_eq!(streams(&disk, &session, &options()).unwrap().len(), 2);
}
