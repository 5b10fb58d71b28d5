#![doc = include_str!("../wire.md")]

mod certificate;
mod command;
mod heartbeat;

pub use certificate::{Certificate, Csr, Renew};
pub use command::{Command, Done};
pub use heartbeat::{Heartbeat, HeartbeatError};

use crate::layout::{Fields, Put};
use crate::limits;
use crate::registry::{Refusal, RefusalCode};
use crate::types::{BootId, DeviceId, EpochId, HubEpoch, KeyId, SessionId, StreamName};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The ALPN protocol that carries frames.
pub const ALPN: &[u8] = b"marey/1";

/// Bytes of a message's header.
pub const MESSAGE_HEADER_BYTES: usize = 8;

/// The type of a message; from 0x80 on they go from hub to device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum MessageType {
    Hello = 0x01,
    Open = 0x02,
    Heartbeat = 0x03,
    Bye = 0x04,
    Csr = 0x05,
    Done = 0x08,
    Frame = 0x10,
    Sent = 0x11,
    Probe = 0x12,
    Welcome = 0x81,
    Join = 0x82,
    Opened = 0x83,
    Refused = 0x84,
    Stop = 0x85,
    Closed = 0x86,
    Renew = 0x87,
    Command = 0x88,
    Certificate = 0x89,
    Ack = 0x90,
    ProbeReply = 0x91,
}

impl MessageType {
    pub fn from_byte(byte: u8) -> Option<Self> {
        use MessageType::*;
        [
            Hello,
            Open,
            Heartbeat,
            Bye,
            Csr,
            Done,
            Frame,
            Sent,
            Probe,
            Welcome,
            Join,
            Opened,
            Refused,
            Stop,
            Closed,
            Renew,
            Command,
            Certificate,
            Ack,
            ProbeReply,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == byte)
    }

    /// Most bytes that the body of such a message may have.
    pub fn body_bytes_max(self) -> usize {
        match self {
            Self::Frame => limits::FRAME_BYTES_MAX,
            Self::Sent => Sent::BYTES,
            Self::Probe | Self::ProbeReply => crate::clock::PACKET_BYTES,
            Self::Ack => Ack::BYTES,
            _ => limits::CONTROL_BYTES_MAX,
        }
    }
}

/// The header of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageHeader {
    pub kind: MessageType,
    /// The channel, 1 and up; 0 for the connection itself.
    pub channel: u16,
    /// Bytes of the body.
    pub length: u32,
}

impl MessageHeader {
    pub fn to_bytes(self) -> [u8; MESSAGE_HEADER_BYTES] {
        let [c0, c1] = self.channel.to_le_bytes();
        let [l0, l1, l2, l3] = self.length.to_le_bytes();
        [self.kind as u8, 0, c0, c1, l0, l1, l2, l3]
    }

    /// Reads a header and holds its length against the limit of its type.
    ///
    /// # Errors
    /// `malformed` for an unknown type, `frame_too_large` and `message_too_large` for the lengths.
    pub fn parse(bytes: [u8; MESSAGE_HEADER_BYTES]) -> Result<Self, Refusal> {
        let Some(kind) = MessageType::from_byte(bytes[0]) else {
            let message = format!("message type {:#04x} is not one of wire.md", bytes[0]);
            return Err(Refusal::new(RefusalCode::Malformed, message));
        };
        let channel = u16::from_le_bytes([bytes[2], bytes[3]]);
        let length = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        let most = kind.body_bytes_max();
        if length as usize > most {
            let code = match kind {
                MessageType::Frame => RefusalCode::FrameTooLarge,
                _ => RefusalCode::MessageTooLarge,
            };
            let message =
                format!("a {kind:?} message of {length} bytes, over the limit of {most}; send smaller ones");
            return Err(Refusal::new(code, message));
        }
        Ok(Self {
            kind,
            channel,
            length,
        })
    }
}

/// A whole message: header and body.
pub fn message(kind: MessageType, channel: u16, body: &[u8]) -> Vec<u8> {
    let mut to = Vec::with_capacity(MESSAGE_HEADER_BYTES + body.len());
    put_message(&mut to, kind, channel, body);
    to
}

/// Appends a whole message.
pub fn put_message(to: &mut Vec<u8>, kind: MessageType, channel: u16, body: &[u8]) {
    debug_assert!(
        body.len() <= kind.body_bytes_max(),
        "bodies are checked before they are sent"
    );
    to.put(
        &MessageHeader {
            kind,
            channel,
            length: body.len() as u32,
        }
        .to_bytes(),
    )
    .put(body);
}

