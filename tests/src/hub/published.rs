//! What a session's folder holds, read from outside: Parquet with Arrow's own reader, logs frame by frame.
//!
//! Owns: counts and digests of what stands there, to be held against a device's own account. Uses neither the engine's
//! reader nor the device's digest: the bytes that go into a digest are put together here once more, from their
//! description.

#![allow(
    clippy::disallowed_methods,
    reason = "a test looks at the folder from outside"
)]

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use marey_engine::disk::OsDisk;
use marey_engine::log::Replay;
use marey_format::frame::Lane;
use marey_format::{DeviceId, EpochId, SessionId};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};

/// One stream of one device, as its Parquet files have it.
#[derive(Debug, Default)]
pub struct PublishedStream {
    pub rows: u64,
    /// Rows whose (epoch, index) stood there before.
    pub twice: u64,
    /// By the ordinal of the epoch, in its order: rows, and SHA-256 over index, device time and values, in order of the
    /// index.
    pub epochs: BTreeMap<i32, (u64, String)>,
    pub files: Vec<PathBuf>,
}

/// Reads every part of a stream, whatever its version number, of a device.
pub fn stream(session_dir: &Path, name: &str, device: &str) -> PublishedStream {
    let mut rows: BTreeMap<(i32, i64), Vec<u8>> = BTreeMap::new();
    let mut found = PublishedStream::default();
    for file in parts(session_dir, name, device) {
        let open = File::open(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let reader = ParquetRecordBatchReaderBuilder::try_new(open).and_then(|builder| builder.build());
        for batch in reader.unwrap_or_else(|error| panic!("{}: {error}", file.display())) {
            let batch = batch.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            let (epochs, indices) = (
                column::<Int32Type>(&batch, "epoch"),
                column::<Int64Type>(&batch, "seq"),
            );
            let times = column::<Int64Type>(&batch, "device_time_ns");
            for row in 0..batch.num_rows() {
                let mut bytes = indices[row].to_le_bytes().to_vec();
                bytes.extend(times[row].to_le_bytes());
                for channel in &batch.columns()[5..] {
                    put(&mut bytes, channel, row);
                }
                found.rows += 1;
                found.twice += u64::from(rows.insert((epochs[row], indices[row]), bytes).is_some());
            }
        }
        found.files.push(file);
    }
    let mut hashes: BTreeMap<i32, (u64, Sha256)> = BTreeMap::new();
    for ((epoch, _), bytes) in &rows {
        let (count, hash) = hashes.entry(*epoch).or_default();
        *count += 1;
        hash.update(bytes);
    }
    let hex = |hash: Sha256| hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    found.epochs = hashes
        .into_iter()
        .map(|(epoch, (count, hash))| (epoch, (count, hex(hash))))
        .collect();
    found
}

/// The Parquet files of a stream of a device, in the order of their names.
pub fn parts(session_dir: &Path, name: &str, device: &str) -> Vec<PathBuf> {
    let list = |dir: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(dir)
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect()
    };
    let wanted = format!("stream={name}@");
    let mut files: Vec<PathBuf> = list(&session_dir.join("streams"))
        .into_iter()
        .filter(|dir| {
            dir.file_name()
                .is_some_and(|found| found.to_string_lossy().starts_with(&wanted))
        })
        .flat_map(|dir| list(&dir.join(format!("device={device}"))))
        .collect();
    files.sort();
    files
}

/// One row of `events.parquet`.
#[derive(Debug, PartialEq, Eq)]
pub struct PublishedEvent {
    pub device: String,
    /// `device` or `hub`.
    pub source: String,
    pub kind: String,
    pub text: String,
}

/// The events of a session, in the order in which they stand there.
pub fn events(session_dir: &Path) -> Vec<PublishedEvent> {
    let path = session_dir.join("events.parquet");
    let open = File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let reader = ParquetRecordBatchReaderBuilder::try_new(open).and_then(|builder| builder.build());
    let mut found = Vec::new();
    for batch in reader.unwrap_or_else(|error| panic!("{}: {error}", path.display())) {
        let batch = batch.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let text = |name: &str, row: usize| {
            let column = batch
                .column_by_name(name)
                .unwrap_or_else(|| panic!("no column {name}"));
            let column = column.as_string::<i32>();
            match column.is_null(row) {
                true => String::new(),
                false => column.value(row).to_owned(),
            }
        };
        found.extend((0..batch.num_rows()).map(|row| PublishedEvent {
            device: text("device", row),
            source: text("source", row),
            kind: text("kind", row),
            text: text("text", row),
        }));
    }
    found
}

/// Epoch, lane and sequence.
pub type FrameName = (EpochId, u8, u64);

