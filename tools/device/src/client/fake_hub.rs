//! A hub for tests of the client: real TLS and UDP, a map for a disk, and faults on request.
//!
//! It holds the device to the rules: checksums, rising sequences, credit, the same content for the same sequence.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use marey_format::clock::{Direction, PacketKey, ProbeRow, StampKey, TimePacket};
use marey_format::frame::{Column, Columns, Frame, Value};
use marey_format::payload::EndOfStream;
use marey_format::registry::FrameName;
use marey_format::types::{KeyId, hex};
use marey_format::wire::{self, *};
use marey_format::{
    Declaration, DeviceId, DigestChain, EpochId, FieldType, HubEpoch, Kind, Lane, Refusal, RefusalCode, Seed,
    SessionId,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use crate::bundle::Bundle;
use crate::record::SampleDigest;
use crate::simulate::true_time::{SystemTrueTime, TrueTime};

pub(crate) struct FakeHub {
    shared: Arc<HubShared>,
    folder: tempfile::TempDir,
    threads: Vec<JoinHandle<()>>,
    pub(crate) tcp: SocketAddr,
}

#[derive(Default)]
pub(crate) struct Store {
    pub(crate) epochs: BTreeMap<(String, EpochId), EpochStore>,
    pub(crate) sent: Vec<(Sent, i64)>,
    pub(crate) heartbeats: u64,
    pub(crate) connections: u64,
    pub(crate) byes: u64,
    /// What a device did that it must not do.
    pub(crate) faults: Vec<String>,
    pub(crate) opens: Vec<Open>,
}

#[derive(Default, Clone)]
pub(crate) struct EpochStore {
    pub(crate) frames: [BTreeMap<u64, Vec<u8>>; 2],
    pub(crate) duplicates: u64,
}

/// How the hub behaves.
#[derive(Default, Clone)]
pub(crate) struct Behaviour {
    pub(crate) session: Option<String>,
    pub(crate) stopped: bool,
    pub(crate) no_acks: bool,
    pub(crate) credit_window: u64,
    /// Drop the connection after so many frames of it, the last of them not acknowledged.
    pub(crate) drop_after_frames: Option<u32>,
    /// Refuse the next so many data frames with this code.
    pub(crate) refuse: Option<(RefusalCode, u32)>,
    pub(crate) deaf_udp: bool,
}

struct HubShared {
    behaviour: Mutex<Behaviour>,
    store: Mutex<Store>,
    over: AtomicBool,
    time: SystemTrueTime,
    config: Arc<ServerConfig>,
    device: DeviceId,
    udp_port: u16,
}

const KEY: PacketKey = PacketKey([7; 32]);
const STAMPS: StampKey = StampKey([8; 32]);
const HUB_EPOCH: HubEpoch = HubEpoch(42);
const HUB_NAME: &str = "hub-0123456789abcdef.marey.invalid";

impl FakeHub {
    pub(crate) fn start(device: &str, behaviour: Behaviour) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let time_socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        time_socket
            .set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        let (tcp, udp) = (listener.local_addr().unwrap(), time_socket.local_addr().unwrap());
        let config = make_bundle(folder.path(), device, tcp, udp.port());
        let shared = Arc::new(HubShared {
            behaviour: Mutex::new(Behaviour {
                credit_window: if behaviour.credit_window == 0 {
                    1 << 20
                } else {
                    behaviour.credit_window
                },
                ..behaviour
            }),
            store: Mutex::new(Store::default()),
            over: AtomicBool::new(false),
            time: SystemTrueTime::new(),
            config,
            device: DeviceId::new(device).unwrap(),
            udp_port: udp.port(),
        });
        let accepting = Arc::clone(&shared);
        let answering = Arc::clone(&shared);
        let threads = vec![
            std::thread::spawn(move || {
                while let Ok((tcp, _)) = listener.accept() {
                    if accepting.over.load(Ordering::SeqCst) {
                        return;
                    }
                    let shared = Arc::clone(&accepting);
                    std::thread::spawn(move || serve(&shared, tcp));
                }
            }),
            std::thread::spawn(move || tell_time(&answering, &time_socket)),
        ];
        Self {
            shared,
            folder,
            threads,
            tcp,
        }
    }

    pub(crate) fn bundle(&self) -> Bundle {
        Bundle::read(self.folder.path()).unwrap()
    }

    pub(crate) fn behave(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.shared.behaviour.lock().unwrap());
    }

    pub(crate) fn store(&self) -> MutexGuard<'_, Store> {
        self.shared.store.lock().unwrap()
    }

    /// Every sample of a stream, epoch by epoch: count and digest, and that ends add up where there are any.
    pub(crate) fn samples(&self, session: &str, stream: &str) -> BTreeMap<EpochId, (u64, [u8; 32])> {
        let store = self.store();
        assert!(store.faults.is_empty(), "{:?}", store.faults);
        let mut found = BTreeMap::new();
        for ((of, epoch), frames) in &store.epochs {
            if of != session {
                continue;
            }
            let declared = frames.frames[1].values().find_map(|bytes| {
                let frame = Frame::parse(bytes).unwrap();
                let declaration = Declaration::from_json(frame.payload()).ok()?;
                let is_it = frame.header().kind == Kind::DECLARE && declaration.name.as_str() == stream;
                is_it.then_some((frame.header().stream, declaration))
            });
            let Some((number, declaration)) = declared else {
                continue;
            };
            let (mut digest, mut chain, mut index, mut frame_count) =
                (SampleDigest::new(&declaration), DigestChain::default(), None, 0);
            for bytes in frames.frames[0].values() {
                let frame = Frame::parse(bytes).unwrap();
                let header = frame.header();
                if header.stream != number {
                    continue;
                }
                let columns = Columns::parse(&frame, &declaration).unwrap();
                assert!(index.is_none_or(|next| header.first_index >= next));
                for row in 0..columns.times.len() {
                    let values: Vec<Value> = columns
                        .fields
                        .iter()
                        .zip(&declaration.fields)
                        .map(|(c, f)| value(c, f.kind, row))
                        .collect();
                    digest.sample(header.first_index + row as u64, columns.times.at(row), &values);
                }
                index = Some(header.first_index + u64::from(header.count));
                chain.push(header.crc, header.sequence);
                frame_count += 1;
            }
            for bytes in frames.frames[1].values() {
                let frame = Frame::parse(bytes).unwrap();
                if frame.header().kind == Kind::END && frame.header().stream == number {
                    let end: EndOfStream = frame.json("end").unwrap();
                    assert_eq!((end.frames, end.captured), (frame_count, digest.count()));
                    assert_eq!(end.digest, chain.to_hex());
                }
            }
            found.insert(*epoch, (digest.count(), digest.finish()));
        }
        found
    }

    /// All rows of all probes frames, in order; every tag must be this hub's.
    pub(crate) fn probe_rows(&self) -> Vec<(EpochId, ProbeRow)> {
        let store = self.store();
        let mut all = Vec::new();
        for ((_, epoch), frames) in &store.epochs {
            for bytes in frames.frames[1].values() {
                let frame = Frame::parse(bytes).unwrap();
                if frame.header().kind == Kind::PROBES {
                    let rows: Vec<ProbeRow> = ProbeRow::rows(frame.payload()).unwrap().collect();
                    assert_eq!(rows.len() as u32, frame.header().count);
                    assert!(rows.iter().all(|row| STAMPS.verify(&self.shared.device, row)));
                    all.extend(rows.into_iter().map(|row| (*epoch, row)));
                }
            }
        }
        all
    }
}

