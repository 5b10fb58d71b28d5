//! Whole media files, handed in by the tus protocol 1.0.0 (creation, termination): small, resumable, with clients in
//! every language. On a port of its own, so that a video is in nobody's way.
//!
//! `POST /files` with `Upload-Length` and `Upload-Metadata` (session, filename, and what is known of sha256, device, stream,
//! device_time_ns, time_ns) gives a `Location`; `PATCH` it with the bytes from `Upload-Offset` on; `HEAD` tells where to go
//! on after a break; `DELETE` gives it up. The last `PATCH` puts the file into the session, or says why not.
//!
//! Owns what is asked for and taken. Does not own the uploads under way (`shelf`).
//!
//! Invariants: an upload belongs to who began it; the size is judged by role before the first byte; what content it is is
//! told by its bytes, never by its name; what was told is synced, and who is told that all has come is told the truth: it
//! is in the session.

mod shelf;

use axum::Router;
use axum::body::Body;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{head, post};
use http_body_util::BodyExt;
use marey_engine::SessionState;
use marey_engine::media::{MediaError, MediaPlace, Upload, UploadFacts};
use marey_format::payload::StreamKey;
use marey_format::types::hex;
use marey_format::{DeviceId, SessionId};

use super::access::SESSION_MANAGE;
use super::extract::{Caller, Hub, Path};
use super::problem::Problem;
use super::schema::FileBytesDoc;
use super::tus::{LENGTH, OFFSET, RESUMABLE, metadata, number, version};
use super::work::{Asked, study_of};
use crate::permission::Role;
use crate::text;
pub(crate) use shelf::Shelf;
use shelf::Taken;

/// The paths of the port for files.
pub(crate) fn router() -> Router {
    Router::new()
        .route("/files", post(begin).options(options))
        .route("/files/{upload}", head(offset).patch(append).delete(give_up))
        .layer(DefaultBodyLimit::disable())
}

#[utoipa::path(options, path = "/files", tag = "uploads", operation_id = "describeUploads",
    responses((status = 204, description = "What is spoken here",
        headers(("Tus-Version" = String, description = "1.0.0"),
            ("Tus-Extension" = String, description = "Extensions, with commas between")))))]
pub(super) async fn options() -> Response {
    let headers = [
        (RESUMABLE, "1.0.0"),
        (HeaderName::from_static("tus-version"), "1.0.0"),
        (HeaderName::from_static("tus-extension"), "creation,termination"),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

#[utoipa::path(post, path = "/files", tag = "uploads", operation_id = "beginUpload",
    params(
        ("Tus-Resumable" = String, Header, pattern = r"^1\.0\.0$", description = "The version of tus: 1.0.0"),
        ("Upload-Length" = u64, Header, description = "Bytes of the whole file; how many are taken hangs on the role"),
        ("Upload-Metadata" = String, Header, description = "Pairs of a key and base64, with commas between: session, \
            filename, and what is known of sha256, device, stream, device_time_ns, time_ns"),
    ),
    responses((status = 201, description = "It was begun; nothing has come yet",
        headers(("Location" = String, description = "Where the bytes go"),
            ("Tus-Resumable" = String, description = "1.0.0")))))]
pub(super) async fn begin(hub: Hub, caller: Caller, headers: HeaderMap) -> Result<Response, Problem> {
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
        let role = asked.who.rights.role_in(&study_of(&session));
        let most = asked.file_bytes_max(role);
        if bytes == 0 || bytes > most {
            let role = role.map_or("nobody", Role::as_str);
            return Err(Problem::too_large(format!(
                "{bytes} bytes; as {role} you may hand in files of 1 to {most}"
            )));
        }
        let store = &asked.state.store;
        let _one = asked.state.api.uploads.folders();
        if asked.sweep()? >= asked.state.config().media.uploads_open_max as usize {
            return Err(Problem::unavailable(
                "too many uploads are under way; finish or delete one",
                60,
            ));
        }
        let mut id = [0; 16];
        aws_lc_rs::rand::fill(&mut id).map_err(Problem::internal)?;
        let id = hex(&id);
        let object = format!("session/{}/media/{name}", session.id);
        asked.audited("media.upload", Some(object))?;
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
        asked.put(Upload::begin(store.disk(), store.options(), facts)?);
        Ok(format!("/files/{id}"))
    });
    let location = HeaderValue::try_from(location.await?).map_err(Problem::internal)?;
    let headers = [
        (header::LOCATION, location),
        (RESUMABLE, HeaderValue::from_static("1.0.0")),
    ];
    Ok((StatusCode::CREATED, headers).into_response())
}

