//! Users, tokens, API keys and studies over the control socket: for whoever looks after the hub, who needs no password here.

use marey_engine::AuditEvent;
use marey_format::{KeyName, StudyId, UserId};
use serde::{Deserialize, Serialize};

use super::verbs::Desk;
use crate::people::{KeyMade, KeyView, People, PeopleError, Secret, StudyView, TokenView, UserView};
use crate::permission::Role;

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum PeopleRequest {
    /// Adds a user.
    UserAdd {
        /// The name.
        user: UserId,
        /// What they are.
        role: Role,
        /// Their password.
        password: Secret,
    },
    /// Every user.
    Users,
    /// One user.
    UserShow {
        /// The name.
        user: UserId,
    },
    /// Sets a password; tokens end.
    UserPassword {
        /// The name.
        user: UserId,
        /// The new one.
        password: Secret,
    },
    /// Sets a role; tokens end.
    UserRole {
        /// The name.
        user: UserId,
        /// The new one.
        role: Role,
    },
    /// Lets a user in no more; tokens end.
    UserLock {
        /// The name.
        user: UserId,
    },
    /// Ends a lock, also one after failures.
    UserUnlock {
        /// The name.
        user: UserId,
    },
    /// Removes a user with all that is theirs here.
    UserRemove {
        /// The name.
        user: UserId,
    },
    /// Tokens that count.
    Tokens {
        /// Of one user; none for all.
        user: Option<UserId>,
    },
    /// Ends one token.
    TokenRevoke {
        /// As the list names it.
        token: String,
    },
    /// Ends every token of a user.
    TokensRevoke {
        /// The name.
        user: UserId,
    },
    /// Makes an API key.
    KeyCreate {
        /// Whose.
        user: UserId,
        /// Its name.
        key: KeyName,
        /// No more than these; none for all that the user may.
        permissions: Option<Vec<String>>,
        /// How long it is good; none for one without an end.
        days: Option<u32>,
    },
    /// API keys.
    Keys {
        /// Of one user; none for all.
        user: Option<UserId>,
    },
    /// Ends an API key.
    KeyRevoke {
        /// Whose.
        user: UserId,
        /// Its name.
        key: KeyName,
    },
    /// Makes a study.
    StudyCreate {
        /// Its name.
        study: StudyId,
        /// For people.
        description: String,
    },
    /// Every study.
    Studies,
    /// Lets a user into a study.
    StudyGrant {
        /// The study.
        study: StudyId,
        /// Who.
        user: UserId,
        /// As what.
        role: Role,
    },
    /// Lets a user out of it.
    StudyRevoke {
        /// The study.
        study: StudyId,
        /// Who.
        user: UserId,
    },
}

/// What it gives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "people", content = "with", rename_all = "snake_case")]
pub enum PeopleAnswer {
    /// Of all that concern one user.
    User(UserView),
    /// Of `Users`.
    Users(Vec<UserView>),
    /// Of `Tokens`.
    Tokens(Vec<TokenView>),
    /// Of `TokenRevoke` and `TokensRevoke`: how many ended.
    Ended(usize),
    /// Of `KeyCreate`.
    KeyMade(KeyMade),
    /// Of `KeyRevoke`.
    Key(KeyView),
    /// Of `Keys`.
    Keys(Vec<KeyView>),
    /// Of all that concern one study.
    Study(StudyView),
    /// Of `Studies`.
    Studies(Vec<StudyView>),
}

