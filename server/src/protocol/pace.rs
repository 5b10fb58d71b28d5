//! How fast one connection's control messages are taken.

use marey_format::limits::{CONTROL_MESSAGES_AT_ONCE, CONTROL_MESSAGES_PER_S};

/// A bucket of messages, kept as the time at which it is full again.
///
/// A frame waits for credit, and so for the disk; a control message waits for nothing, and a device that sends them
/// without end would take the network's threads from everybody else's acks. It is not refused, only read later.
#[derive(Debug)]
pub(super) struct Pace {
    full_ns: i64,
    is_lifted: bool,
}

impl Pace {
    pub(super) fn new(now_ns: i64) -> Self {
        Self {
            full_ns: now_ns,
            is_lifted: false,
        }
    }

    /// A message came. One read may bring more than there was room for: the rest is owed.
    pub(super) fn count(&mut self, now_ns: i64) {
        self.full_ns = self.full_ns.max(now_ns).saturating_add(EACH_NS);
    }

    /// Whatever comes may be read.
    pub(super) fn lift(&mut self) {
        self.is_lifted = true;
    }

    /// From when on more may be read; in the past, as long as there is room.
    pub(super) fn readable_ns(&self) -> i64 {
        match self.is_lifted {
            true => i64::MIN,
            false => self.full_ns.saturating_sub(ROOM_NS),
        }
    }
}

const EACH_NS: i64 = 1_000_000_000 / CONTROL_MESSAGES_PER_S;
const ROOM_NS: i64 = EACH_NS * CONTROL_MESSAGES_AT_ONCE;
