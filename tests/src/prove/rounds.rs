//! A long proof with real processes, cut into rounds that know nothing of each other.
//!
//! Owns: sharing the rounds out to threads, a round that panicked, when it is enough. What a round does is its proof's.
//!
//! Invariant: a round that panics is a failure with its words and its seed, and never the end of the proof.

use super::{Run, Tally};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Does each of `rounds` once, on the threads that the run gives, and adds up what came of them. Where several have
/// failed no new one is begun.
pub(super) fn all<R: Sync>(
    run: &Run,
    what: &'static str,
    rounds: &[R],
    body: impl Fn(&R, u64) -> Tally + Sync,
) -> Tally {
    let (next, total) = (AtomicUsize::new(0), Mutex::new(Tally::new(what)));
    let total_of = || total.lock().unwrap_or_else(PoisonError::into_inner);
    let work = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(round) = rounds.get(at) else { return };
            if total_of().failures.len() >= FAILURES_MAX {
                return;
            }
            let seed = seed_of(run.seed, at as u64);
            let tally = one(what, seed, || body(round, seed));
            let mut total = total_of();
            total.add(tally);
            if run.progress {
                eprintln!(
                    "round {} of {}: {} {what} so far",
                    at + 1,
                    rounds.len(),
                    total.done
                );
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..run.threads.clamp(1, rounds.len().max(1)) {
            scope.spawn(work);
        }
    });
    total.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// How many go into each round, where one takes at most so many: as even as can be.
pub(super) fn shares(count: u64, most: u64) -> Vec<u64> {
    let rounds = count.div_ceil(most);
    (0..rounds)
        .map(|round| count / rounds + u64::from(round < count % rounds))
        .collect()
}

fn one(what: &'static str, seed: u64, body: impl FnOnce() -> Tally) -> Tally {
    let done = catch_unwind(AssertUnwindSafe(body));
    done.unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().map(String::as_str);
        let words = words.or_else(|| panic.downcast_ref::<&str>().copied());
        let mut tally = Tally::new(what);
        tally.fail(format!(
            "the round with seed {seed}: {}",
            words.unwrap_or("a panic without words")
        ));
        tally
    })
}

fn seed_of(seed: u64, round: u64) -> u64 {
    seed.wrapping_mul(1_000_003).wrapping_add(round)
}

/// So many failures are enough to look into.
const FAILURES_MAX: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up() {
        for count in 0..100 {
            let shares = shares(count, 7);
            assert_eq!(shares.iter().sum::<u64>(), count);
            assert!(shares.iter().all(|share| (1..=7).contains(share)), "{shares:?}");
        }
    }

    #[test]
    fn a_round_that_panics_is_a_failure() {
        let tally = all(&Run::short(3), "rounds", &[1, 2, 3], |round, _| {
            assert!(*round != 2, "two is not liked");
            Tally {
                done: 1,
                ..Tally::new("rounds")
            }
        });
        assert_eq!((tally.done, tally.failures.len()), (2, 1), "{tally}");
        assert!(tally.failures[0].contains("two is not liked"), "{tally}");
    }
}
