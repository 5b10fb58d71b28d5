//! The hub that runs in the folder, if one does: what it says of itself.

use super::Check;
use crate::plain_http;
use marey_server::control::{ControlClient, Request, Response, StatusView};
use std::path::Path;

/// A hub that answered.
#[derive(Debug)]
pub struct Running {
    pub status: StatusView,
    /// The page of `/metrics`.
    pub metrics: Option<String>,
    /// The page of `/health`.
    pub health: Option<String>,
}

impl Running {
    /// None if no hub answers.
    pub fn look(dir: &Path) -> Option<Self> {
        let answer = ControlClient::connect(dir).ok()?.call(&Request::Status, |_| {});
        let Ok(Response::Status(status)) = answer else {
            return None;
        };
        let page = |path| {
            let answer = plain_http::get(status.bound.health, path).ok()?;
            (answer.code == 200).then_some(answer.body)
        };
        Some(Self {
            metrics: page("/metrics"),
            health: page("/health"),
            status,
        })
    }

    /// A value of `/metrics`, by the name with its labels as it stands there.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let lines = self.metrics.as_deref()?.lines();
        let mut values = lines.filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        values.next()?.trim().parse().ok()
    }
}

/// Whether it takes samples.
pub fn judge(running: Option<&Running>) -> Vec<Check> {
    const AREA: &str = "hub";
    let Some(running) = running else {
        return vec![Check::ok(AREA, "none runs here now")];
    };
    let status = &running.status;
    let own = env!("CARGO_PKG_VERSION");
    let mut checks = vec![match &status.not_ready {
        None => Check::ok(AREA, format!("it runs (pid {}), and takes samples", status.pid)),
        Some(why) => Check::fail(
            AREA,
            format!("it runs (pid {}), and takes no samples", status.pid),
            why.clone(),
        ),
    }];
    if status.version != own {
        let what = format!("{} runs, and this program is {own}", status.version);
        checks.push(Check::warn(AREA, what, "restart the hub when no session records"));
    }
    if running.metrics.is_none() {
        let at = status.bound.health;
        checks.push(Check::warn(
            AREA,
            format!("its metrics at http://{at}/metrics can't be read from here"),
            "something on this machine stands in between; Prometheus would not get them either",
        ));
    }
    checks
}
