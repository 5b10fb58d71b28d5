//! How often a clock that stands still unseen makes a bound false, and how soon one that is seen is found.
//!
//! Owns: the runs, each a simulated recording in which the clock once stands still, aligned without and with the guard; and
//! what they come to. Does not own: the clock and the path (`marey_device::simulate::stamps`), the alignment. It never
//! asserts: the test or the program that called it does.
//!
//! Nothing tells the alignment of the standstill: the device has one boot, and a frame that was due meanwhile comes after.

use marey_device::simulate::random;
use marey_device::simulate::stamps::{Exchange, Plan, Scenario, Stamps, gather};
use marey_engine::clock::{
    Alignment, ClockEvidence, ClockMap, DeviceEvidence, Options, Row, SessionEvidence, WallReading, Warning,
    align,
};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

pub const MS: i64 = 1_000_000;
pub const SECOND: i64 = 1_000 * MS;

/// Sizes around what evidence can show, and none, as the check of the check.
pub const SMALL_NS: [i64; 11] = [
    0,
    MS / 10,
    MS / 5,
    MS / 2,
    MS,
    13 * MS / 10,
    16 * MS / 10,
    19 * MS / 10,
    25 * MS / 10,
    35 * MS / 10,
    5 * MS,
];

/// Sizes that must be found.
pub const LARGE_NS: [i64; 6] = [5 * MS, 20 * MS, 100 * MS, SECOND, 10 * SECOND, 120 * SECOND];

/// What of the evidence is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// An exchange a second.
    Probes,
    /// And ten data frames and two acks.
    All,
}

/// One recording.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    pub scenario: Scenario,
    pub seed: u64,
    /// 0 for none.
    pub standstill_ns: i64,
    pub evidence: Evidence,
}

/// What one recording came to.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Whether the clock was cut.
    pub found: bool,
    /// Of a clock that was cut: whether it was more than once, or elsewhere.
    pub cut_wrongly: bool,
    /// Exchanges that were begun from the standstill's end until it was certain, by the packet that showed it: that one too.
    pub exchanges: u64,
    /// How long after the standstill's end that was.
    pub after_ns: i64,
    /// Whether the bound failed somewhere, and by how much at most.
    pub is_false: bool,
    pub beyond_ns: f64,
    /// The same with the guard.
    pub guarded_is_false: bool,
    /// `detectable_us` of the piece of the map in which it stood still.
    pub detectable_ns: f64,
    /// Means of the bounds that are finite.
    pub bound_ns: f64,
    pub guarded_bound_ns: f64,
}

/// What all recordings of one kind came to.
#[derive(Clone, Debug)]
pub struct Summary {
    pub evidence: Evidence,
    pub standstill_ns: i64,
    pub runs: usize,
    pub found: usize,
    pub cut_wrongly: usize,
    /// Of those that were found: the most exchanges and the longest time that it took.
    pub exchanges_most: u64,
    pub after_most_ns: i64,
    pub is_false: usize,
    /// Of those that were found, whose bound failed nevertheless.
    pub found_is_false: usize,
    pub beyond_most_ns: f64,
    /// Whose bound failed by more than `detectable_us` allows.
    pub beyond_detectable: usize,
    pub guarded_is_false: usize,
    /// Median of those that were not found; the others have a cut there. NaN if there are none.
    pub detectable_ns: f64,
    /// Medians of all.
    pub bound_ns: f64,
    pub guarded_bound_ns: f64,
}

