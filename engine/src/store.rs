//! The store: a hub's folder, open. Ties the journal, the logs, the catalog and the sessions together.
//!
//! A frame's way is short: [`Store::commit`] judges it against its log's state and takes it (memory alone), writes all
//! that was taken as one journal record and syncs it, and returns. The device logs are written later, by
//! [`Store::maintain`] or when the journal has no room left. Nothing is acknowledged that no sync covers: what `commit`
//! returned is durable, what it refused is not kept.

mod backup;
mod commit;
mod flush;
mod gate;
mod notes;
mod open;
mod retire;
mod sessions;
mod unpublished;

use crate::audit::{Audit, AuditEvent, AuditHead};
use crate::batch::LogHandle;
use crate::catalog::{Catalog, Identity};
use crate::clock::LiveBound;
use crate::compact::ReceiptSigner;
use crate::disk::{Disk, LockGuard, Space};
use crate::error::StorageError;
use crate::journal::Journal;
use crate::log::{Flushing, JournalFound, Log};
use crate::options::Options;
use crate::session::Session;
use crate::state::StreamVersions;
use crate::time::{HubClock, HubInstant};
use marey_format::journal::RecordBuilder;
use marey_format::wire::{Acked, Holes};
use marey_format::{DeviceId, SessionId};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, TryLockError};

pub use backup::AtRest;
pub use notes::{Note, NoteError};
pub use open::RecoveryReport;
pub use retire::RetireLogsError;
pub use sessions::{SealError, Sealed};

/// How often somebody who finds the lock taken lets others run before it goes to sleep.
const YIELDS: usize = 16;

/// A hub's folder, open. Share it between threads in an [`Arc`].
#[derive(Debug)]
pub struct Store {
    disk: Arc<dyn Disk>,
    clock: Arc<dyn HubClock>,
    options: Options,
    hub_id: [u8; 16],
    identity: Identity,
    catalog: Catalog,
    audit: Audit,
    inner: Mutex<Inner>,
    /// Somebody's commit is done, or failed.
    committed: gate::Gate,
    /// All who were expected have staged.
    gathered: Condvar,
    /// A flush is worth it now.
    crowded: Condvar,
    journal: Mutex<Journal>,
    journal_found: JournalFound,
    /// One flush at a time.
    flush: Mutex<()>,
    /// One session's logs come into memory at a time.
    loading: Mutex<()>,
    /// Who signs receipts, if anybody does.
    signer: OnceLock<Arc<dyn ReceiptSigner>>,
    _lock: Box<dyn LockGuard>,
}

#[derive(Debug)]
struct Inner {
    sessions: BTreeMap<SessionId, Slot>,
    logs: Vec<Log>,
    by_name: HashMap<(SessionId, DeviceId), u32>,
    /// Which session a device is being recorded in.
    live: HashMap<DeviceId, SessionId>,
    staging: RecordBuilder,
    /// A builder whose buffer is used for the next record.
    spare: Option<RecordBuilder>,
    /// A record that found neither room in the journal nor on the disk, and its number.
    waiting_for_room: Option<(RecordBuilder, u64)>,
    /// The commit that staging is for.
    staged: u64,
    /// The newest commit that is durable.
    done: u64,
    /// All commits below are in device logs that were synced.
    oldest: u64,
    /// Somebody is writing a record.
    writing: bool,
    window: commit::Window,
    /// Half of the journal waits for the device logs.
    is_crowded: bool,
    /// Bytes of frames that wait for their device logs.
    pending_bytes: usize,
    /// Flushes that found no room, to be tried again at the same place.
    unwritten: Vec<(u32, Flushing)>,
    buffers: flush::Buffers,
    /// The first failure: nothing is acknowledged after it.
    poisoned: Option<String>,
}

/// One session, and what its logs have in common.
#[derive(Debug)]
struct Slot {
    session: Session,
    versions: StreamVersions,
    /// Its logs are in memory.
    loaded: bool,
    /// Frames came since the newest generation, or since the one under way began.
    late: bool,
    /// Since when somebody has said something that the newest generation, or the one under way, was not made of.
    annotated: Option<HubInstant>,
    /// Held by whoever publishes or retires: logs do not go while a generation is made of them, and none is made of
    /// logs that are about to go.
    published: Arc<Mutex<()>>,
}

/// An opened log: what the device is told.
#[derive(Clone, Debug)]
pub struct OpenedLog {
    pub handle: LogHandle,
    /// For each lane, the sequence to go on with.
    pub next: Acked,
    /// What damage took.
    pub holes: Holes,
    /// Whether new captures are taken.
    pub recording: bool,
    /// The device had an ack for more than the hub holds: a proven loss, by lane.
    pub proven_loss: [u64; 2],
}

/// Where one log stands.
#[derive(Clone, Debug)]
pub struct LogStatus {
    pub session: SessionId,
    pub device: DeviceId,
    pub epochs: usize,
    pub frames: u64,
    pub samples: u64,
    /// Hub time of the newest arrival.
    pub last_arrival_ns: Option<i64>,
    /// By `NAME@N`: samples, and whether its end was stated in the newest epoch that has it.
    pub streams: BTreeMap<String, StreamStatus>,
    /// Its clock now; none if nothing was heard of it since the hub was opened.
    pub clock: Option<LiveBound>,
}

