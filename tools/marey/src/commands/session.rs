//! `marey session create|check|start|mark|annotate|stop|close|list|show`: what is recorded. Asks the running hub, or works on
//! its folder; `list` and `show` also ask a hub elsewhere.

use super::device::{ask, other_answer};
use crate::hubdir;
use crate::output::{Failure, Output, Result, plain, table};
use crate::remote::Remote;
use marey_engine::compact::rfc3339;
use marey_engine::{Session, SessionState};
use marey_format::types::Label;
use marey_format::{DeviceId, SessionId};
use marey_server::control::{
    AnnotationSpec, CheckView, MarkAnswer, MarkView, Request, Response, SessionSpec, SessionView,
};
use marey_server::judge::plan::Plan;
use marey_server::judge::rules::{Phase, Verdict};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Makes a session; nothing is recorded before it is started.
    Create(New),
    /// Starts a session; makes it first where there is none of that name.
    Start(New),
    /// Go or no-go: holds a session against its protocol, before and while it is recorded; exit 1 where a rule is broken.
    Check { session: SessionId },
    /// Marks this moment in the record, and tells the session's devices.
    Mark {
        session: SessionId,
        /// What happened, such as "stood up".
        label: Label,
    },
    /// Stops the captures; it is sealed when everything is in, or after the grace time.
    Stop {
        session: SessionId,
        /// Return when it is sealed.
        #[arg(long)]
        wait: bool,
    },
    /// Ends a session for good: late frames are refused from then on.
    Close { session: SessionId },
    /// All sessions.
    List {
        #[command(flatten)]
        remote: Remote,
    },
    /// One session with its logs.
    Show {
        session: SessionId,
        #[command(flatten)]
        remote: Remote,
    },
    /// Says something of a session's time, during a recording or later; it stands in events.parquet with author and version.
    Annotate {
        session: SessionId,
        text: String,
        /// When it is about: session time in nanoseconds UTC; else now.
        #[arg(long, value_name = "NANOSECONDS", allow_hyphen_values = true)]
        time_ns: Option<i64>,
        /// How many seconds that lasted; else a moment.
        #[arg(long, value_name = "SECONDS")]
        duration_s: Option<f64>,
        /// What kind, such as mark; else note.
        #[arg(long)]
        kind: Option<String>,
        /// The device that it is about.
        #[arg(long)]
        device: Option<DeviceId>,
        /// The stream that it is about, such as imu@1.
        #[arg(long)]
        stream: Option<String>,
        /// The number of the annotation that this is the next version of; what is not said stays as it was.
        #[arg(long, value_name = "NUMBER")]
        corrects: Option<u64>,
        /// That annotation stands no more; the text says why. All versions stay in annotations.jsonl.
        #[arg(long, requires = "corrects")]
        withdraw: bool,
    },
}

#[derive(Debug, clap::Args)]
struct New {
    session: SessionId,
    /// Which devices may take part; else every enrolled one.
    #[arg(long, value_delimiter = ',', value_name = "NAME,NAME")]
    devices: Option<Vec<DeviceId>>,
    /// For people, such as `participant=P07`.
    #[arg(long = "meta", value_name = "KEY=VALUE")]
    meta: Vec<String>,
    /// The most that any device's clock may gain or lose, in parts per million.
    #[arg(long, value_name = "PPM", value_parser = drift)]
    max_drift_ppm: Option<f64>,
    /// Warn where the bound of a time is wider than this, such as 2ms or 500us: in `session show`, the hub's log, /metrics, and
    /// the receipt.
    #[arg(long, value_name = "TIME", value_parser = microseconds, allow_hyphen_values = true)]
    max_time_error: Option<f64>,
    /// A TOML file that says what the recording must be like; it is kept with the session, and `session check` judges by it.
    #[arg(long, value_name = "FILE")]
    protocol: Option<PathBuf>,
}

