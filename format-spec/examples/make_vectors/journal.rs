//! Blocks of the commit journal.

use crate::Vector;
use crate::log::HUB;
use marey_format::journal::RecordBuilder;
use marey_format::types::hex;
use marey_format::{DeviceId, SessionId};
use serde_json::{Value, json};

const BLOCK_BYTES: usize = 2048;

/// A block that is being filled, and what a reader must find in it.
struct Block {
    bytes: Vec<u8>,
    records: Vec<Value>,
    generation: u64,
}

pub fn vectors() -> Vec<Vector> {
    vec![
        records(),
        fresh(),
        older_filling(),
        torn(),
        flipped(),
        gap(),
        other_hub(),
    ]
}

impl Block {
    fn new(generation: u64) -> Self {
        Self {
            bytes: Vec::new(),
            records: Vec::new(),
            generation,
        }
    }

    /// A record of frames for two logs. The journal does not look into frames: any bytes do.
    fn record(&mut self, commit: u64, oldest: u64) {
        let mut builder = RecordBuilder::default();
        let session = SessionId::new("walk").expect("it is a name");
        let mut entries = Vec::new();
        builder.start();
        for (log, device) in [(0, "phone"), (7, "watch")] {
            let device = DeviceId::new(device).expect("it is a name");
            builder.name(log, &session, &device);
            entries.push(json!({"name": log, "session": session, "device": device}));
            let bytes = vec![commit as u8 + log as u8; 24 + 8 * log as usize];
            builder.frames(log, 3, 256 + 8 * commit, &bytes);
            let frames =
                json!({"frames": log, "segment": 3, "offset": 256 + 8 * commit, "bytes": hex(&bytes)});
            entries.push(frames);
        }
        let bytes = builder.finish(&HUB, self.generation, commit, oldest);
        self.records.push(json!({
            "offset": self.bytes.len(), "length": bytes.len(), "generation": self.generation, "commit": commit,
            "oldest": oldest, "entries": entries,
        }));
        self.bytes.extend_from_slice(bytes);
    }

    /// `why` the reading ends after the records, as the codec names it.
    fn vector(mut self, name: &str, why: &str, about: &str) -> Vector {
        let end = self
            .records
            .iter()
            .map(|record| record["length"].as_u64().expect("it is a number"))
            .sum::<u64>();
        self.bytes.resize(BLOCK_BYTES.max(self.bytes.len()), 0);
        let json = json!({"about": about, "hub": hex(&HUB), "records": self.records, "end": {"offset": end, "why": why}});
        Vector::one("journal", name, self.bytes, json)
    }
}

fn records() -> Vector {
    let mut block = Block::new(41);
    (41..44).for_each(|commit| block.record(commit, 40));
    block.vector(
        "records",
        "Mark",
        "Three commits, then the zeros that the block was made with.",
    )
}

fn fresh() -> Vector {
    Block::new(0).vector("fresh", "Mark", "A block that was never used.")
}

fn older_filling() -> Vector {
    let mut old = Block::new(2);
    (2..5).for_each(|commit| old.record(commit, 1));
    let mut block = Block::new(9);
    block.record(9, 9);
    let end = block.bytes.len();
    block.bytes.extend_from_slice(&old.bytes[end..]);
    block.vector(
        "older-filling",
        "Generation",
        "One commit over an older filling of three: the rest of it counts for nothing.",
    )
}

fn torn() -> Vector {
    let mut block = Block::new(1);
    (1..4).for_each(|commit| block.record(commit, 1));
    let last = block.records.pop().expect("three were put");
    let offset = last["offset"].as_u64().expect("it is a number") as usize;
    block.bytes.truncate(offset + 100);
    block.vector("torn", "Crc", "Of the last record a part was written.")
}

fn flipped() -> Vector {
    let mut block = Block::new(1);
    (1..4).for_each(|commit| block.record(commit, 1));
    let second = block.records[1]["offset"].as_u64().expect("it is a number") as usize;
    block.bytes[second + 130] ^= 4;
    block.records.truncate(1);
    block.vector(
        "flipped-bit",
        "Crc",
        "A bit of the second record: reading ends before it.",
    )
}

fn gap() -> Vector {
    let mut block = Block::new(1);
    block.record(1, 1);
    block.record(3, 1);
    block.records.truncate(1);
    block.vector(
        "gap",
        "Commit",
        "Commit 2 is missing: commit 3 does not follow, and is not taken.",
    )
}

fn other_hub() -> Vector {
    let mut block = Block::new(1);
    block.record(1, 1);
    block.records.clear();
    let mut vector = block.vector(
        "other-hub",
        "Crc",
        "A block of another hub: no record of it passes.",
    );
    vector.json["hub"] = json!("22".repeat(16));
    vector
}
