//! What lies between a device and the hub: bytes under way, in pieces, late, cut off at any one of them.

use super::scenario::MS;
use super::world::{Event, World};
use marey_format::EpochId;
use std::collections::{BTreeMap, VecDeque};

/// One connection.
#[derive(Debug)]
pub struct Link {
    pub device: usize,
    /// To the hub: when each piece arrives.
    up: VecDeque<(u64, Vec<u8>)>,
    down: VecDeque<(u64, Piece)>,
    up_last_ns: u64,
    down_last_ns: u64,
    /// Bytes of the device wait until then.
    stalled_until_ns: u64,
    /// The device still holds its end.
    pub has_device: bool,
    /// The hub still holds its end.
    pub has_hub: bool,
    /// Nothing arrives any more.
    vanished: bool,
    /// Which epoch a channel was opened for.
    pub channels: BTreeMap<u16, EpochId>,
}

#[derive(Debug)]
enum Piece {
    Bytes(Vec<u8>),
    End,
}

impl Link {
    pub fn new(device: usize) -> Self {
        Self {
            device,
            up: VecDeque::new(),
            down: VecDeque::new(),
            up_last_ns: 0,
            down_last_ns: 0,
            stalled_until_ns: 0,
            has_device: true,
            has_hub: true,
            vanished: false,
            channels: BTreeMap::new(),
        }
    }
}

impl World {
    /// The device has written.
    pub fn send_up(&mut self, number: u64, bytes: Vec<u8>) {
        for piece in self.in_pieces(bytes) {
            let delay_ns = self.between(self.scenario.delay_ns);
            let now_ns = self.now_ns;
            let Some(link) = self.links.get_mut(&number).filter(|link| !link.vanished) else {
                return;
            };
            let at_ns = (now_ns + delay_ns)
                .max(link.up_last_ns)
                .max(link.stalled_until_ns);
            link.up_last_ns = at_ns;
            link.up.push_back((at_ns, piece));
            self.plan(at_ns, Event::Up(number));
        }
    }

    /// The hub has written.
    pub fn send_down(&mut self, number: u64, bytes: Vec<u8>) {
        for piece in self.in_pieces(bytes) {
            self.put_down(number, Piece::Bytes(piece));
        }
    }

    /// The hub has closed its end, or is gone: the device hears of it after all that was sent before.
    pub fn end_down(&mut self, number: u64) {
        if let Some(link) = self.links.get_mut(&number) {
            link.has_hub = false;
            link.up.clear();
        }
        self.put_down(number, Piece::End);
    }

    pub fn arrive_up(&mut self, number: u64) {
        let now_ns = self.now_ns;
        let Some(link) = self.links.get_mut(&number) else {
            return;
        };
        // Planned for another moment: it was cut off, or is late.
        if link.up.front().is_none_or(|(at_ns, _)| *at_ns > now_ns) {
            return;
        }
        let Some((_, piece)) = link.up.pop_front() else {
            return;
        };
        let device = link.device;
        self.note("up", number, &piece);
        if self.actors[device].link.is_some_and(|current| current != number) {
            self.tally
                .fault("pieces of an old connection after the new one", 1);
        }
        self.deliver(number, piece);
    }

    pub fn arrive_down(&mut self, number: u64) {
        let now_ns = self.now_ns;
        let Some(link) = self.links.get_mut(&number) else {
            return;
        };
        if link.down.front().is_none_or(|(at_ns, _)| *at_ns > now_ns) {
            return;
        }
        let device = link.device;
        if let Some(until_ns) = self.actors[device].sleeps_until(now_ns) {
            return self.plan(until_ns, Event::Down(number));
        }
        let Some((_, piece)) = link.down.pop_front() else {
            return;
        };
        if !link.has_device {
            return;
        }
        match piece {
            Piece::Bytes(bytes) => {
                self.note("down", number, &bytes);
                self.device_reads(device, &bytes);
            }
            Piece::End => {
                self.note("end", number, &[]);
                self.device_hears(device);
            }
        }
    }

