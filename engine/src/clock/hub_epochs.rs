//! Ties the hub's own epochs together: what has to be added to hub time of each to get session time.
//!
//! Owns the offset `H_k` of every hub epoch (session time = hub time + `H_k`), as an interval and an estimate. It
//! sees ties, not evidence: who makes them is `lives`.
//!
//! Within one hub epoch hub time runs true, and the anchor fixes the first one by definition. A device clock that
//! lived through a reboot of the hub bounds the difference of two epochs from both sides, and every such clock
//! does so on its own. Clocks can contradict each other: one of them slept while the hub was away, which nobody
//! could see from that clock alone. Then the interval in which most clocks agree is taken (Marzullo 1984), if it
//! is a strict majority; if it is not, the hull of all of them, so that the truth is inside if any one is right.
//!
//! Where no clock lived through, wall readings serve, with the uncertainty that they state: that is no hard bound,
//! and it is flagged. Invariant: a later epoch that rests on another has at least the other's width.

use std::collections::BTreeMap;

use super::evidence::WallReading;
use super::interval::{Drift, Interval, float_up};

/// How a hub epoch was put on session time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TiedBy {
    /// By definition.
    Anchor,
    /// By this many device clocks that lived through the reboot.
    Devices(u32),
    /// By wall clocks: the half-width is what they claim, nothing more.
    Wall,
    /// By nothing; the estimate is only an order.
    Nothing,
}

/// One hub epoch: session time = hub time + `offset_ns`, within `half_width_ns`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HubEpoch {
    pub hub_epoch: u64,
    pub offset_ns: i64,
    /// 0 for the anchor's epoch, infinite where nothing ties this one.
    pub half_width_ns: f64,
    pub tied_by: TiedBy,
    /// False where a wall clock's word is somewhere in the chain that leads here.
    pub hard: bool,
    /// True where device clocks contradicted each other and no majority settled it: all of them are covered.
    pub disputed: bool,
    pub(super) interval: Interval,
}

/// What one life of one device clock says of two hub epochs: `H_to - H_from` lies in `difference`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tie {
    pub clock: u32,
    pub from: u32,
    pub to: u32,
    pub difference: Interval,
    pub estimate_ns: i64,
}

/// What is known of the hub epochs beside the ties.
#[derive(Debug)]
pub(super) struct Surroundings<'a> {
    /// In order of time; a tie's numbers are places in this list.
    pub hub_epochs: &'a [u64],
    pub anchor: WallReading,
    pub walls: &'a [WallReading],
    /// First and last hub stamp seen in each epoch.
    pub seen: &'a [Option<(i64, i64)>],
    pub drift: Drift,
}

/// The offsets of all hub epochs, in the order of `hub_epochs`.
pub(super) fn resolve(around: &Surroundings<'_>, ties: &[Tie]) -> Vec<HubEpoch> {
    let ties = &Ties::index(ties, around.hub_epochs.len());
    let walls = &Walls::index(around);
    let mut offsets: Vec<Option<HubEpoch>> = vec![None; around.hub_epochs.len()];
    let anchor = around
        .hub_epochs
        .iter()
        .position(|&hub| hub == around.anchor.hub_epoch);
    if let Some(first) = anchor {
        let offset_ns = around.anchor.utc_ns.saturating_sub(around.anchor.hub_ns);
        offsets[first] = Some(HubEpoch {
            hub_epoch: around.anchor.hub_epoch,
            offset_ns,
            half_width_ns: 0.0,
            tied_by: TiedBy::Anchor,
            hard: true,
            disputed: false,
            interval: Interval::exactly(offset_ns),
        });
    }
    let mut dissent = vec![false; ties.all.len()];
    while let Some(open) = offsets.iter().position(Option::is_none) {
        let by_devices = (0..offsets.len())
            .filter(|&epoch| offsets[epoch].is_none())
            .find_map(|epoch| {
                tie_by_devices(epoch, around, ties, &offsets, &mut dissent).map(|tied| (epoch, tied))
            });
        let by_wall = || {
            (0..offsets.len())
                .filter(|&epoch| offsets[epoch].is_none())
                .find_map(|epoch| {
                    tie_by_walls(epoch, around, walls, ties, &offsets).map(|tied| (epoch, tied))
                })
        };
        let (epoch, tied) = by_devices
            .or_else(by_wall)
            .unwrap_or_else(|| (open, follow_on(open, around, ties, &offsets)));
        offsets[epoch] = Some(tied);
    }
    let mut offsets: Vec<HubEpoch> = offsets.into_iter().flatten().collect();
    tighten(&mut offsets, ties, &mut dissent);
    offsets
}

