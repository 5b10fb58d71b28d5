//! What stands between one connection's protocol and the rest of the hub: wire on one side, ingest on the other.
//!
//! It carries out what the protocol asks for, hands frames to the committing thread, and sends acks for what came back.
//! It never waits: `live` does, on a TLS socket, and a simulated hub steps it over a pipe. Back-pressure: while frames
//! wait for room, or results for too many runs are outstanding, or the peer does not take what it is sent, the wire is
//! not read; nor is it while a device has sent more control messages than it may.

mod intake;
mod live;
mod renewal;
mod sessions;
#[cfg(any(test, feature = "testing"))]
pub mod stepped;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use marey_engine::LogHandle;
use marey_engine::time::HubInstant;
use marey_format::limits::CONTROL_MESSAGES_PER_S;
use marey_format::types::CommandId;
use marey_format::wire::{self, MessageType};
use marey_format::{DeviceId, Refusal, RefusalCode, SessionId};

use self::renewal::Renewal;
use crate::attached::{Introduction, Turn};
use crate::ingest::{RoomFuture, Work};
use crate::mailbox::Mailbox;
use crate::pki::Shown;
use crate::protocol::{Action, End, Protocol, Settings, refusal_message};
use crate::reception::Reception;
use crate::tally::Refused;
use crate::time_service::TimeKey;
use crate::tls::{Received, TlsError};

pub(crate) use live::serve;

/// What carries a connection's bytes: TLS over a socket, or a simulated pipe. Nothing of it waits.
pub(crate) trait Wire {
    /// Takes what can be read now: pieces of plaintext, each with the hub time of the read that brought it.
    fn receive(&mut self, sink: &mut dyn FnMut(i64, &[u8])) -> Result<Received, TlsError>;

    /// Queues plaintext behind whatever is unsent.
    fn send(&mut self, plaintext: &[u8]) -> Result<(), TlsError>;

    /// Hands on what the other side takes now; true if nothing is left.
    fn flush(&mut self) -> Result<bool, TlsError>;

    fn unsent_bytes(&self) -> usize;

    /// Whether the other side is gone, although what it sent before may not have been read.
    fn has_hung_up(&self) -> bool;
}

/// Who dials, as the handshake has shown.
pub(crate) struct Caller {
    pub device: DeviceId,
    pub turn: Turn,
    pub peer: SocketAddr,
    pub time_key: TimeKey,
    /// Where it may ask for the time; 0 for nowhere but in-band.
    pub udp_port: u16,
    /// Its certificate; none where there are none.
    pub shown: Option<Shown>,
}

pub(crate) struct Connection<W> {
    state: Arc<Reception>,
    wire: W,
    turn: Turn,
    peer: SocketAddr,
    protocol: Protocol,
    mailbox: Arc<Mailbox>,
    time_key: TimeKey,
    shown: Option<Shown>,
    renewal: Renewal,
    /// Certificates that were asked for.
    requests: u32,
    logs: BTreeMap<u16, Log>,
    told: HashMap<SessionId, Told>,
    /// Commands that were sent on this connection and are not answered.
    commanded: BTreeSet<CommandId>,
    waiting: VecDeque<Work>,
    room: Option<RoomFuture>,
    /// Runs that were handed in and not answered.
    outstanding: usize,
    acks_due: BTreeSet<u16>,
    credit_told: u64,
    ending: Option<End>,
    /// The hub goes down: nothing more is read, what was read is committed and acknowledged.
    draining: bool,
    unsent_since_ns: Option<i64>,
    ended_ns: Option<i64>,
    /// It was said that its control messages come too fast.
    is_paced: bool,
}

struct Log {
    handle: LogHandle,
    session: SessionId,
    durable: [u64; 2],
    safe: [u64; 2],
}

/// What a device was last told of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Join,
    Stop,
}

impl<W: Wire> Connection<W> {
    pub(crate) fn new(state: Arc<Reception>, wire: W, caller: Caller) -> Self {
        let Caller {
            device,
            turn,
            peer,
            time_key,
            udp_port,
            shown,
        } = caller;
        let now = state.clock.now();
        let config = state.config();
        let limits = &config.limits;
        let settings = Settings {
            hub: state.store.hub_id(),
            device,
            credit_bytes: u64::from(limits.credit_bytes),
            heartbeat_ms: limits.heartbeat_ms,
            idle_ms: limits.idle_timeout_ms,
            hello_timeout_ms: limits.hello_timeout_ms,
            hub_epoch: now.epoch,
            udp_port,
            packet_key: time_key.key,
            key_id: time_key.id,
            stamp_key: state.stamp_key.clone(),
        };
        let protocol = Protocol::new(settings, now.ns);
        Self {
            credit_told: protocol.credit(),
            state,
            wire,
            turn,
            peer,
            protocol,
            mailbox: Arc::default(),
            time_key,
            shown,
            renewal: Renewal::None,
            requests: 0,
            logs: BTreeMap::new(),
            told: HashMap::new(),
            commanded: BTreeSet::new(),
            waiting: VecDeque::new(),
            room: None,
            outstanding: 0,
            acks_due: BTreeSet::new(),
            ending: None,
            draining: false,
            unsent_since_ns: None,
            ended_ns: None,
            is_paced: false,
        }
    }

