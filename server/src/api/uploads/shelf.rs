//! The uploads that are under way, and who has which.
//!
//! Owns: one writer of an upload at a time, what becomes of an upload whose writer goes away, and the end of a whole one.
//! Does not own: what is asked for (`uploads`), bytes and files (the engine's `media`).
//!
//! Invariants: whoever takes an upload puts it back or ends it, whatever becomes of the request; nothing touches the disk
//! under the lock of all uploads; folders of uploads appear and go one at a time; what has come is thrown away only where
//! it can't ever be stored.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use marey_engine::media::{self, MediaError, Upload, UploadFacts};
use marey_engine::{AuditEvent, AuditOutcome, SessionState};

use super::kind_of;
use crate::api::access::{Principal, SESSION_MANAGE};
use crate::api::problem::Problem;
use crate::api::work::{Asked, lacks, study_of};
use crate::jobs::Job;
use crate::state::HubState;

/// The uploads that somebody asked for since the start. The others stand on the disk.
#[derive(Debug, Default)]
pub(crate) struct Shelf {
    known: Mutex<HashMap<String, Arc<Slot>>>,
    folders: Mutex<()>,
}

/// Where one upload is found.
#[derive(Debug)]
pub(super) struct Slot {
    by: String,
    place: Mutex<Place>,
}

/// Where an upload is.
#[derive(Debug, Default)]
enum Place {
    /// In memory, and all of it synced.
    Here(Box<Upload>, Job),
    /// On the disk alone.
    Disk,
    /// With whoever took it.
    #[default]
    Taken,
}

/// An upload that was taken. Dropped, it is put back.
#[derive(Debug)]
pub(super) struct Taken {
    state: Arc<HubState>,
    who: Principal,
    id: String,
    slot: Arc<Slot>,
    held: Place,
}

impl Shelf {
    /// Held while folders of uploads appear or go.
    pub(super) fn folders(&self) -> MutexGuard<'_, ()> {
        self.folders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The slot of an upload that is on the disk.
    fn slot(&self, facts: &UploadFacts) -> Arc<Slot> {
        let made = || {
            Arc::new(Slot {
                by: facts.by.clone(),
                place: Mutex::new(Place::Disk),
            })
        };
        let mut known = self.known();
        known.entry(facts.upload.clone()).or_insert_with(made).clone()
    }

    /// An upload whose folder is gone.
    fn forget(&self, id: &str) {
        self.known().remove(id);
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Arc<Slot>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Place {
        std::mem::take(&mut *self.place())
    }
}

impl Asked<'_> {
    /// Takes the upload of this id, if it is the caller's: from memory, or from the disk.
    pub(super) fn take(&self, id: &str) -> Result<Taken, Problem> {
        let shelf = &self.state.api.uploads;
        let found = shelf.known().get(id).cloned();
        let slot = match found {
            Some(slot) => slot,
            None if is_id(id) => {
                let facts = media::facts(&**self.state.store.disk(), id)?;
                shelf.slot(&facts.ok_or_else(unknown)?)
            }
            None => return Err(unknown()),
        };
        if slot.by != self.who.name {
            return Err(unknown());
        }
        let mut taken = Taken {
            state: self.state.clone(),
            who: self.who.clone(),
            id: id.to_owned(),
            held: slot.take(),
            slot,
        };
        match taken.held {
            Place::Here(..) => Ok(taken),
            Place::Taken => Err(busy()),
            // Long where much has come: all of it is hashed again. Whoever else asks meanwhile is told to wait.
            Place::Disk => {
                let store = &self.state.store;
                let Some(upload) = Upload::resume(store.disk(), store.options(), id)? else {
                    taken.ended();
                    return Err(unknown());
                };
                let job = self.job(upload.facts());
                taken.held = Place::Here(Box::new(upload), job);
                Ok(taken)
            }
        }
    }

    /// An upload that was just begun.
    pub(super) fn put(&self, upload: Upload) {
        let slot = self.state.api.uploads.slot(upload.facts());
        let job = self.job(upload.facts());
        *slot.place() = Place::Here(Box::new(upload), job);
    }

    fn job(&self, facts: &UploadFacts) -> Job {
        let object = format!("session/{}/media/{}", facts.session, facts.name);
        let job = self.state.jobs.begin("upload", object);
        job.runs();
        job.step("receiving", facts.synced_bytes, facts.bytes);
        job
    }

    /// Throws away what was left alone for too long, and says how many are left. Whoever calls it holds the folders.
    pub(super) fn sweep(&self) -> Result<usize, Problem> {
        let disk = &**self.state.store.disk();
        let idle_ns = i64::from(self.state.config().media.upload_idle_hours_max) * 3_600_000_000_000;
        let before = self.state.clock.wall().utc_ns.saturating_sub(idle_ns);
        let mut left = 0;
        for facts in media::uploads(disk)? {
            if facts.touched_utc_ns >= before {
                left += 1;
                continue;
            }
            let shelf = &self.state.api.uploads;
            match shelf.slot(&facts).take() {
                // Somebody goes on with it now.
                Place::Taken => left += 1,
                held => {
                    media::discard(disk, &facts.upload)?;
                    shelf.forget(&facts.upload);
                    if let Place::Here(_, job) = held {
                        job.failed("it was left alone for too long");
                    }
                }
            }
        }
        Ok(left)
    }
}

impl Taken {
    /// Bytes that have come.
    pub(super) fn offset(&mut self) -> Result<u64, Problem> {
        Ok(self.held()?.0.offset())
    }

    /// All that it will have.
    pub(super) fn bytes(&mut self) -> Result<u64, Problem> {
        Ok(self.held()?.0.facts().bytes)
    }

