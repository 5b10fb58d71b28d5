//! What somebody has who runs a hub: a service manager that is told, a configuration that is reloaded, a doctor, a bundle
//! for support, metrics and the files of `deploy/`.
//!
//! Foreign parsers judge what is meant for them: Prometheus' own client, a PromQL parser, the schemas of Kubernetes and
//! compose, hadolint, systemd-analyze. The one that only some machines have is skipped loudly where it is missing.

#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside of the hub, and waits in real time"
)]

use marey_tests::process::{self, HubProcess, PATIENCE, Ports, finish, get, hub_command, until, workspace};
use marey_tests::python;
use rustix::process::{Pid, Signal, kill_process};
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;

#[test]
fn the_service_manager_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().join("hub");
    process::init(&dir);
    let at = folder.path().join("notify.sock");
    let socket = UnixDatagram::bind(&at).expect("bound");
    socket.set_read_timeout(Some(PATIENCE)).expect("set");
    let mut command = hub_command(&dir, Ports::free(), &[]);
    command.env("NOTIFY_SOCKET", &at).env("WATCHDOG_USEC", "600000");
    let mut hub = HubProcess::spawn(command, &dir);
    assert!(hub.wait_until_up(PATIENCE), "{}", hub.stderr());
    let told = || {
        let mut buffer = [0; 4096];
        let count = socket.recv(&mut buffer).expect("the hub tells something");
        String::from_utf8_lossy(&buffer[..count]).into_owned()
    };
    let ready = told();
    assert!(
        ready.contains("READY=1") && ready.contains("STATUS=devices "),
        "{ready}"
    );
    // Signs of life go on by themselves.
    for _ in 0..3 {
        assert_eq!(told().trim(), "WATCHDOG=1");
    }
    std::fs::write(
        dir.join("hub.toml"),
        "[limits]\nconnections_max = 50\n[commit]\nflush_interval_ms = 77\n",
    )
    .expect("written");
    signal(&hub, Signal::HUP);
    let next = || loop {
        let said = told();
        if said.trim() != "WATCHDOG=1" {
            return said;
        }
    };
    let reloading = next();
    assert!(
        reloading.contains("RELOADING=1") && reloading.contains("MONOTONIC_USEC="),
        "{reloading}"
    );
    assert_eq!(next().trim(), "READY=1");
    let log = until("the log says what came of it", PATIENCE, || {
        Some(hub.stderr()).filter(|log| log.contains("from the next start"))
    });
    assert!(
        log.contains("limits.connections_max = 50") && log.contains("commit.flush_interval_ms"),
        "{log}"
    );
    assert!(hub.end(Signal::TERM).success());
    assert_eq!(next().trim(), "STOPPING=1");
}

#[test]
fn limits_change_while_it_runs_and_a_mistake_changes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().join("hub");
    process::init(&dir);
    let mut hub = HubProcess::start(&dir, &[]);
    let turned_away = |hub: &HubProcess| {
        drop(TcpStream::connect(hub.devices).expect("connected by the system"));
        metric(hub.health, "marey_connections_crowded_out_total") > 0.0
    };
    let accepted = metric(hub.health, "marey_connections_total");
    assert!(!turned_away(&hub), "there is room by default");
    until("the connection is accepted", PATIENCE, || {
        (metric(hub.health, "marey_connections_total") > accepted).then_some(())
    });
    assert_eq!(metric(hub.health, "marey_connections_crowded_out_total"), 0.0);
    std::fs::write(dir.join("hub.toml"), "[limits]\nconnections_max = 1\n").expect("written");
    signal(&hub, Signal::HUP);
    until("the reload", PATIENCE, || {
        (metric(hub.health, "marey_reloads_total") == 1.0).then_some(())
    });
    let _held = TcpStream::connect(hub.devices).expect("connected");
    until("the place is taken", PATIENCE, || {
        (metric(hub.health, "marey_connections") >= 1.0).then_some(())
    });
    until("the second is turned away", PATIENCE, || {
        turned_away(&hub).then_some(())
    });
    std::fs::write(dir.join("hub.toml"), "[limits]\nconnections_max = \"many\"\n").expect("written");
    signal(&hub, Signal::HUP);
    until("the mistake is told of", PATIENCE, || {
        hub.stderr().contains("nothing was reloaded").then_some(())
    });
    assert_eq!(metric(hub.health, "marey_reloads_total"), 1.0);
    assert_eq!(metric(hub.health, "marey_reload_failures_total"), 1.0);
    assert!(hub.is_running());
    let checked = process::run(["config", "check", "--json", "--dir", &dir.to_string_lossy()]);
    assert_eq!(checked.code, Some(1), "{checked:?}");
    assert!(
        checked.json()["faults"][0]
            .as_str()
            .is_some_and(|fault| fault.contains("line 2")),
        "{checked:?}"
    );
    hub.stop();
}

