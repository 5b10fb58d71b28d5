//! Versions of stream names within a session: a declaration that differs from the earlier ones gets the next number.

use super::LogState;
use marey_format::payload::Assign;
use marey_format::{Declaration, StreamName, limits};
use std::collections::BTreeMap;

/// The versions that a session has seen. Rebuilt from the assign frames of its logs.
#[derive(Clone, Debug, Default)]
pub struct StreamVersions {
    by_name: BTreeMap<StreamName, BTreeMap<u32, Declaration>>,
}

impl StreamVersions {
    /// The version of a declaration: that of an equal one, else the next. None beyond the limit.
    pub fn assign(&mut self, declaration: &Declaration) -> Option<u32> {
        let versions = self.by_name.entry(declaration.name.clone()).or_default();
        let schema = schema_of(declaration);
        if let Some((&version, _)) = versions.iter().find(|(_, known)| **known == schema) {
            return Some(version);
        }
        let version = versions.last_key_value().map_or(1, |(&last, _)| last + 1);
        if version > limits::STREAM_VERSIONS_MAX {
            return None;
        }
        versions.insert(version, schema);
        Some(version)
    }

    /// Takes in all that a log says was assigned.
    pub fn learn_all(&mut self, state: &LogState) {
        for epoch in state.epochs() {
            for (&stream, known) in &epoch.streams {
                if let Some(key) = &known.key {
                    self.learn(&Assign {
                        epoch: epoch.ordinal,
                        stream,
                        version: key.version,
                        declaration: (*known.declaration).clone(),
                    });
                }
            }
        }
    }

    /// Takes in what a log says was assigned.
    pub fn learn(&mut self, assign: &Assign) {
        let versions = self.by_name.entry(assign.declaration.name.clone()).or_default();
        versions
            .entry(assign.version)
            .or_insert_with(|| schema_of(&assign.declaration));
    }
}

/// What must be alike for two devices to share a dataset: all but what describes the one sensor.
fn schema_of(declaration: &Declaration) -> Declaration {
    Declaration {
        sensor: None,
        description: None,
        latency_us: None,
        latency_tolerance_us: None,
        ..declaration.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declaration(unit: &str, sensor: &str) -> Declaration {
        let json = format!(
            r#"{{"name":"imu","sensor":"{sensor}","fields":[{{"name":"ax","type":"f32","unit":"{unit}"}}]}}"#
        );
        Declaration::from_json(json.as_bytes()).unwrap()
    }

    #[test]
    fn equal_schemas_share_a_version_and_others_get_the_next() {
        let mut versions = StreamVersions::default();
        assert_eq!(versions.assign(&declaration("m/s2", "a")), Some(1));
        assert_eq!(versions.assign(&declaration("m/s2", "b")), Some(1));
        assert_eq!(versions.assign(&declaration("g", "a")), Some(2));
        assert_eq!(versions.assign(&declaration("m/s2", "c")), Some(1));
    }

    #[test]
    fn a_rebuild_learns_the_same_numbers() {
        let mut versions = StreamVersions::default();
        versions.learn(&Assign {
            epoch: 0,
            stream: 1,
            version: 2,
            declaration: declaration("g", "a"),
        });
        assert_eq!(versions.assign(&declaration("g", "b")), Some(2));
        assert_eq!(versions.assign(&declaration("m/s2", "a")), Some(3));
    }
}
