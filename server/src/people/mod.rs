//! The people of a hub: users with passwords and roles, tokens, API keys for scripts, studies and who is let into them.
//!
//! ```text
//! password   secrets: made, hashed, compared                 (no state)
//! record     what the identity store has of people
//! users, keys, studies   the verbs of the people who look after a hub
//! entry      who gets in: logins, failures, locks, tokens
//! door       the API's `Access` over all that                -> entry
//! ```
//!
//! Owns these records, in `identity.redb`. Does not own what a permission lets somebody do (the API's handlers ask), nor the
//! audit of verbs (`control`): only what happens at the door is audited here.
//!
//! Invariants: a change is durable when it returns; a token counts for as long as its entry is there, is not over, and its user
//! is not locked; nobody is told whether a name is a user's; passwords, tokens and keys stand nowhere in the clear.

mod door;
mod entry;
mod keys;
mod password;
mod record;
mod studies;
mod users;
mod view;

#[cfg(test)]
mod tests;

pub(crate) use door::Door;
pub use password::Secret;
pub(crate) use record::TOKEN;
pub use view::{KeyMade, KeyView, StudyView, TokenView, UserView};

use marey_engine::{Entries, StorageError, Store};
use marey_format::payload::WallReading;
use marey_format::{StudyId, UserId};
use record::User;

/// Why something was not done: one sentence each.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PeopleError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("{0}")]
    Refused(String),
    /// Random bytes, a hash.
    #[error("{0}")]
    System(String),
}

/// The people of one store, whether a hub runs on it or not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct People<'a> {
    store: &'a Store,
}

impl<'a> People<'a> {
    pub(crate) fn of(store: &'a Store) -> Self {
        Self { store }
    }

    fn now(&self) -> WallReading {
        self.store.clock().wall()
    }

    /// Changes one user, who must be there.
    fn change<T>(
        &self,
        user: &UserId,
        change: impl FnOnce(&mut Entries<'_, '_>, &mut User) -> Result<T, PeopleError>,
    ) -> Result<T, PeopleError> {
        self.store.identity().transact(|entries| {
            let mut found = record::get_in::<User>(entries, record::USER, user.as_str())?
                .ok_or_else(|| unknown_user(user))?;
            let done = change(entries, &mut found)?;
            record::put(entries, record::USER, user.as_str(), &found)?;
            Ok(done)
        })
    }
}

fn unknown_user(user: &UserId) -> PeopleError {
    PeopleError::Refused(format!(
        "there is no user {user}; `marey user list` shows those that there are"
    ))
}

fn unknown_study(study: &StudyId) -> PeopleError {
    PeopleError::Refused(format!(
        "there is no study {study}; `marey study create {study}` makes it"
    ))
}

fn refused<T>(why: impl Into<String>) -> Result<T, PeopleError> {
    Err(PeopleError::Refused(why.into()))
}
