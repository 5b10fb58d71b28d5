//! People as they meet a hub: an admin from `init`, logins by curl, roles and studies, API keys, and the end of all of it at
//! once. The binary as it is, the API over TLS, a client that nobody here wrote.

#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside of the hub, and waits in real time"
)]

use marey_tests::process::{self, HubProcess, PATIENCE, Ran, command, finish, until};
use marey_tests::python;
use marey_tests::web::{self, curl};
use serde_json::{Value, json};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const PASSWORD: &str = "correct horse battery";

/// How often somebody may be refused is not what most of these are about.
const PATIENT: &[&str] = &["--set", "api.stranger_burst=1000"];

struct Lab {
    folder: tempfile::TempDir,
    hub: HubProcess,
    web: web::Hub,
}

/// A hub with an admin `ada`, as `init --admin` makes it.
fn lab(more: &[&str]) -> Lab {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().join("hub");
    let file = secret(folder.path(), "ada", PASSWORD);
    let mut init = command(["init", "--json", "--admin", "ada", "--password-file"]);
    let made = finish(init.arg(&file).arg(&dir), PATIENCE).well().json();
    assert_eq!((&made["admin"], &made["password"]), (&json!("ada"), &Value::Null));
    let name = made["hub_name"].as_str().expect("a name").to_owned();
    let hub = HubProcess::start(&dir, more);
    let web = web::Hub::new(&dir, &name, hub.devices);
    Lab { folder, hub, web }
}

/// A file of its owner alone.
fn secret(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(format!("{name}.secret"));
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)
        .expect("a file");
    writeln!(file, "{text}").expect("written");
    path
}

impl Lab {
    fn ask(&self, arguments: &[&str]) -> Ran {
        self.hub.ask(arguments)
    }

    fn add(&self, user: &str, role: &str) {
        let file = secret(self.folder.path(), user, PASSWORD);
        let file = file.to_string_lossy();
        self.ask(&["user", "add", user, "--role", role, "--password-file", &file])
            .well();
    }

    /// An answer by curl: its status and body.
    fn curl(&self, arguments: &[&str]) -> Option<(u16, Value)> {
        let mut call: Command = curl(&self.hub.dir, &self.web)?;
        let (path, rest) = arguments.split_last().expect("a path");
        let url = format!("https://{}:{}{path}", self.web.name, self.web.address.port());
        call.args(["--write-out", "\n%{http_code}"]).args(rest).arg(url);
        let ran = finish(&mut call, PATIENCE).well();
        let (body, status) = ran.stdout.rsplit_once('\n').expect("a status");
        let body = serde_json::from_str(body).unwrap_or(Value::Null);
        Some((status.parse().expect("a number"), body))
    }

    fn get(&self, token: &str, path: &str) -> (u16, Value) {
        let bearer = format!("Authorization: Bearer {token}");
        self.curl(&["-H", &bearer, path]).expect("curl is there")
    }

    fn post(&self, token: &str, path: &str, body: &Value) -> (u16, Value) {
        let (bearer, body) = (format!("Authorization: Bearer {token}"), body.to_string());
        self.curl(&["-H", &bearer, "--json", &body, path])
            .expect("curl is there")
    }

    fn login(&self, user: &str, password: &str) -> (u16, Value) {
        let body = json!({"user": user, "password": password}).to_string();
        self.curl(&["--json", &body, "/api/v1/login"])
            .expect("curl is there")
    }

    fn token(&self, user: &str) -> String {
        let (status, said) = self.login(user, PASSWORD);
        assert_eq!(status, 200, "{said}");
        said["token"].as_str().expect("a token").to_owned()
    }

    fn audit(&self, filter: &[&str]) -> Vec<Value> {
        let ran = self.ask(&[&["audit", "show"][..], filter].concat()).well();
        let lines = ran.stdout.lines();
        lines
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect()
    }
}

fn has_curl() -> bool {
    let there = Command::new("curl").arg("--version").output().is_ok();
    if !there {
        eprintln!("SKIPPED: there is no curl here; install it to hold the API against a foreign client");
    }
    there
}

