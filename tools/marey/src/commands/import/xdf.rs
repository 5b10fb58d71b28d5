//! `marey import xdf FILE`: two passes over a file, and a session that is published as a whole.
//!
//! The first pass reads heads, clock offsets and footers, the second the samples: memory is that of the offsets and of one
//! chunk. Owns the order of things and the report.

use super::chunks::{Chunks, Damage, Next, Samples, Tag, clock_offset, stream_id};
use super::header::{Format, StreamHeader, device_name, label, said};
use super::lives::{Follower, Lives, Offsets};
use super::sender::{Sender, Sink, age_error_ns, nanoseconds};
use crate::hubdir;
use crate::output::{Failure, Output, Result, plain, table};
use marey_engine::compact::rfc3339;
use marey_engine::disk::{self, Disk, OsDisk};
use marey_engine::time::{HubClock, HubInstant, UNSYNCHRONISED_ERROR_NS};
use marey_engine::{NewSession, Options, Session, SessionError, Store};
use marey_format::frame::Value;
use marey_format::payload::{Event, WallReading};
use marey_format::types::NameError;
use marey_format::{DeviceId, HubEpoch, SessionId, limits};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

#[derive(Debug, clap::Args)]
pub struct Xdf {
    file: PathBuf,
    /// Name of the session; else that of the file.
    #[arg(long)]
    session: Option<SessionId>,
    /// When the recording began, such as 2026-11-21T08:00:00Z; else what the file says of it.
    #[arg(long, value_name = "TIME")]
    start: Option<String>,
    /// The most that any clock offset of the file may be off, in milliseconds: half of the longest round trip behind it. Times
    /// then have a bound that holds if this does.
    #[arg(long, value_name = "MS")]
    offset_error: Option<f64>,
    /// The most that a device's clock may be fast or slow, in parts per million.
    #[arg(long, value_name = "PPM", default_value_t = 100.0)]
    max_drift_ppm: f64,
}

