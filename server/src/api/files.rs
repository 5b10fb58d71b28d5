//! Files of a session, for those who may take data away: what its manifest, its newest receipt and its list of media name,
//! and nothing else, whatever a path says.
//!
//! `GET` takes one range (RFC 9110, section 14); the entity tag is the file's SHA-256, so that `If-Range` and
//! `If-None-Match` mean the bytes. A file is read piece by piece on plain threads while the connection takes it.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::Json as Answer;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::body::{Frame, SizeHint};
use marey_engine::compact::{HashFact, Manifest, Receipt, certificate_name, read_receipt, signature_name};
use marey_engine::disk::{File, OpenMode};
use marey_engine::{Session, StorageError, Store, media};
use marey_format::SessionId;
use serde::Serialize;
use tokio::task::JoinHandle;
use utoipa::ToSchema;

use super::access::{DATA_EXPORT, DATA_VIEW};
use super::extract::{Caller, Hub, Path, Query};
use super::page::{Page, Paging};
use super::problem::Problem;

/// A file that can be taken away.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct FileView {
    /// Below the session's folder, and below `/api/v1/sessions/SESSION/files/`.
    path: String,
    bytes: u64,
    sha256: String,
    /// Rows of a Parquet file.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    rows: Option<u64>,
    /// Media type.
    #[serde(rename = "type")]
    kind: String,
}

#[utoipa::path(get, path = "/api/v1/sessions/{session}/files", tag = "files", operation_id = "listFiles",
    params(("session" = String, Path, description = "Its name"), Paging),
    responses((status = 200, description = "What the newest generation and the media are made of, by path",
        body = Page<FileView>)))]
pub(crate) async fn list(
    hub: Hub,
    caller: Caller,
    Path(session): Path<SessionId>,
    Query(paging): Query<Paging>,
) -> Result<Answer<Page<FileView>>, Problem> {
    let page = hub.work_on(caller, DATA_VIEW, session, move |asked, session| {
        let mut files = files(&asked.state.store, &session)?;
        files.sort_by(|a, b| a.path.cmp(&b.path));
        paging.page(files, |file| file.path.clone())
    });
    page.await.map(Answer)
}

#[utoipa::path(get, path = "/api/v1/sessions/{session}/files/{*path}", tag = "files", operation_id = "takeFile",
    params(
        ("session" = String, Path, description = "Its name"),
        ("path" = String, Path, description = "As the list of files has it; its slashes stand as they are"),
        ("Range" = Option<String>, Header, description = "One range of bytes, such as `bytes=0-1023`"),
    ),
    responses(
        (status = 200, description = "The file", body = serde_json::Value, content_type = "*/*"),
        (status = 206, description = "The range", body = serde_json::Value, content_type = "*/*"),
        (status = 304, description = "The caller has it"),
        (status = 416, description = "The file has no such range", body = Problem,
            content_type = "application/problem+json"),
    ))]