    /// The connection breaks. Bytes under way to the hub arrive up to some one of them, and some of them late; the hub
    /// hears of it later than the device, or never.
    pub fn cut(&mut self, number: u64) {
        let (late_ns, hears_ns) = (self.dice.below(1_500) * MS, self.dice.below(2_000) * MS);
        let (is_late, is_told) = (self.dice.below(2) == 0, self.dice.below(4) > 0);
        let now_ns = self.now_ns;
        let arrive = self.truncate(number);
        let Some(link) = self.links.get_mut(&number) else {
            return;
        };
        link.down.clear();
        let mut last_ns = now_ns;
        if is_late {
            link.up.iter_mut().for_each(|(at_ns, _)| *at_ns += late_ns);
        }
        let times: Vec<u64> = link.up.iter().map(|(at_ns, _)| *at_ns).collect();
        for at_ns in times {
            last_ns = at_ns;
            self.plan(at_ns, Event::Up(number));
        }
        self.tally.fault("connections cut", 1);
        self.tally
            .fault("of them in the middle of a message", u64::from(arrive));
        if is_told {
            self.plan(last_ns + hears_ns, Event::HubHears(number));
        } else {
            self.tally
                .fault("connections that the hub is not told to be dead", 1);
        }
    }

    /// Nothing arrives any more, and nobody is told.
    pub fn vanish(&mut self, number: u64) {
        self.truncate(number);
        if let Some(link) = self.links.get_mut(&number) {
            link.down.clear();
            link.vanished = true;
            self.tally.fault("connections that vanish", 1);
        }
    }

    /// What the device writes waits.
    pub fn stall(&mut self, number: u64, for_ns: u64) {
        if let Some(link) = self.links.get_mut(&number) {
            link.stalled_until_ns = self.now_ns + for_ns;
            self.tally.fault("connections stalled", 1);
        }
    }

    /// Cuts off what is under way to the hub after some byte; true if that is in the middle of a piece.
    fn truncate(&mut self, number: u64) -> bool {
        let Some(link) = self.links.get_mut(&number) else {
            return false;
        };
        let under_way: usize = link.up.iter().map(|(_, piece)| piece.len()).sum();
        let mut left = self.dice.below(under_way as u64 + 1) as usize;
        let mut cuts = false;
        link.up.retain_mut(|(_, piece)| {
            cuts |= left > 0 && left < piece.len();
            piece.truncate(left);
            left -= piece.len();
            !piece.is_empty()
        });
        cuts
    }

    fn put_down(&mut self, number: u64, piece: Piece) {
        let delay_ns = self.between(self.scenario.delay_ns);
        let now_ns = self.now_ns;
        let Some(link) = self.links.get_mut(&number).filter(|link| !link.vanished) else {
            return;
        };
        let at_ns = (now_ns + delay_ns).max(link.down_last_ns);
        link.down_last_ns = at_ns;
        link.down.push_back((at_ns, piece));
        self.plan(at_ns, Event::Down(number));
    }

    fn in_pieces(&mut self, bytes: Vec<u8>) -> Vec<Vec<u8>> {
        if bytes.is_empty() {
            return Vec::new();
        }
        if self.dice.below(100) >= self.scenario.pieces_percent {
            return vec![bytes];
        }
        let mut rest = bytes.as_slice();
        let mut pieces = Vec::new();
        while !rest.is_empty() && pieces.len() < 4 {
            let (piece, after) = rest.split_at(1 + self.dice.below(rest.len() as u64) as usize);
            pieces.push(piece.to_vec());
            rest = after;
        }
        if !rest.is_empty() {
            pieces.push(rest.to_vec());
        }
        self.tally
            .fault("writes that came in pieces", u64::from(pieces.len() > 1));
        pieces
    }
}
