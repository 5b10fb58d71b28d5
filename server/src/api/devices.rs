//! Devices: listed, shown, revoked. They are enrolled at the hub, or by themselves with an invitation.

use axum::Json as Answer;
use marey_format::DeviceId;

use super::access::{DATA_VIEW, DEVICE_MANAGE};
use super::extract::{Caller, Hub, Path, Query};
use super::page::{Page, Paging};
use super::problem::Problem;
use super::schema::DeviceDoc;
use super::sessions::other_answer;
use super::work::Asked;
use crate::control::{DeviceView, Request, Response};

#[utoipa::path(get, path = "/api/v1/devices", tag = "devices", operation_id = "listDevices", params(Paging),
    responses((status = 200, description = "All that were ever enrolled, by name", body = Page<DeviceDoc>)))]
pub(crate) async fn list(
    hub: Hub,
    caller: Caller,
    Query(paging): Query<Paging>,
) -> Result<Answer<Page<DeviceView>>, Problem> {
    let page = hub.work(caller, DATA_VIEW, move |asked| {
        paging.page(devices(asked)?, |device| device.record.name.clone())
    });
    page.await.map(Answer)
}

#[utoipa::path(get, path = "/api/v1/devices/{device}", tag = "devices", operation_id = "showDevice",
    params(("device" = String, Path, description = "Its name")),
    responses((status = 200, description = "It, and whether it is connected", body = DeviceDoc)))]
pub(crate) async fn show(
    hub: Hub,
    caller: Caller,
    Path(device): Path<DeviceId>,
) -> Result<Answer<DeviceView>, Problem> {
    let shown = hub.work(caller, DATA_VIEW, move |asked| find(asked, &device));
    shown.await.map(Answer)
}

#[utoipa::path(post, path = "/api/v1/devices/{device}/revoke", tag = "devices", operation_id = "revokeDevice",
    params(("device" = String, Path, description = "Its name")),
    responses((status = 200, description = "It is refused from now on, and its connection is closed", body = DeviceDoc)))]
pub(crate) async fn revoke(
    hub: Hub,
    caller: Caller,
    Path(device): Path<DeviceId>,
) -> Result<Answer<DeviceView>, Problem> {
    let revoked = hub.work(caller, DEVICE_MANAGE, move |asked| {
        find(asked, &device)?;
        asked.order(Request::DeviceRevoke {
            device: device.clone(),
        })?;
        find(asked, &device)
    });
    revoked.await.map(Answer)
}

fn devices(asked: &Asked<'_>) -> Result<Vec<DeviceView>, Problem> {
    match asked.order(Request::DeviceList)? {
        Response::Devices(devices) => Ok(devices),
        _ => Err(other_answer()),
    }
}

fn find(asked: &Asked<'_>, device: &DeviceId) -> Result<DeviceView, Problem> {
    let mut known = devices(asked)?.into_iter();
    known
        .find(|known| known.record.name == device.as_str())
        .ok_or_else(|| Problem::not_found(format!("no device {device} is enrolled")))
}