    /// What is to be done before each wait; true if the connection is over.
    pub(crate) fn turn(&mut self) -> Result<bool, TlsError> {
        self.hand_in();
        self.send_acks()?;
        self.flush()?;
        Ok(self.is_over())
    }

    /// The hub goes down: nothing more is read.
    pub(crate) fn drain(&mut self) {
        self.draining = true;
        self.ended_ns = Some(self.now().ns);
    }

    /// The connection has ended: nobody is to write to it any more.
    pub(crate) fn detach(&self) {
        self.state.attached.detach(self.protocol.device(), &self.mailbox);
    }

    /// Whether nothing is left to do: the protocol has ended, or the hub goes down and all that was read is committed.
    fn is_over(&mut self) -> bool {
        let settled = self.outstanding == 0 && self.waiting.is_empty();
        let too_late = self.ended_ns.is_some_and(|at| self.now().ns - at > DRAIN_NS);
        if self.draining && self.ending.is_none() && (settled || too_late) {
            let mut actions = Vec::new();
            self.protocol.close(RefusalCode::ShuttingDown, &mut actions);
            // The connection is given up either way.
            let _ = self.carry_out(actions).and_then(|()| self.flush());
        }
        self.ending.is_some() && (settled || too_late || self.mailbox.is_fenced())
    }

    pub(crate) fn may_read(&self) -> bool {
        self.ending.is_none()
            && !self.draining
            && self.waiting.is_empty()
            && self.outstanding < OUTSTANDING_MAX
            && self.wire.unsent_bytes() < UNSENT_BYTES_MAX
            && self.protocol.may_read(self.now().ns)
    }

    /// Whether the wire is left alone for the sake of control messages; the timer has to be set for its end.
    pub(crate) fn is_waiting_for_pace(&mut self) -> bool {
        let waits = self.protocol.readable_ns() > self.now().ns;
        if waits && !std::mem::replace(&mut self.is_paced, true) {
            let (device, peer) = (self.protocol.device(), self.peer);
            tracing::warn!(%device, %peer, "control messages come faster than {CONTROL_MESSAGES_PER_S} a second; they are read no faster");
        }
        waits
    }

    pub(crate) fn read(&mut self) -> Result<(), TlsError> {
        let mut actions = Vec::new();
        let protocol = &mut self.protocol;
        let received = self
            .wire
            .receive(&mut |recv_ns, piece| protocol.receive(recv_ns, piece, &mut actions));
        // What was whole before an error still counts.
        protocol.end_read(&mut actions);
        self.mailbox.heard(self.protocol.heard_ns());
        self.carry_out(actions)?;
        self.return_credit();
        match received? {
            Received::End { clean } => {
                tracing::trace!(clean, "the peer has closed");
                self.ending.get_or_insert(End::Bye);
                self.ended_ns.get_or_insert(self.now().ns);
            }
            Received::Some | Received::Nothing => {}
        }
        Ok(())
    }

    fn carry_out(&mut self, actions: Vec<Action>) -> Result<(), TlsError> {
        let mut queue = VecDeque::from(actions);
        while let Some(action) = queue.pop_front() {
            match action {
                Action::Send(message) => self.wire.send(&message)?,
                Action::Refuse(refusal) => self.refuse(&refusal)?,
                Action::Attached { agent, commands } => self.attach(Introduction {
                    agent,
                    takes_commands: commands,
                })?,
                Action::Certify(csr) => self.certify(csr)?,
                Action::Open { channel, open } => {
                    let device = self.protocol.device().clone();
                    self.waiting.push_back(Work::Open {
                        channel,
                        device,
                        open,
                    });
                }
                Action::Frames(run) => {
                    let mut more = Vec::new();
                    self.stage(run, &mut more);
                    queue.extend(more);
                }
                Action::Probe { request, hub_recv_ns } => {
                    let hub_recv = HubInstant {
                        epoch: self.now().epoch,
                        ns: hub_recv_ns,
                    };
                    let device = self.protocol.device();
                    let reply = self
                        .state
                        .time_keys
                        .reply(&request, &self.time_key.key, device, hub_recv);
                    self.wire
                        .send(&wire::message(MessageType::ProbeReply, 0, &reply))?;
                    self.state.metrics.probes.add(1);
                }
                Action::Heartbeat(heartbeat) => {
                    self.state.metrics.heartbeats.add(1);
                    self.state
                        .attached
                        .heard(self.protocol.device(), heartbeat, self.now().ns);
                }
                Action::Done(done) => {
                    self.commanded.remove(&done.id);
                    self.state.commands.done(self.protocol.device(), done);
                }
                Action::Close(end) => {
                    self.ending = Some(end);
                    self.ended_ns.get_or_insert(self.now().ns);
                }
            }
        }
        Ok(())
    }

