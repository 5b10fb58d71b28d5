//! What came of it: the Parquet files read back and held against what the device captured and what was true.

use super::devices::DemoDevice;
use crate::output::{Failure, Result};
use crate::rows::values;
use arrow::array::AsArray;
use arrow::datatypes::{Float32Type, Int32Type, Int64Type, TimestampMicrosecondType};
use marey_device::record::{RunReport, SampleDigest, StreamReport};
use marey_engine::Options;
use marey_engine::compact::Manifest;
use marey_engine::disk::Disk;
use marey_engine::read::{Reader, streams};
use marey_engine::session::Session;
use marey_format::payload::StreamKey;
use marey_format::{BootId, DeviceId};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// One stream of one device.
#[derive(Debug, Serialize)]
pub struct StreamScore {
    pub device: DeviceId,
    pub stream: String,
    /// The device's own count.
    pub captured: u64,
    /// Samples that were acknowledged to it.
    pub acked: u64,
    /// Rows in the files.
    pub parquet: u64,
    pub missing: i64,
    pub time_err_us_median: f64,
    pub time_err_us_max: f64,
    /// Half of the least round trip that the simulated network gave; null where a recording is replayed.
    pub half_round_trip_us: Option<f64>,
    /// Against the simulator's own truth; null where a recording is replayed.
    pub true_error_us: Option<TrueError>,
    /// Whether the truth lay within `time +- time_err_us` at every sample.
    pub bound_held: Option<bool>,
    /// Whether every value, device time and sample index is what the device captured.
    pub digest_ok: bool,
    /// The files, relative to the session's folder.
    pub files: Vec<PathBuf>,
}

/// Published time against true time, in microseconds.
#[derive(Debug, Serialize)]
pub struct TrueError {
    pub rms: f64,
    pub p99: f64,
    pub max: f64,
}

impl StreamScore {
    pub fn is_well(&self) -> bool {
        self.missing == 0 && self.digest_ok && self.bound_held != Some(false)
    }
}

/// Scores every stream of a device.
pub fn score(
    disk: &dyn Disk,
    session: &Session,
    device: &DemoDevice,
    report: &RunReport,
    options: &Options,
) -> Result<Vec<StreamScore>> {
    let known = streams(disk, session, options)?;
    let mut scores = Vec::new();
    for stream in &report.streams {
        let name = &stream.record.declaration.name;
        let key = known
            .iter()
            .find(|(key, of)| key.name == *name && of == device.name())
            .map(|(key, _)| key);
        scores.push(match key {
            Some(key) => score_stream(disk, session, device, stream, key, options)?,
            None => nothing(device, stream),
        });
    }
    Ok(scores)
}

/// Reads the whole folder once more; each fault is a sentence.
pub fn verify(dir: &Path) -> Result<Vec<String>> {
    let report = marey_engine::salvage::verify_hub(dir)?;
    Ok(report.faults.iter().map(|fault| fault.to_string()).collect())
}

fn nothing(device: &DemoDevice, stream: &StreamReport) -> StreamScore {
    let captured = stream.record.captured();
    StreamScore {
        device: device.name().clone(),
        stream: stream.record.declaration.name.to_string(),
        captured,
        acked: stream.acknowledged,
        parquet: 0,
        missing: captured as i64,
        time_err_us_median: 0.0,
        time_err_us_max: 0.0,
        half_round_trip_us: device.half_round_trip_us(),
        true_error_us: None,
        bound_held: None,
        digest_ok: captured == 0,
        files: Vec::new(),
    }
}

fn score_stream(
    disk: &dyn Disk,
    session: &Session,
    device: &DemoDevice,
    stream: &StreamReport,
    key: &StreamKey,
    options: &Options,
) -> Result<StreamScore> {
    let anchor = session
        .anchor
        .ok_or_else(|| Failure::fault("the session was never started"))?;
    let boots: Vec<BootId> = stream.record.epochs.iter().map(|epoch| epoch.boot).collect();
    let mut digests: BTreeMap<i32, SampleDigest> = BTreeMap::new();
    let mut errors_us: Vec<f64> = Vec::new();
    let mut bounds_us: Vec<f64> = Vec::new();
    let mut held = true;
    for batch in Reader::open(disk, session, key, device.name(), options)? {
        let batch = batch?;
        let times = batch.column(0).as_primitive::<TimestampMicrosecondType>();
        let device_times = batch.column(1).as_primitive::<Int64Type>();
        let epochs = batch.column(2).as_primitive::<Int32Type>();
        let bounds = batch.column(3).as_primitive::<Float32Type>();
        let indices = batch.column(4).as_primitive::<Int64Type>();
        for row in 0..batch.num_rows() {
            let new = || SampleDigest::new(&stream.record.declaration);
            let values = values(&batch, row)?;
            let digest = digests.entry(epochs.value(row)).or_insert_with(new);
            digest.sample(indices.value(row) as u64, device_times.value(row), &values);
            bounds_us.push(f64::from(bounds.value(row)));
            // The ordinals of the epochs that have samples of this stream rise in the order of capture.
            let boot = digests
                .keys()
                .position(|epoch| *epoch == epochs.value(row))
                .and_then(|at| boots.get(at));
            if let (Some(clock), Some(boot)) = (device.clock(), boot) {
                let Some(true_ns) = clock.true_ns(device_times.value(row), boot.0) else {
                    held = false;
                    continue;
                };
                let true_utc_ns = anchor.utc_ns + (true_ns - anchor.hub_ns);
                let error_us = (times.value(row) * 1000 - true_utc_ns) as f64 / 1000.0;
                held &= error_us.abs() <= f64::from(bounds.value(row));
                errors_us.push(error_us.abs());
            }
        }
    }
    let parquet = bounds_us.len() as u64;
    let captured = stream.record.captured();
    let digest_ok = digests.len() == stream.record.epochs.len()
        && digests
            .values()
            .zip(&stream.record.epochs)
            .all(|(found, epoch)| found.finish() == epoch.digest);
    bounds_us.sort_by(f64::total_cmp);
    errors_us.sort_by(f64::total_cmp);
    let is_simulated = device.clock().is_some();
    Ok(StreamScore {
        device: device.name().clone(),
        stream: key.to_string(),
        captured,
        acked: stream.acknowledged,
        parquet,
        missing: captured as i64 - parquet as i64,
        time_err_us_median: at(&bounds_us, 0.5),
        time_err_us_max: at(&bounds_us, 1.0),
        half_round_trip_us: device.half_round_trip_us(),
        true_error_us: is_simulated.then(|| TrueError {
            rms: (errors_us.iter().map(|e| e * e).sum::<f64>() / errors_us.len().max(1) as f64).sqrt(),
            p99: at(&errors_us, 0.99),
            max: at(&errors_us, 1.0),
        }),
        bound_held: is_simulated.then_some(held),
        digest_ok,
        files: files(disk, session, key, device.name())?,
    })
}

/// The value at a share of a sorted list; 0 for none.
fn at(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted
        .get((last as f64 * share).round() as usize)
        .copied()
        .unwrap_or(0.0)
}

fn files(disk: &dyn Disk, session: &Session, key: &StreamKey, device: &DeviceId) -> Result<Vec<PathBuf>> {
    let manifest = Manifest::read(disk, &Session::dir(&session.id))?;
    let parts = manifest.iter().flat_map(|manifest| &manifest.streams);
    Ok(parts
        .filter(|fact| fact.stream == key.to_string() && fact.device == *device)
        .flat_map(|fact| &fact.parts)
        .map(|part| PathBuf::from(&part.path))
        .collect())
}
