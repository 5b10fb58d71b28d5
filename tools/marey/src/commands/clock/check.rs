//! `marey clock check --tap SESSION`: a measured check of alignment. Events that several sensors felt are found in what was
//! published; the times at which two streams have the same event are held against the bounds that they claim.
//!
//! Owns: which streams, and reading them. Does not own: what an event is (`onsets`), what a lag is (`lags`), which channels
//! say that they feel one (`channels`), what is said of it all (`check::report`).
//!
//! Invariants: samples are streamed, twice, and only moments around events are kept; a pair that could not be judged is said
//! and never counts as explained.

mod report;

use super::channels::{self, Named, Signal};
use super::lags::Seen;
use super::onsets::{Detector, FINEST_US, Found, Levels, Row, Step, Threshold, Usual};
use crate::commands::realign::read_manifest;
use crate::hubdir;
use crate::output::{Failure, Output, Result};
use crate::rows::time_text;
use crate::window::Window;
use crate::written;
use arrow::array::{Array, ArrayRef, AsArray, FixedSizeListArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int32Type, TimestampMicrosecondType};
use marey_engine::compact::Manifest;
use marey_engine::disk::OsDisk;
use marey_engine::read::{Reader, streams};
use marey_engine::{Options, Session, SessionError, SessionState};
use marey_format::payload::StreamKey;
use marey_format::{DeviceId, SessionId};
use report::{COLUMNS, LeftOut, StreamReport, csv, report, show, tenth};
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub struct Check {
    session: SessionId,
    /// By events that several sensors felt: a tap on the table on which all devices lie, a clap, a flash.
    #[arg(long, required = true)]
    tap: bool,
    /// A stream to look at, and the channel if it has several: phone_1/imu or phone_1/imu:acc, where acc may stand for acc_x,
    /// acc_y and acc_z. Can be given several times. Else every stream with a channel whose name or unit says acceleration,
    /// sound, light or a trigger; the others are listed.
    #[arg(long, value_name = "DEVICE/STREAM[:CHANNEL]")]
    stream: Vec<Named>,
    /// Only events in here: seconds from the session's start or UTC times, either end may be left out (10..25,
    /// 2026-11-21T09:30:00Z.., ..60).
    #[arg(long, value_name = "START..END", allow_hyphen_values = true)]
    window: Option<Window>,
    /// How far apart, in milliseconds and beyond both bounds, two onsets may be to be one event.
    #[arg(
        long,
        value_name = "MS",
        default_value_t = 100.0,
        allow_negative_numbers = true
    )]
    within: f64,
    /// How many robust standard deviations above its median a signal must rise to be an event.
    #[arg(long, value_name = "K", default_value_t = 8.0, allow_negative_numbers = true)]
    threshold: f64,
    /// Every event of every pair, as CSV.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// A stream to look at.
struct Chosen {
    device: DeviceId,
    key: StreamKey,
    signal: Signal,
    is_named: bool,
}

impl Chosen {
    fn label(&self) -> String {
        format!("{}/{}:{}", self.device, self.key, self.signal.name)
    }
}

/// What was seen in it.
struct Looked {
    report: StreamReport,
    found: Found,
    from_us: f64,
    to_us: f64,
}

/// A published session, and how its times are counted.
struct Published<'d> {
    disk: &'d OsDisk,
    session: Session,
    manifest: Manifest,
    options: Options,
    /// The session's start in microseconds of POSIX time; other times here are counted from it.
    start_us: i64,
    /// Where events may lie.
    window: (f64, f64),
}

