//! A hub in this process: a folder of its own, every port free, short ways to ask things of it.
//!
//! Owns: starting, ending, asking. `raw` is a device as small as the specification allows, for what a good client never
//! does; `published` reads what was published with nothing of Marey's.

#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside of the hub, and waits in real time"
)]

pub mod published;
pub mod raw;

use marey_device::Bundle;
use marey_engine::compact::{Manifest, Receipt, read_receipt};
use marey_engine::disk::{Disk, OsDisk};
use marey_engine::time::{HubClock, OsClocks};
use marey_engine::{OpenError, Session, SessionState, StorageError};
use marey_format::{DeviceId, RefusalCode, SessionId};
use marey_server::control::{ControlClient, ControlError, Request, Response, SessionSpec, SessionView};
use marey_server::pki::DeviceBundle;
use marey_server::{Hub, HubConfig, StartError};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::process::until;

/// Nothing that a hub in this process is asked for takes longer, unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A hub and its folder.
#[derive(Debug)]
pub struct Lab {
    folder: tempfile::TempDir,
    /// Where the store stands; keys and sockets are in the folder in any case.
    disk: Arc<dyn Disk>,
    clock: Arc<dyn HubClock>,
    config: HubConfig,
    hub: Option<Hub>,
    /// Whom its API knows: token, name, role.
    people: &'static [(&'static str, &'static str, &'static str)],
}

/// A configuration for tests: every port free, short waits, no room kept free on the disk.
pub fn config() -> HubConfig {
    let mut config = HubConfig::default();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    (config.listen.devices, config.listen.time) = (any, any);
    (config.listen.health, config.listen.files) = (any, any);
    config.session.stop_grace_ms = 5_000;
    config.session.late_quiet_ms = 300;
    (
        config.disk.floor_percent,
        config.disk.floor_min_mib,
        config.disk.floor_max_mib,
    ) = (0.0, 0, 0);
    config
}

/// The clock of this machine.
pub fn clock() -> Arc<dyn HubClock> {
    Arc::new(OsClocks::hub_clock().expect("the kernel's clocks"))
}

pub fn device(name: &str) -> DeviceId {
    DeviceId::new(name).expect("a name")
}

pub fn session(name: &str) -> SessionId {
    SessionId::new(name).expect("a name")
}

impl Lab {
    #[allow(clippy::new_without_default, reason = "it starts servers and makes files")]
    pub fn new() -> Self {
        Self::with(config())
    }

