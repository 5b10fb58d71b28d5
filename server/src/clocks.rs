//! What an operator sees of the devices' clocks while they are recorded: the bound now, and what is wrong with it.
//!
//! The engine holds the numbers; here they become views, metrics and words. Each kind of trouble is said once when it begins and
//! once when it is over, not at each look.

use std::collections::HashMap;
use std::fmt::Write;

use marey_engine::clock::LiveBound;
use marey_engine::{LogStatus, Session, SessionState};
use marey_format::{DeviceId, SessionId};
use serde::{Deserialize, Serialize};

use crate::reception::Reception;

/// A device's clock now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClockView {
    /// How far off a time of this moment may be, in microseconds; none where no bound can be given.
    pub bound_us: Option<f64>,
    /// Seconds since anything was heard of it. The bound grows meanwhile.
    pub silent_s: f64,
    /// The step that it counts in, in microseconds, if that is coarser than 100.
    pub coarse_step_us: Option<f64>,
    /// How often it stood still or jumped since the hub or the device was started.
    pub standstills: u32,
    /// By how much at the last time, in milliseconds: positive where it stood still.
    pub last_step_ms: f64,
    /// What an operator should know.
    #[serde(default)]
    pub warnings: Vec<String>,
}

impl ClockView {
    /// `session` says how wide a bound may be.
    pub fn of(bound: &LiveBound, session: &Session) -> Self {
        Self {
            bound_us: bound.half_width_ns.map(|ns| ns as f64 / 1e3),
            silent_s: bound.silent_ns as f64 / 1e9,
            coarse_step_us: bound.coarse_step_ns.map(|ns| ns as f64 / 1e3),
            standstills: bound.standstills,
            last_step_ms: bound.last_step_ns as f64 / 1e6,
            warnings: troubles(bound, session)
                .into_iter()
                .map(|(_, text)| text)
                .collect(),
        }
    }
}

/// Kinds of trouble with a clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Trouble {
    /// The bound is wider than was asked for.
    Wide,
    /// The clock counts in large steps.
    Coarse,
    /// The clock stood still or jumped: for the so-many-th time.
    Stood(u32),
}

fn troubles(bound: &LiveBound, session: &Session) -> Vec<(Trouble, String)> {
    let mut found = Vec::new();
    if let Some(asked_us) = session.max_time_error_us
        && bound.half_width_ns.is_none_or(|ns| ns as f64 > asked_us * 1e3)
    {
        let is = match bound.half_width_ns {
            Some(ns) => format!("the bound of its time is {:.3} ms", ns as f64 / 1e6),
            None => "its time has no bound".to_owned(),
        };
        let why = match (bound.silent_ns, bound.half_width_ns) {
            (SILENT_NS.., _) => format!(
                "nothing was heard of it for {:.0} s",
                bound.silent_ns as f64 / 1e9
            ),
            (_, None) => "no packet of one direction came through yet".to_owned(),
            _ => "the way to it is slow, or busy".to_owned(),
        };
        let text = format!("{is}, the session asks for {:.3} ms: {why}", asked_us / 1e3);
        found.push((Trouble::Wide, text));
    }
    if let Some(step_ns) = bound.coarse_step_ns {
        let text = format!(
            "its clock counts in steps of {:.3} ms, which dominate the error",
            step_ns as f64 / 1e6
        );
        found.push((Trouble::Coarse, text));
    }
    if bound.standstills > 0 {
        let what = if bound.last_step_ns < 0 {
            "jumped ahead"
        } else {
            "stood still"
        };
        let often = match bound.standstills {
            1 => String::new(),
            times => format!(", {times} times so far"),
        };
        let text = format!(
            "its clock {what} by {:.3} ms{often}; does the device sleep?",
            bound.last_step_ns.unsigned_abs() as f64 / 1e6
        );
        found.push((Trouble::Stood(bound.standstills), text));
    }
    found
}

/// So long without a word is a reason by itself.
const SILENT_NS: u64 = 10_000_000_000;

/// Tells the log what is wrong with clocks, once each.
#[derive(Debug, Default)]
pub(crate) struct ClockWatch {
    /// For how many looks each trouble has lasted.
    lasting: HashMap<(SessionId, DeviceId, Trouble), u32>,
    turn: u32,
}

impl ClockWatch {
    /// One look at the clocks of all sessions that are being recorded.
    pub(crate) fn turn(&mut self, state: &Reception, sessions: &[Session]) {
        self.turn = self.turn.wrapping_add(1);
        if !self.turn.is_multiple_of(EVERY_TURNS) {
            return;
        }
        let mut now = HashMap::new();
        for (session, log) in recorded(&state.store.log_status(), sessions) {
            let Some(bound) = log.clock else { continue };
            for (trouble, text) in troubles(&bound, session) {
                let key = (session.id.clone(), log.device.clone(), trouble);
                let looks = self.lasting.get(&key).map_or(1, |looks| looks.saturating_add(1));
                if looks == trouble.worth_telling_after() {
                    tracing::warn!(session = %session.id, device = %log.device, "{text}");
                }
                now.insert(key, looks);
            }
        }
        for (key, looks) in &self.lasting {
            let (session, device, trouble) = key;
            if *trouble == Trouble::Wide && *looks >= trouble.worth_telling_after() && !now.contains_key(key)
            {
                tracing::info!(%session, %device, "the bound of its time is as narrow as the session asks for again");
            }
        }
        self.lasting = now;
    }
}

