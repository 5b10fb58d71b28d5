//! `marey cat --frames` and `--samples`: the logs as they stand, line for line what `format-spec/reference/read_log.py`
//! prints, so that the two can be held against each other.

use super::{Arguments, Lines};
use crate::output::{Failure, Result};
use marey_engine::log::{FaultKind, Replay, Replayed};
use marey_engine::salvage::{Source, What};
use marey_engine::state::{Meaning, Violation};
use marey_format::frame::{Column, Columns};
use marey_format::types::hex;
use marey_format::{Declaration, DeviceId, FieldType, Lane, SessionId};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A data frame's samples, as they will be printed, in order of epoch and sequence.
type Samples = BTreeMap<(u32, u64), Vec<Value>>;

pub fn cat(source: &Source, arguments: &Arguments, lines: &mut Lines<'_>) -> Result {
    let is_session = matches!(source.what(), What::Session { .. });
    let logs: Vec<(SessionId, DeviceId)> = match source.what().clone() {
        What::Session { session } => source
            .devices(&session)?
            .into_iter()
            .map(|device| (session.clone(), device))
            .collect(),
        What::Log { session, device } | What::Segment { session, device, .. } => vec![(session, device)],
        What::Hub => {
            return Err(Failure::Usage(
                "--frames and --samples take a session or a log".to_owned(),
            ));
        }
    };
    let mut damaged = false;
    for (session, device) in logs {
        if arguments.device.as_ref().is_some_and(|wanted| *wanted != device) {
            continue;
        }
        let mut print = |line: Value| -> Result<bool> {
            let line = match (is_session, line) {
                (true, Value::Object(rest)) => {
                    let mut line = serde_json::Map::new();
                    line.insert("device".to_owned(), device.to_string().into());
                    line.extend(rest);
                    Value::Object(line)
                }
                (_, line) => line,
            };
            lines.print(&serde_json::to_string(&line)?)
        };
        damaged |= log(source, &session, &device, arguments, &mut print)?;
    }
    match damaged {
        true => Err(Failure::fault(
            "the log is damaged; `marey recover --out DIR` salvages what is whole",
        )),
        false => Ok(()),
    }
}

/// Prints one log; whether it is damaged.
fn log(
    source: &Source,
    session: &SessionId,
    device: &DeviceId,
    arguments: &Arguments,
    print: &mut dyn FnMut(Value) -> Result<bool>,
) -> Result<bool> {
    let disk = source.disk();
    let mut replay = Replay::open(&*disk, session, device)?;
    let mut samples = Samples::new();
    let mut kept_out = Vec::new();
    let frames = arguments.frames || !arguments.samples;
    while let Some(replayed) = replay.next()? {
        if matches!(replayed.judged, Err(Violation::Below { .. })) {
            continue;
        }
        if frames && !print(frame_line(&replayed))? {
            return Ok(false);
        }
        if arguments.samples
            && let Ok(judged) = &replayed.judged
            && let Meaning::Data(quarantine) = &judged.meaning
        {
            let entry = judged.entry;
            let at = &replayed.at;
            let why = quarantine.as_ref().map(|quarantine| quarantine.as_str());
            let place = (at.segment, at.offset, at.frame.bytes().len());
            let frame = at.frame.bytes().to_vec();
            match (why, replay.state().stream(entry.epoch, entry.stream)) {
                (None, Some(stream)) => {
                    let label = stream.key.as_ref().map_or(String::new(), ToString::to_string);
                    let declaration = stream.declaration.clone();
                    let lines = sample_lines(&frame, &declaration, &label, entry.epoch, entry.first_index)?;
                    samples.insert((entry.epoch, entry.sequence), lines);
                }
                (why, _) => kept_out.push((place, why.unwrap_or("no assign frame names its stream"))),
            }
        }
    }
    for line in samples.into_values().flatten() {
        if !print(line)? {
            return Ok(false);
        }
    }
    let mut damaged = false;
    for fault in replay.reader().faults() {
        let kind = match fault.kind {
            FaultKind::Damage => "damage",
            FaultKind::TornTail => "torn",
        };
        damaged |= fault.kind == FaultKind::Damage;
        print(
            json!({"fault": kind, "segment": fault.segment, "offset": fault.offset, "bytes": fault.bytes,
            "why": fault.why}),
        )?;
    }
    for ((segment, offset, bytes), why) in kept_out {
        print(
            json!({"fault": "quarantined", "segment": segment, "offset": offset, "bytes": bytes, "why": why}),
        )?;
    }
    Ok(damaged)
}

