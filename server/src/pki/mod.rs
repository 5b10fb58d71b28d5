//! Who is who: the hub's own certificate authority, its certificate, the certificates of devices, and the look into the
//! registry that every new connection passes.
//!
//! Owns the folder `pki/` of a hub (0700; key files 0600, looser ones are refused). Does not own the registry: the
//! engine stores it, behind [`Registry`].
//!
//! Invariants: a certificate alone never admits a device, the registry must name exactly this certificate and not have
//! revoked it; no key leaves the hub but a device's own, once, in its bundle.

mod addresses;
mod authority;
mod bundle;
mod files;
mod registry;
mod stamp;
#[cfg(test)]
mod tests;
mod verifier;

pub use addresses::{host_name, local_addresses};
pub use authority::{Authority, HubIdentity, IssuedDevice};
pub use bundle::{DeviceBundle, HubContact};
pub use registry::{DeviceRecord, Registry, RegistryError};
pub use stamp::read_stamp_key;
pub use verifier::{CertificateClock, DeviceVerifier, device_of_certificate, fingerprint_hex};

use std::path::PathBuf;

/// Why the identity of a hub cannot be used, by what can be done about it.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// `pki/` or a file in it does not exist.
    #[error("the hub's identity is missing: {} does not exist; restore it from a backup (a new one would lock every device out)", path.display())]
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
    /// A certificate could not be made.
    #[error("a certificate for {subject} cannot be made: {why}")]
    Issue {
        /// For whom.
        subject: String,
        /// Why.
        why: String,
    },
}
