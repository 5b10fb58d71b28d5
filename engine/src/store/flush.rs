//! Flushing: what waits in memory goes into the device logs, and journal blocks come free.

use super::{Inner, Store};
use crate::error::StorageError;
use crate::log::{FlushError, Flushing, Log, Seal};
use marey_format::SessionId;
use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Threads that write logs at once: a sync of one does not wait for another's.
const WRITERS_MAX: usize = 8;

/// Segments that one flush seals at most: each takes syncs that acks may have to wait behind.
const SEALED_AT_ONCE: usize = 32;

/// Most bytes of memory that wait to be used again.
const BUFFERS_BYTES: usize = 32 << 20;

/// Buffers of flushes that are over: memory that is touched for the first time costs more than what is written into it.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    free: Vec<Vec<u8>>,
    bytes: usize,
}

impl Buffers {
    fn get(&mut self) -> Vec<u8> {
        let buffer = self.free.pop().unwrap_or_default();
        self.bytes -= buffer.capacity();
        buffer
    }

    fn put(&mut self, buffer: Vec<u8>) {
        if self.bytes + buffer.capacity() <= BUFFERS_BYTES {
            self.bytes += buffer.capacity();
            self.free.push(buffer);
        }
    }
}

impl Inner {
    /// Frames of all unsealed segments.
    fn index_entries(&self) -> usize {
        self.logs.iter().map(Log::index_entries).sum()
    }

    /// Which logs to seal, by number: those that are long enough, and the longest as long as all indices together have more than
    /// `most` entries. Only so many, the longest first: where many devices began together all are due at once.
    fn to_seal(&self, most: usize) -> BTreeSet<usize> {
        let mut entries = self.index_entries();
        let least = if entries > most { most / 8 * 7 } else { usize::MAX };
        let mut by_length: Vec<(usize, usize)> = self.logs.iter().map(Log::index_entries).zip(0..).collect();
        by_length.sort_unstable_by_key(|&(length, number)| (std::cmp::Reverse(length), number));
        let wanted = by_length.into_iter().filter(|&(length, number)| {
            let is_too_much = entries > least;
            if is_too_much {
                entries -= length;
            }
            is_too_much || self.logs[number].seal_is_due()
        });
        wanted.map(|(_, number)| number).take(SEALED_AT_ONCE).collect()
    }
}

impl Store {
    /// Writes what waits to the device logs, where it is worth it, so that journal blocks come free. Call it every
    /// second or so from a thread that may block; without it, commits do the work when they must.
    pub fn maintain(&self) -> Result<(), StorageError> {
        let free_blocks = self.journal().free_blocks();
        let waits = {
            let inner = self.inner();
            inner.check()?;
            inner.pending_bytes > self.options.pending_bytes_max / 2
                || !inner.unwritten.is_empty()
                || inner.logs.iter().any(|log| log.seal_is_due())
                || inner.index_entries() > self.options.index_entries_max
        };
        if waits || free_blocks <= self.options.journal_blocks / 2 {
            self.flush_all(false)?;
        }
        Ok(())
    }

