//! A clock that lies by an amount that the simulator knows to the nanosecond.
//!
//! Owns: offset, skew, wander, reboot and silent sleep over a true time, and the exact way back from a reading
//! to the truth. Does not own: true time (`true_time`), what a hub makes of the lies.
//!
//! Invariants: within one life the reading never decreases; the rate error stays under 100 ppm, which is the
//! drift that a hub may assume by default; the path is a function of the plan and of the moments at which it
//! was disturbed, never of who reads it when.
//!
//! The reading is piecewise linear in true time with integer arithmetic: at each whole second of true time the
//! rate takes a small random step (a bounded walk, and what temperature adds), and a sleep or a reboot cuts where it must.
//! Within a piece `reading = start + dt + floor(dt * ppb / 10^9)`, which is monotone and therefore invertible.

use std::collections::VecDeque;
use std::f64::consts::TAU;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::random;
use super::true_time::TrueTime;
use crate::clock::{BootId, DeviceClock};

/// How a clock lies. Times are of true time, counted from the moment at which the clock is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClockPlan {
    pub seed: u64,
    /// What the clock shows at first: the known offset.
    pub first_reading_ns: i64,
    /// Constant error of rate, in parts per 10^9 (25,000 is 25 ppm: the clock gains 25 us a second).
    pub skew_ppb: i32,
    /// The rate wanders at most this far from the skew, in parts per 10^9.
    pub wander_ppb: u32,
    /// How it wanders.
    pub walk: Walk,
    /// What temperature does to the rate, on top of skew and wander. All together are cut off at 95 ppm.
    pub warmth: Vec<Warmth>,
    /// What happens to the clock. Events are put in order; one that would begin inside another waits for its end.
    pub events: Vec<ClockEvent>,
}

/// How the rate wanders from second to second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Walk {
    /// Steps of a fiftieth of the bound, drawn back to the skew within a quarter of an hour.
    #[default]
    Drawn,
    /// Steps of this standard deviation, in parts per 10^12, which nothing draws back: a random walk up to the bound.
    Free { step_ppt: u32 },
}

/// What temperature does to the rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Warmth {
    /// A slow swing: at most this far either way, once in so long, and how far into it the clock begins.
    Swing {
        by_ppb: u32,
        period_ns: i64,
        begun_ns: i64,
    },
    /// The device is carried into the cold or put on a charger: from then on the rate nears another by this much, most of
    /// it within the given time.
    Step {
        after_ns: i64,
        by_ppb: i32,
        within_ns: i64,
    },
}

impl Warmth {
    /// In parts per 10^9, so long after the clock was made.
    #[allow(clippy::cast_precision_loss)]
    fn at(&self, since_ns: i64) -> f64 {
        match *self {
            Self::Swing {
                by_ppb,
                period_ns,
                begun_ns,
            } => {
                let turns = (since_ns + begun_ns) as f64 / period_ns.max(1) as f64;
                f64::from(by_ppb) * (TAU * turns).sin()
            }
            Self::Step { after_ns, .. } if since_ns < after_ns => 0.0,
            Self::Step {
                after_ns,
                by_ppb,
                within_ns,
            } => {
                let times = (since_ns - after_ns) as f64 / within_ns.max(1) as f64;
                f64::from(by_ppb) * (1.0 - (-times).exp())
            }
        }
    }
}

/// What can happen to a clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockEvent {
    /// The device sleeps and its clock stands still, and nobody is told: not the program either, which simply
    /// gets no processor. Whoever reads the clock meanwhile is blocked until it runs again.
    Sleep { after_ns: i64, for_ns: i64 },
    /// The device goes off and comes back with a new boot id and a clock near zero.
    Reboot { after_ns: i64, down_ns: i64 },
}

/// Why a plan is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClockPlanError {
    #[error(
        "skew and wander come to {found_ppb} ppb; a clock that a hub can follow stays within {limit_ppb} ppb"
    )]
    TooFast { found_ppb: u64, limit_ppb: u64 },
    #[error("an event at {after_ns} ns for {for_ns} ns: neither may be negative")]
    NegativeTime { after_ns: i64, for_ns: i64 },
}

