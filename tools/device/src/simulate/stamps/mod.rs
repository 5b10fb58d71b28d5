//! The stamps of a device's packets, with the truth behind them, made in simulated time: an hour takes a moment.
//!
//! Owns: what is sent when, who stamps it when, and what of it a recording would hold: exchanges, frames, acks, the
//! truth, and what LSL's recorder would have kept of the same clock over the same path (`peer`). Does not own: the
//! clock (`simulate::clock`), the path (`path`), the known situations (`scenario`), files.
//!
//! Invariants: all of it is a function of the plan; a stamp of sending is never later than the sending, and one of
//! arrival never earlier than the arrival; the truth of a reading is exact to the nanosecond.
//!
//! The rhythm is that of a recording: an exchange a second, ten data frames and two acks. Everything goes over one TCP
//! connection: a lost packet comes 200 ms late or more, and nothing overtakes it.

mod path;
mod peer;
mod scenario;

use std::sync::Arc;

use super::clock::{ClockEvent, ClockPlan, ClockPlanError, LyingClock};
use super::random;
use super::true_time::SimulatedTrueTime;
use path::Path;

pub use path::{Bursts, Queue, Tail, Way};
pub use scenario::Scenario;

/// What is simulated. Times are of true time, from the begin.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub lasting_ns: i64,
    /// Its events are the plan's: `gaps` and `standstills`.
    pub clock: ClockPlan,
    pub up: Way,
    pub down: Way,
    /// The radio sleeps between the device's own packets, so that what the hub sends unasked waits for a beacon. Such a
    /// device begins the exchanges itself.
    pub dozes: bool,
    pub gaps: Vec<Gap>,
    /// The clock stands still: after so long, for so long, in order. Nothing tells of it: the boot stays what it is.
    pub standstills: Vec<(i64, i64)>,
    /// How often the truth is noted down.
    pub truth_every_ns: i64,
}

/// Nothing goes to and fro for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gap {
    /// The link is lost; the clock goes on.
    Outage { after_ns: i64, for_ns: i64 },
    /// The device is off and comes back with a clock near zero.
    Reboot { after_ns: i64, for_ns: i64 },
    /// The device sleeps and its clock stands still. The device tells nobody; `boot` counts it, as the simulator knows it.
    Suspend { after_ns: i64, for_ns: i64 },
}

/// An exchange: hub sends, device receives, device sends, hub receives; or the other two first, if the device began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    pub hub_send_ns: i64,
    pub dev_recv_ns: i64,
    pub dev_send_ns: i64,
    pub hub_recv_ns: i64,
    pub boot: u32,
}

/// A packet one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OneWay {
    pub sent_ns: i64,
    pub received_ns: i64,
    pub boot: u32,
}

/// What the device's clock showed at a moment of the hub's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truth {
    pub dev_ns: i64,
    pub hub_ns: i64,
    pub boot: u32,
}

/// What LSL's recorder stores: when, by the device's clock, and what to add to that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerOffset {
    pub time_ns: i64,
    pub offset_ns: i64,
}

/// All stamps of one simulated recording.
#[derive(Clone, Debug, Default)]
pub struct Stamps {
    pub exchanges: Vec<Exchange>,
    pub frames_up: Vec<OneWay>,
    pub acks_down: Vec<OneWay>,
    pub truth: Vec<Truth>,
    pub peer: Vec<PeerOffset>,
}

impl Stamps {
    /// Half of the least round trip of an exchange, the time at the other end taken off; None without an exchange.
    pub fn half_least_round_trip_ns(&self) -> Option<i64> {
        let trips = self.exchanges.iter().map(|exchange| {
            let hub_ns = exchange.hub_recv_ns - exchange.hub_send_ns;
            hub_ns - (exchange.dev_send_ns - exchange.dev_recv_ns)
        });
        trips.min().map(|least_ns| least_ns / 2)
    }
}

/// Why a plan is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error(transparent)]
    Clock(#[from] ClockPlanError),
    #[error("{lasting_ns} ns is no time to simulate: it must lie between a second and a week")]
    Lasting { lasting_ns: i64 },
    #[error(
        "what happens at {after_ns} ns for {for_ns} ns begins before the begin, inside of what happened before it, or \
         does not end before the end"
    )]
    Overlap { after_ns: i64, for_ns: i64 },
}

