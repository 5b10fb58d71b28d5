//! Why a hub does not start: one clear sentence each.

use std::net::SocketAddr;
use std::path::PathBuf;

use marey_engine::{OpenError, StorageError};

use crate::config::ConfigError;
use crate::pki::PkiError;
use crate::tls::TlsError;

/// A hub cannot be made or started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The store: no hub, running already, identity missing, disk.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The certificate authority and its files.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The hub's certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Somebody listens there already.
    #[error("{what} cannot listen on {address}: the port is in use; stop the other program or set {key}")]
    PortInUse {
        /// Which listener.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// The key of the configuration.
        key: &'static str,
    },
    /// The system does not let us listen there.
    #[error("{what} cannot listen on {address}: {detail}; set {key}")]
    Listen {
        /// Which listener.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// The key of the configuration.
        key: &'static str,
        /// What the system says.
        detail: String,
    },
    /// The control socket.
    #[error("the control socket in {} cannot be made: {detail}", dir.display())]
    Control {
        /// The hub's folder.
        dir: PathBuf,
        /// What the system says.
        detail: String,
    },
    /// A file or folder of a new hub.
    #[error("{}: {detail}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system says.
        detail: String,
    },
    /// Threads, clocks.
    #[error("the system gives no {what}: {detail}")]
    System {
        /// What was asked for.
        what: &'static str,
        /// What it said.
        detail: String,
    },
}

impl From<StorageError> for StartError {
    fn from(error: StorageError) -> Self {
        Self::Store(OpenError::Storage(error))
    }
}
