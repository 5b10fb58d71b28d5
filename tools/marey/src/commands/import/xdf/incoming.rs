//! The second pass: one stream of a file on its way into the session.
//!
//! Owns the times of samples, the life of the clock that each is of, and what is counted and left out. Does not own frames
//! (`sender`).

use super::super::chunks::Samples;
use super::super::header::{Format, device_name, label};
use super::super::lives::{Follower, Lives};
use super::super::sender::{Sender, Sink, nanoseconds};
use super::ImportedStream;
use super::survey::{Stream, Survey};
use crate::output::Result;
use marey_format::frame::Value;
use marey_format::payload::Event;
use marey_format::{Declaration, DeviceId, limits};
use std::collections::BTreeMap;

/// A stream on its way in.
#[derive(Debug)]
pub struct Importing<'a> {
    id: u32,
    of: &'a Stream,
    lives: Lives,
    follower: Follower,
    sender: Sender,
    /// Number of the life that the last sample was of.
    life: Option<usize>,
    clocks: u32,
    last_s: f64,
    /// The recorder's time of the latest sample, roughly.
    pub until_recorder_ns: Option<i64>,
    samples: u64,
    left_out: u64,
    /// Samples of a life of its clock that no offset tells of.
    unknown: u64,
    /// Marks that are too long for an event.
    long_marks: u64,
    lossy: u64,
}

impl<'a> Importing<'a> {
    pub fn all(survey: &'a Survey, sha256: &[u8; 32]) -> BTreeMap<u32, Self> {
        let mut taken: Vec<DeviceId> = Vec::new();
        let mut all = BTreeMap::new();
        for (&id, stream) in &survey.streams {
            let device = device_name(&stream.header.name, &taken);
            taken.push(device.clone());
            let lives = stream.offsets.lives();
            let importing = Self {
                id,
                of: stream,
                follower: Follower::new(&lives.lives),
                lives,
                sender: Sender::new(device, vec![stream.header.declaration()], sha256, id),
                life: None,
                clocks: 0,
                last_s: 0.0,
                until_recorder_ns: None,
                samples: 0,
                left_out: 0,
                unknown: 0,
                long_marks: 0,
                lossy: 0,
            };
            all.insert(id, importing);
        }
        all
    }

