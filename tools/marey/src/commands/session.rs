//! `marey session create|start|stop|close|list|show`: what is recorded. Asks the running hub, or works on its folder.

use super::device::{ask, other_answer};
use crate::hubdir;
use crate::output::{Failure, Output, Result, table};
use marey_engine::{Session, SessionState};
use marey_format::{DeviceId, SessionId};
use marey_server::control::{Request, Response, SessionSpec, SessionView};
use std::collections::BTreeMap;
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
    List,
    /// One session with its logs.
    Show { session: SessionId },
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
}

pub fn run(arguments: Arguments, dir: Option<PathBuf>, output: &Output) -> Result {
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
        Verb::Stop { session, wait } => changed(&dir, &Request::SessionStop { session, wait }, output),
        Verb::Close { session } => changed(&dir, &Request::SessionClose { session }, output),
        Verb::List => {
            let sessions = sessions(&dir, output)?;
            output.result(&sessions, |sessions| {
                let rows: Vec<_> = sessions.iter().map(row).collect();
                table(&["session", "state", "generation", "devices"], &rows)
            })
        }
        Verb::Show { session } => {
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
    if !view.owing.is_empty() {
        let owing: Vec<_> = view.owing.iter().map(DeviceId::to_string).collect();
        text.push_str(&format!("\n\nnot yet heard to the end: {}", owing.join(", ")));
    }
    if view.late_frames {
        text.push_str("\n\nlate frames came since the last seal; they make the next generation");
    }
    text
}
