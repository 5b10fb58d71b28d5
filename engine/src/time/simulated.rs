//! A kernel's clocks over simulated time: reboots, suspends, slews and steps on command.

use super::{KernelClocks, KernelHubClock, UNSYNCHRONISED_ERROR_NS};
use std::sync::{Arc, Mutex};

/// A simulated kernel. Clones share their state: keep one to move time on, give the other to the hub clock.
#[derive(Clone, Debug)]
pub struct SimulatedKernel {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    boot: u64,
    true_ns: i64,
    raw_ns: i64,
    monotonic_ns: i64,
    boottime_ns: i64,
    realtime_ns: i64,
    slew_ppm: i64,
}

impl SimulatedKernel {
    /// A kernel that has been up for a second, at the given POSIX time.
    pub fn new(boot: u64, utc_ns: i64) -> Self {
        let up = 1_000_000_000;
        let state = State {
            boot,
            true_ns: up,
            raw_ns: up,
            monotonic_ns: up,
            boottime_ns: up,
            realtime_ns: utc_ns,
            slew_ppm: 0,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Hub time over this kernel.
    pub fn hub_clock(&self) -> Arc<KernelHubClock<Self>> {
        Arc::new(KernelHubClock::new(self.clone()))
    }

    /// True time, which no clock of the kernel shows.
    pub fn true_ns(&self) -> i64 {
        self.with(|s| s.true_ns)
    }

    /// Time goes on, awake.
    pub fn advance(&self, ns: i64) {
        self.with(|s| {
            let slewed = ns + (i128::from(ns) * i128::from(s.slew_ppm) / 1_000_000) as i64;
            s.true_ns += ns;
            s.raw_ns += ns;
            s.monotonic_ns += slewed;
            s.boottime_ns += slewed;
            s.realtime_ns += slewed;
        });
    }

    /// Time goes on, asleep.
    pub fn suspend(&self, ns: i64) {
        self.with(|s| {
            s.true_ns += ns;
            s.boottime_ns += ns;
            s.realtime_ns += ns;
        });
    }

    /// A time daemon slews the monotonic and the wall clock from now on.
    pub fn slew(&self, ppm: i64) {
        self.with(|s| s.slew_ppm = ppm);
    }

    /// The wall clock is stepped.
    pub fn step_wall(&self, ns: i64) {
        self.with(|s| s.realtime_ns += ns);
    }

    /// The machine is off for `off_ns` and comes back with another boot id, its clocks near 0 and its wall clock off by
    /// `wall_error_ns`.
    pub fn reboot(&self, boot: u64, off_ns: i64, wall_error_ns: i64) {
        self.with(|s| {
            s.boot = boot;
            s.true_ns += off_ns;
            s.realtime_ns += off_ns + wall_error_ns;
            (s.raw_ns, s.monotonic_ns, s.boottime_ns) = (2_000_000, 2_000_000, 2_000_000);
            s.slew_ppm = 0;
        });
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().expect("no panic while the state is held"))
    }
}

impl KernelClocks for SimulatedKernel {
    fn boot(&self) -> u64 {
        self.with(|s| s.boot)
    }

    fn raw_ns(&self) -> i64 {
        self.with(|s| s.raw_ns)
    }

    fn monotonic_ns(&self) -> i64 {
        self.with(|s| s.monotonic_ns)
    }

    fn boottime_ns(&self) -> i64 {
        self.with(|s| s.boottime_ns)
    }

    fn realtime_ns(&self) -> i64 {
        self.with(|s| s.realtime_ns)
    }

    fn wall_state(&self) -> (i64, bool) {
        (UNSYNCHRONISED_ERROR_NS, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::HubClock;

    #[test]
    fn hub_time_is_true_time_through_suspend_slew_and_steps() {
        let kernel = SimulatedKernel::new(1, 0);
        let clock = kernel.hub_clock();
        let begin = (clock.now().ns, kernel.true_ns());
        kernel.slew(500);
        kernel.advance(3_600_000_000_000);
        kernel.suspend(60_000_000_000);
        kernel.step_wall(-3_000_000_000);
        kernel.advance(1_000_000_000);
        assert_eq!(clock.now().ns - begin.0, kernel.true_ns() - begin.1);
        kernel.reboot(2, 5_000_000_000, 3_000_000_000);
        assert_eq!(clock.now().epoch.0, 2);
    }
}
