//! A hub under attack: what becomes of the acks of those who do nothing wrong.
//!
//! Devices record at a steady pace while others hold half-open handshakes, dribble bytes, connect without a certificate,
//! send control messages that are too long or never end, and flood the time service; at last every place is taken. Before each
//! attack it is quiet for as long, and it is all done in several rounds: what a machine does besides is in both. The hub is a
//! process of its own: its memory and descriptors are what the system says of it.
//!
//! Everything is on loopback and stops by itself.

#![allow(
    clippy::disallowed_methods,
    reason = "attackers live in real time and outside of the hub"
)]

use crate::hub::raw::{Down, Log, RawDevice};
use crate::hub::{device, session};
use crate::process::{HubProcess, Ports, hub_command, init, until};
use marey_format::limits::CONTROL_BYTES_MAX;
use marey_format::wire::{self, MessageType};
use marey_format::{Refusal, RefusalCode};
use marey_server::control::{ControlClient, Request, Response, SessionSpec};
use marey_server::pki::DeviceBundle;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How hard and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// Devices that record.
    pub devices: usize,
    /// Frames a second of each; each is acknowledged before the next.
    pub frames_per_s: u32,
    /// Devices that take the other places at the end.
    pub held: usize,
    /// Sockets that stand in their handshake at once.
    pub half_open: usize,
    /// Connects without a certificate.
    pub strangers: usize,
    /// Packets a second to the time service.
    pub packets_per_s: u32,
    /// How long each attack lasts, and the quiet before it.
    pub lasting: Duration,
    /// How often it is all done.
    pub rounds: usize,
}

/// What happened while one thing was done.
#[derive(Debug, Clone, Default)]
pub struct PhaseReport {
    pub name: &'static str,
    /// What the attackers did, so often.
    pub attacks: u64,
    /// Acks of those who record, in nanoseconds from the send.
    pub acks_ns: Vec<u64>,
    pub rss_max_bytes: u64,
    pub descriptors_max: usize,
}

/// What became of all.
#[derive(Debug)]
pub struct Report {
    pub phases: Vec<PhaseReport>,
    pub frames_sent: u64,
    pub frames_acknowledged: u64,
    /// Samples in the sealed session.
    pub samples: u64,
    /// What the one device too many was told.
    pub refusal: Option<Refusal>,
    /// What a browser too many was told: the first line.
    pub answer: String,
    /// Before, at the end, and bound by the connections that were open at most.
    pub rss_bytes: (u64, u64),
    pub descriptors: (usize, usize),
}

impl PhaseReport {
    /// The ack that so many percent are not later than.
    pub fn percentile_ns(&self, percent: f64) -> u64 {
        let mut sorted = self.acks_ns.clone();
        sorted.sort_unstable();
        let at = (sorted.len() as f64 * percent / 100.0).ceil() as usize;
        sorted
            .get(at.saturating_sub(1).min(sorted.len().saturating_sub(1)))
            .copied()
            .unwrap_or(0)
    }
}

/// Attacks in their order; a phase of quiet comes before each.
const ATTACKS: [&str; 6] = [
    "slow loris",
    "half-open handshakes",
    "strangers",
    "control messages",
    "probe flood",
    "every place taken",
];
const QUIET: &str = "quiet";
/// Nothing is measured between phases.
const BETWEEN: usize = usize::MAX;

struct Field {
    hub: SocketAddr,
    time: SocketAddr,
    asked: Asked,
    hello: Vec<u8>,
    phase: AtomicUsize,
    over: AtomicBool,
    phases: Mutex<Vec<PhaseReport>>,
    pid: u32,
}

