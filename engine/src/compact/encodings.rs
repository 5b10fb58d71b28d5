//! How columns are encoded: integers and times by their differences, floats split by byte, unless a dictionary is
//! smaller on a sample of the column.
//!
//! Which of the two is smaller goes either way by a factor of two: values that a converter quantised repeat. The
//! sample is part of the data, so that the same data always gives the same choice.

use super::metadata::{ELEMENT, key_values};
use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::SortingColumn;
use parquet::file::properties::{
    EnabledStatistics, WriterProperties, WriterPropertiesBuilder, WriterVersion,
};
use parquet::schema::types::ColumnPath;
use std::sync::Arc;

/// Names the writer in every file: fixed, as the manifest has the version.
const CREATED_BY: &str = "marey";

/// Longest statistic, in bytes.
const STATISTICS_BYTES: usize = 64;

/// How each column of a schema is encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encodings {
    /// For each column, whether a float has a dictionary.
    dictionary: Vec<bool>,
}

impl Encodings {
    /// Measures the float columns of a sample both ways.
    pub fn choose(schema: &SchemaRef, sample: &[RecordBatch]) -> Result<Self, ParquetError> {
        let mut dictionary = Vec::with_capacity(schema.fields().len());
        for (at, field) in schema.fields().iter().enumerate() {
            let smaller = match leaf(field) {
                // Two significant digits repeat whatever the data.
                _ if field.name() == "time_err_us" => true,
                DataType::Float32 | DataType::Float64 => {
                    measure(field, at, sample, true)? < measure(field, at, sample, false)?
                }
                _ => false,
            };
            dictionary.push(smaller);
        }
        Ok(Self { dictionary })
    }

    /// The writer's properties for files of `schema`.
    pub fn properties(&self, schema: &Schema) -> WriterProperties {
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

fn base() -> WriterPropertiesBuilder {
    let level = ZstdLevel::try_new(1).expect("zstd has a level 1");
    WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_created_by(CREATED_BY.to_owned())
        .set_compression(Compression::ZSTD(level))
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

/// Bytes that column `at` of the sample takes.
fn measure(field: &Field, at: usize, sample: &[RecordBatch], dictionary: bool) -> Result<i64, ParquetError> {
    let schema = Arc::new(Schema::new(vec![field.clone()]));
    let properties = column(base(), field, dictionary).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), schema.clone(), Some(properties))?;
    for batch in sample {
        writer.write(&RecordBatch::try_new(
            schema.clone(),
            vec![batch.column(at).clone()],
        )?)?;
    }
    let metadata = writer.finish()?;
    Ok(metadata
        .row_groups()
        .iter()
        .map(|group| group.compressed_size())
        .sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Float32Array};

    fn choice(values: Vec<f32>) -> bool {
        let schema = Arc::new(Schema::new(vec![Field::new("x", DataType::Float32, false)]));
        let column: ArrayRef = Arc::new(Float32Array::from(values));
        let batch = RecordBatch::try_new(schema.clone(), vec![column]).unwrap();
        Encodings::choose(&schema, &[batch]).unwrap().dictionary[0]
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
