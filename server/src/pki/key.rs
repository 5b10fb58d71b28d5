//! Private keys: their kinds, and the authority's under a passphrase.
//!
//! A key under a passphrase is a PKCS#8 file as RFC 5958 and RFC 8018 have it (PBES2: scrypt, AES-256-CBC), which
//! `openssl pkey` reads as well: a hub's authority must outlive its program. CBC keeps nobody from changing the file;
//! that it is the key of the certificate beside it is checked at each opening.

use std::fmt;
use std::str::FromStr;

use pkcs8::pkcs5::pbes2;
use pkcs8::pkcs5::scrypt::Params as Scrypt;
use pkcs8::{EncryptedPrivateKeyInfoRef, LineEnding, PrivateKeyInfoRef, SecretDocument};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, RsaKeySize};
use rustls::pki_types::PrivatePkcs8KeyDer;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::PkiError;

/// Of what kind the keys of an authority and of its hub are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyKind {
    /// ECDSA on P-256, which every phone and most microcontrollers verify.
    #[default]
    #[serde(rename = "p256")]
    P256,
    /// RSA of 3,072 bits, for what knows nothing else.
    #[serde(rename = "rsa-3072")]
    Rsa3072,
    /// RSA of 4,096 bits.
    #[serde(rename = "rsa-4096")]
    Rsa4096,
}

impl KeyKind {
    /// As it is typed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::P256 => "p256",
            Self::Rsa3072 => "rsa-3072",
            Self::Rsa4096 => "rsa-4096",
        }
    }
}

impl FromStr for KeyKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::P256, Self::Rsa3072, Self::Rsa4096]
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| format!("{text:?} is no kind of key; there are p256, rsa-3072 and rsa-4096"))
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What an authority's key is kept under. It is wiped when it is dropped, and shown nowhere.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// Takes the first line of a text.
    ///
    /// # Errors
    /// One sentence, if it is too short to keep anything.
    pub fn new(text: &str) -> Result<Self, String> {
        let line = text.lines().next().unwrap_or_default();
        if line.chars().count() < PASSPHRASE_CHARS_MIN {
            return Err(format!(
                "a passphrase has at least {PASSPHRASE_CHARS_MIN} characters"
            ));
        }
        Ok(Self(Zeroizing::new(line.to_owned())))
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(..)")
    }
}

/// Makes a key.
pub(super) fn generate(kind: KeyKind, subject: &str) -> Result<KeyPair, PkiError> {
    let made = match kind {
        KeyKind::P256 => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256),
        KeyKind::Rsa3072 => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_3072),
        KeyKind::Rsa4096 => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_4096),
    };
    made.map_err(|e| PkiError::Issue {
        subject: subject.to_owned(),
        why: e.to_string(),
    })
}

/// The text of a key's file, under a passphrase if there is one.
pub(super) fn to_pem(key: &KeyPair, passphrase: Option<&Passphrase>) -> Result<Zeroizing<String>, String> {
    let Some(passphrase) = passphrase else {
        return Ok(Zeroizing::new(key.serialize_pem()));
    };
    let (mut salt, mut iv) = ([0; 16], [0; 16]);
    for bytes in [&mut salt, &mut iv] {
        aws_lc_rs::rand::fill(bytes).map_err(|e| format!("no random bytes: {e}"))?;
    }
    let text = |e: &dyn fmt::Display| e.to_string();
    let cost = Scrypt::new(SCRYPT_LOG_N, SCRYPT_R, SCRYPT_P).map_err(|e| text(&e))?;
    let parameters = pbes2::Parameters::generate_scrypt_aes256cbc(cost, &salt, iv).map_err(|e| text(&e))?;
    let der = Zeroizing::new(key.serialize_der());
    PrivateKeyInfoRef::try_from(der.as_slice())
        .and_then(|info| info.encrypt_with_params(parameters, passphrase.0.as_bytes()))
        .map_err(|e| text(&e))?
        .to_pem(ENCRYPTED, LineEnding::LF)
        .map_err(|e| text(&e))
}

/// Whether the text of a key's file is under a passphrase.
pub(super) fn is_encrypted(pem: &str) -> bool {
    pem.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----")
}

/// Reads the text of a key's file that is under a passphrase.
pub(super) fn decrypt(pem: &str, passphrase: &Passphrase) -> Result<KeyPair, String> {
    let (label, document) = SecretDocument::from_pem(pem).map_err(|e| e.to_string())?;
    if label != ENCRYPTED {
        return Err(format!("it holds {label}, where {ENCRYPTED} is expected"));
    }
    let key = EncryptedPrivateKeyInfoRef::try_from(document.as_bytes())
        .map_err(|e| e.to_string())?
        .decrypt(passphrase.0.as_bytes())
        .map_err(|_| "the passphrase is not the one that it was made with".to_owned())?;
    KeyPair::try_from(&PrivatePkcs8KeyDer::from(key.as_bytes()))
        .map_err(|_| "the passphrase is not the one that it was made with".to_owned())
}

const ENCRYPTED: &str = "ENCRYPTED PRIVATE KEY";
const PASSPHRASE_CHARS_MIN: usize = 8;
/// 16 MiB and five passes: what OWASP's table has beside 128 MiB, and what every OpenSSL reads without being told of more.
const SCRYPT_LOG_N: u8 = 14;
const SCRYPT_R: u32 = 8;
const SCRYPT_P: u32 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_under_a_passphrase_needs_that_passphrase() {
        let key = generate(KeyKind::P256, "a test").expect("made");
        let passphrase = Passphrase::new("correct horse\nbattery staple").expect("long enough");
        let pem = to_pem(&key, Some(&passphrase)).expect("written");
        assert!(is_encrypted(&pem) && !is_encrypted(&key.serialize_pem()));
        let back = decrypt(&pem, &passphrase).expect("read");
        assert_eq!(back.public_key_raw(), key.public_key_raw());
        assert!(decrypt(&pem, &Passphrase::new("correct horse").expect("long")).is_ok());
        let wrong = Passphrase::new("wrong horse").expect("long enough");
        assert!(decrypt(&pem, &wrong).expect_err("wrong").contains("passphrase"));
        assert!(Passphrase::new("short").is_err());
        assert_eq!(format!("{passphrase:?}"), "Passphrase(..)");
    }

    #[test]
    fn kinds_are_read_as_they_are_written() {
        for kind in [KeyKind::P256, KeyKind::Rsa3072, KeyKind::Rsa4096] {
            assert_eq!(kind.as_str().parse(), Ok(kind));
            assert_eq!(serde_json::to_string(&kind).expect("JSON"), format!("\"{kind}\""));
        }
        assert!("rsa".parse::<KeyKind>().is_err());
    }
}