/// So many recordings of one kind, on some threads.
pub fn summarize(asked: &Asked, runs: u64, threads: usize) -> Summary {
    let seen = all(runs, threads, |nth| {
        look(&Asked {
            seed: asked.seed.wrapping_mul(1_000_003).wrapping_add(nth),
            ..*asked
        })
    });
    let count = |of: fn(&Seen) -> bool| seen.iter().filter(|seen| of(seen)).count();
    let median = |among: fn(&Seen) -> bool, of: fn(&Seen) -> f64| {
        let mut values: Vec<f64> = seen.iter().filter(|seen| among(seen)).map(of).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    };
    Summary {
        evidence: asked.evidence,
        standstill_ns: asked.standstill_ns,
        runs: seen.len(),
        found: count(|seen| seen.found),
        cut_wrongly: count(|seen| seen.cut_wrongly),
        exchanges_most: seen.iter().map(|seen| seen.exchanges).max().unwrap_or(0),
        after_most_ns: seen.iter().map(|seen| seen.after_ns).max().unwrap_or(0),
        is_false: count(|seen| seen.is_false),
        found_is_false: count(|seen| seen.found && seen.is_false),
        beyond_most_ns: seen.iter().map(|seen| seen.beyond_ns).fold(0.0, f64::max),
        beyond_detectable: count(|seen| seen.beyond_ns > seen.detectable_ns),
        guarded_is_false: count(|seen| seen.guarded_is_false),
        detectable_ns: median(|seen| !seen.found, |seen| seen.detectable_ns),
        bound_ns: median(|_| true, |seen| seen.bound_ns),
        guarded_bound_ns: median(|_| true, |seen| seen.guarded_bound_ns),
    }
}

/// Simulates and aligns one.
pub fn look(asked: &Asked) -> Seen {
    let plan = plan(asked);
    let stamps = gather(&plan).expect("a plan that can be");
    let evidence = evidence(&stamps, asked.evidence);
    let aligned = |guard_steps| {
        let options = Options {
            guard_steps,
            ..Options::default()
        };
        align(&evidence, &options)
    };
    let (plain, guarded) = (aligned(false), aligned(true));
    let (map, guarded) = (map(&plain), map(&guarded));
    // Where it stood, or would have.
    let (after_ns, for_ns) = standstill(asked);
    let before = stamps.truth.iter().rfind(|truth| truth.hub_ns < after_ns);
    let before = before.expect("it does not begin with a standstill");
    // To the few microseconds by which a clock may drift between two rows of the truth.
    let stood_ns = before.dev_ns + (after_ns - before.hub_ns);
    let cuts: Vec<(i64, i64)> = plain.warnings().iter().filter_map(cut).collect();
    let is_there = |&(last_ns, certain_ns): &(i64, i64)| {
        for_ns > 0 && last_ns <= stood_ns + DRIFTED_NS && certain_ns >= stood_ns - DRIFTED_NS
    };
    let begun = |certain_ns: i64| {
        let since = |exchange: &&Exchange| {
            exchange.hub_send_ns > after_ns + for_ns && exchange.dev_recv_ns <= certain_ns
        };
        stamps.exchanges.iter().filter(since).count() as u64
    };
    let certain_ns = cuts.first().map(|&(_, certain_ns)| certain_ns);
    let (beyond_ns, bound_ns) = judged(map, &stamps);
    let (guarded_beyond_ns, guarded_bound_ns) = judged(guarded, &stamps);
    Seen {
        found: map.segment_count() > 1,
        cut_wrongly: cuts.len() > 1 || !cuts.iter().all(is_there),
        exchanges: certain_ns.map_or(0, begun),
        after_ns: certain_ns.map_or(0, |certain_ns| certain_ns - stood_ns),
        is_false: beyond_ns > 0.0,
        beyond_ns,
        guarded_is_false: guarded_beyond_ns > 0.0,
        detectable_ns: detectable(map, stood_ns),
        bound_ns,
        guarded_bound_ns,
    }
}

/// A short recording in which the clock stands still once.
fn plan(asked: &Asked) -> Plan {
    let lasting_ns = RECORDED_NS + asked.standstill_ns;
    let mut plan = asked.scenario.plan(asked.seed, lasting_ns);
    plan.truth_every_ns = TRUTH_EVERY_NS;
    let standstill = standstill(asked);
    plan.standstills
        .extend(Some(standstill).filter(|&(_, for_ns)| for_ns > 0));
    plan
}

/// When it stands still and for how long: somewhere in the middle third.
fn standstill(asked: &Asked) -> (i64, i64) {
    let share = random::uniform(random::branch(asked.seed, "standstill"), 0);
    let after_ns = RECORDED_NS / 3 + (share * (RECORDED_NS / 3) as f64) as i64;
    (after_ns, asked.standstill_ns)
}

