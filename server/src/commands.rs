//! Commands that wait for their devices: kept until they are answered, or their session is recorded no more.
//!
//! Owns the list, for the life of the hub's process. A connection sends what is here once it has the session's log open,
//! again on each new connection; the device carries each id out once. Bounded: a device that answers nothing holds up
//! nobody, and loses the oldest.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use marey_engine::{Session, SessionState};
use marey_format::DeviceId;
use marey_format::wire::{Command, Done};

/// All commands that are not answered.
#[derive(Debug, Default)]
pub(crate) struct Commands {
    waiting: Mutex<BTreeMap<DeviceId, VecDeque<Arc<Order>>>>,
}

/// One command, and who has answered it.
#[derive(Debug)]
pub(crate) struct Order {
    command: Command,
    answers: Mutex<BTreeMap<DeviceId, Done>>,
    answered: Condvar,
}

impl Commands {
    /// A command for some devices.
    pub(crate) fn give(&self, command: Command, devices: &[DeviceId]) -> Arc<Order> {
        let order = Arc::new(Order {
            command,
            answers: Mutex::default(),
            answered: Condvar::new(),
        });
        let mut waiting = self.waiting();
        for device in devices {
            let of_device = waiting.entry(device.clone()).or_default();
            if of_device.len() >= WAITING_PER_DEVICE_MAX {
                of_device.pop_front();
                tracing::warn!(%device, "it answers no commands; the oldest is given up");
            }
            of_device.push_back(order.clone());
        }
        order
    }

    /// What a device has not answered, the oldest first.
    pub(crate) fn of(&self, device: &DeviceId) -> Vec<Command> {
        let waiting = self.waiting();
        let orders = waiting.get(device).into_iter().flatten();
        orders.map(|order| order.command.clone()).collect()
    }

    /// A device has answered. What it was not asked is forgotten.
    pub(crate) fn done(&self, device: &DeviceId, done: Done) {
        let mut waiting = self.waiting();
        let Some(of_device) = waiting.get_mut(device) else {
            return;
        };
        let Some(at) = of_device.iter().position(|order| order.command.id == done.id) else {
            return;
        };
        let order = of_device.remove(at).expect("it was just found");
        if of_device.is_empty() {
            waiting.remove(device);
        }
        drop(waiting);
        let session = &order.command.session;
        match (&done.why, done.ok) {
            (_, true) => tracing::debug!(%device, %session, id = %done.id, "command carried out"),
            (why, false) => {
                let why = why.as_deref().unwrap_or("it does not say why");
                tracing::warn!(%device, %session, id = %done.id, ?why, "command not carried out");
            }
        }
        order.answers().insert(device.clone(), done);
        order.answered.notify_all();
    }

    /// Gives up what belongs to sessions that are not recorded any more.
    pub(crate) fn keep(&self, sessions: &[Session]) {
        let is_recorded = |order: &Arc<Order>| {
            sessions
                .iter()
                .any(|s| s.id == order.command.session && s.state == SessionState::Recording)
        };
        self.waiting().retain(|_, orders| {
            orders.retain(is_recorded);
            !orders.is_empty()
        });
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<DeviceId, VecDeque<Arc<Order>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Order {
    /// Waits until so many devices have answered, at most so long; what they have answered.
    pub(crate) fn wait(&self, devices: usize, at_most: Duration) -> BTreeMap<DeviceId, Done> {
        let waited = self
            .answered
            .wait_timeout_while(self.answers(), at_most, |answers| answers.len() < devices);
        waited.unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    fn answers(&self) -> MutexGuard<'_, BTreeMap<DeviceId, Done>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Commands that one device may have waiting.
const WAITING_PER_DEVICE_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use marey_format::types::CommandId;
    use marey_format::{HubEpoch, SessionId};

    use super::*;

    fn command(id: u8) -> Command {
        Command {
            id: CommandId([id; 16]),
            what: Command::MARK.to_owned(),
            session: SessionId::new("walk").expect("a name"),
            label: None,
            hub_epoch: HubEpoch(1),
            hub_ns: 5,
        }
    }

    fn done(id: u8) -> Done {
        let (ok, why) = (true, None);
        Done {
            id: CommandId([id; 16]),
            ok,
            why,
        }
    }

    #[test]
    fn what_is_answered_is_gone_and_what_is_not_stays_in_bounds() {
        let commands = Commands::default();
        let device = |name: &str| DeviceId::new(name).expect("a name");
        let (phone, watch) = (device("phone"), device("watch"));
        let order = commands.give(command(1), &[phone.clone(), watch.clone()]);
        commands.done(&phone, done(9));
        assert_eq!(commands.of(&phone), [command(1)], "another id answers nothing");
        commands.done(&phone, done(1));
        commands.done(&phone, done(1));
        assert!(commands.of(&phone).is_empty());
        assert_eq!(commands.of(&watch), [command(1)]);
        assert_eq!(order.wait(1, Duration::ZERO), BTreeMap::from([(phone, done(1))]));
        for id in 2..2 + WAITING_PER_DEVICE_MAX as u8 {
            commands.give(command(id), std::slice::from_ref(&watch));
        }
        let waiting = commands.of(&watch);
        assert_eq!(
            (waiting.len(), waiting[0].id),
            (WAITING_PER_DEVICE_MAX, CommandId([2; 16]))
        );
        commands.keep(&[]);
        assert!(commands.of(&watch).is_empty());
    }
}
