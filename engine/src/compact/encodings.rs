//! How columns are encoded: integers and times by their differences, floats split by byte, unless a dictionary is
//! smaller on a sample of the column.
//!
//! Which of the two is smaller goes either way by a factor of two: values that a converter quantised repeat. The
//! sample is part of the data, so that the same data always gives the same choice.

use super::encode::{Chunk, FileWriter, Scratch, is_mostly_distinct, takes};
use super::metadata::{ELEMENT, key_values};
use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use parquet::arrow::{ArrowSchemaConverter, ArrowWriter};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::SortingColumn;
use parquet::file::properties::{
    EnabledStatistics, WriterProperties, WriterPropertiesBuilder, WriterVersion,
};
use parquet::schema::types::ColumnPath;
use std::io::Write;
use std::sync::Arc;

/// Names the writer in every file: fixed, as the manifest has the version.
const CREATED_BY: &str = "marey";

/// More costs more time than it saves bytes.
const ZSTD_LEVEL: i32 = 1;

/// Rows of a column that its encoding is chosen on; and the few that tell noise.
const SAMPLE_ROWS: usize = 32 << 10;
const FEW_ROWS: usize = 4 << 10;

/// Longest statistic, in bytes.
const STATISTICS_BYTES: usize = 64;

/// How each column of a schema is encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encodings {
    /// For each column, whether a float has a dictionary.
    dictionary: Vec<bool>,
}

impl Encodings {
    /// Measures the float columns of a sample both ways. `sample` gives so many rows, or what there is; more are asked for
    /// only where a few leave it open.
    pub fn choose<E>(
        schema: &SchemaRef,
        mut sample: impl FnMut(usize) -> Result<RecordBatch, E>,
        failed: impl Fn(ParquetError) -> E,
    ) -> Result<Self, E> {
        let is_open = |field: &Field| match leaf(field) {
            // Two significant digits repeat whatever the data.
            _ if field.name() == "time_err_us" => false,
            DataType::Float32 | DataType::Float64 => true,
            _ => false,
        };
        let fields = schema.fields();
        let mut dictionary: Vec<bool> = fields.iter().map(|field| field.name() == "time_err_us").collect();
        let mut open: Vec<usize> = (0..fields.len()).filter(|&at| is_open(&fields[at])).collect();
        if !open.is_empty() {
            let few = sample(FEW_ROWS)?;
            open.retain(|&at| !is_mostly_distinct(few.column(at)));
        }
        if !open.is_empty() {
            let (rows, mut scratch) = (sample(SAMPLE_ROWS)?, scratch().map_err(&failed)?);
            for at in open {
                let mut bytes = |dictionary| measure(&fields[at], rows.column(at), dictionary, &mut scratch);
                dictionary[at] = bytes(true).map_err(&failed)? < bytes(false).map_err(&failed)?;
            }
        }
        Ok(Self { dictionary })
    }

    /// A writer of files of `schema`.
    pub fn writer<W: Write + Send>(
        &self,
        to: W,
        schema: &SchemaRef,
        scratch: Scratch,
    ) -> Result<FileWriter<W>, ParquetError> {
        FileWriter::new(to, schema, self.properties(schema), &self.dictionary, scratch)
    }

    fn properties(&self, schema: &Schema) -> WriterProperties {
        let mut builder = base().set_key_value_metadata(Some(key_values(schema)));
        for (field, &dictionary) in schema.fields().iter().zip(&self.dictionary) {
            builder = column(builder, field, dictionary);
        }
        // Rows are sorted by time, epoch, seq.
        if schema.fields().len() > 4 && schema.field(4).name() == "seq" {
            let ascending = |column_idx| SortingColumn {
                column_idx,
                descending: false,
                nulls_first: false,
            };
            builder = builder.set_sorting_columns(Some(vec![ascending(0), ascending(2), ascending(4)]));
        }
        builder.build()
    }
}

/// Buffers and compressor for files of any schema.
pub fn scratch() -> Result<Scratch, ParquetError> {
    Scratch::new(compression(), ZSTD_LEVEL)
}

fn compression() -> Compression {
    Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL).expect("zstd has such a level"))
}

fn base() -> WriterPropertiesBuilder {
    WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_created_by(CREATED_BY.to_owned())
        .set_compression(compression())
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_statistics_truncate_length(Some(STATISTICS_BYTES))
        .set_column_index_truncate_length(Some(STATISTICS_BYTES))
        // Row groups are cut by the caller, from positions alone.
        .set_max_row_group_row_count(None)
        .set_max_row_group_bytes(None)
}

fn column(builder: WriterPropertiesBuilder, field: &Field, dictionary: bool) -> WriterPropertiesBuilder {
    let path = path(field);
    match leaf(field) {
        DataType::Float32 | DataType::Float64 => builder
            .set_column_dictionary_enabled(path.clone(), dictionary)
            // Also what a dictionary that outgrows its page goes on with.
            .set_column_encoding(path, Encoding::BYTE_STREAM_SPLIT),
        DataType::Boolean => builder.set_column_dictionary_enabled(path, false),
        DataType::Utf8 | DataType::Binary => builder.set_column_dictionary_enabled(path, true),
        _ => builder
            .set_column_dictionary_enabled(path.clone(), false)
            .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED),
    }
}

/// The type of a column's values, in a list or not.
fn leaf(field: &Field) -> &DataType {
    match field.data_type() {
        DataType::FixedSizeList(element, _) => element.data_type(),
        kind => kind,
    }
}

fn path(field: &Field) -> ColumnPath {
    let name = field.name().clone();
    match field.data_type() {
        DataType::FixedSizeList(..) => ColumnPath::new(vec![name, "list".to_owned(), ELEMENT.to_owned()]),
        _ => ColumnPath::new(vec![name]),
    }
}

/// Bytes that a column takes.
fn measure(
    field: &Field,
    values: &ArrayRef,
    dictionary: bool,
    scratch: &mut Scratch,
) -> Result<usize, ParquetError> {
    let schema = Arc::new(Schema::new(vec![field.clone()]));
    if takes(field.data_type()) {
        let descriptor = ArrowSchemaConverter::new().convert(&schema)?.column(0);
        let mut chunk = Chunk::new(descriptor, dictionary);
        chunk.write(values, scratch)?;
        return chunk.measure(scratch);
    }
    let properties = column(base(), field, dictionary).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), schema.clone(), Some(properties))?;
    writer.write(&RecordBatch::try_new(schema, vec![values.clone()])?)?;
    let metadata = writer.finish()?;
    let groups = metadata.row_groups().iter();
    Ok(groups.map(|group| group.compressed_size() as usize).sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::Float32Array;

    fn choice(values: Vec<f32>) -> bool {
        let schema = Arc::new(Schema::new(vec![Field::new("x", DataType::Float32, false)]));
        let column: ArrayRef = Arc::new(Float32Array::from(values));
        let batch = RecordBatch::try_new(schema.clone(), vec![column]).unwrap();
        let sample = |rows: usize| Ok(batch.slice(0, rows.min(batch.num_rows())));
        Encodings::choose(&schema, sample, |error| error)
            .unwrap()
            .dictionary[0]
    }

    #[test]
    fn quantised_values_get_a_dictionary_and_others_do_not() {
        let mut state = 7u32;
        let mut noise = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 8
        };
        assert!(choice((0..20_000).map(|_| (noise() % 50) as f32 * 0.1).collect()));
        assert!(!choice((0..20_000).map(|_| noise() as f32 * 1e-3).collect()));
    }
}
