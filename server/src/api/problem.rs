//! Errors as people and programs get them: `application/problem+json` (RFC 9457), one sentence each.
//!
//! Invariant: what concerns the hub's inside goes into the log with its evidence, and to the caller as one sentence without it.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use marey_engine::{SealError, SessionError, StorageError};
use serde::Serialize;
use utoipa::ToSchema;

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Problem {
    /// `urn:marey:problem:CODE`
    #[serde(rename = "type")]
    kind: String,
    /// The same for all problems of a code.
    title: &'static str,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What happened, and what to do about it.
    detail: String,
    /// For programs.
    code: &'static str,
    /// Seconds after which trying again makes sense.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    retry_after_s: Option<u64>,
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, title: &'static str, detail: impl ToString) -> Self {
        Self {
            kind: format!("urn:marey:problem:{code}"),
            title,
            status: status.as_u16(),
            detail: detail.to_string(),
            code,
            retry_after_s: None,
        }
    }

    /// The request is not understood.
    pub fn malformed(detail: impl ToString) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "malformed",
            "The request is not understood",
            detail,
        )
    }

    /// Its parts are understood and make no sense.
    pub fn invalid(detail: impl ToString) -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid",
            "The request makes no sense",
            detail,
        )
    }

    /// Nobody has shown who they are. The same whatever was wrong with what they showed.
    pub fn unauthenticated() -> Self {
        let detail =
            "send `Authorization: Bearer TOKEN` with a token that is valid; POST /api/v1/login gives one";
        Self::new(
            StatusCode::UNAUTHORIZED,
            "unauthenticated",
            "Who is asking is not known",
            detail,
        )
    }

    /// Name and password do not fit, or the account is locked: which of them nobody is told.
    pub fn wrong_login() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "wrong_login",
            "The login was refused",
            "name and password do not fit, or there were too many failures of late; ask an admin, or wait half an hour",
        )
    }

    /// Somebody known asks for what their role or grants do not allow.
    pub fn forbidden(detail: impl ToString) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", "Not allowed", detail)
    }

    /// There is no such thing.
    pub fn not_found(detail: impl ToString) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not_found",
            "There is no such thing",
            detail,
        )
    }

    /// The path does not take this method.
    pub fn method(detail: impl ToString) -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "The path does not take this method",
            detail,
        )
    }

    /// What is there does not allow it now.
    pub fn conflict(detail: impl ToString) -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "conflict",
            "What is there does not allow it",
            detail,
        )
    }

    /// More than is taken.
    pub fn too_large(detail: impl ToString) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            "More than is taken",
            detail,
        )
    }

    /// A content type that is not taken here.
    pub fn unsupported(detail: impl ToString) -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_type",
            "The content is of a type that is not taken",
            detail,
        )
    }

    /// Too much at once.
    pub fn slow_down(retry_after_s: u64) -> Self {
        let detail = format!("too many requests; try again in {retry_after_s} s");
        Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "slow_down",
            "Too many requests",
            detail,
        )
        .retry_after(retry_after_s)
    }

    /// It can't be done now, and may work later.
    pub fn unavailable(detail: impl ToString, retry_after_s: u64) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            "It can't be done now",
            detail,
        )
        .retry_after(retry_after_s)
    }

    /// Something failed inside of the hub. The evidence goes into the log.
    pub fn internal(error: impl std::fmt::Display) -> Self {
        tracing::error!(%error, "a request of the API failed");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "The hub could not do it",
            "something failed inside of the hub; its log says what",
        )
    }

    /// A status of a protocol that has its own, such as uploads.
    pub fn other(status: StatusCode, code: &'static str, title: &'static str, detail: impl ToString) -> Self {
        Self::new(status, code, title, detail)
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// What happened, and what to do about it.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.status();
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response =
            (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<SessionError> for Problem {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Unknown(_) => Self::not_found(error),
            SessionError::Storage(error) => error.into(),
            _ => Self::conflict(error),
        }
    }
}

impl From<StorageError> for Problem {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Floor { .. } => Self::unavailable(error, RETRY_AFTER_S),
            StorageError::Poisoned { .. } => {
                tracing::error!(%error, "a request of the API found storage stopped");
                Self::unavailable(
                    "the hub's storage stopped after a failure; it must be restarted",
                    RETRY_AFTER_S,
                )
            }
            _ if error.is_full() => Self::unavailable("the hub's disk is full; make room", RETRY_AFTER_S),
            _ => Self::internal(error),
        }
    }
}

impl From<SealError> for Problem {
    fn from(error: SealError) -> Self {
        match error {
            SealError::Session(error) => error.into(),
            SealError::Storage(error) => error.into(),
            SealError::Compact(error) => Self::internal(error),
        }
    }
}

/// What is short of room is worth another try after so long.
const RETRY_AFTER_S: u64 = 60;
