//! Larger harm: blocks of zeros, blocks that changed places, segments that are gone, doubled or under other names.

use super::*;

#[test]
fn zeros_in_the_middle_are_stepped_over() {
    let disk = record(End::Sealed, 60);
    let truth = frames_of(&disk);
    let mut losses = 0;
    for (path, bytes) in log_files(&disk) {
        for from in (0..bytes.len()).step_by(512) {
            let damaged = disk.snapshot();
            damaged
                .damage(&path, |bytes| {
                    bytes[from..].iter_mut().take(4096).for_each(|byte| *byte = 0)
                })
                .unwrap();
            losses += judge_found(
                &disk,
                &damaged,
                &truth,
                &format!("{} zeros from {from}", path.display()),
            );
        }
    }
    assert!(losses > 0);
}

#[test]
fn blocks_that_changed_places_are_no_frames() {
    let disk = record(End::Sealed, 40);
    let truth = frames_of(&disk);
    for (path, bytes) in log_files(&disk) {
        for from in (0..bytes.len().saturating_sub(1024)).step_by(256) {
            let damaged = disk.snapshot();
            damaged
                .damage(&path, |bytes| {
                    let (before, after) = bytes[from..].split_at_mut(512);
                    before.swap_with_slice(&mut after[..512]);
                })
                .unwrap();
            judge_found(
                &disk,
                &damaged,
                &truth,
                &format!("{} blocks swapped at {from}", path.display()),
            );
        }
    }
}

#[test]
fn a_missing_segment_is_listed() {
    let disk = record(End::Sealed, 20);
    let truth = frames_of(&disk);
    for (path, _) in log_files(&disk) {
        let damaged = disk.snapshot();
        damaged.remove_file(&path).unwrap();
        let lost = judge_found(&disk, &damaged, &truth, &format!("{} removed", path.display()));
        assert!(lost > 0 || truth.values().all(|known| segment(known.segment) != path));
        let named = verified(&damaged).faults.iter().any(|fault| fault.file == path);
        assert!(named, "{}", path.display());
    }
    let damaged = disk.snapshot();
    damaged.remove_dir_all(&log_dir()).unwrap();
    assert_eq!(
        judge_found(&disk, &damaged, &truth, "the log removed"),
        truth.len()
    );
}

#[test]
fn a_doubled_segment_delivers_nothing_twice() {
    let disk = record(End::Sealed, 20);
    let truth = frames_of(&disk);
    let files = log_files(&disk);
    for (path, _) in &files {
        for (other, bytes) in &files {
            let damaged = disk.snapshot();
            damaged.damage(path, |content| content.clone_from(bytes)).unwrap();
            let lost = judge_found(
                &disk,
                &damaged,
                &truth,
                &format!("{} in place of {}", other.display(), path.display()),
            );
            assert_eq!(
                lost == 0,
                path == other || truth.values().all(|known| segment(known.segment) != *path)
            );
        }
    }
}

#[test]
fn segments_under_each_others_names_are_put_right() {
    let disk = record(End::Sealed, 20);
    let truth = frames_of(&disk);
    let damaged = disk.snapshot();
    damaged.exchange(&segment(1), &segment(3)).unwrap();
    assert!(!verified(&damaged).faults.is_empty());
    assert_eq!(judge_found(&disk, &damaged, &truth, "1 and 3 exchanged"), 0);
    let damaged = disk.snapshot();
    damaged.rename(&segment(2), &segment(77)).unwrap();
    assert_eq!(judge_found(&disk, &damaged, &truth, "2 renamed to 77"), 0);
}

#[test]
fn another_logs_segment_delivers_nothing() {
    let disk = record(End::Sealed, 20);
    let truth = frames_of(&disk);
    let other = SessionId::new("other").unwrap();
    let dir = Session::log_dir(&other, &device());
    let damaged = disk.snapshot();
    disk::create_dirs(&damaged, &dir).unwrap();
    damaged.rename(&segment(2), &dir.join("000002.mlog")).unwrap();
    let lost = judge_found(&disk, &damaged, &truth, "2 went to another session");
    assert!(lost > 0);
    let (out, _) = recovered(&damaged);
    let found = source(&out).sessions().unwrap().0;
    assert_eq!(
        found.iter().map(|found| found.id.as_str()).collect::<Vec<_>>(),
        ["other", "walk"]
    );
}

#[test]
fn samples_are_listed_under_the_name_that_only_their_declaration_has() {
    let disk = record(End::Closed, 9);
    let truth = frames_of(&disk);
    let declared = truth[&(0, 1, 0)];
    let damaged = disk.snapshot();
    let end = declared.offset as usize + declared.length as usize;
    damaged
        .damage(&segment(declared.segment), |bytes| bytes.truncate(end))
        .unwrap();
    for (path, _) in log_files(&disk) {
        // With the frames of the first epoch all that the hub said of its streams.
        let segments = truth
            .iter()
            .filter(|(key, _)| key.0 == 0)
            .map(|(_, known)| known.segment);
        let of_epoch: Vec<PathBuf> = segments
            .filter(|of| *of != declared.segment)
            .map(segment)
            .collect();
        if of_epoch.contains(&path) {
            damaged.remove_file(&path).unwrap();
        }
    }
    judge(&damaged, &truth, "cut behind the declaration");
    let (_, report) = recovered(&damaged);
    let lost = report.lost.samples.iter().find(|lost| lost.epoch == 0);
    let lost = lost.unwrap_or_else(|| panic!("{:#?}", report.lost));
    assert_eq!((lost.stream.as_str(), lost.first), ("imu@1", 0), "{lost:?}");
}

#[test]
fn a_frame_written_over_another_one_of_its_length_is_found_without_an_index() {
    let disk = record(End::Closed, 9);
    let truth = frames_of(&disk);
    let (path, bytes) = log_files(&disk).pop().unwrap();
    let footer = bytes.windows(8).rposition(|w| w == b"MAREYIDX").unwrap();
    let unsealed = disk.snapshot();
    unsealed.damage(&path, |bytes| bytes.truncate(footer)).unwrap();
    let here: Vec<&Known> = truth
        .values()
        .filter(|known| segment(known.segment) == path)
        .collect();
    let pairs = here
        .iter()
        .flat_map(|one| here.iter().map(move |other| (*one, *other)));
    let pairs: Vec<_> = pairs
        .filter(|(one, other)| one.offset < other.offset && one.length == other.length)
        .collect();
    assert!(!pairs.is_empty());
    for (one, other) in pairs {
        let length = one.length as usize;
        for (from, to) in [(one, other), (other, one)] {
            let damaged = unsealed.snapshot();
            let from_bytes = from.offset as usize..from.offset as usize + length;
            damaged
                .damage(&path, |bytes| bytes.copy_within(from_bytes, to.offset as usize))
                .unwrap();
            let lost = judge_found(&disk, &damaged, &truth, &format!("{from:?} over {to:?}"));
            assert_eq!(lost, 1, "{from:?} over {to:?}");
        }
        let swapped = unsealed.snapshot();
        swapped
            .damage(&path, |bytes| {
                let (before, after) = bytes.split_at_mut(other.offset as usize);
                before[one.offset as usize..][..length].swap_with_slice(&mut after[..length]);
            })
            .unwrap();
        let lost = judge_found(&disk, &swapped, &truth, &format!("{one:?} and {other:?} swapped"));
        assert_eq!(lost, 0, "{one:?} and {other:?} swapped");
    }
}
