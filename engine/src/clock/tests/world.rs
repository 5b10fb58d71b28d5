//! A small world in which the truth is known: true time, a hub that reboots, device clocks that drift, stand still
//! and count in steps, and a network with delays of its own in each direction.
//!
//! Everything follows from one seed. The world keeps the model's assumptions (drift, true stamps) and no others:
//! delays are asymmetric, heavy-tailed and change over time.

use super::super::*;

pub const MS: i64 = 1_000_000;
pub const SECOND: i64 = 1_000_000_000;

/// A generator of numbers from a seed (splitmix64).
#[derive(Clone, Debug)]
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// In `from..until`.
    pub fn range(&mut self, from: i64, until: i64) -> i64 {
        from + (self.next() % (until - from).max(1) as u64) as i64
    }

    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }
}

/// A device clock: pieces of constant rate over true time. A standstill is a piece of rate 0.
#[derive(Clone, Debug)]
pub struct DeviceClock {
    /// True time at which the piece begins, reading there, rate.
    pieces: Vec<(i64, f64, f64)>,
    /// Where readings are counted from, so that floats stay exact.
    base_ns: i64,
    pub step_ns: i64,
    /// True times of standstills: from, until.
    pub asleep: Vec<(i64, i64)>,
}

impl DeviceClock {
    /// A clock that begins with `base_ns` at true time 0, changes its rate within `ppm` every few seconds, and
    /// stands still over each of `asleep`.
    pub fn new(dice: &mut Dice, base_ns: i64, ppm: f64, until: i64, asleep: &[(i64, i64)]) -> Self {
        let mut turns: Vec<i64> = vec![0];
        while let Some(&last) = turns.last().filter(|&&last| last < until) {
            turns.push(last + dice.range(SECOND, 40 * SECOND));
        }
        turns.extend(asleep.iter().flat_map(|&(from, until)| [from, until]));
        turns.sort_unstable();
        let mut pieces: Vec<(i64, f64, f64)> = Vec::new();
        for turn in turns {
            let reading = pieces
                .last()
                .map_or(0.0, |&(at, reading, rate)| reading + (turn - at) as f64 * rate);
            let stands = asleep.iter().any(|&(from, until)| from <= turn && turn < until);
            // Often at the very limit: that is where a bound would break.
            let drift =
                if dice.chance(0.3) { 1.0 } else { dice.unit() } * if dice.chance(0.5) { 1.0 } else { -1.0 };
            pieces.push((turn, reading, if stands { 0.0 } else { 1.0 + drift * ppm * 1e-6 }));
        }
        Self {
            pieces,
            base_ns,
            step_ns: 1,
            asleep: asleep.to_vec(),
        }
    }

    /// What the clock shows at a true time.
    pub fn read(&self, true_ns: i64) -> i64 {
        let place = self.pieces.partition_point(|piece| piece.0 <= true_ns).max(1) - 1;
        let (at, reading, rate) = self.pieces[place];
        let exact = self.base_ns + (reading + (true_ns - at) as f64 * rate).floor() as i64;
        exact.div_euclid(self.step_ns) * self.step_ns
    }

    pub fn is_awake(&self, true_ns: i64) -> bool {
        !self
            .asleep
            .iter()
            .any(|&(from, until)| from <= true_ns && true_ns <= until)
    }
}

/// The hub: which epoch it is in, and what its clock shows.
#[derive(Clone, Debug)]
pub struct Hub {
    /// True time at which the epoch begins and the reading there, by epoch id from 1.
    pub boots: Vec<(i64, i64)>,
    /// For how long it is away before each boot but the first.
    pub away_ns: i64,
}

impl Hub {
    /// Epoch and reading, unless it is away.
    pub fn read(&self, true_ns: i64) -> Option<(u64, i64)> {
        let after = self.boots.partition_point(|boot| boot.0 <= true_ns);
        let &(at, reading) = self.boots.get(after.checked_sub(1)?)?;
        let going_down = self
            .boots
            .get(after)
            .is_some_and(|next| true_ns >= next.0 - self.away_ns);
        (!going_down).then_some((after as u64, reading + true_ns - at))
    }

