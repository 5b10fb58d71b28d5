//! The power goes on real file systems, while an engine or a whole hub records: the short forms of `prove file-systems`
//! and `prove block-log`. What this machine lacks for them is said loudly and counted.

#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside of the hub, and waits in real time"
)]

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

/// A proof that finds nothing in an engine that acknowledges before it syncs proves nothing.
#[test]
fn an_ack_before_the_sync_is_found() {
    for proof in [file_systems::run, file_systems::run_block_log] {
        let tally = proof(&Run::short(BLOCK_LOG_CUTS).planted(Planted::AckBeforeSync));
        tally.show();
        let found = tally.failures.iter().any(|failure| failure.contains("LOST"));
        assert!(found || tally.done == 0 && !tally.skipped.is_empty(), "{tally}");
    }
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
const BLOCK_LOG_CUTS: u64 = 20;
