//! What all parts of a running hub share.
//!
//! Owns nothing that lasts: the store does. The list of sessions here is a copy for connections to look at, renewed at
//! each change.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use marey_engine::compact::Progress;
use marey_engine::time::HubClock;
use marey_engine::{SealError, Sealed, Session, SessionError, SessionState, Store};
use marey_format::SessionId;
use marey_format::clock::StampKey;
use tokio::sync::watch;

use crate::attached::Attached;
use crate::config::{HubConfig, Listen};
use crate::health::{JSON, METRICS, Page, Pages};
use crate::ingest::Ingest;
use crate::listener::Gate;
use crate::metrics::{Gauges, Metrics};
use crate::pki::{Authority, Registry};
use crate::time_service::TimeKeys;
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
    pub config: HubConfig,
    pub store: Arc<Store>,
    pub clock: Arc<dyn HubClock>,
    pub authority: Authority,
    pub registry: Arc<dyn Registry>,
    pub stamp_key: Arc<StampKey>,
    pub time_keys: Arc<TimeKeys>,
    pub tls: TlsConfigs,
    pub buffers: Arc<BufferPool>,
    pub stamp: StampFn,
    pub attached: Attached,
    pub ingest: Ingest,
    pub gate: Arc<Gate>,
    pub metrics: Arc<Metrics>,
    pub bound: Bound,
    pub certificate_not_after_s: i64,
    pub stopping: watch::Sender<bool>,
    pub shutdown_asked: watch::Sender<bool>,
    sessions: RwLock<Arc<Vec<Session>>>,
    sealing: Mutex<()>,
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
        let clock = parts.store.clock().clone();
        let for_stamps = clock.clone();
        let state = Self {
            gate: Gate::new(&parts.config.limits),
            config: parts.config,
            time_keys: TimeKeys::new(parts.stamp_key.clone(), clock.clone()),
            stamp: Arc::new(move || for_stamps.now().ns),
            clock,
            store: parts.store,
            authority: parts.authority,
            registry: parts.registry,
            stamp_key: parts.stamp_key,
            tls: parts.tls,
            buffers: BufferPool::new(),
            attached: Attached::default(),
            ingest: parts.ingest,
            metrics: parts.metrics,
            bound: parts.bound,
            certificate_not_after_s: parts.certificate_not_after_s,
            stopping: watch::Sender::new(false),
            shutdown_asked: watch::Sender::new(false),
            sessions: RwLock::default(),
            sealing: Mutex::default(),
        };
        let state = Arc::new(state);
        state.refresh_sessions();
        state
    }

    /// The sessions that are not closed, in the order in which they were started; those that were not come last.
    pub(crate) fn sessions(&self) -> Arc<Vec<Session>> {
        self.sessions
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Call after every change of a session: connections are told.
    pub(crate) fn refresh_sessions(&self) {
        let mut sessions = self.store.sessions();
        sessions.retain(|session| session.state != SessionState::Closed);
        sessions.sort_by_key(|session| session.started.map_or(i64::MAX, |at| at.hub_ns));
        *self.sessions.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(sessions);
        self.attached.sessions_changed();
    }

    /// Changes sessions, and tells everybody whether or not it worked.
    pub(crate) fn change_session(
        &self,
        change: impl FnOnce(&Store) -> Result<Session, SessionError>,
    ) -> Result<Session, SessionError> {
        let changed = change(&self.store);
        self.refresh_sessions();
        changed
    }

    /// Seals a session, one at a time. Long: call it from a plain thread. What was
    /// durable before is safe after it.
    pub(crate) fn seal(&self, id: &SessionId, progress: &dyn Fn(Progress)) -> Result<Sealed, SealError> {
        let _one_at_a_time = self.sealing.lock().unwrap_or_else(PoisonError::into_inner);
        let logs: Vec<_> = self
            .attached
            .logs_of(id)
            .into_iter()
            .filter_map(|(mailbox, handle)| Some((mailbox, handle, self.store.durable(handle).ok()?)))
            .collect();
        let sealed = self.store.seal_session(id, progress);
        if sealed.is_ok() {
            for (mailbox, handle, durable) in logs {
                mailbox.post(|mail| mail.safe.push((handle, durable)));
            }
        }
        self.refresh_sessions();
        sealed
    }

    /// Writes the rolling parts of a session that is being recorded. Long: call it from a plain thread.
    pub(crate) fn roll(&self, id: &SessionId) -> Result<(), SealError> {
        let _one_at_a_time = self.sealing.lock().unwrap_or_else(PoisonError::into_inner);
        self.store.roll_session(id, &|_| ())
    }

    /// Why no samples are taken now; `None` if they are.
    pub(crate) fn why_not_ready(&self) -> Option<String> {
        let health = self.store.health();
        if *self.stopping.borrow() {
            return Some("the hub goes down".into());
        }
        if let Some(first) = health.poisoned {
            return Some(format!(
                "storage stopped after a failure: {first}; restart the hub"
            ));
        }
        health.below_floor.then(|| {
            format!(
                "{} bytes are free, below the floor of {}; make room and intake goes on",
                health.space.free_bytes, health.floor_bytes
            )
        })
    }

    fn metrics_text(&self) -> String {
        let (health, gate) = (self.store.health(), self.gate.counts());
        let recording = self
            .sessions()
            .iter()
            .filter(|s| s.state == SessionState::Recording)
            .count();
        self.metrics.render(&Gauges {
            connections: u64::from(gate.connections),
            half_open: u64::from(gate.half_open),
            crowded: gate.refused,
            devices: self.attached.count() as u64,
            sessions_recording: recording as u64,
            queued_bytes: self.ingest.queued_bytes(),
            disk_free_bytes: health.space.free_bytes,
            disk_floor_bytes: health.floor_bytes,
            storage_works: health.poisoned.is_none(),
            certificate_not_after_s: self.certificate_not_after_s,
        })
    }

    fn health_text(&self) -> String {
        let why = self.why_not_ready();
        let status = if why.is_none() { "healthy" } else { "degraded" };
        let body = serde_json::json!({
            "status": status,
            "version": env!("CARGO_PKG_VERSION"),
            "why": why,
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
