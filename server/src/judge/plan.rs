//! A protocol file: what a recording is held against. TOML, version 1; a key that nobody knows is an error with its line.
//!
//! Pure. The text itself is kept in `session.json`; this is what it says.

use std::collections::BTreeSet;

use marey_format::types::{Label, plain_lines};
use marey_format::{DeviceId, StreamName};
use serde::Deserialize;

/// What a protocol file says.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The version of this form: 1.
    pub v: u32,
    /// For people.
    #[serde(default)]
    pub title: Option<Label>,
    /// Over how long rates are measured and lost samples counted.
    #[serde(default = "window_s")]
    pub window_s: f64,
    /// The hub itself.
    #[serde(default)]
    pub hub: HubRules,
    /// Every device.
    #[serde(default)]
    pub devices: DeviceRules,
    /// Streams.
    #[serde(default)]
    pub stream: Vec<StreamRules>,
}

/// `[hub]`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HubRules {
    /// Room that must be free on the hub's disk.
    pub disk_free_mib_min: Option<u64>,
}

/// `[devices]`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeviceRules {
    /// Devices that must be there; where none is named, those of the session's roster.
    pub required: Vec<DeviceId>,
    /// Charge that each battery must have.
    pub battery_percent_min: Option<f64>,
    /// For how long each device must have room.
    pub storage_minutes_min: Option<f64>,
    /// What a minute of recording takes on a device.
    pub storage_mb_per_minute: Option<f64>,
    /// The widest bound of each device's time.
    pub time_error_ms_max: Option<f64>,
}

/// One `[[stream]]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamRules {
    /// Its name, of any version.
    pub stream: StreamName,
    /// Whose; none for that of every required device.
    #[serde(default)]
    pub device: Option<DeviceId>,
    /// Least rate, samples a second.
    #[serde(default)]
    pub rate_hz_min: Option<f64>,
    /// Highest rate.
    #[serde(default)]
    pub rate_hz_max: Option<f64>,
    /// Longest time without samples, and most time's worth of samples that the device lost within the window.
    #[serde(default)]
    pub gap_s_max: Option<f64>,
}

/// What is wrong with a protocol file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// It is not understood.
    #[error("the protocol, line {line}: {why}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// A value out of its range.
    #[error("the protocol: {key} = {value}: it must be {must}")]
    Range {
        /// As `stream[2].rate_hz_min`, counted from 1.
        key: String,
        /// What stands there.
        value: String,
        /// What must stand there.
        must: &'static str,
    },
    /// It is too long.
    #[error("the protocol has {bytes} bytes, over the limit of {TEXT_BYTES_MAX}")]
    TooLong {
        /// So long it is.
        bytes: usize,
    },
}

impl Plan {
    /// Reads a protocol file.
    ///
    /// # Errors
    /// [`PlanError`], with the line or the key.
    pub fn parse(text: &str) -> Result<Self, PlanError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(PlanError::TooLong { bytes: text.len() });
        }
        let plan: Self = toml::from_str(text).map_err(|error| PlanError::Line {
            line: error.span().map_or(1, |span| line_of(text, span.start)),
            why: plain_lines(error.message()),
        })?;
        plan.check()?;
        Ok(plan)
    }

    /// What a session without a protocol file is held against: that everybody is there.
    pub fn of_nothing(time_error_us_max: Option<f64>) -> Self {
        Self {
            v: VERSION,
            title: None,
            window_s: window_s(),
            hub: HubRules::default(),
            devices: DeviceRules {
                time_error_ms_max: time_error_us_max.map(|us| us / 1e3),
                ..DeviceRules::default()
            },
            stream: Vec::new(),
        }
    }

    fn check(&self) -> Result<(), PlanError> {
        if self.v != VERSION {
            return Err(range("v".into(), self.v, "1: this program knows no later one"));
        }
        let window = (WINDOW_S_MIN..=WINDOW_S_MAX).contains(&self.window_s);
        if !window {
            return Err(range("window_s".into(), self.window_s, "from 2 to 120"));
        }
        let devices = &self.devices;
        let names: BTreeSet<_> = devices.required.iter().collect();
        if names.len() != devices.required.len() || names.len() > DEVICES_MAX {
            let must = "a list of at most 10000 names, each once";
            return Err(range("devices.required".into(), names.len(), must));
        }
        let percent = devices.battery_percent_min;
        if let Some(percent) = percent.filter(|percent| !(0.0..=100.0).contains(percent)) {
            let key = "devices.battery_percent_min".into();
            return Err(range(key, percent, "from 0 to 100"));
        }
        positive("devices.storage_minutes_min", devices.storage_minutes_min)?;
        positive("devices.storage_mb_per_minute", devices.storage_mb_per_minute)?;
        positive("devices.time_error_ms_max", devices.time_error_ms_max)?;
        if devices.storage_minutes_min.is_some() != devices.storage_mb_per_minute.is_some() {
            let must = "given together with the other of storage_minutes_min and storage_mb_per_minute";
            return Err(range("devices.storage_minutes_min".into(), "alone", must));
        }
        if self.stream.len() > STREAM_RULES_MAX {
            return Err(range("stream".into(), self.stream.len(), "at most 1000 entries"));
        }
        for (at, rules) in self.stream.iter().enumerate() {
            rules.check(&format!("stream[{}]", at + 1))?;
        }
        Ok(())
    }
}

