//! Users: added, shown, given another password or role, locked, removed.

use marey_engine::Entries;
use marey_format::UserId;

use super::password::{self, Secret, hash_of_token};
use super::record::{self, ATTEMPTS, Attempts, KEY, Key, TOKEN, Token, USER, User, VERSION};
use super::view::{UserView, utc};
use super::{People, PeopleError, refused, unknown_user};
use crate::permission::Role;

impl People<'_> {
    /// Adds a user.
    pub(crate) fn add_user(
        &self,
        user: &UserId,
        role: Role,
        password: &Secret,
    ) -> Result<UserView, PeopleError> {
        password::check(password, user.as_str()).map_err(PeopleError::Refused)?;
        let now = self.now();
        let made = User {
            v: VERSION,
            password: password::hash(password)?,
            role,
            grants: Default::default(),
            locked: false,
            created_utc_ns: now.utc_ns,
            password_utc_ns: now.utc_ns,
        };
        self.store.identity().transact(|entries| {
            let users = record::list_in::<User>(entries, USER)?;
            if users.len() >= USERS_MAX {
                return refused(format!("{USERS_MAX} users are the most that a hub has"));
            }
            if let Some((known, _)) = users
                .iter()
                .find(|(known, _)| known.eq_ignore_ascii_case(user.as_str()))
            {
                return refused(format!("there is a user {known} already"));
            }
            // What strangers tried before is nothing against who comes now.
            entries.remove(ATTEMPTS, &hash_of_token(user.as_str()))?;
            record::put(entries, USER, user.as_str(), &made)
        })?;
        self.show_user(user)
    }

    /// Every user, by name.
    pub(crate) fn users(&self) -> Result<Vec<UserView>, PeopleError> {
        let (tokens, keys) = (
            record::list::<Token>(self.store, TOKEN)?,
            record::list::<Key>(self.store, KEY)?,
        );
        let attempts = record::list::<Attempts>(self.store, ATTEMPTS)?;
        let now = self.now();
        let users = record::list::<User>(self.store, USER)?.into_iter();
        let views = users.map(|(name, user)| {
            let failed = attempts
                .iter()
                .any(|(_, found)| found.user.as_deref() == Some(name.as_str()) && found.lock(&now));
            let locked = match (user.locked, failed) {
                (true, _) => Some("by an admin".to_owned()),
                (false, true) => Some("after failures".to_owned()),
                (false, false) => None,
            };
            let tokens = tokens
                .iter()
                .filter(|(_, token)| token.user == name && !token.is_over(&now));
            let keys = keys
                .iter()
                .filter(|(_, key)| key.user == name && !key.is_over(&now));
            UserView {
                role: user.role,
                studies: user.grants,
                locked,
                created: utc(user.created_utc_ns),
                password_set: utc(user.password_utc_ns),
                tokens: tokens.count(),
                keys: keys.count(),
                user: name,
            }
        });
        Ok(views.collect())
    }

    /// One user.
    pub(crate) fn show_user(&self, user: &UserId) -> Result<UserView, PeopleError> {
        let mut users = self.users()?.into_iter();
        users
            .find(|known| known.user == user.as_str())
            .ok_or_else(|| unknown_user(user))
    }

    /// Gives a user another password; tokens end.
    pub(crate) fn set_password(&self, user: &UserId, password: &Secret) -> Result<UserView, PeopleError> {
        password::check(password, user.as_str()).map_err(PeopleError::Refused)?;
        let (hash, now) = (password::hash(password)?, self.now());
        self.change(user, |entries, found| {
            found.password = hash;
            found.password_utc_ns = now.utc_ns;
            end_tokens(entries, user.as_str())?;
            Ok(())
        })?;
        self.show_user(user)
    }

    /// Gives a user another role; tokens end.
    pub(crate) fn set_role(&self, user: &UserId, role: Role) -> Result<UserView, PeopleError> {
        self.change(user, |entries, found| {
            found.role = role;
            end_tokens(entries, user.as_str())?;
            Ok(())
        })?;
        self.show_user(user)
    }

    /// Lets a user in no more, until somebody unlocks; tokens end, and keys rest.
    pub(crate) fn lock_user(&self, user: &UserId) -> Result<UserView, PeopleError> {
        self.change(user, |entries, found| {
            found.locked = true;
            end_tokens(entries, user.as_str())?;
            Ok(())
        })?;
        self.show_user(user)
    }

    /// Ends a lock, of whichever kind.
    pub(crate) fn unlock_user(&self, user: &UserId) -> Result<UserView, PeopleError> {
        self.change(user, |entries, found| {
            found.locked = false;
            entries.remove(ATTEMPTS, &hash_of_token(user.as_str()))?;
            Ok(())
        })?;
        self.show_user(user)
    }

    /// Removes a user with tokens, keys and grants.
    pub(crate) fn remove_user(&self, user: &UserId) -> Result<UserView, PeopleError> {
        let gone = self.show_user(user)?;
        let is_last = |users: Vec<UserView>| {
            let mut admins = users.iter().filter(|known| known.role == Role::Admin);
            gone.role == Role::Admin && admins.all(|known| known.user == gone.user)
        };
        if is_last(self.users()?) {
            return Err(PeopleError::Refused(format!(
                "{user} is the last admin; add another first: `marey user add NAME --role admin`"
            )));
        }
        self.store.identity().transact(|entries| {
            if !entries.remove(USER, user.as_str())? {
                return Err(unknown_user(user));
            }
            end_tokens(entries, user.as_str())?;
            for (hash, key) in record::list_in::<Key>(entries, KEY)? {
                if key.user == user.as_str() {
                    entries.remove(KEY, &hash)?;
                }
            }
            entries.remove(ATTEMPTS, &hash_of_token(user.as_str()))?;
            Ok(())
        })?;
        Ok(gone)
    }
}

/// Ends the tokens of a user; how many.
pub(super) fn end_tokens(entries: &mut Entries<'_, '_>, user: &str) -> Result<usize, PeopleError> {
    let mut ended = 0;
    for (hash, token) in record::list_in::<Token>(entries, TOKEN)? {
        if token.user == user {
            entries.remove(TOKEN, &hash)?;
            ended += 1;
        }
    }
    Ok(ended)
}

const USERS_MAX: usize = 10_000;