impl ClockPlan {
    /// A phone's clock: offset of hours to weeks, up to 40 ppm of skew, 2 ppm of wander, nothing that happens.
    pub fn believable(seed: u64) -> Self {
        let seed = random::branch(seed, "clock");
        let hours = 1 + random::hash(seed, 0) % 400;
        Self {
            seed,
            first_reading_ns: i64::try_from(
                hours * 3_600_000_000_000 + random::hash(seed, 1) % 3_600_000_000_000,
            )
            .expect("400 hours fit"),
            skew_ppb: i32::try_from(random::hash(seed, 2) % 80_001).expect("under 80,001") - 40_000,
            wander_ppb: 2_000,
            walk: Walk::Drawn,
            warmth: Vec::new(),
            events: Vec::new(),
        }
    }

    fn check(&self) -> Result<(), ClockPlanError> {
        let found_ppb = u64::from(self.skew_ppb.unsigned_abs()) + u64::from(self.wander_ppb);
        if found_ppb > RATE_ERROR_PPB_MAX {
            return Err(ClockPlanError::TooFast {
                found_ppb,
                limit_ppb: RATE_ERROR_PPB_MAX,
            });
        }
        for event in &self.events {
            let (ClockEvent::Sleep { after_ns, for_ns }
            | ClockEvent::Reboot {
                after_ns,
                down_ns: for_ns,
            }) = *event;
            if after_ns < 0 || for_ns < 0 {
                return Err(ClockPlanError::NegativeTime { after_ns, for_ns });
            }
        }
        Ok(())
    }
}

/// One life of the clock, from power-on to power-off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    pub boot_id: BootId,
    pub from_true_ns: i64,
    pub first_reading_ns: i64,
}

/// The lying clock.
pub struct LyingClock {
    truth: Arc<dyn TrueTime>,
    path: Mutex<Path>,
}

impl LyingClock {
    pub fn new(plan: &ClockPlan, truth: Arc<dyn TrueTime>) -> Result<Self, ClockPlanError> {
        plan.check()?;
        let path = Path::new(plan, truth.true_ns());
        Ok(Self {
            truth,
            path: Mutex::new(path),
        })
    }

    /// True time at the moment, in nanoseconds.
    pub fn true_now_ns(&self) -> i64 {
        self.truth.true_ns()
    }

    /// The true time at which the clock showed `device_ns` in the life `boot_id`: the last one, so that a stamp
    /// taken right after a sleep is put after it. None if it never did so up to now.
    pub fn true_ns(&self, device_ns: i64, boot_id: BootId) -> Option<i64> {
        let now_ns = self.truth.true_ns();
        let mut path = self.path();
        path.extend_to(now_ns);
        path.last_true_ns(device_ns, boot_id, now_ns)
    }

    /// The reading and the life at a true time; None before the clock was made, after now, and while it was off.
    pub fn reading_at(&self, true_ns: i64) -> Option<(i64, BootId)> {
        let now_ns = self.truth.true_ns();
        let mut path = self.path();
        path.extend_to(now_ns);
        (true_ns <= now_ns).then(|| path.reading_at(true_ns)).flatten()
    }

    /// All lives so far, the oldest first.
    pub fn lives(&self) -> Vec<Life> {
        let now_ns = self.truth.true_ns();
        let mut path = self.path();
        path.extend_to(now_ns);
        path.lives.iter().map(|life| life.life).collect()
    }

    /// Reboots the device now.
    pub fn reboot(&self, down_ns: i64) {
        self.disturb(|path, now_ns| path.plan_reboot(now_ns, down_ns.max(0)));
    }

    /// Lets the device sleep silently from now on.
    pub fn sleep(&self, for_ns: i64) {
        self.disturb(|path, now_ns| path.plan_sleep(now_ns, for_ns.max(0)));
    }

