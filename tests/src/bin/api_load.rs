//! Many people at the API of a hub at once, with the numbers that guides of deployments ask for:
//!
//! ```sh
//! cargo run --release -p marey-tests --bin api_load
//! ```
//!
//! A hub of its own on loopback, with a recorded session: 50 users at once, of whose answers 95 of 100 come within 200 ms;
//! 1,000 requests with 10 at once, none of which fails; 10 MB handed in within 30 s. Exit 1 where one of these does not hold.

#![allow(clippy::disallowed_methods, reason = "it measures from outside of the hub")]

use marey_tests::hub::raw::{Log, RawDevice};
use marey_tests::hub::{Lab, config, device, session};
use marey_tests::load::{self, Answered};
use std::process::ExitCode;
use std::time::{Duration, Instant};

const TOKEN: &str = "token-of-ria-0123456789abcdef0123";
const PEOPLE: &[(&str, &str, &str)] = &[(TOKEN, "ria", "researcher")];

fn main() -> ExitCode {
    let mut config = config();
    // One user stands for fifty: what one may ask is not what is measured.
    (config.api.user_burst, config.api.user_per_minute) = (10_000, 60_000);
    (config.api.address_burst, config.api.address_per_minute) = (10_000, 60_000);
    let lab = Lab::with_people(config, PEOPLE);
    record(&lab);
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
    let mut held = true;
    let users = load::run(&lab.web(), TOKEN, &paths, 50, 5_000);
    held &= told(
        "50 users at once",
        &users,
        users.percentile(95) < Duration::from_millis(200),
    );
    let ten = load::run(&lab.web(), TOKEN, &paths, 10, 1_000);
    let rate = ten.requests as f64 / ten.all.as_secs_f64();
    held &= told("10 at once", &ten, rate > 50.0);
    println!("10 at once: {rate:.0} requests a second; more than 50 are asked for");
    let took = upload(&lab, 10_000_000);
    println!(
        "10 MB handed in within {:.2} s; 30 are allowed",
        took.as_secs_f64()
    );
    held &= took < Duration::from_secs(30);
    if held {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
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

fn upload(lab: &Lab, bytes: usize) -> Duration {
    let began = Instant::now();
    let mut web = lab
        .web()
        .at(lab.hub().bound().files)
        .connect()
        .expect("connected");
    let bearer = format!("Bearer {TOKEN}");
    let length = bytes.to_string();
    // session walk, filename walk.mp4
    let said = "session d2Fsaw==,filename d2Fsay5tcDQ=";
    let headers = [
        ("Authorization", bearer.as_str()),
        ("Tus-Resumable", "1.0.0"),
        ("Upload-Length", &length),
        ("Upload-Metadata", said),
    ];
    let begun = web.ask("POST", "/files", &headers, b"").expect("an answer");
    assert_eq!(begun.status, 201, "{}", String::from_utf8_lossy(&begun.body));
    let at = begun.header("location").expect("a place").to_owned();
    let mut video = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom".to_vec();
    video.resize(bytes, 7);
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
