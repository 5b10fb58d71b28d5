//! Streaming the frames of one log, in order, through all its segments: what is damaged is stepped over and reported.

use super::scan::{Continuity, Extent, Fault, FaultKind, Scanner, Step};
use super::window::Window;
use crate::disk::{Disk, File, OpenMode};
use crate::error::StorageError;
use crate::session::Session;
use marey_format::frame::{Frame, Lane};
use marey_format::log::{
    Index, Predecessor, SEGMENT_HEADER_BYTES, SegmentError, SegmentHeader, TRAILER_BYTES, Trailer,
};
use marey_format::{DeviceId, SessionId};
use std::path::{Path, PathBuf};

/// A delivered frame and where it stands.
#[derive(Clone, Copy, Debug)]
pub struct LogFrame<'a> {
    pub segment: u32,
    pub offset: u64,
    /// Ordinal of the frame's epoch; none for hub frames.
    pub epoch: Option<u32>,
    pub frame: Frame<'a>,
    /// Faults that were found before it.
    pub(crate) faults_before: usize,
}

/// What is known of a segment without reading its frames.
#[derive(Clone, Debug)]
pub struct SegmentSummary {
    pub segment: u32,
    pub path: PathBuf,
    pub file_bytes: u64,
    /// Header and frames; none while it is not sealed.
    pub sealed_bytes: Option<u64>,
    /// Up to where it counts, by the segment after it.
    pub(crate) cut_at: Option<u64>,
    /// By the segment after it, nobody promised that its footer was synced.
    pub(crate) is_cut: bool,
    pub(crate) header: Option<SegmentHeader>,
    pub(crate) index: Option<Index>,
    /// The checksum of the index.
    pub(crate) index_crc: Option<u32>,
    /// What is wrong with header or footer.
    pub(crate) troubles: Vec<(u64, u64, String)>,
    /// Where in the file the header stands that is missing at its beginning: the disk wrote it to the wrong place.
    pub(crate) misplaced: Option<u64>,
}

impl SegmentSummary {
    /// Reads header and footer.
    pub(crate) fn read(
        disk: &dyn Disk,
        segment: u32,
        path: &Path,
        file_bytes: u64,
        log: (&DeviceId, &SessionId),
    ) -> Result<Self, StorageError> {
        let io = |error| StorageError::io("reading", disk.describe(path), error);
        let file = disk.open(path, OpenMode::Read).map_err(io)?;
        let mut head = vec![0; SEGMENT_HEADER_BYTES];
        let read = file.read_at(0, &mut head).map_err(io)?;
        let mut troubles = Vec::new();
        let mut misplaced = None;
        let header = match SegmentHeader::parse(&head[..read]) {
            Ok(header) if (&header.device, &header.session, header.segment) == (log.0, log.1, segment) => {
                Some(header)
            }
            Ok(header) => {
                let what = format!(
                    "this is segment {} of device {} in session {}, out of its place",
                    header.segment, header.device, header.session
                );
                return Err(StorageError::damaged(disk.describe(path), what));
            }
            Err(error @ SegmentError::Version { .. }) => {
                return Err(StorageError::damaged(disk.describe(path), error));
            }
            Err(error) => {
                misplaced = Self::find_header(&*file, segment, log).map_err(io)?;
                let why = match misplaced {
                    Some(at) => format!("{error}: the disk wrote the header to byte {at}"),
                    None => error.to_string(),
                };
                troubles.push((0, (SEGMENT_HEADER_BYTES as u64).min(file_bytes), why));
                None
            }
        };
        let (sealed_bytes, index, index_crc) = match Self::footer(&*file, file_bytes).map_err(io)? {
            Tail::Sealed {
                data_bytes,
                index,
                crc,
            } => (Some(data_bytes), Some(index), Some(crc)),
            Tail::IndexBroken { data_bytes, why } => {
                troubles.push((data_bytes, file_bytes - data_bytes, why));
                (Some(data_bytes), None, None)
            }
            Tail::Open => (None, None, None),
        };
        Ok(Self {
            segment,
            path: path.to_owned(),
            file_bytes,
            sealed_bytes,
            cut_at: None,
            is_cut: false,
            header,
            index,
            index_crc,
            troubles,
            misplaced,
        })
    }

