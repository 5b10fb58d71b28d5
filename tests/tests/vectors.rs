//! Every reader of logs against the vectors: the engine's reader, its replay, and the Python reader of the format's
//! reference, frame by frame, sample by sample, fault by fault. Whoever delivers a frame that the JSON does not name,
//! or keeps one back, fails.

#![allow(
    clippy::disallowed_methods,
    reason = "reads the vectors and runs the Python reader"
)]

#[path = "../../format-spec/tests/vectors/form.rs"]
mod form;

use marey_engine::disk::memory::MemoryDisk;
use marey_engine::disk::{self, Disk, OpenMode};
use marey_engine::log::{Fault, FaultKind, LogReader, Replay};
use marey_engine::state::Meaning;
use marey_format::{DeviceId, SessionId};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a reader made of a log.
#[derive(Debug, Default, PartialEq)]
struct Found {
    frames: Vec<Value>,
    samples: Vec<Value>,
    quarantined: BTreeSet<(u64, u64)>,
    faults: Vec<Value>,
}

/// A log among the vectors.
struct Vector {
    name: String,
    json: Value,
    device: DeviceId,
    session: SessionId,
    /// By segment number.
    segments: Vec<(u32, Vec<u8>)>,
}

#[test]
fn the_engine_finds_what_the_vectors_say() {
    let mut wrong = Vec::new();
    for vector in vectors() {
        let disk = vector.on_memory_disk();
        wrong.extend(vector.judge("the engine", &by_engine(&vector, &disk)));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn so_does_the_python_reader() {
    let mut wrong = Vec::new();
    let dir = tempfile::tempdir().unwrap();
    for vector in vectors() {
        wrong.extend(vector.judge("read_log.py", &by_python(&vector, dir.path())));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_inner_frame_is_ever_delivered() {
    let mut lying = 0;
    for vector in vectors()
        .into_iter()
        .filter(|vector| vector.name.contains("inner-"))
    {
        lying += 1;
        let disk = vector.on_memory_disk();
        let found = by_engine(&vector, &disk);
        // The inner frames' samples are recognisable, whatever frame they may come out of.
        let forged = json!([form::hex_float(666.0), -666]);
        assert!(
            found.samples.iter().all(|sample| sample["values"] != forged),
            "{}",
            vector.name
        );
        let named: BTreeSet<_> = vector.json["frames"]
            .as_array()
            .unwrap()
            .iter()
            .map(|f| f["offset"].as_u64())
            .collect();
        let delivered: BTreeSet<_> = found.frames.iter().map(|f| f["offset"].as_u64()).collect();
        assert_eq!(delivered, named, "{}", vector.name);
    }
    assert!(lying >= 8, "only {lying} vectors with lying frames");
}

#[test]
fn a_difference_is_found() {
    let vector = vectors()
        .into_iter()
        .find(|vector| vector.name == "damaged/flipped-bit")
        .unwrap();
    let disk = vector.on_memory_disk();
    let whole = by_engine(&vector, &disk);
    assert_eq!(vector.judge("the engine", &whole), Vec::<String>::new());
    let without = |harm: &dyn Fn(&mut Found)| {
        let mut found = by_engine(&vector, &disk);
        harm(&mut found);
        vector.judge("a broken reader", &found).len()
    };
    assert_eq!(without(&|found| _ = found.frames.pop()), 1);
    assert_eq!(without(&|found| found.frames[0]["crc"] = json!(0)), 1);
    assert_eq!(without(&|found| found.samples.swap(0, 1)), 1);
    assert_eq!(without(&|found| _ = found.faults.pop()), 1);
    assert_eq!(without(&|found| found.faults[0]["offset"] = json!(1)), 1);
    assert_eq!(without(&|found| _ = found.quarantined.insert((0, 0))), 1);
}

// --- readers ---

/// The engine's reader for frames and faults, its replay for what they mean.
fn by_engine(vector: &Vector, disk: &dyn Disk) -> Found {
    let mut found = Found::default();
    let mut reader = LogReader::open(disk, &vector.session, &vector.device).unwrap();
    let mut taken = BTreeSet::new();
    while let Some(at) = reader.next().unwrap() {
        let header = at.frame.header();
        // In a refill the reader delivers what was not lost once more: the first counts, and `state` sorts it out.
        if taken.insert((at.epoch, header.lane, header.sequence)) {
            found
                .frames
                .push(form::frame(at.segment, at.offset, at.epoch, &at.frame));
        }
    }
    found.faults = reader.faults().iter().map(fault).collect();

    let mut replay = Replay::open(disk, &vector.session, &vector.device).unwrap();
    let mut rows: BTreeMap<(u32, u64), Vec<Value>> = BTreeMap::new();
    let mut declared = BTreeMap::new();
    while let Some(replayed) = replay.next().unwrap() {
        let Ok(judged) = &replayed.judged else { continue };
        match &judged.meaning {
            Meaning::Assign(assign) => {
                declared.insert((assign.epoch, assign.stream), assign.clone());
            }
            Meaning::Data(quarantine) => {
                let entry = &judged.entry;
                let assign = &declared[&(entry.epoch, entry.stream)];
                if quarantine.is_some() {
                    found.quarantined.insert((u64::from(entry.epoch), entry.sequence));
                    continue;
                }
                let label = assign.stream_key().to_string();
                let samples = (entry.first_index..).zip(form::rows(&replayed.at.frame, &assign.declaration));
                let samples =
                    samples.map(|(seq, (time, values))| form::sample(&label, entry.epoch, seq, time, values));
                let before = rows.insert((entry.epoch, entry.sequence), samples.collect());
                assert!(
                    before.is_none(),
                    "{}: frame {} of epoch {} twice",
                    vector.name,
                    entry.sequence,
                    entry.epoch
                );
            }
            _ => {}
        }
    }
    found.samples = rows.into_values().flatten().collect();
    found
}

fn fault(fault: &Fault) -> Value {
    let kind = match fault.kind {
        FaultKind::Damage => "damage",
        FaultKind::TornTail => "torn",
    };
    form::fault(kind, fault.segment, Some(fault.offset), Some(fault.bytes))
}

/// `format-spec/reference/read_log.py` on the files.
fn by_python(vector: &Vector, root: &Path) -> Found {
    let dir = root
        .join(&vector.name)
        .join(format!("session={}", vector.session))
        .join("logs")
        .join(vector.device.as_str());
    std::fs::create_dir_all(&dir).unwrap();
    for (number, bytes) in &vector.segments {
        std::fs::write(dir.join(format!("{number:06}.mlog")), bytes).unwrap();
    }
    let script = workspace().join("format-spec/reference/read_log.py");
    let output = Command::new("python3")
        .arg(&script)
        .arg(&dir)
        .args(["--frames", "--samples"])
        .output()
        .unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(complaint.is_empty(), "{}: {complaint}", vector.name);
    let mut found = Found::default();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let mut line: Value = serde_json::from_str(line).unwrap();
        if line.get("crc").is_some() {
            found.frames.push(line);
        } else if line.get("values").is_some() {
            found.samples.push(line);
        } else if line["fault"] == "quarantined" {
            found.quarantined.insert((
                line["epoch"].as_u64().unwrap(),
                line["sequence"].as_u64().unwrap(),
            ));
        } else {
            line.as_object_mut().unwrap().remove("why");
            found.faults.push(line);
        }
    }
    let damaged = found.faults.iter().any(|fault| fault["fault"] == "damage");
    assert_eq!(
        output.status.code(),
        Some(i32::from(damaged)),
        "{}: exit code",
        vector.name
    );
    found
}

// --- vectors ---

impl Vector {
    fn on_memory_disk(&self) -> MemoryDisk {
        let disk = MemoryDisk::new();
        let dir = PathBuf::from(format!("sessions/session={}/logs/{}", self.session, self.device));
        disk::create_dirs(&disk, &dir).unwrap();
        for (number, bytes) in &self.segments {
            let file = disk
                .open(&dir.join(format!("{number:06}.mlog")), OpenMode::CreateNew)
                .unwrap();
            file.write_at(0, bytes).unwrap();
        }
        disk
    }

    /// What a reader found otherwise than the JSON says, one line for each kind of thing.
    fn judge(&self, reader: &str, found: &Found) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut differ = |what: &str, first: Option<String>| {
            if let Some(first) = first {
                wrong.push(format!("{} by {reader}: {what}: {first}", self.name));
            }
        };
        differ(
            "frames",
            first_difference(&self.json["frames"], &found.frames, |a, b| a == b),
        );
        differ(
            "samples",
            first_difference(&self.json["samples"], &found.samples, |a, b| a == b),
        );
        // An expected fault names no offset and no bytes where the specification leaves them open.
        let fits = |expected: &Value, found: &Value| {
            expected
                .as_object()
                .unwrap()
                .iter()
                .all(|(key, value)| found.get(key) == Some(value))
        };
        let mut faults = found.faults.clone();
        faults.sort_by_key(|fault| (fault["segment"].as_u64(), fault["offset"].as_u64()));
        differ("faults", first_difference(&self.json["faults"], &faults, fits));
        let quarantined: BTreeSet<_> = list(&self.json["quarantined"])
            .iter()
            .map(|q| (q["epoch"].as_u64().unwrap(), q["sequence"].as_u64().unwrap()))
            .collect();
        let differs = quarantined != found.quarantined;
        let shown = format!("expected {quarantined:?}, found {:?}", found.quarantined);
        differ("quarantined", differs.then_some(shown));
        wrong
    }
}

fn first_difference(
    expected: &Value,
    found: &[Value],
    same: impl Fn(&Value, &Value) -> bool,
) -> Option<String> {
    let expected = list(expected);
    let at = expected
        .iter()
        .zip(found)
        .position(|(expected, found)| !same(expected, found));
    let at = at.or((expected.len() != found.len()).then(|| expected.len().min(found.len())))?;
    let show = |value: Option<&Value>| value.map_or("none".to_owned(), |value| value.to_string());
    let counts = (expected.len(), found.len());
    Some(format!(
        "{counts:?}, at {at} expected {}, found {}",
        show(expected.get(at)),
        show(found.get(at))
    ))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("the vector lists them")
}

fn vectors() -> Vec<Vector> {
    let mut found = Vec::new();
    for folder in ["log", "damaged"] {
        let dir = workspace().join("format-spec/vectors").join(folder);
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let json: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            let text = |key: &str| json[key].as_str().unwrap().to_owned();
            let segment = |s: &Value| {
                let bytes = std::fs::read(dir.join(s["file"].as_str().unwrap())).unwrap();
                (s["number"].as_u64().unwrap() as u32, bytes)
            };
            found.push(Vector {
                name: format!("{folder}/{}", path.file_stem().unwrap().to_string_lossy()),
                device: DeviceId::new(text("device")).unwrap(),
                session: SessionId::new(text("session")).unwrap(),
                segments: list(&json["segments"]).iter().map(segment).collect(),
                json,
            });
        }
    }
    assert!(found.len() >= 30, "only {} vectors", found.len());
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests stands in the workspace")
        .to_owned()
}
