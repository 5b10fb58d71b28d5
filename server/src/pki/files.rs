//! The files of `pki/`: written once, durably, with the right mode from the first byte; read only if nobody else can.

#![allow(
    clippy::disallowed_methods,
    reason = "keys need their mode from the first byte, which the disk seam does not give; nothing recorded is here"
)]

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::PkiError;

/// Mode of the folder.
pub(super) const FOLDER_MODE: u32 = 0o700;
/// Mode of a key file.
pub(super) const KEY_MODE: u32 = 0o600;
/// Mode of a certificate file.
pub(super) const CERTIFICATE_MODE: u32 = 0o644;

/// Makes the folder, private from its birth.
pub(super) fn create_folder(path: &Path) -> Result<(), PkiError> {
    match DirBuilder::new().mode(FOLDER_MODE).create(path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => check_private(path, FOLDER_MODE),
        Err(e) => Err(file_error(path, &e)),
    }
}

/// Refuses a file or folder that group or others may touch.
pub(super) fn check_private(path: &Path, want: u32) -> Result<(), PkiError> {
    let mode = fs::metadata(path).map_err(|e| file_error(path, &e))?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(PkiError::TooOpen {
            path: path.to_owned(),
            mode,
            want,
        });
    }
    Ok(())
}

/// Writes a new file, whole or not at all, durably. Never overwrites.
pub(super) fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), PkiError> {
    match fs::symlink_metadata(path) {
        Ok(_) => Err(PkiError::Exists {
            path: path.to_owned(),
        }),
        Err(e) if e.kind() == ErrorKind::NotFound => replace(path, text, mode),
        Err(e) => Err(file_error(path, &e)),
    }
}

/// Replaces a file by one rename, durably.
pub(super) fn replace(path: &Path, text: &str, mode: u32) -> Result<(), PkiError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = Path::new(&temporary);
    let write = || -> io::Result<()> {
        match fs::remove_file(temporary) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(temporary, path)?;
        sync_folder_of(path)
    };
    write().map_err(|e| file_error(path, &e))
}

/// Removes a file, durably. One that is not there is no error.
pub(super) fn remove(path: &Path) -> Result<(), PkiError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed
            .and_then(|()| sync_folder_of(path))
            .map_err(|e| file_error(path, &e)),
    }
}

/// Reads a file that anybody may read.
pub(super) fn read(path: &Path) -> Result<String, PkiError> {
    fs::read_to_string(path).map_err(|e| file_error(path, &e))
}

/// Reads a key, if only its owner can.
pub(super) fn read_key(path: &Path) -> Result<String, PkiError> {
    check_private(path, KEY_MODE)?;
    read(path)
}

/// Reads a small file with a secret, if only its owner can.
///
/// # Errors
/// [`PkiError`].
pub fn read_secret(path: &Path) -> Result<String, PkiError> {
    // Somebody named it: that it is not there says nothing of the hub's identity.
    let refused = |detail: String| PkiError::File {
        path: path.to_owned(),
        detail,
    };
    let found = fs::metadata(path).map_err(|error| refused(error.to_string()))?;
    match found.is_file() {
        true => read_key(path),
        false => Err(refused(
            "it is no file; name one whose first line is the secret".to_owned(),
        )),
    }
}

fn sync_folder_of(path: &Path) -> io::Result<()> {
    match path.parent().filter(|p| !p.as_os_str().is_empty()) {
        Some(folder) => File::open(folder)?.sync_all(),
        None => File::open(".")?.sync_all(),
    }
}

fn file_error(path: &Path, error: &io::Error) -> PkiError {
    match error.kind() {
        ErrorKind::NotFound => PkiError::Missing {
            path: path.to_owned(),
        },
        _ => PkiError::File {
            path: path.to_owned(),
            detail: error.to_string(),
        },
    }
}
