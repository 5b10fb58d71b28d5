//! What is published of a session, in numbers, without a look into its logs: from manifest, receipt and the tables beside the
//! streams, in a time that does not grow with the samples.
//!
//! Only where the logs have the files and lengths that the manifest names: where anything came since, or something is not there,
//! nothing is said, and [`contents`](super::contents) reads the logs. Bytes that rotted since are not seen here either way but
//! by [`verify`](super::verify).

use super::contents::{
    ClockContents, DeviceContents, SessionContents, StreamContents, drift_of, fields, readable, time_text,
};
use super::source::Source;
use crate::compact::{CompactError, LogFact, Manifest, Receipt, StreamReceipt, read_receipt};
use crate::disk::Disk;
use crate::log::is_landmark;
use crate::read::{ReadError, Table, declarations};
use crate::session::Session;
use arrow::array::AsArray;
use arrow::compute::kernels::cast_utils::string_to_timestamp_nanos;
use arrow::datatypes::{Int32Type, Int64Type};
use marey_format::payload::StreamKey;
use marey_format::{Declaration, DeviceId};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What the newest generation holds. None where that is not all that there is, or can't be told without the logs.
///
/// # Errors
/// If the disk fails.
pub fn published_contents(
    source: &Source,
    session: &Session,
) -> Result<Option<SessionContents>, CompactError> {
    let disk = &*source.view;
    let dir = Session::dir(&session.id);
    let Some(manifest) = readable(Manifest::read(disk, &dir))? else {
        return Ok(None);
    };
    let Some(receipt) = readable(read_receipt(disk, &dir, manifest.generation))? else {
        return Ok(None);
    };
    // What the disk could not read it may read by now, or not: that is for a look into the logs.
    if manifest.left_out().next().is_some() || !is_all(disk, &dir, &manifest)? {
        return Ok(None);
    }
    // A table that can't be read is told of by whoever reads the logs, or verifies.
    let (Ok(declared), Ok(clocks)) = (declarations(disk, &session.id), clocks(disk, session)) else {
        return Ok(None);
    };
    let known = Known {
        manifest: &manifest,
        receipt: &receipt,
        declared: &declared,
        clocks: &clocks,
    };
    let Some(devices) = manifest.logs.iter().map(|log| known.device(log)).collect() else {
        return Ok(None);
    };
    // Of bounds that are wider than the session asks for the receipt warns already: no generation of a session that asks
    // was published without.
    Ok(Some(SessionContents {
        session: session.id.clone(),
        state: Some(session.state),
        anchor: Some(time_text(manifest.anchor.utc_ns.div_euclid(1_000))),
        generation: manifest.generation,
        complete: Some(receipt.complete),
        late_frames: false,
        devices,
        warnings: receipt.time.warnings.clone(),
        faults: receipt.damage.len(),
        unreadable: Vec::new(),
        left_out: Vec::new(),
        retired: None,
    }))
}

/// Whether the logs are the files that went in, as long as they were.
fn is_all(disk: &dyn Disk, dir: &Path, manifest: &Manifest) -> Result<bool, CompactError> {
    let mut there = BTreeMap::new();
    let logs = dir.join("logs");
    let listed = |path: &Path| match disk.list(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed.map_err(|error| crate::StorageError::io("listing", disk.describe(path), error)),
    };
    for device in listed(&logs)? {
        let files = listed(&logs.join(&device.name))?.into_iter();
        for file in files.filter(|file| !is_landmark(&file.name)) {
            there.insert(format!("logs/{}/{}", device.name, file.name), file.stat.bytes);
        }
    }
    let segments = manifest.logs.iter().flat_map(|log| &log.segments);
    let went_in: BTreeMap<_, _> = segments
        .map(|segment| (segment.path.clone(), segment.bytes))
        .collect();
    Ok(!went_in.is_empty() && there == went_in)
}

/// The segments of a clock, and the ends of its map in device and session time.
type Map = (BTreeSet<i32>, Vec<(i64, i64)>);

/// A device's clocks, as they were published.
#[derive(Debug, Default)]
struct Clocks {
    maps: BTreeMap<String, Map>,
    evidence: usize,
}