impl Drop for FakeHub {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.tcp));
        for thread in self.threads.drain(..) {
            let _panicked = thread.join();
        }
    }
}

fn serve(shared: &HubShared, tcp: TcpStream) {
    tcp.set_nodelay(true).unwrap();
    tcp.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
    let tls = ServerConnection::new(Arc::clone(&shared.config)).unwrap();
    let mut connection = Connection {
        shared,
        tls: StreamOwned::new(tls, tcp),
        channels: BTreeMap::new(),
        frames: 0,
        received: 0,
        credit: 0,
        joined: None,
        stopped: false,
        welcomed: false,
        refusing_from: None,
    };
    shared.store.lock().unwrap().connections += 1;
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match connection.tls.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return,
        }
        let hub_recv_ns = shared.time.true_ns();
        let mut at = 0;
        while let Some(header) = bytes[at..].first_chunk::<MESSAGE_HEADER_BYTES>() {
            let header = MessageHeader::parse(*header).expect("devices send messages of the specification");
            let body = at + MESSAGE_HEADER_BYTES..at + MESSAGE_HEADER_BYTES + header.length as usize;
            if bytes.len() < body.end {
                break;
            }
            at = body.end;
            if connection.message(header, &bytes[body], hub_recv_ns).is_none() {
                return;
            }
        }
        bytes.drain(..at);
        if shared.over.load(Ordering::SeqCst) || connection.turn().is_none() {
            return;
        }
    }
}

