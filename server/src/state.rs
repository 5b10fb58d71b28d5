//! What all parts of a running hub share: the reception, and what only a hub with sockets has.
//!
//! Owns nothing that lasts: the store does.

use std::net::SocketAddr;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;

use marey_engine::{SessionState, Store};
use marey_format::clock::StampKey;
use tokio::sync::watch;

use crate::api::{Access, Api};
use crate::clocks;
use crate::config::{HubConfig, Listen};
use crate::error::StartError;
use crate::health::{JSON, METRICS, Page, Pages};
use crate::ingest::Ingest;
use crate::listener::Gate;
use crate::metrics::{Gauges, Metrics};
use crate::reception::Reception;
use crate::registrar::{Office, Registrar};
use crate::survey::Survey;
use crate::tally::Tally;
use crate::tls::{BufferPool, StampFn};

/// Where a hub listens, with the ports that it got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Bound {
    /// TLS.
    pub devices: SocketAddr,
    /// UDP time service.
    pub time: SocketAddr,
    /// Plain HTTP for health and metrics.
    pub health: SocketAddr,
    /// Transfer of files over TLS.
    pub files: SocketAddr,
}

impl From<Bound> for Listen {
    fn from(bound: Bound) -> Self {
        Self {
            devices: bound.devices,
            time: bound.time,
            health: bound.health,
            files: bound.files,
        }
    }
}

/// The shared state of one running hub.
pub(crate) struct HubState {
    /// Where configuration, keys and the control socket stand.
    pub hub_dir: PathBuf,
    pub reception: Arc<Reception>,
    pub registrar: Arc<Registrar>,
    pub buffers: Arc<BufferPool>,
    pub stamp: StampFn,
    pub gate: Arc<Gate>,
    pub bound: Bound,
    pub api: Api,
    pub survey: Survey,
    pub stopping: watch::Sender<bool>,
    pub shutdown_asked: watch::Sender<bool>,
}

/// Whoever has the whole hub has its reception.
impl Deref for HubState {
    type Target = Reception;

    fn deref(&self) -> &Reception {
        &self.reception
    }
}

/// Parts of [`HubState`] that are made before it.
pub(crate) struct Parts {
    pub hub_dir: PathBuf,
    pub config: HubConfig,
    pub store: Arc<Store>,
    pub registrar: Arc<Registrar>,
    pub office: Arc<Office>,
    pub stamp_key: Arc<StampKey>,
    pub ingest: Ingest,
    pub access: Arc<dyn Access>,
    pub metrics: Arc<Metrics>,
    pub tally: Arc<Tally>,
    pub bound: Bound,
}

impl HubState {
    pub(crate) fn new(parts: Parts) -> Arc<Self> {
        let for_stamps = parts.store.clock().clone();
        let gate = Gate::new(&parts.config.limits);
        let api = Api::new(
            &parts.config,
            parts.access,
            parts.store.clock(),
            parts.bound.files.port(),
        );
        let reception = Reception::new(
            parts.config,
            parts.store,
            parts.stamp_key,
            parts.ingest,
            parts.metrics,
            Some(parts.office),
            parts.tally,
        );
        Arc::new(Self {
            hub_dir: parts.hub_dir,
            reception: Arc::new(reception),
            gate,
            stamp: Arc::new(move || for_stamps.now().ns),
            registrar: parts.registrar,
            buffers: BufferPool::new(),
            bound: parts.bound,
            api,
            survey: Survey::default(),
            stopping: watch::Sender::new(false),
            shutdown_asked: watch::Sender::new(false),
        })
    }

    /// Takes up what stands in `pki/` now, and tells connections.
    pub(crate) fn reload_certificates(&self) -> Result<(), StartError> {
        self.registrar.reload()?;
        self.attached.certificates_changed();
        Ok(())
    }

    /// Why no samples are taken now; `None` if they are.
    pub(crate) fn why_not_ready(&self) -> Option<String> {
        if *self.stopping.borrow() {
            return Some("the hub goes down".into());
        }
        self.why_no_intake()
    }

    fn metrics_text(&self) -> String {
        let (health, gate) = (self.store.health(), self.gate.counts());
        let recording = self
            .sessions()
            .iter()
            .filter(|s| s.state == SessionState::Recording)
            .count();
        let mut text = self.metrics.render(&Gauges {
            connections: u64::from(gate.connections),
            half_open: u64::from(gate.half_open),
            crowded: gate.refused,
            devices: self.attached.count() as u64,
            sessions_recording: recording as u64,
            queued_bytes: self.ingest.queued_bytes(),
            disk_total_bytes: health.space.total_bytes,
            disk_free_bytes: health.space.free_bytes,
            disk_floor_bytes: health.floor_bytes,
            storage_works: health.poisoned.is_none(),
            ready: self.why_not_ready().is_none(),
            unreadable_places: self.quarantine.places().len() as u64,
            certificate_not_after_s: self.registrar.hub_not_after_utc_s(),
        });
        text += &clocks::metrics(&self.store.log_status(), &self.sessions());
        text += &self.survey.metrics();
        text += &self.jobs.metrics();
        text += &self.judge.metrics(self.clock.now());
        text += &crate::watch::metrics(&self.attached.all_seen(self.clock.now().ns));
        text
    }

    fn health_text(&self) -> String {
        let unreadable = self.quarantine.places();
        let unaudited = self.store.health().audit_failed.map(|failed| {
            format!("the audit log can't be written, so that nothing is changed that people ask for; recording goes on: {failed}")
        });
        let why = self.why_not_ready().or(unaudited).or_else(|| {
            let first = unreadable.first()?;
            let places = unreadable.len();
            Some(format!(
                "the disk fails to read {places} places of logs; recording goes on; the first: {first}"
            ))
        });
        let status = if why.is_none() { "healthy" } else { "degraded" };
        let body = serde_json::json!({
            "status": status,
            "version": env!("CARGO_PKG_VERSION"),
            "why": why,
            "unreadable": &unreadable[..unreadable.len().min(PLACES_SHOWN)],
            "devices_attached": self.attached.count(),
        });
        format!("{body}\n")
    }
}

impl Pages for HubState {
    fn page(&self, path: &str) -> Option<Page> {
        match path {
            "/health" => Some(Page {
                code: 200,
                content_type: JSON,
                body: self.health_text(),
            }),
            "/ready" => {
                let why = self.why_not_ready();
                let code = if why.is_none() { 200 } else { 503 };
                let body = format!("{}\n", serde_json::json!({ "ready": why.is_none(), "why": why }));
                Some(Page {
                    code,
                    content_type: JSON,
                    body,
                })
            }
            "/metrics" => Some(Page {
                code: 200,
                content_type: METRICS,
                body: self.metrics_text(),
            }),
            _ => None,
        }
    }
}

impl std::fmt::Debug for HubState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HubState")
            .field("bound", &self.bound)
            .finish_non_exhaustive()
    }
}

/// Places that can't be read, of which `/health` tells.
const PLACES_SHOWN: usize = 20;
