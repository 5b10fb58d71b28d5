//! `marey simulate`: simulated devices against a running hub, each from its own bundle. They wait to be asked to join,
//! record until the hub stops the session, hand everything in, and print their account.

use crate::output::{Failure, Output, Result};
use marey_device::record::{RunReport, acknowledged_to_file};
use marey_device::simulate::{
    ClockEvent, ClockPlan, NetworkPlan, PathPlan, SignalKind, SimulatedDevice, Simulation, Taps,
};
use marey_device::{BufferOptions, Bundle, Options};
use marey_format::types::hex;
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Bundles of the devices, as `marey device enroll` made them.
    #[arg(required = true, value_name = "BUNDLE")]
    bundles: Vec<PathBuf>,
    /// The hub's address, where it is not the bundle's.
    #[arg(long, value_name = "ADDRESS:PORT")]
    hub: Option<SocketAddr>,
    /// The time service's address, where the hub's welcome does not name it.
    #[arg(long, value_name = "ADDRESS:PORT")]
    time: Option<SocketAddr>,
    /// Ends the capture by itself after so long; else when the hub stops the session.
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<f64>,
    /// Gives up if nothing came of it after so long.
    #[arg(long, default_value_t = 3600.0, value_name = "SECONDS")]
    at_most: f64,
    /// Another simulation.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A folder in which frames are kept until they are acknowledged, across a death of this process.
    #[arg(long, value_name = "FOLDER")]
    buffer: Option<PathBuf>,
    /// A line for each acknowledged frame, as evidence kept outside of the hub.
    #[arg(long, value_name = "FILE")]
    acknowledged: Option<PathBuf>,
    /// Delay of the simulated network, each way, in milliseconds; 0 for none.
    #[arg(long, default_value_t = 0.0, value_name = "MS")]
    delay_ms: f64,
    /// Mean of the delay on top of it, in milliseconds.
    #[arg(long, default_value_t = 0.0, value_name = "MS")]
    jitter_ms: f64,
    /// Share of time packets that are lost, 0 to 1.
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    loss: f64,
    /// The device's clock stands still, unseen: after so many seconds, for so many (`5,2`).
    #[arg(long, value_name = "AFTER,FOR", value_parser = pair)]
    sleep: Vec<(f64, f64)>,
    /// The device reboots after so many seconds, and is off for so many.
    #[arg(long, value_name = "AFTER,FOR", value_parser = pair)]
    reboot: Vec<(f64, f64)>,
    /// A knock that all devices feel, every so many seconds of true time; what `marey clock check --tap` looks for.
    #[arg(long, value_name = "SECONDS", value_parser = taps)]
    taps: Option<Taps>,
}

/// The account of one device.
#[derive(Serialize)]
struct Account {
    device: String,
    session: String,
    all_acknowledged: bool,
    fault: Option<String>,
    streams: Vec<StreamAccount>,
}

#[derive(Serialize)]
struct StreamAccount {
    stream: String,
    captured: u64,
    acked: u64,
    lost: u64,
    /// SHA-256 over what was captured, by epoch.
    epochs: Vec<EpochAccount>,
}

#[derive(Serialize)]
struct EpochAccount {
    epoch: String,
    captured: u64,
    digest: String,
}

pub fn run(arguments: Arguments, output: &Output) -> Result {
    let mut devices = Vec::new();
    for (n, folder) in arguments.bundles.iter().enumerate() {
        let bundle = Bundle::read(folder)?;
        let name = bundle.device().clone();
        let simulation = simulation(&arguments, n, name.as_str())?;
        devices.push((name, SimulatedDevice::start(bundle, simulation)?));
    }
    let begin = Instant::now();
    let at_most = Duration::from_secs_f64(arguments.at_most.clamp(0.0, 1e9));
    let mut accounts = Vec::new();
    let mut said = BTreeMap::new();
    for (name, device) in &devices {
        accounts.push(loop {
            for (name, device) in &devices {
                let why = device.status().and_then(|status| status.last_error);
                if let Some(why) = why.filter(|why| output.is_watched() && said.get(name) != Some(why)) {
                    output.progress(format!("{name}: {why}"));
                    said.insert(name.clone(), why);
                }
            }
            if let Some(report) = device.wait(Duration::from_millis(200)) {
                break account(&report);
            }
            if arguments
                .seconds
                .is_some_and(|seconds| begin.elapsed().as_secs_f64() >= seconds)
            {
                devices.iter().for_each(|(_, device)| device.stop());
            }
            if let Some(refusal) = device.status().and_then(|status| status.halted) {
                return Err(Failure::fault(format!("{name}: {refusal}")));
            }
            if begin.elapsed() >= at_most {
                let why = device
                    .status()
                    .and_then(|status| status.last_error)
                    .unwrap_or_default();
                return Err(Failure::Unreachable(format!(
                    "{name} was not asked to record, or did not end: {why}"
                )));
            }
        });
    }
    output.result(&accounts, |accounts| {
        let lines = accounts.iter().flat_map(|account| {
            account.streams.iter().map(move |stream| {
                format!(
                    "{} {}: {} captured, {} acknowledged, {} lost",
                    account.device, stream.stream, stream.captured, stream.acked, stream.lost
                )
            })
        });
        lines.collect::<Vec<_>>().join("\n")
    })?;
    match accounts.iter().find(|account| !account.all_acknowledged) {
        None => Ok(()),
        Some(account) => {
            let why = account
                .fault
                .as_deref()
                .unwrap_or("the hub did not take everything in time");
            Err(Failure::fault(format!("{}: {why}", account.device)))
        }
    }
}

