//! Whose handshake is worked on.

use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::{Semaphore, SemaphorePermit};

/// Shares of the processors that handshakes take in turn, in the order in which they came. While somebody records, a crowd of
/// them leaves half to those who do; else it has all. Nothing is awaited within a turn.
#[derive(Debug)]
pub struct Turns {
    shares: Semaphore,
    /// Frames that were made durable when it was last looked.
    frames: AtomicU64,
    is_recording: AtomicBool,
}

impl Default for Turns {
    fn default() -> Self {
        Self::of(std::thread::available_parallelism().map_or(1, NonZero::get))
    }
}

impl Turns {
    fn of(processors: usize) -> Self {
        Self {
            shares: Semaphore::new(2 * (processors / 2).max(1)),
            frames: AtomicU64::new(0),
            is_recording: AtomicBool::new(false),
        }
    }

    /// Waits for a turn. None where nobody waits any more: there is no way to close it.
    pub async fn next(&self) -> Option<SemaphorePermit<'_>> {
        let shares = if self.is_recording.load(Ordering::Relaxed) {
            2
        } else {
            1
        };
        self.shares.acquire_many(shares).await.ok()
    }

    /// So many frames were made durable by now: somebody records if they are more than at the last look. To be called about twice a
    /// second.
    pub fn look(&self, frames: u64) {
        let before = self.frames.swap(frames, Ordering::Relaxed);
        self.is_recording.store(frames != before, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn those_who_record_have_half_of_the_processors() {
        for (processors, recording, idle) in [(1, 1, 2), (2, 1, 2), (7, 3, 6), (8, 4, 8)] {
            let turns = Turns::of(processors);
            assert_eq!(at_once(&turns).await, idle, "nobody has recorded yet");
            turns.look(5);
            assert_eq!(at_once(&turns).await, recording, "five frames have come");
            turns.look(5);
            assert_eq!(at_once(&turns).await, idle, "no more have come");
        }
    }

    /// How many have a turn at a time.
    async fn at_once(turns: &Turns) -> usize {
        let mut held = Vec::new();
        while turns.shares.available_permits() > 0 {
            held.push(turns.next().await.expect("it is never closed"));
        }
        held.len()
    }
}
