//! What the clock model is told, and its reduction to one-way facts.
//!
//! Owns the public evidence types and the checks on raw stamps. It decides nothing about time: a fact that passes
//! here is a true statement about two clocks if the stamps were true.
//!
//! Invariants: every stamp of a fact lies within `STAMP_LIMIT_NS`, so that differences of stamps do not overflow;
//! whatever is dropped is counted; facts are sorted by device time, and equal evidence gives equal order.

use std::collections::BTreeMap;

use super::interval::{Drift, Interval};
use marey_format::clock::{ProbeKind, ProbeRow};

/// One clock exchange or one half of it. All stamps in nanoseconds: `dev_*` of the device's clock, `hub_*` of the
/// hub's monotonic clock within `hub_epoch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row {
    /// A whole exchange, whoever began it: begun by the hub, `dev_recv <= dev_send`; by the device,
    /// `dev_send <= dev_recv`. Both give the same two facts.
    Exchange {
        hub_epoch: u64,
        dev_send: i64,
        hub_recv: i64,
        hub_send: i64,
        dev_recv: i64,
    },
    /// Something that left the device at `dev_send` or later than that, and was at the hub by `hub_recv`. Any
    /// device stamp that provably precedes an arrival serves: that of a frame's last sample, if there is no better.
    Up {
        hub_epoch: u64,
        dev_send: i64,
        hub_recv: i64,
    },
    /// Something that left the hub at `hub_send` or later, and was at the device by `dev_recv`.
    Down {
        hub_epoch: u64,
        hub_send: i64,
        dev_recv: i64,
    },
    /// What somebody else made of exchanges that nobody kept: at device time `dev_ns` it was `hub_ns`, to within
    /// `error_ns` if that is known. Without it the row helps the estimate, and bounds nothing.
    Told {
        hub_epoch: u64,
        dev_ns: i64,
        hub_ns: i64,
        error_ns: Option<i64>,
    },
}

impl Row {
    /// The life of the hub's clock that it speaks of.
    pub fn hub_epoch(&self) -> u64 {
        match *self {
            Self::Exchange { hub_epoch, .. }
            | Self::Up { hub_epoch, .. }
            | Self::Down { hub_epoch, .. }
            | Self::Told { hub_epoch, .. } => hub_epoch,
        }
    }

    /// What a row of a log's probes says.
    pub fn of_probe(row: &ProbeRow) -> Self {
        let hub_epoch = row.hub_epoch.0;
        match row.kind {
            ProbeKind::Udp | ProbeKind::InBand => Self::Exchange {
                hub_epoch,
                dev_send: row.dev_send_ns,
                hub_recv: row.hub_recv_ns,
                hub_send: row.hub_send_ns,
                dev_recv: row.dev_recv_ns,
            },
            ProbeKind::Ack => Self::Down {
                hub_epoch,
                hub_send: row.hub_send_ns,
                dev_recv: row.dev_recv_ns,
            },
            ProbeKind::Told => Self::Told {
                hub_epoch,
                dev_ns: row.dev_send_ns,
                hub_ns: row.hub_recv_ns,
                error_ns: i64::try_from(row.nonce).ok().filter(|&error_ns| error_ns > 0),
            },
        }
    }
}

/// All that is known of one clock: one boot of a device, or one epoch where the device names no boot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClockEvidence {
    /// The boot id if the device told one, else the epoch id.
    pub key: [u8; 16],
    /// Ordinals of the device's epochs that live on this clock.
    pub epochs: Vec<u32>,
    /// In any order.
    pub rows: Vec<Row>,
}

/// The clocks of one device in one session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceEvidence {
    pub device: String,
    pub clocks: Vec<ClockEvidence>,
}

/// The hub's monotonic clock and its wall clock, read together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WallReading {
    pub hub_epoch: u64,
    pub hub_ns: i64,
    /// POSIX time in nanoseconds.
    pub utc_ns: i64,
    /// What the system claims of its wall clock's error, plus that of reading both clocks.
    pub error_ns: i64,
}

