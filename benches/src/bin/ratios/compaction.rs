//! Compaction against arrow-rs's writer that is fed with the very table it publishes.

use arrow::array::RecordBatch;
use marey_benches::against::{self, COMPACTED_WINDOWS, compacted, parts};
use marey_benches::measure::{Measured, pairs};
use marey_benches::{Recording, folder};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder};
use std::fs::File;
use std::path::{Path, PathBuf};

fn fault(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// From sealed logs to published Parquet, against the writer alone on arrays that are ready, with the same encodings and one
/// sync a file.
pub fn compact(rounds: usize) -> Result<Measured, String> {
    let aside = folder();
    against::compaction(rounds, |parts| {
        let tables: Result<Vec<Table>, String> = parts.iter().map(|path| Table::read(path)).collect();
        let (tables, aside) = (tables?, aside.path());
        Ok(move || {
            for (at, table) in tables.iter().enumerate() {
                let file = File::create(aside.join(at.to_string())).map_err(fault)?;
                table.write(&file, table.like_published())?;
                file.sync_all().map_err(fault)?;
            }
            Ok(())
        })
    })
}

/// The same compaction with two threads, against one.
pub fn threads(rounds: usize) -> Result<Measured, String> {
    let template = folder();
    Recording::on_disk(&template).live(COMPACTED_WINDOWS);
    pairs(
        rounds.min(12),
        || Ok(1.0 / compacted(&template, 2)?.1),
        || Ok(1.0 / compacted(&template, 1)?.1),
    )
}

/// Bytes a row of published Parquet against the smallest of the settings that a writer has for all float columns at once:
/// plain, split by byte or with a dictionary, times by their differences or not. The worst file of the sessions below
/// `MAREY_BENCH_SESSIONS`, or a simulated one.
pub fn row_bytes(_rounds: usize) -> Result<Measured, String> {
    let (mut found, simulated);
    match std::env::var_os("MAREY_BENCH_SESSIONS") {
        Some(dir) => found = parts(&PathBuf::from(dir))?,
        None => {
            let template = folder();
            Recording::on_disk(&template).live(COMPACTED_WINDOWS / 4);
            simulated = compacted(&template, 1)?.0;
            found = parts(simulated.path())?;
        }
    }
    // A file of a few rows is all footer.
    found.retain(|path| Table::rows(path).is_ok_and(|rows| rows >= 1000));
    let mut ratios = Vec::new();
    for path in &found {
        let table = Table::read(path)?;
        let mut least = usize::MAX;
        for setting in Setting::ALL {
            let mut bytes = Vec::new();
            table.write(&mut bytes, table.with(*setting))?;
            least = least.min(bytes.len());
        }
        let rows = Table::rows(path)? as f64;
        let bytes = std::fs::metadata(path).map_err(fault)?.len() as f64;
        ratios.push((bytes / rows, least as f64 / rows));
    }
    let worst = ratios
        .into_iter()
        .max_by(|a, b| (a.0 / a.1).total_cmp(&(b.0 / b.1)));
    worst
        .map(|pair| Measured::of_pairs(&[pair]))
        .ok_or_else(|| "there is no Parquet file of at least 1,000 rows".to_owned())
}

/// A published file in memory.
struct Table {
    batches: Vec<RecordBatch>,
    metadata: std::sync::Arc<ParquetMetaData>,
}

/// How a writer is set for all columns.
#[derive(Clone, Copy, Debug)]
struct Setting {
    float: Option<Encoding>,
    integer: Option<Encoding>,
}

impl Setting {
    const ALL: &[Self] = &[
        Self::of(None, None),
        Self::of(None, Some(Encoding::DELTA_BINARY_PACKED)),
        Self::of(Some(Encoding::PLAIN), Some(Encoding::DELTA_BINARY_PACKED)),
        Self::of(
            Some(Encoding::BYTE_STREAM_SPLIT),
            Some(Encoding::DELTA_BINARY_PACKED),
        ),
        Self::of(Some(Encoding::BYTE_STREAM_SPLIT), None),
    ];

    /// None for a dictionary.
    const fn of(float: Option<Encoding>, integer: Option<Encoding>) -> Self {
        Self { float, integer }
    }
}

impl Table {
    fn rows(path: &Path) -> Result<i64, String> {
        let file = File::open(path).map_err(fault)?;
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(fault)?;
        Ok(builder.metadata().file_metadata().num_rows())
    }

    fn read(path: &Path) -> Result<Self, String> {
        let file = File::open(path).map_err(fault)?;
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(fault)?;
        let metadata = builder.metadata().clone();
        let batches: Result<Vec<_>, _> = builder
            .with_batch_size(16 << 10)
            .build()
            .map_err(fault)?
            .collect();
        Ok(Self {
            batches: batches.map_err(fault)?,
            metadata,
        })
    }

    fn write(&self, to: impl std::io::Write + Send, properties: WriterProperties) -> Result<(), String> {
        let schema = self.batches.first().ok_or("an empty table")?.schema();
        let mut writer = ArrowWriter::try_new(to, schema, Some(properties)).map_err(fault)?;
        self.batches
            .iter()
            .try_for_each(|batch| writer.write(batch))
            .map_err(fault)?;
        writer.close().map(drop).map_err(fault)
    }

    /// Encodings and compression of the published file, and else the writer's defaults.
    fn like_published(&self) -> WriterProperties {
        let mut builder = compressed();
        for column in self.metadata.row_group(0).columns() {
            let path = column.column_path().clone();
            let encodings: Vec<Encoding> = column.encodings().collect();
            let dictionary = encodings.contains(&Encoding::RLE_DICTIONARY);
            builder = builder.set_column_dictionary_enabled(path.clone(), dictionary);
            for plain in [Encoding::DELTA_BINARY_PACKED, Encoding::BYTE_STREAM_SPLIT] {
                if encodings.contains(&plain) {
                    builder = builder.set_column_encoding(path.clone(), plain);
                }
            }
        }
        builder.build()
    }

    fn with(&self, setting: Setting) -> WriterProperties {
        use parquet::basic::Type;
        let mut builder = compressed();
        for column in self.metadata.file_metadata().schema_descr().columns() {
            let encoding = match column.physical_type() {
                Type::FLOAT | Type::DOUBLE => setting.float,
                Type::INT32 | Type::INT64 => setting.integer,
                _ => None,
            };
            let path = column.path().clone();
            builder = match encoding {
                None => builder.set_column_dictionary_enabled(path, true),
                Some(encoding) => builder
                    .set_column_dictionary_enabled(path.clone(), false)
                    .set_column_encoding(path, encoding),
            };
        }
        builder.build()
    }
}

fn compressed() -> WriterPropertiesBuilder {
    let level = ZstdLevel::try_new(1).expect("zstd has a level 1");
    WriterProperties::builder().set_compression(Compression::ZSTD(level))
}
