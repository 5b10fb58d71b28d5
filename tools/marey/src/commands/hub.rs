//! `marey hub`: runs a hub until SIGTERM, SIGINT or `marey hub --stop`. Goes down in good order: what was read is
//! committed and acknowledged, segments are sealed.
//!
//! SIGHUP reads hub.toml and the certificates anew; what can't change while it runs is said in the log. A service manager
//! that asked for it (`Type=notify`) is told when the hub is up, reloads and goes down, and that its loop turns.

mod service;

use crate::commands::device::other_answer;
use crate::hubdir;
use crate::log::{HubLog, filter_of};
use crate::output::{Failure, Output, Result, plain};
use marey_engine::time::OsClocks;
use marey_engine::{Actor, AuditEvent, OpenError};
use marey_server::control::{ControlClient, Request, Response, StatusView};
use marey_server::{Hub, HubConfig, Overrides, StartError};
use serde::Serialize;
use service::Service;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
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
    /// Where whole files are handed over (TLS).
    #[arg(long, value_name = "ADDRESS:PORT")]
    files: Option<SocketAddr>,
    /// Any other key of hub.toml, such as `limits.connections_max=100`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Makes the hub first if the folder holds none; for containers.
    #[arg(long)]
    init: bool,
    /// Stops the running hub of this folder instead.
    #[arg(long, conflicts_with_all = ["init", "status"])]
    stop: bool,
    /// Says how the running hub of this folder does instead; exit 3 if none runs.
    #[arg(long, conflicts_with = "init")]
    status: bool,
}

/// What is printed when the hub is up: where it listens.
#[derive(Serialize)]
struct Up {
    dir: PathBuf,
    pid: u32,
    devices: SocketAddr,
    time: SocketAddr,
    health: SocketAddr,
    files: SocketAddr,
    hub_name: String,
}

impl Arguments {
    /// Whether a hub is to run, and not one that runs to be told something.
    pub fn serves(&self) -> bool {
        !self.stop && !self.status
    }
}

pub fn run(arguments: Arguments, dir: Option<PathBuf>, verbose: u8, output: &Output) -> Result {
    if arguments.init {
        init(dir.as_deref())?;
    }
    let dir = hubdir::find(dir)?;
    if arguments.stop {
        call(&dir, &Request::Shutdown)?;
        return Ok(());
    }
    if arguments.status {
        let Response::Status(status) = call(&dir, &Request::Status)? else {
            return Err(other_answer());
        };
        return output.result(&status, text_of_status);
    }
    // Before anything that can be interrupted.
    let asked = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::flag::register(signal, asked.clone())?;
    }
    let reload_asked = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGHUP, reload_asked.clone())?;
    let overrides = overrides(&arguments)?;
    let config = HubConfig::load(&dir, &overrides).map_err(StartError::Config)?;
    let log = HubLog::start(&config.log, &dir, verbose)?;
    let hub = start(&dir, &config)?;
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
        files: bound.files,
        hub_name: hub.hub_name(),
    };
    // Before anybody hears that it is up: who acts on that finds the start in the log, before what they did.
    hub.audited(&AuditEvent::new(Actor::Hub, "hub.start").with("version", env!("CARGO_PKG_VERSION")));
    match output.is_json() {
        // One line, so that whoever started it can wait for it.
        true => output.line(&serde_json::to_string(&up)?)?,
        false => output.line(&format!(
            "hub up: devices {} (TLS), time {} (UDP), health http://{}/health",
            up.devices, up.time, up.health
        ))?,
    }
    let mut service = Service::of_this_process();
    service.ready(&format!("devices {}, {}", up.devices, up.hub_name));
    while !asked.load(Ordering::Relaxed) && !hub.wait_for_shutdown(Duration::from_millis(100)) {
        service.sign_of_life(&hub);
        if reload_asked.swap(false, Ordering::Relaxed) {
            service.reloading();
            reload(&hub, &up.dir, &overrides, &log);
            service.reloaded();
        }
    }
    service.stopping();
    hub.audited(&AuditEvent::new(Actor::Hub, "hub.end"));
    let ended = hub.shutdown();
    log.end();
    Ok(ended?)
}

