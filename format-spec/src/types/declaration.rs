//! What a stream is: its fields with type and unit, its rate, its sensor. Travels as JSON.

use super::StreamName;
use crate::limits;
use serde::{Deserialize, Serialize};

/// The declaration of a stream: the payload of a declaration frame, and part of the hub's assignment of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Declaration {
    /// The stream's name; the hub adds the version (`NAME@N`).
    pub name: StreamName,
    /// The columns, in order.
    pub fields: Vec<Field>,
    /// Nominal rate in samples a second; absent for an irregular stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_hz: Option<f64>,
    /// The sensor, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sensor: Option<String>,
    /// Time from the physical event to the device's stamp, in microseconds. Metadata: never added to a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_us: Option<f64>,
    /// Half-width of what `latency_us` is known to, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_tolerance_us: Option<f64>,
    /// What a person would want to know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// One column of a stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Field {
    /// The column's name.
    pub name: StreamName,
    /// The type of an element.
    #[serde(rename = "type")]
    pub kind: FieldType,
    /// Elements of a fixed-size list; absent for a plain column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u32>,
    /// The unit, as a UCUM code (`m/s2`, `uS`, `mV`, `1`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Physical value = stored value x scale + offset; absent means 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<f64>,
    /// See `scale`; absent means 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<f64>,
    /// What a person would want to know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// The type of a field's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FieldType {
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    F32,
    F64,
    Bool,
    Utf8,
    Binary,
}

impl FieldType {
    /// Bytes of one element; none for utf8 and binary.
    pub fn width(self) -> Option<usize> {
        match self {
            Self::I8 | Self::U8 | Self::Bool => Some(1),
            Self::I16 | Self::U16 => Some(2),
            Self::I32 | Self::U32 | Self::F32 => Some(4),
            Self::I64 | Self::U64 | Self::F64 => Some(8),
            Self::Utf8 | Self::Binary => None,
        }
    }

    /// Whether lists of it may be declared.
    pub fn is_numeric(self) -> bool {
        !matches!(self, Self::Bool | Self::Utf8 | Self::Binary)
    }
}

/// The period of a regular frame: `numerator / denominator` nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    pub numerator: u64,
    pub denominator: u64,
}

impl Period {
    /// Device time of sample `i` of a frame that starts at `first_ns`: `first + floor(i x numerator / denominator)`.
    /// None beyond the range of i64, or with a denominator of 0.
    pub fn time_ns(self, first_ns: i64, i: u64) -> Option<i64> {
        let passed =
            (u128::from(i) * u128::from(self.numerator)).checked_div(u128::from(self.denominator))?;
        i64::try_from(i128::from(first_ns).checked_add(i128::try_from(passed).ok()?)?).ok()
    }
}

/// Why a declaration is refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum DeclarationError {
    /// Not JSON of the declared shape.
    #[error("not a declaration: {0}")]
    Json(String),
    /// Over `DECLARATION_BYTES_MAX`.
    #[error("{bytes} bytes, over the limit of {}", limits::DECLARATION_BYTES_MAX)]
    TooLong { bytes: usize },
    /// No field, or more than the limit.
    #[error("{fields} fields; a stream has 1 to {}", limits::FIELDS_PER_STREAM_MAX)]
    Fields { fields: usize },
    /// Two fields of one name.
    #[error("two fields are called {name}")]
    Twice { name: StreamName },
    /// A list of a type that has none, or of a length out of range.
    #[error(
        "field {name}: lists are of numbers, with 1 to {} elements",
        limits::LIST_LENGTH_MAX
    )]
    List { name: StreamName },
    /// A rate, scale, offset or latency that is not a finite number in range.
    #[error("{what} must be a finite number{more}, found {found}")]
    Number {
        what: &'static str,
        more: &'static str,
        found: f64,
    },
    /// A label over `LABEL_BYTES_MAX`, or with control characters.
    #[error(
        "{what} has control characters or more than {} bytes",
        limits::LABEL_BYTES_MAX
    )]
    Label { what: &'static str },
}

impl Declaration {
    /// Reads and checks a declaration.
    pub fn from_json(json: &[u8]) -> Result<Self, DeclarationError> {
        if json.len() > limits::DECLARATION_BYTES_MAX {
            return Err(DeclarationError::TooLong { bytes: json.len() });
        }
        let declaration: Self =
            serde_json::from_slice(json).map_err(|error| DeclarationError::Json(error.to_string()))?;
        declaration.check()?;
        Ok(declaration)
    }

