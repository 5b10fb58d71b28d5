//! The client's own thread: one connection after another, and the housekeeping between them.
//!
//! Owns: connecting, the poll loop, putting stamps in right before the write. Does not own: what is said
//! (`conversation`), what is asked of the clock (`prober`).
//!
//! Invariants: no stamp is taken while the lock is held (a sleeping device's clock does not answer); a new write is
//! composed only when the one before has left; every wait ends when there is something to do.

use std::io::{self, Read};
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use marey_format::clock::ProbeKind;
use marey_format::wire::{MessageType, message};
use marey_format::{Kind, Refusal, RefusalCode};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::backoff::Backoff;
use super::conversation::{Conversation, Effect};
use super::options::Options;
use super::prober::{self, Prober};
use super::socket::{Incoming, Socket, SocketError};
use super::state::{Closing, Shared, State};
use crate::bundle::Bundle;
use crate::record::AckedFrame;

pub(super) struct Link {
    pub(super) shared: Arc<Shared>,
    pub(super) bundle: Bundle,
    pub(super) options: Options,
    /// Readable when somebody wants this thread's attention.
    pub(super) wake: UnixStream,
    pub(super) prober: Prober,
    pub(super) synced: Instant,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("{0}")]
    Socket(#[from] SocketError),
    #[error("{0}")]
    Hub(Refusal),
    #[error("the hub was silent for {} s", SILENCE_MAX.as_secs())]
    Silence,
    #[error("closing")]
    Closing,
    #[error("a new connection is needed for the rest of the backlog")]
    Channels,
}

impl Link {
    pub(super) fn run(mut self) {
        let mut backoff = Backoff::new(self.options.reconnect_max);
        let mut address_turn = 0;
        loop {
            let end = self.connect_once(address_turn, &mut backoff);
            address_turn += 1;
            self.prober.disconnected();
            {
                let mut state = self.shared.lock();
                state.disconnected();
                match &end {
                    End::Closing => {}
                    End::Hub(refusal) if refusal.code == RefusalCode::Replaced => {
                        state.halted = Some(refusal.clone());
                        state.last_error = Some(refusal.to_string());
                    }
                    end => state.last_error = Some(end.to_string()),
                }
            }
            self.shared.notify();
            tracing::debug!(%end, "the connection ended");
            let wait = match end {
                End::Closing => return,
                End::Channels => Duration::ZERO,
                End::Hub(refusal) if !refusal.code.is_passing() => {
                    backoff.next(random_u32()).max(self.options.reconnect_max)
                }
                End::Hub(_) | End::Socket(_) | End::Silence => backoff.next(random_u32()),
            };
            if self.wait_disconnected(wait) {
                return;
            }
        }
    }

    fn connect_once(&mut self, turn: usize, backoff: &mut Backoff) -> End {
        if self.shared.lock().closing.is_some() {
            return End::Closing;
        }
        let address = match self.address(turn) {
            Ok(address) => address,
            Err(error) => return End::Socket(error.into()),
        };
        match Socket::connect(address, &self.bundle) {
            Ok(mut socket) => match self.converse(&mut socket, backoff) {
                Ok(()) => End::Closing,
                Err(end) => end,
            },
            Err(error) => End::Socket(error),
        }
    }

