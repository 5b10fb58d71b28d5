//! Frames that are whole and are not what was written: what vouches for a place says so, index or checkpoint, and says it once.

use super::crowd::crowd;
use super::*;
use crate::salvage::{Fault, FaultKind, LostFrames};
use marey_format::frame::HEADER_BYTES;
use marey_format::log::{IndexEntry, SEGMENT_HEADER_BYTES, SegmentHeader};

/// Changes a sample of a frame, with a checksum that fits.
fn forge(disk: &MemoryDisk, known: &Known, epoch: u32) {
    let seed = Seed::new(&device(), &session(), &EpochId([epoch as u8 + 1; 16]));
    disk.damage(&segment(known.segment), |bytes| {
        let frame = &mut bytes[known.offset as usize..][..known.length as usize];
        frame[HEADER_BYTES + 16] ^= 1;
        let crc = seed.checksum(&frame[8..]);
        frame[4..8].copy_from_slice(&crc.to_le_bytes());
    })
    .unwrap();
}

/// The data frames that stand in segments.
fn data_frames(disk: &MemoryDisk) -> Vec<(u32, Known)> {
    let in_logs = frames_of(disk)
        .into_iter()
        .filter(|((_, lane, _), known)| *lane == Lane::Data as u8 && known.segment != u32::MAX);
    in_logs.map(|((epoch, ..), known)| (epoch, known)).collect()
}

fn of_logs(disk: &MemoryDisk) -> Vec<Fault> {
    let faults = verified(disk).faults.into_iter();
    faults
        .filter(|fault| [FaultKind::Damage, FaultKind::Index, FaultKind::TornTail].contains(&fault.kind))
        .collect()
}

#[test]
fn a_forged_frame_is_found_by_the_index_or_by_the_checkpoint_behind_it() {
    let disk = record(End::Sealed, 9);
    let frames = data_frames(&disk);
    for (epoch, known) in &frames {
        let forged = disk.snapshot();
        forge(&forged, known, *epoch);
        let faults = of_logs(&forged);
        let places: Vec<_> = faults.iter().map(|fault| (fault.kind, fault.offset)).collect();
        assert_eq!(places, [(FaultKind::Index, Some(known.offset))], "{faults:?}");
    }

    // Without any index the checkpoints vouch for what was written before them.
    let disk = record(End::Closed, 9);
    let last = log_files(&disk).len() as u32;
    let unsealed = disk.snapshot();
    for number in 1..=last {
        relist(&unsealed, number, |footer| footer.entries.clear());
        unsealed
            .damage(&segment(number), |bytes| {
                bytes.truncate(bytes.len() - TRAILER_BYTES - 8)
            })
            .unwrap();
    }
    let before: Vec<_> = of_logs(&unsealed)
        .iter()
        .map(|fault| (fault.kind, fault.cause.clone()))
        .collect();
    let footers = vec![(FaultKind::Damage, "the footer is gone".to_owned()); last as usize - 1];
    assert_eq!(before, footers);
    let vouched = |disk: &MemoryDisk| {
        let faults = of_logs(disk).into_iter();
        let of_checkpoints = faults.filter(|fault| fault.cause.contains("as the checkpoint behind it says"));
        let places = of_checkpoints.map(|fault| {
            let (offset, bytes) = (fault.offset.unwrap(), fault.bytes.unwrap());
            (fault.file.clone(), offset, offset + bytes)
        });
        places.collect::<Vec<_>>()
    };
    let mut writes = Vec::new();
    for (epoch, known) in &frames {
        let forged = unsealed.snapshot();
        forge(&forged, known, *epoch);
        let found = vouched(&forged);
        assert_eq!(found.len(), 1, "{known:?}: {found:?}");
        let (file, from, to) = found[0].clone();
        assert!(
            file.ends_with(crate::log::segment_name(known.segment)),
            "{file:?}"
        );
        assert!(
            (from..to).contains(&known.offset) && known.offset + u64::from(known.length) <= to,
            "{known:?}: {found:?}"
        );
        writes.push((known.segment, from, to));
    }
    // Beside another fault it is said where that fault is elsewhere, and not once more where it is the same place.
    let mut apart = 0;
    for ((epoch, known), write) in frames.iter().zip(&writes) {
        for ((_, flipped), other) in frames.iter().zip(&writes).filter(|((_, it), _)| it != known) {
            let forged = unsealed.snapshot();
            forge(&forged, known, *epoch);
            forged
                .damage(&segment(flipped.segment), |bytes| {
                    bytes[flipped.offset as usize + 60] ^= 4
                })
                .unwrap();
            let says = u32::from(write != other);
            assert_eq!(vouched(&forged).len() as u32, says, "{known:?} and {flipped:?}");
            apart += says;
        }
    }
    assert!(apart > 10, "{apart}");
}

