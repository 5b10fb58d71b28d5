//! A hub in this process, and devices that send it frames over mutual TLS: as small as the protocol allows, so that what
//! is measured is the hub.

use crate::Source;
use bytes::Bytes;
use marey_engine::time::{HubClock, OsClocks};
use marey_format::wire::{self, Ack, MESSAGE_HEADER_BYTES, MessageHeader, MessageType, Opened, Welcome};
use marey_server::control::{ControlClient, Request, Response, SessionSpec};
use marey_server::pki::DeviceBundle;
use marey_server::{Hub, HubConfig};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A running hub with the session started.
#[derive(Debug)]
pub struct LocalHub {
    hub: Hub,
    dir: std::path::PathBuf,
}

impl LocalHub {
    /// Makes a hub in an empty folder and starts it on free ports.
    pub fn start(dir: &Path) -> Self {
        Self::start_with(dir, |_| ())
    }

    /// The same with something configured.
    pub fn start_with(dir: &Path, configure: impl FnOnce(&mut HubConfig)) -> Self {
        let clock: Arc<dyn HubClock> = Arc::new(OsClocks::hub_clock().expect("the kernel tells its boot id"));
        marey_server::init(dir, clock.as_ref()).expect("the folder is empty");
        let mut config = HubConfig::default();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        (config.listen.devices, config.listen.time) = (any, any);
        (config.listen.health, config.listen.files) = (any, any);
        (
            config.disk.floor_percent,
            config.disk.floor_min_mib,
            config.disk.floor_max_mib,
        ) = (0.0, 0, 0);
        configure(&mut config);
        let hub = Hub::start(dir, config, clock).expect("it was just made");
        let local = Self {
            hub,
            dir: dir.to_owned(),
        };
        let session = crate::session();
        let create = SessionSpec {
            session: session.clone(),
            devices: None,
            metadata: Default::default(),
            max_drift_ppm: None,
            max_time_error_us: None,
            protocol: None,
        };
        local.ask(Request::SessionStart {
            session,
            create: Some(create),
        });
        local
    }

    /// Enrols a device and connects it, with its log open and its stream declared.
    pub fn device(&self, source: Source) -> Sender {
        Sender::connect(&self.enrol(&source), self.address(), source)
    }

    /// What a device needs to connect.
    pub fn enrol(&self, source: &Source) -> DeviceBundle {
        enrol(&self.dir, source)
    }

    /// Where devices connect to.
    pub fn address(&self) -> SocketAddr {
        self.hub.bound().devices
    }

    pub fn shutdown(self) {
        self.hub.shutdown().expect("the disk takes it");
    }

    fn ask(&self, request: Request) -> Response {
        ask(&self.dir, &request)
    }
}

fn ask(dir: &Path, request: &Request) -> Response {
    let mut client = ControlClient::connect(dir).expect("the hub listens");
    client.call(request, |_| ()).expect("the hub agrees")
}

/// Enrols a device at the hub of a folder.
pub fn enrol(dir: &Path, source: &Source) -> DeviceBundle {
    let request = Request::DeviceEnroll {
        device: source.device.clone(),
        addresses: Vec::new(),
    };
    match ask(dir, &request) {
        Response::Bundle(bundle) => bundle,
        other => panic!("{other:?}"),
    }
}

