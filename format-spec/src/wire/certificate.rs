//! A certificate that is renewed over the connection that it opened.

use serde::{Deserialize, Serialize};

/// The hub asks the device for a new key: its certificate ends soon, or the hub has a new authority.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Renew {
    /// When the certificate of this connection ends, UTC seconds.
    #[serde(with = "crate::json::int")]
    pub not_after: i64,
}

/// The device has made a new key and asks for a certificate of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Csr {
    /// A PKCS#10 request in PEM, signed with the new key. Nothing but the public key counts.
    pub csr: String,
}

/// The certificate of a new key, and under which authority and name the hub is to be verified from now on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Certificate {
    /// The device's certificate, PEM.
    pub certificate: String,
    /// The authority's certificate, PEM.
    pub authority: String,
    /// The name to verify in the hub's certificate.
    pub hub_name: String,
}
