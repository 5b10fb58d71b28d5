//! What a hub reads of its own folder, and people hand around: configuration, documents, the folder as a whole.

use super::fixture::{self, options, sealed_hub, session, write};
use marey_engine::compact::{Manifest, read_receipt};
use marey_engine::disk::memory::MemoryDisk;
use marey_engine::disk::{self, Disk};
use marey_engine::read::{self, Reader};
use marey_engine::salvage::{self, Source, VerifyOptions};
use marey_engine::time::simulated::SimulatedKernel;
use marey_engine::{Session, Store};
use marey_server::judge::plan::Plan;
use marey_server::pki::DeviceRecord;
use marey_server::{HubConfig, Overrides};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// A configuration of any text: taken, or refused with a place; what is taken is written and read again as the same,
/// and its numbers can be reckoned with.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let path = Path::new("hub.toml");
    let Ok(config) = HubConfig::parse(path, text, &Overrides::default()) else {
        return;
    };
    let again = serde_json::to_vec(&config).expect("plain numbers and strings");
    assert_eq!(
        serde_json::from_slice::<HubConfig>(&again).ok(),
        Some(config.clone())
    );
    for total_bytes in [0, 1 << 30, 1 << 40, u64::MAX] {
        let floor = config.disk.floor_bytes(total_bytes);
        assert!(
            floor >= config.disk.floor_bytes(0),
            "a larger disk has no lower floor"
        );
    }
}

/// A protocol file of any text: taken, or refused with a line or a key, in words that steer no terminal; what is taken has
/// numbers that can be reckoned with.
pub fn protocol_file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    match Plan::parse(text) {
        Err(error) => {
            let shown = error.to_string();
            assert!(!shown.is_empty());
            assert_eq!(marey_format::types::plain_lines(&shown), shown);
        }
        Ok(plan) => {
            assert!(plan.v == 1 && (2.0..=120.0).contains(&plan.window_s));
            for rules in &plan.stream {
                let numbers = [rules.rate_hz_min, rules.rate_hz_max, rules.gap_s_max];
                let mut numbers = numbers.into_iter().flatten();
                assert!(numbers.all(|number| number.is_finite() && number > 0.0));
            }
            assert_eq!(Plan::parse(text).ok(), Some(plan), "the same text says the same");
        }
    }
}

/// A document of a session or of the registry: manifest, receipt, session.json, a device's record. What is taken is
/// written again as it was.
pub fn documents(bytes: &[u8]) {
    if let Ok(record) = serde_json::from_slice::<DeviceRecord>(bytes) {
        let again = serde_json::to_vec(&record).expect("plain fields");
        assert_eq!(serde_json::from_slice::<DeviceRecord>(&again).ok(), Some(record));
    }
    let (disk, dir) = (MemoryDisk::new(), Session::dir(&session()));
    disk::create_dirs(&disk, &dir).expect("an empty disk takes folders");
    for name in ["manifest.json", "receipt-0001.json", "session.json"] {
        write(&disk, &dir.join(name), bytes);
    }
    if let Ok(Some(manifest)) = Manifest::read(&disk, &dir) {
        let again = manifest.to_bytes();
        assert_eq!(
            serde_json::from_slice::<Manifest>(&again)
                .expect("it was just written")
                .to_bytes(),
            again
        );
    }
    if let Ok(Some(receipt)) = read_receipt(&disk, &dir, 1) {
        let again = receipt.to_bytes();
        assert_eq!(
            serde_json::from_slice(&again)
                .ok()
                .map(|read: marey_engine::compact::Receipt| read.to_bytes()),
            Some(again)
        );
    }
    if let Ok(read) = Session::read(&disk, &dir) {
        let again = serde_json::to_vec(&read).expect("string keys and finite numbers only");
        assert_eq!(serde_json::from_slice::<Session>(&again).ok(), Some(read));
    }
}

