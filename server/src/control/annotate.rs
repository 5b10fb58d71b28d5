//! `session annotate`: what somebody says of a session's time, whoever asks and in whatever way.
//!
//! It is durable at once, and stands in the next generation: of a session that is published already the hub makes that when
//! nobody has said more for a while; without a hub it is made here.

use std::collections::BTreeSet;
use std::sync::PoisonError;

use marey_engine::annotation::{self, Annotation, Annotations, NewAnnotation};
use marey_engine::compact::{Generation, Manifest, rfc3339};
use marey_engine::log;
use marey_engine::time::HubInstant;
use marey_engine::{Session, SessionState, Store};
use marey_format::payload::StreamKey;
use marey_format::{DeviceId, HubEpoch, SessionId};
use serde::{Deserialize, Serialize};

use super::verbs::Desk;
use crate::text;

/// An annotation that is asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnnotationSpec {
    /// The session.
    pub session: SessionId,
    /// Session time, nanoseconds UTC; none for now. Of a correction none for what was said before, and so with all that
    /// follows but the text.
    #[serde(default)]
    pub time_ns: Option<i64>,
    /// Seconds that it lasted; none for a moment.
    #[serde(default)]
    pub duration_s: Option<f64>,
    /// What kind; none for `note`.
    #[serde(default)]
    pub kind: Option<String>,
    /// What is said.
    pub text: String,
    /// What it is about, if not all of the session.
    #[serde(default)]
    pub device: Option<DeviceId>,
    /// `NAME@N`
    #[serde(default)]
    pub stream: Option<String>,
    /// Who says it.
    pub by: String,
    /// The number of the annotation that it corrects.
    #[serde(default)]
    pub corrects: Option<u64>,
    /// That annotation stands no more; the text says why.
    #[serde(default)]
    pub withdraw: bool,
}

impl AnnotationSpec {
    /// Whether all of it can stand in an annotation.
    ///
    /// # Errors
    /// One sentence.
    pub fn check(&self) -> Result<(), String> {
        text::check("the text", &self.text)?;
        text::check("the name of who says it", &self.by)?;
        if self.text.trim().is_empty() {
            return Err("an annotation says something: its text is empty".into());
        }
        if let Some(kind) = &self.kind {
            let mut bytes = kind.bytes();
            let form = bytes.next().is_some_and(|b| b.is_ascii_lowercase())
                && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
            if !form || kind.len() > KIND_BYTES_MAX {
                return Err(
                    "a kind is a lower-case letter and up to 31 lower-case letters, digits and `_`".into(),
                );
            }
        }
        let bad = |s: f64| !(s.is_finite() && (0.0..=DURATION_S_MAX).contains(&s));
        if self.duration_s.is_some_and(bad) {
            return Err("a duration is a number of seconds from 0 to 1e9".into());
        }
        if self.withdraw && self.corrects.is_none() {
            return Err(
                "to withdraw an annotation say which: the number of the one that is corrected".into(),
            );
        }
        match &self.stream {
            Some(stream) if stream.parse::<StreamKey>().is_err() => {
                Err("a stream is named NAME@N, such as imu@1".into())
            }
            _ => Ok(()),
        }
    }
}

pub(super) fn annotate(
    desk: &Desk<'_>,
    spec: AnnotationSpec,
    progress: &mut dyn FnMut(String),
) -> Result<Annotation, String> {
    spec.check()?;
    let text = |error: &dyn std::fmt::Display| error.to_string();
    // One after the other, and each finds the session as it is then.
    let one_at_a_time = desk
        .live
        .map(|state| state.api.beside.lock().unwrap_or_else(PoisonError::into_inner));
    let session = desk.store.session(&spec.session).map_err(|e| text(&e))?;
    let write = || write_down(desk, &session, spec);
    let made = match session.state {
        // What is said while its logs go would be in no generation.
        SessionState::Closed => desk
            .store
            .between_generations(&session.id, write)
            .map_err(|e| text(&e))?
            .ok_or_else(|| {
                format!(
                    "session {} is being published or its logs are being retired; nothing was written down, say it again when \
                     that is done (`marey jobs`)",
                    session.id
                )
            })?,
        _ => write(),
    }?;
    drop(one_at_a_time);
    let is_published = matches!(session.state, SessionState::Sealed | SessionState::Closed);
    if desk.live.is_none() && is_published {
        progress("publishing the generation that has it".to_owned());
        desk.seal(&session.id, Generation::IfNew, &|_| ())
            .map_err(|error| {
                format!(
                    "annotation {} is on the disk and not published yet: {error}; `marey compact {}` when that is mended",
                    made.n, session.id
                )
            })?;
    }
    Ok(made)
}

