//! The device's side of the wire protocol, without any socket.
//!
//! Owns: channels, credit, what is written next, what each message of the hub means. Does not own: bytes on a
//! socket (`socket`), stamps (the caller puts them in right before the write).
//!
//! Invariants: live frames go before data frames; within a lane the oldest unacknowledged goes first; credit is
//! never passed; no refusal lets a sample go.

use std::time::{Duration, Instant};

use marey_format::frame::Header;
use marey_format::wire::{
    Ack, Certificate, Closed, Command, Hello, Join, MessageType, Open, Opened, Sent, Stop, Welcome,
    json_message, message, parse_json, put_message,
};
use marey_format::{Lane, Refusal, RefusalCode, limits, version};

use super::socket::Incoming;
use super::state::{CaptureId, Entry, State};
use crate::record::AckedFrame;

#[derive(Debug)]
pub(super) struct Conversation {
    pub(super) welcome: Option<Welcome>,
    channels: Vec<Channel>,
    credit: u64,
    /// Bytes of frames sent on this connection.
    spent: u64,
    paused_until: Option<Instant>,
    next_heartbeat: Option<Instant>,
    next_backlog: usize,
}

#[derive(Debug)]
struct Channel {
    number: u16,
    capture: CaptureId,
    stage: Stage,
    /// Frames refused for their checksum: once is the network, three times is the program.
    bad_crcs: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Opening,
    Open,
    /// Refused for now, or until the next connection.
    Refused {
        retry_at: Option<Instant>,
    },
}

/// What a message asks of the caller.
#[derive(Debug)]
pub(super) enum Effect {
    /// The hub has welcomed this connection.
    Welcomed,
    /// An ack arrived: a bound on the clock, and these frames are durable.
    Acknowledged {
        ack: Ack,
        dev_recv_ns: i64,
        frames: Vec<AckedFrame>,
    },
    /// Frames turned out to be durable when their epoch was opened.
    FoundDurable {
        frames: Vec<AckedFrame>,
    },
    ProbeReply {
        packet: Vec<u8>,
        dev_recv_ns: i64,
    },
    /// The hub wants a certificate renewed.
    RenewalAsked,
    /// A certificate that was asked for.
    Renewed(Certificate),
    /// The connection is over.
    End(Refusal),
}

impl Conversation {
    pub(super) fn new() -> Self {
        Self {
            welcome: None,
            channels: Vec::new(),
            credit: 0,
            spent: 0,
            paused_until: None,
            next_heartbeat: None,
            next_backlog: 0,
        }
    }

    pub(super) fn hello(state: &State, agent: &str) -> Vec<u8> {
        let hello = Hello {
            v: version::WIRE,
            device: Some(state.device.clone()),
            agent: Some(agent.to_owned()),
            commands: true,
        };
        json_message(MessageType::Hello, 0, &hello)
    }

    pub(super) fn bye() -> Vec<u8> {
        message(MessageType::Bye, 0, b"{}")
    }

    /// Appends what is to be written now. Returns where in `to` the sending time is to be put, as i64.
    pub(super) fn compose(
        &mut self,
        state: &mut State,
        now: Instant,
        now_ns: i64,
        to: &mut Vec<u8>,
    ) -> Vec<usize> {
        let mut stamps = Vec::new();
        let Some(welcome) = &self.welcome else {
            return stamps;
        };
        if self.next_heartbeat.is_none_or(|at| now >= at) {
            to.extend_from_slice(&json_message(MessageType::Heartbeat, 0, &state.heartbeat(now_ns)));
            self.next_heartbeat =
                Some(now + Duration::from_millis(welcome.heartbeat_ms.clamp(100, HEARTBEAT_MS_MAX)));
        }
        // Ahead of the events that they stand for: whoever has such an event has the answer.
        while let Some(done) = state.commands.answers.pop_front() {
            to.extend_from_slice(&json_message(MessageType::Done, 0, &done));
        }
        self.leave_stuck_channels(state);
        self.open_channels(state, now, to);
        if self.paused_until.is_some_and(|until| now < until) {
            return stamps;
        }
        self.paused_until = None;
        for at in 0..self.channels.len() {
            self.put_frames(at, Lane::Live, state, to, &mut stamps);
        }
        // One capture's data a write, in turns, so that a backlog and the present both go on.
        for turn in 0..self.channels.len() {
            let at = (self.next_backlog + turn) % self.channels.len();
            if self.put_frames(at, Lane::Data, state, to, &mut stamps) {
                self.next_backlog = at + 1;
                break;
            }
        }
        stamps
    }

