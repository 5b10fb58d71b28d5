//! Go or no-go: a session held against its protocol file, before and while it is recorded.
//!
//! `plan` reads the file, `meter` measures streams, `rules` holds one against the other (all pure); here they meet the hub,
//! and a breach becomes a line in the log, a note in the record and a count. [`Judge::check`] is the one judgement that the
//! command line and the API show.
//!
//! A breach begins when a rule was broken at two looks in a row and ends when it held at three, so that one late packet is
//! none, and what flickers is one.

mod meter;
pub mod plan;
pub mod rules;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use marey_engine::time::HubInstant;
use marey_engine::{LogStatus, Note, Session, SessionState};
use marey_format::payload::Event;
use marey_format::{DeviceId, SessionId};
use serde::{Deserialize, Serialize};

use self::meter::Meter;
use self::plan::Plan;
use self::rules::{DeviceFacts, Facts, Finding, Phase, Rule, Verdict};
use crate::reception::Reception;
use crate::watch::Notes;

/// A session, judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckView {
    /// The session.
    pub session: SessionId,
    /// Before it is recorded, or while it is.
    pub phase: Phase,
    /// Whether no rule is broken.
    pub go: bool,
    /// Whether it has a protocol file; without one, only that everybody of the roster is there is judged.
    pub has_protocol: bool,
    /// The file's title.
    pub title: Option<String>,
    /// Every rule, and how things are.
    pub rules: Vec<Finding>,
    /// Breaches that stand in the record and have not ended.
    pub breaches: Vec<BreachView>,
}

/// A breach that goes on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BreachView {
    /// The rule, as it was when it was broken.
    #[serde(flatten)]
    pub finding: Finding,
    /// For how long it has been so.
    pub since_s: f64,
}

/// What is known of the sessions that are being recorded against a protocol.
#[derive(Debug, Default)]
pub(crate) struct Judge {
    watched: Mutex<HashMap<SessionId, Watched>>,
}

#[derive(Debug)]
struct Watched {
    plan: Arc<Plan>,
    meter: Meter,
    rules: BTreeMap<Key, Standing>,
}

type Key = (Rule, Option<DeviceId>, Option<String>);

/// How a rule was kept at the last looks.
#[derive(Debug, Default)]
struct Standing {
    broken: u32,
    kept: u32,
    breach: Option<Breach>,
}

#[derive(Debug)]
struct Breach {
    finding: Finding,
    since: HubInstant,
    /// It stands in the record, or there is enough of its kind there.
    noted: bool,
}

/// A note that is to be written.
#[derive(Debug)]
struct Due {
    note: Note,
    /// The rule whose breach it notes; none for an end.
    of: Option<Key>,
}

/// What became of a rule at one look.
#[derive(Debug, PartialEq)]
enum Turn {
    Begins,
    Ends(Finding, HubInstant, bool),
    Nothing,
}

impl Judge {
    /// Looks at how streams come in. About once a second.
    pub(crate) fn measure(&self, state: &Reception, sessions: &[Session]) {
        let mut watched = self.watched();
        watched.retain(|id, _| sessions.iter().any(|s| s.id == *id && is_recorded(s)));
        let planned = sessions.iter().filter(|s| is_recorded(s) && s.protocol.is_some());
        let mut logs = None;
        for session in planned {
            if !watched.contains_key(&session.id) {
                let Some(of_session) = Watched::new(session) else {
                    continue;
                };
                watched.insert(session.id.clone(), of_session);
            }
            let of_session = watched.get_mut(&session.id).expect("it was just put there");
            let logs = logs.get_or_insert_with(|| state.store.log_status());
            let of_this = logs.iter().filter(|log| log.session == session.id);
            let window_ns = of_session.window_ns();
            of_session.meter.look(of_this, window_ns, state.clock.now().ns);
        }
    }

