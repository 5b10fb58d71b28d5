//! Devices, invitations and authorities over a store in a folder and a clock that is moved by hand.

#![allow(clippy::disallowed_methods, reason = "tests look at files from outside")]

use std::sync::atomic::{AtomicI64, Ordering};

use marey_engine::Options;
use marey_engine::disk::OsDisk;
use marey_engine::time::{HubClock, HubInstant, OsClocks};
use marey_format::payload::WallReading;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

use super::invitation::EnrolRequest;
use super::*;
use crate::pki::{KeyKind, NewAuthority, Shown, device_of_certificate};

#[derive(Debug)]
struct MovedClock {
    kernel: Arc<dyn HubClock>,
    moved_ns: AtomicI64,
}

impl HubClock for MovedClock {
    fn now(&self) -> HubInstant {
        self.kernel.now()
    }
    fn wall(&self) -> WallReading {
        let mut wall = self.kernel.wall();
        wall.utc_ns += self.moved_ns.load(Ordering::Relaxed);
        wall
    }
}

struct Desk {
    dir: tempfile::TempDir,
    clock: Arc<MovedClock>,
    registrar: Arc<Registrar>,
}

fn desk_with(authority: &NewAuthority) -> Desk {
    let dir = tempfile::tempdir().expect("a folder");
    let clock = Arc::new(MovedClock {
        kernel: Arc::new(OsClocks::hub_clock().expect("clocks")),
        moved_ns: AtomicI64::new(0),
    });
    crate::init_with(dir.path(), clock.as_ref(), Some(authority)).expect("a hub");
    let config = HubConfig::default();
    let (store, _) = Store::open(
        Arc::new(OsDisk::new(dir.path())),
        clock.clone(),
        Options::default(),
    )
    .expect("a store");
    let registrar = Registrar::open(dir.path(), Arc::new(store), &config, config.listen.clone(), true);
    Desk {
        registrar: registrar.expect("a registrar"),
        clock,
        dir,
    }
}

fn desk() -> Desk {
    desk_with(&NewAuthority::default())
}

impl Desk {
    fn pass(&self, minutes: i64) {
        self.clock
            .moved_ns
            .fetch_add(minutes * 60 * NS_PER_S, Ordering::Relaxed);
    }

    fn token(&self, device: &str) -> String {
        let invitation = self
            .registrar
            .invite(&name(device), &["192.0.2.7:8443".into()])
            .expect("invited");
        let (_, token) = invitation.link.split_once("&token=").expect("a token");
        token.to_owned()
    }

    fn redeem(&self, device: &str, token: &str, key: &KeyPair) -> Result<serde_json::Value, RegistrarError> {
        let request: EnrolRequest = serde_json::from_value(serde_json::json!({
            "device": device, "token": token, "csr": request(key)
        }))
        .expect("a request");
        let enrolled = self.registrar.redeem(&request)?;
        Ok(serde_json::to_value(&enrolled).expect("JSON"))
    }

    fn record(&self, device: &str) -> crate::pki::DeviceRecord {
        self.registrar
            .registry()
            .device(device)
            .expect("read")
            .expect("enrolled")
    }

    fn revoked_serials(&self) -> Vec<Vec<String>> {
        let text = std::fs::read(self.dir.path().join("pki/crl.pem")).expect("a list");
        CertificateRevocationListDer::pem_slice_iter(&text)
            .map(|der| {
                let der = der.expect("PEM");
                let (_, list) = CertificateRevocationList::from_der(&der).expect("a list");
                let authorities = self.registrar.current();
                let is_signed = authorities.authorities.trusted().any(|authority| {
                    let (_, ca) = X509Certificate::from_der(authority.certificate()).expect("a certificate");
                    list.verify_signature(ca.public_key()).is_ok()
                });
                assert!(is_signed);
                list.iter_revoked_certificates()
                    .map(|one| marey_format::types::hex(one.raw_serial()))
                    .collect()
            })
            .collect()
    }
}

fn name(text: &str) -> DeviceId {
    DeviceId::new(text).expect("a name")
}

fn key() -> KeyPair {
    KeyPair::generate().expect("a key")
}

fn request(key: &KeyPair) -> String {
    CertificateParams::default()
        .serialize_request(key)
        .and_then(|request| request.pem())
        .expect("a request")
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM")
}