    /// Takes the next bytes, and makes durable what came now and then, so that no break costs much.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), Problem> {
        let (upload, job) = self.held()?;
        upload.append(bytes)?;
        job.step("receiving", upload.offset(), upload.facts().bytes);
        let is_much = upload.unsettled_bytes() >= SETTLED_BYTES;
        self.state.metrics.upload_bytes.add(bytes.len() as u64);
        match is_much {
            true => self.settle(),
            false => Ok(()),
        }
    }

    /// Makes durable what came; a whole file goes to its session. Says how many bytes have come.
    pub(super) fn end(mut self) -> Result<u64, Problem> {
        self.settle()?;
        let (upload, _) = self.held()?;
        let (offset, is_whole) = (upload.offset(), upload.is_whole());
        if is_whole {
            self.store()?;
        }
        Ok(offset)
    }

    /// Throws it away.
    pub(super) fn discard(&mut self, why: impl Display) -> Result<(), Problem> {
        let state = self.state.clone();
        let discarded = {
            let _one = state.api.uploads.folders();
            media::discard(&**state.store.disk(), &self.id)
        };
        if let Place::Here(_, job) = self.ended() {
            job.failed(why);
        }
        Ok(discarded?)
    }

    /// Throws away what can't ever be stored. That it was begun stands in the audit: so does that nothing came of it.
    fn fail(&mut self, why: impl Display) -> Result<(), Problem> {
        let why = why.to_string();
        let facts = self.held()?.0.facts();
        let object = format!("session/{}/media/{}", facts.session, facts.name);
        let event = AuditEvent::new(self.who.actor.clone(), "media.upload")
            .on(object)
            .outcome(AuditOutcome::Failed)
            .with("why", why.as_str());
        if let Err(error) = self.state.store.audit(&event) {
            tracing::error!(%error, why, "that an upload failed could not be audited");
        }
        self.discard(why)
    }

    fn settle(&mut self) -> Result<(), Problem> {
        let now_utc_ns = self.state.clock.wall().utc_ns;
        let (upload, _) = self.held()?;
        let Err(error) = upload.settle(now_utc_ns) else {
            return Ok(());
        };
        if upload.is_lost() {
            // Nobody goes on from there. Where it can't be removed either, the offset that was told before still holds.
            let _left = self.discard(&error);
        }
        Err(error.into())
    }

    fn store(&mut self) -> Result<(), Problem> {
        let state = self.state.clone();
        let _one_at_a_time = state.api.beside.lock().unwrap_or_else(PoisonError::into_inner);
        self.may_be_stored()?;
        let now_utc_ns = state.clock.wall().utc_ns;
        let (upload, _) = self.held()?;
        let kind = match kind_of(&upload.head()?) {
            Ok(kind) => kind,
            Err(problem) => {
                self.fail(problem.detail())?;
                return Err(problem);
            }
        };
        let stored = {
            let _one = state.api.uploads.folders();
            upload.finish(kind, now_utc_ns)
        };
        match stored {
            Ok(fact) => {
                let (user, file, sha256) = (&fact.by, &fact.path, &fact.sha256);
                tracing::info!(user, file, sha256, "media stored");
                if let Place::Here(_, job) = self.ended() {
                    job.done(format!("{}, {} bytes, sha256 {sha256}", fact.kind, fact.bytes));
                }
                Ok(())
            }
            Err(error @ (MediaError::Hash { .. } | MediaError::Exists { .. })) => {
                self.fail(&error)?;
                Err(error.into())
            }
            // It may pass: what has come waits for the next who asks.
            Err(error) => Err(error.into()),
        }
    }

    /// Much may have changed since it was begun.
    fn may_be_stored(&mut self) -> Result<(), Problem> {
        let id = self.held()?.0.facts().session.clone();
        let session = self.state.store.session(&id)?;
        if session.state == SessionState::Closed {
            return Err(Problem::conflict(format!(
                "session {id} is closed: nothing more is taken"
            )));
        }
        let study = study_of(&session);
        let access = &self.state.api.access;
        if access.sees(&self.who, SESSION_MANAGE, &study) {
            return Ok(());
        }
        access.denied(&self.who, SESSION_MANAGE, Some(&study));
        Err(lacks(SESSION_MANAGE, &study))
    }

    fn held(&mut self) -> Result<(&mut Upload, &Job), Problem> {
        match &mut self.held {
            Place::Here(upload, job) => Ok((upload, job)),
            Place::Disk | Place::Taken => Err(unknown()),
        }
    }

    /// There is nothing to put back.
    fn ended(&mut self) -> Place {
        self.state.api.uploads.forget(&self.id);
        std::mem::take(&mut self.held)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        match std::mem::take(&mut self.held) {
            Place::Here(upload, job) if upload.unsettled_bytes() == 0 => {
                *self.slot.place() = Place::Here(upload, job);
            }
            // What is not synced is cut off by whoever goes on.
            Place::Here(..) | Place::Disk => *self.slot.place() = Place::Disk,
            Place::Taken => {}
        }
    }
}

/// Whether it is the id of an upload: it becomes a name of a folder.
fn is_id(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn unknown() -> Problem {
    Problem::not_found("no such upload; it may have been finished, given up, or left alone for too long")
}

fn busy() -> Problem {
    Problem::other(
        axum::http::StatusCode::LOCKED,
        "busy",
        "The upload is being written to",
        "another request writes to it, or the hub reads it again; try again in a moment",
    )
}

/// Bytes that may be lost by a break: they are sent again.
const SETTLED_BYTES: u64 = 32 << 20;