/// Simulates a plan.
pub fn gather(plan: &Plan) -> Result<Stamps, PlanError> {
    let world = World::new(plan)?;
    let mut stamps = Stamps::default();
    let mut up = Path::new(&plan.up, plan.lasting_ns, random::branch(plan.seed, "up"));
    let mut down = Path::new(&plan.down, plan.lasting_ns, random::branch(plan.seed, "down"));
    let frames = world.times(FRAME_EVERY_NS, FRAME_EVERY_NS / 2);
    let acks = world.times(ACK_EVERY_NS, 2 * ACK_EVERY_NS / 5);
    let probes = world.probe_times();
    if plan.dozes {
        let sent = world.up(&mut up, &probes, &frames, &mut stamps.frames_up);
        let answers: Vec<i64> = sent.iter().map(|sent| world.hub_answers(sent)).collect();
        let answered = world.down(&mut down, &answers, &acks, &mut stamps.acks_down);
        stamps.exchanges = exchanges(&answered, &sent);
    } else {
        let asked = world.down(&mut down, &probes, &acks, &mut stamps.acks_down);
        let answers: Vec<i64> = asked.iter().map(|asked| world.device_answers(asked)).collect();
        let answered = world.up(&mut up, &answers, &frames, &mut stamps.frames_up);
        stamps.exchanges = exchanges(&asked, &answered);
    }
    stamps.truth = world.truth();
    stamps.peer = peer::offsets(&world, &mut up, &mut down);
    Ok(stamps)
}

/// A packet as it truly went, and its stamps, if nothing kept it from arriving.
#[derive(Clone, Copy, Debug)]
struct Passage {
    arrived_ns: i64,
    stamps: Option<OneWay>,
}

/// Pairs the two ways of each exchange; one that lost a way, or spans two lives of the clock, is none.
fn exchanges(down: &[Passage], up: &[Passage]) -> Vec<Exchange> {
    let pairs = down.iter().zip(up).filter_map(|(down, up)| {
        let (down, up) = (down.stamps?, up.stamps?);
        (down.boot == up.boot).then_some(Exchange {
            hub_send_ns: down.sent_ns,
            dev_recv_ns: down.received_ns,
            dev_send_ns: up.sent_ns,
            hub_recv_ns: up.received_ns,
            boot: down.boot,
        })
    });
    pairs.collect()
}

/// The device's clock over the whole of the time, and what is up when.
struct World<'a> {
    plan: &'a Plan,
    clock: LyingClock,
    /// Lives of the clock by their begin: what it showed before the first of these is boot 0.
    boots_ns: Vec<i64>,
}

impl<'a> World<'a> {
    fn new(plan: &'a Plan) -> Result<Self, PlanError> {
        let (lasting_ns, mut free_ns) = (plan.lasting_ns, 0);
        if !(1_000_000_000..=7 * 86_400_000_000_000).contains(&lasting_ns) {
            return Err(PlanError::Lasting { lasting_ns });
        }
        let mut happenings: Vec<(i64, i64)> = plan.gaps.iter().map(Gap::span).collect();
        happenings.extend(&plan.standstills);
        happenings.sort_unstable();
        for (after_ns, for_ns) in happenings {
            if after_ns < free_ns || for_ns < 0 || for_ns >= lasting_ns.saturating_sub(after_ns) {
                return Err(PlanError::Overlap { after_ns, for_ns });
            }
            free_ns = after_ns + for_ns;
        }
        let sleep = |after_ns, for_ns| ClockEvent::Sleep { after_ns, for_ns };
        let mut clock = plan.clock.clone();
        clock.events = plan
            .standstills
            .iter()
            .map(|&(after_ns, for_ns)| sleep(after_ns, for_ns))
            .collect();
        clock.events.extend(plan.gaps.iter().filter_map(|gap| match *gap {
            Gap::Outage { .. } => None,
            Gap::Suspend { after_ns, for_ns } => Some(sleep(after_ns, for_ns)),
            Gap::Reboot { after_ns, for_ns } => Some(ClockEvent::Reboot {
                after_ns,
                down_ns: for_ns,
            }),
        }));
        let ends = plan.gaps.iter().filter(|gap| !matches!(gap, Gap::Outage { .. }));
        let mut boots_ns: Vec<i64> = ends.map(|gap| gap.span().0 + gap.span().1).collect();
        boots_ns.sort_unstable();
        let time = Arc::new(SimulatedTrueTime::starting_at(0));
        let clock = LyingClock::new(&clock, time.clone())?;
        // What is still under way at the end arrives too.
        time.advance(lasting_ns + AFTERMATH_NS);
        Ok(Self {
            plan,
            clock,
            boots_ns,
        })
    }

    /// What the device's clock shows, and in which of its lives; None while it is off.
    fn reading(&self, true_ns: i64) -> Option<(i64, u32)> {
        let (dev_ns, _) = self.clock.reading_at(true_ns)?;
        Some((
            dev_ns,
            self.boots_ns.partition_point(|&begins_ns| begins_ns <= true_ns) as u32,
        ))
    }

