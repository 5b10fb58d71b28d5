//! Time: packets over UDP, and the evidence that clocks are aligned by.

use super::fixture::{UTC_NS, device};
use super::vectors::vectors;
use marey_engine::clock::{self, ClockEvidence, DeviceEvidence, Row, SessionEvidence, WallReading};
use marey_engine::time::HubInstant;
use marey_engine::time::simulated::SimulatedKernel;
use marey_format::HubEpoch;
use marey_format::clock::{Direction, PACKET_BYTES, PacketKey, ProbeKind, ProbeRow, StampKey, TimePacket};
use marey_server::time_service::{TimeKey, TimeKeys};
use std::sync::{Arc, OnceLock};

/// A datagram: answered if it is a request under a live key, with no more bytes than it had; nothing else is.
pub fn time_packet(bytes: &[u8]) {
    static KEYS: OnceLock<(Arc<TimeKeys>, TimeKey)> = OnceLock::new();
    let (keys, key) = KEYS.get_or_init(|| {
        let stamp_key = Arc::new(StampKey([9; 32]));
        let keys = TimeKeys::new(stamp_key, SimulatedKernel::new(7, UTC_NS).hub_clock());
        let key = keys.issue(device()).expect("the system has random bytes");
        (keys, key)
    });
    let hub_recv = HubInstant {
        epoch: HubEpoch(7),
        ns: 5,
    };
    assert!(
        keys.answer(bytes, hub_recv).is_none(),
        "nobody here knows the key"
    );
    let known = PacketKey([9; 32]);
    if let Some(packet) = TimePacket::parse(bytes, &known) {
        // Its three reserved bytes are not read.
        assert_eq!(TimePacket::parse(&packet.to_bytes(&known), &known), Some(packet));
    }
    let Some(packet) = packet(bytes, key.id.0) else {
        return;
    };
    let mut signed = packet.to_bytes(&key.key);
    let answer = keys.answer(&signed, hub_recv);
    assert_eq!(answer.is_some(), packet.direction == Direction::Request);
    if let Some(answer) = answer {
        let reply = TimePacket::parse(&answer, &key.key).expect("it is under the same key");
        assert_eq!(
            (reply.nonce, reply.dev_send_ns),
            (packet.nonce, packet.dev_send_ns)
        );
        let row = ProbeRow {
            kind: ProbeKind::Udp,
            hub_epoch: reply.hub_epoch,
            nonce: reply.nonce,
            dev_send_ns: reply.dev_send_ns,
            hub_recv_ns: reply.hub_recv_ns,
            hub_send_ns: reply.hub_send_ns,
            dev_recv_ns: reply.hub_send_ns,
            tag: reply.tag,
        };
        assert!(StampKey([9; 32]).verify(&device(), &row));
        assert!(!StampKey([8; 32]).verify(&device(), &row));
    }
    // Another bit of it, and it is nobody's.
    let bit = usize::from(bytes[0]) * 3 % (PACKET_BYTES * 8);
    signed[bit / 8] ^= 1 << (bit % 8);
    assert!(keys.answer(&signed, hub_recv).is_none());
}

/// A packet of these fields.
fn packet(bytes: &[u8], key_id: u64) -> Option<TimePacket> {
    let word = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    Some(TimePacket {
        direction: if bytes.get(4)? & 1 == 1 {
            Direction::Request
        } else {
            Direction::Reply
        },
        key_id,
        nonce: word(16)?,
        dev_send_ns: word(24)?.cast_signed(),
        hub_epoch: HubEpoch(word(32)?),
        hub_recv_ns: word(40)?.cast_signed(),
        hub_send_ns: word(48)?.cast_signed(),
        tag: word(56)?.to_le_bytes(),
    })
}

/// Evidence of any stamps: the model always gives a result, and time never runs backwards within a segment.
pub fn clock_evidence(bytes: &[u8]) {
    let evidence = evidence(&bytes[..bytes.len().min(EVIDENCE_BYTES_MAX)]);
    let alignment = clock::align(&evidence, &clock::Options::default());
    for (_, map) in alignment.clocks() {
        for pair in map.rows().windows(2) {
            if pair[0].segment == pair[1].segment && pair[0].device_time_ns <= pair[1].device_time_ns {
                assert!(pair[0].session_ns <= pair[1].session_ns, "{pair:?}");
            }
        }
        for dev_ns in [0, 1, -1, i64::MAX / 4, i64::MIN / 4] {
            let (low, high) = map.interval(dev_ns);
            assert!(low <= high, "an empty interval at {dev_ns}");
            assert!(!map.at(dev_ns).half_width_ns.is_nan());
        }
    }
}

/// A hundred rows say as much as a thousand, and are faster.
const EVIDENCE_BYTES_MAX: usize = 33 * 128;

/// Rows of 33 bytes: what kind, and four stamps; the kind's upper bits choose device, hub epoch and how near the stamps
/// lie to each other.
fn evidence(bytes: &[u8]) -> SessionEvidence {
    let mut devices = vec![DeviceEvidence::default(); 2];
    for (at, device) in devices.iter_mut().enumerate() {
        device.device = format!("device-{at}");
        device.clocks = vec![ClockEvidence {
            key: [at as u8; 16],
            epochs: vec![0],
            rows: Vec::new(),
        }];
    }
    for row in bytes.chunks_exact(33) {
        let kind = row[0];
        let near = if kind & 0x10 != 0 { 24 } else { 0 };
        let stamp = |i: usize| {
            let raw = i64::from_le_bytes(
                row[1 + 8 * i..9 + 8 * i]
                    .try_into()
                    .expect("eight bytes were cut"),
            );
            raw >> near
        };
        let hub_epoch = u64::from(kind >> 6);
        let (dev_send, hub_recv, hub_send, dev_recv) = (stamp(0), stamp(1), stamp(2), stamp(3));
        devices[usize::from(kind >> 5 & 1)].clocks[0]
            .rows
            .push(match kind % 3 {
                0 => Row::Exchange {
                    hub_epoch,
                    dev_send,
                    hub_recv,
                    hub_send,
                    dev_recv,
                },
                1 => Row::Up {
                    hub_epoch,
                    dev_send,
                    hub_recv,
                },
                _ => Row::Down {
                    hub_epoch,
                    hub_send,
                    dev_recv,
                },
            });
    }
    let anchor = WallReading {
        hub_epoch: 0,
        hub_ns: 0,
        utc_ns: UTC_NS,
        error_ns: 1_000_000,
    };
    SessionEvidence {
        anchor,
        hub_epochs: vec![0],
        walls: Vec::new(),
        devices,
    }
}

pub fn packet_seeds() -> Vec<Vec<u8>> {
    vectors(&["clock"], "bin")
}

pub fn evidence_seeds() -> Vec<Vec<u8>> {
    // Exchanges half a second apart on a clock that is 20 ppm fast; alone, of two devices, in two lives of the hub.
    let exchanges = |count: i64, bits: fn(i64) -> u8| {
        let mut bytes = Vec::new();
        for i in 0..count {
            let hub = 500_000_000 * i;
            let device = hub + hub / 50_000 + 7_000_000_000;
            bytes.push(bits(i));
            for stamp in [device, hub + 3_000_000, hub + 3_100_000, device + 6_000_000] {
                bytes.extend(stamp.to_le_bytes());
            }
        }
        bytes
    };
    vec![
        exchanges(40, |i| (i % 3) as u8),
        exchanges(12, |_| 0),
        exchanges(20, |i| if i % 2 == 0 { 0 } else { 0x20 | 1 }),
        exchanges(24, |i| if i < 12 { 0 } else { 0x42 }),
    ]
}
