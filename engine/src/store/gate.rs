//! Where threads wait for their commit, and are woken by it alone.
//!
//! A condition variable wakes everybody, and each of them then takes the lock that those who stage want as well: with
//! many writers that costs more than the sync. Here the waiters of one commit sleep on one word and those of the next on
//! another, one system call wakes all of a commit, and whoever is woken looks at one number without any lock.
//!
//! Words change under the lock of the store only, so that nobody sleeps on a word that has changed since it looked.
//!
//! Where a sync is short, going to sleep and being woken cost more than it takes. So whoever waits first lets others run
//! and looks again, for about as long as its commit should take.

use crate::time::HubClock;
use rustix::thread::futex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// The commits that are done, and those who wait for others.
#[derive(Debug, Default)]
pub(super) struct Gate {
    done: AtomicU64,
    /// The commit that nobody writes, for the first of those awake who wait for it; 0 once one of them has seen it.
    unclaimed: AtomicU64,
    words: [AtomicU32; 2],
    /// How many may sleep on each.
    sleepers: [AtomicU32; 2],
}

/// How often somebody looks before it sleeps, where the clock stands still.
const LOOKS_MAX: u32 = 100_000;

/// What somebody waits for, and what its word was.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticket {
    commit: u64,
    word: u32,
}

impl Gate {
    /// All commits up to this one are done.
    pub fn begin(&self, commit: u64) {
        self.done.store(commit, Ordering::Release);
    }

    /// To be taken under the store's lock.
    pub fn ticket(&self, commit: u64) -> Ticket {
        Ticket {
            commit,
            word: self.word(commit).load(Ordering::Acquire),
        }
    }

    /// Waits until something happens to the commit; true if it is done. Otherwise look again, under the lock. The processor is
    /// given to others for as long as `awake`, and then let go.
    pub fn wait(&self, ticket: Ticket, awake: Duration, clock: &dyn HubClock) -> bool {
        match self.look(ticket, awake, clock) {
            Some(is_done) => is_done,
            None => self.sleep(ticket),
        }
    }

    /// None: nothing happened in this time.
    fn look(&self, ticket: Ticket, awake: Duration, clock: &dyn HubClock) -> Option<bool> {
        let until_ns = clock.now().ns.saturating_add(awake.as_nanos() as i64);
        for _ in 0..LOOKS_MAX {
            if self.done.load(Ordering::Acquire) >= ticket.commit {
                return Some(true);
            }
            let claim =
                self.unclaimed
                    .compare_exchange(ticket.commit, 0, Ordering::AcqRel, Ordering::Relaxed);
            if claim.is_ok() {
                return Some(false);
            }
            if clock.now().ns >= until_ns {
                break;
            }
            std::thread::yield_now();
        }
        None
    }

    fn sleep(&self, ticket: Ticket) -> bool {
        // In one order with `change` and the looks at it in `done`: either they see this one, or it sees the word changed.
        self.sleepers[side(ticket.commit)].fetch_add(1, Ordering::SeqCst);
        // Interrupted, or changed already: look.
        let _ = futex::wait(self.word(ticket.commit), futex::Flags::PRIVATE, ticket.word, None);
        self.done.load(Ordering::Acquire) >= ticket.commit
    }

    /// Wakes those who wait for this commit, and one of those who wait for the next, to write it. Call it under the
    /// store's lock.
    pub fn done(&self, commit: u64) {
        self.done.store(commit, Ordering::Release);
        self.unclaimed.store(commit + 1, Ordering::Release);
        self.change();
        if self.sleepers[side(commit)].swap(0, Ordering::SeqCst) > 0 {
            wake(self.word(commit), ALL);
        }
        if self.sleepers[side(commit + 1)].load(Ordering::SeqCst) > 0 {
            wake(self.word(commit + 1), 1);
        }
    }

    /// Wakes everybody. Call it under the store's lock.
    pub fn failed(&self) {
        self.change();
        self.words.iter().for_each(|word| wake(word, ALL));
    }

    fn change(&self) {
        for word in &self.words {
            word.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn word(&self, commit: u64) -> &AtomicU32 {
        &self.words[side(commit)]
    }
}

fn side(commit: u64) -> usize {
    (commit % 2) as usize
}

/// The kernel counts with a sign.
const ALL: u32 = i32::MAX as u32;

fn wake(word: &AtomicU32, count: u32) {
    // It can only fail for a word that is no word.
    let _ = futex::wake(word, futex::Flags::PRIVATE, count);
}
