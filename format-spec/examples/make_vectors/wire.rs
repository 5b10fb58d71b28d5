//! Messages of the wire protocol: whole streams of them, as they cross TLS.

use crate::Vector;
use marey_format::HubEpoch;
use marey_format::types::hex;
use marey_format::wire::{Ack, MessageType, Sent, message};
use serde_json::{Value, json};

pub fn vectors() -> Vec<Vector> {
    let mut vectors = vec![device_side(), hub_side(), by_hand(), later(), renewal()];
    vectors.extend(refused());
    vectors
}

/// Bytes of messages, and what a reader must find.
#[derive(Default)]
struct Talk {
    bytes: Vec<u8>,
    messages: Vec<Value>,
}

impl Talk {
    fn json(&mut self, kind: MessageType, channel: u16, body: Value) -> &mut Self {
        self.text(kind, channel, &body.to_string(), body)
    }

    /// A JSON body as it is written, and what it says in the form that the codec writes.
    fn text(&mut self, kind: MessageType, channel: u16, text: &str, means: Value) -> &mut Self {
        self.bytes.extend(message(kind, channel, text.as_bytes()));
        self.messages
            .push(json!({"type": kind as u8, "channel": channel, "json": means}));
        self
    }

    fn binary(&mut self, kind: MessageType, channel: u16, body: &[u8], fields: Value) -> &mut Self {
        self.bytes.extend(message(kind, channel, body));
        self.messages
            .push(json!({"type": kind as u8, "channel": channel, "hex": hex(body), "fields": fields}));
        self
    }

    fn vector(&mut self, name: &str, about: &str) -> Vector {
        let json = json!({"about": about, "messages": self.messages});
        Vector::one("wire", name, std::mem::take(&mut self.bytes), json)
    }
}

/// Both sides of a renewal, one behind the other.
fn renewal() -> Vector {
    let pem = |what: &str| format!("-----BEGIN {what}-----\nMAA=\n-----END {what}-----\n");
    Talk::default()
        .text(
            MessageType::Renew,
            0,
            r#"{"not_after":"1827400000","later":1}"#,
            json!({"not_after": "1827400000"}),
        )
        .json(MessageType::Csr, 0, json!({"csr": pem("CERTIFICATE REQUEST")}))
        .json(
            MessageType::Certificate,
            0,
            json!({"certificate": pem("CERTIFICATE"), "authority": pem("CERTIFICATE"),
            "hub_name": "hub-0011223344556677.marey.invalid"}),
        )
        .vector(
            "renewal",
            "The messages of a renewal, both ways, one behind the other.",
        )
}

fn device_side() -> Vector {
    let sent = Sent {
        dev_send_ns: -7,
        sequences: (u64::MAX - 1, u64::MAX),
    };
    let epoch = "a0".repeat(16);
    Talk::default()
        .json(
            MessageType::Hello,
            0,
            json!({"v": 1, "device": "phone", "agent": "send.py"}),
        )
        .json(
            MessageType::Open,
            1,
            json!({"session": "walk", "epoch": epoch, "boot": "b0".repeat(16),
            "highest_ack": {"data": "18446744073709551615", "live": "0"}}),
        )
        .json(
            MessageType::Heartbeat,
            0,
            json!({"timestamp_ms": 1234567, "device_info": {"battery": 0.5}}),
        )
        .binary(
            MessageType::Sent,
            1,
            &sent.to_bytes(),
            json!({"dev_send_ns": "-7", "first": "18446744073709551614",
            "last": "18446744073709551615"}),
        )
        .binary(MessageType::Probe, 0, &[3; 80], Value::Null)
        .binary(
            MessageType::Frame,
            1,
            b"bytes of a frame, which are not looked at here..",
            Value::Null,
        )
        .json(MessageType::Bye, 0, json!({}))
        .vector("device", "What a device sends, each message once.")
}

fn hub_side() -> Vector {
    let ack = Ack {
        durable: [12, 3],
        safe: [1, 2],
        credit: u64::MAX,
        hub_epoch: HubEpoch(0x0102_0304_0506_0708),
        hub_send_ns: -9,
        tag: [8; 8],
    };
    Talk::default()
        .json(
            MessageType::Welcome,
            0,
            json!({"v": 1, "hub": "11".repeat(16), "device": "phone", "credit": "4194304",
            "heartbeat_ms": 3000, "idle_ms": 10000, "hub_epoch": "0102030405060708",
            "time": {"udp_port": 8765, "key_id": "00000000000000ff", "key": "5a".repeat(32)}}),
        )
        .json(
            MessageType::Join,
            0,
            json!({"session": "walk", "streams": ["imu", "gsr"]}),
        )
        .json(
            MessageType::Opened,
            1,
            json!({"session": "walk", "next": {"data": "12", "live": "3"},
            "holes": {"data": [["1", "5"]], "live": []}, "recording": true}),
        )
        .json(
            MessageType::Refused,
            1,
            json!({"code": "bad_crc", "message": "send it again", "retry_after_ms": null,
            "channel": 1, "frame": {"lane": 0, "sequence": "12"}}),
        )
        .binary(
            MessageType::Ack,
            1,
            &ack.to_bytes(),
            json!({"durable": ["12", "3"], "safe": ["1", "2"],
            "credit": "18446744073709551615", "hub_epoch": "0102030405060708", "hub_send_ns": "-9",
            "tag": "0808080808080808"}),
        )
        .binary(MessageType::ProbeReply, 0, &[4; 80], Value::Null)
        .json(MessageType::Stop, 0, json!({"session": "walk", "grace_ms": 5000}))
        .json(MessageType::Closed, 1, json!({"reason": "session_closed"}))
        .vector("hub", "What a hub sends, each message once.")
}

