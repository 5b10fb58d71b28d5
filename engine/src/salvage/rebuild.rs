//! Making the Parquet of a session again from its logs, elsewhere, and comparing.
//!
//! The same version must give the same bytes. Another version must give the same rows; if its alignment is another
//! one too, the same rows but for their place in time.

use super::report::{Fault, FaultKind};
use super::source::Source;
use super::view::View;
use crate::annotation::{self, ANNOTATIONS};
use crate::compact::{
    ALIGNMENT_VERSION, CompactError, Compacted, FileChunks, Generation, HashFact, Manifest, StreamFact,
    compact_session,
};
use crate::disk::{self, Disk};
use crate::error::StorageError;
use crate::options::Options;
use crate::session::Session;
use ::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use ::parquet::errors::ParquetError;
use arrow::row::{RowConverter, SortField};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Rebuilt {
    /// Files that were compared.
    pub files: u64,
    pub faults: Vec<Fault>,
    pub notes: Vec<String>,
}

/// Makes the newest generation of a session again on `scratch` and compares.
pub(super) fn rebuild(
    source: &Source,
    scratch: &Arc<dyn Disk>,
    session: &Session,
    manifest: &Manifest,
    options: &Options,
) -> Result<Rebuilt, CompactError> {
    let dir = Session::dir(&session.id);
    let io = |error| StorageError::io("making", scratch.describe(&dir), error);
    disk::create_dirs(&**scratch, &dir).map_err(io)?;
    let logs = dir.join("logs");
    let real = source.view.real(&logs).unwrap_or_else(|| logs.clone());
    let view = View::new(source.base.clone(), logs, real)
        .with_scratch(scratch.clone())
        .counted_by(&source.progress());
    if let Some(fact) = &manifest.annotations {
        // What was said by then. Lines that are not there any more show as other events.
        let found = annotation::read_what_holds(&*source.view, &session.id)?;
        let length = usize::try_from(fact.hashes.bytes).unwrap_or(usize::MAX);
        let said = &found.bytes()[..found.bytes().len().min(length)];
        let path = dir.join(ANNOTATIONS);
        let io = |error| StorageError::io("writing", scratch.describe(&path), error);
        disk::replace(&**scratch, &path, said).map_err(io)?;
    }
    // Its parts get the names that they have there.
    let mut again = session.clone();
    again.generation = manifest.generation.saturating_sub(1);
    let made = compact_session(&view, &again, options, Generation::Always, &|_| {})?;
    let mut comparing = Comparing {
        source,
        made: &view,
        dir: &dir,
        rebuilt: Rebuilt::default(),
    };
    comparing.compare(manifest, &made)?;
    Ok(comparing.rebuilt)
}

struct Comparing<'a> {
    source: &'a Source,
    made: &'a View,
    dir: &'a Path,
    rebuilt: Rebuilt,
}