fn simulation(arguments: &Arguments, n: usize, name: &str) -> Result<Simulation> {
    let seed = arguments.seed.wrapping_mul(1_000_003).wrapping_add(n as u64);
    let ns = |seconds: f64| (seconds * 1e9) as i64;
    let mut clock = ClockPlan::believable(seed);
    clock
        .events
        .extend(arguments.sleep.iter().map(|&(after, lasting)| ClockEvent::Sleep {
            after_ns: ns(after),
            for_ns: ns(lasting),
        }));
    clock
        .events
        .extend(arguments.reboot.iter().map(|&(after, down)| ClockEvent::Reboot {
            after_ns: ns(after),
            down_ns: ns(down),
        }));
    let path = PathPlan {
        delay: Duration::from_secs_f64(arguments.delay_ms.max(0.0) / 1000.0),
        jitter: Duration::from_secs_f64(arguments.jitter_ms.max(0.0) / 1000.0),
        udp_loss: arguments.loss,
    };
    let is_bad = arguments.delay_ms > 0.0 || arguments.jitter_ms > 0.0 || arguments.loss > 0.0;
    let network = is_bad.then(|| NetworkPlan {
        seed,
        up: path,
        down: path,
        cuts: Vec::new(),
    });
    let buffer = BufferOptions {
        folder: arguments.buffer.as_ref().map(|folder| folder.join(name)),
        ..BufferOptions::default()
    };
    let on_acknowledged = arguments
        .acknowledged
        .as_deref()
        .map(acknowledged_to_file)
        .transpose()?;
    let options = Options {
        buffer,
        on_acknowledged,
        reconnect_max: Duration::from_secs(1),
        ..Options::default()
    };
    Ok(Simulation {
        clock,
        network,
        signals: vec![
            SignalKind::Walk,
            SignalKind::SkinConductance { rate_hz: 32 },
            SignalKind::Activity,
        ],
        taps: arguments.taps,
        options,
        hub_address: arguments.hub,
        time_address: arguments.time,
        ..Simulation::new(seed)
    })
}

fn account(report: &RunReport) -> Account {
    let streams = report
        .streams
        .iter()
        .map(|stream| StreamAccount {
            stream: stream.record.declaration.name.to_string(),
            captured: stream.record.captured(),
            acked: stream.acknowledged,
            lost: stream.lost,
            epochs: stream
                .record
                .epochs
                .iter()
                .map(|epoch| EpochAccount {
                    epoch: epoch.epoch.to_string(),
                    captured: epoch.captured,
                    digest: hex(&epoch.digest),
                })
                .collect(),
        })
        .collect();
    Account {
        device: report.device.to_string(),
        session: report.session.to_string(),
        all_acknowledged: report.all_acknowledged,
        fault: report.fault.clone(),
        streams,
    }
}

/// A span between knocks.
pub fn taps(text: &str) -> std::result::Result<Taps, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.2..=86_400.0).contains(&seconds) => {
            Ok(Taps::every(Duration::from_secs_f64(seconds)))
        }
        _ => Err(format!(
            "{text:?} is not a number of seconds between 0.2 and 86400"
        )),
    }
}

pub(crate) fn pair(text: &str) -> std::result::Result<(f64, f64), String> {
    let (a, b) = text
        .split_once(',')
        .ok_or("two numbers with a comma between, such as 5,2")?;
    let number = |part: &str| match part.trim().parse::<f64>() {
        Ok(number) if number.is_finite() && number >= 0.0 => Ok(number),
        _ => Err(format!("{part:?} is not a number of 0 or more")),
    };
    Ok((number(a)?, number(b)?))
}