    /// True time = hub time + this.
    pub fn offset(&self, epoch: u64) -> i64 {
        let (at, reading) = self.boots[epoch as usize - 1];
        at - reading
    }
}

/// What the network does to a packet, one way.
#[derive(Clone, Copy, Debug)]
pub struct Delay {
    pub least_ns: i64,
    pub usual_ns: i64,
    pub lost: f64,
}

impl Delay {
    fn draw(self, dice: &mut Dice) -> Option<i64> {
        if dice.chance(self.lost) {
            return None;
        }
        let tail = -(1.0 - dice.unit()).ln() * self.usual_ns as f64;
        Some(
            self.least_ns
                + if dice.chance(0.05) {
                    (tail * 30.0) as i64
                } else {
                    tail as i64
                },
        )
    }
}

/// How one device talks to the hub.
#[derive(Clone, Copy, Debug)]
pub struct Talk {
    pub up: Delay,
    pub down: Delay,
    pub probe_every_ns: i64,
    /// 0: none.
    pub frame_every_ns: i64,
    pub ack_every_ns: i64,
}

impl Talk {
    pub fn random(dice: &mut Dice) -> Self {
        let mut delay = || Delay {
            least_ns: dice.range(20_000, 4 * MS),
            usual_ns: dice.range(1_000, 3 * MS),
            lost: dice.unit() * 0.3,
        };
        let (up, down) = (delay(), delay());
        Self {
            up,
            down,
            probe_every_ns: dice.range(300 * MS, 3 * SECOND),
            frame_every_ns: if dice.chance(0.7) {
                dice.range(50 * MS, 500 * MS)
            } else {
                0
            },
            ack_every_ns: if dice.chance(0.7) {
                dice.range(200 * MS, 2 * SECOND)
            } else {
                0
            },
        }
    }
}

/// The rows of one clock over `from..until` of true time, in no useful order.
pub fn rows(dice: &mut Dice, hub: &Hub, clock: &DeviceClock, talk: &Talk, from: i64, until: i64) -> Vec<Row> {
    let mut rows = Vec::new();
    let send_times = |every: i64, dice: &mut Dice| -> Vec<i64> {
        let mut times = Vec::new();
        let mut at = from;
        while every > 0 && at < until {
            at += dice.range(every / 2, every * 3 / 2);
            times.push(at);
        }
        times
    };
    let probes = send_times(talk.probe_every_ns, dice);
    let frames = send_times(talk.frame_every_ns, dice);
    let acks = send_times(talk.ack_every_ns, dice);
    for at in probes {
        rows.extend(exchange(dice, hub, clock, talk, at));
    }
    for at in frames {
        rows.extend(
            up(dice, hub, clock, talk, at).map(|(hub_epoch, dev_send, hub_recv, _)| Row::Up {
                hub_epoch,
                dev_send,
                hub_recv,
            }),
        );
    }
    for at in acks {
        rows.extend(
            down(dice, hub, clock, talk, at).map(|(hub_epoch, hub_send, dev_recv, _)| Row::Down {
                hub_epoch,
                hub_send,
                dev_recv,
            }),
        );
    }
    rows
}

fn up(dice: &mut Dice, hub: &Hub, clock: &DeviceClock, talk: &Talk, at: i64) -> Option<(u64, i64, i64, i64)> {
    let arrives = at + talk.up.draw(dice)?;
    let ((sent_in, _), (hub_epoch, hub_recv)) = (hub.read(at)?, hub.read(arrives)?);
    (clock.is_awake(at) && sent_in == hub_epoch).then(|| (hub_epoch, clock.read(at), hub_recv, arrives))
}

fn down(
    dice: &mut Dice,
    hub: &Hub,
    clock: &DeviceClock,
    talk: &Talk,
    at: i64,
) -> Option<(u64, i64, i64, i64)> {
    let arrives = at + talk.down.draw(dice)?;
    let ((hub_epoch, hub_send), (received_in, _)) = (hub.read(at)?, hub.read(arrives)?);
    (clock.is_awake(arrives) && received_in == hub_epoch)
        .then(|| (hub_epoch, hub_send, clock.read(arrives), arrives))
}