struct Connection<'a> {
    shared: &'a HubShared,
    tls: StreamOwned<ServerConnection, TcpStream>,
    channels: BTreeMap<u16, (String, EpochId, Seed)>,
    frames: u32,
    received: u64,
    credit: u64,
    joined: Option<String>,
    stopped: bool,
    welcomed: bool,
    refusing_from: Option<u64>,
}

impl Connection<'_> {
    fn send(&mut self, message: &[u8]) -> Option<()> {
        self.tls.write_all(message).ok()?;
        self.tls.flush().ok()
    }

    /// What the hub says by itself.
    fn turn(&mut self) -> Option<()> {
        let behaviour = self.shared.behaviour.lock().unwrap().clone();
        if !self.welcomed {
            return Some(());
        }
        if self.joined != behaviour.session && !behaviour.stopped {
            self.joined = behaviour.session.clone();
            if let Some(session) = &behaviour.session {
                let join = Join {
                    session: SessionId::new(session.as_str()).unwrap(),
                    streams: None,
                };
                self.send(&json_message(MessageType::Join, 0, &join))?;
            }
        }
        if behaviour.stopped && !self.stopped {
            self.stopped = true;
            let session = SessionId::new(behaviour.session.as_deref().unwrap()).unwrap();
            self.send(&json_message(
                MessageType::Stop,
                0,
                &Stop {
                    session,
                    grace_ms: 1_000,
                },
            ))?;
        }
        Some(())
    }

    fn message(&mut self, header: MessageHeader, body: &[u8], hub_recv_ns: i64) -> Option<()> {
        let behaviour = self.shared.behaviour.lock().unwrap().clone();
        match header.kind {
            MessageType::Hello => {
                let hello: Hello = parse_json(header.kind, body).unwrap();
                assert_eq!(hello.device.as_ref(), Some(&self.shared.device));
                self.credit = behaviour.credit_window;
                let welcome = Welcome {
                    v: 1,
                    hub: "fake".into(),
                    device: self.shared.device.clone(),
                    credit: self.credit,
                    heartbeat_ms: 200,
                    idle_ms: 9_000,
                    hub_epoch: HUB_EPOCH,
                    time: Some(TimeService {
                        udp_port: self.shared.udp_port,
                        key_id: KeyId(5),
                        key: hex(&KEY.0),
                    }),
                };
                self.welcomed = true;
                self.send(&json_message(MessageType::Welcome, 0, &welcome))
            }
            MessageType::Open => {
                let open: Open = parse_json(header.kind, body).unwrap();
                let seed = Seed::new(&self.shared.device, &open.session, &open.epoch);
                let session = open.session.to_string();
                let next = {
                    let mut store = self.shared.store.lock().unwrap();
                    let frames = store.epochs.entry((session.clone(), open.epoch)).or_default();
                    let next = |lane: usize| {
                        frames.frames[lane]
                            .last_key_value()
                            .map_or(0, |(last, _)| last + 1)
                    };
                    let next = Acked {
                        data: next(0),
                        live: next(1),
                    };
                    if open.highest_ack.data > next.data || open.highest_ack.live > next.live {
                        store
                            .faults
                            .push(format!("an ack that was never given: {:?}", open.highest_ack));
                    }
                    store.opens.push(open.clone());
                    next
                };
                self.channels.insert(header.channel, (session, open.epoch, seed));
                let opened = Opened {
                    session: open.session,
                    next,
                    holes: Holes::default(),
                    recording: !behaviour.stopped,
                };
                self.send(&json_message(MessageType::Opened, header.channel, &opened))
            }
            MessageType::Heartbeat => {
                self.shared.store.lock().unwrap().heartbeats += 1;
                Some(())
            }
            MessageType::Bye => {
                self.shared.store.lock().unwrap().byes += 1;
                None
            }
            MessageType::Sent => {
                self.shared
                    .store
                    .lock()
                    .unwrap()
                    .sent
                    .push((Sent::parse(body).unwrap(), hub_recv_ns));
                Some(())
            }
            MessageType::Probe => {
                let reply = answer(self.shared, body, hub_recv_ns).expect("a probe of its own key");
                self.send(&wire::message(MessageType::ProbeReply, 0, &reply))
            }
            MessageType::Frame => self.frame(header.channel, body, &behaviour),
            _ => panic!("a device sent {:?}", header.kind),
        }
    }

    fn frame(&mut self, channel: u16, body: &[u8], behaviour: &Behaviour) -> Option<()> {
        let (session, epoch, seed) = self.channels[&channel].clone();
        self.frames += 1;
        self.received += body.len() as u64;
        let mut faults = Vec::new();
        if self.received > self.credit {
            faults.push(format!("{} bytes sent, credit {}", self.received, self.credit));
        }
        let frame = match Frame::checked(body, seed) {
            Ok(frame) => frame,
            Err(error) => {
                self.shared.store.lock().unwrap().faults.push(error.to_string());
                return Some(());
            }
        };
        let header = *frame.header();
        if behaviour
            .drop_after_frames
            .is_some_and(|most| self.frames >= most)
        {
            return None;
        }
        if header.lane == Lane::Data {
            if let Some((code, left)) = behaviour.refuse
                && left > 0
            {
                self.refusing_from.get_or_insert(header.sequence);
                self.shared.behaviour.lock().unwrap().refuse = Some((code, left - 1));
                self.credit += body.len() as u64;
                let mut refusal = Refusal::new(code, "as the test wants it");
                refusal.retry_after_ms = code.is_passing().then_some(30);
                refusal.channel = Some(channel);
                refusal.frame = Some(FrameName {
                    lane: 0,
                    sequence: header.sequence,
                });
                return self.send(&json_message(MessageType::Refused, channel, &refusal));
            }
            // Frames behind a refused one are let pass unstored until it comes again.
            if let Some(from) = self.refusing_from {
                if header.sequence != from {
                    self.credit += body.len() as u64;
                    return Some(());
                }
                self.refusing_from = None;
            }
        }
        let durable = {
            let mut store = self.shared.store.lock().unwrap();
            store.faults.append(&mut faults);
            let frames = store.epochs.get_mut(&(session, epoch)).unwrap();
            let lane = &mut frames.frames[header.lane as usize];
            let mut fault = None;
            match lane.get(&header.sequence) {
                Some(known) if known == body => frames.duplicates += 1,
                Some(_) => fault = Some(format!("sequence {} reused", header.sequence)),
                None if lane
                    .last_key_value()
                    .is_some_and(|(last, _)| *last > header.sequence) =>
                {
                    fault = Some(format!("sequence {} backward", header.sequence));
                }
                None => {
                    lane.insert(header.sequence, body.to_vec());
                }
            }
            let next = |lane: usize| {
                frames.frames[lane]
                    .last_key_value()
                    .map_or(0, |(last, _)| last + 1)
            };
            let durable = [next(0), next(1)];
            store.faults.extend(fault);
            durable
        };
        if behaviour.no_acks {
            return Some(());
        }
        self.credit = self.received + behaviour.credit_window;
        let hub_send_ns = self.shared.time.true_ns();
        let tag = STAMPS.tag(&self.shared.device, HUB_EPOCH, 0, 0, 0, hub_send_ns);
        let ack = Ack {
            durable,
            safe: [0; 2],
            credit: self.credit,
            hub_epoch: HUB_EPOCH,
            hub_send_ns,
            tag,
        };
        self.send(&wire::message(MessageType::Ack, channel, &ack.to_bytes()))
    }
}

