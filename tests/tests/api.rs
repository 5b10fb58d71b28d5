//! The HTTP API as its callers have it: over TLS, by a client of ours and by curl, from a login to the last byte of a file.

#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside of the hub, and waits in real time"
)]

use marey_format::SessionId;
use marey_format::types::hex;
use marey_tests::hub::raw::{Log, RawDevice, SAMPLES_PER_FRAME};
use marey_tests::hub::{Lab, PATIENCE, config, device, session};
use marey_tests::process::{finish, until};
use marey_tests::web::{ADA, ANA, PEOPLE, RIA, VIC, connected, curl, problem, well};
use marey_tests::{load, python};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::process::Command;

fn lab() -> Lab {
    Lab::with_people(config(), PEOPLE)
}

/// A sealed session of one device with so many frames.
fn recorded(lab: &Lab, id: &SessionId, frames: u64) {
    let bundle = lab.enroll_raw("phone");
    lab.start_session(id, Some(&["phone"]));
    let mut log = Log::new(&device("phone"), id, 1);
    let mut phone = RawDevice::record(&bundle, lab.address(), &log);
    let mut bytes = log.declare();
    (0..frames).for_each(|_| bytes.extend(log.data()));
    bytes.extend(log.end());
    phone.send(&bytes);
    phone.acked([frames, 2]);
    lab.stop_session(id);
}

