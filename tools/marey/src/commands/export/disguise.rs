//! What an export says instead of what the session says: pseudonyms, and a constant shift of all times.
//!
//! Owns: the file of pseudonyms, what is replaced and what is left out by it, and the account of that. Without a file an export
//! says what the session says.
//!
//! Invariants: who has no pseudonym is an error, never exported under the own name; of the session's metadata nothing is exported
//! whose key is not known to be harmless; differences of times stay what they are.

use super::recording::Stream;
use crate::output::{Failure, Result};
use arrow::array::{
    Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Int64Type, TimestampMicrosecondType};
use marey_engine::Session;
use marey_format::{DeviceId, FieldType, SessionId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// Keys of a session's metadata that say who takes part: their values are replaced.
const PARTICIPANT: [&str; 4] = ["participant", "participant_id", "subject", "subject_id"];

/// Keys that say nothing of a person.
const HARMLESS: [&str; 6] = ["block", "condition", "protocol", "run", "task", "visit"];

/// Other names and times.
#[derive(Debug, Default)]
pub struct Disguise {
    pseudonyms: Option<Pseudonyms>,
}

/// The file of pseudonyms, in TOML.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pseudonyms {
    /// Session and what it is called.
    sessions: BTreeMap<String, SessionId>,
    /// What the metadata say of who takes part, and what is said instead.
    #[serde(default)]
    participants: BTreeMap<String, String>,
    /// Devices; absent, they keep their names.
    devices: Option<BTreeMap<String, DeviceId>>,
    /// Whole days that all times are shifted by.
    #[serde(default)]
    shift_days: i64,
    #[serde(default)]
    keep: Keep,
}

/// What is exported although it may tell of a person.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Keep {
    /// More keys of the metadata.
    metadata: Vec<String>,
    /// What is written in events.
    event_texts: bool,
}

/// What was changed, for whoever exports; it names what was there, and is no part of the export.
#[derive(Debug, Serialize)]
pub struct Changes {
    session: Change,
    participants: Vec<Change>,
    devices: Vec<Change>,
    /// Devices under their own names.
    devices_kept: Vec<String>,
    shift_days: i64,
    metadata_kept: Vec<String>,
    metadata_left_out: Vec<String>,
    event_texts_left_out: bool,
    /// Streams with texts, which are exported as they are.
    texts: Vec<String>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Change {
    from: String,
    to: String,
}

/// A hundred years.
const SHIFT_DAYS_MAX: i64 = 36_525;

impl Disguise {
    /// Reads a file of pseudonyms.
    pub fn read(path: &Path) -> Result<Self> {
        let shown = path.display();
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::fault(format!("{shown} can't be read: {error}")))?;
        let pseudonyms: Pseudonyms = toml::from_str(&text).map_err(|error| {
            let error = error.to_string().trim_end().replace('\n', "; ");
            Failure::fault(format!("{shown} is no file of pseudonyms: {error}"))
        })?;
        let wrong = |what: String| Failure::fault(format!("{shown}: {what}"));
        if pseudonyms.shift_days.abs() > SHIFT_DAYS_MAX {
            return Err(wrong(format!(
                "shift_days is at most {SHIFT_DAYS_MAX} either way"
            )));
        }
        let participants = pseudonyms.participants.values().map(String::as_str);
        once("participants", participants).map_err(wrong)?;
        let devices = pseudonyms
            .devices
            .iter()
            .flat_map(BTreeMap::values)
            .map(DeviceId::as_str);
        once("devices", devices).map_err(wrong)?;
        once("sessions", pseudonyms.sessions.values().map(SessionId::as_str)).map_err(wrong)?;
        Ok(Self {
            pseudonyms: Some(pseudonyms),
        })
    }

    /// Fails where somebody or something would be exported that has no pseudonym, or that tells of one all the same.
    pub fn check(&self, session: &Session, streams: &[Stream]) -> Result {
        let Some(known) = &self.pseudonyms else {
            return Ok(());
        };
        let missing = |what: &str, name: &str, table: &str| {
            Failure::fault(format!(
                "{what} {name:?} has no pseudonym; add it to [{table}] of the file of pseudonyms"
            ))
        };
        if !known.sessions.contains_key(session.id.as_str()) {
            return Err(missing("session", session.id.as_str(), "sessions"));
        }
        for (_, value) in session.metadata.iter().filter(|(key, _)| is_of_participant(key)) {
            if !known.participants.contains_key(value) {
                return Err(missing("participant", value, "participants"));
            }
        }
        for stream in streams {
            if known
                .devices
                .as_ref()
                .is_some_and(|devices| !devices.contains_key(stream.id.as_str()))
            {
                return Err(missing("device", stream.id.as_str(), "devices"));
            }
        }
        self.tells_nothing(known, session, streams)
    }

