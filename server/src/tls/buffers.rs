//! Owns the reading buffers of all connections: one large buffer while a connection has something to read, none while
//! it idles.
//!
//! A connection that waits holds at most the bytes of one unfinished TLS record (usually none), in a vector of exactly
//! that size. The large buffers go round through a bounded pool, so that memory that has been touched once is used
//! again, and a burst of ten thousand connections leaves no trace.
//!
//! Does not know TLS. Invariant: `start <= end <= bytes.len()`, and what lies in `start..end` is not yet consumed.

use std::sync::{Arc, Mutex, PoisonError};

/// Size of one reading buffer in bytes: several full TLS records, so that a busy socket needs few calls.
pub const READ_BUFFER_BYTES: usize = 128 * 1024;

/// Buffers kept for reuse, at most. Above it they are freed.
const POOL_BUFFERS_MAX: usize = 64;

/// Below this room the pending bytes are moved to the front before the next read.
const READ_ROOM_BYTES_MIN: usize = 32 * 1024;

/// A bounded stack of reading buffers, shared by all connections of a hub.
#[derive(Debug, Default)]
pub struct BufferPool {
    free: Mutex<Vec<Vec<u8>>>,
}

impl BufferPool {
    /// An empty pool; buffers are made when they are first needed.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    fn take(&self) -> Vec<u8> {
        let reused = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        reused.unwrap_or_else(|| vec![0; READ_BUFFER_BYTES])
    }

    fn give(&self, buffer: Vec<u8>) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < POOL_BUFFERS_MAX {
            free.push(buffer);
        }
    }
}

/// The bytes of one connection that were read from the socket and not yet consumed by TLS.
#[derive(Debug)]
pub(super) struct Inbound {
    pool: Arc<BufferPool>,
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    from_pool: bool,
}

impl Inbound {
    pub(super) fn new(pool: Arc<BufferPool>) -> Self {
        Self {
            pool,
            bytes: Vec::new(),
            start: 0,
            end: 0,
            from_pool: false,
        }
    }

    pub(super) fn pending(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end]
    }

    /// Room to read into; `None` if a buffer full of bytes has not made one message, which no valid peer can cause.
    pub(super) fn room(&mut self) -> Option<&mut [u8]> {
        if !self.from_pool {
            let mut large = self.pool.take();
            let pending = self.end - self.start;
            large[..pending].copy_from_slice(&self.bytes[self.start..self.end]);
            self.bytes = large;
            self.from_pool = true;
            (self.start, self.end) = (0, pending);
        } else if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.bytes.len() - self.end < READ_ROOM_BYTES_MIN {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        (self.end < self.bytes.len()).then(|| &mut self.bytes[self.end..])
    }

    pub(super) fn filled(&mut self, count: usize) {
        self.end = (self.end + count).min(self.bytes.len());
    }

    pub(super) fn discard(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
    }

    /// Called when the connection is about to wait: the large buffer goes back, an unfinished record is kept.
    pub(super) fn park(&mut self) {
        if !self.from_pool {
            return;
        }
        let kept = self.bytes[self.start..self.end].to_vec();
        let large = std::mem::replace(&mut self.bytes, kept);
        self.pool.give(large);
        self.from_pool = false;
        (self.start, self.end) = (0, self.bytes.len());
    }

    /// Bytes of memory that this connection holds for reading.
    pub(super) fn held_bytes(&self) -> usize {
        self.bytes.capacity()
    }
}

impl Drop for Inbound {
    fn drop(&mut self) {
        if self.from_pool {
            self.pool.give(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parked_connection_holds_only_its_unfinished_record() {
        let pool = BufferPool::new();
        let mut inbound = Inbound::new(pool.clone());
        let room = inbound.room().expect("an empty buffer has room");
        room[..5].copy_from_slice(b"abcde");
        inbound.filled(5);
        inbound.discard(3);
        inbound.park();
        assert_eq!(inbound.pending(), b"de");
        assert!(inbound.held_bytes() < 64);
        assert_eq!(pool.free.lock().expect("no panic under the lock").len(), 1);

        let room = inbound.room().expect("two bytes leave room");
        room[0] = b'f';
        inbound.filled(1);
        assert_eq!(inbound.pending(), b"def");
        assert!(pool.free.lock().expect("no panic under the lock").is_empty());
        inbound.discard(3);
        inbound.park();
        assert_eq!(inbound.held_bytes(), 0);
    }

    #[test]
    fn room_ends_only_with_the_buffer() {
        let mut inbound = Inbound::new(BufferPool::new());
        let len = inbound.room().expect("room").len();
        inbound.filled(len);
        assert!(inbound.room().is_none());
        inbound.discard(len - 10);
        assert_eq!(inbound.room().expect("moved to the front").len(), len - 10);
    }
}
