//! What strangers try, byte by byte: a TLS that nobody should speak any more, and packets to the time service.

use super::https::Target;
use super::{Checked, wrong};
use marey_format::HubEpoch;
use marey_format::clock::{Direction, PACKET_BYTES, PacketKey, TimePacket};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

/// A client that knows TLS 1.1 at best must not get an answer but an alert or the end.
pub fn old_tls(target: &Target) -> Checked {
    let mut socket = target.dial()?;
    socket.write_all(&hello_1_1())?;
    let mut head = [0; 5];
    match socket.read_exact(&mut head) {
        Ok(()) if head[0] == HANDSHAKE => wrong("the hub went on with the handshake"),
        Ok(()) if head[0] == ALERT => {
            let mut alert = [0; 2];
            socket.read_exact(&mut alert)?;
            Ok(match alert[1] {
                PROTOCOL_VERSION => "alert: protocol version".to_owned(),
                other => format!("alert {other}"),
            })
        }
        Ok(()) => wrong("the hub answered what is no TLS"),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            wrong("the hub said nothing at all")
        }
        Err(_) => Ok("the connection ended".to_owned()),
    }
}

/// A ClientHello of TLS 1.1 (RFC 4346) with ciphers of its time.
fn hello_1_1() -> Vec<u8> {
    let mut body = vec![3, 2];
    body.extend([0x5A; 32]);
    body.push(0);
    // ECDHE_ECDSA and ECDHE_RSA with AES_128_CBC_SHA, RSA with AES_128_CBC_SHA.
    body.extend([0, 6, 0xC0, 0x09, 0xC0, 0x13, 0x00, 0x2F]);
    body.extend([1, 0]);
    // Groups: secp256r1. Point formats: uncompressed.
    body.extend([0, 14, 0, 10, 0, 4, 0, 2, 0, 23, 0, 11, 0, 2, 1, 0]);
    let mut hello = vec![1, 0, 0, u8::try_from(body.len()).unwrap_or(0)];
    hello.extend(body);
    let mut record = vec![HANDSHAKE, 3, 1, 0, u8::try_from(hello.len()).unwrap_or(0)];
    record.extend(hello);
    record
}

/// Packets that nobody may send: noise, a form that is right under a key that nobody has, and too short ones.
pub fn probe(target: &Target, port: u16) -> Checked {
    let at = SocketAddr::new(target.address().ip(), port);
    let here: SocketAddr = match at {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(here)?;
    socket.connect(at)?;
    socket.set_read_timeout(Some(SILENCE))?;
    let drawn = super::device::drawn()?;
    let packet = TimePacket {
        direction: Direction::Request,
        key_id: drawn as u64,
        nonce: (drawn >> 64) as u64,
        dev_send_ns: 1,
        hub_epoch: HubEpoch(0),
        hub_recv_ns: 0,
        hub_send_ns: 0,
        tag: [0; 8],
    };
    let well_formed = packet.to_bytes(&PacketKey([7; 32]));
    for bytes in [&well_formed[..], &well_formed[..40], &[0xA5; PACKET_BYTES], &[0]] {
        socket.send(bytes)?;
    }
    match socket.recv(&mut [0; 2048]) {
        Ok(count) => wrong(format!("{count} bytes came back")),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            Ok(format!("nothing came back within {} s", SILENCE.as_secs()))
        }
        Err(error) => wrong(format!("no time service at {at}: {error}")),
    }
}

const HANDSHAKE: u8 = 22;
const ALERT: u8 = 21;
const PROTOCOL_VERSION: u8 = 70;
const SILENCE: Duration = Duration::from_secs(2);
