//! What people say of a session's time.

use axum::Json as Answer;
use axum::http::StatusCode;
use marey_engine::annotation::{self, Annotation};
use marey_engine::compact::rfc3339;
use marey_format::{DeviceId, SessionId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::access::{DATA_VIEW, SESSION_MANAGE};
use super::extract::{Caller, Hub, Json, Path, Query};
use super::page::{Page, Paging, cursor, number_key};
use super::problem::Problem;
use crate::control::{AnnotationSpec, Request, Response};

/// An annotation.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct AnnotationView {
    /// Counts from 1.
    n: u64,
    /// Session time, nanoseconds UTC, as text.
    time_ns: String,
    /// The same to the microsecond, RFC 3339.
    time: String,
    #[schema(required)]
    duration_s: Option<f64>,
    kind: String,
    text: String,
    #[schema(required)]
    device: Option<String>,
    #[schema(required)]
    stream: Option<String>,
    /// Who said it.
    by: String,
    /// When it was said, RFC 3339, UTC.
    said: String,
    /// The number of the annotation that this is a later version of; null in the first version.
    #[schema(required)]
    corrects: Option<u64>,
    /// Counts the versions of one annotation from 1; the newest one stands.
    version: u32,
    /// It stands no more; the text says why.
    withdrawn: bool,
}

/// An annotation to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewAnnotationBody {
    /// When it is about: session time in nanoseconds UTC, as text. Null for now.
    #[schema(pattern = "^-?[0-9]{1,19}$")]
    time_ns: Option<String>,
    /// How long that lasted; null for a moment.
    #[schema(minimum = 0.0, maximum = 1e9)]
    duration_s: Option<f64>,
    /// What kind; null for `note`.
    #[schema(pattern = "^[a-z][a-z0-9_]{0,31}$")]
    kind: Option<String>,
    #[schema(min_length = 1, max_length = 1000)]
    text: String,
    /// What it is about, if not all of the session.
    device: Option<String>,
    /// `NAME@N`
    stream: Option<String>,
    /// The number of the annotation that this corrects; what is null in it stays as it was.
    #[schema(minimum = 1)]
    corrects: Option<u64>,
    /// Of a correction: the annotation stands no more, and the text says why.
    #[serde(default)]
    withdraw: bool,
}

impl From<Annotation> for AnnotationView {
    fn from(annotation: Annotation) -> Self {
        Self {
            n: annotation.n,
            time_ns: annotation.time_ns.to_string(),
            time: rfc3339(annotation.time_ns.div_euclid(1_000)),
            duration_s: annotation.duration_s,
            kind: annotation.kind,
            text: annotation.text,
            device: annotation.device.map(|device| device.to_string()),
            stream: annotation.stream,
            by: annotation.by,
            said: rfc3339(annotation.said_utc_ns.div_euclid(1_000)),
            corrects: annotation.corrects,
            version: annotation.version,
            withdrawn: annotation.withdrawn,
        }
    }
}

#[utoipa::path(get, path = "/api/v1/sessions/{session}/annotations", tag = "sessions",
    operation_id = "listAnnotations",
    params(("session" = String, Path, description = "Its name"), Paging),
    responses((status = 200, description = "Every version, in the order in which they were said", body = Page<AnnotationView>)))]
pub(crate) async fn list(
    hub: Hub,
    caller: Caller,
    Path(session): Path<SessionId>,
    Query(paging): Query<Paging>,
) -> Result<Answer<Page<AnnotationView>>, Problem> {
    let page = hub.work_on(caller, DATA_VIEW, session, move |asked, session| {
        let (after, limit) = (paging.after_number()?.unwrap_or(0), paging.limit()?);
        let found = annotation::read(&**asked.state.store.disk(), &session.id)?.annotations;
        let mut rest = found.into_iter().filter(|annotation| annotation.n > after);
        let items: Vec<AnnotationView> = rest.by_ref().take(limit).map(Into::into).collect();
        let is_last = rest.next().is_none();
        let next = items.last().filter(|_| !is_last);
        let next = next.map(|last| cursor(&number_key(last.n)));
        Ok(Page { items, next })
    });
    page.await.map(Answer)
}

#[utoipa::path(post, path = "/api/v1/sessions/{session}/annotations", tag = "sessions", operation_id = "annotate",
    params(("session" = String, Path, description = "Its name")),
    request_body = NewAnnotationBody,
    responses((status = 201, description = "It is on the disk", body = AnnotationView)))]
pub(crate) async fn make(
    hub: Hub,
    caller: Caller,
    Path(session): Path<SessionId>,
    Json(body): Json<NewAnnotationBody>,
) -> Result<(StatusCode, Answer<AnnotationView>), Problem> {
    let made = hub.work_on(caller, SESSION_MANAGE, session, move |asked, session| {
        let number = |text: String| {
            let number = text.parse::<i64>();
            number.map_err(|_| Problem::invalid("time_ns is a whole number of nanoseconds, as text"))
        };
        let device = body.device.map(DeviceId::new).transpose();
        let spec = AnnotationSpec {
            session: session.id,
            time_ns: body.time_ns.map(number).transpose()?,
            duration_s: body.duration_s,
            kind: body.kind,
            text: body.text,
            device: device.map_err(Problem::invalid)?,
            stream: body.stream,
            by: asked.who.name.clone(),
            corrects: body.corrects,
            withdraw: body.withdraw,
        };
        spec.check().map_err(Problem::invalid)?;
        match asked.order(Request::SessionAnnotate(spec))? {
            Response::Annotated(annotation) => Ok(annotation.into()),
            _ => Err(super::sessions::other_answer()),
        }
    });
    made.await.map(|made| (StatusCode::CREATED, Answer(made)))
}