    /// When something is to be written whatever happens.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let retries = self.channels.iter().filter_map(|channel| match channel.stage {
            Stage::Refused { retry_at } => retry_at,
            Stage::Opening | Stage::Open => None,
        });
        retries.chain(self.paused_until).chain(self.next_heartbeat).min()
    }

    /// Whether a capture waits for a channel that only a new connection can give.
    pub(super) fn has_run_out_of_channels(&self, state: &State) -> bool {
        let waits =
            |entry: &Entry| wants_channel(entry, state.current) && self.channel_of(entry.id).is_none();
        self.channels.len() >= limits::CHANNELS_PER_CONNECTION_MAX
            && state.entries.iter().any(waits)
            && self.channels.iter().all(|channel| {
                let entry = state.entries.iter().find(|entry| entry.id == channel.capture);
                entry.is_none_or(|entry| entry.capture.is_settled() && state.current != Some(entry.id))
                    || matches!(channel.stage, Stage::Refused { .. })
            })
    }

    pub(super) fn on_message(
        &mut self,
        incoming: Incoming,
        state: &mut State,
        now: Instant,
        now_ns: i64,
    ) -> Result<Option<Effect>, Refusal> {
        let (kind, body) = (incoming.kind, incoming.body.as_slice());
        let malformed = || Refusal::new(RefusalCode::Malformed, format!("a {kind:?} message of the hub"));
        match kind {
            MessageType::Welcome => {
                let welcome: Welcome = parse_json(kind, body)?;
                if welcome.v != version::WIRE || welcome.device != state.device {
                    let message = format!("the hub speaks version {} to {}", welcome.v, welcome.device);
                    return Err(Refusal::new(RefusalCode::Version, message));
                }
                self.credit = welcome.credit;
                self.welcome = Some(welcome);
                return Ok(Some(Effect::Welcomed));
            }
            MessageType::Join => {
                let join: Join = parse_json(kind, body)?;
                state.joined(join.session);
            }
            MessageType::Opened => {
                let opened: Opened = parse_json(kind, body)?;
                return Ok(self.on_opened(incoming.channel, &opened, state, now_ns));
            }
            MessageType::Ack => {
                let ack = Ack::parse(body).ok_or_else(malformed)?;
                let frames = self.on_ack(incoming.channel, &ack, state)?;
                return Ok(Some(Effect::Acknowledged {
                    ack,
                    dev_recv_ns: incoming.dev_recv_ns,
                    frames,
                }));
            }
            MessageType::Command => state.commanded(parse_json::<Command>(kind, body)?, now_ns),
            MessageType::Stop => state.stop(&parse_json::<Stop>(kind, body)?),
            MessageType::Refused => {
                let refusal: Refusal = parse_json(kind, body)?;
                tracing::info!(%refusal, "refused");
                state.refused(refusal.clone());
                return Ok(self.on_refused(refusal, incoming.channel, state, now, now_ns));
            }
            MessageType::Closed => {
                let closed: Closed = parse_json(kind, body)?;
                let refusal = Refusal::new(closed.reason, "the hub closed it");
                state.refused(refusal.clone());
                if incoming.channel == 0 {
                    return Ok(Some(Effect::End(refusal)));
                }
                self.refuse_channel(incoming.channel, refusal, None, state);
            }
            MessageType::Renew => return Ok(Some(Effect::RenewalAsked)),
            MessageType::Certificate => return Ok(Some(Effect::Renewed(parse_json(kind, body)?))),
            MessageType::ProbeReply => {
                let (packet, dev_recv_ns) = (incoming.body, incoming.dev_recv_ns);
                return Ok(Some(Effect::ProbeReply { packet, dev_recv_ns }));
            }
            // What only devices send.
            _ => return Err(malformed()),
        }
        Ok(None)
    }

    /// The hub waits for a frame that had to go to make room, and takes none behind it: the epoch is opened anew, on
    /// another channel, and what is missing becomes a gap.
    fn leave_stuck_channels(&mut self, state: &mut State) {
        let stuck: Vec<CaptureId> = state
            .entries
            .iter()
            .filter(|entry| entry.capture.buffer.is_stuck())
            .map(|entry| entry.id)
            .collect();
        for id in stuck {
            self.forget_channel(id);
            if let Some(entry) = state.entry(id) {
                entry.is_open = false;
                entry.capture.buffer.disconnected();
            }
        }
    }

    /// Opens a channel for each capture that needs one, the current first.
    fn open_channels(&mut self, state: &mut State, now: Instant, to: &mut Vec<u8>) {
        let current = state.current;
        let mut wanting: Vec<CaptureId> = state
            .entries
            .iter()
            .filter(|entry| wants_channel(entry, current))
            .map(|entry| entry.id)
            .collect();
        wanting.sort_by_key(|id| Some(*id) != current);
        for id in wanting {
            let number = match self.channel_of(id) {
                None if self.channels.len() >= limits::CHANNELS_PER_CONNECTION_MAX => continue,
                None => {
                    let number = u16::try_from(self.channels.len() + 1).expect("channels are few");
                    self.channels.push(Channel {
                        number,
                        capture: id,
                        stage: Stage::Opening,
                        bad_crcs: 0,
                    });
                    number
                }
                Some(at) => match self.channels[at].stage {
                    Stage::Refused {
                        retry_at: Some(retry_at),
                    } if now >= retry_at => {
                        self.channels[at].stage = Stage::Opening;
                        self.channels[at].number
                    }
                    _ => continue,
                },
            };
            let capture = &state.entry(id).expect("it was just found").capture;
            let open = Open {
                session: capture.session().clone(),
                epoch: capture.epoch(),
                boot: capture.boot(),
                highest_ack: capture.buffer.highest_ack(),
            };
            to.extend_from_slice(&json_message(MessageType::Open, number, &open));
        }
    }

    /// Appends frames of one lane of one channel; true if there was one.
    fn put_frames(
        &mut self,
        at: usize,
        lane: Lane,
        state: &mut State,
        to: &mut Vec<u8>,
        stamps: &mut Vec<usize>,
    ) -> bool {
        let channel = &self.channels[at];
        let (number, id) = (channel.number, channel.capture);
        let Some(entry) = state.entry(id).filter(|entry| entry.blocked.is_none()) else {
            return false;
        };
        if channel.stage != Stage::Open {
            return false;
        }
        let (mut frames, mut sequences) = (Vec::new(), (1, 0));
        let mut body = Vec::new();
        while let Some(held) = entry.capture.buffer.next(lane).cloned() {
            let length = u64::from(held.header.length);
            let is_full = !frames.is_empty() && frames.len() + length as usize > WRITE_BYTES_MAX;
            if is_full || self.spent + length > self.credit {
                break;
            }
            body.clear();
            if let Err(error) = entry.capture.buffer.load(&held, &mut body) {
                tracing::error!(%error, "a frame that was kept can't be read");
                entry.blocked = Some(Refusal::new(RefusalCode::StorageFailed, error.to_string()));
                break;
            }
            put_message(&mut frames, MessageType::Frame, number, &body);
            self.spent += length;
            let sequence = held.header.sequence;
            if lane == Lane::Data {
                sequences = if sequences.1 < sequences.0 {
                    (sequence, sequence)
                } else {
                    (sequences.0, sequence)
                };
            }
            entry.capture.buffer.sent(lane, sequence);
        }
        if frames.is_empty() {
            return false;
        }
        let sent = Sent {
            dev_send_ns: 0,
            sequences,
        };
        put_message(to, MessageType::Sent, number, &sent.to_bytes());
        stamps.push(to.len() - Sent::BYTES);
        to.extend_from_slice(&frames);
        true
    }

    fn on_opened(&mut self, number: u16, opened: &Opened, state: &mut State, now_ns: i64) -> Option<Effect> {
        let channel = self
            .channels
            .iter_mut()
            .find(|channel| channel.number == number)?;
        channel.stage = Stage::Open;
        let id = channel.capture;
        let entry = state.entry(id)?;
        let capture = &mut entry.capture;
        let ours = [
            capture.next_sequence(Lane::Data),
            capture.next_sequence(Lane::Live),
        ];
        if opened
            .next
            .lanes()
            .iter()
            .zip(ours)
            .any(|(theirs, ours)| *theirs > ours)
        {
            // The hub knows frames of this epoch that this program does not: its counters are not to be trusted.
            let why = Refusal::new(
                RefusalCode::SequenceReused,
                "the hub holds more of the epoch than was counted here",
            );
            self.forget_channel(id);
            state.begin_epoch_anew(id, why, now_ns);
            return None;
        }
        entry.is_open = true;
        entry.stop_requested |= !opened.recording;
        match capture.buffer.opened(opened.next, &opened.holes) {
            Ok(headers) => Some(Effect::FoundDurable {
                frames: acked(entry, headers),
            }),
            Err(error) => {
                state.last_error = Some(error.to_string());
                None
            }
        }
    }

    fn on_ack(&mut self, number: u16, ack: &Ack, state: &mut State) -> Result<Vec<AckedFrame>, Refusal> {
        self.credit = self.credit.max(ack.credit);
        let channel = self.channels.iter().find(|channel| channel.number == number);
        let Some(entry) = channel.and_then(|channel| state.entry(channel.capture)) else {
            return Ok(Vec::new());
        };
        let ours = [
            entry.capture.next_sequence(Lane::Data),
            entry.capture.next_sequence(Lane::Live),
        ];
        if ack.durable.iter().zip(ours).any(|(theirs, ours)| *theirs > ours) {
            let message = format!("an ack of {:?}, where {ours:?} are made", ack.durable);
            return Err(Refusal::new(RefusalCode::Malformed, message));
        }
        let settled = entry
            .capture
            .buffer
            .acknowledged(ack.durable, ack.safe)
            .and_then(|headers| {
                entry.capture.compact()?;
                Ok(headers)
            });
        match settled {
            Ok(headers) => Ok(acked(entry, headers)),
            Err(error) => {
                // The hub has it all the same; a restart will only send some frames again.
                state.last_error = Some(error.to_string());
                Ok(Vec::new())
            }
        }
    }

    fn on_refused(
        &mut self,
        refusal: Refusal,
        number: u16,
        state: &mut State,
        now: Instant,
        now_ns: i64,
    ) -> Option<Effect> {
        let number = refusal.channel.unwrap_or(number);
        let wait = Duration::from_millis(refusal.retry_after_ms.unwrap_or(RETRY_MS).clamp(10, RETRY_MS_MAX));
        if number == 0 {
            if refusal.code.is_passing() {
                self.paused_until = Some(now + wait);
                return (refusal.code == RefusalCode::ShuttingDown).then_some(Effect::End(refusal));
            }
            let goes_on = matches!(
                refusal.code,
                RefusalCode::BadProbe | RefusalCode::BadHeartbeat | RefusalCode::MalformedRequest
            );
            return (!goes_on).then_some(Effect::End(refusal));
        }
        let Some(frame) = refusal.frame else {
            let retry_at = refusal.code.is_passing().then(|| now + wait);
            self.refuse_channel(number, refusal, retry_at, state);
            return None;
        };
        let at = self
            .channels
            .iter()
            .position(|channel| channel.number == number)?;
        let id = self.channels[at].capture;
        let lane = if frame.lane == Lane::Live as u8 {
            Lane::Live
        } else {
            Lane::Data
        };
        let buffer = &mut state.entry(id)?.capture.buffer;
        match refusal.code {
            // Evidence that the hub can't use holds no sample, and is all that is ever let go.
            RefusalCode::BadProbe => {
                if let Err(error) = buffer.forget(lane, frame.sequence) {
                    state.last_error = Some(error.to_string());
                }
            }
            RefusalCode::BadCrc if self.channels[at].bad_crcs < BAD_CRCS_MAX => {
                self.channels[at].bad_crcs += 1;
                buffer.refused(lane, frame.sequence);
            }
            RefusalCode::UndeclaredStream if self.channels[at].bad_crcs < BAD_CRCS_MAX => {
                self.channels[at].bad_crcs += 1;
                buffer.rewind(Lane::Live, 0);
                buffer.refused(lane, frame.sequence);
                self.paused_until = Some(now + wait);
            }
            code if code.is_passing() => {
                buffer.refused(lane, frame.sequence);
                self.paused_until = Some(now + wait);
            }
            _ => {
                self.forget_channel(id);
                state.begin_epoch_anew(id, refusal, now_ns);
            }
        }
        None
    }

    fn refuse_channel(
        &mut self,
        number: u16,
        refusal: Refusal,
        retry_at: Option<Instant>,
        state: &mut State,
    ) {
        let Some(channel) = self.channels.iter_mut().find(|channel| channel.number == number) else {
            return;
        };
        channel.stage = Stage::Refused { retry_at };
        let Some(entry) = state.entry(channel.capture) else {
            return;
        };
        entry.is_open = false;
        entry.stop_requested |= refusal.code == RefusalCode::SessionClosed;
        entry.capture.buffer.disconnected();
        state.last_error = Some(refusal.to_string());
    }

    /// The capture is opened anew, under another number: nothing on the old one concerns it any more.
    fn forget_channel(&mut self, id: CaptureId) {
        for channel in self.channels.iter_mut().filter(|channel| channel.capture == id) {
            channel.stage = Stage::Refused { retry_at: None };
            channel.capture = CaptureId::MAX;
        }
    }

    fn channel_of(&self, id: CaptureId) -> Option<usize> {
        self.channels.iter().position(|channel| channel.capture == id)
    }
}

fn wants_channel(entry: &Entry, current: Option<CaptureId>) -> bool {
    let is_captured = current == Some(entry.id) && !entry.capture.has_ended();
    entry.blocked.is_none() && (is_captured || entry.capture.buffer.held_bytes() > 0)
}

fn acked(entry: &Entry, headers: Vec<Header>) -> Vec<AckedFrame> {
    let capture = &entry.capture;
    let name = |header| AckedFrame {
        session: capture.session().clone(),
        epoch: capture.epoch(),
        header,
    };
    headers.into_iter().map(name).collect()
}

/// So that what is stamped is written soon after, and live frames and probes get their turn.
const WRITE_BYTES_MAX: usize = 64 << 10;
const HEARTBEAT_MS_MAX: u64 = 3_000;
const RETRY_MS: u64 = 1_000;
const RETRY_MS_MAX: u64 = 60_000;
const BAD_CRCS_MAX: u32 = 3;

#[cfg(test)]
#[path = "conversation_tests.rs"]
mod tests;
