//! What streams add up to, and what is missing of them.
//!
//! Statistics are made once for each generation of a stream of a device and kept: the same bytes give the same numbers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Json as Answer;
use marey_engine::compact::{read_receipt, rfc3339};
use marey_engine::read::{self, ReadError, StreamStatistics};
use marey_engine::{Session, Store};
use marey_format::payload::StreamKey;
use marey_format::{DeviceId, SessionId};
use serde::Serialize;
use utoipa::ToSchema;

use super::access::DATA_VIEW;
use super::extract::{Caller, Hub, Path, Query};
use super::page::{Page, Paging, cursor, number_key};
use super::problem::Problem;

/// What a stream of a device adds up to.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Statistics {
    device: String,
    stream: String,
    /// The generation that was looked at; null while the session is recorded, and only rolling parts are there.
    #[schema(required)]
    generation: Option<u32>,
    /// Samples in Parquet.
    count: u64,
    /// Samples that the device captured and that are not in Parquet; null if nobody knows.
    #[schema(required)]
    missing: Option<u64>,
    /// Samples a second, between the first and the last.
    #[schema(required)]
    rate_hz: Option<f64>,
    /// RFC 3339, UTC.
    #[schema(required)]
    first: Option<String>,
    #[schema(required)]
    last: Option<String>,
    /// The widest bound of a time; null where one has none.
    #[schema(required)]
    time_err_us_max: Option<f64>,
    channels: Vec<Channel>,
}

/// What one channel adds up to. Values are those that are stored: scale and offset are not applied.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Channel {
    channel: String,
    #[schema(required)]
    unit: Option<String>,
    values: u64,
    /// Values that are not a number.
    nan: u64,
    /// Null where there are no numbers, or where it is infinite.
    #[schema(required)]
    min: Option<f64>,
    #[schema(required)]
    max: Option<f64>,
    #[schema(required)]
    mean: Option<f64>,
}

/// A range of samples that is missing.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Gap {
    device: String,
    stream: String,
    epoch: i32,
    /// Sample indices, both included, as text.
    first_seq: String,
    last_seq: String,
    samples: u64,
    cause: String,
    /// Of the last sample before it, RFC 3339, UTC.
    time: String,
    /// Of the first sample after it.
    until: String,
    #[schema(required)]
    time_err_us: Option<f64>,
}

/// Statistics that were made.
#[derive(Debug, Default)]
pub(crate) struct Known(Mutex<HashMap<Key, Arc<StreamStatistics>>>);

/// Session, stream, device, and the tag of the bytes.
type Key = (SessionId, String, DeviceId, String);

impl Known {
    fn of(
        &self,
        store: &Store,
        session: &Session,
        stream: &StreamKey,
        device: &DeviceId,
    ) -> Result<(Option<u32>, Arc<StreamStatistics>), Problem> {
        let disk = &**store.disk();
        let parts = read::parts(disk, session, stream, device)?;
        let key = (
            session.id.clone(),
            stream.to_string(),
            device.clone(),
            parts.tag.clone(),
        );
        let known = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known().get(&key).cloned();
        if let Some(found) = found {
            return Ok((parts.generation, found));
        }
        let made = Arc::new(read::statistics(disk, &parts)?);
        let mut known = known();
        // Of other bytes of the same stream nobody asks any more.
        known.retain(|old, _| old.0 != key.0 || old.1 != key.1 || old.2 != key.2);
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(key, made.clone());
        Ok((parts.generation, made))
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::NoStream { .. } => Self::not_found(format!("{error}; it may not be published yet")),
            ReadError::Storage(error) => error.into(),
            _ => Self::internal(error),
        }
    }
}

#[utoipa::path(get, path = "/api/v1/sessions/{session}/streams/{stream}/devices/{device}/statistics", tag = "streams",
    operation_id = "streamStatistics",
    params(
        ("session" = String, Path, description = "Its name"),
        ("stream" = String, Path, description = "`NAME@N`"),
        ("device" = String, Path, description = "Its name"),
    ),
    responses((status = 200, description = "What the stream of the device adds up to", body = Statistics)))]