    /// When a device that stands still at that time goes on.
    fn awake(&self, true_ns: i64) -> i64 {
        let standing = self.standing(true_ns);
        standing.map_or(true_ns, |(after_ns, for_ns)| after_ns + for_ns)
    }

    fn standing(&self, true_ns: i64) -> Option<(i64, i64)> {
        let standstills = &self.plan.standstills;
        let after = standstills.partition_point(|&(after_ns, _)| after_ns <= true_ns);
        let &(after_ns, for_ns) = standstills.get(after.checked_sub(1)?)?;
        (true_ns < after_ns + for_ns).then_some((after_ns, for_ns))
    }

    /// Whether a gap takes what is sent then and arrives then.
    fn is_lost(&self, sent_ns: i64, arrived_ns: i64) -> bool {
        self.plan.gaps.iter().any(|gap| {
            let (after_ns, for_ns) = gap.span();
            sent_ns < after_ns + for_ns && arrived_ns >= after_ns
        })
    }

    fn times(&self, every_ns: i64, first_ns: i64) -> Vec<i64> {
        let times = (0..).map(|nth| first_ns + nth * every_ns);
        times.take_while(|&at_ns| at_ns < self.plan.lasting_ns).collect()
    }

    /// About one a second: whoever keeps exact seconds meets what others do each second.
    fn probe_times(&self) -> Vec<i64> {
        let seed = random::branch(self.plan.seed, "probes");
        let mut times = self.times(PROBE_EVERY_NS, 3 * PROBE_EVERY_NS / 10);
        for (nth, at_ns) in (0..).zip(&mut times) {
            *at_ns += ns(random::uniform(seed, nth) * PROBE_JITTER_NS);
        }
        times
    }

    fn hub_answers(&self, sent: &Passage) -> i64 {
        let seed = random::branch(self.plan.seed, "hub answers");
        sent.arrived_ns
            + ns(HUB_ANSWERS_NS * (1.0 + random::exponential(seed, sent.arrived_ns.cast_unsigned())))
    }

    fn device_answers(&self, asked: &Passage) -> i64 {
        let seed = random::branch(self.plan.seed, "device answers");
        let thinks = ANSWERS_NS + THINKS_NS * random::exponential(seed, asked.arrived_ns.cast_unsigned());
        asked.arrived_ns + ns(thinks)
    }

    /// Sends probes and frames to the hub, in the order of their times; frames go into `frames`.
    fn up(&self, path: &mut Path, probes: &[i64], frames: &[i64], into: &mut Vec<OneWay>) -> Vec<Passage> {
        let seed = random::branch(self.plan.seed, "stamps up");
        let mut last_ns = i64::MIN;
        let pass = |nth: u64, due_ns: i64| {
            // What a long standstill would have captured is never captured.
            let stands_long = self
                .standing(due_ns)
                .is_some_and(|(_, for_ns)| for_ns >= SKIPPED_NS);
            let stamped_ns = self.awake(due_ns);
            // Between the stamp and the sending.
            let sent_ns = self.awake(stamped_ns + ns(DEVICE_STAMP_NS * random::exponential(seed, nth)));
            let arrived_ns = path.pass(sent_ns);
            let read_ns = arrived_ns + ns(HUB_STAMP_NS * random::exponential(!seed, nth));
            // Who reads them reads them one by one.
            let read_ns = read_ns.max(last_ns);
            last_ns = read_ns;
            let stamp = self.reading(stamped_ns);
            let kept = !stands_long && !self.is_lost(stamped_ns, read_ns);
            Passage {
                arrived_ns: read_ns,
                stamps: stamp.filter(|_| kept).map(|(sent_ns, boot)| OneWay {
                    sent_ns,
                    received_ns: read_ns,
                    boot,
                }),
            }
        };
        in_order(probes, frames, pass, into)
    }

    /// As `up`, from the hub.
    fn down(&self, path: &mut Path, probes: &[i64], acks: &[i64], into: &mut Vec<OneWay>) -> Vec<Passage> {
        let seed = random::branch(self.plan.seed, "stamps down");
        let asked = self.plan.dozes;
        let mut last_ns = i64::MIN;
        let pass = |nth: u64, stamped_ns: i64, is_probe: bool| {
            let sent_ns = stamped_ns + ns(HUB_STAMP_NS * random::exponential(seed, nth));
            // The answer to the device's own packet finds it awake.
            let woken_ns = if asked && !is_probe { self.beacon(nth) } else { 0 };
            let arrived_ns = self.awake(path.pass(sent_ns + woken_ns));
            let read_ns = self
                .awake(arrived_ns + ns(DEVICE_STAMP_NS * random::exponential(!seed, nth)))
                .max(last_ns);
            last_ns = read_ns;
            let kept = !self.is_lost(stamped_ns, read_ns);
            Passage {
                arrived_ns: read_ns,
                stamps: self
                    .reading(read_ns)
                    .filter(|_| kept)
                    .map(|(received_ns, boot)| OneWay {
                        sent_ns: stamped_ns,
                        received_ns,
                        boot,
                    }),
            }
        };
        in_order_of_kind(probes, acks, pass, into)
    }

