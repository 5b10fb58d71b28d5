//! What JSON messages hold: the fields of a stream, as it was declared or as its messages are.
//!
//! Objects within objects become fields of their own, `a.b` the field `a_b`. A field is of numbers, truths or texts as all of its values
//! are; where they differ it is text, each value as JSON. Lists of as many numbers in each message are lists.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use marey_device::replay::columns::fit_name;
use marey_format::frame::Value as Sample;
use marey_format::types::Field;
use marey_format::{Declaration, FieldType, StreamName, limits};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// One message, taken apart.
#[derive(Debug)]
pub struct Message(Vec<(String, Value)>);

/// Objects are within each other no deeper.
const DEPTH_MAX: usize = 16;

impl Message {
    /// # Errors
    /// Why it is no sample.
    pub fn parse(data: &[u8]) -> Result<Self, String> {
        if data.len() > limits::FRAME_BYTES_MAX / 4 {
            return Err(format!("{} bytes are too many for a sample", data.len()));
        }
        let value: Value = serde_json::from_slice(data).map_err(|error| format!("no JSON: {error}"))?;
        let mut parts = Vec::new();
        match value {
            Value::Object(object) => flatten("", object, 0, &mut parts)?,
            // A message that is one value.
            value => parts.push(("value".to_owned(), value)),
        }
        Ok(Self(parts))
    }

    fn get(&self, path: &str) -> Option<&Value> {
        self.0
            .iter()
            .find(|(known, _)| known == path)
            .map(|(_, value)| value)
    }
}

fn flatten(
    before: &str,
    object: Map<String, Value>,
    depth: usize,
    to: &mut Vec<(String, Value)>,
) -> Result<(), String> {
    if depth > DEPTH_MAX {
        return Err(format!(
            "objects are within each other more than {DEPTH_MAX} deep"
        ));
    }
    for (key, value) in object {
        let path = if before.is_empty() {
            key
        } else {
            format!("{before}.{key}")
        };
        match value {
            Value::Object(object) => flatten(&path, object, depth + 1, to)?,
            value => to.push((path, value)),
        }
    }
    Ok(())
}

