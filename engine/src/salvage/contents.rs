//! What a session holds, in numbers, from its folder alone: for each device its clock and its streams; its events.
//!
//! The logs are read, so the numbers are those of the logs, whether or not there is Parquet yet. Times and bounds are
//! those of the clocks as they are known now.

use super::source::Source;
use crate::annotation;
use crate::clock::ClockMap;
use crate::compact::{
    CompactError, DeviceSurvey, FrameSource, Gap, Manifest, Receipt, Retired, Timeline, gaps, read_receipt,
    survey_all,
};
use crate::disk::Disk;
use crate::error::StorageError;
use crate::options::Options;
use crate::session::{Session, SessionState};
use arrow::temporal_conversions::timestamp_us_to_datetime;
use marey_format::frame::{Columns, Frame};
use marey_format::payload::{Event, StreamKey};
use marey_format::{Declaration, DeviceId, SessionId};
use serde::Serialize;

/// A session.
#[derive(Clone, Debug, Serialize)]
pub struct SessionContents {
    pub session: SessionId,
    /// None where session.json can't be read.
    pub state: Option<SessionState>,
    /// When its time was tied to UTC; none where it was not.
    pub anchor: Option<String>,
    /// Of the newest Parquet; 0 if there is none.
    pub generation: u32,
    /// Whether the receipt says that nothing is missing; none without a receipt, or where more came since.
    pub complete: Option<bool>,
    /// Frames came since the newest Parquet was made.
    pub late_frames: bool,
    pub devices: Vec<DeviceContents>,
    /// What an operator should know of the clocks.
    pub warnings: Vec<String>,
    /// Places in the logs that are damaged.
    pub faults: usize,
    /// Places that the disk can't read, now.
    pub unreadable: Vec<String>,
    /// Places that it could not read when the newest Parquet was made, and that are missing there.
    pub left_out: Vec<String>,
    /// Its logs were retired; what they held stands in Parquet, and `devices` has nothing to show.
    pub retired: Option<RetiredContents>,
}

/// Logs that were retired, and what is published of them.
#[derive(Clone, Debug, Serialize)]
pub struct RetiredContents {
    /// When, UTC.
    pub at: String,
    pub rule: String,
    pub samples: u64,
    /// Of the logs that went.
    pub bytes: u64,
    pub streams: Vec<RetiredStream>,
}

/// One stream of them, as the manifest has it.
#[derive(Clone, Debug, Serialize)]
pub struct RetiredStream {
    pub device: DeviceId,
    pub stream: String,
    pub rows: u64,
}

/// One device of it.
#[derive(Clone, Debug, Serialize)]
pub struct DeviceContents {
    pub device: DeviceId,
    pub epochs: usize,
    pub segments: usize,
    pub log_bytes: u64,
    pub frames: u64,
    pub clock: ClockContents,
    pub streams: Vec<StreamContents>,
}

/// What is known of a device's clock.
#[derive(Clone, Debug, Serialize)]
pub struct ClockContents {
    /// Lives of the clock: boots, where the device tells them.
    pub clocks: usize,
    /// Stretches between jumps and standstills, of all clocks.
    pub segments: u32,
    /// Rows of evidence.
    pub evidence: usize,
    /// How much faster than the hub's it ran on the whole, in parts per million; of the clock that was seen longest.
    pub drift_ppm: Option<f64>,
}

/// One stream of it.
#[derive(Clone, Debug, Serialize)]
pub struct StreamContents {
    /// `NAME@N`.
    pub stream: String,
    /// Each field with type and unit.
    pub fields: Vec<String>,
    pub samples: u64,
    /// As declared; none for an irregular stream.
    pub rate_hz: Option<f64>,
    /// As it came.
    pub measured_hz: Option<f64>,
    pub first_time: Option<String>,
    pub last_time: Option<String>,
    pub duration_s: f64,
    /// Ranges of sample indices that are missing, and the samples in them.
    pub gaps: u64,
    pub missing: u64,
    /// Bytes of its frames; none where the logs were not read.
    pub bytes: Option<u64>,
    pub parquet_bytes: u64,
    /// The widest bound, in microseconds; none where one is infinite.
    pub time_err_us_max: Option<f32>,
    /// Whether the device has said that it ended, in every epoch.
    pub ended: bool,
}

