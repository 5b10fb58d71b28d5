//! Sessions of which the disk could not read everything when they were sealed: where, and when to try again.
//!
//! Owns the list and what is said of it in the log. Sealing is `state`'s, trying again is `maintenance`'s. Recording is
//! never held up by it: what can't be read is in a log that was synced long ago.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use marey_engine::compact::{CompactError, Manifest};
use marey_engine::time::HubInstant;
use marey_engine::{SealError, Sealed, Session, SessionState, Store};
use marey_format::SessionId;

/// What can't be read, by session.
#[derive(Debug, Default)]
pub(crate) struct Quarantine {
    held: Mutex<BTreeMap<SessionId, Held>>,
}

#[derive(Debug)]
struct Held {
    /// Each with file, offset and what is missing because of it.
    places: Vec<String>,
    /// Not tried again before this hub time.
    again_ns: i64,
}

impl Quarantine {
    /// What earlier runs of the hub left: by the manifests, without reading logs.
    pub(crate) fn of(store: &Store, now: HubInstant) -> Self {
        let quarantine = Self::default();
        for session in store.sessions() {
            if session.state != SessionState::Sealed {
                continue;
            }
            match Manifest::read(&**store.disk(), &Session::dir(&session.id)) {
                Ok(Some(manifest)) => {
                    let places: Vec<String> = manifest.left_out().map(ToString::to_string).collect();
                    if !places.is_empty() {
                        quarantine.hold(&session.id, places, now.ns);
                    }
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(session = %session.id, %error, "what was published can't be read")
                }
            }
        }
        quarantine
    }

    /// A session was sealed, or was to be, in this time.
    pub(crate) fn sealed(
        &self,
        id: &SessionId,
        sealed: &Result<Sealed, SealError>,
        from: HubInstant,
        to: HubInstant,
    ) {
        let places: Vec<String> = match sealed {
            Ok(sealed) => sealed
                .compacted
                .unreadable()
                .iter()
                .map(ToString::to_string)
                .collect(),
            Err(SealError::Compact(error @ CompactError::Unreadable { .. })) => vec![error.to_string()],
            Err(_) => return,
        };
        if places.is_empty() {
            if self.lock().remove(id).is_some() {
                tracing::info!(session = %id, "what could not be read could be read again");
            }
            return;
        }
        // Each try reads all of the session: a long one is tried less often.
        let pause_ns = RETRY_NS.max(to.ns.saturating_sub(from.ns).saturating_mul(RETRY_PAUSE));
        self.hold(id, places, to.ns.saturating_add(pause_ns));
    }

    /// Whether it is time to try a session again.
    pub(crate) fn is_due(&self, id: &SessionId, now: HubInstant) -> bool {
        self.lock().get(id).is_some_and(|held| now.ns >= held.again_ns)
    }

    /// Forgets sessions that are gone, or closed for good.
    pub(crate) fn keep(&self, sessions: &[Session]) {
        self.lock()
            .retain(|id, _| sessions.iter().any(|session| session.id == *id));
    }

    /// Every place.
    pub(crate) fn places(&self) -> Vec<String> {
        let held = self.lock();
        let named = held.iter().flat_map(|(id, held)| {
            held.places
                .iter()
                .map(move |place| format!("session {id}: {place}"))
        });
        named.collect()
    }

    fn hold(&self, id: &SessionId, places: Vec<String>, again_ns: i64) {
        let mut held = self.lock();
        let known = held.get(id).map(|held| &held.places);
        for place in &places {
            if known.is_none_or(|known| !known.contains(place)) {
                tracing::error!(session = %id, %place, "the disk fails to read a log; recording goes on, and it is tried again");
            }
        }
        held.insert(id.clone(), Held { places, again_ns });
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SessionId, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session that could not be read as a whole is tried again after so long, in nanoseconds.
const RETRY_NS: i64 = 600_000_000_000;
/// At least so many times what the last try took.
const RETRY_PAUSE: i64 = 20;