fn exchange(dice: &mut Dice, hub: &Hub, clock: &DeviceClock, talk: &Talk, at: i64) -> Option<Row> {
    let think = dice.range(1_000, 2 * MS);
    if dice.chance(0.5) {
        let (hub_epoch, dev_send, hub_recv, arrived) = up(dice, hub, clock, talk, at)?;
        let (same, hub_send, dev_recv, _) = down(dice, hub, clock, talk, arrived + think)?;
        (same == hub_epoch).then_some(Row::Exchange {
            hub_epoch,
            dev_send,
            hub_recv,
            hub_send,
            dev_recv,
        })
    } else {
        let (hub_epoch, hub_send, dev_recv, arrived) = down(dice, hub, clock, talk, at)?;
        let (same, dev_send, hub_recv, _) = up(dice, hub, clock, talk, arrived + think)?;
        (same == hub_epoch).then_some(Row::Exchange {
            hub_epoch,
            dev_send,
            hub_recv,
            hub_send,
            dev_recv,
        })
    }
}

/// Where session time 0 of true time lies: an anchor far from zero.
pub const TRUE_ZERO_UTC_NS: i64 = 1_795_000_000 * SECOND;

/// One device, one clock, one hub epoch.
pub fn evidence_of_one(hub: &Hub, rows: Vec<Row>) -> SessionEvidence {
    evidence(hub, vec![("phone", rows)])
}

/// One clock per device.
pub fn evidence(hub: &Hub, devices: Vec<(&str, Vec<Row>)>) -> SessionEvidence {
    SessionEvidence {
        anchor: WallReading {
            hub_epoch: 1,
            hub_ns: 5 * SECOND,
            utc_ns: TRUE_ZERO_UTC_NS + 5 * SECOND + hub.offset(1),
            error_ns: MS,
        },
        hub_epochs: (1..=hub.boots.len() as u64).collect(),
        walls: Vec::new(),
        devices: devices
            .into_iter()
            .map(|(device, rows)| DeviceEvidence {
                device: device.to_owned(),
                clocks: vec![ClockEvidence {
                    key: [7; 16],
                    epochs: vec![0],
                    rows,
                }],
            })
            .collect(),
    }
}

/// Places samples captured at random true times, and hands each to `check` with what the truth is.
pub fn sample(
    dice: &mut Dice,
    clock: &DeviceClock,
    map: &ClockMap,
    from: i64,
    until: i64,
    mut check: impl FnMut(i64, i64, Placed),
) {
    // Around each standstill as well, where it is hardest.
    let mut times: Vec<i64> = (0..400).map(|_| dice.range(from, until)).collect();
    for &(fell_asleep, woke) in &clock.asleep {
        times.extend((0..40).map(|_| fell_asleep - dice.range(1, SECOND)));
        times.extend((0..40).map(|_| woke + dice.range(1, SECOND)));
    }
    for true_ns in times.into_iter().filter(|&true_ns| clock.is_awake(true_ns)) {
        let dev_ns = clock.read(true_ns);
        check(dev_ns, TRUE_ZERO_UTC_NS + true_ns, map.at(dev_ns));
    }
}

/// Panics unless the truth is inside, as placed and as published.
pub fn assert_inside(map: &ClockMap, dev_ns: i64, truth_ns: i64) {
    let placed = map.at(dev_ns);
    let off = placed.session_ns.abs_diff(truth_ns) as f64;
    assert!(
        off <= placed.half_width_ns,
        "device time {dev_ns}: off by {off} ns, {placed:?}"
    );
    let published = map.published(dev_ns);
    let off = published.time_us.saturating_mul(1_000).abs_diff(truth_ns) as f64;
    assert!(
        off <= f64::from(published.err_us) * 1e3,
        "device time {dev_ns}: off by {off} ns, {published:?}"
    );
    if !map.guard_steps {
        let (lo, hi) = map.interval(dev_ns);
        assert!(lo <= truth_ns && truth_ns <= hi);
        assert!(lo <= placed.session_ns && placed.session_ns <= hi);
    }
}
