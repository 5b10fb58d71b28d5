//! The time seam: hub time, which is never stepped and never slewed, and readings of the wall clock, which are evidence.
//!
//! Hub time is the kernel's raw monotonic clock plus the time asleep. The raw clock is free of the slewing that a time
//! daemon applies; it stands still while the machine is suspended, so the difference of the boot-time clock and the
//! (equally slewed) monotonic clock is added: that difference changes in suspends alone.
//! Nothing else in engine or server reads a clock.

use marey_format::HubEpoch;
use marey_format::payload::WallReading;
use std::sync::atomic::{AtomicI64, Ordering};

/// A moment of hub time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HubInstant {
    /// Which boot of the hub.
    pub epoch: HubEpoch,
    /// Nanoseconds since that boot, time asleep included.
    pub ns: i64,
}

/// Where hub time and wall readings come from.
pub trait HubClock: Send + Sync + std::fmt::Debug {
    /// Hub time now. Never decreases within an epoch, but for the clock's own granularity.
    fn now(&self) -> HubInstant;

    /// A reading of the wall clock beside hub time, with what the kernel says of it.
    fn wall(&self) -> WallReading;
}

/// What the kernel offers; hub time is made of it. Apart, so that a simulated kernel goes through the same arithmetic.
pub trait KernelClocks: Send + Sync + std::fmt::Debug {
    /// First eight bytes of the kernel's boot id.
    fn boot(&self) -> u64;
    /// CLOCK_MONOTONIC_RAW, in nanoseconds.
    fn raw_ns(&self) -> i64;
    /// CLOCK_MONOTONIC, in nanoseconds.
    fn monotonic_ns(&self) -> i64;
    /// CLOCK_BOOTTIME, in nanoseconds.
    fn boottime_ns(&self) -> i64;
    /// CLOCK_REALTIME, in nanoseconds.
    fn realtime_ns(&self) -> i64;
    /// What the kernel says of its wall clock: error in nanoseconds, and whether it is synchronised.
    fn wall_state(&self) -> (i64, bool);
}

/// Hub time over a kernel's clocks.
#[derive(Debug)]
pub struct KernelHubClock<K> {
    kernel: K,
    asleep_ns: AtomicI64,
}

/// A change of the time asleep below this is the reading's own jitter.
const SUSPEND_LEAST_NS: i64 = 1_000_000;

impl<K: KernelClocks> KernelHubClock<K> {
    pub fn new(kernel: K) -> Self {
        Self {
            kernel,
            asleep_ns: AtomicI64::new(0),
        }
    }

    /// The kernel's clocks beneath.
    pub fn kernel(&self) -> &K {
        &self.kernel
    }

    fn asleep_ns(&self) -> i64 {
        let before = self.kernel.monotonic_ns();
        let boottime = self.kernel.boottime_ns();
        let after = self.kernel.monotonic_ns();
        let known = self.asleep_ns.load(Ordering::Acquire);
        // The true difference lies in [boottime - after, boottime - before].
        if boottime - after - known < SUSPEND_LEAST_NS {
            return known;
        }
        let asleep = boottime - (before + (after - before) / 2);
        self.asleep_ns.fetch_max(asleep, Ordering::AcqRel).max(asleep)
    }
}

impl<K: KernelClocks> HubClock for KernelHubClock<K> {
    fn now(&self) -> HubInstant {
        let asleep = self.asleep_ns();
        HubInstant {
            epoch: HubEpoch(self.kernel.boot()),
            ns: self.kernel.raw_ns().saturating_add(asleep),
        }
    }

    fn wall(&self) -> WallReading {
        let before = self.now();
        let utc_ns = self.kernel.realtime_ns();
        let after = self.now();
        let (error_ns, synchronised) = self.kernel.wall_state();
        WallReading {
            hub_epoch: after.epoch,
            hub_ns: before.ns + (after.ns - before.ns) / 2,
            utc_ns,
            error_ns: error_ns.saturating_add(after.ns - before.ns),
            synchronised,
        }
    }
}

/// The clocks of the kernel that this runs on.
#[derive(Debug)]
pub struct OsClocks {
    boot: u64,
}

impl OsClocks {
    /// Hub time of this machine.
    ///
    /// # Errors
    /// If the kernel does not tell its boot id.
    pub fn hub_clock() -> std::io::Result<KernelHubClock<Self>> {
        #[allow(
            clippy::disallowed_methods,
            reason = "the boot id is part of the clock, and this is its seam"
        )]
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let digits: String = text.chars().filter(char::is_ascii_hexdigit).take(16).collect();
        let boot = u64::from_str_radix(&digits, 16)
            .map_err(|_| std::io::Error::other(format!("the kernel's boot id reads {text:?}")))?;
        Ok(KernelHubClock::new(Self { boot }))
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "this is the time seam, and the one place that reads a clock"
)]
fn kernel_ns(clock: rustix::time::ClockId) -> i64 {
    let now = rustix::time::clock_gettime(clock);
    now.tv_sec
        .saturating_mul(1_000_000_000)
        .saturating_add(now.tv_nsec)
}

impl KernelClocks for OsClocks {
    fn boot(&self) -> u64 {
        self.boot
    }

    fn raw_ns(&self) -> i64 {
        kernel_ns(rustix::time::ClockId::MonotonicRaw)
    }

    fn monotonic_ns(&self) -> i64 {
        kernel_ns(rustix::time::ClockId::Monotonic)
    }

    fn boottime_ns(&self) -> i64 {
        kernel_ns(rustix::time::ClockId::Boottime)
    }

    fn realtime_ns(&self) -> i64 {
        kernel_ns(rustix::time::ClockId::Realtime)
    }

    fn wall_state(&self) -> (i64, bool) {
        kernel_wall_state()
    }
}

/// What adjtimex(2) says, which rustix does not have: the largest error that whoever steers the clock allows for.
#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "one system call that fills one struct")]
fn kernel_wall_state() -> (i64, bool) {
    // SAFETY: all fields of the struct are integers, for which zeros are a value; with `modes` 0 the call only reads.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a struct of the type that the call fills, and lives until it has returned.
    let answer = unsafe { libc::adjtimex(&mut state) };
    let is_steered = answer >= 0 && answer != libc::TIME_ERROR && state.status & libc::STA_UNSYNC == 0;
    match is_steered {
        true => (state.maxerror.saturating_mul(1_000), true),
        false => (UNSYNCHRONISED_ERROR_NS, false),
    }
}

#[cfg(not(target_os = "linux"))]
fn kernel_wall_state() -> (i64, bool) {
    (UNSYNCHRONISED_ERROR_NS, false)
}

/// What a wall clock is trusted to where the kernel says nothing of it.
pub const UNSYNCHRONISED_ERROR_NS: i64 = 10_000_000_000;

#[cfg(any(test, feature = "testing"))]
pub mod simulated;
