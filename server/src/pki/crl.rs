//! Certificates that no longer count, and the file that tells others of them.
//!
//! The hub itself asks its registry at each handshake; `pki/crl.pem` is for whatever else trusts its authority. It holds
//! one list for each authority that is trusted, and is written anew at every change and every day.

use rcgen::{
    CertificateRevocationListParams, KeyIdMethod, RevocationReason, RevokedCertParams, SerialNumber,
};
use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use super::authority::{at_utc_s, issue_error};
use super::{Authority, PkiError};
use marey_format::types::hex;

/// A certificate that no longer counts, kept until it would have ended anyway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokedCertificate {
    /// Its serial number, lower-case hex.
    pub serial_hex: String,
    /// The device that it named.
    pub device: String,
    /// The authority that issued it, as [`Authority::key_hex`] has it; empty for the first one.
    pub authority: String,
    /// When it stopped to count, UTC in nanoseconds.
    pub revoked_utc_ns: i64,
    /// When it would have ended, UTC seconds; 0 if nobody knows.
    pub not_after_utc_s: i64,
    /// Why.
    pub reason: Reason,
}

/// Why a certificate no longer counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Somebody revoked the device.
    Revoked,
    /// The device has a newer one.
    Superseded,
}

/// Which list it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListHead {
    /// It rises by one with each list.
    pub number: u64,
    /// When it was written, UTC seconds.
    pub this_update_utc_s: i64,
    /// Until when it counts, UTC seconds.
    pub next_update_utc_s: Option<i64>,
}

impl ListHead {
    pub(super) fn read(pem: &str) -> Option<Self> {
        let der = CertificateRevocationListDer::from_pem_slice(pem.as_bytes()).ok()?;
        let (_, list) = CertificateRevocationList::from_der(&der).ok()?;
        Some(Self {
            number: list.crl_number()?.to_u64_digits().first().copied().unwrap_or(0),
            this_update_utc_s: list.last_update().timestamp(),
            next_update_utc_s: list.next_update().map(|at| at.timestamp()),
        })
    }
}

impl Authority {
    /// The list of those of `revoked` that this authority issued, PEM.
    ///
    /// # Errors
    /// [`PkiError::Locked`], [`PkiError::Issue`].
    pub(super) fn revocation_list(
        &self,
        revoked: &[RevokedCertificate],
        number: u64,
        now_utc_s: i64,
    ) -> Result<String, PkiError> {
        let issuer = self.issuer()?;
        let revoked_certs = revoked
            .iter()
            .filter(|one| self.issued(&one.authority))
            .filter_map(|one| {
                Some(RevokedCertParams {
                    serial_number: SerialNumber::from(unhex(&one.serial_hex)?),
                    revocation_time: at_utc_s(one.revoked_utc_ns.div_euclid(1_000_000_000)),
                    reason_code: Some(match one.reason {
                        Reason::Revoked => RevocationReason::CessationOfOperation,
                        Reason::Superseded => RevocationReason::Superseded,
                    }),
                    invalidity_date: None,
                })
            })
            .collect();
        CertificateRevocationListParams {
            this_update: at_utc_s(now_utc_s),
            next_update: at_utc_s(now_utc_s + LIST_DAYS * 86_400),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: KeyIdMethod::Sha256,
        }
        .signed_by(issuer)
        .and_then(|list| list.pem())
        .map_err(|e| issue_error("the list of revocations", e))
    }
}

/// Bytes of a serial number of whatever length.
fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let is_whole = !digits.is_empty() && digits.len().is_multiple_of(2) && digits.len() <= 40;
    if !is_whole {
        return None;
    }
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Option<Vec<u8>> = digits.chunks(2).map(byte).collect();
    debug_assert!(
        bytes
            .as_ref()
            .is_none_or(|bytes| hex(bytes) == text.to_ascii_lowercase())
    );
    bytes
}

/// How long a list may be believed. It is written anew every day.
const LIST_DAYS: i64 = 30;
