//! Rows of a stream's parts, one part after the other: they do not overlap.

use super::{BATCH_BYTES, BATCH_ROWS, ReadError, Span};
use crate::compact::FileChunks;
use crate::disk::Disk;
use crate::error::StorageError;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::basic::Type;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData, RowGroupMetaData};
use parquet::file::statistics::Statistics;
use std::path::{Path, PathBuf};

/// Columns that every stream has.
pub const TIME: usize = 0;
pub const ERROR: usize = 3;

/// The parts of one stream of one device.
#[derive(Debug)]
pub struct ParquetScan<'d> {
    disk: &'d dyn Disk,
    parts: Vec<PathBuf>,
    span: Span,
}

impl<'d> ParquetScan<'d> {
    pub fn new(disk: &'d dyn Disk, parts: Vec<PathBuf>) -> Self {
        Self {
            disk,
            parts,
            span: Span::ALL,
        }
    }

    /// Of row groups only those that may hold a row of the span.
    pub fn within(self, span: Span) -> Self {
        Self { span, ..self }
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
            span: self.span,
        }
    }
}

struct Batches<'d> {
    disk: &'d dyn Disk,
    parts: std::vec::IntoIter<PathBuf>,
    current: Option<(PathBuf, ParquetRecordBatchReader)>,
    schema: SchemaRef,
    columns: Vec<usize>,
    span: Span,
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
            let builder = open(self.disk, &path)?;
            let groups = groups(builder.metadata(), self.span);
            let rows = batch_rows(builder.metadata(), &self.columns);
            let broken = |what: String| ReadError::Parquet {
                path: self.disk.describe(&path),
                what,
            };
            let mask = ProjectionMask::roots(builder.parquet_schema(), self.columns.iter().copied());
            let reader = builder
                .with_projection(mask)
                .with_row_groups(groups)
                .with_batch_size(rows)
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

/// First and last time of a stream's parts, and the widest bound, by what stands at the ends of the files.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Ends {
    /// None where there is no sample.
    pub times_us: Option<(i64, i64)>,
    pub err_us: Option<f32>,
}

impl Ends {
    pub fn of(disk: &dyn Disk, parts: &[PathBuf]) -> Result<Self, ReadError> {
        let mut ends = Self::default();
        for path in parts {
            for group in open(disk, path)?.metadata().row_groups() {
                ends.add(group).ok_or_else(|| ReadError::Parquet {
                    path: disk.describe(path),
                    what: "a row group says nothing of its times and bounds".to_owned(),
                })?;
            }
        }
        Ok(ends)
    }

    fn add(&mut self, group: &RowGroupMetaData) -> Option<()> {
        let of = |column: usize| group.columns().get(column)?.statistics();
        let (Statistics::Int64(times), Statistics::Float(errors)) = (of(TIME)?, of(ERROR)?) else {
            return None;
        };
        let (first, last) = (*times.min_opt()?, *times.max_opt()?);
        let (from, until) = self.times_us.unwrap_or((first, last));
        self.times_us = Some((from.min(first), until.max(last)));
        self.err_us = self
            .err_us
            .into_iter()
            .chain([*errors.max_opt()?])
            .reduce(f32::max);
        Some(())
    }
}

/// The row groups that may hold a row of a span: rows are in order of time, which is the first column.
fn groups(metadata: &ParquetMetaData, span: Span) -> Vec<usize> {
    let may_hold = |group: &RowGroupMetaData| {
        let times = group.columns().first().and_then(|time| time.statistics());
        let Some(Statistics::Int64(times)) = times else {
            return true;
        };
        let is_before = times.max_opt().is_some_and(|last| *last < span.from_us);
        let is_behind = times.min_opt().is_some_and(|first| *first >= span.until_us);
        !is_before && !is_behind
    };
    let groups = metadata.row_groups().iter().enumerate();
    let held = groups.filter(|(_, group)| span == Span::ALL || may_hold(group));
    held.map(|(at, _)| at).collect()
}

/// Rows of a batch: a row may be a whole picture.
fn batch_rows(metadata: &ParquetMetaData, columns: &[usize]) -> usize {
    let schema = metadata.file_metadata().schema_descr();
    let row_bytes = |group: &RowGroupMetaData| {
        let wanted = group.columns().iter().enumerate();
        let wanted = wanted.filter(|(leaf, _)| columns.contains(&schema.get_column_root_idx(*leaf)));
        let bytes: u64 = wanted.map(|(_, column)| decoded_bytes(column)).sum();
        bytes / group.num_rows().max(1).cast_unsigned()
    };
    let widest = metadata.row_groups().iter().map(row_bytes).max();
    let rows = BATCH_BYTES as u64 / widest.unwrap_or(0).max(1);
    rows.clamp(1, BATCH_ROWS as u64) as usize
}

/// What a column of a row group comes to in memory, about.
fn decoded_bytes(column: &ColumnChunkMetaData) -> u64 {
    let width = match column.column_type() {
        Type::BOOLEAN => 1,
        Type::INT32 | Type::FLOAT => 4,
        Type::INT64 | Type::DOUBLE => 8,
        _ => {
            let told = column.unencoded_byte_array_data_bytes().unwrap_or(0);
            return told.max(column.uncompressed_size()).max(0).cast_unsigned();
        }
    };
    column.num_values().max(0).cast_unsigned() * width
}

pub(super) fn open(
    disk: &dyn Disk,
    path: &Path,
) -> Result<ParquetRecordBatchReaderBuilder<FileChunks>, ReadError> {
    let chunks = FileChunks::open(disk, path)
        .map_err(|error| StorageError::io("reading", disk.describe(path), error))?;
    ParquetRecordBatchReaderBuilder::try_new(chunks).map_err(|error| ReadError::Parquet {
        path: disk.describe(path),
        what: error.to_string(),
    })
}
