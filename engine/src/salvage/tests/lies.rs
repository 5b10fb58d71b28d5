//! Payloads that hold whole frames of the very log that they are in: they are nobody's frames, whatever is damaged.

use super::*;

/// A recording whose stream is binary; each sample is a whole frame of the log, one that never came by itself.
fn lying() -> (MemoryDisk, BTreeMap<(u32, u8, u64), Known>) {
    let disk = MemoryDisk::new();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let kernel = SimulatedKernel::new(1, 1_700_000_000_000_000_000);
    Store::init(&shared, [7; 16], &options()).unwrap();
    let (store, _) = Store::open(shared, kernel.hub_clock(), options()).unwrap();
    store.create_session(NewSession::open_to_all(session())).unwrap();
    store.start_session(&session()).unwrap();
    let epoch = EpochId([1; 16]);
    let sender = Sender {
        store: &store,
        epoch,
        live: 0,
        data: 0,
        chain: Default::default(),
    };
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
