//! Column chunks of Parquet, a page for each batch, from arrays to compressed bytes with one copy on the way.
//!
//! Owns the encoding of numbers that are never null: integers by their differences, floats split by byte or with a
//! dictionary. Everything else goes through the Parquet library's own column writer, as do the file around the chunks, its
//! metadata and its footer. What is written here is plain Parquet, which `tests` reads back with the library.
//!
//! Each stream of a split page is a zstd block of its own: bytes of one place share a Huffman table, and those that are
//! noise are stored as they are instead of spoiling it.
//!
//! Invariants: the same arrays give the same bytes. Buffers are used again for the next chunk.

mod delta;
mod dictionary;
mod file;
mod range;
mod split;
#[cfg(test)]
mod tests;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    TimeUnit, TimestampMicrosecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use bytes::Bytes;
use delta::{encode_i32, encode_i64};
use dictionary::{Dictionary, encode_places};
pub use file::FileWriter;
use parquet::basic::{BoundaryOrder, Compression, Encoding, PageType, Type};
use parquet::column::page::{CompressedPage, Page, PageWriter};
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::ParquetError;
use parquet::file::metadata::{
    ColumnChunkMetaData, ColumnIndexBuilder, OffsetIndexBuilder, PageEncodingStats,
};
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::writer::{SerializedPageWriter, SerializedRowGroupWriter, TrackedWrite};
use parquet::schema::types::ColumnDescPtr;
use range::{Kind, Range, key_32, key_64};
use split::{split_4, split_8};
use std::io::{Read, Write};
use std::mem::size_of;
use zstd::zstd_safe::zstd_sys::ZSTD_EndDirective;
use zstd::zstd_safe::{CCtx, CParameter, InBuffer, OutBuffer, ResetDirective};

/// Bytes of a dictionary, beyond which the column goes on without.
const DICTIONARY_BYTES: usize = 1 << 20;

/// Whether so few of the values are the same that no dictionary is worth it.
pub fn is_mostly_distinct(array: &dyn Array) -> bool {
    let (mut dictionary, mut places) = (Dictionary::default(), Vec::new());
    let most = array.len() * 9 / 10;
    match array.data_type() {
        DataType::Float32 => {
            let values = array.as_primitive::<Float32Type>().values();
            let bits = values.iter().map(|value| u64::from(value.to_bits()));
            !dictionary.place(bits, most, &mut places)
        }
        DataType::Float64 => {
            let values = array.as_primitive::<Float64Type>().values();
            !dictionary.place(values.iter().map(|value| value.to_bits()), most, &mut places)
        }
        _ => false,
    }
}

/// What columns share while they are written one after the other: buffers, and the compressor.
pub struct Scratch {
    zstd: CCtx<'static>,
    compression: Compression,
    narrow: Vec<i32>,
    wide: Vec<i64>,
    places: Vec<u32>,
    encoded: Vec<u8>,
    compressed: Vec<u8>,
}

impl std::fmt::Debug for Scratch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scratch").finish_non_exhaustive()
    }
}

impl Scratch {
    /// For pages that are compressed by zstd at `level`; `compression` is how the metadata calls it.
    pub fn new(compression: Compression, level: i32) -> Result<Self, ParquetError> {
        let mut zstd = CCtx::create();
        zstd.set_parameter(CParameter::CompressionLevel(level))
            .map_err(refused)?;
        Ok(Self {
            zstd,
            compression,
            narrow: Vec::new(),
            wide: Vec::new(),
            places: Vec::new(),
            encoded: Vec::new(),
            compressed: Vec::new(),
        })
    }

    /// Compresses what is encoded, in blocks of `block` bytes; gives its length before.
    fn compress(&mut self, block: usize) -> Result<usize, ParquetError> {
        let bytes = self.encoded.len();
        self.compressed.clear();
        // Each block has a header of three bytes, and is never longer than what it holds.
        let blocks = bytes.div_ceil(block.max(1));
        self.compressed
            .reserve(zstd::zstd_safe::compress_bound(bytes) + 8 * blocks);
        self.zstd.reset(ResetDirective::SessionOnly).map_err(refused)?;
        self.zstd
            .set_pledged_src_size(Some(bytes as u64))
            .map_err(refused)?;
        let mut output = OutBuffer::around(&mut self.compressed);
        let mut from = 0;
        loop {
            let end = (from + block.max(1)).min(bytes);
            let directive = match end == bytes {
                true => ZSTD_EndDirective::ZSTD_e_end,
                false => ZSTD_EndDirective::ZSTD_e_flush,
            };
            let mut input = InBuffer::around(&self.encoded[from..end]);
            let left = self
                .zstd
                .compress_stream2(&mut output, &mut input, directive)
                .map_err(refused)?;
            if left > 0 || input.pos() < end - from {
                return Err(ParquetError::General(
                    "zstd needs more room than it said".to_owned(),
                ));
            }
            if end == bytes {
                return Ok(bytes);
            }
            from = end;
        }
    }
}

