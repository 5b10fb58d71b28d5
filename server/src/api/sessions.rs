//! Sessions: listed, shown, made, started, stopped, closed, compacted.
//!
//! Changes go through the verbs of the control socket, so that both ways do and audit the same.

use axum::Json as Answer;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response as HttpResponse};
use marey_engine::compact::Generation;
use marey_engine::{Session, SessionState};
use marey_format::SessionId;
use marey_format::types::Label;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::access::{DATA_VIEW, SESSION_CREATE, SESSION_MANAGE};
use super::extract::{Caller, Hub, Json, Path, Query};
use super::page::{Page, Paging};
use super::problem::Problem;
use super::schema::{CheckDoc, MarkDoc, NewSessionDoc, SessionDoc, SessionViewDoc};
use super::work::{Asked, study_of};
use crate::control::{CheckView, Request, Response, SessionSpec, SessionView};
use crate::text;

/// Which sessions are wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Wanted {
    /// `next` of the page before; none for the first.
    #[param(max_length = 512)]
    cursor: Option<String>,
    /// Items of a page, at most.
    #[param(minimum = 1, maximum = 500, default = 100)]
    limit: Option<u32>,
    /// Only those in this state.
    #[param(value_type = Option<super::schema::SessionStateDoc>)]
    state: Option<SessionState>,
}

#[utoipa::path(get, path = "/api/v1/sessions", tag = "sessions", operation_id = "listSessions",
    params(Wanted),
    responses((status = 200, description = "Those that the caller may see, by name", body = Page<SessionDoc>)))]
pub(crate) async fn list(
    hub: Hub,
    caller: Caller,
    Query(wanted): Query<Wanted>,
) -> Result<Answer<Page<Session>>, Problem> {
    let paging = Paging {
        cursor: wanted.cursor,
        limit: wanted.limit,
    };
    let page = hub.work(caller, DATA_VIEW, move |asked| {
        let seen = asked.state.store.sessions().into_iter().filter(|session| {
            wanted.state.is_none_or(|state| session.state == state) && asked.sees(DATA_VIEW, session)
        });
        paging.page(seen, |session| session.id.to_string())
    });
    page.await.map(Answer)
}

#[utoipa::path(get, path = "/api/v1/sessions/{session}", tag = "sessions", operation_id = "showSession",
    params(("session" = String, Path, description = "Its name")),
    responses((status = 200, description = "It, with its logs", body = SessionViewDoc)))]
pub(crate) async fn show(
    hub: Hub,
    caller: Caller,
    Path(session): Path<SessionId>,
) -> Result<Answer<SessionView>, Problem> {
    let shown = hub.work_on(caller, DATA_VIEW, session, |asked, session| {
        match asked.order(Request::SessionShow { session: session.id })? {
            Response::SessionShown(view) => Ok(view),
            _ => Err(other_answer()),
        }
    });
    shown.await.map(Answer)
}

#[utoipa::path(post, path = "/api/v1/sessions", tag = "sessions", operation_id = "createSession",
    request_body = NewSessionDoc,
    responses((status = 201, description = "It was made; nothing is recorded before it is started", body = SessionDoc,
        headers(("Location" = String, description = "Where it is shown")))))]
pub(crate) async fn create(
    hub: Hub,
    caller: Caller,
    Json(spec): Json<SessionSpec>,
) -> Result<HttpResponse, Problem> {
    let made = hub.work(caller, SESSION_CREATE, move |asked| {
        asked.allowed(SESSION_CREATE, &asked.study_of_spec(&spec)?)?;
        let bad_drift = spec
            .max_drift_ppm
            .is_some_and(|ppm| !(ppm.is_finite() && ppm > 0.0));
        let bad_error = spec
            .max_time_error_us
            .is_some_and(|us| !(us.is_finite() && us > 0.0));
        if bad_drift || bad_error {
            return Err(Problem::invalid(
                "max_drift_ppm and max_time_error_us are numbers above 0, or left out",
            ));
        }
        check_metadata(&spec)?;
        match asked.order(Request::SessionCreate(spec))? {
            Response::Session(session) => Ok(session),
            _ => Err(other_answer()),
        }
    });
    let made = made.await?;
    let location =
        HeaderValue::try_from(format!("/api/v1/sessions/{}", made.id)).map_err(Problem::internal)?;
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Answer(made)).into_response())
}

#[utoipa::path(post, path = "/api/v1/sessions/{session}/start", tag = "sessions", operation_id = "startSession",
    params(("session" = String, Path, description = "One that was created")),
    responses((status = 200, description = "It records", body = SessionDoc)))]
pub(crate) async fn start(
    hub: Hub,
    caller: Caller,
    Path(session): Path<SessionId>,
) -> Result<Answer<Session>, Problem> {
    change(hub, caller, session, |session| Request::SessionStart {
        session,
        create: None,
    })
    .await
}

#[utoipa::path(post, path = "/api/v1/sessions/{session}/stop", tag = "sessions", operation_id = "stopSession",
    params(("session" = String, Path, description = "One that records")),
    responses((status = 200,
        description = "It stops; it is sealed when nobody owes anything, or after the grace time", body = SessionDoc)))]
pub(crate) async fn stop(
    hub: Hub,
    caller: Caller,
    Path(session): Path<SessionId>,
) -> Result<Answer<Session>, Problem> {
    change(hub, caller, session, |session| Request::SessionStop {
        session,
        wait: false,
    })
    .await
}

#[utoipa::path(post, path = "/api/v1/sessions/{session}/close", tag = "sessions", operation_id = "closeSession",
    params(("session" = String, Path, description = "One that is sealed")),
    responses((status = 200, description = "It is closed for good: nothing more is taken", body = SessionDoc)))]
