//! The prober against a time service made by hand.

use marey_format::DeviceId;
use marey_format::clock::StampKey;
use marey_format::types::{KeyId, hex};

use super::*;
use crate::clock::OsClock;

const KEY: PacketKey = PacketKey([3; 32]);

fn answer(request: &[u8]) -> Vec<u8> {
    let request = TimePacket::parse(request, &KEY).unwrap();
    let tag = StampKey([4; 32]).tag(
        &DeviceId::new("belt").unwrap(),
        HubEpoch(9),
        request.nonce,
        request.dev_send_ns,
        500,
        600,
    );
    let reply = TimePacket {
        direction: Direction::Reply,
        hub_epoch: HubEpoch(9),
        hub_recv_ns: 500,
        hub_send_ns: 600,
        tag,
        ..request
    };
    reply.to_bytes(&KEY).to_vec()
}

fn connected(server: &UdpSocket) -> Prober {
    let options = ProbeOptions {
        answer_max: Duration::from_millis(50),
        ..ProbeOptions::default()
    };
    let mut prober = Prober::new(options, Entropy::System, Instant::now());
    let address = server.local_addr().unwrap();
    let time = TimeService {
        udp_port: address.port(),
        key_id: KeyId(7),
        key: hex(&KEY.0),
    };
    prober.connected(Some(&time), address, None, Instant::now());
    prober
}

#[test]
fn an_exchange_becomes_a_row_once() {
    let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (clock, mut prober) = (OsClock::new(), connected(&server));
    let now = Instant::now();
    assert_eq!(prober.due(now), Some(ProbeKind::Udp));
    prober.ask_over_udp(&clock, now);
    let mut request = [0; 128];
    let (count, device) = server.recv_from(&mut request).unwrap();
    assert_eq!(count, PACKET_BYTES);
    let reply = answer(&request[..count]);
    server.send_to(&request[..count], device).unwrap();
    server.send_to(&reply[..79], device).unwrap();
    server.send_to(&reply, device).unwrap();
    server.send_to(&reply, device).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    assert!(prober.receive_udp(&clock, now));
    assert_eq!((prober.counts().sent, prober.counts().answered), (1, 1));
    assert!(prober.take_rows(now, false).is_empty());
    let rows = prober.take_rows(now + ROWS_INTERVAL, false);
    assert_eq!(rows.len(), 1);
    assert!(StampKey([4; 32]).verify(&DeviceId::new("belt").unwrap(), &rows[0]));
    assert!(rows[0].dev_recv_ns >= rows[0].dev_send_ns);
    assert_eq!(payload(&rows).len(), ProbeRow::BYTES);
    assert!(prober.take_rows(now, true).is_empty());
}

#[test]
fn silence_over_udp_is_answered_in_band() {
    let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (clock, mut prober) = (OsClock::new(), connected(&server));
    let mut now = Instant::now();
    let mut in_band = None;
    for _ in 0..20 {
        now += Duration::from_millis(60);
        match prober.due(now) {
            Some(ProbeKind::Udp) => prober.ask_over_udp(&clock, now),
            Some(_) => {
                in_band = prober.ask_in_band(&clock, now);
                break;
            }
            None => {}
        }
    }
    let request = in_band.expect("it went in-band");
    assert!(prober.reply(&answer(&request), clock.now_ns(), now));
    assert_eq!(prober.take_rows(now, true)[0].kind, ProbeKind::InBand);
    assert_eq!(prober.counts().answered_in_band, 1);
    // Sooner or later UDP is tried again.
    let later = (0..40).find_map(|step| {
        let at = now + Duration::from_millis(500 * step);
        (prober.due(at) == Some(ProbeKind::Udp)).then_some(at)
    });
    assert!(later.is_some());
}

#[test]
fn the_quickest_acks_are_kept() {
    let mut prober = Prober::new(ProbeOptions::default(), Entropy::System, Instant::now());
    let now = Instant::now();
    for late in [50, 10, 90, 20, 70, 30, 40i64] {
        let ack = Ack {
            durable: [0; 2],
            safe: [0; 2],
            credit: 0,
            hub_epoch: HubEpoch(1),
            hub_send_ns: 1_000,
            tag: [0; 8],
        };
        prober.ack(&ack, 1_000 + late, now);
    }
    let rows = prober.take_rows(now + ROWS_INTERVAL, false);
    assert_eq!(
        rows.iter().map(|row| row.dev_recv_ns - 1_000).collect::<Vec<_>>(),
        [10, 20, 30, 40]
    );
}
