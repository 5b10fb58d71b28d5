//! Blocks of the commit journal: the codec, and a hub that opens on them.

use super::fixture::{self, HUB, JOURNAL_BLOCK_BYTES, options, recorded_block, write};
use super::mended;
use super::vectors::vectors;
use marey_engine::Store;
use marey_engine::time::simulated::SimulatedKernel;
use marey_format::journal::{Entry, Record, RecordBuilder};
use std::path::Path;
use std::sync::Arc;

/// Records, one after the other: they do not reach beyond the block, and what is taken is written again as it was.
pub fn journal_record(bytes: &[u8]) {
    walk(bytes);
    walk(&mended::block(bytes));
}

fn walk(block: &[u8]) {
    let (mut at, mut generation) = (0, None);
    while let Ok(record) = Record::parse(&block[at..], &HUB, generation) {
        generation = Some(record.header.generation);
        at += record.header.length as usize;
        assert!(at <= block.len());
        let Ok(entries) = record.entries() else { continue };
        let is_odd = |entry: &Entry<'_>| matches!(entry, Entry::Frames { bytes, .. } if !bytes.len().is_multiple_of(8));
        if entries.iter().any(is_odd) {
            // No writer makes such a one.
            continue;
        }
        let mut builder = RecordBuilder::default();
        builder.start();
        for entry in &entries {
            match entry {
                Entry::Name { log, session, device } => builder.name(*log, session, device),
                Entry::Frames {
                    log,
                    segment,
                    offset,
                    bytes,
                } => builder.frames(*log, *segment, *offset, bytes),
            }
        }
        let header = record.header;
        let again = builder.finish(&HUB, header.generation, header.commit, header.oldest);
        let again = Record::parse(again, &HUB, Some(header.generation)).expect("it was just written");
        assert_eq!(again.entries().expect("it was just written"), entries);
    }
}

/// A journal block of any bytes, found by a hub that opens: it opens or says why not; what it holds then can be read,
/// and opens again.
pub fn journal(bytes: &[u8]) {
    for block in [bytes.to_vec(), mended::block(bytes)] {
        let disk = fixture::hub().snapshot();
        write(
            &disk,
            Path::new("journal/000000.mjb"),
            &block[..block.len().min(JOURNAL_BLOCK_BYTES)],
        );
        let kernel = SimulatedKernel::new(2, fixture::UTC_NS);
        if let Ok((store, _)) = Store::open(Arc::new(disk.clone()), kernel.hub_clock(), options()) {
            store.close().expect("the disk does not fail");
            drop(store);
            Store::open(Arc::new(disk), kernel.hub_clock(), options())
                .expect("what was closed in order opens");
        }
    }
}

pub fn record_seeds() -> Vec<Vec<u8>> {
    journal_seeds()
}

pub fn journal_seeds() -> Vec<Vec<u8>> {
    let mut seeds = vectors(&["journal"], "bin");
    let recorded = recorded_block();
    let holds_frames = recorded
        .windows(4)
        .filter(|bytes| *bytes == marey_format::frame::MARK)
        .count();
    assert!(holds_frames >= 4, "only {holds_frames} frames in the block");
    seeds.push(recorded);
    seeds
}
