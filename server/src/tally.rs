//! What happens at the door, on its way into the audit log: refusals and connections of devices, counted, so that whoever is
//! refused a thousand times a second, or comes again each second, fills no disk and makes nobody wait.
//!
//! What is done is audited before it is done, by whoever does it. What was refused changes nothing, and neither does a device
//! that connects: it is noted here, in memory, and a thread of `maintenance` writes it within a second; the same again is one
//! record a minute with its count.
//!
//! Bounded: past so many different ones the rest is counted together. What was noted and not written is lost with a hub that is
//! killed, and with nothing else.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use marey_engine::{Actor, AuditEvent, AuditOutcome, Store};

/// What one hub noted.
#[derive(Debug)]
pub(crate) struct Tally {
    store: Arc<Store>,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    refused: BTreeMap<Refused, Count>,
    connected: BTreeMap<Connected, Count>,
}

/// What was refused to whom, and why.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Refused {
    pub actor: Actor,
    pub action: &'static str,
    pub object: Option<String>,
    pub why: String,
}

/// A device that is connected.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Connected {
    /// With the serial of the certificate that it showed.
    pub actor: Actor,
    pub device: String,
    pub from: IpAddr,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    /// Since it was last written.
    new: u64,
    /// When the first of these came.
    since_ns: i64,
    written_ns: Option<i64>,
}

impl Tally {
    pub(crate) fn new(store: Arc<Store>) -> Arc<Self> {
        Arc::new(Self {
            store,
            kept: Mutex::default(),
        })
    }

    /// Something was refused. Never waits for a disk. True for the first of a kind in its minute: the others are only counted.
    pub(crate) fn note(&self, refused: Refused) -> bool {
        let now_ns = self.store.clock().now().ns;
        count(
            &mut self.kept().refused,
            REFUSED_MAX,
            refused,
            now_ns,
            |refused| Refused {
                actor: Actor::Hub,
                object: None,
                why: OTHERS.to_owned(),
                ..refused
            },
        )
    }

    /// A device is connected. Never waits for a disk.
    pub(crate) fn connected(&self, connected: Connected) {
        count(
            &mut self.kept().connected,
            CONNECTED_MAX,
            connected,
            self.store.clock().now().ns,
            |_| Connected {
                actor: Actor::Hub,
                device: OTHERS.to_owned(),
                from: Ipv4Addr::UNSPECIFIED.into(),
            },
        );
    }

    /// Writes what is due; with `all` whatever was not written.
    pub(crate) fn write(&self, all: bool) {
        let now_ns = self.store.clock().now().ns;
        let at_most = if all { usize::MAX } else { AT_ONCE_MAX };
        let (refused, connected) = {
            let mut kept = self.kept();
            // Who is refused comes first: an attack must not wait for a house that comes back after a power cut.
            let refused = due(&mut kept.refused, now_ns, all, at_most);
            let connected = due(&mut kept.connected, now_ns, all, at_most - refused.len());
            (refused, connected)
        };
        for (refused, count) in refused {
            if !self.has_written(&refused.event(count)) {
                self.kept().refused.entry(refused).or_default().again(count);
            }
        }
        for (connected, count) in connected {
            if !self.has_written(&connected.event(count)) {
                self.kept().connected.entry(connected).or_default().again(count);
            }
        }
    }

