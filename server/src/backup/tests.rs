//! A folder of backups on a disk that fails: a snapshot that can be seen is whole. And names from outside.

mod hub;

use super::crypt::Recipients;
use super::layout::{
    Catalogue, FileFact, Manifest, Part, VERSION, checked_path, is_object, is_snapshot, snapshot_name,
    snapshots,
};
use super::objects::{Objects, content_of};
use super::take::{publish, tidy};
use super::{BackupError, new_identity};
use marey_engine::disk::Disk;
use marey_engine::disk::faulty::{Duration, FaultyDisk, Plan};
use marey_engine::disk::memory::{Dice, MemoryDisk};
use std::collections::BTreeMap;
use std::io;

/// Puts a snapshot of a few files onto a disk, sharing what is there.
fn write(disk: &dyn Disk, snapshot: &str, contents: &[&str], to: &Recipients) -> Result<(), BackupError> {
    tidy(disk)?;
    let objects = Objects::new(disk);
    let (mut files, mut facts) = (Vec::new(), BTreeMap::new());
    let mut store = |bytes: &[u8]| {
        let content = content_of(bytes);
        let name = match to.is_empty() {
            true => content.blake3.clone(),
            false => format!("{}.age", content.blake3),
        };
        let fact = match objects.stat(&name)? {
            Some(_) => objects.adopt(&name)?,
            None => objects
                .put(&name, &mut &bytes[..], &content, to)?
                .expect("it is what it is"),
        };
        facts.insert(name.clone(), fact);
        Ok::<_, BackupError>((name, content))
    };
    for (number, text) in contents.iter().enumerate() {
        let (object, content) = store(text.as_bytes())?;
        files.push(FileFact {
            path: format!("audit/{number:06}.log"),
            bytes: content.bytes,
            blake3: content.blake3,
            object,
        });
    }
    let catalogue = Catalogue {
        v: VERSION,
        part: Part::Hub,
        files,
    };
    let (name, _) = store(&serde_json::to_vec(&catalogue).expect("plain"))?;
    objects.sync()?;
    let manifest = Manifest {
        v: VERSION,
        marey: "0".into(),
        hub: "00".into(),
        snapshot: snapshot.into(),
        part: Part::Hub,
        began_utc_ns: 0,
        encrypted_to: to.names().to_vec(),
        sessions: 0,
        files: contents.len() as u64,
        bytes: 0,
        catalogue: name,
        objects: facts.into_values().collect(),
    };
    publish(disk, snapshot, &[manifest])
}

/// Snapshots that are there; each must be whole.
fn seen(disk: &dyn Disk) -> Result<usize, String> {
    let objects = Objects::new(disk);
    let found = snapshots(disk).map_err(|error| error.to_string())?;
    for (snapshot, parts) in &found {
        if parts != &[Part::Hub] {
            return Err(format!("{snapshot} has {parts:?}"));
        }
        let manifest = Manifest::read(disk, snapshot, &Part::Hub).map_err(|error| error.to_string())?;
        for object in &manifest.objects {
            match objects.measure(&object.name) {
                Ok(found) if found == *object => {}
                other => return Err(format!("{snapshot}: {object:?} is {other:?}")),
            }
        }
    }
    Ok(found.len())
}

const FIRST: &str = "2026-11-22T060000Z";
const SECOND: &str = "2026-11-22T070000Z";

/// A second snapshot, with a fault at each operation; then it is taken again.
fn disturbed(to: &Recipients, fault: impl Fn(u64) -> Plan, then: impl Fn(&MemoryDisk, u64)) {
    let mut met = 0;
    for operation in 0.. {
        let disk = MemoryDisk::new();
        write(&disk, FIRST, &["one", "two"], to).expect("a snapshot");
        let faulty = FaultyDisk::new(disk.clone(), fault(operation));
        let result = write(&faulty, SECOND, &["two", "three", "four"], to);
        if faulty.faults() == 0 {
            result.expect("no fault came");
            break;
        }
        met += 1;
        then(&disk, operation);
        let there = seen(&disk).unwrap_or_else(|why| panic!("operation {operation}: {why}"));
        assert!(there >= 1, "operation {operation}");
        if there == 1 {
            write(&disk, SECOND, &["two", "three", "four"], to).expect("taken again");
        }
        disk.power_cut(None);
        // One that appeared, and of which nobody was told that it was taken, may go as a whole.
        let least = if there == 1 { 2 } else { 1 };
        assert!(
            seen(&disk).is_ok_and(|left| left >= least),
            "operation {operation}: {:?}",
            seen(&disk)
        );
    }
    assert!(met > 15, "only {met} faults");
}