    /// Looks for the header of a segment at the later sectors of its file.
    fn find_header(
        file: &dyn File,
        segment: u32,
        log: (&DeviceId, &SessionId),
    ) -> std::io::Result<Option<u64>> {
        const SECTOR: usize = 512;
        let mut buffer = vec![0; 128 * SECTOR];
        let mut at = 0;
        loop {
            let read = file.read_at(at, &mut buffer)?;
            for (sector, bytes) in buffer[..read].chunks(SECTOR).enumerate() {
                let ours = SegmentHeader::parse(bytes).ok().is_some_and(|header| {
                    (&header.device, &header.session, header.segment) == (log.0, log.1, segment)
                });
                if ours {
                    return Ok(Some(at + (sector * SECTOR) as u64));
                }
            }
            if read < buffer.len() {
                return Ok(None);
            }
            at += read as u64;
        }
    }

    fn footer(file: &dyn File, bytes: u64) -> std::io::Result<Tail> {
        if bytes < (SEGMENT_HEADER_BYTES + TRAILER_BYTES) as u64 {
            return Ok(Tail::Open);
        }
        let mut tail = vec![0; TRAILER_BYTES];
        let read = file.read_at(bytes - TRAILER_BYTES as u64, &mut tail)?;
        // Without a whole trailer the segment was not sealed, or its successor says that it was.
        let Ok(trailer) = Trailer::parse(&tail[..read], bytes) else {
            return Ok(Tail::Open);
        };
        let mut index = vec![0; trailer.index_bytes() as usize];
        let read = file.read_at(trailer.data_bytes, &mut index)?;
        index.truncate(read);
        let data_bytes = trailer.data_bytes;
        Ok(match Index::parse(&trailer, index) {
            Ok(index) => Tail::Sealed {
                data_bytes,
                index,
                crc: trailer.index_crc,
            },
            Err(error) => Tail::IndexBroken {
                data_bytes,
                why: error.to_string(),
            },
        })
    }

    /// What a segment after this one says of it.
    fn followed_by(&mut self, next: &SegmentHeader) {
        let between = next.segment - self.segment - 1;
        if between < next.superseded {
            // A copy that was not finished, and was made again: nothing in it counts.
            self.cut_at = Some(0);
            self.is_cut = true;
            self.troubles.clear();
        }
        if next.predecessor == Predecessor::None || between != next.superseded || self.cut_at.is_some() {
            return;
        }
        let end = next.predecessor_end;
        self.cut_at = Some(end);
        if next.predecessor != Predecessor::Sealed {
            // What stands behind the cut was superseded, a footer as well.
            self.is_cut = true;
            self.troubles.retain(|&(offset, ..)| offset < end);
        } else if self.sealed_bytes.is_none() && self.file_bytes > end {
            self.troubles
                .push((end, self.file_bytes - end, "the footer does not hold".to_owned()));
        }
    }

    /// Whether a broken header is a loss: it was on disk before, frames follow it, or the disk wrote it to another place.
    /// One whose successor says that nothing behind it counts never was.
    fn header_was_synced(&self, file: &dyn File) -> std::io::Result<bool> {
        let mut mark = [0; 4];
        file.read_at(SEGMENT_HEADER_BYTES as u64, &mut mark)?;
        let counts = self.cut_at.is_some_and(|end| end > SEGMENT_HEADER_BYTES as u64);
        Ok(counts
            || self.misplaced.is_some()
            || self.sealed_bytes.is_some()
            || mark == marey_format::frame::MARK)
    }

    /// What is wrong with header and footer.
    pub(crate) fn faults(&self, disk: &dyn Disk) -> Result<Vec<Fault>, StorageError> {
        let mut faults = Vec::new();
        for (offset, bytes, why) in &self.troubles {
            let mut kind = FaultKind::Damage;
            if *offset == 0 {
                let io = |error| StorageError::io("reading", disk.describe(&self.path), error);
                let file = disk.open(&self.path, OpenMode::Read).map_err(io)?;
                if !self.header_was_synced(&*file).map_err(io)? {
                    kind = FaultKind::TornTail;
                }
            }
            let (path, segment, offset, bytes) = (disk.describe(&self.path), self.segment, *offset, *bytes);
            faults.push(Fault {
                kind,
                path,
                segment,
                offset,
                bytes,
                why: why.clone(),
            });
        }
        Ok(faults)
    }

