//! The situations that are known by name.
//!
//! Owns: their numbers. What these do is `path`'s and the clock's.

use super::super::clock::{ClockPlan, Walk, Warmth};
use super::super::random;
use super::path::{Bursts, Queue, Tail, Way};
use super::{Gap, Plan};

/// A clock, a network and what happens to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    Wired,
    GoodWifi,
    BusyWifi,
    BusyQueues,
    Thermal,
    Hot,
    Psm,
    Outage,
    Reboot,
    Suspend,
    Asym4g,
}

impl Scenario {
    /// Each with its name, in the order of a table.
    pub const ALL: [(&'static str, Self); 11] = [
        ("wired", Self::Wired),
        ("good-wifi", Self::GoodWifi),
        ("busy-wifi", Self::BusyWifi),
        ("busy-queues", Self::BusyQueues),
        ("thermal", Self::Thermal),
        ("hot", Self::Hot),
        ("psm", Self::Psm),
        ("outage", Self::Outage),
        ("reboot", Self::Reboot),
        ("suspend", Self::Suspend),
        ("asym-4g", Self::Asym4g),
    ];

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .find(|(known, _)| *known == name)
            .map(|&(_, scenario)| scenario)
    }

    pub fn name(self) -> &'static str {
        let known = Self::ALL.iter().find(|(_, known)| *known == self);
        known.map_or("", |&(name, _)| name)
    }

    /// What happens in it. Outages and steps of temperature go on for as long as it lasts, so that a long run is as hard as a
    /// short one; a reboot and a silent sleep come once.
    pub fn plan(self, seed: u64, lasting_ns: i64) -> Plan {
        // No two scenarios have the same clock.
        let seed = random::branch(seed, self.name());
        let (up, down) = self.ways();
        Plan {
            seed,
            lasting_ns,
            clock: self.clock(seed, lasting_ns),
            up,
            down,
            dozes: self == Self::Psm,
            gaps: self.gaps(lasting_ns),
            standstills: Vec::new(),
            truth_every_ns: 500_000_000,
        }
    }

    fn ways(self) -> (Way, Way) {
        match self {
            Self::Wired => (WIRED, WIRED),
            Self::BusyWifi => (BUSY_UP, BUSY_DOWN),
            Self::BusyQueues => (full(BUSY_UP), full(BUSY_DOWN)),
            Self::Psm => (AWAKE, AWAKE),
            Self::Asym4g => (MOBILE_UP, MOBILE_DOWN),
            _ => (GOOD, GOOD),
        }
    }

    /// A crystal within 45 ppm that walks by 0.1 ppm in a minute and swings with the room by up to 1 ppm.
    fn clock(self, seed: u64, lasting_ns: i64) -> ClockPlan {
        let seed = random::branch(seed, "oscillator");
        let share = |nth: u64| random::uniform(seed, nth);
        let (skew_ppb, step_ppt) = match self {
            Self::Hot => (25_000.0, 129_000),
            _ => (45_000.0, 12_900),
        };
        let mut warmth = vec![Warmth::Swing {
            by_ppb: 400 + whole(600.0 * share(0)) as u32,
            period_ns: whole((20.0 + 40.0 * share(1)) * MINUTE_NS as f64),
            begun_ns: whole(60.0 * share(2) * MINUTE_NS as f64),
        }];
        if self == Self::Thermal {
            // To and fro by a few ppm, every few minutes, the first one in the fifth minute.
            let steps = random::branch(seed, "steps");
            let (mut after_ns, mut nth) = (4 * MINUTE_NS, 0);
            while after_ns < lasting_ns {
                let by_ppb = whole(2_000.0 + 2_000.0 * random::uniform(steps, 2 * nth)) as i32;
                warmth.push(Warmth::Step {
                    after_ns,
                    by_ppb: if nth % 2 == 0 { -by_ppb } else { by_ppb },
                    within_ns: MINUTE_NS,
                });
                after_ns += whole((5.0 + 10.0 * random::uniform(steps, 2 * nth + 1)) * MINUTE_NS as f64);
                nth += 1;
            }
        }
        ClockPlan {
            seed,
            first_reading_ns: whole(1e15 * share(3)),
            skew_ppb: whole(skew_ppb * (2.0 * share(4) - 1.0)) as i32,
            // Up to the limit that every clock keeps.
            wander_ppb: 50_000,
            walk: Walk::Free { step_ppt },
            warmth,
            events: Vec::new(),
        }
    }

    fn gaps(self, lasting_ns: i64) -> Vec<Gap> {
        let at = |tenths: i64| lasting_ns / 20 * tenths;
        match self {
            Self::Outage => {
                // A minute each five.
                let times = (0..).map(|nth| 3 * MINUTE_NS + nth * 5 * MINUTE_NS);
                let times = times.take_while(|after_ns| after_ns + MINUTE_NS < lasting_ns);
                times
                    .map(|after_ns| Gap::Outage {
                        after_ns,
                        for_ns: MINUTE_NS,
                    })
                    .collect()
            }
            Self::Reboot => vec![Gap::Reboot {
                after_ns: at(9),
                for_ns: 25_000_000_000.min(at(2)),
            }],
            Self::Suspend => vec![Gap::Suspend {
                after_ns: at(9),
                for_ns: (2 * MINUTE_NS).min(at(4)),
            }],
            _ => Vec::new(),
        }
    }
}

