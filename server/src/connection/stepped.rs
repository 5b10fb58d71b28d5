//! A hub without sockets and threads, driven step by step: for simulations of the whole of it.
//!
//! What runs here is what runs live: the same [`crate::protocol`], the same connections, mailboxes, queue, committer and
//! keeper of sessions. In place of TLS over a socket there is a pipe that somebody else fills and empties, and in place
//! of the scheduler there is whoever calls. Comes with the feature `testing`.
//!
//! Invariant: nothing here waits, draws a random number or reads a clock but the store's.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use marey_engine::time::HubClock;
use marey_engine::{Session, SessionError, StorageError, Store};
use marey_format::DeviceId;
use marey_format::clock::StampKey;

use super::{Caller, Connection, Wire};
use crate::config::HubConfig;
use crate::ingest::{Committer, Ingest};
use crate::maintenance::{Keeper, tidy_up};
use crate::metrics::Metrics;
use crate::reception::Reception;
use crate::tally::Tally;
use crate::tls::{Received, TlsError};

/// A hub: what stands between the store and the connections.
pub struct Hub {
    reception: Arc<Reception>,
    committer: Committer,
    keeper: Keeper,
}

/// One connection of a device.
pub struct Line {
    connection: Connection<Pipe>,
    wake_ns: i64,
    has_mail: bool,
    is_over: bool,
}

impl Hub {
    /// A hub over an open store.
    pub fn new(store: Arc<Store>, config: HubConfig, stamp_key: StampKey) -> Self {
        let metrics = Arc::new(Metrics::default());
        let (ingest, committer) = Ingest::queue(store.clone(), metrics.clone(), &config);
        let tally = Tally::new(store.clone());
        let reception = Reception::new(config, store, Arc::new(stamp_key), ingest, metrics, None, tally);
        Self {
            keeper: Keeper::new(&reception),
            reception: Arc::new(reception),
            committer,
        }
    }

    /// The store beneath.
    pub fn store(&self) -> &Arc<Store> {
        &self.reception.store
    }

    /// What it has counted.
    pub fn metrics(&self) -> &Metrics {
        &self.reception.metrics
    }

    /// A device has shaken hands. `key` is what a live hub would draw for its time packets.
    pub fn connect(&self, device: DeviceId, key: [u8; 40]) -> Line {
        let time_key = self.reception.time_keys.enter(device.clone(), key);
        let pipe = Pipe {
            clock: self.reception.clock.clone(),
            inbox: VecDeque::new(),
            unsent: Vec::new(),
            sent: Vec::new(),
            is_blocked: false,
            is_broken: false,
        };
        let caller = Caller {
            device,
            turn: self.reception.attached.accepted(),
            peer: SocketAddr::from(([192, 0, 2, 1], 1)),
            time_key,
            udp_port: 0,
            shown: None,
        };
        let connection = Connection::new(self.reception.clone(), pipe, caller);
        let mut line = Line {
            connection,
            wake_ns: 0,
            has_mail: false,
            is_over: false,
        };
        line.set_timer();
        line
    }

    /// Whether the committing thread has something to do.
    pub fn has_work(&self) -> bool {
        self.committer.has_work()
    }

    /// One window of the committing thread: what waits now is written, synced and answered.
    pub fn commit(&mut self) -> bool {
        self.committer.step()
    }

    /// One look of the tidying thread.
    ///
    /// # Errors
    /// What the store says; a live hub goes on and tries again.
    pub fn tidy(&self) -> Result<(), StorageError> {
        tidy_up(&self.reception)
    }

    /// One look of the thread that seals and rolls sessions.
    pub fn keep(&mut self) {
        self.keeper.turn(&self.reception, &|| false);
    }

    /// Changes sessions, and tells the connections.
    ///
    /// # Errors
    /// What the store says.
    pub fn change_session(
        &self,
        change: impl FnOnce(&Store) -> Result<Session, SessionError>,
    ) -> Result<Session, SessionError> {
        self.reception.change_session(change)
    }
}

impl Line {
    /// These bytes have arrived; they are stamped when they are read.
    pub fn deliver(&mut self, bytes: Vec<u8>) {
        if !bytes.is_empty() {
            self.pipe().inbox.push_back(Piece::Bytes(bytes));
        }
    }

    /// The other side has closed, or the network says that it is gone. Comes after all that was delivered.
    pub fn hang_up(&mut self) {
        self.pipe().inbox.push_back(Piece::End);
    }

    /// Nothing that is written arrives any more, and writing says so.
    pub fn break_off(&mut self) {
        self.pipe().is_broken = true;
    }

    /// Whether the other side takes what it is sent.
    pub fn block(&mut self, is_blocked: bool) {
        self.pipe().is_blocked = is_blocked;
    }

    /// The hub goes down in good order: nothing more is read.
    pub fn drain(&mut self) {
        self.connection.drain();
        self.set_timer();
    }