fn refused(code: usize) -> ParquetError {
    ParquetError::General(format!("zstd: {}", zstd::zstd_safe::get_error_name(code)))
}

/// Whether a column of such values can be written here.
pub fn takes(kind: &DataType) -> bool {
    kind.is_integer()
        || matches!(
            kind,
            DataType::Float32 | DataType::Float64 | DataType::Timestamp(TimeUnit::Microsecond, _)
        )
}

/// One column of a row group.
#[derive(Debug)]
pub struct Chunk {
    descriptor: ColumnDescPtr,
    /// Data pages, one after the other.
    body: Vec<u8>,
    dictionary: Option<Dictionary>,
    /// The dictionary outgrew its page; what came before uses it.
    outgrown: bool,
    pages: Vec<PageAt>,
    encodings: Vec<Encoding>,
    uncompressed: usize,
}

/// Where a page stands in the body of its chunk, and what it holds.
#[derive(Debug)]
struct PageAt {
    from: usize,
    bytes: usize,
    rows: usize,
    encoding: Encoding,
    range: Range,
}

impl Chunk {
    /// An empty chunk of a column; floats may have a dictionary.
    pub fn new(descriptor: ColumnDescPtr, dictionary: bool) -> Self {
        Self {
            descriptor,
            body: Vec::new(),
            dictionary: dictionary.then(Dictionary::default),
            outgrown: false,
            pages: Vec::new(),
            encodings: Vec::new(),
            uncompressed: 0,
        }
    }

    /// Adds a page with the values of an array of a type that [`takes`] knows, which has no nulls.
    pub fn write(&mut self, array: &dyn Array, scratch: &mut Scratch) -> Result<(), ParquetError> {
        use DataType as T;
        match array.data_type() {
            T::Int8 => self.narrow::<Int8Type, _>(array, Kind::I32, i32::from, i32::from, scratch),
            T::Int16 => self.narrow::<Int16Type, _>(array, Kind::I32, i32::from, i32::from, scratch),
            T::Int32 => self.narrow::<Int32Type, _>(array, Kind::I32, |v| v, |v| v, scratch),
            T::UInt8 => self.narrow::<UInt8Type, _>(array, Kind::U32, u32::from, i32::from, scratch),
            T::UInt16 => self.narrow::<UInt16Type, _>(array, Kind::U32, u32::from, i32::from, scratch),
            T::UInt32 => self.narrow::<UInt32Type, _>(array, Kind::U32, |v| v, u32::cast_signed, scratch),
            T::Int64 => self.wide::<Int64Type, _>(array, Kind::I64, |v| v, |v| v, scratch),
            T::Timestamp(TimeUnit::Microsecond, _) => {
                self.wide::<TimestampMicrosecondType, _>(array, Kind::I64, |v| v, |v| v, scratch)
            }
            T::UInt64 => self.wide::<UInt64Type, _>(array, Kind::U64, |v| v, u64::cast_signed, scratch),
            T::Float32 => {
                let values = array.as_primitive::<Float32Type>().values();
                let range = Range::of_floats(Kind::F32, values, f32::is_nan, key_32);
                let bits = values.iter().map(|value| u64::from(value.to_bits()));
                if self.place(bits, scratch) {
                    return self.put(values.len(), Encoding::RLE_DICTIONARY, usize::MAX, range, scratch);
                }
                split_4(values, f32::to_bits, &mut scratch.encoded);
                self.put(
                    values.len(),
                    Encoding::BYTE_STREAM_SPLIT,
                    values.len(),
                    range,
                    scratch,
                )
            }
            T::Float64 => {
                let values = array.as_primitive::<Float64Type>().values();
                let range = Range::of_floats(Kind::F64, values, f64::is_nan, key_64);
                if self.place(values.iter().map(|value| value.to_bits()), scratch) {
                    return self.put(values.len(), Encoding::RLE_DICTIONARY, usize::MAX, range, scratch);
                }
                split_8(values, f64::to_bits, &mut scratch.encoded);
                self.put(
                    values.len(),
                    Encoding::BYTE_STREAM_SPLIT,
                    values.len(),
                    range,
                    scratch,
                )
            }
            other => Err(ParquetError::NYI(format!(
                "columns of {other} are not written here"
            ))),
        }
    }

