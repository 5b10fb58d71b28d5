//! The authority, its certificates and its files.

#![allow(clippy::disallowed_methods, reason = "tests look at files from outside")]

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::{CertificateError, Error};

use super::*;

const NOW_NS: i64 = 1_795_000_000 * 1_000_000_000;

#[derive(Debug, Default)]
struct MemoryRegistry(Mutex<Vec<DeviceRecord>>);

impl Registry for MemoryRegistry {
    fn device(&self, name: &str) -> Result<Option<DeviceRecord>, RegistryError> {
        Ok(self
            .0
            .lock()
            .expect("no panic under the lock")
            .iter()
            .find(|d| d.name == name)
            .cloned())
    }
    fn put_device(&self, record: &DeviceRecord) -> Result<(), RegistryError> {
        let mut all = self.0.lock().expect("no panic under the lock");
        all.retain(|d| d.name != record.name);
        all.push(record.clone());
        Ok(())
    }
    fn list(&self) -> Result<Vec<DeviceRecord>, RegistryError> {
        Ok(self.0.lock().expect("no panic under the lock").clone())
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path)
        .expect("the file is there")
        .permissions()
        .mode()
        & 0o777
}

fn enrol(
    authority: &Authority,
    registry: &dyn Registry,
    name: &str,
    revoked: bool,
) -> CertificateDer<'static> {
    let issued = authority.issue_device(name, NOW_NS).expect("issued");
    let record = DeviceRecord {
        name: name.to_owned(),
        fingerprint_sha256_hex: issued.fingerprint_sha256_hex.clone(),
        serial_hex: issued.serial_hex.clone(),
        enrolled_utc_ns: NOW_NS,
        revoked,
        ..DeviceRecord::default()
    };
    registry.put_device(&record).expect("stored");
    CertificateDer::from_pem_slice(issued.certificate_pem.as_bytes()).expect("PEM")
}

#[test]
fn an_authority_survives_reopening_and_keeps_its_name() {
    let dir = tempfile::tempdir().expect("a folder");
    let made = Authority::init(dir.path(), NOW_NS).expect("made");
    let opened = Authority::open(dir.path()).expect("opened");
    assert_eq!(made.hub_name(), opened.hub_name());
    let name = opened.hub_name();
    assert!(name.starts_with("hub-") && name.ends_with(".marey.invalid") && name.len() == 4 + 16 + 14);
    assert_eq!(mode(&dir.path().join("pki")), 0o700);
    assert_eq!(mode(&dir.path().join("pki/ca.key.pem")), 0o600);
    assert!(matches!(
        Authority::init(dir.path(), NOW_NS),
        Err(PkiError::Exists { .. })
    ));
}

#[test]
fn loose_modes_and_missing_files_are_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    assert!(matches!(
        Authority::open(dir.path()),
        Err(PkiError::Missing { .. })
    ));
    Authority::init(dir.path(), NOW_NS).expect("made");
    let key = dir.path().join("pki/ca.key.pem");
    let set = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("chmod");
    };
    set(&key, 0o640);
    let error = Authority::open(dir.path()).expect_err("readable by the group");
    assert!(matches!(error, PkiError::TooOpen { mode: 0o640, .. }), "{error}");
    assert!(error.to_string().contains("chmod 600"), "{error}");
    set(&key, 0o600);
    set(&dir.path().join("pki"), 0o755);
    assert!(matches!(
        Authority::open(dir.path()),
        Err(PkiError::TooOpen { want: 0o700, .. })
    ));
    set(&dir.path().join("pki"), 0o700);
    std::fs::remove_file(&key).expect("removed");
    assert!(matches!(
        Authority::open(dir.path()),
        Err(PkiError::Missing { .. })
    ));
}

#[test]
fn a_key_of_another_authority_is_noticed() {
    let (one, two) = (
        tempfile::tempdir().expect("a folder"),
        tempfile::tempdir().expect("a folder"),
    );
    Authority::init(one.path(), NOW_NS).expect("made");
    Authority::init(two.path(), NOW_NS).expect("made");
    std::fs::copy(
        two.path().join("pki/ca.key.pem"),
        one.path().join("pki/ca.key.pem"),
    )
    .expect("copied");
    assert!(matches!(
        Authority::open(one.path()),
        Err(PkiError::Damaged { .. })
    ));
}

