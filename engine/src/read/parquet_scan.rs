//! Rows of a stream's parts, one part after the other: they do not overlap.

use super::ReadError;
use crate::compact::FileChunks;
use crate::disk::Disk;
use crate::error::StorageError;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use std::path::{Path, PathBuf};

/// The parts of one stream of one device.
#[derive(Debug)]
pub struct ParquetScan<'d> {
    disk: &'d dyn Disk,
    parts: Vec<PathBuf>,
}

impl<'d> ParquetScan<'d> {
    pub fn new(disk: &'d dyn Disk, parts: Vec<PathBuf>) -> Self {
        Self { disk, parts }
    }

    /// The schema of the first part; none if there is none.
    pub fn schema(&self) -> Result<Option<SchemaRef>, ReadError> {
        match self.parts.first() {
            Some(path) => Ok(Some(open(self.disk, path)?.schema().clone())),
            None => Ok(None),
        }
    }

    /// Its batches, of these columns, all of them under one schema.
    pub fn with_columns(
        self,
        schema: SchemaRef,
        columns: Vec<usize>,
    ) -> impl Iterator<Item = Result<RecordBatch, ReadError>> + 'd {
        let parts = self.parts.into_iter();
        Batches {
            disk: self.disk,
            parts,
            current: None,
            schema,
            columns,
        }
    }
}

struct Batches<'d> {
    disk: &'d dyn Disk,
    parts: std::vec::IntoIter<PathBuf>,
    current: Option<(PathBuf, ParquetRecordBatchReader)>,
    schema: SchemaRef,
    columns: Vec<usize>,
}

impl Batches<'_> {
    fn batch(&mut self) -> Result<Option<RecordBatch>, ReadError> {
        loop {
            if let Some((path, reader)) = &mut self.current {
                let broken = |what: String| ReadError::Parquet {
                    path: self.disk.describe(path),
                    what,
                };
                match reader.next() {
                    Some(batch) => {
                        let batch = batch.map_err(|error| broken(error.to_string()))?;
                        // The same columns; a file's schema may carry other metadata, of another device.
                        let columns = batch.columns().to_vec();
                        let batch = RecordBatch::try_new(self.schema.clone(), columns);
                        return batch.map(Some).map_err(|error| broken(error.to_string()));
                    }
                    None => self.current = None,
                }
            }
            let Some(path) = self.parts.next() else {
                return Ok(None);
            };
            let builder = open(self.disk, &path)?.with_batch_size(super::BATCH_ROWS);
            let broken = |what: String| ReadError::Parquet {
                path: self.disk.describe(&path),
                what,
            };
            let mask = ProjectionMask::roots(builder.parquet_schema(), self.columns.iter().copied());
            let reader = builder
                .with_projection(mask)
                .build()
                .map_err(|error| broken(error.to_string()))?;
            self.current = Some((path, reader));
        }
    }
}

impl Iterator for Batches<'_> {
    type Item = Result<RecordBatch, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.batch().transpose()
    }
}

fn open(disk: &dyn Disk, path: &Path) -> Result<ParquetRecordBatchReaderBuilder<FileChunks>, ReadError> {
    let chunks = FileChunks::open(disk, path)
        .map_err(|error| StorageError::io("reading", disk.describe(path), error))?;
    ParquetRecordBatchReaderBuilder::try_new(chunks).map_err(|error| ReadError::Parquet {
        path: disk.describe(path),
        what: error.to_string(),
    })
}
