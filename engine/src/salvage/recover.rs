//! Salvage: every frame that is whole goes into a new hub's folder, and what is lost is listed.
//!
//! The source is read through a view that refuses writes. The copy is a hub's folder: sessions with their logs, fresh
//! segments all of them sealed, and neither keys nor enrolled devices. It is read back before anything is said of it.
//! Parquet is not copied: it can be made again from the logs (`marey compact`), and where a log lost samples that an
//! older Parquet file has, that file is the only place where they stand, so it should be kept.

use super::SalvageError;
use super::finding::find;
use super::inventory::{Inventory, Item};
use super::lost::{Lost, LostBytes};
use super::report::{self, Fault, path};
use super::rewrite::{Written, rewrite};
use super::short::Short;
use super::source::{SessionFound, Source, What};
use super::view::View;
use crate::compact::{Manifest, Retired};
use crate::disk::{self, Disk};
use crate::error::StorageError;
use crate::journal::Replayed;
use crate::log::{self, FaultKind, JournalFrames, Replay};
use crate::options::Options;
use crate::session::{NewSession, Session, SessionState};
use crate::state::{StreamVersions, Violation};
use crate::store::Store;
use marey_format::frame::{Kind, Lane};
use marey_format::{DeviceId, SessionId};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What was saved, and what was not.
#[derive(Clone, Debug, Serialize)]
pub struct RecoverReport {
    #[serde(serialize_with = "path")]
    pub source: PathBuf,
    #[serde(serialize_with = "path")]
    pub out: PathBuf,
    pub logs: Vec<SalvagedLog>,
    pub lost: Lost,
    /// Writes that were under way when the end came. Never acknowledged, so no loss.
    pub torn_tails: Vec<Fault>,
    /// What a person should know besides.
    pub notes: Vec<String>,
}

/// One log of the copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SalvagedLog {
    pub session: SessionId,
    pub device: DeviceId,
    /// Frames of the device, byte for byte those of the source.
    pub frames: u64,
    pub samples: u64,
    /// Frames of the hub, numbered anew.
    pub hub_frames: u64,
    /// Frames that only the commit journal had.
    pub from_journal: u64,
    pub segments: u64,
    pub bytes: u64,
}

/// Salvages what is whole in `source` into `out`, an empty folder. `progress` is told which log is being worked on.
///
/// # Errors
/// If `out` is not empty or can't be written. What can't be read of the source is in the report.
pub fn recover(
    source: &Source,
    out: Arc<dyn Disk>,
    options: &Options,
    progress: &dyn Fn(&SessionId, &DeviceId),
) -> Result<RecoverReport, SalvageError> {
    let root = Path::new("");
    let io = |error| StorageError::io("listing", out.describe(root), error);
    if !out.list(root).map_err(io)?.is_empty() {
        return Err(SalvageError::OutNotEmpty {
            path: out.describe(root),
        });
    }
    let report = RecoverReport {
        source: source.path().to_owned(),
        out: out.describe(root),
        logs: Vec::new(),
        lost: Lost::default(),
        torn_tails: Vec::new(),
        notes: Vec::new(),
    };
    let mut salvage = Salvage {
        source,
        out,
        options,
        progress,
        report,
    };
    salvage.run()?;
    Ok(salvage.report)
}

struct Salvage<'a> {
    source: &'a Source,
    out: Arc<dyn Disk>,
    options: &'a Options,
    progress: &'a dyn Fn(&SessionId, &DeviceId),
    report: RecoverReport,
}

/// One session, taken stock of.
struct Stock {
    found: SessionFound,
    manifest: Option<Manifest>,
    logs: Vec<(View, Inventory, Short)>,
}

