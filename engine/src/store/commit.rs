//! Commit: many waiters, one write, one sync.
//!
//! Whoever comes stages frames under one lock and then waits for the commit that holds them. The first who finds nobody
//! writing becomes the writer: it takes all that is staged, writes one record, syncs, and wakes the others. While it
//! does, the next record is staged. So the window follows the disk: the slower the sync, the more goes into the next.
//!
//! Those whose commit is done are woken together, and most come again at once, each a little later than the one before.
//! Whoever of them is the first would write its own frames alone, and the others would wait for a second sync. So the
//! writer waits for as many as were there the last time, for what a sync takes at most, and never for long.

use super::{Inner, Store};
use crate::batch::{Batch, Committed, Item, LogHandle, Outcome};
use crate::error::StorageError;
use crate::journal::AppendError;
use crate::log::{LogReader, TakeError, backward, reused};
use crate::options::Durability;
use crate::session::SessionState;
use crate::time::HubInstant;
use marey_format::frame::Frame;
use marey_format::journal::RecordBuilder;
use marey_format::{Refusal, RefusalCode};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

/// Commits that are written at once, without a look at who may come, after one that was waited for in vain.
const IMPATIENT_COMMITS: u32 = 4;

/// The longest that a writer waits for others, or one sync that stood for seconds would hold up those that follow.
const PATIENCE_MAX: Duration = Duration::from_millis(5);

/// The longest that somebody stays awake for a commit of others: where a sync takes longer, being woken is no matter.
const AWAKE_MAX: Duration = Duration::from_millis(1);

/// What a frame takes in a record beside what its log grows by, at most: arrival, entry and name of the log.
const ASIDE_BYTES: usize = 256;

/// Who waits for the record that is being staged.
#[derive(Debug, Default)]
pub(super) struct Window {
    waiting: usize,
    /// So many are expected to wait in the end.
    expected: usize,
    /// What write and sync of a record take, smoothed.
    sync_ns: i64,
    impatient: u32,
    /// A writer waits for the others.
    is_gathering: bool,
}

impl Window {
    /// How long to stay awake for a commit: two writes of a record, the one under way and its own. Zero where it takes long.
    fn awake(&self) -> Duration {
        let two = Duration::from_nanos(2 * self.sync_ns.max(0).unsigned_abs());
        if two > AWAKE_MAX { Duration::ZERO } else { two }
    }
}

/// Where the logs stood before a round of staging: segment and offset.
type Touched = BTreeMap<u32, (u32, u64)>;

impl Store {
    /// Takes a batch and returns when all of it that was taken is as safe as [`crate::Options::durability`] says. Many
    /// threads may call at once: what waits goes to the disk with one sync.
    ///
    /// # Errors
    /// Nothing of the batch may be acknowledged. [`StorageError::Floor`] passes when there is room; after any other the
    /// store must be opened again.
    pub fn commit(&self, batch: &Batch) -> Result<Committed, StorageError> {
        let mut committed = self.commit_many(std::slice::from_ref(batch))?;
        Ok(committed.pop().expect("one batch was given"))
    }

    /// [`Store::commit`] for several batches at once.
    pub fn commit_many(&self, batches: &[Batch]) -> Result<Vec<Committed>, StorageError> {
        let committed = self.take_and_write(batches);
        if committed.is_err() {
            // Whatever of it was not taken must come again before what lies behind it.
            let mut inner = self.inner();
            for item in batches.iter().flat_map(|batch| &batch.items) {
                inner.logs[item.handle.log as usize].hold(item);
            }
        }
        committed
    }

