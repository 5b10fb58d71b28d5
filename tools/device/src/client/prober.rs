//! Evidence of the hub's clock: exchanges over UDP, in-band where UDP is not answered, and the arrivals of acks.
//!
//! Owns: when to ask, matching replies, the rows that go to the hub. Does not own: what a row proves (the hub's
//! clock model), the frames that carry them (`capture`).
//!
//! Invariants: `dev_send` is taken right before the packet leaves, `dev_recv` right after it is read, nothing in
//! between; a nonce counts once; what waits is bounded.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use marey_format::HubEpoch;
use marey_format::clock::{Direction, PACKET_BYTES, PacketKey, ProbeKind, ProbeRow, TimePacket};
use marey_format::types::unhex;
use marey_format::wire::{Ack, TimeService};

use super::entropy::Entropy;
use super::options::ProbeOptions;
use super::status::ProbeCounts;
use crate::clock::DeviceClock;

#[derive(Debug)]
pub(super) struct Prober {
    options: ProbeOptions,
    service: Option<Service>,
    waiting: VecDeque<Waiting>,
    rows: VecDeque<ProbeRow>,
    rows_since: Option<Instant>,
    /// The acks of the moment, of which the best are kept.
    acks: Vec<ProbeRow>,
    next_at: Instant,
    next_udp_trial: Instant,
    burst_left: u32,
    udp_unanswered: u32,
    counts: ProbeCounts,
    entropy: Entropy,
}

#[derive(Debug)]
struct Service {
    key_id: u64,
    key: PacketKey,
    udp: Option<UdpSocket>,
}

#[derive(Debug)]
struct Waiting {
    nonce: u64,
    dev_send_ns: i64,
    kind: ProbeKind,
    since: Instant,
}

impl Prober {
    pub(super) fn new(options: ProbeOptions, entropy: Entropy, now: Instant) -> Self {
        Self {
            entropy,
            options,
            service: None,
            waiting: VecDeque::new(),
            rows: VecDeque::new(),
            rows_since: None,
            acks: Vec::new(),
            next_at: now,
            next_udp_trial: now,
            burst_left: 0,
            udp_unanswered: 0,
            counts: ProbeCounts::default(),
        }
    }

    /// The hub said where and with which key to ask.
    pub(super) fn connected(
        &mut self,
        time: Option<&TimeService>,
        peer: SocketAddr,
        instead: Option<SocketAddr>,
        now: Instant,
    ) {
        self.disconnected();
        self.udp_unanswered = 0;
        self.service = time.and_then(|time| {
            let key = PacketKey(unhex(&time.key)?);
            let port = Some(time.udp_port).filter(|port| *port != 0);
            let address = instead.or(port.map(|port| SocketAddr::new(peer.ip(), port)));
            let udp = address.filter(|_| self.options.udp).and_then(|address| {
                let opened = open(address);
                if let Err(error) = &opened {
                    tracing::info!(%error, "no UDP socket; the time is asked for in-band");
                }
                opened.ok()
            });
            Some(Service {
                key_id: time.key_id.0,
                key,
                udp,
            })
        });
        self.ask_soon(now);
    }

    /// The key died with the connection.
    pub(super) fn disconnected(&mut self) {
        self.service = None;
        self.waiting.clear();
    }

    /// A burst from now on.
    pub(super) fn ask_soon(&mut self, now: Instant) {
        self.burst_left = self.options.burst;
        self.next_at = now;
    }

    pub(super) fn udp(&self) -> Option<&UdpSocket> {
        self.service.as_ref()?.udp.as_ref()
    }

    pub(super) fn can_ask_in_band(&self) -> bool {
        self.service.is_some()
    }

    pub(super) fn counts(&self) -> ProbeCounts {
        self.counts
    }

