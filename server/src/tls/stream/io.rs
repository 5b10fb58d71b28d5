//! A [`TlsStream`] as hyper reads and writes it: polled, in plaintext, with a limit on standstills.
//!
//! Why not tokio-rustls: the choice between frames and HTTP is made on one port from the hello that the unbuffered
//! interface has already consumed, with the same pool of buffers and the same alerts; a second TLS stack would do the
//! handshake twice over.
//!
//! Invariants: at most one read's plaintext waits here; plaintext is taken from the caller only while little is unsent, so
//! that a peer that takes nothing slows its own answer and grows no memory; a peer that neither sends what is waited for
//! nor takes what it is sent for the given time is given up.

use std::future::Future;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::time::Sleep;

use super::{Received, TlsError, TlsStream};

/// What [`TlsStream::into_io`] gives.
#[derive(Debug)]
pub struct TlsIo {
    stream: TlsStream,
    plaintext: BytesMut,
    ended: bool,
    reading: Standstill,
    writing: Standstill,
}

/// How long one direction may wait for the peer.
#[derive(Debug)]
struct Standstill {
    at_most: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Standstill {
    fn new(at_most: Duration) -> Self {
        Self { at_most, timer: None }
    }

    fn moved(&mut self) {
        self.timer = None;
    }

    /// Nothing moves: pending until it has lasted too long.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(self.at_most)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(ErrorKind::TimedOut.into()))
    }
}

impl TlsStream {
    /// For hyper. A peer that stands still for `read_timeout` or `write_timeout` ends it with `TimedOut`.
    pub fn into_io(self, read_timeout: Duration, write_timeout: Duration) -> TlsIo {
        TlsIo {
            stream: self,
            plaintext: BytesMut::new(),
            ended: false,
            reading: Standstill::new(read_timeout),
            writing: Standstill::new(write_timeout),
        }
    }
}

impl TlsIo {
    /// The stream beneath, for its goodbye.
    pub fn into_stream(self) -> TlsStream {
        self.stream
    }

    /// Ready when some plaintext waits, or none will ever come.
    fn poll_plaintext(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.plaintext.is_empty() && !self.ended {
            let plaintext = &mut self.plaintext;
            let received = self
                .stream
                .receive(|_, piece| plaintext.extend_from_slice(piece))
                .map_err(io_error)?;
            match received {
                Received::Some => {
                    self.reading.moved();
                    // Answers of TLS itself, such as to an update of keys.
                    let _ = self.stream.flush().map_err(io_error)?;
                }
                Received::End { .. } => self.ended = true,
                Received::Nothing => {
                    if self.stream.socket.poll_read_ready(cx)?.is_pending() {
                        self.stream.inbound.park();
                        return self.reading.poll(cx);
                    }
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Ready when at most so many bytes are unsent.
    fn poll_unsent(&mut self, cx: &mut Context<'_>, at_most: usize) -> Poll<io::Result<()>> {
        loop {
            let before = self.stream.unsent_bytes();
            self.stream.flush().map_err(io_error)?;
            let unsent = self.stream.unsent_bytes();
            if unsent < before {
                self.writing.moved();
            }
            if unsent <= at_most {
                return Poll::Ready(Ok(()));
            }
            if self.stream.socket.poll_write_ready(cx)?.is_pending() {
                return self.writing.poll(cx);
            }
        }
    }
}

impl Read for TlsIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut to: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_plaintext(cx))?;
        let count = self.plaintext.len().min(to.remaining());
        to.put_slice(&self.plaintext[..count]);
        self.plaintext.advance(count);
        if self.plaintext.is_empty() {
            // An idle connection holds nothing.
            self.plaintext = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl Write for TlsIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        plaintext: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_unsent(cx, UNSENT_BYTES_MAX))?;
        let count = plaintext.len().min(PIECE_BYTES);
        self.stream.send(&plaintext[..count]).map_err(io_error)?;
        let _ = self.stream.flush().map_err(io_error)?;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_unsent(cx, 0)
    }

    /// All is out; the goodbye itself is [`TlsStream::close`], which also waits for the peer's.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_unsent(cx, 0)
    }
}

fn io_error(error: TlsError) -> io::Error {
    io::Error::other(error)
}

/// With so much unsent, no more plaintext is taken.
const UNSENT_BYTES_MAX: usize = 64 * 1024;
/// Plaintext that is encrypted in one step.
const PIECE_BYTES: usize = 64 * 1024;
