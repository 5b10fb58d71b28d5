//! What the hub watches while it records: whether devices are there, and whether the session's protocol is kept. Each change is
//! a line in the log, a count, and a note in the record.
//!
//! A thread of its own in `maintenance`, for sealing takes as long as it takes. Notes are bounded: a device that comes and
//! goes all night fills no log.

use std::collections::HashMap;
use std::fmt::Write;

use marey_engine::compact::NO_ROOM;
use marey_engine::time::HubInstant;
use marey_engine::{Note, Session, SessionState};
use marey_format::payload::Event;
use marey_format::{DeviceId, SessionId};

use crate::attached::{Change, DeviceState, Seen};
use crate::reception::Reception;

/// One look follows the other.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    notes: Notes,
    room: Room,
    turns: u32,
}

impl Watch {
    /// One look at all devices and sessions.
    pub(crate) fn turn(&mut self, state: &Reception) {
        state.turns.look(state.metrics.frames.get());
        let sessions = state.sessions();
        self.notes.keep(&sessions);
        state.commands.keep(&sessions);
        self.room.look(state, &sessions, &mut self.notes);
        let changes = state.attached.look(state.clock.now().ns);
        if !changes.is_empty() {
            self.tell(state, &sessions, &changes);
        }
        self.turns = self.turns.wrapping_add(1);
        if self.turns.is_multiple_of(MEASURED_EVERY) {
            state.judge.measure(state, &sessions);
        }
        if self.turns.is_multiple_of(AGED_EVERY) {
            state.metrics.turn();
        }
        if self.turns.is_multiple_of(JUDGED_EVERY) {
            state.judge.judge(state, &sessions, &mut self.notes);
        }
    }

    fn tell(&mut self, state: &Reception, sessions: &[Session], changes: &[Change]) {
        let logs = state.store.log_status();
        for change in changes {
            let Change { device, to, .. } = change;
            state.metrics.device_changed(*to);
            let text = words(change);
            match to {
                DeviceState::Online => tracing::info!(%device, state = %to, "{device} is {text}"),
                _ => tracing::warn!(%device, state = %to, "{device} is {text}"),
            }
            let recorded = logs.iter().filter(|log| log.device == *device).filter(|log| {
                let mut recording = sessions.iter().filter(|s| s.state == SessionState::Recording);
                recording.any(|session| session.id == log.session)
            });
            for log in recorded {
                let note = Note {
                    device: Some(device.clone()),
                    event: event("device_state", text.clone()),
                };
                self.notes.write(state, &log.session, note);
            }
        }
    }
}

/// Since when the hub takes nothing for want of room.
#[derive(Debug, Default)]
struct Room {
    looked: Option<HubInstant>,
    without_since: Option<HubInstant>,
}

impl Room {
    /// Once it takes samples again, each log that is recorded says for how long it did not: what a device lost meanwhile is
    /// no fault of the device's.
    fn look(&mut self, state: &Reception, sessions: &[Session], notes: &mut Notes) {
        let now = state.clock.now();
        // It may have begun right behind the look before.
        let looked = self.looked.replace(now).unwrap_or(now);
        let is_without = state.store.health().below_floor || state.ingest.stalled().is_some();
        match self.without_since {
            None if is_without => self.without_since = Some(looked),
            Some(since) if !is_without && tell_of_room(state, sessions, notes, now.ns - since.ns) => {
                self.without_since = None;
            }
            _ => {}
        }
    }
}

/// True if nothing more has to be done about it.
fn tell_of_room(state: &Reception, sessions: &[Session], notes: &mut Notes, lasted_ns: i64) -> bool {
    let recorded = |id: &SessionId| {
        let mut recording = sessions.iter().filter(|s| s.state == SessionState::Recording);
        recording.any(|session| session.id == *id)
    };
    let logs = state.store.log_status();
    let mut written = logs.iter().filter(|log| recorded(&log.session)).map(|log| {
        let text = format!(
            "nothing was taken for want of room for {:.1} s",
            lasted_ns as f64 / 1e9
        );
        let note = Note {
            device: Some(log.device.clone()),
            event: Event {
                duration_ns: Some(lasted_ns),
                ..event(NO_ROOM, text)
            },
        };
        notes.write(state, &log.session, note)
    });
    written.all(|is_written| is_written)
}

/// Writes notes, and knows when there are enough of them.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    written: HashMap<(SessionId, Option<DeviceId>), u32>,
}

impl Notes {
    /// Forgets the sessions that are not recorded any more.
    pub(crate) fn keep(&mut self, sessions: &[Session]) {
        self.written.retain(|(id, _), _| {
            let mut recorded = sessions.iter().filter(|s| s.state == SessionState::Recording);
            recorded.any(|session| session.id == *id)
        });
    }

