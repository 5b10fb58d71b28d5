//! A new key and certificate while the connection goes on.
//!
//! Owns: making the key when the hub asks, storing what comes back, and the bundle that the next connection uses. Does not
//! own: messages as such (`conversation`), files (`identity`).
//!
//! Invariant: a certificate is used only once it is stored with its key: a hub that saw it takes the older one no more.

use marey_format::wire::{self, Csr, MessageType};

use crate::bundle::{Bundle, BundleError};
use crate::identity::{KeyError, NewKey};

/// The credentials of the client's thread.
pub(super) struct Credentials {
    bundle: Bundle,
    pending: Option<NewKey>,
}

/// Why a certificate was not renewed. The older one goes on to count.
#[derive(Debug, thiserror::Error)]
pub(super) enum RenewalError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error("a certificate came that was not asked for")]
    NotAsked,
}

impl Credentials {
    pub(super) fn new(bundle: Bundle) -> Self {
        Self {
            bundle,
            pending: None,
        }
    }

    /// What the next connection uses.
    pub(super) fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// The hub wants a new key: the message that asks for its certificate.
    pub(super) fn ask(&mut self) -> Result<Vec<u8>, RenewalError> {
        // One that can't be stored is not asked for.
        self.bundle.check_writable()?;
        let key = match self.pending.take() {
            Some(key) => key,
            None => NewKey::make()?,
        };
        let csr = Csr {
            csr: key.request_pem.clone(),
        };
        self.pending = Some(key);
        Ok(wire::json_message(MessageType::Csr, 0, &csr))
    }

    /// The certificate of the new key has come.
    pub(super) fn take(&mut self, certificate: &wire::Certificate) -> Result<(), RenewalError> {
        let key = self.pending.take().ok_or(RenewalError::NotAsked)?;
        self.bundle = self.bundle.renewed(&key.key_pem, certificate)?;
        Ok(())
    }
}
