//! Smallest and largest value of a page or a chunk, in the order that Parquet has for the column's type.

use parquet::file::statistics::{Statistics, ValueStatistics};

/// What the values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    I32,
    U32,
    I64,
    U64,
    F32,
    F64,
}

/// From where to where values reach. Floats are in the total order of IEEE 754, NaN apart: it counts as a value only where
/// there is no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    kind: Kind,
    /// Numbers that are in the order of the values.
    least: i128,
    most: i128,
    nans: u64,
    all_nan: bool,
}

impl Range {
    /// Of integers, by numbers in the same order; none if there are none.
    pub fn of<T: Copy, K: Copy + Ord + Into<i128>>(
        kind: Kind,
        values: &[T],
        key: impl Fn(T) -> K,
    ) -> Option<Self> {
        let (least, most) = least_and_most(values, key)?;
        Some(Self {
            kind,
            least: least.into(),
            most: most.into(),
            nans: 0,
            all_nan: false,
        })
    }

    /// Of floats; `key` gives numbers in their total order.
    pub fn of_floats<T: Copy, K: Copy + Ord + Into<i128>>(
        kind: Kind,
        values: &[T],
        is_nan: impl Fn(T) -> bool,
        key: impl Fn(T) -> K,
    ) -> Option<Self> {
        let nans = values.iter().filter(|&&value| is_nan(value)).count();
        let all_nan = nans == values.len();
        let range = match nans == 0 || all_nan {
            true => Self::of(kind, values, key),
            false => {
                let numbers: Vec<T> = values.iter().copied().filter(|&value| !is_nan(value)).collect();
                Self::of(kind, &numbers, key)
            }
        };
        range.map(|range| Self {
            nans: nans as u64,
            all_nan,
            ..range
        })
    }

    /// What holds both.
    pub fn or(self, other: Self) -> Self {
        let (own, others) = match (self.all_nan, other.all_nan) {
            (true, false) => (other, other),
            (false, true) => (self, self),
            _ => (self, other),
        };
        Self {
            kind: self.kind,
            least: own.least.min(others.least),
            most: own.most.max(others.most),
            nans: self.nans + other.nans,
            all_nan: self.all_nan && other.all_nan,
        }
    }

    /// Whether neither end is above the other's.
    pub fn is_not_above(self, other: Self) -> bool {
        self.least <= other.least && self.most <= other.most
    }

    /// How many of the values are NaN; none where they can't be.
    pub fn nans(self) -> Option<u64> {
        matches!(self.kind, Kind::F32 | Kind::F64).then_some(self.nans)
    }

    /// Least and most as a column index has them.
    pub fn bytes(self) -> (Vec<u8>, Vec<u8>) {
        let bytes = |key: i128| match self.kind {
            Kind::I32 | Kind::U32 => (key as i32).to_le_bytes().to_vec(),
            Kind::I64 | Kind::U64 => (key as i64).to_le_bytes().to_vec(),
            Kind::F32 => float_32(key).to_le_bytes().to_vec(),
            Kind::F64 => float_64(key).to_le_bytes().to_vec(),
        };
        (bytes(self.least), bytes(self.most))
    }

    /// As the metadata of a chunk has them.
    pub fn statistics(self) -> Statistics {
        let Self {
            kind, least, most, ..
        } = self;
        let nulls = Some(0);
        // Readers that know the older fields alone take integers for signed.
        let older = matches!(kind, Kind::I32 | Kind::I64);
        match kind {
            Kind::I32 | Kind::U32 => {
                let values = ValueStatistics::new(Some(least as i32), Some(most as i32), None, nulls, false);
                Statistics::Int32(values.with_backwards_compatible_min_max(older))
            }
            Kind::I64 | Kind::U64 => {
                let values = ValueStatistics::new(Some(least as i64), Some(most as i64), None, nulls, false);
                Statistics::Int64(values.with_backwards_compatible_min_max(older))
            }
            Kind::F32 => {
                let (least, most) = (float_32(least), float_32(most));
                let values = ValueStatistics::new(Some(least), Some(most), None, nulls, false);
                Statistics::Float(values.with_nan_count(self.nans()))
            }
            Kind::F64 => {
                let (least, most) = (float_64(least), float_64(most));
                let values = ValueStatistics::new(Some(least), Some(most), None, nulls, false);
                Statistics::Double(values.with_nan_count(self.nans()))
            }
        }
    }
}

/// A number in the total order of floats.
pub fn key_32(value: f32) -> i32 {
    turned_32(value.to_bits().cast_signed())
}

/// A number in the total order of floats.
pub fn key_64(value: f64) -> i64 {
    turned_64(value.to_bits().cast_signed())
}

fn float_32(key: i128) -> f32 {
    f32::from_bits(turned_32(key as i32).cast_unsigned())
}

fn float_64(key: i128) -> f64 {
    f64::from_bits(turned_64(key as i64).cast_unsigned())
}

/// Negative floats fall as their bits rise; its own inverse.
fn turned_32(bits: i32) -> i32 {
    bits ^ ((bits >> 31).cast_unsigned() >> 1).cast_signed()
}

fn turned_64(bits: i64) -> i64 {
    bits ^ ((bits >> 63).cast_unsigned() >> 1).cast_signed()
}

fn least_and_most<T: Copy, K: Copy + Ord>(values: &[T], key: impl Fn(T) -> K) -> Option<(K, K)> {
    /// As many as a compiler keeps side by side.
    const LANES: usize = 16;
    let first = key(*values.first()?);
    let (mut least, mut most) = ([first; LANES], [first; LANES]);
    let (whole, rest) = values.as_chunks::<LANES>();
    for values in whole {
        for ((least, most), &value) in least.iter_mut().zip(&mut most).zip(values) {
            *least = (*least).min(key(value));
            *most = (*most).max(key(value));
        }
    }
    for &value in rest {
        least[0] = least[0].min(key(value));
        most[0] = most[0].max(key(value));
    }
    Some((least.into_iter().min()?, most.into_iter().max()?))
}
