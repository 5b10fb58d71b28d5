//! A device as small as the specification allows, blocking, for the tests of the server.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use marey_format::frame::{DataBuilder, Kind, Lane, Value, control_frame};
use marey_format::payload::EndOfStream;
use marey_format::wire::{self, Ack, Acked, Join, MessageHeader, MessageType, Open, Opened, Stop, Welcome};
use marey_format::{BootId, Declaration, DeviceId, DigestChain, EpochId, Refusal, Seed, SessionId};
use marey_server::pki::DeviceBundle;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// Nothing in these tests takes longer, unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A message of the hub.
#[derive(Debug, PartialEq)]
pub enum Down {
    Welcome(Welcome),
    Join(Join),
    Opened(u16, Opened),
    Refused(Refusal),
    Stop(Stop),
    Closed(u16, wire::Closed),
    Ack(u16, Ack),
    ProbeReply(Vec<u8>),
    Renew(wire::Renew),
    Certificate(wire::Certificate),
}

/// One connection.
pub struct Device {
    tls: StreamOwned<ClientConnection, TcpStream>,
    pub name: DeviceId,
}

pub fn client_config(bundle: &DeviceBundle) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(bundle.authority_pem.as_bytes()).expect("PEM"))
        .expect("a root");
    let certificate = CertificateDer::from_pem_slice(bundle.certificate_pem.as_bytes()).expect("PEM");
    let key = PrivateKeyDer::from_pem_slice(bundle.key_pem.as_bytes()).expect("PEM");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![certificate], key)
        .expect("a pair");
    config.alpn_protocols = vec![wire::ALPN.to_vec()];
    Arc::new(config)
}

/// A browser, more or less.
pub fn web_config(bundle: &DeviceBundle) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(bundle.authority_pem.as_bytes()).expect("PEM"))
        .expect("a root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

impl Device {
    /// Dials and shakes hands.
    pub fn dial(bundle: &DeviceBundle, address: SocketAddr) -> std::io::Result<Self> {
        Self::dial_with(client_config(bundle), bundle, address)
    }

    /// The same with a configuration that may remember earlier connections.
    pub fn dial_with(
        config: Arc<ClientConfig>,
        bundle: &DeviceBundle,
        address: SocketAddr,
    ) -> std::io::Result<Self> {
        let name = ServerName::try_from(bundle.hub.hub_name.clone()).expect("a name");
        let socket = TcpStream::connect(address)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_nodelay(true)?;
        let connection = ClientConnection::new(config, name).expect("a client");
        let mut tls = StreamOwned::new(connection, socket);
        while tls.conn.is_handshaking() {
            tls.conn.complete_io(&mut tls.sock)?;
        }
        let name = DeviceId::new(bundle.hub.device.clone()).expect("a name");
        Ok(Self { tls, name })
    }

    /// Dials, says hello, takes the welcome.
    pub fn attach(bundle: &DeviceBundle, address: SocketAddr) -> (Self, Welcome) {
        let mut device = Self::dial(bundle, address).expect("connected");
        device.send(&wire::message(
            MessageType::Hello,
            0,
            br#"{"v":1,"agent":"test"}"#,
        ));
        match device.next() {
            Some(Down::Welcome(welcome)) => (device, welcome),
            other => panic!("{other:?} instead of a welcome"),
        }
    }

    /// Whether the handshake went on from an earlier connection's.
    pub fn is_resumed(&self) -> bool {
        self.tls.conn.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).expect("sent");
    }

    pub fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.tls.write_all(bytes)?;
        self.tls.flush()
    }

    /// The next message; `None` at the end of the connection, clean or not.
    pub fn next(&mut self) -> Option<Down> {
        let mut header = [0; wire::MESSAGE_HEADER_BYTES];
        self.read(&mut header)?;
        let header = MessageHeader::parse(header).expect("the hub keeps to its own rules");
        let mut body = vec![0; header.length as usize];
        self.read(&mut body)?;
        let json = "the hub writes what it specifies";
        Some(match header.kind {
            MessageType::Welcome => Down::Welcome(serde_json::from_slice(&body).expect(json)),
            MessageType::Join => Down::Join(serde_json::from_slice(&body).expect(json)),
            MessageType::Opened => Down::Opened(header.channel, serde_json::from_slice(&body).expect(json)),
            MessageType::Refused => Down::Refused(serde_json::from_slice(&body).expect(json)),
            MessageType::Stop => Down::Stop(serde_json::from_slice(&body).expect(json)),
            MessageType::Closed => Down::Closed(header.channel, serde_json::from_slice(&body).expect(json)),
            MessageType::Ack => Down::Ack(header.channel, Ack::parse(&body).expect(json)),
            MessageType::ProbeReply => Down::ProbeReply(body),
            MessageType::Renew => Down::Renew(serde_json::from_slice(&body).expect(json)),
            MessageType::Certificate => Down::Certificate(serde_json::from_slice(&body).expect(json)),
            other => panic!("the hub sent {other:?}"),
        })
    }

    fn read(&mut self, to: &mut [u8]) -> Option<()> {
        match self.tls.read_exact(to) {
            Ok(()) => Some(()),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("the hub said nothing for {PATIENCE:?}")
            }
            Err(_) => None,
        }
    }

    /// Reads on until `wanted` finds something; what comes before is dropped.
    pub fn until<T>(&mut self, mut wanted: impl FnMut(&Down) -> Option<T>) -> T {
        loop {
            let Some(message) = self.next() else {
                panic!("the connection ended too early")
            };
            if let Some(found) = wanted(&message) {
                return found;
            }
        }
    }

    pub fn join(&mut self) -> SessionId {
        self.until(|m| match m {
            Down::Join(join) => Some(join.session.clone()),
            _ => None,
        })
    }

    pub fn open(&mut self, channel: u16, log: &Log) -> Opened {
        self.send(&open_message(channel, log));
        self.until(|m| match m {
            Down::Opened(at, opened) if *at == channel => Some(opened.clone()),
            Down::Refused(refusal) => panic!("{refusal}"),
            _ => None,
        })
    }

    /// Reads acks until both lanes are durable up to here.
    pub fn acked(&mut self, channel: u16, durable: [u64; 2]) -> Ack {
        self.until(|m| match m {
            Down::Ack(at, ack) if *at == channel && ack.durable == durable => Some(*ack),
            Down::Refused(refusal) => panic!("{refusal}"),
            _ => None,
        })
    }

    pub fn refused(&mut self) -> Refusal {
        self.until(|m| match m {
            Down::Refused(refusal) => Some(refusal.clone()),
            _ => None,
        })
    }

    /// Reads to the end; the last message before it.
    pub fn last_words(&mut self) -> Option<Down> {
        let mut last = None;
        while let Some(message) = self.next() {
            last = Some(message);
        }
        last
    }
}

