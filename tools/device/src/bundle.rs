//! What a device was given at its enrolment: key, certificate, authority, and where the hub is.
//!
//! Owns: reading a bundle folder (`key.pem`, `cert.pem`, `ca.pem`, `hub.json`), the TLS configuration made of it, and the
//! folder's exchange for a renewed one. Does not own: enrolment (`join`). Invariants: the hub is verified under the bundle's authority and for the bundle's hub
//! name, whatever address is dialled; no session tickets are kept, because a resumed connection skips the
//! revocation check; the key never appears in an error or in debug output.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use marey_format::{DeviceId, wire};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;

use crate::identity::{self, Files};

/// A device's credentials and its hub's addresses.
#[derive(Clone)]
pub struct Bundle {
    folder: PathBuf,
    /// `hub.json` as it stands there.
    hub_json: String,
    device: DeviceId,
    addresses: Vec<String>,
    udp_port: u16,
    hub_name: ServerName<'static>,
    tls: Arc<ClientConfig>,
}

/// Why a bundle can't be used.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{}: {detail}; enrol the device anew", path.display())]
    Content { path: PathBuf, detail: String },
    #[error("{}: version {found}; this program knows version {BUNDLE_VERSION}", path.display())]
    Version { path: PathBuf, found: u32 },
}

impl Bundle {
    /// Reads the folder that `marey device enroll NAME --out DIR` made.
    pub fn read(folder: &Path) -> Result<Self, BundleError> {
        identity::roll_forward(folder).map_err(|source| BundleError::Io {
            path: folder.to_owned(),
            source,
        })?;
        let text = |name: &str| {
            let path = folder.join(name);
            std::fs::read_to_string(&path).map_err(|source| BundleError::Io { path, source })
        };
        let hub_json = text("hub.json")?;
        // Before the others are looked for: it says of which version they are.
        parse_hub(folder, &hub_json)?;
        let (key_pem, certificate_pem, authority_pem) =
            (text("key.pem")?, text("cert.pem")?, text("ca.pem")?);
        Self::of_files(
            folder,
            &Files {
                key_pem: &key_pem,
                certificate_pem: &certificate_pem,
                authority_pem: &authority_pem,
                hub_json: &hub_json,
            },
        )
    }

    /// The bundle that these files in `folder` would be.
    pub(crate) fn of_files(folder: &Path, files: &Files<'_>) -> Result<Self, BundleError> {
        let hub = parse_hub(folder, files.hub_json)?;
        let pem = |name: &str, text: &str| (folder.join(name), text.to_owned());
        let mut bundle = Self::new(
            hub,
            folder.join("hub.json"),
            pem("key.pem", files.key_pem),
            pem("cert.pem", files.certificate_pem),
            pem("ca.pem", files.authority_pem),
        )?;
        folder.clone_into(&mut bundle.folder);
        files.hub_json.clone_into(&mut bundle.hub_json);
        Ok(bundle)
    }

    /// Whether a renewed bundle can be stored.
    pub(crate) fn check_writable(&self) -> Result<(), BundleError> {
        rustix::fs::access(&self.folder, rustix::fs::Access::WRITE_OK).map_err(|error| BundleError::Io {
            path: self.folder.clone(),
            source: error.into(),
        })
    }

    /// Stores a renewed bundle in place of this one, and gives it back.
    pub(crate) fn renewed(&self, key_pem: &str, new: &wire::Certificate) -> Result<Self, BundleError> {
        let hub_path = self.folder.join("hub.json");
        let content = |detail: String| BundleError::Content {
            path: hub_path.clone(),
            detail,
        };
        // Keys that this version does not know stay as they are.
        let mut hub: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(&self.hub_json).map_err(|e| content(e.to_string()))?;
        hub.insert("hub_name".to_owned(), new.hub_name.clone().into());
        let hub_json = serde_json::to_string(&hub).map_err(|e| content(e.to_string()))? + "\n";
        let files = Files {
            key_pem,
            certificate_pem: &new.certificate,
            authority_pem: &new.authority,
            hub_json: &hub_json,
        };
        let bundle = Self::of_files(&self.folder, &files)?;
        identity::exchange(&self.folder, &files).map_err(|source| BundleError::Io {
            path: self.folder.clone(),
            source,
        })?;
        Ok(bundle)
    }