    /// How to ask now, if it is time.
    pub(super) fn due(&mut self, now: Instant) -> Option<ProbeKind> {
        let service = self.service.as_ref()?;
        let has_udp = service.udp.is_some();
        self.forget_unanswered(now);
        if now < self.next_at {
            return None;
        }
        self.burst_left = self.burst_left.saturating_sub(1);
        let wait = if self.burst_left > 0 {
            self.options.burst_interval
        } else {
            self.options.interval
        };
        self.next_at = now + wait;
        let is_answered = self.udp_unanswered < UDP_UNANSWERED_MAX;
        if has_udp && (is_answered || now >= self.next_udp_trial) {
            self.next_udp_trial = now + UDP_TRIAL_INTERVAL;
            return Some(ProbeKind::Udp);
        }
        Some(ProbeKind::InBand)
    }

    /// When something is due next.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let rows = self.rows_since.map(|since| since + ROWS_INTERVAL);
        let probe = self.service.as_ref().map(|_| self.next_at);
        rows.into_iter().chain(probe).min()
    }

    /// Sends a request over UDP. What can't be sent counts as lost.
    pub(super) fn ask_over_udp(&mut self, clock: &dyn DeviceClock, now: Instant) {
        let nonce = self.entropy.nonce();
        let Some(Service {
            key_id,
            key,
            udp: Some(udp),
        }) = &self.service
        else {
            return;
        };
        let dev_send_ns = clock.now_ns();
        let request = request(*key_id, nonce, dev_send_ns).to_bytes(key);
        let _lost = udp.send(&request);
        self.wait_for(nonce, dev_send_ns, ProbeKind::Udp, now);
    }

    /// A request to be sent in-band at once, stamped now.
    pub(super) fn ask_in_band(
        &mut self,
        clock: &dyn DeviceClock,
        now: Instant,
    ) -> Option<[u8; PACKET_BYTES]> {
        let nonce = self.entropy.nonce();
        let service = self.service.as_ref()?;
        let dev_send_ns = clock.now_ns();
        let request = request(service.key_id, nonce, dev_send_ns).to_bytes(&service.key);
        self.wait_for(nonce, dev_send_ns, ProbeKind::InBand, now);
        Some(request)
    }

    /// Takes in all replies that have arrived over UDP; true if there was one.
    pub(super) fn receive_udp(&mut self, clock: &dyn DeviceClock, now: Instant) -> bool {
        let mut heard = false;
        for _ in 0..REPLIES_MAX {
            let mut packet = [0; PACKET_BYTES + 1];
            let Some(received) = self.udp().map(|udp| udp.recv(&mut packet)) else {
                break;
            };
            match received {
                Ok(count) => {
                    let dev_recv_ns = clock.now_ns();
                    heard |= self.reply(&packet[..count], dev_recv_ns, now);
                }
                // An ICMP "port unreachable" comes as an error of the next call: go on.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(_) => break,
            }
        }
        heard
    }

    /// Takes in one reply, over UDP or in-band; false if it is none that is waited for.
    pub(super) fn reply(&mut self, packet: &[u8], dev_recv_ns: i64, now: Instant) -> bool {
        let Some(service) = &self.service else {
            return false;
        };
        let Some(reply) = TimePacket::parse(packet, &service.key) else {
            return false;
        };
        let place = self
            .waiting
            .iter()
            .position(|waiting| waiting.nonce == reply.nonce);
        let (Direction::Reply, Some(place)) = (reply.direction, place) else {
            return false;
        };
        let waiting = self.waiting.remove(place).expect("its place was found");
        if waiting.dev_send_ns != reply.dev_send_ns {
            return false;
        }
        self.counts.answered += 1;
        match waiting.kind {
            ProbeKind::InBand => self.counts.answered_in_band += 1,
            _ => self.udp_unanswered = 0,
        }
        let round_trip_ns = (dev_recv_ns - waiting.dev_send_ns) - (reply.hub_send_ns - reply.hub_recv_ns);
        let least = self
            .counts
            .least_round_trip_ns
            .map_or(round_trip_ns, |least_ns| least_ns.min(round_trip_ns));
        self.counts.least_round_trip_ns = Some(least);
        let row = ProbeRow {
            kind: waiting.kind,
            hub_epoch: reply.hub_epoch,
            nonce: reply.nonce,
            dev_send_ns: waiting.dev_send_ns,
            hub_recv_ns: reply.hub_recv_ns,
            hub_send_ns: reply.hub_send_ns,
            dev_recv_ns,
            tag: reply.tag,
        };
        self.keep(row, now);
        true
    }

    /// An ack's departure and arrival bound the clock from below: the quickest few of each second are kept.
    pub(super) fn ack(&mut self, ack: &Ack, dev_recv_ns: i64, now: Instant) {
        self.acks.push(ProbeRow {
            kind: ProbeKind::Ack,
            hub_epoch: ack.hub_epoch,
            nonce: 0,
            dev_send_ns: 0,
            hub_recv_ns: 0,
            hub_send_ns: ack.hub_send_ns,
            dev_recv_ns,
            tag: ack.tag,
        });
        if self.acks.len() > ACKS_KEPT {
            let slowest = (0..self.acks.len()).max_by_key(|at| {
                let row = &self.acks[*at];
                row.dev_recv_ns.saturating_sub(row.hub_send_ns)
            });
            self.acks.swap_remove(slowest.expect("there is more than one"));
        }
        self.rows_since.get_or_insert(now);
    }

    /// The rows that are due for a frame: all of them, once they have waited long enough or `at_once`.
    pub(super) fn take_rows(&mut self, now: Instant, at_once: bool) -> Vec<ProbeRow> {
        let is_due = self.rows.len() >= ROWS_MAX
            || self
                .rows_since
                .is_some_and(|since| now.saturating_duration_since(since) >= ROWS_INTERVAL);
        if !(is_due || at_once) {
            return Vec::new();
        }
        self.rows_since = None;
        self.acks.sort_by_key(|row| row.dev_recv_ns);
        self.rows.drain(..).chain(self.acks.drain(..)).collect()
    }

    /// Without a session to tell the rows to, only the newest are kept.
    pub(super) fn hold_rows(&mut self, now: Instant) {
        if self.rows_since.is_some() {
            self.rows_since = Some(now);
        }
        self.acks.clear();
    }

    fn wait_for(&mut self, nonce: u64, dev_send_ns: i64, kind: ProbeKind, now: Instant) {
        self.counts.sent += 1;
        if self.waiting.len() >= WAITING_MAX {
            self.waiting.pop_front();
        }
        self.waiting.push_back(Waiting {
            nonce,
            dev_send_ns,
            kind,
            since: now,
        });
    }

    fn forget_unanswered(&mut self, now: Instant) {
        while let Some(oldest) = self.waiting.front()
            && now.saturating_duration_since(oldest.since) >= self.options.answer_max
        {
            self.udp_unanswered += u32::from(oldest.kind == ProbeKind::Udp);
            self.waiting.pop_front();
        }
    }

    fn keep(&mut self, row: ProbeRow, now: Instant) {
        if self.rows.len() >= ROWS_HELD_MAX {
            self.rows.pop_front();
        }
        self.rows.push_back(row);
        self.rows_since.get_or_insert(now);
    }
}

