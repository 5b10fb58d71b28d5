//! Logs that are shorter than a manifest knows them: what reading alone can't tell from a log that was never sealed.

use super::inventory::Inventory;
use super::view::View;
use crate::compact::Manifest;
use crate::disk::Disk;
use crate::log::{Fault, FaultKind, segment_number};
use crate::session::Session;
use marey_format::frame::{HEADER_BYTES, Kind, Lane};
use marey_format::log::{INDEX_MAGIC, IndexEntry, SEGMENT_HEADER_BYTES, TRAILER_BYTES};
use marey_format::payload::Checkpoint;

/// Segments whose end is gone.
#[derive(Debug, Default)]
pub(super) struct Short {
    /// Frames went with them.
    pub lost: Vec<Fault>,
    /// All frames are there: only an index was cut off.
    whole: Vec<Fault>,
}

impl Short {
    /// Holds a log against what a generation was made of.
    pub fn of(view: &View, manifest: &Manifest, inventory: &Inventory) -> Self {
        let Some(fact) = manifest.log(&inventory.device) else {
            return Self::default();
        };
        let held = |lane| inventory.items.iter().filter(|item| item.lane == lane).count() as u64;
        let data = fact.data_frames.saturating_sub(held(Lane::Data));
        let live = fact.live_frames.saturating_sub(held(Lane::Live));
        let dir = Session::dir(&inventory.session);
        let mut short = Self::default();
        for segment in &fact.segments {
            let path = dir.join(&segment.path);
            let name = path.file_name().and_then(|name| name.to_str());
            let Some(number) = name.and_then(segment_number) else {
                continue;
            };
            let known = inventory.segments.get(&number);
            // What looks like a torn tail is none where the manifest knows of more.
            let torn = inventory
                .faults
                .iter()
                .filter(|fault| fault.segment == number && fault.kind == FaultKind::TornTail)
                // A header's own fault says nothing of where the frames end.
                .filter(|fault| fault.offset >= SEGMENT_HEADER_BYTES as u64)
                .map(|fault| fault.offset)
                .min();
            let offset = known.map_or(0, |known| known.file_bytes.min(torn.unwrap_or(u64::MAX)));
            let is_named = inventory
                .losses()
                .any(|fault| fault.segment == number && fault.offset + fault.bytes > offset);
            // Where footer or successor say where it ends, reading has named what is missing.
            if offset >= segment.bytes || is_named || known.is_some_and(|known| known.data_bytes.is_some()) {
                continue;
            }
            let so = format!(
                "it had {} bytes when generation {} was made",
                segment.bytes, manifest.generation
            );
            // The manifest counts the frames of the device alone; what the hub wrote shows in the length.
            let is_whole = data + live == 0 && only_form(inventory, number, segment.bytes);
            let why = match data + live {
                0 if is_whole => format!("{so}; its index is gone, and no frame with it"),
                0 => format!("{so}; frames that the hub wrote are gone"),
                _ => format!("{so}; since then {data} data and {live} live frames are gone"),
            };
            let to = if is_whole {
                &mut short.whole
            } else {
                &mut short.lost
            };
            to.push(Fault {
                kind: FaultKind::Damage,
                path: view.describe(&path),
                segment: number,
                offset,
                bytes: segment.bytes - offset,
                why,
            });
        }
        short
    }

    /// All of them.
    pub fn cut(&self) -> impl Iterator<Item = &Fault> {
        self.lost.iter().chain(&self.whole)
    }

    /// For people: those that cost no frame.
    pub fn told(&self) -> impl Iterator<Item = String> {
        self.whole.iter().map(|fault| {
            let file = fault.path.display();
            format!("{file}: offset {}: {}", fault.offset, fault.why)
        })
    }
}

/// Whether a segment that had `bytes` bytes lacks nothing but form: its footer, or that and the checkpoint before it.
fn only_form(inventory: &Inventory, segment: u32, bytes: u64) -> bool {
    let items = &inventory.items;
    let here = &items[items.partition_point(|item| item.at < (segment, 0))
        ..items.partition_point(|item| item.at <= (segment, u64::MAX))];
    let end = here.last().map_or(SEGMENT_HEADER_BYTES as u64, |last| {
        last.at.1 + u64::from(last.length)
    });
    let footer = |frames: u64| (INDEX_MAGIC.len() + TRAILER_BYTES) as u64 + frames * IndexEntry::BYTES as u64;
    let frames = here.len() as u64;
    let unlisted = here
        .iter()
        .rev()
        .take_while(|item| item.kind != Kind::CHECKPOINT)
        .count();
    let checkpoint = (HEADER_BYTES + Checkpoint::HEAD_BYTES + 4 * unlisted).next_multiple_of(8) as u64;
    let left = bytes.saturating_sub(end);
    left == footer(frames) || left == checkpoint + footer(frames + 1)
}
