//! One TLS connection: bytes from the socket become plaintext, plaintext becomes bytes for the socket.
//!
//! # How the unbuffered interface is pumped
//! `process_tls_records` is called over what lies in the reading buffer until it asks for more; each call says how many
//! bytes to drop from the front *after* its state was handled. Handshake bytes and encrypted plaintext go into one
//! outgoing vector in the order in which rustls makes them, so that `TransmitTlsData` is answered at once: the bytes are
//! ours from then on. After an error the same call is made again to collect the alert that explains it to the peer.
//!
//! All waiting is in [`TlsStream::ready`] and safe to cancel; everything else returns at once. Back-pressure is the
//! caller's: who does not ask for readability does not read, and [`TlsStream::unsent_bytes`] tells what the peer has not
//! taken yet.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io::ErrorKind;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::RecvFlags;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::server::ServerConnectionData;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, UnbufferedStatus, WriteTraffic};
use tokio::io::Interest;
use tokio::net::TcpStream;

mod io;

pub use io::TlsIo;

use super::buffers::{BufferPool, Inbound};
use super::config::{Alpn, TlsConfigs};
use super::error::{TlsError, socket_error, tls_error};
use super::hello::{HelloPeek, Peeked};
use super::outbound::Outbound;
use crate::turns::Turns;

/// Gives the hub time in nanoseconds; called right after each read of a socket.
pub type StampFn = Arc<dyn Fn() -> i64 + Send + Sync>;

/// A TLS connection of a peer that has finished its handshake.
pub struct TlsStream {
    socket: TcpStream,
    connection: UnbufferedServerConnection,
    alpn: Alpn,
    inbound: Inbound,
    outbound: Outbound,
    stamp: StampFn,
    /// Plaintext that came in the same read as the end of the handshake, with that read's stamp.
    early: Option<(i64, Vec<u8>)>,
    peer_closed: bool,
}

/// What [`TlsStream::receive`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// The socket had nothing; wait for [`TlsStream::ready`].
    Nothing,
    /// One read was made and its plaintext, if any was complete, handed out.
    Some,
    /// The peer will send nothing more. `clean` if it said so, rather than just went away.
    End { clean: bool },
}

/// What the socket is ready for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// [`TlsStream::receive`] will find something.
    pub readable: bool,
    /// [`TlsStream::flush`] will get something out.
    pub writable: bool,
}

