//! What the embedding threads and the client's own thread share.
//!
//! Owns: the captures (the one of the moment and those that still have frames to hand in), what the hub last
//! wanted, and whoever waits for a change. Does not own: sockets, the clock.
//!
//! Invariants: one lock, held for no I/O but that of the buffer's own file; captures are in the order in which they
//! began, so that what is oldest is sent first; a capture leaves the list only when nothing of it is needed.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use marey_format::wire::{Command, Heartbeat, Stop};
use marey_format::{BootId, DeviceId, Refusal, SessionId};
use serde_json::{Map, Value};

use super::commands::Commands;
use super::entropy::Entropy;
use super::status::{FinishReport, ProbeCounts, SessionStatus, Status};
use super::timer::Timer;
use crate::buffer::{BufferError, BufferOptions, Identity, restore_all};
use crate::capture::{Capture, FrameOptions};

pub(super) struct Shared {
    timer: Timer,
    state: Mutex<State>,
    changed: Condvar,
    /// A byte into it wakes the client's thread out of its poll.
    waker: UnixStream,
}

impl Shared {
    pub(super) fn new(state: State, waker: UnixStream, timer: Timer) -> Self {
        Self {
            timer,
            state: Mutex::new(state),
            changed: Condvar::new(),
            waker,
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Now, for ages and waits.
    pub(super) fn now(&self) -> Instant {
        self.timer.now()
    }

    /// The client's thread is to look at the state anew.
    pub(super) fn wake(&self) {
        // A full socket means that it is being woken already.
        let _full = (&self.waker).write(&[1]);
        self.changed.notify_all();
    }

    /// Tells all who wait that something changed.
    pub(super) fn notify(&self) {
        self.changed.notify_all();
    }

    /// Waits until `ready` gives something, or the time is over.
    pub(super) fn wait<T>(
        &self,
        timeout: Duration,
        mut ready: impl FnMut(&mut State) -> Option<T>,
    ) -> Option<T> {
        let until = Instant::now() + timeout;
        let mut state = self.lock();
        loop {
            if let Some(result) = ready(&mut state) {
                return Some(result);
            }
            let left = until
                .checked_duration_since(Instant::now())
                .filter(|left| !left.is_zero())?;
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

/// Names a capture for as long as the program runs, across epochs.
pub(super) type CaptureId = u64;

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: CaptureId,
    pub(super) capture: Capture,
    /// A later life of the program may go on with it.
    pub(super) proven: bool,
    pub(super) is_open: bool,
    pub(super) stop_requested: bool,
    /// The hub will never take it as it is; the data is kept.
    pub(super) blocked: Option<Refusal>,
}

impl Entry {
    /// Whether samples of this boot may be added: the counters are proven, and it is the same clock.
    pub(super) fn can_go_on(&self, boot: BootId) -> bool {
        self.proven && self.capture.boot() == boot && !self.capture.has_ended() && self.blocked.is_none()
    }
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) device: DeviceId,
    pub(super) buffer_options: BufferOptions,
    frame_options: FrameOptions,
    pub(super) entries: Vec<Entry>,
    pub(super) current: Option<CaptureId>,
    /// The capture that is to be ended as soon as the client's thread gets to it.
    pub(super) ending: Option<CaptureId>,
    next_id: CaptureId,
    epochs_begun_anew: u32,
    /// A session that the hub wants recorded and that nobody has begun to capture for.
    pub(super) wanted: Option<SessionId>,
    pub(super) is_connected: bool,
    pub(super) connections: u64,
    pub(super) renewals: u64,
    pub(super) last_error: Option<String>,
    pub(super) halted: Option<Refusal>,
    refusals: VecDeque<Refusal>,
    set_aside: Vec<String>,
    pub(super) probes: ProbeCounts,
    /// A burst of probes is wanted.
    pub(super) probe_soon: bool,
    pub(super) device_info: Map<String, Value>,
    pub(super) commands: Commands,
    pub(super) closing: Option<Closing>,
    pub(super) entropy: Entropy,
    /// Held while the folder is used.
    folder_lock: Option<FolderLock>,
}

/// The lock on a folder of buffers.
#[derive(Debug)]
struct FolderLock(File);

impl Drop for FolderLock {
    /// Closing alone would leave it with a process that another thread is just starting: until that runs its own program
    /// it has every file that is open here.
    fn drop(&mut self) {
        self.0.unlock().ok();
    }
}

/// How the client's thread is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Closing {
    /// With a bye.
    Politely,
    /// As a process dies.
    Abruptly,
}

impl State {
    /// Reads what earlier lives of the program left in the buffer's folder.
    pub(super) fn open(
        device: DeviceId,
        buffer_options: BufferOptions,
        frame_options: FrameOptions,
    ) -> Result<Self, BufferError> {
        let mut state = Self {
            device,
            frame_options,
            entries: Vec::new(),
            current: None,
            ending: None,
            next_id: 0,
            epochs_begun_anew: 0,
            wanted: None,
            is_connected: false,
            connections: 0,
            renewals: 0,
            last_error: None,
            halted: None,
            refusals: VecDeque::new(),
            set_aside: Vec::new(),
            probes: ProbeCounts::default(),
            probe_soon: false,
            device_info: Map::new(),
            commands: Commands::default(),
            closing: None,
            entropy: Entropy::System,
            folder_lock: None,
            buffer_options,
        };
        if let Some(folder) = state.buffer_options.folder.clone() {
            let io_error = |source| BufferError::Io {
                path: folder.clone(),
                source,
            };
            std::fs::create_dir_all(&folder).map_err(io_error)?;
            let lock = File::create(folder.join("LOCK")).map_err(io_error)?;
            lock.try_lock().map_err(|error| io_error(error.into()))?;
            state.folder_lock = Some(FolderLock(lock));
            for path in restore_all(&folder)? {
                match Capture::restore(&path, &state.buffer_options, frame_options) {
                    Ok((capture, _)) if *capture.device() != state.device => {
                        state.set_aside.push(format!(
                            "{}: of the device {}",
                            path.display(),
                            capture.device()
                        ));
                    }
                    Ok((mut capture, proven)) => {
                        state.commands.remember_those_of(&mut capture);
                        state.add(capture, proven);
                    }
                    Err(error) => state.set_aside.push(error.to_string()),
                }
            }
        }
        Ok(state)
    }

    pub(super) fn entry(&mut self, id: CaptureId) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.id == id)
    }

