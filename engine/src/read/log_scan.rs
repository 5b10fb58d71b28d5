//! Rows of a log, in order, as record batches of the Parquet files' schema.

use super::plan::Later;
use super::{BATCH_BYTES, BATCH_ROWS, ReadError};
use crate::compact::{
    BatchBuilder, DeviceSurvey, FrameEntry, FrameSource, RowMerge, Timeline, stream_schema,
};
use crate::disk::Disk;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use marey_format::SessionId;
use marey_format::payload::StreamKey;
use std::sync::Arc;

/// The rows of frames that no part holds.
#[derive(Debug)]
pub struct LogScan<'d> {
    merge: RowMerge<'d>,
    builder: BatchBuilder,
    schema: SchemaRef,
}

impl<'d> LogScan<'d> {
    pub fn new(disk: &'d dyn Disk, session: &SessionId, later: Later) -> Result<Self, ReadError> {
        let (of, timeline) = ((&later.survey, &later.key), later.timeline.clone());
        Self::of(disk, session, of, &|frame| later.lacks(frame), timeline)
    }

    /// The rows of those frames of a stream that are wanted.
    pub fn of(
        disk: &'d dyn Disk,
        session: &SessionId,
        (survey, key): (&DeviceSurvey, &StreamKey),
        is_wanted: &dyn Fn(&FrameEntry) -> bool,
        timeline: Arc<Timeline>,
    ) -> Result<Self, ReadError> {
        let plan = survey.streams[key].clone();
        let schema = stream_schema(&plan.declaration);
        let builder = BatchBuilder::new(schema.clone(), &plan.declaration);
        let source = FrameSource::new(disk, session, &survey.device, &survey.epochs);
        let frames = plan.frames.iter().filter(|frame| is_wanted(frame)).copied();
        let frames = frames.collect();
        let merge = RowMerge::of_frames(source, plan, frames, survey.device.clone(), timeline)?;
        Ok(Self {
            merge,
            builder,
            schema,
        })
    }

    pub fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn batch(&mut self) -> Result<Option<RecordBatch>, ReadError> {
        while self.builder.rows() < BATCH_ROWS && self.builder.bytes() < BATCH_BYTES {
            let most = (BATCH_ROWS - self.builder.rows()).min(self.builder.room(BATCH_BYTES));
            match self.merge.next(most)? {
                Some((rows, range)) => self.builder.append(rows, range),
                None => break,
            }
        }
        if self.builder.rows() == 0 {
            return Ok(None);
        }
        self.builder.finish().map(Some).map_err(|error| ReadError::Rows {
            what: error.to_string(),
        })
    }
}

impl Iterator for LogScan<'_> {
    type Item = Result<RecordBatch, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.batch().transpose()
    }
}
