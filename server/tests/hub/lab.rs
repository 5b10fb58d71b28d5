//! A hub in a folder of its own, with every port free, and short ways to ask things of it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use marey_engine::OpenError;
use marey_engine::time::{HubClock, OsClocks};
use marey_format::clock::{Direction, PacketKey, TimePacket};
use marey_format::types::unhex;
use marey_format::wire::Welcome;
use marey_format::{DeviceId, HubEpoch, SessionId};
use marey_server::control::{ControlClient, ControlError, Request, Response, SessionSpec};
use marey_server::pki::DeviceBundle;
use marey_server::{Hub, HubConfig, StartError, init};

use crate::device::{Device, Log, PATIENCE};

pub struct Lab {
    pub dir: tempfile::TempDir,
    pub hub: Hub,
}

pub fn clock() -> Arc<dyn HubClock> {
    Arc::new(OsClocks::hub_clock().expect("the kernel's clocks"))
}

pub fn config() -> HubConfig {
    let mut config = HubConfig::default();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    (config.listen.devices, config.listen.time) = (any, any);
    (config.listen.health, config.listen.files) = (any, any);
    config.session.stop_grace_ms = 5_000;
    config.session.late_quiet_ms = 300;
    // However little a build has left of the disk.
    (
        config.disk.floor_percent,
        config.disk.floor_min_mib,
        config.disk.floor_max_mib,
    ) = (0.0, 0, 0);
    config
}

pub fn new_hub() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    init(dir.path(), clock().as_ref()).expect("a hub");
    dir
}

pub fn name(text: &str) -> DeviceId {
    DeviceId::new(text).expect("a name")
}

pub fn walk() -> SessionId {
    SessionId::new("walk").expect("a name")
}

impl Lab {
    pub fn new() -> Self {
        Self::with(config())
    }

    pub fn invite(&self, device: &str) -> String {
        let request = Request::DeviceInvite {
            device: name(device),
            addresses: Vec::new(),
        };
        match self.ask(request).expect("invited") {
            Response::Invited(invitation) => invitation.link,
            other => panic!("{other:?}"),
        }
    }

    pub fn with(config: HubConfig) -> Self {
        let dir = new_hub();
        let hub = Hub::start(dir.path(), config, clock()).expect("it starts");
        Self { dir, hub }
    }

    /// The same hub, ended in good order and started again.
    pub fn again(self, config: HubConfig) -> Self {
        self.hub.shutdown().expect("a good end");
        let began = Instant::now();
        let hub = loop {
            match Hub::start(self.dir.path(), config.clone(), clock()) {
                // A thread that served the control socket of the one before may be on its way out still.
                Err(StartError::Store(OpenError::AlreadyOpen { .. })) if began.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                started => break started.expect("it starts again"),
            }
        };
        Self { dir: self.dir, hub }
    }

    pub fn ask(&self, request: Request) -> Result<Response, ControlError> {
        let mut client = ControlClient::connect(self.dir.path())?;
        client.call(&request, |_| ())
    }

    pub fn enroll(&self, device: &str) -> DeviceBundle {
        let request = Request::DeviceEnroll {
            device: name(device),
            addresses: Vec::new(),
        };
        match self.ask(request).expect("enrolled") {
            Response::Bundle(bundle) => bundle,
            other => panic!("{other:?}"),
        }
    }

    pub fn start_session(&self, session: &SessionId) {
        let spec = SessionSpec {
            session: session.clone(),
            devices: None,
            metadata: Default::default(),
            max_drift_ppm: None,
            max_time_error_us: None,
            protocol: None,
        };
        self.ask(Request::SessionStart {
            session: session.clone(),
            create: Some(spec),
        })
        .expect("started");
    }

    pub fn address(&self) -> SocketAddr {
        self.hub.bound().devices
    }

    /// A device that takes part in the session `walk`, with its log open on channel 1.
    pub fn recording(&self, bundle: &DeviceBundle) -> (Device, Log) {
        let (mut device, _) = Device::attach(bundle, self.address());
        assert_eq!(device.join(), walk());
        let mut log = Log::new(&device.name, &walk(), 1);
        let opened = device.open(1, &log);
        assert!(opened.recording);
        let declare = log.declare();
        device.send(&declare);
        (device, log)
    }
}

pub fn http(address: SocketAddr, path: &str) -> String {
    let mut socket = TcpStream::connect(address).expect("connected");
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
    write!(socket, "GET {path} HTTP/1.1\r\nHost: hub\r\n\r\n").expect("sent");
    let mut text = String::new();
    socket.read_to_string(&mut text).expect("received");
    text
}

pub fn key_of(welcome: &Welcome) -> (u64, PacketKey, u16) {
    let time = welcome.time.as_ref().expect("a time service");
    (
        time.key_id.0,
        PacketKey(unhex(&time.key).expect("64 digits")),
        time.udp_port,
    )
}

pub fn probe(key_id: u64, nonce: u64) -> TimePacket {
    TimePacket {
        direction: Direction::Request,
        key_id,
        nonce,
        dev_send_ns: 5,
        hub_epoch: HubEpoch(0),
        hub_recv_ns: 0,
        hub_send_ns: 0,
        tag: [0; 8],
    }
}
