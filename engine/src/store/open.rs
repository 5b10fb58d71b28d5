//! Opening a hub's folder: the steps of format-spec's `recovery.md`, in their order.

use super::gate::Gate;
use super::{Inner, OpenedLog, Slot, Store};
use crate::audit::Audit;
use crate::batch::LogHandle;
use crate::catalog::{Catalog, Identity};
use crate::compact::Manifest;
use crate::disk::{self, Disk};
use crate::error::{LogOpenError, OpenError, SessionError, StorageError};
use crate::hub_file::{self, HUB_FILE};
use crate::journal::{Journal, Replayed};
use crate::log::{Fault, FaultKind, JournalFound, JournalFrames, devices, recover, segments};
use crate::options::Options;
use crate::parallel;
use crate::session::{Session, SessionState};
use crate::state::StreamVersions;
use crate::time::HubClock;
use marey_format::journal::RecordBuilder;
use marey_format::payload::{EpochMark, Event};
use marey_format::wire::{Acked, Holes, Open};
use marey_format::{DeviceId, Refusal, RefusalCode, Seed, SessionId, limits};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, OnceLock};

/// Logs for which one more thread is worth it while a hub is opened: a few are soon done, and may have long ends.
const LOGS_PER_THREAD: usize = 32;

/// What opening a hub found and did.
#[derive(Clone, Debug, Default)]
pub struct RecoveryReport {
    /// Journal records that were replayed; 0 after a close in good order.
    pub journal_records: u64,
    /// Frames that were copied into fresh segments.
    pub frames_carried: u64,
    /// Logs that were looked into.
    pub logs: usize,
    /// Damage and torn tails.
    pub faults: Vec<Fault>,
    /// Journal frames of sessions whose folder is gone, by session and device.
    pub orphans: Vec<(SessionId, DeviceId)>,
    /// Sessions that can't be read, and why.
    pub unreadable: Vec<String>,
}

impl RecoveryReport {
    /// Whether anything that was acknowledged may be lost.
    pub fn found_damage(&self) -> bool {
        !self.unreadable.is_empty() || self.faults.iter().any(|fault| fault.kind == FaultKind::Damage)
    }
}

impl Store {
    /// Makes a hub of an empty folder (configuration and keys may be there already). `hub_id` should be random.
    ///
    /// # Errors
    /// [`OpenError::Exists`] where there is a hub.
    pub fn init(disk: &Arc<dyn Disk>, hub_id: [u8; 16], options: &Options) -> Result<(), OpenError> {
        let io = |error| StorageError::io("making", disk.describe(Path::new("")), error);
        // The last two: what an init that was cut short leaves.
        for taken in [HUB_FILE, "journal", "identity.redb"].map(Path::new) {
            if disk.stat(taken).map_err(io)?.is_some() {
                return Err(OpenError::Exists {
                    path: disk.describe(taken),
                });
            }
        }
        Journal::create(disk, options)?;
        disk::create_dirs(&**disk, Path::new("sessions")).map_err(io)?;
        drop(Identity::create(disk, options.catalog_cache_bytes)?);
        // Last: a folder with hub.json is a whole hub.
        hub_file::write(&**disk, hub_id).map_err(io)?;
        Ok(())
    }

    /// The id of the hub in a folder, which every segment of its logs carries.
    ///
    /// # Errors
    /// [`OpenError::NotAHub`], or that `hub.json` can't be read.
    pub fn read_hub_id(disk: &dyn Disk) -> Result<[u8; 16], OpenError> {
        read_hub_id(disk)
    }

