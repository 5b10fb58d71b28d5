//! What devices try: with certificates that are good, revoked, foreign or missing.

use super::https::Target;
use super::{Checked, Fault, wrong};
use marey_format::wire::{self, MESSAGE_HEADER_BYTES, MessageHeader, MessageType};
use marey_server::pki::DeviceBundle;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConnection, StreamOwned};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;

/// Key and certificate of a device.
pub struct Credentials {
    key: PrivateKeyDer<'static>,
    chain: Vec<CertificateDer<'static>>,
}

impl Credentials {
    pub fn of(bundle: &DeviceBundle) -> Result<Self, Fault> {
        Self::parse(bundle.key_pem.as_bytes(), bundle.certificate_pem.as_bytes())
    }

    /// Of a folder that `device enroll` or `device join` made.
    pub fn read(folder: &Path) -> Result<Self, Fault> {
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read(&path).map_err(|error| Fault::Untried(format!("{}: {error}", path.display())))
        };
        Self::parse(&read("key.pem")?, &read("cert.pem")?)
    }

    /// As somebody makes them who has an authority of their own.
    pub fn foreign() -> Result<Self, Fault> {
        let made = rcgen::generate_simple_self_signed(vec!["foreign.invalid".to_owned()])?;
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        Ok(Self {
            key: key.into(),
            chain: vec![made.cert.der().clone()],
        })
    }

    fn parse(key: &[u8], certificate: &[u8]) -> Result<Self, Fault> {
        // What is wrong with a key is not shown: it may quote what it found.
        let Ok(key) = PrivateKeyDer::from_pem_slice(key) else {
            return Err(Fault::Untried("the bundle has no private key".to_owned()));
        };
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate).collect();
        Ok(Self { key, chain: chain? })
    }
}

/// A number that nobody has seen.
pub fn drawn() -> io::Result<u128> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u128::from_le_bytes(bytes))
}

/// Connects as a device, and says hello. A hub that refuses does so in the handshake or in place of a welcome.
fn hello(target: &Target, own: Option<&Credentials>) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let own = own.map(|own| (own.chain.clone(), own.key.clone_key()));
    let mut tls = target.shake(wire::ALPN, own)?;
    let hello = wire::message(MessageType::Hello, 0, br#"{"v":1,"agent":"selftest"}"#);
    tls.write_all(&hello)?;
    tls.flush()?;
    Ok(tls)
}

/// The next message: its kind, and its body.
fn next(tls: &mut impl Read) -> io::Result<(MessageType, Vec<u8>)> {
    let mut header = [0; MESSAGE_HEADER_BYTES];
    tls.read_exact(&mut header)?;
    let header = MessageHeader::parse(header).map_err(|refusal| io::Error::other(refusal.message))?;
    let mut body = vec![0; header.length as usize];
    tls.read_exact(&mut body)?;
    Ok((header.kind, body))
}

/// A device with these credentials must not be welcome.
pub fn must_be_refused(target: &Target, own: Option<&Credentials>) -> Checked {
    let mut tls = match hello(target, own) {
        Ok(tls) => tls,
        Err(error) => return refusal(&error),
    };
    match next(&mut tls) {
        Ok((MessageType::Welcome, _)) => wrong("it was welcome"),
        Ok((kind, _)) => Ok(format!("answered with {kind:?} in place of a welcome")),
        Err(error) => refusal(&error),
    }
}

/// An alert or the end of the connection refuses; silence does not.
fn refusal(error: &io::Error) -> Checked {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => wrong("the hub said nothing at all"),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::HostUnreachable => {
            wrong(format!("nobody answered: {error}"))
        }
        _ => Ok(error.to_string()),
    }
}

/// Announces a frame of a length that none may have.
pub fn oversized(target: &Target, own: &Credentials) -> Checked {
    let mut tls = hello(target, Some(own))?;
    match next(&mut tls)? {
        (MessageType::Welcome, _) => {}
        (kind, _) => return wrong(format!("{kind:?} in place of a welcome")),
    }
    let header = MessageHeader {
        kind: MessageType::Frame,
        channel: 1,
        length: u32::MAX,
    };
    tls.write_all(&header.to_bytes())?;
    tls.flush()?;
    let mut said = None;
    // Joins and the like may be on their way already.
    for _ in 0..MESSAGES_MAX {
        match next(&mut tls) {
            Ok((MessageType::Refused, body)) => {
                let refusal: serde_json::Value = serde_json::from_slice(&body)?;
                said = refusal["code"].as_str().map(str::to_owned);
            }
            Ok(_) => {}
            Err(error) => {
                refusal(&error)?;
                return match said {
                    Some(code) => Ok(format!("refused as {code}, and the connection ended")),
                    None => Ok("the connection ended".to_owned()),
                };
            }
        }
    }
    wrong("the connection went on")
}

const MESSAGES_MAX: usize = 64;
