//! The protocol of one connection, as `wire.md` has it: bytes and time in, actions out.
//!
//! Pure: no socket, no clock, no thread, no engine. The shell in `connection` feeds it plaintext with the stamp of the
//! read that brought it, carries out its [`Action`]s, and tells it what became of them.
//!
//! Invariants: nothing is allocated before its length was held against its limit; no frame leaves here whose form and
//! checksum were not verified; what one connection holds is bounded by its credit and one read; after a fatal refusal
//! nothing more is taken.

mod assembly;
mod channel;
mod pace;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use marey_format::clock::{Direction, PacketKey, StampKey, TimePacket};
use marey_format::limits::CHANNELS_PER_CONNECTION_MAX;
use marey_format::types::{KeyId, hex};
use marey_format::version;
use marey_format::wire::{
    self, Closed, Command, Csr, Done, Heartbeat, Hello, Join, MessageHeader, MessageType, Open, Opened, Sent,
    Stop, TimeService, Welcome,
};
use marey_format::{DeviceId, HubEpoch, Refusal, RefusalCode, Seed, SessionId, StreamName};

use self::assembly::{Assembly, Step};
use self::channel::{Channel, Verdict};
pub use self::channel::{FrameHead, Run};
use self::pace::Pace;

/// What a connection is told about its hub and its limits. Thousands are held: nothing stands here in the form of a message.
#[derive(Clone, Debug)]
pub struct Settings {
    pub hub: [u8; 16],
    /// The device that the certificate names.
    pub device: DeviceId,
    /// Bytes of frames that may be under way.
    pub credit_bytes: u64,
    /// How often a silent device sends a heartbeat.
    pub heartbeat_ms: u64,
    /// Silence after which the connection is closed.
    pub idle_ms: u64,
    /// Time from the handshake to a complete hello.
    pub hello_timeout_ms: u64,
    /// Which life of the hub's clock stamps belong to.
    pub hub_epoch: HubEpoch,
    /// Where to ask for the time; 0 for nowhere but in-band.
    pub udp_port: u16,
    /// The key of this connection's time packets, and its id.
    pub packet_key: PacketKey,
    pub key_id: KeyId,
    /// The hub's own key over stamps.
    pub stamp_key: Arc<StampKey>,
}

/// What the shell is to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Send these bytes: a whole message.
    Send(Vec<u8>),
    /// The device has said hello and was welcomed: it takes the place of an older connection, and is asked to join what
    /// is being recorded.
    Attached { agent: Option<String>, commands: bool },
    /// Open a log; answer with [`Protocol::opened`] or [`Protocol::open_refused`].
    Open { channel: u16, open: Open },
    /// Commit these frames; answer with [`Protocol::resolved`].
    Frames(Run),
    /// Answer an in-band probe that was received at `hub_recv_ns`.
    Probe { request: TimePacket, hub_recv_ns: i64 },
    /// The device asks for a certificate of a new key.
    Certify(Csr),
    /// Keep the device's state.
    Heartbeat(Heartbeat),
    /// The device has answered a command.
    Done(Done),
    /// Send this refusal, count it, audit it.
    Refuse(Refusal),
    /// Send what is unsent and close. Nothing more comes.
    Close(End),
}

/// Why the protocol ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The device said bye.
    Bye,
    /// A refusal after which nothing can go on.
    Refused(RefusalCode),
    /// The device was silent too long.
    Idle,
    /// The hub ended it, for this reason.
    Hub(RefusalCode),
}

/// The state of one connection.
#[derive(Debug)]
pub struct Protocol {
    settings: Settings,
    phase: Phase,
    assembly: Assembly,
    channels: BTreeMap<u16, Channel>,
    run: Option<Run>,
    /// Bytes of the last run: the next one will have about as many.
    run_bytes: usize,
    sent: Option<(u16, Sent)>,
    /// No frame has come since that.
    sent_alone: bool,
    pace: Pace,
    /// Bytes of frame bodies whose messages have begun.
    received_bytes: u64,
    /// Bytes of frame bodies that were committed, dropped or refused.
    resolved_bytes: u64,
    began_ns: i64,
    heard_ns: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Hello,
    Attached,
    Over,
}

impl Protocol {
    /// A connection whose handshake ended at `now_ns`.
    pub fn new(settings: Settings, now_ns: i64) -> Self {
        Self {
            settings,
            phase: Phase::Hello,
            assembly: Assembly::default(),
            channels: BTreeMap::new(),
            run: None,
            run_bytes: 0,
            sent: None,
            sent_alone: false,
            pace: Pace::new(now_ns),
            received_bytes: 0,
            resolved_bytes: 0,
            began_ns: now_ns,
            heard_ns: now_ns,
        }
    }

