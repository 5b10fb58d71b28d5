//! DELTA_BINARY_PACKED: integers by their differences, in blocks that are each packed as narrowly as they allow.
//!
//! Source: Apache Parquet, Encodings.md, "Delta Encoding". Differences wrap at the width of the type, so that any values
//! may follow each other.

/// Values of a block, and of each part of it that has a width of its own.
const BLOCK: usize = 128;
const MINIBLOCK: usize = 32;

/// Appends the encoding of 32-bit values.
pub fn encode_i32(values: &[i32], out: &mut Vec<u8>) {
    encode(
        values,
        i64::from,
        |to, from| i64::from(to.wrapping_sub(from)),
        out,
    );
}

/// Appends the encoding of 64-bit values.
pub fn encode_i64(values: &[i64], out: &mut Vec<u8>) {
    encode(values, |value| value, i64::wrapping_sub, out);
}

#[inline(always)]
fn encode<T: Copy>(
    values: &[T],
    wide: impl Fn(T) -> i64,
    difference: impl Fn(T, T) -> i64,
    out: &mut Vec<u8>,
) {
    varint(BLOCK as u64, out);
    varint((BLOCK / MINIBLOCK) as u64, out);
    varint(values.len() as u64, out);
    zigzag(values.first().map_or(0, |&first| wide(first)), out);
    let mut deltas = [0i64; BLOCK];
    let mut at = 1;
    while at < values.len() {
        let count = BLOCK.min(values.len() - at);
        let (before, here) = (&values[at - 1..at - 1 + count], &values[at..at + count]);
        let mut least = i64::MAX;
        for ((delta, &from), &to) in deltas.iter_mut().zip(before).zip(here) {
            *delta = difference(to, from);
            least = least.min(*delta);
        }
        zigzag(least, out);
        // What is missing in the last part is padding, and a part with no values takes nothing.
        deltas[count..].fill(least);
        let widths_at = out.len();
        out.extend_from_slice(&[0; BLOCK / MINIBLOCK]);
        for (number, part) in deltas.chunks_exact(MINIBLOCK).enumerate() {
            let over = part
                .iter()
                .fold(0, |over, &delta| over | delta.wrapping_sub(least).cast_unsigned());
            let width = u64::BITS - over.leading_zeros();
            if number * MINIBLOCK < count && width > 0 {
                out[widths_at + number] = width as u8;
                let above = part
                    .iter()
                    .map(|&delta| delta.wrapping_sub(least).cast_unsigned());
                pack(above, width, out);
            }
        }
        at += count;
    }
}

/// Appends values of `width` bits, the lowest first; they must fit, and their bits together must be whole bytes.
pub fn pack(values: impl Iterator<Item = u64>, width: u32, out: &mut Vec<u8>) {
    let (mut bits, mut filled) = (0u128, 0);
    for value in values {
        bits |= u128::from(value) << filled;
        filled += width;
        if filled >= u64::BITS {
            out.extend_from_slice(&(bits as u64).to_le_bytes());
            bits >>= u64::BITS;
            filled -= u64::BITS;
        }
    }
    out.extend_from_slice(&bits.to_le_bytes()[..filled.div_ceil(8) as usize]);
}

/// Appends an unsigned LEB128 number.
pub fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn zigzag(value: i64, out: &mut Vec<u8>) {
    varint(((value << 1) ^ (value >> 63)).cast_unsigned(), out);
}
