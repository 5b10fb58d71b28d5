//! The connection's side of ingest: runs become batches and are handed in, results come back and become acks.

use bytes::Bytes;
use marey_engine::time::HubInstant;
use marey_engine::{Batch, OpenedLog, SessionState, Stamp};
use marey_format::frame::Lane;
use marey_format::wire::{self, Ack, MessageType, Opened};
use marey_format::{Refusal, RefusalCode, SessionId};

use super::{Connection, Log, Wire};
use crate::ingest::{Frames, Room, Work};
use crate::mailbox::RunResult;
use crate::protocol::{Action, Run};
use crate::tls::TlsError;

impl<W: Wire> Connection<W> {
    /// Makes a batch of a run. The protocol has verified the frames under the seed of the same log.
    pub(super) fn stage(&mut self, run: Run, actions: &mut Vec<Action>) {
        let bytes: u64 = run.frames.iter().map(|f| u64::from(f.header.length)).sum();
        let Some(log) = self.logs.get(&run.channel) else {
            self.protocol.resolved(bytes);
            return;
        };
        let heads = run
            .frames
            .iter()
            .map(|head| (*head, run.dev_send_ns(head)))
            .collect::<Vec<_>>();
        let (channel, hub) = (
            run.channel,
            HubInstant {
                epoch: self.now().epoch,
                ns: run.recv_ns,
            },
        );
        let whole = Bytes::from(run.bytes);
        let mut batch = Batch::new();
        let mut firsts = [None; 2];
        let mut refused = [false; 2];
        for (head, dev_send_ns) in heads {
            let lane = usize::from(head.header.lane != Lane::Data);
            if refused[lane] {
                continue;
            }
            let frame = whole.slice(head.offset..head.offset + head.header.length as usize);
            match batch.push(log.handle, frame, Stamp { hub, dev_send_ns }) {
                Ok(()) => {
                    firsts[lane].get_or_insert(head.header.sequence);
                }
                Err(refusal) => {
                    refused[lane] = true;
                    self.protocol.frame_refused(channel, refusal, actions);
                }
            }
        }
        let handle = log.handle;
        self.waiting.push_back(Work::Frames(Frames {
            channel,
            handle,
            batch,
            firsts,
            bytes,
        }));
    }

    /// Hands in what waits, as long as there is room.
    pub(super) fn hand_in(&mut self) {
        while self.room.is_none()
            && let Some(work) = self.waiting.front()
        {
            match self.state.ingest.try_room(work.bytes()) {
                Some(room) => self.submit_first(room),
                None => self.room = Some(self.state.ingest.room(work.bytes())),
            }
        }
    }

    pub(crate) fn hand_in_with(&mut self, room: Option<Room>) -> Result<(), TlsError> {
        match room {
            Some(room) => self.submit_first(room),
            None => {
                self.waiting.clear();
                self.shut(RefusalCode::ShuttingDown)?;
            }
        }
        Ok(())
    }

    pub(super) fn submit_first(&mut self, room: Room) {
        if let Some(work) = self.waiting.pop_front() {
            self.outstanding += 1;
            self.state.ingest.submit(room, work, &self.mailbox);
        }
    }

    /// Takes what the rest of the hub has to say.
    pub(crate) fn collect(&mut self) -> Result<(), TlsError> {
        let mail = self.mailbox.take();
        for result in mail.results {
            self.settle(result)?;
        }
        for (channel, opened) in mail.opened {
            self.outstanding -= 1;
            self.opened(channel, opened)?;
        }
        for (handle, safe) in mail.safe {
            for (channel, log) in self.logs.iter_mut().filter(|(_, log)| log.handle == handle) {
                log.safe = safe;
                self.acks_due.insert(*channel);
            }
        }
        if let Some(certified) = mail.certified {
            self.certified(certified)?;
        }
        if mail.certificates_changed {
            self.certificates_changed()?;
        }
        if mail.sessions_changed {
            self.look_at_sessions()?;
        }
        if mail.commands {
            self.send_commands()?;
        }
        if let Some(reason) = mail.close {
            self.waiting.clear();
            self.room = None;
            self.shut(reason)?;
        }
        Ok(())
    }