#[test]
fn a_footer_that_is_gone_is_named_where_the_next_segment_says_that_there_was_one() {
    let disk = record(End::Closed, 9);
    let files = log_files(&disk);
    for (number, pair) in (1..).zip(files.windows(2)) {
        let end = SegmentHeader::parse(&pair[1].1).unwrap().predecessor_end;
        let cut = disk.snapshot();
        cut.damage(&segment(number), |bytes| bytes.truncate(end as usize))
            .unwrap();
        let faults = of_logs(&cut);
        let said: Vec<_> = faults
            .iter()
            .map(|it| (it.cause.as_str(), it.offset, it.bytes))
            .collect();
        assert_eq!(said, [("the footer is gone", Some(end), Some(0))], "{faults:?}");
        // Of one that is not there nothing is said of its footer.
        cut.remove_file(&segment(number)).unwrap();
        assert!(of_logs(&cut).iter().all(|it| it.cause != "the footer is gone"));
    }
}

#[test]
fn a_row_that_nothing_explains_is_named_whatever_else_is_wrong() {
    let disk = record(End::Sealed, 9);
    let frames: Vec<Known> = data_frames(&disk)
        .into_iter()
        .map(|(_, known)| known)
        .filter(|known| known.segment == 2)
        .collect();
    assert!(frames.len() >= 4, "{frames:?}");
    let flipped = frames[frames.len() / 2];
    let unread = |place: u64| {
        let damaged = disk.snapshot();
        relist(&damaged, 2, |footer| {
            let like: IndexEntry = *footer
                .entries
                .iter()
                .find(|row| u64::from(row.offset) == flipped.offset)
                .unwrap();
            footer.entries.push(IndexEntry {
                offset: u32::try_from(place).unwrap(),
                sequence: 1000,
                ..like
            });
        });
        damaged
            .damage(&segment(2), |bytes| bytes[flipped.offset as usize + 60] ^= 4)
            .unwrap();
        let faults = of_logs(&damaged);
        assert!(
            faults
                .iter()
                .any(|it| it.kind == FaultKind::Damage && it.offset == Some(flipped.offset))
        );
        let rows = faults
            .into_iter()
            .filter(|it| it.cause.contains("and none was read"));
        rows.map(|it| it.offset.unwrap()).collect::<Vec<_>>()
    };
    let (at, length) = (flipped.offset, u64::from(flipped.length));
    // Before it, up to where it begins; behind it.
    for place in [at - length - 8, at - length, at + length + 8, at + 2 * length + 8] {
        assert_eq!(unread(place), [place], "beside {at}, of {length} bytes");
    }
    // Within what is damaged anything may have stood.
    for place in [at - length + 8, at + 8, at + length - 8] {
        assert_eq!(unread(place), Vec::<u64>::new(), "beside {at}, of {length} bytes");
    }
}