    pub fn with(config: HubConfig) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let disk = Arc::new(OsDisk::new(folder.path().join("hub")));
        Self::made(folder, disk, clock(), config, &[])
    }

    /// A hub whose API knows these: token, name, role.
    pub fn with_people(
        config: HubConfig,
        people: &'static [(&'static str, &'static str, &'static str)],
    ) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let disk = Arc::new(OsDisk::new(folder.path().join("hub")));
        Self::made(folder, disk, clock(), config, people)
    }

    /// A hub whose store stands on this disk.
    pub fn on(disk: Arc<dyn Disk>, clock: Arc<dyn HubClock>, config: HubConfig) -> Self {
        Self::made(tempfile::tempdir().expect("a folder"), disk, clock, config, &[])
    }

    fn made(
        folder: tempfile::TempDir,
        disk: Arc<dyn Disk>,
        clock: Arc<dyn HubClock>,
        config: HubConfig,
        people: &'static [(&'static str, &'static str, &'static str)],
    ) -> Self {
        let mut lab = Self {
            folder,
            disk,
            clock,
            config,
            hub: None,
            people,
        };
        std::fs::create_dir(lab.dir()).expect("a folder");
        marey_server::init_on(lab.disk.clone(), &lab.dir(), &*lab.clock).expect("a new hub");
        lab.start();
        lab
    }

    /// Starts it, where it listened before if it did.
    pub fn start(&mut self) {
        // A thread that served the control socket of the hub before may be on its way out still.
        let hub = until("a hub that is gone", PATIENCE, || {
            let (disk, clock) = (self.disk.clone(), self.clock.clone());
            let (dir, config) = (self.dir(), self.config.clone());
            let started = match self.people {
                [] => Hub::start_on(disk, &dir, config, clock),
                people => Hub::start_for(&dir, config, clock, people),
            };
            match started {
                Err(StartError::Store(OpenError::AlreadyOpen { .. }) | StartError::PortInUse { .. }) => None,
                started => Some(started.expect("the hub starts")),
            }
        });
        let bound = hub.bound();
        let listen = &mut self.config.listen;
        (listen.devices, listen.time) = (bound.devices, bound.time);
        (listen.health, listen.files) = (bound.health, bound.files);
        self.hub = Some(hub);
    }

    /// What it is started with the next time.
    pub fn config(&mut self) -> &mut HubConfig {
        &mut self.config
    }

    /// Ends it in good order.
    pub fn end(&mut self) {
        self.hub.take().expect("it runs").shutdown().expect("a good end");
    }

    /// Ends it as well as a disk that fails allows: what the store says of its end.
    pub fn try_end(&mut self) -> Result<(), StorageError> {
        self.hub.take().expect("it runs").shutdown()
    }

    pub fn hub(&self) -> &Hub {
        self.hub.as_ref().expect("it runs")
    }

    /// The hub's folder.
    pub fn dir(&self) -> PathBuf {
        self.folder.path().join("hub")
    }

    /// A folder beside the hub's, for what belongs to devices.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where devices dial.
    pub fn address(&self) -> SocketAddr {
        self.config.listen.devices
    }

    /// Its API, as a client knows it.
    pub fn web(&self) -> crate::web::Hub {
        crate::web::Hub::new(&self.dir(), &self.hub().hub_name(), self.address())
    }

    /// The session's folder.
    pub fn session_dir(&self, id: &SessionId) -> PathBuf {
        self.dir().join(Session::dir(id))
    }

    pub fn ask(&self, request: Request) -> Result<Response, ControlError> {
        ControlClient::connect(&self.dir())?.call(&request, |_| ())
    }

    /// Enrols a device; its certificate and key, as the hub gives them away.
    pub fn enroll_raw(&self, name: &str) -> DeviceBundle {
        let addresses = vec![self.address().to_string()];
        match self
            .ask(Request::DeviceEnroll {
                device: device(name),
                addresses,
            })
            .expect("enrolled")
        {
            Response::Bundle(bundle) => bundle,
            other => panic!("{other:?}"),
        }
    }

    /// Enrols a device for the client library.
    pub fn enroll(&self, name: &str) -> Bundle {
        let folder = self.beside("bundles").join(name);
        std::fs::create_dir_all(self.beside("bundles")).expect("a folder");
        self.enroll_raw(name).write(&folder).expect("a bundle");
        Bundle::read(&folder).expect("a bundle")
    }

    /// Makes a session for these devices (none: for all) and starts it.
    pub fn start_session(&self, id: &SessionId, devices: Option<&[&str]>) {
        let spec = SessionSpec {
            session: id.clone(),
            devices: devices.map(|names| names.iter().map(|name| device(name)).collect()),
            metadata: Default::default(),
            max_drift_ppm: None,
            max_time_error_us: None,
            protocol: None,
        };
        self.ask(Request::SessionStart {
            session: id.clone(),
            create: Some(spec),
        })
        .expect("started");
    }

    /// Stops a session and waits for its seal.
    pub fn stop_session(&self, id: &SessionId) -> Session {
        match self
            .ask(Request::SessionStop {
                session: id.clone(),
                wait: true,
            })
            .expect("stopped")
        {
            Response::Session(session) => {
                assert_eq!(session.state, SessionState::Sealed);
                session
            }
            other => panic!("{other:?}"),
        }
    }

    pub fn show(&self, id: &SessionId) -> SessionView {
        match self
            .ask(Request::SessionShow { session: id.clone() })
            .expect("shown")
        {
            Response::SessionShown(view) => view,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until this generation is published and nothing waits for the next.
    #[track_caller]
    pub fn wait_for_generation(&self, id: &SessionId, generation: u32) {
        until(&format!("generation {generation} of {id}"), PATIENCE, || {
            let view = self.show(id);
            (view.session.generation == generation && !view.late_frames).then_some(())
        });
    }

    /// The receipt of a generation, as it stands in the session's folder.
    pub fn receipt(&self, id: &SessionId, generation: u32) -> Receipt {
        read_receipt(&*self.disk, &Session::dir(id), generation)
            .expect("readable")
            .expect("it is there")
    }

    pub fn manifest(&self, id: &SessionId) -> Manifest {
        Manifest::read(&*self.disk, &Session::dir(id))
            .expect("readable")
            .expect("it is sealed")
    }

    /// Refusals of this code that were sent since the start, by `/metrics`.
    pub fn refusals(&self, code: RefusalCode) -> u64 {
        let metrics = self.hub().metrics_text();
        let name = format!("marey_refusals_total{{code=\"{code}\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(name.as_str()));
        line.and_then(|count| count.trim().parse().ok())
            .expect("every code has its line")
    }

    /// Samples in a device's log.
    pub fn samples(&self, id: &SessionId, device: &DeviceId) -> u64 {
        self.show(id)
            .logs
            .iter()
            .filter(|log| log.device == *device)
            .map(|log| log.samples)
            .sum()
    }
}