    /// Blocks while the device sleeps or is off, then tells the reading and the life that it belongs to.
    pub fn read(&self) -> (i64, BootId) {
        loop {
            let now_ns = self.truth.true_ns();
            let wake_ns = {
                let mut path = self.path();
                path.extend_to(now_ns);
                match path.stopped_until_ns() {
                    None => return path.reading_at(now_ns).expect("a running clock has a reading"),
                    Some(wake_ns) => wake_ns,
                }
            };
            self.truth.wait_until(wake_ns);
        }
    }

    fn disturb(&self, plan: impl FnOnce(&mut Path, i64)) {
        let now_ns = self.truth.true_ns();
        let mut path = self.path();
        path.extend_to(now_ns);
        plan(&mut path, now_ns);
    }

    fn path(&self) -> MutexGuard<'_, Path> {
        self.path.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DeviceClock for LyingClock {
    fn now_ns(&self) -> i64 {
        self.read().0
    }

    fn boot_id(&self) -> BootId {
        self.read().1
    }
}

impl std::fmt::Debug for LyingClock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LyingClock")
            .field("lives", &self.path().lives.len())
            .finish_non_exhaustive()
    }
}

/// The pieces laid down so far. Pieces never change once laid; time only adds to them.
#[derive(Debug)]
struct Path {
    seed: u64,
    skew_ppb: i64,
    wander_bound_ppb: f64,
    wander_ppb: f64,
    walk: Walk,
    warmth: Vec<Warmth>,
    warmth_ppb: f64,
    origin_ns: i64,
    steps: u64,
    pieces: Vec<Piece>,
    lives: Vec<LifePieces>,
    changes: VecDeque<(i64, Change)>,
}

#[derive(Debug, Clone, Copy)]
struct Piece {
    true_ns: i64,
    reading_ns: i64,
    pace: Pace,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    Running { error_ppb: i64 },
    Asleep,
    Off,
}

#[derive(Debug, Clone, Copy)]
enum Change {
    Sleep,
    Wake,
    Off,
    Boot,
}

#[derive(Debug)]
struct LifePieces {
    life: Life,
    first_piece: usize,
}

impl Piece {
    fn reading_at(&self, true_ns: i64) -> i64 {
        let dt_ns = true_ns - self.true_ns;
        match self.pace {
            Pace::Running { error_ppb } => self.reading_ns + dt_ns + scaled(dt_ns, error_ppb),
            Pace::Asleep | Pace::Off => self.reading_ns,
        }
    }

    /// The last true time at which a running piece, if it went on for ever, shows at most `reading_ns`.
    fn last_true_ns(&self, reading_ns: i64, error_ppb: i64) -> i64 {
        let run_ns = i128::from(reading_ns - self.reading_ns);
        let guess_ns = run_ns * PPB / (PPB + i128::from(error_ppb));
        let mut true_ns = self.true_ns + i64::try_from(guess_ns).expect("a time span fits 64 bits");
        while self.reading_at(true_ns) > reading_ns {
            true_ns -= 1;
        }
        while self.reading_at(true_ns + 1) <= reading_ns {
            true_ns += 1;
        }
        true_ns
    }
}

impl Path {
    fn new(plan: &ClockPlan, origin_ns: i64) -> Self {
        let mut path = Self {
            seed: plan.seed,
            skew_ppb: i64::from(plan.skew_ppb),
            wander_bound_ppb: f64::from(plan.wander_ppb),
            wander_ppb: 0.0,
            walk: plan.walk,
            warmth: plan.warmth.clone(),
            warmth_ppb: plan.warmth.iter().map(|warmth| warmth.at(0)).sum(),
            origin_ns,
            steps: 0,
            pieces: Vec::new(),
            lives: Vec::new(),
            changes: VecDeque::new(),
        };
        path.begin_life(origin_ns, plan.first_reading_ns);
        let mut events = plan.events.clone();
        events.sort_by_key(|event| match *event {
            ClockEvent::Sleep { after_ns, .. } | ClockEvent::Reboot { after_ns, .. } => after_ns,
        });
        for event in events {
            match event {
                ClockEvent::Sleep { after_ns, for_ns } => path.plan_sleep(origin_ns + after_ns, for_ns),
                ClockEvent::Reboot { after_ns, down_ns } => path.plan_reboot(origin_ns + after_ns, down_ns),
            }
        }
        path
    }

