//! What waits and ages are measured with. No stamp is taken here: those come from the device's clock.

#[cfg(any(test, feature = "testing"))]
use std::sync::Arc;
#[cfg(any(test, feature = "testing"))]
use std::sync::atomic::{AtomicU64, Ordering};
#[cfg(any(test, feature = "testing"))]
use std::time::Duration;
use std::time::Instant;

/// Tells the time to a client.
#[derive(Debug, Clone)]
pub enum Timer {
    /// The system's monotonic clock.
    System,
    /// Simulated time.
    #[cfg(any(test, feature = "testing"))]
    Simulated(SimulatedTimer),
}

impl Timer {
    pub(super) fn now(&self) -> Instant {
        match self {
            Self::System => Instant::now(),
            #[cfg(any(test, feature = "testing"))]
            Self::Simulated(timer) => timer.now(),
        }
    }
}

/// Time that goes on when it is told to. Clones share it.
#[cfg(any(test, feature = "testing"))]
#[derive(Debug, Clone)]
pub struct SimulatedTimer {
    origin: Instant,
    ns: Arc<AtomicU64>,
}

#[cfg(any(test, feature = "testing"))]
impl SimulatedTimer {
    /// At 0.
    #[allow(
        clippy::new_without_default,
        reason = "it begins at a moment, which is no default"
    )]
    pub fn new() -> Self {
        Self {
            origin: Instant::now(),
            ns: Arc::default(),
        }
    }

    /// It is so many nanoseconds after the beginning now.
    pub fn set_ns(&self, ns: u64) {
        self.ns.store(ns, Ordering::Relaxed);
    }

    /// How far after the beginning a moment lies.
    pub fn ns_of(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.origin).as_nanos()).unwrap_or(u64::MAX)
    }

    fn now(&self) -> Instant {
        self.origin + Duration::from_nanos(self.ns.load(Ordering::Relaxed))
    }
}