impl TlsStream {
    /// Takes a fresh socket through the handshake within `deadline`.
    ///
    /// # Errors
    /// [`TlsError`]; where TLS has an alert for the reason, the peer has been sent it.
    pub async fn accept(
        socket: TcpStream,
        configs: &TlsConfigs,
        (pool, turns): (&Arc<BufferPool>, &Turns),
        stamp: StampFn,
        deadline: Duration,
    ) -> Result<Self, TlsError> {
        let handshake = Self::handshake(socket, configs, (pool, turns), stamp);
        match tokio::time::timeout(deadline, handshake).await {
            Ok(done) => done,
            Err(_) => Err(TlsError::Deadline(
                u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX),
            )),
        }
    }

    /// What the connection was opened for.
    pub fn alpn(&self) -> Alpn {
        self.alpn
    }

    /// The certificate that the device showed, as the verifier accepted it.
    pub fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        self.connection.peer_certificates().and_then(<[_]>::first)
    }

    /// Waits until the socket can be read (if `reading`) or written (if something is unsent). With neither it waits for
    /// ever. Cancel-safe. While it waits the connection holds no reading buffer.
    ///
    /// # Errors
    /// [`TlsError::Socket`].
    pub async fn ready(&mut self, reading: bool) -> Result<Readiness, TlsError> {
        if reading && self.early.is_some() {
            return Ok(Readiness {
                readable: true,
                writable: false,
            });
        }
        let interest = match (reading, self.outbound.unsent_bytes() > 0) {
            (true, true) => Interest::READABLE | Interest::WRITABLE,
            (true, false) => Interest::READABLE,
            (false, true) => Interest::WRITABLE,
            (false, false) => {
                self.inbound.park();
                return std::future::pending().await;
            }
        };
        let mut ready = pin!(self.socket.ready(interest));
        let at_once = poll_fn(|cx| Poll::Ready(ready.as_mut().poll(cx))).await;
        let ready = match at_once {
            Poll::Ready(ready) => ready,
            Poll::Pending => {
                self.inbound.park();
                ready.await
            }
        };
        let ready = ready.map_err(|e| socket_error(&e))?;
        Ok(Readiness {
            readable: reading && (ready.is_readable() || ready.is_read_closed() || ready.is_error()),
            writable: ready.is_writable() || ready.is_write_closed(),
        })
    }

    /// Makes one read of the socket and hands out, in order, the plaintext that became complete by it, each piece with
    /// the stamp of that read. Never waits.
    ///
    /// # Errors
    /// [`TlsError`]; an alert may then be unsent, see [`TlsStream::flush`].
    pub fn receive(&mut self, mut sink: impl FnMut(i64, &[u8])) -> Result<Received, TlsError> {
        if let Some((stamp_ns, plaintext)) = self.early.take() {
            sink(stamp_ns, &plaintext);
            return Ok(Received::Some);
        }
        if self.peer_closed {
            return Ok(Received::End { clean: true });
        }
        match read_once(&self.socket, &mut self.inbound)? {
            Read::Nothing => return Ok(Received::Nothing),
            Read::End => return Ok(Received::End { clean: false }),
            Read::Bytes(_) => {}
        }
        let stamp_ns = (self.stamp)();
        self.drive(&mut |plaintext| sink(stamp_ns, plaintext))?;
        if self.peer_closed {
            Ok(Received::End { clean: true })
        } else {
            Ok(Received::Some)
        }
    }

    /// Encrypts `plaintext` behind whatever is unsent. Nothing goes out before [`TlsStream::flush`].
    ///
    /// # Errors
    /// [`TlsError::Protocol`] if the connection is closed or its keys are used up.
    pub fn send(&mut self, plaintext: &[u8]) -> Result<(), TlsError> {
        let outbound = &mut self.outbound;
        with_write_traffic(
            &mut self.connection,
            &mut self.inbound,
            outbound,
            |traffic, outbound| outbound.encrypt(traffic, plaintext),
        )
    }

    /// Bytes that are encrypted and not yet taken by the socket.
    pub fn unsent_bytes(&self) -> usize {
        self.outbound.unsent_bytes()
    }

    /// Whether the peer has closed or is gone, although what it sent before may not have been read.
    pub fn has_hung_up(&self) -> bool {
        let mut asked = [PollFd::new(&self.socket, PollFlags::RDHUP)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // Errors and hang-ups are told unasked.
        poll(&mut asked, Some(&now)).is_ok() && !asked[0].revents().is_empty()
    }

    /// Bytes of memory that this connection holds for reading and writing, for the tests and metrics of idleness.
    pub fn held_bytes(&self) -> usize {
        self.inbound.held_bytes() + self.outbound.held_bytes()
    }

    /// Writes what the socket takes now. Returns whether everything is out. Never waits.
    ///
    /// # Errors
    /// [`TlsError::Socket`].
    pub fn flush(&mut self) -> Result<bool, TlsError> {
        self.outbound.write_to(&self.socket)
    }

    /// Says goodbye: what is unsent, a `close_notify`, the end of our half; then reads on for a moment, because a socket
    /// that is closed with unread bytes resets the connection and may take our last words with it.
    pub async fn close(mut self, deadline: Duration) {
        let goodbye = with_write_traffic(
            &mut self.connection,
            &mut self.inbound,
            &mut self.outbound,
            |traffic, outbound| outbound.close_notify(traffic),
        );
        if goodbye.is_err() {
            tracing::trace!("no close_notify on a connection that has failed");
        }
        self.linger(deadline).await;
    }

    async fn linger(&mut self, deadline: Duration) {
        let finish = async {
            while !self.flush()? {
                self.ready(false).await?;
            }
            let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Write);
            loop {
                self.socket
                    .ready(Interest::READABLE)
                    .await
                    .map_err(|e| socket_error(&e))?;
                let Some(room) = self.inbound.room() else {
                    return Ok::<(), TlsError>(());
                };
                match self.socket.try_read(room) {
                    Ok(0) => return Ok(()),
                    Ok(_) => {}
                    Err(e) if e.kind() == ErrorKind::WouldBlock => self.inbound.park(),
                    Err(e) => return Err(socket_error(&e)),
                }
            }
        };
        // Whoever does not take its goodbye in time goes without.
        let _ = tokio::time::timeout(deadline, finish).await;
    }

    async fn handshake(
        socket: TcpStream,
        configs: &TlsConfigs,
        (pool, turns): (&Arc<BufferPool>, &Turns),
        stamp: StampFn,
    ) -> Result<Self, TlsError> {
        let mut inbound = Inbound::new(pool.clone());
        let (alpn, config) = read_hello(&socket, &mut inbound, configs).await?;
        let connection = new_connection(config)?;
        let outbound = Outbound::default();
        let mut stream = Self {
            socket,
            connection,
            alpn,
            inbound,
            outbound,
            stamp,
            early: None,
            peer_closed: false,
        };
        let mut stamp_ns = (stream.stamp)();
        let mut early = Vec::new();
        loop {
            let turn = turns.next().await;
            let driven = stream.drive(&mut |plaintext| early.extend_from_slice(plaintext));
            drop(turn);
            if let Err(error) = driven {
                stream.linger(ALERT_LINGER).await;
                return Err(error);
            }
            while !stream.flush()? {
                stream.ready(false).await?;
            }
            if !stream.connection.is_handshaking() {
                break;
            }
            stream.fill().await?;
            stamp_ns = (stream.stamp)();
        }
        if !early.is_empty() {
            stream.early = Some((stamp_ns, early));
        }
        Ok(stream)
    }

    /// Waits for bytes and reads once, during the handshake.
    async fn fill(&mut self) -> Result<(), TlsError> {
        loop {
            self.ready(true).await?;
            if read_on(&self.socket, &mut self.inbound)? > 0 {
                return Ok(());
            }
        }
    }

    /// Runs TLS over what has been read, until it needs more.
    fn drive(&mut self, sink: &mut dyn FnMut(&[u8])) -> Result<(), TlsError> {
        loop {
            let UnbufferedStatus { mut discard, state } =
                self.connection.process_tls_records(self.inbound.pending());
            let mut blocked = false;
            let mut failed = None;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        match record {
                            Ok(record) => {
                                discard += record.discard;
                                sink(record.payload);
                            }
                            Err(error) => {
                                failed = Some(error);
                                break;
                            }
                        }
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    self.outbound.encode(|room| data.encode(room))?;
                }
                Ok(ConnectionState::TransmitTlsData(transmit)) => transmit.done(),
                Ok(ConnectionState::PeerClosed) => self.peer_closed = true,
                Ok(ConnectionState::Closed) => {
                    self.peer_closed = true;
                    blocked = true;
                }
                Ok(ConnectionState::WriteTraffic(_) | ConnectionState::BlockedHandshake) => blocked = true,
                Ok(other) => {
                    return Err(TlsError::Protocol(format!("unexpected state {other:?}")));
                }
                Err(error) => failed = Some(error),
            }
            self.inbound.discard(discard);
            if let Some(error) = failed {
                self.collect_alert();
                return Err(tls_error(error));
            }
            if blocked {
                return Ok(());
            }
        }
    }

    /// After an error: the alert that tells the peer why.
    fn collect_alert(&mut self) {
        for _ in 0..ALERTS_MAX {
            let UnbufferedStatus { discard, state } =
                self.connection.process_tls_records(self.inbound.pending());
            let encoded = match state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    self.outbound.encode(|room| data.encode(room)).is_ok()
                }
                _ => false,
            };
            self.inbound.discard(discard);
            if !encoded {
                return;
            }
        }
    }
}

