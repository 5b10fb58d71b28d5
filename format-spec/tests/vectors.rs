//! The pure codec against the vectors: what is in the JSON is what the codec finds, and what it writes are the bytes.
//!
//! Damaged logs and the order of frames are the engine's business; it and the Python reader are held against the same
//! vectors in the workspace's `tests`.

#![allow(clippy::disallowed_methods, reason = "reads the vectors; no hub is near")]

#[path = "vectors/form.rs"]
mod form;

use marey_format::clock::{PacketKey, ProbeRow, StampKey, TimePacket};
use marey_format::frame::{Columns, Frame, Header, Kind, Lane, encode};
use marey_format::journal::{Entry, Record};
use marey_format::log::{Footer, SEGMENT_HEADER_BYTES, SegmentHeader, TRAILER_BYTES, Trailer};
use marey_format::payload::{Assign, EpochMark};
use marey_format::types::{KeyId, hex, unhex};
use marey_format::wire::{self, MESSAGE_HEADER_BYTES, MessageHeader, MessageType};
use marey_format::{Declaration, DeviceId, EpochId, Refusal, Seed, SessionId};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[test]
fn frames() {
    let vectors = vectors("frame");
    assert!(vectors.len() >= 30, "only {} vectors", vectors.len());
    for (name, bytes, json) in vectors {
        let id = |key: &str| json[key].as_str().expect("it is a string").to_owned();
        let epoch: EpochId = id("epoch").parse().unwrap();
        let seed = Seed::new(
            &DeviceId::new(id("device")).unwrap(),
            &SessionId::new(id("session")).unwrap(),
            &epoch,
        );
        let frame = match (Frame::checked(&bytes, seed), json.get("error")) {
            (Ok(frame), None) => frame,
            (Err(error), Some(expected)) => {
                assert_eq!(variant(&error), expected.as_str().unwrap(), "{name}");
                continue;
            }
            (found, expected) => panic!("{name}: {found:?}, expected {expected:?}"),
        };
        assert_eq!(header(frame.header()), json["header"], "{name}");
        assert_eq!(frame.bytes(), bytes, "{name}");
        assert_eq!(
            encode(*frame.header(), frame.payload(), seed).unwrap(),
            bytes,
            "{name}: written again"
        );
        if let Some(text) = json["payload_text"].as_str() {
            assert_eq!(frame.payload(), text.as_bytes(), "{name}");
        }
        if let Some(digits) = json["payload_hex"].as_str() {
            assert_eq!(hex(frame.payload()), digits, "{name}");
        }
        let Some(declaration) = json.get("declaration") else {
            continue;
        };
        let declaration = Declaration::from_json(declaration.to_string().as_bytes()).unwrap();
        match json.get("columns_error") {
            Some(expected) => {
                let error = Columns::parse(&frame, &declaration).expect_err(&name);
                assert_eq!(variant(&error), expected.as_str().unwrap(), "{name}");
            }
            None => {
                let rows = form::rows(&frame, &declaration).into_iter();
                let found: Vec<_> = rows
                    .map(|(time, values)| json!({"device_time_ns": time.to_string(), "values": values}))
                    .collect();
                assert_eq!(json!(found), json["samples"], "{name}");
            }
        }
    }
}

#[test]
fn messages() {
    for (name, bytes, json) in vectors("wire") {
        let found = read_messages(&bytes);
        match json.get("refused") {
            Some(code) => assert_eq!(found.unwrap_err().code.as_str(), code.as_str().unwrap(), "{name}"),
            None => assert_eq!(json!(found.expect(&name)), json["messages"], "{name}"),
        }
    }
}

#[test]
fn clocks() {
    for (name, bytes, json) in vectors("clock") {
        let stamp_key = json["stamp_key"]
            .as_str()
            .map(|digits| StampKey(unhex(digits).unwrap()));
        let device = json["device"]
            .as_str()
            .map(|device| DeviceId::new(device).unwrap());
        if let Some(key) = json["key"].as_str() {
            let key = PacketKey(unhex(key).unwrap());
            let found = TimePacket::parse(&bytes, &key);
            assert_eq!(
                found.as_ref().map_or(Value::Null, packet),
                json["packet"],
                "{name}"
            );
            let Some(found) = found else { continue };
            assert_eq!(found.to_bytes(&key).as_slice(), bytes, "{name}: written again");
            assert_eq!(TimePacket::key_id(&bytes), Some(found.key_id), "{name}");
        } else {
            let (key, device) = (stamp_key.unwrap(), device.unwrap());
            let rows: Vec<_> = ProbeRow::rows(&bytes)
                .expect(&name)
                .map(|row| probe(&row, &key, &device))
                .collect();
            assert_eq!(json!(rows), json["rows"], "{name}");
        }
    }
}

