//! The buffer on disk: one append-only file for each epoch.
//!
//! Owns: its layout, what is torn and what is damaged, rewriting it when most of it is acknowledged. Does not own:
//! what the counters mean (`capture`).
//!
//! A file is a row of records: u8 kind, 3 zero bytes, u32 length of the payload, u32 CRC-32 of kind, length and
//! payload, u32 0, payload. The first is the identity. Everything is little-endian; nothing outside this crate
//! reads these files.
//!
//! Invariants: a record is written by one call before its frame can be sent. A write that fails is cut off again;
//! if even that fails, the file takes nothing more. What is torn at the end was never sent and is cut off; damage
//! before the end is kept aside under another name, and the epoch is not gone on with.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use marey_format::frame::{Frame, Header};
use marey_format::{BootId, DeviceId, EpochId, Lane, SessionId, limits};
use serde::{Deserialize, Serialize};

use super::lane::LaneBuffer;
use super::{BufferError, Held, Place, Retain};

/// Whose frames a file holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) device: DeviceId,
    pub(crate) session: SessionId,
    pub(crate) epoch: EpochId,
    pub(crate) boot: BootId,
}

/// What a reader of a file is shown, in order: enough to know all counters again.
pub(crate) enum Step<'a> {
    /// All counters as they were here.
    Counters(&'a [u8]),
    /// A frame that was made after.
    Frame(Frame<'a>),
}

/// An epoch as a file remembers it.
#[derive(Debug)]
pub(crate) struct Restored {
    pub(crate) identity: Identity,
    pub(super) lanes: [LaneBuffer; 2],
    /// Damage before the end: the counters are not proven.
    pub(crate) damaged: bool,
}

/// An open file.
#[derive(Debug)]
pub(crate) struct BufferFile {
    path: PathBuf,
    identity: Identity,
    file: File,
    bytes: u64,
    unsynced: bool,
    failed: bool,
}

impl BufferFile {
    pub(crate) fn create(folder: &Path, identity: &Identity) -> Result<Self, BufferError> {
        let path = folder.join(format!("{}.{ENDING}", identity.epoch));
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create_new(true)
            .open(&path)
            .map_err(|source| BufferError::Io {
                path: path.clone(),
                source,
            })?;
        let mut file = Self {
            path,
            identity: identity.clone(),
            file,
            bytes: 0,
            unsynced: false,
            failed: false,
        };
        file.append(IDENTITY, &json(identity))?;
        Ok(file)
    }

    /// Reads a file from its beginning; `show` is called for every counters record and every frame.
    pub(crate) fn restore(
        path: &Path,
        mut show: impl FnMut(Step<'_>),
    ) -> Result<(Self, Restored), BufferError> {
        let io_error = |source| BufferError::Io {
            path: path.to_owned(),
            source,
        };
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .open(path)
            .map_err(io_error)?;
        let length = file.metadata().map_err(io_error)?.len();
        let mut input = BufReader::with_capacity(1 << 18, file.try_clone().map_err(io_error)?);
        let (mut lanes, mut identity) = ([LaneBuffer::default(), LaneBuffer::default()], None);
        let (mut at, mut payload) = (0, Vec::new());
        let mut damaged = false;
        while at < length {
            let record = read_record(&mut input, &mut payload, length - at).map_err(io_error)?;
            let Found::Record(kind) = record else {
                damaged = matches!(record, Found::Damage);
                break;
            };
            if !apply(
                kind,
                &payload,
                at + HEADER_BYTES,
                &mut lanes,
                &mut identity,
                &mut show,
            ) {
                damaged = true;
                break;
            }
            at += HEADER_BYTES + payload.len() as u64;
        }
        let Some(identity) = identity else {
            let detail = "no identity at its beginning".to_owned();
            return Err(BufferError::Damaged {
                path: path.to_owned(),
                offset: 0,
                detail,
            });
        };
        if !damaged && at < length {
            file.set_len(at).map_err(io_error)?;
        }
        let file = Self {
            path: path.to_owned(),
            identity: identity.clone(),
            file,
            bytes: at,
            unsynced: false,
            failed: false,
        };
        Ok((
            file,
            Restored {
                identity,
                lanes,
                damaged,
            },
        ))
    }

    /// Keeps a damaged file under another name and goes on in a new one with what could be read.
    pub(crate) fn set_damage_aside(
        &mut self,
        counters: &[u8],
        restored: &mut Restored,
    ) -> Result<(), BufferError> {
        let aside = self.path.with_extension("damaged");
        std::fs::rename(&self.path, &aside).map_err(|source| self.io_error(source))?;
        self.compact(counters, &mut restored.lanes)
    }

    /// Appends a frame; returns where its bytes lie.
    pub(super) fn append_frame(&mut self, frame: &[u8]) -> Result<u64, BufferError> {
        let offset = self.bytes + HEADER_BYTES;
        self.append(FRAME, frame)?;
        Ok(offset)
    }

    pub(super) fn append_marks(&mut self, lanes: &[LaneBuffer; 2]) -> Result<(), BufferError> {
        self.append(MARKS, &marks(lanes))
    }

    pub(super) fn append_dropped(&mut self, lane: Lane, sequence: u64) -> Result<(), BufferError> {
        let mut payload = (lane as u64).to_le_bytes().to_vec();
        payload.extend_from_slice(&sequence.to_le_bytes());
        self.append(DROPPED, &payload)
    }

    pub(super) fn append_counters(&mut self, counters: &[u8]) -> Result<(), BufferError> {
        self.append(COUNTERS, counters)
    }

    pub(super) fn load(&self, offset: u64, header: &Header, to: &mut Vec<u8>) -> Result<(), BufferError> {
        let begin = to.len();
        to.resize(begin + header.length as usize, 0);
        self.file
            .read_exact_at(&mut to[begin..], offset)
            .map_err(|source| self.io_error(source))?;
        match Header::parse(&to[begin..]) {
            Ok(found) if found == *header => Ok(()),
            _ => {
                to.truncate(begin);
                let detail = format!("not the frame with sequence {} any more", header.sequence);
                Err(BufferError::Damaged {
                    path: self.path.clone(),
                    offset,
                    detail,
                })
            }
        }
    }

    pub(super) fn is_worth_compacting(&self, live_bytes: u64) -> bool {
        self.bytes > live_bytes * 2 + COMPACT_BYTES_MIN
    }

    /// Writes a new file with the counters, the marks and what is still held, and puts it in the place of this one.
    pub(super) fn compact(
        &mut self,
        counters: &[u8],
        lanes: &mut [LaneBuffer; 2],
    ) -> Result<(), BufferError> {
        let path = self.path.with_extension("tmp");
        let io_error = |source| BufferError::Io {
            path: path.clone(),
            source,
        };
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(&path)
            .and_then(|file| file.set_len(0).map(|()| file))
            .map_err(io_error)?;
        let mut fresh = Self {
            path: path.clone(),
            identity: self.identity.clone(),
            file,
            bytes: 0,
            unsynced: true,
            failed: false,
        };
        fresh.append(IDENTITY, &json(&self.identity))?;
        let mut places = Vec::new();
        let mut frame = Vec::new();
        for held in lanes.iter_mut().flat_map(LaneBuffer::held_mut) {
            let Place::File { offset } = held.place else {
                continue;
            };
            frame.clear();
            self.load(offset, &held.header, &mut frame)?;
            places.push((fresh.append_frame(&frame)?, held));
        }
        // After the frames: they are part of what the counters count.
        fresh.append(COUNTERS, counters)?;
        for (offset, held) in places {
            held.place = Place::File { offset };
        }
        fresh.append(MARKS, &marks(lanes))?;
        fresh.sync()?;
        std::fs::rename(&path, &self.path).map_err(io_error)?;
        fresh.path.clone_from(&self.path);
        *self = fresh;
        let folder = self.path.parent().expect("a buffer file lies in a folder");
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|source| self.io_error(source))
    }

    pub(super) fn sync(&mut self) -> Result<(), BufferError> {
        if std::mem::take(&mut self.unsynced) {
            // After a failed sync the pages count as clean although they are not on the disk: nothing may rely on it.
            self.file.sync_data().map_err(|source| {
                self.failed = true;
                self.io_error(source)
            })?;
        }
        Ok(())
    }

    pub(super) fn delete(self) -> Result<(), BufferError> {
        std::fs::remove_file(&self.path).map_err(|source| self.io_error(source))
    }

    fn append(&mut self, kind: u8, payload: &[u8]) -> Result<(), BufferError> {
        if self.failed {
            return Err(self.io_error(io::Error::other(
                "an earlier write failed and could not be undone",
            )));
        }
        let record = record(kind, payload);
        if let Err(source) = self.file.write_all(&record) {
            self.failed = self.file.set_len(self.bytes).is_err();
            return Err(self.io_error(source));
        }
        self.bytes += record.len() as u64;
        self.unsynced = true;
        Ok(())
    }

    fn io_error(&self, source: io::Error) -> BufferError {
        BufferError::Io {
            path: self.path.clone(),
            source,
        }
    }
}

/// All buffer files of a folder, the oldest first.
pub(crate) fn restore_all(folder: &Path) -> Result<Vec<PathBuf>, BufferError> {
    let io_error = |source| BufferError::Io {
        path: folder.to_owned(),
        source,
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io_error)? {
        let path = entry.map_err(io_error)?.path();
        if path.extension().is_some_and(|ending| ending == ENDING) {
            let made = path
                .metadata()
                .and_then(|it| it.created().or_else(|_| it.modified()))
                .map_err(io_error)?;
            found.push((made, path));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

enum Found {
    Record(u8),
    Torn,
    Damage,
}

fn read_record(input: &mut impl Read, payload: &mut Vec<u8>, left: u64) -> io::Result<Found> {
    if left < HEADER_BYTES {
        return Ok(Found::Torn);
    }
    let mut header = [0; HEADER_BYTES as usize];
    input.read_exact(&mut header)?;
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let (kind, length, crc) = (header[0], word(4), word(8));
    if kind == 0 || length as usize > RECORD_BYTES_MAX {
        return Ok(if header.iter().all(|byte| *byte == 0) {
            Found::Torn
        } else {
            Found::Damage
        });
    }
    if u64::from(length) > left - HEADER_BYTES {
        return Ok(Found::Torn);
    }
    payload.resize(length as usize, 0);
    input.read_exact(payload)?;
    let fits = checksum(kind, payload) == crc;
    let is_last = u64::from(length) == left - HEADER_BYTES;
    Ok(match (fits, is_last) {
        (true, _) => Found::Record(kind),
        (false, true) => Found::Torn,
        (false, false) => Found::Damage,
    })
}

/// False if a record with a good checksum makes no sense.
fn apply(
    kind: u8,
    payload: &[u8],
    offset: u64,
    lanes: &mut [LaneBuffer; 2],
    identity: &mut Option<Identity>,
    show: &mut impl FnMut(Step<'_>),
) -> bool {
    match kind {
        IDENTITY if identity.is_none() => {
            *identity = serde_json::from_slice(payload).ok();
            identity.is_some()
        }
        _ if identity.is_none() => false,
        FRAME => {
            let Ok(frame) = Frame::parse(payload) else {
                return false;
            };
            let header = *frame.header();
            let Some(lane) = lanes.get_mut(header.lane as usize) else {
                return false;
            };
            // No frame could come after the last number that there is.
            let falls = lane.last_sequence().is_some_and(|last| last >= header.sequence);
            if falls || header.sequence == u64::MAX {
                return false;
            }
            lane.push(Held {
                header,
                place: Place::File { offset },
            });
            show(Step::Frame(frame));
            true
        }
        COUNTERS => {
            show(Step::Counters(payload));
            true
        }
        MARKS => {
            let mut words = payload
                .chunks_exact(8)
                .map(|word| u64::from_le_bytes(word.try_into().expect("eight")));
            for lane in lanes {
                let (Some(durable), Some(safe), Some(highest)) = (words.next(), words.next(), words.next())
                else {
                    return false;
                };
                lane.restore_marks(durable, safe, highest);
                // Durable ones that were kept until safe are kept here too; whoever opens the buffer decides.
                lane.discard(Retain::UntilSafe);
            }
            true
        }
        DROPPED => {
            let word = |at: usize| {
                Some(u64::from_le_bytes(
                    payload.get(at..at + 8)?.try_into().expect("eight bytes were cut"),
                ))
            };
            let (Some(lane @ (0 | 1)), Some(sequence)) = (word(0), word(8)) else {
                return false;
            };
            lanes[usize::from(lane == 1)].remove(sequence);
            true
        }
        // A later version's record that this one need not know.
        _ => true,
    }
}

fn marks(lanes: &[LaneBuffer; 2]) -> Vec<u8> {
    lanes
        .iter()
        .flat_map(|lane| [lane.durable(), lane.safe(), lane.highest_ack()])
        .flat_map(u64::to_le_bytes)
        .collect()
}

fn record(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("records are of frames and counters");
    let mut record = Vec::with_capacity(HEADER_BYTES as usize + payload.len());
    record.extend_from_slice(&[kind, 0, 0, 0]);
    record.extend_from_slice(&length.to_le_bytes());
    record.extend_from_slice(&checksum(kind, payload).to_le_bytes());
    record.extend_from_slice(&[0; 4]);
    record.extend_from_slice(payload);
    record
}

fn checksum(kind: u8, payload: &[u8]) -> u32 {
    let mut covered = vec![kind];
    covered.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    marey_format::Seed(marey_format::checksum::crc32(&covered)).checksum(payload)
}

fn json(identity: &Identity) -> Vec<u8> {
    serde_json::to_vec(identity).expect("names and ids are plain text")
}

const ENDING: &str = "mbuf";
const HEADER_BYTES: u64 = 16;
const IDENTITY: u8 = 1;
const FRAME: u8 = 2;
const COUNTERS: u8 = 3;
const MARKS: u8 = 4;
const DROPPED: u8 = 5;
/// A frame, or the counters with their declarations.
const RECORD_BYTES_MAX: usize = limits::FRAME_BYTES_MAX * 16;
const COMPACT_BYTES_MIN: u64 = 4 << 20;
