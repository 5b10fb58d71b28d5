//! `marey export` with a session that has everything odd, opened by the field's own tools from PyPI and held against Parquet.

#![allow(clippy::disallowed_methods, reason = "a test stands outside of the hub")]

use marey_tests::process::{self, Ran};
use marey_tests::{odd, python};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A hub with the odd session, and room for exports.
struct Rig {
    folder: TempDir,
    hub: PathBuf,
}

impl Rig {
    fn new(seconds: u64) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let hub = folder.path().join("hub");
        odd::record(&hub, seconds);
        Self { folder, hub }
    }

    fn session(&self) -> PathBuf {
        self.hub
            .join("sessions")
            .join(format!("session={}", odd::SESSION))
    }

    fn out(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn export(&self, format: &str, out: &Path, more: &[&str]) -> Ran {
        let (hub, out) = (self.hub.to_str().expect("text"), out.to_str().expect("text"));
        let call = [
            "export",
            odd::SESSION,
            "--json",
            "--dir",
            hub,
            "--format",
            format,
            "--out",
            out,
        ];
        process::run(call.iter().chain(more))
    }

    /// Rows that were held.
    fn check(&self, format: &str, out: &Path, only: &[&str]) -> u64 {
        let (session, out) = (self.session(), out.to_owned());
        let paths = [Path::new(format), &session, &out];
        let arguments = paths.into_iter().chain(only.iter().map(Path::new));
        let said = python::run(&python::script("check_formats.py"), arguments).stdout;
        let rows = said.split(' ').next().and_then(|rows| rows.parse().ok());
        rows.unwrap_or_else(|| panic!("{said}"))
    }
}

const FORMATS: [&str; 4] = ["csv", "mcap", "xdf", "bids"];

#[test]
fn what_other_programs_read_is_what_parquet_has() {
    let rig = Rig::new(40);
    for format in FORMATS {
        let out = rig.out(format);
        let shown = rig.export(format, &out, &[]).well().json();
        let streams = shown["streams"].as_array().expect("a list");
        assert_eq!(streams.len(), 4, "{shown}");
        let rows: u64 = streams
            .iter()
            .map(|stream| stream["rows"].as_u64().expect("a number"))
            .sum();
        assert_eq!(rig.check(format, &out, &[]), rows, "{format}: {shown}");
        assert!(rows > 3_900 && shown["bytes"].as_u64() > Some(10_000), "{shown}");
        // Of what was made on the way nothing is left, and nothing is replaced.
        let before = names(rig.folder.path());
        let again = rig.export(format, &out, &[]);
        assert!(again.sentence(1).contains("is there already"), "{again:?}");
        assert_eq!(names(rig.folder.path()), before);
    }
}

/// What holds the exports is held itself: one digit or byte that differs is found.
#[test]
fn a_value_that_differs_is_found() {
    let rig = Rig::new(8);
    for (format, path) in [
        ("csv", "imu@1.phone_1.csv"),
        ("xdf", ""),
        (
            "bids",
            "sub-P07/ses-odd1/motion/sub-P07_ses-odd1_task-walk_tracksys-phone1imu1_motion.tsv",
        ),
    ] {
        let out = rig.out(format);
        rig.export(format, &out, &[]).well();
        rig.check(format, &out, &[]);
        let path = if path.is_empty() {
            out.clone()
        } else {
            out.join(path)
        };
        let mut bytes = std::fs::read(&path).expect("it is there");
        let from = bytes.len() / 3;
        let at = from
            + bytes[from..]
                .iter()
                .position(u8::is_ascii_digit)
                .expect("a digit");
        bytes[at] = if bytes[at] == b'9' { b'1' } else { bytes[at] + 1 };
        std::fs::write(&path, bytes).expect("written");
        let mut check = std::process::Command::new(python::python());
        check.arg(python::script("check_formats.py")).arg(format);
        let ran = process::finish(check.arg(rig.session()).arg(&out), process::PATIENCE);
        assert_eq!(ran.code, Some(1), "{format}: {ran:?}");
    }
}

