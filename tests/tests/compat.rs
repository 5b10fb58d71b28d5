//! A whole hub as the first version wrote it, `format-spec/vectors/hubs/v1`: every later version opens it, verifies it,
//! reads every row of it, and goes on recording in it. The folder is never edited: its files are held against their sums.
//!
//! It holds a sealed session of two generations (two devices, one of them with two boots, a gap, events, probes) and one
//! that was being recorded when the hub was killed, with frames that stand in the journal alone.
//!
//! `make` made it, once: `cargo test -p marey-tests --test compat -- --ignored make`. It refuses where there is one.

#![allow(clippy::disallowed_methods, reason = "looks at a hub's files from outside")]

#[path = "compat/first.rs"]
mod first;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{
    DataType, Float32Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType, UInt16Type,
};
use first::{SESSION_OPEN, SESSION_SEALED};
use marey_engine::disk::OsDisk;
use marey_engine::read::{Reader, streams};
use marey_engine::salvage::verify_hub;
use marey_engine::time::simulated::SimulatedKernel;
use marey_engine::{Options, RecoveryReport, Session, SessionState, Store};
use marey_format::SessionId;
use marey_format::checksum::crc32;
use marey_format::types::hex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

#[test]
fn nobody_touched_it() {
    assert_eq!(files(&hub()), expected()["files"]);
    let bytes: u64 = list(&expected()["files"])
        .iter()
        .map(|file| file["bytes"].as_u64().unwrap())
        .sum();
    assert!(bytes < 512 << 10, "{bytes} bytes are too many for a vector");
}

#[test]
fn it_verifies() {
    let copy = copy();
    let report = verify_hub(copy.path()).unwrap();
    assert!(report.faults.is_empty(), "{:#?}", report.faults);
    let expected = &expected()["verified"];
    let checked = &report.checked;
    let found = json!({
        "sessions": checked.sessions, "logs": checked.logs, "samples": checked.samples,
        "journal_frames": checked.journal_frames, "parquet_rows": checked.parquet_rows,
    });
    assert_eq!(found, *expected);
    assert_eq!(files(copy.path()), files(&hub()), "verifying changes nothing");
}

#[test]
fn it_opens_and_every_row_is_read() {
    // As the first version was set up, and as hubs are now: sizes of blocks and segments are no part of the format.
    for options in [
        first::options(),
        Options {
            disk_floor_bytes: Some(0),
            ..Options::default()
        },
    ] {
        let copy = copy();
        let (store, report) = open(copy.path(), &options);
        assert!(
            report.faults.is_empty() && report.unreadable.is_empty(),
            "{report:?}"
        );
        assert!(
            report.journal_records > 0,
            "frames that stand in the journal alone are replayed"
        );
        store
            .flush_session_logs(&SessionId::new(SESSION_OPEN).unwrap())
            .unwrap();
        assert_eq!(rows(copy.path(), &store.sessions(), &options), expected()["rows"]);
        store.close().unwrap();
    }
}

#[test]
fn without_its_catalog_it_says_the_same() {
    let copy = copy();
    std::fs::remove_file(copy.path().join("catalog.redb")).unwrap();
    let (store, _) = open(copy.path(), &first::options());
    store
        .flush_session_logs(&SessionId::new(SESSION_OPEN).unwrap())
        .unwrap();
    assert_eq!(
        rows(copy.path(), &store.sessions(), &first::options()),
        expected()["rows"]
    );
}

#[test]
fn its_recording_goes_on_and_is_sealed() {
    let copy = copy();
    let (store, _) = open(copy.path(), &first::options());
    let id = SessionId::new(SESSION_OPEN).unwrap();
    let mut phone = first::Device::phone_again();
    let log = store.open_log(&phone.id, &phone.open(&id)).unwrap();
    assert_eq!(
        log.next.data,
        phone.sent_before(),
        "what the first version acknowledged is here"
    );
    phone.record_on(&store, log.handle);
    store.stop_session(&id).unwrap();
    let sealed = store.seal_session(&id, &|_| {}).unwrap();
    assert_eq!(sealed.session.state, SessionState::Sealed);
    let samples = phone.samples();
    assert_eq!(sealed.compacted.rows(), samples);
    assert!(sealed.compacted.complete(), "{:#?}", sealed.compacted.receipt);
    store.close().unwrap();
    drop(store);
    let report = verify_hub(copy.path()).unwrap();
    assert!(report.faults.is_empty(), "{:#?}", report.faults);
}

#[test]
fn its_registry_is_read() {
    use marey_server::pki::Registry;
    let copy = copy();
    let (store, _) = open(copy.path(), &first::options());
    let found = marey_server::StoredRegistry::new(Arc::new(store)).list().unwrap();
    assert_eq!(
        json!(found.iter().map(|record| &record.name).collect::<Vec<_>>()),
        expected()["devices"]
    );
}

#[test]
fn the_reference_reads_its_logs() {
    let script = workspace().join("format-spec/reference/read_log.py");
    let session = hub().join(Session::dir(&SessionId::new(SESSION_SEALED).unwrap()));
    let output = Command::new("python3")
        .arg(script)
        .arg(session)
        .arg("--samples")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let lines = output
        .stdout
        .split(|&b| b == b'\n')
        .filter(|line| !line.is_empty())
        .count();
    let expected = expected();
    let rows = list(&expected["rows"])
        .iter()
        .filter(|row| row["session"] == SESSION_SEALED);
    assert_eq!(
        lines as u64,
        rows.map(|row| row["rows"].as_u64().unwrap()).sum::<u64>()
    );
}