    fn plan_sleep(&mut self, at_ns: i64, for_ns: i64) {
        self.plan_pair(at_ns, for_ns, Change::Sleep, Change::Wake);
    }

    fn plan_reboot(&mut self, at_ns: i64, down_ns: i64) {
        self.plan_pair(at_ns, down_ns, Change::Off, Change::Boot);
    }

    /// Puts a pair of changes after the pairs that begin before it, and pushes the later ones back if needed.
    fn plan_pair(&mut self, at_ns: i64, for_ns: i64, begin: Change, end: Change) {
        let mut pairs = Vec::new();
        let mut lone_end = None;
        let mut waiting = std::mem::take(&mut self.changes);
        if waiting.len() % 2 == 1 {
            lone_end = waiting.pop_front();
        }
        while let (Some(first), Some(second)) = (waiting.pop_front(), waiting.pop_front()) {
            pairs.push((first.0, second.0 - first.0, first.1, second.1));
        }
        let place = pairs.partition_point(|pair| pair.0 <= at_ns);
        pairs.insert(place, (at_ns, for_ns, begin, end));
        let mut free_ns = lone_end.map_or(i64::MIN, |end| end.0);
        self.changes.extend(lone_end);
        for (at_ns, for_ns, begin, end) in pairs {
            let at_ns = at_ns.max(free_ns);
            free_ns = at_ns + for_ns;
            self.changes.push_back((at_ns, begin));
            self.changes.push_back((free_ns, end));
        }
    }

    fn extend_to(&mut self, now_ns: i64) {
        loop {
            let steps = i64::try_from(self.steps + 1).expect("seconds fit 64 bits");
            let step_ns = self.origin_ns + steps * WANDER_STEP_NS;
            match self.changes.front().copied() {
                Some((at_ns, change)) if at_ns <= step_ns => {
                    if at_ns > now_ns {
                        return;
                    }
                    self.changes.pop_front();
                    self.apply(at_ns, change);
                }
                _ if step_ns > now_ns => return,
                _ => self.wander(step_ns),
            }
        }
    }

    fn apply(&mut self, at_ns: i64, change: Change) {
        match change {
            Change::Sleep => self.lay(at_ns, Pace::Asleep),
            Change::Off => self.lay(at_ns, Pace::Off),
            Change::Wake => self.lay(at_ns, self.running()),
            Change::Boot => {
                let reading_ns = BOOT_READING_NS
                    + i64::try_from(random::hash(self.seed, at_ns.cast_unsigned()) >> 34)
                        .expect("30 bits fit");
                self.begin_life(at_ns, reading_ns);
            }
        }
    }

    fn wander(&mut self, at_ns: i64) {
        self.steps += 1;
        let (kept, step_ppb) = match self.walk {
            Walk::Drawn => (0.999, self.wander_bound_ppb / 50.0),
            Walk::Free { step_ppt } => (1.0, f64::from(step_ppt) / 1e3),
        };
        let step_ppb = step_ppb * random::normal(self.seed, self.steps);
        self.wander_ppb =
            (self.wander_ppb * kept + step_ppb).clamp(-self.wander_bound_ppb, self.wander_bound_ppb);
        let since_ns = at_ns - self.origin_ns;
        self.warmth_ppb = self.warmth.iter().map(|warmth| warmth.at(since_ns)).sum();
        if matches!(self.piece().pace, Pace::Running { .. }) {
            self.lay(at_ns, self.running());
        }
    }

    fn running(&self) -> Pace {
        #[allow(clippy::cast_possible_truncation)]
        let wander_ppb = (self.wander_ppb + self.warmth_ppb).trunc() as i64;
        Pace::Running {
            error_ppb: (self.skew_ppb + wander_ppb).clamp(
                -RATE_ERROR_PPB_MAX.cast_signed(),
                RATE_ERROR_PPB_MAX.cast_signed(),
            ),
        }
    }