/// Stretches of the clock that are found in a long recording in which it never stands still: 1, if none is cut wrongly.
pub fn stretches(scenario: Scenario, seed: u64, lasting_ns: i64) -> u32 {
    let stamps = gather(&scenario.plan(seed, lasting_ns)).expect("a plan that can be");
    let alignment = align(&evidence(&stamps, Evidence::All), &Options::default());
    map(&alignment).segment_count()
}

/// Calls `body` for each of `0..count` on some threads; what it gives comes in that order.
pub fn all<T: Send>(count: u64, threads: usize, body: impl Fn(u64) -> T + Sync) -> Vec<T> {
    let (next, done) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    let work = || {
        loop {
            let nth = next.fetch_add(1, Ordering::Relaxed);
            if nth >= count {
                return;
            }
            let one = body(nth);
            done.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push((nth, one));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(work);
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|&(nth, _)| nth);
    done.into_iter().map(|(_, one)| one).collect()
}

fn cut(warning: &Warning) -> Option<(i64, i64)> {
    match *warning {
        Warning::Discontinuity {
            after_ns, before_ns, ..
        } => Some((after_ns, before_ns)),
        _ => None,
    }
}

fn map(alignment: &Alignment) -> &ClockMap {
    alignment.map(DEVICE, 0).expect("the device has one boot")
}

/// By how much the bound fails at worst, and the mean of the bounds.
fn judged(map: &ClockMap, stamps: &Stamps) -> (f64, f64) {
    let (mut beyond_ns, mut bound_ns, mut bounds) = (0.0f64, 0.0, 0u32);
    let mut cursor = map.cursor();
    for truth in &stamps.truth {
        let placed = cursor.at(truth.dev_ns);
        let error_ns = placed.session_ns.abs_diff(truth.hub_ns) as f64;
        beyond_ns = beyond_ns.max(error_ns - placed.half_width_ns);
        if placed.half_width_ns.is_finite() {
            bound_ns += placed.half_width_ns;
            bounds += 1;
        }
    }
    (beyond_ns, bound_ns / f64::from(bounds.max(1)))
}

fn detectable(map: &ClockMap, dev_ns: i64) -> f64 {
    let rows = map.rows();
    let after = rows.partition_point(|row| row.device_time_ns <= dev_ns);
    after
        .checked_sub(1)
        .map_or(f64::INFINITY, |at| rows[at].detectable_ns)
}

fn evidence(stamps: &Stamps, which: Evidence) -> SessionEvidence {
    let mut rows: Vec<Row> = Vec::new();
    rows.extend(stamps.exchanges.iter().map(|exchange| Row::Exchange {
        hub_epoch: HUB_EPOCH,
        dev_send: exchange.dev_send_ns,
        hub_recv: exchange.hub_recv_ns,
        hub_send: exchange.hub_send_ns,
        dev_recv: exchange.dev_recv_ns,
    }));
    if which == Evidence::All {
        rows.extend(stamps.frames_up.iter().map(|frame| Row::Up {
            hub_epoch: HUB_EPOCH,
            dev_send: frame.sent_ns,
            hub_recv: frame.received_ns,
        }));
        rows.extend(stamps.acks_down.iter().map(|ack| Row::Down {
            hub_epoch: HUB_EPOCH,
            hub_send: ack.sent_ns,
            dev_recv: ack.received_ns,
        }));
    }
    let clock = ClockEvidence {
        key: [0; 16],
        epochs: vec![0],
        rows,
    };
    SessionEvidence {
        anchor: WallReading {
            hub_epoch: HUB_EPOCH,
            ..WallReading::default()
        },
        hub_epochs: vec![HUB_EPOCH],
        walls: Vec::new(),
        devices: vec![DeviceEvidence {
            device: DEVICE.to_owned(),
            clocks: vec![clock],
        }],
    }
}

const DEVICE: &str = "phone";
const HUB_EPOCH: u64 = 1;
const RECORDED_NS: i64 = 120 * SECOND;
/// Often: a bound that fails for a moment only is false too.
const TRUTH_EVERY_NS: i64 = 50 * MS;
const DRIFTED_NS: i64 = 10_000;