    /// A participant's own name must not stand in what is exported as it is.
    fn tells_nothing(&self, known: &Pseudonyms, session: &Session, streams: &[Stream]) -> Result {
        let mut said: Vec<(String, String)> = Vec::new();
        for stream in streams {
            said.push(("a device's name".to_owned(), stream.device.clone()));
            said.push(("a stream's name".to_owned(), stream.name.clone()));
            let labels = stream
                .declaration
                .fields
                .iter()
                .filter_map(|field| field.description.clone());
            let labels = labels.chain(stream.declaration.sensor.clone());
            said.extend(labels.map(|label| (format!("what {} says of itself", stream.name), label)));
        }
        let kept = self.metadata(&session.metadata).into_iter();
        let kept = kept.filter(|(key, _)| !is_of_participant(key));
        said.extend(kept.map(|(key, value)| (format!("the metadata's {key}"), value)));
        for name in known.participants.keys().filter(|name| !name.is_empty()) {
            let is_told = |text: &String| text.to_lowercase().contains(&name.to_lowercase());
            if let Some((what, text)) = said.iter().find(|(_, text)| is_told(text)) {
                return Err(Failure::fault(format!(
                    "{what} would tell of participant {name:?}: {text:?}; give it another name, or leave it out"
                )));
            }
        }
        Ok(())
    }

    pub fn session(&self, session: &SessionId) -> String {
        let known = self.pseudonyms.as_ref();
        let other = known.and_then(|known| known.sessions.get(session.as_str()));
        other.unwrap_or(session).to_string()
    }

    pub fn device(&self, device: &DeviceId) -> String {
        self.device_named(device.as_str())
    }

    fn device_named(&self, device: &str) -> String {
        let devices = self.pseudonyms.as_ref().and_then(|known| known.devices.as_ref());
        let other = devices.and_then(|devices| devices.get(device));
        other.map_or_else(|| device.to_owned(), DeviceId::to_string)
    }

    pub fn time_us(&self, time_us: i64) -> i64 {
        time_us.saturating_add(self.shift_ns() / 1_000)
    }

    fn shift_ns(&self) -> i64 {
        let days = self.pseudonyms.as_ref().map_or(0, |known| known.shift_days);
        days * 86_400_000_000_000
    }

    pub fn metadata(&self, metadata: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let Some(known) = &self.pseudonyms else {
            return metadata.clone();
        };
        let said = metadata
            .iter()
            .filter_map(|(key, value)| match is_of_participant(key) {
                true => Some((key.clone(), known.participants.get(value)?.clone())),
                false => known.keeps(key).then(|| (key.clone(), value.clone())),
            });
        said.collect()
    }

    /// Rows of a stream as they are exported: with another time, and the device's own stamps as much shifted, since they may be UTC.
    pub fn rows(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        match self.shift_ns() {
            0 => Ok(batch.clone()),
            _ => self.with(batch, |at, _| at < 2),
        }
    }

    /// Rows of a table beside the streams as they are exported.
    pub fn table(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        match self.pseudonyms {
            None => Ok(batch.clone()),
            Some(_) => self.with(batch, |_, _| true),
        }
    }

    fn with(&self, batch: &RecordBatch, is_own: impl Fn(usize, &str) -> bool) -> Result<RecordBatch> {
        let schema = batch.schema();
        let columns = schema.fields().iter().zip(batch.columns()).enumerate();
        let changed = columns.map(|(at, (field, column))| match is_own(at, field.name()) {
            true => self.column(field.name(), column),
            false => column.clone(),
        });
        RecordBatch::try_new(schema.clone(), changed.collect()).map_err(Failure::fault)
    }

