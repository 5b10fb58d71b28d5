//! Names that BIDS takes: entities of letters and digits alone, in the order that it wants.

use super::super::recording::Stream;
use marey_format::{Declaration, Field, FieldType};
use std::collections::{BTreeMap, BTreeSet};

/// What a stream becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Motion,
    Physio,
}

impl Kind {
    /// Movement, if a channel measures it and all are numbers.
    pub fn of(declaration: &Declaration) -> Self {
        let is_number = |field: &Field| !matches!(field.kind, FieldType::Utf8 | FieldType::Binary);
        let fields = &declaration.fields;
        let moves = fields.iter().any(|field| motion_type(field) != "MISC");
        match moves && fields.iter().all(is_number) {
            true => Self::Motion,
            false => Self::Physio,
        }
    }

    pub fn folder(self) -> &'static str {
        match self {
            Self::Motion => "motion",
            Self::Physio => "beh",
        }
    }

    pub fn ending(self) -> &'static str {
        match self {
            Self::Motion => "motion.tsv",
            Self::Physio => "physio.tsv.gz",
        }
    }
}

/// The type of a channel of movement, by its name or unit; `MISC` of any other.
pub fn motion_type(field: &Field) -> &'static str {
    let has = |known: &[&str]| field.name.as_str().split('_').any(|word| known.contains(&word));
    let unit = field.unit.as_deref().unwrap_or_default();
    if has(&["acc", "accel", "acceleration", "linacc"]) || ["m/s2", "m/s^2", "[g]"].contains(&unit) {
        "ACCEL"
    } else if has(&["gyr", "gyro"]) || ["rad/s", "deg/s"].contains(&unit) {
        "GYRO"
    } else if has(&["mag", "magn"]) || ["T", "uT", "G"].contains(&unit) {
        "MAGN"
    } else {
        "MISC"
    }
}

/// The axis that a channel's name says.
pub fn component(field: &Field) -> &'static str {
    let name = field.name.as_str();
    ["x", "y", "z"]
        .into_iter()
        .find(|axis| {
            name.ends_with(&format!("_{axis}")) || name.starts_with(&format!("{axis}_")) || name == *axis
        })
        .unwrap_or("n/a")
}

/// The entities of a dataset.
#[derive(Debug)]
pub struct Names {
    subject: String,
    session: String,
    pub task: String,
    taken: BTreeSet<String>,
}

impl Names {
    /// Subject and task as the session's metadata have them, else 01 and `recording`.
    pub fn new(session: &str, metadata: &BTreeMap<String, String>) -> Self {
        let said = |keys: &[&str]| {
            let mut said = keys.iter().filter_map(|key| metadata.get(*key));
            said.find_map(|value| label(value))
        };
        let subject = said(&["participant_id", "participant", "subject_id", "subject"]);
        Self {
            // Whoever wrote the prefix meant it.
            subject: subject
                .map(|subject| subject.strip_prefix("sub").map_or(subject.clone(), str::to_owned))
                .filter(|subject| !subject.is_empty())
                .unwrap_or_else(|| "01".to_owned()),
            session: label(session).unwrap_or_else(|| "01".to_owned()),
            task: said(&["task"]).unwrap_or_else(|| "recording".to_owned()),
            taken: BTreeSet::new(),
        }
    }

    pub fn subject(&self) -> String {
        format!("sub-{}", self.subject)
    }

    /// What all names begin with.
    pub fn base(&self) -> String {
        format!("sub-{}_ses-{}_task-{}", self.subject, self.session, self.task)
    }

    /// What the names of a stream's files begin with.
    pub fn of_stream(&mut self, kind: Kind, stream: &Stream) -> String {
        let wanted = label(&format!("{}{}", stream.device, stream.name)).unwrap_or_default();
        let mut numbered = (1u32..).map(|number| match number {
            1 => wanted.clone(),
            _ => format!("{wanted}n{number}"),
        });
        let free = numbered
            .find(|name| !self.taken.contains(name))
            .unwrap_or_default();
        self.taken.insert(free.clone());
        match kind {
            Kind::Motion => format!("{}_tracksys-{free}", self.base()),
            Kind::Physio => format!("{}_recording-{free}", self.base()),
        }
    }

    /// A file's place within the session's folder.
    pub fn in_session(&self, folder: &str, name: &str) -> String {
        format!("{folder}/{name}")
    }

    pub fn path(&self, folder: &str, name: &str) -> String {
        format!("sub-{}/ses-{}/{folder}/{name}", self.subject, self.session)
    }

    pub fn scans(&self) -> String {
        let (subject, session) = (&self.subject, &self.session);
        format!("sub-{subject}/ses-{session}/sub-{subject}_ses-{session}_scans.tsv")
    }
}

/// The letters and digits of a text.
fn label(text: &str) -> Option<String> {
    let label = text.chars().filter(char::is_ascii_alphanumeric);
    let label: String = label.take(LABEL_BYTES_MAX).collect();
    Some(label).filter(|label| !label.is_empty())
}

/// The longest: names of files have all of a dataset's, and no more than 255 bytes.
const LABEL_BYTES_MAX: usize = 40;

#[cfg(test)]
mod tests {
    use super::*;

    fn named(pairs: &[(&str, &str)]) -> String {
        let pairs = pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Names::new("walk-01", &pairs.collect()).base()
    }

    #[test]
    fn names_are_letters_and_digits() {
        assert_eq!(named(&[]), "sub-01_ses-walk01_task-recording");
        assert_eq!(
            named(&[("participant", "P-07 Ö"), ("task", "two back")]),
            "sub-P07_ses-walk01_task-twoback"
        );
        assert_eq!(
            named(&[("subject", "sub-03"), ("task", "ö")]),
            "sub-03_ses-walk01_task-recording"
        );
    }

    #[test]
    fn movement_is_what_a_channel_says_it_is() {
        let of = |fields: &str| {
            let json = format!(r#"{{"name":"x","fields":[{fields}]}}"#);
            Kind::of(&Declaration::from_json(json.as_bytes()).expect("it is one"))
        };
        assert_eq!(
            of(r#"{"name":"acc_x","type":"f32"},{"name":"t","type":"i8"}"#),
            Kind::Motion
        );
        assert_eq!(of(r#"{"name":"w","type":"f32","unit":"rad/s"}"#), Kind::Motion);
        assert_eq!(
            of(r#"{"name":"acc_x","type":"f32"},{"name":"t","type":"utf8"}"#),
            Kind::Physio
        );
        assert_eq!(
            of(r#"{"name":"conductance","type":"f32","unit":"uS"}"#),
            Kind::Physio
        );
    }
}