fn tell_time(shared: &HubShared, socket: &UdpSocket) {
    let mut packet = [0; 128];
    while !shared.over.load(Ordering::SeqCst) {
        let Ok((count, from)) = socket.recv_from(&mut packet) else {
            continue;
        };
        let hub_recv_ns = shared.time.true_ns();
        if shared.behaviour.lock().unwrap().deaf_udp {
            continue;
        }
        if let Some(reply) = answer(shared, &packet[..count], hub_recv_ns) {
            let _lost = socket.send_to(&reply, from);
        }
    }
}

fn answer(shared: &HubShared, packet: &[u8], hub_recv_ns: i64) -> Option<Vec<u8>> {
    let request = TimePacket::parse(packet, &KEY)?;
    let hub_send_ns = shared.time.true_ns();
    let tag = STAMPS.tag(
        &shared.device,
        HUB_EPOCH,
        request.nonce,
        request.dev_send_ns,
        hub_recv_ns,
        hub_send_ns,
    );
    let reply = TimePacket {
        direction: Direction::Reply,
        hub_epoch: HUB_EPOCH,
        hub_recv_ns,
        hub_send_ns,
        tag,
        ..request
    };
    (request.direction == Direction::Request).then(|| reply.to_bytes(&KEY).to_vec())
}

