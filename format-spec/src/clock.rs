#![doc = include_str!("../clock.md")]

use crate::layout::{Fields, Put};
use crate::types::{DeviceId, HubEpoch};
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// Bytes of a time packet, request and reply alike.
pub const PACKET_BYTES: usize = 80;

/// What a time packet begins with.
pub const PACKET_MAGIC: [u8; 4] = *b"MTP1";

/// A request for the hub's time, or the reply to one: the same 80 bytes over UDP and in-band.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimePacket {
    pub direction: Direction,
    /// Which key the packet is authenticated with; dies with the connection.
    pub key_id: u64,
    /// Chosen by the device; an answer counts once.
    pub nonce: u64,
    pub dev_send_ns: i64,
    /// 0 in a request.
    pub hub_epoch: HubEpoch,
    pub hub_recv_ns: i64,
    pub hub_send_ns: i64,
    /// The hub's own tag over its stamps, see [`StampKey`]; 0 in a request.
    pub tag: [u8; 8],
}

/// Which way a packet goes, so that a reply can't be played back as a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Direction {
    Request = 1,
    Reply = 2,
}

/// The key of one connection, handed out over TLS.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PacketKey(pub [u8; 32]);

/// The hub's own key, never handed out: it tags stamps, so that no device can report a stamp that the hub never gave.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct StampKey(pub [u8; 32]);

macro_rules! secret {
    ($type:ident) => {
        impl std::fmt::Debug for $type {
            fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                to.write_str(concat!(stringify!($type), "(..)"))
            }
        }
    };
}
secret!(PacketKey);
secret!(StampKey);

fn hmac(key: &[u8; 32], bytes: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(bytes);
    mac.finalize().into_bytes().into()
}

/// Compares in a time that does not depend on where they differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

impl TimePacket {
    /// The packet with its HMAC-SHA-256 under `key`, cut to 16 bytes.
    pub fn to_bytes(self, key: &PacketKey) -> [u8; PACKET_BYTES] {
        let mut to = Vec::with_capacity(PACKET_BYTES);
        to.put(&PACKET_MAGIC)
            .u8(self.direction as u8)
            .put(&[0; 3])
            .u64(self.key_id)
            .u64(self.nonce);
        to.i64(self.dev_send_ns)
            .u64(self.hub_epoch.0)
            .i64(self.hub_recv_ns)
            .i64(self.hub_send_ns)
            .put(&self.tag);
        let mac = hmac(&key.0, &to);
        to.put(&mac[..16]);
        to.try_into().expect("the fields add up to PACKET_BYTES")
    }

    /// The key id of what may be a packet: all that is looked at before the key is known.
    pub fn key_id(bytes: &[u8]) -> Option<u64> {
        let mut from = Fields(bytes);
        (bytes.len() == PACKET_BYTES && from.array()? == PACKET_MAGIC).then_some(())?;
        from.bytes(4)?;
        from.u64()
    }

    /// The packet, if its form and its authentication hold.
    pub fn parse(bytes: &[u8], key: &PacketKey) -> Option<Self> {
        let body = bytes.get(..PACKET_BYTES - 16)?;
        if bytes.len() != PACKET_BYTES || !same(&hmac(&key.0, body)[..16], &bytes[PACKET_BYTES - 16..]) {
            return None;
        }
        let mut from = Fields(body);
        (from.array()? == PACKET_MAGIC).then_some(())?;
        let direction = match from.u8()? {
            1 => Direction::Request,
            2 => Direction::Reply,
            _ => return None,
        };
        from.bytes(3)?;
        Some(Self {
            direction,
            key_id: from.u64()?,
            nonce: from.u64()?,
            dev_send_ns: from.i64()?,
            hub_epoch: HubEpoch(from.u64()?),
            hub_recv_ns: from.i64()?,
            hub_send_ns: from.i64()?,
            tag: from.array()?,
        })
    }
}

/// One row of a probes frame: what the device learnt about the hub's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeRow {
    pub kind: ProbeKind,
    pub hub_epoch: HubEpoch,
    /// Exchange: the request's. Ack: 0.
    pub nonce: u64,
    /// Exchange: right before the request was sent. Ack: 0.
    pub dev_send_ns: i64,
    /// Exchange: when the request reached the hub. Ack: 0.
    pub hub_recv_ns: i64,
    /// When the reply, or the ack, left the hub.
    pub hub_send_ns: i64,
    /// When it reached the device.
    pub dev_recv_ns: i64,
    /// The hub's tag over its stamps.
    pub tag: [u8; 8],
}

/// Where a row comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ProbeKind {
    /// A whole exchange over UDP.
    Udp = 1,
    /// A whole exchange inside the TLS connection.
    InBand = 2,
    /// An ack's departure and arrival: a lower bound alone.
    Ack = 3,
    /// What somebody else made of exchanges that are not kept: hub time `hub_recv` at device time `dev_send`. `nonce` is
    /// the most in nanoseconds that it may be off, 0 if nobody knows; the other two stamps and the tag are 0. Only
    /// imports write it: no device may send what the hub never gave.
    Told = 4,
}

