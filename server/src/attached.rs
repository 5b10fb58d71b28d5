//! Which devices are connected, and what they last said of themselves.
//!
//! One connection for each device: a newer one fences the older before it can open a log. Newer is what was accepted
//! later: the hello of an older one may be under way for longer than its device waited. What a device said last is kept
//! after it has gone; there are no more entries than enrolled devices.
//!
//! A device is *online* while it is connected and heard; *late* when three heartbeats are missing and nothing else was
//! heard either; *offline* when its connection has ended. [`Attached::look`] finds the changes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use marey_engine::LogHandle;
use marey_format::wire::Heartbeat;
use marey_format::{DeviceId, RefusalCode, SessionId};
use serde::{Deserialize, Serialize};

use crate::mailbox::Mailbox;

/// All devices that have been seen since the start.
#[derive(Debug)]
pub(crate) struct Attached {
    devices: Mutex<BTreeMap<DeviceId, Presence>>,
    accepted: AtomicU64,
    late_ns: i64,
}

/// Whether a device is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceState {
    /// Connected and heard.
    Online,
    /// Connected, and silent for three heartbeats.
    Late,
    /// Not connected.
    #[default]
    Offline,
}

impl DeviceState {
    /// All of them, the best first.
    pub const ALL: [Self; 3] = [Self::Online, Self::Late, Self::Offline];

    /// As it stands in JSON, metrics and notes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Late => "late",
            Self::Offline => "offline",
        }
    }
}

impl std::fmt::Display for DeviceState {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.pad(self.as_str())
    }
}

/// What a device says of itself in its hello.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Introduction {
    pub agent: Option<String>,
    pub takes_commands: bool,
}

/// A device's state is another one than at the last look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub device: DeviceId,
    pub from: DeviceState,
    pub to: DeviceState,
    pub silent_ns: i64,
}

/// The how-manyeth connection it is that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Turn(u64);

#[derive(Debug)]
struct Presence {
    mailbox: Option<Arc<Mailbox>>,
    turn: Turn,
    peer: SocketAddr,
    introduction: Introduction,
    heard_ns: i64,
    heartbeat: Option<Heartbeat>,
    /// At the last look, and when it became that.
    state: DeviceState,
    since_ns: i64,
}

/// What is known of a device's connection.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub attached: bool,
    pub peer: SocketAddr,
    pub agent: Option<String>,
    pub takes_commands: bool,
    /// Hub time at which it was last heard.
    pub heard_ns: i64,
    pub heartbeat: Option<Heartbeat>,
    pub state: DeviceState,
    /// Hub time of the last look that found it changed.
    pub since_ns: i64,
}

