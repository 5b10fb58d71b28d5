//! A queue whose items come out when their time has come.
//!
//! Owns: order and waiting. Invariants: an item never leaves early; items of one due time leave in the order in
//! which they went in; it holds at most `capacity` bytes, beyond which a push waits or is refused.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

#[derive(Debug)]
pub(super) struct DelayLine<T> {
    capacity: usize,
    state: Mutex<State<T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct State<T> {
    items: BTreeMap<(Instant, u64), (usize, T)>,
    pushed: u64,
    bytes: usize,
    closed: bool,
}

impl<T> DelayLine<T> {
    pub(super) fn new(capacity: usize) -> Self {
        let state = State {
            items: BTreeMap::new(),
            pushed: 0,
            bytes: 0,
            closed: false,
        };
        Self {
            capacity,
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    /// Waits while the line is full. False if it was closed.
    pub(super) fn push(&self, due: Instant, bytes: usize, item: T) -> bool {
        let state = self.lock();
        let mut state = self
            .changed
            .wait_while(state, |state| !state.closed && state.bytes >= self.capacity)
            .unwrap_or_else(PoisonError::into_inner);
        self.insert(&mut state, due, bytes, item)
    }

    /// False if the line is full or closed: the item is gone.
    pub(super) fn try_push(&self, due: Instant, bytes: usize, item: T) -> bool {
        let mut state = self.lock();
        state.bytes < self.capacity && self.insert(&mut state, due, bytes, item)
    }

    /// Waits for the next item that is due. None once the line is closed.
    pub(super) fn pop(&self) -> Option<T> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            let now = Instant::now();
            state = match state.items.first_entry() {
                Some(first) if first.key().0 <= now => {
                    let (bytes, item) = first.remove();
                    state.bytes -= bytes;
                    self.changed.notify_all();
                    return Some(item);
                }
                Some(first) => {
                    let left = first.key().0 - now;
                    self.changed
                        .wait_timeout(state, left)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Drops what is in the line and lets everybody go who waits.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.items.clear();
        self.changed.notify_all();
    }

    fn insert(&self, state: &mut State<T>, due: Instant, bytes: usize, item: T) -> bool {
        if state.closed {
            return false;
        }
        state.pushed += 1;
        state.bytes += bytes;
        state.items.insert((due, state.pushed), (bytes, item));
        self.changed.notify_all();
        true
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn items_leave_in_order_of_their_time_and_never_early() {
        let line = DelayLine::new(100);
        let now = Instant::now();
        assert!(line.push(now + Duration::from_millis(20), 1, "late"));
        assert!(line.push(now + Duration::from_millis(5), 1, "early"));
        assert!(line.push(now + Duration::from_millis(20), 1, "later"));
        assert_eq!(line.pop(), Some("early"));
        assert!(now.elapsed() >= Duration::from_millis(5));
        assert_eq!((line.pop(), line.pop()), (Some("late"), Some("later")));
        assert!(now.elapsed() >= Duration::from_millis(20));
        line.close();
        assert_eq!(line.pop(), None);
        assert!(!line.push(now, 1, "closed"));
    }

    #[test]
    fn a_full_line_refuses() {
        let line = DelayLine::new(2);
        let now = Instant::now();
        assert!(line.try_push(now, 2, ()));
        assert!(!line.try_push(now, 1, ()));
        assert_eq!(line.pop(), Some(()));
        assert!(line.try_push(now, 1, ()));
    }
}