    /// The addresses in turn, so that one that is dead does not hide the next.
    fn address(&self, turn: usize) -> io::Result<SocketAddr> {
        if let Some(address) = self.options.hub_address {
            return Ok(address);
        }
        let addresses = self.bundle.addresses();
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
        let hello = Conversation::hello(&self.shared.lock(), &self.options.agent);
        socket.write(&hello)?;
        let peer = socket.peer().map_err(SocketError::from)?;
        let mut heard = Instant::now();
        let mut incoming = Vec::new();
        loop {
            let mut next_due = None;
            if socket.flush()? {
                match self.shared.lock().closing {
                    Some(Closing::Abruptly) => return Err(End::Closing),
                    Some(Closing::Politely) => {
                        socket.write(&Conversation::bye())?;
                        socket.close();
                        return Ok(());
                    }
                    None => {}
                }
                self.ask_for_the_time(socket, heard)?;
                next_due = self.write_next(socket, &mut conversation)?;
            }
            let silence = SILENCE_MAX.saturating_sub(heard.elapsed());
            if silence.is_zero() && self.expects_an_answer(&conversation) {
                return Err(End::Silence);
            }
            self.poll(Some(&*socket), next_due)?;
            let received = socket.receive(&*self.options.clock, &mut incoming);
            if !incoming.is_empty() {
                heard = Instant::now();
            }
            for message in incoming.drain(..) {
                self.take_in(message, &mut conversation, peer, backoff)?;
            }
            received?;
            if self.prober.receive_udp(&*self.options.clock, Instant::now()) {
                self.note_probes();
            }
        }
    }

    fn ask_for_the_time(&mut self, socket: &mut Socket, heard: Instant) -> Result<(), End> {
        let now = Instant::now();
        let asks_for_life = heard.elapsed() >= QUIET_MAX && self.prober.can_ask_in_band();
        match self.prober.due(now) {
            Some(ProbeKind::Udp) if !asks_for_life => self.prober.ask_over_udp(&*self.options.clock, now),
            Some(_) => {
                if let Some(packet) = self.prober.ask_in_band(&*self.options.clock, now) {
                    socket.write(&message(MessageType::Probe, 0, &packet))?;
                }
            }
            None => {}
        }
        Ok(())
    }

    /// Writes what is there to be written; tells when the next thing will be.
    fn write_next(
        &mut self,
        socket: &mut Socket,
        conversation: &mut Conversation,
    ) -> Result<Option<Instant>, End> {
        let (now, now_ns) = (Instant::now(), self.options.clock.now_ns());
        let boot = marey_format::BootId(self.options.clock.boot_id());
        let mut write = Vec::new();
        let (stamps, next_due) = {
            let shared = Arc::clone(&self.shared);
            let mut state = shared.lock();
            if std::mem::take(&mut state.probe_soon) {
                self.prober.ask_soon(now);
            }
            let building_due = self.keep_house(&mut state, now, now_ns);
            let stamps = conversation.compose(&mut state, now, now_ns, &mut write);
            state.sweep(boot);
            if write.is_empty() && conversation.has_run_out_of_channels(&state) {
                return Err(End::Channels);
            }
            let dues = [building_due, conversation.next_due(), self.prober.next_due()];
            (stamps, dues.into_iter().flatten().min())
        };
        if write.is_empty() {
            return Ok(next_due);
        }
        // The last moment before the write: encryption and the kernel are all that is left.
        let dev_send_ns = self.options.clock.now_ns();
        for at in stamps {
            write[at..at + 8].copy_from_slice(&dev_send_ns.to_le_bytes());
        }
        socket.write(&write)?;
        // There may be more: only the size of one write ended this one.
        Ok(Some(now))
    }

    /// What is due whether connected or not: frames of old samples, rows of probes, ends. Returns when the next
    /// samples are due.
    fn keep_house(&mut self, state: &mut State, now: Instant, now_ns: i64) -> Option<Instant> {
        let mut next_due = None;
        let ending = state.ending;
        for entry in &mut state.entries {
            next_due = next_due.into_iter().chain(entry.capture.flush_due(now)).min();
        }
        let is_ending = ending.is_some();
        let current = state.current;
        let entry = current
            .and_then(|id| state.entry(id))
            .filter(|entry| !entry.capture.has_ended());
        match entry {
            Some(entry) => {
                let rows = self.prober.take_rows(now, is_ending);
                for rows in rows.chunks(ROWS_PER_FRAME) {
                    let count = u32::try_from(rows.len()).expect("rows of a frame are few");
                    let payload = prober::payload(rows);
                    if let Err(error) = entry.capture.write_live(Kind::PROBES, 0, now_ns, count, &payload) {
                        tracing::debug!(%error, "evidence of the clock found no room");
                    }
                }
            }
            None => self.prober.hold_rows(now),
        }
        if let Some(entry) = ending.and_then(|id| state.entry(id)) {
            if let Err(error) = entry.capture.end(now_ns) {
                state.last_error = Some(format!("an end was not written: {error}"));
            }
            state.ending = None;
            self.shared.notify();
        }
        if let Some(interval) = self.options.buffer.sync_interval
            && now.saturating_duration_since(self.synced) >= interval
        {
            self.synced = now;
            for entry in &mut state.entries {
                if let Err(error) = entry.capture.buffer.sync() {
                    tracing::warn!(%error, "a buffer was not synced");
                }
            }
        }
        next_due
    }

