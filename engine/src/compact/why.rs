//! Where one sample comes from: its row in Parquet, its frame in the log, the piece of the clock map that placed it, and the two
//! facts that its bound rests on.
//!
//! Everything is read from the files anew, and the clocks are aligned anew from the logs, so that what is said here can be
//! held against what was published. Reads everything and changes nothing.

use super::evidence::Evidence;
use super::files::FileChunks;
use super::frames::FrameEntry;
use super::manifest::{Manifest, segment_path};
use super::survey::DeviceSurvey;
use super::timeline::Timeline;
use super::{CompactError, read_map, survey_all};
use crate::clock::{ClockMap, Row};
use crate::disk::Disk;
use crate::error::StorageError;
use crate::options::Options;
use crate::session::Session;
use ::parquet::arrow::ProjectionMask;
use ::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use ::parquet::errors::ParquetError;
use ::parquet::file::statistics::Statistics;
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Float32Type, Int32Type, Int64Type, TimestampMicrosecondType};
use marey_format::payload::StreamKey;
use marey_format::{DeviceId, HubEpoch};
use serde::Serialize;
use std::path::Path;

/// All that is known of one sample.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Why {
    pub sample: SampleFact,
    pub parquet: RowPlace,
    /// None where the logs were retired.
    pub log: Option<FramePlace>,
    /// None where damage took what names the epoch.
    pub map: Option<PieceFact>,
    /// None without logs.
    pub bound: Option<BoundFact>,
}

/// The sample as it is published.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SampleFact {
    /// Session time, microseconds UTC.
    pub time_us: i64,
    /// None where it has no end.
    pub time_err_us: Option<f32>,
    pub device_time_ns: i64,
    pub epoch: i32,
    pub seq: i64,
}

/// Where its row stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RowPlace {
    /// Below the session's folder.
    pub file: String,
    pub generation: u32,
    /// All three count from 0.
    pub row: u64,
    pub row_group: usize,
    pub row_in_group: u64,
}

/// Where its frame stands, and which sample of the frame it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FramePlace {
    /// Below the session's folder.
    pub file: String,
    pub offset: u64,
    pub bytes: u32,
    /// CRC-32 as the device computed it.
    pub crc: String,
    pub sequence: u64,
    pub first_seq: u64,
    pub samples: u32,
    /// From 0.
    pub row: u64,
}

/// The piece of the published map that it lies on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PieceFact {
    /// The boot id, or the id of the one epoch.
    pub clock: String,
    pub segment: u32,
    /// Which row of its clock, from 0.
    pub piece: usize,
    pub device_time_ns: i64,
    pub session_time_ns: i64,
    /// Session seconds per device second.
    pub rate: f64,
    /// Session time minus device time, of this sample, by this piece.
    pub offset_ns: i64,
    /// The largest bound on the piece; none where it has no end.
    pub err_us: Option<f64>,
    pub detectable_us: Option<f64>,
}

/// What its bound is made of. Times are session time, in nanoseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BoundFact {
    /// The hard interval; none where an end is open.
    pub low_ns: Option<i64>,
    pub high_ns: Option<i64>,
    /// Before it was rounded to a microsecond.
    pub estimate_ns: i64,
    /// The published time minus the estimate.
    pub rounding_ns: i64,
    /// From the published time to the farther end, which `time_err_us` is, rounded up to two digits.
    pub reach_ns: Option<i64>,
    pub max_drift_ppm: f64,
    /// The fact that bounds it from above, and from below.
    pub upper: Option<BindingFact>,
    pub lower: Option<BindingFact>,
    /// Whether the clocks, aligned anew, give the time and the bound that are published.
    pub agrees: bool,
}

