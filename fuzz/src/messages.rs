//! What comes over a socket: the messages of the wire both ways, a connection's protocol, HTTP, the control socket.

use super::fixture::{EPOCH, device, session};
use super::mended;
use super::vectors::vectors;
use marey_format::clock::{PACKET_BYTES, PacketKey, StampKey};
use marey_format::types::KeyId;
use marey_format::wire::{
    Ack, Acked, Certificate, Closed, Command, Csr, Done, Heartbeat, Hello, Holes, Join, MESSAGE_HEADER_BYTES,
    MessageHeader, MessageType, Open, Opened, Renew, Sent, Stop, TimeService, Welcome, json_message, message,
    parse_json,
};
use marey_format::{BootId, HubEpoch, Refusal, RefusalCode, limits, version};
use marey_server::control::{Reply, Request};
use marey_server::health::{self, Page, Pages};
use marey_server::protocol::{Action, Protocol, Settings};
use std::sync::Arc;

/// A body that is taken is written and read again as the same; another is malformed.
macro_rules! survives {
    ($message:ty, $kind:expr, $body:expr) => {
        match parse_json::<$message>($kind, $body) {
            Ok(read) => {
                let again = serde_json::to_vec(&read).expect("string keys and finite numbers only");
                let again = parse_json::<$message>($kind, &again).expect("it was just written");
                assert_eq!(again, read);
            }
            Err(refusal) => assert_eq!(refusal.code, RefusalCode::Malformed),
        }
    };
}

/// One message of either side: the header keeps its body within its limit, and a body that is taken is written and
/// read again as the same.
pub fn wire_message(bytes: &[u8]) {
    let Some((head, rest)) = bytes.split_first_chunk::<MESSAGE_HEADER_BYTES>() else {
        return;
    };
    let Ok(header) = MessageHeader::parse(*head) else {
        return;
    };
    assert!(header.length as usize <= header.kind.body_bytes_max());
    let again = MessageHeader::parse(header.to_bytes()).expect("it was just read");
    assert_eq!(again, header);
    let body = &rest[..rest.len().min(header.length as usize)];
    let kind = header.kind;
    match kind {
        MessageType::Hello => survives!(Hello, kind, body),
        MessageType::Open => survives!(Open, kind, body),
        MessageType::Welcome => survives!(Welcome, kind, body),
        MessageType::Join => survives!(Join, kind, body),
        MessageType::Opened => survives!(Opened, kind, body),
        MessageType::Refused => survives!(Refusal, kind, body),
        MessageType::Stop => survives!(Stop, kind, body),
        MessageType::Closed => survives!(Closed, kind, body),
        MessageType::Done => survives!(Done, kind, body),
        MessageType::Command => survives!(Command, kind, body),
        MessageType::Heartbeat => match Heartbeat::parse(body) {
            Ok(read) => {
                let again = serde_json::to_vec(&read).expect("string keys and finite numbers only");
                assert_eq!(Heartbeat::parse(&again), Ok(read));
            }
            Err(refusal) => assert!(matches!(
                refusal.code,
                RefusalCode::Malformed | RefusalCode::BadHeartbeat
            )),
        },
        MessageType::Csr => survives!(Csr, kind, body),
        MessageType::Renew => survives!(Renew, kind, body),
        MessageType::Certificate => survives!(Certificate, kind, body),
        MessageType::Sent => {
            if let Some(sent) = Sent::parse(body) {
                assert_eq!(sent.to_bytes(), body);
            }
        }
        MessageType::Ack => {
            if let Some(ack) = Ack::parse(body) {
                assert_eq!(ack.to_bytes(), body);
            }
        }
        MessageType::Frame => super::wire_frame(body),
        MessageType::Bye | MessageType::Probe | MessageType::ProbeReply => {}
    }
}

/// A line of the control socket, as a request and as an answer.
pub fn control_request(bytes: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<Request>(bytes) {
        let again = serde_json::to_vec(&request).expect("a request has string keys and finite numbers only");
        assert_eq!(
            serde_json::from_slice::<Request>(&again).expect("it was just written"),
            request
        );
    }
    if let Ok(reply) = serde_json::from_slice::<Reply>(bytes) {
        let once = serde_json::to_vec(&reply).expect("a reply has string keys and finite numbers only");
        let reply: Reply = serde_json::from_slice(&once).expect("it was just written");
        assert_eq!(serde_json::to_vec(&reply).ok(), Some(once));
    }
}