    /// Waits until more than half of the journal is in use, but not longer than this; whether it is. For the thread that calls
    /// [`Store::maintain`]: a commit that finds the journal full must do its work, and all others wait for it.
    pub fn wait_until_crowded(&self, most: Duration) -> bool {
        let waited = self
            .crowded
            .wait_timeout_while(self.inner(), most, |inner| !inner.is_crowded);
        let (mut inner, _) = waited.unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut inner.is_crowded)
    }

    /// Writes everything that waits to the device logs.
    pub fn flush(&self) -> Result<(), StorageError> {
        self.flush_all(false)
    }

    /// Goes down in good order: all that was taken is in its log, every segment is sealed. Every later call fails.
    pub fn close(&self) -> Result<(), StorageError> {
        let inner = self.inner();
        let commit = self.last_staged(&inner);
        self.drive(inner, commit)?;
        self.flush_all(true)?;
        // A record that says so, so that the next opening has nothing to replay.
        let mut inner = self.inner();
        inner.staging.start();
        let number = inner.staged;
        self.drive(inner, number)?;
        self.inner().poisoned = Some("the hub was closed".to_owned());
        Ok(())
    }

    /// Flushes if too much waits in memory.
    pub(super) fn relieve(&self) -> Result<(), StorageError> {
        if self.inner().pending_bytes <= self.options.pending_bytes_max {
            return Ok(());
        }
        match self.flush_all(false) {
            // The commit itself is durable in the journal; the next one will be refused.
            Err(error) if error.is_full() => Ok(()),
            done => done,
        }
    }

    pub(super) fn flush_all(&self, seal: bool) -> Result<(), StorageError> {
        let serial = self.flush.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        self.write_unwritten()?;
        let (work, through) = {
            let mut inner = self.inner();
            inner.check()?;
            // Not the record that is being staged: another log's frames may still join it, and they are not in `begin`.
            let through = inner.staged - 1;
            (self.begin(&mut inner, None, seal), through)
        };
        self.finish(work)?;
        let mut inner = self.inner();
        inner.oldest = inner.oldest.max(through + 1);
        let oldest = inner.oldest;
        drop(inner);
        self.journal().release(oldest);
        drop(serial);
        Ok(())
    }

    /// Flushes the logs of one session; sealed, if asked.
    pub(super) fn flush_session(&self, session: &SessionId, seal: bool) -> Result<(), StorageError> {
        let _serial = self.flush.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        self.write_unwritten()?;
        let work = {
            let mut inner = self.inner();
            inner.check()?;
            self.begin(&mut inner, Some(session), seal)
        };
        self.finish(work)
    }

    /// Hands what these logs hold to the operating system. Returns when it has all of it, whoever wrote it.
    pub(super) fn write_out(&self, logs: impl IntoIterator<Item = u32>) -> Result<(), StorageError> {
        let _serial = self.flush.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        self.write_unwritten()?;
        let now = self.clock.now();
        let work = {
            let mut guard = self.inner();
            guard.check()?;
            let inner = &mut *guard;
            let mut work = Vec::new();
            for number in logs {
                let log = &mut inner.logs[number as usize];
                inner.pending_bytes = inner.pending_bytes.saturating_sub(log.pending_bytes());
                if let Some(flushing) = log.begin_flush(Seal::Later, now, || inner.buffers.get()) {
                    work.push((number, flushing.unsynced()));
                }
            }
            work
        };
        self.finish(work)
    }

    /// What found no room goes first: until it is there its log hands out nothing newer, and a flush would count as whole
    /// that lacks it.
    fn write_unwritten(&self) -> Result<(), StorageError> {
        let work = {
            let mut inner = self.inner();
            inner.check()?;
            std::mem::take(&mut inner.unwritten)
        };
        self.finish(work)
    }

    /// The newest commit of which frames were taken.
    pub(super) fn last_staged(&self, inner: &Inner) -> u64 {
        if inner.staging.is_empty() {
            inner.staged - 1
        } else {
            inner.staged
        }
    }

    fn begin(&self, inner: &mut Inner, only: Option<&SessionId>, seal: bool) -> Vec<(u32, Flushing)> {
        let now = self.clock.now();
        let mut work = Vec::new();
        let due = match (only, seal) {
            (None, false) => Some(inner.to_seal(self.options.index_entries_max)),
            _ => None,
        };
        let buffers = &mut inner.buffers;
        for (number, log) in inner.logs.iter_mut().enumerate() {
            if only.is_some_and(|session| *session != log.session) {
                continue;
            }
            let seal = match &due {
                Some(due) if !due.contains(&number) => Seal::Later,
                Some(_) => Seal::Now,
                None if seal => Seal::Now,
                None => Seal::WhenDue,
            };
            inner.pending_bytes = inner.pending_bytes.saturating_sub(log.pending_bytes());
            if let Some(flushing) = log.begin_flush(seal, now, || buffers.get()) {
                work.push((number as u32, flushing));
            }
            inner.pending_bytes += log.pending_bytes();
        }
        work
    }

    fn finish(&self, work: Vec<(u32, Flushing)>) -> Result<(), StorageError> {
        let mut results = self.write_logs(&work);
        let mut inner = self.inner();
        let mut first = None;
        for (at, (number, flushing)) in work.into_iter().enumerate() {
            match results[at].take() {
                None => {
                    inner.logs[number as usize].end_flush(&flushing);
                    inner.buffers.put(flushing.into_buffer());
                }
                Some(FlushError::Write(error)) => {
                    inner.unwritten.push((number, flushing));
                    first.get_or_insert(error);
                }
                Some(FlushError::Sync(error)) => {
                    inner.poison(&error);
                    first = Some(error);
                }
            }
        }
        match first {
            None => Ok(()),
            Some(error) => {
                if !error.is_full() {
                    inner.poison(&error);
                }
                Err(error)
            }
        }
    }

    /// Writes logs, several at a time where there are many. An error for each that failed.
    fn write_logs(&self, work: &[(u32, Flushing)]) -> Vec<Option<FlushError>> {
        let write = |flushing: &Flushing| flushing.write(&*self.disk).err();
        if work.len() < 2 * WRITERS_MAX {
            return work.iter().map(|(_, flushing)| write(flushing)).collect();
        }
        let next = AtomicUsize::new(0);
        let mut results: Vec<Option<FlushError>> = work.iter().map(|_| None).collect();
        let done = std::thread::scope(|scope| {
            let worker = || {
                let mut mine = Vec::new();
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some((_, flushing)) = work.get(at) else {
                        return mine;
                    };
                    mine.push((at, write(flushing)));
                }
            };
            let workers: Vec<_> = (0..WRITERS_MAX).map(|_| scope.spawn(worker)).collect();
            workers
                .into_iter()
                .flat_map(|worker| worker.join().expect("writers do not panic"))
                .collect::<Vec<_>>()
        });
        done.into_iter().for_each(|(at, result)| results[at] = result);
        results
    }
}