#[test]
fn journal_blocks() {
    for (name, bytes, json) in vectors("journal") {
        let hub: [u8; 16] = unhex(json["hub"].as_str().unwrap()).unwrap();
        let mut records: Vec<Value> = Vec::new();
        let (mut at, mut previous) = (0, None);
        let why = loop {
            let record = match Record::parse(&bytes[at..], &hub, previous.map(|(generation, _)| generation)) {
                Ok(record) => record,
                Err(error) => break variant(&error),
            };
            let header = record.header;
            if previous.is_some_and(|(_, commit)| header.commit != commit + 1) {
                break "Commit".to_owned();
            }
            previous = Some((header.generation, header.commit));
            records.push(json!({
                "offset": at, "length": header.length, "generation": header.generation, "commit": header.commit,
                "oldest": header.oldest, "entries": record.entries().unwrap().iter().map(entry).collect::<Vec<_>>(),
            }));
            at += header.length as usize;
        };
        assert_eq!(json!(records), json["records"], "{name}");
        assert_eq!(json!({"offset": at, "why": why}), json["end"], "{name}");
    }
}

#[test]
fn logs() {
    let mut sealed = 0;
    for (name, json) in descriptions("log") {
        if name == "cut-and-carried" || name == "twice" || name.starts_with("copy-") {
            continue; // What counts of them is said by more than the codec.
        }
        let ids = (device(&json), session(&json));
        let mut log = CodecLog::new(ids);
        for segment in json["segments"].as_array().unwrap() {
            let bytes = std::fs::read(folder("log").join(segment["file"].as_str().unwrap())).unwrap();
            sealed += u32::from(log.segment(segment["number"].as_u64().unwrap() as u32, &bytes));
        }
        assert_eq!(json!(log.frames), json["frames"], "{name}");
        log.samples
            .sort_by_key(|(epoch, sequence, _)| (*epoch, *sequence));
        let quarantined = |of: &(u32, u64, Value)| {
            json["quarantined"]
                .as_array()
                .unwrap()
                .contains(&json!({"epoch": of.0, "sequence": of.1}))
        };
        let samples: Vec<_> = log
            .samples
            .iter()
            .filter(|s| !quarantined(s))
            .map(|s| s.2.clone())
            .collect();
        assert_eq!(json!(samples), json["samples"], "{name}");
    }
    assert!(sealed >= 10, "only {sealed} sealed segments");
}

/// A log as the codec alone reads it: frame after frame, each under the seed of its epoch.
struct CodecLog {
    ids: (DeviceId, SessionId),
    epoch: Option<(EpochId, u32)>,
    streams: BTreeMap<(u32, u32), Assign>,
    frames: Vec<Value>,
    samples: Vec<(u32, u64, Value)>,
}

impl CodecLog {
    fn new(ids: (DeviceId, SessionId)) -> Self {
        Self {
            ids,
            epoch: None,
            streams: BTreeMap::new(),
            frames: Vec::new(),
            samples: Vec::new(),
        }
    }

    /// Reads a whole segment; whether it is sealed.
    fn segment(&mut self, number: u32, bytes: &[u8]) -> bool {
        let header = SegmentHeader::parse(bytes).unwrap();
        assert_eq!(
            (&header.device, &header.session, header.segment),
            (&self.ids.0, &self.ids.1, number)
        );
        assert_eq!(header.to_bytes().as_slice(), &bytes[..SEGMENT_HEADER_BYTES]);
        assert_eq!(header.epoch, self.epoch);
        let file_bytes = bytes.len() as u64;
        let trailer = bytes
            .last_chunk::<TRAILER_BYTES>()
            .and_then(|tail| Trailer::parse(tail, file_bytes).ok());
        let end = trailer.map_or(file_bytes, |trailer| trailer.data_bytes);
        let mut at = SEGMENT_HEADER_BYTES as u64;
        let first = self.frames.len();
        while at < end {
            at += self.frame(number, at, &bytes[at as usize..]);
        }
        assert_eq!(at, end);
        if let Some(trailer) = &trailer {
            let footer = Footer::parse(trailer, &bytes[end as usize..bytes.len() - TRAILER_BYTES]).unwrap();
            assert_eq!(footer.to_bytes(), &bytes[end as usize..]);
            let listed: Vec<_> = footer
                .entries
                .iter()
                .map(|row| (json!(row.offset), json!(row.sequence)))
                .collect();
            let found: Vec<_> = self.frames[first..]
                .iter()
                .map(|f| (f["offset"].clone(), f["sequence"].clone()))
                .collect();
            assert_eq!(listed, found);
        }
        trailer.is_some()
    }

