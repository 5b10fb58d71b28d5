//! Time stamps of recordings: from decimal text to nanoseconds without a detour over floating point.
//!
//! Owns: units, how to guess one, exact conversion. Does not own: which column holds the stamps (`columns`).

/// The unit of a column of time stamps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeUnit {
    Seconds,
    Milliseconds,
    Microseconds,
    Nanoseconds,
}

impl TimeUnit {
    /// `s`, `ms`, `us`, `ns` and their long names.
    pub fn from_name(name: &str) -> Option<Self> {
        match name.trim().to_lowercase().as_str() {
            "s" | "sec" | "secs" | "second" | "seconds" => Some(Self::Seconds),
            "ms" | "msec" | "millis" | "millisecond" | "milliseconds" => Some(Self::Milliseconds),
            "us" | "µs" | "μs" | "usec" | "micros" | "microsecond" | "microseconds" => {
                Some(Self::Microseconds)
            }
            "ns" | "nsec" | "nanos" | "nanosecond" | "nanoseconds" => Some(Self::Nanoseconds),
            _ => None,
        }
    }

    /// By the size of a stamp, taking it for one since 1970: from 10^17 on nanoseconds, from 10^14 microseconds,
    /// from 10^11 milliseconds, below that seconds (of 1970, or of the recording).
    pub fn from_magnitude(stamp: f64) -> Self {
        match stamp.abs() {
            size if size >= 1e17 => Self::Nanoseconds,
            size if size >= 1e14 => Self::Microseconds,
            size if size >= 1e11 => Self::Milliseconds,
            _ => Self::Seconds,
        }
    }

    fn digits(self) -> i32 {
        match self {
            Self::Seconds => 9,
            Self::Milliseconds => 6,
            Self::Microseconds => 3,
            Self::Nanoseconds => 0,
        }
    }
}

/// The nanoseconds that a decimal number of `unit` means, exactly; below a nanosecond rounded half to even. None
/// if it is no plain decimal number (a sign, digits, a point, an exponent) or does not fit 64 bits.
pub fn nanoseconds(text: &str, unit: TimeUnit) -> Option<i64> {
    let text = text.trim();
    let (negative, text) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let mut value: i128 = 0;
    for digit in whole.bytes().chain(fraction.bytes()) {
        let digit = char::from(digit).to_digit(10)?;
        value = value.checked_mul(10)?.checked_add(i128::from(digit))?;
    }
    let shift = unit
        .digits()
        .checked_add(exponent)?
        .checked_sub(i32::try_from(fraction.len()).ok()?)?;
    let factor = 10i128.checked_pow(shift.unsigned_abs().min(38))?;
    let scaled = if shift >= 0 {
        value.checked_mul(factor)?
    } else {
        divided_half_to_even(value, factor)
    };
    i64::try_from(if negative { -scaled } else { scaled }).ok()
}

fn divided_half_to_even(value: i128, divisor: i128) -> i128 {
    let (quotient, rest) = (value / divisor, value % divisor);
    match (rest * 2).cmp(&divisor) {
        std::cmp::Ordering::Less => quotient,
        std::cmp::Ordering::Greater => quotient + 1,
        std::cmp::Ordering::Equal => quotient + quotient % 2,
    }
}

#[cfg(test)]
mod tests {
    use super::TimeUnit::*;
    use super::*;

    #[test]
    fn stamps_are_exact() {
        for (text, unit, expected) in [
            ("1657533977813", Milliseconds, 1_657_533_977_813_000_000),
            ("0.010078907", Seconds, 10_078_907),
            ("135.326642", Seconds, 135_326_642_000),
            ("1657533977.813000001", Seconds, 1_657_533_977_813_000_001),
            ("-1.5", Microseconds, -1_500),
            ("+1.5e3", Nanoseconds, 1_500),
            ("1.65E12", Milliseconds, 1_650_000_000_000_000_000),
            (".5", Nanoseconds, 0),
            ("1.5", Nanoseconds, 2),
            ("2.5", Nanoseconds, 2),
            ("2.50001", Nanoseconds, 3),
            ("5.", Seconds, 5_000_000_000),
            (" 7 ", Nanoseconds, 7),
            ("9223372036854775807", Nanoseconds, i64::MAX),
            ("1e-40", Seconds, 0),
        ] {
            assert_eq!(nanoseconds(text, unit), Some(expected), "{text}");
        }
        for text in [
            "",
            "-",
            ".",
            "nan",
            "1e",
            "1_0",
            "0x10",
            "2022-07-11",
            "1e300",
            "9223372036854775808",
            "1 2",
        ] {
            assert_eq!(nanoseconds(text, Nanoseconds), None, "{text}");
        }
    }

    #[test]
    fn units_are_guessed_by_size() {
        assert_eq!(TimeUnit::from_magnitude(1_657_533_977.8), Seconds);
        assert_eq!(TimeUnit::from_magnitude(1.6e12), Milliseconds);
        assert_eq!(TimeUnit::from_magnitude(1.6e15), Microseconds);
        assert_eq!(TimeUnit::from_magnitude(-1.6e18), Nanoseconds);
        assert_eq!(TimeUnit::from_name(" MS "), Some(Milliseconds));
        assert_eq!(TimeUnit::from_name("fortnights"), None);
    }
}