pub fn run(check: Check, dir: Option<PathBuf>, output: &Output) -> Result {
    check.check()?;
    let dir = hubdir::find(dir)?;
    let disk = OsDisk::new(&dir);
    let published = Published::open(&disk, &check)?;
    let (chosen, left_out) = published.choose(&check.stream)?;
    let kept_max = KEPT_MAX / chosen.len().max(1);
    let mut looked = Vec::new();
    for chosen in &chosen {
        if output.is_watched() {
            output.progress(format!("looking for events in {}", chosen.label()));
        }
        looked.push(published.look(chosen, check.threshold, kept_max)?);
    }
    if output.is_watched() {
        output.progress_done();
    }
    published.in_window(&looked)?;
    let report = report(&check, &published, looked, left_out);
    if let Some(path) = &check.out {
        written::write(path, csv(&report).as_bytes(), COLUMNS.as_bytes())?;
    }
    output.result(&report, show)?;
    match report.explained {
        true => Ok(()),
        false => Err(Failure::fault(report.fault())),
    }
}

impl Check {
    fn check(&self) -> Result {
        if !(1.0..=60_000.0).contains(&self.within) {
            let what = format!("--within {}: it must lie between 1 and 60000", self.within);
            return Err(Failure::Usage(what));
        }
        if !(1.0..=1e6).contains(&self.threshold) {
            let what = format!(
                "--threshold {}: it must lie between 1 and 1000000",
                self.threshold
            );
            return Err(Failure::Usage(what));
        }
        match self
            .stream
            .iter()
            .enumerate()
            .find(|(at, named)| self.stream[..*at].contains(named))
        {
            Some((_, named)) => Err(Failure::Usage(format!("--stream {named} is given twice"))),
            None => Ok(()),
        }
    }
}

impl<'d> Published<'d> {
    fn open(disk: &'d OsDisk, check: &Check) -> Result<Self> {
        use marey_engine::disk::Disk;
        let (id, folder) = (&check.session, Session::dir(&check.session));
        if disk.stat(&folder)?.is_none() {
            return Err(Failure::fault(SessionError::Unknown(id.clone())));
        }
        let session = Session::read(disk, &folder)?;
        let Some(manifest) = read_manifest(disk, &folder, id)? else {
            let help = match session.state {
                SessionState::Created => format!("`marey session start {id}` begins it"),
                SessionState::Recording => format!("`marey session stop {id} --wait` ends and publishes it"),
                _ => format!("`marey compact {id}` publishes it"),
            };
            return Err(Failure::fault(format!(
                "session {id} has no published samples yet; {help}"
            )));
        };
        let start_us = manifest.anchor.utc_ns.div_euclid(1000);
        let window = match &check.window {
            Some(window) => window.after(start_us).map_err(Failure::Usage)?,
            None => (f64::NEG_INFINITY, f64::INFINITY),
        };
        Ok(Self {
            disk,
            session,
            manifest,
            options: Options::default(),
            start_us,
            window,
        })
    }

    /// The streams that are named, or else all that say that they feel a tap; and why the others are not looked at.
    fn choose(&self, wanted: &[Named]) -> Result<(Vec<Chosen>, Vec<LeftOut>)> {
        let id = &self.session.id;
        let known = streams(self.disk, &self.session, &self.options)?;
        let (mut chosen, mut left_out) = (Vec::new(), Vec::new());
        for named in wanted {
            let is_meant = |(key, device): &&(StreamKey, DeviceId)| {
                *device == named.device
                    && (named.stream == key.name.as_str() || named.stream == key.to_string())
            };
            let mut meant = known.iter().filter(is_meant).peekable();
            if meant.peek().is_none() {
                let all: Vec<String> = known
                    .iter()
                    .map(|(key, device)| format!("{device}/{key}"))
                    .collect();
                let all = if all.is_empty() {
                    "no stream".to_owned()
                } else {
                    all.join(", ")
                };
                return Err(Failure::Usage(format!(
                    "session {id} has no stream {}/{}; it has {all}",
                    named.device, named.stream
                )));
            }
            for (key, device) in meant {
                let schema = Reader::open(self.disk, &self.session, key, device, &self.options)?.schema();
                chosen.push(Chosen {
                    device: device.clone(),
                    key: key.clone(),
                    signal: channels::named(named, &schema).map_err(Failure::Usage)?,
                    is_named: true,
                });
            }
        }
        for (key, device) in known.iter().filter(|_| wanted.is_empty()) {
            let schema = Reader::open(self.disk, &self.session, key, device, &self.options)?.schema();
            match channels::telling(key.name.as_str(), &schema) {
                Some(signal) => chosen.push(Chosen {
                    device: device.clone(),
                    key: key.clone(),
                    signal,
                    is_named: false,
                }),
                None => left_out.push(LeftOut {
                    stream: format!("{device}/{key}"),
                    why: "nothing says that it feels a tap; --stream can name it".to_owned(),
                }),
            }
        }
        match chosen.len() {
            0 if wanted.is_empty() => Err(Failure::fault(format!(
                "no stream of session {id} says that it feels a tap, by the names or units of its channels; name two with \
                 --stream, `marey info {id}` lists them"
            ))),
            1 => Err(Failure::Usage(format!(
                "{} alone can't be compared; name another stream with --stream",
                chosen[0].label()
            ))),
            _ => Ok((chosen, left_out)),
        }
    }

