#![doc = include_str!("../types.md")]

mod declaration;
mod name;

pub use declaration::{Declaration, DeclarationError, Field, FieldType, Period};
pub use name::{DeviceId, NameError, SessionId, StreamName};

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
}
