//! `marey device enroll|list|revoke`: who may connect. Asks the running hub, or works on its folder.

use crate::hubdir;
use crate::output::{Failure, Output, Result, plain, table};
use marey_engine::time::OsClocks;
use marey_format::DeviceId;
use marey_server::HubConfig;
use marey_server::control::{self, ControlError, Request, Response};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Makes key and certificate for a device, as a folder to be put on it.
    Enroll {
        /// The device's name.
        device: DeviceId,
        /// The folder to make.
        #[arg(long, value_name = "FOLDER")]
        out: PathBuf,
        /// Under which `host:port` the device finds the hub; else every address of this machine.
        #[arg(long, value_name = "HOST:PORT")]
        address: Vec<String>,
    },
    /// All devices, and which are connected.
    List,
    /// Refuses a device from now on.
    Revoke {
        /// The device's name.
        device: DeviceId,
    },
}

#[derive(Serialize)]
struct Enrolled<'a> {
    device: &'a DeviceId,
    bundle: &'a Path,
}

pub fn run(arguments: Arguments, dir: Option<PathBuf>, output: &Output) -> Result {
    let dir = hubdir::find(dir)?;
    match arguments.verb {
        Verb::Enroll { device, out, address } => {
            if out.exists() {
                return Err(Failure::Usage(format!(
                    "{} is there already; name a new folder",
                    out.display()
                )));
            }
            let request = Request::DeviceEnroll {
                device: device.clone(),
                addresses: address,
            };
            let Response::Bundle(bundle) = ask(&dir, &request, output)? else {
                return Err(other_answer());
            };
            bundle.write(&out)?;
            output.result(
                &Enrolled {
                    device: &device,
                    bundle: &out,
                },
                |enrolled| {
                    format!(
                        "{device} is enrolled; put {} on it, and keep it secret",
                        enrolled.bundle.display()
                    )
                },
            )
        }
        Verb::List => {
            let Response::Devices(devices) = ask(&dir, &Request::DeviceList, output)? else {
                return Err(other_answer());
            };
            output.result(&devices, |devices| {
                let rows: Vec<_> = devices
                    .iter()
                    .map(|device| {
                        let state = match (device.record.revoked, device.attached) {
                            (true, _) => "revoked",
                            (false, true) => "connected",
                            (false, false) => "away",
                        };
                        let peer = device.peer.as_deref().unwrap_or("");
                        let agent = plain(device.agent.as_deref().unwrap_or(""));
                        vec![
                            device.record.name.to_string(),
                            state.to_owned(),
                            peer.to_owned(),
                            agent,
                        ]
                    })
                    .collect();
                table(&["device", "state", "from", "program"], &rows)
            })
        }
        Verb::Revoke { device } => {
            let request = Request::DeviceRevoke {
                device: device.clone(),
            };
            let Response::Device(record) = ask(&dir, &request, output)? else {
                return Err(other_answer());
            };
            output.result(&record, |_| format!("{device} is refused from now on"))
        }
    }
}

/// Asks the hub that runs in a folder; where none does, opens the folder and does it here.
pub fn ask(dir: &Path, request: &Request, output: &Output) -> Result<Response> {
    let config = HubConfig::load(dir, &hubdir::overrides())?;
    let clock = Arc::new(OsClocks::hub_clock()?);
    let answer = control::ask(dir, &config, clock, request, |progress| output.progress(progress));
    output.progress_done();
    answer.map_err(|error| match error {
        ControlError::Refused(why) => Failure::Fault(why),
        error => Failure::Unreachable(error.to_string()),
    })
}

/// The hub answered something else than was asked: its version is another.
pub fn other_answer() -> Failure {
    Failure::fault("the hub answered something else; is it of another version?")
}