/// A problem (RFC 9457) of a status.
#[track_caller]
fn problem(answer: (u16, Value), status: u16, code: &str) {
    assert_eq!(
        (answer.0, &answer.1["code"]),
        (status, &json!(code)),
        "{}",
        answer.1
    );
    assert_eq!(answer.1["status"], status);
}

#[test]
fn somebody_logs_in_and_is_let_into_what_is_theirs() {
    if !has_curl() {
        return;
    }
    let lab = lab(PATIENT);
    problem(
        lab.curl(&["/api/v1/sessions"]).expect("curl"),
        401,
        "unauthenticated",
    );
    problem(
        lab.get("marey_token_0", "/api/v1/sessions"),
        401,
        "unauthenticated",
    );
    problem(lab.login("ada", "something else"), 401, "wrong_login");
    problem(lab.login("nobody", PASSWORD), 401, "wrong_login");
    let ada = lab.token("ada");
    let (status, me) = lab.get(&ada, "/api/v1/me");
    assert_eq!(
        (status, &me["user"], &me["role"], &me["key"]),
        (200, &json!("ada"), &json!("admin"), &Value::Null)
    );
    assert_eq!(me["permissions"].as_array().map(Vec::len), Some(7), "{me}");

    // Two studies, a session in each and one in none; a viewer who is let into one.
    lab.add("vic", "viewer");
    lab.ask(&["study", "create", "gait", "--description", "how they walk"])
        .well();
    lab.ask(&["study", "create", "sleep"]).well();
    for (session, study) in [("walk", Some("gait")), ("night", Some("sleep")), ("open", None)] {
        let metadata = study.map_or(json!({}), |study| json!({"study": study}));
        let (status, made) = lab.post(
            &ada,
            "/api/v1/sessions",
            &json!({"session": session, "metadata": metadata}),
        );
        assert_eq!(status, 201, "{made}");
    }
    lab.ask(&["study", "grant", "gait", "vic", "--role", "viewer"])
        .well();
    let vic = lab.token("vic");
    let names = |token: &str| -> Vec<String> {
        let (status, list) = lab.get(token, "/api/v1/sessions");
        assert_eq!(status, 200, "{list}");
        let items = list["items"].as_array().expect("items").iter();
        items
            .map(|item| item["session"].as_str().expect("a name").to_owned())
            .collect()
    };
    assert_eq!(names(&ada), ["night", "open", "walk"]);
    assert_eq!(
        names(&vic),
        ["open", "walk"],
        "no session of a study that is not theirs"
    );
    assert_eq!(lab.get(&vic, "/api/v1/sessions/walk").0, 200);
    problem(lab.get(&vic, "/api/v1/sessions/night"), 403, "forbidden");
    problem(
        lab.post(&vic, "/api/v1/sessions/walk/start", &json!({})),
        403,
        "forbidden",
    );
    problem(
        lab.post(&vic, "/api/v1/sessions", &json!({"session": "mine"})),
        403,
        "forbidden",
    );
    problem(lab.get(&vic, "/api/v1/audit"), 403, "forbidden");
    // More, in that study alone, and at once.
    lab.ask(&["study", "grant", "gait", "vic", "--role", "researcher"])
        .well();
    assert_eq!(lab.post(&vic, "/api/v1/sessions/walk/start", &json!({})).0, 200);
    let new = |study: &str| json!({"session": format!("new-{study}"), "metadata": {"study": study}});
    assert_eq!(lab.post(&vic, "/api/v1/sessions", &new("gait")).0, 201);
    problem(
        lab.post(&vic, "/api/v1/sessions", &new("sleep")),
        403,
        "forbidden",
    );
    problem(
        lab.post(&vic, "/api/v1/sessions", &new("not-there")),
        403,
        "forbidden",
    );
    problem(
        lab.post(&vic, "/api/v1/sessions", &new("../gait")),
        422,
        "invalid",
    );
    lab.ask(&["study", "revoke", "gait", "vic"]).well();
    assert_eq!(names(&vic), ["open"]);

    // What was denied stands in the audit log, soon.
    let denied = until("denials in the audit log", PATIENCE, || {
        let denied: Vec<_> = lab
            .audit(&["--actor", "user:vic"])
            .into_iter()
            .filter(|record| record["outcome"] == "denied")
            .map(|record| (record["action"].clone(), record["object"].clone()))
            .collect();
        (denied.len() >= 6).then_some(denied)
    });
    for (action, object) in [
        ("data.view", json!("study/sleep")),
        ("session.manage", json!("study/gait")),
        ("session.create", Value::Null),
        ("session.create", json!("study/sleep")),
        ("audit.view", Value::Null),
    ] {
        assert!(
            denied.contains(&(json!(action), object.clone())),
            "{action} {object} in {denied:?}"
        );
    }
    let (status, page) = lab.get(&ada, "/api/v1/audit?actor=user:vic&action=user.login");
    assert_eq!(
        (status, page["items"].as_array().map(Vec::len)),
        (200, Some(1)),
        "{page}"
    );
    lab.hub.stop();
}

