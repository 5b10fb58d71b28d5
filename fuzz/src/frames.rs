//! Frames, their payloads, and the names and declarations in them.

use super::fixture::{EPOCH, declared, phone};
use super::vectors::vectors;
use marey_format::clock::ProbeRow;
use marey_format::frame::{Columns, Frame, Header, encode};
use marey_format::payload::{
    Arrival, Assign, Checkpoint, EndOfStream, EpochMark, Event, StreamKey, WallReading,
};
use marey_format::types::{FileName, Label, NameError, is_steering, plain, plain_lines};
use marey_format::{Declaration, DeviceId, SessionId, StreamName, limits};
use std::path::{Component, Path};
use std::sync::OnceLock;

/// A frame's form, its columns under several declarations, and every payload: nothing panics, and what was read is
/// written again as it was.
pub fn wire_frame(bytes: &[u8]) {
    payloads(bytes);
    let Ok(frame) = Frame::parse(bytes) else { return };
    assert!(frame.bytes().len() <= limits::FRAME_BYTES_MAX && frame.bytes().len().is_multiple_of(8));
    let (seed, header) = (phone(EPOCH), *frame.header());
    let again = encode(header, frame.payload(), seed).expect("it was within the limit");
    let again = Frame::checked(&again, seed).expect("it was just made");
    assert_eq!(again.payload(), frame.payload());
    assert_eq!(
        Header {
            crc: header.crc,
            ..*again.header()
        },
        header
    );
    payloads(frame.payload());
    let _ = (
        frame.json::<Assign>("assign"),
        frame.json::<EndOfStream>("end"),
        frame.json::<Event>("event"),
        frame.json::<WallReading>("wall"),
    );
    for declaration in declarations() {
        let Ok(columns) = Columns::parse(&frame, declaration) else {
            continue;
        };
        assert_eq!(columns.times.len(), header.count as usize);
        assert!(columns.times.iter().is_sorted());
        for column in &columns.fields {
            // A column of variable width gives a cell for every row.
            let cells = (0..columns.times.len())
                .filter(|&row| column.cell(row).is_some())
                .count();
            assert!(cells == 0 || cells == columns.times.len());
        }
    }
}

fn payloads(bytes: &[u8]) {
    if let Some(mark) = EpochMark::parse(bytes) {
        assert_eq!(EpochMark::parse(&mark.to_bytes()), Some(mark));
    }
    if let Some(point) = Checkpoint::parse(bytes) {
        assert_eq!(Checkpoint::parse(&point.to_bytes()), Some(point));
    }
    for row in Arrival::rows(bytes).into_iter().flatten() {
        let mut again = Vec::new();
        row.put(&mut again);
        assert_eq!(Arrival::rows(&again).expect("one row").next(), Some(row));
    }
    for row in ProbeRow::rows(bytes).into_iter().flatten() {
        let mut again = Vec::new();
        row.put(&mut again);
        assert_eq!(ProbeRow::rows(&again).expect("one row").next(), Some(row));
    }
}

/// A declaration that is taken is written and read again as the same.
pub fn declaration(bytes: &[u8]) {
    if let Ok(declaration) = Declaration::from_json(bytes) {
        let again = declaration.to_json();
        // What is written may be longer than what was read (`1e300`), and then over the limit.
        if again.len() <= limits::DECLARATION_BYTES_MAX {
            assert_eq!(
                Declaration::from_json(&again).expect("it was just written"),
                declaration
            );
        }
    }
}

/// A name is taken as it stands or refused; a name that is proposed instead is one that is taken. What is taken is one
/// part of a path and nothing else, and text that is shown steers no terminal.
pub fn names(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let proposed = |error: NameError| match error {
        NameError::Pattern { proposed, .. } | NameError::Reserved { proposed, .. } => proposed,
        NameError::NotHex { .. } => None,
    };
    let taken = [
        SessionId::new(text).is_ok(),
        DeviceId::new(text).is_ok(),
        StreamName::new(text).is_ok(),
        FileName::new(text).is_ok(),
    ];
    if taken.contains(&true) {
        let parts: Vec<_> = Path::new(text).components().collect();
        assert_eq!(parts, [Component::Normal(text.as_ref())]);
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        assert!(text.chars().all(plain) && !text.starts_with(['-', '.']));
    }
    match Label::new(text) {
        Ok(label) => assert_eq!(plain(label.as_str()), text, "a label is shown as it is"),
        Err(error) => assert!(!error.to_string().chars().any(is_steering)),
    }
    assert!(!plain(text).chars().any(is_steering));
    assert_eq!(plain(text).chars().count(), text.chars().count());
    let lines = plain_lines(text);
    assert!(!lines.chars().any(|c| !matches!(c, '\n' | '\t') && is_steering(c)));
    match SessionId::new(text) {
        Ok(name) => assert_eq!(name.as_str(), text),
        Err(error) => assert!(proposed(error).is_none_or(|name| SessionId::new(name).is_ok())),
    }
    match DeviceId::new(text) {
        Ok(name) => assert_eq!(name.as_str(), text),
        Err(error) => assert!(proposed(error).is_none_or(|name| DeviceId::new(name).is_ok())),
    }
    match StreamName::new(text) {
        Ok(name) => assert_eq!(name.as_str(), text),
        Err(error) => assert!(proposed(error).is_none_or(|name| StreamName::new(name).is_ok())),
    }
    match text.parse::<StreamKey>() {
        Ok(key) => assert_eq!(key.to_string().parse::<StreamKey>().ok(), Some(key)),
        Err(error) => assert!(proposed(error).is_none_or(|name| !name.is_empty())),
    }
}

pub fn frame_seeds() -> Vec<Vec<u8>> {
    vectors(&["frame"], "bin")
}

pub fn declaration_seeds() -> Vec<Vec<u8>> {
    vectors(&["frame"], "json")
        .iter()
        .filter_map(|bytes| {
            serde_json::from_slice::<serde_json::Value>(bytes)
                .ok()?
                .get("declaration")
                .cloned()
        })
        .map(|declaration| declaration.to_string().into_bytes())
        // Numbers that take all the digits that a double can have.
        .chain([
            br#"{"name":"adc","fields":[{"name":"v","type":"i16","scale":0.10000000000000002,
            "offset":-1.7976931348623157e308}],"rate_hz":51.200000000000003,"latency_us":9007199254740993}"#
                .to_vec(),
        ])
        .collect()
}

pub fn name_seeds() -> Vec<Vec<u8>> {
    [
        "walk-01",
        "2026-11-21",
        "1e5",
        "nan",
        "con",
        "phone",
        "Phone_2",
        "device_time_ns",
        "seq",
        "imu@2",
        "imu@",
        "é",
        "walk\n",
        "clip_1.mp4",
        "..",
        "../walk",
        "a\u{1b}[2J\u{202e}",
        "../walk",
        "",
    ]
    .map(|name| name.as_bytes().to_vec())
    .to_vec()
}

fn declarations() -> &'static [Declaration] {
    static ALL: OnceLock<Vec<Declaration>> = OnceLock::new();
    ALL.get_or_init(|| {
        vec![
            declared(&[r#""type":"f32""#, r#""type":"i32""#]),
            declared(&[r#""type":"binary""#]),
            declared(&[r#""type":"utf8""#, r#""type":"bool""#]),
            declared(&[r#""type":"i16","length":3"#, r#""type":"bool""#]),
        ]
    })
}
