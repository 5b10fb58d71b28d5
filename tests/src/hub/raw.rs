//! A device as small as the specification allows, blocking: it says whatever a test wants it to say.
//!
//! Does not own good behaviour: that is `marey-device`.

use super::PATIENCE;
use marey_format::frame::{DataBuilder, Kind, Lane, Value, control_frame};
use marey_format::payload::{EndOfStream, Lost};
use marey_format::wire::{self, Ack, Acked, Join, MessageHeader, MessageType, Open, Opened, Stop, Welcome};
use marey_format::{
    BootId, Declaration, DeviceId, DigestChain, EpochId, Refusal, RefusalCode, Seed, SessionId,
};
use marey_server::pki::DeviceBundle;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

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
    Command(wire::Command),
}

/// One connection.
#[derive(Debug)]
pub struct RawDevice {
    tls: StreamOwned<ClientConnection, TcpStream>,
    pub name: DeviceId,
}

impl RawDevice {
    /// Dials and shakes hands.
    ///
    /// # Errors
    /// What TLS or the socket says.
    pub fn dial(bundle: &DeviceBundle, address: SocketAddr) -> io::Result<Self> {
        let name = ServerName::try_from(bundle.hub.hub_name.clone()).expect("a name");
        let socket = TcpStream::connect(address)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_nodelay(true)?;
        let connection = ClientConnection::new(client_config(bundle), name).expect("a client");
        let mut tls = StreamOwned::new(connection, socket);
        while tls.conn.is_handshaking() {
            tls.conn.complete_io(&mut tls.sock)?;
        }
        Ok(Self {
            tls,
            name: DeviceId::new(bundle.hub.device.clone()).expect("a name"),
        })
    }

    /// Dials, says hello, takes the welcome.
    pub fn attach(bundle: &DeviceBundle, address: SocketAddr) -> Self {
        let mut device = Self::dial(bundle, address).expect("connected");
        device.hello(br#"{"v":1,"agent":"test"}"#);
        match device.next() {
            Some(Down::Welcome(_)) => device,
            other => panic!("{other:?} instead of a welcome"),
        }
    }

    /// Attaches, is asked to join, and opens its log on channel 1.
    pub fn record(bundle: &DeviceBundle, address: SocketAddr, log: &Log) -> Self {
        let mut device = Self::attach(bundle, address);
        device.until(|message| match message {
            Down::Join(join) => (join.session == log.session).then_some(()),
            _ => None,
        });
        device.open(1, log);
        device
    }

    pub fn hello(&mut self, json: &[u8]) {
        self.send(&wire::message(MessageType::Hello, 0, json));
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).expect("sent");
    }