#[test]
fn an_invitation_is_good_once_for_one_device_and_ten_minutes() {
    let desk = desk();
    let not_invited = |device: &str, token: &str| {
        let error = desk.redeem(device, token, &key()).expect_err("not invited");
        assert!(matches!(error, RegistrarError::NotInvited), "{error}");
    };
    not_invited("phone", &"0".repeat(32));
    let token = desk.token("phone");
    assert_eq!(token.len(), 32);
    not_invited("watch", &token);
    not_invited("phone", &token.to_uppercase().replace(char::is_numeric, "A"));
    not_invited("phone", "");
    let (first, second) = (key(), key());
    let enrolled = desk.redeem("phone", &token, &first).expect("enrolled");
    assert_eq!(
        enrolled["hub"]["addresses"],
        serde_json::json!(["192.0.2.7:8443"])
    );
    // Burnt: whoever else has the link comes too late.
    let late = desk.redeem("phone", &token, &second).expect_err("burnt");
    assert!(matches!(late, RegistrarError::NotInvited));
    // The answer was lost: the same key gets the same certificate, also long after.
    desk.pass(60 * 24);
    let again = desk.redeem("phone", &token, &first).expect("the same");
    assert_eq!(again["certificate"], enrolled["certificate"]);
    assert!(desk.redeem("watch", &token, &first).is_err(), "but no other name");

    let token = desk.token("watch");
    desk.pass(10);
    not_invited("watch", &token);
    // A newer invitation makes the older one void.
    let (older, newer) = (desk.token("watch"), desk.token("watch"));
    not_invited("watch", &older);
    desk.redeem("watch", &newer, &key()).expect("enrolled");
    // A revoked device's key opens nothing, nor does an invitation that was open.
    let token = desk.token("phone");
    desk.registrar.revoke(&name("phone")).expect("revoked");
    not_invited("phone", &token);
    assert!(matches!(
        desk.redeem("phone", "", &first),
        Err(RegistrarError::NotInvited)
    ));
    // An enrolled certificate that has ended is no more given out.
    let token = desk.token("board");
    let board = key();
    desk.redeem("board", &token, &board).expect("enrolled");
    desk.pass(376 * 24 * 60);
    assert!(matches!(
        desk.redeem("board", "", &board),
        Err(RegistrarError::NotInvited)
    ));
}

#[test]
fn the_token_is_not_on_the_disk() {
    let desk = desk();
    let token = desk.token("phone");
    let bytes = std::fs::read(desk.dir.path().join("identity.redb")).expect("read");
    let holds = |text: &str| bytes.windows(text.len()).any(|w| w == text.as_bytes());
    assert!(!holds(&token) && !holds(&token[..16]));
    let hash: [u8; 32] = <sha2::Sha256 as sha2::Digest>::digest(token.as_bytes()).into();
    assert!(
        holds(&marey_format::types::hex(&hash)),
        "its hash is, so that this looks in the right place"
    );
}

#[test]
fn nothing_that_a_request_asks_for_is_granted() {
    let desk = desk();
    let token = desk.token("phone");
    let mut params =
        CertificateParams::new(vec!["hub-0011223344556677.marey.invalid".to_owned()]).expect("names");
    params
        .distinguished_name
        .push(DnType::CommonName, "Marey hub authority");
    params
        .subject_alt_names
        .push(SanType::URI("urn:marey:device:admin".try_into().expect("ASCII")));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::Any];
    let key = key();
    // A request has no lifetime of its own: rcgen refuses to write one, so the rest is asked for.
    let csr = params.serialize_request(&key).and_then(|r| r.pem());
    let csr = match csr {
        Ok(csr) => csr,
        Err(_) => {
            params.is_ca = IsCa::NoCa;
            params
                .serialize_request(&key)
                .and_then(|r| r.pem())
                .expect("a request")
        }
    };
    let asked: EnrolRequest =
        serde_json::from_value(serde_json::json!({"device": "phone", "token": token, "csr": csr}))
            .expect("a request");
    let enrolled = serde_json::to_value(desk.registrar.redeem(&asked).expect("enrolled")).expect("JSON");
    let certificate = der(enrolled["certificate"].as_str().expect("PEM"));
    assert_eq!(device_of_certificate(&certificate).as_deref(), Some("phone"));
    let (_, read) = X509Certificate::from_der(&certificate).expect("a certificate");
    let names = read
        .subject_alternative_name()
        .expect("well-formed")
        .expect("names")
        .value;
    assert_eq!(names.general_names.len(), 1, "{names:?}");
    assert_eq!(read.subject().to_string(), "CN=phone");
    assert!(!read.is_ca());
    let usage = read
        .extended_key_usage()
        .expect("well-formed")
        .expect("there")
        .value;
    assert!(usage.client_auth && !usage.server_auth && !usage.any);
    let usage = read.key_usage().expect("well-formed").expect("there").value;
    assert!(usage.digital_signature() && !usage.key_cert_sign());
    let days = (read.validity().not_after.timestamp() - desk.registrar.now_utc_ns() / NS_PER_S) / DAY_S;
    assert!((374..=375).contains(&days), "{days}");
    assert_eq!(
        read.public_key().subject_public_key.data.as_ref(),
        key.public_key_raw()
    );
}

