//! What one connection has encrypted and not yet sent: one vector, which is gone when all is out.

use std::io::ErrorKind;

use rustls::server::ServerConnectionData;
use rustls::unbuffered::{EncodeError, EncryptError, InsufficientSizeError, WriteTraffic};
use tokio::net::TcpStream;

use super::error::{TlsError, socket_error};

/// Encrypted bytes in the order in which they must go out; `sent` of them already have.
#[derive(Default)]
pub(super) struct Outbound {
    bytes: Vec<u8>,
    sent: usize,
}

impl Outbound {
    pub(super) fn unsent_bytes(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Writes what the socket takes; true if all is out.
    pub(super) fn write_to(&mut self, socket: &TcpStream) -> Result<bool, TlsError> {
        while self.unsent_bytes() > 0 {
            match socket.try_write(&self.bytes[self.sent..]) {
                Ok(0) => return Err(socket_error(&ErrorKind::WriteZero.into())),
                Ok(count) => self.sent += count,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(socket_error(&e)),
            }
        }
        // Nothing is kept for the next ack: most devices are silent most of the time, and there are thousands.
        *self = Self::default();
        Ok(true)
    }

    pub(super) fn encode(
        &mut self,
        mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
    ) -> Result<(), TlsError> {
        self.append(0, |room| match encode(room) {
            Ok(count) => Ok(count),
            Err(EncodeError::InsufficientSize(need)) => Err(Some(need)),
            Err(EncodeError::AlreadyEncoded) => Err(None),
        })
    }

    pub(super) fn encrypt(
        &mut self,
        traffic: &mut WriteTraffic<'_, ServerConnectionData>,
        plaintext: &[u8],
    ) -> Result<(), TlsError> {
        let records = plaintext.len().div_ceil(RECORD_PLAINTEXT_BYTES).max(1);
        let estimate = plaintext.len() + records * RECORD_OVERHEAD_BYTES_MAX;
        self.append(estimate, |room| narrow(traffic.encrypt(plaintext, room)))
    }

    pub(super) fn close_notify(
        &mut self,
        traffic: &mut WriteTraffic<'_, ServerConnectionData>,
    ) -> Result<(), TlsError> {
        self.append(RECORD_OVERHEAD_BYTES_MAX, |room| {
            narrow(traffic.queue_close_notify(room))
        })
    }

    /// Bytes of memory that are held.
    pub(super) fn held_bytes(&self) -> usize {
        self.bytes.capacity()
    }

    /// Gives `write` room at the end, and once more as much as it asks for.
    fn append(
        &mut self,
        estimate: usize,
        mut write: impl FnMut(&mut [u8]) -> Result<usize, Option<InsufficientSizeError>>,
    ) -> Result<(), TlsError> {
        let before = self.bytes.len();
        let mut size = estimate;
        for _ in 0..2 {
            self.bytes.resize(before + size, 0);
            match write(&mut self.bytes[before..]) {
                Ok(count) => {
                    self.bytes.truncate(before + count);
                    return Ok(());
                }
                Err(Some(need)) => size = need.required_size,
                Err(None) => break,
            }
        }
        self.bytes.truncate(before);
        Err(TlsError::Protocol("the connection's keys are used up".into()))
    }
}

fn narrow(result: Result<usize, EncryptError>) -> Result<usize, Option<InsufficientSizeError>> {
    result.map_err(|e| match e {
        EncryptError::InsufficientSize(need) => Some(need),
        EncryptError::EncryptExhausted => None,
    })
}

/// Plaintext bytes in one TLS record, at most (RFC 8446, 5.1).
const RECORD_PLAINTEXT_BYTES: usize = 16 * 1024;
/// What a record adds: header 5, content type 1, tag 16, and under TLS 1.2 an explicit nonce of 8.
const RECORD_OVERHEAD_BYTES_MAX: usize = 5 + 1 + 16 + 8;