/// The payload of a probes frame.
pub(super) fn payload(rows: &[ProbeRow]) -> Vec<u8> {
    let mut payload = Vec::with_capacity(rows.len() * ProbeRow::BYTES);
    rows.iter().for_each(|row| row.put(&mut payload));
    payload
}

fn request(key_id: u64, nonce: u64, dev_send_ns: i64) -> TimePacket {
    TimePacket {
        direction: Direction::Request,
        key_id,
        nonce,
        dev_send_ns,
        hub_epoch: HubEpoch(0),
        hub_recv_ns: 0,
        hub_send_ns: 0,
        tag: [0; 8],
    }
}

fn open(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = match address {
        SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?,
        SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?,
    };
    socket.connect(address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

const WAITING_MAX: usize = 64;
const REPLIES_MAX: usize = 64;
const UDP_UNANSWERED_MAX: u32 = 3;
/// In-band, UDP is tried again so often.
const UDP_TRIAL_INTERVAL: Duration = Duration::from_secs(5);
const ROWS_INTERVAL: Duration = Duration::from_secs(1);
const ROWS_MAX: usize = 32;
const ROWS_HELD_MAX: usize = 256;
const ACKS_KEPT: usize = 4;

#[cfg(test)]
#[path = "prober_tests.rs"]
mod tests;
