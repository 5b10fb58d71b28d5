//! Records of a pull-the-plug test: numbered, checksummed, and written in the three ways in which a hub writes.
//!
//! By number: every 256th is a file of its own that got its name by a rename; of the others the even ones are written
//! over zeros that are there, as a journal is, and the odd ones are appended, as device logs are.

use crate::output::{Failure, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// Where a test keeps its records, below the folder that is tested.
pub const FOLDER: &str = "marey-plug";
/// What is written first: which test this is.
pub const RUN: &str = "run.json";

/// A test by its random name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    pub v: u32,
    pub run: String,
}

/// How a record is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    InPlace,
    Appended,
    NewName,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::InPlace, Self::Appended, Self::NewName];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::InPlace => "written over",
            Self::Appended => "appended",
            Self::NewName => "under a new name",
        }
    }
}

/// Where a record stands.
#[derive(Debug, PartialEq, Eq)]
pub struct Place {
    pub kind: Kind,
    pub file: String,
    pub offset: u64,
    pub bytes: usize,
}

/// Bytes of a record that has blocks of its own, and of one that is appended.
const BLOCK_BYTES: usize = 4096;
const APPENDED_BYTES: usize = 256;
/// Length of the files that are filled with zeros first.
pub const ZEROS_BYTES: u64 = 4 << 20;
/// The last record: what they all take is a good half GiB.
pub const NUMBER_MAX: u64 = 250_000;
/// Room that all of them take.
pub const ROOM_BYTES: u64 = 1 << 30;

const NAME_EVERY: u64 = 256;
const MAGIC: &[u8; 8] = b"MAREYPLG";
const DIGEST_BYTES: usize = 32;

/// Where the record with a number stands; numbers begin with 1.
pub fn place(number: u64) -> Place {
    if number.is_multiple_of(NAME_EVERY) {
        return Place {
            kind: Kind::NewName,
            file: format!("name-{number:09}"),
            offset: 0,
            bytes: BLOCK_BYTES,
        };
    }
    let at = number / 2;
    if number.is_multiple_of(2) {
        let per_file = ZEROS_BYTES / BLOCK_BYTES as u64;
        return Place {
            kind: Kind::InPlace,
            file: format!("block-{:04}", at / per_file),
            offset: at % per_file * BLOCK_BYTES as u64,
            bytes: BLOCK_BYTES,
        };
    }
    Place {
        kind: Kind::Appended,
        file: "log".to_owned(),
        offset: at * APPENDED_BYTES as u64,
        bytes: APPENDED_BYTES,
    }
}

/// The bytes of a record.
pub fn record(run: &Run, number: u64) -> Vec<u8> {
    let bytes = place(number).bytes;
    let mut record = Vec::with_capacity(bytes);
    record.extend_from_slice(MAGIC);
    record.extend_from_slice(&number.to_le_bytes());
    record.extend_from_slice(run.run.as_bytes());
    let mut state = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    while record.len() < bytes - DIGEST_BYTES {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        record.extend_from_slice(&state.to_le_bytes());
    }
    record.truncate(bytes - DIGEST_BYTES);
    let digest = Sha256::digest(&record);
    record.extend_from_slice(&digest);
    record
}

/// What stands where a record should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    Whole,
    Missing,
    /// Other bytes.
    Changed,
}

/// Looks for a record.
pub fn look(folder: &Path, run: &Run, number: u64) -> Result<Found> {
    use std::os::unix::fs::FileExt;
    let place = place(number);
    let path = folder.join(&place.file);
    let fault = |error: std::io::Error| {
        Failure::fault(format!(
            "{}, offset {}: {error}; the disk itself fails",
            path.display(),
            place.offset
        ))
    };
    let file = match std::fs::File::open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Found::Missing),
        opened => opened.map_err(fault)?,
    };
    let mut found = vec![0; place.bytes];
    match file.read_exact_at(&mut found, place.offset) {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(Found::Missing),
        read => read.map_err(fault)?,
    }
    Ok(match () {
        () if found == record(run, number) => Found::Whole,
        () if found.iter().all(|byte| *byte == 0) => Found::Missing,
        () => Found::Changed,
    })
}

/// The test that was begun in a folder; none if there is none.
pub fn begun(below: &Path) -> Result<Option<Run>> {
    let path = folder(below).join(RUN);
    match std::fs::read(&path) {
        Ok(bytes) => {
            let run: Run = serde_json::from_slice(&bytes)
                .map_err(|error| Failure::fault(format!("{}: {error}", path.display())))?;
            match run.v == 1 && is_name(&run.run) {
                true => Ok(Some(run)),
                false => Err(Failure::fault(format!("{}: of another version", path.display()))),
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::fault(format!("{}: {error}", path.display()))),
    }
}

pub fn folder(below: &Path) -> PathBuf {
    below.join(FOLDER)
}

/// Removes what a test wrote, and nothing else: a folder that holds more stays.
pub fn remove(below: &Path) -> std::io::Result<()> {
    let folder = folder(below);
    for entry in std::fs::read_dir(&folder)? {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let name = name.unwrap_or_default();
        let is_ours = name == "log"
            || name == RUN
            || name == "aside"
            || name.starts_with("block-")
            || name.starts_with("name-");
        if is_ours {
            std::fs::remove_file(&path)?;
        }
    }
    std::fs::remove_dir(&folder)
}

/// Whether a text is the name of a test.
pub fn is_name(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_has_a_place_of_its_own() {
        let mut taken = std::collections::BTreeSet::new();
        for number in 1..20_000 {
            let place = place(number);
            assert!(
                taken.insert((place.file.clone(), place.offset)),
                "{number}: {place:?}"
            );
            assert_eq!(record(&run(), number).len(), place.bytes);
            if place.kind == Kind::InPlace {
                assert!(place.offset + place.bytes as u64 <= ZEROS_BYTES);
            }
        }
    }

    #[test]
    fn records_are_found_missing_or_changed() {
        use std::os::unix::fs::FileExt;
        let folder = tempfile::tempdir().expect("a folder");
        for number in [1, 2, 256] {
            assert_eq!(
                look(folder.path(), &run(), number).expect("looked"),
                Found::Missing
            );
            let place = place(number);
            let path = folder.path().join(&place.file);
            let file = std::fs::File::create(&path).expect("a file");
            file.write_all_at(&record(&run(), number), place.offset)
                .expect("written");
            assert_eq!(look(folder.path(), &run(), number).expect("looked"), Found::Whole);
            file.write_all_at(&[0xAA], place.offset + 100).expect("written");
            assert_eq!(
                look(folder.path(), &run(), number).expect("looked"),
                Found::Changed
            );
            file.set_len(place.offset + 50).expect("cut");
            assert_eq!(
                look(folder.path(), &run(), number).expect("looked"),
                Found::Missing
            );
        }
    }

    fn run() -> Run {
        Run {
            v: 1,
            run: "0123456789abcdef".to_owned(),
        }
    }
}