/// The package writes it itself, with HDF5's own library; the script calls it.
#[test]
fn the_python_package_writes_hdf5() {
    let rig = Rig::new(40);
    assert!(rig.check("hdf5", &rig.out("odd.h5"), &[]) > 3_900);
}

#[test]
fn a_part_of_it_is_that_part() {
    let rig = Rig::new(40);
    let from_us = odd::START_S * 1_000_000 + 5_000_000;
    let until_us = from_us + 20_000_000;
    let only = |device: &str, stream: &str| {
        [
            from_us.to_string(),
            until_us.to_string(),
            device.to_owned(),
            stream.to_owned(),
        ]
    };
    for format in FORMATS {
        let out = rig.out(&format!("{format}-part"));
        let more = [
            "--from",
            "5",
            "--to",
            "2026-11-21T08:00:25Z",
            "--device",
            "phone_1",
            "--stream",
            "imu",
        ];
        let shown = rig.export(format, &out, &more).well().json();
        let of = only("phone_1", "imu@1");
        let rows = rig.check(format, &out, &of.each_ref().map(String::as_str));
        assert!(
            (1_850..2_000).contains(&rows) && shown["streams"][0]["rows"] == rows,
            "{rows} {shown}"
        );
        let out = rig.out(&format!("{format}-all"));
        rig.export(format, &out, &more[..4]).well();
        let of = only("", "");
        assert!(rig.check(format, &out, &of.each_ref().map(String::as_str)) > rows);
    }
}

/// Out as MCAP or CSV, and in again.
#[test]
fn what_was_exported_comes_in_as_it_was() {
    let rig = Rig::new(40);
    let hub = rig.hub.to_str().expect("text");
    let import = |arguments: &[&str]| {
        process::run(
            ["import", "--dir", hub, "--json"]
                .iter()
                .chain(arguments)
                .collect::<Vec<_>>(),
        )
    };
    let session = |name: &str| rig.hub.join("sessions").join(format!("session={name}"));
    let mcap = rig.out("odd.mcap");
    rig.export("mcap", &mcap, &[]).well();
    let mcap = mcap.to_str().expect("text");
    let shown = import(&["mcap", mcap, "--session", "again"]).well().json();
    assert_eq!(
        (shown["events"].as_u64(), shown["bad_messages"].as_u64()),
        (Some(2), Some(0)),
        "{shown}"
    );
    assert!(rig.check("again", &session("again"), &[]) > 3_900);
    assert!(
        import(&["mcap", mcap, "--session", "again"])
            .sentence(1)
            .contains("--session")
    );
    let csv = rig.out("csv");
    rig.export("csv", &csv, &["--stream", "imu"]).well();
    let csv = csv.join("imu@1.phone_1.csv");
    let csv = csv.to_str().expect("text");
    let shown = import(&[
        "csv",
        csv,
        "--session",
        "table",
        "--stream",
        "imu",
        "--device",
        "phone",
    ])
    .well()
    .json();
    assert_eq!(
        shown["samples"],
        rig.check("table", &session("table"), &[]),
        "{shown}"
    );
    let dir = ["verify", "--dir", hub];
    process::run(dir).well();
}

const PSEUDONYMS: &str = r#"
shift_days = -40
[sessions]
odd-1 = "s-7"
[participants]
"P-07 Ö" = "A1"
Thumb = "A2"
"1" = "A3"
[devices]
phone_1 = "dev-a"
Watch-2 = "dev-b"
"#;