/// What came in and what did not.
#[derive(Debug, Serialize)]
struct Imported {
    session: SessionId,
    generation: u32,
    /// Of the file.
    sha256: String,
    /// The session's first moment.
    start: String,
    /// Who says so.
    start_from: StartFrom,
    streams: Vec<ImportedStream>,
    /// Streams that could not be had.
    streams_left_out: usize,
    /// What of the file is no recording.
    damage: Vec<Damage>,
    warnings: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum StartFrom {
    Given,
    File,
    /// Times count from 1970 as the recorder's clock did from its own beginning.
    Nobody,
}

#[derive(Debug, Serialize)]
struct ImportedStream {
    id: u32,
    name: String,
    #[serde(rename = "type")]
    content: String,
    device: DeviceId,
    stream: String,
    samples: u64,
    /// Whether its samples became events too.
    events: bool,
    /// What the file's footer counts.
    footer: Option<u64>,
    /// Lives of its clock.
    clocks: u32,
    epochs: u32,
    offsets: u64,
    stale_offsets: u64,
    stray_offsets: u64,
    /// Samples without a time, or too large for a frame: left out.
    left_out: u64,
    /// Samples of a time of its clock that no offset tells of.
    untold: u64,
}

/// What the first pass finds of a stream.
#[derive(Debug)]
struct Stream {
    header: StreamHeader,
    xml: String,
    offsets: Offsets,
    first_s: Option<f64>,
    footer: Option<u64>,
}

#[derive(Debug, Default)]
struct Survey {
    streams: BTreeMap<u32, Stream>,
    datetime: Option<String>,
    /// Streams that can't be had, with a warning why.
    left_out: BTreeSet<u32>,
    warnings: Vec<String>,
}

pub fn run(arguments: &Xdf, dir: Option<PathBuf>, output: &Output) -> Result {
    let imported = import(arguments, &hubdir::find(dir)?, output)?;
    imported.warnings.iter().for_each(|warning| output.warn(warning));
    output.result(&imported, show)?;
    match imported.is_whole() {
        true => Ok(()),
        false => Err(Failure::fault(format!(
            "{} is not whole; what of it is came into session {}",
            arguments.file.display(),
            imported.session
        ))),
    }
}

/// Makes the session of a file one of the hub's.
fn import(arguments: &Xdf, dir: &Path, output: &Output) -> Result<Imported> {
    check(arguments)?;
    let path = &arguments.file;
    let session = session_name(arguments)?;
    let hub = OsDisk::new(dir);
    let hub_id = Store::read_hub_id(&hub)?;
    let _lock = hub.lock(Path::new("LOCK"))?.ok_or_else(|| {
        Failure::Unreachable(format!(
            "the hub in {} is running; stop it, or import into another folder (`marey init FOLDER`)",
            dir.display()
        ))
    })?;
    is_free(&hub, &session)?;
    let mut chunks = open(path)?;
    let sha256 = hash(path)?;
    let survey = survey(&mut chunks).map_err(|error| unreadable(path, &error))?;
    if survey.streams.is_empty() {
        let more: String = survey
            .warnings
            .iter()
            .map(|warning| format!("; {warning}"))
            .collect();
        return Err(Failure::fault(format!(
            "{}: it has no stream that could be read, so nothing was imported{more}",
            path.display()
        )));
    }
    let aside = aside(&hub, &session)?;
    let made = make(
        arguments,
        &session,
        (&dir.join(&aside), hub_id),
        (chunks, survey, sha256),
        output,
    );
    let imported = match made {
        Ok(imported) => imported,
        Err(failure) => {
            hub.remove_dir_all(&aside)?;
            return Err(failure);
        }
    };
    let folder = Session::dir(&session);
    disk::create_dirs(&hub, Path::new("sessions"))?;
    hub.rename(&aside.join(&folder), &folder)?;
    hub.sync_dir(Path::new("sessions"))?;
    // What is left of it is no reason to say that the session is not there.
    if let Err(error) = hub.remove_dir_all(&aside) {
        output.warn(format!(
            "{} can't be removed: {error}",
            dir.join(&aside).display()
        ));
    }
    Ok(imported)
}

fn check(arguments: &Xdf) -> Result {
    if !(0.0..=100_000.0).contains(&arguments.max_drift_ppm) {
        let what = format!(
            "--max-drift-ppm {}: it must lie between 0 and 100000",
            arguments.max_drift_ppm
        );
        return Err(Failure::Usage(what));
    }
    match arguments.offset_error {
        Some(error_ms) if !(error_ms > 0.0 && error_ms <= 1e6) => Err(Failure::Usage(format!(
            "--offset-error {error_ms}: it must lie above 0 and be at most 1000000 ms"
        ))),
        _ => Ok(()),
    }
}

fn session_name(arguments: &Xdf) -> Result<SessionId> {
    if let Some(session) = &arguments.session {
        return Ok(session.clone());
    }
    let stem = arguments.file.file_stem().unwrap_or_default().to_string_lossy();
    match SessionId::new(&*stem) {
        Ok(session) => Ok(session),
        Err(NameError::Pattern { proposed, .. } | NameError::Reserved { proposed, .. }) => proposed
            .and_then(|name| SessionId::new(name).ok())
            .ok_or_else(|| {
                Failure::Usage(format!(
                    "{stem:?} is no name for a session; give one with --session"
                ))
            }),
        Err(error) => Err(Failure::Usage(format!("{error}; give a name with --session"))),
    }
}

fn is_free(hub: &OsDisk, session: &SessionId) -> Result {
    let names = match hub.list(Path::new("sessions")) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(Failure::fault(error)),
    };
    let wanted = format!("session={session}");
    match names
        .iter()
        .find(|entry| entry.name.eq_ignore_ascii_case(&wanted))
    {
        None => Ok(()),
        Some(_) => Err(Failure::fault(format!(
            "{}; give another name with --session",
            SessionError::Exists(session.clone())
        ))),
    }
}

