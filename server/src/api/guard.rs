//! Around every request: how much an address may ask, how long an answer may take, and what every answer carries.

use std::time::Duration;

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Method, Response, StatusCode, header};
use axum::middleware::Next;
use axum::response::IntoResponse;

use super::extract::{Hub, Peer};
use super::problem::Problem;

/// The layer around the API.
pub(crate) async fn guard(
    Hub(hub): Hub,
    Peer(peer): Peer,
    request: Request,
    next: Next,
) -> axum::response::Response {
    let began = hub.clock.now();
    let at_most = Duration::from_millis(hub.config().api.request_timeout_ms);
    let mut response = match hub.api.limits.address(peer.ip()) {
        Err(problem) => problem.into_response(),
        Ok(()) if is_transfer(&request) => next.run(request).await,
        Ok(()) => match tokio::time::timeout(at_most, next.run(request)).await {
            Ok(response) => response,
            Err(_) => {
                let why = format!(
                    "it was not done within {} ms; try again later",
                    at_most.as_millis()
                );
                Problem::unavailable(why, 30).into_response()
            }
        },
    };
    if response.status() == StatusCode::UNAUTHORIZED
        && let Err(problem) = hub.api.limits.stranger(peer.ip())
    {
        response = problem.into_response();
    }
    let took_ns = hub.clock.now().ns.saturating_sub(began.ns);
    hub.metrics.api_answered(response.status().as_u16(), took_ns);
    secure(&mut response);
    response
}

/// Reads a small body whole before anybody answers: a request that is answered while its body is still under way would cost the
/// connection, and with it the next request on it.
pub(crate) async fn whole(request: Request, next: Next) -> axum::response::Response {
    if !length(&request).is_some_and(|length| (1..=SMALL_BYTES_MAX).contains(&length)) {
        return next.run(request).await;
    }
    let (head, body) = request.into_parts();
    match axum::body::to_bytes(body, SMALL_BYTES_MAX).await {
        Ok(bytes) => next.run(Request::from_parts(head, bytes.into())).await,
        Err(error) => Problem::malformed(format!("its body did not come whole: {error}")).into_response(),
    }
}

/// Whether it hands in a piece of a file, which takes as long as it takes: one that stands still is ended by the idle time.
/// What is read before anybody knows who asks is none.
fn is_transfer(request: &Request) -> bool {
    request.method() == Method::PATCH && length(request).is_none_or(|length| length > SMALL_BYTES_MAX)
}

fn length(request: &Request) -> Option<usize> {
    let length = request.headers().get(header::CONTENT_LENGTH)?;
    length.to_str().ok()?.parse().ok()
}

/// Longest body that is read before it is known who asks.
const SMALL_BYTES_MAX: usize = 16 << 10;

/// The headers that every answer over TLS has.
pub(crate) fn secure<B>(response: &mut Response<B>) {
    let headers = response.headers_mut();
    for (name, value) in SECURITY {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
}

/// No script, no frame, no guess at types, no plain HTTP, nothing told to other sites.
const SECURITY: [(HeaderName, &str); 6] = [
    (header::STRICT_TRANSPORT_SECURITY, "max-age=31536000"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
];