fn frame_line(replayed: &Replayed<'_>) -> Value {
    let at = &replayed.at;
    let header = at.frame.header();
    json!({
        "segment": at.segment,
        "offset": at.offset,
        "length": header.length,
        "kind": header.kind.0,
        "lane": header.lane as u8,
        "epoch": if header.lane == Lane::Hub { None } else { at.epoch },
        "stream": header.stream,
        "count": header.count,
        "sequence": header.sequence,
        "first_index": header.first_index,
        "first_time_ns": header.first_time_ns,
        "crc": header.crc,
    })
}

fn sample_lines(
    frame: &[u8],
    declaration: &Declaration,
    label: &str,
    epoch: u32,
    first_index: u64,
) -> Result<Vec<Value>> {
    let frame = marey_format::Frame::parse(frame)?;
    let columns = Columns::parse(&frame, declaration)?;
    let fields: Vec<_> = columns.fields.iter().zip(&declaration.fields).collect();
    let line = |row: usize, device_time_ns: i64| {
        let values: Vec<Value> = fields
            .iter()
            .map(|(column, field)| cell(column, field.kind, field.length, row))
            .collect();
        json!({"stream": label, "epoch": epoch, "seq": first_index + row as u64, "device_time_ns": device_time_ns,
            "values": values})
    };
    Ok(columns
        .times
        .iter()
        .enumerate()
        .map(|(row, time)| line(row, time))
        .collect())
}

fn cell(column: &Column<'_>, kind: FieldType, length: Option<u32>, row: usize) -> Value {
    let Column::Fixed(bytes) = column else {
        let cell = column.cell(row).unwrap_or_default();
        return match kind {
            FieldType::Utf8 => String::from_utf8_lossy(cell).into_owned().into(),
            _ => hex(cell).into(),
        };
    };
    let width = kind.width().unwrap_or(1);
    let element = |at: usize| element(&bytes[at * width..(at + 1) * width], kind);
    match length {
        None => element(row),
        Some(length) => (row * length as usize..(row + 1) * length as usize)
            .map(element)
            .collect(),
    }
}

fn element(bytes: &[u8], kind: FieldType) -> Value {
    let mut wide = [0; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    let unsigned = u64::from_le_bytes(wide);
    let unused = 64 - 8 * bytes.len() as u32;
    let signed = (unsigned << unused).cast_signed() >> unused;
    match kind {
        FieldType::I8 | FieldType::I16 | FieldType::I32 | FieldType::I64 => signed.into(),
        FieldType::F32 => hex_float(f64::from(f32::from_bits(unsigned as u32))).into(),
        FieldType::F64 => hex_float(f64::from_bits(unsigned)).into(),
        FieldType::Bool => (unsigned != 0).into(),
        _ => unsigned.into(),
    }
}

/// A float as C's `%a` and Python's `float.hex` write it: every bit, and readable.
fn hex_float(x: f64) -> String {
    let sign = if x.is_sign_negative() { "-" } else { "" };
    if x.is_nan() {
        return "nan".to_owned();
    }
    if x.is_infinite() {
        return format!("{sign}inf");
    }
    let bits = x.to_bits();
    let (exponent, fraction) = ((bits >> 52 & 0x7FF) as i64, bits & ((1 << 52) - 1));
    match (exponent, fraction) {
        (0, 0) => format!("{sign}0x0.0p+0"),
        (0, _) => format!("{sign}0x0.{fraction:013x}p-1022"),
        _ => format!("{sign}0x1.{fraction:013x}p{:+}", exponent - 1023),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_python_writes_them() {
        for (x, text) in [
            (1.5, "0x1.8000000000000p+0"),
            (-0.0, "-0x0.0p+0"),
            (0.1, "0x1.999999999999ap-4"),
            (5e-324, "0x0.0000000000001p-1022"),
            (f64::NEG_INFINITY, "-inf"),
            (f64::NAN, "nan"),
        ] {
            assert_eq!(hex_float(x), text);
        }
    }
}