/// The head of an HTTP request: an answer of HTTP's form, or more is waited for, within a bound.
pub fn http_head(bytes: &[u8]) {
    struct One;
    impl Pages for One {
        fn page(&self, path: &str) -> Option<Page> {
            (path == "/health").then(|| Page {
                code: 200,
                content_type: health::JSON,
                body: "{}\n".to_owned(),
            })
        }
    }
    match health::respond(bytes, &One) {
        Some(answer) => {
            assert!(answer.starts_with(b"HTTP/1.1 "));
            let head = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
            assert!(head.is_some(), "an answer has a head");
        }
        None => assert!(bytes.len() <= 64 << 10, "{} bytes and no answer", bytes.len()),
    }
}

/// A connection that is sent anything: bounded memory, and silence after its end.
pub fn hello(bytes: &[u8]) {
    // The first byte cuts the rest into pieces, as a socket would.
    let (piece, rest) = bytes
        .split_first()
        .map_or((1, bytes), |(first, rest)| (usize::from(*first) + 1, rest));
    converse(piece, rest);
    converse(piece, &mended::conversation(rest));
}

fn converse(piece: usize, bytes: &[u8]) {
    let (mut protocol, mut over) = (Protocol::new(settings(), 0), false);
    for (now_ns, piece) in (1..).zip(bytes.chunks(piece)) {
        let mut actions = Vec::new();
        protocol.receive(now_ns, piece, &mut actions);
        protocol.end_read(&mut actions);
        assert!(!over || actions.is_empty(), "nothing comes after the end");
        let mut more = Vec::new();
        for action in actions {
            match action {
                Action::Open { channel, open } => {
                    let opened = Opened {
                        session: open.session,
                        next: Acked::default(),
                        holes: Holes::default(),
                        recording: true,
                    };
                    protocol.opened(channel, &opened, &mut more);
                }
                Action::Frames(run) => {
                    let bytes: usize = run.frames.iter().map(|head| run.frame_bytes(head).len()).sum();
                    assert_eq!(bytes, run.bytes.len(), "frames stand back to back");
                    protocol.resolved(bytes as u64);
                }
                Action::Close(_) => over = true,
                _ => {}
            }
        }
        assert!(
            protocol.held_bytes() <= limits::FRAME_BYTES_MAX + (8 << 20),
            "{} bytes held",
            protocol.held_bytes()
        );
        assert!(protocol.channels() <= limits::CHANNELS_PER_CONNECTION_MAX);
        assert!(protocol.credit() >= settings().credit_bytes);
    }
    let mut actions = Vec::new();
    protocol.close_session(&session(), RefusalCode::SessionClosed, &mut actions);
    protocol.expire(i64::MAX, &mut actions);
    assert!(!over || actions.is_empty(), "nothing comes after the end");
}

fn settings() -> Settings {
    Settings {
        hub: [0x11; 16],
        device: device(),
        credit_bytes: 4 << 20,
        heartbeat_ms: 3_000,
        idle_ms: 10_000,
        hello_timeout_ms: 5_000,
        hub_epoch: HubEpoch(1),
        udp_port: 8765,
        packet_key: PacketKey([1; 32]),
        key_id: KeyId(1),
        stamp_key: Arc::new(StampKey([2; 32])),
    }
}

fn time_service() -> TimeService {
    TimeService {
        udp_port: 8765,
        key_id: KeyId(1),
        key: "01".repeat(32),
    }
}

pub fn hello_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let conversation: Vec<u8> = vectors(&["frame"], "bin")
        .iter()
        .filter(|frame| frame.len() <= limits::FRAME_BYTES_MAX)
        .fold([hello_message(), open_message()].concat(), |sent, frame| {
            [sent, message(MessageType::Frame, 1, frame)].concat()
        });
    for vector in vectors(&["wire"], "bin").iter().chain([&conversation]) {
        // Whole, and in pieces of two sizes.
        for piece in [255, 6, 40] {
            seeds.push([&[piece], vector.as_slice()].concat());
        }
    }
    seeds
}