#[test]
fn both_certificates_count_until_the_newer_one_is_shown() {
    let desk = desk();
    let registrar = &desk.registrar;
    let phone = name("phone");
    let bundle = registrar.enroll(&phone, &[]).expect("enrolled");
    let old = Shown::of(&der(&bundle.certificate_pem)).expect("a certificate");
    assert!(!registrar.is_due(&old));
    desk.pass(344 * 24 * 60);
    assert!(!registrar.is_due(&old));
    desk.pass(2 * 24 * 60);
    assert!(registrar.is_due(&old), "from thirty days before the end");

    let first = key();
    let renewed = registrar.renew(&phone, &old, &request(&first)).expect("renewed");
    let again = registrar.renew(&phone, &old, &request(&first)).expect("the same");
    assert_eq!(renewed, again, "an answer that was lost costs nothing");
    // The device lost that key: it asks with another one, and the first one's certificate does not count any more.
    let second = key();
    let newer = registrar.renew(&phone, &old, &request(&second)).expect("renewed");
    let lost = Shown::of(&der(&renewed.certificate)).expect("a certificate");
    let new = Shown::of(&der(&newer.certificate)).expect("a certificate");
    let is_new = |shown: &Shown| match registrar.standing(&phone, shown) {
        Standing::Admitted { is_new, .. } => Some(is_new),
        Standing::Refused | Standing::Unknown => None,
    };
    assert_eq!(
        (is_new(&old), is_new(&lost), is_new(&new)),
        (Some(false), None, Some(true))
    );
    assert!(!registrar.is_due(&new));
    registrar
        .shown(&phone, &new.fingerprint_sha256_hex)
        .expect("shown");
    assert_eq!((is_new(&old), is_new(&new)), (None, Some(false)));
    assert!(
        registrar.renew(&phone, &old, &request(&key())).is_err(),
        "the old one renews nothing"
    );
    let same = registrar.renew(&phone, &new, &request(&second));
    assert!(
        same.expect_err("no new key")
            .to_string()
            .contains("make a new one")
    );
    let mut serials = vec![lost.serial_hex, old.serial_hex];
    serials.sort();
    let mut listed = desk.revoked_serials();
    listed[0].sort();
    assert_eq!(listed, [serials]);
    // They leave the list when they would have ended anyway.
    desk.pass(400 * 24 * 60);
    registrar.list_revocations();
    assert_eq!(desk.revoked_serials(), [Vec::<String>::new()]);
}

#[test]
fn a_revoked_device_is_in_the_list_and_an_invitation_lets_it_in_again() {
    let desk = desk();
    let phone = name("phone");
    desk.registrar.enroll(&phone, &[]).expect("enrolled");
    let serial = desk.record("phone").serial_hex;
    desk.registrar.revoke(&phone).expect("revoked");
    desk.registrar.revoke(&phone).expect("twice is no error");
    assert_eq!(desk.revoked_serials(), [vec![serial.clone()]]);
    assert!(desk.registrar.ask_renewal(&phone).is_err());
    let token = desk.token("phone");
    assert!(
        desk.record("phone").revoked,
        "an invitation alone changes nothing"
    );
    desk.redeem("phone", &token, &key()).expect("enrolled");
    assert!(!desk.record("phone").revoked);
    assert_eq!(desk.revoked_serials(), [vec![serial]]);
    assert!(desk.registrar.revoke(&name("nobody")).is_err());
}

