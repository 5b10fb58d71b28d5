//! `marey demo`: the whole thing on one machine. A hub with its own authority on loopback, devices with lying clocks
//! behind a bad network, a session from start to seal, and the files held against what the devices know to be true.

mod devices;
mod score;

use crate::output::{Failure, Output, Result, table};
use devices::DemoDevice;
use marey_device::simulate::Taps;
use marey_engine::Options;
use marey_engine::disk::OsDisk;
use marey_engine::session::Session;
use marey_engine::time::OsClocks;
use marey_format::{DeviceId, SessionId};
use marey_server::control::{ControlClient, Request, Response, SessionSpec};
use marey_server::{Hub, HubConfig, Overrides};
use score::StreamScore;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// How long the simulated devices record.
    #[arg(long, default_value_t = 8.0, value_name = "SECONDS")]
    seconds: f64,
    /// How many simulated devices.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    devices: u32,
    /// Recordings (CSV with a column of times) to be sent instead, one device for each.
    #[arg(long, value_name = "PATH", num_args = 1..)]
    replay: Vec<PathBuf>,
    /// Another simulation.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A knock that all simulated devices feel, every so many seconds; what `marey clock check --tap` looks for.
    #[arg(long, value_name = "SECONDS", value_parser = super::simulate::taps, conflicts_with = "replay")]
    taps: Option<Taps>,
}

/// What a demo prints.
#[derive(Debug, Serialize)]
struct Shown {
    session: SessionId,
    path: PathBuf,
    streams: Vec<StreamScore>,
    /// Events that the devices recorded, and rows of events.parquet that came of them.
    events: u64,
    /// Faults that reading everything once more found.
    faults: Vec<String>,
    seconds: f64,
}

pub fn run(arguments: Arguments, dir: Option<PathBuf>, output: &Output) -> Result {
    let begin = Instant::now();
    if !(arguments.seconds.is_finite() && (0.5..=86_400.0).contains(&arguments.seconds)) {
        return Err(Failure::Usage("--seconds takes 0.5 to 86400".to_owned()));
    }
    let dir = std::path::absolute(dir.unwrap_or_else(free_folder))?;
    let recordings = devices::open_recordings(&arguments.replay)?;
    output.progress(format!("making a hub in {}", dir.display()));
    let hub = start_hub(&dir)?;
    let bundles = tempfile::Builder::new().prefix("marey-demo-bundles").tempdir()?;
    let session = SessionId::new("demo").expect("a valid name");

    let names = match recordings.is_empty() {
        true => devices::simulated_names(arguments.devices),
        false => devices::replayed_names(&recordings)?,
    };
    for name in &names {
        output.progress(format!("enrolling {name}"));
        enroll(&dir, &hub, name, &bundles.path().join(name.as_str()))?;
    }
    let running = match recordings.is_empty() {
        true => devices::start_simulated(&names, bundles.path(), &arguments)?,
        false => devices::start_replayed(&names, bundles.path(), recordings)?,
    };
    record(&dir, &session, &names, &running, &arguments, output)?;
    let mut reports = Vec::new();
    for device in &running {
        output.progress(format!("waiting for the account of {}", device.name()));
        reports.push(device.report(Duration::from_secs(20))?);
    }
    output.progress("the hub goes down");
    hub.shutdown()?;

    output.progress("reading everything back");
    let disk = OsDisk::new(&dir);
    let session_dir = Session::dir(&session);
    let known = Session::read(&disk, &session_dir)?;
    let mut streams = Vec::new();
    for (device, report) in running.iter().zip(&reports) {
        streams.extend(score::score(&disk, &known, device, report, &Options::default())?);
    }
    let faults = score::verify(&dir)?;
    let path = dir.join(&session_dir);
    let events = reports.iter().map(|report| report.events).sum();
    output.progress_done();
    let shown = Shown {
        session,
        path,
        streams,
        events,
        faults,
        seconds: begin.elapsed().as_secs_f64(),
    };
    output.result(&shown, show)?;
    match shown.faults.is_empty() && shown.streams.iter().all(StreamScore::is_well) {
        true => Ok(()),
        false => Err(Failure::fault(
            "the recording is not what the devices captured; see above",
        )),
    }
}

/// `marey-demo` here, or the first free name after it.
fn free_folder() -> PathBuf {
    let names = std::iter::once("marey-demo".to_owned()).chain((2..).map(|n| format!("marey-demo-{n}")));
    names
        .map(PathBuf::from)
        .find(|path| !path.exists())
        .expect("names do not run out")
}

