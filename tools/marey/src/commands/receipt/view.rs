//! What `marey receipt` says, as JSON has it.

use super::place::Place;
use crate::output::{Failure, Result};
use marey_engine::compact::{
    AuditFact, CauseFact, CutFact, HashFact, Manifest, PreviousFact, Receipt, Retired, SignerFact,
    StreamReceipt, TimeFact,
};
use marey_engine::disk;
use marey_format::types::hex;
use marey_format::{DeviceId, SessionId};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::path::PathBuf;

/// Longest receipt that is read, in bytes.
const RECEIPT_BYTES_MAX: u64 = 256 << 20;

#[derive(Debug, Serialize)]
pub struct View {
    pub session: SessionId,
    pub generation: u32,
    pub receipt: PathBuf,
    /// Of the receipt's file: what to deposit elsewhere.
    pub sha256: String,
    pub complete: bool,
    pub reasons: Vec<String>,
    pub owing: Vec<DeviceId>,
    pub streams: Vec<StreamView>,
    pub retired: Option<RetiredView>,
    pub time: TimeFact,
    pub signer: Option<SignerFact>,
    pub unsigned: Option<String>,
    pub previous: Option<PreviousFact>,
    pub audit: Option<AuditFact>,
    pub manifest: HashFact,
    /// Every file that the manifest names; null where a later generation took its place.
    pub files: Option<Vec<FileView>>,
    pub proves: Vec<String>,
    pub does_not_prove: Vec<String>,
}

/// One stream of one device. A number that nobody knows is null.
#[derive(Debug, Serialize)]
pub struct StreamView {
    pub device: DeviceId,
    pub stream: String,
    pub captured: Option<u64>,
    /// Samples of which the log shows that they came; null where damage may have taken some from it since.
    pub received: Option<u64>,
    pub durable: u64,
    pub parquet: u64,
    pub missing: Option<u64>,
    pub after_stop: u64,
    /// Samples whose log was retired: each stands in Parquet.
    pub retired: u64,
    pub digest_ok: Option<bool>,
    /// The widest bound of a sample's time; null where one has no end.
    pub time_err_us_max: Option<f32>,
    pub gaps: u64,
    pub causes: Vec<CauseView>,
    pub complete: bool,
}

/// What is missing for one cause.
#[derive(Debug, Serialize)]
pub struct CauseView {
    pub cause: String,
    pub gaps: u64,
    pub samples: u64,
}

/// Logs that retention removed.
#[derive(Debug, Serialize)]
pub struct RetiredView {
    pub generation: u32,
    pub samples: u64,
    pub bytes: u64,
    pub rule: String,
}

/// A file and its hashes; a segment has no SHA-256.
#[derive(Debug, Serialize)]
pub struct FileView {
    pub path: String,
    pub bytes: u64,
    pub blake3: Option<String>,
    pub sha256: Option<String>,
    /// Of a segment that its successor cut: what counts of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cut: Option<CutFact>,
}

impl View {
    pub fn read(place: &Place) -> Result<Self> {
        let bytes = disk::read_all(
            &*place.disk,
            &place.dir.join(Receipt::name(place.number)),
            RECEIPT_BYTES_MAX,
        )?;
        let receipt: Receipt = serde_json::from_slice(&bytes).map_err(|error| {
            Failure::fault(format!(
                "{}: {error}; `marey verify` says what else is damaged, `marey compact SESSION --again` publishes anew",
                place.path.display()
            ))
        })?;
        let manifest = Manifest::read(&*place.disk, &place.dir).ok().flatten();
        let manifest = manifest.filter(|manifest| manifest.generation == receipt.generation);
        let retired = Retired::read(&*place.disk, &place.dir)?;
        Ok(Self::of(
            receipt,
            &bytes,
            place.path.clone(),
            manifest.as_ref(),
            retired,
        ))
    }

    /// What a receipt says that has these bytes and stands there; with the manifest if it is the one that it names.
    pub fn of(
        receipt: Receipt,
        bytes: &[u8],
        path: PathBuf,
        manifest: Option<&Manifest>,
        retired: Option<Retired>,
    ) -> Self {
        let streams = receipt.streams.iter().map(|stream| {
            let whole = is_whole(&receipt, stream);
            StreamView::of(stream, whole, retired.is_some())
        });
        Self {
            streams: streams.collect(),
            proves: proves(&receipt),
            does_not_prove: DOES_NOT_PROVE.map(str::to_owned).to_vec(),
            sha256: hex(&Sha256::digest(bytes)),
            receipt: path,
            session: receipt.session,
            generation: receipt.generation,
            complete: receipt.complete,
            reasons: receipt.reasons,
            owing: receipt.owing,
            retired: retired.map(RetiredView::of),
            time: receipt.time,
            signer: receipt.signer,
            unsigned: receipt.unsigned,
            previous: receipt.previous,
            audit: receipt.audit,
            manifest: receipt.manifest,
            files: manifest.map(files),
        }
    }
}