fn write_down(desk: &Desk<'_>, session: &Session, spec: AnnotationSpec) -> Result<Annotation, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    if session.state == SessionState::Closed
        && desk.store.retired(&session.id).map_err(|e| text(&e))?.is_some()
    {
        return Err(format!(
            "the logs of session {} were retired, so that no generation can be made that would have the annotation; keep it \
             elsewhere, or annotate a copy from a backup of before (`marey restore`)",
            session.id
        ));
    }
    check_time(desk.store, session, &spec)?;
    check_subject(desk, session, &spec)?;
    let disk = &**desk.store.disk();
    let known = annotation::read(disk, &session.id).map_err(|e| text(&e))?;
    let new = new_annotation(desk.store, session, &known, spec)?;
    let made = annotation::append(disk, &session.id, new).map_err(|e| text(&e))?;
    desk.store.annotated(&session.id);
    Ok(made)
}

/// What is to be written down. A correction takes on what it does not say.
fn new_annotation(
    store: &Store,
    session: &Session,
    known: &Annotations,
    spec: AnnotationSpec,
) -> Result<NewAnnotation, String> {
    let before = spec.corrects.map(|number| {
        let newest = known.newest().find(|annotation| annotation.number() == number);
        newest.ok_or_else(|| {
            format!(
                "session {} has no annotation {number} to correct; a correction names the number of the first version",
                session.id
            )
        })
    });
    let before = before.transpose()?;
    let time_ns = match spec.time_ns.or(before.map(|before| before.time_ns)) {
        Some(time_ns) => time_ns,
        None => session_time(store, session, store.clock().now())?,
    };
    let kind = spec.kind.or_else(|| before.map(|before| before.kind.clone()));
    Ok(NewAnnotation {
        time_ns,
        duration_s: spec.duration_s.or(before.and_then(|before| before.duration_s)),
        kind: kind.unwrap_or_else(|| "note".to_owned()),
        text: spec.text,
        device: spec.device.or_else(|| before?.device.clone()),
        stream: spec.stream.or_else(|| before?.stream.clone()),
        by: spec.by,
        said_utc_ns: store.clock().wall().utc_ns,
        corrects: spec.corrects,
        withdrawn: spec.withdraw,
    })
}

/// A time that somebody writes is near its session, or it is another unit, or another session.
fn check_time(store: &Store, session: &Session, spec: &AnnotationSpec) -> Result<(), String> {
    let Some(time_ns) = spec.time_ns else {
        return Ok(());
    };
    let now = store.clock().wall().utc_ns;
    let began = session.anchor.map(|anchor| anchor.utc_ns);
    let ended = session.stopped.and_then(|stopped| {
        let ended = on_session_time(store, session, stopped.hub_epoch, stopped.hub_ns);
        ended.ok().flatten()
    });
    // By a wall clock that was wrong a session may lie ahead of now.
    let latest = [began, ended].into_iter().flatten().fold(now, i64::max);
    let first = began.unwrap_or(now).saturating_sub(BEFORE_NS);
    if (first..=latest.saturating_add(AHEAD_NS)).contains(&time_ns) {
        return Ok(());
    }
    let shown = |ns: i64| rfc3339(ns.div_euclid(1_000));
    let spans = match (began, ended) {
        (None, _) => "has not begun".to_owned(),
        (Some(began), Some(ended)) => format!("spans {} to {}", shown(began), shown(ended)),
        (Some(began), None) => format!("began at {}", shown(began)),
    };
    Err(format!(
        "a time of {time_ns} is {}: a time is in nanoseconds since 1970 UTC, no more than 366 days before its session and a day \
         after now; session {} {spans}",
        shown(time_ns),
        session.id
    ))
}

