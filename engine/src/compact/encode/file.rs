//! A Parquet file, written batch by batch: columns of numbers by [`Chunk`], all others by the library's writers.

use super::{Chunk, Scratch, takes};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::{ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use std::io::Write;

/// One column of the row group under way.
#[derive(Debug)]
enum Column {
    Own(Chunk),
    /// None between two row groups.
    Library(Option<Box<ArrowColumnWriter>>),
}

/// A file that is being written. Each column of the schema has one leaf.
pub struct FileWriter<W: Write + Send> {
    file: SerializedFileWriter<W>,
    factory: ArrowRowGroupWriterFactory,
    schema: SchemaRef,
    columns: Vec<Column>,
    scratch: Scratch,
    rows: usize,
    groups: usize,
}

impl<W: Write + Send> FileWriter<W> {
    /// A file of `schema`, written with `properties`. Of the floats those have a dictionary for which `dictionary` says so.
    pub fn new(
        to: W,
        schema: &SchemaRef,
        properties: WriterProperties,
        dictionary: &[bool],
        scratch: Scratch,
    ) -> Result<Self, ParquetError> {
        let writer = ArrowWriter::try_new(to, schema.clone(), Some(properties))?;
        let (file, factory) = writer.into_serialized_writer()?;
        let fields = schema.fields().iter().zip(dictionary).enumerate();
        let columns = fields
            .map(
                |(at, (field, &dictionary))| match takes(field.data_type()) && !field.is_nullable() {
                    true => Column::Own(Chunk::new(file.schema_descr().column(at), dictionary)),
                    false => Column::Library(None),
                },
            )
            .collect();
        Ok(Self {
            file,
            factory,
            schema: schema.clone(),
            columns,
            scratch,
            rows: 0,
            groups: 0,
        })
    }

    /// Adds rows to the row group under way.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), ParquetError> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let is_closed = |column: &Column| matches!(column, Column::Library(None));
        if self.columns.iter().any(is_closed) {
            let writers = self.factory.create_column_writers(self.groups)?;
            for (column, writer) in self.columns.iter_mut().zip(writers) {
                if let Column::Library(closed) = column {
                    *closed = Some(Box::new(writer));
                }
            }
        }
        let fields = self.schema.fields().iter().zip(batch.columns());
        for ((field, array), column) in fields.zip(&mut self.columns) {
            match column {
                Column::Own(chunk) => chunk.write(array, &mut self.scratch)?,
                Column::Library(writer) => {
                    for leaf in compute_leaves(field, array)? {
                        writer.as_mut().map_or(Ok(()), |writer| writer.write(&leaf))?;
                    }
                }
            }
        }
        self.rows += batch.num_rows();
        Ok(())
    }

    /// Ends the row group under way, if there is anything in it.
    pub fn end_group(&mut self) -> Result<(), ParquetError> {
        if self.rows == 0 {
            return Ok(());
        }
        let mut group = self.file.next_row_group()?;
        for column in &mut self.columns {
            match column {
                Column::Own(chunk) => chunk.append_to(&mut group, &mut self.scratch)?,
                Column::Library(writer) => {
                    if let Some(writer) = writer.take() {
                        writer.close()?.append_to_row_group(&mut group)?;
                    }
                }
            }
        }
        group.close()?;
        self.rows = 0;
        self.groups += 1;
        Ok(())
    }

    /// Ends the file; gives back what it was written to, and the buffers for the next one.
    pub fn finish(mut self) -> Result<(W, Scratch), ParquetError> {
        self.end_group()?;
        Ok((self.file.into_inner()?, self.scratch))
    }
}