    /// # Errors
    /// What TLS or the socket says.
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.tls.write_all(bytes)?;
        self.tls.flush()
    }

    /// The next message; none at the end of the connection, clean or not.
    #[allow(
        clippy::should_implement_trait,
        reason = "it is no iterator: it panics where the hub is silent"
    )]
    pub fn next(&mut self) -> Option<Down> {
        let mut header = [0; wire::MESSAGE_HEADER_BYTES];
        self.read(&mut header)?;
        let header = MessageHeader::parse(header).expect("the hub keeps to its own rules");
        let mut body = vec![0; header.length as usize];
        self.read(&mut body)?;
        let (channel, form) = (header.channel, "the hub writes what it specifies");
        Some(match header.kind {
            MessageType::Welcome => Down::Welcome(serde_json::from_slice(&body).expect(form)),
            MessageType::Join => Down::Join(serde_json::from_slice(&body).expect(form)),
            MessageType::Opened => Down::Opened(channel, serde_json::from_slice(&body).expect(form)),
            MessageType::Refused => Down::Refused(serde_json::from_slice(&body).expect(form)),
            MessageType::Stop => Down::Stop(serde_json::from_slice(&body).expect(form)),
            MessageType::Closed => Down::Closed(channel, serde_json::from_slice(&body).expect(form)),
            MessageType::Ack => Down::Ack(channel, Ack::parse(&body).expect(form)),
            MessageType::ProbeReply => Down::ProbeReply(body),
            MessageType::Command => Down::Command(serde_json::from_slice(&body).expect(form)),
            other => panic!("the hub sent {other:?}"),
        })
    }

    fn read(&mut self, to: &mut [u8]) -> Option<()> {
        match self.tls.read_exact(to) {
            Ok(()) => Some(()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("the hub said nothing for {PATIENCE:?}")
            }
            Err(_) => None,
        }
    }

    /// Reads on until `wanted` finds something; what comes before is dropped.
    #[track_caller]
    pub fn until<T>(&mut self, mut wanted: impl FnMut(&Down) -> Option<T>) -> T {
        loop {
            let message = self.next().expect("the connection goes on");
            if let Some(found) = wanted(&message) {
                return found;
            }
        }
    }

    #[track_caller]
    pub fn open(&mut self, channel: u16, log: &Log) -> Opened {
        self.send(&log.open(channel));
        self.until(|message| match message {
            Down::Opened(at, opened) if *at == channel => Some(opened.clone()),
            Down::Refused(refusal) => panic!("{refusal}"),
            _ => None,
        })
    }

    /// Reads acks until both lanes are durable up to here.
    #[track_caller]
    pub fn acked(&mut self, durable: [u64; 2]) {
        self.until(|message| match message {
            Down::Ack(_, ack) if ack.durable == durable => Some(()),
            Down::Ack(_, ack) if ack.durable[0] > durable[0] => panic!("{ack:?} passes {durable:?}"),
            Down::Refused(refusal) => panic!("{refusal}"),
            _ => None,
        });
    }

    #[track_caller]
    pub fn refused(&mut self) -> Refusal {
        self.until(|message| match message {
            Down::Refused(refusal) => Some(refusal.clone()),
            _ => None,
        })
    }

    /// Reads to the end: why the hub closed it, if it said so, and the refusals before.
    pub fn last_words(&mut self) -> (Option<RefusalCode>, Vec<Refusal>) {
        let (mut reason, mut refusals) = (None, Vec::new());
        while let Some(message) = self.next() {
            match message {
                Down::Closed(_, closed) => reason = Some(closed.reason),
                Down::Refused(refusal) => refusals.push(refusal),
                _ => {}
            }
        }
        (reason, refusals)
    }
}

/// What a device keeps of one epoch in one session, with one stream `n` of i32 that counts from 0.
#[derive(Debug, Clone)]
pub struct Log {
    pub session: SessionId,
    pub epoch: EpochId,
    pub seed: Seed,
    digest: DigestChain,
    /// Indices that were given away, whether or not a sample came of them.
    pub samples: u64,
    pub frames: u64,
    live: u64,
    boot: BootId,
    /// Sequences that were given away to no frame.
    gone: u64,
    /// Indices that were given to no sample that was captured, in this epoch.
    never: u64,
    /// The index at which the epoch began.
    first: u64,
}

/// Samples of a frame of a [`Log`].
pub const SAMPLES_PER_FRAME: u64 = 50;

impl Log {
    pub fn new(device: &DeviceId, session: &SessionId, epoch: u8) -> Self {
        let epoch = EpochId([epoch; 16]);
        let seed = Seed::new(device, session, &epoch);
        let (samples, frames, live) = (0, 0, 0);
        Self {
            session: session.clone(),
            epoch,
            seed,
            digest: DigestChain::default(),
            samples,
            frames,
            live,
            boot: BootId::UNKNOWN,
            gone: 0,
            never: 0,
            first: 0,
        }
    }

    /// The same device in another life: a new epoch of another boot whose indices go on after so many more.
    pub fn rebooted(&self, device: &DeviceId, epoch: u8, boot: u8, lost: u64) -> Self {
        let mut next = Self::new(device, &self.session, epoch);
        next.boot = BootId([boot; 16]);
        next.samples = self.samples + lost;
        next.first = next.samples;
        next
    }

    pub fn with_boot(mut self, boot: u8) -> Self {
        self.boot = BootId([boot; 16]);
        self
    }

    /// Indices that no frame has; no sequence jumps.
    pub fn skip(&mut self, samples: u64) {
        self.samples += samples;
    }

    /// The same of samples that the sensor never gave.
    pub fn never(&mut self, samples: u64) {
        self.samples += samples;
        self.never += samples;
    }

    /// A frame that the device let go: its sequence and its indices are used.
    pub fn let_go(&mut self) {
        self.samples += SAMPLES_PER_FRAME;
        self.gone += 1;
    }

    /// What the device says of samples that it will not send, as a message.
    pub fn lost(&mut self, lost: &Lost) -> Vec<u8> {
        self.control(Kind::EVENT, 1, &serde_json::to_vec(lost).expect("JSON"))
    }

