//! The registry of devices in the engine's identity store: one JSON record for each device.

use std::fmt;
use std::sync::Arc;

use marey_engine::Store;

use crate::pki::{DeviceRecord, Registry, RegistryError};

/// Kind of the records in the identity store.
pub(crate) const KIND: &str = "device";

/// [`Registry`] over a [`Store`].
pub struct StoredRegistry {
    store: Arc<Store>,
}

impl StoredRegistry {
    /// The registry that `store` holds.
    pub fn new(store: Arc<Store>) -> Arc<Self> {
        Arc::new(Self { store })
    }
}

impl Registry for StoredRegistry {
    fn device(&self, name: &str) -> Result<Option<DeviceRecord>, RegistryError> {
        let bytes = self.store.identity().get(KIND, name).map_err(failed)?;
        bytes.map(|bytes| parse(name, &bytes)).transpose()
    }

    fn put_device(&self, record: &DeviceRecord) -> Result<(), RegistryError> {
        let bytes = serde_json::to_vec(record).map_err(failed)?;
        self.store
            .identity()
            .put(KIND, &record.name, &bytes)
            .map_err(failed)
    }

    fn list(&self) -> Result<Vec<DeviceRecord>, RegistryError> {
        let mut records = self
            .store
            .identity()
            .list(KIND)
            .map_err(failed)?
            .iter()
            .map(|(name, bytes)| parse(name, bytes))
            .collect::<Result<Vec<_>, _>>()?;
        records.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(records)
    }
}

impl fmt::Debug for StoredRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredRegistry").finish_non_exhaustive()
    }
}

fn parse(name: &str, bytes: &[u8]) -> Result<DeviceRecord, RegistryError> {
    serde_json::from_slice(bytes).map_err(|e| RegistryError {
        detail: format!("the record of {name} is damaged: {e}"),
    })
}

fn failed(error: impl fmt::Display) -> RegistryError {
    RegistryError {
        detail: error.to_string(),
    }
}