/// Makes a hub in `dir` and besieges it.
pub fn besiege(asked: Asked, dir: &Path) -> Report {
    init(dir);
    let mut command = hub_command(dir, Ports::free(), &[]);
    // Those who record, those who hold, and one of the inside.
    let places = asked.devices + asked.held + 1;
    command
        .env("MAREY_LIMITS_CONNECTIONS_MAX", places.to_string())
        .env("MAREY_LIMITS_HANDSHAKE_TIMEOUT_MS", "2000")
        .env("MAREY_LIMITS_HELLO_TIMEOUT_MS", "2000")
        .env("MAREY_DISK_FLOOR_MIN_MIB", "0")
        .env("MAREY_DISK_FLOOR_PERCENT", "0");
    let mut hub = HubProcess::spawn(command, dir);
    assert!(hub.wait_until_up(Duration::from_secs(30)), "{}", hub.stderr());
    let enroll = |name: String| enroll(dir, &name);
    let insider = enroll("insider".to_owned());
    let extra = enroll("extra".to_owned());
    let recorders: Vec<_> = (0..asked.devices).map(|n| enroll(format!("phone{n}"))).collect();
    let holders: Vec<_> = (0..asked.held).map(|n| enroll(format!("idle{n}"))).collect();
    let walk = session("siege");
    let spec = SessionSpec {
        session: walk.clone(),
        devices: Some((0..asked.devices).map(|n| device(&format!("phone{n}"))).collect()),
        metadata: Default::default(),
        max_drift_ppm: None,
        max_time_error_us: None,
        protocol: None,
    };
    ask(
        dir,
        &Request::SessionStart {
            session: walk.clone(),
            create: Some(spec),
        },
    );
    let phase = |name| PhaseReport {
        name,
        ..PhaseReport::default()
    };
    let round = || ATTACKS.iter().flat_map(|attack| [QUIET, attack].map(phase));
    let field = Field {
        hub: hub.devices,
        time: hub.time,
        asked,
        hello: client_hello(&insider),
        phase: AtomicUsize::new(BETWEEN),
        over: AtomicBool::new(false),
        phases: Mutex::new((0..asked.rounds).flat_map(|_| round()).collect()),
        pid: hub.pid(),
    };
    let (mut refusal, mut answer) = (None, String::new());
    let (mut before, mut after) = ((0, 0), (0, 0));
    let (mut sent, mut acknowledged) = (0, 0);
    std::thread::scope(|scope| {
        let field = &field;
        let recording: Vec<_> = recorders
            .iter()
            .enumerate()
            .map(|(nth, bundle)| scope.spawn(move || record(field, nth, bundle)))
            .collect();
        let watching = scope.spawn(|| watch(field));
        std::thread::sleep(Duration::from_millis(500));
        before = (rss_bytes(field.pid), descriptors(field.pid));
        for round in 0..asked.rounds {
            let attack = |nth: usize, attack: &mut dyn FnMut() -> u64| {
                let phase = 2 * (round * ATTACKS.len() + nth);
                // What the attackers before had is given back first.
                settle(field, before.1);
                run(field, phase, || {
                    std::thread::sleep(asked.lasting);
                    0
                });
                run(field, phase + 1, attack);
            };
            attack(0, &mut || slow_loris(field));
            attack(1, &mut || half_open(field));
            attack(2, &mut || strangers(field));
            attack(3, &mut || control_messages(field, &insider));
            attack(4, &mut || probe_flood(field));
            attack(5, &mut || {
                let attached = |bundle| RawDevice::attach(bundle, field.hub);
                let mut held: Vec<_> = holders.iter().map(attached).collect();
                // What it sent last may still be waiting to be read, and its place with it: it comes again, as it is told to.
                let mut again = None;
                until("the insider's own place", Duration::from_secs(30), || {
                    let mut device = RawDevice::dial(&insider, field.hub).ok()?;
                    device
                        .try_send(&wire::message(MessageType::Hello, 0, br#"{"v":1}"#))
                        .ok()?;
                    again = matches!(device.next(), Some(Down::Welcome(_))).then_some(device);
                    again.as_ref().map(|_| ())
                });
                held.extend(again);
                refusal = refused(&extra, field.hub);
                answer = crowded_answer(&extra, field.hub);
                std::thread::sleep(asked.lasting);
                held.len() as u64
            });
        }
        settle(field, before.1);
        after = (rss_bytes(field.pid), descriptors(field.pid));
        field.over.store(true, Ordering::SeqCst);
        for thread in recording {
            let (frames, acks) = thread.join().expect("those who record are not disturbed");
            sent += frames;
            acknowledged += acks;
        }
        watching.join().expect("the watch goes on to the end");
    });
    let stop = Request::SessionStop {
        session: walk.clone(),
        wait: true,
    };
    ask(dir, &stop);
    let Response::SessionShown(view) = ask(dir, &Request::SessionShow { session: walk }) else {
        panic!("another answer")
    };
    assert!(hub.is_running(), "{}", hub.stderr());
    hub.stop();
    Report {
        phases: field.phases.into_inner().expect("nobody panicked under the lock"),
        frames_sent: sent,
        frames_acknowledged: acknowledged,
        samples: view.logs.iter().map(|log| log.samples).sum(),
        refusal,
        answer,
        rss_bytes: (before.0, after.0),
        descriptors: (before.1, after.1),
    }
}

fn run(field: &Field, nth: usize, attack: impl FnOnce() -> u64) {
    field.phase.store(nth, Ordering::SeqCst);
    let attacks = attack();
    field.phase.store(BETWEEN, Ordering::SeqCst);
    field.phases.lock().expect("no panic under the lock")[nth].attacks = attacks;
    std::thread::sleep(Duration::from_millis(300));
}

/// Waits until the hub has closed what was left open.
fn settle(field: &Field, descriptors_before: usize) {
    until("descriptors that are given back", Duration::from_secs(30), || {
        (descriptors(field.pid) <= descriptors_before + 8).then_some(())
    });
}

/// A device that does nothing wrong: frames sent, frames acknowledged.
fn record(field: &Field, nth: usize, bundle: &DeviceBundle) -> (u64, u64) {
    let mut log = Log::new(&device(&format!("phone{nth}")), &session("siege"), 1);
    let mut phone = RawDevice::record(bundle, field.hub, &log);
    phone.send(&log.declare());
    phone.acked([0, 1]);
    let pause = Duration::from_secs(1) / field.asked.frames_per_s;
    let (mut acknowledged, mut next) = (0, Instant::now());
    while !field.over.load(Ordering::SeqCst) {
        let phase = field.phase.load(Ordering::SeqCst);
        let frame = log.data();
        let sent = Instant::now();
        phone.send(&frame);
        phone.acked([log.frames, 1]);
        let took_ns = u64::try_from(sent.elapsed().as_nanos()).unwrap_or(u64::MAX);
        acknowledged += 1;
        if phase != BETWEEN && field.phase.load(Ordering::SeqCst) == phase {
            let mut phases = field.phases.lock().expect("no panic under the lock");
            phases[phase].acks_ns.push(took_ns);
        }
        next += pause;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    phone.send(&log.end());
    phone.acked([log.frames, 2]);
    (log.frames, acknowledged)
}

fn watch(field: &Field) {
    while !field.over.load(Ordering::SeqCst) {
        let phase = field.phase.load(Ordering::SeqCst);
        if phase != BETWEEN {
            let (rss, descriptors) = (rss_bytes(field.pid), descriptors(field.pid));
            let mut phases = field.phases.lock().expect("no panic under the lock");
            let report = &mut phases[phase];
            report.rss_max_bytes = report.rss_max_bytes.max(rss);
            report.descriptors_max = report.descriptors_max.max(descriptors);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A byte now and then, of a hello that never ends.
fn slow_loris(field: &Field) -> u64 {
    let until = Instant::now() + field.asked.lasting;
    let (mut sockets, mut bytes) = (Vec::new(), 0);
    while Instant::now() < until {
        while sockets.len() < field.asked.half_open {
            match TcpStream::connect(field.hub) {
                Ok(socket) => sockets.push((socket, 0)),
                Err(_) => break,
            }
        }
        sockets.retain_mut(|(socket, at)| {
            let byte = [field.hello[*at % field.hello.len()]];
            *at += 1;
            bytes += 1;
            // One before the last: the hello never ends.
            *at + 1 < field.hello.len() && socket.write_all(&byte).is_ok()
        });
        std::thread::sleep(Duration::from_millis(50));
    }
    bytes
}

/// A whole hello, and then nothing.
fn half_open(field: &Field) -> u64 {
    let until = Instant::now() + field.asked.lasting;
    let (mut sockets, mut opened): (Vec<(TcpStream, Instant)>, _) = (Vec::new(), 0);
    while Instant::now() < until {
        while sockets.len() < field.asked.half_open {
            let Ok(mut socket) = TcpStream::connect(field.hub) else {
                break;
            };
            if socket.write_all(&field.hello).is_ok() {
                opened += 1;
                sockets.push((socket, Instant::now()));
            }
        }
        // The hub gives up on them after its own time; so do they, and come again.
        sockets.retain(|(_, since)| since.elapsed() < Duration::from_millis(2_200));
        std::thread::sleep(Duration::from_millis(20));
    }
    opened
}

/// Connects that are nothing, nonsense, or a hello of somebody without a certificate.
fn strangers(field: &Field) -> u64 {
    let began = Instant::now();
    let pace = field.asked.lasting / u32::try_from(field.asked.strangers).unwrap_or(1);
    for nth in 0..field.asked.strangers {
        if let Ok(mut socket) = TcpStream::connect(field.hub) {
            let written = match nth % 4 {
                0 => Ok(()),
                1 => socket.write_all(b"GET / HTTP/1.1\r\n\r\n"),
                2 => socket.write_all(&[0x16, 3, 1, 0xFF, 0xFF, 1, 0, 0, 0]),
                _ => socket.write_all(&field.hello),
            };
            // Closed by the hub already, or by us.
            let _ = written.and_then(|()| socket.shutdown(Shutdown::Write));
        }
        let due = pace * u32::try_from(nth + 1).unwrap_or(u32::MAX);
        std::thread::sleep(due.saturating_sub(began.elapsed()));
    }
    field.asked.strangers as u64
}

/// A device with a valid certificate: messages too long, messages that never end, and messages without end.
fn control_messages(field: &Field, insider: &DeviceBundle) -> u64 {
    let until = Instant::now() + field.asked.lasting;
    let third = field.asked.lasting / 3;
    let mut messages = 0;
    while Instant::now() + 2 * third < until {
        let mut device = RawDevice::attach(insider, field.hub);
        let mut header = wire::message(MessageType::Open, 1, b"");
        let length = u32::try_from(CONTROL_BYTES_MAX + 1).expect("it is small");
        header[4..8].copy_from_slice(&length.to_le_bytes());
        device.send(&header);
        let (_, refusals) = device.last_words();
        assert_eq!(refusals[0].code, RefusalCode::MessageTooLarge);
        messages += 1;
    }
    let mut device = RawDevice::attach(insider, field.hub);
    let mut endless = wire::message(MessageType::Open, 1, b"");
    let length = u32::try_from(CONTROL_BYTES_MAX).expect("it is small");
    endless[4..8].copy_from_slice(&length.to_le_bytes());
    device.send(&endless);
    while Instant::now() + third < until {
        device.send(b"{");
        messages += 1;
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut device = RawDevice::attach(insider, field.hub);
    let beat = format!(
        "{{\"timestamp_ms\":1,\"device_info\":{{\"x\":\"{}\"}}}}",
        "x".repeat(2_000)
    );
    let beat = wire::message(MessageType::Heartbeat, 0, beat.as_bytes());
    while Instant::now() < until {
        device.send(&beat);
        messages += 1;
    }
    messages
}

/// Packets without a key.
fn probe_flood(field: &Field) -> u64 {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let began = Instant::now();
    let mut sent = 0_u64;
    let mut packet = [0x5A_u8; 80];
    while began.elapsed() < field.asked.lasting {
        let due = (began.elapsed().as_secs_f64() * f64::from(field.asked.packets_per_s)) as u64;
        while sent < due {
            packet[8..16].copy_from_slice(&sent.to_le_bytes());
            // A full buffer drops it, as a network would.
            let _ = socket.send_to(&packet, field.time);
            sent += 1;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    socket.set_nonblocking(true).expect("a socket");
    assert!(
        socket.recv(&mut [0; 200]).is_err(),
        "a packet without a key is answered by nothing"
    );
    sent
}

/// What the one device too many is told.
fn refused(bundle: &DeviceBundle, hub: SocketAddr) -> Option<Refusal> {
    let mut device = RawDevice::dial(bundle, hub).ok()?;
    match device.next() {
        Some(Down::Refused(refusal)) => Some(refusal),
        other => panic!("{other:?} instead of a refusal"),
    }
}

/// The first line of what a browser too many is told.
fn crowded_answer(bundle: &DeviceBundle, hub: SocketAddr) -> String {
    let mut config = trusting(bundle);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = ServerName::try_from(bundle.hub.hub_name.clone()).expect("a name");
    let socket = TcpStream::connect(hub).expect("connected");
    socket
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("a socket");
    let connection = ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut tls = rustls::StreamOwned::new(connection, socket);
    let mut text = [0; 512];
    let _ = tls.write_all(b"GET /api/v1/health HTTP/1.1\r\nHost: hub\r\n\r\n");
    let read = tls.read(&mut text).unwrap_or(0);
    let text = String::from_utf8_lossy(&text[..read]);
    text.lines().next().unwrap_or_default().to_owned()
}

/// The first flight of a handshake.
fn client_hello(bundle: &DeviceBundle) -> Vec<u8> {
    let mut config = trusting(bundle);
    config.alpn_protocols = vec![wire::ALPN.to_vec()];
    let name = ServerName::try_from(bundle.hub.hub_name.clone()).expect("a name");
    let mut connection = ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut hello = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut hello).expect("into memory");
    }
    hello
}

/// A client that trusts the hub and has no certificate.
fn trusting(bundle: &DeviceBundle) -> ClientConfig {
    use rustls::pki_types::pem::PemObject;
    let mut roots = RootCertStore::empty();
    let authority = rustls::pki_types::CertificateDer::from_pem_slice(bundle.authority_pem.as_bytes());
    roots.add(authority.expect("PEM")).expect("a root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

fn enroll(dir: &Path, name: &str) -> DeviceBundle {
    let request = Request::DeviceEnroll {
        device: device(name),
        addresses: Vec::new(),
    };
    match ask(dir, &request) {
        Response::Bundle(bundle) => bundle,
        other => panic!("{other:?}"),
    }
}

fn ask(dir: &Path, request: &Request) -> Response {
    let mut client = ControlClient::connect(dir).expect("the hub runs");
    client.call(request, |_| ()).expect("it is done")
}

fn rss_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.expect("the system says so") * 1024
}

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("it runs")
        .count()
}

impl Report {
    /// What must not be, whatever the machine: frames that were not acknowledged, one too many that was let in or told
    /// nothing, memory and descriptors without bound.
    pub fn faults(&self, asked: Asked) -> Vec<String> {
        let mut faults = Vec::new();
        let mut must = |good: bool, what: String| {
            if !good {
                faults.push(what);
            }
        };
        must(
            self.frames_sent > 0 && self.frames_sent == self.frames_acknowledged,
            format!(
                "{} frames were sent, {} acknowledged",
                self.frames_sent, self.frames_acknowledged
            ),
        );
        let samples = self.frames_sent * crate::hub::raw::SAMPLES_PER_FRAME;
        must(
            self.samples == samples,
            format!("{} samples in the record, {samples} were sent", self.samples),
        );
        for phase in &self.phases {
            must(
                !phase.acks_ns.is_empty(),
                format!("{}: nothing was acknowledged while it lasted", phase.name),
            );
        }
        let refusal = self.refusal.as_ref();
        must(
            refusal.is_some_and(|r| r.code == RefusalCode::SlowDown && r.retry_after_ms.is_some()),
            format!("the device too many was told {refusal:?}"),
        );
        must(
            self.answer.starts_with("HTTP/1.1 503"),
            format!("the browser too many was told {:?}", self.answer),
        );
        // Everything that stands there at once, with its buffers, and what the hub takes for itself.
        let connections = asked.devices + asked.held.max(asked.half_open) + 64;
        let bound = self.rss_bytes.0 + 96 * 1024 * connections as u64 + (64 << 20);
        let most = self.phases.iter().map(|phase| phase.rss_max_bytes).max();
        must(
            most.is_some_and(|most| most <= bound),
            format!("{most:?} bytes of memory at most, where {bound} are the bound"),
        );
        let most = self.phases.iter().map(|phase| phase.descriptors_max).max();
        must(
            most.is_some_and(|most| most <= self.descriptors.0 + connections),
            format!("{most:?} descriptors at most, {} before", self.descriptors.0),
        );
        faults
    }

    /// How many times the 99th percentile of the quiet before it an attack's is, round by round from the least.
    pub fn ratios(&self) -> Vec<(&'static str, Vec<f64>)> {
        let of = |attack: &&'static str| {
            let pairs = self.phases.chunks(2).filter(|pair| pair[1].name == *attack);
            let ratio = |pair: &[PhaseReport]| {
                pair[1].percentile_ns(99.0) as f64 / pair[0].percentile_ns(99.0).max(1) as f64
            };
            let mut ratios: Vec<f64> = pairs.map(ratio).collect();
            ratios.sort_by(f64::total_cmp);
            (*attack, ratios)
        };
        ATTACKS.iter().map(of).collect()
    }

    /// For people: all rounds together, and the ratios' median and range.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{:<22} {:>9} {:>7} {:>9} {:>9} {:>9} {:>8} {:>12}  p99 ratio",
            "while", "attacks", "acks", "p50 ms", "p99 ms", "max ms", "MiB", "descriptors"
        );
        let ratios = self.ratios();
        for name in [QUIET].iter().chain(&ATTACKS) {
            let mut all = PhaseReport::default();
            for phase in self.phases.iter().filter(|phase| phase.name == *name) {
                all.attacks += phase.attacks;
                all.acks_ns.extend(&phase.acks_ns);
                all.rss_max_bytes = all.rss_max_bytes.max(phase.rss_max_bytes);
                all.descriptors_max = all.descriptors_max.max(phase.descriptors_max);
            }
            let ms = |percent| all.percentile_ns(percent) as f64 / 1e6;
            let ratios = ratios.iter().find(|(of, _)| of == name);
            let ratio = ratios.map_or_else(String::new, |(_, ratios)| match ratios[..] {
                [least, .., most] => format!("{:.2} ({least:.2} to {most:.2})", median(ratios)),
                _ => format!("{:.2}", median(ratios)),
            });
            text.push_str(&format!(
                "\n{name:<22} {:>9} {:>7} {:>9.3} {:>9.3} {:>9.3} {:>8.1} {:>12}  {ratio}",
                all.attacks,
                all.acks_ns.len(),
                ms(50.0),
                ms(99.0),
                ms(100.0),
                all.rss_max_bytes as f64 / f64::from(1 << 20),
                all.descriptors_max
            ));
        }
        text.push_str(&format!(
            "\n\n{} of {} frames acknowledged; the one too many: {}; a browser: {}; memory {} -> {} KiB, descriptors {} -> {}",
            self.frames_acknowledged,
            self.frames_sent,
            self.refusal.as_ref().map_or("nothing".to_owned(), ToString::to_string),
            self.answer,
            self.rss_bytes.0 / 1024,
            self.rss_bytes.1 / 1024,
            self.descriptors.0,
            self.descriptors.1
        ));
        text
    }
}

/// Of numbers in order; 0 of none.
pub fn median(sorted: &[f64]) -> f64 {
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}
