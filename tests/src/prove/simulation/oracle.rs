//! What the devices know of themselves: every sample that they took, every frame that they wrote, every ack that they got.
//!
//! Kept outside of hub and client: samples as they were pushed, frames as they stood in the bytes on the wire, acks as the
//! client told them to its embedder.

use marey_format::frame::Frame;
use marey_format::wire::{Ack, MESSAGE_HEADER_BYTES, MessageHeader, MessageType, Open, parse_json};
use marey_format::{BootId, DeviceId, EpochId};
use std::collections::{BTreeMap, BTreeSet};

/// A frame's name within a device: epoch, lane, sequence.
pub type FrameKey = (EpochId, u8, u64);

/// What one device knows.
#[derive(Debug)]
pub struct Book {
    pub device: DeviceId,
    /// Every sample, by the number that it carries as a value.
    pub samples: Vec<Sample>,
    /// Every frame that was put on a wire, with its bytes.
    pub made: BTreeMap<FrameKey, Vec<u8>>,
    /// Every frame that the client was told to be durable.
    pub acked: BTreeSet<FrameKey>,
    /// Samples that were taken, by epoch and stream, but for those that died with a process before they were a frame.
    pub captured: BTreeMap<(EpochId, usize), u64>,
    /// Boots in which the clock broke what a bound assumes.
    pub broken_boots: BTreeSet<BootId>,
}

/// One sample.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub stream: usize,
    pub index: u64,
    pub device_ns: i64,
    pub true_ns: u64,
}

impl Sample {
    /// The second value of a sample, by its number.
    pub fn value(number: usize) -> f64 {
        (number as f64 * 0.37).sin() * 1e3
    }
}

impl Book {
    pub fn new(device: DeviceId) -> Self {
        Self {
            device,
            samples: Vec::new(),
            made: BTreeMap::new(),
            acked: BTreeSet::new(),
            captured: BTreeMap::new(),
            broken_boots: BTreeSet::new(),
        }
    }

    /// Takes in what the device writes: whole messages. `opened` is told of the epoch that a channel is opened for.
    pub fn wrote(
        &mut self,
        bytes: &[u8],
        mut opened: impl FnMut(u16, EpochId),
        epochs: impl Fn(u16) -> Option<EpochId>,
    ) -> Result<(), String> {
        let mut own = BTreeMap::new();
        for (header, body) in messages(bytes)? {
            match header.kind {
                MessageType::Open => {
                    let open: Open = parse_json(header.kind, body).map_err(|error| error.to_string())?;
                    own.insert(header.channel, open.epoch);
                    opened(header.channel, open.epoch);
                }
                MessageType::Frame => {
                    let frame = Frame::parse(body).map_err(|error| error.to_string())?;
                    let epoch = own
                        .get(&header.channel)
                        .copied()
                        .or_else(|| epochs(header.channel));
                    let epoch = epoch.ok_or("a frame on a channel that was not opened")?;
                    let key = (epoch, frame.header().lane as u8, frame.header().sequence);
                    let before = self.made.entry(key).or_insert_with(|| body.to_vec());
                    if before != body {
                        return Err(format!(
                            "{} sends frame {key:?} with other bytes than before",
                            self.device
                        ));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The acks in what the hub writes: channel and ack.
pub fn acks(bytes: &[u8]) -> Result<Vec<(u16, Ack)>, String> {
    let mut acks = Vec::new();
    for (header, body) in messages(bytes)? {
        if header.kind == MessageType::Ack {
            acks.push((
                header.channel,
                Ack::parse(body).ok_or("an ack that can't be read")?,
            ));
        }
    }
    Ok(acks)
}

fn messages(mut bytes: &[u8]) -> Result<Vec<(MessageHeader, &[u8])>, String> {
    let mut messages = Vec::new();
    while let Some((header, rest)) = bytes.split_first_chunk::<MESSAGE_HEADER_BYTES>() {
        let header = MessageHeader::parse(*header).map_err(|refusal| refusal.to_string())?;
        let Some((body, rest)) = rest.split_at_checked(header.length as usize) else {
            return Err("a message is written in two parts".into());
        };
        messages.push((header, body));
        bytes = rest;
    }
    match bytes.is_empty() {
        true => Ok(messages),
        false => Err("a message is written in two parts".into()),
    }
}
