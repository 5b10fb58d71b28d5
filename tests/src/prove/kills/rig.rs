//! A hub as a process, and two simulated devices as another, which keeps the list of what was acknowledged.
//!
//! Owns: making both, ending and starting the hub, the orderly end, after which everything is judged. Does not own: what
//! harm is done to the hub in between.
//!
//! Invariants: the list and the devices' buffers never stand on the hub's disk; evidence stays where something was
//! wrong, and goes where all was well.

#![allow(
    clippy::disallowed_methods,
    reason = "a proof stands outside of the hub, and waits in real time"
)]

use super::judge::judge;
use crate::hub::published::Acknowledged;
use crate::process::{self, HubProcess, PATIENCE, Ports, Running, until};
use crate::prove::Tally;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The devices of every rig.
pub const DEVICES: [&str; 2] = ["phone", "watch"];
/// The session that they are recorded in.
pub const SESSION: &str = "walk";

/// A hub and its devices.
#[derive(Debug)]
pub struct Rig {
    /// The hub's folder.
    pub dir: PathBuf,
    /// What the devices were told.
    pub acknowledged: PathBuf,
    ports: Ports,
    settings: Vec<String>,
    hub: Option<HubProcess>,
    devices: Running,
    folder: tempfile::TempDir,
}

impl Rig {
    /// Makes a hub, in `dir` or in a folder of the rig's own, and begins to record. Returns when the first frames are
    /// acknowledged.
    pub fn start(dir: Option<&Path>, seed: u64, settings: &[&str]) -> Self {
        let mut folder = tempfile::tempdir().expect("a folder");
        folder.disable_cleanup(true);
        let dir = dir.map_or_else(|| folder.path().join("hub"), Path::to_owned);
        let (bundles, acknowledged) = (folder.path().join("bundles"), folder.path().join("acknowledged"));
        std::fs::create_dir(&bundles).expect("a folder");
        process::init(&dir);
        let hub = HubProcess::start(&dir, settings);
        let mut command = process::command(["simulate", "--json", "--at-most", "1800", "--seed"]);
        command.arg((seed % 1_000_000).to_string());
        command.arg("--acknowledged").arg(&acknowledged);
        command.arg("--buffer").arg(folder.path().join("buffer"));
        command.args(DEVICES.map(|device| hub.enroll(&bundles, device)));
        let devices = Running::start(&mut command);
        hub.ask(&["session", "start", SESSION, "--devices", &DEVICES.join(",")])
            .well();
        let rig = Self {
            dir,
            acknowledged,
            ports: hub.ports(),
            settings: settings.iter().map(|&setting| setting.to_owned()).collect(),
            hub: Some(hub),
            devices,
            folder,
        };
        rig.wait_for_acks();
        rig
    }

    /// The hub, which runs.
    pub fn hub(&mut self) -> &mut HubProcess {
        self.hub.as_mut().expect("the hub was started")
    }

    /// The hub, for whoever ends it.
    pub fn take_hub(&mut self) -> HubProcess {
        self.hub.take().expect("the hub was started")
    }

    /// What starts the hub again where it was.
    pub fn command(&self) -> Command {
        process::hub_command(&self.dir, self.ports, &self.settings())
    }

    /// A process of the hub that is not waited for.
    pub fn spawn(&self) -> HubProcess {
        HubProcess::spawn(self.command(), &self.dir)
    }

    /// Starts the hub again where it was, and waits until it is up.
    pub fn up(&mut self) {
        self.hub = Some(HubProcess::start_again(&self.dir, self.ports, &self.settings()));
    }

    /// Length of the list of what was acknowledged: it grows with each ack.
    pub fn acked_bytes(&self) -> u64 {
        std::fs::metadata(&self.acknowledged).map_or(0, |metadata| metadata.len())
    }

    /// Waits until something more is acknowledged.
    pub fn wait_for_acks(&self) {
        let before = self.acked_bytes();
        until("acks", PATIENCE, || (self.acked_bytes() > before).then_some(()));
    }

    /// What the hub answers at `/ready`: whether it is, and its words.
    pub fn ready(&mut self) -> (bool, String) {
        let health = self.hub().health;
        let mut socket = TcpStream::connect(health).expect("the health port");
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
        write!(socket, "GET /ready HTTP/1.1\r\nHost: hub\r\n\r\n").expect("sent");
        let mut text = String::new();
        socket.read_to_string(&mut text).expect("received");
        let words = text.lines().last().unwrap_or_default().to_owned();
        (text.starts_with("HTTP/1.1 200 "), words)
    }

    /// Waits until the hub says that it takes nothing, which must have a reason, and sees that it acknowledges nothing
    /// then. Gives the reason.
    pub fn wait_until_it_refuses(&mut self) -> String {
        let why = until("a hub that says that it is not ready", PATIENCE, || {
            let (ready, why) = self.ready();
            (!ready).then_some(why)
        });
        assert!(why.contains("\"why\":\""), "not ready, and no word why: {why}");
        // What was durable before may still be on its way to the devices, for as long as one of them stands still. After that
        // there is nothing any more.
        let before = until("acks that came to their end", PATIENCE, || {
            let before = self.acked_bytes();
            std::thread::sleep(Duration::from_millis(400));
            (before == self.acked_bytes()).then_some(before)
        });
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(before, self.acked_bytes(), "it acknowledges while it says {why}");
        why
    }

    pub fn stop_session(&mut self) {
        self.hub().ask(&["session", "stop", SESSION]).well();
    }

    pub fn session_state(&mut self) -> String {
        let shown = self.hub().ask(&["session", "show", SESSION]).well().json();
        shown["session"]["state"]
            .as_str()
            .expect("a session has a state")
            .to_owned()
    }

    /// Ends the session if it goes on, waits until all is in and sealed, ends the hub, and judges.
    pub fn finish(mut self, seed: u64, tally: &mut Tally) {
        if self.session_state() == "recording" {
            self.stop_session();
        }
        until("the devices' account", PATIENCE, || {
            (!self.devices.is_running()).then_some(())
        });
        let account = self.devices.wait(PATIENCE).well().json();
        let hub = self.hub.take().expect("the hub was started");
        until("the seal of all that came", PATIENCE, || {
            let view = hub.ask(&["session", "show", SESSION]).well().json();
            let owing = view["owing"].as_array().is_none_or(|owing| !owing.is_empty());
            (view["session"]["state"] == "sealed" && view["late_frames"] == false && !owing).then_some(())
        });
        hub.stop();
        let acked = Acknowledged::read(&self.acknowledged);
        let found = judge(&self.dir, &acked, &account);
        let verified = process::run([Path::new("verify"), Path::new("--dir"), &self.dir]);
        tally.figure("frames acknowledged", acked.frames.len() as f64);
        tally.figure("samples in Parquet", found.parquet as f64);
        let mut wrong = found.wrong(&acked);
        if verified.code != Some(0) {
            wrong.push(format!("verify: {verified:?}"));
        }
        self.folder.disable_cleanup(!wrong.is_empty());
        for what in wrong {
            tally.fail(format!("seed {seed}, {}: {what}", self.folder.path().display()));
        }
    }

    fn settings(&self) -> Vec<&str> {
        self.settings.iter().map(String::as_str).collect()
    }
}
