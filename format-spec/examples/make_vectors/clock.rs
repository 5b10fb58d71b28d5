//! Time packets, probe rows and stamps.

use crate::Vector;
use marey_format::clock::{Direction, PacketKey, ProbeKind, ProbeRow, StampKey, TimePacket};
use marey_format::types::{KeyId, hex};
use marey_format::{DeviceId, HubEpoch};
use serde_json::json;

const KEY: PacketKey = PacketKey([0x5A; 32]);
const STAMP_KEY: StampKey = StampKey([0xC3; 32]);

pub fn vectors() -> Vec<Vector> {
    let mut vectors = packets();
    vectors.push(rows());
    vectors
}

fn packets() -> Vec<Vector> {
    let device = DeviceId::new("watch").expect("it is a name");
    let request = TimePacket {
        direction: Direction::Request,
        key_id: 0x0102_0304_0506_0708,
        nonce: u64::MAX,
        dev_send_ns: -5,
        hub_epoch: HubEpoch(0),
        hub_recv_ns: 0,
        hub_send_ns: 0,
        tag: [0; 8],
    };
    let (hub_epoch, hub_recv_ns, hub_send_ns) =
        (HubEpoch(0xFEDC_BA98_7654_3210), 9_000_000_001, 9_000_000_002);
    let tag = STAMP_KEY.tag(
        &device,
        hub_epoch,
        request.nonce,
        request.dev_send_ns,
        hub_recv_ns,
        hub_send_ns,
    );
    let reply = TimePacket {
        direction: Direction::Reply,
        hub_epoch,
        hub_recv_ns,
        hub_send_ns,
        tag,
        ..request
    };
    let packet = |name: &str, about: &str, packet: &TimePacket| {
        let json = json!({
            "about": about, "key": hex(&KEY.0), "stamp_key": hex(&STAMP_KEY.0), "device": device,
            "packet": {
                "direction": packet.direction as u8, "key_id": KeyId(packet.key_id), "nonce": packet.nonce.to_string(),
                "dev_send_ns": packet.dev_send_ns.to_string(), "hub_epoch": packet.hub_epoch,
                "hub_recv_ns": packet.hub_recv_ns.to_string(), "hub_send_ns": packet.hub_send_ns.to_string(),
                "tag": hex(&packet.tag),
            },
        });
        Vector::one("clock", name, packet.to_bytes(&KEY), json)
    };
    let broken = |name: &str, about: &str, bytes: Vec<u8>| {
        let json = json!({"about": about, "key": hex(&KEY.0), "packet": null});
        Vector::one("clock", name, bytes, json)
    };
    let good = reply.to_bytes(&KEY);
    let with = |harm: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.to_vec();
        harm(&mut bytes);
        bytes
    };
    vec![
        packet("request", "A request for the hub's time.", &request),
        packet("reply", "The reply, with the hub's tag over its stamps.", &reply),
        broken(
            "other-key",
            "A reply under another key.",
            reply.to_bytes(&PacketKey([0; 32])).to_vec(),
        ),
        broken(
            "changed",
            "A bit of a stamp was changed on the way.",
            with(&|b| b[41] ^= 1),
        ),
        broken("cut", "The last byte is missing.", with(&|b| b.truncate(79))),
        broken("longer", "A byte too many.", with(&|b| b.push(0))),
        broken("nothing", "An empty packet.", Vec::new()),
    ]
}

fn rows() -> Vector {
    let device = DeviceId::new("watch").expect("it is a name");
    let epoch = HubEpoch(7);
    let row = |kind, stamps: [i64; 4], nonce, honest: bool| {
        let tag = STAMP_KEY.tag(
            &device,
            epoch,
            nonce,
            stamps[0],
            stamps[1],
            stamps[2] + i64::from(!honest),
        );
        let [dev_send_ns, hub_recv_ns, hub_send_ns, dev_recv_ns] = stamps;
        ProbeRow {
            kind,
            hub_epoch: epoch,
            nonce,
            dev_send_ns,
            hub_recv_ns,
            hub_send_ns,
            dev_recv_ns,
            tag,
        }
    };
    let rows = [
        row(ProbeKind::Udp, [1, 20, 30, 4], 11, true),
        row(ProbeKind::InBand, [i64::MIN, i64::MAX, -1, 0], 12, true),
        row(ProbeKind::Ack, [0, 0, 50, 6], 0, true),
        row(ProbeKind::Udp, [1, 20, 30, 4], 13, false),
    ];
    let mut bytes = Vec::new();
    rows.iter().for_each(|row| row.put(&mut bytes));
    let mut unknown = vec![9];
    unknown.resize(ProbeRow::BYTES, 0);
    bytes.splice(ProbeRow::BYTES..ProbeRow::BYTES, unknown);
    let json = json!({
        "about": "Rows of a probes frame: one of an unknown kind, which is left out, and one whose stamp the hub never gave.",
        "stamp_key": hex(&STAMP_KEY.0),
        "device": device,
        "rows": rows.iter().enumerate().map(|(at, row)| json!({
            "kind": row.kind as u8, "hub_epoch": row.hub_epoch, "nonce": row.nonce.to_string(),
            "dev_send_ns": row.dev_send_ns.to_string(), "hub_recv_ns": row.hub_recv_ns.to_string(),
            "hub_send_ns": row.hub_send_ns.to_string(), "dev_recv_ns": row.dev_recv_ns.to_string(),
            "tag": hex(&row.tag), "verified": at != 3,
        })).collect::<Vec<_>>(),
    });
    Vector::one("clock", "probe-rows", bytes, json)
}
