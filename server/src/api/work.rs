//! From async to plain threads: a request's work touches the disk, and is done where it may block nobody.
//!
//! Every request that shows a token passes here: who it is, whether they may, how much they ask of late, and then the work.
//!
//! Invariants: no work before the caller is known and allowed; at most `api.workers_max` at once, the others wait for
//! their turn in the order in which they came; an unknown session is told only to those who may see sessions at all.

use std::net::SocketAddr;
use std::sync::Arc;

use marey_engine::{AuditEvent, Session};
use marey_format::{SessionId, StudyId};

use super::access::Principal;
use super::extract::{Caller, Hub};
use super::problem::Problem;
use crate::control::{self, Request, Response, SessionSpec, Undone};
use crate::keeping::STUDY;
pub(crate) use crate::keeping::{DEFAULT_STUDY, study_of};
use crate::state::HubState;

/// Somebody who may, and what they ask it of.
pub(crate) struct Asked<'a> {
    pub state: &'a Arc<HubState>,
    pub who: Principal,
    pub peer: SocketAddr,
}

impl Hub {
    /// Does work for a caller who has the permission somewhere.
    pub(crate) async fn work<T: Send + 'static>(
        &self,
        caller: Caller,
        permission: &'static str,
        act: impl FnOnce(&Asked<'_>) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let state = self.0.clone();
        self.plainly(move || {
            let who = state
                .api
                .access
                .authorize(&caller.token, caller.peer.ip(), permission, None)?;
            state.api.limits.user(&who.name)?;
            act(&Asked {
                state: &state,
                who,
                peer: caller.peer,
            })
        })
        .await
    }

    /// Does work on a session, for a caller who has the permission in its study.
    pub(crate) async fn work_on<T: Send + 'static>(
        &self,
        caller: Caller,
        permission: &'static str,
        session: SessionId,
        act: impl FnOnce(&Asked<'_>, Session) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let state = self.0.clone();
        self.plainly(move || {
            let found = state.store.session(&session);
            let study = found.as_ref().ok().map(study_of);
            let who =
                state
                    .api
                    .access
                    .authorize(&caller.token, caller.peer.ip(), permission, study.as_deref())?;
            state.api.limits.user(&who.name)?;
            let asked = Asked {
                state: &state,
                who,
                peer: caller.peer,
            };
            act(&asked, found?)
        })
        .await
    }

    /// Does something on a plain thread when it is its turn.
    pub(crate) async fn plainly<T: Send + 'static>(
        &self,
        act: impl FnOnce() -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let turn = self.0.api.workers.clone().acquire_owned().await;
        let turn = turn.map_err(|_| Problem::unavailable("the hub goes down", 10))?;
        let done = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            act()
        });
        done.await
            .map_err(|error| Problem::internal(format!("a worker of the API panicked: {error}")))?
    }
}

impl Asked<'_> {
    /// Whether whoever asks may do this in a study.
    ///
    /// # Errors
    /// They may not.
    pub(crate) fn allowed(&self, permission: &'static str, study: &str) -> Result<(), Problem> {
        let access = &self.state.api.access;
        if access.sees(&self.who, permission, study) {
            return Ok(());
        }
        access.denied(&self.who, permission, Some(study));
        Err(lacks(permission, study))
    }

    /// Has a verb of the control socket carried out, which audits it. It refuses with a sentence.
    ///
    /// # Errors
    /// That sentence.
    pub(crate) fn order(&self, request: Request) -> Result<Response, Problem> {
        control::order(self.state, request, self.who.actor.clone(), self.peer.ip()).map_err(|undone| {
            match undone {
                Undone::NotAudited(error) => error.into(),
                Undone::Refused(why) => Problem::conflict(why),
            }
        })
    }

    /// The study that a new session is to be in.
    ///
    /// # Errors
    /// What it names is no name of a study.
    pub(crate) fn study_of_spec(&self, spec: &SessionSpec) -> Result<String, Problem> {
        match spec.metadata.get(STUDY) {
            None => Ok(DEFAULT_STUDY.to_owned()),
            Some(study) => match StudyId::new(study.as_str()) {
                Ok(study) => Ok(study.as_str().to_owned()),
                Err(error) => Err(Problem::invalid(error)),
            },
        }
    }

    /// Says in the audit that something is read that is told of. Reads go on where it can't be written.
    pub(crate) fn noted(&self, action: &str, object: String) {
        if let Err(problem) = self.audited(action, Some(object)) {
            tracing::error!(action, why = problem.detail(), "a read could not be audited");
        }
    }

    /// Says in the audit that it is being done.
    ///
    /// # Errors
    /// The audit can't be written: then it is not to be done.
    pub(crate) fn audited(&self, action: &str, object: Option<String>) -> Result<(), Problem> {
        let mut event = AuditEvent::new(self.who.actor.clone(), action);
        event.object = object;
        let event = event.with("peer", self.peer.ip().to_string());
        self.state.store.audit(&event)?;
        Ok(())
    }
}

/// Somebody may not do this in a study.
pub(crate) fn lacks(permission: &str, study: &str) -> Problem {
    Problem::forbidden(format!(
        "{permission} in study {study} is not granted; an admin can grant it"
    ))
}
