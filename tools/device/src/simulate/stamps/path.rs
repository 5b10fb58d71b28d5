//! One direction of a network, in simulated time: how long a packet takes.
//!
//! Owns: the delays of each direction, what a loss costs over TCP, and the order that TCP keeps. Does not own: stamps.
//!
//! Invariant: no packet takes less than the least delay, and over TCP none arrives before one that was sent before it.

use super::super::random;
use super::ns;

/// How one direction behaves. Times in microseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Way {
    /// What every packet takes.
    pub least_us: f64,
    /// On top of that, log-normal.
    pub queue: Queue,
    /// And for some, an exponential tail.
    pub tail: Tail,
    /// And at times, whole seconds in which a queue is full.
    pub bursts: Option<Bursts>,
    /// Share of packets that are lost. TCP sends them again after 200 ms, and after twice as long each further time.
    pub loss: f64,
}

/// A log-normal delay: its median, and the standard deviation of its logarithm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Queue {
    pub median_us: f64,
    pub spread: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tail {
    pub share: f64,
    pub mean_us: f64,
}

/// Other traffic comes in bursts: about every so often one begins, and lasts about so long. The queue fills and empties
/// again meanwhile: its peak is exponentially distributed around this mean.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bursts {
    pub every_s: f64,
    pub lasting_s: f64,
    pub peak_us: f64,
}

/// A way with its bursts laid out, and where its packets are.
#[derive(Debug)]
pub(super) struct Path<'a> {
    way: &'a Way,
    seed: u64,
    draws: u64,
    bursts: Vec<Burst>,
    last_ns: i64,
}

#[derive(Clone, Copy, Debug)]
struct Burst {
    from_ns: i64,
    until_ns: i64,
    peak_ns: f64,
}

impl<'a> Path<'a> {
    pub fn new(way: &'a Way, lasting_ns: i64, seed: u64) -> Self {
        Self {
            way,
            seed,
            draws: 0,
            bursts: way.bursts.map_or_else(Vec::new, |plan| {
                laid_out(plan, lasting_ns, random::branch(seed, "bursts"))
            }),
            last_ns: i64::MIN,
        }
    }

    /// When a packet of a TCP connection arrives that is sent then. Packets are asked for in the order of sending.
    pub fn pass(&mut self, sent_ns: i64) -> i64 {
        let mut again_ns = 0;
        let mut wait_ns = RETRANSMIT_NS;
        while self.loses() && wait_ns <= RETRANSMIT_MAX_NS {
            again_ns += wait_ns;
            wait_ns *= 2;
        }
        let arrived_ns = sent_ns + again_ns + self.delay(sent_ns + again_ns);
        self.last_ns = self.last_ns.max(arrived_ns);
        self.last_ns
    }

    /// When a datagram arrives that is sent then, if it does.
    pub fn datagram(&mut self, sent_ns: i64) -> Option<i64> {
        let delay_ns = self.delay(sent_ns);
        (!self.loses()).then_some(sent_ns + delay_ns)
    }

    fn loses(&mut self) -> bool {
        self.draws += 1;
        random::uniform(self.seed, self.draws) < self.way.loss
    }

    fn delay(&mut self, at_ns: i64) -> i64 {
        self.draws += 1;
        let (way, draw) = (self.way, self.draws);
        let mut delay_us = way.least_us;
        delay_us += way.queue.median_us * (way.queue.spread * random::normal(self.seed, draw)).exp();
        if random::uniform(self.seed ^ 1, draw) < way.tail.share {
            delay_us += way.tail.mean_us * random::exponential(self.seed ^ 2, draw);
        }
        ns(delay_us * 1e3 + self.burst_ns(at_ns))
    }

    /// How long the queue is that a burst has filled: it rises to its peak in the middle and falls again.
    #[allow(clippy::cast_precision_loss)]
    fn burst_ns(&self, at_ns: i64) -> f64 {
        let after = self.bursts.partition_point(|burst| burst.from_ns <= at_ns);
        let Some(burst) = after.checked_sub(1).map(|at| self.bursts[at]) else {
            return 0.0;
        };
        let half_ns = (burst.until_ns - burst.from_ns) as f64 / 2.0;
        let from_middle_ns = ((at_ns - burst.from_ns) as f64 - half_ns).abs();
        (burst.peak_ns * (1.0 - from_middle_ns / half_ns.max(1.0))).max(0.0)
    }
}

fn laid_out(plan: Bursts, lasting_ns: i64, seed: u64) -> Vec<Burst> {
    let mut bursts = Vec::new();
    let (mut at_ns, mut draw) = (0, 0);
    while at_ns < lasting_ns {
        at_ns += ns(plan.every_s * 1e9 * random::exponential(seed, draw));
        let for_ns = ns(plan.lasting_s * 1e9 * random::exponential(seed, draw + 1));
        bursts.push(Burst {
            from_ns: at_ns,
            until_ns: at_ns + for_ns,
            peak_ns: plan.peak_us * 1e3 * random::exponential(seed, draw + 2),
        });
        at_ns += for_ns;
        draw += 3;
    }
    bursts
}

const RETRANSMIT_NS: i64 = 200_000_000;
/// A connection that lost a packet so often is cut by somebody.
const RETRANSMIT_MAX_NS: i64 = 8 * RETRANSMIT_NS;

#[cfg(test)]
mod tests {
    use super::*;

    const WAY: Way = Way {
        least_us: 850.0,
        queue: Queue {
            median_us: 130.0,
            spread: 0.9,
        },
        tail: Tail {
            share: 0.06,
            mean_us: 2_000.0,
        },
        bursts: Some(Bursts {
            every_s: 4.0,
            lasting_s: 1.0,
            peak_us: 30_000.0,
        }),
        loss: 0.02,
    };

    #[test]
    fn nothing_is_quicker_than_the_least_or_overtakes() {
        let mut path = Path::new(&WAY, 100_000_000_000, 5);
        let (mut last_ns, mut delays, mut late) = (0, Vec::new(), 0);
        for nth in 0..10_000 {
            let sent_ns = nth * 10_000_000;
            let arrived_ns = path.pass(sent_ns);
            assert!(arrived_ns - sent_ns > 850_000 && arrived_ns >= last_ns);
            delays.push(arrived_ns - sent_ns);
            late += i32::from(arrived_ns - sent_ns > RETRANSMIT_NS / 2);
            last_ns = arrived_ns;
        }
        delays.sort_unstable();
        // A lost packet holds up those that are sent in the 200 ms until it comes, half of them for 100 ms and more.
        assert!((1_000..5_000).contains(&late), "{late}");
        assert!((880_000..960_000).contains(&delays[1_000]), "{}", delays[1_000]);
    }

    #[test]
    fn datagrams_are_lost_as_often_as_planned() {
        let mut path = Path::new(&WAY, 100_000_000_000, 5);
        let lost = (0..10_000)
            .filter(|nth| path.datagram(nth * 10_000_000).is_none())
            .count();
        assert!((140..270).contains(&lost), "{lost}");
    }
}
