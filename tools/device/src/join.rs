//! Joins a hub by an invitation: `marey://ADDR[,ADDR]/enrol?device=NAME&ca=SHA256&token=...`, as `wire.md` has it.
//!
//! Owns: reading the link, checking the hub before anything is told to it, asking for the certificate. Does not own: keys
//! and files (`identity`).
//!
//! Invariants: the token leaves this device only over a connection whose authority has the link's fingerprint and signed
//! the hub's certificate; the key is on the disk before it is asked for, so that an answer that got lost is asked for
//! again with the same key; what comes back is held against its limits and the key.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use marey_format::DeviceId;
use marey_format::types::{hex, unhex};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme,
    StreamOwned,
};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::bundle::{Bundle, BundleError};
use crate::identity::{self, Files, KeyError, NewKey};

/// What a link says.
#[derive(Clone, PartialEq, Eq)]
pub struct Invitation {
    addresses: Vec<String>,
    device: DeviceId,
    ca_sha256: [u8; 32],
    token: String,
}

/// Why a device could not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error(
        "that is no invitation: {0}; one looks like marey://HOST:PORT/enrol?device=NAME&ca=...&token=..."
    )]
    Link(&'static str),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: {source}", path.display())]
    Key { path: PathBuf, source: KeyError },
    #[error("no hub answers{}", tried(.0))]
    Unreachable(Vec<(String, String)>),
    #[error("{address} is not the hub of the invitation: {why}; nothing was told to it")]
    WrongHub { address: String, why: String },
    #[error("the hub refuses ({status}): {message}")]
    Refused { status: u16, message: String },
    #[error("the hub's answer is not understood: {0}")]
    Answer(String),
    #[error("{0}")]
    Bundle(#[from] BundleError),
}

fn tried(addresses: &[(String, String)]) -> String {
    addresses
        .iter()
        .map(|(address, why)| format!("; {address}: {why}"))
        .collect()
}

impl Invitation {
    /// Reads a link.
    ///
    /// # Errors
    /// [`JoinError::Link`] says what is wrong with it.
    pub fn parse(link: &str) -> Result<Self, JoinError> {
        let wrong = JoinError::Link;
        if link.len() > LINK_BYTES_MAX {
            return Err(wrong("it is too long"));
        }
        let rest = link
            .trim()
            .strip_prefix("marey://")
            .ok_or(wrong("it does not begin with marey://"))?;
        let (addresses, query) = rest.split_once("/enrol?").ok_or(wrong("it has no /enrol?"))?;
        let addresses: Vec<String> = addresses.split(',').map(str::to_owned).collect();
        let is_address = |address: &String| {
            let is_plain = address
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-.:[]".contains(&b));
            let port = address
                .rsplit_once(':')
                .map(|(host, port)| (host.is_empty(), port.parse::<u16>()));
            is_plain && matches!(port, Some((false, Ok(_))))
        };
        if addresses.len() > ADDRESSES_MAX || !addresses.iter().all(is_address) {
            return Err(wrong("its addresses are not host:port"));
        }
        let (mut device, mut ca, mut token) = (None, None, None);
        for pair in query.split('&') {
            let (key, value) = pair.split_once('=').ok_or(wrong("a part of it has no ="))?;
            let slot = match key {
                "device" => &mut device,
                "ca" => &mut ca,
                "token" => &mut token,
                // Of a later version.
                _ => continue,
            };
            if slot.replace(value).is_some() {
                return Err(wrong("a part of it is there twice"));
            }
        }
        let device = DeviceId::new(device.ok_or(wrong("it names no device"))?)
            .map_err(|_| wrong("its device's name is none"))?;
        let ca_sha256 = ca
            .and_then(unhex::<32>)
            .ok_or(wrong("its ca is not 64 hexadecimal digits"))?;
        let token = token.filter(|token| unhex::<16>(token).is_some());
        Ok(Self {
            addresses,
            device,
            ca_sha256,
            token: token
                .ok_or(wrong("its token is not 32 hexadecimal digits"))?
                .to_owned(),
        })
    }

    /// Whom it is for.
    pub fn device(&self) -> &DeviceId {
        &self.device
    }

    /// Joins: makes a key in `folder`, asks the hub for a certificate, stores the bundle. May be called again with the same
    /// folder when it failed.
    ///
    /// # Errors
    /// [`JoinError`]: what went wrong, and at which address.
    pub fn join(&self, folder: &Path) -> Result<Bundle, JoinError> {
        let io_error = |source| JoinError::Io {
            path: folder.to_owned(),
            source,
        };
        let key_pem = identity::prepare(folder).map_err(io_error)?;
        let key = NewKey::read(&key_pem).map_err(|source| JoinError::Key {
            path: folder.join("key.pem"),
            source,
        })?;
        let request = serde_json::json!({
            "device": self.device,
            "token": self.token,
            "csr": key.request_pem,
        });
        let answer = self.ask(&request.to_string())?;
        let enrolled: Enrolled =
            serde_json::from_slice(&answer).map_err(|e| JoinError::Answer(e.to_string()))?;
        self.check(&enrolled)?;
        let files = Files {
            key_pem: &key_pem,
            certificate_pem: &enrolled.certificate,
            authority_pem: &enrolled.authority,
            hub_json: &enrolled.hub.to_string(),
        };
        // Does it fit together? What is on the disk as a bundle is one.
        Bundle::of_files(folder, &files)?;
        identity::complete(folder, &files).map_err(io_error)?;
        Ok(Bundle::read(folder)?)
    }

    /// The authority of the answer is the one of the link, the device the one that was invited.
    fn check(&self, enrolled: &Enrolled) -> Result<(), JoinError> {
        use rustls::pki_types::pem::PemObject;
        let authority = CertificateDer::from_pem_slice(enrolled.authority.as_bytes())
            .map_err(|e| JoinError::Answer(format!("its authority: {e}")))?;
        if fingerprint(&authority) != self.ca_sha256 {
            return Err(JoinError::Answer("its authority is not the invitation's".into()));
        }
        match enrolled.hub.get("device").and_then(serde_json::Value::as_str) {
            Some(device) if device == self.device.as_str() => Ok(()),
            _ => Err(JoinError::Answer("it is another device's".into())),
        }
    }

    /// Asks at one address after the other; the first hub that is the right one decides.
    fn ask(&self, body: &str) -> Result<Vec<u8>, JoinError> {
        let mut tried = Vec::new();
        let mut wrong_hub = None;
        for address in &self.addresses {
            match self.ask_at(address, body) {
                Ok(answer) => return Ok(answer),
                Err(JoinError::Unreachable(more)) => tried.extend(more),
                Err(error @ JoinError::WrongHub { .. }) => wrong_hub = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(wrong_hub.unwrap_or(JoinError::Unreachable(tried)))
    }

    fn ask_at(&self, address: &str, body: &str) -> Result<Vec<u8>, JoinError> {
        let unreachable = |why: String| JoinError::Unreachable(vec![(address.to_owned(), why)]);
        let found = address
            .to_socket_addrs()
            .map_err(|e| unreachable(e.to_string()))?
            .next();
        let found = found.ok_or_else(|| unreachable("no address".into()))?;
        let socket =
            TcpStream::connect_timeout(&found, CONNECT_TIMEOUT).map_err(|e| unreachable(e.to_string()))?;
        for set in [TcpStream::set_read_timeout, TcpStream::set_write_timeout] {
            set(&socket, Some(STEP_TIMEOUT)).map_err(|e| unreachable(e.to_string()))?;
        }
        let (host, _) = address.rsplit_once(':').unwrap_or((address, ""));
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host.clone()).unwrap_or(ServerName::IpAddress(found.ip().into()));
        let client = ClientConnection::new(self.config()?, name).map_err(|e| unreachable(e.to_string()))?;
        let mut tls = StreamOwned::new(client, socket);
        // Nothing of the request is written before the hub is known to be the right one.
        while tls.conn.is_handshaking() {
            tls.conn
                .complete_io(&mut tls.sock)
                .map_err(|error| match error.get_ref() {
                    Some(inner) if inner.is::<rustls::Error>() => JoinError::WrongHub {
                        address: address.to_owned(),
                        why: error.to_string(),
                    },
                    _ => unreachable(error.to_string()),
                })?;
        }
        let head = format!(
            "POST /enrol HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n",
            body.len()
        );
        tls.write_all(head.as_bytes())
            .and_then(|()| tls.write_all(body.as_bytes()))
            .and_then(|()| tls.flush())
            .map_err(|e| unreachable(e.to_string()))?;
        let received = read_all(&mut tls).map_err(|e| unreachable(e.to_string()))?;
        answer_of(&received)
    }

    fn config(&self) -> Result<Arc<ClientConfig>, JoinError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = Arc::new(Pinned {
            ca_sha256: self.ca_sha256,
            schemes: provider.signature_verification_algorithms,
        });
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| JoinError::Answer(e.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Arc::new(config))
    }
}

impl std::fmt::Debug for Invitation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Invitation")
            .field("device", &self.device)
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Enrolled {
    certificate: String,
    authority: String,
    hub: serde_json::Value,
}

/// `application/problem+json`
#[derive(Deserialize)]
struct Problem {
    detail: String,
}

/// Verifies a hub of which nothing but its authority's fingerprint is known.
#[derive(Debug)]
struct Pinned {
    ca_sha256: [u8; 32],
    schemes: rustls::crypto::WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let pinned = intermediates.iter().find(|ca| fingerprint(ca) == self.ca_sha256);
        let Some(authority) = pinned else {
            return Err(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer));
        };
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let name = hub_name(&roots).ok_or(CertificateError::BadEncoding)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|e| rustls::Error::General(e.to_string()))?
            .verify_server_cert(end_entity, &[], &name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.schemes)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.schemes)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.supported_schemes()
    }
}

