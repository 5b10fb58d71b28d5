//! What a device can show afterwards: a digest over what it captured, and a list of what was acknowledged.
//!
//! Owns: the two forms of evidence that an outsider compares with what the hub stored. Does not own: the frames'
//! own digest chain, which the hub checks.
//!
//! Invariant: a sample's digest covers its index, its device time and its values at the declared type, in order,
//! so that whoever reads the samples back in the order of (epoch, index) gets the same 32 bytes.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use marey_format::frame::{Header, Value};
use marey_format::{BootId, Declaration, DeviceId, EpochId, FieldType, Kind, SessionId};
use sha2::{Digest, Sha256};

use crate::capture::Batch;

/// SHA-256 over the samples of one stream and epoch: for each sample u64 index, i64 device time, then each value
/// little-endian at its declared width; a bool as one byte, utf8 and binary as u32 length and bytes, a list as its
/// elements.
#[derive(Debug, Clone)]
pub struct SampleDigest {
    kinds: Vec<FieldType>,
    hash: Sha256,
    row: Vec<u8>,
    count: u64,
}

impl SampleDigest {
    pub fn new(declaration: &Declaration) -> Self {
        let kinds = declaration.fields.iter().map(|field| field.kind).collect();
        Self {
            kinds,
            hash: Sha256::new(),
            row: Vec::new(),
            count: 0,
        }
    }

    /// Takes in the next sample: a value for each declared field, of a variant that fits its type.
    ///
    /// An integer that does not fit its field's type is cut to its width: the digest then differs from that of what
    /// was captured, which is what a digest is for.
    pub fn sample(&mut self, index: u64, time_ns: i64, values: &[Value]) {
        self.row.clear();
        self.row.extend_from_slice(&index.to_le_bytes());
        self.row.extend_from_slice(&time_ns.to_le_bytes());
        for (value, kind) in values.iter().zip(&self.kinds) {
            put(&mut self.row, value, *kind);
        }
        self.hash.update(&self.row);
        self.count += 1;
    }

    /// Takes in a batch of plain columns whose first sample has `first_index`.
    pub fn batch(&mut self, first_index: u64, batch: &Batch<'_>) {
        for row in 0..batch.len() {
            self.sample(first_index + row as u64, batch.time_ns(row), &batch.row(row));
        }
    }

    /// Samples taken in.
    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn finish(&self) -> [u8; 32] {
        self.hash.clone().finalize().into()
    }
}

/// What was captured of one stream in one epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochRecord {
    pub epoch: EpochId,
    /// Which life of the clock stamped it.
    pub boot: BootId,
    pub captured: u64,
    pub first_index: u64,
    pub first_time_ns: i64,
    pub last_time_ns: i64,
    /// [`SampleDigest`].
    pub digest: [u8; 32],
}

/// What was captured of one stream, epoch by epoch.
#[derive(Debug, Clone)]
pub struct StreamRecord {
    pub declaration: Declaration,
    pub epochs: Vec<EpochRecord>,
}

impl StreamRecord {
    pub fn captured(&self) -> u64 {
        self.epochs.iter().map(|epoch| epoch.captured).sum()
    }
}

/// Keeps a [`StreamRecord`] while a stream is captured.
#[derive(Debug, Clone)]
pub struct StreamRecorder {
    declaration: Declaration,
    done: Vec<EpochRecord>,
    current: Option<(EpochRecord, SampleDigest)>,
}

impl StreamRecorder {
    pub fn new(declaration: Declaration) -> Self {
        Self {
            declaration,
            done: Vec::new(),
            current: None,
        }
    }

    /// Takes in a batch that was captured in `epoch` and got indices from `first_index` on.
    pub fn batch(&mut self, epoch: EpochId, boot: BootId, first_index: u64, batch: &Batch<'_>) {
        if batch.is_empty() {
            return;
        }
        let (record, digest) = self.epoch(epoch, boot, first_index, batch.time_ns(0));
        digest.batch(first_index, batch);
        record.captured = digest.count();
        record.last_time_ns = batch.time_ns(batch.len() - 1);
    }

    pub fn finish(&self) -> StreamRecord {
        let current = self.current.iter().map(|(record, digest)| EpochRecord {
            digest: digest.finish(),
            ..record.clone()
        });
        StreamRecord {
            declaration: self.declaration.clone(),
            epochs: self.done.iter().cloned().chain(current).collect(),
        }
    }

    fn epoch(
        &mut self,
        epoch: EpochId,
        boot: BootId,
        first_index: u64,
        first_time_ns: i64,
    ) -> &mut (EpochRecord, SampleDigest) {
        if let Some((record, digest)) = self.current.take_if(|(record, _)| record.epoch != epoch) {
            self.done.push(EpochRecord {
                digest: digest.finish(),
                ..record
            });
        }
        self.current.get_or_insert_with(|| {
            let record = EpochRecord {
                epoch,
                boot,
                captured: 0,
                first_index,
                first_time_ns,
                last_time_ns: first_time_ns,
                digest: [0; 32],
            };
            (record, SampleDigest::new(&self.declaration))
        })
    }
}