/// A hub's folder in which one file, chosen by the first byte, holds any bytes: it is verified, salvaged, opened and
/// read, and nothing panics; what refuses says why. To look at it changes nothing.
pub fn hub_folder(bytes: &[u8]) {
    let (which, content) = bytes
        .split_first()
        .map_or((0, bytes), |(which, rest)| (*which, rest));
    let files = files();
    let (path, _) = &files[usize::from(which) % files.len()];
    let disk = sealed_hub().snapshot();
    disk.damage(path, |file| *file = content.to_vec())
        .expect("the file is there");
    if let Ok(source) = Source::on(Arc::new(disk.clone()), Path::new("")) {
        let _ = salvage::verify(&source, &VerifyOptions::default(), &|_| {});
        let _ = salvage::recover(&source, Arc::new(MemoryDisk::new()), &options(), &|_, _| {});
        let _ = salvage::contents(&source, &session(), None, &options());
        assert_eq!(fixture::read(&disk, path), content, "looking changes nothing");
    }
    let kernel = SimulatedKernel::new(2, fixture::UTC_NS);
    let opened = Store::open(Arc::new(disk.clone()), kernel.hub_clock(), options());
    if let Ok((store, _)) = &opened {
        let _ = store.identity().list("device");
        let _ = store.seal_session(&session(), &|_| {});
        let _ = store.close();
    }
    drop(opened);
    rows(&disk);
}

/// Every row of every stream.
fn rows(disk: &dyn Disk) {
    let Ok(session) = Session::read(disk, &Session::dir(&session())) else {
        return;
    };
    for (stream, device) in read::streams(disk, &session, &options()).unwrap_or_default() {
        if let Ok(reader) = Reader::open(disk, &session, &stream, &device, &options()) {
            reader.take(64).for_each(drop);
        }
    }
}

/// The files of the sealed hub with their contents, in order of their paths.
fn files() -> &'static [(PathBuf, Vec<u8>)] {
    static FILES: OnceLock<Vec<(PathBuf, Vec<u8>)>> = OnceLock::new();
    FILES.get_or_init(|| {
        let (disk, mut found, mut open) = (sealed_hub(), Vec::new(), vec![PathBuf::new()]);
        while let Some(dir) = open.pop() {
            for entry in disk.list(&dir).expect("the disk does not fail") {
                let path = dir.join(&entry.name);
                match entry.stat.is_dir {
                    true => open.push(path),
                    false => found.push((path.clone(), fixture::read(disk, &path))),
                }
            }
        }
        found.sort();
        found
    })
}

pub fn folder_seeds() -> Vec<Vec<u8>> {
    (0u8..)
        .zip(files())
        .map(|(at, (_, content))| [&[at], content.as_slice()].concat())
        .collect()
}

pub fn document_seeds() -> Vec<Vec<u8>> {
    let record = r#"{"name":"watch","fingerprint_sha256_hex":"00","serial_hex":"01","enrolled_utc_ns":1,"revoked":false}"#;
    let json = files()
        .iter()
        .filter(|(path, _)| path.extension().is_some_and(|ending| ending == "json"))
        .map(|(_, content)| content.clone());
    json.chain([record.as_bytes().to_vec()]).collect()
}

pub fn protocol_seeds() -> Vec<Vec<u8>> {
    [
        "v = 1\n",
        "v = 1\ntitle = \"Walk\"\nwindow_s = 5.5\n[hub]\ndisk_free_mib_min = 2048\n[devices]\nrequired = [\"phone\"]\n\
         battery_percent_min = 30\nstorage_minutes_min = 60\nstorage_mb_per_minute = 2.5\ntime_error_ms_max = 5\n",
        "v = 1\n[[stream]]\nstream = \"acc\"\ndevice = \"phone\"\nrate_hz_min = 95\nrate_hz_max = 105\ngap_s_max = 2\n\
         [[stream]]\nstream = \"gsr\"\nrate_hz_min = 1e300\n",
        "v = 2\n[devices]\nbatery = nan\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

pub fn config_seeds() -> Vec<Vec<u8>> {
    let all = HubConfig::template().replace("# ", "");
    let some =
        "[disk]\nfloor_percent = 2.5\nfloor_min_mib = 17592186044415\nfloor_max_mib = 17592186044416\n";
    [
        all.as_str(),
        some,
        "[limits]\ncredit_bytes = 4194304\n\n[listen]\ndevices = \"[::1]:0\"\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
