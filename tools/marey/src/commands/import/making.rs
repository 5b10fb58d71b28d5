//! How a recording from elsewhere becomes a session: it is made aside, as a hub of one session whose clock is the recorder's,
//! published there, and becomes one of the hub's by one rename.
//!
//! Owns: the lock, the folder aside, the recorder's clock, the order of things. Does not own: what a file says (`xdf`, `csv`, `mcap`), nor
//! frames (`sender`).
//!
//! Invariant: an import that fails or is cut short leaves no session.

use super::header::label;
use super::sender::Sink;
use crate::hubdir;
use crate::output::{Failure, Output, Result};
use marey_engine::disk::{self, Disk, OsDisk};
use marey_engine::time::{HubClock, HubInstant, UNSYNCHRONISED_ERROR_NS};
use marey_engine::{NewSession, Options, Sealed, Session, SessionError, Store};
use marey_format::payload::WallReading;
use marey_format::types::{NameError, hex};
use marey_format::{HubEpoch, SessionId};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A hub that nobody else has open, with room for a session of that name.
#[derive(Debug)]
pub struct Target {
    hub: OsDisk,
    hub_id: [u8; 16],
    options: Options,
    pub session: SessionId,
    _lock: Box<dyn disk::LockGuard>,
}

/// What is known of the recording before its samples are.
#[derive(Debug)]
pub struct Origin<'a> {
    pub file: &'a Path,
    pub sha256: [u8; 32],
    /// Its beginning by the recorder's clock, and by UTC.
    pub recorder_ns: i64,
    pub utc_ns: i64,
    pub max_drift_ppm: f64,
    /// What the file says of the session.
    pub metadata: BTreeMap<String, String>,
}

impl Target {
    pub fn open(dir: &Path, session: SessionId) -> Result<Self> {
        let hub = OsDisk::new(dir);
        let hub_id = Store::read_hub_id(&hub)?;
        let options = hubdir::store_options(dir)?;
        let lock = hub.lock(Path::new("LOCK"))?.ok_or_else(|| {
            Failure::Unreachable(format!(
                "the hub in {} is running; stop it, or import into another folder (`marey init FOLDER`)",
                dir.display()
            ))
        })?;
        is_free(&hub, &session)?;
        Ok(Self {
            hub,
            hub_id,
            options,
            session,
            _lock: lock,
        })
    }