impl StreamView {
    fn of(stream: &StreamReceipt, whole: bool, is_retired: bool) -> Self {
        Self {
            device: stream.device.clone(),
            stream: stream.stream.clone(),
            captured: stream.captured,
            received: whole.then_some(stream.durable),
            durable: stream.durable,
            parquet: stream.parquet,
            missing: stream.missing,
            after_stop: stream.after_stop,
            retired: if is_retired { stream.parquet } else { 0 },
            digest_ok: stream.digest_ok,
            time_err_us_max: stream.time_err_us_max,
            gaps: stream.gap_count as u64,
            causes: causes(stream),
            complete: stream.complete,
        }
    }
}

impl RetiredView {
    fn of(retired: Retired) -> Self {
        Self {
            generation: retired.generation,
            samples: retired.samples,
            bytes: retired.bytes,
            rule: retired.rule,
        }
    }
}

/// Whether nothing that the log of a stream's device once held is known to be lost from it.
fn is_whole(receipt: &Receipt, stream: &StreamReceipt) -> bool {
    let folder = format!("logs/{}/", stream.device);
    let damaged = receipt.damage.iter().map(|fact| &fact.file);
    let unreadable = receipt.unreadable.iter().map(|fact| &fact.file);
    !damaged.chain(unreadable).any(|file| file.starts_with(&folder))
}

/// As the receipt counts them; of one that was written before they were counted, from the gaps that it lists.
fn causes(stream: &StreamReceipt) -> Vec<CauseView> {
    if !stream.causes.is_empty() || stream.gaps.is_empty() {
        let view = |fact: &CauseFact| CauseView {
            cause: fact.cause.clone(),
            gaps: fact.gaps as u64,
            samples: fact.samples,
        };
        return stream.causes.iter().map(view).collect();
    }
    let mut causes: Vec<CauseView> = Vec::new();
    for gap in &stream.gaps {
        let samples = (gap.last_seq - gap.first_seq.min(gap.last_seq)).saturating_add(1);
        match causes.iter_mut().find(|known| known.cause == gap.cause) {
            Some(known) => {
                (known.gaps, known.samples) = (known.gaps + 1, known.samples.saturating_add(samples))
            }
            None => causes.push(CauseView {
                cause: gap.cause.clone(),
                gaps: 1,
                samples,
            }),
        }
    }
    causes
}

fn files(manifest: &Manifest) -> Vec<FileView> {
    let hashed = |path: &String, hashes: &HashFact| FileView {
        path: path.clone(),
        bytes: hashes.bytes,
        blake3: Some(hashes.blake3.clone()),
        sha256: Some(hashes.sha256.clone()),
        cut: None,
    };
    let parts = manifest.streams.iter().flat_map(|stream| &stream.parts);
    let parts = parts.map(|part| hashed(&part.path, &part.hashes));
    let tables = manifest.beside().map(|table| hashed(&table.path, &table.hashes));
    let segments = manifest.logs.iter().flat_map(|log| &log.segments);
    let segments = segments.map(|segment| FileView {
        path: segment.path.clone(),
        bytes: segment.bytes,
        blake3: segment.blake3.clone(),
        sha256: None,
        cut: segment.cut.clone(),
    });
    parts.chain(tables).chain(segments).collect()
}

fn proves(receipt: &Receipt) -> Vec<String> {
    let mut proves = vec![
        "what each device had said that it captured, what the hub had made durable, and what stands in Parquet, when this \
         generation was published"
            .to_owned(),
        "that the files are the ones that were published: it has the hash of the manifest, and that has the hash of each \
         (`marey verify --receipt`)"
            .to_owned(),
    ];
    if receipt.previous.is_some() {
        proves.push(
            "that the receipts before it were not changed since: it has the hash of the one before"
                .to_owned(),
        );
    }
    if receipt.signer.is_some() {
        proves.push(
            "that the key which it names signed it, and that the authority of a hub vouches for that key"
                .to_owned(),
        );
    }
    proves
}

const DOES_NOT_PROVE: [&str; 4] = [
    "that a device told the truth: what a device never numbered, nobody can miss",
    "when it was made: deposit its SHA-256 where somebody else dates it",
    "anything against whoever holds the hub's keys and its disk, who can make all of it anew: a SHA-256 that was deposited \
     elsewhere shows that",
    "a sensor's own latency, or UTC to better than the error that it states",
];