    /// Integers that Parquet stores in 32 bits.
    fn narrow<T: ArrowPrimitiveType, K: Copy + Ord + Into<i128>>(
        &mut self,
        array: &dyn Array,
        kind: Kind,
        key: impl Fn(T::Native) -> K,
        stored: impl Fn(T::Native) -> i32,
        scratch: &mut Scratch,
    ) -> Result<(), ParquetError> {
        let values = array.as_primitive::<T>().values();
        let range = Range::of(kind, values, key);
        scratch.narrow.clear();
        scratch.narrow.extend(values.iter().map(|&value| stored(value)));
        scratch.encoded.clear();
        encode_i32(&scratch.narrow, &mut scratch.encoded);
        self.put(
            values.len(),
            Encoding::DELTA_BINARY_PACKED,
            usize::MAX,
            range,
            scratch,
        )
    }

    /// Integers that it stores in 64.
    fn wide<T: ArrowPrimitiveType, K: Copy + Ord + Into<i128>>(
        &mut self,
        array: &dyn Array,
        kind: Kind,
        key: impl Fn(T::Native) -> K,
        stored: impl Fn(T::Native) -> i64,
        scratch: &mut Scratch,
    ) -> Result<(), ParquetError> {
        let values = array.as_primitive::<T>().values();
        let range = Range::of(kind, values, key);
        scratch.wide.clear();
        scratch.wide.extend(values.iter().map(|&value| stored(value)));
        scratch.encoded.clear();
        encode_i64(&scratch.wide, &mut scratch.encoded);
        self.put(
            values.len(),
            Encoding::DELTA_BINARY_PACKED,
            usize::MAX,
            range,
            scratch,
        )
    }

    /// Encodes by the dictionary, if there is one that has room.
    fn place(&mut self, values: impl Iterator<Item = u64>, scratch: &mut Scratch) -> bool {
        let width = width_of(&self.descriptor);
        let Some(dictionary) = self.dictionary.as_mut().filter(|_| !self.outgrown) else {
            return false;
        };
        if !dictionary.place(values, DICTIONARY_BYTES / width, &mut scratch.places) {
            self.outgrown = true;
            return false;
        }
        scratch.encoded.clear();
        encode_places(&scratch.places, dictionary.len(), &mut scratch.encoded);
        true
    }

    /// Appends what is encoded as a page.
    fn put(
        &mut self,
        rows: usize,
        encoding: Encoding,
        block: usize,
        range: Option<Range>,
        scratch: &mut Scratch,
    ) -> Result<(), ParquetError> {
        let Some(range) = range else {
            return Ok(());
        };
        let uncompressed = scratch.compress(block)?;
        let page = Page::DataPage {
            buf: Bytes::copy_from_slice(&scratch.compressed),
            num_values: rows as u32,
            encoding,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        };
        let from = self.body.len();
        self.uncompressed += append(&mut self.body, page, uncompressed)?;
        self.pages.push(PageAt {
            from,
            bytes: self.body.len() - from,
            rows,
            encoding,
            range,
        });
        if !self.encodings.contains(&encoding) {
            self.encodings.push(encoding);
        }
        Ok(())
    }

    /// Appends the chunk to a row group; it is empty afterwards.
    pub fn append_to<W: Write + Send>(
        &mut self,
        group: &mut SerializedRowGroupWriter<'_, W>,
        scratch: &mut Scratch,
    ) -> Result<(), ParquetError> {
        let head = self.dictionary_page(scratch)?;
        let closed = self.closed(head.len(), scratch.compression)?;
        let stored = Stored {
            head: &head,
            body: &self.body,
        };
        group.append_column(&stored, closed)?;
        self.clear();
        Ok(())
    }

    /// The page that stands before the others; empty if no page needs it.
    fn dictionary_page(&mut self, scratch: &mut Scratch) -> Result<Vec<u8>, ParquetError> {
        let mut head = Vec::new();
        if !self.encodings.contains(&Encoding::RLE_DICTIONARY) {
            return Ok(head);
        }
        if let Some(dictionary) = &self.dictionary {
            let width = width_of(&self.descriptor);
            scratch.encoded.clear();
            for value in dictionary.values() {
                scratch.encoded.extend_from_slice(&value.to_le_bytes()[..width]);
            }
            let uncompressed = scratch.compress(usize::MAX)?;
            let page = Page::DictionaryPage {
                buf: Bytes::copy_from_slice(&scratch.compressed),
                num_values: dictionary.len() as u32,
                encoding: Encoding::PLAIN,
                is_sorted: false,
            };
            self.uncompressed += append(&mut head, page, uncompressed)?;
            self.encodings.push(Encoding::PLAIN);
        }
        Ok(head)
    }

