//! What a service manager is told: that the hub is up, reloads, goes down, and that it lives.
//!
//! The protocol is sd_notify(3): one datagram to the socket that `NOTIFY_SOCKET` names. Without one nothing is sent, and
//! a manager that does not listen changes nothing.
//!
//! The sign of life is that the loop turns, and nothing more: a disk that is full or slow is told of in `/ready`, in the
//! log and by the metrics. A restart would not mend it, and would cut off devices that go on well.

use marey_server::Hub;
use sd_notify::NotifyState;
use std::time::{Duration, Instant};

/// The service that this process is, if it is one.
#[derive(Debug)]
pub struct Service {
    /// How often a sign of life is due; none if nobody waits for one.
    interval: Option<Duration>,
    last: Option<Instant>,
    was_stuck: bool,
}

impl Service {
    pub fn of_this_process() -> Self {
        Self {
            // Thrice within the time that is given, so that one that comes late harms nothing.
            interval: sd_notify::watchdog_enabled().map(|given| given / 3),
            last: None,
            was_stuck: false,
        }
    }

    /// Devices can connect.
    pub fn ready(&self, status: &str) {
        tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// Call it often: it sends what is due, if the hub's loop turns.
    pub fn sign_of_life(&mut self, hub: &Hub) {
        let Some(interval) = self.interval else { return };
        if self.last.is_some_and(|last| last.elapsed() < interval) {
            return;
        }
        let turns = hub.turns(interval);
        if turns {
            tell(&[NotifyState::Watchdog]);
            self.last = Some(Instant::now());
        } else if !self.was_stuck {
            tracing::error!(
                "the threads of the network do not go round; the service manager will restart the hub"
            );
        }
        self.was_stuck = !turns;
    }

    /// The configuration is being read anew.
    pub fn reloading(&self) {
        // systemd wants to know when: an answer to a later request is told from one to an earlier.
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(_) => tell(&[NotifyState::Reloading]),
        }
    }

    /// That is over, whatever came of it.
    pub fn reloaded(&self) {
        tell(&[NotifyState::Ready]);
    }

    /// The hub goes down.
    pub fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }
}

fn tell(what: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(what) {
        tracing::warn!(%error, "the service manager could not be told");
    }
}
