//! A device: captures samples, keeps them until the hub has them on its disk, proves its clock.
//!
//! Owns: the public face of the client library and its one thread. Does not own: how a session is run (the hub's
//! people do that: the device is asked to join), what a sensor is.
//!
//! Invariants: a push never waits for the network; a sample leaves the buffer only when it is durable on the hub,
//! and one that finds no room is told to whoever pushes; whatever breaks, the client connects again and goes on
//! with the oldest frame that is not acknowledged.

mod backoff;
mod commands;
mod conversation;
mod entropy;
mod link;
mod options;
mod prober;
mod renewal;
mod socket;
mod state;
mod status;
#[cfg(any(test, feature = "testing"))]
pub mod stepped;
mod talk;
mod timer;

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use marey_format::payload::Event;
use marey_format::types::Period;
use marey_format::{BootId, Declaration, DeviceId, EpochId, Kind, Lane, Refusal, SessionId, limits};

pub use commands::Mark;
pub use options::{Options, ProbeOptions};
pub use status::{FinishReport, ProbeCounts, SessionStatus, Status};

use crate::buffer::{BufferError, KeepError};
use crate::bundle::Bundle;
use crate::capture::{Batch, DeclareError, PushError, Pushed, Timing, Value};
use crate::clock::DeviceClock;
use entropy::Entropy;
use link::Link;
use renewal::Credentials;
use state::{CaptureId, Closing, Shared, State};
use talk::Talk;
use timer::Timer;

/// A device that talks to its hub from a thread of its own.
///
/// ```no_run
/// use std::time::Duration;
/// use marey_device::{Bundle, Declaration, Device, Options, Value};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let bundle = Bundle::read("bundle/watch".as_ref())?;
/// let device = Device::start(bundle, Options::default())?;
/// device.wait_for_join(Duration::from_secs(60))?;
/// let declaration = Declaration::from_json(
///     br#"{"name":"gsr","fields":[{"name":"conductance","type":"f32","unit":"uS"}],"rate_hz":4}"#)?;
/// let gsr = device.stream(&declaration)?;
/// for _ in 0..40 {
///     gsr.push(device.now_ns(), &[Value::F32(4.2)])?;
///     std::thread::sleep(Duration::from_millis(250));
/// }
/// let report = device.finish(Duration::from_secs(10))?;
/// assert!(report.all_acknowledged);
/// # Ok(()) }
/// ```
pub struct Device {
    shared: Arc<Shared>,
    clock: Arc<dyn DeviceClock>,
    name: DeviceId,
    thread: Option<JoinHandle<()>>,
}

