//! What is kept of people in the identity store, as format-spec's `catalog.md` has it: users with their grants, tokens, API
//! keys, studies, failures of late. One JSON text each.

use std::collections::{BTreeMap, BTreeSet};

use marey_engine::{Entries, StorageError, Store};
use marey_format::HubEpoch;
use marey_format::payload::WallReading;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::PeopleError;
use crate::permission::Role;

/// Kinds of entries.
pub(super) const USER: &str = "user";
pub(crate) const TOKEN: &str = "token";
pub(super) const KEY: &str = "apikey";
pub(super) const STUDY: &str = "study";
pub(super) const ATTEMPTS: &str = "attempts";

/// Version of all of them.
pub(super) const VERSION: u32 = 1;

/// A moment that a restart and a stepped clock leave as well known as can be.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Mark {
    #[serde(with = "marey_format::json::int")]
    pub utc_ns: i64,
    pub hub_epoch: HubEpoch,
    #[serde(with = "marey_format::json::int")]
    pub hub_ns: i64,
}

impl Mark {
    pub(super) fn of(wall: &WallReading) -> Self {
        Self {
            utc_ns: wall.utc_ns,
            hub_epoch: wall.hub_epoch,
            hub_ns: wall.hub_ns,
        }
    }

    /// What has gone by since: by hub time within a boot of the machine, else by the wall clock.
    pub(super) fn ago_ns(&self, now: &WallReading) -> i64 {
        match now.hub_epoch == self.hub_epoch {
            true => now.hub_ns.saturating_sub(self.hub_ns),
            false => now.utc_ns.saturating_sub(self.utc_ns).max(0),
        }
    }
}

/// A person; the key is the name.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct User {
    pub v: u32,
    /// A PHC string.
    pub password: String,
    pub role: Role,
    /// Roles in studies.
    #[serde(default)]
    pub grants: BTreeMap<String, Role>,
    /// Locked by somebody, until somebody unlocks.
    #[serde(default)]
    pub locked: bool,
    #[serde(with = "marey_format::json::int")]
    pub created_utc_ns: i64,
    #[serde(with = "marey_format::json::int")]
    pub password_utc_ns: i64,
}

/// What a login gave; the key is the SHA-256 of the token.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Token {
    pub v: u32,
    pub user: String,
    pub issued: Mark,
    #[serde(with = "marey_format::json::int")]
    pub life_ns: i64,
    /// The address that logged in.
    pub from: String,
}

impl Token {
    pub(super) fn is_over(&self, now: &WallReading) -> bool {
        self.issued.ago_ns(now) >= self.life_ns
    }

    pub(super) fn expires_utc_ns(&self) -> i64 {
        self.issued.utc_ns.saturating_add(self.life_ns)
    }
}

/// A key for a script; the key of the entry is the SHA-256 of it.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Key {
    pub v: u32,
    pub user: String,
    pub name: String,
    /// No more than these; none for all that the user may.
    #[serde(default)]
    pub only: Option<BTreeSet<String>>,
    pub issued: Mark,
    /// None for one that does not end by itself.
    #[serde(default)]
    pub life_s: Option<u64>,
}

impl Key {
    pub(super) fn is_over(&self, now: &WallReading) -> bool {
        self.life_ns()
            .is_some_and(|life_ns| self.issued.ago_ns(now) >= life_ns)
    }

    pub(super) fn expires_utc_ns(&self) -> Option<i64> {
        Some(self.issued.utc_ns.saturating_add(self.life_ns()?))
    }

    fn life_ns(&self) -> Option<i64> {
        let life_s = i64::try_from(self.life_s?).unwrap_or(i64::MAX);
        Some(life_s.saturating_mul(1_000_000_000))
    }
}

/// A study; the key is its name.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Study {
    pub v: u32,
    #[serde(default)]
    pub description: String,
    #[serde(with = "marey_format::json::int")]
    pub created_utc_ns: i64,
}

/// Failures of late to log in under a name; the key is the SHA-256 of the name, which may be anything.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Attempts {
    pub v: u32,
    /// The name, if it is a user's.
    #[serde(default)]
    pub user: Option<String>,
    pub failures: u32,
    pub last: Mark,
}

impl Attempts {
    /// Whether what is behind is long enough ago.
    pub(super) fn are_over(&self, now: &WallReading) -> bool {
        self.last.ago_ns(now) >= LOCK_NS
    }

    pub(super) fn lock(&self, now: &WallReading) -> bool {
        self.failures >= FAILURES_MAX && !self.are_over(now)
    }
}

/// Failures after which nobody gets in under a name.
pub(super) const FAILURES_MAX: u32 = 5;
/// For so long after the last of them.
pub(super) const LOCK_NS: i64 = 30 * 60 * 1_000_000_000;

/// Reads an entry.
pub(super) fn get<T: DeserializeOwned>(
    store: &Store,
    kind: &str,
    key: &str,
) -> Result<Option<T>, PeopleError> {
    let bytes = store.identity().get(kind, key)?;
    bytes.map(|bytes| parse(kind, key, &bytes)).transpose()
}

/// Reads all of a kind.
pub(super) fn list<T: DeserializeOwned>(store: &Store, kind: &str) -> Result<Vec<(String, T)>, PeopleError> {
    parse_all(kind, store.identity().list(kind)?)
}

/// Reads an entry within a change.
pub(super) fn get_in<T: DeserializeOwned>(
    entries: &mut Entries<'_, '_>,
    kind: &str,
    key: &str,
) -> Result<Option<T>, PeopleError> {
    let bytes = entries.get(kind, key)?;
    bytes.map(|bytes| parse(kind, key, &bytes)).transpose()
}

/// Reads all of a kind within a change.
pub(super) fn list_in<T: DeserializeOwned>(
    entries: &mut Entries<'_, '_>,
    kind: &str,
) -> Result<Vec<(String, T)>, PeopleError> {
    parse_all(kind, entries.list(kind)?)
}

/// Writes an entry.
pub(super) fn put<T: Serialize>(
    entries: &mut Entries<'_, '_>,
    kind: &str,
    key: &str,
    value: &T,
) -> Result<(), PeopleError> {
    let bytes = serde_json::to_vec(value).expect("plain fields and string keys");
    Ok(entries.put(kind, key, &bytes)?)
}

fn parse_all<T: DeserializeOwned>(
    kind: &str,
    found: Vec<(String, Vec<u8>)>,
) -> Result<Vec<(String, T)>, PeopleError> {
    let parsed = found.into_iter().map(|(key, bytes)| {
        let value = parse(kind, &key, &bytes)?;
        Ok((key, value))
    });
    parsed.collect()
}

fn parse<T: DeserializeOwned>(kind: &str, key: &str, bytes: &[u8]) -> Result<T, PeopleError> {
    serde_json::from_slice(bytes).map_err(|error| {
        let what = format!("{kind} {key}: {error}");
        PeopleError::Storage(StorageError::damaged("identity.redb", what))
    })
}