/// How often bounds are passed along the chain of epochs once all are placed; each pass only narrows.
const TIGHTENING_PASSES: usize = 4;

/// The ties, and for each epoch those that touch it.
struct Ties<'a> {
    all: &'a [Tie],
    touching: Vec<Vec<usize>>,
}

impl<'a> Ties<'a> {
    fn index(all: &'a [Tie], epochs: usize) -> Self {
        let mut touching = vec![Vec::new(); epochs];
        for (place, tie) in all.iter().enumerate() {
            touching[tie.from as usize].push(place);
            touching[tie.to as usize].push(place);
        }
        Self { all, touching }
    }

    fn of(&self, epoch: usize) -> impl Iterator<Item = (usize, &Tie)> {
        self.touching[epoch]
            .iter()
            .map(|&place| (place, &self.all[place]))
    }
}

/// What `tie` says of `epoch`, given the epoch at its other end.
fn implied(tie: &Tie, epoch: usize, offsets: &[Option<HubEpoch>]) -> Option<(Interval, i64, bool)> {
    let (other, difference, estimate_ns) = if tie.to as usize == epoch {
        (tie.from, tie.difference, tie.estimate_ns)
    } else if tie.from as usize == epoch {
        (tie.to, tie.difference.negated(), tie.estimate_ns.saturating_neg())
    } else {
        return None;
    };
    let other = offsets.get(other as usize).copied().flatten()?;
    Some((
        other.interval.plus(difference),
        other.offset_ns.saturating_add(estimate_ns),
        other.hard && !other.interval.is_unknown(),
    ))
}

/// One clock's word on an epoch: all its ties together.
struct Vote {
    interval: Interval,
    estimate_ns: i64,
    hard: bool,
}

fn votes(epoch: usize, ties: &Ties<'_>, offsets: &[Option<HubEpoch>]) -> BTreeMap<u32, Vote> {
    let mut votes: BTreeMap<u32, Vote> = BTreeMap::new();
    for (_, tie) in ties.of(epoch) {
        let Some((interval, estimate_ns, hard)) = implied(tie, epoch, offsets) else {
            continue;
        };
        votes
            .entry(tie.clock)
            .and_modify(|vote| {
                if interval.width() < vote.interval.width() {
                    (vote.estimate_ns, vote.hard) = (estimate_ns, hard);
                }
                let both = vote.interval.meet(interval);
                // A clock at odds with itself: cover both.
                vote.interval = if both.is_empty() {
                    vote.interval.hull(interval)
                } else {
                    both
                };
            })
            .or_insert(Vote {
                interval,
                estimate_ns,
                hard,
            });
    }
    votes
}

fn tie_by_devices(
    epoch: usize,
    around: &Surroundings<'_>,
    ties: &Ties<'_>,
    offsets: &[Option<HubEpoch>],
    dissent: &mut [bool],
) -> Option<HubEpoch> {
    let mut by_clock = votes(epoch, ties, offsets);
    by_clock.retain(|_, vote| vote.interval.is_bounded());
    let votes: Vec<&Vote> = by_clock.values().collect();
    let first = *votes.first()?;
    let (most, region) = largest_agreement(&votes);
    let settled = most == votes.len() || 2 * most > votes.len();
    let hull = || {
        votes
            .iter()
            .map(|vote| vote.interval)
            .fold(first.interval, Interval::hull)
    };
    let interval = if settled { region } else { hull() };
    let agrees = |vote: &Vote| !vote.interval.meet(interval).is_empty();
    for (place, tie) in ties.of(epoch) {
        dissent[place] |= by_clock.get(&tie.clock).is_some_and(|vote| !agrees(vote));
    }
    // Weights as of independent errors in proportion to the widths.
    let (mut sum, mut weights) = (0.0, 0.0);
    let base = first.estimate_ns;
    for vote in votes.iter().filter(|vote| agrees(vote)) {
        let width = vote.interval.width() as f64 + 1.0;
        let weight = 1.0 / (width * width);
        sum += weight * (vote.estimate_ns.saturating_sub(base) as f64);
        weights += weight;
    }
    let mean = if weights > 0.0 { sum / weights } else { 0.0 };
    let offset_ns = interval.clamp(base.saturating_add(libm::round(mean) as i64));
    Some(placed(
        around.hub_epochs[epoch],
        interval,
        offset_ns,
        TiedBy::Devices(most as u32),
        votes.iter().filter(|vote| agrees(vote)).all(|vote| vote.hard),
        !settled,
    ))
}

