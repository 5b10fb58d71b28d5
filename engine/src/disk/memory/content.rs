//! Bytes of a file in memory, in pages that copies share until one of them writes.
//!
//! Owns: reading, writing, lengths. Does not own: what of it is durable. A copy costs a pointer for each page, so that a
//! test can keep the disk as it was before each of a thousand operations.

use std::sync::Arc;

const PAGE_BYTES: usize = 4096;

type Page = [u8; PAGE_BYTES];

/// What a file holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    /// None: zeros.
    pages: Vec<Option<Arc<Page>>>,
    bytes: usize,
}

impl Content {
    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    /// Reads up to `to.len()` bytes.
    pub(super) fn read(&self, offset: usize, to: &mut [u8]) -> usize {
        let length = to.len().min(self.bytes.saturating_sub(offset));
        for (page, within, range) in pieces(offset, length) {
            match &self.pages[page] {
                Some(page) => to[range.clone()].copy_from_slice(&page[within..within + range.len()]),
                None => to[range].fill(0),
            }
        }
        length
    }

    /// Writes all of `bytes`; what lies between the old end and `offset` becomes zeros.
    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) {
        if self.bytes < offset + bytes.len() {
            self.resize(offset + bytes.len());
        }
        for (page, within, range) in pieces(offset, bytes.len()) {
            let page = self.pages[page].get_or_insert_with(|| Arc::new([0; PAGE_BYTES]));
            Arc::make_mut(page)[within..within + range.len()].copy_from_slice(&bytes[range]);
        }
    }

    pub(super) fn resize(&mut self, bytes: usize) {
        self.pages.resize(bytes.div_ceil(PAGE_BYTES), None);
        let within = bytes % PAGE_BYTES;
        if bytes < self.bytes
            && within > 0
            && let Some(Some(last)) = self.pages.last_mut()
        {
            // A file that grows again finds zeros there.
            Arc::make_mut(last)[within..].fill(0);
        }
        self.bytes = bytes;
    }

    pub(super) fn to_vec(&self) -> Vec<u8> {
        let mut all = vec![0; self.bytes];
        self.read(0, &mut all);
        all
    }
}

impl From<&[u8]> for Content {
    fn from(bytes: &[u8]) -> Self {
        let mut content = Self::default();
        content.write(0, bytes);
        content
    }
}

/// The pages of a range: number, first byte within it, and which of the range's bytes these are.
fn pieces(offset: usize, length: usize) -> impl Iterator<Item = (usize, usize, std::ops::Range<usize>)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at == length {
            return None;
        }
        let (page, within) = ((offset + at) / PAGE_BYTES, (offset + at) % PAGE_BYTES);
        let end = length.min(at + PAGE_BYTES - within);
        let range = at..end;
        at = end;
        Some((page, within, range))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_a_vector_would_be() {
        let mut dice = super::super::Dice(7);
        let (mut content, mut model) = (Content::default(), Vec::<u8>::new());
        for round in 0..2000 {
            let offset = dice.below(20_000) as usize;
            let length = dice.below(9000) as usize;
            let copy = content.clone();
            let before = model.clone();
            match dice.below(4) {
                0 => {
                    content.resize(offset);
                    model.resize(offset, 0);
                }
                _ if length > 0 => {
                    let bytes = vec![round as u8; length];
                    content.write(offset, &bytes);
                    model.resize(model.len().max(offset + length), 0);
                    model[offset..offset + length].copy_from_slice(&bytes);
                }
                _ => {}
            }
            assert_eq!(content.to_vec(), model);
            assert_eq!(copy.to_vec(), before, "a copy does not change");
            let mut some = vec![9; length];
            let read = content.read(offset, &mut some);
            assert_eq!(
                some[..read],
                model[offset.min(model.len())..(offset + length).min(model.len())]
            );
        }
    }
}
