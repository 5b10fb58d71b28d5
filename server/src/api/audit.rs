//! The audit log, read.

use std::ops::ControlFlow;

use axum::Json as Answer;
use marey_engine::{AuditFilter, AuditRecord, audit};
use serde::Deserialize;
use utoipa::IntoParams;

use super::access::AUDIT_VIEW;
use super::extract::{Caller, Hub, Query};
use super::page::{Page, Paging, cursor, number_key};
use super::problem::Problem;
use super::schema::AuditRecordDoc;

/// Which records are wanted.
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
    /// Only those of this actor, whole or up to a `/`: `device:phone` is every certificate of it, `user:ada` her keys too.
    actor: Option<String>,
    /// Only this action, whole or up to a `.`: `device` is everything done to devices, `device.revoke` that alone.
    action: Option<String>,
}

#[utoipa::path(get, path = "/api/v1/audit", tag = "hub", operation_id = "listAudit", params(Wanted),
    responses((status = 200, description = "Records in the order of the log", body = Page<AuditRecordDoc>)))]
pub(crate) async fn list(
    hub: Hub,
    caller: Caller,
    Query(wanted): Query<Wanted>,
) -> Result<Answer<Page<AuditRecord>>, Problem> {
    let paging = Paging {
        cursor: wanted.cursor,
        limit: wanted.limit,
    };
    let page = hub.work(caller, AUDIT_VIEW, move |asked| {
        let (after, limit) = (paging.after_number()?.unwrap_or(0), paging.limit()?);
        let filter = AuditFilter {
            from: None,
            actor: wanted.actor,
            action: wanted.action,
        };
        let mut items: Vec<AuditRecord> = Vec::new();
        let mut more = false;
        audit::read(
            &**asked.state.store.disk(),
            after.saturating_add(1),
            &mut |record| {
                let is_wanted = record.seq > after && filter.takes(&record);
                if is_wanted && items.len() == limit {
                    more = true;
                    return ControlFlow::Break(());
                }
                if is_wanted {
                    items.push(record);
                }
                ControlFlow::Continue(())
            },
        )?;
        let next = items
            .last()
            .filter(|_| more)
            .map(|last| cursor(&number_key(last.seq)));
        Ok(Page { items, next })
    });
    page.await.map(Answer)
}
