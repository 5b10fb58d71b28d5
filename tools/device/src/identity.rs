//! A device's own key: made here, never leaving this machine; its request for a certificate; and its bundle on the disk.
//!
//! Owns: making keys and requests, storing a first bundle (join) and a renewed one. Does not own: asking a hub (`join`,
//! `client::renewal`).
//!
//! Invariants: key, certificate, authority and hub name are exchanged as one, by the rename of a folder that is rolled
//! forward at the next reading; a key has its mode from its first byte; no key appears in an error.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, DistinguishedName, KeyPair};

/// A key that was just made, or found again, and its request.
pub(crate) struct NewKey {
    pub(crate) key_pem: String,
    pub(crate) request_pem: String,
}

/// A key or request could not be made.
#[derive(Debug, thiserror::Error)]
#[error("no key: {0}")]
pub struct KeyError(String);

impl NewKey {
    /// Makes a key on P-256.
    pub(crate) fn make() -> Result<Self, KeyError> {
        let key = KeyPair::generate().map_err(|e| KeyError(e.to_string()))?;
        Self::of(&key)
    }

    /// The request of a key that was made before.
    pub(crate) fn read(key_pem: &str) -> Result<Self, KeyError> {
        // What the parser says may quote the key.
        let key = KeyPair::from_pem(key_pem).map_err(|_| KeyError("it is no key in PKCS#8 PEM".into()))?;
        Self::of(&key)
    }

    fn of(key: &KeyPair) -> Result<Self, KeyError> {
        let mut params = CertificateParams::default();
        // The hub knows whom it certifies: a name here would be ignored.
        params.distinguished_name = DistinguishedName::new();
        let request = params
            .serialize_request(key)
            .and_then(|request| request.pem())
            .map_err(|e| KeyError(e.to_string()))?;
        Ok(Self {
            key_pem: key.serialize_pem(),
            request_pem: request,
        })
    }
}

/// The texts of a bundle's files.
pub(crate) struct Files<'a> {
    pub(crate) key_pem: &'a str,
    pub(crate) certificate_pem: &'a str,
    pub(crate) authority_pem: &'a str,
    pub(crate) hub_json: &'a str,
}

impl<'a> Files<'a> {
    /// The one that makes the bundle whole comes last.
    fn list(&self) -> [(&'static str, &'a str, u32); 4] {
        [
            (KEY, self.key_pem, 0o600),
            ("ca.pem", self.authority_pem, 0o644),
            ("hub.json", self.hub_json, 0o644),
            ("cert.pem", self.certificate_pem, 0o644),
        ]
    }
}

/// Makes the folder of a bundle, private, with a key in it; or finds the key that an earlier attempt left there, if nobody
/// else could read it.
pub(crate) fn prepare(folder: &Path) -> io::Result<String> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    if folder.join("cert.pem").exists() {
        let message = "a bundle is there already; name a new folder";
        return Err(io::Error::new(ErrorKind::AlreadyExists, message));
    }
    let path = folder.join(KEY);
    match fs::metadata(&path) {
        Ok(found) if found.mode() & 0o077 != 0 => {
            let message =
                "others may read its key.pem, which may be known to them; remove it, and a new one is made";
            return Err(io::Error::new(ErrorKind::PermissionDenied, message));
        }
        Ok(_) => return fs::read_to_string(&path),
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        Err(_) => {}
    }
    let key = NewKey::make().map_err(io::Error::other)?;
    // Whole or not there: a crash leaves no half of a key to be found by the next attempt.
    replace(&path, &key.key_pem, 0o600)?;
    sync_folder(folder)?;
    Ok(key.key_pem)
}

/// Completes a folder that [`prepare`] made.
pub(crate) fn complete(folder: &Path, files: &Files<'_>) -> io::Result<()> {
    for (name, text, mode) in files.list().into_iter().skip(1) {
        replace(&folder.join(name), text, mode)?;
    }
    sync_folder(folder)
}

/// Exchanges a bundle for a newer one, durably: after a crash it is the one or the other.
pub(crate) fn exchange(folder: &Path, files: &Files<'_>) -> io::Result<()> {
    let making = folder.join("renewal.new");
    match fs::remove_dir_all(&making) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    DirBuilder::new().mode(0o700).create(&making)?;
    for (name, text, mode) in files.list() {
        write_new(&making.join(name), text, mode)?;
    }
    sync_folder(&making)?;
    fs::rename(&making, folder.join(RENEWAL))?;
    sync_folder(folder)?;
    roll_forward(folder)
}