impl Comparing<'_> {
    fn compare(&mut self, manifest: &Manifest, made: &Compacted) -> Result<(), CompactError> {
        let frames = |manifest: &Manifest| -> u64 {
            manifest
                .logs
                .iter()
                .map(|log| log.data_frames + log.live_frames)
                .sum()
        };
        if frames(&made.manifest) > frames(manifest) {
            self.rebuilt.notes.push(format!(
                "{}: more came since generation {}; `marey compact {}`, then it can be made again and compared",
                manifest.session, manifest.generation, manifest.session
            ));
            return Ok(());
        }
        let same_alignment = manifest.alignment == ALIGNMENT_VERSION;
        let same_bytes = same_alignment && manifest.marey == env!("CARGO_PKG_VERSION");
        if !same_bytes {
            self.rebuilt.notes.push(format!(
                "{}: generation {} was made by Marey {} (alignment {}), so rows are compared, not bytes",
                manifest.session, manifest.generation, manifest.marey, manifest.alignment
            ));
        }
        for stream in &manifest.streams {
            let (name, device) = (&stream.stream, &stream.device);
            let again = made
                .manifest
                .streams
                .iter()
                .find(|s| (&s.stream, &s.device) == (name, device));
            match again {
                None => self.fault(&format!("streams/stream={name}"), "its log gives no such stream"),
                Some(again) if same_bytes => self.same_parts(stream, again),
                Some(again) => self.same_rows(stream, again, same_alignment)?,
            }
        }
        for again in &made.manifest.streams {
            let (name, device) = (&again.stream, &again.device);
            if !manifest
                .streams
                .iter()
                .any(|s| (&s.stream, &s.device) == (name, device))
            {
                self.fault(
                    "manifest.json",
                    &format!("the log of {device} gives {name} as well"),
                );
            }
        }
        if same_bytes {
            for table in &manifest.tables {
                let again = made.manifest.table(&table.path);
                self.same_file(&table.path, &table.hashes, again.map(|again| &again.hashes));
            }
        }
        Ok(())
    }

    fn same_parts(&mut self, stream: &StreamFact, again: &StreamFact) {
        for (at, part) in stream.parts.iter().enumerate() {
            self.same_file(
                &part.path,
                &part.hashes,
                again.parts.get(at).map(|again| &again.hashes),
            );
        }
        if again.parts.len() > stream.parts.len() {
            let cause = format!(
                "{} parts, its log gives {}",
                stream.parts.len(),
                again.parts.len()
            );
            self.fault(&format!("streams/stream={}", stream.stream), &cause);
        }
    }

    fn same_file(&mut self, path: &str, hashes: &HashFact, again: Option<&HashFact>) {
        self.rebuilt.files += 1;
        match again {
            Some(again) if again == hashes => {}
            Some(again) => {
                let cause = format!(
                    "made again it is another file: BLAKE3 {}, not {}",
                    again.blake3, hashes.blake3
                );
                self.fault(path, &cause);
            }
            None => self.fault(path, "its log gives no such file"),
        }
    }

    fn same_rows(
        &mut self,
        stream: &StreamFact,
        again: &StreamFact,
        timed: bool,
    ) -> Result<(), CompactError> {
        let Some(first) = stream.parts.first() else {
            return Ok(());
        };
        self.rebuilt.files += stream.parts.len() as u64;
        let paths = |stream: &StreamFact| -> Vec<PathBuf> {
            stream
                .parts
                .iter()
                .map(|part| self.dir.join(&part.path))
                .collect()
        };
        let there = digest(&*self.source.view, &paths(stream), timed);
        let made = digest(self.made, &paths(again), timed);
        match (there, made) {
            (Ok(there), Ok(made)) if there == made => {}
            (Ok(there), Ok(made)) => {
                let cause = format!(
                    "{} rows, its log gives {}, and they are not the same",
                    there.rows, made.rows
                );
                self.fault(&first.path, &cause);
            }
            (Err(error), _) | (_, Err(error)) => self.fault(&first.path, &error.to_string()),
        }
        Ok(())
    }

    fn fault(&mut self, path: &str, cause: &str) {
        let file = self.source.view.describe(&self.dir.join(path));
        self.rebuilt
            .faults
            .push(Fault::of_file(FaultKind::Rebuild, file, cause));
    }
}

/// The rows of some files as a set, whatever their order: their number, and the sum of their hashes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Digest {
    rows: u64,
    sum: u128,
}

/// Without the columns `time` and `time_err_us`, if not `timed`.
fn digest(disk: &dyn Disk, paths: &[PathBuf], timed: bool) -> Result<Digest, ParquetError> {
    let mut digest = Digest::default();
    for path in paths {
        let chunks = FileChunks::open(disk, path).map_err(|error| ParquetError::External(error.into()))?;
        for batch in ParquetRecordBatchReaderBuilder::try_new(chunks)?.build()? {
            let batch = batch?;
            let kept = (0..batch.num_columns()).filter(|&at| {
                timed || !["time", "time_err_us"].contains(&batch.schema().field(at).name().as_str())
            });
            let batch = batch.project(&kept.collect::<Vec<_>>())?;
            let fields = batch
                .schema()
                .fields()
                .iter()
                .map(|f| SortField::new(f.data_type().clone()))
                .collect();
            let rows = RowConverter::new(fields)?.convert_columns(batch.columns())?;
            for row in &rows {
                let hash = blake3::hash(row.as_ref());
                let half: [u8; 16] = hash.as_bytes()[..16].try_into().expect("a hash has 32 bytes");
                digest.rows += 1;
                digest.sum = digest.sum.wrapping_add(u128::from_le_bytes(half));
            }
        }
    }
    Ok(digest)
}