pub(crate) async fn close(
    hub: Hub,
    caller: Caller,
    Path(session): Path<SessionId>,
) -> Result<Answer<Session>, Problem> {
    change(hub, caller, session, |session| Request::SessionClose { session }).await
}

#[utoipa::path(get, path = "/api/v1/sessions/{session}/check", tag = "sessions", operation_id = "checkSession",
    params(("session" = String, Path, description = "One that is created, or records")),
    responses((status = 200, description = "Go or no-go, rule by rule", body = CheckDoc)))]
pub(crate) async fn check(
    hub: Hub,
    caller: Caller,
    Path(session): Path<SessionId>,
) -> Result<Answer<CheckView>, Problem> {
    let checked = hub.work_on(caller, DATA_VIEW, session, |asked, session| {
        let judged = asked.state.judge.check(asked.state, &session.id);
        judged.map_err(Problem::conflict)
    });
    checked.await.map(Answer)
}

/// What to mark.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewMark {
    /// Plain text.
    #[schema(value_type = String, min_length = 1, max_length = 1000)]
    label: Label,
}

#[utoipa::path(post, path = "/api/v1/sessions/{session}/marks", tag = "sessions", operation_id = "markSession",
    params(("session" = String, Path, description = "One that records")),
    request_body = NewMark,
    responses((status = 201, description = "It stands in the record, and devices are told", body = MarkDoc)))]
pub(crate) async fn mark(
    hub: Hub,
    caller: Caller,
    Path(session): Path<SessionId>,
    Json(NewMark { label }): Json<NewMark>,
) -> Result<HttpResponse, Problem> {
    let marked = hub.work_on(caller, SESSION_MANAGE, session, |asked, session| {
        let session = session.id;
        match asked.order(Request::SessionMark { session, label })? {
            Response::Marked(mark) => Ok(mark),
            _ => Err(other_answer()),
        }
    });
    Ok((StatusCode::CREATED, Answer(marked.await?)).into_response())
}

/// How a session is published.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Compaction {
    /// Makes all of it again from the logs, its clocks aligned anew.
    again: bool,
}

#[utoipa::path(post, path = "/api/v1/sessions/{session}/compact", tag = "sessions", operation_id = "compactSession",
    params(("session" = String, Path, description = "One that was stopped")),
    request_body = Compaction,
    responses((status = 202, description = "It goes on in the background: see the list of jobs", body = SessionDoc,
        headers(("Location" = String, description = "Where jobs are listed")))))]
pub(crate) async fn compact(
    hub: Hub,
    caller: Caller,
    Path(session): Path<SessionId>,
    Json(compaction): Json<Compaction>,
) -> Result<HttpResponse, Problem> {
    let begun = hub.work_on(caller, SESSION_MANAGE, session, move |asked, session| {
        let may = match session.state {
            SessionState::Stopping | SessionState::Sealed => true,
            SessionState::Closed => compaction.again,
            _ => false,
        };
        if !may {
            return Err(Problem::conflict(format!(
                "session {} is {}; what was stopped and is not closed can be published, and made again when it is closed too",
                session.id, session.state
            )));
        }
        let how = match compaction.again {
            true => Generation::Always,
            false => Generation::IfNew,
        };
        asked.audited("session.compact", Some(format!("session/{}", session.id)))?;
        let object = format!("session/{}", session.id);
        if asked.state.jobs.open_of(&object).is_none() {
            let (state, id) = (asked.state.clone(), session.id.clone());
            let spawned = std::thread::Builder::new().name("marey-compact".into()).spawn(move || {
                if let Err(error) = state.seal_as(&id, how, &|_| ()) {
                    tracing::warn!(session = %id, %error, "a compaction that was asked for failed");
                }
            });
            spawned.map_err(Problem::internal)?;
        }
        Ok(session)
    });
    let session = begun.await?;
    let location = HeaderValue::from_static("/api/v1/jobs");
    Ok((
        StatusCode::ACCEPTED,
        [(header::LOCATION, location)],
        Answer(session),
    )
        .into_response())
}

async fn change(
    hub: Hub,
    caller: Caller,
    session: SessionId,
    request: impl FnOnce(SessionId) -> Request + Send + 'static,
) -> Result<Answer<Session>, Problem> {
    let changed = hub.work_on(caller, SESSION_MANAGE, session, move |asked, session| match asked
        .order(request(session.id))?
    {
        Response::Session(session) => Ok(session),
        _ => Err(other_answer()),
    });
    changed.await.map(Answer)
}

/// Text for people is shown by terminals and pages: no control characters, and not without end.
fn check_metadata(spec: &SessionSpec) -> Result<(), Problem> {
    if spec.metadata.len() > METADATA_MAX {
        return Err(Problem::invalid(format!(
            "at most {METADATA_MAX} entries of metadata are taken"
        )));
    }
    for (key, value) in &spec.metadata {
        text::check("a key of metadata", key).map_err(Problem::invalid)?;
        text::check("a value of metadata", value).map_err(Problem::invalid)?;
    }
    Ok(())
}

pub(super) fn other_answer() -> Problem {
    Problem::internal("a verb gave another answer than it has")
}

/// Entries of metadata.
const METADATA_MAX: usize = 64;

impl Asked<'_> {
    /// Whether whoever asks may do this with a session.
    pub(super) fn sees(&self, permission: &str, session: &Session) -> bool {
        self.state
            .api
            .access
            .sees(&self.who, permission, &study_of(session))
    }
}