/// Marzullo's algorithm: how many intervals overlap at most, and the hull of the places where they do.
fn largest_agreement(votes: &[&Vote]) -> (usize, Interval) {
    // Ends sorted by place; an interval opens before another closes at the same place, since both are closed.
    let mut ends: Vec<(i64, bool)> = Vec::with_capacity(votes.len() * 2);
    for vote in votes {
        ends.push((vote.interval.lo, false));
        ends.push((vote.interval.hi, true));
    }
    ends.sort_unstable();
    let (mut overlap, mut most, mut region) = (0usize, 0usize, Interval::ALL);
    for (i, &(place, closes)) in ends.iter().enumerate() {
        if closes {
            overlap -= 1;
            continue;
        }
        overlap += 1;
        let until = ends.get(i + 1).map_or(place, |end| end.0);
        let here = Interval { lo: place, hi: until };
        if overlap > most {
            (most, region) = (overlap, here);
        } else if overlap == most {
            region = region.hull(here);
        }
    }
    (most, region)
}

/// The wall readings of each epoch, the anchor among them: the first and the last ones of many.
struct Walls(BTreeMap<u64, Vec<WallReading>>);

impl Walls {
    fn index(around: &Surroundings<'_>) -> Self {
        let mut by_epoch: BTreeMap<u64, Vec<WallReading>> = BTreeMap::new();
        for wall in [&around.anchor].into_iter().chain(around.walls) {
            by_epoch.entry(wall.hub_epoch).or_default().push(*wall);
        }
        for readings in by_epoch
            .values_mut()
            .filter(|readings| readings.len() > 2 * READINGS_KEPT)
        {
            readings.drain(READINGS_KEPT..readings.len() - READINGS_KEPT);
        }
        Self(by_epoch)
    }

    fn of(&self, hub_epoch: u64) -> &[WallReading] {
        self.0.get(&hub_epoch).map_or(&[], Vec::as_slice)
    }
}

const READINGS_KEPT: usize = 16;

/// By wall readings: each reading of this epoch against those of the anchor's and of the nearest
/// epochs that are placed; the narrowest counts.
fn tie_by_walls(
    epoch: usize,
    around: &Surroundings<'_>,
    walls: &Walls,
    ties: &Ties<'_>,
    offsets: &[Option<HubEpoch>],
) -> Option<HubEpoch> {
    let own = walls.of(around.hub_epochs[epoch]);
    if own.is_empty() {
        return None;
    }
    let serves = |place: usize| {
        offsets[place].filter(|known| known.interval.is_bounded() && !walls.of(known.hub_epoch).is_empty())
    };
    let anchor = (0..offsets.len()).find(|&place| around.hub_epochs[place] == around.anchor.hub_epoch);
    let nearest = [
        (0..epoch).rev().find_map(serves),
        (epoch + 1..offsets.len()).find_map(serves),
        anchor.and_then(serves),
    ];
    let (mut all, mut common) = (None::<Interval>, Interval::ALL);
    let mut best: Option<(u64, i64)> = None;
    for wall in own {
        let against = nearest.iter().flatten().flat_map(|known| {
            walls.of(known.hub_epoch).iter().map(|reference| {
                let elapsed = wall.utc_ns.abs_diff(reference.utc_ns);
                let slack = around
                    .drift
                    .spread(elapsed)
                    .saturating_add(claimed(wall))
                    .saturating_add(claimed(reference));
                // Session time of the reference, plus the wall time since, less this epoch's hub time.
                known
                    .interval
                    .shift(reference.hub_ns)
                    .shift(wall.utc_ns.saturating_sub(reference.utc_ns))
                    .shift(wall.hub_ns.saturating_neg())
                    .widen(slack)
            })
        });
        let Some(interval) = against.min_by_key(|interval| interval.width()) else {
            continue;
        };
        all = Some(all.map_or(interval, |all| all.hull(interval)));
        common = common.meet(interval);
        if best.is_none_or(|(width, _)| interval.width() <= width) {
            best = Some((interval.width(), interval.centre()));
        }
    }
    // Readings that agree narrow each other; where the wall clock was stepped between them, all are covered.
    let mut interval = if common.is_empty() { all? } else { common };
    let (_, centre) = best?;
    // What devices say on one side only is still hard, and outweighs a wall clock.
    for vote in votes(epoch, ties, offsets).values() {
        let both = interval.meet(vote.interval);
        interval = if both.is_empty() {
            interval.hull(vote.interval)
        } else {
            both
        };
    }
    Some(placed(
        around.hub_epochs[epoch],
        interval,
        interval.clamp(centre),
        TiedBy::Wall,
        false,
        false,
    ))
}

