//! A hub elsewhere, by its HTTP API: `--url`, with a token from a file or from MAREY_TOKEN.
//!
//! One connection, one request at a time, over the TLS that the hub itself uses. The hub is known by its authority's
//! certificate alone (`--ca`), whatever address it is dialled at if the URL has the hub's own name.
//!
//! Invariants: a token is never an argument (others see those), never printed; nothing longer than a limit is read; a hub
//! that does not answer is exit 3, one that refuses exit 1 with its sentence.

use crate::output::{Failure, Result};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Which hub is meant, if it is not one in a folder of this machine.
#[derive(Clone, Debug, clap::Args)]
pub struct Remote {
    /// A hub elsewhere, such as `https://hub.lab:8443`; its HTTP API is asked.
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// The file that holds the token for --url; else MAREY_TOKEN.
    #[arg(long, value_name = "FILE", requires = "url")]
    token_file: Option<PathBuf>,
    /// The certificate of the hub's authority (`pki/ca.cert.pem`) for --url.
    #[arg(long, value_name = "FILE", requires = "url")]
    ca: Option<PathBuf>,
}

/// A hub that can be asked.
pub struct Client {
    tls: BufReader<StreamOwned<ClientConnection, TcpStream>>,
    host: String,
    token: String,
    url: String,
}

