//! Signed receipts: what `openssl` alone says of them, what a changed byte anywhere is answered with, how one names the other.

#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside of the hub, and changes files under it"
)]

use marey_engine::compact::{Receipt, check_receipt, receipt_numbers};
use marey_engine::disk::{Disk, OsDisk};
use marey_server::pki::ReceiptTrust;
use marey_tests::hub::raw::{Log, RawDevice};
use marey_tests::hub::{Lab, device, session};
use marey_tests::process;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A hub that ran, with a session of two generations; the path of the session's folder.
fn recorded() -> (Lab, PathBuf) {
    let lab = Lab::new();
    let walk = session("walk");
    let bundle = lab.enroll_raw("phone");
    lab.start_session(&walk, None);
    let mut log = Log::new(&device("phone"), &walk, 1);
    let mut phone = RawDevice::record(&bundle, lab.address(), &log);
    phone.send(&[log.declare(), log.data(), log.data()].concat());
    phone.acked([2, 1]);
    assert_eq!(lab.stop_session(&walk).generation, 1);
    // What comes late makes a generation of its own.
    phone.send(&log.data());
    phone.acked([3, 1]);
    lab.wait_for_generation(&walk, 2);
    let dir = lab.session_dir(&walk);
    (lab, dir)
}

fn openssl(arguments: &[&str], dir: &Path) -> std::process::Output {
    let ran = Command::new("openssl").args(arguments).current_dir(dir).output();
    ran.expect("openssl is there, as it is where Rust's own tools are")
}

