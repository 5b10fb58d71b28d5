//! `hub.json`: the hub's id, made once. Every segment and every journal record carries it, so that a flipped bit here
//! would make the journal somebody else's: it has a checksum.

use crate::disk::{self, Disk};
use crate::error::StorageError;
use marey_format::checksum::crc32;
use marey_format::types::{hex, unhex};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;

/// Its name in the hub's folder.
pub(crate) const HUB_FILE: &str = "hub.json";

#[derive(Serialize, Deserialize)]
struct HubFile {
    v: u32,
    hub: String,
    /// CRC-32 of `hub`, 8 hexadecimal digits. Hubs that were made before there was one have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    crc: Option<String>,
}

/// Writes it; the folder is a whole hub from then on.
pub(crate) fn write(disk: &dyn Disk, hub: [u8; 16]) -> io::Result<()> {
    let hub = hex(&hub);
    let file = HubFile {
        v: 1,
        crc: Some(checksum(&hub)),
        hub,
    };
    let json = serde_json::to_vec(&file).expect("three plain fields");
    disk::replace(disk, Path::new(HUB_FILE), &json)
}

/// The hub's id.
///
/// # Errors
/// [`StorageError::Damaged`] where it does not hold; the id stands in every segment's header as well.
pub(crate) fn read(disk: &dyn Disk) -> Result<[u8; 16], StorageError> {
    let path = Path::new(HUB_FILE);
    let shown = disk.describe(path);
    let bytes =
        disk::read_all(disk, path, 4096).map_err(|error| StorageError::io("reading", &shown, error))?;
    let damaged = |what: String| StorageError::damaged(&shown, what);
    let file: HubFile = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    if file.v != 1 {
        return Err(damaged(format!("version {} is not known", file.v)));
    }
    if let Some(expected) = &file.crc
        && *expected != checksum(&file.hub)
    {
        return Err(damaged(format!(
            "the hub's id {} does not fit its checksum {expected}; every segment's header has the id as well \
             (marey info FILE.mlog)",
            file.hub
        )));
    }
    unhex(&file.hub).ok_or_else(|| damaged("the hub's id is not 32 hexadecimal digits".to_owned()))
}

fn checksum(hub: &str) -> String {
    format!("{:08x}", crc32(hub.as_bytes()))
}
