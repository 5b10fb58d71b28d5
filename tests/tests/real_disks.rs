//! The power goes on real file systems, while an engine or a whole hub records: the short forms of `prove file-systems`
//! and `prove block-log`. What this machine lacks for them is said loudly and counted.

#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside of the hub, and waits in real time"
)]

use marey_engine::disk::{Disk, OpenMode, OsDisk};
use marey_tests::process::{PATIENCE, until};
use marey_tests::prove::file_systems::volume::{self, Kind, Volume};
use marey_tests::prove::kills::rig::Rig;
use marey_tests::prove::{Planted, Run, Tally, file_systems, say};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

#[test]
fn cuts_of_ext4_and_xfs_lose_nothing_that_was_acknowledged() {
    let tally = file_systems::run(&Run::short(CUTS));
    judge(&tally, CUTS);
}

#[test]
fn cuts_at_any_write_of_a_block_device_lose_nothing_that_was_acknowledged() {
    let tally = file_systems::run_block_log(&Run::short(BLOCK_LOG_CUTS));
    judge(&tally, BLOCK_LOG_CUTS);
}

/// A proof that finds nothing in an engine that acknowledges before it syncs proves nothing. Which file the cut takes first is
/// chance: frames are lost, or a record that was to be durable can't be read.
#[test]
fn an_ack_before_the_sync_is_found() {
    for proof in [file_systems::run, file_systems::run_block_log] {
        let tally = proof(&Run::short(BLOCK_LOG_CUTS).planted(Planted::AckBeforeSync));
        tally.show();
        let found = tally
            .failures
            .iter()
            .any(|failure| AFTER_A_CUT.iter().any(|words| failure.contains(words)));
        assert!(found || tally.done == 0 && !tally.skipped.is_empty(), "{tally}");
    }
}

/// Found by a cut of xfs: its sync of a folder says yes where the file system shuts down at that moment, and a session was
/// told to be made of which the cut had taken the name.
#[test]
fn a_name_that_was_synced_while_the_file_system_shuts_down_is_there() {
    for kind in [Kind::Ext4, Kind::Xfs] {
        if let Err(why) = volume::lacks(kind) {
            say(format_args!("SKIPPED (1): {why}"));
            continue;
        }
        let mut volume = Volume::make(kind, volume::bytes_least(kind), "").expect("it was made a moment ago");
        for round in 0..SHUTDOWNS {
            volume.mount().expect("it can be mounted");
            let synced: Vec<u32> = std::thread::scope(|scope| {
                let disk = OsDisk::new(volume.point());
                let renamers: Vec<_> = (0..RENAMERS)
                    .map(|number| {
                        let (disk, dir) = (disk.clone(), format!("{round}-{number}"));
                        disk.create_dir(dir.as_ref()).expect("made");
                        scope.spawn(move || rename_until_it_fails(&disk, dir.as_ref()))
                    })
                    .collect();
                std::thread::sleep(Duration::from_millis(20 + round));
                volume.cut(volume::Cut::Hard).expect("cut");
                renamers
                    .into_iter()
                    .map(|renamer| renamer.join().expect("it ends"))
                    .collect()
            });
            volume.come_back().expect("mounted again");
            for (number, synced) in synced.into_iter().enumerate() {
                let names = std::fs::read_dir(volume.point().join(format!("{round}-{number}")));
                let there = names
                    .into_iter()
                    .flatten()
                    .flatten()
                    .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
                    .max();
                assert!(
                    there.unwrap_or(0) >= synced,
                    "{}, round {round}: {synced} was synced, {there:?} is there",
                    kind.name()
                );
            }
            volume.unmount().expect("nobody has a file open there");
        }
    }
}

/// Gives a file one number after the other as its name; the last one that was synced.
fn rename_until_it_fails(disk: &OsDisk, dir: &Path) -> u32 {
    let mut synced = 0;
    let name = |number: u32| dir.join(number.to_string());
    if disk.open(&name(0), OpenMode::CreateNew).is_err() {
        return 0;
    }
    while disk.rename(&name(synced), &name(synced + 1)).is_ok() && disk.sync_dir(dir).is_ok() {
        synced += 1;
    }
    synced
}