#[test]
fn pseudonyms_hide_what_they_are_for() {
    let rig = Rig::new(20);
    let file = rig.out("pseudonyms.toml");
    let path = file.to_str().expect("text").to_owned();
    let write = |text: &str| std::fs::write(&file, text).expect("written");
    write(PSEUDONYMS);
    for format in FORMATS {
        let out = rig.out(&format!("hidden.{format}"));
        let shown = rig.export(format, &out, &["--pseudonyms", &path]).well().json();
        assert_eq!(
            (&shown["session"], &shown["changes"]["shift_days"]),
            (&"s-7".into(), &(-40).into()),
            "{shown}"
        );
        assert_eq!(
            shown["changes"]["metadata_left_out"],
            serde_json::json!(["place"]),
            "{shown}"
        );
        assert_eq!(
            shown["changes"]["texts"],
            serde_json::json!(["notes@1 of dev-b", "silent@1 of dev-b"]),
            "{shown}"
        );
        assert_eq!(
            shown["changes"]["labels_left_out"],
            serde_json::json!(["description of acc_x of imu@1 of dev-a"]),
            "{shown}"
        );
        assert!(rig.check("hidden", &out, &[]) > 10_000);
    }
    let out = rig.out("never");
    let refused = |text: &str, what: &str| {
        write(text);
        let ran = rig.export("csv", &out, &["--pseudonyms", &path]);
        assert!(ran.sentence(1).contains(what), "{what}: {ran:?}");
        assert!(!out.exists());
    };
    let without = |line: &str| PSEUDONYMS.replace(line, "");
    refused(&without("odd-1 = \"s-7\""), "session \"odd-1\" has no pseudonym");
    refused(
        &without("\"P-07 Ö\" = \"A1\""),
        "participant \"P-07 Ö\" has no pseudonym",
    );
    refused(
        &without("Watch-2 = \"dev-b\""),
        "device \"Watch-2\" has no pseudonym",
    );
    refused(&PSEUDONYMS.replace("dev-b", "dev-a"), "for two");
    // However it is written.
    refused(
        &PSEUDONYMS.replace("dev-b", "a-thumb"),
        "a device's name would tell",
    );
    refused(
        &PSEUDONYMS.replace("dev-b", "of_Odd1"),
        "would tell of session \"odd-1\"",
    );
    refused(
        &PSEUDONYMS.replace("s-7", "of_THUMB"),
        "the session's pseudonym would tell",
    );
    refused(
        &PSEUDONYMS.replace("\"A1\"", "\"p07ö\""),
        "the metadata's participant would tell",
    );
    refused(&PSEUDONYMS.replace("dev-b", "7"), "no file of pseudonyms");
    refused(
        &PSEUDONYMS.replace("shift_days", "shift_hours"),
        "no file of pseudonyms",
    );
    refused(&PSEUDONYMS.replace("-40", "-400000"), "at most");
    // A name that would be told all the same.
    let named = PSEUDONYMS.replace(
        "[participants]",
        "[keep]\nmetadata = [\"place\"]\n[participants]\nroom = \"x\"",
    );
    refused(&named, "would tell of participant \"room\"");
    std::fs::remove_file(&file).expect("removed");
    assert!(
        rig.export("csv", &out, &["--pseudonyms", &path])
            .sentence(1)
            .contains("can't be read")
    );
}

#[test]
fn a_picture_shows_each_channel_and_its_gaps() {
    let rig = Rig::new(40);
    let (hub, out) = (rig.hub.to_str().expect("text"), rig.out("odd.svg"));
    let plot = |more: &[&str]| {
        let call = [
            "plot",
            odd::SESSION,
            "--json",
            "--dir",
            hub,
            "--out",
            out.to_str().expect("text"),
        ];
        process::run(call.iter().chain(more))
    };
    let shown = plot(&[]).well().json();
    assert_eq!(shown["channels"].as_array().map(Vec::len), Some(9), "{shown}");
    assert_eq!(shown["left_out"].as_array().map(Vec::len), Some(4), "{shown}");
    // A gap in each of the five channels of imu and the four of gsr.
    assert_eq!(rig.check("plot", &out, &[]), 9_009);
    plot(&["--stream", "imu", "--from", "20", "--to", "30"]).well();
    assert_eq!(rig.check("plot", &out, &[]), 5, "the gap lies before");
    assert!(
        plot(&["--stream", "notes"])
            .sentence(1)
            .contains("none of its channels is a number")
    );
    assert!(plot(&["--from", "1000"]).sentence(1).contains("no sample there"));
}

