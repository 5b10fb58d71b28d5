//! All counters of an epoch, as they stand in the buffer's file.
//!
//! Owns: their JSON, and taking in a frame again after a restart. Invariant: taking in the frames that follow a
//! record of counters gives the counters as they were when the program died.

use marey_format::frame::{Columns, Flags, Frame};
use marey_format::payload::{EndOfStream, Lost, LostCause};
use marey_format::{Declaration, DigestChain, Kind};
use serde::{Deserialize, Serialize};

use super::stream::Stream;

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Counters {
    pub(super) next_sequence: [u64; 2],
    pub(super) streams: Vec<StreamCounters>,
    pub(super) ended: bool,
    /// A frame did not fit what came before: the epoch is not gone on with.
    #[serde(skip)]
    inconsistent: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct StreamCounters {
    pub(super) declaration: Declaration,
    pub(super) next_index: u64,
    pub(super) captured: u64,
    pub(super) lost: u64,
    pub(super) frames: u64,
    #[serde(with = "digest_hex")]
    pub(super) digest: DigestChain,
    pub(super) last_time_ns: Option<i64>,
    pub(super) ended: bool,
}

impl StreamCounters {
    pub(super) fn new(declaration: Declaration) -> Self {
        Self {
            declaration,
            next_index: 0,
            captured: 0,
            lost: 0,
            frames: 0,
            digest: DigestChain::default(),
            last_time_ns: None,
            ended: false,
        }
    }

    pub(super) fn count_frame(&mut self, crc: u32, sequence: u64, samples: u64) {
        self.digest.push(crc, sequence);
        self.frames += 1;
        self.captured = self.captured.saturating_add(samples);
        self.next_index = self.next_index.saturating_add(samples);
    }
}

impl Counters {
    pub(super) fn of(next_sequence: [u64; 2], streams: &[Stream], ended: bool) -> Self {
        let streams = streams.iter().map(|stream| stream.counters().clone()).collect();
        Self {
            next_sequence,
            streams,
            ended,
            inconsistent: false,
        }
    }

    pub(super) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("counters have string keys and finite numbers only")
    }

    pub(super) fn from_json(json: &[u8]) -> Option<Self> {
        serde_json::from_slice(json).ok()
    }

    pub(super) fn is_inconsistent(&self) -> bool {
        self.inconsistent
    }

    /// Counts a frame that was made after these counters were written.
    pub(super) fn take_in(&mut self, frame: &Frame<'_>) {
        let header = frame.header();
        if let Some(next) = self.next_sequence.get_mut(header.lane as usize) {
            *next = header.sequence.saturating_add(1);
        }
        let at = (header.stream as usize).wrapping_sub(1);
        match header.kind {
            Kind::DECLARE => match Declaration::from_json(frame.payload()) {
                Ok(declaration) if at == self.streams.len() => {
                    self.streams.push(StreamCounters::new(declaration))
                }
                Ok(declaration)
                    if self
                        .streams
                        .get(at)
                        .is_some_and(|known| known.declaration == declaration) => {}
                _ => self.inconsistent = true,
            },
            // This program encrypts nothing: such a frame is not its own.
            Kind::DATA if header.flags.contains(Flags::ENCRYPTED) => self.inconsistent = true,
            Kind::DATA => match self.streams.get_mut(at) {
                Some(stream) => {
                    stream.last_time_ns = last_time_ns(frame, &stream.declaration).or(stream.last_time_ns);
                    stream.next_index = header.first_index;
                    stream.count_frame(header.crc, header.sequence, u64::from(header.count));
                }
                None => self.inconsistent = true,
            },
            Kind::EVENT => {
                if let Some(stream) = self.streams.get_mut(at)
                    && let Ok(lost) = frame.json::<Lost>("an event")
                    && lost.kind == Lost::KIND
                    && lost.cause == LostCause::NeverCaptured
                {
                    stream.next_index = stream.next_index.max(lost.last.saturating_add(1));
                }
            }
            Kind::END => match (self.streams.get_mut(at), frame.json::<EndOfStream>("an end")) {
                (Some(stream), Ok(_)) => stream.ended = true,
                _ => self.inconsistent = true,
            },
            _ => {}
        }
    }
}

fn last_time_ns(frame: &Frame<'_>, declaration: &Declaration) -> Option<i64> {
    Columns::parse(frame, declaration)
        .ok()
        .map(|columns| columns.times.last())
}

mod digest_hex {
    use marey_format::DigestChain;
    use marey_format::types::unhex;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(digest: &DigestChain, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&digest.to_hex())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<DigestChain, D::Error> {
        let text = String::deserialize(from)?;
        unhex(&text)
            .map(DigestChain)
            .ok_or_else(|| D::Error::custom("a digest of 64 hexadecimal digits"))
    }
}