    pub(super) fn current(&mut self) -> Option<&mut Entry> {
        let id = self.current?;
        self.entry(id)
    }

    /// The hub wants a session recorded.
    pub(super) fn joined(&mut self, session: SessionId) {
        let is_captured = self
            .current()
            .is_some_and(|current| *current.capture.session() == session && !current.capture.has_ended());
        if !is_captured {
            self.wanted = Some(session);
        }
    }

    /// Captures for a session from now on: goes on with what an earlier life of the program began, or begins anew.
    pub(super) fn begin(&mut self, session: &SessionId, boot: BootId) -> Result<(), BufferError> {
        self.wanted.take_if(|wanted| wanted == session);
        if let Some(current) = self.current()
            && current.capture.session() == session
            && !current.capture.has_ended()
        {
            return Ok(());
        }
        let mut entries = self.entries.iter().rev();
        if let Some(entry) = entries.find(|entry| entry.can_go_on(boot) && entry.capture.session() == session)
        {
            self.current = Some(entry.id);
            return Ok(());
        }
        if let Some(current) = self.current() {
            current.capture.flush_all();
        }
        let identity = Identity {
            device: self.device.clone(),
            session: session.clone(),
            epoch: self.entropy.epoch(),
            boot,
        };
        let begun = Capture::begin(identity, &self.buffer_options, self.frame_options);
        let capture = begun.inspect_err(|_| self.wanted = Some(session.clone()))?;
        self.current = Some(self.add(capture, true));
        Ok(())
    }

    /// The sign of life of this moment: of version 1 if the embedder has said what that takes.
    pub(super) fn heartbeat(&mut self, now_ns: i64) -> Heartbeat {
        let mut info = self.device_info.clone();
        let records = self
            .current()
            .is_some_and(|entry| !entry.capture.has_ended() && !entry.stop_requested);
        info.insert("is_recording".to_owned(), records.into());
        let now_ns = u64::try_from(now_ns).unwrap_or(0);
        Heartbeat::v1(self.device.clone(), now_ns, info)
            .unwrap_or_else(|_| Heartbeat::short(now_ns / 1_000_000, self.device_info.clone()))
    }

    /// Carries a command out, once, and prepares the answer.
    pub(super) fn commanded(&mut self, command: Command, now_ns: i64) {
        let mut entries = self.entries.iter_mut().rev();
        let entry =
            entries.find(|entry| *entry.capture.session() == command.session && !entry.capture.has_ended());
        self.commands
            .carry_out(command, entry.map(|entry| &mut entry.capture), now_ns);
    }

    pub(super) fn stop(&mut self, stop: &Stop) {
        self.wanted.take_if(|wanted| *wanted == stop.session);
        for entry in &mut self.entries {
            entry.stop_requested |= *entry.capture.session() == stop.session;
        }
    }

