//! What people and machines get wrong at the command line: one clear sentence, the right exit code, nothing lost.
//!
//! Exit codes: 1 something is wrong with what was looked at, or it could not be done; 2 the call itself; 3 no hub answers.
//! Disks that are full or can't be written are `bad_disk.rs`.

#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside of the hub, and waits in real time"
)]

use marey_tests::process::{self, HubProcess, PATIENCE, Ports, Ran};
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

fn marey(arguments: &[&str]) -> Ran {
    process::run(arguments)
}

/// A mistake in the call, as the parser of arguments says it: the first line is the sentence, the last points to help.
#[track_caller]
fn usage(ran: &Ran) -> String {
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{ran:?}");
    assert!(
        !ran.stderr.contains("panicked") && ran.stderr.starts_with("error: "),
        "{ran:?}"
    );
    ran.stderr.lines().next().unwrap_or_default().to_owned()
}

#[test]
fn a_folder_that_is_no_hub() {
    let empty = folder();
    let (dir, nowhere) = (
        empty.path().to_string_lossy().into_owned(),
        empty.path().join("nowhere"),
    );
    let nowhere = nowhere.to_string_lossy().into_owned();
    for dir in [&dir, &nowhere] {
        for verb in [
            &["hub"][..],
            &["device", "list"],
            &["session", "list"],
            &["session", "start", "walk"],
        ] {
            let ran = marey(&[verb, &["--dir", dir]].concat());
            let said = ran.sentence(2);
            assert!(
                said.contains("no hub in") && said.contains(dir) && said.contains("marey init"),
                "{said}"
            );
        }
    }
    // Neither named nor found above.
    let ran = process::finish(
        process::command(["session", "list"]).current_dir(empty.path()),
        PATIENCE,
    );
    assert!(ran.sentence(2).contains("marey init"), "{ran:?}");
    assert_eq!(
        std::fs::read_dir(empty.path()).expect("a folder").count(),
        0,
        "nothing was made"
    );
}

#[test]
fn a_hub_is_found_from_below_and_by_the_environment() {
    let outer = folder();
    let dir = outer.path().join("hub");
    process::init(&dir);
    let list = |command: &mut Command| process::finish(command, PATIENCE).well();
    list(process::command(["session", "list"]).current_dir(dir.join("sessions")));
    list(
        process::command(["session", "list"])
            .current_dir(outer.path())
            .env("MAREY_DIR", &dir),
    );
}

#[test]
fn a_hub_is_never_made_over_another() {
    let outer = folder();
    let dir = outer.path().join("hub");
    process::init(&dir);
    let before = std::fs::read(dir.join("hub.json")).expect("a hub");
    let dir_text = dir.to_string_lossy();
    let ran = marey(&["init", &dir_text]);
    assert!(ran.sentence(1).contains("is there already"), "{ran:?}");
    assert_eq!(std::fs::read(dir.join("hub.json")).expect("a hub"), before);
    let file = outer.path().join("file");
    std::fs::write(&file, "").expect("written");
    marey(&["init", &file.to_string_lossy()]).sentence(1);
    // What an init left that was cut short is no hub, and no empty folder either.
    let half = outer.path().join("half");
    std::fs::create_dir_all(half.join("journal")).expect("a folder");
    let ran = marey(&["init", &half.to_string_lossy()]);
    assert!(ran.sentence(1).contains("empty folder"), "{ran:?}");
}

