//! Several streams of rows, each in order of (time, epoch, seq), as one.

use super::ReadError;
use arrow::array::{AsArray, RecordBatch};
use arrow::compute::interleave_record_batch;
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use std::collections::VecDeque;

type Batches<'a> = Box<dyn Iterator<Item = Result<RecordBatch, ReadError>> + 'a>;

/// The rows of all sources in order; of equal rows, those of the earlier source first.
pub struct Merge<'a> {
    sources: Vec<Source<'a>>,
    most_rows: usize,
}

struct Source<'a> {
    batches: Batches<'a>,
    /// The batch that is being read, and which of its rows is next.
    current: Option<(RecordBatch, usize)>,
    /// Batches that rows were taken from since the last output, the current one aside.
    spent: VecDeque<RecordBatch>,
    ended: bool,
}

type Key = (i64, i32, i64);

impl<'a> Merge<'a> {
    /// Batches of at most `most_rows` rows.
    pub fn new(sources: Vec<Batches<'a>>, most_rows: usize) -> Self {
        let source = |batches| Source {
            batches,
            current: None,
            spent: VecDeque::new(),
            ended: false,
        };
        Self {
            sources: sources.into_iter().map(source).collect(),
            most_rows,
        }
    }

    fn batch(&mut self) -> Result<Option<RecordBatch>, ReadError> {
        // Which source, how many batches of it were finished before, and which row.
        let mut taken: Vec<(usize, usize, usize)> = Vec::new();
        while taken.len() < self.most_rows {
            for source in &mut self.sources {
                source.fill()?;
            }
            let head = |source: &Source<'_>| source.current.as_ref().map(|(batch, row)| key(batch, *row));
            let heads: Vec<Option<Key>> = self.sources.iter().map(head).collect();
            let least = (0..heads.len())
                .filter(|&at| heads[at].is_some())
                .min_by_key(|&at| (heads[at], at));
            let Some(least) = least else { break };
            let others = (0..heads.len()).filter(|&at| at != least && heads[at].is_some());
            let limit = others.map(|at| (heads[at], at)).min();
            let source = &mut self.sources[least];
            let Some((batch, row)) = &mut source.current else {
                break;
            };
            // The rows of this source that come before all others: one at least.
            let room = self.most_rows - taken.len();
            let until = match limit {
                None => batch.num_rows(),
                Some(limit) => first_not_before(batch, *row, least, limit),
            };
            let until = until.max(*row + 1).min(*row + room);
            taken.extend((*row..until).map(|row| (least, source.spent.len(), row)));
            *row = until;
        }
        self.put_together(&taken)
    }

    fn put_together(&mut self, taken: &[(usize, usize, usize)]) -> Result<Option<RecordBatch>, ReadError> {
        if taken.is_empty() {
            return Ok(None);
        }
        let mut batches: Vec<&RecordBatch> = Vec::new();
        let mut starts = Vec::with_capacity(self.sources.len());
        for source in &self.sources {
            starts.push(batches.len());
            batches.extend(&source.spent);
            batches.extend(source.current.iter().map(|(batch, _)| batch));
        }
        let rows: Vec<(usize, usize)> = taken
            .iter()
            .map(|&(source, spent, row)| (starts[source] + spent, row))
            .collect();
        let merged = interleave_record_batch(&batches, &rows).map_err(|error| ReadError::Rows {
            what: error.to_string(),
        })?;
        self.sources.iter_mut().for_each(|source| source.spent.clear());
        Ok(Some(merged))
    }
}

impl Source<'_> {
    /// Makes sure of a current row, as long as there is one.
    fn fill(&mut self) -> Result<(), ReadError> {
        while !self.ended
            && self
                .current
                .as_ref()
                .is_none_or(|(batch, row)| *row == batch.num_rows())
        {
            match self.batches.next().transpose()? {
                Some(batch) => {
                    let before = self.current.replace((batch, 0));
                    self.spent.extend(before.map(|(batch, _)| batch));
                }
                None => {
                    self.ended = true;
                    let before = self.current.take();
                    self.spent.extend(before.map(|(batch, _)| batch));
                }
            }
        }
        Ok(())
    }
}

impl Iterator for Merge<'_> {
    type Item = Result<RecordBatch, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.batch().transpose()
    }
}

fn key(batch: &RecordBatch, row: usize) -> Key {
    (
        batch
            .column(0)
            .as_primitive::<TimestampMicrosecondType>()
            .value(row),
        batch.column(2).as_primitive::<Int32Type>().value(row),
        batch.column(4).as_primitive::<Int64Type>().value(row),
    )
}

/// The first row from `from` on that does not come before the row of another source.
fn first_not_before(batch: &RecordBatch, from: usize, source: usize, limit: (Option<Key>, usize)) -> usize {
    let (mut low, mut high) = (from, batch.num_rows());
    while low < high {
        let middle = low.midpoint(high);
        if (Some(key(batch, middle)), source) < limit {
            low = middle + 1
        } else {
            high = middle
        }
    }
    low
}
