//! Holds facts against a plan: one finding for each rule. Pure.

use std::collections::BTreeMap;

use marey_format::DeviceId;
use serde::{Deserialize, Serialize};

use super::meter::Flow;
use super::plan::{Plan, StreamRules};
use crate::attached::DeviceState;

/// When it is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The session is created.
    Before,
    /// It is being recorded.
    During,
}

/// One rule, and how things are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// What is asked about.
    pub rule: Rule,
    /// Whose; none for the hub's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceId>,
    /// Which stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// What was asked for.
    pub asked: String,
    /// What is.
    pub is: String,
    /// Whether that will do.
    pub verdict: Verdict,
    /// What to do about it, where it will not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub todo: Option<String>,
}

/// What a rule asks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// The hub takes samples.
    HubReady,
    /// Room on the hub's disk.
    DiskRoom,
    /// A device is there.
    Device,
    /// A device takes part in the recording.
    Recording,
    /// Charge of its battery.
    Battery,
    /// Its room for recordings.
    Storage,
    /// The bound of its time.
    TimeError,
    /// A stream comes in at all.
    Stream,
    /// A stream's rate.
    Rate,
    /// How long a stream is silent, or what it lost.
    Gap,
}

impl Rule {
    /// For people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HubReady => "hub",
            Self::DiskRoom => "disk room",
            Self::Device => "device",
            Self::Recording => "recording",
            Self::Battery => "battery",
            Self::Storage => "storage",
            Self::TimeError => "time error",
            Self::Stream => "stream",
            Self::Rate => "rate",
            Self::Gap => "gap",
        }
    }
}

/// Whether what is will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It will.
    Go,
    /// It will not.
    NoGo,
    /// It can't be known yet.
    Later,
}

