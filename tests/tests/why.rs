//! `marey why`: every figure of it is found once more in the files, by other means.

#![allow(clippy::disallowed_methods, reason = "a test stands outside of the hub")]

use marey_engine::disk::OsDisk;
use marey_engine::log::Replay;
use marey_format::frame::Kind;
use marey_format::{DeviceId, SessionId};
use marey_tests::{process, python};
use serde_json::Value;
use std::path::Path;

#[test]
fn every_figure_of_why_is_in_the_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().join("hub");
    let dir_arg = dir.to_str().expect("a path");
    process::run(["demo", "--json", "--seconds", "4", "--dir", dir_arg]).well();
    let session = dir.join("sessions/session=demo");
    let manifest: Value =
        serde_json::from_slice(&std::fs::read(session.join("manifest.json")).expect("there")).expect("JSON");
    let mut asked = 0;
    for stream in manifest["streams"].as_array().expect("streams") {
        let (name, device) = (&stream["stream"], &stream["device"]);
        let (name, device) = (name.as_str().expect("a name"), device.as_str().expect("a name"));
        let part = &stream["parts"][0];
        for at in [&part["first_time"], &part["last_time"]] {
            let at = at.as_str().expect("a time");
            let said = process::run([
                "why", "demo", name, "--device", device, "--at", at, "--json", "--dir", dir_arg,
            ]);
            let why = said.well().json();
            let file = folder.path().join("why.json");
            std::fs::write(&file, why.to_string()).expect("written");
            python::run(&python::script("check_why.py"), [session.as_path(), &file]);
            frame_stands_there(&dir, device, &why);
            asked += 1;
        }
    }
    assert!(asked >= 6, "{asked}");

    // A moment beyond the end has its nearest sample; what is not there is said to be not there.
    let far = process::run([
        "why",
        "demo",
        "imu",
        "--at",
        "9999-01-01T00:00:00Z",
        "--device",
        "phone_1",
        "--json",
        "--dir",
        dir_arg,
    ]);
    let last = manifest["streams"]
        .as_array()
        .expect("streams")
        .iter()
        .find(|stream| {
            (stream["stream"].as_str(), stream["device"].as_str()) == (Some("imu@1"), Some("phone_1"))
        });
    assert_eq!(
        far.well().json()["time"],
        last.expect("it is there")["parts"][0]["last_time"]
    );
    let call = |more: &[&str]| {
        let mut arguments = vec!["why", "demo", "--dir", dir_arg];
        arguments.extend(more);
        process::run(arguments)
    };
    let several = call(&["imu", "--at", "0"]);
    assert!(
        several.code == Some(2) && several.stderr.contains("--device"),
        "{several:?}"
    );
    let none = call(&["nothing", "--at", "0"]);
    assert!(
        none.code == Some(1) && none.stderr.contains("marey info"),
        "{none:?}"
    );
    let no_time = call(&["imu", "--at", "noon"]);
    assert!(
        no_time.code == Some(2) && no_time.stderr.contains("noon"),
        "{no_time:?}"
    );
    let shown = call(&["ecg", "--at", "0"]).well().stdout;
    for part in ["Parquet", "row group", "CRC-32", "offset", "above", "below"] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    page_holds_what_json_holds(&session, folder.path());
}

/// The log's own reader meets that frame at that place.
fn frame_stands_there(dir: &Path, device: &str, why: &Value) {
    let disk = OsDisk::new(dir);
    let session = SessionId::new("demo").expect("a name");
    let device = DeviceId::new(device).expect("a name");
    let mut replay = Replay::open(&disk, &session, &device).expect("a log");
    let said = &why["log"];
    while let Some(found) = replay.next().expect("readable") {
        let header = found.at.frame.header();
        let file = format!("logs/{device}/{:06}.mlog", found.at.segment);
        if said["file"] == file && said["offset"] == found.at.offset {
            assert_eq!(header.kind, Kind::DATA);
            assert_eq!(said["crc"], format!("{:08x}", header.crc));
            assert_eq!(said["sequence"].as_u64(), Some(header.sequence));
            let seq = why["sample"]["seq"].as_u64().expect("a number");
            assert!((header.first_index..header.first_index + u64::from(header.count)).contains(&seq));
            assert_eq!(
                found.at.epoch,
                why["sample"]["epoch"].as_u64().map(|epoch| epoch as u32)
            );
            return;
        }
    }
    panic!("no frame stands at {said}");
}

/// `marey receipt --html` of the same session: nothing but itself, and every number of the JSON.
fn page_holds_what_json_holds(session: &Path, folder: &Path) {
    let page = folder.join("receipt.html");
    let (session, file) = (session.to_str().expect("a path"), page.to_str().expect("a path"));
    let json = process::run(["receipt", session, "--json", "--html", file])
        .well()
        .json();
    let page = std::fs::read_to_string(&page).expect("a page");
    for stream in json["streams"].as_array().expect("streams") {
        for key in ["captured", "received", "durable", "parquet", "missing"] {
            let cell = format!("<td>{}</td>", stream[key]);
            assert!(page.contains(&cell), "{key}: {cell}");
        }
        let title = format!(
            "{} of {}",
            stream["stream"].as_str().expect("text"),
            stream["device"].as_str().expect("text")
        );
        assert!(page.contains(&title), "{title}");
    }
    for file in json["files"].as_array().expect("files") {
        assert!(page.contains(file["path"].as_str().expect("a path")));
    }
    for value in [
        &json["sha256"],
        &json["manifest"]["sha256"],
        &json["signer"]["key_sha256"],
    ] {
        assert!(page.contains(value.as_str().expect("a hash")), "{value}");
    }
    assert!(page.matches("<svg").count() == json["streams"].as_array().expect("streams").len());
    assert!(page.contains("class=\"samples\"") && page.contains("class=\"bound\""));
    for never in ["<script", "src=", "href=", "@import", "url("] {
        assert!(!page.contains(never), "{never}");
    }
}