#[test]
fn the_hub_certificate_is_kept_until_it_no_longer_fits() {
    let dir = tempfile::tempdir().expect("a folder");
    let authority = Authority::init(dir.path(), NOW_NS).expect("made");
    let address: IpAddr = "192.0.2.7".parse().expect("an address");
    let identity = |now_ns, addresses: &[IpAddr]| {
        authority
            .hub_identity(now_ns, Some("lab-pc"), addresses)
            .expect("an identity")
            .chain[0]
            .clone()
    };
    let first = identity(NOW_NS, &[]);
    assert_eq!(first, identity(NOW_NS, &[]));
    let with_address = identity(NOW_NS, &[address]);
    assert_ne!(first, with_address);
    // Fewer addresses than the certificate names are no reason for a new one.
    assert_eq!(with_address, identity(NOW_NS, &[]));
    let in_a_year_ns = NOW_NS + 365 * 86_400 * 1_000_000_000;
    assert_ne!(with_address, identity(in_a_year_ns, &[]));
    assert_eq!(mode(&dir.path().join("pki/hub.key.pem")), 0o600);
}

#[test]
fn only_what_the_registry_knows_is_admitted() {
    let dir = tempfile::tempdir().expect("a folder");
    let authority = Authority::init(dir.path(), NOW_NS).expect("made");
    let registry = Arc::new(MemoryRegistry::default());
    let verifier = DeviceVerifier::new([&authority], registry.clone()).expect("a verifier");
    let now_s = u64::try_from(NOW_NS / 1_000_000_000).expect("positive");
    let check = |certificate: &CertificateDer<'_>, at_s: u64| {
        verifier.verify_client_cert(
            certificate,
            &[],
            UnixTime::since_unix_epoch(Duration::from_secs(at_s)),
        )
    };

    let phone = enrol(&authority, registry.as_ref(), "phone_1", false);
    assert_eq!(device_of_certificate(&phone).as_deref(), Some("phone_1"));
    check(&phone, now_s).expect("an enrolled device");

    let lost = enrol(&authority, registry.as_ref(), "lost", true);
    assert_eq!(
        check(&lost, now_s).err(),
        Some(Error::InvalidCertificate(CertificateError::Revoked))
    );

    let again = enrol(&authority, registry.as_ref(), "phone_1", false);
    let error = check(&phone, now_s).expect_err("superseded").to_string();
    assert!(error.contains("Superseded"), "{error}");
    check(&again, now_s).expect("the new certificate");
    assert!(check(&again, now_s + 400 * 86_400).is_err(), "expired");

    let stranger = authority.issue_device("stranger", NOW_NS).expect("issued");
    let stranger = CertificateDer::from_pem_slice(stranger.certificate_pem.as_bytes()).expect("PEM");
    let error = check(&stranger, now_s).expect_err("not enrolled").to_string();
    assert!(error.contains("Unknown(\"stranger\")"), "{error}");

    let other = tempfile::tempdir().expect("a folder");
    let foreign = Authority::init(other.path(), NOW_NS).expect("made");
    let foreign = enrol(&foreign, registry.as_ref(), "phone_1", false);
    assert!(check(&foreign, now_s).is_err(), "another authority's device");
}

#[test]
fn a_hub_that_lost_its_time_still_admits() {
    let dir = tempfile::tempdir().expect("a folder");
    let authority = Authority::init(dir.path(), NOW_NS).expect("made");
    let registry = Arc::new(MemoryRegistry::default());
    let verifier = DeviceVerifier::new([&authority], registry.clone()).expect("a verifier");
    let phone = enrol(&authority, registry.as_ref(), "phone_1", false);
    let clock = CertificateClock::new([&authority], || 0);
    let now = rustls::time_provider::TimeProvider::current_time(clock.as_ref()).expect("a time");
    verifier
        .verify_client_cert(&phone, &[], now)
        .expect("valid from the authority's first day");
}

#[test]
fn a_bundle_is_written_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let authority = Authority::init(dir.path(), NOW_NS).expect("made");
    let issued = authority.issue_device("watch", NOW_NS).expect("issued");
    let bundle = DeviceBundle::new(&authority, "watch", issued, vec!["192.0.2.7:8443".into()], 8765);
    let out = dir.path().join("watch");
    bundle.write(&out).expect("written");
    assert_eq!(mode(&out.join("key.pem")), 0o600);
    let hub: HubContact =
        serde_json::from_str(&std::fs::read_to_string(out.join("hub.json")).expect("read")).expect("JSON");
    assert_eq!(hub, bundle.hub);
    assert!(matches!(bundle.write(&out), Err(PkiError::Exists { .. })));
}

use std::sync::Arc;
