//! Every role at every operation: a table of who may what, held against the hub as it runs.
//!
//! The operations are those of the description that the hub serves: one that is new and has no row here fails the test,
//! and so does a row whose operation is gone.

#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside of the hub, and waits in real time"
)]

use marey_tests::process::{self, HubProcess, PATIENCE, command, finish, until};
use marey_tests::web::{self, connected, well};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const PASSWORD: &str = "correct horse battery";

/// In the order of the table's columns. Each is a user of that name; nobody shows no token.
const WHO: [&str; 5] = ["admin", "researcher", "analyst", "viewer", NOBODY];
const NOBODY: &str = "nobody";

/// One operation of the description.
struct Row {
    id: &'static str,
    /// `+` for whoever may, `-` for whoever is refused.
    may: &'static str,
    /// What is answered to those who may: that they may is not that it can be done.
    answers: &'static [u16],
    body: &'static str,
    /// Other parts of the path than [`PARTS`].
    parts: &'static [(&'static str, &'static str)],
}

const fn row(id: &'static str, may: &'static str, answers: &'static [u16]) -> Row {
    Row {
        id,
        may,
        answers,
        body: "{}",
        parts: &[],
    }
}

impl Row {
    const fn body(self, body: &'static str) -> Self {
        Self { body, ..self }
    }

    const fn of(self, parts: &'static [(&'static str, &'static str)]) -> Self {
        Self { parts, ..self }
    }
}

const ANYBODY: &str = "+++++";
const KNOWN: &str = "++++-";
const EXPORTS: &str = "+++--";
const LEADS: &str = "++---";
const ADMIN: &str = "+----";

/// A session that is not the sealed one: what is done to it changes nothing of what others see.
const EARLY: &[(&str, &str)] = &[("session", "early")];
const OTHER: &[(&str, &str)] = &[("device", "other")];

