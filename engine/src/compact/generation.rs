//! One generation, written aside: streams, tables, manifest, receipt.

use super::annotations::Said;
use super::files::Hashes;
use super::gaps::{Gap, gaps};
use super::manifest::{HubEpochFact, LogFact, MANIFEST, Manifest, PartFact, StreamFact, TableFact};
use super::overview::{OVERVIEW, OverviewTable};
use super::parquet::{StreamJob, Unsynced, WrittenStream, stream_dir, write_stream};
use super::publish::{self, Aside, Plan};
use super::receipt::{Receipt, StreamOutcome};
use super::signature::{self, Witness};
use super::survey::{DeviceSurvey, StreamPlan};
use super::tables::{CLOCK_MAP, EVENTS, StreamGaps, Tables, WrittenTable, earlier_map};
use super::timeline::Timeline;
use super::{ALIGNMENT_VERSION, CompactError, Phase, Progress};
use crate::clock::TiedBy;
use crate::disk::{Disk, OpenMode};
use crate::error::StorageError;
use crate::options::Options;
use crate::parallel;
use crate::session::Session;
use marey_format::payload::WallReading;
use marey_format::{HubEpoch, version};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Streams that are written before they are synced together, with a file open for each.
const STREAMS_AT_ONCE: usize = 64;

/// All that a generation is made of.
pub struct Job<'a> {
    pub disk: &'a dyn Disk,
    pub session: &'a Session,
    /// What the hub adds to the receipt.
    pub witness: &'a Witness<'a>,
    pub anchor: &'a WallReading,
    pub surveys: &'a [DeviceSurvey],
    /// What people said of it.
    pub said: &'a Said,
    pub timeline: &'a Arc<Timeline>,
    pub options: &'a Options,
    pub generation: u32,
    /// The generation before, whose parts are taken on where they are the same.
    pub before: Option<&'a Manifest>,
    /// Whether that one was made of the same frames.
    pub same_frames: bool,
}

