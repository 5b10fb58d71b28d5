//! A client of the HTTP API as small as can be: one connection kept open, one request at a time, over the hub's own TLS.
//!
//! And `curl`, as a client that nobody here wrote. Owns nothing of what is asked.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;

/// Where a hub is, and how to know it.
#[derive(Clone, Debug)]
pub struct Hub {
    pub address: SocketAddr,
    pub name: String,
    config: Arc<ClientConfig>,
}

/// A connection to it.
#[derive(Debug)]
pub struct Web {
    tls: BufReader<StreamOwned<ClientConnection, TcpStream>>,
    name: String,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Hub {
    /// The hub whose folder this is.
    ///
    /// # Panics
    /// If the folder holds no authority.
    pub fn new(dir: &Path, name: &str, address: SocketAddr) -> Self {
        let authority =
            CertificateDer::from_pem_file(dir.join(AUTHORITY)).expect("the authority's certificate");
        let mut roots = RootCertStore::empty();
        roots.add(authority).expect("a root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self {
            address,
            name: name.to_owned(),
            config: Arc::new(config),
        }
    }

    /// The same hub at another of its ports.
    pub fn at(&self, address: SocketAddr) -> Self {
        Self {
            address,
            ..self.clone()
        }
    }

    /// A connection.
    ///
    /// # Errors
    /// What the system says.
    pub fn connect(&self) -> io::Result<Web> {
        let socket = TcpStream::connect(self.address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let name = ServerName::try_from(self.name.clone()).map_err(io::Error::other)?;
        let connection = ClientConnection::new(self.config.clone(), name).map_err(io::Error::other)?;
        Ok(Web {
            tls: BufReader::new(StreamOwned::new(connection, socket)),
            name: self.name.clone(),
        })
    }
}

impl Web {
    /// Asks, and reads the whole answer.
    ///
    /// # Errors
    /// What the connection says.
    pub fn ask(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Answer> {
        self.begin(method, path, headers, body.len())?;
        self.send(body)?;
        self.answer(method == "HEAD")
    }

    /// Sends the head of a request whose body comes by [`Web::send`].
    ///
    /// # Errors
    /// As [`Web::ask`].
    pub fn begin(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        bytes: usize,
    ) -> io::Result<()> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", self.name);
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("Content-Length: {bytes}\r\n\r\n"));
        self.send(head.as_bytes())
    }

    /// Sends a piece of the body.
    ///
    /// # Errors
    /// As [`Web::ask`].
    pub fn send(&mut self, piece: &[u8]) -> io::Result<()> {
        let to = self.tls.get_mut();
        to.write_all(piece)?;
        to.flush()
    }

    /// `GET` with a token.
    ///
    /// # Errors
    /// As [`Web::ask`].
    pub fn get(&mut self, path: &str, token: &str) -> io::Result<Answer> {
        self.ask("GET", path, &[("Authorization", &format!("Bearer {token}"))], b"")
    }

    /// `POST` of JSON with a token.
    ///
    /// # Errors
    /// As [`Web::ask`].
    pub fn post(&mut self, path: &str, token: &str, body: &Value) -> io::Result<Answer> {
        let token = format!("Bearer {token}");
        let headers = [
            ("Authorization", token.as_str()),
            ("Content-Type", "application/json"),
        ];
        self.ask("POST", path, &headers, body.to_string().as_bytes())
    }

    /// Reads the whole answer.
    ///
    /// # Errors
    /// As [`Web::ask`].
    pub fn answer(&mut self, has_no_body: bool) -> io::Result<Answer> {
        let mut line = String::new();
        let mut next = |tls: &mut BufReader<_>| -> io::Result<String> {
            line.clear();
            if BufRead::read_line(tls, &mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Ok(line.trim_end().to_owned())
        };
        let first = next(&mut self.tls)?;
        let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(format!("no HTTP: {first:?}")))?;
        let mut headers = Vec::new();
        loop {
            let line = next(&mut self.tls)?;
            if line.is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':') {
                headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
            }
        }
        let mut answer = Answer {
            status,
            headers,
            body: Vec::new(),
        };
        let length = answer
            .header("content-length")
            .and_then(|length| length.parse().ok());
        if !has_no_body && !matches!(status, 204 | 304) {
            let length: usize = length.ok_or_else(|| io::Error::other("an answer without a length"))?;
            answer.body = vec![0; length];
            self.tls.read_exact(&mut answer.body)?;
        }
        Ok(answer)
    }
}

impl Answer {
    /// A header; its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// The body.
    ///
    /// # Panics
    /// If it is no JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {:?}", String::from_utf8_lossy(&self.body)))
    }
}

/// An answer that is as it should be.
#[track_caller]
pub fn well(answer: io::Result<Answer>) -> Answer {
    let answer = answer.expect("an answer");
    let text = String::from_utf8_lossy(&answer.body);
    assert!((200..300).contains(&answer.status), "{}: {text}", answer.status);
    answer
}

/// A problem of this status, as it must look.
#[track_caller]
pub fn problem(answer: io::Result<Answer>, status: u16) -> Value {
    let answer = answer.expect("an answer");
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    assert_eq!(answer.status, status, "{text}");
    assert_eq!(
        answer.header("content-type"),
        Some("application/problem+json"),
        "{text}"
    );
    let problem = answer.json();
    assert_eq!(problem["status"], status);
    assert!(
        problem["detail"].as_str().is_some_and(|detail| detail.len() > 10),
        "{text}"
    );
    problem
}

/// A connection.
pub fn connected(hub: &Hub) -> Web {
    hub.connect().expect("connected")
}

/// Standard base64 with padding, as `Upload-Metadata` has it.
pub fn base64(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let groups = text.as_bytes().chunks(3).map(|group| {
        let bits =
            group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        (0..4)
            .map(|at| match at <= group.len() {
                true => char::from(DIGITS[(bits >> (18 - 6 * at) & 63) as usize]),
                false => '=',
            })
            .collect::<String>()
    });
    groups.collect()
}

/// A call of `curl` that knows the hub by its authority; none where there is no curl.
pub fn curl(dir: &Path, hub: &Hub) -> Option<Command> {
    let there = Command::new("curl")
        .arg("--version")
        .output()
        .is_ok_and(|ran| ran.status.success());
    if !there {
        eprintln!("SKIPPED: there is no curl here; install it to hold the API against a foreign client");
        return None;
    }
    let mut command = Command::new("curl");
    command
        .args(["--silent", "--show-error", "--max-time", "30", "--cacert"])
        .arg(dir.join(AUTHORITY))
        .args([
            "--resolve",
            &format!("{}:{}:127.0.0.1", hub.name, hub.address.port()),
        ]);
    Some(command)
}

/// Tokens of an admin, a researcher, an analyst and a viewer.
pub const ADA: &str = "token-of-ada-0123456789abcdef0123";
pub const RIA: &str = "token-of-ria-0123456789abcdef0123";
pub const ANA: &str = "token-of-ana-0123456789abcdef0123";
pub const VIC: &str = "token-of-vic-0123456789abcdef0123";
/// Whom a hub for these tests knows: token, name, role.
pub const PEOPLE: &[(&str, &str, &str)] = &[
    (ADA, "ada", "admin"),
    (RIA, "ria", "researcher"),
    (ANA, "ana", "analyst"),
    (VIC, "vic", "viewer"),
];

const AUTHORITY: &str = "pki/ca.cert.pem";
const PATIENCE: Duration = Duration::from_secs(60);
