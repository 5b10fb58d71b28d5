//! The door of the API: its [`Access`] over the people of the hub. What is let in is audited before it is, what is not is
//! counted (`tally`).
//!
//! Invariants: at most so many passwords are compared at once, since each takes memory and time: the others are told to come
//! again; a token whose login can't be audited is not given.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use marey_engine::{Actor, AuditEvent, Store};
use marey_format::UserId;
use tokio::sync::Semaphore;

use super::entry::{Entered, Known, Stopped};
use super::view::{id, utc};
use super::{People, PeopleError, Secret};
use crate::api::{Access, Denied, Issued, Principal};
use crate::metrics::{Metrics, SignIn};
use crate::tally::{Refused, Tally};

/// Who is let in to a running hub.
pub(crate) struct Door {
    store: Arc<Store>,
    tally: Arc<Tally>,
    metrics: Arc<Metrics>,
    token_life_ns: i64,
    comparing: Semaphore,
}

impl Door {
    pub(crate) fn new(
        store: Arc<Store>,
        tally: Arc<Tally>,
        metrics: Arc<Metrics>,
        token_minutes: u32,
    ) -> Arc<Self> {
        Arc::new(Self {
            store,
            tally,
            metrics,
            token_life_ns: i64::from(token_minutes) * 60_000_000_000,
            comparing: Semaphore::new(COMPARED_AT_ONCE),
        })
    }

    fn people(&self) -> People<'_> {
        People::of(&self.store)
    }

    fn known(&self, token: &str, from: IpAddr) -> Result<Known, Denied> {
        if let Some(known) = self.people().who(token)? {
            return Ok(known);
        }
        self.metrics.signed_in(SignIn::Refused);
        self.note(from, "token.show", None, "no token or key that counts");
        Err(Denied::Unknown)
    }

    fn note(&self, from: IpAddr, action: &'static str, object: Option<String>, why: &str) {
        self.tally.note(Refused {
            actor: Actor::Peer(from.to_string()),
            action,
            object,
            why: why.to_owned(),
        });
    }

    /// Counts who was not let in. A name that is nobody's may be a password that was typed into the wrong field: it is told
    /// nowhere.
    fn stopped(&self, user: &str, from: IpAddr, stopped: Stopped) {
        let of = |is_user: bool| is_user.then(|| format!("user/{user}"));
        let (how, object, why) = match stopped {
            Stopped::Wrong { is_user: true, .. } => (SignIn::Refused, of(true), "wrong password"),
            Stopped::Wrong { is_user: false, .. } => (SignIn::Refused, None, "no such user"),
            Stopped::Locked { is_user } => (SignIn::Locked, of(is_user), "locked"),
        };
        self.metrics.signed_in(how);
        self.note(from, LOGIN, object, why);
        if let Stopped::Wrong { is_user, locks: true } = stopped {
            self.note(
                from,
                "user.lock",
                of(is_user),
                "too many failures: locked for half an hour",
            );
        }
    }

    /// Writes down who logged in, and from where; a login that can't be is none.
    fn let_in(&self, user: &str, from: IpAddr, entered: Entered) -> Result<Issued, Denied> {
        let expires = utc(entered.expires_utc_ns);
        let token = entered.token.tell();
        let event = AuditEvent::new(Actor::User(user.to_owned()), LOGIN)
            .on(format!("user/{user}"))
            .with("peer", from.to_string())
            .with("token", id(&super::password::hash_of_token(token)))
            .with("expires", expires.clone());
        if let Err(error) = self.store.audit(&event) {
            self.people().leave(token)?;
            return Err(Denied::Failed(format!("the login can't be audited: {error}")));
        }
        self.metrics.signed_in(SignIn::Accepted);
        Ok(Issued {
            token: token.to_owned(),
            user: user.to_owned(),
            role: entered.role.to_string(),
            expires,
        })
    }
}