/// Everything that one session's alignment rests on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionEvidence {
    /// Fixes session time: in the anchor's hub epoch it is `utc_ns + (hub_ns - anchor.hub_ns)`, by definition.
    pub anchor: WallReading,
    /// In order of time. Epochs that only rows or readings name are taken to follow these.
    pub hub_epochs: Vec<u64>,
    /// Later readings; never applied within a hub epoch, used where nothing else ties one epoch to another.
    pub walls: Vec<WallReading>,
    pub devices: Vec<DeviceEvidence>,
}

/// Which way a packet went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    /// Device to hub: the offset was at most this.
    Up,
    /// Hub to device: the offset was at least this.
    Down,
    /// Neither: somebody says that the offset was about this.
    Told,
}

/// One one-way fact: at device time `dev_ns`, hub time minus device time was at most (up) or at least (down)
/// `offset_ns`, in the frame of the hub epoch with index `hub`; or about that, as it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Fact {
    pub dev_ns: i64,
    pub side: Side,
    pub offset_ns: i64,
    pub hub: u32,
    /// True for half of an exchange, false for a frame or an ack.
    pub probe: bool,
    /// True for an end of what was told: no packet's delay can be seen in it.
    pub bounds_only: bool,
}

impl Fact {
    /// The fact as an interval of the offset at `dev_ns`, widened by what the stamps may be off.
    pub fn interval(&self, resolution_ns: i64) -> Interval {
        match self.side {
            Side::Up => Interval::at_most(self.offset_ns).widen(resolution_ns),
            Side::Down => Interval::at_least(self.offset_ns).widen(resolution_ns),
            Side::Told => Interval::ALL,
        }
    }
}

/// The evidence of one clock, checked and sorted.
#[derive(Debug)]
pub(super) struct Facts {
    pub facts: Vec<Fact>,
    /// The step of the device's clock: what it shows, or the assumed least.
    pub resolution_ns: i64,
    /// Rows with impossible stamps.
    pub dropped: u64,
}

/// Turns the rows of one clock into facts. `hubs` numbers the hub epochs.
pub(super) fn reduce(rows: &[Row], hubs: &BTreeMap<u64, u32>, drift: Drift, resolution_ns: i64) -> Facts {
    let resolution_ns = tick_ns(rows).max(resolution_ns.clamp(0, STAMP_LIMIT_NS));
    let mut facts = Vec::with_capacity(rows.len().saturating_mul(2));
    let mut dropped = 0;
    for row in rows {
        let added = match *row {
            Row::Up {
                hub_epoch,
                dev_send,
                hub_recv,
            } => fact(hubs, hub_epoch, Side::Up, dev_send, hub_recv, false).map(|up| facts.push(up)),
            Row::Down {
                hub_epoch,
                hub_send,
                dev_recv,
            } => fact(hubs, hub_epoch, Side::Down, dev_recv, hub_send, false).map(|down| facts.push(down)),
            Row::Exchange {
                hub_epoch,
                dev_send,
                hub_recv,
                hub_send,
                dev_recv,
            } => {
                let up = fact(hubs, hub_epoch, Side::Up, dev_send, hub_recv, true);
                let down = fact(hubs, hub_epoch, Side::Down, dev_recv, hub_send, true);
                up.zip(down)
                    .filter(|(up, down)| round_trip_possible(up, down, drift, resolution_ns))
                    .map(|(up, down)| {
                        facts.push(up);
                        facts.push(down);
                    })
            }
            Row::Told {
                hub_epoch,
                dev_ns,
                hub_ns,
                error_ns,
            } => {
                let end = |side, by_ns: i64| {
                    fact(hubs, hub_epoch, side, dev_ns, hub_ns.saturating_add(by_ns), false)
                };
                let told = end(Side::Told, 0).filter(|_| error_ns.is_none_or(|error_ns| error_ns >= 0));
                told.map(|told| {
                    facts.push(told);
                    let ends = error_ns.and_then(|error_ns| {
                        end(Side::Up, error_ns).zip(end(Side::Down, error_ns.saturating_neg()))
                    });
                    let ends = ends.into_iter().flat_map(|(up, down)| [up, down]);
                    facts.extend(ends.map(|end| Fact {
                        bounds_only: true,
                        ..end
                    }));
                })
            }
        };
        dropped += u64::from(added.is_none());
    }
    facts.sort_unstable();
    Facts {
        facts,
        resolution_ns,
        dropped,
    }
}