/// Nothing is known but the order: the epoch begins where the one before it was last heard of.
fn follow_on(
    epoch: usize,
    around: &Surroundings<'_>,
    ties: &Ties<'_>,
    offsets: &[Option<HubEpoch>],
) -> HubEpoch {
    let before = (0..epoch)
        .rev()
        .find_map(|earlier| Some((offsets[earlier]?, around.seen[earlier])));
    let offset_ns = match (before, around.seen[epoch]) {
        (Some((known, Some((_, last)))), Some((first, _))) => {
            known.offset_ns.saturating_add(last).saturating_sub(first)
        }
        (Some((known, None)), _) | (Some((known, _)), None) => known.offset_ns,
        (None, _) => around.anchor.utc_ns.saturating_sub(around.anchor.hub_ns),
    };
    let known = votes(epoch, ties, offsets)
        .values()
        .map(|vote| vote.interval)
        .fold(Interval::ALL, Interval::meet);
    let interval = if known.is_empty() { Interval::ALL } else { known };
    placed(
        around.hub_epochs[epoch],
        interval,
        interval.clamp(offset_ns),
        TiedBy::Nothing,
        false,
        false,
    )
}

/// Passes bounds along chains once all epochs are placed. Ties at odds with what was settled are left out, and
/// nothing narrows an epoch that is disputed.
fn tighten(offsets: &mut [HubEpoch], ties: &Ties<'_>, dissent: &mut [bool]) {
    for _ in 0..TIGHTENING_PASSES {
        let mut narrowed = false;
        for (tie, dissents) in ties.all.iter().zip(dissent.iter_mut()) {
            let (from, to) = (offsets[tie.from as usize], offsets[tie.to as usize]);
            if *dissents || from.disputed || to.disputed {
                continue;
            }
            let to_new = to.interval.meet(from.interval.plus(tie.difference));
            let from_new = from.interval.meet(to.interval.plus(tie.difference.negated()));
            if to_new.is_empty() || from_new.is_empty() {
                *dissents = true;
                continue;
            }
            for (place, new) in [(tie.to as usize, to_new), (tie.from as usize, from_new)] {
                let epoch = offsets[place];
                if new != epoch.interval && epoch.tied_by != TiedBy::Anchor {
                    narrowed = true;
                    let offset_ns = new.clamp(epoch.offset_ns);
                    offsets[place] = placed(
                        epoch.hub_epoch,
                        new,
                        offset_ns,
                        epoch.tied_by,
                        epoch.hard,
                        epoch.disputed,
                    );
                }
            }
        }
        if !narrowed {
            return;
        }
    }
}

fn placed(
    hub_epoch: u64,
    interval: Interval,
    offset_ns: i64,
    tied_by: TiedBy,
    hard: bool,
    disputed: bool,
) -> HubEpoch {
    let half_width_ns = interval.reach_from(offset_ns).map_or(f64::INFINITY, float_up);
    HubEpoch {
        hub_epoch,
        offset_ns,
        half_width_ns,
        tied_by,
        hard,
        disputed,
        interval,
    }
}

fn claimed(wall: &WallReading) -> i64 {
    wall.error_ns.saturating_abs()
}