#[test]
fn a_hub_that_runs_already_and_ports_in_use() {
    let outer = folder();
    let (dir, other) = (outer.path().join("hub"), outer.path().join("other"));
    process::init(&dir);
    process::init(&other);
    let hub = HubProcess::start(&dir, &[]);
    let ran = process::finish(&mut process::hub_command(&dir, Ports::free(), &[]), PATIENCE);
    let said = ran.sentence(1);
    assert!(
        said.contains("already open") && said.contains(&format!("process {}", hub.pid())),
        "{said}"
    );

    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let (held_tcp, held_udp) = (
        TcpListener::bind(any).expect("a port"),
        UdpSocket::bind(any).expect("a port"),
    );
    let (tcp, udp) = (
        held_tcp.local_addr().expect("bound"),
        held_udp.local_addr().expect("bound"),
    );
    let cases = [
        ([hub.devices, any, any], "listen.devices"),
        ([tcp, any, any], "listen.devices"),
        ([any, udp, any], "listen.time"),
        ([any, any, tcp], "listen.health"),
    ];
    for (ports, key) in cases {
        let ran = process::finish(&mut process::hub_command(&other, Ports(ports), &[]), PATIENCE);
        let said = ran.sentence(1);
        assert!(
            said.contains("in use") && said.contains(key) && said.contains("127.0.0.1:"),
            "{said}"
        );
    }
    drop((held_tcp, held_udp));
    hub.ask(&["device", "list"]).well();
    hub.stop();
    HubProcess::start(&other, &[]).stop();
}

#[test]
fn nobody_answers() {
    let outer = folder();
    let dir = outer.path().join("hub");
    process::init(&dir);
    let dir = dir.to_string_lossy();
    assert!(
        marey(&["hub", "--stop", "--dir", &dir])
            .sentence(3)
            .contains("no hub runs in")
    );
    // What needs no running hub does without.
    marey(&["session", "create", "walk", "--dir", &dir]).well();
    assert!(
        marey(&["session", "stop", "walk", "--dir", &dir])
            .sentence(1)
            .contains("walk is created")
    );
}

#[test]
fn names_that_others_would_retype_are_refused_with_a_proposal() {
    let outer = folder();
    let dir = outer.path().join("hub");
    process::init(&dir);
    let dir = dir.to_string_lossy();
    let names = [
        ("2026-11-21", "s-2026-11-21"),
        ("1e5", "s-1e5"),
        ("nan", "s-nan"),
        ("True", "s-True"),
        ("con", "s-con"),
        ("../etc", ""),
        ("walk\n", "walk"),
        ("", ""),
        ("gehen öffnen", ""),
    ];
    for (name, proposed) in names {
        let said = usage(&marey(&["session", "start", name, "--dir", &dir]));
        let wanted = format!("try \"{proposed}\"");
        assert!(
            proposed.is_empty() || said.contains(&wanted) || name.contains('\n'),
            "{name:?}: {said}"
        );
    }
    let out = outer.path().join("bundle").to_string_lossy().into_owned();
    let said = usage(&marey(&["device", "enroll", "inf", "--out", &out, "--dir", &dir]));
    assert!(said.contains("try \"d-inf\""), "{said}");
    usage(&marey(&[
        "session",
        "start",
        "walk",
        "--devices",
        "phone,1e5",
        "--dir",
        &dir,
    ]));
    usage(&marey(&["record", "--dir", &dir]));
    usage(&marey(&["hub", "--listen", "nowhere", "--dir", &dir]));
    usage(&marey(&["demo", "--devices", "0"]));
    marey(&["demo", "--seconds", "-1e99"]);
    assert!(!Path::new(&*dir).join("sessions/session=walk").exists());
}

