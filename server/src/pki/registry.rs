//! What the server needs to know about devices, and from whom it learns it.
//!
//! The embedding program stores the registry (durably: a change is committed before the call returns) and hands it in.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::authority::{CERTIFICATE_DAYS, DAY_S};

/// One device, as the registry has it. Enrolling a name again replaces the certificate that counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// What else is known of its certificate; none for one that was issued before this was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificateRecord>,
    /// A newer certificate, which the device was given and has not shown yet. Both count until it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewed: Option<CertificateRecord>,
    /// What it was given before that one and has not shown either, oldest first: nobody knows which of them it has stored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unshown: Vec<CertificateRecord>,
    /// Somebody wants its certificate renewed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub renewal_asked: bool,
}

/// One certificate of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateRecord {
    /// SHA-256 of it (DER), 64 lower-case hex digits.
    pub fingerprint_sha256_hex: String,
    /// Its serial number, lower-case hex.
    pub serial_hex: String,
    /// SHA-256 of its public key (DER of its SubjectPublicKeyInfo).
    pub public_key_sha256_hex: String,
    /// Which authority issued it: the 16 hex digits of that one's hub name.
    pub authority: String,
    /// When it was issued, UTC in nanoseconds.
    pub issued_utc_ns: i64,
    /// When it ends, UTC seconds.
    pub not_after_utc_s: i64,
    /// The certificate itself.
    pub pem: String,
}

impl DeviceRecord {
    /// Whether a certificate counts.
    pub fn admits(&self, fingerprint_sha256_hex: &str) -> bool {
        let is_renewed = self.is_renewed(fingerprint_sha256_hex);
        !self.revoked && (self.fingerprint_sha256_hex == fingerprint_sha256_hex || is_renewed)
    }

    /// Whether it is a newer one.
    pub fn is_renewed(&self, fingerprint_sha256_hex: &str) -> bool {
        self.newer()
            .any(|newer| newer.fingerprint_sha256_hex == fingerprint_sha256_hex)
    }

    /// When the certificate that counts ends, UTC seconds. Records of earlier versions do not say so: those certificates were
    /// all issued for 375 days.
    pub fn not_after_utc_s(&self) -> i64 {
        let by_default = || {
            let issued_utc_s = self.enrolled_utc_ns.div_euclid(1_000_000_000);
            issued_utc_s.saturating_add(i64::from(CERTIFICATE_DAYS) * DAY_S)
        };
        let known = self.certificate.as_ref();
        known.map_or_else(by_default, |certificate| certificate.not_after_utc_s)
    }

    /// What the device was given and has not shown.
    pub fn newer(&self) -> impl Iterator<Item = &CertificateRecord> {
        self.renewed.iter().chain(&self.unshown)
    }
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
