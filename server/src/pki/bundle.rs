//! What a device is given at its enrolment: its key, its certificate, the authority's certificate, and where the hub is.
//!
//! Four files, so that a microcontroller's build can embed them and a script can read them.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Authority, IssuedDevice, PkiError, files};

/// The contents of a bundle. Holds the device's private key: it is shown once and never stored by the hub.
#[derive(Clone, Serialize, Deserialize)]
pub struct DeviceBundle {
    /// `key.pem`
    pub key_pem: String,
    /// `cert.pem`
    pub certificate_pem: String,
    /// `ca.pem`
    pub authority_pem: String,
    /// `hub.json`
    pub hub: HubContact,
}

/// `hub.json`: how to reach the hub and which name to verify.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubContact {
    /// Version of this file's format: 1.
    pub v: u32,
    /// The device's own name.
    pub device: String,
    /// Where the hub can be dialled, `host:port`, most likely first.
    pub addresses: Vec<String>,
    /// The name to verify in the hub's certificate, whatever address was dialled.
    pub hub_name: String,
    /// Port of the time service.
    pub udp_port: u16,
}

impl HubContact {
    /// Of the hub of `authority`.
    pub fn new(authority: &Authority, device: &str, addresses: Vec<String>, udp_port: u16) -> Self {
        Self {
            v: 1,
            device: device.to_owned(),
            addresses,
            hub_name: authority.hub_name().to_owned(),
            udp_port,
        }
    }
}

impl DeviceBundle {
    /// Puts a bundle together.
    pub fn new(
        authority: &Authority,
        device: &str,
        issued: IssuedDevice,
        addresses: Vec<String>,
        udp_port: u16,
    ) -> Self {
        Self {
            key_pem: issued.key_pem,
            certificate_pem: issued.certificate.certificate_pem,
            authority_pem: authority.certificate_pem().to_owned(),
            hub: HubContact::new(authority, device, addresses, udp_port),
        }
    }

    /// Writes the four files into `folder`, which is made (0700) if it does not exist. The key gets 0600.
    ///
    /// # Errors
    /// [`PkiError::Exists`] if one of the files is there already: a key is never overwritten.
    pub fn write(&self, folder: &Path) -> Result<(), PkiError> {
        let hub = serde_json::to_string(&self.hub).map_err(|e| PkiError::File {
            path: folder.join("hub.json"),
            detail: e.to_string(),
        })?;
        let contents = [
            ("key.pem", self.key_pem.as_str(), files::KEY_MODE),
            ("cert.pem", self.certificate_pem.as_str(), files::CERTIFICATE_MODE),
            ("ca.pem", self.authority_pem.as_str(), files::CERTIFICATE_MODE),
            ("hub.json", &format!("{hub}\n"), files::CERTIFICATE_MODE),
        ];
        for (name, ..) in contents {
            let path = folder.join(name);
            if path.exists() {
                return Err(PkiError::Exists { path });
            }
        }
        if !folder.exists() {
            files::create_folder(folder)?;
        }
        for (name, text, mode) in contents {
            files::write_new(&folder.join(name), text, mode)?;
        }
        Ok(())
    }
}

impl std::fmt::Debug for DeviceBundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeviceBundle")
            .field("hub", &self.hub)
            .finish_non_exhaustive()
    }
}