/// A device that is connected and welcome and says no more. Only its socket is kept.
pub fn idle(bundle: &DeviceBundle, address: SocketAddr) -> TcpStream {
    let mut tls = connect(bundle, address);
    tls.sock
        .set_read_timeout(Some(WELCOME_PATIENCE))
        .expect("it is a socket");
    tls.write_all(&wire::message(MessageType::Hello, 0, br#"{"v":1}"#))
        .expect("the hub listens");
    let mut header = [0; MESSAGE_HEADER_BYTES];
    tls.read_exact(&mut header).expect("the hub answers");
    let header = MessageHeader::parse(header).expect("the hub keeps to the protocol");
    assert_eq!(header.kind, MessageType::Welcome, "it was not welcomed");
    tls.sock
}

fn connect(bundle: &DeviceBundle, address: SocketAddr) -> StreamOwned<ClientConnection, TcpStream> {
    let name = ServerName::try_from(bundle.hub.hub_name.clone()).expect("it is a name");
    let socket = TcpStream::connect(address).expect("the hub listens");
    socket.set_nodelay(true).expect("it is a socket");
    let connection = ClientConnection::new(client_config(bundle), name).expect("it is a configuration");
    StreamOwned::new(connection, socket)
}

/// One connected device.
#[derive(Debug)]
pub struct Sender {
    tls: StreamOwned<ClientConnection, TcpStream>,
    pub source: Source,
    credit: u64,
    sent_bytes: u64,
    durable: u64,
    /// Of a paced device: when each frame went that is not acknowledged yet.
    under_way: VecDeque<Instant>,
}

impl Sender {
    /// Connects, opens the log and declares the stream.
    pub fn connect(bundle: &DeviceBundle, address: SocketAddr, source: Source) -> Self {
        let tls = connect(bundle, address);
        let mut sender = Self {
            tls,
            source,
            credit: 0,
            sent_bytes: 0,
            durable: 0,
            under_way: VecDeque::new(),
        };
        sender.begin().expect("the hub answers");
        sender
    }

    fn begin(&mut self) -> io::Result<()> {
        self.tls
            .write_all(&wire::message(MessageType::Hello, 0, br#"{"v":1}"#))?;
        let welcome: Welcome = wire::parse_json(MessageType::Welcome, &self.until(MessageType::Welcome)?)
            .expect("the hub keeps to the protocol");
        self.credit = welcome.credit;
        self.tls
            .write_all(&wire::json_message(MessageType::Open, 1, &self.source.open()))?;
        let body = self.until(MessageType::Opened)?;
        let opened: Opened =
            wire::parse_json(MessageType::Opened, &body).expect("the hub keeps to the protocol");
        assert!(opened.recording);
        let declare = self.source.declare();
        self.send(&declare)?;
        while self.ack()?.durable[1] == 0 {}
        Ok(())
    }

    /// Sends frames, each in a write of its own, as a device does that sends a frame when it is full; returns when the
    /// hub has acknowledged them all.
    pub fn record(&mut self, frames: &[Bytes]) -> io::Result<()> {
        let goal = self.durable + frames.len() as u64;
        for frame in frames {
            while self.sent_bytes + frame.len() as u64 > self.credit {
                self.ack()?;
            }
            self.send(frame)?;
        }
        self.tls.flush()?;
        while self.durable < goal {
            self.ack()?;
        }
        Ok(())
    }

    /// Sends a frame every `period` until `end`, as a device does that waits for nothing but credit, and hears acks in between.
    /// For each frame, how long its ack took, in the order of the acks.
    ///
    /// # Errors
    /// Where the connection breaks, or an ack is not there ten seconds after the end.
    pub fn pace(&mut self, first: Instant, period: Duration, end: Instant) -> io::Result<Vec<Duration>> {
        let mut took = Vec::new();
        let mut due = first;
        while due < end {
            while self.hear(due, &mut took)? {}
            let frame = self.source.frame();
            while self.sent_bytes + frame.len() as u64 > self.credit {
                if !self.hear(end + ACK_PATIENCE, &mut took)? {
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
            self.under_way.push_back(Instant::now());
            self.send(&frame)?;
            self.tls.flush()?;
            due += period;
        }
        while !self.under_way.is_empty() {
            if !self.hear(end + ACK_PATIENCE, &mut took)? {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        Ok(took)
    }

    /// Takes an ack if one comes before `until`; whether one did.
    fn hear(&mut self, until: Instant, took: &mut Vec<Duration>) -> io::Result<bool> {
        let is_here = self.tls.conn.process_new_packets().map_err(io::Error::other)?;
        if is_here.plaintext_bytes_to_read() == 0 && !readable(&self.tls.sock, until)? {
            return Ok(false);
        }
        let before = self.durable;
        self.ack()?;
        let now = Instant::now();
        let acked = (self.durable - before) as usize;
        took.extend(self.under_way.drain(..acked).map(|sent| now - sent));
        Ok(true)
    }

    fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        self.sent_bytes += frame.len() as u64;
        self.tls.write_all(&wire::message(MessageType::Frame, 1, frame))
    }

    fn ack(&mut self) -> io::Result<Ack> {
        let ack = Ack::parse(&self.until(MessageType::Ack)?).expect("the hub keeps to the protocol");
        (self.credit, self.durable) = (ack.credit, ack.durable[0]);
        Ok(ack)
    }

    /// The body of the next message of this type; others are passed over, a refusal is the end.
    fn until(&mut self, wanted: MessageType) -> io::Result<Vec<u8>> {
        loop {
            let mut header = [0; MESSAGE_HEADER_BYTES];
            self.tls.read_exact(&mut header)?;
            let header = MessageHeader::parse(header).expect("the hub keeps to the protocol");
            let mut body = vec![0; header.length as usize];
            self.tls.read_exact(&mut body)?;
            match header.kind {
                kind if kind == wanted => return Ok(body),
                MessageType::Refused => panic!("refused: {}", String::from_utf8_lossy(&body)),
                _ => {}
            }
        }
    }
}

/// How long a welcome is waited for, in the middle of ten thousand.
const WELCOME_PATIENCE: Duration = Duration::from_secs(60);

/// How long after its end an ack is waited for.
const ACK_PATIENCE: Duration = Duration::from_secs(10);

/// Whether the socket has something to read before `until`.
fn readable(socket: &TcpStream, until: Instant) -> io::Result<bool> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&left)) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn client_config(bundle: &DeviceBundle) -> Arc<ClientConfig> {
    let pem = "the hub gives PEM away";
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(bundle.authority_pem.as_bytes()).expect(pem);
    roots.add(authority).expect("it is a root");
    let certificate = CertificateDer::from_pem_slice(bundle.certificate_pem.as_bytes()).expect(pem);
    let key = PrivateKeyDer::from_pem_slice(bundle.key_pem.as_bytes()).expect(pem);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has them")
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![certificate], key)
        .expect("they belong together");
    config.alpn_protocols = vec![wire::ALPN.to_vec()];
    Arc::new(config)
}