    /// The hub can't take a capture as it is numbered: what is captured from now on gets a new epoch, what was
    /// captured stays in the old one and is kept.
    pub(super) fn begin_epoch_anew(&mut self, id: CaptureId, why: Refusal, now_ns: i64) {
        let may_go_on = self.current == Some(id) && self.epochs_begun_anew < EPOCHS_ANEW_MAX;
        let options = self.buffer_options.clone();
        let epoch = self.entropy.epoch();
        let Some(at) = self.entries.iter().position(|entry| entry.id == id) else {
            return;
        };
        let entry = &mut self.entries[at];
        self.set_aside
            .push(format!("epoch {}: {why}", entry.capture.epoch()));
        if entry.capture.has_ended() || !may_go_on {
            entry.blocked = Some(why);
            return;
        }
        match entry.capture.begin_again(epoch, &options, now_ns) {
            Ok(next) => {
                self.epochs_begun_anew += 1;
                let old = std::mem::replace(&mut entry.capture, next);
                entry.is_open = false;
                let old_id = self.next_id;
                self.next_id += 1;
                let old = Entry {
                    id: old_id,
                    capture: old,
                    proven: false,
                    is_open: false,
                    stop_requested: true,
                    blocked: Some(why),
                };
                self.entries.insert(at, old);
            }
            Err(error) => {
                entry.blocked = Some(why);
                self.last_error = Some(format!("no new epoch: {error}"));
            }
        }
    }

    pub(super) fn refused(&mut self, refusal: Refusal) {
        if self.refusals.len() >= REFUSALS_KEPT {
            self.refusals.pop_front();
        }
        self.refusals.push_back(refusal);
    }

    /// The connection is gone: nothing unacknowledged counts as sent.
    pub(super) fn disconnected(&mut self) {
        self.is_connected = false;
        // What is not answered comes again.
        self.commands.answers.clear();
        for entry in &mut self.entries {
            entry.is_open = false;
            entry.capture.buffer.disconnected();
        }
    }

    /// Lets captures go of which nothing is needed any more.
    pub(super) fn sweep(&mut self, boot: BootId) {
        let current = self.current;
        let mut at = 0;
        while at < self.entries.len() {
            let entry = &self.entries[at];
            let is_over = entry.capture.has_ended() || !entry.proven || entry.capture.boot() != boot;
            let is_done = is_over && entry.capture.buffer.held_bytes() == 0 && entry.blocked.is_none();
            if is_done && current != Some(entry.id) {
                let entry = self.entries.remove(at);
                if let Err(error) = entry.capture.buffer.delete() {
                    tracing::warn!(%error, "a buffer of which all is acknowledged was not deleted");
                }
            } else {
                at += 1;
            }
        }
    }

    pub(super) fn status(&mut self) -> Status {
        let current = self.current;
        let backlog = self.entries.iter().filter(|entry| Some(entry.id) != current);
        let backlog_frames = backlog
            .map(|entry| entry.capture.buffer.unacknowledged().count() as u64)
            .sum();
        let session = self.current().map(|entry| SessionStatus {
            session: entry.capture.session().clone(),
            epoch: entry.capture.epoch(),
            is_open: entry.is_open,
            stop_requested: entry.stop_requested,
            has_ended: entry.capture.has_ended(),
            streams: entry.capture.counts(),
            unacknowledged_frames: entry.capture.buffer.unacknowledged().count() as u64,
            held_bytes: entry.capture.buffer.held_bytes(),
        });
        Status {
            device: self.device.clone(),
            is_connected: self.is_connected,
            connections: self.connections,
            renewals: self.renewals,
            last_error: self.last_error.clone(),
            halted: self.halted.clone(),
            refusals: self.refusals.iter().cloned().collect(),
            session,
            backlog_frames,
            set_aside: self.set_aside.clone(),
            probes: self.probes,
        }
    }

    pub(super) fn report(&mut self, id: CaptureId) -> Option<FinishReport> {
        let entry = self.entry(id)?;
        let unacknowledged_frames = entry.capture.buffer.unacknowledged().count() as u64;
        Some(FinishReport {
            session: entry.capture.session().clone(),
            streams: entry.capture.counts(),
            all_acknowledged: unacknowledged_frames == 0 && entry.capture.has_ended(),
            unacknowledged_frames,
        })
    }

    /// Lets go of everything in memory and of the folder, as the death of the process would.
    pub(super) fn die(&mut self) {
        self.entries.clear();
        self.current = None;
        self.folder_lock = None;
        self.is_connected = false;
    }

    fn add(&mut self, capture: Capture, proven: bool) -> CaptureId {
        let id = self.next_id;
        self.next_id += 1;
        self.entries.push(Entry {
            id,
            capture,
            proven,
            is_open: false,
            stop_requested: false,
            blocked: None,
        });
        id
    }
}

const REFUSALS_KEPT: usize = 32;
/// A hub that refuses whatever it gets is not answered with epochs for ever.
const EPOCHS_ANEW_MAX: u32 = 8;