/// How things are.
#[derive(Debug)]
pub(crate) struct Facts {
    pub phase: Phase,
    /// Since the start of the recording.
    pub lasting_s: f64,
    /// Why the hub takes no samples.
    pub not_ready: Option<String>,
    pub disk_free_bytes: u64,
    /// Those of the roster, and those that have a log in the session.
    pub devices: BTreeMap<DeviceId, DeviceFacts>,
    /// Whom the roster names.
    pub roster: Vec<DeviceId>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct DeviceFacts {
    pub state: DeviceState,
    pub silent_s: Option<f64>,
    pub battery_percent: Option<f64>,
    pub storage_mb: Option<f64>,
    /// It has a log in the session.
    pub has_log: bool,
    /// Another session that it is being recorded in.
    pub elsewhere: Option<String>,
    pub time_error_ms: Option<f64>,
    /// By the stream's name, for the streams of the plan.
    pub flows: BTreeMap<String, Flow>,
}

/// All rules of a plan, in the order in which people look at them.
pub(crate) fn judge(plan: &Plan, facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![hub_ready(facts)];
    findings.extend(disk_room(plan, facts));
    let required = match plan.devices.required.is_empty() {
        true => &facts.roster,
        false => &plan.devices.required,
    };
    let nobody = DeviceFacts::default();
    let of = |device: &DeviceId| facts.devices.get(device).unwrap_or(&nobody);
    for device in required {
        findings.push(there(device, of(device), facts));
        if facts.phase == Phase::During {
            findings.push(recording(device, of(device), facts));
        }
    }
    let others = facts.devices.iter().filter(|(_, facts)| facts.has_log);
    let mut judged: Vec<&DeviceId> = others.map(|(device, _)| device).chain(required).collect();
    judged.sort();
    judged.dedup();
    for device in judged {
        findings.extend(battery(plan, device, of(device)));
        findings.extend(storage(plan, device, of(device)));
        if facts.phase == Phase::During {
            findings.extend(time_error(plan, device, of(device), facts));
        }
    }
    if facts.phase == Phase::During {
        for rules in &plan.stream {
            let whose = match &rules.device {
                Some(device) => std::slice::from_ref(device),
                None => &required[..],
            };
            for device in whose {
                stream(plan, rules, device, of(device), facts, &mut findings);
            }
        }
    }
    findings
}

fn hub_ready(facts: &Facts) -> Finding {
    let asked = "the hub takes samples".to_owned();
    match &facts.not_ready {
        None => Finding::go(Rule::HubReady, asked, "it does".to_owned()),
        Some(why) => {
            let todo = "`marey doctor` and the hub's log say more";
            Finding::no_go(Rule::HubReady, asked, why.clone(), todo)
        }
    }
}

fn disk_room(plan: &Plan, facts: &Facts) -> Option<Finding> {
    let least_mib = plan.hub.disk_free_mib_min?;
    let free_mib = facts.disk_free_bytes >> 20;
    let (asked, is) = (
        format!("at least {least_mib} MiB free"),
        format!("{free_mib} MiB free"),
    );
    Some(Finding::of(
        Rule::DiskRoom,
        free_mib >= least_mib,
        asked,
        is,
        "make room on the hub's disk: archive and remove old sessions",
    ))
}

fn there(device: &DeviceId, of: &DeviceFacts, facts: &Facts) -> Finding {
    let asked = "online".to_owned();
    let (todo, is) = match (of.state, of.silent_s) {
        _ if facts.phase == Phase::Before && of.elsewhere.is_some() => {
            let other = of.elsewhere.as_deref().unwrap_or_default();
            (
                "stop that session first",
                format!("being recorded in session {other}"),
            )
        }
        (DeviceState::Online, _) => return Finding::go(Rule::Device, asked, "online".into()).whose(device),
        (DeviceState::Late, Some(s)) => (
            "look at its radio: is it in reach, is its app in front?",
            format!("late, nothing heard for {s:.1} s"),
        ),
        (DeviceState::Offline, Some(s)) => (
            "start its app, and look at its network",
            format!("offline, last heard {s:.0} s ago"),
        ),
        (state, None) => (
            "start its app; `marey device list` shows who is enrolled",
            format!("{state}, not seen since the hub was started"),
        ),
    };
    Finding::no_go(Rule::Device, asked, is, todo).whose(device)
}

fn recording(device: &DeviceId, of: &DeviceFacts, facts: &Facts) -> Finding {
    let asked = "takes part in the session".to_owned();
    if of.has_log {
        return Finding::go(Rule::Recording, asked, "it does".into()).whose(device);
    }
    let is = "it has opened no log".to_owned();
    if facts.lasting_s < SETTLE_S {
        return Finding::later(Rule::Recording, asked, is).whose(device);
    }
    let todo = "is it in the session's roster, and its app ready to record?";
    Finding::no_go(Rule::Recording, asked, is, todo).whose(device)
}

fn battery(plan: &Plan, device: &DeviceId, of: &DeviceFacts) -> Option<Finding> {
    let least = plan.devices.battery_percent_min?;
    let asked = format!("at least {least} %");
    let finding = match of.battery_percent {
        Some(percent) => Finding::of(
            Rule::Battery,
            percent >= least,
            asked,
            format!("{percent:.0} %"),
            "charge it",
        ),
        None => unsaid(Rule::Battery, asked, of),
    };
    Some(finding.whose(device))
}

fn storage(plan: &Plan, device: &DeviceId, of: &DeviceFacts) -> Option<Finding> {
    let (least, mb_per_minute) = (
        plan.devices.storage_minutes_min?,
        plan.devices.storage_mb_per_minute?,
    );
    let asked = format!("room for at least {least} min");
    let finding = match of.storage_mb {
        Some(mb) => {
            let minutes = mb / mb_per_minute;
            let is = format!("room for {minutes:.0} min ({mb:.0} MB)");
            Finding::of(Rule::Storage, minutes >= least, asked, is, "make room on it")
        }
        None => unsaid(Rule::Storage, asked, of),
    };
    Some(finding.whose(device))
}

/// A device that is not there is a finding already.
fn unsaid(rule: Rule, asked: String, of: &DeviceFacts) -> Finding {
    match of.state {
        DeviceState::Offline => Finding::later(rule, asked, "not known while it is offline".into()),
        _ => {
            let is = "it does not say".to_owned();
            Finding::no_go(rule, asked, is, "its program must send heartbeats of version 1")
        }
    }
}

fn time_error(plan: &Plan, device: &DeviceId, of: &DeviceFacts, facts: &Facts) -> Option<Finding> {
    let most = plan.devices.time_error_ms_max?;
    let asked = format!("at most {most} ms");
    let todo = "look at its network: probes need a way in both directions";
    let finding = match of.time_error_ms {
        _ if !of.has_log => return None,
        Some(ms) => Finding::of(Rule::TimeError, ms <= most, asked, format!("{ms:.3} ms"), todo),
        None if facts.lasting_s < SETTLE_S => Finding::later(Rule::TimeError, asked, "no bound yet".into()),
        None => Finding::no_go(Rule::TimeError, asked, "no bound".into(), todo),
    };
    Some(finding.whose(device))
}

fn stream(
    plan: &Plan,
    rules: &StreamRules,
    device: &DeviceId,
    of: &DeviceFacts,
    facts: &Facts,
    to: &mut Vec<Finding>,
) {
    let name = rules.stream.as_str();
    let mut push = |finding: Finding| to.push(finding.whose(device).which(name));
    let asked = "comes in".to_owned();
    let Some(flow) = of.flows.get(name) else {
        let is = "not declared".to_owned();
        push(match facts.lasting_s < SETTLE_S {
            true => Finding::later(Rule::Stream, asked, is),
            false => Finding::no_go(
                Rule::Stream,
                asked,
                is,
                "is the sensor connected, and its app set to it?",
            ),
        });
        return;
    };
    push(Finding::go(Rule::Stream, asked, "it does".into()));
    let asked = match (rules.rate_hz_min, rules.rate_hz_max) {
        (Some(least), Some(most)) => Some(format!("{least} to {most} Hz")),
        (Some(least), None) => Some(format!("at least {least} Hz")),
        (None, Some(most)) => Some(format!("at most {most} Hz")),
        (None, None) => None,
    };
    let window_s = plan.window_s;
    if let Some(asked) = asked {
        let within = |hz: f64| {
            rules.rate_hz_min.is_none_or(|least| hz >= least)
                && rules.rate_hz_max.is_none_or(|most| hz <= most)
        };
        push(match flow.rate_hz {
            _ if flow.ended => Finding::later(Rule::Rate, asked, "it has ended".into()),
            None => Finding::later(Rule::Rate, asked, format!("not known before {window_s} s of it")),
            Some(hz) => Finding::of(
                Rule::Rate,
                within(hz),
                asked,
                format!("{hz:.2} Hz over {window_s} s"),
                "look at the sensor's setting and at what else its device does",
            ),
        });
    }
    if let Some(most) = rules.gap_s_max {
        let asked = format!("no gap over {most} s");
        push(match flow.ended {
            true => Finding::later(Rule::Gap, asked, "it has ended".into()),
            false => Finding::of(
                Rule::Gap,
                flow.gap_s <= most,
                asked,
                format!("{:.1} s", flow.gap_s),
                "look at the sensor, and at the device's network and buffer",
            ),
        });
    }
}

impl Finding {
    fn of(rule: Rule, good: bool, asked: String, is: String, todo: &str) -> Self {
        match good {
            true => Self::go(rule, asked, is),
            false => Self::no_go(rule, asked, is, todo),
        }
    }

    fn go(rule: Rule, asked: String, is: String) -> Self {
        Self {
            rule,
            device: None,
            stream: None,
            asked,
            is,
            verdict: Verdict::Go,
            todo: None,
        }
    }

    fn no_go(rule: Rule, asked: String, is: String, todo: &str) -> Self {
        Self {
            verdict: Verdict::NoGo,
            todo: Some(todo.to_owned()),
            ..Self::go(rule, asked, is)
        }
    }

    fn later(rule: Rule, asked: String, is: String) -> Self {
        Self {
            verdict: Verdict::Later,
            ..Self::go(rule, asked, is)
        }
    }

    fn whose(mut self, device: &DeviceId) -> Self {
        self.device = Some(device.clone());
        self
    }

    fn which(mut self, stream: &str) -> Self {
        self.stream = Some(stream.to_owned());
        self
    }

    /// What and whose, for people.
    pub fn subject(&self) -> String {
        let parts = [
            Some(self.rule.as_str().to_owned()),
            self.device.as_ref().map(ToString::to_string),
            self.stream.clone(),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }
}

/// So long after its start a recording may still be gathering.
const SETTLE_S: f64 = 15.0;

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
