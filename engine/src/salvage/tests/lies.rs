//! Payloads that hold whole frames of the very log that they are in: they are nobody's frames, whatever is damaged.

use super::*;

/// A recording whose stream is binary; each sample is a whole frame of the log, one that never came by itself.
fn lying() -> (MemoryDisk, BTreeMap<(u32, u8, u64), Known>) {
    lying_in(options())
}

fn lying_in(options: Options) -> (MemoryDisk, BTreeMap<(u32, u8, u64), Known>) {
    let disk = MemoryDisk::new();
    let store = recording_on(&disk, options);
    let sender = sender(&store);
    let handle = sender.open();
    let json = br#"{"name":"blob","fields":[{"name":"bytes","type":"binary"}]}"#;
    let declaration = Declaration::from_json(json).unwrap();
    let declare = control_frame(
        Kind::DECLARE,
        Lane::Live,
        1,
        0,
        0,
        0,
        &declaration.to_json(),
        sender.seed(),
    );
    sender.commit(handle, declare.unwrap());
    for sequence in 0..8 {
        let text = br#"{"kind":"lie"}"#;
        let inner = control_frame(
            Kind::EVENT,
            Lane::Live,
            0,
            50 + sequence,
            1,
            0,
            text,
            sender.seed(),
        )
        .unwrap();
        let mut builder = DataBuilder::new(&declaration);
        // So that the inner frame begins at a multiple of eight in the log.
        builder
            .push(1_000 * sequence as i64, &[Value::Bytes(inner)])
            .unwrap();
        let frame = builder.finish(1, sequence, sequence, sender.seed()).unwrap();
        sender.commit(handle, frame);
        if sequence % 3 == 2 {
            store.flush().unwrap();
        }
    }
    store.close().unwrap();
    drop(store);
    let truth = frames_of(&disk);
    assert_eq!(truth.len(), 9);
    let lies = log_files(&disk)
        .iter()
        .flat_map(|(_, bytes)| bytes.windows(3))
        .filter(|w| *w == b"lie")
        .count();
    assert_eq!(lies, 8);
    (disk, truth)
}

#[test]
fn a_frame_inside_of_a_damaged_frame_is_never_salvaged() {
    let (disk, truth) = lying();
    for (path, bytes) in log_files(&disk) {
        for at in (0..bytes.len()).step_by(5) {
            let damaged = disk.snapshot();
            damaged.damage(&path, |bytes| bytes[at] ^= 1 << (at % 8)).unwrap();
            judge(&damaged, &truth, &format!("{} byte {at}", path.display()));
        }
    }
}

#[test]
fn nor_where_the_index_is_damaged_as_well() {
    let (disk, truth) = lying();
    for known in truth.values().filter(|known| known.length > 120) {
        let damaged = disk.snapshot();
        damaged
            .damage(&segment(known.segment), |bytes| {
                bytes[known.offset as usize + 8] ^= 0x40;
                let last = bytes.len() - 70;
                bytes[last] ^= 1;
            })
            .unwrap();
        assert_eq!(judge(&damaged, &truth, &format!("{known:?} and its index")), 1);
    }
}

#[test]
fn nor_where_a_cut_took_every_list_of_frames() {
    let (disk, truth) = lying();
    let mut files = log_files(&disk);
    // Nothing on the disk says how long the last one was.
    files.pop();
    assert!(!files.is_empty());
    for (path, bytes) in files {
        for length in 0..bytes.len() {
            let damaged = disk.snapshot();
            damaged.damage(&path, |bytes| bytes.truncate(length)).unwrap();
            judge(&damaged, &truth, &format!("{} cut to {length}", path.display()));
        }
    }
}

#[test]
fn nor_does_a_reader_deliver_one_where_checkpoints_are_gone_too() {
    let long = Options {
        segment_bytes_first: 1 << 16,
        segment_bytes_max: 1 << 16,
        ..options()
    };
    let (disk, truth) = lying_in(long);
    let (path, bytes) = log_files(&disk).pop().unwrap();
    let footer = bytes.windows(8).rposition(|w| w == b"MAREYIDX").unwrap();
    disk.damage(&path, |bytes| bytes.truncate(footer)).unwrap();
    let read = |disk: &MemoryDisk| {
        let mut reader = crate::log::LogReader::open(disk, &session(), &device()).unwrap();
        let mut frames = Vec::new();
        while let Some(found) = reader.next().unwrap() {
            let header = found.frame.header();
            frames.push((
                found.offset,
                u64::from(header.length),
                header.lane,
                header.kind,
                header.sequence,
            ));
        }
        let faults = reader.faults().iter();
        let faults: Vec<_> = faults.map(|it| (it.kind, it.offset, it.bytes)).collect();
        (frames, faults)
    };
    let (whole, faults) = read(&disk);
    assert_eq!(faults, []);
    let checkpoints: Vec<u64> = whole
        .iter()
        .filter(|frame| frame.3 == Kind::CHECKPOINT)
        .map(|frame| frame.0)
        .collect();
    assert!(checkpoints.len() >= 3, "{checkpoints:?}");
    let mut tried = 0;
    for outer in truth.values().filter(|known| known.length > 120) {
        // The checkpoint behind it lists where frames begin; a later one says that all this was synced.
        let behind: Vec<u64> = checkpoints
            .iter()
            .copied()
            .filter(|at| *at > outer.offset)
            .collect();
        let [list, _, ..] = behind[..] else { continue };
        for place in [0, 3, 4, 20, 60] {
            tried += 1;
            let damaged = disk.snapshot();
            damaged
                .damage(&path, |bytes| {
                    bytes[outer.offset as usize + place] ^= 0x40;
                    bytes[list as usize + 60] ^= 1;
                })
                .unwrap();
            let (frames, faults) = read(&damaged);
            let kept = whole
                .iter()
                .filter(|frame| ![outer.offset, list].contains(&frame.0));
            assert!(frames.iter().eq(kept), "{outer:?}, byte {place}: {faults:?}");
            let length = whole.iter().find(|frame| frame.0 == list).unwrap().1;
            let expected = [(outer.offset, u64::from(outer.length)), (list, length)];
            let places: Vec<_> = faults.iter().map(|(_, at, bytes)| (*at, *bytes)).collect();
            assert_eq!(places, expected, "{outer:?}, byte {place}");
        }
    }
    assert!(tried >= 15, "{tried}");
}
