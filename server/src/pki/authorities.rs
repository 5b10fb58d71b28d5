//! The authorities of a hub: the one that issues, and while a rotation is under way the older one beside it.
//!
//! The first has its files in `pki/` as `ca.key.pem` and so on, number N as `ca-N.key.pem`; `pki/authorities.json` says which
//! counts for what, and is replaced by one rename: a rotation has happened or has not. Without it the first issues and no
//! other is trusted.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::authority::{CA_CERTIFICATE, CA_KEY, HUB_CERTIFICATE, file_of, prepare, remove_keys};
use super::crl::{ListHead, RevokedCertificate};
use super::key::Passphrase;
use super::{Authority, NewAuthority, PkiError, files};

/// What a hub trusts.
#[derive(Debug)]
pub struct Authorities {
    issuing: Authority,
    retiring: Option<Authority>,
}

/// `pki/authorities.json`
#[derive(Debug, Serialize, Deserialize)]
struct Roles {
    v: u32,
    /// Number of the one that issues.
    issuing: u32,
    /// Number of the one that is trusted beside it.
    retiring: Option<u32>,
}

impl Authorities {
    /// Makes the authority of a new hub, and the hub's stamp key beside it.
    ///
    /// # Errors
    /// [`PkiError::Exists`] if there is one: an authority is never overwritten.
    pub fn init(hub_dir: &Path, new: &NewAuthority, now_utc_ns: i64) -> Result<Self, PkiError> {
        let folder = prepare(hub_dir)?;
        let made = Self {
            issuing: Authority::create(&folder, 1, new, now_utc_ns)?,
            retiring: None,
        };
        made.write_revocations(hub_dir, &[], 1, now_utc_ns.div_euclid(1_000_000_000))?;
        Ok(made)
    }

    /// Opens those of a hub. One whose key is under a passphrase is locked where there is none; the older one also where
    /// there is another, for nothing is issued under it any more.
    ///
    /// # Errors
    /// [`PkiError`]: missing, readable by others, damaged, another passphrase.
    pub fn open(hub_dir: &Path, passphrase: Option<&Passphrase>) -> Result<Self, PkiError> {
        let roles = Roles::read(hub_dir)?;
        let open = |number, passphrase| Authority::open_in(&folder(hub_dir), number, passphrase);
        let retiring = |number| {
            open(number, passphrase).or_else(|error| match passphrase {
                Some(_) => open(number, None),
                None => Err(error),
            })
        };
        Ok(Self {
            issuing: open(roles.issuing, passphrase)?,
            retiring: roles.retiring.map(retiring).transpose()?,
        })
    }

    /// The one that issues.
    pub fn issuing(&self) -> &Authority {
        &self.issuing
    }

    /// The one that is on its way out, if a rotation is under way.
    pub fn retiring(&self) -> Option<&Authority> {
        self.retiring.as_ref()
    }

    /// All that are trusted, the issuing one first.
    pub fn trusted(&self) -> impl Iterator<Item = &Authority> {
        std::iter::once(&self.issuing).chain(&self.retiring)
    }

    /// Makes a new authority that issues from now on; the one before is trusted until [`Authorities::retire`]. Who can't open
    /// its key can't rotate.
    ///
    /// # Errors
    /// [`PkiError::Rotation`] while one is under way; [`PkiError::Locked`], or another passphrase.
    pub fn rotate(hub_dir: &Path, new: &NewAuthority, now_utc_ns: i64) -> Result<(), PkiError> {
        let roles = Roles::read(hub_dir)?;
        let path = folder(hub_dir);
        Authority::open_in(&path, roles.issuing, new.passphrase.as_ref())?.check_unlocked()?;
        if let Some(retiring) = roles.retiring {
            return Err(PkiError::Rotation(format!(
                "authority {retiring} is still trusted from the last rotation; `marey ca retire` ends that first"
            )));
        }
        // One that was begun and not finished is passed over.
        let is_free = |number: &u32| {
            let files = [CA_KEY, CA_CERTIFICATE].map(|file| path.join(file_of(*number, file)));
            files.iter().all(|file| !file.exists())
        };
        let number = (roles.issuing + 1..=AUTHORITIES_MAX)
            .find(is_free)
            .ok_or_else(|| PkiError::Rotation(format!("a hub has at most {AUTHORITIES_MAX} authorities")))?;
        Authority::create(&path, number, new, now_utc_ns)?;
        Roles {
            v: 1,
            issuing: number,
            retiring: Some(roles.issuing),
        }
        .write(hub_dir)
    }

    /// Trusts the older authority no more. Its keys go by [`Authorities::remove_retired_keys`].
    ///
    /// # Errors
    /// [`PkiError::Rotation`] if none is.
    pub fn retire(hub_dir: &Path) -> Result<(), PkiError> {
        let roles = Roles::read(hub_dir)?;
        if roles.retiring.is_none() {
            return Err(PkiError::Rotation(
                "one authority is trusted, and there is none to retire; `marey ca rotate` makes a new one"
                    .into(),
            ));
        }
        Roles {
            retiring: None,
            ..roles
        }
        .write(hub_dir)
    }

