//! Which devices are connected, and what they last said of themselves.
//!
//! One connection for each device: a newer one fences the older before it can open a log. Newer is what was accepted
//! later: the hello of an older one may be under way for longer than its device waited. What a device said last is kept
//! after it has gone; there are no more entries than enrolled devices.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use marey_engine::LogHandle;
use marey_format::wire::Heartbeat;
use marey_format::{DeviceId, RefusalCode, SessionId};

use crate::mailbox::Mailbox;

/// All devices that have been seen since the start.
#[derive(Debug, Default)]
pub(crate) struct Attached {
    devices: Mutex<BTreeMap<DeviceId, Presence>>,
    accepted: AtomicU64,
}

/// The how-manyeth connection it is that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Turn(u64);

#[derive(Debug)]
struct Presence {
    mailbox: Option<Arc<Mailbox>>,
    turn: Turn,
    peer: SocketAddr,
    agent: Option<String>,
    heard_ns: i64,
    heartbeat: Option<Heartbeat>,
}

/// What is known of a device's connection.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub attached: bool,
    pub peer: SocketAddr,
    pub agent: Option<String>,
    /// Hub time at which it was last heard, give or take a few seconds while it sends.
    pub heard_ns: i64,
    pub heartbeat: Option<Heartbeat>,
}

impl Attached {
    /// A connection was accepted: to be called in the order in which they were.
    pub(crate) fn accepted(&self) -> Turn {
        Turn(self.accepted.fetch_add(1, Ordering::Relaxed))
    }

    /// A device has said hello on a connection; an older one of it is fenced, or this one if it is the older.
    pub(crate) fn attach(
        &self,
        device: &DeviceId,
        mailbox: &Arc<Mailbox>,
        (turn, peer): (Turn, SocketAddr),
        agent: Option<String>,
        now_ns: i64,
    ) {
        let mut devices = self.devices();
        if devices.get(device).is_some_and(|known| known.turn > turn) {
            return mailbox.fence(RefusalCode::Replaced);
        }
        let heartbeat = devices.get_mut(device).and_then(|before| {
            if let Some(older) = &before.mailbox {
                older.fence(RefusalCode::Replaced);
            }
            before.heartbeat.take()
        });
        let mailbox = Some(mailbox.clone());
        devices.insert(
            device.clone(),
            Presence {
                mailbox,
                turn,
                peer,
                agent,
                heard_ns: now_ns,
                heartbeat,
            },
        );
    }

    /// A connection has ended.
    pub(crate) fn detach(&self, device: &DeviceId, mailbox: &Arc<Mailbox>) {
        if let Some(presence) = self.devices().get_mut(device)
            && presence
                .mailbox
                .as_ref()
                .is_some_and(|own| Arc::ptr_eq(own, mailbox))
        {
            presence.mailbox = None;
        }
    }

    /// A device has said how it is.
    pub(crate) fn heard(&self, device: &DeviceId, heartbeat: Heartbeat, now_ns: i64) {
        if let Some(presence) = self.devices().get_mut(device) {
            presence.heard_ns = now_ns;
            presence.heartbeat = Some(heartbeat);
        }
    }

    /// Something of a device was heard, whatever it was.
    pub(crate) fn touch(&self, device: &DeviceId, heard_ns: i64) {
        if let Some(presence) = self.devices().get_mut(device) {
            presence.heard_ns = presence.heard_ns.max(heard_ns);
        }
    }

    /// Ends the connection of a device, if it has one. Nothing that it handed in is committed any more.
    pub(crate) fn cut(&self, device: &DeviceId, reason: RefusalCode) {
        if let Some(mailbox) = self.devices().get(device).and_then(|p| p.mailbox.clone()) {
            mailbox.fence(reason);
        }
    }

    /// Tells every connection to look at the sessions again.
    pub(crate) fn sessions_changed(&self) {
        for mailbox in self.mailboxes() {
            mailbox.post(|mail| mail.sessions_changed = true);
        }
    }

    /// The open logs of a session, with the connections that have them open.
    pub(crate) fn logs_of(&self, session: &SessionId) -> Vec<(Arc<Mailbox>, LogHandle)> {
        let of_session = |mailbox: Arc<Mailbox>| {
            mailbox
                .logs_of(session)
                .into_iter()
                .map(move |handle| (mailbox.clone(), handle))
                .collect::<Vec<_>>()
        };
        self.mailboxes().into_iter().flat_map(of_session).collect()
    }

    /// What is known of a device.
    pub(crate) fn seen(&self, device: &DeviceId) -> Option<Seen> {
        self.devices().get(device).map(|p| Seen {
            attached: p.mailbox.is_some(),
            peer: p.peer,
            agent: p.agent.clone(),
            heard_ns: p.heard_ns,
            heartbeat: p.heartbeat.clone(),
        })
    }

    /// How many devices are attached.
    pub(crate) fn count(&self) -> usize {
        self.devices().values().filter(|p| p.mailbox.is_some()).count()
    }

    fn mailboxes(&self) -> Vec<Arc<Mailbox>> {
        self.devices()
            .values()
            .filter_map(|p| p.mailbox.clone())
            .collect()
    }

    fn devices(&self) -> MutexGuard<'_, BTreeMap<DeviceId, Presence>> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_connection_fences_the_older_and_outlives_its_end() {
        let attached = Attached::default();
        let phone = DeviceId::new("phone").expect("a name");
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let (old, new) = (Arc::new(Mailbox::default()), Arc::new(Mailbox::default()));
        let (first, second) = (attached.accepted(), attached.accepted());
        attached.attach(&phone, &old, (first, peer), None, 1);
        let beat = Heartbeat {
            timestamp_ms: 5,
            device_info: serde_json::Map::new(),
        };
        attached.heard(&phone, beat.clone(), 2);
        attached.attach(&phone, &new, (second, peer), Some("app".into()), 3);
        assert!(old.is_fenced() && !new.is_fenced());
        assert_eq!(old.take().close, Some(RefusalCode::Replaced));
        attached.detach(&phone, &old);
        assert_eq!(attached.count(), 1, "the older one's end is not the newer one's");
        let seen = attached.seen(&phone).expect("seen");
        assert_eq!((seen.heard_ns, seen.heartbeat), (3, Some(beat)));
        attached.cut(&phone, RefusalCode::Revoked);
        assert!(new.is_fenced());
        attached.detach(&phone, &new);
        assert_eq!(attached.count(), 0);
    }

    #[test]
    fn an_older_connection_that_says_hello_late_is_the_one_that_goes() {
        let attached = Attached::default();
        let phone = DeviceId::new("phone").expect("a name");
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let (old, new) = (Arc::new(Mailbox::default()), Arc::new(Mailbox::default()));
        let (first, second) = (attached.accepted(), attached.accepted());
        attached.attach(&phone, &new, (second, peer), None, 1);
        attached.attach(&phone, &old, (first, peer), None, 2);
        assert!(old.is_fenced() && !new.is_fenced());
        attached.detach(&phone, &old);
        assert_eq!(attached.count(), 1);
        // Nor does it come in when the newer one has gone: what it has under way is from before.
        attached.detach(&phone, &new);
        let older = Arc::new(Mailbox::default());
        attached.attach(&phone, &older, (first, peer), None, 3);
        assert!(older.is_fenced() && attached.count() == 0);
    }
}