    fn take_and_write(&self, batches: &[Batch]) -> Result<Vec<Committed>, StorageError> {
        if batches.iter().any(|batch| !batch.is_empty()) {
            self.check_floor()?;
        }
        let now = self.clock.now();
        let mut inner = self.inner();
        inner.check()?;
        if inner.waiting_for_room.is_some() {
            // First what was taken before, or a disk that stays full would let the next record grow beyond any block.
            let waiting = inner.staged - 1;
            self.drive(inner, waiting)?;
            inner = self.inner();
        }
        // The log that was touched last is asked for most often.
        let (mut touched, mut last) = (Touched::new(), None);
        let mut committed = Vec::with_capacity(batches.len());
        // Not the journal's own word: its lock is held while somebody syncs.
        let room = self.options.journal_block_bytes as usize / 2;
        let mut staged_bytes = 0;
        for batch in batches {
            let mut outcomes = Vec::with_capacity(batch.len());
            for item in &batch.items {
                while self.is_synced()
                    && (staged_bytes > 0 || !inner.staging.is_empty())
                    && inner.staging.len() + staged_bytes + item.frame.len() > room
                {
                    // More than one record holds, with what others have staged: what there is goes first. They may have
                    // staged again by the time that it is written.
                    let commit = self.stage(&mut inner, std::mem::take(&mut touched));
                    last = None;
                    self.drive(inner, commit)?;
                    inner = self.inner();
                    staged_bytes = 0;
                }
                let log = item.handle.log as usize;
                let before = inner.logs[log].pending_bytes();
                let (outcome, again) = self.take(inner, item, now, (&mut touched, &mut last))?;
                inner = again;
                if outcome == Outcome::Durable {
                    // With what the hub writes beside it, and room for its arrival and its log's name.
                    staged_bytes += inner.logs[log].pending_bytes().saturating_sub(before) + ASIDE_BYTES;
                }
                outcomes.push(outcome);
            }
            let durable = durable_of(&inner, batch);
            committed.push(Committed {
                commit: 0,
                outcomes,
                durable,
            });
        }
        if !self.is_synced() {
            // All that are named, or a frame whose first commit failed would count as a duplicate that is written.
            let items = batches.iter().flat_map(|batch| &batch.items);
            let logs: BTreeSet<u32> = items.map(|item| item.handle.log).collect();
            for &log in &logs {
                inner.logs[log as usize].end_staging();
            }
            drop(inner);
            self.write_out(logs)?;
            return Ok(committed);
        }
        let commit = self.stage(&mut inner, touched);
        let is_much = inner.pending_bytes > self.options.pending_bytes_max;
        self.drive(inner, commit)?;
        committed
            .iter_mut()
            .for_each(|committed| committed.commit = commit);
        if is_much {
            self.relieve()?;
        }
        Ok(committed)
    }

    /// For each lane, the first sequence that is not durable. Waits for what others have under way.
    pub fn durable(&self, handle: LogHandle) -> Result<[u64; 2], StorageError> {
        let inner = self.inner();
        let next = next_of(&inner, handle);
        let commit = self.last_staged(&inner);
        self.drive(inner, commit)?;
        self.settle(handle.log)?;
        Ok(next)
    }

    fn is_synced(&self) -> bool {
        self.options.durability == Durability::Synced
    }

    /// Where commits do not wait for the journal, what a log took may still be on its way.
    pub(super) fn settle(&self, log: u32) -> Result<(), StorageError> {
        match self.is_synced() {
            true => Ok(()),
            false => self.write_out([log]),
        }
    }

