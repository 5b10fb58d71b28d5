//! Backups of a hub as a process, while devices record into it: what was acknowledged before one was begun is in what is
//! restored of it. The devices' own list is the oracle.

#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside of the hub, and waits in real time"
)]

use marey_format::{DeviceId, SessionId};
use marey_tests::hub::published::{self, Acknowledged};
use marey_tests::process::{self, HubProcess, PATIENCE, Ran, Running, finish, until};
use marey_tests::prove::Tally;
use marey_tests::prove::kills::rig::{DEVICES, Rig, SESSION};
use serde_json::Value;
use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// What the devices were told by now. The last line may still be on its way.
fn acknowledged(rig: &Rig, beside: &Path) -> Acknowledged {
    let text = std::fs::read_to_string(&rig.acknowledged).expect("the devices' list");
    let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
    let copy = beside.join("acknowledged-by-now");
    std::fs::write(&copy, whole).expect("a copy of it");
    Acknowledged::read(&copy)
}

fn restore(from: &Path, snapshot: &str, out: &Path, more: &[&str]) -> Ran {
    let mut command = process::command(["restore", "--json", "--snapshot", snapshot]);
    finish(command.args(more).arg(from).arg("--out").arg(out), PATIENCE)
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key]
        .as_str()
        .unwrap_or_else(|| panic!("no {key} in {value}"))
}

/// Every frame of the list that the folder of a hub does not hold.
fn lost(dir: &Path, acked: &Acknowledged) -> usize {
    let session = SessionId::new(SESSION).expect("a name");
    let mut held = HashMap::new();
    for device in DEVICES {
        held.extend(published::log(dir, &session, &DeviceId::new(device).expect("a name")).crcs);
    }
    acked.lost(&held).len()
}

#[test]
fn what_was_acknowledged_before_a_backup_is_in_what_is_restored_of_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let backups = folder.path().join("backups");
    let to = backups.to_str().expect("UTF-8").to_owned();
    let mut rig = Rig::start(None, 7, &[]);
    let mut taken: Vec<(String, Acknowledged)> = Vec::new();
    let mut new_bytes = Vec::new();
    for round in 0..4 {
        rig.wait_for_acks();
        let before = acknowledged(&rig, folder.path());
        let done = rig.hub().ask(&["backup", "--to", &to]).well().json();
        assert_eq!(done["problems"], serde_json::json!([]), "round {round}");
        new_bytes.push(done["new_bytes"].as_u64().expect("a count"));
        taken.push((text(&done, "snapshot").to_owned(), before));
    }
    // Beside a seal, whichever comes first: what is published and what it was made of are of one moment.
    rig.stop_session();
    while rig.session_state() != "sealed" {
        let before = acknowledged(&rig, folder.path());
        let done = rig.hub().ask(&["backup", "--to", &to]).well().json();
        taken.push((text(&done, "snapshot").to_owned(), before));
    }
    let before = acknowledged(&rig, folder.path());
    let done = rig.hub().ask(&["backup", "--to", &to]).well().json();
    taken.push((text(&done, "snapshot").to_owned(), before));
    process::run([Path::new("backup"), Path::new("verify"), &backups]).well();

    let mut frames = 0;
    for (number, (snapshot, before)) in taken.iter().enumerate() {
        let out = folder.path().join(format!("restored-{number}"));
        let said = restore(&backups, snapshot, &out, &[]).well().json();
        assert_eq!(
            (&said["faults"], &said["has_ca"]),
            (&serde_json::json!([]), &Value::Bool(false))
        );
        assert!(
            before.frames.len() > frames || number > 3,
            "nothing was acknowledged between two backups"
        );
        frames = before.frames.len();
        assert_eq!(lost(&out, before), 0, "snapshot {number} of {}", taken.len());
        let verified = process::run([Path::new("verify"), Path::new("--dir"), &out]);
        assert_eq!(verified.code, Some(0), "{verified:?}");
        assert!(out.join("catalog.redb").is_file() && !out.join(".restoring").exists());
        std::fs::remove_dir_all(&out).expect("ours");
    }
    assert!(frames > 20, "{frames} frames show little");
    // A backup cost the recording nothing.
    let mut tally = Tally::default();
    rig.finish(7, &mut tally);
    tally.done += 1;
    assert!(tally.is_well(), "{tally}");
}