impl Access for Door {
    fn login(&self, user: &str, password: &str, from: IpAddr) -> Result<Issued, Denied> {
        let Ok(_turn) = self.comparing.try_acquire() else {
            return Err(Denied::Busy);
        };
        match self.people().enter(user, password, from, self.token_life_ns)? {
            Ok(entered) => self.let_in(user, from, entered),
            Err(stopped) => {
                self.stopped(user, from, stopped);
                Err(Denied::Login)
            }
        }
    }

    fn logout(&self, token: &str, from: IpAddr) -> Result<(), Denied> {
        let known = self.known(token, from)?;
        if matches!(known.actor, Actor::Key { .. }) {
            let why = "an API key is not logged out; `marey apikey revoke` ends it";
            return Err(Denied::Lacks(why.to_owned()));
        }
        // Whoever wants to go goes, whether or not it can be written down.
        self.people().leave(token)?;
        let event = AuditEvent::new(known.actor, "user.logout")
            .on(format!("user/{}", known.user))
            .with("peer", from.to_string());
        if let Err(error) = self.store.audit(&event) {
            tracing::error!(%error, "a logout could not be audited");
        }
        Ok(())
    }

    fn set_password(&self, token: &str, old: &str, new: &Secret, from: IpAddr) -> Result<(), Denied> {
        let known = self.known(token, from)?;
        if matches!(known.actor, Actor::Key { .. }) {
            return Err(Denied::Lacks(
                "a password is changed by whoever logged in, not by an API key".to_owned(),
            ));
        }
        new.check(&known.user).map_err(Denied::Refused)?;
        let Ok(_turn) = self.comparing.try_acquire() else {
            return Err(Denied::Busy);
        };
        let (user, people) = (&known.user, self.people());
        // A token that somebody else got hold of is no reason to guess on and on: failures count here as at a login.
        let entered = match people.enter(user, old, from, self.token_life_ns)? {
            Ok(entered) => entered,
            Err(stopped) => {
                self.stopped(user, from, stopped);
                return Err(Denied::Login);
            }
        };
        let event = AuditEvent::new(known.actor, "user.password")
            .on(format!("user/{user}"))
            .with("peer", from.to_string());
        if let Err(error) = self.store.audit(&event) {
            people.leave(entered.token.tell())?;
            return Err(Denied::Failed(format!(
                "a new password can't be audited: {error}"
            )));
        }
        let id = UserId::new(user.as_str()).map_err(|error| Denied::Failed(error.to_string()))?;
        people.set_password(&id, new)?;
        Ok(())
    }

    fn identify(&self, token: &str, from: IpAddr) -> Result<Principal, Denied> {
        let known = self.known(token, from)?;
        Ok(Principal {
            name: known.user,
            rights: Arc::new(known.rights),
            actor: known.actor,
            expires: known.expires_utc_ns.map(utc),
        })
    }

    fn authorize(
        &self,
        token: &str,
        from: IpAddr,
        permission: &'static str,
        study: Option<&str>,
    ) -> Result<Principal, Denied> {
        let who = self.identify(token, from)?;
        let may = match study {
            Some(study) => who.rights.allows(permission, study),
            None => who.rights.allows_somewhere(permission),
        };
        if may {
            return Ok(who);
        }
        let place = study.map(|study| format!("study {study}"));
        let lacks = format!(
            "{permission} is not granted to {} in {}; an admin can grant it",
            who.actor,
            place.as_deref().unwrap_or("any study")
        );
        self.denied(&who, permission, study);
        Err(Denied::Lacks(lacks))
    }

    fn sees(&self, who: &Principal, permission: &str, study: &str) -> bool {
        who.rights.allows(permission, study)
    }

    fn denied(&self, who: &Principal, permission: &'static str, study: Option<&str>) {
        self.tally.note(Refused {
            actor: who.actor.clone(),
            action: permission,
            object: study.map(|study| format!("study/{study}")),
            why: format!("not granted to {}", who.rights.role),
        });
    }
}

impl From<PeopleError> for Denied {
    fn from(error: PeopleError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door").finish_non_exhaustive()
    }
}

const LOGIN: &str = "user.login";
/// Passwords that are compared at once, each in 19 MiB.
const COMPARED_AT_ONCE: usize = 2;