#[test]
fn configurations_that_are_not_understood() {
    let outer = folder();
    let dir = outer.path().join("hub");
    process::init(&dir);
    let toml = dir.join("hub.toml");
    let good = std::fs::read_to_string(&toml).expect("a configuration");
    let cases = [
        ("[limits]\n\nidle_timeout = 5\n", "line 3"),
        ("[limits\n", "line 1"),
        ("[limits]\nidle_timeout_ms = \"soon\"\n", "line 2"),
        ("[limits]\ncredit_bytes = 5\n", "limits.credit_bytes = 5"),
        ("\u{0}\u{1}", "line 1"),
    ];
    for (text, where_it_is) in cases {
        std::fs::write(&toml, text).expect("written");
        let ran = process::finish(&mut process::hub_command(&dir, Ports::free(), &[]), PATIENCE);
        assert!(ran.sentence(1).contains(where_it_is), "{ran:?}");
    }
    std::fs::write(&toml, [0xFF, 0xFE]).expect("written");
    let ran = process::finish(&mut process::hub_command(&dir, Ports::free(), &[]), PATIENCE);
    assert!(ran.sentence(1).contains("UTF-8"), "{ran:?}");
    std::fs::write(&toml, good).expect("written");
    let set = |value| {
        process::finish(
            &mut process::hub_command(&dir, Ports::free(), &["--set", value]),
            PATIENCE,
        )
    };
    assert!(set("nonsense").sentence(2).contains("KEY=VALUE"));
    assert!(set("limits.nothing=1").sentence(1).contains("no key \"nothing\""));
    let mut command = process::hub_command(&dir, Ports::free(), &[]);
    let ran = process::finish(command.env("MAREY_LIMITS_IDLE_TIMEOUT_MS", "soon"), PATIENCE);
    assert!(
        ran.sentence(1).contains("MAREY_LIMITS_IDLE_TIMEOUT_MS"),
        "{ran:?}"
    );
    HubProcess::start(&dir, &["--set", "limits.idle_timeout_ms=30000"]).stop();
}

#[test]
fn requests_that_the_hub_cannot_carry_out() {
    let outer = folder();
    let (dir, bundles) = (outer.path().join("hub"), outer.path().join("bundles"));
    std::fs::create_dir(&bundles).expect("a folder");
    process::init(&dir);
    let hub = HubProcess::start(&dir, &[]);
    let bundle = hub.enroll(&bundles, "phone");
    let says = |arguments: &[&str], code, words: &[&str]| {
        let ran = hub.ask(arguments);
        let said = ran.sentence(code);
        assert!(
            words.iter().all(|word| said.contains(word)),
            "{arguments:?}: {said}"
        );
    };
    let bundle_text = bundle.to_string_lossy();
    let key = std::fs::read(bundle.join("key.pem")).expect("a key");
    says(
        &["device", "enroll", "phone", "--out", &bundle_text],
        2,
        &["is there already"],
    );
    assert_eq!(
        std::fs::read(bundle.join("key.pem")).expect("a key"),
        key,
        "a key is never overwritten"
    );
    says(
        &["device", "enroll", "Phone", "--out", "/nowhere/at/all"],
        1,
        &["in case alone", "phone"],
    );
    says(
        &["device", "revoke", "watch"],
        1,
        &["no device watch", "device list"],
    );
    says(
        &["session", "start", "walk", "--devices", "phone,watch"],
        1,
        &["no device watch is enrolled"],
    );
    for drift in ["NaN", "inf", "0", "fast"] {
        usage(&hub.ask(&["session", "start", "walk", "--max-drift-ppm", drift]));
    }
    says(&["session", "start", "walk", "--meta", "P07"], 2, &["KEY=VALUE"]);
    says(
        &["session", "stop", "walk"],
        1,
        &["no session walk", "session list"],
    );
    hub.ask(&["session", "start", "walk"]).well();
    says(&["session", "create", "Walk"], 1, &["in case alone"]);
    says(&["session", "start", "walk"], 1, &["walk is recording"]);
    says(&["session", "close", "walk"], 1, &["walk is recording", "sealed"]);
    says(&["session", "show", "run"], 1, &["no session run"]);
    hub.ask(&["session", "stop", "walk", "--wait"]).well();
    hub.ask(&["session", "close", "walk"]).well();
    says(&["session", "stop", "walk"], 1, &["walk is closed"]);
    hub.stop();
}

