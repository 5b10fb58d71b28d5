//! `POST /enrol`: how an invited device asks for its certificate, before it has one. The format is that of `wire.md`, which
//! devices keep to, and not the API's.
//!
//! Invariants: a stranger learns nothing but whether it got a certificate; attempts are limited by address; no more of the
//! machine is taken than the one thread that signs.

use axum::Json as Answer;
use axum::body::Bytes;
use axum::extract::FromRequest;

use super::extract::{Hub, Peer};
use super::problem::Problem;
use super::schema::{EnrolRequestDoc, EnrolledDoc};
use crate::pki::PkiError;
use crate::registrar::{Enrolled, RegistrarError};

#[utoipa::path(post, path = "/enrol", tag = "devices", operation_id = "enrolDevice",
    request_body = EnrolRequestDoc,
    responses((status = 200, description = "The invited device's certificate, its authority's, and where the hub is",
        body = EnrolledDoc)))]
pub(crate) async fn enrol(
    Hub(hub): Hub,
    Peer(peer): Peer,
    request: axum::extract::Request,
) -> Result<Answer<Enrolled>, Problem> {
    hub.api.limits.stranger(peer.ip())?;
    // No content type is asked for: this is written by hand on small devices.
    let body = Bytes::from_request(request, &()).await;
    let body =
        body.map_err(|_| Problem::too_large(format!("a body of at most {BODY_BYTES_MAX} bytes is taken")))?;
    let Ok(request) = serde_json::from_slice(&body) else {
        let form = "the body is not {\"device\", \"token\", \"csr\"} as wire.md has it";
        return Err(Problem::malformed(form));
    };
    let office = hub.office.as_ref();
    let office = office.ok_or_else(|| Problem::unavailable("nobody is enrolled here", RETRY_S))?;
    let Some(enrolled) = office.redeem(request, peer).await else {
        return Err(Problem::unavailable("the hub has too much to do; try again", 1));
    };
    enrolled.map(Answer).map_err(|error| {
        tracing::warn!(%peer, %error, "an enrolment was refused");
        match error {
            RegistrarError::NotInvited => Problem::forbidden(error),
            RegistrarError::Request(_) => Problem::malformed(error),
            RegistrarError::Pki(PkiError::Locked { .. }) => {
                Problem::unavailable("the hub's authority is locked; ask its people", RETRY_S)
            }
            // What is wrong with the hub is for its people, not for strangers.
            _ => Problem::unavailable("the hub can't enrol anybody now; ask its people", RETRY_S),
        }
    })
}

/// Longest body: a request for a certificate is at most 8 KiB.
pub(super) const BODY_BYTES_MAX: usize = 16 << 10;
const RETRY_S: u64 = 60;