    fn frame(&mut self, segment: u32, at: u64, bytes: &[u8]) -> u64 {
        let frame = Frame::parse(bytes).unwrap();
        let header = *frame.header();
        let (id, epoch) = match (header.lane, self.epoch) {
            (Lane::Hub, _) => (EpochId::HUB, None),
            (_, Some((id, ordinal))) => (id, Some(ordinal)),
            (_, None) => panic!("a device frame before any epoch"),
        };
        frame.verify(Seed::new(&self.ids.0, &self.ids.1, &id)).unwrap();
        self.frames.push(form::frame(segment, at, epoch, &frame));
        match header.kind {
            Kind::EPOCH => {
                let mark = EpochMark::parse(frame.payload()).unwrap();
                self.epoch = Some((mark.epoch, mark.ordinal));
            }
            Kind::ASSIGN => {
                let assign: Assign = frame.json("assign").unwrap();
                self.streams.insert((assign.epoch, assign.stream), assign);
            }
            Kind::DATA => {
                let epoch = epoch.expect("it was just checked");
                let assign = &self.streams[&(epoch, header.stream)];
                let label = assign.stream_key().to_string();
                for (seq, (time, values)) in
                    (header.first_index..).zip(form::rows(&frame, &assign.declaration))
                {
                    self.samples.push((
                        epoch,
                        header.sequence,
                        form::sample(&label, epoch, seq, time, values),
                    ));
                }
            }
            _ => {}
        }
        u64::from(header.length)
    }
}

fn read_messages(mut bytes: &[u8]) -> Result<Vec<Value>, Refusal> {
    let mut messages = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<MESSAGE_HEADER_BYTES>() {
        let header = MessageHeader::parse(*head)?;
        assert_eq!(&header.to_bytes(), head);
        let (body, rest) = rest.split_at(header.length as usize);
        let mut message = json!({"type": header.kind as u8, "channel": header.channel});
        match read_body(header.kind, body)? {
            (true, value) => message["json"] = value,
            (false, fields) => {
                message["hex"] = json!(hex(body));
                message["fields"] = fields;
            }
        }
        messages.push(message);
        bytes = rest;
    }
    Ok(messages)
}

/// Whether a body is JSON, and what it says.
fn read_body(kind: MessageType, body: &[u8]) -> Result<(bool, Value), Refusal> {
    fn read<T: serde::Serialize + serde::de::DeserializeOwned>(
        kind: MessageType,
        body: &[u8],
    ) -> Result<Value, Refusal> {
        Ok(serde_json::to_value(wire::parse_json::<T>(kind, body)?).expect("messages have string keys"))
    }
    let value = match kind {
        MessageType::Hello => read::<wire::Hello>(kind, body)?,
        MessageType::Open => read::<wire::Open>(kind, body)?,
        MessageType::Heartbeat => {
            serde_json::to_value(wire::Heartbeat::parse(body)?).expect("messages have string keys")
        }
        MessageType::Bye => read::<serde_json::Map<String, Value>>(kind, body)?,
        MessageType::Csr => read::<wire::Csr>(kind, body)?,
        MessageType::Renew => read::<wire::Renew>(kind, body)?,
        MessageType::Certificate => read::<wire::Certificate>(kind, body)?,
        MessageType::Welcome => read::<wire::Welcome>(kind, body)?,
        MessageType::Join => read::<wire::Join>(kind, body)?,
        MessageType::Opened => read::<wire::Opened>(kind, body)?,
        MessageType::Refused => read::<Refusal>(kind, body)?,
        MessageType::Stop => read::<wire::Stop>(kind, body)?,
        MessageType::Closed => read::<wire::Closed>(kind, body)?,
        MessageType::Done => read::<wire::Done>(kind, body)?,
        MessageType::Command => read::<wire::Command>(kind, body)?,
        MessageType::Sent => {
            let sent = wire::Sent::parse(body).expect("the length was checked");
            let fields = json!({"dev_send_ns": sent.dev_send_ns.to_string(), "first": sent.sequences.0.to_string(),
                "last": sent.sequences.1.to_string()});
            return Ok((false, fields));
        }
        MessageType::Ack => {
            let ack = wire::Ack::parse(body).expect("the length was checked");
            let fields = json!({"durable": ack.durable.map(|n| n.to_string()), "safe": ack.safe.map(|n| n.to_string()),
                "credit": ack.credit.to_string(), "hub_epoch": ack.hub_epoch, "hub_send_ns": ack.hub_send_ns.to_string(),
                "tag": hex(&ack.tag)});
            return Ok((false, fields));
        }
        MessageType::Frame | MessageType::Probe | MessageType::ProbeReply => return Ok((false, Value::Null)),
    };
    Ok((true, value))
}

