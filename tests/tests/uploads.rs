//! Whole media files, handed in by tus over TLS: in pieces, over a restart, and everything that is no medium.

#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside of the hub, and waits in real time"
)]

use marey_format::types::hex;
use marey_tests::hub::{Lab, PATIENCE, config, session};
use marey_tests::process::until;
use marey_tests::web::{ADA, ANA, Answer, PEOPLE, RIA, VIC, Web, base64, connected, problem, well};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

fn video(bytes: usize) -> Vec<u8> {
    let mut video = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom".to_vec();
    video.extend((video.len()..bytes).map(|n| (n * 31 % 251) as u8));
    video
}

/// Begins an upload.
fn begin(web: &mut Web, token: &str, bytes: usize, pairs: &[(&str, &str)]) -> std::io::Result<Answer> {
    let pairs: Vec<String> = pairs
        .iter()
        .map(|(key, value)| format!("{key} {}", base64(value)))
        .collect();
    let headers = [
        ("Authorization", &*format!("Bearer {token}")),
        ("Tus-Resumable", "1.0.0"),
        ("Upload-Length", &*bytes.to_string()),
        ("Upload-Metadata", &*pairs.join(",")),
    ];
    web.ask("POST", "/files", &headers, b"")
}

fn patch(web: &mut Web, token: &str, at: &str, offset: usize, bytes: &[u8]) -> std::io::Result<Answer> {
    begin_patch(web, token, at, offset, bytes.len())?;
    web.send(bytes)?;
    web.answer(false)
}

/// Says that so many bytes come.
fn begin_patch(web: &mut Web, token: &str, at: &str, offset: usize, bytes: usize) -> std::io::Result<()> {
    let headers = [
        ("Authorization", &*format!("Bearer {token}")),
        ("Tus-Resumable", "1.0.0"),
        ("Content-Type", "application/offset+octet-stream"),
        ("Upload-Offset", &*offset.to_string()),
    ];
    web.begin("PATCH", at, &headers, bytes)
}

fn offset(web: &mut Web, token: &str, at: &str) -> Answer {
    let headers = [
        ("Authorization", &*format!("Bearer {token}")),
        ("Tus-Resumable", "1.0.0"),
    ];
    web.ask("HEAD", at, &headers, b"").expect("an answer")
}

#[test]
fn a_video_comes_in_pieces_over_a_restart_and_is_whole() {
    let mut lab = Lab::with_people(config(), PEOPLE);
    let walk = session("walk");
    lab.start_session(&walk, None);
    let video = video(3 << 20);
    let hash = hex(&Sha256::digest(&video));
    let mut web = connected(&lab.web().at(lab.hub().bound().files));
    let said = [
        ("session", "walk"),
        ("filename", "walk.mp4"),
        ("sha256", hash.as_str()),
        ("device_time_ns", "9223372036854775807"),
    ];
    let begun = well(begin(&mut web, RIA, video.len(), &said));
    let at = begun.header("location").expect("a place").to_owned();
    assert_eq!(begun.status, 201);
    let half = 1_500_001;
    let taken = well(patch(&mut web, RIA, &at, 0, &video[..half]));
    assert_eq!(
        (taken.status, taken.header("upload-offset")),
        (204, Some("1500001"))
    );
    problem(patch(&mut web, RIA, &at, 0, &video[..1000]), 409);
    problem(patch(&mut web, ADA, &at, half, b"x"), 404);
    assert!(
        !lab.session_dir(&walk).join("media").exists(),
        "it is in quarantine"
    );

    lab.end();
    lab.start();
    let mut web = connected(&lab.web().at(lab.hub().bound().files));
    let known = offset(&mut web, RIA, &at);
    assert_eq!(
        (known.status, known.header("upload-offset")),
        (200, Some("1500001"))
    );
    well(patch(&mut web, RIA, &at, half, &video[half..]));
    let stored = std::fs::read(lab.session_dir(&walk).join("media/walk.mp4")).expect("it is stored");
    assert!(stored == video, "its bytes are those that were sent");
    assert_eq!(offset(&mut web, RIA, &at).status, 404);

    let mut api = connected(&lab.web());
    let files = well(api.get("/api/v1/sessions/walk/files", VIC)).json();
    let media = files["items"]
        .as_array()
        .expect("files")
        .iter()
        .find(|file| file["path"] == "media/walk.mp4");
    let media = media.expect("it is listed");
    assert_eq!(
        (&media["type"], media["sha256"].as_str()),
        (&json!("video/mp4"), Some(hash.as_str()))
    );
    let list: Value =
        serde_json::from_slice(&std::fs::read(lab.session_dir(&walk).join("media.json")).expect("a list"))
            .expect("JSON");
    assert_eq!(list["media"][0]["device_time_ns"], "9223372036854775807");
    let taken = well(api.get("/api/v1/sessions/walk/files/media/walk.mp4", ANA));
    assert!(taken.body == video);
    problem(begin(&mut web, RIA, 10, &said), 409);
}

