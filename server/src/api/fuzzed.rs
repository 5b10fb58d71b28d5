//! What a request brings, as the hub reads it, for those who throw any bytes at it: headers, cursors, ranges, paths, bodies.
//!
//! Owns nothing: everything goes through the very functions and extractors of the API, and what they made of it comes back.

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Request};
use axum::routing::{get, post};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use marey_format::SessionId;

use super::annotations::NewAnnotationBody;
use super::auth::{Login, NewPassword};
use super::extract::{Json, Path};
use super::files::{Span, span};
use super::page::{self, Paging};
use super::problem::Problem;
use super::sessions::{Compaction, NewMark};
use super::tus;
use crate::control::SessionSpec;

/// The pairs of an `Upload-Metadata`.
///
/// # Errors
/// The sentence that it is refused with.
pub fn upload_metadata(value: &[u8]) -> Result<Vec<(String, String)>, String> {
    let value = HeaderValue::from_bytes(value).map_err(|error| error.to_string())?;
    let headers = HeaderMap::from_iter([(tus::METADATA, value)]);
    let found = tus::metadata(&headers).map_err(|problem| words(&problem))?;
    Ok(found.into_iter().collect())
}

/// The key that a `cursor` stands for.
///
/// # Errors
/// The sentence that it is refused with.
pub fn cursor(text: &str) -> Result<String, String> {
    let paging = Paging {
        cursor: Some(text.to_owned()),
        limit: None,
    };
    let key = paging.after().map_err(|problem| words(&problem))?;
    Ok(key.unwrap_or_default())
}

/// The cursor behind the item with this key.
pub fn cursor_of(key: &str) -> String {
    page::cursor(key)
}

/// From where to where a `Range` takes a file of so many bytes.
///
/// # Errors
/// The file has none of them.
pub fn range(text: &str, bytes: u64) -> Result<(u64, u64), &'static str> {
    match span(text, bytes) {
        Span::Whole => Ok((0, bytes)),
        Span::Part(from, to) => Ok((from, to)),
        Span::Outside => Err("the file has no such range"),
    }
}

/// The session and the path below it that a request's target asks a file of; none if it is refused.
pub fn file_path(target: &str) -> Option<(String, String)> {
    let told = |Path((session, path)): Path<(SessionId, String)>| async move { format!("{session}\n{path}") };
    let router = Router::new().route("/api/v1/sessions/{session}/files/{*path}", get(told));
    let request = Request::get(target).body(Body::empty()).ok()?;
    let (status, body) = answered(router, request)?;
    let body = String::from_utf8(body).ok().filter(|_| status == 200)?;
    let (session, path) = body.split_once('\n')?;
    Some((session.to_owned(), path.to_owned()))
}

/// How a body of JSON is answered by one of the operations that take one: 200 if it is taken, else a problem.
pub fn json_body(operation: u8, body: &[u8]) -> Option<(u16, Vec<u8>)> {
    let router = Router::new()
        .route("/0", post(|Json(_): Json<Login>| async {}))
        .route("/1", post(|Json(_): Json<NewPassword>| async {}))
        .route("/2", post(|Json(_): Json<SessionSpec>| async {}))
        .route("/3", post(|Json(_): Json<NewMark>| async {}))
        .route("/4", post(|Json(_): Json<Compaction>| async {}))
        .route("/5", post(|Json(_): Json<NewAnnotationBody>| async {}));
    let request = Request::post(format!("/{}", operation % 6))
        .header("content-type", "application/json")
        .body(Body::from(body.to_vec()))
        .ok()?;
    answered(router, request)
}

fn answered(router: Router, request: Request<Body>) -> Option<(u16, Vec<u8>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().ok()?;
    runtime.block_on(async {
        let response = TowerToHyperService::new(router).call(request).await.ok()?;
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(response.into_body(), ANSWER_BYTES_MAX).await;
        Some((status, body.ok()?.to_vec()))
    })
}

fn words(problem: &Problem) -> String {
    problem.detail().to_owned()
}

/// No answer of these is longer.
const ANSWER_BYTES_MAX: usize = 1 << 20;
