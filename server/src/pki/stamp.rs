//! The hub's stamp key: it tags every stamp that the hub gives out, so that none can be invented (`clock.md`).

use std::path::Path;

use marey_format::clock::StampKey;
use marey_format::types::{hex, unhex};

use super::{PkiError, files};

const STAMP_KEY_FILE: &str = "stamp.key";

/// Makes the key of a new hub: 64 hexadecimal digits in `pki/stamp.key`, 0600. One that is there stays: stamps were made
/// with it, or a crash came between it and the authority.
pub(super) fn write_stamp_key(folder: &Path) -> Result<(), PkiError> {
    let path = folder.join(STAMP_KEY_FILE);
    if path.exists() {
        return Ok(());
    }
    let mut key = [0; 32];
    aws_lc_rs::rand::fill(&mut key).map_err(|e| PkiError::File {
        path: path.clone(),
        detail: format!("no random bytes: {e}"),
    })?;
    files::write_new(&path, &format!("{}\n", hex(&key)), files::KEY_MODE)
}

/// Reads the stamp key of a hub.
///
/// # Errors
/// [`PkiError`]: missing, readable by others, damaged.
pub fn read_stamp_key(hub_dir: &Path) -> Result<StampKey, PkiError> {
    let path = hub_dir.join("pki").join(STAMP_KEY_FILE);
    let text = files::read_key(&path)?;
    match unhex::<32>(text.trim_end()) {
        Some(key) => Ok(StampKey(key)),
        None => Err(PkiError::Damaged {
            path,
            why: "it is not 64 hexadecimal digits".into(),
        }),
    }
}