    /// Removes the keys of all authorities before the one that issues which are not trusted any more.
    ///
    /// # Errors
    /// [`PkiError::File`]; what could be removed is.
    pub fn remove_retired_keys(hub_dir: &Path) -> Result<(), PkiError> {
        let roles = Roles::read(hub_dir)?;
        let retired = (1..roles.issuing).filter(|number| Some(*number) != roles.retiring);
        let removed = retired.map(|number| remove_keys(&folder(hub_dir), number));
        // Each is tried before the first error is told.
        removed.collect::<Vec<_>>().into_iter().collect()
    }

    /// Writes `pki/crl.pem`: a list for each authority that is not locked.
    ///
    /// # Errors
    /// [`PkiError::Locked`] if the issuing one is.
    pub fn write_revocations(
        &self,
        hub_dir: &Path,
        revoked: &[RevokedCertificate],
        number: u64,
        now_utc_s: i64,
    ) -> Result<(), PkiError> {
        let mut text = self.issuing.revocation_list(revoked, number, now_utc_s)?;
        for authority in self.retiring.iter().filter(|authority| !authority.is_locked()) {
            text += &authority.revocation_list(revoked, number, now_utc_s)?;
        }
        files::replace(
            &hub_dir.join("pki").join(REVOCATIONS_FILE),
            &text,
            files::CERTIFICATE_MODE,
        )
    }

    /// Where the certificate of the one that issues stands: what others are to trust.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn certificate_path(hub_dir: &Path) -> Result<PathBuf, PkiError> {
        let roles = Roles::read(hub_dir)?;
        Ok(folder(hub_dir).join(file_of(roles.issuing, CA_CERTIFICATE)))
    }

    /// Names in `pki/` of the certificates that stand there of authorities which are not trusted any more.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn retired_certificates(hub_dir: &Path) -> Result<Vec<String>, PkiError> {
        let roles = Roles::read(hub_dir)?;
        let retired = (1..roles.issuing).filter(|number| Some(*number) != roles.retiring);
        let files = |number| [CA_CERTIFICATE, HUB_CERTIFICATE].map(|file| file_of(number, file));
        Ok(retired.flat_map(files).collect())
    }

    /// Number and date of `pki/crl.pem`; none where there is none that can be read.
    pub fn list_head(hub_dir: &Path) -> Option<ListHead> {
        ListHead::read(&files::read(&hub_dir.join("pki").join(REVOCATIONS_FILE)).ok()?)
    }

    /// What is on the disk now, as hashes, to see later whether somebody changed it.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn on_disk(hub_dir: &Path) -> Result<Vec<Vec<u8>>, PkiError> {
        let roles = Roles::read(hub_dir)?;
        let mut texts = vec![serde_json::to_vec(&roles).unwrap_or_default()];
        for number in std::iter::once(roles.issuing).chain(roles.retiring) {
            for file in [CA_KEY, CA_CERTIFICATE, HUB_CERTIFICATE] {
                let path = folder(hub_dir).join(file_of(number, file));
                let text = files::read(&path).unwrap_or_default();
                texts.push(<sha2::Sha256 as sha2::Digest>::digest(text.as_bytes()).to_vec());
            }
        }
        Ok(texts)
    }
}

impl Roles {
    fn read(hub_dir: &Path) -> Result<Self, PkiError> {
        let path = hub_dir.join("pki").join(ROLES_FILE);
        let text = match files::read(&path) {
            Err(PkiError::Missing { .. }) => {
                return Ok(Self {
                    v: 1,
                    issuing: 1,
                    retiring: None,
                });
            }
            text => text?,
        };
        let damaged = |why: String| PkiError::Damaged {
            path: path.clone(),
            why,
        };
        let roles: Self = serde_json::from_str(&text).map_err(|e| damaged(e.to_string()))?;
        let known = 1..=AUTHORITIES_MAX;
        match roles.v {
            1 if known.contains(&roles.issuing) && roles.retiring.is_none_or(|n| known.contains(&n)) => {
                Ok(roles)
            }
            1 => Err(damaged(format!(
                "authorities are numbered from 1 to {AUTHORITIES_MAX}"
            ))),
            v => Err(damaged(format!("version {v}; this program knows version 1"))),
        }
    }

    fn write(&self, hub_dir: &Path) -> Result<(), PkiError> {
        let path = hub_dir.join("pki").join(ROLES_FILE);
        let text = serde_json::to_string(self).map_err(|e| PkiError::File {
            path: path.clone(),
            detail: e.to_string(),
        })?;
        files::replace(&path, &format!("{text}\n"), files::CERTIFICATE_MODE)
    }
}

fn folder(hub_dir: &Path) -> PathBuf {
    hub_dir.join("pki")
}

const ROLES_FILE: &str = "authorities.json";
const REVOCATIONS_FILE: &str = "crl.pem";
/// A rotation a month for eight years.
pub(super) const AUTHORITIES_MAX: u32 = 100;
