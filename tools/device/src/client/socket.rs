//! One TLS connection to the hub, as messages.
//!
//! Owns: TCP, TLS, cutting the byte stream into messages. Does not own: what they mean (`conversation`).
//!
//! Invariants: a message that arrived is stamped after the read that brought its last bytes and before decryption:
//! late is honest, early would be a lie about the hub's clock. What is not yet written is known, so that nobody
//! stamps a write that has to wait behind another.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use marey_format::limits;
use marey_format::wire::{self, MESSAGE_HEADER_BYTES, MessageType};
use rustls::ClientConnection;

use crate::bundle::Bundle;
use crate::clock::DeviceClock;

/// Why a connection can't be made, or broke.
#[derive(Debug, thiserror::Error)]
pub(super) enum SocketError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("the hub closed the connection")]
    Closed,
    #[error("the other side does not speak {}", String::from_utf8_lossy(wire::ALPN))]
    Protocol,
    #[error("a message of type {kind:#04x} and {length} bytes, over the limit")]
    TooLong { kind: u8, length: u32 },
}

/// A message as it came.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) kind: MessageType,
    pub(super) channel: u16,
    pub(super) body: Vec<u8>,
    /// Device time after the read that completed it.
    pub(super) dev_recv_ns: i64,
}

#[derive(Debug)]
pub(super) struct Socket {
    tcp: TcpStream,
    tls: ClientConnection,
    plain: Vec<u8>,
}

impl Socket {
    /// Connects and shakes hands; blocks for a few seconds at most.
    pub(super) fn connect(address: SocketAddr, bundle: &Bundle) -> Result<Self, SocketError> {
        let mut tcp = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(HANDSHAKE_TIMEOUT))?;
        tcp.set_write_timeout(Some(HANDSHAKE_TIMEOUT))?;
        // What waits in the kernel was stamped before it began to wait: keep that short.
        rustix::net::sockopt::set_socket_send_buffer_size(&tcp, SEND_BUFFER_BYTES)
            .map_err(io::Error::from)?;
        let mut tls = ClientConnection::new(bundle.tls(), bundle.hub_name())?;
        tls.set_buffer_limit(None);
        while tls.is_handshaking() {
            tls.complete_io(&mut tcp).map_err(unwrap_tls)?;
        }
        if tls.alpn_protocol() != Some(wire::ALPN) {
            return Err(SocketError::Protocol);
        }
        tcp.set_nonblocking(true)?;
        Ok(Self {
            tcp,
            tls,
            plain: Vec::new(),
        })
    }

    pub(super) fn peer(&self) -> io::Result<SocketAddr> {
        self.tcp.peer_addr()
    }

    /// Whether something waits for the kernel to take it.
    pub(super) fn wants_write(&self) -> bool {
        self.tls.wants_write()
    }

    /// Takes whole messages and writes what the kernel takes now.
    pub(super) fn write(&mut self, messages: &[u8]) -> Result<(), SocketError> {
        self.tls.writer().write_all(messages)?;
        self.flush().map(|_| ())
    }

    /// Writes what is left; true if nothing is.
    pub(super) fn flush(&mut self) -> Result<bool, SocketError> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut self.tcp) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    /// Reads all that has arrived. Messages that came before the connection broke are in `to` even on an error.
    pub(super) fn receive(
        &mut self,
        clock: &dyn DeviceClock,
        to: &mut Vec<Incoming>,
    ) -> Result<(), SocketError> {
        for _ in 0..READS_MAX {
            match self.tls.read_tls(&mut self.tcp) {
                Ok(0) => return Err(SocketError::Closed),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            }
            let dev_recv_ns = clock.now_ns();
            let processed = self.tls.process_new_packets();
            // Even where a record is bad, those before it are good.
            match self.tls.reader().read_to_end(&mut self.plain) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
                Err(error) => return Err(error.into()),
            }
            cut(&mut self.plain, dev_recv_ns, to)?;
            processed?;
        }
        Ok(())
    }

    /// Says goodbye in TLS, as far as the kernel takes it.
    pub(super) fn close(&mut self) {
        self.tls.send_close_notify();
        let _rest = self.flush();
        let _closed = self.tcp.shutdown(std::net::Shutdown::Write);
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tcp.as_fd()
    }
}

/// Cuts whole messages off the front. Types that a later hub may send are passed over.
pub(super) fn cut(plain: &mut Vec<u8>, dev_recv_ns: i64, to: &mut Vec<Incoming>) -> Result<(), SocketError> {
    let mut at = 0;
    while let Some(header) = plain[at..].first_chunk::<MESSAGE_HEADER_BYTES>() {
        let channel = u16::from_le_bytes([header[2], header[3]]);
        let length = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
        let kind = MessageType::from_byte(header[0]);
        if length as usize > kind.map_or(limits::CONTROL_BYTES_MAX, MessageType::body_bytes_max) {
            return Err(SocketError::TooLong {
                kind: header[0],
                length,
            });
        }
        let body = at + MESSAGE_HEADER_BYTES;
        let Some(bytes) = plain.get(body..body + length as usize) else {
            break;
        };
        if let Some(kind) = kind {
            to.push(Incoming {
                kind,
                channel,
                body: bytes.to_vec(),
                dev_recv_ns,
            });
        }
        at = body + length as usize;
    }
    plain.drain(..at);
    Ok(())
}

/// rustls wraps its own errors in those of I/O.
fn unwrap_tls(error: io::Error) -> SocketError {
    match error.downcast::<rustls::Error>() {
        Ok(error) => SocketError::Tls(error),
        Err(error) => SocketError::Io(error),
    }
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
const SEND_BUFFER_BYTES: usize = 256 << 10;
/// So that a hub that never pauses can't keep this device from sending.
const READS_MAX: usize = 64;