    /// How far this segment counts.
    pub(crate) fn extent(&self) -> Extent {
        match self.cut_at.or(self.sealed_bytes) {
            Some(end) => Extent {
                limit: end,
                proven: end,
            },
            None => Extent {
                limit: self.file_bytes,
                proven: SEGMENT_HEADER_BYTES as u64,
            },
        }
    }
}

/// How many of a log's segments were finished. A recovery copies what it can't prove to have been synced into a fresh
/// segment, which says where its predecessor was cut, and seals that only when the copy is synced: before, the original
/// counts.
pub(crate) fn finished(segments: &[SegmentSummary]) -> usize {
    let unfinished = |segment: &&SegmentSummary| {
        let is_copy = segment
            .header
            .as_ref()
            .is_none_or(|header| header.predecessor == Predecessor::Copied);
        is_copy && segment.sealed_bytes.is_none()
    };
    segments.len() - segments.iter().rev().take_while(unfinished).count()
}

/// How a segment's file ends.
enum Tail {
    Sealed {
        data_bytes: u64,
        index: Index,
        crc: u32,
    },
    /// The trailer is whole, the index that it points at is not.
    IndexBroken {
        data_bytes: u64,
        why: String,
    },
    Open,
}

/// Streams the frames of one log.
#[derive(Debug)]
pub struct LogReader<'d> {
    disk: &'d dyn Disk,
    segments: Vec<SegmentSummary>,
    at: usize,
    scanner: Option<Scanner>,
    so_far: Continuity,
    faults: Vec<Fault>,
    /// Of the scanner before.
    buffer: Vec<u8>,
}

impl<'d> LogReader<'d> {
    /// Opens the log of a device in a session of the hub that the disk holds.
    ///
    /// # Errors
    /// If a segment can't be opened, belongs elsewhere, or was written by a later version.
    pub fn open(disk: &'d dyn Disk, session: &SessionId, device: &DeviceId) -> Result<Self, StorageError> {
        Self::open_dir(disk, &Session::log_dir(session, device), session, device)
    }

    /// The same from a segment on, as if none stood before it.
    pub(crate) fn open_from(
        disk: &'d dyn Disk,
        session: &SessionId,
        device: &DeviceId,
        first: u32,
    ) -> Result<Self, StorageError> {
        let dir = Session::log_dir(session, device);
        Self::read_summaries(disk, &dir, session, device, first)
    }

    /// Opens the log that stands in a folder.
    pub fn open_dir(
        disk: &'d dyn Disk,
        dir: &Path,
        session: &SessionId,
        device: &DeviceId,
    ) -> Result<Self, StorageError> {
        Self::read_summaries(disk, dir, session, device, 1)
    }

    fn read_summaries(
        disk: &'d dyn Disk,
        dir: &Path,
        session: &SessionId,
        device: &DeviceId,
        first: u32,
    ) -> Result<Self, StorageError> {
        let mut faults = Vec::new();
        let mut segments: Vec<SegmentSummary> = Vec::new();
        let all = super::segments(disk, dir)?.into_iter();
        for (number, path, bytes) in all.filter(|(number, ..)| *number >= first) {
            let expected = segments.last().map_or(first, |last| last.segment + 1);
            for missing in expected..number.min(expected.saturating_add(1000)) {
                let path = disk.describe(&dir.join(super::segment_name(missing)));
                let why = "the segment is missing".to_owned();
                faults.push(Fault {
                    kind: FaultKind::Damage,
                    path,
                    segment: missing,
                    offset: 0,
                    bytes: 0,
                    why,
                });
            }
            match SegmentSummary::read(disk, number, &path, bytes, (device, session)) {
                Ok(summary) => segments.push(summary),
                Err(StorageError::Damaged { path, what }) => {
                    let kind = FaultKind::Damage;
                    faults.push(Fault {
                        kind,
                        path,
                        segment: number,
                        offset: 0,
                        bytes,
                        why: what,
                    });
                }
                Err(error) => return Err(error),
            }
        }
        // The later has the last word: it was made by somebody who saw the earlier.
        for at in (1..finished(&segments)).rev() {
            let (before, from) = segments.split_at_mut(at);
            if let (Some(header), true) = (&from[0].header, from[0].cut_at != Some(0)) {
                let reach = header.superseded as usize + 1;
                before
                    .iter_mut()
                    .rev()
                    .take(reach)
                    .for_each(|segment| segment.followed_by(header));
            }
        }
        let so_far = Continuity::new(device, session);
        Ok(Self {
            disk,
            segments,
            at: 0,
            scanner: None,
            so_far,
            faults,
            buffer: Vec::new(),
        })
    }

