//! BYTE_STREAM_SPLIT: all first bytes of the values, then all second ones, and so on.
//!
//! Source: Apache Parquet, Encodings.md. The bytes of a float that repeat then stand together.

/// Values that are turned at a time: as many as one vector of bytes holds.
const LANES: usize = 16;

/// Puts the streams of 4-byte values one after the other.
pub fn split_4<T: Copy>(values: &[T], bits: impl Fn(T) -> u32, out: &mut Vec<u8>) {
    split::<4, T>(values, |value, byte| (bits(value) >> (8 * byte)) as u8, out);
}

/// Puts the streams of 8-byte values one after the other.
pub fn split_8<T: Copy>(values: &[T], bits: impl Fn(T) -> u64, out: &mut Vec<u8>) {
    split::<8, T>(values, |value, byte| (bits(value) >> (8 * byte)) as u8, out);
}

#[inline(always)]
fn split<const WIDTH: usize, T: Copy>(values: &[T], byte_of: impl Fn(T, usize) -> u8, out: &mut Vec<u8>) {
    out.clear();
    out.resize(WIDTH * values.len(), 0);
    if values.is_empty() {
        return;
    }
    let mut streams = out.chunks_exact_mut(values.len());
    let mut streams: [&mut [u8]; WIDTH] = std::array::from_fn(|_| streams.next().unwrap_or_default());
    let (whole, rest) = values.as_chunks::<LANES>();
    for (byte, stream) in streams.iter_mut().enumerate() {
        let (to, left) = stream.as_chunks_mut::<LANES>();
        for (to, from) in to.iter_mut().zip(whole) {
            for (to, &from) in to.iter_mut().zip(from) {
                *to = byte_of(from, byte);
            }
        }
        for (to, &from) in left.iter_mut().zip(rest) {
            *to = byte_of(from, byte);
        }
    }
}
