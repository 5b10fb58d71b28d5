//! RLE_DICTIONARY: the distinct values once, and for each value its place among them.
//!
//! Source: Apache Parquet, Encodings.md, "Dictionary Encoding" and "Run Length Encoding / Bit-Packing Hybrid". Values are
//! told apart by their bits, so that each NaN and either zero comes back as it was.

use super::delta::{pack, varint};

/// As short a run of one value as is worth leaving the packed ones for; packed values come in such groups.
const GROUP: usize = 8;

/// The distinct values of a column, in the order in which they came.
#[derive(Debug, Default)]
pub struct Dictionary {
    values: Vec<u64>,
    /// Open addressing: places in `values`, and one more; 0 where nothing is. A power of two.
    slots: Vec<u32>,
    #[cfg(test)]
    probes: u64,
}

impl Dictionary {
    pub fn len(&self) -> usize {
        self.values.len()
    }

    pub fn values(&self) -> &[u64] {
        &self.values
    }

    #[cfg(test)]
    pub fn probes(&self) -> u64 {
        self.probes
    }

    pub fn clear(&mut self) {
        self.values.clear();
        self.slots.fill(0);
    }

    /// The places of values, in `places`; false, and nothing is taken back, once there are more than `most` values.
    pub fn place(&mut self, values: impl Iterator<Item = u64>, most: usize, places: &mut Vec<u32>) -> bool {
        places.clear();
        let mut last: Option<(u64, u32)> = None;
        for value in values {
            let place = match last {
                Some((bits, place)) if bits == value => place,
                _ => self.find(value),
            };
            if self.values.len() > most {
                return false;
            }
            last = Some((value, place));
            places.push(place);
        }
        true
    }

    fn find(&mut self, value: u64) -> u32 {
        if self.slots.len() < 2 * (self.values.len() + 1) {
            self.grow();
        }
        let mask = self.slots.len() - 1;
        let mut at = hash(value, self.slots.len());
        loop {
            #[cfg(test)]
            {
                self.probes += 1;
            }
            match self.slots[at] {
                0 => {
                    self.values.push(value);
                    self.slots[at] = self.values.len() as u32;
                    return self.slots[at] - 1;
                }
                place if self.values[place as usize - 1] == value => return place - 1,
                _ => at = (at + 1) & mask,
            }
        }
    }

    fn grow(&mut self) {
        let slots = (2 * self.slots.len()).max(1 << 10);
        self.slots.clear();
        self.slots.resize(slots, 0);
        for (place, &value) in self.values.iter().enumerate() {
            let mut at = hash(value, slots);
            while self.slots[at] != 0 {
                at = (at + 1) & (slots - 1);
            }
            self.slots[at] = place as u32 + 1;
        }
    }
}

/// A slot out of `slots`, a power of two: the highest bits of the product, which depend on all bits of the value (Fibonacci
/// hashing; Knuth, vol. 3, 6.4). Floats of few digits have nothing in their low ones.
fn hash(value: u64, slots: usize) -> usize {
    (value.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - slots.trailing_zeros())) as usize
}

/// Appends the body of a page of places in a dictionary of `distinct` values: their width, and runs.
pub fn encode_places(places: &[u32], distinct: usize, out: &mut Vec<u8>) {
    let width = usize::BITS - distinct.saturating_sub(1).leading_zeros();
    out.push(width as u8);
    let packed = |places: &[u32], out: &mut Vec<u8>| {
        if !places.is_empty() {
            let groups = places.len().div_ceil(GROUP);
            varint((groups << 1 | 1) as u64, out);
            let padding = groups * GROUP - places.len();
            let values = places.iter().copied().chain(std::iter::repeat_n(0, padding));
            pack(values.map(u64::from), width, out);
        }
    };
    // Where the packed values that are not written yet begin.
    let (mut from, mut at) = (0, 0);
    while at < places.len() {
        let same = |place: &&u32| **place == places[at];
        let mut run = places[at..].iter().take_while(same).count();
        let end = at + run;
        if (at - from) % GROUP != 0 {
            // The group that was begun takes the first of them.
            let filled = (GROUP - (at - from) % GROUP).min(run);
            run -= filled;
        }
        if run >= GROUP {
            packed(&places[from..end - run], out);
            varint((run << 1) as u64, out);
            let place = places[at].to_le_bytes();
            out.extend_from_slice(&place[..width.div_ceil(8) as usize]);
            from = end;
        }
        at = end;
    }
    packed(&places[from..], out);
}