impl PeopleRequest {
    /// What the audit log has of it: action and object; none for what changes nothing.
    pub(super) fn audited(&self) -> Option<(&'static str, String)> {
        let of_user = |user: &UserId| format!("user/{user}");
        let of_key = |user: &UserId, key: &KeyName| format!("user/{user}/key/{key}");
        let of_study = |study: &StudyId| format!("study/{study}");
        match self {
            Self::UserAdd { user, .. } => Some(("user.add", of_user(user))),
            Self::UserPassword { user, .. } => Some(("user.password", of_user(user))),
            Self::UserRole { user, .. } => Some(("user.role", of_user(user))),
            Self::UserLock { user } => Some(("user.lock", of_user(user))),
            Self::UserUnlock { user } => Some(("user.unlock", of_user(user))),
            Self::UserRemove { user } => Some(("user.remove", of_user(user))),
            Self::TokenRevoke { token } => Some(("token.revoke", format!("token/{token}"))),
            Self::TokensRevoke { user } => Some(("token.revoke", of_user(user))),
            Self::KeyCreate { user, key, .. } => Some(("apikey.create", of_key(user, key))),
            Self::KeyRevoke { user, key } => Some(("apikey.revoke", of_key(user, key))),
            Self::StudyCreate { study, .. } => Some(("study.create", of_study(study))),
            Self::StudyGrant { study, .. } => Some(("study.grant", of_study(study))),
            Self::StudyRevoke { study, .. } => Some(("study.revoke", of_study(study))),
            Self::Users | Self::UserShow { .. } | Self::Tokens { .. } | Self::Keys { .. } | Self::Studies => {
                None
            }
        }
    }

    /// What else it has of it. Never a password.
    pub(super) fn detailed(&self, event: AuditEvent) -> AuditEvent {
        match self {
            Self::UserAdd { role, .. } | Self::UserRole { role, .. } => event.with("role", role.as_str()),
            Self::KeyCreate {
                permissions, days, ..
            } => event.with("permissions", permissions.clone()).with("days", *days),
            Self::StudyGrant { user, role, .. } => {
                event.with("user", user.as_str()).with("role", role.as_str())
            }
            Self::StudyRevoke { user, .. } => event.with("user", user.as_str()),
            _ => event,
        }
    }
}

/// Does what was asked.
pub(super) fn carry_out(desk: &Desk<'_>, request: PeopleRequest) -> Result<PeopleAnswer, String> {
    done(People::of(desk.store), request).map_err(|error| error.to_string())
}

fn done(people: People<'_>, request: PeopleRequest) -> Result<PeopleAnswer, PeopleError> {
    use PeopleAnswer as Answer;
    use PeopleRequest as Ask;
    Ok(match request {
        Ask::UserAdd { user, role, password } => Answer::User(people.add_user(&user, role, &password)?),
        Ask::Users => Answer::Users(people.users()?),
        Ask::UserShow { user } => Answer::User(people.show_user(&user)?),
        Ask::UserPassword { user, password } => Answer::User(people.set_password(&user, &password)?),
        Ask::UserRole { user, role } => Answer::User(people.set_role(&user, role)?),
        Ask::UserLock { user } => Answer::User(people.lock_user(&user)?),
        Ask::UserUnlock { user } => Answer::User(people.unlock_user(&user)?),
        Ask::UserRemove { user } => Answer::User(people.remove_user(&user)?),
        Ask::Tokens { user } => Answer::Tokens(people.tokens(user.as_ref())?),
        Ask::TokenRevoke { token } => Answer::Ended(people.end_token(&token)?),
        Ask::TokensRevoke { user } => Answer::Ended(people.end_tokens(&user)?),
        Ask::KeyCreate {
            user,
            key,
            permissions,
            days,
        } => Answer::KeyMade(people.create_key(&user, &key, permissions.as_deref(), days)?),
        Ask::Keys { user } => Answer::Keys(people.keys(user.as_ref())?),
        Ask::KeyRevoke { user, key } => Answer::Key(people.end_key(&user, &key)?),
        Ask::StudyCreate { study, description } => Answer::Study(people.create_study(&study, &description)?),
        Ask::Studies => Answer::Studies(people.studies()?),
        Ask::StudyGrant { study, user, role } => Answer::Study(people.grant(&study, &user, role)?),
        Ask::StudyRevoke { study, user } => Answer::Study(people.ungrant(&study, &user)?),
    })
}
