//! What a device is told of sessions: to join, to stop, that something is closed.
//!
//! Level-triggered: at each change the connection compares what there is with what it has said, so that nothing is missed
//! and nothing said twice.

use std::collections::BTreeSet;

use marey_engine::{Actor, SessionState};
use marey_format::{RefusalCode, SessionId};

use super::{Connection, Told, Wire};
use crate::attached::Introduction;
use crate::tally::Connected;
use crate::tls::TlsError;

impl<W: Wire> Connection<W> {
    pub(super) fn attach(&mut self, introduction: Introduction) -> Result<(), TlsError> {
        let now_ns = self.now().ns;
        self.state.attached.attach(
            self.protocol.device(),
            &self.mailbox,
            (self.turn, self.peer),
            introduction,
            now_ns,
        );
        self.state.tally.connected(Connected {
            actor: self.actor(),
            device: self.protocol.device().to_string(),
            from: self.peer.ip(),
        });
        self.look_at_standing()?;
        self.look_at_sessions()
    }

    /// The device, by the certificate that it showed.
    pub(super) fn actor(&self) -> Actor {
        Actor::Device {
            device: self.protocol.device().as_str().to_owned(),
            serial: self.shown.as_ref().map(|shown| shown.serial_hex.clone()),
        }
    }

    /// Tells the device what it was not told yet: to join what records, to stop what stops, that something is closed.
    pub(super) fn look_at_sessions(&mut self) -> Result<(), TlsError> {
        if !self.protocol.is_attached() {
            return Ok(());
        }
        let sessions = self.state.sessions();
        let mut actions = Vec::new();
        let device = self.protocol.device().clone();
        let recording = |state| state == SessionState::Recording;
        // Live in one session at most: the one that was started first.
        let joined = sessions.iter().find(|s| recording(s.state) && s.admits(&device));
        if let Some(session) = joined
            && self.told.get(&session.id) != Some(&Told::Join)
        {
            self.told.insert(session.id.clone(), Told::Join);
            self.protocol.join(&session.id, None, &mut actions);
        }
        for session in sessions
            .iter()
            .filter(|s| matches!(s.state, SessionState::Stopping | SessionState::Sealed))
        {
            let takes_part = self.told.contains_key(&session.id) || self.has_open(&session.id);
            if takes_part && self.told.get(&session.id) != Some(&Told::Stop) {
                self.told.insert(session.id.clone(), Told::Stop);
                self.protocol.stop(
                    &session.id,
                    self.state.config().session.stop_grace_ms,
                    &mut actions,
                );
            }
        }
        let is_there = |id: &SessionId| sessions.iter().any(|s| s.id == *id);
        let gone: BTreeSet<SessionId> = self
            .logs
            .values()
            .map(|log| &log.session)
            .filter(|id| !is_there(id))
            .cloned()
            .collect();
        for session in &gone {
            self.protocol
                .close_session(session, RefusalCode::SessionClosed, &mut actions);
        }
        self.logs.retain(|_, log| !gone.contains(&log.session));
        self.told.retain(|id, _| is_there(id));
        self.publish_logs();
        self.carry_out(actions)
    }

    /// Sends the commands of sessions that the device has open, each once on this connection.
    pub(super) fn send_commands(&mut self) -> Result<(), TlsError> {
        let waiting = self.state.commands.of(self.protocol.device());
        self.commanded
            .retain(|id| waiting.iter().any(|command| command.id == *id));
        let mut actions = Vec::new();
        for command in waiting {
            if self.has_open(&command.session) && self.commanded.insert(command.id) {
                self.protocol.command(&command, &mut actions);
            }
        }
        self.carry_out(actions)
    }

    pub(super) fn has_open(&self, session: &SessionId) -> bool {
        self.logs.values().any(|log| log.session == *session)
    }
}