/// Admin, researcher, analyst, viewer, nobody.
const TABLE: &[Row] = &[
    row("login", ANYBODY, &[200]).body(r#"{"user": "admin", "password": "correct horse battery"}"#),
    row("logout", KNOWN, &[204]),
    row("showMe", KNOWN, &[200]),
    row("setPassword", KNOWN, &[204])
        .body(r#"{"old": "correct horse battery", "new": "another horse battery"}"#),
    row("health", ANYBODY, &[200]),
    row("showHub", KNOWN, &[200]),
    row("listSessions", KNOWN, &[200]),
    row("createSession", LEADS, &[201]).body(r#"{"session": "made-by-WHO"}"#),
    row("showSession", KNOWN, &[200]),
    row("startSession", LEADS, &[200, 409]).of(EARLY),
    row("stopSession", LEADS, &[200, 409]).of(EARLY),
    row("closeSession", LEADS, &[200, 409]).of(EARLY),
    row("compactSession", LEADS, &[202, 409]),
    row("checkSession", KNOWN, &[200, 409]),
    row("markSession", LEADS, &[201, 409])
        .body(r#"{"label": "now"}"#)
        .of(EARLY),
    row("listAnnotations", KNOWN, &[200]),
    row("annotate", LEADS, &[201]).body(r#"{"text": "by WHO"}"#),
    row("listFiles", KNOWN, &[200]),
    row("takeFile", EXPORTS, &[200]),
    row("streamStatistics", KNOWN, &[200]),
    row("listGaps", KNOWN, &[200]),
    row("listDevices", KNOWN, &[200]),
    row("showDevice", KNOWN, &[200]),
    // Whoever may is told that there is no such device.
    row("revokeDevice", ADMIN, &[404]).of(OTHER),
    row("listAudit", ADMIN, &[200]),
    row("listJobs", KNOWN, &[200]),
    row("showJob", KNOWN, &[200]),
    // Of devices, which show an invitation; this is none.
    row("enrolDevice", ANYBODY, &[400]),
    row("describeUploads", ANYBODY, &[204]),
    row("beginUpload", LEADS, &[201]),
    // Whoever may is told that there is no such upload.
    row("showUpload", LEADS, &[404]),
    row("appendToUpload", LEADS, &[404]),
    row("giveUpUpload", LEADS, &[404]),
];

/// What stands for the parts of paths.
const PARTS: [(&str, &str); 6] = [
    ("session", "walk"),
    ("device", "phone"),
    ("stream", "gsr@1"),
    ("job", "1"),
    ("path", "manifest.json"),
    ("upload", "00000000000000000000000000000000"),
];

/// What every upload says; others are not asked for it.
const OF_UPLOADS: [(&str, &str); 5] = [
    ("Tus-Resumable", "1.0.0"),
    ("Upload-Length", "10"),
    ("Upload-Offset", "0"),
    // session walk, filename a.mp4
    ("Upload-Metadata", "session d2Fsaw==,filename YS5tcDQ="),
    ("Content-Type", "application/offset+octet-stream"),
];

struct Lab {
    _folder: tempfile::TempDir,
    hub: HubProcess,
    web: web::Hub,
}

/// A hub with somebody of each role, a sealed session of one device, and one that was not started.
fn lab() -> Lab {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().join("hub");
    let password = secret(folder.path());
    let mut init = command(["init", "--json", "--admin", "admin", "--password-file"]);
    let made = finish(init.arg(&password).arg(&dir), PATIENCE).well().json();
    let name = made["hub_name"].as_str().expect("a name").to_owned();
    // How often somebody may be refused is not what this is about.
    let hub = HubProcess::start(&dir, &["--set", "api.stranger_burst=1000"]);
    let password = password.to_string_lossy().into_owned();
    for role in WHO {
        if role == "admin" || role == NOBODY {
            continue;
        }
        hub.ask(&[
            "user",
            "add",
            role,
            "--role",
            role,
            "--password-file",
            password.as_str(),
        ])
        .well();
    }
    hub.ask(&["session", "start", "walk"]).well();
    let phone = hub.enroll(folder.path(), "phone");
    process::run(["simulate", "--seconds", "3", &phone.to_string_lossy()]).well();
    hub.ask(&["session", "stop", "walk"]).well();
    hub.ask(&["session", "create", "early"]).well();
    let web = web::Hub::new(&dir, &name, hub.devices);
    let lab = Lab {
        _folder: folder,
        hub,
        web,
    };
    let token = lab.token("admin");
    until("a seal", PATIENCE, || {
        let session = well(connected(&lab.web).get("/api/v1/sessions/walk", &token)).json();
        (session["session"]["state"] == "sealed").then_some(())
    });
    lab
}

/// The password of all of them, in a file of its owner alone.
fn secret(folder: &Path) -> PathBuf {
    let path = folder.join("password");
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(&path);
    writeln!(file.expect("a file"), "{PASSWORD}").expect("written");
    path
}

impl Lab {
    fn token(&self, user: &str) -> String {
        let login = json!({"user": user, "password": PASSWORD}).to_string();
        let headers = [("Content-Type", "application/json")];
        let said = connected(&self.web).ask("POST", "/api/v1/login", &headers, login.as_bytes());
        let said = well(said).json();
        said["token"].as_str().expect("a token").to_owned()
    }

    /// What somebody is answered.
    fn answered(&self, operation: &Operation, row: &Row, who: &str, token: Option<&str>) -> u16 {
        let mut path = operation.path.clone();
        for (part, is) in row.parts.iter().chain(&PARTS) {
            path = path.replace(&format!("{{{part}}}"), is);
        }
        let is_upload = path.starts_with("/files");
        let bearer = token.map(|token| format!("Bearer {token}"));
        let mut headers = match is_upload {
            true => OF_UPLOADS.to_vec(),
            false => vec![("Content-Type", "application/json")],
        };
        headers.extend(bearer.iter().map(|bearer| ("Authorization", bearer.as_str())));
        let body = row.body.replace("WHO", who);
        let body: &[u8] = match operation.method.as_str() {
            "post" if !is_upload => body.as_bytes(),
            "patch" => b"some bytes",
            _ => b"",
        };
        let to = match is_upload {
            true => self.web.at(self.hub.files),
            false => self.web.clone(),
        };
        let method = operation.method.to_uppercase();
        let answer = connected(&to).ask(&method, &path, &headers, body);
        answer
            .unwrap_or_else(|error| panic!("{who}: {method} {path}: {error}"))
            .status
    }
}

#[derive(Debug)]
struct Operation {
    method: String,
    path: String,
    has_token: bool,
}

/// The operations that the hub says it has.
fn operations(description: &Value) -> BTreeMap<String, Operation> {
    let paths = description["paths"].as_object().expect("paths");
    let mut found = BTreeMap::new();
    for (path, item) in paths {
        for (method, operation) in item.as_object().expect("operations") {
            let Some(id) = operation["operationId"].as_str() else {
                continue;
            };
            let operation = Operation {
                method: method.clone(),
                path: path.clone(),
                has_token: operation["security"].is_array(),
            };
            found.insert(id.to_owned(), operation);
        }
    }
    found
}

#[test]
fn every_role_at_every_operation() {
    let lab = lab();
    let description = connected(&lab.web).ask("GET", "/api/v1/openapi.json", &[], b"");
    let operations = operations(&well(description).json());
    let rows: BTreeMap<&str, &Row> = TABLE.iter().map(|row| (row.id, row)).collect();
    assert_eq!(rows.len(), TABLE.len(), "an operation has one row");
    let described: Vec<&str> = operations.keys().map(String::as_str).collect();
    let in_table: Vec<&str> = rows.keys().copied().collect();
    assert_eq!(described, in_table, "each operation has a row that says who may");

    let tokens: BTreeMap<&str, String> = WHO
        .iter()
        .filter(|who| **who != NOBODY)
        .map(|who| (*who, lab.token(who)))
        .collect();
    let mut faults = Vec::new();
    // A new password ends every token: it comes last.
    let mut in_turn: Vec<_> = TABLE.iter().collect();
    in_turn.sort_by_key(|row| row.id == "setPassword");
    for row in in_turn {
        let operation = &operations[row.id];
        assert_eq!(row.may.len(), WHO.len(), "{}", row.id);
        assert_eq!(
            operation.has_token,
            row.may.ends_with('-'),
            "{}: the description says whether a token is needed",
            row.id
        );
        for (who, may) in WHO.iter().zip(row.may.chars()) {
            let token = match row.id {
                // Its token is gone after it.
                "logout" if *who != NOBODY => Some(lab.token(who)),
                _ => tokens.get(who).cloned(),
            };
            let status = lab.answered(operation, row, who, token.as_deref());
            let is_right = match may {
                '+' => row.answers.contains(&status),
                _ if *who == NOBODY => status == 401,
                _ => status == 403,
            };
            if !is_right {
                faults.push(format!("{} by {who} ({may}): {status}", row.id));
            }
        }
    }
    assert_eq!(faults, Vec::<String>::new());
    lab.hub.stop();
}