pub(crate) async fn statistics(
    hub: Hub,
    caller: Caller,
    Path((session, stream, device)): Path<(SessionId, String, DeviceId)>,
) -> Result<Answer<Statistics>, Problem> {
    let stream: StreamKey = stream
        .parse()
        .map_err(|_| Problem::malformed("a stream is named NAME@N, such as imu@1"))?;
    let made = hub.work_on(caller, DATA_VIEW, session, move |asked, session| {
        let store = &asked.state.store;
        let (generation, found) = asked.state.api.statistics.of(store, &session, &stream, &device)?;
        let missing = match generation {
            None => None,
            Some(generation) => {
                let receipt = read_receipt(&**store.disk(), &Session::dir(&session.id), generation)?;
                let streams = receipt.map(|receipt| receipt.streams).unwrap_or_default();
                let name = stream.to_string();
                let own = streams
                    .into_iter()
                    .find(|s| s.device == device && s.stream == name);
                own.and_then(|stream| stream.missing)
            }
        };
        Ok(view(&device, &stream, generation, missing, &found))
    });
    made.await.map(Answer)
}

#[utoipa::path(get, path = "/api/v1/sessions/{session}/gaps", tag = "streams", operation_id = "listGaps",
    params(("session" = String, Path, description = "Its name"), Paging),
    responses((status = 200, description = "What is missing of the newest generation, with the cause", body = Page<Gap>)))]
pub(crate) async fn gaps(
    hub: Hub,
    caller: Caller,
    Path(session): Path<SessionId>,
    Query(paging): Query<Paging>,
) -> Result<Answer<Page<Gap>>, Problem> {
    let page = hub.work_on(caller, DATA_VIEW, session, move |asked, session| {
        let (skip, limit) = (paging.after_number()?.unwrap_or(0), paging.limit()?);
        let from = usize::try_from(skip).unwrap_or(usize::MAX);
        let found = read::gaps(&**asked.state.store.disk(), &session.id, from, limit + 1)?;
        let mut found = found.ok_or_else(|| {
            Problem::conflict(format!(
                "session {} is {}; gaps are known when it is sealed",
                session.id, session.state
            ))
        })?;
        let is_last = found.len() <= limit;
        found.truncate(limit);
        let next = (!is_last).then(|| cursor(&number_key(skip.saturating_add(limit as u64))));
        let items = found
            .into_iter()
            .map(|gap| Gap {
                device: gap.device,
                stream: gap.stream,
                epoch: gap.epoch,
                first_seq: gap.first_seq.to_string(),
                last_seq: gap.last_seq.to_string(),
                samples: gap.samples.max(0).unsigned_abs(),
                cause: gap.cause,
                time: rfc3339(gap.time_us),
                until: rfc3339(gap.until_us),
                time_err_us: finite(f64::from(gap.time_err_us)),
            })
            .collect();
        Ok(Page { items, next })
    });
    page.await.map(Answer)
}

fn view(
    device: &DeviceId,
    stream: &StreamKey,
    generation: Option<u32>,
    missing: Option<u64>,
    found: &StreamStatistics,
) -> Statistics {
    let channels = found.channels.iter().map(|channel| Channel {
        channel: channel.channel.clone(),
        unit: channel.unit.clone(),
        values: channel.values,
        nan: channel.nan,
        min: channel.min.and_then(finite),
        max: channel.max.and_then(finite),
        mean: channel.mean.and_then(finite),
    });
    Statistics {
        device: device.to_string(),
        stream: stream.to_string(),
        generation,
        count: found.rows,
        missing,
        rate_hz: found.rate_hz,
        first: found.first_time_us.map(rfc3339),
        last: found.last_time_us.map(rfc3339),
        time_err_us_max: found.time_err_us_max.and_then(|us| finite(f64::from(us))),
        channels: channels.collect(),
    }
}

/// JSON has no word for the infinite.
fn finite(number: f64) -> Option<f64> {
    Some(number).filter(|number| number.is_finite())
}

/// Statistics that are kept.
const KNOWN_MAX: usize = 4_096;
