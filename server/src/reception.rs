//! What takes frames in: the store, the queue to it, who is attached, and the sessions as connections see them.
//!
//! No socket, no key of TLS, no thread: a hub in simulated time has the very same. Owns nothing that lasts: the store does.
//! The list of sessions here is a copy for connections to look at, renewed at each change.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use marey_engine::compact::{Generation, Progress};
use marey_engine::time::HubClock;
use marey_engine::{SealError, Sealed, Session, SessionError, SessionState, Store};
use marey_format::SessionId;
use marey_format::clock::StampKey;

use crate::attached::Attached;
use crate::commands::Commands;
use crate::config::HubConfig;
use crate::ingest::Ingest;
use crate::jobs::Jobs;
use crate::judge::Judge;
use crate::metrics::Metrics;
use crate::quarantine::Quarantine;
use crate::registrar::Office;
use crate::tally::Tally;
use crate::time_service::TimeKeys;
use crate::turns::Turns;

/// The part of a hub that connections talk to.
pub(crate) struct Reception {
    pub store: Arc<Store>,
    pub clock: Arc<dyn HubClock>,
    pub stamp_key: Arc<StampKey>,
    pub time_keys: Arc<TimeKeys>,
    pub attached: Attached,
    pub commands: Commands,
    pub judge: Judge,
    pub ingest: Ingest,
    pub metrics: Arc<Metrics>,
    pub quarantine: Quarantine,
    pub jobs: Arc<Jobs>,
    /// Of handshakes: here, where it is seen whether frames come.
    pub turns: Turns,
    /// What was refused, on its way into the audit log.
    pub tally: Arc<Tally>,
    /// Who issues certificates; none where there are none.
    pub office: Option<Arc<Office>>,
    config: RwLock<Arc<HubConfig>>,
    sessions: RwLock<Arc<Vec<Session>>>,
    sealing: Mutex<()>,
}

impl Reception {
    pub(crate) fn new(
        config: HubConfig,
        store: Arc<Store>,
        stamp_key: Arc<StampKey>,
        ingest: Ingest,
        metrics: Arc<Metrics>,
        office: Option<Arc<Office>>,
        tally: Arc<Tally>,
    ) -> Self {
        let clock = store.clock().clone();
        let reception = Self {
            attached: Attached::new(config.limits.heartbeat_ms),
            commands: Commands::default(),
            judge: Judge::default(),
            config: RwLock::new(Arc::new(config)),
            quarantine: Quarantine::of(&store, clock.now()),
            jobs: Jobs::new(&clock),
            turns: Turns::default(),
            store,
            time_keys: TimeKeys::new(stamp_key.clone(), clock.clone()),
            clock,
            stamp_key,
            ingest,
            metrics,
            office,
            tally,
            sessions: RwLock::default(),
            sealing: Mutex::default(),
        };
        reception.refresh_sessions();
        reception
    }

    /// Why the store takes no samples now; `None` if it does.
    pub(crate) fn why_no_intake(&self) -> Option<String> {
        let health = self.store.health();
        if let Some(first) = health.poisoned {
            return Some(format!(
                "storage stopped after a failure: {first}; nothing was acknowledged since; restart the hub, it recovers \
                 all that was; if it stops again, look at the disk with `dmesg` and `marey selftest disk`"
            ));
        }
        let floor = health.below_floor.then(|| {
            format!(
                "{} bytes are free, below the floor of {}; make room and intake goes on",
                health.space.free_bytes, health.floor_bytes
            )
        });
        floor.or_else(|| self.ingest.stalled())
    }

    /// What the hub runs with now. It can change while it runs: ask each time, keep nothing of it.
    pub(crate) fn config(&self) -> Arc<HubConfig> {
        self.config.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on it runs with this.
    pub(crate) fn set_config(&self, config: HubConfig) {
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
    }

    /// The sessions that are not closed, in the order in which they were started; those that were not come last.
    pub(crate) fn sessions(&self) -> Arc<Vec<Session>> {
        self.sessions
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Call after every change of a session: connections are told.
    pub(crate) fn refresh_sessions(&self) {
        let mut sessions = self.store.sessions();
        sessions.retain(|session| session.state != SessionState::Closed);
        sessions.sort_by_key(|session| session.started.map_or(i64::MAX, |at| at.hub_ns));
        *self.sessions.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(sessions);
        self.attached.sessions_changed();
    }

    /// Changes sessions, and tells everybody whether or not it worked.
    pub(crate) fn change_session(
        &self,
        change: impl FnOnce(&Store) -> Result<Session, SessionError>,
    ) -> Result<Session, SessionError> {
        let changed = change(&self.store);
        self.refresh_sessions();
        changed
    }

    /// Seals a session, one at a time. Long: call it from a plain thread. What was
    /// durable before is safe after it.
    pub(crate) fn seal(&self, id: &SessionId, progress: &dyn Fn(Progress)) -> Result<Sealed, SealError> {
        self.seal_as(id, Generation::IfNew, progress)
    }

    /// The same, with a say in whether what was published already is made again.
    pub(crate) fn seal_as(
        &self,
        id: &SessionId,
        how: Generation,
        progress: &dyn Fn(Progress),
    ) -> Result<Sealed, SealError> {
        let job = self
            .jobs
            .begin(self.kind_of_seal(id, how), format!("session/{id}"));
        let _one_at_a_time = self.sealing.lock().unwrap_or_else(PoisonError::into_inner);
        job.runs();
        let progress = |step: Progress| {
            job.compacts(step);
            progress(step);
        };
        let logs: Vec<_> = self
            .attached
            .logs_of(id)
            .into_iter()
            .filter_map(|(mailbox, handle)| Some((mailbox, handle, self.store.durable(handle).ok()?)))
            .collect();
        let from = self.clock.now();
        let sealed = self.store.seal_session_as(id, how, &progress);
        self.quarantine.sealed(id, &sealed, from, self.clock.now());
        // What the disk could not read is not safe: a device that still has it keeps it.
        if sealed
            .as_ref()
            .is_ok_and(|sealed| sealed.compacted.unreadable().is_empty())
        {
            for (mailbox, handle, durable) in logs {
                mailbox.post(|mail| mail.safe.push((handle, durable)));
            }
        }
        self.refresh_sessions();
        match &sealed {
            Ok(sealed) if sealed.compacted.new => {
                job.done(format!("generation {}", sealed.session.generation))
            }
            Ok(sealed) => job.done(format!(
                "nothing new since generation {}",
                sealed.session.generation
            )),
            Err(error) => job.failed(error),
        }
        sealed
    }

    /// What people call it.
    fn kind_of_seal(&self, id: &SessionId, how: Generation) -> &'static str {
        let stopping = |session: Session| session.state == SessionState::Stopping;
        match how {
            Generation::Always => "realign",
            Generation::IfNew if self.store.session(id).is_ok_and(stopping) => "seal",
            Generation::IfNew => "compact",
        }
    }

    /// Writes the rolling parts of a session that is being recorded. Long: call it from a plain thread.
    pub(crate) fn roll(&self, id: &SessionId) -> Result<(), SealError> {
        let _one_at_a_time = self.sealing.lock().unwrap_or_else(PoisonError::into_inner);
        self.store.roll_session(id, &|_| ())
    }
}

impl std::fmt::Debug for Reception {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reception")
            .field("sessions", &self.sessions().len())
            .finish_non_exhaustive()
    }
}
