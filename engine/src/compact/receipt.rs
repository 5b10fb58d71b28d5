//! `receipt-NNNN.json`: for every stream what the device says that it captured, what the hub made durable, what stands
//! in Parquet, what is missing and why.
//!
//! What nobody stated is null, never 0. A receipt is complete only if every number is known and nothing is missing.

use super::files::Hashes;
use super::gaps::Gap;
use super::manifest::{HashFact, json, text};
use super::parquet::WrittenStream;
use super::signature::{PreviousFact, SignerFact};
use super::survey::{DeviceSurvey, StreamPlan};
use crate::log::FaultKind;
use crate::session::Session;
use marey_format::audit::AuditHead;
use marey_format::frame::Lane;
use marey_format::payload::WallReading;
use marey_format::types::rfc3339;
use marey_format::{DeviceId, DigestChain, SessionId, version};
use serde::{Deserialize, Serialize};

/// Gaps of one stream that a receipt lists; gaps.parquet has all of them.
const GAPS_LISTED: usize = 100;

/// Frames that a receipt lists of one place that can't be read.
const FRAMES_LISTED: usize = 100;

/// A receipt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    pub v: u32,
    pub marey: String,
    pub session: SessionId,
    pub generation: u32,
    pub complete: bool,
    /// Why it is not.
    pub reasons: Vec<String>,
    /// Devices that have not stated the ends of their streams, or were not heard of at all.
    pub owing: Vec<DeviceId>,
    pub streams: Vec<StreamReceipt>,
    pub kept_out: Vec<KeptOutFact>,
    pub damage: Vec<DamageFact>,
    /// What the disk could not read. It is in the logs, as far as anybody knows, and not in this generation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreadable: Vec<UnreadableFact>,
    /// What the hub wrote into the logs, such as proven losses.
    pub notes: Vec<NoteFact>,
    pub time: TimeFact,
    /// Of manifest.json, which has the hashes of everything else.
    pub manifest: HashFact,
    /// The newest record of the hub's audit log when this was made: that log can't be cut below it unseen. None where nothing
    /// was audited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<AuditFact>,
    /// The receipt before; null in the first. Receipts that were written before have no such key.
    #[serde(default)]
    pub previous: Option<PreviousFact>,
    /// Whose signature stands beside it; null where it is unsigned.
    #[serde(default)]
    pub signer: Option<SignerFact>,
    /// Why it is not signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsigned: Option<String>,
}

/// A record of a hub's audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditFact {
    /// The hub's id: a session that was moved elsewhere is not held against the log that is there.
    pub hub: String,
    #[serde(flatten)]
    pub head: AuditHead,
}

/// One stream of one device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StreamReceipt {
    pub device: DeviceId,
    pub stream: String,
    /// Samples that the device says it captured; null if it did not say so for every epoch.
    #[serde(with = "optional")]
    pub captured: Option<u64>,
    /// Samples that are durable on the hub.
    #[serde(with = "text")]
    pub durable: u64,
    /// Samples that stand in Parquet.
    #[serde(with = "text")]
    pub parquet: u64,
    /// Captured, and not in Parquet; null if unknown.
    #[serde(with = "optional")]
    pub missing: Option<u64>,
    /// In Parquet, and captured after the session was stopped.
    #[serde(with = "text")]
    pub after_stop: u64,
    /// Whether the device's digest fits what came; null where it stated none, or where not every frame came.
    pub digest_ok: Option<bool>,
    /// The widest bound; null where one is infinite.
    pub time_err_us_max: Option<f32>,
    pub gap_count: usize,
    /// All gaps, by their cause. Receipts that were written before have none.
    #[serde(default)]
    pub causes: Vec<CauseFact>,
    pub gaps: Vec<GapFact>,
    pub complete: bool,
}

/// How much is missing for one cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CauseFact {
    pub cause: String,
    pub gaps: usize,
    #[serde(with = "text")]
    pub samples: u64,
}

/// A range of indices that is missing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GapFact {
    pub epoch: u32,
    #[serde(with = "text")]
    pub first_seq: u64,
    #[serde(with = "text")]
    pub last_seq: u64,
    pub cause: String,
}