/// Where one stream of one log stands.
#[derive(Clone, Copy, Debug, Default)]
pub struct StreamStatus {
    pub samples: u64,
    pub ended: bool,
    /// Ordinal of the newest epoch that has it.
    pub epoch: u32,
    /// Samples of that epoch which the device numbered and never sent, so far.
    pub missing: u64,
    /// Device time of the newest sample of that epoch.
    pub last_time_ns: i64,
    /// The rate that was declared.
    pub rate_hz: Option<f64>,
}

/// Whether the store takes frames.
#[derive(Clone, Debug)]
pub struct Health {
    /// The failure that stopped it.
    pub poisoned: Option<String>,
    pub below_floor: bool,
    pub space: Space,
    pub floor_bytes: u64,
    pub journal_blocks_free: usize,
    /// Why the newest event could not be written into the audit log; none if it was.
    pub audit_failed: Option<String>,
}

impl Store {
    /// The hub's id.
    pub fn hub_id(&self) -> [u8; 16] {
        self.hub_id
    }

    /// The clock that it was opened with.
    pub fn clock(&self) -> &Arc<dyn HubClock> {
        &self.clock
    }

    /// The disk that it was opened on.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// The options that it was opened with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Who may connect.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Writes an event into the audit log; it is durable when this returns. It waits for no journal and no session, and its
    /// failure stops neither.
    ///
    /// # Errors
    /// The log could not be written: [`Health::audit_failed`] says so until it can. The next event tries again.
    pub fn audit(&self, event: &AuditEvent) -> Result<AuditHead, StorageError> {
        self.audit.append(event)
    }

    /// The newest record of the audit log; none where there is none.
    pub fn audit_head(&self) -> Result<Option<AuditHead>, StorageError> {
        self.audit.head()
    }

    /// Room on the disk.
    pub fn space(&self) -> Result<Space, StorageError> {
        self.disk
            .space()
            .map_err(|error| StorageError::io("measuring", self.disk.describe("".as_ref()), error))
    }

    /// Whether it takes frames, and if not, why.
    pub fn health(&self) -> Health {
        let space = self.space().unwrap_or(Space {
            free_bytes: 0,
            total_bytes: 0,
        });
        let floor_bytes = self.options.floor_bytes(space.total_bytes);
        Health {
            poisoned: self.inner().poisoned.clone(),
            below_floor: space.free_bytes < floor_bytes,
            space,
            floor_bytes,
            journal_blocks_free: self.journal().free_blocks(),
            audit_failed: self.audit.failed(),
        }
    }

    /// Where every log in memory stands.
    pub fn log_status(&self) -> Vec<LogStatus> {
        let now = self.clock.now();
        let inner = self.inner();
        let mut found: Vec<_> = inner.logs.iter().map(|log| status(log, now)).collect();
        found.sort_by(|a, b| (&a.session, &a.device).cmp(&(&b.session, &b.device)));
        found
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // It is held for a few microseconds: whoever goes to sleep for it pays more to be woken.
        for _ in 0..YIELDS {
            match self.inner.try_lock() {
                Err(TryLockError::WouldBlock) => std::thread::yield_now(),
                Err(TryLockError::Poisoned(poisoned)) => return poisoned.into_inner(),
                Ok(inner) => return inner,
            }
        }
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn io<'a>(
        &'a self,
        action: &'static str,
        path: &'a std::path::Path,
    ) -> impl Fn(std::io::Error) -> StorageError + 'a {
        move |error| StorageError::io(action, self.disk.describe(path), error)
    }
}

impl Inner {
    fn check(&self) -> Result<(), StorageError> {
        match &self.poisoned {
            Some(first) => Err(StorageError::Poisoned { first: first.clone() }),
            None => Ok(()),
        }
    }

    fn poison(&mut self, error: &StorageError) {
        if self.poisoned.is_none() {
            tracing::error!(%error, "storage stopped: nothing more is acknowledged");
            self.poisoned = Some(error.to_string());
        }
    }
}

fn status(log: &Log, now: HubInstant) -> LogStatus {
    let mut streams: BTreeMap<String, StreamStatus> = BTreeMap::new();
    for epoch in log.state.epochs() {
        for stream in epoch.streams.values() {
            let Some(key) = &stream.key else { continue };
            let entry = streams.entry(key.to_string()).or_default();
            entry.samples += stream.samples;
            entry.ended = stream.end.is_some();
            entry.epoch = epoch.ordinal;
            entry.missing = stream.next_index.saturating_sub(stream.samples);
            entry.last_time_ns = stream.last_time_ns;
            entry.rate_hz = stream.declaration.rate_hz;
        }
    }
    LogStatus {
        session: log.session.clone(),
        device: log.device.clone(),
        epochs: log.state.epochs().len(),
        frames: log.state.frames,
        samples: log.state.samples,
        last_arrival_ns: log.state.last_arrival_ns,
        streams,
        clock: log.clock.at(now.epoch.0, now.ns, log.max_drift_ppm),
    }
}