/// A whole message with a JSON body.
pub fn json_message<T: Serialize>(kind: MessageType, channel: u16, body: &T) -> Vec<u8> {
    let body = serde_json::to_vec(body).expect("control messages have string keys only");
    message(kind, channel, &body)
}

/// The body of a JSON message.
pub fn parse_json<T: DeserializeOwned>(kind: MessageType, body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| {
        Refusal::new(
            RefusalCode::Malformed,
            format!("the {kind:?} message is not of its form: {error}"),
        )
    })
}

/// The first message of a device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// [`crate::version::WIRE`].
    pub v: u32,
    /// Must be the name in the certificate, where it is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceId>,
    /// The device's program, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Whether it takes commands: others are sent none.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub commands: bool,
}

/// The hub's answer to a hello.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Welcome {
    pub v: u32,
    /// The hub's id, in hexadecimal.
    pub hub: String,
    /// The name in the device's certificate.
    pub device: DeviceId,
    /// Bytes of frames that the device may send before the first ack moves this on.
    #[serde(with = "crate::json::int")]
    pub credit: u64,
    /// How often a silent device sends a heartbeat, in milliseconds.
    pub heartbeat_ms: u64,
    /// Silence after which the hub closes the connection, in milliseconds.
    pub idle_ms: u64,
    pub hub_epoch: HubEpoch,
    /// None where the hub has no UDP time service: then in-band probes alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<TimeService>,
}

/// Where and with which key to ask for the time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimeService {
    /// UDP port on the hub's address; 0 where UDP is off and the key is for in-band probes alone.
    pub udp_port: u16,
    /// As 16 hexadecimal digits.
    pub key_id: KeyId,
    /// The [`crate::clock::PacketKey`], as 64 hexadecimal digits.
    pub key: String,
}

/// The hub asks a device to take part in a session that is being recorded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Join {
    pub session: SessionId,
    /// The streams wanted; none for all that the device has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub streams: Option<Vec<StreamName>>,
}

/// The device opens the log of one epoch in one session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Open {
    pub session: SessionId,
    pub epoch: EpochId,
    /// The device's boot, where it knows it.
    #[serde(default)]
    pub boot: BootId,
    /// The highest acks that the device ever received for this epoch.
    #[serde(default)]
    pub highest_ack: Acked,
}

/// For each lane, the first sequence that is not acknowledged yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acked {
    #[serde(default, with = "crate::json::int")]
    pub data: u64,
    #[serde(default, with = "crate::json::int")]
    pub live: u64,
}

impl Acked {
    /// By lane number: 0 data, 1 live.
    pub fn lanes(self) -> [u64; 2] {
        [self.data, self.live]
    }
}

/// The hub's answer to an open.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Opened {
    pub session: SessionId,
    /// For each lane, the sequence to go on with: all below is durable, but for the holes.
    pub next: Acked,
    /// What damage took from the hub: the device sends again what it still has.
    #[serde(default, skip_serializing_if = "Holes::is_empty")]
    pub holes: Holes,
    /// Whether the session still takes new captures, or late frames alone.
    pub recording: bool,
}

/// Half-open ranges of sequences that are missing on the hub, for each lane.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holes {
    #[serde(default, with = "crate::json::ranges")]
    pub data: Vec<(u64, u64)>,
    #[serde(default, with = "crate::json::ranges")]
    pub live: Vec<(u64, u64)>,
}

impl Holes {
    pub fn is_empty(&self) -> bool {
        self.data.is_empty() && self.live.is_empty()
    }
}

/// The hub ends the captures of a session: the device sends what it has, then an end frame for each stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stop {
    pub session: SessionId,
    /// How long the hub waits before it seals, in milliseconds. Late frames are taken all the same.
    pub grace_ms: u64,
}

/// The hub says that a channel's session is closed for good, or that it goes down.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Closed {
    pub reason: RefusalCode,
}

/// Says when the frames that follow were sent: small, unsequenced, never buffered, never sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Device time right before the write.
    pub dev_send_ns: i64,
    /// First and last sequence of the data lane in this write; last below first: live frames alone.
    pub sequences: (u64, u64),
}

impl Sent {
    pub const BYTES: usize = 24;

    pub fn to_bytes(self) -> Vec<u8> {
        let mut to = Vec::with_capacity(Self::BYTES);
        to.i64(self.dev_send_ns)
            .u64(self.sequences.0)
            .u64(self.sequences.1);
        to
    }

    pub fn parse(body: &[u8]) -> Option<Self> {
        let mut from = Fields(body);
        let sent = Self {
            dev_send_ns: from.i64()?,
            sequences: (from.u64()?, from.u64()?),
        };
        from.0.is_empty().then_some(sent)
    }
}

