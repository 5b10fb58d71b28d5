//! Users, tokens, keys and studies as they are shown: no secret, and nothing that one could be made of.

use std::collections::BTreeMap;

use marey_format::types::rfc3339;
use serde::{Deserialize, Serialize};

use super::password::Secret;
use super::record::{Key, Study, Token};
use crate::permission::Role;

/// A user as `user list` shows them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserView {
    /// The name.
    pub user: String,
    /// What they are where no grant says otherwise.
    pub role: Role,
    /// What they are in studies.
    pub studies: BTreeMap<String, Role>,
    /// Why they can't log in: `by an admin`, `after failures`; none if they can.
    pub locked: Option<String>,
    /// UTC.
    pub created: String,
    /// When the password was set, UTC.
    pub password_set: String,
    /// Tokens that count now.
    pub tokens: usize,
    /// API keys that count now.
    pub keys: usize,
}

/// A token as `token list` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenView {
    /// What it is ended by; it opens nothing.
    pub token: String,
    /// Whose.
    pub user: String,
    /// The address that logged in.
    pub from: String,
    /// UTC.
    pub issued: String,
    /// UTC.
    pub expires: String,
}

/// An API key as `apikey list` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyView {
    /// Its name, among those of the user.
    pub key: String,
    /// Whose.
    pub user: String,
    /// No more than these; none for all that the user may.
    pub permissions: Option<Vec<String>>,
    /// UTC.
    pub issued: String,
    /// UTC; none for one that does not end by itself.
    pub expires: Option<String>,
    /// Whether it is past that.
    pub over: bool,
}

/// An API key that was just made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyMade {
    /// Shown once, here.
    pub secret: Secret,
    /// What it is.
    #[serde(flatten)]
    pub view: KeyView,
}

/// A study as `study list` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StudyView {
    /// Its name.
    pub study: String,
    /// For people.
    pub description: String,
    /// UTC.
    pub created: String,
    /// Who is let in, as what.
    pub users: BTreeMap<String, Role>,
    /// Sessions that are in it.
    pub sessions: usize,
}

/// UTC, from nanoseconds.
pub(super) fn utc(utc_ns: i64) -> String {
    rfc3339(utc_ns.div_euclid(1_000))
}

/// What a token is called where it is listed: enough of its hash to name it.
pub(super) fn id(hash: &str) -> String {
    hash.chars().take(ID_CHARS).collect()
}

pub(super) fn token(hash: &str, token: &Token) -> TokenView {
    TokenView {
        token: id(hash),
        user: token.user.clone(),
        from: token.from.clone(),
        issued: utc(token.issued.utc_ns),
        expires: utc(token.expires_utc_ns()),
    }
}

pub(super) fn key(key: &Key, over: bool) -> KeyView {
    KeyView {
        key: key.name.clone(),
        user: key.user.clone(),
        permissions: key.only.as_ref().map(|only| only.iter().cloned().collect()),
        issued: utc(key.issued.utc_ns),
        expires: key.expires_utc_ns().map(utc),
        over,
    }
}

pub(super) fn study(name: &str, study: &Study, users: BTreeMap<String, Role>, sessions: usize) -> StudyView {
    StudyView {
        study: name.to_owned(),
        description: study.description.clone(),
        created: utc(study.created_utc_ns),
        users,
        sessions,
    }
}

const ID_CHARS: usize = 16;