pub(crate) async fn take(
    hub: Hub,
    caller: Caller,
    Path((session, path)): Path<(SessionId, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let opened = hub.work_on(caller, DATA_EXPORT, session, move |asked, session| {
        let store = &asked.state.store;
        let file = files(store, &session)?.into_iter().find(|file| file.path == path);
        let Some(file) = file else {
            return Err(Problem::not_found(format!(
                "session {} has no file of this path; GET /api/v1/sessions/{}/files lists those that there are",
                session.id, session.id
            )));
        };
        let object = format!("session/{}/{}", session.id, file.path);
        asked.noted("data.export", object);
        let path = Session::dir(&session.id).join(&file.path);
        let open = || {
            let disk = store.disk();
            let opened = disk.open(&path, OpenMode::Read)?;
            let bytes = opened.len()?;
            Ok::<_, std::io::Error>((opened, bytes))
        };
        let (opened, bytes) =
            open().map_err(|error| StorageError::io("reading", store.disk().describe(&path), error))?;
        if bytes != file.bytes {
            // A generation was published between the look at the manifest and the opening, or it is damaged.
            return Err(Problem::unavailable("the file is being replaced; ask again", 1));
        }
        Ok((file, opened))
    });
    let (file, opened) = opened.await?;
    answer(&file, opened, &headers)
}

fn answer(file: &FileView, opened: Arc<dyn File>, headers: &HeaderMap) -> Result<Response, Problem> {
    let tag = format!("\"{}\"", file.sha256);
    let named = |name| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    let has_it = |list: &str| list.split(',').any(|one| one.trim() == tag || one.trim() == "*");
    let mut response = Response::builder()
        .header(header::ETAG, &tag)
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::CACHE_CONTROL, "private, no-cache");
    if named(header::IF_NONE_MATCH).is_some_and(has_it) {
        let response = response.status(StatusCode::NOT_MODIFIED).body(Body::empty());
        return response.map_err(Problem::internal);
    }
    let same = named(header::IF_RANGE).is_none_or(|if_range| if_range == tag);
    let range = named(header::RANGE).filter(|_| same);
    let (from, to) = match range.map(|range| span(range, file.bytes)) {
        None | Some(Span::Whole) => (0, file.bytes),
        Some(Span::Part(from, to)) => {
            let part = format!("bytes {from}-{}/{}", to - 1, file.bytes);
            response = response
                .status(StatusCode::PARTIAL_CONTENT)
                .header(header::CONTENT_RANGE, part);
            (from, to)
        }
        Some(Span::Outside) => {
            let why = format!("the file has {} bytes", file.bytes);
            let title = "The file has no such range";
            let problem = Problem::other(StatusCode::RANGE_NOT_SATISFIABLE, "no_such_range", title, why);
            let mut response = problem.into_response();
            let size = HeaderValue::try_from(format!("bytes */{}", file.bytes)).map_err(Problem::internal)?;
            response.headers_mut().insert(header::CONTENT_RANGE, size);
            return Ok(response);
        }
    };
    let name = PathBuf::from(&file.path);
    let name = name.file_name().unwrap_or_default().to_string_lossy();
    let response = response
        .header(header::CONTENT_TYPE, &file.kind)
        .header(
            header::CONTENT_DISPOSITION,
            format!("attachment; filename=\"{name}\""),
        )
        .body(Body::new(Pieces {
            file: opened,
            at: from,
            to,
            reading: None,
        }));
    response.map_err(Problem::internal)
}

/// What a `Range` asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Span {
    /// Not understood, or several: then the header does not count.
    Whole,
    /// From, and the first byte behind it.
    Part(u64, u64),
    Outside,
}

pub(super) fn span(range: &str, bytes: u64) -> Span {
    let Some((first, last)) = range.strip_prefix("bytes=").and_then(|one| one.split_once('-')) else {
        return Span::Whole;
    };
    let number = |text: &str| -> Option<u64> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    let (from, to) = match (number(first), number(last)) {
        (Some(from), None) if last.is_empty() => (from, bytes),
        (Some(from), Some(last)) if from <= last => (from, last.saturating_add(1).min(bytes)),
        // The last so many.
        (None, Some(count)) if first.is_empty() => (bytes.saturating_sub(count), bytes),
        _ => return Span::Whole,
    };
    if from >= to {
        Span::Outside
    } else {
        Span::Part(from, to)
    }
}

/// What may be taken, as it stands now.
fn files(store: &Store, session: &Session) -> Result<Vec<FileView>, Problem> {
    let (disk, dir) = (&**store.disk(), Session::dir(&session.id));
    let mut found = Vec::new();
    if let Some(manifest) = Manifest::read(disk, &dir)? {
        let parts = manifest.streams.iter().flat_map(|stream| &stream.parts);
        found.extend(parts.map(|part| parquet(&part.path, part.rows, &part.hashes)));
        found.extend(
            manifest
                .beside()
                .map(|table| parquet(&table.path, table.rows, &table.hashes)),
        );
        if let Some(receipt) = read_receipt(disk, &dir, manifest.generation)? {
            found.push(small(
                "manifest.json",
                receipt.manifest.bytes,
                &receipt.manifest.sha256,
            ));
            let number = manifest.generation;
            for name in [
                Receipt::name(number),
                signature_name(number),
                certificate_name(number),
            ] {
                found.extend(whole(store, session, &name)?);
            }
        }
    }
    for media in media::list(disk, &session.id)? {
        found.push(FileView {
            path: media.path,
            bytes: media.bytes,
            sha256: media.sha256,
            rows: None,
            kind: media.kind,
        });
    }
    for name in [media::MEDIA, marey_engine::annotation::ANNOTATIONS] {
        found.extend(whole(store, session, name)?);
    }
    Ok(found)
}