/// `hub-<16 hex>.marey.invalid` of an authority's SubjectPublicKeyInfo, which webpki keeps without its outermost header.
fn hub_name(roots: &RootCertStore) -> Option<ServerName<'static>> {
    let inner = roots.roots.first()?.subject_public_key_info.as_ref();
    let mut spki = vec![0x30];
    match inner.len() {
        length @ 0..=0x7f => spki.push(length as u8),
        length @ 0x80..=0xff => spki.extend([0x81, length as u8]),
        length @ 0x100..=0xffff => spki.extend([0x82, (length >> 8) as u8, length as u8]),
        _ => return None,
    }
    spki.extend_from_slice(inner);
    let hash = Sha256::digest(&spki);
    ServerName::try_from(format!("hub-{}.marey.invalid", hex(&hash[..8]))).ok()
}

fn fingerprint(certificate: &CertificateDer<'_>) -> [u8; 32] {
    Sha256::digest(certificate.as_ref()).into()
}

fn read_all(tls: &mut impl Read) -> io::Result<Vec<u8>> {
    let until = Instant::now() + ANSWER_TIMEOUT;
    let mut received = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let count = match tls.read(&mut buffer) {
            Ok(count) => count,
            // A hub that closes without saying goodbye has said all the same; the length is checked.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
            Err(error) => return Err(error),
        };
        received.extend_from_slice(&buffer[..count]);
        if count == 0 || received.len() > ANSWER_BYTES_MAX {
            return Ok(received);
        }
        if Instant::now() >= until {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

/// The body of a whole answer with status 200.
fn answer_of(received: &[u8]) -> Result<Vec<u8>, JoinError> {
    let wrong = |why: &str| JoinError::Answer(why.to_owned());
    if received.len() > ANSWER_BYTES_MAX {
        return Err(wrong("it is too long"));
    }
    let end = received
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .ok_or_else(|| wrong("it broke off"))?;
    let head = std::str::from_utf8(&received[..end]).map_err(|_| wrong("it is no HTTP"))?;
    let body = &received[end + 4..];
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse::<u16>().ok());
    let status = status.ok_or_else(|| wrong("it is no HTTP/1.1"))?;
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse::<usize>().ok());
    if length.is_some_and(|length| length != body.len()) {
        return Err(wrong("it broke off"));
    }
    if status == 200 {
        return Ok(body.to_vec());
    }
    let message = serde_json::from_slice::<Problem>(body)
        .map(|problem| problem.detail)
        .unwrap_or_default();
    let message = message
        .chars()
        .filter(|c| !c.is_control())
        .take(MESSAGE_CHARS_MAX)
        .collect();
    Err(JoinError::Refused { status, message })
}