    /// Finds the events of a stream: what is usual of it first, then what stands out.
    fn look(&self, chosen: &Chosen, deviations: f64, kept_max: usize) -> Result<Looked> {
        let (from_us, to_us) = self.window;
        let (mut usual, mut samples, mut span) = (Usual::new(), 0u64, (f64::INFINITY, f64::NEG_INFINITY));
        let levels = self.levels(
            chosen,
            |row| {
                if (from_us..=to_us).contains(&row.at_us) {
                    samples += 1;
                    span = (span.0.min(row.at_us), span.1.max(row.at_us));
                }
            },
            |step| {
                if let Step::Point(point) = step
                    && (from_us..=to_us).contains(&point.at_us)
                {
                    usual.take(point.level);
                }
            },
        )?;
        let mut found = match usual.threshold(deviations) {
            Some(threshold) => self.detect(chosen, threshold, kept_max)?,
            None => Found::default(),
        };
        found
            .events
            .retain(|event| (from_us..=to_us).contains(&event.onset_us));
        let signal = &chosen.signal;
        Ok(Looked {
            report: StreamReport {
                stream: chosen.label(),
                channels: signal.channels.iter().map(|(name, _)| name.clone()).collect(),
                samples,
                rate_hz: levels
                    .period_us()
                    .map(|period_us| tenth(1e6 / period_us.max(FINEST_US))),
                events: found.events.len(),
                faint: found.faint,
                cut: found.cut,
                holes: levels.breaks,
                declared_latency_us: signal.latency_us,
                is_named: chosen.is_named,
            },
            found,
            from_us: span.0,
            to_us: span.1,
        })
    }

    fn detect(&self, chosen: &Chosen, threshold: Threshold, kept_max: usize) -> Result<Found> {
        let mut detector = Detector::new(threshold, kept_max);
        self.levels(chosen, |_| (), |step| detector.take(step))?;
        Ok(detector.finish())
    }

