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
