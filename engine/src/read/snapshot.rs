//! What Parquet there is of a session: the newest generation, or else the rolling parts.

use crate::compact::Manifest;
use crate::disk::Disk;
use crate::error::StorageError;
use crate::session::Session;
use marey_format::SessionId;
use std::path::PathBuf;

/// The manifest that holds for one reading, and the folder that its paths start from.
#[derive(Debug)]
pub struct Snapshot {
    pub dir: PathBuf,
    pub manifest: Option<Manifest>,
}

impl Snapshot {
    pub fn take(disk: &dyn Disk, session: &SessionId) -> Result<Self, StorageError> {
        let dir = Session::dir(session);
        if let Some(manifest) = Manifest::read(disk, &dir)? {
            return Ok(Self {
                dir,
                manifest: Some(manifest),
            });
        }
        let live = dir.join("live");
        Ok(match Manifest::read(disk, &live)? {
            Some(manifest) => Self {
                dir: live,
                manifest: Some(manifest),
            },
            None => Self { dir, manifest: None },
        })
    }
}
