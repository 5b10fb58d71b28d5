//! Messages of an MCAP file in order of time, through its index.

use super::super::making::{open_file, unreadable};
use crate::output::{Failure, Result};
use ::mcap::records::Record;
use ::mcap::sans_io::indexed_reader::{IndexedReadEvent, IndexedReader, IndexedReaderOptions};
use ::mcap::sans_io::linear_reader::{LinearReadEvent, LinearReader, LinearReaderOptions};
use ::mcap::sans_io::summary_reader::{SummaryReadEvent, SummaryReader, SummaryReaderOptions};
use ::mcap::{Summary, parse_record};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// No record is longer, and no chunk when it is unpacked: what says so is damage, or nothing to hold in memory.
const RECORD_BYTES_MAX: usize = 128 << 20;

/// A file whose index was read.
#[derive(Debug)]
pub struct Messages {
    path: PathBuf,
    file: File,
    summary: Summary,
}

impl Messages {
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = open_file(path)?;
        let length = file.metadata().map_or(0, |metadata| metadata.len());
        let options = SummaryReaderOptions::default()
            .with_file_size(length)
            .with_record_length_limit(RECORD_BYTES_MAX);
        let mut reader = SummaryReader::new_with_options(options);
        let broken = |error: &dyn std::fmt::Display| {
            Failure::fault(format!(
                "{} is no whole MCAP file: {error}; `mcap recover` may help",
                path.display()
            ))
        };
        while let Some(event) = reader.next_event() {
            match event.map_err(|error| broken(&error))? {
                SummaryReadEvent::ReadRequest(need) => {
                    let read = file
                        .read(reader.insert(need))
                        .map_err(|error| unreadable(path, &error))?;
                    reader.notify_read(read);
                }
                SummaryReadEvent::SeekRequest(to) => {
                    let at = file.seek(to).map_err(|error| unreadable(path, &error))?;
                    reader.notify_seeked(at);
                }
            }
        }
        let Some(summary) = reader.finish() else {
            return Err(broken(&"it has no summary"));
        };
        let messages = summary.stats.as_ref().map_or(0, |stats| stats.message_count);
        if summary.chunk_indexes.is_empty() && messages > 0 {
            return Err(broken(&"it has no index of its messages"));
        }
        let mut messages = Self {
            path: path.to_owned(),
            file,
            summary,
        };
        messages.check()?;
        Ok(messages)
    }

    /// Every chunk against its checksum: whoever reads through the index alone never does.
    fn check(&mut self) -> Result {
        let options = LinearReaderOptions::default()
            .with_validate_chunk_crcs(true)
            .with_validate_data_section_crc(true)
            .with_validate_summary_section_crc(true)
            .with_record_length_limit(RECORD_BYTES_MAX);
        self.file
            .rewind()
            .map_err(|error| unreadable(&self.path, &error))?;
        let mut reader = LinearReader::new_with_options(options);
        while let Some(event) = reader.next_event() {
            match event.map_err(|error| self.damaged(&error.to_string()))? {
                LinearReadEvent::ReadRequest(need) => {
                    let read = self.file.read(reader.insert(need));
                    reader.notify_read(read.map_err(|error| unreadable(&self.path, &error))?);
                }
                LinearReadEvent::Record { .. } => {}
            }
        }
        Ok(())
    }

    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    pub fn has_metadata(&self, name: &str) -> bool {
        self.summary
            .metadata_indexes
            .iter()
            .any(|index| index.name == name)
    }

    /// What a metadata record says; nothing where there is none.
    pub fn metadata(&mut self, name: &str) -> Result<BTreeMap<String, String>> {
        let index = self
            .summary
            .metadata_indexes
            .iter()
            .find(|index| index.name == name);
        let Some(index) = index.filter(|index| (9..=RECORD_BYTES_MAX as u64).contains(&index.length)) else {
            return Ok(BTreeMap::new());
        };
        let mut record = vec![0; usize::try_from(index.length)?];
        let offset = index.offset;
        let read = self
            .file
            .seek(SeekFrom::Start(offset))
            .and_then(|_| self.file.read_exact(&mut record));
        read.map_err(|error| unreadable(&self.path, &error))?;
        // One byte of its kind, eight of its length.
        match parse_record(record[0], &record[9..]) {
            Ok(Record::Metadata(metadata)) => Ok(metadata.metadata),
            _ => Err(self.damaged(&format!("its metadata at byte {offset} can't be read"))),
        }
    }

    /// Every message of its chunks in order of time: channel, time in nanoseconds, content.
    pub fn each(
        &mut self,
        say: &mut dyn FnMut(u64),
        take: &mut dyn FnMut(u16, i64, &[u8]) -> Result,
    ) -> Result {
        let options = IndexedReaderOptions::new().with_record_length_limit(RECORD_BYTES_MAX);
        let reader = IndexedReader::new_with_options(&self.summary, options);
        let mut reader = reader.map_err(|error| self.damaged(&error.to_string()))?;
        let of = self.summary.stats.as_ref().map_or(0, |stats| stats.message_count);
        let (mut seen, mut percent, mut chunk) = (0u64, 0, Vec::new());
        while let Some(event) = reader.next_event() {
            match event.map_err(|error| self.damaged(&error.to_string()))? {
                IndexedReadEvent::ReadChunkRequest { offset, length } => {
                    chunk.resize(length, 0);
                    let read = self
                        .file
                        .seek(SeekFrom::Start(offset))
                        .and_then(|_| self.file.read_exact(&mut chunk));
                    read.map_err(|error| unreadable(&self.path, &error))?;
                    let inserted = reader.insert_chunk_record_data(offset, &chunk);
                    inserted.map_err(|error| self.damaged(&format!("chunk at byte {offset}: {error}")))?;
                }
                IndexedReadEvent::Message { header, data } => {
                    seen += 1;
                    let time_ns = i64::try_from(header.log_time).unwrap_or(i64::MAX);
                    take(header.channel_id, time_ns, data)?;
                    if seen * 100 / of.max(1) > percent {
                        percent = seen * 100 / of.max(1);
                        say(percent);
                    }
                }
            }
        }
        match seen == of || self.summary.stats.is_none() {
            true => Ok(()),
            false => Err(self.damaged(&format!("it counts {of} messages, and {seen} are in its index"))),
        }
    }

    fn damaged(&self, what: &str) -> Failure {
        let path = self.path.display();
        Failure::fault(format!(
            "{path} is damaged, so nothing was imported: {what}; `mcap recover` may help"
        ))
    }
}
