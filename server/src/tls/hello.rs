//! Looks into the client's hello without answering it.
//!
//! The unbuffered interface wants its configuration at birth, so the first bytes are read twice: here by rustls's
//! acceptor, to learn what the client offers, and then, the same bytes, by the connection itself.

use std::sync::Arc;

use rustls::server::{Acceptor, ServerConfig};

use super::config::{Alpn, TlsConfigs};
use super::error::TlsError;

/// A client's hello is at most this long. Real ones, with post-quantum key shares, stay below 3 KiB.
pub(super) const HELLO_BYTES_MAX: usize = 16 * 1024;

/// Reads a hello that may come in several pieces.
pub(super) struct HelloPeek {
    acceptor: Acceptor,
    seen_bytes: usize,
}

/// What the bytes so far have told.
pub(super) enum Peeked {
    /// The hello is not complete.
    More,
    /// The configuration to go on with.
    Chosen(Alpn, Arc<ServerConfig>),
    /// No hello; the alert to send, and the reason.
    Refused { alert: Vec<u8>, error: TlsError },
}

impl HelloPeek {
    pub(super) fn new() -> Self {
        Self {
            acceptor: Acceptor::default(),
            seen_bytes: 0,
        }
    }

    /// Takes the next piece of what the client sent.
    pub(super) fn feed(&mut self, mut piece: &[u8], configs: &TlsConfigs) -> Peeked {
        self.seen_bytes += piece.len();
        while !piece.is_empty() {
            match self.acceptor.read_tls(&mut piece) {
                Ok(0) => break,
                Ok(_) => {}
                Err(e) => return refused(Vec::new(), e.to_string()),
            }
            match self.acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    let hello = accepted.client_hello();
                    let (alpn, config) = configs.choose(hello.alpn());
                    return Peeked::Chosen(alpn, config);
                }
                Err((error, mut alert)) => {
                    let mut bytes = Vec::new();
                    // Writing into a vector cannot fail, and an alert that is missing changes nothing.
                    let _ = alert.write_all(&mut bytes);
                    return refused(bytes, error.to_string());
                }
            }
        }
        if self.seen_bytes > HELLO_BYTES_MAX {
            return refused(
                Vec::new(),
                format!("the hello is longer than {HELLO_BYTES_MAX} bytes"),
            );
        }
        Peeked::More
    }
}

fn refused(alert: Vec<u8>, why: String) -> Peeked {
    Peeked::Refused {
        alert,
        error: TlsError::Protocol(why),
    }
}
