//! One lane of the buffer: pure bookkeeping over sequences.
//!
//! Owns: held frames in order, the hub's marks, the cursor of what was sent. Does not own: bytes, files, limits.
//!
//! Invariant: a frame is *wanted* while it is at or above `durable`, or lies in a hole that the hub asked for and
//! was not sent again yet; only wanted frames are offered for sending.

use std::collections::VecDeque;

use marey_format::frame::Header;

use super::{Held, Retain};

#[derive(Debug, Default)]
pub(crate) struct LaneBuffer {
    held: VecDeque<Held>,
    bytes: u64,
    /// The hub's marks as it last stated them: `durable` may fall when a hub lost data.
    durable: u64,
    safe: u64,
    highest_ack: u64,
    /// Everything below was sent on this connection.
    cursor: u64,
    /// Half-open ranges below `durable` that the hub lost and has not been sent again.
    holes: Vec<(u64, u64)>,
    /// The hub refused this one on this connection, and takes none behind it before it comes again.
    refused: Option<u64>,
}

impl LaneBuffer {
    pub(super) fn push(&mut self, held: Held) {
        self.bytes += held.bytes();
        self.held.push_back(held);
    }

    pub(super) fn next(&self) -> Option<&Held> {
        let in_holes = self.holes.iter().find_map(|&(begin, end)| {
            self.from(begin.max(self.cursor))
                .next()
                .filter(|held| held.header.sequence < end)
        });
        in_holes.or_else(|| self.from(self.cursor.max(self.durable)).next())
    }

    pub(super) fn sent(&mut self, sequence: u64) {
        self.cursor = sequence + 1;
    }

    pub(super) fn rewind(&mut self, sequence: u64) {
        self.cursor = self.cursor.min(sequence);
    }

    /// The hub refused a frame, and waits for it.
    pub(super) fn refused(&mut self, sequence: u64) {
        self.rewind(sequence);
        self.refused = Some(self.refused.map_or(sequence, |earlier| earlier.min(sequence)));
    }

    /// Whether the hub waits for a frame that is not here any more.
    pub(super) fn is_stuck(&self) -> bool {
        self.refused.is_some_and(|refused| {
            let held = self.from(refused).next();
            refused >= self.durable && held.is_none_or(|held| held.header.sequence > refused)
        })
    }

    /// A new connection, or the epoch opened anew: everything counts as not sent, and the hub waits for nothing.
    pub(super) fn start_over(&mut self) {
        self.cursor = 0;
        self.refused = None;
    }

    /// True if a mark moved.
    pub(super) fn acknowledge(&mut self, durable: u64, safe: u64, fresh: &mut Vec<Header>) -> bool {
        let moved = durable > self.durable || safe > self.safe;
        if durable > self.durable {
            fresh.extend(
                self.from(self.durable)
                    .map(|held| held.header)
                    .take_while(|it| it.sequence < durable),
            );
            self.durable = durable;
            self.highest_ack = self.highest_ack.max(durable);
        }
        self.safe = self.safe.max(safe);
        self.refused.take_if(|refused| *refused < self.durable);
        moved
    }

    pub(super) fn opened(&mut self, next: u64, holes: Vec<(u64, u64)>, fresh: &mut Vec<Header>) {
        let was_durable = self.durable;
        self.holes = holes;
        self.start_over();
        self.durable = next;
        self.highest_ack = self.highest_ack.max(next);
        let is_new = |header: &Header| header.sequence < next && !self.is_in_hole(header.sequence);
        fresh.extend(self.from(was_durable).map(|held| held.header).filter(is_new));
    }

    /// Lets acknowledged frames go.
    pub(super) fn discard(&mut self, retain: Retain) {
        let below = match retain {
            Retain::UntilDurable => self.durable,
            Retain::UntilSafe => self.safe.min(self.durable),
        };
        if self.holes.is_empty() {
            while self.held.front().is_some_and(|held| held.header.sequence < below) {
                self.pop_front();
            }
            return;
        }
        let holes = std::mem::take(&mut self.holes);
        let in_hole = |sequence: u64| holes.iter().any(|&(begin, end)| (begin..end).contains(&sequence));
        self.held
            .retain(|held| held.header.sequence >= below || in_hole(held.header.sequence));
        self.bytes = self.held.iter().map(Held::bytes).sum();
        self.holes = holes;
    }

    /// Lets the oldest frame go that is durable and merely kept until safe.
    pub(super) fn pop_durable(&mut self) -> bool {
        let is_durable = self.held.front().is_some_and(|held| {
            held.header.sequence < self.durable && !self.is_in_hole(held.header.sequence)
        });
        is_durable && self.pop_front().is_some()
    }

    /// Lets the oldest frame go, whatever it is.
    pub(super) fn pop_oldest(&mut self) -> Option<Held> {
        self.pop_front()
    }

    pub(super) fn remove(&mut self, sequence: u64) -> Option<Held> {
        let at = self.position(sequence);
        self.held
            .get(at)
            .filter(|held| held.header.sequence == sequence)?;
        let held = self.held.remove(at)?;
        self.bytes -= held.bytes();
        Some(held)
    }

    pub(super) fn unacknowledged(&self) -> impl Iterator<Item = &Held> {
        let in_holes = self.holes.iter().flat_map(|&(begin, end)| {
            self.from(begin.max(self.cursor))
                .take_while(move |held| held.header.sequence < end)
        });
        in_holes.chain(self.from(self.durable))
    }

    pub(super) fn held_mut(&mut self) -> impl Iterator<Item = &mut Held> {
        self.held.iter_mut()
    }

    pub(super) fn last_sequence(&self) -> Option<u64> {
        self.held.back().map(|held| held.header.sequence)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn durable(&self) -> u64 {
        self.durable
    }

    pub(super) fn safe(&self) -> u64 {
        self.safe
    }

    pub(super) fn highest_ack(&self) -> u64 {
        self.highest_ack
    }

    /// Takes in what a file remembers.
    pub(super) fn restore_marks(&mut self, durable: u64, safe: u64, highest_ack: u64) {
        (self.durable, self.safe, self.highest_ack) = (durable, safe, highest_ack);
    }

    fn pop_front(&mut self) -> Option<Held> {
        let held = self.held.pop_front()?;
        self.bytes -= held.bytes();
        Some(held)
    }

    fn is_in_hole(&self, sequence: u64) -> bool {
        self.holes
            .iter()
            .any(|&(begin, end)| (begin..end).contains(&sequence))
    }

    fn position(&self, sequence: u64) -> usize {
        self.held.partition_point(|held| held.header.sequence < sequence)
    }

    fn from(&self, sequence: u64) -> impl Iterator<Item = &Held> {
        self.held.range(self.position(sequence)..)
    }
}