/// A frame that is stored and stays out of Parquet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeptOutFact {
    pub device: DeviceId,
    pub stream: Option<String>,
    pub file: String,
    #[serde(with = "text")]
    pub offset: u64,
    pub samples: u32,
    pub why: String,
}

/// A range of bytes, of a log or of the annotations, that is not what was written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DamageFact {
    pub file: String,
    #[serde(with = "text")]
    pub offset: u64,
    #[serde(with = "text")]
    pub bytes: u64,
    pub why: String,
}

/// A place of a log that the disk could not read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UnreadableFact {
    pub file: String,
    #[serde(with = "text")]
    pub offset: u64,
    #[serde(with = "text")]
    pub bytes: u64,
    /// What the disk said.
    pub why: String,
    /// Frames that are not in Parquet because of it; null where the segment's list of frames can't be read either.
    #[serde(with = "optional")]
    pub frames: Option<u64>,
    /// Samples in them; null likewise.
    #[serde(with = "optional")]
    pub samples: Option<u64>,
    /// The first of the frames.
    pub first_frames: Vec<LostFrame>,
}

/// A frame by its name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LostFrame {
    #[serde(with = "text")]
    pub offset: u64,
    /// Null for frames of the hub.
    pub epoch: Option<u32>,
    pub lane: u8,
    #[serde(with = "text")]
    pub sequence: u64,
    /// Number of the stream; 0 where the frame is of none.
    pub stream: u32,
    pub samples: u32,
}

impl std::fmt::Display for UnreadableFact {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            to,
            "{} can't be read at offset {}, {} bytes ({}); ",
            self.file, self.offset, self.bytes, self.why
        )?;
        match (self.frames, self.samples) {
            (Some(frames), Some(samples)) => {
                write!(to, "{frames} frames with {samples} samples are not in Parquet")
            }
            _ => to.write_str("how many frames are not in Parquet is unknown, see the gaps"),
        }
    }
}

/// A note of the hub.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NoteFact {
    pub device: DeviceId,
    pub kind: String,
    pub text: Option<String>,
}

/// What ties session time to UTC. Bounds are against the hub's time; the error of UTC stands here alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimeFact {
    pub anchor: String,
    #[serde(with = "text")]
    pub utc_error_ns: i64,
    pub utc_synchronised: bool,
    pub max_drift_ppm: f64,
    /// What an operator should know of the clocks.
    pub warnings: Vec<String>,
}

/// One stream, as it was found and written.
#[derive(Debug)]
pub struct StreamOutcome<'a> {
    pub survey: &'a DeviceSurvey,
    pub plan: &'a StreamPlan,
    pub written: &'a WrittenStream,
    pub gaps: &'a [Gap],
}

