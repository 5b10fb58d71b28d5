//! `marey device invite|join|enroll|list|show|renew|revoke`: who may connect. Asks the running hub, or works on its folder;
//! `join` is the device's own part.

mod p12;
mod qr;

use crate::hubdir;
use crate::output::{Failure, Output, Result, plain, table, utc_day, utc_minute};
use crate::remote::Remote;
use marey_device::{Invitation, JoinError};
use marey_engine::time::OsClocks;
use marey_format::DeviceId;
use marey_server::HubConfig;
use marey_server::control::{self, ControlError, DeviceView, Request, Response};
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
    /// Invites a device: prints a link, and a code to scan, good for ten minutes and one certificate.
    Invite {
        /// The device's name.
        device: DeviceId,
        /// Under which `host:port` the device finds the hub; else every address of this machine.
        #[arg(long, value_name = "HOST:PORT")]
        address: Vec<String>,
        /// The link alone.
        #[arg(long)]
        no_code: bool,
    },
    /// Joins a hub by an invitation, on the device: makes its key, and gets its certificate.
    Join {
        /// The invitation.
        link: String,
        /// The folder to make; else NAME.bundle.
        #[arg(long, value_name = "FOLDER")]
        out: Option<PathBuf>,
    },
    /// Makes key and certificate for a device, as a folder to be put on it.
    Enroll {
        /// The device's name.
        device: DeviceId,
        /// The folder to make.
        #[arg(long, value_name = "FOLDER", required_unless_present = "p12")]
        out: Option<PathBuf>,
        /// Key and certificates as a PKCS#12 file too, or instead, for phones that need one.
        #[arg(long, value_name = "FILE", requires = "p12_password_file")]
        p12: Option<PathBuf>,
        /// A file (0600) whose first line is the password of it.
        #[arg(long, value_name = "FILE")]
        p12_password_file: Option<PathBuf>,
        /// Under which `host:port` the device finds the hub; else every address of this machine.
        #[arg(long, value_name = "HOST:PORT")]
        address: Vec<String>,
    },
    /// All devices, and which are connected.
    List {
        #[command(flatten)]
        remote: Remote,
    },
    /// One device, and its certificate.
    Show {
        /// The device's name.
        device: DeviceId,
    },
    /// Asks a device for a new key, now or when it connects next. It does so by itself before its certificate ends.
    Renew {
        /// The device's name.
        device: DeviceId,
    },
    /// Refuses a device from now on.
    Revoke {
        /// The device's name.
        device: DeviceId,
    },
}

#[derive(Serialize)]
struct Enrolled<'a> {
    device: &'a DeviceId,
    bundle: Option<&'a Path>,
    p12: Option<&'a Path>,
}

#[derive(Serialize)]
struct Joined<'a> {
    device: &'a DeviceId,
    bundle: &'a Path,
}