/// One packet, and how it bounds the offset of the sample: limit = offset, and drift and step on that side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BindingFact {
    pub kind: &'static str,
    pub epoch: u32,
    pub hub_epoch: HubEpoch,
    /// The stamp of the device, and of the hub, as `clock_probes.parquet` has them.
    pub device_ns: i64,
    pub hub_ns: i64,
    /// Session time of the hub's stamp minus the device's.
    pub offset_ns: i64,
    /// How far from the sample it is, by the device's clock, and what that costs at the declared drift.
    pub distance_ns: i64,
    pub drift_ns: i64,
    /// One step of the device's clock.
    pub step_ns: i64,
    pub limit_ns: i64,
}

/// The sample of a stream whose published time is the nearest; none where the stream has none. Long: it reads all logs.
///
/// # Errors
/// If something can't be read, or is not of its form.
pub fn why(
    disk: &dyn Disk,
    session: &Session,
    (key, device): (&StreamKey, &DeviceId),
    at_us: i64,
    options: &Options,
) -> Result<Option<Why>, CompactError> {
    let dir = Session::dir(&session.id);
    let Some(manifest) = Manifest::read(disk, &dir)? else {
        return Ok(None);
    };
    let Some((sample, parquet)) = nearest(disk, &dir, &manifest, (key, device), at_us)? else {
        return Ok(None);
    };
    let surveys = survey_all(disk, &session.id, options, &|_| {})?;
    let survey = surveys.iter().find(|survey| survey.device == *device);
    let log = survey.and_then(|survey| frame_of(survey, key, &sample));
    let bound = match (survey, &session.anchor) {
        (Some(survey), Some(anchor)) => {
            let timeline = Timeline::new(anchor, &surveys, session.max_drift_ppm);
            bound_of(&timeline, survey, session.max_drift_ppm, &sample)
        }
        _ => None,
    };
    Ok(Some(Why {
        map: piece_of(disk, &dir, device, &sample)?,
        sample,
        parquet,
        log,
        bound,
    }))
}

/// The row whose time is the nearest, the earliest of those that are equally near.
fn nearest(
    disk: &dyn Disk,
    dir: &Path,
    manifest: &Manifest,
    (key, device): (&StreamKey, &DeviceId),
    at_us: i64,
) -> Result<Option<(SampleFact, RowPlace)>, CompactError> {
    let mut best: Option<(u64, SampleFact, RowPlace)> = None;
    for part in manifest.parts(key, device) {
        let path = dir.join(&part.path);
        let io = |error| StorageError::io("reading", disk.describe(&path), error);
        let parquet = |error: ParquetError| CompactError::parquet(disk, &path, error);
        let chunks = FileChunks::open(disk, &path).map_err(io)?;
        let open = || ParquetRecordBatchReaderBuilder::try_new(chunks.clone());
        let metadata = open().map_err(parquet)?.metadata().clone();
        let mut before = 0;
        for (group, facts) in metadata.row_groups().iter().enumerate() {
            let first_row = before;
            before += facts.num_rows().max(0).cast_unsigned();
            let away = facts.column(0).statistics().and_then(|times| away(times, at_us));
            // Rows rise in time: one that is as far is not earlier.
            if best
                .as_ref()
                .is_some_and(|(least, ..)| away.unwrap_or(0) >= *least)
            {
                continue;
            }
            let builder = open().map_err(parquet)?.with_row_groups(vec![group]);
            let mask = ProjectionMask::columns(builder.parquet_schema(), COLUMNS);
            let mut row = 0;
            for batch in builder.with_projection(mask).build().map_err(parquet)? {
                let batch = batch.map_err(|error| parquet(error.into()))?;
                for (at, sample) in samples(&batch).into_iter().enumerate() {
                    let away = sample.time_us.abs_diff(at_us);
                    if best.as_ref().is_some_and(|(least, ..)| away >= *least) {
                        continue;
                    }
                    let row_in_group = row + at as u64;
                    let place = RowPlace {
                        file: part.path.clone(),
                        generation: manifest.generation,
                        row: first_row + row_in_group,
                        row_group: group,
                        row_in_group,
                    };
                    best = Some((away, sample, place));
                }
                row += batch.num_rows() as u64;
            }
        }
    }
    Ok(best.map(|(_, sample, place)| (sample, place)))
}