/// One event.
#[derive(Clone, Debug, Serialize)]
pub struct EventContents {
    pub time: String,
    pub time_us: i64,
    /// None where it is infinite.
    pub time_err_us: Option<f32>,
    /// None where a person said it of the whole session.
    pub device: Option<DeviceId>,
    /// `device`, `hub` or `person`.
    pub source: &'static str,
    pub stream: Option<String>,
    /// Who annotated, and which version that is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    #[serde(flatten)]
    pub event: Event,
}

/// Takes stock of a session that stands in `source`. `session` is its description; without one there are no times but
/// where a manifest has what ties them to UTC.
pub fn contents(
    source: &Source,
    id: &SessionId,
    session: Option<&Session>,
    options: &Options,
) -> Result<SessionContents, CompactError> {
    let disk = &*source.view;
    let dir = Session::dir(id);
    let surveys = survey_all(disk, id, options, &|_| {})?;
    let manifest = readable(Manifest::read(disk, &dir))?;
    let generation = manifest.as_ref().map_or(0, |manifest| manifest.generation);
    let held = |survey: &DeviceSurvey, manifest: &Manifest| match manifest.log(&survey.device) {
        Some(log) => [log.data_frames, log.live_frames] == survey.frames,
        None => survey.frames == [0, 0],
    };
    let late_frames = manifest
        .as_ref()
        .is_some_and(|m| !surveys.iter().all(|survey| held(survey, m)));
    let receipt = match generation {
        0 => None,
        generation => readable(read_receipt(disk, &dir, generation))?.filter(|_| !late_frames),
    };
    let tied = manifest.as_ref().map(|manifest| manifest.anchor);
    let anchor = session.and_then(|session| session.anchor).or(tied);
    let max_drift_ppm = session.map_or(MAX_DRIFT_PPM, |session| session.max_drift_ppm);
    let timeline = anchor.map(|anchor| Timeline::new(&anchor, &surveys, max_drift_ppm));
    let looking = Looking {
        disk,
        session: id,
        timeline: timeline.as_ref(),
        manifest: manifest.as_ref(),
        receipt,
    };
    let devices: Result<Vec<DeviceContents>, CompactError> =
        surveys.iter().map(|survey| looking.device(survey)).collect();
    let devices = devices?;
    let mut warnings: Vec<String> = timeline
        .iter()
        .flat_map(|timeline| timeline.alignment().warnings())
        .map(ToString::to_string)
        .collect();
    if let Some(session) = session {
        // What salvage made goes on counting where it was, and is still to be published.
        let is_salvaged = manifest.is_none() && session.state == SessionState::Stopping;
        if session.generation > generation && !is_salvaged {
            let sealed = session.generation;
            warnings.push(format!(
                "generation {sealed} was sealed, and no manifest of it can be read; `marey verify {id}` says what is wrong"
            ));
        }
        let streams = devices
            .iter()
            .flat_map(|device| device.streams.iter().map(move |stream| (&device.device, stream)));
        warnings.extend(
            streams
                .filter(|(_, stream)| stream.samples > 0)
                .filter_map(|(device, it)| session.wider_than_asked(device, &it.stream, it.time_err_us_max)),
        );
    }
    let retired = readable(Retired::read(disk, &dir))?.map(|retired| RetiredContents {
        at: time_text(retired.at.utc_ns.div_euclid(1_000)),
        rule: retired.rule,
        samples: retired.samples,
        bytes: retired.bytes,
        streams: manifest
            .iter()
            .flat_map(|manifest| &manifest.streams)
            .map(|fact| RetiredStream {
                device: fact.device.clone(),
                stream: fact.stream.clone(),
                rows: fact.rows,
            })
            .collect(),
    });
    Ok(SessionContents {
        retired,
        session: id.clone(),
        state: session.map(|session| session.state),
        anchor: anchor.map(|anchor| time_text(anchor.utc_ns.div_euclid(1_000))),
        generation,
        complete: looking.receipt.as_ref().map(|receipt| receipt.complete),
        late_frames,
        devices,
        warnings,
        faults: surveys.iter().map(|survey| survey.faults.len()).sum(),
        unreadable: source
            .view
            .unreadable()
            .into_iter()
            .map(|hole| {
                let path = hole.path.display();
                format!(
                    "{path}: {} bytes at offset {} can't be read ({})",
                    hole.bytes, hole.offset, hole.why
                )
            })
            .collect(),
        left_out: manifest
            .iter()
            .flat_map(Manifest::left_out)
            .map(ToString::to_string)
            .collect(),
    })
}

