//! Single frames, good and broken.

use crate::Vector;
use crate::log::{blob, declaration, imu, rows, value};
use marey_format::frame::{DataBuilder, Flags, Frame, Header, Kind, Lane, Value as Sample, encode};
use marey_format::types::Period;
use marey_format::{Declaration, DeviceId, EpochId, Seed, SessionId};
use serde_json::{Value, json};

const EPOCH: EpochId = EpochId([0xA0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);

pub fn vectors() -> Vec<Vector> {
    let mut vectors = good();
    vectors.extend(broken_forms());
    vectors.extend(broken_columns());
    vectors
}

fn seed() -> Seed {
    let name = "it is a name";
    Seed::new(
        &DeviceId::new("phone").expect(name),
        &SessionId::new("walk").expect(name),
        &EPOCH,
    )
}

fn hub_seed() -> Seed {
    let name = "it is a name";
    Seed::new(
        &DeviceId::new("phone").expect(name),
        &SessionId::new("walk").expect(name),
        &EpochId::HUB,
    )
}

fn header(kind: Kind, lane: Lane) -> Header {
    Header {
        crc: 0,
        length: 0,
        kind,
        flags: Flags::default(),
        lane,
        padding: 0,
        stream: 1,
        count: 0,
        sequence: 5,
        first_index: 0,
        first_time_ns: 1_000_000_000,
    }
}

/// What every frame vector says: whose it is, and what its header holds.
fn about(text: &str, bytes: &[u8], hub: bool) -> Value {
    let epoch = if hub { EpochId::HUB } else { EPOCH };
    let header = *Frame::parse(bytes).expect("it was just made").header();
    json!({
        "about": text, "device": "phone", "session": "walk", "epoch": epoch,
        "header": {
            "crc": header.crc, "length": header.length, "kind": header.kind.0, "kind_name": header.kind.name(),
            "flags": header.flags.0, "lane": header.lane as u8, "padding": header.padding, "stream": header.stream,
            "count": header.count, "sequence": header.sequence.to_string(),
            "first_index": header.first_index.to_string(), "first_time_ns": header.first_time_ns.to_string(),
        },
    })
}

fn good() -> Vec<Vector> {
    let mut vectors = Vec::new();
    let mut data = |name: &str,
                    text: &str,
                    declaration: &Declaration,
                    times: &[i64],
                    rows: Vec<Vec<Sample>>,
                    period| {
        let mut builder = DataBuilder::new(declaration);
        for (time, row) in times.iter().zip(&rows) {
            builder.push(*time, row).expect("the rows fit");
        }
        let bytes = match period {
            None => builder.finish(1, u64::MAX, u64::MAX - 9, seed()),
            Some(period) => builder.finish_regular(period, 1, 0, 0, seed()),
        };
        let bytes = bytes.expect("it is short");
        let mut json = about(text, &bytes, false);
        json["declaration"] = json!(declaration);
        json["samples"] = times
            .iter()
            .zip(&rows)
            .map(|(time, row)| {
                json!({"device_time_ns": time.to_string(), "values": row.iter().map(value).collect::<Vec<_>>()})
            })
            .collect();
        vectors.push(Vector::one("frame", name, bytes, json));
    };
    let text = "Times in a column, equal ones among them; the highest sequence.";
    data("data", text, &imu(), &[i64::MIN, -1, -1], rows(3), None);
    let third = Period {
        numerator: 1_000_000_000,
        denominator: 3,
    };
    let times: Vec<i64> = (0..3)
        .map(|i| third.time_ns(7, i).expect("it is in range"))
        .collect();
    data(
        "regular",
        "A period of a third of a second.",
        &imu(),
        &times,
        rows(0),
        Some(third),
    );
    let bytes = |bytes: &[u8]| vec![Sample::Bytes(bytes.to_vec())];
    data(
        "binary",
        "Bytes, none among them.",
        &blob(),
        &[1, 2, 3],
        vec![bytes(b"\xF5MF1"), bytes(b""), bytes(b"\0")],
        None,
    );
    let lists = declaration(
        r#"{"name":"ecg","fields":[{"name":"leads","type":"i16","length":3},{"name":"ok","type":"bool"}]}"#,
    );
    let row = |a: i64, ok| {
        vec![
            Sample::List((a..a + 3).map(Sample::I64).collect()),
            Sample::Bool(ok),
        ]
    };
    data(
        "lists",
        "Fixed-size lists and bools.",
        &lists,
        &[1, 2],
        vec![row(-5, true), row(32765, false)],
        None,
    );

    let mut control = |name: &str, kind: Kind, lane: Lane, count: u32, payload: &[u8]| {
        let seed = if lane == Lane::Hub { hub_seed() } else { seed() };
        let bytes = encode(
            Header {
                count,
                ..header(kind, lane)
            },
            payload,
            seed,
        )
        .expect("it is short");
        let mut json = about(
            &format!("A frame of kind {}.", kind.name()),
            &bytes,
            lane == Lane::Hub,
        );
        match std::str::from_utf8(payload)
            .ok()
            .filter(|text| text.starts_with('{'))
        {
            Some(text) => json["payload_text"] = json!(text),
            None => json["payload_hex"] = json!(marey_format::types::hex(payload)),
        }
        vectors.push(Vector::one("frame", name, bytes, json));
    };
    let live = Lane::Live;
    control("declare", Kind::DECLARE, live, 0, &imu().to_json());
    control(
        "event",
        Kind::EVENT,
        live,
        0,
        r#"{"kind":"label","text":"à gauche","duration_ns":1500}"#.as_bytes(),
    );
    control("state", Kind::STATE, live, 0, br#"{"battery":0.75}"#);
    control("probes", Kind::PROBES, live, 1, &[1; 64]);
    let end =
        br#"{"stream":1,"captured":"9","next_index":"18446744073709551615","frames":"3","digest":"00"}"#;
    control("end", Kind::END, live, 0, end);
    control("private", Kind(0x7F), live, 0, b"nobody knows");
    control(
        "epoch",
        Kind::EPOCH,
        Lane::Hub,
        0,
        &[[0xA0; 16], [0xB0; 16]]
            .concat()
            .iter()
            .copied()
            .chain([0; 8])
            .collect::<Vec<_>>(),
    );
    control("arrival", Kind::ARRIVAL, Lane::Hub, 1, &[2; 48]);
    control(
        "note",
        Kind::NOTE,
        Lane::Hub,
        0,
        br#"{"kind":"acknowledged_loss"}"#,
    );
    control("no-payload", Kind::STATE, live, 0, b"");
    vectors
}

/// What [`Frame::checked`] refuses.
fn broken_forms() -> Vec<Vector> {
    let mut builder = DataBuilder::new(&imu());
    rows(0)
        .iter()
        .for_each(|row| builder.push(5, row).expect("the rows fit"));
    let good = builder.finish(1, 0, 0, seed()).expect("it is short");
    let broken = |name: &str, error: &str, text: &str, harm: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        harm(&mut bytes);
        let json =
            json!({"about": text, "device": "phone", "session": "walk", "epoch": EPOCH, "error": error});
        Vector::one("frame", name, bytes, json)
    };
    let length = |to: u32| move |bytes: &mut Vec<u8>| bytes[8..12].copy_from_slice(&to.to_le_bytes());
    vec![
        broken("cut-header", "Short", "Fewer bytes than a header.", &|b| {
            b.truncate(47)
        }),
        broken(
            "cut-payload",
            "Short",
            "Fewer bytes than the header says.",
            &|b| b.truncate(b.len() - 8),
        ),
        broken("no-mark", "Mark", "The mark is another one.", &|b| b[3] = b'2'),
        broken(
            "length-odd",
            "Length",
            "A length that is no multiple of 8.",
            &length(100),
        ),
        broken(
            "length-short",
            "Length",
            "A length below that of a header.",
            &length(40),
        ),
        broken(
            "length-over",
            "Length",
            "A length over the limit.",
            &length((1 << 20) + 8),
        ),
        broken("lane-3", "Lane", "A lane that there is not.", &|b| b[14] = 3),
        broken(
            "padding-8",
            "Padding",
            "More padding than a frame can have.",
            &|b| b[15] = 8,
        ),
        broken("crc", "Crc", "A bit of the payload.", &|b| b[70] ^= 1),
        broken(
            "crc-padding",
            "Crc",
            "A bit of the padding: the checksum covers it.",
            &|b| *b.last_mut().expect("it has bytes") ^= 1,
        ),
        broken("crc-header", "Crc", "A bit of the sequence.", &|b| b[24] ^= 1),
        broken("other-log", "Crc", "A whole frame of another device.", &|b| {
            let other = Seed::new(
                &DeviceId::new("watch").expect("it is a name"),
                &SessionId::new("walk").expect("it is a name"),
                &EPOCH,
            );
            let crc = other.checksum(&b[8..]);
            b[4..8].copy_from_slice(&crc.to_le_bytes());
        }),
    ]
}

/// What is a frame, and whose columns do not fit what was declared.
fn broken_columns() -> Vec<Vector> {
    let one = |kind: &str| {
        declaration(&format!(
            r#"{{"name":"s","fields":[{{"name":"x","type":"{kind}"}}]}}"#
        ))
    };
    let broken =
        |name: &str, error: &str, text: &str, kind: &str, count: u32, flags: Flags, payload: &[u8]| {
            let header = Header {
                count,
                flags,
                first_time_ns: 7,
                ..header(Kind::DATA, Lane::Data)
            };
            let bytes = encode(header, payload, seed()).expect("it is short");
            let mut json = about(text, &bytes, false);
            json["declaration"] = json!(one(kind));
            json["columns_error"] = json!(error);
            Vector::one("frame", name, bytes, json)
        };
    let times = |times: &[i64], rest: &[u8]| -> Vec<u8> {
        times
            .iter()
            .flat_map(|t| t.to_le_bytes())
            .chain(rest.iter().copied())
            .collect()
    };
    let words = |words: &[u32]| -> Vec<u8> { words.iter().flat_map(|w| w.to_le_bytes()).collect() };
    let plain = Flags::default();
    let period: Vec<u8> = [u64::MAX, 1]
        .iter()
        .flat_map(|w| w.to_le_bytes())
        .chain([0; 16])
        .collect();
    vec![
        broken("columns-empty", "Empty", "No samples.", "i8", 0, plain, &[]),
        broken(
            "columns-count",
            "Count",
            "More samples than a frame may have.",
            "i8",
            131_073,
            plain,
            &[],
        ),
        broken(
            "columns-flags",
            "Flags",
            "Flags of a later version.",
            "i8",
            1,
            Flags(0x02),
            &times(&[7], &[1]),
        ),
        broken(
            "columns-encrypted",
            "Flags",
            "The flag of encryption.",
            "i8",
            1,
            Flags::ENCRYPTED,
            &times(&[7], &[1]),
        ),
        broken(
            "columns-time-back",
            "TimeBackward",
            "A time before the last.",
            "i8",
            2,
            plain,
            &times(&[7, 6], &[1, 2]),
        ),
        broken(
            "columns-first-time",
            "FirstTime",
            "Header and column differ.",
            "i8",
            1,
            plain,
            &times(&[8], &[1]),
        ),
        broken(
            "columns-short",
            "Payload",
            "A column is missing.",
            "i8",
            1,
            plain,
            &times(&[7], &[]),
        ),
        broken(
            "columns-long",
            "Payload",
            "Bytes behind the last column.",
            "i8",
            1,
            plain,
            &times(&[7], &[0; 16]),
        ),
        broken(
            "columns-bool",
            "Bool",
            "A bool of 2.",
            "bool",
            1,
            plain,
            &times(&[7], &[2]),
        ),
        broken(
            "columns-offsets",
            "Offsets",
            "Offsets that fall.",
            "utf8",
            2,
            plain,
            &times(&[7, 7], &[words(&[0, 2, 1, 0]), b"a".to_vec()].concat()),
        ),
        broken(
            "columns-utf8",
            "Utf8",
            "A text that is not UTF-8.",
            "utf8",
            1,
            plain,
            &times(&[7], &[words(&[0, 2]), vec![0xC3, 0x28]].concat()),
        ),
        broken(
            "columns-period-zero",
            "Period",
            "A denominator of 0.",
            "i64",
            2,
            Flags::REGULAR,
            &[0; 32],
        ),
        broken(
            "columns-period-over",
            "Period",
            "Times that leave their range.",
            "i64",
            2,
            Flags::REGULAR,
            &period,
        ),
    ]
}