fn value(column: &Column<'_>, kind: FieldType, row: usize) -> Value {
    match (column, kind) {
        (Column::Variable { .. }, _) => {
            Value::Text(String::from_utf8(column.cell(row).unwrap().to_vec()).unwrap())
        }
        (Column::Fixed(bytes), FieldType::I16) => {
            Value::I64(i16::from_le_bytes(bytes[2 * row..2 * row + 2].try_into().unwrap()).into())
        }
        (Column::Fixed(bytes), FieldType::F32) => Value::F32(f32::from_le_bytes(
            bytes[4 * row..4 * row + 4].try_into().unwrap(),
        )),
        (Column::Fixed(bytes), FieldType::F64) => Value::F64(f64::from_le_bytes(
            bytes[8 * row..8 * row + 8].try_into().unwrap(),
        )),
        (_, kind) => panic!("no test has {kind:?}"),
    }
}

/// Writes a bundle for `device` into a folder; returns what the hub needs.
fn make_bundle(folder: &Path, device: &str, tcp: SocketAddr, udp_port: u16) -> Arc<ServerConfig> {
    let authority_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&authority_key).unwrap();
    let issuer = Issuer::from_params(&params, &authority_key);
    let hub_key = KeyPair::generate().unwrap();
    let hub = CertificateParams::new(vec![HUB_NAME.to_owned()])
        .unwrap()
        .signed_by(&hub_key, &issuer)
        .unwrap();
    let device_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names = vec![SanType::URI(
        format!("urn:marey:device:{device}").try_into().unwrap(),
    )];
    let certificate = params.signed_by(&device_key, &issuer).unwrap();
    let write = |name: &str, text: String| std::fs::write(PathBuf::from(folder).join(name), text).unwrap();
    write("key.pem", device_key.serialize_pem());
    write("cert.pem", certificate.pem());
    write("ca.pem", authority.pem());
    let hub_json = serde_json::json!({
        "v": 1, "device": device, "addresses": [tcp.to_string()], "hub_name": HUB_NAME, "udp_port": udp_port,
    });
    write("hub.json", hub_json.to_string());
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .unwrap();
    let key = PrivateKeyDer::from_pem_slice(hub_key.serialize_pem().as_bytes()).unwrap();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![CertificateDer::from(hub.der().to_vec())], key)
        .unwrap();
    config.alpn_protocols = vec![wire::ALPN.to_vec()];
    Arc::new(config)
}
