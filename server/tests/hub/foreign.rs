//! OpenSSL's own client against the hub's TLS port: what it refuses, what it takes, and that its files are read by others.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::lab::Lab;

/// Whether there is one; loud where there is none.
fn is_installed() -> bool {
    let found = Command::new("openssl").arg("version").output();
    let is_there = found.as_ref().is_ok_and(|out| out.status.success());
    if !is_there {
        eprintln!("SKIPPED: there is no `openssl` here; nothing foreign has looked at the hub's TLS");
    }
    is_there
}

/// What it says of a handshake: standard output and standard error.
fn s_client(lab: &Lab, ca: &Path, arguments: &[&str]) -> String {
    let mut child = Command::new("openssl")
        .args(["s_client", "-connect", &lab.address().to_string(), "-CAfile"])
        .arg(ca)
        .args(["-verify_return_error"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    // An empty line ends a session that came to be.
    let _gone = child.stdin.take().expect("a pipe").write_all(b"Q\n");
    let out = child.wait_with_output().expect("it ends");
    String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned()
}

#[test]
fn openssl_gets_in_with_modern_tls_and_with_nothing_weaker() {
    if !is_installed() {
        return;
    }
    let lab = Lab::new();
    let bundle = lab.enroll("phone");
    let folder = lab.dir.path().join("phone");
    bundle.write(&folder).expect("written");
    let ca = folder.join("ca.pem");
    let name = bundle.hub.hub_name.as_str();
    let web = |more: &[&str]| {
        let mut arguments = vec!["-servername", name, "-verify_hostname", name, "-alpn", "http/1.1"];
        arguments.extend(more);
        s_client(&lab, &ca, &arguments)
    };
    for (version, cipher, shown) in [
        ("-tls1_3", "", "TLSv1.3"),
        ("-tls1_2", "ECDHE-ECDSA-AES128-GCM-SHA256", "TLSv1.2"),
        ("-tls1_2", "ECDHE-ECDSA-AES256-GCM-SHA384", "TLSv1.2"),
        ("-tls1_2", "ECDHE-ECDSA-CHACHA20-POLY1305", "TLSv1.2"),
    ] {
        let mut arguments = vec![version];
        if !cipher.is_empty() {
            arguments.extend(["-cipher", cipher]);
        }
        let said = web(&arguments);
        assert!(
            said.contains("Verify return code: 0 (ok)"),
            "{version} {cipher}: {said}"
        );
        assert!(
            said.contains(shown) && said.contains(cipher),
            "{version} {cipher}: {said}"
        );
        assert!(said.contains("ALPN protocol: http/1.1"), "{said}");
    }
    // The hub is what says no: its alert is what OpenSSL reports, which was ready to go so low itself.
    for (version, cipher) in [
        ("-tls1_1", "ALL:@SECLEVEL=0"),
        ("-tls1", "ALL:@SECLEVEL=0"),
        ("-tls1_2", "ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0"),
        ("-tls1_2", "ECDHE-ECDSA-AES256-SHA384:@SECLEVEL=0"),
        ("-tls1_2", "AES128-GCM-SHA256:@SECLEVEL=0"),
        ("-tls1_2", "DHE-RSA-AES128-GCM-SHA256:@SECLEVEL=0"),
        ("-tls1_2", "AES128-SHA:@SECLEVEL=0"),
    ] {
        let said = web(&[version, "-cipher", cipher]);
        let is_refused = said.contains("alert protocol version") || said.contains("alert handshake failure");
        assert!(is_refused, "{version} {cipher}: {said}");
        assert!(
            !said.contains("Verify return code: 0 (ok)\n---\nQ"),
            "{version} {cipher}: {said}"
        );
    }
    // No session to go on from, in either version.
    for version in ["-tls1_2", "-tls1_3"] {
        let said = web(&[version]);
        assert!(!said.contains("Post-Handshake New Session Ticket"), "{said}");
        assert!(!said.contains("TLS session ticket:"), "{said}");
    }
    // Another authority's hub is not ours, and another name neither.
    let other = Lab::new();
    let said = s_client(&other, &ca, &["-alpn", "http/1.1"]);
    assert!(!said.contains("Verify return code: 0 (ok)"), "{said}");
    let said = s_client(
        &lab,
        &ca,
        &[
            "-verify_hostname",
            "hub-0000000000000000.marey.invalid",
            "-alpn",
            "http/1.1",
        ],
    );
    assert!(said.contains("ostname mismatch"), "{said}");
    other.hub.shutdown().expect("a good end");

    // As a device: with its certificate it is let in, without it is not.
    let (key, certificate) = (folder.join("key.pem"), folder.join("cert.pem"));
    let (key, certificate) = (key.to_str().expect("UTF-8"), certificate.to_str().expect("UTF-8"));
    let said = s_client(
        &lab,
        &ca,
        &[
            "-alpn",
            "marey/1",
            "-cert",
            certificate,
            "-key",
            key,
            "-ign_eof",
            "-tls1_2",
        ],
    );
    assert!(
        said.contains("ALPN protocol: marey/1") && !said.contains("alert"),
        "{said}"
    );
    let said = s_client(&lab, &ca, &["-alpn", "marey/1", "-tls1_2"]);
    assert!(said.contains("alert"), "{said}");
    lab.hub.shutdown().expect("a good end");
}

#[test]
fn openssl_reads_the_list_of_revocations_and_the_chain() {
    if !is_installed() {
        return;
    }
    let lab = Lab::new();
    let bundle = lab.enroll("phone");
    let folder = lab.dir.path().join("phone");
    bundle.write(&folder).expect("written");
    let openssl = |arguments: &[&str]| {
        let out = Command::new("openssl")
            .args(arguments)
            .current_dir(lab.dir.path())
            .output()
            .expect("it runs");
        String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned()
    };
    let verify = [
        "verify",
        "-CAfile",
        "phone/ca.pem",
        "-CRLfile",
        "pki/crl.pem",
        "-crl_check",
        "-purpose",
        "sslclient",
    ];
    let verify = || openssl(&[&verify[..], &["phone/cert.pem"]].concat());
    assert!(verify().contains("phone/cert.pem: OK"), "{}", verify());
    let request = marey_server::control::Request::DeviceRevoke {
        device: crate::lab::name("phone"),
    };
    lab.ask(request).expect("revoked");
    assert!(verify().contains("certificate revoked"), "{}", verify());
    let said = openssl(&[
        "crl",
        "-in",
        "pki/crl.pem",
        "-CAfile",
        "phone/ca.pem",
        "-noout",
        "-text",
    ]);
    assert!(
        said.contains("verify OK") && said.contains("Cessation Of Operation"),
        "{said}"
    );
    lab.hub.shutdown().expect("a good end");
}