#[test]
fn what_lets_in_ends_at_once() {
    if !has_curl() {
        return;
    }
    let lab = lab(PATIENT);
    lab.add("ria", "researcher");
    let path = "/api/v1/sessions";
    let made = lab
        .ask(&[
            "apikey",
            "create",
            "ria",
            "nightly",
            "--permission",
            "data.view",
            "--days",
            "30",
        ])
        .well()
        .json();
    let key = made["secret"].as_str().expect("a key").to_owned();
    assert_eq!(lab.get(&key, path).0, 200);
    problem(
        lab.post(&key, path, &json!({"session": "walk"})),
        403,
        "forbidden",
    );
    let me = lab.get(&key, "/api/v1/me").1;
    assert_eq!(
        (&me["key"], &me["permissions"]),
        (&json!("nightly"), &json!(["data.view"])),
        "{me}"
    );
    // The command line takes it as any other client does.
    let file = secret(lab.folder.path(), "key", &key);
    let mut list = command(["session", "list", "--json", "--url"]);
    list.arg(format!("https://localhost:{}", lab.web.address.port()));
    list.arg("--ca").arg(lab.hub.dir.join("pki/ca.cert.pem"));
    assert_eq!(
        finish(list.arg("--token-file").arg(&file), PATIENCE)
            .well()
            .json(),
        json!([])
    );
    let keys = lab.ask(&["apikey", "list"]).well();
    assert!(
        keys.stdout.contains("nightly") && !keys.stdout.contains(&key),
        "{keys:?}"
    );
    lab.ask(&["apikey", "revoke", "ria", "nightly"]).well();
    problem(lab.get(&key, path), 401, "unauthenticated");

    let ends: [&[&str]; 4] = [
        &["token", "revoke", "--user", "ria"],
        &["user", "role", "ria", "analyst"],
        &["user", "lock", "ria"],
        &["user", "remove", "ria"],
    ];
    for end in ends {
        if end[1] == "remove" {
            lab.ask(&["user", "unlock", "ria"]).well();
        }
        let token = lab.token("ria");
        assert_eq!(lab.get(&token, path).0, 200, "{end:?}");
        lab.ask(end).well();
        problem(lab.get(&token, path), 401, "unauthenticated");
    }
    problem(lab.login("ria", PASSWORD), 401, "wrong_login");

    let token = lab.token("ada");
    let other = lab.token("ada");
    let listed = lab.ask(&["token", "list", "--user", "ada"]).well().json();
    assert_eq!(listed.as_array().map(Vec::len), Some(2), "{listed}");
    assert_eq!(lab.post(&token, "/api/v1/logout", &json!({})).0, 204);
    problem(lab.get(&token, path), 401, "unauthenticated");
    assert_eq!(lab.get(&other, path).0, 200, "a logout ends one");
    let new = secret(lab.folder.path(), "new", "another horse battery");
    lab.ask(&["user", "passwd", "ada", "--password-file", &new.to_string_lossy()])
        .well();
    problem(lab.get(&other, path), 401, "unauthenticated");
    problem(lab.login("ada", PASSWORD), 401, "wrong_login");
    assert_eq!(lab.login("ada", "another horse battery").0, 200);

    // No secret in the log, in the audit, or in what a support bundle would take.
    let said = lab.hub.stderr() + &lab.ask(&["audit", "show"]).well().stdout;
    for secret in [PASSWORD, "another horse battery", &token, &other, &key] {
        assert!(!said.contains(secret), "{secret:?} in {said}");
    }
    lab.hub.stop();
}

