//! Logs in which damage was found by a hub and filled again by the device: refills stand far behind their neighbours.

use super::*;
use crate::state::Meaning;

/// The bytes of a frame that a log holds.
pub(super) fn bytes_of(disk: &MemoryDisk, known: &Known) -> Vec<u8> {
    let content = disk::read_all(disk, &segment(known.segment), u64::MAX).unwrap();
    content[known.offset as usize..][..known.length as usize].to_vec()
}

/// A recording of which the hub found two frames of the first epoch damaged, and got them again after later ones.
pub(super) fn refilled() -> (MemoryDisk, BTreeMap<(u32, u8, u64), Known>) {
    let disk = record(End::Closed, 9);
    let truth = frames_of(&disk);
    let again: Vec<Vec<u8>> = [2, 5]
        .map(|sequence| bytes_of(&disk, &truth[&(0, 0, sequence)]))
        .to_vec();
    for sequence in [2, 5] {
        let known = truth[&(0, 0, sequence)];
        disk.damage(&segment(known.segment), |bytes| {
            bytes[known.offset as usize + 60] ^= 1;
            // A hub that opens trusts a whole index, and reads the frames where there is none.
            let in_index = bytes.len() - 70;
            bytes[in_index] ^= u8::try_from(sequence).unwrap();
        })
        .unwrap();
    }
    let kernel = SimulatedKernel::new(1, 1_700_000_100_000_000_000);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let (store, _) = Store::open(shared, kernel.hub_clock(), options()).unwrap();
    let open = Open {
        session: session(),
        epoch: EpochId([1; 16]),
        boot: BootId([9; 16]),
        highest_ack: Acked { data: 9, live: 2 },
    };
    let opened = store.open_log(&device(), &open).unwrap();
    assert_eq!(opened.holes.data, [(2, 3), (5, 6)]);
    let mut batch = Batch::new();
    for frame in again {
        let stamp = Stamp {
            hub: store.clock().now(),
            dev_send_ns: None,
        };
        batch.push(opened.handle, frame.into(), stamp).unwrap();
    }
    let outcomes = store.commit(&batch).unwrap().outcomes;
    assert_eq!(outcomes, [Outcome::Durable, Outcome::Durable]);
    store.close().unwrap();
    drop(store);
    (disk, truth)
}

#[test]
fn what_filled_a_hole_stands_where_the_hole_was() {
    let (disk, truth) = refilled();
    let (out, report) = recovered(&disk);
    // The damaged frames themselves are gone for good, and nothing is missing for that.
    assert_eq!(frames_of(&out).len(), truth.len());
    assert!(
        report.lost.frames.iter().all(|lost| lost.lane == "hub"),
        "{:#?}",
        report.lost
    );
    assert!(report.lost.samples.is_empty(), "{:#?}", report.lost);
    let mut replay = crate::log::Replay::open(&out, &session(), &device()).unwrap();
    let mut sequences = Vec::new();
    while let Some(found) = replay.next().unwrap() {
        let judged = found.judged.unwrap();
        if let (Meaning::Data(quarantine), Some(0)) = (judged.meaning, found.at.epoch) {
            assert_eq!(quarantine, None);
            sequences.push(judged.entry.sequence);
        }
    }
    assert_eq!(sequences, (0..9).collect::<Vec<_>>());
}

#[test]
fn every_flipped_bit_of_a_log_with_refills() {
    let (disk, truth) = refilled();
    for (path, bytes) in log_files(&disk) {
        for at in (0..bytes.len()).step_by(11) {
            let damaged = disk.snapshot();
            damaged.damage(&path, |bytes| bytes[at] ^= 1 << (at % 8)).unwrap();
            judge(&damaged, &truth, &format!("{} byte {at}", path.display()));
        }
    }
}