/// The folder that the session is made in, empty.
fn aside(hub: &OsDisk, session: &SessionId) -> Result<PathBuf> {
    let aside = PathBuf::from(format!("import-{session}.tmp"));
    if hub.stat(&aside)?.is_some() {
        hub.remove_dir_all(&aside)?;
    }
    disk::create_dirs(hub, &aside)?;
    Ok(aside)
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::fault(format!("{} can't be read: {error}", path.display()))
}

fn open(path: &Path) -> Result<Chunks<BufReader<File>>> {
    let failed = |error| unreadable(path, &error);
    let file = File::open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.is_dir() {
        return Err(Failure::fault(format!(
            "{} is a folder; name the .xdf file",
            path.display()
        )));
    }
    Chunks::open(BufReader::with_capacity(1 << 20, file)).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => Failure::fault(format!("{}: {error}", path.display())),
        _ => unreadable(path, &error),
    })
}

fn hash(path: &Path) -> Result<[u8; 32]> {
    let mut file = File::open(path).map_err(|error| unreadable(path, &error))?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer).map_err(|error| unreadable(path, &error))? {
            0 => return Ok(hash.finalize().into()),
            read => hash.update(&buffer[..read]),
        }
    }
}

/// The first pass. It goes on from damage as the second does, which names it.
fn survey(chunks: &mut Chunks<BufReader<File>>) -> io::Result<Survey> {
    let mut survey = Survey::default();
    while let Some(next) = chunks.next()? {
        let Next::Chunk { at, tag } = next else { continue };
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
    fn wrong(&self, tag: Tag, content: &[u8]) -> Option<String> {
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
    fn first_recorder_ns(&self) -> i64 {
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

/// When the recording began in POSIX nanoseconds, and who says so.
fn start(arguments: &Xdf, survey: &Survey, recorder_ns: i64) -> Result<(i64, StartFrom)> {
    if let Some(given) = &arguments.start {
        let utc_ns = utc_ns(given).ok_or_else(|| {
            Failure::Usage(format!(
                "--start {given:?} is no time such as 2026-11-21T08:00:00Z or 2026-11-21T09:00:00+01:00"
            ))
        })?;
        return Ok((utc_ns, StartFrom::Given));
    }
    match survey.datetime.as_deref().and_then(utc_ns) {
        Some(utc_ns) => Ok((utc_ns, StartFrom::File)),
        None => Ok((recorder_ns, StartFrom::Nobody)),
    }
}

/// RFC 3339, also with an offset from UTC that has no colon, as recorders write it.
fn utc_ns(text: &str) -> Option<i64> {
    let text = text.trim();
    let mut with_colon = text.to_owned();
    if text.len() > 5 && text.is_ascii() && matches!(text.as_bytes()[text.len() - 5], b'+' | b'-') {
        with_colon.insert(text.len() - 2, ':');
    }
    let time = OffsetDateTime::parse(&with_colon, &Rfc3339).ok()?;
    i64::try_from(time.unix_timestamp_nanos()).ok()
}

/// The recorder's clock, which was the hub's of this recording: it shows what the file says, not the time of the import.
#[derive(Debug)]
struct RecorderClock {
    epoch: HubEpoch,
    start_ns: i64,
    start_utc_ns: i64,
    now_ns: AtomicI64,
}

impl RecorderClock {
    /// It is at least that late by now.
    fn reach(&self, now_ns: i64) {
        self.now_ns.fetch_max(now_ns, Ordering::Relaxed);
    }
}

impl HubClock for RecorderClock {
    fn now(&self) -> HubInstant {
        HubInstant {
            epoch: self.epoch,
            ns: self.now_ns.load(Ordering::Relaxed),
        }
    }

    fn wall(&self) -> WallReading {
        WallReading {
            hub_epoch: self.epoch,
            hub_ns: self.start_ns,
            utc_ns: self.start_utc_ns,
            error_ns: UNSYNCHRONISED_ERROR_NS,
            synchronised: false,
        }
    }
}

/// A recording was stopped so long after its last sample: the times of samples are better than what is known of that moment.
const STOPPED_AFTER_NS: i64 = 1_000_000_000;

/// The second pass: a hub of one session, aside, recorded and published.
fn make(
    arguments: &Xdf,
    session: &SessionId,
    (aside, hub_id): (&Path, [u8; 16]),
    (mut chunks, survey, sha256): (Chunks<BufReader<File>>, Survey, [u8; 32]),
    output: &Output,
) -> Result<Imported> {
    let recorder_ns = survey.first_recorder_ns();
    let (start_utc_ns, start_from) = start(arguments, &survey, recorder_ns)?;
    let hub_epoch = HubEpoch(u64::from_be_bytes(
        *sha256.first_chunk().expect("32 bytes have 8"),
    ));
    let clock = Arc::new(RecorderClock {
        epoch: hub_epoch,
        start_ns: recorder_ns,
        start_utc_ns,
        now_ns: AtomicI64::new(recorder_ns),
    });
    let disk: Arc<dyn Disk> = Arc::new(OsDisk::new(aside));
    Store::init(&disk, hub_id, &Options::default())?;
    let (store, _) = Store::open(disk, clock.clone(), Options::default())?;
    store.create_session(NewSession {
        max_drift_ppm: arguments.max_drift_ppm,
        metadata: metadata(&arguments.file, &sha256),
        ..NewSession::open_to_all(session.clone())
    })?;
    store.start_session(session)?;

    let error_ns = arguments
        .offset_error
        .map(|error_ms| (error_ms * 1e6 + age_error_ns(arguments.max_drift_ppm)).ceil() as u64);
    let mut warnings = survey.warnings.clone();
    if start_from == StartFrom::Nobody {
        warnings.push(
            "the file does not say when it was recorded: times count from 1970 as the recorder's clock did; --start says when it began"
                .to_owned(),
        );
    }
    let mut to = Sink::new(&store, session, hub_epoch);
    let mut streams = Importing::all(&survey, &sha256);
    let mut damage = Vec::new();
    take_all(
        &survey,
        &mut chunks,
        &mut streams,
        (&mut to, error_ns),
        &mut damage,
        output,
    )?;
    for stream in streams.values_mut() {
        stream.finish(&mut to, error_ns)?;
    }
    to.commit()?;
    let ends = streams
        .values()
        .filter_map(|stream| stream.until_recorder_ns)
        .max();
    clock.reach(ends.unwrap_or(recorder_ns).saturating_add(STOPPED_AFTER_NS));
    store.stop_session(session)?;
    let sealed = store.seal_session(session, &|step| {
        output.progress(format!("{:?}: {} of {}", step.phase, step.done, step.of));
    })?;
    store.close_session(session)?;
    store.close()?;
    output.progress_done();
    warnings.extend(streams.values().flat_map(|stream| stream.warnings()));
    Ok(Imported {
        session: session.clone(),
        generation: sealed.session.generation,
        sha256: sha256.iter().map(|byte| format!("{byte:02x}")).collect(),
        start: rfc3339(start_utc_ns.div_euclid(1_000)),
        start_from,
        streams: streams.into_values().map(Importing::told).collect(),
        streams_left_out: survey.left_out.len(),
        damage,
        warnings,
    })
}

fn metadata(file: &Path, sha256: &[u8; 32]) -> BTreeMap<String, String> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let hex: String = sha256.iter().map(|byte| format!("{byte:02x}")).collect();
    BTreeMap::from([
        ("imported_from".to_owned(), label(&name).unwrap_or_default()),
        ("imported_sha256".to_owned(), hex),
    ])
}

fn take_all(
    survey: &Survey,
    chunks: &mut Chunks<BufReader<File>>,
    streams: &mut BTreeMap<u32, Importing<'_>>,
    (to, error_ns): (&mut Sink<'_>, Option<u64>),
    damage: &mut Vec<Damage>,
    output: &Output,
) -> Result {
    chunks.rewind();
    let mut percent = 0;
    while let Some(next) = chunks.next()? {
        let (done, of) = chunks.progress();
        if output.is_watched() && done * 100 / of > percent {
            percent = done * 100 / of;
            output.progress(format!("{percent} % of the file"));
        }
        let (at, tag) = match next {
            Next::Chunk { at, tag } => (at, tag),
            Next::Damage(found) => {
                damage.push(found);
                continue;
            }
        };
        let content = chunks.content();
        if let (Tag::Samples, Some((id, body))) = (tag, stream_id(content))
            && let Some(stream) = streams.get_mut(&id)
        {
            stream.take(body, (&mut *to, error_ns))?;
        }
        let wrong = survey.wrong(tag, content);
        if let Some(cause) = wrong {
            chunks.look_for_boundary_in(at);
            damage.push(Damage {
                offset: at,
                bytes: chunks.progress().0 - at,
                cause,
            });
        }
    }
    Ok(())
}

/// A stream on its way in.
#[derive(Debug)]
struct Importing<'a> {
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
    until_recorder_ns: Option<i64>,
    samples: u64,
    left_out: u64,
    /// Samples of a life of its clock that no offset tells of.
    unknown: u64,
    /// Marks that are too long for an event.
    long_marks: u64,
    lossy: u64,
}

impl<'a> Importing<'a> {
    fn all(survey: &'a Survey, sha256: &[u8; 32]) -> BTreeMap<u32, Self> {
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
                sender: Sender::new(device, stream.header.declaration(), sha256, id),
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
    fn take(&mut self, body: &[u8], (to, error_ns): (&mut Sink<'_>, Option<u64>)) -> Result {
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
        let is_one_list = self.sender.declaration().fields[0].length.is_some();
        let values = match is_one_list {
            true => vec![Value::List(values)],
            false => values,
        };
        self.sender.sample(to, time_ns, &values)
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
    fn finish(&mut self, to: &mut Sink<'_>, error_ns: Option<u64>) -> Result {
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

    fn warnings(&self) -> Vec<String> {
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

    fn told(self) -> ImportedStream {
        let stale = self.lives.stale;
        ImportedStream {
            id: self.id,
            name: self.of.header.name.clone(),
            content: self.of.header.content.clone(),
            stream: self.sender.declaration().name.to_string(),
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

impl Imported {
    fn is_whole(&self) -> bool {
        let counted = |stream: &ImportedStream| {
            stream.left_out == 0
                && stream.untold == 0
                && stream.footer.is_none_or(|footer| footer == stream.samples)
        };
        self.damage.is_empty() && self.streams_left_out == 0 && self.streams.iter().all(counted)
    }
}

fn show(imported: &Imported) -> String {
    let head = [
        "stream", "type", "device", "as", "samples", "clocks", "offsets", "stale",
    ];
    let row = |stream: &ImportedStream| {
        vec![
            plain(&stream.name),
            plain(&stream.content),
            stream.device.to_string(),
            match stream.events {
                true => format!("{}, events", stream.stream),
                false => stream.stream.clone(),
            },
            stream.samples.to_string(),
            stream.clocks.to_string(),
            stream.offsets.to_string(),
            stream.stale_offsets.to_string(),
        ]
    };
    let rows: Vec<Vec<String>> = imported.streams.iter().map(row).collect();
    let mut text = format!(
        "session {}: generation {} stands, from {}\n\n{}",
        imported.session,
        imported.generation,
        imported.start,
        table(&head, &rows)
    );
    for damage in &imported.damage {
        text += &format!(
            "\nlost: offset {}, {} bytes: {}",
            damage.offset, damage.bytes, damage.cause
        );
    }
    text
}

#[cfg(test)]
mod tests;