impl Receipt {
    /// Adds up a generation.
    pub fn of(
        session: &Session,
        anchor: &WallReading,
        generation: u32,
        surveys: &[DeviceSurvey],
        streams: &[StreamOutcome<'_>],
        mut warnings: Vec<String>,
        manifest: &Hashes,
    ) -> Self {
        let owing = owing(session, surveys);
        let streams: Vec<StreamReceipt> = streams.iter().map(StreamReceipt::of).collect();
        warnings.extend(
            streams
                .iter()
                .filter(|it| it.parquet > 0)
                .filter_map(|it| session.wider_than_asked(&it.device, &it.stream, it.time_err_us_max)),
        );
        let kept_out: Vec<KeptOutFact> = surveys.iter().flat_map(kept_out).collect();
        let damage: Vec<DamageFact> = surveys.iter().flat_map(damage).collect();
        let unreadable: Vec<UnreadableFact> = surveys.iter().flat_map(unreadable).collect();
        let mut reasons = Vec::new();
        let mut reason = |count: usize, what: &str| {
            if count > 0 {
                reasons.push(format!("{count} {what}"));
            }
        };
        reason(owing.len(), "devices have not stated their totals");
        reason(
            streams.iter().filter(|s| s.captured.is_none()).count(),
            "streams whose captured total is unknown",
        );
        reason(
            streams.iter().filter(|s| s.gap_count > 0).count(),
            "streams have gaps",
        );
        reason(
            streams.iter().filter(|s| s.digest_ok == Some(false)).count(),
            "streams differ from their digest",
        );
        reason(kept_out.len(), "frames are kept out of Parquet");
        reason(damage.len(), "places in the logs are damaged");
        reason(unreadable.len(), "places in the logs can't be read");
        let notes = surveys.iter().flat_map(|survey| {
            survey.notes.iter().map(|entry| NoteFact {
                device: survey.device.clone(),
                kind: entry.note.kind.clone(),
                text: entry.note.text.clone(),
            })
        });
        Self {
            v: version::SESSION,
            marey: env!("CARGO_PKG_VERSION").to_owned(),
            session: session.id.clone(),
            generation,
            complete: reasons.is_empty(),
            reasons,
            owing,
            streams,
            kept_out,
            damage,
            unreadable,
            notes: notes.collect(),
            time: TimeFact {
                anchor: rfc3339(anchor.utc_ns.div_euclid(1_000)),
                utc_error_ns: anchor.error_ns,
                utc_synchronised: anchor.synchronised,
                max_drift_ppm: session.max_drift_ppm,
                warnings,
            },
            manifest: manifest.into(),
            audit: None,
            previous: None,
            signer: None,
            unsigned: None,
        }
    }

    /// Names a damaged place that is in no log.
    pub fn add_damage(&mut self, damage: DamageFact) {
        self.complete = false;
        self.reasons.push(format!("{} is damaged", damage.file));
        self.damage.push(damage);
    }

    /// The name of a generation's receipt.
    pub fn name(generation: u32) -> String {
        format!("receipt-{generation:04}.json")
    }

    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        json(self)
    }
}

/// Devices that declared nothing, or have a stream whose end they did not state in every epoch that has it, and devices
/// that the session names and that sent nothing.
fn owing(session: &Session, surveys: &[DeviceSurvey]) -> Vec<DeviceId> {
    let open = |survey: &&DeviceSurvey| {
        survey.streams.is_empty()
            || survey
                .streams
                .values()
                .any(|plan| plan.ends.values().any(Option::is_none))
    };
    let mut owing: Vec<DeviceId> = surveys
        .iter()
        .filter(open)
        .map(|survey| survey.device.clone())
        .collect();
    let heard = |device: &&DeviceId| {
        !surveys
            .iter()
            .any(|survey| survey.device == **device && !survey.epochs.is_empty())
    };
    owing.extend(session.roster.iter().flatten().filter(heard).cloned());
    owing.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    owing.dedup();
    owing
}

fn kept_out(survey: &DeviceSurvey) -> Vec<KeptOutFact> {
    let fact = |stream: Option<String>, place: super::frames::Place, samples, why: &str| KeptOutFact {
        device: survey.device.clone(),
        stream,
        file: super::manifest::segment_path(&survey.device, place.segment),
        offset: place.offset,
        samples,
        why: why.to_owned(),
    };
    let of_streams = survey.streams.values().flat_map(|plan| {
        plan.kept_out
            .iter()
            .map(move |kept| (Some(plan.key.to_string()), kept.place, kept.samples, kept.why))
    });
    let misfits = survey
        .misfits
        .iter()
        .map(|misfit| fact(None, misfit.place, misfit.samples, &misfit.why));
    of_streams
        .map(|(stream, place, samples, why)| fact(stream, place, samples, why))
        .chain(misfits)
        .collect()
}

fn damage(survey: &DeviceSurvey) -> impl Iterator<Item = DamageFact> {
    survey
        .faults
        .iter()
        .filter(|fault| fault.kind == FaultKind::Damage)
        .map(|fault| DamageFact {
            file: super::manifest::segment_path(&survey.device, fault.segment),
            offset: fault.offset,
            bytes: fault.bytes,
            why: fault.why.clone(),
        })
}

