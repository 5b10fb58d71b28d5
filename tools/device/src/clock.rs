//! The clock that stamps samples on a device.
//!
//! Owns: the trait behind which every stamp of this crate is taken, and the operating system's clock. Does not
//! own: lying clocks (`simulate::clock`), pacing and time-outs, which are timers and not stamps.
//!
//! Invariants: a stamp is int64 nanoseconds of a clock that goes on while the device sleeps (`CLOCK_BOOTTIME`,
//! as Android's `elapsedRealtimeNanos`; `CLOCK_MONOTONIC` and Rust's `Instant` stop in sleep, which nobody
//! notices until the alignment is off by hours). It never decreases within one boot id.

use rustix::time::{ClockId, clock_gettime};

/// 128 bits that change whenever the device's clock starts anew.
pub type BootId = [u8; 16];

/// What stamps samples, frames and probes.
///
/// Implement it where the platform has a better clock than [`OsClock`], or to lie on purpose in a test.
pub trait DeviceClock: Send + Sync {
    /// Now, in nanoseconds of this clock. Its origin means nothing; it must go on while the device sleeps and
    /// must not go backwards within one boot id.
    fn now_ns(&self) -> i64;

    /// Which life of the clock this is. Two readings with the same boot id lie on one clock, also across a
    /// restart of the program, which lets the hub join their evidence.
    fn boot_id(&self) -> BootId;
}

impl<C: DeviceClock + ?Sized> DeviceClock for std::sync::Arc<C> {
    fn now_ns(&self) -> i64 {
        (**self).now_ns()
    }

    fn boot_id(&self) -> BootId {
        (**self).boot_id()
    }
}

/// The operating system's clock: `CLOCK_BOOTTIME` and the kernel's boot id.
#[derive(Debug, Clone)]
pub struct OsClock {
    boot_id: BootId,
}

impl OsClock {
    /// Where the kernel does not tell its boot id, a random one is taken: the hub then sees a new clock at each
    /// start of the program, which costs joined evidence and is always safe.
    pub fn new() -> Self {
        let boot_id = std::fs::read_to_string(BOOT_ID_PATH)
            .ok()
            .and_then(|text| boot_id_from_uuid(text.trim()))
            .unwrap_or_else(random_boot_id);
        Self { boot_id }
    }
}

impl Default for OsClock {
    fn default() -> Self {
        Self::new()
    }
}

impl DeviceClock for OsClock {
    fn now_ns(&self) -> i64 {
        clock_ns(ClockId::Boottime)
    }

    fn boot_id(&self) -> BootId {
        self.boot_id
    }
}

/// Another clock shown with a constant added, as a clock of its own (its own boot id).
///
/// A replayed recording uses it so that the stamps in the file *are* device time: what stands in
/// `device_time_ns` afterwards is what stood in the file.
#[derive(Debug, Clone)]
pub struct ShiftedClock<C> {
    base: C,
    shift_ns: i64,
    boot_id: BootId,
}

impl<C: DeviceClock> ShiftedClock<C> {
    /// A clock that shows `reading_ns` now and runs on at the rate of `base`.
    pub fn reading_now(base: C, reading_ns: i64) -> Self {
        let shift_ns = reading_ns.saturating_sub(base.now_ns());
        Self {
            base,
            shift_ns,
            boot_id: random_boot_id(),
        }
    }

    /// A clock that shows `base + shift_ns`. Several replayed devices that share a shift keep the distance that
    /// their stamps have in the files.
    pub fn shifted(base: C, shift_ns: i64) -> Self {
        Self {
            base,
            shift_ns,
            boot_id: random_boot_id(),
        }
    }

    /// What is added to the clock below, in nanoseconds.
    pub fn shift_ns(&self) -> i64 {
        self.shift_ns
    }
}

impl<C: DeviceClock> DeviceClock for ShiftedClock<C> {
    fn now_ns(&self) -> i64 {
        self.base.now_ns().saturating_add(self.shift_ns)
    }

    fn boot_id(&self) -> BootId {
        self.boot_id
    }
}

/// 16 random bytes from the operating system.
pub(crate) fn random_boot_id() -> BootId {
    let mut id = [0; 16];
    aws_lc_rs::rand::fill(&mut id).expect("the system's random source works");
    id
}

pub(crate) fn clock_ns(id: ClockId) -> i64 {
    let now = clock_gettime(id);
    now.tv_sec
        .saturating_mul(1_000_000_000)
        .saturating_add(now.tv_nsec)
}

fn boot_id_from_uuid(text: &str) -> Option<BootId> {
    let mut digits = text
        .bytes()
        .filter(|byte| *byte != b'-')
        .map(|byte| char::from(byte).to_digit(16));
    let mut id = [0; 16];
    for byte in &mut id {
        let (high, low) = (digits.next()??, digits.next()??);
        *byte = u8::try_from(high * 16 + low).expect("two hex digits fit a byte");
    }
    digits.next().is_none().then_some(id)
}

const BOOT_ID_PATH: &str = "/proc/sys/kernel/random/boot_id";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_id_is_read_from_the_kernels_text() {
        let id = boot_id_from_uuid("0123abcd-0000-0000-0000-0000000000ff").unwrap();
        assert_eq!((id[0], id[1], id[15]), (0x01, 0x23, 0xff));
        assert_eq!(boot_id_from_uuid("0123"), None);
        assert_eq!(boot_id_from_uuid("0123abcd-0000-0000-0000-0000000000ff0"), None);
        assert_eq!(boot_id_from_uuid("x123abcd-0000-0000-0000-0000000000ff"), None);
    }

    #[test]
    fn shifted_clock_shows_what_it_was_told() {
        let clock = ShiftedClock::reading_now(OsClock::new(), 1_657_533_977_813_000_000);
        let behind_ns = clock.now_ns() - 1_657_533_977_813_000_000;
        assert!((0..1_000_000_000).contains(&behind_ns), "{behind_ns}");
        assert_ne!(clock.boot_id(), OsClock::new().boot_id());
    }
}
