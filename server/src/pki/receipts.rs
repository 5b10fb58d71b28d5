//! The key that signs receipts, and the judgement of such a signature.
//!
//! Owns `pki/receipts.key.pem` and `pki/receipts.cert.pem`, made when a receipt is first to be signed. The key is of its own,
//! since the hub's TLS key is renewed every year and a receipt is asked long after. Devices have certificates of the same
//! authority: what tells this one from theirs is its purpose, document signing (RFC 9336), and whoever judges a signature
//! demands it.
//!
//! A certificate's dates are not held against a clock: it counts for what was signed while it was the hub's.

use std::path::Path;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, UnparsedPublicKey,
};
use marey_engine::compact::{SignedReceipt, SigningKey};
use marey_format::types::hex;
use rcgen::{ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, PublicKeyData};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::authority::{CA_CERTIFICATE, file_of, issue_error, params};
use super::key::{self, KeyKind};
use super::{Authorities, Authority, PkiError, files, fingerprint_hex};

const KEY_FILE: &str = "receipts.key.pem";
const CERTIFICATE_FILE: &str = "receipts.cert.pem";
const SUBJECT: &str = "Marey hub receipts";
/// id-kp-documentSigning.
const DOCUMENT_SIGNING: [u64; 9] = [1, 3, 6, 1, 5, 5, 7, 3, 36];

/// Opens the key of a hub, and makes it where there is none. `authorities` is asked only where a certificate is needed.
///
/// # Errors
/// [`PkiError`]: among them a locked authority, where the key has no certificate yet.
pub(crate) fn receipt_key(
    hub_dir: &Path,
    authorities: impl FnOnce() -> Result<Authorities, PkiError>,
) -> Result<SigningKey, PkiError> {
    let folder = hub_dir.join("pki");
    files::check_private(&folder, files::FOLDER_MODE)?;
    let key = open_key(&folder)?;
    let certificates_pem = certificates(hub_dir, &folder, &key, authorities)?;
    let der = key.serialize_der();
    let damaged = |why: String| PkiError::Damaged {
        path: folder.join(KEY_FILE),
        why,
    };
    let signer = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &der)
        .map_err(|error| damaged(format!("no key on P-256: {error}")))?;
    Ok(SigningKey {
        key_sha256: hex(&Sha256::digest(key.subject_public_key_info())),
        certificates_pem,
        sign: Box::new(move |bytes| {
            let signature = signer.sign(&SystemRandom::new(), bytes);
            let signature =
                signature.map_err(|_| "the system gives no random bytes to sign with".to_owned())?;
            Ok(signature.as_ref().to_vec())
        }),
    })
}

fn open_key(folder: &Path) -> Result<KeyPair, PkiError> {
    let path = folder.join(KEY_FILE);
    if !path.exists() {
        let key = key::generate(KeyKind::P256, SUBJECT)?;
        files::write_new(&path, &key.serialize_pem(), files::KEY_MODE)?;
        return Ok(key);
    }
    let pem = files::read_key(&path)?;
    KeyPair::from_pem(&pem).map_err(|error| PkiError::Damaged {
        path,
        why: format!("{error}; move it away, and the next receipt makes a new one"),
    })
}

/// Certificate of the key and the authority's: those on disk if the authority that issues now gave them, else new ones.
fn certificates(
    hub_dir: &Path,
    folder: &Path,
    key: &KeyPair,
    authorities: impl FnOnce() -> Result<Authorities, PkiError>,
) -> Result<String, PkiError> {
    let path = folder.join(CERTIFICATE_FILE);
    let there = match files::read(&path) {
        Err(PkiError::Missing { .. }) => None,
        read => Some(read?).filter(|pem| is_of(pem, key)),
    };
    let issuing_pem = files::read(&Authorities::certificate_path(hub_dir)?)?;
    if let Some(pem) = there.as_ref().filter(|pem| pem.ends_with(&issuing_pem)) {
        return Ok(pem.clone());
    }
    let authorities = authorities()?;
    let issuing = authorities.issuing();
    match there {
        // That of an authority before is as good for those who know it.
        Some(pem) if issuing.is_locked() => Ok(pem),
        _ => {
            let pem = issue(issuing, key)?;
            files::replace(&path, &pem, files::CERTIFICATE_MODE)?;
            Ok(pem)
        }
    }
}

fn issue(authority: &Authority, key: &KeyPair) -> Result<String, PkiError> {
    let (from, until) = (authority.not_before_utc_s(), authority.not_after_utc_s());
    let mut params = params(SUBJECT, from, until)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(DOCUMENT_SIGNING.to_vec())];
    let certificate = params
        .signed_by(key, authority.issuer()?)
        .map_err(|error| issue_error(SUBJECT, error))?;
    Ok(format!("{}{}", certificate.pem(), authority.certificate_pem()))
}

/// Whether certificates are a pair whose first is of this key and whose second issued it.
fn is_of(pem: &str, key: &KeyPair) -> bool {
    let pair = pair(pem);
    pair.and_then(|(own, authority)| signatory(&own, &authority))
        .is_ok_and(|public_key| public_key.point == key.public_key_raw())
}

