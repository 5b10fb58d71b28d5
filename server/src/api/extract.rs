//! What a request brings, checked in one place: path, query, body, bearer token, address.
//!
//! Invariants: whatever is wrong is a [`Problem`] with one sentence; a token is never part of an error or of a log line; ids
//! are the types of format-spec, whose form is checked in full when they are read.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::header;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::problem::Problem;
use crate::state::HubState;

/// The running hub, which serves this connection.
#[derive(Clone)]
pub(crate) struct Hub(pub Arc<HubState>);

/// Who dialled, as the socket says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub SocketAddr);

/// Whoever asks: a token that nobody has looked at yet, and from where.
#[derive(Clone)]
pub(crate) struct Caller {
    pub token: String,
    pub peer: SocketAddr,
}

impl std::fmt::Debug for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Caller")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

/// Parts of the path.
pub(crate) struct Path<T>(pub T);

/// The query.
pub(crate) struct Query<T>(pub T);

/// A body of JSON.
pub(crate) struct Json<T>(pub T);

impl<S: Sync> FromRequestParts<S> for Hub {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let hub = parts.extensions.get::<Self>().cloned();
        hub.ok_or_else(|| Problem::internal("a request outside of a connection of the hub"))
    }
}

impl<S: Sync> FromRequestParts<S> for Peer {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let peer = parts.extensions.get::<Self>().copied();
        peer.ok_or_else(|| Problem::internal("a request outside of a connection of the hub"))
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Peer(peer) = Peer::from_request_parts(parts, state).await?;
        let token = bearer(parts).ok_or_else(Problem::unauthenticated)?;
        Ok(Self { token, peer })
    }
}

fn bearer(parts: &Parts) -> Option<String> {
    let mut values = parts.headers.get_all(header::AUTHORIZATION).iter();
    // Two of them are an attempt at something.
    let (Some(value), None) = (values.next(), values.next()) else {
        return None;
    };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    let is_one = scheme.eq_ignore_ascii_case("bearer") && (1..=TOKEN_BYTES_MAX).contains(&token.len());
    is_one.then(|| token.to_owned())
}

impl<S, T> FromRequestParts<S> for Path<T>
where
    S: Send + Sync,
    T: DeserializeOwned + Send,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match axum::extract::Path::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(rejection) => Err(Problem::malformed(sentence(&rejection.body_text()))),
        }
    }
}

impl<S, T> FromRequestParts<S> for Query<T>
where
    S: Send + Sync,
    T: DeserializeOwned,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match axum::extract::Query::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(rejection) => Err(Problem::malformed(sentence(&rejection.body_text()))),
        }
    }
}

impl<S, T> FromRequest<S> for Json<T>
where
    S: Send + Sync,
    T: DeserializeOwned,
{
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        match axum::Json::<T>::from_request(request, state).await {
            Ok(axum::Json(value)) => Ok(Self(value)),
            Err(JsonRejection::JsonDataError(error)) => Err(Problem::invalid(sentence(&error.body_text()))),
            Err(JsonRejection::MissingJsonContentType(_)) => Err(Problem::unsupported(
                "send JSON with `Content-Type: application/json`",
            )),
            Err(rejection) if rejection.status() == axum::http::StatusCode::PAYLOAD_TOO_LARGE => {
                Err(Problem::too_large(format!(
                    "a body of at most {} bytes is taken",
                    super::BODY_BYTES_MAX
                )))
            }
            Err(rejection) => Err(Problem::malformed(sentence(&rejection.body_text()))),
        }
    }
}

/// The words of a library, which may hold what was sent: no control characters, not too long.
pub(crate) fn sentence(text: &str) -> String {
    let mut clean: String = text
        .chars()
        .filter(|c| !c.is_control())
        .take(SENTENCE_CHARS_MAX)
        .collect();
    if clean.is_empty() {
        clean.push_str("not understood");
    }
    clean
}

/// Longest token that is looked at.
const TOKEN_BYTES_MAX: usize = 512;
const SENTENCE_CHARS_MAX: usize = 400;