impl fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream")
            .field("alpn", &self.alpn)
            .field("unsent_bytes", &self.unsent_bytes())
            .field("peer_closed", &self.peer_closed)
            .finish_non_exhaustive()
    }
}

/// Runs `write` in the state in which plaintext may be encrypted. Whatever was read has been consumed before (see
/// [`TlsStream::drive`]), so that no plaintext can come up here.
fn with_write_traffic(
    connection: &mut UnbufferedServerConnection,
    inbound: &mut Inbound,
    outbound: &mut Outbound,
    mut write: impl FnMut(&mut WriteTraffic<'_, ServerConnectionData>, &mut Outbound) -> Result<(), TlsError>,
) -> Result<(), TlsError> {
    loop {
        let UnbufferedStatus { discard, state } = connection.process_tls_records(inbound.pending());
        let done = match state {
            Ok(ConnectionState::WriteTraffic(mut traffic)) => Some(write(&mut traffic, outbound)),
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                outbound.encode(|room| data.encode(room)).err().map(Err)
            }
            Ok(ConnectionState::TransmitTlsData(transmit)) => {
                transmit.done();
                None
            }
            Ok(ConnectionState::PeerClosed) => None,
            Ok(ConnectionState::Closed) => Some(Err(TlsError::Protocol("the connection is closed".into()))),
            Ok(other) => Some(Err(TlsError::Protocol(format!("cannot send in state {other:?}")))),
            Err(error) => Some(Err(tls_error(error))),
        };
        inbound.discard(discard);
        if let Some(result) = done {
            return result;
        }
    }
}

