//! True time: what the simulator knows and a device does not.
//!
//! Owns: the trait, this machine's true time (the same definition as the hub's own time), and a simulated one
//! that moves when told. Does not own: what a device believes (`simulate::clock`).
//!
//! Invariant: true time never goes backwards, is never stepped and never slewed. It is `CLOCK_MONOTONIC_RAW`
//! plus the time that the machine spent asleep, so on one machine it *is* hub time, and an alignment can be
//! scored by subtraction.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use rustix::time::ClockId;

use crate::clock::clock_ns;

/// Time as it really passes, in nanoseconds from an arbitrary origin.
pub trait TrueTime: Send + Sync {
    /// Now, in nanoseconds.
    fn true_ns(&self) -> i64;

    /// Blocks until true time has reached `until_ns`. Simulated time may move itself there.
    fn wait_until(&self, until_ns: i64);
}

/// This machine's true time: `CLOCK_MONOTONIC_RAW + (CLOCK_BOOTTIME - CLOCK_MONOTONIC)`.
#[derive(Debug)]
pub struct SystemTrueTime {
    asleep_ns: AtomicI64,
}

impl SystemTrueTime {
    pub fn new() -> Self {
        let time = Self {
            asleep_ns: AtomicI64::new(0),
        };
        time.note_sleep();
        time
    }

    /// The difference of two clocks that are read one after the other has the gap between the readings in it.
    /// Only growth beyond any such gap is sleep, so that true time does not tremble.
    fn note_sleep(&self) -> i64 {
        let boot_ns = clock_ns(ClockId::Boottime);
        let monotonic_ns = clock_ns(ClockId::Monotonic);
        let at_least_ns = boot_ns - monotonic_ns;
        let known_ns = self.asleep_ns.load(Ordering::Relaxed);
        if at_least_ns > known_ns + SLEEP_RESOLUTION_NS {
            self.asleep_ns.fetch_max(at_least_ns, Ordering::Relaxed);
        }
        self.asleep_ns.load(Ordering::Relaxed)
    }
}

impl Default for SystemTrueTime {
    fn default() -> Self {
        Self::new()
    }
}

impl TrueTime for SystemTrueTime {
    fn true_ns(&self) -> i64 {
        self.note_sleep() + clock_ns(ClockId::MonotonicRaw)
    }

    fn wait_until(&self, until_ns: i64) {
        loop {
            let left_ns = until_ns - self.true_ns();
            match u64::try_from(left_ns) {
                Ok(left_ns) if left_ns > 0 => std::thread::sleep(Duration::from_nanos(left_ns)),
                _ => return,
            }
        }
    }
}

/// Simulated true time: it stands still until it is moved.
#[derive(Debug, Default)]
pub struct SimulatedTrueTime {
    now_ns: AtomicI64,
}

impl SimulatedTrueTime {
    pub fn starting_at(now_ns: i64) -> Self {
        Self {
            now_ns: AtomicI64::new(now_ns),
        }
    }

    /// Moves time forward.
    pub fn advance(&self, by_ns: i64) {
        self.now_ns.fetch_add(by_ns.max(0), Ordering::SeqCst);
    }
}

impl TrueTime for SimulatedTrueTime {
    fn true_ns(&self) -> i64 {
        self.now_ns.load(Ordering::SeqCst)
    }

    fn wait_until(&self, until_ns: i64) {
        self.now_ns.fetch_max(until_ns, Ordering::SeqCst);
    }
}

/// Lets this thread's sleeps end within a few microseconds of when they should, instead of the usual fifty.
/// Where the system refuses, sleeps are only less exact.
pub(crate) fn sharpen_sleeps() {
    let _unsharpened = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
}

/// Far above the gap between two readings of a clock, far below any suspend.
const SLEEP_RESOLUTION_NS: i64 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_time_rises_and_waits() {
        let time = SystemTrueTime::new();
        let start_ns = time.true_ns();
        time.wait_until(start_ns + 2_000_000);
        assert!(time.true_ns() >= start_ns + 2_000_000);
        time.wait_until(start_ns);
    }

    #[test]
    fn simulated_time_moves_when_told() {
        let time = SimulatedTrueTime::starting_at(5);
        time.advance(10);
        time.advance(-3);
        assert_eq!(time.true_ns(), 15);
        time.wait_until(20);
        time.wait_until(10);
        assert_eq!(time.true_ns(), 20);
    }
}