#[test]
fn names_that_differ_in_case_alone_and_addresses_that_are_none_are_refused() {
    let desk = desk();
    desk.token("phone");
    desk.registrar.enroll(&name("watch"), &[]).expect("enrolled");
    let error = desk
        .registrar
        .invite(&name("Watch"), &[])
        .expect_err("alike")
        .to_string();
    assert!(error.contains("in case alone"), "{error}");
    for address in [
        "",
        "x",
        "x:",
        ":1",
        "x:0",
        "x:99999",
        "a b:1",
        "x\u{1b}[2J:1",
        "x&token=1:1",
    ] {
        let error = desk
            .registrar
            .invite(&name("board"), &[address.to_owned()])
            .expect_err(address)
            .to_string();
        assert!(!error.contains('\u{1b}'), "{error}");
    }
    let invitation = desk.registrar.invite(&name("board"), &[]).expect("invited");
    assert!(
        invitation.link.starts_with("marey://") && invitation.link.contains(":8443"),
        "{}",
        invitation.link
    );
}

#[test]
fn a_new_authority_stands_beside_the_old_one_until_that_is_retired() {
    let desk = desk();
    let registrar = &desk.registrar;
    let phone = name("phone");
    let bundle = registrar.enroll(&phone, &[]).expect("enrolled");
    let old = Shown::of(&der(&bundle.certificate_pem)).expect("a certificate");
    let hub_name = registrar.hub_name();
    assert!(registrar.retire(false).is_err(), "there is none");
    registrar.rotate(KeyKind::P256).expect("rotated");
    assert!(registrar.rotate(KeyKind::P256).is_err(), "one at a time");
    assert_ne!(registrar.hub_name(), hub_name);
    assert!(registrar.is_due(&old), "for its authority");
    let views = registrar.authorities().expect("views");
    assert_eq!(
        views
            .iter()
            .map(|v| (v.number, v.issuing, v.devices))
            .collect::<Vec<_>>(),
        [(2, true, 0), (1, false, 1)]
    );
    assert_eq!(desk.revoked_serials().len(), 2, "a list for each");
    let error = registrar
        .retire(false)
        .expect_err("the phone would be locked out")
        .to_string();
    assert!(error.contains("phone") && error.contains("--even-so"), "{error}");

    let renewed = registrar.renew(&phone, &old, &request(&key())).expect("renewed");
    assert_eq!(renewed.hub_name, registrar.hub_name());
    let new = Shown::of(&der(&renewed.certificate)).expect("a certificate");
    assert!(!registrar.is_due(&new));
    // What stands on the disk is what was said: another life of the hub has the same.
    let open = |dir: &Path| Authorities::open(dir, None).expect("opened");
    assert_eq!(
        open(desk.dir.path())
            .trusted()
            .map(|a| a.number())
            .collect::<Vec<_>>(),
        [2, 1]
    );
    assert!(registrar.retire(false).expect("nobody is locked out").is_empty());
    let opened = open(desk.dir.path());
    assert_eq!(opened.trusted().map(|a| a.number()).collect::<Vec<_>>(), [2]);
    assert_eq!(opened.issuing().hub_name(), registrar.hub_name());
    let pki = desk.dir.path().join("pki");
    assert!(
        !pki.join("ca.key.pem").exists()
            && pki.join("ca.cert.pem").exists()
            && pki.join("ca-2.key.pem").exists()
    );
    assert!(!pki.join("hub.cert.pem").exists());
    let issuing = Authorities::certificate_path(desk.dir.path()).expect("a path");
    assert_eq!(issuing, pki.join("ca-2.cert.pem"));
    registrar.rotate(KeyKind::P256).expect("again");
    registrar.retire(true).expect("even so");
    assert_eq!(registrar.authorities().expect("views")[0].number, 3);
}

