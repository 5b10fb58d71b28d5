//! What happened, as one hash: two runs of a seed are the same if their hashes are.

use sha2::{Digest, Sha256};

/// Takes in every event in its order.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    hash: Sha256,
    events: u64,
}

impl Trace {
    /// At `now_ns` something happened to `whom`; `what` is all that can be said of it.
    pub fn event(&mut self, now_ns: u64, kind: &str, whom: u64, what: &[u8]) {
        self.events += 1;
        self.hash.update(now_ns.to_le_bytes());
        self.hash.update(whom.to_le_bytes());
        self.hash.update((kind.len() as u64).to_le_bytes());
        self.hash.update(kind);
        self.hash.update((what.len() as u64).to_le_bytes());
        self.hash.update(what);
    }

    /// How many events there were.
    pub fn events(&self) -> u64 {
        self.events
    }

    pub fn finish(self) -> [u8; 32] {
        self.hash.finalize().into()
    }
}
