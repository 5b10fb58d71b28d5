//! What the columns of a recording are called and measured in.
//!
//! Owns: which column holds the stamps, names made fit for Marey, units made UCUM. Does not own: values.
//!
//! Invariants: a name matches `^[a-z][a-z0-9_]{0,31}$`, is not reserved, and is unique in its recording. A unit
//! is only given where the header, a convention or the caller says it: nobody guesses a gram for a g.

use marey_format::{DeviceId, StreamName, limits};

use super::stamp::TimeUnit;

/// A heading, taken apart: `Gyroscope X (deg/s)` is a name and a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heading<'a> {
    pub name: &'a str,
    pub unit: Option<&'a str>,
}

impl<'a> Heading<'a> {
    pub fn parse(text: &'a str) -> Self {
        let text = text.trim();
        for (open, close) in [('(', ')'), ('[', ']')] {
            if let Some((name, unit)) = text.strip_suffix(close).and_then(|text| text.rsplit_once(open)) {
                return Self {
                    name: name.trim(),
                    unit: Some(unit.trim()),
                };
            }
        }
        Self {
            name: text,
            unit: None,
        }
    }
}

/// The column of the stamps and, where the heading says it, their unit.
pub fn find_time_column<'a>(headings: impl Iterator<Item = &'a str>) -> Option<(usize, Option<TimeUnit>)> {
    headings
        .enumerate()
        .filter_map(|(at, text)| {
            let heading = Heading::parse(text);
            let name = heading.name.to_lowercase().replace([' ', '-', '.'], "_");
            let unit = heading.unit.and_then(TimeUnit::from_name);
            let (stem, suffix) = match name.rsplit_once('_') {
                Some((stem, suffix)) if TimeUnit::from_name(suffix).is_some() => {
                    (stem, TimeUnit::from_name(suffix))
                }
                _ => (name.as_str(), None),
            };
            let (rank, implied) = rank(&name).or_else(|| rank(stem))?;
            Some((rank, at, unit.or(suffix).or(implied)))
        })
        .min_by_key(|(rank, at, _)| (*rank, *at))
        .map(|(_, at, unit)| (at, unit))
}

/// The better known as a time column, the lower.
fn rank(name: &str) -> Option<(usize, Option<TimeUnit>)> {
    let rank = TIME_NAMES.iter().position(|known| *known == name)?;
    let implied = name.starts_with("seconds").then_some(TimeUnit::Seconds);
    Some((rank, implied))
}

/// A field or stream name made of any text, unlike those in `taken`.
pub fn fit_name(text: &str, taken: &[String]) -> String {
    let mut name = String::new();
    for letter in text.trim().chars() {
        match letter {
            'a'..='z' | '0'..='9' => name.push(letter),
            'A'..='Z' => name.push(letter.to_ascii_lowercase()),
            'µ' | 'μ' => name.push('u'),
            _ if name.ends_with('_') => {}
            _ => name.push('_'),
        }
    }
    let name = name.trim_matches('_');
    let name = match name.as_bytes().first() {
        None => "column".to_owned(),
        Some(_) => match StreamName::new(&name[..name.len().min(NAME_BYTES_MAX)]) {
            Ok(name) => name.to_string(),
            Err(_) => format!("c_{name}"),
        },
    };
    let name = &name[..name.len().min(NAME_BYTES_MAX)];
    let is_free = |name: &str| !taken.iter().any(|taken| taken == name);
    if is_free(name) {
        return name.to_owned();
    }
    (2u32..)
        .map(|number| {
            let ending = format!("_{number}");
            format!(
                "{}{ending}",
                &name[..name.len().min(NAME_BYTES_MAX - ending.len())]
            )
        })
        .find(|name| is_free(name))
        .expect("there are more numbers than columns")
}

/// A device name made of a file's name without its ending: `s01_01_sp.csv` is the device `s01_01_sp`.
pub fn fit_device_name(stem: &str) -> String {
    let mut name: String = stem
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '_' || c == '-' {
                c
            } else {
                '_'
            }
        })
        .collect();
    name.truncate(limits::DEVICE_NAME_BYTES_MAX);
    if DeviceId::new(name.as_str()).is_err() {
        name.insert_str(0, "d-");
        name.truncate(limits::DEVICE_NAME_BYTES_MAX);
    }
    name
}