impl Trouble {
    /// A bound is wide for the first seconds, and while a packet is late; the rest is so once and for all.
    fn worth_telling_after(self) -> u32 {
        match self {
            Self::Wide => 4,
            Self::Coarse | Self::Stood(_) => 1,
        }
    }
}

/// Clocks change slowly: every few looks at the sessions is enough.
const EVERY_TURNS: u32 = 10;

fn recorded<'a>(
    logs: &'a [LogStatus],
    sessions: &'a [Session],
) -> impl Iterator<Item = (&'a Session, &'a LogStatus)> {
    logs.iter().filter_map(|log| {
        let session = sessions.iter().find(|session| session.id == log.session)?;
        (session.state == SessionState::Recording).then_some((session, log))
    })
}

/// The clocks of all sessions that are being recorded, for Prometheus.
pub(crate) fn metrics(logs: &[LogStatus], sessions: &[Session]) -> String {
    let mut text = String::new();
    let mut family = |name: &str, help: &str, kind: &str, value: &dyn Fn(&LiveBound) -> Option<f64>| {
        // Writing into a string cannot fail.
        let _ = writeln!(text, "# HELP marey_{name} {help}.\n# TYPE marey_{name} {kind}");
        for (session, log) in recorded(logs, sessions) {
            if let Some(value) = log.clock.as_ref().and_then(value) {
                let value = if value.is_infinite() {
                    "+Inf".to_owned()
                } else {
                    value.to_string()
                };
                let (session, device) = (&session.id, &log.device);
                let _ = writeln!(
                    text,
                    "marey_{name}{{session=\"{session}\",device=\"{device}\"}} {value}"
                );
            }
        }
    };
    family(
        "clock_bound_seconds",
        "How far off a time of this moment may be",
        "gauge",
        &|bound| Some(bound.half_width_ns.map_or(f64::INFINITY, |ns| ns as f64 / 1e9)),
    );
    family(
        "clock_silent_seconds",
        "Time since anything was heard of a clock",
        "gauge",
        &|bound| Some(bound.silent_ns as f64 / 1e9),
    );
    family(
        "clock_standstills_total",
        "How often a clock stood still or jumped",
        "counter",
        &|bound| Some(f64::from(bound.standstills)),
    );
    family(
        "clock_step_seconds",
        "The step that a clock counts in, where it is coarse",
        "gauge",
        &|bound| bound.coarse_step_ns.map(|ns| ns as f64 / 1e9),
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(max_time_error_us: Option<f64>) -> Session {
        let json = serde_json::json!({
            "v": 1, "session": "walk", "state": "recording", "roster": null, "anchor": null, "started": null,
            "stopped": null, "max_drift_ppm": 100.0, "max_time_error_us": max_time_error_us, "generation": 0,
            "metadata": {}
        });
        serde_json::from_value(json).expect("a session")
    }

    fn log(bound: LiveBound) -> LogStatus {
        LogStatus {
            session: SessionId::new("walk").expect("a name"),
            device: DeviceId::new("phone").expect("a name"),
            epochs: 1,
            frames: 1,
            samples: 1,
            last_arrival_ns: None,
            streams: Default::default(),
            clock: Some(bound),
        }
    }

    const FINE: LiveBound = LiveBound {
        half_width_ns: Some(1_500_000),
        silent_ns: 200_000_000,
        coarse_step_ns: None,
        standstills: 0,
        last_step_ns: 0,
    };

    #[test]
    fn a_bound_is_wide_by_what_the_session_asks_for_alone() {
        assert!(ClockView::of(&FINE, &session(None)).warnings.is_empty());
        assert!(ClockView::of(&FINE, &session(Some(2_000.0))).warnings.is_empty());
        let view = ClockView::of(&FINE, &session(Some(1_000.0)));
        assert_eq!(view.bound_us, Some(1_500.0));
        assert!(
            view.warnings[0].contains("1.500 ms, the session asks for 1.000 ms"),
            "{view:?}"
        );
        let silent = LiveBound {
            half_width_ns: None,
            silent_ns: 60_000_000_000,
            ..FINE
        };
        let view = ClockView::of(&silent, &session(Some(1_000.0)));
        assert!(view.warnings[0].contains("has no bound, the session"), "{view:?}");
        assert!(view.warnings[0].contains("for 60 s"), "{view:?}");
    }

    #[test]
    fn standstills_and_coarse_clocks_are_told_of_and_stand_in_the_metrics() {
        let troubled = LiveBound {
            half_width_ns: None,
            coarse_step_ns: Some(10_000_000),
            standstills: 2,
            last_step_ns: 5_000_000,
            ..FINE
        };
        let view = ClockView::of(&troubled, &session(None));
        assert!(view.warnings[0].contains("steps of 10.000 ms"), "{view:?}");
        assert!(
            view.warnings[1].contains("stood still by 5.000 ms, 2 times so far"),
            "{view:?}"
        );
        let text = metrics(&[log(troubled)], &[session(None)]);
        for line in [
            "marey_clock_bound_seconds{session=\"walk\",device=\"phone\"} +Inf",
            "marey_clock_silent_seconds{session=\"walk\",device=\"phone\"} 0.2",
            "marey_clock_standstills_total{session=\"walk\",device=\"phone\"} 2",
            "marey_clock_step_seconds{session=\"walk\",device=\"phone\"} 0.01",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
        assert!(metrics(&[log(FINE)], &[session(None)]).contains("} 0.0015\n"));
        assert!(!metrics(&[log(FINE)], &[]).contains('{'));
    }
}
