//! Admits a device at the handshake: the chain against the hub's authority, then the name in the certificate against the
//! registry.
//!
//! Why both: a certificate that is mathematically good may belong to a device that was revoked or enrolled anew. Why at
//! the handshake: nothing of a stranger's bytes reaches the protocol.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

use super::{Authority, PkiError, Registry};
use marey_format::types::hex;

/// What stands before a device's name in its certificate.
pub(super) const DEVICE_URN: &str = "urn:marey:device:";

/// Verifies the certificates of devices.
#[derive(Debug)]
pub struct DeviceVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    registry: Arc<dyn Registry>,
}

impl DeviceVerifier {
    /// A verifier for what `authorities` issued and `registry` knows.
    ///
    /// # Errors
    /// [`PkiError::Issue`] if the authority's certificate cannot serve as a root.
    pub fn new<'a>(
        authorities: impl IntoIterator<Item = &'a Authority>,
        registry: Arc<dyn Registry>,
    ) -> Result<Arc<Self>, PkiError> {
        let unusable = |why: String| PkiError::Issue {
            subject: "the authority as a root of trust".into(),
            why,
        };
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots
                .add(authority.certificate().clone())
                .map_err(|e| unusable(e.to_string()))?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let chain = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|e| unusable(e.to_string()))?;
        Ok(Arc::new(Self { chain, registry }))
    }

    fn look_up(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        let Some(name) = device_of_certificate(certificate) else {
            return Err(refuse(Refusal::NoDevice));
        };
        let record = self
            .registry
            .device(&name)
            .map_err(|e| refuse(Refusal::Registry(e.to_string())))?;
        let Some(record) = record else {
            return Err(refuse(Refusal::Unknown(name)));
        };
        if record.revoked {
            let serial = Shown::of(certificate)
                .map(|shown| shown.serial_hex)
                .unwrap_or_default();
            REVOKED.set(Some(format!("{name} (serial {serial})")));
            return Err(Error::InvalidCertificate(CertificateError::Revoked));
        }
        if !record.admits(&fingerprint_hex(certificate)) {
            return Err(refuse(Refusal::Superseded(name)));
        }
        Ok(())
    }
}

impl ClientCertVerifier for DeviceVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        self.look_up(end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// The device that a certificate names: exactly one URI `urn:marey:device:NAME` among its alternative names.
pub fn device_of_certificate(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let names = parsed.subject_alternative_name().ok()??;
    let mut devices = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => uri.strip_prefix(DEVICE_URN),
        _ => None,
    });
    match (devices.next(), devices.next()) {
        (Some(name), None) => Some(name.to_owned()),
        _ => None,
    }
}

thread_local! {
    /// rustls's error for a revoked certificate, whose alert devices understand, has no room for whose it was.
    static REVOKED: Cell<Option<String>> = const { Cell::new(None) };
}

/// Whose certificate the verifier has just refused as revoked: to be asked on the thread that had it verified, before
/// anything else is verified there. It was shown, and nobody has proven yet to have its key.
pub(crate) fn revoked() -> Option<String> {
    REVOKED.take()
}

/// What a device showed at its handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// SHA-256 of the certificate, hexadecimal.
    pub fingerprint_sha256_hex: String,
    /// Its serial number, lower-case hexadecimal.
    pub serial_hex: String,
    /// When it ends, UTC seconds.
    pub not_after_utc_s: i64,
    /// Which key issued it, as it says itself: the verifier has checked it.
    pub(crate) issuer_key_identifier: Vec<u8>,
}

impl Shown {
    /// Reads a certificate that the verifier accepted.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let issuer = parsed.iter_extensions().find_map(|e| match e.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|id| id.0.to_vec()),
            _ => None,
        });
        Some(Self {
            fingerprint_sha256_hex: fingerprint_hex(certificate),
            serial_hex: hex(parsed.raw_serial()),
            not_after_utc_s: parsed.validity().not_after.timestamp(),
            issuer_key_identifier: issuer.unwrap_or_default(),
        })
    }

    /// Whether `authority` issued it.
    pub fn is_of(&self, authority: &Authority) -> bool {
        authority.has_key_identifier(&self.issuer_key_identifier)
    }
}

/// SHA-256 of a certificate's DER, 64 lower-case hex digits.
pub fn fingerprint_hex(certificate: &CertificateDer<'_>) -> String {
    hex(&Sha256::digest(certificate.as_ref()))
}

/// The clock by which certificates are judged: the wall clock, but never before the newest authority was made, so that a
/// hub that lost its time does not lock its devices out.
pub struct CertificateClock {
    now_utc_ns: Box<dyn Fn() -> i64 + Send + Sync>,
    floor_utc_s: i64,
}

impl CertificateClock {
    /// `now_utc_ns` reads the wall clock in nanoseconds of UTC.
    pub fn new<'a>(
        authorities: impl IntoIterator<Item = &'a Authority>,
        now_utc_ns: impl Fn() -> i64 + Send + Sync + 'static,
    ) -> Arc<Self> {
        let newest = authorities.into_iter().map(Authority::not_before_utc_s).max();
        Arc::new(Self {
            now_utc_ns: Box::new(now_utc_ns),
            floor_utc_s: newest.unwrap_or(0),
        })
    }
}

impl TimeProvider for CertificateClock {
    fn current_time(&self) -> Option<UnixTime> {
        let now_s = (self.now_utc_ns)()
            .div_euclid(1_000_000_000)
            .max(self.floor_utc_s);
        let since = std::time::Duration::from_secs(u64::try_from(now_s).ok()?);
        Some(UnixTime::since_unix_epoch(since))
    }
}

impl fmt::Debug for CertificateClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateClock")
            .field("floor_utc_s", &self.floor_utc_s)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("it names no device")]
    NoDevice,
    #[error("the device {0} is not enrolled here")]
    Unknown(String),
    #[error("the device {0} was enrolled anew, this certificate no longer counts")]
    Superseded(String),
    #[error("{0}")]
    Registry(String),
}

fn refuse(why: Refusal) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(why))))
}
