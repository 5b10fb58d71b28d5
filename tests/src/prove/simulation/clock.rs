//! The clock of one simulated device: it runs at a rate of its own, stands still, jumps, and starts anew with a boot.
//!
//! True time is the world's. The rate error stays within what a session declares; a standstill and a jump do not, and are
//! there to be found by the hub.

use marey_device::{BootId, DeviceClock};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// True time in nanoseconds, shared by all who live in one world.
pub type Truth = Arc<AtomicU64>;

/// A device's clock over true time.
#[derive(Debug)]
pub struct DriftingClock {
    truth: Truth,
    life: Mutex<Life>,
}

#[derive(Clone, Copy, Debug)]
struct Life {
    boot: BootId,
    from_true_ns: u64,
    reading_ns: i64,
    rate_ppb: i64,
}

impl DriftingClock {
    /// Shows `reading_ns` now.
    pub fn new(truth: Truth, reading_ns: i64, rate_ppb: i64, boot: BootId) -> Self {
        let from_true_ns = truth.load(Ordering::Relaxed);
        let life = Life {
            boot,
            from_true_ns,
            reading_ns,
            rate_ppb,
        };
        Self {
            truth,
            life: Mutex::new(life),
        }
    }

    /// Another boot: the clock starts near zero.
    pub fn reboot(&self, boot: BootId) {
        let mut life = self.life();
        life.boot = boot;
        life.reading_ns = 5_000_000;
        life.from_true_ns = self.now_true_ns();
    }

    /// Runs at another rate from now on.
    pub fn set_rate_ppb(&self, rate_ppb: i64) {
        let reading_ns = self.now_ns();
        let mut life = self.life();
        (life.reading_ns, life.from_true_ns, life.rate_ppb) = (reading_ns, self.now_true_ns(), rate_ppb);
    }

    /// Jumps forward by so much; a negative number takes back what was slept through.
    pub fn jump(&self, by_ns: i64) {
        self.life().reading_ns += by_ns;
    }

    fn now_true_ns(&self) -> u64 {
        self.truth.load(Ordering::Relaxed)
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DeviceClock for DriftingClock {
    fn now_ns(&self) -> i64 {
        let life = *self.life();
        let passed_ns = (self.now_true_ns() - life.from_true_ns) as i64;
        let gained_ns = (i128::from(passed_ns) * i128::from(life.rate_ppb)).div_euclid(1_000_000_000) as i64;
        life.reading_ns + passed_ns + gained_ns
    }

    fn boot_id(&self) -> BootId {
        self.life().boot
    }
}
