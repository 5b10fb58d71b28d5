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

mod rotation;

#[derive(Debug)]
struct MovedClock {
    kernel: Arc<dyn HubClock>,
    /// Of the wall clock.
    moved_ns: AtomicI64,
    /// Of the hub's own.
    turned_ns: AtomicI64,
}

impl HubClock for MovedClock {
    fn now(&self) -> HubInstant {
        let mut now = self.kernel.now();
        now.ns += self.turned_ns.load(Ordering::Relaxed);
        now
    }
    fn wall(&self) -> WallReading {
        let mut wall = self.kernel.wall();
        wall.utc_ns += self.moved_ns.load(Ordering::Relaxed);
        wall.synchronised = true;
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
        turned_ns: AtomicI64::new(0),
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
        self.registrar.list_if_due();
        self.listed_serials()
    }

    /// As the list has them.
    fn listed_serials(&self) -> Vec<Vec<String>> {
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
    // It asks with another key, and may never receive this answer: what it was given before goes on to count.
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
        (Some(false), Some(true), Some(true))
    );
    let again = registrar.renew(&phone, &old, &request(&first)).expect("the same");
    assert_eq!(again, renewed);
    assert!(!registrar.is_due(&new));
    registrar
        .shown(&phone, &new.fingerprint_sha256_hex)
        .expect("shown");
    assert_eq!(
        (is_new(&old), is_new(&lost), is_new(&new)),
        (None, None, Some(false))
    );
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
    let listed = || {
        let mut listed = desk.revoked_serials();
        listed[0].sort();
        listed
    };
    assert_eq!(listed(), [serials.clone()]);
    // They leave the list when they would have ended anyway, and are back in it when it was the clock that jumped.
    desk.pass(376 * 24 * 60);
    registrar.list_revocations();
    assert_eq!(desk.revoked_serials(), [Vec::<String>::new()]);
    desk.pass(-376 * 24 * 60);
    registrar.list_revocations();
    assert_eq!(listed(), [serials]);
    desk.pass(800 * 24 * 60);
    registrar.list_revocations();
    desk.pass(-800 * 24 * 60);
    registrar.list_revocations();
    assert_eq!(
        desk.revoked_serials(),
        [Vec::<String>::new()],
        "after a year nobody knows them any more"
    );
}

#[test]
fn what_a_device_may_have_stored_is_bounded() {
    let desk = desk();
    let phone = name("phone");
    let bundle = desk.registrar.enroll(&phone, &[]).expect("enrolled");
    let old = Shown::of(&der(&bundle.certificate_pem)).expect("a certificate");
    let given: Vec<_> = (0..8)
        .map(|_| {
            desk.registrar
                .renew(&phone, &old, &request(&key()))
                .expect("renewed")
        })
        .map(|renewed| Shown::of(&der(&renewed.certificate)).expect("a certificate"))
        .collect();
    let counts = |shown: &Shown| desk.registrar.standing(&phone, shown) != Standing::Refused;
    let counted: Vec<bool> = given.iter().map(counts).collect();
    assert_eq!(counted, [false, false, false, false, true, true, true, true]);
    desk.registrar
        .shown(&phone, &given[5].fingerprint_sha256_hex)
        .expect("shown");
    assert!(counts(&given[5]) && !counts(&old));
    assert_eq!(given.iter().filter(|shown| counts(shown)).count(), 1);
    assert_eq!(desk.revoked_serials()[0].len(), 8);
}

#[test]
fn a_device_is_off_before_its_revocation_is_listed() {
    let desk = desk();
    desk.registrar.list_if_due();
    desk.registrar.enroll(&name("phone"), &[]).expect("enrolled");
    let serial = desk.record("phone").serial_hex;
    desk.registrar.revoke(&name("phone")).expect("revoked");
    assert!(desk.record("phone").revoked);
    assert_eq!(desk.listed_serials(), [Vec::<String>::new()], "the list can wait");
    assert_eq!(desk.revoked_serials(), [vec![serial]]);
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
fn after_a_change_that_failed_names_are_those_that_are_stored() {
    let desk = desk();
    desk.registrar.enroll(&name("watch"), &[]).expect("enrolled");
    let failed = {
        let mut names = desk.registrar.change();
        let failed = desk
            .registrar
            .store_enrolled(&mut names, &name("phone"), |_| Err(RegistrarError::NotInvited));
        assert!(names.is_none(), "nobody knows what became of it");
        failed
    };
    assert!(matches!(failed, Err(RegistrarError::NotInvited)), "{failed:?}");
    // The phone is not stored, so that its name is free in any case; the watch is, though its name was forgotten.
    desk.registrar
        .enroll(&name("Phone"), &[])
        .expect("nothing is there yet");
    let alike = |device| {
        desk.registrar
            .enroll(&name(device), &[])
            .expect_err(device)
            .to_string()
    };
    for device in ["phone", "WATCH"] {
        assert!(alike(device).contains("in case alone"), "{device}");
    }
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