    /// The JSON of this declaration, in the order of this type's fields.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a declaration has string keys and finite numbers only")
    }

    /// Checks all that the types alone don't.
    pub fn check(&self) -> Result<(), DeclarationError> {
        if self.fields.is_empty() || self.fields.len() > limits::FIELDS_PER_STREAM_MAX {
            return Err(DeclarationError::Fields {
                fields: self.fields.len(),
            });
        }
        if let Some(rate) = self.rate_hz
            && !(rate.is_finite() && rate > 0.0)
        {
            return Err(DeclarationError::Number {
                what: "rate_hz",
                more: " above 0",
                found: rate,
            });
        }
        for (what, value) in [
            ("latency_us", self.latency_us),
            ("latency_tolerance_us", self.latency_tolerance_us),
        ] {
            finite(what, value)?;
        }
        label("sensor", &self.sensor)?;
        label("description", &self.description)?;
        for (i, field) in self.fields.iter().enumerate() {
            if self.fields[..i].iter().any(|earlier| earlier.name == field.name) {
                return Err(DeclarationError::Twice {
                    name: field.name.clone(),
                });
            }
            if let Some(length) = field.length
                && !(field.kind.is_numeric() && (1..=limits::LIST_LENGTH_MAX).contains(&length))
            {
                return Err(DeclarationError::List {
                    name: field.name.clone(),
                });
            }
            finite("scale", field.scale)?;
            finite("offset", field.offset)?;
            label("unit", &field.unit)?;
            label("description", &field.description)?;
        }
        Ok(())
    }
}

fn finite(what: &'static str, value: Option<f64>) -> Result<(), DeclarationError> {
    match value {
        Some(found) if !found.is_finite() => Err(DeclarationError::Number {
            what,
            more: "",
            found,
        }),
        _ => Ok(()),
    }
}

fn label(what: &'static str, text: &Option<String>) -> Result<(), DeclarationError> {
    match text {
        Some(text) if text.len() > limits::LABEL_BYTES_MAX || text.chars().any(char::is_control) => {
            Err(DeclarationError::Label { what })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMU: &str = r#"{"name":"imu","fields":[{"name":"ax","type":"f32","unit":"m/s2"},
        {"name":"spectrum","type":"u16","length":64}],"rate_hz":100,"later":"ignored"}"#;

    #[test]
    fn a_declaration_survives_its_json() {
        let imu = Declaration::from_json(IMU.as_bytes()).unwrap();
        assert_eq!(imu.fields[1].length, Some(64));
        assert_eq!(Declaration::from_json(&imu.to_json()).unwrap(), imu);
    }

    #[test]
    fn numbers_survive_to_the_last_bit() {
        let mut imu = Declaration::from_json(IMU.as_bytes()).unwrap();
        for scale in [0.19844004278856286, 0.1, f64::MIN_POSITIVE, f64::MAX, -1.0 / 3.0] {
            imu.fields[0].scale = Some(scale);
            assert_eq!(Declaration::from_json(&imu.to_json()).unwrap(), imu);
        }
    }

    #[test]
    fn what_breaks_the_rules_is_named() {
        let broken =
            |from: &str, to: &str| Declaration::from_json(IMU.replace(from, to).as_bytes()).unwrap_err();
        assert!(matches!(broken("spectrum", "ax"), DeclarationError::Twice { .. }));
        assert!(matches!(broken("u16", "utf8"), DeclarationError::List { .. }));
        assert!(matches!(
            broken("\"length\":64", "\"length\":0"),
            DeclarationError::List { .. }
        ));
        assert!(matches!(broken("100", "0"), DeclarationError::Number { .. }));
        assert!(matches!(
            broken("m/s2", "\\u0007"),
            DeclarationError::Label { .. }
        ));
        assert!(matches!(broken("imu", "time"), DeclarationError::Json(_)));
    }

    #[test]
    fn periods_do_not_drift() {
        let third = Period {
            numerator: 1_000_000_000,
            denominator: 3,
        };
        assert_eq!(third.time_ns(5, 3), Some(1_000_000_005));
        assert_eq!(third.time_ns(i64::MAX, 1), None);
        assert_eq!(
            Period {
                numerator: 1,
                denominator: 0
            }
            .time_ns(0, 1),
            None
        );
    }
}
