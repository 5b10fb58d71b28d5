//! Whole media files, handed in by the tus protocol 1.0.0 (creation, termination): small, resumable, with clients in
//! every language. On a port of its own, so that a video is in nobody's way.
//!
//! `POST /files` with `Upload-Length` and `Upload-Metadata` (session, filename, and what is known of sha256, device, stream,
//! device_time_ns, time_ns) gives a `Location`; `PATCH` it with the bytes from `Upload-Offset` on; `HEAD` tells where to go
//! on after a break; `DELETE` gives it up. The last `PATCH` puts the file into the session, or says why not.
//!
//! Invariants: an upload belongs to who began it; the size is judged by role before the first byte; what content it is is
//! told by its bytes, never by its name; one writer at a time; what was told is synced.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Body;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, post};
use http_body_util::BodyExt;
use marey_engine::SessionState;
use marey_engine::media::{self, MediaError, MediaPlace, Upload, UploadFacts};
use marey_format::payload::StreamKey;
use marey_format::types::hex;
use marey_format::{DeviceId, SessionId};

use super::access::SESSION_MANAGE;
use super::extract::{Caller, Hub, Path};
use super::problem::Problem;
use super::tus::{LENGTH, OFFSET, RESUMABLE, metadata, number, version};
use super::work::Asked;
use crate::jobs::Job;
use crate::text;

/// The uploads that are in memory: those under way. The others stand on the disk.
#[derive(Debug, Default)]
pub(crate) struct Uploads {
    open: Mutex<HashMap<String, Arc<Slot>>>,
}

/// One upload; taken by its writer.
#[derive(Debug)]
struct Slot(Mutex<Option<Open>>);

#[derive(Debug)]
struct Open {
    upload: Upload,
    job: Job,
}

/// The paths of the port for files.
pub(crate) fn router() -> Router {
    Router::new()
        .route("/files", post(begin).options(options))
        .route(
            "/files/{upload}",
            any(other).head(offset).patch(append).delete(give_up),
        )
        .layer(DefaultBodyLimit::disable())
}

