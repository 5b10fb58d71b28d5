//! Who may do what, as the API asks it: behind a trait, so that the API knows neither users nor how tokens are kept
//! (`people` does).
//!
//! Does not own people. Every method may touch the disk: plain threads call them.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use marey_engine::Actor;

use super::problem::Problem;
pub(crate) use crate::people::Secret;
pub(crate) use crate::permission::{
    AUDIT_VIEW, DATA_EXPORT, DATA_VIEW, DEVICE_MANAGE, HUB_MANAGE, Rights, SESSION_CREATE, SESSION_MANAGE,
};

/// Somebody who has shown who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Principal {
    /// The user, whose limits these requests count against.
    pub name: String,
    /// What they may do, and where.
    pub rights: Arc<Rights>,
    /// Who it is in the audit log.
    pub actor: Actor,
    /// When what they showed ends, RFC 3339, UTC; none for a key without an end.
    pub expires: Option<String>,
}

/// A token that was just made.
#[derive(Clone)]
pub(crate) struct Issued {
    pub token: String,
    pub user: String,
    pub role: String,
    /// RFC 3339, UTC.
    pub expires: String,
}

/// Why somebody may not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// The token is not one that is valid now.
    Unknown,
    /// Name and password do not fit, or the account is locked.
    Login,
    /// Known, and not allowed; what is lacking, for the caller.
    Lacks(String),
    /// What is asked for makes no sense; why, for the caller.
    Refused(String),
    /// Too many log in at once.
    Busy,
    /// It can't be told now.
    Failed(String),
}

/// Who may do what.
pub(crate) trait Access: fmt::Debug + Send + Sync {
    /// A token for a user who shows the password.
    ///
    /// # Errors
    /// [`Denied`].
    fn login(&self, user: &str, password: &str, from: IpAddr) -> Result<Issued, Denied>;

    /// Ends a token.
    ///
    /// # Errors
    /// [`Denied`].
    fn logout(&self, token: &str, from: IpAddr) -> Result<(), Denied>;

    /// Gives whoever shows a token and their password another one; their tokens end.
    ///
    /// # Errors
    /// [`Denied`].
    fn set_password(&self, token: &str, old: &str, new: &Secret, from: IpAddr) -> Result<(), Denied>;

    /// Who it is.
    ///
    /// # Errors
    /// [`Denied`].
    fn identify(&self, token: &str, from: IpAddr) -> Result<Principal, Denied>;

    /// Who it is, if they may: in a study, or (none) in any.
    ///
    /// # Errors
    /// [`Denied`].
    fn authorize(
        &self,
        token: &str,
        from: IpAddr,
        permission: &'static str,
        study: Option<&str>,
    ) -> Result<Principal, Denied>;

    /// Whether somebody who was let in may do it in this study. Denials of it are no event: it is asked of lists.
    fn sees(&self, who: &Principal, permission: &str, study: &str) -> bool;

    /// Somebody who was let in may not do this: it is an event.
    fn denied(&self, who: &Principal, permission: &'static str, study: Option<&str>);
}

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Unknown => Self::unauthenticated(),
            Denied::Login => Self::wrong_login(),
            Denied::Lacks(what) => Self::forbidden(what),
            Denied::Refused(why) => Self::invalid(why),
            Denied::Busy => Self::unavailable("too many log in at the same time; try again in a second", 1),
            Denied::Failed(error) => Self::internal(error),
        }
    }
}
