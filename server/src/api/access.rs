//! Who may do what, as the API asks it: behind a trait, so that the API knows neither users nor how tokens are kept.
//!
//! Does not own people. Every method may touch the disk: plain threads call them.

use std::fmt;
use std::net::IpAddr;

use marey_engine::Actor;

use super::problem::Problem;

/// Sessions are seen, devices too.
pub(crate) const DATA_VIEW: &str = "data.view";
/// Files are taken away.
pub(crate) const DATA_EXPORT: &str = "data.export";
/// A session is made.
pub(crate) const SESSION_CREATE: &str = "session.create";
/// A session is started, stopped, closed, annotated, compacted; media are handed in.
pub(crate) const SESSION_MANAGE: &str = "session.manage";
/// A device is revoked.
pub(crate) const DEVICE_MANAGE: &str = "device.manage";
/// What goes on in the hub itself is seen.
pub(crate) const HUB_MANAGE: &str = "hub.manage";
/// The audit log is read.
pub(crate) const AUDIT_VIEW: &str = "audit.view";

/// Somebody who has shown who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Principal {
    /// As the audit names them.
    pub name: String,
    /// `admin`, `researcher`, `analyst` or `viewer`.
    pub role: String,
    /// Who it is in the audit log.
    pub actor: Actor,
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
#[allow(dead_code, reason = "what only users' credentials can meet")]
pub(crate) enum Denied {
    /// The token is not one that is valid now.
    Unknown,
    /// Name and password do not fit, or the account is locked.
    Login,
    /// Known, and not allowed; what is lacking, for the caller.
    Lacks(String),
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

    /// Who it is, if they may: in a study, or (none) in any.
    ///
    /// # Errors
    /// [`Denied`].
    fn authorize(
        &self,
        token: &str,
        from: IpAddr,
        permission: &str,
        study: Option<&str>,
    ) -> Result<Principal, Denied>;

    /// Whether somebody who was let in may do it in this study. Denials of it are no event: it is asked of lists.
    fn sees(&self, who: &Principal, permission: &str, study: &str) -> bool;
}

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Unknown => Self::unauthenticated(),
            Denied::Login => Self::wrong_login(),
            Denied::Lacks(what) => Self::forbidden(what),
            Denied::Busy => Self::unavailable("too many log in at the same time; try again in a second", 1),
            Denied::Failed(error) => Self::internal(error),
        }
    }
}

/// A hub without people: nobody may do anything, and logins say so.
#[derive(Debug)]
pub(crate) struct Nobody;

impl Access for Nobody {
    fn login(&self, _: &str, _: &str, _: IpAddr) -> Result<Issued, Denied> {
        Err(Denied::Login)
    }

    fn logout(&self, _: &str, _: IpAddr) -> Result<(), Denied> {
        Err(Denied::Unknown)
    }

    fn authorize(&self, _: &str, _: IpAddr, _: &str, _: Option<&str>) -> Result<Principal, Denied> {
        Err(Denied::Unknown)
    }

    fn sees(&self, _: &Principal, _: &str, _: &str) -> bool {
        false
    }
}