    /// The next frame, whose times lie before those of the one before it, as a message.
    pub fn data_back_in_time(&mut self) -> Vec<u8> {
        let sequence = self.frames + self.gone;
        let first = self.samples;
        let mut builder = DataBuilder::new(&declaration());
        for index in 0..SAMPLES_PER_FRAME as i64 {
            builder.push(index, &[Value::I64(index)]).expect("it fits");
        }
        let frame = builder.finish(1, sequence, first, self.seed).expect("it fits");
        self.taken(&frame, sequence, SAMPLES_PER_FRAME)
    }

    /// The next frame, of these samples (device time in nanoseconds, values) of a stream that [`Log::declare_as`] declared, as a
    /// message.
    pub fn rows(&mut self, declaration: &Declaration, rows: &[(i64, Vec<f64>)]) -> Vec<u8> {
        let sequence = self.frames + self.gone;
        let mut builder = DataBuilder::new(declaration);
        for (time_ns, values) in rows {
            let values: Vec<Value> = values.iter().map(|value| Value::F64(*value)).collect();
            builder.push(*time_ns, &values).expect("it fits");
        }
        let frame = builder.finish(1, sequence, self.samples, self.seed);
        self.taken(&frame.expect("it fits"), sequence, rows.len() as u64)
    }

    fn taken(&mut self, frame: &[u8], sequence: u64, samples: u64) -> Vec<u8> {
        let crc = u32::from_le_bytes(frame[4..8].try_into().expect("four bytes"));
        self.digest.push(crc, sequence);
        self.samples += samples;
        self.frames += 1;
        wire::message(MessageType::Frame, 1, frame)
    }

    pub fn open(&self, channel: u16) -> Vec<u8> {
        let open = Open {
            session: self.session.clone(),
            epoch: self.epoch,
            boot: self.boot,
            highest_ack: Acked::default(),
        };
        wire::json_message(MessageType::Open, channel, &open)
    }

    pub fn declare(&mut self) -> Vec<u8> {
        self.declare_as(&declaration())
    }

    /// Another stream instead.
    pub fn declare_as(&mut self, declaration: &Declaration) -> Vec<u8> {
        self.control(Kind::DECLARE, 1, &declaration.to_json())
    }

    /// The next frame of samples, as a message.
    pub fn data(&mut self) -> Vec<u8> {
        let sequence = self.frames + self.gone;
        let frame = self.data_frame(1, sequence, 0);
        self.taken(&frame, sequence, SAMPLES_PER_FRAME)
    }

    /// A frame that was made before, as a message: what [`Log::data`] gave under this sequence.
    pub fn data_frame_again(&self, sequence: u64) -> Vec<u8> {
        let mut then = self.clone();
        then.samples = sequence * SAMPLES_PER_FRAME;
        wire::message(MessageType::Frame, 1, &then.data_frame(1, sequence, 0))
    }

    /// A frame of the present samples under any stream number and sequence; each value is `more` larger than it should
    /// be. The log forgets it.
    pub fn data_frame(&self, stream: u32, sequence: u64, more: i64) -> Vec<u8> {
        let mut builder = DataBuilder::new(&declaration());
        for index in self.samples..self.samples + SAMPLES_PER_FRAME {
            let index = index as i64;
            builder
                .push(1_000_000_000 + index * 10_000_000, &[Value::I64(index + more)])
                .expect("it fits");
        }
        builder
            .finish(stream, sequence, self.samples, self.seed)
            .expect("it fits")
    }

    pub fn end(&mut self) -> Vec<u8> {
        let end = EndOfStream {
            stream: 1,
            captured: self.samples - self.first - self.never,
            next_index: self.samples,
            frames: self.frames,
            digest: self.digest.to_hex(),
        };
        self.control(Kind::END, 1, &serde_json::to_vec(&end).expect("JSON"))
    }

    /// Frames of the live lane that were made.
    pub fn live(&self) -> u64 {
        self.live
    }

    fn control(&mut self, kind: Kind, stream: u32, payload: &[u8]) -> Vec<u8> {
        let frame =
            control_frame(kind, Lane::Live, stream, self.live, 0, 0, payload, self.seed).expect("it fits");
        self.live += 1;
        wire::message(MessageType::Frame, 1, &frame)
    }
}

pub fn declaration() -> Declaration {
    let json = br#"{"name":"count","fields":[{"name":"n","type":"i32"}],"rate_hz":100}"#;
    Declaration::from_json(json).expect("a declaration")
}

fn client_config(bundle: &DeviceBundle) -> Arc<ClientConfig> {
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