/// The kernel finds an error in the file system and makes it read-only, while files are open and being written.
#[test]
fn a_file_system_that_becomes_read_only_while_it_records() {
    let Some(mut volume) = volume("errors=remount-ro") else {
        return;
    };
    let mut rig = Rig::start(Some(&volume.point().join("hub")), 5, &SETTINGS);
    let trigger = Path::new("/sys/fs/ext4")
        .join(loop_of(&volume))
        .join("trigger_fs_error");
    if let Err(why) = std::fs::write(&trigger, "a test") {
        say(format_args!("SKIPPED (1): {}: {why}", trigger.display()));
        return;
    }
    let why = rig.wait_until_it_refuses();
    println!("{why}");
    assert!(
        why.contains("Read-only file system") || why.contains("Input/output error"),
        "{why}"
    );
    assert!(rig.hub().is_running(), "{}", rig.hub().stderr());
    rig.take_hub().kill();
    volume.come_back().expect("mounted again");
    rig.up();
    rig.wait_for_acks();
    end(rig, volume);
}

/// The journal has its room; the logs have none. What they took since is not forgotten when there is room again.
#[test]
fn an_ext4_that_is_full_to_the_last_byte_while_it_records() {
    let Some(volume) = volume("") else {
        return;
    };
    let mut rig = Rig::start(Some(&volume.point().join("hub")), 6, &SETTINGS);
    for _ in 0..3 {
        let filler = volume.point().join("filler");
        fill(&filler);
        std::thread::sleep(Duration::from_millis(700));
        assert!(rig.hub().is_running(), "{}", rig.hub().stderr());
        println!("full, and ready is {:?}", rig.ready());
        std::fs::remove_file(filler).expect("removed");
        until("a hub that is ready by itself", PATIENCE, || {
            rig.ready().0.then_some(())
        });
        rig.wait_for_acks();
        std::thread::sleep(Duration::from_millis(300));
        rig.take_hub().kill();
        rig.up();
        rig.wait_for_acks();
    }
    end(rig, volume);
}

fn volume(options: &str) -> Option<Volume> {
    if let Err(why) = volume::lacks(Kind::Ext4) {
        say(format_args!("SKIPPED (1): {why}"));
        return None;
    }
    let mut volume = Volume::make(Kind::Ext4, VOLUME_BYTES, options).expect("it was made a moment ago");
    volume.mount().expect("it was mounted a moment ago");
    Some(volume)
}

fn end(rig: Rig, mut volume: Volume) {
    let mut tally = Tally {
        done: 1,
        ..Tally::new("disks")
    };
    rig.finish(0, &mut tally);
    tally.show();
    assert!(tally.is_well(), "{tally}");
    volume.unmount().expect("nobody has a file open there");
}

/// Takes every byte that is left.
fn fill(path: &Path) {
    let mut file = std::fs::File::create(path).expect("a file");
    let mut piece = vec![0x5A; 1 << 20];
    while piece.len() >= 512 {
        if file.write_all(&piece).is_err() {
            piece.truncate(piece.len() / 2);
        }
    }
}

/// The loop device that a volume is mounted over.
fn loop_of(volume: &Volume) -> String {
    let mounts = std::fs::read_to_string("/proc/mounts").expect("readable");
    let point = volume.point().to_string_lossy().into_owned();
    let line = mounts
        .lines()
        .find(|line| line.split(' ').nth(1) == Some(&point))
        .expect("it is mounted");
    let device = line.split(' ').next().unwrap_or_default();
    device.trim_start_matches("/dev/").to_owned()
}

fn judge(tally: &Tally, count: u64) {
    tally.show();
    assert!(tally.is_well(), "{tally}");
    // Where one file system is lacking, the other gets all.
    assert!(
        tally.done == count || tally.done == 0 && !tally.skipped.is_empty(),
        "{tally}"
    );
}

/// No room is kept free on a disk this small; logs and rolling parts are written all the time.
const SETTINGS: [&str; 8] = [
    "--set",
    "disk.floor_percent=0",
    "--set",
    "disk.floor_min_mib=0",
    "--set",
    "disk.floor_max_mib=0",
    "--set",
    "session.live_interval_ms=300",
];
const VOLUME_BYTES: u64 = 512 << 20;
const CUTS: u64 = 50;
/// Shutdowns of each file system, and how many rename and sync meanwhile.
const SHUTDOWNS: u64 = 20;
const RENAMERS: usize = 8;
const BLOCK_LOG_CUTS: u64 = 20;
/// What the oracle says of a hub that a cut has harmed, and of nothing else that can go wrong with a proof.
const AFTER_A_CUT: [&str; 3] = ["LOST", "does not open", "damage was said to be found"];