/// Why a device does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the buffer's folder: {0}")]
    Buffer(#[from] BufferError),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Why something that was waited for did not come.
#[derive(Debug, thiserror::Error)]
pub enum WaitError {
    #[error("nothing within {waited:?}{}", last_error.as_ref().map(|error| format!("; {error}")).unwrap_or_default())]
    TimedOut {
        waited: Duration,
        last_error: Option<String>,
    },
    #[error("the client stopped trying: {0}")]
    Halted(Refusal),
    #[error("nothing is captured")]
    NoSession,
    #[error(transparent)]
    Buffer(#[from] BufferError),
}

/// Why an event or a state is not taken.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    #[error("no session to capture for")]
    NoSession,
    #[error("{what} has {bytes} bytes, over the limit of {}", limits::LABEL_BYTES_MAX)]
    TooLong { what: &'static str, bytes: usize },
    #[error("not kept: {0}")]
    NotKept(String),
}

impl Device {
    /// Starts the client. It connects, stays attached, and probes the hub's clock from now on.
    ///
    /// With a buffer folder, what an earlier life of the program left there is handed in.
    pub fn start(bundle: Bundle, options: Options) -> Result<Self, StartError> {
        let (wake, waker) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        waker.set_nonblocking(true)?;
        let name = bundle.device().clone();
        let state = State::open(name.clone(), options.buffer.clone(), options.frames)?;
        let shared = Arc::new(Shared::new(state, waker, Timer::System));
        let clock = Arc::clone(&options.clock);
        let talk = Talk::new(
            Arc::clone(&shared),
            options,
            Entropy::System,
            Some(Credentials::new(bundle)),
        );
        let link = Link { talk, wake };
        let thread = std::thread::Builder::new()
            .name("marey-device".to_owned())
            .spawn(move || link.run())?;
        Ok(Self {
            shared,
            clock,
            name,
            thread: Some(thread),
        })
    }

    pub fn name(&self) -> &DeviceId {
        &self.name
    }

    /// Now, on the clock that stamps samples.
    pub fn now_ns(&self) -> i64 {
        self.clock.now_ns()
    }

    /// Waits until the hub asks for a session to be recorded, and captures for it from now on. A session that is
    /// being captured already is returned at once; with a buffer on disk, one that an earlier life of the program
    /// captured within this boot is gone on with.
    pub fn wait_for_join(&self, timeout: Duration) -> Result<SessionId, WaitError> {
        let boot = BootId(self.clock.boot_id());
        let found = self.shared.wait(timeout, |state| {
            if let Some(refusal) = &state.halted {
                return Some(Err(WaitError::Halted(refusal.clone())));
            }
            if let Some(session) = state.wanted.clone() {
                return Some(
                    state
                        .begin(&session, boot)
                        .map(|()| session)
                        .map_err(WaitError::from),
                );
            }
            let current = state
                .current()
                .filter(|entry| !entry.capture.has_ended() && !entry.stop_requested)?;
            Some(Ok(current.capture.session().clone()))
        });
        self.shared.wake();
        found.unwrap_or_else(|| Err(self.timed_out(timeout)))
    }

    /// Captures for a session without being asked: one that this device knows of, while the hub is out of reach.
    /// The hub takes the data if the session exists and lets the device in.
    pub fn begin(&self, session: &SessionId) -> Result<(), WaitError> {
        let boot = BootId(self.clock.boot_id());
        self.shared.lock().begin(session, boot)?;
        self.shared.wake();
        Ok(())
    }

    /// The session of a capture that an earlier life of the program began within this boot and did not end: to be
    /// gone on with by [`Device::begin`], also while the hub is out of reach or has stopped the session meanwhile.
    pub fn unfinished(&self) -> Option<SessionId> {
        let boot = BootId(self.clock.boot_id());
        let state = self.shared.lock();
        let mut entries = state
            .entries
            .iter()
            .rev()
            .filter(|entry| Some(entry.id) != state.current);
        let unfinished = entries.find(|entry| entry.can_go_on(boot))?;
        Some(unfinished.capture.session().clone())
    }

    /// Waits until the hub asks to stop the capture.
    pub fn wait_for_stop(&self, timeout: Duration) -> Result<(), WaitError> {
        let found = self
            .shared
            .wait(timeout, |state| match (state.halted.clone(), state.current()) {
                (Some(refusal), _) => Some(Err(WaitError::Halted(refusal))),
                (None, None) => Some(Err(WaitError::NoSession)),
                (None, Some(entry)) => entry.stop_requested.then_some(Ok(())),
            });
        found.unwrap_or_else(|| Err(self.timed_out(timeout)))
    }

    /// Declares a stream whose samples have stamps of their own.
    pub fn stream(&self, declaration: &Declaration) -> Result<StreamHandle, DeclareError> {
        self.declare(declaration, Timing::Stamped)
    }

    /// Declares a stream whose samples follow each other by a period of the device's clock. Only a frame's first
    /// time is stored; a sample that comes elsewhere than the period says begins a new frame.
    pub fn regular_stream(
        &self,
        declaration: &Declaration,
        period: Period,
    ) -> Result<StreamHandle, DeclareError> {
        self.declare(declaration, Timing::Regular(period))
    }

    /// Records that something happened: a label, a mark, a tap.
    pub fn event(&self, time_ns: i64, event: &Event) -> Result<(), EventError> {
        self.live(Kind::EVENT, 0, time_ns, checked(event)?)
    }

    /// Records the device's state (battery, temperature ...), and shows it in every heartbeat from now on.
    pub fn report_state(&self, info: serde_json::Map<String, serde_json::Value>) -> Result<(), EventError> {
        let json = serde_json::to_vec(&info).expect("a map of JSON values is JSON");
        if json.len() > STATE_BYTES_MAX {
            return Err(EventError::TooLong {
                what: "the state",
                bytes: json.len(),
            });
        }
        self.shared.lock().device_info = info;
        self.live(Kind::STATE, 0, self.clock.now_ns(), json)
    }

    /// What every heartbeat says of this device from now on; nothing of it goes into the record. With `battery` (percent)
    /// and `available_storage_mb` heartbeats are of version 1, which the hub judges; else of the short form.
    pub fn describe(&self, info: serde_json::Map<String, serde_json::Value>) -> Result<(), EventError> {
        let bytes = serde_json::to_vec(&info)
            .expect("a map of JSON values is JSON")
            .len();
        if bytes > STATE_BYTES_MAX {
            let what = "the state";
            return Err(EventError::TooLong { what, bytes });
        }
        self.shared.lock().device_info = info;
        Ok(())
    }

    /// The next moment that the hub's people marked, once each; none within the time. It stands in the record already:
    /// this is for a device that shows something, or flashes.
    pub fn wait_for_mark(&self, timeout: Duration) -> Option<Mark> {
        self.shared
            .wait(timeout, |state| state.commands.marks.pop_front())
    }

    /// How everything stands.
    pub fn status(&self) -> Status {
        self.shared.lock().status()
    }

    /// The epoch of the capture of the moment. A reboot, and counters that the hub does not agree with, begin one.
    pub fn epoch(&self) -> Option<EpochId> {
        self.shared.lock().current().map(|entry| entry.capture.epoch())
    }

    /// Makes frames of all samples that are none yet, and waits until the hub has acknowledged everything.
    pub fn wait_for_acks(&self, timeout: Duration) -> Result<(), WaitError> {
        if let Some(entry) = self.shared.lock().current() {
            entry.capture.flush_all();
        }
        self.shared.wake();
        let found = self.shared.wait(timeout, |state| {
            state
                .entries
                .iter()
                .all(|entry| entry.capture.is_settled())
                .then_some(())
        });
        found.ok_or_else(|| self.timed_out(timeout))
    }

    /// Waits until `bytes` more of frames find room in the buffer; false if they do not in time. For whoever can
    /// wait, as a replay can; a sensor can't.
    pub fn wait_for_room(&self, bytes: u64, timeout: Duration) -> bool {
        let room = self.shared.wait(timeout, |state| {
            let bytes_max = state.buffer_options.bytes_max;
            let held = state
                .current()
                .map_or(0, |entry| entry.capture.buffer.held_bytes());
            (held == 0 || held + bytes <= bytes_max).then_some(())
        });
        room.is_some()
    }

    /// Ends the capture: a last look at the hub's clock, the ends of all streams with their totals, and then
    /// waiting until all of it is acknowledged. The device stays attached; what is not acknowledged in time is
    /// still sent.
    ///
    /// # Errors
    /// `NoSession` if nothing is captured; `TimedOut` if not even the ends were written in time.
    pub fn finish(&self, timeout: Duration) -> Result<FinishReport, WaitError> {
        let until = Instant::now() + timeout;
        let left = || until.saturating_duration_since(Instant::now());
        let (id, answered) = {
            let mut state = self.shared.lock();
            let id = state.current().ok_or(WaitError::NoSession)?.id;
            state.probe_soon = true;
            (id, state.probes.answered)
        };
        self.shared.wake();
        // The samples of the end deserve exchanges after them; if none come soon, they do without.
        self.shared.wait(left().min(LAST_PROBES_MAX), |state| {
            (state.probes.answered >= answered + LAST_PROBES || !state.is_connected).then_some(())
        });
        self.shared.lock().ending = Some(id);
        self.shared.wake();
        let ended = self.shared.wait(left(), |state| {
            state
                .entry(id)
                .is_none_or(|entry| entry.capture.has_ended())
                .then_some(())
        });
        if ended.is_none() {
            return Err(self.timed_out(timeout));
        }
        self.shared.wait(left(), |state| {
            state
                .entry(id)
                .is_none_or(|entry| entry.capture.is_settled())
                .then_some(())
        });
        self.shared.lock().report(id).ok_or(WaitError::NoSession)
    }

    /// Says goodbye and ends the thread. What is not acknowledged stays in the buffer's folder, if there is one.
    /// Dropping a device does the same.
    pub fn close(mut self) {
        self.end(Closing::Politely);
    }

    /// Ends as a killed process does: nothing is flushed, nothing is said. For tests of what survives.
    pub fn kill(mut self) {
        self.end(Closing::Abruptly);
    }

    /// The process is as good as dead: the client's thread does nothing more once it has a look. [`Device::kill`]
    /// is to follow.
    pub(crate) fn condemn(&self) {
        self.shared.lock().closing = Some(Closing::Abruptly);
        self.shared.wake();
    }

    fn declare(&self, declaration: &Declaration, timing: Timing) -> Result<StreamHandle, DeclareError> {
        let now_ns = self.clock.now_ns();
        let (capture, stream) = {
            let mut state = self.shared.lock();
            let entry = state.current().ok_or(DeclareError::NoSession)?;
            (entry.id, entry.capture.declare(declaration, timing, now_ns)?)
        };
        self.shared.wake();
        Ok(StreamHandle {
            shared: Arc::clone(&self.shared),
            capture,
            stream,
            declaration: declaration.clone(),
        })
    }

    fn live(&self, kind: Kind, stream: u32, time_ns: i64, payload: Vec<u8>) -> Result<(), EventError> {
        let written = {
            let mut state = self.shared.lock();
            let entry = state.current().filter(|entry| !entry.capture.has_ended());
            entry
                .ok_or(EventError::NoSession)?
                .capture
                .write_live(kind, stream, time_ns, 0, &payload)
        };
        self.shared.wake();
        written.map_err(|error: KeepError| EventError::NotKept(error.to_string()))
    }

    fn timed_out(&self, waited: Duration) -> WaitError {
        WaitError::TimedOut {
            waited,
            last_error: self.shared.lock().last_error.clone(),
        }
    }

    fn end(&mut self, how: Closing) {
        let Some(thread) = self.thread.take() else { return };
        {
            let mut state = self.shared.lock();
            if how == Closing::Politely {
                state
                    .entries
                    .iter_mut()
                    .for_each(|entry| entry.capture.flush_all());
            }
            state.closing = Some(how);
        }
        self.shared.wake();
        let _panicked = thread.join();
        self.shared.lock().die();
        self.shared.notify();
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.end(Closing::Politely);
    }
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A stream of the capture that it was declared in. Clones push into the same stream.
#[derive(Clone)]
pub struct StreamHandle {
    shared: Arc<Shared>,
    capture: CaptureId,
    stream: u32,
    declaration: Declaration,
}

impl StreamHandle {
    pub fn declaration(&self) -> &Declaration {
        &self.declaration
    }

    /// Takes one sample: its device time in nanoseconds, and a value for each field. Never waits for the network.
    pub fn push(&self, time_ns: i64, values: &[Value]) -> Result<Pushed, PushError> {
        self.with(|capture, stream, now| capture.push(stream, time_ns, values, now))
    }

    /// Takes many samples at once, column by column, as frames of their own: cheaper than one by one, and at once
    /// in the buffer.
    pub fn push_batch(&self, batch: &Batch<'_>) -> Result<Pushed, PushError> {
        self.with(|capture, stream, now| capture.push_batch(stream, batch, now))
    }

    /// As [`StreamHandle::push_batch`], and tells the epoch that the samples went into.
    pub fn push_batch_in_epoch(&self, batch: &Batch<'_>) -> Result<(EpochId, Pushed), PushError> {
        self.with(|capture, stream, now| {
            let pushed = capture.push_batch(stream, batch, now)?;
            Ok((capture.epoch(), pushed))
        })
    }

    /// Makes a frame of the samples that are none yet.
    pub fn flush(&self) -> Result<(), PushError> {
        self.with(|capture, stream, _| capture.flush(stream))
    }

    /// Records something that happened to this stream: a label, a lead that fell off.
    pub fn event(&self, time_ns: i64, event: &Event) -> Result<(), EventError> {
        let payload = checked(event)?;
        let written = {
            let mut state = self.shared.lock();
            let entry = state
                .entry(self.capture)
                .filter(|entry| !entry.capture.has_ended());
            entry.ok_or(EventError::NoSession)?.capture.write_live(
                Kind::EVENT,
                self.stream,
                time_ns,
                0,
                &payload,
            )
        };
        self.shared.wake();
        written.map_err(|error: KeepError| EventError::NotKept(error.to_string()))
    }

    /// The sensor gave nothing where so many samples were due. They are numbered and never captured: the receipt names the
    /// gap, and nobody takes it for a loss.
    pub fn missed(&self, time_ns: i64, samples: u64) -> Result<(), EventError> {
        let written = {
            let mut state = self.shared.lock();
            let entry = state
                .entry(self.capture)
                .filter(|entry| !entry.capture.has_ended());
            let entry = entry.ok_or(EventError::NoSession)?;
            entry.capture.missed(self.stream, time_ns, samples)
        };
        self.shared.wake();
        written.map_err(|error: KeepError| EventError::NotKept(error.to_string()))
    }

    fn with<T>(
        &self,
        push: impl FnOnce(&mut crate::capture::Capture, u32, Instant) -> Result<T, PushError>,
    ) -> Result<T, PushError> {
        let now = self.shared.now();
        let (result, made_frames) = {
            let mut state = self.shared.lock();
            let capture = &mut state.entry(self.capture).ok_or(PushError::Over)?.capture;
            let before = capture.next_sequence(Lane::Data);
            let result = push(capture, self.stream, now);
            (result, capture.next_sequence(Lane::Data) != before)
        };
        if made_frames {
            self.shared.wake();
        }
        result
    }
}

impl std::fmt::Debug for StreamHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamHandle")
            .field("stream", &self.declaration.name)
            .finish_non_exhaustive()
    }
}

fn checked(event: &Event) -> Result<Vec<u8>, EventError> {
    let text = event.text.as_deref().unwrap_or_default();
    for (what, text) in [("the kind", event.kind.as_str()), ("the text", text)] {
        if text.len() > limits::LABEL_BYTES_MAX {
            return Err(EventError::TooLong {
                what,
                bytes: text.len(),
            });
        }
    }
    Ok(serde_json::to_vec(event).expect("an event is plain JSON"))
}

const STATE_BYTES_MAX: usize = 16 << 10;
const LAST_PROBES: u64 = 3;
const LAST_PROBES_MAX: Duration = Duration::from_millis(500);

#[cfg(test)]
pub(crate) mod fake_hub;
#[cfg(test)]
mod tests;
