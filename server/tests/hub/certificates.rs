//! Certificates over their life, with real sockets: revoked, renewed and rotated under live connections, enrolled.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use marey_format::RefusalCode;
use marey_format::types::unhex;
use marey_format::wire::{self, MessageType};
use marey_server::control::{AuthorityView, Request, Response};
use marey_server::pki::{DeviceBundle, HubContact, KeyKind};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use crate::device::{Device, Down, PATIENCE, client_config, web_config};
use crate::lab::{Lab, config, name, walk};

/// What is promised of a revocation.
const REVOKED_WITHIN: Duration = Duration::from_secs(1);

#[test]
fn a_revoked_device_is_off_within_a_second_though_it_streams_and_stays_off() {
    let lab = Lab::new();
    let bundle = lab.enroll("phone");
    lab.start_session(&walk());
    // A client that would go on from an earlier handshake, if the hub let it.
    let remembering = client_config(&bundle);
    for _ in 0..2 {
        let mut device = Device::dial_with(remembering.clone(), &bundle, lab.address()).expect("connected");
        device.send(&wire::message(MessageType::Hello, 0, br#"{"v":1}"#));
        assert!(matches!(device.next(), Some(Down::Welcome(_))));
        assert!(!device.is_resumed(), "nothing was given to go on from");
    }
    let mut over = off_after(&lab, &bundle, "phone");
    // A machine that stands still does so for one of them.
    for other in ["watch", "board"] {
        if over >= REVOKED_WITHIN {
            over = off_after(&lab, &lab.enroll(other), other);
        }
    }
    assert!(
        over < REVOKED_WITHIN,
        "it could send for {over:?} after the answer"
    );
    let is_out = |lab: &Lab| {
        let dialled = Device::dial_with(remembering.clone(), &bundle, lab.address());
        // In TLS 1.3 the client's side of the handshake ends before the hub has looked at its certificate.
        let answer = dialled.and_then(|mut device| {
            device.try_send(&wire::message(MessageType::Hello, 0, br#"{"v":1}"#))?;
            Ok(device.next())
        });
        matches!(answer, Err(_) | Ok(None))
    };
    assert!(is_out(&lab));
    let lab = lab.again(config());
    assert!(is_out(&lab), "nor after a restart");
    let fresh = lab.enroll("phone");
    drop(Device::attach(&fresh, lab.address()));
    assert!(
        is_out(&lab),
        "and the old certificate is no good when the device is enrolled anew"
    );
    lab.hub.shutdown().expect("a good end");
}

/// For how long a device could send after whoever revoked it had the answer.
fn off_after(lab: &Lab, bundle: &DeviceBundle, device: &str) -> Duration {
    let (mut sending, mut log) = lab.recording(bundle);
    let revoked = std::thread::scope(|scope| {
        let revoking = scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(300));
            let request = Request::DeviceRevoke { device: name(device) };
            lab.ask(request).expect("revoked");
            Instant::now()
        });
        // It goes on as fast as it can, until it can't.
        while sending.try_send(&log.data()).is_ok() {
            std::thread::sleep(Duration::from_millis(1));
        }
        revoking.join().expect("revoked")
    });
    revoked.elapsed()
}

#[test]
fn an_authority_is_exchanged_under_a_connection_that_records() {
    let lab = Lab::new();
    let bundle = lab.enroll("phone");
    let other = lab.enroll("watch");
    lab.start_session(&walk());
    let (mut device, mut log) = lab.recording(&bundle);
    device.acked(1, [0, 1]);
    device.send(&log.data());
    device.acked(1, [1, 1]);

    let views = authorities(
        &lab,
        Request::CaRotate {
            key: KeyKind::Rsa3072,
        },
    );
    assert_eq!(
        views.iter().map(|v| (v.number, v.issuing)).collect::<Vec<_>>(),
        [(2, true), (1, false)]
    );
    let renew = device.until(|m| match m {
        Down::Renew(renew) => Some(renew.clone()),
        _ => None,
    });
    assert!(renew.not_after > 1_700_000_000);
    // Frames go on, and a request that is none costs nothing.
    device.send(&log.data());
    device.send(&csr_message("no request"));
    assert_eq!(device.refused().code, RefusalCode::MalformedRequest);
    device.send(&log.data());
    device.acked(1, [3, 1]);
    let key = KeyPair::generate().expect("a key");
    device.send(&[csr_message(&request(&key)), log.data()].concat());
    let certificate = device.until(|m| match m {
        Down::Certificate(certificate) => Some(certificate.clone()),
        _ => None,
    });
    // It is told of certificates once more, and asked for none: it has one of this authority.
    lab.hub.reload_certificates().expect("loaded");
    device.send(&log.data());
    device.until(|m| match m {
        Down::Renew(_) => panic!("it was given one a moment ago"),
        Down::Ack(1, ack) if ack.durable == [5, 1] => Some(()),
        _ => None,
    });

    let renewed = renewed(&bundle, &key, certificate);
    assert_ne!(renewed.hub.hub_name, bundle.hub.hub_name);
    // The old bundle is good until the new one was shown; each finds the hub under its own authority.
    drop(Device::attach(&bundle, lab.address()));
    let (mut device, _) = Device::attach(&renewed, lab.address());
    device.join();
    assert_eq!(
        device.open(1, &log).next.lanes(),
        [5, 1],
        "and all that was acknowledged is there"
    );
    for tries in 0.. {
        let refused = Device::dial(&bundle, lab.address()).and_then(|mut device| {
            device.try_send(&wire::message(MessageType::Hello, 0, br#"{"v":1}"#))?;
            Ok(device.next())
        });
        match refused {
            Err(_) | Ok(None) => break,
            Ok(_) => assert!(tries < 100, "the old certificate goes on to count"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let (mut device, _) = Device::attach(&renewed, lab.address());
    device.join();
    device.open(1, &log);
    device.send(&log.data());
    device.acked(1, [6, 1]);

    let (watch, _) = Device::attach(&other, lab.address());
    let error = lab
        .ask(Request::CaRetire { even_so: false })
        .expect_err("the watch would be out")
        .to_string();
    assert!(error.contains("watch"), "{error}");
    let views = authorities(&lab, Request::CaRetire { even_so: true });
    assert_eq!(views.len(), 1);
    let mut watch = watch;
    assert!(
        matches!(watch.last_words(), Some(Down::Closed(0, closed)) if closed.reason == RefusalCode::Revoked)
    );
    assert!(
        Device::dial(&other, lab.address()).is_err(),
        "the hub shows nothing under the old authority"
    );
    device.send(&log.data());
    device.acked(1, [7, 1]);
    let lab = lab.again(config());
    drop(Device::attach(&renewed, lab.address()));
    lab.hub.shutdown().expect("a good end");
}

#[test]
fn a_device_that_is_asked_by_name_renews_and_one_that_is_away_is_asked_when_it_comes() {
    let lab = Lab::new();
    let bundle = lab.enroll("phone");
    lab.ask(Request::DeviceRenew {
        device: name("phone"),
    })
    .expect("asked");
    let (mut device, _) = Device::attach(&bundle, lab.address());
    let is_renew = |m: &Down| matches!(m, Down::Renew(_)).then_some(());
    device.until(is_renew);
    let key = KeyPair::generate().expect("a key");
    device.send(&csr_message(&request(&key)));
    let is_certificate = |m: &Down| matches!(m, Down::Certificate(_)).then_some(());
    device.until(is_certificate);
    let (mut device, _) = Device::attach(&bundle, lab.address());
    lab.ask(Request::DeviceRenew {
        device: name("phone"),
    })
    .expect("asked");
    device.until(is_renew);
    let shown = lab
        .ask(Request::DeviceShow {
            device: name("phone"),
        })
        .expect("shown");
    let Response::DeviceShown(shown) = shown else {
        panic!()
    };
    assert!(shown.record.renewal_asked && shown.record.renewed.is_some());
    lab.hub.shutdown().expect("a good end");
}

#[test]
fn a_certificate_that_was_stored_counts_though_the_answer_to_a_later_request_was_lost() {
    let lab = Lab::new();
    let bundle = lab.enroll("phone");
    let (mut device, _) = Device::attach(&bundle, lab.address());
    let keys = [(); 2].map(|()| KeyPair::generate().expect("a key"));
    let given = keys.each_ref().map(|key| {
        device.send(&csr_message(&request(key)));
        device.until(|m| match m {
            Down::Certificate(certificate) => Some(certificate.clone()),
            _ => None,
        })
    });
    drop(device);
    // The device died before it had stored the second.
    let [stored, _lost] = given;
    let renewed = renewed(&bundle, &keys[0], stored);
    drop(Device::attach(&renewed, lab.address()));
    lab.hub.shutdown().expect("a good end");
}

#[test]
fn certificates_are_loaded_anew_without_dropping_anybody() {
    let lab = Lab::new();
    let bundle = lab.enroll("phone");
    lab.start_session(&walk());
    let (mut device, mut log) = lab.recording(&bundle);
    let before = leaf(&lab, &bundle);
    std::fs::remove_file(lab.dir.path().join("pki/hub.cert.pem")).expect("removed");
    lab.hub.reload_certificates().expect("loaded");
    assert_ne!(leaf(&lab, &bundle), before, "new connections see the new one");
    device.send(&log.data());
    device.acked(1, [1, 1]);
    let after = leaf(&lab, &bundle);
    std::fs::write(lab.dir.path().join("pki/ca.cert.pem"), "nonsense").expect("written");
    let error = lab.hub.reload_certificates().expect_err("nonsense").to_string();
    assert!(error.contains("ca.cert.pem"), "{error}");
    assert_eq!(leaf(&lab, &bundle), after, "what is damaged leaves all as it was");
    lab.hub.shutdown().expect("a good end");
}

#[test]
fn enrolment_is_bounded_and_rate_limited() {
    let mut config = config();
    (config.api.stranger_per_minute, config.api.stranger_burst) = (1, 6);
    let lab = Lab::with(config);
    let bundle = lab.enroll("phone");
    let link = lab.invite("watch");
    let (_, token) = link.split_once("&token=").expect("a token");
    assert!(unhex::<16>(token).is_some());
    let key = KeyPair::generate().expect("a key");
    let body = |token: &str| {
        serde_json::json!({"device": "watch", "token": token, "csr": request(&key)}).to_string()
    };
    let post = |body: &str| post(&lab, &bundle, body);
    assert_eq!(post("{}").0, 400);
    assert_eq!(post(&body(&"0".repeat(32))).0, 403);
    assert_eq!(post(&"x".repeat(17 << 10)).0, 413);
    let (status, text) = post(&body(token));
    assert_eq!(status, 200, "{text}");
    assert!(text.contains("BEGIN CERTIFICATE") && text.contains(&bundle.hub.hub_name));
    assert_eq!(
        post(&body(token)).0,
        200,
        "an answer that was lost is given again"
    );
    assert_eq!(post(&body(token)).0, 200);
    let (status, text) = post(&body(token));
    assert_eq!(status, 429);
    assert!(text.to_ascii_lowercase().contains("\r\nretry-after: "), "{text}");
    // A device that has its certificate is not concerned.
    drop(Device::attach(&bundle, lab.address()));
    lab.hub.shutdown().expect("a good end");
}

/// The bundle of a device that has stored this.
fn renewed(bundle: &DeviceBundle, key: &KeyPair, certificate: wire::Certificate) -> DeviceBundle {
    DeviceBundle {
        key_pem: key.serialize_pem(),
        certificate_pem: certificate.certificate,
        authority_pem: certificate.authority,
        hub: HubContact {
            hub_name: certificate.hub_name,
            ..bundle.hub.clone()
        },
    }
}

fn authorities(lab: &Lab, request: Request) -> Vec<AuthorityView> {
    match lab.ask(request).expect("done") {
        Response::Authorities(views) => views,
        other => panic!("{other:?}"),
    }
}

fn request(key: &KeyPair) -> String {
    CertificateParams::default()
        .serialize_request(key)
        .and_then(|request| request.pem())
        .expect("a request")
}

fn csr_message(pem: &str) -> Vec<u8> {
    let csr = wire::Csr { csr: pem.to_owned() };
    wire::json_message(MessageType::Csr, 0, &csr)
}

fn web(lab: &Lab, bundle: &DeviceBundle) -> StreamOwned<ClientConnection, TcpStream> {
    let name = ServerName::try_from(bundle.hub.hub_name.clone()).expect("a name");
    let socket = TcpStream::connect(lab.address()).expect("connected");
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
    StreamOwned::new(
        ClientConnection::new(web_config(bundle), name).expect("a client"),
        socket,
    )
}

/// The hub's certificate as a new connection sees it.
fn leaf(lab: &Lab, bundle: &DeviceBundle) -> Vec<u8> {
    let mut tls = web(lab, bundle);
    while tls.conn.is_handshaking() {
        tls.conn.complete_io(&mut tls.sock).expect("a handshake");
    }
    tls.conn.peer_certificates().expect("certificates")[0].to_vec()
}

fn post(lab: &Lab, bundle: &DeviceBundle, body: &str) -> (u16, String) {
    let mut tls = web(lab, bundle);
    write!(
        tls,
        "POST /enrol HTTP/1.1\r\nHost: hub\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .expect("sent");
    let mut text = Vec::new();
    // The hub may close while a body that is too long is under way.
    let _reset = tls.read_to_end(&mut text);
    let text = String::from_utf8(text).expect("text");
    let status = text.get(9..12).and_then(|code| code.parse().ok());
    (status.unwrap_or_else(|| panic!("no HTTP: {text}")), text)
}