/// Numbers the hub epochs: the anchor's first, then as listed, then as met. The order is that of time.
pub(super) fn number_hub_epochs(evidence: &SessionEvidence) -> (Vec<u64>, BTreeMap<u64, u32>) {
    let walls = evidence.walls.iter().map(|wall| wall.hub_epoch);
    let rows = evidence
        .devices
        .iter()
        .flat_map(|device| &device.clocks)
        .flat_map(|clock| &clock.rows)
        .map(Row::hub_epoch);
    let known = evidence
        .hub_epochs
        .iter()
        .copied()
        .chain([evidence.anchor.hub_epoch]);
    let (mut order, mut index) = (Vec::new(), BTreeMap::new());
    let mut add = |hub: u64, order: &mut Vec<u64>| {
        index.entry(hub).or_insert_with(|| {
            order.push(hub);
            (order.len() - 1) as u32
        });
    };
    known.for_each(|hub| add(hub, &mut order));
    let most = order.len() + UNLISTED_HUB_EPOCHS;
    walls.chain(rows).for_each(|hub| {
        if order.len() < most {
            add(hub, &mut order);
        }
    });
    (order, index)
}

/// So many hub epochs are taken from rows and readings alone; rows of further ones are dropped. A hub does not boot
/// that often within a session without noting it.
const UNLISTED_HUB_EPOCHS: usize = 256;

/// Stamps beyond this (146 years) are taken for damage: differences of two stamps then never overflow.
pub(super) const STAMP_LIMIT_NS: i64 = (1 << 62) - 1;

fn fact(
    hubs: &BTreeMap<u64, u32>,
    hub_epoch: u64,
    side: Side,
    dev_ns: i64,
    hub_ns: i64,
    probe: bool,
) -> Option<Fact> {
    let sane = |stamp: i64| stamp.unsigned_abs() <= STAMP_LIMIT_NS.unsigned_abs();
    let hub = *hubs.get(&hub_epoch)?;
    (sane(dev_ns) && sane(hub_ns)).then(|| Fact {
        dev_ns,
        side,
        offset_ns: hub_ns - dev_ns,
        hub,
        probe,
        bounds_only: false,
    })
}

/// An exchange cannot have taken less than no time, whatever the drift between its two device stamps.
///
/// A device that slept within an exchange of its own also shows a negative round trip. Such an exchange is
/// dropped as well: evidence left out only widens, and the next exchange tells of the sleep.
fn round_trip_possible(up: &Fact, down: &Fact, drift: Drift, resolution_ns: i64) -> bool {
    let slack = drift
        .spread(up.dev_ns.abs_diff(down.dev_ns))
        .saturating_add(resolution_ns.saturating_mul(2));
    down.offset_ns.saturating_sub(up.offset_ns) <= slack
}

/// The step of the device's clock as its stamps betray it, or 1 where they betray nothing.
///
/// A clock that counts milliseconds, or 1/32768 s, stamps multiples of its step only. With fewer than eight
/// different stamps a common step may be chance, and nothing is claimed.
fn tick_ns(rows: &[Row]) -> i64 {
    let mut stamps: Vec<i64> = Vec::with_capacity(rows.len());
    for row in rows {
        match *row {
            Row::Exchange {
                dev_send, dev_recv, ..
            } => stamps.extend([dev_send, dev_recv]),
            Row::Up { dev_send, .. } => stamps.push(dev_send),
            Row::Down { dev_recv, .. } => stamps.push(dev_recv),
            // When somebody took stock, which may well be every five seconds sharp: no stamp of a packet.
            Row::Told { .. } => {}
        }
    }
    stamps.sort_unstable();
    stamps.dedup();
    let Some((&first, rest)) = stamps.split_first() else {
        return 1;
    };
    if rest.len() < 7 {
        return 1;
    }
    let steps = || rest.iter().map(|&stamp| stamp.abs_diff(first));
    let decimal = steps().fold(0, common_divisor);
    if decimal > 2 {
        return i64::try_from(decimal).unwrap_or(i64::MAX).min(COARSEST_TICK_NS);
    }
    let counts = |hertz: u64| steps().all(|step| is_on_grid(step, hertz));
    match COUNTERS_HZ.map(|power| 1 << power).find(|&hertz| counts(hertz)) {
        Some(hertz) => (1_000_000_000 / hertz) as i64 + 2,
        None => 1,
    }
}

