//! The audit log as those see it who have to answer for a hub: every verb that changes something leaves its record, with who
//! asked; refusals are counted; no byte changes unseen; what can't be written down is not done.

#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside of the hub, and waits in real time"
)]

use marey_tests::hub::raw::{Log, RawDevice};
use marey_tests::hub::{self, config, device, session};
use marey_tests::process::{self, HubProcess, PATIENCE, Ran, command, finish, until};
use marey_tests::python;
use serde_json::Value;
use std::collections::BTreeSet;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

struct Lab {
    folder: tempfile::TempDir,
    dir: PathBuf,
}

impl Lab {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("hub");
        process::init(&dir);
        Self { folder, dir }
    }

    fn marey(&self, arguments: &[&str]) -> Ran {
        finish(
            command(arguments).arg("--json").arg("--dir").arg(&self.dir),
            PATIENCE,
        )
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_string_lossy().into_owned()
    }

    fn secret(&self) -> String {
        let path = self.folder.path().join("password");
        let mut options = std::fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .expect("a file");
        std::io::Write::write_all(&mut file, b"correct horse battery\n").expect("written");
        path.to_string_lossy().into_owned()
    }

    fn records(&self, filter: &[&str]) -> Vec<Value> {
        let ran = self.marey(&[&["audit", "show"][..], filter].concat()).well();
        let lines = ran.stdout.lines();
        lines
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect()
    }
}

/// Every verb that changes a hub, and what the audit log calls it.
fn verbs(lab: &Lab) -> Vec<(Vec<String>, &'static str)> {
    let secret = lab.secret();
    let verb = |words: &[&str], action| (words.iter().map(|word| (*word).to_owned()).collect(), action);
    vec![
        verb(
            &["device", "enroll", "phone", "--out", &lab.path("phone")],
            "device.enroll",
        ),
        verb(&["device", "invite", "watch", "--no-code"], "device.invite"),
        verb(&["device", "renew", "phone"], "device.renew"),
        verb(&["device", "revoke", "phone"], "device.revoke"),
        verb(
            &[
                "user",
                "add",
                "ria",
                "--role",
                "viewer",
                "--password-file",
                &secret,
            ],
            "user.add",
        ),
        verb(
            &["user", "passwd", "ria", "--password-file", &secret],
            "user.password",
        ),
        verb(&["user", "role", "ria", "analyst"], "user.role"),
        verb(&["user", "lock", "ria"], "user.lock"),
        verb(&["user", "unlock", "ria"], "user.unlock"),
        verb(&["apikey", "create", "ria", "nightly"], "apikey.create"),
        verb(&["apikey", "revoke", "ria", "nightly"], "apikey.revoke"),
        verb(&["token", "revoke", "--user", "ria"], "token.revoke"),
        verb(&["study", "create", "gait"], "study.create"),
        verb(
            &["study", "grant", "gait", "ria", "--role", "researcher"],
            "study.grant",
        ),
        verb(&["study", "revoke", "gait", "ria"], "study.revoke"),
        verb(&["user", "remove", "ria"], "user.remove"),
        verb(
            &["session", "create", "walk", "--meta", "study=gait"],
            "session.create",
        ),
        verb(&["session", "start", "walk"], "session.start"),
        verb(&["session", "mark", "walk", "stood up"], "session.mark"),
        verb(&["session", "annotate", "walk", "slow"], "session.annotate"),
        verb(&["session", "stop", "walk", "--wait"], "session.stop"),
        verb(&["compact", "walk"], "session.compact"),
        verb(&["session", "close", "walk"], "session.close"),
        verb(&["hold", "add", "walk", "--reason", "asked"], "hold.add"),
        verb(&["hold", "remove", "walk"], "hold.remove"),
        verb(&["retention", "set", "gait", "--keep-logs"], "retention.set"),
        verb(&["retention", "run"], "retention.run"),
        verb(
            &["key", "make", "gait", "--out", &lab.path("gait.key")],
            "key.set",
        ),
        verb(&["backup", "--to", &lab.path("backup")], "backup.take"),
        verb(&["backup", "prune", &lab.path("backup")], "backup.prune"),
        verb(
            &["archive", "walk", "--to", &lab.path("walk.tar")],
            "session.archive",
        ),
        verb(&["ca", "rotate"], "ca.rotate"),
        verb(&["ca", "retire", "--even-so"], "ca.retire"),
    ]
}

/// Those that only look.
const LOOKS: &[&[&str]] = &[
    &["device", "list"],
    &["device", "show", "phone"],
    &["user", "list"],
    &["token", "list"],
    &["apikey", "list"],
    &["study", "list"],
    &["session", "list"],
    &["session", "show", "walk"],
    &["hold", "list"],
    &["retention", "show"],
    &["retention", "run", "--dry-run"],
    &["key", "list"],
    &["ca", "show"],
    &["jobs"],
    &["hub", "--status"],
    &["info"],
    &["audit", "show"],
    &["audit", "verify"],
];