fn header(header: &Header) -> Value {
    json!({
        "crc": header.crc, "length": header.length, "kind": header.kind.0, "kind_name": header.kind.name(),
        "flags": header.flags.0, "lane": header.lane as u8, "padding": header.padding, "stream": header.stream,
        "count": header.count, "sequence": header.sequence.to_string(),
        "first_index": header.first_index.to_string(), "first_time_ns": header.first_time_ns.to_string(),
    })
}

fn packet(packet: &TimePacket) -> Value {
    json!({
        "direction": packet.direction as u8, "key_id": KeyId(packet.key_id), "nonce": packet.nonce.to_string(),
        "dev_send_ns": packet.dev_send_ns.to_string(), "hub_epoch": packet.hub_epoch,
        "hub_recv_ns": packet.hub_recv_ns.to_string(), "hub_send_ns": packet.hub_send_ns.to_string(),
        "tag": hex(&packet.tag),
    })
}

fn probe(row: &ProbeRow, key: &StampKey, device: &DeviceId) -> Value {
    json!({
        "kind": row.kind as u8, "hub_epoch": row.hub_epoch, "nonce": row.nonce.to_string(),
        "dev_send_ns": row.dev_send_ns.to_string(), "hub_recv_ns": row.hub_recv_ns.to_string(),
        "hub_send_ns": row.hub_send_ns.to_string(), "dev_recv_ns": row.dev_recv_ns.to_string(),
        "tag": hex(&row.tag), "verified": key.verify(device, row),
    })
}

fn entry(entry: &Entry<'_>) -> Value {
    match entry {
        Entry::Name { log, session, device } => json!({"name": log, "session": session, "device": device}),
        Entry::Frames {
            log,
            segment,
            offset,
            bytes,
        } => {
            json!({"frames": log, "segment": segment, "offset": offset, "bytes": hex(bytes)})
        }
    }
}

/// The name of an error's variant, which is what vectors name errors by.
fn variant(error: &impl std::fmt::Debug) -> String {
    let shown = format!("{error:?}");
    shown
        .split(|c: char| !c.is_alphanumeric())
        .next()
        .unwrap_or_default()
        .to_owned()
}

fn device(json: &Value) -> DeviceId {
    DeviceId::new(json["device"].as_str().unwrap()).unwrap()
}

fn session(json: &Value) -> SessionId {
    SessionId::new(json["session"].as_str().unwrap()).unwrap()
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors").join(name)
}

/// Name and JSON of each vector of a folder.
fn descriptions(of: &str) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder(of)).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            found.push((
                name,
                serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap(),
            ));
        }
    }
    assert!(!found.is_empty(), "no vectors in {of}");
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

/// Name, bytes and JSON of each vector of one file.
fn vectors(of: &str) -> Vec<(String, Vec<u8>, Value)> {
    let read = |name: &str| std::fs::read(folder(of).join(format!("{name}.bin"))).unwrap();
    descriptions(of)
        .into_iter()
        .map(|(name, json)| (name.clone(), read(&name), json))
        .collect()
}
