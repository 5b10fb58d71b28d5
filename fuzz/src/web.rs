//! What comes to the HTTP API: headers, cursors, ranges, paths, bodies.

use marey_format::SessionId;
use marey_server::fuzzed;

/// `Upload-Metadata`: pairs that hold no more than was sent, or one sentence.
pub fn upload_metadata(bytes: &[u8]) {
    match fuzzed::upload_metadata(bytes) {
        Ok(pairs) => {
            let held: usize = pairs.iter().map(|(key, value)| key.len() + value.len()).sum();
            assert!(held <= bytes.len(), "{held} bytes of {}", bytes.len());
            let commas = bytes.iter().filter(|byte| **byte == b',').count();
            assert!(pairs.len() <= commas + 1);
            for (key, _) in &pairs {
                assert!(!key.contains([' ', ',']), "{key:?}");
            }
        }
        Err(why) => is_sentence(&why),
    }
}

pub fn metadata_seeds() -> Vec<Vec<u8>> {
    [
        "session d2Fsaw==,filename d2Fsay5tcDQ=",
        "filename d2Fsay5tcDQ=,sha256 YWI=,device cGhvbmU=,stream dmlkZW9AMQ==,session d2Fsaw==",
        "device_time_ns OTIyMzM3MjAzNjg1NDc3NTgwNw==, time_ns LTE=,is_confidential",
        "session,,filename w6k=",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

/// A `cursor`: what is taken is a cursor of what it was taken for; and any key comes back from its own.
pub fn api_cursor(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    match fuzzed::cursor(text) {
        Ok(key) => assert_eq!(fuzzed::cursor_of(&key), text.to_ascii_lowercase()),
        Err(why) => is_sentence(&why),
    }
    let cursor = fuzzed::cursor_of(text);
    if cursor.len() <= CURSOR_CHARS_MAX {
        assert_eq!(fuzzed::cursor(&cursor), Ok(text.to_owned()));
    }
}

pub fn cursor_seeds() -> Vec<Vec<u8>> {
    ["walk-01", "00000000000000000042", "media/a é.mp4", ""]
        .iter()
        .flat_map(|key| [fuzzed::cursor_of(key).into_bytes(), key.as_bytes().to_vec()])
        .collect()
}

/// A `Range` of a file whose length the first eight bytes say: a piece of it, or none.
pub fn http_range(bytes: &[u8]) {
    let Some((length, range)) = bytes.split_first_chunk::<8>() else {
        return;
    };
    let (length, Ok(range)) = (u64::from_le_bytes(*length), std::str::from_utf8(range)) else {
        return;
    };
    if let Ok((from, to)) = fuzzed::range(range, length) {
        assert!(from <= to && to <= length, "{from} to {to} of {length}");
        let is_whole = (from, to) == (0, length);
        assert!(is_whole || from < to, "an empty piece: {from} to {to}");
    }
}

pub fn range_seeds() -> Vec<Vec<u8>> {
    let ranges = [
        "bytes=0-0",
        "bytes=4-9",
        "bytes=99-",
        "bytes=-4",
        "bytes=0-18446744073709551615",
        "bytes=1-2,4-5",
        "bytes=-",
    ];
    let of = |length: u64| ranges.map(|range| [&length.to_le_bytes()[..], range.as_bytes()].concat());
    [0, 1, 100, u64::MAX].into_iter().flat_map(of).collect()
}

/// A request's target as the path of a file: what is taken names a session, and was decoded once.
pub fn file_path(bytes: &[u8]) {
    let Ok(target) = std::str::from_utf8(bytes) else {
        return;
    };
    let Some((session, path)) = fuzzed::file_path(target) else {
        return;
    };
    assert!(SessionId::new(session.as_str()).is_ok(), "{session:?}");
    assert!(!path.is_empty());
    let encoded: String = path
        .bytes()
        .map(|byte| match byte {
            b'/' => "/".to_owned(),
            byte => format!("%{byte:02X}"),
        })
        .collect();
    let again = format!("/api/v1/sessions/{session}/files/{encoded}");
    if again.len() <= TARGET_BYTES_MAX {
        assert_eq!(fuzzed::file_path(&again), Some((session, path)));
    }
}

pub fn path_seeds() -> Vec<Vec<u8>> {
    [
        "manifest.json",
        "streams/stream=imu@1/device=phone/part-g0001-000000.parquet",
        "media/caf%C3%A9.mp4",
        "../../identity.redb",
        "..%2f..%2fidentity.redb",
        "%252e%252e/pki/ca.key.pem",
        "/etc/passwd?x=1#y",
        "%ff%00",
    ]
    .map(|path| format!("/api/v1/sessions/walk/files/{path}").into_bytes())
    .to_vec()
}

/// A body of JSON, for the operation that the first byte names: taken, or refused with one sentence.
pub fn json_body(bytes: &[u8]) {
    let Some((operation, body)) = bytes.split_first() else {
        return;
    };
    let (status, answer) = fuzzed::json_body(*operation, body).expect("an answer");
    if status == 200 {
        return;
    }
    assert!([400, 413, 415, 422].contains(&status), "{status}");
    let problem: serde_json::Value = serde_json::from_slice(&answer).expect("a problem is JSON");
    assert_eq!(problem["status"], status);
    is_sentence(problem["detail"].as_str().expect("a sentence"));
}

pub fn body_seeds() -> Vec<Vec<u8>> {
    let bodies = [
        r#"{"user": "ada", "password": "correct horse battery"}"#,
        r#"{"old": "correct horse battery", "new": "another horse battery"}"#,
        r#"{"session": "walk", "devices": ["phone"], "metadata": {"study": "gait"}, "max_drift_ppm": 50.5, "max_time_error_us": null}"#,
        r#"{"label": "the door"}"#,
        r#"{"again": true}"#,
        r#"{"time_ns": "-9223372036854775808", "duration_s": 1.5e3, "kind": "note", "text": "caf\u00e9", "device": "phone", "stream": "imu@1"}"#,
    ];
    (0u8..)
        .zip(bodies)
        .map(|(operation, body)| [&[operation], body.as_bytes()].concat())
        .collect()
}

/// What somebody is refused with: short, and steering no terminal.
fn is_sentence(why: &str) {
    let is_one = !why.is_empty() && why.chars().count() <= 500 && !why.contains(char::is_control);
    assert!(is_one, "{why:?}");
}

/// Longer ones are no cursors.
const CURSOR_CHARS_MAX: usize = 512;
/// What HTTP's library takes as a target.
const TARGET_BYTES_MAX: usize = 60_000;