    /// Makes the session. `feed` sends what was recorded, and says at which time of the recorder's it ended.
    pub fn make<T>(
        self,
        origin: &Origin<'_>,
        output: &Output,
        feed: impl FnOnce(&mut Sink<'_>) -> Result<(T, Option<i64>)>,
    ) -> Result<(T, Sealed)> {
        let aside = PathBuf::from(format!("import-{}.tmp", self.session));
        if self.hub.stat(&aside)?.is_some() {
            self.hub.remove_dir_all(&aside)?;
        }
        disk::create_dirs(&self.hub, &aside)?;
        // What can't be written down in the audit log is not done.
        let made = self.record(&aside, origin, output, feed).and_then(|made| {
            let object = format!("session/{}", self.session);
            hubdir::audit(self.hub.root(), "session.import", &object).map(|()| made)
        });
        let made = match made {
            Ok(made) => made,
            Err(failure) => {
                self.hub.remove_dir_all(&aside)?;
                return Err(failure);
            }
        };
        let folder = Session::dir(&self.session);
        disk::create_dirs(&self.hub, Path::new("sessions"))?;
        self.hub.rename(&aside.join(&folder), &folder)?;
        self.hub.sync_dir(Path::new("sessions"))?;
        // What is left of it is no reason to say that the session is not there.
        if let Err(error) = self.hub.remove_dir_all(&aside) {
            let aside = self.hub.describe(&aside);
            output.warn(format!("{} can't be removed: {error}", aside.display()));
        }
        Ok(made)
    }

    fn record<T>(
        &self,
        aside: &Path,
        origin: &Origin<'_>,
        output: &Output,
        feed: impl FnOnce(&mut Sink<'_>) -> Result<(T, Option<i64>)>,
    ) -> Result<(T, Sealed)> {
        let session = &self.session;
        let hub_epoch = HubEpoch(u64::from_be_bytes(
            *origin.sha256.first_chunk().expect("32 bytes have 8"),
        ));
        let clock = Arc::new(RecorderClock {
            epoch: hub_epoch,
            start_ns: origin.recorder_ns,
            start_utc_ns: origin.utc_ns,
            now_ns: AtomicI64::new(origin.recorder_ns),
        });
        let disk: Arc<dyn Disk> = Arc::new(OsDisk::new(self.hub.describe(aside)));
        Store::init(&disk, self.hub_id, &self.options)?;
        let (store, _) = Store::open(disk, clock.clone(), self.options.clone())?;
        store.create_session(NewSession {
            max_drift_ppm: origin.max_drift_ppm,
            metadata: metadata(origin),
            ..NewSession::open_to_all(session.clone())
        })?;
        store.start_session(session)?;
        let mut to = Sink::new(&store, session, hub_epoch);
        let (fed, ends) = feed(&mut to)?;
        to.commit()?;
        clock.reach(
            ends.unwrap_or(origin.recorder_ns)
                .saturating_add(STOPPED_AFTER_NS),
        );
        store.stop_session(session)?;
        let sealed = store.seal_session(session, &|step| {
            output.progress(format!("{:?}: {} of {}", step.phase, step.done, step.of));
        })?;
        store.close_session(session)?;
        store.close()?;
        output.progress_done();
        Ok((fed, sealed))
    }
}

/// 140 years, beyond which stamps are taken for damage.
pub const TIME_MAX_NS: i64 = 4_400_000_000 * 1_000_000_000;

/// A recording was stopped so long after its last sample: the times of samples are better than what is known of that moment.
const STOPPED_AFTER_NS: i64 = 1_000_000_000;

fn metadata(origin: &Origin<'_>) -> BTreeMap<String, String> {
    let name = origin.file.file_name().unwrap_or_default().to_string_lossy();
    let said = origin.metadata.clone().into_iter();
    said.chain([
        ("imported_from".to_owned(), label(&name).unwrap_or_default()),
        ("imported_sha256".to_owned(), hex(&origin.sha256)),
    ])
    .collect()
}

/// The session's name: the one that was given, else the file's, or the nearest to it that is a name.
pub fn session_name(given: Option<&SessionId>, file: &Path) -> Result<SessionId> {
    if let Some(session) = given {
        return Ok(session.clone());
    }
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
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

pub fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::fault(format!("{} can't be read: {error}", path.display()))
}

/// Opens a file that is to be imported.
pub fn open_file(path: &Path) -> Result<File> {
    let failed = |error| unreadable(path, &error);
    let file = File::open(path).map_err(failed)?;
    match file.metadata().map_err(failed)?.is_dir() {
        true => Err(Failure::fault(format!(
            "{} is a folder; name the file",
            path.display()
        ))),
        false => Ok(file),
    }
}

pub fn hash(path: &Path) -> Result<[u8; 32]> {
    let mut file = File::open(path).map_err(|error| unreadable(path, &error))?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer).map_err(|error| unreadable(path, &error))? {
            0 => return Ok(hash.finalize().into()),
            read => hash.update(&buffer[..read]),
        }
    }
}

/// What `--start` says.
pub fn given_start(text: &str) -> Result<i64> {
    utc_ns(text).ok_or_else(|| {
        Failure::Usage(format!(
            "--start {text:?} is no time such as 2026-11-21T08:00:00Z or 2026-11-21T09:00:00+01:00"
        ))
    })
}

/// The first moment of a recording whose times are UTC, or count from its own beginning, by the recorder's clock and by UTC.
pub fn beginning(first_ns: i64, start: Option<&str>, output: &Output) -> Result<(i64, i64)> {
    match (start, first_ns >= UTC_LEAST_NS) {
        (Some(_), true) => {
            let what =
                "--start is for times that count from the recording's beginning; those of the file are UTC";
            Err(Failure::Usage(what.to_owned()))
        }
        (None, true) => Ok((first_ns, first_ns)),
        (start, false) => {
            let start_ns = match start {
                Some(start) => given_start(start)?,
                None => {
                    output.warn("the file does not say when it was recorded: times count from 1970; --start says when it began");
                    0
                }
            };
            // They begin at 0, unless the first lies before.
            let recorder_ns = first_ns.min(0);
            Ok((recorder_ns, start_ns.saturating_add(recorder_ns)))
        }
    }
}

/// 2000-01-01: what lies before is no time of day of a recording.
const UTC_LEAST_NS: i64 = 946_684_800_000_000_000;
/// A hundred years: nothing says when it was, and a bound must hold all the same.
const UNDATED_ERROR_NS: i64 = 100 * 365 * 86_400 * 1_000_000_000;

/// RFC 3339, also with an offset from UTC that has no colon, as recorders write it.
pub fn utc_ns(text: &str) -> Option<i64> {
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
            error_ns: match self.start_utc_ns < UTC_LEAST_NS {
                true => UNDATED_ERROR_NS,
                false => UNSYNCHRONISED_ERROR_NS,
            },
            synchronised: false,
        }
    }
}
