//! A list of operations on a hub, held against a plain model of it.
//!
//! The bytes are a list of commands of three bytes each (`command`). The `world` carries each out on a hub on a faulty
//! disk, and on the `model`, which is a map of what was acknowledged and a few lines of rules; they must agree on every
//! answer. After each death of the process and each cut of the power the logs are read back: what was acknowledged is
//! there, once, whole and in order; what is there besides was under way at that moment. At the end the session is
//! sealed, and every row that the model knows stands in Parquet.

mod command;
mod content;
mod model;
mod published;
mod world;

use command::Command;
use marey_engine::disk::memory::Dice;
use world::World;

/// Commands of one list, at most: a longer one says no more, and takes longer.
const COMMANDS_MAX: usize = 96;

/// Runs a list of operations.
pub fn store_ops(bytes: &[u8]) {
    let mut world = World::new();
    for (at, bytes) in bytes.chunks_exact(Command::BYTES).take(COMMANDS_MAX).enumerate() {
        world.carry_out(Command::from_bytes([bytes[0], bytes[1], bytes[2]]), at as u64);
    }
    world.finish();
}

/// Lists that somebody might write by hand: a recording, with each kind of trouble in it.
pub fn seeds() -> Vec<Vec<u8>> {
    use command::Command::*;
    use command::Sequence;
    let push = |device, lane, variant| Push {
        device,
        older_epoch: false,
        lane,
        variant,
        sequence: Sequence::Next,
        amount: 0,
    };
    let like = |sequence, amount| Push {
        device: 0,
        older_epoch: false,
        lane: 0,
        variant: 0,
        sequence,
        amount,
    };
    let declare = [push(0, 1, 0), push(1, 1, 2), Commit];
    let data = [push(0, 0, 0), push(0, 0, 3), push(1, 0, 1), push(0, 0, 2), Commit];
    let rounds = |between: &[Command]| {
        let mut list = declare.to_vec();
        for command in between {
            list.extend(data);
            list.push(*command);
        }
        list
    };
    let lists = [
        rounds(&[Flush, Maintain, Stop, Seal, Seal, CloseSession]),
        rounds(&[
            Kill,
            Reopen,
            Cut { dice: 7 },
            Cut { dice: 0 },
            Stop,
            Cut { dice: 9 },
            Seal,
        ]),
        rounds(&[
            like(Sequence::Duplicate, 1),
            like(Sequence::Duplicate, 6),
            Flush,
            like(Sequence::Reused, 2),
            like(Sequence::Gap, 2),
            like(Sequence::Skewed, 1),
        ]),
        rounds(&[
            ArmCut { after: 3 },
            ArmCut { after: 9 },
            CutTwice { dice: 3, after: 12 },
            ArmCut { after: 30 },
        ]),
        rounds(&[
            NewEpoch { device: 0 },
            Open { device: 1 },
            Kill,
            NewEpoch { device: 1 },
            Roll,
            Stop,
            Seal,
        ]),
        rounds(&[
            Room,
            Flush,
            Room,
            Fail {
                after: 2,
                full: true,
                forever: false,
            },
            Kill,
        ]),
        rounds(&[
            Fail {
                after: 1,
                full: false,
                forever: true,
            },
            Fail {
                after: 5,
                full: false,
                forever: false,
            },
            Seal,
        ]),
        // Data before its declaration, and a declaration that differs.
        vec![
            push(0, 0, 0),
            Commit,
            push(0, 1, 0),
            push(0, 0, 0),
            Commit,
            push(0, 1, 2),
            push(0, 1, 1),
            CommitInTwo,
        ],
    ];
    let by_hand = lists
        .iter()
        .map(|list| list.iter().flat_map(|command| command.to_bytes()).collect());
    // And some that nobody would.
    let by_dice = (0..24).map(|seed| {
        let mut dice = Dice(seed);
        let declared = declare.iter().flat_map(|command| command.to_bytes());
        declared
            .chain((0..40 * Command::BYTES).map(|_| dice.roll() as u8))
            .collect()
    });
    // A sync that fails, a start, a session sealed, a power cut: what the cache had of a segment that was cut is gone.
    let found = [
        0x00, 0x04, 0x00, 0x00, 0x15, 0x00, 0x08, 0xff, 0xff, 0x3e, 0x7a, 0x0a, 0x92, 0x97, 0xfe, 0xb3, 0xa8,
        0x0b, 0xe1, 0x01, 0x00, 0x00, 0x1a, 0x36, 0x69, 0x6f, 0x75, 0x73, 0x4b, 0xf8, 0x13, 0x22, 0x2e, 0x98,
        0x64, 0xd9,
    ];
    // An operation that fails while the session is sealed, a second seal, a power cut: the footer whose sync had failed is gone.
    let also_found = [
        0x72, 0xc4, 0x3c, 0x37, 0x21, 0x77, 0x63, 0x6f, 0x00, 0x00, 0x00, 0x00, 0xcf, 0x39, 0xc5, 0x75, 0x41,
        0xf3, 0x1d, 0x0a, 0x0c, 0x4a, 0x85, 0x39, 0x07, 0xd3, 0x41, 0xf3, 0x73, 0x65, 0x73, 0x6f, 0x25, 0x98,
        0xf7, 0xc5,
    ];
    let found = [found.to_vec(), also_found.to_vec()];
    by_hand.chain(by_dice).chain(found).collect()
}