pub fn run(arguments: Arguments, dir: Option<PathBuf>, output: &Output) -> Result {
    if let Verb::Join { link, out } = &arguments.verb {
        return join(link, out.as_deref(), output);
    }
    if let Verb::List { remote } = &arguments.verb
        && let Some(mut client) = remote.connect()?
    {
        return listed(&client.list::<DeviceView>("/api/v1/devices")?, output);
    }
    let dir = hubdir::find(dir)?;
    match arguments.verb {
        Verb::Join { .. } => Ok(()),
        Verb::Invite {
            device,
            address,
            no_code,
        } => {
            let request = Request::DeviceInvite {
                device,
                addresses: address,
            };
            let Response::Invited(invitation) = ask(&dir, &request, output)? else {
                return Err(other_answer());
            };
            output.result(&invitation, |invitation| {
                let code = qr::code(&invitation.link).filter(|_| !no_code).unwrap_or_default();
                let until = utc_minute(invitation.expires_utc_ns.div_euclid(1_000_000_000));
                format!(
                    "{code}\n{}\n\nGood until {until} UTC, for one certificate. On the device:\n\n  marey device join '{}'",
                    invitation.link, invitation.link
                )
            })
        }
        Verb::Enroll {
            device,
            out,
            p12,
            p12_password_file,
            address,
        } => {
            if let Some(there) = out.iter().chain(&p12).find(|path| path.exists()) {
                return Err(Failure::Usage(format!(
                    "{} is there already; name a new one",
                    there.display()
                )));
            }
            let password = p12_password_file.as_deref().map(p12::password).transpose()?;
            let request = Request::DeviceEnroll {
                device: device.clone(),
                addresses: address,
            };
            let Response::Bundle(bundle) = ask(&dir, &request, output)? else {
                return Err(other_answer());
            };
            if let Some(out) = &out {
                bundle.write(out)?;
            }
            if let (Some(file), Some(password)) = (&p12, &password) {
                p12::write(&bundle, file, password)?;
            }
            output.result(
                &Enrolled {
                    device: &device,
                    bundle: out.as_deref(),
                    p12: p12.as_deref(),
                },
                |enrolled| {
                    let files: Vec<String> = enrolled
                        .bundle
                        .iter()
                        .chain(&enrolled.p12)
                        .map(|path| path.display().to_string())
                        .collect();
                    format!(
                        "{device} is enrolled; put {} on it, and keep it secret",
                        files.join(" or ")
                    )
                },
            )
        }
        Verb::Show { device } => {
            let Response::DeviceShown(device) = ask(&dir, &Request::DeviceShow { device }, output)? else {
                return Err(other_answer());
            };
            output.result(&device, shown)
        }
        Verb::Renew { device } => {
            let request = Request::DeviceRenew {
                device: device.clone(),
            };
            let Response::Device(record) = ask(&dir, &request, output)? else {
                return Err(other_answer());
            };
            output.result(&record, |_| {
                format!("{device} is asked for a new key, now or when it connects next")
            })
        }
        Verb::List { .. } => {
            let Response::Devices(devices) = ask(&dir, &Request::DeviceList, output)? else {
                return Err(other_answer());
            };
            listed(&devices, output)
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

/// The device's side: nothing of a hub has to be here.
fn join(link: &str, out: Option<&Path>, output: &Output) -> Result {
    let invitation = Invitation::parse(link).map_err(|error| Failure::Usage(error.to_string()))?;
    let device = invitation.device();
    let folder = match out {
        Some(out) => out.to_owned(),
        None => PathBuf::from(format!("{device}.bundle")),
    };
    invitation.join(&folder).map_err(|error| match error {
        JoinError::Unreachable(_) => Failure::Unreachable(error.to_string()),
        error => Failure::Fault(error.to_string()),
    })?;
    let joined = Joined {
        device,
        bundle: &folder,
    };
    output.result(&joined, |joined| {
        let bundle = joined.bundle.display();
        format!("{device} has joined. To record what a simulated one would:\n\n  marey simulate {bundle}")
    })
}

/// A device for people.
fn shown(device: &DeviceView) -> String {
    let record = &device.record;
    let state = match (record.revoked, device.attached) {
        (true, _) => "revoked",
        (false, true) => "online",
        (false, false) => "offline",
    };
    let mut rows = vec![
        ("device", record.name.clone()),
        ("state", state.to_owned()),
        ("from", device.peer.clone().unwrap_or_default()),
        ("program", plain(device.agent.as_deref().unwrap_or(""))),
        (
            "enrolled",
            utc_minute(record.enrolled_utc_ns.div_euclid(1_000_000_000)),
        ),
        ("serial", record.serial_hex.clone()),
        ("fingerprint", record.fingerprint_sha256_hex.clone()),
    ];
    if let Some(certificate) = &record.certificate {
        rows.push(("ends", utc_day(certificate.not_after_utc_s)));
        rows.push(("authority", certificate.authority.clone()));
    }
    if let Some(renewed) = &record.renewed {
        let ends = utc_day(renewed.not_after_utc_s);
        rows.push((
            "renewed",
            format!("serial {}, ends {ends}, not shown yet", renewed.serial_hex),
        ));
    }
    if record.renewal_asked {
        rows.push(("asked", "to renew its certificate".to_owned()));
    }
    let rows: Vec<String> = rows
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{name:<12} {value}"))
        .collect();
    rows.join("\n")
}

fn listed(devices: &[DeviceView], output: &Output) -> Result {
    output.result(devices, |devices| {
        let rows: Vec<_> = devices
            .iter()
            .map(|device| {
                let state = match device.record.revoked {
                    true => "revoked",
                    false => device.state.as_str(),
                };
                let battery = device.battery_percent.map(|percent| format!("{percent:.0}"));
                let heard = device.silent_ms.map(|ms| format!("{:.1}", ms as f64 / 1e3));
                let peer = device.peer.as_deref().unwrap_or("");
                let agent = plain(device.agent.as_deref().unwrap_or(""));
                vec![
                    device.record.name.to_string(),
                    state.to_owned(),
                    heard.unwrap_or_default(),
                    battery.unwrap_or_default(),
                    peer.to_owned(),
                    agent,
                ]
            })
            .collect();
        table(
            &["device", "state", "heard s ago", "battery %", "from", "program"],
            &rows,
        )
    })
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