impl Job<'_> {
    /// Writes everything aside, durably but for the names in the session's folder.
    pub fn write(
        &self,
        session_dir: &Path,
        aside: &Aside,
        progress: &dyn Fn(Progress),
    ) -> Result<(Manifest, Receipt, Plan), CompactError> {
        let streams = self.streams();
        let gaps: Vec<Vec<Gap>> = streams
            .iter()
            .map(|(survey, plan)| gaps(survey, plan, Some(self.timeline)))
            .collect();
        let of_streams: Vec<StreamGaps<'_>> = streams
            .iter()
            .zip(&gaps)
            .map(|((survey, plan), gaps)| StreamGaps {
                survey,
                key: &plan.key,
                gaps,
            })
            .collect();
        let mut tables = self.tables().write(&|name| aside.file(name), &of_streams)?;
        let mut files: Vec<String> = tables.iter().map(|table| table.name.to_owned()).collect();
        let written = match self.take_over(session_dir, &aside.streams(), &tables)? {
            Some(taken) => {
                tables.push(taken.overview);
                taken.streams
            }
            None => {
                let overview = aside.file(OVERVIEW);
                let (mut written, overview) =
                    self.write_streams(&streams, &aside.streams(), overview, progress)?;
                for ((survey, plan), written) in streams.iter().zip(&mut written) {
                    self.take_on(session_dir, &aside.streams(), survey, plan, written)?;
                }
                files.push(overview.name.to_owned());
                tables.push(overview);
                written
            }
        };
        let table_facts = tables.iter().map(WrittenTable::fact);
        let (earlier_maps, kept) = self.keep_map(session_dir, aside);
        let manifest = Manifest {
            earlier_maps,
            ..self.manifest(&streams, &written, table_facts.collect())
        };
        let manifest_hashes = self.put(&aside.file(MANIFEST), &manifest.to_bytes())?;

        let outcomes: Vec<StreamOutcome<'_>> = streams
            .iter()
            .zip(written.iter().zip(&gaps))
            .map(|((survey, plan), (written, gaps))| StreamOutcome {
                survey,
                plan,
                written,
                gaps,
            })
            .collect();
        let warnings = self
            .timeline
            .alignment()
            .warnings()
            .iter()
            .map(ToString::to_string)
            .collect();
        let mut receipt = Receipt {
            audit: self.witness.audited.clone(),
            previous: signature::previous(self.disk, session_dir, self.generation)?,
            ..Receipt::of(
                self.session,
                self.anchor,
                self.generation,
                self.surveys,
                &outcomes,
                warnings,
                &manifest_hashes,
            )
        };
        if let Some(fault) = self.said.fault() {
            receipt.add_damage(fault);
        }
        let (receipt, receipt_files) = self.put_receipt(aside, receipt)?;

        let dir = aside.streams();
        let io = |error| StorageError::io("listing", self.disk.describe(&dir), error);
        let parts = publish::files_below(self.disk, &dir).map_err(io)?;
        files.extend(kept);
        files.extend(receipt_files);
        files.push(MANIFEST.to_owned());
        Ok((
            manifest,
            receipt,
            Plan {
                generation: self.generation,
                parts,
                files,
            },
        ))
    }

    /// Writes the receipt, and what stands beside it where it is signed. It as it was written, and the files.
    fn put_receipt(&self, aside: &Aside, receipt: Receipt) -> Result<(Receipt, Vec<String>), CompactError> {
        let signed = signature::sign(self.witness.signer, receipt);
        if let Some(why) = &signed.receipt.unsigned {
            tracing::warn!(session = %self.session.id, why, "the receipt is not signed");
        }
        let mut files = vec![(Receipt::name(self.generation), signed.bytes)];
        if let Some((certificates, signature)) = signed.beside {
            let certificate = signature::certificate_name(self.generation);
            files.push((certificate, certificates.into_bytes()));
            files.push((signature::signature_name(self.generation), signature));
        }
        for (name, bytes) in &files {
            self.put(&aside.file(name), bytes)?;
        }
        let names = files.into_iter().map(|(name, _)| name).collect();
        Ok((signed.receipt, names))
    }

    /// Writes streams, what they come to from afar, and events alone, and gives the manifest that tells of them.
    pub fn write_live(&self, dir: &Path, progress: &dyn Fn(Progress)) -> Result<Manifest, CompactError> {
        let streams = self.streams();
        let (written, overview) =
            self.write_streams(&streams, &dir.join("streams"), dir.join(OVERVIEW), progress)?;
        let events = self.tables().write_events(&dir.join(EVENTS))?;
        Ok(self.manifest(&streams, &written, vec![events.fact(), overview.fact()]))
    }

    fn tables(&self) -> Tables<'_> {
        Tables {
            disk: self.disk,
            surveys: self.surveys,
            timeline: self.timeline,
            said: self.said,
            options: self.options,
        }
    }

    pub(super) fn streams(&self) -> Vec<(&DeviceSurvey, &Arc<StreamPlan>)> {
        let mut streams: Vec<_> = self
            .surveys
            .iter()
            .flat_map(|survey| survey.streams.values().map(move |plan| (survey, plan)))
            .collect();
        streams.sort_by(|a, b| (&a.1.key, a.0.device.as_str()).cmp(&(&b.1.key, b.0.device.as_str())));
        streams
    }

    fn write_streams(
        &self,
        streams: &[(&DeviceSurvey, &Arc<StreamPlan>)],
        streams_dir: &Path,
        overview: PathBuf,
        progress: &dyn Fn(Progress),
    ) -> Result<(Vec<WrittenStream>, WrittenTable), CompactError> {
        let stop_us = self
            .session
            .stopped
            .map(|at| self.timeline.of_hub(at.hub_epoch, at.hub_ns).0);
        let jobs: Vec<StreamJob<'_>> = streams
            .iter()
            .map(|&(survey, plan)| StreamJob {
                disk: self.disk,
                session: &self.session.id,
                survey,
                plan: plan.clone(),
                timeline: self.timeline.clone(),
                options: self.options,
                stop_us,
                streams_dir,
                generation: self.generation,
                beside: streams.len().min(STREAMS_AT_ONCE),
            })
            .collect();
        let mut overview = OverviewTable::new(self.disk, overview, self.options);
        let (mut written, mut dirs) = (Vec::with_capacity(jobs.len()), BTreeSet::new());
        for some in jobs.chunks(STREAMS_AT_ONCE) {
            let (before, of) = (written.len(), jobs.len());
            let done = |done| {
                progress(Progress {
                    phase: Phase::Writing,
                    done: before + done,
                    of,
                })
            };
            let of_some = parallel::map(self.options.compaction_threads, some, write_stream, done)?;
            let (mut of_some, unsynced): (Vec<_>, Vec<_>) = of_some.into_iter().unzip();
            for (job, stream) in some.iter().zip(&mut of_some) {
                let seen = std::mem::take(&mut stream.overview);
                overview.put(job.survey.device.as_str(), &job.plan.key.to_string(), seen)?;
            }
            written.extend(of_some);
            // Together: a file system gathers syncs that wait at the same time.
            let unsynced: Vec<Unsynced> = unsynced.into_iter().flatten().collect();
            let sync = |file: &Unsynced| file.sync(self.disk);
            parallel::map(self.options.syncs_at_once, &unsynced, sync, |_| {})?;
        }
        for part in written.iter().flat_map(|written| &written.parts) {
            dirs.extend(part.path.ancestors().skip(1).map(|dir| streams_dir.join(dir)));
        }
        let dirs: Vec<PathBuf> = dirs.into_iter().collect();
        let sync = |dir: &PathBuf| {
            let io = |error| StorageError::io("syncing", self.disk.describe(dir), error);
            self.disk.sync_dir(dir).map_err(io)
        };
        parallel::map(self.options.syncs_at_once, &dirs, sync, |_| {})?;
        Ok((written, overview.finish()?))
    }

    /// Parts that came out as they were before become other names of the old files.
    fn take_on(
        &self,
        session_dir: &Path,
        streams_dir: &Path,
        survey: &DeviceSurvey,
        plan: &StreamPlan,
        written: &mut WrittenStream,
    ) -> Result<(), CompactError> {
        let Some(before) = self.before else { return Ok(()) };
        let dir = stream_dir(&plan.key, &survey.device);
        let old_parts = before.parts(&plan.key, &survey.device);
        let mut linked = false;
        for (part, old) in written.parts.iter_mut().zip(old_parts) {
            let old_path = session_dir.join(&old.path);
            let same = part.hashes.blake3 == old.hashes.blake3 && part.hashes.bytes == old.hashes.bytes;
            let Some(name) = old_path.file_name().filter(|_| same) else {
                continue;
            };
            let io = |error| StorageError::io("linking", self.disk.describe(&old_path), error);
            // A file that is gone or was changed since is no part to take on.
            match self.disk.stat(&old_path).map_err(io)? {
                Some(stat) if !stat.is_dir && stat.bytes == part.hashes.bytes => {}
                _ => continue,
            }
            if super::survey::hash_file(self.disk, &old_path)? != part.hashes.blake3 {
                continue;
            }
            let path = dir.join(name);
            self.disk.remove_file(&streams_dir.join(&part.path)).map_err(io)?;
            self.disk
                .hard_link(&old_path, &streams_dir.join(&path))
                .map_err(io)?;
            part.path = path;
            linked = true;
        }
        if linked {
            let full = streams_dir.join(&dir);
            let io = |error| StorageError::io("syncing", self.disk.describe(&full), error);
            self.disk.sync_dir(&full).map_err(io)?;
        }
        Ok(())
    }

    /// The map of the generation before gets a name of its own, so that what was computed with it can be told from what
    /// comes. All that are kept, and the file that is to be put in place. One that can't be read, or whose bytes have
    /// changed, is no record, and no reason not to publish.
    fn keep_map(&self, session_dir: &Path, aside: &Aside) -> (Vec<TableFact>, Option<String>) {
        let Some(before) = self.before else {
            return (Vec::new(), None);
        };
        let holds = |path: &str, fact: &TableFact| {
            let hash = super::survey::hash_file(self.disk, &session_dir.join(path));
            let holds = hash.is_ok_and(|hash| hash == fact.hashes.blake3);
            if !holds {
                tracing::warn!(session = %self.session.id, path, "an earlier clock map is damaged and not kept");
            }
            holds
        };
        let mut maps = before.earlier_maps.clone();
        maps.retain(|fact| holds(&fact.path, fact));
        let newest = before.table(CLOCK_MAP);
        let Some(newest) = newest.filter(|fact| holds(CLOCK_MAP, fact)) else {
            return (maps, None);
        };
        let name = earlier_map(before.generation);
        let linked = self
            .disk
            .hard_link(&session_dir.join(CLOCK_MAP), &aside.file(&name));
        if let Err(error) = linked {
            tracing::warn!(session = %self.session.id, %error, "the clock map before can't be kept");
            return (maps, None);
        }
        maps.push(TableFact {
            path: name.clone(),
            ..newest.clone()
        });
        (maps, Some(name))
    }

    fn manifest(
        &self,
        streams: &[(&DeviceSurvey, &Arc<StreamPlan>)],
        written: &[WrittenStream],
        tables: Vec<TableFact>,
    ) -> Manifest {
        let fact =
            |((survey, plan), written): (&(&DeviceSurvey, &Arc<StreamPlan>), &WrittenStream)| StreamFact {
                stream: plan.key.to_string(),
                device: survey.device.clone(),
                rows: written.rows,
                parts: written
                    .parts
                    .iter()
                    .map(|part| PartFact {
                        path: Path::new("streams")
                            .join(&part.path)
                            .to_string_lossy()
                            .into_owned(),
                        rows: part.rows,
                        first_time: part.first_time.clone(),
                        last_time: part.last_time.clone(),
                        hashes: (&part.hashes).into(),
                    })
                    .collect(),
            };
        let streams: Vec<StreamFact> = streams.iter().zip(written).map(fact).collect();
        Manifest {
            v: version::SESSION,
            marey: env!("CARGO_PKG_VERSION").to_owned(),
            alignment: ALIGNMENT_VERSION,
            session: self.session.id.clone(),
            generation: self.generation,
            open: how_to_open(&streams),
            anchor: *self.anchor,
            hub_epochs: self.hub_epochs(),
            streams,
            tables,
            earlier_maps: Vec::new(),
            annotations: self.said.fact.clone(),
            logs: self.surveys.iter().map(LogFact::of).collect(),
        }
    }

    fn hub_epochs(&self) -> Vec<HubEpochFact> {
        let fact = |known: &crate::clock::HubEpoch| HubEpochFact {
            hub_epoch: HubEpoch(known.hub_epoch),
            offset_ns: known.offset_ns,
            half_width_ns: known.half_width_ns.is_finite().then_some(known.half_width_ns),
            tied_by: match known.tied_by {
                TiedBy::Anchor => "anchor".to_owned(),
                TiedBy::Devices(clocks) => format!("{clocks} device clocks"),
                TiedBy::Wall => "wall clock".to_owned(),
                TiedBy::Nothing => "nothing".to_owned(),
            },
            hard: known.hard,
        };
        self.timeline.alignment().hub_epochs().iter().map(fact).collect()
    }

    /// Writes a small file, durably but for its name.
    fn put(&self, path: &Path, bytes: &[u8]) -> Result<Hashes, CompactError> {
        let io = |error| StorageError::io("writing", self.disk.describe(path), error);
        let file = self.disk.open(path, OpenMode::CreateNew).map_err(io)?;
        file.write_at(0, bytes).map_err(io)?;
        file.sync().map_err(io)?;
        Ok(Hashes::of(bytes))
    }
}

/// For those who open the folder and wonder.
fn how_to_open(streams: &[StreamFact]) -> Vec<String> {
    let Some((stream, part)) = streams.iter().find_map(|s| Some((s, s.parts.first()?))) else {
        return Vec::new();
    };
    vec![
        format!("pd.read_parquet('{}')", part.path),
        format!("pd.read_parquet('streams/stream={}').sort_index()", stream.stream),
    ]
}