impl ProbeRow {
    pub const BYTES: usize = 64;

    pub fn put(&self, to: &mut Vec<u8>) {
        to.u8(self.kind as u8)
            .put(&[0; 7])
            .u64(self.hub_epoch.0)
            .u64(self.nonce);
        to.i64(self.dev_send_ns)
            .i64(self.hub_recv_ns)
            .i64(self.hub_send_ns)
            .i64(self.dev_recv_ns)
            .put(&self.tag);
    }

    /// The rows of a probes payload, those of an unknown kind left out; none if it does not divide into rows.
    pub fn rows(payload: &[u8]) -> Option<impl Iterator<Item = Self> + '_> {
        payload
            .len()
            .is_multiple_of(Self::BYTES)
            .then(|| payload.chunks_exact(Self::BYTES).filter_map(Self::row))
    }

    fn row(row: &[u8]) -> Option<Self> {
        let mut from = Fields(row);
        let kind = match from.u8()? {
            1 => ProbeKind::Udp,
            2 => ProbeKind::InBand,
            3 => ProbeKind::Ack,
            4 => ProbeKind::Told,
            _ => return None,
        };
        from.bytes(7)?;
        Some(Self {
            kind,
            hub_epoch: HubEpoch(from.u64()?),
            nonce: from.u64()?,
            dev_send_ns: from.i64()?,
            hub_recv_ns: from.i64()?,
            hub_send_ns: from.i64()?,
            dev_recv_ns: from.i64()?,
            tag: from.array()?,
        })
    }
}

impl StampKey {
    /// The tag over the stamps that the hub gave `device`. An ack's has nonce, `dev_send` and `hub_recv` 0.
    pub fn tag(
        &self,
        device: &DeviceId,
        hub_epoch: HubEpoch,
        nonce: u64,
        dev_send_ns: i64,
        hub_recv_ns: i64,
        hub_send_ns: i64,
    ) -> [u8; 8] {
        let mut bytes = device.as_str().as_bytes().to_vec();
        bytes
            .u8(0)
            .u64(hub_epoch.0)
            .u64(nonce)
            .i64(dev_send_ns)
            .i64(hub_recv_ns)
            .i64(hub_send_ns);
        let mac = hmac(&self.0, &bytes);
        let mut tag = [0; 8];
        tag.copy_from_slice(&mac[..8]);
        tag
    }

    /// Whether a row's stamps are ones that this hub gave this device.
    pub fn verify(&self, device: &DeviceId, row: &ProbeRow) -> bool {
        let tag = self.tag(
            device,
            row.hub_epoch,
            row.nonce,
            row.dev_send_ns,
            row.hub_recv_ns,
            row.hub_send_ns,
        );
        same(&tag, &row.tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet() -> TimePacket {
        TimePacket {
            direction: Direction::Request,
            key_id: 1,
            nonce: 2,
            dev_send_ns: -3,
            hub_epoch: HubEpoch(4),
            hub_recv_ns: 5,
            hub_send_ns: 6,
            tag: [7; 8],
        }
    }

    #[test]
    fn a_packet_passes_with_its_key_alone() {
        let key = PacketKey([9; 32]);
        let bytes = packet().to_bytes(&key);
        assert_eq!(TimePacket::key_id(&bytes), Some(1));
        assert_eq!(TimePacket::parse(&bytes, &key), Some(packet()));
        assert_eq!(TimePacket::parse(&bytes, &PacketKey([8; 32])), None);
        for bit in 0..PACKET_BYTES * 8 {
            let mut broken = bytes;
            broken[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(TimePacket::parse(&broken, &key), None, "bit {bit}");
        }
        assert_eq!(TimePacket::parse(&bytes[1..], &key), None);
    }

    #[test]
    fn a_stamp_that_the_hub_never_gave_is_found() {
        let key = StampKey([3; 32]);
        let device = DeviceId::new("watch").unwrap();
        let mut row = ProbeRow {
            kind: ProbeKind::Udp,
            hub_epoch: HubEpoch(1),
            nonce: 2,
            dev_send_ns: 3,
            hub_recv_ns: 4,
            hub_send_ns: 5,
            dev_recv_ns: 6,
            tag: key.tag(&device, HubEpoch(1), 2, 3, 4, 5),
        };
        assert!(key.verify(&device, &row));
        assert!(!key.verify(&DeviceId::new("phone").unwrap(), &row));
        row.hub_send_ns += 1;
        assert!(!key.verify(&device, &row));
        let mut bytes = Vec::new();
        row.put(&mut bytes);
        assert_eq!(bytes.len(), ProbeRow::BYTES);
        assert_eq!(ProbeRow::rows(&bytes).unwrap().next(), Some(row));
    }
}