#[test]
fn logs_are_json_with_the_device_and_go_into_a_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().join("hub");
    process::init(&dir);
    let hub = HubProcess::start(
        &dir,
        &["--set", "log.format=json", "--set", "log.file=log/hub.log"],
    );
    hub.enroll(folder.path(), "phone");
    let audited = until("the log", PATIENCE, || {
        hub.stderr()
            .lines()
            .find(|line| line.contains("device_enroll"))
            .map(str::to_owned)
    });
    let line: serde_json::Value = serde_json::from_str(&audited).expect("JSON");
    for key in ["timestamp", "level", "target", "message"] {
        assert!(line[key].is_string(), "{key} is not in {line}");
    }
    hub.stop();
    let file = std::fs::read_to_string(dir.join("log/hub.log")).expect("the file");
    assert!(
        file.contains("device_enroll") && file.contains("the hub goes down"),
        "{file}"
    );
    for line in file.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
}

#[test]
fn doctor_looks_at_everything_and_says_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().join("hub");
    process::init(&dir);
    let name = dir.to_string_lossy().into_owned();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let at = taken.local_addr().expect("an address");
    std::fs::write(
        dir.join("hub.toml"),
        format!(
            "[listen]\ndevices = \"{at}\"\ntime = \"127.0.0.1:0\"\nhealth = \"127.0.0.1:0\"\nfiles = \"127.0.0.1:0\"\n"
        ),
    )
    .expect("written");
    let ran = process::run(["doctor", "--json", "--no-measure", "--dir", &name]);
    assert_eq!(ran.code, Some(1), "a port that another has is a fault: {ran:?}");
    let report = ran.json();
    let checks = report["checks"].as_array().expect("a list");
    for area in [
        "config",
        "hub",
        "permissions",
        "disk",
        "encryption",
        "clock",
        "descriptors",
        "certificates",
        "ports",
    ] {
        assert!(
            checks.iter().any(|check| check["area"] == area),
            "{area} is not in {report}"
        );
    }
    for check in checks {
        let needs = check["level"] != "ok";
        assert_eq!(check["do"].is_string(), needs, "{check}");
    }
    let fail = checks
        .iter()
        .find(|check| check["level"] == "fail" && check["area"] == "ports");
    assert!(fail.is_some_and(|check| check["what"].as_str().is_some_and(|what| what.contains("in use"))));
    drop(taken);
    let hub = HubProcess::start(&dir, &[]);
    hub.enroll(folder.path(), "phone");
    let ran = process::run(["doctor", "--json", "--dir", &name]);
    let report = ran.json();
    let all = report["checks"].as_array().expect("a list").iter();
    let of_devices = all.filter(|check| check["area"] == "certificates").find(|check| {
        check["what"]
            .as_str()
            .is_some_and(|what| what.contains("of phone"))
    });
    assert!(of_devices.is_some_and(|check| check["level"] == "ok"), "{report}");
    let of = |area: &str| {
        let checks = report["checks"].as_array().expect("a list");
        checks
            .iter()
            .find(|check| check["area"] == area)
            .cloned()
            .expect(area)
    };
    assert!(
        of("hub")["what"]
            .as_str()
            .is_some_and(|what| what.contains("takes samples")),
        "{report}"
    );
    assert_eq!(of("certificates")["level"], "ok", "{report}");
    let status = process::run(["hub", "--status", "--json", "--dir", &name]).well();
    assert_eq!(status.json()["pid"], hub.pid());
    hub.stop();
    assert_eq!(process::run(["hub", "--status", "--dir", &name]).code, Some(3));
}

