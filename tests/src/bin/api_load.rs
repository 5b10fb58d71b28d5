//! Many people at the API of a hub at once, with the numbers that guides of deployments ask for:
//!
//! ```sh
//! cargo run --release -p marey-tests --bin api_load
//! ```
//!
//! A hub of its own on loopback, with a recorded session, real people and the limits that it is shipped with: 50 users with
//! an API key each at once, of whose answers 95 of 100 come within 200 ms, while others hand in files of 10 MB, each of which
//! takes less than 30 s; 1,000 requests with 10 at once, none of which fails. Exit 1 where one of these does not hold.
//!
//! All of it comes from one address, which has a limit of its own: there are no more requests than fit into its burst.

#![allow(clippy::disallowed_methods, reason = "it measures from outside of the hub")]

use marey_format::{KeyName, UserId};
use marey_server::control::{PeopleAnswer, PeopleRequest, Request, Response, Role, Secret};
use marey_tests::hub::raw::{Log, RawDevice};
use marey_tests::hub::{Lab, config, device, session};
use marey_tests::load::{self, Answered};
use marey_tests::web::{Hub, base64};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

fn main() -> ExitCode {
    let config = config();
    let (limits, requests) = (
        config.api.clone(),
        OF_USERS + OF_TEN + 2 * UPLOADERS * UPLOADS_MAX,
    );
    assert!(
        requests <= limits.address_burst as usize,
        "{requests} requests do not fit into the burst of one address"
    );
    println!(
        "limits as shipped: {} at once and {} a minute for a user, {} and {} for an address; {requests} requests at most",
        limits.user_burst, limits.user_per_minute, limits.address_burst, limits.address_per_minute
    );
    let lab = Lab::with(config);
    record(&lab);
    let keys: Vec<String> = (0..USERS).map(|n| somebody(&lab, n)).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let paths: Vec<String> = [
        "/api/v1/sessions",
        "/api/v1/sessions/walk",
        "/api/v1/devices",
        "/api/v1/sessions/walk/streams/count@1/devices/phone/statistics",
        "/api/v1/sessions/walk/gaps",
        "/api/v1/sessions/walk/files",
        "/api/v1/jobs",
    ]
    .map(str::to_owned)
    .to_vec();
    let (users, uploads) = users_and_uploads(&lab, &keys, &paths);
    let mut held = told(
        "50 users at once",
        &users,
        users.percentile(95) < Duration::from_millis(200),
    );
    let slowest = uploads.iter().max().copied().unwrap_or_default();
    println!(
        "meanwhile {} files of 10 MB were handed in, the slowest within {:.2} s; 30 are allowed",
        uploads.len(),
        slowest.as_secs_f64()
    );
    held &= slowest < Duration::from_secs(30);
    let ten = load::run_as(&lab.web(), &keys, &paths, 10, OF_TEN);
    let rate = ten.requests as f64 / ten.all.as_secs_f64();
    held &= told("10 at once", &ten, rate > 50.0);
    println!("10 at once: {rate:.0} requests a second; more than 50 are asked for");
    if held {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The users ask while others hand in one file after the other.
fn users_and_uploads(lab: &Lab, keys: &[&str], paths: &[String]) -> (Answered, Vec<Duration>) {
    let (files, are_done) = (lab.web().at(lab.hub().bound().files), AtomicBool::new(false));
    let web = lab.web();
    std::thread::scope(|scope| {
        let (files, are_done) = (&files, &are_done);
        let uploaders: Vec<_> = (0..UPLOADERS)
            .map(|uploader| {
                let key = keys[uploader];
                let one_after_the_other = move || {
                    let mut took = Vec::new();
                    // The first one in any case.
                    while took.is_empty() || took.len() < UPLOADS_MAX && !are_done.load(Ordering::Acquire) {
                        let name = format!("walk-{uploader}-{}.mp4", took.len());
                        took.push(upload(files, key, &name, UPLOAD_BYTES));
                    }
                    took
                };
                scope.spawn(one_after_the_other)
            })
            .collect();
        let users = load::run_as(&web, keys, paths, USERS, OF_USERS);
        are_done.store(true, Ordering::Release);
        let uploads = uploaders
            .into_iter()
            .flat_map(|uploader| uploader.join().expect("an upload that is taken"));
        (users, uploads.collect())
    })
}

fn told(what: &str, answered: &Answered, fast: bool) -> bool {
    let ms = |percent| answered.percentile(percent).as_secs_f64() * 1e3;
    println!(
        "{what}: {} requests, {} failures, p50 {:.1} ms, p95 {:.1} ms, p99 {:.1} ms",
        answered.requests,
        answered.failures.len(),
        ms(50),
        ms(95),
        ms(99)
    );
    if let Some(first) = answered.failures.first() {
        println!("{what}: the first failure: {first}");
    }
    answered.failures.is_empty() && fast
}

/// A researcher; their API key.
fn somebody(lab: &Lab, n: usize) -> String {
    let user = UserId::new(format!("user-{n:02}")).expect("a name");
    people(
        lab,
        PeopleRequest::UserAdd {
            user: user.clone(),
            role: Role::Researcher,
            password: Secret::new("correct horse battery"),
        },
    );
    let key = PeopleRequest::KeyCreate {
        user,
        key: KeyName::new("load").expect("a name"),
        permissions: None,
        days: None,
    };
    match people(lab, key) {
        PeopleAnswer::KeyMade(made) => made.secret.tell().to_owned(),
        other => panic!("{other:?}"),
    }
}

fn people(lab: &Lab, request: PeopleRequest) -> PeopleAnswer {
    match lab.ask(Request::People(request)).expect("done") {
        Response::People(answer) => answer,
        other => panic!("{other:?}"),
    }
}

fn record(lab: &Lab) {
    let walk = session("walk");
    let bundle = lab.enroll_raw("phone");
    lab.start_session(&walk, Some(&["phone"]));
    let mut log = Log::new(&device("phone"), &walk, 1);
    let mut phone = RawDevice::record(&bundle, lab.address(), &log);
    let mut bytes = log.declare();
    (0..200).for_each(|_| bytes.extend(log.data()));
    bytes.extend(log.end());
    phone.send(&bytes);
    phone.acked([200, 2]);
    lab.stop_session(&walk);
}

/// Hands in a file, and says how long that took.
fn upload(files: &Hub, key: &str, name: &str, bytes: usize) -> Duration {
    let mut video = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom".to_vec();
    video.resize(bytes, 7);
    let began = Instant::now();
    let mut web = files.connect().expect("connected");
    let bearer = format!("Bearer {key}");
    let length = bytes.to_string();
    let said = format!("session {},filename {}", base64("walk"), base64(name));
    let headers = [
        ("Authorization", bearer.as_str()),
        ("Tus-Resumable", "1.0.0"),
        ("Upload-Length", &length),
        ("Upload-Metadata", &said),
    ];
    let begun = web.ask("POST", "/files", &headers, b"").expect("an answer");
    assert_eq!(begun.status, 201, "{}", String::from_utf8_lossy(&begun.body));
    let at = begun.header("location").expect("a place").to_owned();
    let headers = [
        ("Authorization", bearer.as_str()),
        ("Tus-Resumable", "1.0.0"),
        ("Content-Type", "application/offset+octet-stream"),
        ("Upload-Offset", "0"),
    ];
    let taken = web.ask("PATCH", &at, &headers, &video).expect("an answer");
    assert_eq!(taken.status, 204, "{}", String::from_utf8_lossy(&taken.body));
    began.elapsed()
}

const USERS: usize = 50;
const OF_USERS: usize = 1_000;
const OF_TEN: usize = 1_000;
const UPLOADERS: usize = 2;
/// Of one of them: each is two requests.
const UPLOADS_MAX: usize = 40;
const UPLOAD_BYTES: usize = 10_000_000;