#[test]
fn what_is_no_medium_is_not_taken() {
    let mut config = config();
    config.media.researcher_file_mib_max = 1;
    let lab = Lab::with_people(config, PEOPLE);
    lab.start_session(&session("walk"), None);
    let mut web = connected(&lab.web().at(lab.hub().bound().files));
    let named = |name: &'static str| [("session", "walk"), ("filename", name)];
    problem(begin(&mut web, RIA, (1 << 20) + 1, &named("a.mp4")), 413);
    problem(begin(&mut web, RIA, 0, &named("a.mp4")), 413);
    well(begin(&mut web, ADA, (1 << 20) + 1, &named("a.mp4")));
    problem(begin(&mut web, VIC, 10, &named("a.mp4")), 403);
    problem(
        begin(&mut web, RIA, 10, &[("session", "other"), ("filename", "a.mp4")]),
        404,
    );
    for name in ["../a.mp4", "a/b.mp4", ".a", "a\n.mp4", ""] {
        problem(
            begin(&mut web, RIA, 10, &[("session", "walk"), ("filename", name)]),
            422,
        );
    }
    // By its name a video, by its bytes a page with a script.
    let page = b"<html><script>alert(1)</script></html>";
    let at = well(begin(&mut web, RIA, page.len(), &named("a.mp4")));
    let at = at.header("location").expect("a place").to_owned();
    problem(patch(&mut web, RIA, &at, 0, page), 415);
    let video = video(1000);
    let said = [
        ("session", "walk"),
        ("filename", "b.mp4"),
        ("sha256", &*"0".repeat(64)),
    ];
    let at = well(begin(&mut web, RIA, video.len(), &said));
    let at = at.header("location").expect("a place").to_owned();
    problem(patch(&mut web, RIA, &at, 0, &[&video[..], b"more"].concat()), 413);
    assert_eq!(offset(&mut web, RIA, &at).header("upload-offset"), Some("0"));
    let headers = [
        ("Authorization", &*format!("Bearer {RIA}")),
        ("Tus-Resumable", "1.0.0"),
    ];
    assert_eq!(
        web.ask("DELETE", &at, &headers, b"").expect("an answer").status,
        204
    );
    let at = well(begin(&mut web, RIA, video.len(), &said));
    let at = at.header("location").expect("a place").to_owned();
    problem(patch(&mut web, RIA, &at, 0, &video), 422);
    assert!(!lab.session_dir(&session("walk")).join("media.json").exists());
}

