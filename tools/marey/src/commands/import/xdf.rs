//! `marey import xdf FILE`: two passes over a file, and a session that is published as a whole.
//!
//! The first pass reads heads, clock offsets and footers, the second the samples: memory is that of the offsets and of one
//! chunk. Owns the order of things and the report.

mod incoming;
mod survey;

use super::chunks::{Chunks, Damage, Next, Tag, stream_id};
use super::header::label;
use super::sender::{Sink, age_error_ns};
use crate::hubdir;
use crate::output::{Failure, Output, Result, plain, table};
use incoming::Importing;
use marey_engine::disk::{self, Disk, OsDisk};
use marey_engine::time::{HubClock, HubInstant, UNSYNCHRONISED_ERROR_NS};
use marey_engine::{NewSession, Options, Session, SessionError, Store};
use marey_format::payload::WallReading;
use marey_format::types::rfc3339;
use marey_format::types::{NameError, hex};
use marey_format::{DeviceId, HubEpoch, SessionId};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use survey::{Survey, survey};
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
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    offset_error: Option<f64>,
    /// The most that a device's clock may be fast or slow, in parts per million.
    #[arg(
        long,
        value_name = "PPM",
        default_value_t = 100.0,
        allow_negative_numbers = true
    )]
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
    // Before its name is judged: what is no file needs no name.
    let mut chunks = open(path)?;
    let session = session_name(arguments)?;
    let hub = OsDisk::new(dir);
    let hub_id = Store::read_hub_id(&hub)?;
    let options = hubdir::store_options(dir)?;
    let _lock = hub.lock(Path::new("LOCK"))?.ok_or_else(|| {
        Failure::Unreachable(format!(
            "the hub in {} is running; stop it, or import into another folder (`marey init FOLDER`)",
            dir.display()
        ))
    })?;
    is_free(&hub, &session)?;
    let sha256 = hash(path)?;
    let survey = survey(&mut chunks).map_err(|error| unreadable(path, &error))?;
    if survey.streams.is_empty() {
        let damage = survey
            .first_damage
            .iter()
            .map(|it| format!("at byte {}: {}", it.offset, it.cause));
        let more: String = survey
            .warnings
            .iter()
            .cloned()
            .chain(damage)
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
        (&dir.join(&aside), hub_id, options),
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
    hubdir::audit(dir, "session.import", &format!("session/{session}"))?;
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
            "{} with --session",
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
    (aside, hub_id, options): (&Path, [u8; 16], Options),
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
    Store::init(&disk, hub_id, &options)?;
    let (store, _) = Store::open(disk, clock.clone(), options)?;
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
        sha256: hex(&sha256),
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
    BTreeMap::from([
        ("imported_from".to_owned(), label(&name).unwrap_or_default()),
        ("imported_sha256".to_owned(), hex(sha256)),
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
