//! Notes: what the hub has to say of a session while it is recorded. They stand in the devices' logs, and are durable when
//! the call returns.

use super::{Inner, Store};
use crate::error::{SessionError, StorageError};
use crate::session::SessionState;
use crate::time::HubInstant;
use marey_format::payload::Event;
use marey_format::{DeviceId, SessionId, limits};
use std::collections::BTreeMap;

/// One note.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    /// Whose log it belongs into; where that device has none, or none is named, the session's first log by name.
    pub device: Option<DeviceId>,
    /// At most [`limits::LABEL_BYTES_MAX`] bytes of text; more are cut off.
    pub event: Event,
}

/// Why nothing was noted.
#[derive(Debug, thiserror::Error)]
pub enum NoteError {
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error("no device has a log in session {0} yet; there is nothing to note it in")]
    NoLog(SessionId),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl Store {
    /// Writes notes into logs of a session that is being recorded, all with one sync. Gives their moment.
    ///
    /// # Errors
    /// [`NoteError`]: nothing was noted, or after a failure of the disk it may have been.
    pub fn note(&self, id: &SessionId, notes: &[Note]) -> Result<HubInstant, NoteError> {
        self.ensure_loaded(id)?;
        let (now, wall) = (self.clock.now(), self.clock.wall());
        let mut inner = self.inner();
        inner.check()?;
        let guard = &mut *inner;
        let slot = guard.sessions.get(id);
        let session = &slot.ok_or_else(|| SessionError::Unknown(id.clone()))?.session;
        if session.state != SessionState::Recording {
            return Err(session.state_error("note", "recording").into());
        }
        let first = guard.first_log(id).ok_or_else(|| NoteError::NoLog(id.clone()))?;
        let mut touched = BTreeMap::new();
        for note in notes {
            let own = note
                .device
                .as_ref()
                .and_then(|device| guard.by_name.get(&(id.clone(), device.clone())));
            let number = own.copied().unwrap_or(first);
            let log = &mut guard.logs[number as usize];
            touched.entry(number).or_insert_with(|| log.end());
            // A log that was opened in an earlier life of the hub's clock.
            if log.state.wall.is_none_or(|known| known.hub_epoch != now.epoch) {
                log.wall(&wall, now);
            }
            log.note(&within_limits(&note.event), now);
        }
        let logs: Vec<u32> = touched.keys().copied().collect();
        let commit = self.stage(guard, touched);
        self.drive(inner, commit)?;
        for log in logs {
            self.settle(log)?;
        }
        Ok(now)
    }
}

impl Inner {
    fn first_log(&self, id: &SessionId) -> Option<u32> {
        let of_session = self.by_name.iter().filter(|((session, _), _)| session == id);
        of_session
            .min_by_key(|((_, device), _)| device)
            .map(|(_, &number)| number)
    }
}

fn within_limits(event: &Event) -> Event {
    let mut event = event.clone();
    for text in [Some(&mut event.kind), event.text.as_mut()].into_iter().flatten() {
        let end = (0..=limits::LABEL_BYTES_MAX.min(text.len()))
            .rev()
            .find(|&at| text.is_char_boundary(at));
        text.truncate(end.unwrap_or(0));
    }
    event
}