/// Other traffic fills the access point's queue for seconds.
fn full(way: Way) -> Way {
    Way {
        bursts: Some(Bursts {
            every_s: 6.0,
            lasting_s: 2.0,
            peak_us: 60_000.0,
        }),
        ..way
    }
}

#[allow(clippy::cast_possible_truncation)]
fn whole(number: f64) -> i64 {
    number as i64
}

const MINUTE_NS: i64 = 60_000_000_000;

const WIRED: Way = Way {
    least_us: 67.0,
    queue: Queue {
        median_us: 13.0,
        spread: 0.75,
    },
    tail: Tail {
        share: 0.004,
        mean_us: 500.0,
    },
    bursts: None,
    loss: 0.000_1,
};

const GOOD: Way = Way {
    least_us: 845.0,
    queue: Queue {
        median_us: 125.0,
        spread: 0.9,
    },
    tail: Tail {
        share: 0.08,
        mean_us: 2_200.0,
    },
    bursts: None,
    loss: 0.004,
};

/// Both ways have the same quick edge; the device's own packets fight for the air more often, and longer.
const BUSY_DOWN: Way = Way {
    least_us: 940.0,
    queue: Queue {
        median_us: 500.0,
        spread: 1.3,
    },
    tail: Tail {
        share: 0.3,
        mean_us: 6_000.0,
    },
    bursts: Some(Bursts {
        every_s: 12.0,
        lasting_s: 0.6,
        peak_us: 15_000.0,
    }),
    loss: 0.012,
};

const BUSY_UP: Way = Way {
    tail: Tail {
        share: 0.45,
        mean_us: 11_000.0,
    },
    ..BUSY_DOWN
};

const AWAKE: Way = Way {
    least_us: 895.0,
    queue: Queue {
        median_us: 140.0,
        spread: 0.8,
    },
    tail: Tail {
        share: 0.02,
        mean_us: 8_000.0,
    },
    bursts: None,
    loss: 0.004,
};

const MOBILE_DOWN: Way = Way {
    least_us: 12_100.0,
    queue: Queue {
        median_us: 1_900.0,
        spread: 1.0,
    },
    tail: Tail {
        share: 0.15,
        mean_us: 35_000.0,
    },
    bursts: None,
    loss: 0.012,
};

const MOBILE_UP: Way = Way {
    least_us: 16_900.0,
    queue: Queue {
        median_us: 7_500.0,
        spread: 0.8,
    },
    tail: Tail {
        share: 0.15,
        mean_us: 60_000.0,
    },
    ..MOBILE_DOWN
};