/// What devices were told to be durable: the lines that `--acknowledged` of `marey simulate` wrote, outside of the hub.
#[derive(Debug, Default)]
pub struct Acknowledged {
    /// CRC of each frame.
    pub frames: HashMap<FrameName, u32>,
    /// In data frames.
    pub samples: u64,
}

impl Acknowledged {
    pub fn read(path: &Path) -> Self {
        let mut acked = Self::default();
        for line in std::fs::read_to_string(path).expect("the oracle's file").lines() {
            let line: Value = serde_json::from_str(line).expect("a line of JSON");
            let text = |key: &str| line[key].as_str().unwrap_or_else(|| panic!("{key} of {line}"));
            let number = |key: &str| line[key].as_u64().unwrap_or_else(|| panic!("{key} of {line}"));
            let sequence = text("sequence").parse().expect("a number");
            let name = (
                text("epoch").parse().expect("an epoch"),
                number("lane") as u8,
                sequence,
            );
            let crc = u32::from_str_radix(text("crc"), 16).expect("a checksum");
            match acked.frames.insert(name, crc) {
                Some(before) => assert_eq!(before, crc, "the device made two frames of one name: {line}"),
                None if number("lane") == 0 => acked.samples += number("count"),
                None => {}
            }
        }
        acked
    }

    /// Those that are not there, or not as they were.
    pub fn lost(&self, held: &HashMap<FrameName, u32>) -> Vec<FrameName> {
        let is_lost = |(name, crc): (&FrameName, &u32)| (held.get(name) != Some(crc)).then_some(*name);
        self.frames.iter().filter_map(is_lost).collect()
    }
}

/// The device frames of a log.
#[derive(Debug, Default)]
pub struct LogFrames {
    /// CRC of each frame.
    pub crcs: HashMap<FrameName, u32>,
    /// Frames that were taken although one of their name was there.
    pub twice: u64,
    /// Samples of data frames.
    pub samples: u64,
}

/// Reads a device's log from its beginning, through the one apply function.
pub fn log(hub_dir: &Path, session: &SessionId, device: &DeviceId) -> LogFrames {
    let disk = OsDisk::new(hub_dir);
    let mut replay = Replay::open(&disk, session, device).expect("a log");
    let mut frames = Vec::new();
    while let Some(replayed) = replay.next().expect("readable") {
        let header = *replayed.at.frame.header();
        let (Some(epoch), true) = (replayed.at.epoch, replayed.judged.is_ok()) else {
            continue;
        };
        if header.lane != Lane::Hub {
            frames.push((epoch, header));
        }
    }
    let mut found = LogFrames::default();
    for (epoch, header) in frames {
        let id = replay.state().epochs()[epoch as usize].id;
        let before = found
            .crcs
            .insert((id, header.lane as u8, header.sequence), header.crc);
        found.twice += u64::from(before.is_some());
        found.samples += if header.lane == Lane::Data {
            u64::from(header.count)
        } else {
            0
        };
    }
    found
}

fn column<T: ArrowPrimitiveType>(batch: &RecordBatch, name: &str) -> Vec<T::Native> {
    let column = batch
        .column_by_name(name)
        .unwrap_or_else(|| panic!("no column {name}"));
    assert_eq!(column.null_count(), 0, "{name} holds nulls");
    column.as_primitive::<T>().values().to_vec()
}

/// A value as it goes into a digest: little-endian at its width, texts and bytes behind a u32 length, a list as its
/// elements.
fn put(to: &mut Vec<u8>, column: &ArrayRef, row: usize) {
    macro_rules! number {
        ($type:ty) => {
            to.extend_from_slice(&column.as_primitive::<$type>().value(row).to_le_bytes())
        };
    }
    match column.data_type() {
        DataType::Int8 => number!(Int8Type),
        DataType::Int16 => number!(Int16Type),
        DataType::Int32 => number!(Int32Type),
        DataType::Int64 => number!(Int64Type),
        DataType::UInt8 => number!(UInt8Type),
        DataType::UInt16 => number!(UInt16Type),
        DataType::UInt32 => number!(UInt32Type),
        DataType::UInt64 => number!(UInt64Type),
        DataType::Float32 => number!(Float32Type),
        DataType::Float64 => number!(Float64Type),
        DataType::Boolean => to.push(u8::from(column.as_boolean().value(row))),
        DataType::Utf8 => put_bytes(to, column.as_string::<i32>().value(row).as_bytes()),
        DataType::Binary => put_bytes(to, column.as_binary::<i32>().value(row)),
        DataType::FixedSizeList(..) => {
            let list = column.as_fixed_size_list().value(row);
            (0..list.len()).for_each(|item| put(to, &list, item));
        }
        other => panic!("a column of type {other}, which Marey does not write"),
    }
}

fn put_bytes(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    to.extend_from_slice(bytes);
}
