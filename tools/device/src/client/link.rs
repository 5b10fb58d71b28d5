//! The client's own thread: one connection after another, and the waits between them.
//!
//! Owns: connecting, the poll loop, when to try again. Does not own: what is written and what becomes of what is read
//! (`talk`).
//!
//! Invariants: a new write is composed only when the one before has left; every wait ends when there is something to do.

use std::io::{self, Read};
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::backoff::Backoff;
use super::conversation::Conversation;
use super::socket::{Socket, SocketError};
use super::state::Closing;
use super::talk::{End, Talk};
use crate::bundle::Bundle;

pub(super) struct Link {
    pub(super) talk: Talk,
    /// Readable when somebody wants this thread's attention.
    pub(super) wake: UnixStream,
}

impl Link {
    pub(super) fn run(mut self) {
        let mut backoff = Backoff::new(self.talk.options.reconnect_max);
        let mut address_turn = 0;
        loop {
            let end = self.connect_once(address_turn, &mut backoff);
            address_turn += 1;
            tracing::debug!(%end, "the connection ended");
            let wait = self.talk.ended(&end, &mut backoff);
            let Some(wait) = wait else { return };
            if self.wait_disconnected(wait) {
                return;
            }
        }
    }

    fn connect_once(&mut self, turn: usize, backoff: &mut Backoff) -> End {
        if self.talk.shared.lock().closing.is_some() {
            return End::Closing;
        }
        let address = match self.address(turn) {
            Ok(address) => address,
            Err(error) => return End::Socket(error.into()),
        };
        let Some(bundle) = self.bundle() else {
            return End::Closing;
        };
        match Socket::connect(address, &bundle) {
            Ok(mut socket) => match self.converse(&mut socket, backoff) {
                Ok(()) => End::Closing,
                Err(end) => end,
            },
            Err(error) => End::Socket(error),
        }
    }

    /// The newest one: it may have been renewed over the connection before.
    fn bundle(&self) -> Option<Bundle> {
        let credentials = self.talk.credentials.as_ref()?;
        Some(credentials.bundle().clone())
    }

    /// The addresses in turn, so that one that is dead does not hide the next.
    fn address(&self, turn: usize) -> io::Result<SocketAddr> {
        if let Some(address) = self.talk.options.hub_address {
            return Ok(address);
        }
        let bundle = self.bundle();
        let addresses = bundle.as_ref().map(Bundle::addresses).unwrap_or_default();
        if addresses.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "no address of the hub"));
        }
        let text = &addresses[turn % addresses.len()];
        let mut found = text
            .to_socket_addrs()
            .map_err(|error| io::Error::new(error.kind(), format!("{text}: {error}")))?;
        found
            .next()
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{text}: no address")))
    }

    /// Talks until the connection ends; Ok when the device closes.
    fn converse(&mut self, socket: &mut Socket, backoff: &mut Backoff) -> Result<(), End> {
        let mut conversation = Conversation::new();
        socket.write(&self.talk.hello())?;
        let peer = socket.peer().map_err(SocketError::from)?;
        let mut heard = Instant::now();
        let mut incoming = Vec::new();
        loop {
            let mut next_due = None;
            if socket.flush()? {
                match self.talk.shared.lock().closing {
                    Some(Closing::Abruptly) => return Err(End::Closing),
                    Some(Closing::Politely) => {
                        socket.write(&Conversation::bye())?;
                        socket.close();
                        return Ok(());
                    }
                    None => {}
                }
                let write = &mut |bytes: &[u8]| socket.write(bytes);
                self.talk.ask_for_the_time(heard, write)?;
                next_due = self.talk.write_next(&mut conversation, write)?;
            }
            self.talk.check_silence(heard, &conversation)?;
            self.poll(Some(&*socket), next_due)?;
            let received = socket.receive(&*self.talk.options.clock, &mut incoming);
            if !incoming.is_empty() {
                heard = Instant::now();
            }
            for message in incoming.drain(..) {
                self.talk.take_in(message, &mut conversation, peer, backoff)?;
            }
            received?;
            self.talk.receive_udp();
        }
    }

    /// Waits until a socket has something, somebody wakes this thread, or the time has come.
    fn poll(&mut self, socket: Option<&Socket>, due: Option<Instant>) -> Result<(), End> {
        let wait = due
            .map_or(IDLE_MAX, |due| due.saturating_duration_since(Instant::now()))
            .min(IDLE_MAX);
        let timeout = Timespec {
            tv_sec: i64::try_from(wait.as_secs()).expect("a wait is short"),
            tv_nsec: i64::from(wait.subsec_nanos()),
        };
        {
            let mut fds = vec![PollFd::new(&self.wake, PollFlags::IN)];
            if let Some(socket) = socket {
                let wants = if socket.wants_write() {
                    PollFlags::IN | PollFlags::OUT
                } else {
                    PollFlags::IN
                };
                fds.push(PollFd::new(socket, wants));
                fds.extend(self.talk.prober.udp().map(|udp| PollFd::new(udp, PollFlags::IN)));
            }
            match poll(&mut fds, Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(SocketError::Io(error.into()).into()),
            }
        }
        let mut bytes = [0; 256];
        while matches!(self.wake.read(&mut bytes), Ok(count) if count == bytes.len()) {}
        Ok(())
    }

    /// Keeps house for a while without a connection; true if the device closes meanwhile.
    fn wait_disconnected(&mut self, wait: Duration) -> bool {
        let until = Instant::now() + wait;
        loop {
            let (now, now_ns) = (Instant::now(), self.talk.options.clock.now_ns());
            let (due, is_halted) = {
                let shared = Arc::clone(&self.talk.shared);
                let mut state = shared.lock();
                if state.closing.is_some() {
                    return true;
                }
                (
                    self.talk.keep_house(&mut state, now, now_ns),
                    state.halted.is_some(),
                )
            };
            if now >= until && !is_halted {
                return false;
            }
            let until = if is_halted { now + IDLE_MAX } else { until };
            if let Err(error) = self.poll(None, Some(due.map_or(until, |due| due.min(until)))) {
                tracing::warn!(%error, "poll failed");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

const IDLE_MAX: Duration = Duration::from_secs(1);