/// What an annotation is about is of its session. Where nothing is known of that yet, anything may be.
fn check_subject(desk: &Desk<'_>, session: &Session, spec: &AnnotationSpec) -> Result<(), String> {
    if spec.device.is_none() && spec.stream.is_none() {
        return Ok(());
    }
    let disk = &**desk.store.disk();
    // Who can't read what is published does not know what there is.
    let Ok(manifest) = Manifest::read(disk, &Session::dir(&session.id)) else {
        return Ok(());
    };
    let mut devices: BTreeSet<DeviceId> = session.roster.iter().flatten().cloned().collect();
    let mut streams: BTreeSet<(DeviceId, String)> = BTreeSet::new();
    if let Some(manifest) = manifest {
        devices.extend(manifest.logs.into_iter().map(|log| log.device));
        let published = manifest.streams.into_iter();
        streams.extend(published.map(|stream| (stream.device, stream.stream)));
    }
    devices.extend(log::devices(disk, &session.id).map_err(|error| error.to_string())?);
    for log in desk.store.log_status() {
        if log.session == session.id {
            let declared = log.streams.into_keys();
            streams.extend(declared.map(|stream| (log.device.clone(), stream)));
            devices.insert(log.device);
        }
    }
    devices.extend(streams.iter().map(|(device, _)| device.clone()));
    let id = &session.id;
    if let Some(device) = spec.device.as_ref().filter(|device| !devices.contains(*device)) {
        let may_come = session.roster.is_none()
            && !matches!(session.state, SessionState::Sealed | SessionState::Closed)
            && is_enrolled(desk, device)?;
        if !devices.is_empty() && !may_come {
            return Err(format!(
                "session {id} has no device {device}; `marey info {id}` shows those that it has"
            ));
        }
    }
    let Some(stream) = &spec.stream else {
        return Ok(());
    };
    let of_it = |of: &DeviceId| spec.device.as_ref().is_none_or(|device| device == of);
    let mut known = streams.iter().filter(|(of, _)| of_it(of)).peekable();
    if known.peek().is_none() || known.any(|(_, name)| name == stream) {
        return Ok(());
    }
    let of = spec.device.as_ref();
    let of = of.map_or(String::new(), |device| format!(" of device {device}"));
    Err(format!(
        "session {id} has no stream {stream}{of}; `marey info {id}` shows those that it has"
    ))
}

fn is_enrolled(desk: &Desk<'_>, device: &DeviceId) -> Result<bool, String> {
    let record = desk.registrar.registry().device(device.as_str());
    record
        .map(|record| record.is_some())
        .map_err(|error| error.to_string())
}

/// A moment of hub time on the session's own time.
fn session_time(store: &Store, session: &Session, now: HubInstant) -> Result<i64, String> {
    on_session_time(store, session, now.epoch, now.ns)?.ok_or_else(|| {
        format!(
            "session {} has no time of this moment; say which one is meant, in nanoseconds UTC",
            session.id
        )
    })
}

/// None where nobody knows yet.
fn on_session_time(
    store: &Store,
    session: &Session,
    epoch: HubEpoch,
    hub_ns: i64,
) -> Result<Option<i64>, String> {
    let Some(anchor) = session.anchor else {
        return Ok(None);
    };
    if anchor.hub_epoch == epoch {
        return Ok(Some(
            anchor.utc_ns.saturating_add(hub_ns.saturating_sub(anchor.hub_ns)),
        ));
    }
    // The hub was booted since: how its clocks hang together is known when the session is published.
    let manifest = Manifest::read(&**store.disk(), &Session::dir(&session.id)).map_err(|e| e.to_string())?;
    let epochs = manifest.map(|manifest| manifest.hub_epochs).unwrap_or_default();
    let known = epochs.into_iter().find(|known| known.hub_epoch == epoch);
    Ok(known.map(|known| hub_ns.saturating_add(known.offset_ns)))
}

/// How long before its session something may be that is said of it.
const BEFORE_NS: i64 = 366 * 86_400 * 1_000_000_000;
/// How far clocks may be apart, and time zones that somebody forgot.
const AHEAD_NS: i64 = 86_400 * 1_000_000_000;
const KIND_BYTES_MAX: usize = 32;
const DURATION_S_MAX: f64 = 1e9;
