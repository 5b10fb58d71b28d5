//! Segments of device logs: their parts, reading them, salvaging what is whole.

use super::fixture::{device, options, session, write};
use super::mended;
use super::vectors::vectors;
use marey_engine::Session;
use marey_engine::disk::memory::MemoryDisk;
use marey_engine::disk::{self, Disk};
use marey_engine::log::{LogReader, Replay};
use marey_engine::salvage::{self, Source, VerifyOptions};
use marey_format::frame::Lane;
use marey_format::log::{
    Footer, INDEX_MAGIC, IndexEntry, SEGMENT_HEADER_BYTES, SegmentHeader, TRAILER_BYTES, Trailer,
};
use marey_format::payload::Checkpoint;
use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

/// Header, trailer, index and checkpoint: what is taken is written again as it was read.
pub fn segment_parts(bytes: &[u8]) {
    parts(bytes);
    let mut whole = bytes.to_vec();
    mended::header(&mut whole);
    let index_at = whole
        .windows(INDEX_MAGIC.len())
        .rposition(|bytes| bytes == INDEX_MAGIC);
    mended::footer(&mut whole, index_at.unwrap_or(SEGMENT_HEADER_BYTES));
    parts(&whole);
}

fn parts(bytes: &[u8]) {
    if let Ok(header) = SegmentHeader::parse(bytes) {
        assert_eq!(SegmentHeader::parse(&header.to_bytes()), Ok(header));
    }
    if let Some(point) = Checkpoint::parse(bytes) {
        assert_eq!(Checkpoint::parse(&point.to_bytes()), Some(point));
    }
    let Some(end) = bytes.len().checked_sub(TRAILER_BYTES) else {
        return;
    };
    let Ok(trailer) = Trailer::parse(&bytes[end..], bytes.len() as u64) else {
        return;
    };
    assert_eq!(trailer.data_bytes + trailer.index_bytes(), end as u64);
    let index = &bytes[trailer.data_bytes as usize..end];
    if let Ok(footer) = Footer::parse(&trailer, index) {
        assert_eq!(footer.entries.len() as u64, trailer.frames);
        assert_eq!(index.len(), 8 + footer.entries.len() * IndexEntry::BYTES);
        let again = footer.to_bytes();
        let (index, end) = again.split_at(again.len() - TRAILER_BYTES);
        let trailer =
            Trailer::parse(end, footer.data_bytes + again.len() as u64).expect("it was just written");
        assert_eq!(Footer::parse(&trailer, index), Ok(footer));
    }
}

/// A segment of any bytes, read as a log: what is delivered is whole, in its place, and once.
pub fn log_scan(bytes: &[u8]) {
    scan(bytes);
    scan(&mended::segment(bytes));
}

fn scan(bytes: &[u8]) {
    let disk = log_of(bytes);
    let (session, device) = (session(), device());
    let mut reader = LogReader::open(&disk, &session, &device).expect("the disk does not fail");
    let mut end = 0;
    while let Some(found) = reader.next().expect("the disk does not fail") {
        assert!(found.offset >= end, "frames do not overlap");
        end = found.offset + found.frame.bytes().len() as u64;
        let place = found.offset as usize..end as usize;
        assert_eq!(
            bytes.get(place),
            Some(found.frame.bytes()),
            "a frame is the bytes of its place"
        );
    }
    for fault in reader.faults() {
        assert!(fault.offset <= bytes.len() as u64, "a fault lies in the file");
    }
    let mut replay = Replay::open(&disk, &session, &device).expect("the disk does not fail");
    let mut taken = HashSet::new();
    while let Some(replayed) = replay.next().expect("the disk does not fail") {
        if let Ok(judged) = &replayed.judged
            && judged.entry.lane != Lane::Hub
        {
            let name = (judged.entry.epoch, judged.entry.lane, judged.entry.sequence);
            assert!(taken.insert(name), "{name:?} was taken twice");
        }
    }
}

/// A segment of any bytes, salvaged: what a reader delivers comes through byte for byte, or is named as lost; the copy has
/// no fault.
pub fn recover(bytes: &[u8]) {
    salvaged(bytes);
    salvaged(&mended::segment(bytes));
}

fn salvaged(bytes: &[u8]) {
    let disk = log_of(bytes);
    let Ok(source) = Source::on(Arc::new(disk.snapshot()), Path::new("")) else {
        return;
    };
    let out = MemoryDisk::new();
    let Ok(report) = salvage::recover(&source, Arc::new(out.clone()), &options(), &|_, _| {}) else {
        return;
    };
    let before = device_frames(&disk);
    let after = device_frames(&out);
    let is_named = |(epoch, lane, sequence): &Name| {
        report.lost.frames.iter().any(|lost| {
            let range = lost.first..=lost.last.unwrap_or(u64::MAX);
            lost.epoch.is_none_or(|of| of == *epoch) && lost.lane == *lane && range.contains(sequence)
        })
    };
    for (name, frame) in &before {
        let saved = after.values().any(|copy| copy == frame);
        assert!(
            saved || is_named(name),
            "{name:?} did not come through and is not named: {report:?}"
        );
    }
    for frame in after.values() {
        let place = bytes.windows(frame.len()).any(|place| place == frame.as_slice());
        assert!(place, "a frame that was not there: {report:?}");
    }
    let copy = Source::on(Arc::new(out), Path::new("")).expect("a copy is a hub's folder");
    let verified = salvage::verify(&copy, &VerifyOptions::default(), &|_| {}).expect("it can be read");
    let faults: Vec<_> = verified
        .faults
        .iter()
        .filter(|fault| fault.device.is_some())
        .collect();
    assert!(faults.is_empty(), "the copy has faults: {faults:?}");
}

/// Epoch, lane and sequence.
type Name = (u32, &'static str, u64);

/// The frames that were taken, of either lane of the device.
fn device_frames(disk: &dyn Disk) -> BTreeMap<Name, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut replay = Replay::open(disk, &session(), &device()).expect("the disk does not fail");
    while let Some(replayed) = replay.next().expect("the disk does not fail") {
        let Ok(judged) = &replayed.judged else { continue };
        let lane = match judged.entry.lane {
            Lane::Data => "data",
            Lane::Live => "live",
            Lane::Hub => continue,
        };
        let name = (judged.entry.epoch, lane, judged.entry.sequence);
        found.insert(name, replayed.at.frame.bytes().to_vec());
    }
    found
}

fn log_of(bytes: &[u8]) -> MemoryDisk {
    let disk = MemoryDisk::new();
    let dir = Session::log_dir(&session(), &device());
    disk::create_dirs(&disk, &dir).expect("an empty disk takes folders");
    write(&disk, &dir.join("000001.mlog"), bytes);
    disk
}

pub fn log_seeds() -> Vec<Vec<u8>> {
    vectors(&["log", "damaged"], "bin")
}

pub fn part_seeds() -> Vec<Vec<u8>> {
    let mut seeds = log_seeds();
    // Each part by itself, so that changes fall on it.
    for segment in vectors(&["log"], "bin") {
        if let Some(header) = segment.get(..SEGMENT_HEADER_BYTES) {
            seeds.push(header.to_vec());
        }
    }
    let point = Checkpoint {
        number: 1,
        offset: 256,
        length: 64,
        crc: 9,
        synced_through: 200,
        frames: vec![0, 8],
    };
    seeds.push(point.to_bytes());
    seeds
}
