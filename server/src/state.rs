//! What all parts of a running hub share: the reception, and what only a hub with sockets has.
//!
//! Owns nothing that lasts: the store does.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;

use marey_engine::{SessionState, Store};
use marey_format::clock::StampKey;
use tokio::sync::watch;

use crate::clocks;
use crate::config::{HubConfig, Listen};
use crate::health::{JSON, METRICS, Page, Pages};
use crate::ingest::Ingest;
use crate::listener::Gate;
use crate::metrics::{Gauges, Metrics};
use crate::pki::{Authority, Registry};
use crate::reception::Reception;
use crate::tls::{BufferPool, StampFn, TlsConfigs};

/// Where a hub listens, with the ports that it got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Bound {
    /// TLS.
    pub devices: SocketAddr,
    /// UDP time service.
    pub time: SocketAddr,
    /// Plain HTTP for health and metrics.
    pub health: SocketAddr,
}

impl From<Bound> for Listen {
    fn from(bound: Bound) -> Self {
        Self {
            devices: bound.devices,
            time: bound.time,
            health: bound.health,
        }
    }
}

/// The shared state of one running hub.
pub(crate) struct HubState {
    pub reception: Arc<Reception>,
    pub authority: Authority,
    pub registry: Arc<dyn Registry>,
    pub tls: TlsConfigs,
    pub buffers: Arc<BufferPool>,
    pub stamp: StampFn,
    pub gate: Arc<Gate>,
    pub bound: Bound,
    pub certificate_not_after_s: i64,
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
    pub config: HubConfig,
    pub store: Arc<Store>,
    pub authority: Authority,
    pub registry: Arc<dyn Registry>,
    pub stamp_key: Arc<StampKey>,
    pub tls: TlsConfigs,
    pub ingest: Ingest,
    pub metrics: Arc<Metrics>,
    pub bound: Bound,
    pub certificate_not_after_s: i64,
}

impl HubState {
    pub(crate) fn new(parts: Parts) -> Arc<Self> {
        let for_stamps = parts.store.clock().clone();
        let gate = Gate::new(&parts.config.limits);
        let reception = Reception::new(
            parts.config,
            parts.store,
            parts.stamp_key,
            parts.ingest,
            parts.metrics,
        );
        Arc::new(Self {
            reception: Arc::new(reception),
            gate,
            stamp: Arc::new(move || for_stamps.now().ns),
            authority: parts.authority,
            registry: parts.registry,
            tls: parts.tls,
            buffers: BufferPool::new(),
            bound: parts.bound,
            certificate_not_after_s: parts.certificate_not_after_s,
            stopping: watch::Sender::new(false),
            shutdown_asked: watch::Sender::new(false),
        })
    }

    /// Why no samples are taken now; `None` if they are.
    pub(crate) fn why_not_ready(&self) -> Option<String> {
        let health = self.store.health();
        if *self.stopping.borrow() {
            return Some("the hub goes down".into());
        }
        if let Some(first) = health.poisoned {
            return Some(format!(
                "storage stopped after a failure: {first}; nothing was acknowledged since; restart the hub, it recovers \
                 all that was; if it stops again, look at the disk with `dmesg` and `marey selftest disk`"
            ));
        }
        let floor = health.below_floor.then(|| {
            format!(
                "{} bytes are free, below the floor of {}; make room and intake goes on",
                health.space.free_bytes, health.floor_bytes
            )
        });
        floor.or_else(|| self.ingest.stalled())
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
            disk_free_bytes: health.space.free_bytes,
            disk_floor_bytes: health.floor_bytes,
            storage_works: health.poisoned.is_none(),
            unreadable_places: self.quarantine.places().len() as u64,
            certificate_not_after_s: self.certificate_not_after_s,
        });
        text += &clocks::metrics(&self.store.log_status(), &self.sessions());
        text
    }

    fn health_text(&self) -> String {
        let unreadable = self.quarantine.places();
        let why = self.why_not_ready().or_else(|| {
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