/// What is durable, what is safe, and how much more may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// For each lane, all below is synced on the hub (or known to be lost).
    pub durable: [u64; 2],
    /// For each lane, all below is sealed, verified and, where configured, copied to a second place.
    pub safe: [u64; 2],
    /// Bytes of frame messages that may have been sent on this connection in all.
    pub credit: u64,
    pub hub_epoch: HubEpoch,
    pub hub_send_ns: i64,
    /// See [`crate::clock::StampKey`]: what the device reports back with the ack's arrival.
    pub tag: [u8; 8],
}

impl Ack {
    pub const BYTES: usize = 64;

    pub fn to_bytes(self) -> Vec<u8> {
        let mut to = Vec::with_capacity(Self::BYTES);
        to.u64(self.durable[0])
            .u64(self.durable[1])
            .u64(self.safe[0])
            .u64(self.safe[1])
            .u64(self.credit);
        to.u64(self.hub_epoch.0).i64(self.hub_send_ns).put(&self.tag);
        to
    }

    pub fn parse(body: &[u8]) -> Option<Self> {
        let mut from = Fields(body);
        let ack = Self {
            durable: [from.u64()?, from.u64()?],
            safe: [from.u64()?, from.u64()?],
            credit: from.u64()?,
            hub_epoch: HubEpoch(from.u64()?),
            hub_send_ns: from.i64()?,
            tag: from.array()?,
        };
        from.0.is_empty().then_some(ack)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive_and_lengths_are_held_against_their_limits() {
        let header = MessageHeader {
            kind: MessageType::Frame,
            channel: 3,
            length: 64,
        };
        assert_eq!(MessageHeader::parse(header.to_bytes()).unwrap(), header);
        let parse = |kind: u8, length: u32| {
            let mut bytes = [kind, 0, 0, 0, 0, 0, 0, 0];
            bytes[4..].copy_from_slice(&length.to_le_bytes());
            MessageHeader::parse(bytes).unwrap_err().code
        };
        assert_eq!(parse(0x10, (1 << 20) + 1), RefusalCode::FrameTooLarge);
        assert_eq!(parse(0x01, 1 << 20), RefusalCode::MessageTooLarge);
        assert_eq!(parse(0x7F, 0), RefusalCode::Malformed);
    }

    #[test]
    fn bodies_survive() {
        let ack = Ack {
            durable: [1, 2],
            safe: [3, 4],
            credit: 5,
            hub_epoch: HubEpoch(6),
            hub_send_ns: -7,
            tag: [8; 8],
        };
        assert_eq!(ack.to_bytes().len(), Ack::BYTES);
        assert_eq!(Ack::parse(&ack.to_bytes()), Some(ack));
        let sent = Sent {
            dev_send_ns: -1,
            sequences: (2, 3),
        };
        assert_eq!(Sent::parse(&sent.to_bytes()), Some(sent));
        assert_eq!(Sent::parse(&[0; 23]), None);
        let opened = Opened {
            session: SessionId::new("s").unwrap(),
            next: Acked {
                data: u64::MAX,
                live: 0,
            },
            holes: Holes {
                data: vec![(1, 5)],
                live: vec![],
            },
            recording: true,
        };
        let json = serde_json::to_string(&opened).unwrap();
        assert!(
            json.contains("\"18446744073709551615\"") && json.contains("[[\"1\",\"5\"]]"),
            "{json}"
        );
        assert_eq!(serde_json::from_str::<Opened>(&json).unwrap(), opened);
    }

    #[test]
    fn a_renewal_survives_and_its_time_is_a_string() {
        let renew = Renew {
            not_after: 1_827_400_000,
        };
        let json = serde_json::to_string(&renew).unwrap();
        assert_eq!(json, r#"{"not_after":"1827400000"}"#);
        assert_eq!(serde_json::from_str::<Renew>(&json).unwrap(), renew);
        for kind in [MessageType::Csr, MessageType::Renew, MessageType::Certificate] {
            assert_eq!(MessageType::from_byte(kind as u8), Some(kind));
            assert_eq!(kind.body_bytes_max(), limits::CONTROL_BYTES_MAX);
        }
    }

    #[test]
    fn a_minimal_open_by_hand_is_enough() {
        let json = br#"{"session":"walk","epoch":"000102030405060708090a0b0c0d0e0f","later":1}"#;
        let open: Open = parse_json(MessageType::Open, json).unwrap();
        assert_eq!((open.highest_ack.data, open.boot), (0, BootId::UNKNOWN));
    }
}
