//! What the server needs to know about devices, and from whom it learns it.
//!
//! The embedding program stores the registry (durably: a change is committed before the call returns) and hands it in.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One device, as the registry has it. Enrolling a name again replaces the certificate that counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRecord {
    /// The device's name.
    pub name: String,
    /// SHA-256 of its certificate (DER), 64 lower-case hex digits.
    pub fingerprint_sha256_hex: String,
    /// Serial number of its certificate, lower-case hex.
    pub serial_hex: String,
    /// When it was enrolled, UTC in nanoseconds.
    pub enrolled_utc_ns: i64,
    /// A revoked device is refused, and its live connection closed.
    pub revoked: bool,
}

/// The registry of devices. Looked into at every handshake: an implementation answers from memory or nearly so.
pub trait Registry: fmt::Debug + Send + Sync {
    /// The record of `name`, `None` if it was never enrolled.
    ///
    /// # Errors
    /// [`RegistryError`]: then nobody is admitted.
    fn device(&self, name: &str) -> Result<Option<DeviceRecord>, RegistryError>;

    /// Adds or replaces a record, durably.
    ///
    /// # Errors
    /// [`RegistryError`]: then nothing has changed.
    fn put_device(&self, record: &DeviceRecord) -> Result<(), RegistryError>;

    /// All records, sorted by name.
    ///
    /// # Errors
    /// [`RegistryError`].
    fn list(&self) -> Result<Vec<DeviceRecord>, RegistryError>;
}

/// The registry could not be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the registry of devices failed: {detail}")]
pub struct RegistryError {
    /// What the store said.
    pub detail: String,
}