/// Who is believed to issue certificates of hubs.
#[derive(Debug, Default)]
pub struct ReceiptTrust {
    authorities: Vec<CertificateDer<'static>>,
}

/// Whose signature it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signatory {
    /// SHA-256 of the public key.
    pub key_sha256: String,
    /// SHA-256 of the certificate of the authority that vouches for it.
    pub authority_sha256: String,
    /// Whether that authority is one that is trusted; else it is the word of the certificate beside the receipt alone.
    pub is_trusted: bool,
}

impl ReceiptTrust {
    /// Those of a PEM file.
    ///
    /// # Errors
    /// One sentence, where it holds no certificate.
    pub fn of_pem(pem: &str) -> Result<Self, String> {
        let authorities = CertificateDer::pem_slice_iter(pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| format!("no certificates in PEM: {error}"))?;
        match authorities.is_empty() {
            true => Err("it holds no certificate; an authority's is `pki/ca.cert.pem` of its hub".to_owned()),
            false => Ok(Self { authorities }),
        }
    }

    /// All that a hub ever had, of those whose certificates are still in its folder.
    ///
    /// # Errors
    /// [`PkiError`], where one can't be read.
    pub fn of_hub(hub_dir: &Path) -> Result<Self, PkiError> {
        let mut authorities = Vec::new();
        for number in 1..=super::authorities::AUTHORITIES_MAX {
            let path = hub_dir.join("pki").join(file_of(number, CA_CERTIFICATE));
            match files::read(&path) {
                Err(PkiError::Missing { .. }) => {}
                read => {
                    let more = Self::of_pem(&read?).map_err(|why| PkiError::Damaged { path, why })?;
                    authorities.extend(more.authorities);
                }
            }
        }
        Ok(Self { authorities })
    }

    /// Whether nobody is trusted.
    pub fn is_empty(&self) -> bool {
        self.authorities.is_empty()
    }

    /// Holds a signature against the receipt, and its certificate against those who are trusted.
    ///
    /// # Errors
    /// One sentence on what does not fit.
    pub fn judge(&self, signed: &SignedReceipt) -> Result<Signatory, String> {
        let (own, beside) = pair(&signed.certificates_pem)?;
        let issuer = self
            .authorities
            .iter()
            .find(|authority| signatory(&own, authority).is_ok());
        let authority = match issuer {
            Some(authority) => authority,
            None if self.is_empty() => &beside,
            None => {
                return Err(format!(
                    "the certificate of its signer was issued by an authority that is not trusted (SHA-256 {})",
                    fingerprint_hex(&beside)
                ));
            }
        };
        let key = signatory(&own, authority)?;
        if key.sha256 != signed.key_sha256 {
            return Err("the certificate beside it is of another key than it names".to_owned());
        }
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &key.point)
            .verify(&signed.bytes, &signed.signature)
            .map_err(|_| {
                let name = &signed.name;
                format!("the signature does not fit: {name} or {name}.sig was changed since")
            })?;
        Ok(Signatory {
            key_sha256: key.sha256,
            authority_sha256: fingerprint_hex(authority),
            is_trusted: issuer.is_some(),
        })
    }
}

/// A signer's certificate and that of its authority.
fn pair(pem: &str) -> Result<(CertificateDer<'static>, CertificateDer<'static>), String> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let certificates = certificates.map_err(|error| format!("its certificate can't be read: {error}"))?;
    match <[_; 2]>::try_from(certificates) {
        Ok([own, authority]) => Ok((own, authority)),
        Err(others) => Err(format!(
            "beside it stand {} certificates, not its signer's and the authority's",
            others.len()
        )),
    }
}

struct PublicKey {
    /// As SEC 1 has it.
    point: Vec<u8>,
    sha256: String,
}

