//! What of a log is gone: the lists that salvage returns, and how they read.
//!
//! Which frames are on them is found out in `finding`.

use super::report::path;
use marey_format::{DeviceId, EpochId, SessionId};
use serde::Serialize;
use std::path::PathBuf;

/// Everything that is lost.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Lost {
    pub frames: Vec<LostFrames>,
    pub samples: Vec<LostSamples>,
    /// Bytes of which it can't be said which frames they held.
    pub bytes: Vec<LostBytes>,
}

/// A range of sequences of one lane.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LostFrames {
    pub session: SessionId,
    pub device: DeviceId,
    /// The epoch's ordinal; none for frames of the hub.
    pub epoch: Option<u32>,
    pub epoch_id: Option<EpochId>,
    /// `data`, `live` or `hub`.
    pub lane: &'static str,
    pub first: u64,
    /// None where nothing says how far it goes.
    pub last: Option<u64>,
    /// They were there: an index lists them. Else they may never have come.
    pub certain: bool,
    #[serde(serialize_with = "path")]
    pub file: PathBuf,
    pub offset: u64,
    pub cause: String,
}

/// A range of sample indices of one stream.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LostSamples {
    pub session: SessionId,
    pub device: DeviceId,
    /// `NAME@N`; `#NUMBER` where nothing names it.
    pub stream: String,
    pub epoch: u32,
    pub first: u64,
    /// None where nothing says how far it goes.
    pub last: Option<u64>,
    pub certain: bool,
    #[serde(serialize_with = "path")]
    pub file: PathBuf,
    pub offset: u64,
    pub cause: String,
}

/// A range of a file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LostBytes {
    #[serde(serialize_with = "path")]
    pub file: PathBuf,
    pub offset: u64,
    pub bytes: u64,
    pub cause: String,
}

impl Lost {
    pub fn is_nothing(&self) -> bool {
        self.frames.is_empty() && self.samples.is_empty() && self.bytes.is_empty()
    }

    pub(super) fn extend(&mut self, other: Self) {
        self.frames.extend(other.frames);
        self.samples.extend(other.samples);
        self.bytes.extend(other.bytes);
    }
}

fn range(first: u64, last: Option<u64>) -> String {
    match last {
        Some(last) if last == first => format!("{first}"),
        Some(last) => format!("{first} to {last}"),
        None => format!("from {first} on, as far as it went"),
    }
}

impl std::fmt::Display for LostFrames {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "{}/{}: ", self.session, self.device)?;
        if let Some(epoch) = self.epoch {
            write!(to, "epoch {epoch}, ")?;
        }
        write!(to, "{} lane, frames {}", self.lane, range(self.first, self.last))?;
        let doubt = if self.certain { "" } else { " (if they came)" };
        write!(
            to,
            "{doubt}: {}: offset {}: {}",
            self.file.display(),
            self.offset,
            self.cause
        )
    }
}

impl std::fmt::Display for LostSamples {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            to,
            "{}/{}: {}, epoch {}, ",
            self.session, self.device, self.stream, self.epoch
        )?;
        let doubt = if self.certain { "" } else { " (if they came)" };
        let range = range(self.first, self.last);
        write!(
            to,
            "samples {range}{doubt}: {}: offset {}: {}",
            self.file.display(),
            self.offset,
            self.cause
        )
    }
}

impl std::fmt::Display for LostBytes {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            to,
            "{}: offset {}: {} bytes: {}",
            self.file.display(),
            self.offset,
            self.bytes,
            self.cause
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(epoch: Option<u32>, lane: &'static str, last: Option<u64>, certain: bool) -> String {
        let lost = LostFrames {
            session: SessionId::new("walk").unwrap(),
            device: DeviceId::new("phone").unwrap(),
            epoch,
            epoch_id: None,
            lane,
            first: 7,
            last,
            certain,
            file: PathBuf::from("logs/phone/000001.mlog"),
            offset: 4096,
            cause: "the checksum does not hold".to_owned(),
        };
        lost.to_string()
    }

    #[test]
    fn a_loss_is_one_sentence_with_its_place_and_cause() {
        let place = "logs/phone/000001.mlog: offset 4096: the checksum does not hold";
        assert_eq!(
            frames(Some(2), "data", Some(9), true),
            format!("walk/phone: epoch 2, data lane, frames 7 to 9: {place}")
        );
        assert_eq!(
            frames(Some(0), "live", Some(7), false),
            format!("walk/phone: epoch 0, live lane, frames 7 (if they came): {place}")
        );
        assert_eq!(
            frames(None, "hub", None, false),
            format!("walk/phone: hub lane, frames from 7 on, as far as it went (if they came): {place}")
        );
        let mut samples = LostSamples {
            session: SessionId::new("walk").unwrap(),
            device: DeviceId::new("phone").unwrap(),
            stream: "imu@1".to_owned(),
            epoch: 1,
            first: 100,
            last: Some(199),
            certain: true,
            file: PathBuf::from("logs/phone/000001.mlog"),
            offset: 4096,
            cause: "the checksum does not hold".to_owned(),
        };
        assert_eq!(
            samples.to_string(),
            format!("walk/phone: imu@1, epoch 1, samples 100 to 199: {place}")
        );
        (samples.last, samples.certain) = (None, false);
        assert!(
            samples
                .to_string()
                .contains("samples from 100 on, as far as it went (if they came): logs")
        );
        let bytes = LostBytes {
            file: PathBuf::from("journal/000000.mjb"),
            offset: 512,
            bytes: 8,
            cause: "zeros".to_owned(),
        };
        assert_eq!(
            bytes.to_string(),
            "journal/000000.mjb: offset 512: 8 bytes: zeros"
        );
    }
}