fn unreadable(survey: &DeviceSurvey) -> impl Iterator<Item = UnreadableFact> {
    survey.unreadable.iter().map(|place| {
        let lost = place.lost.as_deref();
        let first = lost.unwrap_or_default().iter().take(FRAMES_LISTED);
        UnreadableFact {
            file: super::manifest::segment_path(&survey.device, place.segment),
            offset: place.hole.offset,
            bytes: place.hole.bytes,
            why: place.hole.why.clone(),
            frames: lost.map(|lost| lost.len() as u64),
            samples: lost.map(|lost| lost.iter().map(|entry| u64::from(entry.count)).sum()),
            first_frames: first
                .map(|entry| LostFrame {
                    offset: entry.offset.into(),
                    epoch: (entry.lane != Lane::Hub).then_some(entry.epoch),
                    lane: entry.lane as u8,
                    sequence: entry.sequence,
                    stream: entry.stream,
                    samples: entry.count,
                })
                .collect(),
        }
    })
}

impl StreamReceipt {
    fn of(outcome: &StreamOutcome<'_>) -> Self {
        let StreamOutcome {
            survey,
            plan,
            written,
            gaps,
        } = outcome;
        let kept: u64 = plan.kept_out.iter().map(|kept| u64::from(kept.samples)).sum();
        let taken: u64 = plan.frames.iter().map(|frame| u64::from(frame.count)).sum();
        let captured = plan
            .ends
            .values()
            .map(|end| end.as_ref().map(|end| end.captured))
            .try_fold(0u64, |sum, captured| Some(sum.saturating_add(captured?)));
        let missing = captured.map(|captured| captured.saturating_sub(written.rows));
        let digest_ok = digest(plan);
        let listed = gaps.iter().take(GAPS_LISTED).map(|gap| GapFact {
            epoch: gap.epoch,
            first_seq: gap.from,
            last_seq: gap.to - 1,
            cause: gap.cause.as_str().to_owned(),
        });
        Self {
            device: survey.device.clone(),
            stream: plan.key.to_string(),
            captured,
            durable: taken + kept,
            parquet: written.rows,
            missing,
            after_stop: written.after_stop,
            digest_ok,
            // A stream without samples has no bound; 0 would be a perfect one.
            time_err_us_max: (written.rows > 0 && written.err_us_max.is_finite())
                .then_some(written.err_us_max),
            gap_count: gaps.len(),
            causes: causes(gaps),
            gaps: listed.collect(),
            complete: missing == Some(0) && gaps.is_empty() && digest_ok != Some(false),
        }
    }
}

/// Gaps by cause, in the order in which causes first come.
fn causes(gaps: &[Gap]) -> Vec<CauseFact> {
    let mut causes: Vec<CauseFact> = Vec::new();
    for gap in gaps {
        let cause = gap.cause.as_str();
        let at = causes.iter().position(|fact| fact.cause == cause);
        let at = at.unwrap_or_else(|| {
            causes.push(CauseFact {
                cause: cause.to_owned(),
                gaps: 0,
                samples: 0,
            });
            causes.len() - 1
        });
        causes[at].gaps += 1;
        causes[at].samples += gap.samples();
    }
    causes
}

/// The device's chain over its data frames, held against what came. Only where all frames came can it be.
fn digest(plan: &StreamPlan) -> Option<bool> {
    let mut whole = None;
    for (&epoch, end) in &plan.ends {
        let end = end.as_ref()?;
        let from = plan.frames.partition_point(|frame| frame.epoch < epoch);
        let frames = plan.frames[from..]
            .iter()
            .take_while(|frame| frame.epoch == epoch);
        let (mut chain, mut count) = (DigestChain::default(), 0u64);
        for frame in frames {
            chain.push(frame.crc, frame.sequence);
            count += 1;
        }
        if count != end.frames {
            return None;
        }
        whole = Some(whole.unwrap_or(true) && chain.to_hex() == end.digest.to_ascii_lowercase());
    }
    whole
}

/// Integers as strings, or null.
mod optional {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(value: &Option<u64>, to: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => to.collect_str(value),
            None => to.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| text.parse().map_err(D::Error::custom))
            .transpose()
    }
}
