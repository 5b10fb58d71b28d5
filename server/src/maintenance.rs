//! The plain threads of a running hub: one keeps the store tidy, one seals sessions whose time has come, makes the next
//! generation of those that got late frames or annotations, rolls those that are being recorded, removes what earlier
//! generations left aside, and looks how large all of it is, one watches devices and recordings, one writes refusals into
//! the audit log.
//!
//! Four, because sealing takes as long as it takes, the journal's blocks must go round meanwhile, somebody must say
//! that a device is gone, and the sync of a line of the audit log is to hold up none of that. Level-triggered: each
//! turn looks at what there is, so that nothing is missed across a restart.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use marey_engine::time::HubInstant;
use marey_engine::{Session, SessionState, StorageError};
use marey_format::SessionId;

use crate::clocks::ClockWatch;
use crate::reception::Reception;
use crate::state::HubState;
use crate::survey::Surveyor;
use crate::watch::Watch;

/// The running threads.
#[derive(Debug)]
pub(crate) struct Maintenance {
    stop: Arc<Stop>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Stop {
    stopped: Mutex<bool>,
    changed: Condvar,
    flag: AtomicBool,
}

impl Maintenance {
    /// Starts the threads.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub(crate) fn start(state: &Arc<HubState>) -> std::io::Result<Self> {
        let stop = Arc::new(Stop::default());
        let interval = Duration::from_millis(state.config().commit.flush_interval_ms.max(10));
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.into()).spawn(run)
        };
        let (tidy_state, tidy_stop) = (state.clone(), stop.clone());
        let tidying = spawn(
            "marey-tidy",
            Box::new(move || tidy(&tidy_state, &tidy_stop, interval)),
        )?;
        let (seal_state, seal_stop) = (state.clone(), stop.clone());
        let sealing = spawn("marey-seal", Box::new(move || seal_due(&seal_state, &seal_stop)))?;
        let (watch_state, watch_stop) = (state.clone(), stop.clone());
        let watching = spawn(
            "marey-watch",
            Box::new(move || {
                let mut watch = Watch::default();
                while !watch_stop.wait(WATCH_INTERVAL) {
                    watch.turn(&watch_state);
                }
            }),
        )?;
        let (tally, tally_stop) = (state.tally.clone(), stop.clone());
        let telling = spawn(
            "marey-tally",
            Box::new(move || {
                while !tally_stop.wait(TALLY_INTERVAL) {
                    tally.write(false);
                }
                tally.write(true);
            }),
        )?;
        Ok(Self {
            stop,
            threads: vec![tidying, sealing, watching, telling],
        })
    }

    /// Ends the threads; one that seals ends with that session.
    pub(crate) fn stop(self) {
        self.stop.flag.store(true, Ordering::Release);
        *self.stop.stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.changed.notify_all();
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a maintenance thread panicked");
            }
        }
    }
}

impl Stop {
    /// Waits; true if it is time to end.
    fn wait(&self, interval: Duration) -> bool {
        let stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .changed
            .wait_timeout_while(stopped, interval, |stopped| !*stopped);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// Moves frames on from the journal to the device logs, so that its blocks can be used again.
fn tidy(state: &HubState, stop: &Stop, interval: Duration) {
    let mut failing = false;
    let slice = interval.min(LOOK_INTERVAL);
    let mut waited = Duration::ZERO;
    while !stop.flag.load(Ordering::Acquire) {
        let is_crowded = state.store.wait_until_crowded(slice);
        waited += slice;
        if !is_crowded && waited < interval {
            continue;
        }
        waited = Duration::ZERO;
        match tidy_up(state) {
            Ok(()) => failing = false,
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::error!(%error, "frames could not be moved on to their logs");
                }
                // Not at once again.
                stop.wait(interval);
            }
        }
    }
}

/// One turn of it.
pub(crate) fn tidy_up(state: &Reception) -> Result<(), StorageError> {
    // Devices may have gone away for want of room: whether there is some is not left to them to find out. A commit of
    // nothing writes what waits for it.
    if state.ingest.stalled().is_some() && state.store.commit_many(&[]).is_ok() {
        state.ingest.goes_on();
    }
    state.store.maintain()
}

fn seal_due(state: &HubState, stop: &Stop) {
    let (mut keeper, mut surveyor) = (Keeper::new(state), Surveyor::default());
    while !stop.wait(LOOK_INTERVAL) {
        keeper.turn(state, &|| stop.flag.load(Ordering::Acquire));
        surveyor.turn(state);
    }
}

/// Seals what has stopped, and what got late frames.
#[derive(Debug)]
pub(crate) struct Keeper {
    late: HashMap<SessionId, (u64, HubInstant)>,
    failed: HashMap<SessionId, HubInstant>,
    rolling: Rolling,
    asides: Asides,
    clocks: ClockWatch,
}

impl Keeper {
    pub(crate) fn new(state: &Reception) -> Self {
        Self {
            late: HashMap::new(),
            failed: HashMap::new(),
            rolling: Rolling::default(),
            asides: Asides::new(state),
            clocks: ClockWatch::default(),
        }
    }