pub fn message_seeds() -> Vec<Vec<u8>> {
    let mut seeds = vectors(&["wire"], "bin");
    seeds.extend([
        hello_message(),
        open_message(),
        json_message(
            MessageType::Welcome,
            0,
            &Welcome {
                v: version::WIRE,
                hub: "11".repeat(16),
                device: device(),
                credit: 4 << 20,
                heartbeat_ms: 3_000,
                idle_ms: 10_000,
                hub_epoch: HubEpoch(1),
                time: Some(time_service()),
            },
        ),
        json_message(
            MessageType::Join,
            0,
            &Join {
                session: session(),
                streams: None,
            },
        ),
        json_message(
            MessageType::Opened,
            1,
            &Opened {
                session: session(),
                next: Acked { data: 9, live: 1 },
                holes: Holes {
                    data: vec![(2, 5)],
                    live: Vec::new(),
                },
                recording: true,
            },
        ),
        json_message(
            MessageType::Refused,
            0,
            &Refusal::new(RefusalCode::SlowDown, "wait"),
        ),
        json_message(
            MessageType::Stop,
            0,
            &Stop {
                session: session(),
                grace_ms: 10_000,
            },
        ),
        json_message(
            MessageType::Closed,
            1,
            &Closed {
                reason: RefusalCode::SessionClosed,
            },
        ),
        message(
            MessageType::Heartbeat,
            0,
            br#"{"timestamp_ms":1,"device_info":{"battery":0.30000000000000004,"name":"watch"}}"#,
        ),
        message(MessageType::Sent, 1, &[7; Sent::BYTES]),
        message(MessageType::Ack, 1, &[7; Ack::BYTES]),
        message(MessageType::Probe, 0, &[7; PACKET_BYTES]),
        message(MessageType::Bye, 0, b"{}"),
    ]);
    let frames = vectors(&["frame"], "bin");
    seeds.extend(
        frames
            .iter()
            .filter(|frame| frame.len() <= limits::FRAME_BYTES_MAX)
            .map(|frame| message(MessageType::Frame, 1, frame)),
    );
    seeds
}

pub fn request_seeds() -> Vec<Vec<u8>> {
    [
        r#"{"verb":"device_enroll","device":"watch","addresses":["10.0.0.2:8443"]}"#,
        r#"{"verb":"session_start","session":"walk","create":{"session":"walk","devices":["phone"],
            "metadata":{"participant":"p1"},"max_drift_ppm":0.30000000000000004}}"#,
        r#"{"verb":"session_stop","session":"walk","wait":true}"#,
        r#"{"verb":"session_mark","session":"walk","label":"stood up"}"#,
        r#"{"verb":"session_check","session":"walk"}"#,
        r#"{"verb":"session_list"}"#,
        r#"{"reply":"progress","with":"compacting"}"#,
        r#"{"reply":"done","with":{"is":"sealed","value":{"generation":2}}}"#,
        r#"{"reply":"failed","with":"no session walk"}"#,
        r#"{"reply":"done","with":{"is":"devices","value":[{"name":"watch","fingerprint_sha256_hex":"00",
            "serial_hex":"01","enrolled_utc_ns":1,"revoked":false,"attached":true,"peer":null,"agent":null,
            "silent_ms":3,"device_info":{"battery":0.1}}]}}"#,
    ]
    .map(|line| line.as_bytes().to_vec())
    .to_vec()
}

pub fn http_seeds() -> Vec<Vec<u8>> {
    [
        "GET /health HTTP/1.1\r\nHost: hub\r\n\r\n",
        "HEAD /ready?x=1 HTTP/1.0\r\n\r\n",
        "POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
        "GET / HTTP/2\r\n\r\n",
    ]
    .map(|head| head.as_bytes().to_vec())
    .to_vec()
}

fn hello_message() -> Vec<u8> {
    let hello = Hello {
        v: version::WIRE,
        device: Some(device()),
        agent: Some("watch 1".to_owned()),
        commands: true,
    };
    json_message(MessageType::Hello, 0, &hello)
}

fn open_message() -> Vec<u8> {
    let open = Open {
        session: session(),
        epoch: EPOCH,
        boot: BootId::UNKNOWN,
        highest_ack: Acked::default(),
    };
    json_message(MessageType::Open, 1, &open)
}
