//! What stands beside a receipt and between receipts: a signature, the certificate of its key, the hash of the receipt before.
//!
//! Owns the names of those files, and what a receipt says of them. Has no key and judges no signature: whoever opens the store
//! may give it a [`ReceiptSigner`]. Without one, or where it can't sign now, a receipt is published all the same, unsigned, and
//! says why.
//!
//! Invariants: a receipt that was published is never written again; one that names a signer has signature and certificate
//! beside it, published by the same plan.

use super::receipt::Receipt;
use crate::disk::{self, Disk};
use crate::error::StorageError;
use marey_format::types::hex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::path::Path;

/// Longest receipt, in bytes.
pub const RECEIPT_BYTES_MAX: u64 = 256 << 20;

/// Signs receipts: the server's part.
pub trait ReceiptSigner: Send + Sync + std::fmt::Debug {
    /// The key that signs now, made where there is none yet.
    ///
    /// # Errors
    /// One sentence on why nothing can be signed now; the receipt has it.
    fn open(&self) -> Result<SigningKey, String>;
}

/// Signs the bytes of a receipt: ECDSA on P-256 over their SHA-256, in DER. One sentence where it can't.
pub type Sign = dyn Fn(&[u8]) -> Result<Vec<u8>, String>;

/// A key that signs.
pub struct SigningKey {
    /// SHA-256 of the public key (DER of its SubjectPublicKeyInfo), hexadecimal.
    pub key_sha256: String,
    /// Its certificate and the authority's, PEM.
    pub certificates_pem: String,
    pub sign: Box<Sign>,
}

/// What a hub adds to a receipt that no log tells.
#[derive(Clone, Debug, Default)]
pub struct Witness<'a> {
    /// The newest record of its audit log.
    pub audited: Option<super::AuditFact>,
    pub signer: Option<&'a dyn ReceiptSigner>,
}

/// The receipt before, by its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviousFact {
    /// Its file, beside this one.
    pub receipt: String,
    pub sha256: String,
}

/// Whose signature stands beside a receipt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignerFact {
    /// SHA-256 of the public key (DER of its SubjectPublicKeyInfo).
    pub key_sha256: String,
    /// SHA-256 of the file with its certificate.
    pub certificate_sha256: String,
}

/// A receipt as it is to be written.
pub struct Signed {
    pub receipt: Receipt,
    pub bytes: Vec<u8>,
    /// Certificates and signature, if it is signed.
    pub beside: Option<(String, Vec<u8>)>,
}

/// The file with a receipt's signature.
pub fn signature_name(generation: u32) -> String {
    format!("{}.sig", Receipt::name(generation))
}

/// The file with the certificate of the key that signed it, and the authority's.
pub fn certificate_name(generation: u32) -> String {
    format!("{}.crt", Receipt::name(generation))
}

/// Signs a receipt, or has it say why it is not signed.
pub fn sign(signer: Option<&dyn ReceiptSigner>, receipt: Receipt) -> Signed {
    let open = |signer: &dyn ReceiptSigner| signer.open();
    let key = signer.map_or_else(|| Err(NO_KEY.to_owned()), open);
    let signed = key.and_then(|key| {
        let signer = SignerFact {
            key_sha256: key.key_sha256.clone(),
            certificate_sha256: sha256(key.certificates_pem.as_bytes()),
        };
        let receipt = Receipt {
            signer: Some(signer),
            ..receipt.clone()
        };
        let bytes = receipt.to_bytes();
        let signature = (key.sign)(&bytes)?;
        Ok(Signed {
            receipt,
            bytes,
            beside: Some((key.certificates_pem, signature)),
        })
    });
    signed.unwrap_or_else(|why| {
        let receipt = Receipt {
            unsigned: Some(why),
            ..receipt
        };
        Signed {
            bytes: receipt.to_bytes(),
            receipt,
            beside: None,
        }
    })
}

/// Numbers of the receipts in a session's folder, rising.
pub fn numbers(disk: &dyn Disk, session_dir: &Path) -> Result<Vec<u32>, StorageError> {
    let io = |error| StorageError::io("listing", disk.describe(session_dir), error);
    let entries = disk.list(session_dir).map_err(io)?;
    let mut numbers: Vec<u32> = entries
        .iter()
        .filter(|entry| !entry.stat.is_dir)
        .filter_map(|entry| number_of(&entry.name))
        .collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// The generation whose receipt has this name.
pub fn number_of(name: &str) -> Option<u32> {
    let digits = name.strip_prefix("receipt-")?.strip_suffix(".json")?;
    let number = digits.parse().ok()?;
    (Receipt::name(number) == name).then_some(number)
}

/// The newest receipt below a generation's, by its bytes.
pub fn previous(
    disk: &dyn Disk,
    session_dir: &Path,
    generation: u32,
) -> Result<Option<PreviousFact>, StorageError> {
    let below = numbers(disk, session_dir)?;
    let Some(&newest) = below.iter().rfind(|&&number| number < generation) else {
        return Ok(None);
    };
    let receipt = Receipt::name(newest);
    let bytes = read(disk, &session_dir.join(&receipt))?;
    Ok(Some(PreviousFact {
        receipt,
        sha256: sha256(&bytes),
    }))
}

/// The bytes of a receipt, or of what stands beside it.
pub fn read(disk: &dyn Disk, path: &Path) -> Result<Vec<u8>, StorageError> {
    let io = |error| StorageError::io("reading", disk.describe(path), error);
    disk::read_all(disk, path, RECEIPT_BYTES_MAX).map_err(io)
}

/// SHA-256 in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("SigningKey")
            .field("key_sha256", &self.key_sha256)
            .finish_non_exhaustive()
    }
}

const NO_KEY: &str = "it was made without the keys of a hub";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_is_known_by_its_name_alone() {
        assert_eq!(number_of("receipt-0001.json"), Some(1));
        assert_eq!(number_of("receipt-12345.json"), Some(12345));
        for other in [
            "receipt-1.json",
            "receipt-00012.json",
            "receipt-+001.json",
            "receipt-0001.json.sig",
            ".tmp-g0001-receipt-0001.json",
            "receipt-.json",
        ] {
            assert_eq!(number_of(other), None, "{other}");
        }
    }
}