async fn read_hello(
    socket: &TcpStream,
    inbound: &mut Inbound,
    configs: &TlsConfigs,
) -> Result<(Alpn, Arc<ServerConfig>), TlsError> {
    let mut peek = HelloPeek::new();
    loop {
        inbound.park();
        socket.readable().await.map_err(|e| socket_error(&e))?;
        let count = read_on(socket, inbound)?;
        let pending = inbound.pending();
        let new = &pending[pending.len() - count..];
        match peek.feed(new, configs) {
            Peeked::More => {}
            Peeked::Chosen(alpn, config) => return Ok((alpn, config)),
            Peeked::Refused { alert, error } => {
                // One try: a fresh socket has room for an alert, and a peer that sent garbage is owed no more.
                let _ = socket.try_write(&alert);
                return Err(error);
            }
        }
    }
}

/// What one read of a socket gave.
enum Read {
    Nothing,
    Bytes(usize),
    End,
}

/// Reads once. A read that does not fill the buffer has emptied the socket, which the runtime is told at once: that
/// saves the second call of each wake-up, which would only learn that there is nothing.
fn read_once(socket: &TcpStream, inbound: &mut Inbound) -> Result<Read, TlsError> {
    let Some(room) = inbound.room() else {
        return Err(TlsError::Protocol("a message larger than TLS allows".into()));
    };
    let mut read = None;
    let result = socket.try_io(Interest::READABLE, || {
        let (count, _) = rustix::net::recv(socket, &mut room[..], RecvFlags::empty())?;
        read = Some(count);
        if count > 0 && count < room.len() {
            Err(ErrorKind::WouldBlock.into())
        } else {
            Ok(())
        }
    });
    match (read, result) {
        (Some(0), _) => Ok(Read::End),
        (Some(count), _) => {
            inbound.filled(count);
            Ok(Read::Bytes(count))
        }
        (None, Err(e)) if !matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
            Err(socket_error(&e))
        }
        (None, _) => Ok(Read::Nothing),
    }
}

/// The same during the handshake, where the end of the stream is an error.
fn read_on(socket: &TcpStream, inbound: &mut Inbound) -> Result<usize, TlsError> {
    match read_once(socket, inbound)? {
        Read::Bytes(count) => Ok(count),
        Read::Nothing => Ok(0),
        Read::End => Err(socket_error(&ErrorKind::UnexpectedEof.into())),
    }
}

fn new_connection(config: Arc<ServerConfig>) -> Result<UnbufferedServerConnection, TlsError> {
    UnbufferedServerConnection::new(config).map_err(|e| TlsError::Identity(e.to_string()))
}

/// An error makes one alert, and perhaps a handshake message was queued before it.
const ALERTS_MAX: usize = 4;
/// How long the alert of a failed handshake may take to go out; the handshake's own deadline holds as well.
const ALERT_LINGER: Duration = Duration::from_millis(500);
