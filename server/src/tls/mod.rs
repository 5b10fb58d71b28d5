//! TLS on the server's side: rustls's unbuffered interface pumped over a tokio socket.
//!
//! Owns the handshake (deadline, ALPN before any certificate is asked for), decryption, encryption, and the memory that
//! these need. Does not know what the bytes mean.
//!
//! Invariants: the time stamp of a socket read is taken before anything is decrypted; an idle connection holds no
//! buffer; no session is ever resumed, because a resumed connection would skip the look at the registry.

mod buffers;
mod config;
mod error;
mod hello;
mod outbound;
mod stream;
#[cfg(test)]
mod tests;

pub use buffers::{BufferPool, READ_BUFFER_BYTES};
pub use config::{Alpn, TlsConfigs};
pub use error::TlsError;
pub use stream::{Readiness, Received, StampFn, TlsIo, TlsStream};