#[test]
fn a_key_under_a_passphrase_issues_only_with_it() {
    let passphrase = "correct horse battery";
    let authority = NewAuthority {
        key: KeyKind::P256,
        passphrase: Some(Passphrase::new(passphrase).expect("long enough")),
    };
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("passphrase");
    let clock = Arc::new(OsClocks::hub_clock().expect("clocks"));
    let hub = dir.path().join("hub");
    crate::init_with(&hub, clock.as_ref(), Some(&authority)).expect("a hub");
    let key = std::fs::read_to_string(hub.join("pki/ca.key.pem")).expect("read");
    assert!(key.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"));
    let (store, _) = Store::open(Arc::new(OsDisk::new(&hub)), clock, Options::default()).expect("a store");
    let store = Arc::new(store);
    let mut config = HubConfig::default();
    let open = |config: &HubConfig, serving| {
        Registrar::open(&hub, store.clone(), config, config.listen.clone(), serving)
    };
    // Locked from the first day: there is no certificate to serve with.
    assert!(matches!(
        open(&config, true),
        Err(StartError::Pki(PkiError::Locked { .. }))
    ));
    config.certificates.ca_passphrase_file = file.display().to_string();
    assert!(matches!(
        open(&config, true),
        Err(StartError::Pki(PkiError::Missing { .. }))
    ));
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(&file, format!("{passphrase}\n")).expect("written");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).expect("chmod");
    assert!(matches!(
        open(&config, true),
        Err(StartError::Pki(PkiError::TooOpen { .. }))
    ));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("chmod");
    let registrar = open(&config, true).expect("unlocked");
    registrar.enroll(&name("phone"), &[]).expect("enrolled");
    registrar.rotate(KeyKind::P256).expect("rotated");
    let key = std::fs::read_to_string(hub.join("pki/ca-2.key.pem")).expect("read");
    assert!(key.contains("ENCRYPTED"), "the new one is under it too");
    std::fs::write(&file, "another passphrase\n").expect("written");
    assert!(registrar.reload().is_err());
    assert!(
        !registrar.authorities().expect("views")[0].locked,
        "what was good goes on"
    );
    // Without it the hub serves with the certificate that it has, and issues nothing.
    config.certificates.ca_passphrase_file.clear();
    let locked = open(&config, true).expect("it serves");
    assert!(locked.authorities().expect("views")[0].locked);
    for refused in [
        locked.enroll(&name("watch"), &[]).map(|_| ()),
        locked.invite(&name("watch"), &[]).map(|_| ()),
        locked.rotate(KeyKind::P256),
    ] {
        assert!(
            matches!(refused, Err(RegistrarError::Pki(PkiError::Locked { .. }))),
            "{refused:?}"
        );
    }
    locked.revoke(&name("phone")).expect("revoking needs no key");
}

#[test]
fn files_that_somebody_changed_are_taken_up() {
    let desk = desk();
    assert!(!desk.registrar.tick(), "nothing has changed");
    assert!(
        desk.dir.path().join("pki/crl.pem").exists(),
        "the list is there from the first turn"
    );
    Authorities::rotate(
        desk.dir.path(),
        &NewAuthority::default(),
        desk.registrar.now_utc_ns(),
    )
    .expect("rotated");
    assert!(desk.registrar.tick());
    assert_eq!(desk.registrar.authorities().expect("views").len(), 2);
    assert!(!desk.registrar.tick());
    let before = desk.registrar.hub_not_after_utc_s();
    desk.pass(320 * 24 * 60);
    assert!(
        desk.registrar.tick(),
        "sixty days before the end there is a new one"
    );
    assert!(desk.registrar.hub_not_after_utc_s() > before);
    // What can't be read leaves all as it was.
    std::fs::write(desk.dir.path().join("pki/authorities.json"), "{").expect("written");
    desk.registrar.tick();
    assert!(desk.registrar.reload().is_err());
    assert_eq!(desk.registrar.authorities().expect("views").len(), 2);
}

#[test]
fn an_rsa_authority_issues_what_is_verified_under_it() {
    let desk = desk_with(&NewAuthority {
        key: KeyKind::Rsa3072,
        passphrase: None,
    });
    let current = desk.registrar.current();
    assert_eq!(current.authorities.issuing().key_kind(), KeyKind::Rsa3072);
    let bundle = desk.registrar.enroll(&name("phone"), &[]).expect("enrolled");
    let certificate = der(&bundle.certificate_pem);
    let (_, read) = X509Certificate::from_der(&certificate).expect("a certificate");
    let (_, ca) =
        X509Certificate::from_der(current.authorities.issuing().certificate()).expect("a certificate");
    read.verify_signature(Some(ca.public_key()))
        .expect("signed by it");
}