    /// Judges what is being recorded, and tells of what begins and ends. Every few seconds.
    pub(crate) fn judge(&self, state: &Reception, sessions: &[Session], notes: &mut Notes) {
        // A note waits for the disk, and whoever only looks at what is watched must not.
        for (id, due) in self.heed(state, sessions) {
            if notes.write(state, &id, due.note)
                && let Some(key) = due.of
                && let Some(of_session) = self.watched().get_mut(&id)
            {
                of_session.noted(&key);
            }
        }
    }

    /// Judges, and gives back what is to stand in the record.
    fn heed(&self, state: &Reception, sessions: &[Session]) -> Vec<(SessionId, Due)> {
        let mut due = Vec::new();
        let mut watched = self.watched();
        if watched.is_empty() {
            return due;
        }
        let logs = state.store.log_status();
        for session in sessions.iter().filter(|s| is_recorded(s)) {
            let Some(of_session) = watched.get_mut(&session.id) else {
                continue;
            };
            let now = state.clock.now();
            let facts = facts(state, session, &of_session.plan, Some(&of_session.meter), &logs);
            for finding in rules::judge(&of_session.plan, &facts) {
                let noted = of_session.heed(state, session, finding, now);
                due.extend(noted.map(|noted| (session.id.clone(), noted)));
            }
        }
        due
    }

    /// Judges one session now.
    ///
    /// # Errors
    /// One sentence: there is no such session, it is over, or its protocol can't be read.
    pub(crate) fn check(&self, state: &Reception, id: &SessionId) -> Result<CheckView, String> {
        let session = state.store.session(id).map_err(|error| error.to_string())?;
        let phase = phase(&session).ok_or_else(|| {
            format!(
                "session {id} is {}; what is judged is created, or being recorded",
                session.state
            )
        })?;
        let plan = match &session.protocol {
            Some(text) => Plan::parse(text).map_err(|error| error.to_string())?,
            None => Plan::of_nothing(session.max_time_error_us),
        };
        let logs = state.store.log_status();
        let watched = self.watched();
        let of_session = watched.get(id);
        let facts = facts(state, &session, &plan, of_session.map(|w| &w.meter), &logs);
        let rules = rules::judge(&plan, &facts);
        Ok(CheckView {
            session: id.clone(),
            phase,
            go: rules.iter().all(|finding| finding.verdict != Verdict::NoGo),
            has_protocol: session.protocol.is_some(),
            title: plan.title.as_ref().map(ToString::to_string),
            rules,
            breaches: of_session
                .map(|w| w.breaches(state.clock.now()))
                .unwrap_or_default(),
        })
    }

    /// The breaches of a session that go on.
    pub(crate) fn breaches(&self, id: &SessionId, now: HubInstant) -> Vec<BreachView> {
        let watched = self.watched();
        watched.get(id).map(|w| w.breaches(now)).unwrap_or_default()
    }

    /// The sessions that are judged, for Prometheus.
    pub(crate) fn metrics(&self, now: HubInstant) -> String {
        let mut text = "# HELP marey_session_breaches Rules of the protocol that are broken now.\n\
                        # TYPE marey_session_breaches gauge\n"
            .to_owned();
        for (id, of_session) in self.watched().iter() {
            let count = of_session.breaches(now).len();
            // Writing into a string cannot fail.
            let _ = writeln!(text, "marey_session_breaches{{session=\"{id}\"}} {count}");
        }
        text
    }

    fn watched(&self) -> MutexGuard<'_, HashMap<SessionId, Watched>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched {
    /// None where the protocol can't be read: a later version may have made it.
    fn new(session: &Session) -> Option<Self> {
        let plan = Plan::parse(session.protocol.as_deref()?).ok()?;
        Some(Self {
            plan: Arc::new(plan),
            meter: Meter::default(),
            rules: BTreeMap::new(),
        })
    }

    fn window_ns(&self) -> i64 {
        window_ns(&self.plan)
    }

