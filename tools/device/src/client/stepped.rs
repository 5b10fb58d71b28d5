//! A device without a thread and without a socket, driven step by step: for simulations of a whole hub.
//!
//! What runs here is what runs live: the same captures and buffers, the same conversation, prober and housekeeping. In
//! place of the socket there are bytes that somebody else carries, and in place of the thread there is whoever calls.
//! Comes with the feature `testing`.
//!
//! Invariant: nothing here waits, or reads a clock but those that it was given.

use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use marey_format::DeviceId;

use super::backoff::Backoff;
use super::conversation::Conversation;
pub use super::entropy::Entropy;
use super::options::Options;
use super::socket::{SocketError, cut};
use super::state::{Shared, State};
use super::talk::{End, Talk};
pub use super::timer::SimulatedTimer;
use super::timer::Timer;
use super::{Device, StartError};

/// A device in simulated time. Dropping it is what the death of its process is.
pub struct SteppedDevice {
    device: Device,
    timer: SimulatedTimer,
    talk: Talk,
    backoff: Backoff,
    line: Option<Line>,
    /// The other end of what wakes a live device's thread.
    _wake: UnixStream,
}

struct Line {
    conversation: Conversation,
    heard: Instant,
    plain: Vec<u8>,
}

/// What leaves a device now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    pub bytes: Vec<u8>,
    /// When it wants to be asked again, in nanoseconds of its timer.
    pub due_ns: Option<u64>,
}

/// A connection has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    pub why: String,
    /// How long to wait before the next attempt; none if there is to be none.
    pub wait: Option<Duration>,
}

impl SteppedDevice {
    /// Starts the client; what an earlier life left in the buffer's folder is read.
    ///
    /// # Errors
    /// As [`Device::start`].
    pub fn start(
        name: DeviceId,
        options: Options,
        timer: SimulatedTimer,
        entropy: Entropy,
    ) -> Result<Self, StartError> {
        let (wake, waker) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        waker.set_nonblocking(true)?;
        let mut state = State::open(name.clone(), options.buffer.clone(), options.frames)?;
        state.entropy = entropy.clone();
        let shared = Arc::new(Shared::new(state, waker, Timer::Simulated(timer.clone())));
        let device = Device {
            shared: Arc::clone(&shared),
            clock: Arc::clone(&options.clock),
            name,
            thread: None,
        };
        Ok(Self {
            backoff: Backoff::new(options.reconnect_max),
            talk: Talk::new(shared, options, entropy, None),
            device,
            timer,
            line: None,
            _wake: wake,
        })
    }

    /// The face that an embedder has. Calls that wait for something get no answer here; what they would find at once
    /// they find.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Has shaken hands: the first bytes to send.
    pub fn connect(&mut self) -> Vec<u8> {
        self.line = Some(Line {
            conversation: Conversation::new(),
            heard: self.talk.shared.now(),
            plain: Vec::new(),
        });
        self.talk.hello()
    }

    pub fn is_connected(&self) -> bool {
        self.line.is_some()
    }

    /// One turn: what is due is written; without a connection, only the house is kept.
    ///
    /// # Errors
    /// [`Ended`] if the connection is given up here.
    pub fn step(&mut self) -> Result<Written, Ended> {
        let Some(line) = &mut self.line else {
            return Ok(self.keep_house());
        };
        let mut bytes = Vec::new();
        let write = &mut |written: &[u8]| {
            bytes.extend_from_slice(written);
            Ok(())
        };
        let talk = &mut self.talk;
        let result = talk
            .ask_for_the_time(line.heard, write)
            .and_then(|()| talk.write_next(&mut line.conversation, write))
            .and_then(|due| talk.check_silence(line.heard, &line.conversation).map(|()| due));
        match result {
            Ok(due) => Ok(Written {
                bytes,
                due_ns: due.map(|due| self.timer.ns_of(due)),
            }),
            Err(end) => Err(self.end(&end)),
        }
    }

    /// Bytes have arrived.
    ///
    /// # Errors
    /// [`Ended`] if they end the connection.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<(), Ended> {
        let Some(line) = &mut self.line else { return Ok(()) };
        let dev_recv_ns = self.talk.options.clock.now_ns();
        line.plain.extend_from_slice(bytes);
        let mut incoming = Vec::new();
        let received = cut(&mut line.plain, dev_recv_ns, &mut incoming);
        if !incoming.is_empty() {
            line.heard = self.talk.shared.now();
        }
        for message in incoming {
            let taken = self
                .talk
                .take_in(message, &mut line.conversation, PEER, &mut self.backoff);
            if let Err(end) = taken {
                return Err(self.end(&end));
            }
        }
        received.map_err(|error| self.end(&End::Socket(error)))
    }

    /// The connection is gone.
    pub fn hang_up(&mut self) -> Ended {
        self.end(&End::Socket(SocketError::Closed))
    }

    /// The capture of the moment is to end; its totals are written at the next step.
    pub fn end_capture(&self) {
        let mut state = self.talk.shared.lock();
        state.ending = state.current;
    }

    /// A last look at the hub's clock, as before the end of a capture.
    pub fn probe_soon(&self) {
        self.talk.shared.lock().probe_soon = true;
    }

    fn keep_house(&mut self) -> Written {
        let (now, now_ns) = (self.talk.shared.now(), self.talk.options.clock.now_ns());
        let shared = Arc::clone(&self.talk.shared);
        let due = self.talk.keep_house(&mut shared.lock(), now, now_ns);
        Written {
            bytes: Vec::new(),
            due_ns: due.map(|due| self.timer.ns_of(due)),
        }
    }

    fn end(&mut self, end: &End) -> Ended {
        self.line = None;
        Ended {
            why: end.to_string(),
            wait: self.talk.ended(end, &mut self.backoff),
        }
    }
}

impl std::fmt::Debug for SteppedDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SteppedDevice")
            .field("device", &self.device)
            .field("is_connected", &self.is_connected())
            .finish_non_exhaustive()
    }
}

const PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);