    fn take_in(
        &mut self,
        incoming: Incoming,
        conversation: &mut Conversation,
        peer: SocketAddr,
        backoff: &mut Backoff,
    ) -> Result<(), End> {
        let (now, now_ns) = (Instant::now(), self.options.clock.now_ns());
        let effect = {
            let mut state = self.shared.lock();
            conversation.on_message(incoming, &mut state, now, now_ns)
        };
        match effect.map_err(End::Hub)? {
            None => {}
            Some(Effect::Welcomed) => {
                backoff.succeeded();
                let time = conversation
                    .welcome
                    .as_ref()
                    .and_then(|welcome| welcome.time.as_ref());
                self.prober.connected(time, peer, self.options.time_address, now);
                let mut state = self.shared.lock();
                state.is_connected = true;
                state.connections += 1;
                state.last_error = None;
            }
            Some(Effect::Acknowledged {
                ack,
                dev_recv_ns,
                frames,
            }) => {
                self.prober.ack(&ack, dev_recv_ns, now);
                self.tell(&frames);
            }
            Some(Effect::FoundDurable { frames }) => self.tell(&frames),
            Some(Effect::ProbeReply { packet, dev_recv_ns }) => {
                self.prober.reply(&packet, dev_recv_ns, now);
                self.note_probes();
            }
            Some(Effect::End(refusal)) => return Err(End::Hub(refusal)),
        }
        self.shared.notify();
        Ok(())
    }

    fn tell(&self, frames: &[AckedFrame]) {
        if let Some(on_acknowledged) = &self.options.on_acknowledged {
            frames.iter().for_each(|frame| on_acknowledged(frame));
        }
    }

    fn note_probes(&self) {
        self.shared.lock().probes = self.prober.counts();
        self.shared.notify();
    }

    /// A hub that has something to answer and says nothing is gone, whatever TCP believes.
    fn expects_an_answer(&self, conversation: &Conversation) -> bool {
        conversation.welcome.is_none()
            || self.prober.can_ask_in_band()
            || self
                .shared
                .lock()
                .entries
                .iter()
                .any(|entry| entry.is_open && !entry.capture.is_settled())
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
                fds.extend(self.prober.udp().map(|udp| PollFd::new(udp, PollFlags::IN)));
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
            let (now, now_ns) = (Instant::now(), self.options.clock.now_ns());
            let (due, is_halted) = {
                let shared = Arc::clone(&self.shared);
                let mut state = shared.lock();
                if state.closing.is_some() {
                    return true;
                }
                (self.keep_house(&mut state, now, now_ns), state.halted.is_some())
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

fn random_u32() -> u32 {
    let mut bytes = [0; 4];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system's random source works");
    u32::from_le_bytes(bytes)
}

const ROWS_PER_FRAME: usize = 128;
/// Silent for so long, the hub is asked for a sign of life in-band.
const QUIET_MAX: Duration = Duration::from_secs(5);
const SILENCE_MAX: Duration = Duration::from_secs(15);
const IDLE_MAX: Duration = Duration::from_secs(1);
