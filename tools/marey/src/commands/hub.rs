//! `marey hub`: runs a hub until SIGTERM, SIGINT or `marey hub --stop`. Goes down in good order: what was read is
//! committed and acknowledged, segments are sealed.

use crate::hubdir;
use crate::output::{Failure, Output, Result};
use marey_engine::OpenError;
use marey_engine::time::OsClocks;
use marey_server::control::{ControlClient, Request};
use marey_server::{Hub, HubConfig, StartError};
use serde::Serialize;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Where devices connect (TLS); port 0 takes any free one.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Where the time service answers (UDP).
    #[arg(long, value_name = "ADDRESS:PORT")]
    time: Option<SocketAddr>,
    /// Where health, readiness and metrics stand (plain HTTP).
    #[arg(long, value_name = "ADDRESS:PORT")]
    health: Option<SocketAddr>,
    /// Any other key of hub.toml, such as `limits.connections_max=100`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Stops the running hub of this folder instead.
    #[arg(long)]
    stop: bool,
}

/// What is printed when the hub is up: where it listens.
#[derive(Serialize)]
struct Up {
    dir: PathBuf,
    pid: u32,
    devices: SocketAddr,
    time: SocketAddr,
    health: SocketAddr,
    hub_name: String,
}

pub fn run(arguments: Arguments, dir: Option<PathBuf>, output: &Output) -> Result {
    let dir = hubdir::find(dir)?;
    if arguments.stop {
        ControlClient::connect(&dir)
            .and_then(|mut client| client.call(&Request::Shutdown, |_| {}))
            .map_err(|error| Failure::Unreachable(error.to_string()))?;
        return Ok(());
    }
    // Before anything that can be interrupted.
    let asked = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::flag::register(signal, asked.clone())?;
    }
    let hub = start(&arguments, dir.clone())?;
    let report = hub.recovery();
    report.faults.iter().for_each(|fault| output.warn(fault));
    report.unreadable.iter().for_each(|what| output.warn(what));
    let bound = hub.bound();
    let up = Up {
        dir,
        pid: std::process::id(),
        devices: bound.devices,
        time: bound.time,
        health: bound.health,
        hub_name: hub.hub_name().to_owned(),
    };
    match output.is_json() {
        // One line, so that whoever started it can wait for it.
        true => output.line(&serde_json::to_string(&up)?)?,
        false => output.line(&format!(
            "hub up: devices {} (TLS), time {} (UDP), health http://{}/health",
            up.devices, up.time, up.health
        ))?,
    }
    while !asked.load(Ordering::Relaxed) && !hub.wait_for_shutdown(Duration::from_millis(100)) {}
    hub.shutdown()?;
    Ok(())
}

fn start(arguments: &Arguments, dir: PathBuf) -> Result<Hub> {
    let mut overrides = hubdir::overrides();
    let flags = [
        ("listen.devices", arguments.listen),
        ("listen.time", arguments.time),
        ("listen.health", arguments.health),
    ];
    for (key, value) in flags {
        if let Some(value) = value {
            overrides = overrides.flag(key, value);
        }
    }
    for pair in &arguments.set {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(Failure::Usage(format!("--set {pair:?} is not KEY=VALUE")));
        };
        overrides = overrides.flag(key, value);
    }
    let config = HubConfig::load(&dir, &overrides).map_err(StartError::Config)?;
    let clock = Arc::new(OsClocks::hub_clock()?);
    let mut tries = 0;
    loop {
        match Hub::start(&dir, config.clone(), clock.clone()) {
            // A verb that works on the folder holds it for a moment; a hub that runs answers.
            Err(StartError::Store(OpenError::AlreadyOpen { .. }))
                if tries < 20 && ControlClient::connect(&dir).is_err() =>
            {
                tries += 1;
                std::thread::sleep(Duration::from_millis(100));
            }
            started => return Ok(started?),
        }
    }
}