/// Events of devices, notes of the hub and annotations that stand, in order of time.
pub fn events(
    source: &Source,
    session: &Session,
    options: &Options,
) -> Result<Vec<EventContents>, CompactError> {
    let anchor = session
        .anchor
        .ok_or_else(|| CompactError::NotStarted(session.id.clone()))?;
    let surveys = survey_all(&*source.view, &session.id, options, &|_| {})?;
    let timeline = Timeline::new(&anchor, &surveys, session.max_drift_ppm);
    let mut events = Vec::new();
    for survey in &surveys {
        for entry in &survey.events {
            let published = timeline
                .placing(&survey.device, entry.epoch)
                .published(entry.device_ns);
            events.push(EventContents {
                time: time_text(published.time_us),
                time_us: published.time_us,
                time_err_us: published.err_us.is_finite().then_some(published.err_us),
                device: Some(survey.device.clone()),
                source: "device",
                stream: entry.stream.as_ref().map(ToString::to_string),
                author: None,
                version: None,
                event: entry.event.clone(),
            });
        }
        for entry in &survey.notes {
            let (time_us, err_us) = timeline.of_hub(entry.hub_epoch, entry.hub_ns);
            events.push(EventContents {
                time: time_text(time_us),
                time_us,
                time_err_us: err_us.is_finite().then_some(err_us),
                device: Some(survey.device.clone()),
                source: "hub",
                stream: None,
                author: None,
                version: None,
                event: entry.note.clone(),
            });
        }
    }
    for annotation in annotation::read_what_holds(&*source.view, &session.id)?.newest() {
        if annotation.withdrawn {
            continue;
        }
        let time_us = annotation.time_ns.div_euclid(1_000);
        events.push(EventContents {
            time: time_text(time_us),
            time_us,
            time_err_us: None,
            device: annotation.device.clone(),
            source: "person",
            stream: annotation.stream.clone(),
            author: Some(annotation.by.clone()),
            version: Some(annotation.version),
            event: Event {
                kind: annotation.kind.clone(),
                text: Some(annotation.text.clone()),
                duration_ns: annotation.duration_s.map(|s| (s * 1e9) as i64),
            },
        });
    }
    events.sort_by_key(|event| event.time_us);
    Ok(events)
}

/// What is damaged counts as not there: `verify` is who tells.
pub(super) fn readable<T>(read: Result<Option<T>, StorageError>) -> Result<Option<T>, StorageError> {
    match read {
        Err(StorageError::Damaged { .. }) => Ok(None),
        read => read,
    }
}

/// Of a session that does not say, in parts per million.
const MAX_DRIFT_PPM: f64 = 100.0;

/// Session microseconds as RFC 3339.
pub(super) fn time_text(time_us: i64) -> String {
    match timestamp_us_to_datetime(time_us) {
        Some(time) => time.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string(),
        None => format!("{time_us} us"),
    }
}

struct Looking<'a> {
    disk: &'a dyn Disk,
    session: &'a SessionId,
    timeline: Option<&'a Timeline>,
    manifest: Option<&'a Manifest>,
    receipt: Option<Receipt>,
}

/// What the frames of a stream span.
#[derive(Default)]
struct Span {
    first_us: Option<i64>,
    last_us: Option<i64>,
    err_us_max: f32,
}

impl Span {
    fn take(&mut self, time_us: i64, err_us: f32) {
        self.first_us = Some(self.first_us.map_or(time_us, |first| first.min(time_us)));
        self.last_us = Some(self.last_us.map_or(time_us, |last| last.max(time_us)));
        self.err_us_max = self.err_us_max.max(err_us);
    }
}