const COLUMNS: [&str; 5] = ["time", "device_time_ns", "epoch", "time_err_us", "seq"];

/// How far a moment lies from what a row group spans.
fn away(times: &Statistics, at_us: i64) -> Option<u64> {
    let Statistics::Int64(times) = times else {
        return None;
    };
    let (&least, &most) = times.min_opt().zip(times.max_opt())?;
    Some(at_us.clamp(least, most.max(least)).abs_diff(at_us))
}

/// The rows of a batch that has the columns of every stream, in their order.
fn samples(batch: &RecordBatch) -> Vec<SampleFact> {
    let column = |at: usize| batch.column(at);
    let times = column(0).as_primitive::<TimestampMicrosecondType>().values();
    let device = column(1).as_primitive::<Int64Type>().values();
    let epochs = column(2).as_primitive::<Int32Type>().values();
    let errors = column(3).as_primitive::<Float32Type>().values();
    let seqs = column(4).as_primitive::<Int64Type>().values();
    let sample = |at: usize| SampleFact {
        time_us: times[at],
        time_err_us: Some(errors[at]).filter(|error| error.is_finite()),
        device_time_ns: device[at],
        epoch: epochs[at],
        seq: seqs[at],
    };
    (0..batch.num_rows()).map(sample).collect()
}

fn frame_of(survey: &DeviceSurvey, key: &StreamKey, sample: &SampleFact) -> Option<FramePlace> {
    let (epoch, seq) = (sample.epoch.cast_unsigned(), sample.seq.cast_unsigned());
    let frames = &survey.streams.get(key)?.frames;
    let holds =
        |frame: &&FrameEntry| frame.epoch == epoch && (frame.first_index..frame.end_index()).contains(&seq);
    let frame = frames.iter().find(holds)?;
    Some(FramePlace {
        file: segment_path(&survey.device, frame.segment),
        offset: u64::from(frame.offset),
        bytes: frame.length,
        crc: format!("{:08x}", frame.crc),
        sequence: frame.sequence,
        first_seq: frame.first_index,
        samples: frame.count,
        row: seq - frame.first_index,
    })
}

fn piece_of(
    disk: &dyn Disk,
    dir: &Path,
    device: &DeviceId,
    sample: &SampleFact,
) -> Result<Option<PieceFact>, CompactError> {
    let maps = read_map(disk, dir, None)?.unwrap_or_default();
    let is_its = |map: &&super::PublishedMap| map.device == device.as_str() && map.has_epoch(sample.epoch);
    let Some(map) = maps.iter().find(is_its) else {
        return Ok(None);
    };
    let after = map
        .rows
        .partition_point(|row| row.device_time_ns <= sample.device_time_ns);
    let piece = after.saturating_sub(1);
    let Some((row, session_ns)) = map.rows.get(piece).zip(map.at(sample.device_time_ns)) else {
        return Ok(None);
    };
    let finite = |ns: f64| Some(ns / 1e3).filter(|us| us.is_finite());
    Ok(Some(PieceFact {
        clock: map.clock.clone(),
        segment: row.segment,
        piece,
        device_time_ns: row.device_time_ns,
        session_time_ns: row.session_ns,
        rate: row.rate,
        offset_ns: session_ns.saturating_sub(sample.device_time_ns),
        err_us: finite(row.err_ns),
        detectable_us: finite(row.detectable_ns),
    }))
}