#[test]
fn frames_that_nothing_can_be_made_of_are_told_by_segment_and_cause() {
    let disk = crowd(End::Closed);
    // What the phone declared first, and what the hub wrote down of it.
    let mut declared = Vec::new();
    let mut reader = crate::log::LogReader::open(&disk, &session(), &device()).unwrap();
    while let Some(found) = reader.next().unwrap() {
        if declared.len() < 4 && [Kind::DECLARE, Kind::ASSIGN].contains(&found.frame.header().kind) {
            declared.push((found.segment, found.offset as usize));
        }
    }
    for (number, offset) in declared {
        let harm = |bytes: &mut Vec<u8>| bytes[offset + HEADER_BYTES + 3] ^= 4;
        disk.damage(&segment(number), harm).unwrap();
    }
    let faults = verified(&disk).faults;
    let runs = faults.iter().filter(|fault| fault.kind == FaultKind::Meaning);
    let runs: Vec<_> = runs
        .map(|run| {
            (
                run.file.file_name().unwrap().to_owned(),
                run.offset.unwrap(),
                run.bytes.unwrap(),
                run.cause.clone(),
            )
        })
        .collect();
    assert!(runs.len() >= 3, "{runs:#?}");
    for (before, next) in runs.iter().zip(&runs[1..]) {
        // One run ends where another file or another cause begins.
        let same =
            before.0 == next.0 && before.3.split_once(": ").unwrap().1 == next.3.split_once(": ").unwrap().1;
        assert!(!same, "{before:?}, {next:?}");
    }
    let of_segment = |name: &str| runs.iter().filter(|run| run.0 == name).count();
    assert!(of_segment("000001.mlog") >= 2, "two streams: {runs:#?}");
}

#[test]
fn the_journal_of_a_copy_is_small() {
    let large = Options {
        journal_block_bytes: 1 << 20,
        journal_blocks: 4,
        ..options()
    };
    let out = MemoryDisk::new();
    let disk = record(End::Killed, 4);
    recover(&source(&disk), Arc::new(out.clone()), &large, &|_, _| {}).unwrap();
    let blocks = content(&out)
        .into_iter()
        .filter(|(path, _)| path.starts_with("journal"))
        .map(|(_, bytes)| bytes.len());
    assert_eq!(blocks.collect::<Vec<_>>(), [64 << 10; 2]);
}

/// The fuzzer found it: what follows the last of all sequences is no number.
#[test]
fn a_frame_with_the_last_of_all_sequences_is_named() {
    let disk = record(End::Closed, 3);
    for ((epoch, _, sequence), known) in frames_of(&disk) {
        if known.segment == u32::MAX {
            continue;
        }
        let forged = disk.snapshot();
        let seed = Seed::new(&device(), &session(), &EpochId([epoch as u8 + 1; 16]));
        forged
            .damage(&segment(known.segment), |bytes| {
                let frame = &mut bytes[known.offset as usize..][..known.length as usize];
                frame[16..32].fill(0xff);
                let crc = seed.checksum(&frame[8..]);
                frame[4..8].copy_from_slice(&crc.to_le_bytes());
            })
            .unwrap();
        let (_, report) = recovered(&forged);
        let lost = &report.lost.frames;
        let is_named = |wanted: u64| {
            lost.iter()
                .any(|lost| lost.first <= wanted && lost.last.is_none_or(|last| wanted <= last))
        };
        assert!(is_named(u64::MAX) && is_named(sequence), "{sequence}: {lost:?}");
    }
}

/// The fuzzer found it: two gigabytes were asked of the allocator for a file of three kilobytes.
#[test]
fn an_index_that_tells_of_a_frame_of_gigabytes_takes_no_memory() {
    let disk = record(End::Sealed, 9);
    relist(&disk, 1, |footer| {
        let mut data = footer.entries.iter_mut().filter(|row| row.kind == Kind::DATA);
        let row = data.next().expect("the segment has frames");
        (row.sequence, row.length) = (99_999, u32::MAX - 7);
    });
    // The disk in memory refuses a read of that size.
    let (_, report) = recovered(&disk);
    let is_named = |lost: &LostFrames| (lost.first, lost.last) == (99_999, Some(99_999));
    assert!(
        report.lost.frames.iter().any(is_named),
        "{:?}",
        report.lost.frames
    );
    assert!(!verified(&disk).faults.is_empty());
}