#[test]
fn what_can_not_be_is_said_in_a_sentence_and_leaves_nothing() {
    let rig = Rig::new(8);
    let out = rig.out("never");
    let before = names(rig.folder.path());
    let calls: [(&[&str], &str); 6] = [
        (&["--stream", "nothing"], "no stream nothing"),
        (&["--stream", "imu@2"], "no stream imu@2"),
        (&["--device", "nobody"], "no device nobody"),
        (
            &["--device", "Watch-2", "--stream", "imu"],
            "no stream of that kind",
        ),
        (&["--from", "9", "--to", "9"], "nothing between"),
        (
            &["--from", "2026-11-21T08:00:25Z", "--to", "3"],
            "nothing between",
        ),
    ];
    for (more, what) in calls {
        let ran = rig.export("csv", &out, more);
        assert!(matches!(ran.code, Some(1 | 2)), "{ran:?}");
        assert!(
            ran.stderr.contains(what) && ran.stderr.lines().count() == 1,
            "{what}: {ran:?}"
        );
    }
    let nowhere = rig.out("no/such/folder");
    assert!(
        rig.export("csv", &nowhere, &[])
            .sentence(1)
            .contains("can't be written to")
    );
    assert_eq!(names(rig.folder.path()), before);
    // One byte that is another, of samples and of a table: Parquet would give another value without a word.
    let part = "streams/stream=imu@1/device=phone_1/part-g0001-000000.parquet";
    for file in [part, "gaps.parquet"] {
        let path = rig.session().join(file);
        let bytes = std::fs::read(&path).expect("it is there");
        let mut other = bytes.clone();
        other[bytes.len() / 4] ^= 1;
        std::fs::write(&path, other).expect("written");
        for format in FORMATS {
            let ran = rig.export(format, &out, &[]);
            let said = ran.sentence(1);
            assert!(
                said.contains(file) && said.contains("not as it was published"),
                "{said}"
            );
        }
        std::fs::write(&path, bytes).expect("written");
    }
    assert_eq!(names(rig.folder.path()), before);
    // A session that nothing is published of, and a folder that is none.
    let manifest = rig.session().join("manifest.json");
    std::fs::rename(&manifest, rig.out("manifest.json")).expect("moved");
    assert!(
        rig.export("mcap", &out, &[])
            .sentence(1)
            .contains("nothing published yet")
    );
    let ran = process::run([
        "export",
        "/",
        "--format",
        "csv",
        "--out",
        out.to_str().expect("text"),
    ]);
    assert!(ran.code == Some(1) && ran.stderr.lines().count() == 1, "{ran:?}");
    assert!(!out.exists());
}

/// However long a session is, one batch of it is in memory at a time: the loan of a batch ends before the next is read, and
/// none is larger than the reader's own limit.
#[test]
fn a_longer_session_is_exported_in_batches() {
    let rig = Rig::new(600);
    for format in FORMATS {
        let shown = rig.export(format, &rig.out(format), &["-vv"]).well();
        let field = |name: &str| {
            let at = shown
                .stderr
                .find(&format!("{name}="))
                .unwrap_or_else(|| panic!("{shown:?}"));
            let digits = shown.stderr[at + name.len() + 1..]
                .split(|c: char| !c.is_ascii_digit())
                .next();
            digits
                .and_then(|digits| digits.parse::<u64>().ok())
                .expect("a number")
        };
        assert!(
            field("rows") > 60_000 && field("batches") >= 5,
            "{}",
            shown.stderr
        );
        assert!(field("batch_bytes_max") < 16 << 20, "{}", shown.stderr);
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let mut names: Vec<_> = entries
        .map(|entry| entry.expect("a name").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
