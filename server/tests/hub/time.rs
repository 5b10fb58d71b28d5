//! The time service over UDP and in-band.

use std::net::UdpSocket;
use std::time::Duration;

use marey_format::clock::{Direction, TimePacket};
use marey_format::wire::{self, MessageType};

use crate::device::{Device, Down, PATIENCE};
use crate::lab::{Lab, key_of, probe};

#[test]
fn probes_are_answered_over_udp_and_in_band() {
    let lab = Lab::new();
    let bundle = lab.enroll("phone");
    let (mut device, welcome) = Device::attach(&bundle, lab.address());
    let (key_id, key, port) = key_of(&welcome);
    assert_eq!(port, lab.hub.bound().time.port());
    let socket = UdpSocket::bind("127.0.0.1:0").expect("bound");
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
    socket
        .send_to(&probe(key_id, 1).to_bytes(&key), lab.hub.bound().time)
        .expect("sent");
    let mut buffer = [0; 200];
    let bytes = socket.recv(&mut buffer).expect("a reply");
    let reply = TimePacket::parse(&buffer[..bytes], &key).expect("under our key");
    assert_eq!(
        (reply.direction, reply.nonce, reply.dev_send_ns),
        (Direction::Reply, 1, 5)
    );
    assert!(reply.hub_recv_ns <= reply.hub_send_ns && reply.hub_epoch == welcome.hub_epoch);

    device.send(&wire::message(
        MessageType::Probe,
        0,
        &probe(key_id, 2).to_bytes(&key),
    ));
    let body = device.until(|m| match m {
        Down::ProbeReply(body) => Some(body.clone()),
        _ => None,
    });
    let in_band = TimePacket::parse(&body, &key).expect("under our key");
    assert_eq!(in_band.nonce, 2);
    assert!(in_band.hub_recv_ns > reply.hub_send_ns);

    device.send(&wire::message(MessageType::Bye, 0, b"{}"));
    assert_eq!(device.last_words(), None);
    socket
        .set_read_timeout(Some(Duration::from_millis(200)))
        .expect("a socket");
    socket
        .send_to(&probe(key_id, 3).to_bytes(&key), lab.hub.bound().time)
        .expect("sent");
    assert!(
        socket.recv(&mut buffer).is_err(),
        "the key died with its connection"
    );
    lab.hub.shutdown().expect("a good end");
}
