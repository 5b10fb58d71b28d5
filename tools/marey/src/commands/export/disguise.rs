//! What an export says instead of what the session says: pseudonyms, and a constant shift of all times.
//!
//! Owns: the file of pseudonyms, what is replaced and what is left out by it, and the account of that. Without a file an export
//! says what the session says.
//!
//! Invariants: who has no pseudonym is an error, never exported under the own name; of the session's metadata nothing is exported
//! whose key is not known to be harmless, nor of the tables a column of texts that is not; no text but those of samples names a
//! participant; differences of times stay what they are.

use super::recording::{GAPS, Stream};
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

/// Columns of texts in tables that are words of Marey's own, or of how a stream is made.
const HARMLESS_COLUMNS: [&str; 11] = [
    "cause",
    "channel",
    "description",
    "device",
    "epochs",
    "kind",
    "sensor",
    "source",
    "stream",
    "type",
    "unit",
];

/// Shorter names of participants stand in too many words to be looked for.
const NAME_CHARS_LEAST: usize = 3;

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
    /// What streams say of themselves that names a participant or a session.
    labels_left_out: Vec<String>,
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
        let mut said = vec![("the session's pseudonym".to_owned(), self.session(&session.id))];
        for stream in streams {
            said.push(("a device's name".to_owned(), stream.device.clone()));
            said.push(("a stream's name".to_owned(), stream.key.name.to_string()));
            let fields = stream.declaration.fields.iter();
            said.extend(fields.map(|field| ("a channel's name".to_owned(), field.name.to_string())));
        }
        let exported = self.metadata(&session.metadata).into_iter();
        said.extend(exported.map(|(key, value)| (format!("the metadata's {key}"), value)));
        let of_session = streams.iter().find_map(|stream| {
            let name = known.session_told_in(&stream.device)?;
            Some(("a device's name", "session", name, stream.device.clone()))
        });
        let of_participant = said.iter().find_map(|(what, text)| {
            let name = known.told_in(text)?;
            Some((what.as_str(), "participant", name, text.clone()))
        });
        match of_participant.or(of_session) {
            None => Ok(()),
            Some((what, of, name, text)) => Err(Failure::fault(format!(
                "{what} would tell of {of} {name:?}: {text:?}; give it another name, or leave it out"
            ))),
        }
    }

    /// Takes from a stream what it says of itself where that names a participant or a session.
    pub fn hide(&self, stream: &mut Stream) {
        let Some(known) = &self.pseudonyms else { return };
        let (hidden, name) = (&mut stream.hidden, &stream.name);
        let mut hide = |what: &str, text: &mut Option<String>| {
            if text.as_deref().is_some_and(|text| !known.is_harmless(text)) {
                *text = None;
                hidden.push(format!("{what} of {name} of {}", stream.device));
            }
        };
        hide("sensor", &mut stream.declaration.sensor);
        hide("description", &mut stream.declaration.description);
        for field in &mut stream.declaration.fields {
            hide(&format!("unit of {}", field.name), &mut field.unit);
            hide(&format!("description of {}", field.name), &mut field.description);
        }
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
            _ => with(batch, |at, name, column| match at {
                0 | 1 => self.shifted("", name, column),
                _ => None,
            }),
        }
    }

    /// Rows of a table beside the streams as they are exported.
    pub fn table(&self, table: &str, batch: &RecordBatch) -> Result<RecordBatch> {
        match &self.pseudonyms {
            None => Ok(batch.clone()),
            Some(known) => with(batch, |_, name, column| {
                self.shifted(table, name, column)
                    .or_else(|| self.renamed(known, name, column))
            }),
        }
    }

    /// A column of times; none if it is of something else.
    fn shifted(&self, table: &str, name: &str, column: &ArrayRef) -> Option<ArrayRef> {
        match (column.data_type(), name) {
            (DataType::Timestamp(..), _) => {
                let times = column.as_primitive::<TimestampMicrosecondType>().values().iter();
                // A gap of a stream of which nothing came has no time.
                let is_none = |time_us| table == GAPS && time_us == 0;
                let shifted = times.map(|&time_us| {
                    if is_none(time_us) {
                        0
                    } else {
                        self.time_us(time_us)
                    }
                });
                Some(Arc::new(
                    TimestampMicrosecondArray::from_iter_values(shifted).with_timezone("UTC"),
                ))
            }
            (DataType::Int64, "device_time_ns" | "session_time_ns" | "stamp_ns") => {
                let stamps = column.as_primitive::<Int64Type>().values().iter();
                let shifted = stamps.map(|stamp_ns| stamp_ns.saturating_add(self.shift_ns()));
                Some(Arc::new(Int64Array::from_iter_values(shifted)))
            }
            _ => None,
        }
    }

    /// A column of texts without what is hidden; none if it is of something else.
    fn renamed(&self, known: &Pseudonyms, name: &str, column: &ArrayRef) -> Option<ArrayRef> {
        let texts = column.as_string_opt::<i32>()?.iter();
        let is_kept = match name {
            "text" => known.keep.event_texts,
            name => HARMLESS_COLUMNS.contains(&name),
        };
        let is_kept = |text: &str| {
            is_kept
                && match name {
                    // A word of how a session is made may be its name.
                    "channel" | "kind" | "stream" => known.told_in(text).is_none(),
                    _ => known.is_harmless(text),
                }
        };
        let renamed: StringArray = match name {
            "device" => texts.map(|text| Some(self.device_named(text?))).collect(),
            // Where a column has no null, what is left out is empty.
            _ if column.null_count() == 0 && name != "text" => texts
                .map(|text| Some(text.filter(|text| is_kept(text)).unwrap_or_default()))
                .collect(),
            _ => texts.map(|text| text.filter(|text| is_kept(text))).collect(),
        };
        Some(Arc::new(renamed))
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
            labels_left_out: streams.iter().flat_map(|stream| stream.hidden.clone()).collect(),
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

    /// The participant whose own name stands in a text, however it is written there: `P-07` in `p07_phone`.
    fn told_in(&self, text: &str) -> Option<&str> {
        told(self.participants.keys(), text)
    }

    /// The session that a text names: what is imported is often called after its file, device and sensor too.
    fn session_told_in(&self, text: &str) -> Option<&str> {
        told(self.sessions.keys(), text)
    }

    /// Whether a label may be exported.
    fn is_harmless(&self, label: &str) -> bool {
        self.told_in(label).or(self.session_told_in(label)).is_none()
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
        writeln!(
            to,
            "left out of what streams say of themselves: {}",
            list(&self.labels_left_out)
        )?;
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

/// The name that stands in a text, however it is written there.
fn told<'n>(mut names: impl Iterator<Item = &'n String>, text: &str) -> Option<&'n str> {
    let text = letters(text);
    let is_told = |name: &&String| {
        let name = letters(name);
        name.chars().count() >= NAME_CHARS_LEAST && text.contains(&name)
    };
    names.find(is_told).map(String::as_str)
}

