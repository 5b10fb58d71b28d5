//! The first pass over a file: heads, clock offsets, footers, and which chunks are wrong inside.
//!
//! Owns the rule by which a chunk counts as damaged: both passes go on from damage at the same places because of it. Samples are
//! stepped over.

use super::super::chunks::{Chunks, Damage, Next, Samples, Tag, clock_offset, stream_id};
use super::super::header::{StreamHeader, said};
use super::super::lives::Offsets;
use super::super::sender::nanoseconds;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufReader};

/// What the first pass finds of a stream.
#[derive(Debug)]
pub struct Stream {
    pub header: StreamHeader,
    pub xml: String,
    pub offsets: Offsets,
    pub first_s: Option<f64>,
    pub footer: Option<u64>,
}

#[derive(Debug, Default)]
pub struct Survey {
    pub streams: BTreeMap<u32, Stream>,
    pub datetime: Option<String>,
    /// Streams that can't be had, with a warning why.
    pub left_out: BTreeSet<u32>,
    pub warnings: Vec<String>,
    /// What is said where nothing comes of the file: the second pass names all.
    pub first_damage: Option<Damage>,
}

/// The first pass. It goes on from damage as the second does, which names it.
pub fn survey(chunks: &mut Chunks<BufReader<File>>) -> io::Result<Survey> {
    let mut survey = Survey::default();
    while let Some(next) = chunks.next()? {
        let (at, tag) = match next {
            Next::Chunk { at, tag } => (at, tag),
            Next::Damage(damage) => {
                survey.first_damage.get_or_insert(damage);
                continue;
            }
        };
        let content = chunks.content();
        match (tag, stream_id(content)) {
            (Tag::FileHeader, _) => survey.datetime = said(content, "datetime"),
            (Tag::StreamHeader, Some((id, xml))) => survey.header(at, id, xml),
            (Tag::ClockOffset, Some((id, body))) => {
                if let (Some(stream), Some((time_s, offset_s))) =
                    (survey.streams.get_mut(&id), clock_offset(body))
                {
                    stream.offsets.push(time_s, offset_s);
                }
            }
            (Tag::StreamFooter, Some((id, xml))) => {
                if let Some(stream) = survey.streams.get_mut(&id) {
                    stream.footer = said(xml, "sample_count").and_then(|count| count.parse().ok());
                }
            }
            (Tag::Samples, Some((id, body))) => {
                let first = Samples::parse(body).and_then(|mut samples| samples.stamp().ok().flatten());
                if let (Some(stream), Some(first)) = (survey.streams.get_mut(&id), first) {
                    stream.first_s = stream.first_s.or(Some(first).filter(|first| first.is_finite()));
                }
            }
            _ => {}
        }
        if survey.wrong(tag, content).is_some() {
            chunks.look_for_boundary_in(at);
        }
    }
    Ok(survey)
}

impl Survey {
    /// What is wrong inside of a chunk.
    pub fn wrong(&self, tag: Tag, content: &[u8]) -> Option<String> {
        match (tag, stream_id(content)) {
            (Tag::Samples | Tag::ClockOffset, None) => Some("it does not name its stream".to_owned()),
            (Tag::ClockOffset, Some((id, body))) if clock_offset(body).is_none() => {
                Some(format!("stream {id}: no clock offset can be read in it"))
            }
            (Tag::Samples, Some((id, _))) if self.left_out.contains(&id) => None,
            (Tag::Samples, Some((id, body))) => match (self.streams.get(&id), Samples::parse(body)) {
                (None, _) => Some(format!("samples of stream {id}, which has no header")),
                (_, None) => Some(format!("stream {id}: it does not say how many samples there are")),
                (Some(stream), Some(mut samples)) => {
                    let header = &stream.header;
                    samples
                        .check(header.format.width(), header.channels.len())
                        .map(|(left, what)| format!("stream {id}: {left} samples can't be read: {what}"))
                }
            },
            _ => None,
        }
    }

    fn header(&mut self, at: u64, id: u32, xml: &[u8]) {
        match StreamHeader::parse(xml) {
            Err(error) => self.warnings.push(format!(
                "stream {id}: its header at byte {at} can't be read, so its samples can't be either: {error}"
            )),
            Ok(_) if self.streams.contains_key(&id) => self
                .warnings
                .push(format!("stream {id}: a second header at byte {at} is left out")),
            Ok(header) if !header.fits() => {
                self.left_out.insert(id);
                self.warnings.push(format!(
                    "stream {id} is left out: its {} channels of text are more than a stream can have",
                    header.channels.len()
                ));
            }
            Ok(header) => {
                let stream = Stream {
                    header,
                    xml: String::from_utf8_lossy(xml).into_owned(),
                    offsets: Offsets::default(),
                    first_s: None,
                    footer: None,
                };
                self.streams.insert(id, stream);
            }
        }
    }

    /// The recorder's time at the recording's beginning, as near as the file tells.
    pub fn first_recorder_ns(&self) -> i64 {
        let of_stream = |stream: &Stream| {
            let lives = stream.offsets.lives().lives;
            let offset_s = lives
                .first()
                .and_then(|life| life.offsets.first())
                .map_or(0.0, |offset| offset.1);
            let first_s = stream.first_s.map(|first_s| first_s + offset_s);
            first_s.or(stream.offsets.first_recorder_s())
        };
        let first_s = self
            .streams
            .values()
            .filter_map(of_stream)
            .fold(f64::INFINITY, f64::min);
        nanoseconds(first_s).unwrap_or(0)
    }
}