    pub(super) fn settle(&mut self, result: RunResult) -> Result<(), TlsError> {
        self.outstanding -= 1;
        self.protocol.resolved(result.bytes);
        let mut actions = Vec::new();
        if let Some(log) = self.logs.get_mut(&result.channel) {
            log.durable = result.durable.unwrap_or(log.durable);
            self.protocol.durable(result.channel, log.durable, &mut actions);
            self.acks_due.insert(result.channel);
        }
        for refusal in result.refusals {
            self.protocol.frame_refused(result.channel, refusal, &mut actions);
        }
        self.carry_out(actions)
    }

    pub(super) fn opened(
        &mut self,
        channel: u16,
        opened: Result<OpenedLog, Refusal>,
    ) -> Result<(), TlsError> {
        let mut actions = Vec::new();
        match opened {
            Ok(log) => {
                let Some(session) = self.protocol.session_of(channel).cloned() else {
                    return Ok(());
                };
                let message = Opened {
                    session: session.clone(),
                    next: log.next,
                    holes: log.holes,
                    recording: log.recording,
                };
                self.protocol.opened(channel, &message, &mut actions);
                if log.proven_loss != [0; 2] {
                    let (device, lost) = (self.protocol.device(), log.proven_loss);
                    self.state.metrics.proven_losses.add(1);
                    tracing::error!(target: "audit", %device, %session, ?lost, "acknowledged frames are not here");
                }
                let durable = log.next.lanes();
                let safe = if self.is_safe(&session) { durable } else { [0; 2] };
                self.logs.insert(
                    channel,
                    Log {
                        handle: log.handle,
                        session,
                        durable,
                        safe,
                    },
                );
                self.publish_logs();
                self.carry_out(std::mem::take(&mut actions))?;
                self.send_commands()?;
            }
            Err(refusal) => self.protocol.open_refused(channel, refusal, &mut actions),
        }
        self.carry_out(actions)
    }

    /// Whether all of a session is sealed.
    pub(super) fn is_safe(&self, session: &SessionId) -> bool {
        let sessions = self.state.sessions();
        let sealed = sessions
            .iter()
            .any(|s| s.id == *session && s.state == SessionState::Sealed);
        sealed && !self.state.store.has_late_frames(session)
    }

    pub(super) fn publish_logs(&self) {
        self.mailbox.set_logs(
            self.logs
                .values()
                .map(|log| (log.session.clone(), log.handle))
                .collect(),
        );
    }

    /// Frames that were refused or dropped without a commit give their credit back too: some ack has to say so.
    pub(super) fn return_credit(&mut self) {
        let nothing_comes = self.outstanding == 0 && self.waiting.is_empty();
        if nothing_comes
            && self.protocol.credit() > self.credit_told
            && let Some(channel) = self.logs.keys().next()
        {
            self.acks_due.insert(*channel);
        }
    }

    pub(super) fn send_acks(&mut self) -> Result<(), TlsError> {
        while let Some(channel) = self.acks_due.pop_first() {
            let Some(log) = self.logs.get(&channel) else {
                continue;
            };
            let (credit, now) = (self.protocol.credit(), self.state.clock.now());
            let tag = self
                .state
                .stamp_key
                .tag(self.protocol.device(), now.epoch, 0, 0, 0, now.ns);
            let ack = Ack {
                durable: log.durable,
                safe: log.safe,
                credit,
                hub_epoch: now.epoch,
                hub_send_ns: now.ns,
                tag,
            };
            self.wire
                .send(&wire::message(MessageType::Ack, channel, &ack.to_bytes()))?;
            self.credit_told = credit;
            self.state.metrics.acks.add(1);
        }
        Ok(())
    }
}