async fn options() -> Response {
    let headers = [
        (RESUMABLE, "1.0.0"),
        (HeaderName::from_static("tus-version"), "1.0.0"),
        (HeaderName::from_static("tus-extension"), "creation,termination"),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

async fn other() -> Problem {
    Problem::method("an upload takes HEAD, PATCH and DELETE")
}

async fn begin(hub: Hub, caller: Caller, headers: HeaderMap) -> Result<Response, Problem> {
    version(&headers)?;
    let bytes = number(&headers, LENGTH)?;
    let mut said = metadata(&headers)?;
    let mut take = |key: &str| said.remove(key).filter(|value| !value.is_empty());
    let session = take("session").ok_or_else(|| Problem::invalid("Upload-Metadata lacks the session"))?;
    let session = SessionId::new(session).map_err(Problem::invalid)?;
    let name = take("filename").ok_or_else(|| Problem::invalid("Upload-Metadata lacks the filename"))?;
    text::file_name(&name).map_err(Problem::invalid)?;
    let sha256 = take("sha256").map(|hash| hash.to_ascii_lowercase());
    if sha256
        .as_ref()
        .is_some_and(|hash| hash.len() != 64 || !hash.bytes().all(|b| b.is_ascii_hexdigit()))
    {
        return Err(Problem::invalid(
            "sha256 in Upload-Metadata has 64 hexadecimal digits",
        ));
    }
    let whole = |key: &'static str, value: Option<String>| {
        let wrong = move |_| {
            Problem::invalid(format!(
                "{key} in Upload-Metadata is a whole number of nanoseconds"
            ))
        };
        value.map(|value| value.parse::<i64>().map_err(wrong)).transpose()
    };
    let stream = take("stream");
    if stream
        .as_ref()
        .is_some_and(|stream| stream.parse::<StreamKey>().is_err())
    {
        return Err(Problem::invalid("a stream is named NAME@N, such as video@1"));
    }
    let place = MediaPlace {
        device: take("device")
            .map(DeviceId::new)
            .transpose()
            .map_err(Problem::invalid)?,
        stream,
        device_time_ns: whole("device_time_ns", take("device_time_ns"))?,
        time_ns: whole("time_ns", take("time_ns"))?,
    };
    let location = hub.work_on(caller, SESSION_MANAGE, session, move |asked, session| {
        if session.state == SessionState::Closed {
            return Err(Problem::conflict(format!(
                "session {} is closed: nothing more is taken",
                session.id
            )));
        }
        let most = asked.file_bytes_max();
        if bytes == 0 || bytes > most {
            return Err(Problem::too_large(format!(
                "{bytes} bytes; as {} you may hand in files of 1 to {most}",
                asked.who.role
            )));
        }
        let store = &asked.state.store;
        asked.sweep()?;
        if media::uploads(&**store.disk())?.len() >= asked.state.config().media.uploads_open_max as usize {
            return Err(Problem::unavailable(
                "too many uploads are under way; finish or delete one",
                60,
            ));
        }
        let mut id = [0; 16];
        aws_lc_rs::rand::fill(&mut id).map_err(Problem::internal)?;
        let id = hex(&id);
        let object = format!("session/{}/media/{name}", session.id);
        asked.audited("media.upload", Some(object.clone()))?;
        let facts = UploadFacts {
            v: 1,
            upload: id.clone(),
            session: session.id,
            name,
            bytes,
            synced_bytes: 0,
            sha256,
            place,
            by: asked.who.name.clone(),
            touched_utc_ns: asked.state.clock.wall().utc_ns,
        };
        let upload = Upload::begin(store.disk(), store.options(), facts)?;
        let open = Open {
            upload,
            job: asked.job(&object, bytes),
        };
        asked.state.api.uploads.keep(&id, open);
        Ok(format!("/files/{id}"))
    });
    let location = HeaderValue::try_from(location.await?).map_err(Problem::internal)?;
    let headers = [
        (header::LOCATION, location),
        (RESUMABLE, HeaderValue::from_static("1.0.0")),
    ];
    Ok((StatusCode::CREATED, headers).into_response())
}

async fn offset(hub: Hub, caller: Caller, Path(id): Path<String>) -> Result<Response, Problem> {
    let found = hub.work(caller, SESSION_MANAGE, move |asked| {
        let slot = asked.slot(&id)?;
        let open = slot.0.lock().unwrap_or_else(PoisonError::into_inner);
        let open = open.as_ref().ok_or_else(busy)?;
        Ok((open.upload.offset(), open.upload.facts().bytes))
    });
    let (offset, bytes) = found.await?;
    let headers = [
        (OFFSET, HeaderValue::from(offset)),
        (LENGTH, HeaderValue::from(bytes)),
        (RESUMABLE, HeaderValue::from_static("1.0.0")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((StatusCode::OK, headers).into_response())
}

async fn give_up(hub: Hub, caller: Caller, Path(id): Path<String>) -> Result<Response, Problem> {
    let gone = hub.work(caller, SESSION_MANAGE, move |asked| {
        let slot = asked.slot(&id)?;
        let open = slot
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
            .ok_or_else(busy)?;
        asked.state.api.uploads.forget(&id);
        media::discard(&**asked.state.store.disk(), &id)?;
        open.job.failed("it was given up by who began it");
        Ok(())
    });
    gone.await?;
    Ok((StatusCode::NO_CONTENT, [(RESUMABLE, "1.0.0")]).into_response())
}

async fn append(
    hub: Hub,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    version(&headers)?;
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    if kind != Some("application/offset+octet-stream") {
        return Err(Problem::unsupported(
            "send `Content-Type: application/offset+octet-stream`",
        ));
    }
    let from = number(&headers, OFFSET)?;
    let slot_id = id.clone();
    let (slot, open) = hub
        .work(caller, SESSION_MANAGE, move |asked| {
            let slot = asked.slot(&slot_id)?;
            let mut place = slot.0.lock().unwrap_or_else(PoisonError::into_inner);
            let open = place.take().ok_or_else(busy)?;
            let offset = open.upload.offset();
            if offset != from {
                *place = Some(open);
                return Err(Problem::conflict(format!(
                    "{offset} bytes have come; go on from there"
                )));
            }
            drop(place);
            Ok((slot, open))
        })
        .await?;
    // From here on the upload comes back into its place whatever happens, even if this request is dropped.
    let mut writing = Writing {
        hub: hub.clone(),
        id,
        slot,
        open: Some(open),
    };
    let received = writing.receive(body).await;
    let done = writing.settle().await;
    received?;
    let offset = done?;
    let headers = [
        (OFFSET, HeaderValue::from(offset)),
        (RESUMABLE, HeaderValue::from_static("1.0.0")),
    ];
    Ok((StatusCode::NO_CONTENT, headers).into_response())
}

/// An upload that is being written to.
struct Writing {
    hub: Hub,
    id: String,
    slot: Arc<Slot>,
    open: Option<Open>,
}

impl Writing {
    /// Takes the body, piece by piece.
    async fn receive(&mut self, mut body: Body) -> Result<(), Problem> {
        let mut gathered = Vec::new();
        loop {
            let frame = match body.frame().await {
                None => break,
                Some(Ok(frame)) => frame,
                // A break of the connection: what came is kept, and the rest comes later.
                Some(Err(_)) => break,
            };
            if let Ok(data) = frame.into_data() {
                gathered.extend_from_slice(&data);
            }
            if gathered.len() >= GATHERED_BYTES {
                self.put(std::mem::take(&mut gathered)).await?;
            }
        }
        match gathered.is_empty() {
            true => Ok(()),
            false => self.put(gathered).await,
        }
    }

    async fn put(&mut self, bytes: Vec<u8>) -> Result<(), Problem> {
        self.with(move |open| Ok(open.upload.append(&bytes)?)).await
    }

    /// Does something with the upload on a plain thread.
    async fn with<T: Send + 'static>(
        &mut self,
        act: impl FnOnce(&mut Open) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let mut open = self.open.take().ok_or_else(busy)?;
        let done = tokio::task::spawn_blocking(move || {
            let done = act(&mut open);
            (open, done)
        });
        let (open, done) = done.await.map_err(Problem::internal)?;
        open.job
            .step("receiving", open.upload.offset(), open.upload.facts().bytes);
        self.open = Some(open);
        done
    }

    /// Makes durable what came; a whole file goes to its session.
    async fn settle(mut self) -> Result<u64, Problem> {
        let open = self.open.take().ok_or_else(busy)?;
        let (state, id, slot) = (self.hub.0.clone(), self.id.clone(), self.slot.clone());
        let done = tokio::task::spawn_blocking(move || {
            let now = state.clock.wall().utc_ns;
            let mut open = open;
            if let Err(error) = open.upload.settle(now) {
                // What was written may be lost: nobody goes on from there.
                state.api.uploads.forget(&id);
                let _ = media::discard(&**state.store.disk(), &id);
                open.job.failed(&error);
                return Err(Problem::from(error));
            }
            let offset = open.upload.offset();
            if !open.upload.is_whole() {
                *slot.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(open);
                return Ok(offset);
            }
            state.api.uploads.forget(&id);
            let Open { upload, job } = open;
            let _one_at_a_time = state.api.beside.lock().unwrap_or_else(PoisonError::into_inner);
            let stored = kind_of(&upload.head()?).and_then(|kind| Ok(upload.finish(kind, now)?));
            match stored {
                Ok(fact) => {
                    tracing::info!(
                        user = fact.by,
                        file = fact.path,
                        sha256 = fact.sha256,
                        "media stored"
                    );
                    job.done(format!(
                        "{}, {} bytes, sha256 {}",
                        fact.kind, fact.bytes, fact.sha256
                    ));
                    Ok(offset)
                }
                Err(problem) => {
                    let _ = media::discard(&**state.store.disk(), &id);
                    job.failed(problem.detail());
                    Err(problem)
                }
            }
        });
        done.await.map_err(Problem::internal)?
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        // The request was dropped half-way: what is in memory goes, and what was synced is there for the next try.
        if self.open.take().is_some() {
            self.hub.0.api.uploads.forget(&self.id);
        }
    }
}

impl Uploads {
    fn keep(&self, id: &str, open: Open) -> Arc<Slot> {
        let slot = Arc::new(Slot(Mutex::new(Some(open))));
        self.known().insert(id.to_owned(), slot.clone());
        slot
    }

    fn forget(&self, id: &str) {
        self.known().remove(id);
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Slot>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Asked<'_> {
    /// The upload of this id, if it is the caller's: from memory, or from the disk.
    fn slot(&self, id: &str) -> Result<Arc<Slot>, Problem> {
        let unknown = || {
            Problem::not_found(
                "no such upload; it may have been finished, given up, or left alone for too long",
            )
        };
        if id.len() != 32
            || !id
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        {
            return Err(unknown());
        }
        let uploads = &self.state.api.uploads;
        // Held while the disk is read: two who resume at once would write at once.
        let mut known = uploads.known();
        let slot = match known.get(id) {
            Some(slot) => slot.clone(),
            None => {
                let store = &self.state.store;
                let upload = Upload::resume(store.disk(), store.options(), id)?.ok_or_else(unknown)?;
                let facts = upload.facts();
                let job = self.job(
                    &format!("session/{}/media/{}", facts.session, facts.name),
                    facts.bytes,
                );
                let slot = Arc::new(Slot(Mutex::new(Some(Open { upload, job }))));
                known.insert(id.to_owned(), slot.clone());
                slot
            }
        };
        drop(known);
        let open = slot.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_other = open
            .as_ref()
            .is_some_and(|open| open.upload.facts().by != self.who.name);
        drop(open);
        if of_other { Err(unknown()) } else { Ok(slot) }
    }

    fn job(&self, object: &str, bytes: u64) -> Job {
        let job = self.state.jobs.begin("upload", object);
        job.runs();
        job.step("receiving", 0, bytes);
        job
    }

    /// Largest file of the caller's role.
    fn file_bytes_max(&self) -> u64 {
        let media = &self.state.config().media;
        let mib = match self.who.role.as_str() {
            "admin" => media.admin_file_mib_max,
            "researcher" => media.researcher_file_mib_max,
            _ => 0,
        };
        mib << 20
    }

    /// Throws away what was left alone for too long.
    fn sweep(&self) -> Result<(), Problem> {
        let disk = &**self.state.store.disk();
        let idle_ns = i64::from(self.state.config().media.upload_idle_hours_max) * 3_600_000_000_000;
        let before = self.state.clock.wall().utc_ns.saturating_sub(idle_ns);
        for facts in media::uploads(disk)? {
            if facts.touched_utc_ns < before {
                self.state.api.uploads.forget(&facts.upload);
                media::discard(disk, &facts.upload)?;
            }
        }
        Ok(())
    }
}

impl From<MediaError> for Problem {
    fn from(error: MediaError) -> Self {
        match error {
            MediaError::Storage(error) => error.into(),
            MediaError::Exists { .. } | MediaError::Full { .. } | MediaError::Short { .. } => {
                Self::conflict(error)
            }
            MediaError::TooLong { .. } => Self::too_large(error),
            MediaError::Hash { .. } => Self::other(
                StatusCode::UNPROCESSABLE_ENTITY,
                "wrong_hash",
                "The content is not what it should be",
                error,
            ),
        }
    }
}

/// The media type, by the first bytes of the content.
fn kind_of(head: &[u8]) -> Result<&'static str, Problem> {
    let kind = infer::get(head).map(|kind| kind.mime_type());
    kind.filter(|kind| TAKEN.contains(kind)).ok_or_else(|| {
        let found = kind.unwrap_or("nothing that is known");
        Problem::unsupported(format!(
            "by its content it is {found}; video, sound and pictures are taken: {}",
            TAKEN.join(", ")
        ))
    })
}

fn busy() -> Problem {
    let title = "The upload is being written to";
    Problem::other(
        StatusCode::LOCKED,
        "busy",
        title,
        "another request writes to it; wait for that one",
    )
}

/// What is written at once.
const GATHERED_BYTES: usize = 1 << 20;

/// What is taken, as `infer` names it. No archives: what they hold nobody has looked at.
const TAKEN: &[&str] = &[
    "video/mp4",
    "video/quicktime",
    "video/x-matroska",
    "video/webm",
    "video/x-msvideo",
    "video/mpeg",
    "audio/x-wav",
    "audio/x-flac",
    "audio/mpeg",
    "audio/ogg",
    "audio/m4a",
    "image/jpeg",
    "image/png",
    "image/tiff",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_known_by_its_bytes() {
        assert_eq!(kind_of(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR").ok(), Some("image/png"));
        assert_eq!(
            kind_of(b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom").ok(),
            Some("video/mp4")
        );
        for wrong in [
            &b"<html><script>"[..],
            b"PK\x03\x04 zip",
            b"MZ\x90\0",
            b"\x7fELF",
            b"",
            b"#!/bin/sh\n",
        ] {
            assert!(kind_of(wrong).is_err(), "{wrong:?}");
        }
    }
}