    fn has_written(&self, event: &AuditEvent) -> bool {
        let written = self.store.audit(event);
        if let Err(error) = &written {
            tracing::debug!(%error, "what happened at the door could not be audited");
        }
        written.is_ok()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts one of a kind, or of all the others where there are too many. True for the first.
fn count<K: Ord>(
    kept: &mut BTreeMap<K, Count>,
    kinds_max: usize,
    kind: K,
    now_ns: i64,
    other: impl FnOnce(K) -> K,
) -> bool {
    let known = kept.len() < kinds_max || kept.contains_key(&kind);
    let key = if known { kind } else { other(kind) };
    let count = kept.entry(key).or_default();
    let is_first = count.new == 0 && count.written_ns.is_none();
    if count.new == 0 {
        count.since_ns = now_ns;
    }
    count.new += 1;
    is_first
}

/// Takes what is to be written now, what has waited longest first.
fn due<K: Ord + Clone>(
    kept: &mut BTreeMap<K, Count>,
    now_ns: i64,
    all: bool,
    at_most: usize,
) -> Vec<(K, u64)> {
    let rested = |count: &Count| count.written_ns.is_none_or(|at| now_ns - at >= REST_NS);
    kept.retain(|_, count| count.new > 0 || !rested(count));
    let is_due = |count: &Count| count.new > 0 && (all || rested(count));
    let mut due: Vec<(&K, &mut Count)> = kept.iter_mut().filter(|(_, count)| is_due(count)).collect();
    due.sort_by_key(|(_, count)| count.since_ns);
    let due = due.into_iter().take(at_most);
    due.map(|(kind, count)| {
        count.written_ns = Some(now_ns);
        (kind.clone(), std::mem::take(&mut count.new))
    })
    .collect()
}

impl Count {
    /// It is still to be told of; what came meanwhile is added.
    fn again(&mut self, count: u64) {
        self.new += count;
        self.written_ns = None;
    }
}

impl Refused {
    fn event(&self, count: u64) -> AuditEvent {
        let mut event = AuditEvent::new(self.actor.clone(), self.action).outcome(AuditOutcome::Denied);
        event.object = self.object.clone();
        event.with("why", self.why.clone()).with("count", count)
    }
}

impl Connected {
    fn event(&self, count: u64) -> AuditEvent {
        AuditEvent::new(self.actor.clone(), CONNECT)
            .on(format!("device/{}", self.device))
            .with("from", self.from.to_string())
            .with("count", count)
    }
}

/// What a device does that comes, whether it is let in or not.
pub(crate) const CONNECT: &str = "device.connect";

/// Different refusals that are told apart.
const REFUSED_MAX: usize = 256;
/// Devices, and addresses that they come from, that are told apart.
const CONNECTED_MAX: usize = 4096;
/// Records of one turn: each is a sync.
const AT_ONCE_MAX: usize = 16;
/// How long the same is only counted after it was written.
const REST_NS: i64 = 60_000_000_000;
/// Where too many came to tell them apart.
const OTHERS: &str = "others besides, too many to tell apart";

#[cfg(test)]
mod tests {
    use super::*;
    use marey_engine::disk::Disk;
    use marey_engine::disk::memory::MemoryDisk;
    use marey_engine::time::simulated::SimulatedKernel;
    use marey_engine::{AuditRecord, Options, audit};
    use std::ops::ControlFlow;

    fn made() -> (SimulatedKernel, Arc<dyn Disk>, Arc<Tally>) {
        let kernel = SimulatedKernel::new(1, 1_795_248_000_000_000_000);
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
        let options = Options {
            disk_floor_bytes: Some(0),
            ..Options::default()
        };
        Store::init(&disk, [1; 16], &options).expect("a store");
        let (store, _) = Store::open(disk.clone(), kernel.hub_clock(), options).expect("open");
        (kernel, disk, Tally::new(Arc::new(store)))
    }

    fn written(disk: &Arc<dyn Disk>) -> Vec<AuditRecord> {
        let mut records = Vec::new();
        audit::read(&**disk, 1, &mut |record| {
            records.push(record);
            ControlFlow::Continue(())
        })
        .expect("read");
        records
    }

    fn refused(from: u32) -> Refused {
        Refused {
            actor: Actor::Peer(format!("10.0.{}.{}", from / 256, from % 256)),
            action: "device.join",
            object: Some("device/phone".into()),
            why: "not invited".into(),
        }
    }

    #[test]
    fn the_same_again_is_one_record_a_minute_with_its_count() {
        let (kernel, disk, tally) = made();
        let first: Vec<bool> = (0..3).map(|_| tally.note(refused(1))).collect();
        assert_eq!(first, [true, false, false]);
        tally.write(false);
        assert!(
            (0..1000).all(|_| !tally.note(refused(1))),
            "it was told of already"
        );
        tally.write(false);
        let counts = |records: &[AuditRecord]| {
            let counts = records.iter().map(|record| record.details["count"].as_u64());
            counts.collect::<Vec<_>>()
        };
        assert_eq!(counts(&written(&disk)), [Some(3)]);
        kernel.advance(REST_NS);
        tally.write(false);
        let records = written(&disk);
        assert_eq!(counts(&records), [Some(3), Some(1000)]);
        assert_eq!(records[1].outcome, AuditOutcome::Denied);
        assert_eq!(
            (records[1].actor.as_str(), records[1].object.as_deref()),
            ("peer:10.0.0.1", Some("device/phone"))
        );
        tally.note(refused(1));
        tally.write(true);
        assert_eq!(written(&disk).len(), 3, "a hub that ends writes what is left");
    }

    #[test]
    fn a_device_that_comes_again_and_again_is_one_record_a_minute() {
        let (kernel, disk, tally) = made();
        let phone = |from: [u8; 4]| Connected {
            actor: Actor::Device {
                device: "phone".into(),
                serial: Some("0a".into()),
            },
            device: "phone".into(),
            from: from.into(),
        };
        (0..5).for_each(|_| tally.connected(phone([10, 0, 0, 1])));
        tally.connected(phone([10, 0, 0, 2]));
        tally.write(false);
        tally.connected(phone([10, 0, 0, 1]));
        tally.write(false);
        let told = |records: &[AuditRecord]| {
            let told = records.iter().map(|record| {
                assert_eq!(record.outcome, AuditOutcome::Allowed);
                assert_eq!(
                    (record.actor.as_str(), record.action.as_str()),
                    ("device:phone/0a", CONNECT)
                );
                (
                    record.details["from"].to_string(),
                    record.details["count"].as_u64(),
                )
            });
            told.collect::<Vec<_>>()
        };
        let first = [
            ("\"10.0.0.1\"".to_owned(), Some(5)),
            ("\"10.0.0.2\"".to_owned(), Some(1)),
        ];
        assert_eq!(told(&written(&disk)), first);
        kernel.advance(REST_NS);
        tally.write(false);
        assert_eq!(told(&written(&disk))[2..], [("\"10.0.0.1\"".to_owned(), Some(1))]);
    }

    #[test]
    fn addresses_without_end_are_bounded_and_none_uncounted() {
        let (_, disk, tally) = made();
        for n in 0..10_000u32 {
            tally.connected(Connected {
                actor: Actor::Peer(String::new()),
                device: "phone".into(),
                from: Ipv4Addr::from(n).into(),
            });
        }
        assert_eq!(tally.kept().connected.len(), CONNECTED_MAX + 1);
        tally.write(true);
        let records = written(&disk);
        let count = records
            .iter()
            .filter_map(|record| record.details["count"].as_u64());
        assert_eq!(count.sum::<u64>(), 10_000);
    }

    #[test]
    fn a_flood_is_bounded_and_none_of_it_uncounted() {
        let (_, disk, tally) = made();
        let first = (0..10_000).filter(|from| tally.note(refused(*from))).count();
        assert_eq!(
            first,
            REFUSED_MAX + 1,
            "one of each kind, and one of all the others"
        );
        tally.write(false);
        assert_eq!(written(&disk).len(), AT_ONCE_MAX);
        tally.write(true);
        let records = written(&disk);
        assert_eq!(records.len(), REFUSED_MAX + 1);
        let count = records
            .iter()
            .filter_map(|record| record.details["count"].as_u64());
        assert_eq!(count.sum::<u64>(), 10_000);
    }
}
