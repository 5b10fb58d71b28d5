//! Takes events into the log. Whoever comes first writes for all that wait, with one sync; the others sleep.
//!
//! Owns the newest file and the numbers. After a failure nothing is known of that file: the next event takes up the log from
//! the disk, through the same door as after a crash.
//!
//! Invariants: `synced` of a line is what the sync before it covered. The chain goes on from what is durable alone.

use super::read::{bytes_of, files};
use super::scan::{digest, scan};
use super::{AuditEvent, DIR, path};
use crate::disk::{self, Disk, File, OpenMode};
use crate::error::StorageError;
use crate::time::HubClock;
use marey_format::audit::{AuditHead, AuditRecord, Outcome, bounded, bounded_details, to_line};
use marey_format::limits::AUDIT_SEGMENT_BYTES;
use marey_format::types::{hex, rfc3339};
use marey_format::version;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

/// The action of the record that tells of a torn tail.
pub(super) const RECOVERED: &str = "audit.recovered";
/// The action of the record that tells of damage that was met when the log was taken up.
const DAMAGED: &str = "audit.damaged";
/// Events that share one write.
const BATCH_MAX: usize = 64;

/// Bytes at the end of a file that belong to no record, as the record says that tells of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TornFact {
    pub file: String,
    pub offset: u64,
    pub bytes: u64,
    pub sha256: String,
}

impl TornFact {
    /// Those that a record lists.
    pub fn listed(record: &AuditRecord) -> Vec<Self> {
        let listed = record.details.get("torn").cloned().unwrap_or_default();
        serde_json::from_value(listed).unwrap_or_default()
    }
}

/// The audit log of a hub that is open.
#[derive(Debug)]
pub struct Audit {
    disk: Arc<dyn Disk>,
    clock: Arc<dyn HubClock>,
    hub_id: [u8; 16],
    state: Mutex<State>,
    done: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Records that wait to be written; `seq`, `synced` and `prev` are not set yet.
    waiting: Vec<(u64, AuditRecord)>,
    /// What became of those that were written, until who waits takes it.
    results: HashMap<u64, Result<AuditHead, StorageError>>,
    next_ticket: u64,
    /// Somebody writes, or takes the log up.
    busy: bool,
    /// None until the log was taken up from the disk, and after a failure.
    tail: Option<Tail>,
    /// The newest record that is known to be durable.
    durable: Option<AuditHead>,
    /// The newest failure; none since something was written.
    failed: Option<String>,
}

/// Where the next line goes.
#[derive(Debug)]
struct Tail {
    file: Arc<dyn File>,
    number: u32,
    bytes: u64,
    head: AuditHead,
}

impl Audit {
    /// The log in a hub's folder. Nothing is read or written before it is needed.
    pub fn new(disk: Arc<dyn Disk>, clock: Arc<dyn HubClock>, hub_id: [u8; 16]) -> Self {
        Self {
            disk,
            clock,
            hub_id,
            state: Mutex::default(),
            done: Condvar::new(),
        }
    }

    /// Writes an event; it is durable when this returns. Events that come meanwhile share the next sync.
    ///
    /// # Errors
    /// The event may be in the log or not. The next one takes the log up anew.
    pub fn append(&self, event: &AuditEvent) -> Result<AuditHead, StorageError> {
        let mut state = self.state();
        let record = self.record(event);
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.waiting.push((ticket, record));
        loop {
            if let Some(result) = state.results.remove(&ticket) {
                return result;
            }
            if state.busy {
                state = self.wait(state);
                continue;
            }
            let count = state.waiting.len().min(BATCH_MAX);
            let batch: Vec<_> = state.waiting.drain(..count).collect();
            let (tail, durable) = (state.tail.take(), state.durable);
            state.busy = true;
            drop(state);
            let written = self.write(tail, durable, &batch);
            state = self.state();
            state.busy = false;
            match written {
                Ok((tail, heads)) => {
                    state.durable = Some(tail.head);
                    state.tail = Some(tail);
                    state.failed = None;
                    let tickets = batch.iter().map(|(ticket, _)| *ticket);
                    state.results.extend(tickets.zip(heads.into_iter().map(Ok)));
                }
                Err(error) => {
                    if state.failed.is_none() {
                        tracing::error!(%error, "the audit log can't be written; recording goes on without it");
                    }
                    state.failed = Some(error.to_string());
                    let tickets = batch.iter().map(|(ticket, _)| *ticket);
                    state
                        .results
                        .extend(tickets.map(|ticket| (ticket, Err(error.clone()))));
                }
            }
            self.done.notify_all();
        }
    }