/// The fields of a channel.
#[derive(Debug)]
pub struct Fields {
    declared: Option<Declaration>,
    /// By path, in the order in which they came.
    found: Vec<(String, Holds)>,
    places: BTreeMap<String, usize>,
    /// Messages so far.
    messages: u64,
    /// The widest bound that Marey exported; none where one message says none.
    err_us_max: Option<f64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Holds {
    /// Nobody looked yet.
    Nothing,
    /// Null, or not there.
    Missing,
    Whole {
        signed: bool,
        large: bool,
    },
    Float,
    Truth,
    Text,
    List(usize),
    /// Of several kinds: as JSON.
    Json,
}

impl Fields {
    pub fn new(declared: Option<Declaration>) -> Self {
        Self {
            declared,
            found: Vec::new(),
            places: BTreeMap::new(),
            messages: 0,
            err_us_max: Some(0.0),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.declared.is_none() && self.found.is_empty()
    }

    /// The widest bound of all messages, where Marey exported them.
    pub fn err_us_max(&self) -> Option<f64> {
        self.err_us_max.filter(|_| self.declared.is_some())
    }

    /// A sample's index, where Marey exported it: whole, and none that Parquet has no number for.
    pub fn index(&self, message: &Message) -> Option<u64> {
        self.declared.as_ref()?;
        u64::try_from(message.get("seq")?.as_i64()?).ok()
    }

    /// Looks at a message.
    pub fn take(&mut self, message: &Message) -> Result<(), String> {
        if let Some(declared) = &self.declared {
            self.declared_values(declared, message)?;
            let err_us = message.get("time_err_us").and_then(Value::as_f64);
            self.err_us_max = self
                .err_us_max
                .zip(err_us)
                .map(|(widest, err_us)| widest.max(err_us));
            return Ok(());
        }
        let mut next = Vec::with_capacity(message.0.len());
        for (path, value) in &message.0 {
            let before = self.places.get(path).map(|&at| &self.found[at].1);
            next.push(before.unwrap_or(&Holds::Nothing).with(value));
        }
        let new = message
            .0
            .iter()
            .filter(|(path, _)| !self.places.contains_key(path))
            .count();
        if self.found.len() + new > limits::FIELDS_PER_STREAM_MAX {
            let most = limits::FIELDS_PER_STREAM_MAX;
            return Err(format!("with it there would be more than {most} fields"));
        }
        for ((path, _), holds) in message.0.iter().zip(next) {
            match self.places.get(path) {
                Some(&at) => self.found[at].1 = holds,
                None => {
                    self.places.insert(path.clone(), self.found.len());
                    // It was missing before.
                    let holds = if self.messages > 0 {
                        holds.with(&Value::Null)
                    } else {
                        holds
                    };
                    self.found.push((path.clone(), holds));
                }
            }
        }
        for (path, holds) in &mut self.found {
            if message.get(path).is_none() {
                *holds = holds.with(&Value::Null);
            }
        }
        self.messages += 1;
        Ok(())
    }

    /// What the stream is.
    pub fn declaration(&self, name: &StreamName, topic: &str) -> Declaration {
        if let Some(declared) = &self.declared {
            return declared.clone();
        }
        let mut names: Vec<String> = Vec::new();
        let fields = self.found.iter().map(|(path, holds)| {
            let fit = fit_name(path, &names);
            names.push(fit.clone());
            let description = super::super::header::label(path).filter(|label| *label != fit);
            Field {
                name: StreamName::new(fit).expect("it was made fit"),
                kind: holds.kind(),
                length: match holds {
                    Holds::List(length) => u32::try_from(*length).ok(),
                    _ => None,
                },
                unit: None,
                scale: None,
                offset: None,
                description,
            }
        });
        Declaration {
            name: name.clone(),
            fields: fields.collect(),
            rate_hz: None,
            sensor: None,
            latency_us: None,
            latency_tolerance_us: None,
            description: super::super::header::label(&format!("MCAP topic {topic}")),
        }
    }

    /// A message's values, in the order of the declaration.
    pub fn values(&self, message: &Message) -> Result<Vec<Sample>, String> {
        match &self.declared {
            Some(declared) => self.declared_values(declared, message),
            // Only one that was bad has what no other has.
            None if message.0.iter().any(|(path, _)| !self.places.contains_key(path)) => {
                Err("it has fields of its own".to_owned())
            }
            None => Ok(self
                .found
                .iter()
                .map(|(path, holds)| holds.sample(message.get(path)))
                .collect()),
        }
    }

    fn declared_values(&self, declared: &Declaration, message: &Message) -> Result<Vec<Sample>, String> {
        match message.get("seq") {
            Some(seq) if self.index(message).is_none() => {
                Err(format!("seq: {} is no index of a sample", shown(seq)))
            }
            _ => values(declared, message),
        }
    }
}

impl Holds {
    /// What a value makes of it.
    fn with(&self, value: &Value) -> Self {
        let of_value = match value {
            Value::Null => Self::Missing,
            Value::Bool(_) => Self::Truth,
            Value::String(_) => Self::Text,
            Value::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(whole), _) => Self::Whole {
                    signed: whole < 0,
                    large: false,
                },
                (None, Some(_)) => Self::Whole {
                    signed: false,
                    large: true,
                },
                (None, None) => Self::Float,
            },
            Value::Array(items) if !items.is_empty() && items.iter().all(Value::is_number) => {
                Self::List(items.len())
            }
            Value::Array(_) | Value::Object(_) => Self::Json,
        };
        match (self, of_value) {
            (Self::Nothing, other) => other,
            // What is missing is NaN among numbers, empty among texts, and null otherwise.
            (Self::Whole { .. } | Self::Float, Self::Missing)
            | (Self::Missing, Self::Whole { .. } | Self::Float) => Self::Float,
            (Self::Text, Self::Missing) | (Self::Missing, Self::Text) => Self::Text,
            (Self::Whole { signed: a, large: b }, Self::Whole { signed: c, large: d }) => {
                let (signed, large) = (*a || c, *b || d);
                if signed && large {
                    Self::Float
                } else {
                    Self::Whole { signed, large }
                }
            }
            (Self::Whole { .. } | Self::Float, Self::Whole { .. } | Self::Float) => Self::Float,
            (known, other) if *known == other => other,
            _ => Self::Json,
        }
    }