/// Powers of two at which counters of clocks run, in Hz.
pub(super) const COUNTERS_HZ: std::ops::RangeInclusive<u32> = 5..=15;

/// Whether two stamps of a counter, each rounded to a whole nanosecond, can lie so far apart: within 2 ns of a multiple of
/// its step.
pub(super) fn is_on_grid(apart_ns: u64, hertz: u64) -> bool {
    let phase = (u128::from(apart_ns) * u128::from(hertz)) % 1_000_000_000;
    phase <= 2 * u128::from(hertz) || phase + 2 * u128::from(hertz) >= 1_000_000_000
}

const COARSEST_TICK_NS: i64 = 1_000_000_000;

fn common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hubs() -> BTreeMap<u64, u32> {
        BTreeMap::from([(7, 0)])
    }

    fn reduced(rows: &[Row]) -> Facts {
        reduce(rows, &hubs(), Drift::from_ppm(100.0), 1_000)
    }

    #[test]
    fn an_exchange_gives_the_same_two_facts_whoever_begins_it() {
        // The hub is 1 s ahead of the device; each way takes 1 ms.
        let by_hub = Row::Exchange {
            hub_epoch: 7,
            hub_send: 2_000_000_000,
            dev_recv: 1_001_000_000,
            dev_send: 1_001_500_000,
            hub_recv: 2_002_500_000,
        };
        let by_device = Row::Exchange {
            hub_epoch: 7,
            dev_send: 1_000_000_000,
            hub_recv: 2_001_000_000,
            hub_send: 2_001_500_000,
            dev_recv: 1_002_500_000,
        };
        for row in [by_hub, by_device] {
            let facts = reduced(&[row]).facts;
            let offset = |side| {
                facts
                    .iter()
                    .find(|fact| fact.side == side)
                    .map(|fact| fact.offset_ns)
            };
            assert_eq!(offset(Side::Up), Some(1_001_000_000));
            assert_eq!(offset(Side::Down), Some(999_000_000));
        }
    }

    #[test]
    fn impossible_rows_are_dropped_and_counted() {
        let facts = reduced(&[
            Row::Exchange {
                hub_epoch: 7,
                dev_send: 0,
                hub_recv: 0,
                hub_send: 50_000,
                dev_recv: 10_000,
            },
            Row::Up {
                hub_epoch: 7,
                dev_send: i64::MIN,
                hub_recv: 0,
            },
            Row::Down {
                hub_epoch: 7,
                hub_send: i64::MAX,
                dev_recv: 0,
            },
            Row::Up {
                hub_epoch: 8,
                dev_send: 0,
                hub_recv: 0,
            },
        ]);
        assert_eq!((facts.facts.len(), facts.dropped), (0, 4));
    }

    #[test]
    fn a_coarse_clock_is_seen_in_its_stamps() {
        let up = |dev_send: i64| Row::Up {
            hub_epoch: 7,
            dev_send,
            hub_recv: 0,
        };
        let milliseconds: Vec<Row> = (0..20).map(|i| up(17 + i * i * 1_000_000)).collect();
        assert_eq!(reduced(&milliseconds).resolution_ns, 1_000_000);
        let crystal: Vec<Row> = (0..20i64)
            .map(|i| up(5 + (i * i * 31 * 1_000_000_000) / 32_768))
            .collect();
        assert_eq!(reduced(&crystal).resolution_ns, 30_519);
        let fine: Vec<Row> = (0..20).map(|i| up(i * i * 1_000_003 + i % 3)).collect();
        assert_eq!(reduced(&fine).resolution_ns, 1_000);
        assert_eq!(reduced(&milliseconds[..5]).resolution_ns, 1_000);
    }
}
