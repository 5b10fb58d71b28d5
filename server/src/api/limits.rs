//! How much one user, one address and one stranger may ask of the API. Never on the way of a sample.
//!
//! Token buckets (GCRA) of the governor library over hub time. Bounded: keys that have recovered are forgotten when there
//! are many; where even then too many are left, a stranger is refused rather than remembered.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock, ReasonablyRealtime};
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use marey_engine::time::HubClock;

use super::problem::Problem;
use crate::config::Api as Config;
use crate::listener::group;

/// The buckets of a running hub.
#[derive(Debug)]
pub(crate) struct Limits {
    addresses: Buckets<IpAddr>,
    strangers: Buckets<IpAddr>,
    users: Buckets<String>,
}

type Limiter<K> = RateLimiter<K, HashMapStateStore<K>, HubNanos, NoOpMiddleware<Nanos>>;

struct Buckets<K: Clone + std::hash::Hash + Eq> {
    limiter: Limiter<K>,
    clock: HubNanos,
}

/// Hub time as governor reads it.
#[derive(Clone, Debug)]
struct HubNanos(Arc<dyn HubClock>);

impl Clock for HubNanos {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::from(Duration::from_nanos(self.0.now().ns.max(0).unsigned_abs()))
    }
}

impl ReasonablyRealtime for HubNanos {}

impl Limits {
    pub(crate) fn new(config: &Config, clock: &Arc<dyn HubClock>) -> Self {
        let clock = HubNanos(clock.clone());
        Self {
            addresses: Buckets::new(config.address_per_minute, config.address_burst, &clock),
            strangers: Buckets::new(config.stranger_per_minute, config.stranger_burst, &clock),
            users: Buckets::new(config.user_per_minute, config.user_burst, &clock),
        }
    }

    /// A request of this address.
    ///
    /// # Errors
    /// Too many of late.
    pub(crate) fn address(&self, peer: IpAddr) -> Result<(), Problem> {
        self.addresses.take(&group(peer))
    }

    /// A request of this address that shows no valid token, or a login.
    ///
    /// # Errors
    /// Too many of late.
    pub(crate) fn stranger(&self, peer: IpAddr) -> Result<(), Problem> {
        self.strangers.take(&group(peer))
    }

    /// A request of this user, from wherever.
    ///
    /// # Errors
    /// Too many of late.
    pub(crate) fn user(&self, user: &str) -> Result<(), Problem> {
        self.users.take(&user.to_owned())
    }
}

impl<K: Clone + std::hash::Hash + Eq> Buckets<K> {
    fn new(per_minute: u32, burst: u32, clock: &HubNanos) -> Self {
        let at_least_one = |count: u32| NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_minute(at_least_one(per_minute)).allow_burst(at_least_one(burst));
        Self {
            limiter: RateLimiter::new(quota, HashMapStateStore::default(), clock.clone()),
            clock: clock.clone(),
        }
    }

    fn take(&self, key: &K) -> Result<(), Problem> {
        if self.limiter.len() > KEYS_MAX {
            self.limiter.retain_recent();
            if self.limiter.len() > KEYS_MAX {
                return Err(Problem::slow_down(CROWDED_RETRY_S));
            }
        }
        self.limiter.check_key(key).map_err(|not_until| {
            let wait = not_until.wait_time_from(self.clock.now());
            Problem::slow_down(wait.as_secs() + 1)
        })
    }
}

impl<K: Clone + std::hash::Hash + Eq> std::fmt::Debug for Buckets<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buckets")
            .field("keys", &self.limiter.len())
            .finish_non_exhaustive()
    }
}

/// Keys that are remembered at once.
const KEYS_MAX: usize = 20_000;
const CROWDED_RETRY_S: u64 = 10;