#[test]
fn strangers_learn_that_the_hub_lives_and_no_more() {
    let lab = lab();
    let mut web = connected(&lab.web());
    let health = well(web.ask("GET", "/api/v1/health", &[], b""));
    assert_eq!(health.json()["status"], "healthy");
    for (name, value) in [
        ("strict-transport-security", "max-age=31536000"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("cache-control", "no-store"),
    ] {
        assert_eq!(health.header(name), Some(value));
    }
    let policy = health.header("content-security-policy").expect("a policy");
    assert!(
        policy.contains("default-src 'none'") && !policy.contains("unsafe"),
        "{policy}"
    );
    assert_eq!(health.header("set-cookie"), None);
    for path in [
        "/api/v1/sessions",
        "/api/v1/devices",
        "/api/v1/jobs",
        "/api/v1/hub",
    ] {
        let answer = web.ask("GET", path, &[], b"").expect("an answer");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        problem(Ok(answer), 401);
        problem(web.get(path, "wrong"), 401);
    }
    problem(web.ask("GET", "/secret", &[], b""), 404);
    let answer = web
        .ask("DELETE", "/api/v1/sessions", &[], b"")
        .expect("an answer");
    assert!(
        answer.header("allow").is_some_and(|allow| allow.contains("GET")),
        "{answer:?}"
    );
    problem(Ok(answer), 405);
    // Nothing of the API is served in the clear.
    let plain = std::net::TcpStream::connect(lab.hub().bound().health).expect("connected");
    let mut plain = plain;
    use std::io::{Read, Write};
    plain
        .write_all(b"GET /api/v1/health HTTP/1.1\r\nHost: hub\r\n\r\n")
        .expect("sent");
    let mut text = String::new();
    plain.read_to_string(&mut text).expect("answered");
    assert!(text.starts_with("HTTP/1.1 404"), "{text}");
}

#[test]
fn roles_hold() {
    let lab = lab();
    let mut web = connected(&lab.web());
    let login = json!({"user": "ria", "password": RIA});
    let token = well(web.post("/api/v1/login", "", &login)).json();
    assert_eq!(
        (token["user"].as_str(), token["role"].as_str()),
        (Some("ria"), Some("researcher"))
    );
    problem(
        web.post("/api/v1/login", "", &json!({"user": "ria", "password": "wrong"})),
        401,
    );
    problem(web.post("/api/v1/login", "", &json!({"user": "ria"})), 422);
    problem(
        web.post(
            "/api/v1/login",
            "",
            &json!({"user": "ria", "password": "x", "more": 1}),
        ),
        422,
    );

    let new = json!({"session": "walk"});
    problem(web.post("/api/v1/sessions", VIC, &new), 403);
    problem(web.post("/api/v1/sessions", ANA, &new), 403);
    let made = well(web.post("/api/v1/sessions", RIA, &new));
    assert_eq!(
        (made.status, made.header("location")),
        (201, Some("/api/v1/sessions/walk"))
    );
    assert_eq!(made.json()["state"], "created");
    problem(web.post("/api/v1/sessions", RIA, &new), 409);
    problem(
        web.post("/api/v1/sessions", RIA, &json!({"session": "2026-11-21"})),
        422,
    );
    problem(
        web.post(
            "/api/v1/sessions",
            RIA,
            &json!({"session": "x", "metadata": {"a": "b\u{1b}[2J"}}),
        ),
        422,
    );
    problem(web.get("/api/v1/sessions/nothing", VIC), 404);
    problem(web.get("/api/v1/sessions/..%2Fwalk", VIC), 400);
    problem(web.get("/api/v1/sessions?limit=0", VIC), 400);
    problem(web.get("/api/v1/sessions?cursor=zz", VIC), 400);
    problem(web.get("/api/v1/sessions?colour=red", VIC), 400);
    problem(web.post("/api/v1/devices/phone/revoke", RIA, &json!({})), 403);

    // Whole words, and what stands below them.
    let mut audited = |query: &str| {
        let found = well(web.get(&format!("/api/v1/audit?{query}"), ADA)).json();
        found["items"].as_array().expect("a list").clone()
    };
    let begins =
        |record: &Value, key: &str, with: &str| record[key].as_str().is_some_and(|it| it.starts_with(with));
    let of_ria = audited("actor=user:ria&action=session");
    assert!(!of_ria.is_empty(), "she made one");
    for record in &of_ria {
        assert!(
            begins(record, "actor", "user:ria") && begins(record, "action", "session."),
            "{record}"
        );
    }
    let whole = of_ria[0]["action"].as_str().expect("text").to_owned();
    assert!(!audited(&format!("actor=user:ria&action={whole}")).is_empty());
    for nobody in ["actor=user:ri", "action=sess"] {
        assert_eq!(audited(nobody), Vec::<Value>::new(), "{nobody}");
    }
    problem(web.post("/api/v1/devices/phone/revoke", ADA, &json!({})), 404);
    lab.enroll_raw("phone");
    let revoked = well(web.post("/api/v1/devices/phone/revoke", ADA, &json!({}))).json();
    assert_eq!(revoked["revoked"], true);
    let devices = well(web.get("/api/v1/devices", VIC)).json();
    assert_eq!(devices["items"][0]["name"], "phone");
}

#[test]
fn a_session_is_led_and_annotated_from_afar() {
    let lab = lab();
    let mut web = connected(&lab.web());
    for name in ["a", "b", "c"] {
        well(web.post("/api/v1/sessions", RIA, &json!({"session": name})));
    }
    let (mut seen, mut path) = (Vec::new(), "/api/v1/sessions?limit=2".to_owned());
    loop {
        let page = well(web.get(&path, VIC)).json();
        let items = page["items"].as_array().expect("items").clone();
        seen.extend(
            items
                .iter()
                .map(|item| item["session"].as_str().expect("a name").to_owned()),
        );
        match page["next"].as_str() {
            Some(next) => path = format!("/api/v1/sessions?limit=2&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, ["a", "b", "c"]);
    let nothing = json!({});
    problem(web.post("/api/v1/sessions/a/stop", RIA, &nothing), 409);
    // Before its start a session has no time.
    problem(
        web.post("/api/v1/sessions/a/annotations", RIA, &json!({"text": "early"})),
        409,
    );
    assert_eq!(
        well(web.post("/api/v1/sessions/a/start", RIA, &nothing)).json()["state"],
        "recording"
    );
    let said = json!({"text": "walks to the <door>", "kind": "mark", "duration_s": 1.5});
    let made = well(web.post("/api/v1/sessions/a/annotations", RIA, &said)).json();
    assert_eq!((&made["n"], &made["by"]), (&json!(1), &json!("ria")));
    let anchor = well(web.get("/api/v1/sessions/a", VIC)).json()["session"]["anchor"].clone();
    let ns = |value: &Value| {
        value
            .as_str()
            .and_then(|ns| ns.parse::<i64>().ok())
            .expect("nanoseconds")
    };
    assert!(ns(&made["time_ns"]) > ns(&anchor["utc_ns"]));
    problem(web.post("/api/v1/sessions/a/annotations", VIC, &said), 403);
    problem(
        web.post("/api/v1/sessions/a/annotations", RIA, &json!({"text": "a\u{7}b"})),
        422,
    );
    let later = (ns(&anchor["utc_ns"]) - 3_600_000_000_000).to_string();
    let said = json!({"text": "later", "time_ns": &later});
    well(web.post("/api/v1/sessions/a/annotations", RIA, &said));
    // The same rule as at the hub's machine.
    let seconds = json!({"text": "seconds", "time_ns": "1795381388"});
    problem(web.post("/api/v1/sessions/a/annotations", RIA, &seconds), 409);
    let page = well(web.get("/api/v1/sessions/a/annotations?limit=1", VIC)).json();
    assert_eq!(page["items"][0]["text"], "walks to the <door>");
    let next = page["next"].as_str().expect("a second page");
    let page = well(web.get(
        &format!("/api/v1/sessions/a/annotations?limit=1&cursor={next}"),
        VIC,
    ))
    .json();
    assert_eq!(
        (&page["items"][0]["time_ns"], &page["next"]),
        (&json!(later), &Value::Null)
    );
    well(web.post("/api/v1/sessions/a/stop", RIA, &nothing));
    until("a seal", PATIENCE, || {
        let state = well(web.get("/api/v1/sessions/a", VIC)).json();
        (state["session"]["state"] == "sealed").then_some(())
    });
    // A session is sealed as soon as its manifest stands; the job that sealed it ends after that.
    until("the end of the job that sealed it", PATIENCE, || {
        let jobs = well(web.get("/api/v1/jobs", VIC)).json();
        let job = jobs["items"].as_array().expect("jobs").last().expect("a job");
        assert_eq!(job["object"], json!("session/a"));
        (job["state"] == "done").then_some(())
    });
    let again = well(web.post("/api/v1/sessions/a/compact", RIA, &json!({"again": true})));
    assert_eq!(again.status, 202);
    until("a second generation", PATIENCE, || {
        let jobs = well(web.get("/api/v1/jobs", VIC)).json();
        (jobs["items"][0]["kind"] == "realign" && jobs["items"][0]["state"] == "done").then_some(())
    });
    assert_eq!(
        well(web.post("/api/v1/sessions/a/close", RIA, &nothing)).json()["state"],
        "closed"
    );
}

#[test]
fn what_was_recorded_is_counted_and_taken_away_byte_for_byte() {
    let (lab, walk) = (lab(), session("walk"));
    recorded(&lab, &walk, 20);
    let mut web = connected(&lab.web());
    let path = "/api/v1/sessions/walk/streams/count@1/devices/phone/statistics";
    let numbers = well(web.get(path, VIC)).json();
    assert_eq!(numbers["count"], json!(20 * SAMPLES_PER_FRAME));
    assert_eq!(
        (&numbers["missing"], &numbers["generation"]),
        (&json!(0), &json!(1))
    );
    let channel = &numbers["channels"][0];
    let (min, max) = (
        channel["min"].as_f64().expect("a least"),
        channel["max"].as_f64().expect("a most"),
    );
    assert!(min < max && channel["values"] == numbers["count"], "{numbers}");
    assert_eq!(
        well(web.get(path, VIC)).json(),
        numbers,
        "what is kept is what was made"
    );
    problem(
        web.get(
            "/api/v1/sessions/walk/streams/other@1/devices/phone/statistics",
            VIC,
        ),
        404,
    );
    problem(
        web.get("/api/v1/sessions/walk/streams/none/devices/phone/statistics", VIC),
        400,
    );
    assert_eq!(
        well(web.get("/api/v1/sessions/walk/gaps", VIC)).json()["items"],
        json!([])
    );

    let files = well(web.get("/api/v1/sessions/walk/files", VIC)).json()["items"].clone();
    let files = files.as_array().expect("files");
    let part = files.iter().find(|file| {
        file["path"]
            .as_str()
            .is_some_and(|path| path.contains("part-g0001"))
    });
    let part = part.expect("a part").clone();
    for name in [
        "manifest.json",
        "receipt-0001.json",
        "receipt-0001.json.sig",
        "receipt-0001.json.crt",
        "gaps.parquet",
        "events.parquet",
    ] {
        assert!(
            files.iter().any(|file| file["path"] == name),
            "{name} in {files:?}"
        );
    }
    let path = part["path"].as_str().expect("a path");
    let url = format!("/api/v1/sessions/walk/files/{path}");
    problem(web.get(&url, VIC), 403);
    for file in files {
        let path = file["path"].as_str().expect("a path");
        let taken = well(web.get(&format!("/api/v1/sessions/walk/files/{path}"), ANA));
        assert_eq!(
            hex(&Sha256::digest(&taken.body)),
            file["sha256"].as_str().expect("a hash"),
            "{path}"
        );
        let stored = std::fs::read(lab.session_dir(&walk).join(path)).expect("it stands there");
        assert!(stored == taken.body, "{path}");
    }
    let whole = well(web.get(&url, ANA));
    let tag = whole.header("etag").expect("a tag").to_owned();
    let bearer = format!("Bearer {ANA}");
    let mut range = |range: &str, more: (&str, &str)| {
        let headers = [("Authorization", bearer.as_str()), ("Range", range), more];
        web.ask("GET", &url, &headers, b"").expect("an answer")
    };
    let some = range("bytes=4-9", ("If-Range", &tag));
    assert_eq!((some.status, &some.body[..]), (206, &whole.body[4..10]));
    let of = format!("bytes 4-9/{}", whole.body.len());
    assert_eq!(some.header("content-range"), Some(of.as_str()));
    assert_eq!(range("bytes=-4", ("Accept", "*/*")).body, b"PAR1");
    assert_eq!(range("bytes=4-9", ("If-Range", "\"other\"")).status, 200);
    assert_eq!(range("bytes=0-", ("If-None-Match", &tag)).status, 304);
    problem(Ok(range("bytes=99999999-", ("Accept", "*/*"))), 416);
    for wrong in [
        "session.json",
        "logs/phone/000001.mlog",
        "../../identity.redb",
        "..%2f..%2fidentity.redb",
        "%2e%2e/%2e%2e/pki/ca.key.pem",
        "media/../manifest.json",
        "/etc/passwd",
    ] {
        problem(web.get(&format!("/api/v1/sessions/walk/files/{wrong}"), ADA), 404);
    }
}

#[test]
fn too_many_requests_are_told_when_to_come_again() {
    let mut config = config();
    (config.api.user_burst, config.api.user_per_minute) = (5, 1);
    (config.api.stranger_burst, config.api.stranger_per_minute) = (3, 1);
    let lab = Lab::with_people(config, PEOPLE);
    let mut web = connected(&lab.web());
    let mut statuses = Vec::new();
    for _ in 0..8 {
        let answer = web.get("/api/v1/jobs", VIC).expect("an answer");
        if answer.status == 429 {
            let after: u64 = answer
                .header("retry-after")
                .and_then(|s| s.parse().ok())
                .expect("seconds");
            assert!((1..=60).contains(&after));
        }
        statuses.push(answer.status);
    }
    assert_eq!(statuses[..5], [200; 5]);
    assert!(statuses.contains(&429), "{statuses:?}");
    assert_eq!(
        web.get("/api/v1/jobs", ANA).expect("an answer").status,
        200,
        "others are not held back"
    );
    let strangers: Vec<u16> = (0..6)
        .map(|_| web.get("/api/v1/jobs", "x").expect("an answer").status)
        .collect();
    assert_eq!(
        (&strangers[..3], strangers[5]),
        (&[401; 3][..], 429),
        "{strangers:?}"
    );
    let metrics = lab.hub().metrics_text();
    assert!(!metrics.contains("marey_api_limited_total 0\n"), "{metrics}");
}

#[test]
fn curl_knows_its_way() {
    let (lab, walk) = (lab(), session("walk"));
    recorded(&lab, &walk, 20);
    let web = lab.web();
    let Some(_) = curl(&lab.dir(), &web) else { return };
    let url = |path: &str| format!("https://{}:{}{path}", web.name, web.address.port());
    let call = |arguments: &[&str]| {
        let mut command: Command = curl(&lab.dir(), &web).expect("it was there");
        finish(command.args(arguments), PATIENCE)
    };
    let login = format!(r#"{{"user":"ana","password":"{ANA}"}}"#);
    let said = call(&["--fail", "--json", &login, &url("/api/v1/login")])
        .well()
        .json();
    let bearer = format!(
        "Authorization: Bearer {}",
        said["token"].as_str().expect("a token")
    );
    let list = call(&["--fail", "-H", &bearer, &url("/api/v1/sessions/walk/files")])
        .well()
        .json();
    let part = list["items"].as_array().expect("files").iter().find(|file| {
        file["path"]
            .as_str()
            .is_some_and(|path| path.contains("part-g0001"))
    });
    let part = part.expect("a part");
    let file = url(&format!(
        "/api/v1/sessions/walk/files/{}",
        part["path"].as_str().expect("a path")
    ));
    // Broken off after 100 bytes, gone on with by curl's own means.
    let to = lab.beside("taken.parquet");
    let to_text = to.to_str().expect("a path");
    call(&[
        "--fail", "-H", &bearer, "--range", "0-99", "--output", to_text, &file,
    ])
    .well();
    assert_eq!(std::fs::metadata(&to).expect("a file").len(), 100);
    call(&[
        "--fail",
        "-H",
        &bearer,
        "--continue-at",
        "-",
        "--output",
        to_text,
        &file,
    ])
    .well();
    let hash = hex(&Sha256::digest(std::fs::read(&to).expect("a file")));
    assert_eq!(Some(hash.as_str()), part["sha256"].as_str());
    let refused = call(&["--fail", &url("/api/v1/sessions")]);
    assert_eq!(refused.code, Some(22), "an HTTP error: {refused:?}");
    let old = call(&["--tls-max", "1.1", &url("/api/v1/health")]);
    assert_eq!(old.code, Some(35), "TLS 1.1 is not spoken: {old:?}");
}

#[test]
fn many_people_at_once_are_all_answered() {
    let (lab, walk) = (lab(), session("walk"));
    recorded(&lab, &walk, 20);
    let paths = load_paths("walk");
    let answered = load::run(&lab.web(), VIC, &paths, 50, 500);
    assert_eq!(answered.failures, Vec::<String>::new());
    assert_eq!(answered.requests, 500);
    let answered = load::run(&lab.web(), ANA, &paths, 10, 300);
    assert_eq!(answered.failures, Vec::<String>::new());
    assert_eq!(answered.requests, 300);
}

fn load_paths(session: &str) -> Vec<String> {
    vec![
        "/api/v1/sessions".into(),
        format!("/api/v1/sessions/{session}"),
        "/api/v1/devices".into(),
        format!("/api/v1/sessions/{session}/streams/count@1/devices/phone/statistics"),
        format!("/api/v1/sessions/{session}/gaps"),
        "/api/v1/jobs".into(),
    ]
}

#[test]
fn the_description_is_what_is_served() {
    let mut config = config();
    // What is tested here is not how many requests are taken.
    for burst in [
        &mut config.api.user_burst,
        &mut config.api.address_burst,
        &mut config.api.stranger_burst,
        &mut config.api.user_per_minute,
        &mut config.api.address_per_minute,
        &mut config.api.stranger_per_minute,
    ] {
        *burst = 1_000_000;
    }
    let (lab, walk) = (Lab::with_people(config, PEOPLE), session("walk"));
    recorded(&lab, &walk, 5);
    let url = format!("https://localhost:{}/api/v1/openapi.json", lab.address().port());
    // The same description stands on the port for files, whose paths are asked there.
    let port = lab.hub().bound().files;
    let description = well(connected(&lab.web()).ask("GET", "/api/v1/openapi.json", &[], b""));
    let of_files = well(connected(&lab.web().at(port)).ask("GET", "/api/v1/openapi.json", &[], b""));
    assert!(description.body == of_files.body);
    let said = description.json();
    let server = &said["paths"]["/files"]["servers"][0];
    assert_eq!(server["variables"]["port"]["default"], port.port().to_string());
    std::fs::write(
        lab.dir().parent().expect("a folder").join("schemathesis.toml"),
        SCHEMATHESIS,
    )
    .expect("written");
    let hooks = python::script("schemathesis_bytes.py");
    let mut command = Command::new(python::python());
    command
        .env("NO_COLOR", "1")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PYTHONPATH", hooks.parent().expect("a folder"))
        .env("SCHEMATHESIS_HOOKS", "schemathesis_bytes")
        .args(["-m", "schemathesis.cli", "run", &url, "--tls-verify"])
        .arg(lab.dir().join("pki/ca.cert.pem"))
        .args(["--header", &format!("Authorization: Bearer {ADA}")])
        .args([
            "--checks",
            "not_a_server_error,response_schema_conformance,response_headers_conformance,content_type_conformance,\
             status_code_conformance,negative_data_rejection,missing_required_header,unsupported_method,ignored_auth",
        ])
        .args([
            "--seed",
            "1",
            "--max-examples",
            "15",
            "--request-timeout",
            "20",
            "--no-color",
        ])
        .current_dir(lab.dir().parent().expect("a folder"));
    let ran = finish(&mut command, std::time::Duration::from_secs(300));
    assert_eq!(ran.code, Some(0), "{}\n{}", ran.stdout, ran.stderr);
    let metrics = lab.hub().metrics_text();
    assert!(
        metrics.contains("marey_api_requests_total{class=\"5xx\"} 0\n"),
        "{metrics}"
    );
    let served = metrics
        .lines()
        .find_map(|line| line.strip_prefix("marey_api_requests_total{class=\"2xx\"} "));
    let served: u64 = served.and_then(|count| count.parse().ok()).expect("a count");
    assert!(served > 50, "schemathesis was answered well {served} times only");
}

/// What is asked is to be of something that is there, mostly; and by what statuses nonsense is refused.
const SCHEMATHESIS: &str = r#"
[parameters]
session = "walk"
device = "phone"
stream = "count@1"
job = 1
Tus-Resumable = "1.0.0"

[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 409, 412, 413, 415, 422]

[checks.missing_required_header]
expected-statuses = [400, 401, 412, 415]
"#;