    /// Takes a piece of plaintext that was read at `recv_ns`. Call [`Protocol::end_read`] after the last piece of a
    /// read.
    pub fn receive(&mut self, recv_ns: i64, mut piece: &[u8], actions: &mut Vec<Action>) {
        self.heard_ns = self.heard_ns.max(recv_ns);
        while (!piece.is_empty() || self.assembly.step_is_due()) && self.phase != Phase::Over {
            let step = match self.assembly.step(&mut piece) {
                Ok(step) => step,
                Err(refusal) => return self.fail(refusal, actions),
            };
            match step {
                Step::More => {}
                Step::Begun(header) => self.begin(header, recv_ns, actions),
                Step::FramePiece(bytes) => self.frame_piece(bytes, recv_ns),
                Step::FrameDone(header) => self.frame_done(header, recv_ns, actions),
                Step::Body(header, body) => self.message(header, &body, recv_ns, actions),
            }
        }
    }

    /// The end of one read of the socket: complete frames go to be committed.
    pub fn end_read(&mut self, actions: &mut Vec<Action>) {
        if let Some(run) = self.run.take() {
            let (done, rest) = run.split_unfinished();
            if let Some(done) = &done {
                self.run_bytes = done.bytes.len().min(RUN_BYTES_HINT_MAX);
            }
            actions.extend(done.map(Action::Frames));
            self.run = rest;
        }
    }

    /// Whether more may be read: a device that has passed its credit is not read until it is within it again, one that
    /// sends control messages without end no faster than it may.
    pub fn may_read(&self, now_ns: i64) -> bool {
        self.phase != Phase::Over
            && self.received_bytes - self.resolved_bytes <= self.settings.credit_bytes
            && self.readable_ns() <= now_ns
    }

    /// Hub time before which no more is read for the sake of control messages that came; in the past, if they are few.
    pub fn readable_ns(&self) -> i64 {
        self.pace.readable_ns()
    }

    /// No more will come than what is under way: control messages are read as they are.
    pub fn lift_pace(&mut self) {
        self.pace.lift();
    }

    /// Bytes of frames that may have been sent on this connection in all, for welcome and acks.
    pub fn credit(&self) -> u64 {
        self.resolved_bytes + self.settings.credit_bytes
    }

    /// Frames of this many bytes (bodies) were committed, dropped as duplicates, or refused.
    pub fn resolved(&mut self, bytes: u64) {
        self.resolved_bytes = (self.resolved_bytes + bytes).min(self.received_bytes);
    }

    /// The log that was asked for is open.
    pub fn opened(&mut self, channel: u16, opened: &Opened, actions: &mut Vec<Action>) {
        if self.phase != Phase::Over
            && let Some(slot) = self.channels.get_mut(&channel)
            && slot.open()
        {
            slot.durable(opened.next.lanes());
            actions.push(Action::Send(wire::json_message(
                MessageType::Opened,
                channel,
                opened,
            )));
        }
    }

    /// For each lane of a channel, all below is durable.
    pub fn durable(&mut self, channel: u16, durable: [u64; 2], actions: &mut Vec<Action>) {
        let Some(slot) = self.channels.get_mut(&channel) else {
            return;
        };
        for frame in slot.durable(durable) {
            let message = "it came while an earlier one was waited for; send on from it";
            let mut refusal = Refusal::new(RefusalCode::SlowDown, message);
            refusal.channel = Some(channel);
            refusal.frame = Some(frame);
            actions.push(Action::Refuse(refusal));
        }
    }

    /// The log that was asked for cannot be opened.
    pub fn open_refused(&mut self, channel: u16, mut refusal: Refusal, actions: &mut Vec<Action>) {
        self.channels.remove(&channel);
        refusal.channel = Some(channel);
        actions.push(Action::Refuse(refusal));
    }

    /// A frame that was handed out is refused after all. Later ones of its lane are dropped until it comes again.
    pub fn frame_refused(&mut self, channel: u16, mut refusal: Refusal, actions: &mut Vec<Action>) {
        if let (Some(slot), Some(frame)) = (self.channels.get_mut(&channel), refusal.frame) {
            slot.refused(frame.lane, frame.sequence, refusal.code);
        }
        refusal.channel = Some(channel);
        actions.push(Action::Refuse(refusal));
    }