/// The fuzzer found it: what two lanes may have lost in one place is more than a number holds.
#[test]
fn two_lanes_that_jump_to_the_end_across_one_place_are_named() {
    let disk = record(End::Closed, 3);
    let frames = frames_of(&disk);
    for number in 1..=log_files(&disk).len() as u32 {
        let strip = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() - TRAILER_BYTES - 8);
        relist(&disk, number, |footer| footer.entries.clear());
        disk.damage(&segment(number), strip).unwrap();
    }
    let harm = |lane: Lane, sequence: u64, harm: &dyn Fn(&mut [u8])| {
        let known = &frames[&(0, lane as u8, sequence)];
        let place = known.offset as usize..(known.offset + u64::from(known.length)) as usize;
        disk.damage(&segment(known.segment), |bytes| harm(&mut bytes[place]))
            .unwrap();
    };
    let seed = Seed::new(&device(), &session(), &EpochId([1; 16]));
    let jump = |frame: &mut [u8]| {
        frame[24..32].copy_from_slice(&(u64::MAX - 1).to_le_bytes());
        let crc = seed.checksum(&frame[8..]);
        frame[4..8].copy_from_slice(&crc.to_le_bytes());
    };
    harm(Lane::Data, 1, &|frame| frame.fill(0));
    harm(Lane::Data, 2, &jump);
    harm(Lane::Live, 1, &jump);
    let (_, report) = recovered(&disk);
    for (lane, first) in [("data", 1), ("live", 1)] {
        let is_named =
            |lost: &LostFrames| (lost.lane, lost.first, lost.last) == (lane, first, Some(u64::MAX - 2));
        assert!(
            report.lost.frames.iter().any(is_named),
            "{:?}",
            report.lost.frames
        );
    }
}

/// The fuzzer found it: the number that stands for the journal where places are told apart was taken for a segment's.
#[test]
fn a_header_with_the_last_of_all_segment_numbers_is_refused() {
    let disk = record(End::Closed, 9);
    let truth = recovered(&disk).1.lost;
    assert!(truth.is_nothing(), "{truth:?}");
    for number in [u32::MAX, u32::MAX - 1] {
        let forged = disk.snapshot();
        forged
            .damage(&segment(1), |bytes| {
                let header = SegmentHeader::parse(bytes).unwrap();
                let to = SegmentHeader {
                    segment: number,
                    ..header
                };
                bytes[..SEGMENT_HEADER_BYTES].copy_from_slice(&to.to_bytes());
            })
            .unwrap();
        assert!(
            verified(&forged)
                .faults
                .iter()
                .any(|fault| fault.kind == FaultKind::Damage)
        );
        let (copy, report) = recovered(&forged);
        let of_headers = report.lost.bytes.iter().all(|lost| lost.offset == 0);
        assert!(report.lost.frames.is_empty() && of_headers, "{:?}", report.lost);
        assert_eq!(frames_of(&copy).len(), frames_of(&disk).len());
        // A file of that name is no segment.
        let (from, to) = (segment(1), segment(number));
        forged.rename(&from, &to).unwrap();
        recovered(&forged);
        verified(&forged);
    }
}

/// The fuzzer found it: of two whole frames of one name the first came through, and the other was not spoken of.
#[test]
fn a_second_frame_of_one_name_is_named() {
    let disk = record(End::Closed, 9);
    let seed = Seed::new(&device(), &session(), &EpochId([1; 16]));
    let frames = frames_of(&disk);
    for number in 1..=log_files(&disk).len() as u32 {
        let strip = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() - TRAILER_BYTES - 8);
        relist(&disk, number, |footer| footer.entries.clear());
        disk.damage(&segment(number), strip).unwrap();
    }
    let renamed = &frames[&(0, Lane::Data as u8, 2)];
    disk.damage(&segment(renamed.segment), |bytes| {
        let frame = &mut bytes[renamed.offset as usize..][..renamed.length as usize];
        frame[24..32].copy_from_slice(&1u64.to_le_bytes());
        let crc = seed.checksum(&frame[8..]);
        frame[4..8].copy_from_slice(&crc.to_le_bytes());
    })
    .unwrap();
    let (copy, report) = recovered(&disk);
    let lost = &report.lost.frames;
    let is_named = |lost: &&LostFrames| (lost.lane, lost.first, lost.last) == ("data", 1, Some(1));
    assert_eq!(lost.iter().filter(is_named).count(), 1, "{lost:?}");
    let mut whole = frames.clone();
    whole.remove(&(0, Lane::Data as u8, 2));
    assert_eq!(
        frames_of(&copy).keys().collect::<Vec<_>>(),
        whole.keys().collect::<Vec<_>>()
    );
}