fn bound_of(
    timeline: &Timeline,
    survey: &DeviceSurvey,
    max_drift_ppm: f64,
    sample: &SampleFact,
) -> Option<BoundFact> {
    let epoch = sample.epoch.cast_unsigned();
    let map = timeline.alignment().map(survey.device.as_str(), epoch)?;
    let placed = map.at(sample.device_time_ns);
    let published = map.published(sample.device_time_ns);
    let (low_ns, high_ns) = map.interval(sample.device_time_ns);
    let (low_ns, high_ns) = (
        Some(low_ns).filter(|ns| *ns != i64::MIN),
        Some(high_ns).filter(|ns| *ns != i64::MAX),
    );
    let time_ns = sample.time_us.saturating_mul(1_000);
    let reach = |low: i64, high: i64| high.saturating_sub(time_ns).max(time_ns.saturating_sub(low));
    let facts = Facts {
        timeline,
        survey,
        map,
        segment: placed.segment,
        max_drift_ppm,
        at_ns: sample.device_time_ns,
    };
    Some(BoundFact {
        estimate_ns: placed.session_ns,
        rounding_ns: time_ns.saturating_sub(placed.session_ns),
        reach_ns: low_ns.zip(high_ns).map(|(low, high)| reach(low, high)),
        low_ns,
        high_ns,
        max_drift_ppm,
        upper: facts.binding(Side::Upper),
        lower: facts.binding(Side::Lower),
        agrees: published.time_us == sample.time_us
            && Some(published.err_us).filter(|error| error.is_finite()) == sample.time_err_us,
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Upper,
    Lower,
}

/// The evidence of one clock, seen from one sample.
struct Facts<'a> {
    timeline: &'a Timeline,
    survey: &'a DeviceSurvey,
    map: &'a ClockMap,
    segment: u32,
    max_drift_ppm: f64,
    at_ns: i64,
}

impl Facts<'_> {
    /// The fact that says most on a side.
    fn binding(&self, side: Side) -> Option<BindingFact> {
        let of_clock = self.survey.evidence.iter();
        let of_clock = of_clock.filter(|evidence| self.map.epochs().contains(&evidence.epoch));
        let facts = of_clock.filter_map(|evidence| self.fact(evidence, side));
        match side {
            Side::Upper => facts.min_by_key(|fact| fact.limit_ns),
            Side::Lower => facts.max_by_key(|fact| fact.limit_ns),
        }
    }

    fn fact(&self, evidence: &Evidence, side: Side) -> Option<BindingFact> {
        let (hub_epoch, device_ns, hub_ns) = match (side, evidence.row) {
            (
                Side::Upper,
                Row::Exchange {
                    hub_epoch,
                    dev_send,
                    hub_recv,
                    ..
                }
                | Row::Up {
                    hub_epoch,
                    dev_send,
                    hub_recv,
                },
            ) => (hub_epoch, dev_send, hub_recv),
            (
                Side::Lower,
                Row::Exchange {
                    hub_epoch,
                    hub_send,
                    dev_recv,
                    ..
                }
                | Row::Down {
                    hub_epoch,
                    hub_send,
                    dev_recv,
                },
            ) => (hub_epoch, dev_recv, hub_send),
            _ => return None,
        };
        // Another segment is another clock.
        if self.map.at(device_ns).segment != self.segment {
            return None;
        }
        let mut lives = self.timeline.alignment().hub_epochs().iter();
        let life = lives.find(|known| known.hub_epoch == hub_epoch)?;
        let offset_ns = hub_ns.checked_add(life.offset_ns)?.checked_sub(device_ns)?;
        let distance_ns = i64::try_from(self.at_ns.abs_diff(device_ns)).ok()?;
        let rho = self.max_drift_ppm / 1e6;
        let drift_ns = libm::ceil(distance_ns as f64 * rho / (1.0 - rho)) as i64;
        let step_ns = self.map.resolution_ns();
        let more = drift_ns.saturating_add(step_ns);
        Some(BindingFact {
            kind: evidence.kind.as_str(),
            epoch: evidence.epoch,
            hub_epoch: HubEpoch(hub_epoch),
            device_ns,
            hub_ns,
            offset_ns,
            distance_ns,
            drift_ns,
            step_ns,
            limit_ns: match side {
                Side::Upper => offset_ns.saturating_add(more),
                Side::Lower => offset_ns.saturating_sub(more),
            },
        })
    }
}
