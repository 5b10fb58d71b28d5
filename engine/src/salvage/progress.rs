//! How far long work has come, for whoever watches it: bytes read in the phase at hand, of those that it has to read.
//!
//! The view counts what it reads; nothing is called back, so that watching costs nothing and can be left out.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// Clones watch the same work.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    read_bytes: Arc<AtomicU64>,
    phase: Arc<Mutex<Phase>>,
}

#[derive(Debug, Default)]
struct Phase {
    what: String,
    /// Of `read_bytes`, when it began.
    from: u64,
    bytes: u64,
}

/// Where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What is being done; empty before anything is.
    pub what: String,
    pub done_bytes: u64,
    /// Of these, about; 0 where nobody knows.
    pub bytes: u64,
}

impl Progress {
    pub fn now(&self) -> Step {
        let phase = self.phase();
        let done_bytes = self.read_bytes.load(Ordering::Relaxed).saturating_sub(phase.from);
        Step {
            what: phase.what.clone(),
            done_bytes: if phase.bytes > 0 {
                done_bytes.min(phase.bytes)
            } else {
                done_bytes
            },
            bytes: phase.bytes,
        }
    }

    /// A phase begins that reads about `bytes` bytes.
    pub(super) fn begin(&self, what: &str, bytes: u64) {
        let from = self.read_bytes.load(Ordering::Relaxed);
        *self.phase() = Phase {
            what: what.to_owned(),
            from,
            bytes,
        };
    }

    pub(super) fn count(&self, bytes: u64) {
        self.read_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