impl StreamRules {
    fn check(&self, key: &str) -> Result<(), PlanError> {
        positive(&format!("{key}.rate_hz_min"), self.rate_hz_min)?;
        positive(&format!("{key}.rate_hz_max"), self.rate_hz_max)?;
        if let (Some(least), Some(most)) = (self.rate_hz_min, self.rate_hz_max)
            && least > most
        {
            return Err(range(format!("{key}.rate_hz_max"), most, "at least rate_hz_min"));
        }
        match self.gap_s_max {
            Some(gap_s) if !(gap_s.is_finite() && gap_s >= GAP_S_MIN) => {
                let must = "at least 1: what comes is looked at once a second";
                Err(range(format!("{key}.gap_s_max"), gap_s, must))
            }
            _ => Ok(()),
        }
    }
}

fn positive(key: &str, value: Option<f64>) -> Result<(), PlanError> {
    match value {
        Some(value) if !(value.is_finite() && value > 0.0) => {
            Err(range(key.to_owned(), value, "a number above 0"))
        }
        _ => Ok(()),
    }
}

fn range(key: String, value: impl ToString, must: &'static str) -> PlanError {
    PlanError::Range {
        key,
        value: value.to_string(),
        must,
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|b| *b == b'\n').count() + 1
}

fn window_s() -> f64 {
    10.0
}

/// The version of the form.
const VERSION: u32 = 1;
/// Longest protocol file.
pub(crate) const TEXT_BYTES_MAX: usize = 64 << 10;
const WINDOW_S_MIN: f64 = 2.0;
const WINDOW_S_MAX: f64 = 120.0;
const GAP_S_MIN: f64 = 1.0;
const DEVICES_MAX: usize = 10_000;
const STREAM_RULES_MAX: usize = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_can_be_asked_for_is_read() {
        let text = r#"
            v = 1
            title = "Walk, ten minutes"
            window_s = 5
            [hub]
            disk_free_mib_min = 2048
            [devices]
            required = ["phone", "watch"]
            battery_percent_min = 30
            storage_minutes_min = 60
            storage_mb_per_minute = 2.5
            time_error_ms_max = 5
            [[stream]]
            stream = "acc"
            device = "phone"
            rate_hz_min = 95
            rate_hz_max = 105
            gap_s_max = 2
            [[stream]]
            stream = "gsr"
        "#;
        let plan = Plan::parse(text).expect("it is whole");
        assert_eq!((plan.window_s, plan.hub.disk_free_mib_min), (5.0, Some(2048)));
        assert_eq!(plan.devices.required.len(), 2);
        assert_eq!(plan.stream[0].rate_hz_max, Some(105.0));
        assert_eq!(
            (plan.stream[1].device.as_ref(), plan.stream[1].gap_s_max),
            (None, None)
        );
        let least = Plan::parse("v = 1").expect("nothing else is needed");
        assert_eq!(least, Plan::of_nothing(None));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line_or_key() {
        let cases = [
            ("", "line 1: missing field `v`"),
            (
                "v = 1\n[devices]\nbatery_min = 3\n",
                "line 3: unknown field `batery_min`",
            ),
            ("v = 1\n\n[[stream]]\nstream = \"../acc\"\n", "line 4: "),
            ("v = 1\n[devices]\nrequired = [\"a\\n\"]\n", "line 3: "),
            (
                "v = 1\ntitle = \"\\u001b[2J\"\n",
                "line 2: a label with the control character",
            ),
            ("v = 2", "v = 2: it must be 1"),
            (
                "v = 1\nwindow_s = nan",
                "window_s = NaN: it must be from 2 to 120",
            ),
            ("v = 1\n[devices]\nrequired = [\"a\", \"a\"]", "each once"),
            (
                "v = 1\n[devices]\nbattery_percent_min = 101",
                "devices.battery_percent_min = 101",
            ),
            ("v = 1\n[devices]\nstorage_minutes_min = 1", "given together"),
            (
                "v = 1\n[[stream]]\nstream = \"a\"\nrate_hz_min = 0",
                "stream[1].rate_hz_min = 0",
            ),
            (
                "v = 1\n[[stream]]\nstream = \"a\"\nrate_hz_min = 9\nrate_hz_max = 8",
                "stream[1].rate_hz_max = 8: it must be at least rate_hz_min",
            ),
            (
                "v = 1\n[[stream]]\nstream = \"a\"\ngap_s_max = 0.5",
                "stream[1].gap_s_max = 0.5",
            ),
        ];
        for (text, expected) in cases {
            let error = Plan::parse(text).expect_err(text).to_string();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
        let long = format!("v = 1\n# {}", "x".repeat(TEXT_BYTES_MAX));
        assert!(matches!(Plan::parse(&long), Err(PlanError::TooLong { .. })));
    }
}