#[test]
fn a_support_bundle_holds_no_secret_and_no_sample() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().join("hub");
    process::init(&dir);
    let path = dir.join("hub.toml");
    let config = std::fs::read_to_string(&path).expect("a configuration");
    let with_log = config.replace("# file = \"\"", "file = \"hub.log\"");
    assert_ne!(config, with_log);
    std::fs::write(&path, with_log).expect("written");
    let hub = HubProcess::start(&dir, &["-v"]);
    let bundle = hub.enroll(folder.path(), "phone");
    let metadata = ["session", "start", "s1", "--meta", "subject=Somebody Known"];
    hub.ask(&metadata).well();
    // As a careless program could have written it.
    let token = "c2VjcmV0LXRva2VuLTAxMjM0NTY3ODlhYmNkZWY";
    let mut log = std::fs::OpenOptions::new()
        .append(true)
        .open(dir.join("hub.log"))
        .expect("the log");
    writeln!(
        log,
        "2999-01-01T00:00:00Z  WARN marey: enrol?device=x&token={token}&y password=hunter2"
    )
    .expect("written");
    let out = folder.path().join("support.tar.gz");
    let made = hub
        .ask(&["support-bundle", "--since", "1h", "--out", &out.to_string_lossy()])
        .well();
    let files = made.json()["files"].to_string();
    for name in [
        "versions",
        "config",
        "doctor",
        "status",
        "metrics",
        "health",
        "sessions",
        "hub.log",
        "audit.jsonl",
    ] {
        assert!(files.contains(name), "{name} is not in {files}");
    }
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&out).expect("it is there").permissions());
    assert_eq!(mode & 0o777, 0o600);
    let opened = folder.path().join("opened");
    std::fs::create_dir(&opened).expect("made");
    finish(
        Command::new("tar").arg("-xzf").arg(&out).arg("-C").arg(&opened),
        PATIENCE,
    )
    .well();
    let mut all = String::new();
    for entry in std::fs::read_dir(opened.join("marey-support")).expect("a folder") {
        let path = entry.expect("an entry").path();
        all += &std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
    assert!(all.contains("the hub runs") && all.contains("marey_frames_total") && all.contains("\"s1\""));
    assert!(all.contains("enrol?device=x"), "the line itself is there");
    // Who did what stands there, and no details of it: what is known of the subject is one.
    let audited = std::fs::read_to_string(opened.join("marey-support/audit.jsonl")).expect("the audit");
    let records: Vec<serde_json::Value> = audited
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let start = records.iter().find(|record| record["action"] == "session.start");
    let start = start.unwrap_or_else(|| panic!("no start of a session in {audited}"));
    assert_eq!(
        (&start["outcome"], &start["object"]),
        (&"allowed".into(), &"session/s1".into())
    );
    assert!(
        start["actor"].is_string() && start["details"].is_null(),
        "{start}"
    );
    let mut secrets: Vec<String> = vec![token.into(), "hunter2".into(), "Somebody Known".into()];
    secrets.push("PRIVATE KEY".into());
    // Every line of every key of hub and device, of their certificates too.
    for place in [dir.join("pki"), bundle] {
        for entry in std::fs::read_dir(place).expect("a folder") {
            let bytes = std::fs::read(entry.expect("an entry").path()).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes).into_owned();
            secrets.extend(text.lines().filter(|line| line.len() >= 32).map(str::to_owned));
        }
    }
    assert!(secrets.len() > 10, "there is something to look for");
    for secret in secrets {
        assert!(!all.contains(&secret), "{secret:?} is in the bundle");
    }
    let again = hub.ask(&["support-bundle", "--out", &out.to_string_lossy()]);
    assert_eq!(again.code, Some(2), "nothing is written over: {again:?}");
    hub.stop();
}

#[test]
fn files_of_deploy_by_the_parsers_of_those_who_read_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().join("hub");
    process::init(&dir);
    let hub = HubProcess::start(&dir, &[]);
    // A scrape with commits and clocks in it.
    hub.ask(&["session", "start", "s1"]).well();
    let bundle = hub.enroll(folder.path(), "phone");
    process::run(["simulate", "--seconds", "1", &bundle.to_string_lossy()]).well();
    let scrape = folder.path().join("metrics.txt");
    // What is looked at now and then is there once somebody has looked.
    let text = until("a look at what ends", PATIENCE, || {
        let text = get(hub.health, "/metrics");
        let has = |name: &str| text.lines().any(|line| line.starts_with(name));
        (has("marey_device_certificate_not_after_seconds ") && has("marey_store_bytes{part=\"logs\"}"))
            .then_some(text)
    });
    std::fs::write(&scrape, text).expect("written");
    let script = python::script("check_deploy.py");
    let arguments = [workspace().join("deploy"), scrape];
    let ran = python::run_with(python::python_of_operations(), &script, &arguments);
    println!("{}", ran.stdout);
    hub.stop();
}

#[test]
fn the_unit_by_systemd_itself() {
    let unit = workspace().join("deploy/systemd/marey.service");
    let text = std::fs::read_to_string(&unit).expect("the unit");
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("SKIPPED: this machine has no systemd-analyze, the unit was not verified");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let copy = folder.path().join("marey.service");
    for name in [
        "marey.service",
        "marey-backup.service",
        "marey-backup.timer",
        "marey-doctor.service",
        "marey-doctor.timer",
    ] {
        let text = std::fs::read_to_string(unit.with_file_name(name)).expect("a unit");
        // The program itself is not installed here; everything else is judged as it stands.
        let text = text.replace("/usr/local/bin/marey", "/bin/true");
        std::fs::write(folder.path().join(name), text).expect("written");
    }
    let analyze = |arguments: &[&str]| {
        finish(
            Command::new("systemd-analyze").args(arguments).arg(&copy),
            PATIENCE,
        )
    };
    for name in ["marey.service", "marey-backup.timer", "marey-doctor.timer"] {
        let mut verify = Command::new("systemd-analyze");
        let verified = finish(
            verify.args(["verify", "--man=no"]).arg(folder.path().join(name)),
            PATIENCE,
        );
        assert!(
            verified.code == Some(0) && !verified.stderr.contains("marey"),
            "{verified:?}"
        );
    }
    // The canary: a mistake is found.
    std::fs::write(
        folder.path().join("wrong.service"),
        text.replace("WatchdogSec=30", "WatchdogSec=soon"),
    )
    .expect("written");
    let wrong = finish(
        Command::new("systemd-analyze")
            .arg("verify")
            .arg(folder.path().join("wrong.service")),
        PATIENCE,
    );
    assert!(
        wrong.stderr.contains("WatchdogSec") || wrong.code != Some(0),
        "{wrong:?}"
    );
    // 10 is without any protection; fails above 2.0.
    let security = analyze(&["security", "--offline=true", "--threshold=20", "--no-pager"]).well();
    println!("{}", security.stdout.lines().last().unwrap_or_default());
}

