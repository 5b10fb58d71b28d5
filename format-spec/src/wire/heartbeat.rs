//! A sign of life, in its two forms: version 1, whose schema is exact, and the short one of a device that has nothing to
//! say of itself.
//!
//! Invariant: a [`Heartbeat`] of version 1 keeps to its schema, however it was made.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use serde_json::{Map, Value, json};

use super::{MessageType, parse_json};
use crate::registry::{Refusal, RefusalCode};
use crate::types::DeviceId;

/// What a device says of itself every few seconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Heartbeat {
    form: Form,
    device_info: Map<String, Value>,
}

#[derive(Clone, Debug, PartialEq)]
enum Form {
    /// Whatever it says of itself is kept, and not judged.
    Short {
        timestamp_ms: u64,
    },
    V1 {
        timestamp_ns: u64,
        device: DeviceId,
    },
}

/// Where a heartbeat of version 1 leaves its schema.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a heartbeat of version 1: {key} {must}, found {found}")]
pub struct HeartbeatError {
    /// The key, as `device_info.battery`.
    pub key: String,
    /// What it must be.
    pub must: &'static str,
    /// What stands there.
    pub found: String,
}

impl Heartbeat {
    /// The short form.
    pub fn short(timestamp_ms: u64, device_info: Map<String, Value>) -> Self {
        Self {
            form: Form::Short { timestamp_ms },
            device_info,
        }
    }

    /// Version 1.
    ///
    /// # Errors
    /// Where `battery`, `available_storage_mb` or `is_recording` is missing or out of its range.
    pub fn v1(
        device: DeviceId,
        timestamp_ns: u64,
        device_info: Map<String, Value>,
    ) -> Result<Self, HeartbeatError> {
        check_info(&device_info)?;
        let form = Form::V1 { timestamp_ns, device };
        Ok(Self { form, device_info })
    }

    /// The body of a heartbeat message.
    ///
    /// # Errors
    /// `malformed` for what is neither form; `bad_heartbeat` for a version 1 that leaves its schema.
    pub fn parse(body: &[u8]) -> Result<Self, Refusal> {
        let map: Map<String, Value> = parse_json(MessageType::Heartbeat, body)?;
        let is_v1 = map.contains_key("v");
        Self::from_map(map).map_err(|why| match is_v1 {
            true => Refusal::new(RefusalCode::BadHeartbeat, why),
            false => Refusal::new(
                RefusalCode::Malformed,
                format!("the Heartbeat message is not of its form: {why}"),
            ),
        })
    }

    /// The device that it names; none in the short form.
    pub fn device(&self) -> Option<&DeviceId> {
        match &self.form {
            Form::V1 { device, .. } => Some(device),
            Form::Short { .. } => None,
        }
    }

    /// What the device says of itself, keys that nobody knows included.
    pub fn device_info(&self) -> &Map<String, Value> {
        &self.device_info
    }

    /// Charge of the battery in percent; none in the short form, whose words are nobody's schema.
    pub fn battery_percent(&self) -> Option<f64> {
        self.of_v1("battery").and_then(Value::as_f64)
    }

    /// Room for recordings in megabytes; none in the short form.
    pub fn available_storage_mb(&self) -> Option<f64> {
        self.of_v1("available_storage_mb").and_then(Value::as_f64)
    }

    /// Whether the device says that it records; none in the short form.
    pub fn is_recording(&self) -> Option<bool> {
        self.of_v1("is_recording").and_then(Value::as_bool)
    }

    fn of_v1(&self, key: &str) -> Option<&Value> {
        self.device().and_then(|_| self.device_info.get(key))
    }

    fn from_map(mut map: Map<String, Value>) -> Result<Self, String> {
        if !map.contains_key("v") {
            let timestamp_ms = map.get("timestamp_ms").and_then(Value::as_u64);
            let timestamp_ms = timestamp_ms.ok_or("timestamp_ms must be a whole number of at least 0")?;
            let device_info = match map.remove("device_info") {
                None => Map::new(),
                Some(Value::Object(info)) => info,
                Some(_) => return Err("device_info must be an object".to_owned()),
            };
            return Ok(Self::short(timestamp_ms, device_info));
        }
        Self::v1_from_map(map).map_err(|error| error.to_string())
    }

    fn v1_from_map(mut map: Map<String, Value>) -> Result<Self, HeartbeatError> {
        let version = map.remove("v").unwrap_or_default();
        if version.as_u64() != Some(1) {
            return Err(wrong("v", "must be 1", Some(&version)));
        }
        let kind = map.remove("type");
        if kind.as_ref().and_then(Value::as_str) != Some(TYPE) {
            return Err(wrong("type", "must be \"heartbeat\"", kind.as_ref()));
        }
        let timestamp = map.remove("timestamp_ns");
        let Some(timestamp_ns) = timestamp.as_ref().and_then(Value::as_u64) else {
            let must = "must be a whole number of at least 0";
            return Err(wrong("timestamp_ns", must, timestamp.as_ref()));
        };
        let device = map.remove("device_id");
        let name = device.as_ref().and_then(Value::as_str);
        let Some(name) = name.and_then(|name| DeviceId::new(name).ok()) else {
            return Err(wrong("device_id", "must be a device's name", device.as_ref()));
        };
        let info = match map.remove("device_info") {
            Some(Value::Object(info)) => info,
            other => return Err(wrong("device_info", "must be an object", other.as_ref())),
        };
        if let Some((key, value)) = map.iter().next() {
            let key: String = key.chars().take(FOUND_CHARS_MAX).collect();
            return Err(wrong(
                &format!("{key:?}"),
                "is no key of it; what is the device's own goes into device_info",
                Some(value),
            ));
        }
        Self::v1(name, timestamp_ns, info)
    }
}