#[test]
fn bundles_and_recordings_that_are_missing_empty_or_cut() {
    let outer = folder();
    let (dir, bundles) = (outer.path().join("hub"), outer.path().join("bundles"));
    std::fs::create_dir(&bundles).expect("a folder");
    process::init(&dir);
    let hub = HubProcess::start(&dir, &[]);
    let bundle = hub.enroll(&bundles, "phone");
    hub.stop();
    let simulate = |bundle: &Path| {
        process::run([
            Path::new("simulate"),
            bundle,
            Path::new("--at-most"),
            Path::new("1"),
        ])
    };
    assert!(simulate(&bundles.join("none")).sentence(1).contains("hub.json"));
    for name in ["hub.json", "key.pem", "cert.pem", "ca.pem"] {
        let path = bundle.join(name);
        let good = std::fs::read(&path).expect("a bundle");
        for bad in [
            None,
            Some(&b""[..]),
            Some(&good[..good.len() / 2]),
            Some(&[0x80; 40][..]),
        ] {
            match bad {
                None => std::fs::remove_file(&path).expect("removed"),
                Some(bytes) => std::fs::write(&path, bytes).expect("written"),
            }
            let ran = simulate(&bundle);
            let said = ran.sentence(1);
            assert!(
                said.contains(name) && !said.contains("BEGIN"),
                "{name} {bad:?}: {said}"
            );
        }
        std::fs::write(&path, good).expect("written");
    }
    // The bundle is well again, and nobody is there.
    assert!(simulate(&bundle).sentence(3).contains("phone"));

    let csv = outer.path().join("walk.csv");
    let cases = [
        (None, "walk.csv"),
        (Some(""), "no header"),
        (Some("timestamp,x\n"), "no row"),
        (Some("x,y\n1,2\n"), "no time column"),
        (Some("timestamp,x\n1,1\n2\n"), "line 3"),
        (Some("timestamp,x\n2,1\n1,1\n"), "line 3"),
        (Some("timestamp,x\nnoon,1\n"), "line 2"),
    ];
    for (text, word) in cases {
        if let Some(text) = text {
            std::fs::write(&csv, text).expect("written");
        }
        let demo = outer.path().join("demo");
        let ran = process::run([
            Path::new("demo"),
            Path::new("--dir"),
            &demo,
            Path::new("--replay"),
            &csv,
        ]);
        let said = ran.sentence(1);
        assert!(
            said.contains(word) && said.contains("walk.csv"),
            "{text:?}: {said}"
        );
        assert!(!demo.exists(), "a hub was made for nothing");
    }
}

#[test]
fn what_is_looked_at_is_not_there() {
    let outer = folder();
    let (dir, nowhere) = (
        outer.path().join("hub"),
        outer.path().join("nowhere").to_string_lossy().into_owned(),
    );
    process::init(&dir);
    let (text, out) = (
        dir.to_string_lossy(),
        outer.path().join("out").to_string_lossy().into_owned(),
    );
    let file = outer.path().join("notes.txt");
    std::fs::write(&file, "not a log").expect("written");
    let file = file.to_string_lossy();
    for verb in [&["verify"][..], &["info"], &["cat"], &["recover", "--out", &out]] {
        for path in [&*nowhere, &*file, "walk", "2026-11-21"] {
            let ran = marey(&[verb, &[path, "--dir", &text]].concat());
            let said = ran.sentence(if ran.code == Some(2) { 2 } else { 1 });
            assert!(said.contains(path), "{verb:?} {path}: {said}");
        }
    }
    let inside = dir.join("salvaged").to_string_lossy().into_owned();
    let ran = marey(&["recover", &text, "--out", &inside]);
    assert!(ran.sentence(2).contains("inside"), "{ran:?}");
    let full = outer.path().to_string_lossy();
    assert!(
        marey(&["recover", &text, "--out", &full])
            .sentence(1)
            .contains("not empty")
    );
    usage(&marey(&["recover", &text]));
    usage(&marey(&["cat", "--limit", "many", &text]));
}

