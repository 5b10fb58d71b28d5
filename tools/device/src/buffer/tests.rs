//! The buffer against a model that keeps everything in a map, in memory and on disk, across restarts.

use std::collections::BTreeMap;
use std::fs::File;

use marey_format::frame::control_frame;
use marey_format::{BootId, DeviceId, EpochId, Kind, Seed, SessionId};
use proptest::prelude::*;

use super::*;

fn identity() -> Identity {
    Identity {
        device: DeviceId::new("belt").unwrap(),
        session: SessionId::new("walk").unwrap(),
        epoch: EpochId([5; 16]),
        boot: BootId([6; 16]),
    }
}

fn frame(lane: Lane, sequence: u64, payload: usize) -> Vec<u8> {
    control_frame(Kind::STATE, lane, 0, sequence, 0, 1, &vec![7; payload], Seed(1)).unwrap()
}

fn reopen(folder: &std::path::Path, options: &BufferOptions) -> (FrameBuffer, bool) {
    let path = restore_all(folder).unwrap().pop().unwrap();
    let (file, mut restored) = BufferFile::restore(&path, |_| ()).unwrap();
    assert_eq!(restored.identity, identity());
    let damaged = restored.damaged;
    (FrameBuffer::restored(options, &mut restored, file), damaged)
}

fn sequences(buffer: &FrameBuffer, lane: Lane) -> Vec<u64> {
    buffer
        .unacknowledged()
        .filter(|header| header.lane == lane)
        .map(|header| header.sequence)
        .collect()
}

#[derive(Debug, Clone)]
enum Op {
    Push { live: bool, jump: u64, payload: usize },
    Send { live: bool },
    Ack { data: u64, live: u64, safe: u64 },
    Reconnect { data_back: u64 },
    Rewind { back: u64 },
    Restart,
    Compact,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (any::<bool>(), 0u64..3, 0usize..600).prop_map(|(live, jump, payload)| Op::Push { live, jump, payload }),
        5 => any::<bool>().prop_map(|live| Op::Send { live }),
        3 => (0u64..6, 0u64..6, 0u64..9).prop_map(|(data, live, safe)| Op::Ack { data, live, safe }),
        1 => (0u64..3).prop_map(|data_back| Op::Reconnect { data_back }),
        1 => (0u64..5).prop_map(|back| Op::Rewind { back }),
        1 => Just(Op::Restart),
        1 => Just(Op::Compact),
    ]
}

#[derive(Default)]
struct Model {
    held: [BTreeMap<u64, Vec<u8>>; 2],
    ever: [BTreeMap<u64, Vec<u8>>; 2],
    next: [u64; 2],
    durable: [u64; 2],
    safe: [u64; 2],
    cursor: [u64; 2],
}

impl Model {
    fn discard(&mut self, retain: Retain) {
        for lane in 0..2 {
            let below = match retain {
                Retain::UntilDurable => self.durable[lane],
                Retain::UntilSafe => self.safe[lane].min(self.durable[lane]),
            };
            self.held[lane].retain(|sequence, _| *sequence >= below);
        }
    }

    fn wanted(&self, lane: usize) -> Option<u64> {
        self.held[lane]
            .range(self.cursor[lane].max(self.durable[lane])..)
            .next()
            .map(|(sequence, _)| *sequence)
    }
}

