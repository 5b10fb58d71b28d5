//! Which channels of a stream feel an event that all devices feel, by what they are called and measured in, or by name.
//!
//! Owns: that choice, and the signal's name. Does not own: reading it (`check`).

use arrow::datatypes::{DataType, Field, Schema};
use marey_format::DeviceId;
use std::str::FromStr;

/// A stream as somebody names it: `DEVICE/STREAM[:CHANNEL]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Named {
    pub device: DeviceId,
    /// `NAME` or `NAME@N`.
    pub stream: String,
    pub channel: Option<String>,
}

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (device, stream) = text
            .split_once('/')
            .ok_or("a device and its stream with a slash between, such as phone_1/imu or phone_1/imu:acc")?;
        let device = DeviceId::new(device).map_err(|error| error.to_string())?;
        let (stream, channel) = match stream.split_once(':') {
            Some((stream, channel)) => (stream, Some(channel.to_owned())),
            None => (stream, None),
        };
        if stream.is_empty() || channel.as_ref().is_some_and(String::is_empty) {
            return Err("a name is missing; streams are named as phone_1/imu or phone_1/imu:acc".to_owned());
        }
        Ok(Self {
            device,
            stream: stream.to_owned(),
            channel,
        })
    }
}

impl std::fmt::Display for Named {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "{}/{}", self.device, self.stream)?;
        self.channel
            .iter()
            .try_for_each(|channel| write!(to, ":{channel}"))
    }
}

/// Channels of one stream that are taken as one vector.
#[derive(Debug, Clone, PartialEq)]
pub struct Signal {
    /// One channel's name, what several have in common beside `x`, `y` and `z`, or all names with `+` between.
    pub name: String,
    /// By their names, each with the scale that makes its unit of it.
    pub channels: Vec<(String, f64)>,
    /// The sensor's own latency, where it was declared.
    pub latency_us: Option<f64>,
}

/// What a sensor has to do with an event, the most telling first.
const SENSES: [(&[&str], &[&str]); 4] = [
    (
        &["acc", "accel", "accelerometer", "acceleration", "linacc"],
        &["m/s2", "m/s^2", "m.s-2", "[g]"],
    ),
    (
        &["sound", "audio", "mic", "microphone", "loudness", "spl"],
        &["db", "db[spl]", "b[spl]"],
    ),
    (
        &["light", "lux", "illuminance", "brightness", "photodiode"],
        &["lx"],
    ),
    (&["tap", "knock", "trigger", "button"], &[]),
];

/// The channels of a stream that say that they feel a tap, hear a clap or see a flash; none where none does.
pub fn telling(stream: &str, schema: &Schema) -> Option<Signal> {
    SENSES.iter().find_map(|(words, units)| {
        let says = |name: &str| {
            let mut parts = name
                .split('_')
                .map(|part| part.trim_end_matches(|c: char| c.is_ascii_digit()));
            parts.any(|part| words.contains(&part))
        };
        let of_sense = |field: &Field| {
            let unit = field.metadata().get("unit").map(|unit| unit.to_ascii_lowercase());
            unit.is_some_and(|unit| units.contains(&unit.as_str())) || says(field.name())
        };
        let of_channels = signal(channels(schema).filter(|field| of_sense(field)));
        // A stream `acc` with channels `x`, `y`, `z`.
        let of_stream = || signal(channels(schema).filter(|_| says(stream) && has_one_unit(schema)));
        of_channels.or_else(of_stream)
    })
}

/// The channels that are meant by a name, or without one; else why it is not clear.
pub fn named(named: &Named, schema: &Schema) -> Result<Signal, String> {
    let names: Vec<&str> = channels(schema).map(|field| field.name().as_str()).collect();
    let known = match names.is_empty() {
        true => "none of its channels is a number".to_owned(),
        false => format!("its channels with numbers are {}", names.join(", ")),
    };
    let Some(channel) = &named.channel else {
        let stream = named.stream.split('@').next().unwrap_or_default();
        let all = || signal(channels(schema).filter(|_| has_one_unit(schema)));
        let help = "of several units, name the channel to look at after a colon";
        return telling(stream, schema)
            .or_else(all)
            .ok_or_else(|| format!("{named}: {known}; {help}"));
    };
    let is_axis = |name: &str| name != channel && stem(name) == channel;
    let is_one = |name: &str| channel.split('+').any(|one| one == name);
    let has_all = channel.split('+').all(|one| names.contains(&one));
    signal(channels(schema).filter(|field| has_all && is_one(field.name())))
        .or_else(|| signal(channels(schema).filter(|field| is_axis(field.name()))))
        .ok_or_else(|| format!("{named}: it has no channel {channel} with numbers; {known}"))
}

/// The channels that hold numbers.
fn channels(schema: &Schema) -> impl Iterator<Item = &Field> {
    let is_number = |kind: &DataType| kind.is_numeric() || *kind == DataType::Boolean;
    let holds_numbers = move |field: &&Field| match field.data_type() {
        DataType::FixedSizeList(element, _) => is_number(element.data_type()),
        kind => is_number(kind),
    };
    schema
        .fields()
        .iter()
        .skip(5)
        .map(AsRef::as_ref)
        .filter(holds_numbers)
}

/// `acc` of `acc_x` and of `x_acc`; else the name itself.
fn stem(name: &str) -> &str {
    let axes = [("_x", "x_"), ("_y", "y_"), ("_z", "z_")];
    let mut stems = axes
        .iter()
        .filter_map(|(after, before)| name.strip_suffix(after).or_else(|| name.strip_prefix(before)));
    stems.next().unwrap_or(name)
}

fn has_one_unit(schema: &Schema) -> bool {
    let mut units = channels(schema).map(|field| field.metadata().get("unit"));
    let first = units.next();
    units.all(|unit| Some(unit) == first)
}