/// The UCUM code of a channel: from its heading's unit, else from the convention that it follows.
pub fn unit_code(heading: &Heading<'_>) -> Option<String> {
    let name = heading.name.to_lowercase();
    let Some(unit) = heading.unit else {
        // Android's SensorEvent, as the phone and watch recorders of activity datasets write it.
        return match name.as_str() {
            "x_acc" | "y_acc" | "z_acc" => Some("m/s2".to_owned()),
            "x_gyro" | "y_gyro" | "z_gyro" => Some("rad/s".to_owned()),
            _ => None,
        };
    };
    let unit = unit
        .replace(['µ', 'μ'], "u")
        .replace(['²'], "2")
        .replace('°', "deg")
        .replace('^', "");
    let code = match unit.as_str() {
        "" => return None,
        // In UCUM a bare g is a gram.
        "g" | "G" if name.contains("acc") => "[g]",
        "dps" => "deg/s",
        "m/s/s" => "m/s2",
        "C" | "degC" => "Cel",
        "bpm" => "/min",
        "Ohm" | "ohm" | "ohms" => "Ohm",
        other => other,
    };
    let is_code = code.len() <= NAME_BYTES_MAX && code.bytes().all(|byte| byte.is_ascii_graphic());
    is_code.then(|| code.to_owned())
}

/// What a stream is called whose recording does not say it.
pub fn stream_name(fields: &[String]) -> &'static str {
    let has = |part: &str| fields.iter().any(|field| field.contains(part));
    if has("acc") && has("gyro") {
        "imu"
    } else {
        "recording"
    }
}

const TIME_NAMES: [&str; 14] = [
    "timestamp",
    "time_stamp",
    "unix_timestamp",
    "unix_time",
    "unixtime",
    "time",
    "device_time",
    "datetime",
    "ts",
    "t",
    "seconds_elapsed",
    "elapsed_time",
    "elapsed",
    "seconds",
];
const NAME_BYTES_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headings_come_apart() {
        assert_eq!(
            Heading::parse("Time (s)"),
            Heading {
                name: "Time",
                unit: Some("s")
            }
        );
        assert_eq!(
            Heading::parse(" a [uT] "),
            Heading {
                name: "a",
                unit: Some("uT")
            }
        );
        assert_eq!(
            Heading::parse("x_acc"),
            Heading {
                name: "x_acc",
                unit: None
            }
        );
    }

    #[test]
    fn the_time_column_is_found() {
        let find = |headings: &[&str]| find_time_column(headings.iter().copied());
        assert_eq!(find(&["x", "timestamp", "label"]), Some((1, None)));
        assert_eq!(
            find(&["Time (s)", "Gyroscope X (deg/s)"]),
            Some((0, Some(TimeUnit::Seconds)))
        );
        assert_eq!(
            find(&["t", "Timestamp_ms"]),
            Some((1, Some(TimeUnit::Milliseconds)))
        );
        assert_eq!(
            find(&["time_ns", "seconds_elapsed"]),
            Some((0, Some(TimeUnit::Nanoseconds)))
        );
        assert_eq!(find(&["seconds_elapsed"]), Some((0, Some(TimeUnit::Seconds))));
        assert_eq!(find(&["times", "sample"]), None);
    }

    #[test]
    fn names_are_made_fit() {
        let mut names = Vec::new();
        for text in [
            "Gyroscope X",
            "2nd",
            "time",
            "",
            "µT",
            "Gyroscope-X",
            "é",
            &"long".repeat(20),
            &"long".repeat(20),
        ] {
            let name = fit_name(text, &names);
            assert!(
                name.len() <= 32 && name.as_bytes()[0].is_ascii_lowercase(),
                "{name}"
            );
            names.push(name);
        }
        let long = "long".repeat(8);
        let longer = format!("{}_2", &long[..30]);
        assert_eq!(
            names,
            [
                "gyroscope_x",
                "c_2nd",
                "c_time",
                "column",
                "ut",
                "gyroscope_x_2",
                "column_2",
                &long,
                &longer
            ]
        );
        assert_eq!(fit_device_name("s01_01_sp"), "s01_01_sp");
        assert_eq!(fit_device_name("2022 walk.v1"), "d-2022_walk_v1");
        assert_eq!(fit_device_name("NaN"), "d-NaN");
        assert_eq!(fit_device_name(""), "d-");
        assert_eq!(fit_device_name(&"x".repeat(40)).len(), 32);
    }

    #[test]
    fn units_become_ucum() {
        let code = |text: &str| unit_code(&Heading::parse(text));
        assert_eq!(code("Gyroscope X (deg/s)").as_deref(), Some("deg/s"));
        assert_eq!(code("Gyroscope X (°/s)").as_deref(), Some("deg/s"));
        assert_eq!(code("Accelerometer X (g)").as_deref(), Some("[g]"));
        assert_eq!(code("Weight (g)").as_deref(), Some("g"));
        assert_eq!(code("a (m/s^2)").as_deref(), Some("m/s2"));
        assert_eq!(code("EDA (µS)").as_deref(), Some("uS"));
        assert_eq!(code("z_gyro").as_deref(), Some("rad/s"));
        assert_eq!(code("y_acc").as_deref(), Some("m/s2"));
        assert_eq!(code("note (two words)"), None);
        assert_eq!(code("plain"), None);
    }
}
