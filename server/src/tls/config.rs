//! The two rustls configurations of one port, and the choice between them.
//!
//! `marey/1` demands a certificate of a device in the registry and carries frames; `http/1.1` asks for none and never
//! carries frames. The choice is made from the client's hello, before either configuration says a word.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerConfig};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;

use super::error::TlsError;
use crate::pki::HubIdentity;

const ALPN_FRAMES: &[u8] = b"marey/1";
const ALPN_WEB: &[u8] = b"http/1.1";

/// What a connection was opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alpn {
    /// `marey/1`: frames, by a device that showed its certificate.
    Frames,
    /// `http/1.1`: no certificate was asked for.
    Web,
}

/// The configurations of the TLS port. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TlsConfigs {
    frames: Arc<ServerConfig>,
    web: Arc<ServerConfig>,
}

impl TlsConfigs {
    /// Builds both configurations. TLS 1.3 and 1.2; no tickets, no session storage, no early data. Whoever asks for the
    /// hub name of one of `identities` is shown that one, everybody else the first.
    ///
    /// # Errors
    /// [`TlsError::Identity`] if there is none, or key and certificate do not belong together.
    pub fn new(
        identities: Vec<HubIdentity>,
        devices: Arc<dyn ClientCertVerifier>,
        time: Arc<dyn TimeProvider>,
    ) -> Result<Self, TlsError> {
        let identity = |e: rustls::Error| TlsError::Identity(e.to_string());
        let provider = Arc::new(aws_lc_rs::default_provider());
        let certificates = Arc::new(HubCertificates::new(identities, &provider).map_err(identity)?);
        let versioned = || {
            ServerConfig::builder_with_details(provider.clone(), time.clone())
                .with_safe_default_protocol_versions()
                .map_err(identity)
        };
        let mut frames = versioned()?
            .with_client_cert_verifier(devices)
            .with_cert_resolver(certificates.clone());
        let mut web = versioned()?
            .with_no_client_auth()
            .with_cert_resolver(certificates);
        frames.alpn_protocols = vec![ALPN_FRAMES.to_vec()];
        web.alpn_protocols = vec![ALPN_WEB.to_vec()];
        for config in [&mut frames, &mut web] {
            config.send_tls13_tickets = 0;
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.max_early_data_size = 0;
        }
        Ok(Self {
            frames: Arc::new(frames),
            web: Arc::new(web),
        })
    }

    /// Chooses by what the client offers. A client that offers neither gets the frames configuration, whose handshake
    /// then ends in the alert `no_application_protocol`; one that speaks no ALPN at all is a simple HTTP client.
    pub(super) fn choose<'a>(
        &self,
        offered: Option<impl Iterator<Item = &'a [u8]>>,
    ) -> (Alpn, Arc<ServerConfig>) {
        let Some(offered) = offered else {
            return (Alpn::Web, self.web.clone());
        };
        let mut web = false;
        for protocol in offered {
            if protocol == ALPN_FRAMES {
                return (Alpn::Frames, self.frames.clone());
            }
            web |= protocol == ALPN_WEB;
        }
        if web {
            (Alpn::Web, self.web.clone())
        } else {
            (Alpn::Frames, self.frames.clone())
        }
    }
}

/// The hub's certificates, one for each authority that is trusted.
#[derive(Debug)]
struct HubCertificates {
    first: Arc<CertifiedKey>,
    others: Vec<(String, Arc<CertifiedKey>)>,
}

impl HubCertificates {
    fn new(
        identities: Vec<HubIdentity>,
        provider: &rustls::crypto::CryptoProvider,
    ) -> Result<Self, rustls::Error> {
        let mut keys = identities.into_iter().map(|identity| {
            let key = CertifiedKey::from_der(identity.chain, identity.key, provider)?;
            Ok((identity.hub_name, Arc::new(key)))
        });
        let Some(first) = keys.next().transpose()? else {
            return Err(rustls::Error::NoCertificatesPresented);
        };
        Ok(Self {
            first: first.1,
            others: keys.collect::<Result<_, rustls::Error>>()?,
        })
    }
}

impl ResolvesServerCert for HubCertificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let asked = hello.server_name();
        let other = self.others.iter().find(|(name, _)| asked == Some(name.as_str()));
        Some(other.map_or(&self.first, |(_, key)| key).clone())
    }
}