    /// Opens a hub's folder and recovers what a crash left.
    pub fn open(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn HubClock>,
        options: Options,
    ) -> Result<(Self, RecoveryReport), OpenError> {
        let hub_id = read_hub_id(&*disk)?;
        let lock_path = Path::new("LOCK");
        let Some(lock) = disk
            .lock(lock_path)
            .map_err(|error| StorageError::io("locking", disk.describe(lock_path), error))?
        else {
            let pid = disk::read_all(&*disk, lock_path, 64).ok();
            let pid = pid.and_then(|bytes| String::from_utf8(bytes).ok()?.trim().parse().ok());
            return Err(OpenError::AlreadyOpen {
                path: disk.describe(Path::new("")),
                pid,
            });
        };
        // What a killed process made can be read, and is not durable for that: names first.
        sync_names(&*disk, &[Path::new(""), Path::new("sessions")])?;
        let identity = Identity::open(&disk, options.catalog_cache_bytes)?;
        let mut report = RecoveryReport::default();
        let sessions = read_sessions(&*disk, &mut report)?;
        let (journal, replayed) = Journal::open(disk.clone(), hub_id, &options)?;
        report.journal_records = replayed.records;
        report.faults.extend(replayed.faults.iter().cloned());
        let catalog = Catalog::open(&disk, options.catalog_cache_bytes, &sessions)?;
        let slots = sessions.into_iter().map(|session| {
            let slot = Slot {
                session,
                versions: StreamVersions::default(),
                loaded: false,
                late: false,
                annotated: None,
                published: Arc::default(),
            };
            (slot.session.id.clone(), slot)
        });
        let next = replayed.newest.saturating_add(1);
        let mut staging = RecordBuilder::default();
        staging.start();
        let inner = Inner {
            sessions: slots.collect(),
            logs: Vec::new(),
            by_name: HashMap::new(),
            live: HashMap::new(),
            staging,
            spare: None,
            waiting_for_room: None,
            staged: next,
            done: next - 1,
            oldest: next,
            writing: false,
            window: Default::default(),
            is_crowded: false,
            pending_bytes: 0,
            unwritten: Vec::new(),
            buffers: Default::default(),
            poisoned: None,
        };
        let store = Self {
            audit: Audit::new(disk.clone(), clock.clone(), hub_id),
            disk,
            clock,
            options,
            hub_id,
            identity,
            catalog,
            inner: Mutex::new(inner),
            committed: Gate::default(),
            gathered: Condvar::new(),
            crowded: Condvar::new(),
            journal: Mutex::new(journal),
            journal_found: JournalFound {
                whole: replayed.faults.is_empty(),
                crashed: replayed.records > 0 || !replayed.faults.is_empty(),
            },
            flush: Mutex::new(()),
            loading: Mutex::new(()),
            signer: OnceLock::new(),
            _lock: lock,
        };
        store.committed.begin(next - 1);
        store.recover_logs(replayed, &mut report)?;
        store.write_barrier()?;
        Ok((store, report))
    }

    /// Every log that the journal has frames for, that takes frames, or that was found unsealed.
    fn recover_logs(&self, mut replayed: Replayed, report: &mut RecoveryReport) -> Result<(), StorageError> {
        let ids: Vec<SessionId> = self.inner().sessions.keys().cloned().collect();
        for id in ids {
            let session = self.inner().sessions[&id].session.clone();
            let state = session.state;
            if self.journal_found.crashed {
                sync_names(&*self.disk, &[&Session::dir(&id)])?;
            }
            let published = crate::compact::recover_publish(&*self.disk, &session)
                .and_then(|()| crate::compact::recover_retirement(&*self.disk, &id))
                .and_then(|()| Manifest::read(&*self.disk, &Session::dir(&id)));
            let (manifest, is_readable) = match published {
                Ok(manifest) => (manifest, true),
                // Its own business to be mended; recording goes on without it.
                Err(error @ StorageError::Damaged { .. }) => {
                    report.unreadable.push(error.to_string());
                    (None, false)
                }
                Err(error) => return Err(error),
            };
            // The hub ended between the publication and this.
            let published = manifest.as_ref().map(|manifest| manifest.generation);
            if let Some(generation) = published.filter(|&generation| generation > session.generation) {
                self.sealed_as(&id, generation).map_err(|error| match error {
                    SessionError::Storage(error) => error,
                    other => StorageError::damaged(self.disk.describe(&Session::dir(&id)), other),
                })?;
            }
            let in_journal: Vec<DeviceId> = replayed
                .logs
                .keys()
                .filter(|(session, _)| *session == id)
                .map(|(_, device)| device.clone())
                .collect();
            let active = matches!(state, SessionState::Recording | SessionState::Stopping);
            if active || !in_journal.is_empty() || self.has_unsealed(&id)? {
                self.load_session(&id, &mut replayed.logs, report)?;
            }
            let sealed = self
                .session(&id)
                .is_ok_and(|session| session.state == SessionState::Sealed);
            if sealed
                && is_readable
                && self.has_unpublished(&id, manifest.as_ref())?
                && let Some(slot) = self.inner().sessions.get_mut(&id)
            {
                slot.late = true;
            }
            if is_readable && self.has_unpublished_annotations(&id, manifest.as_ref())? {
                self.annotated(&id);
            }
        }
        for ((session, device), frames) in replayed.logs {
            let dir = Session::dir(&session);
            let io = |error| StorageError::io("looking for", self.disk.describe(&dir), error);
            if self.disk.stat(&dir).map_err(io)?.is_some() {
                self.save_frames(&session, &device, &frames, report)?;
            } else {
                tracing::warn!(%session, %device, "the journal has frames of a session whose folder is gone");
                report.orphans.push((session, device));
            }
        }
        Ok(())
    }

