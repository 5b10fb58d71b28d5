//! The same log gives the same Parquet, byte for byte: twice, after a kill in the middle, with one thread and two, with and
//! without rolling parts, from another folder, in another time zone.

#![allow(clippy::disallowed_methods, reason = "a test stands outside of the hub")]

use marey_engine::compact::{Generation, compact_session, roll};
use marey_engine::disk::Disk;
use marey_engine::disk::faulty::{FaultyDisk, Plan};
use marey_engine::disk::memory::MemoryDisk;
use marey_engine::time::HubClock;
use marey_engine::time::simulated::SimulatedKernel;
use marey_engine::{Options, Session};
use marey_tests::recording::{Sender, prepare, session, small_options};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A recorded and stopped session, with nothing published yet. The hub went down.
fn recorded() -> MemoryDisk {
    let disk = MemoryDisk::new();
    let as_disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let kernel = SimulatedKernel::new(1, 1_700_000_000_000_000_000);
    let clock: Arc<dyn HubClock> = kernel.hub_clock();
    let store = prepare(&as_disk, &clock).unwrap();
    for (name, epoch) in [("phone", 1), ("watch", 2)] {
        let mut sender = Sender::new(name, epoch);
        let handle = sender.join(&store).unwrap();
        for _ in 0..40 {
            kernel.advance(100_000_000);
            sender.capture();
            sender.send(&store, handle, 10).unwrap();
        }
        sender.send_end(&store, handle).unwrap();
    }
    store.stop_session(&session()).unwrap();
    store.close().unwrap();
    disk
}

fn options(threads: usize) -> Options {
    Options {
        compaction_threads: threads,
        row_group_rows: 100,
        ..small_options()
    }
}

/// Every file of the session but the logs, by path.
fn published(disk: &dyn Disk) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut open = vec![Session::dir(&session())];
    while let Some(dir) = open.pop() {
        for entry in disk.list(&dir).unwrap() {
            let path = dir.join(&entry.name);
            match entry.stat.is_dir {
                true if entry.name == "logs" || entry.name.starts_with('.') => {}
                true => open.push(path),
                false if entry.name == "session.json" => {}
                false => {
                    let bytes = marey_engine::disk::read_all(disk, &path, 1 << 30).unwrap();
                    files.insert(path, bytes);
                }
            }
        }
    }
    files
}

fn compact(disk: &dyn Disk, threads: usize) -> BTreeMap<PathBuf, Vec<u8>> {
    let known = Session::read(disk, &Session::dir(&session())).unwrap();
    compact_session(disk, &known, &options(threads), Generation::IfNew, &|_| {}).unwrap();
    published(disk)
}

fn assert_same(a: &BTreeMap<PathBuf, Vec<u8>>, b: &BTreeMap<PathBuf, Vec<u8>>) {
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (path, bytes) in a {
        assert!(b[path] == *bytes, "{} differs", path.display());
    }
}

#[test]
fn twice_and_with_two_threads() {
    let disk = recorded();
    let once = compact(&disk.snapshot(), 1);
    let parts = once
        .keys()
        .filter(|path| path.extension().is_some_and(|e| e == "parquet"))
        .count();
    assert!(parts >= 2 + 5, "two streams and five tables: {:?}", once.keys());
    assert_same(&once, &compact(&disk.snapshot(), 1));
    assert_same(&once, &compact(&disk.snapshot(), 2));
}

#[test]
fn with_rolling_parts_before() {
    let disk = recorded();
    let plain = compact(&disk.snapshot(), 1);
    let rolled = disk.snapshot();
    let known = Session::read(&rolled, &Session::dir(&session())).unwrap();
    roll(&rolled, &known, &options(1), &|_| {}).unwrap();
    assert!(
        rolled
            .stat(&Session::dir(&session()).join("live"))
            .unwrap()
            .is_some(),
        "there were rolling parts"
    );
    assert_same(&plain, &compact(&rolled, 1));
}

#[test]
fn after_a_kill_at_any_operation_of_compaction() {
    let disk = recorded();
    let plain = compact(&disk.snapshot(), 1);
    let counting = FaultyDisk::new(disk.snapshot(), Plan::default());
    compact(&counting, 1);
    let operations = counting.operations();
    assert!(operations > 30, "{operations}");
    for cut in 0..operations {
        let memory = disk.snapshot();
        let faulty = FaultyDisk::new(
            memory.clone(),
            Plan {
                cut_at: Some(cut),
                ..Plan::default()
            },
        );
        let known = Session::read(&faulty, &Session::dir(&session())).unwrap();
        let cut_short = compact_session(&faulty, &known, &options(1), Generation::IfNew, &|_| {});
        drop(cut_short);
        let again = compact(&memory, 1);
        assert_eq!(
            plain.keys().collect::<Vec<_>>(),
            again.keys().collect::<Vec<_>>(),
            "cut at {cut}"
        );
        assert!(plain == again, "cut at {cut}: other bytes");
    }
    println!("{operations} kills during compaction, the same bytes after each");
}

#[test]
fn from_another_folder_and_in_another_time_zone() {
    let memory = recorded();
    let expected = compact(&memory.snapshot(), 1);
    for zone in ["UTC", "Asia/Kathmandu"] {
        let dir = tempfile::tempdir().unwrap();
        copy_out(&memory, Path::new("sessions"), dir.path());
        // A process of its own, since the zone belongs to the process.
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "compacts_the_folder_that_it_is_given"])
            .env("MAREY_TEST_FOLDER", dir.path())
            .env("TZ", zone)
            .output()
            .unwrap();
        assert!(
            status.status.success(),
            "{}",
            String::from_utf8_lossy(&status.stdout)
        );
        let disk = marey_engine::disk::OsDisk::new(dir.path());
        assert_same(&expected, &published(&disk));
    }
}

#[test]
#[ignore = "the other half of the test above, in a process of its own"]
fn compacts_the_folder_that_it_is_given() {
    let dir = std::env::var("MAREY_TEST_FOLDER").expect("called by the test above");
    compact(&marey_engine::disk::OsDisk::new(dir), 1);
}

fn copy_out(disk: &dyn Disk, dir: &Path, to: &Path) {
    std::fs::create_dir_all(to.join(dir)).unwrap();
    for entry in disk.list(dir).unwrap() {
        let path = dir.join(&entry.name);
        match entry.stat.is_dir {
            true => copy_out(disk, &path, to),
            false => {
                let bytes = marey_engine::disk::read_all(disk, &path, 1 << 30).unwrap();
                std::fs::write(to.join(&path), bytes).unwrap();
            }
        }
    }
}
