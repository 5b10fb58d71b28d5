//! Logs opened from a landmark on: the same as from all indices, and the same without a landmark or with a broken one.

use super::*;
use crate::log::{JournalFound, Replay, segments};
use crate::state::KeptState;
use crate::time::HubInstant;

/// What a hub that is opened takes the log to add up to.
fn opened(disk: &MemoryDisk) -> (KeptState, usize) {
    let ids = (&device(), &session(), [7; 16]);
    let found = JournalFound {
        whole: true,
        crashed: false,
    };
    let now = HubInstant {
        epoch: marey_format::HubEpoch(1),
        ns: 0,
    };
    let recovered = crate::log::recover(disk, ids, &[], found, &options(), now).unwrap();
    (recovered.log.state.keep(), recovered.faults.len())
}

/// The same of every frame that is there.
fn read_through(disk: &MemoryDisk) -> KeptState {
    let mut replay = Replay::open(disk, &session(), &device()).unwrap();
    while let Some(replayed) = replay.next().unwrap() {
        replayed.judged.unwrap();
    }
    replay.state().keep()
}

fn landmarks(disk: &MemoryDisk) -> Vec<PathBuf> {
    let all = content(disk).into_keys();
    all.filter(|path| path.starts_with(log_dir()) && path.extension().is_some_and(|it| it != "mlog"))
        .collect()
}

#[test]
fn opening_reads_nothing_before_the_landmark_and_knows_as_much() {
    let disk = record(End::Closed, 40);
    let truth = read_through(&disk);
    assert_eq!(opened(&disk), (truth.clone(), 0));
    assert_eq!(landmarks(&disk).len(), 2);
    let highest = segments(&disk, &log_dir()).unwrap().last().unwrap().0;
    assert!(highest >= 6, "{highest} segments");
    // The last segment is read, and the one before it has the landmark.
    for number in 1..highest - 1 {
        disk.damage(&segment(number), |bytes| bytes.fill(0)).unwrap();
    }
    assert_eq!(opened(&disk), (truth, 0));
    // What opening does not look at is still found by who looks for it.
    assert!(verified(&disk).faults.len() as u32 >= highest - 2);
}

#[test]
fn a_segment_that_is_cut_or_gone_is_seen_at_opening_though_a_landmark_follows() {
    let disk = record(End::Closed, 40);
    for number in 1..=3 {
        let cut = disk.snapshot();
        cut.damage(&segment(number), |bytes| bytes.truncate(bytes.len() - 8))
            .unwrap();
        assert!(opened(&cut).1 > 0, "segment {number} cut");
        let without = disk.snapshot();
        without.remove_file(&segment(number)).unwrap();
        assert!(opened(&without).1 > 0, "segment {number} gone");
        // And again, however much is recorded on top of it.
        for epoch in [77, 78] {
            let (store, report) = reopened(Arc::new(without.clone())).unwrap();
            assert!(report.found_damage(), "segment {number} gone");
            let mut sender = sender(&store);
            sender.epoch = EpochId([epoch; 16]);
            let handle = sender.open();
            sender.declare(handle);
            (0..40).for_each(|_| sender.samples(handle));
            store.close().unwrap();
        }
        assert!(opened(&without).1 > 0, "segment {number} gone");
    }
}

#[test]
fn a_landmark_that_is_broken_or_gone_changes_nothing() {
    let disk = record(End::Closed, 40);
    let truth = (read_through(&disk), 0);
    let paths = landmarks(&disk);
    let length = content(&disk)[&paths[0]].len();
    for at in (0..length).step_by(7) {
        let harmed = disk.snapshot();
        harmed.damage(&paths[0], |bytes| bytes[at] ^= 4).unwrap();
        harmed.damage(&paths[1], |bytes| bytes.truncate(at)).unwrap();
        assert_eq!(opened(&harmed), truth, "byte {at}");
    }
    for path in &paths {
        disk.remove_file(path).unwrap();
    }
    assert_eq!(opened(&disk), truth);
}

#[test]
fn a_landmark_of_another_time_or_log_is_not_believed() {
    let (disk, other) = (record(End::Closed, 40), record(End::Closed, 39));
    let truth = (read_through(&disk), 0);
    for path in landmarks(&disk) {
        let bytes = content(&other)[&path].clone();
        disk.damage(&path, |it| *it = bytes).unwrap();
    }
    assert_eq!(opened(&disk), truth);
    // What another log has under the same number, with files of the same lengths: its index is another.
    let forged = record(End::Closed, 40);
    rewrite(&forged, |json| {
        let at = json.find("\"index_crc\":").unwrap() + 12;
        json.replace_range(at..at + 1, if &json[at..at + 1] == "1" { "2" } else { "1" });
        *json = json.replace("\"samples\":", "\"samples\":1");
    });
    assert_eq!(opened(&forged), truth);
    // One that names an epoch that it does not have.
    let forged = record(End::Closed, 40);
    rewrite(&forged, |json| {
        *json = json.replace("\"current\":1", "\"current\":7")
    });
    assert_eq!(opened(&forged), truth);
    // Of a form that came later.
    let forged = record(End::Closed, 40);
    rewrite(&forged, |json| {
        *json = json.replace("\"current\":1", "\"current\":1,\"later\":1")
    });
    assert_eq!(opened(&forged), truth);
}

/// Other landmarks, whose checksums hold.
fn rewrite(disk: &MemoryDisk, change: impl Fn(&mut String)) {
    for path in landmarks(disk) {
        let forge = |bytes: &mut Vec<u8>| {
            let mut json = String::from_utf8(bytes[12..].to_vec()).unwrap();
            let before = json.clone();
            change(&mut json);
            assert_ne!(json, before);
            bytes.truncate(8);
            bytes.extend(marey_format::checksum::crc32(json.as_bytes()).to_le_bytes());
            bytes.extend(json.as_bytes());
        };
        disk.damage(&path, forge).unwrap();
    }
}

#[test]
fn after_a_kill_the_tail_is_taken_behind_the_landmark() {
    let disk = record(End::Killed, 40);
    let bare = disk.snapshot();
    for path in landmarks(&bare) {
        bare.remove_file(&path).unwrap();
    }
    let after = |disk: &MemoryDisk| {
        let (store, report) = reopened(Arc::new(disk.clone())).unwrap();
        assert!(!report.found_damage(), "{report:?}");
        store.close().unwrap();
        (report.frames_carried, read_through(disk), frames_of(disk).len())
    };
    let truth = after(&bare);
    assert_eq!(after(&disk.snapshot()), truth);
    // Nor is anything before it read: what it adds up to is known, though nobody could read it any more.
    let rotten = disk.snapshot();
    for number in 1..=3 {
        rotten.damage(&segment(number), |bytes| bytes.fill(0)).unwrap();
    }
    let (store, report) = reopened(Arc::new(rotten)).unwrap();
    assert!(!report.found_damage(), "{report:?}");
    assert_eq!(report.frames_carried, truth.0);
    drop(store);
}
