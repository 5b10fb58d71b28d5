//! How long to wait before the next attempt to connect.

use std::time::Duration;

/// Doubles from a fifth of a second to a maximum, each time less a random part of up to a half.
#[derive(Debug)]
pub(super) struct Backoff {
    max: Duration,
    attempts: u32,
}

impl Backoff {
    pub(super) fn new(max: Duration) -> Self {
        Self {
            max: max.max(FIRST),
            attempts: 0,
        }
    }

    /// A connection worked: the next failure begins anew.
    pub(super) fn succeeded(&mut self) {
        self.attempts = 0;
    }

    /// `random` is any 32 bits.
    pub(super) fn next(&mut self, random: u32) -> Duration {
        let whole = FIRST.saturating_mul(1 << self.attempts.min(16)).min(self.max);
        self.attempts += 1;
        whole.mul_f64(1.0 - f64::from(random) / (f64::from(u32::MAX) * 2.0))
    }
}

const FIRST: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_their_maximum_and_differ() {
        let mut backoff = Backoff::new(Duration::from_secs(1));
        let waits: Vec<u128> = (0..5).map(|_| backoff.next(0).as_millis()).collect();
        assert_eq!(waits, [200, 400, 800, 1000, 1000]);
        assert_eq!(backoff.next(u32::MAX).as_millis(), 500);
        backoff.succeeded();
        assert_eq!(backoff.next(0).as_millis(), 200);
    }
}
