//! The hub itself: health for anybody, more for those who may see data.

use axum::Json as Answer;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::access::DATA_VIEW;
use super::extract::{Caller, Hub};
use super::problem::Problem;
use crate::health::Pages;

/// Whether the hub lives.
#[derive(Serialize, ToSchema)]
pub(crate) struct Health {
    /// `healthy`, or `degraded`: it records, and something is to be looked at.
    status: &'static str,
    version: &'static str,
    /// Whether samples are taken now.
    ready: bool,
}

/// The hub at a glance.
#[derive(Serialize, ToSchema)]
pub(crate) struct About {
    version: &'static str,
    /// Its id.
    hub: String,
    /// The name that devices verify.
    hub_name: String,
    /// Hub time now: nanoseconds, as text.
    hub_ns: String,
    /// UTC now, as the hub's wall clock has it.
    utc: String,
    /// Why no samples are taken; null if they are.
    #[schema(required)]
    not_ready: Option<String>,
    devices_attached: usize,
    /// Sessions that record and that the caller may see.
    recording: Vec<String>,
    disk_free_bytes: u64,
    disk_floor_bytes: u64,
}

#[utoipa::path(get, path = "/api/v1/health", tag = "hub", operation_id = "health",
    responses((status = 200, description = "The hub lives", body = Health)))]
pub(crate) async fn health(hub: Hub) -> Result<Answer<Health>, Problem> {
    let state = hub.0.clone();
    hub.plainly(move || {
        let ready = state.why_not_ready().is_none();
        let healthy = ready && state.quarantine.places().is_empty();
        Ok(Answer(Health {
            status: if healthy { "healthy" } else { "degraded" },
            version: env!("CARGO_PKG_VERSION"),
            ready,
        }))
    })
    .await
}

/// The page that plain HTTP has as well.
pub(crate) async fn plain_health(hub: Hub) -> Result<Response, Problem> {
    let state = hub.0.clone();
    hub.plainly(move || {
        let page = state.as_ref().page("/health");
        let page = page.ok_or_else(|| Problem::not_found("no such page"))?;
        Ok(([(header::CONTENT_TYPE, page.content_type)], page.body).into_response())
    })
    .await
}

#[utoipa::path(get, path = "/api/v1/hub", tag = "hub", operation_id = "showHub",
    responses((status = 200, description = "The hub at a glance", body = About)))]
pub(crate) async fn about(hub: Hub, caller: Caller) -> Result<Answer<About>, Problem> {
    let about = hub.work(caller, DATA_VIEW, |asked| {
        let state = asked.state;
        let health = state.store.health();
        let seen = state.sessions();
        let recording = seen.iter().filter(|session| {
            session.state == marey_engine::SessionState::Recording && asked.sees(DATA_VIEW, session)
        });
        Ok(About {
            version: env!("CARGO_PKG_VERSION"),
            hub: marey_format::types::hex(&state.store.hub_id()),
            hub_name: state.registrar.hub_name(),
            hub_ns: state.clock.now().ns.to_string(),
            utc: marey_engine::compact::rfc3339(state.clock.wall().utc_ns / 1_000),
            not_ready: state.why_not_ready(),
            devices_attached: state.attached.count(),
            recording: recording.map(|session| session.id.to_string()).collect(),
            disk_free_bytes: health.space.free_bytes,
            disk_floor_bytes: health.floor_bytes,
        })
    });
    about.await.map(Answer)
}
