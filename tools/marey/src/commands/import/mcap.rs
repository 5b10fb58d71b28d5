//! `marey import mcap FILE`: two passes over a file's messages in order of time, and a session that is published as a whole.
//!
//! The first pass finds out what the messages are and judges each, the second sends them: memory is that of the chunks that overlap
//! in time. Owns the order of things, the choice of devices and streams, and the report; `file` reads, `fields` judges.

mod fields;
mod file;

use super::bad::Bad;
use super::header::device_name;
use super::making::{Origin, TIME_MAX_NS, Target, beginning, hash, session_name};
use super::sender::{Sender, Sink, steady};
use crate::commands::export::{DECLARATION, FACTS};
use crate::hubdir;
use crate::output::{Failure, Output, Result, plain, table};
use ::mcap::{Channel, Summary};
use fields::{Fields, Message};
use file::Messages;
use marey_device::replay::columns::fit_name;
use marey_format::payload::Event;
use marey_format::types::{hex, rfc3339};
use marey_format::{Declaration, DeviceId, SessionId, StreamName, limits};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub struct Mcap {
    file: PathBuf,
    /// Name of the session; else that of the file.
    #[arg(long)]
    session: Option<SessionId>,
    /// One topic; may be given several times. Else all of JSON.
    #[arg(long, value_name = "TOPIC")]
    topic: Vec<String>,
    /// When the recording began, such as 2026-11-21T08:00:00Z, for times that count from its beginning.
    #[arg(long, value_name = "TIME")]
    start: Option<String>,
    /// The most that any time of the file may be off, in milliseconds. Times then have a bound that holds if this does; else one
    /// only if the file was exported by Marey.
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    time_error: Option<f64>,
    /// Imports the good messages where there are bad ones, which are named; else nothing is imported.
    #[arg(long)]
    skip_bad_messages: bool,
}

/// What came in.
#[derive(Debug, Serialize)]
struct Imported {
    session: SessionId,
    generation: u32,
    /// Of the file.
    sha256: String,
    start: String,
    streams: Vec<ImportedStream>,
    events: u64,
    /// Topics that could not be had, with the reason.
    left_out: Vec<String>,
    /// Messages that were left out.
    bad_messages: u64,
    /// The first of them.
    bad: Vec<BadMessage>,
}

#[derive(Clone, Debug, Serialize)]
struct ImportedStream {
    topic: String,
    device: DeviceId,
    stream: String,
    samples: u64,
}

/// A message that can't be a sample, and why.
#[derive(Clone, Debug, Serialize)]
struct BadMessage {
    /// In order of time, from 1.
    message: u64,
    topic: String,
    why: String,
}

impl std::fmt::Display for BadMessage {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { message, topic, why } = self;
        write!(to, "message {message} in order of time, topic {topic}: {why}")
    }
}

/// A channel that becomes a stream.
struct Taken {
    topic: String,
    /// Which of the devices, and which of its streams.
    device: usize,
    stream: usize,
    name: StreamName,
    fields: Fields,
    samples: u64,
}

/// What the first pass finds.
struct Survey {
    /// By channel.
    taken: BTreeMap<u16, Taken>,
    /// As the file calls them, and as the session does.
    devices: Vec<(String, DeviceId)>,
    /// The channel of events that Marey exported.
    events: Option<u16>,
    left_out: Vec<String>,
    bad: Bad<BadMessage>,
    first_ns: Option<i64>,
    last_ns: i64,
}

pub fn run(arguments: &Mcap, dir: Option<PathBuf>, output: &Output) -> Result {
    output.result(&import(arguments, dir, output)?, show)
}