    /// Asks the device to take part in a session.
    pub fn join(&self, session: &SessionId, streams: Option<&[StreamName]>, actions: &mut Vec<Action>) {
        if self.phase == Phase::Attached {
            let join = Join {
                session: session.clone(),
                streams: streams.map(<[_]>::to_vec),
            };
            actions.push(Action::Send(wire::json_message(MessageType::Join, 0, &join)));
        }
    }

    /// Tells the device that a session's captures end.
    pub fn stop(&self, session: &SessionId, grace_ms: u64, actions: &mut Vec<Action>) {
        if self.phase == Phase::Attached {
            let stop = Stop {
                session: session.clone(),
                grace_ms,
            };
            actions.push(Action::Send(wire::json_message(MessageType::Stop, 0, &stop)));
        }
    }

    /// Hands the device a command.
    pub fn command(&self, command: &Command, actions: &mut Vec<Action>) {
        if self.phase == Phase::Attached {
            actions.push(Action::Send(wire::json_message(MessageType::Command, 0, command)));
        }
    }

    /// Closes the channels of a session that takes nothing more; what is under way on them is dropped.
    pub fn close_session(&mut self, session: &SessionId, reason: RefusalCode, actions: &mut Vec<Action>) {
        if self.phase == Phase::Over {
            return;
        }
        for (&channel, slot) in &mut self.channels {
            if slot.session() == session && slot.close() {
                actions.push(Action::Send(wire::json_message(
                    MessageType::Closed,
                    channel,
                    &Closed { reason },
                )));
            }
        }
    }

    /// Ends the connection from the hub's side.
    pub fn close(&mut self, reason: RefusalCode, actions: &mut Vec<Action>) {
        if self.phase == Phase::Over {
            return;
        }
        self.end_read(actions);
        if self.phase == Phase::Attached {
            actions.push(Action::Send(wire::json_message(
                MessageType::Closed,
                0,
                &Closed { reason },
            )));
        } else {
            let message = "the hub ended the connection before the hello";
            actions.push(Action::Refuse(Refusal::new(reason, message)));
        }
        self.end(End::Hub(reason), actions);
    }

    /// When [`Protocol::expire`] should be called next, in hub time.
    pub fn deadline_ns(&self) -> i64 {
        match self.phase {
            Phase::Hello => after_ms(self.began_ns, self.settings.hello_timeout_ms),
            _ => after_ms(self.heard_ns, self.settings.idle_ms),
        }
    }

    /// Hub time at which the device was last heard.
    pub fn heard_ns(&self) -> i64 {
        self.heard_ns
    }

    /// The device could not be heard until now, for reasons that are not its own.
    pub fn excuse(&mut self, now_ns: i64) {
        self.heard_ns = self.heard_ns.max(now_ns);
    }

    /// Ends the connection if the device has been silent too long.
    pub fn expire(&mut self, now_ns: i64, actions: &mut Vec<Action>) {
        if self.phase == Phase::Over || now_ns < self.deadline_ns() {
            return;
        }
        self.end_read(actions);
        self.end(End::Idle, actions);
    }

    /// The device of this connection.
    pub fn device(&self) -> &DeviceId {
        &self.settings.device
    }

    /// The session of a channel that is open or being opened.
    pub fn session_of(&self, channel: u16) -> Option<&SessionId> {
        self.channels
            .get(&channel)
            .filter(|slot| !slot.is_closed())
            .map(Channel::session)
    }

    /// Whether the device was welcomed and the connection is not over.
    pub fn is_attached(&self) -> bool {
        self.phase == Phase::Attached
    }

    /// Channels that are open or being opened.
    pub fn channels(&self) -> usize {
        self.channels.values().filter(|c| !c.is_closed()).count()
    }

    /// Bytes of memory that unfinished messages take.
    pub fn held_bytes(&self) -> usize {
        self.assembly.held_bytes() + self.run.as_ref().map_or(0, Run::held_bytes)
    }

    fn begin(&mut self, header: MessageHeader, recv_ns: i64, actions: &mut Vec<Action>) {
        if self.phase == Phase::Hello && header.kind != MessageType::Hello {
            let message = format!("a {:?} message before the hello", header.kind);
            return self.fail(Refusal::new(RefusalCode::Unexpected, message), actions);
        }
        if header.kind as u8 >= FIRST_DOWN {
            let message = format!("a {:?} message, which only the hub sends", header.kind);
            return self.fail(Refusal::new(RefusalCode::Unexpected, message), actions);
        }
        if header.kind != MessageType::Frame {
            return;
        }
        self.sent_alone = false;
        self.received_bytes += u64::from(header.length);
        let open = self.channels.get(&header.channel).is_some_and(Channel::is_open);
        let fits = self.run.as_ref().is_none_or(|run| run.channel == header.channel);
        if !fits {
            self.end_read(actions);
        }
        if open {
            let sent = self
                .sent
                .filter(|(channel, _)| *channel == header.channel)
                .map(|(_, sent)| sent);
            let run = self
                .run
                .get_or_insert_with(|| Run::new(header.channel, recv_ns, self.run_bytes));
            run.begin_frame(sent);
        }
    }