pub fn run(arguments: Arguments, dir: Option<PathBuf>, output: &Output) -> Result {
    if let Verb::List { remote } | Verb::Show { remote, .. } = &arguments.verb
        && let Some(mut client) = remote.connect()?
    {
        return match &arguments.verb {
            Verb::Show { session, .. } => {
                let view: SessionView = client.get(&format!("/api/v1/sessions/{session}"))?;
                output.result(&view, show)
            }
            _ => listed(&client.list::<Session>("/api/v1/sessions")?, output),
        };
    }
    let dir = hubdir::find(dir)?;
    match arguments.verb {
        Verb::Create(new) => changed(&dir, &Request::SessionCreate(new.spec()?), output),
        Verb::Start(new) => {
            let spec = new.spec()?;
            let session = spec.session.clone();
            let known = sessions(&dir, output)?.iter().any(|known| known.id == session);
            changed(
                &dir,
                &Request::SessionStart {
                    session,
                    create: (!known).then_some(spec),
                },
                output,
            )
        }
        Verb::Check { session } => {
            let Response::Checked(view) = ask(&dir, &Request::SessionCheck { session }, output)? else {
                return Err(other_answer());
            };
            output.result(&view, checked)?;
            match view.go {
                true => Ok(()),
                false => Err(Failure::Fault(format!("no-go for {}", view.session))),
            }
        }
        Verb::Mark { session, label } => {
            let Response::Marked(mark) = ask(&dir, &Request::SessionMark { session, label }, output)? else {
                return Err(other_answer());
            };
            output.result(&mark, marked)
        }
        Verb::Stop { session, wait } => changed(&dir, &Request::SessionStop { session, wait }, output),
        Verb::Close { session } => changed(&dir, &Request::SessionClose { session }, output),
        Verb::List { .. } => listed(&sessions(&dir, output)?, output),
        Verb::Annotate {
            session,
            text,
            time_ns,
            duration_s,
            kind,
            device,
            stream,
            corrects,
            withdraw,
        } => {
            let spec = AnnotationSpec {
                session,
                time_ns,
                duration_s,
                kind,
                text,
                device,
                stream,
                by: format!("uid:{}", rustix::process::geteuid().as_raw()),
                corrects,
                withdraw,
            };
            spec.check().map_err(Failure::Usage)?;
            let Response::Annotated(annotation) = ask(&dir, &Request::SessionAnnotate(spec), output)? else {
                return Err(other_answer());
            };
            output.result(&annotation, |annotation| {
                let time = rfc3339(annotation.time_ns.div_euclid(1_000));
                let number = annotation.number();
                match (annotation.version, annotation.withdrawn) {
                    (1, _) => format!("annotation {number} at {time}"),
                    (version, false) => format!("annotation {number} at {time}, version {version}"),
                    (version, true) => format!("annotation {number} withdrawn, by version {version}"),
                }
            })
        }
        Verb::Show { session, .. } => {
            let Response::SessionShown(view) = ask(&dir, &Request::SessionShow { session }, output)? else {
                return Err(other_answer());
            };
            output.result(&view, show)
        }
    }
}

impl New {
    fn spec(&self) -> Result<SessionSpec> {
        let mut metadata = BTreeMap::new();
        for pair in &self.meta {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(Failure::Usage(format!("--meta {pair:?} is not KEY=VALUE")));
            };
            metadata.insert(key.to_owned(), value.to_owned());
        }
        let (session, devices) = (self.session.clone(), self.devices.clone());
        Ok(SessionSpec {
            session,
            devices,
            metadata,
            max_drift_ppm: self.max_drift_ppm,
            max_time_error_us: self.max_time_error,
            protocol: self.protocol.as_deref().map(protocol).transpose()?,
        })
    }
}

/// Not left to the hub: JSON has no words for what is no number.
fn drift(text: &str) -> std::result::Result<f64, String> {
    let ppm = text
        .parse()
        .ok()
        .filter(|ppm: &f64| ppm.is_finite() && *ppm > 0.0);
    ppm.ok_or_else(|| format!("a maximum drift is a number above 0, such as 100, not {text:?}"))
}

/// A time with its unit, in microseconds.
fn microseconds(text: &str) -> std::result::Result<f64, String> {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit_us = match &text[number.len()..] {
        "us" => Some(1.0),
        "ms" => Some(1e3),
        "s" => Some(1e6),
        _ => None,
    };
    let time_us = number
        .trim()
        .parse::<f64>()
        .ok()
        .zip(unit_us)
        .map(|(number, unit)| number * unit);
    time_us
        .filter(|time_us| time_us.is_finite() && *time_us > 0.0)
        .ok_or_else(|| {
            format!("a time is a number above 0 with us, ms or s behind it, such as 2ms, not {text:?}")
        })
}

fn listed(sessions: &[Session], output: &Output) -> Result {
    output.result(sessions, |sessions| {
        let rows: Vec<_> = sessions.iter().map(row).collect();
        table(&["session", "state", "generation", "devices"], &rows)
    })
}

fn sessions(dir: &Path, output: &Output) -> Result<Vec<Session>> {
    match ask(dir, &Request::SessionList, output)? {
        Response::Sessions(sessions) => Ok(sessions),
        _ => Err(other_answer()),
    }
}

fn changed(dir: &Path, request: &Request, output: &Output) -> Result {
    let Response::Session(session) = ask(dir, request, output)? else {
        return Err(other_answer());
    };
    output.result(&session, |session| {
        format!("session {} is {}", session.id, session.state)
    })
}

/// The text of a protocol file. What it says is judged by the hub, which names the line.
fn protocol(path: &Path) -> Result<String> {
    let wrong = |why: String| Failure::Usage(format!("{}: {why}", path.display()));
    let mut bytes = Vec::new();
    let mut file = File::open(path)
        .map_err(|error| wrong(error.to_string()))?
        .take(PROTOCOL_BYTES_MAX + 1);
    file.read_to_end(&mut bytes)
        .map_err(|error| wrong(error.to_string()))?;
    if bytes.len() as u64 > PROTOCOL_BYTES_MAX {
        return Err(wrong(format!(
            "a protocol has at most {PROTOCOL_BYTES_MAX} bytes"
        )));
    }
    let text = String::from_utf8(bytes).map_err(|_| wrong("it is not UTF-8".to_owned()))?;
    Plan::parse(&text).map_err(|error| wrong(error.to_string()))?;
    Ok(text)
}