/// The key of a certificate that may sign receipts and that this authority issued.
fn signatory(own: &CertificateDer<'_>, authority: &CertificateDer<'_>) -> Result<PublicKey, String> {
    let unread = |error| format!("its certificate can't be read: {error}");
    let (_, own) = X509Certificate::from_der(own).map_err(unread)?;
    let (_, authority) = X509Certificate::from_der(authority).map_err(unread)?;
    own.verify_signature(Some(authority.public_key()))
        .map_err(|_| "its signer's certificate was not issued by the authority beside it".to_owned())?;
    let purpose = DOCUMENT_SIGNING.map(|arc| arc.to_string()).join(".");
    let purposes = own.extended_key_usage().ok().flatten();
    let may_sign =
        purposes.is_some_and(|found| found.value.other.iter().any(|oid| oid.to_id_string() == purpose));
    if !may_sign || own.is_ca() || !authority.is_ca() {
        return Err("its signer's certificate is none for signing receipts".to_owned());
    }
    Ok(PublicKey {
        point: own.public_key().subject_public_key.data.to_vec(),
        sha256: hex(&Sha256::digest(own.public_key().raw)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{NewAuthority, Passphrase};
    use std::os::unix::fs::PermissionsExt;

    const NOW_NS: i64 = 1_795_000_000_000_000_000;

    fn hub() -> tempfile::TempDir {
        let hub = tempfile::tempdir().expect("a folder");
        Authorities::init(hub.path(), &NewAuthority::default(), NOW_NS).expect("an authority");
        hub
    }

    fn open(hub: &Path) -> SigningKey {
        receipt_key(hub, || Authorities::open(hub, None)).expect("a key")
    }

    fn signed(key: &SigningKey, bytes: &[u8]) -> SignedReceipt {
        SignedReceipt {
            name: "receipt-0001.json".to_owned(),
            bytes: bytes.to_vec(),
            signature: (key.sign)(bytes).expect("signed"),
            certificates_pem: key.certificates_pem.clone(),
            key_sha256: key.key_sha256.clone(),
        }
    }

    #[test]
    fn a_key_is_made_once_and_its_signature_holds() {
        let hub = hub();
        let first = signed(&open(hub.path()), b"{}");
        // Without the authority's key: the certificate is there.
        let again = receipt_key(hub.path(), || panic!("not asked")).expect("the same key");
        assert_eq!(again.key_sha256, first.key_sha256);
        assert_eq!(again.certificates_pem, first.certificates_pem);
        let path = hub.path().join("pki").join(KEY_FILE);
        assert_eq!(
            path.metadata().expect("it is there").permissions().mode() & 0o777,
            0o600
        );
        let trust = ReceiptTrust::of_hub(hub.path()).expect("read");
        let signatory = trust.judge(&first).expect("it holds");
        assert!(signatory.is_trusted && signatory.key_sha256 == first.key_sha256);
        let alone = ReceiptTrust::default().judge(&first).expect("it holds");
        assert!(!alone.is_trusted && alone.authority_sha256 == signatory.authority_sha256);
    }

    #[test]
    fn every_changed_byte_is_found() {
        let hub = hub();
        let good = signed(&open(hub.path()), b"{\"complete\": true}");
        let trust = ReceiptTrust::of_hub(hub.path()).expect("read");
        for at in 0..good.bytes.len() {
            let mut bad = good.clone();
            bad.bytes[at] ^= 1;
            assert!(trust.judge(&bad).is_err(), "byte {at} of the receipt");
        }
        for at in 0..good.signature.len() {
            let mut bad = good.clone();
            bad.signature[at] ^= 1;
            assert!(trust.judge(&bad).is_err(), "byte {at} of the signature");
        }
    }

    #[test]
    fn nobody_else_signs_for_a_hub() {
        let (hub, other) = (hub(), hub());
        let trust = ReceiptTrust::of_hub(hub.path()).expect("read");
        let foreign = signed(&open(other.path()), b"{}");
        assert!(
            trust
                .judge(&foreign)
                .expect_err("foreign")
                .contains("not trusted")
        );
        // A device has a certificate of the very authority, and is none that signs.
        let authorities = Authorities::open(hub.path(), None).expect("opened");
        let device = authorities
            .issuing()
            .issue_device("phone", NOW_NS)
            .expect("issued");
        let key = KeyPair::from_pem(&device.key_pem).expect("a key");
        let signer =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &key.serialize_der()).expect("a key");
        let signature = signer.sign(&SystemRandom::new(), b"{}").expect("signed");
        let by_device = SignedReceipt {
            signature: signature.as_ref().to_vec(),
            certificates_pem: format!(
                "{}{}",
                device.certificate.certificate_pem,
                authorities.issuing().certificate_pem()
            ),
            key_sha256: hex(&Sha256::digest(key.subject_public_key_info())),
            ..foreign
        };
        for trust in [trust, ReceiptTrust::default()] {
            trust.judge(&by_device).expect_err("a device signs no receipt");
        }
    }

    #[test]
    fn a_new_authority_gives_a_new_certificate_and_a_locked_one_none() {
        let hub = hub();
        let first = open(hub.path());
        Authorities::rotate(hub.path(), &NewAuthority::default(), NOW_NS).expect("rotated");
        let second = open(hub.path());
        assert_eq!(first.key_sha256, second.key_sha256);
        assert_ne!(first.certificates_pem, second.certificates_pem);
        let trust = ReceiptTrust::of_hub(hub.path()).expect("read");
        for key in [&first, &second] {
            trust
                .judge(&signed(key, b"{}"))
                .expect("both authorities are known");
        }

        let locked = tempfile::tempdir().expect("a folder");
        let new = NewAuthority {
            passphrase: Some(Passphrase::new("correct horse").expect("long enough")),
            ..NewAuthority::default()
        };
        Authorities::init(locked.path(), &new, NOW_NS).expect("an authority");
        let refused = receipt_key(locked.path(), || Authorities::open(locked.path(), None));
        assert!(matches!(refused, Err(PkiError::Locked { .. })), "{refused:?}");
        receipt_key(locked.path(), || {
            Authorities::open(locked.path(), new.passphrase.as_ref())
        })
        .expect("unlocked");
        open(locked.path());
    }
}