impl Looking<'_> {
    fn device(&self, survey: &DeviceSurvey) -> Result<DeviceContents, CompactError> {
        let clocks: Vec<&ClockMap> = self
            .timeline
            .iter()
            .flat_map(|timeline| timeline.alignment().clocks())
            .filter(|(device, _)| *device == survey.device.as_str())
            .map(|(_, map)| map)
            .collect();
        let mut streams = Vec::new();
        for plan in survey.streams.values() {
            let key = plan.key.to_string();
            let of_receipt = self.receipt.iter().flat_map(|receipt| &receipt.streams);
            let of_receipt = of_receipt
                .into_iter()
                .find(|s| s.stream == key && s.device == survey.device);
            let parts = self
                .manifest
                .map_or(&[][..], |manifest| manifest.parts(&plan.key, &survey.device));
            // The receipt has the widest bound; without one every sample is placed.
            let span = self.span(survey, &plan.key, of_receipt.is_none())?;
            let err_us_max = match of_receipt {
                Some(stream) => stream.time_err_us_max,
                None => span.err_us_max.is_finite().then_some(span.err_us_max),
            };
            let samples: u64 = plan.frames.iter().map(|frame| u64::from(frame.count)).sum();
            let duration_s = match (span.first_us, span.last_us) {
                (Some(first), Some(last)) => last.saturating_sub(first) as f64 / 1e6,
                _ => 0.0,
            };
            let gaps = gaps(survey, plan, self.timeline);
            streams.push(StreamContents {
                stream: key,
                fields: fields(&plan.declaration),
                samples,
                rate_hz: plan.declaration.rate_hz,
                measured_hz: (duration_s > 0.0).then(|| (samples.saturating_sub(1)) as f64 / duration_s),
                first_time: span.first_us.map(time_text),
                last_time: span.last_us.map(time_text),
                duration_s,
                gaps: gaps.len() as u64,
                missing: gaps.iter().map(Gap::samples).sum(),
                bytes: Some(plan.frames.iter().map(|frame| u64::from(frame.length)).sum()),
                parquet_bytes: parts.iter().map(|part| part.hashes.bytes).sum(),
                time_err_us_max: err_us_max.filter(|_| self.timeline.is_some()),
                ended: !plan.ends.is_empty() && plan.ends.values().all(Option::is_some),
            });
        }
        Ok(DeviceContents {
            device: survey.device.clone(),
            epochs: survey.epochs.len(),
            segments: survey.segments.len(),
            log_bytes: survey.segments.iter().map(|segment| segment.bytes).sum(),
            frames: survey.frames.iter().sum(),
            clock: ClockContents {
                clocks: clocks.len(),
                segments: clocks.iter().map(|map| map.segment_count()).sum(),
                evidence: survey.evidence.len(),
                drift_ppm: drift_ppm(&clocks),
            },
            streams,
        })
    }

    /// Where the frames of a stream lie in time; each sample of them, if `every`.
    fn span(&self, survey: &DeviceSurvey, key: &StreamKey, every: bool) -> Result<Span, CompactError> {
        let mut span = Span::default();
        let (Some(timeline), Some(plan)) = (self.timeline, survey.streams.get(key)) else {
            return Ok(span);
        };
        let mut source = FrameSource::new(self.disk, self.session, &survey.device, &survey.epochs);
        let mut piece = Default::default();
        for (at, frame) in plan.frames.iter().enumerate() {
            let mut placing = timeline.placing(&survey.device, frame.epoch);
            if !every {
                for device_ns in [frame.first_time_ns, frame.last_time_ns] {
                    let published = placing.published(device_ns);
                    span.take(published.time_us, published.err_us);
                }
                continue;
            }
            let bytes = source.read(&plan.frames, at, &mut piece)?;
            for device_ns in Columns::parse(&Frame::parse(&bytes)?, &plan.declaration)?
                .times
                .iter()
            {
                let published = placing.published(device_ns);
                span.take(published.time_us, published.err_us);
            }
        }
        Ok(span)
    }
}

pub(super) fn fields(declaration: &Declaration) -> Vec<String> {
    let field = |field: &marey_format::Field| {
        let kind = format!("{:?}", field.kind).to_lowercase();
        let list = field.length.map_or(String::new(), |length| format!("[{length}]"));
        let unit = field
            .unit
            .as_ref()
            .map_or(String::new(), |unit| format!(" {unit}"));
        format!("{} {kind}{list}{unit}", field.name)
    };
    declaration.fields.iter().map(field).collect()
}

/// Of the clock that the map spans longest, from the first piece to the last.
fn drift_ppm(clocks: &[&ClockMap]) -> Option<f64> {
    drift_of(clocks.iter().filter_map(|map| {
        let rows = map.rows();
        let (first, last) = (rows.first()?, rows.last()?);
        Some((
            (first.device_time_ns, first.session_ns),
            (last.device_time_ns, last.session_ns),
        ))
    }))
}

/// The same of the ends of maps, in device and session time.
pub(super) fn drift_of(ends: impl Iterator<Item = ((i64, i64), (i64, i64))>) -> Option<f64> {
    let spans = ends.filter_map(|(first, last)| {
        let device_ns = last.0.checked_sub(first.0).filter(|&ns| ns > 0)?;
        Some((device_ns, last.1.checked_sub(first.1)?))
    });
    let (device_ns, session_ns) = spans.max()?;
    Some((device_ns as f64 / session_ns as f64 - 1.0) * 1e6)
}