#[utoipa::path(head, path = "/files/{upload}", tag = "uploads", operation_id = "showUpload",
    params(("upload" = String, Path, description = "The last part of its Location")),
    responses((status = 200, description = "Where to go on",
        headers(("Upload-Offset" = u64, description = "Bytes that have come, and are synced"),
            ("Upload-Length" = u64, description = "Bytes of the whole file")))))]
pub(super) async fn offset(hub: Hub, caller: Caller, Path(id): Path<String>) -> Result<Response, Problem> {
    let found = hub.work(caller, SESSION_MANAGE, move |asked| {
        let mut taken = asked.take(&id)?;
        let bytes = taken.bytes()?;
        // One that is whole, and that a full disk or a crash kept out of its session, is stored now.
        Ok((taken.end()?, bytes))
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

#[utoipa::path(delete, path = "/files/{upload}", tag = "uploads", operation_id = "giveUpUpload",
    params(("upload" = String, Path, description = "The last part of its Location")),
    responses((status = 204, description = "It is gone, with all that has come of it")))]
pub(super) async fn give_up(hub: Hub, caller: Caller, Path(id): Path<String>) -> Result<Response, Problem> {
    let gone = hub.work(caller, SESSION_MANAGE, move |asked| {
        asked.take(&id)?.discard("it was given up by who began it")
    });
    gone.await?;
    Ok((StatusCode::NO_CONTENT, [(RESUMABLE, "1.0.0")]).into_response())
}

#[utoipa::path(patch, path = "/files/{upload}", tag = "uploads", operation_id = "appendToUpload",
    params(
        ("upload" = String, Path, description = "The last part of its Location"),
        ("Tus-Resumable" = String, Header, pattern = r"^1\.0\.0$", description = "The version of tus: 1.0.0"),
        ("Upload-Offset" = u64, Header, description = "Where these bytes begin: as many as have come"),
    ),
    request_body(content = FileBytesDoc, content_type = "application/offset+octet-stream",
        description = "The next bytes; the last ones put the file into its session"),
    responses((status = 204, description = "They are synced; with the last of them the file is in its session",
        headers(("Upload-Offset" = u64, description = "Bytes that have come")))))]
pub(super) async fn append(
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
    let taken = hub.work(caller, SESSION_MANAGE, move |asked| {
        let mut taken = asked.take(&id)?;
        match taken.offset()? {
            offset if offset == from => Ok(taken),
            offset => Err(Problem::conflict(format!(
                "{offset} bytes have come; go on from there"
            ))),
        }
    });
    let taken = taken.await?;
    // A task of its own: what came is made durable whatever becomes of this request.
    let received = tokio::spawn(receive(hub, taken, body)).await;
    let offset = received.map_err(Problem::internal)??;
    let headers = [
        (OFFSET, HeaderValue::from(offset)),
        (RESUMABLE, HeaderValue::from_static("1.0.0")),
    ];
    Ok((StatusCode::NO_CONTENT, headers).into_response())
}

/// Takes the body, piece by piece, to its end or to a break: then the rest comes later.
async fn receive(hub: Hub, mut taken: Taken, mut body: Body) -> Result<u64, Problem> {
    let mut stopping = hub.0.stopping.subscribe();
    let (mut gathered, mut received, mut more) = (Vec::new(), Ok(()), true);
    while more && received.is_ok() {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            _ = stopping.wait_for(|stop| *stop) => None,
        };
        match frame {
            Some(Ok(frame)) => gathered.extend_from_slice(&frame.into_data().unwrap_or_default()),
            Some(Err(_)) | None => more = false,
        }
        if gathered.len() >= GATHERED_BYTES || !(more || gathered.is_empty()) {
            let bytes = std::mem::take(&mut gathered);
            (taken, received) = plainly(move || {
                let appended = taken.append(&bytes);
                (taken, appended)
            })
            .await?;
        }
    }
    let ended = plainly(move || taken.end()).await?;
    received.and(ended)
}

/// Does something with an upload where it may wait for the disk.
async fn plainly<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    tokio::task::spawn_blocking(act).await.map_err(Problem::internal)
}

impl Asked<'_> {
    /// Largest file of a role.
    fn file_bytes_max(&self, role: Option<Role>) -> u64 {
        let media = &self.state.config().media;
        let mib = match role {
            Some(Role::Admin) => media.admin_file_mib_max,
            Some(Role::Researcher) => media.researcher_file_mib_max,
            _ => 0,
        };
        mib << 20
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
