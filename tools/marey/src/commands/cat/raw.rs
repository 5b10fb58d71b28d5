//! `marey cat --frames` and `--samples`: the logs as they stand, line for line what `format-spec/reference/read_log.py`
//! prints, so that the two can be held against each other; only the words in which a fault is told are each one's own.

mod python;

use super::{Arguments, Lines};
use crate::output::{Failure, Result};
use marey_engine::Session;
use marey_engine::disk::{Disk, File, OpenMode};
use marey_engine::log::{FaultKind, LogReader, read_frame, segment_name};
use marey_engine::salvage::{Source, What};
use marey_format::frame::{Columns, Frame, Kind};
use marey_format::payload::Assign;
use marey_format::{Declaration, DeviceId, Lane, SessionId};
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

pub fn cat(source: &Source, arguments: &Arguments, lines: &mut Lines<'_>) -> Result {
    let is_session = matches!(source.what(), What::Session { .. });
    let logs: Vec<(SessionId, DeviceId)> = match source.what().clone() {
        What::Session { session } => source
            .devices(&session)?
            .into_iter()
            .map(|device| (session.clone(), device))
            .collect(),
        What::Log { session, device } | What::Segment { session, device, .. } => vec![(session, device)],
        What::Hub => {
            let what = "--frames and --samples take a session or a log";
            return Err(Failure::Usage(what.to_owned()));
        }
    };
    if logs.is_empty() {
        let path = source.path().display();
        return Err(Failure::Usage(format!("no device log here: {path}")));
    }
    if let Some(wanted) = &arguments.device
        && logs.iter().all(|(_, device)| device != wanted)
    {
        let known: Vec<&str> = logs.iter().map(|(_, device)| device.as_str()).collect();
        return Err(Failure::fault(format!(
            "no log of {wanted} here, but of {}",
            known.join(", ")
        )));
    }
    let mut damaged = false;
    for (session, device) in logs {
        if arguments.device.as_ref().is_some_and(|wanted| *wanted != device) {
            continue;
        }
        let disk = source.disk();
        let mut log = Log {
            source,
            disk: &*disk,
            named: is_session.then(|| device.as_str()),
            session: &session,
            device: &device,
            lines,
            damaged: false,
        };
        if !log.cat(arguments)? {
            break;
        }
        damaged |= log.damaged;
    }
    match damaged {
        true => Err(Failure::fault(
            "the log is damaged; `marey recover --out DIR` salvages what is whole",
        )),
        false => Ok(()),
    }
}

/// A frame, as it is printed.
#[derive(Serialize)]
struct FrameLine {
    segment: u32,
    offset: u64,
    length: u32,
    kind: u8,
    lane: u8,
    epoch: Option<u32>,
    stream: u32,
    count: u32,
    sequence: u64,
    first_index: u64,
    first_time_ns: i64,
    crc: u32,
}

/// A sample, as it is printed.
#[derive(Serialize)]
struct SampleLine<'a> {
    stream: &'a str,
    epoch: u32,
    seq: u64,
    device_time_ns: i64,
    values: Vec<Value>,
}

/// A fault, as it is printed.
#[derive(Serialize)]
struct FaultLine {
    fault: &'static str,
    segment: u32,
    offset: u64,
    bytes: u64,
    why: String,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    frame: Option<QuarantinedFrame>,
}

/// Which data frame is left out.
#[derive(Serialize)]
struct QuarantinedFrame {
    stream: String,
    epoch: u32,
    sequence: u64,
}

/// Where a data frame stands.
struct Place {
    epoch: u32,
    sequence: u64,
    segment: u32,
    offset: u64,
    length: u32,
    crc: u32,
    stream: u32,
}

/// The streams that the hub assigned, by epoch and stream number: name and declaration.
type Streams = HashMap<(u32, u32), (String, Declaration)>;

struct Log<'a, 'o> {
    source: &'a Source,
    disk: &'a dyn Disk,
    /// Printed before everything else, where there are several logs.
    named: Option<&'a str>,
    session: &'a SessionId,
    device: &'a DeviceId,
    lines: &'a mut Lines<'o>,
    damaged: bool,
}

