//! One side of a connection: what is written, when, and what becomes of what is read.
//!
//! Owns: putting stamps in right before the write, the housekeeping of captures, what the end of a connection means.
//! Does not own: sockets and waiting (`link`), what is said (`conversation`), what is asked of the clock (`prober`).
//!
//! Invariant: no stamp is taken while the lock is held (a sleeping device's clock does not answer).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use marey_format::clock::ProbeKind;
use marey_format::wire::{Certificate, MessageType, message};
use marey_format::{Kind, Refusal, RefusalCode};

use super::backoff::Backoff;
use super::conversation::{Conversation, Effect};
use super::entropy::Entropy;
use super::options::Options;
use super::prober::{self, Prober};
use super::renewal::Credentials;
use super::socket::{Incoming, SocketError};
use super::state::{Shared, State};
use crate::record::AckedFrame;

/// Takes whole messages; what can't leave now leaves later, in order.
pub(super) type Write<'a> = &'a mut dyn FnMut(&[u8]) -> Result<(), SocketError>;

pub(super) struct Talk {
    pub(super) shared: Arc<Shared>,
    pub(super) options: Options,
    pub(super) prober: Prober,
    pub(super) entropy: Entropy,
    pub(super) synced: Instant,
    /// None in a simulation, which has no certificates.
    pub(super) credentials: Option<Credentials>,
    /// Messages that are to be written next.
    outbox: Vec<u8>,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
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

impl Talk {
    pub(super) fn new(
        shared: Arc<Shared>,
        options: Options,
        entropy: Entropy,
        credentials: Option<Credentials>,
    ) -> Self {
        let now = shared.now();
        Self {
            prober: Prober::new(options.probes, entropy.clone(), now),
            synced: now,
            shared,
            options,
            entropy,
            credentials,
            outbox: Vec::new(),
        }
    }

    /// The first message of a connection.
    pub(super) fn hello(&self) -> Vec<u8> {
        Conversation::hello(&self.shared.lock(), &self.options.agent)
    }

    /// A connection has ended: how long to wait before the next. None if there is to be none.
    pub(super) fn ended(&mut self, end: &End, backoff: &mut Backoff) -> Option<Duration> {
        self.prober.disconnected();
        self.outbox.clear();
        {
            let mut state = self.shared.lock();
            state.disconnected();
            match end {
                End::Closing => {}
                End::Hub(refusal) if refusal.code == RefusalCode::Replaced => {
                    state.halted = Some(refusal.clone());
                    state.last_error = Some(refusal.to_string());
                }
                end => state.last_error = Some(end.to_string()),
            }
        }
        self.shared.notify();
        match end {
            End::Closing => None,
            End::Channels => Some(Duration::ZERO),
            End::Hub(refusal) if !refusal.code.is_passing() => {
                Some(backoff.next(self.entropy.word()).max(self.options.reconnect_max))
            }
            End::Hub(_) | End::Socket(_) | End::Silence => Some(backoff.next(self.entropy.word())),
        }
    }

    /// A hub that was silent for too long, and has something to answer, is gone.
    pub(super) fn check_silence(&self, heard: Instant, conversation: &Conversation) -> Result<(), End> {
        let silence = self.shared.now().saturating_duration_since(heard);
        match silence >= SILENCE_MAX && self.expects_an_answer(conversation) {
            true => Err(End::Silence),
            false => Ok(()),
        }
    }

    /// Asks the hub for its time if that is due, and for a sign of life if it was silent since `heard`.
    pub(super) fn ask_for_the_time(&mut self, heard: Instant, write: Write<'_>) -> Result<(), End> {
        let now = self.shared.now();
        let is_quiet = now.saturating_duration_since(heard) >= QUIET_MAX;
        let asks_for_life = is_quiet && self.prober.can_ask_in_band();
        match self.prober.due(now) {
            Some(ProbeKind::Udp) if !asks_for_life => self.prober.ask_over_udp(&*self.options.clock, now),
            Some(_) => {
                if let Some(packet) = self.prober.ask_in_band(&*self.options.clock, now) {
                    write(&message(MessageType::Probe, 0, &packet))?;
                }
            }
            None => {}
        }
        Ok(())
    }

