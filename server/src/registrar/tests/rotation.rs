//! Authorities that come and go, keys under a passphrase, and what goes by itself.

use super::*;

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
    assert!(
        registrar.retire(false).is_err(),
        "nobody knows whether the new one has arrived"
    );
    registrar
        .shown(&phone, &new.fingerprint_sha256_hex)
        .expect("shown");
    // What stands on the disk is what was said: another life of the hub has the same.
    let open = |dir: &Path| Authorities::open(dir, None).expect("opened");
    assert_eq!(
        open(desk.dir.path())
            .trusted()
            .map(|a| a.number())
            .collect::<Vec<_>>(),
        [2, 1]
    );
    // A connection that shook hands before, and is let in after.
    let watch = name("watch");
    let issued = open(desk.dir.path())
        .retiring()
        .expect("the older one")
        .issue_device("watch", registrar.now_utc_ns())
        .expect("issued");
    let late = Shown::of(&der(&issued.certificate_pem)).expect("a certificate");
    registrar
        .registry()
        .put_device(&crate::pki::DeviceRecord {
            name: "watch".into(),
            fingerprint_sha256_hex: late.fingerprint_sha256_hex.clone(),
            certificate: Some(crate::pki::CertificateRecord {
                fingerprint_sha256_hex: late.fingerprint_sha256_hex.clone(),
                authority: open(desk.dir.path()).issuing().key_hex().to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        })
        .expect("stored");
    assert_ne!(registrar.standing(&watch, &late), Standing::Refused);
    assert!(registrar.retire(false).expect("nobody is locked out").is_empty());
    assert_eq!(registrar.standing(&watch, &late), Standing::Refused);
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
    // A hub that was cut off before it had removed the key does it later.
    std::fs::write(pki.join("ca-2.key.pem"), "a key").expect("written");
    registrar.tick();
    assert!(!pki.join("ca-2.key.pem").exists() && pki.join("ca-3.key.pem").exists());
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
        Err(StartError::Pki(PkiError::File { .. }))
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
    // A file with another passphrase rotates nothing, and leaves a hub that starts with the right one.
    std::fs::write(&file, "another passphrase\n").expect("written");
    let refused = registrar.rotate(KeyKind::P256).expect_err("another passphrase");
    assert!(refused.to_string().contains("passphrase"), "{refused}");
    assert!(!hub.join("pki/ca-2.key.pem").exists() && !hub.join("pki/authorities.json").exists());
    std::fs::write(&file, format!("{passphrase}\n")).expect("written");
    registrar.rotate(KeyKind::P256).expect("rotated");
    let key = std::fs::read_to_string(hub.join("pki/ca-2.key.pem")).expect("read");
    assert!(key.contains("ENCRYPTED"), "the new one is under it too");
    std::fs::write(&file, "another passphrase\n").expect("written");
    assert!(registrar.reload().is_err());
    assert!(
        !registrar.authorities().expect("views")[0].locked,
        "what was good goes on"
    );
    // The older authority's may be another one: it issues nothing, and the hub starts all the same.
    let older = hub.join("pki/ca.key.pem");
    let of_older = std::fs::read(&older).expect("read");
    let other = tempfile::tempdir().expect("a folder");
    let under_another = NewAuthority {
        key: KeyKind::P256,
        passphrase: Some(Passphrase::new("a third passphrase").expect("long enough")),
    };
    crate::init_with(
        &other.path().join("hub"),
        store.clock().as_ref(),
        Some(&under_another),
    )
    .expect("a hub");
    std::fs::copy(other.path().join("hub/pki/ca.key.pem"), &older).expect("copied");
    std::fs::write(&file, format!("{passphrase}\n")).expect("written");
    let views = open(&config, true)
        .expect("it serves")
        .authorities()
        .expect("views");
    assert_eq!(views.iter().map(|v| v.locked).collect::<Vec<_>>(), [false, true]);
    std::fs::write(&older, of_older).expect("written");
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

#[test]
fn what_goes_by_itself_goes_however_much_is_asked_for() {
    let desk = desk();
    let list = desk.dir.path().join("pki/crl.pem");
    let (office, inbox) = Office::new(desk.registrar.clone());
    let attached = crate::attached::Attached::new(1_000);
    std::thread::scope(|scope| {
        let (registrar, attached) = (&desk.registrar, &attached);
        let working = scope.spawn(move || inbox.work(registrar, attached));
        let asked = || {
            let request = serde_json::json!({"device": "phone", "token": "", "csr": request(&key())});
            let request = serde_json::from_value(request).expect("a request");
            let peer = SocketAddr::from(([127, 0, 0, 1], 1));
            let runtime = tokio::runtime::Builder::new_current_thread().build();
            let answer = runtime.expect("a runtime").block_on(office.redeem(request, peer));
            assert!(answer.expect("an answer").is_err(), "nobody invited it");
        };
        asked();
        std::fs::remove_file(&list).expect("it was there");
        // More than half of the time between two turns passes before each: it is never quiet for so long.
        for _ in 0..3 {
            desk.clock.turned_ns.fetch_add(20 * NS_PER_S, Ordering::Relaxed);
            asked();
        }
        office.end();
        working.join().expect("it ends");
    });
    assert!(list.exists(), "the list is written anew");
}
