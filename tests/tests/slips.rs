//! Slips of a hurried hand on a recording that can't be made twice: outputs that would land among its files, damage that would be
//! printed as a value, a moment that is none of the session's.

#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside of the hub, and changes files under it"
)]

use marey_tests::process::{self, Ran};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A hub as `marey demo` leaves it, and room beside it.
struct Demo {
    folder: TempDir,
    hub: PathBuf,
}

impl Demo {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let hub = folder.path().join("marey-demo");
        process::run([Path::new("demo"), Path::new("--dir"), &hub]).well();
        Self { folder, hub }
    }

    fn beside(&self, name: &str) -> String {
        text(&self.folder.path().join(name))
    }

    fn of_session(&self, name: &str) -> String {
        text(&self.hub.join("sessions/session=demo").join(name))
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        let hub = text(&self.hub);
        process::run(arguments.iter().copied().chain(["--dir", &hub]))
    }

    /// The session's files with what is in them.
    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        let mut folders = vec![self.hub.join("sessions")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                match path.is_dir() {
                    true => folders.push(path),
                    false => drop(found.insert(path.clone(), std::fs::read(path).expect("readable"))),
                }
            }
        }
        found
    }
}

fn text(path: &Path) -> String {
    path.to_str().expect("text").to_owned()
}

#[test]
fn no_output_lands_among_what_was_recorded() {
    let demo = Demo::new();
    let before = demo.files();
    let (log, manifest) = (
        demo.of_session("logs/phone_1/000001.mlog"),
        demo.of_session("manifest.json"),
    );
    let sessions = text(&demo.hub.join("sessions/new"));
    let inner = demo.of_session("new");
    for calls in [
        ["plot", "demo", "--out", &log],
        ["plot", "demo", "--out", &manifest],
        ["plot", "demo", "--out", &sessions],
        ["clock", "plot", "demo", "--out"],
        ["receipt", "demo", "--html", &inner],
        ["archive", "demo", "--to", &sessions],
        ["archive", "demo", "--to", &inner],
        ["recover", "demo", "--out", &inner],
        ["support-bundle", "--out", &inner, "--verbose"],
    ] {
        let mut call = calls.to_vec();
        if calls[0] == "clock" {
            call.push(&inner);
        }
        let refused = demo.run(&call);
        assert!(
            refused.sentence(2).contains("nothing but its own"),
            "{call:?}: {refused:?}"
        );
    }
    let export = |to: &str| demo.run(&["export", "demo", "--format", "csv", "--out", to]);
    assert!(export(&sessions).sentence(2).contains("nothing but its own"));
    let whole_hub = demo.run(&[
        "recover",
        &text(&demo.hub),
        "--out",
        &text(&demo.hub.join("salvaged")),
    ]);
    assert!(whole_hub.sentence(2).contains("lies inside"), "{whole_hub:?}");
    assert!(
        !demo.hub.join("salvaged").exists(),
        "nothing is made in what is only read"
    );
    assert!(demo.files() == before, "a file of the recording is another");

    // A picture may take the place of an earlier one, and of nothing else.
    let notes = demo.beside("notes.txt");
    std::fs::write(&notes, "mine").expect("written");
    assert!(
        demo.run(&["plot", "demo", "--out", &notes])
            .sentence(2)
            .contains("there already")
    );
    assert_eq!(std::fs::read(&notes).expect("there"), b"mine");
    for _ in 0..2 {
        demo.run(&["plot", "demo", "--out", &demo.beside("demo.svg")])
            .well();
    }
}

#[test]
fn damage_is_named_and_never_printed_as_a_value() {
    let demo = Demo::new();
    let part = demo.of_session("streams/stream=imu@1/device=phone_1/part-g0001-000000.parquet");
    let whole = std::fs::read(&part).expect("a part");
    let mut changed = whole.clone();
    changed[200] ^= 4;
    std::fs::write(&part, changed).expect("written");
    let of = |stream: &str, device: &str| demo.run(&["cat", "demo", "--stream", stream, "--device", device]);
    let refused = of("imu", "phone_1");
    assert!(
        refused.sentence(1).contains("not as it was published") && refused.stdout.is_empty(),
        "{refused:?}"
    );
    let why = demo.run(&[
        "why",
        "demo",
        "imu",
        "--device",
        "phone_1",
        "--at",
        "2026-11-21T09:30:00Z",
    ]);
    assert!(why.sentence(1).contains("not as it was published"), "{why:?}");
    // What is whole is given.
    assert!(of("gsr", "watch_1").well().stdout.lines().count() > 50);
    std::fs::write(&part, whole).expect("written");
    of("imu", "phone_1").well();

    // What a receipt says is signed: JSON that is whole, and says something else.
    demo.run(&["verify"]).well();
    let receipt = demo.of_session("receipt-0001.json");
    let said = std::fs::read_to_string(&receipt).expect("a receipt");
    let other = said.replacen("\"captured\": \"", "\"captured\": \"1", 1);
    assert_ne!(said, other);
    std::fs::write(&receipt, other).expect("written");
    let found = demo.run(&["verify"]);
    assert_eq!(found.code, Some(1), "{found:?}");
    assert!(found.stdout.contains("receipt-0001.json"), "{found:?}");
    std::fs::write(&receipt, said).expect("written");
    demo.run(&["verify"]).well();
}

#[test]
fn what_is_not_there_is_said_and_not_left_empty() {
    let demo = Demo::new();
    for format in ["csv", "mcap", "xdf", "bids"] {
        let out = demo.beside(&format!("out-{format}"));
        // Seconds since 1970, taken for seconds since the start.
        let none = demo.run(&[
            "export",
            "demo",
            "--format",
            format,
            "--from",
            "1795381386",
            "--out",
            &out,
        ]);
        let sentence = none.sentence(1);
        assert!(
            sentence.contains("no sample there; it has some from"),
            "{sentence}"
        );
        assert!(!Path::new(&out).exists());
    }
    for kind in ["--samples", "--frames", "--events"] {
        let nobody = demo.run(&["cat", "demo", kind, "--device", "nosuch"]);
        assert!(nobody.sentence(1).contains("phone_1"), "{nobody:?}");
        assert_eq!(
            demo.run(&["cat", "demo", kind, "--stream", "imu"]).code,
            Some(2),
            "{kind} knows no stream"
        );
    }
    let clear = demo.run(&["archive", "demo", "--to", &demo.beside("demo.zip.age")]);
    assert!(clear.sentence(1).contains("--encrypt-to"), "{clear:?}");
}
