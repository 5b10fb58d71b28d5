//! A generation in which only what people said is new: its streams are those of the one before, and are not written again.
//!
//! Whether that is so is decided by facts: the same frames, read by the same version, give the same clock map, and every part
//! still has the bytes that its manifest says. Where one of them does not hold, all is written anew. Either way gives the same
//! bytes.

use super::generation::Job;
use super::manifest::{Manifest, PartFact, TableFact};
use super::overview::OVERVIEW;
use super::parquet::{WrittenPart, WrittenStream};
use super::receipt::Receipt;
use super::survey::{DeviceSurvey, StreamPlan, hash_file};
use super::tables::{CLOCK_MAP, WrittenTable};
use super::{ALIGNMENT_VERSION, CompactError, read_receipt};
use crate::error::StorageError;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What the generation before has already.
pub struct TakenOver {
    pub streams: Vec<WrittenStream>,
    /// The overview, which stays where it stands.
    pub overview: WrittenTable,
}

impl Job<'_> {
    /// The streams of the generation before, under their names in `streams_dir` too; none where they are to be written.
    pub fn take_over(
        &self,
        session_dir: &Path,
        streams_dir: &Path,
        tables: &[WrittenTable],
    ) -> Result<Option<TakenOver>, CompactError> {
        let Some(before) = self
            .before
            .filter(|before| self.same_frames && self.is_alike(before, tables))
        else {
            return Ok(None);
        };
        let receipt = match read_receipt(self.disk, session_dir, before.generation) {
            Err(StorageError::Damaged { .. }) | Ok(None) => return Ok(None),
            read => read?,
        };
        let streams = self.streams().into_iter().map(|(survey, plan)| {
            let receipt = receipt.as_ref()?;
            stream_before(before, receipt, survey, plan)
        });
        let overview = before.table(OVERVIEW);
        let (Some(streams), Some(overview)) = (streams.collect::<Option<Vec<_>>>(), overview) else {
            return Ok(None);
        };
        if !self.is_whole(session_dir, before, overview) {
            return Ok(None);
        }
        self.link(session_dir, streams_dir, &streams)?;
        let overview = WrittenTable {
            name: OVERVIEW,
            rows: overview.rows,
            hashes: (&overview.hashes).into(),
        };
        Ok(Some(TakenOver { streams, overview }))
    }

    /// Whether the same frames would come out as they did then.
    fn is_alike(&self, before: &Manifest, tables: &[WrittenTable]) -> bool {
        let map_now = tables.iter().find(|table| table.name == CLOCK_MAP);
        let map_then = before.table(CLOCK_MAP);
        before.marey == env!("CARGO_PKG_VERSION")
            && before.alignment == ALIGNMENT_VERSION
            && before.anchor == *self.anchor
            && map_now
                .zip(map_then)
                .is_some_and(|(now, then)| now.fact() == *then)
    }

    /// Whether every file that would stay has the bytes that it was published with. One that can't be read has not.
    fn is_whole(&self, session_dir: &Path, before: &Manifest, overview: &TableFact) -> bool {
        let parts = before.streams.iter().flat_map(|stream| &stream.parts);
        let parts = parts.map(|part| (&part.path, &part.hashes));
        parts
            .chain([(&overview.path, &overview.hashes)])
            .all(|(path, hashes)| {
                let path = session_dir.join(path);
                let found = self.disk.stat(&path).ok().flatten();
                found.is_some_and(|stat| !stat.is_dir && stat.bytes == hashes.bytes)
                    && hash_file(self.disk, &path).is_ok_and(|found| found == hashes.blake3)
            })
    }

    /// Gives the parts their names in the folder that becomes `streams/`.
    fn link(
        &self,
        session_dir: &Path,
        streams_dir: &Path,
        streams: &[WrittenStream],
    ) -> Result<(), CompactError> {
        let mut dirs: BTreeSet<PathBuf> = BTreeSet::new();
        for part in streams.iter().flat_map(|stream| &stream.parts) {
            let path = streams_dir.join(&part.path);
            let io = |error| StorageError::io("linking", self.disk.describe(&path), error);
            if let Some(dir) = path.parent() {
                crate::disk::create_dirs(self.disk, dir).map_err(io)?;
            }
            let from = session_dir.join("streams").join(&part.path);
            self.disk.hard_link(&from, &path).map_err(io)?;
            dirs.extend(part.path.ancestors().skip(1).map(|dir| streams_dir.join(dir)));
        }
        for dir in dirs {
            let io = |error| StorageError::io("syncing", self.disk.describe(&dir), error);
            self.disk.sync_dir(&dir).map_err(io)?;
        }
        Ok(())
    }
}

/// What a stream came to then; none if what is told of it does not hold together.
fn stream_before(
    before: &Manifest,
    receipt: &Receipt,
    survey: &DeviceSurvey,
    plan: &StreamPlan,
) -> Option<WrittenStream> {
    let name = plan.key.to_string();
    let told = receipt
        .streams
        .iter()
        .find(|stream| stream.stream == name && stream.device == survey.device)?;
    let parts = before.parts(&plan.key, &survey.device);
    let rows: u64 = parts.iter().map(|part| part.rows).sum();
    let samples: u64 = plan.frames.iter().map(|frame| u64::from(frame.count)).sum();
    if (rows, rows) != (samples, told.parquet) {
        return None;
    }
    let part = |fact: &PartFact| {
        Some(WrittenPart {
            path: Path::new(&fact.path).strip_prefix("streams").ok()?.to_owned(),
            hashes: (&fact.hashes).into(),
            rows: fact.rows,
            first_time: fact.first_time.clone(),
            last_time: fact.last_time.clone(),
        })
    };
    Some(WrittenStream {
        parts: parts.iter().map(part).collect::<Option<_>>()?,
        rows,
        after_stop: told.after_stop,
        err_us_max: told.time_err_us_max.unwrap_or(f32::INFINITY),
        ..WrittenStream::default()
    })
}