    fn frame_piece(&mut self, bytes: &[u8], recv_ns: i64) {
        if let Some(run) = self.run.as_mut().filter(|run| run.in_frame()) {
            run.push(bytes, recv_ns);
        }
    }

    fn frame_done(&mut self, header: MessageHeader, recv_ns: i64, actions: &mut Vec<Action>) {
        let Some(run) = self.run.as_mut().filter(|run| run.in_frame()) else {
            self.resolved(u64::from(header.length));
            let closed = self.channels.get(&header.channel).is_some_and(Channel::is_closed);
            if !closed {
                let message = format!("a frame on channel {}, which is not open", header.channel);
                let mut refusal = Refusal::new(RefusalCode::Unexpected, message);
                refusal.channel = Some(header.channel);
                actions.push(Action::Refuse(refusal));
                self.pace.count(recv_ns);
            }
            return;
        };
        let slot = self
            .channels
            .get_mut(&header.channel)
            .expect("a run is begun on an open channel only");
        let verdict = slot.judge(run.unfinished(), &self.settings);
        match verdict {
            Verdict::Take(head) => run.finish_frame(head),
            Verdict::Drop => {
                run.drop_frame();
                self.resolved(u64::from(header.length));
            }
            Verdict::Refuse(mut refusal) => {
                run.drop_frame();
                self.pace.count(recv_ns);
                self.resolved(u64::from(header.length));
                refusal.channel = Some(header.channel);
                if ends_connection(refusal.code) {
                    self.fail(refusal, actions);
                } else {
                    actions.push(Action::Refuse(refusal));
                }
            }
        }
    }

    fn message(&mut self, header: MessageHeader, body: &[u8], recv_ns: i64, actions: &mut Vec<Action>) {
        // Every frame may bring its time of sending along: that is part of the frame.
        let with_frame = header.kind == MessageType::Sent && !std::mem::replace(&mut self.sent_alone, true);
        if !with_frame {
            self.pace.count(recv_ns);
        }
        let result = match header.kind {
            MessageType::Hello => self.hello(body, actions),
            MessageType::Open => self.open(header.channel, body, actions),
            MessageType::Heartbeat => self.heartbeat(body, actions),
            MessageType::Done => wire::parse_json(header.kind, body).map(|done| {
                actions.push(Action::Done(done));
            }),
            MessageType::Csr => wire::parse_json(header.kind, body).map(|csr| {
                actions.push(Action::Certify(csr));
            }),
            MessageType::Bye => {
                self.end_read(actions);
                self.end(End::Bye, actions);
                Ok(())
            }
            MessageType::Sent => self.sent(header.channel, body),
            MessageType::Probe => {
                self.probe(body, recv_ns, actions);
                Ok(())
            }
            // Refused when their headers came.
            _ => Ok(()),
        };
        if let Err(mut refusal) = result {
            if header.channel != 0 {
                refusal.channel = Some(header.channel);
            }
            if ends_connection(refusal.code) {
                self.fail(refusal, actions);
            } else {
                actions.push(Action::Refuse(refusal));
            }
        }
    }

    fn hello(&mut self, body: &[u8], actions: &mut Vec<Action>) -> Result<(), Refusal> {
        if self.phase != Phase::Hello {
            return Err(Refusal::new(RefusalCode::Unexpected, "a second hello"));
        }
        let hello: Hello = wire::parse_json(MessageType::Hello, body)?;
        if hello.v != version::WIRE {
            let message = format!(
                "this hub speaks version {} of the protocol, the hello {}",
                version::WIRE,
                hello.v
            );
            return Err(Refusal::new(RefusalCode::Version, message));
        }
        if let Some(named) = hello.device
            && named != self.settings.device
        {
            let message = format!(
                "the hello names {named}, the certificate {}",
                self.settings.device
            );
            return Err(Refusal::new(RefusalCode::WrongDevice, message));
        }
        self.phase = Phase::Attached;
        let welcome = Welcome {
            v: version::WIRE,
            hub: hex(&self.settings.hub),
            device: self.settings.device.clone(),
            credit: self.credit(),
            heartbeat_ms: self.settings.heartbeat_ms,
            idle_ms: self.settings.idle_ms,
            hub_epoch: self.settings.hub_epoch,
            time: Some(TimeService {
                udp_port: self.settings.udp_port,
                key_id: self.settings.key_id,
                key: hex(&self.settings.packet_key.0),
            }),
        };
        actions.push(Action::Send(wire::json_message(
            MessageType::Welcome,
            0,
            &welcome,
        )));
        actions.push(Action::Attached {
            agent: hello.agent,
            commands: hello.commands,
        });
        Ok(())
    }