/// A hub that records `walk`, a connection to it, and an upload of so many bytes that was begun there.
fn begun(config: marey_server::HubConfig, bytes: usize) -> (Lab, Web, String) {
    let lab = Lab::with_people(config, PEOPLE);
    lab.start_session(&session("walk"), None);
    let mut web = connected(&lab.web().at(lab.hub().bound().files));
    let begun = well(begin(
        &mut web,
        RIA,
        bytes,
        &[("session", "walk"), ("filename", "a.mp4")],
    ));
    let at = begun.header("location").expect("a place").to_owned();
    (lab, web, at)
}

/// Waits until nobody writes to an upload, and says how many bytes have come.
fn come(web: &mut Web, at: &str) -> usize {
    until("an upload that nobody writes to", PATIENCE, || {
        let answer = offset(web, RIA, at);
        if answer.status == 423 {
            return None;
        }
        assert_eq!(answer.status, 200);
        let offset = answer.header("upload-offset").expect("an offset");
        Some(offset.parse().expect("a number"))
    })
}

#[test]
fn a_piece_takes_as_long_as_it_takes() {
    let mut config = config();
    config.api.request_timeout_ms = 3_000;
    let video = video(400_000);
    let (lab, mut web, at) = begun(config, video.len());
    begin_patch(&mut web, RIA, &at, 0, video.len()).expect("sent");
    for piece in video.chunks(100_000) {
        std::thread::sleep(std::time::Duration::from_secs(1));
        web.send(piece).expect("sent");
    }
    assert_eq!(well(web.answer(false)).status, 204);
    let stored = std::fs::read(lab.session_dir(&session("walk")).join("media/a.mp4"));
    assert!(stored.expect("it is stored") == video);
}

#[test]
fn what_came_before_a_break_is_there_and_so_is_the_upload() {
    let video = video(4 << 20);
    let (mut lab, mut web, at) = begun(config(), video.len());
    begin_patch(&mut web, RIA, &at, 0, video.len()).expect("sent");
    web.send(&video[..2 << 20]).expect("sent");
    let mut other = connected(&lab.web().at(lab.hub().bound().files));
    let mut api = connected(&lab.web());
    let mut comes = |at_least: u64| {
        until("bytes that have come", PATIENCE, || {
            let jobs = well(api.get("/api/v1/jobs", VIC)).json();
            (jobs["items"][0]["done"].as_u64() >= Some(at_least)).then_some(())
        });
    };
    comes(1 << 20);
    assert_eq!(offset(&mut other, RIA, &at).status, 423, "somebody writes to it");
    assert_eq!(offset(&mut other, ADA, &at).status, 404, "nobody else is told so");
    // The connection breaks.
    drop(web);
    let came = come(&mut other, &at);
    assert!(came >= 1 << 20, "{came}");
    // The hub goes down in the middle of a piece.
    begin_patch(&mut other, RIA, &at, came, video.len() - came).expect("sent");
    other.send(&video[came..came + (1 << 20)]).expect("sent");
    comes(came as u64 + (1 << 20));
    lab.end();
    lab.start();
    let mut web = connected(&lab.web().at(lab.hub().bound().files));
    let known = come(&mut web, &at);
    assert!(known >= came + (1 << 20), "{known}");
    well(patch(&mut web, RIA, &at, known, &video[known..]));
    let stored = std::fs::read(lab.session_dir(&session("walk")).join("media/a.mp4"));
    assert!(stored.expect("it is stored") == video);
}

#[test]
fn a_session_that_was_closed_meanwhile_takes_no_media() {
    let video = video(1_000);
    let (lab, mut web, at) = begun(config(), video.len());
    well(patch(&mut web, RIA, &at, 0, &video[..500]));
    lab.stop_session(&session("walk"));
    well(connected(&lab.web()).post("/api/v1/sessions/walk/close", RIA, &json!({})));
    problem(patch(&mut web, RIA, &at, 500, &video[500..]), 409);
    assert_eq!(
        offset(&mut web, RIA, &at).status,
        409,
        "who asks is not told that it is done"
    );
    assert!(!lab.session_dir(&session("walk")).join("media.json").exists());
}