/// What a device did in one session, by its own account: what an outsider compares with what the hub stored.
#[derive(Debug, Clone)]
pub struct RunReport {
    pub device: DeviceId,
    pub session: SessionId,
    pub streams: Vec<StreamReport>,
    /// Events that were recorded.
    pub events: u64,
    /// Everything that was captured and kept is durable on the hub, of earlier epochs too.
    pub all_acknowledged: bool,
    /// Why not, where it is known.
    pub fault: Option<String>,
}

/// One stream of a [`RunReport`].
#[derive(Debug, Clone)]
pub struct StreamReport {
    pub record: StreamRecord,
    /// Samples that the hub acknowledged.
    pub acknowledged: u64,
    /// Samples that found no room in the device's buffer.
    pub lost: u64,
}

/// Stream and samples of each acknowledged data frame.
type AckedCounts = HashMap<(SessionId, EpochId, u64), (u32, u32)>;

/// Counts acknowledged samples, each once, however often the client is restarted.
#[derive(Debug, Clone, Default)]
pub struct AckTally {
    frames: Arc<Mutex<AckedCounts>>,
}

impl AckTally {
    /// To be given to the client; `also` is told too.
    pub fn listener(&self, also: Option<OnAcknowledged>) -> OnAcknowledged {
        let frames = Arc::clone(&self.frames);
        Arc::new(move |acked: &AckedFrame| {
            let header = &acked.header;
            if header.kind == Kind::DATA {
                let key = (acked.session.clone(), acked.epoch, header.sequence);
                let mut frames = frames.lock().unwrap_or_else(PoisonError::into_inner);
                frames.insert(key, (header.stream, header.count));
            }
            if let Some(also) = &also {
                also(acked);
            }
        })
    }

    /// Acknowledged samples of the streams with this number, in all epochs of a session.
    pub fn samples(&self, session: &SessionId, stream: u32) -> u64 {
        let frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = frames
            .iter()
            .filter(|(key, value)| key.0 == *session && value.0 == stream);
        counts.map(|(_, (_, count))| u64::from(*count)).sum()
    }
}

/// A frame that the hub has made durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AckedFrame {
    pub session: SessionId,
    pub epoch: EpochId,
    pub header: Header,
}

/// Is told of every frame that the hub acknowledged, in order, from the client's own thread: keep it short.
pub type OnAcknowledged = Arc<dyn Fn(&AckedFrame) + Send + Sync>;

/// Writes a line of JSON for every acknowledged frame: what an oracle outside of the hub compares with what the hub
/// holds after a crash. A line is with the system, though not synced, before the next ack is looked at.
///
/// # Errors
/// If the file can't be made. A line that can't be written later is left out with a warning.
pub fn acknowledged_to_file(path: &Path) -> io::Result<OnAcknowledged> {
    let file = Mutex::new(File::options().create(true).append(true).open(path)?);
    Ok(Arc::new(move |acked: &AckedFrame| {
        let header = &acked.header;
        let line = format!(
            "{{\"session\":\"{}\",\"epoch\":\"{}\",\"lane\":{},\"sequence\":\"{}\",\"kind\":{},\"stream\":{},\
             \"first_index\":\"{}\",\"count\":{},\"crc\":\"{:08x}\"}}\n",
            acked.session,
            acked.epoch,
            header.lane as u8,
            header.sequence,
            header.kind.0,
            header.stream,
            header.first_index,
            header.count,
            header.crc,
        );
        let written = file
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write_all(line.as_bytes());
        if let Err(error) = written {
            tracing::warn!(%error, "an acknowledged frame is missing in the record");
        }
    }))
}

fn put(to: &mut Vec<u8>, value: &Value, kind: FieldType) {
    let width = kind.width().unwrap_or(0);
    match value {
        Value::I64(value) => to.extend_from_slice(&value.to_le_bytes()[..width.min(8)]),
        Value::U64(value) => to.extend_from_slice(&value.to_le_bytes()[..width.min(8)]),
        Value::F32(value) => to.extend_from_slice(&value.to_le_bytes()),
        Value::F64(value) => to.extend_from_slice(&value.to_le_bytes()),
        Value::Bool(value) => to.push(u8::from(*value)),
        Value::Text(text) => put_bytes(to, text.as_bytes()),
        Value::Bytes(bytes) => put_bytes(to, bytes),
        Value::List(items) => items.iter().for_each(|item| put(to, item, kind)),
    }
}

fn put_bytes(to: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).expect("a value fits a frame");
    to.extend_from_slice(&length.to_le_bytes());
    to.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_that_of_the_bytes_by_hand() {
        let json = r#"{"name":"s","fields":[{"name":"a","type":"i16"},{"name":"b","type":"utf8"},{"name":"c","type":"u8","length":2}]}"#;
        let declaration = Declaration::from_json(json.as_bytes()).unwrap();
        let mut digest = SampleDigest::new(&declaration);
        let list = Value::List(vec![Value::U64(7), Value::U64(8)]);
        digest.sample(3, -1, &[Value::I64(-2), Value::Text("hé".into()), list]);
        let mut bytes = 3u64.to_le_bytes().to_vec();
        bytes.extend((-1i64).to_le_bytes());
        bytes.extend((-2i16).to_le_bytes());
        bytes.extend(3u32.to_le_bytes());
        bytes.extend("hé".as_bytes());
        bytes.extend([7, 8]);
        assert_eq!(digest.finish(), <[u8; 32]>::from(Sha256::digest(&bytes)));
        assert_eq!(digest.count(), 1);
    }
}