fn sha256(path: &Path) -> String {
    let bytes = fs::read(path).expect("it is there");
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn verify(receipt: &Path, more: &[&str]) -> process::Ran {
    let mut arguments = vec!["verify", "--json", "--receipt", receipt.to_str().expect("a path")];
    arguments.extend(more);
    process::run(arguments)
}

/// Faults of a receipt, as `file: cause`, judged in this process.
fn faults(dir: &Path, number: u32, trust: &ReceiptTrust) -> Vec<String> {
    let disk = OsDisk::new(dir);
    let mut judge = |signed: &_| trust.judge(signed).map(|_| ());
    match check_receipt(&disk, Path::new(""), number, &mut judge) {
        Ok(checked) => checked.faults.iter().map(ToString::to_string).collect(),
        Err(error) => vec![error.to_string()],
    }
}

#[test]
fn openssl_alone_verifies_a_receipt_and_its_certificate() {
    let (lab, dir) = recorded();
    let ca = lab.dir().join("pki/ca.cert.pem");
    for number in [1, 2] {
        let name = Receipt::name(number);
        let certificate = format!("{name}.crt");
        let public = openssl(&["x509", "-in", &certificate, "-pubkey", "-noout"], &dir);
        assert!(public.status.success(), "{public:?}");
        let key = dir.with_file_name("signer.pub.pem");
        fs::write(&key, &public.stdout).expect("written");
        let (key, signature) = (key.to_str().expect("a path"), format!("{name}.sig"));
        let verify = ["dgst", "-sha256", "-verify", key, "-signature", &signature, &name];
        let said = openssl(&verify, &dir);
        assert!(said.status.success(), "{said:?}");
        let chain = openssl(
            &["verify", "-CAfile", ca.to_str().expect("a path"), &certificate],
            &dir,
        );
        assert!(chain.status.success(), "{chain:?}");
        // And it says no where there is something to say no to.
        let other = Receipt::name(3 - number);
        let wrong = [
            "dgst",
            "-sha256",
            "-verify",
            key,
            "-signature",
            &signature,
            &other,
        ];
        assert!(!openssl(&wrong, &dir).status.success());
    }
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &fs::metadata(lab.dir().join("pki/receipts.key.pem"))
            .expect("it is there")
            .permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_receipt_names_the_one_before_and_verify_says_who_vouches() {
    let (mut lab, dir) = recorded();
    let second: Value =
        serde_json::from_slice(&fs::read(dir.join("receipt-0002.json")).expect("there")).expect("JSON");
    assert_eq!(second["previous"]["receipt"], "receipt-0001.json");
    assert_eq!(
        second["previous"]["sha256"],
        sha256(&dir.join("receipt-0001.json"))
    );
    let ca = lab.dir().join("pki/ca.cert.pem");
    let ca = ca.to_str().expect("a path").to_owned();
    lab.end();

    let said = verify(&dir.join("receipt-0002.json"), &[]).well().json();
    assert_eq!(said["signature"]["state"], "good");
    assert_eq!(said["signature"]["trusted_by"], "hub");
    assert_eq!(
        (&said["receipts"], &said["sha256"]),
        (&2.into(), &sha256(&dir.join("receipt-0002.json")).into())
    );
    let older = verify(&dir.join("receipt-0001.json"), &["--ca", &ca])
        .well()
        .json();
    assert_eq!(
        (&older["receipts"], &older["signature"]["trusted_by"]),
        (&1.into(), &"ca".into())
    );
    assert!(
        older["notes"]
            .to_string()
            .contains("receipt-0002.json speaks of what stands now")
    );

    // Away from its hub nobody vouches for the authority, unless somebody names it.
    let away = tempfile::tempdir().expect("a folder");
    let copy = away.path().join("walk");
    copy_tree(&dir, &copy);
    let said = verify(&copy, &[]).well().json();
    assert_eq!(
        (&said["signature"]["state"], &said["signature"]["trusted_by"]),
        (&"good".into(), &Value::Null)
    );
    assert!(said["notes"].to_string().contains("--ca"), "{said}");
    assert_eq!(
        verify(&copy, &["--ca", &ca]).well().json()["signature"]["trusted_by"],
        "ca"
    );
    let stranger = Lab::new();
    let foreign = stranger.dir().join("pki/ca.cert.pem");
    let refused = verify(&copy, &["--ca", foreign.to_str().expect("a path")]);
    assert_eq!(refused.code, Some(1));
    assert_eq!(refused.json()["signature"]["state"], "bad");

    // What people read says the same.
    let shown = process::run(["receipt", copy.to_str().expect("a path")])
        .well()
        .stdout;
    for part in [
        sha256(&copy.join("receipt-0002.json")).as_str(),
        "deposit",
        "does not prove",
        "receipt-0001.json",
    ] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    let json = process::run([
        "receipt",
        "--json",
        "--number",
        "1",
        copy.to_str().expect("a path"),
    ])
    .well()
    .json();
    assert_eq!(
        json["streams"][0]["captured"],
        Value::Null,
        "its totals were never stated"
    );
    assert_eq!(
        (&json["streams"][0]["parquet"], &json["files"]),
        (&json["streams"][0]["durable"], &Value::Null)
    );
    let none = process::run(["receipt", "--number", "9", copy.to_str().expect("a path")]);
    assert!(
        none.code == Some(1) && none.stderr.contains("it has 1, 2"),
        "{none:?}"
    );
}

#[test]
fn every_changed_byte_of_receipt_and_signature_is_found_and_named() {
    let (mut lab, dir) = recorded();
    let trust = ReceiptTrust::of_hub(&lab.dir()).expect("read");
    lab.end();
    assert_eq!(faults(&dir, 2, &trust), Vec::<String>::new());
    for name in [
        "receipt-0001.json",
        "receipt-0002.json",
        "receipt-0001.json.sig",
        "receipt-0002.json.sig",
    ] {
        let path = dir.join(name);
        let good = fs::read(&path).expect("it is there");
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            fs::write(&path, &bad).expect("written");
            let found = faults(&dir, 2, &trust);
            assert!(
                found.iter().any(|fault| fault.contains(name)),
                "byte {at} of {name}: {found:?}"
            );
        }
        fs::write(&path, &good).expect("written");
    }
    assert_eq!(faults(&dir, 2, &trust), Vec::<String>::new());
}

#[test]
fn a_changed_byte_of_any_file_that_a_receipt_leads_to_is_found_and_named() {
    let (mut lab, dir) = recorded();
    let trust = ReceiptTrust::of_hub(&lab.dir()).expect("read");
    lab.end();
    let said = process::run(["receipt", "--json", dir.to_str().expect("a path")])
        .well()
        .json();
    let mut paths: Vec<String> = said["files"]
        .as_array()
        .expect("files")
        .iter()
        .filter(|file| !file["blake3"].is_null())
        .map(|file| file["path"].as_str().expect("a path").to_owned())
        .collect();
    assert!(paths.iter().any(|path| path.ends_with(".mlog")), "{paths:?}");
    assert!(paths.iter().any(|path| path.starts_with("streams/")), "{paths:?}");
    paths.extend(["manifest.json".to_owned(), "receipt-0002.json.crt".to_owned()]);
    for path in &paths {
        let full = dir.join(path);
        let good = fs::read(&full).expect("it is there");
        for at in (0..good.len())
            .step_by(good.len().div_ceil(50))
            .chain([good.len() - 1])
        {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            fs::write(&full, &bad).expect("written");
            let found = faults(&dir, 2, &trust);
            assert!(
                found.iter().any(|fault| fault.contains(path)),
                "byte {at} of {path}: {found:?}"
            );
        }
        // Cut short, and gone.
        fs::write(&full, &good[..good.len() - 1]).expect("written");
        assert!(
            faults(&dir, 2, &trust).iter().any(|fault| fault.contains(path)),
            "{path} cut"
        );
        fs::remove_file(&full).expect("removed");
        assert!(
            faults(&dir, 2, &trust).iter().any(|fault| fault.contains(path)),
            "{path} gone"
        );
        fs::write(&full, &good).expect("written");
    }
    fs::copy(dir.join("gaps.parquet"), dir.join("streams/extra.parquet")).expect("copied");
    assert!(
        faults(&dir, 2, &trust)
            .iter()
            .any(|fault| fault.contains("extra.parquet"))
    );
    fs::remove_file(dir.join("streams/extra.parquet")).expect("removed");
    for name in [
        "receipt-0001.json",
        "receipt-0002.json.sig",
        "receipt-0001.json.crt",
    ] {
        let good = fs::read(dir.join(name)).expect("there");
        fs::remove_file(dir.join(name)).expect("removed");
        let found = faults(&dir, 2, &trust);
        assert!(
            found.iter().any(|fault| fault.contains(name)),
            "{name}: {found:?}"
        );
        fs::write(dir.join(name), good).expect("written");
    }
    assert_eq!(faults(&dir, 2, &trust), Vec::<String>::new());
}

#[test]
fn without_keys_a_receipt_is_unsigned_and_says_so_and_the_next_one_is_signed() {
    let (mut lab, dir) = recorded();
    let hub = lab.dir();
    lab.end();
    let (config, key) = (hub.join("hub.toml"), hub.join("pki/receipts.key.pem"));
    let kept = fs::read(&config).expect("there");
    // A folder of recordings alone, as salvage leaves it.
    fs::remove_file(&config).expect("removed");
    let hub_arg = hub.to_str().expect("a path").to_owned();
    let said = process::run(["compact", "walk", "--again", "--dir", &hub_arg]).well();
    assert!(said.stderr.contains("not signed"), "{said:?}");
    let third = verify(&dir, &[]).well().json();
    assert_eq!(third["signature"]["state"], "none");
    assert!(
        third["signature"]["why"]
            .as_str()
            .is_some_and(|why| why.contains("keys")),
        "{third}"
    );
    // A hub from before has no key yet: it is made, and the chain goes on over what is unsigned.
    fs::write(&config, kept).expect("written");
    fs::remove_file(&key).expect("removed");
    process::run(["compact", "walk", "--again", "--dir", &hub_arg]).well();
    assert!(key.is_file());
    let fourth = verify(&dir, &[]).well().json();
    assert_eq!(
        (&fourth["signature"]["state"], &fourth["receipts"]),
        (&"good".into(), &4.into())
    );
    let disk = OsDisk::new(&dir);
    assert_eq!(
        receipt_numbers(&disk as &dyn Disk, Path::new("")).expect("listed"),
        [1, 2, 3, 4]
    );
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        match entry.file_type().expect("a type").is_dir() {
            true => copy_tree(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).expect("copied")),
        }
    }
}