fn import(arguments: &Mcap, dir: Option<PathBuf>, output: &Output) -> Result<Imported> {
    if let Some(error_ms) = arguments
        .time_error
        .filter(|error_ms| !(*error_ms > 0.0 && *error_ms <= 1e6))
    {
        let what = format!("--time-error {error_ms}: it must lie above 0 and be at most 1000000 ms");
        return Err(Failure::Usage(what));
    }
    let path = &arguments.file;
    let mut messages = Messages::open(path)?;
    let session = session_name(arguments.session.as_ref(), path)?;
    let survey = survey(arguments, &mut messages, output)?;
    survey.left_out.iter().for_each(|what| output.warn(what));
    survey.bad.judge(
        path,
        "messages",
        survey.samples(),
        arguments.skip_bad_messages,
        output,
    )?;
    let target = Target::open(&hubdir::find(dir)?, session.clone())?;
    let sha256 = hash(path)?;
    let first_ns = survey.first_ns.unwrap_or(0);
    let (recorder_ns, utc_ns) = beginning(first_ns, arguments.start.as_deref(), output)?;
    let facts = messages.metadata(FACTS)?;
    let said = facts
        .iter()
        .filter_map(|(key, value)| Some((key.strip_prefix("metadata.")?.to_owned(), value.clone())));
    let origin = Origin {
        file: path,
        sha256,
        recorder_ns,
        utc_ns,
        max_drift_ppm: 0.0,
        metadata: said.collect(),
    };
    let feed = |to: &mut Sink<'_>| {
        let events = send(arguments, &survey, &mut messages, &sha256, to, output)?;
        Ok((events, Some(survey.last_ns)))
    };
    let (events, sealed) = target.make(&origin, output, feed)?;
    let streams = survey.taken.values().map(|taken| ImportedStream {
        topic: taken.topic.clone(),
        device: survey.devices[taken.device].1.clone(),
        stream: taken.name.to_string(),
        samples: taken.samples,
    });
    Ok(Imported {
        session,
        generation: sealed.session.generation,
        sha256: hex(&sha256),
        start: rfc3339(utc_ns.div_euclid(1_000)),
        streams: streams.collect(),
        events,
        left_out: survey.left_out,
        bad_messages: survey.bad.count,
        bad: survey.bad.named,
    })
}

fn survey(arguments: &Mcap, messages: &mut Messages, output: &Output) -> Result<Survey> {
    let mut survey = choose(arguments, messages)?;
    let mut number = 0;
    messages.each(
        &mut |percent| say(output, "looking", percent),
        &mut |channel, time_ns, data| {
            let Some(taken) = survey.taken.get_mut(&channel) else {
                return Ok(());
            };
            number += 1;
            let judged = parsed(time_ns, data).and_then(|message| taken.fields.take(&message));
            match judged {
                Ok(()) => {
                    taken.samples += 1;
                    survey.first_ns.get_or_insert(time_ns);
                    survey.last_ns = time_ns;
                }
                Err(why) => survey.bad.take(BadMessage {
                    message: number,
                    topic: plain(&taken.topic),
                    why,
                }),
            }
            Ok(())
        },
    )?;
    survey.settle();
    Ok(survey)
}

/// A message of a time that can be.
fn parsed(time_ns: i64, data: &[u8]) -> std::result::Result<Message, String> {
    match time_ns <= TIME_MAX_NS {
        true => Message::parse(data),
        false => Err("its time is none that can be".to_owned()),
    }
}

fn say(output: &Output, what: &str, percent: u64) {
    if output.is_watched() {
        output.progress(format!("{what}: {percent} % of the messages"));
    }
}

/// Which channels come in, and as what.
fn choose(arguments: &Mcap, messages: &Messages) -> Result<Survey> {
    let summary: &Summary = messages.summary();
    let is_ours = messages.has_metadata(FACTS);
    let mut channels: Vec<&Channel<'_>> = summary.channels.values().map(AsRef::as_ref).collect();
    channels.sort_by_key(|channel| channel.id);
    let path = arguments.file.display();
    for wanted in &arguments.topic {
        if !channels.iter().any(|channel| channel.topic == *wanted) {
            let known: Vec<String> = channels.iter().map(|channel| plain(&channel.topic)).collect();
            return Err(Failure::fault(format!(
                "{path} has no topic {wanted:?}; it has {}",
                known.join(", ")
            )));
        }
    }
    let stem = arguments
        .file
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let mut survey = Survey {
        taken: BTreeMap::new(),
        devices: Vec::new(),
        events: None,
        left_out: Vec::new(),
        bad: Bad::default(),
        first_ns: None,
        last_ns: 0,
    };
    for channel in channels {
        let is_wanted = arguments.topic.is_empty() || arguments.topic.contains(&channel.topic);
        if !is_wanted {
            continue;
        }
        let is_of_marey = is_ours && !channel.metadata.contains_key("stream");
        match channel.message_encoding.as_str() {
            _ if is_of_marey && channel.topic == "/events" => survey.events = Some(channel.id),
            // Holes in the indices of samples tell of them.
            _ if is_of_marey && channel.topic == "/gaps" => {}
            "json" => survey.add(channel, &stem),
            other => survey.left_out.push(format!(
                "topic {} is left out: its messages are {}, and only json can be read",
                plain(&channel.topic),
                if other.is_empty() {
                    "of no named encoding".to_owned()
                } else {
                    plain(other)
                }
            )),
        }
    }
    match survey.taken.is_empty() {
        false => Ok(survey),
        true => Err(Failure::fault(format!(
            "{path}: it has no topic of JSON messages, so nothing was imported"
        ))),
    }
}

