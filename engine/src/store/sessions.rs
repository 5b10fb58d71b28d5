//! Sessions: created, recording, stopping, sealed, closed. Each change is durable when the call returns.

use super::{Slot, Store};
use crate::compact::{
    AuditFact, CompactError, Compacted, Generation, Progress, ReceiptSigner, Retired, Witness,
    compact_witnessed, remove_old, roll,
};
use crate::error::{SessionError, StorageError};
use crate::session::{NewSession, Session, SessionState};
use crate::state::StreamVersions;
use crate::time::HubInstant;
use marey_format::types::hex;
use marey_format::{DeviceId, SessionId};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

/// A published generation.
#[derive(Clone, Debug)]
pub struct Sealed {
    pub session: Session,
    /// What stands there now; `new` says whether this call made it.
    pub compacted: Compacted,
}

/// Why a session was not sealed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error(transparent)]
    Compact(#[from] CompactError),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl Store {
    /// Makes a session. Nothing is recorded before it is started.
    pub fn create_session(&self, new: NewSession) -> Result<Session, SessionError> {
        let mut inner = self.inner();
        inner.check()?;
        for known in inner.sessions.keys() {
            if *known == new.id {
                return Err(SessionError::Exists(new.id));
            }
            if known.as_str().eq_ignore_ascii_case(new.id.as_str()) {
                return Err(SessionError::CaseAlone {
                    wanted: new.id,
                    found: known.clone(),
                });
            }
        }
        let session = Session::new(new);
        let dir = Session::dir(&session.id);
        crate::disk::create_dirs(&*self.disk, &dir.join("logs")).map_err(self.io("making", &dir))?;
        session.write(&*self.disk)?;
        let slot = Slot {
            session: session.clone(),
            versions: StreamVersions::default(),
            loaded: true,
            late: false,
            annotated: None,
            published: Arc::default(),
        };
        inner.sessions.insert(session.id.clone(), slot);
        self.catalog.put(&session, || {
            inner.sessions.values().map(|slot| slot.session.clone()).collect()
        });
        Ok(session)
    }

    /// Starts recording. The session's time is anchored to UTC here, once.
    pub fn start_session(&self, id: &SessionId) -> Result<Session, SessionError> {
        let (now, wall) = (self.clock.now(), self.clock.wall());
        self.change(id, |session| {
            if session.state != SessionState::Created {
                return Err(session.state_error("start", "created"));
            }
            session.state = SessionState::Recording;
            session.started = Some(now.into());
            session.anchor = Some(wall);
            Ok(())
        })
    }

    /// Stops recording: no new captures, late frames still come in.
    pub fn stop_session(&self, id: &SessionId) -> Result<Session, SessionError> {
        let now = self.clock.now();
        let session = self.change(id, |session| {
            if session.state != SessionState::Recording {
                return Err(session.state_error("stop", "recording"));
            }
            session.state = SessionState::Stopping;
            session.stopped = Some(now.into());
            Ok(())
        })?;
        self.inner().live.retain(|_, live| live != id);
        Ok(session)
    }

    /// Ends a session for good: nothing is taken any more.
    pub fn close_session(&self, id: &SessionId) -> Result<Session, SessionError> {
        let wall = self.clock.wall();
        self.change(id, |session| {
            if session.state != SessionState::Sealed {
                return Err(session.state_error("close", "sealed"));
            }
            session.state = SessionState::Closed;
            session.closed = Some(wall);
            Ok(())
        })
    }

    /// Receipts that are published from now on are signed by this. Said once, by whoever has the hub's keys.
    pub fn sign_receipts(&self, signer: Arc<dyn ReceiptSigner>) {
        if self.signer.set(signer).is_err() {
            tracing::warn!("receipts have a signer already, and keep it");
        }
    }

    /// Seals a session's logs and publishes the next generation: Parquet, manifest, receipt. Long: it reads all of the
    /// session. Frames that come meanwhile are for the generation after.
    pub fn seal_session(&self, id: &SessionId, progress: &dyn Fn(Progress)) -> Result<Sealed, SealError> {
        self.seal_session_as(id, Generation::IfNew, progress)
    }

    /// [`Store::seal_session`], with a say in whether what was published already is made again from the logs: for Parquet that
    /// was damaged.
    pub fn seal_session_as(
        &self,
        id: &SessionId,
        how: Generation,
        progress: &dyn Fn(Progress),
    ) -> Result<Sealed, SealError> {
        let published = self.published(id)?;
        let _alone = published.lock().unwrap_or_else(PoisonError::into_inner);
        let (session, annotated) = {
            let mut inner = self.inner();
            let slot = inner
                .sessions
                .get_mut(id)
                .ok_or_else(|| SessionError::Unknown(id.clone()))?;
            let may = match slot.session.state {
                SessionState::Stopping | SessionState::Sealed => true,
                // No more samples are taken, but what was can be aligned anew, and annotated.
                SessionState::Closed => how == Generation::Always || slot.annotated.is_some(),
                _ => false,
            };
            if !may {
                return Err(slot.session.state_error("seal", "stopping or sealed").into());
            }
            // Frames from here on are late again, and what is said from here on is for the generation after.
            slot.late = false;
            (slot.session.clone(), slot.annotated.take())
        };
        let result = self.publish(&session, how, progress);
        if result.is_err()
            && let Some(slot) = self.inner().sessions.get_mut(id)
        {
            slot.late = slot.session.state.takes_late_frames();
            slot.annotated = slot.annotated.or(annotated);
        }
        result
    }

    /// What is held while a session's generation is published, or its logs are retired.
    pub(super) fn published(&self, id: &SessionId) -> Result<Arc<Mutex<()>>, SessionError> {
        let inner = self.inner();
        let slot = inner.sessions.get(id);
        slot.map(|slot| slot.published.clone())
            .ok_or_else(|| SessionError::Unknown(id.clone()))
    }

    /// Does something while no generation of a session is published and none of its logs are retired; none where one of both
    /// goes on, which may take minutes.
    ///
    /// # Errors
    /// [`SessionError::Unknown`].
    pub fn between_generations<T>(
        &self,
        id: &SessionId,
        act: impl FnOnce() -> T,
    ) -> Result<Option<T>, SessionError> {
        let published = self.published(id)?;
        let _alone = match published.try_lock() {
            Ok(alone) => alone,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(None),
        };
        Ok(Some(act()))
    }

    fn publish(
        &self,
        session: &Session,
        how: Generation,
        progress: &dyn Fn(Progress),
    ) -> Result<Sealed, SealError> {
        self.flush_session(&session.id, true)?;
        // What the journal no longer has is proven to stand where it stands: a recovery after a kill must not move what
        // this generation is made of.
        self.flush_all(false)?;
        self.write_barrier()?;
        // A cut of the audit log's end shows by this. A log that can't be read now keeps nothing from being published.
        let audited = self.audit_head().unwrap_or_else(|error| {
            tracing::error!(session = %session.id, %error, "the receipt will not name the audit log's newest record");
            None
        });
        let audited = audited.map(|head| AuditFact {
            hub: hex(&self.hub_id),
            head,
        });
        let signer = self.signer.get().map(|signer| &**signer);
        let witness = Witness { audited, signer };
        let compacted = compact_witnessed(&*self.disk, session, &witness, &self.options, how, progress)?;
        let session = self.sealed_as(&session.id, compacted.generation)?;
        Ok(Sealed { session, compacted })
    }

    /// A generation was published: the session says so.
    pub(super) fn sealed_as(&self, id: &SessionId, generation: u32) -> Result<Session, SessionError> {
        self.change(id, |session| {
            if session.state == SessionState::Stopping {
                session.state = SessionState::Sealed;
            }
            session.generation = generation;
            Ok(())
        })
    }

    /// Writes what waits for a session's logs, so that readers of its folder see it.
    pub fn flush_session_logs(&self, id: &SessionId) -> Result<(), StorageError> {
        self.flush_session(id, false)
    }

    /// Writes what a session that is being recorded has so far as rolling parts under `live/`, for those who can't
    /// wait; they go when it is sealed. Not at the same time as a seal of the same session.
    pub fn roll_session(&self, id: &SessionId, progress: &dyn Fn(Progress)) -> Result<(), SealError> {
        let session = self.session(id)?;
        if session.state != SessionState::Recording {
            return Err(session.state_error("roll", "recording").into());
        }
        self.flush_session(id, false)?;
        roll(&*self.disk, &session, &self.options, progress)?;
        Ok(())
    }

    /// Removes what earlier generations of a session left aside for those who were still reading. Call it an hour
    /// after a seal.
    pub fn remove_old_generations(&self, id: &SessionId) -> Result<(), StorageError> {
        remove_old(&*self.disk, id)
    }

    /// One session.
    pub fn session(&self, id: &SessionId) -> Result<Session, SessionError> {
        let inner = self.inner();
        inner
            .sessions
            .get(id)
            .map(|slot| slot.session.clone())
            .ok_or_else(|| SessionError::Unknown(id.clone()))
    }

    /// Every session, in order of names.
    pub fn sessions(&self) -> Vec<Session> {
        self.inner()
            .sessions
            .values()
            .map(|slot| slot.session.clone())
            .collect()
    }

    /// Whether frames came since the newest generation was sealed.
    pub fn has_late_frames(&self, id: &SessionId) -> bool {
        let inner = self.inner();
        let slot = inner.sessions.get(id);
        slot.is_some_and(|slot| slot.late && slot.session.state == SessionState::Sealed)
    }

    /// Somebody said something of a session: the generation that is made next has it, and of a sealed or closed session there
    /// is one to be made.
    pub fn annotated(&self, id: &SessionId) {
        let now = self.clock.now();
        if let Some(slot) = self.inner().sessions.get_mut(id) {
            slot.annotated = Some(now);
        }
    }

    /// Whether something was said of a session that its newest generation does not have.
    pub fn is_to_be_annotated(&self, id: &SessionId) -> bool {
        let inner = self.inner();
        inner
            .sessions
            .get(id)
            .is_some_and(|slot| slot.annotated.is_some())
    }

    /// The sessions that are published without what was said of them last, and when that was.
    pub fn to_be_annotated(&self) -> Vec<(SessionId, HubInstant)> {
        let inner = self.inner();
        let slots = inner
            .sessions
            .values()
            .filter(|slot| matches!(slot.session.state, SessionState::Sealed | SessionState::Closed));
        slots
            .filter_map(|slot| Some((slot.session.id.clone(), slot.annotated?)))
            .collect()
    }

    /// The devices that are not known to have handed in everything: of the roster those without a log, and those with a
    /// stream that was not ended.
    pub fn owing(&self, id: &SessionId) -> Result<Vec<DeviceId>, SessionError> {
        let session = self.session(id)?;
        self.ensure_loaded(id)?;
        if session.state == SessionState::Closed && Retired::read(&*self.disk, &Session::dir(id))?.is_some() {
            // What they had handed in was all published before their logs went.
            return Ok(Vec::new());
        }
        let mut owing: BTreeSet<DeviceId> = session.roster.iter().flatten().cloned().collect();
        let inner = self.inner();
        for log in inner.logs.iter().filter(|log| log.session == *id) {
            let epochs = log.state.epochs();
            let ended = epochs
                .iter()
                .all(|epoch| epoch.streams.values().all(|stream| stream.end.is_some()));
            match ended && epochs.iter().any(|epoch| !epoch.streams.is_empty()) {
                true => owing.remove(&log.device),
                false => owing.insert(log.device.clone()),
            };
        }
        Ok(owing.into_iter().collect())
    }

    /// Changes a session, durably or not at all.
    fn change(
        &self,
        id: &SessionId,
        change: impl FnOnce(&mut Session) -> Result<(), SessionError>,
    ) -> Result<Session, SessionError> {
        let mut inner = self.inner();
        inner.check()?;
        let slot = inner
            .sessions
            .get_mut(id)
            .ok_or_else(|| SessionError::Unknown(id.clone()))?;
        let mut session = slot.session.clone();
        change(&mut session)?;
        session.write(&*self.disk)?;
        slot.session = session.clone();
        self.catalog.put(&session, || {
            inner.sessions.values().map(|slot| slot.session.clone()).collect()
        });
        Ok(session)
    }
}