#[test]
fn a_hub_that_was_just_installed_passes_the_list() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().join("hub");
    process::init(&dir);
    let hub = HubProcess::start(&dir, &[]);
    let url = format!("https://{}", hub.devices);
    let ran = hub.ask(&["selftest", "--url", &url]).well();
    let report = ran.json();
    let checks = report["checks"].as_array().expect("a list");
    assert_eq!(checks.len(), 10, "{report}");
    // Nobody was named who could sign in.
    let skipped: Vec<_> = checks
        .iter()
        .filter(|check| check["result"] == "skip")
        .map(|check| &check["check"])
        .collect();
    assert_eq!(skipped, ["sign in", "answer with a token"], "{report}");
    assert_eq!(report["passed"], 8, "{report}");
    // Both of its devices are left revoked.
    let devices = hub.ask(&["device", "list"]).well().json();
    let devices = devices.as_array().expect("a list");
    assert!(
        devices.len() == 2 && devices.iter().all(|device| device["revoked"] == true),
        "{devices:?}"
    );
    // The canary: what is not as it must be is found. This device is welcome, and was said to be revoked.
    let welcome = hub.enroll(folder.path(), "phone");
    let ran = hub.ask(&["selftest", "--url", &url, "--revoked", &welcome.to_string_lossy()]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let report = ran.json();
    let failed: Vec<_> = report["checks"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|check| check["result"] == "fail")
        .map(|check| &check["check"])
        .collect();
    assert_eq!(failed, ["a revoked device is refused"], "{report}");
    hub.stop();
    let ran = process::run(["selftest", "--url", &url, "--dir", &dir.to_string_lossy()]);
    assert_eq!(ran.code, Some(3), "{ran:?}");
}

fn signal(hub: &HubProcess, signal: Signal) {
    let pid = i32::try_from(hub.pid())
        .ok()
        .and_then(Pid::from_raw)
        .expect("a process");
    kill_process(pid, signal).expect("our own child");
}

fn metric(at: SocketAddr, name: &str) -> f64 {
    let text = get(at, "/metrics");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name} is not in {text}"))
        .parse()
        .expect("a number")
}

/// Rules for a firewall need no hub, and name what the configuration has.
#[test]
fn firewall_rules_follow_the_configuration() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().join("hub");
    process::init(&dir);
    std::fs::write(dir.join("hub.toml"), "[listen]\ndevices = \"0.0.0.0:9443\"\n").expect("written");
    let name = dir.to_string_lossy().into_owned();
    let rules = process::run([
        "firewall",
        "print",
        "--ufw",
        "--from",
        "192.168.2.0/24",
        "--dir",
        &name,
    ])
    .well();
    assert!(
        rules
            .stdout
            .contains("proto tcp from 192.168.2.0/24 to any port 9443"),
        "{rules:?}"
    );
    assert!(
        rules
            .stdout
            .contains("proto udp from 192.168.2.0/24 to any port 8765"),
        "{rules:?}"
    );
    let wrong = process::run([
        "firewall",
        "print",
        "--nft",
        "--from",
        "192.168.2.1/24",
        "--dir",
        &name,
    ]);
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
    let nft = process::run(["firewall", "print", "--nft", "--dir", &name]).well();
    if Path::new("/usr/sbin/nft").exists() {
        let file = folder.path().join("rules.nft");
        std::fs::write(&file, &nft.stdout).expect("written");
        let checked = finish(
            Command::new("/usr/sbin/nft")
                .arg("--check")
                .arg("--file")
                .arg(&file),
            PATIENCE,
        );
        // Whoever may not ask the kernel is no judge of the rules.
        assert!(
            checked.code == Some(0) || checked.stderr.contains("not permitted"),
            "{checked:?}"
        );
    } else {
        eprintln!("SKIPPED: this machine has no nft, the rules were not parsed");
    }
}