const LINK_BYTES_MAX: usize = 2_048;
const ADDRESSES_MAX: usize = 16;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const STEP_TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
const ANSWER_BYTES_MAX: usize = 128 << 10;
const MESSAGE_CHARS_MAX: usize = 500;

#[cfg(test)]
mod tests {
    use super::*;

    const CA: &str = "ab";

    fn link(addresses: &str, query: &str) -> String {
        format!(
            "marey://{addresses}/enrol?{}",
            query
                .replace("CA", &CA.repeat(32))
                .replace("TOKEN", &"0f".repeat(16))
        )
    }

    #[test]
    fn a_link_says_where_who_and_what() {
        let text = link(
            "192.0.2.7:8443,[2001:db8::1]:8443,lab-pc.local:1",
            "device=phone&ca=CA&token=TOKEN&later=1",
        );
        let read = Invitation::parse(&text).unwrap();
        assert_eq!(
            read.addresses,
            ["192.0.2.7:8443", "[2001:db8::1]:8443", "lab-pc.local:1"]
        );
        assert_eq!((read.device.as_str(), read.ca_sha256), ("phone", [0xab; 32]));
        assert!(!format!("{read:?}").contains("0f0f"));
    }

    #[test]
    fn what_is_no_link_says_why() {
        let why = |text: &str| Invitation::parse(text).unwrap_err().to_string();
        assert!(why("https://192.0.2.7:8443/").contains("marey://"));
        assert!(why("marey://192.0.2.7:8443").contains("/enrol?"));
        for addresses in ["", "192.0.2.7", ":1", "a b:1", "a:99999", "a:1,"] {
            assert!(
                why(&link(addresses, "device=phone&ca=CA&token=TOKEN")).contains("host:port"),
                "{addresses}"
            );
        }
        assert!(why(&link("a:1", "ca=CA&token=TOKEN")).contains("no device"));
        assert!(why(&link("a:1", "device=../x&ca=CA&token=TOKEN")).contains("name is none"));
        assert!(why(&link("a:1", "device=phone&token=TOKEN")).contains("64"));
        assert!(why(&link("a:1", "device=phone&ca=CA")).contains("32 hex"));
        assert!(why(&link("a:1", "device=phone&device=phone")).contains("twice"));
        assert!(why(&"x".repeat(5_000)).contains("too long"));
    }

    #[test]
    fn an_answer_that_is_not_whole_is_none() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(answer_of(whole).unwrap(), b"{}");
        for at in 0..whole.len() {
            assert!(answer_of(&whole[..at]).is_err(), "{at}");
        }
        let refused = answer_of(b"HTTP/1.1 403 Forbidden\r\n\r\n{\"detail\":\"no\\u001b[2J\"}").unwrap_err();
        assert_eq!(refused.to_string(), "the hub refuses (403): no[2J");
    }
}