impl Log<'_, '_> {
    /// Prints the log; false if no more lines are wanted.
    fn cat(&mut self, arguments: &Arguments) -> Result<bool> {
        let mut reader = LogReader::open(self.disk, self.session, self.device)?;
        let (mut taken, mut data, mut streams) = (HashSet::new(), Vec::new(), Streams::new());
        let frames = arguments.frames || !arguments.samples;
        while let Some(found) = reader.next()? {
            let header = *found.frame.header();
            let epoch = found.epoch.filter(|_| header.lane != Lane::Hub);
            // Of two with one name the first counts.
            if !taken.insert((epoch, header.lane, header.sequence)) {
                continue;
            }
            let line = FrameLine {
                segment: found.segment,
                offset: found.offset,
                length: header.length,
                kind: header.kind.0,
                lane: header.lane as u8,
                epoch,
                stream: header.stream,
                count: header.count,
                sequence: header.sequence,
                first_index: header.first_index,
                first_time_ns: header.first_time_ns,
                crc: header.crc,
            };
            match (header.kind, epoch) {
                (Kind::DATA, Some(epoch)) if arguments.samples => data.push(Place {
                    epoch,
                    sequence: header.sequence,
                    segment: found.segment,
                    offset: found.offset,
                    length: header.length,
                    crc: header.crc,
                    stream: header.stream,
                }),
                (Kind::ASSIGN, None) => {
                    if let Ok(assign) = found.frame.json::<Assign>("assign") {
                        let label = assign.stream_key().to_string();
                        streams.insert((assign.epoch, assign.stream), (label, assign.declaration));
                    }
                }
                _ => {}
            }
            if frames && !self.print(&line)? {
                return Ok(false);
            }
        }
        let mut faults = self.faults(&reader);
        if !self.samples(data, &streams, &mut faults)? {
            return Ok(false);
        }
        for fault in faults {
            self.damaged |= fault.fault == "damage";
            if !self.print(&fault)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn print<T: Serialize>(&mut self, line: &T) -> Result<bool> {
        #[derive(Serialize)]
        struct Named<'a, T> {
            #[serde(skip_serializing_if = "Option::is_none")]
            device: Option<&'a str>,
            #[serde(flatten)]
            line: &'a T,
        }
        let named = Named {
            device: self.named,
            line,
        };
        self.lines.print(&python::json(&named)?)
    }

    /// What is wrong with the log, in its order; segments that are missing one behind the other as one.
    fn faults(&self, reader: &LogReader<'_>) -> Vec<FaultLine> {
        let alone = match self.source.what() {
            What::Segment { segment, .. } => Some(*segment),
            _ => None,
        };
        let known: HashSet<u32> = reader.segments().iter().map(|segment| segment.segment).collect();
        let mut found: Vec<_> = reader.faults().iter().collect();
        found.sort_by_key(|fault| (fault.segment, fault.offset));
        let mut faults: Vec<FaultLine> = Vec::new();
        let mut missing: Option<u32> = None;
        for fault in found {
            if alone.is_some_and(|segment| segment != fault.segment) {
                // The others were not asked for.
                continue;
            }
            let is_missing = !known.contains(&fault.segment) && fault.bytes == 0;
            if let Some(before) = missing.filter(|&before| is_missing && before + 1 == fault.segment)
                && let Some(last) = faults.last_mut()
            {
                last.why = format!("segments up to {} are missing", before + 1);
                missing = Some(fault.segment);
                continue;
            }
            missing = is_missing.then_some(fault.segment);
            let why = match is_missing {
                true => format!("segments up to {} are missing", fault.segment),
                false => fault.why.clone(),
            };
            let kind = match fault.kind {
                FaultKind::Damage => "damage",
                FaultKind::TornTail => "torn",
            };
            faults.push(FaultLine {
                fault: kind,
                segment: fault.segment,
                offset: fault.offset,
                bytes: fault.bytes,
                why,
                frame: None,
            });
        }
        faults
    }

    /// The samples by epoch and sequence. Frames whose times or indices go back are left out and reported.
    fn samples(
        &mut self,
        mut data: Vec<Place>,
        streams: &Streams,
        faults: &mut Vec<FaultLine>,
    ) -> Result<bool> {
        data.sort_unstable_by_key(|place| (place.epoch, place.sequence));
        // Next index and last time by epoch and stream.
        let mut reached: BTreeMap<(u32, &str), (u64, i64)> = BTreeMap::new();
        let mut open: Option<(u32, Arc<dyn File>)> = None;
        let mut buffer = Vec::new();
        for place in data {
            let file = match &open {
                Some((segment, file)) if *segment == place.segment => file.clone(),
                _ => {
                    let dir = Session::log_dir(self.session, self.device);
                    let file = self
                        .disk
                        .open(&dir.join(segment_name(place.segment)), OpenMode::Read)?;
                    open = Some((place.segment, file.clone()));
                    file
                }
            };
            let frame = read_frame(&*file, place.offset, place.length, place.crc, &mut buffer)?;
            let (label, declaration) = match streams.get(&(place.epoch, place.stream)) {
                Some((label, declaration)) => (label.as_str(), Some(declaration)),
                None => ("", None),
            };
            let mark = reached.entry((place.epoch, label)).or_insert((0, i64::MIN));
            let columns = match read_columns(&frame, declaration, *mark) {
                Ok(columns) => columns,
                Err(why) => {
                    faults.push(FaultLine {
                        fault: "quarantined",
                        segment: place.segment,
                        offset: place.offset,
                        bytes: place.length.into(),
                        why,
                        frame: Some(QuarantinedFrame {
                            stream: label.to_owned(),
                            epoch: place.epoch,
                            sequence: place.sequence,
                        }),
                    });
                    continue;
                }
            };
            let header = *frame.header();
            *mark = (
                header.first_index.saturating_add(header.count.into()),
                columns.times.last(),
            );
            let fields = declaration.map_or(&[][..], |declaration| &declaration.fields);
            for (row, device_time_ns) in columns.times.iter().enumerate() {
                let values = columns.fields.iter().zip(fields);
                let line = SampleLine {
                    stream: label,
                    epoch: place.epoch,
                    seq: header.first_index.saturating_add(row as u64),
                    device_time_ns,
                    values: values
                        .map(|(column, field)| python::cell(column, field, row))
                        .collect(),
                };
                if !self.print(&line)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

/// The columns of a data frame that fits its stream, up to where that has come: next index and last time.
fn read_columns<'f>(
    frame: &Frame<'f>,
    declaration: Option<&Declaration>,
    reached: (u64, i64),
) -> std::result::Result<Columns<'f>, String> {
    let declaration = declaration.ok_or("no assign frame names its stream")?;
    let columns = Columns::parse(frame, declaration).map_err(|error| error.to_string())?;
    let header = frame.header();
    match header.first_index < reached.0 || header.first_time_ns < reached.1 {
        true => Err("its sample indices or its device times go back".to_owned()),
        false => Ok(columns),
    }
}