/// The restored hub is the hub: with the authority's keys put back its devices connect to it again.
#[test]
fn a_restored_hub_runs_and_knows_its_devices() {
    let folder = tempfile::tempdir().expect("a folder");
    let (dir, backups, out) = (
        folder.path().join("hub"),
        folder.path().join("backups"),
        folder.path().join("out"),
    );
    let (ca, passphrase) = (folder.path().join("ca.age"), folder.path().join("passphrase"));
    std::fs::write(&passphrase, "correct horse battery staple\n").expect("written");
    process::init(&dir);
    let hub = HubProcess::start(&dir, &[]);
    let bundle = hub.enroll(folder.path(), "phone");
    hub.ask(&["session", "start", "walk", "--devices", "phone"])
        .well();
    let to = backups.to_str().expect("UTF-8");
    let snapshot = text(&hub.ask(&["backup", "--to", to]).well().json(), "snapshot").to_owned();
    let ports = hub.ports();
    let save = |flag: &str, of: &Path| {
        let mut command = process::command(["backup", "ca", "--json", flag]);
        command.arg(&ca).arg("--passphrase-file").arg(&passphrase);
        finish(command.arg("--dir").arg(of), PATIENCE)
    };
    save("--to", &dir).well();
    assert_eq!(
        save("--to", &dir).code,
        Some(1),
        "the file is there: nothing is overwritten"
    );
    hub.stop();
    restore(&backups, &snapshot, &out, &[]).well();
    let why = finish(&mut process::hub_command(&out, ports, &[]), PATIENCE);
    assert_eq!(why.code, Some(1), "it runs without its authority: {why:?}");
    let put = save("--put-back", &out).well().json();
    assert!(put["names"].to_string().contains("ca.key.pem"), "{put}");
    // Where the old one listened, so that the device finds it.
    let restored = HubProcess::start_again(&out, ports, &[]);
    let mut simulate = process::command(["simulate", "--json", "--at-most", "30", "--seconds", "2"]);
    let device = Running::start(simulate.arg(&bundle));
    until("samples of the device", PATIENCE, || {
        let shown = restored.ask(&["session", "show", "walk"]).well().json();
        shown["logs"][0]["samples"]
            .as_u64()
            .filter(|samples| *samples > 0)
    });
    restored.ask(&["session", "stop", "walk", "--wait"]).well();
    drop(device);
    restored.stop();
    process::run([Path::new("verify"), Path::new("--dir"), &out]).well();
}

/// What a backup that was killed leaves: no snapshot that is not whole, and a next one that goes on.
fn files_below(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let count = |path: &Path| if path.is_dir() { files_below(path) } else { 1 };
    entries.map(|entry| count(&entry.path())).sum()
}

#[test]
fn a_backup_that_is_killed_leaves_nothing_half() {
    let folder = tempfile::tempdir().expect("a folder");
    let backups = folder.path().join("backups");
    let mut rig = Rig::start(None, 11, &[]);
    std::thread::sleep(Duration::from_secs(2));
    rig.stop_session();
    until("the seal", PATIENCE, || {
        (rig.session_state() == "sealed").then_some(())
    });
    let before = acknowledged(&rig, folder.path());
    let dir = rig.dir.clone();
    rig.take_hub().stop();
    let take = || {
        let mut command = process::command(["backup", "--json", "--to"]);
        command.arg(&backups).arg("--dir").arg(&dir);
        command
    };
    let stored = || files_below(&backups.join("objects")) + files_below(&backups.join("tmp"));
    let (mut killed, mut half, mut whole) = (0, 0, 0);
    for (round, wait_ms) in [0, 0, 5, 5, 20, 20, 40, 40, 80, 120].into_iter().enumerate() {
        // Every other one finds what the one before left.
        if round.is_multiple_of(2) && backups.exists() {
            std::fs::remove_dir_all(&backups).expect("ours");
        }
        let mut running = take()
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("it starts");
        let end = Instant::now() + PATIENCE;
        while stored() == 0 && running.try_wait().expect("our own child").is_none() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(wait_ms));
        running.kill().expect("our own child");
        let status = running.wait().expect("our own child");
        killed += u32::from(!status.success());
        if !backups.join("backup.json").exists() {
            continue;
        }
        let checked = process::run([
            Path::new("backup"),
            Path::new("verify"),
            Path::new("--json"),
            &backups,
        ])
        .well()
        .json();
        let snapshots = checked["snapshots"].as_u64().expect("a count");
        half += u32::from(snapshots == 0 && stored() > 0);
        whole += snapshots;
    }
    assert!(half > 0, "{killed} were killed, and none while it stored");
    let done = finish(&mut take(), PATIENCE).well().json();
    let leftovers = std::fs::read_dir(backups.join("tmp")).map_or(0, |entries| entries.count());
    assert_eq!(leftovers, 0, "{killed} killed, {whole} seen whole");
    let out = folder.path().join("out");
    restore(&backups, text(&done, "snapshot"), &out, &[]).well();
    assert_eq!(lost(&out, &before), 0);
}