    fn heartbeat(&self, body: &[u8], actions: &mut Vec<Action>) -> Result<(), Refusal> {
        let heartbeat = Heartbeat::parse(body)?;
        if let Some(named) = heartbeat.device()
            && *named != self.settings.device
        {
            let message = format!(
                "the heartbeat names {named}, the certificate {}",
                self.settings.device
            );
            return Err(Refusal::new(RefusalCode::WrongDevice, message));
        }
        actions.push(Action::Heartbeat(heartbeat));
        Ok(())
    }

    fn open(&mut self, channel: u16, body: &[u8], actions: &mut Vec<Action>) -> Result<(), Refusal> {
        let open: Open = wire::parse_json(MessageType::Open, body)?;
        if channel == 0 {
            return Err(Refusal::new(
                RefusalCode::Malformed,
                "channel 0 is the connection's own; open 1 to 65535",
            ));
        }
        if self.channels.get(&channel).is_some_and(|slot| !slot.is_closed()) {
            let message = format!("channel {channel} is open already");
            return Err(Refusal::new(RefusalCode::Unexpected, message));
        }
        if self.channels() >= CHANNELS_PER_CONNECTION_MAX {
            let message = format!("{CHANNELS_PER_CONNECTION_MAX} channels are open, which is the most");
            return Err(Refusal::new(RefusalCode::TooMany, message));
        }
        // Closed channels are kept only so that late frames on them are dropped in silence.
        if self.channels.len() >= 2 * CHANNELS_PER_CONNECTION_MAX {
            self.channels.retain(|_, slot| !slot.is_closed());
        }
        let seed = Seed::new(&self.settings.device, &open.session, &open.epoch);
        self.channels
            .insert(channel, Channel::opening(open.session.clone(), seed));
        actions.push(Action::Open { channel, open });
        Ok(())
    }

    fn sent(&mut self, channel: u16, body: &[u8]) -> Result<(), Refusal> {
        let Some(sent) = Sent::parse(body) else {
            let message = format!(
                "a sent message of {} bytes, where it takes {}",
                body.len(),
                Sent::BYTES
            );
            return Err(Refusal::new(RefusalCode::Malformed, message));
        };
        self.sent = Some((channel, sent));
        Ok(())
    }

    /// Answers nothing that does not pass, like the UDP service.
    fn probe(&mut self, body: &[u8], hub_recv_ns: i64, actions: &mut Vec<Action>) {
        if let Some(request) = TimePacket::parse(body, &self.settings.packet_key)
            && request.direction == Direction::Request
            && request.key_id == self.settings.key_id.0
        {
            actions.push(Action::Probe { request, hub_recv_ns });
        }
    }

    fn fail(&mut self, refusal: Refusal, actions: &mut Vec<Action>) {
        let code = refusal.code;
        if let Some(run) = &mut self.run {
            run.drop_frame();
        }
        self.end_read(actions);
        actions.push(Action::Refuse(refusal));
        self.end(End::Refused(code), actions);
    }

    fn end(&mut self, end: End, actions: &mut Vec<Action>) {
        self.phase = Phase::Over;
        self.run = None;
        self.assembly = Assembly::default();
        actions.push(Action::Close(end));
    }
}

/// The message of a refusal.
pub fn refusal_message(refusal: &Refusal) -> Vec<u8> {
    wire::json_message(MessageType::Refused, refusal.channel.unwrap_or(0), refusal)
}

/// Refusals after which the two sides no longer agree on what the bytes mean, or on who is talking.
fn ends_connection(code: RefusalCode) -> bool {
    matches!(
        code,
        RefusalCode::Malformed
            | RefusalCode::Version
            | RefusalCode::MessageTooLarge
            | RefusalCode::FrameTooLarge
            | RefusalCode::WrongDevice
    )
}

fn after_ms(from_ns: i64, ms: u64) -> i64 {
    from_ns.saturating_add(i64::try_from(ms).unwrap_or(i64::MAX).saturating_mul(1_000_000))
}

/// Room for one run that is made in advance, at most.
const RUN_BYTES_HINT_MAX: usize = 128 << 10;

/// Message types from here on go from hub to device.
const FIRST_DOWN: u8 = 0x80;