/// Goes on with an exchange that was cut off.
pub(crate) fn roll_forward(folder: &Path) -> io::Result<()> {
    let renewal = folder.join(RENEWAL);
    if !renewal.is_dir() {
        return Ok(());
    }
    for name in [KEY, "ca.pem", "hub.json", "cert.pem"] {
        match fs::rename(renewal.join(name), folder.join(name)) {
            // It was moved before the cut.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            moved => moved?,
        }
    }
    sync_folder(folder)?;
    fs::remove_dir(&renewal)?;
    sync_folder(folder)
}

fn write_new(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn replace(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".new");
    let aside = PathBuf::from(aside);
    match fs::remove_file(&aside) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    write_new(&aside, text, mode)?;
    fs::rename(aside, path)
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

const KEY: &str = "key.pem";
const RENEWAL: &str = "renewal";

#[cfg(test)]
mod tests {
    use super::*;

    fn files(mark: &'static str) -> Files<'static> {
        Files {
            key_pem: mark,
            certificate_pem: mark,
            authority_pem: mark,
            hub_json: mark,
        }
    }

    fn marks(folder: &Path) -> Vec<String> {
        let read = |name| fs::read_to_string(folder.join(name)).unwrap_or_default();
        [KEY, "ca.pem", "hub.json", "cert.pem"].map(read).to_vec()
    }

    #[test]
    fn a_key_that_was_made_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let bundle = folder.path().join("phone.bundle");
        let first = prepare(&bundle).unwrap();
        assert_eq!(prepare(&bundle).unwrap(), first);
        // Cut off while it was written: nothing is found, and a new one is made.
        fs::rename(bundle.join(KEY), bundle.join("key.pem.new")).unwrap();
        let first = prepare(&bundle).unwrap();
        assert!(!bundle.join("key.pem.new").exists());
        use std::os::unix::fs::PermissionsExt;
        let set_mode =
            |mode| fs::set_permissions(bundle.join(KEY), fs::Permissions::from_mode(mode)).unwrap();
        set_mode(0o640);
        let refused = prepare(&bundle).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
        assert!(refused.to_string().contains("remove it"), "{refused}");
        set_mode(0o600);
        let again = NewKey::read(&first).unwrap();
        assert_eq!(again.key_pem, first);
        assert!(again.request_pem.contains("BEGIN CERTIFICATE REQUEST"));
        complete(&bundle, &files("x")).unwrap();
        assert_eq!(prepare(&bundle).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(marks(&bundle)[1..], ["x", "x", "x"]);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&bundle), mode(&bundle.join(KEY))), (0o700, 0o600));
        assert!(
            !NewKey::read("secret")
                .err()
                .unwrap()
                .to_string()
                .contains("secret")
        );
    }

    #[test]
    fn an_exchange_that_is_cut_off_anywhere_is_the_one_or_the_other() {
        for moved in 0..=4 {
            let folder = tempfile::tempdir().unwrap();
            let folder = folder.path();
            for (name, text, mode) in files("old").list() {
                write_new(&folder.join(name), text, mode).unwrap();
            }
            // Cut off before the rename: nothing has happened.
            let making = folder.join("renewal.new");
            fs::create_dir(&making).unwrap();
            write_new(&making.join(KEY), "half", 0o600).unwrap();
            roll_forward(folder).unwrap();
            assert_eq!(marks(folder), ["old"; 4]);
            // After it, with some files moved.
            let renewal = folder.join(RENEWAL);
            fs::create_dir(&renewal).unwrap();
            for (at, (name, text, mode)) in files("new").list().into_iter().enumerate() {
                let to = if at < moved { folder } else { renewal.as_path() };
                fs::remove_file(to.join(name)).ok();
                write_new(&to.join(name), text, mode).unwrap();
            }
            roll_forward(folder).unwrap();
            assert_eq!(marks(folder), ["new"; 4]);
            assert!(!renewal.exists());
            exchange(folder, &files("newer")).unwrap();
            assert_eq!(marks(folder), ["newer"; 4]);
            assert!(!making.exists() && !renewal.exists());
        }
    }
}
