//! What goes on in the background.

use axum::Json as Answer;

use marey_format::SessionId;

use super::access::{DATA_VIEW, HUB_MANAGE};
use super::extract::{Caller, Hub, Path, Query};
use super::page::{Page, Paging, cursor, number_key};
use super::problem::Problem;
use super::work::{Asked, DEFAULT_STUDY};
use crate::jobs::JobView;

#[utoipa::path(get, path = "/api/v1/jobs", tag = "hub", operation_id = "listJobs", params(Paging),
    responses((status = 200, description = "What is under way and what ended lately, the newest first",
        body = Page<JobView>)))]
pub(crate) async fn list(
    hub: Hub,
    caller: Caller,
    Query(paging): Query<Paging>,
) -> Result<Answer<Page<JobView>>, Problem> {
    let page = hub.work(caller, DATA_VIEW, move |asked| {
        let (below, limit) = (paging.after_number()?, paging.limit()?);
        let jobs = asked.state.jobs.list().into_iter();
        let mut jobs = jobs.filter(|job| below.is_none_or(|below| job.job < below) && may_see(asked, job));
        let items: Vec<JobView> = jobs.by_ref().take(limit).collect();
        let is_last = jobs.next().is_none();
        let next = items.last().filter(|_| !is_last);
        let next = next.map(|last| cursor(&number_key(last.job)));
        Ok(Page { items, next })
    });
    page.await.map(Answer)
}

#[utoipa::path(get, path = "/api/v1/jobs/{job}", tag = "hub", operation_id = "showJob",
    params(("job" = u64, Path, description = "Its number")),
    responses((status = 200, description = "How far it has come", body = JobView)))]
pub(crate) async fn show(
    hub: Hub,
    caller: Caller,
    Path(number): Path<u64>,
) -> Result<Answer<JobView>, Problem> {
    let job = hub.work(caller, DATA_VIEW, move |asked| {
        let job = asked.state.jobs.get(number).filter(|job| may_see(asked, job));
        job.ok_or_else(|| {
            Problem::not_found(format!(
                "no job {number} is known; those that ended are kept for a while"
            ))
        })
    });
    job.await.map(Answer)
}

/// Work on a session is seen by those who see the session, all else by those who manage the hub.
fn may_see(asked: &Asked<'_>, job: &JobView) -> bool {
    let session = job
        .object
        .strip_prefix("session/")
        .and_then(|rest| rest.split('/').next());
    let session = session.and_then(|name| SessionId::new(name).ok());
    let session = session.and_then(|id| asked.state.store.session(&id).ok());
    match session {
        Some(session) => asked.sees(DATA_VIEW, &session),
        None => asked.state.api.access.sees(&asked.who, HUB_MANAGE, DEFAULT_STUDY),
    }
}