/// Every file of a small hub, in turn gone, empty, cut and full of something else: whoever looks says what it is, and
/// changes nothing.
#[test]
fn files_that_are_missing_empty_cut_or_something_else() {
    let outer = folder();
    let dir = outer.path().join("hub");
    let demo = [
        "demo",
        "--json",
        "--seconds",
        "3",
        "--devices",
        "2",
        "--dir",
        &dir.to_string_lossy(),
    ];
    let shown = marey(&demo).well().json();
    let session = PathBuf::from(shown["path"].as_str().expect("a path"));
    let files = tree(&dir);
    let (mut runs, mut found) = (0, 0);
    for (file, good) in &files {
        let name = file
            .strip_prefix(&dir)
            .expect("below")
            .to_string_lossy()
            .into_owned();
        // An index that is made again, a lock that holds no data, the journal's blocks (a test of their own kind).
        let is_passing = ["LOCK", "catalog.redb"].contains(&name.as_str()) || name.starts_with("journal/");
        let half = good[..good.len() / 2].to_vec();
        for (how, bad) in [
            ("gone", None),
            ("empty", Some(Vec::new())),
            ("cut", Some(half)),
            ("else", Some(vec![0xA5; 700])),
        ] {
            match &bad {
                None => std::fs::remove_file(file).expect("removed"),
                Some(bytes) => std::fs::write(file, bytes).expect("written"),
            }
            let out = outer.path().join("out");
            for verb in [
                &["verify"][..],
                &["info"],
                &["cat", "--frames"],
                &["recover", "--out", &out.to_string_lossy()],
            ] {
                let mut command = process::command(verb);
                command.arg(if verb[0] == "cat" { &session } else { &dir });
                let ran = process::finish(&mut command, PATIENCE);
                let code = ran
                    .code
                    .unwrap_or_else(|| panic!("{verb:?} with {name} {how} died of a signal: {ran:?}"));
                assert!((0..=2).contains(&code), "{verb:?} with {name} {how}: {ran:?}");
                assert!(
                    !ran.stderr.contains("panicked"),
                    "{verb:?} with {name} {how}: {ran:?}"
                );
                assert!(
                    code == 0 || ran.stderr.contains("marey: "),
                    "{verb:?} with {name} {how} says nothing: {ran:?}"
                );
                let is_log_or_parquet = name.ends_with(".mlog") || name.ends_with(".parquet");
                if verb[0] == "verify" && is_log_or_parquet && !is_passing {
                    let file_name = file.file_name().expect("a name").to_string_lossy();
                    assert!(
                        code == 1 && ran.stdout.contains(&*file_name),
                        "{name} {how} was not found: {ran:?}"
                    );
                    found += 1;
                }
                runs += 1;
            }
            if out.exists() {
                std::fs::remove_dir_all(&out).expect("removed");
            }
            match &bad {
                None => assert!(!file.exists(), "{name} was made"),
                Some(bytes) => assert_eq!(
                    &std::fs::read(file).expect("readable"),
                    bytes,
                    "{name} was changed"
                ),
            }
            std::fs::write(file, good).expect("written");
        }
    }
    assert_eq!(tree(&dir), files, "something else was changed");
    assert!(found >= 4 * 6, "{found} faults");
    println!(
        "{} files, {runs} looks at one that is damaged, {found} of verify at logs and Parquet: all found",
        files.len()
    );
    marey(&["verify", &dir.to_string_lossy()]).well();
}

/// The files below a folder with what is in them, but for the blocks of the journal, which are large.
fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).expect("a folder") {
        let entry = entry.expect("an entry");
        if entry.file_type().expect("a type").is_dir() {
            found.extend(tree(&entry.path()));
        } else if entry.metadata().expect("metadata").len() < 1 << 20 {
            found.insert(entry.path(), std::fs::read(entry.path()).expect("readable"));
        }
    }
    found
}