#[test]
#[ignore = "makes the hub of the first version; it is there"]
fn make() {
    assert!(
        !hub().exists(),
        "{} is there, and is never edited",
        hub().display()
    );
    let options = first::options();
    let recorded = first::make(&hub());
    let copy = copy();
    let (store, _) = open(copy.path(), &options);
    store
        .flush_session_logs(&SessionId::new(SESSION_OPEN).unwrap())
        .unwrap();
    let rows = rows(copy.path(), &store.sessions(), &options);
    // What was read is what was put in, before it is written down as the truth.
    for (session, stream, device, count) in recorded {
        let row = list(&rows)
            .iter()
            .find(|row| row["session"] == session && row["stream"] == stream && row["device"] == device);
        assert_eq!(
            row.map(|row| row["rows"].as_u64()),
            Some(Some(count)),
            "{session} {stream} {device}"
        );
    }
    let checked = verify_hub(&hub()).unwrap().checked;
    let facts = json!({
        "about": "The hub in the folder v1, as the first version of Marey wrote it: its files, and what stands in it. \
                  `sha256` is over the rows of a stream as tests/tests/compat.rs writes them.",
        "verified": {
            "sessions": checked.sessions, "logs": checked.logs, "samples": checked.samples,
            "journal_frames": checked.journal_frames, "parquet_rows": checked.parquet_rows,
        },
        "devices": ["phone", "watch"],
        "rows": rows,
        "files": files(&hub()),
    });
    let text = serde_json::to_string_pretty(&facts).unwrap() + "\n";
    std::fs::write(hub().with_extension("json"), text).unwrap();
}

// --- what is in it ---

fn open(dir: &Path, options: &Options) -> (Store, RecoveryReport) {
    // A later boot of the hub, a day later.
    let kernel = SimulatedKernel::new(2, first::UTC_NS + 86_400_000_000_000);
    Store::open(Arc::new(OsDisk::new(dir)), kernel.hub_clock(), options.clone()).unwrap()
}

/// Every stream of every session: its state, how many rows, and their digest.
fn rows(dir: &Path, sessions: &[Session], options: &Options) -> Value {
    let disk = OsDisk::new(dir);
    let mut found = Vec::new();
    for session in sessions {
        for (stream, device) in streams(&disk, session, options).unwrap() {
            let (mut count, mut digest) = (0, Sha256::new());
            for batch in Reader::open(&disk, session, &stream, &device, options).unwrap() {
                let batch = batch.unwrap();
                count += batch.num_rows();
                for row in 0..batch.num_rows() {
                    let schema = batch.schema();
                    for (field, column) in schema.fields().iter().zip(batch.columns()) {
                        // Alignment may get better with time, what was captured does not.
                        if !["time", "time_err_us"].contains(&field.name().as_str()) || is_sealed(session) {
                            digest.update(format!("{}={};", field.name(), cell(column, row)));
                        }
                    }
                    digest.update("\n");
                }
            }
            found.push(json!({
                "session": session.id, "state": session.state, "generation": session.generation,
                "stream": stream.to_string(), "device": device, "rows": count, "sha256": hex(&digest.finalize()),
            }));
        }
    }
    Value::Array(found)
}

fn is_sealed(session: &Session) -> bool {
    session.state == SessionState::Sealed
}

/// One value as text that does not depend on anybody's taste: floats by their bits.
fn cell(column: &ArrayRef, row: usize) -> String {
    assert!(!column.is_null(row));
    match column.data_type() {
        DataType::Timestamp(..) => column
            .as_primitive::<TimestampMicrosecondType>()
            .value(row)
            .to_string(),
        DataType::Int64 => column.as_primitive::<Int64Type>().value(row).to_string(),
        DataType::Int32 => column.as_primitive::<Int32Type>().value(row).to_string(),
        DataType::UInt16 => column.as_primitive::<UInt16Type>().value(row).to_string(),
        DataType::Float32 => format!(
            "{:08x}",
            column.as_primitive::<Float32Type>().value(row).to_bits()
        ),
        DataType::Float64 => format!(
            "{:016x}",
            column.as_primitive::<Float64Type>().value(row).to_bits()
        ),
        DataType::Boolean => column.as_boolean().value(row).to_string(),
        DataType::Utf8 => format!("{:?}", column.as_string::<i32>().value(row)),
        DataType::FixedSizeList(..) => {
            let items = column.as_fixed_size_list().value(row);
            (0..items.len())
                .map(|item| cell(&items, item))
                .collect::<Vec<_>>()
                .join(",")
        }
        other => panic!("a column of {other}"),
    }
}

// --- its files ---

fn hub() -> PathBuf {
    workspace().join("format-spec/vectors/hubs/v1")
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests stands in the workspace")
        .to_owned()
}

fn expected() -> Value {
    serde_json::from_slice(&std::fs::read(hub().with_extension("json")).unwrap()).unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("it is a list")
}

/// Every file of a folder with its length and its sum, in order of paths.
fn files(dir: &Path) -> Value {
    let mut found = BTreeMap::new();
    walk(dir, &mut |path| {
        let bytes = std::fs::read(path).unwrap();
        let name = path.strip_prefix(dir).unwrap().to_string_lossy().into_owned();
        found.insert(
            name.clone(),
            json!({"path": name, "bytes": bytes.len(), "crc32": format!("{:08x}", crc32(&bytes))}),
        );
    });
    found.into_values().collect()
}

fn copy() -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    walk(&hub(), &mut |path| {
        let target = to.path().join(path.strip_prefix(hub()).unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(path, target).unwrap();
    });
    to
}

fn walk(dir: &Path, each: &mut dyn FnMut(&Path)) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => walk(&path, each),
            false => each(&path),
        }
    }
}