    /// Takes the samples of a chunk, up to the first that can't be read.
    pub fn take(&mut self, body: &[u8], (to, error_ns): (&mut Sink<'_>, Option<u64>)) -> Result {
        let Some(mut samples) = Samples::parse(body) else {
            return Ok(());
        };
        let period_s = self.of.header.rate_hz.map_or(0.0, |rate_hz| 1.0 / rate_hz);
        let (format, channels) = (self.of.header.format, self.of.header.channels.len());
        while samples.left() > 0 {
            let Ok(stamp) = samples.stamp() else { break };
            let time_s = stamp.unwrap_or(self.last_s + period_s);
            let values = match format.width() {
                Some(width) => samples
                    .numbers(width * channels)
                    .map(|bytes| numbers(format, width, bytes)),
                None => samples.texts(channels).map(|texts| self.texts(&texts)),
            };
            let Ok(values) = values else { break };
            // One without a time took a period all the same.
            self.last_s = if time_s.is_finite() {
                time_s
            } else {
                self.last_s + period_s
            };
            self.sample(time_s, values, (&mut *to, error_ns))?;
        }
        Ok(())
    }

    fn texts(&mut self, texts: &[&[u8]]) -> Vec<Value> {
        let text = |bytes: &&[u8]| {
            let text = String::from_utf8_lossy(bytes);
            self.lossy += u64::from(matches!(text, std::borrow::Cow::Owned(_)));
            Value::Text(text.into_owned())
        };
        texts.iter().map(text).collect()
    }

    fn sample(
        &mut self,
        time_s: f64,
        values: Vec<Value>,
        (to, error_ns): (&mut Sink<'_>, Option<u64>),
    ) -> Result {
        let bytes: usize = values
            .iter()
            .map(|value| match value {
                Value::Text(text) => text.len(),
                _ => 8,
            })
            .sum();
        let Some(time_ns) = nanoseconds(time_s).filter(|_| bytes <= limits::FRAME_BYTES_MAX / 2) else {
            self.left_out += 1;
            return Ok(());
        };
        let belongs = self.follower.follow(time_s);
        self.unknown += u64::from(belongs.is_unknown);
        if self.life != Some(belongs.life) || belongs.is_back {
            self.begin(belongs.life, (&mut *to, error_ns))?;
        }
        self.samples += 1;
        let life = self.lives.lives.get(belongs.life);
        let offset_s = life
            .and_then(|life| life.offsets.last())
            .map_or(0.0, |offset| offset.1);
        self.until_recorder_ns = self.until_recorder_ns.max(nanoseconds(time_s + offset_s));
        if self.of.header.is_of_markers() {
            let text = values.iter().find_map(|value| match value {
                Value::Text(text) => Some(text.clone()),
                _ => None,
            });
            let mark = Event {
                kind: "mark".to_owned(),
                text,
                duration_ns: None,
            };
            match fits(&mark) {
                true => self.sender.event(to, time_ns, &mark)?,
                false => self.long_marks += 1,
            }
        }
        let is_one_list = self.declaration().fields[0].length.is_some();
        let values = match is_one_list {
            true => vec![Value::List(values)],
            false => values,
        };
        self.sender.sample(to, 0, time_ns, &values)
    }

    /// It sends one stream.
    fn declaration(&self) -> &Declaration {
        self.sender.declarations().next().expect("it was made with one")
    }

    fn begin(&mut self, life: usize, (to, error_ns): (&mut Sink<'_>, Option<u64>)) -> Result {
        let is_first = self.sender.epochs() == 0;
        if self.life != Some(life) {
            self.clocks += 1;
        }
        self.life = Some(life);
        self.sender
            .begin(to, life, self.lives.lives.get(life), error_ns)?;
        if is_first {
            // What the file says of it, word for word, where a frame can hold it.
            let header = Event {
                kind: "xdf_header".to_owned(),
                text: Some(self.of.xml.clone()),
                duration_ns: None,
            };
            let header = match fits(&header) {
                true => header,
                false => Event { text: None, ..header },
            };
            let time_ns = nanoseconds(self.last_s).unwrap_or(0);
            self.sender.event(to, time_ns, &header)?;
        }
        Ok(())
    }

    /// Ends it. A stream without samples is declared, and its clock's evidence kept, all the same.
    pub fn finish(&mut self, to: &mut Sink<'_>, error_ns: Option<u64>) -> Result {
        if self.life.is_none() {
            self.last_s = self
                .lives
                .lives
                .first()
                .and_then(|life| life.offsets.first())
                .map_or(0.0, |first| first.0);
            self.begin(0, (&mut *to, error_ns))?;
        }
        self.sender.end(to)
    }

    pub fn warnings(&self) -> Vec<String> {
        let name = label(&self.of.header.name).unwrap_or_default();
        let mut warnings = Vec::new();
        let mut warn = |count: u64, what: &str| {
            if count > 0 {
                warnings.push(format!("stream {} ({name}): {count} {what}", self.id));
            }
        };
        warn(
            self.left_out,
            "samples have no time that can be, or are too large for a frame, and were left out",
        );
        warn(
            self.unknown,
            "samples are of a time of its clock that no offset tells of: their times are a guess without bound",
        );
        warn(
            self.long_marks,
            "marks are too long for an event; the stream has them in full",
        );
        warn(
            self.lossy,
            "texts are no UTF-8: what of them is none became U+FFFD",
        );
        warn(
            self.lives.stray,
            "clock offsets are a second or more off from those around them and were left out",
        );
        if let Some(footer) = self
            .of
            .footer
            .filter(|footer| *footer != self.samples + self.left_out)
        {
            warnings.push(format!(
                "stream {} ({name}): its footer counts {footer} samples, the file holds {}",
                self.id,
                self.samples + self.left_out
            ));
        }
        if self.lives.lives.is_empty() && self.samples > 0 {
            warnings.push(format!(
                "stream {} ({name}): the file has no clock offsets of it; its times are taken as the recorder's own, without bound",
                self.id
            ));
        }
        warnings
    }

    pub fn told(self) -> ImportedStream {
        let stale = self.lives.stale;
        ImportedStream {
            id: self.id,
            name: self.of.header.name.clone(),
            content: self.of.header.content.clone(),
            stream: self.declaration().name.to_string(),
            events: self.of.header.is_of_markers(),
            epochs: self.sender.epochs(),
            device: self.sender.device,
            samples: self.samples,
            footer: self.of.footer,
            clocks: self.clocks,
            offsets: self.of.offsets.len() as u64 - stale - self.lives.stray,
            stale_offsets: stale,
            stray_offsets: self.lives.stray,
            left_out: self.left_out,
            untold: self.unknown,
        }
    }
}

/// Whether an event fits a frame; its JSON may be six times as long as its text.
fn fits(event: &Event) -> bool {
    serde_json::to_vec(event).is_ok_and(|json| json.len() <= limits::FRAME_BYTES_MAX / 2)
}

fn numbers(format: Format, width: usize, bytes: &[u8]) -> Vec<Value> {
    fn of<const N: usize>(bytes: &[u8]) -> [u8; N] {
        bytes.try_into().expect("chunks have the width of their format")
    }
    let value = |bytes: &[u8]| match format {
        Format::I8 => Value::I64(i64::from(i8::from_le_bytes(of(bytes)))),
        Format::I16 => Value::I64(i64::from(i16::from_le_bytes(of(bytes)))),
        Format::I32 => Value::I64(i64::from(i32::from_le_bytes(of(bytes)))),
        Format::I64 => Value::I64(i64::from_le_bytes(of(bytes))),
        Format::F32 => Value::F32(f32::from_le_bytes(of(bytes))),
        Format::F64 => Value::F64(f64::from_le_bytes(of(bytes))),
        Format::Text => Value::Text(String::new()),
    };
    bytes.chunks_exact(width).map(value).collect()
}
