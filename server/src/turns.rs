//! Whose handshake is worked on.
//!
//! Owns how many are worked on at a time. Does not own handshakes, nor what counts as recording: whoever looks says how many
//! frames there are.
//!
//! Invariants: turns come in the order in which they were asked for; there are always as many shares as one turn takes. That
//! somebody records is known half a second later, that nobody does after some seconds.

use std::num::NonZero;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use tokio::sync::{Semaphore, SemaphorePermit};

/// Shares of the processors that handshakes take in turn. While somebody records, a crowd of them leaves half to those who do; else
/// it has all. Nothing is awaited within a turn.
#[derive(Debug)]
pub struct Turns {
    /// One for each processor, and two at least.
    shares: Semaphore,
    /// Frames that were made durable when it was last looked.
    frames: AtomicU64,
    /// Looks in a row that found no more of them.
    quiet: AtomicU32,
}

impl Default for Turns {
    fn default() -> Self {
        Self::of(std::thread::available_parallelism().map_or(1, NonZero::get))
    }
}

impl Turns {
    fn of(processors: usize) -> Self {
        Self {
            shares: Semaphore::new(processors.max(SHARES_RECORDING as usize)),
            frames: AtomicU64::new(0),
            quiet: AtomicU32::new(QUIET_LOOKS),
        }
    }

    /// Waits for a turn. None where nobody waits any more: there is no way to close it.
    pub async fn next(&self) -> Option<SemaphorePermit<'_>> {
        self.shares.acquire_many(self.shares_of_one()).await.ok()
    }

    /// So many frames were made durable by now. To be called about twice a second.
    pub fn look(&self, frames: u64) {
        let before = self.frames.swap(frames, Ordering::Relaxed);
        let quiet = match frames == before {
            true => self.quiet.load(Ordering::Relaxed).saturating_add(1),
            false => 0,
        };
        self.quiet.store(quiet, Ordering::Relaxed);
    }

    fn shares_of_one(&self) -> u32 {
        match self.quiet.load(Ordering::Relaxed) < QUIET_LOOKS {
            true => SHARES_RECORDING,
            false => 1,
        }
    }
}

/// What a handshake takes while somebody records.
const SHARES_RECORDING: u32 = 2;

/// Nobody records who is quiet for so many looks: devices may send a frame every few seconds.
const QUIET_LOOKS: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn those_who_record_have_half_of_the_processors() {
        for (processors, recording, idle) in [(1, 1, 2), (2, 1, 2), (7, 3, 7), (8, 4, 8)] {
            let turns = Turns::of(processors);
            assert_eq!(at_once(&turns).await, idle, "nobody has recorded yet");
            turns.look(5);
            for _ in 0..QUIET_LOOKS {
                assert_eq!(at_once(&turns).await, recording, "five frames have come");
                turns.look(5);
            }
            assert_eq!(at_once(&turns).await, idle, "no more have come for long");
            turns.look(6);
            assert_eq!(at_once(&turns).await, recording, "somebody goes on");
        }
    }

    /// How many have a turn at a time.
    async fn at_once(turns: &Turns) -> usize {
        let mut held = Vec::new();
        while turns.shares.available_permits() >= turns.shares_of_one() as usize {
            held.push(turns.next().await.expect("it is never closed"));
        }
        held.len()
    }
}
