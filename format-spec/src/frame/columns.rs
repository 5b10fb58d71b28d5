//! Reading the columns of a data frame, in place: slices of the frame's bytes, checked against the declaration.

use super::{Flags, Frame, FrameError, padded};
use crate::limits;
use crate::types::{Declaration, Field, FieldType, Period};

/// The columns of one data frame.
#[derive(Clone, Debug, PartialEq)]
pub struct Columns<'a> {
    /// Device time of each sample.
    pub times: Times<'a>,
    /// One for each declared field, in order.
    pub fields: Vec<Column<'a>>,
}

/// Device times of a frame: a column, or a first time and a period.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Times<'a> {
    /// `count` little-endian i64.
    Column(&'a [u8]),
    Regular {
        first_ns: i64,
        period: Period,
        count: u32,
    },
}

/// The bytes of one field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Column<'a> {
    /// `count x length` elements of the type's width, little-endian.
    Fixed(&'a [u8]),
    /// `count + 1` little-endian u32, and the bytes that they cut.
    Variable { offsets: &'a [u8], data: &'a [u8] },
}

impl<'a> Columns<'a> {
    /// Cuts the payload of a data frame into its columns and checks that the values are of their types.
    ///
    /// # Errors
    /// Anything that would make a value unreadable: sizes that do not add up, times that go back, text that is not
    /// UTF-8, bools other than 0 and 1.
    pub fn parse(frame: &Frame<'a>, declaration: &Declaration) -> Result<Self, FrameError> {
        let header = frame.header();
        if header.flags.0 & !Flags::KNOWN.0 != 0 {
            return Err(FrameError::Flags {
                found: header.flags.0,
            });
        }
        if header.count > limits::SAMPLES_PER_FRAME_MAX {
            return Err(FrameError::Count { found: header.count });
        }
        if header.count == 0 {
            return Err(FrameError::Empty);
        }
        let count = header.count as usize;
        let mut rest = Rest {
            bytes: frame.payload(),
        };
        let times = if header.flags.contains(Flags::REGULAR) {
            let head = rest.take("a period", 16)?;
            let word =
                |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("16 bytes were taken"));
            let period = Period {
                numerator: word(0),
                denominator: word(8),
            };
            let first_ns = header.first_time_ns;
            period
                .time_ns(first_ns, u64::from(header.count) - 1)
                .ok_or(FrameError::Period)?;
            Times::Regular {
                first_ns,
                period,
                count: header.count,
            }
        } else {
            Times::Column(rest.take("the time column", 8 * count)?)
        };
        times.check(header.first_time_ns)?;
        let mut fields = Vec::with_capacity(declaration.fields.len());
        for (at, field) in declaration.fields.iter().enumerate() {
            fields.push(rest.column(at, field, count)?);
        }
        match rest.bytes.len() {
            0 => Ok(Self { times, fields }),
            left => {
                let found = frame.payload().len();
                Err(FrameError::Payload {
                    what: "the declared stream",
                    expected: found - left,
                    found,
                })
            }
        }
    }
}

impl Times<'_> {
    /// Device time of sample `i`, for `i` below the count.
    pub fn at(&self, i: usize) -> i64 {
        match self {
            Self::Column(bytes) => {
                i64::from_le_bytes(bytes[8 * i..8 * i + 8].try_into().expect("eight bytes were cut"))
            }
            Self::Regular { first_ns, period, .. } => period
                .time_ns(*first_ns, i as u64)
                .expect("the last time of the frame was checked at parsing"),
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Self::Column(bytes) => bytes.len() / 8,
            Self::Regular { count, .. } => *count as usize,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn last(&self) -> i64 {
        self.at(self.len() - 1)
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = i64> + '_ {
        (0..self.len()).map(|i| self.at(i))
    }

    fn check(&self, first_ns: i64) -> Result<(), FrameError> {
        let Self::Column(bytes) = self else { return Ok(()) };
        if self.at(0) != first_ns {
            return Err(FrameError::FirstTime {
                header: first_ns,
                column: self.at(0),
            });
        }
        let (times, _) = bytes.as_chunks();
        let is_back = |pair: &[[u8; 8]]| i64::from_le_bytes(pair[1]) < i64::from_le_bytes(pair[0]);
        // All of them, without a branch for each: every frame that comes is looked at, and hardly any goes back.
        if !times.windows(2).fold(false, |any, pair| any | is_back(pair)) {
            return Ok(());
        }
        match times.windows(2).position(is_back) {
            Some(before) => Err(FrameError::TimeBackward {
                sample: before as u32 + 1,
            }),
            None => Ok(()),
        }
    }
}

impl<'a> Column<'a> {
    /// The bytes of row `i` of a utf8 or binary column; none for fixed-width ones.
    pub fn cell(&self, i: usize) -> Option<&'a [u8]> {
        match *self {
            Self::Fixed(_) => None,
            Self::Variable { offsets, data } => data.get(offset(offsets, i)?..offset(offsets, i + 1)?),
        }
    }
}

fn offset(offsets: &[u8], i: usize) -> Option<usize> {
    let bytes = offsets.get(4 * i..4 * i + 4)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?) as usize)
}

/// What is left of the payload. Its last column's padding is the frame's own, and may be missing here.
struct Rest<'a> {
    bytes: &'a [u8],
}

impl<'a> Rest<'a> {
    fn take(&mut self, what: &'static str, length: usize) -> Result<&'a [u8], FrameError> {
        let Some(taken) = self.bytes.get(..length) else {
            return Err(FrameError::Payload {
                what,
                expected: length,
                found: self.bytes.len(),
            });
        };
        self.bytes = &self.bytes[padded(length).min(self.bytes.len())..];
        Ok(taken)
    }

    fn column(&mut self, at: usize, field: &Field, count: usize) -> Result<Column<'a>, FrameError> {
        if let Some(width) = field.kind.width() {
            let bytes = self.take("a column", count * width * field.length.unwrap_or(1) as usize)?;
            if field.kind == FieldType::Bool
                && let Some(row) = bytes.iter().position(|&b| b > 1)
            {
                return Err(FrameError::Bool {
                    column: at,
                    row: row as u32,
                    found: bytes[row],
                });
            }
            return Ok(Column::Fixed(bytes));
        }
        let offsets = self.take("a column's offsets", 4 * (count + 1))?;
        let end = offset(offsets, count).expect("count + 1 offsets were cut");
        let data = self.take("a column's data", end)?;
        let mut before = 0;
        for row in 0..=count {
            let now = offset(offsets, row).expect("count + 1 offsets were cut");
            if now < before || now > end || (row == 0 && now != 0) {
                return Err(FrameError::Offsets { column: at });
            }
            if field.kind == FieldType::Utf8 && row > 0 && std::str::from_utf8(&data[before..now]).is_err() {
                return Err(FrameError::Utf8 {
                    column: at,
                    row: row as u32 - 1,
                });
            }
            before = now;
        }
        Ok(Column::Variable { offsets, data })
    }
}