    /// The log's segments.
    pub fn segments(&self) -> &[SegmentSummary] {
        &self.segments
    }

    /// What was found broken so far; all of it once [`LogReader::next`] gave none.
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }

    /// The checksum of the frame with a sequence: from the indices of sealed segments, else by reading.
    pub(crate) fn find(
        &mut self,
        epoch: u32,
        lane: Lane,
        sequence: u64,
    ) -> Result<Option<u32>, StorageError> {
        let rows = self
            .segments
            .iter()
            .filter(|segment| segment.cut_at.is_none_or(|cut| Some(cut) == segment.sealed_bytes))
            .filter_map(|segment| segment.index.as_ref())
            .flat_map(Index::entries);
        let row = rows
            .into_iter()
            .find(|row| (row.epoch, row.lane, row.sequence) == (epoch, lane, sequence));
        if let Some(row) = row {
            return Ok(Some(row.crc));
        }
        while let Some(found) = self.next()? {
            let header = found.frame.header();
            if (found.epoch, header.lane, header.sequence) == (Some(epoch), lane, sequence) {
                return Ok(Some(header.crc));
            }
        }
        Ok(None)
    }

    pub(crate) fn into_faults(self) -> Vec<Fault> {
        self.faults
    }

    /// The next frame.
    #[allow(
        clippy::should_implement_trait,
        reason = "the frame borrows the reader's buffer"
    )]
    pub fn next(&mut self) -> Result<Option<LogFrame<'_>>, StorageError> {
        loop {
            let Some(summary) = self.segments.get(self.at) else {
                return Ok(None);
            };
            let io = |error| StorageError::io("reading", self.disk.describe(&summary.path), error);
            let scanner = match &mut self.scanner {
                Some(scanner) => scanner,
                None => {
                    let file = self.disk.open(&summary.path, OpenMode::Read).map_err(io)?;
                    let window = Window::reusing(file, std::mem::take(&mut self.buffer));
                    let scanner = begin(summary, window, &mut self.so_far);
                    self.faults.extend(summary.faults(self.disk)?);
                    self.scanner.insert(scanner)
                }
            };
            match scanner.step(&mut self.so_far).map_err(io)? {
                Some(Step::Frame {
                    offset,
                    length,
                    epoch,
                }) => {
                    let (segment, faults_before) = (summary.segment, self.faults.len());
                    let scanner = self.scanner.as_ref().expect("it was just used");
                    // Not handed on by the scanner: see there.
                    let frame = Frame::again(scanner.bytes(offset, length));
                    return Ok(Some(LogFrame {
                        segment,
                        offset,
                        epoch,
                        frame,
                        faults_before,
                    }));
                }
                Some(Step::Fault {
                    kind,
                    offset,
                    bytes,
                    why,
                }) => {
                    let path = self.disk.describe(&summary.path);
                    self.faults.push(Fault {
                        kind,
                        path,
                        segment: summary.segment,
                        offset,
                        bytes,
                        why,
                    });
                }
                None => {
                    self.buffer = self.scanner.take().map(Scanner::into_buffer).unwrap_or_default();
                    self.at += 1;
                }
            }
        }
    }
}

fn begin(summary: &SegmentSummary, window: Window, so_far: &mut Continuity) -> Scanner {
    if let Some((epoch, ordinal)) = summary.header.as_ref().and_then(|header| header.epoch) {
        so_far.go_on(&epoch, ordinal);
    }
    Scanner::new(window, summary.extent(), summary.index.as_ref())
}

/// Reads one frame by its place, and checks that it is the one that was meant.
pub fn read_frame<'b>(
    file: &dyn File,
    offset: u64,
    length: u32,
    crc: u32,
    buffer: &'b mut Vec<u8>,
) -> std::io::Result<Frame<'b>> {
    buffer.resize(length as usize, 0);
    let read = file.read_at(offset, buffer)?;
    let frame = Frame::parse(&buffer[..read]).map_err(std::io::Error::other)?;
    if frame.header().crc != crc || frame.header().length != length {
        return Err(std::io::Error::other(
            "another frame stands where the log was read a moment ago",
        ));
    }
    Ok(frame)
}
