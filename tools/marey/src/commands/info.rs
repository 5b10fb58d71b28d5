//! `marey info [PATH]`: what a hub, a session or a log holds, in numbers. Works on folders, without a running hub.

use crate::hubdir;
use crate::output::{Failure, Output, Result, plain, table};
use marey_engine::log::Replay;
use marey_engine::salvage::{SessionContents, Source, What, contents};
use marey_engine::{Options, SessionState};
use marey_format::{DeviceId, SessionId};
use serde::Serialize;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The folder of a hub, a session or a log, a .mlog file, or a session's name; else the hub.
    path: Option<PathBuf>,
}

#[derive(Serialize)]
struct HubInfo {
    path: PathBuf,
    sessions: Vec<SessionLine>,
}

#[derive(Serialize)]
struct SessionLine {
    session: SessionId,
    state: Option<SessionState>,
    generation: u32,
    devices: usize,
    samples: u64,
    /// What keeps it from being read.
    fault: Option<String>,
}

#[derive(Serialize)]
struct LogInfo {
    session: SessionId,
    device: DeviceId,
    segments: Vec<SegmentLine>,
    frames: u64,
    samples: u64,
    epochs: usize,
    faults: Vec<String>,
}

#[derive(Serialize)]
struct SegmentLine {
    segment: u32,
    bytes: u64,
    sealed: bool,
}

pub fn run(arguments: Arguments, dir: Option<PathBuf>, output: &Output) -> Result {
    let source = hubdir::source(arguments.path.as_deref(), dir)?;
    match source.what().clone() {
        What::Hub => output.result(&hub(&source)?, show_hub),
        What::Session { session } => output.result(&session_contents(&source, &session)?, show_session),
        What::Log { session, device } | What::Segment { session, device, .. } => {
            output.result(&log(&source, session, device)?, show_log)
        }
    }
}

fn hub(source: &Source) -> Result<HubInfo> {
    let (found, _) = source.sessions()?;
    let mut sessions = Vec::new();
    for found in found {
        let mut line = SessionLine {
            session: found.id.clone(),
            state: None,
            generation: 0,
            devices: 0,
            samples: 0,
            fault: None,
        };
        match found.session {
            Some(Ok(session)) => {
                (line.state, line.generation) = (Some(session.state), session.generation);
                for device in source.devices(&found.id)? {
                    let log = log(source, found.id.clone(), device)?;
                    (line.devices, line.samples) = (line.devices + 1, line.samples + log.samples);
                }
            }
            Some(Err(error)) => line.fault = Some(error.to_string()),
            None => {}
        }
        sessions.push(line);
    }
    Ok(HubInfo {
        path: source.path().to_owned(),
        sessions,
    })
}

fn session_contents(source: &Source, id: &SessionId) -> Result<SessionContents> {
    let (found, _) = source.sessions()?;
    match found
        .into_iter()
        .find(|found| found.id == *id)
        .and_then(|found| found.session)
    {
        Some(session) => Ok(contents(source, &session?, &Options::default())?),
        None => Err(Failure::fault(format!("session {id} can't be read"))),
    }
}

fn log(source: &Source, session: SessionId, device: DeviceId) -> Result<LogInfo> {
    let disk = source.disk();
    let mut replay = Replay::open(&*disk, &session, &device)?;
    while replay.next()?.is_some() {}
    let segments = replay.reader().segments().iter().map(|summary| SegmentLine {
        segment: summary.segment,
        bytes: summary.file_bytes,
        sealed: summary.sealed_bytes.is_some(),
    });
    let state = replay.state();
    Ok(LogInfo {
        segments: segments.collect(),
        frames: state.frames,
        samples: state.samples,
        epochs: state.epochs().len(),
        faults: replay.reader().faults().iter().map(ToString::to_string).collect(),
        session,
        device,
    })
}

fn show_hub(info: &HubInfo) -> String {
    let rows: Vec<_> = info
        .sessions
        .iter()
        .map(|line| {
            let state = line
                .state
                .map_or("unreadable".to_owned(), |state| state.to_string());
            let (generation, devices) = (line.generation.to_string(), line.devices.to_string());
            vec![
                line.session.to_string(),
                state,
                generation,
                devices,
                line.samples.to_string(),
            ]
        })
        .collect();
    let mut text = table(&["session", "state", "generation", "devices", "samples"], &rows);
    for fault in info.sessions.iter().filter_map(|line| line.fault.as_ref()) {
        text.push_str(&format!("\nfault: {fault}"));
    }
    text
}

fn show_session(info: &SessionContents) -> String {
    let complete = match info.complete {
        Some(true) => "complete",
        Some(false) => "incomplete",
        None => "no receipt yet",
    };
    let mut text = format!(
        "session {}, generation {}, {complete}\n\n",
        info.session, info.generation
    );
    let mut rows = Vec::new();
    for device in &info.devices {
        for stream in &device.streams {
            let hz = stream.measured_hz.map_or("-".to_owned(), |hz| format!("{hz:.1}"));
            let bound = stream
                .time_err_us_max
                .map_or("inf".to_owned(), |us| format!("{us:.0}"));
            rows.push(vec![
                device.device.to_string(),
                stream.stream.clone(),
                stream.samples.to_string(),
                hz,
                format!("{:.1}", stream.duration_s),
                stream.gaps.to_string(),
                stream.missing.to_string(),
                stream.bytes.to_string(),
                stream.parquet_bytes.to_string(),
                bound,
            ]);
        }
    }
    let head = [
        "device",
        "stream",
        "samples",
        "Hz",
        "seconds",
        "gaps",
        "missing",
        "log bytes",
        "parquet bytes",
        "bound us",
    ];
    text.push_str(&table(&head, &rows));
    for device in &info.devices {
        let drift = device
            .clock
            .drift_ppm
            .map_or(String::new(), |ppm| format!(", {ppm:+.1} ppm"));
        text.push_str(&format!(
            "\n{}: {} epochs, {} clock segments, {} pieces of evidence{drift}",
            device.device, device.epochs, device.clock.segments, device.clock.evidence
        ));
    }
    for warning in &info.warnings {
        text.push_str(&format!("\nwarning: {}", plain(warning)));
    }
    if info.late_frames {
        text.push_str("\nframes came since the newest generation; `marey compact` publishes them");
    }
    if info.faults > 0 {
        text.push_str(&format!(
            "\n{} places in the logs can't be read; see `marey verify`",
            info.faults
        ));
    }
    text
}

fn show_log(info: &LogInfo) -> String {
    let rows: Vec<_> = info
        .segments
        .iter()
        .map(|line| {
            let sealed = if line.sealed { "sealed" } else { "open" };
            vec![
                line.segment.to_string(),
                line.bytes.to_string(),
                sealed.to_owned(),
            ]
        })
        .collect();
    let mut text = format!(
        "log of {} in session {}: {} frames, {} samples, {} epochs\n\n{}",
        info.device,
        info.session,
        info.frames,
        info.samples,
        info.epochs,
        table(&["segment", "bytes", ""], &rows)
    );
    for fault in &info.faults {
        text.push_str(&format!("\nfault: {fault}"));
    }
    text
}
