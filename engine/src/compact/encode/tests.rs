//! What is written here, the library reads: the same values, and statistics as its own writer makes them.

use super::*;
use arrow::array::{
    ArrayRef, Float32Array, Float64Array, Int8Array, Int16Array, Int32Array, Int64Array, RecordBatch,
    TimestampMicrosecondArray, UInt8Array, UInt16Array, UInt32Array, UInt64Array,
};
use arrow::datatypes::{Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::ZstdLevel;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use proptest::prelude::*;
use std::sync::Arc;

fn properties(rows: usize) -> WriterProperties {
    WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_data_page_row_count_limit(rows)
        .set_write_batch_size(rows)
        .build()
}

fn schema(kind: &DataType) -> Arc<Schema> {
    Arc::new(Schema::new(vec![Field::new("x", kind.clone(), false)]))
}

/// A file of one column, a page for each array, two row groups.
fn written(pages: &[ArrayRef], dictionary: bool) -> Bytes {
    let kind = pages[0].data_type();
    let writer = ArrowWriter::try_new(Vec::new(), schema(kind), Some(properties(1 << 20))).unwrap();
    let (mut file, _) = writer.into_serialized_writer().unwrap();
    let mut scratch = Scratch::new(Compression::ZSTD(ZstdLevel::default()), 1).unwrap();
    let mut chunk = Chunk::new(file.schema_descr().column(0), dictionary);
    let mut bytes = Vec::new();
    for pages in pages.chunks(pages.len().div_ceil(2)) {
        for page in pages {
            chunk.write(page, &mut scratch).unwrap();
        }
        let mut group = file.next_row_group().unwrap();
        chunk.append_to(&mut group, &mut scratch).unwrap();
        group.close().unwrap();
    }
    file.finish().unwrap();
    bytes.append(file.inner_mut());
    bytes.into()
}

fn read(bytes: Bytes) -> (Vec<RecordBatch>, Arc<ParquetMetaData>) {
    let options = parquet::arrow::arrow_reader::ArrowReaderOptions::new()
        .with_page_index_policy(PageIndexPolicy::Required);
    let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(bytes, options).unwrap();
    let metadata = builder.metadata().clone();
    let batches = builder.with_batch_size(1000).build().unwrap();
    (batches.collect::<Result<_, _>>().unwrap(), metadata)
}

/// Bits of all values, so that NaN and either zero are told apart.
fn bits(arrays: impl IntoIterator<Item = ArrayRef>) -> Vec<u8> {
    let mut bits = Vec::new();
    for array in arrays {
        let data = array.to_data();
        let width = data.data_type().primitive_width().unwrap();
        let values = &data.buffers()[0].as_slice()[data.offset() * width..][..data.len() * width];
        bits.extend_from_slice(values);
    }
    bits
}

fn check(pages: &[ArrayRef], dictionary: bool) {
    let (batches, metadata) = read(written(pages, dictionary));
    let back = batches.iter().map(|batch| batch.column(0).clone());
    assert_eq!(bits(back), bits(pages.iter().cloned()), "values");

    // The library's own writer of the same pages.
    let kind = pages[0].data_type();
    let mut theirs =
        ArrowWriter::try_new(Vec::new(), schema(kind), Some(properties(pages[0].len()))).unwrap();
    for pages in pages.chunks(pages.len().div_ceil(2)) {
        for page in pages {
            theirs
                .write(&RecordBatch::try_new(schema(kind), vec![page.clone()]).unwrap())
                .unwrap();
        }
        theirs.flush().unwrap();
    }
    let (_, expected) = read(theirs.into_inner().unwrap().into());
    assert_eq!(metadata.num_row_groups(), expected.num_row_groups());
    for (ours, theirs) in metadata.row_groups().iter().zip(expected.row_groups()) {
        assert_eq!(ours.num_rows(), theirs.num_rows());
        let (ours, theirs) = (ours.column(0), theirs.column(0));
        assert_eq!(
            format!("{:?}", ours.statistics()),
            format!("{:?}", theirs.statistics())
        );
    }
    for group in 0..metadata.num_row_groups() {
        let index = |of: &ParquetMetaData| {
            let index = of.page_index_for_row_group(group);
            format!("{:?}", index.column_index(0).expect("pages are indexed"))
        };
        assert_eq!(index(&metadata), index(&expected));
    }
}

/// Pages of equal length but for the last, as a batch builder makes them.
fn pages_of(array: ArrayRef, rows: usize) -> Vec<ArrayRef> {
    (0..array.len())
        .step_by(rows)
        .map(|from| array.slice(from, rows.min(array.len() - from)))
        .collect()
}

#[test]
fn every_type_comes_back() {
    let n = 5_000i64;
    let wild = |i: i64| i.wrapping_mul(0x9e37_79b9_7f4a_7c15u64.cast_signed()) >> (i % 61);
    let all = || 0..n;
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(Int8Array::from_iter_values(all().map(|i| wild(i) as i8))),
        Arc::new(Int16Array::from_iter_values(all().map(|i| wild(i) as i16))),
        Arc::new(Int32Array::from_iter_values(all().map(|i| wild(i) as i32))),
        Arc::new(Int32Array::from_iter_values(all().map(|_| 7))),
        Arc::new(UInt8Array::from_iter_values(all().map(|i| wild(i) as u8))),
        Arc::new(UInt16Array::from_iter_values(all().map(|i| wild(i) as u16))),
        Arc::new(UInt32Array::from_iter_values(all().map(|i| wild(i) as u32))),
        Arc::new(UInt64Array::from_iter_values(all().map(|i| wild(i) as u64))),
        Arc::new(Int64Array::from_iter_values(all().map(wild))),
        Arc::new(Int64Array::from_iter_values(
            all().map(|i| [i64::MIN, i64::MAX][i as usize % 2]),
        )),
        Arc::new(TimestampMicrosecondArray::from_iter_values(
            all().map(|i| i * 10_000 + i % 3),
        )),
        Arc::new(Float32Array::from_iter_values(all().map(|i| wild(i) as f32))),
        Arc::new(Float64Array::from_iter_values(
            all().map(|i| (i % 40) as f64 * 0.1),
        )),
    ];
    for array in arrays {
        for rows in [1, 7, 128, 129, 1024, 5_000] {
            if rows == 1 {
                check(&pages_of(array.slice(0, 9), rows), false);
            } else {
                check(&pages_of(array.clone(), rows), false);
            }
            let is_float = matches!(array.data_type(), DataType::Float32 | DataType::Float64);
            if is_float {
                check(&pages_of(array.clone(), rows.max(64)), true);
            }
        }
    }
}