    /// One look at all sessions.
    pub(crate) fn turn(&mut self, state: &Reception, is_ending: &dyn Fn() -> bool) {
        let now = state.clock.now();
        self.asides.remove_due(state, now);
        self.failed.retain(|_, at| since_ms(*at, now) < RETRY_MS);
        let sessions = state.sessions();
        state.quarantine.keep(&sessions);
        self.clocks.turn(state, &sessions);
        for session in sessions.iter() {
            if is_ending() {
                return;
            }
            let due = match session.state {
                SessionState::Recording => {
                    self.rolling.roll_if_due(state, &session.id, now);
                    false
                }
                SessionState::Stopping => grace_is_over(state, session, now),
                SessionState::Sealed => {
                    late_frames_rest(state, session, now, &mut self.late)
                        || state.quarantine.is_due(&session.id, now)
                }
                _ => false,
            };
            if due {
                self.seal(state, &session.id, now);
            }
        }
        // Closed ones too: they take no frames any more, and people go on looking at them.
        for (id, at) in state.store.to_be_annotated() {
            if is_ending() {
                return;
            }
            if since_ms(at, now) >= quiet_ms(state) {
                self.seal(state, &id, now);
            }
        }
    }

    fn seal(&mut self, state: &Reception, id: &SessionId, now: HubInstant) {
        if self.failed.contains_key(id) {
            return;
        }
        self.late.remove(id);
        match state.seal(id, &|_| ()) {
            Ok(sealed) => {
                self.asides.left(id, state.clock.now());
                if sealed.compacted.new {
                    tracing::info!(session = %id, generation = sealed.session.generation, "session sealed");
                }
            }
            Err(error) => {
                tracing::error!(session = %id, %error, "the session could not be sealed; trying again");
                self.failed.insert(id.clone(), now);
            }
        }
    }
}

/// When each session that is being recorded gets its rolling parts next.
#[derive(Debug, Default)]
struct Rolling {
    next: HashMap<SessionId, HubInstant>,
}

impl Rolling {
    fn roll_if_due(&mut self, state: &Reception, id: &SessionId, now: HubInstant) {
        let interval_ms = i64::try_from(state.config().session.live_interval_ms).unwrap_or(i64::MAX);
        if interval_ms == 0 {
            return;
        }
        let in_ms = |from: HubInstant, ms: i64| HubInstant {
            epoch: from.epoch,
            ns: from.ns.saturating_add(ms.saturating_mul(1_000_000)),
        };
        let due = *self
            .next
            .entry(id.clone())
            .or_insert_with(|| in_ms(now, interval_ms));
        if now.ns < due.ns {
            return;
        }
        if let Err(error) = state.roll(id) {
            tracing::warn!(session = %id, %error, "no rolling parts could be written");
        }
        // They are written anew each time: a long session gets them less often, so that they never take over.
        let done = state.clock.now();
        let pause_ms = interval_ms.max(ROLL_PAUSE.saturating_mul(since_ms(now, done)));
        self.next.insert(id.clone(), in_ms(done, pause_ms));
    }
}

/// Folders of earlier generations, which stay for an hour for those who were reading them.
#[derive(Debug)]
struct Asides {
    left: HashMap<SessionId, HubInstant>,
}

impl Asides {
    /// What an earlier run of the hub left counts as left now.
    fn new(state: &Reception) -> Self {
        let now = state.clock.now();
        let sealed = state
            .store
            .sessions()
            .into_iter()
            .filter(|session| session.generation > 1);
        Self {
            left: sealed.map(|session| (session.id, now)).collect(),
        }
    }

    fn left(&mut self, id: &SessionId, now: HubInstant) {
        self.left.insert(id.clone(), now);
    }

    fn remove_due(&mut self, state: &Reception, now: HubInstant) {
        self.left.retain(|id, at| {
            if since_ms(*at, now) < ASIDE_MS {
                return true;
            }
            if let Err(error) = state.store.remove_old_generations(id) {
                tracing::warn!(session = %id, %error, "earlier generations could not be removed");
            }
            false
        });
    }
}

/// Nobody owes anything more, or the time for it has passed.
fn grace_is_over(state: &Reception, session: &Session, now: HubInstant) -> bool {
    let grace_ms = i64::try_from(state.config().session.stop_grace_ms).unwrap_or(i64::MAX);
    let over = session.stopped.is_none_or(|stopped| {
        // After a reboot of the hub nobody knows how long ago it was: long enough.
        stopped.hub_epoch != now.epoch || (now.ns - stopped.hub_ns) / 1_000_000 >= grace_ms
    });
    over || state.store.owing(&session.id).is_ok_and(|owing| owing.is_empty())
}

/// Late frames have come, and no more of them for a while.
fn late_frames_rest(
    state: &Reception,
    session: &Session,
    now: HubInstant,
    late: &mut HashMap<SessionId, (u64, HubInstant)>,
) -> bool {
    if !state.store.has_late_frames(&session.id) {
        late.remove(&session.id);
        return false;
    }
    let frames: u64 = state
        .store
        .log_status()
        .iter()
        .filter(|log| log.session == session.id)
        .map(|log| log.frames)
        .sum();
    let (seen, at) = late.entry(session.id.clone()).or_insert((frames, now));
    if *seen != frames {
        (*seen, *at) = (frames, now);
    }
    since_ms(*at, now) >= quiet_ms(state)
}

/// For so long nothing more must have come before the next generation is made.
fn quiet_ms(state: &Reception) -> i64 {
    i64::try_from(state.config().session.late_quiet_ms).unwrap_or(i64::MAX)
}

fn since_ms(at: HubInstant, now: HubInstant) -> i64 {
    (now.ns - at.ns) / 1_000_000
}

/// Between two rollings of a session, at least so many times what the last one took.
const ROLL_PAUSE: i64 = 20;
/// How long the folders of earlier generations stay.
const ASIDE_MS: i64 = 3_600_000;
/// How often sessions are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// How often devices are looked at.
/// What was refused stands in the audit log after so long.
const TALLY_INTERVAL: Duration = Duration::from_secs(1);
const WATCH_INTERVAL: Duration = Duration::from_millis(500);
/// A session that could not be sealed is tried again after so long.
const RETRY_MS: i64 = 30_000;
