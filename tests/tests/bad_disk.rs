//! Disks that are full, come to their limit or can't be written: one clear sentence, and nothing that was acknowledged
//! is lost.
//!
//! The disks are real ones (a small tmpfs). Where this user may not mount, those tests say so loudly and count themselves
//! as skipped.

#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside of the hub, and waits in real time"
)]

use marey_tests::hub::published;
use marey_tests::process::{self, HubProcess, PATIENCE, Ports, Ran, Running, until};
use marey_tests::prove::kills::rig::Rig;
use marey_tests::prove::{Tally, say};
use rustix::process::{Pid, Resource, getrlimit, prlimit};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

fn marey(arguments: &[&str]) -> Ran {
    process::run(arguments)
}

#[test]
fn a_limit_on_the_size_of_files_is_a_full_disk() {
    let outer = folder();
    let dir = outer.path().join("hub");
    let limited = |blocks: u32, command: &mut Command| {
        let mut shell = Command::new("sh");
        let script = format!("ulimit -f {blocks}; exec \"$0\" \"$@\"");
        shell
            .args(["-c", &script])
            .arg(command.get_program())
            .args(command.get_args());
        process::finish(process::clean(&mut shell), PATIENCE)
    };
    let ran = limited(64, process::command(["init"]).arg(&dir));
    let said = ran.sentence(1);
    assert!(said.contains("too large") || said.contains("journal"), "{said}");
    let dir = outer.path().join("again");
    process::init(&dir);
    // Enough for what is there, not for what is to come: it starts, or says why not; it never dies of a signal.
    let ran = limited(1, &mut process::hub_command(&dir, Ports::free(), &[]));
    ran.sentence(1);
    HubProcess::start(&dir, &[]).stop();
}

/// The limit comes while it records, in the middle of a file: a write of which only a part, or nothing, is done.
#[test]
fn a_limit_on_the_size_of_files_while_it_records() {
    let mut rig = Rig::start(None, 3, &["--set", "session.live_interval_ms=300"]);
    for limit in [0, 4_100, 70_001] {
        let pid = Pid::from_raw(rig.hub().pid() as i32);
        let set = |bytes: Option<u64>| {
            let mut limit = getrlimit(Resource::Fsize);
            limit.current = bytes;
            prlimit(pid, Resource::Fsize, limit).expect("our own child");
        };
        let before = rig.acked_bytes();
        set(Some(limit));
        // The journal is past the limit, or will be; the logs have less in them.
        let why = until("a refusal, or acks in spite of it", PATIENCE, || {
            let (ready, why) = rig.ready();
            (!ready || rig.acked_bytes() > before + 20_000).then_some(why)
        });
        println!("files of at most {limit} bytes: {why}");
        if !rig.ready().0 {
            let why = rig.wait_until_it_refuses();
            assert!(why.contains("too large"), "{why}");
        }
        assert!(rig.hub().is_running(), "{}", rig.hub().stderr());
        set(None);
        until("a hub that is ready by itself", PATIENCE, || {
            rig.ready().0.then_some(())
        });
        rig.wait_for_acks();
    }
    let mut tally = Tally::new("limits");
    tally.done = 3;
    rig.finish(3, &mut tally);
    tally.show();
    assert!(tally.is_well(), "{tally}");
}

#[test]
fn a_disk_with_no_room_for_a_hub() {
    let Some(disk) = SmallDisk::mount("1m") else {
        return;
    };
    let dir = disk.path().join("hub");
    let ran = marey(&["init", &dir.to_string_lossy()]);
    assert!(ran.sentence(1).contains("No space left"), "{ran:?}");
    disk.remount("size=128m");
    // Whoever makes room is told that a hub wants an empty folder.
    assert!(
        marey(&["init", &dir.to_string_lossy()])
            .sentence(1)
            .contains("empty folder")
    );
    std::fs::remove_dir_all(&dir).expect("removed");
    process::init(&dir);
}

#[test]
fn a_disk_that_cannot_be_written() {
    let Some(disk) = SmallDisk::mount("128m") else {
        return;
    };
    let dir = disk.path().join("hub");
    process::init(&dir);
    disk.remount("ro");
    let ran = process::finish(&mut process::hub_command(&dir, Ports::free(), &[]), PATIENCE);
    assert!(ran.sentence(1).contains("Read-only"), "{ran:?}");
    let other = disk.path().join("other").to_string_lossy().into_owned();
    assert!(marey(&["init", &other]).sentence(1).contains("Read-only"));
    assert!(marey(&["demo", "--dir", &other, "--seconds", "1"]).code == Some(1));
    // What only reads is not concerned.
    let dir_text = dir.to_string_lossy();
    let out = folder();
    let out = out.path().join("out").to_string_lossy().into_owned();
    for verb in [&["verify"][..], &["info"], &["recover", "--out", &out]] {
        marey(&[verb, &["--dir", &dir_text]].concat()).well();
    }
    assert!(
        marey(&["recover", "--out", &other, "--dir", &dir_text])
            .sentence(1)
            .contains("Read-only")
    );
    disk.remount("rw");
    HubProcess::start(&dir, &[]).stop();
}