impl Remote {
    /// The hub of `--url`; none where that was not given.
    pub fn connect(&self) -> Result<Option<Client>> {
        let Some(url) = &self.url else {
            return Ok(None);
        };
        let rest = url
            .strip_prefix("https://")
            .map(|rest| rest.trim_end_matches('/'));
        let Some(host) = rest.filter(|rest| !rest.is_empty() && !rest.contains(['/', '?', '#', '@', ' ']))
        else {
            return Err(Failure::Usage(format!(
                "--url {url:?} is not of the form https://HOST:PORT"
            )));
        };
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => {
                let port = port.parse();
                (
                    name,
                    port.map_err(|_| Failure::Usage(format!("--url {url:?}: there is no such port")))?,
                )
            }
            _ => (host, PORT),
        };
        let name = name.trim_start_matches('[').trim_end_matches(']');
        let token = self.token()?;
        let config = self.config()?;
        let unreachable = |why: &dyn std::fmt::Display| {
            Failure::Unreachable(format!("the hub at {url} cannot be asked: {why}"))
        };
        let server = ServerName::try_from(name.to_owned())
            .map_err(|e| Failure::Usage(format!("--url {url:?}: {e}")))?;
        let mut last = io::Error::other("the name has no address");
        let addresses = (name, port).to_socket_addrs().map_err(|e| unreachable(&e))?;
        for address in addresses.take(ADDRESSES_MAX) {
            match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
                Ok(socket) => {
                    socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
                    socket.set_write_timeout(Some(ANSWER_TIMEOUT))?;
                    let connection = ClientConnection::new(config, server).map_err(|e| unreachable(&e))?;
                    return Ok(Some(Client {
                        tls: BufReader::new(StreamOwned::new(connection, socket)),
                        host: host.to_owned(),
                        token,
                        url: url.clone(),
                    }));
                }
                Err(error) => last = error,
            }
        }
        Err(unreachable(&last))
    }

    fn token(&self) -> Result<String> {
        let token = match &self.token_file {
            Some(path) => std::fs::read_to_string(path)
                .map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?,
            None => std::env::var("MAREY_TOKEN").map_err(|_| {
                Failure::Usage(
                    "a hub elsewhere wants a token: name a file that holds it with --token-file, or set \
                                MAREY_TOKEN"
                        .into(),
                )
            })?,
        };
        let token = token.trim();
        match !token.is_empty()
            && token.len() <= TOKEN_BYTES_MAX
            && token.bytes().all(|b| b.is_ascii_graphic())
        {
            true => Ok(token.to_owned()),
            false => Err(Failure::Usage("what is given as the token is none".into())),
        }
    }

    fn config(&self) -> Result<Arc<ClientConfig>> {
        let Some(path) = &self.ca else {
            return Err(Failure::Usage(
                "a hub elsewhere is known by its authority: name its certificate, pki/ca.cert.pem in the hub's folder, \
                 with --ca"
                    .into(),
            ));
        };
        let wrong = |error: &dyn std::fmt::Display| Failure::Usage(format!("{}: {error}", path.display()));
        let certificate = CertificateDer::from_pem_file(path).map_err(|e| wrong(&e))?;
        let mut roots = RootCertStore::empty();
        roots.add(certificate).map_err(|e| wrong(&e))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(Failure::fault)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

impl Client {
    /// One thing of the API.
    pub fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T> {
        let value = self.ask(path)?;
        serde_json::from_value(value).map_err(|error| self.not_understood(&error))
    }

    /// A whole list of the API, page after page.
    pub fn list<T: DeserializeOwned>(&mut self, path: &str) -> Result<Vec<T>> {
        let (mut items, mut cursor) = (Vec::new(), None::<String>);
        for _ in 0..PAGES_MAX {
            let query = cursor.map_or("?limit=500".to_owned(), |cursor| {
                format!("?limit=500&cursor={cursor}")
            });
            let mut page = self.ask(&format!("{path}{query}"))?;
            let found: Vec<T> =
                serde_json::from_value(page["items"].take()).map_err(|error| self.not_understood(&error))?;
            items.extend(found);
            cursor = page["next"].as_str().map(str::to_owned);
            if cursor.is_none() {
                return Ok(items);
            }
        }
        Err(Failure::fault(format!(
            "the hub at {} gives a list without end",
            self.url
        )))
    }

    fn ask(&mut self, path: &str) -> Result<Value> {
        let (status, body) = self.exchange(path).map_err(|error| {
            Failure::Unreachable(format!("the hub at {} cannot be asked: {error}", self.url))
        })?;
        let value: Value = serde_json::from_slice(&body).map_err(|error| self.not_understood(&error))?;
        match status {
            200 => Ok(value),
            _ => {
                let detail = crate::output::plain(value["detail"].as_str().unwrap_or("it gives no reason"));
                Err(Failure::fault(format!(
                    "the hub at {} refuses ({status}): {detail}",
                    self.url
                )))
            }
        }
    }

    fn exchange(&mut self, path: &str) -> io::Result<(u16, Vec<u8>)> {
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nAccept: application/json\r\n\r\n",
            self.host, self.token
        );
        self.tls.get_mut().write_all(head.as_bytes())?;
        self.tls.get_mut().flush()?;
        let first = self.line()?;
        let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.ok_or_else(|| io::Error::other("it does not speak HTTP"))?;
        let mut length = None;
        for _ in 0..HEADERS_MAX {
            let line = self.line()?;
            if line.is_empty() {
                let length: usize = length.ok_or_else(|| io::Error::other("an answer without a length"))?;
                if length > BODY_BYTES_MAX {
                    return Err(io::Error::other(format!("an answer of {length} bytes")));
                }
                let mut body = vec![0; length];
                self.tls.read_exact(&mut body)?;
                return Ok((status, body));
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().ok();
            }
        }
        Err(io::Error::other("an answer with too many headers"))
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        let read = self.tls.by_ref().take(LINE_BYTES_MAX).read_line(&mut line)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }

    fn not_understood(&self, error: &serde_json::Error) -> Failure {
        Failure::fault(format!(
            "the hub at {} answers something else ({error}); is it of another version?",
            self.url
        ))
    }
}

const PORT: u16 = 8443;
const ADDRESSES_MAX: usize = 8;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(35);
const TOKEN_BYTES_MAX: usize = 512;
const PAGES_MAX: usize = 10_000;
const HEADERS_MAX: usize = 64;
const LINE_BYTES_MAX: u64 = 16 << 10;
const BODY_BYTES_MAX: usize = 64 << 20;