    /// One finding: what begins or ends is told, and what is to be noted of it given back.
    fn heed(
        &mut self,
        state: &Reception,
        session: &Session,
        finding: Finding,
        now: HubInstant,
    ) -> Option<Due> {
        let (id, subject, is) = (&session.id, finding.subject(), finding.is.clone());
        let key = (finding.rule, finding.device.clone(), finding.stream.clone());
        let standing = self.rules.entry(key.clone()).or_default();
        match standing.turn(finding, now) {
            Turn::Begins => {
                let breach = standing.breach.as_ref()?;
                let (asked, todo) = (&breach.finding.asked, breach.finding.todo.as_deref());
                state.metrics.breaches.add(1);
                tracing::warn!(session = %id, "no-go: {subject}: asked {asked}, is {is}; {}", todo.unwrap_or(""));
            }
            Turn::Ends(was, since, noted) => {
                let lasted_ns = now.ns.saturating_sub(since.ns);
                let lasted_s = lasted_ns as f64 / 1e9;
                tracing::info!(session = %id, "go again: {subject}: asked {}, is {is}, after {lasted_s:.0} s", was.asked);
                if noted {
                    let event = Event {
                        kind: "breach_end".to_owned(),
                        text: Some(format!("{subject}: asked {}, is {is}", was.asked)),
                        duration_ns: Some(lasted_ns),
                    };
                    let device = was.device;
                    // There was a log when it began: if this fails, the disk does.
                    let note = Note { device, event };
                    return Some(Due { note, of: None });
                }
            }
            Turn::Nothing => {}
        }
        // Where nobody has a log yet, it waits for one.
        let breach = standing.breach.as_ref().filter(|breach| !breach.noted)?;
        let was = &breach.finding;
        let event = Event {
            kind: "breach".to_owned(),
            text: Some(format!("{subject}: asked {}, is {}", was.asked, was.is)),
            duration_ns: None,
        };
        let device = was.device.clone();
        let note = Note { device, event };
        Some(Due { note, of: Some(key) })
    }

    /// The breach of a rule stands in the record.
    fn noted(&mut self, key: &Key) {
        if let Some(breach) = self.rules.get_mut(key).and_then(|rule| rule.breach.as_mut()) {
            breach.noted = true;
        }
    }

    fn breaches(&self, now: HubInstant) -> Vec<BreachView> {
        let standing = self.rules.values().filter_map(|rule| rule.breach.as_ref());
        standing
            .map(|breach| BreachView {
                finding: breach.finding.clone(),
                since_s: now.ns.saturating_sub(breach.since.ns) as f64 / 1e9,
            })
            .collect()
    }
}

impl Standing {
    fn turn(&mut self, finding: Finding, now: HubInstant) -> Turn {
        match finding.verdict {
            Verdict::NoGo => (self.broken, self.kept) = (self.broken.saturating_add(1), 0),
            Verdict::Go => (self.broken, self.kept) = (0, self.kept.saturating_add(1)),
            Verdict::Later => return Turn::Nothing,
        }
        match self.breach.take() {
            None if self.broken >= BROKEN_LOOKS => {
                self.breach = Some(Breach {
                    finding,
                    since: now,
                    noted: false,
                });
                Turn::Begins
            }
            Some(breach) if self.kept >= KEPT_LOOKS => Turn::Ends(breach.finding, breach.since, breach.noted),
            breach => {
                self.breach = breach;
                Turn::Nothing
            }
        }
    }
}

fn is_recorded(session: &Session) -> bool {
    session.state == SessionState::Recording
}

fn phase(session: &Session) -> Option<Phase> {
    match session.state {
        SessionState::Created => Some(Phase::Before),
        SessionState::Recording => Some(Phase::During),
        _ => None,
    }
}

fn window_ns(plan: &Plan) -> i64 {
    // Between 2 and 120 seconds.
    (plan.window_s * 1e9) as i64
}