#[test]
fn a_dictionary_that_is_outgrown_is_left() {
    let values = (0..300_000u32).map(|i| f32::from_bits(i.wrapping_mul(2_654_435_761)));
    let array: ArrayRef = Arc::new(Float32Array::from_iter_values(values));
    let pages = pages_of(array, 16 << 10);
    check(&pages, true);
    let (_, metadata) = read(written(&pages, true));
    // Distinct values of one row group fit, so that only a larger one is cut.
    let whole = written(&[pages.clone(), pages].concat(), true);
    let (_, twice) = read(whole);
    let encodings =
        |metadata: &ParquetMetaData| metadata.row_group(0).column(0).encodings().collect::<Vec<_>>();
    let mixed = twice.row_group(0).column(0).page_encoding_stats_mask();
    let mixed = mixed.expect("pages are counted by their encodings");
    assert!(mixed.is_set(Encoding::RLE_DICTIONARY) && mixed.is_set(Encoding::BYTE_STREAM_SPLIT));
    let own = metadata.row_group(0).column(0).page_encoding_stats_mask();
    assert!(own.expect("counted").is_only(Encoding::RLE_DICTIONARY));
    assert!(encodings(&metadata).contains(&Encoding::RLE_DICTIONARY));
    assert!(encodings(&twice).contains(&Encoding::BYTE_STREAM_SPLIT));
}

/// Floats of few digits have nothing in the low bits of their mantissas.
#[test]
fn a_dictionary_of_round_numbers_finds_them_at_once() {
    let mut dictionary = Dictionary::default();
    let mut places = Vec::new();
    let values = || (0..200_000u64).map(|at| ((at * 7_919 % 4_096) as f64).to_bits());
    assert!(dictionary.place(values(), 1 << 17, &mut places));
    assert_eq!(dictionary.len(), 4_096);
    assert!(
        dictionary.probes() < 3 * 200_000,
        "{} probes",
        dictionary.probes()
    );
    let back: Vec<u64> = places
        .iter()
        .map(|&place| dictionary.values()[place as usize])
        .collect();
    assert!(back.into_iter().eq(values()));
}

#[test]
fn noise_in_the_low_bytes_does_not_spoil_the_high_ones() {
    let mut state = 7u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 40) as f32
    };
    let array: ArrayRef = Arc::new(Float32Array::from_iter_values(
        (0..16_384).map(|_| 9.0 + noise() * 1e-8),
    ));
    let bytes = written(&[array], false).len();
    // Three bytes of four are noise, and the sign with most of the exponent takes next to nothing.
    assert!(bytes < 16_384 * 13 / 4, "{bytes}");
}

fn float() -> impl Strategy<Value = f32> {
    prop_oneof![
        any::<u32>().prop_map(f32::from_bits),
        prop::sample::select(vec![
            0.0,
            -0.0,
            f32::NAN,
            -f32::NAN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            1.5,
            -1.5
        ]),
    ]
}

proptest! {
    #[test]
    fn any_floats_come_back(values in prop::collection::vec(float(), 1..700), rows in 1usize..300, dictionary: bool) {
        check(&pages_of(Arc::new(Float32Array::from(values)), rows), dictionary);
    }

    #[test]
    fn any_doubles_come_back(values in prop::collection::vec(any::<u64>().prop_map(f64::from_bits), 1..300), dictionary: bool) {
        check(&pages_of(Arc::new(Float64Array::from(values)), 100), dictionary);
    }

    #[test]
    fn any_integers_come_back(values in prop::collection::vec(any::<i64>(), 1..700), shift in 0u32..63, rows in 1usize..300) {
        let wide = Int64Array::from_iter_values(values.iter().map(|v| v >> shift));
        check(&pages_of(Arc::new(wide), rows), false);
        let narrow = Int32Array::from_iter_values(values.iter().map(|v| (v >> shift) as i32));
        check(&pages_of(Arc::new(narrow), rows), false);
    }

    #[test]
    fn any_repetition_comes_back(runs in prop::collection::vec((0u8..4, 1usize..40), 1..60)) {
        let values = runs.iter().flat_map(|&(value, count)| std::iter::repeat_n(f32::from(value), count));
        check(&pages_of(Arc::new(Float32Array::from_iter_values(values)), 512), true);
    }
}
