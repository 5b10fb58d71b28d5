//! Each byte of a small log, one after the other.

use super::*;

#[test]
fn a_whole_hub_has_no_fault_and_loses_nothing() {
    for end in [End::Sealed, End::Closed, End::Killed] {
        let disk = record(end, 9);
        let report = verified(&disk);
        assert_eq!(report.faults, [], "{end:?}");
        assert_eq!(report.checked.logs, 1);
        assert!(report.checked.segments >= 2, "{report:?}");
        let truth = frames_of(&disk);
        assert_eq!(truth.len(), 2 * (9 + 2), "{end:?}");
        let (out, report) = recovered(&disk);
        assert!(report.lost.is_nothing(), "{end:?}: {:#?}", report.lost);
        assert_eq!(report.torn_tails, []);
        assert_eq!(report.logs[0].frames, truth.len() as u64);
        assert_eq!(report.logs[0].samples, 2 * 9 * SAMPLES);
        assert_eq!(judge(&disk, &truth, "whole"), 0);
        assert_eq!(verified(&out).faults, [], "{end:?}: the copy");
    }
}

#[test]
fn the_copy_is_a_hub_that_can_be_opened_and_sealed() {
    let (out, _) = recovered(&record(End::Sealed, 9));
    let kernel = SimulatedKernel::new(2, 1_800_000_000_000_000_000);
    let (store, report) = Store::open(Arc::new(out.clone()), kernel.hub_clock(), options()).unwrap();
    assert!(!report.found_damage(), "{report:?}");
    let sealed = store.seal_session(&session(), &|_| {}).unwrap();
    assert_eq!(
        sealed.compacted.generation, 2,
        "it goes on counting where the source was"
    );
    assert_eq!(sealed.compacted.rows(), 2 * 9 * SAMPLES);
    assert!(
        sealed.compacted.complete(),
        "{:?}",
        sealed.compacted.receipt.reasons
    );
    drop(store);
    assert_eq!(verified(&out).faults, []);
}

#[test]
fn every_flipped_bit_is_found_and_every_other_frame_comes_through() {
    let disk = record(End::Sealed, 2);
    let truth = frames_of(&disk);
    let (mut flips, mut losses) = (0, 0);
    for (path, bytes) in log_files(&disk) {
        for at in 0..bytes.len() {
            let damaged = disk.snapshot();
            damaged.damage(&path, |bytes| bytes[at] ^= 1 << (at % 8)).unwrap();
            let what = format!("{} byte {at}", path.display());
            let lost = judge_found(&disk, &damaged, &truth, &what);
            assert!(lost <= 1, "{what}: {lost} frames are lost by one bit");
            flips += 1;
            losses += lost;
        }
    }
    println!("{flips} flips, {losses} frames lost, all listed");
    assert!(losses > 0);
}

#[test]
fn every_length_of_every_published_segment() {
    let disk = record(End::Sealed, 2);
    let truth = frames_of(&disk);
    let mut losses = 0;
    for (path, bytes) in log_files(&disk) {
        for length in 0..bytes.len() {
            let damaged = disk.snapshot();
            damaged.damage(&path, |bytes| bytes.truncate(length)).unwrap();
            losses += judge_found(
                &disk,
                &damaged,
                &truth,
                &format!("{} cut to {length}", path.display()),
            );
        }
    }
    assert!(losses > 0);
}

#[test]
fn lengths_of_segments_that_another_one_follows() {
    let disk = record(End::Closed, 9);
    let truth = frames_of(&disk);
    let mut files = log_files(&disk);
    // Without a manifest nothing on the disk says how long the last one was.
    files.pop();
    for (path, bytes) in files {
        for length in (0..bytes.len()).step_by(13) {
            let damaged = disk.snapshot();
            damaged.damage(&path, |bytes| bytes.truncate(length)).unwrap();
            judge_found(
                &disk,
                &damaged,
                &truth,
                &format!("{} cut to {length}", path.display()),
            );
        }
    }
}
