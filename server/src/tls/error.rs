//! Why TLS connections end.
//!
//! Foreign error types stop here: what rustls says becomes a sentence and a class that a caller can act upon.

use std::io::ErrorKind;

use rustls::CertificateError;

use crate::pki;

/// Why a TLS connection ended, by what can be done about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// The hub's own key or certificate is unusable.
    #[error("the hub's certificate cannot be used: {0}")]
    Identity(String),
    /// The peer did not finish in time.
    #[error("the handshake was not finished within {0} ms")]
    Deadline(u64),
    /// The peer went away, or the network did.
    #[error("the connection broke: {detail}")]
    Socket {
        /// What the system says.
        kind: ErrorKind,
        /// Its text.
        detail: String,
    },
    /// The peer showed no certificate, or one that is refused.
    #[error("the certificate is refused: {0}")]
    Certificate(String),
    /// What the peer sent is not TLS as we speak it.
    #[error("no valid TLS: {0}")]
    Protocol(String),
}

pub(super) fn socket_error(error: &std::io::Error) -> TlsError {
    TlsError::Socket {
        kind: error.kind(),
        detail: error.to_string(),
    }
}

pub(super) fn tls_error(error: rustls::Error) -> TlsError {
    match error {
        rustls::Error::NoCertificatesPresented => TlsError::Certificate("none was shown".into()),
        rustls::Error::InvalidCertificate(CertificateError::Other(why)) => {
            TlsError::Certificate(why.0.to_string())
        }
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            TlsError::Certificate("it was not issued by this hub".into())
        }
        rustls::Error::InvalidCertificate(CertificateError::Revoked) => {
            let whose = pki::revoked().unwrap_or_else(|| "whoever shows it".to_owned());
            TlsError::Certificate(format!("that of {whose} is revoked"))
        }
        rustls::Error::InvalidCertificate(why) => TlsError::Certificate(format!("{why:?}")),
        other => TlsError::Protocol(other.to_string()),
    }
}