    /// Writes what is there to be written; tells when the next thing will be.
    pub(super) fn write_next(
        &mut self,
        conversation: &mut Conversation,
        write: Write<'_>,
    ) -> Result<Option<Instant>, End> {
        let (now, now_ns) = (self.shared.now(), self.options.clock.now_ns());
        let boot = marey_format::BootId(self.options.clock.boot_id());
        let mut bytes = std::mem::take(&mut self.outbox);
        let (stamps, next_due) = {
            let shared = Arc::clone(&self.shared);
            let mut state = shared.lock();
            if std::mem::take(&mut state.probe_soon) {
                self.prober.ask_soon(now);
            }
            let building_due = self.keep_house(&mut state, now, now_ns);
            let stamps = conversation.compose(&mut state, now, now_ns, &mut bytes);
            state.sweep(boot);
            if bytes.is_empty() && conversation.has_run_out_of_channels(&state) {
                return Err(End::Channels);
            }
            let dues = [building_due, conversation.next_due(), self.prober.next_due()];
            (stamps, dues.into_iter().flatten().min())
        };
        if bytes.is_empty() {
            return Ok(next_due);
        }
        // The last moment before the write: encryption and the kernel are all that is left.
        let dev_send_ns = self.options.clock.now_ns();
        for at in stamps {
            bytes[at..at + 8].copy_from_slice(&dev_send_ns.to_le_bytes());
        }
        write(&bytes)?;
        // There may be more: only the size of one write ended this one.
        Ok(Some(now))
    }

    /// What is due whether connected or not: frames of old samples, rows of probes, ends. Returns when the next
    /// samples are due.
    pub(super) fn keep_house(&mut self, state: &mut State, now: Instant, now_ns: i64) -> Option<Instant> {
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

    /// Takes in one message of the hub.
    pub(super) fn take_in(
        &mut self,
        incoming: Incoming,
        conversation: &mut Conversation,
        peer: SocketAddr,
        backoff: &mut Backoff,
    ) -> Result<(), End> {
        let (now, now_ns) = (self.shared.now(), self.options.clock.now_ns());
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
            Some(Effect::RenewalAsked) => self.renew(),
            Some(Effect::Renewed(certificate)) => self.renewed(&certificate),
            Some(Effect::End(refusal)) => return Err(End::Hub(refusal)),
        }
        self.shared.notify();
        Ok(())
    }

    /// The hub wants a new key. Where there is none to be had, the older certificate goes on to count.
    fn renew(&mut self) {
        let Some(credentials) = &mut self.credentials else {
            return;
        };
        match credentials.ask() {
            Ok(message) => self.outbox.extend(message),
            Err(error) => {
                tracing::warn!(%error, "the certificate can't be renewed; enrol the device anew before its end")
            }
        }
    }

    fn renewed(&mut self, certificate: &Certificate) {
        let Some(credentials) = &mut self.credentials else {
            return;
        };
        match credentials.take(certificate) {
            Ok(()) => {
                tracing::info!("the certificate was renewed");
                self.shared.lock().renewals += 1;
            }
            Err(error) => {
                tracing::warn!(%error, "the renewed certificate was not taken; the older one goes on to count")
            }
        }
    }

    fn tell(&self, frames: &[AckedFrame]) {
        if let Some(on_acknowledged) = &self.options.on_acknowledged {
            frames.iter().for_each(|frame| on_acknowledged(frame));
        }
    }

    /// Takes in what has arrived over UDP.
    pub(super) fn receive_udp(&mut self) {
        let now = self.shared.now();
        if self.prober.receive_udp(&*self.options.clock, now) {
            self.note_probes();
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
}

const ROWS_PER_FRAME: usize = 128;
/// Silent for so long, the hub is asked for a sign of life in-band.
const QUIET_MAX: Duration = Duration::from_secs(5);
const SILENCE_MAX: Duration = Duration::from_secs(15);
