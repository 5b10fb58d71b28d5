//! `marey info [PATH]`: what a hub, a session or a log holds, in numbers. Works on folders, without a running hub.

use crate::hubdir;
use crate::output::{Output, Result, plain, table};
use marey_engine::disk::{Disk, OpenMode};
use marey_engine::log::{Replay, segment_name};
use marey_engine::salvage::{RetiredStream, SessionContents, Source, What, contents, published_contents};
use marey_engine::state::Violation;
use marey_engine::{Options, Session, SessionState};
use marey_format::frame::Kind;
use marey_format::log::{Predecessor, SEGMENT_HEADER_BYTES, SegmentHeader};
use marey_format::types::hex;
use marey_format::{DeviceId, EpochId, HubEpoch, Lane, SessionId};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The folder of a hub, a session or a log, a .mlog file, or a session's name; else the hub.
    path: Option<PathBuf>,
    /// Read a session's logs to the end also where all of them is published: damage since shows, and the bytes of each stream.
    #[arg(long)]
    logs: bool,
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
    /// What its header says, where one segment alone is looked at.
    header: Option<HeaderLine>,
    frames: u64,
    samples: u64,
    /// Frames by kind.
    kinds: BTreeMap<String, u64>,
    /// Epochs that device frames belong to, by ordinal.
    epochs: BTreeMap<u32, EpochLine>,
    faults: Vec<String>,
}

#[derive(Serialize)]
struct SegmentLine {
    segment: u32,
    bytes: u64,
    sealed: bool,
}

#[derive(Serialize)]
struct HeaderLine {
    hub: String,
    predecessor: &'static str,
    predecessor_end: u64,
    /// The epoch at its beginning.
    epoch: Option<EpochId>,
    hub_epoch: HubEpoch,
    created_hub_ns: i64,
}

/// Frames of one epoch, and the highest sequence of each lane.
#[derive(Default, Serialize)]
struct EpochLine {
    frames: u64,
    samples: u64,
    data_last: Option<u64>,
    live_last: Option<u64>,
}