    /// How long what was sent unasked waits for a radio that sleeps a third of the time.
    fn beacon(&self, nth: u64) -> i64 {
        let seed = random::branch(self.plan.seed, "beacons");
        match random::uniform(seed, nth) < DOZING {
            true => ns(BEACON_NS * random::uniform(!seed, nth)),
            false => 0,
        }
    }

    /// As often as planned; not around a reboot or a sleep, where a sample of the truth may be of either life.
    fn truth(&self) -> Vec<Truth> {
        let mut moments = self.times(self.plan.truth_every_ns.max(1_000_000), 0);
        moments.push(self.plan.lasting_ns);
        moments.retain(|&at_ns| {
            let cut = |gap: &Gap| {
                let (after_ns, for_ns) = gap.span();
                !matches!(gap, Gap::Outage { .. })
                    && (after_ns - AROUND_CUT_NS..=after_ns + for_ns + AROUND_CUT_NS).contains(&at_ns)
            };
            !self.plan.gaps.iter().any(cut) && self.standing(at_ns).is_none()
        });
        let truth = moments.into_iter().filter_map(|hub_ns| {
            let (dev_ns, boot) = self.reading(hub_ns)?;
            Some(Truth { dev_ns, hub_ns, boot })
        });
        truth.collect()
    }
}

impl Gap {
    /// When it begins, and for how long it lasts.
    fn span(&self) -> (i64, i64) {
        let (Self::Outage { after_ns, for_ns }
        | Self::Reboot { after_ns, for_ns }
        | Self::Suspend { after_ns, for_ns }) = *self;
        (after_ns, for_ns)
    }
}

/// As `in_order_of_kind`, for whom the kind does not matter.
fn in_order(
    probes: &[i64],
    others: &[i64],
    mut pass: impl FnMut(u64, i64) -> Passage,
    into: &mut Vec<OneWay>,
) -> Vec<Passage> {
    in_order_of_kind(probes, others, |nth, due_ns, _| pass(nth, due_ns), into)
}

/// Sends what is due, in the order of its times, and parts it again: probes are given back in the order in which they were
/// given, the others that arrived go into `into`.
fn in_order_of_kind(
    probes: &[i64],
    others: &[i64],
    mut pass: impl FnMut(u64, i64, bool) -> Passage,
    into: &mut Vec<OneWay>,
) -> Vec<Passage> {
    let mut due: Vec<(i64, Option<usize>)> = probes
        .iter()
        .enumerate()
        .map(|(nth, &at)| (at, Some(nth)))
        .collect();
    due.extend(others.iter().map(|&at| (at, None)));
    due.sort_unstable();
    let nothing = Passage {
        arrived_ns: 0,
        stamps: None,
    };
    let mut passed = vec![nothing; probes.len()];
    for (nth, (due_ns, probe)) in (0..).zip(due) {
        let passage = pass(nth, due_ns, probe.is_some());
        match probe {
            Some(probe) => passed[probe] = passage,
            None => into.extend(passage.stamps),
        }
    }
    passed
}

/// A span of time, whole nanoseconds.
#[allow(clippy::cast_possible_truncation)]
fn ns(span: f64) -> i64 {
    span as i64
}

const FRAME_EVERY_NS: i64 = 100_000_000;
const ACK_EVERY_NS: i64 = 500_000_000;
const PROBE_EVERY_NS: i64 = 1_000_000_000;
const PROBE_JITTER_NS: f64 = 50_000_000.0;
const AROUND_CUT_NS: i64 = 3_000_000_000;
/// Above what a retransmission can take.
const AFTERMATH_NS: i64 = 600_000_000_000;

/// A device answers an exchange after so long, and a little more.
const ANSWERS_NS: f64 = 80_000.0;
const THINKS_NS: f64 = 60_000.0;
const HUB_ANSWERS_NS: f64 = 20_000.0;
/// Means of what passes between a stamp and what it stamps.
const DEVICE_STAMP_NS: f64 = 3_000.0;
const HUB_STAMP_NS: f64 = 1_000.0;
/// The share of time for which a radio that saves power sleeps, and how long until it listens again at most.
const DOZING: f64 = 0.33;
const BEACON_NS: f64 = 102_400_000.0;
/// A device that stands still for longer captures nothing meanwhile; after a shorter one it sends what was due.
const SKIPPED_NS: i64 = 50_000_000;

#[cfg(test)]
mod tests;