/// The disk comes to its floor, or is filled to the last byte by somebody else, while two devices record. Devices keep
/// what they have; when there is room, everything goes on by itself; nothing is lost.
#[test]
fn a_disk_that_fills_up_while_it_records() {
    for (what, floor_mib) in [("at its floor", 8), ("to the last byte", 0)] {
        let Some(disk) = SmallDisk::mount("160m") else {
            return;
        };
        let outer = folder();
        let (dir, bundles) = (disk.path().join("hub"), outer.path().join("bundles"));
        std::fs::create_dir(&bundles).expect("a folder");
        process::init(&dir);
        let (least, most) = (
            format!("disk.floor_min_mib={floor_mib}"),
            format!("disk.floor_max_mib={floor_mib}"),
        );
        let settings = ["--set", "disk.floor_percent=0", "--set", &least, "--set", &most];
        let mut hub = HubProcess::start(&dir, &settings);
        let ports = hub.ports();
        let acknowledged = outer.path().join("acknowledged");
        let mut command = process::command(["simulate", "--json", "--at-most", "120", "--acknowledged"]);
        command
            .arg(&acknowledged)
            .arg("--buffer")
            .arg(outer.path().join("buffer"));
        command.args(["phone", "watch"].map(|name| hub.enroll(&bundles, name)));
        let devices = Running::start(&mut command);
        hub.ask(&["session", "start", "walk"]).well();
        let bytes = || std::fs::metadata(&acknowledged).map_or(0, |metadata| metadata.len());
        until("acks", PATIENCE, || (bytes() > 2_000).then_some(()));

        disk.fill();
        if floor_mib > 0 {
            until("a hub that is not ready", PATIENCE, || {
                (!get(hub.health, "/ready").contains(" 200 ")).then_some(())
            });
        }
        // Long enough that the journal's blocks would have gone round to the logs.
        std::thread::sleep(Duration::from_secs(3));
        assert!(hub.is_running(), "{what}: {}", hub.stderr());
        assert!(
            get(hub.health, "/health").contains("HTTP/1.1"),
            "{what}: it still answers"
        );
        let stalled = bytes();
        disk.make_room();
        // A store that a failed write has stopped says so, and is opened anew.
        let health = get(hub.health, "/ready");
        if until_grown(&bytes, stalled).is_none() {
            println!(
                "{what}: intake stopped ({}), the hub is started again",
                health.lines().last().unwrap_or("")
            );
            assert!(floor_mib == 0, "{what}: intake goes on by itself: {health}");
            hub.kill();
            hub = HubProcess::start_again(&dir, ports, &settings);
            until("acks", PATIENCE, || (bytes() > stalled).then_some(()));
        }
        hub.ask(&["session", "stop", "walk", "--wait"]).well();
        let account = devices.wait(PATIENCE).well().json();
        hub.stop();
        let mut captured = 0;
        for device in account.as_array().expect("a list") {
            let name = device["device"].as_str().expect("a name");
            for stream in device["streams"].as_array().expect("streams") {
                let stream_name = stream["stream"].as_str().expect("a name");
                let found = published::stream(&dir.join("sessions/session=walk"), stream_name, name);
                let said: Vec<_> = stream["epochs"].as_array().expect("epochs").iter().collect();
                assert_eq!(
                    (found.rows, found.twice),
                    (stream["captured"].as_u64().unwrap_or(0), 0),
                    "{what}: {stream}"
                );
                for (epoch, (_, digest)) in said.iter().zip(found.epochs.values()) {
                    assert_eq!(
                        epoch["digest"].as_str(),
                        Some(digest.as_str()),
                        "{what}: {stream}"
                    );
                }
                captured += found.rows;
            }
        }
        println!("{what}: {captured} samples captured, all of them there");
    }
}

fn until_grown(bytes: &impl Fn() -> u64, from: u64) -> Option<()> {
    (0..400).find_map(|_| {
        std::thread::sleep(Duration::from_millis(20));
        (bytes() > from).then_some(())
    })
}

/// A tmpfs of its own; unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

static SKIPPED: AtomicU32 = AtomicU32::new(0);

impl SmallDisk {
    fn mount(size: &str) -> Option<Self> {
        let folder = folder();
        let options = format!("size={size},mode=0700");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "marey-test"])
            .arg(folder.path())
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(folder)),
            why => {
                let skipped = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
                say(format_args!(
                    "SKIPPED ({skipped}): this user may not mount a small disk: {why:?}"
                ));
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        let status = Command::new("mount")
            .args(["-o", &options])
            .arg(self.path())
            .status()
            .expect("mount");
        assert!(status.success(), "{options}");
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    /// Takes every byte that is left.
    fn fill(&self) {
        let mut file = std::fs::File::create(self.filler()).expect("a file");
        let mut piece = vec![0x5A; 1 << 20];
        while piece.len() >= 512 {
            if file.write_all(&piece).is_err() {
                let half = piece.len() / 2;
                piece.truncate(half);
            }
        }
    }

    fn make_room(&self) {
        std::fs::remove_file(self.filler()).expect("removed");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _unmounted = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

fn get(address: SocketAddr, path: &str) -> String {
    let mut socket = TcpStream::connect(address).expect("connected");
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
    write!(socket, "GET {path} HTTP/1.1\r\nHost: hub\r\n\r\n").expect("sent");
    let mut text = String::new();
    socket.read_to_string(&mut text).expect("received");
    text
}