    fn kind(&self) -> FieldType {
        match self {
            Self::Whole { large: false, .. } => FieldType::I64,
            Self::Whole { .. } => FieldType::U64,
            Self::Nothing | Self::Missing | Self::Float | Self::List(_) => FieldType::F64,
            Self::Truth => FieldType::Bool,
            Self::Text | Self::Json => FieldType::Utf8,
        }
    }

    /// A value of a message that was looked at.
    fn sample(&self, value: Option<&Value>) -> Sample {
        let float = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
        let value = value.unwrap_or(&Value::Null);
        match self {
            Self::Whole { large: false, .. } => Sample::I64(value.as_i64().unwrap_or_default()),
            Self::Whole { .. } => Sample::U64(value.as_u64().unwrap_or_default()),
            Self::Nothing | Self::Missing | Self::Float => Sample::F64(float(value)),
            Self::Truth => Sample::Bool(value.as_bool().unwrap_or_default()),
            Self::Text => Sample::Text(value.as_str().unwrap_or_default().to_owned()),
            Self::Json => Sample::Text(value.to_string()),
            Self::List(_) => {
                let items = value.as_array().map_or(&[][..], Vec::as_slice);
                Sample::List(items.iter().map(|item| Sample::F64(float(item))).collect())
            }
        }
    }
}

/// The values of a message that a declaration speaks of.
fn values(declaration: &Declaration, message: &Message) -> Result<Vec<Sample>, String> {
    let of = |field: &Field| {
        let value = message.get(field.name.as_str());
        let value = value.ok_or_else(|| format!("it has no {}", field.name))?;
        let wrong = || format!("{}: {} is not of its type", field.name, shown(value));
        match field.length {
            None => sample(field.kind, value).ok_or_else(wrong),
            Some(length) => {
                let items = value.as_array().filter(|items| items.len() == length as usize);
                let items: Option<Vec<Sample>> =
                    items.and_then(|items| items.iter().map(|item| sample(field.kind, item)).collect());
                items.map(Sample::List).ok_or_else(wrong)
            }
        }
    };
    declaration.fields.iter().map(of).collect()
}

fn sample(kind: FieldType, value: &Value) -> Option<Sample> {
    let float = || match value {
        Value::String(text) => match text.as_str() {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        value => value.as_f64(),
    };
    Some(match kind {
        FieldType::F32 => Sample::F32(float()? as f32),
        FieldType::F64 => Sample::F64(float()?),
        FieldType::Bool => Sample::Bool(value.as_bool()?),
        FieldType::Utf8 => Sample::Text(value.as_str()?.to_owned()),
        FieldType::Binary => Sample::Bytes(STANDARD.decode(value.as_str()?).ok()?),
        FieldType::U8 | FieldType::U16 | FieldType::U32 | FieldType::U64 => Sample::U64(value.as_u64()?),
        _ => Sample::I64(value.as_i64()?),
    })
    .filter(|sample| fits(kind, sample))
}

fn fits(kind: FieldType, sample: &Sample) -> bool {
    match (kind, sample) {
        (FieldType::I8, Sample::I64(value)) => i8::try_from(*value).is_ok(),
        (FieldType::I16, Sample::I64(value)) => i16::try_from(*value).is_ok(),
        (FieldType::I32, Sample::I64(value)) => i32::try_from(*value).is_ok(),
        (FieldType::U8, Sample::U64(value)) => u8::try_from(*value).is_ok(),
        (FieldType::U16, Sample::U64(value)) => u16::try_from(*value).is_ok(),
        (FieldType::U32, Sample::U64(value)) => u32::try_from(*value).is_ok(),
        _ => true,
    }
}

/// The first characters of a value.
fn shown(value: &Value) -> String {
    marey_format::types::plain(&value.to_string().chars().take(40).collect::<String>())
}