#[test]
fn every_verb_that_changes_something_leaves_its_record() {
    let lab = Lab::new();
    let mut hub = HubProcess::start(&lab.dir, &[]);
    let me = format!("uid:{}", rustix::process::geteuid().as_raw());
    for (verb, action) in verbs(&lab) {
        let before = lab.records(&[]).len();
        let words: Vec<&str> = verb.iter().map(String::as_str).collect();
        let ran = lab.marey(&words);
        // There is no device in whose log a mark could stand: it is asked for all the same.
        let code = if action == "session.mark" { 1 } else { 0 };
        assert_eq!(ran.code, Some(code), "{words:?}: {ran:?}");
        let new = lab.records(&[]).split_off(before);
        let found = new.iter().find(|record| record["action"] == action);
        let found = found.unwrap_or_else(|| panic!("{words:?} left no {action}: {new:?}"));
        assert_eq!(
            (found["actor"].as_str(), found["outcome"].as_str()),
            (Some(me.as_str()), Some("allowed"))
        );
    }
    let before = lab.records(&[]).len();
    for look in LOOKS {
        lab.marey(look).well();
    }
    assert_eq!(lab.records(&[]).len(), before, "what only looks leaves none");
    // What is refused leaves both: that it was asked for, and why it was not done.
    lab.marey(&["session", "start", "walk"]).sentence(1);
    let start = lab.records(&["--action", "session.start"]);
    let last = start.last().expect("a record");
    assert_eq!(last["outcome"], "failed", "{last}");
    assert!(
        last["details"]["why"].as_str().is_some_and(|why| why.len() > 10),
        "{last}"
    );
    lab.marey(&["hub", "--stop"]).well();
    until("the end of the hub", PATIENCE, || {
        (!hub.is_running()).then_some(())
    });
    assert_eq!(lab.records(&["--action", "hub.stop"]).len(), 1);

    // Without a hub as well, as somebody who worked on its folder.
    lab.marey(&["study", "create", "sleep"]).well();
    lab.marey(&["session", "create", "night"]).well();
    let offline = format!("{me}/offline");
    let records = lab.records(&["--actor", &offline]);
    let actions: BTreeSet<&str> = records
        .iter()
        .filter_map(|record| record["action"].as_str())
        .collect();
    assert_eq!(
        actions,
        BTreeSet::from(["hub.init", "session.create", "study.create", "user.add"])
    );
    // Filters: of a moment, of an actor with all below, of a noun.
    assert_eq!(lab.records(&["--since", "1h"]).len(), lab.records(&[]).len());
    assert_eq!(lab.records(&["--since", "2999"]).len(), 0);
    let devices = lab.records(&["--action", "device"]);
    assert!(devices.iter().all(|record| {
        record["action"]
            .as_str()
            .is_some_and(|a| a.starts_with("device."))
    }));
    assert_eq!(devices.len(), 4, "{devices:?}");
    let text = finish(command(["audit", "show", "--dir"]).arg(&lab.dir), PATIENCE)
        .well()
        .stdout;
    assert_eq!(text.lines().count(), lab.records(&[]).len(), "one line each");
    lab.marey(&["audit", "verify"]).well();
}

#[test]
fn any_one_changed_byte_is_found_and_named() {
    let lab = Lab::new();
    for n in 0..5 {
        lab.marey(&["study", "create", &format!("study-{n}")]).well();
    }
    lab.marey(&["session", "start", "walk"]).well();
    lab.marey(&["session", "stop", "walk"]).well();
    lab.marey(&["compact", "walk"]).well();
    let checked = lab.marey(&["audit", "verify"]).well().json();
    assert_eq!(checked["heads_held"], 1, "the receipt of the session: {checked}");
    let file = lab.dir.join("audit/000001.jsonl");
    let whole = std::fs::read(&file).expect("the log");
    let script = python::script("../../format-spec/reference/verify_audit.py");
    let reference = || {
        let mut python = std::process::Command::new("python3");
        finish(python.arg(&script).arg(lab.dir.join("audit")), PATIENCE)
    };
    let head = reference().well().stdout;
    assert!(head.starts_with(&format!("{} ", checked["records"])), "{head}");
    let places = (0..whole.len())
        .step_by(whole.len() / 60)
        .chain([whole.len() - 1]);
    for at in places {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        std::fs::write(&file, &changed).expect("written");
        let ran = lab.marey(&["audit", "verify"]);
        assert_eq!(ran.code, Some(1), "byte {at}: {ran:?}");
        let fault = &ran.json()["faults"][0];
        let line = changed[..fault["offset"].as_u64().expect("a place") as usize]
            .iter()
            .filter(|&&b| b == b'\n')
            .count();
        assert_eq!(fault["line"], line + 1, "{fault}");
        let (offset, bytes) = (fault["offset"].as_u64(), fault["bytes"].as_u64());
        let (offset, bytes) = (offset.expect("where"), bytes.expect("how long"));
        assert!(
            (offset..offset + bytes).contains(&(at as u64)),
            "byte {at}: {fault}"
        );
        assert!(
            fault["file"]
                .as_str()
                .is_some_and(|file| file.ends_with("000001.jsonl")),
            "{fault}"
        );
        assert_ne!(reference().code, Some(0), "byte {at}: the reference sees it too");
    }
    // An end that was cut between two records shows by the receipt alone.
    let lines: Vec<&[u8]> = whole.split_inclusive(|&b| b == b'\n').collect();
    let cut = lines[..3].concat();
    std::fs::write(&file, &cut).expect("written");
    let ran = lab.marey(&["audit", "verify"]);
    let fault = ran.json()["faults"][0].clone();
    assert_eq!(
        (ran.code, fault["kind"].as_str()),
        (Some(1), Some("head")),
        "{fault}"
    );
    assert!(
        fault["file"]
            .as_str()
            .is_some_and(|file| file.contains("receipt-0001")),
        "{fault}"
    );
    std::fs::write(&file, &whole).expect("written");
    lab.marey(&["audit", "verify"]).well();
}

