//! HTTP/1.1 over TLS, as much of it as the list needs: short requests, answers with a length.
//!
//! The hub is verified under its authority and by the name that is bound to the authority's key, whatever address was
//! dialled: that is what devices do.

use crate::output::{Failure, Result};
use marey_format::types::hex;
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use sha2::{Digest, Sha256};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Nothing that a hub is asked here takes longer.
pub const PATIENCE: Duration = Duration::from_secs(10);
const BODY_BYTES_MAX: usize = 4 << 20;
const LINE_BYTES_MAX: u64 = 16 << 10;

/// The hub that is tried.
pub struct Target {
    authority: String,
    address: SocketAddr,
    roots: RootCertStore,
    name: ServerName<'static>,
}

impl Target {
    /// Understands `https://HOST:PORT` and the file with the authority's certificate.
    pub fn new(url: &str, ca: &Path) -> Result<Self> {
        let usage = || Failure::Usage(format!("{url:?} is not https://HOST:PORT"));
        let authority = url
            .strip_prefix("https://")
            .ok_or_else(usage)?
            .trim_end_matches('/');
        if authority.contains(['/', '@', '?', '#']) || authority.chars().any(char::is_control) {
            return Err(usage());
        }
        let has_port = authority
            .rsplit_once(':')
            .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let authority = match has_port {
            true => authority.to_owned(),
            false => format!("{authority}:8443"),
        };
        let address = authority
            .to_socket_addrs()
            .map_err(|error| Failure::Unreachable(format!("{authority}: {error}")))?
            .next()
            .ok_or_else(|| Failure::Unreachable(format!("{authority}: no address")))?;
        let at = |error: String| Failure::Usage(format!("{}: {error}", ca.display()));
        let text = std::fs::read(ca).map_err(|error| at(error.to_string()))?;
        let certificate = CertificateDer::from_pem_slice(&text).map_err(|error| at(error.to_string()))?;
        let (_, parsed) = X509Certificate::from_der(&certificate).map_err(|error| at(error.to_string()))?;
        let hash = Sha256::digest(parsed.public_key().raw);
        let name = format!("hub-{}.marey.invalid", hex(&hash[..8]));
        let mut roots = RootCertStore::empty();
        roots.add(certificate).map_err(|error| at(error.to_string()))?;
        Ok(Self {
            authority,
            address,
            roots,
            name: ServerName::try_from(name).map_err(|error| at(error.to_string()))?,
        })
    }

    pub fn authority(&self) -> String {
        self.authority.clone()
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether anybody answers at all.
    pub fn reachable(&self) -> io::Result<()> {
        self.dial().map(drop)
    }

    pub fn dial(&self) -> io::Result<TcpStream> {
        let socket = TcpStream::connect_timeout(&self.address, PATIENCE)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.set_nodelay(true)?;
        Ok(socket)
    }

    /// Shakes hands for a protocol, with a certificate or without.
    pub fn shake(
        &self,
        protocol: &[u8],
        own: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    ) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(self.roots.clone());
        let mut config = match own {
            Some((chain, key)) => config
                .with_client_auth_cert(chain, key)
                .map_err(io::Error::other)?,
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![protocol.to_vec()];
        config.resumption = Resumption::disabled();
        let connection =
            ClientConnection::new(Arc::new(config), self.name.clone()).map_err(io::Error::other)?;
        let mut tls = StreamOwned::new(connection, self.dial()?);
        while tls.conn.is_handshaking() {
            tls.conn.complete_io(&mut tls.sock)?;
        }
        Ok(tls)
    }
}

/// A connection for requests.
pub struct Https {
    stream: BufReader<StreamOwned<ClientConnection, TcpStream>>,
    host: String,
}

/// What came back.
pub struct Answer {
    pub code: u16,
    pub body: String,
    /// The next request needs another connection.
    pub closes: bool,
    headers: Vec<(String, String)>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(key, _)| key == name);
        found.next().map(|(_, value)| value.as_str())
    }
}

impl Https {
    pub fn open(target: &Target) -> io::Result<Self> {
        Ok(Self {
            stream: BufReader::new(target.shake(b"http/1.1", None)?),
            host: target.authority(),
        })
    }

    pub fn get(target: &Target, path: &str, token: Option<&str>) -> io::Result<Answer> {
        Self::open(target)?.ask("GET", path, token, "")
    }

    pub fn post(target: &Target, path: &str, token: Option<&str>, body: &str) -> io::Result<Answer> {
        Self::open(target)?.ask("POST", path, token, body)
    }

    pub fn ask(&mut self, method: &str, path: &str, token: Option<&str>, body: &str) -> io::Result<Answer> {
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nAccept: application/json\r\n",
            self.host
        );
        if let Some(token) = token {
            request += &format!("Authorization: Bearer {token}\r\n");
        }
        if method == "POST" {
            request += &format!(
                "Content-Type: application/json\r\nContent-Length: {}\r\n",
                body.len()
            );
        }
        request += &format!("\r\n{body}");
        let stream = self.stream.get_mut();
        stream.write_all(request.as_bytes())?;
        stream.flush()?;
        self.answer()
    }

    fn answer(&mut self) -> io::Result<Answer> {
        let no_http = || io::Error::new(io::ErrorKind::InvalidData, "the answer is no HTTP/1.1");
        let status = self.line()?;
        let mut words = status.split(' ');
        let is_http = words.next().is_some_and(|version| version.starts_with("HTTP/1."));
        let code = words.next().and_then(|code| code.parse().ok());
        let (true, Some(code)) = (is_http, code) else {
            return Err(no_http());
        };
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(no_http)?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
            if headers.len() > 100 {
                return Err(no_http());
            }
        }
        let mut answer = Answer {
            code,
            body: String::new(),
            closes: false,
            headers,
        };
        let length: Option<usize> = answer
            .header("content-length")
            .and_then(|length| length.parse().ok());
        answer.closes = answer
            .header("connection")
            .is_some_and(|how| how.eq_ignore_ascii_case("close"));
        let body = match length {
            Some(length) if length <= BODY_BYTES_MAX => {
                let mut body = vec![0; length];
                self.stream.read_exact(&mut body)?;
                body
            }
            None if code == 204 => Vec::new(),
            // Until the end of the connection, or in pieces: the list needs no such body.
            _ => {
                answer.closes = true;
                Vec::new()
            }
        };
        answer.body = String::from_utf8_lossy(&body).into_owned();
        Ok(answer)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.stream.by_ref().take(LINE_BYTES_MAX).read_line(&mut line)?;
        match line.strip_suffix("\r\n") {
            Some(line) => Ok(line.to_owned()),
            None => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the hub ended the connection within its answer",
            )),
        }
    }
}