impl Survey {
    fn add(&mut self, channel: &Channel<'_>, stem: &str) {
        let (device, stream) = whose(channel, stem);
        let declared = channel.metadata.get(DECLARATION);
        let declared = declared.and_then(|json| Declaration::from_json(json.as_bytes()).ok());
        let name = declared.as_ref().map_or(stream, |declared| declared.name.clone());
        // A second channel of one name becomes a device of its own: it may be the same stream or another.
        let is_free = |at: usize| {
            !self
                .taken
                .values()
                .any(|taken| taken.device == at && taken.name == name)
        };
        let known = (0..self.devices.len()).find(|&at| self.devices[at].0 == device && is_free(at));
        let at = known.unwrap_or_else(|| {
            let taken: Vec<DeviceId> = self.devices.iter().map(|(_, name)| name.clone()).collect();
            let name = device_name(&device, &taken);
            self.devices.push((device, name));
            self.devices.len() - 1
        });
        let taken = Taken {
            topic: channel.topic.clone(),
            device: at,
            stream: self.taken.values().filter(|taken| taken.device == at).count(),
            name,
            fields: Fields::new(declared),
            samples: 0,
        };
        self.taken.insert(channel.id, taken);
    }

    /// Leaves out what turned out to be no stream.
    fn settle(&mut self) {
        let mut left_out = Vec::new();
        self.taken.retain(|_, taken| match taken.declaration() {
            Ok(_) => true,
            Err(why) => {
                left_out.push(format!("topic {} is left out: {why}", plain(&taken.topic)));
                false
            }
        });
        self.left_out.extend(left_out);
        // Places of what is left.
        for device in 0..self.devices.len() {
            let of_device = self.taken.values_mut().filter(|taken| taken.device == device);
            for (at, taken) in of_device.enumerate() {
                taken.stream = at;
            }
        }
    }

    fn samples(&self) -> u64 {
        self.taken.values().map(|taken| taken.samples).sum()
    }
}

impl Taken {
    fn declaration(&self) -> std::result::Result<Declaration, String> {
        if self.samples == 0 && self.fields.is_empty() {
            return Err("it has no message that says what it is".to_owned());
        }
        let declaration = self.fields.declaration(&self.name, &self.topic);
        declaration.check().map_err(|error| error.to_string())?;
        match declaration.to_json().len() <= limits::DECLARATION_BYTES_MAX {
            true => Ok(declaration),
            false => Err("the names of its fields are more than a stream can say".to_owned()),
        }
    }
}

/// The device that a channel is of, in whatever words, and its stream: as it says, else the end of its topic and what is before.
fn whose(channel: &Channel<'_>, stem: &str) -> (String, StreamName) {
    let parts: Vec<&str> = channel.topic.split('/').filter(|part| !part.is_empty()).collect();
    let (last, before) = parts
        .split_last()
        .map_or(("samples", &parts[..]), |(last, before)| (*last, before));
    let device = match (channel.metadata.get("device"), before.is_empty()) {
        (Some(device), _) => device.clone(),
        (None, false) => before.join("_"),
        (None, true) => stem.to_owned(),
    };
    (
        device,
        StreamName::new(fit_name(last, &[])).expect("it was made fit"),
    )
}