    /// Hub time at which it wants to be stepped whatever happens.
    pub fn wake_ns(&self) -> i64 {
        self.wake_ns
    }

    /// Does all that can be done now; `choose` picks among so many things that are ready, as a scheduler does. True if
    /// the connection is over.
    pub fn step(&mut self, choose: &mut dyn FnMut(usize) -> usize) -> bool {
        while !self.is_over {
            match self.one_step(choose) {
                Ok(Step::More) => {}
                Ok(Step::Idle) => return false,
                Ok(Step::Over) => self.end(),
                Err(error) => {
                    tracing::debug!(%error, "connection broke");
                    self.end();
                }
            }
        }
        true
    }

    /// What was written since the last call.
    pub fn take_sent(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.pipe().sent)
    }

    fn one_step(&mut self, choose: &mut dyn FnMut(usize) -> usize) -> Result<Step, TlsError> {
        if self.connection.turn()? {
            return Ok(Step::Over);
        }
        // Room that was waited for is taken at once: whoever drops it would lose its turn.
        let mut context = Context::from_waker(Waker::noop());
        if let Some(room) = &mut self.connection.room
            && let Poll::Ready(room) = room.as_mut().poll(&mut context)
        {
            self.connection.room = None;
            self.connection.hand_in_with(room)?;
            return Ok(Step::More);
        }
        self.has_mail |= pin!(self.connection.mailbox.posted())
            .poll(&mut context)
            .is_ready();
        let can_read = self.connection.may_read() && !self.connection.wire.inbox.is_empty();
        let is_due = self.connection.now().ns >= self.wake_ns;
        let all = [
            (Ready::Bytes, can_read),
            (Ready::Mail, self.has_mail),
            (Ready::Timer, is_due),
        ];
        let ready: Vec<Ready> = all
            .into_iter()
            .filter(|(_, is)| *is)
            .map(|(ready, _)| ready)
            .collect();
        if ready.is_empty() {
            return Ok(Step::Idle);
        }
        match ready[choose(ready.len()) % ready.len()] {
            Ready::Bytes => {
                self.connection.read()?;
                if self.connection.is_waiting_for_pace() {
                    self.set_timer();
                }
            }
            Ready::Mail => {
                self.has_mail = false;
                self.connection.collect()?;
            }
            Ready::Timer => {
                self.connection.expire()?;
                self.set_timer();
            }
        }
        Ok(Step::More)
    }

    /// As a live connection ends: what it has still to say goes out, if the other side takes anything.
    fn end(&mut self) {
        self.is_over = true;
        self.connection.detach();
        let pipe = self.pipe();
        if !pipe.is_blocked && !pipe.is_broken {
            let last = std::mem::take(&mut pipe.unsent);
            pipe.sent.extend(last);
        }
    }

    fn set_timer(&mut self) {
        let wait_ns = i64::try_from(self.connection.until_deadline().as_nanos()).unwrap_or(i64::MAX);
        self.wake_ns = self.connection.now().ns.saturating_add(wait_ns);
    }

    fn pipe(&mut self) -> &mut Pipe {
        &mut self.connection.wire
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").finish_non_exhaustive()
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line")
            .field("is_over", &self.is_over)
            .finish_non_exhaustive()
    }
}

enum Step {
    More,
    Idle,
    Over,
}

#[derive(Clone, Copy)]
enum Ready {
    Bytes,
    Mail,
    Timer,
}

enum Piece {
    Bytes(Vec<u8>),
    End,
}

/// What stands for TLS over a socket.
struct Pipe {
    clock: Arc<dyn HubClock>,
    inbox: VecDeque<Piece>,
    unsent: Vec<u8>,
    sent: Vec<u8>,
    is_blocked: bool,
    is_broken: bool,
}

impl Wire for Pipe {
    fn receive(&mut self, sink: &mut dyn FnMut(i64, &[u8])) -> Result<Received, TlsError> {
        match self.inbox.pop_front() {
            None => Ok(Received::Nothing),
            Some(Piece::End) => Ok(Received::End { clean: false }),
            Some(Piece::Bytes(bytes)) => {
                sink(self.clock.now().ns, &bytes);
                Ok(Received::Some)
            }
        }
    }

    fn send(&mut self, plaintext: &[u8]) -> Result<(), TlsError> {
        self.unsent.extend_from_slice(plaintext);
        Ok(())
    }

    fn flush(&mut self) -> Result<bool, TlsError> {
        if self.is_broken {
            return Err(TlsError::Socket {
                kind: ErrorKind::BrokenPipe,
                detail: "the other side is gone".into(),
            });
        }
        if !self.is_blocked {
            self.sent.append(&mut self.unsent);
        }
        Ok(self.unsent.is_empty())
    }

    fn unsent_bytes(&self) -> usize {
        self.unsent.len()
    }

    fn has_hung_up(&self) -> bool {
        matches!(self.inbox.back(), Some(Piece::End))
    }
}