    fn take<'a>(
        &'a self,
        mut guard: MutexGuard<'a, Inner>,
        item: &Item,
        now: HubInstant,
        (touched, last): (&mut Touched, &mut Option<u32>),
    ) -> Result<(Outcome, MutexGuard<'a, Inner>), StorageError> {
        let inner = &mut *guard;
        let handle = item.handle;
        let log = &mut inner.logs[handle.log as usize];
        let Some(slot) = inner.sessions.get_mut(&log.session) else {
            let refusal = Refusal::new(
                RefusalCode::UnknownSession,
                format!("session {} is gone", log.session),
            );
            return Ok((Outcome::Refused(refusal), guard));
        };
        if slot.session.state == SessionState::Closed {
            let message = format!("session {} is closed for good; keep your data", log.session);
            return Ok((
                Outcome::Refused(Refusal::new(RefusalCode::SessionClosed, message)),
                guard,
            ));
        }
        let before = log.end();
        let shared = !self.is_synced();
        let outcome = match log.take(item, shared, &mut slot.versions, now) {
            Ok(()) => {
                if *last != Some(handle.log) {
                    touched.entry(handle.log).or_insert(before);
                    *last = Some(handle.log);
                }
                slot.late |= slot.session.state.takes_late_frames();
                Outcome::Durable
            }
            Err(TakeError::Duplicate) => Outcome::Duplicate,
            Err(TakeError::Refused(refusal)) => Outcome::Refused(refusal),
            Err(TakeError::Held) => Outcome::Held,
            Err(TakeError::Passed) if !self.is_synced() => {
                drop(guard);
                return Ok((self.look_up(item)?, self.inner()));
            }
            Err(TakeError::Passed) => {
                let commit = self.stage(&mut guard, std::mem::take(touched));
                *last = None;
                self.drive(guard, commit)?;
                return Ok((self.look_up(item)?, self.inner()));
            }
        };
        Ok((outcome, guard))
    }

    /// A frame whose sequence was passed in an earlier segment: is it the same one? Slow, and rare: only a device that
    /// sends again what was acknowledged long ago comes here.
    fn look_up(&self, item: &Item) -> Result<Outcome, StorageError> {
        let frame = Frame::parse(&item.frame).expect("batches hold checked frames");
        let header = *frame.header();
        let (session, device) = {
            let inner = self.inner();
            let log = &inner.logs[item.handle.log as usize];
            (log.session.clone(), log.device.clone())
        };
        self.flush_session(&session, false)?;
        let mut reader = LogReader::open(&*self.disk, &session, &device)?;
        let taken = reader.find(item.handle.epoch, header.lane, header.sequence)?;
        Ok(match taken {
            Some(crc) if crc == header.crc => Outcome::Duplicate,
            Some(crc) => Outcome::Refused(reused(&frame, crc)),
            None => Outcome::Refused(backward(&frame)),
        })
    }

    /// Puts what the touched logs took into the record that is being staged; which commit that is.
    pub(super) fn stage(&self, inner: &mut Inner, touched: Touched) -> u64 {
        if touched.is_empty() && inner.staging.is_empty() {
            // Nothing to wait for but what others have staged.
            return inner.staged - 1;
        }
        if inner.staging.is_empty() {
            inner.staging.start();
        }
        for (number, from) in touched {
            let log = &mut inner.logs[number as usize];
            log.end_staging();
            let (segment, offset, bytes) = log.taken_since(from);
            if bytes.is_empty() {
                continue;
            }
            inner.pending_bytes += bytes.len();
            inner.staging.name(number, &log.session, &log.device);
            inner.staging.frames(number, segment, offset, bytes);
        }
        inner.staged
    }

    /// Waits until a commit is durable, writing it if nobody else does.
    pub(super) fn drive<'a>(
        &'a self,
        mut inner: MutexGuard<'a, Inner>,
        commit: u64,
    ) -> Result<(), StorageError> {
        if commit == inner.staged {
            inner.window.waiting += 1;
            if inner.window.is_gathering && inner.window.waiting == inner.window.expected {
                self.gathered.notify_one();
            }
        }
        loop {
            if let Err(error) = inner.check() {
                // Whoever is woken to write the next commit and does not is to wake the others.
                self.committed.failed();
                return Err(error);
            }
            if inner.done >= commit {
                return Ok(());
            }
            if inner.writing {
                let ticket = self.committed.ticket(commit);
                let awake = inner.window.awake();
                drop(inner);
                if self.committed.wait(ticket, awake, &*self.clock) {
                    return Ok(());
                }
                inner = self.inner();
                continue;
            }
            inner.writing = true;
            inner = self.gather(inner);
            let (mut record, number) = inner.next_record();
            let waited = std::mem::take(&mut inner.window.waiting);
            drop(inner);
            let began = self.clock.now();
            let result = self.write_record(&mut record, number);
            let took_ns = self.clock.now().ns - began.ns;
            inner = self.inner();
            inner.writing = false;
            match &result {
                Ok(_) => inner.done = number,
                Err(error) if error.is_full() => {}
                Err(error) => inner.poison(error),
            }
            // All of them are about to come again, to those who came in the meantime.
            inner.window.expected = inner.window.waiting + waited;
            inner.window.sync_ns += (took_ns - inner.window.sync_ns) / 8;
            match result {
                Ok(is_crowded) => {
                    inner.spare = Some(record);
                    if is_crowded && !inner.is_crowded {
                        inner.is_crowded = true;
                        self.crowded.notify_all();
                    }
                    self.committed.done(number);
                }
                Err(error) => {
                    self.committed.failed();
                    if error.is_full() {
                        // Nothing was written. The frames are taken, so the record waits until there is room.
                        inner.waiting_for_room = Some((record, number));
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Waits for those who are expected, if there are any.
    fn gather<'a>(&'a self, mut inner: MutexGuard<'a, Inner>) -> MutexGuard<'a, Inner> {
        let window = &mut inner.window;
        if window.expected < 2 || window.waiting >= window.expected {
            return inner;
        }
        if window.impatient > 0 {
            window.impatient -= 1;
            return inner;
        }
        let patience = Duration::from_nanos(window.sync_ns.max(0).unsigned_abs()).min(PATIENCE_MAX);
        window.is_gathering = true;
        let missing = |inner: &mut Inner| inner.window.waiting < inner.window.expected;
        let (mut inner, waited) = self
            .gathered
            .wait_timeout_while(inner, patience, missing)
            .unwrap_or_else(PoisonError::into_inner);
        inner.window.is_gathering = false;
        if waited.timed_out() {
            inner.window.impatient = IMPATIENT_COMMITS;
        }
        inner
    }

    /// Whether more than half of the journal is in use now, beside the block that is always in use.
    fn write_record(&self, record: &mut RecordBuilder, number: u64) -> Result<bool, StorageError> {
        loop {
            let oldest = self.inner().oldest;
            let mut journal = self.journal();
            let result = journal.append(record, number, oldest);
            let is_crowded = 2 * journal.free_blocks() + 1 < self.options.journal_blocks;
            drop(journal);
            match result {
                Ok(()) => return Ok(is_crowded),
                // The logs must take what the journal holds before it can take more.
                Err(AppendError::NoRoom) => self.flush_all(false)?,
                Err(AppendError::TooLong { bytes }) => {
                    let what = format!("a commit of {bytes} bytes does not fit its blocks; make them larger");
                    return Err(StorageError::damaged(
                        self.disk.describe("journal".as_ref()),
                        what,
                    ));
                }
                Err(AppendError::Failed(error)) => return Err(error),
            }
        }
    }

    fn check_floor(&self) -> Result<(), StorageError> {
        let space = self.space()?;
        let floor_bytes = self.options.floor_bytes(space.total_bytes);
        match space.free_bytes < floor_bytes {
            true => Err(StorageError::Floor {
                free_bytes: space.free_bytes,
                floor_bytes,
            }),
            false => Ok(()),
        }
    }
}

impl Inner {
    /// The record to write now, and its number.
    fn next_record(&mut self) -> (RecordBuilder, u64) {
        if let Some(waiting) = self.waiting_for_room.take() {
            return waiting;
        }
        let spare = self.spare.take().unwrap_or_default();
        let record = std::mem::replace(&mut self.staging, spare);
        self.staging.start();
        let number = self.staged;
        self.staged += 1;
        (record, number)
    }
}

fn durable_of(inner: &Inner, batch: &Batch) -> Vec<(LogHandle, [u64; 2])> {
    let mut handles: Vec<LogHandle> = Vec::new();
    for item in &batch.items {
        if !handles.contains(&item.handle) {
            handles.push(item.handle);
        }
    }
    handles
        .into_iter()
        .map(|handle| (handle, next_of(inner, handle)))
        .collect()
}

fn next_of(inner: &Inner, handle: LogHandle) -> [u64; 2] {
    let epochs = inner
        .logs
        .get(handle.log as usize)
        .map(|log| log.state.epochs())
        .unwrap_or_default();
    epochs
        .get(handle.epoch as usize)
        .map_or([0; 2], |epoch| epoch.next)
}