/// How things are for a session now.
fn facts(
    state: &Reception,
    session: &Session,
    plan: &Plan,
    meter: Option<&Meter>,
    logs: &[LogStatus],
) -> Facts {
    let now = state.clock.now();
    let of_session: BTreeMap<&DeviceId, &LogStatus> = logs
        .iter()
        .filter(|log| log.session == session.id)
        .map(|log| (&log.device, log))
        .collect();
    let roster = session.roster.clone().unwrap_or_default();
    let named = roster.iter().chain(&plan.devices.required);
    let named = named.chain(plan.stream.iter().filter_map(|rules| rules.device.as_ref()));
    let mut devices = BTreeMap::new();
    let sessions = state.sessions();
    for device in named.chain(of_session.keys().copied()) {
        if devices.contains_key(device) {
            continue;
        }
        let log = of_session.get(device);
        let seen = state.attached.seen(device, now.ns);
        let beat = seen.as_ref().and_then(|seen| seen.heartbeat.as_ref());
        let elsewhere = logs.iter().find(|log| {
            log.device == *device
                && log.session != session.id
                && sessions
                    .iter()
                    .any(|other| other.id == log.session && is_recorded(other))
        });
        let flows = plan.stream.iter().filter_map(|rules| {
            let name = rules.stream.as_str();
            let flow = meter?.flow(device, name, window_ns(plan), now.ns)?;
            Some((name.to_owned(), flow))
        });
        let bound = log.and_then(|log| log.clock.as_ref());
        let of_device = DeviceFacts {
            state: seen.as_ref().map(|seen| seen.state).unwrap_or_default(),
            silent_s: seen.as_ref().map(|seen| (now.ns - seen.heard_ns) as f64 / 1e9),
            battery_percent: beat.and_then(|beat| beat.battery_percent()),
            storage_mb: beat.and_then(|beat| beat.available_storage_mb()),
            has_log: log.is_some(),
            elsewhere: elsewhere.map(|log| log.session.to_string()),
            time_error_ms: bound
                .and_then(|bound| bound.half_width_ns)
                .map(|ns| ns as f64 / 1e6),
            flows: flows.collect(),
        };
        devices.insert(device.clone(), of_device);
    }
    let started = session.started.filter(|at| at.hub_epoch == now.epoch);
    Facts {
        phase: phase(session).unwrap_or(Phase::During),
        lasting_s: started.map_or(f64::INFINITY, |at| (now.ns - at.hub_ns) as f64 / 1e9),
        not_ready: state.why_no_intake(),
        disk_free_bytes: state.store.health().space.free_bytes,
        devices,
        roster,
    }
}

/// Looks at which a rule is broken before that is a breach.
const BROKEN_LOOKS: u32 = 2;
/// Looks at which it is kept before the breach has ended.
const KEPT_LOOKS: u32 = 3;

#[cfg(test)]
mod tests {
    use marey_format::HubEpoch;

    use super::*;

    #[test]
    fn what_flickers_is_one_breach_and_one_late_packet_is_none() {
        let at = |ns: i64| HubInstant {
            epoch: HubEpoch(1),
            ns,
        };
        let finding = |verdict| Finding {
            rule: Rule::Gap,
            device: None,
            stream: None,
            asked: "no gap over 2 s".to_owned(),
            is: "9 s".to_owned(),
            verdict,
            todo: None,
        };
        use Verdict::{Go, Later, NoGo};
        let mut standing = Standing::default();
        let looks = [
            (NoGo, "-"),
            (Go, "-"),
            (NoGo, "-"),
            (NoGo, "begins"),
            (NoGo, "-"),
            (Go, "-"),
            (Go, "-"),
            (NoGo, "-"),
            (Go, "-"),
            (Go, "-"),
            (Later, "-"),
            (Go, "ends"),
            (Go, "-"),
        ];
        for (nth, (verdict, expected)) in looks.into_iter().enumerate() {
            let turn = match standing.turn(finding(verdict), at(nth as i64)) {
                Turn::Begins => "begins",
                Turn::Ends(_, since, noted) => {
                    assert_eq!((since, noted), (at(3), false));
                    "ends"
                }
                Turn::Nothing => "-",
            };
            assert_eq!(turn, expected, "look {nth}");
        }
    }
}