    /// The device that the certificate names.
    pub fn device(&self) -> &DeviceId {
        &self.device
    }

    /// Where the hub can be dialled, `host:port`, most likely first.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Port of the hub's time service at the time of the enrolment; the hub tells the present one at each connection.
    pub fn udp_port(&self) -> u16 {
        self.udp_port
    }

    pub(crate) fn hub_name(&self) -> ServerName<'static> {
        self.hub_name.clone()
    }

    pub(crate) fn tls(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.tls)
    }

    fn new(
        hub: HubContact,
        hub_path: PathBuf,
        (key_path, key): (PathBuf, String),
        (certificate_path, certificate): (PathBuf, String),
        (authority_path, authority): (PathBuf, String),
    ) -> Result<Self, BundleError> {
        let content = |path: &Path, detail: String| BundleError::Content {
            path: path.to_owned(),
            detail,
        };
        let hub_name = ServerName::try_from(hub.hub_name)
            .map_err(|error| content(&hub_path, format!("hub_name: {error}")))?;
        if hub.addresses.is_empty() {
            return Err(content(&hub_path, "no address of the hub".to_owned()));
        }
        let mut roots = RootCertStore::empty();
        for root in certificates(&authority_path, &authority)? {
            roots
                .add(root)
                .map_err(|error| content(&authority_path, error.to_string()))?;
        }
        // The error of a key is not shown: it may quote what it found.
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
            .map_err(|_| content(&key_path, "no private key in PEM".to_owned()))?;
        let chain = certificates(&certificate_path, &certificate)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| content(&hub_path, error.to_string()))?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(|error| content(&certificate_path, error.to_string()))?;
        tls.alpn_protocols = vec![wire::ALPN.to_vec()];
        tls.resumption = Resumption::disabled();
        Ok(Self {
            folder: PathBuf::new(),
            hub_json: String::new(),
            device: hub.device,
            addresses: hub.addresses,
            udp_port: hub.udp_port,
            hub_name,
            tls: Arc::new(tls),
        })
    }
}

impl std::fmt::Debug for Bundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bundle")
            .field("device", &self.device)
            .field("addresses", &self.addresses)
            .field("hub_name", &self.hub_name)
            .finish_non_exhaustive()
    }
}

/// `hub.json`. Unknown keys are ignored.
#[derive(Debug, Deserialize)]
struct HubContact {
    v: u32,
    device: DeviceId,
    addresses: Vec<String>,
    hub_name: String,
    #[serde(default)]
    udp_port: u16,
}

fn parse_hub(folder: &Path, text: &str) -> Result<HubContact, BundleError> {
    let path = folder.join("hub.json");
    let hub: HubContact = serde_json::from_str(text).map_err(|error| BundleError::Content {
        path: path.clone(),
        detail: error.to_string(),
    })?;
    match hub.v {
        BUNDLE_VERSION => Ok(hub),
        found => Err(BundleError::Version { path, found }),
    }
}

fn certificates(path: &Path, pem: &str) -> Result<Vec<CertificateDer<'static>>, BundleError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(BundleError::Content {
            path: path.to_owned(),
            detail: "no certificate in PEM".to_owned(),
        }),
        Err(error) => Err(BundleError::Content {
            path: path.to_owned(),
            detail: error.to_string(),
        }),
    }
}

const BUNDLE_VERSION: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_no_bundle_says_which_file() {
        let folder = tempfile::tempdir().unwrap();
        let error = |folder: &Path| Bundle::read(folder).unwrap_err().to_string();
        assert!(error(folder.path()).contains("hub.json"));
        let hub = r#"{"v":1,"device":"watch","addresses":["127.0.0.1:1"],"hub_name":"hub-00.marey.invalid","udp_port":2}"#;
        std::fs::write(folder.path().join("hub.json"), hub.replace("\"v\":1", "\"v\":9")).unwrap();
        assert!(error(folder.path()).contains("version 9"));
        std::fs::write(folder.path().join("hub.json"), hub).unwrap();
        assert!(error(folder.path()).contains("key.pem"));
        for name in ["key.pem", "cert.pem", "ca.pem"] {
            std::fs::write(folder.path().join(name), "secret\n").unwrap();
        }
        assert!(error(folder.path()).contains("ca.pem: no certificate in PEM"));
        assert!(!error(folder.path()).contains("secret"));
    }
}
