//! Refusals on their way into the audit log: counted, so that whoever is refused a thousand times a second fills no disk and
//! makes nobody wait.
//!
//! What is done is audited before it is done, by whoever does it. What was refused changes nothing: it is noted here, in
//! memory, and a thread of `maintenance` writes it within a second; the same again is one record a minute with its count.
//!
//! Bounded: past so many different ones the rest is counted together. What was noted and not written is lost with a hub that is
//! killed, and with nothing else.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use marey_engine::{Actor, AuditEvent, AuditOutcome, Store};

/// The refusals of one hub.
#[derive(Debug)]
pub(crate) struct Tally {
    store: Arc<Store>,
    kept: Mutex<BTreeMap<Refused, Count>>,
}

/// What was refused to whom, and why.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Refused {
    pub actor: Actor,
    pub action: &'static str,
    pub object: Option<String>,
    pub why: String,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    /// Since it was last written.
    new: u64,
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
        let mut kept = self.kept();
        let known = kept.len() < KINDS_MAX || kept.contains_key(&refused);
        let key = match known {
            true => refused,
            false => Refused {
                actor: Actor::Hub,
                object: None,
                why: OTHERS.to_owned(),
                ..refused
            },
        };
        let count = kept.entry(key).or_default();
        let is_first = count.new == 0 && count.written_ns.is_none();
        count.new += 1;
        is_first
    }

    /// Writes what is due; with `all` whatever was not written.
    pub(crate) fn write(&self, all: bool) {
        let now_ns = self.store.clock().now().ns;
        let is_due = |count: &Count| {
            let rested = count.written_ns.is_none_or(|at| now_ns - at >= REST_NS);
            count.new > 0 && (all || rested)
        };
        let due: Vec<(Refused, u64)> = {
            let mut kept = self.kept();
            kept.retain(|_, count| count.new > 0 || count.written_ns.is_some_and(|at| now_ns - at < REST_NS));
            let at_most = if all { KINDS_MAX * 2 } else { AT_ONCE_MAX };
            let due = kept.iter_mut().filter(|(_, count)| is_due(count)).take(at_most);
            due.map(|(refused, count)| {
                count.written_ns = Some(now_ns);
                (refused.clone(), std::mem::take(&mut count.new))
            })
            .collect()
        };
        for (refused, count) in due {
            if let Err(error) = self.store.audit(&refused.event(count)) {
                tracing::debug!(%error, "refusals could not be audited");
                // They are still to be told of; what came meanwhile is added.
                let mut kept = self.kept();
                let again = kept.entry(refused).or_default();
                again.new += count;
                again.written_ns = None;
            }
        }
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<Refused, Count>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Refused {
    fn event(&self, count: u64) -> AuditEvent {
        let mut event = AuditEvent::new(self.actor.clone(), self.action).outcome(AuditOutcome::Denied);
        event.object = self.object.clone();
        event.with("why", self.why.clone()).with("count", count)
    }
}

/// Different refusals that are told apart.
const KINDS_MAX: usize = 256;
/// Records of one turn: each is a sync.
const AT_ONCE_MAX: usize = 16;
/// How long the same is only counted after it was written.
const REST_NS: i64 = 60_000_000_000;
/// Why, where too many were refused to tell them apart.
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
    fn a_flood_is_bounded_and_none_of_it_uncounted() {
        let (_, disk, tally) = made();
        let first = (0..10_000).filter(|from| tally.note(refused(*from))).count();
        assert_eq!(
            first,
            KINDS_MAX + 1,
            "one of each kind, and one of all the others"
        );
        tally.write(false);
        assert_eq!(written(&disk).len(), AT_ONCE_MAX);
        tally.write(true);
        let records = written(&disk);
        assert_eq!(records.len(), KINDS_MAX + 1);
        let count = records
            .iter()
            .filter_map(|record| record.details["count"].as_u64());
        assert_eq!(count.sum::<u64>(), 10_000);
    }
}