    /// Streams the rows of the window, and some before and after it that its events need.
    fn levels(
        &self,
        chosen: &Chosen,
        mut on_row: impl FnMut(&Row<'_>),
        mut on_step: impl FnMut(Step),
    ) -> Result<Levels> {
        let (from_us, to_us) = (self.window.0 - LEAD_IN_US, self.window.1 + LEAD_OUT_US);
        let Chosen {
            device, key, signal, ..
        } = chosen;
        let is_wanted =
            |field: &arrow::datatypes::Field| signal.channels.iter().any(|(name, _)| name == field.name());
        let reader = Reader::open_channels(self.disk, &self.session, key, device, &self.options, &is_wanted)?;
        let mut levels: Option<Levels> = None;
        for batch in reader {
            let batch = batch?;
            let times = batch
                .column(0)
                .as_primitive::<TimestampMicrosecondType>()
                .values();
            let at_us = |row: usize| times[row].saturating_sub(self.start_us) as f64;
            let last = batch.num_rows().saturating_sub(1);
            if batch.num_rows() == 0 || at_us(last) < from_us {
                continue;
            }
            if at_us(0) > to_us {
                break;
            }
            let axes = axes(&batch, signal)?;
            let levels = levels.get_or_insert_with(|| Levels::new(axes.len()));
            let epochs = batch.column(2).as_primitive::<Int32Type>().values();
            let bounds = batch.column(3).as_primitive::<Float32Type>().values();
            let mut values = vec![0.0; axes.len()];
            for row in (0..=last).filter(|row| (from_us..=to_us).contains(&at_us(*row))) {
                for (value, axis) in values.iter_mut().zip(&axes) {
                    *value = axis.value(row);
                }
                let row = Row {
                    at_us: at_us(row),
                    err_us: bounds[row],
                    epoch: epochs[row],
                    values: &values,
                };
                on_row(&row);
                levels.take(&row, &mut on_step);
            }
        }
        let mut levels = levels.unwrap_or_else(|| Levels::new(0));
        levels.finish(&mut on_step);
        Ok(levels)
    }

    /// A window without any sample is a mistake, and the session's samples say where to look.
    fn in_window(&self, looked: &[Looked]) -> Result {
        if looked.iter().any(|looked| looked.report.samples > 0) {
            return Ok(());
        }
        let parts = || self.manifest.streams.iter().flat_map(|stream| &stream.parts);
        let first = parts().map(|part| part.first_time.as_str()).min();
        let last = parts().map(|part| part.last_time.as_str()).max();
        Err(match (first, last) {
            (Some(first), Some(last)) if self.window.0.is_finite() || self.window.1.is_finite() => {
                Failure::Usage(format!(
                    "no sample of the chosen streams lies in --window; session {} starts at {}, its samples lie from {first} \
                     to {last}",
                    self.session.id,
                    time_text(self.start_us)
                ))
            }
            _ => Failure::fault(format!(
                "the chosen streams of session {} hold no sample; `marey info {}` shows what there is",
                self.session.id, self.session.id
            )),
        })
    }

    fn time(&self, at_us: f64) -> String {
        time_text(self.start_us.saturating_add(at_us.round() as i64))
    }
}

/// One channel's values in a batch, or one place's in its lists.
struct Axis {
    values: ArrayRef,
    scale: f64,
    /// Values of a row, and which of them.
    of: usize,
    at: usize,
}

impl Axis {
    fn value(&self, row: usize) -> f64 {
        self.scale
            * self
                .values
                .as_primitive::<Float64Type>()
                .value(row * self.of + self.at)
    }
}

fn axes(batch: &RecordBatch, signal: &Signal) -> Result<Vec<Axis>> {
    let mut axes = Vec::new();
    for (name, scale) in &signal.channels {
        let gone = || Failure::fault(format!("channel {name} is not in every part of its stream"));
        let column = batch.column_by_name(name).ok_or_else(gone)?;
        let (values, of) = match column.as_any().downcast_ref::<FixedSizeListArray>() {
            Some(lists) => {
                let of = lists.value_length().unsigned_abs() as usize;
                (lists.values().clone(), of)
            }
            None => (column.clone(), 1),
        };
        let values = cast(&values, &DataType::Float64)?;
        axes.extend((0..of).map(|at| Axis {
            values: values.clone(),
            scale: *scale,
            of,
            at,
        }));
    }
    Ok(axes)
}

impl Looked {
    fn seen(&self) -> Seen<'_> {
        Seen {
            events: &self.found.events,
            from_us: self.from_us,
            to_us: self.to_us,
        }
    }
}

/// Moments that are kept, over all streams: 16 bytes each.
const KEPT_MAX: usize = 3 << 20;
/// Read before a window, so that it is known what is usual where it begins, and after it, so that its last event is whole.
const LEAD_IN_US: f64 = 2e6;
const LEAD_OUT_US: f64 = 1e6;