#[test]
fn a_snapshot_that_can_be_seen_is_whole() {
    let cut = |at| Plan {
        cut_at: Some(at),
        ..Plan::default()
    };
    let clear = Recipients::default();
    disturbed(&clear, cut, |_, _| {});
    disturbed(&clear, cut, |disk, _| _ = disk.power_cut(None));
    for seed in 0..5 {
        disturbed(&clear, cut, |disk, at| {
            _ = disk.power_cut(Some(&mut Dice(1000 * seed + at)))
        });
    }
    let full = |at| Plan {
        fail_at: Some((at, io::ErrorKind::StorageFull, Duration::Once)),
        short_writes: true,
        ..Plan::default()
    };
    disturbed(&clear, full, |_, _| {});
    let sealed = Recipients::parse([new_identity("of a test").1]).expect("a recipient");
    disturbed(&sealed, full, |disk, at| _ = disk.power_cut(Some(&mut Dice(at))));
}

/// The checker finds what was planted: files whose syncs do nothing can be lost from a snapshot that is there.
#[test]
fn syncs_that_do_nothing_are_noticed() {
    let mut broken = 0;
    for seed in 0..60 {
        let disk = MemoryDisk::new();
        let lying = Plan {
            skip_file_syncs: true,
            ..Plan::default()
        };
        write(
            &FaultyDisk::new(disk.clone(), lying),
            FIRST,
            &["one", "two"],
            &Recipients::default(),
        )
        .expect("it says so");
        disk.power_cut(Some(&mut Dice(seed)));
        broken += u32::from(seen(&disk).is_err());
    }
    assert!(
        broken > 0,
        "sixty cuts, and nothing was lost: the test above can't fail"
    );
}

#[test]
fn paths_stay_in_their_part_of_a_hub() {
    let study = Part::study("sleep").expect("a name");
    let good = [
        (&Part::Hub, "hub.toml"),
        (&Part::Hub, "audit/000001.log"),
        (&Part::Hub, "pki/ca.cert.pem"),
        (&study, "sessions/session=walk/session.json"),
        (&study, "sessions/session=walk/logs/phone/000001.mlog"),
    ];
    for (part, path) in good {
        assert!(checked_path(part, path).is_some(), "{path}");
    }
    let bad = [
        (&Part::Hub, ""),
        (&Part::Hub, "/hub.toml"),
        (&Part::Hub, "../hub.toml"),
        (&Part::Hub, "audit/../../x"),
        (&Part::Hub, "audit/./x"),
        (&Part::Hub, "audit//x"),
        (&Part::Hub, "audit"),
        (&Part::Hub, "audit/x/"),
        (&Part::Hub, "hub.json"),
        (&Part::Hub, "LOCK"),
        (&Part::Hub, "audit/a\nb"),
        (&Part::Hub, "audit\\x"),
        (&Part::Hub, "sessions/session=walk/session.json"),
        (&study, "hub.toml"),
        (&study, "sessions/walk/session.json"),
        (&study, "sessions/session=1e5/session.json"),
        (&study, "sessions/session=walk"),
        (&study, "sessions/session=../x"),
        (&study, "sessions/session=walk/../../hub.json"),
    ];
    for (part, path) in bad {
        assert!(checked_path(part, path).is_none(), "{path:?}");
    }
    let long = format!("audit/{}", "x".repeat(2000));
    assert!(checked_path(&Part::Hub, &long).is_none());
    for name in ["", "..", "a/b", "s-2026\n", "1e5", "nan"] {
        assert!(Part::study(name).is_err(), "{name:?}");
    }
}

#[test]
fn names_of_snapshots_and_objects_are_what_was_made() {
    assert_eq!(snapshot_name(1_795_330_800 * 1_000_000_000), "2026-11-22T070000Z");
    for name in [FIRST, SECOND, "2026-11-22T070000Z-2", "2026-11-22T070000Z-17"] {
        assert!(is_snapshot(name), "{name}");
    }
    for name in [
        ".tmp-2026-11-22T070000Z",
        "2026-11-22",
        "2026-11-22T070000Z-",
        "2026-11-22T070000Z/..",
        "2026-11-22T070000Zx",
    ] {
        assert!(!is_snapshot(name), "{name}");
    }
    let hash = "0".repeat(64);
    assert!(is_object(&hash) && is_object(&format!("{hash}.age")));
    for name in [
        "",
        "..",
        &hash[1..],
        &format!("{hash}.gz"),
        &hash.replace('0', "A"),
    ] {
        assert!(!is_object(name), "{name}");
    }
}
