//! A bundle's key and certificates as one PKCS#12 file, for phones that take nothing else.
//!
//! The key was made by the hub then, and travels: an invitation is better where the device can make its own. AES-256 and
//! HMAC-SHA-256, which Android 10 and iOS 15 and later read.

use crate::output::{Failure, Result};
use marey_server::pki::{DeviceBundle, read_secret};
use p12_keystore::{Certificate, KeyStore, KeyStoreEntry, PrivateKey, PrivateKeyChain};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The first line of a file that only its owner may read.
pub fn password(path: &Path) -> Result<String> {
    let text = read_secret(path)?;
    match text.lines().next() {
        Some(line) if line.chars().count() >= PASSWORD_CHARS_MIN => Ok(line.to_owned()),
        _ => Err(Failure::Usage(format!(
            "{}: the password on its first line has less than {PASSWORD_CHARS_MIN} characters",
            path.display()
        ))),
    }
}

/// Writes a new file (0600).
pub fn write(bundle: &DeviceBundle, path: &Path, password: &str) -> Result {
    let bytes = encode(bundle, password)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(&bytes)?;
    Ok(file.sync_all()?)
}

fn encode(bundle: &DeviceBundle, password: &str) -> Result<Vec<u8>> {
    let key = PrivatePkcs8KeyDer::from_pem_slice(bundle.key_pem.as_bytes())?;
    let key = PrivateKey::from_der(key.secret_pkcs8_der())?;
    let certificates = [&bundle.certificate_pem, &bundle.authority_pem]
        .into_iter()
        .map(|pem| {
            Ok(Certificate::from_der(&CertificateDer::from_pem_slice(
                pem.as_bytes(),
            )?)?)
        })
        .collect::<Result<Vec<_>>>()?;
    let chain = PrivateKeyChain::new(vec![1], key, certificates);
    let mut store = KeyStore::new();
    store.add_entry(&bundle.hub.device, KeyStoreEntry::PrivateKeyChain(chain));
    Ok(store.writer(password).write()?)
}

const PASSWORD_CHARS_MIN: usize = 8;