fn clocks(disk: &dyn Disk, session: &Session) -> Result<BTreeMap<String, Clocks>, ReadError> {
    let mut found: BTreeMap<String, Clocks> = BTreeMap::new();
    let broken = |name: &str| ReadError::Rows {
        what: format!("{name} of session {} is not of its form", session.id),
    };
    for batch in Table::published(disk, &session.id, "clock_map.parquet")? {
        let batch = batch?;
        let take = || {
            let text = |name| batch.column_by_name(name)?.as_string_opt::<i32>();
            let ns = |name| batch.column_by_name(name)?.as_primitive_opt::<Int64Type>();
            let segments = batch.column_by_name("segment")?.as_primitive_opt::<Int32Type>()?;
            Some((
                text("device")?,
                text("clock")?,
                segments,
                ns("device_time_ns")?,
                ns("session_time_ns")?,
            ))
        };
        let (devices, clocks, segments, device_ns, session_ns) =
            take().ok_or_else(|| broken("clock_map.parquet"))?;
        for row in 0..batch.num_rows() {
            let of = found.entry(devices.value(row).to_owned()).or_default();
            let (known, ends) = of.maps.entry(clocks.value(row).to_owned()).or_default();
            known.insert(segments.value(row));
            // The first and the last.
            ends.truncate(1);
            ends.push((device_ns.value(row), session_ns.value(row)));
        }
    }
    for batch in Table::published(disk, &session.id, "clock_probes.parquet")? {
        let batch = batch?;
        let devices = batch.column_by_name("device");
        let devices = devices.and_then(|column| column.as_string_opt::<i32>());
        for device in devices
            .ok_or_else(|| broken("clock_probes.parquet"))?
            .iter()
            .flatten()
        {
            match found.get_mut(device) {
                Some(of) => of.evidence += 1,
                None => found.entry(device.to_owned()).or_default().evidence = 1,
            }
        }
    }
    Ok(found)
}

/// What was published.
struct Known<'a> {
    manifest: &'a Manifest,
    receipt: &'a Receipt,
    declared: &'a BTreeMap<(String, String), Declaration>,
    clocks: &'a BTreeMap<String, Clocks>,
}

impl Known<'_> {
    /// None where something is missing that generations of today have.
    fn device(&self, log: &LogFact) -> Option<DeviceContents> {
        let frames = log.data_frames + log.live_frames;
        if log.taken.is_empty() && frames > 0 {
            return None;
        }
        let none = Clocks::default();
        let clocks = self.clocks.get(log.device.as_str()).unwrap_or(&none);
        let mut streams = BTreeMap::new();
        for stream in self.receipt.streams.iter().filter(|it| it.device == log.device) {
            let key: StreamKey = stream.stream.parse().ok()?;
            streams.insert(key.clone(), self.stream(&log.device, &key, stream)?);
        }
        let spans = clocks
            .maps
            .values()
            .filter_map(|(_, ends)| Some((*ends.first()?, *ends.last()?)));
        Some(DeviceContents {
            device: log.device.clone(),
            epochs: log.taken.len(),
            segments: log.segments.len(),
            log_bytes: log.segments.iter().map(|segment| segment.bytes).sum(),
            frames,
            clock: ClockContents {
                clocks: clocks.maps.len(),
                segments: clocks
                    .maps
                    .values()
                    .map(|(segments, _)| segments.len() as u32)
                    .sum(),
                evidence: clocks.evidence,
                drift_ppm: drift_of(spans),
            },
            streams: streams.into_values().collect(),
        })
    }

    fn stream(&self, device: &DeviceId, key: &StreamKey, of: &StreamReceipt) -> Option<StreamContents> {
        // Receipts that were written before count no causes.
        if of.causes.is_empty() && of.gap_count > 0 {
            return None;
        }
        let declaration = self.declared.get(&(device.to_string(), of.stream.clone()))?;
        let parts = self.manifest.parts(key, device);
        let first = parts.iter().map(|part| part.first_time.as_str()).min();
        let last = parts.iter().map(|part| part.last_time.as_str()).max();
        let us = |text: &str| Some(string_to_timestamp_nanos(text).ok()?.div_euclid(1_000));
        let span = match (first, last) {
            (Some(first), Some(last)) => Some((us(first)?, us(last)?)),
            _ => None,
        };
        let duration_s = span.map_or(0.0, |(first, last)| last.saturating_sub(first) as f64 / 1e6);
        Some(StreamContents {
            stream: of.stream.clone(),
            fields: fields(declaration),
            samples: of.parquet,
            rate_hz: declaration.rate_hz,
            measured_hz: (duration_s > 0.0).then(|| (of.parquet.saturating_sub(1)) as f64 / duration_s),
            first_time: span.map(|span| time_text(span.0)),
            last_time: span.map(|span| time_text(span.1)),
            duration_s,
            gaps: of.gap_count as u64,
            missing: of.causes.iter().map(|cause| cause.samples).sum(),
            bytes: None,
            parquet_bytes: parts.iter().map(|part| part.hashes.bytes).sum(),
            time_err_us_max: of.time_err_us_max,
            ended: of.captured.is_some(),
        })
    }
}