#[test]
fn what_cannot_be_audited_is_not_done_and_reads_go_on() {
    let lab = Lab::new();
    lab.marey(&["session", "create", "walk"]).well();
    // Whoever may write everywhere is not kept out by a mode: a file in the way keeps everybody out.
    let next = lab.dir.join("audit");
    let aside = lab.dir.join("aside");
    std::fs::rename(&next, &aside).expect("renamed");
    std::fs::write(&next, b"in the way").expect("written");
    // Before the hub starts: one that has its file open goes on in it, wherever that was moved.
    let hub = HubProcess::start(&lab.dir, &[]);
    for refused in [
        &["session", "start", "walk"][..],
        &["study", "create", "gait"],
        &["device", "invite", "phone", "--no-code"],
    ] {
        let ran = lab.marey(refused);
        let said = ran.sentence(1);
        assert!(
            said.contains("nothing was done") && said.contains("audit log"),
            "{refused:?}: {said}"
        );
    }
    let health = process::get(hub.health, "/health");
    assert!(
        health.contains("degraded") && health.contains("audit log"),
        "{health}"
    );
    let sessions = lab.marey(&["session", "list"]).well().json();
    assert_eq!(sessions[0]["state"], "created", "{sessions}");
    assert_eq!(lab.marey(&["study", "list"]).well().json(), serde_json::json!([]));
    std::fs::remove_file(&next).expect("removed");
    std::fs::rename(&aside, &next).expect("renamed");
    lab.marey(&["session", "start", "walk"]).well();
    hub.stop();
    lab.marey(&["audit", "verify"]).well();
}

/// Nobody knows how many strangers there are: what is refused is counted, and written once a minute.
#[test]
fn devices_that_connect_or_are_refused_are_counted_with_the_cause() {
    let lab = hub::Lab::with(config());
    let walk = session("walk");
    let bundle = lab.enroll_raw("phone");
    lab.enroll_raw("watch");
    lab.start_session(&walk, Some(&["watch"]));
    let log = Log::new(&device("phone"), &walk, 1);
    for _ in 0..3 {
        let mut phone = RawDevice::attach(&bundle, lab.address());
        phone.send(&log.open(1));
        phone.refused();
    }
    let listed = finish(
        command(["device", "show", "phone", "--json", "--dir"]).arg(lab.dir()),
        PATIENCE,
    );
    let serial = listed.well().json()["serial_hex"]
        .as_str()
        .expect("a serial number")
        .to_owned();
    let shown = || {
        let ran = finish(
            command(["audit", "show", "--json", "--actor", "device:phone", "--dir"]).arg(lab.dir()),
            PATIENCE,
        );
        let lines = ran.well().stdout;
        let records = lines
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        records.collect::<Vec<_>>()
    };
    let [refused, connected] = until("both in the audit log", PATIENCE, || {
        let records = shown();
        let of = |action| records.iter().find(|record| record["action"] == action).cloned();
        Some([of("device.send")?, of("device.connect")?])
    });
    assert_eq!(
        (&refused["outcome"], &connected["outcome"]),
        (&"denied".into(), &"allowed".into())
    );
    for record in [&refused, &connected] {
        let count = record["details"]["count"].as_u64();
        assert!(count.is_some_and(|count| count >= 1), "{record}");
        assert_eq!(
            record["actor"],
            format!("device:phone/{serial}"),
            "with its certificate"
        );
    }
    let why = refused["details"]["why"].as_str();
    assert!(why.is_some_and(|why| !why.is_empty()), "{refused}");
    assert_eq!(connected["object"], "device/phone");
    assert_eq!(connected["details"]["from"], "127.0.0.1");
    let records = shown();
    assert!(records.len() <= 6, "{records:?}");
}