    fn lay(&mut self, at_ns: i64, pace: Pace) {
        let reading_ns = self.piece().reading_at(at_ns);
        self.pieces.push(Piece {
            true_ns: at_ns,
            reading_ns,
            pace,
        });
    }

    fn begin_life(&mut self, at_ns: i64, reading_ns: i64) {
        let ordinal = self.lives.len() as u64;
        let mut boot_id = [0; 16];
        boot_id[..8].copy_from_slice(&random::hash(self.seed, ordinal).to_le_bytes());
        boot_id[8..].copy_from_slice(&random::hash(!self.seed, at_ns.cast_unsigned()).to_le_bytes());
        let life = Life {
            boot_id,
            from_true_ns: at_ns,
            first_reading_ns: reading_ns,
        };
        self.lives.push(LifePieces {
            life,
            first_piece: self.pieces.len(),
        });
        self.pieces.push(Piece {
            true_ns: at_ns,
            reading_ns,
            pace: self.running(),
        });
    }

    fn piece(&self) -> &Piece {
        self.pieces
            .last()
            .expect("a path has a piece from its first moment on")
    }

    fn stopped_until_ns(&self) -> Option<i64> {
        match self.piece().pace {
            Pace::Running { .. } => None,
            Pace::Asleep | Pace::Off => Some(
                self.changes
                    .front()
                    .expect("a stop is planned together with its end")
                    .0,
            ),
        }
    }

    fn reading_at(&self, true_ns: i64) -> Option<(i64, BootId)> {
        let piece = self
            .pieces
            .partition_point(|piece| piece.true_ns <= true_ns)
            .checked_sub(1)?;
        let life = self.lives.partition_point(|life| life.first_piece <= piece) - 1;
        let (piece, life) = (&self.pieces[piece], &self.lives[life]);
        (piece.pace != Pace::Off).then(|| (piece.reading_at(true_ns), life.life.boot_id))
    }

    fn last_true_ns(&self, reading_ns: i64, boot_id: BootId, now_ns: i64) -> Option<i64> {
        let life = self.lives.iter().position(|life| life.life.boot_id == boot_id)?;
        let end = self
            .lives
            .get(life + 1)
            .map_or(self.pieces.len(), |next| next.first_piece);
        let pieces = &self.pieces[self.lives[life].first_piece..end];
        let at = pieces
            .partition_point(|piece| piece.reading_ns <= reading_ns)
            .checked_sub(1)?;
        match pieces[at].pace {
            Pace::Running { error_ppb } => {
                let true_ns = pieces[at].last_true_ns(reading_ns, error_ppb);
                // A rate above one skips readings: one that lies between two pieces belongs to the earlier.
                let true_ns = pieces
                    .get(at + 1)
                    .map_or(true_ns, |next| true_ns.min(next.true_ns));
                // A rate below one shows a reading twice, and now may be the first time.
                (true_ns <= now_ns || pieces[at].reading_at(now_ns) == reading_ns)
                    .then(|| true_ns.min(now_ns))
            }
            // Shown until the clock stopped for good, or still standing: the moment at which it stopped.
            Pace::Asleep | Pace::Off => (pieces[at].reading_ns == reading_ns).then_some(pieces[at].true_ns),
        }
    }
}

/// floor(dt * ppb / 10^9).
fn scaled(dt_ns: i64, error_ppb: i64) -> i64 {
    let product = i128::from(dt_ns) * i128::from(error_ppb);
    i64::try_from(product.div_euclid(PPB)).expect("a fraction of a time span fits 64 bits")
}

const PPB: i128 = 1_000_000_000;
const RATE_ERROR_PPB_MAX: u64 = 95_000;
const WANDER_STEP_NS: i64 = 1_000_000_000;
/// A device is up for a while before a program runs on it.
const BOOT_READING_NS: i64 = 2_000_000_000;

#[cfg(test)]
#[path = "clock_tests.rs"]
mod tests;