    /// The newest record, durable; none where nothing was ever audited. What a killed process left is made durable first.
    pub fn head(&self) -> Result<Option<AuditHead>, StorageError> {
        let mut state = self.state();
        while state.busy {
            state = self.wait(state);
        }
        if let Some(tail) = &state.tail {
            return Ok(Some(tail.head).filter(|head| head.seq > 0));
        }
        if files(&*self.disk)?.is_empty() && state.durable.is_none() {
            return Ok(None);
        }
        let durable = state.durable;
        state.busy = true;
        drop(state);
        let taken_up = self.take_up(durable);
        let mut state = self.state();
        state.busy = false;
        self.done.notify_all();
        let tail = taken_up.inspect_err(|error| state.failed = Some(error.to_string()))?;
        let head = tail.head;
        state.durable = Some(head);
        state.tail = Some(tail);
        Ok(Some(head).filter(|head| head.seq > 0))
    }

    /// Why the newest event could not be written; none if it was.
    pub fn failed(&self) -> Option<String> {
        self.state().failed.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.done
            .wait(state)
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// An event with its time; its place in the chain is given when it is written.
    fn record(&self, event: &AuditEvent) -> AuditRecord {
        let wall = self.clock.wall();
        AuditRecord {
            v: version::AUDIT,
            seq: 0,
            synced: 0,
            utc: rfc3339(wall.utc_ns.div_euclid(1_000)),
            hub_epoch: wall.hub_epoch,
            hub_ns: wall.hub_ns,
            actor: bounded(&event.actor.to_string()),
            action: bounded(&event.action),
            object: event.object.as_deref().map(bounded),
            outcome: event.outcome,
            details: bounded_details(&event.details),
            prev: String::new(),
        }
    }

    fn write(
        &self,
        tail: Option<Tail>,
        durable: Option<AuditHead>,
        batch: &[(u64, AuditRecord)],
    ) -> Result<(Tail, Vec<AuditHead>), StorageError> {
        let tail = match tail {
            Some(tail) if tail.bytes < AUDIT_SEGMENT_BYTES => tail,
            Some(full) => self.begin(full.number + 1, full.head)?,
            None => self.take_up(durable)?,
        };
        self.put(tail, batch.iter().map(|(_, record)| record.clone()))
    }

    /// Writes records behind the newest one, with one sync.
    fn put(
        &self,
        mut tail: Tail,
        records: impl Iterator<Item = AuditRecord>,
    ) -> Result<(Tail, Vec<AuditHead>), StorageError> {
        let synced = tail.head.seq;
        let (mut lines, mut heads) = (String::new(), Vec::new());
        for mut record in records {
            record.seq = tail.head.seq + 1;
            record.synced = synced;
            record.prev = hex(&tail.head.hash);
            let (line, hash) = to_line(&record);
            tail.head = AuditHead {
                seq: record.seq,
                hash,
            };
            heads.push(tail.head);
            lines.push_str(&line);
            lines.push('\n');
        }
        let path = path(tail.number);
        let io = |action| move |error| (action, error);
        tail.file
            .write_at(tail.bytes, lines.as_bytes())
            .map_err(io("writing"))
            .and_then(|()| tail.file.sync().map_err(io("syncing")))
            .map_err(|(action, error)| StorageError::io(action, self.disk.describe(&path), error))?;
        tail.bytes += lines.len() as u64;
        Ok((tail, heads))
    }

    /// A new file, with a durable name.
    fn begin(&self, number: u32, head: AuditHead) -> Result<Tail, StorageError> {
        let path = path(number);
        let io = |error| StorageError::io("making", self.disk.describe(&path), error);
        disk::create_dirs(&*self.disk, Path::new(DIR)).map_err(io)?;
        let file = self.disk.open(&path, OpenMode::CreateNew).map_err(io)?;
        self.disk.sync_dir(Path::new(DIR)).map_err(io)?;
        Ok(Tail {
            file,
            number,
            bytes: 0,
            head,
        })
    }

    /// Takes the log up from the disk: after an opening, and after a failure. `durable` is what is known of it.
    ///
    /// What can be read need not be durable, so that the newest file is replaced by its own copy, which is. A torn tail stays
    /// where it is: the log goes on in a new file, whose first record tells of it.
    fn take_up(&self, durable: Option<AuditHead>) -> Result<Tail, StorageError> {
        let files = files(&*self.disk)?;
        let Some((newest, _)) = files.last() else {
            let Some(durable) = durable else {
                return self.begin(1, AuditHead::genesis(&self.hub_id));
            };
            let told = self.damaged("the log's files are gone".to_owned());
            return Ok(self.put(self.begin(1, durable)?, std::iter::once(told))?.0);
        };
        let mut torn = Vec::new();
        let mut damage = None;
        let mut head = None;
        let mut newest_bytes = Vec::new();
        for (number, path) in files.iter().rev() {
            let bytes = bytes_of(&*self.disk, path)?;
            let after = (*number == 1).then(|| AuditHead::genesis(&self.hub_id));
            let scanned = scan(&bytes, after);
            if let Some(at) = &scanned.torn {
                torn.push(TornFact::of(path, at.start, &bytes[at.clone()]));
            }
            if let Some(fault) = scanned.faults.first() {
                damage.get_or_insert(format!(
                    "{}: offset {}: {} bytes: {}; sha256 of the file {}",
                    path.display(),
                    fault.offset,
                    fault.bytes,
                    fault.why,
                    digest(&bytes)
                ));
            }
            head = scanned.head();
            if number == newest {
                newest_bytes = bytes;
            }
            if head.is_some() {
                break;
            }
        }
        torn.reverse();
        let mut head = head.unwrap_or_else(|| AuditHead::genesis(&self.hub_id));
        if let Some(durable) = durable.filter(|durable| durable.seq > head.seq) {
            damage = Some(format!(
                "it ends with record {}, and record {} was durable",
                head.seq, durable.seq
            ));
            head = durable;
        }
        let path = path(*newest);
        let io = |error| StorageError::io("copying", self.disk.describe(&path), error);
        disk::replace(&*self.disk, &path, &newest_bytes).map_err(io)?;
        let told = match (damage, torn.is_empty()) {
            (Some(what), _) => self.damaged(what),
            (None, false) => self.recovered(&torn),
            (None, true) => {
                let file = self.disk.open(&path, OpenMode::ReadWrite).map_err(io)?;
                return Ok(Tail {
                    file,
                    number: *newest,
                    bytes: newest_bytes.len() as u64,
                    head,
                });
            }
        };
        Ok(self.put(self.begin(newest + 1, head)?, std::iter::once(told))?.0)
    }

    fn recovered(&self, torn: &[TornFact]) -> AuditRecord {
        tracing::warn!(
            ?torn,
            "the audit log ended within a record; a new file tells of it"
        );
        let torn = serde_json::to_value(torn).unwrap_or_default();
        self.record(&AuditEvent::new(super::Actor::Hub, RECOVERED).with("torn", torn))
    }

    fn damaged(&self, what: String) -> AuditRecord {
        tracing::error!(what, "the audit log is damaged; run `marey verify`");
        let event = AuditEvent::new(super::Actor::Hub, DAMAGED);
        self.record(&event.outcome(Outcome::Failed).with("what", what))
    }
}