    /// What the file says of the chunk, of which `head` bytes stand before the data pages.
    fn closed(&self, head: usize, compression: Compression) -> Result<ColumnCloseResult, ParquetError> {
        let bytes = head + self.body.len();
        let rows: usize = self.pages.iter().map(|page| page.rows).sum();
        let mut metadata = ColumnChunkMetaData::builder(self.descriptor.clone())
            .set_compression(compression)
            .set_encodings(self.encodings.clone())
            .set_num_values(rows as i64)
            .set_total_compressed_size(bytes as i64)
            .set_total_uncompressed_size(self.uncompressed as i64)
            .set_data_page_offset(head as i64)
            .set_dictionary_page_offset((head > 0).then_some(0));
        if let Some(whole) = self.pages.iter().map(|page| page.range).reduce(Range::or) {
            metadata = metadata.set_statistics(whole.statistics());
        }
        let mut index = ColumnIndexBuilder::new(self.descriptor.physical_type());
        let mut offsets = OffsetIndexBuilder::new();
        for page in &self.pages {
            let (least, most) = page.range.bytes();
            index.append(false, least, most, 0, page.range.nans().map(u64::cast_signed));
            offsets.append_row_count(page.rows as i64);
            offsets.append_offset_and_size((head + page.from) as i64, page.bytes as i32);
        }
        index.set_boundary_order(self.order());
        metadata = metadata.set_page_encoding_stats(self.page_counts(head > 0));
        Ok(ColumnCloseResult {
            bytes_written: bytes as u64,
            rows_written: rows as u64,
            metadata: metadata.build()?,
            bloom_filter: None,
            column_index: Some(index.build()?),
            offset_index: Some(offsets.build()),
        })
    }

    /// How many pages there are of each kind.
    fn page_counts(&self, has_dictionary: bool) -> Vec<PageEncodingStats> {
        let dictionary = has_dictionary.then_some(PageEncodingStats {
            page_type: PageType::DICTIONARY_PAGE,
            encoding: Encoding::PLAIN,
            count: 1,
        });
        let data = self.encodings.iter().filter_map(|&encoding| {
            let count = self.pages.iter().filter(|page| page.encoding == encoding).count();
            (count > 0).then_some(PageEncodingStats {
                page_type: PageType::DATA_PAGE,
                encoding,
                count: count as i32,
            })
        });
        dictionary.into_iter().chain(data).collect()
    }

    /// Bytes of its pages so far, the dictionary's too; it is empty afterwards.
    pub fn measure(&mut self, scratch: &mut Scratch) -> Result<usize, ParquetError> {
        let bytes = self.dictionary_page(scratch)?.len() + self.body.len();
        self.clear();
        Ok(bytes)
    }

    fn order(&self) -> BoundaryOrder {
        let pairs = || {
            self.pages
                .windows(2)
                .map(|pages| (pages[0].range, pages[1].range))
        };
        if pairs().all(|(before, after)| before.is_not_above(after)) {
            BoundaryOrder::ASCENDING
        } else if pairs().all(|(before, after)| after.is_not_above(before)) {
            BoundaryOrder::DESCENDING
        } else {
            BoundaryOrder::UNORDERED
        }
    }

    fn clear(&mut self) {
        self.body.clear();
        if let Some(dictionary) = &mut self.dictionary {
            dictionary.clear();
        }
        self.outgrown = false;
        self.pages.clear();
        self.encodings.clear();
        self.uncompressed = 0;
    }
}

/// A chunk as a row group takes it.
struct Stored<'c> {
    head: &'c [u8],
    body: &'c [u8],
}

impl Length for Stored<'_> {
    fn len(&self) -> u64 {
        (self.head.len() + self.body.len()) as u64
    }
}

impl<'c> ChunkReader for Stored<'c> {
    type T = std::io::Chain<&'c [u8], &'c [u8]>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        match start {
            0 => Ok(self.head.chain(self.body)),
            _ => Err(ParquetError::General(
                "a chunk is read from its beginning".to_owned(),
            )),
        }
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let mut bytes = Vec::new();
        self.get_read(start)?
            .take(length as u64)
            .read_to_end(&mut bytes)?;
        Ok(bytes.into())
    }
}

fn width_of(descriptor: &ColumnDescPtr) -> usize {
    match descriptor.physical_type() {
        Type::INT32 | Type::FLOAT => size_of::<f32>(),
        _ => size_of::<f64>(),
    }
}

/// Appends a page with its header; its bytes before compression, header included.
fn append(to: &mut Vec<u8>, page: Page, uncompressed: usize) -> Result<usize, ParquetError> {
    let mut sink = TrackedWrite::new(to);
    let spec = SerializedPageWriter::new(&mut sink).write_page(CompressedPage::new(page, uncompressed))?;
    sink.into_inner()?;
    Ok(spec.uncompressed_size)
}
