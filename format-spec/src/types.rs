#![doc = include_str!("../types.md")]

mod declaration;
mod name;
mod path;
mod text;

pub use declaration::{Declaration, DeclarationError, Field, FieldType, Period};
pub use name::{DeviceId, FileName, KeyName, NameError, SessionId, StreamName, StudyId, UserId};
pub use path::is_path_below;
pub use text::{Label, LabelError, is_steering, plain, plain_lines};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// The random 128-bit id of an epoch: one life of a device's clock and of its frame counters.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct EpochId(pub [u8; 16]);

impl EpochId {
    /// Stands for "no epoch": the seed of frames that the hub writes.
    pub const HUB: Self = Self([0; 16]);
}

/// The id of a device's boot, all zeros where the device can't tell. Epochs of one boot share one clock.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct BootId(pub [u8; 16]);

impl BootId {
    /// The device can't tell its boots apart.
    pub const UNKNOWN: Self = Self([0; 16]);

    /// Whether the device told one.
    pub fn is_known(&self) -> bool {
        *self != Self::UNKNOWN
    }
}

/// One life of the hub's clock: the first eight bytes of the hub kernel's boot id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct HubEpoch(pub u64);

/// Which key a time packet is authenticated with.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct KeyId(pub u64);

/// The random id of a command: a device carries each out once.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct CommandId(pub [u8; 16]);

macro_rules! hex_id {
    ($type:ident, $bytes:literal, $from:expr, $to:expr) => {
        impl std::fmt::Display for $type {
            fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let to: fn(&$type) -> [u8; $bytes] = $to;
                out.write_str(&hex(&to(self)))
            }
        }

        impl std::fmt::Debug for $type {
            fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(out, "{}({self})", stringify!($type))
            }
        }

        impl std::str::FromStr for $type {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                let from: fn([u8; $bytes]) -> $type = $from;
                unhex::<$bytes>(text)
                    .map(from)
                    .ok_or_else(|| NameError::NotHex {
                        what: stringify!($type),
                        digits: $bytes * 2,
                        found: text.chars().take(64).collect(),
                    })
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                String::deserialize(from)?.parse().map_err(D::Error::custom)
            }
        }
    };
}

hex_id!(EpochId, 16, EpochId, |id| id.0);
hex_id!(BootId, 16, BootId, |id| id.0);
hex_id!(CommandId, 16, CommandId, |id| id.0);
hex_id!(KeyId, 8, |bytes| KeyId(u64::from_be_bytes(bytes)), |id| id
    .0
    .to_be_bytes());
hex_id!(HubEpoch, 8, |bytes| HubEpoch(u64::from_be_bytes(bytes)), |id| id
    .0
    .to_be_bytes());

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]])
        .map(char::from)
        .collect()
}

/// The bytes of exactly `2 * N` hexadecimal digits.
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let text = text.as_bytes();
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = u8::try_from(high << 4 | low).ok()?;
    }
    Some(bytes)
}

/// Microseconds of POSIX time as RFC 3339.
pub fn rfc3339(time_us: i64) -> String {
    let (days, of_day) = (
        time_us.div_euclid(86_400_000_000),
        time_us.rem_euclid(86_400_000_000),
    );
    // Days since 1970-01-01 to a date (H. Hinnant, "chrono-compatible low-level date algorithms", civil_from_days).
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (second, micro) = (of_day / 1_000_000, of_day % 1_000_000);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micro:06}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_text() {
        let id = EpochId([0xA5; 16]);
        assert_eq!(id.to_string().parse::<EpochId>().unwrap(), id);
        assert!("a5".parse::<EpochId>().is_err());
        assert!("g".repeat(32).parse::<EpochId>().is_err());
        assert!("é".repeat(16).parse::<EpochId>().is_err());
        assert_eq!(HubEpoch(0x0102).to_string(), "0000000000000102");
    }

    #[test]
    fn times_are_written_as_dates() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(rfc3339(-1), "1969-12-31T23:59:59.999999Z");
        assert_eq!(rfc3339(1_795_248_000_123_456), "2026-11-21T08:00:00.123456Z");
        assert_eq!(rfc3339(951_782_400_000_000), "2000-02-29T00:00:00.000000Z");
    }
}