fn signal<'a>(fields: impl Iterator<Item = &'a Field>) -> Option<Signal> {
    let fields: Vec<&Field> = fields.collect();
    let first = fields.first()?;
    let number = |key: &str, field: &Field| field.metadata().get(key)?.parse::<f64>().ok();
    let is_of_first = |field: &&Field| stem(field.name()) == stem(first.name());
    let name = match fields.iter().all(is_of_first) && fields.len() > 1 {
        true => stem(first.name()).to_owned(),
        false => fields
            .iter()
            .map(|field| field.name().as_str())
            .collect::<Vec<_>>()
            .join("+"),
    };
    let scale = |field: &Field| number("scale", field).filter(|scale| scale.is_finite());
    Some(Signal {
        name,
        latency_us: number("latency_us", first),
        channels: fields
            .iter()
            .map(|field| (field.name().clone(), scale(field).unwrap_or(1.0)))
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::sync::Arc;

    fn schema(channels: &[(&str, DataType, &str)]) -> Schema {
        let own = ["time", "device_time_ns", "epoch", "time_err_us", "seq"];
        let own = own.map(|name| Field::new(name, DataType::Int64, false));
        let channels = channels.iter().map(|(name, kind, unit)| {
            let unit = (!unit.is_empty()).then(|| ("unit".to_owned(), (*unit).to_owned()));
            Field::new(*name, kind.clone(), false).with_metadata(unit.into_iter().collect::<HashMap<_, _>>())
        });
        Schema::new(own.into_iter().chain(channels).collect::<Vec<_>>())
    }

    fn names(signal: Option<Signal>) -> (String, Vec<String>) {
        let signal = signal.expect("it says so");
        let channels = signal.channels.into_iter().map(|(name, _)| name).collect();
        (signal.name, channels)
    }

    #[test]
    fn channels_say_what_they_feel() {
        let (float, text) = (DataType::Float32, DataType::Utf8);
        let imu = schema(&[
            ("acc_x", float.clone(), "m/s2"),
            ("acc_y", float.clone(), "m/s2"),
            ("acc_z", float.clone(), "m/s2"),
            ("gyr_x", float.clone(), "rad/s"),
            ("note", text.clone(), ""),
        ]);
        assert_eq!(
            names(telling("imu", &imu)),
            (
                "acc".to_owned(),
                ["acc_x", "acc_y", "acc_z"].map(str::to_owned).to_vec()
            )
        );
        let turned = schema(&[
            ("x_acc", float.clone(), ""),
            ("y_acc", float.clone(), ""),
            ("x_gyro", float.clone(), ""),
        ]);
        assert_eq!(
            names(telling("imu", &turned)),
            ("acc".to_owned(), ["x_acc", "y_acc"].map(str::to_owned).to_vec())
        );
        let by_unit = schema(&[
            ("a", DataType::Int16, "[g]"),
            ("temperature", float.clone(), "Cel"),
        ]);
        assert_eq!(names(telling("board", &by_unit)).0, "a");
        let by_stream = schema(&[("x", float.clone(), ""), ("y", float.clone(), "")]);
        assert_eq!(names(telling("accel1", &by_stream)).0, "x+y");
        let both = schema(&[("lux", float.clone(), "lx"), ("mic_level", float.clone(), "dB")]);
        assert_eq!(names(telling("room", &both)).0, "mic_level");
        let list = Arc::new(Field::new("item", DataType::Int16, false));
        let lists = schema(&[("accel", DataType::FixedSizeList(list, 3), "")]);
        assert_eq!(names(telling("board", &lists)).0, "accel");
        // Words are whole: neither an account nor a light-year.
        let nothing = schema(&[
            ("accuracy", float.clone(), "m"),
            ("account", float, "1"),
            ("acc", text, ""),
        ]);
        assert_eq!(telling("gps", &nothing), None);
    }

    #[test]
    fn a_name_means_a_channel_or_its_axes() {
        let float = DataType::Float64;
        let imu = schema(&[
            ("acc_x", float.clone(), "m/s2"),
            ("acc_y", float.clone(), "m/s2"),
            ("gyr_x", float.clone(), "rad/s"),
            ("gyr_total", float.clone(), "rad/s"),
        ]);
        let meant = |text: &str| named(&text.parse().expect("a name"), &imu);
        assert_eq!(names(meant("phone/imu").ok()).0, "acc");
        assert_eq!(names(meant("phone/imu:gyr").ok()).1, ["gyr_x"]);
        assert_eq!(names(meant("phone/imu@2:gyr_total").ok()).1, ["gyr_total"]);
        assert_eq!(
            names(meant("phone/imu:gyr_x+gyr_total").ok()),
            (
                "gyr_x+gyr_total".to_owned(),
                vec!["gyr_x".to_owned(), "gyr_total".to_owned()]
            )
        );
        assert!(meant("phone/imu:gyr_x+mag").is_err());
        let why = meant("phone/imu:mag").expect_err("no such channel");
        assert!(
            why.contains("no channel mag") && why.contains("acc_x, acc_y"),
            "{why}"
        );
        let mixed = schema(&[
            ("heart_rate", float.clone(), "/min"),
            ("conductance", float.clone(), "uS"),
        ]);
        let why = named(&"watch/body".parse().expect("a name"), &mixed).expect_err("which of both?");
        assert!(why.contains("after a colon"), "{why}");
        let one = schema(&[("conductance", float, "uS")]);
        assert!(named(&"watch/gsr".parse().expect("a name"), &one).is_ok());
        for wrong in ["phone", "phone/", "/imu", "phone/imu:", "1phone/imu"] {
            assert!(wrong.parse::<Named>().is_err(), "{wrong}");
        }
    }
}