fn start_hub(dir: &Path) -> Result<Hub> {
    let clock = Arc::new(OsClocks::hub_clock()?);
    marey_server::init(dir, clock.as_ref())?;
    let overrides = Overrides::default()
        .flag("listen.devices", "127.0.0.1:0")
        .flag("listen.time", "127.0.0.1:0")
        .flag("listen.health", "127.0.0.1:0")
        .flag("listen.files", "127.0.0.1:0")
        // A few megabytes: the least floor will do, however large the disk is and however little of it is free.
        .flag("disk.floor_percent", 0);
    let config = HubConfig::load(dir, &overrides)?;
    Ok(Hub::start(dir, config, clock)?)
}

fn enroll(dir: &Path, hub: &Hub, device: &DeviceId, folder: &Path) -> Result {
    let request = Request::DeviceEnroll {
        device: device.clone(),
        addresses: vec![hub.bound().devices.to_string()],
    };
    match ask(dir, &request)? {
        Response::Bundle(bundle) => Ok(bundle.write(folder)?),
        _ => Err(super::device::other_answer()),
    }
}

fn ask(dir: &Path, request: &Request) -> Result<Response> {
    Ok(ControlClient::connect(dir)?.call(request, |_| {})?)
}

/// The session, from its start to its seal.
fn record(
    dir: &Path,
    session: &SessionId,
    names: &[DeviceId],
    running: &[DemoDevice],
    arguments: &Arguments,
    output: &Output,
) -> Result {
    let spec = SessionSpec {
        session: session.clone(),
        devices: Some(names.to_vec()),
        metadata: BTreeMap::from([("made_by".to_owned(), "marey demo".to_owned())]),
        max_drift_ppm: None,
        max_time_error_us: None,
        protocol: None,
    };
    ask(
        dir,
        &Request::SessionStart {
            session: session.clone(),
            create: Some(spec),
        },
    )?;
    let begin = Instant::now();
    let until = Duration::from_secs_f64(arguments.seconds);
    let mut told_s = None;
    loop {
        let passed = begin.elapsed();
        if told_s.replace(passed.as_secs()) != Some(passed.as_secs()) {
            let captured: u64 = running.iter().map(DemoDevice::captured).sum();
            output.progress(format!(
                "recording: {} s, {captured} samples captured",
                passed.as_secs()
            ));
        }
        let done = match arguments.replay.is_empty() {
            true => passed >= until,
            false => running.iter().all(DemoDevice::is_done),
        };
        if done {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    output.progress("stopping; what is on its way still comes in");
    let request = Request::SessionStop {
        session: session.clone(),
        wait: true,
    };
    ControlClient::connect(dir)?.call(&request, |what| output.progress(what))?;
    Ok(())
}

fn show(shown: &Shown) -> String {
    let number = |value: f64| {
        if value.is_finite() {
            format!("{value:.0}")
        } else {
            "inf".to_owned()
        }
    };
    let rows: Vec<_> = shown
        .streams
        .iter()
        .map(|score| {
            let truth = score.true_error_us.as_ref();
            vec![
                score.device.to_string(),
                score.stream.clone(),
                score.captured.to_string(),
                score.parquet.to_string(),
                score.missing.to_string(),
                number(score.time_err_us_median),
                truth.map_or("-".to_owned(), |truth| number(truth.rms)),
                truth.map_or("-".to_owned(), |truth| number(truth.max)),
                match score.bound_held {
                    Some(true) => "held",
                    Some(false) => "BROKEN",
                    None => "-",
                }
                .to_owned(),
                if score.digest_ok { "equal" } else { "DIFFER" }.to_owned(),
            ]
        })
        .collect();
    let head = [
        "device", "stream", "captured", "parquet", "missing", "bound us", "error us", "worst us", "bound",
        "values",
    ];
    let mut text = table(&head, &rows);
    if let Some(first) = shown.streams.iter().find_map(|score| score.files.first()) {
        text.push_str(&format!(
            "\n\n{}\n\nOpen it:\n\n  import pandas as pd\n  df = pd.read_parquet({:?})",
            shown.path.display(),
            shown.path.join(first).display().to_string()
        ));
    }
    for fault in &shown.faults {
        text.push_str(&format!("\nfault: {fault}"));
    }
    text
}