impl Attached {
    /// `heartbeat_ms` is what devices are asked for.
    pub(crate) fn new(heartbeat_ms: u64) -> Self {
        let late_ms = heartbeat_ms.saturating_mul(HEARTBEATS_MISSED);
        Self {
            devices: Mutex::default(),
            accepted: AtomicU64::new(0),
            late_ns: i64::try_from(late_ms)
                .unwrap_or(i64::MAX)
                .saturating_mul(1_000_000),
        }
    }

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
        introduction: Introduction,
        now_ns: i64,
    ) {
        let mut devices = self.devices();
        if devices.get(device).is_some_and(|known| known.turn > turn) {
            return mailbox.fence(RefusalCode::Replaced);
        }
        let before = devices.remove(device);
        if let Some(older) = before.as_ref().and_then(|before| before.mailbox.as_ref()) {
            older.fence(RefusalCode::Replaced);
        }
        let (state, since_ns) = before.as_ref().map_or((DeviceState::Offline, now_ns), |before| {
            (before.state, before.since_ns)
        });
        mailbox.heard(now_ns);
        let mailbox = Some(mailbox.clone());
        devices.insert(
            device.clone(),
            Presence {
                mailbox,
                turn,
                peer,
                introduction,
                heard_ns: now_ns,
                heartbeat: before.and_then(|before| before.heartbeat),
                state,
                since_ns,
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
            presence.heard_ns = presence.heard_ns();
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

    /// Looks at every device, and gives those whose state is another one than at the last look.
    pub(crate) fn look(&self, now_ns: i64) -> Vec<Change> {
        let mut devices = self.devices();
        let changed = devices.iter_mut().filter_map(|(device, presence)| {
            let (from, to) = (presence.state, presence.state_at(now_ns, self.late_ns));
            (from != to).then(|| {
                (presence.state, presence.since_ns) = (to, now_ns);
                Change {
                    device: device.clone(),
                    from,
                    to,
                    silent_ns: now_ns - presence.heard_ns(),
                }
            })
        });
        changed.collect()
    }

    /// Tells the connection of a device to look for commands.
    pub(crate) fn commands_wait(&self, device: &DeviceId) {
        if let Some(mailbox) = self.devices().get(device).and_then(|p| p.mailbox.clone()) {
            mailbox.post(|mail| mail.commands = true);
        }
    }

    /// Ends the connection of a device, if it has one. Nothing that it handed in is committed any more.
    pub(crate) fn cut(&self, device: &DeviceId, reason: RefusalCode) {
        if let Some(mailbox) = self.devices().get(device).and_then(|p| p.mailbox.clone()) {
            mailbox.fence(reason);
        }
    }

    /// Tells every connection to look at its certificate again.
    pub(crate) fn certificates_changed(&self) {
        for mailbox in self.mailboxes() {
            mailbox.post(|mail| mail.certificates_changed = true);
        }
    }

    /// The same for the connection of one device; whether it has one.
    pub(crate) fn certificate_changed(&self, device: &DeviceId) -> bool {
        let mailbox = self.devices().get(device).and_then(|p| p.mailbox.clone());
        let is_there = mailbox.is_some();
        if let Some(mailbox) = mailbox {
            mailbox.post(|mail| mail.certificates_changed = true);
        }
        is_there
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
    pub(crate) fn seen(&self, device: &DeviceId, now_ns: i64) -> Option<Seen> {
        let devices = self.devices();
        devices.get(device).map(|p| p.seen(now_ns, self.late_ns))
    }

    /// The same of all that were ever attached since the start.
    pub(crate) fn all_seen(&self, now_ns: i64) -> Vec<(DeviceId, Seen)> {
        let devices = self.devices();
        let seen = devices
            .iter()
            .map(|(device, p)| (device.clone(), p.seen(now_ns, self.late_ns)));
        seen.collect()
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

impl Presence {
    fn heard_ns(&self) -> i64 {
        let heard_ns = self
            .mailbox
            .as_ref()
            .map_or(i64::MIN, |mailbox| mailbox.heard_ns());
        heard_ns.max(self.heard_ns)
    }

    fn state_at(&self, now_ns: i64, late_ns: i64) -> DeviceState {
        match &self.mailbox {
            None => DeviceState::Offline,
            Some(_) if now_ns.saturating_sub(self.heard_ns()) > late_ns => DeviceState::Late,
            Some(_) => DeviceState::Online,
        }
    }

    fn seen(&self, now_ns: i64, late_ns: i64) -> Seen {
        Seen {
            attached: self.mailbox.is_some(),
            peer: self.peer,
            agent: self.introduction.agent.clone(),
            takes_commands: self.introduction.takes_commands,
            heard_ns: self.heard_ns(),
            heartbeat: self.heartbeat.clone(),
            state: self.state_at(now_ns, late_ns),
            since_ns: self.since_ns,
        }
    }
}

/// So many are missing when a device is late.
const HEARTBEATS_MISSED: u64 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    fn anonymous() -> Introduction {
        Introduction::default()
    }

    #[test]
    fn online_late_online_offline_each_told_once() {
        const MS: i64 = 1_000_000;
        let attached = Attached::new(3_000);
        let phone = DeviceId::new("phone").expect("a name");
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let mailbox = Arc::new(Mailbox::default());
        attached.attach(&phone, &mailbox, (attached.accepted(), peer), anonymous(), 0);
        let changes = |now_ms: i64| -> Vec<_> {
            let changes = attached.look(now_ms * MS);
            changes
                .into_iter()
                .map(|c| (c.from, c.to, c.silent_ns / MS))
                .collect()
        };
        use DeviceState::{Late, Offline, Online};
        assert_eq!(changes(1), [(Offline, Online, 1)]);
        assert_eq!(
            changes(9_000),
            [],
            "three heartbeats are not missed before they are over"
        );
        assert_eq!(changes(9_001), [(Online, Late, 9_001)]);
        assert_eq!(changes(20_000), []);
        // Whatever it sends is a sign of life.
        mailbox.heard(20_000 * MS);
        assert_eq!(changes(20_001), [(Late, Online, 1)]);
        attached.detach(&phone, &mailbox);
        assert_eq!(changes(20_500), [(Online, Offline, 500)]);
        assert_eq!(changes(90_000), []);
        let seen = attached.seen(&phone, 91_000 * MS).expect("it was there");
        assert_eq!((seen.state, seen.since_ns), (Offline, 20_500 * MS));
    }

    #[test]
    fn a_newer_connection_fences_the_older_and_outlives_its_end() {
        let attached = Attached::new(3_000);
        let phone = DeviceId::new("phone").expect("a name");
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let (old, new) = (Arc::new(Mailbox::default()), Arc::new(Mailbox::default()));
        let (first, second) = (attached.accepted(), attached.accepted());
        attached.attach(&phone, &old, (first, peer), anonymous(), 1);
        let beat = Heartbeat::short(5, serde_json::Map::new());
        attached.heard(&phone, beat.clone(), 2);
        attached.attach(&phone, &new, (second, peer), anonymous(), 3);
        assert!(old.is_fenced() && !new.is_fenced());
        assert_eq!(old.take().close, Some(RefusalCode::Replaced));
        attached.detach(&phone, &old);
        assert_eq!(attached.count(), 1, "the older one's end is not the newer one's");
        let seen = attached.seen(&phone, 4).expect("seen");
        assert_eq!((seen.heard_ns, seen.heartbeat), (3, Some(beat)));
        attached.cut(&phone, RefusalCode::Revoked);
        assert!(new.is_fenced());
        attached.detach(&phone, &new);
        assert_eq!(attached.count(), 0);
    }

    #[test]
    fn an_older_connection_that_says_hello_late_is_the_one_that_goes() {
        let attached = Attached::new(3_000);
        let phone = DeviceId::new("phone").expect("a name");
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let (old, new) = (Arc::new(Mailbox::default()), Arc::new(Mailbox::default()));
        let (first, second) = (attached.accepted(), attached.accepted());
        attached.attach(&phone, &new, (second, peer), anonymous(), 1);
        attached.attach(&phone, &old, (first, peer), anonymous(), 2);
        assert!(old.is_fenced() && !new.is_fenced());
        attached.detach(&phone, &old);
        assert_eq!(attached.count(), 1);
        // Nor does it come in when the newer one has gone: what it has under way is from before.
        attached.detach(&phone, &new);
        let older = Arc::new(Mailbox::default());
        attached.attach(&phone, &older, (first, peer), anonymous(), 3);
        assert!(older.is_fenced() && attached.count() == 0);
    }
}