/// A small file that nobody has the hash of.
fn whole(store: &Store, session: &Session, name: &str) -> Result<Option<FileView>, Problem> {
    let (disk, path) = (&**store.disk(), Session::dir(&session.id).join(name));
    let io = |error| StorageError::io("reading", disk.describe(&path), error);
    if disk.stat(&path).map_err(io)?.is_none() {
        return Ok(None);
    }
    let bytes = marey_engine::disk::read_all(disk, &path, SMALL_BYTES_MAX).map_err(io)?;
    let hash = <sha2::Sha256 as sha2::Digest>::digest(&bytes);
    Ok(Some(small(
        name,
        bytes.len() as u64,
        &marey_format::types::hex(&hash),
    )))
}

fn small(path: &str, bytes: u64, sha256: &str) -> FileView {
    FileView {
        path: path.to_owned(),
        bytes,
        sha256: sha256.to_owned(),
        rows: None,
        kind: match path.rsplit('.').next() {
            Some("jsonl") => "application/x-ndjson",
            Some("sig") => "application/octet-stream",
            Some("crt") => "application/x-pem-file",
            _ => "application/json",
        }
        .to_owned(),
    }
}

fn parquet(path: &str, rows: u64, hashes: &HashFact) -> FileView {
    FileView {
        path: path.to_owned(),
        bytes: hashes.bytes,
        sha256: hashes.sha256.clone(),
        rows: Some(rows),
        kind: "application/vnd.apache.parquet".to_owned(),
    }
}

/// A range of a file, as the body of an answer.
struct Pieces {
    file: Arc<dyn File>,
    at: u64,
    to: u64,
    reading: Option<JoinHandle<std::io::Result<Bytes>>>,
}

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        if self.at >= self.to {
            return Poll::Ready(None);
        }
        let (file, at) = (self.file.clone(), self.at);
        let count = usize::try_from(self.to - at)
            .unwrap_or(PIECE_BYTES)
            .min(PIECE_BYTES);
        let reading = self.reading.get_or_insert_with(|| {
            tokio::task::spawn_blocking(move || {
                let mut piece = vec![0; count];
                let read = file.read_at(at, &mut piece)?;
                piece.truncate(read);
                match read {
                    0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
                    _ => Ok(Bytes::from(piece)),
                }
            })
        });
        let piece = ready!(Pin::new(reading).poll(cx));
        self.reading = None;
        let piece = piece.map_err(std::io::Error::other).and_then(|read| read);
        Poll::Ready(Some(piece.map(|piece| {
            self.at += piece.len() as u64;
            Frame::data(piece)
        })))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.to - self.at)
    }
}

/// What is read at once.
const PIECE_BYTES: usize = 256 << 10;
const SMALL_BYTES_MAX: u64 = 256 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_the_rfc() {
        for (range, expected) in [
            ("bytes=0-9", Span::Part(0, 10)),
            ("bytes=5-", Span::Part(5, 100)),
            ("bytes=-10", Span::Part(90, 100)),
            ("bytes=-1000", Span::Part(0, 100)),
            ("bytes=90-1000", Span::Part(90, 100)),
            ("bytes=99-99", Span::Part(99, 100)),
            ("bytes=100-", Span::Outside),
            ("bytes=-0", Span::Outside),
            ("bytes=99999999999999999999-", Span::Outside),
            ("bytes=9-5", Span::Whole),
            ("bytes=0-1,5-6", Span::Whole),
            ("bytes=-", Span::Whole),
            ("bytes=+1-2", Span::Whole),
            ("lines=1-2", Span::Whole),
        ] {
            assert_eq!(span(range, 100), expected, "{range}");
        }
        assert_eq!(span("bytes=0-", 0), Span::Outside);
    }
}