    fn refuse(&mut self, refusal: &Refusal) -> Result<(), TlsError> {
        self.state.metrics.refused(refusal.code);
        let (device, peer, code) = (self.protocol.device(), self.peer, refusal.code);
        // What passes by itself would fill the log: a full disk refuses every frame of every device.
        if code.is_passing() {
            tracing::debug!(%device, %peer, %code, why = refusal.message, "refused");
        } else {
            tracing::warn!(target: "audit", %device, %peer, %code, why = refusal.message, "refused");
            self.state.tally.note(Refused {
                actor: self.actor(),
                action: "device.send",
                object: None,
                why: code.to_string(),
            });
        }
        self.wire.send(&refusal_message(refusal))
    }

    fn flush(&mut self) -> Result<(), TlsError> {
        if self.wire.unsent_bytes() == 0 {
            self.unsent_since_ns = None;
            return Ok(());
        }
        let before = self.wire.unsent_bytes();
        if self.wire.flush()? {
            self.unsent_since_ns = None;
        } else if self.unsent_since_ns.is_none() || self.wire.unsent_bytes() < before {
            self.unsent_since_ns = Some(self.now().ns);
        }
        Ok(())
    }

    fn shut(&mut self, reason: RefusalCode) -> Result<(), TlsError> {
        let mut actions = Vec::new();
        self.protocol.close(reason, &mut actions);
        self.carry_out(actions)
    }

    pub(crate) fn expire(&mut self) -> Result<(), TlsError> {
        let now_ns = self.now().ns;
        if self
            .unsent_since_ns
            .is_some_and(|since| now_ns - since >= self.send_timeout_ns())
        {
            return Err(TlsError::Deadline(self.state.config().limits.send_timeout_ms));
        }
        if self.protocol.readable_ns() > now_ns && self.wire.has_hung_up() {
            // Its place is wanted by others: what it left is read at once, and it can leave no more.
            self.protocol.lift_pace();
        }
        let mut actions = Vec::new();
        if self.may_read() || self.ending.is_some() {
            self.protocol.expire(now_ns, &mut actions);
        } else {
            // A device that is not read for want of room is not silent.
            self.protocol.excuse(now_ns);
            self.mailbox.heard(now_ns);
        }
        self.carry_out(actions)?;
        self.ask_for_renewal(false)
    }

    pub(crate) fn until_deadline(&self) -> Duration {
        let mut deadline_ns = self.protocol.deadline_ns();
        let now_ns = self.now().ns;
        let readable_ns = self.protocol.readable_ns();
        if readable_ns > now_ns {
            deadline_ns = deadline_ns
                .min(readable_ns)
                .min(now_ns.saturating_add(HANG_UP_NS));
        }
        if let Some(since) = self.unsent_since_ns {
            deadline_ns = deadline_ns.min(since.saturating_add(self.send_timeout_ns()));
        }
        if let Some(at) = self.ended_ns {
            deadline_ns = deadline_ns.min(at.saturating_add(DRAIN_NS));
        }
        let left_ns = u64::try_from(deadline_ns.saturating_sub(now_ns)).unwrap_or(0);
        // Whoever just began to take nothing is looked at within a second, although the timer was set before.
        Duration::from_nanos(left_ns).clamp(TIMER_LEAST, TIMER_MOST)
    }

    fn send_timeout_ns(&self) -> i64 {
        i64::try_from(self.state.config().limits.send_timeout_ms)
            .unwrap_or(i64::MAX)
            .saturating_mul(1_000_000)
    }

    fn now(&self) -> HubInstant {
        self.state.clock.now()
    }
}

/// Runs that one connection may have handed in.
const OUTSTANDING_MAX: usize = 64;
/// With so much unsent the socket is not read.
const UNSENT_BYTES_MAX: usize = 256 * 1024;
/// How long a hub that goes down waits for what was read to be committed.
const DRAIN_NS: i64 = 5_000_000_000;
/// A device that is not read for the sake of its pace is looked at so often: it may have gone.
const HANG_UP_NS: i64 = 500_000_000;
const TIMER_LEAST: Duration = Duration::from_millis(10);
const TIMER_MOST: Duration = Duration::from_secs(5);
