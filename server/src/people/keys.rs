//! Tokens that are ended, and API keys: secrets of users that no password stands behind.

use std::collections::BTreeSet;

use marey_format::{KeyName, UserId};

use super::password::{Secret, hash_of_token};
use super::record::{self, KEY, Key, Mark, TOKEN, Token, USER, VERSION};
use super::users::end_tokens;
use super::view::{self, KeyMade, KeyView, TokenView};
use super::{People, PeopleError, refused, unknown_user};
use crate::permission;

impl People<'_> {
    /// Tokens that count now: of a user, or of all.
    pub(crate) fn tokens(&self, user: Option<&UserId>) -> Result<Vec<TokenView>, PeopleError> {
        let now = self.now();
        let tokens = record::list::<Token>(self.store, TOKEN)?.into_iter();
        let mut views: Vec<TokenView> = tokens
            .filter(|(_, token)| !token.is_over(&now) && user.is_none_or(|user| token.user == user.as_str()))
            .map(|(hash, token)| view::token(&hash, &token))
            .collect();
        views.sort_by(|a, b| (&a.user, &a.issued).cmp(&(&b.user, &b.issued)));
        Ok(views)
    }

    /// Ends one token, by what it is called in the list.
    pub(crate) fn end_token(&self, id: &str) -> Result<usize, PeopleError> {
        let is_one = id.len() >= TOKEN_ID_CHARS_MIN && id.bytes().all(|b| b.is_ascii_hexdigit());
        if !is_one {
            return refused("a token is named by the digits that `marey token list` shows");
        }
        self.store.identity().transact(|entries| {
            let tokens = record::list_in::<Token>(entries, TOKEN)?.into_iter();
            let found: Vec<String> = tokens
                .map(|(hash, _)| hash)
                .filter(|hash| hash.starts_with(id))
                .collect();
            match &found[..] {
                [hash] => entries.remove(TOKEN, hash)?,
                [] => {
                    return refused(format!(
                        "there is no token {id}; `marey token list` shows those that count"
                    ));
                }
                _ => return refused(format!("more than one token begins with {id}; give more digits")),
            };
            Ok(1)
        })
    }

    /// Ends all tokens of a user; how many.
    pub(crate) fn end_tokens(&self, user: &UserId) -> Result<usize, PeopleError> {
        self.change(user, |entries, _| end_tokens(entries, user.as_str()))
    }

    /// Makes an API key.
    pub(crate) fn create_key(
        &self,
        user: &UserId,
        name: &KeyName,
        only: Option<&[String]>,
        days: Option<u32>,
    ) -> Result<KeyMade, PeopleError> {
        let only: Option<BTreeSet<String>> = only.map(|only| only.iter().cloned().collect());
        let known = |permission: &String| permission::ALL.contains(&permission.as_str());
        if let Some(wrong) = only.iter().flatten().find(|permission| !known(permission)) {
            let all = permission::ALL.join(", ");
            return refused(format!(
                "{:?} is no permission; there are {all}",
                marey_format::types::plain(wrong)
            ));
        }
        if only.as_ref().is_some_and(BTreeSet::is_empty) {
            return refused("a key that may do nothing is of no use; name a permission");
        }
        if days.is_some_and(|days| !(1..=DAYS_MAX).contains(&days)) {
            return refused(format!("a key is good for 1 to {DAYS_MAX} days, or has no end"));
        }
        let secret = Secret::drawn(KEY_PREFIX)?;
        let key = Key {
            v: VERSION,
            user: user.as_str().to_owned(),
            name: name.as_str().to_owned(),
            only,
            issued: Mark::of(&self.now()),
            life_s: days.map(|days| u64::from(days) * 86_400),
        };
        self.store.identity().transact(|entries| {
            if entries.get(USER, user.as_str())?.is_none() {
                return Err(unknown_user(user));
            }
            let keys = record::list_in::<Key>(entries, KEY)?;
            let of_user = keys.iter().filter(|(_, known)| known.user == key.user);
            if of_user
                .clone()
                .any(|(_, known)| known.name.eq_ignore_ascii_case(&key.name))
            {
                return refused(format!(
                    "{user} has a key {name} already; `marey apikey revoke` ends it"
                ));
            }
            if of_user.count() >= KEYS_PER_USER_MAX {
                return refused(format!("{user} has {KEYS_PER_USER_MAX} keys, which is the most"));
            }
            record::put(entries, KEY, &hash_of_token(secret.tell()), &key)
        })?;
        Ok(KeyMade {
            secret,
            view: view::key(&key, false),
        })
    }

    /// API keys: of a user, or of all.
    pub(crate) fn keys(&self, user: Option<&UserId>) -> Result<Vec<KeyView>, PeopleError> {
        let now = self.now();
        let keys = record::list::<Key>(self.store, KEY)?.into_iter();
        let mut views: Vec<KeyView> = keys
            .filter(|(_, key)| user.is_none_or(|user| key.user == user.as_str()))
            .map(|(_, key)| view::key(&key, key.is_over(&now)))
            .collect();
        views.sort_by(|a, b| (&a.user, &a.key).cmp(&(&b.user, &b.key)));
        Ok(views)
    }

    /// Ends an API key.
    pub(crate) fn end_key(&self, user: &UserId, name: &KeyName) -> Result<KeyView, PeopleError> {
        let now = self.now();
        self.store.identity().transact(|entries| {
            let mut keys = record::list_in::<Key>(entries, KEY)?.into_iter();
            let found = keys.find(|(_, key)| key.user == user.as_str() && key.name == name.as_str());
            let Some((hash, key)) = found else {
                return refused(format!(
                    "{user} has no key {name}; `marey apikey list` shows those that there are"
                ));
            };
            entries.remove(KEY, &hash)?;
            Ok(view::key(&key, key.is_over(&now)))
        })
    }
}

/// What an API key begins with: a token is none.
pub(super) const KEY_PREFIX: &str = "marey_key_";
const KEYS_PER_USER_MAX: usize = 64;
const DAYS_MAX: u32 = 3_650;
const TOKEN_ID_CHARS_MIN: usize = 8;