impl Salvage<'_> {
    fn run(&mut self) -> Result<(), SalvageError> {
        let (sessions, others) = self.source.sessions()?;
        for other in others {
            self.report
                .notes
                .push(format!("sessions/{other} is no session's folder and is left out"));
        }
        let hub = self.hub_id(&sessions);
        let mut journal = self.journal(hub);
        // The journal of the copy stays empty; it need not be large.
        let small = Options {
            journal_block_bytes: 64 << 10,
            journal_blocks: 2,
            ..self.options.clone()
        };
        Store::init(&self.out, hub, &small)?;
        // One after the other: what is known of all frames of a session is in memory while it is written.
        for found in sessions {
            if let Some(stock) = self.take_stock(found, &mut journal)? {
                self.write(stock, hub)?;
            }
        }
        if *self.source.what() == What::Hub {
            self.report.notes.push(
                "who may connect (identity.redb, pki), keys, hub.toml and the audit log are not copied: they are not needed to \
                 read recordings; a hub that is to go on takes them from its backup (`marey restore`)"
                    .to_owned(),
            );
        }
        for (session, device) in journal.keys() {
            let what =
                format!("the journal has frames of {device} for session {session}, whose folder is gone");
            self.report.notes.push(format!("{what}; they are left out"));
        }
        for unreadable in self.source.view.unreadable() {
            let file = unreadable.path.display();
            let (offset, bytes, why) = (unreadable.offset, unreadable.bytes, unreadable.why);
            self.report.notes.push(format!(
                "{file}: offset {offset}: the disk can't read {bytes} bytes: {why}"
            ));
        }
        Ok(())
    }

    /// A phase begins that reads about `bytes` bytes.
    fn begin(&self, what: &str, session: &SessionId, device: &DeviceId, bytes: u64) {
        let what = format!("{what} {session}, {device}");
        self.source.progress().begin(&what, bytes);
        (self.progress)(session, device);
    }

    /// The hub's id, which is in every segment as well.
    fn hub_id(&mut self, sessions: &[SessionFound]) -> [u8; 16] {
        let error = match (self.source.what(), self.source.hub_id()) {
            (_, Ok(hub)) => return hub,
            (What::Hub, Err(error)) => Some(error),
            (_, Err(_)) => None,
        };
        let in_segments = sessions.iter().find_map(|found| {
            let devices = self.source.devices(&found.id).ok()?;
            devices.iter().find_map(|device| {
                let dir = Session::log_dir(&found.id, device);
                let segments = log::segments(&*self.source.view, &dir).ok()?;
                segments.iter().find_map(|(_, path, _)| {
                    let head = super::source::read_head(&*self.source.view, path).ok()?;
                    Some(marey_format::log::SegmentHeader::parse(&head).ok()?.hub)
                })
            })
        });
        if let Some(error) = error {
            let from = if in_segments.is_some() {
                "is taken from a segment"
            } else {
                "is lost"
            };
            self.report.notes.push(format!("{error}; the hub's id {from}"));
        }
        in_segments.unwrap_or_default()
    }

    fn journal(&mut self, hub: [u8; 16]) -> BTreeMap<(SessionId, DeviceId), Vec<JournalFrames>> {
        if *self.source.what() != What::Hub {
            return BTreeMap::new();
        }
        let mut lose = |file: PathBuf, offset, bytes, cause: String| {
            self.report.lost.bytes.push(LostBytes {
                file,
                offset,
                bytes,
                cause,
            });
        };
        let dir = self.source.view.describe(Path::new("journal"));
        match super::journal::read(self.source, hub) {
            Ok(Some(Replayed { logs, faults, .. })) => {
                let (torn, damage): (Vec<_>, Vec<_>) = faults
                    .into_iter()
                    .partition(|fault| fault.kind == FaultKind::TornTail);
                damage
                    .into_iter()
                    .for_each(|fault| lose(fault.path, fault.offset, fault.bytes, fault.why));
                let torn = torn.into_iter().map(|fault| {
                    Fault::of_file(report::FaultKind::TornTail, fault.path, fault.why)
                        .at(fault.offset, fault.bytes)
                });
                self.report.torn_tails.extend(torn);
                logs
            }
            Ok(None) => {
                lose(
                    dir,
                    0,
                    0,
                    "the commit journal is gone, and what only it had".to_owned(),
                );
                BTreeMap::new()
            }
            Err(error) => {
                lose(dir, 0, 0, error.to_string());
                BTreeMap::new()
            }
        }
    }

    /// Reads all of a session; none where there is nothing of one.
    fn take_stock(
        &mut self,
        found: SessionFound,
        journal: &mut BTreeMap<(SessionId, DeviceId), Vec<JournalFrames>>,
    ) -> Result<Option<Stock>, SalvageError> {
        let source = self.source;
        let dir = Session::dir(&found.id);
        let manifest = match Manifest::read(&*source.view, &dir) {
            Ok(manifest) => manifest,
            Err(error) => {
                self.report
                    .notes
                    .push(format!("{error}; what it said of the logs is not known"));
                None
            }
        };
        if let Ok(Some(retired)) = Retired::read(&*source.view, &dir) {
            let (id, samples) = (&found.id, retired.samples);
            self.report.notes.push(format!(
                "{id}: its logs were retired; its {samples} samples stand in its Parquet alone: copy its folder as it is"
            ));
            return Ok(None);
        }
        let mut devices = source.devices(&found.id)?;
        let named = manifest
            .iter()
            .flat_map(|manifest| &manifest.logs)
            .map(|log| log.device.clone());
        let one = match source.what() {
            What::Log { device, .. } | What::Segment { device, .. } => Some(device.clone()),
            _ => None,
        };
        let in_journal = journal
            .keys()
            .filter(|(session, _)| *session == found.id)
            .map(|(_, device)| device.clone());
        devices.extend(named.chain(in_journal).filter(|_| one.is_none()));
        devices.sort();
        devices.dedup();
        if devices.is_empty()
            && let Some(Err(StorageError::Io { source, .. })) = &found.session
            && source.kind() == std::io::ErrorKind::NotFound
        {
            // Its making was cut off.
            return Ok(None);
        }
        let mut logs = Vec::new();
        for device in devices {
            let bytes = super::verify::log_bytes(&*source.view, &found.id, &device);
            self.begin("reading", &found.id, &device, bytes);
            let frames = journal
                .remove(&(found.id.clone(), device.clone()))
                .unwrap_or_default();
            let straight = source.straightened(&found.id, &device)?;
            self.report.notes.extend(straight.told);
            for (file, cause) in straight.unreadable {
                self.report.lost.bytes.push(LostBytes {
                    file,
                    offset: 0,
                    bytes: 0,
                    cause,
                });
            }
            let mut inventory = Inventory::take(&straight.view, &found.id, &device, frames)?;
            if matches!(source.what(), What::Segment { .. }) {
                // The others were not asked for.
                inventory
                    .faults
                    .retain(|fault| inventory.segments.contains_key(&fault.segment));
            }
            let short = match &manifest {
                Some(manifest) => Short::of(&straight.view, manifest, &inventory),
                None => Short::default(),
            };
            self.report.notes.extend(short.told());
            for (epoch, id) in &inventory.stand_ins {
                let of = format!("{}/{device}: epoch {epoch}", found.id);
                self.report
                    .notes
                    .push(format!("{of}: its id is lost, {id} stands in for it"));
            }
            logs.push((straight.view, inventory, short));
        }
        Ok(Some(Stock {
            found,
            manifest,
            logs,
        }))
    }

    fn write(&mut self, stock: Stock, hub: [u8; 16]) -> Result<(), SalvageError> {
        let id = stock.found.id.clone();
        let mut versions = StreamVersions::default();
        for (_, inventory, _) in &stock.logs {
            inventory
                .assigns
                .values()
                .for_each(|assign| versions.learn(assign));
        }
        let dir = Session::dir(&id);
        let io = |error| StorageError::io("making", self.out.describe(&dir), error);
        disk::create_dirs(&*self.out, &dir.join("logs")).map_err(io)?;
        for (view, inventory, short) in &stock.logs {
            let bytes = inventory
                .items
                .iter()
                .map(|item| u64::from(item.length))
                .sum::<u64>();
            self.begin("writing", &id, &inventory.device, 2 * bytes);
            let written = rewrite(view, &*self.out, inventory, &mut versions, hub, self.options)?;
            let salvaged = self.read_back(inventory, &written)?;
            self.report.logs.push(salvaged);
            self.report.lost.extend(find(inventory, &written, &short.lost));
            let torn = inventory
                .faults
                .iter()
                .filter(|fault| fault.kind == FaultKind::TornTail);
            // Where the manifest says that there was more, it is no torn tail.
            let torn = torn.filter(|fault| !short.cut().any(|cut| cut.path == fault.path));
            let torn: Vec<Fault> = torn
                .map(|fault| Fault::of_log(fault, &id, &inventory.device))
                .collect();
            self.report.torn_tails.extend(torn);
        }
        let session = self.session(&stock);
        session.write(&*self.out)?;
        if matches!(self.source.what(), What::Hub | What::Session { .. }) {
            for fault in super::added::copy(&*self.source.view, &*self.out, &id)? {
                self.report.lost.bytes.push(LostBytes {
                    file: fault.file,
                    offset: fault.offset.unwrap_or(0),
                    bytes: 0,
                    cause: fault.cause,
                });
            }
        }
        if let Some(manifest) = &stock.manifest {
            self.report.notes.push(format!(
                "{id}: Parquet is not copied (`marey --dir {} compact {id}` makes it again); keep that of generation \
                 {} in the source, it may hold samples that its logs have lost",
                self.report.out.display(),
                manifest.generation
            ));
        }
        Ok(())
    }

    /// What the copy's session.json says: as in the source, but that it is to be sealed again.
    fn session(&mut self, stock: &Stock) -> Session {
        let id = &stock.found.id;
        let has_logs = !stock.logs.is_empty();
        let mut session = match &stock.found.session {
            Some(Ok(session)) => session.clone(),
            other => {
                if let Some(Err(error)) = other {
                    let file = self.source.view.describe(&Session::dir(id).join("session.json"));
                    let cause = format!("{error}; roster, metadata and the declared drift are lost");
                    self.report.lost.bytes.push(LostBytes {
                        file,
                        offset: 0,
                        bytes: 0,
                        cause,
                    });
                }
                Session::new(NewSession::open_to_all(id.clone()))
            }
        };
        if has_logs {
            let walls = stock.logs.iter().filter_map(|(_, inventory, _)| inventory.wall);
            let anchor = stock.manifest.as_ref().map(|manifest| manifest.anchor);
            session.anchor = session
                .anchor
                .or(anchor)
                .or_else(|| walls.min_by_key(|wall| wall.utc_ns));
            session.state = SessionState::Stopping;
        }
        let generation = stock.manifest.as_ref().map_or(0, |manifest| manifest.generation);
        session.generation = session.generation.max(generation);
        session
    }

    /// Reads a log of the copy: it holds exactly what was written, and every frame has a meaning.
    fn read_back(&self, inventory: &Inventory, written: &Written) -> Result<SalvagedLog, SalvageError> {
        let (session, device) = (&inventory.session, &inventory.device);
        let dir = Session::log_dir(session, device);
        let wrong = |what: String| SalvageError::NotReadBack {
            path: self.out.describe(&dir),
            what,
        };
        let mut replay = Replay::open(&*self.out, session, device)?;
        let mut expected = written.items.iter();
        let progress = self.source.progress();
        let mut samples = 0;
        while let Some(found) = replay.next()? {
            let header = *found.at.frame.header();
            progress.count(u64::from(header.length));
            if let Err(violation) = &found.judged
                && !matches!(violation, Violation::Below { .. })
            {
                return Err(wrong(format!("offset {}: {violation}", found.at.offset)));
            }
            if header.lane == Lane::Hub {
                continue;
            }
            let same = |item: &&Item| {
                (item.key(), item.crc)
                    == (
                        (found.at.epoch.unwrap_or(u32::MAX), header.lane, header.sequence),
                        header.crc,
                    )
            };
            if expected.next().filter(same).is_none() {
                return Err(wrong(format!(
                    "segment {}: offset {}: another frame",
                    found.at.segment, found.at.offset
                )));
            }
            samples += if header.kind == Kind::DATA {
                u64::from(header.count)
            } else {
                0
            };
        }
        let (segments, faults) = (replay.reader().segments(), replay.reader().faults());
        if let Some(fault) = faults.first() {
            return Err(wrong(fault.to_string()));
        }
        if expected.next().is_some() || segments.iter().any(|segment| segment.sealed_bytes.is_none()) {
            return Err(wrong("it ends too early".to_owned()));
        }
        Ok(SalvagedLog {
            session: session.clone(),
            device: device.clone(),
            frames: written.items.len() as u64,
            samples,
            hub_frames: written.hub_frames,
            from_journal: inventory.from_journal,
            segments: segments.len() as u64,
            bytes: segments.iter().map(|segment| segment.file_bytes).sum(),
        })
    }
}