pub fn run(arguments: Arguments, dir: Option<PathBuf>, output: &Output) -> Result {
    let source = hubdir::source(arguments.path.as_deref(), dir)?;
    match source.what().clone() {
        What::Hub => output.result(&hub(&source)?, show_hub),
        What::Session { session } => output.result(
            &session_contents(&source, &session, arguments.logs, output)?,
            show_session,
        ),
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

fn session_contents(source: &Source, id: &SessionId, logs: bool, output: &Output) -> Result<SessionContents> {
    let (found, _) = source.sessions()?;
    let found = found.into_iter().find(|found| found.id == *id);
    let session = match found.and_then(|found| found.session) {
        Some(Ok(session)) => Some(session),
        Some(Err(error)) => {
            output.warn(error);
            None
        }
        None => None,
    };
    if let (false, Some(session)) = (logs, &session)
        && let Some(published) = published_contents(source, session)?
    {
        return Ok(published);
    }
    Ok(contents(source, id, session.as_ref(), &Options::default())?)
}

fn log(source: &Source, session: SessionId, device: DeviceId) -> Result<LogInfo> {
    let disk = source.disk();
    let mut replay = Replay::open(&*disk, &session, &device)?;
    let (mut frames, mut samples) = (0, 0);
    let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
    let mut epochs: BTreeMap<u32, EpochLine> = BTreeMap::new();
    while let Some(found) = replay.next()? {
        // Of two frames with one name the first counts.
        if matches!(found.judged, Err(Violation::Below { .. })) {
            continue;
        }
        let header = found.at.frame.header();
        *kinds.entry(header.kind.name().to_owned()).or_default() += 1;
        frames += u64::from(header.lane != Lane::Hub);
        let Some(epoch) = found.at.epoch else { continue };
        let epoch = epochs.entry(epoch).or_default();
        epoch.frames += 1;
        let last = match header.lane {
            Lane::Data => &mut epoch.data_last,
            _ => &mut epoch.live_last,
        };
        *last = (*last).max(Some(header.sequence));
        if header.kind == Kind::DATA {
            epoch.samples += u64::from(header.count);
            samples += u64::from(header.count);
        }
    }
    let segments = replay.reader().segments().iter().map(|summary| SegmentLine {
        segment: summary.segment,
        bytes: summary.file_bytes,
        sealed: summary.sealed_bytes.is_some(),
    });
    let alone = match source.what() {
        What::Segment { segment, .. } => Some(*segment),
        _ => None,
    };
    let faults = replay.reader().faults().iter();
    Ok(LogInfo {
        segments: segments.collect(),
        header: alone.and_then(|segment| header(&*disk, &session, &device, segment)),
        frames,
        samples,
        kinds,
        epochs,
        // That the others are missing is no fault of one that is looked at alone.
        faults: faults
            .filter(|fault| alone.is_none_or(|segment| segment == fault.segment))
            .map(ToString::to_string)
            .collect(),
        session,
        device,
    })
}

/// A segment's header; none where it can't be read, which is among the faults.
fn header(disk: &dyn Disk, session: &SessionId, device: &DeviceId, segment: u32) -> Option<HeaderLine> {
    let path = Session::log_dir(session, device).join(segment_name(segment));
    let file = disk.open(&path, OpenMode::Read).ok()?;
    let mut bytes = [0; SEGMENT_HEADER_BYTES];
    let read = file.read_at(0, &mut bytes).ok()?;
    let header = SegmentHeader::parse(&bytes[..read]).ok()?;
    Some(HeaderLine {
        hub: hex(&header.hub),
        predecessor: match header.predecessor {
            Predecessor::None => "none",
            Predecessor::Sealed => "sealed",
            Predecessor::Cut => "cut",
            Predecessor::Copied => "copied",
        },
        predecessor_end: header.predecessor_end,
        epoch: header.epoch.map(|(epoch, _)| epoch),
        hub_epoch: header.hub_epoch,
        created_hub_ns: header.created_hub_ns,
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
        None if info.late_frames => "its logs are not those of its receipt",
        None if info.generation > 0 => "its receipt can't be read",
        None => "no receipt yet",
    };
    let state = info.state.map_or("unreadable", SessionState::as_str);
    let anchor = info
        .anchor
        .as_ref()
        .map_or(String::new(), |anchor| format!(", since {anchor}"));
    let mut text = format!(
        "session {}, {state}{anchor}, generation {}, {complete}\n\n",
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
                stream.bytes.map_or("-".to_owned(), |bytes| bytes.to_string()),
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
    match &info.retired {
        None => text.push_str(&table(&head, &rows)),
        Some(retired) => {
            let row =
                |it: &RetiredStream| vec![it.device.to_string(), it.stream.clone(), it.rows.to_string()];
            let rows: Vec<_> = retired.streams.iter().map(row).collect();
            text.push_str(&table(&["device", "stream", "rows"], &rows));
            text.push_str(&format!(
                "\nits logs were retired on {} ({}); all of their {} samples stand in Parquet",
                retired.at,
                plain(&retired.rule),
                retired.samples
            ));
        }
    }
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
    if info.late_frames && info.faults == 0 {
        text.push_str("\nframes came since the newest generation; `marey compact` publishes them");
    }
    for place in &info.unreadable {
        text.push_str(&format!("\nunreadable: {}", plain(place)));
    }
    for place in &info.left_out {
        text.push_str(&format!("\nnot in Parquet: {}", plain(place)));
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
        "log of {} in session {}: {} frames, {} samples, {} epochs\n\n{}\n",
        info.device,
        info.session,
        info.frames,
        info.samples,
        info.epochs.len(),
        table(&["segment", "bytes", ""], &rows)
    );
    if let Some(header) = &info.header {
        let epoch = header
            .epoch
            .map_or("no epoch yet".to_owned(), |epoch| format!("in epoch {epoch}"));
        text.push_str(&format!(
            "\nbegun {epoch}, at {} ns of hub epoch {}; the segment before: {} at {}\n",
            header.created_hub_ns, header.hub_epoch, header.predecessor, header.predecessor_end
        ));
    }
    let kinds: Vec<_> = info
        .kinds
        .iter()
        .map(|(kind, frames)| vec![kind.clone(), frames.to_string()])
        .collect();
    text.push_str(&format!("\n{}", table(&["kind", "frames"], &kinds)));
    if !info.epochs.is_empty() {
        let last = |last: Option<u64>| last.map_or("-".to_owned(), |last| last.to_string());
        let epochs: Vec<_> = info
            .epochs
            .iter()
            .map(|(ordinal, epoch)| {
                vec![
                    ordinal.to_string(),
                    epoch.frames.to_string(),
                    epoch.samples.to_string(),
                    last(epoch.data_last),
                    last(epoch.live_last),
                ]
            })
            .collect();
        let head = ["epoch", "frames", "samples", "last data", "last live"];
        text.push_str(&format!("\n\n{}", table(&head, &epochs)));
    }
    for fault in &info.faults {
        text.push_str(&format!("\nfault: {fault}"));
    }
    text
}