fn run(ops: Vec<Op>, retain: Retain, on_disk: bool) {
    let folder = tempfile::tempdir().unwrap();
    let options = BufferOptions {
        retain,
        ..BufferOptions::default()
    };
    let mut buffer = if on_disk {
        FrameBuffer::on_disk(&options, BufferFile::create(folder.path(), &identity()).unwrap())
    } else {
        FrameBuffer::in_memory(&options)
    };
    let mut model = Model::default();
    for op in ops {
        match op {
            Op::Push { live, jump, payload } => {
                let (lane, at) = if live { (Lane::Live, 1) } else { (Lane::Data, 0) };
                let sequence = model.next[at] + jump;
                let bytes = frame(lane, sequence, payload);
                model.next[at] = sequence + 1;
                model.held[at].insert(sequence, bytes.clone());
                model.ever[at].insert(sequence, bytes.clone());
                assert!(buffer.push(bytes).unwrap().is_empty());
            }
            Op::Send { live } => {
                let (lane, at) = if live { (Lane::Live, 1) } else { (Lane::Data, 0) };
                let next = buffer.next(lane).cloned();
                assert_eq!(next.as_ref().map(|held| held.header.sequence), model.wanted(at));
                if let Some(held) = next {
                    let mut bytes = Vec::new();
                    buffer.load(&held, &mut bytes).unwrap();
                    assert_eq!(bytes, model.held[at][&held.header.sequence]);
                    buffer.sent(lane, held.header.sequence);
                    model.cursor[at] = held.header.sequence + 1;
                }
            }
            Op::Ack { data, live, safe } => {
                let before = model.durable;
                for (lane, by) in [data, live].into_iter().enumerate() {
                    // A hub acknowledges what was sent, never more.
                    model.durable[lane] = (before[lane] + by).min(model.cursor[lane]).max(before[lane]);
                    model.safe[lane] = (model.safe[lane] + safe)
                        .min(model.durable[lane])
                        .max(model.safe[lane]);
                }
                let expected: Vec<u64> = (0..2)
                    .flat_map(|lane| {
                        model.held[lane]
                            .range(before[lane]..model.durable[lane])
                            .map(|(s, _)| *s)
                    })
                    .collect();
                let fresh = buffer.acknowledged(model.durable, model.safe).unwrap();
                assert_eq!(
                    fresh.iter().map(|header| header.sequence).collect::<Vec<_>>(),
                    expected
                );
                model.discard(retain);
            }
            Op::Reconnect { data_back } => {
                buffer.disconnected();
                // The hub may have lost what it had acknowledged.
                model.durable[0] = model.durable[0].saturating_sub(data_back);
                model.cursor = [0; 2];
                let next = Acked {
                    data: model.durable[0],
                    live: model.durable[1],
                };
                assert!(buffer.opened(next, &Holes::default()).unwrap().is_empty());
                model.discard(retain);
            }
            Op::Rewind { back } => {
                let to = model.cursor[0].saturating_sub(back);
                buffer.rewind(Lane::Data, to);
                model.cursor[0] = to;
            }
            Op::Restart if on_disk => {
                drop(buffer);
                let (again, damaged) = reopen(folder.path(), &options);
                assert!(!damaged);
                buffer = again;
                model.cursor = [0; 2];
                // A file may still have what was let go before a hub lost it again: more than the model, never less.
                for at in 0..2 {
                    let found: Vec<u64> = buffer.lanes[at]
                        .held_mut()
                        .map(|held| held.header.sequence)
                        .collect();
                    assert!(model.held[at].keys().all(|sequence| found.contains(sequence)));
                    let found = found
                        .into_iter()
                        .map(|sequence| (sequence, model.ever[at][&sequence].clone()));
                    model.held[at] = found.collect();
                }
            }
            Op::Compact if on_disk => {
                let file = buffer.file.as_mut().unwrap();
                file.compact(b"{}", &mut buffer.lanes).unwrap();
            }
            Op::Restart | Op::Compact => {}
        }
        for (at, lane) in Lane::DEVICES.into_iter().enumerate() {
            let waiting: Vec<u64> = model.held[at]
                .range(model.durable[at]..)
                .map(|(sequence, _)| *sequence)
                .collect();
            assert_eq!(sequences(&buffer, lane), waiting);
        }
        let held: usize = model.held.iter().flat_map(BTreeMap::values).map(Vec::len).sum();
        assert_eq!(buffer.held_bytes(), held as u64);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_leaves_unacknowledged(
        ops in prop::collection::vec(op(), 1..120),
        until_safe in any::<bool>(),
        on_disk in any::<bool>(),
    ) {
        run(ops, if until_safe { Retain::UntilSafe } else { Retain::UntilDurable }, on_disk);
    }

    #[test]
    fn a_file_cut_anywhere_gives_a_prefix(cut in 0u64..6_000, frames in 1u64..12) {
        let folder = tempfile::tempdir().unwrap();
        let options = BufferOptions::default();
        let mut buffer = FrameBuffer::on_disk(&options, BufferFile::create(folder.path(), &identity()).unwrap());
        for sequence in 0..frames {
            buffer.push(frame(Lane::Data, sequence, 300)).unwrap();
        }
        drop(buffer);
        let path = restore_all(folder.path()).unwrap().pop().unwrap();
        let length = std::fs::metadata(&path).unwrap().len();
        let cut = cut % length;
        File::options().write(true).open(&path).unwrap().set_len(cut).unwrap();
        match BufferFile::restore(&path, |_| ()) {
            Ok((file, mut restored)) => {
                prop_assert!(!restored.damaged);
                let mut buffer = FrameBuffer::restored(&options, &mut restored, file);
                let kept = sequences(&buffer, Lane::Data);
                prop_assert_eq!(&kept, &(0..kept.len() as u64).collect::<Vec<_>>());
                // What was torn is gone for good, and the file goes on where it stopped.
                buffer.push(frame(Lane::Data, 100, 8)).unwrap();
                drop(buffer);
                let (buffer, damaged) = reopen(folder.path(), &options);
                prop_assert!(!damaged);
                prop_assert_eq!(sequences(&buffer, Lane::Data).len(), kept.len() + 1);
            }
            Err(error) => {
                let nothing_left = matches!(error, BufferError::Damaged { offset: 0, .. });
                prop_assert!(nothing_left, "{}", error);
            }
        }
    }
}

#[test]
fn damage_before_the_end_is_kept_aside() {
    let folder = tempfile::tempdir().unwrap();
    let options = BufferOptions::default();
    let mut buffer = FrameBuffer::on_disk(&options, BufferFile::create(folder.path(), &identity()).unwrap());
    for sequence in 0..5 {
        buffer.push(frame(Lane::Data, sequence, 200)).unwrap();
    }
    drop(buffer);
    let path = restore_all(folder.path()).unwrap().pop().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() - 500;
    bytes[middle] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let (mut file, mut restored) = BufferFile::restore(&path, |_| ()).unwrap();
    assert!(restored.damaged);
    file.set_damage_aside(b"{}", &mut restored).unwrap();
    let buffer = FrameBuffer::restored(&options, &mut restored, file);
    assert_eq!(sequences(&buffer, Lane::Data), [0, 1, 2]);
    assert_eq!(std::fs::read(path.with_extension("damaged")).unwrap(), bytes);
    drop(buffer);
    assert!(!reopen(folder.path(), &options).1);
}

#[test]
fn a_full_buffer_refuses_or_lets_the_oldest_go_and_says_so() {
    let small = BufferOptions {
        bytes_max: 1_000,
        ..BufferOptions::default()
    };
    let mut refusing = FrameBuffer::in_memory(&small);
    let mut dropping = FrameBuffer::in_memory(&BufferOptions {
        when_full: WhenFull::DropOldest,
        ..small.clone()
    });
    for sequence in 0..3 {
        refusing.push(frame(Lane::Data, sequence, 252)).unwrap();
        assert!(
            dropping
                .push(frame(Lane::Data, sequence, 252))
                .unwrap()
                .is_empty()
        );
    }
    let error = refusing.push(frame(Lane::Data, 3, 252)).unwrap_err();
    assert!(
        matches!(
            error,
            BufferError::Full {
                held_bytes: 912,
                frame_bytes: 304,
                bytes_max: 1_000
            }
        ),
        "{error}"
    );
    assert_eq!(
        dropping.push(frame(Lane::Data, 3, 252)).unwrap(),
        [Dropped {
            stream: 0,
            samples: 1
        }]
    );
    assert_eq!(sequences(&refusing, Lane::Data), [0, 1, 2]);
    assert_eq!(sequences(&dropping, Lane::Data), [1, 2, 3]);
    assert!(matches!(
        dropping.push(frame(Lane::Data, 4, 2_000)),
        Err(BufferError::Full { .. })
    ));
    assert_eq!(sequences(&dropping, Lane::Data), [1, 2, 3]);
    // The live lane has room of its own.
    refusing.push(frame(Lane::Live, 0, 252)).unwrap();
    // What is durable and merely kept until safe makes room before anything is refused.
    let mut patient = FrameBuffer::in_memory(&BufferOptions {
        retain: Retain::UntilSafe,
        ..small
    });
    for sequence in 0..3 {
        patient.push(frame(Lane::Data, sequence, 252)).unwrap();
    }
    patient.acknowledged([2, 0], [0, 0]).unwrap();
    assert_eq!(patient.held_bytes(), 912);
    assert!(patient.push(frame(Lane::Data, 3, 252)).unwrap().is_empty());
    assert_eq!(sequences(&patient, Lane::Data), [2, 3]);
}

#[test]
fn holes_are_sent_first_and_only_once() {
    let options = BufferOptions {
        retain: Retain::UntilSafe,
        ..BufferOptions::default()
    };
    let mut buffer = FrameBuffer::in_memory(&options);
    for sequence in 0..8 {
        buffer.push(frame(Lane::Data, sequence, 8)).unwrap();
        buffer.sent(Lane::Data, sequence);
    }
    buffer.acknowledged([6, 0], [1, 0]).unwrap();
    buffer.disconnected();
    let holes = Holes {
        data: vec![(0, 1), (2, 4)],
        live: Vec::new(),
    };
    buffer.opened(Acked { data: 6, live: 0 }, &holes).unwrap();
    let mut sent = Vec::new();
    while let Some(held) = buffer.next(Lane::Data) {
        sent.push(held.header.sequence);
        buffer.sent(Lane::Data, *sent.last().unwrap());
    }
    assert_eq!(sent, [2, 3, 6, 7]);
    assert_eq!(buffer.highest_ack(), Acked { data: 6, live: 0 });
    assert!(!buffer.is_settled());
    buffer.acknowledged([8, 0], [1, 0]).unwrap();
    assert!(buffer.is_settled());
}
