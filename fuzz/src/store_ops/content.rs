//! What the frames hold: every value follows from where it stands, so that a wrong one is seen.

use super::super::fixture::session;
use bytes::Bytes;
use marey_format::frame::{DataBuilder, Kind, Lane, Value, control_frame};
use marey_format::payload::EndOfStream;
use marey_format::{Declaration, DeviceId, EpochId, Seed};
use std::sync::OnceLock;

/// The devices' names.
pub fn device(number: u8) -> DeviceId {
    DeviceId::new(if number == 0 { "phone" } else { "watch" }).expect("they are names")
}

/// The id of a device's epoch.
pub fn epoch_id(device: u8, epoch: u8) -> EpochId {
    let mut id = [0xE0; 16];
    (id[0], id[1]) = (device + 1, epoch);
    EpochId(id)
}

/// A frame, and what the model needs to know of it.
#[derive(Clone, Debug)]
pub struct Made {
    pub bytes: Bytes,
    pub sequence: u64,
    pub meaning: Meaning,
}

/// What a frame says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Which of the two declarations.
    Declare(u8),
    Samples {
        first_index: u64,
        rows: Vec<Row>,
    },
    /// Nothing that the model looks at.
    Other,
}

/// A sample: device time and the value of the integer column.
pub type Row = (i64, i32);

/// Of a stream with one field of either type; they differ in a unit alone.
pub fn declaration(which: u8) -> &'static Declaration {
    static BOTH: OnceLock<[Declaration; 2]> = OnceLock::new();
    let both = BOTH.get_or_init(|| {
        ["", r#","unit":"mV""#].map(|unit| {
            let json = format!(
                r#"{{"name":"s","fields":[{{"name":"f0","type":"f32"}},{{"name":"f1","type":"i32"{unit}}}]}}"#
            );
            Declaration::from_json(json.as_bytes()).expect("it is a declaration")
        })
    });
    &both[usize::from(which)]
}

/// The frame of a place, in one of four variants. `skew` 1 makes sample indices go back, 2 device times.
pub fn frame(place: (u8, u8), lane: u8, sequence: u64, variant: u8, skew: u8) -> Made {
    let seed = Seed::new(&device(place.0), &session(), &epoch_id(place.0, place.1));
    if lane == 0 {
        return samples(place, sequence, variant, skew, seed);
    }
    let live = |kind, json: &[u8]| {
        control_frame(kind, Lane::Live, 1, sequence, sequence as i64, 0, json, seed).expect("it is short")
    };
    let (bytes, meaning) = match variant {
        0 => (
            live(Kind::DECLARE, &declaration(0).to_json()),
            Meaning::Declare(0),
        ),
        2 => (
            live(Kind::DECLARE, &declaration(1).to_json()),
            Meaning::Declare(1),
        ),
        1 => (
            live(Kind::EVENT, br#"{"kind":"label","text":"stairs"}"#),
            Meaning::Other,
        ),
        _ => {
            let end = EndOfStream {
                stream: 1,
                captured: sequence,
                next_index: sequence,
                frames: sequence,
                digest: "00".repeat(32),
            };
            let json = serde_json::to_vec(&end).expect("plain fields");
            (live(Kind::END, &json), Meaning::Other)
        }
    };
    Made {
        bytes: bytes.into(),
        sequence,
        meaning,
    }
}

fn samples(place: (u8, u8), sequence: u64, variant: u8, skew: u8, seed: Seed) -> Made {
    // So far apart that a frame of any length fits before the next.
    const STRIDE: u64 = 1000;
    let count = if variant == 3 { 150 } else { u64::from(variant) + 1 };
    let back = 3 * STRIDE / 2;
    let first_index = (sequence * STRIDE).saturating_sub(if skew == 1 { back } else { 0 });
    let first_time = (sequence * STRIDE).saturating_sub(if skew == 2 { back } else { 0 });
    let mut builder = DataBuilder::new(declaration(0));
    let rows: Vec<Row> = (0..count)
        .map(|i| {
            let time_ns = 1_000_000_000 + (first_time + i) as i64 * 1_000_000;
            let which =
                u64::from(place.0) << 8 | u64::from(place.1) << 4 | u64::from(variant) << 2 | u64::from(skew);
            let value = (sequence * 1_000_003 + i * 31 + which * 7_919) as i32;
            (time_ns, value)
        })
        .collect();
    for (time_ns, value) in &rows {
        let values = [Value::F32(*value as f32), Value::I64(i64::from(*value))];
        builder.push(*time_ns, &values).expect("the row fits");
    }
    let bytes = builder
        .finish(1, sequence, first_index, seed)
        .expect("it is far below the limit");
    Made {
        bytes: bytes.into(),
        sequence,
        meaning: Meaning::Samples { first_index, rows },
    }
}
