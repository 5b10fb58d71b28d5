//! Who is who: the hub's own certificate authorities, its certificate, the certificates of devices, and the look into the
//! registry that every new connection passes.
//!
//! One authority issues; while a rotation is under way an older one is trusted beside it.
//!
//! Owns the folder `pki/` of a hub (0700; key files 0600, looser ones are refused). Does not own the registry: the
//! engine stores it, behind [`Registry`].
//!
//! Invariants: a certificate alone never admits a device, the registry must name exactly this certificate and not have
//! revoked it; no key leaves the hub but a device's own, once, in its bundle.

mod addresses;
mod authorities;
mod authority;
mod bundle;
mod crl;
mod files;
mod key;
mod receipts;
mod registry;
mod request;
mod stamp;
#[cfg(test)]
mod tests;
mod verifier;

pub use addresses::{host_name, local_addresses};
pub use authorities::Authorities;
pub use authority::{
    Authority, CERTIFICATE_DAYS, HubIdentity, IssuedCertificate, IssuedDevice, NewAuthority,
};
pub use bundle::{DeviceBundle, HubContact};
pub use crl::{ListHead, Reason, RevokedCertificate};
pub use files::read_secret;
pub use key::{KeyKind, Passphrase};
pub(crate) use receipts::receipt_key;
pub use receipts::{ReceiptTrust, Signatory};
pub use registry::{CertificateRecord, DeviceRecord, Registry, RegistryError};
pub use request::{RequestError, RequestedKey};
pub use stamp::read_stamp_key;
pub(crate) use verifier::revoked;
pub use verifier::{CertificateClock, DeviceVerifier, Shown, device_of_certificate, fingerprint_hex};

use std::path::PathBuf;

/// Why the identity of a hub cannot be used, by what can be done about it.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// `pki/` or a file in it does not exist.
    #[error("the hub's identity is missing: {} does not exist; restore it from a backup (a new one would lock every device out); a hub that was made without one gets it by `marey ca init`", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// `init` in a place that has an identity.
    #[error("{} exists already; it is never overwritten", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Others may read a key.
    #[error("{} has mode {mode:04o}, so that others may read it; make it private: chmod {want:o} {}", path.display(), path.display())]
    TooOpen {
        /// The file or folder.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// The mode that it should have.
        want: u32,
    },
    /// The system refused.
    #[error("{}: {detail}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        detail: String,
    },
    /// A key or certificate that cannot be read, or does not fit the others.
    #[error("{} is damaged or does not fit: {why}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The authority's key is under a passphrase that is not there.
    #[error("{} is under a passphrase, so that nothing can be issued; put it into a file (0600) and set certificates.ca_passphrase_file", path.display())]
    Locked {
        /// The key.
        path: PathBuf,
    },
    /// An authority is to be made or let go at the wrong time.
    #[error("{0}")]
    Rotation(String),
    /// A certificate could not be made.
    #[error("a certificate for {subject} cannot be made: {why}")]
    Issue {
        /// For whom.
        subject: String,
        /// Why.
        why: String,
    },
}