impl Serialize for Heartbeat {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let info = &self.device_info;
        match &self.form {
            Form::Short { timestamp_ms } => json!({"timestamp_ms": timestamp_ms, "device_info": info}),
            Form::V1 { timestamp_ns, device } => json!({
                "v": 1, "type": TYPE, "timestamp_ns": timestamp_ns, "device_id": device, "device_info": info
            }),
        }
        .serialize(to)
    }
}

impl<'de> Deserialize<'de> for Heartbeat {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::from_map(Map::deserialize(from)?).map_err(D::Error::custom)
    }
}

fn check_info(info: &Map<String, Value>) -> Result<(), HeartbeatError> {
    let battery = info.get("battery");
    if !battery
        .and_then(Value::as_f64)
        .is_some_and(|percent| (0.0..=100.0).contains(&percent))
    {
        return Err(wrong(
            "device_info.battery",
            "must be a number from 0 to 100",
            battery,
        ));
    }
    let storage = info.get("available_storage_mb");
    if !storage.and_then(Value::as_f64).is_some_and(|mb| mb >= 0.0) {
        let key = "device_info.available_storage_mb";
        return Err(wrong(key, "must be a number of at least 0", storage));
    }
    let recording = info.get("is_recording");
    if !recording.is_some_and(Value::is_boolean) {
        return Err(wrong(
            "device_info.is_recording",
            "must be true or false",
            recording,
        ));
    }
    Ok(())
}

fn wrong(key: &str, must: &'static str, found: Option<&Value>) -> HeartbeatError {
    let found = match found {
        Some(value) => value.to_string().chars().take(FOUND_CHARS_MAX).collect(),
        None => "nothing".to_owned(),
    };
    HeartbeatError {
        key: key.to_owned(),
        must,
        found,
    }
}

/// `type` of version 1.
const TYPE: &str = "heartbeat";
/// So much of what was found is shown.
const FOUND_CHARS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn whole() -> Value {
        json!({"v": 1, "type": "heartbeat", "timestamp_ns": 5, "device_id": "phone",
            "device_info": {"battery": 80, "available_storage_mb": 1024.5, "is_recording": true, "more": [1]}})
    }

    fn parse(value: &Value) -> Result<Heartbeat, Refusal> {
        Heartbeat::parse(value.to_string().as_bytes())
    }

    #[test]
    fn version_1_is_read_and_written_as_it_is() {
        let beat = parse(&whole()).expect("its schema is kept");
        assert_eq!(serde_json::to_value(&beat).unwrap(), whole());
        assert_eq!(beat.device().map(DeviceId::as_str), Some("phone"));
        assert_eq!(beat.battery_percent(), Some(80.0));
        assert_eq!(beat.available_storage_mb(), Some(1024.5));
        assert_eq!(beat.is_recording(), Some(true));
    }

    #[test]
    fn each_departure_from_the_schema_is_named_and_does_not_end_the_connection() {
        let change = |pointer: &str, value: Option<Value>| {
            let mut beat = whole();
            let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
            let parent = beat.pointer_mut(parent).and_then(Value::as_object_mut).unwrap();
            match value {
                Some(value) => parent.insert(key.to_owned(), value),
                None => parent.remove(key),
            };
            beat
        };
        let cases = [
            ("/v", Some(json!(2)), "v must be 1"),
            ("/v", Some(json!(1.0)), "v must be 1"),
            ("/type", None, "type must be \"heartbeat\", found nothing"),
            ("/type", Some(json!("ack")), "type must"),
            ("/timestamp_ns", None, "timestamp_ns must"),
            ("/timestamp_ns", Some(json!(-1)), "timestamp_ns must"),
            ("/timestamp_ns", Some(json!("5")), "timestamp_ns must"),
            ("/device_id", Some(json!("phone\n")), "device_id must"),
            ("/device_id", Some(json!("d".repeat(33))), "device_id must"),
            ("/device_info", Some(json!([])), "device_info must"),
            ("/device_info/battery", None, "device_info.battery must"),
            (
                "/device_info/battery",
                Some(json!(100.5)),
                "device_info.battery must",
            ),
            (
                "/device_info/battery",
                Some(json!(-1)),
                "device_info.battery must",
            ),
            (
                "/device_info/available_storage_mb",
                Some(json!(-0.5)),
                "device_info.available_storage_mb",
            ),
            (
                "/device_info/is_recording",
                Some(json!(1)),
                "device_info.is_recording must",
            ),
            ("/more", Some(json!(1)), "\"more\" is no key of it"),
        ];
        for (pointer, value, why) in cases {
            let refusal = parse(&change(pointer, value.clone())).expect_err(pointer);
            assert_eq!(refusal.code, RefusalCode::BadHeartbeat, "{pointer} {value:?}");
            assert!(
                refusal.message.contains(why),
                "{pointer} {value:?}: {}",
                refusal.message
            );
        }
    }

    #[test]
    fn the_short_form_is_judged_by_nobody() {
        let beat =
            Heartbeat::parse(br#"{"timestamp_ms":7,"device_info":{"battery":300},"later":1}"#).unwrap();
        assert_eq!((beat.device(), beat.battery_percent()), (None, None));
        assert_eq!(beat.device_info()["battery"], 300);
        for bad in ["{}", "[]", "{beat", r#"{"timestamp_ms":-1}"#] {
            let refusal = Heartbeat::parse(bad.as_bytes()).expect_err(bad);
            assert_eq!(refusal.code, RefusalCode::Malformed, "{bad}");
        }
    }
}