pub fn open_message(channel: u16, log: &Log) -> Vec<u8> {
    let open = Open {
        session: log.session.clone(),
        epoch: log.epoch,
        boot: BootId::UNKNOWN,
        highest_ack: Acked::default(),
    };
    wire::json_message(MessageType::Open, channel, &open)
}

/// What a device keeps of one epoch in one session, with one stream.
pub struct Log {
    pub session: SessionId,
    pub epoch: EpochId,
    pub seed: Seed,
    digest: DigestChain,
    samples: u64,
    frames: u64,
    live: u64,
}

pub const SAMPLES_PER_FRAME: u64 = 100;

impl Log {
    pub fn new(device: &DeviceId, session: &SessionId, epoch: u8) -> Self {
        let epoch = EpochId([epoch; 16]);
        let seed = Seed::new(device, session, &epoch);
        let digest = DigestChain::default();
        Self {
            session: session.clone(),
            epoch,
            seed,
            digest,
            samples: 0,
            frames: 0,
            live: 0,
        }
    }

    pub fn declare(&mut self) -> Vec<u8> {
        self.control(Kind::DECLARE, 1, &declaration().to_json())
    }

    pub fn event(&mut self) -> Vec<u8> {
        self.control(Kind::EVENT, 0, br#"{"kind":"label","text":"walking"}"#)
    }

    pub fn data(&mut self) -> Vec<u8> {
        self.data_of_stream(1)
    }

    pub fn data_of_stream(&mut self, stream: u32) -> Vec<u8> {
        let mut builder = DataBuilder::new(&declaration());
        for i in self.samples..self.samples + SAMPLES_PER_FRAME {
            let time_ns = i64::try_from(i * 10_000_000).expect("small");
            builder.push(time_ns, &[Value::F32(i as f32)]).expect("it fits");
        }
        let frame = builder
            .finish(stream, self.frames, self.samples, self.seed)
            .expect("it fits");
        let crc = u32::from_le_bytes(frame[4..8].try_into().expect("four bytes"));
        self.digest.push(crc, self.frames);
        self.samples += SAMPLES_PER_FRAME;
        self.frames += 1;
        wire::message(MessageType::Frame, 1, &frame)
    }

    pub fn end(&mut self) -> Vec<u8> {
        let end = EndOfStream {
            stream: 1,
            captured: self.samples,
            next_index: self.samples,
            frames: self.frames,
            digest: self.digest.to_hex(),
        };
        self.control(Kind::END, 1, &serde_json::to_vec(&end).expect("JSON"))
    }

    fn control(&mut self, kind: Kind, stream: u32, payload: &[u8]) -> Vec<u8> {
        let frame =
            control_frame(kind, Lane::Live, stream, self.live, 0, 0, payload, self.seed).expect("it fits");
        self.live += 1;
        wire::message(MessageType::Frame, 1, &frame)
    }
}

fn declaration() -> Declaration {
    Declaration::from_json(
        br#"{"name":"imu","fields":[{"name":"ax","type":"f32","unit":"m/s2"}],"rate_hz":100}"#,
    )
    .expect("valid")
}
