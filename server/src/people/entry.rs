//! Who gets in: a name and a password for a token, failures that lock, and whose a token or key is.
//!
//! Nobody outside can tell a user from a name that is nobody's: whoever is unknown is compared with a password too, their
//! failures are counted in the same way and with the same sync, and the answer is the same.

use std::net::IpAddr;

use marey_engine::{Actor, Entries};
use marey_format::payload::WallReading;

use super::keys::KEY_PREFIX;
use super::password::{NOBODY, Secret, hash_of_token, is_right};
use super::record::{
    self, ATTEMPTS, Attempts, FAILURES_MAX, KEY, Key, Mark, TOKEN, Token, USER, User, VERSION,
};
use super::{People, PeopleError};
use crate::permission::{Rights, Role};

/// Somebody who logged in.
pub(super) struct Entered {
    pub token: Secret,
    pub role: Role,
    pub expires_utc_ns: i64,
}

/// Why somebody did not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stopped {
    /// Name and password do not fit.
    Wrong {
        /// Whether the name is a user's.
        is_user: bool,
        /// Whether that was one failure too many.
        locks: bool,
    },
    /// Too many failures of late, or somebody locked the user.
    Locked {
        /// Whether the name is a user's.
        is_user: bool,
    },
}

/// Whose a token or key is.
pub(super) struct Known {
    pub user: String,
    pub rights: Rights,
    pub actor: Actor,
    /// None for a key that does not end by itself.
    pub expires_utc_ns: Option<i64>,
}

impl People<'_> {
    /// Lets somebody in who has the password.
    pub(super) fn enter(
        &self,
        name: &str,
        password: &str,
        from: IpAddr,
        life_ns: i64,
    ) -> Result<Result<Entered, Stopped>, PeopleError> {
        let kept = record::get::<User>(self.store, USER, name)?.map(|user| user.password);
        let fits = is_right(password, kept.as_deref().unwrap_or(NOBODY))?;
        let (secret, now) = (Secret::drawn(TOKEN_PREFIX)?, self.now());
        self.store.identity().transact(|entries| {
            let user = record::get_in::<User>(entries, USER, name)?;
            let is_user = user.is_some();
            let attempts = hash_of_token(name);
            let before = record::get_in::<Attempts>(entries, ATTEMPTS, &attempts)?;
            let before = before.filter(|before| !before.are_over(&now));
            if before.as_ref().is_some_and(|before| before.lock(&now)) {
                return Ok(Err(Stopped::Locked { is_user }));
            }
            // Another password may have been set while this one was compared.
            let user = user.filter(|user| fits && Some(&user.password) == kept.as_ref());
            match user {
                Some(user) if !user.locked => {
                    entries.remove(ATTEMPTS, &attempts)?;
                    let token = Token {
                        v: VERSION,
                        user: name.to_owned(),
                        issued: Mark::of(&now),
                        life_ns,
                        from: from.to_string(),
                    };
                    make_room_for_token(entries, name, &now)?;
                    record::put(entries, TOKEN, &hash_of_token(secret.tell()), &token)?;
                    Ok(Ok(Entered {
                        expires_utc_ns: token.expires_utc_ns(),
                        role: user.role,
                        token: secret,
                    }))
                }
                locked => {
                    let failures = before.map_or(0, |before| before.failures) + 1;
                    make_room_for_attempts(entries, &now)?;
                    let failed = Attempts {
                        v: VERSION,
                        user: is_user.then(|| name.to_owned()),
                        failures,
                        last: Mark::of(&now),
                    };
                    record::put(entries, ATTEMPTS, &attempts, &failed)?;
                    Ok(Err(match locked {
                        Some(_) => Stopped::Locked { is_user },
                        None => Stopped::Wrong {
                            is_user,
                            locks: failures == FAILURES_MAX,
                        },
                    }))
                }
            }
        })
    }

    /// Whose a token or key is, if it counts.
    pub(super) fn who(&self, shown: &str) -> Result<Option<Known>, PeopleError> {
        let (hash, now) = (hash_of_token(shown), self.now());
        let (name, only, key, expires_utc_ns) = match shown.starts_with(KEY_PREFIX) {
            true => match record::get::<Key>(self.store, KEY, &hash)?.filter(|key| !key.is_over(&now)) {
                Some(key) => {
                    let expires = key.expires_utc_ns();
                    (key.user, key.only, Some(key.name), expires)
                }
                None => return Ok(None),
            },
            false => {
                match record::get::<Token>(self.store, TOKEN, &hash)?.filter(|token| !token.is_over(&now)) {
                    Some(token) => {
                        let expires = token.expires_utc_ns();
                        (token.user, None, None, Some(expires))
                    }
                    None => return Ok(None),
                }
            }
        };
        let user = record::get::<User>(self.store, USER, &name)?.filter(|user| !user.locked);
        let Some(user) = user else { return Ok(None) };
        Ok(Some(Known {
            actor: match key {
                None => Actor::User(name.clone()),
                Some(key) => Actor::Key {
                    user: name.clone(),
                    key,
                },
            },
            rights: Rights {
                role: user.role,
                grants: user.grants,
                only,
            },
            user: name,
            expires_utc_ns,
        }))
    }

    /// Ends a token that somebody shows; whether it was there.
    pub(super) fn leave(&self, token: &str) -> Result<bool, PeopleError> {
        Ok(self.store.identity().remove(TOKEN, &hash_of_token(token))?)
    }
}

/// Tokens that are over go, and the oldest of a user who has many.
fn make_room_for_token(
    entries: &mut Entries<'_, '_>,
    user: &str,
    now: &WallReading,
) -> Result<(), PeopleError> {
    let mut of_user = Vec::new();
    for (hash, token) in record::list_in::<Token>(entries, TOKEN)? {
        if token.is_over(now) {
            entries.remove(TOKEN, &hash)?;
        } else if token.user == user {
            of_user.push((token.issued.utc_ns, hash));
        }
    }
    of_user.sort();
    let more = (of_user.len() + 1).saturating_sub(TOKENS_PER_USER_MAX);
    for (_, hash) in of_user.into_iter().take(more) {
        entries.remove(TOKEN, &hash)?;
    }
    Ok(())
}

/// Failures that are over go; of names that are nobody's, the oldest when there are many. No flood of invented names makes a
/// hub forget who tried a user's.
fn make_room_for_attempts(entries: &mut Entries<'_, '_>, now: &WallReading) -> Result<(), PeopleError> {
    let mut strangers = Vec::new();
    for (key, attempts) in record::list_in::<Attempts>(entries, ATTEMPTS)? {
        if attempts.are_over(now) {
            entries.remove(ATTEMPTS, &key)?;
        } else if attempts.user.is_none() {
            strangers.push((std::cmp::Reverse(attempts.last.ago_ns(now)), key));
        }
    }
    strangers.sort();
    let more = (strangers.len() + 1).saturating_sub(STRANGERS_MAX);
    for (_, key) in strangers.into_iter().take(more) {
        entries.remove(ATTEMPTS, &key)?;
    }
    Ok(())
}

const TOKEN_PREFIX: &str = "marey_token_";
const TOKENS_PER_USER_MAX: usize = 32;
/// Names that are nobody's and of which failures are remembered.
const STRANGERS_MAX: usize = 1_000;