/// The second pass. Says how many events there were.
fn send(
    arguments: &Mcap,
    survey: &Survey,
    messages: &mut Messages,
    sha256: &[u8; 32],
    to: &mut Sink<'_>,
    output: &Output,
) -> Result<u64> {
    let mut senders = senders(arguments, survey, sha256, to)?;
    let by_name: BTreeMap<String, usize> = (0..)
        .zip(&survey.devices)
        .map(|(at, device)| (device.0.clone(), at))
        .collect();
    let (mut sent, mut events) = (0, 0);
    messages.each(
        &mut |percent| say(output, "reading", percent),
        &mut |channel, time_ns, data| {
            if survey.events == Some(channel) {
                if let Some((device, event)) = device_event(data).filter(|_| time_ns <= TIME_MAX_NS)
                    && let Some(&at) = by_name.get(&device)
                {
                    events += 1;
                    return senders[at].event(to, time_ns, &event);
                }
                return Ok(());
            }
            let Some(taken) = survey.taken.get(&channel) else {
                return Ok(());
            };
            let Ok(message) = parsed(time_ns, data) else {
                return Ok(());
            };
            let Ok(values) = taken.fields.values(&message) else {
                return Ok(());
            };
            let sender = &mut senders[taken.device];
            if let Some(index) = taken.fields.index(&message) {
                sender.skip_to(to, taken.stream, index)?;
            }
            sent += 1;
            sender.sample(to, taken.stream, time_ns, &values)
        },
    )?;
    for sender in &mut senders {
        sender.end(to)?;
    }
    match sent == survey.samples() {
        true => Ok(events),
        false => Err(Failure::fault(format!(
            "{} was changed while it was read",
            arguments.file.display()
        ))),
    }
}

/// One for each device, in its one epoch; of a device without streams nothing is sent.
fn senders(arguments: &Mcap, survey: &Survey, sha256: &[u8; 32], to: &mut Sink<'_>) -> Result<Vec<Sender>> {
    let (first_ns, last_ns) = (survey.first_ns.unwrap_or(0), survey.last_ns);
    let mut senders = Vec::new();
    for (at, (_, device)) in survey.devices.iter().enumerate() {
        let mut of_device: Vec<&Taken> = survey.taken.values().filter(|taken| taken.device == at).collect();
        of_device.sort_by_key(|taken| taken.stream);
        let declarations: std::result::Result<Vec<_>, _> =
            of_device.iter().map(|taken| taken.declaration()).collect();
        let mut sender = Sender::new(
            device.clone(),
            declarations.map_err(Failure::fault)?,
            sha256,
            at as u32,
        );
        if of_device.is_empty() {
            senders.push(sender);
            continue;
        }
        let given = arguments.time_error.map(|error_ms| error_ms * 1e6);
        // What Marey exported says itself how well its times are known.
        let widest = of_device
            .iter()
            .map(|taken| taken.fields.err_us_max())
            .try_fold(0.0, |widest: f64, err_us| Some(widest.max(err_us?)));
        let error_ns = given
            .or(widest.map(|err_us| err_us * 1e3))
            .filter(|error_ns| error_ns.is_finite());
        let life = error_ns.map(|_| steady(first_ns, last_ns));
        sender.begin(
            to,
            0,
            life.as_ref(),
            error_ns.map(|error_ns| error_ns.ceil().max(1.0) as u64),
        )?;
        senders.push(sender);
    }
    Ok(senders)
}

/// A device's event, as Marey exports it. Notes of the hub are of another hub.
fn device_event(data: &[u8]) -> Option<(String, Event)> {
    #[derive(serde::Deserialize)]
    struct Exported {
        device: String,
        source: String,
        kind: String,
        text: Option<String>,
        duration_s: serde_json::Value,
    }
    let exported: Exported = serde_json::from_slice(data).ok()?;
    if exported.source != "device" || data.len() > limits::FRAME_BYTES_MAX / 4 {
        return None;
    }
    let event = Event {
        kind: exported.kind,
        text: exported.text,
        duration_ns: exported
            .duration_s
            .as_f64()
            .map(|seconds| (seconds * 1e9).round() as i64),
    };
    Some((exported.device, event))
}

fn show(imported: &Imported) -> String {
    let rows = imported.streams.iter().map(|stream| {
        let (topic, device) = (plain(&stream.topic), stream.device.to_string());
        vec![topic, device, stream.stream.clone(), stream.samples.to_string()]
    });
    let left_out = match imported.bad_messages {
        0 => String::new(),
        messages => format!("; {messages} messages left out"),
    };
    format!(
        "session {}: generation {} stands, from {}; {} events{left_out}\n\n{}",
        imported.session,
        imported.generation,
        imported.start,
        imported.events,
        table(
            &["topic", "device", "stream", "samples"],
            &rows.collect::<Vec<_>>()
        )
    )
}

#[cfg(test)]
mod tests;