/// Its letters and digits, all small.
fn letters(text: &str) -> String {
    let letters = text.chars().filter(|c| c.is_alphanumeric());
    letters.flat_map(char::to_lowercase).collect()
}

/// A batch with other columns where there are others.
fn with(
    batch: &RecordBatch,
    other: impl Fn(usize, &str, &ArrayRef) -> Option<ArrayRef>,
) -> Result<RecordBatch> {
    let schema = batch.schema();
    let columns = schema.fields().iter().zip(batch.columns()).enumerate();
    let columns = columns
        .map(|(at, (field, column))| other(at, field.name(), column).unwrap_or_else(|| column.clone()))
        .collect();
    RecordBatch::try_new(schema.clone(), columns).map_err(Failure::fault)
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

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::{Field, Schema};

    fn disguise(toml: &str) -> Disguise {
        Disguise {
            pseudonyms: Some(toml::from_str(toml).expect("it is one")),
        }
    }

    fn times(times_us: [i64; 2]) -> ArrayRef {
        Arc::new(TimestampMicrosecondArray::from_iter_values(times_us).with_timezone("UTC"))
    }

    fn texts(texts: [Option<&str>; 2]) -> ArrayRef {
        Arc::new(StringArray::from_iter(texts))
    }

    fn batch(columns: Vec<(&str, bool, ArrayRef)>) -> RecordBatch {
        let (fields, columns): (Vec<Field>, Vec<ArrayRef>) = columns
            .into_iter()
            .map(|(name, nullable, column)| (Field::new(name, column.data_type().clone(), nullable), column))
            .unzip();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("a batch")
    }

    #[test]
    fn every_time_is_shifted_but_that_of_a_gap_that_has_none() {
        const DAY_US: i64 = 86_400_000_000;
        let disguise = disguise("shift_days = 2\n[sessions]\n");
        let of = |batch: &RecordBatch| {
            let times = batch.column(0).as_primitive::<TimestampMicrosecondType>();
            times.values().to_vec()
        };
        let stamps: ArrayRef = Arc::new(Int64Array::from(vec![0, 5]));
        let rows = batch(vec![
            ("time", false, times([0, 7])),
            ("device_time_ns", false, stamps),
        ]);
        let shifted = disguise.rows(&rows).expect("shifted");
        assert_eq!(of(&shifted), [2 * DAY_US, 2 * DAY_US + 7]);
        let stamps = shifted.column(1).as_primitive::<Int64Type>().values();
        assert_eq!(stamps.as_ref(), [2_000 * DAY_US, 2_000 * DAY_US + 5]);
        let table = |name: &str| of(&disguise.table(name, &rows).expect("shifted"));
        assert_eq!(table("events"), [2 * DAY_US, 2 * DAY_US + 7]);
        assert_eq!(table(GAPS), [0, 2 * DAY_US + 7]);
    }

    #[test]
    fn texts_of_tables_are_left_out_unless_somebody_vouches_for_them() {
        let rows = batch(vec![
            ("device", false, texts([Some("phone_1"), Some("other")])),
            ("kind", false, texts([Some("label"), Some("p07 stands")])),
            ("text", true, texts([Some("she stands"), Some("P 07 stands")])),
            ("author", false, texts([Some("Dr. No"), Some("x")])),
            ("unit", true, texts([None, Some("m/s2")])),
            ("stream", false, texts([Some("walk@1"), Some("")])),
            ("description", true, texts([Some("made of Walk.csv"), Some("x")])),
        ]);
        let known =
            "[sessions]\nwalk = \"s-1\"\n[participants]\nP-07 = \"A1\"\n[devices]\nphone_1 = \"dev-a\"\n";
        let said = |toml: &str| {
            let batch = disguise(toml).table("events", &rows).expect("it fits");
            let column = |column: &ArrayRef| {
                let texts = column.as_string::<i32>().iter();
                texts.map(|text| text.map(str::to_owned)).collect::<Vec<_>>()
            };
            batch.columns().iter().map(column).collect::<Vec<_>>()
        };
        let is = |text: &str| Some(text.to_owned());
        let left = said(known);
        assert_eq!(left[0], [is("dev-a"), is("other")]);
        assert_eq!(left[1], [is("label"), is("")]);
        assert_eq!(left[2], [None, None]);
        assert_eq!(left[3], [is(""), is("")]);
        assert_eq!(left[4], [None, is("m/s2")]);
        assert_eq!(left[5], [is("walk@1"), is("")]);
        assert_eq!(left[6], [is(""), is("x")]);
        let kept = said(&format!("{known}[keep]\nevent_texts = true\n"));
        assert_eq!(kept[2], [is("she stands"), None], "none that names somebody");
    }
}