    /// Writes one, unless there are too many of its kind; true if nothing more has to be done about it.
    pub(crate) fn write(&mut self, state: &Reception, session: &SessionId, mut note: Note) -> bool {
        let written = self
            .written
            .entry((session.clone(), note.device.clone()))
            .or_default();
        if *written >= NOTES_MAX {
            return true;
        }
        if *written + 1 == NOTES_MAX {
            let of = note.device.as_ref().map_or("the session", DeviceId::as_str);
            tracing::warn!(%session, of, "so much has happened that no more of it is noted in the record");
            let text =
                format!("{NOTES_MAX} notes of {of}: no more are written until the hub is started again");
            note.event = event(&note.event.kind, text);
        }
        match state.store.note(session, std::slice::from_ref(&note)) {
            Ok(_) => *written += 1,
            Err(error) => {
                tracing::debug!(%session, %error, "not noted in the record");
                return false;
            }
        }
        true
    }
}

pub(crate) fn event(kind: &str, text: String) -> Event {
    Event {
        kind: kind.to_owned(),
        text: Some(text),
        duration_ns: None,
    }
}

fn words(change: &Change) -> String {
    match change.to {
        DeviceState::Online if change.from == DeviceState::Late => "online: heard again".to_owned(),
        DeviceState::Online => "online: connected".to_owned(),
        DeviceState::Late => format!(
            "late: nothing was heard for {:.1} s",
            change.silent_ns as f64 / 1e9
        ),
        DeviceState::Offline => "offline: its connection has ended".to_owned(),
    }
}

/// The devices that were seen since the start, for Prometheus. There are no more than were enrolled.
pub(crate) fn metrics(seen: &[(DeviceId, Seen)]) -> String {
    let mut text = String::new();
    // Writing into a string cannot fail.
    let _ = writeln!(
        text,
        "# HELP marey_devices Devices seen since the start, by state.\n# TYPE marey_devices gauge"
    );
    for state in DeviceState::ALL {
        let count = seen.iter().filter(|(_, seen)| seen.state == state).count();
        let _ = writeln!(text, "marey_devices{{state=\"{state}\"}} {count}");
    }
    let mut family = |name: &str, help: &str, value: &dyn Fn(&Seen) -> Option<f64>| {
        let _ = writeln!(text, "# HELP marey_{name} {help}.\n# TYPE marey_{name} gauge");
        for (device, seen) in seen {
            if let Some(value) = value(seen) {
                let _ = writeln!(text, "marey_{name}{{device=\"{device}\"}} {value}");
            }
        }
    };
    family(
        "device_state",
        "2 while a device is online, 1 while it is late, 0 while it is offline",
        &|seen| {
            Some(match seen.state {
                DeviceState::Online => 2.0,
                DeviceState::Late => 1.0,
                DeviceState::Offline => 0.0,
            })
        },
    );
    let beat = |seen: &Seen| seen.heartbeat.clone();
    family(
        "device_battery_percent",
        "Charge of a device's battery",
        &|seen| beat(seen)?.battery_percent(),
    );
    family(
        "device_storage_bytes",
        "Room for recordings on a device",
        &|seen| Some(beat(seen)?.available_storage_mb()? * MEGABYTE_BYTES),
    );
    text
}

/// A heartbeat says its room in these.
const MEGABYTE_BYTES: f64 = 1e6;
/// Turns after which what was measured gets older: half a minute.
const AGED_EVERY: u32 = 60;
/// Turns between two looks at how streams come in, and between two judgements: a second, and two.
const MEASURED_EVERY: u32 = 2;
const JUDGED_EVERY: u32 = 4;
/// Of one device in one session, and of a session by itself, in one life of the hub.
const NOTES_MAX: u32 = 500;

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use marey_format::wire::Heartbeat;

    use super::*;

    #[test]
    fn states_and_batteries_stand_in_the_metrics() {
        let phone = DeviceId::new("phone").expect("a name");
        let info = serde_json::json!({"battery": 81.5, "available_storage_mb": 7, "is_recording": true});
        let info = info.as_object().expect("an object").clone();
        let seen = Seen {
            attached: true,
            peer: SocketAddr::from(([127, 0, 0, 1], 1)),
            agent: None,
            takes_commands: true,
            heard_ns: 0,
            heartbeat: Heartbeat::v1(phone.clone(), 1, info).ok(),
            state: DeviceState::Late,
            since_ns: 0,
        };
        let text = metrics(&[(phone, seen)]);
        for line in [
            "marey_devices{state=\"online\"} 0",
            "marey_devices{state=\"late\"} 1",
            "marey_device_state{device=\"phone\"} 1",
            "marey_device_battery_percent{device=\"phone\"} 81.5",
            "marey_device_storage_bytes{device=\"phone\"} 7000000",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }
}