    /// Puts frames of the journal into the log of a session that can't be read, before the journal forgets them: whoever
    /// mends its `session.json` finds them there.
    fn save_frames(
        &self,
        session: &SessionId,
        device: &DeviceId,
        frames: &[JournalFrames],
        report: &mut RecoveryReport,
    ) -> Result<(), StorageError> {
        let log_dir = Session::log_dir(session, device);
        let io = |error| StorageError::io("making", self.disk.describe(&log_dir), error);
        disk::create_dirs(&*self.disk, &log_dir).map_err(io)?;
        sync_names(
            &*self.disk,
            &[&Session::dir(session), &Session::dir(session).join("logs")],
        )?;
        let recovered = recover(
            &*self.disk,
            (device, session, self.hub_id),
            frames,
            self.journal_found,
            &self.options,
            self.clock.now(),
        )?;
        report.faults.extend(recovered.faults);
        report.frames_carried += recovered.carried;
        report.logs += 1;
        Ok(())
    }

    /// Whether the newest segment of any log of the session is not sealed.
    fn has_unsealed(&self, session: &SessionId) -> Result<bool, StorageError> {
        for device in devices(&*self.disk, session)? {
            let dir = Session::log_dir(session, &device);
            if let Some((number, path, bytes)) = segments(&*self.disk, &dir)?.pop() {
                let summary =
                    crate::log::SegmentSummary::read(&*self.disk, number, &path, bytes, (&device, session));
                match summary {
                    Ok(summary) if summary.index.is_some() => {}
                    Ok(_) | Err(StorageError::Damaged { .. }) => return Ok(true),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(false)
    }

    /// Takes the logs of a session into memory if they are not there yet: those of sealed and closed ones stay on the
    /// disk until somebody asks.
    pub(super) fn ensure_loaded(&self, id: &SessionId) -> Result<(), StorageError> {
        let _one_at_a_time = self
            .loading
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        if self.inner().sessions.get(id).is_none_or(|slot| slot.loaded) {
            return Ok(());
        }
        self.load_session(id, &mut BTreeMap::new(), &mut RecoveryReport::default())
    }

    /// Takes the logs of a session into memory, recovered.
    fn load_session(
        &self,
        id: &SessionId,
        journal: &mut BTreeMap<(SessionId, DeviceId), Vec<JournalFrames>>,
        report: &mut RecoveryReport,
    ) -> Result<(), StorageError> {
        let dir = Session::dir(id);
        sync_names(&*self.disk, &[&dir, &dir.join("logs")])?;
        let mut names = devices(&*self.disk, id)?;
        names.extend(
            journal
                .keys()
                .filter(|(session, _)| session == id)
                .map(|(_, device)| device.clone()),
        );
        names.sort();
        names.dedup();
        let found: Vec<(DeviceId, Vec<JournalFrames>)> = names
            .into_iter()
            .map(|device| {
                let frames = journal.remove(&(id.clone(), device.clone()));
                (device, frames.unwrap_or_default())
            })
            .collect();
        let now = self.clock.now();
        let one = |(device, frames): &(DeviceId, Vec<JournalFrames>)| {
            let ids = (device, id, self.hub_id);
            recover(&*self.disk, ids, frames, self.journal_found, &self.options, now)
        };
        // Each log waits for syncs of its own, and what it holds beside them, the end of its newest segment, is in memory.
        let at_once = self.options.syncs_at_once.min(found.len() / LOGS_PER_THREAD);
        let all = parallel::map(at_once, &found, one, |_| {})?;
        let mut versions = StreamVersions::default();
        let mut logs = Vec::with_capacity(all.len());
        for recovered in all {
            versions.learn_all(&recovered.log.state);
            report.faults.extend(recovered.faults);
            report.frames_carried += recovered.carried;
            report.logs += 1;
            logs.push((recovered.log, recovered.carried));
        }
        let mut inner = self.inner();
        for (log, carried) in logs {
            let number = inner.logs.len() as u32;
            inner.by_name.insert((id.clone(), log.device.clone()), number);
            inner.logs.push(log);
            if carried > 0
                && let Some(slot) = inner.sessions.get_mut(id)
            {
                slot.late |= slot.session.state.takes_late_frames();
            }
        }
        if let Some(slot) = inner.sessions.get_mut(id) {
            slot.versions = versions;
            slot.loaded = true;
        }
        Ok(())
    }

    /// A record that says that all before it is in synced logs.
    pub(super) fn write_barrier(&self) -> Result<(), StorageError> {
        let inner = self.inner();
        let commit = inner.staged;
        self.drive(inner, commit)?;
        Ok(())
    }

    /// Opens the log of one epoch of a device in a session. When it returns, all that `next` counts is as safe as
    /// [`crate::Durability`] says.
    ///
    /// # Errors
    /// What the device is to be told: no such session, not in its roster, not started, closed, recorded elsewhere.
    pub fn open_log(&self, device: &DeviceId, open: &Open) -> Result<OpenedLog, LogOpenError> {
        self.admit(device, &open.session)?;
        self.ensure_loaded(&open.session)?;
        let now = self.clock.now();
        let wall = self.clock.wall();
        let mut inner = self.inner();
        inner.check()?;
        let guard = &mut *inner;
        let number = match guard.by_name.get(&(open.session.clone(), device.clone())) {
            Some(&number) => number,
            None => {
                let segment_bytes = (self.options.segment_bytes_first, self.options.segment_bytes_max);
                let ids = (device, &open.session, self.hub_id);
                let number = guard.logs.len() as u32;
                guard.logs.push(crate::log::Log::new(
                    ids,
                    Default::default(),
                    1,
                    crate::log::Before::NONE,
                    segment_bytes,
                ));
                guard
                    .by_name
                    .insert((open.session.clone(), device.clone()), number);
                number
            }
        };
        let session = &guard.sessions[&open.session].session;
        let recording = session.state == SessionState::Recording;
        let log = &mut guard.logs[number as usize];
        log.max_drift_ppm = session.max_drift_ppm;
        let before = log.end();
        if log.state.wall.is_none_or(|known| known.hub_epoch != now.epoch) {
            log.wall(&wall, now);
        }
        let ordinal = match log.state.ordinal(&open.epoch) {
            Some(ordinal) => ordinal,
            None => {
                let ordinal = log.state.epochs().len() as u32;
                if ordinal >= limits::EPOCHS_PER_LOG_MAX {
                    let message = format!("{ordinal} epochs in one session; ask for a new session");
                    return Err(LogOpenError::Refused(Refusal::new(RefusalCode::TooMany, message)));
                }
                log.open_epoch(
                    EpochMark {
                        epoch: open.epoch,
                        boot: open.boot,
                        ordinal,
                        refill: false,
                    },
                    now,
                );
                ordinal
            }
        };
        log.release(ordinal);
        let epoch = &log.state.epochs()[ordinal as usize];
        let (next, holes) = (epoch.next, epoch.holes.clone());
        let claimed = open.highest_ack.lanes();
        let proven_loss = [
            claimed[0].saturating_sub(next[0]),
            claimed[1].saturating_sub(next[1]),
        ];
        if proven_loss != [0, 0] {
            let text = format!(
                "the device was told that {} data and {} live frames of epoch {} were durable; the hub holds {} and {}",
                claimed[0], claimed[1], open.epoch, next[0], next[1]
            );
            tracing::error!(session = %open.session, %device, "acknowledged frames are lost: {text}");
            log.note(
                &Event {
                    kind: "acknowledged_loss".to_owned(),
                    text: Some(text),
                    duration_ns: None,
                },
                now,
            );
        }
        let handle = LogHandle {
            log: number,
            epoch: ordinal,
            seed: Seed::new(device, &open.session, &open.epoch),
        };
        if recording {
            guard.live.insert(device.clone(), open.session.clone());
        }
        let touched = if log.end() == before {
            BTreeMap::new()
        } else {
            BTreeMap::from([(number, before)])
        };
        let commit = self.stage(guard, touched);
        self.drive(inner, commit)?;
        self.settle(number)?;
        Ok(OpenedLog {
            handle,
            next: Acked {
                data: next[0],
                live: next[1],
            },
            holes: Holes {
                data: holes[0].clone(),
                live: holes[1].clone(),
            },
            recording,
            proven_loss,
        })
    }

    /// Whether a device may open a session now.
    fn admit(&self, device: &DeviceId, id: &SessionId) -> Result<(), LogOpenError> {
        let refuse = |code, message: String| Err(LogOpenError::Refused(Refusal::new(code, message)));
        let inner = self.inner();
        let Some(slot) = inner.sessions.get(id) else {
            return refuse(
                RefusalCode::UnknownSession,
                SessionError::Unknown(id.clone()).to_string(),
            );
        };
        let session = &slot.session;
        if !session.admits(device) {
            return refuse(
                RefusalCode::NotInSession,
                format!("the roster of {id} does not name {device}"),
            );
        }
        match session.state {
            SessionState::Created => {
                return refuse(
                    RefusalCode::NotStarted,
                    format!("session {id} is not started; wait for the join"),
                );
            }
            SessionState::Closed => {
                return refuse(
                    RefusalCode::SessionClosed,
                    format!("session {id} is closed for good; keep your data"),
                );
            }
            _ => {}
        }
        if session.state == SessionState::Recording
            && let Some(other) = inner.live.get(device)
            && other != id
            && inner
                .sessions
                .get(other)
                .is_some_and(|slot| slot.session.state == SessionState::Recording)
        {
            return refuse(
                RefusalCode::RecordedElsewhere,
                format!("{device} is being recorded in session {other}"),
            );
        }
        Ok(())
    }
}

fn read_hub_id(disk: &dyn Disk) -> Result<[u8; 16], OpenError> {
    match disk.stat(Path::new(HUB_FILE)) {
        Ok(Some(_)) => Ok(hub_file::read(disk)?),
        Err(error) if error.kind() != std::io::ErrorKind::NotADirectory => {
            Err(StorageError::io("looking for", disk.describe(Path::new(HUB_FILE)), error).into())
        }
        _ => Err(OpenError::NotAHub {
            path: disk.describe(Path::new("")),
        }),
    }
}

/// Makes the names in these folders durable, where the folders are there.
fn sync_names(disk: &dyn Disk, dirs: &[&Path]) -> Result<(), StorageError> {
    for dir in dirs {
        let io = |error| StorageError::io("syncing", disk.describe(dir), error);
        if disk.stat(dir).map_err(io)?.is_some() {
            disk.sync_dir(dir).map_err(io)?;
        }
    }
    Ok(())
}

fn read_sessions(disk: &dyn Disk, report: &mut RecoveryReport) -> Result<Vec<Session>, StorageError> {
    let dir = Path::new("sessions");
    let io = |error| StorageError::io("listing", disk.describe(dir), error);
    if disk.stat(dir).map_err(io)?.is_none() {
        return Ok(Vec::new());
    }
    let mut sessions = Vec::new();
    for entry in disk.list(dir).map_err(io)? {
        let Some(id) = entry
            .name
            .strip_prefix("session=")
            .and_then(|id| SessionId::new(id).ok())
        else {
            continue;
        };
        match Session::read(disk, &dir.join(&entry.name)) {
            Ok(session) if session.id == id => sessions.push(session),
            Ok(session) => {
                let path = disk.describe(&dir.join(&entry.name));
                report
                    .unreadable
                    .push(format!("{} holds session {}", path.display(), session.id));
            }
            // A session whose making was cut off has a folder, and no session.json yet.
            Err(StorageError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => report.unreadable.push(error.to_string()),
        }
    }
    Ok(sessions)
}