fn call(dir: &Path, request: &Request) -> Result<Response> {
    ControlClient::connect(dir)
        .and_then(|mut client| client.call(request, |_| {}))
        .map_err(|error| Failure::Unreachable(error.to_string()))
}

/// Makes a hub where there is none yet.
fn init(dir: Option<&Path>) -> Result {
    let from_environment = std::env::var_os("MAREY_DIR").filter(|dir| !dir.is_empty());
    let dir = dir
        .map(Path::to_owned)
        .or_else(|| from_environment.map(PathBuf::from));
    let dir = dir.ok_or_else(|| Failure::Usage("--init makes a hub where --dir or MAREY_DIR says".into()))?;
    match hubdir::find(Some(dir.clone())) {
        Ok(_) => Ok(()),
        Err(_) => {
            marey_server::init(&dir, &OsClocks::hub_clock()?)?;
            Ok(())
        }
    }
}

/// A hub that waits for room is alive all the same: what is wrong is said, and is no fault of this call.
fn text_of_status(status: &StatusView) -> String {
    let state = match &status.not_ready {
        None => "takes samples".to_owned(),
        Some(why) => format!("takes no samples: {}", plain(why)),
    };
    let sessions = match &status.recording[..] {
        [] => "no session records".to_owned(),
        ids => {
            let ids: Vec<_> = ids.iter().map(|id| id.as_str()).collect();
            format!("recording {}", ids.join(", "))
        }
    };
    format!(
        "hub {} (pid {}) {state}\n{} devices attached, {sessions}, {} MiB free",
        status.version,
        status.pid,
        status.devices_attached,
        status.disk_free_bytes >> 20
    )
}

/// Takes over what can change. A configuration that is none changes nothing: a mistake must not end a recording.
fn reload(hub: &Hub, dir: &Path, overrides: &Overrides, log: &HubLog) {
    tracing::info!("reloading");
    let reloaded = HubConfig::load(dir, overrides)
        .map_err(|error| Failure::from(StartError::Config(error)))
        .and_then(|config| {
            filter_of(&config.log.level)?;
            hub.reload(&config)?;
            log.set_level(&config.log.level)
        });
    if let Err(error) = reloaded {
        hub.reload_refused(&error);
        tracing::error!(%error, "nothing was reloaded, and the hub goes on as before; `marey config check` shows the fault");
    }
    // Apart from it: a mistake in the one is no reason to go on with the old of the other.
    if let Err(error) = hub.reload_certificates() {
        hub.reload_refused(&error);
        tracing::error!(%error, "the certificates were not loaded anew, and the hub goes on with those that it has");
    }
}

/// What environment and flags have to say.
fn overrides(arguments: &Arguments) -> Result<Overrides> {
    let mut overrides = hubdir::overrides();
    let flags = [
        ("listen.devices", arguments.listen),
        ("listen.time", arguments.time),
        ("listen.health", arguments.health),
        ("listen.files", arguments.files),
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
    Ok(overrides)
}

fn start(dir: &Path, config: &HubConfig) -> Result<Hub> {
    let clock = Arc::new(OsClocks::hub_clock()?);
    let mut tries = 0;
    loop {
        match Hub::start(dir, config.clone(), clock.clone()) {
            // A verb that works on the folder holds it for a moment; a hub that runs answers.
            Err(StartError::Store(OpenError::AlreadyOpen { .. }))
                if tries < 20 && ControlClient::connect(dir).is_err() =>
            {
                tries += 1;
                std::thread::sleep(Duration::from_millis(100));
            }
            started => return Ok(started?),
        }
    }
}