fn by_hand() -> Vector {
    let epoch = "00".repeat(15) + "01";
    let open = format!(
        " {{ \"epoch\":\"{epoch}\",\n\"later\":[1,{{}}], \"session\":\"walk\",\"highest_ack\":{{\"data\":12}} }}"
    );
    let means = json!({"session": "walk", "epoch": epoch, "boot": "00".repeat(16), "highest_ack": {"data": "12", "live": "0"}});
    Talk::default()
        .text(MessageType::Hello, 0, "{\"v\":1}", json!({"v": 1}))
        .text(MessageType::Open, 65535, &open, means)
        .text(
            MessageType::Heartbeat,
            0,
            "{\"timestamp_ms\":0}",
            json!({"timestamp_ms": 0, "device_info": {}}),
        )
        .vector(
            "by-hand",
            "JSON as a microcontroller would write it: spaces, unknown keys, numbers for strings, defaults.",
        )
}

fn later() -> Vector {
    let id = "c0".repeat(16);
    Talk::default()
        .json(
            MessageType::Hello,
            0,
            json!({"v": 1, "device": "phone", "agent": "send.py", "commands": true}),
        )
        .json(
            MessageType::Heartbeat,
            0,
            json!({"v": 1, "type": "heartbeat", "timestamp_ns": u64::MAX, "device_id": "phone",
            "device_info": {"battery": 82.5, "available_storage_mb": 20480, "is_recording": false, "model": "X"}}),
        )
        .json(
            MessageType::Command,
            0,
            json!({"id": id, "do": "mark", "session": "walk", "label": "stood up", "hub_epoch": "0102030405060708",
            "hub_ns": "-9"}),
        )
        .json(MessageType::Done, 0, json!({"id": id, "ok": true}))
        .json(
            MessageType::Done,
            0,
            json!({"id": id, "ok": false, "why": "no such command"}),
        )
        .vector("later", "Messages that came after the first version, of either side.")
}

/// Messages that are refused, each with its code.
fn refused() -> Vec<Vector> {
    let header = |kind: u8, length: u32| -> Vec<u8> {
        [kind, 0, 0, 0].into_iter().chain(length.to_le_bytes()).collect()
    };
    let refused = |name: &str, code: &str, about: &str, bytes: Vec<u8>| {
        Vector::one("wire", name, bytes, json!({"about": about, "refused": code}))
    };
    let body = |kind: MessageType, text: &str| message(kind, 1, text.as_bytes());
    vec![
        refused(
            "unknown-type",
            "malformed",
            "A type that is not in the table.",
            header(0x7E, 0),
        ),
        refused(
            "frame-too-large",
            "frame_too_large",
            "A frame over a mebibyte, refused by its header.",
            header(0x10, (1 << 20) + 1),
        ),
        refused(
            "control-too-large",
            "message_too_large",
            "A hello over the limit.",
            header(0x01, (64 << 10) + 1),
        ),
        refused(
            "sent-too-large",
            "message_too_large",
            "A sent message of 25 bytes.",
            header(0x11, 25),
        ),
        refused(
            "not-json",
            "malformed",
            "A hello that is not JSON.",
            body(MessageType::Hello, "{\"v\":1"),
        ),
        refused(
            "no-session",
            "malformed",
            "An open that names no session.",
            body(
                MessageType::Open,
                "{\"epoch\":\"00000000000000000000000000000001\"}",
            ),
        ),
        refused(
            "bad-name",
            "malformed",
            "A session's name that would be a path.",
            body(
                MessageType::Open,
                "{\"session\":\"../walk\",\"epoch\":\"00000000000000000000000000000001\"}",
            ),
        ),
        refused(
            "bad-epoch",
            "malformed",
            "An epoch of 31 digits.",
            body(
                MessageType::Open,
                "{\"session\":\"walk\",\"epoch\":\"0000000000000000000000000000001\"}",
            ),
        ),
        refused(
            "heartbeat-key",
            "bad_heartbeat",
            "A heartbeat of version 1 with a key of its own at the top.",
            body(
                MessageType::Heartbeat,
                "{\"v\":1,\"type\":\"heartbeat\",\"timestamp_ns\":1,\"device_id\":\"phone\",\"device_info\":\
                 {\"battery\":1,\"available_storage_mb\":1,\"is_recording\":true},\"mine\":1}",
            ),
        ),
        refused(
            "heartbeat-battery",
            "bad_heartbeat",
            "A heartbeat of version 1 with more than a full battery.",
            body(
                MessageType::Heartbeat,
                "{\"v\":1,\"type\":\"heartbeat\",\"timestamp_ns\":1,\"device_id\":\"phone\",\"device_info\":\
                 {\"battery\":101,\"available_storage_mb\":1,\"is_recording\":true}}",
            ),
        ),
        refused(
            "not-utf8",
            "malformed",
            "A hello that is not UTF-8.",
            message(MessageType::Hello, 0, b"{\"v\":1,\"agent\":\"\xFF\"}"),
        ),
    ]
}