#[test]
fn five_failures_lock_and_a_restart_opens_nothing() {
    if !has_curl() {
        return;
    }
    let lab = lab(&[]);
    for _ in 0..5 {
        problem(lab.login("ada", "wrong password"), 401, "wrong_login");
    }
    problem(lab.login("ada", PASSWORD), 401, "wrong_login");
    let Lab { folder, hub, web } = lab;
    let (dir, ports) = (hub.dir.clone(), hub.ports());
    hub.stop();
    let hub = HubProcess::start_again(&dir, ports, &[]);
    let lab = Lab { folder, hub, web };
    problem(lab.login("ada", PASSWORD), 401, "wrong_login");
    let shown = lab.ask(&["user", "show", "ada"]).well().json();
    assert_eq!(shown["locked"], "after failures", "{shown}");
    lab.ask(&["user", "unlock", "ada"]).well();
    assert_eq!(lab.login("ada", PASSWORD).0, 200);
    let metrics = process::get(lab.hub.health, "/metrics");
    for line in [
        "marey_sign_ins_total{result=\"accepted\"} 1",
        "marey_sign_ins_total{result=\"locked\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    lab.hub.stop();
}

#[test]
fn whoever_guesses_is_told_when_to_come_again() {
    if !has_curl() {
        return;
    }
    let lab = lab(&[
        "--set",
        "api.stranger_burst=3",
        "--set",
        "api.stranger_per_minute=1",
    ]);
    let answers: Vec<u16> = (0..6)
        .map(|n| lab.login(&format!("guess-{n}"), "wrong password").0)
        .collect();
    assert!(
        answers.contains(&401) && answers.last() == Some(&429),
        "{answers:?}"
    );
    problem(lab.login("ada", PASSWORD), 429, "slow_down");
    lab.hub.stop();
}

#[test]
fn a_hub_that_was_just_installed_passes_the_whole_list() {
    let lab = lab(&[]);
    let url = format!("https://{}", lab.hub.devices);
    let file = lab.folder.path().join("ada.secret");
    let file = file.to_string_lossy();
    let ran = lab
        .ask(&[
            "selftest",
            "--url",
            &url,
            "--user",
            "ada",
            "--password-file",
            &file,
        ])
        .well();
    let report = ran.json();
    assert_eq!(
        (&report["passed"], &report["skipped"]),
        (&json!(10), &json!(0)),
        "{report}"
    );
    lab.hub.stop();
}

#[test]
fn people_are_looked_after_without_a_hub_too_and_mistakes_are_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().join("hub");
    // A password that is drawn is told once.
    let made = finish(command(["init", "--json"]).arg(&dir), PATIENCE)
        .well()
        .json();
    let drawn = made["password"].as_str().expect("a password");
    assert!(drawn.len() == 29 && made["admin"] == "admin", "{made}");
    let marey =
        |arguments: &[&str]| finish(command(arguments).arg("--json").arg("--dir").arg(&dir), PATIENCE);
    let users = marey(&["user", "list"]).well().json();
    assert_eq!(
        (&users[0]["user"], &users[0]["role"]),
        (&json!("admin"), &json!("admin"))
    );
    let good = secret(folder.path(), "good", PASSWORD);
    let good = good.to_string_lossy().into_owned();
    let add = |name: &str, role: &str, file: &str| {
        marey(&["user", "add", name, "--role", role, "--password-file", file])
    };
    add("ada", "researcher", &good).well();
    // Each mistake is one sentence that says what to do.
    assert!(add("Ada", "viewer", &good).sentence(1).contains("already"));
    let weak = secret(folder.path(), "weak", "short")
        .to_string_lossy()
        .into_owned();
    assert!(add("tom", "viewer", &weak).sentence(1).contains("at least 12"));
    let open = folder.path().join("open.secret");
    std::fs::write(&open, PASSWORD).expect("written");
    assert!(
        add("tom", "viewer", &open.to_string_lossy())
            .sentence(1)
            .contains("chmod")
    );
    let empty = secret(folder.path(), "empty", "").to_string_lossy().into_owned();
    assert!(add("tom", "viewer", &empty).sentence(2).contains("password"));
    let no_terminal = marey(&["user", "add", "tom", "--role", "viewer"]);
    assert!(no_terminal.sentence(2).contains("--password-file"));
    assert!(
        marey(&["user", "show", "nobody"])
            .sentence(1)
            .contains("no user nobody")
    );
    assert!(
        marey(&["token", "revoke", "00000000"])
            .sentence(1)
            .contains("no token")
    );
    assert!(
        marey(&["study", "grant", "unmade", "ada", "--role", "viewer"])
            .sentence(1)
            .contains("no study unmade")
    );
    assert!(
        marey(&["session", "create", "walk", "--meta", "study=typo"])
            .sentence(1)
            .contains("no study typo")
    );
    // What was meant would stay in the clear, or be kept for ever.
    let key = folder.path().join("typo.key");
    let key = key.to_str().expect("UTF-8");
    for verb in [
        &["key", "make", "typo", "--out", key][..],
        &["key", "remove", "typo"],
        &["retention", "set", "typo", "--keep-logs"],
    ] {
        assert!(marey(verb).sentence(1).contains("no study typo"), "{verb:?}");
        assert!(!Path::new(key).exists(), "{verb:?}");
    }
    std::fs::write(key, "another key").expect("written");
    let taken = marey(&["key", "make", "default", "--out", key]);
    let taken = taken.sentence(1);
    assert!(
        taken.contains("typo.key is there already") && taken.contains("--out"),
        "{taken}"
    );
    assert!(
        marey(&["study", "create", "default"])
            .sentence(1)
            .contains("always")
    );
    for usage in [
        &["user", "add", "a b", "--role", "viewer"][..],
        &["user", "add", "tom", "--role", "king"],
        &["token", "revoke"],
        &["study", "create", "../x"],
        &["audit", "show", "--since", "yesterday"],
    ] {
        assert_eq!(marey(usage).code, Some(2), "{usage:?}");
    }
    // Who did it stands there, as somebody without a hub.
    let records = marey(&["audit", "show", "--action", "user"]).well();
    let records: Vec<Value> = records
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let actor = records[0]["actor"].as_str().expect("an actor");
    assert!(
        actor.starts_with("uid:") && actor.ends_with("/offline"),
        "{actor}"
    );
    let failed = records.iter().filter(|record| record["outcome"] == "failed");
    assert_eq!(failed.count(), 2, "{records:?}");
    assert!(!format!("{records:?}").contains(PASSWORD) && !format!("{records:?}").contains(drawn));
    // A hub that is there already keeps who there is.
    assert_eq!(finish(command(["init"]).arg(&dir), PATIENCE).code, Some(1));
    assert_eq!(
        marey(&["user", "list"]).well().json().as_array().map(Vec::len),
        Some(2)
    );
}

/// What is typed on a terminal is not shown on it, and is the password.
#[test]
fn a_password_that_is_typed_is_not_echoed() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().join("hub");
    process::init(&dir);
    let script = python::script("type_password.py");
    let mut typed = Command::new("python3");
    process::clean(typed.arg(script).arg(PASSWORD).arg(process::marey()));
    typed
        .args(["user", "add", "ada", "--role", "viewer", "--dir"])
        .arg(&dir);
    let ran = finish(&mut typed, PATIENCE).well();
    assert!(ran.stdout.contains("New password of ada"), "{ran:?}");
    assert!(!ran.stdout.contains(PASSWORD), "{ran:?}");
    let users = finish(command(["user", "list", "--json", "--dir"]).arg(&dir), PATIENCE)
        .well()
        .json();
    assert_eq!(users.as_array().map(Vec::len), Some(2), "{users}");
    // Two that differ change nothing.
    let mut typed = Command::new("python3");
    process::clean(
        typed
            .arg(python::script("type_password.py"))
            .arg("--differ")
            .arg(process::marey()),
    );
    typed
        .args(["user", "add", "tom", "--role", "viewer", "--dir"])
        .arg(&dir);
    assert_eq!(finish(&mut typed, PATIENCE).code, Some(2));
}