    fn column(&self, name: &str, column: &ArrayRef) -> ArrayRef {
        let keeps_texts = self
            .pseudonyms
            .as_ref()
            .is_none_or(|known| known.keep.event_texts);
        match (column.data_type(), name) {
            (DataType::Timestamp(..), _) => {
                let times = column.as_primitive::<TimestampMicrosecondType>().values().iter();
                // A gap of a stream of which nothing came has no time.
                let shifted = times.map(|&time_us| if time_us == 0 { 0 } else { self.time_us(time_us) });
                Arc::new(TimestampMicrosecondArray::from_iter_values(shifted).with_timezone("UTC"))
            }
            (DataType::Int64, "device_time_ns" | "session_time_ns" | "stamp_ns") => {
                let stamps = column.as_primitive::<Int64Type>().values().iter();
                let shifted = stamps.map(|stamp_ns| stamp_ns.saturating_add(self.shift_ns()));
                Arc::new(Int64Array::from_iter_values(shifted))
            }
            (DataType::Utf8, "device") => {
                let names = column.as_string::<i32>().iter();
                let renamed: StringArray = names
                    .map(|name| name.map(|name| self.device_named(name)))
                    .collect();
                Arc::new(renamed)
            }
            (DataType::Utf8, "text") if !keeps_texts => Arc::new(StringArray::new_null(column.len())),
            _ => column.clone(),
        }
    }

    /// What was changed; none without a file of pseudonyms.
    pub fn changes(&self, session: &Session, streams: &[Stream]) -> Option<Changes> {
        let known = self.pseudonyms.as_ref()?;
        let change = |from: &str, to: String| Change {
            from: from.to_owned(),
            to,
        };
        let keys = || session.metadata.keys().filter(|key| !is_of_participant(key));
        let participants = session.metadata.iter().filter(|(key, _)| is_of_participant(key));
        let participants: BTreeSet<Change> = participants
            .filter_map(|(_, value)| Some(change(value, known.participants.get(value)?.clone())))
            .collect();
        let (mut devices, mut devices_kept) = (BTreeSet::new(), BTreeSet::new());
        for stream in streams {
            match stream.device == stream.id.as_str() {
                true => devices_kept.insert(stream.device.clone()),
                false => devices.insert(change(stream.id.as_str(), stream.device.clone())),
            };
        }
        let has_texts = |stream: &&Stream| {
            stream
                .declaration
                .fields
                .iter()
                .any(|field| field.kind == FieldType::Utf8)
        };
        Some(Changes {
            session: change(session.id.as_str(), self.session(&session.id)),
            participants: participants.into_iter().collect(),
            devices: devices.into_iter().collect(),
            devices_kept: devices_kept.into_iter().collect(),
            shift_days: known.shift_days,
            metadata_kept: keys().filter(|key| known.keeps(key)).cloned().collect(),
            metadata_left_out: keys().filter(|key| !known.keeps(key)).cloned().collect(),
            event_texts_left_out: !known.keep.event_texts,
            texts: streams
                .iter()
                .filter(has_texts)
                .map(|stream| format!("{} of {}", stream.name, stream.device))
                .collect(),
        })
    }
}

impl Pseudonyms {
    fn keeps(&self, key: &str) -> bool {
        HARMLESS.contains(&key) || self.keep.metadata.iter().any(|kept| kept == key)
    }
}

impl std::fmt::Display for Changes {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let list = |names: &[String]| match names.is_empty() {
            true => "none".to_owned(),
            false => names.join(", "),
        };
        let told = |changes: &[Change]| {
            let told = changes
                .iter()
                .map(|change| format!("{} is {}", change.from, change.to));
            list(&told.collect::<Vec<_>>())
        };
        writeln!(to, "session: {} is {}", self.session.from, self.session.to)?;
        writeln!(to, "participants: {}", told(&self.participants))?;
        writeln!(
            to,
            "devices: {}; under their own names: {}",
            told(&self.devices),
            list(&self.devices_kept)
        )?;
        match self.shift_days {
            0 => writeln!(to, "times: NOT shifted")?,
            days => writeln!(to, "times: shifted by {days} days, device stamps too")?,
        }
        writeln!(
            to,
            "metadata: kept {}; left out {}",
            list(&self.metadata_kept),
            list(&self.metadata_left_out)
        )?;
        let texts = if self.event_texts_left_out {
            "left out"
        } else {
            "KEPT"
        };
        writeln!(to, "texts of events: {texts}")?;
        write!(
            to,
            "streams with texts, which are as they were: {}",
            list(&self.texts)
        )
    }
}

fn is_of_participant(key: &str) -> bool {
    PARTICIPANT.contains(&key)
}

/// No two of a table have one pseudonym.
fn once<'n>(table: &str, names: impl Iterator<Item = &'n str>) -> std::result::Result<(), String> {
    let mut seen = BTreeSet::new();
    for name in names {
        if name.trim().is_empty() || name.chars().any(char::is_control) {
            return Err(format!("{name:?} in [{table}] is no pseudonym"));
        }
        if !seen.insert(name) {
            return Err(format!("[{table}] has {name:?} for two"));
        }
    }
    Ok(())
}