fn checked(view: &CheckView) -> String {
    let rows: Vec<_> = view
        .rules
        .iter()
        .map(|finding| {
            let verdict = match finding.verdict {
                Verdict::Go => "go",
                Verdict::NoGo => "NO-GO",
                Verdict::Later => "later",
            };
            let todo = finding.todo.as_deref().unwrap_or("");
            let cells = [verdict, &finding.subject(), &finding.asked, &finding.is, todo];
            cells.map(plain).to_vec()
        })
        .collect();
    let mut text = table(&["", "rule", "asked", "is", "what to do"], &rows);
    let broken = view.rules.iter().filter(|rule| rule.verdict == Verdict::NoGo);
    let (broken, all) = (broken.count(), view.rules.len());
    let when = match view.phase {
        Phase::Before => "to start",
        Phase::During => "going on",
    };
    text.push_str(&match view.go {
        true => format!("\n\ngo for {when}: no rule of {all} is broken"),
        false => format!("\n\nno-go for {when}: {broken} of {all} rules are broken"),
    });
    if !view.has_protocol {
        text.push_str(
            "\nthe session has no protocol (--protocol at its making): only who is there is judged",
        );
    }
    text
}

fn marked(mark: &MarkView) -> String {
    let mut text = format!(
        "{:?} is marked in the record of {}",
        mark.label.as_str(),
        mark.session
    );
    let rows: Vec<_> = mark
        .devices
        .iter()
        .map(|device| {
            let answer = match device.answer {
                MarkAnswer::Done => "has it",
                MarkAnswer::Refused => "refused it",
                MarkAnswer::Waiting => "is told when it answers",
                MarkAnswer::NotTold => "takes no commands",
            };
            let why = plain(device.why.as_deref().unwrap_or(""));
            vec![device.device.to_string(), answer.to_owned(), why]
        })
        .collect();
    text.push_str("\n\n");
    text.push_str(&table(&["device", "answer", "why"], &rows));
    text
}

fn row(session: &Session) -> Vec<String> {
    let devices = session.roster.as_ref().map_or("any".to_owned(), |roster| {
        roster
            .iter()
            .map(DeviceId::to_string)
            .collect::<Vec<_>>()
            .join(",")
    });
    vec![
        session.id.to_string(),
        session.state.to_string(),
        session.generation.to_string(),
        devices,
    ]
}

fn show(view: &SessionView) -> String {
    let mut text = table(
        &["session", "state", "generation", "devices"],
        &[row(&view.session)],
    );
    let rows: Vec<_> = view
        .logs
        .iter()
        .flat_map(|log| {
            log.streams.iter().map(|stream| {
                let ended = if stream.ended { "ended" } else { "open" };
                vec![
                    log.device.to_string(),
                    stream.stream.clone(),
                    stream.samples.to_string(),
                    ended.to_owned(),
                ]
            })
        })
        .collect();
    text.push_str("\n\n");
    text.push_str(&table(&["device", "stream", "samples", "end"], &rows));
    let clocks: Vec<_> = view
        .logs
        .iter()
        .filter_map(|log| Some((log, log.clock.as_ref()?)))
        .collect();
    if view.session.state == SessionState::Recording && !clocks.is_empty() {
        let bound = |bound_us: Option<f64>| bound_us.map_or("none".to_owned(), |us| format!("{us:.0}"));
        let rows: Vec<_> = clocks
            .iter()
            .map(|(log, clock)| {
                vec![
                    log.device.to_string(),
                    bound(clock.bound_us),
                    format!("{:.1}", clock.silent_s),
                    clock.standstills.to_string(),
                ]
            })
            .collect();
        text.push_str("\n\n");
        text.push_str(&table(
            &["device", "bound now us", "heard s ago", "standstills"],
            &rows,
        ));
    }
    for (log, clock) in &clocks {
        for warning in &clock.warnings {
            text.push_str(&format!("\nwarning: {}: {warning}", log.device));
        }
    }
    for breach in &view.breaches {
        let (finding, since_s) = (&breach.finding, breach.since_s);
        let (asked, is) = (&finding.asked, plain(&finding.is));
        text.push_str(&format!(
            "\nno-go for {since_s:.0} s: {}: asked {asked}, was {is}",
            finding.subject()
        ));
    }
    if !view.owing.is_empty() {
        let owing: Vec<_> = view.owing.iter().map(DeviceId::to_string).collect();
        text.push_str(&format!("\n\nnot yet heard to the end: {}", owing.join(", ")));
    }
    if view.late_frames {
        text.push_str("\n\nlate frames came since the last seal; they make the next generation");
    }
    text
}

/// Longest protocol file that is read.
const PROTOCOL_BYTES_MAX: u64 = 64 << 10;
