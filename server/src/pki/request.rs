//! What of a device's request for a certificate counts: its public key, and that whoever asks holds the private one.
//!
//! Name, extensions and lifetime that a request asks for are never looked at: the hub writes its own.

use rcgen::SubjectPublicKeyInfo;
use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject;
use sha2::{Digest, Sha256};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{OID_EC_P256, OID_NIST_EC_P384};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

use marey_format::types::hex;

/// The public key of a request, whose signature was good.
#[derive(Debug)]
pub struct RequestedKey {
    pub(super) key: SubjectPublicKeyInfo,
    sha256_hex: String,
}

/// Why a request is not taken: for whoever wrote it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Over the limit.
    #[error("the request has {0} bytes, over the limit of {REQUEST_BYTES_MAX}")]
    TooLong(usize),
    /// Not PEM, not PKCS#10.
    #[error("it is not one PKCS#10 request in PEM")]
    Form,
    /// A key that is too weak, too large, or of a kind that is not signed here.
    #[error("its key is not taken: P-256, P-384 and RSA of 2048 to 4096 bits are")]
    Key,
    /// Whoever asks does not hold the key.
    #[error("its signature is not that of its key")]
    Signature,
}

impl RequestedKey {
    /// Reads a request in PEM.
    ///
    /// # Errors
    /// [`RequestError`].
    pub fn read(pem: &str) -> Result<Self, RequestError> {
        if pem.len() > REQUEST_BYTES_MAX {
            return Err(RequestError::TooLong(pem.len()));
        }
        let der =
            CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).map_err(|_| RequestError::Form)?;
        let (rest, request) = X509CertificationRequest::from_der(&der).map_err(|_| RequestError::Form)?;
        if !rest.is_empty() {
            return Err(RequestError::Form);
        }
        let spki = &request.certification_request_info.subject_pki;
        // Before the signature is looked at: verifying under an enormous key is work.
        let is_taken = match spki.parsed().map_err(|_| RequestError::Key)? {
            PublicKey::RSA(rsa) => {
                RSA_BITS.contains(&rsa.key_size()) && rsa.try_exponent().is_ok_and(|e| e >= RSA_EXPONENT_MIN)
            }
            PublicKey::EC(_) => spki
                .algorithm
                .parameters
                .as_ref()
                .and_then(|parameters| parameters.as_oid().ok())
                .is_some_and(|curve| curve == OID_EC_P256 || curve == OID_NIST_EC_P384),
            _ => false,
        };
        if !is_taken {
            return Err(RequestError::Key);
        }
        request.verify_signature().map_err(|_| RequestError::Signature)?;
        Ok(Self {
            key: SubjectPublicKeyInfo::from_der(spki.raw).map_err(|_| RequestError::Key)?,
            sha256_hex: hex(&Sha256::digest(spki.raw)),
        })
    }

    /// SHA-256 of the key (DER of its SubjectPublicKeyInfo), hexadecimal.
    pub fn sha256_hex(&self) -> &str {
        &self.sha256_hex
    }
}

/// Longest request. One of RSA 4096 with a dozen names takes 3 KiB.
const REQUEST_BYTES_MAX: usize = 8 << 10;
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;
const RSA_EXPONENT_MIN: u64 = 65_537;

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::PublicKeyData;
    use rcgen::{
        CertificateParams, KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize,
    };

    fn request(key: &KeyPair) -> String {
        CertificateParams::new(vec!["somebody.else".to_owned()])
            .and_then(|params| params.serialize_request(key))
            .and_then(|request| request.pem())
            .expect("a request")
    }

    #[test]
    fn keys_of_the_table_are_taken_and_no_others() {
        let p256 = KeyPair::generate().expect("a key");
        let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).expect("a key");
        let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).expect("a key");
        let ed25519 = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
        for key in [&p256, &p384, &rsa] {
            let read = RequestedKey::read(&request(key)).expect("taken");
            assert_eq!(
                read.key,
                SubjectPublicKeyInfo::from_der(&key.subject_public_key_info()).expect("a key")
            );
            assert_eq!(
                read.sha256_hex(),
                hex(&Sha256::digest(key.subject_public_key_info()))
            );
        }
        assert_eq!(
            RequestedKey::read(&request(&ed25519)).err(),
            Some(RequestError::Key)
        );
    }

    #[test]
    fn what_is_no_request_or_not_its_owners_is_refused() {
        let key = KeyPair::generate().expect("a key");
        let good = request(&key);
        for bad in [
            "",
            "x",
            "-----BEGIN CERTIFICATE REQUEST-----\nMAA=\n-----END CERTIFICATE REQUEST-----\n",
        ] {
            assert_eq!(RequestedKey::read(bad).err(), Some(RequestError::Form), "{bad}");
        }
        let long = format!("{good}{}", "\n".repeat(REQUEST_BYTES_MAX));
        assert!(matches!(RequestedKey::read(&long), Err(RequestError::TooLong(_))));
        // Whatever signed byte is changed: it does not read, or its signature does not fit.
        let der = CertificateSigningRequestDer::from_pem_slice(good.as_bytes()).expect("PEM");
        let (_, read) = X509CertificationRequest::from_der(&der).expect("a request");
        let signed = read.certification_request_info.raw;
        let begins = signed.as_ptr() as usize - der.as_ptr() as usize;
        for at in begins..begins + signed.len() {
            let mut bytes = der.to_vec();
            bytes[at] ^= 1;
            let pem = rcgen_pem(&bytes);
            assert!(RequestedKey::read(&pem).is_err(), "byte {at}");
        }
    }

    fn rcgen_pem(der: &[u8]) -> String {
        use pkcs8::der::pem;
        pem::encode_string("CERTIFICATE REQUEST", pkcs8::LineEnding::LF, der).expect("PEM")
    }
}
