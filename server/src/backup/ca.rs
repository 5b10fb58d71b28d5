//! The authority's keys, apart from everything else: one small file, under a passphrase or to age recipients. Whoever has it
//! and its key can make devices that any hub of this authority takes.

use super::crypt::{Identities, Recipients, open_to, open_with, passphrase_of, seal_to, seal_with};
use super::{BackupError, make_private, read_file, write_new};
use marey_engine::disk::{self, Disk, OsDisk};
use marey_format::types::hex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What closes the file.
#[derive(Clone, Debug)]
pub enum Lock {
    /// A file whose first line is the passphrase.
    Passphrase(PathBuf),
    /// age recipients.
    Recipients(Recipients),
    /// Private keys: opens, and closes nothing.
    Identities(Identities),
}

/// What the file holds: names below `pki/`, and content in hexadecimal.
#[derive(Serialize, Deserialize)]
struct Bundle {
    v: u32,
    files: BTreeMap<String, String>,
}

const PKI: &str = "pki";
const KEY_BYTES_MAX: u64 = 1 << 20;
const BUNDLE_BYTES_MAX: u64 = 16 << 20;
const FILES_MAX: usize = 1000;

/// Writes all of `pki/` into one encrypted file, which must not be there yet. Its names.
///
/// # Errors
/// [`BackupError`].
pub fn save_ca(hub_dir: &Path, to: &Path, lock: &Lock) -> Result<Vec<String>, BackupError> {
    let disk = OsDisk::new(hub_dir);
    let failed = |error: std::io::Error| BackupError::file("reading", hub_dir.join(PKI), &error);
    let mut files = BTreeMap::new();
    for entry in disk.list(Path::new(PKI)).map_err(failed)? {
        if !entry.stat.is_dir && is_name(&entry.name) {
            let bytes =
                disk::read_all(&disk, &Path::new(PKI).join(&entry.name), KEY_BYTES_MAX).map_err(failed)?;
            files.insert(entry.name, hex(&bytes));
        }
    }
    let names = files.keys().cloned().collect();
    let json = serde_json::to_vec(&Bundle { v: 1, files }).expect("strings");
    let sealed = match lock {
        Lock::Passphrase(file) => seal_with(passphrase_of(file)?, &json)?,
        Lock::Recipients(recipients) => seal_to(recipients, &json)?,
        Lock::Identities(_) => {
            return Err(BackupError::Refused(
                "private keys open, and close nothing".into(),
            ));
        }
    };
    write_new(to, &sealed)?;
    Ok(names)
}

/// Puts back what [`save_ca`] wrote, into a hub whose authority's keys are not there. Files that are there and are the same
/// stay. The names of those that were written.
///
/// # Errors
/// [`BackupError`]: also where the hub has another authority.
pub fn put_back_ca(hub_dir: &Path, from: &Path, lock: &Lock) -> Result<Vec<String>, BackupError> {
    let sealed = read_file(from, BUNDLE_BYTES_MAX)?;
    let json = match lock {
        Lock::Passphrase(file) => open_with(passphrase_of(file)?, &sealed)?,
        Lock::Identities(identities) => open_to(identities, &sealed)?,
        Lock::Recipients(_) => return Err(BackupError::Refused("recipients close, and open nothing".into())),
    };
    let bundle: Bundle = serde_json::from_slice(&json).map_err(|error| BackupError::damaged(from, error))?;
    if bundle.v != 1 || bundle.files.len() > FILES_MAX {
        return Err(BackupError::damaged(from, "written by another version"));
    }
    let disk = OsDisk::new(hub_dir);
    let failed = |error: std::io::Error| BackupError::file("writing", hub_dir.join(PKI), &error);
    let mut contents = Vec::new();
    for (name, content) in &bundle.files {
        let bytes = super::restore::bytes_of(content).filter(|_| is_name(name));
        let bytes = bytes.ok_or_else(|| BackupError::damaged(from, format!("{name:?} can't stand in it")))?;
        let path = Path::new(PKI).join(name);
        match disk.stat(&path).map_err(failed)? {
            None => contents.push((name.clone(), path, bytes)),
            Some(_) if disk::read_all(&disk, &path, KEY_BYTES_MAX).map_err(failed)? == bytes => {}
            Some(_) if name.starts_with("ca.") || name.starts_with("ca-") => {
                return Err(BackupError::Refused(format!(
                    "{} is there already, and is another; nothing was written",
                    hub_dir.join(path).display()
                )));
            }
            // What the hub has made or heard since counts.
            Some(_) => {}
        }
    }
    disk::create_dirs(&disk, Path::new(PKI)).map_err(failed)?;
    make_private(&hub_dir.join(PKI))?;
    let mut written = Vec::new();
    for (name, path, bytes) in contents {
        disk::replace(&disk, &path, &bytes).map_err(failed)?;
        written.push(name);
    }
    Ok(written)
}

/// Names such as the files of `pki/` have.
fn is_name(name: &str) -> bool {
    let plain = name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    plain && !name.starts_with('.') && name.len() <= 128 && !name.ends_with(".tmp")
}
