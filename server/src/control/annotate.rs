//! `session annotate`: what somebody says of a session's time, whoever asks and in whatever way.
//!
//! It is durable at once, and stands in the next generation: of a session that is published already the hub makes that when
//! nobody has said more for a while; without a hub it is made here.

use std::sync::PoisonError;

use marey_engine::annotation::{self, Annotation, Annotations, NewAnnotation};
use marey_engine::compact::{Generation, Manifest};
use marey_engine::time::HubInstant;
use marey_engine::{Session, SessionState, Store};
use marey_format::payload::StreamKey;
use marey_format::{DeviceId, SessionId};
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

/// A moment of hub time on the session's own time.
fn session_time(store: &Store, session: &Session, now: HubInstant) -> Result<i64, String> {
    let unknown = || {
        format!(
            "session {} has no time of this moment; say which one is meant, in nanoseconds UTC",
            session.id
        )
    };
    let anchor = session.anchor.ok_or_else(unknown)?;
    if anchor.hub_epoch == now.epoch {
        return Ok(anchor.utc_ns.saturating_add(now.ns.saturating_sub(anchor.hub_ns)));
    }
    // The hub was booted since: how its clocks hang together is known when the session is published.
    let manifest = Manifest::read(&**store.disk(), &Session::dir(&session.id)).map_err(|e| e.to_string())?;
    let epochs = manifest.map(|manifest| manifest.hub_epochs).unwrap_or_default();
    let known = epochs.into_iter().find(|epoch| epoch.hub_epoch == now.epoch);
    known
        .map(|epoch| now.ns.saturating_add(epoch.offset_ns))
        .ok_or_else(unknown)
}

const KIND_BYTES_MAX: usize = 32;
const DURATION_S_MAX: f64 = 1e9;
