//! Signs the receipts of a hub with the key in its `pki/`.
//!
//! Holds paths alone: authorities are opened anew where a certificate is to be made, so that a rotation counts at once, and
//! the store, which keeps this, is kept by nobody here.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use marey_engine::compact::{ReceiptSigner, SigningKey};

use super::{Registrar, read_passphrase};
use crate::pki::{Authorities, receipt_key};

#[derive(Debug)]
struct Receipts {
    hub_dir: PathBuf,
    /// Of the authority's key; empty where there is none.
    passphrase_file: String,
}

impl Registrar {
    /// Who signs this hub's receipts.
    pub(crate) fn receipt_signer(&self) -> Arc<dyn ReceiptSigner> {
        Arc::new(Receipts {
            hub_dir: self.dir.clone(),
            passphrase_file: self.settings.ca_passphrase_file.clone(),
        })
    }
}

impl ReceiptSigner for Receipts {
    fn open(&self) -> Result<SigningKey, String> {
        let authorities = || {
            let passphrase = match self.passphrase_file.as_str() {
                "" => None,
                file => Some(read_passphrase(Path::new(file))?),
            };
            Authorities::open(&self.hub_dir, passphrase.as_ref())
        };
        receipt_key(&self.hub_dir, authorities).map_err(|error| error.to_string())
    }
}
